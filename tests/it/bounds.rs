//! Bounds of bodies, heads, connections and time: at the bound all is well, past it a clear answer.

use std::fmt::Write as _;

use serde_json::json;
use sidestep::simulator::{Fault, FaultRule};

use super::fixture::{CHAT, QUESTION, Scene};
use super::front::Front;
use super::raw::{Answer, Wire, ask, get, now, request, until};

const KIB: usize = 1024;

/// A chat of exactly so many bytes.
fn chat_of(bytes: usize) -> String {
    let around = json!({ "messages": [{ "role": "user", "content": "" }], "max_tokens": 5 }).to_string();
    let content = "x".repeat(bytes - around.len());
    json!({ "messages": [{ "role": "user", "content": content }], "max_tokens": 5 }).to_string()
}

/// The same request without telling its length.
fn chunked(body: &str, pieces: usize) -> String {
    let mut text = format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n");
    for piece in body.as_bytes().chunks(pieces) {
        let piece = std::str::from_utf8(piece).unwrap();
        write!(text, "{:x}\r\n{piece}\r\n", piece.len()).unwrap();
    }
    text + "0\r\n\r\n"
}

fn ask_both_ways(front: &Front, body: &str) -> [Answer; 2] {
    [request("POST", CHAT, "", body), chunked(body, 1000)]
        .map(|asked| Wire::to(front.address()).send(asked).answer().unwrap())
}

#[test]
fn a_body_up_to_the_replay_limit_fails_over_and_a_larger_one_goes_to_one_backend() {
    let scene = Scene::of([("east", 1), ("west", 2)]);
    let front = Front::of(scene.toml("[limits]\nrequest_replay = \"4KiB\""));
    front.resource("east").fault(Fault::status(500));
    for answer in ask_both_ways(&front, &chat_of(4 * KIB)) {
        assert_eq!((answer.status, answer.header("x-sidestep-attempts")), (200, Some("2")));
    }
    for answer in ask_both_ways(&front, &chat_of(4 * KIB + 1)) {
        assert_eq!((answer.status, answer.header("x-sidestep-attempts")), (500, Some("1")));
    }
    assert_eq!(front.seen("west"), 2);
}

#[test]
fn a_body_beyond_the_replay_limit_arrives_byte_for_byte() {
    let front = Front::with("", "[limits]\nrequest_replay = \"1KiB\"");
    let body = chat_of(300 * KIB);
    for answer in ask_both_ways(&front, &body) {
        assert_eq!(answer.status, 200);
        let sent = front.resource("east").last_request().unwrap();
        assert!(sent.body == body, "{} bytes came", sent.body.len());
    }
}

#[test]
fn a_body_beyond_the_hard_limit_is_413_whether_its_length_is_told_or_not() {
    for replay in ["1KiB", "8KiB"] {
        let limits = format!("[limits]\nrequest_replay = \"{replay}\"\nrequest_hard_limit = \"8KiB\"");
        let front = Front::with("", &limits);
        for answer in ask_both_ways(&front, &chat_of(8 * KIB)) {
            assert_eq!(answer.status, 200, "replay {replay}: {answer:?}");
        }
        for answer in ask_both_ways(&front, &chat_of(8 * KIB + 1)) {
            assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"), "replay {replay}");
        }
        let lane = &front.status()["backends"][0]["lanes"][0];
        assert_eq!((&lane["state"], &lane["failed_total"]), (&json!("admitting"), &json!(0)));
    }
}

#[test]
fn a_length_beyond_the_hard_limit_is_refused_before_the_body_is_read() {
    let front = Front::plain();
    let asked = format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n");
    let mut wire = Wire::to(front.address());
    assert_eq!(wire.send(asked).answer().unwrap().status, 413);
    assert!(wire.closed(), "what follows is nobody's request");
}

#[test]
fn when_all_buffered_bodies_together_are_too_much_a_503_says_when_to_come_back() {
    let front = Front::with("", "[limits]\nrequest_replay = \"1MiB\"\nbuffered = \"1MiB\"");
    front.resource("east").fault(FaultRule::times(Fault::HangBeforeHead, 1));
    let body = chat_of(600 * KIB);
    let mut first = Wire::to(front.address());
    first.send(request("POST", CHAT, "", &body));
    until("the first body is held", || front.resource("east").counters().in_flight == 1);
    for answer in ask_both_ways(&front, &body) {
        assert_eq!((answer.status, answer.code().as_str()), (503, "overloaded"));
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(ask(front.address(), "POST", CHAT, "", QUESTION).status, 200, "there is room for a small one");
    drop(first);
    until("its bytes are given back", || ask(front.address(), "POST", CHAT, "", &body).status == 200);
}

#[test]
fn a_body_that_does_not_come_is_408_at_the_deadline() {
    let front = Front::with("", "[retry]\ndeadline = \"300ms\"\nconnect_timeout = \"300ms\"");
    let mut wire = Wire::to(front.address());
    let answer = wire.send(request("POST", CHAT, "", QUESTION).trim_end_matches('}')).answer().unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (408, "Timeout"));
    assert!(wire.closed());
    assert_eq!(front.seen("east"), 0);
}

#[test]
fn a_slow_head_is_408_while_an_idle_connection_lives_on() {
    let front = Front::with("", "[limits]\nheader_time = \"200ms\"");
    let mut idle = Wire::to(front.address());
    assert_eq!(idle.send(request("POST", CHAT, "", QUESTION)).answer().unwrap().status, 200);
    let began = now();
    for beginning in ["P", "POST /", "POST / HTTP/1.1\r\nhost: localhost\r\n", "PRI * HTTP/2.0\r\n"] {
        let mut slow = Wire::to(front.address());
        let answer = slow.send(beginning).answer().unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (408, "Timeout"), "{beginning:?}");
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(answer.complete && slow.closed(), "{beginning:?}");
    }
    let took = began.elapsed().as_millis();
    assert!((4 * 200..4 * 2000).contains(&took), "four heads of 200 ms each took {took} ms");
    assert_eq!(idle.send(request("POST", CHAT, "", QUESTION)).answer().unwrap().status, 200);
    let mut again = Wire::to(front.address());
    assert_eq!(again.send(request("POST", CHAT, "", QUESTION)).answer().unwrap().status, 200);
    let later = again.send("POST /").answer().unwrap();
    assert!(later.status == 408 && again.closed(), "a later head is timed like the first");
}

#[test]
fn an_idle_connection_is_closed_after_its_own_time() {
    let front = Front::with("", "[limits]\nidle = \"200ms\"");
    let mut silent = Wire::to(front.address());
    let mut used = Wire::to(front.address());
    assert_eq!(used.send(request("POST", CHAT, "", QUESTION)).answer().unwrap().status, 200);
    assert!(silent.closed() && used.closed(), "without a word: nobody has asked for anything");
    front.resource("east").fault(Fault::SlowHead { delay_ms: 500 });
    let slow = ask(front.address(), "POST", CHAT, "", QUESTION);
    assert_eq!(slow.status, 200, "who waits for an answer is not idle");
}

#[test]
fn one_connection_more_than_there_may_be_is_told_503() {
    let front = Front::with("", "[limits]\nconnections = 2");
    let mut held: Vec<Wire> = (0..2).map(|_| Wire::to(front.address())).collect();
    for wire in &mut held {
        assert_eq!(wire.send(request("POST", CHAT, "", QUESTION)).answer().unwrap().status, 200);
    }
    let mut third = Wire::to(front.address());
    let answer = third.answer().unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (503, "overloaded"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(answer.complete && third.closed(), "{answer:?}");
    let metrics = get(front.admin(), "/metrics").text().to_owned();
    assert!(metrics.contains("\nsidestep_connections_refused_total 1\n"), "{metrics}");
    held.pop();
    until("a place is free", || {
        Wire::to(front.address())
            .send(request("POST", CHAT, "", QUESTION))
            .answer()
            .is_some_and(|a| a.status == 200)
    });
    assert_eq!(held[0].send(request("POST", CHAT, "", QUESTION)).answer().unwrap().status, 200);
}

#[test]
fn who_closes_one_half_has_left() {
    let front = Front::plain();
    for fault in [Fault::HangBeforeHead, Fault::HangBeforeFirstEvent] {
        front.resource("east").fault(FaultRule::times(fault.clone(), 1));
        let streamed = super::fixture::STREAMED;
        let mut wire = Wire::to(front.address());
        wire.send(request("POST", CHAT, "", streamed));
        until("the backend has it", || front.resource("east").counters().in_flight == 1);
        wire.half_close();
        until("the work is cancelled", || front.resource("east").counters().in_flight == 0);
        until("its place is free", || front.status()["callers"]["in_flight"] == 0);
        assert!(wire.closed(), "{fault:?}");
    }
    let lane = &front.status()["backends"][0]["lanes"][0];
    assert_eq!((&lane["state"], &lane["failed_total"]), (&json!("admitting"), &json!(0)));
    assert!(front.log().contains("\"ended\":\"caller left\""));
}

#[test]
fn who_waits_for_100_continue_gets_it_unless_refused_before() {
    let head = |key: &str| {
        let length = QUESTION.len();
        format!(
            "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n{key}content-length: {length}\r\n\r\n"
        )
    };
    let front = Front::with("", "[callers]\nkeys = [{ name = \"app\", key = \"caller-key-0123456789\" }]");
    let mut wire = Wire::to(front.address());
    assert_eq!(wire.send(head("api-key: caller-key-0123456789\r\n")).answer().unwrap().status, 100);
    assert_eq!(wire.send(QUESTION).answer().unwrap().status, 200);
    assert!(front.resource("east").last_request().unwrap().headers.get("expect").is_none());
    let mut stranger = Wire::to(front.address());
    assert_eq!(stranger.send(head("")).answer().unwrap().status, 401);
    assert!(stranger.closed(), "the body that may still come is nobody's request");
}
