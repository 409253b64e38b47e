//! Who is picked by what is left, how fast and how well a lane is, and by conversation; and how that is explained.

use super::{Attempts, Duration, World, backend, headers, millis, seconds};
use crate::balance::{Exhausted, Obstacle, Turn, Verdict};

impl World {
    /// The next request, whatever lane gets it, is answered after `after`; the lane tells these quotas.
    fn told_after(&mut self, after: Duration, limit: u64, remaining: u64) -> usize {
        let attempts = &mut Attempts::default();
        let pick = self.pick(attempts).unwrap();
        let backend = pick.backend;
        self.now += after;
        let told = headers(&[
            ("x-ratelimit-limit-tokens", &limit.to_string()),
            ("x-ratelimit-remaining-tokens", &remaining.to_string()),
        ]);
        self.pool.answered(self.now, &pick, &told, attempts);
        self.pool.report(self.now, pick, Verdict::Served { tokens: 100 }, attempts);
        backend
    }

    /// Each backend in turn tells its quota: limit and what remains.
    fn tell(&mut self, quotas: &[(u64, u64)]) {
        for told in 0..quotas.len() {
            for index in 0..quotas.len() {
                self.pool.set_drained(index, index != told);
            }
            let (limit, remaining) = quotas[told];
            self.told_after(Duration::ZERO, limit, remaining);
        }
        for index in 0..quotas.len() {
            self.pool.set_drained(index, false);
        }
    }

    /// How many of 4,000 fresh requests each of two backends gets; each is given back as failed, so that it takes
    /// nothing of the quota.
    fn drawn(&mut self) -> [u32; 2] {
        let mut counts = [0; 2];
        for _ in 0..4_000 {
            let mut choice = self.pool.explain(self.now, &self.ask).backends;
            choice.sort_by_key(|explained| explained.backend);
            let Turn::Drawn { chance } = choice[0].turn else { panic!("{choice:?}") };
            counts[usize::from(self.coin() >= chance)] += 1;
        }
        counts
    }

    fn coin(&mut self) -> f64 {
        self.pass(Duration::from_nanos(1));
        fastrand::Rng::with_seed(u64::from((self.now - super::start()).subsec_nanos())).f64()
    }

    /// How likely the first of the backends is drawn.
    fn chance(&self) -> f64 {
        let choice = self.pool.explain(self.now, &self.ask).backends;
        choice
            .iter()
            .find_map(|explained| match explained.turn {
                Turn::Drawn { chance } if explained.backend == 0 => Some(chance),
                _ => None,
            })
            .unwrap_or(0.0)
    }
}

#[test]
fn a_request_goes_where_it_fits() {
    let mut world = World::equals(2);
    world.tell(&[(100_000, 4_999), (30_000, 20_000)]);
    world.ask.charge = 5_000;
    for _ in 0..4 {
        let pick = world.pick(&mut Attempts::default()).unwrap();
        assert_eq!(pick.backend, 1, "the larger one has too little left");
    }
    world.ask.charge = 4_000;
    assert_eq!(world.next(), Ok(0), "a smaller one still fits there");
    world.ask.charge = 5_000;
    for _ in 0..2 {
        let _asked = world.pick(&mut Attempts::default()).expect("one each asks until when");
    }
    let full = world.next().unwrap_err();
    assert!(matches!(full, Exhausted::Throttled { wait } if wait >= seconds(59)), "{full:?}");
}

#[test]
fn only_the_overflow_spills_and_traffic_returns_when_the_minute_begins_again() {
    let mut world = World::ladder(2);
    world.told_after(Duration::ZERO, 30_000, 9_000);
    world.ask.charge = 4_000;
    let picked = |world: &mut World| world.pick(&mut Attempts::default()).unwrap().backend;
    assert_eq!([picked(&mut world), picked(&mut world), picked(&mut world)], [0, 0, 1]);
    world.pass(millis(59_999));
    assert_eq!(picked(&mut world), 1);
    world.pass(millis(1));
    assert_eq!(picked(&mut world), 0);
}

#[test]
fn a_provisioned_backend_gets_its_traffic_back_within_milliseconds() {
    let mut world = World::ladder(2);
    assert_eq!(world.meet(429, &[("retry-after-ms", "43"), ("retry-after", "1")], ""), 0);
    assert_eq!(world.next(), Ok(1));
    world.pass(millis(43));
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn lanes_are_drawn_by_what_they_can_spend_until_their_minute_begins_again() {
    let mut world = World::equals(2);
    world.tell(&[(100_000, 60_000), (100_000, 20_000)]);
    assert!((world.chance() - 0.75).abs() < 0.01, "{}", world.chance());
    let [first, second] = world.drawn();
    assert!(first > 2 * second, "{first} {second}");
    // The second's minute begins again in 10 s, the first's at an unknown time.
    let attempts = &mut Attempts::default();
    world.pool.set_drained(0, true);
    let pick = world.pick(attempts).unwrap();
    let quota = [("retry-after", "10"), ("x-ratelimit-remaining-tokens", "900")];
    world.answer(pick, 429, &quota, "", attempts);
    world.pool.set_drained(0, false);
    world.pass(seconds(10));
    let chance = world.chance();
    assert!((chance - 0.545).abs() < 0.01, "60,000 in 30 s against 100,000 in 60 s: {chance}");
}

#[test]
fn the_weight_of_the_settings_multiplies() {
    let mut world = World::new(vec![backend("a", 1, 3), backend("b", 1, 1)]);
    world.tell(&[(50_000, 20_000), (50_000, 20_000)]);
    assert!((world.chance() - 0.75).abs() < 0.01);
}

#[test]
fn slower_and_failing_lanes_are_drawn_less() {
    let mut world = World::equals(2);
    world.pool.set_drained(1, true);
    world.told_after(millis(1_200), 100_000, 90_000);
    world.pool.set_drained(1, false);
    let slow = world.chance();
    assert!((0.03..0.09).contains(&slow), "1.2 s against 0.3 s: {slow}");
    let mut world = World::new(vec![backend("a", 1, 1), backend("b", 2, 1)]);
    for _ in 0..2 {
        world.meet(500, &[], "");
    }
    assert!(world.chance() > 0.99, "it is in a group of its own");
    let settings = super::settings(vec![backend("a", 1, 1), backend("b", 1, 1)]);
    world.pool.reconfigure(world.now, settings);
    let failing = world.chance();
    assert!((0.02..0.04).contains(&failing), "two failures: {failing}");
    world.pass(seconds(120));
    assert!(world.chance() > 0.49);
}

#[test]
fn a_silent_lane_is_used_last() {
    let mut world = World::equals(2);
    world.pool.set_drained(1, true);
    let waiting: Vec<_> = (0..3).map(|_| world.pick(&mut Attempts::default()).unwrap()).collect();
    world.pool.set_drained(1, false);
    world.pass(seconds(11));
    for _ in 0..20 {
        assert_eq!(world.next(), Ok(1));
    }
    world.pool.set_drained(1, true);
    assert_eq!(world.next(), Ok(0), "there is no other");
    let explained = world.pool.explain(world.now, &world.ask);
    assert_eq!(explained.backends[0].turn, Turn::Last(Obstacle::Silent));
    world.pool.set_drained(1, false);
    for pick in waiting {
        world.pool.abandon(pick);
    }
    assert!((world.chance() - 0.5).abs() < 0.01, "nobody waits there any more");
}

#[test]
fn a_committed_stream_whose_caller_leaves_is_counted_once() {
    let mut world = World::equals(1);
    for _ in 0..3 {
        let attempts = &mut Attempts::default();
        let pick = world.pick(attempts).unwrap();
        world.pool.answered(world.now, &pick, &headers(&[]), attempts);
        world.pool.abandon(pick);
    }
    let waiting: Vec<_> = (0..3).map(|_| world.pick(&mut Attempts::default()).unwrap()).collect();
    world.pass(seconds(11));
    let explained = world.pool.explain(world.now, &world.ask);
    assert_eq!(explained.backends[0].turn, Turn::Last(Obstacle::Silent), "three wait, not none");
    waiting.into_iter().for_each(|pick| world.pool.abandon(pick));
}

#[test]
fn turns_of_a_conversation_stay_together_and_conversations_are_shared_out() {
    let mut world = World::equals(4);
    let mut homes = [0; 4];
    for conversation in 0..200 {
        world.ask.conversation = Some(conversation);
        let home = world.next().unwrap();
        homes[home] += 1;
        for _ in 0..5 {
            assert_eq!(world.next(), Ok(home));
        }
    }
    assert!(homes.iter().all(|home| *home > 20), "{homes:?}");
}

#[test]
fn another_pool_with_the_same_backends_keeps_conversations_at_the_same_ones() {
    let backends = |names: [&str; 3]| World::new(names.map(|name| backend(name, 1, 1)).to_vec());
    let (mut one, mut other) = (backends(["a", "b", "c"]), backends(["c", "a", "b"]));
    for conversation in 0..50 {
        one.ask.conversation = Some(conversation);
        other.ask.conversation = Some(conversation);
        let (one, other) = (one.next().unwrap(), other.next().unwrap());
        assert_eq!(["a", "b", "c"][one], ["c", "a", "b"][other]);
    }
}

#[test]
fn a_conversation_leaves_a_home_that_is_full_failing_slow_or_throttled_and_returns() {
    let mut world = World::equals(2);
    world.tell(&[(100_000, 90_000), (100_000, 90_000)]);
    world.ask.conversation = (0..).find(|conversation| {
        world.ask.conversation = Some(*conversation);
        world.next() == Ok(0)
    });
    world.tell(&[(100_000, 999), (100_000, 90_000)]);
    assert_eq!(world.next(), Ok(1), "it has no room for 1,000");
    world.pass(seconds(60));
    assert_eq!(world.next(), Ok(0));
    world.meet(429, &[("retry-after-ms", "500")], "");
    assert_eq!(world.next(), Ok(1));
    world.pass(millis(500));
    assert_eq!(world.next(), Ok(0));
    world.told_after(millis(5_000), 100_000, 90_000);
    assert_eq!(world.next(), Ok(1), "much slower than the other");
    world.pass(seconds(60));
    for _ in 0..2 {
        assert_eq!(world.meet(500, &[], ""), 0);
    }
    assert_eq!(world.next(), Ok(1), "it fails often");
    world.pass(seconds(30));
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn a_request_larger_than_every_limit_goes_to_the_largest_that_is_not_cooling() {
    let mut world = World::equals(3);
    world.tell(&[(30_000, 10_000), (50_000, 10_000), (40_000, 10_000)]);
    world.ask.charge = 250_000;
    assert_eq!(world.next(), Ok(1));
    assert_eq!(world.meet(429, &[("retry-after", "20")], ""), 1);
    assert_eq!(world.next(), Ok(2));
    assert_eq!(world.meet(429, &[("retry-after", "86400")], ""), 2);
    assert_eq!(world.meet(429, &[("retry-after", "86400")], ""), 0, "each may know better than our guess");
    let told = world.wait();
    assert!(told >= seconds(20), "{told:?}");
}

#[test]
fn only_a_429_for_it_keeps_a_request_of_that_size_out() {
    let mut world = World::equals(1);
    world.tell(&[(30_000, 29_000)]);
    world.ask.charge = 250_000;
    assert_eq!(world.meet(429, &[("retry-after", "86400")], ""), 0);
    assert_eq!(world.next(), Err(Exhausted::TooLarge));
    world.ask.charge = 1_000;
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn where_nothing_fits_one_request_in_two_seconds_asks_until_when() {
    let mut world = World::equals(1);
    world.tell(&[(30_000, 500)]);
    assert_eq!(world.meet(429, &[], ""), 0, "the minute's beginning is not known, and this does not tell it");
    world.pass(seconds(10));
    let probe = world.pick(&mut Attempts::default()).unwrap();
    for _ in 0..3 {
        assert!(matches!(world.next(), Err(Exhausted::Throttled { .. })));
    }
    world.pass(seconds(2));
    let attempts = &mut Attempts::default();
    let second = world.pick(attempts).unwrap();
    world.answer(second, 429, &[("retry-after", "7")], "", attempts);
    world.pool.abandon(probe);
    world.pass(seconds(7));
    assert_eq!(world.next(), Ok(0));
}

/// What six callers are told, half a second after a 429 that left so much of 60,000 tokens and took 1.5 s.
fn told_in_turn(remaining: &str) -> [Duration; 6] {
    let mut world = World::equals(1);
    world.tell(&[(60_000, 20_000)]);
    world.meet(429, &[("retry-after-ms", "1500"), ("x-ratelimit-remaining-tokens", remaining)], "");
    world.pass(millis(500));
    std::array::from_fn(|_| world.wait())
}

#[test]
fn callers_sent_away_are_told_their_turn_where_limits_are_known() {
    // A limit of requests. 60 a minute, half of them promised: one in two seconds.
    for (place, told) in (0..).zip(told_in_turn("20000")) {
        // The first place had the one that was throttled itself.
        let turn = millis(1_500) + seconds(2) * place;
        assert!(told >= turn && told <= turn + millis(500), "{place}: {told:?}");
    }
}

#[test]
fn all_of_a_minute_is_promised_where_its_beginning_is_known() {
    for (place, told) in (0..).zip(told_in_turn("500")) {
        let turn = millis(500) + seconds(1) * place;
        assert!(told >= turn.max(seconds(1)) && told <= turn.max(seconds(2)), "{place}: {told:?}");
    }
}

#[test]
fn a_choice_is_explained_and_not_made() {
    let mut world = World::new(vec![
        backend("home", 1, 1),
        backend("full", 1, 1),
        backend("cooling", 1, 1),
        backend("spill", 2, 1),
        backend("gone", 2, 1),
    ]);
    world.tell(&[(30_000, 29_000), (30_000, 200), (30_000, 29_000), (30_000, 29_000), (30_000, 29_000)]);
    for index in [0, 1, 3, 4] {
        world.pool.set_drained(index, true);
    }
    world.meet(429, &[("retry-after", "30")], "");
    for index in [0, 1, 3] {
        world.pool.set_drained(index, false);
    }
    world.ask.conversation = Some(1);
    let before = world.pool.snapshot(world.now);
    let explanation = world.pool.explain(world.now, &world.ask);
    let told: Vec<_> =
        explanation.backends.iter().map(|explained| (&*explained.name, explained.turn)).collect();
    assert_eq!(
        told,
        [
            ("home", Turn::Home),
            ("spill", Turn::Spillover),
            ("full", Turn::Not(Obstacle::Full { remaining: seconds(60) })),
            ("cooling", Turn::Not(Obstacle::Cooling { remaining: seconds(30) })),
            ("gone", Turn::Not(Obstacle::OutOfUse)),
        ]
    );
    assert!(explanation.to_string().contains("full (priority 1): not now: full for 60.0 s\n"));
    world.ask.deployment = Some("never heard of");
    let _unknown = world.pool.explain(world.now, &world.ask);
    assert_eq!(world.pool.snapshot(world.now), before);
}

#[test]
fn where_nothing_admits_the_last_resorts_are_told_in_the_order_in_which_they_are_asked() {
    let names = ["rests", "full", "small", "larger", "cooling"];
    let mut world = World::new(names.map(|name| backend(name, 1, 1)).to_vec());
    world.tell(&[(30_000, 29_000), (30_000, 500), (10_000, 9_000), (15_000, 9_000), (30_000, 29_000)]);
    for (away, status) in [(0, 503), (4, 429)] {
        (0..names.len()).for_each(|index| world.pool.set_drained(index, index != away));
        assert_eq!(world.meet(status, &[("retry-after", "30")], ""), away);
    }
    (0..names.len()).for_each(|index| world.pool.set_drained(index, false));
    world.ask.charge = 20_000;
    let told = world.pool.explain(world.now, &world.ask).backends;
    let is_last = |turn: Turn| matches!(turn, Turn::Last(_));
    let last: Vec<&str> = told.iter().filter(|one| is_last(one.turn)).map(|one| &*one.name).collect();
    let attempts = &mut Attempts::default();
    let mut asked = Vec::new();
    while let Ok(pick) = world.pick(attempts) {
        asked.push(names[pick.backend]);
        world.pool.abandon(pick);
    }
    assert_eq!(asked, ["larger", "small", "full", "rests"]);
    assert_eq!(last, asked);
    assert_eq!(&*told[4].name, "cooling");
}

#[test]
fn an_answer_without_a_limit_is_charged_what_such_answers_took_on_average() {
    let mut world = World::equals(1);
    let mut left_after = |unlimited, took| {
        world.ask.unlimited = false;
        world.tell(&[(100_000, 90_000)]);
        world.ask.unlimited = unlimited;
        let attempts = &mut Attempts::default();
        let pick = world.pick(attempts).unwrap();
        let lanes = &world.pool.snapshot(world.now).backends[0].lanes;
        let lane = lanes.iter().find(|lane| &*lane.deployment == "gpt-4o").unwrap();
        let left = lane.quota.remaining_tokens;
        world.pool.report(world.now, pick, Verdict::Served { tokens: took }, attempts);
        left
    };
    assert_eq!(left_after(false, 900_000), Some(89_000), "1,000 are known of each request");
    assert_eq!(left_after(true, 3_000), Some(89_000), "how long such answers are is not known yet");
    assert_eq!(left_after(true, 0), Some(87_000), "that took 2,000 more than was known");
    assert_eq!(left_after(false, 3_000), Some(89_000), "a limit says it all");
}
