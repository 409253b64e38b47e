//! The rule of Microsoft's two samples (openai-aca-lb, openai-apim-lb), and the classic selectors under it: a 429 or
//! 5xx cools the backend for its Retry-After, else 10 s, and the next one is asked; when all cool, a random one is
//! asked anyway and its answer passed back.

use fastrand::Rng;

use crate::policy::{Policy, Step, Then};
use crate::traffic::Request;
use crate::units::Seconds;
use crate::upstream::{Reply, World};

const UNTOLD: Seconds = 10.0;

/// One backend as seen from one replica.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) priority: u32,
    cool_until: Seconds,
    pub(crate) outstanding: u32,
    /// Peak-EWMA of the time to the head.
    ewma: f64,
    stamp: Seconds,
}

/// How one of the backends that do not cool is chosen.
pub(crate) trait Selector {
    /// One of `able`, which is not empty.
    fn select(rng: &mut Rng, seen: &[Seen], able: &[usize], now: Seconds) -> usize;
}

/// As in the samples.
pub(crate) struct Uniform;

impl Selector for Uniform {
    fn select(rng: &mut Rng, _seen: &[Seen], able: &[usize], _now: Seconds) -> usize {
        able[rng.usize(..able.len())]
    }
}

/// The less busy of two drawn at random.
pub(crate) struct TwoChoices;

impl Selector for TwoChoices {
    fn select(rng: &mut Rng, seen: &[Seen], able: &[usize], _now: Seconds) -> usize {
        let (one, other) = (able[rng.usize(..able.len())], able[rng.usize(..able.len())]);
        if seen[other].outstanding < seen[one].outstanding { other } else { one }
    }
}

/// Finagle's: of two drawn at random, the one of less latency times load.
pub(crate) struct PeakEwma;

impl Selector for PeakEwma {
    fn select(rng: &mut Rng, seen: &[Seen], able: &[usize], now: Seconds) -> usize {
        let cost = |index: usize| {
            let one = &seen[index];
            let faded = one.ewma * (-(now - one.stamp) / EWMA_DECAY).exp();
            (faded + 0.001) * f64::from(one.outstanding + 1)
        };
        let (one, other) = (able[rng.usize(..able.len())], able[rng.usize(..able.len())]);
        if cost(other) < cost(one) { other } else { one }
    }
}

const EWMA_DECAY: Seconds = 10.0;

/// One replica.
pub(crate) struct Samples<S> {
    seen: Vec<Seen>,
    able: Vec<usize>,
    rng: Rng,
    selector: std::marker::PhantomData<S>,
}

/// One call.
#[derive(Default)]
pub(crate) struct Memory {
    at: Option<usize>,
    sent: Seconds,
    failed: bool,
}

impl<S: Selector> Samples<S> {
    /// Of those that do not cool, the ones of the best priority.
    fn look(&mut self, now: Seconds) {
        let well = |seen: &&Seen| seen.cool_until <= now;
        let best = self.seen.iter().filter(well).map(|seen| seen.priority).min();
        let able = self.seen.iter().enumerate().filter(|(_, seen)| well(seen) && Some(seen.priority) == best);
        self.able.clear();
        self.able.extend(able.map(|(index, _)| index));
    }
}

impl<S: Selector> Policy for Samples<S> {
    type Memory = Memory;

    fn new(world: &World, seed: u64) -> Self {
        let seen = world.backends.iter().map(|backend| Seen {
            priority: backend.priority,
            cool_until: 0.0,
            outstanding: 0,
            ewma: 0.0,
            stamp: 0.0,
        });
        let rng = Rng::with_seed(seed ^ 0x7361_6d70_6c65);
        Self { seen: seen.collect(), able: Vec::new(), rng, selector: std::marker::PhantomData }
    }

    fn next(&mut self, now: Seconds, _request: &Request, memory: &mut Memory, _world: &mut World) -> Step {
        self.look(now);
        let chosen = if self.able.is_empty() {
            self.rng.usize(..self.seen.len())
        } else {
            S::select(&mut self.rng, &self.seen, &self.able, now)
        };
        self.seen[chosen].outstanding += 1;
        *memory = Memory { at: Some(chosen), sent: now, failed: false };
        Step::Send(chosen)
    }

    fn failed(&mut self, now: Seconds, _request: &Request, memory: &mut Memory, reply: &Reply) -> Then {
        if let Some(at) = memory.at {
            self.seen[at].outstanding -= 1;
            self.seen[at].cool_until = now + reply.seconds().unwrap_or(UNTOLD);
        }
        memory.failed = true;
        self.look(now);
        if self.able.is_empty() { Then::PassBack } else { Then::Again }
    }

    fn answered(&mut self, now: Seconds, _request: &Request, memory: &mut Memory, _reply: &Reply) {
        let Some(at) = memory.at else { return };
        let seen = &mut self.seen[at];
        let took = now - memory.sent;
        let kept = (-(now - seen.stamp) / EWMA_DECAY).exp();
        seen.ewma = if took > seen.ewma { took } else { seen.ewma * kept + took * (1.0 - kept) };
        seen.stamp = now;
    }

    fn ended(&mut self, _now: Seconds, _request: &Request, memory: &mut Memory) {
        if let Some(at) = memory.at {
            self.seen[at].outstanding -= 1;
        }
    }
}
