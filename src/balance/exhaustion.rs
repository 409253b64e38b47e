//! Nothing admits: what to say, and when to come back.
//!
//! Telling every refused caller the exact soonest moment is the obvious rule and was simulated: all return together
//! to the one lane that is back first, burn their SDK's two retries within seconds, and more of them fail than with
//! no balancer (selection.md 3). So each is told the recovery of a lane drawn by weight, and a little spread. With
//! tens of lanes, tens of different moments. And no one is told sooner than its turn in the deployment's queue (`flow`).
//!
//! Worth (`cargo bench --bench goodput -- --rows mechanisms`): told the soonest moment instead of a drawn lane's, callers
//! failing at "N=8 110 %" 6.4 → 3.7 %, with "8 replicas" 9.1 → 3.8 %; test `callers_are_told_different_moments…`. The
//! second of spread: "8 replicas" 4.4 → 3.8 %, "no headers 110 %" 429s per 1,000 requests 196 → 53; test
//! `the_spread_covers_its_second_evenly`.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::attempts::Kept;
use super::choosing;
use super::cooldown::{SHORTEST, UNTOLD};
use super::flow::{LONGEST_WAIT, Returns};
use super::reason::AttemptFailure;
use super::standing::{Standing, View};

/// The most that is added at random; never more than the wait itself, so that milliseconds stay milliseconds.
const SPREAD: Duration = Duration::from_secs(1);

/// No lane that could serve the request admits it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Exhausted {
    /// At least one is throttled: 429.
    #[error("all backends for this deployment are rate limited")]
    Throttled {
        /// When to come back, in whole milliseconds, from 10 ms to 59 s.
        wait: Duration,
    },
    /// The same, of a request that may wait in line ([`super::Ask::patience`]): one has room within that time, and not
    /// all of it is for those before it. Wait until then, and pick again; nobody else was told anything of it.
    #[error("a backend for this deployment has room again soon")]
    Soon {
        /// The soonest of their recoveries.
        until: Instant,
    },
    /// Only size marks are in the way: 429 that is not worth retrying.
    #[error("the request is too large for every backend at the moment")]
    TooLarge,
    /// No backend has this deployment in its settings: 404.
    #[error("no backend serves this deployment")]
    Unserved,
    /// Everything was tried, or cannot be.
    #[error("no backend could serve the request")]
    Spent {
        /// What to say.
        cause: Cause,
    },
}

/// Why nothing could serve the request, where throttling was not it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// Pass back the answer that was kept last ([`super::Judgement`]'s `keep`).
    Answered,
    /// 502, or 504 where time ran out: the last attempt brought no answer.
    Failed(AttemptFailure),
    /// 502 `backend_refused`: our credential was rejected.
    Refused,
    /// 503, worth retrying after a second: what is left has failed before, and its probe is under way.
    Probing,
    /// 503: no backend has its credential yet.
    NoCredential,
    /// 404: every backend that may be asked said lately that it does not have this deployment.
    Absent,
    /// 400: every backend said lately that its deployment does not do this operation.
    Unsupported,
    /// 503: the backends are drained, or the caller may not spill over to them.
    OutOfUse,
}

/// Which standings there are among the lanes that serve the deployment.
#[derive(Default)]
struct Census {
    lanes: u32,
    too_large: u32,
    waiting: u32,
    refused: u32,
    absent: u32,
    unsupported: u32,
    no_credential: u32,
    drained: u32,
    returns: Returns,
    drawn: Option<Instant>,
}

impl Census {
    fn take(view: View<'_>, rng: &mut Rng) -> Self {
        let mut census = Self::default();
        let mean = choosing::mean(view.serving().filter_map(|candidate| candidate.lane.estimator.limit()));
        let cooling = view.serving().filter_map(|candidate| {
            let standing = view.standing(&candidate);
            let limit = candidate.lane.estimator.limit();
            census.count(standing);
            census.drained += u32::from(candidate.backend.drained);
            if standing.is_able() {
                census.returns.limits += limit.unwrap_or_default();
            }
            let until = recovery(standing)?;
            let restart = candidate.lane.estimator.restart(view.now);
            let of_minute = restart.is_some_and(|restart| restart <= until);
            Some(((until, of_minute), limit.unwrap_or(mean) * candidate.backend.weight))
        });
        let drawn = choosing::draw(rng, cooling);
        census.drawn = drawn.map(|(until, _)| until);
        census.returns.minutes = drawn.is_some_and(|(_, of_minute)| of_minute);
        census
    }

    fn count(&mut self, standing: Standing) {
        self.lanes += 1;
        match standing {
            Standing::TooLarge => self.too_large += 1,
            Standing::Resting { .. } | Standing::Probing | Standing::ProbeDue => self.waiting += 1,
            Standing::Refused => self.refused += 1,
            Standing::Absent => self.absent += 1,
            Standing::Unsupported => self.unsupported += 1,
            Standing::NoCredential => self.no_credential += 1,
            Standing::OutOfUse => self.lanes -= 1,
            Standing::Admits | Standing::Full { .. } | Standing::TooSmall | Standing::Cooling { .. } => {}
        }
    }
}

/// When a throttled lane admits again.
pub(super) fn recovery(standing: Standing) -> Option<Instant> {
    match standing {
        Standing::Cooling { until } | Standing::Full { until, .. } => Some(until),
        _ => None,
    }
}

/// What to say to a request for which nothing was chosen; with it what comes back.
pub(super) fn exhausted(view: View<'_>, rng: &mut Rng) -> (Exhausted, Returns) {
    if view.serving().next().is_none() {
        return (Exhausted::Unserved, Returns::default());
    }
    let census = Census::take(view, rng);
    (said(&census, view, rng), census.returns)
}

/// Not before its turn.
pub(super) fn in_turn(exhausted: Exhausted, turn: Duration) -> Exhausted {
    match exhausted {
        Exhausted::Throttled { wait } => Exhausted::Throttled { wait: told(wait.max(turn)) },
        other => other,
    }
}

fn said(census: &Census, view: View<'_>, rng: &mut Rng) -> Exhausted {
    if census.drawn.is_some() || view.attempts.was_throttled {
        // A lane throttled for this very request may be too small for it as well, or be back already; then the
        // shortest wait is the honest one.
        let until = census.drawn.or_else(|| soonest_of_too_small(view)).or(view.attempts.told_until);
        let recovery = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(view.now));
        return Exhausted::Throttled { wait: wait(recovery, rng) };
    }
    let unable = census.refused + census.absent + census.unsupported + census.no_credential;
    if census.too_large > 0 && census.too_large + unable == census.lanes {
        return Exhausted::TooLarge;
    }
    if view.attempts.kept == Some(Kept::TierFull) {
        return Exhausted::Throttled { wait: wait(UNTOLD, rng) };
    }
    Exhausted::Spent { cause: cause(census, view) }
}

/// When the first of the lanes that a size mark keeps away ends its cooldown.
fn soonest_of_too_small(view: View<'_>) -> Option<Instant> {
    let too_small = view.serving().filter(|candidate| view.standing(candidate) == Standing::TooLarge);
    too_small.filter_map(|candidate| Some(candidate.lane.cooldown(view.now)?.until)).min()
}

fn cause(census: &Census, view: View<'_>) -> Cause {
    let attempts = view.attempts;
    if matches!(attempts.kept, Some(Kept::Other | Kept::Full)) {
        return Cause::Answered;
    }
    if let Some(failure) = attempts.failure {
        return Cause::Failed(failure);
    }
    if attempts.was_refused || census.refused > 0 {
        return Cause::Refused;
    }
    if census.waiting > 0 {
        return Cause::Probing;
    }
    if census.no_credential > 0 {
        return Cause::NoCredential;
    }
    match attempts.kept {
        // What a drained backend has must not be told to be nowhere.
        Some(Kept::NotThere) if census.drained > 0 => return Cause::OutOfUse,
        Some(Kept::NotThere | Kept::Unsupported | Kept::Absent) => return Cause::Answered,
        Some(Kept::Other | Kept::Full | Kept::TierFull) | None => {}
    }
    if census.absent > 0 {
        return Cause::Absent;
    }
    if census.unsupported > 0 {
        return Cause::Unsupported;
    }
    Cause::OutOfUse
}

/// The recovery of the lane drawn, plus U(0, min(1 s, that)).
fn wait(recovery: Duration, rng: &mut Rng) -> Duration {
    told(recovery + recovery.min(SPREAD).mul_f64(rng.f64()))
}

/// Rounded up to whole milliseconds, and within what may be told.
fn told(wait: Duration) -> Duration {
    let millis = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    Duration::from_millis(millis).clamp(SHORTEST, LONGEST_WAIT)
}
