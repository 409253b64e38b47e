//! The status document, `GET /status`: what the live view and scripts read.
//!
//! Fields are added, never renamed; readers tolerate missing and additional ones.

use std::borrow::Cow;

use serde::Serialize;

use crate::balance::{DeploymentSnapshot, PinCounts};
use crate::telemetry::metrics::Totals;

/// The whole document.
#[derive(Clone, Debug, Serialize)]
pub struct StatusDocument {
    /// Of Sidestep.
    pub version: &'static str,
    /// Wall time, milliseconds since 1970.
    pub now_ms: u64,
    /// Since the start.
    pub uptime_seconds: f64,
    /// The callers' listener, as a URL.
    pub listen: String,
    /// Of the callers' listener, when it speaks TLS.
    pub certificate: Option<CertificateStatus>,
    /// The admin listener, as a URL.
    pub admin: Option<String>,
    /// A stop was asked for.
    pub draining: bool,
    /// What callers saw.
    pub callers: CallersStatus,
    /// Tokens of all callers.
    pub tokens: TokensStatus,
    /// The same by caller.
    pub by_caller: ByCaller,
    /// Of responses, files and the like, which live on one backend each.
    pub objects: ObjectsStatus,
    /// In the order of the settings.
    pub backends: Vec<BackendStatus>,
    /// By the callers' names, as far as their quotas have been told.
    pub deployments: Vec<DeploymentStatus>,
}

/// One deployment, over all backends in use.
#[derive(Clone, Debug, Serialize)]
pub struct DeploymentStatus {
    /// The callers' name.
    pub name: String,
    /// Tokens a minute, of those lanes that have told.
    pub limit_tokens: u64,
    /// Of them, left, as far as it can be reckoned.
    pub remaining_tokens: u64,
}

impl From<&DeploymentSnapshot> for DeploymentStatus {
    fn from(deployment: &DeploymentSnapshot) -> Self {
        Self {
            name: deployment.name.to_string(),
            limit_tokens: deployment.limit_tokens,
            remaining_tokens: deployment.remaining_tokens,
        }
    }
}

/// Who uses it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ByCaller {
    /// So far back `requests`, `failed` and `tokens` of each go.
    pub lately_seconds: u64,
    /// The heaviest of late first; at most fifty.
    pub callers: Vec<CallerStatus>,
    /// How many more there are.
    pub others: usize,
    /// Those together, without a name.
    pub rest: Option<CallerStatus>,
}

/// One caller.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CallerStatus {
    /// Its name; `anonymous` without a key, `other` for those beyond the metrics' bound together.
    pub name: String,
    /// Requests that ended, of late.
    pub requests: u64,
    /// Of them, answered 429 or 5xx, or broken off.
    pub failed: u64,
    /// Of them, refused for its own limits.
    pub limited: u64,
    /// Tokens of prompts and answers, of late.
    pub tokens: u64,
    /// Requests since the start.
    pub requests_total: u64,
    /// Of them, answered 429 or 5xx, or broken off.
    pub failed_total: u64,
    /// Tokens since the start.
    pub tokens_total: u64,
}

/// What is known of objects that only one backend has.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ObjectsStatus {
    /// Ids of which it is remembered where they live.
    pub ids: usize,
    /// Ids remembered as being nowhere.
    pub absent: usize,
    /// Requests that named only unknown ids, so that backends were asked in turn.
    pub lookups_total: u64,
}

impl From<PinCounts> for ObjectsStatus {
    fn from(counts: PinCounts) -> Self {
        Self { ids: counts.ids, absent: counts.absent, lookups_total: counts.lookups }
    }
}

/// The callers' listener's certificate.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateStatus {
    /// Its common name.
    pub subject: Option<String>,
    /// When it ends, milliseconds since 1970.
    pub ends_ms: Option<u64>,
    /// In less than 14 days, or ended already.
    pub ends_soon: bool,
    /// Why what is on disk now is not used.
    pub problem: Option<String>,
}

/// What callers saw since the start.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct CallersStatus {
    /// Requests that ended.
    pub requests_total: u64,
    /// Of them, answered 2xx or 3xx, to the end where the caller wanted it.
    pub succeeded_total: u64,
    /// Of them, answered 429 or 5xx, or broken off; limits of the caller's own apart.
    pub failed_total: u64,
    /// Of `failed_total`, answered 429.
    pub throttled_total: u64,
    /// Of `failed_total`, good answers that broke off in their middle.
    pub cut_total: u64,
    /// Of `requests_total`, refused for the caller's own limits.
    pub limited_total: u64,
    /// Connections beyond `limits.connections`; their requests are in none of these figures.
    pub connections_refused_total: u64,
    /// Attempts that came to nothing, of requests that were answered well in the end.
    pub absorbed_total: u64,
    /// Requests that have begun and not ended.
    pub in_flight: u64,
    /// Attempts that went to another backend than the one before.
    pub failovers_total: u64,
    /// Requests that no lane admitted.
    pub exhausted_total: u64,
    /// Requests that wait in line for room now.
    pub held: usize,
    /// Requests that waited in line for room.
    pub held_total: u64,
    /// Requests that met trouble; the last of them are in `GET /requests`.
    pub troubled_total: u64,
}

/// Tokens since the start.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct TokensStatus {
    /// Of prompts, cached ones included.
    pub prompt_total: u64,
    /// Of prompts, those that were cached.
    pub cached_total: u64,
    /// Of answers.
    pub completion_total: u64,
}

impl From<&Totals> for CallersStatus {
    fn from(totals: &Totals) -> Self {
        Self {
            requests_total: totals.requests,
            succeeded_total: totals.succeeded,
            failed_total: totals.failed,
            throttled_total: totals.throttled,
            cut_total: totals.cut,
            limited_total: totals.limited,
            connections_refused_total: 0,
            absorbed_total: totals.absorbed,
            in_flight: totals.in_flight,
            failovers_total: totals.failovers,
            exhausted_total: totals.exhausted,
            held: 0,
            held_total: totals.held,
            troubled_total: totals.troubled,
        }
    }
}

impl From<&Totals> for TokensStatus {
    fn from(totals: &Totals) -> Self {
        Self {
            prompt_total: totals.prompt_tokens,
            cached_total: totals.cached_tokens,
            completion_total: totals.completion_tokens,
        }
    }
}

/// One backend.
#[derive(Clone, Debug, Serialize)]
pub struct BackendStatus {
    /// Its name.
    pub name: String,
    /// Its address.
    pub url: String,
    /// Lower is used first.
    pub priority: u32,
    /// Share among equals.
    pub weight: u32,
    /// `ready` or `missing`.
    pub credential: &'static str,
    /// Why no new token comes, where it is called with tokens.
    pub credential_cause: Option<String>,
    /// How long the present token is valid.
    pub credential_valid_seconds: Option<u64>,
    /// When the next one is asked for.
    pub credential_next_try_seconds: Option<u64>,
    /// An operator has drained it.
    pub drained: bool,
    /// Attempts under way.
    pub in_flight: u64,
    /// A word of `metrics::STATES`.
    pub state: &'static str,
    /// Until it admits again.
    pub remaining_ms: Option<u64>,
    /// Why it does not admit: a short fixed text.
    pub cause: Option<Cow<'static, str>>,
    /// Attempts.
    pub requests_total: u64,
    /// Of them, answered well.
    pub served_total: u64,
    /// Of them, answered 429.
    pub throttled_total: u64,
    /// Of them, failed.
    pub failed_total: u64,
    /// Tokens used.
    pub tokens_total: u64,
    /// Its lanes.
    pub lanes: Vec<LaneStatus>,
}

/// One lane.
#[derive(Clone, Debug, Serialize)]
pub struct LaneStatus {
    /// The deployment by its name there; empty for the unnamed lane.
    pub deployment: String,
    /// A word of `metrics::STATES`.
    pub state: &'static str,
    /// Until it admits again.
    pub remaining_ms: Option<u64>,
    /// Why it does not admit: a short fixed text.
    pub cause: Option<Cow<'static, str>>,
    /// Attempts under way.
    pub in_flight: u64,
    /// Attempts.
    pub requests_total: u64,
    /// Of them, answered well.
    pub served_total: u64,
    /// Of them, answered 429.
    pub throttled_total: u64,
    /// Of those, whose request another attempt answered well.
    pub absorbed_total: u64,
    /// Of them, failed.
    pub failed_total: u64,
    /// Tokens used.
    pub tokens_total: u64,
    /// What we know of its quota.
    pub quota: QuotaStatus,
    /// From a request to the beginning of its good answer, on average lately.
    pub first_byte_ms: Option<u64>,
    /// Its last failures by kind, the newest first; at most five.
    pub failures: Vec<FailureStatus>,
}

/// One kind of failure of a lane.
#[derive(Clone, Debug, Serialize)]
pub struct FailureStatus {
    /// A short fixed text.
    pub cause: Cow<'static, str>,
    /// How often, as long as it is remembered.
    pub times: u64,
    /// Since the last time.
    pub ago_ms: u64,
}

/// A lane's quota, as far as its answers have told.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct QuotaStatus {
    /// Tokens per minute.
    pub limit_tokens: Option<u64>,
    /// Of them, left, as far as it can be reckoned.
    pub remaining_tokens: Option<u64>,
    /// Until its minute begins again, where that is known.
    pub restart_ms: Option<u64>,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn document() -> StatusDocument {
        let lane = LaneStatus {
            deployment: "gpt-4o".into(),
            state: "cooling",
            remaining_ms: Some(1_500),
            cause: Some("retry-after-ms".into()),
            in_flight: 0,
            requests_total: 0,
            served_total: 0,
            throttled_total: 0,
            absorbed_total: 0,
            failed_total: 0,
            tokens_total: 0,
            quota: QuotaStatus::default(),
            first_byte_ms: Some(180),
            failures: vec![FailureStatus { cause: "503".into(), times: 2, ago_ms: 4_000 }],
        };
        let backend = BackendStatus {
            name: "west".into(),
            url: "https://west.openai.azure.com".into(),
            priority: 1,
            weight: 1,
            credential: "ready",
            credential_cause: None,
            credential_valid_seconds: Some(1_800),
            credential_next_try_seconds: None,
            drained: false,
            in_flight: 0,
            state: "admitting",
            remaining_ms: None,
            cause: None,
            requests_total: 2,
            served_total: 0,
            throttled_total: 0,
            failed_total: 0,
            tokens_total: 0,
            lanes: vec![lane],
        };
        StatusDocument {
            version: "0.1.0",
            now_ms: 1_790_000_000_000,
            uptime_seconds: 12.3,
            listen: "http://127.0.0.1:8080".into(),
            certificate: Some(CertificateStatus {
                subject: Some("gate.example".into()),
                ends_ms: Some(1_800_000_000_000),
                ends_soon: false,
                problem: None,
            }),
            admin: Some("http://127.0.0.1:9080".into()),
            draining: false,
            callers: CallersStatus::default(),
            tokens: TokensStatus::default(),
            by_caller: ByCaller {
                lately_seconds: 300,
                callers: vec![CallerStatus { name: "app".into(), requests: 3, ..CallerStatus::default() }],
                ..ByCaller::default()
            },
            objects: ObjectsStatus::default(),
            backends: vec![backend],
            deployments: vec![DeploymentStatus {
                name: "gpt-4o".into(),
                limit_tokens: 60_000,
                remaining_tokens: 9,
            }],
        }
    }

    #[test]
    fn the_document_has_exactly_the_agreed_fields() {
        let expected = r#"{"version":"0.1.0","now_ms":1790000000000,"uptime_seconds":12.3,
            "listen":"http://127.0.0.1:8080",
            "certificate":{"subject":"gate.example","ends_ms":1800000000000,"ends_soon":false,"problem":null},
            "admin":"http://127.0.0.1:9080","draining":false,
            "callers":{"requests_total":0,"succeeded_total":0,"failed_total":0,"throttled_total":0,"cut_total":0,
                "limited_total":0,"connections_refused_total":0,"absorbed_total":0,"in_flight":0,"failovers_total":0,"exhausted_total":0,"held":0,"held_total":0,"troubled_total":0},
            "tokens":{"prompt_total":0,"cached_total":0,"completion_total":0},
            "by_caller":{"lately_seconds":300,"callers":[{"name":"app","requests":3,"failed":0,"limited":0,"tokens":0,
                "requests_total":0,"failed_total":0,"tokens_total":0}],"others":0,"rest":null},
            "objects":{"ids":0,"absent":0,"lookups_total":0},
            "backends":[{"name":"west","url":"https://west.openai.azure.com","priority":1,"weight":1,
                "credential":"ready","credential_cause":null,"credential_valid_seconds":1800,
                "credential_next_try_seconds":null,"drained":false,"in_flight":0,"state":"admitting",
                "remaining_ms":null,"cause":null,"requests_total":2,"served_total":0,
                "throttled_total":0,"failed_total":0,"tokens_total":0,
                "lanes":[{"deployment":"gpt-4o","state":"cooling","remaining_ms":1500,
                    "cause":"retry-after-ms","in_flight":0,"requests_total":0,"served_total":0,
                    "throttled_total":0,"absorbed_total":0,"failed_total":0,"tokens_total":0,
                    "quota":{"limit_tokens":null,"remaining_tokens":null,"restart_ms":null},"first_byte_ms":180,
                    "failures":[{"cause":"503","times":2,"ago_ms":4000}]}]}],
            "deployments":[{"name":"gpt-4o","limit_tokens":60000,"remaining_tokens":9}]}"#;
        let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
        assert_eq!(serde_json::to_value(document()).unwrap(), expected);
    }
}
