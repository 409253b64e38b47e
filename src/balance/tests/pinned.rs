//! Requests that only one backend can serve, and the search for what nobody knows where it is.

use http::HeaderMap;

use super::*;
use crate::balance::Cause;

/// Pinned to the backend of this position.
fn pinned(count: u32, to: usize) -> World {
    let mut world = World::ladder(count);
    world.ask.pin = Some(world.pool.backend_ids()[to]);
    world
}

/// Every untried backend answers that the object is not there.
fn search(world: &mut World, attempts: &mut Attempts) -> (Vec<usize>, Exhausted) {
    let (mut asked, headers) = (Vec::new(), HeaderMap::new());
    loop {
        match world.pick(attempts) {
            Ok(pick) => {
                asked.push(pick.backend);
                let answer = Answer { looked_for: true, ..answer(404, &headers, b"{}") };
                let judgement = world.judged(pick, &answer, attempts);
                assert_eq!(
                    (judgement.next, judgement.verdict),
                    (super::super::Next::NextLane, Verdict::NotThere)
                );
            }
            Err(exhausted) => return (asked, exhausted),
        }
    }
}

#[test]
fn a_pinned_request_goes_there_and_nowhere_else() {
    let mut world = pinned(3, 2);
    assert_eq!(world.next(), Ok(2));
    let attempts = &mut Attempts::default();
    let pick = world.pick(attempts).unwrap();
    world.answer(pick, 500, &[], "{}", attempts);
    assert_eq!(world.pick(attempts).unwrap_err(), Exhausted::Spent { cause: Cause::Answered });
}

#[test]
fn while_its_backend_cools_it_is_told_that_backends_wait() {
    let mut world = pinned(3, 1);
    assert_eq!(world.meet(429, &[("retry-after", "30")], "{}"), 1);
    let wait = world.wait();
    assert!((seconds(30)..=seconds(31)).contains(&wait), "{wait:?}");
    world.ask.pin = None;
    assert_eq!(world.next(), Ok(0), "the others admit");
}

#[test]
fn where_ones_own_objects_live_is_no_spillover() {
    let mut world = pinned(2, 1);
    world.ask.lowest_priority = Some(1);
    assert_eq!(world.next(), Ok(1));
    world.pool.set_drained(1, true);
    assert_eq!(world.next(), Err(Exhausted::Spent { cause: Cause::OutOfUse }));
}

#[test]
fn a_pin_to_a_backend_that_is_gone_or_does_not_serve_the_deployment_is_unserved() {
    let mut world = pinned(2, 1);
    world.pool.reconfigure(world.now, settings(vec![backend("b1", 1, 1)]));
    assert_eq!(world.next(), Err(Exhausted::Unserved));
}

#[test]
fn what_is_nowhere_is_asked_for_at_each_backend_once_and_then_not_there() {
    let mut world = World::ladder(3);
    let (asked, end) = search(&mut world, &mut Attempts::default());
    assert_eq!((asked, end), (vec![0, 1, 2], Exhausted::Spent { cause: Cause::Answered }));
    assert_eq!(world.next(), Ok(0), "it changes no lane");
}

#[test]
fn not_there_is_only_told_when_every_backend_could_be_asked() {
    // One failed.
    let mut world = World::ladder(2);
    let attempts = &mut Attempts::default();
    let pick = world.pick(attempts).unwrap();
    world.failure(pick, AttemptFailure::Closed, attempts);
    let (asked, end) = search(&mut world, attempts);
    assert_eq!(asked, [1]);
    assert_eq!(end, Exhausted::Spent { cause: Cause::Failed(AttemptFailure::Closed) });
    // One answered otherwise: that answer is passed back, and not the one that came after it.
    let mut world = World::ladder(2);
    let attempts = &mut Attempts::default();
    let pick = world.pick(attempts).unwrap();
    assert!(world.answer(pick, 500, &[], "{}", attempts).keep);
    let pick = world.pick(attempts).unwrap();
    let headers = HeaderMap::new();
    let answer = Answer { looked_for: true, ..answer(404, &headers, b"{}") };
    assert!(!world.judged(pick, &answer, attempts).keep);
    // One cools, one is drained.
    let mut world = World::ladder(2);
    world.meet(429, &[("retry-after", "30")], "{}");
    assert!(matches!(search(&mut world, &mut Attempts::default()).1, Exhausted::Throttled { .. }));
    let mut world = World::ladder(2);
    world.pool.set_drained(0, true);
    let (asked, end) = search(&mut world, &mut Attempts::default());
    assert_eq!((asked, end), (vec![1], Exhausted::Spent { cause: Cause::OutOfUse }));
}
