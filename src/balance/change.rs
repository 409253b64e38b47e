//! What became different, for the log: one line each, never more than fit the queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::reason::Reason;

/// The most changes waiting for the log; the log is drained after each request, so this is reached in storms only.
const WAITING: usize = 256;

/// One state change. `deployment` is the name there, empty for the unnamed lane.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// A lane was throttled.
    CooldownBegan {
        /// Name.
        backend: Arc<str>,
        /// Name there.
        deployment: Arc<str>,
        /// Where the duration was read.
        reason: Reason,
        /// How long; later answers may lengthen it without a further change.
        duration: Duration,
    },
    /// A throttled lane is back. Noticed when it is next looked at, not at the instant.
    CooldownEnded {
        /// Name.
        backend: Arc<str>,
        /// Name there.
        deployment: Arc<str>,
    },
    /// A lane, or with `deployment: None` a whole backend, rests because it failed.
    Resting {
        /// Name.
        backend: Arc<str>,
        /// Name there.
        deployment: Option<Arc<str>>,
        /// The last failure.
        reason: Reason,
        /// Until the probe.
        duration: Duration,
    },
    /// The probe went well.
    Recovered {
        /// Name.
        backend: Arc<str>,
        /// Name there.
        deployment: Option<Arc<str>>,
    },
    /// The backend rejects our credential for an operation family.
    Refused {
        /// Name.
        backend: Arc<str>,
        /// Operation family.
        family: &'static str,
        /// 401 or 403.
        status: u16,
        /// Until it is asked again.
        duration: Duration,
    },
    /// The backend does not have this deployment.
    Absent {
        /// Name.
        backend: Arc<str>,
        /// Name there.
        deployment: Arc<str>,
        /// Until it is asked again.
        duration: Duration,
    },
    /// This deployment does not do this operation.
    Unsupported {
        /// Name.
        backend: Arc<str>,
        /// Name there.
        deployment: Arc<str>,
        /// Operation.
        operation: &'static str,
        /// Until it is asked again.
        duration: Duration,
    },
    /// Requests of at least this size are kept away.
    TooLarge {
        /// Name.
        backend: Arc<str>,
        /// Name there.
        deployment: Arc<str>,
        /// In tokens, as estimated.
        charge: u64,
        /// For how long.
        duration: Duration,
    },
    /// So many changes came faster than they were taken.
    Lost {
        /// How many.
        count: u64,
    },
}

/// Changes not yet taken.
#[derive(Debug, Default)]
pub(super) struct Changes {
    waiting: VecDeque<Change>,
    lost: u64,
    /// Ever pushed, lost ones included.
    pub(super) number: u64,
}

impl Changes {
    pub(super) fn push(&mut self, change: Change) {
        self.number += 1;
        if self.waiting.len() < WAITING {
            self.waiting.push_back(change);
        } else {
            self.lost += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn take(&mut self) -> Vec<Change> {
        let mut taken = Vec::from(std::mem::take(&mut self.waiting));
        if self.lost > 0 {
            taken.push(Change::Lost { count: std::mem::take(&mut self.lost) });
        }
        taken
    }
}
