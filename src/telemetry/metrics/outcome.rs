//! What a request came to for its caller.

use crate::telemetry::access::{AccessRecord, Ended};

/// Codes of answers that say that a limit of the caller's own is reached: nothing is wrong but that.
const OWN_LIMITS: [&str; 2] = ["caller_limit", "above_caller_limit"];
/// Verdicts of attempts that came to nothing. Looking where an object or a deployment is belongs to no failure.
const FAILURES: [&str; 8] =
    ["throttled", "too_large", "tier_full", "failed", "unavailable", "unreachable", "timed_out", "refused"];
/// Verdicts after whose only attempt there is nothing to tell.
const PLAIN: [&str; 2] = ["served", "passed_back"];
/// The status of a WebSocket.
const SWITCHED: u16 = 101;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// Answered well, to the end where the caller wanted it.
    Succeeded,
    /// Throttled, or nothing came of it.
    Failed,
    /// Answered well, and then broken off: a failure too.
    Cut,
    /// Refused for the caller's own limits.
    Limited,
    /// The caller was itself to blame, or left.
    Other,
}

/// Kinds of trouble, by what an operator wants to know first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Trouble {
    /// Nothing came of it, or it was cut off.
    Failed,
    /// Its caller was told 429.
    Throttled,
    /// Refused for the caller's own limits.
    Limited,
    /// Served in the end, or its caller left or was itself to blame, but not at the first attempt.
    Lesser,
}

impl Trouble {
    /// How many there are.
    pub(super) const KINDS: usize = 4;
}

impl Outcome {
    pub(super) fn of(record: &AccessRecord<'_>) -> Self {
        let broke = match record.ended {
            Ended::UpstreamCut => true,
            // A socket is closed with a frame that says so.
            Ended::Stopped => record.status != SWITCHED,
            Ended::Completed | Ended::CallerLeft | Ended::AnsweredHere => false,
        };
        match record.status {
            SWITCHED | 200..400 => match record.attempts.verdict() {
                None | Some("served") if !broke => Self::Succeeded,
                // An error inside a 200, for which the request is to blame.
                Some("passed_back") => Self::Other,
                _ => Self::Cut,
            },
            _ if record.error.is_some_and(|error| OWN_LIMITS.contains(&error)) => Self::Limited,
            429 | 500.. => Self::Failed,
            // We stopped before there was an answer.
            0 if broke => Self::Failed,
            _ => Self::Other,
        }
    }

    /// The word that operators read.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cut => "cut",
            Self::Limited => "limited",
            Self::Other => "other",
        }
    }

    /// What the request met with; `None` where all went as it should, or its caller was itself to blame.
    pub(super) fn trouble(self, record: &AccessRecord<'_>) -> Option<Trouble> {
        match self {
            Self::Failed if record.status == 429 => Some(Trouble::Throttled),
            Self::Failed | Self::Cut => Some(Trouble::Failed),
            Self::Limited => Some(Trouble::Limited),
            Self::Succeeded | Self::Other => {
                let attempts = record.attempts;
                let met = attempts.count() > 1
                    || attempts.verdict().is_some_and(|verdict| !PLAIN.contains(&verdict))
                    || record.held.is_some()
                    || record.exhausted;
                met.then_some(Trouble::Lesser)
            }
        }
    }

    pub(super) fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Cut)
    }

    /// Attempts that came to nothing and of which the caller heard nothing.
    pub(super) fn absorbed(self, record: &AccessRecord<'_>) -> u64 {
        if self != Self::Succeeded || record.attempts.count() < 2 {
            return 0;
        }
        record.attempts.all().filter(|note| FAILURES.contains(&note.verdict)).count() as u64
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
        assert_eq!(of(200, Ended::UpstreamCut, None, &served), Outcome::Cut);
        assert_eq!(of(200, Ended::Stopped, None, &served), Outcome::Cut);
        assert_eq!(of(200, Ended::Completed, None, &notes(&[(0, "cut_off")])), Outcome::Cut);
        assert_eq!(of(200, Ended::CallerLeft, None, &notes(&[(0, "cut_off")])), Outcome::Cut);
        assert_eq!(
            of(200, Ended::Completed, None, &notes(&[(0, "throttled")])),
            Outcome::Cut,
            "said in the stream"
        );
        assert_eq!(of(200, Ended::Completed, None, &notes(&[(0, "passed_back")])), Outcome::Other);
        assert_eq!(of(0, Ended::Stopped, None, &notes(&[(0, "abandoned")])), Outcome::Failed);
        assert_eq!(of(101, Ended::UpstreamCut, None, &served), Outcome::Cut);
        assert_eq!(of(101, Ended::Stopped, None, &served), Outcome::Succeeded);
        assert_eq!(of(200, Ended::CallerLeft, None, &served), Outcome::Succeeded);
        assert_eq!(of(0, Ended::CallerLeft, None, &notes(&[(0, "abandoned")])), Outcome::Other);
        // Its status says already what it was.
        let back = notes(&[(0, "passed_back")]);
        assert_eq!(of(503, Ended::UpstreamCut, None, &back), Outcome::Failed);
        assert_eq!(of(400, Ended::UpstreamCut, None, &back), Outcome::Other);
        assert!(Outcome::Cut.is_failure() && Outcome::Failed.is_failure() && !Outcome::Limited.is_failure());
    }

    #[test]
    fn limits_of_the_callers_own_are_no_failures() {
        let none = AttemptNotes::default();
        assert_eq!(of(429, Ended::AnsweredHere, Some("caller_limit"), &none), Outcome::Limited);
        assert_eq!(of(429, Ended::AnsweredHere, Some("above_caller_limit"), &none), Outcome::Limited);
        assert_eq!(of(429, Ended::AnsweredHere, Some("429"), &none), Outcome::Failed);
    }

    #[test]
    fn what_came_to_nothing_is_absorbed_only_when_the_caller_is_served() {
        let backends = ["east".into(), "west".into()];
        let attempts = notes(&[(0, "throttled"), (1, "unreachable"), (0, "not_there"), (1, "served")]);
        let record = record(&backends, &attempts);
        assert_eq!(Outcome::Succeeded.absorbed(&record), 2);
        assert_eq!(Outcome::Cut.absorbed(&record), 0);
        assert_eq!(Outcome::Failed.absorbed(&record), 0);
    }

    #[test]
    fn the_words_that_are_looked_for_are_those_that_are_noted() {
        let verdicts = include_str!("../../balance/verdict.rs");
        let codes = include_str!("../../proxy/error.rs");
        let noted = |code: &str, word: &str| code.contains(&format!("=> \"{word}\","));
        assert!(FAILURES.iter().chain(&PLAIN).all(|word| noted(verdicts, word)));
        assert!(OWN_LIMITS.iter().all(|word| noted(codes, word)));
    }
}
