//! Failures, rests and probes.

use super::{Attempts, Duration, World, millis, seconds};
use crate::balance::{AttemptFailure, Change, Exhausted, Reason};

/// A 500 from the first backend, then a good answer from another: a failure that counts.
fn fail(world: &mut World) {
    assert_eq!(world.meet(500, &[], ""), 0);
}

fn rest_of_the_first(world: &mut World) -> Option<Duration> {
    world.pool.snapshot(world.now).backends[0].lanes[0].remaining
}

#[test]
fn three_failures_in_a_row_rest_the_lane_for_five_seconds() {
    let mut world = World::ladder(2);
    fail(&mut world);
    fail(&mut world);
    assert_eq!(world.next(), Ok(0), "two are not enough");
    fail(&mut world);
    assert_eq!(world.next(), Ok(1));
    world.pass(millis(4_999));
    assert_eq!(world.next(), Ok(1));
    world.pass(millis(1));
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn a_success_between_breaks_the_row() {
    let mut world = World::ladder(2);
    fail(&mut world);
    fail(&mut world);
    let attempts = &mut Attempts::default();
    let pick = world.pick(attempts).unwrap();
    world.served(pick, attempts);
    fail(&mut world);
    fail(&mut world);
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn a_stream_that_began_before_the_row_does_not_break_it_when_it_ends() {
    let mut world = World::ladder(2);
    let attempts = &mut Attempts::default();
    let stream = world.pick(attempts).unwrap();
    world.pool.answered(world.now, &stream, &http::HeaderMap::new(), attempts);
    fail(&mut world);
    fail(&mut world);
    world.pool.report(world.now, stream, crate::balance::Verdict::Served { tokens: 1 }, attempts);
    fail(&mut world);
    assert_eq!(world.next(), Ok(1));
}

#[test]
fn a_request_that_fails_everywhere_is_itself_to_blame_and_rests_nothing() {
    let mut world = World::ladder(2);
    for _ in 0..9 {
        let attempts = &mut Attempts::default();
        while let Ok(pick) = world.pick(attempts) {
            world.answer(pick, 500, &[], "", attempts);
        }
    }
    assert_eq!(world.next(), Ok(0));
    assert!(!world.pool.has_changes());
}

#[test]
fn a_4xx_elsewhere_confirms_no_failure() {
    let mut world = World::ladder(2);
    for _ in 0..9 {
        let attempts = &mut Attempts::default();
        let pick = world.pick(attempts).unwrap();
        world.answer(pick, 500, &[], "", attempts);
        let pick = world.pick(attempts).unwrap();
        world.answer(pick, 400, &[], "", attempts);
    }
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn a_rest_lasts_as_long_as_the_last_answer_asked_for() {
    let mut world = World::ladder(2);
    fail(&mut world);
    fail(&mut world);
    world.meet(502, &[("retry-after", "17")], "");
    assert_eq!(rest_of_the_first(&mut world), Some(seconds(17)));
}

#[test]
fn rests_double_to_a_minute_while_probes_fail_and_begin_anew_after_one_went_well() {
    let mut world = World::ladder(2);
    for _ in 0..3 {
        fail(&mut world);
    }
    for expected in [5, 10, 20, 40, 60, 60] {
        assert_eq!(rest_of_the_first(&mut world), Some(seconds(expected)));
        world.pass(seconds(expected));
        fail(&mut world);
    }
    world.pass(seconds(60));
    let attempts = &mut Attempts::default();
    let probe = world.pick(attempts).unwrap();
    assert!(probe.probe);
    world.served(probe, attempts);
    for _ in 0..3 {
        fail(&mut world);
    }
    assert_eq!(rest_of_the_first(&mut world), Some(seconds(5)));
}

#[test]
fn after_a_rest_one_request_goes_first_and_the_others_when_it_went_well() {
    let mut world = World::ladder(2);
    for _ in 0..3 {
        fail(&mut world);
    }
    world.pass(seconds(5));
    let attempts = &mut Attempts::default();
    let probe = world.pick(attempts).unwrap();
    assert_eq!((probe.backend, probe.probe), (0, true));
    assert_eq!(world.next(), Ok(1));
    world.pool.answered(world.now, &probe, &http::HeaderMap::new(), attempts);
    assert_eq!(world.next(), Ok(0), "at its first event, not at its end");
    world.pool.abandon(probe);
}

#[test]
fn a_probe_whose_caller_leaves_changes_nothing_and_frees_the_place() {
    let mut world = World::ladder(2);
    for _ in 0..3 {
        fail(&mut world);
    }
    world.pass(seconds(5));
    let first = world.pick(&mut Attempts::default()).unwrap();
    world.pool.abandon(first);
    let second = world.pick(&mut Attempts::default()).unwrap();
    assert_eq!((second.backend, second.probe), (0, true));
    world.pool.abandon(second);
}

#[test]
fn a_probe_that_meets_the_callers_own_error_leaves_the_probe_to_the_next() {
    let mut world = World::ladder(2);
    for _ in 0..3 {
        fail(&mut world);
    }
    world.pass(seconds(5));
    world.meet(400, &[], "");
    let probe = world.pick(&mut Attempts::default()).unwrap();
    assert_eq!((probe.backend, probe.probe), (0, true));
    world.pool.abandon(probe);
}

#[test]
fn a_silent_probe_lets_another_go_after_fifteen_seconds() {
    let mut world = World::ladder(2);
    for _ in 0..3 {
        fail(&mut world);
    }
    world.pass(seconds(5));
    let silent = world.pick(&mut Attempts::default()).unwrap();
    world.pass(millis(14_999));
    assert_eq!(world.next(), Ok(1));
    world.pass(millis(1));
    let second = world.pick(&mut Attempts::default()).unwrap();
    assert_eq!((second.backend, second.probe), (0, true));
    world.pool.abandon(silent);
    assert_eq!(world.next(), Ok(1), "the place belongs to the second now");
    world.pool.abandon(second);
}

#[test]
fn failures_of_requests_sent_before_the_rest_do_not_lengthen_it() {
    let mut world = World::ladder(2);
    let mut in_flight: Vec<_> = (0..30)
        .map(|_| {
            let mut attempts = Attempts::default();
            (world.pick(&mut attempts).unwrap(), attempts)
        })
        .collect();
    for (pick, mut attempts) in in_flight.drain(..) {
        world.answer(pick, 500, &[], "", &mut attempts);
        world.end_well(&mut attempts);
    }
    assert_eq!(rest_of_the_first(&mut world), Some(seconds(5)));
    world.pass(seconds(5));
    fail(&mut world);
    assert_eq!(rest_of_the_first(&mut world), Some(seconds(10)), "and doubled once, not thirty times");
}

#[test]
fn a_success_sent_before_the_rest_does_not_end_it() {
    let mut world = World::ladder(2);
    let attempts = &mut Attempts::default();
    let slow = world.pick(attempts).unwrap();
    for _ in 0..3 {
        fail(&mut world);
    }
    world.served(slow, attempts);
    assert_eq!(world.next(), Ok(1));
}

#[test]
fn a_refused_connection_rests_the_whole_backend_at_once() {
    let mut world = World::ladder(2);
    world.meet_failure(AttemptFailure::Refused);
    assert_eq!(world.next(), Ok(1));
    world.ask.deployment = Some("another");
    assert_eq!(world.next(), Ok(1));
    world.pass(seconds(5));
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn refused_connections_double_the_rest() {
    let mut world = World::ladder(2);
    for expected in [5, 10, 20, 40, 60, 60] {
        assert_eq!(world.meet_failure(AttemptFailure::Refused), 0);
        assert_eq!(world.pool.snapshot(world.now).backends[0].remaining, Some(seconds(expected)));
        world.pass(seconds(expected));
    }
}

#[test]
fn other_connection_failures_count_against_the_backend_three_in_a_row() {
    use AttemptFailure::{Closed, Connect, ConnectTimeout, Dns, Malformed, Tls};
    for failure in [Connect, Dns, Tls, ConnectTimeout, Closed, Malformed] {
        let mut world = World::ladder(2);
        world.meet_failure(failure);
        world.meet_failure(failure);
        assert_eq!(world.next(), Ok(0), "{failure}");
        world.meet_failure(failure);
        world.ask.deployment = Some("another");
        assert_eq!(world.next(), Ok(1), "{failure}: all its lanes");
    }
}

#[test]
fn a_network_that_is_down_everywhere_rests_nothing() {
    let mut world = World::ladder(2);
    for _ in 0..9 {
        let attempts = &mut Attempts::default();
        while let Ok(pick) = world.pick(attempts) {
            world.failure(pick, AttemptFailure::Dns, attempts);
        }
    }
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn any_answer_shows_that_the_backend_can_be_reached_again() {
    let mut world = World::ladder(2);
    world.meet_failure(AttemptFailure::Refused);
    world.pass(seconds(5));
    world.meet(500, &[], "");
    let picks = [(); 3].map(|()| world.pick(&mut Attempts::default()).unwrap());
    for pick in picks {
        assert_eq!((pick.backend, pick.probe), (0, false));
        world.pool.abandon(pick);
    }
}

#[test]
fn a_throttled_probe_cools_the_lane_and_leaves_the_probe_to_a_later_request() {
    let mut world = World::ladder(2);
    for _ in 0..3 {
        fail(&mut world);
    }
    world.pass(seconds(5));
    world.meet(429, &[("retry-after", "3")], "");
    assert_eq!(world.next(), Ok(1));
    world.pass(seconds(3));
    let probe = world.pick(&mut Attempts::default()).unwrap();
    assert_eq!((probe.backend, probe.probe), (0, true));
    world.pool.abandon(probe);
}

#[test]
fn a_single_backend_that_fails_is_never_shut() {
    let mut world = World::ladder(1);
    for _ in 0..50 {
        let attempts = &mut Attempts::default();
        let pick = world.pick(attempts).unwrap();
        world.answer(pick, 503, &[("retry-after", "60")], "", attempts);
    }
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn the_longest_rest_wins_among_answers_in_flight() {
    let mut world = World::ladder(2);
    let (one, two) = (&mut Attempts::default(), &mut Attempts::default());
    let (first, second) = (world.pick(one).unwrap(), world.pick(two).unwrap());
    world.answer(first, 503, &[("retry-after", "5")], "", one);
    world.answer(second, 503, &[("retry-after", "30")], "", two);
    world.pass(millis(29_999));
    assert_eq!(world.next(), Ok(1));
}

#[test]
fn the_log_hears_of_a_rest_once_and_of_its_end() {
    let mut world = World::ladder(2);
    for _ in 0..3 {
        fail(&mut world);
    }
    let changes = world.pool.take_changes();
    assert!(
        matches!(&changes[..], [Change::Resting { backend, deployment: Some(deployment), reason: Reason::Status(500), duration }]
            if &**backend == "b1" && &**deployment == "gpt-4o" && *duration == seconds(5)),
        "{changes:?}"
    );
    world.pass(seconds(5));
    let attempts = &mut Attempts::default();
    let probe = world.pick(attempts).unwrap();
    world.served(probe, attempts);
    assert!(matches!(&world.pool.take_changes()[..], [Change::Recovered { .. }]));
}

#[test]
fn while_one_probe_is_under_way_nothing_else_is_sent_there() {
    let mut world = World::ladder(1);
    world.meet(503, &[("retry-after", "30")], "");
    let probe = world.pick(&mut Attempts::default()).unwrap();
    for _ in 0..5 {
        assert!(matches!(world.next(), Err(Exhausted::Spent { .. })));
    }
    world.pool.abandon(probe);
}
