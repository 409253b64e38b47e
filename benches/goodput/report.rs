//! Rows over seeds: means, 95 % confidence intervals, paired differences; as tables and as JSON.

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
        let runs = (1..=seeds).filter_map(|seed| rows::once(policy, scenario, seed)).collect();
        Self { policy, label: label.to_owned(), scenario: *scenario, runs }
    }

    pub(crate) fn mean(&self, figure: Figure) -> f64 {
        mean(&self.runs.iter().map(figure).collect::<Vec<_>>()).0
    }

    fn interval(&self, figure: Figure) -> f64 {
        mean(&self.runs.iter().map(figure).collect::<Vec<_>>()).1
    }

    /// This row less the other on the same seeds, and half of the 95 % interval.
    pub(crate) fn less(&self, other: &Self, figure: Figure) -> (f64, f64) {
        let pairs = self.runs.iter().zip(&other.runs);
        mean(&pairs.map(|(own, other)| figure(own) - figure(other)).collect::<Vec<_>>())
    }

    /// The table's line; `samples` is what the difference is taken to.
    pub(crate) fn line(&self, samples: Option<&Self>) -> String {
        let difference = samples.filter(|samples| samples.policy != self.policy).map_or_else(
            || " ".repeat(13),
            |samples| {
                let (mean, half) = self.less(samples, |run| run.failing_percent);
                format!("{mean:+6.2} ±{half:5.2}")
            },
        );
        format!(
            "{:20} {:15} {:6.2} ±{:5.2} {difference} {:6.1} {:7.1} {:7.0} {:6.1} {:6.1} {:6.1} {:5.2} {:5.2} {:6.1} {:5.1}",
            self.label,
            self.policy,
            self.mean(|run| run.failing_percent),
            self.interval(|run| run.failing_percent),
            self.mean(|run| run.goodput_percent),
            self.mean(|run| run.upstream_429_per_1000),
            self.mean(|run| run.added_p99_ms),
            self.mean(|run| run.wait_p99_s),
            self.mean(|run| run.cached_percent),
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

/// The tables' head.
pub(crate) const HEAD: &str = "row                  policy          fail %   ±95%  less samples  good %  429/1k \
                               p99+ ms wait99 cached first% ttft50 ttft99 err/1k spill%";

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
