//! One request from top to bottom.
//!
//! Owns: the walk (this file), what a caller may do (`admission`), what a request is and which backend may get its
//! bytes (`request`, `headers`), one attempt at one backend (`attempt`), holding back a stream's prelude (`prelude`),
//! the committed body (`committed`), a WebSocket (`socket`), the place on a lane that is always handed back (`place`),
//! what lives on one backend only (`objects`), waiting for room (`line`), the one record per request (`ledger`), and our own answers (`error`,
//! `models`).
//! Does not: choose (`balance`), know the API (`openai`), open sockets (`net`), know keys (`identity`).
//!
//! The walk is a plain function, not layers: picking, sending and judging depend on each other, and a missing
//! field does not compile. Nothing here is `Send`: a request lives and ends on one worker.

mod admission;
mod attempt;
mod committed;
mod edge;
mod error;
mod headers;
mod ledger;
mod line;
mod models;
mod objects;
mod place;
mod prelude;
mod request;
mod socket;

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::timeout_at;

use self::attempt::{Attempt, KeptAnswer};
pub use self::committed::ProxyBody;
pub use self::edge::{Edge, EdgeSettings, UnusableEdge};
pub use self::error::ProxyError;
use self::ledger::{Desk, Ledger};
use self::line::{Lines, Patience};
use self::objects::Bond;
use self::request::{Body, Understood};
use crate::balance::{Ask, Attempts, Cause, Exhausted, Pick, PinSettings, Pins, Pool};
use crate::net::server::{Handler, Peer, Upgrade};
use crate::net::stop::{LocalStop, Stop};
use crate::net::upstream::Upstream;
use crate::telemetry::access::AccessLog;
use crate::telemetry::clock;
use crate::telemetry::health::{Health, health};
use crate::telemetry::metrics::WorkerMetrics;
use crate::telemetry::request_id::RequestIds;
use crate::telemetry::stir::Stir;
use crate::telemetry::traces::Spans;

/// A request that comes before the first token waits so long for it.
const CREDENTIAL_PATIENCE: Duration = Duration::from_secs(3);

/// How requests are treated; `[retry]`, parts of `[server]`, `[upstream]` and `[limits]`.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// From the request's head to the commit.
    pub deadline: Duration,
    /// From sending to the answer's head, off by default.
    pub first_byte_timeout: Option<Duration>,
    /// From sending to a stream's first event.
    pub first_event_timeout: Option<Duration>,
    /// Between two reads of a committed answer.
    pub stream_idle_timeout: Option<Duration>,
    /// For how long a request may wait in line for room; off by default.
    pub hold: Option<Duration>,
    /// The most that wait in line.
    pub held: usize,
    /// `x-sidestep-backend` and `x-sidestep-attempts` are added.
    pub explain_headers: bool,
    /// Removed from the front of every path, without trailing slash; usually empty.
    pub path_prefix: String,
    /// Further request headers that travel, lower case.
    pub forward_headers: Vec<http::HeaderName>,
    /// A request's body that makes no progress for so long ends the request.
    pub body_idle: Duration,
    /// Bodies up to here are kept for failover, in bytes.
    pub request_replay: usize,
    /// Bodies beyond are refused, in bytes.
    pub request_hard_limit: u64,
    /// All buffered bodies together, in bytes.
    pub buffered: usize,
}

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    pool: Mutex<Pool>,
    pins: Mutex<Pins>,
    lines: Lines,
    /// Whether we are listening, draining, able.
    pub health: Health,
    /// Bytes of all buffered bodies together.
    buffered: AtomicUsize,
    /// Told when a backend gets its credential, or loses it.
    credentials: watch::Sender<()>,
    /// Told of all that a look at the pool would show otherwise, and of requests after a time without any.
    pub stir: Arc<Stir>,
}

impl Shared {
    /// Nothing is buffered yet.
    #[must_use]
    pub fn new(pool: Pool, pins: PinSettings) -> Self {
        let pins = Mutex::new(Pins::new(pins, pool.backend_ids()));
        Self {
            pool: Mutex::new(pool),
            pins,
            lines: Lines::default(),
            health: Health::default(),
            buffered: AtomicUsize::new(0),
            credentials: watch::Sender::new(()),
            stir: Arc::default(),
        }
    }

    /// Where objects live. Held like the pool, and never together with it.
    pub fn pins(&self) -> MutexGuard<'_, Pins> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests wait in line, now.
    pub fn held(&self) -> usize {
        self.lines.count()
    }

    /// Bytes of all buffered bodies together, now.
    pub fn buffered(&self) -> usize {
        self.buffered.load(Ordering::Relaxed)
    }

    /// We are about to stop: unready from now on, and who waits in line is told to come back, to whoever takes over.
    pub fn set_draining(&self) {
        self.health.set_draining();
        self.lines.close();
    }

    /// Which backends have their credential now, by their index.
    pub fn set_credentials(&self, ready: impl IntoIterator<Item = bool>) {
        let mut pool = self.pool();
        let mut count = 0;
        for (backend, ready) in ready.into_iter().enumerate() {
            pool.set_credential(backend, ready);
            count += usize::from(ready);
        }
        drop(pool);
        self.health.set_credentials(count);
        self.stir.stir();
        self.credentials.send_replace(());
        self.look_again();
    }

    /// A backend may be back for another reason than time: whoever is first in line looks now.
    pub fn look_again(&self) {
        self.lines.look();
    }

    fn pick(&self, now: Instant, ask: &Ask<'_>, attempts: &mut Attempts) -> Result<Pick, Exhausted> {
        let picked = self.pool().pick(now, ask, attempts);
        // After the pool's lock: who has looked before sleeps by now, and who looks later sees it.
        self.stir.request();
        picked
    }

    /// The pool. Held for microseconds, never across an await. A panic while it was held cannot have left it
    /// half-changed in a way that matters more than serving on.
    pub fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The callers' side of one worker.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    desk: Rc<Desk>,
    edges: edge::Edges,
    /// Not before then it is looked again who is next in line.
    lines_up: Cell<Option<Instant>>,
}

/// How often it is looked who is next in line; and how soon again where nobody was.
const LINE_UP: Duration = Duration::from_secs(15);
const LINE_UP_AGAIN: Duration = Duration::from_secs(1);

impl Proxy {
    /// One worker's proxy. `edge` is of the pool's present generation.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        edge: Edge,
        ids: RequestIds,
        log: AccessLog,
        metrics: WorkerMetrics,
        spans: Arc<Spans>,
    ) -> Self {
        let stir = Arc::clone(&shared.stir);
        let desk = Rc::new(Desk { ids, log, metrics, spans, stir, cut: LocalStop::default() });
        Self { shared, desk, edges: edge::Edges::new(edge), lines_up: Cell::new(None) }
    }

    /// Makes the next generation known; before the pool is told, so that no pick names an unknown one.
    pub fn prepare(&self, edge: Edge) {
        self.edges.push(edge);
    }

    /// An operator has drained this backend: no connection to it is kept.
    pub fn let_go(&self, backend: &str) {
        self.edges.newest().let_go(backend);
    }

    /// A drain's time is over: streams that still run are told so, then aborted.
    pub fn cut_streams(&self) {
        self.desk.cut.tell(Stop::Abort);
    }

    /// All of one request, up to its answer's head.
    fn answer(self: Rc<Self>, request: Request<Incoming>) -> impl Future<Output = Response<ProxyBody>> {
        // Taken apart here, and so kept once.
        let (parts, body) = request.into_parts();
        async move {
            if let Some((status, text)) = health(parts.uri.path(), self.shared.health.readiness()) {
                return plain(status, text);
            }
            let edge = self.edges.newest();
            if let Some(headers) = edge.callers.pages().preflight(&parts.method, &parts.headers) {
                let mut response = Response::new(ProxyBody::full(Bytes::new()));
                *response.status_mut() = StatusCode::NO_CONTENT;
                *response.headers_mut() = headers;
                return response;
            }
            let entry = Ledger::begin(Rc::clone(&self.desk), Rc::clone(&edge), &parts);
            let id = entry.id;
            let mut ledger = Some(entry);
            let mut response = match self.serve(&edge, &parts, body, &mut ledger).await {
                Ok(response) => response,
                Err(error) => {
                    let response = error.response(id);
                    if let Some(mut entry) = ledger.take() {
                        entry.refuse(&error);
                    }
                    response
                }
            };
            edge.callers.pages().allow(&parts.headers, response.headers_mut());
            response.headers_mut().insert(headers::REQUEST_ID, id.header_value());
            response
        }
    }

    /// Steps 1 to 5: admitted, understood, read, attempted, committed.
    async fn serve(
        &self,
        edge: &Edge,
        parts: &Parts,
        body: Incoming,
        ledger: &mut Option<Ledger>,
    ) -> Result<Response<ProxyBody>, ProxyError> {
        let entry = ledger.as_mut().expect("taken at the commit only");
        if !edge.callers.pages().admit(&parts.headers, &parts.uri) {
            return Err(ProxyError::ForeignPage);
        }
        let socket = request::wants_socket(parts, &body)?;
        // Browsers cannot set headers on a WebSocket.
        let query = parts.uri.query().filter(|_| socket);
        let caller = edge.callers.admit(&parts.headers, query, clock::unix_ms() / 1_000)?;
        entry.caller.clone_from(&caller.name);
        let route = request::route(parts, &edge.settings.path_prefix)?;
        entry.understood(&route);
        let mut turn = admission::enter(&caller, &route.operation, entry.started)?;
        let deadline = entry.started + headers::deadline(&parts.headers, edge.settings.deadline);
        let now = clock::now();
        entry.waits(now);
        let body = Body::read(body, &edge.settings, &self.shared, now, deadline).await;
        entry.waited_until(clock::now());
        let mut understood = request::understand(parts, route, body?)?;
        understood.socket = socket;
        entry.deployment = understood.deployment.clone();
        entry.stream = understood.scan.stream;
        entry.prompt_estimate = understood.scan.prompt_tokens;
        admission::confine(&caller, parts, &understood)?;
        if understood.route.operation.name == "models" {
            let names = self.shared.pool().deployments();
            let names = names.map(|mut names| {
                names.retain(|name| caller.may_call(name));
                names
            });
            let answer = names.and_then(|names| models::answer(&parts.method, &understood.route, &names));
            if let Some(response) = answer {
                entry.answer_here(response.status());
                return Ok(response);
            }
        }
        if let Some(turn) = &mut turn {
            // Of a body that is no JSON only the size is known, and that of a recording says nothing.
            turn.charge(clock::now(), if understood.scan.json { understood.scan.charge(0) } else { 0 })?;
        }
        entry.turn = turn;
        self.attempts(edge, parts, &mut understood, caller.lowest_priority(), deadline, ledger).await
    }

    /// Step 4: one lane after the other until one answer is the caller's. No wait between attempts, but for room, where
    /// `retry.hold` says so. `front` is what admitted it: after a reload a key of ours may not be known as one any more.
    async fn attempts(
        &self,
        front: &Edge,
        parts: &Parts,
        understood: &mut Understood<'_>,
        lowest_priority: Option<u32>,
        deadline: Instant,
        ledger: &mut Option<Ledger>,
    ) -> Result<Response<ProxyBody>, ProxyError> {
        let (mut attempts, mut kept, mut credential) = (Attempts::default(), None, None);
        let (mut lacking, mut tokenless) = (false, false);
        let mut patience = Patience::new(&self.shared, &front.settings, deadline);
        let deployment = understood.deployment.clone();
        let caller = ledger.as_ref().and_then(|entry| entry.caller.clone());
        let bond = Bond::tie(&self.shared, caller, std::mem::take(&mut understood.objects))?;
        let mut ask = asks(understood, deployment.as_deref(), &parts.headers, lowest_priority);
        loop {
            let now = in_time(deadline)?;
            ask.pin = bond.pin();
            let asked = patience.tell(now, ask, deployment.as_ref());
            let pick = match self.shared.pick(now, &asked, &mut attempts) {
                Ok(pick) => pick,
                // At the start tokens are on their way.
                Err(Exhausted::Spent { cause: Cause::NoCredential })
                    if self.awaits_credential(&mut credential, deadline, ledger).await =>
                {
                    continue;
                }
                // No lane was found wanting: we were.
                Err(Exhausted::Spent { .. }) if lacking && kept.is_none() => {
                    return Err(ProxyError::Overloaded);
                }
                Err(exhausted) if bond.goes_on(&exhausted) => continue,
                Err(Exhausted::Soon { until }) => {
                    patience.wait(until, &asked, deployment.as_ref(), ledger).await;
                    continue;
                }
                // Whoever could serve it wants to know the caller; nothing else is wrong.
                Err(Exhausted::Spent { cause: Cause::OutOfUse | Cause::Absent | Cause::Unsupported })
                    if tokenless && kept.is_none() =>
                {
                    return Err(ProxyError::NoCallersToken);
                }
                Err(exhausted) => {
                    let entry = ledger.as_mut().expect("taken at the commit only");
                    if let Some(error) = self.by_its_owner(&bond, &exhausted, deployment.as_deref()) {
                        entry.exhausted = is_for_want_of_room(&exhausted);
                        return Err(error);
                    }
                    return Self::answer_exhausted(exhausted, kept, entry);
                }
            };
            let (generation, has_room) = (pick.generation, pick.has_room);
            let place = place::Place::new(Arc::clone(&self.shared), pick);
            let Some(edge) = self.edges.of(generation) else {
                tracing::error!(generation, "no backends are known for these settings");
                return Err(ProxyError::UpstreamFailed);
            };
            let next = self.next_in_line(now, &edge, &ask, &attempts);
            // On the heap, as it goes from step to step, and each keeps room for what it is given twice.
            let attempt = Box::new(Attempt {
                id: ledger.as_ref().expect("taken at the commit only").id,
                edge: &edge,
                callers: &front.callers,
                parts,
                ask: &ask,
                api: understood.route.operation.api,
                deadline,
                place,
                bond: &bond,
            });
            let run = pin!(attempt.run(now, understood, &mut attempts, ledger));
            match patience.follow(has_room, run).await {
                attempt::Outcome::Commit(response) => return Ok(self.line_up(now, next, *response)),
                attempt::Outcome::Lacking => lacking = true,
                attempt::Outcome::Tokenless => tokenless = true,
                attempt::Outcome::Next(answer) => kept = answer.or(kept),
                attempt::Outcome::Stop(error) => return Err(error),
            }
        }
    }

    /// The only backend that could have served did not: what is to be said of that, where it makes a difference.
    fn by_its_owner(
        &self,
        bond: &Bond,
        exhausted: &Exhausted,
        deployment: Option<&str>,
    ) -> Option<ProxyError> {
        match exhausted {
            _ if !bond.binds() => None,
            Exhausted::Throttled { wait } => Some(ProxyError::OwnerThrottled { wait: *wait }),
            // Its deployment is served, but not where the objects are.
            Exhausted::Unserved => {
                deployment.filter(|name| self.shared.pool().serves(name)).map(|_| ProxyError::ObjectsApart)
            }
            Exhausted::TooLarge | Exhausted::Soon { .. } | Exhausted::Spent { .. } => None,
        }
    }

    /// Where this request goes next if the present attempt fails: looked up now and then, for a connection that is to be
    /// ready when others need it.
    fn next_in_line<'a>(
        &self,
        now: Instant,
        edge: &'a Edge,
        ask: &Ask<'_>,
        attempts: &Attempts,
    ) -> Option<&'a Upstream> {
        if self.lines_up.get().is_some_and(|then| now < then) {
            return None;
        }
        self.lines_up.set(Some(now + LINE_UP_AGAIN));
        let pool = self.shared.pool();
        // Around a reload its numbers mean other backends.
        let next =
            if pool.generation() == edge.generation { pool.next_in_line(now, ask, attempts) } else { None };
        Some(&edge.backends.get(next?)?.upstream)
    }

    /// This request has its answer; the next one may need who was next in line.
    fn line_up<T>(&self, now: Instant, next: Option<&Upstream>, answer: T) -> T {
        if let Some(next) = next {
            self.lines_up.set(Some(now + LINE_UP));
            next.expect();
        }
        answer
    }

    /// No backend has its credential: whether it is worth looking again. The first look after this one was asked
    /// comes at once, so that no news is missed between the two.
    async fn awaits_credential(
        &self,
        patience: &mut Option<(watch::Receiver<()>, Instant)>,
        deadline: Instant,
        ledger: &mut Option<Ledger>,
    ) -> bool {
        let now = clock::now();
        let Some((news, until)) = patience else {
            *patience = Some((self.shared.credentials.subscribe(), deadline.min(now + CREDENTIAL_PATIENCE)));
            return true;
        };
        let entry = ledger.as_mut().expect("taken at the commit only");
        entry.waits(now);
        let told = timeout_at((*until).into(), news.changed()).await;
        entry.waited_until(clock::now());
        told.is_ok_and(|told| told.is_ok())
    }

    /// No lane admits: the answer is ours, at once.
    fn answer_exhausted(
        exhausted: Exhausted,
        kept: Option<Box<KeptAnswer>>,
        ledger: &mut Ledger,
    ) -> Result<Response<ProxyBody>, ProxyError> {
        ledger.exhausted = is_for_want_of_room(&exhausted);
        let error = match exhausted {
            Exhausted::Throttled { wait } => ProxyError::Throttled { wait },
            Exhausted::Soon { until } => {
                ProxyError::Throttled { wait: until.saturating_duration_since(clock::now()) }
            }
            Exhausted::TooLarge => ProxyError::TooLargeNow,
            Exhausted::Unserved => ProxyError::UnknownDeployment,
            Exhausted::Spent { cause } => match (cause, kept) {
                (Cause::Answered, Some(answer)) => return Ok(answer.pass_back(ledger)),
                (Cause::Failed(failure), _) if failure.is_timeout() => ProxyError::UpstreamTimeout,
                (Cause::Failed(_) | Cause::Answered, _) => ProxyError::UpstreamFailed,
                (Cause::Refused, _) => ProxyError::BackendRefused,
                (Cause::Probing, _) => ProxyError::Resting,
                (Cause::NoCredential, _) => ProxyError::NoCredential,
                (Cause::OutOfUse, _) => ProxyError::NoBackend,
                (Cause::Absent, _) => ProxyError::UnknownDeployment,
                (Cause::Unsupported, _) => ProxyError::Unsupported,
            },
        };
        Err(error)
    }
}

impl Handler for Proxy {
    type Body = ProxyBody;

    fn take_upgrade(body: &mut ProxyBody) -> Option<Upgrade> {
        body.take_upgrade()
    }

    fn handle(
        self: Rc<Self>,
        request: Request<Incoming>,
        _peer: Peer,
    ) -> impl Future<Output = Response<ProxyBody>> + 'static {
        // On the heap, so that it is gone while the answer streams: hyper keeps this future's place until then. Its place
        // comes first: then it is made there, and not copied there with all the room that it will need.
        let place = Box::new_uninit();
        Box::into_pin(Box::write(place, self.answer(request)))
    }
}

/// Now. Once the deadline has passed nothing is picked: no lane is to blame for what is cut off before it could begin.
fn in_time(deadline: Instant) -> Result<Instant, ProxyError> {
    let now = clock::now();
    if now < deadline { Ok(now) } else { Err(ProxyError::UpstreamTimeout) }
}

/// What a request needs of a lane.
fn asks<'a>(
    understood: &Understood<'_>,
    deployment: Option<&'a str>,
    sent: &'a HeaderMap,
    lowest_priority: Option<u32>,
) -> Ask<'a> {
    let operation = &understood.route.operation;
    Ask {
        deployment,
        second: sent.get(headers::IMAGE_DEPLOYMENT).and_then(|name| name.to_str().ok()),
        family: operation.family,
        operation: operation.name,
        charge: understood.scan.charge(0),
        unlimited: understood.scan.json && understood.scan.max_tokens.is_none(),
        conversation: understood.scan.conversation(),
        streamed: understood.scan.stream,
        harmless: operation.harmless.given(understood.scan.background),
        lowest_priority,
        pin: None,
        patience: Duration::ZERO,
        ahead: 0,
    }
}

/// Whether a lane that does serve the request would at another time; otherwise no waiting helps.
fn is_for_want_of_room(exhausted: &Exhausted) -> bool {
    match exhausted {
        Exhausted::Throttled { .. } | Exhausted::Soon { .. } | Exhausted::TooLarge => true,
        Exhausted::Unserved => false,
        Exhausted::Spent { cause } => {
            matches!(cause, Cause::Probing | Cause::NoCredential | Cause::OutOfUse)
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<ProxyBody> {
    let mut response = Response::new(ProxyBody::full(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
