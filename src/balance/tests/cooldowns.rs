//! How long a cooldown: one test per source, then the rules over all of them.

use super::{World, headers, millis, seconds};
use crate::balance::cooldown::{self, Away};
use crate::balance::{Exhausted, Reason};
use std::time::Duration;

fn told(pairs: &[(&str, &str)], body: &str) -> (Duration, Reason) {
    let told = cooldown::told(&headers(pairs), body.as_bytes());
    (told.duration, told.reason)
}

#[test]
fn milliseconds_are_believed_before_seconds() {
    let found = told(&[("retry-after-ms", "43"), ("retry-after", "1")], "");
    assert_eq!(found, (millis(43), Reason::RetryAfterMs));
}

#[test]
fn retry_after_may_be_seconds_or_fractions_of_them() {
    assert_eq!(told(&[("retry-after", "7")], ""), (seconds(7), Reason::RetryAfter));
    assert_eq!(told(&[("retry-after", " 0.5 ")], ""), (millis(500), Reason::RetryAfter));
    assert_eq!(told(&[("retry-after-ms", "12.5")], "").0, Duration::from_micros(12_500));
}

#[test]
fn retry_after_may_be_a_date_and_counts_from_the_answers_own_date() {
    let pairs = [("date", "Sun, 06 Nov 1994 08:49:30 GMT"), ("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")];
    assert_eq!(told(&pairs, ""), (seconds(7), Reason::RetryAfter));
}

#[test]
fn a_date_in_the_past_or_without_the_answers_date_says_nothing() {
    let past = [("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("retry-after", "Sun, 06 Nov 1994 08:49:30 GMT")];
    assert_eq!(told(&past, ""), (seconds(10), Reason::Default));
    assert_eq!(told(&past[1..], ""), (seconds(10), Reason::Default));
}

#[test]
fn the_reset_of_the_exhausted_dimension_counts() {
    let pairs = [
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "7"),
        ("x-ratelimit-remaining-requests", "12"),
        ("x-ratelimit-reset-requests", "40"),
    ];
    assert_eq!(told(&pairs, ""), (seconds(7), Reason::RateLimitReset));
}

#[test]
fn with_both_or_neither_exhausted_the_longer_reset_counts() {
    let resets = [("x-ratelimit-reset-tokens", "7"), ("x-ratelimit-reset-requests", "40")];
    assert_eq!(told(&resets, "").0, seconds(40));
    let both = [
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-tokens", "41"),
        ("x-ratelimit-reset-requests", "40"),
    ];
    assert_eq!(told(&both, "").0, seconds(41));
}

#[test]
fn the_older_spelling_with_the_extra_hyphen_is_read() {
    assert_eq!(told(&[("x-rate-limit-reset-tokens", "55")], ""), (seconds(55), Reason::RateLimitReset));
    assert_eq!(told(&[("x-rate-limit-reset-requests", "5")], ""), (seconds(5), Reason::RateLimitReset));
}

#[test]
fn resets_come_in_every_format_seen() {
    for (text, expected) in [
        ("6m0s", seconds(360)),
        ("1s", seconds(1)),
        ("20ms", millis(20)),
        ("1m30.5s", millis(90_500)),
        ("1h2m3s", seconds(3_723)),
        ("55", seconds(55)),
        ("0.25", millis(250)),
    ] {
        assert_eq!(told(&[("x-ratelimit-reset-tokens", text)], "").0, expected, "{text}");
    }
}

#[test]
fn remaining_minus_one_with_reset_zero_means_unknown_not_at_once() {
    let pairs = [("x-ratelimit-remaining-tokens", "-1"), ("x-ratelimit-reset-tokens", "0")];
    assert_eq!(told(&pairs, ""), (seconds(10), Reason::Default));
}

#[test]
fn the_message_is_read_when_no_header_speaks() {
    for (body, expected) in [
        ("{\"message\":\"… rate limit. Please retry after 6 seconds. Please go here\"}", seconds(6)),
        ("Please retry after 1 second.", seconds(1)),
        ("Please Retry After 250 milliseconds.", millis(250)),
        ("Rate limit is exceeded. Try again in 50 seconds.", seconds(50)),
        ("Please try again in 20ms.", millis(20)),
        ("Please retry after 86400 seconds.", seconds(86_400)),
    ] {
        assert_eq!(told(&[], body), (expected, Reason::Message), "{body}");
    }
}

#[test]
fn a_header_is_believed_before_the_message() {
    assert_eq!(told(&[("retry-after", "3")], "Please retry after 6 seconds").0, seconds(3));
}

#[test]
fn nothing_said_is_ten_seconds() {
    assert_eq!(told(&[], ""), (seconds(10), Reason::Default));
    assert_eq!(told(&[], "Please retry after a while"), (seconds(10), Reason::Default));
    assert_eq!(told(&[], "please retry after 6 parsecs"), (seconds(10), Reason::Default));
    assert_eq!(told(&[], "retry after "), (seconds(10), Reason::Default));
}

#[test]
fn what_is_negative_or_unreadable_is_as_if_absent() {
    for bad in ["-1", "NaN", "inf", "soon", "", "1e999", "5 s 3", "٣"] {
        let header = http::HeaderValue::from_bytes(bad.as_bytes()).unwrap();
        let mut map = http::HeaderMap::new();
        map.insert("retry-after-ms", header.clone());
        map.insert("retry-after", header.clone());
        map.insert("x-ratelimit-reset-tokens", header);
        assert_eq!(cooldown::told(&map, b"").reason, Reason::Default, "{bad}");
    }
    assert_eq!(told(&[("retry-after-ms", "-5"), ("retry-after", "2")], ""), (seconds(2), Reason::RetryAfter));
}

#[test]
fn a_cooldown_is_ten_milliseconds_at_least_and_a_minute_at_most() {
    assert_eq!(cooldown::away(Duration::ZERO, 1, None), Away::Cooldown(millis(10)));
    assert_eq!(cooldown::away(seconds(61), 1, None), Away::Cooldown(seconds(60)));
    assert_eq!(cooldown::away(seconds(300), u64::MAX, None), Away::Cooldown(seconds(60)));
}

#[test]
fn an_absurd_time_is_a_size_mark_for_a_request_of_half_the_limit() {
    let day = seconds(86_400);
    assert_eq!(cooldown::away(day, 500, Some(1_000.0)), Away::SizeMark(seconds(600)));
    assert_eq!(cooldown::away(day, 499, Some(1_000.0)), Away::Cooldown(seconds(60)));
}

#[test]
fn with_the_limit_unknown_an_absurd_time_is_a_size_mark_from_four_thousand_tokens() {
    let day = seconds(86_400);
    assert_eq!(cooldown::away(day, 4_000, None), Away::SizeMark(seconds(600)));
    assert_eq!(cooldown::away(day, 3_999, None), Away::Cooldown(seconds(60)));
}

#[test]
fn a_day_of_retry_after_for_a_large_request_leaves_the_lane_to_smaller_ones() {
    let mut world = World::ladder(1);
    world.ask.charge = 5_000;
    world.meet(429, &[("retry-after", "86400")], "");
    assert_eq!(world.next(), Err(Exhausted::TooLarge));
    world.ask.charge = 4_999;
    assert_eq!(world.next(), Ok(0));
    world.ask.charge = 5_000;
    world.pass(seconds(599));
    assert_eq!(world.next(), Err(Exhausted::TooLarge));
    world.pass(seconds(1));
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn the_limit_that_the_429_itself_tells_decides_what_is_large() {
    let mut world = World::ladder(2);
    world.ask.charge = 600;
    world.meet(429, &[("retry-after", "86400"), ("x-ratelimit-limit-tokens", "1000")], "");
    assert_eq!(world.next(), Ok(1));
    world.ask.charge = 599;
    assert_eq!(world.next(), Ok(0), "a size mark, not a cooldown");
}

#[test]
fn the_longest_deadline_wins() {
    let mut world = World::ladder(1);
    let (one, two) = (&mut super::Attempts::default(), &mut super::Attempts::default());
    let (first, second) = (world.pick(one).unwrap(), world.pick(two).unwrap());
    world.answer(first, 429, &[("retry-after", "30")], "", one);
    world.answer(second, 429, &[("retry-after", "2")], "", two);
    world.pass(millis(29_999));
    assert!(world.next().is_err());
    world.pass(millis(1));
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn a_later_longer_deadline_prolongs_the_cooldown() {
    let mut world = World::ladder(1);
    let (one, two) = (&mut super::Attempts::default(), &mut super::Attempts::default());
    let (first, second) = (world.pick(one).unwrap(), world.pick(two).unwrap());
    world.answer(first, 429, &[("retry-after", "2")], "", one);
    world.answer(second, 429, &[("retry-after", "30")], "", two);
    world.pass(millis(29_999));
    assert!(world.next().is_err());
}

#[test]
fn a_success_in_flight_never_clears_a_cooldown() {
    let mut world = World::ladder(1);
    let (one, two) = (&mut super::Attempts::default(), &mut super::Attempts::default());
    let (slow, throttled) = (world.pick(one).unwrap(), world.pick(two).unwrap());
    world.answer(throttled, 429, &[("retry-after", "5")], "", two);
    world.served(slow, one);
    assert!(world.wait() >= seconds(5));
}

#[test]
fn a_throttled_lane_is_simply_back_without_a_probe() {
    let mut world = World::ladder(1);
    world.meet(429, &[("retry-after-ms", "43")], "");
    world.pass(millis(43));
    let picks: Vec<_> = (0..5).map(|_| world.pick(&mut super::Attempts::default()).unwrap()).collect();
    assert!(picks.iter().all(|pick| !pick.probe));
    picks.into_iter().for_each(|pick| world.pool.abandon(pick));
}
