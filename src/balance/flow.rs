//! What one deployment serves, and who was sent away and will be back: the queue of returns.
//!
//! | name | unit | meaning | written by |
//! |---|---|---|---|
//! | `served`, `served_at` | requests a second | good answers lately | answer |
//! | `charge` | tokens | what a request is charged, on average | answer |
//! | `usual` | tokens | what an answer without a limit takes, on average | end |
//! | `queue`, `queue_at` | callers | told to come back, and not yet due | refusal |
//!
//! ```text
//! answer     served fades with 30 s, then + 1 / 30 s
//! rate       ρ · max(served, Σ limit / (60 s · charge)); limits unknown: there is no queue
//! ρ          1 where the drawn lane comes back because its minute begins again, else 0.5
//! refusal    queue −= rate · time since the last refusal
//!            place = queue / rate; beyond 59 s: any moment from 30 to 59 s, else queue += 1
//! told       max(recovery of a lane drawn by quota + U(0, min(1 s, recovery)), place), at most 59 s
//! ```
//!
//! The floor under `rate` is for pools that were idle: without it the second of a burst would be told 50 s.
//!
//! Worth (`cargo bench --bench goodput -- --rows mechanisms`, without the queue → with it): rows "sliding 90 %", callers
//! failing 6.6 → 2.5 %, "0.3 per 1k 90 %" 6.4 → 1.9 %, "3x30k 110 %" 429s per 1,000 requests 71 → 37. Test
//! `callers_sent_away_are_told_their_turn_where_limits_are_known`.
//! ρ = 0.5 promises half of what is served to those who return; the other half is for those who come first. ρ = 1 for all
//! fails more by 3 points at 110 % where quotas slide, and by 2 where requests are limited; ρ = 0.5 for all by 1.7 points at
//! 110 % of clock-aligned minutes (row "Aligned 110 %" of `windows`), 0.3 at "N=8 110 %", with longer waits. `served` and
//! the floor: each alone gives about the same here; the one is for estimates that are too large, the other for bursts after
//! idleness. Tests `those_who_return_when_a_minute_begins_again…`, `all_of_a_minute_is_promised…`.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::estimator::tokens;

/// How long what was served counts, in seconds.
const LATELY: f64 = 30.0;

/// The share of the rate that is promised to callers who return.
const RHO: f64 = 0.5;

/// The same where a lane's minute begins again and it is known when: then its whole quota is there for them.
const RHO_OF_MINUTES: f64 = 1.0;

/// How much the newest request counts in the mean charge.
const NEWEST: f64 = 1.0 / 16.0;

/// No answer is believed to have been longer.
const MOST: u64 = 1 << 17;

/// Never told more: every SDK honours less than 60 s, and 60 itself is ignored by some (azure-openai.md 5.1).
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(59);

/// Who stands further back than the longest wait is spread from here on.
const BEYOND: f64 = 30.0;

/// What comes back for those who are sent away.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Returns {
    /// Of all lanes that could serve the deployment at some time, together, in tokens a minute.
    pub(super) limits: f64,
    /// The moment told is one at which a lane's minute begins again.
    pub(super) minutes: bool,
}

/// The head of this file says it all.
#[derive(Debug, Default)]
pub(super) struct Flow {
    served: f64,
    served_at: Option<Instant>,
    charge: Option<f64>,
    usual: Option<f64>,
    queue: f64,
    queue_at: Option<Instant>,
}

impl Flow {
    /// A good answer to a request of so many tokens.
    pub(super) fn answered(&mut self, now: Instant, charge: f64) {
        self.served = self.served(now) + 1.0 / LATELY;
        self.served_at = Some(now);
        let mean = self.charge.unwrap_or(charge);
        self.charge = Some(mean + NEWEST * (charge - mean));
    }

    /// Good answers a second, lately.
    pub(super) fn served(&self, now: Instant) -> f64 {
        let Some(at) = self.served_at else { return 0.0 };
        self.served * (-now.saturating_duration_since(at).as_secs_f64() / LATELY).exp()
    }

    /// What a request is charged on average, in tokens.
    pub(super) fn charge(&self) -> Option<f64> {
        self.charge
    }

    /// A good answer without a limit has ended; it took so many tokens beyond what was known of its request.
    pub(super) fn took(&mut self, taken: u64) {
        let taken = tokens(taken.min(MOST));
        let mean = self.usual.unwrap_or(taken);
        self.usual = Some(mean + NEWEST * (taken - mean));
    }

    /// What an answer without a limit takes on average, in tokens; 0 while that is not known.
    pub(super) fn usual(&self) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a mean of what is bounded"
        )]
        self.usual.map_or(0, |usual| usual as u64)
    }

    /// A caller of a request of `charge` tokens is sent away: how long until its turn. It takes its place in the queue.
    pub(super) fn place(&mut self, now: Instant, of: &Returns, charge: f64, rng: &mut Rng) -> Duration {
        if of.limits <= 0.0 {
            return Duration::ZERO;
        }
        let charge = self.charge.unwrap_or(charge).max(1.0);
        let share = if of.minutes { RHO_OF_MINUTES } else { RHO };
        let rate = share * self.served(now).max(of.limits / (60.0 * charge));
        let passed = self.queue_at.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        self.queue = (self.queue - rate * passed).max(0.0);
        self.queue_at = Some(now);
        let place = self.queue / rate;
        let longest = LONGEST_WAIT.as_secs_f64();
        if place > longest {
            return Duration::from_secs_f64(BEYOND + rng.f64() * (longest - BEYOND));
        }
        self.queue += 1.0;
        Duration::from_secs_f64(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::tests::{seconds, start};

    /// 60,000 tokens a minute and 1,000 a request: one a second, half of it promised.
    fn place(flow: &mut Flow, now: Instant) -> Duration {
        flow.place(now, &Returns { limits: 60_000.0, minutes: false }, 1_000.0, &mut Rng::with_seed(7))
    }

    #[test]
    fn each_caller_sent_away_is_told_its_turn() {
        let (mut flow, now) = (Flow::default(), start());
        let places: Vec<_> = (0..4).map(|_| place(&mut flow, now).as_secs()).collect();
        assert_eq!(places, [0, 2, 4, 6]);
        assert_eq!(place(&mut flow, now + seconds(4)).as_secs(), 4, "two have been served since");
        assert_eq!(place(&mut flow, now + seconds(300)).as_secs(), 0);
    }

    #[test]
    fn those_who_return_when_a_minute_begins_again_are_promised_all_of_it() {
        let (mut flow, now) = (Flow::default(), start());
        let of = Returns { limits: 60_000.0, minutes: true };
        let mut place = || flow.place(now, &of, 1_000.0, &mut Rng::with_seed(7)).as_secs();
        assert_eq!([place(), place(), place()], [0, 1, 2]);
    }

    #[test]
    fn beyond_the_longest_wait_callers_are_spread_and_take_no_place() {
        let (mut flow, now) = (Flow::default(), start());
        for _ in 0..500 {
            let place = place(&mut flow, now);
            assert!(place <= LONGEST_WAIT, "{place:?}");
        }
        assert!(place(&mut flow, now + seconds(61)).is_zero(), "500 stood in line where 30 fit");
    }

    #[test]
    fn what_was_served_lately_counts_where_it_is_more_than_the_limits_say() {
        let (mut flow, now) = (Flow::default(), start());
        for tenth in 0..3_000 {
            flow.answered(now + Duration::from_millis(100 * tenth), 1_000.0);
        }
        let now = now + seconds(300);
        let places: Vec<_> = (0..11).map(|_| place(&mut flow, now)).collect();
        let last = places[10].as_secs_f64();
        assert!((1.9..2.1).contains(&last), "10 a second were served, 5 are promised: {last}");
    }

    #[test]
    fn what_answers_without_a_limit_take_is_learned_and_bounded() {
        let mut flow = Flow::default();
        assert_eq!(flow.usual(), 0);
        flow.took(400);
        assert_eq!(flow.usual(), 400);
        (0..100).for_each(|_| flow.took(800));
        assert!((790..=800).contains(&flow.usual()));
        (0..100).for_each(|_| flow.took(u64::MAX));
        assert!(flow.usual() <= MOST);
    }

    #[test]
    fn without_known_limits_there_is_no_queue() {
        let mut flow = Flow::default();
        for _ in 0..50 {
            assert!(flow.place(start(), &Returns::default(), 1_000.0, &mut Rng::with_seed(7)).is_zero());
        }
    }
}
