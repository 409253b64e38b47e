//! One connection, many readers: whatever the framing, what stands in a body is never taken for a request; and
//! the streams of one HTTP/2 connection do not harm each other or anybody else.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sidestep::simulator::{Fault, FaultRule};
use tokio::net::TcpStream;

use super::fixture::{CHAT, QUESTION, eventually, within};
use super::front::Front;
use super::raw::Wire;

/// What an attacker hides in a body.
const HIDDEN: &str = "GET /openai/v1/models/hidden HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// Sends these bytes and then an honest request; the statuses that came back, and the paths the backend saw.
fn told(attack: &str) -> (Vec<u16>, Vec<String>) {
    let front = Front::plain();
    let mut wire = Wire::to(front.address());
    wire.send(attack);
    let mut statuses: Vec<u16> = wire.answer().map(|answer| answer.status).into_iter().collect();
    wire.send("GET /openai/v1/models/honest HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    while let Some(answer) = wire.answer() {
        statuses.push(answer.status);
    }
    let seen = front.resource("east").requests().iter().map(|request| request.uri.to_string()).collect();
    (statuses, seen)
}

fn post(headers: &str, body: &str) -> String {
    format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n{body}")
}

#[track_caller]
fn refused(attack: &str) {
    let (statuses, seen) = told(attack);
    assert!(statuses.is_empty() || statuses == [400], "{attack:?}: {statuses:?}");
    assert_eq!(seen, [""; 0], "{attack:?}");
}

#[test]
fn a_request_with_both_framings_ends_its_connection() {
    let chunked = format!("{:x}\r\n{QUESTION}\r\n0\r\n\r\n", QUESTION.len());
    let length = chunked.len() + HIDDEN.len();
    for headers in [
        format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n"),
        format!("transfer-encoding: chunked\r\ncontent-length: {length}\r\n"),
        "content-length: 4\r\ntransfer-encoding: chunked\r\n".to_owned(),
    ] {
        let (statuses, seen) = told(&post(&headers, &(chunked.clone() + HIDDEN)));
        assert_eq!(statuses.len(), 1, "{headers}: {statuses:?}");
        assert!(seen.iter().all(|uri| uri == CHAT), "{headers}: {seen:?}");
    }
}

#[test]
fn lengths_that_differ_or_are_none_are_refused() {
    let length = QUESTION.len();
    for headers in [
        format!("content-length: {length}\r\ncontent-length: 0\r\n"),
        format!("content-length: 0\r\ncontent-length: {length}\r\n"),
        format!("content-length: {length}, 0\r\n"),
        format!("content-length: +{length}\r\n"),
        format!("content-length: -{length}\r\n"),
        format!("content-length: 0x{length:x}\r\n"),
        "content-length: 99999999999999999999999\r\n".to_owned(),
        format!("content-length : {length}\r\n"),
        "content-length:\r\n".to_owned(),
    ] {
        refused(&post(&headers, &(QUESTION.to_owned() + HIDDEN)));
    }
}

#[test]
fn codings_that_are_not_plain_chunked_are_refused() {
    let body = format!("{:x}\r\n{QUESTION}\r\n0\r\n\r\n{HIDDEN}", QUESTION.len());
    for coding in ["gzip", "identity", "chunked, identity", "xchunked", "\u{b}chunked", "chunked\u{0}"] {
        refused(&post(&format!("transfer-encoding: {coding}\r\n"), &body));
    }
    refused(&post("transfer-encoding : chunked\r\n", &body));
    refused(&format!("POST {CHAT} HTTP/1.0\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n{body}"));
}

#[test]
fn folded_lines_and_malformed_heads_are_refused() {
    for headers in [
        "x-a: b\r\n transfer-encoding: chunked\r\n",
        "x-a: b\r\n\tcontent-length: 5\r\n",
        " x-a: b\r\n",
        "x-a\r\n",
        "x-a: b\rcontent-length: 5\r\n",
        "x\u{0}a: b\r\n",
        "x-a: b\u{0}c\r\n",
        ": b\r\n",
    ] {
        refused(&post(headers, HIDDEN));
    }
    for line in [
        "GET  /v1/models HTTP/1.1",
        "GET /v1/models HTTP/1.2",
        "GET /v1/models HTTP/3",
        "GET /v1/mod els HTTP/1.1",
        "G\u{1}T /v1/models HTTP/1.1",
    ] {
        refused(&format!("{line}\r\nhost: localhost\r\n\r\n"));
    }
}

#[test]
fn chunks_that_are_none_end_the_connection_and_nothing_behind_them_is_served() {
    for body in [
        format!("{:x}\n{QUESTION}\r\n0\r\n\r\n{HIDDEN}", QUESTION.len()),
        format!("{:x}\r\n{QUESTION}0\r\n\r\n{HIDDEN}", QUESTION.len()),
        format!("{:x};a\nb\r\n{QUESTION}\r\n0\r\n\r\n{HIDDEN}", QUESTION.len()),
        format!("-1\r\n{HIDDEN}"),
        format!("ffffffffffffffffff\r\n{HIDDEN}"),
        format!("zz\r\n{HIDDEN}"),
        format!("0x1\r\na\r\n0\r\n\r\n{HIDDEN}"),
        format!("1;{}\r\na\r\n0\r\n\r\n{HIDDEN}", "x".repeat(40_000)),
    ] {
        let (statuses, seen) = told(&post("transfer-encoding: chunked\r\n", &body));
        assert!(statuses.is_empty() || statuses == [400], "{body:?}: {statuses:?}");
        assert_eq!(seen, [""; 0], "{body:?}");
    }
}

#[test]
fn a_small_chunk_extension_and_trailers_change_nothing() {
    let size = QUESTION.len();
    for body in [
        format!("{size:x};ext=1\r\n{QUESTION}\r\n0\r\n\r\n"),
        format!("{size:x}\r\n{QUESTION}\r\n0\r\nx-trailer: a\r\n\r\n"),
        format!("0{size:X}\r\n{QUESTION}\r\n0;last\r\n\r\n"),
    ] {
        let (statuses, seen) = told(&post("transfer-encoding: chunked\r\n", &body));
        assert_eq!(statuses.len(), 2, "{body:?}: {statuses:?}");
        assert_eq!(seen, [CHAT, "/openai/v1/models/honest"], "{body:?}");
    }
}

#[test]
fn the_same_length_twice_is_one_request() {
    let length = QUESTION.len();
    let headers = format!("content-length: {length}\r\ncontent-length: {length}\r\n");
    let (statuses, seen) = told(&post(&headers, QUESTION));
    assert_eq!(statuses[0], 200);
    assert_eq!(seen, [CHAT, "/openai/v1/models/honest"]);
}

#[test]
fn a_bare_line_feed_hides_no_request() {
    let length = HIDDEN.len();
    for attack in [
        post(&format!("x-a: b\ncontent-length: {length}\r\n"), HIDDEN),
        post(&format!("content-length: {length}\n"), HIDDEN),
        post("x-a: b\ntransfer-encoding: chunked\r\n", &format!("{length:x}\r\n{HIDDEN}\r\n0\r\n\r\n")),
    ] {
        let (_, seen) = told(&attack);
        assert!(!seen.iter().any(|uri| uri.contains("hidden")), "{attack:?}: {seen:?}");
    }
}

#[test]
fn requests_in_a_row_on_one_connection_are_answered_in_their_order() {
    let front = Front::plain();
    let mut wire = Wire::to(front.address());
    let length = QUESTION.len();
    let one = post(&format!("content-length: {length}\r\n"), QUESTION);
    let other = "GET /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n";
    wire.send(format!("{one}{other}{one}"));
    let statuses: Vec<u16> = (0..3).map(|_| wire.answer().unwrap().status).collect();
    assert_eq!(statuses, [200, 404, 200]);
}

type Sender = SendRequest<Full<Bytes>>;

async fn http2(front: &Front) -> Sender {
    let socket = TcpStream::connect(front.address()).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn chat() -> Request<Full<Bytes>> {
    let uri = format!("http://localhost{CHAT}");
    Request::post(uri).body(Full::new(Bytes::from_static(QUESTION.as_bytes()))).unwrap()
}

async fn status(sender: &Sender) -> Result<u16, hyper::Error> {
    let mut sender = sender.clone();
    within("room for a stream", sender.ready()).await?;
    let answer = within("an answer", sender.send_request(chat())).await?;
    let status = answer.status().as_u16();
    answer.into_body().collect().await?;
    Ok(status)
}

#[tokio::test]
async fn many_streams_of_one_http2_connection_are_all_served() {
    for streams in [256, 8] {
        let front = Front::with("", &format!("[limits]\nstreams_per_connection = {streams}"));
        let sender = http2(&front).await;
        // Until it has heard of our bound a client may open more streams than that.
        assert_eq!(status(&sender).await.unwrap(), 200);
        let asking: Vec<_> = (0..300)
            .map(|_| {
                let sender = sender.clone();
                tokio::spawn(async move { status(&sender).await })
            })
            .collect();
        for asked in asking {
            assert_eq!(asked.await.unwrap().unwrap(), 200);
        }
        assert_eq!(front.seen("east"), 301, "each once");
    }
}

#[tokio::test]
async fn a_storm_of_resets_disturbs_nobody_else() {
    let front = Front::plain();
    let calm = http2(&front).await;
    front.resource("east").fault(FaultRule::standing(Fault::SlowHead { delay_ms: 20 }));
    let storm = async {
        for _ in 0..10 {
            let sender = http2(&front).await;
            for _ in 0..200 {
                let mut sender = sender.clone();
                if sender.ready().await.is_err() {
                    break;
                }
                let mut asked = Box::pin(sender.send_request(chat()));
                // Sent, and taken back before any answer.
                poll_fn(|cx| Poll::Ready(asked.as_mut().poll(cx).is_ready())).await;
                tokio::task::yield_now().await;
            }
        }
    };
    let others = async {
        for _ in 0..20 {
            assert_eq!(status(&calm).await.unwrap(), 200);
        }
    };
    tokio::join!(storm, others);
    eventually("all places are free", || front.status()["callers"]["in_flight"] == 0).await;
    eventually("the backend is left", || front.resource("east").counters().in_flight == 0).await;
    let lane = &front.status()["backends"][0]["lanes"][0];
    assert_eq!((&lane["state"], &lane["in_flight"]), (&"admitting".into(), &0.into()));
    assert_eq!(status(&calm).await.unwrap(), 200);
}

#[tokio::test]
async fn a_large_head_in_http2_is_431_and_the_connection_lives() {
    let front = Front::with("", "[limits]\nheader_bytes = \"16KiB\"");
    let mut sender = http2(&front).await;
    let mut large = chat();
    large.headers_mut().insert("x-long", "x".repeat(30_000).parse().unwrap());
    let answer = within("an answer", sender.send_request(large)).await;
    assert!(answer.as_ref().map_or(true, |answer| answer.status() == 431), "{answer:?}");
    assert_eq!(status(&sender).await.unwrap(), 200);
    assert_eq!(front.seen("east"), 1);
}
