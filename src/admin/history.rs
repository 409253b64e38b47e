//! The last fifteen minutes of the callers and of every lane, in steps of five seconds: what the page's timeline is drawn from, so that a
//! page opened late sees the past.
//!
//! Fed by looks at the pool, about one a second while something happens. When all is at rest nobody looks until
//! something does happen: the steps between are as the last look found them. Bounded: [`LANES`] lanes, [`STEPS`]
//! steps of 16 bytes each. Counters are compared, never trusted: one that went backwards (a reload) counts as no change.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::balance::{LaneSnapshot, PoolSnapshot, State, Tally};

/// Length of a step.
const STEP: Duration = Duration::from_secs(5);
/// Steps kept: 15 minutes.
const STEPS: usize = 180;
/// The most lanes whose past is kept; a page shows no more with ease.
const LANES: usize = 600;
/// The letter of a step of which nothing is known.
const UNSEEN: char = '-';

/// One step of one lane.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Step {
    served: u32,
    throttled: u32,
    failed: u32,
    /// `None`: it was not there.
    state: Option<State>,
}

/// One lane's past.
#[derive(Debug)]
struct Track {
    backend: Arc<str>,
    deployment: Arc<str>,
    before: Tally,
    current: Step,
    /// Looks in the current step, and those of them that found the lane away.
    looks: (u32, u32),
    steps: VecDeque<Step>,
    /// The look that saw it last, and how.
    seen: u64,
    found: State,
}

/// All lanes' past.
#[derive(Debug, Default)]
pub(super) struct History {
    begun: Option<Instant>,
    /// Whole steps since then.
    steps: u64,
    looks: u64,
    /// At the last look nothing was under way that could change by itself.
    at_rest: bool,
    callers: Callers,
    tracks: Vec<Track>,
    /// Lanes for which there was no room at the last look.
    untold: usize,
}

/// What callers did not get since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Failed {
    /// Requests that failed.
    pub requests: u64,
    /// Connections beyond the bound.
    pub connections: u64,
}

/// The same by step.
#[derive(Debug, Default)]
struct Callers {
    requests: Count,
    connections: Count,
}

/// What a counter grew by in each step.
#[derive(Debug, Default)]
struct Count {
    /// The total at the last look.
    before: Option<u64>,
    /// The total when the last step ended.
    at_step: u64,
    current: u32,
    steps: VecDeque<u32>,
}

/// What is told of the past, by lane.
#[derive(Debug, Serialize)]
pub(super) struct Past<'a> {
    step_ms: u64,
    /// How many steps a page should show.
    steps: usize,
    /// The number of the step that is going on; the last told one is the one before.
    next: u64,
    /// Requests of callers that failed, by step, the oldest first.
    failed: Vec<u32>,
    /// All that had failed when the last told step ended.
    failed_total: u64,
    /// The same of connections beyond the bound.
    refused: Vec<u32>,
    refused_total: u64,
    lanes: Vec<LanePast<'a>>,
    /// How many more lanes there are, whose past is not kept.
    untold: usize,
}

/// One lane's steps, the oldest first; all lists are of one length and end with the same step.
#[derive(Debug, Serialize)]
struct LanePast<'a> {
    backend: &'a str,
    deployment: &'a str,
    served: Vec<u32>,
    throttled: Vec<u32>,
    failed: Vec<u32>,
    /// One letter a step, see [`letter`].
    states: String,
}

impl History {
    /// Takes in what the pool looks like now, and what callers did not get so far. True when a step has ended by that.
    pub(super) fn look(&mut self, now: Instant, pool: &PoolSnapshot, failed: Failed) -> bool {
        let begun = *self.begun.get_or_insert(now);
        let steps = now.saturating_duration_since(begun).as_secs() / STEP.as_secs();
        let ended = steps.saturating_sub(self.steps);
        self.steps = self.steps.max(steps);
        let at_rest = std::mem::replace(&mut self.at_rest, pool.at_rest());
        for track in &mut self.tracks {
            track.turn(ended, (at_rest && track.seen == self.looks).then_some(track.found));
        }
        let Callers { requests, connections } = &mut self.callers;
        for (count, total) in [(requests, failed.requests), (connections, failed.connections)] {
            count.turn(ended);
            count.look(total);
        }
        self.looks += 1;
        let mut place = 0;
        self.untold = 0;
        for backend in &pool.backends {
            for lane in backend.lanes.iter().filter(|lane| lane.known) {
                let Some(track) = self.track(place, &backend.name, lane) else {
                    self.untold += 1;
                    continue;
                };
                self.tracks[track].look(lane, self.looks);
                place = track + 1;
            }
        }
        // A lane that is gone stays as long as its past tells anything.
        self.tracks
            .retain(|track| track.seen == self.looks || track.steps.iter().any(|step| step.state.is_some()));
        ended > 0
    }

    /// The track of a lane, made when there is room. Most often it stands at `place`, after the one before.
    fn track(&mut self, place: usize, backend: &Arc<str>, lane: &LaneSnapshot) -> Option<usize> {
        let is = |track: &Track| track.backend == *backend && track.deployment == lane.deployment;
        if self.tracks.get(place).is_some_and(is) {
            return Some(place);
        }
        if let Some(at) = self.tracks.iter().position(is) {
            return Some(at);
        }
        (self.tracks.len() < LANES).then(|| {
            self.tracks.push(Track {
                backend: Arc::clone(backend),
                deployment: Arc::clone(&lane.deployment),
                before: Tally::default(),
                current: Step::default(),
                looks: (0, 0),
                steps: VecDeque::new(),
                seen: 0,
                found: lane.state,
            });
            self.tracks.len() - 1
        })
    }

    /// The whole past.
    pub(super) fn past(&self) -> Past<'_> {
        self.last(STEPS)
    }

    /// The step that ended last.
    pub(super) fn newest(&self) -> Past<'_> {
        self.last(1)
    }

    fn last(&self, length: usize) -> Past<'_> {
        let Callers { requests, connections } = &self.callers;
        Past {
            step_ms: u64::try_from(STEP.as_millis()).unwrap_or(u64::MAX),
            steps: STEPS,
            next: self.steps,
            failed: newest(&requests.steps, length).copied().collect(),
            failed_total: requests.at_step,
            refused: newest(&connections.steps, length).copied().collect(),
            refused_total: connections.at_step,
            lanes: self.tracks.iter().map(|track| track.last(length)).collect(),
            untold: self.untold,
        }
    }
}

impl Count {
    fn turn(&mut self, ended: u64) {
        for _ in 0..ended.min(STEPS as u64) {
            push(&mut self.steps, std::mem::take(&mut self.current));
            self.at_step = self.before.unwrap_or_default();
        }
    }

    fn look(&mut self, total: u64) {
        add(&mut self.current, self.before.unwrap_or(0), total);
        self.before = Some(total);
    }
}

/// The sum grows by what a counter grew.
fn add(sum: &mut u32, from: u64, to: u64) {
    *sum = sum.saturating_add(u32::try_from(to.saturating_sub(from)).unwrap_or(u32::MAX));
}

/// One more step, and the oldest forgotten where there is no room.
fn push<T>(steps: &mut VecDeque<T>, step: T) {
    if steps.len() == STEPS {
        steps.pop_front();
    }
    steps.push_back(step);
}

/// The last so many.
fn newest<T>(steps: &VecDeque<T>, length: usize) -> impl Iterator<Item = &T> {
    steps.iter().skip(steps.len().saturating_sub(length))
}

impl Track {
    /// So many steps have ended, the further ones of them in this state as far as is known.
    fn turn(&mut self, ended: u64, state: Option<State>) {
        for _ in 0..ended.min(STEPS as u64) {
            push(&mut self.steps, std::mem::replace(&mut self.current, Step { state, ..Step::default() }));
            self.looks = (0, 0);
        }
        if ended > 0 {
            // Of the step that is going on the look tells that follows.
            self.current.state = None;
        }
    }

    fn look(&mut self, lane: &LaneSnapshot, number: u64) {
        let (before, now) = (self.before, lane.tally);
        add(&mut self.current.served, before.served, now.served);
        add(&mut self.current.throttled, before.throttled, now.throttled);
        add(&mut self.current.failed, before.failed, now.failed);
        (self.before, self.seen, self.found) = (now, number, lane.state);
        self.looks.0 += 1;
        if lane.state == State::Admitting {
            // A step is told as away when the lane was away for half of it.
            let mostly_away = self.current.state.is_some() && self.looks.1 * 2 >= self.looks.0;
            if !mostly_away {
                self.current.state = Some(State::Admitting);
            }
        } else {
            self.looks.1 += 1;
            if self.current.state.is_none() || self.looks.1 * 2 >= self.looks.0 {
                self.current.state = Some(lane.state);
            }
        }
    }

    fn last(&self, length: usize) -> LanePast<'_> {
        let steps = || newest(&self.steps, length);
        LanePast {
            backend: &self.backend,
            deployment: &self.deployment,
            served: steps().map(|step| step.served).collect(),
            throttled: steps().map(|step| step.throttled).collect(),
            failed: steps().map(|step| step.failed).collect(),
            states: steps().map(|step| step.state.map_or(UNSEEN, letter)).collect(),
        }
    }
}

fn letter(state: State) -> char {
    match state {
        State::Admitting => 'a',
        State::Cooling => 'c',
        State::Resting => 'r',
        State::Probing => 'p',
        State::Refused => 'f',
        State::Absent => 'x',
        State::Drained => 'd',
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::{BackendSnapshot, Quota};

    fn lane(deployment: &str, state: State, served: u64, throttled: u64) -> LaneSnapshot {
        LaneSnapshot {
            restart: None,
            deployment: deployment.into(),
            known: true,
            misspelt: false,
            state,
            remaining: None,
            cause: None,
            tally: Tally { served, throttled, ..Tally::default() },
            quota: Quota::default(),
            first_byte: None,
            mishaps: Vec::new(),
        }
    }

    fn pool(lanes: Vec<LaneSnapshot>) -> PoolSnapshot {
        let backend = BackendSnapshot {
            name: "west".into(),
            url: "https://west.example".into(),
            priority: 1,
            weight: 1,
            credential_ready: true,
            drained: false,
            state: State::Admitting,
            remaining: None,
            cause: None,
            tally: Tally::default(),
            lanes,
        };
        PoolSnapshot { in_flight: 0, backends: vec![backend], deployments: Vec::new() }
    }

    /// One look at each of these seconds.
    fn looked(looks: impl IntoIterator<Item = (u64, Vec<LaneSnapshot>)>) -> History {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let mut history = History::default();
        for (second, lanes) in looks {
            let failed = Failed { requests: second, connections: second / 6 };
            history.look(start + Duration::from_secs(second), &pool(lanes), failed);
        }
        history
    }

    fn told(history: &History) -> serde_json::Value {
        serde_json::to_value(history.past()).unwrap()
    }

    #[test]
    fn a_throttling_episode_is_told_step_by_step() {
        let looks = (0..=15).map(|second| {
            let away = (4..11).contains(&second);
            let state = if away { State::Cooling } else { State::Admitting };
            (second, vec![lane("gpt-4o", state, second.min(4) * 2, u64::from(second >= 4))])
        });
        let told = told(&looked(looks));
        assert_eq!(
            (&told["next"], &told["step_ms"], &told["steps"]),
            (&3.into(), &5_000.into(), &180.into())
        );
        let lane = &told["lanes"][0];
        assert_eq!((&lane["backend"], &lane["deployment"]), (&"west".into(), &"gpt-4o".into()));
        assert_eq!(lane["served"], serde_json::json!([8, 0, 0]));
        assert_eq!(lane["throttled"], serde_json::json!([1, 0, 0]));
        assert_eq!(lane["states"], "aca");
        // One more of the callers' requests fails each second; at the first look none had.
        assert_eq!(told["failed"], serde_json::json!([4, 5, 5]));
        assert_eq!(told["failed_total"], 14);
        assert_eq!((&told["refused"], &told["refused_total"]), (&serde_json::json!([0, 1, 1]), &2.into()));
    }

    #[test]
    fn steps_without_a_look_are_as_the_last_look_found_them_if_all_was_at_rest() {
        let resting = LaneSnapshot { remaining: Some(STEP), ..lane("west", State::Resting, 1, 0) };
        let history = looked([
            (0, vec![resting]),
            (16, vec![lane("west", State::Drained, 1, 0)]),
            (33, vec![lane("west", State::Admitting, 1, 0)]),
        ]);
        assert_eq!(told(&history)["lanes"][0]["states"], "r--ddd");
    }

    #[test]
    fn lanes_that_come_and_go_are_told_as_such() {
        let history = looked([
            (0, vec![lane("old", State::Admitting, 1, 0)]),
            (16, vec![lane("new", State::Drained, 5, 0)]),
            (21, vec![lane("new", State::Drained, 3, 0)]),
        ]);
        let told = told(&history);
        assert_eq!(
            (&told["lanes"][0]["deployment"], &told["lanes"][0]["states"]),
            (&"old".into(), &"aaa-".into())
        );
        assert_eq!(
            (&told["lanes"][1]["deployment"], &told["lanes"][1]["states"]),
            (&"new".into(), &"d".into())
        );
        assert_eq!(told["lanes"][1]["served"], serde_json::json!([5]), "a counter that falls is no change");
    }

    #[test]
    fn a_step_is_told_once_it_has_ended() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let mut history = History::default();
        let ended: Vec<bool> = (0..=10)
            .map(|second| {
                history.look(start + Duration::from_secs(second), &pool(Vec::new()), Failed::default())
            })
            .collect();
        let at: Vec<usize> = (0..=10).filter(|second| ended[*second]).collect();
        assert_eq!(at, [5, 10]);
    }

    #[test]
    fn the_past_is_bounded_in_time_and_lanes() {
        let names: Vec<String> = (0..LANES + 50).map(|n| format!("d{n}")).collect();
        let all = || names.iter().map(|name| lane(name, State::Admitting, 1, 0)).collect::<Vec<_>>();
        let history = looked([(0, all()), (100_000, all()), (100_007, all())]);
        assert_eq!((history.tracks.len(), history.past().untold), (LANES, 50));
        assert!(history.tracks.iter().all(|track| track.steps.len() <= STEPS));
        assert_eq!(serde_json::to_value(history.newest()).unwrap()["lanes"][0]["states"], "a");
    }

    #[test]
    fn a_lane_whose_past_is_over_is_forgotten() {
        let mut looks = vec![(0, vec![lane("old", State::Admitting, 1, 0)])];
        looks.push((10, Vec::new()));
        looks.push((2_000, Vec::new()));
        assert!(looked(looks).tracks.is_empty());
    }
}
