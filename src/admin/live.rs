//! `/events`: what watchers are told, as server-sent events.
//!
//! | event | when | data |
//! |---|---|---|
//! | `past` | first | the last fifteen minutes of each lane ([`History`]) |
//! | `status` | first, once a second, and within [`LOOK`] of a state change | the status document |
//! | `step` | when a step of the past has ended | that step |
//!
//! A document is written once for all watchers. Each watcher has a queue of [`QUEUE`] pieces; one that does not keep up
//! is let go, and a page then comes back by itself. While nobody watches nothing is written.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use serde::Serialize;
use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::sleep;

use crate::net::server::BodyError;
use crate::telemetry::clock;
use crate::telemetry::stir::{Looker, Stir};

use super::Doors;
use super::history::History;

/// The most watchers.
const WATCHERS: usize = 20;
/// Pieces that a watcher may be behind: so many seconds, about.
const QUEUE: usize = 8;
/// Between two looks at whether a state has changed, while somebody watches.
const LOOK: Duration = Duration::from_millis(200);
/// Looks from one status document to the next.
const LOOKS: u32 = 5;

/// What watchers are told, and who they are.
#[derive(Debug)]
pub(super) struct Live {
    history: RefCell<History>,
    watchers: RefCell<Vec<Sender<Bytes>>>,
    looks: Cell<u32>,
    /// The number of state changes at the last document.
    told: Cell<u64>,
    /// Picks up to the last look.
    picks: Cell<u64>,
    /// At the last look nothing was under way, and nothing had been since the one before.
    quiet: Cell<bool>,
    looker: Looker,
    /// Told when somebody begins to watch.
    joined: Notify,
    ended: Cell<bool>,
}

/// Nobody else may watch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unwatched {
    /// There are [`WATCHERS`] already.
    Full,
    /// We are ending.
    Ended,
}

impl Live {
    pub(super) fn new(stir: Arc<Stir>) -> Self {
        Self {
            history: RefCell::default(),
            watchers: RefCell::default(),
            looks: Cell::new(0),
            told: Cell::new(0),
            picks: Cell::new(0),
            quiet: Cell::new(false),
            looker: Looker::new(stir),
            joined: Notify::new(),
            ended: Cell::new(false),
        }
    }

    /// Until the next look, or until somebody watches or something happens at last.
    pub(super) async fn pause(&self) {
        let pause = async {
            match self.watched() {
                true => sleep(LOOK).await,
                false => self.looker.pause(LOOK * LOOKS, self.quiet.get()).await,
            }
        };
        tokio::select! {
            () = pause => {}
            () = self.joined.notified() => {}
        }
    }

    /// One look.
    pub(super) fn look(&self, now: Instant, doors: &Doors) {
        let watched = self.watched();
        let due = !watched || self.looks.get().is_multiple_of(LOOKS);
        self.looks.set(self.looks.get().wrapping_add(1));
        let changed = watched && (doors.changes)() != self.told.get();
        if !due && !changed {
            return;
        }
        self.looker.looks();
        let pool = (doors.pool)();
        let picks = pool.requests();
        self.quiet.set(pool.at_rest() && self.picks.replace(picks) == picks);
        let mut piece = Vec::new();
        if self.history.borrow_mut().look(now, &pool, (doors.failed)()) && watched {
            event(&mut piece, "step", &self.history.borrow().newest());
        }
        if !watched {
            return;
        }
        // Asked after the snapshot, which itself notices that cooldowns have ended.
        self.told.set((doors.changes)());
        event(&mut piece, "status", &(doors.status)(&pool));
        self.tell(&Bytes::from(piece));
    }

    /// Whether anybody is watching.
    fn watched(&self) -> bool {
        let mut watchers = self.watchers.borrow_mut();
        watchers.retain(|watcher| !watcher.is_closed());
        !watchers.is_empty()
    }

    fn tell(&self, piece: &Bytes) {
        self.watchers.borrow_mut().retain(|watcher| match watcher.try_send(piece.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => false,
        });
    }

    /// One more watcher: the past and the present first, then what comes.
    pub(super) fn watch(&self, doors: &Doors) -> Result<Watch, Unwatched> {
        if self.ended.get() {
            return Err(Unwatched::Ended);
        }
        if self.watched() && self.watchers.borrow().len() >= WATCHERS {
            return Err(Unwatched::Full);
        }
        if !self.watched() {
            // It may have been long ago that somebody looked.
            self.look(clock::now(), doors);
        }
        let mut piece = Vec::new();
        event(&mut piece, "past", &self.history.borrow().past());
        event(&mut piece, "status", &(doors.status)(&(doors.pool)()));
        let (sender, receiver) = channel(QUEUE);
        if sender.try_send(Bytes::from(piece)).is_ok() {
            self.watchers.borrow_mut().push(sender);
            self.joined.notify_one();
        }
        Ok(Watch(receiver))
    }

    /// Every watcher's stream ends, and nobody else may watch.
    pub(super) fn end(&self) {
        self.ended.set(true);
        self.watchers.borrow_mut().clear();
    }
}

/// JSON has no line breaks of its own here, so one `data:` line holds it.
fn event(out: &mut Vec<u8>, name: &str, data: &impl Serialize) {
    let before = out.len();
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    if serde_json::to_writer(&mut *out, data).is_err() {
        out.truncate(before);
        return;
    }
    out.extend_from_slice(b"\n\n");
}

/// One watcher's stream.
#[derive(Debug)]
pub(super) struct Watch(Receiver<Bytes>);

impl Body for Watch {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let piece = ready!(self.0.poll_recv(cx));
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::doors;
    use super::*;
    use crate::balance::PoolSnapshot;
    use crate::telemetry::stir::QUIET;

    fn live() -> (Live, Doors) {
        let doors = doors();
        (Live::new(Arc::clone(&doors.stir)), doors)
    }

    fn read(watch: &mut Watch) -> Option<String> {
        watch.0.try_recv().ok().map(|piece| String::from_utf8(piece.to_vec()).unwrap())
    }

    /// A second of looks.
    fn second(live: &Live, doors: &Doors) {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        (0..LOOKS).for_each(|_| live.look(now, doors));
    }

    #[test]
    fn a_watcher_hears_the_past_the_present_and_then_once_a_second() {
        let (live, doors) = live();
        let mut watch = live.watch(&doors).unwrap();
        let first = read(&mut watch).unwrap();
        assert!(first.starts_with("event: past\ndata: {"), "{first}");
        assert!(
            first.contains("\n\nevent: status\ndata: {\"version\":") && first.ends_with("}\n\n"),
            "{first}"
        );
        second(&live, &doors);
        let next = read(&mut watch).unwrap();
        assert!(next.starts_with("event: status\n") && !next.contains("past"), "{next}");
        assert_eq!(read(&mut watch), None);
    }

    #[test]
    fn a_state_change_is_told_at_the_next_look() {
        let changes = std::rc::Rc::new(Cell::new(0));
        let asked = std::rc::Rc::clone(&changes);
        let doors = Doors { changes: std::rc::Rc::new(move || asked.get()), ..doors() };
        let live = Live::new(Arc::default());
        let mut watch = live.watch(&doors).unwrap();
        second(&live, &doors);
        while read(&mut watch).is_some() {}
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        live.look(now, &doors);
        while read(&mut watch).is_some() {}
        live.look(now, &doors);
        assert_eq!(read(&mut watch), None, "nothing is due and nothing has changed");
        changes.set(1);
        live.look(now, &doors);
        assert!(read(&mut watch).is_some());
        live.look(now, &doors);
        assert_eq!(read(&mut watch), None, "told once");
    }

    #[test]
    fn twenty_may_watch_and_a_place_is_free_when_one_leaves() {
        let (live, doors) = live();
        let mut all: Vec<_> = (0..WATCHERS).map(|_| live.watch(&doors).unwrap()).collect();
        assert_eq!(live.watch(&doors).unwrap_err(), Unwatched::Full);
        all.pop();
        assert!(live.watch(&doors).is_ok());
    }

    #[test]
    fn who_does_not_keep_up_is_let_go_and_the_others_are_not() {
        let (live, doors) = live();
        let mut slow = live.watch(&doors).unwrap();
        let mut quick = live.watch(&doors).unwrap();
        for _ in 0..QUEUE + 2 {
            second(&live, &doors);
            while read(&mut quick).is_some() {}
        }
        assert_eq!(live.watchers.borrow().len(), 1);
        assert_eq!(std::iter::from_fn(|| read(&mut slow)).count(), QUEUE);
        assert!(slow.0.is_closed() && !quick.0.is_closed());
    }

    #[test]
    fn at_the_end_every_stream_ends_and_none_begins() {
        let (live, doors) = live();
        let watch = live.watch(&doors).unwrap();
        live.end();
        assert!(watch.0.is_closed());
        assert_eq!(live.watch(&doors).unwrap_err(), Unwatched::Ended);
    }

    #[test]
    fn while_nobody_watches_no_document_is_written() {
        let doors = Doors { status: std::rc::Rc::new(|_| panic!("nobody asked")), ..doors() };
        let live = Live::new(Arc::default());
        second(&live, &doors);
    }

    #[tokio::test(start_paused = true)]
    async fn while_nothing_happens_nobody_looks_but_every_minute_until_somebody_watches() {
        let (live, doors) = live();
        live.look(clock::now(), &doors);
        let start = tokio::time::Instant::now();
        live.pause().await;
        assert_eq!(start.elapsed(), QUIET);
        let (pause, stir) = (live.pause(), async { doors.stir.stir() });
        tokio::join!(pause, stir);
        assert_eq!(start.elapsed(), QUIET, "what happens is seen at once");
        let _watch = live.watch(&doors).unwrap();
        live.pause().await;
        assert_eq!(start.elapsed(), QUIET, "the one that came is told at once");
        live.pause().await;
        assert_eq!(start.elapsed(), QUIET + LOOK);
    }

    #[tokio::test(start_paused = true)]
    async fn while_requests_come_it_is_looked_once_a_second() {
        let busy = || PoolSnapshot { in_flight: 1, backends: Vec::new(), deployments: Vec::new() };
        let doors = Doors { pool: std::rc::Rc::new(busy), ..doors() };
        let live = Live::new(Arc::default());
        live.look(clock::now(), &doors);
        let start = tokio::time::Instant::now();
        live.pause().await;
        assert_eq!(start.elapsed(), LOOK * LOOKS);
    }
}
