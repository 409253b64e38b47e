//! What a modelled backend answers to one request, and what design.md 6 makes of it.

use fastrand::Rng;

use super::book::Outcome;
use super::schedule::{Call, Mood, Ms};

#[derive(Clone, Debug)]
pub(crate) enum Dial {
    Accept,
    Refuse,
    Fail,
    Silent,
}

#[derive(Clone, Debug)]
pub(crate) enum Script {
    /// Whole: a small JSON answer, or a stream where one was asked for.
    Good,
    /// JSON of untold length, committed at its head.
    Chunked {
        cut: bool,
    },
    Status(Status),
    Close,
    Garbage,
    Hang,
    /// Known length, half of it.
    CutBody,
    HeadOnly,
    PreludeError {
        code: &'static str,
        outcome: Outcome,
    },
    PreludeCut,
    /// After so many events; in the middle of the next one.
    CutAfter(u32, bool),
    SilentAfter(u32),
}

#[derive(Clone, Debug)]
pub(crate) struct Status {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) outcome: Outcome,
}

fn status(status: u16, code: &'static str, outcome: Outcome) -> Status {
    Status { status, headers: String::new(), code, message: "no".to_owned(), outcome }
}

pub(crate) fn throttled(ms: Ms) -> Status {
    let headers = format!("retry-after-ms: {ms}\r\n");
    Status { headers, ..status(429, "429", Outcome::Throttled { told: ms }) }
}

pub(crate) fn dial(rng: &mut Rng, mood: Mood) -> Dial {
    match (mood, rng.u32(..100)) {
        (Mood::Unreachable, 0..=44) => Dial::Refuse,
        (Mood::Unreachable, 45..=64) | (Mood::Anything, 0..=4) => Dial::Silent,
        (Mood::Unreachable, 65..=79) | (Mood::Anything, 5..=9) => Dial::Fail,
        (Mood::Anything, 10..=19) => Dial::Refuse,
        _ => Dial::Accept,
    }
}

pub(crate) fn script(rng: &mut Rng, mood: Mood, call: &Call) -> Script {
    let trouble = if mood == Mood::Well { 4 } else { 70 };
    if mood != Mood::Anything && rng.u32(..100) >= trouble {
        return Script::Good;
    }
    let streamed = call.kind.streamed() && !call.long;
    match mood {
        Mood::Throttling => throttling(rng, streamed),
        Mood::Failing => failing(rng, streamed),
        Mood::Breaking => breaking(rng, streamed),
        Mood::Refusing => Script::Status(refusing(rng)),
        Mood::Unreachable => Script::Good,
        Mood::Well | Mood::Anything => match rng.u32(..5) {
            0 => throttling(rng, streamed),
            1 => failing(rng, streamed),
            2 => breaking(rng, streamed),
            3 => Script::Status(refusing(rng)),
            _ => Script::Good,
        },
    }
}

/// To a deployment that nobody has.
pub(crate) fn unknown(rng: &mut Rng) -> Script {
    match rng.u32(..10) {
        0 => Script::Close,
        1 => Script::Garbage,
        2 => Script::Status(status(401, "401", Outcome::Refused)),
        _ => Script::Status(status(404, "DeploymentNotFound", Outcome::Absent)),
    }
}

fn throttling(rng: &mut Rng, streamed: bool) -> Script {
    if streamed && rng.u32(..4) == 0 {
        return Script::PreludeError {
            code: "rate_limit_exceeded",
            outcome: Outcome::Throttled { told: 10_000 },
        };
    }
    let seconds = rng.u64(1..40);
    let told = |told: Ms, headers: String, message: String| Status {
        headers,
        message,
        ..status(429, "429", Outcome::Throttled { told })
    };
    let plain = || "no".to_owned();
    let ms = rng.u64(..30_000);
    Script::Status(match rng.u32(..12) {
        0..=2 => throttled(ms),
        3..=4 => told(seconds * 1_000, format!("retry-after: {seconds}\r\n"), plain()),
        5 => told(ms, format!("retry-after: {seconds}\r\nretry-after-ms: {ms}\r\n"), plain()),
        6 => {
            let headers = format!(
                "x-ratelimit-remaining-tokens: 0\r\nx-ratelimit-reset-tokens: {seconds}s\r\n\
                 x-ratelimit-remaining-requests: 5\r\nx-ratelimit-reset-requests: 55s\r\n\
                 x-ratelimit-limit-tokens: 8000\r\n"
            );
            told(seconds * 1_000, headers, plain())
        }
        7 => told(seconds * 1_000, String::new(), format!("Please retry after {seconds} seconds.")),
        8 => told(10_000, "retry-after: -5\r\nretry-after-ms: soon\r\n".to_owned(), plain()),
        9 => told(86_400_000, "retry-after: 86400\r\n".to_owned(), plain()),
        10 => {
            let message = "This request exceeds the maximum usage size allowed during peak load.".to_owned();
            let outcome = Outcome::PeakLoad { told: seconds * 1_000 };
            Status { headers: format!("retry-after: {seconds}\r\n"), message, ..status(429, "429", outcome) }
        }
        _ => told(10_000, String::new(), plain()),
    })
}

fn failing(rng: &mut Rng, streamed: bool) -> Script {
    if streamed && rng.u32(..4) == 0 {
        return Script::PreludeError { code: "server_error", outcome: Outcome::Failed { told: None } };
    }
    let seconds = rng.u64(1..90);
    let headers = format!("retry-after: {seconds}\r\n");
    let failed = Outcome::Failed { told: None };
    Script::Status(match rng.u32(..8) {
        0..=2 => status(500, "500", failed),
        3 => status(502, "502", failed),
        4 => status(503, "503", failed),
        5 => Status { headers, ..status(503, "503", Outcome::Unavailable { told: seconds * 1_000 }) },
        6 => Status { headers, ..status(500, "500", Outcome::Failed { told: Some(seconds * 1_000) }) },
        _ => status(408, "Timeout", Outcome::RequestTimeout),
    })
}

fn breaking(rng: &mut Rng, streamed: bool) -> Script {
    let events = rng.u32(1..4);
    match rng.u32(..10) {
        0..=2 => Script::Close,
        3 => Script::Garbage,
        4 => Script::Hang,
        5 | 6 if streamed => Script::CutAfter(events, rng.bool()),
        7 if streamed => Script::HeadOnly,
        8 if streamed => Script::PreludeCut,
        9 if streamed => Script::SilentAfter(events - 1),
        5..=7 => Script::CutBody,
        _ => Script::Chunked { cut: rng.bool() },
    }
}

fn refusing(rng: &mut Rng) -> Status {
    match rng.u32(..6) {
        0 => status(401, "401", Outcome::Refused),
        1 => status(403, "403", Outcome::Refused),
        2 => status(404, "DeploymentNotFound", Outcome::Absent),
        3 => status(400, "OperationNotSupported", Outcome::Unsupported),
        4 => status(400, "content_filter", Outcome::PassedBack),
        _ => status(404, "404", Outcome::PassedBack),
    }
}
