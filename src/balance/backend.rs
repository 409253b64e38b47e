//! One Azure OpenAI resource: what holds for all its lanes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::BackendSettings;
use super::affinity;
use super::health::Health;
use super::lane::Tally;

/// How long a backend that rejected our credential is not asked again, for that operation family.
pub(super) const REFUSED: Duration = Duration::from_secs(60);

/// A backend's identity across reloads, where its index changes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct BackendId(pub(super) u32);

/// One refusal: 401 or 403 for one operation family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    family: &'static str,
    pub(super) status: u16,
    pub(super) until: Instant,
}

/// One backend.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) id: BackendId,
    pub(super) settings: BackendSettings,
    pub(super) weight: f64,
    /// Where conversations find it.
    pub(super) anchor: u64,
    pub(super) drained: bool,
    pub(super) credential: bool,
    /// Of connections: failures that no lane can be blamed for.
    pub(super) health: Health,
    pub(super) tally: Tally,
    /// Name there → slot. Ordered, so that snapshots are.
    pub(super) lanes: BTreeMap<Arc<str>, usize>,
    refusals: Vec<Refusal>,
}

impl Backend {
    pub(super) fn new(id: BackendId, settings: BackendSettings) -> Self {
        Self {
            id,
            weight: f64::from(settings.weight.get()),
            anchor: affinity::anchor(&settings.name),
            settings,
            drained: false,
            credential: false,
            health: Health::default(),
            tally: Tally::default(),
            lanes: BTreeMap::new(),
            refusals: Vec::new(),
        }
    }

    pub(super) fn refuses(&self, now: Instant, family: &str) -> bool {
        self.refusals.iter().any(|refusal| refusal.family == family && now < refusal.until)
    }

    /// The refusal that ends last.
    pub(super) fn refusal(&self, now: Instant) -> Option<Refusal> {
        self.refusals
            .iter()
            .filter(|refusal| now < refusal.until)
            .max_by_key(|refusal| refusal.until)
            .copied()
    }

    /// True when this is news.
    pub(super) fn set_refused(&mut self, now: Instant, family: &'static str, status: u16) -> bool {
        let news = !self.refuses(now, family);
        self.refusals.retain(|refusal| refusal.family != family && now < refusal.until);
        self.refusals.push(Refusal { family, status, until: now + REFUSED });
        news
    }

    pub(super) fn forget_refusals(&mut self) {
        self.refusals.clear();
    }
}
