//! Sends the spans that wait to an OTLP receiver, in batches, from the control thread. No request waits for it, and none
//! fails by it: what cannot be sent is kept within its bound, then dropped and counted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::net::upstream::{Origin, RequestBody, Reuse, SendError, Tls, UnusableOrigin, Upstream};
use crate::telemetry::text::chain;
use crate::telemetry::traces::{Spans, TraceSettings, message, rejected};

/// So long spans wait for others, where no batch is full before.
const PACE: Duration = Duration::from_secs(1);

/// A receiver that has not answered by then does not.
const PATIENCE: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);

/// Before a batch that was not taken is sent again: from, doubling, to.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// At the end nobody waits longer for a receiver.
pub(super) const LONGEST_END: Duration = Duration::from_secs(5);

/// A receiver says which spans it did not take, and why.
const LARGEST_ANSWER: usize = 64 * 1024;

/// The spans of all workers on their way out.
pub(super) struct Sending {
    spans: Arc<Spans>,
    /// Told `true` it sends what waits and ends; where the sender is gone it ends with the batch in hand, and whoever
    /// comes after has the rest.
    running: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

impl Sending {
    pub(super) fn new(spans: Arc<Spans>) -> Self {
        Self { spans, running: None }
    }

    /// From now on by these settings.
    pub(super) fn begin(&mut self, settings: &TraceSettings, tls: &Tls) {
        self.running = None;
        let receiver = settings.endpoint.as_ref().map(|endpoint| Receiver::new(endpoint, settings, tls));
        let receiver = receiver.transpose().unwrap_or_else(|error| {
            tracing::error!(%error, "nothing is traced");
            None
        });
        // What nobody would send is not gathered.
        self.spans.set(receiver.as_ref().map(|_| settings.sample));
        if let Some(receiver) = receiver {
            let (stop, stopped) = watch::channel(false);
            let running = receiver.run(Arc::clone(&self.spans), stopped);
            self.running = Some((stop, tokio::task::spawn_local(running)));
        }
    }

    /// Sends what waits, within this time.
    pub(super) async fn finish(&mut self, time: Duration) {
        let Some((stop, running)) = self.running.take() else { return };
        stop.send_replace(true);
        if timeout(time, running).await.is_err() {
            tracing::warn!("the last traces were not sent in time");
        }
    }
}

/// Who takes them.
struct Receiver {
    upstream: Upstream,
    name: String,
    path: PathAndQuery,
    headers: HeaderMap,
    resource: Vec<(String, String)>,
    failing: bool,
}

/// Why a batch was not taken.
#[derive(Debug, Error)]
enum Trouble {
    #[error("no answer within {}s", PATIENCE.as_secs())]
    TimedOut,
    #[error(transparent)]
    Send(#[from] SendError),
    #[error("answered {status}")]
    Refused { status: StatusCode, wait: Option<Duration> },
}

impl Trouble {
    /// Whether the same batch may be taken later, as OTLP has it; how long to wait where the receiver says so.
    fn again(&self) -> (bool, Option<Duration>) {
        match self {
            Self::Refused { status, wait } => (matches!(status.as_u16(), 429 | 502..=504), *wait),
            Self::TimedOut | Self::Send(_) => (true, None),
        }
    }
}

impl Receiver {
    fn new(endpoint: &Uri, settings: &TraceSettings, tls: &Tls) -> Result<Self, UnusableOrigin> {
        let secure = endpoint.scheme_str() == Some("https");
        let host = endpoint.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = endpoint.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let origin = Origin { tls: secure, host, port, path_prefix: String::new(), http2: false };
        let name = origin.authority();
        let mut headers: HeaderMap = settings.headers.iter().cloned().collect();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("sidestep/", env!("CARGO_PKG_VERSION"))));
        Ok(Self {
            upstream: Upstream::new(origin, tls, CONNECT)?,
            name,
            path: endpoint.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")),
            headers,
            resource: settings.resource.clone(),
            failing: false,
        })
    }

    /// Ends once it is told to stop and has tried to send everything.
    async fn run(mut self, spans: Arc<Spans>, mut stopped: watch::Receiver<bool>) {
        loop {
            let stop = tokio::select! {
                _ = stopped.changed() => true,
                () = spans.full() => false,
                () = sleep(PACE) => false,
            };
            loop {
                if stopped.has_changed().is_err() {
                    return;
                }
                let batch = spans.take();
                if batch.is_empty() {
                    break;
                }
                let count = batch.len();
                let body = Bytes::from(message(&self.resource, batch));
                let lost = self.deliver(&body, count, &mut stopped).await;
                spans.count_dropped(lost);
            }
            if stop {
                return;
            }
        }
    }

    /// Until it is taken or refused, or there is no time left to try again. How many spans were lost.
    async fn deliver(&mut self, body: &Bytes, count: usize, stopped: &mut watch::Receiver<bool>) -> usize {
        let mut pause = FIRST_PAUSE;
        loop {
            let trouble = match timeout(PATIENCE, self.post(body)).await.unwrap_or(Err(Trouble::TimedOut)) {
                Ok(rejected) => {
                    if std::mem::replace(&mut self.failing, false) {
                        tracing::info!(receiver = self.name, "traces are taken again");
                    }
                    return rejected.min(count);
                }
                Err(trouble) => trouble,
            };
            if !std::mem::replace(&mut self.failing, true) {
                tracing::warn!(receiver = self.name, error = %chain(&trouble), "traces are not taken");
            }
            let (again, wait) = trouble.again();
            let ending = *stopped.borrow() || stopped.has_changed().is_err();
            if !again || ending {
                return count;
            }
            tokio::select! {
                _ = stopped.changed() => {}
                () = sleep(wait.unwrap_or(pause).clamp(FIRST_PAUSE, LONGEST_PAUSE)) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn post(&self, body: &Bytes) -> Result<usize, Trouble> {
        let send = |reuse| {
            let body = RequestBody::whole([body.clone(), Bytes::new(), Bytes::new()]);
            self.upstream.send(Method::POST, self.path.clone(), self.headers.clone(), body, reuse)
        };
        let answer = match send(Reuse::Allowed).await {
            // It was kept for too long: that says nothing of the receiver.
            Err(SendError::Closed { reused: true, .. }) => send(Reuse::Never).await?,
            sent => sent?,
        };
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, LARGEST_ANSWER).collect().await;
        if head.status.is_success() {
            // It has them, whatever is wrong with its words.
            return Ok(body.map_or(0, |body| rejected(&body.to_bytes())));
        }
        let wait = head.headers.get(RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.trim().parse().ok());
        Err(Trouble::Refused { status: head.status, wait: wait.map(Duration::from_secs) })
    }
}
