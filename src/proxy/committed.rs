//! The body of an answer on its way to the caller, byte for byte, one write per read.
//!
//! Its end settles everything: the place on the lane is handed back, the record written. Dropped before its
//! end, the caller has left: the upstream connection closes with it, what came is counted, and no lane's state changes.

use std::fmt;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use memchr::memmem::Finder;
use tokio::time::{Instant, Sleep, sleep_until};

use super::ledger::Ledger;
use super::objects::Noting;
use super::place::Place;
use super::prelude::Held;
use super::socket::Agreed;
use crate::balance::{Attempts, Verdict};
use crate::net::server::{BodyError, Upgrade};
use crate::net::stop::{Ear, Stop};
use crate::net::upstream::Answer;
use crate::openai::{Api, Ending, EventScanner, UsageScanner, errors};
use crate::telemetry::access::Ended;
use crate::telemetry::clock;
use crate::telemetry::request_id::RequestId;
use crate::telemetry::text::chain;

/// What callers get as a body.
#[derive(Debug)]
pub enum ProxyBody {
    /// Here whole.
    Full(Option<Bytes>),
    /// Comes as the backend sends it.
    Committed(Box<Committed>),
    /// None: the connection becomes a WebSocket.
    Socket(Agreed),
}

impl ProxyBody {
    pub(super) fn full(bytes: Bytes) -> Self {
        Self::Full(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    pub(super) fn take_upgrade(&mut self) -> Option<Upgrade> {
        match self {
            Self::Socket(agreed) => agreed.take(),
            Self::Full(_) | Self::Committed(_) => None,
        }
    }
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Committed(committed) => committed.poll(cx),
            Self::Socket(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Committed(committed) => matches!(committed.stage, Stage::Over),
            Self::Socket(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Committed(committed) => committed.size_hint(),
            Self::Socket(_) => SizeHint::with_exact(0),
        }
    }
}

/// What a line of a stream begins with that has an event's data.
static DATA: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"data:"));

/// A committed answer.
pub struct Committed {
    id: RequestId,
    answer: Answer,
    held: Held,
    stage: Stage,
    /// `None` once settled.
    open: Option<Open>,
    /// Reads the passing bytes.
    events: Option<EventScanner>,
    api: Api,
    usage: UsageScanner,
    noting: Option<Box<Noting>>,
    events_passed: u64,
    idle: Option<Duration>,
    /// Armed when the backend is silent for the first time; moved only when it fires.
    timer: Option<Pin<Box<Sleep>>>,
    /// Since when the backend has sent nothing, while it does not.
    quiet_since: Option<Instant>,
    /// A drain's time may be over while the answer still comes.
    ear: Ear,
}

struct Open {
    verdict: Verdict,
    place: Place,
    attempts: Attempts,
    ledger: Ledger,
}

enum Stage {
    Passing,
    /// It is broken off: this event says so.
    Telling(Bytes),
    /// The event is flushed: hyper drops what is unflushed when a body fails right after a frame.
    Flushing,
    /// The connection is aborted: a cut answer never looks complete.
    Aborting,
    Over,
}

impl fmt::Debug for Committed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committed").finish_non_exhaustive()
    }
}

/// What the caller's connection is aborted with.
#[derive(Debug, thiserror::Error)]
#[error("the answer was broken off in its middle")]
struct Cut;

impl Committed {
    /// `stream` is the form of its events, where it is a stream of them.
    pub(super) fn new(
        answer: Answer,
        held: Held,
        stream: Option<Api>,
        idle: Option<Duration>,
        (verdict, place, attempts, ledger): (Verdict, Place, Attempts, Ledger),
    ) -> Self {
        let ear = ledger.ear();
        let mut committed = Self {
            id: ledger.id,
            answer,
            held,
            stage: Stage::Passing,
            open: Some(Open { verdict, place, attempts, ledger }),
            events: stream.map(EventScanner::new),
            api: stream.unwrap_or(Api::Other),
            usage: UsageScanner::default(),
            noting: None,
            events_passed: 0,
            idle,
            timer: None,
            quiet_since: None,
            ear,
        };
        // An answer without a body is never polled.
        committed.end_if_whole();
        committed
    }

    /// What reads the ids that pass.
    pub(super) fn noting(mut self, noting: Option<Box<Noting>>) -> Self {
        self.noting = noting;
        self
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match std::mem::replace(&mut self.stage, Stage::Passing) {
            Stage::Passing => self.poll_passing(cx),
            Stage::Telling(event) => {
                self.stage = Stage::Flushing;
                Poll::Ready(Some(Ok(Frame::data(event))))
            }
            Stage::Flushing => {
                self.stage = Stage::Aborting;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Stage::Aborting => {
                self.stage = Stage::Over;
                Poll::Ready(Some(Err(Cut.into())))
            }
            Stage::Over => {
                self.stage = Stage::Over;
                Poll::Ready(None)
            }
        }
    }

    fn poll_passing(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match self.held.pop() {
            Some(frame) => Some(Ok(frame)),
            None if self.held.broke_off() => return self.cut(Ended::UpstreamCut, cx),
            None => match Pin::new(&mut self.answer).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    if self.ear.listen(cx) != Stop::Run {
                        return self.cut(Ended::Stopped, cx);
                    }
                    ready!(self.poll_silent_too_long(cx));
                    return self.cut(Ended::UpstreamCut, cx);
                }
            },
        };
        // Trailers end here: what stands in them would pass unfiltered, and Azure sends none.
        let frame = frame.filter(|frame| !frame.as_ref().is_ok_and(Frame::is_trailers));
        match frame {
            Some(Ok(frame)) => {
                self.quiet_since = None;
                if let Some(data) = frame.data_ref() {
                    self.usage.feed(data);
                    if let Some(noting) = &mut self.noting {
                        noting.feed(data);
                    }
                    if let Some(events) = &mut self.events {
                        events.pass(data);
                        self.events_passed += DATA.find_iter(data).count() as u64;
                    }
                }
                self.end_if_whole();
                Poll::Ready(Some(Ok(frame)))
            }
            None if !self.events.as_ref().is_some_and(EventScanner::is_cut) => {
                self.settle(Ended::Completed);
                self.stage = Stage::Over;
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                tracing::debug!(id = %self.id, error = %chain(&error), "the answer broke off");
                self.cut(Ended::UpstreamCut, cx)
            }
            None => self.cut(Ended::UpstreamCut, cx),
        }
    }

    /// Of an answer of known length hyper does not ask for more than that length, so its end must be seen here.
    fn end_if_whole(&mut self) {
        let cut = self.events.as_ref().is_some_and(EventScanner::is_cut);
        if self.held.is_empty() && !self.held.broke_off() && self.is_all_here() && !cut {
            self.settle(Ended::Completed);
            self.stage = Stage::Over;
        }
    }

    /// In HTTP/2 the end may come apart from the last byte, when nobody asks any more.
    fn is_all_here(&self) -> bool {
        self.answer.is_end_stream() || self.answer.size_hint().exact() == Some(0)
    }

    /// Ready once the backend has sent nothing for `stream_idle_timeout`.
    fn poll_silent_too_long(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(idle) = self.idle else { return Poll::Pending };
        let deadline = *self.quiet_since.get_or_insert_with(Instant::now) + idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }

    /// The backend broke off, or is silent for too long, or we stop: said in the stream's own form where an event
    /// may stand, then the connection is aborted.
    fn cut(&mut self, ended: Ended, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.events.as_ref().is_some_and(EventScanner::is_over) {
            // What breaks after that spoils nothing.
            self.settle(Ended::Completed);
            self.stage = Stage::Over;
            return Poll::Ready(None);
        }
        self.settle(ended);
        let between_events = self.events.as_ref().is_some_and(|events| !events.inside_event());
        self.stage = if between_events {
            let text = match ended {
                Ended::Stopped => "The balancer shuts down and could not wait for the end of this answer.",
                _ => "The backend broke off in the middle of its answer.",
            };
            Stage::Telling(errors::stream_event(self.api, errors::STREAM_INTERRUPTED, text, self.id.as_str()))
        } else {
            // What has been passed on so far is flushed first.
            Stage::Flushing
        };
        self.poll(cx)
    }

    /// Its last event says itself that it failed: to the lane that is an answer broken off.
    fn says_failed(&self) -> bool {
        self.events.as_ref().is_some_and(|events| events.ending() == Ending::Failed)
    }

    /// Hands the place back and writes the record; the first call counts.
    fn settle(&mut self, ended: Ended) {
        let Some(Open { verdict, place, mut attempts, mut ledger }) = self.open.take() else { return };
        let now = clock::now();
        let tokens = ledger.count_tokens(self.usage.usage(), self.events_passed);
        let verdict = match (verdict, ended) {
            (Verdict::Served { .. }, Ended::UpstreamCut) => Verdict::CutOff { tokens },
            (Verdict::Served { .. }, _) if self.says_failed() => Verdict::CutOff { tokens },
            (Verdict::Served { .. }, _) => Verdict::Served { tokens },
            (other, _) => other,
        };
        ledger.attempts.amend(verdict.word());
        place.report(now, verdict, &mut attempts);
        ledger.waited_until(now);
        ledger.end(now, ended);
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.held.bytes();
        match self.answer.size_hint().exact() {
            Some(rest) if self.events.is_none() => SizeHint::with_exact(held + rest),
            _ => SizeHint::default(),
        }
    }
}

impl Drop for Committed {
    /// Azure charges what a caller has been sent, whether it stays to the end or not.
    fn drop(&mut self) {
        let ended = if self.ear.state() == Stop::Run { Ended::CallerLeft } else { Ended::Stopped };
        if self.says_failed() {
            return self.settle(ended);
        }
        let Some(Open { place, mut ledger, .. }) = self.open.take() else { return };
        place.left(ledger.count_tokens(self.usage.usage(), self.events_passed));
        ledger.end(clock::now(), ended);
    }
}
