//! The product's own pool, driven as `src/proxy/mod.rs` drives it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode};
use sidestep::balance::{
    Answer, Ask, AttemptFailure, Attempts, BackendSettings, Deployments, Exhausted, Next, Pick, Pool,
    PoolSettings, Verdict, judge, judge_failure,
};

use crate::policy::{Policy, Step, Then};
use crate::traffic::Request;
use crate::units::Seconds;
use crate::upstream::{Reply, World};

/// One replica.
pub(crate) struct Sidestep {
    pool: Pool,
    start: Instant,
    headers: HeaderMap,
}

/// One call.
#[derive(Default)]
pub(crate) struct Memory {
    attempts: Attempts,
    pick: Option<Pick>,
}

fn ask(request: &Request) -> Ask<'static> {
    Ask {
        deployment: Some("gpt-4o"),
        second: None,
        family: "inference",
        operation: "chat",
        charge: request.estimate,
        unlimited: false,
        streamed: request.streamed,
        harmless: true,
        conversation: Some(request.conversation),
        lowest_priority: None,
        pin: None,
        patience: Duration::ZERO,
        ahead: 0,
    }
}

impl Sidestep {
    /// The same for a caller that waits so many seconds in line, behind so many others.
    pub(crate) fn next_in_line(
        &mut self,
        now: Seconds,
        request: &Request,
        memory: &mut Memory,
        (patience, ahead): (Seconds, usize),
        _world: &mut World,
    ) -> Step {
        let ask = Ask { patience: Duration::from_secs_f64(patience), ahead, ..ask(request) };
        let picked = self.pool.pick(self.at(now), &ask, &mut memory.attempts);
        if self.pool.has_changes() {
            drop(self.pool.take_changes());
        }
        match picked {
            Ok(pick) => {
                let backend = pick.backend;
                memory.pick = Some(pick);
                Step::Send(backend)
            }
            Err(Exhausted::Soon { until }) => {
                Step::Hold { until: until.saturating_duration_since(self.start).as_secs_f64().max(now) }
            }
            Err(Exhausted::Throttled { wait }) => {
                Step::Refuse { status: 429, wait: Some(wait.as_secs_f64()) }
            }
            // `x-should-retry: false`.
            Err(Exhausted::TooLarge) => Step::Refuse { status: 413, wait: None },
            Err(Exhausted::Unserved | Exhausted::Spent { .. }) => Step::Refuse { status: 502, wait: None },
        }
    }

    /// What the pick under way says.
    pub(crate) fn has_room(&self, memory: &Memory) -> bool {
        memory.pick.as_ref().is_some_and(|pick| pick.has_room)
    }

    fn at(&self, now: Seconds) -> Instant {
        self.start + Duration::from_secs_f64(now)
    }
}

impl Policy for Sidestep {
    type Memory = Memory;

    fn new(world: &World, seed: u64) -> Self {
        let backends = world.backends.iter().enumerate().map(|(index, backend)| BackendSettings {
            name: Arc::from(format!("backend-{index}")),
            url: Arc::from(format!("https://backend-{index}.example")),
            priority: backend.priority,
            weight: NonZeroU32::MIN,
            deployments: Deployments::Any,
        });
        let mut pool = Pool::new(PoolSettings { backends: backends.collect(), lanes: 10_000 }, seed);
        (0..world.backends.len()).for_each(|index| pool.set_credential(index, true));
        Self { pool, start: tokio::time::Instant::now().into_std(), headers: HeaderMap::new() }
    }

    fn next(&mut self, now: Seconds, request: &Request, memory: &mut Memory, world: &mut World) -> Step {
        self.next_in_line(now, request, memory, (0.0, 0), world)
    }

    fn failed(&mut self, now: Seconds, request: &Request, memory: &mut Memory, reply: &Reply) -> Then {
        let at = self.at(now);
        let (ask, attempts) = (ask(request), &mut memory.attempts);
        let judgement = match StatusCode::from_u16(reply.status) {
            Ok(status) => {
                reply.write(&mut self.headers);
                let headers = &self.headers;
                let answer = Answer {
                    status,
                    headers,
                    body: b"",
                    service_tier: None,
                    callers_credential: false,
                    looked_for: false,
                };
                judge(&answer, &ask, attempts)
            }
            Err(_) => judge_failure(AttemptFailure::FirstEventTimeout, &ask, attempts),
        };
        if let Some(pick) = memory.pick.take() {
            self.pool.report(at, pick, judgement.verdict, attempts);
        }
        match judgement.next {
            Next::PassBack => Then::PassBack,
            Next::NextLane => Then::Again,
        }
    }

    fn answered(&mut self, now: Seconds, _request: &Request, memory: &mut Memory, reply: &Reply) {
        reply.write(&mut self.headers);
        if let Some(pick) = &memory.pick {
            self.pool.answered(self.at(now), pick, &self.headers, &mut memory.attempts);
        }
    }

    fn ended(&mut self, now: Seconds, request: &Request, memory: &mut Memory) {
        let at = self.at(now);
        if let Some(pick) = memory.pick.take() {
            let tokens = request.prompt + request.completion;
            self.pool.report(at, pick, Verdict::Served { tokens }, &mut memory.attempts);
        }
    }
}
