//! The product's pool with `retry.hold`: who finds all full waits in line, as `src/proxy/line.rs` has it.
//!
//! Time passes by events: who stands behind asks again at most a millisecond after the one before it was placed.

use std::collections::VecDeque;
use std::time::Duration;

use crate::policy::{Policy, Step, Then};
use crate::sidestep::{self, Sidestep};
use crate::traffic::Request;
use crate::units::Seconds;
use crate::upstream::{Reply, World};

/// A lane of unknown room shows within this time whether it is full, as in `src/proxy/line.rs`.
const SHOWS: Seconds = 0.1;
/// The most that wait, as in the settings.
const MOST: usize = 1_000;
/// Who stands behind looks again after this.
const LOOK: Seconds = 0.001;

/// One replica whose callers wait up to `MS` milliseconds.
pub(crate) struct Held<const MS: u64> {
    inner: Sidestep,
    line: VecDeque<Waiter>,
    tickets: u64,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    /// It looks again then; or, placed, has shown by then that there is room.
    until: Seconds,
    placed: bool,
}

/// One call.
#[derive(Default)]
pub(crate) struct Memory {
    inner: sidestep::Memory,
    ticket: Option<u64>,
    /// When its patience ends.
    ends: Option<Seconds>,
}

impl<const MS: u64> Held<MS> {
    fn place(&self, ticket: Option<u64>) -> Option<usize> {
        let ticket = ticket?;
        self.line.iter().position(|waiter| waiter.ticket == ticket)
    }

    fn leave(&mut self, memory: &Memory) {
        if let Some(place) = self.place(memory.ticket) {
            self.line.remove(place);
        }
    }

    /// Those before it that were placed and have shown by now that there is room are out of its way.
    fn pass(&mut self, now: Seconds) {
        while self.line.front().is_some_and(|first| first.placed && first.until <= now) {
            self.line.pop_front();
        }
    }
}

impl<const MS: u64> Policy for Held<MS> {
    type Memory = Memory;

    fn new(world: &World, seed: u64) -> Self {
        Self { inner: Sidestep::new(world, seed), line: VecDeque::new(), tickets: 0 }
    }

    fn next(&mut self, now: Seconds, request: &Request, memory: &mut Memory, world: &mut World) -> Step {
        let ends = *memory.ends.get_or_insert(now + Duration::from_millis(MS).as_secs_f64());
        let left = (ends - now).max(0.0);
        self.pass(now);
        if self.place(memory.ticket).is_some_and(|place| place > 0) && left > 0.0 {
            let first = self.line.front().map_or(now, |first| first.until);
            return Step::Hold { until: first.max(now + LOOK).min(ends) };
        }
        let ahead = self.place(memory.ticket).unwrap_or(self.line.len());
        let full = memory.ticket.is_none() && self.line.len() >= MOST;
        let left = if full { 0.0 } else { left };
        match self.inner.next_in_line(now, request, &mut memory.inner, (left, ahead), world) {
            Step::Hold { until } => {
                let ticket = memory.ticket.unwrap_or_else(|| {
                    self.tickets += 1;
                    self.tickets
                });
                memory.ticket = Some(ticket);
                match self.place(Some(ticket)) {
                    Some(place) => self.line[place] = Waiter { ticket, until, placed: false },
                    None => {
                        let place = self.line.partition_point(|waiter| waiter.ticket < ticket);
                        self.line.insert(place, Waiter { ticket, until, placed: false });
                    }
                }
                let first = self.place(Some(ticket)) == Some(0);
                Step::Hold { until: if first { until } else { until.max(now + LOOK).min(ends) } }
            }
            Step::Send(backend) => {
                if self.inner.has_room(&memory.inner) {
                    self.leave(memory);
                } else if let Some(place) = self.place(memory.ticket) {
                    self.line[place].until = now + SHOWS;
                    self.line[place].placed = true;
                }
                Step::Send(backend)
            }
            refuse @ Step::Refuse { .. } => {
                self.leave(memory);
                refuse
            }
        }
    }

    fn failed(&mut self, now: Seconds, request: &Request, memory: &mut Memory, reply: &Reply) -> Then {
        let then = self.inner.failed(now, request, &mut memory.inner, reply);
        if then == Then::PassBack {
            self.leave(memory);
        }
        then
    }

    fn answered(&mut self, now: Seconds, request: &Request, memory: &mut Memory, reply: &Reply) {
        self.leave(memory);
        self.inner.answered(now, request, &mut memory.inner, reply);
    }

    fn ended(&mut self, now: Seconds, request: &Request, memory: &mut Memory) {
        self.inner.ended(now, request, &mut memory.inner);
    }
}
