//! What can go wrong with one request, on demand.

use std::time::Duration;

use serde::Deserialize;

/// A fault and the requests it befalls. As JSON: `{"fault":{"kind":"status","status":503},"times":2}`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// What happens.
    pub fault: Fault,
    /// To so many requests; absent: until cleared.
    #[serde(default)]
    pub times: Option<u32>,
    /// Only to requests for this deployment; absent: to all.
    #[serde(default)]
    pub deployment: Option<String>,
}

/// One kind of misfortune. Those of streams befall only requests for a stream.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// An answer of that status, with Azure's body for it unless one is given.
    Status {
        /// 400 to 599.
        status: u16,
        /// JSON or not, sent as it is.
        #[serde(default)]
        body: Option<String>,
        /// Added to the answer, as pairs of name and value.
        #[serde(default)]
        headers: Vec<(String, String)>,
    },
    /// A 429 of the token limiter with exactly these values; an absent one is not sent.
    Throttle {
        /// `retry-after`: seconds, a fraction, a date, nonsense. Also stands in the message if it is a number.
        #[serde(default)]
        retry_after: Option<String>,
        /// `retry-after-ms`.
        #[serde(default)]
        retry_after_ms: Option<String>,
    },
    /// Takes the request and never answers.
    HangBeforeHead,
    /// 200 `text/event-stream`, then nothing.
    HangBeforeFirstEvent,
    /// Waits, then goes on as if nothing was.
    SlowHead {
        /// How long, in milliseconds.
        delay_ms: u64,
    },
    /// Waits before each event.
    SlowEvents {
        /// How long, in milliseconds.
        gap_ms: u64,
    },
    /// Closes the connection instead of answering.
    CloseBeforeHead,
    /// Resets the connection (RST) instead of answering.
    Reset,
    /// Sends something that is not HTTP.
    Garbage,
    /// Breaks a stream off, without a proper end, after so many events.
    CutAfterEvents {
        /// Events sent before.
        events: usize,
        /// By RST instead of FIN.
        #[serde(default)]
        reset: bool,
    },
    /// Breaks a stream off in the middle of an event, after so many whole ones.
    CutInsideEvent {
        /// Whole events sent before.
        events: usize,
    },
    /// Ends a stream properly, but too soon: no `[DONE]`, no `response.completed`.
    EndAfterEvents {
        /// Events sent before.
        events: usize,
    },
    /// Breaks a JSON answer off in its middle.
    CutMidJson,
    /// A rate limit inside a 200 stream, in the form of that API. For other requests a 429.
    RateLimitInStream {
        /// Events sent before (1: as seen on Azure, after `response.created`).
        #[serde(default = "one")]
        events: usize,
    },
    /// A server error inside a 200 stream.
    ErrorInStream {
        /// Events sent before.
        #[serde(default = "one")]
        events: usize,
    },
    /// Nothing listens there any more and open connections are closed, until cleared. `times` does not apply.
    Refuse,
}

fn one() -> usize {
    1
}

impl Fault {
    /// A 429 that tells to come back after that many whole seconds, by both headers.
    pub fn throttle_seconds(seconds: u64) -> Self {
        Self::Throttle {
            retry_after: Some(seconds.to_string()),
            retry_after_ms: Some(seconds.saturating_mul(1_000).to_string()),
        }
    }

    /// An answer of that status with Azure's body.
    pub fn status(status: u16) -> Self {
        Self::Status { status, body: None, headers: Vec::new() }
    }

    fn befalls(&self, streamed: bool) -> bool {
        match self {
            Self::HangBeforeFirstEvent
            | Self::SlowEvents { .. }
            | Self::CutAfterEvents { .. }
            | Self::CutInsideEvent { .. }
            | Self::EndAfterEvents { .. }
            | Self::ErrorInStream { .. } => streamed,
            Self::CutMidJson => !streamed,
            Self::Refuse => false,
            Self::Status { .. }
            | Self::Throttle { .. }
            | Self::HangBeforeHead
            | Self::SlowHead { .. }
            | Self::CloseBeforeHead
            | Self::Reset
            | Self::Garbage
            | Self::RateLimitInStream { .. } => true,
        }
    }
}

impl FaultRule {
    /// Until cleared, for every deployment.
    pub fn standing(fault: Fault) -> Self {
        Self { fault, times: None, deployment: None }
    }

    /// For the next requests only.
    pub fn times(fault: Fault, times: u32) -> Self {
        Self { fault, times: Some(times), deployment: None }
    }
}

/// Takes the first fault that befalls this request; its count goes down by one.
pub(super) fn take(rules: &mut Vec<FaultRule>, deployment: Option<&str>, streamed: bool) -> Option<Fault> {
    let position = rules.iter().position(|rule| {
        let concerned = rule.deployment.is_none() || rule.deployment.as_deref() == deployment;
        concerned && rule.times != Some(0) && rule.fault.befalls(streamed)
    })?;
    let rule = &mut rules[position];
    match &mut rule.times {
        None => Some(rule.fault.clone()),
        Some(1) => Some(rules.remove(position).fault),
        Some(times) => {
            *times -= 1;
            Some(rule.fault.clone())
        }
    }
}

/// How a connection ends when it does not end well.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Severed {
    /// FIN.
    Close,
    /// RST.
    Reset,
    /// A few bytes that are not HTTP, then FIN.
    Garbage,
    /// Not severed: after 101 all bytes come back as they were sent.
    Echo,
}

impl std::fmt::Display for Severed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("severed on demand")
    }
}

impl std::error::Error for Severed {}

/// What a fault leaves of a stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StreamFate {
    /// Added before each event.
    pub(super) gap: Duration,
    /// The head goes out, no event ever does.
    pub(super) hangs: bool,
    /// How the stream ends after its last event; absent: properly.
    pub(super) severed: Option<Severed>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_befalls_as_many_requests_as_it_says() {
        let mut rules = vec![FaultRule::times(Fault::status(500), 2)];
        assert!(take(&mut rules, None, false).is_some());
        assert!(take(&mut rules, None, false).is_some());
        assert!(take(&mut rules, None, false).is_none());
    }

    #[test]
    fn faults_of_streams_and_of_other_deployments_are_left_for_those() {
        let cut = Fault::CutAfterEvents { events: 2, reset: false };
        let mut rules =
            vec![FaultRule { fault: cut.clone(), times: Some(1), deployment: Some("gpt-4o".to_owned()) }];
        assert!(take(&mut rules, Some("gpt-4o"), false).is_none());
        assert!(take(&mut rules, Some("other"), true).is_none());
        assert_eq!(take(&mut rules, Some("gpt-4o"), true), Some(cut));
    }

    #[test]
    fn rules_are_read_from_json() {
        let rule: FaultRule =
            serde_json::from_str(r#"{"fault":{"kind":"throttle","retry_after":"86400"},"times":3}"#).unwrap();
        assert_eq!(rule.times, Some(3));
        assert_eq!(
            rule.fault,
            Fault::Throttle { retry_after: Some("86400".to_owned()), retry_after_ms: None }
        );
        assert!(serde_json::from_str::<FaultRule>(r#"{"fault":{"kind":"status","statsu":1}}"#).is_err());
    }
}
