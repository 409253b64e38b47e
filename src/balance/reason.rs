//! Why a lane or backend admits nothing: short fixed words for log, page and metrics.

use std::fmt;

/// Why a lane or backend admits nothing. Displays as the word that operators see.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// Throttled; the header `retry-after-ms` said how long.
    RetryAfterMs,
    /// Throttled; the header `Retry-After` said how long.
    RetryAfter,
    /// Throttled; an `x-ratelimit-reset-*` header said how long.
    RateLimitReset,
    /// Throttled; the error's message said how long.
    Message,
    /// Throttled; nothing said how long.
    Default,
    /// The answer's status.
    Status(u16),
    /// No answer at all.
    Failure(AttemptFailure),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RetryAfterMs => f.write_str("retry-after-ms"),
            Self::RetryAfter => f.write_str("retry-after"),
            Self::RateLimitReset => f.write_str("x-ratelimit-reset"),
            Self::Message => f.write_str("message"),
            Self::Default => f.write_str("default"),
            Self::Status(status) => write!(f, "{status}"),
            Self::Failure(failure) => write!(f, "{failure}"),
        }
    }
}

/// How an attempt ended without a usable answer. Displays as short words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AttemptFailure {
    /// The connection was refused: nobody listens there.
    Refused,
    /// The connection could not be made for another reason (unreachable, reset while connecting).
    Connect,
    /// The name could not be resolved.
    Dns,
    /// The TLS handshake failed.
    Tls,
    /// No connection within `connect_timeout`.
    ConnectTimeout,
    /// Reset or closed after sending, before the head (or the first event of a stream, or the whole of a small answer).
    Closed,
    /// What came is not HTTP, or not what it says it is.
    Malformed,
    /// No head within `first_byte_timeout`.
    FirstByteTimeout,
    /// No meaningful event of a stream within `first_event_timeout`.
    FirstEventTimeout,
}

impl AttemptFailure {
    /// Time ran out: 504 rather than 502, when it comes to that.
    #[must_use]
    pub fn is_timeout(self) -> bool {
        matches!(self, Self::ConnectTimeout | Self::FirstByteTimeout | Self::FirstEventTimeout)
    }
}

impl fmt::Display for AttemptFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connect refused",
            Self::Connect => "connect failed",
            Self::Dns => "dns failed",
            Self::Tls => "tls failed",
            Self::ConnectTimeout => "connect timeout",
            Self::Closed => "closed",
            Self::Malformed => "malformed",
            Self::FirstByteTimeout => "first byte timeout",
            Self::FirstEventTimeout => "first event timeout",
        })
    }
}
