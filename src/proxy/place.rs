//! A place on a lane that is handed back exactly once, whatever happens to the request.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;

use super::Shared;
use super::request::Share;
use crate::balance::{Attempts, Change, Pick, Verdict};

/// A pick, and the pool it goes back to. Dropped without a report: the caller left, which changes nothing.
#[derive(Debug)]
pub(super) struct Place {
    shared: Arc<Shared>,
    pick: Option<Pick>,
}

impl Place {
    pub(super) fn new(shared: Arc<Shared>, pick: Pick) -> Self {
        Self { shared, pick: Some(pick) }
    }

    pub(super) fn pick(&self) -> &Pick {
        self.pick.as_ref().expect("given back only by consuming methods and drop")
    }

    /// Of all buffered bytes, for what is held of the answer; nothing yet.
    pub(super) fn share(&self) -> Share {
        Share::new(&self.shared)
    }

    /// The first of a good answer is there; the place is still taken.
    pub(super) fn answered(&self, now: Instant, headers: &HeaderMap, attempts: &mut Attempts) {
        let changes = {
            let mut pool = self.shared.pool();
            pool.answered(now, self.pick(), headers, attempts);
            if pool.has_changes() { pool.take_changes() } else { Vec::new() }
        };
        self.tell(changes);
    }

    /// A good answer that is here whole: both at once.
    pub(super) fn served(
        mut self,
        now: Instant,
        headers: &HeaderMap,
        verdict: Verdict,
        attempts: &mut Attempts,
    ) {
        let Some(pick) = self.pick.take() else { return };
        let changes = {
            let mut pool = self.shared.pool();
            pool.answered(now, &pick, headers, attempts);
            pool.report(now, pick, verdict, attempts);
            if pool.has_changes() { pool.take_changes() } else { Vec::new() }
        };
        self.tell(changes);
    }

    /// Hands the place back with what happened.
    pub(super) fn report(mut self, now: Instant, verdict: Verdict, attempts: &mut Attempts) {
        let Some(pick) = self.pick.take() else { return };
        let changes = {
            let mut pool = self.shared.pool();
            pool.report(now, pick, verdict, attempts);
            if pool.has_changes() { pool.take_changes() } else { Vec::new() }
        };
        self.tell(changes);
    }

    /// One log line per state change, written without the pool's lock.
    fn tell(&self, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.shared.stir.stir();
        }
        for change in changes {
            crate::telemetry::change::tell(&change);
        }
    }

    /// Hands the place back of a caller that left an answer which had taken so many tokens.
    pub(super) fn left(mut self, tokens: u64) {
        if let Some(pick) = self.pick.take() {
            self.shared.pool().left(pick, tokens);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pick) = self.pick.take() {
            self.shared.pool().abandon(pick);
        }
    }
}
