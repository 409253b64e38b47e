//! What the last minutes looked like, kept from successive documents: a second of every backend per
//! sample, rates, and how long each cooldown was when it was first seen.
//!
//! Counters are compared, never trusted: one that went backwards (a restart, a reload) counts as no
//! change.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::status::{Backend, State, Status};

/// Samples kept per backend, one a second; a strip is never longer.
pub(super) const SAMPLES: usize = 180;
/// Rates are averages over this long.
const RATE_SPAN: Duration = Duration::from_secs(10);
/// Documents kept for rates; a bound for a caller that fetches faster than it should.
const RATE_POINTS: usize = 256;

/// One second of one backend.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    /// Requests answered well.
    pub(super) served: u64,
    /// 429s.
    pub(super) throttled: u64,
    /// Failures.
    pub(super) failed: u64,
    /// The last state seen in this second; none when no document came.
    pub(super) state: Option<State>,
}

/// One backend's recent past.
#[derive(Debug, Default)]
pub(super) struct Track {
    samples: VecDeque<Sample>,
    current: Sample,
    /// State and length of the pause that is going on, as first seen.
    pause: Option<(State, Duration)>,
    remaining: Duration,
    seen: u64,
}

impl Track {
    /// The last `length` whole seconds, oldest first; fewer when there are not so many yet.
    pub(super) fn recent(&self, length: usize) -> impl Iterator<Item = Sample> + '_ {
        self.samples.iter().skip(self.samples.len().saturating_sub(length)).copied()
    }

    /// How long the pause going on is in all, as far as known.
    pub(super) fn pause(&self) -> Duration {
        self.pause.map(|(_, whole)| whole).unwrap_or_default()
    }

    fn turn(&mut self, seconds: u64) {
        for _ in 0..seconds.min(SAMPLES as u64) {
            if self.samples.len() == SAMPLES {
                self.samples.pop_front();
            }
            self.samples.push_back(std::mem::take(&mut self.current));
        }
    }

    fn add(&mut self, before: Option<&Backend>, after: &Backend) {
        if let Some(before) = before {
            let add = |sum: &mut u64, from, to: u64| *sum = sum.saturating_add(to.saturating_sub(from));
            add(&mut self.current.served, before.served_total, after.served_total);
            add(&mut self.current.throttled, before.throttled_total, after.throttled_total);
            add(&mut self.current.failed, before.failed_total, after.failed_total);
        }
        self.current.state = Some(after.state);
        let remaining = Duration::from_millis(after.remaining_ms.unwrap_or_default());
        let known = after.total_ms.map(Duration::from_millis);
        self.pause = match (after.remaining_ms, self.pause) {
            (None, _) => None,
            (Some(_), Some((state, whole))) if state == after.state && remaining <= self.remaining => {
                Some((state, known.unwrap_or(whole)))
            }
            (Some(_), _) => Some((after.state, known.unwrap_or(remaining))),
        };
        self.remaining = remaining;
    }
}

/// The recent past of everything in the documents.
#[derive(Debug, Default)]
pub(super) struct History {
    started: Option<Instant>,
    second: u64,
    documents: u64,
    tracks: HashMap<String, Track>,
    points: VecDeque<(Instant, u64, u64)>,
}

impl History {
    /// Takes the next document in; `before` is the one before it.
    pub(super) fn observe(&mut self, now: Instant, before: Option<&Status>, after: &Status) {
        let started = *self.started.get_or_insert(now);
        let second = now.saturating_duration_since(started).as_secs();
        let turns = second.saturating_sub(self.second);
        self.second = self.second.max(second);
        self.documents += 1;
        for (place, backend) in after.backends.iter().enumerate() {
            let earlier = before.and_then(|before| find(before, place, &backend.name));
            let track = self.tracks.entry(backend.name.clone()).or_default();
            track.turn(turns);
            track.add(earlier, backend);
            track.seen = self.documents;
        }
        self.tracks.retain(|_, track| track.seen == self.documents);

        let point = (now, after.callers.requests_total, after.tokens_served());
        if self.points.back().is_some_and(|last| point.1 < last.1) {
            self.points.clear();
        }
        self.points.push_back(point);
        while self.points.len() > RATE_POINTS
            || self.points.front().is_some_and(|first| RATE_SPAN < now.saturating_duration_since(first.0))
        {
            self.points.pop_front();
        }
    }

    /// The past of the backend with this name.
    pub(super) fn track(&self, name: &str) -> Option<&Track> {
        self.tracks.get(name)
    }

    /// Requests and tokens per second over the last ten seconds; none before there are two documents.
    pub(super) fn rates(&self) -> Option<(f64, f64)> {
        let (first, last) = (self.points.front()?, self.points.back()?);
        let span = last.0.saturating_duration_since(first.0);
        (Duration::from_millis(200) <= span).then(|| {
            let per_second = |from: u64, to: u64| approximate(to.saturating_sub(from)) / span.as_secs_f64();
            (per_second(first.1, last.1), per_second(first.2, last.2))
        })
    }

    /// Whole seconds known of the backend that is known longest.
    pub(super) fn seconds(&self) -> usize {
        self.tracks.values().map(|track| track.samples.len()).max().unwrap_or(0)
    }

    /// The most that any backend served in one of the last `length` seconds: one scale for all strips.
    pub(super) fn peak(&self, length: usize) -> u64 {
        self.tracks
            .values()
            .flat_map(|track| track.recent(length))
            .map(|sample| sample.served)
            .max()
            .unwrap_or(0)
    }
}

/// The same backend in another document; most often it stands in the same place.
pub(super) fn find<'a>(status: &'a Status, place: usize, name: &str) -> Option<&'a Backend> {
    status
        .backends
        .get(place)
        .filter(|backend| backend.name == name)
        .or_else(|| status.backends.iter().find(|backend| backend.name == name))
}

/// A counter as a float; above 2^53 the last digits are lost, which no reader sees.
#[expect(clippy::cast_precision_loss, reason = "shown with three digits at most")]
pub(super) const fn approximate(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(served: u64, state: State, remaining_ms: Option<u64>) -> Status {
        let backend =
            Backend { name: "west".into(), served_total: served, state, remaining_ms, ..Backend::default() };
        let mut status = Status { backends: vec![backend], ..Status::default() };
        status.callers.requests_total = served;
        status.tokens.prompt_total = served * 100;
        status
    }

    fn fed(documents: &[(u64, Status)]) -> History {
        let start = tokio::time::Instant::now().into_std();
        let mut history = History::default();
        let mut before = None;
        for (millis, status) in documents {
            history.observe(start + Duration::from_millis(*millis), before, status);
            before = Some(status);
        }
        history
    }

    #[test]
    fn each_whole_second_is_one_sample() {
        let history = fed(&[
            (0, document(5, State::Admitting, None)),
            (500, document(8, State::Admitting, None)),
            (1_000, document(10, State::Admitting, None)),
            (3_100, document(11, State::Admitting, None)),
        ]);
        let samples: Vec<_> = history.track("west").unwrap().recent(60).collect();
        assert_eq!(samples.iter().map(|sample| sample.served).collect::<Vec<_>>(), [3, 2, 0]);
        assert!(samples[2].state.is_none(), "no document came in that second");
    }

    #[test]
    fn a_pause_keeps_the_length_it_was_first_seen_with_and_a_longer_one_replaces_it() {
        let mut documents = vec![
            (0, document(0, State::Cooling, Some(9_000))),
            (1_000, document(0, State::Cooling, Some(8_000))),
        ];
        assert_eq!(fed(&documents).track("west").unwrap().pause(), Duration::from_secs(9));
        documents.push((2_000, document(0, State::Cooling, Some(20_000))));
        assert_eq!(fed(&documents).track("west").unwrap().pause(), Duration::from_secs(20));
        documents.push((3_000, document(0, State::Admitting, None)));
        assert_eq!(fed(&documents).track("west").unwrap().pause(), Duration::ZERO);
    }

    #[test]
    fn rates_are_of_the_last_ten_seconds_and_survive_a_restart() {
        let (requests, tokens) = fed(&[
            (0, document(0, State::Admitting, None)),
            (8_000, document(1_000, State::Admitting, None)),
            (18_000, document(1_050, State::Admitting, None)),
        ])
        .rates()
        .unwrap();
        assert!((requests - 5.0).abs() < 0.01 && (tokens - 500.0).abs() < 0.01, "{requests} {tokens}");
        let restarted =
            fed(&[(0, document(900, State::Admitting, None)), (1_000, document(3, State::Admitting, None))]);
        assert!(restarted.rates().is_none());
    }

    #[test]
    fn the_past_is_bounded_after_a_long_silence() {
        let history = fed(&[
            (0, document(0, State::Admitting, None)),
            (900_000_000, document(7, State::Admitting, None)),
        ]);
        assert_eq!(history.track("west").unwrap().recent(usize::MAX).count(), SAMPLES);
    }
}
