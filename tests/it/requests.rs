//! What leaves for a backend in HTTP/1.1: the bytes of a request, once and with one end, however slowly they are taken;
//! and what becomes of a connection on which not all went as it should.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use sidestep::net::connect::{Connector, InMemory};
use sidestep::net::upstream::{
    Answer, Origin, RequestBody, Reuse, SendError, Tls, Upstream, UpstreamSettings,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, sleep};

/// A backend within this thread: the far sides of the connections to it.
#[derive(Debug)]
struct Plugs {
    far: RefCell<VecDeque<DuplexStream>>,
    opened: Cell<usize>,
    /// So many bytes a connection holds.
    holds: usize,
}

impl InMemory for Plugs {
    fn connect(&self, _: &Origin) -> Pin<Box<dyn Future<Output = io::Result<DuplexStream>>>> {
        let (near, far) = duplex(self.holds);
        self.opened.set(self.opened.get() + 1);
        self.far.borrow_mut().push_back(far);
        Box::pin(async { Ok(near) })
    }
}

impl Plugs {
    fn new(holds: usize) -> Rc<Self> {
        Rc::new(Self { far: RefCell::default(), opened: Cell::new(0), holds })
    }

    fn upstream(self: &Rc<Self>) -> Upstream {
        thread_local!(static TLS: Tls = tls());
        let host = "a".to_owned();
        let origin = Origin { tls: false, host, port: 80, path_prefix: String::new(), http2: false };
        let connector = Connector::Memory(Rc::clone(self) as Rc<dyn InMemory>);
        TLS.with(|tls| Upstream::over(&connector, origin, tls, Duration::from_secs(9)).unwrap())
    }

    /// The backend's side of the next connection, once it is opened.
    async fn accept(&self) -> DuplexStream {
        loop {
            if let Some(far) = self.far.borrow_mut().pop_front() {
                return far;
            }
            yield_now().await;
        }
    }
}

fn tls() -> Tls {
    Tls::new(&UpstreamSettings { connect_timeout: Duration::from_secs(9), ca_file: None }).unwrap()
}

fn paused<F: Future>(test: F) -> F::Output {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().start_paused(true).build_local(LocalOptions::default()).unwrap().block_on(test)
}

/// A caller's body: what is sent into it comes out; a failure where that says so.
struct Fed(mpsc::UnboundedReceiver<Result<Bytes, io::Error>>);

impl hyper::body::Body for Fed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(cx).map(|fed| fed.map(|fed| fed.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

type Feed = mpsc::UnboundedSender<Result<Bytes, io::Error>>;

/// The body of a request as our listener gives it, and what feeds it.
async fn incoming() -> (Incoming, Feed) {
    let (feed, fed) = mpsc::unbounded_channel();
    let (near, far) = duplex(1 << 20);
    let (told, hears) = tokio::sync::oneshot::channel();
    let told = Rc::new(Cell::new(Some(told)));
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let _taken = told.take().unwrap().send(request.into_body());
        std::future::pending::<Result<Response<Full<Bytes>>, io::Error>>()
    });
    spawn_local(async move {
        let _ended =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service).await;
    });
    spawn_local(async move {
        let client = hyper::client::conn::http1::handshake(TokioIo::new(near));
        let (mut sender, connection) = client.await.unwrap();
        let asking = sender.send_request(Request::post("/").body(Fed(fed)).unwrap());
        drop(tokio::join!(asking, connection));
    });
    (hears.await.unwrap(), feed)
}

/// A body of these frames and then what is fed.
async fn streamed(frames: &[Bytes], length: Option<u64>) -> (RequestBody, Feed) {
    let (rest, feed) = incoming().await;
    (RequestBody::streamed(frames.to_vec().into(), rest, length, 1 << 30, Duration::from_secs(60)), feed)
}

async fn send(
    upstream: &Upstream,
    path: &'static str,
    body: RequestBody,
) -> Result<Response<Answer>, SendError> {
    let path = PathAndQuery::from_static(path);
    upstream.send(Method::POST, path, HeaderMap::new(), body, Reuse::Allowed).await
}

/// What its second request gets: answered only where it is the very next thing on a connection.
async fn asks_again(upstream: &Upstream, plugs: &Plugs, far: Option<DuplexStream>) {
    let asking = async {
        let told = send(upstream, "/again", RequestBody::empty()).await.unwrap();
        assert_eq!(told.into_body().collect().await.unwrap().to_bytes(), "again");
    };
    let playing = async {
        let mut far = match far {
            Some(far) => far,
            None => plugs.accept().await,
        };
        let (head, body) = read_request(&mut far).await;
        assert!(head.starts_with("POST /again HTTP/1.1\r\n") && body.is_empty(), "{head:?}");
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nagain").await.unwrap();
        far
    };
    tokio::join!(asking, playing);
}

/// One request, by hand: its head, and its body without framing. Not a byte more is read than belongs to it.
async fn read_request(far: &mut DuplexStream) -> (String, Vec<u8>) {
    let head = read_until(far, b"\r\n\r\n").await;
    let head = String::from_utf8(head).unwrap();
    let mut body = Vec::new();
    if head.contains("transfer-encoding: chunked\r\n") {
        loop {
            let line = String::from_utf8(read_until(far, b"\r\n").await).unwrap();
            let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
            let mut piece = vec![0; size + 2];
            far.read_exact(&mut piece).await.unwrap();
            assert_eq!(piece.split_off(size), b"\r\n");
            if size == 0 {
                return (head, body);
            }
            body.extend_from_slice(&piece);
        }
    }
    let told = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    body.resize(told.map_or(0, |told| told.parse().unwrap()), 0);
    far.read_exact(&mut body).await.unwrap();
    (head, body)
}

async fn read_until(far: &mut DuplexStream, end: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        read.push(far.read_u8().await.unwrap());
    }
    read
}

/// Whether nothing more comes, and it stays open.
async fn is_quiet(far: &mut DuplexStream) -> bool {
    let more = tokio::time::timeout(Duration::from_secs(1), far.read_u8()).await;
    more.is_err()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_request_leaves_once_and_with_one_end_however_its_body_comes_and_however_slowly_it_is_taken(
        sizes in prop::collection::vec(prop::sample::select(&[0_usize, 1, 100, 16_384, 16_385, 300_000]), 0..4),
        last in prop::collection::vec(prop::sample::select(&[1_usize, 20_000]), 0..2),
        told in any::<bool>(),
        holds in prop::sample::select(&[64_usize, 1_024, 70_000, 1 << 20]),
    ) {
        paused(async {
            let frames: Vec<Bytes> =
                sizes.iter().zip(b'a'..).map(|(size, letter)| vec![letter; *size].into()).collect();
            let rest: Vec<Bytes> = last.iter().map(|size| vec![b'z'; *size].into()).collect();
            let whole = [frames.concat(), rest.concat()].concat();
            let (body, feed) = streamed(&frames, told.then_some(whole.len() as u64)).await;
            rest.into_iter().for_each(|piece| feed.send(Ok(piece)).unwrap());
            drop(feed);
            let plugs = Plugs::new(holds);
            let upstream = plugs.upstream();
            let asking = async {
                let told = send(&upstream, "/first", body).await.unwrap();
                assert_eq!(told.into_body().collect().await.unwrap().to_bytes(), "first");
            };
            let playing = async {
                let mut far = plugs.accept().await;
                let (head, read) = read_request(&mut far).await;
                assert!(read == whole, "{} of {} bytes, or others", read.len(), whole.len());
                assert_eq!(head.contains("content-length: "), told || whole.is_empty() && !head.contains("chunked"));
                assert!(is_quiet(&mut far).await, "something behind the request's end");
                far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst").await.unwrap();
                far
            };
            let ((), far) = tokio::join!(asking, playing);
            asks_again(&upstream, &plugs, Some(far)).await;
            assert_eq!(plugs.opened.get(), 1, "the connection serves the next request");
        });
    }
}

#[test]
fn a_body_whose_length_was_told_is_over_with_its_last_byte_although_its_end_is_not_told_yet() {
    paused(async {
        let (body, feed) = streamed(&[Bytes::from_static(b"hello")], Some(5)).await;
        let plugs = Plugs::new(1 << 16);
        let upstream = plugs.upstream();
        let asking = async { send(&upstream, "/", body).await.unwrap().into_body().collect().await.unwrap() };
        let playing = async {
            let mut far = plugs.accept().await;
            assert_eq!(read_request(&mut far).await.1, b"hello");
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            far
        };
        let (_, far) = tokio::join!(asking, playing);
        asks_again(&upstream, &plugs, Some(far)).await;
        assert_eq!(plugs.opened.get(), 1);
        drop(feed);
    });
}

#[test]
fn a_get_whose_body_has_no_known_length_sends_it_all_the_same() {
    paused(async {
        let (body, feed) = streamed(&[Bytes::from_static(b"hello")], None).await;
        drop(feed);
        let plugs = Plugs::new(1 << 16);
        let upstream = plugs.upstream();
        let path = PathAndQuery::from_static("/");
        let asking = upstream.send(Method::GET, path, HeaderMap::new(), body, Reuse::Allowed);
        let playing = async {
            let mut far = plugs.accept().await;
            assert_eq!(read_request(&mut far).await.1, b"hello");
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        };
        assert_eq!(tokio::join!(asking, playing).0.unwrap().status(), 200);
    });
}

/// The framings of an early answer, and whether its own framing lets the connection live.
const EARLY: [&str; 3] = [
    "HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\n\r\nearly",
    "HTTP/1.1 413 Too Large\r\ntransfer-encoding: chunked\r\n\r\n5\r\nearly\r\n0\r\n\r\n",
    "HTTP/1.1 413 Too Large\r\n\r\nearly",
];

#[test]
fn an_answer_that_comes_while_the_body_still_goes_out_is_read_and_its_connection_serves_no_other() {
    paused(async {
        for (index, text) in EARLY.iter().enumerate() {
            for broken in [false, true] {
                let (body, feed) = streamed(&[Bytes::from(vec![b'x'; 1 << 20])], None).await;
                let plugs = Plugs::new(1_024);
                let upstream = plugs.upstream();
                let playing = async {
                    let mut far = plugs.accept().await;
                    read_until(&mut far, b"\r\n\r\n").await;
                    // Of an answer that ends with its connection nobody can tell.
                    let less = if broken { 2 } else { 0 };
                    far.write_all(&text.as_bytes()[..text.len() - less]).await.unwrap();
                    (index < 2 && !broken).then_some(far)
                };
                let asking = async {
                    let told = send(&upstream, "/", body).await.unwrap();
                    assert_eq!(told.status(), 413);
                    told.into_body().collect().await.map(http_body_util::Collected::to_bytes)
                };
                let (told, held) = tokio::join!(asking, playing);
                match told {
                    Ok(told) if index == 2 && broken => assert_eq!(told, "ear"),
                    Ok(told) => assert_eq!((told.as_ref(), broken), (&b"early"[..], false), "{text:?}"),
                    Err(_) => assert!(broken, "{text:?}"),
                }
                asks_again(&upstream, &plugs, None).await;
                assert_eq!(plugs.opened.get(), 2, "{text:?}");
                drop((feed, held));
            }
        }
    });
}

#[test]
fn a_body_that_fails_before_the_head_is_the_callers_fault_and_ends_the_connection() {
    paused(async {
        let (body, feed) = streamed(&[Bytes::from_static(b"begun")], None).await;
        let plugs = Plugs::new(1_024);
        let upstream = plugs.upstream();
        let playing = async {
            let mut far = plugs.accept().await;
            read_until(&mut far, b"begun\r\n").await;
            feed.send(Err(io::ErrorKind::Other.into())).unwrap();
            let mut rest = Vec::new();
            far.read_to_end(&mut rest).await.unwrap();
            assert!(rest.is_empty(), "{rest:?}");
        };
        let (told, ()) = tokio::join!(send(&upstream, "/", body), playing);
        assert!(matches!(told, Err(SendError::RequestBody(_))), "{told:?}");
        asks_again(&upstream, &plugs, None).await;
    });
}

#[test]
fn a_body_that_fails_after_an_early_head_cuts_the_answer_and_the_backend_hears_of_it() {
    paused(async {
        let (body, feed) = streamed(&[Bytes::from_static(b"begun")], None).await;
        let plugs = Plugs::new(1_024);
        let upstream = plugs.upstream();
        let playing = async {
            let mut far = plugs.accept().await;
            read_until(&mut far, b"begun\r\n").await;
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nearly").await.unwrap();
            sleep(Duration::from_secs(1)).await;
            feed.send(Err(io::ErrorKind::Other.into())).unwrap();
            let mut rest = Vec::new();
            let start = Instant::now();
            tokio::time::timeout(Duration::from_secs(5), far.read_to_end(&mut rest)).await.unwrap().unwrap();
            assert!(rest.is_empty() && start.elapsed() < Duration::from_secs(1));
        };
        let asking = async {
            let told = send(&upstream, "/", body).await.unwrap().into_body();
            tokio::time::timeout(Duration::from_secs(9), told.collect()).await
        };
        let (told, ()) = tokio::join!(asking, playing);
        assert!(told.expect("the answer ends").is_err());
    });
}

#[test]
fn what_a_backend_said_before_it_closed_is_read_although_the_request_could_not_be_written() {
    paused(async {
        let (body, feed) = streamed(&[Bytes::from(vec![b'x'; 1 << 20])], None).await;
        let plugs = Plugs::new(1_024);
        let upstream = plugs.upstream();
        let playing = async {
            let mut far = plugs.accept().await;
            read_until(&mut far, b"\r\n\r\n").await;
            far.write_all(b"HTTP/1.1 401 No\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        };
        let (told, ()) = tokio::join!(send(&upstream, "/", body), playing);
        let told = told.unwrap();
        assert_eq!(told.status(), 401);
        assert_eq!(told.into_body().collect().await.unwrap().to_bytes(), "no");
        drop(feed);
        asks_again(&upstream, &plugs, None).await;
    });
}

#[test]
fn a_connection_that_ends_behind_a_whole_answer_serves_no_other_request() {
    paused(async {
        let plugs = Plugs::new(1_024);
        let upstream = plugs.upstream();
        let playing = async {
            let mut far = plugs.accept().await;
            read_request(&mut far).await;
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            far.shutdown().await.unwrap();
            far
        };
        let asking =
            async { send(&upstream, "/", RequestBody::empty()).await.unwrap().into_body().collect().await };
        let (told, far) = tokio::join!(asking, playing);
        assert_eq!(told.unwrap().to_bytes(), "ok");
        asks_again(&upstream, &plugs, None).await;
        assert_eq!(plugs.opened.get(), 2);
        drop(far);
    });
}

#[test]
fn a_request_given_up_in_the_middle_of_its_writing_leaves_no_connection_behind() {
    paused(async {
        let plugs = Plugs::new(64);
        let upstream = plugs.upstream();
        let large = Bytes::from(vec![b'x'; 100_000]);
        let body = RequestBody::whole([large.clone(), large, Bytes::new()]);
        let given_up = tokio::time::timeout(Duration::from_secs(1), send(&upstream, "/", body)).await;
        assert!(given_up.is_err());
        let mut far = plugs.accept().await;
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.unwrap();
        assert!(read.len() <= 64, "{}", read.len());
        asks_again(&upstream, &plugs, None).await;
    });
}

#[test]
fn an_upgrade_that_nobody_asked_for_ends_its_connection() {
    paused(async {
        let plugs = Plugs::new(1_024);
        let upstream = plugs.upstream();
        let playing = async {
            let mut far = plugs.accept().await;
            read_request(&mut far).await;
            far.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\nearly").await.unwrap();
            far
        };
        let (told, far) = tokio::join!(send(&upstream, "/", RequestBody::empty()), playing);
        let told = told.unwrap();
        assert_eq!(told.status(), 101);
        assert!(told.into_body().collect().await.unwrap().to_bytes().is_empty());
        asks_again(&upstream, &plugs, None).await;
        drop(far);
    });
}

#[test]
fn a_kept_connection_that_says_continue_and_closes_has_begun_with_the_request() {
    paused(async {
        for (said, idle_too_long) in
            [("", true), ("HTTP/1.1 100 Continue\r\n\r\n", false), ("HTTP/1.1", false)]
        {
            let plugs = Plugs::new(1_024);
            let upstream = plugs.upstream();
            let first = async {
                send(&upstream, "/", RequestBody::empty()).await.unwrap().into_body().collect().await
            };
            let playing = async {
                let mut far = plugs.accept().await;
                read_request(&mut far).await;
                far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                far
            };
            let (_, mut far) = tokio::join!(first, playing);
            let playing = async {
                read_request(&mut far).await;
                far.write_all(said.as_bytes()).await.unwrap();
                drop(far);
            };
            let (told, ()) = tokio::join!(send(&upstream, "/", RequestBody::empty()), playing);
            match told {
                Err(SendError::Closed { reused, .. }) => assert_eq!(reused, idle_too_long, "{said:?}"),
                told => panic!("{told:?}"),
            }
            assert_eq!(plugs.opened.get(), 1);
        }
    });
}

#[test]
fn a_body_that_is_read_already_but_does_not_leave_has_its_time_from_the_last_byte_that_left() {
    paused(async {
        let (body, feed) = streamed(&[Bytes::from(vec![b'x'; 1 << 16])], None).await;
        let plugs = Plugs::new(1_024);
        let upstream = plugs.upstream();
        let start = Instant::now();
        let playing = async {
            let mut far = plugs.accept().await;
            // Far slower than its time, and never still for so long.
            for _ in 0..20 {
                sleep(Duration::from_secs(30)).await;
                far.read_exact(&mut [0; 1_024]).await.unwrap();
            }
            sleep(Duration::from_secs(3_600)).await;
        };
        let (told, ()) = tokio::join!(
            async {
                let told = send(&upstream, "/", body).await;
                (told, start.elapsed())
            },
            playing
        );
        assert!(matches!(told.0, Err(SendError::RequestStalled { by_caller: false })), "{:?}", told.0);
        assert_eq!(told.1, Duration::from_secs(20 * 30 + 60));
        drop(feed);
    });
}

#[test]
fn a_task_that_has_used_up_its_turn_takes_no_connection_of_which_it_cannot_tell_whether_it_lives() {
    paused(async {
        let plugs = Plugs::new(1_024);
        let upstream = plugs.upstream();
        let first =
            async { send(&upstream, "/", RequestBody::empty()).await.unwrap().into_body().collect().await };
        let playing = async {
            let mut far = plugs.accept().await;
            read_request(&mut far).await;
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        };
        // The backend has closed.
        drop(tokio::join!(first, playing));
        let asking = async {
            while tokio::task::coop::has_budget_remaining() {
                tokio::task::coop::consume_budget().await;
            }
            send(&upstream, "/", RequestBody::empty()).await
        };
        let playing = async {
            let mut far = plugs.accept().await;
            read_request(&mut far).await;
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        };
        let (told, ()) = tokio::join!(asking, playing);
        assert_eq!(told.unwrap().status(), 200);
    });
}

#[test]
fn lengths_and_fields_that_do_not_belong_to_the_request_do_not_leave() {
    paused(async {
        let plugs = Plugs::new(1_024);
        let upstream = plugs.upstream();
        let mut fields = HeaderMap::new();
        fields.insert(header::CONTENT_LENGTH, "7".parse().unwrap());
        fields.insert(header::TRANSFER_ENCODING, "chunked".parse().unwrap());
        fields.insert(header::HOST, "elsewhere".parse().unwrap());
        let body = RequestBody::whole([Bytes::from_static(b"hello"), Bytes::new(), Bytes::new()]);
        let asking =
            upstream.send(Method::POST, PathAndQuery::from_static("/"), fields, body, Reuse::Allowed);
        let playing = async {
            let mut far = plugs.accept().await;
            let (head, body) = read_request(&mut far).await;
            assert_eq!(head, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n");
            assert_eq!(body, b"hello");
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        };
        assert_eq!(tokio::join!(asking, playing).0.unwrap().status(), 200);
    });
}
