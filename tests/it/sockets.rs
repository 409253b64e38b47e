//! Web sockets: both ends are real ones (tungstenite), the balancer stands between.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use http::{HeaderMap, Uri};
use sidestep::simulator::Fault;
use tungstenite::client::IntoClientRequest;
use tungstenite::error::Error;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{HandshakeError, Message, WebSocket};

use super::fixture::{PATIENCE, Scene, Stage, key_of};
use super::raw::now;

const REALTIME: &str = "/openai/v1/realtime?model=gpt-4o";

type Socket = WebSocket<TcpStream>;

/// A backend that agrees to every WebSocket.
struct Agreeing(TcpListener);

impl Agreeing {
    fn listen() -> Self {
        Self(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The next socket, and with which request it was opened.
    fn accept(&self) -> (Socket, Uri, HeaderMap) {
        let (stream, _) = self.0.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut seen = None;
        #[expect(clippy::result_large_err, reason = "the form that tungstenite asks for")]
        let look = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
            seen = Some((request.uri().clone(), request.headers().clone()));
            if let Some(protocol) = request.headers().get("sec-websocket-protocol") {
                response.headers_mut().insert("sec-websocket-protocol", protocol.clone());
            }
            Ok(response)
        };
        let socket = tungstenite::accept_hdr(stream, look).unwrap();
        let (uri, headers) = seen.unwrap();
        (socket, uri, headers)
    }
}

/// Asks for a socket; the answer comes once a backend has agreed.
fn opening(
    address: SocketAddr,
    target: &str,
    headers: &[(&'static str, &str)],
) -> JoinHandle<Result<Socket, u16>> {
    let mut request = format!("ws://{address}{target}").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    std::thread::spawn(move || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        match tungstenite::client(request, stream) {
            Ok((socket, _)) => Ok(socket),
            Err(HandshakeError::Failure(Error::Http(response))) => Err(response.status().as_u16()),
            Err(other) => panic!("{other}"),
        }
    })
}

/// A balancer before `Agreeing`, and one socket through it.
fn pair(stage: &Stage, backend: &Agreeing) -> (Socket, Socket) {
    let opening = opening(stage.balancer.address(), REALTIME, &[]);
    let (theirs, ..) = backend.accept();
    (opening.join().unwrap().unwrap(), theirs)
}

fn alone(backend: &Agreeing) -> Stage {
    Scene::default().played("east", 1, backend.address()).start()
}

fn text(message: &str) -> Message {
    Message::text(message.to_owned())
}

/// The access record of the only socket, once it is written.
fn record(stage: &Stage) -> serde_json::Value {
    let began = now();
    loop {
        let log = stage.log();
        let found = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        if let Some(record) = found.into_iter().find(|line| line["status"] == 101) {
            return record;
        }
        assert!(began.elapsed() < PATIENCE, "no record: {log}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn ended_without_a_close(socket: &mut Socket) -> bool {
    matches!(socket.read(), Err(Error::Protocol(_) | Error::Io(_)))
}

#[test]
fn a_socket_fails_over_until_a_backend_agrees_and_then_carries_everything_both_ways() {
    let backend = Agreeing::listen();
    let stage = Scene::of([("throttled", 1), ("broken", 2)]).played("west", 3, backend.address()).start();
    stage.resource("throttled").fault(Fault::throttle_seconds(20));
    stage.resource("broken").fault(Fault::status(500));
    let opening = opening(stage.balancer.address(), REALTIME, &[("x-stainless-lang", "python")]);
    let (mut theirs, uri, headers) = backend.accept();
    let mut ours = opening.join().unwrap().unwrap();
    assert_eq!(uri.to_string(), REALTIME);
    assert_eq!(headers["api-key"], key_of("west").as_str());
    assert!(!headers.contains_key("x-stainless-lang") && !headers.contains_key("sec-websocket-extensions"));

    ours.send(text("from the caller")).unwrap();
    assert_eq!(theirs.read().unwrap(), text("from the caller"));
    let large = vec![7; 3_000_000];
    let sending = std::thread::spawn(move || {
        theirs.send(Message::binary(large)).unwrap();
        theirs.send(Message::Ping("are you there".into())).unwrap();
        theirs
    });
    assert_eq!(ours.read().unwrap().into_data().len(), 3_000_000);
    let mut theirs = sending.join().unwrap();
    assert!(matches!(ours.read().unwrap(), Message::Ping(_)));
    ours.flush().unwrap();
    assert_eq!(theirs.read().unwrap(), Message::Pong("are you there".into()));

    let usage = r#"{"type":"response.done","response":{"usage":{"input_tokens":30,"output_tokens":12}}}"#;
    theirs.send(text(usage)).unwrap();
    theirs.send(text(usage)).unwrap();
    assert_eq!((ours.read().unwrap(), ours.read().unwrap()), (text(usage), text(usage)));
    let why = CloseFrame { code: CloseCode::from(4001), reason: "enough".into() };
    ours.close(Some(why.clone())).unwrap();
    assert_eq!(theirs.read().unwrap(), Message::Close(Some(why.clone())));
    assert!(matches!(theirs.read(), Err(Error::ConnectionClosed)));
    assert_eq!(ours.read().unwrap(), Message::Close(Some(why)));

    let record = record(&stage);
    assert_eq!(record["backend"], "west", "{record}");
    assert_eq!(record["ended"], "completed", "{record}");
    assert_eq!(record["operation"], "realtime", "{record}");
    assert_eq!(
        (&record["prompt_tokens"], &record["completion_tokens"]),
        (&60.into(), &24.into()),
        "{record}"
    );
    assert_eq!(stage.backend("west").in_flight, 0);
    assert_eq!(stage.lane("throttled", "gpt-4o").state, "cooling");
}

#[test]
fn the_deployment_in_the_query_is_mapped_and_the_key_in_it_admits_and_goes_no_further() {
    let backend = Agreeing::listen();
    let stage = Scene::default()
        .played("east", 1, backend.address())
        .backend("east", "deployments = { voice = \"voice-east\" }")
        .toml("[[callers.keys]]\nname = \"app\"\nkey = \"the-app's-own-key-1\"")
        .start();
    for path in ["/openai/v1/realtime?model=voice", "/openai/realtime?api-version=1&deployment=voice"] {
        let target = format!("{path}&api-key=the-app%27s-own-key-1");
        let opening = opening(stage.balancer.address(), &target, &[]);
        let (_theirs, uri, headers) = backend.accept();
        assert!(opening.join().unwrap().is_ok());
        assert_eq!(uri.to_string(), path.replace("voice", "voice-east"));
        assert_eq!(headers["api-key"], key_of("east").as_str());
    }
    let stranger = "/openai/v1/realtime?model=voice&api-key=a-strangers-key-0123";
    for target in [stranger, "/openai/v1/realtime?model=voice"] {
        assert_eq!(opening(stage.balancer.address(), target, &[]).join().unwrap().unwrap_err(), 401);
    }
}

#[test]
fn a_key_among_the_protocols_stays_here_and_the_other_protocols_travel() {
    let backend = Agreeing::listen();
    let stage = alone(&backend);
    let protocols = "realtime, openai-insecure-api-key.s3cret, openai-beta.realtime-v1";
    let opening = opening(stage.balancer.address(), REALTIME, &[("sec-websocket-protocol", protocols)]);
    let (_theirs, _, headers) = backend.accept();
    assert_eq!(headers["sec-websocket-protocol"], "realtime, openai-beta.realtime-v1");
    // The backend answers with more than one of them, which tungstenite refuses: that is between the two.
    drop(opening.join());
}

#[test]
fn a_caller_that_leaves_ends_the_backends_side_at_once_and_cools_nothing() {
    let backend = Agreeing::listen();
    let stage = alone(&backend);
    let (ours, mut theirs) = pair(&stage, &backend);
    let began = now();
    drop(ours);
    assert!(ended_without_a_close(&mut theirs));
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(record(&stage)["ended"], "caller left");
    assert_eq!((stage.lane("east", "gpt-4o").state, stage.backend("east").in_flight), ("admitting", 0));
}

#[test]
fn a_backend_that_vanishes_ends_the_callers_side_without_a_close_frame() {
    let backend = Agreeing::listen();
    let stage = alone(&backend);
    let (mut ours, mut theirs) = pair(&stage, &backend);
    theirs.send(text("the last words")).unwrap();
    drop(theirs);
    assert_eq!(ours.read().unwrap(), text("the last words"));
    assert!(ended_without_a_close(&mut ours));
    assert_eq!(record(&stage)["ended"], "upstream cut");
}

#[test]
fn a_caller_that_reads_nothing_holds_its_backend_back() {
    let backend = Agreeing::listen();
    let stage = alone(&backend);
    let (mut ours, theirs) = pair(&stage, &backend);
    let stream = theirs.get_ref().try_clone().unwrap();
    stream.set_nonblocking(true).unwrap();
    let piece = vec![0; 64 * 1024];
    let (mut sent, mut blocked) = (0_u64, now());
    // Raw bytes of one endless binary message: all buffers on the way are full when nothing moves for a while.
    let mut head = vec![0x82, 127];
    head.extend((1_u64 << 40).to_be_bytes());
    (&stream).write_all(&head).unwrap();
    while blocked.elapsed() < Duration::from_millis(300) {
        match (&stream).write(&piece) {
            Ok(count) => {
                sent += count as u64;
                blocked = now();
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(sent < 64 * 1024 * 1024, "it swallows everything");
    }
    let mut some = vec![0; 4 * 1024 * 1024];
    ours.get_mut().read_exact(&mut some).unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    (&stream).write_all(&piece).unwrap();
}

#[test]
fn a_drain_closes_a_quiet_socket_with_a_close_frame_on_both_sides() {
    let backend = Agreeing::listen();
    let stage = alone(&backend);
    let (mut ours, mut theirs) = pair(&stage, &backend);
    ours.send(text("hello")).unwrap();
    assert_eq!(theirs.read().unwrap(), text("hello"));
    let began = now();
    stage.balancer.drain();
    let away = |message| matches!(message, Message::Close(Some(frame)) if frame.code == CloseCode::Away);
    assert!(away(ours.read().unwrap()));
    assert!(away(theirs.read().unwrap()));
    let _answered = (ours.flush(), theirs.flush());
    while !stage.balancer.ended() {
        assert!(began.elapsed() < Duration::from_secs(10), "the drain waits for a socket that is closed");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(record(&stage)["ended"], "stopped here");
}

#[test]
fn a_drain_lets_a_message_that_is_under_way_go_to_its_end() {
    let backend = Agreeing::listen();
    let stage =
        Scene::default().played("east", 1, backend.address()).server("drain_timeout = \"20s\"").start();
    let (mut ours, theirs) = pair(&stage, &backend);
    let mut stream = theirs.get_ref();
    stream.write_all(b"\x01\x05first").unwrap();
    stage.balancer.drain();
    // Longer than a quiet socket would live.
    std::thread::sleep(Duration::from_millis(1_500));
    stream.write_all(b"\x80\x06second").unwrap();
    assert_eq!(ours.read().unwrap(), text("firstsecond"));
    assert!(matches!(ours.read().unwrap(), Message::Close(Some(_))));
}

#[test]
fn at_the_end_of_a_drain_a_busy_socket_is_closed_where_a_frame_may_stand_and_else_cut() {
    for (sent, said) in [(&b"\x01\x05first"[..], true), (b"\x01\x05fir", false)] {
        let backend = Agreeing::listen();
        let stage =
            Scene::default().played("east", 1, backend.address()).server("drain_timeout = \"300ms\"").start();
        let (mut ours, theirs) = pair(&stage, &backend);
        theirs.get_ref().write_all(sent).unwrap();
        stage.balancer.drain();
        let mut raw = Vec::new();
        let _reset = ours.get_mut().read_to_end(&mut raw);
        assert!(raw.starts_with(sent), "{raw:?}");
        assert_eq!(raw.ends_with(b"\x88\x02\x03\xe9"), said, "{raw:?}");
    }
}

#[test]
fn what_a_caller_sends_before_the_101_reaches_the_backend() {
    let backend = Agreeing::listen();
    let stage = alone(&backend);
    let mut stream = TcpStream::connect(stage.balancer.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "GET {REALTIME} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(b"\x81\x85\0\0\0\0early").unwrap();
    let (mut theirs, ..) = backend.accept();
    assert_eq!(theirs.read().unwrap(), text("early"));
    theirs.send(text("late")).unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\x81\x04late") {
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    for line in [
        "connection: upgrade\r\n",
        "upgrade: websocket\r\n",
        "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n",
        "x-sidestep-backend: east\r\n",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
    stream.shutdown(Shutdown::Both).unwrap();
}

#[test]
fn what_is_no_sound_opening_of_a_socket_is_refused_and_other_upgrades_are_not_taken_up() {
    let stage = Scene::of([("east", 1)]).start();
    let ask = |head: &str| {
        let mut stream = TcpStream::connect(stage.balancer.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    let upgrade = "host: 127.0.0.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n";
    let with_body = format!("GET {REALTIME} HTTP/1.1\r\n{upgrade}content-length: 2\r\n\r\n{{}}");
    let chunked = format!("GET {REALTIME} HTTP/1.1\r\n{upgrade}transfer-encoding: chunked\r\n\r\n0\r\n\r\n");
    let posted = format!("POST {REALTIME} HTTP/1.1\r\n{upgrade}content-length: 0\r\n\r\n");
    let unlisted = format!("GET {REALTIME} HTTP/1.1\r\nhost: 127.0.0.1\r\nupgrade: websocket\r\n\r\n");
    for head in [with_body, chunked, posted, unlisted] {
        assert_eq!(ask(&head), "HTTP/1.1 400", "{head}");
    }
    assert_eq!(stage.seen("east"), 0);
    let h2c = "GET /openai/v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade, http2-settings\r\n\
               upgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
    assert_eq!(ask(h2c), "HTTP/1.1 200");
}

#[test]
fn a_response_made_on_a_socket_is_known_afterwards() {
    let backend = Agreeing::listen();
    let stage = alone(&backend);
    let opening = opening(stage.balancer.address(), "/openai/v1/responses", &[]);
    let (mut theirs, ..) = backend.accept();
    let mut ours = opening.join().unwrap().unwrap();
    for id in ["resp_1", "resp_2"] {
        let created = format!(r#"{{"type":"response.created","response":{{"id":"{id}"}}}}"#);
        theirs.send(text(&created)).unwrap();
        assert_eq!(ours.read().unwrap(), text(&created));
    }
    assert_eq!(stage.balancer.status().objects.ids, 2);
}

#[test]
fn each_message_of_a_responses_socket_names_its_deployment_as_the_backend_does() {
    let backend = Agreeing::listen();
    let stage = Scene::default()
        .played("east", 1, backend.address())
        .backend("east", "deployments = { chat = \"chat-east\" }")
        .start();
    let opening = opening(stage.balancer.address(), "/v1/responses", &[]);
    let (mut theirs, uri, _) = backend.accept();
    assert_eq!(uri.to_string(), "/openai/v1/responses");
    let mut ours = opening.join().unwrap().unwrap();
    let create = |input: &str, name: &str| {
        text(&format!(r#"{{"type":"response.create","input":"{input}","m\u006fdel" : "{name}", "x":[1]}}"#))
    };
    let long = "\\\"model\\\": \\\"chat\\\" ".repeat(20_000);
    for input in ["a", &long] {
        ours.send(create(input, "chat")).unwrap();
        assert_eq!(theirs.read().unwrap(), create(input, "chat-east"));
    }
    for same in [create("a", "other"), text("no json"), Message::binary(vec![0; 70_000])] {
        ours.send(same.clone()).unwrap();
        assert_eq!(theirs.read().unwrap(), same);
    }
    // In pieces, with a ping among them.
    let mut pieces = b"\x01\x89\0\0\0\0{\"model\":".to_vec();
    pieces.extend(b"\x89\x81\0\0\0\0p\x80\x87\0\0\0\0\"chat\"}");
    ours.get_mut().write_all(&pieces).unwrap();
    assert_eq!(theirs.read().unwrap(), Message::Ping("p".into()));
    assert_eq!(theirs.read().unwrap(), text(r#"{"model":"chat-east"}"#));
    assert_eq!(ours.read().unwrap(), Message::Pong("p".into()));
    let done = r#"{"type":"response.completed","response":{"id":"resp_1","usage":{"input_tokens":3,"output_tokens":4}}}"#;
    theirs.send(text(done)).unwrap();
    assert_eq!(ours.read().unwrap(), text(done));
    ours.close(None).unwrap();
    assert!(theirs.read().unwrap().is_close());
    assert!(matches!(theirs.read(), Err(Error::ConnectionClosed)));
    let record = record(&stage);
    assert_eq!((&record["prompt_tokens"], &record["completion_tokens"]), (&3.into(), &4.into()), "{record}");
}

#[test]
fn where_no_deployment_has_another_name_messages_pass_as_they_come() {
    let backend = Agreeing::listen();
    let stage = Scene::default()
        .played("east", 1, backend.address())
        .backend("east", "deployments = { chat = \"chat\" }")
        .start();
    let opening = opening(stage.balancer.address(), "/v1/responses", &[]);
    let (mut theirs, ..) = backend.accept();
    let mut ours = opening.join().unwrap().unwrap();
    let half = b"\x01\x89\0\0\0\0{\"model\"";
    ours.get_mut().write_all(half).unwrap();
    let mut came = [0; 14];
    theirs.get_mut().read_exact(&mut came).unwrap();
    assert_eq!(&came, half);
}

#[test]
fn a_message_longer_than_what_is_held_closes_the_socket_and_gives_its_room_back() {
    let backend = Agreeing::listen();
    let stage = Scene::default()
        .played("east", 1, backend.address())
        .backend("east", "deployments = { chat = \"chat-east\" }")
        .toml("[limits]\nrequest_replay = \"1KiB\"\nrequest_hard_limit = \"640KiB\"\nbuffered = \"2MiB\"")
        .start();
    for _ in 0..4 {
        let opening = opening(stage.balancer.address(), "/v1/responses", &[]);
        let (mut theirs, ..) = backend.accept();
        let mut ours = opening.join().unwrap().unwrap();
        for _ in 0..5 {
            let within = text(&"a".repeat(600_000));
            ours.send(within.clone()).unwrap();
            assert!(theirs.read().unwrap() == within);
        }
        // Far longer: what is not read of it resets nothing over our close frame.
        ours.send(text(&"a".repeat(3_000_000))).unwrap();
        match ours.read().unwrap() {
            Message::Close(Some(frame)) => assert_eq!(frame.code, CloseCode::Size),
            other => panic!("{other}"),
        }
        let end = ours.read();
        assert!(matches!(end, Err(Error::ConnectionClosed)), "{end:?}");
        match theirs.read().unwrap() {
            Message::Close(Some(frame)) => assert_eq!(frame.code, CloseCode::Away),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_backend_gets_a_close_frame_though_a_message_for_it_is_half_come_unless_a_ping_is_half_passed() {
    for (sent, said) in [(&b"\x01\x89\0\0\0\0hel"[..], true), (b"\x89\x89\0\0\0\0hel", false)] {
        let backend = Agreeing::listen();
        let stage = Scene::default()
            .played("east", 1, backend.address())
            .backend("east", "deployments = { chat = \"chat-east\" }")
            .server("drain_timeout = \"300ms\"")
            .start();
        let opening = opening(stage.balancer.address(), "/v1/responses", &[]);
        let (mut theirs, ..) = backend.accept();
        let mut ours = opening.join().unwrap().unwrap();
        ours.send(Message::Ping("heard".into())).unwrap();
        ours.get_mut().write_all(sent).unwrap();
        assert_eq!(theirs.read().unwrap(), Message::Ping("heard".into()));
        stage.balancer.drain();
        let mut raw = Vec::new();
        let _reset = theirs.get_mut().read_to_end(&mut raw);
        assert_eq!(raw.ends_with(b"\x88\x82\0\0\0\0\x03\xe9"), said, "{raw:?}");
    }
}

#[test]
fn messages_sent_one_behind_the_other_are_bounded_each_for_itself() {
    let backend = Agreeing::listen();
    let stage = Scene::default()
        .played("east", 1, backend.address())
        .backend("east", "deployments = { chat = \"chat-east\" }")
        .toml("[limits]\nrequest_replay = \"1KiB\"\nrequest_hard_limit = \"640KiB\"\nbuffered = \"2MiB\"")
        .start();
    let opening = opening(stage.balancer.address(), "/v1/responses", &[]);
    let (mut theirs, ..) = backend.accept();
    let mut ours = opening.join().unwrap().unwrap();
    // All at once, so that each read ends inside a message; then the last one is whole.
    let message = format!(r#"{{"model":"chat","input":"{}"}}"#, "a".repeat(600_000));
    let mut frame = vec![0x81, 0xff];
    frame.extend((message.len() as u64).to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(message.as_bytes());
    let sending = std::thread::spawn(move || {
        ours.get_mut().write_all(&frame.repeat(5)).unwrap();
        ours
    });
    let renamed = text(&message.replace("chat", "chat-east"));
    for _ in 0..5 {
        assert!(theirs.read().unwrap() == renamed);
    }
    sending.join().unwrap();
}

#[test]
fn a_socket_outlives_a_reload() {
    let backend = Agreeing::listen();
    let stage = alone(&backend);
    let (mut ours, mut theirs) = pair(&stage, &backend);
    stage.balancer.reload(super::fixture::settings(&stage.text)).unwrap();
    theirs.send(text("still here")).unwrap();
    assert_eq!(ours.read().unwrap(), text("still here"));
}
