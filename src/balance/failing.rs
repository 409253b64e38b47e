//! The share of failures among the answers of late, of a lane (5xx, silence) or a backend (connections).
//!
//! | name | unit | meaning | written by |
//! |---|---|---|---|
//! | `share` | 0 to 1 | failures among the answers, recent ones weighing most | answer, failure |
//! | `at` | instant | when that was so | answer, failure |
//!
//! ```text
//! untold     share halves every 15 s
//! answer     share = 0.8 · share
//! failure    share = 0.8 · share + 0.2
//! factor     (1 − share)⁸, in the draw and in a conversation's choice of its home
//! ```
//!
//! Below three failures in a row no lane rests; this makes one that fails now and then the less used.
//! Worth (`cargo bench --bench goodput -- --rows mechanisms`, without it → with it): row "30 % 500s 50 %", upstream errors
//! 27.5 → 10.3 per 1,000 requests, p99 lost in failed attempts 106 → 40 ms. With the fourth power 15; in the draw alone, so
//! that conversations stay until the share is 0.3, 19. Tests `slower_and_failing_lanes…`, `a_conversation_leaves_a_home…`.

use std::time::Instant;

/// How much the newest answer counts.
const NEWEST: f64 = 0.2;

/// How long until half of it is forgotten while nothing is heard, in seconds.
const HALVES: f64 = 15.0;

/// Less is nothing.
const LEAST: f64 = 0.001;

/// The head of this file says it all.
#[derive(Debug, Default)]
pub(super) struct Failing {
    share: f64,
    at: Option<Instant>,
}

impl Failing {
    /// From 0 to 1.
    pub(super) fn share(&self, now: Instant) -> f64 {
        match self.at {
            Some(at) if self.share > LEAST => {
                self.share * (-now.saturating_duration_since(at).as_secs_f64() / HALVES).exp2()
            }
            _ => 0.0,
        }
    }

    /// A good answer, or a failure, came.
    pub(super) fn heard(&mut self, now: Instant, failed: bool) {
        // On the happy path there is nothing to forget.
        if failed || self.share > LEAST {
            self.share = (1.0 - NEWEST) * self.share(now) + if failed { NEWEST } else { 0.0 };
            self.at = Some(now);
        }
    }
}

/// How much less a lane is used for failing so often.
pub(super) fn factor(share: f64) -> f64 {
    (1.0 - share).powi(8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::tests::{seconds, start};

    #[test]
    fn failures_are_noticed_and_forgotten() {
        let (mut failing, now) = (Failing::default(), start());
        failing.heard(now, false);
        assert!(failing.share(now) == 0.0);
        for _ in 0..3 {
            failing.heard(now, true);
        }
        let three = failing.share(now);
        assert!((0.48..0.49).contains(&three), "{three}");
        assert!((failing.share(now + seconds(15)) - three / 2.0).abs() < 1e-9);
        failing.heard(now, false);
        assert!(failing.share(now) < three);
        assert!(factor(0.0) > 0.999_999 && factor(three) < 0.08);
    }
}
