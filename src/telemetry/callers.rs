//! Who called in the last minutes: counters of each caller, looked at once a second, or seldom while nobody calls.
//!
//! Kept by looking and not on the request path, so that a request costs nothing more. Bounded: as many callers as the
//! metrics have labels for, `STEPS` steps each. A counter that went backwards counts as no change.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::metrics::CallerTotals;

/// So far back "lately" goes.
pub const LATELY: Duration = Duration::from_secs(5 * 60);
const STEP: Duration = Duration::from_secs(10);
const STEPS: usize = 30;
/// The most callers that are told one by one.
pub const TOLD: usize = 50;

/// What was asked and got.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Use {
    /// Requests that ended.
    pub requests: u64,
    /// Of them, answered 429 or 5xx, or broken off.
    pub failed: u64,
    /// Of them, refused for the caller's own limits.
    pub limited: u64,
    /// Tokens of prompts and answers.
    pub tokens: u64,
}

impl Use {
    fn add(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.failed = self.failed.saturating_add(other.failed);
        self.limited = self.limited.saturating_add(other.limited);
        self.tokens = self.tokens.saturating_add(other.tokens);
    }

    fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            failed: self.failed.saturating_sub(before.failed),
            limited: self.limited.saturating_sub(before.limited),
            tokens: self.tokens.saturating_sub(before.tokens),
        }
    }
}

/// One caller, or several together.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CallerUse {
    /// Its name, as in the metrics; empty for several together.
    pub name: String,
    /// In the last [`LATELY`].
    pub lately: Use,
    /// Since the start.
    pub total: Use,
}

/// Who uses it, the heaviest user of late first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Told {
    /// At most [`TOLD`].
    pub callers: Vec<CallerUse>,
    /// How many more there are.
    pub others: usize,
    /// Those together.
    pub rest: CallerUse,
}

/// The last minutes of every caller.
#[derive(Debug, Default)]
pub struct CallersLately {
    begun: Option<Instant>,
    /// Whole steps since then.
    steps: u64,
    tracks: HashMap<String, Track>,
}

#[derive(Debug, Default)]
struct Track {
    total: Use,
    /// The newest last; it goes on.
    steps: VecDeque<Use>,
}

impl CallersLately {
    /// Takes in what every caller has asked and got so far.
    pub fn look(&mut self, now: Instant, callers: Vec<CallerTotals>) {
        let begun = *self.begun.get_or_insert(now);
        let steps = now.saturating_duration_since(begun).as_secs() / STEP.as_secs();
        let ended = steps.saturating_sub(self.steps);
        self.steps = self.steps.max(steps);
        for track in self.tracks.values_mut() {
            track.turn(ended);
        }
        for caller in callers {
            let CallerTotals { name, requests, failed, limited, tokens } = caller;
            self.tracks.entry(name).or_default().look(Use { requests, failed, limited, tokens });
        }
    }

    /// As of the last look.
    #[must_use]
    pub fn told(&self) -> Told {
        let mut callers: Vec<(Use, &str, Use)> =
            self.tracks.iter().map(|(name, track)| (track.lately(), name.as_str(), track.total)).collect();
        callers.sort_unstable_by(|one, two| {
            let weight =
                |(lately, _, total): &(Use, &str, Use)| (lately.tokens, lately.requests, total.tokens);
            weight(two).cmp(&weight(one)).then_with(|| one.1.cmp(two.1))
        });
        let mut told = Told { others: callers.len().saturating_sub(TOLD), ..Told::default() };
        for (place, (lately, name, total)) in callers.into_iter().enumerate() {
            if place < TOLD {
                told.callers.push(CallerUse { name: name.to_owned(), lately, total });
            } else {
                told.rest.lately.add(lately);
                told.rest.total.add(total);
            }
        }
        told
    }
}

impl Track {
    fn turn(&mut self, ended: u64) {
        for _ in 0..ended.min(STEPS as u64) {
            if self.steps.len() == STEPS {
                self.steps.pop_front();
            }
            self.steps.push_back(Use::default());
        }
    }

    fn look(&mut self, total: Use) {
        let new = total.since(self.total);
        self.total = total;
        if self.steps.is_empty() {
            self.steps.push_back(Use::default());
        }
        if let Some(step) = self.steps.back_mut() {
            step.add(new);
        }
    }

    fn lately(&self) -> Use {
        let mut sum = Use::default();
        self.steps.iter().for_each(|step| sum.add(*step));
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(name: &str, requests: u64, failed: u64, tokens: u64) -> CallerTotals {
        CallerTotals { name: name.to_owned(), requests, failed, limited: failed, tokens }
    }

    /// One look at each of these seconds.
    fn looked(looks: impl IntoIterator<Item = (u64, Vec<CallerTotals>)>) -> CallersLately {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let mut lately = CallersLately::default();
        for (second, callers) in looks {
            lately.look(start + Duration::from_secs(second), callers);
        }
        lately
    }

    #[test]
    fn what_was_used_is_told_for_five_minutes_and_since_the_start() {
        let used = Use { requests: 9, failed: 2, limited: 2, tokens: 900 };
        let at = |second| {
            let looks = [(0, vec![totals("app", 4, 2, 400)]), (60, vec![totals("app", 9, 2, 900)])];
            looked(looks.into_iter().chain([(second, vec![totals("app", 9, 2, 900)])]))
                .told()
                .callers
                .remove(0)
        };
        assert_eq!((at(61).lately, at(61).total), (used, used));
        assert_eq!(at(299).lately, used);
        assert_eq!(
            at(301).lately,
            Use { requests: 5, tokens: 500, ..Use::default() },
            "the first minute's start is over"
        );
        assert_eq!((at(361).lately, at(361).total), (Use::default(), used));
    }

    #[test]
    fn the_heaviest_of_late_come_first_and_those_beyond_fifty_together() {
        let callers = |_| (0..60).map(|n| totals(&format!("c{n:02}"), 1, 0, 1_000 - n)).collect::<Vec<_>>();
        let quiet = || vec![totals("was-heavy", 1, 0, 1_000_000)];
        let looks = [(0, quiet()), (400, callers(())), (401, vec![totals("c59", 2, 1, 9_000)])];
        let told = looked(looks).told();
        assert_eq!(
            told.callers.iter().map(|one| one.name.as_str()).take(2).collect::<Vec<_>>(),
            ["c59", "c00"]
        );
        assert_eq!((told.callers.len(), told.others), (TOLD, 11));
        assert_eq!(told.rest.lately.requests, 10);
        assert!(told.rest.total.tokens > 1_000_000, "who is quiet now stands last: {told:?}");
    }

    #[test]
    fn a_counter_that_falls_is_no_change_and_the_past_is_bounded() {
        let looks = (0..2_000).step_by(7).map(|second| (second, vec![totals("app", second % 50, 0, 0)]));
        let lately = looked(looks);
        assert!(lately.tracks["app"].steps.len() <= STEPS);
        assert!(lately.told().callers[0].lately.requests < 300);
        assert_eq!(CallersLately::default().told(), Told::default());
    }
}
