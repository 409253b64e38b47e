//! The invariants, over random schedules of requests, answers, reloads and time.

use std::collections::HashMap;
use std::time::Instant;

use proptest::prelude::{
    Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use proptest::test_runner::TestCaseError;

use super::{Attempts, Duration, NOT_FOUND, PEAK_LOAD, World, backend, millis, seconds, settings};
use crate::balance::{AttemptFailure, Exhausted, Next, Pick, PoolSnapshot, State};

const NAMES: [Option<&str>; 3] = [Some("gpt-4o"), Some("gpt-4o-mini"), None];

#[derive(Clone, Debug)]
enum Event {
    Pass(u64),
    Begin { name: usize, charge: u64 },
    End { which: usize, how: How },
    Drain { which: usize, drained: bool },
    Reload,
}

#[derive(Clone, Debug)]
enum How {
    Well,
    Throttled(u64),
    Status(u16),
    Unavailable(u64),
    Absent,
    PeakLoad,
    Failure(AttemptFailure),
    CallerLeft,
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        4 => Just(How::Well),
        4 => (0_u64..90_000).prop_map(How::Throttled),
        3 => prop_oneof![Just(400_u16), Just(401), Just(408), Just(500), Just(503)].prop_map(How::Status),
        1 => (0_u64..90).prop_map(How::Unavailable),
        1 => Just(How::Absent),
        1 => Just(How::PeakLoad),
        3 => prop_oneof![
            Just(AttemptFailure::Refused),
            Just(AttemptFailure::Closed),
            Just(AttemptFailure::FirstEventTimeout)
        ]
        .prop_map(How::Failure),
        1 => Just(How::CallerLeft),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => prop_oneof![0_u64..200, 0_u64..20_000, 0_u64..70_000].prop_map(Event::Pass),
        10 => (0..NAMES.len(), 1_u64..9_000).prop_map(|(name, charge)| Event::Begin { name, charge }),
        12 => (any::<usize>(), how()).prop_map(|(which, how)| Event::End { which, how }),
        1 => (0_usize..5, any::<bool>()).prop_map(|(which, drained)| Event::Drain { which, drained }),
        1 => Just(Event::Reload),
    ]
}

#[derive(Default)]
struct Request {
    attempts: Attempts,
    tried: Vec<usize>,
    name: usize,
    charge: u64,
}

struct Schedule {
    world: World,
    backends: Vec<(u32, u32)>,
    in_flight: Vec<(Pick, Request)>,
    /// Smaller requests meet no size mark.
    smallest_mark: u64,
    /// What the throttled answers promised, kept apart from the pool.
    deadlines: HashMap<(usize, usize), Instant>,
}

impl Schedule {
    fn new(backends: Vec<(u32, u32)>) -> Self {
        let world = World::new(named(&backends));
        Self { world, backends, in_flight: Vec::new(), smallest_mark: u64::MAX, deadlines: HashMap::new() }
    }

    fn step(&mut self, event: Event) -> Result<(), TestCaseError> {
        match event {
            Event::Pass(time) => self.world.pass(millis(time)),
            Event::Begin { name, charge } => self.pick(Request { name, charge, ..Request::default() })?,
            Event::End { which, how } if !self.in_flight.is_empty() => {
                let which = which % self.in_flight.len();
                let (pick, request) = self.in_flight.swap_remove(which);
                self.end(pick, request, &how)?;
            }
            Event::End { .. } => {}
            Event::Drain { which, drained } => self.world.pool.set_drained(which, drained),
            Event::Reload => self.world.pool.reconfigure(self.world.now, settings(named(&self.backends))),
        }
        let snapshot = self.world.pool.snapshot(self.world.now);
        let held = u64::try_from(self.in_flight.len()).unwrap();
        prop_assert_eq!(snapshot.in_flight, held);
        prop_assert_eq!(snapshot.backends.iter().map(|backend| backend.tally.in_flight).sum::<u64>(), held);
        let lanes = snapshot.backends.iter().flat_map(|backend| &backend.lanes);
        prop_assert_eq!(lanes.map(|lane| lane.tally.in_flight).sum::<u64>(), held);
        Ok(())
    }

    fn pick(&mut self, mut request: Request) -> Result<(), TestCaseError> {
        let name = request.name;
        self.world.ask.deployment = NAMES[name];
        self.world.ask.charge = request.charge;
        let before = self.world.pool.snapshot(self.world.now);
        let lane_name = NAMES[name].unwrap_or("");
        match self.world.pick(&mut request.attempts) {
            Ok(pick) => {
                let deadline = self.deadlines.get(&(pick.backend, name));
                prop_assert!(
                    deadline.is_none_or(|deadline| *deadline <= self.world.now),
                    "before its deadline"
                );
                let backend = &before.backends[pick.backend];
                let lane = backend.lanes.iter().find(|lane| &*lane.deployment == lane_name);
                let state = lane.map_or(State::Admitting, |lane| lane.state);
                prop_assert!(
                    state == State::Admitting
                        || (pick.probe && matches!(state, State::Resting | State::Probing)),
                    "picked while {state}, probe: {}",
                    pick.probe
                );
                prop_assert!(!request.tried.contains(&pick.backend), "tried twice");
                request.tried.push(pick.backend);
                self.in_flight.push((pick, request));
            }
            Err(exhausted) => {
                if request.charge < self.smallest_mark {
                    for (index, backend) in before.backends.iter().enumerate() {
                        let lane = backend.lanes.iter().find(|lane| &*lane.deployment == lane_name);
                        let admits = lane.is_none_or(|lane| lane.state == State::Admitting)
                            && backend.state == State::Admitting;
                        prop_assert!(
                            !admits || request.tried.contains(&index),
                            "b{index} admits and was not tried"
                        );
                    }
                }
                self.check_wait(&request, exhausted, &before)?;
            }
        }
        Ok(())
    }

    fn check_wait(
        &self,
        request: &Request,
        told: Exhausted,
        before: &PoolSnapshot,
    ) -> Result<(), TestCaseError> {
        let lane_name = NAMES[request.name].unwrap_or("");
        match told {
            Exhausted::Throttled { wait } if request.tried.is_empty() => {
                let lanes = before.backends.iter().flat_map(|backend| &backend.lanes);
                let soonest = lanes
                    .filter(|lane| &*lane.deployment == lane_name)
                    .filter_map(|lane| lane.remaining)
                    .min();
                let soonest = soonest.unwrap_or_default().min(seconds(59));
                prop_assert!(wait >= soonest, "told {wait:?}, soonest {soonest:?}");
                prop_assert!(wait <= seconds(59) && wait >= millis(10), "{wait:?}");
            }
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, pick: Pick, mut request: Request, how: &How) -> Result<(), TestCaseError> {
        self.world.ask.charge = request.charge;
        let attempts = &mut request.attempts;
        let world = &mut self.world;
        let judgement = match how {
            How::CallerLeft => {
                world.pool.abandon(pick);
                return Ok(());
            }
            How::Well => {
                world.served(pick, attempts);
                return Ok(());
            }
            How::Throttled(time) => {
                let until = world.now + millis(*time).clamp(millis(10), seconds(60));
                let deadline = self.deadlines.entry((pick.backend, request.name)).or_insert(until);
                *deadline = until.max(*deadline);
                world.answer(pick, 429, &[("retry-after-ms", &time.to_string())], "", attempts)
            }
            How::Status(status) => world.answer(pick, *status, &[], "", attempts),
            How::Unavailable(time) => {
                world.answer(pick, 503, &[("retry-after", &time.to_string())], "", attempts)
            }
            How::Absent => world.answer(pick, 404, &[], NOT_FOUND, attempts),
            How::PeakLoad => {
                self.smallest_mark = self.smallest_mark.min(request.charge);
                world.answer(pick, 429, &[], PEAK_LOAD, attempts)
            }
            How::Failure(failure) => world.failure(pick, *failure, attempts),
        };
        if judgement.next == Next::NextLane { self.pick(request) } else { Ok(()) }
    }
}

fn named(backends: &[(u32, u32)]) -> Vec<super::BackendSettings> {
    backends
        .iter()
        .enumerate()
        .map(|(index, (priority, weight))| backend(&format!("b{index}"), *priority, *weight))
        .collect()
}

fn backends() -> impl Strategy<Value = Vec<(u32, u32)>> {
    proptest::collection::vec((1_u32..4, 1_u32..5), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// I1: nothing is exhausted while an untried lane admits. I2: nothing is sent to a lane before its deadline but a probe. I3: the wait told is never sooner than
    /// min(true soonest recovery, 59 s). I8: picks minus reports equals in flight. Checked at every step.
    #[test]
    fn deadlines_waits_and_counts_hold_on_every_schedule(
        backends in backends(),
        events in proptest::collection::vec(event(), 0..150),
    ) {
        let mut schedule = Schedule::new(backends);
        for event in events {
            schedule.step(event)?;
        }
    }

    /// I10: whatever the schedule was, an idle pool whose backends are well serves the next request, at once or after
    /// the wait it tells, and then all of them.
    #[test]
    fn an_idle_pool_whose_backends_are_well_serves_the_next_request(
        backends in backends(),
        events in proptest::collection::vec(event(), 0..150),
    ) {
        let mut schedule = Schedule::new(backends);
        for event in events {
            schedule.step(event)?;
        }
        let Schedule { mut world, in_flight, .. } = schedule;
        for (pick, ..) in in_flight {
            world.pool.abandon(pick);
        }
        for index in 0..5 {
            world.pool.set_drained(index, false);
        }
        let mut patience = 3;
        let pick = loop {
            match world.pick(&mut Attempts::default()) {
                Ok(pick) => break pick,
                Err(Exhausted::Throttled { wait }) => world.pass(wait),
                // Azure itself said for how long it would refuse this.
                Err(Exhausted::Spent { .. } | Exhausted::TooLarge) => world.pass(seconds(301)),
                Err(Exhausted::Unserved | Exhausted::Soon { .. }) => prop_assert!(false, "unserved"),
            }
            patience -= 1;
            prop_assert!(patience > 0, "still exhausted");
        };
        world.served(pick, &mut Attempts::default());
        world.pass(Duration::from_secs(601));
        for _ in 0..20 {
            let attempts = &mut Attempts::default();
            let pick = world.pick(attempts);
            prop_assert!(pick.is_ok());
            world.served(pick.unwrap(), attempts);
        }
    }

    /// Failures alone never shut an idle pool, not even for a moment.
    #[test]
    fn after_failures_alone_an_idle_pool_serves_at_once(
        backends in backends(),
        failures in proptest::collection::vec((0_u64..9_000, prop_oneof![
            Just(How::Status(500)),
            Just(How::Unavailable(60)),
            Just(How::Failure(AttemptFailure::Refused)),
            Just(How::Failure(AttemptFailure::Closed)),
            Just(How::Well),
        ]), 0..80),
    ) {
        let mut schedule = Schedule::new(backends);
        for (time, how) in failures {
            schedule.step(Event::Begin { name: 0, charge: 1 })?;
            prop_assert_eq!(schedule.in_flight.len(), 1, "an idle pool took the request");
            while !schedule.in_flight.is_empty() {
                schedule.step(Event::End { which: 0, how: how.clone() })?;
            }
            schedule.step(Event::Pass(time))?;
        }
    }

    /// Nothing that comes from outside makes the readers panic, and what they read is a possible duration.
    #[test]
    fn readers_survive_anything(header in "[ -~]{0,24}", body in proptest::collection::vec(any::<u8>(), 0..120)) {
        let pairs = [
            ("retry-after-ms", &*header),
            ("retry-after", &*header),
            ("x-ratelimit-reset-tokens", &*header),
            ("date", &*header),
        ];
        let mut text = b"Please retry after ".to_vec();
        text.extend(&body);
        let headers = super::headers(&pairs);
        for body in [&body, &text] {
            for status in [400, 404, 408, 429, 503] {
                let answer = super::answer(status, &headers, body);
                super::judge(&answer, &super::CHAT, &mut Attempts::default());
            }
        }
    }
}
