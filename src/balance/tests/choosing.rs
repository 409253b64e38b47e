//! Who is picked: groups, weights, the tried, the drained, and the early probe.

use super::{Attempts, NOT_FOUND, World, backend, seconds};
use crate::balance::{AttemptFailure, Cause, Exhausted, Next};

/// How often each backend is picked in 20,000 requests.
fn shares(world: &mut World, backends: usize) -> Vec<f64> {
    let mut counts = vec![0_u32; backends];
    for _ in 0..20_000 {
        counts[world.next().unwrap()] += 1;
    }
    counts.into_iter().map(|count| f64::from(count) / 20_000.0).collect()
}

#[test]
fn equal_weights_share_equally() {
    for share in shares(&mut World::equals(5), 5) {
        assert!((share - 0.2).abs() < 0.01, "{share}");
    }
}

#[test]
fn weights_decide_the_shares() {
    let mut world = World::new(vec![backend("one", 1, 1), backend("three", 1, 3)]);
    let shares = shares(&mut world, 2);
    assert!((shares[0] - 0.25).abs() < 0.01, "{shares:?}");
}

#[test]
fn the_same_seed_makes_the_same_choices() {
    let choices = || {
        let mut world = World::equals(8);
        (0..100).map(|_| world.next().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(choices(), choices());
}

#[test]
fn traffic_spills_to_the_next_group_during_a_cooldown_and_returns_after_it() {
    let mut world =
        World::new(vec![backend("paid", 1, 1), backend("also paid", 1, 1), backend("spill", 2, 9)]);
    for _ in 0..50 {
        assert_ne!(world.next(), Ok(2));
    }
    world.meet(429, &[("retry-after", "5")], "");
    for _ in 0..50 {
        assert_ne!(world.next(), Ok(2), "one of the group still admits");
    }
    world.meet(429, &[("retry-after", "5")], "");
    assert_eq!(world.next(), Ok(2));
    world.pass(seconds(5));
    assert_ne!(world.next(), Ok(2));
}

#[test]
fn the_order_of_the_settings_does_not_decide_over_priority() {
    let mut world = World::new(vec![backend("last", 3, 1), backend("first", 1, 1), backend("second", 2, 1)]);
    let attempts = &mut Attempts::default();
    let mut order = Vec::new();
    while let Ok(pick) = world.pick(attempts) {
        order.push(pick.backend);
        world.answer(pick, 500, &[], "", attempts);
    }
    assert_eq!(order, [1, 2, 0]);
}

#[test]
fn each_backend_is_tried_at_most_once_per_request() {
    let mut world = World::equals(9);
    let attempts = &mut Attempts::default();
    let mut tried = Vec::new();
    while let Ok(pick) = world.pick(attempts) {
        tried.push(pick.backend);
        world.answer(pick, 500, &[], "", attempts);
    }
    tried.sort_unstable();
    assert_eq!(tried, (0..9).collect::<Vec<_>>());
    assert_eq!(attempts.count(), 9);
}

#[test]
fn a_caller_with_a_lowest_priority_does_not_spill_beyond_it() {
    let mut world = World::ladder(3);
    world.ask.lowest_priority = Some(2);
    assert_eq!(world.meet(429, &[("retry-after", "30")], ""), 0);
    assert_eq!(world.meet(429, &[("retry-after", "30")], ""), 1);
    assert!(world.wait() >= seconds(30));
    world.ask.lowest_priority = None;
    assert_eq!(world.next(), Ok(2));
}

#[test]
fn drained_backends_are_not_picked_and_come_back() {
    let mut world = World::ladder(2);
    world.pool.set_drained(0, true);
    assert_eq!(world.next(), Ok(1));
    world.pool.set_drained(1, true);
    assert_eq!(world.next(), Err(Exhausted::Spent { cause: Cause::OutOfUse }));
    world.pool.set_drained(0, false);
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn backends_without_credential_are_not_picked() {
    let mut world = World::ladder(2);
    world.pool.set_credential(0, false);
    assert_eq!(world.next(), Ok(1));
    world.pool.set_credential(1, false);
    assert_eq!(world.next(), Err(Exhausted::Spent { cause: Cause::NoCredential }));
}

#[test]
fn a_credential_that_returns_ends_the_refusal() {
    let mut world = World::ladder(2);
    world.meet(401, &[], "");
    world.pool.set_credential(0, true);
    assert_eq!(world.next(), Ok(1), "it had one all the time");
    world.pool.set_credential(0, false);
    world.pool.set_credential(0, true);
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn an_unknown_position_changes_nothing() {
    let mut world = World::ladder(1);
    world.pool.set_drained(9, true);
    world.pool.set_credential(9, false);
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn when_no_lane_admits_the_one_whose_rest_ends_soonest_is_probed_now() {
    let mut world = World::ladder(2);
    let attempts = &mut Attempts::default();
    for retry_after in ["30", "20"] {
        let pick = world.pick(attempts).unwrap();
        world.answer(pick, 503, &[("retry-after", retry_after)], "", attempts);
    }
    let attempts = &mut Attempts::default();
    let probe = world.pick(attempts).unwrap();
    assert!(probe.probe);
    assert_eq!(probe.backend, 1);
    world.served(probe, attempts);
    assert_eq!(world.next(), Ok(1), "it went well, so it admits");
}

#[test]
fn an_early_probe_is_one_request_at_a_time() {
    let mut world = World::ladder(1);
    world.meet_failure(AttemptFailure::Refused);
    let probe = world.pick(&mut Attempts::default()).unwrap();
    assert_eq!(world.next(), Err(Exhausted::Spent { cause: Cause::Probing }));
    world.pool.abandon(probe);
    assert_eq!(world.next(), Ok(0), "the caller left, and the place is free again");
}

#[test]
fn a_lane_that_admits_is_preferred_to_an_early_probe() {
    let mut world = World::ladder(3);
    world.meet(503, &[("retry-after", "30")], "");
    world.meet(429, &[("retry-after", "30")], "");
    assert_eq!(world.next(), Ok(2));
}

#[test]
fn an_early_probe_never_goes_to_a_throttled_lane() {
    let mut world = World::ladder(2);
    world.meet(503, &[("retry-after", "30")], "");
    world.meet(429, &[("retry-after", "5")], "");
    assert_eq!(world.next(), Ok(0), "the resting one, though the throttled one is back sooner");
}

#[test]
fn all_cooling_never_sends_anything_upstream() {
    let mut world = World::equals(3);
    for _ in 0..3 {
        let attempts = &mut Attempts::default();
        while let Ok(pick) = world.pick(attempts) {
            world.answer(pick, 429, &[("retry-after", "9")], "", attempts);
        }
    }
    let sent: u64 =
        world.pool.snapshot(world.now).backends.iter().map(|backend| backend.tally.requests).sum();
    assert_eq!(sent, 3);
}

#[test]
fn a_request_reaches_the_last_lane_that_can_serve_it() {
    let mut world = World::ladder(7);
    let attempts = &mut Attempts::default();
    type Meeting = (u16, &'static [(&'static str, &'static str)], &'static str);
    let meetings: [Meeting; 5] =
        [(429, &[], ""), (500, &[], ""), (401, &[], ""), (404, &[], NOT_FOUND), (408, &[], "")];
    for (status, headers, body) in meetings {
        let pick = world.pick(attempts).unwrap();
        assert_eq!(world.answer(pick, status, headers, body, attempts).next, Next::NextLane, "{status}");
    }
    let pick = world.pick(attempts).unwrap();
    world.failure(pick, AttemptFailure::Closed, attempts);
    let pick = world.pick(attempts).unwrap();
    assert_eq!(pick.backend, 6);
    world.served(pick, attempts);
}
