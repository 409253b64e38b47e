//! What operators ask over HTTP: the page, health, status, metrics, single requests, and to drain a backend.
//!
//! Owns: the admin listener's answers and who may have them; the page (`page.html`, its style and script, served as
//! one document), what its watchers are told (`live`), and the quarter of an hour that it shows (`history`). Does not own
//! what they are about: the status document and the metrics are made by closures that `app` gives ([`Doors`]), health
//! is telemetry's.
//!
//! Why so: this listener shows no content and holds no secret but its own token, yet a web page in an operator's
//! browser must not read or steer it. So: a token beyond loopback (enforced in `settings`), the `Host` checked
//! where no token proves that the caller is no page, and `POST` only from our own origin.

pub mod explain;
pub mod requests;
pub mod status;

mod access;
mod backends;
mod history;
mod live;
mod page;

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, request};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use secrecy::SecretString;
use serde::Serialize;

use crate::balance::PoolSnapshot;
use crate::net::server::{BodyError, Handler, Peer};
use crate::telemetry::health::{Readiness, health};
use crate::telemetry::metrics::Troubled;
use crate::telemetry::stir::Stir;
use crate::telemetry::{clock, metrics};

pub use self::history::Failed;

use self::access::Access;
use self::explain::{ExplainAsk, ExplainDocument, ExplainProblem};
use self::live::{Live, Unwatched, Watch};
use self::page::Document;
use self::requests::RequestsAsk;
use self::status::StatusDocument;

/// By name, to drained (true) or not; whether there is such a backend.
pub type SetDrained = dyn Fn(&str, bool) -> bool;

/// Who would serve a request.
pub type Explain = dyn Fn(&ExplainAsk) -> Result<ExplainDocument, String>;

/// What the admin listener shows and does, given by `app`. Called on the thread of the listener.
#[derive(Clone)]
pub struct Doors {
    /// Whether requests should be sent to us.
    pub readiness: Rc<dyn Fn() -> Readiness>,
    /// The pool, as of now.
    pub pool: Rc<dyn Fn() -> PoolSnapshot>,
    /// Told of all that a look at the pool would show otherwise, and of requests after a time without any.
    pub stir: Arc<Stir>,
    /// How many state changes the pool has seen; cheap.
    pub changes: Rc<dyn Fn() -> u64>,
    /// What callers did not get so far.
    pub failed: Rc<dyn Fn() -> Failed>,
    /// The status document for this pool.
    pub status: Rc<dyn Fn(&PoolSnapshot) -> StatusDocument>,
    /// Who would serve this request now; else, in a sentence, that there is no such deployment or backend.
    pub explain: Rc<Explain>,
    /// The last requests that met trouble.
    pub requests: Rc<dyn Fn(&RequestsAsk) -> Troubled>,
    /// The `OpenMetrics` document, as of now.
    pub metrics: Rc<dyn Fn() -> String>,
    /// Drains the backend of that name (true) or resumes it (false). False when there is none.
    pub set_drained: Rc<SetDrained>,
}

impl fmt::Debug for Doors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doors").finish_non_exhaustive()
    }
}

/// The admin listener's answers.
#[derive(Debug)]
pub struct Admin {
    access: Access,
    doors: Doors,
    page: Document,
    live: Live,
}

/// The body of an answer.
#[derive(Debug)]
pub struct AdminBody(Kind);

#[derive(Debug)]
enum Kind {
    Whole(Full<Bytes>),
    Live(Watch),
}

impl AdminBody {
    fn whole(bytes: impl Into<Bytes>) -> Self {
        Self(Kind::Whole(Full::new(bytes.into())))
    }
}

impl Body for AdminBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Whole(body) => {
                let never = |never: Infallible| match never {};
                Pin::new(body).poll_frame(cx).map_err(never)
            }
            Kind::Live(watch) => Pin::new(watch).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(body) => body.is_end_stream(),
            Kind::Live(watch) => watch.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(body) => body.size_hint(),
            Kind::Live(watch) => watch.size_hint(),
        }
    }
}

type Answer = Response<AdminBody>;

/// What a path of the admin listener is.
enum Page<'a> {
    /// `/`
    Start,
    /// `/events`
    Events,
    /// One of the health paths.
    Health,
    /// `/status`
    Status,
    /// `/explain`
    Explain,
    /// `/requests`
    Requests,
    /// `/metrics`
    Metrics,
    /// `/backends/{name}/drain` (true) or `/resume`.
    Drain { name: &'a str, drained: bool },
}

impl Page<'_> {
    fn of(path: &str) -> Option<Page<'_>> {
        match path {
            "/" => Some(Page::Start),
            "/events" => Some(Page::Events),
            "/healthz" | "/livez" | "/readyz" => Some(Page::Health),
            "/status" => Some(Page::Status),
            "/explain" => Some(Page::Explain),
            "/requests" => Some(Page::Requests),
            "/metrics" => Some(Page::Metrics),
            _ => {
                let (name, verb) = path.strip_prefix("/backends/")?.split_once('/')?;
                match verb {
                    "drain" => Some(Page::Drain { name, drained: true }),
                    "resume" => Some(Page::Drain { name, drained: false }),
                    _ => None,
                }
            }
        }
    }

    fn allowed(&self) -> &'static str {
        match self {
            Page::Start | Page::Health | Page::Status | Page::Explain | Page::Requests | Page::Metrics => {
                "GET, HEAD"
            }
            Page::Events => "GET",
            Page::Drain { .. } => "POST",
        }
    }
}

impl Admin {
    /// `listen` is the address of the admin listener, `token` what its callers must show.
    #[must_use]
    pub fn new(listen: SocketAddr, token: Option<SecretString>, doors: Doors) -> Self {
        let live = Live::new(Arc::clone(&doors.stir));
        Self { access: Access::new(listen, token), doors, page: Document::new(), live }
    }

    /// Looks at the pool, remembers, and tells the watchers. Never ends: dropped with its runtime.
    pub async fn look(self: Rc<Self>) {
        loop {
            self.live.look(clock::now(), &self.doors);
            self.live.pause().await;
        }
    }

    /// Ends the streams of the watchers.
    pub fn end(&self) {
        self.live.end();
    }

    /// The answer to a request; its body does not matter.
    fn answer(&self, request: &request::Parts) -> Answer {
        let page = Page::of(request.uri.path());
        // Platforms ask for health without a token, by whatever name they know us; it tells nothing.
        let free = matches!(page, Some(Page::Health));
        if !self.access.named_well(request, free) {
            return plain(
                StatusCode::FORBIDDEN,
                "unknown host name; use a loopback name or set admin_token\n",
            );
        }
        if !free && !self.access.token_shown(&request.headers) {
            let mut answer = plain(StatusCode::UNAUTHORIZED, "the admin token is missing or wrong\n");
            let challenge = HeaderValue::from_static("Basic realm=\"sidestep\", charset=\"UTF-8\"");
            answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            return answer;
        }
        let Some(page) = page else {
            return plain(StatusCode::NOT_FOUND, "not found\n");
        };
        if !page.allowed().split(", ").any(|method| request.method == method) {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(page.allowed()));
            return answer;
        }
        if request.method == Method::POST && !access::same_origin(request) {
            return plain(StatusCode::FORBIDDEN, "only from our own origin\n");
        }
        self.show(&request.uri, &page)
    }

    fn show(&self, uri: &Uri, page: &Page<'_>) -> Answer {
        match page {
            Page::Start => self.start(),
            Page::Events => self.events(),
            Page::Health => match health(uri.path(), (self.doors.readiness)()) {
                Some((status, text)) => plain(status, text),
                None => plain(StatusCode::NOT_FOUND, "not found\n"),
            },
            Page::Status => told(StatusCode::OK, &(self.doors.status)(&(self.doors.pool)())),
            Page::Explain => match ExplainAsk::read(uri.query()) {
                Err(error) => told(StatusCode::BAD_REQUEST, &ExplainProblem { error }),
                Ok(ask) => match (self.doors.explain)(&ask) {
                    Ok(document) => told(StatusCode::OK, &document),
                    Err(error) => told(StatusCode::NOT_FOUND, &ExplainProblem { error }),
                },
            },
            Page::Requests => match RequestsAsk::read(uri.query()) {
                Err(error) => told(StatusCode::BAD_REQUEST, &ExplainProblem { error }),
                Ok(ask) => {
                    let document = requests::document(&ask, &(self.doors.requests)(&ask));
                    typed(StatusCode::OK, "application/json", document)
                }
            },
            Page::Metrics => typed(StatusCode::OK, metrics::CONTENT_TYPE, (self.doors.metrics)()),
            Page::Drain { name, drained } => {
                let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
                if (self.doors.set_drained)(&name, *drained) {
                    plain(StatusCode::OK, if *drained { "drained\n" } else { "resumed\n" })
                } else {
                    plain(StatusCode::NOT_FOUND, "no backend has this name\n")
                }
            }
        }
    }
}

impl Admin {
    fn start(&self) -> Answer {
        let mut answer = typed(StatusCode::OK, "text/html; charset=utf-8", self.page.body.clone());
        answer.headers_mut().insert(CONTENT_SECURITY_POLICY, self.page.policy.clone());
        answer
    }

    fn events(&self) -> Answer {
        let text = match self.live.watch(&self.doors) {
            Ok(watch) => {
                let mut answer = typed(StatusCode::OK, "text/event-stream", Bytes::new());
                *answer.body_mut() = AdminBody(Kind::Live(watch));
                // nginx would collect the events otherwise.
                let unbuffered = HeaderName::from_static("x-accel-buffering");
                answer.headers_mut().insert(unbuffered, HeaderValue::from_static("no"));
                return answer;
            }
            Err(Unwatched::Full) => "as many watch already as may; close another page\n",
            Err(Unwatched::Ended) => "stopping\n",
        };
        let mut answer = plain(StatusCode::SERVICE_UNAVAILABLE, text);
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
        answer
    }
}

/// As JSON.
fn told(status: StatusCode, document: &impl Serialize) -> Answer {
    match serde_json::to_vec(document) {
        Ok(document) => typed(status, "application/json", document),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the document cannot be shown\n"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    typed(status, "text/plain; charset=utf-8", text)
}

fn typed(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Answer {
    /// Nothing here may be framed, sniffed, cached, or run.
    const GUARDS: [(HeaderName, &str); 5] = [
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        (http::header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (http::header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (CACHE_CONTROL, "no-store"),
    ];
    let mut answer = Response::new(AdminBody::whole(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    for (name, value) in GUARDS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

impl Handler for Admin {
    type Body = AdminBody;

    async fn handle(self: Rc<Self>, request: Request<Incoming>, _: Peer) -> Response<Self::Body> {
        let (request, _) = request.into_parts();
        self.answer(&request)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::RefCell;

    use crate::balance::Explanation;

    use super::status::tests::document;
    use super::*;

    pub(in super::super) fn doors() -> Doors {
        Doors {
            readiness: Rc::new(|| Readiness::Draining),
            pool: Rc::new(|| PoolSnapshot { in_flight: 0, backends: Vec::new(), deployments: Vec::new() }),
            stir: Arc::default(),
            changes: Rc::new(|| 0),
            failed: Rc::new(Failed::default),
            status: Rc::new(|_| document()),
            explain: Rc::new(|ask| {
                let explanation = Explanation { known: true, backends: Vec::new() };
                match ask.deployment.as_str() {
                    "nowhere" => Err("no backend serves it".to_owned()),
                    name => Ok(ExplainDocument::new(name, ask.tokens(), &explanation)),
                }
            }),
            requests: Rc::new(|_| Troubled::default()),
            metrics: Rc::new(|| "# EOF\n".to_owned()),
            set_drained: Rc::new(|_, _| false),
        }
    }

    fn admin(listen: &str, token: Option<&str>, drained: &Rc<RefCell<Vec<(String, bool)>>>) -> Admin {
        let drained = Rc::clone(drained);
        let set_drained = Rc::new(move |name: &str, to| {
            drained.borrow_mut().push((name.to_owned(), to));
            name != "nowhere"
        });
        let doors = Doors { set_drained, ..doors() };
        Admin::new(listen.parse().unwrap(), token.map(SecretString::from), doors)
    }

    fn request(line: &str, headers: &[(&str, &str)]) -> request::Parts {
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn ask(admin: &Admin, line: &str, headers: &[(&str, &str)]) -> u16 {
        admin.answer(&request(line, headers)).status().as_u16()
    }

    const HERE: (&str, &str) = ("host", "127.0.0.1:9080");

    #[test]
    fn each_path_has_its_answer_and_others_have_none() {
        let admin = admin("127.0.0.1:9080", None, &Rc::default());
        for (line, status) in [
            ("GET /", 200),
            ("HEAD /", 200),
            ("GET /events", 200),
            ("HEAD /events", 405),
            ("POST /", 405),
            ("GET /healthz", 200),
            ("GET /livez", 200),
            ("GET /readyz", 503),
            ("GET /status", 200),
            ("HEAD /status", 200),
            ("GET /status?x=1", 200),
            ("GET /explain?deployment=gpt-4o&bytes=4000", 200),
            ("HEAD /explain?deployment=gpt-4o", 200),
            ("GET /explain", 400),
            ("GET /requests", 200),
            ("HEAD /requests?id=d8341cfa6d40bf72", 200),
            ("GET /requests?each=x", 400),
            ("POST /requests", 405),
            ("GET /explain?deployment=nowhere", 404),
            ("POST /explain?deployment=gpt-4o", 405),
            ("GET /metrics", 200),
            ("GET /nothing", 404),
            ("GET /backends/west", 404),
            ("POST /backends/west/delete", 404),
            ("POST /status", 405),
            ("GET /backends/west/drain", 405),
            ("DELETE /metrics", 405),
        ] {
            assert_eq!(ask(&admin, line, &[HERE]), status, "{line}");
        }
        let answer = admin.answer(&request("POST /metrics", &[HERE]));
        assert_eq!(answer.headers()["allow"], "GET, HEAD");
    }

    #[test]
    fn every_answer_carries_its_type_and_the_guards() {
        let admin = admin("127.0.0.1:9080", None, &Rc::default());
        for (line, media_type) in [
            ("GET /", "text/html; charset=utf-8"),
            ("GET /events", "text/event-stream"),
            ("GET /status", "application/json"),
            ("GET /explain", "application/json"),
            ("GET /metrics", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
            ("GET /nothing", "text/plain; charset=utf-8"),
        ] {
            let answer = admin.answer(&request(line, &[HERE]));
            let headers = answer.headers();
            assert_eq!(headers["content-type"], media_type);
            assert_eq!(headers["x-content-type-options"], "nosniff");
            assert_eq!(headers["cache-control"], "no-store");
            assert!(headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
        }
    }

    #[test]
    fn the_token_is_asked_for_everywhere_but_at_health() {
        let admin = admin("0.0.0.0:9080", Some("t0ken:x"), &Rc::default());
        let host = ("host", "sidestep.svc:9080");
        assert_eq!(ask(&admin, "GET /healthz", &[host]), 200);
        assert_eq!(ask(&admin, "GET /readyz", &[host]), 503);
        for line in [
            "GET /",
            "GET /events",
            "GET /status",
            "GET /explain?deployment=gpt-4o",
            "GET /metrics",
            "GET /nothing",
            "POST /backends/west/drain",
        ] {
            let answer = admin.answer(&request(line, &[host]));
            assert_eq!(answer.status(), 401, "{line}");
            assert!(answer.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic "));
        }
        assert_eq!(ask(&admin, "GET /status", &[host, ("authorization", "Bearer t0ken:x")]), 200);
        // "anyone:t0ken:x" and ":t0ken:y"
        assert_eq!(ask(&admin, "GET /status", &[host, ("authorization", "Basic YW55b25lOnQwa2VuOng=")]), 200);
        assert_eq!(ask(&admin, "GET /status", &[host, ("authorization", "Basic OnQwa2VuOnk=")]), 401);
        assert!(!format!("{admin:?}").contains("t0ken"));
    }

    #[test]
    fn without_a_token_only_names_of_this_machine_are_answered() {
        let admin = admin("127.0.0.1:9080", None, &Rc::default());
        assert_eq!(ask(&admin, "GET /status", &[("host", "localhost:9080")]), 200);
        let explain = "GET /explain?deployment=gpt-4o";
        for path in
            ["GET /", "GET /events", "GET /status", explain, "GET /metrics", "POST /backends/west/drain"]
        {
            assert_eq!(ask(&admin, path, &[("host", "rebound.example:9080")]), 403);
            assert_eq!(ask(&admin, path, &[]), 403);
        }
    }

    #[test]
    fn a_backend_is_drained_and_resumed_by_name_from_our_own_origin_only() {
        let drained = Rc::default();
        let admin = admin("127.0.0.1:9080", None, &drained);
        let drain = "POST /backends/west%20europe/drain";
        for headers in [
            &[HERE, ("origin", "https://evil.example")][..],
            &[HERE, ("origin", "null")],
            &[HERE, ("origin", "http://127.0.0.1:8080")],
            &[HERE, ("sec-fetch-site", "cross-site")],
        ] {
            assert_eq!(ask(&admin, drain, headers), 403, "{headers:?}");
        }
        assert!(drained.borrow().is_empty());
        assert_eq!(ask(&admin, drain, &[HERE]), 200);
        assert_eq!(ask(&admin, drain, &[HERE, ("origin", "http://127.0.0.1:9080")]), 200);
        assert_eq!(ask(&admin, "POST /backends/west/resume", &[HERE]), 200);
        assert_eq!(ask(&admin, "POST /backends/nowhere/drain", &[HERE]), 404);
        let expected = [("west europe", true), ("west europe", true), ("west", false), ("nowhere", true)];
        assert_eq!(*drained.borrow(), expected.map(|(name, to)| (name.to_owned(), to)));
    }

    /// One request over a real socket, closed by the server after the answer.
    fn over_a_socket(request: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        use crate::net::server::{ServerLimits, Stop, serve};

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let admin = Rc::new(admin("127.0.0.1:9080", None, &Rc::default()));
            let (_run, stop) = tokio::sync::watch::channel(Stop::Run);
            tokio::task::spawn_local(serve(listener, admin, ServerLimits::default(), stop));
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        })
    }

    #[test]
    fn it_answers_over_a_real_socket() {
        let head = "HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let answer = over_a_socket(&format!("GET /metrics {head}"));
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n# EOF\n"), "{answer}");
        let answer = over_a_socket(&format!("HEAD /metrics {head}"));
        assert!(answer.contains("content-length: 6\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    }
}
