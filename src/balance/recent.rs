//! What a lane did lately, for people only: how soon it answers, and how it failed. Nothing is decided by it.

use std::fmt;
use std::time::{Duration, Instant};

use super::reason::Reason;
use super::verdict::Verdict;

/// The most different failures remembered of one lane.
const REMEMBERED: usize = 5;

/// The newest first-byte time is one in so many of the average: a dozen requests forget an old one.
const WEIGHT: u32 = 6;

/// How a lane failed a request. Displays as the words that operators see.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mishap {
    /// 429; where its cooldown was read.
    Throttled(Reason),
    /// 429 of a service tier.
    TierFull,
    /// 429 for a request of that size.
    TooLarge,
    /// 5xx, or no answer at all.
    Failed(Reason),
    /// A good answer that broke off.
    CutOff,
    /// 408, or slower than the request had time.
    TimedOut,
    /// It rejects our credential, with this status.
    Refused(u16),
    /// 404 `DeploymentNotFound`.
    Absent,
    /// 400 `OperationNotSupported`.
    Unsupported,
}

impl Mishap {
    fn of(verdict: &Verdict) -> Option<Self> {
        Some(match *verdict {
            Verdict::Served { .. } | Verdict::PassedBack | Verdict::Elsewhere | Verdict::NotThere => {
                return None;
            }
            Verdict::Throttled { told, .. } => Self::Throttled(told.reason),
            Verdict::TierFull => Self::TierFull,
            Verdict::TooLarge { .. } => Self::TooLarge,
            Verdict::Failed { reason, .. } => Self::Failed(reason),
            Verdict::Unavailable { .. } => Self::Failed(Reason::Status(503)),
            Verdict::Unreachable { failure } => Self::Failed(Reason::Failure(failure)),
            Verdict::CutOff { .. } => Self::CutOff,
            Verdict::TimedOut => Self::TimedOut,
            Verdict::Refused { status } => Self::Refused(status),
            Verdict::Absent => Self::Absent,
            Verdict::Unsupported => Self::Unsupported,
        })
    }
}

impl fmt::Display for Mishap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Throttled(reason) => write!(f, "429, {reason}"),
            Self::TierFull => f.write_str("429 of a service tier"),
            Self::TooLarge => f.write_str("429 for large requests"),
            Self::Failed(reason) => write!(f, "{reason}"),
            Self::CutOff => f.write_str("stream broke off"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Refused(status) => write!(f, "{status}, credential refused"),
            Self::Absent => f.write_str("404, deployment not found"),
            Self::Unsupported => f.write_str("400, operation not supported"),
        }
    }
}

/// One kind of failure of a lane.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MishapSnapshot {
    /// What.
    pub mishap: Mishap,
    /// How often since it was first met, as long as it is remembered.
    pub times: u64,
    /// Since the last time.
    pub ago: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Met {
    mishap: Mishap,
    times: u64,
    last: Instant,
}

/// The lately of one lane.
#[derive(Debug, Default)]
pub(super) struct Recent {
    first_byte: Option<Duration>,
    /// The newest first.
    met: Vec<Met>,
}

impl Recent {
    /// A good answer began so long after it was asked for.
    pub(super) fn answered(&mut self, took: Duration) {
        self.first_byte =
            Some(self.first_byte.map_or(took, |average| (average * (WEIGHT - 1) + took) / WEIGHT));
    }

    /// What became of an attempt.
    pub(super) fn ended(&mut self, now: Instant, verdict: &Verdict) {
        let Some(mishap) = Mishap::of(verdict) else { return };
        let known = self.met.iter().position(|met| met.mishap == mishap);
        let times = known.map_or(0, |at| self.met.remove(at).times);
        self.met.truncate(REMEMBERED - 1);
        self.met.insert(0, Met { mishap, times: times.saturating_add(1), last: now });
    }

    pub(super) fn first_byte(&self) -> Option<Duration> {
        self.first_byte
    }

    pub(super) fn mishaps(&self, now: Instant) -> Vec<MishapSnapshot> {
        let told = self.met.iter().map(|met| MishapSnapshot {
            mishap: met.mishap,
            times: met.times,
            ago: now.saturating_duration_since(met.last),
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::AttemptFailure;
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn the_newest_five_kinds_of_failure_are_remembered_and_repeated_ones_counted() {
        let start = Instant::now();
        let mut recent = Recent::default();
        let failed = |status| Verdict::Failed { reason: Reason::Status(status), told: None };
        for (second, status) in
            [(0, 500), (1, 502), (2, 500), (3, 500), (4, 520), (5, 521), (6, 522), (7, 523)]
        {
            recent.ended(start + Duration::from_secs(second), &failed(status));
        }
        recent.ended(start, &Verdict::Served { tokens: 1 });
        let seen = recent.mishaps(start + Duration::from_secs(10));
        let told: Vec<_> =
            seen.iter().map(|one| (one.mishap.to_string(), one.times, one.ago.as_secs())).collect();
        let expected = [("523", 1, 3), ("522", 1, 4), ("521", 1, 5), ("520", 1, 6), ("500", 3, 7)];
        assert_eq!(told, expected.map(|(what, times, ago)| (what.to_owned(), times, ago)));
    }

    #[test]
    fn an_average_follows_what_comes_and_forgets() {
        let mut recent = Recent::default();
        assert_eq!(recent.first_byte(), None);
        recent.answered(Duration::from_secs(10));
        assert_eq!(recent.first_byte(), Some(Duration::from_secs(10)));
        (0..40).for_each(|_| recent.answered(Duration::from_secs(1)));
        let average = recent.first_byte().unwrap();
        assert!(average < Duration::from_millis(1_100), "{average:?}");
    }

    #[test]
    fn words_say_what_it_was() {
        let told = [
            Mishap::Throttled(Reason::RetryAfterMs),
            Mishap::Failed(Reason::Failure(AttemptFailure::Refused)),
            Mishap::Refused(401),
        ];
        assert_eq!(
            told.map(|mishap| mishap.to_string()),
            ["429, retry-after-ms", "connect refused", "401, credential refused"]
        );
    }
}
