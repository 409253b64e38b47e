//! One answer, read by our exchange and by hyper's client: what `answers` and the fuzz target `answer` compare.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Body;
use hyper_util::rt::TokioIo;
use sidestep::net::connect::{Connector, InMemory};
use sidestep::net::upstream::{Origin, RequestBody, Reuse, SendError, Tls, Upstream, UpstreamSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::{Builder, LocalOptions};

pub(crate) fn tls() -> Tls {
    Tls::new(&UpstreamSettings { connect_timeout: Duration::from_secs(9), ca_file: None }).unwrap()
}

/// An answer as far as it was read.
#[derive(Debug, PartialEq)]
pub(crate) struct Told {
    pub(crate) status: u16,
    reason: Option<Vec<u8>>,
    fields: HeaderMap,
    pub(crate) body: Vec<u8>,
    trailers: Option<HeaderMap>,
    pub(crate) whole: bool,
}

impl Told {
    pub(crate) async fn of<B: Body<Data = Bytes> + Unpin>(response: Response<B>) -> Self {
        let (head, mut answer) = response.into_parts();
        let reason =
            head.extensions.get::<hyper::ext::ReasonPhrase>().map(|reason| reason.as_bytes().to_vec());
        let (status, fields) = (head.status.as_u16(), head.headers);
        let mut told = Self { status, reason, fields, body: Vec::new(), trailers: None, whole: true };
        while let Some(frame) = answer.frame().await {
            match frame.map(|frame| frame.into_data().map_err(hyper::body::Frame::into_trailers)) {
                Ok(Ok(data)) => told.body.extend_from_slice(&data),
                Ok(Err(trailers)) => told.trailers = trailers.ok(),
                Err(_) => told.whole = false,
            }
        }
        told
    }

    /// Of these we tell what we made of them.
    fn comparable(mut self) -> Self {
        self.fields.remove(header::CONTENT_LENGTH);
        self
    }
}

/// Where the backend's side of the next connection lies.
#[derive(Debug, Default)]
pub(crate) struct Plugged(pub(crate) RefCell<Option<DuplexStream>>, pub(crate) Cell<usize>);

impl InMemory for Plugged {
    fn connect(&self, _: &Origin) -> Pin<Box<dyn Future<Output = io::Result<DuplexStream>>>> {
        self.1.set(self.1.get() + 1);
        let stream = self.0.take().ok_or_else(|| io::ErrorKind::ConnectionRefused.into());
        Box::pin(async { stream })
    }
}

/// Sends the pieces once it was asked.
async fn play(far: &mut DuplexStream, pieces: &[&[u8]]) {
    let mut request = [0; 1024];
    let _asked = far.read(&mut request).await;
    for piece in pieces {
        let _sent = far.write_all(piece).await;
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }
    let _closed = far.shutdown().await;
}

/// What we read, and whether the connection was kept while it was open.
async fn ours(method: &Method, pieces: &[&[u8]], tls: &Tls) -> (Result<Told, SendError>, bool) {
    let (near, far) = duplex(64 * 1024);
    let plugged = Rc::new(Plugged(RefCell::new(Some(near)), Cell::new(0)));
    let origin = Origin { tls: false, host: "a".into(), port: 80, path_prefix: String::new(), http2: false };
    let upstream =
        Upstream::over(&Connector::Memory(plugged.clone()), origin, tls, Duration::from_secs(9)).unwrap();
    let send = |method: &Method| {
        upstream.send(
            method.clone(),
            PathAndQuery::from_static("/"),
            HeaderMap::new(),
            RequestBody::empty(),
            Reuse::Allowed,
        )
    };
    let (done, is_done) = tokio::sync::oneshot::channel::<()>();
    let asking = async {
        let told = match send(method).await {
            Ok(response) => Ok(Told::of(response).await),
            Err(error) => Err(error),
        };
        // Asked again at once: a kept connection spares another.
        let again = tokio::time::timeout(Duration::from_millis(1), send(method)).await;
        drop((again, done));
        (told, plugged.1.get() == 1)
    };
    let playing = async {
        let mut far = far;
        play(&mut far, pieces).await;
        let _held = is_done.await;
    };
    tokio::join!(asking, playing).0
}

async fn hypers(method: &Method, pieces: &[&[u8]]) -> Result<Told, hyper::Error> {
    let (near, mut far) = duplex(64 * 1024);
    let asking = async {
        let mut builder = hyper::client::conn::http1::Builder::new();
        let (mut sender, connection) = builder.max_buf_size(64 * 1024).handshake(TokioIo::new(near)).await?;
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = method.clone();
        let told = async {
            let response = sender.send_request(request).await?;
            Ok(Told::of(response).await)
        };
        let (told, _ended) = tokio::join!(told, connection);
        told
    };
    tokio::join!(asking, play(&mut far, pieces)).0
}

/// No coding is told but the one that we ask for, once, and no length beside it.
fn plainly_framed(stream: &[u8]) -> bool {
    let text = String::from_utf8_lossy(stream).to_lowercase();
    let told = text.matches("transfer-encoding").count();
    told == 0
        || told == 1 && text.contains("\ntransfer-encoding: chunked\r\n") && !text.contains("content-length")
}

/// What is no mistake of an answer's framing: a length that may be beyond any that we take.
fn is_beyond(stream: &[u8]) -> bool {
    stream.split(|byte| !byte.is_ascii_digit()).any(|digits| digits.len() >= 19)
}

fn has_bare_line_feed(stream: &[u8]) -> bool {
    stream.iter().enumerate().any(|(at, byte)| *byte == b'\n' && !stream[..at].ends_with(b"\r"))
}

/// Panics where an answer that comes in these pieces is read in another way than by hyper, or than whole.
pub(crate) fn compare(method: &Method, pieces: &[&[u8]], tls: &Tls) {
    let stream = &*pieces.concat();
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async {
        let (told, kept) = ours(method, pieces, tls).await;
        let (whole, _) = ours(method, &[stream], tls).await;
        let reference = hypers(method, pieces).await;
        let text = String::from_utf8_lossy(stream);
        assert!(!kept || told.as_ref().is_ok_and(|told| told.whole), "{text:?}");
        match (told, whole, reference) {
            (Ok(told), Ok(whole), Ok(reference)) => {
                assert_eq!(told, whole, "{text:?}");
                // Stricter than hyper: who takes a bare line feed for an end reads other trailers than who does not.
                if reference.whole && !told.whole {
                    assert!(has_bare_line_feed(stream), "{text:?}");
                } else if told.status != 101 {
                    // An upgrade that nobody asked for is no answer to either.
                    assert_eq!(told.comparable(), reference.comparable(), "{text:?}");
                }
            }
            (Err(_), Err(_), Err(_)) => {}
            (Err(ours), Err(_), Ok(reference)) => {
                let why = is_beyond(stream) || !plainly_framed(stream);
                assert!(why, "{ours:?} for {reference:?}, {text:?}");
            }
            (told, whole, reference) => panic!("{text:?}: {told:?} cut, {whole:?} whole, {reference:?}"),
        }
    });
}
