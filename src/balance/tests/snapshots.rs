//! What operators see.

use super::{Attempts, HeaderMap, NOT_FOUND, Verdict, World, headers, millis, seconds};
use crate::balance::{AttemptFailure, Change, Reason, State};

#[test]
fn a_lane_is_counted_from_pick_to_report() {
    let mut world = World::ladder(2);
    let attempts = &mut Attempts::default();
    let pick = world.pick(attempts).unwrap();
    world.answer(pick, 429, &[], "", attempts);
    let pick = world.pick(attempts).unwrap();
    world.pool.answered(world.now, &pick, &HeaderMap::new(), attempts);
    let during = world.pool.snapshot(world.now);
    assert_eq!((during.in_flight, during.backends[1].tally.in_flight), (1, 1));
    world.pool.report(world.now, pick, Verdict::Served { tokens: 42 }, attempts);
    let after = world.pool.snapshot(world.now);
    let (first, second) = (after.backends[0].lanes[0].tally, after.backends[1].lanes[0].tally);
    assert_eq!((first.requests, first.throttled, first.served, first.in_flight), (1, 1, 0, 0));
    assert_eq!((second.requests, second.served, second.tokens, second.in_flight), (1, 1, 42, 0));
    assert_eq!(after.backends[1].tally, second);
}

#[test]
fn a_stream_that_breaks_off_counts_as_failed_and_its_tokens_count() {
    let mut world = World::ladder(1);
    let attempts = &mut Attempts::default();
    let pick = world.pick(attempts).unwrap();
    world.pool.answered(world.now, &pick, &HeaderMap::new(), attempts);
    world.pool.report(world.now, pick, Verdict::CutOff { tokens: 9 }, attempts);
    let tally = world.pool.snapshot(world.now).backends[0].tally;
    assert_eq!((tally.served, tally.failed, tally.tokens), (0, 1, 9));
}

#[test]
fn quota_headers_are_shown_as_told_last() {
    let mut world = World::ladder(1);
    let attempts = &mut Attempts::default();
    let pick = world.pick(attempts).unwrap();
    let told = headers(&[("x-ratelimit-limit-tokens", "30000"), ("x-ratelimit-remaining-tokens", "-1")]);
    world.pool.answered(world.now, &pick, &told, attempts);
    world.pool.abandon(pick);
    let quota = world.pool.snapshot(world.now).backends[0].lanes[0].quota;
    assert_eq!((quota.limit_tokens, quota.remaining_tokens), (Some(30_000), None));
}

#[test]
fn every_state_is_shown_with_time_left_and_cause() {
    let mut world = World::ladder(2);
    world.meet(429, &[("retry-after-ms", "2500")], "");
    let told = |world: &mut World| {
        let lane = world.pool.snapshot(world.now).backends[0].lanes[0].clone();
        (lane.state, lane.remaining, lane.cause)
    };
    assert_eq!(told(&mut world), (State::Cooling, Some(millis(2_500)), Some(Reason::RetryAfterMs)));
    world.pass(millis(2_500));
    assert_eq!(told(&mut world), (State::Admitting, None, None));
    world.meet(503, &[("retry-after", "9")], "");
    assert_eq!(told(&mut world), (State::Resting, Some(seconds(9)), Some(Reason::Status(503))));
    world.pass(seconds(9));
    assert_eq!(told(&mut world), (State::Probing, None, Some(Reason::Status(503))));
    world.meet(404, &[], NOT_FOUND);
    assert_eq!(told(&mut world), (State::Absent, Some(seconds(300)), Some(Reason::Status(404))));
    world.pool.set_drained(0, true);
    assert_eq!(told(&mut world), (State::Drained, None, None));
}

#[test]
fn a_backend_shows_its_own_rest_or_refusal_and_else_that_of_its_lanes() {
    let mut world = World::ladder(2);
    let told = |world: &mut World| {
        let backend = world.pool.snapshot(world.now).backends.swap_remove(0);
        (backend.state, backend.remaining, backend.cause)
    };
    assert_eq!(told(&mut world), (State::Admitting, None, None));
    world.meet(429, &[("retry-after", "5")], "");
    assert_eq!(told(&mut world), (State::Cooling, Some(seconds(5)), Some(Reason::RetryAfter)));
    world.pass(seconds(5));
    world.meet(403, &[], "");
    assert_eq!(told(&mut world), (State::Refused, Some(seconds(60)), Some(Reason::Status(403))));
    world.pass(seconds(60));
    world.meet_failure(AttemptFailure::Refused);
    let refused = Reason::Failure(AttemptFailure::Refused);
    assert_eq!(told(&mut world), (State::Resting, Some(seconds(5)), Some(refused)));
    assert_eq!(refused.to_string(), "connect refused");
}

#[test]
fn the_log_hears_of_a_cooldown_once_and_of_its_end_when_it_is_looked_at() {
    let mut world = World::ladder(1);
    let (one, two) = (&mut Attempts::default(), &mut Attempts::default());
    let (first, second) = (world.pick(one).unwrap(), world.pick(two).unwrap());
    world.answer(first, 429, &[("retry-after", "5")], "", one);
    world.answer(second, 429, &[("retry-after", "6")], "", two);
    let changes = world.pool.take_changes();
    assert!(
        matches!(&changes[..], [Change::CooldownBegan { duration, reason: Reason::RetryAfter, .. }]
        if *duration == seconds(5)),
        "{changes:?}"
    );
    world.pass(seconds(6));
    assert!(!world.pool.has_changes());
    world.pool.snapshot(world.now);
    assert!(matches!(&world.pool.take_changes()[..], [Change::CooldownEnded { .. }]));
}

#[test]
fn the_queue_of_changes_is_bounded_and_says_what_was_lost() {
    let mut world = World::ladder(1);
    for _ in 0..200 {
        world.meet(429, &[("retry-after-ms", "10")], "");
        world.pass(millis(10));
    }
    let changes = world.pool.take_changes();
    assert_eq!(changes.len(), 257);
    assert_eq!(changes[256], Change::Lost { count: 143 }, "200 began and 199 ended");
    assert!(!world.pool.has_changes());
}

#[test]
fn a_refusal_and_an_absence_are_told_once() {
    let mut world = World::ladder(1);
    for (status, body) in [(401, ""), (404, NOT_FOUND)] {
        let picks = [(); 2].map(|()| {
            let mut attempts = Attempts::default();
            (world.pick(&mut attempts).unwrap(), attempts)
        });
        for (pick, mut attempts) in picks {
            world.answer(pick, status, &[], body, &mut attempts);
        }
        assert_eq!(world.pool.take_changes().len(), 1, "{status}");
        world.pass(seconds(60));
    }
}

#[test]
fn every_verdict_and_state_has_a_word_of_its_own() {
    let mut words: Vec<_> = State::ALL.iter().map(|state| state.word()).collect();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), State::ALL.len());
}
