//! The daemon as a value: started, looked at, drained, waited for.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret as _, SecretString};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::certificate::{ListenerCertificate, sentence};
use super::traces::{LONGEST_END, Sending};
use super::upstreams::{edge_settings, presented, slots};
use super::view::View;
use crate::admin::explain::{ExplainAsk, ExplainDocument};
use crate::admin::status::StatusDocument;
use crate::admin::{Admin, Doors};
use crate::balance::{Pool, PoolSnapshot};
use crate::identity::callers::Callers;
use crate::identity::entra::{Pace, keep_fresh};
use crate::identity::token::{Changed, Keeper};
use crate::identity::{Credential, UnsendableCredential};
use crate::net::certificate;
use crate::net::connect::TlsProblem;
use crate::net::names::Names;
use crate::net::server::{ServerLimits, Stop, serve};
use crate::net::upstream::Tls;
use crate::net::workers::Workers;
use crate::proxy::{Edge, Proxy, Shared, UnusableEdge};
use crate::settings::Settings;
use crate::telemetry::access::AccessLog;
use crate::telemetry::log::{DirectiveProblem, Directives};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::request_id::RequestIds;
use crate::telemetry::sink::Sink;
use crate::telemetry::stir::Looker;
use crate::telemetry::traces::Spans;
use crate::telemetry::{change, clock};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Connections of operators: watchers are far fewer.
const OPERATORS: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// An operator's page that takes nothing for so long is let go.
const STALLED_OPERATOR: Duration = Duration::from_secs(30);

/// Between two looks at whether all is well and whether cooldowns have ended.
const TICK: Duration = Duration::from_secs(1);

/// Between two looks at whether the workers have ended.
const DRAIN_TICK: Duration = Duration::from_millis(10);

/// Told to stop at once, the workers still write down what they cut off; it takes them no longer than this.
const LAST_RECORDS: Duration = Duration::from_millis(500);

/// After the drain's time streams are told that they end; so long for those words to leave.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Why a balancer does not start, or does not take other settings.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The listener's certificate.
    #[error("{0}")]
    Certificate(String),
    /// Roots of trust.
    #[error(transparent)]
    Tls(#[from] TlsProblem),
    /// An address that HTTP cannot carry.
    #[error(transparent)]
    Edge(#[from] UnusableEdge),
    /// A key that HTTP cannot carry.
    #[error("backend {0}: {1}")]
    Credential(Arc<str>, #[source] UnsendableCredential),
    /// The log level.
    #[error("{0}")]
    Log(#[from] DirectiveProblem),
    /// Threads.
    #[error("the operating system refuses a thread: {0}")]
    Threads(#[source] io::Error),
    /// Settings that only a restart can change.
    #[error("{0} cannot change while running: restart instead")]
    Fixed(&'static str),
    /// It is ending.
    #[error("the balancer is stopping")]
    Stopping,
}

/// A running balancer. Dropped, it stops at once.
#[derive(Debug)]
pub struct Balancer {
    listen: SocketAddr,
    admin: Option<SocketAddr>,
    view: View,
    orders: mpsc::UnboundedSender<Order>,
    thread: Option<JoinHandle<bool>>,
}

enum Order {
    Drain,
    Abort,
    Reload(Box<Settings>, std::sync::mpsc::Sender<Result<(), StartError>>),
}

impl Balancer {
    /// Starts listening; returns once both addresses are taken.
    ///
    /// # Errors
    /// What settings alone cannot rule out: an address in use, an unreadable `ca_file`.
    pub fn start(settings: Settings, sink: Sink) -> Result<Self, StartError> {
        Self::start_with_names(settings, sink, Names::default())
    }

    /// The same; backends' names are looked up by `names`.
    ///
    /// # Errors
    /// As `start`.
    pub fn start_with_names(settings: Settings, sink: Sink, names: Names) -> Result<Self, StartError> {
        let directives: Directives = settings.log.level.parse()?;
        let tls = Tls::new(&settings.upstream)?.with_names(names);
        let mut keeper = Keeper::default();
        let presented = presented(&settings, &mut keeper)?;
        let tokens = Arc::new(Mutex::new(slots(&presented)));
        let callers = Arc::new(Callers::new(settings.callers.clone(), settings.listen, None));
        let edges = edge_settings(&settings, Arc::clone(&callers), presented, tls.clone(), 0);
        let certificate = settings.tls.clone().map(ListenerCertificate::new).transpose();
        let certificate = certificate.map_err(StartError::Certificate)?;
        let listener_tls = certificate.as_ref().map(|certificate| certificate.tls().config());
        drop(Edge::new(edges.clone())?);
        let (listener, listen) = listen_on(settings.listen)?;
        let admin = settings.admin_listen.map(listen_on).transpose()?;
        let seed = fastrand::u64(..);
        let pool = Pool::new(settings.pool.clone(), seed);
        let shared = Arc::new(Shared::new(pool, settings.pins));
        let view = View {
            shared,
            metrics: Arc::new(Metrics::new()),
            spans: Arc::new(Spans::new(fastrand::u64(..))),
            callers: Arc::default(),
            refused: Arc::default(),
            sink,
            started: clock::now(),
            listen,
            certificate,
            admin: admin.as_ref().map(|(_, address)| *address),
            tokens,
        };
        view.tell_credentials();
        let (of_workers, format) = (view.clone(), settings.log.format);
        let workers = Workers::start(settings.workers, settings.server, listener_tls, move |index| {
            let worker = u16::try_from(index).unwrap_or(u16::MAX);
            Proxy::new(
                Arc::clone(&of_workers.shared),
                Edge::new(edges.clone()).expect("made once already, before the workers"),
                RequestIds::new(seed, worker),
                AccessLog::new(of_workers.sink.clone(), format, &directives),
                of_workers.metrics.worker(),
                Arc::clone(&of_workers.spans),
            )
        })
        .map_err(StartError::Threads)?;
        let (orders, received) = mpsc::unbounded_channel();
        let admin_address = view.admin;
        let control = Control {
            sending: Sending::new(Arc::clone(&view.spans)),
            ends: None,
            view: view.clone(),
            token: settings.admin_token.clone(),
            settings,
            generation: 0,
            workers,
            keeper,
            callers: CallersKeys { callers, fetching: None },
            tls,
        };
        let listeners = (listener, admin.map(|(listener, _)| listener));
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || control.run(listeners, received))
            .map_err(StartError::Threads)?;
        Ok(Self { listen, admin: admin_address, view, orders, thread: Some(thread) })
    }

    /// Where callers find it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// The same as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.view.url()
    }

    /// Where operators find it.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// What `GET /status` says.
    #[must_use]
    pub fn status(&self) -> StatusDocument {
        self.view.status(&self.view.pool())
    }

    /// What `GET /explain` says.
    ///
    /// # Errors
    /// A sentence: there is no such deployment or backend.
    pub fn explain(&self, ask: &ExplainAsk) -> Result<ExplainDocument, String> {
        self.view.explain(ask)
    }

    /// Stops in order: unready at once, accepting for `drain_delay`, ending for `drain_timeout`.
    pub fn drain(&self) {
        let _ended = self.orders.send(Order::Drain);
    }

    /// Stops at once.
    pub fn abort(&self) {
        let _ended = self.orders.send(Order::Abort);
    }

    /// Takes other settings; requests in flight finish on the old ones.
    ///
    /// # Errors
    /// The old settings stay, for this reason.
    pub fn reload(&self, settings: Settings) -> Result<(), StartError> {
        let (reply, replied) = std::sync::mpsc::channel();
        self.orders.send(Order::Reload(Box::new(settings), reply)).map_err(|_| StartError::Stopping)?;
        replied.recv().unwrap_or(Err(StartError::Stopping))
    }

    /// Whether it has stopped.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Returns once it is about to end.
    pub async fn stopped(&self) {
        self.orders.closed().await;
    }

    /// Waits for the end; `false` when it ended without being asked to.
    #[must_use]
    pub fn wait(mut self) -> bool {
        self.thread.take().is_none_or(|thread| thread.join().unwrap_or(false))
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.abort();
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// std would let only 128 connections wait.
fn listen_on(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    open().map_err(|source| StartError::Listen { address, source })
}

/// The control thread: accepts, serves operators, watches, drains, reloads.
struct Control {
    view: View,
    token: Option<SecretString>,
    settings: Settings,
    generation: u32,
    workers: Workers<Proxy>,
    keeper: Keeper,
    callers: CallersKeys,
    tls: Tls,
    sending: Sending,
    /// When a drain's time is over.
    ends: Option<Instant>,
}

/// What callers' tokens are checked with, kept fresh on the control thread.
struct CallersKeys {
    callers: Arc<Callers>,
    fetching: Option<tokio::task::AbortHandle>,
}

impl CallersKeys {
    /// Begins, in place of what was going on before.
    fn fetch(&mut self, tls: &Tls) {
        if let Some(before) = self.fetching.take() {
            before.abort();
        }
        self.fetching = self.callers.entra_keys().map(|keys| {
            let fetching = keep_fresh(Arc::clone(keys), tls.clone(), Pace::default());
            tokio::task::spawn_local(fetching).abort_handle()
        });
    }
}

impl Control {
    /// Whether it ended because it was asked to.
    fn run(
        mut self,
        (listener, admin): (TcpListener, Option<TcpListener>),
        mut orders: mpsc::UnboundedReceiver<Order>,
    ) -> bool {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        let Ok(runtime) = runtime else { return false };
        let asked = runtime.block_on(async {
            let (admin_stop, admin_stopped) = watch::channel(Stop::Run);
            let mut operators = None;
            if let Some(listener) = admin.and_then(|admin| tokio::net::TcpListener::from_std(admin).ok()) {
                let admin = Rc::new(self.admin());
                let limits = ServerLimits {
                    connections: OPERATORS,
                    write_idle: STALLED_OPERATOR,
                    ..ServerLimits::default()
                };
                tokio::task::spawn_local(Rc::clone(&admin).look());
                let serving = serve(listener, Rc::clone(&admin), limits, admin_stopped);
                operators = Some((admin, tokio::task::spawn_local(serving)));
            }
            self.callers.fetch(&self.tls);
            self.sending.begin(&self.settings.traces, &self.tls);
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return false };
            self.keep_tokens();
            self.view.shared.health.set_listening();
            let asked = self.serve(listener, &mut orders).await;
            self.send_last_spans(&mut orders).await;
            if let Some((admin, serving)) = operators {
                // Pages hear the end as an end.
                admin.end();
                admin_stop.send_replace(Stop::Drain);
                let _late = tokio::time::timeout(LAST_WORDS, serving).await;
            }
            admin_stop.send_replace(Stop::Abort);
            asked
        });
        // A look at a file on a volume that hangs must not keep the process.
        runtime.shutdown_background();
        asked
    }

    fn admin(&self) -> Admin {
        let (of_status, of_metrics, of_drain) = (self.view.clone(), self.view.clone(), self.view.clone());
        let (of_pool, of_changes, of_failed) = (self.view.clone(), self.view.clone(), self.view.clone());
        let (of_explain, of_requests) = (self.view.clone(), self.view.clone());
        let shared = Arc::clone(&self.view.shared);
        let let_go = self.workers.teller();
        let doors = Doors {
            stir: Arc::clone(&self.view.shared.stir),
            readiness: Rc::new(move || shared.health.readiness()),
            pool: Rc::new(move || of_pool.pool()),
            changes: Rc::new(move || of_changes.shared.pool().changes_so_far()),
            failed: Rc::new(move || of_failed.failed()),
            status: Rc::new(move |pool| of_status.status(pool)),
            explain: Rc::new(move |ask| of_explain.explain(ask)),
            requests: Rc::new(move |ask| of_requests.metrics.troubled(ask.of_metrics())),
            metrics: Rc::new(move || of_metrics.metrics()),
            set_drained: Rc::new(move |name, drained| {
                let known = of_drain.set_drained(name, drained);
                if known && drained {
                    let name = name.to_owned();
                    let_go(move |proxy: &Rc<Proxy>| proxy.let_go(&name));
                }
                known
            }),
        };
        Admin::new(self.view.admin.unwrap_or(self.view.listen), self.token.clone(), doors)
    }

    /// Sources that have no task yet get theirs.
    fn keep_tokens(&mut self) {
        let view = self.view.clone();
        let changed: Changed = Rc::new(move || view.tell_credentials());
        self.keeper.run(&self.tls, &changed);
    }

    async fn serve(
        &mut self,
        listener: tokio::net::TcpListener,
        orders: &mut mpsc::UnboundedReceiver<Order>,
    ) -> bool {
        let (stop, stopped) = watch::channel(Stop::Run);
        let acceptor = self.workers.acceptor(Arc::clone(&self.view.refused));
        if let Some(certificate) = &self.view.certificate {
            tokio::task::spawn_local(certificate.clone().watch());
        }
        let mut accepting = tokio::task::spawn_local(async move { acceptor.accept(listener, stopped).await });
        let (mut quiet, mut seen) = (false, 0);
        let looker = Looker::new(Arc::clone(&self.view.shared.stir));
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Drain) => break,
                    Some(Order::Abort) | None => {
                        self.abort().await;
                        return true;
                    }
                    Some(Order::Reload(settings, reply)) => {
                        let outcome = self.reload(*settings).await;
                        let _gone = reply.send(outcome);
                    }
                },
                _ = &mut accepting => {
                    tracing::error!("connections are accepted no longer");
                    return false;
                }
                () = looker.pause(TICK, quiet) => {
                    looker.looks();
                    if self.workers.any_ended() {
                        tracing::error!("a worker thread has ended by itself");
                        return false;
                    }
                    let pool = self.tell_changes();
                    drop(self.view.look_at_callers());
                    quiet = pool.at_rest() && pool.requests() == seen;
                    seen = pool.requests();
                }
            }
        }
        self.view.shared.set_draining();
        self.ends = Some(clock::now() + self.settings.drain_delay + self.settings.drain_timeout);
        tracing::info!(delay = %humantime::format_duration(self.settings.drain_delay), "draining");
        tokio::select! {
            () = self.drain(&stop, accepting) => tracing::info!("drained"),
            () = aborted(orders) => {
                self.ends = None;
                tracing::warn!("stopped before the drain was through");
            }
        }
        self.abort().await;
        true
    }

    /// Every request's record is written before the threads have ended.
    async fn abort(&self) {
        // So that the records say who ended it.
        self.workers.each(|proxy| proxy.cut_streams());
        self.workers.stop(Stop::Abort);
        let _late = tokio::time::timeout(LAST_RECORDS, self.workers_ended()).await;
    }

    /// Within the drain's time; told to stop at once, within that of the last records.
    async fn send_last_spans(&mut self, orders: &mut mpsc::UnboundedReceiver<Order>) {
        let Some(ends) = self.ends else { return self.sending.finish(LAST_RECORDS).await };
        let left = ends.saturating_duration_since(clock::now()).clamp(LAST_RECORDS, LONGEST_END);
        tokio::select! {
            () = self.sending.finish(left) => {}
            () = aborted(orders) => {}
        }
    }

    async fn workers_ended(&self) {
        while !self.workers.ended() {
            sleep(DRAIN_TICK).await;
        }
    }

    /// Cooldowns that ended while nobody asked are told here.
    fn tell_changes(&self) -> PoolSnapshot {
        let (snapshot, changes) = {
            let mut pool = self.view.shared.pool();
            let snapshot = pool.snapshot(clock::now());
            (snapshot, if pool.has_changes() { pool.take_changes() } else { Vec::new() })
        };
        changes.iter().for_each(change::tell);
        snapshot
    }

    async fn drain(&self, stop: &watch::Sender<Stop>, accepting: tokio::task::JoinHandle<()>) {
        sleep(self.settings.drain_delay).await;
        stop.send_replace(Stop::Drain);
        // Who was let in is with a worker before the workers hear of the end.
        let _ended = accepting.await;
        self.workers.stop(Stop::Drain);
        if tokio::time::timeout(self.settings.drain_timeout, self.workers_ended()).await.is_err() {
            tracing::warn!(
                connections = self.workers.connections(),
                "the drain's time is over: cutting streams"
            );
            self.workers.each(|proxy| proxy.cut_streams());
            sleep(LAST_WORDS).await;
        }
    }

    async fn reload(&mut self, settings: Settings) -> Result<(), StartError> {
        let token = |settings: &Settings| -> Option<String> {
            settings.admin_token.as_ref().map(|token| token.expose_secret().to_owned())
        };
        for (changed, key) in [
            (settings.listen != self.settings.listen, "server.listen"),
            (settings.tls.is_some() != self.settings.tls.is_some(), "whether server.tls is set"),
            (settings.admin_listen != self.settings.admin_listen, "server.admin_listen"),
            (token(&settings) != token(&self.settings), "server.admin_token"),
            (settings.workers != self.settings.workers, "server.workers"),
            (settings.server != self.settings.server, "limits of connections and headers"),
            (settings.log != self.settings.log, "log"),
        ] {
            if changed {
                return Err(StartError::Fixed(key));
            }
        }
        let certificate = settings.tls.clone().map(|tls| certificate::load(&tls).map(|loaded| (tls, loaded)));
        let certificate =
            certificate.transpose().map_err(|problem| StartError::Certificate(sentence(&problem)))?;
        let tls = Tls::new(&settings.upstream)?.after(&self.tls);
        let generation = self.generation + 1;
        let presented = presented(&settings, &mut self.keeper)?;
        let slots = slots(&presented);
        let before = Some(&*self.callers.callers);
        let callers = Arc::new(Callers::new(settings.callers.clone(), settings.listen, before));
        let edges = edge_settings(&settings, Arc::clone(&callers), presented, tls.clone(), generation);
        drop(Edge::new(edges.clone())?);
        // The workers know the new backends before the pool names them.
        let (ready, mut readied) = mpsc::unbounded_channel();
        self.workers.each(move |proxy| {
            proxy.prepare(Edge::new(edges).expect("made once already, before the workers"));
            let _gone = ready.send(());
        });
        for _ in 0..self.workers.count() {
            readied.recv().await.ok_or(StartError::Stopping)?;
        }
        let backends = settings.pool.backends.len();
        *self.view.tokens.lock().unwrap_or_else(PoisonError::into_inner) = slots;
        let ids = {
            let mut pool = self.view.shared.pool();
            pool.reconfigure(clock::now(), settings.pool.clone());
            pool.backend_ids()
        };
        self.view.shared.pins().reconfigure(settings.pins, ids);
        self.view.tell_credentials();
        let used = settings.upstreams.iter().filter_map(|upstream| match &upstream.credential {
            Credential::Token(settings) => Some(settings),
            Credential::ApiKey(_) | Credential::Caller => None,
        });
        self.keeper.retain(&used.collect::<Vec<_>>());
        self.tls = tls;
        self.keep_tokens();
        self.callers = CallersKeys { callers, fetching: self.callers.fetching.take() };
        self.callers.fetch(&self.tls);
        self.sending.begin(&settings.traces, &self.tls);
        if let (Some(ours), Some((tls, loaded))) = (&self.view.certificate, certificate) {
            ours.take(tls, loaded);
        }
        self.generation = generation;
        self.settings = settings;
        tracing::info!(backends, "settings reloaded");
        Ok(())
    }
}

/// Resolves at an order to stop at once; other orders come too late.
async fn aborted(orders: &mut mpsc::UnboundedReceiver<Order>) {
    while let Some(order) = orders.recv().await {
        match order {
            Order::Abort => return,
            Order::Reload(_, reply) => {
                let _gone = reply.send(Err(StartError::Stopping));
            }
            // A second request to drain is a request to hurry.
            Order::Drain => return,
        }
    }
}
