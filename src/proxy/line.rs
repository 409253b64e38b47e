//! Waiting in line (`retry.hold`): requests that found every lane full go on when one has room again; among those who
//! wait, first come, first to look.
//!
//! There is a line for each deployment; who is tied to one backend, or may not spill over, waits for other lanes and so in
//! another line. Only its first looks again, when the soonest lane is back, so that one place wakes one request. When it
//! was placed, the next one looks: at once where headers say how much room there is, else once the first has its answer,
//! or after [`SHOWS`]. Whether it is worth waiting at all is decided by `balance`.
//!
//! Who comes and finds room goes on without a look at the line. So a small request may pass a large one that waits for
//! more room, and one that comes in the moment in which a lane is back may pass the first one there: no order is promised.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{sleep_until, timeout};

use super::ledger::Ledger;
use super::{ProxySettings, Shared};
use crate::balance::{Ask, BackendId};
use crate::telemetry::clock;

/// Of the time that is left until the request's deadline, one part in so many may go by in line: the rest is for its
/// answer.
const PART: u32 = 2;

/// A lane of unknown room shows within this time whether it is full: 429s come in 20 to 100 ms.
const SHOWS: Duration = Duration::from_millis(100);

/// A lane that says "in 10 ms" each time is asked no more often than so by one request: what it waits for is room, and
/// there is none.
const MOST_ROUNDS: u32 = 16;

/// Who waits for the same lanes.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Which {
    deployment: Option<Arc<str>>,
    pin: Option<BackendId>,
    lowest_priority: Option<u32>,
}

/// All lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    state: Mutex<State>,
    /// How many wait, in all lines; read without the lock.
    count: AtomicUsize,
    /// How often all were told to look. Counted before the lock is taken: whoever joins after that sees it.
    looks: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    lines: HashMap<Which, VecDeque<Waiter>>,
    tickets: u64,
    closed: bool,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    news: Arc<Notify>,
}

/// Where one request stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    First,
    Behind,
    /// Nobody waits any more.
    Closed,
}

impl Lines {
    /// Held for a moment, never together with another lock.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// From now on nobody waits: who does is told to come back, to whoever takes over.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.lines.values().flatten().for_each(|waiter| waiter.news.notify_one());
    }

    /// What was full may not be any more, for a reason that no one in line could foresee: the first of each looks.
    pub(super) fn look(&self) {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.state().lines.values().filter_map(VecDeque::front).for_each(|first| first.news.notify_one());
    }

    fn looks(&self) -> usize {
        self.looks.load(Ordering::Relaxed)
    }

    fn ahead(&self, which: &Which, ticket: Option<u64>) -> usize {
        let state = self.state();
        let before = |line: &VecDeque<Waiter>| match ticket {
            Some(ticket) => line.partition_point(|waiter| waiter.ticket < ticket),
            None => line.len(),
        };
        state.lines.get(which).map_or(0, before)
    }

    /// In the order of tickets: who was here before stands where it stood. `None`: too many wait, or nobody may.
    fn join(&self, which: &Which, ticket: Option<u64>, news: &Arc<Notify>, most: usize) -> Option<u64> {
        let mut state = self.state();
        if state.closed || self.count() >= most {
            return None;
        }
        let ticket = ticket.unwrap_or_else(|| {
            state.tickets += 1;
            state.tickets
        });
        let line = state.lines.entry(which.clone()).or_default();
        let place = line.partition_point(|waiter| waiter.ticket < ticket);
        line.insert(place, Waiter { ticket, news: Arc::clone(news) });
        self.count.fetch_add(1, Ordering::Relaxed);
        Some(ticket)
    }

    /// The one behind the first hears that it is the first.
    fn leave(&self, which: &Which, ticket: u64) {
        let mut state = self.state();
        let Some(line) = state.lines.get_mut(which) else { return };
        let Ok(place) = line.binary_search_by_key(&ticket, |waiter| waiter.ticket) else { return };
        line.remove(place);
        self.count.fetch_sub(1, Ordering::Relaxed);
        match line.front() {
            Some(first) if place == 0 => first.news.notify_one(),
            Some(_) => {}
            None => {
                state.lines.remove(which);
            }
        }
    }

    fn standing(&self, which: &Which, ticket: u64) -> Standing {
        let state = self.state();
        let first = state.lines.get(which).and_then(|line| line.front());
        match first {
            _ if state.closed => Standing::Closed,
            Some(first) if first.ticket != ticket => Standing::Behind,
            Some(_) | None => Standing::First,
        }
    }
}

/// A number in a line, and what its holder hears by.
#[derive(Debug)]
struct Ticket {
    which: Which,
    number: u64,
    news: Arc<Notify>,
    in_line: bool,
}

/// One request's patience, and its place in line. Dropped, the place is free.
#[derive(Debug)]
pub(super) struct Patience {
    shared: Arc<Shared>,
    hold: Duration,
    deadline: Instant,
    /// The most that may wait.
    most: usize,
    /// When it ends; once it began.
    ends: Option<Instant>,
    /// [`Lines::looks`] before its last pick.
    looks: usize,
    /// How often it waited once more after it had asked a lane.
    rounds: u32,
    /// It asked a lane since it last waited.
    asked: bool,
    /// Kept when it leaves the line: should it have to wait again, it stands where it stood.
    ticket: Option<Ticket>,
}

impl Patience {
    pub(super) fn new(shared: &Arc<Shared>, settings: &ProxySettings, deadline: Instant) -> Self {
        let hold = settings.hold.unwrap_or_default();
        Self {
            shared: Arc::clone(shared),
            hold,
            deadline,
            most: settings.held,
            ends: None,
            looks: 0,
            rounds: 0,
            asked: false,
            ticket: None,
        }
    }

    /// When it ends if it begins now.
    fn latest(&self, now: Instant) -> Instant {
        now + self.hold.min(self.deadline.saturating_duration_since(now) / PART)
    }

    /// What the pool is told of it: how long it may still wait, and behind how many.
    pub(super) fn tell<'a>(&mut self, now: Instant, ask: Ask<'a>, deployment: Option<&Arc<str>>) -> Ask<'a> {
        if self.hold.is_zero() || (self.asked && self.rounds >= MOST_ROUNDS) {
            return ask;
        }
        let ends = self.ends.unwrap_or_else(|| self.latest(now));
        let lines = &self.shared.lines;
        self.looks = lines.looks();
        let ahead = if lines.count() == 0 {
            0
        } else {
            lines.ahead(&which(&ask, deployment), self.ticket.as_ref().map(|ticket| ticket.number))
        };
        Ask { patience: ends.saturating_duration_since(now), ahead, ..ask }
    }

    /// There is room at `until`, the pool believes: returns when it is time to pick again.
    pub(super) async fn wait(
        &mut self,
        until: Instant,
        ask: &Ask<'_>,
        deployment: Option<&Arc<str>>,
        ledger: &mut Option<Ledger>,
    ) {
        let began = clock::now();
        self.rounds += u32::from(std::mem::take(&mut self.asked));
        let ends = self.ends.unwrap_or_else(|| self.latest(began));
        self.ends = Some(ends);
        if !self.join(which(ask, deployment)) {
            self.ends = Some(began);
            return;
        }
        if let Some(entry) = ledger {
            entry.stands_in_line(began);
        }
        let first = self.stand(until, ends).await;
        let now = clock::now();
        if !first {
            // One more look, and then it is told.
            self.ends = Some(now);
            self.leave();
        }
        if let Some(entry) = ledger {
            entry.goes_on(now);
        }
    }

    fn join(&mut self, which: Which) -> bool {
        if self.ticket.as_ref().is_some_and(|ticket| ticket.in_line && ticket.which == which) {
            return true;
        }
        self.leave();
        let (number, news) = match self.ticket.take() {
            Some(ticket) => (Some(ticket.number), ticket.news),
            None => (None, Arc::default()),
        };
        let number = self.shared.lines.join(&which, number, &news, self.most);
        self.ticket = number.map(|number| Ticket { which, number, news, in_line: true });
        self.ticket.is_some()
    }

    /// Returns when it is the first's turn to look, or when it waits no longer: false. Where it stands is read anew each
    /// time: who was here before and found its lane full stands in front of it again.
    async fn stand(&self, until: Instant, ends: Instant) -> bool {
        let Some(Ticket { which, number, news, .. }) = &self.ticket else { return false };
        let lines = &self.shared.lines;
        loop {
            let stands = lines.standing(which, *number);
            let limit = match stands {
                // What came back since it picked was told to whoever was first then.
                Standing::First if lines.looks() != self.looks => return true,
                Standing::First => until.min(ends),
                Standing::Behind => ends,
                Standing::Closed => return false,
            };
            let is_over = tokio::select! {
                () = sleep_until(limit.into()) => stands == Standing::Behind,
                () = news.notified() => false,
            };
            match lines.standing(which, *number) {
                Standing::First => return true,
                Standing::Behind if is_over => return false,
                Standing::Behind | Standing::Closed => {}
            }
        }
    }

    /// The request has its place on a lane: whoever is next in line may look, once it has shown that there is room.
    pub(super) async fn follow<F: Future>(&mut self, has_room: bool, mut attempt: Pin<&mut F>) -> F::Output {
        self.asked = true;
        if has_room {
            self.leave();
        }
        if !self.ticket.as_ref().is_some_and(|ticket| ticket.in_line) {
            return attempt.await;
        }
        match timeout(SHOWS, &mut attempt).await {
            Ok(outcome) => outcome,
            Err(_) => {
                self.leave();
                attempt.await
            }
        }
    }

    fn leave(&mut self) {
        if let Some(ticket) = self.ticket.as_mut().filter(|ticket| ticket.in_line) {
            ticket.in_line = false;
            self.shared.lines.leave(&ticket.which, ticket.number);
        }
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        self.leave();
    }
}

fn which(ask: &Ask<'_>, deployment: Option<&Arc<str>>) -> Which {
    Which { deployment: deployment.cloned(), pin: ask.pin, lowest_priority: ask.lowest_priority }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::{PinSettings, Pool, PoolSettings};

    const ANY: Which = Which { deployment: None, pin: None, lowest_priority: None };

    /// Two in one line.
    fn two() -> (Patience, Patience) {
        let pool = Pool::new(PoolSettings { backends: Vec::new(), lanes: 1 }, 1);
        let shared = Arc::new(Shared::new(pool, PinSettings { ids: 1, home: 0 }));
        let one = || Patience {
            shared: Arc::clone(&shared),
            hold: Duration::from_secs(100),
            deadline: after(1_000),
            most: 2,
            ends: None,
            looks: 0,
            rounds: 0,
            asked: false,
            ticket: None,
        };
        let (mut first, mut second) = (one(), one());
        assert!(first.join(ANY) && second.join(ANY));
        (first, second)
    }

    fn after(seconds: u64) -> Instant {
        clock::now() + Duration::from_secs(seconds)
    }

    fn whole_seconds(since: Instant) -> u64 {
        clock::now().saturating_duration_since(since).as_secs()
    }

    async fn seconds(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_first_once_more_looks_when_it_is_told_and_not_before() {
        let (mut first, second) = two();
        let began = clock::now();
        first.leave();
        let comes_and_goes = async {
            seconds(1).await;
            assert!(first.join(ANY), "its lane was full");
            seconds(4).await;
            first.leave();
        };
        // Told that it was first, it looked, and waits again.
        assert!(second.stand(after(3), after(50)).await);
        let (looks, ()) = tokio::join!(second.stand(after(3), after(50)), comes_and_goes);
        assert!(looks);
        assert_eq!(whole_seconds(began), 5, "after three seconds it stood behind");
    }

    #[tokio::test(start_paused = true)]
    async fn who_stands_behind_waits_no_longer_than_its_time() {
        let (_first, second) = two();
        let began = clock::now();
        assert!(!second.stand(after(3), after(7)).await);
        assert_eq!(whole_seconds(began), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_of_a_line_looks_at_once_when_a_backend_may_be_back_also_between_pick_and_wait() {
        let (first, second) = two();
        let began = clock::now();
        let told = async {
            seconds(2).await;
            first.shared.lines.look();
        };
        let (looks, behind, ()) =
            tokio::join!(first.stand(after(30), after(50)), second.stand(after(30), after(9)), told);
        assert!(looks && !behind);
        assert_eq!(whole_seconds(began), 9);
        // It has not picked since: what was told meanwhile counts.
        assert!(first.stand(after(30), after(50)).await);
        assert_eq!(whole_seconds(began), 9);
    }
}
