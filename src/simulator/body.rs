//! Bodies of answers: whole, event by event, or broken off on demand; and who left before their end.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::fault::{Severed, StreamFate};
use super::resource::Resource;

/// How this connection is to end, told to whoever owns the socket.
pub(super) type Severing = Rc<Cell<Option<Severed>>>;

/// One request from its arrival to the last byte of its answer. Dropped early, it counts as left.
#[derive(Debug)]
pub(super) struct Visit {
    resource: Arc<Resource>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    BeforeHead,
    Streaming,
    Over,
}

impl Visit {
    pub(super) fn begin(resource: &Arc<Resource>) -> Self {
        let counters = &mut resource.state().counters;
        counters.requests += 1;
        counters.in_flight += 1;
        Self { resource: Arc::clone(resource), phase: Phase::BeforeHead }
    }

    /// Nothing that happens from here on is the caller's doing.
    pub(super) fn over(&mut self) {
        self.phase = Phase::Over;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let counters = &mut self.resource.state().counters;
        counters.in_flight = counters.in_flight.saturating_sub(1);
        match self.phase {
            Phase::BeforeHead => counters.left_before_head += 1,
            Phase::Streaming => counters.streams_aborted += 1,
            Phase::Over => {}
        }
    }
}

/// The body of every answer.
#[derive(Debug)]
pub(super) struct AnswerBody {
    content: Content,
    /// Absent for the control door.
    visit: Option<Visit>,
}

#[derive(Debug)]
enum Content {
    Whole(Bytes),
    Events(Events),
}

#[derive(Debug)]
struct Events {
    list: std::vec::IntoIter<Bytes>,
    gap: Duration,
    wait: Option<Pin<Box<Sleep>>>,
    fate: StreamFate,
    severing: Severing,
    /// What was sent is flushed only when a body has nothing more for once.
    paused: bool,
}

impl AnswerBody {
    /// Known whole, sent at once.
    pub(super) fn whole(content: impl Into<Bytes>, visit: Option<Visit>) -> Self {
        let content = content.into();
        let mut body = Self { content: Content::Whole(content), visit };
        if body.is_end_stream() {
            body.over();
        }
        body
    }

    /// Sent one by one, with `gap` between them.
    pub(super) fn events(
        list: Vec<Bytes>,
        gap: Duration,
        fate: StreamFate,
        severing: Severing,
        mut visit: Visit,
    ) -> Self {
        visit.phase = Phase::Streaming;
        let wait = (!fate.gap.is_zero()).then(|| Box::pin(sleep(fate.gap)));
        let gap = gap.max(fate.gap);
        let events = Events { list: list.into_iter(), gap, wait, fate, severing, paused: false };
        Self { content: Content::Events(events), visit: Some(visit) }
    }

    fn over(&mut self) {
        if let Some(visit) = &mut self.visit {
            visit.over();
        }
    }
}

impl Events {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Severed>>> {
        if self.fate.hangs {
            return Poll::Pending;
        }
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        if let Some(event) = self.list.next() {
            if !self.gap.is_zero() && self.list.len() > 0 {
                self.wait = Some(Box::pin(sleep(self.gap)));
            }
            return Poll::Ready(Some(Ok(event)));
        }
        let Some(severed) = self.fate.severed else { return Poll::Ready(None) };
        if !self.paused {
            self.paused = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.severing.set(Some(severed));
        Poll::Ready(Some(Err(severed)))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Severed;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Severed>>> {
        let next = match &mut self.content {
            Content::Whole(bytes) if bytes.is_empty() => None,
            Content::Whole(bytes) => Some(Ok(std::mem::take(bytes))),
            Content::Events(events) => {
                let next = ready!(events.poll_next(cx));
                if let Some(Ok(event)) = next {
                    return Poll::Ready(Some(Ok(Frame::data(event))));
                }
                next
            }
        };
        self.over();
        Poll::Ready(next.map(|result| result.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Events(_) => SizeHint::default(),
        }
    }
}
