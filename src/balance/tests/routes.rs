//! Names, lanes, and the bound on both.

use super::{Attempts, NOT_FOUND, PEAK_LOAD, World, backend, seconds, settings};
use crate::balance::{BackendSettings, Deployments, Exhausted, PoolSettings};
use std::collections::BTreeMap;

fn named(name: &str, priority: u32, pairs: &[(&str, &str)]) -> BackendSettings {
    let map: BTreeMap<String, String> =
        pairs.iter().map(|(name, there)| ((*name).to_owned(), (*there).to_owned())).collect();
    BackendSettings { deployments: Deployments::Named(map), ..backend(name, priority, 1) }
}

fn all_as(name: &str, priority: u32, there: &str) -> BackendSettings {
    BackendSettings { deployments: Deployments::AllAs(there.to_owned()), ..backend(name, priority, 1) }
}

fn there(world: &mut World, deployment: Option<&'static str>) -> Option<String> {
    world.ask.deployment = deployment;
    let pick = world.pick(&mut Attempts::default()).unwrap();
    let there = pick.deployment_there.as_ref().map(ToString::to_string);
    world.pool.abandon(pick);
    there
}

fn lanes_of(world: &mut World, backend: usize) -> Vec<String> {
    let snapshot = world.pool.snapshot(world.now);
    snapshot.backends[backend].lanes.iter().map(|lane| lane.deployment.to_string()).collect()
}

#[test]
fn the_name_there_is_told_only_where_it_differs() {
    let mut world = World::new(vec![named("mapped", 1, &[("a", "a"), ("b", "x")])]);
    assert_eq!(there(&mut world, Some("a")), None);
    assert_eq!(there(&mut world, Some("b")).as_deref(), Some("x"));
    let mut world = World::new(vec![all_as("aca", 1, "gpt")]);
    assert_eq!(there(&mut world, Some("anything")).as_deref(), Some("gpt"));
    assert_eq!(there(&mut world, Some("gpt")), None);
}

#[test]
fn two_callers_names_of_one_deployment_share_its_lane() {
    let mut world = World::new(vec![named("mapped", 1, &[("a", "x"), ("b", "x")]), backend("spill", 2, 1)]);
    world.ask.deployment = Some("a");
    world.meet(429, &[("retry-after", "5")], "");
    world.ask.deployment = Some("b");
    assert_eq!(world.next(), Ok(1));
}

#[test]
fn a_backend_that_does_not_serve_a_deployment_is_not_asked() {
    let mut world = World::new(vec![named("other", 1, &[("b", "b")]), backend("any", 2, 1)]);
    assert_eq!(world.next(), Ok(1));
    world.ask.deployment = Some("b");
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn requests_without_a_deployment_use_the_unnamed_lane_of_every_backend() {
    let mut world = World::new(vec![named("mapped", 1, &[("a", "a")]), backend("any", 2, 1)]);
    world.ask.deployment = None;
    assert_eq!(world.meet(429, &[("retry-after", "5")], ""), 0);
    assert_eq!(world.next(), Ok(1));
    world.ask.deployment = Some("a");
    assert_eq!(world.next(), Ok(0), "the unnamed lane's cooldown is its own");
}

#[test]
fn invented_names_are_forgotten_and_served_ones_are_not() {
    let mut world = World::with(PoolSettings { lanes: 10, ..settings(vec![backend("b", 1, 1)]) });
    let attempts = &mut Attempts::default();
    let pick = world.pick(attempts).unwrap();
    world.served(pick, attempts);
    for index in 0..1_000 {
        let name: &'static str = Box::leak(format!("invented-{index}").into_boxed_str());
        world.ask.deployment = Some(name);
        assert_eq!(world.next(), Ok(0));
    }
    let lanes = lanes_of(&mut world, 0);
    assert!(lanes.len() <= 10, "{lanes:?}");
    assert!(lanes.contains(&"gpt-4o".to_owned()));
    assert!(lanes.contains(&"invented-999".to_owned()), "the newest is remembered");
}

#[test]
fn when_every_lane_is_in_use_a_further_name_travels_without_one() {
    let mut world =
        World::with(PoolSettings { lanes: 2, ..settings(vec![all_as("b", 1, "x"), backend("a", 2, 1)]) });
    world.pool.set_drained(0, true);
    // Unnamed lanes of both and `x` are three already: no room for any other.
    world.ask.deployment = Some("new");
    assert_eq!(world.next(), Ok(1));
    assert_eq!(lanes_of(&mut world, 1), [""; 0]);
    world.pool.set_drained(0, false);
    assert_eq!(there(&mut world, Some("new")).as_deref(), Some("x"), "the name there is right all the same");
}

#[test]
fn invented_names_beyond_the_bound_never_take_the_unnamed_lane_from_others() {
    let mut world = World::with(PoolSettings { lanes: 1, ..settings(vec![backend("b", 1, 1)]) });
    world.ask.deployment = Some("invented");
    world.meet(404, &[], NOT_FOUND);
    world.meet(400, &[], r#"{"error":{"code":"OperationNotSupported"}}"#);
    world.ask.deployment = None;
    assert_eq!(world.next(), Ok(0), "what one name lacks says nothing of the others");
}

#[test]
fn names_beyond_the_bound_share_no_fate_with_each_other_or_with_anybody() {
    let mut world =
        World::with(PoolSettings { lanes: 2, ..settings(vec![backend("a", 1, 1), backend("b", 2, 1)]) });
    for (status, pairs) in [(429, &[("retry-after", "30")][..]), (503, &[("retry-after", "30")]), (500, &[])]
    {
        for _ in 0..3 {
            world.ask.deployment = Some("strange");
            assert_eq!(world.meet(status, pairs, ""), 0, "{status}: it is let in again itself");
            for other in [Some("stranger"), None] {
                world.ask.deployment = other;
                assert_eq!(world.next(), Ok(0), "{status} {other:?}");
            }
        }
    }
    let unnamed = &world.pool.snapshot(world.now).backends[0].lanes[0];
    assert_eq!((&*unnamed.deployment, unnamed.tally.throttled, unnamed.tally.failed), ("", 0, 0));
    assert_eq!(world.pool.snapshot(world.now).in_flight, 0);
}

#[test]
fn a_name_beyond_the_bound_that_is_throttled_everywhere_is_told_when_to_come_back() {
    let mut world =
        World::with(PoolSettings { lanes: 2, ..settings(vec![backend("a", 1, 1), backend("b", 2, 1)]) });
    world.ask.deployment = Some("strange");
    let attempts = &mut Attempts::default();
    for (wait, body) in [("30", ""), ("20", PEAK_LOAD)] {
        let pick = world.pick(attempts).unwrap();
        world.answer(pick, 429, &[("retry-after", wait)], body, attempts);
    }
    let Err(Exhausted::Throttled { wait }) = world.pick(attempts).map(|pick| pick.backend) else {
        panic!("told something else")
    };
    assert!((seconds(20)..=seconds(21)).contains(&wait), "{wait:?}");
}

#[test]
fn a_name_beyond_the_bound_obeys_the_lane_that_it_leads_to() {
    let mut world =
        World::with(PoolSettings { lanes: 3, ..settings(vec![all_as("b", 1, "x"), backend("a", 2, 1)]) });
    world.ask.deployment = Some("x");
    assert_eq!(world.meet(429, &[("retry-after", "5")], ""), 0);
    world.ask.deployment = Some("new");
    assert_eq!(world.next(), Ok(1), "x cools, by whatever name it is called");
    world.ask.deployment = None;
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn a_route_in_flight_is_not_forgotten() {
    let mut world = World::with(PoolSettings { lanes: 3, ..settings(vec![backend("b", 1, 1)]) });
    let pick = world.pick(&mut Attempts::default()).unwrap();
    for name in ["one", "two", "three", "four"] {
        world.ask.deployment = Some(name);
        world.next().unwrap();
    }
    assert!(lanes_of(&mut world, 0).contains(&"gpt-4o".to_owned()));
    world.pool.abandon(pick);
}

#[test]
fn a_cooldown_is_not_forgotten_however_many_names_are_invented() {
    let mut world = World::with(PoolSettings { lanes: 4, ..settings(vec![backend("b", 1, 1)]) });
    world.meet(429, &[("retry-after", "30")], "");
    for name in ["one", "two", "three", "four", "five", "six"] {
        world.ask.deployment = Some(name);
        world.next().unwrap();
    }
    world.ask.deployment = Some("gpt-4o");
    assert!(world.wait() >= seconds(30));
}

#[test]
fn names_mapped_to_one_lane_cost_routes_and_these_are_bounded_too() {
    let mut world = World::with(PoolSettings { lanes: 5, ..settings(vec![all_as("b", 1, "x")]) });
    for index in 0..100 {
        let name: &'static str = Box::leak(format!("n{index}").into_boxed_str());
        assert_eq!(there(&mut world, Some(name)).as_deref(), Some("x"));
    }
    assert_eq!(lanes_of(&mut world, 0), ["x"]);
}
