//! A WebSocket between a caller and a backend, once both have agreed on it: bytes both ways, as they come.
//!
//! One piece at a time and direction: while a side does not take what it is sent, nothing more is read for it, so that
//! back-pressure goes through. Frames are looked at (`frames`), and changed only where the caller's messages need it
//! (`messages`): pings, close codes and extensions are the two sides' own affair. When we stop, each side gets a close frame where one may stand.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::frames::{Frames, GOING_AWAY, Seen, TOO_BIG, close};
use super::messages::{Edit, Editor};
use super::stop::{Ear, Stop};

/// So much is on its way in each direction: a piece of audio is some kilobytes.
const PIECE: usize = 8 * 1024;

/// So often one direction moves before the thread's other connections have their turn.
const TURNS: usize = 32;

/// In a drain, a socket on which nothing has moved for so long is between two exchanges: it is closed now.
const QUIET: Duration = Duration::from_secs(1);

/// A side that was sent our close frame gets so long to answer it.
const FAREWELL: Duration = Duration::from_millis(250);

/// What bytes can be read from and written to.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// The caller's side of an upgraded connection.
pub struct Upgraded {
    /// The connection.
    pub stream: Box<dyn Stream>,
    /// What the caller sent before it knew of the upgrade.
    pub early: Bytes,
    /// What the connection is told.
    pub ear: Ear,
    /// A side that takes nothing for so long is let go.
    pub write_idle: Duration,
}

impl std::fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upgraded").finish_non_exhaustive()
    }
}

/// How a WebSocket ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TunnelEnd {
    /// By a close frame of one of the two.
    Closed,
    /// The caller left without one.
    CallerLeft,
    /// The backend left without one.
    BackendLeft,
    /// By us: we stop, or a side took nothing for too long.
    Stopped,
}

/// Carries bytes both ways until one side ends, or we stop. `see` is shown the frames of the backend, `edit` changes the
/// caller's messages; `cut` hears when a drain's time is over.
pub(crate) async fn carry(
    caller: Upgraded,
    (backend, early): (impl Stream, Bytes),
    cut: Ear,
    edit: Option<Box<dyn Edit>>,
    see: impl FnMut(Seen<'_>),
) -> TunnelEnd {
    let Upgraded { stream, early: from_caller, ear, write_idle } = caller;
    let mut tunnel = Tunnel {
        caller: stream,
        backend,
        up: Way::new(edit.map(Editor::new)),
        down: Way::new(None),
        write_idle,
        moved: Instant::now(),
        timer: Box::pin(sleep_until(Instant::now())),
        closing: None,
        see,
    };
    tunnel.up.arrived(&from_caller, |_| {});
    tunnel.down.arrived(&early, &mut tunnel.see);
    let end = poll_fn(|cx| tunnel.poll(cx, ear.listen(cx), cut.listen(cx))).await;
    // TLS says that it ends. Who does not take it need not hear it.
    let _heard = timeout(FAREWELL, tunnel.caller.shutdown()).await;
    end
}

struct Tunnel<B, F> {
    caller: Box<dyn Stream>,
    backend: B,
    up: Way,
    down: Way,
    write_idle: Duration,
    /// When bytes last moved.
    moved: Instant,
    timer: Pin<Box<Sleep>>,
    /// Since we stop: until when answers to our close frames are waited for.
    closing: Option<Instant>,
    see: F,
}

/// One direction.
struct Way {
    piece: Vec<u8>,
    /// So much of the piece is written.
    written: usize,
    /// What was written may still lie in a buffer of TLS.
    unflushed: bool,
    /// Nothing more comes.
    ended: bool,
    frames: Frames,
    editor: Option<Editor>,
}

/// Where one direction stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Moved {
    /// It waits for bytes.
    Reading,
    /// It waits until they are taken.
    Writing,
    /// All is written and nothing more comes.
    Ended,
    /// The side that is written to is gone.
    Broken,
    /// A message is too long to be held.
    Full,
}

impl Way {
    fn new(editor: Option<Editor>) -> Self {
        let frames = Frames::default();
        Self { piece: Vec::new(), written: 0, unflushed: false, ended: false, frames, editor }
    }

    /// These bytes came, and nothing is left of what came before: what of them goes on is the next piece.
    fn arrived(&mut self, bytes: &[u8], mut see: impl FnMut(Seen<'_>)) {
        self.written = 0;
        let Self { piece, frames, editor, .. } = self;
        piece.clear();
        // The room of a long message is not kept for all the short ones after it.
        piece.shrink_to(PIECE);
        if let Some(editor) = editor {
            editor.written();
        }
        if editor.is_none() {
            piece.extend_from_slice(bytes);
        }
        frames.pass(bytes, |seen| {
            if let Some(editor) = editor {
                editor.take(seen, piece);
            }
            see(seen);
        });
    }

    fn is_empty(&self) -> bool {
        self.written == self.piece.len()
    }

    /// Moves what can be moved.
    fn advance(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl Stream + ?Sized),
        to: &mut (impl Stream + ?Sized),
        moved: &mut Instant,
        mut see: impl FnMut(Seen<'_>),
    ) -> Moved {
        for _ in 0..TURNS {
            while !self.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, &self.piece[self.written..]) {
                    Poll::Ready(Ok(0) | Err(_)) => return Moved::Broken,
                    Poll::Ready(Ok(count)) => {
                        self.written += count;
                        self.unflushed = true;
                        *moved = Instant::now();
                    }
                    Poll::Pending => return Moved::Writing,
                }
            }
            if self.ended {
                return self.flush(cx, to, Moved::Ended);
            }
            if self.editor.as_ref().is_some_and(Editor::is_full) {
                return Moved::Full;
            }
            match self.fill(cx, from, &mut see) {
                Poll::Ready(Ok(0) | Err(_)) => self.ended = true,
                Poll::Ready(Ok(_)) => *moved = Instant::now(),
                Poll::Pending => return self.flush(cx, to, Moved::Reading),
            }
        }
        cx.waker().wake_by_ref();
        // Not all of it is written: its end may be in the last piece.
        Moved::Writing
    }

    fn flush(&mut self, cx: &mut Context<'_>, to: &mut (impl Stream + ?Sized), then: Moved) -> Moved {
        if !self.unflushed {
            return then;
        }
        match Pin::new(to).poll_flush(cx) {
            Poll::Ready(Ok(())) => {
                self.unflushed = false;
                then
            }
            Poll::Ready(Err(_)) => Moved::Broken,
            Poll::Pending => Moved::Writing,
        }
    }

    fn fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl Stream + ?Sized),
        see: impl FnMut(Seen<'_>),
    ) -> Poll<io::Result<usize>> {
        let mut bytes = [0; PIECE];
        let mut bytes = ReadBuf::new(&mut bytes);
        let read = Pin::new(from).poll_read(cx, &mut bytes);
        self.arrived(bytes.filled(), see);
        read.map_ok(|()| bytes.filled().len())
    }

    /// Our own close frame, where one may stand, is the last that goes this way.
    fn say_goodbye(&mut self, code: u16, masked: bool) {
        // Of an editor come whole messages: only a control frame may be half passed.
        let within = match self.editor {
            Some(_) => self.frames.is_inside_control(),
            None => !self.frames.is_between_frames(),
        };
        if !within && !self.frames.is_closed() {
            self.piece.extend(close(code, masked));
        }
        self.ended = true;
    }
}

impl<B: Stream, F: FnMut(Seen<'_>)> Tunnel<B, F> {
    fn poll(&mut self, cx: &mut Context<'_>, told: Stop, cut: Stop) -> Poll<TunnelEnd> {
        if told == Stop::Abort {
            return Poll::Ready(TunnelEnd::Stopped);
        }
        let up = self.up.advance(cx, &mut self.caller, &mut self.backend, &mut self.moved, |_| {});
        let down = self.down.advance(cx, &mut self.backend, &mut self.caller, &mut self.moved, &mut self.see);
        let both_closed = self.up.frames.is_closed() && self.down.frames.is_closed();
        if both_closed && (up, down) == (Moved::Reading, Moved::Reading) {
            // All is said. Who waits for the other to close the connection need not wait for us.
            return Poll::Ready(TunnelEnd::Closed);
        }
        if self.closing.is_none()
            && let Some(end) = self.ended(up, down)
        {
            return Poll::Ready(end);
        }
        let quiet = self.up.is_empty()
            && self.down.is_empty()
            && self.up.frames.is_between_messages()
            && self.down.frames.is_between_messages()
            && self.moved.elapsed() >= QUIET;
        let full = up == Moved::Full;
        if self.closing.is_none() && (cut != Stop::Run || full || (told == Stop::Drain && quiet)) {
            let code = if full { TOO_BIG } else { GOING_AWAY };
            // Nothing that the backend sent was too big.
            self.up.say_goodbye(GOING_AWAY, true);
            self.down.say_goodbye(code, false);
            self.closing = Some(Instant::now() + FAREWELL);
            return self.poll(cx, told, cut);
        }
        if self.closing.is_some() && self.is_farewell_over(cx, up, down) {
            return Poll::Ready(TunnelEnd::Stopped);
        }
        self.poll_timer(cx, told, up == Moved::Writing || down == Moved::Writing)
    }

    /// Whether one of the two sides has ended it. A caller that leaves cancels the work at once.
    fn ended(&self, up: Moved, down: Moved) -> Option<TunnelEnd> {
        let end = match (up, down) {
            (_, Moved::Ended) => TunnelEnd::BackendLeft,
            (_, Moved::Broken) | (Moved::Ended, _) => TunnelEnd::CallerLeft,
            (Moved::Broken, _) => TunnelEnd::BackendLeft,
            (Moved::Reading | Moved::Writing | Moved::Full, _) => return None,
        };
        let closed = self.up.frames.is_closed() || self.down.frames.is_closed();
        Some(if closed { TunnelEnd::Closed } else { end })
    }

    /// Both have our close frame, and the caller has answered it, or has had the time.
    fn is_farewell_over(&mut self, cx: &mut Context<'_>, up: Moved, down: Moved) -> bool {
        let over = |moved| matches!(moved, Moved::Ended | Moved::Broken);
        if !(over(up) && over(down)) {
            return self.is_time_over();
        }
        // Read to its end, so that no unread byte makes the kernel reset the connection under our close frame.
        let mut scratch = [0; PIECE];
        for _ in 0..TURNS {
            let mut read = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.caller).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {}
                Poll::Ready(_) => return true,
                Poll::Pending => return self.is_time_over(),
            }
        }
        // There may be more; only our own waking brings us back to it.
        cx.waker().wake_by_ref();
        self.is_time_over()
    }

    fn is_time_over(&self) -> bool {
        self.closing.is_some_and(|until| until <= Instant::now())
    }

    /// Wakes us for the next thing that only time brings; ready when a side took nothing for too long.
    fn poll_timer(&mut self, cx: &mut Context<'_>, told: Stop, stalled: bool) -> Poll<TunnelEnd> {
        let now = Instant::now();
        let next = match (self.closing, told) {
            (Some(until), _) => until,
            (None, Stop::Drain) if self.moved + QUIET > now => self.moved + QUIET,
            (None, Stop::Drain) => now + QUIET,
            (None, _) if stalled && self.moved + self.write_idle <= now => {
                return Poll::Ready(TunnelEnd::Stopped);
            }
            (None, _) if stalled => self.moved + self.write_idle,
            (None, _) => return Poll::Pending,
        };
        self.timer.as_mut().reset(next);
        if self.timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex};

    use super::super::stop::LocalStop;
    use super::*;

    #[tokio::test]
    async fn a_close_frame_behind_as_much_as_is_moved_at_one_turn_still_arrives() {
        let size = PIECE * TURNS;
        let (mut ours, caller) = duplex(2 * size);
        let (mut theirs, backend) = duplex(2 * size);
        ours.write_all(&close(1000, true)).await.unwrap();
        let payload = size - 10 - 4;
        let mut sent = vec![0x82, 127];
        sent.extend((payload as u64).to_be_bytes());
        sent.resize(size - 4, 7);
        sent.extend(close(1000, false));
        theirs.write_all(&sent).await.unwrap();
        let stop = LocalStop::default();
        let write_idle = Duration::from_secs(1);
        let caller = Upgraded { stream: Box::new(caller), early: Bytes::new(), ear: stop.ear(), write_idle };
        let end = carry(caller, (backend, Bytes::new()), stop.ear(), None, |_| {}).await;
        assert_eq!(end, TunnelEnd::Closed);
        let mut came = Vec::new();
        ours.read_to_end(&mut came).await.unwrap();
        assert!(came == sent, "{} of {size} bytes came", came.len());
    }
}
