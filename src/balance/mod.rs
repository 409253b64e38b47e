//! Choosing a backend. PURE: no I/O, no clock, no threads, no global randomness; `now` is always an argument and
//! the seed comes from `app`, so the very code that serves can be replayed in virtual time.
//!
//! Owns: what we believe about every lane and backend (cooldown, rest, refusal, absence, size marks), who is picked
//! next, what an answer means (`verdict`), how long a throttled lane stays away (`cooldown`), and what to say when
//! nothing admits (`exhaustion`).
//!
//! Does not: send anything, read bodies beyond an error's text, hold credentials, refresh tokens, wait, log. A
//! [`Pick`] is a promise to report; the edge keeps it in a guard that abandons it on drop.
//!
//! Why so: the hard part of this product is decisions over time. Two rules shape everything here. A *throttled* lane
//! is well, it said when it is back, and it simply is back then. A *failed* lane or backend is doubtful: it rests,
//! and one request, the probe, goes first. And we never shut ourselves: only Azure's own answers keep requests out,
//! never a guess of ours.
//!
//! Reading order: `pool` (the walk; `questions` change nothing), `choosing`, `exhaustion`, `patience`, then what they
//! look at: `lane`, `size`, `health`, `backend`, `routes`; beside them `verdict` and `cooldown`, which read answers
//! and know no state, and `pins`, which knows where objects live that only one backend has.

mod affinity;
mod attempts;
mod backend;
mod change;
mod choosing;
mod cooldown;
mod estimator;
mod exhaustion;
mod explain;
mod failing;
mod flow;
mod health;
mod lane;
mod patience;
mod pins;
mod pool;
mod questions;
mod reason;
mod recent;
mod routes;
mod size;
mod snapshot;
mod speed;
mod standing;
mod verdict;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

pub use self::attempts::Attempts;
pub use self::backend::BackendId;
pub use self::change::Change;
pub use self::cooldown::Told;
pub use self::exhaustion::{Cause, Exhausted};
pub use self::explain::{Explained, Explanation, Obstacle, Turn};
pub use self::lane::{Quota, Tally};
pub use self::pins::{PinCounts, PinSettings, Pins, Whereabouts};
pub use self::pool::{Ask, Pick, Pool};
pub use self::reason::{AttemptFailure, Reason};
pub use self::recent::{Mishap, MishapSnapshot};
pub use self::snapshot::{BackendSnapshot, DeploymentSnapshot, LaneSnapshot, PoolSnapshot, State};
pub use self::verdict::{Answer, Judgement, Next, Tier, Verdict, judge, judge_failure};

/// What the pool is made of; produced by `settings`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolSettings {
    /// In the order of the settings file; the index is the backend's identity within one `Pool`.
    pub backends: Vec<BackendSettings>,
    /// The most lanes remembered, over all backends (`limits.lanes`).
    pub lanes: usize,
}

/// One backend as the pool sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BackendSettings {
    /// Unique name, for people.
    pub name: Arc<str>,
    /// Where it leads: together with `name` what makes a backend the same one after a reload.
    pub url: Arc<str>,
    /// Lower is used first.
    pub priority: u32,
    /// Share among equals.
    pub weight: NonZeroU32,
    /// Which deployments are served there, and under which names.
    pub deployments: Deployments,
}

/// Which deployments a backend serves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Deployments {
    /// Every deployment, under the caller's own name.
    Any,
    /// Only these: name for callers → name there.
    Named(BTreeMap<String, String>),
    /// Every deployment, all called this there (openai-aca-lb's `BACKEND_n_DEPLOYMENT_NAME`).
    AllAs(String),
}

impl Deployments {
    /// What `deployment` is called there; `None` where it is not served.
    #[must_use]
    pub fn there<'a>(&'a self, deployment: &'a str) -> Option<&'a str> {
        match self {
            Self::Any => Some(deployment),
            Self::Named(names) => names.get(deployment).map(String::as_str),
            Self::AllAs(name) => Some(name),
        }
    }

    /// Whether some deployment has another name there than callers have for it.
    #[must_use]
    pub fn renames(&self) -> bool {
        match self {
            Self::Any => false,
            Self::Named(names) => names.iter().any(|(name, there)| name != there),
            Self::AllAs(_) => true,
        }
    }

    /// A name of callers that leads to the deployment `there`.
    #[must_use]
    pub fn asked_as<'a>(&'a self, there: &'a str) -> Option<&'a str> {
        match self {
            Self::Any => Some(there),
            Self::Named(names) => names.iter().find(|(_, to)| *to == there).map(|(name, _)| name.as_str()),
            Self::AllAs(name) => (name == there).then_some(there),
        }
    }

    /// Whether a lane of this name there can still be asked for.
    fn leads_to(&self, there: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Named(names) => names.values().any(|name| name == there),
            Self::AllAs(name) => name == there,
        }
    }
}
