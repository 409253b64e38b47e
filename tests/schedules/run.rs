//! One schedule, run: the real proxy and pool between modelled callers and backends, on paused time.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sidestep::balance::{BackendSettings, PinSettings, Pool, PoolSettings};
use sidestep::identity::callers::Callers;
use sidestep::identity::token::Slot;
use sidestep::identity::{CallerSettings, Credential};
use sidestep::net::connect::Connector;
use sidestep::net::server::{LocalStop, Stop};
use sidestep::net::upstream::{Origin, Tls, UpstreamSettings};
use sidestep::proxy::{Edge, EdgeSettings, Proxy, ProxySettings, Shared};
use sidestep::telemetry::access::AccessLog;
use sidestep::telemetry::metrics::Metrics;
use sidestep::telemetry::request_id::RequestIds;
use sidestep::telemetry::sink::Sink;
use sidestep::telemetry::traces::Spans;
use sidestep::telemetry::{LogFormat, clock};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::{self, JoinHandle};
use tokio::time::{sleep, sleep_until, timeout};

use super::backend::{Net, World, key_of};
use super::book::Book;
use super::caller::{self, Front, Told};
use super::schedule::{Backend, Call, Kind, Limits, NAMES, Schedule, Step};

/// What was seen, for the report.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) requests: u64,
    pub(crate) attempts: u64,
    pub(crate) served: u64,
    pub(crate) left: u64,
    /// Waited in line, and asked a backend again.
    pub(crate) held: u64,
}

impl Seen {
    pub(crate) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.attempts += other.attempts;
        self.served += other.served;
        self.left += other.left;
        self.held += other.held;
    }
}

/// A broken invariant, with the trace where one was asked for.
pub(crate) struct Broken {
    pub(crate) text: String,
    pub(crate) trace: Vec<String>,
}

pub(crate) fn run(schedule: &Schedule, traced: bool) -> Result<Seen, Broken> {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async {
        let world = World::new(schedule, traced);
        let mut stage = Stage::new(Rc::clone(&world), schedule);
        stage.play(schedule).await;
        stage.afterwards().await;
        let book = world.book.borrow();
        let count = |number: usize| u64::try_from(number).unwrap();
        match &book.violation {
            Some(text) => Err(Broken { text: text.clone(), trace: book.trace.clone().unwrap_or_default() }),
            None => Ok(Seen {
                requests: count(book.requests.len()),
                attempts: count(book.attempts.len()),
                served: count(
                    book.attempts.iter().filter(|attempt| attempt.finished && attempt.status == 200).count(),
                ),
                left: count(book.requests.iter().filter(|request| request.left).count()),
                held: count(book.held()),
            }),
        }
    })
}

struct Stage {
    world: Rc<World>,
    shared: Arc<Shared>,
    front: Front,
    generation: u32,
    limits: Limits,
    calls: Vec<JoinHandle<Option<Told>>>,
}

fn tls() -> Tls {
    static TLS: OnceLock<Tls> = OnceLock::new();
    let new = || Tls::new(&UpstreamSettings { connect_timeout: Duration::ZERO, ca_file: None }).unwrap();
    TLS.get_or_init(new).clone()
}

fn log() -> AccessLog {
    static SINK: OnceLock<Sink> = OnceLock::new();
    let sink = SINK.get_or_init(|| Sink::new(std::io::sink(), LogFormat::Text).unwrap());
    AccessLog::new(sink.clone(), LogFormat::Text, &"off".parse().unwrap())
}

const PINS: PinSettings = PinSettings { ids: 100, home: 0 };

fn pool_settings(backends: &[Backend], limits: Limits) -> PoolSettings {
    let backends = backends.iter().map(|backend| BackendSettings {
        name: backend.name.as_str().into(),
        url: format!("http://{}.test", backend.name).into(),
        priority: backend.priority,
        weight: NonZeroU32::new(backend.weight).unwrap(),
        deployments: backend.serves.clone(),
    });
    PoolSettings { backends: backends.collect(), lanes: limits.lanes }
}

fn edge(world: &Rc<World>, generation: u32, backends: &[Backend], limits: Limits) -> Edge {
    let ms = Duration::from_millis;
    let proxy = ProxySettings {
        deadline: ms(limits.deadline),
        first_byte_timeout: limits.first_byte.map(ms),
        first_event_timeout: Some(ms(limits.first_event)),
        stream_idle_timeout: Some(ms(limits.stream_idle)),
        hold: limits.hold.map(ms),
        held: limits.held,
        explain_headers: true,
        path_prefix: String::new(),
        forward_headers: Vec::new(),
        body_idle: Duration::from_secs(60),
        request_replay: limits.replay,
        request_hard_limit: 1 << 20,
        buffered: limits.buffered,
    };
    let backends = backends.iter().map(|backend| {
        let host = format!("{}.test", backend.name);
        let origin = Origin { tls: false, host, port: 80, path_prefix: String::new(), http2: false };
        let credential = Credential::ApiKey(key_of(&backend.name).into());
        let credential = credential.presented(|_| Slot::default()).unwrap();
        (Arc::from(backend.name.as_str()), origin, credential, backend.serves.clone())
    });
    let callers = CallerSettings { anonymous: true, ..CallerSettings::default() };
    let callers = Callers::new(callers, SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)), None);
    let settings = EdgeSettings {
        generation,
        callers: callers.into(),
        proxy,
        backends: backends.collect(),
        tls: tls(),
        connect_timeout: ms(limits.connect),
    };
    Edge::over(&Connector::Memory(Rc::new(Net(Rc::clone(world)))), settings).unwrap()
}

impl Stage {
    fn new(world: Rc<World>, schedule: &Schedule) -> Self {
        let (backends, limits) = (&schedule.backends, schedule.limits);
        let mut pool = Pool::new(pool_settings(backends, limits), schedule.seed);
        (0..backends.len()).for_each(|backend| pool.set_credential(backend, true));
        let shared = Arc::new(Shared::new(pool, PINS));
        shared.health.set_credentials(backends.len());
        let first = edge(&world, 0, backends, limits);
        let ids = RequestIds::new(schedule.seed, 0);
        let spans = Arc::new(Spans::new(0));
        let proxy = Proxy::new(Arc::clone(&shared), first, ids, log(), Metrics::new().worker(), spans);
        let front = Front { proxy: Rc::new(proxy), stop: LocalStop::default() };
        Self { world, shared, front, generation: 0, limits, calls: Vec::new() }
    }

    async fn play(&mut self, schedule: &Schedule) {
        let mut drained = false;
        for (at, step) in &schedule.steps {
            if !drained && let Some(drains_at) = schedule.drains_at.filter(|drains_at| drains_at <= at) {
                sleep_until(self.world.at(drains_at)).await;
                self.shared.set_draining();
                self.front.stop.tell(Stop::Drain);
                drained = true;
            }
            sleep_until(self.world.at(*at)).await;
            self.step(step, drained);
            self.check().await;
        }
        for call in std::mem::take(&mut self.calls) {
            if timeout(Duration::from_secs(3_600), call).await.is_err() {
                self.world.violated("I9", "a request is never answered");
                return;
            }
        }
        if drained && timeout(Duration::from_secs(60), self.front.stop.emptied()).await.is_err() {
            self.world.violated("I9", "a drain does not end although all is answered");
        }
        let unseen = |book: &Book| book.requests.iter().any(|request| request.left && request.call.long);
        let unseen = unseen(&self.world.book.borrow());
        sleep(Duration::from_millis(if unseen { self.limits.deadline } else { 2 })).await;
        self.check_idle();
    }

    fn step(&mut self, step: &Step, drained: bool) {
        let now = self.world.now();
        match step {
            // Whoever comes after a drain is not accepted.
            Step::Call(_) if drained => {}
            Step::Call(call) => {
                let call = caller::call(Rc::clone(&self.world), self.front.clone(), call.clone());
                self.calls.push(task::spawn_local(call));
            }
            Step::Mood(backend, mood) => {
                self.world.book.borrow_mut().note(now, || format!("b{backend} is {mood:?}"));
                self.world.moods.borrow_mut()[*backend] = *mood;
            }
            Step::Drained(name, drained) => {
                let mut book = self.world.book.borrow_mut();
                book.note(now, || format!("{name} drained: {drained}"));
                if let Some(index) = book.drained(now, name, *drained) {
                    self.shared.pool().set_drained(index, *drained);
                }
            }
            Step::Reload(backends) => {
                self.generation += 1;
                self.front.proxy.prepare(edge(&self.world, self.generation, backends, self.limits));
                let mut pool = self.shared.pool();
                pool.reconfigure(clock::now(), pool_settings(backends, self.limits));
                (0..backends.len()).for_each(|backend| pool.set_credential(backend, true));
                let ids = pool.backend_ids();
                drop(pool);
                self.shared.pins().reconfigure(PINS, ids);
                let mut book = self.world.book.borrow_mut();
                book.note(now, || "reload".to_owned());
                book.reload(now, backends);
            }
        }
    }

    /// I7 and I8, once what happens at this instant has happened.
    async fn check(&self) {
        let mut wrong = None;
        for _ in 0..3 {
            sleep(Duration::from_millis(1)).await;
            wrong = self.counted_wrong();
            if wrong.is_none() {
                return;
            }
        }
        if let Some((invariant, text)) = wrong {
            self.world.violated(invariant, &text);
        }
    }

    fn counted_wrong(&self) -> Option<(&'static str, String)> {
        let snapshot = self.shared.pool().snapshot(clock::now());
        let book = self.world.book.borrow();
        let (least, most) = book.in_flight();
        let of_backends: u64 = snapshot.backends.iter().map(|backend| backend.tally.in_flight).sum();
        if snapshot.in_flight < least || snapshot.in_flight > most || of_backends > snapshot.in_flight {
            let text =
                format!("{} in flight, {of_backends} of backends; seen {least}..={most}", snapshot.in_flight);
            return Some(("I8", text));
        }
        let bodies = self.shared.buffered();
        let sent = book.bodies();
        if bodies > self.limits.buffered || bodies > sent {
            return Some(("I7", format!("{bodies} bytes are buffered, {sent} were sent")));
        }
        let lanes: usize = snapshot.backends.iter().map(|backend| backend.lanes.len()).sum();
        // A reload keeps what is known and adds what it names, at most two and the unnamed one for each backend.
        let most = self.limits.lanes + snapshot.backends.len() * 3;
        (lanes > most).then(|| ("I7", format!("{lanes} lanes, {most} are the bound")))
    }

    /// Nobody calls: nothing is left of what was.
    fn check_idle(&self) {
        let snapshot = self.shared.pool().snapshot(clock::now());
        if snapshot.in_flight != 0 {
            self.world.violated("I8", &format!("{} in flight at the end", snapshot.in_flight));
        }
        // Whose caller left behind a body that nobody took yet is found out when it is sent: on a connection that was open
        // already, its backend never hears of it.
        let left =
            |book: &Book| book.requests.iter().filter(|request| request.left && request.call.long).count();
        let mut unheard = left(&self.world.book.borrow()) as u64;
        for backend in &snapshot.backends {
            let lanes: u64 = backend.lanes.iter().map(|lane| lane.tally.in_flight).sum();
            let seen = self.world.book.borrow().attempts_of(&backend.name);
            let more = backend.tally.requests.checked_sub(seen).filter(|more| *more <= unheard);
            unheard -= more.unwrap_or_default();
            if backend.tally.in_flight != 0 || lanes != 0 || more.is_none() {
                let text = format!("{}: {:?}, {lanes} on lanes, {seen} seen", backend.name, backend.tally);
                self.world.violated("I8", &text);
            }
        }
        if self.shared.buffered() != 0 {
            self.world.violated("I7", &format!("{} bytes buffered at the end", self.shared.buffered()));
        }
        let open = self.world.book.borrow().attempts.iter().position(|attempt| attempt.open);
        if let Some(open) = open {
            self.world.violated("I6", &format!("attempt {} is still open at the end", open + 1));
        }
    }

    /// I10: all is well again, and an idle pool serves, after the wait that it tells.
    async fn afterwards(&mut self) {
        if self.world.book.borrow().violation.is_some() {
            return;
        }
        self.world.healed.set(true);
        self.front.stop = LocalStop::default();
        let names = self.world.book.borrow_mut().resume(self.world.now());
        for index in 0..names {
            self.shared.pool().set_drained(index, false);
        }
        sleep(Duration::from_millis(1)).await;
        for name in NAMES.map(Some).into_iter().chain([None]) {
            let call = Call {
                kind: if name.is_some() { Kind::Chat } else { Kind::Models },
                deployment: name.map(str::to_owned),
                big: false,
                long: false,
                leaves_after: None,
                slow: None,
                patience_s: None,
                pipe: 65_536,
            };
            if !self.world.book.borrow().served_somewhere(name) {
                continue;
            }
            self.served_at_last(&call).await;
        }
        sleep(Duration::from_millis(2)).await;
        self.check_idle();
    }

    async fn served_at_last(&self, call: &Call) {
        let mut told = Vec::new();
        for _ in 0..3 {
            let answer = caller::call(Rc::clone(&self.world), self.front.clone(), call.clone()).await;
            let Some(answer) = answer else { break };
            if answer.status == 200 {
                return;
            }
            // What Azure itself said was missing is asked for again after five minutes.
            sleep(Duration::from_millis(answer.wait.unwrap_or(301_000))).await;
            told.push(answer);
        }
        self.world.violated("I10", &format!("all is well, and {call:?} was told {told:?}"));
    }
}
