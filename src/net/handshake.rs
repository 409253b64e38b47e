//! TLS with a caller, from its first byte to what both agreed on. It runs in the connection's own task, so whoever is
//! slow here keeps only a place among `limits.connections`, and that for no longer than a request's head may take.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::stop::{Ear, Stop};
use super::watched::Watched;

/// How a TLS connection begins: a record of type "handshake" (RFC 8446, 5.1).
const HANDSHAKE: u8 = 0x16;

/// In a drain, so long may what has begun still take.
const LAST_HANDSHAKE: Duration = Duration::from_secs(1);

/// A caller that was refused gets so long to take the words and go; closing at once could destroy them on the way.
const LINGER: Duration = Duration::from_millis(500);

/// The agreed connection; `None` when there is none, and then the caller has been told as far as it can be.
pub(crate) async fn handshake(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    limit: Duration,
    ear: &Ear,
) -> Option<Box<TlsStream<Watched>>> {
    let agreeing = async {
        let mut first = [0];
        let seen = stream.peek(&mut first).await.ok()?;
        if seen > 0 && first[0] != HANDSHAKE {
            explain(stream).await;
            return None;
        }
        TlsAcceptor::from(tls).accept(Watched::new(stream)).await.ok().map(Box::new)
    };
    let mut agreeing = pin!(timeout(limit, agreeing));
    let told = poll_fn(|cx| match ear.listen(cx) {
        Stop::Run => Poll::Pending,
        told => Poll::Ready(told),
    });
    tokio::select! {
        biased;
        agreed = &mut agreeing => agreed.ok()?,
        told = told => match told {
            Stop::Drain => timeout(LAST_HANDSHAKE, agreeing).await.ok()?.ok()?,
            Stop::Run | Stop::Abort => None,
        },
    }
}

/// Somebody speaks plain HTTP to us, most often: `http://` where `https://` was meant.
async fn explain(mut stream: TcpStream) {
    const BODY: &str = "{\"error\":{\"code\":\"tls_required\",\"message\":\"This port speaks TLS: use https.\",\
        \"type\":\"invalid_request_error\",\"param\":null}}";
    let length = BODY.len();
    let head = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: application/json";
    let words = format!("{head}\r\ncontent-length: {length}\r\n\r\n{BODY}");
    let telling = async {
        stream.write_all(words.as_bytes()).await?;
        stream.shutdown().await?;
        let mut rest = [0; 4096];
        loop {
            stream.readable().await?;
            match stream.try_read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    let _gone: Result<std::io::Result<()>, _> = timeout(LINGER, telling).await;
}
