//! Kept-alive connections of one worker to one backend: last in, first out, so that a low request rate
//! keeps few of them warm and lets the others go. Of a backend that is in use, or next in line, one is kept spare.
//!
//! A spare connection is one that waits longer than others, or was opened before anybody needed it: a low request rate
//! must not mean a handshake per request, nor a failover one.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Unused for so long, a connection is closed by us: below the idle limits of Azure and of the address
/// translation on the way (azure-openai.md 8: four minutes, calls on dead connections hang for a minute).
const LONGEST_IDLE: Duration = Duration::from_secs(60);

/// The same for a spare one, which is watched; another takes its place.
const LONGEST_SPARE: Duration = Duration::from_secs(180);

/// So old, a connection gets no further request, however busy it is: a name may have moved meanwhile (a private
/// endpoint, a failover by DNS), and only a new connection finds out. With TLS sessions resumed, this costs nothing
/// that could be measured.
pub(crate) const LONGEST_LIFE: Duration = Duration::from_secs(300);

/// How often idle connections are looked at, while there are any or a spare one is wanted. No spare one is opened
/// sooner after the one before.
const SWEEP: Duration = Duration::from_secs(15);

/// A connection that goes within this is replaced: before it must go, another is there.
const AHEAD: Duration = Duration::from_secs(30);

/// More are not kept: each holds a socket and some 10 KB.
const MOST: usize = 256;

/// Something kept that may have died meanwhile.
pub(crate) trait Alive {
    /// Drives it a little, without waiting; `false` once it cannot be used again. It costs no system call
    /// unless the reactor has already heard from the socket.
    fn poll_alive(&mut self, cx: &mut Context<'_>) -> bool;

    /// When it was opened.
    fn born(&self) -> Instant;
}

/// So many spare connections there may be, of all workers and backends together.
const MOST_SPARE: usize = 16;

/// Counts the spare connections of a whole balancer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spares(Arc<AtomicUsize>);

impl Spares {
    fn take(&self) -> Option<Spare> {
        let more = |count| (count < MOST_SPARE).then_some(count + 1);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()
            .map(|_| Spare(Arc::clone(&self.0)))
    }
}

/// The right to keep one.
#[derive(Debug)]
struct Spare(Arc<AtomicUsize>);

impl Drop for Spare {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Opens one more connection; `None` where that fails.
pub(crate) type Opens<T> = Box<dyn Fn() -> Opening<T>>;
type Opening<T> = Pin<Box<dyn Future<Output = Option<T>>>>;

/// The connections nobody uses now.
pub(crate) struct Idle<T> {
    kept: RefCell<Vec<Kept<T>>>,
    watched: Cell<bool>,
    /// Other settings are in force: nothing more is kept.
    retired: Cell<bool>,
    sparing: Option<Sparing<T>>,
}

struct Kept<T> {
    since: Instant,
    connection: T,
    spare: Option<Spare>,
}

impl<T: Alive> Kept<T> {
    fn is_good_until(&self, then: Instant) -> bool {
        let idle = if self.spare.is_some() { LONGEST_SPARE } else { LONGEST_IDLE };
        then < self.since + idle && then < self.connection.born() + LONGEST_LIFE
    }
}

/// How spare connections come about.
struct Sparing<T> {
    opens: Opens<T>,
    spares: Spares,
    /// One is wanted until then.
    until: Cell<Option<Instant>>,
    opened: Cell<Option<Instant>>,
}

impl<T> fmt::Debug for Idle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idle").field("watched", &self.watched).finish_non_exhaustive()
    }
}

impl<T> Default for Idle<T> {
    fn default() -> Self {
        let (watched, retired) = (Cell::new(false), Cell::new(false));
        Self { kept: RefCell::default(), watched, retired, sparing: None }
    }
}

impl<T> Idle<T> {
    /// With spare ones, opened by `opens`.
    pub(crate) fn sparing(opens: Opens<T>, spares: Spares) -> Self {
        let sparing = Sparing { opens, spares, until: Cell::new(None), opened: Cell::new(None) };
        Self { sparing: Some(sparing), ..Self::default() }
    }
}

impl<T> Sparing<T> {
    /// No sooner than this after the one before: a peer may close each at once.
    fn may_open(&self, now: Instant) -> bool {
        self.opened.get().is_none_or(|opened| now >= opened + SWEEP)
    }

    /// Until the next look at least.
    fn is_wanted(&self, now: Instant) -> bool {
        self.until.get().is_some_and(|until| now + SWEEP <= until)
    }
}

impl<T: Alive + 'static> Idle<T> {
    /// The most recently used one that is still alive.
    pub(crate) fn take(&self) -> Option<T> {
        // Whoever uses it next is the one to be woken by it.
        let mut cx = Context::from_waker(Waker::noop());
        let now = Instant::now();
        let mut kept = self.kept.borrow_mut();
        // A task that has used up its turn is told "nothing to read" of every socket, also of a closed one.
        while tokio::task::coop::has_budget_remaining() {
            let mut last = kept.pop()?;
            if last.is_good_until(now) && last.connection.poll_alive(&mut cx) {
                return Some(last.connection);
            }
        }
        None
    }

    /// One that keeps nothing.
    pub(crate) fn retired() -> Rc<Self> {
        let idle = Self::default();
        idle.retire();
        Rc::new(idle)
    }

    /// Keeps one for later; the oldest goes when there are too many.
    pub(crate) fn put(self: &Rc<Self>, connection: T) {
        if !self.retired.get() {
            self.keep(connection, None);
            self.watch(SWEEP);
        }
    }

    fn keep(&self, connection: T, spare: Option<Spare>) {
        let mut kept = self.kept.borrow_mut();
        if kept.len() >= MOST {
            kept.remove(0);
        }
        kept.push(Kept { since: Instant::now(), connection, spare });
    }

    /// Other settings are in force: what is kept is closed, and nothing more is opened or kept.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        self.let_go();
    }

    /// The backend is out of use: what is kept is closed, and no spare one is wanted until it is in use again.
    pub(crate) fn let_go(&self) {
        self.kept.borrow_mut().clear();
        if let Some(sparing) = &self.sparing {
            sparing.until.set(None);
        }
    }

    /// The backend is in use: a spare connection is wanted until then, once this use is over.
    pub(crate) fn used(self: &Rc<Self>, until: Instant) {
        self.want_spare(until, SWEEP);
    }

    /// The backend may be needed next: a spare connection is wanted until then, from now on.
    pub(crate) fn expect(self: &Rc<Self>, until: Instant) {
        self.want_spare(until, Duration::ZERO);
    }

    fn want_spare(self: &Rc<Self>, until: Instant, after: Duration) {
        let Some(sparing) = self.sparing.as_ref().filter(|_| !self.retired.get()) else { return };
        sparing.until.set(Some(until).max(sparing.until.get()));
        self.watch(after);
    }

    fn watch(self: &Rc<Self>, after: Duration) {
        if !self.watched.replace(true) {
            tokio::task::spawn_local(Self::sweep(Rc::downgrade(self), after));
        }
    }

    /// Closes what is too old or dead and opens what is wanted, as long as there is something to watch: an idle balancer
    /// has no timer.
    async fn sweep(this: Weak<Self>, after: Duration) {
        let mut pause = pin!(sleep(after));
        loop {
            // A spare one that dies is replaced at once.
            poll_fn(|cx| match this.upgrade() {
                Some(this) if !this.loses_spare(cx) => pause.as_mut().poll(cx),
                Some(_) | None => Poll::Ready(()),
            })
            .await;
            let Some(idle) = this.upgrade() else { return };
            let now = Instant::now();
            idle.close_old(now);
            let opening = idle.open_spare(now);
            if opening.is_none() && !idle.is_worth_watching(now) {
                idle.watched.set(false);
                return;
            }
            drop(idle);
            if let Some((opening, spare)) = opening
                && let Some(connection) = opening.await
            {
                let Some(idle) = this.upgrade() else { return };
                // Its peer may have been slow, and nobody wants it any more.
                if idle.sparing.as_ref().is_some_and(|sparing| sparing.is_wanted(Instant::now())) {
                    idle.keep(connection, Some(spare));
                }
            }
            let Some(idle) = this.upgrade() else { return };
            pause.as_mut().reset(idle.next_look(Instant::now()));
        }
    }

    /// Also when the spare one is wanted no more.
    fn next_look(&self, now: Instant) -> Instant {
        let until = self.sparing.as_ref().and_then(|sparing| sparing.until.get());
        let next = now + SWEEP;
        until.filter(|until| now < *until).map_or(next, |until| until.min(next))
    }

    /// Whether the only connection has died where one is wanted.
    fn loses_spare(&self, cx: &mut Context<'_>) -> bool {
        let mut kept = self.kept.borrow_mut();
        let [only] = kept.as_mut_slice() else { return false };
        let died = !only.connection.poll_alive(cx);
        if died {
            kept.clear();
        }
        let now = Instant::now();
        died && self.sparing.as_ref().is_some_and(|sparing| sparing.is_wanted(now) && sparing.may_open(now))
    }

    /// Closes what may not be used any more.
    fn close_old(&self, now: Instant) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut kept = self.kept.borrow_mut();
        let wanted = self.sparing.as_ref().filter(|sparing| sparing.is_wanted(now));
        // The newest is the spare one, where it would go soon otherwise: a busy pool needs no right to it.
        if let Some(last) = kept.last_mut()
            && last.spare.is_none()
            && last.since + LONGEST_IDLE <= now + AHEAD
        {
            last.spare = wanted.and_then(|sparing| sparing.spares.take());
        }
        let count = kept.len();
        let mut index = 0;
        kept.retain_mut(|each| {
            index += 1;
            if index < count {
                each.spare = None;
            }
            // One that nobody used goes with the wish for it.
            let unwanted = wanted.is_none() && each.spare.is_some();
            !unwanted && each.is_good_until(now) && each.connection.poll_alive(&mut cx)
        });
    }

    /// Where one is wanted and none is there that stays for the next two looks.
    fn open_spare(&self, now: Instant) -> Option<(Opening<T>, Spare)> {
        let sparing = self.sparing.as_ref()?;
        let stays = self.kept.borrow().last().is_some_and(|last| last.is_good_until(now + AHEAD));
        if stays || !sparing.is_wanted(now) || !sparing.may_open(now) {
            return None;
        }
        let spare = sparing.spares.take()?;
        sparing.opened.set(Some(now));
        Some(((sparing.opens)(), spare))
    }

    fn is_worth_watching(&self, now: Instant) -> bool {
        !self.kept.borrow().is_empty() || self.sparing.as_ref().is_some_and(|sparing| sparing.is_wanted(now))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::Pin;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::task::Context;
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::{Alive, Idle, MOST, MOST_SPARE, Spares};

    struct Fake(u32, Rc<Cell<bool>>, Instant);

    impl Fake {
        fn new(number: u32, alive: &Rc<Cell<bool>>) -> Self {
            Self(number, Rc::clone(alive), Instant::now())
        }
    }

    impl Alive for Fake {
        fn poll_alive(&mut self, _cx: &mut Context<'_>) -> bool {
            self.1.get()
        }

        fn born(&self) -> Instant {
            self.2
        }
    }

    fn local<F: Future>(test: F) -> F::Output {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let options = tokio::runtime::LocalOptions::default();
        builder.enable_time().start_paused(true).build_local(options).unwrap().block_on(test)
    }

    #[test]
    fn the_last_one_used_is_used_next_and_a_dead_one_never() {
        local(async {
            let idle = Rc::new(Idle::default());
            let (alive, dying) = (Rc::new(Cell::new(true)), Rc::new(Cell::new(true)));
            idle.put(Fake::new(1, &alive));
            idle.put(Fake::new(2, &alive));
            idle.put(Fake::new(3, &dying));
            dying.set(false);
            assert_eq!(idle.take().map(|fake| fake.0), Some(2));
            assert_eq!(idle.take().map(|fake| fake.0), Some(1));
            assert!(idle.take().is_none());
        });
    }

    #[test]
    fn an_old_one_is_closed_without_being_asked_for() {
        local(async {
            let idle = Rc::new(Idle::default());
            let alive = Rc::new(Cell::new(true));
            idle.put(Fake::new(1, &alive));
            sleep(Duration::from_secs(76)).await;
            assert_eq!(Rc::strong_count(&alive), 1);
            // And the watch begins anew with the next one.
            idle.put(Fake::new(2, &alive));
            sleep(Duration::from_secs(76)).await;
            assert_eq!(Rc::strong_count(&alive), 1);
        });
    }

    #[test]
    fn no_more_than_the_bound_are_kept() {
        local(async {
            let idle = Rc::new(Idle::default());
            let alive = Rc::new(Cell::new(true));
            for n in 0..300 {
                idle.put(Fake::new(n, &alive));
            }
            assert_eq!(Rc::strong_count(&alive), MOST + 1);
        });
    }

    /// What opens connections, how many it has opened, and whether those are alive.
    struct Opened {
        idle: Rc<Idle<Fake>>,
        count: Rc<Cell<u32>>,
        alive: Rc<Cell<bool>>,
    }

    fn sparing(spares: &Spares) -> Opened {
        let (count, alive) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(true)));
        let (counted, living) = (Rc::clone(&count), Rc::clone(&alive));
        let opens = Box::new(move || {
            counted.set(counted.get() + 1);
            let living = Rc::clone(&living);
            Box::pin(async move { Some(Fake::new(0, &living)) }) as Pin<Box<dyn Future<Output = _>>>
        });
        Opened { idle: Rc::new(Idle::sparing(opens, spares.clone())), count, alive }
    }

    fn in_minutes(minutes: u64) -> Instant {
        Instant::now() + Duration::from_secs(60 * minutes)
    }

    #[test]
    fn what_is_used_once_a_minute_is_opened_once_and_replaced_before_it_is_too_old() {
        local(async {
            let opened = sparing(&Spares::default());
            let mut first = Some(Fake::new(1, &opened.alive));
            for minute in 0..30 {
                opened.idle.used(in_minutes(5));
                let connection = opened.idle.take().or_else(|| first.take());
                let connection = connection.unwrap_or_else(|| panic!("none in minute {minute}"));
                assert!(connection.2.elapsed() < super::LONGEST_LIFE, "{minute}");
                opened.idle.put(connection);
                sleep(Duration::from_secs(60)).await;
            }
            assert_eq!(opened.count.get(), 6, "one in five minutes");
        });
    }

    #[test]
    fn nothing_is_kept_five_minutes_after_the_last_use() {
        local(async {
            let opened = sparing(&Spares::default());
            opened.idle.used(in_minutes(5));
            opened.idle.put(Fake::new(1, &opened.alive));
            sleep(Duration::from_secs(270)).await;
            assert_eq!(opened.idle.kept.borrow().len(), 1);
            sleep(Duration::from_secs(31)).await;
            assert_eq!(opened.idle.kept.borrow().len(), 0);
            assert!(!opened.idle.watched.get(), "and nothing wakes us");
            sleep(Duration::from_secs(3600)).await;
            assert_eq!(opened.count.get(), 1, "the one that took the first one's place");
        });
    }

    #[test]
    fn what_is_next_in_line_is_opened_at_once_and_what_its_peer_closes_is_replaced() {
        local(async {
            let opened = sparing(&Spares::default());
            opened.idle.expect(in_minutes(5));
            sleep(Duration::from_millis(1)).await;
            assert_eq!(opened.count.get(), 1);
            // A peer that closes each at once does not keep us busy.
            opened.alive.set(false);
            sleep(Duration::from_secs(60)).await;
            assert_eq!(opened.count.get(), 5);
            opened.alive.set(true);
            sleep(Duration::from_secs(16)).await;
            assert_eq!(opened.count.get(), 6);
            assert!(opened.idle.take().is_some());
        });
    }

    #[test]
    fn there_are_no_more_spare_ones_than_the_bound_and_each_that_goes_makes_room() {
        local(async {
            let spares = Spares::default();
            let many: Vec<_> = (0..20).map(|_| sparing(&spares)).collect();
            many.iter().for_each(|one| one.idle.expect(in_minutes(5)));
            sleep(Duration::from_secs(40)).await;
            let count = || many.iter().map(|one| one.idle.kept.borrow().len()).sum::<usize>();
            assert_eq!(count(), MOST_SPARE);
            drop(many[0].idle.take());
            sleep(Duration::from_secs(20)).await;
            assert_eq!(count(), MOST_SPARE);
        });
    }

    /// As `sparing`, some way off; `None` where it cannot be reached.
    fn distant(spares: &Spares, alive: Option<&Rc<Cell<bool>>>) -> (Rc<Idle<Fake>>, Rc<Cell<u32>>) {
        let (count, living) = (Rc::new(Cell::new(0)), alive.cloned());
        let counted = Rc::clone(&count);
        let opens = Box::new(move || {
            counted.set(counted.get() + 1);
            let living = living.clone();
            Box::pin(async move {
                sleep(Duration::from_secs(1)).await;
                living.map(|living| Fake::new(0, &living))
            }) as Pin<Box<dyn Future<Output = _>>>
        });
        (Rc::new(Idle::sparing(opens, spares.clone())), count)
    }

    #[test]
    fn no_more_than_the_bound_are_kept_where_a_spare_one_comes_on_top() {
        local(async {
            let alive = Rc::new(Cell::new(true));
            let (idle, _) = distant(&Spares::default(), Some(&alive));
            idle.expect(in_minutes(5));
            sleep(Duration::from_millis(1)).await;
            (0..300).for_each(|n| idle.put(Fake::new(n, &alive)));
            sleep(Duration::from_secs(2)).await;
            assert_eq!(idle.kept.borrow().len(), MOST);
            (0..300).for_each(|n| idle.put(Fake::new(n, &alive)));
            assert_eq!(idle.kept.borrow().len(), MOST);
        });
    }

    #[test]
    fn a_backend_that_cannot_be_reached_is_tried_four_times_a_minute() {
        local(async {
            let spares = Spares::default();
            let (idle, count) = distant(&spares, None);
            idle.expect(in_minutes(5));
            for minute in 1..5 {
                sleep(Duration::from_secs(60)).await;
                assert!(count.get() <= 1 + 4 * minute, "{}", count.get());
            }
            sleep(Duration::from_secs(3600)).await;
            assert!(count.get() <= 20 && !idle.watched.get(), "{}", count.get());
            assert_eq!(Arc::strong_count(&spares.0), 2, "no right is held");
        });
    }

    #[test]
    fn other_settings_while_one_is_opened_leave_none_and_no_right() {
        local(async {
            let (alive, spares) = (Rc::new(Cell::new(true)), Spares::default());
            let (idle, count) = distant(&spares, Some(&alive));
            idle.put(Fake::new(1, &alive));
            idle.expect(in_minutes(5));
            let (second, _) = distant(&spares, Some(&alive));
            second.expect(in_minutes(5));
            sleep(Duration::from_millis(500)).await;
            idle.retire();
            second.retire();
            // What was in use meanwhile, and what is still asked of it.
            idle.put(Fake::new(2, &alive));
            idle.expect(in_minutes(5));
            sleep(Duration::from_secs(60)).await;
            assert_eq!((idle.kept.borrow().len(), second.kept.borrow().len()), (0, 0));
            assert_eq!((spares.0.load(Ordering::Relaxed), idle.watched.get()), (0, false));
            assert!(count.get() <= 1);
        });
    }

    #[test]
    fn what_an_operator_drained_is_let_go_and_is_as_before_once_it_is_used_again() {
        local(async {
            let opened = sparing(&Spares::default());
            opened.idle.put(Fake::new(1, &opened.alive));
            opened.idle.used(in_minutes(5));
            opened.idle.let_go();
            assert_eq!(opened.idle.kept.borrow().len(), 0);
            sleep(Duration::from_secs(600)).await;
            assert_eq!((opened.count.get(), opened.idle.watched.get()), (0, false));
            opened.idle.expect(in_minutes(5));
            sleep(Duration::from_secs(1)).await;
            assert!(opened.idle.take().is_some());
        });
    }

    #[test]
    fn a_busy_pool_needs_none_of_the_rights() {
        local(async {
            let spares = Spares::default();
            let opened = sparing(&spares);
            opened.idle.put(Fake::new(1, &opened.alive));
            for _ in 0..50 {
                opened.idle.used(in_minutes(5));
                let connection = opened.idle.take().unwrap();
                opened.idle.put(connection);
                sleep(Duration::from_secs(5)).await;
                assert_eq!(spares.0.load(Ordering::Relaxed), 0);
            }
            assert_eq!(opened.count.get(), 0);
        });
    }

    #[test]
    fn a_spare_one_that_nobody_used_goes_with_the_wish_for_it() {
        local(async {
            let opened = sparing(&Spares::default());
            opened.idle.expect(in_minutes(5));
            // Its peer closes it late, and another takes its place.
            sleep(Duration::from_secs(280)).await;
            opened.alive.set(false);
            sleep(Duration::from_secs(1)).await;
            opened.alive.set(true);
            sleep(Duration::from_secs(20)).await;
            assert_eq!(opened.idle.kept.borrow().len(), 0);
        });
    }
}
