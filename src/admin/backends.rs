//! The pool's snapshot, and who uses it, as the status document tells them.

use std::borrow::Cow;
use std::time::Duration;

use crate::balance::{BackendSnapshot, LaneSnapshot, MishapSnapshot, Reason};

use crate::telemetry::callers::{CallerUse, LATELY, Told};

use super::status::{BackendStatus, ByCaller, CallerStatus, FailureStatus, LaneStatus, QuotaStatus};

impl From<&BackendSnapshot> for BackendStatus {
    fn from(backend: &BackendSnapshot) -> Self {
        Self {
            name: backend.name.to_string(),
            url: backend.url.to_string(),
            priority: backend.priority,
            weight: backend.weight,
            credential: if backend.credential_ready { "ready" } else { "missing" },
            credential_cause: None,
            credential_valid_seconds: None,
            credential_next_try_seconds: None,
            drained: backend.drained,
            in_flight: backend.tally.in_flight,
            state: backend.state.word(),
            remaining_ms: backend.remaining.map(ms),
            cause: backend.cause.map(text),
            requests_total: backend.tally.requests,
            served_total: backend.tally.served,
            throttled_total: backend.tally.throttled,
            failed_total: backend.tally.failed,
            tokens_total: backend.tally.tokens,
            lanes: backend.lanes.iter().filter(|lane| !lane.misspelt).map(LaneStatus::from).collect(),
        }
    }
}

impl From<&LaneSnapshot> for LaneStatus {
    fn from(lane: &LaneSnapshot) -> Self {
        Self {
            deployment: lane.deployment.to_string(),
            state: lane.state.word(),
            remaining_ms: lane.remaining.map(ms),
            cause: lane.cause.map(text),
            in_flight: lane.tally.in_flight,
            requests_total: lane.tally.requests,
            served_total: lane.tally.served,
            throttled_total: lane.tally.throttled,
            absorbed_total: lane.tally.absorbed,
            failed_total: lane.tally.failed,
            tokens_total: lane.tally.tokens,
            quota: QuotaStatus {
                limit_tokens: lane.quota.limit_tokens,
                remaining_tokens: lane.quota.remaining_tokens,
                restart_ms: lane.restart.map(ms),
            },
            first_byte_ms: lane.first_byte.map(ms),
            failures: lane.mishaps.iter().map(FailureStatus::from).collect(),
        }
    }
}

impl From<&MishapSnapshot> for FailureStatus {
    fn from(met: &MishapSnapshot) -> Self {
        Self { cause: Cow::Owned(met.mishap.to_string()), times: met.times, ago_ms: ms(met.ago) }
    }
}

impl From<CallerUse> for CallerStatus {
    fn from(caller: CallerUse) -> Self {
        let CallerUse { name, lately, total } = caller;
        Self {
            name,
            requests: lately.requests,
            failed: lately.failed,
            limited: lately.limited,
            tokens: lately.tokens,
            requests_total: total.requests,
            failed_total: total.failed,
            tokens_total: total.tokens,
        }
    }
}

impl From<Told> for ByCaller {
    fn from(told: Told) -> Self {
        Self {
            lately_seconds: LATELY.as_secs(),
            callers: told.callers.into_iter().map(CallerStatus::from).collect(),
            others: told.others,
            rest: (told.others > 0).then(|| CallerStatus::from(told.rest)),
        }
    }
}

/// Rounded up: nobody is told that a lane admits sooner than it does.
pub(super) fn ms(remaining: Duration) -> u64 {
    u64::try_from(remaining.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn text(reason: Reason) -> Cow<'static, str> {
    Cow::Owned(reason.to_string())
}
