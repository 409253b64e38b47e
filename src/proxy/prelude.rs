//! The beginning of a stream, held back until it says something: an error in it still fails over.
//!
//! Azure answers a rate limit on a streamed Responses call with 200, `response.created` and then an error event
//! (azure-openai.md 3.5). Nothing is added to the time to first content: the event that says something goes out
//! with what was held.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Frame;
use tokio::time::timeout_at;

use super::request::Share;
use crate::net::upstream::{Answer, AnswerError};
use crate::openai::{Api, ErrorClass, EventKind, EventScanner, StreamError};
use crate::telemetry::clock;

/// So long after its first event a stream is committed even if it has said nothing yet.
const LONGEST_HOLD: Duration = Duration::from_secs(1);

/// So much is held at the most, in bytes.
const MOST_HELD: u64 = 1024 * 1024;

/// Until when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The first event must have come.
    pub(super) first_event: Option<Instant>,
    /// The request must be committed.
    pub(super) deadline: Instant,
    /// All buffered bytes together; without room for more, what is held goes downstream.
    pub(super) buffered: usize,
}

/// How a stream began.
#[derive(Debug)]
pub(super) enum Opened {
    /// It says something, or has been held long enough.
    Begun(Held),
    /// It failed before it said anything.
    Failed(StreamError, Held),
    /// It ended before it said anything; what was seen of that.
    Cut(Option<AnswerError>),
    /// No event within its time.
    Silent,
    /// The request's deadline passed.
    OutOfTime,
}

/// Frames that came and have not gone downstream yet.
#[derive(Debug, Default)]
pub(super) struct Held {
    frames: VecDeque<Frame<Bytes>>,
    bytes: u64,
    broken: bool,
    /// Of all buffered bytes, until the last frame has gone.
    share: Option<Share>,
}

impl Held {
    /// Counted in all buffered bytes.
    fn counted(share: Share) -> Self {
        Self { share: Some(share), ..Self::default() }
    }

    pub(super) fn push(&mut self, frame: Frame<Bytes>) {
        self.bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
        self.frames.push_back(frame);
    }

    /// Whether so many more bytes found room among the `most` of all buffered ones.
    fn grow(&mut self, bytes: usize, most: usize) -> bool {
        self.share.as_mut().is_none_or(|share| share.grow(bytes, most))
    }

    pub(super) fn pop(&mut self) -> Option<Frame<Bytes>> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.data_ref().map_or(0, Bytes::len) as u64;
        if self.frames.is_empty() {
            // A stream is silent for long.
            (self.frames, self.share) = (VecDeque::new(), None);
        }
        Some(frame)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// After these frames the backend broke off.
    pub(super) fn break_off(&mut self) {
        self.broken = true;
    }

    /// All frames have gone, and the backend broke off after them.
    pub(super) fn broke_off(&self) -> bool {
        self.broken && self.frames.is_empty()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All data in one piece.
    pub(super) fn joined(&self) -> Bytes {
        let mut data = self.frames.iter().filter_map(Frame::data_ref);
        match (data.next(), data.next()) {
            (None, _) => Bytes::new(),
            (Some(only), None) => only.clone(),
            (Some(first), Some(second)) => {
                let mut all = BytesMut::with_capacity(usize::try_from(self.bytes).unwrap_or_default());
                [first, second].into_iter().chain(data).for_each(|piece| all.extend_from_slice(piece));
                all.freeze()
            }
        }
    }
}

/// Reads until the stream says something.
pub(super) async fn open(answer: &mut Answer, api: Api, limits: Limits, share: Share) -> Opened {
    let mut held = Held::counted(share);
    let mut scanner = EventScanner::new(api);
    let mut first_event_at: Option<Instant> = None;
    let mut failed: Option<StreamError> = None;
    loop {
        let hold = first_event_at.map(|at| at + LONGEST_HOLD);
        let limit = hold.or(limits.first_event).map_or(limits.deadline, |limit| limit.min(limits.deadline));
        let frame = match timeout_at(limit.into(), answer.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(ended) => {
                return match failed {
                    Some(error) => Opened::Failed(error, held),
                    None => Opened::Cut(ended.and_then(Result::err)),
                };
            }
            Err(_) => {
                return match (failed, hold) {
                    (Some(error), _) => Opened::Failed(error, held),
                    (None, Some(hold)) if hold <= limits.deadline => Opened::Begun(held),
                    (None, _) if limit == limits.deadline => Opened::OutOfTime,
                    (None, _) => Opened::Silent,
                };
            }
        };
        let data = frame.data_ref().cloned().unwrap_or_default();
        let room = held.grow(data.len(), limits.buffered);
        held.push(frame);
        let mut rest = &data[..];
        while let Some(kind) = scanner.next(&mut rest) {
            match kind {
                EventKind::Comment => {}
                EventKind::Prelude => {
                    first_event_at.get_or_insert_with(clock::now);
                }
                EventKind::Content | EventKind::Done => return Opened::Begun(held),
                // The next event says which error it is.
                EventKind::Error(error) if error.class == ErrorClass::Unknown && failed.is_none() => {
                    first_event_at.get_or_insert_with(clock::now);
                    failed = Some(error);
                }
                EventKind::Error(error) => return Opened::Failed(error, held),
            }
        }
        if held.bytes() > MOST_HELD || !room {
            return match failed {
                Some(error) => Opened::Failed(error, held),
                None => Opened::Begun(held),
            };
        }
    }
}
