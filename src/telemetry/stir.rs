//! Who looks at what happens from time to time sleeps long while nothing does, and is woken by the first that does:
//! an idle process is left asleep.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

/// Between two looks while nothing happens.
pub const QUIET: Duration = Duration::from_secs(60);

/// Told by all threads that something happens.
#[derive(Debug, Default)]
pub struct Stir {
    /// Somebody has looked since the last request, and may sleep long.
    asleep: AtomicBool,
    times: AtomicU64,
    told: Notify,
}

impl Stir {
    /// Something is worth a look now.
    pub fn stir(&self) {
        self.times.fetch_add(1, Ordering::AcqRel);
        self.told.notify_waiters();
    }

    /// A request came or went, and what looks at it would see it: one load where nobody sleeps.
    pub fn request(&self) {
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            self.stir();
        }
    }
}

/// One who looks.
#[derive(Debug)]
pub struct Looker {
    stir: Arc<Stir>,
    seen: Cell<u64>,
    /// The last pause was cut short.
    stirred: Cell<bool>,
}

impl Looker {
    /// Nothing has been looked at.
    #[must_use]
    pub fn new(stir: Arc<Stir>) -> Self {
        Self { stir, seen: Cell::new(0), stirred: Cell::new(false) }
    }

    /// To be called before a look: [`Self::pause`] hears of all that happens from now on.
    pub fn looks(&self) {
        self.seen.set(self.stir.times.load(Ordering::Acquire));
        self.stir.asleep.store(true, Ordering::Release);
    }

    /// Until the next look. While something happens that is a tick; when all is `quiet`, until something does happen. What
    /// happens often and leaves no trace where we look (refusals) cuts every second pause short at most.
    pub async fn pause(&self, tick: Duration, quiet: bool) {
        if !quiet || self.stirred.replace(false) {
            return sleep(tick).await;
        }
        tokio::select! {
            () = self.stirred() => self.stirred.set(true),
            () = sleep(QUIET) => {}
        }
    }

    async fn stirred(&self) {
        loop {
            // Hears of all that is told from here on.
            let told = self.stir.told.notified();
            if self.stir.times.load(Ordering::Acquire) != self.seen.get() {
                return;
            }
            told.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn is_stirred(looker: &Looker) -> bool {
        pin!(looker.stirred()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn the_first_request_after_a_look_wakes_everybody_who_looks() {
        let stir = Arc::new(Stir::default());
        let lookers = [Looker::new(Arc::clone(&stir)), Looker::new(Arc::clone(&stir))];
        lookers.iter().for_each(Looker::looks);
        assert!(!lookers.iter().any(is_stirred));
        stir.request();
        // The other one looks, which does not take it from this one.
        lookers[1].looks();
        assert!(is_stirred(&lookers[0]) && !is_stirred(&lookers[1]));
        stir.request();
        assert!(lookers.iter().all(is_stirred));
    }

    #[test]
    fn further_requests_before_the_next_look_tell_nobody() {
        let stir = Arc::new(Stir::default());
        let looker = Looker::new(Arc::clone(&stir));
        looker.looks();
        (0..3).for_each(|_| stir.request());
        assert_eq!(stir.times.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_happens_all_the_time_is_looked_at_twice_a_tick_at_most() {
        const TICK: Duration = Duration::from_secs(1);
        let stir = Arc::new(Stir::default());
        let looker = Looker::new(Arc::clone(&stir));
        let start = tokio::time::Instant::now();
        for _ in 0..10 {
            looker.looks();
            stir.request();
            looker.pause(TICK, true).await;
        }
        assert_eq!(start.elapsed(), TICK * 5);
        looker.looks();
        looker.pause(TICK, true).await;
        assert_eq!(start.elapsed(), TICK * 5 + QUIET, "and then nothing happens");
    }

    #[tokio::test]
    async fn who_waits_already_is_woken() {
        let stir = Arc::new(Stir::default());
        let looker = Looker::new(Arc::clone(&stir));
        looker.looks();
        tokio::join!(looker.stirred(), async { stir.stir() });
    }
}
