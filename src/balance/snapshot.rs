//! All that admin, metrics and the live view see of the pool: plain values, made on request.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend::Backend;
use super::health::{Fit, Health};
use super::lane::{Lane, Quota, Tally};
use super::reason::Reason;
use super::recent::MishapSnapshot;
use super::routes::Lanes;

/// The pool at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolSnapshot {
    /// Picks not yet reported or abandoned, those on backends that a reload removed included.
    pub in_flight: u64,
    /// In the order of the settings.
    pub backends: Vec<BackendSnapshot>,
    /// Those that have been served or throttled once, by name, as far as their quotas have been told.
    pub deployments: Vec<DeploymentSnapshot>,
}

impl PoolSnapshot {
    /// Nothing is under way, and no lane or backend comes back by itself.
    #[must_use]
    pub fn at_rest(&self) -> bool {
        let steady = |backend: &BackendSnapshot| {
            backend.remaining.is_none() && backend.lanes.iter().all(|lane| lane.remaining.is_none())
        };
        self.in_flight == 0 && self.backends.iter().all(steady)
    }

    /// Picks so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.backends.iter().map(|backend| backend.tally.requests).sum()
    }
}

/// One deployment, by the callers' name, over all backends in use.
#[derive(Clone, Debug, PartialEq)]
pub struct DeploymentSnapshot {
    /// Name.
    pub name: Arc<str>,
    /// Tokens a minute, of those lanes that have told.
    pub limit_tokens: u64,
    /// Of them, believed to be left.
    pub remaining_tokens: u64,
}

/// One backend at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendSnapshot {
    /// Name.
    pub name: Arc<str>,
    /// Address, as in the settings.
    pub url: Arc<str>,
    /// Lower is used first.
    pub priority: u32,
    /// Share among equals.
    pub weight: u32,
    /// It has its credential.
    pub credential_ready: bool,
    /// An operator took it out of use.
    pub drained: bool,
    /// Its own state; else, where none of its lanes in use admits, that of the lane that is back first.
    pub state: State,
    /// Until it admits again.
    pub remaining: Option<Duration>,
    /// Why it admits nothing.
    pub cause: Option<Reason>,
    /// Since the start, over all its lanes.
    pub tally: Tally,
    /// By name there: those of the settings, and those that requests used.
    pub lanes: Vec<LaneSnapshot>,
}

/// One lane at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct LaneSnapshot {
    /// Name there; empty for the unnamed lane.
    pub deployment: Arc<str>,
    /// In the settings, or served or throttled once somewhere: otherwise a caller may have invented the name.
    pub known: bool,
    /// Not known, and what was answered last is that there is no such deployment: most likely it is misspelt.
    pub misspelt: bool,
    /// State, a rest of its backend included.
    pub state: State,
    /// Until it admits again.
    pub remaining: Option<Duration>,
    /// Why it admits nothing.
    pub cause: Option<Reason>,
    /// Since the lane is remembered.
    pub tally: Tally,
    /// What is believed of its quota now: the limit, and what remains of this minute.
    pub quota: Quota,
    /// From a request to the beginning of its good answer, on average lately.
    pub first_byte: Option<Duration>,
    /// Its last failures by kind, the newest first; a handful.
    pub mishaps: Vec<MishapSnapshot>,
    /// Until its minute begins again, where that is known.
    pub restart: Option<Duration>,
}

/// What a lane or backend does with requests. Displays as the word that operators see.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum State {
    /// Takes them.
    Admitting,
    /// Takes none: throttled.
    Cooling,
    /// Takes none: failed.
    Resting,
    /// Takes one to see whether it is well again, or is waiting for that one's answer.
    Probing,
    /// Takes none of an operation family: rejects our credential.
    Refused,
    /// Takes none: the deployment does not exist there.
    Absent,
    /// Takes none: an operator said so.
    Drained,
}

impl State {
    /// Every state, in the order of the metric's labels.
    pub const ALL: [Self; 7] = [
        Self::Admitting,
        Self::Cooling,
        Self::Resting,
        Self::Probing,
        Self::Refused,
        Self::Absent,
        Self::Drained,
    ];

    /// The word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Admitting => "admitting",
            Self::Cooling => "cooling",
            Self::Resting => "resting",
            Self::Probing => "probing",
            Self::Refused => "refused",
            Self::Absent => "absent",
            Self::Drained => "drained",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// State, time left, why.
type Told = (State, Option<Duration>, Option<Reason>);

const ADMITTING: Told = (State::Admitting, None, None);

/// One backend and its lanes.
pub(super) fn backend(backend: &Backend, lanes: &Lanes, now: Instant) -> BackendSnapshot {
    let remembered = backend.lanes.values().filter_map(|slot| lanes.get(*slot));
    let shown =
        remembered.filter(|lane| lane.tally.requests > 0 || (lane.configured && !lane.name.is_empty()));
    let lanes: Vec<LaneSnapshot> = shown.map(|shown| lane(backend, shown, now)).collect();
    let (state, remaining, cause) = own_state(backend, now).unwrap_or_else(|| state_of_lanes(&lanes));
    BackendSnapshot {
        name: Arc::clone(&backend.settings.name),
        url: Arc::clone(&backend.settings.url),
        priority: backend.settings.priority,
        weight: backend.settings.weight.get(),
        credential_ready: backend.credential,
        drained: backend.drained,
        state,
        remaining,
        cause,
        tally: backend.tally,
        lanes,
    }
}

fn lane(backend: &Backend, lane: &Lane, now: Instant) -> LaneSnapshot {
    let (state, remaining, cause) = lane_state(backend, lane, now);
    LaneSnapshot {
        deployment: Arc::clone(&lane.name),
        known: lane.known,
        misspelt: !lane.known && lane.was_absent(),
        state,
        remaining,
        cause,
        tally: lane.tally,
        quota: lane.estimator.quota(now),
        first_byte: lane.recent.first_byte(),
        mishaps: lane.recent.mishaps(now),
        restart: lane.estimator.restart(now).map(|restart| restart - now),
    }
}

fn lane_state(backend: &Backend, lane: &Lane, now: Instant) -> Told {
    if backend.drained {
        return (State::Drained, None, None);
    }
    if let Some(until) = lane.absent(now) {
        return (State::Absent, Some(until - now), Some(Reason::Status(404)));
    }
    if let Some(cooldown) = lane.cooldown(now) {
        return (State::Cooling, Some(cooldown.until - now), Some(cooldown.reason));
    }
    let resting = rest(&backend.health, now).or_else(|| rest(&lane.health, now));
    resting.or_else(|| refused(backend, now)).unwrap_or(ADMITTING)
}

fn own_state(backend: &Backend, now: Instant) -> Option<Told> {
    if backend.drained {
        return Some((State::Drained, None, None));
    }
    rest(&backend.health, now).or_else(|| refused(backend, now))
}

/// Refused for one operation family is shown on all lanes: nearly all traffic is of one family.
fn refused(backend: &Backend, now: Instant) -> Option<Told> {
    let refusal = backend.refusal(now)?;
    Some((State::Refused, Some(refusal.until - now), Some(Reason::Status(refusal.status))))
}

fn rest(health: &Health, now: Instant) -> Option<Told> {
    match health.fit(now) {
        Fit::Well => None,
        Fit::ProbeDue | Fit::Probing => Some((State::Probing, None, health.reason())),
        Fit::Resting { until } => Some((State::Resting, Some(until - now), health.reason())),
    }
}

fn state_of_lanes(lanes: &[LaneSnapshot]) -> Told {
    let used = || lanes.iter().filter(|lane| lane.known && lane.tally.requests > 0);
    if used().any(|lane| lane.state == State::Admitting) {
        return ADMITTING;
    }
    used()
        .min_by_key(|lane| lane.remaining.unwrap_or_default())
        .map_or(ADMITTING, |lane| (lane.state, lane.remaining, lane.cause))
}
