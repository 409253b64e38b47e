//! A backend that talks: it agrees to every WebSocket and answers as the Realtime API does, or Responses over one.

use std::net::{TcpListener, TcpStream};
use std::thread;

use serde_json::{Value, json};
use tungstenite::Message;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};

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

/// One session: created, then a `response.done` for each `response.create`; where that names a model, a response by it.
fn talk(stream: TcpStream) {
    let mut realtime = true;
    #[expect(clippy::result_large_err, reason = "the form that tungstenite asks for")]
    let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        realtime = request.uri().path().ends_with("/realtime");
        Ok(response)
    };
    let Ok(mut socket) = tungstenite::accept_hdr(stream, look) else { return };
    let session = json!({ "type": "session.created", "event_id": "event_1",
        "session": { "id": "sess_1", "object": "realtime.session", "type": "realtime", "model": "gpt-realtime" } });
    let done = json!({ "type": "response.done", "event_id": "event_2", "response": { "id": "resp_1",
        "object": "realtime.response", "status": "completed", "output": [],
        "usage": { "input_tokens": 3, "output_tokens": 5, "total_tokens": 8 } } });
    let mut answer = realtime.then_some(session);
    loop {
        if let Some(event) = answer.take()
            && socket.send(Message::text(event.to_string())).is_err()
        {
            return;
        }
        match socket.read() {
            Ok(Message::Text(text)) => answer = reply(&text, &done),
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

fn reply(text: &str, done: &Value) -> Option<Value> {
    let event: Value = serde_json::from_str(text).ok()?;
    match &event["model"] {
        _ if event["type"] != "response.create" => None,
        Value::String(model) => Some(json!({ "type": "response.completed", "sequence_number": 1,
            "response": { "id": "resp_2", "object": "response", "status": "completed", "model": model, "output": [] } })),
        _ => Some(done.clone()),
    }
}
