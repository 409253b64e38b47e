//! An answer's body on its way into a connection: what it holds is let go with it, its last words get time to leave,
//! and in HTTP/2 a caller that gives no room for it does not hold it for ever.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::server::BodyError;

/// A body that fails aborts its connection, and what was not written by then is lost: where the caller's pipe is full
/// at that moment, so long for the words that say so. A drain grants less (`LAST_WORDS` in `app`).
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What a body holds until it ends; dropped with it.
pub(crate) trait Held {
    /// A frame was given to the connection.
    fn gave(&self) {}

    /// There is nothing to give now.
    fn waits(&self) {}

    /// The caller has not taken what was given.
    fn is_full(&self) -> bool;
}

pin_project_lite::pin_project! {
    /// The answer's body; when hyper lets go of it, so does what it holds.
    pub(crate) struct HeldBody<B, H> {
        #[pin]
        body: B,
        held: H,
        cut: Option<Cut>,
    }
}

/// The error that a body ended with, held back.
struct Cut {
    error: BodyError,
    timer: Pin<Box<Sleep>>,
}

impl<B, H> HeldBody<B, H> {
    pub(crate) fn new(body: B, held: H) -> Self {
        Self { body, held, cut: None }
    }
}

impl<B: Body<Data = Bytes, Error = BodyError>, H: Held> Body for HeldBody<B, H> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.project();
        if this.cut.is_none() {
            match this.body.poll_frame(cx) {
                Poll::Ready(Some(Err(error))) if this.held.is_full() => {
                    *this.cut = Some(Cut { error, timer: Box::pin(sleep(LAST_WORDS)) });
                }
                Poll::Pending => {
                    this.held.waits();
                    return Poll::Pending;
                }
                ready @ Poll::Ready(_) => {
                    this.held.gave();
                    return ready;
                }
            }
        }
        this.held.waits();
        if this.held.is_full()
            && let Some(cut) = this.cut
        {
            ready!(cut.timer.as_mut().poll(cx));
        }
        Poll::Ready(this.cut.take().map(|cut| Err(cut.error)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How one answer of an HTTP/2 connection flows.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Since when a frame waits to be taken.
    given: Cell<Option<Instant>>,
    /// The caller let us wait for room before.
    slow: Cell<bool>,
}

impl Held for Rc<Flow> {
    fn gave(&self) {
        self.given.set(Some(Instant::now()));
    }

    fn waits(&self) {
        self.given.set(None);
    }

    /// How much is on its way cannot be seen through HTTP/2: who was slow before may be so now.
    fn is_full(&self) -> bool {
        self.slow.get()
    }
}

/// Runs the streams of one HTTP/2 connection on this thread; ends those whose caller gives no room for so long.
///
/// hyper hands over each stream's work right after it has called the service for it, so the flow that is newest then
/// is that stream's. What has been handed to HTTP/2 whole, an answer's last frame, counts as taken: it is small, and
/// the connection's idle limit ends it.
#[derive(Clone, Debug)]
pub(crate) struct Flows {
    newest: Rc<RefCell<Option<Rc<Flow>>>>,
    write_idle: Duration,
}

impl Flows {
    pub(crate) fn new(write_idle: Duration) -> Self {
        Self { newest: Rc::default(), write_idle }
    }

    /// Of the request that has just come.
    pub(crate) fn open(&self) -> Rc<Flow> {
        let flow = Rc::new(Flow::default());
        self.newest.replace(Some(Rc::clone(&flow)));
        flow
    }
}

impl<F: Future + 'static> hyper::rt::Executor<F> for Flows {
    fn execute(&self, future: F) {
        let (flow, write_idle) = (self.newest.take(), self.write_idle);
        tokio::task::spawn_local(async move {
            let mut future = pin!(future);
            let mut timer = None;
            poll_fn(|cx| {
                if future.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                flow.as_ref().map_or(Poll::Pending, |flow| flow.poll_stalled(&mut timer, write_idle, cx))
            })
            .await;
        });
    }
}

impl Flow {
    /// Ready once a frame has waited for `limit`. The timer is made when first needed.
    fn poll_stalled(
        &self,
        timer: &mut Option<Pin<Box<Sleep>>>,
        limit: Duration,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let Some(since) = self.given.get() else { return Poll::Pending };
        self.slow.set(true);
        let deadline = since + limit;
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() < deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx)
    }
}
