//! What each lane is to one request, and everything that a choice looks at.

use std::time::Instant;

use super::attempts::Attempts;
use super::backend::Backend;
use super::estimator::{Room, tokens};
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
    /// What is left of its minute is too little for this request.
    Full {
        /// When it fits.
        until: Instant,
        /// That is the latest moment; a 429 would teach the true one.
        guessed: bool,
    },
    /// The request seems larger than its whole quota.
    TooSmall,
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

impl Standing {
    /// The lane could serve the request at some time, as far as Azure has told.
    pub(super) fn is_able(self) -> bool {
        match self {
            Self::Admits
            | Self::ProbeDue
            | Self::Full { .. }
            | Self::TooSmall
            | Self::Cooling { .. }
            | Self::Resting { .. }
            | Self::Probing => true,
            Self::TooLarge
            | Self::Refused
            | Self::Absent
            | Self::Unsupported
            | Self::NoCredential
            | Self::OutOfUse => false,
        }
    }
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

    pub(super) fn members(self, group: &'a Group) -> impl Iterator<Item = Candidate<'a>> {
        group.members.iter().filter_map(move |&index| {
            let backend = self.backends.get(index)?;
            let lane = self.lanes.get(self.ways.get(index)?.as_ref()?.lane)?;
            let candidate = Candidate { index, backend, lane };
            self.ask.pin.is_none_or(|pin| pin == backend.id).then_some(candidate)
        })
    }

    pub(super) fn untried(self, candidate: &Candidate<'_>) -> bool {
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
            (None, Fit::Resting { until }) => Standing::Resting { until },
            (None, Fit::Probing) => Standing::Probing,
            (None, fit @ (Fit::Well | Fit::ProbeDue)) => {
                match lane.estimator.room(self.now, tokens(self.ask.charge)) {
                    Room::Fits if fit == Fit::Well => Standing::Admits,
                    Room::Fits => Standing::ProbeDue,
                    Room::Later { until, guessed } => Standing::Full { until, guessed },
                    Room::Never => Standing::TooSmall,
                }
            }
        }
    }
}
