//! Round robin, API Management's backend pool, and LiteLLM's two routers, by what their sources and documents say.

use fastrand::Rng;

use crate::policy::{Policy, Step, Then};
use crate::traffic::Request;
use crate::units::{Seconds, draw, whole};
use crate::upstream::{Reply, World};

/// Without anything: one after the other, every answer passed back.
pub(crate) struct RoundRobin {
    count: usize,
    turn: usize,
}

impl Policy for RoundRobin {
    type Memory = ();

    fn new(world: &World, seed: u64) -> Self {
        let count = world.backends.len();
        Self { count, turn: usize::try_from(seed).unwrap_or(0) % count }
    }

    fn next(&mut self, _now: Seconds, _request: &Request, _memory: &mut (), _world: &mut World) -> Step {
        self.turn = (self.turn + 1) % self.count;
        Step::Send(self.turn)
    }

    fn failed(&mut self, _now: Seconds, _request: &Request, _memory: &mut (), _reply: &Reply) -> Then {
        Then::PassBack
    }
}

/// API Management: a pool with circuit breakers that trip at the first 429 or 5xx for its Retry-After. The request
/// that trips one is not retried; when all have tripped, 503 without a time.
pub(crate) struct Apim {
    backends: Vec<(u32, Seconds)>,
    turn: usize,
}

const TRIPPED: Seconds = 10.0;

impl Policy for Apim {
    type Memory = Option<usize>;

    fn new(world: &World, _seed: u64) -> Self {
        Self { backends: world.backends.iter().map(|backend| (backend.priority, 0.0)).collect(), turn: 0 }
    }

    fn next(&mut self, now: Seconds, _: &Request, memory: &mut Option<usize>, _: &mut World) -> Step {
        let well = self.backends.iter().filter(|(_, until)| *until <= now);
        let Some(best) = well.map(|(priority, _)| *priority).min() else {
            return Step::Refuse { status: 503, wait: None };
        };
        loop {
            self.turn = (self.turn + 1) % self.backends.len();
            let (priority, until) = self.backends[self.turn];
            if priority == best && until <= now {
                *memory = Some(self.turn);
                return Step::Send(self.turn);
            }
        }
    }

    fn failed(&mut self, now: Seconds, _: &Request, memory: &mut Option<usize>, reply: &Reply) -> Then {
        if let Some(index) = *memory {
            self.backends[index].1 = now + reply.seconds().unwrap_or(TRIPPED);
        }
        Then::PassBack
    }
}

/// How long LiteLLM leaves a deployment alone, whatever the 429 says.
const COOLED: Seconds = 5.0;
/// `num_retries`.
const RETRIES: u32 = 2;

/// LiteLLM's `simple-shuffle`, with each deployment's `tpm` set as weight.
pub(crate) struct Shuffle {
    backends: Vec<(f64, Seconds)>,
    rng: Rng,
}

/// One call to LiteLLM.
#[derive(Default)]
pub(crate) struct Memory {
    at: usize,
    tries: u32,
}

impl Policy for Shuffle {
    type Memory = Memory;

    fn new(world: &World, seed: u64) -> Self {
        let backends = world.backends.iter().map(|backend| (backend.meter.limit, 0.0)).collect();
        Self { backends, rng: Rng::with_seed(seed ^ 0x7368_7566) }
    }

    fn next(&mut self, now: Seconds, _: &Request, memory: &mut Memory, _: &mut World) -> Step {
        let well = self.backends.iter().enumerate().filter(|(_, (_, until))| *until <= now);
        let Some(index) = draw(&mut self.rng, well.map(|(index, (weight, _))| (index, *weight))) else {
            return Step::Refuse { status: 429, wait: None };
        };
        *memory = Memory { at: index, tries: memory.tries + 1 };
        Step::Send(index)
    }

    fn failed(&mut self, now: Seconds, _: &Request, memory: &mut Memory, _: &Reply) -> Then {
        self.backends[memory.at].1 = now + COOLED;
        let left = self.backends.iter().any(|(_, until)| *until <= now);
        if memory.tries <= RETRIES && left { Then::Again } else { Then::PassBack }
    }
}

/// LiteLLM's `usage-based-routing-v2`: the deployment that used the fewest tokens in this minute of the clock, counted
/// when an answer is complete.
pub(crate) struct UsageBased {
    backends: Vec<Used>,
    minute: u64,
    rng: Rng,
}

struct Used {
    limit: f64,
    tokens: f64,
    cooled: Seconds,
}

impl UsageBased {
    fn turn_minute(&mut self, now: Seconds) {
        let minute = whole(now / 60.0);
        if minute != self.minute {
            self.minute = minute;
            self.backends.iter_mut().for_each(|used| used.tokens = 0.0);
        }
    }
}

impl Policy for UsageBased {
    type Memory = Memory;

    fn new(world: &World, seed: u64) -> Self {
        let used = |limit| Used { limit, tokens: 0.0, cooled: 0.0 };
        let backends = world.backends.iter().map(|backend| used(backend.meter.limit)).collect();
        Self { backends, minute: 0, rng: Rng::with_seed(seed ^ 0x7573_6167) }
    }

    fn next(&mut self, now: Seconds, request: &Request, memory: &mut Memory, _: &mut World) -> Step {
        self.turn_minute(now);
        let prompt = request.prompt as f64;
        let able = |used: &&Used| used.cooled <= now && used.tokens + prompt <= used.limit;
        let fewest = self.backends.iter().filter(able).map(|used| used.tokens).fold(f64::INFINITY, f64::min);
        let lowest = self.backends.iter().enumerate().filter(|(_, used)| able(used) && used.tokens <= fewest);
        let Some(index) = draw(&mut self.rng, lowest.map(|(index, _)| (index, 1.0))) else {
            return Step::Refuse { status: 429, wait: None };
        };
        *memory = Memory { at: index, tries: memory.tries + 1 };
        Step::Send(index)
    }

    fn failed(&mut self, now: Seconds, _: &Request, memory: &mut Memory, _: &Reply) -> Then {
        self.backends[memory.at].cooled = now + COOLED;
        let left = self.backends.iter().any(|used| used.cooled <= now);
        if memory.tries <= RETRIES && left { Then::Again } else { Then::PassBack }
    }

    fn ended(&mut self, now: Seconds, request: &Request, memory: &mut Memory) {
        self.turn_minute(now);
        self.backends[memory.at].tokens += (request.prompt + request.completion) as f64;
    }
}
