//! The counters once more, by caller: who uses it.

use std::collections::HashMap;
use std::sync::PoisonError;

use super::names::NameId;
use super::{Metrics, RequestCounts};

/// One caller since the start.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CallerTotals {
    /// Its name, as in the metrics: `anonymous` without a key, `other` for those beyond the bound together.
    pub name: String,
    /// Requests that ended.
    pub requests: u64,
    /// Of them, answered 429 or 5xx, or broken off.
    pub failed: u64,
    /// Of them, refused for its own limits.
    pub limited: u64,
    /// Tokens of prompts and answers.
    pub tokens: u64,
}

impl CallerTotals {
    fn count(&mut self, counts: &RequestCounts) {
        for (_, number) in &counts.statuses {
            self.requests += number;
        }
        self.failed += counts.failed;
        self.limited += counts.limited;
        let tokens = counts.tokens.prompt.saturating_add(counts.tokens.completion);
        self.tokens = self.tokens.saturating_add(tokens);
    }
}

impl Metrics {
    /// Every caller that had a request, in no order.
    #[must_use]
    pub fn callers(&self) -> Vec<CallerTotals> {
        let mut by_caller: HashMap<NameId, CallerTotals> = HashMap::new();
        for worker in self.workers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            for ((_, caller), counts) in &worker.lock().sums.requests {
                by_caller.entry(*caller).or_default().count(counts);
            }
        }
        let labels = self.names.callers.labels();
        let named = by_caller.into_iter().map(|(caller, totals)| CallerTotals {
            name: labels.get(usize::from(caller)).cloned().unwrap_or_default(),
            ..totals
        });
        named.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::access::AttemptNotes;
    use super::super::super::access::tests::record;
    use super::*;

    #[test]
    fn callers_are_summed_over_workers_deployments_and_statuses() {
        let metrics = Metrics::new();
        let backends = ["east".into(), "west".into()];
        let attempts = AttemptNotes::default();
        for worker in [metrics.worker(), metrics.worker()] {
            for (caller, deployment, status) in [
                (Some("app"), "gpt-4o", 200),
                (Some("app"), "o3", 429),
                (Some("app"), "o3", 503),
                (Some("app"), "o3", 400),
                (Some("limited"), "o3", 429),
                (None, "gpt-4o", 200),
            ] {
                let mut record = record(&backends, &attempts);
                (record.caller, record.deployment, record.status) = (caller, Some(deployment), status);
                record.error = Some("caller_limit").filter(|_| caller == Some("limited"));
                record.tokens = record.tokens.filter(|_| status == 200);
                worker.observe(&record);
            }
        }
        let mut callers = metrics.callers();
        callers.sort_by(|one, two| one.name.cmp(&two.name));
        let expected = [("anonymous", 2, 0, 0, 330), ("app", 8, 4, 0, 330), ("limited", 2, 0, 2, 0)];
        let expected = expected.map(|(name, requests, failed, limited, tokens)| CallerTotals {
            name: name.to_owned(),
            requests,
            failed,
            limited,
            tokens,
        });
        assert_eq!(callers, expected);
    }
}
