//! One request and its answer on one HTTP/1.1 connection, within the task of whoever asks.
//!
//! hyper's client would be the same in more: a dispatcher between two channels, and buffers of its own for each
//! connection. Here a connection is its socket, and everything is read through one buffer per thread.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice, Write as _};
use std::mem::take;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::answer::{Framing, Head, MOST_HEAD, MOST_LINE_END, Malformed, may_end_head, read_head};
use super::connect::Socket;
use super::idle::{Alive, Idle};
use super::request_body::RequestBody;
use super::server::BodyError;

/// Read at once, in bytes.
const MOST_READ: usize = 64 * 1024;

/// Pieces of a request up to here leave together with what stands before them: one write, at the price of a copy.
const COPIED: usize = 16 * 1024;

/// One connection of HTTP/1.1 that no request uses now.
#[derive(Debug)]
pub(super) struct Line {
    socket: Socket,
    born: Instant,
}

impl Line {
    pub(super) fn over(socket: Socket) -> Self {
        Self { socket, born: Instant::now() }
    }
}

impl Alive for Line {
    fn poll_alive(&mut self, cx: &mut Context<'_>) -> bool {
        // Whatever can be read between two requests, its end or bytes that nobody asked for, ends it.
        poll_read(&mut self.socket, cx, |_| ()).is_pending()
    }

    fn born(&self) -> Instant {
        self.born
    }
}

thread_local! {
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static WRITTEN: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Reads what is there; nothing at the end of the connection.
fn poll_read<T>(
    socket: &mut Socket,
    cx: &mut Context<'_>,
    look: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<T>> {
    READ.with_borrow_mut(|space| {
        // It grows once.
        space.resize(MOST_READ, 0);
        let mut read = ReadBuf::new(space);
        ready!(Pin::new(socket).poll_read(cx, &mut read))?;
        Poll::Ready(Ok(look(read.filled())))
    })
}

/// Why a request was not sent whole.
#[derive(Debug)]
enum Unsent {
    /// Its own body failed.
    Body(BodyError),
    /// The connection did.
    Connection(io::Error),
}

/// The request's body does not have the length that was told.
#[derive(Debug, Error)]
#[error("the request body has another length than was told")]
struct OtherLength;

/// A request on its way out.
pub(super) struct Sending {
    /// Copied together, and how much of it has left.
    copied: Vec<u8>,
    left: usize,
    /// Behind it, as it is.
    piece: Bytes,
    /// `piece` is a chunk, which ends with a line.
    ends_chunk: bool,
    /// The rest; kept until all has left, so that it is known to move.
    body: Option<RequestBody>,
    /// Nothing more comes of it.
    over: bool,
    /// The last write found no room.
    held_up: bool,
    /// So much of the body is still expected; chunked where it is not known.
    expected: Option<u64>,
}

impl Sending {
    /// `fields` are all but `Host` and what tells the body's length.
    pub(super) fn new(
        method: &Method,
        path: &str,
        host: &HeaderValue,
        fields: &HeaderMap,
        body: RequestBody,
    ) -> Self {
        let mut copied = WRITTEN.take();
        copied.clear();
        for part in
            [method.as_str().as_bytes(), b" ", path.as_bytes(), b" HTTP/1.1\r\nhost: ", host.as_bytes()]
        {
            copied.extend_from_slice(part);
        }
        copied.extend_from_slice(b"\r\n");
        for (name, value) in fields {
            if ![header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name) {
                for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                    copied.extend_from_slice(part);
                }
            }
        }
        let expected = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
        match expected {
            // Azure's front answers 411 to a POST that tells no length, be it none.
            Some(0) if !matches!(*method, Method::POST | Method::PUT | Method::PATCH) => {}
            Some(length) => drop(write!(copied, "content-length: {length}\r\n")),
            None => copied.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        }
        copied.extend_from_slice(b"\r\n");
        let over = expected == Some(0);
        let body = Some(body).filter(|_| !over);
        Self { copied, left: 0, piece: Bytes::new(), ends_chunk: false, body, over, held_up: false, expected }
    }

    /// Ready once all of it has left.
    fn poll(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        loop {
            let mut waits = false;
            // Asked for more only once there is room: else it would seem to move, or to wait for its caller.
            while !self.over && !self.held_up && self.piece.is_empty() && self.copied.len() < COPIED {
                match self.body.as_mut().map(|body| Pin::new(body).poll_frame(cx)) {
                    Some(Poll::Pending) => {
                        waits = true;
                        break;
                    }
                    Some(Poll::Ready(Some(frame))) => {
                        let data = frame.map_err(Unsent::Body)?.into_data().unwrap_or_default();
                        self.add(data)?;
                        // All that was told has come; its end may be told later.
                        self.over = self.expected == Some(0);
                    }
                    Some(Poll::Ready(None)) | None => {
                        self.over = true;
                        match self.expected {
                            None => self.copied.extend_from_slice(b"0\r\n\r\n"),
                            Some(0) => {}
                            Some(_) => return Poll::Ready(Err(Unsent::Body(OtherLength.into()))),
                        }
                    }
                }
            }
            if self.left < self.copied.len() || !self.piece.is_empty() {
                let wrote = self.poll_write(socket, cx).map_err(Unsent::Connection)?;
                self.held_up = wrote.is_pending();
                match &self.body {
                    Some(body) if self.held_up => body.is_held_up(),
                    Some(body) => body.has_left(),
                    None => {}
                }
                ready!(wrote);
                continue;
            }
            // TLS keeps what it could not send.
            let flushed = Pin::new(&mut *socket).poll_flush(cx).map_err(Unsent::Connection)?;
            if waits || flushed.is_pending() {
                return Poll::Pending;
            }
            self.body = None;
            return Poll::Ready(Ok(()));
        }
    }

    fn add(&mut self, data: Bytes) -> Result<(), Unsent> {
        if data.is_empty() {
            return Ok(());
        }
        match &mut self.expected {
            Some(expected) => {
                let rest = expected.checked_sub(data.len() as u64);
                *expected = rest.ok_or_else(|| Unsent::Body(OtherLength.into()))?;
            }
            None => drop(write!(self.copied, "{:x}\r\n", data.len())),
        }
        if data.len() > COPIED {
            self.piece = data;
            self.ends_chunk = self.expected.is_none();
            return Ok(());
        }
        self.copied.extend_from_slice(&data);
        if self.expected.is_none() {
            self.copied.extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    fn poll_write(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let copied = &self.copied[self.left..];
        let socket = Pin::new(socket);
        let wrote = if self.piece.is_empty() {
            ready!(socket.poll_write(cx, copied))?
        } else {
            ready!(socket.poll_write_vectored(cx, &[IoSlice::new(copied), IoSlice::new(&self.piece)]))?
        };
        if wrote == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let of_copied = wrote.min(copied.len());
        self.left += of_copied;
        drop(self.piece.split_to(wrote - of_copied));
        if self.left == self.copied.len() {
            self.copied.clear();
            self.left = 0;
            if self.piece.is_empty() && take(&mut self.ends_chunk) {
                self.copied.extend_from_slice(b"\r\n");
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if self.copied.capacity() <= 2 * COPIED {
            // Not where the thread is ending.
            let _kept = WRITTEN.try_with(|written| written.set(take(&mut self.copied)));
        }
    }
}

impl fmt::Debug for Sending {
    /// Without what is sent: credentials and prompts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").field("expected", &self.expected).finish_non_exhaustive()
    }
}

/// Why there is no head.
#[derive(Debug)]
pub(super) enum NoHead {
    /// The connection ended; `begun` once a byte of an answer had come.
    Closed { begun: bool, source: Option<io::Error> },
    /// What came is not HTTP.
    Malformed(Malformed),
    /// The request's own body failed.
    RequestBody(BodyError),
}

/// Sends a request and waits for the head of its answer. The connection goes `home` once it is free again; dropping
/// the future or the answer closes it. No `async fn`: it would keep what it is given twice.
pub(super) fn exchange(
    line: Line,
    sending: Sending,
    bodiless: bool,
    mut fields: HeaderMap,
    home: Rc<Idle<Line>>,
) -> impl Future<Output = Result<Response<Coming>, NoHead>> + Unpin {
    let mut sending = Some(sending);
    let mut line = Some(line);
    let mut unsent = None;
    // What has come of a head that is not whole, and how much of it was said before the answer itself.
    let (mut begun, mut passed) = (Vec::new(), 0);
    poll_fn(move |cx| {
        let Some(Line { socket, .. }) = &mut line else { return Poll::Pending };
        match sending.as_mut().map(|sending| sending.poll(socket, cx)) {
            Some(Poll::Ready(Err(Unsent::Body(error)))) => {
                return Poll::Ready(Err(NoHead::RequestBody(error)));
            }
            // What the backend had to say before it closed may still be here.
            Some(Poll::Ready(Err(Unsent::Connection(error)))) => (sending, unsent) = (None, Some(error)),
            Some(Poll::Ready(Ok(()))) => sending = None,
            Some(Poll::Pending) | None => {}
        }
        loop {
            let read = ready!(poll_read(socket, cx, |read| {
                if begun.is_empty() {
                    return Some(Bytes::copy_from_slice(read));
                }
                let new = begun.len().saturating_sub(MOST_LINE_END);
                begun.extend_from_slice(read);
                // Read again from its beginning only where it may be whole.
                let worth = read.is_empty() || begun.len() >= MOST_HEAD || may_end_head(&begun[new..]);
                worth.then(|| if read.is_empty() { Bytes::new() } else { take(&mut begun).into() })
            }));
            let bytes = match read {
                Ok(None) => continue,
                Ok(Some(bytes)) if bytes.is_empty() => {
                    return Poll::Ready(Err(NoHead::Closed {
                        begun: !begun.is_empty(),
                        source: unsent.take(),
                    }));
                }
                Err(error) => {
                    let source = Some(unsent.take().unwrap_or(error));
                    return Poll::Ready(Err(NoHead::Closed { begun: !begun.is_empty(), source }));
                }
                Ok(Some(bytes)) => bytes,
            };
            match read_head(&bytes, &mut passed, bodiless, &mut fields) {
                Ok(Some(head)) => {
                    let Some(line) = line.take() else { return Poll::Pending };
                    let sending = sending.take().map(Box::new);
                    let keeps = head.keeps && unsent.is_none();
                    let coming = Coming {
                        line: Some(line),
                        home: Rc::clone(&home),
                        ahead: bytes,
                        framing: Framing::UntilClose,
                        keeps,
                        cut: false,
                        sending,
                    };
                    return Poll::Ready(Ok(coming.begin(head, take(&mut fields))));
                }
                Ok(None) if bytes.len() >= MOST_HEAD => {
                    return Poll::Ready(Err(NoHead::Malformed(Malformed::LongHead)));
                }
                Ok(None) => begun = bytes.into(),
                Err(mistake) => return Poll::Ready(Err(NoHead::Malformed(mistake))),
            }
        }
    })
}

/// Why an answer's body ended early.
#[derive(Debug, Error)]
pub enum Cut {
    /// The connection did.
    #[error("the connection ended in the middle of an answer")]
    Closed(#[source] Option<io::Error>),
    /// What came is not HTTP.
    #[error("malformed answer")]
    Malformed(#[from] Malformed),
}

/// The body of an answer. Where it began before all of the request had left, the rest of that leaves while this is
/// read; nobody else watches it then: what bounds the answer bounds it too, and with the answer's end it is over.
pub(super) struct Coming {
    /// `None` once nothing more is read from it.
    line: Option<Line>,
    home: Rc<Idle<Line>>,
    /// Came together with the head.
    ahead: Bytes,
    framing: Framing,
    /// The connection may serve another request.
    keeps: bool,
    /// It broke off.
    cut: bool,
    /// An answer may come before all has been asked.
    sending: Option<Box<Sending>>,
}

impl fmt::Debug for Coming {
    /// Without what has come.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coming")
            .field("framing", &self.framing)
            .field("keeps", &self.keeps)
            .finish_non_exhaustive()
    }
}

impl Coming {
    fn begin(mut self, head: Head, fields: HeaderMap) -> Response<Self> {
        self.ahead.advance(head.length);
        self.framing = head.framing;
        self.keeps &= head.keeps;
        let agreed = head.status == StatusCode::SWITCHING_PROTOCOLS;
        if let Framing::Length(length) = self.framing
            && self.ahead.len() as u64 > length
            && !agreed
        {
            // Nobody has asked for what comes behind it.
            self.keeps = false;
            self.ahead.truncate(usize::try_from(length).unwrap_or_default());
        }
        if !agreed {
            self.let_go_when_whole();
        }
        let mut response = Response::new(self);
        *response.status_mut() = head.status;
        *response.headers_mut() = fields;
        if let Some(reason) = head.reason {
            response.extensions_mut().insert(reason);
        }
        response
    }

    /// The connection, and what has come on it behind the head.
    pub(super) fn into_socket(self) -> Option<(Socket, Bytes)> {
        self.line.map(|line| (line.socket, self.ahead))
    }

    /// Whether all of the body has come.
    fn is_here(&self) -> bool {
        match &self.framing {
            Framing::Length(left) => self.ahead.len() as u64 == *left,
            Framing::Chunked(chunks) => chunks.is_over(),
            Framing::UntilClose => false,
        }
    }

    fn let_go_when_whole(&mut self) {
        if self.is_here() {
            let asked = self.sending.take().is_none();
            if let Some(line) = self.line.take()
                && self.keeps
                && asked
            {
                self.home.put(line);
            }
        }
    }

    /// Nothing more comes.
    fn end(&mut self) {
        self.line = None;
        self.framing = Framing::Length(0);
    }

    /// The next piece; nothing at the end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Cut>> {
        let Self { line, ahead, framing, keeps, .. } = self;
        loop {
            let early = take(ahead);
            if let Framing::Chunked(chunks) = framing {
                if let Some(mistake) = chunks.mistake() {
                    return Poll::Ready(Err(mistake.into()));
                }
                if chunks.is_over() {
                    return Poll::Ready(Ok(Bytes::new()));
                }
                let mut data = Vec::new();
                let mut read = |bytes: &[u8]| {
                    let rest = bytes.len() - chunks.read(bytes, &mut data);
                    *keeps &= rest == 0;
                    !bytes.is_empty()
                };
                let open = match line {
                    Some(line) if early.is_empty() => ready!(poll_read(&mut line.socket, cx, read))
                        .map_err(|error| Cut::Closed(Some(error)))?,
                    _ => read(&early),
                };
                if !open {
                    return Poll::Ready(Err(Cut::Closed(None)));
                }
                if !data.is_empty() {
                    return Poll::Ready(Ok(data.into()));
                }
                continue;
            }
            let most = if let Framing::Length(left) = framing { *left } else { u64::MAX };
            if most == 0 {
                return Poll::Ready(Ok(Bytes::new()));
            }
            let piece = match line {
                Some(line) if early.is_empty() => ready!(poll_read(&mut line.socket, cx, |bytes| {
                    let most = usize::try_from(most).unwrap_or(usize::MAX);
                    *keeps &= bytes.len() <= most;
                    Bytes::copy_from_slice(&bytes[..bytes.len().min(most)])
                }))
                .map_err(|error| Cut::Closed(Some(error)))?,
                _ => early,
            };
            if let Framing::Length(left) = framing {
                *left -= piece.len() as u64;
                if piece.is_empty() {
                    return Poll::Ready(Err(Cut::Closed(None)));
                }
            }
            return Poll::Ready(Ok(piece));
        }
    }
}

impl Body for Coming {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = &mut *self;
        if let (Some(sending), Some(line)) = (&mut this.sending, &mut this.line)
            && let Poll::Ready(sent) = sending.poll(&mut line.socket, cx)
        {
            this.keeps &= sent.is_ok();
            this.sending = None;
            // The backend waits for the rest of what will never be whole.
            if matches!(sent, Err(Unsent::Body(_))) {
                (this.line, this.cut) = (None, true);
                return Poll::Ready(Some(Err(Cut::Closed(None))));
            }
        }
        if this.cut {
            return Poll::Ready(None);
        }
        match ready!(this.poll_piece(cx)) {
            Ok(piece) if piece.is_empty() => {
                let trailers = if let Framing::Chunked(chunks) = &mut this.framing {
                    chunks.take_trailers()
                } else {
                    None
                };
                this.let_go_when_whole();
                this.end();
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Ok(piece) => {
                this.let_go_when_whole();
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Err(cut) => {
                // How much was told to come stays told.
                (this.line, this.cut) = (None, true);
                Poll::Ready(Some(Err(cut)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.framing {
            Framing::Length(left) => *left == 0,
            Framing::Chunked(chunks) => chunks.is_over() && !chunks.has_trailers(),
            Framing::UntilClose => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        if let Framing::Length(left) = self.framing {
            SizeHint::with_exact(left)
        } else {
            SizeHint::default()
        }
    }
}
