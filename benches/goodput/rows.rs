//! Which runs there are: tables of scenarios, and the policies by name.

use crate::figures::Summary;
use crate::held::Held;
use crate::quota::Window;
use crate::run::run;
use crate::samples::{PeakEwma, Samples, TwoChoices, Uniform};
use crate::scenario::{Fault, Headers, Pool, Scenario};
use crate::sidestep::Sidestep;
use crate::traffic::Oddities;
use crate::{oracle, peers};

/// By name, in the order of the tables.
pub(crate) const POLICIES: [&str; 9] = [
    "sidestep",
    "samples",
    "apim",
    "litellm-shuffle",
    "litellm-usage",
    "p2c",
    "peak-ewma",
    "round-robin",
    "oracle",
];

/// Where a table is long, the ones that tell most.
const FEW: [&str; 4] = ["sidestep", "samples", "litellm-shuffle", "oracle"];

/// One run of a policy, named as in [`POLICIES`].
pub(crate) fn once(policy: &str, scenario: &Scenario, seed: u64) -> Option<Summary> {
    let mut figures = match policy {
        "sidestep" => run::<Sidestep>(scenario, seed),
        "hold-250ms" => run::<Held<250>>(scenario, seed),
        "hold-2s" => run::<Held<2_000>>(scenario, seed),
        "hold-10s" => run::<Held<10_000>>(scenario, seed),
        "samples" => run::<Samples<Uniform>>(scenario, seed),
        "apim" => run::<peers::Apim>(scenario, seed),
        "litellm-shuffle" => run::<peers::Shuffle>(scenario, seed),
        "litellm-usage" => run::<peers::UsageBased>(scenario, seed),
        "p2c" => run::<Samples<TwoChoices>>(scenario, seed),
        "peak-ewma" => run::<Samples<PeakEwma>>(scenario, seed),
        "round-robin" => run::<peers::RoundRobin>(scenario, seed),
        "oracle" => run::<oracle::Oracle>(scenario, seed),
        _ => return None,
    };
    Some(figures.summary())
}

/// Scenarios that belong together.
pub(crate) struct Table {
    /// For `--rows`.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) policies: &'static [&'static str],
    pub(crate) rows: Vec<(String, Scenario)>,
}

/// The loads of the main tables, in parts of the quota that hidden traffic leaves.
pub(crate) const LOADS: [f64; 5] = [0.5, 0.9, 1.0, 1.1, 2.0];
const BUSY: [f64; 2] = [0.9, 1.1];

/// `what` varied, at each of the loads.
fn rows(loads: &[f64], what: impl IntoIterator<Item = (String, Scenario)>) -> Vec<(String, Scenario)> {
    let at = |(label, scenario): (String, Scenario)| {
        loads.iter().map(move |load| {
            let scenario = Scenario { load: *load, ..scenario };
            (format!("{label} {:.0} %", load * 100.0), scenario)
        })
    };
    what.into_iter().flat_map(at).collect()
}

fn base(pool: Pool) -> Scenario {
    Scenario::base(pool, 1.0)
}

fn eight() -> Scenario {
    base(Pool::Unequal(8))
}

fn table(
    name: &'static str,
    title: &'static str,
    policies: &'static [&'static str],
    rows: Vec<(String, Scenario)>,
) -> Table {
    Table { name, title, policies, rows }
}

/// All of them, in the order of selection.md.
pub(crate) fn tables() -> Vec<Table> {
    let sizes = [3, 30, 200].map(|count| (format!("N={count}"), base(Pool::Unequal(count))));
    let replicas =
        [1, 4, 8, 16].map(|replicas| (format!("{replicas} replicas"), Scenario { replicas, ..eight() }));
    let caches = [8, 30].map(|count| (format!("N={count}"), base(Pool::Unequal(count))));
    vec![
        table("base", "8 unequal quotas", &POLICIES, rows(&LOADS, [("N=8".to_owned(), eight())])),
        table(
            "article",
            "the article's pool, 3 x 30k",
            &POLICIES,
            rows(&LOADS, [("3x30k".to_owned(), base(Pool::Article))]),
        ),
        table("sizes", "number of backends", &FEW, rows(&BUSY, sizes)),
        table("replicas", "replicas that share nothing", &FEW, rows(&[1.1], replicas)),
        table("caches", "prompt caches", &["sidestep", "samples"], rows(&[0.5, 0.7, 0.9], caches)),
        table(
            "provisioned",
            "2 provisioned first, 6 behind them",
            &FEW,
            rows(&[0.5, 0.9, 1.1], [("2+6".to_owned(), base(Pool::Provisioned))]),
        ),
        table("windows", "kinds of quota window", &FEW, rows(&BUSY, windows())),
        table("traffic", "other traffic and quotas", &FEW, rows(&BUSY, traffics())),
        table("headers", "what the headers tell", &["sidestep", "samples"], rows(&BUSY, headers())),
        table("odd", "odd requests and estimates", &FEW, odd()),
        table(
            "hold",
            "waiting in line, callers that retry twice and callers that do not",
            &["sidestep", "hold-250ms", "hold-2s", "hold-10s"],
            hold(),
        ),
        table("mechanisms", "one row for what each mechanism is for", &["sidestep"], mechanisms()),
        table("faults", "the largest of 8 is ill, at 50 %", &FEW, rows(&[0.5], faults())),
    ]
}

/// Provisioned deployments alone, in front of others, none; with the SDKs' retries and without. What a provisioned
/// deployment is charged is a fifth of what is offered: cached tokens cost it nothing, nor do those not answered.
fn hold() -> Vec<(String, Scenario)> {
    let pool = |label: &'static str, pool| {
        [2, 0].map(|retries| (format!("{label} retry {retries}"), Scenario { retries, ..base(pool) }))
    };
    let mut all = rows(&[3.0, 4.0, 5.0], pool("3 PTU", Pool::Reserved));
    all.extend(rows(&[1.1, 1.5, 2.0], pool("2+6", Pool::Provisioned)));
    all.extend(rows(&[0.9, 1.1, 2.0], pool("N=8", Pool::Unequal(8))));
    all
}

/// As in selection.md 6: what the model must give for the samples is known from there.
fn traffics() -> [(String, Scenario); 3] {
    let even = Scenario { oddities: Oddities { even: true, ..Oddities::NONE }, ..eight() };
    [
        ("Poisson".to_owned(), even),
        ("half hidden on 4".to_owned(), base(Pool::Shared)),
        ("8x30k".to_owned(), base(Pool::Small)),
    ]
}

fn windows() -> impl Iterator<Item = (String, Scenario)> {
    let windows = [Window::Aligned, Window::Anchored, Window::Sliding, Window::Bucket];
    windows.into_iter().map(|window| (format!("{window:?}"), Scenario { window, ..eight() }))
}

fn headers() -> impl Iterator<Item = (String, Scenario)> {
    let headers = [
        Headers::None,
        Headers::Half,
        Headers::Stale,
        Headers::MinusOne,
        Headers::OnlyReset,
        Headers::NoTiming,
        Headers::NoLimit,
    ];
    headers.into_iter().map(|headers| (format!("{headers:?}"), Scenario { headers, ..eight() }))
}

fn odd() -> Vec<(String, Scenario)> {
    let odd = |label: &str, pool, oddities| (label.to_owned(), Scenario { oddities, ..base(pool) });
    let none = Oddities::NONE;
    let images = Oddities { images: 0.05, ..none };
    let mut all = rows(
        &[0.5, 0.9],
        [odd("images 3x30k", Pool::Article, images), odd("images N=8", Pool::Unequal(8), images)],
    );
    all.extend(rows(
        &BUSY,
        [
            ("0.3 requests per 1k".to_owned(), Scenario { requests: 0.3, ..eight() }),
            (
                "30 % 500s".to_owned(),
                Scenario { fault: Some(Fault::Errors { seconds: 360.0, share: 0.3 }), ..eight() },
            ),
            ("quota x0.33".to_owned(), Scenario { fault: Some(Fault::Quota(0.33)), ..eight() }),
            ("quota x2".to_owned(), Scenario { fault: Some(Fault::Quota(2.0)), ..eight() }),
            ("SDK without retries".to_owned(), Scenario { retries: 0, ..eight() }),
            ("SDK with 5 retries".to_owned(), Scenario { retries: 5, ..eight() }),
            odd("poison 1 %", Pool::Unequal(8), Oddities { poison: 0.01, ..none }),
            odd("estimate x0.3", Pool::Unequal(8), Oddities { estimate: 0.3, ..none }),
            odd("estimate x4", Pool::Unequal(8), Oddities { estimate: 4.0, ..none }),
            odd("600k each 2 min", Pool::Unequal(8), Oddities { huge: true, ..none }),
        ],
    ));
    all
}

/// Short enough to be run without each mechanism in turn: the heads in `src/balance` tell what came of it.
fn mechanisms() -> Vec<(String, Scenario)> {
    let article = |load| Scenario { load, ..base(Pool::Article) };
    let at = |load| Scenario { load, ..eight() };
    let fault = |fault| Scenario { fault: Some(fault), ..at(0.5) };
    let odd = |oddities| Scenario { oddities, ..at(0.9) };
    let none = Oddities::NONE;
    let rows = [
        ("N=8 50 %", at(0.5)),
        ("N=8 90 %", at(0.9)),
        ("N=8 110 %", at(1.1)),
        ("3x30k 90 %", article(0.9)),
        ("3x30k 110 %", article(1.1)),
        ("8 replicas 110 %", Scenario { replicas: 8, ..at(1.1) }),
        ("sliding 90 %", Scenario { window: Window::Sliding, ..at(0.9) }),
        ("sliding 110 %", Scenario { window: Window::Sliding, ..at(1.1) }),
        ("no headers 110 %", Scenario { headers: Headers::None, ..at(1.1) }),
        ("no timing 90 %", Scenario { headers: Headers::NoTiming, ..at(0.9) }),
        ("no limit 90 %", Scenario { headers: Headers::NoLimit, ..at(0.9) }),
        ("0.3 per 1k 90 %", Scenario { requests: 0.3, ..at(0.9) }),
        ("quota x0.33 90 %", Scenario { fault: Some(Fault::Quota(0.33)), ..at(0.9) }),
        ("quota x2 110 %", Scenario { fault: Some(Fault::Quota(2.0)), ..at(1.1) }),
        ("images 3x30k 90 %", Scenario { oddities: Oddities { images: 0.05, ..none }, ..article(0.9) }),
        ("poison 1 % 90 %", odd(Oddities { poison: 0.01, ..none })),
        ("600k 90 %", odd(Oddities { huge: true, ..none })),
        ("500s 50 %", fault(Fault::Errors { seconds: 180.0, share: 1.0 })),
        ("30 % 500s 50 %", fault(Fault::Errors { seconds: 360.0, share: 0.3 })),
        ("hangs 50 %", fault(Fault::Hangs { seconds: 180.0, share: 1.0 })),
        ("8x slow 50 %", fault(Fault::Slow)),
    ];
    rows.map(|(label, scenario)| (label.to_owned(), scenario)).into()
}

fn faults() -> impl Iterator<Item = (String, Scenario)> {
    let faults = [
        ("500s, 3 min", Fault::Errors { seconds: 180.0, share: 1.0 }),
        ("30 % 500s, 6 min", Fault::Errors { seconds: 360.0, share: 0.3 }),
        ("hangs, 3 min", Fault::Hangs { seconds: 180.0, share: 1.0 }),
        ("20 % hang, 6 min", Fault::Hangs { seconds: 360.0, share: 0.2 }),
        ("8x slow", Fault::Slow),
    ];
    faults.into_iter().map(|(label, fault)| (label.to_owned(), Scenario { fault: Some(fault), ..eight() }))
}
