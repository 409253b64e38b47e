//! The one seam to the backends: send a head and body bytes, get a head and a body.
//!
//! One `Upstream` per worker thread and backend. HTTP/1.1 by default, since there one slow stream never
//! blocks another's connection; HTTP/2 where settings ask for it. What stands behind this interface can be
//! replaced without touching whoever calls it.
//!
//! An HTTP/1.1 connection has no task of its own: whoever waits for the answer drives it, so that an answer
//! costs one wake-up, not three, and dropping the answer closes the socket at once.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use thiserror::Error;
use tokio::time::Instant;

use super::connect::{ConnectError, Connector, Socket, TlsProblem, connect, tls_config};
use super::idle::{Idle, LONGEST_LIFE};
use super::names::Names;
use super::request_body::Waits;
pub use super::request_body::{BodyTooLarge, RequestBody};
use super::seen::Seen;
use super::server::LocalExecutor;

/// Read at once of an answer, and the bound of its head, in bytes. hyper's own 400 KiB would be held for every caller
/// that reads slowly: measured with 1,000 of them, 265 KiB each.
const MOST_READ: usize = 64 * 1024;

/// How the upstream side connects and keeps connections.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// TCP, TLS and name look-up together.
    pub connect_timeout: Duration,
    /// PEM file of further roots, beside the platform's.
    pub ca_file: Option<PathBuf>,
}

/// Where a backend stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Origin {
    /// `https`, else plain `http`.
    pub tls: bool,
    /// Host name or IP literal, without brackets.
    pub host: String,
    /// Port, 443 or 80 when the address names none.
    pub port: u16,
    /// Path prefix without trailing slash, usually empty.
    pub path_prefix: String,
    /// Speak HTTP/2 (by ALPN over TLS, by prior knowledge otherwise).
    pub http2: bool,
}

impl Origin {
    /// What stands in `Host`: the port only where it is not the scheme's own.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let usual = if self.tls { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }
}

/// What the connections of all workers share, made once: whom they trust, sessions to resume, and names.
#[derive(Clone, Debug)]
pub struct Tls {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    names: Names,
}

impl Tls {
    /// The roots of the platform plus those of `ca_file`.
    ///
    /// # Errors
    /// `ca_file` is unreadable or holds no usable certificate.
    pub fn new(settings: &UpstreamSettings) -> Result<Self, TlsProblem> {
        Ok(Self::of(tls_config(settings.ca_file.as_deref(), None)?))
    }

    /// The same; what certificate a backend shows is noted in `seen`.
    ///
    /// # Errors
    /// `ca_file` is unreadable or holds no usable certificate.
    pub fn noting(settings: &UpstreamSettings, seen: Seen) -> Result<Self, TlsProblem> {
        Ok(Self::of(tls_config(settings.ca_file.as_deref(), Some(seen))?))
    }

    fn of(mut http1: ClientConfig) -> Self {
        let mut http2 = http1.clone();
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        http2.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { http1: Arc::new(http1), http2: Arc::new(http2), names: Names::default() }
    }

    /// Names are looked up by these instead of by the operating system.
    #[must_use]
    pub fn with_names(self, names: Names) -> Self {
        Self { names, ..self }
    }

    /// Sockets at what names resolve to.
    #[must_use]
    pub fn network(&self) -> Connector {
        Connector::Network(self.names.clone())
    }
}

/// Why no answer head came.
#[derive(Debug, Error)]
pub enum SendError {
    /// No connection: nothing was sent.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection ended before a whole head.
    #[error("connection closed before the answer")]
    Closed {
        /// It had served another request before, so it may simply have been idle for too long.
        reused: bool,
        /// What hyper saw.
        #[source]
        source: Option<hyper::Error>,
    },
    /// The backend said that it has not begun with the request (HTTP/2: a refused stream, a `GOAWAY` that leaves it out):
    /// it may be sent once more, whatever it does.
    #[error("the backend did not begin with the request")]
    Unprocessed(#[source] hyper::Error),
    /// What came is not HTTP.
    #[error("malformed answer")]
    Malformed(#[source] hyper::Error),
    /// The request's own body failed: the caller's fault, not the backend's.
    #[error("request body failed")]
    RequestBody(#[source] hyper::Error),
    /// The request's own body turned out longer than it may be.
    #[error(transparent)]
    RequestTooLarge(#[from] BodyTooLarge),
    /// The request's own body made no progress for its time.
    #[error("the request body does not move")]
    RequestStalled {
        /// The caller sends nothing; else the backend takes nothing.
        by_caller: bool,
    },
}

impl SendError {
    fn new(error: hyper::Error, reused: bool) -> Self {
        let cause = std::error::Error::source(&error);
        let too_large = cause.and_then(|cause| cause.downcast_ref::<BodyTooLarge>());
        let http2 = cause.and_then(|cause| cause.downcast_ref::<h2::Error>()).filter(|told| told.is_remote());
        if let Some(told) = http2
            && (told.is_go_away() || told.reason() == Some(h2::Reason::REFUSED_STREAM))
        {
            // h2 fails only the streams beyond the last one that a GOAWAY names: these have not begun.
            return Self::Unprocessed(error);
        }
        // The connection lives: the backend means this request.
        let reused = reused && !http2.is_some_and(h2::Error::is_reset);
        if let Some(too_large) = too_large {
            Self::RequestTooLarge(*too_large)
        } else if error.is_parse() {
            Self::Malformed(error)
        } else if error.is_user() {
            Self::RequestBody(error)
        } else {
            Self::Closed { reused, source: Some(error) }
        }
    }
}

/// Whether a kept-alive connection may be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reuse {
    /// If there is one.
    Allowed,
    /// A kept one turned out dead: open a new one.
    Never,
}

/// One backend, seen from one worker.
#[derive(Debug)]
pub struct Upstream {
    origin: Origin,
    authority: Authority,
    host: HeaderValue,
    tls: Arc<ClientConfig>,
    /// A WebSocket needs a connection that speaks HTTP/1.1.
    http1_tls: Arc<ClientConfig>,
    connector: Connector,
    connect_timeout: Duration,
    idle: Rc<Idle<Line>>,
    http2: RefCell<Vec<Trunk>>,
    /// When an operator was last told why there is no connection.
    told: Cell<Option<Instant>>,
}

/// The origin cannot stand in a request.
#[derive(Debug, Error)]
#[error("{0}: not a usable address")]
pub struct UnusableOrigin(String);

impl Upstream {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// The host is not one that HTTP can name.
    pub fn new(origin: Origin, tls: &Tls, connect_timeout: Duration) -> Result<Self, UnusableOrigin> {
        Self::over(&tls.network(), origin, tls, connect_timeout)
    }

    /// The same over another network than the machine's.
    ///
    /// # Errors
    /// The host is not one that HTTP can name.
    pub fn over(
        connector: &Connector,
        origin: Origin,
        tls: &Tls,
        connect_timeout: Duration,
    ) -> Result<Self, UnusableOrigin> {
        let text = origin.authority();
        let authority: Authority = text.parse().map_err(|_| UnusableOrigin(text.clone()))?;
        let host = HeaderValue::from_str(&text).map_err(|_| UnusableOrigin(text))?;
        let http1_tls = Arc::clone(&tls.http1);
        let tls = Arc::clone(if origin.http2 { &tls.http2 } else { &tls.http1 });
        Ok(Self {
            origin,
            authority,
            host,
            tls,
            http1_tls,
            connector: connector.clone(),
            connect_timeout,
            idle: Rc::default(),
            http2: RefCell::default(),
            told: Cell::new(None),
        })
    }

    /// Where it stands.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Whether an operator shall read why this failed: a cause that lies in names, certificates or TLS settings does
    /// not go away by itself. Each worker says so once a minute.
    pub fn is_worth_telling(&self, error: &SendError) -> bool {
        const AGAIN: Duration = Duration::from_secs(60);
        let lasting = matches!(error, SendError::Connect(ConnectError::Tls(_) | ConnectError::Dns(_)));
        let due = lasting && self.told.get().is_none_or(|told| told.elapsed() >= AGAIN);
        if due {
            self.told.set(Some(Instant::now()));
        }
        due
    }

    /// Sends one request and waits for its answer's head. Dropping the future cancels the request.
    /// `Host` is set here; every other header is the caller's business.
    ///
    /// # Errors
    /// Why there is no head; see `SendError`.
    pub async fn send(
        &self,
        method: Method,
        path: PathAndQuery,
        headers: HeaderMap,
        body: RequestBody,
        reuse: Reuse,
    ) -> Result<Response<Answer>, SendError> {
        let moving = body.moving();
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.headers_mut() = headers;
        *request.uri_mut() = Uri::from(path);
        let mut sending = pin!(self.send_request(request, reuse));
        let Some(moving) = moving else { return sending.await };
        tokio::select! {
            biased;
            sent = &mut sending => sent,
            waits = moving.stalled() => {
                Err(SendError::RequestStalled { by_caller: waits == Waits::Caller })
            }
        }
    }

    async fn send_request(
        &self,
        request: Request<RequestBody>,
        reuse: Reuse,
    ) -> Result<Response<Answer>, SendError> {
        if self.origin.http2
            && let Some(trunk) = self.kept_http2(reuse)
        {
            return self.send_http2(trunk, request, true).await;
        }
        // Also where HTTP/2 was wanted: the backend may have agreed on HTTP/1.1 only.
        if reuse == Reuse::Allowed
            && let Some(line) = self.idle.take().await
        {
            return self.send_http1(line, request, true).await;
        }
        let socket = connect(&self.connector, &self.origin, &self.tls, self.connect_timeout).await?;
        if self.origin.http2 && (!self.origin.tls || socket.agreed_on_http2()) {
            let trunk = self.open_http2(socket).await?;
            return self.send_http2(trunk, request, false).await;
        }
        self.send_http1(Line::over(socket).await?, request, false).await
    }

    /// Asks for a WebSocket, on a connection of its own. When the backend agrees, the answer holds the connection:
    /// `Answer::take_tunnel`.
    ///
    /// # Errors
    /// Why there is no head; see `SendError`.
    pub async fn upgrade(
        &self,
        path: PathAndQuery,
        headers: HeaderMap,
    ) -> Result<Response<Answer>, SendError> {
        let mut request = Request::new(RequestBody::empty());
        *request.uri_mut() = Uri::from(path);
        *request.headers_mut() = headers;
        let headers = request.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        let socket = connect(&self.connector, &self.origin, &self.http1_tls, self.connect_timeout).await?;
        self.send_http1(Line::over(socket).await?, request, false).await
    }

    async fn send_http1(
        &self,
        mut line: Line,
        mut request: Request<RequestBody>,
        reused: bool,
    ) -> Result<Response<Answer>, SendError> {
        request.headers_mut().insert(header::HOST, self.host.clone());
        // hyper tells no length of an empty body, and Azure's front answers 411 to a POST without one.
        if matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH)
            && request.body().is_end_stream()
        {
            request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let mut answer = std::pin::pin!(line.sender.send_request(request));
        // The answer's future moves only when the connection is driven, which happens right here: it needs
        // no waker of its own, and a real one would wake this task once more for nothing.
        let mut unwoken = Context::from_waker(Waker::noop());
        let mut open = true;
        let response = poll_fn(|cx| {
            if open {
                open = line.connection.as_mut().poll(cx).is_pending();
            }
            match answer.as_mut().poll(&mut unwoken) {
                Poll::Pending if open => Poll::Pending,
                Poll::Pending => Poll::Ready(Err(SendError::Closed { reused, source: None })),
                Poll::Ready(answer) => Poll::Ready(answer.map_err(|error| SendError::new(error, reused))),
            }
        })
        .await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            if open {
                let failed = |error| SendError::new(error, reused);
                line.connection.as_mut().await.map_err(failed)?;
            }
            let parts = Pin::into_inner(line.connection).into_parts();
            let tunnel = Some(Box::new((parts.io.into_inner(), parts.read_buf)));
            return Ok(response.map(|body| Answer { body, kept: None, tunnel, _place: None }));
        }
        let kept = open.then(|| Kept { line, home: Rc::clone(&self.idle) });
        Ok(response.map(|body| Answer { body, kept, tunnel: None, _place: None }))
    }

    /// One with room for a stream: at the peer's limit hyper would let the request wait without end.
    fn kept_http2(&self, reuse: Reuse) -> Option<Trunk> {
        let mut kept = self.http2.borrow_mut();
        if reuse == Reuse::Never {
            kept.clear();
        }
        let mut spare = false;
        kept.retain(|trunk| {
            let fresh = trunk.born.elapsed() < LONGEST_LIFE;
            // One that is too old lives on until its last stream has ended.
            fresh
                && !trunk.sender.is_closed()
                && (trunk.streams() > 0 || !std::mem::replace(&mut spare, true))
        });
        kept.iter().find(|trunk| trunk.streams() < trunk.most.get()).cloned()
    }

    async fn open_http2(&self, socket: Socket) -> Result<Trunk, SendError> {
        let (sender, mut connection) = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(Duration::from_secs(30)))
            // Until the peer has told its limit.
            .initial_max_send_streams(1)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(|error| SendError::new(error, false))?;
        let most = Rc::new(Cell::new(connection.current_max_send_streams()));
        let places = Rc::default();
        let trunk = Trunk { sender, born: Instant::now(), most: Rc::clone(&most), places };
        tokio::task::spawn_local(poll_fn(move |cx| {
            // Each request on it hears of its end by itself.
            let ended = Pin::new(&mut connection).poll(cx).map(|_ended| ());
            most.set(connection.current_max_send_streams());
            ended
        }));
        self.http2.borrow_mut().push(trunk.clone());
        Ok(trunk)
    }

    async fn send_http2(
        &self,
        mut trunk: Trunk,
        mut request: Request<RequestBody>,
        reused: bool,
    ) -> Result<Response<Answer>, SendError> {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(if self.origin.tls { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = Some(self.authority.clone());
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        *request.version_mut() = Version::HTTP_2;
        let failed = |error| SendError::new(error, reused);
        trunk.sender.ready().await.map_err(failed)?;
        let response = trunk.sender.send_request(request).await.map_err(failed)?;
        Ok(response.map(|body| Answer { body, kept: None, tunnel: None, _place: Some(trunk.places) }))
    }
}

/// One HTTP/2 connection, and with each clone one of its streams.
#[derive(Clone, Debug)]
struct Trunk {
    sender: http2::SendRequest<RequestBody>,
    born: Instant,
    /// So many streams the peer allows.
    most: Rc<Cell<usize>>,
    places: Rc<()>,
}

impl Trunk {
    /// Streams in use, as seen from the one that is kept.
    fn streams(&self) -> usize {
        Rc::strong_count(&self.places) - 1
    }
}

/// One HTTP/1.1 connection.
#[derive(Debug)]
struct Line {
    sender: http1::SendRequest<RequestBody>,
    connection: Pin<Box<http1::Connection<TokioIo<Socket>, RequestBody>>>,
    born: Instant,
}

impl Line {
    async fn over(socket: Socket) -> Result<Self, SendError> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MOST_READ)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(|error| SendError::new(error, false))?;
        Ok(Self { sender, connection: Box::pin(connection), born: Instant::now() })
    }
}

impl super::idle::Alive for Line {
    fn poll_alive(&mut self, cx: &mut Context<'_>) -> bool {
        self.born.elapsed() < LONGEST_LIFE
            && self.connection.as_mut().poll(cx).is_pending()
            && self.sender.is_ready()
    }
}

/// A connection and where it goes once the answer has been read whole.
#[derive(Debug)]
struct Kept {
    line: Line,
    home: Rc<Idle<Line>>,
}

/// An answer's body. Dropped before its end, it closes the connection (HTTP/1.1) or resets the stream.
#[derive(Debug)]
pub struct Answer {
    body: Incoming,
    kept: Option<Kept>,
    /// After a 101: the connection, and what the backend has sent on it already.
    tunnel: Option<Box<(Socket, Bytes)>>,
    /// Of an HTTP/2 stream on its connection.
    _place: Option<Rc<()>>,
}

impl Answer {
    /// The connection on which both sides have agreed to speak something else, and what has come on it already.
    pub(crate) fn take_tunnel(&mut self) -> Option<(Socket, Bytes)> {
        self.tunnel.take().map(|tunnel| *tunnel)
    }

    /// Read to its end: the connection may serve the next request.
    fn finish(&mut self, cx: &mut Context<'_>) {
        if let Some(mut kept) = self.kept.take()
            && super::idle::Alive::poll_alive(&mut kept.line, cx)
        {
            kept.home.put(kept.line);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.kept.is_some() && self.body.is_end_stream() {
            self.finish(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let Some(kept) = &mut this.kept else {
            return Pin::new(&mut this.body).poll_frame(cx);
        };
        // As in `send_http1`: driving the connection is what moves the body.
        let mut unwoken = Context::from_waker(Waker::noop());
        let mut frame = Pin::new(&mut this.body).poll_frame(&mut unwoken);
        if frame.is_pending() {
            if kept.line.connection.as_mut().poll(cx).is_ready() {
                this.kept = None;
                return Pin::new(&mut this.body).poll_frame(cx);
            }
            frame = Pin::new(&mut this.body).poll_frame(&mut unwoken);
        }
        if let Poll::Ready(None) = frame {
            this.finish(cx);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
