//! What a request came to for its caller.

use crate::telemetry::access::{AccessRecord, Ended};

/// Codes of answers that say that a limit of the caller's own is reached: nothing is wrong but that.
const OWN_LIMITS: [&str; 2] = ["caller_limit", "above_caller_limit"];
/// Verdicts of attempts that came to nothing. Looking where an object or a deployment is belongs to no failure.
const FAILURES: [&str; 8] =
    ["throttled", "too_large", "tier_full", "failed", "unavailable", "unreachable", "timed_out", "refused"];
/// The verdict of an answer that broke off, or whose last event said that it failed.
const CUT_OFF: &str = "cut_off";
/// The status of a WebSocket.
const SWITCHED: u16 = 101;

/// Exclusive, but that the caller may have left, or may itself be to blame: then none is set.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Outcome {
    /// Answered well, to the end where the caller wanted it.
    pub(super) succeeded: bool,
    /// Throttled, or nothing came of it, or not all of it.
    pub(super) failed: bool,
    /// Of those, broken off.
    pub(super) cut: bool,
    /// Refused for the caller's own limits.
    pub(super) limited: bool,
    /// Attempts that came to nothing and of which the caller heard nothing.
    pub(super) absorbed: u64,
}

impl Outcome {
    pub(super) fn of(record: &AccessRecord<'_>) -> Self {
        let good = record.status == SWITCHED || (200..400).contains(&record.status);
        let broke = match record.ended {
            Ended::UpstreamCut => true,
            // A socket is closed with a frame that says so.
            Ended::Stopped => record.status != SWITCHED,
            Ended::Completed => record.attempts.verdict() == Some(CUT_OFF),
            Ended::CallerLeft | Ended::AnsweredHere => false,
        };
        let limited = record.error.is_some_and(|error| OWN_LIMITS.contains(&error));
        let (succeeded, cut) = (good && !broke, good && broke);
        let absorbed = if succeeded && record.attempts.count() > 1 {
            record.attempts.all().filter(|note| FAILURES.contains(&note.verdict)).count() as u64
        } else {
            0
        };
        let failed = cut || (!limited && (record.status == 429 || record.status >= 500));
        Self { succeeded, failed, cut, limited, absorbed }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::access::AttemptNotes;
    use super::super::super::access::tests::{notes, record};
    use super::*;

    fn of(status: u16, ended: Ended, error: Option<&'static str>, attempts: &AttemptNotes) -> Outcome {
        let backends = ["east".into(), "west".into()];
        let mut record = record(&backends, attempts);
        (record.status, record.ended, record.error) = (status, ended, error);
        Outcome::of(&record)
    }

    #[test]
    fn an_answer_that_broke_off_is_a_failure_whatever_its_status_was() {
        let served = notes(&[(0, "served")]);
        let cut = Outcome { failed: true, cut: true, ..Outcome::default() };
        assert_eq!(of(200, Ended::UpstreamCut, None, &served), cut);
        assert_eq!(of(200, Ended::Stopped, None, &served), cut);
        assert_eq!(of(200, Ended::Completed, None, &notes(&[(0, "cut_off")])), cut);
        assert_eq!(of(101, Ended::UpstreamCut, None, &served), cut);
        let well = Outcome { succeeded: true, ..Outcome::default() };
        assert_eq!(of(101, Ended::Stopped, None, &served), well);
        assert_eq!(of(200, Ended::CallerLeft, None, &served), well);
        // Its status says already that it failed.
        let failed = Outcome { failed: true, ..Outcome::default() };
        assert_eq!(of(503, Ended::UpstreamCut, None, &notes(&[(0, "passed_back")])), failed);
        assert_eq!(of(400, Ended::UpstreamCut, None, &notes(&[(0, "passed_back")])), Outcome::default());
    }

    #[test]
    fn limits_of_the_callers_own_are_no_failures() {
        let none = AttemptNotes::default();
        let limited = Outcome { limited: true, ..Outcome::default() };
        assert_eq!(of(429, Ended::AnsweredHere, Some("caller_limit"), &none), limited);
        assert_eq!(of(429, Ended::AnsweredHere, Some("above_caller_limit"), &none), limited);
        let failed = Outcome { failed: true, ..Outcome::default() };
        assert_eq!(of(429, Ended::AnsweredHere, Some("429"), &none), failed);
    }

    #[test]
    fn what_came_to_nothing_is_absorbed_only_when_the_caller_is_served() {
        let attempts = notes(&[(0, "throttled"), (1, "unreachable"), (0, "not_there"), (1, "served")]);
        assert_eq!(of(200, Ended::Completed, None, &attempts).absorbed, 2);
        assert_eq!(of(200, Ended::UpstreamCut, None, &attempts).absorbed, 0);
        let all = notes(&[(0, "throttled"), (1, "throttled")]);
        assert_eq!(of(429, Ended::AnsweredHere, Some("429"), &all).absorbed, 0);
    }
}
