//! One attempt at one lane: send, wait for enough of the answer to judge it, judge.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::response::Parts as Head;
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame};
use tokio::time::timeout_at;

use super::committed::{Committed, ProxyBody};
use super::edge::Edge;
use super::error::ProxyError;
use super::headers;
use super::ledger::Ledger;
use super::objects::Bond;
use super::place::Place;
use super::prelude::{self, Opened};
use super::request::Understood;
use crate::balance::{
    Answer as Told, Ask, AttemptFailure, Attempts, Judgement, Next, Tier, Verdict, judge, judge_failure,
};
use crate::identity::Presented;
use crate::identity::callers::Callers;
use crate::net::connect::ConnectError;
use crate::net::upstream::{Answer, AnswerError, Reuse, SendError};
use crate::openai::{Api, ServiceTier, UsageScanner};
use crate::telemetry::access::Ended;
use crate::telemetry::clock;
use crate::telemetry::request_id::RequestId;
use crate::telemetry::text::chain;

/// An answer of known length up to here is collected before the commit: a break in its middle can still fail
/// over, and it leaves in one write.
const COLLECTED: u64 = 64 * 1024;

/// An error's body gets so long to follow its head: it is small and was written at once.
const ERROR_BODY_TIME: Duration = Duration::from_secs(2);

/// Where the status says all that matters, so long: the body is only read for its message, and the next lane waits.
const MESSAGE_TIME: Duration = Duration::from_millis(50);

/// What one attempt is about.
pub(super) struct Attempt<'a> {
    pub(super) id: RequestId,
    pub(super) edge: &'a Edge,
    /// Who admitted the request, and so know which tokens are keys of ours.
    pub(super) callers: &'a Callers,
    pub(super) parts: &'a Parts,
    pub(super) ask: &'a Ask<'a>,
    pub(super) api: Api,
    pub(super) deadline: Instant,
    pub(super) place: Place,
    pub(super) bond: &'a Bond,
}

/// What comes of it.
pub(super) enum Outcome {
    /// The answer is the caller's.
    Commit(Box<Response<ProxyBody>>),
    /// On to the next lane; an answer to pass back if nothing better comes.
    Next(Option<Box<KeptAnswer>>),
    /// On to the next lane: this one wants the caller's own token, and there is none.
    Tokenless,
    /// On to the next lane: we lack what it takes to open a connection.
    Lacking,
    /// The answer is ours.
    Stop(ProxyError),
}

/// An upstream error that is passed back if nothing better comes.
#[derive(Debug)]
pub(super) struct KeptAnswer {
    backend: usize,
    head: Head,
    body: Bytes,
    explain: Option<header::HeaderValue>,
}

impl KeptAnswer {
    /// The caller gets it after all.
    pub(super) fn pass_back(self, ledger: &mut Ledger) -> Response<ProxyBody> {
        let now = clock::now();
        ledger.commit(now, self.head.status, self.backend);
        let mut response = Response::from_parts(self.head, ProxyBody::full(self.body));
        finish_head(response.headers_mut(), self.explain, ledger);
        ledger.end(now, Ended::Completed);
        response
    }
}

impl Attempt<'_> {
    /// Sends the request, at this moment, to its lane and waits until the answer can be judged.
    pub(super) async fn run(
        self: Box<Self>,
        sent: Instant,
        understood: &mut Understood<'_>,
        attempts: &mut Attempts,
        ledger: &mut Option<Ledger>,
    ) -> Outcome {
        let backend = self.number(ledger);
        if let Some(entry) = ledger {
            entry.tries(sent, backend, self.edge, self.place.pick());
        }
        let handed_over = Cell::new(sent);
        let exchanged = {
            let exchange = pin!(self.exchange(understood, sent, &handed_over));
            waiting(ledger, sent, exchange).await
        };
        if let Some(entry) = ledger {
            entry.worked(handed_over.get().saturating_duration_since(sent));
        }
        match exchanged {
            Ok(response) => self.judge(response, sent, understood, attempts, ledger).await,
            // Its token ended since it was picked, or the caller brings none; the next lane has another.
            Err(Broken::NoToken) => {
                let callers =
                    matches!(self.edge.backends[self.place.pick().backend].credential, Presented::Caller);
                self.abandon(ledger);
                if callers { Outcome::Tokenless } else { Outcome::Next(None) }
            }
            Err(Broken::OutOfTime) => {
                self.close(Verdict::TimedOut, attempts, ledger);
                Outcome::Stop(ProxyError::UpstreamTimeout)
            }
            // The caller's own body broke: that says nothing of the lane.
            Err(Broken::RequestBody(error)) => {
                self.abandon(ledger);
                Outcome::Stop(error)
            }
            // Nor does a connection that we could not open; another lane may have one that is kept.
            Err(Broken::OwnLack) => {
                self.abandon(ledger);
                if understood.repeatable() { Outcome::Lacking } else { Outcome::Stop(ProxyError::Overloaded) }
            }
            Err(Broken::Attempt(failure)) => self.failed(failure, understood, attempts, ledger),
        }
    }

    /// Sends, and waits for the head. A kept-alive connection that turns out dead is replaced, silently, once; so is one
    /// whose backend has not begun with the request. `handed_over` is told when the request was made ready for this
    /// backend, the first time.
    async fn exchange(
        &self,
        understood: &mut Understood<'_>,
        sent: Instant,
        handed_over: &Cell<Instant>,
    ) -> Result<Response<Answer>, Broken> {
        let pick = self.place.pick();
        let backend = &self.edge.backends[pick.backend];
        let there = pick.deployment_there.as_deref();
        let settings = &self.edge.settings;
        let first_byte = settings.first_byte_timeout.map(|limit| sent + limit);
        // Of a stream that does not even begin, the first event is late too.
        let first_event =
            settings.first_event_timeout.filter(|_| self.ask.streamed).map(|limit| sent + limit);
        let limit = [first_byte, first_event].into_iter().flatten().chain([self.deadline]).min();
        let limit = limit.unwrap_or(self.deadline);
        let mut reuse = Reuse::Allowed;
        let (mut now, mut renewed) = (sent, false);
        loop {
            let Some(with) = backend.credential(now, self.callers, &self.parts.headers) else {
                return Err(Broken::NoToken);
            };
            let Some(target) = understood.target(self.parts, &backend.path_prefix, there) else {
                return Err(Broken::Attempt(AttemptFailure::Malformed));
            };
            let Some(body) = understood.body(there) else {
                return Err(Broken::RequestBody(ProxyError::BrokenBody));
            };
            let forwarded = &settings.forward_headers;
            let mut head = headers::upstream(&self.parts.headers, forwarded, backend, with.header);
            if handed_over.get() == sent {
                handed_over.set(clock::now());
            }
            let answered = if understood.socket {
                headers::socket(&self.parts.headers, &mut head);
                // On the heap: the usual request need not make room for it.
                timeout_at(limit.into(), Box::pin(backend.upstream.upgrade(target, head))).await
            } else {
                let method = self.parts.method.clone();
                timeout_at(limit.into(), backend.upstream.send(method, target, head, body, reuse)).await
            };
            let error = match answered {
                Ok(Ok(response)) => {
                    let rejected = with.token.filter(|_| response.status() == StatusCode::UNAUTHORIZED);
                    if !renewed && backend.renewed(rejected, understood.repeatable(), limit).await {
                        (now, renewed) = (clock::now(), true);
                        continue;
                    }
                    return Ok(response);
                }
                Ok(Err(error)) => error,
                Err(_) if limit == self.deadline => return Err(Broken::OutOfTime),
                Err(_) if Some(limit) == first_byte => {
                    return Err(Broken::Attempt(AttemptFailure::FirstByteTimeout));
                }
                Err(_) => return Err(Broken::Attempt(AttemptFailure::FirstEventTimeout)),
            };
            let again = match &error {
                SendError::Closed { reused, .. } => *reused && self.ask.harmless,
                SendError::Unprocessed(_) => true,
                _ => false,
            };
            if again && reuse == Reuse::Allowed && understood.repeatable() {
                (now, reuse) = (clock::now(), Reuse::Never);
                continue;
            }
            if backend.upstream.is_worth_telling(&error) {
                let name = &self.edge.names[pick.backend];
                tracing::warn!(id = %self.id, backend = %name, error = %chain(&error), "no connection to the backend");
            }
            self.tell(&error);
            return Err(broken(&error));
        }
    }

    /// The record has a short word for it; these are for whoever looks closer.
    fn tell(&self, error: &dyn std::error::Error) {
        let name = &self.edge.names[self.place.pick().backend];
        tracing::debug!(id = %self.id, backend = %name, error = %chain(error), "attempt failed");
    }

    /// A head is there: collects as much as its kind needs, then judges.
    async fn judge(
        self: Box<Self>,
        response: Response<Answer>,
        sent: Instant,
        understood: &mut Understood<'_>,
        attempts: &mut Attempts,
        ledger: &mut Option<Ledger>,
    ) -> Outcome {
        let (head, mut answer) = response.into_parts();
        if let Some(entry) = ledger {
            entry.answered(head.status);
        }
        if understood.socket
            && let Some(tunnel) = answer.take_tunnel()
        {
            return self.open(head, tunnel, attempts, ledger);
        }
        // We asked for no upgrade, and nothing is known of what would follow one.
        if head.status.is_informational() {
            return self.failed(AttemptFailure::Malformed, understood, attempts, ledger);
        }
        if !(head.status.is_success() || head.status.is_redirection()) {
            return self.error_answer(head, answer, understood, attempts, ledger).await;
        }
        if is_event_stream(&head.headers) {
            // On the heap: what waits for the head need not make room for it.
            return Box::pin(self.stream(head, answer, sent, understood, attempts, ledger)).await;
        }
        if answer.size_hint().exact().is_some_and(|length| length <= COLLECTED) {
            let idle = self.edge.settings.stream_idle_timeout;
            let collected = collect(&mut answer, idle, self.deadline, ledger).await;
            drop(answer);
            return match collected {
                Ok(body) => self.commit_small(head, body, attempts, ledger),
                Err(Uncollected::Cut(error)) => {
                    self.tell(&error);
                    self.failed(AttemptFailure::Closed, understood, attempts, ledger)
                }
                Err(Uncollected::Late) => {
                    self.failed(AttemptFailure::FirstByteTimeout, understood, attempts, ledger)
                }
                Err(Uncollected::OutOfTime) => {
                    self.close(Verdict::TimedOut, attempts, ledger);
                    Outcome::Stop(ProxyError::UpstreamTimeout)
                }
            };
        }
        self.commit(head, answer, prelude::Held::default(), attempts, ledger)
    }

    /// Not a good answer: its body is read, for what it says and so that the connection can be kept.
    async fn error_answer(
        self: Box<Self>,
        head: Head,
        mut answer: Answer,
        understood: &mut Understood<'_>,
        attempts: &mut Attempts,
        ledger: &mut Option<Ledger>,
    ) -> Outcome {
        let mut held = prelude::Held::default();
        let read = async {
            while held.bytes() < COLLECTED {
                match answer.frame().await {
                    Some(Ok(frame)) => held.push(frame),
                    Some(Err(_)) => return Read::Cut,
                    None => return Read::Whole,
                }
            }
            Read::Begun
        };
        let status = head.status;
        let brief = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
        let time = if brief { MESSAGE_TIME } else { ERROR_BODY_TIME };
        let now = clock::now();
        let limit = self.deadline.min(now + time);
        let read = waiting(ledger, now, pin!(timeout_at(limit.into(), read))).await.unwrap_or(Read::Begun);
        let body = held.joined();
        let judgement = self.judged(head.status, &head.headers, &body, understood, attempts);
        if judgement.next == Next::PassBack || !understood.repeatable() {
            // It speaks of our credential, and cannot be sent elsewhere.
            if matches!(judgement.verdict, Verdict::Refused { .. }) {
                self.close(judgement.verdict, attempts, ledger);
                return Outcome::Stop(ProxyError::BackendRefused);
            }
            if read == Read::Whole {
                return self.pass_back(head, body, judgement.verdict, attempts, ledger);
            }
            // What did not come whole goes on as it comes, or ends as it did.
            if read == Read::Cut {
                held.break_off();
            }
            return self.commit_as(judgement.verdict, head, answer, held, attempts, ledger);
        }
        // Only what is here whole can be passed back later.
        let kept = (judgement.keep && read == Read::Whole).then(|| {
            let backend = self.number(ledger);
            Box::new(KeptAnswer { backend, head, body, explain: self.explain() })
        });
        if judgement.keep && kept.is_none() {
            attempts.kept_nothing(&judgement.verdict);
        }
        self.close(judgement.verdict, attempts, ledger);
        Outcome::Next(kept)
    }

    /// A stream: its prelude is held back, so that an error in it still fails over.
    async fn stream(
        self: Box<Self>,
        head: Head,
        mut answer: Answer,
        sent: Instant,
        understood: &mut Understood<'_>,
        attempts: &mut Attempts,
        ledger: &mut Option<Ledger>,
    ) -> Outcome {
        let now = clock::now();
        // Where the request did not say that it asks for a stream, its head had all the time of an answer.
        let from = if self.ask.streamed { sent } else { now };
        let first_event = self.edge.settings.first_event_timeout.map(|limit| from + limit);
        let buffered = self.edge.settings.buffered;
        let limits = prelude::Limits { first_event, deadline: self.deadline, buffered };
        let opened = {
            let opening = pin!(prelude::open(&mut answer, self.api, limits, self.place.share()));
            waiting(ledger, now, opening).await
        };
        match opened {
            Opened::Begun(held) => self.commit(head, answer, held, attempts, ledger),
            Opened::Failed(error, held) => {
                let status = error.status();
                let told = headers::waits(&head.headers);
                let judgement = self.judged(status, &told, error.message.as_bytes(), understood, attempts);
                if judgement.next == Next::PassBack || !understood.repeatable() {
                    return self.commit_as(judgement.verdict, head, answer, held, attempts, ledger);
                }
                if judgement.keep {
                    attempts.kept_nothing(&judgement.verdict);
                }
                self.close(judgement.verdict, attempts, ledger);
                // An error inside a 200 is no answer to pass back later: what comes then is said by the cause.
                Outcome::Next(None)
            }
            Opened::Cut(error) => {
                if let Some(error) = error {
                    self.tell(&error);
                }
                self.failed(AttemptFailure::Closed, understood, attempts, ledger)
            }
            Opened::Silent => self.failed(AttemptFailure::FirstEventTimeout, understood, attempts, ledger),
            Opened::OutOfTime => {
                self.close(Verdict::TimedOut, attempts, ledger);
                Outcome::Stop(ProxyError::UpstreamTimeout)
            }
        }
    }

    fn judged(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        understood: &Understood<'_>,
        attempts: &mut Attempts,
    ) -> Judgement {
        let service_tier = understood.scan.service_tier.map(|tier| match tier {
            ServiceTier::Flex => Tier::Flex,
            ServiceTier::Priority => Tier::Priority,
        });
        let looked_for = self.bond.is_looked_for(self.place.pick().backend_id(), status, body);
        let backend = &self.edge.backends[self.place.pick().backend];
        let callers_credential = matches!(backend.credential, Presented::Caller);
        let told = Told { status, headers, body, service_tier, callers_credential, looked_for };
        judge(&told, self.ask, attempts)
    }

    /// No usable answer came.
    fn failed(
        self,
        failure: AttemptFailure,
        understood: &Understood<'_>,
        attempts: &mut Attempts,
        ledger: &mut Option<Ledger>,
    ) -> Outcome {
        if let Some(entry) = ledger {
            entry.fails(failure);
        }
        let judgement = judge_failure(failure, self.ask, attempts);
        self.close(judgement.verdict, attempts, ledger);
        match judgement.next {
            Next::NextLane if understood.repeatable() => Outcome::Next(None),
            _ if failure.is_timeout() => Outcome::Stop(ProxyError::UpstreamTimeout),
            _ => Outcome::Stop(ProxyError::UpstreamFailed),
        }
    }

    /// The attempt came to nothing through no fault of its lane, whose state stays as it was.
    fn abandon(self, ledger: &mut Option<Ledger>) {
        if let Some(entry) = ledger {
            entry.abandoned();
        }
    }

    /// The attempt is over and nothing of it goes downstream.
    fn close(self, verdict: Verdict, attempts: &mut Attempts, ledger: &mut Option<Ledger>) {
        if let Some(entry) = ledger {
            entry.tried(verdict.word());
        }
        self.place.report(clock::now(), verdict, attempts);
    }

    /// Of its backend, in the request's record.
    pub(super) fn number(&self, ledger: &mut Option<Ledger>) -> usize {
        let backend = self.place.pick().backend;
        ledger.as_mut().map_or(backend, |entry| entry.number(self.edge, backend))
    }

    pub(super) fn explain(&self) -> Option<header::HeaderValue> {
        let name = || self.edge.backends[self.place.pick().backend].name.clone();
        self.edge.settings.explain_headers.then(name)
    }

    /// An upstream error that is the caller's business.
    fn pass_back(
        self,
        head: Head,
        body: Bytes,
        verdict: Verdict,
        attempts: &mut Attempts,
        ledger: &mut Option<Ledger>,
    ) -> Outcome {
        let kept = KeptAnswer { backend: self.number(ledger), head, body, explain: self.explain() };
        self.close(verdict, attempts, ledger);
        match ledger.as_mut() {
            Some(entry) => Outcome::Commit(Box::new(kept.pass_back(entry))),
            None => Outcome::Stop(ProxyError::UpstreamFailed),
        }
    }

    /// A good answer that is here whole.
    fn commit_small(
        self,
        head: Head,
        body: Bytes,
        attempts: &mut Attempts,
        ledger: &mut Option<Ledger>,
    ) -> Outcome {
        let backend = self.number(ledger);
        let Some(mut entry) = ledger.take() else { return Outcome::Stop(ProxyError::UpstreamFailed) };
        let now = clock::now();
        if let Some(mut noting) = self.bond.served(self.place.pick().backend_id(), &head) {
            noting.feed(&body);
        }
        let mut usage = UsageScanner::default();
        usage.feed(&body);
        let tokens = entry.count_tokens(usage.usage(), 0);
        let verdict = Verdict::Served { tokens };
        entry.tried(verdict.word());
        entry.commit(now, head.status, backend);
        let explain = self.explain();
        self.place.served(now, &head.headers, verdict, attempts);
        let mut response = Response::from_parts(head, ProxyBody::full(body));
        finish_head(response.headers_mut(), explain, &entry);
        entry.end(now, Ended::Completed);
        Outcome::Commit(Box::new(response))
    }

    /// A good answer whose body follows as it comes.
    fn commit(
        self,
        head: Head,
        answer: Answer,
        held: prelude::Held,
        attempts: &mut Attempts,
        ledger: &mut Option<Ledger>,
    ) -> Outcome {
        self.place.answered(clock::now(), &head.headers, attempts);
        self.commit_as(Verdict::Served { tokens: 0 }, head, answer, held, attempts, ledger)
    }

    fn commit_as(
        self,
        verdict: Verdict,
        head: Head,
        answer: Answer,
        held: prelude::Held,
        attempts: &mut Attempts,
        ledger: &mut Option<Ledger>,
    ) -> Outcome {
        let backend = self.number(ledger);
        let Some(mut entry) = ledger.take() else { return Outcome::Stop(ProxyError::UpstreamFailed) };
        entry.tried(verdict.word());
        entry.commit(clock::now(), head.status, backend);
        let explain = self.explain();
        let noting = self.bond.served(self.place.pick().backend_id(), &head);
        let mut head = head;
        let stream = is_event_stream(&head.headers).then_some(self.api);
        if stream.is_some() {
            // A stream's end is ours to tell: an error event must not fill up a length told before.
            head.headers.remove(header::CONTENT_LENGTH);
        }
        finish_head(&mut head.headers, explain, &entry);
        let idle = self.edge.settings.stream_idle_timeout;
        let open = (verdict, self.place, std::mem::take(attempts), entry);
        let committed = Committed::new(answer, held, stream, idle, open).noting(noting);
        Outcome::Commit(Box::new(Response::from_parts(head, ProxyBody::Committed(Box::new(committed)))))
    }
}

/// Why there is no head.
enum Broken {
    Attempt(AttemptFailure),
    /// By the caller, who is told so.
    RequestBody(ProxyError),
    /// By us: no file descriptor is left.
    OwnLack,
    /// There is no valid token for this backend.
    NoToken,
    OutOfTime,
}

/// How much of an error's body is here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Read {
    Whole,
    /// It is long or slow: the rest still comes.
    Begun,
    Cut,
}

fn broken(error: &SendError) -> Broken {
    Broken::Attempt(match error {
        SendError::Connect(ConnectError::Refused(_)) => AttemptFailure::Refused,
        SendError::Connect(ConnectError::Dns(_)) => AttemptFailure::Dns,
        SendError::Connect(ConnectError::Tls(_)) => AttemptFailure::Tls,
        SendError::Connect(ConnectError::Timeout(_)) => AttemptFailure::ConnectTimeout,
        SendError::Connect(ConnectError::Tcp(_)) => AttemptFailure::Connect,
        SendError::Connect(ConnectError::NoDescriptor(_)) => return Broken::OwnLack,
        SendError::Closed { .. } | SendError::Unprocessed(_) => AttemptFailure::Closed,
        SendError::Malformed(_) => AttemptFailure::Malformed,
        SendError::RequestBody(_) => return Broken::RequestBody(ProxyError::BrokenBody),
        SendError::RequestStalled { by_caller: true } => return Broken::RequestBody(ProxyError::SlowBody),
        // It may be slow for this caller's network alone: the lane is not blamed.
        SendError::RequestStalled { by_caller: false } => return Broken::OutOfTime,
        SendError::RequestTooLarge(_) => return Broken::RequestBody(ProxyError::BodyTooLarge),
    })
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

/// Why a small answer is not here whole.
enum Uncollected {
    Cut(AnswerError),
    /// The next part did not come in time.
    Late,
    OutOfTime,
}

/// All of a small answer, of which no part may be `idle` late.
async fn collect(
    answer: &mut Answer,
    idle: Option<Duration>,
    deadline: Instant,
    ledger: &mut Option<Ledger>,
) -> Result<Bytes, Uncollected> {
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    while let Some(frame) = frame_within(answer, idle, deadline, ledger).await? {
        let Ok(data) = frame.into_data() else { continue };
        if first.is_empty() {
            first = data;
        } else {
            if more.is_empty() {
                more.extend_from_slice(&first);
            }
            more.extend_from_slice(&data);
        }
    }
    Ok(if more.is_empty() { first } else { more.freeze() })
}

/// Most often it came with the head: only where it must be waited for is there a look at the clock, and a timer.
async fn frame_within(
    answer: &mut Answer,
    idle: Option<Duration>,
    deadline: Instant,
    ledger: &mut Option<Ledger>,
) -> Result<Option<Frame<Bytes>>, Uncollected> {
    let here = poll_fn(|cx| match pin!(answer.frame()).poll(cx) {
        Poll::Ready(frame) => Poll::Ready(Some(frame)),
        Poll::Pending => Poll::Ready(None),
    });
    let frame = match here.await {
        Some(frame) => frame,
        None => {
            let now = clock::now();
            let limit = idle.map_or(deadline, |idle| deadline.min(now + idle));
            match waiting(ledger, now, pin!(timeout_at(limit.into(), answer.frame()))).await {
                Ok(frame) => frame,
                Err(_) if limit == deadline => return Err(Uncollected::OutOfTime),
                Err(_) => return Err(Uncollected::Late),
            }
        }
    };
    frame.transpose().map_err(Uncollected::Cut)
}

/// Waits for the backend from `now` on: that time is not ours. Pinned by the caller, or it would stand in memory twice.
async fn waiting<T>(
    ledger: &mut Option<Ledger>,
    now: Instant,
    until: Pin<&mut impl Future<Output = T>>,
) -> T {
    if let Some(entry) = ledger {
        entry.waits(now);
    }
    let output = until.await;
    if let Some(entry) = ledger {
        entry.waited_until(clock::now());
    }
    output
}

/// Filters the head for the caller, and says who answered.
pub(super) fn finish_head(head: &mut HeaderMap, explain: Option<header::HeaderValue>, ledger: &Ledger) {
    headers::downstream(head);
    if let Some(backend) = explain {
        head.insert(headers::BACKEND, backend);
        // Most often one, which needs no memory of its own.
        let count = match ledger.attempts.count() {
            1 => header::HeaderValue::from_static("1"),
            count => count.into(),
        };
        head.insert(headers::ATTEMPTS, count);
    }
}
