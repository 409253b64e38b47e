//! What is said when nothing admits.

use super::{Attempts, NOT_FOUND, PEAK_LOAD, UNSUPPORTED, World, backend, flex, headers, millis, seconds};
use crate::balance::{AttemptFailure, Cause, Deployments, Exhausted};
use std::collections::BTreeMap;

/// Every backend of a ladder meets these headers with a 429.
fn throttle(world: &mut World, retry_after_ms: &[&str]) {
    let attempts = &mut Attempts::default();
    for value in retry_after_ms {
        let pick = world.pick(attempts).unwrap();
        world.answer(pick, 429, &[("retry-after-ms", value)], "", attempts);
    }
}

#[test]
fn the_wait_is_a_lanes_recovery_and_at_most_a_second_more() {
    let mut world = World::ladder(1);
    throttle(&mut world, &["20000"]);
    for _ in 0..200 {
        let wait = world.wait();
        assert!((seconds(20)..=seconds(21)).contains(&wait), "{wait:?}");
    }
}

#[test]
fn the_spread_covers_its_second_evenly() {
    let mut world = World::ladder(1);
    throttle(&mut world, &["20000"]);
    let waits: Vec<_> = (0..2_000).map(|_| world.wait()).collect();
    for tenth in 0..10 {
        let from = seconds(20) + millis(100 * tenth);
        let count = waits.iter().filter(|wait| (from..from + millis(100)).contains(*wait)).count();
        assert!((120..280).contains(&count), "{count} of 2,000 in tenth {tenth}");
    }
}

#[test]
fn waits_of_milliseconds_stay_milliseconds() {
    let mut world = World::ladder(1);
    throttle(&mut world, &["43"]);
    for _ in 0..200 {
        let wait = world.wait();
        assert!((millis(43)..=millis(86)).contains(&wait), "{wait:?}");
    }
}

#[test]
fn callers_are_told_different_moments_in_proportion_to_the_weights() {
    let mut world = World::new(vec![backend("small", 1, 1), backend("large", 2, 3)]);
    throttle(&mut world, &["5000", "40000"]);
    let late = (0..4_000).filter(|_| world.wait() >= seconds(40)).count();
    assert!((2_800..3_200).contains(&late), "{late}");
}

#[test]
fn nobody_is_told_more_than_fifty_nine_seconds() {
    let mut world = World::ladder(1);
    throttle(&mut world, &["60000"]);
    for _ in 0..50 {
        assert_eq!(world.wait(), seconds(59));
    }
}

#[test]
fn a_lane_both_throttled_and_resting_recovers_when_both_are_over() {
    let mut world = World::ladder(1);
    let (one, two) = (&mut Attempts::default(), &mut Attempts::default());
    let (first, second) = (world.pick(one).unwrap(), world.pick(two).unwrap());
    world.answer(first, 503, &[("retry-after", "30")], "", one);
    world.answer(second, 429, &[("retry-after", "2")], "", two);
    assert!(world.wait() >= seconds(30));
}

#[test]
fn a_request_throttled_by_a_lane_that_is_back_already_is_told_the_shortest_wait() {
    let mut world = World::ladder(1);
    let attempts = &mut Attempts::default();
    let pick = world.pick(attempts).unwrap();
    world.answer(pick, 429, &[("retry-after-ms", "20")], "", attempts);
    world.pass(millis(20));
    assert_eq!(world.pick(attempts).unwrap_err(), Exhausted::Throttled { wait: millis(10) });
}

#[test]
fn one_throttled_lane_among_failed_ones_makes_it_a_429() {
    let mut world = World::ladder(2);
    let attempts = &mut Attempts::default();
    let pick = world.pick(attempts).unwrap();
    world.answer(pick, 429, &[("retry-after", "5")], "", attempts);
    let pick = world.pick(attempts).unwrap();
    world.answer(pick, 500, &[], "", attempts);
    assert!(matches!(world.pick(attempts), Err(Exhausted::Throttled { .. })));
}

#[test]
fn a_throttled_lane_that_may_not_serve_the_request_promises_nothing() {
    let mut world = World::ladder(2);
    world.meet(429, &[("retry-after", "5")], "");
    world.meet(401, &[], "");
    world.pool.set_drained(0, true);
    assert_eq!(world.next(), Err(Exhausted::Spent { cause: Cause::Refused }));
}

#[test]
fn only_size_marks_in_the_way_is_too_large() {
    let mut world = World::ladder(2);
    let attempts = &mut Attempts::default();
    while let Ok(pick) = world.pick(attempts) {
        world.answer(pick, 429, &[], PEAK_LOAD, attempts);
    }
    assert_eq!(world.pick(attempts).unwrap_err(), Exhausted::TooLarge);
    assert_eq!(world.next(), Err(Exhausted::TooLarge));
    world.ask.charge = 10;
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn size_marks_beside_a_failed_lane_pass_the_failure_back() {
    let mut world = World::ladder(2);
    let attempts = &mut Attempts::default();
    let pick = world.pick(attempts).unwrap();
    world.answer(pick, 429, &[], PEAK_LOAD, attempts);
    let pick = world.pick(attempts).unwrap();
    world.answer(pick, 500, &[], "", attempts);
    assert_eq!(world.pick(attempts).unwrap_err(), Exhausted::Spent { cause: Cause::Answered });
}

#[test]
fn the_last_upstream_answer_is_passed_back_when_all_failed() {
    let mut world = World::ladder(2);
    let attempts = &mut Attempts::default();
    let pick = world.pick(attempts).unwrap();
    assert!(world.answer(pick, 502, &[], "", attempts).keep);
    let pick = world.pick(attempts).unwrap();
    world.failure(pick, AttemptFailure::Closed, attempts);
    assert_eq!(world.pick(attempts).unwrap_err(), Exhausted::Spent { cause: Cause::Answered });
}

#[test]
fn without_any_answer_the_last_failure_names_the_cause() {
    let mut world = World::ladder(2);
    let attempts = &mut Attempts::default();
    for failure in [AttemptFailure::Dns, AttemptFailure::ConnectTimeout] {
        let pick = world.pick(attempts).unwrap();
        world.failure(pick, failure, attempts);
    }
    let cause = Cause::Failed(AttemptFailure::ConnectTimeout);
    assert_eq!(world.pick(attempts).unwrap_err(), Exhausted::Spent { cause });
}

#[test]
fn a_full_service_tier_everywhere_passes_its_429_back() {
    let mut world = World::ladder(2);
    let attempts = &mut Attempts::default();
    let headers = headers(&[("retry-after", "30")]);
    while let Ok(pick) = world.pick(attempts) {
        assert!(world.judged(pick, &flex(&headers), attempts).keep);
    }
    assert_eq!(world.pick(attempts).unwrap_err(), Exhausted::Spent { cause: Cause::Answered });
}

#[test]
fn a_refusal_outweighs_an_absence_because_the_deployment_may_be_there() {
    let mut world = World::ladder(2);
    let attempts = &mut Attempts::default();
    let pick = world.pick(attempts).unwrap();
    world.answer(pick, 401, &[], "", attempts);
    let pick = world.pick(attempts).unwrap();
    world.answer(pick, 404, &[], NOT_FOUND, attempts);
    assert_eq!(world.pick(attempts).unwrap_err(), Exhausted::Spent { cause: Cause::Refused });
}

#[test]
fn an_operation_that_no_lane_does_is_told_from_memory() {
    let mut world = World::ladder(1);
    world.meet(400, &[], UNSUPPORTED);
    assert_eq!(world.next(), Err(Exhausted::Spent { cause: Cause::Unsupported }));
}

#[test]
fn a_deployment_in_no_backends_settings_is_unserved() {
    let mut only = backend("only", 1, 1);
    only.deployments = Deployments::Named(BTreeMap::from([("gpt-4o".to_owned(), "gpt-4o".to_owned())]));
    let mut world = World::new(vec![only]);
    world.ask.deployment = Some("gpt-5");
    assert_eq!(world.next(), Err(Exhausted::Unserved));
    world.ask.deployment = Some("gpt-4o");
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn a_pool_without_backends_serves_nothing_and_does_not_panic() {
    let mut world = World::new(Vec::new());
    assert_eq!(world.next(), Err(Exhausted::Unserved));
    assert!(world.pool.snapshot(world.now).backends.is_empty());
}

#[test]
fn a_lane_that_is_throttled_and_size_marked_tells_the_cooldown() {
    let mut world = World::ladder(1);
    let (of_one, of_two) = (&mut Attempts::default(), &mut Attempts::default());
    let (one, two) = (world.pick(of_one).unwrap(), world.pick(of_two).unwrap());
    world.answer(one, 429, &[("retry-after", "40")], PEAK_LOAD, of_one);
    world.answer(two, 429, &[("retry-after", "20")], "", of_two);
    let told = world.pick(of_two).unwrap_err();
    assert!(matches!(told, Exhausted::Throttled { wait } if wait >= seconds(20)), "{told:?}");
}

#[test]
fn what_one_backend_cannot_read_or_do_is_only_told_when_all_say_so() {
    for body in [r#"{"error":{"code":"invalid_encrypted_content"}}"#, UNSUPPORTED] {
        let mut world = World::ladder(2);
        let attempts = &mut Attempts::default();
        let pick = world.pick(attempts).unwrap();
        assert!(world.answer(pick, 400, &[], body, attempts).keep);
        let pick = world.pick(attempts).unwrap();
        world.failure(pick, AttemptFailure::Refused, attempts);
        let cause = Cause::Failed(AttemptFailure::Refused);
        assert_eq!(world.pick(attempts).unwrap_err(), Exhausted::Spent { cause }, "{body}");
        // It takes the place of no better answer.
        let mut world = World::ladder(2);
        let attempts = &mut Attempts::default();
        let pick = world.pick(attempts).unwrap();
        assert!(world.answer(pick, 500, &[], "", attempts).keep);
        let pick = world.pick(attempts).unwrap();
        assert!(!world.answer(pick, 400, &[], body, attempts).keep);
        let mut world = World::ladder(2);
        let attempts = &mut Attempts::default();
        while let Ok(pick) = world.pick(attempts) {
            assert!(world.answer(pick, 400, &[], body, attempts).keep);
        }
        assert_eq!(world.pick(attempts).unwrap_err(), Exhausted::Spent { cause: Cause::Answered }, "{body}");
    }
}

#[test]
fn no_older_answer_is_passed_back_in_place_of_one_that_could_not_be_kept() {
    let mut world = World::ladder(2);
    let attempts = &mut Attempts::default();
    let pick = world.pick(attempts).unwrap();
    assert!(world.answer(pick, 404, &[], NOT_FOUND, attempts).keep);
    let pick = world.pick(attempts).unwrap();
    let judgement = world.answer(pick, 500, &[], "", attempts);
    assert!(judgement.keep);
    attempts.kept_nothing(&judgement.verdict);
    let cause = Cause::Failed(AttemptFailure::Closed);
    assert_eq!(world.pick(attempts).unwrap_err(), Exhausted::Spent { cause });
}

#[test]
fn a_full_service_tier_whose_answers_could_not_be_kept_is_a_429() {
    let mut world = World::ladder(2);
    let attempts = &mut Attempts::default();
    let headers = headers(&[]);
    while let Ok(pick) = world.pick(attempts) {
        let judgement = world.judged(pick, &flex(&headers), attempts);
        attempts.kept_nothing(&judgement.verdict);
    }
    let told = world.pick(attempts).unwrap_err();
    assert!(matches!(told, Exhausted::Throttled { wait } if wait >= seconds(10)), "{told:?}");
}
