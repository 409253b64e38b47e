//! Spare connections: a low request rate costs no handshake per request, a failover none, and an idle balancer keeps
//! none.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use sidestep::net::connect::{Connector, InMemory};
use sidestep::net::upstream::{Origin, RequestBody, Reuse, Tls, Upstream, UpstreamSettings};
use tokio::io::DuplexStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::time::{Instant, sleep};

use super::fixture::backend::{PlayedBackend, answer, request};
use super::fixture::caller::post;
use super::fixture::wire::Wire;
use super::fixture::{CHAT, QUESTION, Scene, settings, within};
use super::front::Front;

/// TCP and TLS over some distance.
const HANDSHAKES: Duration = Duration::from_millis(120);

/// A backend within this thread, some way off.
#[derive(Debug)]
struct Distant {
    opened: Cell<usize>,
    /// One more for each connection that is open.
    open: Rc<()>,
    /// It closes what is not used for so long.
    idle: Duration,
}

impl Distant {
    fn new(idle: Duration) -> Rc<Self> {
        Rc::new(Self { opened: Cell::new(0), open: Rc::new(()), idle })
    }

    fn open(&self) -> usize {
        Rc::strong_count(&self.open) - 1
    }

    fn upstream(self: &Rc<Self>) -> Upstream {
        let settings = UpstreamSettings { connect_timeout: Duration::from_secs(5), ca_file: None };
        self.upstream_with(&Tls::new(&settings).unwrap())
    }

    fn upstream_with(self: &Rc<Self>, tls: &Tls) -> Upstream {
        let connector = Connector::Memory(Rc::clone(self) as Rc<dyn InMemory>);
        let (host, limit) = ("east.test".to_owned(), Duration::from_secs(5));
        let origin = Origin { tls: false, host, port: 80, path_prefix: String::new(), http2: false };
        Upstream::over(&connector, origin, tls, limit).unwrap().with_spare(tls)
    }
}

impl InMemory for Distant {
    fn connect(&self, _: &Origin) -> Pin<Box<dyn Future<Output = io::Result<DuplexStream>>>> {
        self.opened.set(self.opened.get() + 1);
        let (near, far) = tokio::io::duplex(1 << 16);
        let (open, idle) = (Rc::clone(&self.open), self.idle);
        Box::pin(async move {
            sleep(HANDSHAKES).await;
            tokio::task::spawn_local(async move {
                let used = Rc::new(Cell::new(Instant::now()));
                let using = Rc::clone(&used);
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    using.set(Instant::now());
                    async move {
                        let _all = request.into_body().collect().await;
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("{}"))))
                    }
                });
                let serving =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service);
                let unused = async {
                    while used.get().elapsed() < idle {
                        sleep(Duration::from_secs(1)).await;
                    }
                };
                tokio::select! {
                    _ended = serving => {}
                    () = unused => {}
                }
                drop(open);
            });
            Ok(near)
        })
    }
}

/// How long one request took.
async fn ask(upstream: &Upstream) -> Duration {
    let start = Instant::now();
    let path = PathAndQuery::from_static(CHAT);
    let sent = upstream.send(Method::POST, path, HeaderMap::new(), RequestBody::empty(), Reuse::Allowed);
    sent.await.unwrap().into_body().collect().await.unwrap();
    start.elapsed()
}

fn paused<F: Future>(test: F) -> F::Output {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().start_paused(true).build_local(LocalOptions::default()).unwrap().block_on(test)
}

#[test]
fn of_requests_a_minute_apart_only_the_first_waits_for_a_handshake() {
    paused(async {
        // Azure closes after four minutes, others sooner.
        for (idle, opened) in [(240, 14), (50, 121)] {
            let distant = Distant::new(Duration::from_secs(idle));
            let upstream = distant.upstream();
            assert_eq!(ask(&upstream).await, HANDSHAKES);
            for minute in 1..60 {
                sleep(Duration::from_secs(60)).await;
                assert_eq!(ask(&upstream).await, Duration::ZERO, "{minute}");
            }
            assert!(distant.opened.get() <= opened, "{idle}: {}", distant.opened.get());
        }
    });
}

#[test]
fn five_minutes_after_the_last_request_no_connection_is_open() {
    paused(async {
        for idle in [50, 70, 95, 240] {
            for last in [0, 7, 100, 235, 240] {
                let distant = Distant::new(Duration::from_secs(idle));
                let upstream = distant.upstream();
                ask(&upstream).await;
                sleep(Duration::from_secs(last)).await;
                assert_eq!(ask(&upstream).await, Duration::ZERO, "{idle} {last}");
                sleep(Duration::from_secs(301)).await;
                assert_eq!(distant.open(), 0, "{idle} {last}");
                let opened = distant.opened.get();
                sleep(Duration::from_secs(3600)).await;
                assert_eq!(distant.opened.get(), opened, "{idle} {last}");
            }
        }
    });
}

#[test]
fn of_two_generations_of_settings_there_are_no_more_spare_connections_than_the_bound() {
    paused(async {
        let distant = Distant::new(Duration::from_secs(240));
        let settings = UpstreamSettings { connect_timeout: Duration::from_secs(5), ca_file: None };
        let before = Tls::new(&settings).unwrap();
        let after = Tls::new(&settings).unwrap().after(&before);
        let many: Vec<_> = (0..24)
            .map(|index| distant.upstream_with(if index % 2 == 0 { &before } else { &after }))
            .collect();
        many.iter().for_each(Upstream::expect);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(distant.open(), 16);
    });
}

#[test]
fn what_is_next_in_line_has_its_connection_before_anybody_needs_it() {
    paused(async {
        let distant = Distant::new(Duration::from_secs(240));
        let upstream = distant.upstream();
        upstream.expect();
        sleep(Duration::from_secs(120)).await;
        assert_eq!((distant.open(), distant.opened.get()), (1, 1));
        assert_eq!(ask(&upstream).await, Duration::ZERO);
        assert_eq!(distant.opened.get(), 1);
    });
}

#[tokio::test]
async fn a_failover_finds_its_connection_open() {
    let [east, west, north] =
        [PlayedBackend::listen().await, PlayedBackend::listen().await, PlayedBackend::listen().await];
    let stage = Scene::default()
        .played("east", 1, east.address)
        .played("west", 2, west.address)
        .played("north", 3, north.address)
        .server("workers = 1")
        .start();
    let caller = stage.caller();
    let good = tokio::spawn(async move { caller.post(CHAT, QUESTION).await.status });
    let (mut first, _) = east.request().await;
    first.write(answer("200 OK", "", "{}")).await;
    assert_eq!(good.await.unwrap(), 200);
    // Nobody has asked it anything yet.
    let mut spare = west.accept().await;
    let asking = tokio::spawn(async move { caller.try_send(post(CHAT, QUESTION)).await.unwrap().status() });
    request(&mut first).await;
    first.write(answer("429 Too Many Requests", "retry-after: 1\r\n", "{}")).await;
    within("the failover", request(&mut spare)).await;
    spare.write(answer("200 OK", "", "{}")).await;
    assert_eq!(asking.await.unwrap(), 200);
}

/// A balancer of two backends, where the second is next in line and its spare connection is open.
async fn lined_up() -> (Front, PlayedBackend, PlayedBackend, Wire, Wire) {
    let (east, west) = (PlayedBackend::listen().await, PlayedBackend::listen().await);
    let scene = Scene::default().played("east", 1, east.address).played("west", 2, west.address);
    let front = Front::of(scene.server("workers = 1"));
    let caller = front.caller();
    let good = tokio::spawn(async move { caller.post(CHAT, QUESTION).await.status });
    let (mut first, _) = east.request().await;
    first.write(answer("200 OK", "", "{}")).await;
    assert_eq!(good.await.unwrap(), 200);
    let spare = west.accept().await;
    (front, east, west, first, spare)
}

#[tokio::test]
async fn a_reload_closes_what_was_kept_for_the_settings_before_it() {
    let (front, _east, _west, first, spare) = lined_up().await;
    front.balancer.reload(settings(&front.text)).unwrap();
    for wire in [first, spare] {
        assert_eq!(within("the end of a kept connection", wire.rest()).await.0, "");
    }
}

#[tokio::test]
async fn draining_a_backend_closes_what_was_kept_to_it() {
    let (front, _east, _west, _first, spare) = lined_up().await;
    let admin = front.admin();
    let drained = tokio::task::spawn_blocking(move || {
        super::raw::ask(admin, "POST", "/backends/west/drain", "", "").status
    });
    assert_eq!(drained.await.unwrap(), 200);
    assert_eq!(within("the end of the spare connection", spare.rest()).await.0, "");
}
