//! A request leaves for its backend whole, once and with one end, however its pieces come and however slowly they are
//! read; and what ends it in the middle leaves no connection behind that another request would get.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use sidestep::net::connect::{Connector, InMemory};
use sidestep::net::upstream::{Origin, RequestBody, Reuse, SendError, Tls, Upstream, UpstreamSettings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::runtime::{Builder, LocalOptions};

/// The backends' sides of the connections that are opened, in their order.
#[derive(Debug)]
struct Plugged(RefCell<Vec<DuplexStream>>, usize);

impl InMemory for Plugged {
    fn connect(&self, _: &Origin) -> Pin<Box<dyn Future<Output = io::Result<DuplexStream>>>> {
        let (near, far) = duplex(self.1);
        self.0.borrow_mut().push(far);
        Box::pin(async { Ok(near) })
    }
}

struct Stage {
    plugged: Rc<Plugged>,
    upstream: Rc<Upstream>,
}

impl Stage {
    /// A connection holds so many bytes on their way.
    fn new(room: usize) -> Self {
        let plugged = Rc::new(Plugged(RefCell::default(), room));
        let limit = Duration::from_secs(9);
        let tls = Tls::new(&UpstreamSettings { connect_timeout: limit, ca_file: None }).unwrap();
        let origin =
            Origin { tls: false, host: "a".into(), port: 80, path_prefix: String::new(), http2: false };
        let upstream = Upstream::over(&Connector::Memory(plugged.clone()), origin, &tls, limit).unwrap();
        Self { plugged, upstream: Rc::new(upstream) }
    }

    fn opened(&self) -> usize {
        self.plugged.0.borrow().len()
    }

    async fn send(&self, body: RequestBody) -> Result<u16, SendError> {
        let path = PathAndQuery::from_static("/p");
        let sent = self.upstream.send(Method::POST, path, HeaderMap::new(), body, Reuse::Allowed).await?;
        let status = sent.status().as_u16();
        let _all = sent.into_body().collect().await;
        Ok(status)
    }

    /// The body as it comes from a caller who writes these pieces, then ends or leaves.
    async fn forward(&self, pieces: &[Bytes], told: bool, leaves: bool) -> Result<u16, SendError> {
        let (mut caller, server) = duplex(32 * 1024);
        let result = Rc::new(RefCell::new(None));
        let (noted, upstream) = (Rc::clone(&result), Rc::clone(&self.upstream));
        let length = told.then(|| pieces.iter().map(Bytes::len).sum::<usize>() as u64);
        let serving = hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(
            TokioIo::new(server),
            service_fn(move |request: Request<Incoming>| {
                let (noted, upstream) = (Rc::clone(&noted), Rc::clone(&upstream));
                async move {
                    let rest = request.into_body();
                    let body = RequestBody::streamed(
                        VecDeque::new(),
                        rest,
                        length,
                        u64::MAX,
                        Duration::from_secs(3600),
                    );
                    let path = PathAndQuery::from_static("/p");
                    let sent =
                        upstream.send(Method::POST, path, HeaderMap::new(), body, Reuse::Allowed).await;
                    let status = match sent {
                        Ok(answer) => {
                            let status = answer.status().as_u16();
                            let _all = answer.into_body().collect().await;
                            Ok(status)
                        }
                        Err(error) => Err(error),
                    };
                    noted.replace(Some(status));
                    Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                }
            }),
        );
        let asking = async {
            let head = match length {
                Some(length) => format!("POST / HTTP/1.1\r\nhost: s\r\ncontent-length: {length}\r\n\r\n"),
                None => "POST / HTTP/1.1\r\nhost: s\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
            };
            caller.write_all(head.as_bytes()).await.unwrap();
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                if !told {
                    caller.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await.unwrap();
                }
                caller.write_all(piece).await.unwrap();
                if !told {
                    caller.write_all(b"\r\n").await.unwrap();
                }
            }
            if !leaves {
                if !told {
                    caller.write_all(b"0\r\n\r\n").await.unwrap();
                }
                let _head = caller.read(&mut [0; 512]).await;
            }
            drop(caller);
        };
        let _ended = tokio::join!(serving, asking);
        result.take().unwrap_or(Err(SendError::Closed { reused: false, source: None }))
    }

    /// Plays one connection: reads so slowly, answers once the body's end has come, and tells all that it has read.
    async fn play(&self, number: usize, step: usize) -> Vec<u8> {
        while self.opened() <= number {
            tokio::task::yield_now().await;
        }
        let mut far = std::mem::replace(&mut self.plugged.0.borrow_mut()[number], duplex(1).0);
        let mut read = Vec::new();
        let mut space = vec![0; step];
        let mut answered = false;
        loop {
            // As long as the writer finds no room, it is asked again and again.
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            let limit = Duration::from_millis(if answered { 5 } else { 60_000 });
            match tokio::time::timeout(limit, far.read(&mut space)).await {
                Ok(Ok(count)) if count > 0 => read.extend_from_slice(&space[..count]),
                Ok(_) | Err(_) => return read,
            }
            if !answered && is_whole(&read) {
                answered = true;
                far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
        }
    }
}

fn body_of(request: &[u8]) -> Option<(&str, &[u8])> {
    let at = request.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some((std::str::from_utf8(&request[..at]).unwrap(), &request[at + 4..]))
}

fn is_whole(request: &[u8]) -> bool {
    let Some((head, body)) = body_of(request) else { return false };
    match head.split("content-length: ").nth(1) {
        Some(length) => body.len() >= length.lines().next().unwrap().parse().unwrap(),
        None => chunks(body).is_some(),
    }
}

/// What stands in the chunks, and what comes behind the last one; nothing before that has come.
fn chunks(mut body: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut data = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        let chunk = body.get(end + 2..end + 2 + size)?;
        let ends = body.get(end + 2 + size..end + 4 + size)?;
        assert_eq!(ends, b"\r\n");
        data.extend_from_slice(chunk);
        body = &body[end + 4 + size..];
        if size == 0 {
            return Some((data, body));
        }
    }
}

fn paused<F: Future>(test: F) -> F::Output {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true).build_local(LocalOptions::default()).unwrap().block_on(test)
}

fn piece() -> impl Strategy<Value = usize> {
    prop_oneof![0..200_usize, Just(16_384), Just(16_385), 1_000..70_000_usize]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_body_leaves_once_and_with_one_end_however_slowly_it_is_read(
        sizes in prop::collection::vec(piece(), 1..5),
        told: bool,
        room in prop_oneof![1..100_usize, Just(4_096), Just(100_000)],
        step in prop_oneof![1..60_usize, Just(70_000)],
    ) {
        // One byte at a time takes its time.
        let (room, step) = if sizes.iter().sum::<usize>() > 5_000 { (room.max(512), step.max(512)) } else { (room, step) };
        let pieces: Vec<Bytes> =
            sizes.iter().zip(b'a'..).map(|(size, letter)| Bytes::from(vec![letter; *size])).collect();
        paused(async {
            let stage = Stage::new(room);
            let (status, read) = tokio::join!(stage.forward(&pieces, told, false), stage.play(0, step));
            assert_eq!(status.unwrap(), 200);
            let (head, body) = body_of(&read).unwrap();
            let (data, behind) = if told { (body.to_vec(), &[][..]) } else { chunks(body).unwrap() };
            assert_eq!(head.contains("transfer-encoding: chunked"), !told);
            assert!(data == pieces.concat(), "{} of {}", data.len(), pieces.concat().len());
            assert_eq!(behind, b"", "nothing comes behind the end");
        });
    }
}

#[test]
fn a_connection_whose_caller_left_in_the_middle_of_a_body_serves_nobody_else() {
    paused(async {
        let stage = Stage::new(4_096);
        let pieces = [Bytes::from(vec![b'a'; 20_000])];
        let first = async {
            let failed = stage.forward(&pieces, false, true).await;
            assert!(matches!(failed, Err(SendError::RequestBody(_))), "{failed:?}");
        };
        tokio::join!(first, stage.play(0, 512));
        let (second, read) = tokio::join!(stage.send(RequestBody::empty()), stage.play(1, 512));
        assert_eq!(second.unwrap(), 200);
        assert!(body_of(&read).unwrap().0.starts_with("POST /p HTTP/1.1\r\n"));
        assert_eq!(stage.opened(), 2);
    });
}

#[test]
fn a_connection_that_answered_before_all_was_asked_serves_nobody_else() {
    paused(async {
        let stage = Stage::new(512);
        let pieces = [Bytes::from(vec![b'a'; 50_000])];
        let early = async {
            while stage.opened() == 0 {
                tokio::task::yield_now().await;
            }
            let mut far = std::mem::replace(&mut stage.plugged.0.borrow_mut()[0], duplex(1).0);
            let _some = far.read(&mut [0; 300]).await;
            far.write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
            // It stays open, and reads no more.
            tokio::time::sleep(Duration::from_secs(60)).await;
        };
        let asking = async {
            assert_eq!(stage.forward(&pieces, true, false).await.unwrap(), 413);
            let (second, _) = tokio::join!(stage.send(RequestBody::empty()), stage.play(1, 512));
            assert_eq!(second.unwrap(), 200);
        };
        tokio::select! {
            () = asking => {}
            () = early => panic!("the answer was early, but nobody heard it"),
        }
    });
}

#[test]
fn an_empty_answer_that_tells_of_a_body_ends_its_connection() {
    for head in ["204 No Content\r\ncontent-length: 5", "204 No Content\r\ntransfer-encoding: chunked"] {
        paused(async {
            let stage = Stage::new(4_096);
            let answering = async {
                while stage.opened() == 0 {
                    tokio::task::yield_now().await;
                }
                let mut far = std::mem::replace(&mut stage.plugged.0.borrow_mut()[0], duplex(1).0);
                let _asked = far.read(&mut [0; 300]).await;
                far.write_all(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes()).await.unwrap();
                let _closed = far.read(&mut [0; 300]).await;
            };
            let (first, ()) = tokio::join!(stage.send(RequestBody::empty()), answering);
            assert_eq!(first.unwrap(), 204);
            let (second, _) = tokio::join!(stage.send(RequestBody::empty()), stage.play(1, 512));
            assert_eq!((second.unwrap(), stage.opened()), (200, 2), "{head}");
        });
    }
}
