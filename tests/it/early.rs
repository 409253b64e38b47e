//! Answers that come before a caller has said everything reach it all the same, and what it says then takes nothing.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming};
use serde_json::json;
use sidestep::net::server::{BodyError, Handler, Peer, ServerLimits, serve_http1};
use sidestep::net::stop::LocalStop;
use sidestep::simulator::{Fault, FaultRule};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::runtime::{Builder, LocalOptions};
use tokio::time::{Instant, sleep};

use super::fixture::{CHAT, QUESTION};
use super::front::Front;
use super::raw::{Answer, Wire, ask, now, request, until};

/// More than sockets hold: its end is not yet sent when the answer comes.
const LARGE: usize = 8 << 20;

/// An answer that is lost is lost in some runs only.
const RUNS: usize = 30;

/// What a caller hears that sends all of a large body before it reads.
fn after_sending_all(address: SocketAddr, headers: &str) -> Answer {
    let mut wire = Wire::to(address);
    wire.send(format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {LARGE}\r\n\r\n"));
    let piece = vec![b'x'; 64 * 1024];
    for _ in 0..LARGE / piece.len() {
        // A reset in the middle would take along an answer that has not been read, on some systems and networks.
        assert!(wire.sends(&piece), "the connection broke while its caller was sending");
    }
    let answer = wire.answer().expect("the answer is not lost");
    assert!(answer.complete && wire.closed(), "{answer:?}");
    answer
}

#[test]
fn an_early_answer_reaches_a_caller_that_still_sends() {
    let keys = "[callers]\nkeys = [{ name = \"app\", key = \"caller-key-0123456789\" }]\n";
    let limits = "[limits]\nrequest_replay = \"1MiB\"\nrequest_hard_limit = \"1MiB\"\n";
    let front = Front::with("", &format!("{keys}{limits}"));
    for run in 0..RUNS {
        let answer = after_sending_all(front.address(), "");
        assert_eq!(answer.status, 401, "{run}");
        let answer = after_sending_all(front.address(), "api-key: caller-key-0123456789\r\n");
        assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"), "{run}");
    }
    assert_eq!(front.seen("east"), 0);
}

#[test]
fn an_early_503_reaches_a_caller_that_still_sends() {
    let limits = "[limits]\nconnections = 2\nrequest_replay = \"16MiB\"\nbuffered = \"16MiB\"";
    let front = Front::with("", limits);
    front.resource("east").fault(FaultRule::standing(Fault::HangBeforeHead));
    // Takes most of what may be buffered.
    let mut first = Wire::to(front.address());
    let padding = "x".repeat(12 << 20);
    let body = json!({ "messages": [{ "role": "user", "content": padding }] }).to_string();
    first.send(request("POST", CHAT, "", &body));
    until("the first body is held", || front.resource("east").counters().in_flight == 1);
    for run in 0..RUNS {
        let answer = after_sending_all(front.address(), "");
        assert_eq!((answer.status, answer.code().as_str()), (503, "overloaded"), "{run}");
    }
    // And one connection more than there may be.
    let mut second = Wire::to(front.address());
    second.send("POST ");
    for run in 0..RUNS {
        let answer = after_sending_all(front.address(), "");
        assert_eq!((answer.status, answer.code().as_str()), (503, "overloaded"), "{run}");
    }
}

#[test]
fn who_sends_on_after_an_early_answer_is_read_no_further_than_the_bound() {
    let front = Front::with("", "[limits]\nrequest_replay = \"1KiB\"\nrequest_hard_limit = \"1KiB\"");
    let mut wire = Wire::to(front.address());
    wire.send(format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n"));
    assert_eq!(wire.answer().unwrap().status, 413);
    let piece = vec![b'x'; 1 << 20];
    let began = now();
    let sent = (0..1000).take_while(|_| wire.sends(&piece)).count();
    // What it reads at the most is 64 MiB; the rest lies in the sockets.
    assert!((60..100).contains(&sent), "{sent} MiB");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_head_that_cannot_be_read_is_told_so_in_the_apis_form() {
    let front = Front::with("", "[limits]\nheader_bytes = \"128KiB\"");
    let mut many = String::new();
    (0..200).for_each(|index| write!(many, "x-{index}: {}\r\n", "x".repeat(1000)).unwrap());
    let cases = [
        (format!("POST {CHAT} HTTP/1.1\r\nno header at all\r\n\r\n"), 400, "invalid_request"),
        ("no http at all\r\n\r\n".to_owned(), 400, "invalid_request"),
        (format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\n{many}\r\n"), 431, "head_too_large"),
        (format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(66_000)), 414, "uri_too_long"),
    ];
    for (asked, status, code) in &cases {
        for rest in ["", &"x".repeat(LARGE)] {
            let mut wire = Wire::to(front.address());
            let answer = wire.send(asked).send(rest).answer().expect("the answer is not lost");
            assert_eq!((answer.status, answer.code().as_str()), (*status, *code));
            assert_eq!(answer.header("connection"), Some("close"));
            assert!(answer.complete && wire.closed());
        }
        // Also behind a good one that came in the same packet.
        let mut wire = Wire::to(front.address());
        wire.send(request("POST", CHAT, "", QUESTION) + asked);
        assert_eq!(wire.answer().unwrap().status, 200);
        let answer = wire.answer().unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (*status, *code));
    }
    assert_eq!(ask(front.address(), "POST", CHAT, "", QUESTION).status, 200);
}

/// Answers without a look at what is asked.
struct AnswersAtOnce(usize);

impl Handler for AnswersAtOnce {
    type Body = UnsyncBoxBody<Bytes, BodyError>;

    async fn handle(self: Rc<Self>, _request: Request<Incoming>, _peer: Peer) -> Response<Self::Body> {
        let all = Full::new(Bytes::from(vec![b'!'; self.0]));
        Response::new(all.map_err(|never| match never {}).boxed_unsync())
    }
}

#[test]
fn an_early_answer_that_does_not_leave_in_one_go_is_parted_from_as_gently() {
    for size in [10, 40_000] {
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let (mut far, near) = duplex(1024);
            let stop = LocalStop::default();
            let peer = Peer { address: SocketAddr::from(([127, 0, 0, 1], 1)) };
            let limits = ServerLimits::default();
            let serving = serve_http1(near, peer, Rc::new(AnswersAtOnce(size)), limits, stop.ear());
            let calling = async {
                far.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n").await.unwrap();
                let mut all = Vec::new();
                far.read_to_end(&mut all).await.unwrap();
                assert_eq!(all.iter().filter(|byte| **byte == b'!').count(), size);
                // A socket would be reset by what nobody reads, and the answer lost.
                let sent = far.write_all(&[b'x'; 100_000]).await;
                assert!(sent.is_ok(), "{size}: what is still sent is not read");
                drop(far);
            };
            tokio::join!(serving, calling);
        });
    }
}

/// A body of some size that then breaks.
struct Breaks(Option<Bytes>, bool);

impl Body for Breaks {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // hyper writes nothing of a frame that an error follows at once.
        if self.0.is_none() && !std::mem::replace(&mut self.1, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(self.0.take().map_or_else(|| Err("broken".into()), |all| Ok(Frame::data(all)))))
    }
}

struct BreaksAfter(usize);

impl Handler for BreaksAfter {
    type Body = Breaks;

    async fn handle(self: Rc<Self>, _request: Request<Incoming>, _peer: Peer) -> Response<Breaks> {
        Response::new(Breaks(Some(Bytes::from(vec![b'!'; self.0])), false))
    }
}

/// How long a connection whose answer breaks lasts, and how much of it its caller got, which reads after a time or
/// never.
fn broken_answer(reads_after: Option<Duration>) -> (Duration, usize) {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async {
        let (mut far, near) = duplex(1024);
        far.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let stop = LocalStop::default();
        let peer = Peer { address: SocketAddr::from(([127, 0, 0, 1], 1)) };
        let start = Instant::now();
        let serving = async {
            serve_http1(near, peer, Rc::new(BreaksAfter(40_000)), ServerLimits::default(), stop.ear()).await;
            start.elapsed()
        };
        let reading = async {
            let mut all = Vec::new();
            if let Some(time) = reads_after {
                sleep(time).await;
                far.read_to_end(&mut all).await.unwrap();
            }
            all.iter().filter(|byte| **byte == b'!').count()
        };
        tokio::join!(serving, reading)
    })
}

#[test]
fn the_last_words_of_a_broken_answer_wait_for_a_slow_caller_but_not_for_ever() {
    assert_eq!(broken_answer(Some(Duration::ZERO)), (Duration::ZERO, 40_000));
    assert_eq!(broken_answer(Some(Duration::from_secs(1))), (Duration::from_secs(1), 40_000));
    assert_eq!(broken_answer(None), (Duration::from_secs(2), 0));
}
