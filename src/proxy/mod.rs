//! One request from top to bottom.

use std::time::Duration;

/// How requests are treated; `[retry]`, parts of `[server]`, `[upstream]` and `[limits]`.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// From the request's head to the commit.
    pub deadline: Duration,
    /// From sending to the answer's head, off by default.
    pub first_byte_timeout: Option<Duration>,
    /// From sending to a stream's first event.
    pub first_event_timeout: Option<Duration>,
    /// Between two reads of a committed answer.
    pub stream_idle_timeout: Option<Duration>,
    /// `x-sidestep-backend` and `x-sidestep-attempts` are added.
    pub explain_headers: bool,
    /// Removed from the front of every path, without trailing slash; usually empty.
    pub path_prefix: String,
    /// Further request headers that travel, lower case.
    pub forward_headers: Vec<http::HeaderName>,
    /// Bodies up to here are kept for failover, in bytes.
    pub request_replay: usize,
    /// Bodies beyond are refused, in bytes.
    pub request_hard_limit: u64,
    /// All buffered bodies together, in bytes.
    pub buffered: usize,
}
