//! Sockets of one resource. Its own accept loop, because faults need the socket itself: to refuse, to reset, to
//! count connections on which no request came; and because a bug of our server must not hide in its own tests.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::body::Severing;
use super::fault::Severed;
use super::resource::Resource;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1_024;

/// How long a listener that could not be had again is left alone.
const BIND_AGAIN: Duration = Duration::from_millis(20);

const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Listens at once, so that whoever started the simulator learns why it could not.
pub(super) fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    listening(reserved(address)?)
}

/// Holds the address without listening: connections are refused, and nobody else can have it.
fn reserved(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listening(socket: Socket) -> io::Result<std::net::TcpListener> {
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Serves a resource until the runtime ends. While it refuses, nothing listens.
pub(super) async fn listen(resource: Arc<Resource>, first: std::net::TcpListener, address: SocketAddr) {
    let mut refusing = resource.refusing();
    let mut first = Some(first);
    loop {
        let mut place = None;
        if *refusing.borrow() {
            drop(first.take());
            place = reserved(address).ok();
        }
        if refusing.wait_for(|refuses| !refuses).await.is_err() {
            return;
        }
        let bound = match (first.take(), place) {
            (Some(listener), _) => Ok(listener),
            (None, Some(socket)) => listening(socket),
            (None, None) => bind(address),
        };
        let bound = bound.and_then(TcpListener::from_std);
        let Ok(listener) = bound else {
            tokio::time::sleep(BIND_AGAIN).await;
            continue;
        };
        tokio::select! {
            () = accept(&listener, &resource) => (),
            _ = refusing.wait_for(|refuses| *refuses) => (),
        }
    }
}

async fn accept(listener: &TcpListener, resource: &Arc<Resource>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(BIND_AGAIN).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        resource.state().counters.connections += 1;
        let resource = Arc::clone(resource);
        tokio::task::spawn_local(async move {
            let mut refusing = resource.refusing();
            tokio::select! {
                () = converse(stream, &resource) => (),
                _ = refusing.wait_for(|refuses| *refuses) => (),
            }
        });
    }
}

/// One connection from its first byte to its end.
async fn converse(stream: TcpStream, resource: &Arc<Resource>) {
    let severing = Severing::default();
    let shared = Severing::clone(&severing);
    let service = service_fn(move |request| {
        let (resource, severing) = (Arc::clone(resource), Severing::clone(&shared));
        Box::pin(async move {
            let answer = resource.answer(request, &severing).await;
            if let Err(severed) = &answer {
                severing.set(Some(*severed));
            }
            answer
        })
    });
    if speaks_http2(&stream).await {
        // An ended stream is all that a fault can do there: the connection carries other requests too.
        let _ = http2::Builder::new(LocalTasks).serve_connection(TokioIo::new(stream), service).await;
        return;
    }
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let _ = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner();
    match severing.get() {
        Some(Severed::Reset) => {
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        Some(Severed::Garbage) => {
            let _ = stream.try_write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n");
        }
        Some(Severed::Echo) => {
            let _ = echo(&mut stream, &parts.read_buf).await;
        }
        Some(Severed::Close) | None => {}
    }
}

/// What came with the request first, then whatever comes, until the other side ends.
async fn echo(stream: &mut TcpStream, early: &[u8]) -> io::Result<()> {
    let (mut from, mut to) = stream.split();
    to.write_all(early).await?;
    tokio::io::copy(&mut from, &mut to).await?;
    Ok(())
}

/// HTTP/2 with prior knowledge begins with a line that no HTTP/1.1 request has.
async fn speaks_http2(stream: &TcpStream) -> bool {
    let mut start = [0_u8; PREFACE.len()];
    loop {
        let Ok(seen) = stream.peek(&mut start).await else { return false };
        if seen == 0 || !PREFACE.starts_with(&start[..seen]) {
            return false;
        }
        if seen == PREFACE.len() {
            return true;
        }
        // A part of the line is there: peeking again would not wait for more.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Tasks of HTTP/2 connections stay on this thread.
#[derive(Clone, Copy, Debug)]
struct LocalTasks;

impl<F> hyper::rt::Executor<F> for LocalTasks
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}
