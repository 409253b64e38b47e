//! Traces: one span for each request and one for each attempt, in OTLP's own messages.
//!
//! Owns: whether a request is traced, the caller's trace context (`context`), what is noted of a traced request while it
//! runs, the spans made of its finished record (`spans`), and the bounded place where they wait. Does not send them: that
//! is `app`'s, on the control thread. No span has a place for content, nor for a path or query as it was sent.
//!
//! Why so: where nothing is traced a request costs one branch, and one that is not picked no allocation. One that is traced is noted a few times and
//! turned into spans once, at its end, from the same record that log and metrics are made of.

mod context;
mod spans;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::Notify;

use super::access::AccessRecord;
use super::clock;
use super::request_id::RequestId;

pub use self::spans::{message, rejected};

/// Spans that wait to be sent; further ones are dropped and counted.
const MOST_WAITING: usize = 4096;

/// So many are sent at a time, and from so many on without delay.
pub const BATCH: usize = 512;

/// Attempts of one request that have a span of their own: the first ones, and the last. More than that has only who waits
/// in line again and again.
const MOST_TRIES: usize = 32;

/// Of this many trace ids those below the share are traced.
const ALL: u64 = 1 << 63;

/// `[traces]`.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceSettings {
    /// Where spans are sent, path included; `None`: nothing is traced.
    pub endpoint: Option<Uri>,
    /// The share of requests that is traced, above 0 and at most 1.
    pub sample: f64,
    /// What the receiver wants to be sent along: its secrets.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Who we are: `service.name` and what else the operator says of this process.
    pub resource: Vec<(String, String)>,
}

/// The id of a trace: thirty-two hexadecimal digits.
///
/// One of our own ends with the request's id, so that either is found by the other.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct TraceId([u8; 16]);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

type SpanId = [u8; 8];

fn span_id() -> SpanId {
    // All zeros means none.
    fastrand::u64(1..).to_be_bytes()
}

/// One request that is traced, while it runs.
#[derive(Debug)]
pub struct Trace {
    id: TraceId,
    span: SpanId,
    parent: Option<SpanId>,
    /// `tracestate`, as the caller sent it.
    state: String,
    wall: SystemTime,
    started: Instant,
    route: Option<String>,
    tries: Vec<Try>,
}

/// One attempt of it.
#[derive(Debug)]
struct Try {
    began: Instant,
    /// The answer began.
    first: Option<Instant>,
    ended: Option<Instant>,
    status: Option<u16>,
    address: String,
    port: u16,
    /// The deployment by its name there.
    model: Option<Arc<str>>,
}

impl Trace {
    /// For the access log.
    #[must_use]
    pub fn id(&self) -> TraceId {
        self.id
    }

    /// Which path it is, without what differs from request to request.
    pub fn set_route(&mut self, template: String) {
        self.route = Some(template);
    }

    /// An attempt begins: where, and what the deployment is called there.
    pub fn tries(&mut self, now: Instant, (address, port): (&str, u16), model: Option<Arc<str>>) {
        let address = address.to_owned();
        self.tries.truncate(MOST_TRIES - 1);
        self.tries.push(Try { began: now, first: None, ended: None, status: None, address, port, model });
    }

    /// The backend's head has come.
    pub fn answered(&mut self, status: u16) {
        if let Some(last) = self.tries.last_mut() {
            last.status = Some(status);
        }
    }

    /// The attempt has come to something.
    pub fn tried(&mut self, now: Instant) {
        if let Some(last) = self.tries.last_mut() {
            last.ended = Some(now);
        }
    }

    /// Its answer is the caller's: it ends when the request does.
    pub fn commits(&mut self, now: Instant) {
        if let Some(last) = self.tries.last_mut() {
            last.first = Some(now);
            last.ended = None;
        }
    }
}

/// What all workers share: which requests are traced, and the spans that wait to be sent.
#[derive(Debug)]
pub struct Spans {
    /// Of [`ALL`]; 0 where nothing is traced.
    share: AtomicU64,
    /// The first half of our own trace ids; one for each process.
    process: u64,
    waiting: Mutex<VecDeque<Span>>,
    dropped: AtomicU64,
    full: Notify,
}

impl Spans {
    /// Nothing is traced yet. `seed` is one random number per process.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            share: AtomicU64::new(0),
            process: seed,
            waiting: Mutex::default(),
            dropped: AtomicU64::new(0),
            full: Notify::new(),
        }
    }

    /// From now on this share of requests is traced; `None`: nothing, and what waits is dropped.
    pub fn set(&self, sample: Option<f64>) {
        self.share.store(sample.map_or(0, share), Ordering::Relaxed);
        if sample.is_none() {
            let waiting = std::mem::take(&mut *self.lock());
            self.count_dropped(waiting.len());
        }
    }

    /// A request begins: whether it is traced. By the trace's id, as `TraceIdRatioBased` of OpenTelemetry does, so that
    /// services of the same share pick the same traces. The caller's own flag does not count; who
    /// chooses its trace ids by hand still chooses what is traced of its own.
    #[must_use]
    pub fn begin(&self, headers: &HeaderMap, request: RequestId, now: Instant) -> Option<Box<Trace>> {
        let share = self.share.load(Ordering::Relaxed);
        if share == 0 {
            return None;
        }
        let parent = context::parent(headers);
        let id = parent.as_ref().map_or_else(|| self.own_id(request), |parent| parent.trace);
        let [.., a, b, c, d, e, f, g, h] = id.0;
        if u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1 >= share {
            return None;
        }
        Some(Box::new(Trace {
            id,
            span: span_id(),
            state: parent.as_ref().map_or_else(String::new, |_| context::state(headers)),
            parent: parent.map(|parent| parent.span),
            wall: clock::wall(),
            started: now,
            route: None,
            tries: Vec::with_capacity(1),
        }))
    }

    fn own_id(&self, request: RequestId) -> TraceId {
        let process = u128::from(self.process.max(1));
        TraceId((process << 64 | u128::from(request.number())).to_be_bytes())
    }

    /// A traced request has ended.
    pub fn end(&self, trace: &Trace, record: &AccessRecord<'_>) {
        let spans = spans::of(trace, record);
        let mut waiting = self.lock();
        // Nobody sends what began before tracing was switched off.
        let off = self.share.load(Ordering::Relaxed) == 0;
        if off || waiting.len() + spans.len() > MOST_WAITING {
            drop(waiting);
            return self.count_dropped(spans.len());
        }
        waiting.extend(spans);
        let full = waiting.len() >= BATCH;
        drop(waiting);
        if full {
            self.full.notify_one();
        }
    }

    /// Takes those that have waited longest, at most [`BATCH`].
    #[must_use]
    pub fn take(&self) -> Vec<Span> {
        let mut waiting = self.lock();
        let count = waiting.len().min(BATCH);
        waiting.drain(..count).collect()
    }

    /// Resolves when there are enough for a batch.
    pub async fn full(&self) {
        self.full.notified().await;
    }

    /// So many will not be sent.
    pub fn count_dropped(&self, spans: usize) {
        self.dropped.fetch_add(spans as u64, Ordering::Relaxed);
    }

    /// How many were not sent since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Span>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a part of ALL, which is a power of two"
)]
fn share(sample: f64) -> u64 {
    // Whoever names a share wants some.
    ((sample.clamp(0.0, 1.0) * ALL as f64) as u64).max(1)
}

/// Since 1970, in nanoseconds.
fn unix_nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::access::tests::record;
    use super::super::access::{AttemptNote, AttemptNotes};
    use super::super::request_id::RequestIds;
    use super::*;
    use crate::balance::AttemptFailure;

    fn traced(sample: f64) -> Spans {
        let spans = Spans::new(7);
        spans.set(Some(sample));
        spans
    }

    fn with(parent: &str) -> HeaderMap {
        HeaderMap::from_iter([(
            HeaderName::from_static("traceparent"),
            HeaderValue::from_str(parent).unwrap(),
        )])
    }

    #[test]
    fn without_an_endpoint_nothing_is_traced_whatever_the_caller_wants() {
        let spans = Spans::new(7);
        let headers = with("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert!(spans.begin(&headers, RequestIds::new(1, 0).next_id(), clock::now()).is_none());
    }

    #[test]
    fn of_requests_that_bring_no_trace_the_share_is_traced() {
        let ids = RequestIds::new(1, 0);
        for (sample, least, most) in [(1.0, 10_000, 10_000), (0.25, 2_350, 2_650), (0.01, 60, 140)] {
            let spans = traced(sample);
            let count = (0..10_000)
                .filter(|_| spans.begin(&HeaderMap::new(), ids.next_id(), clock::now()).is_some())
                .count();
            assert!((least..=most).contains(&count), "{sample}: {count}");
        }
    }

    #[test]
    fn whether_a_callers_trace_is_taken_is_told_by_its_id_and_not_by_its_flag() {
        let spans = traced(0.5);
        let begun = |half: &str, flags: &str| {
            let headers = with(&format!("00-0af7651916cd43dd{half}-b7ad6b7169203331-{flags}"));
            spans.begin(&headers, RequestIds::new(1, 0).next_id(), clock::now()).is_some()
        };
        for flags in ["00", "01"] {
            assert!(begun("7fffffffffffffff", flags));
            assert!(!begun("8000000000000000", flags));
        }
    }

    #[test]
    fn a_trace_of_our_own_ends_with_the_requests_id() {
        let request = RequestIds::new(1, 0).next_id();
        let trace = traced(1.0).begin(&HeaderMap::new(), request, clock::now()).unwrap();
        assert_eq!(trace.id().to_string(), format!("0000000000000007{request}"));
    }

    #[test]
    fn what_waits_has_a_bound_and_what_is_beyond_is_counted() {
        let spans = traced(1.0);
        let attempts = AttemptNotes::default();
        let record = record(&[], &attempts);
        let end = || {
            let trace = spans.begin(&HeaderMap::new(), record.id, clock::now()).unwrap();
            spans.end(&trace, &record);
        };
        (0..MOST_WAITING + 3).for_each(|_| end());
        assert_eq!(spans.dropped(), 3);
        let taken: Vec<usize> =
            std::iter::repeat_with(|| spans.take().len()).take_while(|n| *n > 0).collect();
        assert_eq!(taken, [BATCH; MOST_WAITING / BATCH]);
        end();
        assert_eq!((spans.take().len(), spans.dropped()), (1, 3));
    }

    fn fact(span: &Span, key: &str) -> String {
        let fact = span.attributes.iter().find(|fact| fact.key == key);
        fact.map(|fact| format!("{:?}", fact.value)).unwrap_or_default()
    }

    #[test]
    fn a_wait_in_line_and_what_broke_an_attempt_are_attributes() {
        let spans = traced(1.0);
        let mut attempts = AttemptNotes::default();
        let now = clock::now();
        let mut trace = spans.begin(&HeaderMap::new(), RequestIds::new(1, 0).next_id(), now).unwrap();
        for (status, verdict, cause) in [
            (0, "unreachable", Some(AttemptFailure::Dns)),
            (200, "failed", Some(AttemptFailure::FirstEventTimeout)),
            (200, "throttled", None),
            (503, "failed", None),
            (200, "served", None),
        ] {
            trace.tries(now, ("there", 443), None);
            if status > 0 {
                trace.answered(status);
            }
            attempts.push(AttemptNote { status, cause, ..AttemptNote::new(0, verdict) });
            trace.tried(now);
        }
        let mut record = record(&[], &attempts);
        spans.end(&trace, &record);
        assert_eq!(fact(&spans.take()[0], "sidestep.held"), "");
        record.held = Some(Duration::from_millis(43_250));
        spans.end(&trace, &record);
        let spans = spans.take();
        assert!(fact(&spans[0], "sidestep.held").contains("43.25"), "{:?}", spans[0]);
        let types: Vec<String> = spans[1..].iter().map(|span| fact(span, "error.type")).collect();
        for (found, expected) in
            types.iter().zip(["\"dns failed\"", "\"first event timeout\"", "\"throttled\"", "\"503\"", ""])
        {
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{types:?}");
        }
    }

    #[test]
    fn of_very_many_attempts_the_first_ones_have_spans_and_the_last() {
        let spans = traced(1.0);
        let mut attempts = AttemptNotes::default();
        let names = ["east".into(), "west".into()];
        let now = clock::now();
        let mut trace = spans.begin(&HeaderMap::new(), RequestIds::new(1, 0).next_id(), now).unwrap();
        for number in 0..100 {
            trace.tries(now, ("there", 443), None);
            trace.answered(if number < 99 { 429 } else { 200 });
            let verdict = if number < 99 { "throttled" } else { "served" };
            attempts.push(AttemptNote::new(usize::from(number == 99), verdict));
            trace.tried(now);
        }
        trace.commits(now);
        spans.end(&trace, &record(&names, &attempts));
        let spans = spans.take();
        assert_eq!(spans.len(), 1 + MOST_TRIES);
        assert!(fact(&spans[1], "sidestep.verdict").contains("throttled"));
        let last = &spans[MOST_TRIES];
        assert!(fact(last, "sidestep.verdict").contains("served"));
        assert!(fact(last, "sidestep.backend").contains("west"));
        assert!(fact(last, "http.request.resend_count").contains("99"));
    }
}
