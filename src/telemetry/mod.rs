//! What operators see: the log, one access record per request, metrics, health.
//!
//! Owns: the only writer of standard output ([`sink`]), the lines on it ([`log`], [`access`]), the counters
//! ([`metrics`]) and who they were of late ([`callers`]), spans ([`traces`]), request ids, the answer to "are you well" ([`health`]) and the only reader of wall time
//! ([`clock`]). It does not decide anything and holds no content: no prompt, completion, tool text or key can
//! reach it, because no type in here has a place for one.
//!
//! Why so: a log line must never slow a request down. Records are formatted on the worker into a reused buffer
//! and copied into one bounded buffer; a thread of its own writes that out. A reader who stalls costs log lines,
//! which are counted, and never a request.

pub mod access;
pub mod callers;
pub mod change;
pub mod clock;
pub mod health;
pub mod log;
pub mod metrics;
mod notes;
pub mod request_id;
pub mod sink;
pub mod stir;
pub mod text;
pub mod traces;

/// `[log]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogSettings {
    /// Filter directives, e.g. `info` or `warn,sidestep::proxy=trace`; see [`log::Directives`].
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
