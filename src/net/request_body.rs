//! A request's body on its way to a backend: kept whole, or as it comes.

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use thiserror::Error;
use tokio::time::{Instant, sleep_until};

use super::server::BodyError;

/// A body of untold length that passed its bound.
#[derive(Clone, Copy, Debug, Error)]
#[error("the request body is too large")]
pub struct BodyTooLarge;

/// What is sent as a request's body. One pointer: hyper keeps room for 32 requests in every connection.
#[derive(Debug)]
pub struct RequestBody(Box<Source>);

#[derive(Debug)]
enum Source {
    /// Kept bytes in up to three pieces (before, instead of, and after a replaced name): can be sent again.
    Whole([Bytes; 3]),
    /// What has been read so far, then the rest as it comes: can be sent once.
    Streamed {
        /// Read already; in order.
        begun: VecDeque<Bytes>,
        /// Still to come.
        rest: Incoming,
        /// In all, where the caller said so.
        length: Option<u64>,
        /// So many bytes may still come; more end the request.
        most: u64,
        moving: Moving,
    },
}

impl RequestBody {
    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self::whole([Bytes::new(), Bytes::new(), Bytes::new()])
    }

    /// Kept bytes in up to three pieces, e.g. before, instead of, and after a replaced name.
    #[must_use]
    pub fn whole(pieces: [Bytes; 3]) -> Self {
        Self(Box::new(Source::Whole(pieces)))
    }

    /// What was read already, in order, then the rest as it comes: `length` in all where the caller said so;
    /// more than `most` further bytes end the request, and so does `idle` without progress.
    #[must_use]
    pub fn streamed(
        begun: VecDeque<Bytes>,
        rest: Incoming,
        length: Option<u64>,
        most: u64,
        idle: Duration,
    ) -> Self {
        let moving = Moving { last: Rc::new(Cell::new((Instant::now(), Waits::Backend))), idle };
        Self(Box::new(Source::Streamed { begun, rest, length, most, moving }))
    }

    /// Some of it has left.
    pub(super) fn has_left(&self) {
        if let Source::Streamed { moving, .. } = &*self.0 {
            moving.waits(Waits::Backend);
        }
    }

    /// What is there of it cannot leave. Told once, until some has left.
    pub(super) fn is_held_up(&self) {
        if let Source::Streamed { moving, .. } = &*self.0
            && moving.last.get().1 != Waits::Backend
        {
            moving.waits(Waits::Backend);
        }
    }

    /// How a body moves that comes from a caller while it is sent.
    pub(super) fn moving(&self) -> Option<Moving> {
        match &*self.0 {
            Source::Whole(_) => None,
            Source::Streamed { moving, .. } => Some(moving.clone()),
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(moving) = self.moving() {
            moving.waits(Waits::Nobody);
        }
    }
}

/// Whom a body waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Waits {
    /// To send more of it.
    Caller,
    /// To take what is there.
    Backend,
    /// It is sent.
    Nobody,
}

/// When a body moved last. It may stand still where nobody asks it for more, so it is watched from beside.
#[derive(Clone, Debug)]
pub(super) struct Moving {
    last: Rc<Cell<(Instant, Waits)>>,
    idle: Duration,
}

impl Moving {
    fn waits(&self, waits: Waits) {
        // Asked again and again for what does not come is no progress.
        if waits != Waits::Caller || self.last.get().1 != Waits::Caller {
            self.last.set((Instant::now(), waits));
        }
    }

    /// Resolves once the body has not moved for its time, with who let it wait.
    pub(super) async fn stalled(&self) -> Waits {
        loop {
            let (since, waits) = self.last.get();
            if waits == Waits::Nobody {
                std::future::pending::<()>().await;
            }
            sleep_until(since + self.idle).await;
            if self.last.get() == (since, waits) {
                return waits;
            }
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self.0 {
            Source::Whole(pieces) => {
                let next = pieces.iter_mut().find(|piece| !piece.is_empty()).map(std::mem::take);
                Poll::Ready(next.map(|piece| Ok(Frame::data(piece))))
            }
            Source::Streamed { begun, rest, most, moving, .. } => {
                if let Some(piece) = begun.pop_front() {
                    moving.waits(Waits::Backend);
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                let Poll::Ready(frame) = Pin::new(rest).poll_frame(cx) else {
                    moving.waits(Waits::Caller);
                    return Poll::Pending;
                };
                let came = frame.iter().flatten().filter_map(Frame::data_ref).map(Bytes::len).sum::<usize>();
                // Frames without bytes are no progress.
                moving.waits(if came > 0 || frame.is_none() { Waits::Backend } else { Waits::Caller });
                match most.checked_sub(came as u64) {
                    Some(left) => *most = left,
                    None => return Poll::Ready(Some(Err(BodyTooLarge.into()))),
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &*self.0 {
            Source::Whole(pieces) => pieces.iter().all(Bytes::is_empty),
            Source::Streamed { begun, rest, .. } => begun.is_empty() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &*self.0 {
            Source::Whole(pieces) => {
                SizeHint::with_exact(pieces.iter().map(|piece| piece.len() as u64).sum())
            }
            Source::Streamed { length, .. } => length.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
