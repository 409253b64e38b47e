//! Whether a request that may wait in line is told to wait, or told at once.

use super::{Attempts, PEAK_LOAD, World, headers, millis, seconds};
use crate::balance::{AttemptFailure, Cause, Exhausted, Verdict};

/// Every backend of a ladder meets these headers with a 429.
fn throttle(world: &mut World, retry_after_ms: &[&str], attempts: &mut Attempts) {
    for value in retry_after_ms {
        let pick = world.pick(attempts).unwrap();
        world.answer(pick, 429, &[("retry-after-ms", value)], "", attempts);
    }
}

/// A ladder whose lanes all cool, and a request that may wait 250 ms.
fn throttled(retry_after_ms: &[&str]) -> World {
    let mut world = World::ladder(u32::try_from(retry_after_ms.len()).unwrap());
    throttle(&mut world, retry_after_ms, &mut Attempts::default());
    world.ask.patience = millis(250);
    world
}

/// A good answer with these headers.
fn served(world: &mut World, pairs: &[(&str, &str)]) {
    let attempts = &mut Attempts::default();
    let pick = world.pick(attempts).unwrap();
    world.pool.answered(world.now, &pick, &headers(pairs), attempts);
    world.pool.report(world.now, pick, Verdict::Served { tokens: 100 }, attempts);
}

#[test]
fn a_request_with_patience_waits_for_the_soonest_recovery_to_the_millisecond() {
    let mut world = throttled(&["5000", "43"]);
    let until = world.now + millis(43);
    assert_eq!(world.next(), Err(Exhausted::Soon { until }));
    world.pass(millis(43));
    assert_eq!(world.next(), Ok(1));
}

#[test]
fn who_would_wait_longer_than_its_patience_is_told_at_once() {
    let mut world = throttled(&["251"]);
    assert!(matches!(world.next(), Err(Exhausted::Throttled { .. })));
    world.pass(millis(1));
    assert!(matches!(world.next(), Err(Exhausted::Soon { .. })));
}

#[test]
fn a_request_that_met_a_429_itself_asks_that_lane_again_when_it_is_back() {
    let mut world = World::ladder(1);
    world.ask.patience = millis(250);
    let attempts = &mut Attempts::default();
    for _ in 0..3 {
        throttle(&mut world, &["40"], attempts);
        let until = world.now + millis(40);
        assert_eq!(world.pick(attempts).unwrap_err(), Exhausted::Soon { until });
        world.pass(millis(40));
    }
    let pick = world.pick(attempts).unwrap();
    world.served(pick, attempts);
}

#[test]
fn a_lane_that_is_back_when_all_have_been_asked_is_worth_no_wait() {
    let mut world = World::ladder(1);
    world.ask.patience = millis(250);
    let attempts = &mut Attempts::default();
    throttle(&mut world, &["20"], attempts);
    world.pass(millis(20));
    assert_eq!(world.pick(attempts).unwrap_err(), Exhausted::Soon { until: world.now });
    assert_eq!(world.pick(attempts).unwrap().backend, 0);
}

#[test]
fn what_failed_for_this_request_is_not_asked_again_after_a_wait() {
    let mut world = World::ladder(2);
    world.ask.patience = millis(250);
    let attempts = &mut Attempts::default();
    let pick = world.pick(attempts).unwrap();
    world.failure(pick, AttemptFailure::Closed, attempts);
    throttle(&mut world, &["40"], attempts);
    assert!(matches!(world.pick(attempts), Err(Exhausted::Soon { .. })));
    world.pass(millis(40));
    let pick = world.pick(attempts).unwrap();
    assert_eq!(pick.backend, 1);
    world.failure(pick, AttemptFailure::Closed, attempts);
    let end = world.pick(attempts).unwrap_err();
    assert_eq!(end, Exhausted::Spent { cause: Cause::Failed(AttemptFailure::Closed) });
}

#[test]
fn a_lane_that_failed_for_this_request_promises_nothing_when_it_cools() {
    let mut world = World::ladder(1);
    world.ask.patience = millis(250);
    let attempts = &mut Attempts::default();
    let (mine, others) = (world.pick(attempts).unwrap(), &mut Attempts::default());
    let theirs = world.pick(others).unwrap();
    world.failure(mine, AttemptFailure::Closed, attempts);
    world.answer(theirs, 429, &[("retry-after-ms", "40")], "", others);
    assert!(!matches!(world.pick(attempts), Err(Exhausted::Soon { .. })));
    assert!(matches!(world.next(), Err(Exhausted::Soon { .. })), "to others it does");
}

#[test]
fn a_size_mark_is_no_reason_to_wait() {
    let mut world = World::ladder(1);
    world.ask.patience = seconds(60);
    world.meet(429, &[], PEAK_LOAD);
    assert_eq!(world.next(), Err(Exhausted::TooLarge));
}

#[test]
fn where_headers_tell_the_quota_as_many_wait_as_it_serves() {
    let mut world = World::ladder(1);
    let told = [("x-ratelimit-limit-tokens", "10000"), ("x-ratelimit-remaining-tokens", "500")];
    served(&mut world, &told);
    throttle(&mut world, &["200"], &mut Attempts::default());
    world.ask.patience = millis(250);
    // 1,000 tokens each.
    for (ahead, waits) in [(0, true), (9, true), (10, false)] {
        world.ask.ahead = ahead;
        assert_eq!(matches!(world.next(), Err(Exhausted::Soon { .. })), waits, "behind {ahead}");
    }
}

#[test]
fn where_no_header_tells_it_one_waits_and_as_many_more_as_are_served_in_that_time() {
    let mut world = World::ladder(1);
    for _ in 0..240 {
        served(&mut world, &[]);
        world.pass(millis(100));
    }
    throttle(&mut world, &["200"], &mut Attempts::default());
    // Ten a second were served, half of which still count.
    world.ask.patience = millis(250);
    let waits = |world: &mut World, ahead| {
        world.ask.ahead = ahead;
        matches!(world.next(), Err(Exhausted::Soon { .. }))
    };
    assert_eq!([0, 1, 2, 3, 4].map(|ahead| waits(&mut world, ahead)), [true, true, true, false, false]);
}

#[test]
fn a_request_told_to_wait_takes_no_place_in_the_queue_of_those_who_are_sent_away() {
    let told = [("x-ratelimit-limit-tokens", "10000"), ("x-ratelimit-remaining-tokens", "500")];
    let wait_after = |waiting: u32| {
        let mut world = World::ladder(1);
        served(&mut world, &told);
        throttle(&mut world, &["200"], &mut Attempts::default());
        world.ask.patience = millis(250);
        for _ in 0..waiting {
            assert!(matches!(world.next(), Err(Exhausted::Soon { .. })));
        }
        world.ask.patience = millis(0);
        world.wait()
    };
    assert_eq!(wait_after(100), wait_after(0));
}

#[test]
fn a_pick_says_whether_it_is_known_that_there_is_room() {
    let mut world = World::ladder(1);
    let has_room = |world: &mut World| {
        let pick = world.pick(&mut Attempts::default()).unwrap();
        let has_room = pick.has_room;
        world.pool.abandon(pick);
        has_room
    };
    assert!(!has_room(&mut world));
    served(&mut world, &[("x-ratelimit-limit-tokens", "10000"), ("x-ratelimit-remaining-tokens", "5000")]);
    assert!(has_room(&mut world));
    world.ask.charge = 11_000;
    assert!(!has_room(&mut world), "it seems too large for any");
}
