//! What happened, in sentences, read off the differences between successive documents.
//!
//! A document tells states and counters, not requests, so a sentence says no more than the
//! difference shows: who stood in for a backend is the one whose served count rose meanwhile.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::history;
use super::status::{Backend, Lane, State, Status};
use super::words;

/// Sentences kept.
const EVENTS: usize = 100;
/// Documents after a cooldown's first in which the one that stood in is still looked for.
const LOOKED_FOR: u8 = 6;
/// Events of the same kind within this many seconds are one sentence with a count.
const JOINED_SECONDS: f64 = 3.0;

/// Pauses whose beginning is remembered; names that change in every document cannot grow it.
const PAUSES: usize = 4_096;
/// How far back such an event is looked for.
const JOINED_AMONG: usize = 8;

/// What an event means for the reader.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Tone {
    /// Something is in order again.
    Good,
    /// Somebody was throttled.
    Throttled,
    /// Something failed.
    Failed,
    /// Worth knowing.
    Plain,
}

/// One sentence.
#[derive(Debug)]
pub(super) struct Event {
    /// The daemon's uptime then, in seconds.
    pub(super) at: f64,
    /// What it means.
    pub(super) tone: Tone,
    /// The sentence, harmless to print.
    pub(super) text: String,
    number: u64,
    awaited: Option<Awaited>,
    told: Option<(Told, u64)>,
}

/// Somebody is looked for who stood in for `subject`.
#[derive(Debug)]
struct Awaited {
    subject: String,
    documents_left: u8,
    failovers: u64,
}

/// Counted events that are joined.
#[derive(Debug, Eq, PartialEq)]
enum Told {
    Exhausted,
    Failed,
    /// This backend throttled and admits nevertheless: a size mark, or a rest shorter than the time
    /// between two documents.
    Passing(String),
}

/// The recent events, newest first.
#[derive(Debug, Default)]
pub(super) struct Story {
    events: VecDeque<Event>,
    numbered: u64,
    pauses: HashMap<String, f64>,
}

impl Story {
    /// Newest first.
    pub(super) fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.iter()
    }

    /// Events that are complete and were numbered after `last`, oldest first, with their numbers.
    pub(super) fn complete_since(&self, last: u64) -> impl Iterator<Item = (u64, &Event)> {
        let mut waiting = false;
        self.events.iter().rev().filter(move |event| last < event.number).map_while(move |event| {
            waiting |= event.awaited.is_some();
            (!waiting).then_some((event.number, event))
        })
    }

    /// Takes the difference between two successive documents in.
    pub(super) fn observe(&mut self, before: &Status, after: &Status) {
        if after.uptime_seconds < before.uptime_seconds
            || after.callers.requests_total < before.callers.requests_total
        {
            self.pauses.clear();
            self.tell(after, Tone::Plain, "Sidestep was restarted".to_owned());
            return;
        }
        if after.draining && !before.draining {
            self.tell(
                after,
                Tone::Plain,
                "Sidestep is draining: it finishes what it has and stops".to_owned(),
            );
        }
        for (place, backend) in after.backends.iter().enumerate() {
            match history::find(before, place, &backend.name) {
                Some(earlier) => self.compare(before, after, earlier, backend),
                None => self.tell(after, Tone::Plain, format!("{} joined", backend.name)),
            }
        }
        for (place, backend) in before.backends.iter().enumerate() {
            if history::find(after, place, &backend.name).is_none() {
                self.tell(after, Tone::Plain, format!("{} left", backend.name));
            }
        }
        self.tell_counted(before, after);
        self.find_stand_ins(before, after);
    }

    fn compare(&mut self, before: &Status, after: &Status, earlier: &Backend, later: &Backend) {
        let throttled = later.throttled_total.saturating_sub(earlier.throttled_total);
        if throttled != 0 && [earlier, later].into_iter().all(admits_everywhere) {
            self.count(after, Told::Passing(later.name.clone()), throttled);
        }
        if later.lanes.len() < 2 || [earlier, later].iter().any(|backend| backend.state == State::Unused) {
            let (from, to) = (Standing::of(earlier), Standing::of(later));
            self.changed(before, after, &later.name, &later.name, from, to);
            return;
        }
        for lane in &later.lanes {
            let from = earlier.lanes.iter().find(|known| known.deployment == lane.deployment);
            let from = from.map_or(Standing::ADMITTING, Standing::of_lane);
            let to = Standing::of_lane(lane);
            let subject = if lane.deployment.is_empty() {
                later.name.clone()
            } else {
                format!("{}/{}", later.name, lane.deployment)
            };
            self.changed(before, after, &later.name, &subject, from, to);
        }
    }

    fn changed(
        &mut self,
        before: &Status,
        after: &Status,
        backend: &str,
        subject: &str,
        from: Standing<'_>,
        to: Standing<'_>,
    ) {
        if from.state == to.state {
            return;
        }
        let pause = words::left(Duration::from_millis(to.total_ms.or(to.remaining_ms).unwrap_or_default()));
        let cause = if to.cause.is_empty() { String::new() } else { format!(" ({})", to.cause) };
        let (tone, text) = match to.state {
            State::Admitting => {
                let since = self
                    .pauses
                    .remove(subject)
                    .filter(|_| matches!(from.state, State::Cooling | State::Resting));
                let after_pause = since.map_or_else(String::new, |since| {
                    format!(" after {:.1} s", (after.uptime_seconds - since).max(0.0))
                });
                (Tone::Good, format!("{subject} admits again{after_pause}"))
            }
            State::Cooling if matches!(to.cause, "default" | "message" | "") => {
                (Tone::Throttled, format!("{subject} throttled and is given {pause} of rest{cause}"))
            }
            State::Cooling => (Tone::Throttled, format!("{subject} wants {pause} of rest{cause}")),
            State::Resting => (Tone::Failed, format!("{subject} failed and rests {pause}{cause}")),
            State::Probing => (Tone::Plain, format!("{subject} is tried with one request")),
            State::Refused => (Tone::Failed, format!("{subject} refuses our credential{cause}")),
            State::Absent => (Tone::Failed, format!("{subject} does not have this deployment{cause}")),
            State::Drained => (Tone::Plain, format!("{subject} was taken out of use")),
            State::Unused => (Tone::Failed, format!("{subject} is not in use{cause}")),
            State::Unknown => return,
        };
        if to.state != State::Admitting && to.state != State::Probing {
            if PAUSES <= self.pauses.len() {
                self.pauses.clear();
            }
            self.pauses.insert(subject.to_owned(), after.uptime_seconds);
        }
        self.tell(after, tone, text);
        if matches!(to.state, State::Cooling | State::Resting)
            && let Some(event) = self.events.front_mut()
        {
            event.awaited = Some(Awaited {
                subject: backend.to_owned(),
                documents_left: LOOKED_FOR,
                failovers: before.callers.failovers_total,
            });
        }
    }

    fn tell_counted(&mut self, before: &Status, after: &Status) {
        let (earlier, later) = (&before.callers, &after.callers);
        let exhausted = later.exhausted_total.saturating_sub(earlier.exhausted_total);
        self.count(after, Told::Exhausted, exhausted);
        let failed = later.failed_total.saturating_sub(earlier.failed_total);
        self.count(after, Told::Failed, failed.saturating_sub(exhausted));
    }

    fn count(&mut self, after: &Status, kind: Told, number: u64) {
        if number == 0 {
            return;
        }
        let joined = self.events.iter().take(JOINED_AMONG).position(|event| {
            event.told.as_ref().is_some_and(|(told, _)| *told == kind)
                && after.uptime_seconds - event.at < JOINED_SECONDS
        });
        let place = joined.unwrap_or_else(|| {
            let tone = if matches!(kind, Told::Passing(_)) { Tone::Throttled } else { Tone::Failed };
            self.tell(after, tone, String::new());
            0
        });
        let Some(event) = self.events.get_mut(place) else { return };
        let sum = number.saturating_add(event.told.as_ref().map_or(0, |(_, sum)| *sum));
        event.text = match &kind {
            Told::Exhausted => {
                format!("nobody had room: {} told when to come back", words::several(sum, "caller"))
            }
            Told::Failed => format!("{} reached callers", words::several(sum, "failure")),
            Told::Passing(name) => {
                format!("{name} throttled {} and admits others", words::several(sum, "request"))
            }
        };
        event.told = Some((kind, sum));
    }

    fn find_stand_ins(&mut self, before: &Status, after: &Status) {
        for event in &mut self.events {
            let Some(awaited) = &mut event.awaited else { continue };
            let rose =
                after.backends.iter().enumerate().filter(|(_, backend)| backend.name != awaited.subject).map(
                    |(place, backend)| {
                        let earlier = history::find(before, place, &backend.name);
                        let served = earlier
                            .map_or(0, |earlier| backend.served_total.saturating_sub(earlier.served_total));
                        (served, &backend.name)
                    },
                );
            match rose.max_by_key(|(served, _)| *served).filter(|(served, _)| *served != 0) {
                Some((_, name)) if awaited.failovers < after.callers.failovers_total => {
                    event.text = format!("{}; {name} answered at once", event.text);
                    event.awaited = None;
                }
                Some((_, name)) if awaited.documents_left <= 1 => {
                    event.text = format!("{}; {name} goes on", event.text);
                    event.awaited = None;
                }
                _ => match awaited.documents_left.checked_sub(1) {
                    Some(left) => awaited.documents_left = left,
                    None => event.awaited = None,
                },
            }
        }
    }

    fn tell(&mut self, after: &Status, tone: Tone, text: String) {
        self.numbered += 1;
        self.events.truncate(EVENTS - 1);
        let at = after.uptime_seconds;
        self.events.push_front(Event { at, tone, text, number: self.numbered, awaited: None, told: None });
    }
}

fn admits_everywhere(backend: &Backend) -> bool {
    backend.state == State::Admitting && backend.lanes.iter().all(|lane| lane.state == State::Admitting)
}

/// State and what goes with it, of a backend or a lane.
#[derive(Clone, Copy, Debug)]
struct Standing<'a> {
    state: State,
    remaining_ms: Option<u64>,
    total_ms: Option<u64>,
    cause: &'a str,
}

impl<'a> Standing<'a> {
    const ADMITTING: Self =
        Standing { state: State::Admitting, remaining_ms: None, total_ms: None, cause: "" };

    fn of(backend: &'a Backend) -> Self {
        Standing {
            state: backend.state,
            remaining_ms: backend.remaining_ms,
            total_ms: backend.total_ms,
            cause: &backend.cause,
        }
    }

    fn of_lane(lane: &'a Lane) -> Self {
        Standing {
            state: lane.state,
            remaining_ms: lane.remaining_ms,
            total_ms: lane.total_ms,
            cause: &lane.cause,
        }
    }
}
