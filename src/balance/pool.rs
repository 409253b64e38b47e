//! The pool: pick a lane, hear what happened, learn from it.
//!
//! One request's walk: [`Pool::pick`] → the edge sends → [`super::judge`] → either [`Pool::report`] and the next pick,
//! or, where the answer is good, [`Pool::answered`] at once and `report` when it has ended. A caller that leaves:
//! [`Pool::abandon`]. Every pick ends in exactly one `report` or `abandon`; the edge's guard sees to it.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use http::HeaderMap;

use super::attempts::{Attempts, Unconfirmed};
use super::backend::{self, Backend, BackendId};
use super::change::{Change, Changes};
use super::choosing::{self, Able};
use super::cooldown::{self, Told};
use super::estimator::{Sent, tokens};
use super::exhaustion::{self, Exhausted};
use super::flow::Returns;
use super::health::Failure;
use super::lane::{self, Lane, Quota, Throttling};
use super::patience;
use super::reason::{AttemptFailure, Reason};
use super::routes::{Lanes, Routes, Way, also_serving};
use super::snapshot::{self, PoolSnapshot};
use super::standing::{self, Group, View};
use super::verdict::Verdict;
use super::{BackendSettings, PoolSettings};

/// What a request needs of a lane.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// By the name that callers use; `None` where the request names none.
    pub deployment: Option<&'a str>,
    /// A second deployment that takes part: only backends that serve it as well are asked.
    pub second: Option<&'a str>,
    /// Operation family: what a refusal is remembered for.
    pub family: &'static str,
    /// Operation: what a deployment may not support.
    pub operation: &'static str,
    /// Tokens that this request will be charged, as estimated.
    pub charge: u64,
    /// It sets no limit to its answer: what such answers take on average is charged as well.
    pub unlimited: bool,
    /// A hash of what makes its turns one conversation, stable across processes; `None`: it belongs to none.
    pub conversation: Option<u64>,
    /// The answer is a stream.
    pub streamed: bool,
    /// Repeating it doubles nothing that anyone would miss or pay for twice.
    pub harmless: bool,
    /// The caller may not spill over beyond this priority.
    pub lowest_priority: Option<u32>,
    /// What the request names lives on this backend: no other can serve it.
    pub pin: Option<BackendId>,
    /// How much longer it may wait in line; zero: it is answered at once.
    pub patience: Duration,
    /// How many wait in line before it.
    pub ahead: usize,
}

/// A place on a lane, to be handed back exactly once.
#[derive(Debug)]
#[must_use = "a pick is reported or abandoned, or its place is lost"]
pub struct Pick {
    /// Position in the backends of the settings numbered `generation`.
    pub backend: usize,
    /// The deployment's name there, where it differs from the caller's.
    pub deployment_there: Option<Arc<str>>,
    /// Which settings `backend` counts in: 0 for the first, one more at each [`Pool::reconfigure`]. An edge that holds
    /// addresses and credentials by position must take those of this generation.
    pub generation: u32,
    /// This request goes first, to see whether a lane or backend that failed is well again.
    pub probe: bool,
    /// The lane's headers say that there is room. Where they do not, only its answer will tell.
    pub has_room: bool,
    id: BackendId,
    slot: usize,
    stamp: u64,
    route: Option<usize>,
    number: u64,
    family: &'static str,
    operation: &'static str,
    charge: u64,
    /// The part of `charge` for an answer without a limit; `None`: it has one.
    usual: Option<u64>,
    streamed: bool,
    /// What the lane's estimator remembers; `None` without a lane.
    sent: Option<Sent>,
    at: Instant,
    /// Its first event or head came.
    answered: Cell<bool>,
}

impl Pick {
    /// Which backend, whatever reload comes.
    #[must_use]
    pub fn backend_id(&self) -> BackendId {
        self.id
    }
}

/// Every backend, every lane, and what we believe about them.
#[derive(Debug)]
pub struct Pool {
    pub(super) backends: Vec<Backend>,
    pub(super) groups: Vec<Group>,
    pub(super) lanes: Lanes,
    pub(super) routes: Routes,
    rng: Rng,
    changes: Changes,
    generation: u32,
    /// Given out so far: the number of the newest.
    picks: u64,
    in_flight: u64,
    backend_ids: u32,
    /// Room to work in, kept so that a pick allocates nothing.
    able: Vec<Able>,
}

impl Pool {
    /// All lanes admit; no backend has its credential until [`Self::set_credential`] says so.
    #[must_use]
    pub fn new(settings: PoolSettings, seed: u64) -> Self {
        let mut pool = Self {
            backends: Vec::new(),
            groups: Vec::new(),
            lanes: Lanes::default(),
            routes: Routes::default(),
            rng: Rng::with_seed(seed),
            changes: Changes::default(),
            generation: 0,
            picks: 0,
            in_flight: 0,
            backend_ids: 0,
            able: Vec::new(),
        };
        pool.install(settings);
        pool
    }

    /// Reserves a place on the best lane that this request has not tried.
    ///
    /// # Errors
    /// No lane that could serve the request admits it: what to say instead.
    #[expect(clippy::too_many_lines, reason = "one walk, most of it the pick's fields")]
    pub fn pick(&mut self, now: Instant, ask: &Ask<'_>, attempts: &mut Attempts) -> Result<Pick, Exhausted> {
        let found = self.routes.find(ask.deployment, &mut self.backends, &mut self.lanes);
        let ways = &*also_serving(ask.second, self.routes.ways(&found), &self.backends);
        let (ask, usual) = &self.routes.charged(&found, ask);
        let (route, charge) = (found.kept(), tokens(ask.charge));
        for way in ways.iter().flatten() {
            end_cooldown(&self.backends, &mut self.lanes, way.lane, now, &mut self.changes);
        }
        let view = View {
            now,
            ask,
            attempts,
            ways,
            backends: &self.backends,
            lanes: &self.lanes,
            groups: &self.groups,
        };
        let mut learning = false;
        let chosen = choosing::choose(view, &mut self.able, &mut self.rng)
            .or_else(|| choosing::oversize(view))
            .or_else(|| choosing::learn(view).inspect(|_| learning = true))
            .or_else(|| choosing::early_probe(view));
        let Some((index, way)) = chosen.and_then(|index| Some((index, ways.get(index)?.as_ref()?))) else {
            if let Some(until) = patience::worth_it(view, charge, self.routes.look_at_flow(route)) {
                attempts.another_round();
                return Err(Exhausted::Soon { until });
            }
            let (exhausted, returns) = exhaustion::exhausted(view, &mut self.rng);
            return Err(self.in_turn(now, exhausted, &returns, route, charge));
        };
        let Way { lane: slot, there } = way.clone();
        let backend = &mut self.backends[index];
        self.picks += 1;
        self.in_flight += 1;
        backend.tally.picked();
        let mut probe = backend.health.reason().is_some();
        backend.health.probed_by(self.picks, now);
        // A name beyond the bound has no lane; no lane has the stamp 0.
        let (mut stamp, mut sent, mut has_room) = (0, None, false);
        if let Some(lane) = self.lanes.get_mut(slot) {
            lane.tally.picked();
            probe |= lane.health.reason().is_some();
            lane.health.probed_by(self.picks, now);
            stamp = lane.stamp;
            has_room = !probe && lane.estimator.has_room(now, charge);
            sent = Some(lane.estimator.sent(now, charge));
            if ask.streamed {
                lane.speed.sent(now);
            }
            if learning {
                lane.learning = Some(now);
            }
        }
        attempts.note(backend.id);
        Ok(Pick {
            backend: index,
            deployment_there: there,
            generation: self.generation,
            probe,
            has_room,
            id: backend.id,
            slot,
            stamp,
            route,
            number: self.picks,
            family: ask.family,
            operation: ask.operation,
            charge: ask.charge,
            usual: *usual,
            streamed: ask.streamed,
            sent,
            at: now,
            answered: Cell::new(false),
        })
    }

    /// The head (of a stream: the first event) of a good answer came. The lane and the backend are well, quota headers
    /// are read, and what failed before in this same request now counts. The pick stays in flight until `report`.
    pub fn answered(&mut self, now: Instant, pick: &Pick, headers: &HeaderMap, attempts: &mut Attempts) {
        attempts.answered = Some(pick.number);
        let first = !pick.answered.replace(true);
        if let Some(lane) = self.lanes.stamped(pick.slot, pick.stamp) {
            if let Some(sent) = &pick.sent {
                lane.estimator.answered(now, sent, Quota::read(headers));
            }
            if first && pick.streamed {
                lane.speed.answered(now, now.saturating_duration_since(pick.at));
            }
            lane.recent.answered(now.saturating_duration_since(pick.at));
            lane.forget_absence();
            let recovered = lane.health.well(now, pick.number);
            if recovered && let Some((backend, deployment)) = self.names(pick) {
                self.changes.push(Change::Recovered { backend, deployment: Some(deployment) });
            }
        }
        self.reached(now, pick);
        self.mark_known(pick);
        if first
            && pick.generation == self.generation
            && let Some(flow) = pick.route.and_then(|route| self.routes.flow(route))
        {
            flow.answered(now, tokens(pick.charge));
        }
        for unconfirmed in attempts.unconfirmed.drain(..) {
            self.count_failure(now, &unconfirmed);
        }
        for (slot, stamp) in attempts.throttled.drain(..) {
            let Some(lane) = self.lanes.stamped(slot, stamp) else { continue };
            lane.tally.absorbed += 1;
        }
    }

    /// Takes the pick back, with what happened in the end.
    #[expect(clippy::needless_pass_by_value, reason = "consumed, so that it cannot be reported twice")]
    pub fn report(&mut self, now: Instant, pick: Pick, verdict: Verdict, attempts: &mut Attempts) {
        self.release(&pick);
        if let Some(lane) = self.lane(&pick) {
            lane.recent.ended(now, &verdict);
        }
        if verdict.is_answer() {
            self.reached(now, &pick);
        }
        if verdict.is_free() {
            self.refund(&pick);
        }
        match verdict {
            Verdict::Served { tokens } => {
                self.served(now, &pick, attempts);
                self.took(&pick, tokens);
                self.tally(&pick, |tally| {
                    tally.served += 1;
                    tally.tokens = tally.tokens.saturating_add(tokens);
                });
            }
            Verdict::CutOff { tokens } => {
                self.served(now, &pick, attempts);
                self.tally(&pick, |tally| {
                    tally.failed += 1;
                    tally.tokens = tally.tokens.saturating_add(tokens);
                });
            }
            Verdict::PassedBack | Verdict::Elsewhere | Verdict::NotThere => {}
            Verdict::TierFull => self.count_throttled(&pick, attempts),
            Verdict::TimedOut => self.tally(&pick, |tally| tally.failed += 1),
            Verdict::Throttled { told, quota } => self.throttled(now, &pick, told, quota, attempts),
            Verdict::TooLarge { told } => self.too_large(now, &pick, told, attempts),
            Verdict::Failed { reason, told } => {
                self.tally(&pick, |tally| tally.failed += 1);
                let failure = Failure { pick: pick.number, reason, told, at_once: false };
                attempts.unconfirmed.push(unconfirmed(&pick, true, failure));
            }
            Verdict::Unavailable { told } => {
                self.tally(&pick, |tally| tally.failed += 1);
                let reason = Reason::Status(503);
                let failure = Failure { pick: pick.number, reason, told: Some(told), at_once: true };
                self.count_failure(now, &unconfirmed(&pick, true, failure));
            }
            Verdict::Unreachable { failure } => self.unreachable(now, &pick, failure, attempts),
            Verdict::Refused { status } => self.refused(now, &pick, status, attempts),
            Verdict::Absent => self.absent(now, &pick),
            Verdict::Unsupported => self.unsupported(now, &pick),
        }
    }

    /// Takes the pick of a caller that left: its place and, where it was the probe, the probe's place are free again,
    /// and nothing else changes.
    #[expect(clippy::needless_pass_by_value, reason = "consumed, so that it cannot be reported as well")]
    pub fn abandon(&mut self, pick: Pick) {
        self.release(&pick);
    }

    /// The same in the middle of an answer, which had taken so many tokens: they are counted.
    #[expect(clippy::needless_pass_by_value, reason = "consumed, so that it cannot be reported as well")]
    pub fn left(&mut self, pick: Pick, tokens: u64) {
        self.release(&pick);
        self.tally(&pick, |tally| tally.tokens = tally.tokens.saturating_add(tokens));
    }

    /// All that admin and metrics see.
    pub fn snapshot(&mut self, now: Instant) -> PoolSnapshot {
        for index in 0..self.backends.len() {
            for slot in self.backends[index].lanes.values() {
                end_cooldown(&self.backends, &mut self.lanes, *slot, now, &mut self.changes);
            }
        }
        let backends = self.backends.iter().map(|backend| snapshot::backend(backend, &self.lanes, now));
        PoolSnapshot {
            in_flight: self.in_flight,
            backends: backends.collect(),
            deployments: self.routes.quotas(now, &self.backends, &self.lanes),
        }
    }

    /// The state changes since they were last taken, the oldest first; the queue is bounded, and what did not fit is
    /// counted in a last [`Change::Lost`].
    #[must_use]
    pub fn take_changes(&mut self) -> Vec<Change> {
        self.changes.take()
    }

    /// Whether [`Self::take_changes`] would give any; cheap enough for after each request.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// How many state changes there have been; differs once something looks otherwise than before.
    #[must_use]
    pub fn changes_so_far(&self) -> u64 {
        self.changes.number
    }

    /// Which settings positions count in now: the `generation` of the next pick.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Every backend's lasting identity, in the order of the settings.
    #[must_use]
    pub fn backend_ids(&self) -> Vec<BackendId> {
        self.backends.iter().map(|backend| backend.id).collect()
    }

    /// Takes a backend out of use, or back. Requests in flight there go on. An unknown position changes nothing.
    pub fn set_drained(&mut self, backend: usize, drained: bool) {
        if let Some(backend) = self.backends.get_mut(backend) {
            backend.drained = drained;
        }
    }

    /// Whether a backend has its credential; without one it is not picked. A first credential, or one after a time
    /// without, also ends what the backend refused before. An unknown position changes nothing.
    pub fn set_credential(&mut self, backend: usize, ready: bool) {
        if let Some(backend) = self.backends.get_mut(backend) {
            if ready && !backend.credential {
                backend.forget_refusals();
            }
            backend.credential = ready;
        }
    }

    /// Takes new settings. A backend of the same name and address keeps all that was learned, its credential and
    /// whether it is drained, except refusals and absences: a reload is how these are mended. Picks of the old
    /// settings are still accepted; those of removed backends change nothing any more.
    pub fn reconfigure(&mut self, _now: Instant, settings: PoolSettings) {
        self.generation = self.generation.wrapping_add(1);
        self.install(settings);
    }

    fn install(&mut self, settings: PoolSettings) {
        let mut old: HashMap<(Arc<str>, Arc<str>), Backend> = std::mem::take(&mut self.backends)
            .into_iter()
            .map(|backend| ((Arc::clone(&backend.settings.name), Arc::clone(&backend.settings.url)), backend))
            .collect();
        for settings in settings.backends {
            let backend = match old.remove(&(Arc::clone(&settings.name), Arc::clone(&settings.url))) {
                Some(backend) => self.renew(backend, settings),
                None => {
                    self.backend_ids = self.backend_ids.wrapping_add(1);
                    Backend::new(BackendId(self.backend_ids), settings)
                }
            };
            self.backends.push(backend);
        }
        for slot in old.values().flat_map(|gone| gone.lanes.values()) {
            self.lanes.remove(*slot);
        }
        self.groups = standing::groups(&self.backends);
        self.routes = Routes::new(settings.lanes, &mut self.backends, &mut self.lanes);
    }

    /// The same backend under new settings: lanes that nobody needs any more are forgotten.
    fn renew(&mut self, mut backend: Backend, settings: BackendSettings) -> Backend {
        backend.forget_refusals();
        let lanes = &mut self.lanes;
        backend.lanes.retain(|there, slot| {
            let Some(lane) = lanes.get_mut(*slot) else { return false };
            lane.forget_lacks();
            lane.routes = 0;
            lane.configured = there.is_empty();
            // What is in flight may still teach something.
            let used = lane.known || lane.tally.in_flight > 0 || lane.health.reason().is_some();
            let needed = lane.configured || (used && settings.deployments.leads_to(there));
            if !needed {
                lanes.remove(*slot);
            }
            needed
        });
        backend.weight = f64::from(settings.weight.get());
        backend.settings = settings;
        backend
    }

    fn position(&self, pick: &Pick) -> Option<usize> {
        position(&self.backends, pick.id, pick.backend)
    }

    fn names(&self, pick: &Pick) -> Option<(Arc<str>, Arc<str>)> {
        let backend = &self.backends[self.position(pick)?];
        let lane = self.lanes.get(pick.slot).filter(|lane| lane.stamp == pick.stamp)?;
        Some((Arc::clone(&backend.settings.name), Arc::clone(&lane.name)))
    }

    fn lane(&mut self, pick: &Pick) -> Option<&mut Lane> {
        self.lanes.stamped(pick.slot, pick.stamp)
    }

    fn tally(&mut self, pick: &Pick, change: impl Fn(&mut lane::Tally)) {
        if let Some(index) = self.position(pick) {
            change(&mut self.backends[index].tally);
        }
        if let Some(lane) = self.lane(pick) {
            change(&mut lane.tally);
        }
    }

    /// A 429, of which nobody need ever hear.
    fn count_throttled(&mut self, pick: &Pick, attempts: &mut Attempts) {
        self.tally(pick, |tally| tally.throttled += 1);
        attempts.throttled.push((pick.slot, pick.stamp));
    }

    /// The place, and the probe's place.
    fn release(&mut self, pick: &Pick) {
        self.in_flight -= 1;
        self.tally(pick, |tally| tally.in_flight -= 1);
        if let Some(index) = self.position(pick) {
            self.backends[index].health.release(pick.number);
        }
        if let Some(lane) = self.lane(pick) {
            lane.health.release(pick.number);
            if pick.streamed && !pick.answered.get() {
                lane.speed.over();
            }
        }
    }

    /// Azure has not charged it.
    fn refund(&mut self, pick: &Pick) {
        if let Some(sent) = pick.sent
            && let Some(lane) = self.lane(pick)
        {
            lane.estimator.refund(&sent);
        }
    }

    /// Whoever is sent away takes its place in its deployment's queue.
    fn in_turn(
        &mut self,
        now: Instant,
        exhausted: Exhausted,
        returns: &Returns,
        route: Option<usize>,
        charge: f64,
    ) -> Exhausted {
        if !matches!(exhausted, Exhausted::Throttled { .. }) {
            return exhausted;
        }
        let Some(flow) = route.and_then(|route| self.routes.flow(route)) else { return exhausted };
        exhaustion::in_turn(exhausted, flow.place(now, returns, charge, &mut self.rng))
    }

    /// The backend's connections work.
    fn reached(&mut self, now: Instant, pick: &Pick) {
        let Some(index) = self.position(pick) else { return };
        let backend = &mut self.backends[index];
        if backend.health.well(now, pick.number) {
            let backend = Arc::clone(&backend.settings.name);
            self.changes.push(Change::Recovered { backend, deployment: None });
        }
    }

    /// The deployment exists: its lane, and under the settings it was picked by also the others of its route.
    fn mark_known(&mut self, pick: &Pick) {
        if let Some(lane) = self.lane(pick) {
            lane.known = true;
        }
        if let Some(route) = pick.route
            && pick.generation == self.generation
        {
            self.routes.mark_known(route, &mut self.lanes);
        }
    }

    /// A good answer has ended; where nobody said that it began, it began now.
    fn served(&mut self, now: Instant, pick: &Pick, attempts: &mut Attempts) {
        if attempts.answered != Some(pick.number) {
            self.answered(now, pick, &HeaderMap::new(), attempts);
        }
    }

    /// A good answer without a limit was that long, as far as it is told.
    fn took(&mut self, pick: &Pick, tokens: u64) {
        if let Some(usual) = pick.usual
            && tokens > 0
            && pick.generation == self.generation
            && let Some(flow) = pick.route.and_then(|route| self.routes.flow(route))
        {
            flow.took(tokens.saturating_sub(pick.charge - usual));
        }
    }

    fn throttled(&mut self, now: Instant, pick: &Pick, told: Told, quota: Quota, attempts: &mut Attempts) {
        self.count_throttled(pick, attempts);
        self.mark_known(pick);
        let Some(lane) = self.lane(pick) else {
            attempts.throttled_without_lane(pick.id, now + cooldown::clamp(told.duration));
            return;
        };
        lane.estimator.learn_limit(quota.limit_tokens);
        let throttling = lane.throttled(now, told, pick.charge);
        match &pick.sent {
            // It says how large the quota is, and nothing of this minute.
            Some(sent) if matches!(throttling, Throttling::Sized(_)) => lane.estimator.refund(sent),
            Some(sent) => {
                let is_told = told.reason != Reason::Default;
                lane.estimator.throttled(now, sent, quota, cooldown::clamp(told.duration), is_told);
            }
            None => {}
        }
        if !matches!(throttling, Throttling::Sized(_)) {
            attempts.note_full(pick.id);
        }
        let Some((backend, deployment)) = self.names(pick) else { return };
        match throttling {
            Throttling::Began(duration) => {
                self.changes.push(Change::CooldownBegan {
                    backend,
                    deployment,
                    reason: told.reason,
                    duration,
                });
            }
            Throttling::Sized(duration) => {
                self.changes.push(Change::TooLarge { backend, deployment, charge: pick.charge, duration });
            }
            Throttling::Goes => {}
        }
    }

    fn too_large(&mut self, now: Instant, pick: &Pick, told: Told, attempts: &mut Attempts) {
        self.count_throttled(pick, attempts);
        self.mark_known(pick);
        let Some(lane) = self.lane(pick) else {
            attempts.throttled_without_lane(pick.id, now + cooldown::clamp(told.duration));
            return;
        };
        let duration = lane.too_large(now, told, pick.charge);
        let Some((backend, deployment)) = self.names(pick) else { return };
        self.changes.push(Change::TooLarge { backend, deployment, charge: pick.charge, duration });
    }

    fn unreachable(&mut self, now: Instant, pick: &Pick, failure: AttemptFailure, attempts: &mut Attempts) {
        self.tally(pick, |tally| tally.failed += 1);
        // Nobody listens: no request can be to blame for that.
        let at_once = failure == AttemptFailure::Refused;
        let failure = Failure { pick: pick.number, reason: Reason::Failure(failure), told: None, at_once };
        let unconfirmed = unconfirmed(pick, false, failure);
        if at_once {
            self.count_failure(now, &unconfirmed);
        } else {
            attempts.unconfirmed.push(unconfirmed);
        }
    }

    fn refused(&mut self, now: Instant, pick: &Pick, status: u16, attempts: &mut Attempts) {
        attempts.was_refused = true;
        let Some(index) = self.position(pick) else { return };
        let backend = &mut self.backends[index];
        if backend.set_refused(now, pick.family, status) {
            let name = Arc::clone(&backend.settings.name);
            let duration = backend::REFUSED;
            self.changes.push(Change::Refused { backend: name, family: pick.family, status, duration });
        }
    }

    fn absent(&mut self, now: Instant, pick: &Pick) {
        if self.lane(pick).is_some_and(|lane| lane.set_absent(now))
            && let Some((backend, deployment)) = self.names(pick)
        {
            self.changes.push(Change::Absent { backend, deployment, duration: lane::ABSENT });
        }
    }

    fn unsupported(&mut self, now: Instant, pick: &Pick) {
        let operation = pick.operation;
        if self.lane(pick).is_some_and(|lane| lane.set_lacking(now, operation))
            && let Some((backend, deployment)) = self.names(pick)
        {
            self.changes.push(Change::Unsupported { backend, deployment, operation, duration: lane::ABSENT });
        }
    }

    fn count_failure(&mut self, now: Instant, unconfirmed: &Unconfirmed) {
        let Unconfirmed { backend, lane, failure } = unconfirmed;
        let Some(index) = position(&self.backends, *backend, usize::MAX) else { return };
        let backend = &mut self.backends[index];
        let (health, deployment) = match lane {
            None => (&mut backend.health, None),
            Some((slot, stamp)) => {
                let Some(lane) = self.lanes.stamped(*slot, *stamp) else { return };
                (&mut lane.health, Some(Arc::clone(&lane.name)))
            }
        };
        let rest: Option<Duration> = health.failed(now, self.picks, failure);
        if let Some(duration) = rest {
            let backend = Arc::clone(&backend.settings.name);
            self.changes.push(Change::Resting { backend, deployment, reason: failure.reason, duration });
        }
    }
}

/// Where a backend stands now; `guess` is where it stood.
fn position(backends: &[Backend], id: BackendId, guess: usize) -> Option<usize> {
    if backends.get(guess).is_some_and(|backend| backend.id == id) {
        return Some(guess);
    }
    backends.iter().position(|backend| backend.id == id)
}

fn unconfirmed(pick: &Pick, of_lane: bool, failure: Failure) -> Unconfirmed {
    Unconfirmed { backend: pick.id, lane: of_lane.then_some((pick.slot, pick.stamp)), failure }
}

fn end_cooldown(backends: &[Backend], lanes: &mut Lanes, slot: usize, now: Instant, changes: &mut Changes) {
    let Some(lane) = lanes.get_mut(slot) else { return };
    if lane.end_cooldown(now)
        && let Some(index) = position(backends, lane.backend, usize::MAX)
    {
        let backend = Arc::clone(&backends[index].settings.name);
        changes.push(Change::CooldownEnded { backend, deployment: Arc::clone(&lane.name) });
    }
}
