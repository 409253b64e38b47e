//! From a deployment's name to one lane per backend, and the bound on both.
//!
//! A caller that invents names must cost nothing lasting: routes and lanes are at most `limits.lanes` (or as many as
//! the settings name); the oldest that nobody ever served are forgotten first; when all are in use, a further name travels
//! on the lanes that are there already, else without any: it is always admitted, and nothing it meets is remembered,
//! so that it takes nothing from anybody.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::backend::{Backend, BackendId};
use super::flow::Flow;
use super::lane::{Lane, Quota};
use super::pool::Ask;
use super::snapshot::DeploymentSnapshot;

/// How many unserved names are looked at to find one that can be forgotten; busy ones move to the back of the queue.
const LOOKED_AT: usize = 32;

/// The slot of what travels without a lane.
const NO_LANE: usize = usize::MAX;

/// All lanes, in slots that stay where they are.
#[derive(Debug)]
pub(super) struct Lanes {
    slots: Vec<Option<Lane>>,
    free: Vec<usize>,
    stamps: u64,
    /// Seen in place of the lane that a request has not; can be looked at and never changed.
    none: Lane,
}

impl Default for Lanes {
    fn default() -> Self {
        let none = Lane::new(0, BackendId(0), Arc::from(""), false);
        Self { slots: Vec::new(), free: Vec::new(), stamps: 0, none }
    }
}

impl Lanes {
    /// To be looked at.
    pub(super) fn get(&self, slot: usize) -> Option<&Lane> {
        if slot == NO_LANE { Some(&self.none) } else { self.slots.get(slot)?.as_ref() }
    }

    /// To be changed; `None` also where a request travels without a lane.
    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut Lane> {
        self.slots.get_mut(slot)?.as_mut()
    }

    /// The very lane, not a later one in its place.
    pub(super) fn stamped(&mut self, slot: usize, stamp: u64) -> Option<&mut Lane> {
        self.get_mut(slot).filter(|lane| lane.stamp == stamp)
    }

    fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn insert(&mut self, backend: BackendId, name: Arc<str>, configured: bool) -> usize {
        self.stamps += 1;
        let lane = Some(Lane::new(self.stamps, backend, name, configured));
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = lane;
                slot
            }
            None => {
                self.slots.push(lane);
                self.slots.len() - 1
            }
        }
    }

    pub(super) fn remove(&mut self, slot: usize) {
        if let Some(place) = self.slots.get_mut(slot)
            && place.take().is_some()
        {
            self.free.push(slot);
        }
    }

    /// The lane of this name there, made if it is new.
    pub(super) fn ensure(&mut self, backend: &mut Backend, there: &str, configured: bool) -> usize {
        if let Some(&slot) = backend.lanes.get(there) {
            if let Some(lane) = self.get_mut(slot)
                && configured
            {
                lane.configured = true;
                lane.known = true;
            }
            return slot;
        }
        let name: Arc<str> = Arc::from(there);
        let slot = self.insert(backend.id, Arc::clone(&name), configured);
        backend.lanes.insert(name, slot);
        slot
    }
}

/// How a route leads to one backend.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// The lane's slot.
    pub(super) lane: usize,
    /// The name there, where it differs.
    pub(super) there: Option<Arc<str>>,
}

/// One per backend, by its index; `None` where the deployment is not served.
type Ways = Box<[Option<Way>]>;

#[derive(Debug)]
struct Route {
    name: Arc<str>,
    ways: Ways,
    /// Served or throttled once, or named in the settings.
    known: bool,
    flow: Flow,
}

/// The ways to backends that serve the second deployment too.
pub(super) fn also_serving<'a>(
    second: Option<&str>,
    ways: &'a [Option<Way>],
    backends: &[Backend],
) -> Cow<'a, [Option<Way>]> {
    let Some(second) = second else { return Cow::Borrowed(ways) };
    let serves = |backend: &Backend| backend.settings.deployments.there(second).is_some();
    ways.iter().zip(backends).map(|(way, backend)| way.clone().filter(|_| serves(backend))).collect()
}

/// Where a deployment's requests may go.
#[derive(Debug)]
pub(super) enum Found {
    /// A remembered route.
    Kept(usize),
    /// The request names no deployment.
    Unnamed,
    /// No room to remember another name.
    Passing(Ways),
    /// No backend serves it.
    Nowhere,
}

impl Found {
    /// The remembered route, if it is one.
    pub(super) fn kept(&self) -> Option<usize> {
        match self {
            Self::Kept(index) => Some(*index),
            Self::Unnamed | Self::Passing(_) | Self::Nowhere => None,
        }
    }
}

/// All routes.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// Random keys in the hasher: callers choose the names. Never iterated, so nothing here depends on its order.
    by_name: HashMap<Arc<str>, usize>,
    slots: Vec<Option<Route>>,
    free: Vec<usize>,
    /// Unknown routes, the oldest first.
    unserved: VecDeque<usize>,
    unnamed: Ways,
    limit: usize,
}

impl Routes {
    /// With the lanes that the settings name, even where these are more than `limit`.
    pub(super) fn new(limit: usize, backends: &mut [Backend], lanes: &mut Lanes) -> Self {
        let mut names: Vec<String> = Vec::new();
        let mut unnamed = Vec::with_capacity(backends.len());
        for backend in &mut *backends {
            unnamed.push(Some(Way { lane: lanes.ensure(backend, "", true), there: None }));
            match backend.settings.deployments.clone() {
                super::Deployments::Any => {}
                super::Deployments::AllAs(there) => {
                    lanes.ensure(backend, &there, true);
                }
                super::Deployments::Named(map) => {
                    for (name, there) in map {
                        lanes.ensure(backend, &there, true);
                        names.push(name);
                    }
                }
            }
        }
        let mut routes = Self { unnamed: unnamed.into(), limit: usize::MAX, ..Self::default() };
        for name in names {
            if let Found::Kept(index) = routes.find(Some(&name), backends, lanes) {
                routes.mark_known(index, lanes);
            }
        }
        routes.unserved.clear();
        routes.limit = limit.max(lanes.count());
        routes
    }

    /// The request with what its answer takes on average, where it sets no limit; and that part alone.
    pub(super) fn charged<'a>(&self, found: &Found, ask: &Ask<'a>) -> (Ask<'a>, Option<u64>) {
        let usual = ask.unlimited.then(|| self.look_at_flow(found.kept()).map_or(0, Flow::usual));
        (Ask { charge: ask.charge.saturating_add(usual.unwrap_or(0)), ..*ask }, usual)
    }

    pub(super) fn find(
        &mut self,
        deployment: Option<&str>,
        backends: &mut [Backend],
        lanes: &mut Lanes,
    ) -> Found {
        match deployment {
            None | Some("") => Found::Unnamed,
            Some(name) => match self.by_name.get(name) {
                Some(&index) => Found::Kept(index),
                None => self.make(name, backends, lanes),
            },
        }
    }

    /// One way per backend; empty for [`Found::Nowhere`].
    pub(super) fn ways<'a>(&'a self, found: &'a Found) -> &'a [Option<Way>] {
        match found {
            Found::Kept(index) => {
                self.slots.get(*index).and_then(Option::as_ref).map_or(&[], |route| &route.ways)
            }
            Found::Unnamed => &self.unnamed,
            Found::Passing(ways) => ways,
            Found::Nowhere => &[],
        }
    }

    /// What this route serves, and who waits for it.
    pub(super) fn flow(&mut self, index: usize) -> Option<&mut Flow> {
        self.slots.get_mut(index)?.as_mut().map(|route| &mut route.flow)
    }

    /// The same, to be looked at.
    pub(super) fn look_at_flow(&self, index: Option<usize>) -> Option<&Flow> {
        self.slots.get(index?)?.as_ref().map(|route| &route.flow)
    }

    /// Where a name leads, without remembering it.
    pub(super) fn look(&self, deployment: Option<&str>, backends: &[Backend]) -> Found {
        match deployment {
            None | Some("") => Found::Unnamed,
            Some(name) => match self.by_name.get(name) {
                Some(&index) => Found::Kept(index),
                None => Found::Passing(passing_ways(name, backends)),
            },
        }
    }

    /// A lane of this route answered: it is no invention, and neither are its other lanes.
    pub(super) fn mark_known(&mut self, index: usize, lanes: &mut Lanes) {
        let Some(route) = self.slots.get_mut(index).and_then(Option::as_mut) else { return };
        if route.known {
            return;
        }
        route.known = true;
        for way in route.ways.iter().flatten() {
            if let Some(lane) = lanes.get_mut(way.lane) {
                lane.known = true;
            }
        }
    }

    /// The names that were served once, or that the settings name, in order.
    pub(super) fn known_names(&self) -> Vec<Arc<str>> {
        let known = self.slots.iter().flatten().filter(|route| route.known);
        let mut names: Vec<Arc<str>> = known.map(|route| Arc::clone(&route.name)).collect();
        names.sort_unstable();
        names
    }

    /// What is believed of the quotas of every known deployment, over all backends in use.
    pub(super) fn quotas(
        &self,
        now: Instant,
        backends: &[Backend],
        lanes: &Lanes,
    ) -> Vec<DeploymentSnapshot> {
        let of = |route: &Route| {
            let ways =
                route.ways.iter().zip(backends).filter(|(_, backend)| !backend.drained && backend.credential);
            let quotas = ways.filter_map(|(way, _)| {
                let Quota { limit_tokens, remaining_tokens } =
                    lanes.get(way.as_ref()?.lane)?.estimator.quota(now);
                limit_tokens.zip(remaining_tokens)
            });
            let sum = quotas.reduce(|one, two| (one.0.saturating_add(two.0), one.1.saturating_add(two.1)));
            sum.map(|(limit_tokens, remaining_tokens)| DeploymentSnapshot {
                name: Arc::clone(&route.name),
                limit_tokens,
                remaining_tokens,
            })
        };
        let mut quotas: Vec<_> =
            self.slots.iter().flatten().filter(|route| route.known).filter_map(of).collect();
        quotas.sort_unstable_by(|one, two| one.name.cmp(&two.name));
        quotas
    }

    fn make(&mut self, name: &str, backends: &mut [Backend], lanes: &mut Lanes) -> Found {
        let (mut served, mut new) = (false, 0);
        for backend in &*backends {
            if let Some(there) = backend.settings.deployments.there(name) {
                served = true;
                new += usize::from(!backend.lanes.contains_key(there));
            }
        }
        if !served {
            return Found::Nowhere;
        }
        if !self.make_room(new, backends, lanes) {
            return Found::Passing(passing_ways(name, backends));
        }
        let name: Arc<str> = Arc::from(name);
        let ways = backends.iter_mut().map(|backend| {
            let there = backend.settings.deployments.there(&name)?.to_owned();
            let slot = lanes.ensure(backend, &there, false);
            let lane = lanes.get_mut(slot)?;
            lane.routes += 1;
            Some(Way { lane: slot, there: (*lane.name != *name).then(|| Arc::clone(&lane.name)) })
        });
        let flow = Flow::default();
        let route = Some(Route { name: Arc::clone(&name), ways: ways.collect(), known: false, flow });
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index] = route;
                index
            }
            None => {
                self.slots.push(route);
                self.slots.len() - 1
            }
        };
        self.by_name.insert(name, index);
        self.unserved.push_back(index);
        Found::Kept(index)
    }

    fn make_room(&mut self, new: usize, backends: &mut [Backend], lanes: &mut Lanes) -> bool {
        while lanes.count() + new > self.limit || self.by_name.len() >= self.limit {
            if !self.forget_one(backends, lanes) {
                return false;
            }
        }
        true
    }

    /// Forgets the oldest route that nobody served and nobody is using. False when none was found.
    fn forget_one(&mut self, backends: &mut [Backend], lanes: &mut Lanes) -> bool {
        for _ in 0..self.unserved.len().min(LOOKED_AT) {
            let Some(index) = self.unserved.pop_front() else { return false };
            let Some(route) = self.slots[index].take_if(|route| !route.known) else { continue };
            let busy = |way: &Way| lanes.get(way.lane).is_some_and(|lane| lane.tally.in_flight > 0);
            if route.ways.iter().flatten().any(busy) {
                self.slots[index] = Some(route);
                self.unserved.push_back(index);
                continue;
            }
            self.by_name.remove(&route.name);
            self.free.push(index);
            for (way, backend) in route.ways.iter().zip(&mut *backends) {
                let Some(way) = way else { continue };
                let Some(lane) = lanes.get_mut(way.lane) else { continue };
                lane.routes -= 1;
                if lane.routes == 0 && !lane.known {
                    let name = Arc::clone(&lane.name);
                    backend.lanes.remove(&name);
                    lanes.remove(way.lane);
                }
            }
            return true;
        }
        false
    }
}

/// Of a name that there is no room to remember.
fn passing_ways(name: &str, backends: &[Backend]) -> Ways {
    let ways = backends.iter().map(|backend| {
        let there = backend.settings.deployments.there(name)?;
        // A lane that is there already has its own state.
        let lane = backend.lanes.get(there).copied().unwrap_or(NO_LANE);
        Some(Way { lane, there: (there != name).then(|| Arc::from(there)) })
    });
    ways.collect()
}
