//! Connections to backends: whom we trust, what is agreed on, where names lead.

use std::cell::Cell;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{HandshakeKind, ServerConfig};
use sidestep::net::connect::{Connector, InMemory};
use sidestep::net::upstream::{Origin, RequestBody, Reuse, Tls, Upstream, UpstreamSettings};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio_rustls::TlsAcceptor;

use super::fixture::tls::{Authority, Pair};
use super::fixture::{CHAT, QUESTION, Scene, eventually, within};
use super::process::Running;
use super::raw;

/// What one handshake came to, as the backend saw it.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Agreed {
    resumed: bool,
    protocol: Option<Vec<u8>>,
    name: Option<String>,
}

/// A backend with TLS, its handshakes, and its one answer, after which it may close.
struct TlsBackend {
    address: SocketAddr,
    agreed: Arc<Mutex<Vec<Agreed>>>,
    config: Arc<Mutex<Arc<ServerConfig>>>,
}

impl TlsBackend {
    async fn start(config: ServerConfig, keeps: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let agreed = Arc::new(Mutex::new(Vec::new()));
        let config = Arc::new(Mutex::new(Arc::new(config)));
        let (noted, used) = (Arc::clone(&agreed), Arc::clone(&config));
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (noted, config) = (Arc::clone(&noted), Arc::clone(&*used.lock().unwrap()));
                tokio::spawn(async move {
                    let Ok(stream) = TlsAcceptor::from(config).accept(socket).await else { return };
                    let session = stream.get_ref().1;
                    noted.lock().unwrap().push(Agreed {
                        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
                        protocol: session.alpn_protocol().map(<[u8]>::to_vec),
                        name: session.server_name().map(str::to_owned),
                    });
                    let http2 = session.alpn_protocol() == Some(b"h2");
                    serve(TokioIo::new(stream), http2, keeps).await;
                });
            }
        });
        Self { address, agreed, config }
    }

    fn url(&self, name: &str) -> String {
        format!("https://{name}:{}", self.address.port())
    }

    fn agreed(&self) -> Vec<Agreed> {
        self.agreed.lock().unwrap().clone()
    }
}

/// Answers everything with `{}`.
async fn serve<I>(io: I, http2: bool, keeps: bool)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
{
    let service = hyper::service::service_fn(move |request: Request<Incoming>| async move {
        let _all = request.into_body().collect().await;
        let mut response = Response::new(Full::new(Bytes::from("{}")));
        if !keeps && !http2 {
            response.headers_mut().insert("connection", "close".parse().unwrap());
        }
        Ok::<_, Infallible>(response)
    });
    if http2 {
        let _ended = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(io, service)
            .await;
    } else {
        let _ended = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
    }
}

/// Every name leads to this machine.
fn here(_: &str) -> io::Result<Vec<IpAddr>> {
    Ok(vec![Ipv4Addr::LOCALHOST.into()])
}

/// A scene whose first backend is `https://{name}:{port}`, and behind it a good one.
fn before_a_good_one(ca: &(TempDir, Authority), url: &str) -> Scene {
    let file = ca.0.path().join("ca.pem");
    std::fs::write(&file, ca.1.pem()).unwrap();
    Scene::of([("good", 2)])
        .elsewhere("east", 1, url)
        .names(here)
        .toml(&format!("[upstream]\nca_file = \"{}\"", file.display()))
}

fn ca() -> (TempDir, Authority) {
    (tempfile::tempdir().unwrap(), Authority::new())
}

#[expect(clippy::disallowed_methods, reason = "certificates are dated by the wall clock")]
fn today() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

#[tokio::test]
async fn a_certificate_that_cannot_be_trusted_ends_the_attempt_and_the_next_backend_answers() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let ca = ca();
    let expired = ca.1.issue_with(&["east.test"], |params| params.not_after = (today() - DAY).into());
    let not_yet = ca.1.issue_with(&["east.test"], |params| params.not_before = (today() + DAY).into());
    for (what, pair) in [
        ("another host's", ca.1.issue(&["west.test"])),
        ("expired", expired),
        ("not yet valid", not_yet),
        ("self-signed", Pair::self_signed(&["east.test"])),
        ("of an authority that nobody knows", Authority::named("Stranger").issue(&["east.test"])),
    ] {
        let east = TlsBackend::start(pair.server(&["http/1.1"]), true).await;
        let stage = before_a_good_one(&ca, &east.url("east.test")).start();
        let answer = stage.chat().await;
        assert_eq!((answer.status, answer.header("x-sidestep-backend")), (200, Some("good")), "{what}");
        assert_eq!(stage.backend("east").failed_total, 1, "{what}");
        assert_eq!(stage.seen("good"), 1, "{what}");
        assert!(
            stage
                .log()
                .contains(r#"{"backend":"east","verdict":"unreachable","status":null,"cause":"tls failed"}"#),
            "{what}: {}",
            stage.log()
        );
    }
}

/// Accepts once the caller has spoken, says `words`, closes.
async fn rude(words: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let _read = socket.read(&mut [0; 2048]).await;
                let _gone = socket.write_all(words).await;
                let _gone = socket.shutdown().await;
                let _rest = socket.read_to_end(&mut Vec::new()).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_handshake_that_breaks_in_any_way_ends_the_attempt_and_the_next_backend_answers() {
    let ca = ca();
    let mut old = b"\x16\x03\x01\x00\x2a\x02\x00\x00\x26\x03\x01".to_vec();
    old.extend([7; 32]);
    old.extend(b"\x00\x00\x2f\x00");
    let old: &'static [u8] = Box::leak(old.into_boxed_slice());
    for (what, words) in [
        ("refused by an alert", &b"\x15\x03\x03\x00\x02\x02\x28"[..]),
        ("TLS 1.0 only, by an alert", b"\x15\x03\x01\x00\x02\x02\x46"),
        ("TLS 1.0 only, by its hello", old),
        ("cut", b""),
        ("cut within a record", b"\x16\x03\x03\x00\x50\x02\x00"),
        ("plain HTTP", b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"),
        ("noise", &[0xff; 600]),
    ] {
        let address = rude(words).await;
        let stage = before_a_good_one(&ca, &format!("https://east.test:{}", address.port())).start();
        let answer = stage.chat().await;
        assert_eq!((answer.status, answer.header("x-sidestep-backend")), (200, Some("good")), "{what}");
        assert!(
            stage
                .log()
                .contains(r#"{"backend":"east","verdict":"unreachable","status":null,"cause":"tls failed"}"#),
            "{what}: {}",
            stage.log()
        );
    }
}

#[tokio::test]
async fn an_operator_reads_why_there_is_no_connection() {
    let ca = ca();
    let expired = ca.1.issue_with(&["localhost"], |params| {
        params.not_after = (today() - Duration::from_secs(24 * 3600)).into();
    });
    let mut text =
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"off\"\nworkers = 1\n[upstream]\nca_file = \"ca.pem\"\n\
                    [retry]\nconnect_timeout = \"1s\"\n"
            .to_owned();
    std::fs::write(ca.0.path().join("ca.pem"), ca.1.pem()).unwrap();
    let mut backends = Vec::new();
    let mut url = |name: &str, port: u16| {
        write!(
            text,
            "[[backends]]\nname = \"{name}\"\nurl = \"https://localhost:{port}\"\napi_key = \"key-of-{name}\"\n"
        ).unwrap();
    };
    for (name, pair) in [
        ("other-host", ca.1.issue(&["west.test"])),
        ("expired", expired),
        ("unknown-ca", Authority::named("Stranger").issue(&["localhost"])),
    ] {
        let backend = TlsBackend::start(pair.server(&[]), true).await;
        url(name, backend.address.port());
        backends.push(backend);
    }
    for (name, words) in [
        ("refused", &b"\x15\x03\x03\x00\x02\x02\x28"[..]),
        ("old", b"\x15\x03\x01\x00\x02\x02\x46"),
        ("cut", b""),
        ("plain", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    ] {
        url(name, rude(words).await.port());
    }
    std::fs::write(ca.0.path().join("sidestep.toml"), text).unwrap();
    let asked = tokio::task::spawn_blocking(move || {
        let daemon = Running::start(ca.0.path(), &[], &[("NO_COLOR", "1")]);
        let address = daemon.addresses().0;
        for _ in 0..2 {
            assert!(raw::ask(address, "POST", CHAT, "", QUESTION).status >= 500);
        }
        for (name, cause) in [
            ("other-host", "not valid for name \\\"localhost\\\""),
            ("expired", "certificate expired"),
            ("unknown-ca", "UnknownIssuer"),
            ("refused", "HandshakeFailure"),
            ("old", "ProtocolVersion"),
            ("cut", "eof"),
            ("plain", "InvalidContentType"),
        ] {
            let backend = format!("backend={name} ");
            let line = daemon.out().wait_for(&["WARN no connection to the backend", &backend]);
            assert!(line.contains("TLS handshake failed") && line.contains(cause), "{line}");
        }
        daemon.signal("TERM");
        let (_, said, _) = daemon.end();
        assert_eq!(said.matches("WARN no connection to the backend").count(), 7, "once each: {said}");
    });
    asked.await.unwrap();
}

#[tokio::test]
async fn a_handshake_that_hangs_ends_with_the_connect_timeout() {
    let ca = ca();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://east.test:{}", listener.local_addr().unwrap().port());
    let stage = before_a_good_one(&ca, &url).toml("[retry]\nconnect_timeout = \"200ms\"").start();
    let answer = stage.chat().await;
    assert_eq!((answer.status, answer.header("x-sidestep-backend")), (200, Some("good")));
    assert!(
        stage.log().contains(
            r#"{"backend":"east","verdict":"unreachable","status":null,"cause":"connect timeout"}"#
        ),
        "{}",
        stage.log()
    );
}

#[tokio::test]
async fn a_name_is_told_to_the_backend_and_an_address_is_not_and_both_are_checked() {
    let ca = ca();
    for (host, names, trusted, told) in [
        ("east.test", &["east.test"][..], true, Some("east.test")),
        ("a.east.test", &["*.east.test"], true, Some("a.east.test")),
        ("127.0.0.1", &["127.0.0.1"], true, None),
        ("127.0.0.1", &["127.0.0.2"], false, None),
        ("127.0.0.1", &["localhost"], false, None),
        ("b.a.east.test", &["*.east.test"], false, None),
    ] {
        let east = TlsBackend::start(ca.1.issue(names).server(&[]), true).await;
        let stage = before_a_good_one(&ca, &east.url(host)).start();
        let answer = stage.chat().await;
        let backend = if trusted { "east" } else { "good" };
        assert_eq!(
            (answer.status, answer.header("x-sidestep-backend")),
            (200, Some(backend)),
            "{host} {names:?}"
        );
        if trusted {
            assert_eq!(east.agreed()[0].name.as_deref(), told, "{host}");
        }
    }
}

#[tokio::test]
async fn http2_is_spoken_where_both_want_it_and_nothing_that_was_not_offered() {
    let ca = ca();
    let pair = ca.1.issue(&["east.test"]);
    for (http2, speaks, agreed, backend) in [
        (true, &["h2", "http/1.1"][..], Some("h2"), "east"),
        (true, &["http/1.1"], Some("http/1.1"), "east"),
        (true, &[], None, "east"),
        (false, &["h2", "http/1.1"], Some("http/1.1"), "east"),
        (false, &[], None, "east"),
        (false, &["h2"], None, "good"),
        (true, &["spdy/3"], None, "good"),
    ] {
        let east = TlsBackend::start(pair.server(speaks), true).await;
        let scene = before_a_good_one(&ca, &east.url("east.test"));
        let stage = scene.backend("east", &format!("http2 = {http2}")).start();
        for _ in 0..3 {
            let answer = stage.chat().await;
            assert_eq!(
                (answer.status, answer.header("x-sidestep-backend")),
                (200, Some(backend)),
                "{speaks:?}"
            );
        }
        if backend == "east" {
            let agreed = agreed.map(|protocol: &str| protocol.as_bytes().to_vec());
            let all = east.agreed();
            assert_eq!((all.len(), &all[0].protocol), (1, &agreed), "{http2} {speaks:?}");
        }
    }
}

#[tokio::test]
async fn sessions_are_resumed_also_after_a_failover_and_a_backend_that_forgot_them_is_no_failure() {
    let ca = ca();
    let pair = ca.1.issue(&["east.test"]);
    let config = || {
        let mut config = pair.server(&["http/1.1"]);
        config.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
        config
    };
    let east = TlsBackend::start(config(), false).await;
    let stage = before_a_good_one(&ca, &east.url("east.test")).start();
    let asked = async |expected| {
        let answer = stage.chat().await;
        assert_eq!((answer.status, answer.header("x-sidestep-backend")), (200, Some(expected)));
    };
    asked("east").await;
    asked("east").await;
    // It fails for a while: its certificate is another's.
    *east.config.lock().unwrap() = Arc::new(ca.1.issue(&["west.test"]).server(&["http/1.1"]));
    asked("good").await;
    // And is back with other keys for its tickets.
    *east.config.lock().unwrap() = Arc::new(config());
    asked("east").await;
    asked("east").await;
    let resumed: Vec<bool> = east.agreed().iter().map(|agreed| agreed.resumed).collect();
    assert_eq!(resumed, [false, true, false, true]);
}

/// Answers plain HTTP with `{}` and its number, and closes.
async fn numbered(address: SocketAddr, number: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            number.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(TokioIo::new(socket), false, false));
        }
    });
    address
}

#[tokio::test]
async fn the_next_connection_goes_where_the_name_has_moved() {
    let (old, new) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let first = numbered(([127, 0, 0, 1], 0).into(), Arc::clone(&old)).await;
    numbered(([127, 0, 0, 2], first.port()).into(), Arc::clone(&new)).await;
    let last = Arc::new(AtomicU8::new(1));
    let told = Arc::clone(&last);
    let stage = Scene::default()
        .elsewhere("east", 1, &format!("http://east.test:{}", first.port()))
        .names(move |name| {
            assert_eq!(name, "east.test");
            Ok(vec![IpAddr::from([127, 0, 0, told.load(Ordering::SeqCst)])])
        })
        .start();
    assert_eq!(stage.chat().await.status, 200);
    last.store(2, Ordering::SeqCst);
    within("the move is followed", async {
        while new.load(Ordering::SeqCst) == 0 {
            assert_eq!(stage.chat().await.status, 200);
        }
    })
    .await;
    let before = old.load(Ordering::SeqCst);
    assert_eq!(stage.chat().await.status, 200);
    assert_eq!(old.load(Ordering::SeqCst), before);
}

#[tokio::test]
async fn every_address_of_a_name_is_tried() {
    let count = Arc::new(AtomicUsize::new(0));
    let address = numbered(([127, 0, 0, 1], 0).into(), Arc::clone(&count)).await;
    for first in [
        // Nobody listens there; in the other family; nobody answers there (TEST-NET-1), or there is no way to it.
        vec![IpAddr::from([127, 0, 0, 3])],
        vec!["::1".parse().unwrap()],
        vec!["192.0.2.1".parse().unwrap()],
        vec!["::1".parse().unwrap(), "2001:db8::1".parse().unwrap(), IpAddr::from([127, 0, 0, 3])],
    ] {
        let mut addresses = first.clone();
        addresses.push(IpAddr::from([127, 0, 0, 1]));
        let stage = Scene::default()
            .elsewhere("east", 1, &format!("http://east.test:{}", address.port()))
            .names(move |_| Ok(addresses.clone()))
            .start();
        assert_eq!(stage.chat().await.status, 200, "{first:?}");
        assert_eq!(stage.backend("east").failed_total, 0, "{first:?}");
    }
}

#[tokio::test]
async fn a_name_that_does_not_resolve_or_has_no_address_is_a_failed_attempt() {
    for empty in [true, false] {
        let stage = Scene::of([("good", 2)])
            .elsewhere("east", 1, "https://east.test")
            .names(move |_| if empty { Ok(Vec::new()) } else { Err(io::Error::other("no such name")) })
            .start();
        let answer = stage.chat().await;
        assert_eq!((answer.status, answer.header("x-sidestep-backend")), (200, Some("good")));
        assert_eq!(stage.backend("east").failed_total, 1);
    }
}

#[tokio::test]
async fn a_resolver_that_hangs_holds_up_nobody_else_and_starts_one_thread_only() {
    let released = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicUsize::new(0));
    let (goes, counted) = (Arc::clone(&released), Arc::clone(&asked));
    let stage = Scene::of([("good", 1)])
        .backend("good", "deployments = { \"gpt-4o\" = \"gpt-4o\" }")
        .elsewhere("east", 1, "http://east.test:9")
        .backend("east", "deployments = { \"slow\" = \"slow\" }")
        .names(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            while !goes.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            here("")
        })
        .toml("[retry]\nconnect_timeout = \"1s\"")
        .start();
    let caller = stage.caller();
    let waiting: Vec<_> = (0..30)
        .map(|_| {
            tokio::spawn(
                async move { caller.post("/openai/deployments/slow/chat/completions", QUESTION).await },
            )
        })
        .collect();
    eventually("the look-up hangs", || asked.load(Ordering::SeqCst) == 1).await;
    for _ in 0..20 {
        assert_eq!(stage.chat().await.status, 200);
    }
    assert!(waiting.iter().all(|waits| !waits.is_finished()), "the others were served while these waited");
    for waits in waiting {
        assert_eq!(waits.await.unwrap().status, 504, "connect_timeout");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1, "one thread for all of them");
    released.store(true, Ordering::SeqCst);
}

/// A backend within this thread that counts its connections.
#[derive(Debug)]
struct Counting {
    http2: bool,
    connections: Cell<usize>,
}

impl InMemory for Counting {
    fn connect(&self, _: &Origin) -> Pin<Box<dyn Future<Output = io::Result<DuplexStream>>>> {
        self.connections.set(self.connections.get() + 1);
        let (near, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(serve(TokioIo::new(far), self.http2, true));
        Box::pin(async { Ok(near) })
    }
}

#[test]
fn however_busy_a_connection_is_it_is_replaced_every_five_minutes() {
    for http2 in [false, true] {
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let counting = Rc::new(Counting { http2, connections: Cell::new(0) });
            let connector = Connector::Memory(Rc::clone(&counting) as Rc<dyn InMemory>);
            let origin =
                Origin { tls: false, host: "east.test".into(), port: 80, path_prefix: String::new(), http2 };
            let limit = Duration::from_secs(5);
            let tls = Tls::new(&UpstreamSettings { connect_timeout: limit, ca_file: None }).unwrap();
            let upstream = Upstream::over(&connector, origin, &tls, limit).unwrap();
            // A request each second for an hour.
            for _ in 0..3600 {
                let path = PathAndQuery::from_static(CHAT);
                let sent =
                    upstream.send(Method::POST, path, HeaderMap::new(), RequestBody::empty(), Reuse::Allowed);
                let answer = sent.await.unwrap();
                answer.into_body().collect().await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            assert_eq!(counting.connections.get(), 12, "http2 = {http2}");
        });
    }
}
