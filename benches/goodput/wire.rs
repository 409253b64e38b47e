//! The same through the wire: a real balancer before simulated resources, thousands of callers on real sockets, at
//! ten times the speed of clocks; failures and 429s must be those of the virtual run, within bands.
//!
//! ```text
//! cargo bench --bench goodput -- --wire              exit code 1 if a figure leaves its band
//!     --speed 6    --seeds 1                          for a machine that is busy, or slow
//! ```
//!
//! Speed is a matter of the clock, and no program here knows of it: `faketime` (Debian's package) runs this whole process,
//! balancer, simulator and callers, with clocks and timers that are faster. So a minute of quota is a minute to
//! everybody, and what is tested is what ships. What stays as slow as it is, is the machine: at ten times the speed a
//! millisecond of work, of waiting for a core, or of a timer's grain counts as ten. On two busy cores runs at 20 and 60 times
//! left the bands and sent up to 6 and 56 s late; that lateness is the cause is likely and not proven. So figures of time
//! are not compared, and a run that was late says so instead of passing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use sidestep::app::balancer::Balancer;
use sidestep::settings::{self, Environment, Source};
use sidestep::simulator::{
    Anchor, LatencySettings, Occupation, QuotaSettings, ResourceSettings, Simulator, SimulatorHandle,
    SimulatorSettings,
};
use sidestep::telemetry::LogFormat;
use sidestep::telemetry::sink::Sink;
use tokio::runtime::{Builder, LocalOptions};

use crate::figures::Summary;
use crate::quota::Window;
use crate::rows;
use crate::scenario::{Pool, Scenario};
use crate::sdk::{self, Met};
use crate::traffic::{self, MEASURED, Oddities};
use crate::upstream::World;

/// How much faster clocks are; less where the machine is busy.
pub(crate) const SPEED: u32 = 10;
const LOADS: [f64; 2] = [0.9, 1.1];
/// Seeds of the wire; the virtual run has the same and more.
pub(crate) const SEEDS: u64 = 2;
const VIRTUAL_SEEDS: u64 = 16;
/// Words of an answer: few, each as long as many, for clocks are coarse at this speed.
const WORDS: u32 = 8;
/// Tokens of an answer in the trace, about.
const COMPLETION: f64 = 225.0;
/// A machine that sends this late measures itself.
const LATEST: f64 = 2.0;

/// How far a mean of the wire may be from the virtual run's.
struct Band {
    name: &'static str,
    figure: fn(&Figures) -> f64,
    most: f64,
}

const BANDS: [Band; 3] = [
    Band { name: "failing %", figure: |run| run.failing, most: 2.0 },
    Band { name: "refused first %", figure: |run| run.refused_first, most: 6.0 },
    Band { name: "429s of backends per 1,000", figure: |run| run.upstream_429, most: 25.0 },
];

/// What is compared.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    failing: f64,
    refused_first: f64,
    upstream_429: f64,
    goodput: f64,
}

impl Figures {
    fn mean(of: &[Self]) -> Self {
        let mean = |figure: fn(&Self) -> f64| of.iter().map(figure).sum::<f64>() / of.len().max(1) as f64;
        Self {
            failing: mean(|run| run.failing),
            refused_first: mean(|run| run.refused_first),
            upstream_429: mean(|run| run.upstream_429),
            goodput: mean(|run| run.goodput),
        }
    }
}

impl From<Summary> for Figures {
    fn from(run: Summary) -> Self {
        Self {
            failing: run.failing_percent,
            refused_first: run.first_refused_percent,
            upstream_429: run.upstream_429_per_1000,
            goodput: run.goodput_percent,
        }
    }
}

fn scenario(load: f64) -> Scenario {
    // The simulator's windows begin with their first use, and it charges by the same quarter of the characters that the
    // balancer expects. With estimates off by up to 15 % the virtual run sends more away at first, at 110 % of load 1.5 of
    // 100 over 16 seeds, and 5 on the first two.
    let oddities = Oddities { spread: 0.0, ..Oddities::NONE };
    Scenario { window: Window::Anchored, oddities, ..Scenario::base(Pool::Unequal(8), load) }
}

/// This program again, with fast clocks.
#[expect(clippy::print_stderr, reason = "what is missing")]
pub(crate) fn start(speed: u32, seeds: u64) -> ExitCode {
    let Ok(this) = std::env::current_exe() else { return ExitCode::FAILURE };
    let speed = format!("+0 x{speed}");
    let status = Command::new("faketime")
        .args(["-m", "-f", &speed])
        .arg(this)
        .arg("--wire-at-speed")
        .arg("--seeds")
        .arg(seeds.to_string())
        .status();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("faketime: {error}; Debian has it in the package faketime");
            ExitCode::FAILURE
        }
    }
}

/// All loads and seeds; false where a band is broken.
pub(crate) fn run(seeds: u64, mut put: impl FnMut(String)) -> bool {
    let mut all = true;
    for load in LOADS {
        let scenario = scenario(load);
        let wire = (1..=seeds).map(|seed| {
            let (figures, met) = wire(&scenario, seed);
            put(format!(
                "wire    {:3.0} % seed {seed}: failing {:5.2} %, refused first {:5.2} %, backends' 429s {:5.1} per 1,000, goodput {:5.1} % \
                 ({} callers, {} requests, {} errors other than 429, sent at most {:.1} s late)",
                load * 100.0, figures.failing, figures.refused_first, figures.upstream_429, figures.goodput,
                met.callers, met.asked, met.other, met.late
            ));
            (figures, met)
        });
        let wire: Vec<_> = wire.collect();
        let modelled: Vec<Figures> = (1..=VIRTUAL_SEEDS)
            .filter_map(|seed| rows::once("sidestep", &scenario, seed))
            .map(Figures::from)
            .collect();
        let few = usize::try_from(seeds).unwrap_or(1).min(modelled.len());
        for (label, figures) in [("same seeds", &modelled[..few]), ("16 seeds", &modelled[..])] {
            let mean = Figures::mean(figures);
            put(format!(
                "virtual {:3.0} % {label}: failing {:5.2} %, refused first {:5.2} %, backends' 429s {:5.1} per 1,000, goodput {:5.1} %",
                load * 100.0,
                mean.failing,
                mean.refused_first,
                mean.upstream_429,
                mean.goodput
            ));
        }
        let late = wire.iter().map(|(_, met)| met.late).fold(0.0, f64::max);
        if late > LATEST {
            put(format!("BROKEN  {:3.0} %: the machine was {late:.0} s of fast time behind", load * 100.0));
            all = false;
        }
        if wire.iter().any(|(_, met)| met.other > 0) {
            put(format!("BROKEN  {:3.0} %: nothing but a 429 may be told here", load * 100.0));
            all = false;
        }
        let figures: Vec<Figures> = wire.iter().map(|(figures, _)| *figures).collect();
        let (wire, modelled) = (Figures::mean(&figures), Figures::mean(&modelled[..few]));
        for Band { name, figure, most } in &BANDS {
            let (value, expected) = (figure(&wire), figure(&modelled));
            let holds = (value - expected).abs() <= *most;
            all &= holds;
            let verdict = if holds { "holds" } else { "BROKEN" };
            put(format!(
                "{verdict:6}  {:3.0} % {name}: {value:.2}, virtual {expected:.2}, at most {most} apart",
                load * 100.0
            ));
        }
    }
    all
}

fn wire(scenario: &Scenario, seed: u64) -> (Figures, Met) {
    let world = World::new(scenario, seed);
    let simulator =
        Simulator::start(SimulatorSettings { seed, resources: resources(&world) }).expect("loopback");
    let balancer = balancer(&simulator);
    let trace = traffic::trace(seed, scenario.load * world.left(), scenario.oddities);
    let handle = simulator.handle();
    let mut before = (0, 0);
    let runtime =
        Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).expect("a runtime");
    let met = runtime.block_on(sdk::play(balancer.address(), trace, seed, || before = counted(&handle)));
    let after = counted(&handle);
    let asked = met.asked.max(1) as f64;
    let figures = Figures {
        failing: 100.0 * met.lost as f64 / asked,
        refused_first: 100.0 * met.refused_first as f64 / asked,
        upstream_429: 1_000.0 * (after.0 - before.0) as f64 / asked,
        goodput: 100.0 * (after.1 - before.1) as f64 / (world.quota() * MEASURED / 60.0),
    };
    (figures, met)
}

/// 429s and tokens so far.
fn counted(simulator: &SimulatorHandle) -> (u64, u64) {
    let counters = simulator.resources().iter().map(sidestep::simulator::ResourceHandle::counters);
    counters.fold((0, 0), |(throttled, tokens), counters| {
        (throttled + counters.throttled, tokens + counters.tokens_charged)
    })
}

/// The model's backends as resources.
fn resources(world: &World) -> Vec<ResourceSettings> {
    let resources = world.backends.iter().enumerate().map(|(index, backend)| {
        let seconds = |seconds: f64| Duration::from_secs_f64(seconds * backend.speed());
        let whole = crate::units::whole;
        let hidden = Occupation {
            lasts: Duration::from_secs(24 * 3_600),
            tokens_per_second: Some(whole(backend.hidden / 60.0)),
            ..Occupation::default()
        };
        ResourceSettings {
            quota: QuotaSettings {
                tokens_per_minute: whole(backend.meter.limit),
                request_window: Duration::from_secs_f64(backend.meter.request_window()),
                anchor: Anchor::FirstUse,
                ..QuotaSettings::default()
            },
            // As in `upstream`: most prompts are half in the cache.
            latency: LatencySettings {
                first_byte: seconds(0.28),
                per_token: seconds(COMPLETION * 0.0196 / f64::from(WORDS)),
                throttled: Duration::from_millis(60),
                jitter_percent: 60,
            },
            completion_tokens: WORDS,
            remember: 0,
            occupied: if backend.hidden > 0.0 { vec![hidden] } else { Vec::new() },
            ..ResourceSettings::named(&format!("backend-{index}"))
        }
    });
    resources.collect()
}

fn balancer(simulator: &Simulator) -> Balancer {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let head = format!("[server]\nlisten = \"{loopback}\"\nadmin_listen = \"off\"\n[log]\nlevel = \"off\"\n");
    let handle = simulator.handle();
    let backends = handle.resources().iter().map(|resource| {
        let (name, url) = (resource.name(), resource.url());
        format!("[[backends]]\nname = \"{name}\"\nurl = \"{url}\"\napi_key = \"key-of-{name}\"\n")
    });
    let text: String = std::iter::once(head).chain(backends).collect();
    let source = Source::Text { file: PathBuf::from("wire.toml"), text };
    let settings = settings::load(&source, &Environment::default()).expect("made above");
    let sink = Sink::new(std::io::sink(), LogFormat::Text).expect("a thread");
    Balancer::start(settings, sink).expect("loopback")
}
