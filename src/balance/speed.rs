//! How fast a lane begins to answer, and whether it has fallen silent. Only streamed requests tell: of the others the
//! first byte comes with the whole answer.
//!
//! | name | unit | meaning | written by |
//! |---|---|---|---|
//! | `seconds` | s | from sending to a stream's first event, recent ones weighing most | answer |
//! | `at` | instant | when the last of them came | answer |
//! | `waiting` | requests | streams without a first event yet | sent, answer, end |
//! | `quiet_since` | instant | the last first event, or when the first of those waiting was sent | sent, answer |
//!
//! ```text
//! answer     seconds up by 0.3 of the difference, down within 10 s
//! untold     seconds fade to 0.3 s within a minute: a lane that is avoided gets another chance
//! factor     (fastest / own)², at least 0.02; below 0.3 s all are equally fast
//! silent     3 or more wait, and nothing came for 10 s, or for four times what is usual: used last
//! ```
//!
//! Worth (`cargo bench --bench goodput -- --rows mechanisms`, without it → with it). The factor, for requests that belong to
//! no conversation: median time to the first token 0.42 → 0.39 s at half load; with one backend 8 times too slow 0.54 →
//! 0.40 s, p99 9.2 → 6.9 s; test `slower_and_failing_lanes_are_drawn_less`. (In a conversation's choice of its home it won
//! nothing beyond the bound there.) Silence: row "hangs 50 %", p99 lost in failed attempts 20 s → 0, errors per 1,000
//! requests 12.5 → 6.2; test `a_silent_lane_is_used_last`.

use std::time::{Duration, Instant};

/// Nobody minds less, and of a lane that nothing is known of this is believed.
const FAST: f64 = 0.3;

/// How much of a slower answer is believed at once: slowness is worth noticing quickly.
const UP: f64 = 0.3;

/// How long faster answers take to be believed, in seconds.
const DOWN: f64 = 10.0;

/// How long slowness is remembered while nothing is heard, in seconds.
const FADES: f64 = 60.0;

/// However slow, a lane is tried now and then: how else would it be seen to be fast again?
const LEAST: f64 = 0.02;

/// One or two silent requests may just be long ones.
const WAITING: u32 = 3;

/// A first event takes so long at most where nothing is wrong.
const SILENT: f64 = 10.0;

/// Where it usually takes long already, so many times that.
const SILENT_TIMES: f64 = 4.0;

/// The head of this file says it all.
#[derive(Debug, Default)]
pub(super) struct Speed {
    seconds: f64,
    at: Option<Instant>,
    waiting: u32,
    quiet_since: Option<Instant>,
}

impl Speed {
    /// From sending to the first event, in seconds, as it would be now; at least 0.3.
    pub(super) fn seconds(&self, now: Instant) -> f64 {
        let Some(at) = self.at else { return FAST };
        let left = 1.0 - now.saturating_duration_since(at).as_secs_f64() / FADES;
        FAST + (self.seconds - FAST).max(0.0) * left.max(0.0)
    }

    /// Nothing comes from there.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.waiting >= WAITING
            && self.quiet_since.is_some_and(|since| {
                let patience = (SILENT_TIMES * self.seconds(now)).max(SILENT);
                now.saturating_duration_since(since).as_secs_f64() > patience
            })
    }

    /// A streamed request goes there.
    pub(super) fn sent(&mut self, now: Instant) {
        if self.waiting == 0 {
            self.quiet_since = Some(now);
        }
        self.waiting += 1;
    }

    /// Its first event came, `after` it was sent.
    pub(super) fn answered(&mut self, now: Instant, after: Duration) {
        self.over();
        self.quiet_since = Some(now);
        let (told, own) = (after.as_secs_f64(), self.seconds(now));
        let believed = match self.at {
            None => 1.0,
            Some(_) if told > own => UP,
            Some(at) => (now.saturating_duration_since(at).as_secs_f64() / DOWN).min(1.0),
        };
        self.seconds = own + believed * (told - own);
        self.at = Some(now);
    }

    /// It ended without.
    pub(super) fn over(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }
}

/// How much less a lane is used for being slower than `fastest`; both in seconds.
pub(super) fn factor(fastest: f64, own: f64) -> f64 {
    let ratio = fastest / own;
    (ratio * ratio).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::tests::{millis, seconds, start};

    fn roughly(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 0.01
    }

    #[test]
    fn slowness_is_noticed_at_once_and_forgotten_within_a_minute() {
        let (mut speed, now) = (Speed::default(), start());
        assert!(roughly(speed.seconds(now), 0.3));
        speed.sent(now);
        speed.answered(now, millis(400));
        assert!(roughly(speed.seconds(now), 0.4), "the first is believed whole");
        speed.sent(now);
        speed.answered(now, millis(4_400));
        assert!(roughly(speed.seconds(now), 1.6));
        assert!(roughly(speed.seconds(now + seconds(30)), 0.95));
        assert!(roughly(speed.seconds(now + seconds(60)), 0.3));
        speed.sent(now);
        speed.answered(now + seconds(10), millis(400));
        assert!(roughly(speed.seconds(now + seconds(10)), 0.4));
    }

    #[test]
    fn the_slower_lane_is_used_less_and_never_not_at_all() {
        assert!(roughly(factor(0.5, 0.5), 1.0) && roughly(factor(0.5, 1.0), 0.25));
        assert!(factor(0.3, 1_000.0) >= LEAST);
    }

    #[test]
    fn a_lane_is_silent_when_three_wait_and_nothing_came_for_ten_seconds() {
        let (mut speed, now) = (Speed::default(), start());
        speed.sent(now);
        speed.sent(now);
        assert!(!speed.is_silent(now + seconds(100)), "two may be long ones");
        speed.sent(now + seconds(5));
        assert!(!speed.is_silent(now + seconds(10)));
        assert!(speed.is_silent(now + millis(10_001)));
        speed.answered(now + seconds(12), seconds(12));
        speed.sent(now + seconds(12));
        assert!(!speed.is_silent(now + seconds(22)), "it spoke");
        assert!(!speed.is_silent(now + seconds(35)), "it is known to be slow");
        speed.over();
        assert!(!speed.is_silent(now + seconds(500)), "two are left");
    }
}
