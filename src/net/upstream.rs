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
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use thiserror::Error;
use tokio::time::Instant;

use super::connect::{ConnectError, Connector, Socket, TlsProblem, connect, tls_config};
use super::exchange::{Coming, Cut, Line, NoHead, Sending, exchange};
use super::idle::{Idle, LONGEST_LIFE, Spares};
use super::names::Names;
use super::request_body::Waits;
pub use super::request_body::{BodyTooLarge, RequestBody};
use super::seen::Seen;
use super::server::{BodyError, LocalExecutor};

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

/// What the connections of all workers share, made once: whom they trust, sessions to resume, names, and how many are
/// spare.
#[derive(Clone, Debug)]
pub struct Tls {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    names: Names,
    spares: Spares,
}

/// A backend that was used is worth a spare connection for so long.
const WORTH_SPARING: Duration = Duration::from_secs(300);

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
        Self {
            http1: Arc::new(http1),
            http2: Arc::new(http2),
            names: Names::default(),
            spares: Spares::default(),
        }
    }

    /// Names are looked up by these instead of by the operating system.
    #[must_use]
    pub fn with_names(self, names: Names) -> Self {
        Self { names, ..self }
    }

    /// It takes over from `before`: names are looked up in the same way, and spare connections count together.
    #[must_use]
    pub fn after(self, before: &Self) -> Self {
        Self { names: before.names.clone(), spares: before.spares.clone(), ..self }
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
        /// It had been open before this request, which may simply have come too late: it was idle for too long.
        reused: bool,
        /// What was seen of it.
        #[source]
        source: Option<BodyError>,
    },
    /// The backend said that it has not begun with the request (HTTP/2: a refused stream, a `GOAWAY` that leaves it out):
    /// it may be sent once more, whatever it does.
    #[error("the backend did not begin with the request")]
    Unprocessed(#[source] hyper::Error),
    /// What came is not HTTP.
    #[error("malformed answer")]
    Malformed(#[source] BodyError),
    /// The request's own body failed: the caller's fault, not the backend's.
    #[error("request body failed")]
    RequestBody(#[source] BodyError),
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
    fn http1(error: NoHead, reused: bool) -> Self {
        match error {
            // Once it has begun to answer, it has not been idle for too long.
            NoHead::Closed { begun, source } => {
                Self::Closed { reused: reused && !begun, source: source.map(Into::into) }
            }
            NoHead::Malformed(mistake) => Self::Malformed(mistake.into()),
            NoHead::RequestBody(error) => match error.downcast::<BodyTooLarge>() {
                Ok(too_large) => Self::RequestTooLarge(*too_large),
                Err(error) => Self::RequestBody(error),
            },
        }
    }

    fn http2(error: hyper::Error, reused: bool) -> Self {
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
            Self::Malformed(error.into())
        } else if error.is_user() {
            Self::RequestBody(error.into())
        } else {
            Self::Closed { reused, source: Some(error.into()) }
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

    /// From now on a spare connection stands by while the backend is in use, and for some minutes after: a request now and
    /// then costs no handshake.
    #[must_use]
    pub fn with_spare(mut self, tls: &Tls) -> Self {
        let (connector, origin, limit) = (self.connector.clone(), self.origin.clone(), self.connect_timeout);
        let config = Arc::clone(&self.http1_tls);
        // Of HTTP/2 one connection serves all, and stays: the first request alone opens it.
        if !self.origin.http2 {
            let opens = Box::new(move || {
                let (connector, origin, config) = (connector.clone(), origin.clone(), Arc::clone(&config));
                Box::pin(async move {
                    // Whoever needs one says why there is none.
                    connect(&connector, &origin, &config, limit).await.ok().map(Line::over)
                }) as Pin<Box<dyn Future<Output = Option<Line>>>>
            });
            self.idle = Rc::new(Idle::sparing(opens, tls.spares.clone()));
        }
        self
    }

    /// Other settings are in force: what is open and not in use is closed, and no spare connection is opened any more.
    pub(crate) fn retire(&self) {
        self.idle.retire();
    }

    /// An operator has drained it: what is open and not in use is closed. It can be used again.
    pub(crate) fn let_go(&self) {
        self.idle.let_go();
    }

    /// It may be needed soon: a spare connection stands by from now on.
    pub fn expect(&self) {
        self.idle.expect(Instant::now() + WORTH_SPARING);
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
        let Some(moving) = body.moving() else {
            return self.send_request(&method, &path, headers, body, reuse).await;
        };
        // On the heap: most bodies are here whole.
        let mut sending = Box::pin(self.send_request(&method, &path, headers, body, reuse));
        tokio::select! {
            biased;
            sent = &mut sending => sent,
            waits = Box::pin(moving.stalled()) => {
                Err(SendError::RequestStalled { by_caller: waits == Waits::Caller })
            }
        }
    }

    async fn send_request(
        &self,
        method: &Method,
        path: &PathAndQuery,
        headers: HeaderMap,
        body: RequestBody,
        reuse: Reuse,
    ) -> Result<Response<Answer>, SendError> {
        let kept = if self.origin.http2 { self.kept_http2(reuse) } else { None };
        if let Some(trunk) = kept {
            let request = self.http2_request(method, path, headers, body);
            return Box::pin(self.send_http2(trunk, request, true)).await;
        }
        self.idle.used(Instant::now() + WORTH_SPARING);
        // Also where HTTP/2 was wanted: the backend may have agreed on HTTP/1.1 only.
        let kept = if reuse == Reuse::Allowed { self.idle.take() } else { None };
        if let Some(line) = kept {
            return self.send_http1(line, method, path, headers, body, true).await;
        }
        // Rare, and on the heap: the usual request need not make room for it.
        let opening = Box::pin(connect(&self.connector, &self.origin, &self.tls, self.connect_timeout));
        let socket = opening.await?;
        if self.origin.http2 && (!self.origin.tls || socket.agreed_on_http2()) {
            let trunk = Box::pin(self.open_http2(socket)).await?;
            let request = self.http2_request(method, path, headers, body);
            return Box::pin(self.send_http2(trunk, request, false)).await;
        }
        self.send_http1(Line::over(socket), method, path, headers, body, false).await
    }

    /// Asks for a WebSocket, on a connection of its own. When the backend agrees, the answer holds the connection:
    /// `Answer::take_tunnel`.
    ///
    /// # Errors
    /// Why there is no head; see `SendError`.
    pub async fn upgrade(
        &self,
        path: PathAndQuery,
        mut headers: HeaderMap,
    ) -> Result<Response<Answer>, SendError> {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        self.idle.used(Instant::now() + WORTH_SPARING);
        let kept = if self.origin.http2 { None } else { self.idle.take() };
        if let Some(line) = kept {
            match self
                .send_http1(line, &Method::GET, &path, headers.clone(), RequestBody::empty(), true)
                .await
            {
                // It was idle for too long; the request has not been seen.
                Err(SendError::Closed { reused: true, .. }) => {}
                told => return told,
            }
        }
        let socket = connect(&self.connector, &self.origin, &self.http1_tls, self.connect_timeout).await?;
        self.send_http1(Line::over(socket), &Method::GET, &path, headers, RequestBody::empty(), false).await
    }

    fn send_http1(
        &self,
        line: Line,
        method: &Method,
        path: &PathAndQuery,
        headers: HeaderMap,
        body: RequestBody,
        reused: bool,
    ) -> impl Future<Output = Result<Response<Answer>, SendError>> + use<> {
        let sending = Sending::new(method, path.as_str(), &self.host, &headers, body);
        // Where all else goes over HTTP/2, a connection that was opened for a WebSocket serves nothing else.
        let apart = (self.origin.http2 && headers.contains_key(header::UPGRADE)).then(Idle::retired);
        let home = apart.unwrap_or_else(|| Rc::clone(&self.idle));
        let mut exchange = exchange(line, sending, *method == Method::HEAD, headers, home);
        poll_fn(move |cx| {
            let response = ready!(Pin::new(&mut exchange).poll(cx));
            let response = response.map_err(|error| SendError::http1(error, reused))?;
            let agreed = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            Poll::Ready(Ok(response.map(|coming| {
                Answer(if agreed {
                    Source::Tunnel(coming.into_socket().map(Box::new))
                } else {
                    Source::Http1(coming)
                })
            })))
        })
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
            .map_err(|error| SendError::http2(error, false))?;
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

    fn http2_request(
        &self,
        method: &Method,
        path: &PathAndQuery,
        headers: HeaderMap,
        body: RequestBody,
    ) -> Request<RequestBody> {
        let mut request = Request::new(body);
        let mut parts = Uri::from(path.clone()).into_parts();
        parts.scheme = Some(if self.origin.tls { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = Some(self.authority.clone());
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        *request.method_mut() = method.clone();
        *request.headers_mut() = headers;
        *request.version_mut() = Version::HTTP_2;
        request
    }

    async fn send_http2(
        &self,
        mut trunk: Trunk,
        request: Request<RequestBody>,
        reused: bool,
    ) -> Result<Response<Answer>, SendError> {
        let failed = |error| SendError::http2(error, reused);
        trunk.sender.ready().await.map_err(failed)?;
        let response = trunk.sender.send_request(request).await.map_err(failed)?;
        Ok(response.map(|body| Answer(Source::Http2 { body, _place: trunk.places })))
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

/// Why an answer ended early.
#[derive(Debug, Error)]
pub enum AnswerError {
    /// In HTTP/1.1.
    #[error(transparent)]
    Http1(#[from] Cut),
    /// In HTTP/2.
    #[error(transparent)]
    Http2(#[from] hyper::Error),
}

/// An answer's body. Dropped before its end, it closes the connection (HTTP/1.1) or resets the stream.
#[derive(Debug)]
pub struct Answer(Source);

#[derive(Debug)]
enum Source {
    Http1(Coming),
    Http2 {
        body: Incoming,
        /// On its connection.
        _place: Rc<()>,
    },
    /// After a 101: the connection, and what the backend has sent on it already.
    Tunnel(Option<Box<(Socket, Bytes)>>),
}

impl Answer {
    /// The connection on which both sides have agreed to speak something else, and what has come on it already.
    pub(crate) fn take_tunnel(&mut self) -> Option<(Socket, Bytes)> {
        match &mut self.0 {
            Source::Tunnel(tunnel) => tunnel.take().map(|tunnel| *tunnel),
            Source::Http1(_) | Source::Http2 { .. } => None,
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        match &mut self.0 {
            Source::Http1(coming) => Pin::new(coming).poll_frame(cx).map_err(Into::into),
            Source::Http2 { body, .. } => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Source::Tunnel(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Http1(coming) => coming.is_end_stream(),
            Source::Http2 { body, .. } => body.is_end_stream(),
            Source::Tunnel(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Http1(coming) => coming.size_hint(),
            Source::Http2 { body, .. } => body.size_hint(),
            Source::Tunnel(_) => SizeHint::with_exact(0),
        }
    }
}
