//! How an answer is settled: what is waited for, whose time it was, and what is counted of it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use sidestep::simulator::{Fault, FaultRule};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use super::fixture::backend::{EVENTS, PlayedBackend, answer, chunk};
use super::fixture::caller::{Answer, Caller, post};
use super::fixture::wire::Wire;
use super::fixture::{CHAT, QUESTION, STREAMED, Scene, Stage, eventually, within};

const WORD: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"word\"},\"index\":0}]}\n\n";

/// Less than an error's body may take, more than a loaded machine needs.
const SOON: Duration = Duration::from_millis(1_500);

/// A backend that the test plays, before a simulated one where there is one.
async fn played(scene: Scene) -> (PlayedBackend, Stage) {
    let east = PlayedBackend::listen().await;
    let stage = scene.played("east", 1, east.address).start();
    (east, stage)
}

/// The records of all requests so far.
fn records(stage: &Stage) -> Vec<Value> {
    let lines = stage.log();
    let records = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    records.filter(|record| record["message"] == "request").collect()
}

#[tokio::test]
async fn a_429_or_5xx_whose_body_does_not_come_fails_over_all_the_same_and_at_once() {
    for status in ["429 Too Many Requests", "500 Internal Server Error", "503 Service Unavailable"] {
        let (east, stage) = played(Scene::of([("west", 2)])).await;
        let serving = async {
            let (mut wire, _) = east.request().await;
            let began = Instant::now();
            wire.write(format!("HTTP/1.1 {status}\r\ntransfer-encoding: chunked\r\n\r\n")).await;
            (wire, began)
        };
        let caller = stage.caller();
        let ((_wire, began), answer) = tokio::join!(serving, caller.post(CHAT, QUESTION));
        assert!(began.elapsed() < SOON, "{status}: {:?}", began.elapsed());
        assert_eq!((answer.status, answer.region()), (200, Some("west")), "{status}");
    }
}

#[tokio::test]
async fn an_error_body_is_not_waited_for_beyond_the_deadline() {
    let retry = "[retry]\ndeadline = \"300ms\"\nconnect_timeout = \"200ms\"";
    let (east, stage) = played(Scene::default().toml(retry)).await;
    let serving = async {
        let (mut wire, _) = east.request().await;
        let began = Instant::now();
        wire.write("HTTP/1.1 409 Conflict\r\ntransfer-encoding: chunked\r\n\r\n").await;
        (wire, began)
    };
    let caller = stage.caller();
    let ((mut wire, began), mut reply) = tokio::join!(serving, caller.open(CHAT, QUESTION));
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(reply.status(), 409);
    wire.write(format!("{}0\r\n\r\n", chunk("late"))).await;
    reply.until("late").await;
    assert!(reply.whole().await.complete, "what comes late is passed on as it comes");
}

#[tokio::test]
async fn an_answer_told_in_both_framings_never_looks_complete_when_it_is_cut() {
    let (east, stage) = played(Scene::default()).await;
    for (end, complete) in [("", false), ("0\r\n\r\n", true)] {
        let serving = async {
            let (mut wire, _) = east.request().await;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5\r\n";
            wire.write(format!("{head}transfer-encoding: chunked\r\n\r\n{}{end}", chunk("12345678"))).await;
        };
        let caller = stage.caller();
        let ((), answer) = tokio::join!(serving, caller.post(CHAT, QUESTION));
        assert_eq!((answer.header("content-length"), answer.complete), (None, complete));
        assert!(!complete || answer.text() == "12345678");
    }
}

#[tokio::test]
async fn the_time_that_a_body_takes_to_come_is_not_ours() {
    let (east, stage) = played(Scene::default()).await;
    for status in ["200 OK", "400 Bad Request"] {
        let serving = async {
            let (mut wire, _) = east.request().await;
            let whole = answer(status, "", "{}");
            wire.write(whole.strip_suffix("{}").unwrap()).await;
            // So slow is the backend.
            sleep(Duration::from_millis(400)).await;
            wire.write("{}").await;
        };
        let caller = stage.caller();
        let ((), answer) = tokio::join!(serving, caller.post(CHAT, QUESTION));
        assert_eq!(answer.text(), "{}");
    }
    eventually("both are written down", || records(&stage).len() == 2).await;
    for record in records(&stage) {
        let (total, ours) = (record["total_ms"].as_f64().unwrap(), record["ours_ms"].as_f64().unwrap());
        assert!(total >= 400.0 && ours < total - 300.0, "{record}");
    }
}

/// All of its bytes at once, and the end of the stream never.
struct Endless(Option<Bytes>);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None => Poll::Pending,
        }
    }
}

/// Speaks HTTP/2, tells the length of its answers and does not end their streams.
async fn endless_in_http2(size: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service_fn(move |request: Request<Incoming>| async move {
                let _asked = request.into_body().collect().await;
                let body = Endless(Some(Bytes::from(vec![b'x'; size])));
                let head = Response::builder().header("content-type", "application/json");
                head.header("content-length", size).body(body)
            });
            let serving =
                http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service);
            tokio::spawn(serving);
        }
    });
    address
}

#[tokio::test]
async fn an_http2_answer_of_told_length_is_complete_with_its_last_byte() {
    for size in [70_000, 100_000] {
        let address = endless_in_http2(size).await;
        let retry = "[retry]\ndeadline = \"10s\"";
        let scene = Scene::default().toml(retry).played("east", 1, address).backend("east", "http2 = true");
        let stage = scene.start();
        let answer = stage.chat().await;
        assert_eq!((answer.status, answer.body.len(), answer.complete), (200, size, true));
        eventually("it is written down", || !records(&stage).is_empty()).await;
        assert_eq!(records(&stage)[0]["ended"], "completed", "{size}");
        assert_eq!(stage.backend("east").served_total, 1);
    }
}

#[tokio::test]
async fn token_counts_beyond_all_measure_are_not_believed_and_overflow_nothing() {
    let (east, stage) = played(Scene::default()).await;
    for _ in 0..3 {
        let serving = async {
            let (mut wire, _) = east.request().await;
            let most = u64::MAX;
            let usage = format!(r#"{{"usage":{{"prompt_tokens":{most},"completion_tokens":{most}}}}}"#);
            wire.write(answer("200 OK", "", &usage)).await;
        };
        let caller = stage.caller();
        let ((), answer) = tokio::join!(serving, caller.post(CHAT, QUESTION));
        assert_eq!(answer.status, 200);
    }
    eventually("all are counted", || stage.balancer.status().callers.requests_total == 3).await;
    assert_eq!(stage.backend("east").tokens_total, 0);
}

#[tokio::test]
async fn a_stream_that_fails_after_its_commit_was_not_served() {
    let (east, stage) = played(Scene::default()).await;
    let serving = async {
        let (mut wire, _) = east.request().await;
        let error = "data: {\"error\":{\"code\":\"server_error\",\"message\":\"x\"}}\n\n";
        wire.write(format!("{EVENTS}{}{}0\r\n\r\n", chunk(WORD), chunk(error))).await;
    };
    let caller = stage.caller();
    let ((), answer) = tokio::join!(serving, caller.post(CHAT, STREAMED));
    assert!(answer.complete && answer.text().ends_with("\"x\"}}\n\n"), "it passes as it came");
    eventually("it is written down", || !records(&stage).is_empty()).await;
    assert_eq!(records(&stage)[0]["attempts"][0]["verdict"], "cut_off");
    let east = stage.backend("east");
    assert_eq!((east.served_total, east.failed_total), (0, 1));
}

#[tokio::test]
async fn only_what_waiting_helps_counts_as_exhausted() {
    let scene = Scene::of([("east", 1)]).backend("east", "deployments = { \"gpt-4o\" = \"gpt-4o\" }");
    let stage = scene.start();
    let nowhere = CHAT.replace("gpt-4o", "nowhere");
    assert_eq!(stage.caller().post(&nowhere, QUESTION).await.status, 404);
    stage.resource("east").fault(FaultRule::times(Fault::status(500), 1));
    assert_eq!(stage.chat().await.status, 500);
    stage.resource("east").fault(Fault::throttle_seconds(30));
    assert_eq!(stage.chat().await.status, 429);
    assert_eq!(stage.chat().await.status, 429);
    eventually("all are counted", || stage.balancer.status().callers.requests_total == 4).await;
    assert_eq!(stage.balancer.status().callers.exhausted_total, 2);
}

#[tokio::test]
async fn in_a_stream_the_quota_headers_of_its_head_do_not_say_when_to_come_back() {
    let (east, stage) = played(Scene::default()).await;
    let serving = async {
        let (mut wire, _) = east.request().await;
        let quota = "x-ratelimit-remaining-tokens: 0\r\nx-ratelimit-reset-tokens: 45\r\n";
        let error = "data: {\"error\":{\"code\":\"429\",\"message\":\"Rate limit reached.\"}}\n\n";
        let head = EVENTS.strip_suffix("\r\n").unwrap();
        wire.write(format!("{head}{quota}\r\n{}0\r\n\r\n", chunk(error))).await;
    };
    let caller = stage.caller();
    let ((), answer) = tokio::join!(serving, caller.post(CHAT, STREAMED));
    assert_eq!(answer.status, 429);
    let told = answer.number("retry-after-ms").unwrap();
    assert!(told <= 11_001, "{told} ms: nobody said how long, which makes ten seconds and a little spread");
}

#[tokio::test]
async fn an_attempt_that_ran_when_its_caller_left_is_written_down_too() {
    let (east, stage) = played(Scene::default()).await;
    let caller = stage.caller();
    let calling = tokio::spawn(async move { caller.try_send(post(CHAT, QUESTION)).await });
    let _unanswered = east.request().await;
    calling.abort();
    eventually("it is written down", || !records(&stage).is_empty()).await;
    let record = &records(&stage)[0];
    assert_eq!(record["ended"], "caller left");
    assert_eq!(record["attempts"], json!([{ "backend": "east", "verdict": "abandoned", "status": null }]));
    assert_eq!(stage.backend("east").failed_total, 0);
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// A body of a little more than this.
fn large(bytes: usize) -> String {
    json!({ "messages": "x".repeat(bytes) }).to_string()
}

/// Asks with 8 MiB until an answer is seen: one that comes while the caller still sends may be lost to it with
/// the connection that is closed behind it.
async fn answered_early(caller: &Caller) -> Answer {
    loop {
        if let Ok(reply) = caller.try_send(post(CHAT, &large(8 * MIB))).await {
            let answer = reply.whole().await;
            if answer.complete {
                return answer;
            }
        }
    }
}

#[tokio::test]
async fn a_body_too_large_to_keep_counts_among_the_buffered_ones_until_it_was_sent() {
    let limits = "[limits]\nrequest_replay = \"16MiB\"\nbuffered = \"20MiB\"";
    let (east, stage) = played(Scene::default().toml(limits)).await;
    let mut first = Wire::connect(stage.balancer.address()).await;
    let sending = tokio::spawn(async move {
        let head = format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n");
        first.write(format!("{head}{}", chunk(&"x".repeat(17 * MIB)))).await;
        first
    });
    // It is on its way to a backend that does not read it.
    let mut upstream = east.accept().await;
    let caller = stage.caller();
    let second = within("an answer", answered_early(&caller)).await;
    assert_eq!((second.status, second.code().as_str()), (503, "overloaded"));
    upstream.exactly(17 * MIB).await;
    let _first = within("the rest of the body", sending).await.unwrap();
    let serving = async {
        let (mut wire, _) = east.request().await;
        wire.write(answer("200 OK", "", "{}")).await;
    };
    let asking = async {
        loop {
            let second = answered_early(&caller).await;
            if second.status != 503 {
                return second;
            }
        }
    };
    let ((), second) = tokio::join!(serving, within("room", asking));
    assert_eq!(second.status, 200);
}

#[tokio::test]
async fn a_prelude_counts_among_the_buffered_bytes_and_goes_out_where_there_is_no_room() {
    let limits = "[limits]\nrequest_replay = \"1MiB\"\nbuffered = \"1MiB\"";
    let (east, stage) = played(Scene::default().toml(limits)).await;
    let caller = stage.caller();
    let another = tokio::spawn(async move { caller.try_send(post(CHAT, &large(700 * KIB))).await });
    let _unanswered = east.request().await;
    let prelude = format!("data: {{\"choices\":[],\"pad\":\"{}\"}}\n\n", "x".repeat(300 * KIB));
    let serving = async {
        let (mut wire, _) = east.request().await;
        let began = Instant::now();
        wire.write(format!("{EVENTS}{}", chunk(&prelude))).await;
        wire.write(chunk(&prelude)).await;
        (wire, began)
    };
    let ((mut wire, began), mut reply) = tokio::join!(serving, caller.open(CHAT, STREAMED));
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    reply.until(&prelude.repeat(2)).await;
    let other = async {
        let (mut wire, _) = east.request().await;
        wire.write(answer("200 OK", "", "{}")).await;
    };
    let body = large(250 * KIB);
    let ((), answer) = tokio::join!(other, caller.post(CHAT, &body));
    assert_eq!(answer.status, 200, "what has gone takes no room");
    wire.write(format!("{}{}0\r\n\r\n", chunk(WORD), chunk("data: [DONE]\n\n"))).await;
    assert!(reply.whole().await.complete);
    another.abort();
}
