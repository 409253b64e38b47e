//! The end of an HTTP/1.1 connection whose caller may still be sending, and the words that go with it.
//!
//! Closing a socket with unread bytes resets it, and a reset takes the answer along that the caller has not read yet:
//! a 413 in the middle of an upload would be lost. So our side is closed first, and what still comes is read and
//! thrown away, within bounds (nginx calls it `lingering_close`). Where the bounds are passed the reset comes after
//! all: nobody holds a connection by sending without end.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// In all: a caller at 10 MB/s can finish what it may send at the most.
const LONGEST: Duration = Duration::from_secs(10);

/// Without a byte: longer than any round trip; who is silent for so long is not sending.
const QUIET: Duration = Duration::from_secs(2);

/// So many bytes: the default of `limits.request_replay`, and more than a caller has under way that heeds an answer.
const MOST: u64 = 64 * 1024 * 1024;

/// Read at once, on the stack: nothing of it is kept.
const PIECE: usize = 16 * 1024;

/// So many refused connections of one thread linger; a flood of more is worth no descriptors.
const REFUSED: usize = 64;

thread_local! {
    static LINGERING: Cell<usize> = const { Cell::new(0) };
}

macro_rules! words {
    ($status:literal, $more:literal, $length:literal, $code:literal, $message:literal, $kind:literal) => {
        concat!(
            "HTTP/1.1 ",
            $status,
            "\r\n",
            $more,
            "connection: close\r\ncontent-type: application/json\r\n",
            "content-length: ",
            $length,
            "\r\n\r\n{\"error\":{\"code\":\"",
            $code,
            "\",\"message\":\"",
            $message,
            "\",\"type\":\"",
            $kind,
            "\",\"param\":null}}"
        )
        .as_bytes()
    };
}

/// To one connection more than there may be.
const FULL: &[u8] = words!(
    "503 Service Unavailable",
    "retry-after: 1\r\n",
    "100",
    "overloaded",
    "Too many connections.",
    "server_error"
);

/// To a head that came too slowly.
pub(crate) const SLOW_HEAD: &[u8] = words!(
    "408 Request Timeout",
    "",
    "125",
    "Timeout",
    "The request head did not arrive in time.",
    "invalid_request_error"
);

const NOT_HTTP: &[u8] = words!(
    "400 Bad Request",
    "",
    "117",
    "invalid_request",
    "The request is not HTTP.",
    "invalid_request_error"
);

const LONG_TARGET: &[u8] = words!(
    "414 URI Too Long",
    "",
    "121",
    "uri_too_long",
    "The request target is too long.",
    "invalid_request_error"
);

const LARGE_HEAD: &[u8] = words!(
    "431 Request Header Fields Too Large",
    "",
    "122",
    "head_too_large",
    "The request head is too large.",
    "invalid_request_error"
);

/// hyper answers a head that it cannot read by itself, without a body: the same in the API's form. An answer that
/// does not look like that (another hyper) stays as it is.
pub(crate) fn in_our_words(bare: &[u8]) -> Option<&'static [u8]> {
    const HEADERS: &[u8] = b"connection: close\r\ncontent-length: 0\r\ndate: ";
    [NOT_HTTP, LONG_TARGET, LARGE_HEAD].into_iter().find(|words| {
        let line = words.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        bare.get(..line) == words.get(..line)
            && bare.get(line..).is_some_and(|rest| rest.starts_with(HEADERS))
    })
}

/// Says that no connection more is taken, at once and without waiting; the rest is a small task, or nothing where
/// there are many such already: whoever floods us is not worth it. Must run inside a local runtime.
pub(crate) fn refuse(stream: TcpStream) {
    let count = LINGERING.get();
    let _told = stream.try_write(FULL);
    if count < REFUSED {
        LINGERING.set(count + 1);
        tokio::task::spawn_local(async move {
            linger(stream).await;
            LINGERING.set(LINGERING.get() - 1);
        });
    }
}

/// Says these words to a caller that is not served, in one try, and parts from it.
pub(crate) async fn part(stream: TcpStream, words: &'static [u8]) {
    if stream.try_write(words).is_ok() {
        linger(stream).await;
    }
}

async fn linger(mut stream: TcpStream) {
    let mut parting = Parting::default();
    poll_fn(|cx| parting.poll(&mut stream, cx)).await;
}

/// A parting under way.
#[derive(Debug, Default)]
pub(crate) struct Parting {
    closed: bool,
    came: u64,
    until: Option<Instant>,
    quiet: Option<Pin<Box<Sleep>>>,
}

impl Parting {
    /// Closes our side and reads what still comes. Ready once the caller has closed its side too, or a bound is
    /// passed.
    pub(crate) fn poll<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if !self.closed {
            if ready!(Pin::new(&mut *socket).poll_shutdown(cx)).is_err() {
                return Poll::Ready(());
            }
            self.closed = true;
        }
        let mut moved = self.quiet.is_none();
        let mut piece = [0; PIECE];
        loop {
            let mut read = ReadBuf::new(&mut piece);
            match Pin::new(&mut *socket).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                    self.came += read.filled().len() as u64;
                    moved = true;
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
            if self.came > MOST {
                return Poll::Ready(());
            }
        }
        self.poll_time(moved, cx)
    }

    fn poll_time(&mut self, moved: bool, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        let until = *self.until.get_or_insert(now + LONGEST);
        let next = until.min(now + QUIET);
        let quiet = self.quiet.get_or_insert_with(|| Box::pin(sleep_until(next)));
        if moved {
            quiet.as_mut().reset(next);
        }
        quiet.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::{Instant, sleep};

    use super::{FULL, LARGE_HEAD, LONG_TARGET, MOST, NOT_HTTP, Parting, SLOW_HEAD, in_our_words};

    #[test]
    fn each_of_our_words_tells_its_own_length() {
        for words in [FULL, SLOW_HEAD, NOT_HTTP, LONG_TARGET, LARGE_HEAD] {
            let text = std::str::from_utf8(words).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}", body.len())), "{head}\n{}", body.len());
            assert!(head.contains("connection: close"));
            let error: serde_json::Value = serde_json::from_str(body).unwrap();
            assert!(error["error"]["code"].is_string() && error["error"]["message"].is_string(), "{error}");
        }
    }

    #[test]
    fn only_a_bare_answer_to_an_unreadable_head_is_said_in_our_words() {
        let bare = |status: &str, more: &str| {
            format!(
                "HTTP/1.1 {status}\r\n{more}connection: close\r\ncontent-length: 0\r\ndate: today\r\n\r\n"
            )
        };
        assert_eq!(in_our_words(bare("400 Bad Request", "").as_bytes()), Some(NOT_HTTP));
        assert_eq!(in_our_words(bare("414 URI Too Long", "").as_bytes()), Some(LONG_TARGET));
        let large = bare("431 Request Header Fields Too Large", "");
        assert_eq!(in_our_words(large.as_bytes()), Some(LARGE_HEAD));
        assert_eq!(in_our_words(bare("400 Bad Request", "x-sidestep-request-id: a\r\n").as_bytes()), None);
        assert_eq!(in_our_words(bare("200 OK", "").as_bytes()), None);
        assert_eq!(in_our_words(b"HTTP/1.1 4"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn parting_ends_when_the_caller_closes_or_is_silent_and_never_later_than_ten_seconds() {
        // Sends a byte so often, so many times, then closes.
        for (every_ms, times, ended_ms) in [(500, 3, 1500), (2500, 3, 2000), (1500, 100, 10_000)] {
            let (mut far, mut near) = duplex(64);
            let start = Instant::now();
            let sending = tokio::spawn(async move {
                for _ in 0..times {
                    sleep(Duration::from_millis(every_ms)).await;
                    if far.write_all(b"x").await.is_err() {
                        return;
                    }
                }
            });
            let mut parting = Parting::default();
            poll_fn(|cx| parting.poll(&mut near, cx)).await;
            assert_eq!(start.elapsed().as_millis(), ended_ms, "{every_ms}");
            drop(near);
            sending.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn parting_ends_after_its_bytes_and_our_side_is_closed_from_the_start() {
        let (far, mut near) = duplex(1 << 20);
        let (mut reading, mut writing) = tokio::io::split(far);
        let sending = tokio::spawn(async move {
            let piece = vec![0; 1 << 20];
            let mut sent = 0_u64;
            while writing.write_all(&piece).await.is_ok() {
                sent += piece.len() as u64;
            }
            sent
        });
        let heard = tokio::spawn(async move { reading.read(&mut [0; 8]).await.unwrap() });
        let mut parting = Parting::default();
        poll_fn(|cx| parting.poll(&mut near, cx)).await;
        assert_eq!(heard.await.unwrap(), 0);
        drop(near);
        let sent = sending.await.unwrap();
        assert!((MOST..MOST + (4 << 20)).contains(&sent), "{sent}");
    }
}
