//! Whether a request that may wait in line would be served within its time. Who waits in vain loses time and is refused
//! all the same, so the answer is no as soon as what comes back meanwhile is too little for those before it and itself.
//!
//! ```text
//! horizon    now + what is left of its patience
//! soonest    the first recovery of a lane that it may ask: untried, or tried and found full
//! tokens     what the lanes that are back by the horizon will have left then, as far as their headers tell
//! blind      such lanes of which no header tells: each serves one, and as many more as were served lately
//! enough     tokens ≥ its charge + that of those before it, at the mean charge
//!            or, with a blind lane: blind + served · patience + tokens / mean charge > those before it
//! ```
//!
//! What the soonest recovery alone would promise: the second in line for a provisioned lane that serves one request in
//! two seconds would wait 250 ms for nothing.

use std::time::Instant;

use super::exhaustion;
use super::flow::Flow;
use super::standing::{Candidate, Standing, View};

/// The head of this file says it all.
#[derive(Clone, Copy, Debug)]
struct Prospect {
    soonest: Instant,
    tokens: f64,
    blind: f64,
}

/// When a request of `charge` tokens should pick again; `None` where it is not worth waiting.
pub(super) fn worth_it(view: View<'_>, charge: f64, flow: Option<&Flow>) -> Option<Instant> {
    let prospect = prospect(view).filter(|prospect| prospect.is_enough(view, charge, flow));
    prospect.map(|prospect| prospect.soonest)
}

/// What comes back within the request's patience; `None` where nothing does.
fn prospect(view: View<'_>) -> Option<Prospect> {
    if view.ask.patience.is_zero() {
        return None;
    }
    let horizon = view.now + view.ask.patience;
    let (mut soonest, mut tokens, mut blind) = (None, 0.0, 0.0);
    let mut see = |until: Instant, left: Option<f64>| {
        soonest = Some(soonest.map_or(until, |soonest: Instant| soonest.min(until)));
        match left {
            Some(left) => tokens += left,
            None => blind += 1.0,
        }
    };
    for candidate in view.serving() {
        if let Some(until) = back(view, &candidate).filter(|until| *until <= horizon) {
            see(until, candidate.lane.estimator.remaining(horizon));
        }
    }
    if let Some(until) = view.attempts.told_until.filter(|until| *until <= horizon) {
        see(until, None);
    }
    soonest.map(|soonest| Prospect { soonest, tokens, blind })
}

/// When this request may ask the lane.
fn back(view: View<'_>, candidate: &Candidate<'_>) -> Option<Instant> {
    let was_full = view.attempts.was_full(candidate.backend.id);
    if !was_full && !view.untried(candidate) {
        return None;
    }
    match view.standing(candidate) {
        // It was full for this very request, and is back already.
        Standing::Admits | Standing::ProbeDue if was_full => Some(view.now),
        standing => exhaustion::recovery(standing),
    }
}

impl Prospect {
    /// Whether it is enough for the request too, of `charge` tokens.
    fn is_enough(&self, view: View<'_>, charge: f64, flow: Option<&Flow>) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a line is far shorter than 2^52")]
        let before = view.ask.ahead as f64;
        let mean = flow.and_then(Flow::charge).unwrap_or(charge).max(1.0);
        if before.mul_add(mean, charge) <= self.tokens {
            return true;
        }
        let served = flow.map_or(0.0, |flow| flow.served(view.now)) * view.ask.patience.as_secs_f64();
        self.blind > 0.0 && self.blind + served + self.tokens / mean > before
    }
}
