//! A connection with the time limits of HTTP/1.1: a head must arrive within `header_time` of its first byte, a
//! connection between two requests is closed after `idle`, and so is one whose caller takes nothing for `write_idle`.
//! A head that is too slow is told so, one that hyper cannot read is told so in the API's form, and who may still be
//! sending at the end is parted from gently (`parting`).
//!
//! hyper's own header timer starts when the connection goes idle and would close every kept-alive connection
//! of an ingress after `header_time`; so the clock is here, under hyper, and starts at a head's first byte.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::flow::Held;
use super::parting::{self, Parting};

/// Where a connection stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// Between requests, since then.
    Idle(Instant),
    /// A head has begun, then.
    Head(Instant),
    /// A request is being served: its time limits are the handler's.
    Busy,
}

/// Shared by the socket (which sees bytes) and the service (which sees requests).
#[derive(Clone, Debug)]
pub(crate) struct Pace(Rc<State>);

#[derive(Debug)]
struct State {
    phase: Cell<Phase>,
    /// Of what the caller sends, some may not have been read.
    unread: Cell<Unread>,
    /// The last write found no room.
    stalled: Cell<bool>,
    /// The connection has become idle, and hyper has not looked since.
    fresh: Cell<bool>,
}

/// Whether a caller may have sent what nobody read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Unread {
    Nothing,
    Maybe,
    /// Maybe, but hyper has waited once since the answer went.
    Waited,
}

impl Pace {
    pub(crate) fn new() -> Self {
        let phase = Cell::new(Phase::Idle(Instant::now()));
        let (unread, stalled, fresh) = (Cell::new(Unread::Nothing), Cell::new(false), Cell::new(false));
        Self(Rc::new(State { phase, unread, stalled, fresh }))
    }

    /// A whole head has arrived; a body follows or does not.
    pub(crate) fn busy(&self, body_follows: bool) {
        self.0.phase.set(Phase::Busy);
        self.0.unread.set(if body_follows { Unread::Maybe } else { Unread::Nothing });
    }

    /// The answer has gone; the next head may begin.
    pub(crate) fn idle(&self) {
        self.0.phase.set(Phase::Idle(Instant::now()));
        self.0.fresh.set(true);
    }

    /// Whether hyper must look once more before the connection waits: it has read before the answer had gone, when the
    /// limit of what comes then did not run yet.
    pub(crate) fn looks_again(&self) -> bool {
        self.0.fresh.replace(false)
    }

    /// The connection waits. Twice between two requests means that the last one's body has been read: where it has not,
    /// hyper closes the connection at once when it hears that nobody will read it. While the answer still leaves it has
    /// not come so far.
    pub(crate) fn waits(&self) {
        if matches!(self.0.phase.get(), Phase::Idle(_)) && !self.0.stalled.get() {
            self.0.unread.set(match self.0.unread.get() {
                Unread::Maybe => Unread::Waited,
                Unread::Waited | Unread::Nothing => Unread::Nothing,
            });
        }
    }
}

/// An answer's body; the connection is idle again when it goes.
pub(crate) struct Answering(pub(crate) Pace);

impl Held for Answering {
    fn is_full(&self) -> bool {
        self.0.0.stalled.get()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.idle();
    }
}

/// The socket, paced.
#[derive(Debug)]
pub(crate) struct Paced<S> {
    socket: S,
    pace: Pace,
    header_time: Duration,
    idle: Duration,
    /// One timer for both limits, moved only when it fires or must fire earlier.
    timer: Option<(Instant, Pin<Box<Sleep>>)>,
    write_idle: Duration,
    /// Made when first needed.
    taking: Option<Pin<Box<Sleep>>>,
    /// Nothing more is said from our side.
    parting: Option<Parting>,
}

impl<S> Paced<S> {
    pub(crate) fn new(
        socket: S,
        pace: Pace,
        header_time: Duration,
        idle: Duration,
        write_idle: Duration,
    ) -> Self {
        Self { socket, pace, header_time, idle, timer: None, write_idle, taking: None, parting: None }
    }

    /// What it paced, without limits.
    pub(crate) fn into_inner(self) -> S {
        self.socket
    }

    /// What a write led to; an error once the caller has taken nothing for `write_idle`.
    fn taken<T>(&mut self, wrote: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let stalled = self.pace.0.stalled.replace(wrote.is_pending());
        if wrote.is_ready() {
            return wrote;
        }
        let deadline = Instant::now() + self.write_idle;
        let taking = self.taking.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if !stalled {
            taking.as_mut().reset(deadline);
        }
        taking.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Ready once the limit of the present phase has passed.
    fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let deadline = match self.pace.0.phase.get() {
                Phase::Busy => return Poll::Pending,
                Phase::Idle(since) => since + self.idle,
                Phase::Head(since) => since + self.header_time,
            };
            match &mut self.timer {
                Some((armed, timer)) if *armed <= deadline => {
                    if timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    if *armed == deadline {
                        return Poll::Ready(());
                    }
                    *armed = deadline;
                    timer.as_mut().reset(deadline);
                }
                Some((armed, timer)) => {
                    *armed = deadline;
                    timer.as_mut().reset(deadline);
                }
                none => *none = Some((deadline, Box::pin(sleep_until(deadline)))),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Paced<S> {
    /// A head that did not come in time is told so, unless an earlier answer is still on its way.
    fn tell_slow_head(&mut self, cx: &mut Context<'_>) {
        if matches!(self.pace.0.phase.get(), Phase::Head(_)) && !self.pace.0.stalled.get() {
            // In one try: who has not taken a few hundred bytes is not listening.
            let told = Pin::new(&mut self.socket).poll_write(cx, parting::SLOW_HEAD);
            self.parting = matches!(told, Poll::Ready(Ok(_))).then(Parting::default);
        }
    }

    /// Where these bytes are hyper's own answer, says it in our words instead.
    fn poll_our_words(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Option<Poll<io::Result<usize>>> {
        if matches!(self.pace.0.phase.get(), Phase::Busy) {
            return None;
        }
        let words = parting::in_our_words(bytes)?;
        self.pace.0.unread.set(Unread::Maybe);
        let wrote = Pin::new(&mut self.socket).poll_write(cx, words);
        Some(wrote.map(|wrote| match wrote {
            // A few hundred bytes go whole or the pipe is all but full, and then nobody listens.
            Ok(count) if count < words.len() => Err(io::ErrorKind::WriteZero.into()),
            wrote => wrote.map(|_| bytes.len()),
        }))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(parting) = &mut this.parting {
            return parting.poll(&mut this.socket, cx).map(|()| Err(io::ErrorKind::TimedOut.into()));
        }
        let filled = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.socket).poll_read(cx, buf) {
            if buf.filled().len() > filled && matches!(self.pace.0.phase.get(), Phase::Idle(_)) {
                self.pace.0.phase.set(Phase::Head(Instant::now()));
            }
            return Poll::Ready(read);
        }
        ready!(self.poll_limit(cx));
        self.tell_slow_head(cx);
        match self.parting {
            Some(_) => self.poll_read(cx, buf),
            None => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let ours = self.poll_our_words(buf, cx);
        let wrote = ours.unwrap_or_else(|| Pin::new(&mut self.socket).poll_write(cx, buf));
        self.taken(wrote, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Of TLS it is the flush that waits: a write only fills its buffer.
        match Pin::new(&mut self.socket).poll_flush(cx) {
            Poll::Pending => self.taken(Poll::Pending, cx),
            flushed @ Poll::Ready(_) => {
                self.pace.0.stalled.set(false);
                flushed
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.parting.is_none() && this.pace.0.unread.get() == Unread::Nothing {
            return match Pin::new(&mut this.socket).poll_shutdown(cx) {
                Poll::Pending => this.taken(Poll::Pending, cx),
                closed @ Poll::Ready(_) => closed,
            };
        }
        this.parting.get_or_insert_default().poll(&mut this.socket, cx).map(Ok)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let ours = match bufs {
            [only] => self.poll_our_words(only, cx),
            _ => None,
        };
        let wrote = ours.unwrap_or_else(|| Pin::new(&mut self.socket).poll_write_vectored(cx, bufs));
        self.taken(wrote, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;

    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, duplex};
    use tokio::time::Instant;

    use super::{Pace, Paced};

    const HEADER_TIME: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(3600);
    const WRITE_IDLE: Duration = Duration::from_secs(600);

    #[tokio::test(start_paused = true)]
    async fn a_slow_head_is_cut_ten_seconds_after_its_first_byte_however_long_the_idle_time_before() {
        let (mut far, near) = duplex(1024);
        let mut paced = Paced::new(near, Pace::new(), HEADER_TIME, IDLE, WRITE_IDLE);
        let start = Instant::now();
        let reading = async {
            let mut buf = [0; 8];
            loop {
                if let Err(error) = paced.read(&mut buf).await {
                    return error.kind();
                }
            }
        };
        let writing = async {
            tokio::time::sleep(Duration::from_secs(100)).await;
            far.write_all(b"G").await.unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
            far.write_all(b"E").await.unwrap();
            let mut told = Vec::new();
            far.read_to_end(&mut told).await.unwrap();
            assert_eq!(start.elapsed().as_secs(), 110);
            assert_eq!(told, crate::net::parting::SLOW_HEAD);
            drop(far);
        };
        let (cut, ()) = tokio::join!(reading, writing);
        assert_eq!(cut, io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), 110, "the caller has closed too");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_lives_its_own_longer_time() {
        let (_far, near) = duplex(64);
        let pace = Pace::new();
        let mut paced = Paced::new(near, pace.clone(), HEADER_TIME, IDLE, WRITE_IDLE);
        pace.busy(false);
        pace.idle();
        let start = Instant::now();
        assert!(paced.read(&mut [0; 8]).await.is_err());
        assert_eq!(start.elapsed(), IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_being_served_has_no_limit_here() {
        let (mut far, near) = duplex(64);
        let pace = Pace::new();
        let mut paced = Paced::new(near, pace.clone(), HEADER_TIME, IDLE, WRITE_IDLE);
        pace.busy(false);
        let writing = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(7200)).await;
            far.write_all(b"x").await.unwrap();
            far
        });
        assert_eq!(paced.read(&mut [0; 8]).await.unwrap(), 1);
        drop(writing);
    }

    /// As TLS is to who takes nothing: writes go into a buffer, which never leaves.
    struct Buffered;

    impl AsyncRead for Buffered {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Buffered {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_let_go_also_where_only_the_flush_or_the_end_waits_for_it() {
        for ends in [false, true] {
            let mut paced = Paced::new(Buffered, Pace::new(), HEADER_TIME, IDLE, WRITE_IDLE);
            let start = Instant::now();
            paced.write_all(b"an answer").await.unwrap();
            let cut = if ends { paced.shutdown().await } else { paced.flush().await };
            assert_eq!(cut.unwrap_err().kind(), io::ErrorKind::TimedOut, "{ends}");
            assert_eq!(start.elapsed(), WRITE_IDLE, "{ends}");
        }
        // And where the rest of a body is read before we part.
        let mut parting = crate::net::parting::Parting::default();
        let start = Instant::now();
        std::future::poll_fn(|cx| parting.poll(&mut Buffered, cx)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_for_ten_minutes_is_let_go_and_who_takes_a_little_is_not() {
        let (mut far, near) = duplex(64);
        let mut paced = Paced::new(near, Pace::new(), HEADER_TIME, IDLE, WRITE_IDLE);
        let start = Instant::now();
        let writing = async {
            loop {
                if let Err(error) = paced.write(&[0; 64]).await {
                    return error.kind();
                }
            }
        };
        let reading = async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(500)).await;
                far.read_exact(&mut [0; 64]).await.unwrap();
            }
        };
        let (cut, ()) = tokio::join!(writing, reading);
        assert_eq!(cut, io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), 5 * 500 + 600);
    }
}
