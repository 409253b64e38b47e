//! Who is next. Each backend at most once per request.
//!
//! ```text
//! choose     the first priority group in which a lane has room for this request; there
//!            the silent ones only if there are no others;
//!            a conversation's home (affinity), if one of them is fast enough;
//!            else one drawn: remaining / time to restart · speed · health · weight, each by its own module
//! oversize   none has room, and for some it seems too large altogether: the largest of them, for that is a guess, and
//!            only Azure's own answer (a size mark) keeps a request out
//! learn      all full, and of one it is not known until when: this request asks it, one per 2 s and lane
//! early      all full or cooling, and one rests for failures: that whose rest ends soonest, one request at a time
//! ```
//!
//! Not known: what remains is its limit, or the mean limit of the others, and 30 s are left of its minute.
//!
//! Worth (`cargo bench --bench goodput -- --rows mechanisms`, without it → with it). Which lane is drawn changes little as
//! long as the request fits. For requests that belong to no conversation, callers failing at 110 % load of 8 backends
//! 4.0 → 3.6 % against a draw by what remains alone, at 90 % of the article's pool 1.9 → 1.6 % against one by limit.
//! `oversize`: row "images 3x30k 90 %", failing 6.4 → 1.8 %; test `a_request_larger_than_every_limit_goes_to_the_largest…`.
//! `learn`: row "sliding 110 %", failing 8.6 → 7.6 %; test `where_nothing_fits_one_request_in_two_seconds_asks_until_when`.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::affinity;
use super::failing;
use super::speed;
use super::standing::{Candidate, Group, Standing, View};

/// How long a minute goes on of which that is not known, in seconds: half of it, on average.
const HALF: f64 = 30.0;

/// What is left for less than this is spent as if for this, in seconds: clocks and ways differ.
const SHORTEST: f64 = 1.0;

/// How often a lane is asked just to learn when its minute begins again.
const LEARNING: Duration = Duration::from_secs(2);

/// A lane that may be picked, with what the choice needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Able {
    pub(super) index: usize,
    anchor: u64,
    weight: f64,
    limit: Option<f64>,
    /// In tokens.
    remaining: Option<f64>,
    /// Until the minute begins again, in seconds.
    left: Option<f64>,
    /// To the first event.
    seconds: f64,
    failing: f64,
    pub(super) silent: bool,
}

impl Able {
    fn of(view: View<'_>, candidate: &Candidate<'_>) -> Self {
        let Candidate { index, backend, lane } = *candidate;
        let now = view.now;
        let failing = lane.health.failing.share(now).max(backend.health.failing.share(now));
        let restart = lane.estimator.restart(now);
        Self {
            index,
            anchor: backend.anchor,
            weight: backend.weight,
            limit: lane.estimator.limit(),
            remaining: lane.estimator.remaining(now),
            left: restart.map(|restart| restart.saturating_duration_since(now).as_secs_f64()),
            seconds: lane.speed.seconds(now),
            failing,
            silent: lane.speed.is_silent(now),
        }
    }

    fn limit(&self, mean: f64) -> f64 {
        self.limit.unwrap_or(mean)
    }

    fn left(&self) -> f64 {
        self.left.unwrap_or(HALF).max(SHORTEST)
    }

    /// What it can spend per second, and how gladly it is given that.
    pub(super) fn weight(&self, all: Together) -> f64 {
        let remaining = self.remaining.unwrap_or_else(|| self.limit(all.limit));
        let spend = remaining.max(1.0) / self.left();
        let gladly = speed::factor(all.fastest, self.seconds) * failing::factor(self.failing);
        // Never nothing: it may be the only one.
        (spend * self.weight * gladly).max(f64::MIN_POSITIVE)
    }

    /// `None` where it keeps no conversations at the moment.
    pub(super) fn score(&self, conversation: u64, all: Together) -> Option<f64> {
        let limit = self.limit(all.limit);
        let fast = affinity::is_fast(self.seconds, all.fastest);
        let share = limit * self.weight * failing::factor(self.failing);
        (fast && !self.silent).then(|| affinity::score(conversation, self.anchor, share))
    }
}

/// What lanes are measured by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Together {
    /// The mean of the known limits, in tokens a minute.
    limit: f64,
    /// The shortest time to the first event, in seconds.
    fastest: f64,
}

impl Together {
    pub(super) fn of(able: &[Able]) -> Self {
        let fastest = able.iter().map(|able| able.seconds).fold(f64::INFINITY, f64::min);
        Self { limit: mean(able.iter().filter_map(|able| able.limit)), fastest }
    }
}

/// 1 where there are none, so that only weights count.
pub(super) fn mean(limits: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = limits.fold((0.0, 0.0), |(sum, count), limit| (sum + limit, count + 1.0));
    if count > 0.0 { sum / count } else { 1.0 }
}

/// One of `candidates`, each as likely as its weight; one pass, nothing kept.
pub(super) fn draw<T>(rng: &mut Rng, candidates: impl Iterator<Item = (T, f64)>) -> Option<T> {
    let mut total = 0.0;
    let mut drawn = None;
    for (candidate, weight) in candidates {
        total += weight;
        if rng.f64() * total < weight {
            drawn = Some(candidate);
        }
    }
    drawn
}

/// The lanes of a group that have room; the silent ones only if there are no others. `able` is emptied first.
pub(super) fn gather<'a>(view: View<'a>, group: &'a Group, able: &mut Vec<Able>) {
    able.clear();
    let admitting = view.members(group).filter(|candidate| {
        view.untried(candidate) && matches!(view.standing(candidate), Standing::Admits | Standing::ProbeDue)
    });
    able.extend(admitting.map(|candidate| Able::of(view, &candidate)));
    if able.iter().any(|able| !able.silent) {
        able.retain(|able| !able.silent);
    }
}

/// The backend to ask now, if one has room. `able` is room to work in.
pub(super) fn choose(view: View<'_>, able: &mut Vec<Able>, rng: &mut Rng) -> Option<usize> {
    view.groups.iter().find_map(|group| {
        gather(view, group, able);
        let all = Together::of(able);
        let home = view.ask.conversation.and_then(|conversation| home(conversation, able, all));
        home.or_else(|| draw(rng, able.iter().map(|able| (able.index, able.weight(all)))))
    })
}

/// Who is most likely drawn.
pub(super) fn next_in_line(view: View<'_>) -> Option<usize> {
    let mut able = Vec::new();
    view.groups.iter().find_map(|group| {
        gather(view, group, &mut able);
        let all = Together::of(&able);
        let weights = able.iter().map(|able| (able.index, able.weight(all)));
        // Of equals the first.
        weights.rev().max_by(|one, two| one.1.total_cmp(&two.1)).map(|(index, _)| index)
    })
}

/// Where a conversation is at home.
pub(super) fn home(conversation: u64, able: &[Able], all: Together) -> Option<usize> {
    let scores = able.iter().filter_map(|able| Some((able.index, able.score(conversation, all)?)));
    scores.min_by(|one, two| two.1.total_cmp(&one.1)).map(|(index, _)| index)
}

/// The largest of the lanes whose whole quota seems too small.
pub(super) fn oversize(view: View<'_>) -> Option<usize> {
    let small = view
        .serving()
        .filter(|candidate| view.untried(candidate) && view.standing(candidate) == Standing::TooSmall);
    let limits = small.filter_map(|small| Some((small.index, small.lane.estimator.limit()?)));
    // Of equals the first.
    limits.min_by(|one, two| two.1.total_cmp(&one.1)).map(|(index, _)| index)
}

/// All are full, and of one it is not known until when: its 429 will tell.
pub(super) fn learn(view: View<'_>) -> Option<usize> {
    view.serving().find(|candidate| may_learn(view, candidate)).map(|candidate| candidate.index)
}

/// Whether a request may go there just to learn until when it is full.
pub(super) fn may_learn(view: View<'_>, candidate: &Candidate<'_>) -> bool {
    view.untried(candidate)
        && matches!(view.standing(candidate), Standing::Full { guessed: true, .. })
        && candidate.lane.learning.is_none_or(|asked| asked + LEARNING <= view.now)
}

/// Nothing admits: the failed lane to ask all the same. Resting is our own caution, and no reason to refuse a caller.
pub(super) fn early_probe(view: View<'_>) -> Option<usize> {
    let resting =
        view.serving().filter(|candidate| view.untried(candidate)).filter_map(|candidate| {
            match view.standing(&candidate) {
                Standing::Resting { until } => Some((candidate.index, until)),
                _ => None,
            }
        });
    resting.min_by_key(|(_, until): &(usize, Instant)| *until).map(|(index, _)| index)
}
