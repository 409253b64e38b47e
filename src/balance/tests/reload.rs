//! New settings under running requests.

use super::{Attempts, NOT_FOUND, Verdict, World, backend, seconds, settings};
use crate::balance::{BackendSettings, Deployments};
use std::collections::BTreeMap;

fn reload(world: &mut World, backends: Vec<BackendSettings>) {
    world.pool.reconfigure(world.now, settings(backends));
}

#[test]
fn what_was_learned_of_an_unchanged_backend_is_kept_wherever_it_stands_now() {
    let mut world = World::ladder(2);
    world.meet(429, &[("retry-after", "30")], "");
    reload(&mut world, vec![backend("new", 9, 1), backend("b2", 2, 1), backend("b1", 1, 1)]);
    assert_eq!(world.next(), Ok(1), "b1 still cools, and kept its credential; b2 is next");
    world.pass(seconds(30));
    assert_eq!(world.next(), Ok(2));
    let snapshot = world.pool.snapshot(world.now);
    assert!(!snapshot.backends[0].credential_ready, "a new backend has none until somebody says so");
    assert_eq!(snapshot.backends[2].tally.throttled, 1);
}

#[test]
fn the_same_name_at_another_address_is_another_backend() {
    let mut world = World::ladder(1);
    world.meet(429, &[("retry-after", "30")], "");
    reload(&mut world, vec![BackendSettings { url: "https://moved.example".into(), ..backend("b1", 1, 1) }]);
    world.pool.set_credential(0, true);
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn picks_of_the_old_settings_are_still_accepted() {
    let mut world = World::ladder(2);
    let attempts = &mut Attempts::default();
    let pick = world.pick(attempts).unwrap();
    reload(&mut world, vec![backend("b2", 2, 1), backend("b1", 1, 1)]);
    assert_eq!((pick.generation, world.pool.generation()), (0, 1));
    world.answer(pick, 429, &[("retry-after", "30")], "", attempts);
    let snapshot = world.pool.snapshot(world.now);
    assert_eq!(snapshot.backends[1].tally.throttled, 1, "b1, now second");
    assert_eq!(world.next(), Ok(0));
    let pick = world.pick(attempts).unwrap();
    assert_eq!(pick.backend, 0, "b1 was tried, though it has another position now");
    world.pool.abandon(pick);
}

#[test]
fn picks_of_removed_backends_end_without_a_trace() {
    let mut world = World::ladder(2);
    let (one, two) = (&mut Attempts::default(), &mut Attempts::default());
    let (first, second) = (world.pick(one).unwrap(), world.pick(two).unwrap());
    reload(&mut world, vec![backend("b2", 1, 1)]);
    assert_eq!(world.pool.snapshot(world.now).in_flight, 2);
    world.answer(first, 429, &[("retry-after", "30")], "", one);
    world.pool.report(world.now, second, Verdict::Served { tokens: 1 }, two);
    let snapshot = world.pool.snapshot(world.now);
    assert_eq!((snapshot.in_flight, snapshot.backends[0].tally.requests), (0, 0));
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn a_reload_mends_refusals_and_absences() {
    let mut world = World::ladder(2);
    world.meet(401, &[], "");
    world.meet(404, &[], NOT_FOUND);
    reload(&mut world, vec![backend("b1", 1, 1), backend("b2", 2, 1)]);
    assert_eq!(world.next(), Ok(0));
    world.pool.set_drained(0, true);
    assert_eq!(world.next(), Ok(1));
}

#[test]
fn drained_stays_drained() {
    let mut world = World::ladder(2);
    world.pool.set_drained(0, true);
    reload(&mut world, vec![backend("b1", 1, 1), backend("b2", 2, 1)]);
    assert_eq!(world.next(), Ok(1));
}

#[test]
fn deployments_no_longer_in_the_settings_are_no_longer_served() {
    let only = |name: &str| {
        let map = BTreeMap::from([(name.to_owned(), name.to_owned())]);
        BackendSettings { deployments: Deployments::Named(map), ..backend("b1", 1, 1) }
    };
    let mut world = World::new(vec![only("gpt-4o")]);
    assert_eq!(world.next(), Ok(0));
    reload(&mut world, vec![only("gpt-5")]);
    assert!(world.next().is_err());
    world.ask.deployment = Some("gpt-5");
    assert_eq!(world.next(), Ok(0));
    let snapshot = world.pool.snapshot(world.now);
    assert_eq!(snapshot.backends[0].lanes.len(), 1);
}

#[test]
fn new_weights_and_priorities_count_at_once() {
    let mut world = World::ladder(2);
    reload(&mut world, vec![backend("b1", 2, 1), backend("b2", 1, 1)]);
    assert_eq!(world.next(), Ok(1));
}
