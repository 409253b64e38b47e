//! Rows over seeds: means, 95 % confidence intervals, paired differences; as tables and as JSON.

use std::thread;

use serde_json::json;

use crate::figures::Summary;
use crate::rows;
use crate::scenario::Scenario;

/// One figure of a run.
pub(crate) type Figure = fn(&Summary) -> f64;

/// A policy's runs of one scenario, one per seed.
pub(crate) struct Row {
    pub(crate) policy: &'static str,
    pub(crate) label: String,
    pub(crate) scenario: Scenario,
    pub(crate) runs: Vec<Summary>,
}

impl Row {
    /// Seeds 1 to `seeds`.
    pub(crate) fn measure(policy: &'static str, label: &str, scenario: &Scenario, seeds: u64) -> Self {
        let threads = thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
        let every = |first| {
            let seeds = (first..=seeds).step_by(usize::try_from(threads).unwrap_or(1));
            seeds.filter_map(|seed| Some((seed, rows::once(policy, scenario, seed)?))).collect::<Vec<_>>()
        };
        let mut runs: Vec<(u64, Summary)> = thread::scope(|scope| {
            let spawned: Vec<_> = (1..=threads).map(|first| scope.spawn(move || every(first))).collect();
            spawned.into_iter().flat_map(|thread| thread.join().expect("a run does not panic")).collect()
        });
        runs.sort_by_key(|(seed, _)| *seed);
        let runs = runs.into_iter().map(|(_, summary)| summary).collect();
        Self { policy, label: label.to_owned(), scenario: *scenario, runs }
    }

    pub(crate) fn mean(&self, figure: Figure) -> f64 {
        mean(&self.runs.iter().map(figure).collect::<Vec<_>>()).0
    }

    fn interval(&self, figure: Figure) -> f64 {
        mean(&self.runs.iter().map(figure).collect::<Vec<_>>()).1
    }

    /// Mean and half of its 95 % interval.
    fn told(&self, figure: Figure, digits: usize) -> String {
        let (mean, half) = mean(&self.runs.iter().map(figure).collect::<Vec<_>>());
        format!("{mean:.digits$} ±{half:.digits$}")
    }

    /// This row less the other on the same seeds, and half of the 95 % interval.
    pub(crate) fn less(&self, other: &Self, figure: Figure) -> (f64, f64) {
        let pairs = self.runs.iter().zip(&other.runs);
        mean(&pairs.map(|(own, other)| figure(own) - figure(other)).collect::<Vec<_>>())
    }

    /// The table's line; `others` are what the differences in failing callers are taken to.
    pub(crate) fn line(&self, others: [Option<&Self>; 2]) -> String {
        let [samples, oracle] = others.map(|other| {
            let other = other.filter(|other| other.policy != self.policy);
            other.map_or_else(String::new, |other| {
                let (mean, half) = self.less(other, |run| run.failing_percent);
                format!("{mean:+.2} ±{half:.2}")
            })
        });
        format!(
            "{:20} {:15} {:>12} {samples:>12} {oracle:>12} {:>10} {:>12} {:>14} {:>10} {:5.1} {:6.1} {:6.2} {:6.2} {:6.1} {:6.1}",
            self.label,
            self.policy,
            self.told(|run| run.failing_percent, 2),
            self.told(|run| run.goodput_percent, 1),
            self.told(|run| run.upstream_429_per_1000, 1),
            self.told(|run| run.added_p99_ms, 0),
            self.told(|run| run.cached_percent, 1),
            self.mean(|run| run.wait_p99_s),
            self.mean(|run| run.first_refused_percent),
            self.mean(|run| run.ttft_p50_s),
            self.mean(|run| run.ttft_p99_s),
            self.mean(|run| run.errors_per_1000),
            self.mean(|run| run.spilled_percent),
        )
    }

    /// The row as one JSON object.
    pub(crate) fn json(&self) -> String {
        json!({
            "row": self.label,
            "policy": self.policy,
            "pool": self.scenario.pool.name(),
            "n": self.scenario.pool.count(),
            "replicas": self.scenario.replicas,
            "load": self.scenario.load,
            "seeds": self.runs.len(),
            "failing_percent": self.mean(|run| run.failing_percent),
            "goodput_percent": self.mean(|run| run.goodput_percent),
            "upstream_429_per_1000": self.mean(|run| run.upstream_429_per_1000),
            "added_p99_ms": self.mean(|run| run.added_p99_ms),
            "told_per_1000": self.mean(|run| run.told_per_1000),
            "retries": self.scenario.retries,
            "failing_interval": self.interval(|run| run.failing_percent),
            "cached_percent": self.mean(|run| run.cached_percent),
        })
        .to_string()
    }
}

/// The tables' head; the figures after ± are half of a 95 % interval over the seeds.
pub(crate) fn head() -> String {
    format!(
        "{:20} {:15} {:>12} {:>12} {:>12} {:>10} {:>12} {:>14} {:>10} {:>5} {:>6} {:>6} {:>6} {:>6} {:>6}",
        "row",
        "policy",
        "fail %",
        "less samples",
        "less oracle",
        "goodput %",
        "429/1k",
        "p99 added ms",
        "cached %",
        "wait",
        "first%",
        "ttft50",
        "ttft99",
        "err/1k",
        "spill%",
    )
}

/// Mean and half of its 95 % interval.
fn mean(values: &[f64]) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    if values.len() < 2 {
        return (mean, 0.0);
    }
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    // Student's t at 97.5 %, within 1 % from two degrees of freedom on.
    let freedom = count - 1.0;
    let t = if values.len() == 2 {
        12.71
    } else {
        1.96 + 2.37 / freedom + 2.82 / freedom.powi(2) + 2.6 / freedom.powi(3)
    };
    (mean, t * (variance / count).sqrt())
}
