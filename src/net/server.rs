//! The server side of HTTP: one connection, its limits, its drain. One `Handler` per thread.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::connect::ask_whether_alive;
use super::flow::{Flow, Flows, Held, HeldBody};
use super::handshake::handshake;
use super::pacing::{Answering, Pace, Paced};
use super::parting::{SLOW_HEAD, part, refuse};
pub use super::stop::{LocalStop, Stop};
pub use super::tunnel::Upgraded;
use super::watched::Watched;

/// The error a body ends with when its connection is to be aborted.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// In a drain, so long may a connection's first bytes still take.
const LAST_LOOK: Duration = Duration::from_millis(100);

/// Bounds of the server side; `[limits]` in the settings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ServerLimits {
    /// Open connections.
    pub connections: NonZeroUsize,
    /// Concurrent streams of one HTTP/2 connection.
    pub streams_per_connection: u32,
    /// Bytes of a request head.
    pub header_bytes: usize,
    /// From a head's first byte to its last.
    pub header_time: Duration,
    /// An idle keep-alive connection.
    pub idle: Duration,
    /// A caller that takes nothing of its answer: its connection, or in HTTP/2 its stream, ends.
    pub write_idle: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: NonZeroUsize::new(10_000).expect("not zero"),
            streams_per_connection: 256,
            header_bytes: 64 * 1024,
            header_time: Duration::from_secs(10),
            idle: Duration::from_secs(3600),
            write_idle: Duration::from_secs(600),
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Address of the caller.
    pub address: SocketAddr,
}

/// What a connection is used for once its handler has answered 101.
pub type Upgrade = Box<dyn FnOnce(Upgraded) -> Pin<Box<dyn Future<Output = ()>>>>;

/// What a thread does with requests. `!Send` on purpose: a handler lives on one thread.
pub trait Handler: 'static {
    /// The body of its answers. A body that ends in an error aborts the connection.
    type Body: Body<Data = Bytes, Error = BodyError> + 'static;

    /// Answers one request. Dropped when the caller leaves.
    fn handle(
        self: Rc<Self>,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Response<Self::Body>> + 'static;

    /// What follows a 101, on HTTP/1.1; it comes with the body of that answer.
    fn take_upgrade(body: &mut Self::Body) -> Option<Upgrade> {
        let _nothing = body;
        None
    }
}

/// Accepts on `listener` and serves on this thread until `stop` says otherwise and, when draining, until
/// the last connection has ended. Must run inside a `tokio::runtime::LocalRuntime`.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    handler: Rc<H>,
    limits: ServerLimits,
    mut stop: watch::Receiver<Stop>,
) {
    let local = LocalStop::default();
    accept(listener, &mut stop, |stream, address| {
        if local.ears() >= limits.connections.get() {
            refuse(stream);
            return;
        }
        let handler = Rc::clone(&handler);
        let ear = local.ear();
        tokio::task::spawn_local(serve_connection(stream, Peer { address }, handler, limits, None, ear));
    })
    .await;
    local.tell(*stop.borrow_and_update());
    loop {
        tokio::select! {
            () = local.emptied() => return,
            told = stop.changed() => match told {
                Ok(()) => local.tell(*stop.borrow_and_update()),
                Err(_) => local.tell(Stop::Abort),
            },
        }
        tokio::task::yield_now().await;
    }
}

/// Accepts until `stop` leaves `Run`, then closes the listener. Who was let in by the kernel before a drain is taken
/// too: closing the listener would reset them.
pub(crate) async fn accept(
    listener: TcpListener,
    stop: &mut watch::Receiver<Stop>,
    mut take: impl FnMut(TcpStream, SocketAddr),
) {
    let mut pause = AcceptPause::default();
    let told = loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            told = stop.wait_for(|state| *state != Stop::Run) => break told.map_or(Stop::Abort, |told| *told),
        };
        match accepted {
            Ok((stream, address)) => {
                pause.reset();
                take(stream, address);
            }
            Err(_) => pause.wait().await,
        }
    };
    if told == Stop::Abort {
        return;
    }
    // Asked of the kernel itself: the reactor may not have heard of them yet.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, address)) = listener.accept() {
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            take(stream, address);
        }
    }
}

/// After an accept error (most often: out of file descriptors) accepting pauses, longer each time, instead
/// of spinning on an error that cannot go away by itself. Operators wait with the callers then: a descriptor kept in
/// reserve for a probe would be taken by whichever thread asks first as soon as it is given up.
#[derive(Debug, Default)]
struct AcceptPause(u32);

impl AcceptPause {
    fn reset(&mut self) {
        self.0 = 0;
    }

    async fn wait(&mut self) {
        sleep(Duration::from_millis(10 << self.0.min(6))).await;
        self.0 += 1;
    }
}

/// Serves one connection, HTTP/1.1 or HTTP/2 (by prior knowledge; over `tls` as was agreed), until it ends or `ear`
/// hears otherwise.
pub async fn serve_connection<H: Handler>(
    stream: TcpStream,
    peer: Peer,
    handler: Rc<H>,
    limits: ServerLimits,
    tls: Option<Arc<ServerConfig>>,
    ear: super::stop::Ear,
) {
    // Each event of a stream must leave at once; an error here means the connection is already gone.
    let _gone = stream.set_nodelay(true);
    ask_whether_alive(&stream);
    if let Some(tls) = tls {
        // Boxed: what it needs is needed for a moment only, and not by every connection.
        let agreeing = Box::pin(handshake(stream, tls, limits.header_time, &ear));
        let Some(stream) = agreeing.await else { return };
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            Box::pin(serve_http2(stream, peer, handler, limits, ear)).await;
        } else {
            serve_http1(stream, peer, handler, limits, ear).await;
        }
        return;
    }
    let http2 = match first_look(&stream, limits, &ear).await {
        Look::Http1 => false,
        Look::Http2 => true,
        Look::Nothing => return,
        Look::Slow => return part(stream, SLOW_HEAD).await,
    };
    if http2 {
        // On the heap, here and above: the others need not make room for it.
        Box::pin(serve_http2(stream, peer, handler, limits, ear)).await;
    } else {
        serve_http1(Watched::new(stream), peer, handler, limits, ear).await;
    }
}

/// What a caller begins with.
enum Look {
    Http1,
    Http2,
    /// It says nothing.
    Nothing,
    /// It began, and does not go on.
    Slow,
}

async fn first_look(stream: &TcpStream, limits: ServerLimits, ear: &super::stop::Ear) -> Look {
    let mut looking = pin!(timeout(limits.idle, speaks_http2(stream, limits.header_time)));
    let told = poll_fn(|cx| match ear.listen(cx) {
        Stop::Run => Poll::Pending,
        told => Poll::Ready(told),
    });
    let looked = tokio::select! {
        biased;
        looked = &mut looking => looked,
        // Who has said nothing loses nothing, and would hold up a drain to its end; but a request may be here that
        // the reactor has not told us of.
        told = told => match told {
            Stop::Drain => match timeout(LAST_LOOK, looking).await {
                Ok(looked) => looked,
                Err(_) => return Look::Nothing,
            },
            Stop::Run | Stop::Abort => return Look::Nothing,
        },
    };
    match looked {
        Ok(Ok(true)) => Look::Http2,
        Ok(Ok(false)) => Look::Http1,
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Look::Slow,
        Ok(Err(_)) | Err(_) => Look::Nothing,
    }
}

/// Whether the caller opens with HTTP/2's preface. Looks without taking: one system call per connection.
async fn speaks_http2(stream: &TcpStream, limit: Duration) -> io::Result<bool> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut first = [0; PREFACE.len()];
    let mut seen = stream.peek(&mut first).await?;
    let whole = async {
        // A peek of what is already there returns at once, so a split preface is waited for by the clock.
        while 0 < seen && seen < PREFACE.len() && first[..seen] == PREFACE[..seen] {
            sleep(Duration::from_millis(5)).await;
            seen = stream.peek(&mut first).await?;
        }
        Ok(first[..seen] == *PREFACE)
    };
    timeout(limit, whole).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Serves one connection that speaks HTTP/1.1, over whatever carries it, until it ends or `ear` hears otherwise.
pub async fn serve_http1<S: AsyncRead + AsyncWrite + Unpin + 'static, H: Handler>(
    stream: S,
    peer: Peer,
    handler: Rc<H>,
    limits: ServerLimits,
    ear: super::stop::Ear,
) {
    let pace = Pace::new();
    let paced = Paced::new(stream, pace.clone(), limits.header_time, limits.idle, limits.write_idle);
    let io = TokioIo::new(paced);
    let waiting = pace.clone();
    let upgrade = Rc::new(Cell::new(None));
    let agreed = Rc::clone(&upgrade);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        pace.busy(!request.body().is_end_stream());
        let (pace, agreed) = (pace.clone(), Rc::clone(&agreed));
        let answer = Rc::clone(&handler).handle(request, peer);
        async move {
            let mut response = answer.await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                agreed.set(H::take_upgrade(response.body_mut()));
            }
            Ok::<_, Infallible>(response.map(|body| HeldBody::new(body, Answering(pace))))
        }
    });
    let mut connection = hyper::server::conn::http1::Builder::new()
        .max_buf_size(limits.header_bytes.max(8192))
        .serve_connection(io, service);
    let mut told = Stop::Run;
    let whole = poll_fn(|cx| {
        if ear.state() == Stop::Abort {
            return Poll::Ready(false);
        }
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(ended.is_ok());
            }
            if !waiting.looks_again() {
                break;
            }
        }
        waiting.waits();
        let heard = ear.listen(cx);
        if heard != told {
            told = heard;
            Pin::new(&mut connection).graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
    if let Some(upgrade) = upgrade.take().filter(|_: &Upgrade| whole) {
        let upgraded = {
            let parts = connection.into_parts();
            let stream = Box::new(parts.io.into_inner().into_inner());
            Upgraded { stream, early: parts.read_buf, ear, write_idle: limits.write_idle }
        };
        upgrade(upgraded).await;
    }
}

async fn serve_http2<S: AsyncRead + AsyncWrite + Unpin + 'static, H: Handler>(
    stream: S,
    peer: Peer,
    handler: Rc<H>,
    limits: ServerLimits,
    ear: super::stop::Ear,
) {
    let streams = Streams::default();
    let (opened, flows) = (streams.clone(), Flows::new(limits.write_idle));
    let executor = flows.clone();
    let service = hyper::service::service_fn(move |request| {
        let (handler, stream) = (Rc::clone(&handler), opened.open(flows.open()));
        async move {
            let response = handler.handle(request, peer).await;
            Ok::<_, Infallible>(response.map(|body| HeldBody::new(body, stream)))
        }
    });
    let connection = hyper::server::conn::http2::Builder::new(executor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_per_connection)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        // A vanished caller is noticed although it sends nothing.
        .keep_alive_interval(Some(Duration::from_secs(60)))
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut told = Stop::Run;
    let mut timer = pin!(sleep(limits.idle));
    poll_fn(|cx| {
        if ear.state() == Stop::Abort || connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let idle = streams.poll_idle(timer.as_mut(), limits.idle, cx).is_ready();
        if idle && told != Stop::Run {
            // Told to go, and still here.
            return Poll::Ready(());
        }
        let heard = if idle { Stop::Drain } else { ear.listen(cx) };
        if heard != Stop::Run && told == Stop::Run {
            told = heard;
            connection.as_mut().graceful_shutdown();
            timer.as_mut().reset(Instant::now() + limits.header_time);
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
}

/// The requests of one HTTP/2 connection that have not ended, and since when there are none.
#[derive(Clone, Debug)]
struct Streams(Rc<(Cell<usize>, Cell<Instant>)>);

impl Default for Streams {
    fn default() -> Self {
        Self(Rc::new((Cell::new(0), Cell::new(Instant::now()))))
    }
}

impl Streams {
    fn open(&self, flow: Rc<Flow>) -> OpenStream {
        self.0.0.set(self.0.0.get() + 1);
        OpenStream { streams: self.clone(), flow }
    }

    /// Ready once there has been no request for so long. The timer fires at the earliest moment that could be.
    fn poll_idle(&self, mut timer: Pin<&mut Sleep>, limit: Duration, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(timer.as_mut().poll(cx));
            let (open, since) = (self.0.0.get(), self.0.1.get());
            let earliest = if open > 0 { Instant::now() + limit } else { since + limit };
            if earliest <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(earliest);
        }
    }
}

/// One of them. Dropped with its answer, or when it is reset.
struct OpenStream {
    streams: Streams,
    flow: Rc<Flow>,
}

impl Held for OpenStream {
    fn gave(&self) {
        self.flow.gave();
    }

    fn waits(&self) {
        self.flow.waits();
    }

    fn is_full(&self) -> bool {
        self.flow.is_full()
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let (open, since) = &*self.streams.0;
        open.set(open.get() - 1);
        since.set(Instant::now());
    }
}

/// Runs hyper's HTTP/2 tasks on this thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
