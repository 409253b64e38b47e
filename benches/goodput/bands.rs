//! What `--quick` holds: figures of short runs, each within its band.

use crate::quota::Window;
use crate::report::{Figure, Row};
use crate::scenario::{Fault, Headers, Pool, Scenario};
use crate::traffic::Oddities;

/// Paired seeds of a short run.
const SEEDS: u64 = 16;

/// What is compared with the band.
#[derive(Clone, Copy)]
enum Of {
    /// A policy's own figure.
    Own(&'static str),
    /// A policy's figure less another's, on the same seeds.
    Less(&'static str, &'static str),
}

/// A figure and where it must stay.
struct Band {
    scenario: Scenario,
    of: Of,
    name: &'static str,
    figure: Figure,
    from: f64,
    to: f64,
    reason: &'static str,
}

const FAILING: (&str, Figure) = ("failing_percent", |run| run.failing_percent);
const WASTED: (&str, Figure) = ("upstream_429_per_1000", |run| run.upstream_429_per_1000);
const ADDED: (&str, Figure) = ("added_p99_ms", |run| run.added_p99_ms);
const CACHED: (&str, Figure) = ("cached_percent", |run| run.cached_percent);
const FAULTY: (&str, Figure) = ("errors_per_1000", |run| run.errors_per_1000);
const GOODPUT: (&str, Figure) = ("goodput_percent", |run| run.goodput_percent);

fn band(
    scenario: Scenario,
    of: Of,
    (name, figure): (&'static str, Figure),
    (from, to): (f64, f64),
    reason: &'static str,
) -> Band {
    Band { scenario, of, name, figure, from, to, reason }
}

fn bands() -> Vec<Band> {
    let eight = |load| Scenario::base(Pool::Unequal(8), load);
    let article = |load| Scenario::base(Pool::Article, load);
    let (ours, theirs) = ("sidestep", "samples");
    let (less, oracle) = (Of::Less(ours, theirs), Of::Less(ours, "oracle"));
    let silent = Scenario { headers: Headers::NoTiming, ..eight(0.9) };
    let sliding = Scenario { window: Window::Sliding, ..eight(0.9) };
    let steady = Scenario { oddities: Oddities { even: true, ..Oddities::NONE }, ..eight(1.1) };
    let aligned = Scenario { window: Window::Aligned, ..eight(1.1) };
    let slid = Scenario { load: 1.1, ..sliding };
    let images = Scenario { oddities: Oddities { images: 0.05, ..Oddities::NONE }, ..article(0.9) };
    let huge = Scenario { oddities: Oddities { huge: true, ..Oddities::NONE }, ..eight(0.9) };
    let replicas = Scenario { replicas: 8, ..eight(1.1) };
    let fault = |fault| Scenario { fault: Some(fault), ..eight(0.5) };
    let errors = fault(Fault::Errors { seconds: 360.0, share: 0.3 });
    let hangs = fault(Fault::Hangs { seconds: 180.0, share: 1.0 });
    let own = |policy| Of::Own(policy);
    vec![
        band(eight(0.9), own(theirs), WASTED, (60.0, 200.0), "the model: selection.md 2 has 143"),
        band(eight(1.1), own(theirs), FAILING, (4.5, 8.5), "the model: selection.md 2 has 6.56"),
        band(eight(1.1), own(theirs), WASTED, (350.0, 550.0), "the model: selection.md 2 has 469"),
        band(steady, own(theirs), FAILING, (0.8, 2.8), "the model without bursts: selection.md 6 has 1.6"),
        band(eight(1.1), own("litellm-shuffle"), FAILING, (7.0, 14.0), "the model: selection.md 2 has 11.5"),
        band(eight(1.1), own("oracle"), GOODPUT, (94.0, 98.0), "the model: selection.md 2 has 96.2"),
        band(eight(0.5), own(ours), FAILING, (0.0, 0.0), "half the quota: nobody is refused"),
        band(eight(0.5), own(ours), CACHED, (78.0, 90.0), "affinity: 60 without"),
        band(eight(0.9), less, FAILING, (-9.0, 0.0), "a full pool loses no more than the samples"),
        band(eight(0.9), own(ours), WASTED, (0.0, 8.0), "the fit check: 17 without"),
        band(eight(1.1), less, FAILING, (-9.0, -1.9), "the wait: 2.7 more if all are told the soonest"),
        band(eight(1.1), oracle, FAILING, (-9.0, 1.0), "the estimator, against true counters"),
        band(eight(1.1), own(ours), WASTED, (0.0, 24.0), "the fit check: 39 without"),
        band(eight(1.1), own(ours), ADDED, (0.0, 10.0), "the fit check: 46 without"),
        band(article(0.9), less, FAILING, (-9.0, -0.8), "the fit check: 1.6 more without"),
        band(article(1.1), less, FAILING, (-9.0, -1.5), "the fit check: 3.7 more without"),
        band(images, less, FAILING, (-9.0, -0.5), "a guess never refuses for good: 4.6 more if it does"),
        band(huge, own(ours), FAILING, (0.0, 0.6), "size marks: 3.7 without"),
        band(silent, less, FAILING, (-9.0, -1.5), "no time in the 429s: the Responses API"),
        band(replicas, less, FAILING, (-9.0, -1.0), "the wait: 5.3 more if all are told the soonest"),
        band(sliding, less, FAILING, (-9.0, -1.5), "the queue: 4.1 more without; the refill learned: 3.8"),
        band(
            slid,
            less,
            FAILING,
            (-9.9, -6.8),
            "the refill learned: 2 less if what slides is taken for a step",
        ),
        band(aligned, less, FAILING, (-9.0, -1.0), "minutes promise all: 1.7 less if they promise half"),
        band(errors, own(ours), FAULTY, (0.0, 15.0), "the share of failures: 27 without"),
        band(hangs, own(ours), FAULTY, (0.0, 7.5), "rests: 8 without"),
    ]
}

/// Every band's line, and whether all hold.
pub(crate) fn hold() -> (Vec<String>, bool) {
    let mut measured: Vec<Row> = Vec::new();
    let (mut lines, mut all) = (Vec::new(), true);
    for Band { scenario, of, name, figure, from, to, reason } in bands() {
        let mut row = |policy| {
            let known = measured.iter().position(|row| row.policy == policy && row.scenario == scenario);
            known.unwrap_or_else(|| {
                measured.push(Row::measure(policy, "", &scenario, SEEDS));
                measured.len() - 1
            })
        };
        let (value, whose) = match of {
            Of::Own(policy) => {
                let row = row(policy);
                (measured[row].mean(figure), policy.to_owned())
            }
            Of::Less(policy, other) => {
                let (own, other_row) = (row(policy), row(other));
                (measured[own].less(&measured[other_row], figure).0, format!("{policy} less {other}"))
            }
        };
        let holds = (from..=to).contains(&value);
        all &= holds;
        let Scenario { pool, load, replicas, headers, window, .. } = scenario;
        let place = format!(
            "{} N={} x{replicas} {:.0} % {window:?} {headers:?}",
            pool.name(),
            pool.count(),
            load * 100.0
        );
        let verdict = if holds { "holds" } else { "BROKEN" };
        lines.push(format!(
            "{verdict:6} {place:42} {whose:22} {name:22} {value:8.2} in {from}..{to}: {reason}"
        ));
    }
    (lines, all)
}
