//! Callers: what they send, and what they may be told.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use sidestep::net::server::{LocalStop, Peer, ServerLimits, serve_http1};
use sidestep::proxy::Proxy;
use tokio::io::duplex;
use tokio::task;
use tokio::time::sleep;

use super::backend::{SECRET, World};
use super::book::{self, Book, Next, Outcome, Standing};
use super::schedule::{Call, Kind, Ms};

/// The callers' side of the balancer.
#[derive(Clone, Debug)]
pub(crate) struct Front {
    pub(crate) proxy: Rc<Proxy>,
    pub(crate) stop: LocalStop,
}

/// What a caller was told.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) status: u16,
    pub(crate) wait: Option<Ms>,
    backend: Option<String>,
    seconds: Option<Ms>,
}

impl Told {
    fn new(status: u16, headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let number = |name| text(name)?.parse().ok();
        Self {
            status,
            backend: text("x-sidestep-backend"),
            wait: number("retry-after-ms"),
            seconds: number("retry-after"),
        }
    }
}

fn body(call: &Call) -> String {
    let filler = if call.long { "long ".repeat(1_200) } else { String::new() };
    let limit = if call.big { 6_000 } else { 20 };
    let model = call.deployment.as_deref().unwrap_or_default();
    match call.kind {
        Kind::Chat => format!("{{\"messages\":[],\"max_tokens\":{limit},\"user\":\"{filler}\"}}"),
        Kind::ChatStream => format!("{{\"messages\":[],\"max_tokens\":{limit},\"stream\":true}}"),
        Kind::Embeddings => format!("{{\"input\":\"{filler}\",\"max_tokens\":{limit}}}"),
        Kind::Response => format!("{{\"model\":\"{model}\",\"max_output_tokens\":{limit}}}"),
        Kind::ResponseStream => {
            format!("{{\"stream\":true,\"model\":\"{model}\",\"max_output_tokens\":{limit}}}")
        }
        Kind::Background => {
            format!("{{\"background\":true,\"model\":\"{model}\",\"max_output_tokens\":{limit}}}")
        }
        Kind::VectorStore => "{\"name\":\"books\"}".to_owned(),
        Kind::Models => String::new(),
    }
}

fn request(call: &Call, id: usize, body: String) -> Request<Full<Bytes>> {
    let deployment = call.deployment.as_deref().unwrap_or_default();
    let path = match call.kind {
        Kind::Chat | Kind::ChatStream => {
            format!("/openai/deployments/{deployment}/chat/completions?api-version=1")
        }
        Kind::Embeddings => format!("/openai/deployments/{deployment}/embeddings?api-version=1"),
        Kind::Response | Kind::ResponseStream | Kind::Background => "/openai/v1/responses".to_owned(),
        Kind::VectorStore => "/openai/v1/vector_stores".to_owned(),
        Kind::Models => "/openai/v1/models/of-azure".to_owned(),
    };
    let mut request = Request::builder()
        .method(if call.kind == Kind::Models { "GET" } else { "POST" })
        .uri(path)
        .header(HOST, "localhost")
        .header("x-ms-client-request-id", id)
        .header("api-key", format!("{SECRET}-of-the-caller"))
        .header("authorization", format!("Bearer {SECRET}-of-the-caller"));
    if call.kind != Kind::Models {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    if let Some(patience) = call.patience_s {
        request = request.header("x-stainless-read-timeout", patience);
    }
    request.body(Full::new(Bytes::from(body))).unwrap()
}

/// One call from its first byte to its end, and what may be said of it. `None` where the caller left.
pub(crate) async fn call(world: Rc<World>, front: Front, call: Call) -> Option<Told> {
    let text = body(&call);
    let now = world.now();
    let id = {
        let mut book = world.book.borrow_mut();
        let patience = call.patience_s.map_or(Ms::MAX, |patience| patience * 1_000);
        let deadline = now + book.limits.deadline.min(patience);
        book.ask(call.clone(), deadline, text.len());
        let id = book.requests.len() - 1;
        book.note(now, || format!("request {id}: {call:?}"));
        id
    };
    let (ours, theirs) = duplex(call.pipe);
    let peer = Peer { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)) };
    let Front { proxy, stop } = front;
    let serving = task::spawn_local(serve_http1(theirs, peer, proxy, ServerLimits::default(), stop.ear()));
    world.tasks.borrow_mut().insert(serving.id(), id);
    let told = {
        let (mut sender, connection) = http1::handshake(TokioIo::new(ours)).await.unwrap();
        let exchange = async {
            let response = sender.send_request(request(&call, id, text)).await;
            heard(&world, id, response).await
        };
        let drive = async {
            let _ended = connection.await;
            std::future::pending::<()>().await;
        };
        let leave = async {
            match call.leaves_after {
                Some(after) => sleep(Duration::from_millis(after)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = leave => None,
            told = exchange => Some(told),
            () = drive => None,
        }
    };
    if told.is_none() {
        world.book.borrow_mut().left(id, world.now());
        sleep(Duration::from_millis(2)).await;
        let open = world.book.borrow().open(id);
        if open {
            world.violated("I6", &format!("request {id}: its caller left, and a backend still works on it"));
        }
    }
    {
        let mut book = world.book.borrow_mut();
        if let Some(&last) = book.requests[id].attempts.last() {
            book.ended(last, world.now());
        }
        book.requests[id].done = true;
    }
    world.tasks.borrow_mut().remove(&serving.id());
    told
}

/// Judges the head, reads the body, judges that.
async fn heard(world: &World, id: usize, response: hyper::Result<Response<Incoming>>) -> Told {
    let now = world.now();
    let (head, mut body) = match response {
        Ok(response) => response.into_parts(),
        Err(error) => {
            world.violated("I9", &format!("request {id} got no answer: {error}"));
            return Told { status: 0, wait: None, backend: None, seconds: None };
        }
    };
    let told = Told::new(head.status.as_u16(), &head.headers);
    let wrong = {
        let mut book = world.book.borrow_mut();
        book.note(now, || format!("request {id} is told {told:?}"));
        book.goes_on(id, now);
        book.requests[id].answered = true;
        check_head(&book, id, &told, now)
    };
    let slow = world.book.borrow().requests[id].call.slow;
    let mut read = Vec::new();
    let complete = loop {
        match body.frame().await {
            Some(Ok(frame)) => read.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Some(Err(_)) => break false,
            None => break true,
        }
        if let Some(slow) = slow {
            sleep(Duration::from_millis(slow)).await;
        }
    };
    let text = String::from_utf8_lossy(&read).into_owned();
    let mut book = world.book.borrow_mut();
    let full = text.contains("\"overloaded\"") && book.requests[id].attempts.is_empty() && book.is_full();
    if let Some((invariant, text)) = wrong.filter(|_| !full) {
        book.violated(now, invariant, &text);
    }
    let now = world.now();
    if let Some(text) = check_body(&book, id, &told, &read, complete) {
        book.violated(now, "I4", &format!("request {id}: {text}: {:?}", String::from_utf8_lossy(&read)));
    }
    book.note(now, || format!("request {id} ends, complete: {complete}"));
    told
}

/// Whether this may be said now.
fn check_head(book: &Book, id: usize, told: &Told, now: Ms) -> Option<(&'static str, String)> {
    let asked = &book.requests[id];
    let last = asked.attempts.last().map(|attempt| &book.attempts[*attempt]);
    if told.backend.is_some() && told.seconds.is_some_and(|seconds| seconds > 59) {
        return Some(("I3", format!("request {id}: a wait is passed back that SDKs ignore: {told:?}")));
    }
    if let Some(last) = last
        && asked.next == Next::Nothing
    {
        let named = told.backend.as_ref() == Some(&book.sites[last.site].name) && told.status == last.status;
        let right = match last.outcome {
            None => false,
            Some((Outcome::Good | Outcome::PassedBack, _)) => named,
            Some((Outcome::OutOfTime, _)) => told.status == 504 && told.backend.is_none(),
            Some((
                Outcome::Closed | Outcome::Silent | Outcome::ConnectRefused | Outcome::ConnectFailed,
                _,
            )) => matches!(told.status, 502 | 504) && told.backend.is_none(),
            Some((Outcome::Refused, _)) => told.status == 502,
            Some(_) => named,
        };
        let text = || format!("request {id}: {told:?} does not follow from {:?}", last.outcome);
        return (!right).then(|| ("I4", text()));
    }
    if told.status < 400 {
        return Some(("I4", format!("request {id}: {told:?}, and no backend answered")));
    }
    let serving = book.serving(id, now);
    if now < asked.deadline {
        let able = serving.iter().find(|(site, standing)| {
            !book.has_tried(id, *site)
                && matches!(standing, Standing::Admits | Standing::ProbeDue | Standing::Resting(_))
        });
        if let Some((site, standing)) = able {
            let name = &book.sites[*site].name;
            return Some((
                "I1",
                format!("request {id}: {told:?}, but {name} was not tried and is {standing:?}"),
            ));
        }
    }
    let (429, None, Some(wait)) = (told.status, &told.backend, told.wait) else { return None };
    let until = serving.iter().filter_map(|(_, standing)| match standing {
        Standing::Out | Standing::Blocked(_) => None,
        Standing::Cooling(until) => Some(until - now),
        // A rest is our own caution: whoever finds nothing better goes there at once.
        Standing::Resting(_)
        | Standing::Probing
        | Standing::ProbeDue
        | Standing::Admits
        | Standing::Unsure => Some(0),
    });
    let soonest = until.min().unwrap_or_default().min(59_000);
    let seconds = wait.div_ceil(1_000).max(1);
    (wait < soonest || wait > 59_000 || told.seconds != Some(seconds))
        .then(|| ("I3", format!("request {id}: {told:?}, and the soonest recovery is in {soonest} ms")))
}

/// Whether these are the bytes of one backend, and whether a cut looks like one.
fn check_body(book: &Book, id: usize, told: &Told, read: &[u8], complete: bool) -> Option<&'static str> {
    let asked = &book.requests[id];
    told.backend.as_ref()?;
    if told.status != 200 {
        let mut attempts = asked.attempts.iter().map(|attempt| &book.attempts[*attempt]);
        let same = attempts.any(|attempt| attempt.status == told.status && attempt.written == read);
        return (!(same && complete)).then_some("no backend said this");
    }
    let last: &book::Attempt = &book.attempts[*asked.attempts.last()?];
    let Some(rest) = read.strip_prefix(&last.written[..]) else {
        let begun = last.written.starts_with(read) && !complete && !last.finished;
        return (!begun).then_some("these are not the backend's bytes");
    };
    // A caller that does not read in time does not get the last words whole.
    let told_of_end = [&b"data: {\"error\":"[..], b"event: error\n"].iter().any(|words| {
        let common = words.len().min(rest.len());
        rest[..common] == words[..common]
    });
    if last.finished {
        return (!complete || !rest.is_empty()).then_some("a whole answer did not come whole");
    }
    if complete {
        return Some("a cut answer looks complete");
    }
    (!rest.is_empty() && !told_of_end).then_some("there is more than the backend said")
}
