//! A backend that talks: it agrees to every WebSocket and answers as the Realtime API does.

use std::net::{TcpListener, TcpStream};
use std::thread;

use serde_json::json;
use tungstenite::Message;

/// Listens on a port of its own as long as the test runs.
pub(crate) fn listen() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || talk(stream));
        }
    });
    port
}

/// One session: created, then a `response.done` for each `response.create`.
fn talk(stream: TcpStream) {
    let Ok(mut socket) = tungstenite::accept(stream) else { return };
    let session = json!({ "type": "session.created", "event_id": "event_1",
        "session": { "id": "sess_1", "object": "realtime.session", "type": "realtime", "model": "gpt-realtime" } });
    let done = json!({ "type": "response.done", "event_id": "event_2", "response": { "id": "resp_1",
        "object": "realtime.response", "status": "completed", "output": [],
        "usage": { "input_tokens": 3, "output_tokens": 5, "total_tokens": 8 } } });
    let mut answer = Some(session);
    loop {
        if let Some(event) = answer.take()
            && socket.send(Message::text(event.to_string())).is_err()
        {
            return;
        }
        match socket.read() {
            Ok(Message::Text(text)) if text.contains("response.create") => answer = Some(done.clone()),
            Ok(_) => {}
            Err(_) => return,
        }
    }
}
