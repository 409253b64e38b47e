//! Where one source's present token lies: written by its keeper on the control thread, read by all workers.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderValue;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// A rejected token is asked for anew at most this often: a role that is missing is not mended by new tokens.
const ASKED_ANEW: Duration = Duration::from_secs(30);

/// A request whose token was rejected waits so long for another one, then for another backend.
const PATIENCE: Duration = Duration::from_secs(5);

/// A token that may be sent.
#[derive(Clone, Debug)]
pub struct Held {
    /// `Bearer …`, marked sensitive.
    pub header: HeaderValue,
    /// Until when it is valid.
    pub expires: Instant,
    /// Which of the source's tokens this is.
    pub serial: u64,
}

/// All that is known of one source.
#[derive(Clone, Debug, Default)]
pub struct SlotState {
    /// The newest token, valid or not.
    pub held: Option<Held>,
    /// Why the last try failed, if it did.
    pub trouble: Option<Arc<str>>,
    /// When it was last tried.
    pub tried: Option<Instant>,
    /// When it is tried again.
    pub next: Option<Instant>,
}

/// A place for one source's token.
#[derive(Clone)]
pub struct Slot(Arc<Place>);

struct Place {
    state: watch::Sender<SlotState>,
    wanted: Notify,
    /// When a request last wanted another token.
    asked: Mutex<Option<Instant>>,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(&*self.0.state.borrow()).finish()
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self(Arc::new(Place {
            state: watch::Sender::new(SlotState::default()),
            wanted: Notify::new(),
            asked: Mutex::default(),
        }))
    }
}

impl Slot {
    /// The token, if it is valid.
    #[must_use]
    pub fn current(&self, now: Instant) -> Option<Held> {
        self.0.state.borrow().held.as_ref().filter(|held| now < held.expires).cloned()
    }

    /// What is known now.
    #[must_use]
    pub fn state(&self) -> SlotState {
        self.0.state.borrow().clone()
    }

    /// A token newer than the one that was rejected. All who ask at one time share one try; `None` when there is
    /// none, or it was tried a moment ago.
    pub async fn newer_than(&self, serial: u64, now: Instant) -> Option<Held> {
        let newer = |state: &SlotState| state.held.clone().filter(|held| held.serial > serial);
        let mut watched = self.0.state.subscribe();
        let tried = {
            let state = watched.borrow_and_update();
            if let Some(held) = newer(&state) {
                return Some(held);
            }
            state.tried
        };
        if !self.is_tried(tried, now) {
            return None;
        }
        timeout(PATIENCE, watched.changed()).await.ok()?.ok()?;
        newer(&watched.borrow())
    }

    /// This token was rejected, and whoever sent it cannot wait for another: the next one will have it.
    pub fn rejected(&self, serial: u64, now: Instant) {
        let state = self.0.state.borrow();
        if state.held.as_ref().is_none_or(|held| held.serial <= serial) {
            self.is_tried(state.tried, now);
        }
    }

    /// Whether a try for another token is under way, for this request or one before it. Not when there was one
    /// lately; `tried` is when the last one ended.
    fn is_tried(&self, tried: Option<Instant>, now: Instant) -> bool {
        let mut asked = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
        match *asked {
            Some(asked) if now < asked + ASKED_ANEW => tried.is_none_or(|tried| tried < asked),
            _ => {
                *asked = Some(now);
                self.0.wanted.notify_one();
                true
            }
        }
    }

    /// Resolves when somebody's token was rejected.
    pub(super) async fn wanted(&self) {
        self.0.wanted.notified().await;
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut SlotState)) {
        self.0.state.send_modify(change);
    }
}
