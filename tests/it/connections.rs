//! Connections on both sides: let in before a drain, left by their callers, kept for the next request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::PrivateKeyDer;
use sidestep::net::server::{BodyError, Handler, Peer, ServerLimits, Stop};
use sidestep::net::workers::Workers;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::fixture::backend::{PlayedBackend, answer, request};
use super::fixture::caller::post;
use super::fixture::wire::{Ending, Wire};
use super::fixture::{CHAT, QUESTION, Scene, eventually, within};

/// Says yes to everything.
struct Yes;

impl Handler for Yes {
    type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BodyError>;

    async fn handle(self: Rc<Self>, _request: Request<Incoming>, _peer: Peer) -> Response<Self::Body> {
        Response::new(Full::new(Bytes::from_static(b"yes")).map_err(BodyError::from).boxed_unsync())
    }
}

/// As the kernel tells it: the timer of the balancer's side of this connection.
fn timer(balancer: SocketAddr, caller: SocketAddr) -> Option<String> {
    let end = |address: SocketAddr| format!(":{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields[1].ends_with(&end(balancer)) && fields[2].ends_with(&end(caller)))
            .then(|| fields[5].to_owned())
    })
}

#[tokio::test]
async fn a_caller_is_asked_now_and_then_whether_it_is_still_there() {
    let stage = Scene::of([("east", 1)]).start();
    let caller = TcpStream::connect(stage.balancer.address()).await.unwrap();
    let (balancer, caller) = (caller.peer_addr().unwrap(), &caller);
    // 02 is keep-alive.
    eventually("keep-alive", || {
        timer(balancer, caller.local_addr().unwrap()).is_some_and(|timer| timer.starts_with("02:"))
    })
    .await;
}

#[tokio::test]
async fn who_was_let_in_by_the_kernel_before_a_drain_is_served() {
    const CALLERS: usize = 40;
    let workers = Workers::start(NonZeroUsize::new(2), ServerLimits::default(), None, |_| Yes).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut callers = Vec::new();
    for caller in 0..CALLERS {
        let mut wire = Wire::connect(address).await;
        // HTTP/1.1 and HTTP/2, and some who say nothing.
        match caller % 3 {
            0 => wire.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await,
            1 => wire.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await,
            _ => {}
        }
        callers.push(wire);
    }
    let (_stop, stopped) = watch::channel(Stop::Drain);
    workers.acceptor(Arc::default()).accept(listener, stopped).await;
    workers.stop(Stop::Drain);
    for (caller, mut wire) in callers.into_iter().enumerate() {
        if caller % 3 == 1 {
            // The server's own settings: type 4 in a frame's fourth byte.
            assert_eq!(wire.exactly(9).await[3], 4);
            continue;
        }
        let (seen, ending) = wire.rest().await;
        assert_eq!(ending, Ending::Closed);
        let expected = if caller % 3 == 0 { "HTTP/1.1 200" } else { "" };
        assert!(seen.starts_with(expected) && seen.is_empty() == expected.is_empty(), "{caller}: {seen}");
    }
    eventually("the workers have ended", || workers.ended()).await;
}

#[tokio::test]
async fn requests_cut_by_the_end_are_all_written_down() {
    const REQUESTS: usize = 100;
    for abort in [false, true] {
        let east = PlayedBackend::listen().await;
        let server = "drain_delay = \"1ms\"\ndrain_timeout = \"50ms\"";
        let stage = Scene::default().played("east", 1, east.address).server(server).start();
        let caller = stage.caller();
        let mut held = Vec::new();
        for _ in 0..REQUESTS {
            let asking = tokio::spawn(async move { caller.try_send(post(CHAT, QUESTION)).await.is_ok() });
            held.push((asking, east.request().await));
        }
        if abort {
            stage.balancer.abort();
        } else {
            stage.balancer.drain();
        }
        let ended = async {
            while !stage.balancer.ended() {
                tokio::task::yield_now().await;
            }
        };
        within("the end", ended).await;
        assert_eq!(stage.log().matches("\"request\"").count(), REQUESTS);
        drop(held);
    }
}

#[tokio::test]
async fn an_empty_body_has_a_length_where_a_body_is_expected() {
    for (method, told) in [("POST", true), ("GET", false), ("DELETE", false)] {
        let east = PlayedBackend::listen().await;
        let stage = Scene::default().played("east", 1, east.address).start();
        let mut wire = Wire::connect(stage.balancer.address()).await;
        let asked = format!("{method} /openai/v1/responses/resp_1");
        wire.write(format!("{asked} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
        let (mut backend, head) = east.request().await;
        assert_eq!(head.contains("\r\ncontent-length: 0\r\n"), told, "{head}");
        backend.write(answer("200 OK", "", "{}")).await;
        wire.until("HTTP/1.1 200").await;
    }
}

/// A backend with TLS that speaks HTTP/1.1 only, and how many connections it has seen.
async fn tls_backend(ca_file: &Path) -> (SocketAddr, Arc<AtomicUsize>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(ca_file, made.cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let socket = acceptor.accept(socket).await.unwrap();
                let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
                    let _all = request.into_body().collect().await;
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("{}"))))
                });
                let builder = hyper::server::conn::http1::Builder::new();
                let _ended = builder.serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    (address, count)
}

#[tokio::test]
async fn a_backend_that_agrees_on_http1_only_keeps_its_connections() {
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    let (address, count) = tls_backend(&ca_file).await;
    let stage = Scene::default()
        .elsewhere("east", 1, &format!("https://localhost:{}", address.port()))
        .backend("east", "http2 = true")
        .toml(&format!("[upstream]\nca_file = \"{}\"", ca_file.display()))
        .start();
    for _ in 0..5 {
        assert_eq!(stage.chat().await.status, 200);
    }
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn operators_have_a_bound_of_connections_too() {
    let stage = Scene::of([("east", 1)]).server("admin_listen = \"127.0.0.1:0\"").start();
    let admin = stage.balancer.admin_address().unwrap();
    let mut held = Vec::new();
    for _ in 0..256 {
        held.push(TcpStream::connect(admin).await.unwrap());
    }
    let (refused, _) = Wire::connect(admin).await.rest().await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    drop(held);
    let asked = async {
        loop {
            let mut wire = Wire::connect(admin).await;
            wire.write("GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
            if wire.rest().await.0.starts_with("HTTP/1.1 200") {
                return;
            }
        }
    };
    within("room for an operator", asked).await;
}

/// A backend in HTTP/2 with one stream on each connection. It answers while `goes` says so.
async fn narrow_backend(goes: watch::Receiver<bool>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (goes, counted) = (goes.clone(), Arc::clone(&counted));
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let (mut goes, counted) = (goes.clone(), Arc::clone(&counted));
                async move {
                    let _all = request.into_body().collect().await;
                    counted.fetch_add(1, Ordering::Relaxed);
                    let _gone = goes.wait_for(|goes| *goes).await;
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("{}"))))
                }
            });
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.max_concurrent_streams(1);
            tokio::spawn(builder.serve_connection(TokioIo::new(socket), service));
        }
    });
    (address, count)
}

#[tokio::test]
async fn at_the_stream_limit_of_a_backend_another_connection_is_opened() {
    let (goes, going) = watch::channel(true);
    let (address, count) = narrow_backend(going).await;
    let stage = Scene::default().played("east", 1, address).backend("east", "http2 = true").start();
    assert_eq!(stage.chat().await.status, 200);
    goes.send_replace(false);
    let caller = stage.caller();
    let asking: Vec<_> =
        (0..3).map(|_| tokio::spawn(async move { caller.post(CHAT, QUESTION).await.status })).collect();
    eventually("all are there", || count.load(Ordering::Relaxed) == 4).await;
    goes.send_replace(true);
    for asked in asking {
        assert_eq!(asked.await.unwrap(), 200);
    }
    assert_eq!(stage.chat().await.status, 200);
}

#[tokio::test]
async fn a_caller_that_leaves_with_its_next_request_already_here_is_noticed() {
    let east = PlayedBackend::listen().await;
    let stage = Scene::default().played("east", 1, east.address).start();
    let length = QUESTION.len();
    let one =
        format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{QUESTION}");
    let mut wire = Wire::connect(stage.balancer.address()).await;
    wire.write(format!("{one}{one}")).await;
    let (mut backend, _) = east.request().await;
    backend.write(answer("200 OK", "", "{}")).await;
    request(&mut backend).await;
    backend.write(answer("200 OK", "", "{}")).await;
    for _ in 0..2 {
        assert!(wire.until("\r\n\r\n{}").await.starts_with("HTTP/1.1 200"));
    }
    wire.write(format!("{one}{one}")).await;
    request(&mut backend).await;
    drop(wire);
    eventually("the place is free", || stage.backend("east").in_flight == 0).await;
    assert_eq!(stage.backend("east").failed_total, 0);
}

#[tokio::test]
async fn a_caller_that_takes_nothing_does_not_hold_its_place_for_ever() {
    let east = PlayedBackend::listen().await;
    let limits = "[limits]\nwrite_idle = \"300ms\"";
    let stage = Scene::default().played("east", 1, east.address).toml(limits).start();
    let length = QUESTION.len();
    let mut wire = Wire::connect(stage.balancer.address()).await;
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
    wire.write(format!("{head}{QUESTION}")).await;
    let (mut backend, _) = east.request().await;
    backend.write("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await;
    let piece = vec![b'x'; 1 << 20];
    let writing =
        async { while tokio::io::AsyncWriteExt::write_all(&mut backend.socket, &piece).await.is_ok() {} };
    within("the backend hears of it", writing).await;
    eventually("the place is free", || stage.backend("east").in_flight == 0).await;
    assert_eq!(stage.backend("east").failed_total, 0);
    drop(wire);
}
