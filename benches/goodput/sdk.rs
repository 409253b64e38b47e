//! The trace's callers over real sockets: each conversation a caller of its own, with its SDK's retries.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http::{HeaderMap, Request as HttpRequest};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, sleep_until};

use crate::caller;
use crate::traffic::{MEASURED, Request, WARM_UP};
use crate::units::Seconds;

/// Azure's 429s are known by their header; a caller without an answer for so long has lost its request.
const PATIENCE: Duration = Duration::from_secs(600);

/// What callers met, of requests that began in the measured time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Met {
    pub(crate) callers: usize,
    pub(crate) asked: u64,
    pub(crate) lost: u64,
    pub(crate) refused_first: u64,
    /// Errors told, other than 429.
    pub(crate) other: u64,
    /// The most that a request was sent too late, for the machine was busy.
    pub(crate) late: Seconds,
}

struct Callers {
    address: SocketAddr,
    /// Kept connections, by conversation.
    kept: RefCell<HashMap<u64, SendRequest<Full<Bytes>>>>,
    rng: RefCell<Rng>,
    met: RefCell<Met>,
}

/// Plays the trace from now on; `at_measured` is called when the measured time begins.
pub(crate) async fn play(
    address: SocketAddr,
    trace: Vec<Request>,
    seed: u64,
    at_measured: impl FnOnce(),
) -> Met {
    let start = Instant::now();
    let callers = Rc::new(Callers {
        address,
        kept: RefCell::default(),
        rng: RefCell::new(Rng::with_seed(seed)),
        met: RefCell::default(),
    });
    let mut conversations: Vec<u64> = trace.iter().map(|request| request.conversation).collect();
    conversations.sort_unstable();
    conversations.dedup();
    callers.met.borrow_mut().callers = conversations.len();
    let mut at_measured = Some(at_measured);
    let mut asked = Vec::with_capacity(trace.len());
    for request in trace {
        if request.at >= WARM_UP
            && let Some(tell) = at_measured.take()
        {
            sleep_until(start + Duration::from_secs_f64(WARM_UP)).await;
            tell();
        }
        let due = start + Duration::from_secs_f64(request.at);
        sleep_until(due).await;
        let late = due.elapsed().as_secs_f64();
        let most = &mut callers.met.borrow_mut().late;
        *most = most.max(late);
        asked.push(spawn_local(ask(Rc::clone(&callers), request)));
    }
    sleep_until(start + Duration::from_secs_f64(WARM_UP + MEASURED)).await;
    for asked in asked {
        let _lost = asked.await;
    }
    *callers.met.borrow()
}

/// One request, through all its SDK's tries.
async fn ask(callers: Rc<Callers>, request: Request) {
    let measured = request.at >= WARM_UP;
    let body = body(&request);
    callers.met.borrow_mut().asked += u64::from(measured);
    let mut retries = 0;
    loop {
        let told = tokio::time::timeout(PATIENCE, callers.call(request.conversation, body.clone())).await;
        let (status, wait) = match told {
            Ok(Some((200, _))) => return,
            Ok(Some((status, headers))) => (status, wait(&headers)),
            // No answer, or a broken one: the SDKs treat it like a 5xx.
            Ok(None) | Err(_) => (500, None),
        };
        let luck = callers.rng.borrow_mut().f64();
        let again = caller::again_in(status, wait, (retries, caller::RETRIES), luck);
        {
            let mut met = callers.met.borrow_mut();
            met.refused_first += u64::from(measured && retries == 0);
            met.other += u64::from(status != 429);
            met.lost += u64::from(measured && again.is_none());
        }
        let Some(pause) = again else { return };
        retries += 1;
        sleep(Duration::from_secs_f64(pause)).await;
    }
}

impl Callers {
    /// Status and headers of one answer that came whole.
    async fn call(&self, conversation: u64, body: Bytes) -> Option<(u16, HeaderMap)> {
        let kept = self.kept.borrow_mut().remove(&conversation).filter(|kept| !kept.is_closed());
        let mut sender = match kept {
            Some(kept) => kept,
            None => {
                let stream = TcpStream::connect(self.address).await.ok()?;
                stream.set_nodelay(true).ok()?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
                spawn_local(connection);
                sender
            }
        };
        sender.ready().await.ok()?;
        let request = HttpRequest::post("/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21")
            .header("host", self.address.to_string())
            .header("content-type", "application/json")
            .header("api-key", "does-not-matter")
            .body(Full::new(body))
            .ok()?;
        let (head, mut answer) = sender.send_request(request).await.ok()?.into_parts();
        while let Some(frame) = answer.frame().await {
            frame.ok()?;
        }
        self.kept.borrow_mut().insert(conversation, sender);
        Some((head.status.as_u16(), head.headers))
    }
}

/// As the SDKs read it: milliseconds first.
fn wait(headers: &HeaderMap) -> Option<Seconds> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.parse::<f64>().ok();
    number("retry-after-ms").map(|wait| wait / 1_000.0).or_else(|| number("retry-after"))
}

/// A chat of as many tokens as the trace says; four characters are one.
fn body(request: &Request) -> Bytes {
    const NAMED: u64 = 8;
    let words = |tokens: u64| "tok ".repeat(usize::try_from(tokens).unwrap_or_default());
    let text = format!(
        r#"{{"messages":[{{"role":"system","content":"{}"}},{{"role":"user","content":"conversation {:019}"}},{{"role":"user","content":"{}"}}],"max_tokens":{},"stream":{}}}"#,
        words(request.shared),
        request.conversation >> 1,
        words(request.prompt.saturating_sub(request.shared + NAMED)),
        request.max_tokens,
        request.streamed
    );
    text.into()
}
