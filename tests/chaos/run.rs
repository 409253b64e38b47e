//! One run from its quiet beginning to its quiet end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use fastrand::Rng;
use sidestep::app::balancer::Balancer;
use sidestep::simulator::{
    AcceptedKey, Fault, QuotaSettings, ResourceSettings, Simulator, SimulatorSettings,
};
use sidestep::telemetry::LogFormat;
use sidestep::telemetry::sink::Sink;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::callers::{End, call};
use crate::fixture::{CHAT, Caller, QUESTION, eventually, key_of, settings};
use crate::process::{descriptors, memory};
use crate::trouble::{TROUBLED, Temper, WELL, brew};

/// Memory of allocator and pools that may stay, in KiB.
const SLACK: u64 = 32 * 1_024;

/// Callers at once; a steady rate beyond that would test this machine.
const AT_ONCE: usize = 300;

/// Between two reloads: they also end refusals that would spare a backend its trouble.
const RELOAD: Duration = Duration::from_secs(15);

/// Between two words on how it goes.
const TELL: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) temper: Temper,
    pub(crate) seed: u64,
    pub(crate) lasts: Duration,
    pub(crate) per_second: u64,
}

/// The balancer in front of its backends.
struct Stage {
    balancer: Balancer,
    simulator: Simulator,
    text: String,
    /// Open before anybody called.
    descriptors: usize,
}

impl Stage {
    fn start(seed: u64) -> Self {
        let names = || TROUBLED.iter().chain([&WELL]);
        let resource = |name: &&str| {
            let mut resource = ResourceSettings::named(name);
            resource.quota = QuotaSettings::unlimited();
            resource.api_keys = vec![AcceptedKey::from(key_of(name).as_str())];
            resource.latency.first_byte = Duration::from_millis(5);
            resource.latency.per_token = Duration::from_millis(2);
            resource.remember = 0;
            resource
        };
        let resources = names().map(resource).collect();
        let simulator = Simulator::start(SimulatorSettings { seed, resources }).unwrap();
        let mut text = "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"off\"\nworkers = 2\n[retry]\n\
            first_byte_timeout = \"3s\"\nfirst_event_timeout = \"3s\"\nstream_idle_timeout = \"5s\"\n"
            .to_owned();
        for name in names() {
            let (url, key) = (simulator.resource(name).url(), key_of(name));
            let priority = if *name == WELL { 2 } else { 1 };
            write!(
                text,
                "[[backends]]\nname = \"{name}\"\nurl = \"{url}\"\npriority = {priority}\napi_key = \"{key}\"\n"
            )
            .unwrap();
        }
        let sink = Sink::new(std::io::sink(), LogFormat::Json).unwrap();
        let balancer = Balancer::start(settings(&text), sink).unwrap();
        // All threads are there, and have what they need to wait for anything.
        std::thread::sleep(Duration::from_millis(200));
        Self { balancer, simulator, text, descriptors: descriptors() + 2 }
    }

    /// Everything that was begun has ended, on both sides.
    async fn quiet(&self) {
        eventually("every place is handed back", || {
            let status = self.balancer.status();
            status.callers.in_flight == 0 && status.backends.iter().all(|backend| backend.in_flight == 0)
        })
        .await;
        let handle = self.simulator.handle();
        eventually("nothing goes on upstream", || {
            handle.resources().iter().all(|resource| resource.counters().in_flight == 0)
        })
        .await;
    }

    /// No connection is left either.
    async fn alone(&self) {
        self.quiet().await;
        let handle = self.simulator.handle();
        for resource in handle.resources() {
            resource.fault(Fault::Refuse);
        }
        // Nobody listens and open connections are closed, which the balancer sees at the next sweep of idle ones.
        eventually("no connection is left", || descriptors() <= self.descriptors).await;
        for resource in handle.resources() {
            resource.clear();
        }
        eventually("everybody listens", || {
            handle.resources().iter().all(|resource| TcpStream::connect(resource.address()).is_ok())
        })
        .await;
    }

    /// Calls at a steady rate for so long.
    async fn crowd(&self, plan: Plan, lasts: Duration, rng: &mut Rng, book: &mut Book) {
        let began = Instant::now();
        let (mut reloaded, mut told) = (began, began);
        let mut beat = interval(Duration::from_secs(1) / u32::try_from(plan.per_second).unwrap());
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut crowd = JoinSet::new();
        while began.elapsed() < lasts {
            beat.tick().await;
            while let Some(ended) = crowd.try_join_next() {
                book.note(ended.unwrap_or_else(|error| Err(error.to_string())));
            }
            if crowd.len() < AT_ONCE {
                crowd.spawn(call(self.balancer.address(), rng.fork()));
            }
            book.memory = book.memory.max(memory());
            book.descriptors = book.descriptors.max(descriptors());
            if reloaded.elapsed() > RELOAD {
                self.balancer.reload(settings(&self.text)).unwrap();
                reloaded = Instant::now();
            }
            if told.elapsed() > TELL {
                let (ended, open) = (book.ends.values().sum::<u64>(), descriptors());
                say(&format!(
                    "{:?}: {ended} requests, {} KiB, {open} descriptors",
                    began.elapsed(),
                    memory()
                ));
                told = Instant::now();
            }
        }
        while let Some(ended) = crowd.join_next().await {
            book.note(ended.unwrap_or_else(|error| Err(error.to_string())));
        }
    }
}

/// What was seen.
#[derive(Default)]
struct Book {
    ends: BTreeMap<&'static str, u64>,
    mistakes: Vec<String>,
    /// The most of each.
    memory: u64,
    descriptors: usize,
}

impl Book {
    fn note(&mut self, end: End) {
        match end {
            Ok(word) => *self.ends.entry(word).or_default() += 1,
            Err(mistake) => {
                say(&format!("NOT EXPECTED: {mistake}"));
                self.mistakes.push(mistake);
            }
        }
    }
}

/// Past the test harness, which would keep it to itself.
fn say(text: &str) {
    let mut out = std::io::stderr();
    writeln!(out, "{text}").unwrap();
}

/// Runs the plan; panics where something is not as it should be.
pub(crate) async fn run(plan: Plan) {
    let Plan { temper, seed, lasts, per_second } = plan;
    say(&format!("{temper:?}, SIDESTEP_CHAOS_SEED={seed}, {lasts:?} at {per_second} requests a second"));
    let stage = Stage::start(seed);
    let mut rng = Rng::with_seed(seed);
    // Warm: what is made once is made, and counts as the beginning.
    let mut book = Book::default();
    stage.crowd(plan, (lasts / 10).min(Duration::from_secs(20)), &mut rng, &mut book).await;
    stage.quiet().await;
    let memory_then = memory();

    let trouble = tokio::spawn(brew(stage.simulator.handle(), temper, rng.fork()));
    stage.crowd(plan, lasts, &mut rng, &mut book).await;
    trouble.abort();
    drop(trouble.await);
    for name in TROUBLED {
        stage.simulator.resource(name).clear();
    }
    stage.alone().await;
    let memory_now = memory();
    let status = stage.balancer.status();
    say(&format!(
        "requests by end: {:?}\nfailovers {}, attempts by backend: {:?}\n\
        memory KiB: start {memory_then}, max {}, end {memory_now}\n\
        descriptors: at most {} at the start, max {}, end {}",
        book.ends,
        status.callers.failovers_total,
        status.backends.iter().map(|backend| (&*backend.name, backend.requests_total)).collect::<Vec<_>>(),
        book.memory,
        stage.descriptors,
        book.descriptors,
        descriptors(),
    ));
    assert_eq!(book.mistakes, Vec::<String>::new(), "SIDESTEP_CHAOS_SEED={seed}");
    if temper == Temper::Mild {
        let hurt = book
            .ends
            .keys()
            .find(|end| !["served", "served on one connection", "left", "not harmless"].contains(end));
        assert_eq!(hurt, None, "SIDESTEP_CHAOS_SEED={seed}");
    }
    assert!(memory_now <= memory_then + SLACK, "memory: {memory_then} KiB, then {memory_now} KiB");
    assert_eq!(Caller::http1(stage.balancer.address()).post(CHAT, QUESTION).await.status, 200);
}
