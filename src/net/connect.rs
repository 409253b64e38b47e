//! One new connection to a backend: name look-up, TCP, TLS.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::names::{Names, in_turn};
use super::seen::Seen;
use super::upstream::Origin;

/// A later address is tried beside an earlier one after this (RFC 8305, section 8).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// No more addresses of one name than these are tried.
const MOST_ADDRESSES: usize = 6;

/// Silent connections are noticed and middle boxes kept awake (azure-openai.md 8: Azure's own idle limit is
/// four minutes).
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// A peer that vanished without a word is noticed, on an open WebSocket too. A convenience: it may fail.
pub(super) fn ask_whether_alive(stream: &TcpStream) {
    let rhythm = TcpKeepalive::new().with_time(TCP_KEEPALIVE).with_interval(TCP_KEEPALIVE);
    let _set = SockRef::from(stream).set_tcp_keepalive(&rhythm);
}

/// Why there is no connection. Nothing of the request was sent.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The name does not resolve.
    #[error("name look-up failed")]
    Dns(#[source] io::Error),
    /// Nobody listens there.
    #[error("connection refused")]
    Refused(#[source] io::Error),
    /// Any other failure to connect.
    #[error("connect failed")]
    Tcp(#[source] io::Error),
    /// The TLS handshake failed.
    #[error("TLS handshake failed")]
    Tls(#[source] io::Error),
    /// All of it together took too long; what was under way then.
    #[error("{0} timed out")]
    Timeout(&'static str),
    /// This process or machine has no file descriptor left: nobody else's failure.
    #[error("no file descriptor is left")]
    NoDescriptor(#[source] io::Error),
}

/// `EMFILE` and `ENFILE`, which have these numbers on Linux, macOS and the BSDs; std has no word for them.
fn is_own_lack(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

/// The TLS settings cannot be made.
#[derive(Debug, Error)]
pub enum TlsProblem {
    /// `upstream.ca_file` cannot be read as PEM certificates.
    #[error("{}: not a PEM file of certificates", .0.display())]
    CaFile(PathBuf, #[source] rustls::pki_types::pem::Error),
    /// A certificate of it is refused.
    #[error("{}: a certificate in it cannot be used", .0.display())]
    Certificate(PathBuf, #[source] rustls::Error),
    /// rustls refuses the protocol versions.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// The roots of the platform plus those of `ca_file`.
///
/// A platform without readable roots is not an error here: plain backends need none, and a TLS backend then
/// fails its handshake with a certificate error.
fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, TlsProblem> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = ca_file {
        let certificates = CertificateDer::pem_file_iter(file)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| TlsProblem::CaFile(file.to_path_buf(), error))?;
        for certificate in certificates {
            roots.add(certificate).map_err(|error| TlsProblem::Certificate(file.to_path_buf(), error))?;
        }
    }
    Ok(roots)
}

/// Trusts the roots of the platform plus those of `ca_file`. With `seen`, what backends show is noted there, whether
/// it is trusted or not.
///
/// # Errors
/// `ca_file` is unreadable or holds no usable certificate.
pub fn tls_config(ca_file: Option<&Path>, seen: Option<Seen>) -> Result<ClientConfig, TlsProblem> {
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let roots = roots(ca_file)?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(&ring))
        .with_safe_default_protocol_versions()
        .map_err(TlsProblem::Setup)?;
    // Without a root there is nothing to verify by, and the verifier is not made.
    let Some(seen) = seen.filter(|_| !roots.is_empty()) else {
        return Ok(builder.with_root_certificates(roots).with_no_client_auth());
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), ring)
        .build()
        .map_err(|error| TlsProblem::Setup(rustls::Error::General(error.to_string())))?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(seen.before(verifier)))
        .with_no_client_auth())
}

/// What connections are made of.
#[derive(Clone, Debug)]
pub enum Connector {
    /// Sockets, at addresses that these tell.
    Network(Names),
    /// Pipes within one thread, so that all of a balancer can run on paused time: a peer outside the runtime
    /// would make the clock jump.
    Memory(Rc<dyn InMemory>),
}

/// Stands in for the network.
pub trait InMemory: fmt::Debug {
    /// One new connection to `origin`, never encrypted. Called and polled in the task of whoever needs it, and
    /// dropped when that takes too long.
    fn connect(&self, origin: &Origin) -> Pin<Box<dyn Future<Output = io::Result<DuplexStream>>>>;
}

/// Connects to `origin` within `limit`.
///
/// # Errors
/// What failed; nothing of a request was sent.
pub(crate) async fn connect(
    connector: &Connector,
    origin: &Origin,
    tls: &Arc<ClientConfig>,
    limit: Duration,
) -> Result<Socket, ConnectError> {
    let step = Cell::new("name look-up");
    let connecting = async {
        let names = match connector {
            Connector::Network(names) => names,
            Connector::Memory(memory) => {
                let stream = memory.connect(origin).await.map_err(unanswered)?;
                return Ok(Socket::Memory { stream });
            }
        };
        let addresses = names.addresses(&origin.host).await.map_err(|error| {
            if is_own_lack(&error) { ConnectError::NoDescriptor(error) } else { ConnectError::Dns(error) }
        })?;
        step.set("connect");
        let mut addresses = in_turn(&addresses);
        addresses.truncate(MOST_ADDRESSES);
        let addresses: Vec<_> = addresses.into_iter().map(|ip| SocketAddr::new(ip, origin.port)).collect();
        let stream = first_to_answer(&addresses).await.map_err(unanswered)?;
        stream.set_nodelay(true).map_err(ConnectError::Tcp)?;
        ask_whether_alive(&stream);
        if !origin.tls {
            return Ok(Socket::Plain { stream });
        }
        step.set("TLS handshake");
        let name = ServerName::try_from(origin.host.clone())
            .map_err(|error| ConnectError::Tls(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        // On the heap: what waits for a plain connection need not make room for it.
        let agreeing = Box::pin(TlsConnector::from(Arc::clone(tls)).connect(name, stream));
        let stream = agreeing.await.map_err(ConnectError::Tls)?;
        Ok(Socket::Tls { stream: Box::new(stream) })
    };
    timeout(limit, connecting).await.unwrap_or_else(|_| Err(ConnectError::Timeout(step.get())))
}

fn unanswered(error: io::Error) -> ConnectError {
    match error.kind() {
        _ if is_own_lack(&error) => ConnectError::NoDescriptor(error),
        io::ErrorKind::ConnectionRefused => ConnectError::Refused(error),
        _ => ConnectError::Tcp(error),
    }
}

/// Tries the addresses in turn, each a little after the one before, and takes the first that answers.
async fn first_to_answer(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    if let [only] = addresses {
        return TcpStream::connect(only).await;
    }
    let mut tries = JoinSet::new();
    let mut waiting = addresses.iter().copied();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        if let Some(address) = waiting.next() {
            tries.spawn_local(TcpStream::connect(address));
        } else if tries.is_empty() {
            return Err(failure);
        }
        let pause = async {
            if waiting.len() == 0 {
                std::future::pending::<()>().await;
            }
            sleep(NEXT_ADDRESS_AFTER).await;
        };
        tokio::select! {
            Some(tried) = tries.join_next() => match tried {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = error,
                Err(panicked) => failure = io::Error::other(panicked),
            },
            () = pause => {}
        }
    }
}

pin_project_lite::pin_project! {
    /// A connection, encrypted or not.
    #[derive(Debug)]
    #[project = SocketProjection]
    pub(crate) enum Socket {
        Plain { #[pin] stream: TcpStream },
        Tls { #[pin] stream: Box<TlsStream<TcpStream>> },
        Memory { #[pin] stream: DuplexStream },
    }
}

impl Socket {
    /// Whether the peer agreed on HTTP/2 by ALPN.
    pub(crate) fn agreed_on_http2(&self) -> bool {
        match self {
            Self::Plain { .. } | Self::Memory { .. } => false,
            Self::Tls { stream } => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.project() {
            SocketProjection::Plain { stream } => stream.poll_read(cx, buf),
            SocketProjection::Tls { stream } => stream.poll_read(cx, buf),
            SocketProjection::Memory { stream } => stream.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.project() {
            SocketProjection::Plain { stream } => stream.poll_write(cx, buf),
            SocketProjection::Tls { stream } => stream.poll_write(cx, buf),
            SocketProjection::Memory { stream } => stream.poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.project() {
            SocketProjection::Plain { stream } => stream.poll_flush(cx),
            SocketProjection::Tls { stream } => stream.poll_flush(cx),
            SocketProjection::Memory { stream } => stream.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.project() {
            SocketProjection::Plain { stream } => stream.poll_shutdown(cx),
            SocketProjection::Tls { stream } => stream.poll_shutdown(cx),
            SocketProjection::Memory { stream } => stream.poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.project() {
            SocketProjection::Plain { stream } => stream.poll_write_vectored(cx, bufs),
            SocketProjection::Tls { stream } => stream.poll_write_vectored(cx, bufs),
            SocketProjection::Memory { stream } => stream.poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain { stream } => stream.is_write_vectored(),
            Self::Tls { stream } => stream.is_write_vectored(),
            Self::Memory { stream } => stream.is_write_vectored(),
        }
    }
}
