//! One run: callers with their SDK's retries, a balancer of some replicas, the modelled resources, in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fastrand::Rng;

use crate::caller;
use crate::figures::Figures;
use crate::policy::{Policy, Step, Then};
use crate::scenario::Scenario;
use crate::traffic::{self, MEASURED, Request, WARM_UP};
use crate::units::{Moment, Seconds, exponential};
use crate::upstream::{Reply, World};

/// What happens at a moment; numbers are places in the trace, the flights or the backends.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Event {
    Asked(usize),
    Call(usize),
    Look(usize),
    Head(usize),
    End(usize),
    Hidden(usize),
}

/// One request of a caller on its way, through all its SDK's tries.
struct Flight<M> {
    request: usize,
    retries: u32,
    replica: usize,
    first: Seconds,
    called: Seconds,
    backend: usize,
    sent: Seconds,
    /// Time of this call's failed attempts.
    lost: Seconds,
    reply: Reply,
    memory: M,
}

struct Run<'a, P: Policy> {
    trace: &'a [Request],
    world: World,
    replicas: Vec<P>,
    flights: Vec<Flight<P::Memory>>,
    free: Vec<usize>,
    events: BinaryHeap<Reverse<(Moment, u64, Event)>>,
    number: u64,
    rng: Rng,
    /// Of the callers' SDK.
    retries: u32,
    figures: Figures,
}

/// The same seed and scenario give the same figures, to the last digit.
pub(crate) fn run<P: Policy>(scenario: &Scenario, seed: u64) -> Figures {
    let world = World::new(scenario, seed);
    let trace = traffic::trace(seed, scenario.load * world.left(), scenario.oddities);
    let replicas = (0..scenario.replicas as u64).map(|replica| P::new(&world, seed ^ (replica << 32)));
    let figures = Figures::new(world.quota() * MEASURED / 60.0);
    let mut run = Run {
        trace: &trace,
        replicas: replicas.collect(),
        world,
        flights: Vec::new(),
        free: Vec::new(),
        events: BinaryHeap::new(),
        number: 0,
        rng: Rng::with_seed(seed ^ 0x6361_6c6c_6572),
        retries: scenario.retries,
        figures,
    };
    run.start();
    while let Some(Reverse((now, _, event))) = run.events.pop() {
        run.step(now.0, event);
    }
    run.figures
}

impl<P: Policy> Run<'_, P> {
    fn at(&mut self, at: Seconds, event: Event) {
        self.number += 1;
        self.events.push(Reverse((Moment(at), self.number, event)));
    }

    fn start(&mut self) {
        if let Some(first) = self.trace.first() {
            self.at(first.at, Event::Asked(0));
        }
        for index in 0..self.world.backends.len() {
            if self.world.backends[index].hidden > 0.0 {
                let at = exponential(&mut self.rng, 1.0);
                self.at(at, Event::Hidden(index));
            }
        }
    }

    fn step(&mut self, now: Seconds, event: Event) {
        match event {
            Event::Asked(request) => {
                if let Some(next) = self.trace.get(request + 1) {
                    self.at(next.at, Event::Asked(request + 1));
                }
                self.asked(now, request);
            }
            Event::Call(flight) => self.call(now, flight),
            Event::Look(flight) => self.next(now, flight),
            Event::Head(flight) => self.head(now, flight),
            Event::End(flight) => {
                let Flight { replica, request, memory, backend, .. } = &mut self.flights[flight];
                let request = &self.trace[*request];
                self.world.backends[*backend].ended(now, request);
                self.replicas[*replica].ended(now, request, memory);
                self.release(flight);
            }
            Event::Hidden(index) => {
                let next = self.world.backends[index].hidden_call(now);
                if next < WARM_UP + MEASURED {
                    self.at(next, Event::Hidden(index));
                }
            }
        }
    }

    fn asked(&mut self, now: Seconds, request: usize) {
        let flight = Flight {
            request,
            retries: 0,
            replica: 0,
            first: now,
            called: now,
            backend: 0,
            sent: now,
            lost: 0.0,
            reply: Reply::default(),
            memory: P::Memory::default(),
        };
        let place = match self.free.pop() {
            Some(place) => {
                self.flights[place] = flight;
                place
            }
            None => {
                self.flights.push(flight);
                self.flights.len() - 1
            }
        };
        if measured(now) {
            self.figures.asked += 1;
        }
        self.call(now, place);
    }

    fn release(&mut self, flight: usize) {
        self.flights[flight].memory = P::Memory::default();
        self.free.push(flight);
    }

    /// A caller's call arrives, at any replica.
    fn call(&mut self, now: Seconds, place: usize) {
        let replica = self.rng.usize(..self.replicas.len());
        let flight = &mut self.flights[place];
        flight.replica = replica;
        flight.called = now;
        flight.lost = 0.0;
        flight.memory = P::Memory::default();
        self.next(now, place);
    }

    fn next(&mut self, now: Seconds, place: usize) {
        let flight = &mut self.flights[place];
        let request = &self.trace[flight.request];
        let step = self.replicas[flight.replica].next(now, request, &mut flight.memory, &mut self.world);
        match step {
            Step::Send(backend) => {
                flight.backend = backend;
                flight.sent = now;
                flight.reply = self.world.backends[backend].call(now, request);
                let head = flight.reply.head;
                self.figures.attempt(measured(flight.first), &flight.reply);
                self.at(head, Event::Head(place));
            }
            Step::Hold { until } => {
                flight.lost += until - now;
                self.at(until, Event::Look(place));
            }
            Step::Refuse { status, wait } => self.refused(now, place, status, wait),
        }
    }

    fn head(&mut self, now: Seconds, place: usize) {
        let flight = &mut self.flights[place];
        let request = &self.trace[flight.request];
        let replica = &mut self.replicas[flight.replica];
        if flight.reply.is_good() {
            replica.answered(now, request, &mut flight.memory, &flight.reply);
            if measured(flight.first) {
                let wait = flight.called - flight.first;
                let first_token = now - flight.called;
                self.figures.served(
                    request,
                    &flight.reply,
                    flight.lost,
                    wait,
                    first_token,
                    flight.retries > 0,
                );
            }
            if measured(flight.sent) {
                self.figures.tokens += request.charge() as f64;
            }
            let end = flight.reply.end;
            self.at(end, Event::End(place));
            return;
        }
        flight.lost += now - flight.sent;
        let then = replica.failed(now, request, &mut flight.memory, &flight.reply);
        match then {
            Then::Again => self.next(now, place),
            Then::PassBack => {
                let (status, wait) = (flight.reply.status, flight.reply.told());
                self.refused(now, place, status, wait);
            }
        }
    }

    /// The caller's SDK gets an error.
    fn refused(&mut self, now: Seconds, place: usize, status: u16, wait: Option<Seconds>) {
        let flight = &mut self.flights[place];
        let measured = measured(flight.first);
        if measured {
            self.figures.refused += 1;
            self.figures.refused_first += u64::from(flight.retries == 0);
        }
        match caller::again_in(status, wait, (flight.retries, self.retries), self.rng.f64()) {
            Some(pause) => {
                flight.retries += 1;
                self.at(now + pause, Event::Call(place));
            }
            None => {
                if measured {
                    self.figures.failed(&self.trace[flight.request]);
                }
                self.release(place);
            }
        }
    }
}

fn measured(at: Seconds) -> bool {
    (WARM_UP..WARM_UP + MEASURED).contains(&at)
}
