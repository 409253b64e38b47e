//! How long a throttled lane stays away: what the answer says, read in the order in which it can be trusted.
//!
//! `retry-after-ms`; else `Retry-After`; else the reset of the exhausted dimension; else the message; else 10 s.
//! Negative, not a number, unreadable: as if it were not there. Sources: azure-openai.md 3.1 to 3.3.

use std::time::Duration;

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderName};

use super::estimator::tokens;
use super::reason::Reason;

/// No cooldown is longer: Azure's limits work by the minute, whatever the answer says.
pub(super) const LONGEST: Duration = Duration::from_secs(60);

/// No cooldown is shorter: `retry-after: 0` is provisioned throughput's few milliseconds, rounded down.
pub(super) const SHORTEST: Duration = Duration::from_millis(10);

/// Where nothing is said. Measured: shorter ones double the 429s, 20 s loses goodput (selection.md 6).
pub(super) const UNTOLD: Duration = Duration::from_secs(10);

/// More than this (86,400 is a known one) is no time but a way to say "does not fit", and sometimes false.
const ABSURD: Duration = Duration::from_secs(300);

/// How long requests of a size that got an absurd time are kept away.
const OVERSIZE: Duration = Duration::from_secs(600);

/// From this charge on, in tokens, an absurd time is believed to mean the request's size while the limit is unknown.
const OVERSIZE_UNKNOWN_LIMIT: f64 = 4_000.0;

/// More of an error's body is not read.
const BODY_READ: usize = 16 * 1024;

static RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// One thing that is limited, and the headers that speak of it.
struct Dimension {
    remaining: HeaderName,
    reset: [HeaderName; 2],
}

static DIMENSIONS: [Dimension; 2] = [
    Dimension {
        remaining: HeaderName::from_static("x-ratelimit-remaining-tokens"),
        reset: [
            HeaderName::from_static("x-ratelimit-reset-tokens"),
            HeaderName::from_static("x-rate-limit-reset-tokens"),
        ],
    },
    Dimension {
        remaining: HeaderName::from_static("x-ratelimit-remaining-requests"),
        reset: [
            HeaderName::from_static("x-ratelimit-reset-requests"),
            HeaderName::from_static("x-rate-limit-reset-requests"),
        ],
    },
];

/// How long an answer asks to be left alone, and where it said so.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Told {
    /// As read: neither floor nor cap applied.
    pub duration: Duration,
    /// The source.
    pub reason: Reason,
}

/// What a throttled answer leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Away {
    /// The lane is away for so long.
    Cooldown(Duration),
    /// Requests at least as large as this one are.
    SizeMark(Duration),
}

/// Within the floor and the cap.
pub(super) fn clamp(duration: Duration) -> Duration {
    duration.clamp(SHORTEST, LONGEST)
}

/// How long a 429 asks for; always something.
pub(super) fn told(headers: &HeaderMap, body: &[u8]) -> Told {
    let told = |duration, reason| Told { duration, reason };
    retry_after(headers)
        .or_else(|| reset(headers).map(|duration| told(duration, Reason::RateLimitReset)))
        .or_else(|| message(body).map(|duration| told(duration, Reason::Message)))
        .unwrap_or(Told { duration: UNTOLD, reason: Reason::Default })
}

/// What the `Retry-After` headers say, of any answer.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Told> {
    let milliseconds = text(headers, &RETRY_AFTER_MS).and_then(number);
    if let Some(duration) = milliseconds.and_then(|milliseconds| span(milliseconds / 1_000.0)) {
        return Some(Told { duration, reason: Reason::RetryAfterMs });
    }
    let value = text(headers, &RETRY_AFTER)?;
    let duration = match number(value) {
        Some(seconds) => span(seconds),
        // Against the answer's own clock: ours may be wrong, and is not read here.
        None => {
            let date = httpdate::parse_http_date(text(headers, &DATE)?).ok()?;
            httpdate::parse_http_date(value).ok()?.duration_since(date).ok()
        }
    };
    duration.map(|duration| Told { duration, reason: Reason::RetryAfter })
}

/// Throttled for `told`: is the lane away, or is the request too large for it?
pub(super) fn away(told: Duration, charge: u64, limit: Option<f64>) -> Away {
    let large = limit.map_or(OVERSIZE_UNKNOWN_LIMIT, |limit| limit / 2.0);
    if told > ABSURD && tokens(charge) >= large {
        Away::SizeMark(OVERSIZE)
    } else {
        Away::Cooldown(clamp(told))
    }
}

/// The reset of the dimension whose remaining is 0; both or neither: the longer.
fn reset(headers: &HeaderMap) -> Option<Duration> {
    let longest = |exhausted_only: bool| {
        DIMENSIONS
            .iter()
            .filter(|dimension| !exhausted_only || text(headers, &dimension.remaining) == Some("0"))
            .flat_map(|dimension| &dimension.reset)
            .filter_map(|name| text(headers, name).and_then(compact))
            // With `remaining: -1` Azure sends `reset: 0`: both mean "unknown" (openai-dotnet #838).
            .filter(|duration| !duration.is_zero())
            .max()
    };
    longest(true).or_else(|| longest(false))
}

/// "Please retry after 6 seconds", "Try again in 50 seconds" (an API Management between).
fn message(body: &[u8]) -> Option<Duration> {
    let body = &body[..body.len().min(BODY_READ)];
    [&b"retry after "[..], b"try again in "].into_iter().find_map(|words| {
        let start =
            body.windows(words.len()).position(|window| window.eq_ignore_ascii_case(words))? + words.len();
        let rest = &body[start..];
        let rest = &rest[..rest.len().min(40)];
        let end = rest.iter().position(|byte| !byte.is_ascii()).unwrap_or(rest.len());
        let (number, rest) = leading_number(str::from_utf8(&rest[..end]).ok()?)?;
        let rest = rest.trim_start();
        let word = &rest[..rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len())];
        span(number * unit(word)?)
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn number(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0)
}

fn span(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}

/// `55`, `0.5`, `1s`, `20ms`, `6m0s`, `1h2m3s`.
fn compact(text: &str) -> Option<Duration> {
    if let Some(seconds) = number(text) {
        return span(seconds);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let (number, after) = leading_number(rest)?;
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (word, after) = after.split_at(end);
        seconds += number * unit(word)?;
        rest = after;
    }
    if text.is_empty() { None } else { span(seconds) }
}

fn leading_number(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((number(digits)?, rest))
}

/// In seconds.
fn unit(word: &str) -> Option<f64> {
    match word.to_ascii_lowercase().as_str() {
        "ms" | "millisecond" | "milliseconds" => Some(0.001),
        "s" | "sec" | "second" | "seconds" => Some(1.0),
        "m" | "min" | "minute" | "minutes" => Some(60.0),
        "h" | "hour" | "hours" => Some(3_600.0),
        "d" | "day" | "days" => Some(86_400.0),
        _ => None,
    }
}
