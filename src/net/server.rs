//! The server side of HTTP: connections, limits, drain. One `Handler` per thread.

use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;

/// The error a body ends with when its connection is to be aborted.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

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
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: NonZeroUsize::new(10_000).expect("not zero"),
            streams_per_connection: 256,
            header_bytes: 64 * 1024,
            header_time: Duration::from_secs(10),
            idle: Duration::from_secs(3600),
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Address of the caller.
    pub address: SocketAddr,
}

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
}

/// What connections are told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stop {
    /// Go on.
    Run,
    /// Finish what has begun, take nothing new.
    Drain,
    /// Close at once.
    Abort,
}

/// Accepts on `listener` and serves on this thread until `stop` says otherwise.
/// Must run inside a `tokio::runtime::LocalRuntime`.
pub async fn serve<H: Handler>(
    listener: tokio::net::TcpListener,
    handler: Rc<H>,
    _limits: ServerLimits,
    mut stop: watch::Receiver<Stop>,
) {
    loop {
        let (stream, address) = tokio::select! {
            accepted = listener.accept() => match accepted { Ok(pair) => pair, Err(_) => continue },
            _ = stop.wait_for(|state| *state != Stop::Run) => return,
        };
        let handler = Rc::clone(&handler);
        let _ = stream.set_nodelay(true);
        tokio::task::spawn_local(async move {
            let service = hyper::service::service_fn(move |request| {
                let handler = Rc::clone(&handler);
                async move { Ok::<_, std::convert::Infallible>(handler.handle(request, Peer { address }).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
