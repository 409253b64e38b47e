//! Retry headers and an error's message become a cooldown: within its bounds, from the source that is trusted most,
//! and never shortened by a later answer.
//!
//! Input: `charge=1000`, the headers, a blank line, the body.
#![no_main]

use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode};
use libfuzzer_sys::fuzz_target;
use sidestep::balance::{
    Answer, Ask, Attempts, Exhausted, LaneSnapshot, Next, Pick, Pool, Reason, State, Told, Verdict, judge,
};
use sidestep_fuzz::{LONGEST, LONGEST_WAIT, Message, SHORTEST, pool};

const ABSURD: Duration = Duration::from_secs(300);
const SECOND: Duration = Duration::from_secs(1);

fn ask(charge: u64) -> Ask<'static> {
    Ask {
        deployment: Some("gpt-4o"),
        second: None,
        family: "inference",
        operation: "chat",
        charge,
        unlimited: false,
        streamed: false,
        harmless: true,
        conversation: None,
        lowest_priority: None,
        pin: None,
        patience: Duration::ZERO,
        ahead: 0,
    }
}

fuzz_target!(|data: &[u8]| {
    let message = Message::of(data);
    let charge = message.number("charge").unwrap_or(1_000);
    throttled(&message, charge);
    order_never_matters(&message, charge);
    unavailable(&message, charge);
});

fn answer<'a>(status: u16, headers: &'a HeaderMap, body: &'a [u8]) -> Answer<'a> {
    let status = StatusCode::from_u16(status).expect("a status of ours");
    Answer { status, headers, body, service_tier: None, callers_credential: false, looked_for: false }
}

fn throttled(message: &Message<'_>, charge: u64) {
    let (mut pool, now, mut attempts) = (pool(1), Instant::now(), Attempts::default());
    let pick = pick(&mut pool, now, charge);
    let judged = judge(&answer(429, &message.headers, message.body), &ask(charge), &mut attempts);
    assert_eq!(judged.next, Next::NextLane);
    pool.report(now, pick, judged.verdict, &mut attempts);
    let (told, limit) = match judged.verdict {
        // Later the lane has a limit of its own guess.
        Verdict::Throttled { told, quota } => (told, quota.limit_tokens),
        Verdict::TooLarge { told } => {
            expected(&message.headers, told);
            return sized(&mut pool, now, charge, told.duration.clamp(SHORTEST, LONGEST));
        }
        other => panic!("a 429 without a tier is {other:?}"),
    };
    expected(&message.headers, told);
    let lane = lane(&mut pool, now);
    let large = limit.map_or(4_000, |limit| limit.div_ceil(2));
    if told.duration > ABSURD && charge >= large {
        return sized(&mut pool, now, charge, Duration::from_secs(600));
    }
    let length = told.duration.clamp(SHORTEST, LONGEST);
    assert_eq!((lane.state, lane.remaining, lane.cause), (State::Cooling, Some(length), Some(told.reason)));
    for elapsed in [Duration::ZERO, length / 2, length - Duration::from_nanos(1)] {
        match pool.pick(now + elapsed, &ask(charge), &mut Attempts::default()) {
            Err(Exhausted::Throttled { wait }) => {
                assert!(wait >= (length - elapsed).min(LONGEST_WAIT), "{wait:?} of {length:?}");
                assert!((SHORTEST..=LONGEST_WAIT).contains(&wait), "{wait:?}");
            }
            other => panic!("{elapsed:?} into {length:?}: {other:?}"),
        }
    }
    let pick = self::pick(&mut pool, now + length, charge);
    pool.abandon(pick);
}

/// Requests of this size are kept away for `length`, smaller ones are not.
fn sized(pool: &mut Pool, now: Instant, charge: u64, length: Duration) {
    assert_eq!(lane(pool, now).state, State::Admitting);
    let refused = pool.pick(now + length - Duration::from_nanos(1), &ask(charge), &mut Attempts::default());
    assert_eq!(refused.map(|pick| pick.backend), Err(Exhausted::TooLarge));
    if let Some(less) = charge.checked_sub(1) {
        let pick = self::pick(pool, now, less);
        pool.abandon(pick);
    }
    let pick = self::pick(pool, now + length, charge);
    pool.abandon(pick);
}

/// The longest deadline wins, whichever of two answers comes first.
fn order_never_matters(message: &Message<'_>, charge: u64) {
    let twenty = HeaderMap::from_iter([(http::header::RETRY_AFTER, http::HeaderValue::from_static("20"))]);
    let one = answer(429, &message.headers, message.body);
    let other = answer(429, &twenty, b"");
    let alone = left_after(&[one], charge);
    for answers in [[one, other], [other, one]] {
        assert_eq!(left_after(&answers, charge), alone.max(20 * SECOND));
    }
}

/// What is left of the lane's cooldown once all of these requests, sent together, have been answered.
fn left_after(answers: &[Answer<'_>], charge: u64) -> Duration {
    let (mut pool, now) = (pool(1), Instant::now());
    let picks: Vec<Pick> = answers.iter().map(|_| pick(&mut pool, now, charge)).collect();
    for (pick, answer) in picks.into_iter().zip(answers) {
        let attempts = &mut Attempts::default();
        let verdict = judge(answer, &ask(charge), attempts).verdict;
        pool.report(now, pick, verdict, attempts);
    }
    lane(&mut pool, now).remaining.unwrap_or_default()
}

/// A 503 rests the lane for what `Retry-After` says; without one it is a failure like any other.
fn unavailable(message: &Message<'_>, charge: u64) {
    let (mut pool, now, mut attempts) = (pool(1), Instant::now(), Attempts::default());
    let pick = pick(&mut pool, now, charge);
    let verdict = judge(&answer(503, &message.headers, message.body), &ask(charge), &mut attempts).verdict;
    pool.report(now, pick, verdict, &mut attempts);
    let lane = lane(&mut pool, now);
    match verdict {
        Verdict::Unavailable { told } => {
            assert_eq!((lane.state, lane.remaining), (State::Resting, Some(told.clamp(SHORTEST, LONGEST))));
        }
        Verdict::Failed { told: None, .. } => assert_eq!(lane.state, State::Admitting),
        other => panic!("a 503 is {other:?}"),
    }
}

fn pick(pool: &mut Pool, now: Instant, charge: u64) -> Pick {
    pool.pick(now, &ask(charge), &mut Attempts::default()).expect("the only lane admits")
}

fn lane(pool: &mut Pool, now: Instant) -> LaneSnapshot {
    pool.snapshot(now).backends[0].lanes[0].clone()
}

/// Where every header is absent or a plain number, the contract says exactly what is read.
fn expected(headers: &HeaderMap, told: Told) {
    let Some(milliseconds) = plain(headers, "retry-after-ms") else { return };
    let Some(seconds) = plain(headers, "retry-after") else { return };
    if let Some(milliseconds) = milliseconds {
        let duration = Duration::from_millis(milliseconds);
        return assert_eq!(told, Told { duration, reason: Reason::RetryAfterMs });
    }
    if let Some(seconds) = seconds {
        return assert_eq!(told, Told { duration: SECOND * seconds as u32, reason: Reason::RetryAfter });
    }
    let (mut exhausted, mut any) = (0, 0);
    for dimension in ["tokens", "requests"] {
        let remaining = headers.get(format!("x-ratelimit-remaining-{dimension}"));
        for spelling in ["ratelimit", "rate-limit"] {
            let Some(reset) = plain(headers, &format!("x-{spelling}-reset-{dimension}")) else { return };
            any = any.max(reset.unwrap_or(0));
            if remaining.is_some_and(|remaining| remaining == "0") {
                exhausted = exhausted.max(reset.unwrap_or(0));
            }
        }
    }
    match if exhausted > 0 { exhausted } else { any } {
        0 => assert!(
            told.reason == Reason::Message || told == Told { duration: 10 * SECOND, reason: Reason::Default },
            "{told:?}"
        ),
        reset => assert_eq!(told, Told { duration: SECOND * reset as u32, reason: Reason::RateLimitReset }),
    }
}

/// `Some(None)` for an absent header or a negative number, `None` for what is not plain.
fn plain(headers: &HeaderMap, name: &str) -> Option<Option<u64>> {
    let Some(value) = headers.get(name) else { return Some(None) };
    let text = value.to_str().ok()?;
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || digits.len() > 9 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse().ok()?;
    if text.starts_with('-') && number > 0 { Some(None) } else { Some(Some(number)) }
}
