//! What a balancer decides; one value per replica. The walk itself is in `run`.

use crate::traffic::Request;
use crate::units::Seconds;
use crate::upstream::{Reply, World};

/// What to do with a call now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Step {
    /// Send it to this backend.
    Send(usize),
    /// Ask again then; the caller waits meanwhile.
    Hold {
        /// When.
        until: Seconds,
    },
    /// Answer it here.
    Refuse {
        /// Status.
        status: u16,
        /// What its headers say.
        wait: Option<Seconds>,
    },
}

/// What to do with an answer that is not good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Then {
    /// Ask for the next step.
    Again,
    /// It is the caller's.
    PassBack,
}

/// One replica of a balancer.
pub(crate) trait Policy {
    /// What is kept for one call.
    type Memory: Default;

    /// Knows what an operator would set: which backends, with which quotas.
    fn new(world: &World, seed: u64) -> Self;

    /// The next step; `world` is for the oracle only.
    fn next(&mut self, now: Seconds, request: &Request, memory: &mut Self::Memory, world: &mut World)
    -> Step;

    /// A bad answer, or none.
    fn failed(&mut self, now: Seconds, request: &Request, memory: &mut Self::Memory, reply: &Reply) -> Then;

    /// The head of a good answer.
    fn answered(&mut self, _now: Seconds, _request: &Request, _memory: &mut Self::Memory, _reply: &Reply) {}

    /// Its end.
    fn ended(&mut self, _now: Seconds, _request: &Request, _memory: &mut Self::Memory) {}
}
