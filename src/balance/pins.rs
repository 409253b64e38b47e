//! Where objects live: id → backend and caller. Beside the pool, under a lock of its own.
//!
//! Memory is bounded and small: of an id only its mark is kept, 128 bits of a keyed hash that nobody outside can
//! predict. The bound is kept by two generations: when the younger half is full it becomes the older one, and what was
//! in the older one and not asked for since is forgotten. That is least-recently-used to within a factor of two, and
//! costs no list.
//!
//! A *creation* that passed here is sure: this backend, this caller. What was only *seen* in an answer, or was looked
//! for and found, is a hint: the backend's word counts, and it belongs to nobody in particular, for whoever made it may
//! have done so elsewhere. An id that no backend knows is remembered as absent for a while, so that guessing costs little.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use super::BackendId;

/// So long an id that was nowhere is not looked for again.
const ABSENT: Duration = Duration::from_secs(60);

/// The most absent ids remembered, if `limits.ids` is not less: a flood of guesses pushes out guesses only.
const MOST_ABSENT: usize = 10_000;

/// What the pins are made of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PinSettings {
    /// The most ids remembered (`limits.ids`).
    pub ids: usize,
    /// Position of the backend where objects that refer to each other are made.
    pub home: usize,
}

/// What is known of the objects that one request names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Whereabouts {
    /// On this backend.
    At {
        /// Which.
        backend: BackendId,
        /// A creation that passed here said so; else it is a hint.
        sure: bool,
    },
    /// On different backends: none can serve a request that names them all.
    Apart,
    /// They must be looked for.
    Unknown,
    /// Nowhere, or another caller's: to this one there is no such object.
    Nowhere,
}

/// All pins.
#[derive(Debug)]
pub struct Pins {
    known: Generations<Note>,
    /// Until when.
    absent: Generations<Instant>,
    marks: [RandomState; 2],
    backends: Vec<BackendId>,
    home: Option<BackendId>,
    lookups: u64,
}

/// Numbers for operators.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PinCounts {
    /// Ids remembered.
    pub ids: usize,
    /// Ids remembered as being nowhere; some of them may have run out.
    pub absent: usize,
    /// Requests that named only ids unknown here, since the start.
    pub lookups: u64,
}

#[derive(Clone, Copy, Debug)]
struct Note {
    backend: BackendId,
    /// Mark of the caller that made it; `None` for a hint.
    maker: Option<u64>,
}

type Mark = [u64; 2];

impl Pins {
    /// Nothing is known yet. `backends` in the order of the settings.
    #[must_use]
    pub fn new(settings: PinSettings, backends: Vec<BackendId>) -> Self {
        let mut pins = Self {
            known: Generations::new(settings.ids),
            absent: Generations::new(settings.ids.min(MOST_ABSENT)),
            marks: [RandomState::new(), RandomState::new()],
            backends: Vec::new(),
            home: None,
            lookups: 0,
        };
        pins.reconfigure(settings, backends);
        pins
    }

    /// Other settings: ids on backends that are gone are forgotten, and what was nowhere may be on a new one.
    pub fn reconfigure(&mut self, settings: PinSettings, backends: Vec<BackendId>) {
        self.known.resize(settings.ids);
        self.absent = Generations::new(settings.ids.min(MOST_ABSENT));
        self.home = backends.get(settings.home).or_else(|| backends.first()).copied();
        self.known.retain(|note| backends.contains(&note.backend));
        self.backends = backends;
    }

    /// Where objects that refer to each other are made; `None` without backends.
    #[must_use]
    pub fn home(&self) -> Option<BackendId> {
        self.home
    }

    /// `caller` made this object on `backend`.
    pub fn made(&mut self, id: &str, backend: BackendId, caller: Option<&str>) {
        self.note(id, Note { backend, maker: Some(self.marks[0].hash_one(caller)) });
    }

    /// This object is on `backend`; who made it is not known. Says nothing new of one whose maker is.
    pub fn seen(&mut self, id: &str, backend: BackendId) {
        if self.known.get(self.mark(id)).is_none_or(|note| note.maker.is_none()) {
            self.note(id, Note { backend, maker: None });
        }
    }

    fn note(&mut self, id: &str, note: Note) {
        // A request that was in flight around a reload may have found it on a backend that is gone.
        if self.backends.contains(&note.backend) {
            let mark = self.mark(id);
            self.absent.remove(mark);
            self.known.insert(mark, note);
        }
    }

    /// `backend` says that it is not there. Forgotten if that is where it was thought to be, unless it was seen made:
    /// for seconds after its making Azure may not find an object (dotnet/extensions #7704), so its owner is asked again.
    pub fn gone(&mut self, id: &str, backend: BackendId) {
        let mark = self.mark(id);
        if self.known.get(mark).is_some_and(|note| note.backend == backend && note.maker.is_none()) {
            self.known.remove(mark);
        }
    }

    /// Whether these are all backends there are: what none of them has is nowhere.
    #[must_use]
    pub fn are_all(&self, asked: &[BackendId]) -> bool {
        self.backends.iter().all(|backend| asked.contains(backend))
    }

    /// It was deleted, or every backend has said that there is no such object.
    pub fn nowhere(&mut self, now: Instant, id: &str) {
        let mark = self.mark(id);
        self.known.remove(mark);
        self.absent.insert(mark, now + ABSENT);
    }

    /// Where a request of `caller` must go that names these objects, at least one. What is sure counts before a hint.
    pub fn find(&mut self, now: Instant, ids: &[String], caller: Option<&str>) -> Whereabouts {
        let caller = self.marks[0].hash_one(caller);
        let (mut sure, mut hint) = (None, None);
        let (mut apart, mut absent) = (false, false);
        for id in ids {
            let mark = self.mark(id);
            match self.known.get(mark) {
                Some(Note { maker: Some(maker), .. }) if maker != caller => return Whereabouts::Nowhere,
                Some(Note { backend, maker: Some(_) }) => {
                    apart |= sure.is_some_and(|other| other != backend);
                    sure = Some(backend);
                }
                Some(Note { backend, maker: None }) => hint = hint.or(Some(backend)),
                None => absent |= self.absent.get(mark).is_some_and(|until| now < until),
            }
        }
        match (sure, hint) {
            (Some(_), _) if apart => Whereabouts::Apart,
            (Some(backend), _) => Whereabouts::At { backend, sure: true },
            (None, Some(backend)) => Whereabouts::At { backend, sure: false },
            (None, None) if absent => Whereabouts::Nowhere,
            (None, None) => {
                self.lookups += 1;
                Whereabouts::Unknown
            }
        }
    }

    /// For operators.
    #[must_use]
    pub fn counts(&self) -> PinCounts {
        PinCounts { ids: self.known.len(), absent: self.absent.len(), lookups: self.lookups }
    }

    fn mark(&self, id: &str) -> Mark {
        [self.marks[0].hash_one(id), self.marks[1].hash_one(id)]
    }
}

/// A map of at most so many entries: the half of them that was used last is always there.
#[derive(Debug)]
struct Generations<V> {
    young: HashMap<Mark, V>,
    old: HashMap<Mark, V>,
    half: usize,
}

impl<V: Copy> Generations<V> {
    fn new(most: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half: (most / 2).max(1) }
    }

    fn resize(&mut self, most: usize) {
        self.half = (most / 2).max(1);
        if self.young.len() > self.half || self.old.len() > self.half {
            *self = Self::new(most);
        }
    }

    fn get(&mut self, mark: Mark) -> Option<V> {
        if let Some(value) = self.young.get(&mark) {
            return Some(*value);
        }
        let value = self.old.remove(&mark)?;
        self.insert(mark, value);
        Some(value)
    }

    fn insert(&mut self, mark: Mark, value: V) {
        self.old.remove(&mark);
        if self.young.len() >= self.half && !self.young.contains_key(&mark) {
            std::mem::swap(&mut self.young, &mut self.old);
            // Its room is kept: the next generation will be as large.
            self.young.clear();
        }
        self.young.insert(mark, value);
    }

    fn remove(&mut self, mark: Mark) {
        self.young.remove(&mark);
        self.old.remove(&mark);
    }

    fn retain(&mut self, keep: impl Fn(&V) -> bool) {
        self.young.retain(|_, value| keep(value));
        self.old.retain(|_, value| keep(value));
    }

    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}
