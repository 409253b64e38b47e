//! What one run measures.

use crate::traffic::Request;
use crate::units::{Seconds, whole};
use crate::upstream::Reply;

/// From here on a request counts as big.
const BIG: u64 = 6_000;

/// Counts of one run's measured time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figures {
    /// Tokens that all quotas together allow in the measured time.
    quota: f64,
    /// Callers' requests.
    pub(crate) asked: u64,
    /// Lost after the SDK's retries.
    pub(crate) lost: u64,
    lost_big: u64,
    big: u64,
    /// Whose first answer was an error.
    pub(crate) refused_first: u64,
    /// Errors that callers were told, again and again.
    pub(crate) refused: u64,
    throttled: u64,
    errors: u64,
    prompt: u64,
    cached: u64,
    spilled: u64,
    /// Served, as charged.
    pub(crate) tokens: f64,
    added: Vec<Seconds>,
    waits: Vec<Seconds>,
    first_tokens: Vec<Seconds>,
}

impl Figures {
    pub(crate) fn new(quota: f64) -> Self {
        Self {
            quota,
            asked: 0,
            lost: 0,
            lost_big: 0,
            big: 0,
            refused_first: 0,
            refused: 0,
            throttled: 0,
            errors: 0,
            prompt: 0,
            cached: 0,
            spilled: 0,
            tokens: 0.0,
            added: Vec::new(),
            waits: Vec::new(),
            first_tokens: Vec::new(),
        }
    }

    pub(crate) fn attempt(&mut self, measured: bool, reply: &Reply) {
        if measured {
            self.throttled += u64::from(reply.status == 429);
            self.errors += u64::from(reply.status != 429 && !reply.is_good());
        }
    }

    pub(crate) fn served(
        &mut self,
        request: &Request,
        reply: &Reply,
        lost: Seconds,
        wait: Seconds,
        first_token: Seconds,
        again: bool,
    ) {
        self.prompt += request.prompt;
        self.cached += reply.cached;
        self.spilled += u64::from(reply.spilled);
        self.added.push(lost);
        self.big += u64::from(request.charge() >= BIG);
        if again {
            self.waits.push(wait);
        }
        if request.streamed {
            self.first_tokens.push(first_token);
        }
    }

    pub(crate) fn failed(&mut self, request: &Request) {
        self.lost += 1;
        let big = u64::from(request.charge() >= BIG);
        self.big += big;
        self.lost_big += big;
    }

    /// The row.
    pub(crate) fn summary(&mut self) -> Summary {
        let asked = self.asked.max(1) as f64;
        Summary {
            failing_percent: 100.0 * self.lost as f64 / asked,
            goodput_percent: 100.0 * self.tokens / self.quota,
            upstream_429_per_1000: 1_000.0 * self.throttled as f64 / asked,
            errors_per_1000: 1_000.0 * self.errors as f64 / asked,
            added_p99_ms: 1_000.0 * percentile(&mut self.added, 0.99),
            wait_p99_s: percentile(&mut self.waits, 0.99),
            spilled_percent: 100.0 * self.spilled as f64 / self.added.len().max(1) as f64,
            cached_percent: 100.0 * self.cached as f64 / self.prompt.max(1) as f64,
            first_refused_percent: 100.0 * self.refused_first as f64 / asked,
            told_per_1000: 1_000.0 * self.refused as f64 / asked,
            ttft_p50_s: percentile(&mut self.first_tokens, 0.5),
            ttft_p99_s: percentile(&mut self.first_tokens, 0.99),
            failing_big_percent: 100.0 * self.lost_big as f64 / self.big.max(1) as f64,
        }
    }
}

/// One run in figures, or their means over seeds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Summary {
    pub(crate) failing_percent: f64,
    pub(crate) goodput_percent: f64,
    pub(crate) upstream_429_per_1000: f64,
    pub(crate) errors_per_1000: f64,
    pub(crate) added_p99_ms: f64,
    pub(crate) wait_p99_s: f64,
    pub(crate) cached_percent: f64,
    pub(crate) spilled_percent: f64,
    pub(crate) first_refused_percent: f64,
    pub(crate) told_per_1000: f64,
    pub(crate) ttft_p50_s: f64,
    pub(crate) ttft_p99_s: f64,
    pub(crate) failing_big_percent: f64,
}

fn percentile(values: &mut [f64], part: f64) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let place = usize::try_from(whole((values.len() - 1) as f64 * part)).unwrap_or(0);
    *values.select_nth_unstable_by(place, f64::total_cmp).1
}
