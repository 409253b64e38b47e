//! Who is next: the first priority group in which a lane admits, there a draw by weight; and when no lane admits, the
//! failed one whose rest ends soonest. Each backend at most once per request.

use std::time::Instant;

use fastrand::Rng;

use super::attempts::Attempts;
use super::backend::Backend;
use super::health::Fit;
use super::lane::Lane;
use super::pool::Ask;
use super::routes::{Lanes, Way};

/// Backends of equal priority, by index.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) priority: u32,
    pub(super) members: Vec<usize>,
}

/// In the order in which they are used.
pub(super) fn groups(backends: &[Backend]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (index, backend) in backends.iter().enumerate() {
        let priority = backend.settings.priority;
        match groups.iter_mut().find(|group| group.priority == priority) {
            Some(group) => group.members.push(index),
            None => groups.push(Group { priority, members: vec![index] }),
        }
    }
    groups.sort_by_key(|group| group.priority);
    groups
}

/// What a lane is to one request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    /// It may be picked.
    Admits,
    /// It may be picked, once: its rest is over, and this request is the probe.
    ProbeDue,
    /// Throttled.
    Cooling {
        /// When it admits again, a rest included.
        until: Instant,
    },
    /// It or its backend failed.
    Resting {
        /// When the probe is due.
        until: Instant,
    },
    /// The probe has not answered yet.
    Probing,
    /// A size mark keeps this request away.
    TooLarge,
    /// The backend rejects our credential for this operation family.
    Refused,
    /// The backend does not have the deployment.
    Absent,
    /// The deployment does not do the operation.
    Unsupported,
    /// The backend has no credential yet.
    NoCredential,
    /// An operator drained the backend, or the caller may not spill over to it.
    OutOfUse,
}

/// Everything a choice looks at.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) now: Instant,
    pub(super) ask: &'a Ask<'a>,
    pub(super) attempts: &'a Attempts,
    pub(super) ways: &'a [Option<Way>],
    pub(super) backends: &'a [Backend],
    pub(super) lanes: &'a Lanes,
    pub(super) groups: &'a [Group],
}

/// One lane that serves the deployment.
pub(super) struct Candidate<'a> {
    pub(super) index: usize,
    pub(super) backend: &'a Backend,
    pub(super) lane: &'a Lane,
}

impl<'a> View<'a> {
    /// All lanes that serve the deployment, tried ones included, the best priority first.
    pub(super) fn serving(self) -> impl Iterator<Item = Candidate<'a>> {
        self.groups.iter().flat_map(move |group| self.members(group))
    }

    fn members(self, group: &'a Group) -> impl Iterator<Item = Candidate<'a>> {
        group.members.iter().filter_map(move |&index| {
            let backend = self.backends.get(index)?;
            let lane = self.lanes.get(self.ways.get(index)?.as_ref()?.lane)?;
            let candidate = Candidate { index, backend, lane };
            self.ask.pin.is_none_or(|pin| pin == backend.id).then_some(candidate)
        })
    }

    fn untried(self, candidate: &Candidate<'_>) -> bool {
        !self.attempts.has_tried(candidate.backend.id)
    }

    /// What keeps out for this request comes first: only what is left may be told as a time to come back.
    pub(super) fn standing(self, candidate: &Candidate<'_>) -> Standing {
        let Candidate { backend, lane, .. } = candidate;
        let beyond = |lowest| backend.settings.priority > lowest;
        // Where one's own objects live is no spillover.
        let spills = self.ask.pin.is_none() && self.ask.lowest_priority.is_some_and(beyond);
        if backend.drained || spills {
            return Standing::OutOfUse;
        }
        if !backend.credential {
            return Standing::NoCredential;
        }
        if backend.refuses(self.now, self.ask.family) {
            return Standing::Refused;
        }
        if lane.absent(self.now).is_some() {
            return Standing::Absent;
        }
        if lane.lacks(self.now, self.ask.operation) {
            return Standing::Unsupported;
        }
        if lane.is_too_large(self.now, self.ask.charge) {
            return Standing::TooLarge;
        }
        let fit = backend.health.fit(self.now).and(lane.health.fit(self.now));
        match (lane.cooldown(self.now), fit) {
            (Some(cooldown), Fit::Resting { until }) => {
                Standing::Cooling { until: cooldown.until.max(until) }
            }
            (Some(cooldown), _) => Standing::Cooling { until: cooldown.until },
            (None, Fit::Well) => Standing::Admits,
            (None, Fit::ProbeDue) => Standing::ProbeDue,
            (None, Fit::Resting { until }) => Standing::Resting { until },
            (None, Fit::Probing) => Standing::Probing,
        }
    }
}

/// How likely a lane is drawn among its equals; also decides whose recovery an exhausted caller is told.
pub(super) fn weight(candidate: &Candidate<'_>) -> f64 {
    candidate.backend.weight
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

/// The backend to ask now, if one admits.
pub(super) fn choose(view: View<'_>, rng: &mut Rng) -> Option<usize> {
    view.groups.iter().find_map(|group| {
        let admitting = view.members(group).filter(|candidate| {
            view.untried(candidate)
                && matches!(view.standing(candidate), Standing::Admits | Standing::ProbeDue)
        });
        draw(rng, admitting.map(|candidate| (candidate.index, weight(&candidate))))
    })
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
    resting.min_by_key(|(_, until)| *until).map(|(index, _)| index)
}
