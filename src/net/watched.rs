//! A caller's socket that notices its caller leaving also while nobody reads from it: hyper does not as long as the
//! next, pipelined request lies in its buffer.
//!
//! It costs no system call: the reactor already knows that the peer has closed its side. Where unread bytes wait in
//! the kernel nothing wakes us, so an upload that its backend does not take is noticed only once it moves again.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// The socket, watched.
#[derive(Debug)]
pub(crate) struct Watched {
    stream: TcpStream,
    /// Somebody waits for bytes, and so will see the end by reading.
    read: bool,
}

impl Watched {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, read: false }
    }

    /// Whether the peer has closed its side. When not, the task of `cx` is woken by what comes next, unless
    /// bytes wait already.
    fn is_left(&self, cx: &mut Context<'_>) -> bool {
        if self.stream.poll_read_ready(cx).is_pending() {
            return false;
        }
        match pin!(self.stream.ready(Interest::READABLE)).poll(cx) {
            Poll::Ready(ready) => ready.is_ok_and(tokio::io::Ready::is_read_closed),
            Poll::Pending => false,
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.read = read.is_pending();
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    /// hyper comes by here each time it has done all it can, after it has read if it wants to.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::take(&mut self.read) && self.is_left(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
