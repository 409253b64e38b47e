//! What one attempt's answer means for the request and for the lane: the table of the contract, as code.
//!
//! Pure reading. What needs a lane's state (is this absurd time a size mark? is this the third failure?) is decided
//! in [`super::Pool::report`]. Before judging, the edge has done what needs no other lane: a token was refreshed
//! after a 401 and the attempt repeated, a dead pooled connection was replaced by a fresh one.

use std::sync::LazyLock;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use memchr::memmem::{self, Finder};

use super::attempts::{Attempts, Kept};
use super::cooldown::{self, Told};
use super::lane::Quota;
use super::pool::Ask;
use super::reason::{AttemptFailure, Reason};

/// An upstream answer, or a stream's error event with the status of its code.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Status.
    pub status: StatusCode,
    /// Headers of the answer.
    pub headers: &'a HeaderMap,
    /// The error's body; may be empty or cut.
    pub body: &'a [u8],
    /// What the request asked for, where that has a capacity of its own.
    pub service_tier: Option<Tier>,
    /// The backend saw the caller's own credential (`identity = "caller"`), so 401 and 403 are the caller's business.
    pub callers_credential: bool,
    /// It says that what the request names is not there, and nobody knows where it is: it is looked for.
    pub looked_for: bool,
}

/// Service tiers whose 429s say nothing of the deployment's normal traffic.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tier {
    /// Cheaper, when there is room.
    Flex,
    /// Faster, when there is room.
    Priority,
}

/// What happens to the request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// This answer is the caller's; without an answer, an error of our own (502, or 504 where time ran out).
    PassBack,
    /// Pick again; when that finds nothing, see [`super::Exhausted`].
    NextLane,
}

/// Both halves of a row of the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Judgement {
    /// For the request.
    pub next: Next,
    /// For the lane: to be reported with the pick.
    pub verdict: Verdict,
    /// Keep this answer, in place of one kept before: [`super::Cause::Answered`] passes it back.
    pub keep: bool,
}

/// What one attempt means for its lane.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// A good answer, to its end.
    Served {
        /// Read or estimated.
        tokens: u64,
    },
    /// A good answer that broke off upstream after the commit.
    CutOff {
        /// Until then, read or estimated.
        tokens: u64,
    },
    /// The caller's own error; the lane is as it was.
    PassedBack,
    /// 429: the lane cools, or for absurd times gets a size mark.
    Throttled {
        /// As read.
        told: Told,
        /// What the 429 told of the quota.
        quota: Quota,
    },
    /// 429 for this size, in peak load: a size mark.
    TooLarge {
        /// As read.
        told: Told,
    },
    /// 429 of a service tier: nothing.
    TierFull,
    /// 5xx, or a stream without its first event: a failure of the lane.
    Failed {
        /// For the log.
        reason: Reason,
        /// What the answer asked for.
        told: Option<Duration>,
    },
    /// 503 with Retry-After: the lane rests at once.
    Unavailable {
        /// How long.
        told: Duration,
    },
    /// No answer: a failure of the backend; a refused connection rests it at once.
    Unreachable {
        /// How.
        failure: AttemptFailure,
    },
    /// 408, or a time-out that a slow request may well explain: nothing.
    TimedOut,
    /// 401 or 403: the backend refuses the operation family.
    Refused {
        /// Which.
        status: u16,
    },
    /// 404 `DeploymentNotFound`: the lane is absent.
    Absent,
    /// 400 `OperationNotSupported`: the operation is absent from the lane.
    Unsupported,
    /// What the request refers to lives on another backend: nothing.
    Elsewhere,
    /// The object that the request names is not there, and may be elsewhere: nothing.
    NotThere,
}

impl Verdict {
    /// Whatever it says, an answer shows that the backend can be reached.
    pub(super) fn is_answer(&self) -> bool {
        !matches!(
            self,
            Self::Unreachable { .. } | Self::TimedOut | Self::Failed { reason: Reason::Failure(_), .. }
        )
    }

    /// Azure served nothing that it counts against the minute. What it looked at may count: a content filter's refusal
    /// does, and of the 429s the lane's own reading tells.
    pub(super) fn is_free(&self) -> bool {
        match self {
            Self::TierFull
            | Self::Failed { .. }
            | Self::Unavailable { .. }
            | Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::Absent
            | Self::Unsupported
            | Self::Elsewhere
            | Self::NotThere => true,
            Self::Served { .. }
            | Self::CutOff { .. }
            | Self::PassedBack
            | Self::Throttled { .. }
            | Self::TooLarge { .. }
            | Self::TimedOut => false,
        }
    }
}

impl Verdict {
    /// One word, for metrics and the access log.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Served { .. } => "served",
            Self::CutOff { .. } => "cut_off",
            Self::PassedBack => "passed_back",
            Self::Throttled { .. } => "throttled",
            Self::TooLarge { .. } => "too_large",
            Self::TierFull => "tier_full",
            Self::Failed { .. } => "failed",
            Self::Unavailable { .. } => "unavailable",
            Self::Unreachable { .. } => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Refused { .. } => "refused",
            Self::Absent => "absent",
            Self::Unsupported => "unsupported",
            Self::Elsewhere => "elsewhere",
            Self::NotThere => "not_there",
        }
    }
}

/// Judges an answer. Good ones too, for completeness: the edge reports `Served` itself, with the tokens.
pub fn judge(answer: &Answer<'_>, ask: &Ask<'_>, attempts: &mut Attempts) -> Judgement {
    use Next::{NextLane, PassBack};
    let where_harmless = if ask.harmless { NextLane } else { PassBack };
    let status = answer.status.as_u16();
    let body = answer.body;
    let (next, verdict) = match status {
        200..=399 => (PassBack, Verdict::Served { tokens: 0 }),

        429 if is_peak_load(body) => (NextLane, Verdict::TooLarge { told: told(answer) }),
        429 if answer.service_tier.is_some() => (NextLane, Verdict::TierFull),
        429 => (NextLane, Verdict::Throttled { told: told(answer), quota: Quota::read(answer.headers) }),

        500..=599 => (where_harmless, failed(answer)),

        // Once: the request may be slow by nature, and then is slow everywhere, at a minute each.
        408 if attempts.repeated_timeout => (PassBack, Verdict::TimedOut),
        408 => (where_harmless, Verdict::TimedOut),

        401 | 403 if answer.callers_credential => (PassBack, Verdict::PassedBack),
        401 | 403 => (NextLane, Verdict::Refused { status }),

        400 | 404 if answer.looked_for => (NextLane, Verdict::NotThere),
        404 if has_code(body, b"DeploymentNotFound") => (NextLane, Verdict::Absent),
        400 if has_code(body, b"OperationNotSupported") => (NextLane, Verdict::Unsupported),
        400 if has_code(body, b"invalid_encrypted_content") => (NextLane, Verdict::Elsewhere),
        // Which of the two statuses Azure gives to an unknown previous response is not documented.
        400 | 404 if has_code(body, b"previous_response_not_found") => (NextLane, Verdict::NotThere),

        _ => (PassBack, Verdict::PassedBack),
    };
    attempts.repeated_timeout |= status == 408 && next == NextLane;
    Judgement { next, verdict, keep: next == NextLane && keeps(verdict, attempts) }
}

/// Judges an attempt that brought no usable answer.
pub fn judge_failure(failure: AttemptFailure, ask: &Ask<'_>, attempts: &mut Attempts) -> Judgement {
    use Next::{NextLane, PassBack};
    let where_harmless = if ask.harmless { NextLane } else { PassBack };
    let (next, verdict) = match failure {
        // Nothing was sent: no harm in sending it elsewhere.
        AttemptFailure::Refused
        | AttemptFailure::Connect
        | AttemptFailure::Dns
        | AttemptFailure::Tls
        | AttemptFailure::ConnectTimeout => (NextLane, Verdict::Unreachable { failure }),

        AttemptFailure::Closed | AttemptFailure::Malformed => {
            (where_harmless, Verdict::Unreachable { failure })
        }

        AttemptFailure::FirstByteTimeout | AttemptFailure::FirstEventTimeout if ask.streamed => {
            (where_harmless, Verdict::Failed { reason: Reason::Failure(failure), told: None })
        }
        // Without a stream the first byte comes with the whole answer: late may just be long.
        AttemptFailure::FirstByteTimeout | AttemptFailure::FirstEventTimeout => {
            (where_harmless, Verdict::TimedOut)
        }
    };
    attempts.failure = Some(failure);
    Judgement { next, verdict, keep: false }
}

fn told(answer: &Answer<'_>) -> Told {
    cooldown::told(answer.headers, answer.body)
}

fn failed(answer: &Answer<'_>) -> Verdict {
    let status = answer.status.as_u16();
    match cooldown::retry_after(answer.headers) {
        Some(told) if status == 503 => Verdict::Unavailable { told: told.duration },
        told => Verdict::Failed { reason: Reason::Status(status), told: told.map(|told| told.duration) },
    }
}

/// Whether this answer is the best one to pass back so far. A refusal is never shown: it speaks of our credential.
fn keeps(verdict: Verdict, attempts: &mut Attempts) -> bool {
    let kind = match verdict {
        Verdict::Refused { .. } => return false,
        Verdict::Absent => Kept::Absent,
        Verdict::Unsupported => Kept::Unsupported,
        Verdict::NotThere | Verdict::Elsewhere => Kept::NotThere,
        Verdict::Throttled { .. } => Kept::Full,
        _ => Kept::Other,
    };
    let best = Some(kind) >= attempts.kept;
    if best {
        attempts.kept = Some(kind);
    }
    best
}

/// Made once: to make one costs thousands of instructions, for each 429.
static PEAK_LOAD: LazyLock<Finder<'static>> =
    LazyLock::new(|| Finder::new(b"exceeds the maximum usage size allowed during peak load"));

fn is_peak_load(body: &[u8]) -> bool {
    PEAK_LOAD.find(body).is_some()
}

/// Whether a `"code"` in the body has this value. Not a JSON parse: the body may be cut, and inside a JSON string
/// (a message that repeats what the caller sent) the quotes would be escaped.
fn has_code(body: &[u8], code: &[u8]) -> bool {
    const KEY: &[u8] = b"\"code\"";
    memmem::find_iter(body, KEY).any(|at| {
        let value = body[at + KEY.len()..].trim_ascii_start();
        value
            .strip_prefix(b":")
            .and_then(|value| value.trim_ascii_start().strip_prefix(b"\""))
            .and_then(|value| value.strip_prefix(code))
            .is_some_and(|rest| rest.first() == Some(&b'"'))
    })
}
