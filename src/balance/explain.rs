//! Who would serve a request now, in what order, and why each other would not: the choice, looked at and not made.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::choosing::{self, Able, Together};
use super::standing::{Candidate, Standing, View};

/// The choice for one request at one moment. Displays as one line for each backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The deployment is in the settings, or was served once somewhere: otherwise its name may be an invention.
    pub known: bool,
    /// Every backend of the settings: those that would serve first, as they would be tried, then the others.
    pub backends: Vec<Explained>,
}

/// One backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    /// Its position in the settings.
    pub backend: usize,
    /// Name.
    pub name: Arc<str>,
    /// Lower is used first.
    pub priority: u32,
    /// Whether, and as what, it would serve.
    pub turn: Turn,
}

/// What a backend is to a request. Displays as a few words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Turn {
    /// First: the conversation is at home there.
    Home,
    /// First or, after a conversation's home, next: drawn from the first priority group that has room.
    Drawn {
        /// How likely, from 0 to 1.
        chance: f64,
    },
    /// It has room, and is used when the groups before have none.
    Spillover,
    /// Only if no other has room.
    Last(Obstacle),
    /// Not now.
    Not(Obstacle),
}

/// What keeps a request from a backend. Displays as a few words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Obstacle {
    /// It has not answered for a while.
    Silent,
    /// What is left of its minute is too little.
    Full {
        /// Until it fits.
        remaining: Duration,
    },
    /// The request seems larger than its whole quota.
    TooSmall,
    /// Throttled.
    Cooling {
        /// Until it admits again.
        remaining: Duration,
    },
    /// It failed.
    Resting {
        /// Until its probe.
        remaining: Duration,
    },
    /// Its probe has not answered yet.
    Probing,
    /// Requests of this size are kept away by what it answered to one.
    TooLarge,
    /// It rejects our credential for this kind of operation.
    Refused,
    /// It does not have the deployment.
    Absent,
    /// Its deployment does not do the operation.
    Unsupported,
    /// We have no credential for it yet.
    NoCredential,
    /// Drained, or beyond the caller's lowest priority.
    OutOfUse,
    /// The deployment is not in its settings.
    Unserved,
}

impl Turn {
    /// The word for programs; what keeps it away is said by its [`Obstacle`].
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Drawn { .. } => "drawn",
            Self::Spillover => "spillover",
            Self::Last(_) => "last",
            Self::Not(_) => "not",
        }
    }

    /// What keeps the request from it.
    #[must_use]
    pub fn obstacle(&self) -> Option<Obstacle> {
        match self {
            Self::Home | Self::Drawn { .. } | Self::Spillover => None,
            Self::Last(obstacle) | Self::Not(obstacle) => Some(*obstacle),
        }
    }
}

impl Obstacle {
    /// The word for programs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Full { .. } => "full",
            Self::TooSmall => "too_small",
            Self::Cooling { .. } => "cooling",
            Self::Resting { .. } => "resting",
            Self::Probing => "probing",
            Self::TooLarge => "too_large",
            Self::Refused => "refused",
            Self::Absent => "absent",
            Self::Unsupported => "unsupported",
            Self::NoCredential => "no_credential",
            Self::OutOfUse => "out_of_use",
            Self::Unserved => "unserved",
        }
    }

    /// Until it is out of the way, where that is known.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        match self {
            Self::Full { remaining } | Self::Cooling { remaining } | Self::Resting { remaining } => {
                Some(*remaining)
            }
            Self::Silent
            | Self::TooSmall
            | Self::Probing
            | Self::TooLarge
            | Self::Refused
            | Self::Absent
            | Self::Unsupported
            | Self::NoCredential
            | Self::OutOfUse
            | Self::Unserved => None,
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |remaining: &Duration| remaining.as_secs_f64();
        match self {
            Self::Silent => f.write_str("silent"),
            Self::Full { remaining } => write!(f, "full for {:.1} s", seconds(remaining)),
            Self::TooSmall => f.write_str("the request is larger than its quota"),
            Self::Cooling { remaining } => write!(f, "cooling for {:.1} s", seconds(remaining)),
            Self::Resting { remaining } => write!(f, "resting for {:.1} s", seconds(remaining)),
            Self::Probing => f.write_str("being probed"),
            Self::TooLarge => f.write_str("requests of this size are kept away"),
            Self::Refused => f.write_str("refuses our credential"),
            Self::Absent => f.write_str("does not have the deployment"),
            Self::Unsupported => f.write_str("does not do the operation"),
            Self::NoCredential => f.write_str("has no credential yet"),
            Self::OutOfUse => f.write_str("out of use"),
            Self::Unserved => f.write_str("does not serve the deployment"),
        }
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Home => f.write_str("first: the conversation is at home there"),
            Self::Drawn { chance } => write!(f, "drawn with {:.0} %", chance * 100.0),
            Self::Spillover => f.write_str("spillover"),
            Self::Last(obstacle) => write!(f, "last: {obstacle}"),
            Self::Not(obstacle) => write!(f, "not now: {obstacle}"),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.backends.iter().try_for_each(|explained| {
            writeln!(f, "{} (priority {}): {}", explained.name, explained.priority, explained.turn)
        })
    }
}

/// What [`super::Pool::explain`] does.
pub(super) fn explain(view: View<'_>) -> Explanation {
    let mut backends = Vec::with_capacity(view.backends.len());
    let mut able = Vec::new();
    let mut first = true;
    for group in view.groups {
        choosing::gather(view, group, &mut able);
        if !able.is_empty() {
            take_turns(view, &able, first, &mut backends);
            first = false;
        }
    }
    let members = view.groups.iter().flat_map(|group| group.members.iter().copied());
    let others = members.filter(|index| !backends.iter().any(|explained| explained.backend == *index));
    let mut others: Vec<(Explained, Resort)> = others
        .map(|index| {
            let (turn, resort) = turn(view, index, first);
            (explained(view, index, turn), resort)
        })
        .collect();
    others.sort_by(|(_, one), (_, two)| one.0.cmp(&two.0).then(one.1.total_cmp(&two.1)));
    backends.extend(others.into_iter().map(|(explained, _)| explained));
    let mut lanes = view.ways.iter().flatten().filter_map(|way| view.lanes.get(way.lane));
    Explanation { known: view.ask.deployment.is_none() || lanes.any(|lane| lane.known), backends }
}

fn take_turns(view: View<'_>, able: &[Able], first: bool, backends: &mut Vec<Explained>) {
    let all = Together::of(able);
    let total: f64 = able.iter().map(|able| able.weight(all)).sum();
    let home = view.ask.conversation.and_then(|conversation| choosing::home(conversation, able, all));
    let mut order: Vec<(usize, f64, bool)> =
        able.iter().map(|able| (able.index, able.weight(all) / total, able.silent)).collect();
    let is_home = |index: usize| Some(index) == home;
    order.sort_by(|one, two| is_home(two.0).cmp(&is_home(one.0)).then(two.1.total_cmp(&one.1)));
    for (index, chance, silent) in order {
        let turn = match (first, silent) {
            (_, true) => Turn::Last(Obstacle::Silent),
            (true, false) if is_home(index) => Turn::Home,
            (true, false) => Turn::Drawn { chance },
            (false, false) => Turn::Spillover,
        };
        backends.push(explained(view, index, turn));
    }
}

fn explained(view: View<'_>, index: usize, turn: Turn) -> Explained {
    let settings = &view.backends[index].settings;
    Explained { backend: index, name: Arc::clone(&settings.name), priority: settings.priority, turn }
}

/// When it is asked in the last resort: the step of the walk (`choosing`), and the place within it.
type Resort = (u8, f64);

/// It is not.
const NEVER: Resort = (u8::MAX, 0.0);

/// Of one that would not serve, or only when nothing admits.
fn turn(view: View<'_>, index: usize, nothing_admits: bool) -> (Turn, Resort) {
    let candidate = view.backends.get(index).and_then(|backend| {
        let lane = view.lanes.get(view.ways.get(index)?.as_ref()?.lane)?;
        Some(Candidate { index, backend, lane })
    });
    let Some(candidate) = candidate else { return (Turn::Not(Obstacle::Unserved), NEVER) };
    let remaining = |until: Instant| until.saturating_duration_since(view.now);
    let standing = view.standing(&candidate);
    let obstacle = match standing {
        Standing::Admits | Standing::ProbeDue => return (Turn::Last(Obstacle::Silent), (0, 0.0)),
        Standing::Full { until, .. } => Obstacle::Full { remaining: remaining(until) },
        Standing::TooSmall => Obstacle::TooSmall,
        Standing::Cooling { until } => Obstacle::Cooling { remaining: remaining(until) },
        Standing::Resting { until } => Obstacle::Resting { remaining: remaining(until) },
        Standing::Probing => Obstacle::Probing,
        Standing::TooLarge => Obstacle::TooLarge,
        Standing::Refused => Obstacle::Refused,
        Standing::Absent => Obstacle::Absent,
        Standing::Unsupported => Obstacle::Unsupported,
        Standing::NoCredential => Obstacle::NoCredential,
        Standing::OutOfUse => Obstacle::OutOfUse,
    };
    // Where nothing admits, these are asked all the same.
    let resort = match standing {
        _ if !nothing_admits => NEVER,
        Standing::TooSmall => (1, -candidate.lane.estimator.limit().unwrap_or_default()),
        Standing::Full { .. } if choosing::may_learn(view, &candidate) => (2, 0.0),
        Standing::Resting { until } => (3, remaining(until).as_secs_f64()),
        _ => NEVER,
    };
    (if resort == NEVER { Turn::Not(obstacle) } else { Turn::Last(obstacle) }, resort)
}
