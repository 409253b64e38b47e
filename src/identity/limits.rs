//! How many requests and tokens one caller may use in any minute.
//!
//! Why a sliding window and not a bucket: a bucket that is full and refills lets twice its size through within one
//! minute, and operators who write 100 mean 100. Time is cut into slots of a quarter of a second, and a slot counts
//! until all of it is a minute old. So no minute, wherever it begins, holds more than the limit, the state is of
//! fixed size, and the moment when there is room again is known exactly: nothing but time frees room.
//!
//! Tokens are charged by an estimate when a request comes and corrected by what it really took when it ends: what
//! it did not take is given back, and what it took beyond counts from then on. What of it is more than the limit is a
//! debt, paid with whatever room comes free before anything else is admitted: otherwise callers who do not say how long
//! an answer may be, and that is most, would be held to their limit in every second minute only.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How finely time is told.
const SLOT: Duration = Duration::from_millis(250);
/// A minute of slots, and the one that is not over yet.
const SLOTS: usize = 241;

/// What is limited.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Measure {
    /// Requests, whatever came of them.
    Requests,
    /// Tokens, of prompts and answers.
    Tokens,
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        })
    }
}

/// A limit is reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reached {
    /// Which.
    pub measure: Measure,
    /// From then on there is room, unless others of the same caller take it; whole milliseconds. `None`: there never
    /// is, because the request alone is larger than the limit.
    pub wait: Option<Duration>,
}

/// The limits of one caller and what it has used, shared by all its keys, all workers, and the settings after a
/// reload.
#[derive(Clone, Debug)]
pub struct Limits {
    requests: Option<u64>,
    tokens: Option<u64>,
    used: Arc<Mutex<Used>>,
}

#[derive(Debug, Default)]
struct Used {
    /// The first moment that was seen; slots are counted from here.
    began: Option<Instant>,
    requests: Window,
    tokens: Window,
}

/// A request that was let in, until it is settled. Dropped unsettled, what was charged stays.
#[derive(Debug)]
pub struct Turn {
    limits: Limits,
    request: u64,
    /// When and how much was charged.
    charged: Option<(u64, u64)>,
}

impl Limits {
    /// Per minute, each at least 1. `None` is unlimited; both `None` is no limit at all.
    #[must_use]
    pub fn new(requests: Option<u64>, tokens: Option<u64>) -> Option<Self> {
        (requests.is_some() || tokens.is_some()).then(|| Self { requests, tokens, used: Arc::default() })
    }

    /// What was used before counts on.
    pub(super) fn continue_from(&mut self, before: &Self) {
        self.used = Arc::clone(&before.used);
    }

    /// One more request, at `now`.
    ///
    /// # Errors
    /// The caller has made as many as it may.
    pub fn request(&self, now: Instant) -> Result<Turn, Reached> {
        let mut used = self.used();
        let at = used.slot(now);
        let at = used.requests.advance(at);
        if let Some(limit) = self.requests
            && let Err(free) = used.requests.room(limit, 1)
        {
            return Err(used.reached(Measure::Requests, free, now));
        }
        used.requests.add(at, 1);
        drop(used);
        Ok(Turn { limits: self.clone(), request: at, charged: None })
    }

    /// Held for less than a microsecond. A panic cannot have left it half-changed in a way that matters.
    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Charges what the request is thought to take, at `now`.
    ///
    /// # Errors
    /// That is more than the caller may still use. The request then does not count as one.
    pub fn charge(&mut self, now: Instant, tokens: u64) -> Result<(), Reached> {
        let mut used = self.limits.used();
        let at = used.slot(now);
        let at = used.tokens.advance(at);
        if let Some(limit) = self.limits.tokens
            && let Err(free) = used.tokens.room(limit, tokens)
        {
            used.requests.take_back(self.request, 1);
            return Err(used.reached(Measure::Tokens, free, now));
        }
        used.tokens.add(at, tokens);
        drop(used);
        self.charged = Some((at, tokens));
        Ok(())
    }

    /// The request has ended, at `now`, and took so many tokens.
    pub fn settle(self, now: Instant, tokens: u64) {
        let Some((charged_at, charged)) = self.charged else { return };
        let mut used = self.limits.used();
        let at = used.slot(now);
        let at = used.tokens.advance(at);
        match tokens.checked_sub(charged) {
            Some(beyond) => used.tokens.exceed(self.limits.tokens.unwrap_or(u64::MAX), at, beyond),
            None => used.tokens.take_back(charged_at, charged - tokens),
        }
    }
}

impl Used {
    /// Clocks of several workers may be read in another order than this is asked.
    fn slot(&mut self, now: Instant) -> u64 {
        let began = *self.began.get_or_insert(now);
        let slots = now.saturating_duration_since(began).as_millis() / SLOT.as_millis();
        // A whole window after zero, so that slots of before it all began can be counted too.
        u64::try_from(slots).unwrap_or(u64::MAX / 2).saturating_add(SLOTS as u64)
    }

    fn reached(&self, measure: Measure, free: Option<u64>, now: Instant) -> Reached {
        let wait = free.zip(self.began).map(|(slot, began)| {
            let slots = u32::try_from(slot.saturating_sub(SLOTS as u64)).unwrap_or(u32::MAX);
            let wait = (began + SLOT * slots).saturating_duration_since(now);
            // Told in whole milliseconds, and never too early.
            Duration::from_millis(u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
        });
        Reached { measure, wait }
    }
}

/// What was used in the last minute, and what is still to be counted.
#[derive(Debug)]
struct Window {
    /// By slot number modulo their count.
    slots: Box<[u64; SLOTS]>,
    newest: u64,
    sum: u64,
    /// Only where `sum` leaves no room.
    debt: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self { slots: Box::new([0; SLOTS]), newest: SLOTS as u64, sum: 0, debt: 0 }
    }
}

impl Window {
    /// Forgets what is a minute old. The slot that is used for `slot`: the present one, should it be an older one.
    fn advance(&mut self, slot: u64) -> u64 {
        let mut passed = slot.saturating_sub(self.newest);
        // While the debt takes all that comes free, a minute later everything stands as it stood.
        if let Some(minutes) = self.debt.checked_div(self.sum) {
            let minutes = minutes.min(passed / SLOTS as u64);
            self.debt -= minutes * self.sum;
            self.newest += minutes * SLOTS as u64;
            passed -= minutes * SLOTS as u64;
        }
        // What is still owed then has come and gone after a second one.
        for _ in 0..passed.min(2 * SLOTS as u64) {
            self.newest += 1;
            let paid = self.debt.min(*self.place(self.newest));
            let left = std::mem::replace(self.place(self.newest), paid);
            self.sum -= left - paid;
            self.debt -= paid;
        }
        self.newest = self.newest.max(slot);
        self.newest
    }

    /// Whether `more` fits; else from which slot on it does, and `None` when it never does.
    fn room(&self, limit: u64, more: u64) -> Result<(), Option<u64>> {
        let used = u128::from(self.sum) + u128::from(self.debt);
        let excess = (used + u128::from(more)).saturating_sub(limit.into());
        if excess == 0 {
            return Ok(());
        }
        if more > limit {
            return Err(None);
        }
        // Each minute frees what it holds, as long as there is a debt; without one it is done within one.
        let each = u128::from(self.sum.max(1));
        let minutes = (excess - 1) / each;
        let mut missing = excess - minutes * each;
        let minutes = u64::try_from(minutes).unwrap_or(u64::MAX).saturating_add(1);
        let oldest = self.newest + 1 - SLOTS as u64;
        let enough = (oldest..self.newest).find(|slot| {
            missing = missing.saturating_sub(self.slots[Self::index(*slot)].into());
            missing == 0
        });
        Err(Some(enough.unwrap_or(self.newest).saturating_add(minutes.saturating_mul(SLOTS as u64))))
    }

    /// What has room.
    fn add(&mut self, slot: u64, amount: u64) {
        let amount = amount.min(u64::MAX - self.sum);
        *self.place(slot) += amount;
        self.sum += amount;
    }

    /// What was used already, room or not.
    fn exceed(&mut self, limit: u64, slot: u64, amount: u64) {
        let room = limit.saturating_sub(self.sum).min(amount);
        self.add(slot, room);
        self.debt = self.debt.saturating_add(amount - room);
    }

    /// What has left the window already needs no taking back.
    fn take_back(&mut self, slot: u64, amount: u64) {
        let owed = self.debt.min(amount);
        self.debt -= owed;
        if self.newest.saturating_sub(slot) < SLOTS as u64 {
            let place = self.place(slot);
            let taken = (amount - owed).min(*place);
            *place -= taken;
            self.sum -= taken;
        }
    }

    fn place(&mut self, slot: u64) -> &mut u64 {
        &mut self.slots[Self::index(slot)]
    }

    fn index(slot: u64) -> usize {
        usize::try_from(slot % SLOTS as u64).expect("less than the count of slots")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn begin() -> Instant {
        crate::telemetry::clock::now()
    }

    fn limits(requests: u64, tokens: u64) -> Limits {
        let some = |limit| Some(limit).filter(|limit| *limit > 0);
        Limits::new(some(requests), some(tokens)).unwrap()
    }

    fn charged(limits: &Limits, now: Instant, tokens: u64) -> Result<Turn, Reached> {
        let mut turn = limits.request(now)?;
        turn.charge(now, tokens)?;
        Ok(turn)
    }

    #[test]
    fn without_numbers_there_is_no_limit() {
        assert!(Limits::new(None, None).is_none());
    }

    #[test]
    fn a_limit_is_reached_and_free_again_exactly_when_it_was_told() {
        let (limits, start) = (limits(3, 0), begin());
        for n in 0..3 {
            limits.request(start + MS * (n * 7_010)).unwrap();
        }
        let now = start + MS * 20_000;
        let Reached { measure: Measure::Requests, wait: Some(wait) } = limits.request(now).unwrap_err()
        else {
            panic!("a wait is told")
        };
        assert_eq!(wait, MS * 40_250, "a minute after the first, and the rest of its slot");
        assert!(limits.request(now + wait - MS).is_err(), "not a millisecond sooner");
        limits.request(now + wait).unwrap();
        assert!(limits.request(now + wait).is_err(), "the second still counts");
    }

    #[test]
    fn tokens_are_charged_by_estimate_and_corrected_in_both_directions() {
        let (limits, start) = (limits(0, 100), begin());
        charged(&limits, start, 80).unwrap().settle(start + MS * 900, 30);
        let second = charged(&limits, start + MS * 1_000, 70).unwrap();
        assert!(charged(&limits, start + MS * 1_000, 1).is_err());
        second.settle(start + MS * 5_000, 170);
        // 30 at 0 s, 70 at 1 s, and 100 beyond that wait for the room of both.
        let now = start + MS * 6_000;
        let wait = charged(&limits, now, 1).unwrap_err().wait.unwrap();
        assert_eq!(now + wait, start + MS * 120_500, "the debt took what came free at 60 and 61 s");
        assert!(charged(&limits, now + wait - MS, 1).is_err());
        charged(&limits, now + wait, 30).unwrap();
        assert!(charged(&limits, now + wait, 1).is_err(), "the other 70 are a second younger");
    }

    #[test]
    fn who_takes_ten_times_its_limit_unannounced_waits_ten_minutes() {
        let (limits, start) = (limits(0, 100), begin());
        charged(&limits, start, 1).unwrap().settle(start + MS * 3_000, 1_000);
        for (minute, open) in [(1, false), (2, false), (5, false), (9, false), (11, true)] {
            let asked = start + MS * 60_000 * minute;
            assert_eq!(charged(&limits, asked, 1).is_ok(), open, "minute {minute}");
        }
    }

    #[test]
    fn a_debt_is_forgotten_as_fast_by_one_who_stays_away() {
        let (limits, start) = (limits(0, 100), begin());
        charged(&limits, start, 1).unwrap().settle(start, 100_000);
        let wait = charged(&limits, start, 1).unwrap_err().wait.unwrap();
        assert!(charged(&limits, start + wait - MS, 1).is_err());
        charged(&limits, start + wait, 1).unwrap();
        charged(&limits, start + wait + MS * 120_000, 100).unwrap();
    }

    #[test]
    fn what_lasted_longer_than_a_minute_is_corrected_all_the_same() {
        let (limits, start) = (limits(0, 100), begin());
        let long = charged(&limits, start, 50).unwrap();
        let less = charged(&limits, start, 50).unwrap();
        let later = start + MS * 120_000;
        less.settle(later, 0);
        long.settle(later, 140);
        assert!(charged(&limits, later, 20).is_err(), "90 beyond the estimate count now");
        charged(&limits, later, 10).unwrap();
    }

    #[test]
    fn a_request_larger_than_the_limit_is_told_that_no_waiting_helps() {
        let (limits, start) = (limits(1, 100), begin());
        let reached = charged(&limits, start, 101).unwrap_err();
        assert_eq!(reached, Reached { measure: Measure::Tokens, wait: None });
        charged(&limits, start, 100).expect("refused for its tokens, it did not count as a request");
    }

    #[test]
    fn a_clock_read_before_anothers_takes_nothing_from_the_window() {
        let (limits, start) = (limits(2, 0), begin());
        limits.request(start + MS * 70_000).unwrap();
        limits.request(start).unwrap();
        assert!(limits.request(start + MS * 70_000).is_err());
        assert!(limits.request(start + MS * 129_000).is_err());
        limits.request(start + MS * 140_000).unwrap();
    }

    #[test]
    fn numbers_at_their_end_neither_panic_nor_open_the_door() {
        let (limits, start) = (limits(0, u64::MAX), begin());
        charged(&limits, start, u64::MAX).unwrap().settle(start, u64::MAX);
        assert!(charged(&limits, start, 1).is_err());
        let turn = charged(&limits, start + Duration::from_secs(10_000_000), 0).unwrap();
        turn.settle(start + Duration::from_secs(100_000_000), u64::MAX);
    }

    #[test]
    fn after_a_reload_what_was_used_still_counts() {
        let (before, start) = (limits(2, 0), begin());
        before.request(start).unwrap();
        let mut after = limits(2, 0);
        after.continue_from(&before);
        after.request(start).unwrap();
        assert!(after.request(start).is_err() && before.request(start).is_err());
    }

    #[test]
    fn a_wait_is_true_also_after_a_reload_with_another_limit() {
        for (debt, limit) in [(0, 10), (0, 1), (0, 1_000), (250, 10), (250, 1_000), (40, 100)] {
            let (before, start) = (limits(0, 100), begin());
            charged(&before, start, 60).unwrap();
            charged(&before, start + MS * 9_000, 40).unwrap().settle(start + MS * 9_000, 40 + debt);
            let mut after = limits(0, limit);
            after.continue_from(&before);
            let now = start + MS * 10_000;
            if let Err(reached) = charged(&after, now, 1) {
                let wait = reached.wait.unwrap();
                assert!(charged(&after, now + wait - MS, 1).is_err(), "{debt} {limit}");
                charged(&after, now + wait, 1).unwrap();
            }
        }
    }

    proptest! {
        /// Whoever guesses wrongly in either direction, and comes as often as it can.
        #[test]
        fn in_the_long_run_nobody_takes_more_than_its_limit_and_every_wait_is_true(
            limit in 1..40_u64,
            steps in prop::collection::vec((0..4_000_u64, 0..12_u64, 0..120_u64, 0..90_000_u64), 1..80),
        ) {
            let (limits, start) = (limits(0, limit), begin());
            let (mut now, mut taken, mut largest) = (start, 0, 0);
            for (pause, size, really, lasts) in steps {
                now += MS * u32::try_from(pause).unwrap();
                let size = size.min(limit);
                let turn = charged(&limits, now, size).or_else(|reached| {
                    let wait = reached.wait.expect("it is not above the limit");
                    assert!(charged(&limits, now + wait - MS, size).is_err(), "told too late");
                    now += wait;
                    charged(&limits, now, size)
                });
                prop_assert!(turn.is_ok(), "told too early");
                // At the latest when the last was over, so that one at a time is under way.
                now += MS * u32::try_from(lasts).unwrap();
                turn.unwrap().settle(now, really);
                taken += really;
                largest = largest.max(really);
                let minutes = u64::try_from((now - start).as_millis()).unwrap().div_ceil(60_000);
                prop_assert!(taken <= limit * (minutes + 1) + largest, "{} in {} minutes", taken, minutes);
            }
        }

        /// Callers who come whenever they like, and as soon as they were told.
        #[test]
        fn no_minute_holds_more_than_the_limit_and_every_wait_is_true(
            limit in 1..40_u64,
            steps in prop::collection::vec((0..9_000_u64, 1..12_u64), 1..250),
        ) {
            let (limits, start) = (limits(0, limit), begin());
            let mut now = start;
            let mut admitted: Vec<(Instant, u64)> = Vec::new();
            for (pause, size) in steps {
                now += MS * u32::try_from(pause).unwrap();
                match charged(&limits, now, size) {
                    Ok(_) => admitted.push((now, size)),
                    Err(Reached { wait: None, .. }) => prop_assert!(size > limit),
                    Err(Reached { wait: Some(wait), .. }) => {
                        prop_assert!(wait > Duration::ZERO && wait <= MS * 60_250);
                        prop_assert!(charged(&limits, now + wait - MS, size).is_err(), "told too late");
                        now += wait;
                        prop_assert!(charged(&limits, now, size).is_ok(), "told too early");
                        admitted.push((now, size));
                    }
                }
            }
            for (at, _) in &admitted {
                let minute = *at..*at + MS * 60_000;
                let sum: u64 = admitted.iter().filter(|(at, _)| minute.contains(at)).map(|(_, size)| size).sum();
                prop_assert!(sum <= limit, "{} of {} in one minute", sum, limit);
            }
        }
    }
}
