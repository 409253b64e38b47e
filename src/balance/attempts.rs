//! One request's memory: where it has been, and what that is worth saying in the end.

use std::time::Instant;

use super::backend::BackendId;
use super::health::Failure;
use super::reason::AttemptFailure;
use super::verdict::Verdict;

/// One request's memory; `Attempts::default()` at its start, then handed to every call for that request.
#[derive(Debug, Default)]
pub struct Attempts {
    tried: Tried,
    /// Of them, those that answered 429: when they are back, the request may ask them again.
    full: Tried,
    /// Failures that count once another lane answers this same request well.
    pub(super) unconfirmed: Vec<Unconfirmed>,
    /// The lanes, by slot and stamp, whose 429s nobody hears of once another answers this same request well.
    pub(super) throttled: Vec<(usize, u64)>,
    /// The number of the pick whose good answer has been noted.
    pub(super) answered: Option<u64>,
    pub(super) was_throttled: bool,
    /// The soonest of the moments told where no lane remembers them.
    pub(super) told_until: Option<Instant>,
    pub(super) was_refused: bool,
    pub(super) repeated_timeout: bool,
    pub(super) kept: Option<Kept>,
    pub(super) failure: Option<AttemptFailure>,
}

impl Attempts {
    /// How many lanes were tried.
    #[must_use]
    pub fn count(&self) -> usize {
        self.tried.len()
    }

    /// The answer with this verdict was to be kept and could not be, for it did not come whole or stood in a stream: an
    /// older one must not be passed back in its place.
    pub fn kept_nothing(&mut self, verdict: &Verdict) {
        self.kept = None;
        match verdict {
            // Told from the lanes' state, or from what was noted already.
            Verdict::Throttled { .. } | Verdict::Absent | Verdict::Unsupported => {}
            Verdict::TierFull => self.kept = Some(Kept::TierFull),
            _ => self.failure = Some(AttemptFailure::Closed),
        }
    }

    pub(super) fn has_tried(&self, backend: BackendId) -> bool {
        self.tried.contains(backend)
    }

    /// A 429 to a request whose name has no lane: it lives as long as the request does.
    pub(super) fn throttled_without_lane(&mut self, backend: BackendId, until: Instant) {
        self.note_full(backend);
        self.told_until = Some(self.told_until.map_or(until, |soonest| soonest.min(until)));
    }

    /// It answered this request with a 429.
    pub(super) fn was_full(&self, backend: BackendId) -> bool {
        self.full.contains(backend)
    }

    pub(super) fn note_full(&mut self, backend: BackendId) {
        self.was_throttled = true;
        if !self.full.contains(backend) {
            self.full.push(backend);
        }
    }

    /// The request waits until one of those that were full is back: what follows is as if its caller had come back,
    /// except that what failed is not asked again.
    pub(super) fn another_round(&mut self) {
        let full = std::mem::take(&mut self.full);
        self.tried.forget(&full);
        self.was_throttled = false;
        self.told_until = None;
        self.kept.take_if(|kept| *kept == Kept::Full);
    }

    pub(super) fn note(&mut self, backend: BackendId) {
        self.tried.push(backend);
    }
}

/// What kind of answer the edge keeps, to pass it back if nothing better comes. The better ones come last.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Kept {
    /// "This deployment does not exist": only true when all say so.
    Absent,
    /// "It does not do this operation": likewise.
    Unsupported,
    /// "There is no such object", or "I cannot read this": likewise.
    NotThere,
    /// A service tier had no room, of which no answer could be kept: one of our own says so.
    TierFull,
    /// "Come back later": no more worth than that time, once it was waited for.
    Full,
    /// Any other.
    Other,
}

/// A failure that may yet turn out to be the request's own.
#[derive(Debug)]
pub(super) struct Unconfirmed {
    pub(super) backend: BackendId,
    /// Slot and stamp; `None` where the backend's connections failed.
    pub(super) lane: Option<(usize, u64)>,
    pub(super) failure: Failure,
}

/// Backends already asked. A request seldom asks more than a few, and the happy path must not allocate.
#[derive(Debug, Default)]
struct Tried {
    first: [Option<BackendId>; 4],
    more: Vec<BackendId>,
}

impl Tried {
    fn contains(&self, backend: BackendId) -> bool {
        self.first.contains(&Some(backend)) || self.more.contains(&backend)
    }

    fn push(&mut self, backend: BackendId) {
        match self.first.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(backend),
            None => self.more.push(backend),
        }
    }

    fn forget(&mut self, others: &Self) {
        for place in &mut self.first {
            place.take_if(|tried| others.contains(*tried));
        }
        self.more.retain(|tried| !others.contains(*tried));
    }

    fn len(&self) -> usize {
        self.first.iter().flatten().count() + self.more.len()
    }
}
