//! The status document (`GET /status`) as this room reads it.
//!
//! The types are our own and tolerant: `top` may watch a daemon of another version, so a field that
//! is missing, null or of another type reads as its zero, and fields we do not know are skipped.
//! Every text is made harmless here, once, so that nothing after this file can send a control
//! character from outside to the terminal.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::words;

/// Backends that are shown; the rest of a longer document is left out. A bound against a foreign
/// document, far above any real pool.
pub const BACKENDS_SHOWN: usize = 1_000;
/// Lanes of one backend that are shown; the same kind of bound.
pub const LANES_SHOWN: usize = 64;

/// Callers of one document and failures of one lane that are shown; the same kind of bound.
pub const CALLERS_SHOWN: usize = 50;
/// Deployments of one document that are shown; the same kind of bound.
pub const DEPLOYMENTS_SHOWN: usize = 50;
/// See [`CALLERS_SHOWN`].
pub const FAILURES_SHOWN: usize = 5;

/// One status document.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of the daemon that wrote the document.
    #[serde(deserialize_with = "text")]
    pub version: String,
    /// Seconds since that daemon started.
    #[serde(deserialize_with = "seconds")]
    pub uptime_seconds: f64,
    /// Address that callers use.
    #[serde(deserialize_with = "text")]
    pub listen: String,
    /// The daemon is shutting down.
    #[serde(deserialize_with = "flag")]
    pub draining: bool,
    /// What callers asked and got.
    #[serde(deserialize_with = "or_default")]
    pub callers: Callers,
    /// Tokens that were read from answers.
    #[serde(deserialize_with = "or_default")]
    pub tokens: Tokens,
    /// Who uses it.
    #[serde(deserialize_with = "or_default")]
    pub by_caller: ByCaller,
    /// What is left of all quotas together, by the callers' names.
    #[serde(deserialize_with = "or_default")]
    pub deployments: Vec<Deployment>,
    /// Every backend, in the order of the settings.
    #[serde(deserialize_with = "or_default")]
    pub backends: Vec<Backend>,
}

/// What callers asked and got since the start.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Callers {
    /// Requests that came in.
    #[serde(deserialize_with = "count")]
    pub requests_total: u64,
    /// Answers 2xx and 3xx.
    #[serde(deserialize_with = "count")]
    pub succeeded_total: u64,
    /// Answers 5xx and 429.
    #[serde(deserialize_with = "count")]
    pub failed_total: u64,
    /// The 429s among the failed.
    #[serde(deserialize_with = "count")]
    pub throttled_total: u64,
    /// Answers among the failed that broke off.
    #[serde(deserialize_with = "count")]
    pub cut_total: u64,
    /// Requests refused for their caller's own limits; neither succeeded nor failed.
    #[serde(deserialize_with = "count")]
    pub limited_total: u64,
    /// Attempts that came to nothing of requests that were answered well in the end; an older daemon does not tell.
    #[serde(deserialize_with = "maybe_count")]
    pub absorbed_total: Option<u64>,
    /// Requests being answered now.
    #[serde(deserialize_with = "count")]
    pub in_flight: u64,
    /// Attempts that went to another backend.
    #[serde(deserialize_with = "count")]
    pub failovers_total: u64,
    /// Requests that no lane admitted, answered here.
    #[serde(deserialize_with = "count")]
    pub exhausted_total: u64,
}

/// Tokens since the start.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Tokens {
    /// Tokens of prompts, cached ones included.
    #[serde(deserialize_with = "count")]
    pub prompt_total: u64,
    /// Tokens of answers.
    #[serde(deserialize_with = "count")]
    pub completion_total: u64,
}

/// Who uses it, the heaviest of late first.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ByCaller {
    /// What "of late" is.
    #[serde(deserialize_with = "count")]
    pub lately_seconds: u64,
    /// One by one.
    #[serde(deserialize_with = "or_default")]
    pub callers: Vec<Caller>,
    /// Those that are not among them, together.
    #[serde(deserialize_with = "or_default")]
    pub rest: Caller,
    /// How many these are.
    #[serde(deserialize_with = "count")]
    pub others: u64,
}

/// What one caller used of late.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Caller {
    /// Its name, harmless to print.
    #[serde(deserialize_with = "text")]
    pub name: String,
    /// Requests that ended.
    #[serde(deserialize_with = "count")]
    pub requests: u64,
    /// Of them, answered 429 or 5xx, or broken off.
    #[serde(deserialize_with = "count")]
    pub failed: u64,
    /// Requests refused for its own limits.
    #[serde(deserialize_with = "count")]
    pub limited: u64,
    /// Tokens of prompts and answers.
    #[serde(deserialize_with = "count")]
    pub tokens: u64,
}

/// One deployment over all backends.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Deployment {
    /// The callers' name, harmless to print.
    #[serde(deserialize_with = "text")]
    pub name: String,
    /// Tokens a minute.
    #[serde(deserialize_with = "count")]
    pub limit_tokens: u64,
    /// Of them, left.
    #[serde(deserialize_with = "count")]
    pub remaining_tokens: u64,
}

/// One backend.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Backend {
    /// Its name in the settings, harmless to print.
    #[serde(deserialize_with = "text")]
    pub name: String,
    /// Its address.
    #[serde(deserialize_with = "text")]
    pub url: String,
    /// `ready` or `missing`.
    #[serde(deserialize_with = "text")]
    pub credential: String,
    /// Why there is none, or no new one.
    #[serde(deserialize_with = "text")]
    pub credential_cause: String,
    /// Priority group; the lower number is used first.
    #[serde(deserialize_with = "count")]
    pub priority: u64,
    /// Share among equals.
    #[serde(deserialize_with = "count")]
    pub weight: u64,
    /// An operator took it out of use.
    #[serde(deserialize_with = "flag")]
    pub drained: bool,
    /// Requests it is answering now.
    #[serde(deserialize_with = "count")]
    pub in_flight: u64,
    /// Whether it admits requests.
    #[serde(deserialize_with = "state")]
    pub state: State,
    /// Milliseconds until it admits again.
    #[serde(deserialize_with = "maybe_count")]
    pub remaining_ms: Option<u64>,
    /// Milliseconds of the whole cooldown or rest, where the daemon tells them.
    #[serde(deserialize_with = "maybe_count")]
    pub total_ms: Option<u64>,
    /// Why it does not admit, e.g. `retry-after-ms`.
    #[serde(deserialize_with = "text")]
    pub cause: String,
    /// Attempts sent there.
    #[serde(deserialize_with = "count")]
    pub requests_total: u64,
    /// Attempts it answered well.
    #[serde(deserialize_with = "count")]
    pub served_total: u64,
    /// 429s it answered.
    #[serde(deserialize_with = "count")]
    pub throttled_total: u64,
    /// Attempts that failed there.
    #[serde(deserialize_with = "count")]
    pub failed_total: u64,
    /// Tokens it served.
    #[serde(deserialize_with = "count")]
    pub tokens_total: u64,
    /// Its deployments.
    #[serde(deserialize_with = "or_default")]
    pub lanes: Vec<Lane>,
}

/// One deployment on one backend.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Lane {
    /// The deployment's name there; empty for the unnamed lane.
    #[serde(deserialize_with = "text")]
    pub deployment: String,
    /// Whether it admits requests.
    #[serde(deserialize_with = "state")]
    pub state: State,
    /// Milliseconds until it admits again.
    #[serde(deserialize_with = "maybe_count")]
    pub remaining_ms: Option<u64>,
    /// Milliseconds of the whole cooldown or rest, where the daemon tells them.
    #[serde(deserialize_with = "maybe_count")]
    pub total_ms: Option<u64>,
    /// Why it does not admit.
    #[serde(deserialize_with = "text")]
    pub cause: String,
    /// Requests it is answering now.
    #[serde(deserialize_with = "count")]
    pub in_flight: u64,
    /// Attempts it answered well.
    #[serde(deserialize_with = "count")]
    pub served_total: u64,
    /// 429s it answered.
    #[serde(deserialize_with = "count")]
    pub throttled_total: u64,
    /// Those whose request another attempt answered well; an older daemon does not tell.
    #[serde(deserialize_with = "maybe_count")]
    pub absorbed_total: Option<u64>,
    /// Attempts that failed there.
    #[serde(deserialize_with = "count")]
    pub failed_total: u64,
    /// Tokens it served.
    #[serde(deserialize_with = "count")]
    pub tokens_total: u64,
    /// Milliseconds to the beginning of a good answer, lately.
    #[serde(deserialize_with = "maybe_count")]
    pub first_byte_ms: Option<u64>,
    /// What is known of its quota.
    #[serde(deserialize_with = "or_default")]
    pub quota: Quota,
    /// How it failed, the newest first.
    #[serde(deserialize_with = "or_default")]
    pub failures: Vec<Failure>,
}

/// A lane's quota of tokens a minute.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Quota {
    /// The whole.
    #[serde(deserialize_with = "maybe_count")]
    pub limit_tokens: Option<u64>,
    /// What is left of it.
    #[serde(deserialize_with = "maybe_count")]
    pub remaining_tokens: Option<u64>,
    /// Milliseconds until all is there again.
    #[serde(deserialize_with = "maybe_count")]
    pub restart_ms: Option<u64>,
}

impl Quota {
    /// What is left and the whole, where both are known.
    #[must_use]
    pub fn known(&self) -> Option<(u64, u64)> {
        let limit = self.limit_tokens.filter(|limit| *limit > 0)?;
        Some((self.remaining_tokens?.min(limit), limit))
    }
}

/// One kind of failure of a lane.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Failure {
    /// What it was.
    #[serde(deserialize_with = "text")]
    pub cause: String,
    /// How often.
    #[serde(deserialize_with = "count")]
    pub times: u64,
    /// Milliseconds since the last time.
    #[serde(deserialize_with = "count")]
    pub ago_ms: u64,
}

/// Whether a backend or lane admits requests.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum State {
    /// It does.
    Admitting,
    /// Not until the cooldown ends: it was throttled.
    Cooling,
    /// Not until the rest ends: it failed.
    Resting,
    /// One request first, the others when that one went well.
    Probing,
    /// It rejects our credential.
    Refused,
    /// It does not have this deployment.
    Absent,
    /// An operator took it out of use.
    Drained,
    /// It has no credential; the document tells that beside its state.
    Unused,
    /// The document does not say, or says a word of another version.
    #[default]
    Unknown,
}

impl State {
    /// The word for it, as in the document, which has none for [`State::Unused`].
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Admitting => "admitting",
            Self::Cooling => "cooling",
            Self::Resting => "resting",
            Self::Probing => "probing",
            Self::Refused => "refused",
            Self::Absent => "absent",
            Self::Drained => "drained",
            Self::Unused => "not in use",
            Self::Unknown => "unknown",
        }
    }

    fn read(word: &str) -> Self {
        [
            Self::Admitting,
            Self::Cooling,
            Self::Resting,
            Self::Probing,
            Self::Refused,
            Self::Absent,
            Self::Drained,
        ]
        .into_iter()
        .find(|state| state.word() == word)
        .unwrap_or_default()
    }
}

impl Status {
    /// Reads a document.
    ///
    /// # Errors
    /// A short sentence, when the bytes are not a JSON object.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut status: Self =
            serde_json::from_slice(bytes).map_err(|_| "the answer is no status document")?;
        status.backends.truncate(BACKENDS_SHOWN);
        status.by_caller.callers.truncate(CALLERS_SHOWN);
        status.deployments.retain(|deployment| deployment.limit_tokens > 0);
        status.deployments.sort_by_key(|deployment| {
            deployment.remaining_tokens.saturating_mul(1_000) / deployment.limit_tokens
        });
        status.deployments.truncate(DEPLOYMENTS_SHOWN);
        for backend in &mut status.backends {
            backend.lanes.truncate(LANES_SHOWN);
            backend.lanes.iter_mut().for_each(|lane| lane.failures.truncate(FAILURES_SHOWN));
            if backend.drained {
                backend.state = State::Drained;
            } else if backend.credential == "missing" {
                backend.leave_unused();
            }
        }
        Ok(status)
    }

    /// Attempts that came to nothing and that no caller noticed.
    #[must_use]
    pub fn absorbed(&self) -> u64 {
        self.callers.absorbed_total.unwrap_or_else(|| {
            let came_to_nothing =
                |backend: &Backend| backend.throttled_total.saturating_add(backend.failed_total);
            self.sum(came_to_nothing).saturating_sub(self.callers.failed_total)
        })
    }

    /// 429s that backends answered and no caller noticed.
    #[must_use]
    pub fn absorbed_429s(&self) -> u64 {
        let told =
            self.backends.iter().flat_map(|backend| &backend.lanes).filter_map(|lane| lane.absorbed_total);
        told.reduce(u64::saturating_add).unwrap_or_else(|| {
            self.sum(|backend| backend.throttled_total).saturating_sub(self.callers.throttled_total)
        })
    }

    fn sum(&self, of: impl Fn(&Backend) -> u64) -> u64 {
        self.backends.iter().fold(0, |sum, backend| sum.saturating_add(of(backend)))
    }

    /// Tokens of prompts and answers.
    #[must_use]
    pub const fn tokens_served(&self) -> u64 {
        self.tokens.prompt_total.saturating_add(self.tokens.completion_total)
    }
}

impl Backend {
    /// Whatever it and its lanes would admit: without a credential nothing is sent there.
    fn leave_unused(&mut self) {
        (self.state, self.remaining_ms) = (State::Unused, None);
        self.cause = match self.credential_cause.as_str() {
            "" => "no credential".to_owned(),
            cause => format!("no credential: {cause}"),
        };
        for lane in &mut self.lanes {
            (lane.state, lane.remaining_ms) = (State::Unused, None);
        }
    }
}

impl Lane {
    /// 429s it answered and no caller noticed.
    #[must_use]
    pub fn absorbed(&self) -> u64 {
        self.absorbed_total.unwrap_or(self.throttled_total)
    }
}

pub(super) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

pub(super) fn maybe_count<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let value = Value::deserialize(from)?;
    Ok(value.as_u64().or_else(|| value.as_f64().map(words::whole)))
}

pub(super) fn count<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    Ok(maybe_count(from)?.unwrap_or_default())
}

fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Value::deserialize(from)?.as_f64().map_or(0.0, |seconds| seconds.max(0.0)))
}

pub(super) fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    Ok(Value::deserialize(from)?.as_bool().unwrap_or_default())
}

pub(super) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(Value::deserialize(from)?.as_str().map(words::harmless).unwrap_or_default())
}

fn state<'de, D: Deserializer<'de>>(from: D) -> Result<State, D::Error> {
    Ok(Value::deserialize(from)?.as_str().map(State::read).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_null_foreign_and_mistyped_fields_read_as_zero() {
        for document in [
            "{}",
            r#"{"callers":null,"tokens":null,"backends":null,"uptime_seconds":-3}"#,
            r#"{"later":[1],"version":7,"callers":{"requests_total":"many"},"uptime_seconds":"x"}"#,
        ] {
            let status = Status::parse(document.as_bytes()).unwrap();
            assert_eq!(status.callers.requests_total, 0);
            assert_eq!(status.version, "");
            assert!(status.uptime_seconds.abs() < f64::EPSILON);
        }
        let status =
            Status::parse(br#"{"backends":[{"name":"west","state":"dreaming","remaining_ms":4200.7}]}"#)
                .unwrap();
        assert_eq!(status.backends[0].state, State::Unknown);
        assert_eq!(status.backends[0].remaining_ms, Some(4200));
    }

    #[test]
    fn what_is_no_document_is_refused_in_one_sentence() {
        for bytes in [&b"<html>"[..], b"", b"[1]x", b"12"] {
            assert_eq!(Status::parse(bytes).unwrap_err(), "the answer is no status document");
        }
    }

    #[test]
    fn control_and_direction_characters_are_spelt_out() {
        let status =
            Status::parse(r#"{"backends":[{"name":"a\u001b[2J\u202eb\u0000","cause":"x\ny"}]}"#.as_bytes())
                .unwrap();
        assert_eq!(status.backends[0].name, r"a\u{1b}[2J\u{202e}b\u{0}");
        assert_eq!(status.backends[0].cause, r"x\ny");
    }

    #[test]
    fn a_document_of_any_length_is_cut() {
        let backends = vec![r#"{"name":"b"}"#; BACKENDS_SHOWN + 5].join(",");
        let status = Status::parse(format!(r#"{{"backends":[{backends}]}}"#).as_bytes()).unwrap();
        assert_eq!(status.backends.len(), BACKENDS_SHOWN);
    }

    #[test]
    fn what_was_absorbed_is_what_no_caller_noticed() {
        let of = |callers: &str, absorbed: &str| {
            let text = format!(
                r#"{{"callers":{{"failed_total":12,"throttled_total":10{callers}}},
                    "backends":[{{"throttled_total":40,"failed_total":9,"lanes":[{{"throttled_total":40{absorbed}}}]}}]}}"#
            );
            let status = Status::parse(text.as_bytes()).unwrap();
            (status.absorbed(), status.absorbed_429s(), status.backends[0].lanes[0].absorbed())
        };
        assert_eq!(of(r#","absorbed_total":31"#, r#","absorbed_total":28"#), (31, 28, 28));
        assert_eq!(of("", ""), (40 + 9 - 12, 40 - 10, 40), "an older daemon tells neither");
    }
}
