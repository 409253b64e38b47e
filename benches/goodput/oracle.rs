//! What could be had: a balancer that sees the true counters, with the wait rule of selection.md 10.

use fastrand::Rng;

use crate::policy::{Policy, Step, Then};
use crate::traffic::Request;
use crate::units::{Seconds, draw};
use crate::upstream::{Reply, World};

const LONGEST_TOLD: Seconds = 59.0;
/// Share of what is served that returning callers may take.
const RETURNING: f64 = 0.5;

/// One replica.
pub(crate) struct Oracle {
    rng: Rng,
    queue: f64,
    queued_at: Seconds,
}

/// One call: whom it asked in vain.
#[derive(Default)]
pub(crate) struct Memory {
    tried: Vec<usize>,
}

impl Oracle {
    fn wait(&mut self, now: Seconds, request: &Request, world: &mut World) -> Seconds {
        let charge = request.charge() as f64;
        let recovery = world
            .backends
            .iter_mut()
            .map(|backend| (backend.meter.frees_in(now, charge), backend.meter.limit));
        let recoveries: Vec<(Seconds, f64)> = recovery.collect();
        let weights = recoveries.iter().enumerate().map(|(index, (_, limit))| (index, *limit));
        let drawn = draw(&mut self.rng, weights).map_or(1.0, |index| recoveries[index].0).min(LONGEST_TOLD);
        let spread = drawn + drawn.min(1.0) * self.rng.f64();
        let rate = RETURNING * world.left() / 60.0 / 4_000.0;
        self.queue = (self.queue - (now - self.queued_at) * rate).max(0.0);
        self.queued_at = now;
        let turn = self.queue / rate;
        if turn > 60.0 {
            return 30.0 + 29.0 * self.rng.f64();
        }
        self.queue += 1.0;
        spread.max(turn).clamp(0.01, LONGEST_TOLD)
    }
}

impl Policy for Oracle {
    type Memory = Memory;

    fn new(_world: &World, seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed ^ 0x6f72_6163_6c65), queue: 0.0, queued_at: 0.0 }
    }

    fn next(&mut self, now: Seconds, request: &Request, memory: &mut Memory, world: &mut World) -> Step {
        let charge = request.charge() as f64;
        for priority in 1..=2 {
            let able = world.backends.iter_mut().enumerate().filter_map(|(index, backend)| {
                let able = backend.priority == priority
                    && !memory.tried.contains(&index)
                    && backend.meter.fits(now, charge).is_ok();
                able.then(|| (index, backend.meter.remaining(now) / backend.meter.renews_in(now)))
            });
            if let Some(index) = draw(&mut self.rng, able) {
                memory.tried.push(index);
                return Step::Send(index);
            }
        }
        if memory.tried.is_empty() {
            Step::Refuse { status: 429, wait: Some(self.wait(now, request, world)) }
        } else {
            Step::Refuse { status: 502, wait: None }
        }
    }

    fn failed(&mut self, _now: Seconds, _request: &Request, _memory: &mut Memory, _reply: &Reply) -> Then {
        Then::Again
    }
}
