//! One request's own record: filled as it goes, written once when it ends.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{Method, StatusCode};

use super::edge::Edge;
use super::error::ProxyError;
use crate::balance::{AttemptFailure, Pick};
use crate::identity::limits::Turn;
use crate::net::stop::{Ear, LocalStop, Stop};
use crate::openai::{Route, Usage};
use crate::telemetry::access::{AccessLog, AccessRecord, AttemptNote, AttemptNotes, Ended, Tokens};
use crate::telemetry::clock;
use crate::telemetry::metrics::{InFlight, WorkerMetrics};
use crate::telemetry::request_id::{RequestId, RequestIds};
use crate::telemetry::stir::Stir;
use crate::telemetry::traces::{Spans, Trace};

/// Where one worker's records go.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) ids: RequestIds,
    pub(super) log: AccessLog,
    pub(super) metrics: WorkerMetrics,
    pub(super) spans: Arc<Spans>,
    pub(super) stir: Arc<Stir>,
    /// Told when a drain's time is over: what still streams is cut.
    pub(super) cut: LocalStop,
}

/// One request's record. Dropped unwritten: the caller left.
#[derive(Debug)]
pub(super) struct Ledger {
    desk: Rc<Desk>,
    edge: Rc<Edge>,
    /// Backends of later settings that it met, by name.
    later: Vec<Arc<str>>,
    pub(super) id: RequestId,
    trace: Option<Box<Trace>>,
    method: Method,
    pub(super) caller: Option<Arc<str>>,
    /// What the caller's limits were charged.
    pub(super) turn: Option<Turn>,
    pub(super) operation: &'static str,
    pub(super) deployment: Option<Arc<str>>,
    pub(super) started: Instant,
    /// Since when we work; before it we waited.
    working_since: Instant,
    ours: Duration,
    held: Option<Duration>,
    /// While it waits in line.
    in_line_since: Option<Instant>,
    first_byte: Option<Duration>,
    status: u16,
    served_by: Option<usize>,
    pub(super) attempts: AttemptNotes,
    /// The attempt that runs: what would be noted of it if it ended here.
    trying: Option<AttemptNote>,
    pub(super) exhausted: bool,
    error: Option<&'static str>,
    pub(super) stream: bool,
    pub(super) prompt_estimate: u64,
    tokens: Option<Tokens>,
    written: bool,
    _in_flight: InFlight,
}

impl Ledger {
    pub(super) fn begin(desk: Rc<Desk>, edge: Rc<Edge>, parts: &Parts) -> Self {
        let started = clock::now();
        let id = desk.ids.next_id();
        Self {
            id,
            trace: desk.spans.begin(&parts.headers, id, started),
            _in_flight: desk.metrics.begin(),
            desk,
            edge,
            later: Vec::new(),
            method: parts.method.clone(),
            caller: None,
            turn: None,
            operation: "unknown",
            deployment: None,
            started,
            working_since: started,
            ours: Duration::ZERO,
            held: None,
            in_line_since: None,
            first_byte: None,
            status: 0,
            served_by: None,
            attempts: AttemptNotes::default(),
            trying: None,
            exhausted: false,
            error: None,
            stream: false,
            prompt_estimate: 0,
            tokens: None,
            written: false,
        }
    }

    /// Hears when streams are to be cut.
    pub(super) fn ear(&self) -> Ear {
        self.desk.cut.ear()
    }

    /// From now on we wait for somebody else.
    pub(super) fn waits(&mut self, now: Instant) {
        self.ours += now.saturating_duration_since(self.working_since);
        self.working_since = now;
    }

    /// So much of a wait was work of ours.
    pub(super) fn worked(&mut self, work: Duration) {
        self.ours += work;
    }

    /// The wait is over.
    pub(super) fn waited_until(&mut self, now: Instant) {
        self.working_since = now;
    }

    /// It waits in line; perhaps not for the first time.
    pub(super) fn stands_in_line(&mut self, now: Instant) {
        self.waits(now);
        self.in_line_since = Some(now);
    }

    /// It waits in line no more.
    pub(super) fn goes_on(&mut self, now: Instant) {
        self.waited_until(now);
        self.count_held(now);
    }

    fn count_held(&mut self, now: Instant) {
        if let Some(since) = self.in_line_since.take() {
            *self.held.get_or_insert_default() += now.saturating_duration_since(since);
        }
    }

    /// A backend's number in this record: after a reload the same number may mean another one.
    pub(super) fn number(&mut self, edge: &Edge, backend: usize) -> usize {
        if edge.generation == self.edge.generation {
            return backend;
        }
        let known = self.edge.names.len() + self.later.len();
        let Some(name) = edge.names.get(backend) else { return known };
        let found = self.edge.names.iter().chain(&self.later).position(|known| known == name);
        found.unwrap_or_else(|| {
            self.later.push(Arc::clone(name));
            known
        })
    }

    /// The path is understood.
    pub(super) fn understood(&mut self, route: &Route<'_>) {
        self.operation = route.operation.name;
        if let Some(trace) = &mut self.trace {
            trace.set_route(route.template());
        }
    }

    /// An attempt begins; `backend` is its number in this record.
    pub(super) fn tries(&mut self, now: Instant, backend: usize, edge: &Edge, pick: &Pick) {
        self.trying = Some(AttemptNote::new(backend, "abandoned"));
        if let Some(trace) = &mut self.trace {
            let origin = edge.backends[pick.backend].upstream.origin();
            let model = pick.deployment_there.as_ref().or(self.deployment.as_ref()).map(Arc::clone);
            trace.tries(now, (&origin.host, origin.port), model);
        }
    }

    /// The backend's head is there.
    pub(super) fn answered(&mut self, status: StatusCode) {
        if let Some(note) = &mut self.trying {
            note.status = status.as_u16();
        }
        if let Some(trace) = &mut self.trace {
            trace.answered(status.as_u16());
        }
    }

    /// No usable answer came, or will come.
    pub(super) fn fails(&mut self, cause: AttemptFailure) {
        if let Some(note) = &mut self.trying {
            note.cause = Some(cause);
        }
    }

    /// It has come to something.
    pub(super) fn tried(&mut self, verdict: &'static str) {
        let Some(note) = self.trying.take() else { return };
        self.attempts.push(AttemptNote { verdict, ..note });
        if let Some(trace) = &mut self.trace {
            trace.tried(clock::now());
        }
    }

    /// It was given up, through no fault of its backend.
    pub(super) fn abandoned(&mut self) {
        if let Some(note) = &self.trying {
            self.tried(note.verdict);
        }
    }

    /// The head goes downstream: whose answer it is.
    pub(super) fn commit(&mut self, now: Instant, status: StatusCode, backend: usize) {
        self.waits(now);
        self.first_byte = Some(now.saturating_duration_since(self.started));
        self.status = status.as_u16();
        self.served_by = Some(backend);
        // An answer that was kept aside may be of an earlier attempt, which is over.
        if let Some(trace) = self.trace.as_mut().filter(|_| self.attempts.last() == Some(backend)) {
            trace.commits(now);
        }
    }

    /// Tokens as the answer told them, or estimated from the request and `events` of a stream.
    pub(super) fn count_tokens(&mut self, usage: Option<Usage>, events: u64) -> u64 {
        self.tokens = match usage {
            Some(usage) => Some(Tokens {
                prompt: usage.prompt,
                cached: usage.cached,
                completion: usage.completion,
                estimated: false,
            }),
            None if self.stream && events > 0 => {
                Some(Tokens { prompt: self.prompt_estimate, cached: 0, completion: events, estimated: true })
            }
            None => None,
        };
        self.tokens.map_or(0, |tokens| tokens.prompt.saturating_add(tokens.completion))
    }

    /// The answer is ours, and a good one.
    pub(super) fn answer_here(&mut self, status: StatusCode) {
        let now = clock::now();
        self.waits(now);
        self.first_byte = Some(now.saturating_duration_since(self.started));
        self.status = status.as_u16();
        self.end(now, Ended::AnsweredHere);
    }

    /// The answer is ours.
    pub(super) fn refuse(&mut self, error: &ProxyError) {
        let now = clock::now();
        self.waits(now);
        self.first_byte = Some(now.saturating_duration_since(self.started));
        self.status = error.status().as_u16();
        self.error = Some(error.word());
        self.end(now, Ended::AnsweredHere);
    }

    /// Corrects what the caller's limits were charged: what was refused took nothing, and where an answer does not tell
    /// what it took, the estimate stands.
    fn settle(&mut self, now: Instant, ended: Ended) {
        let Some(turn) = self.turn.take() else { return };
        match self.tokens {
            Some(tokens) => turn.settle(now, tokens.prompt.saturating_add(tokens.completion)),
            None if ended == Ended::AnsweredHere || self.status >= 400 || self.attempts.count() == 0 => {
                turn.settle(now, 0);
            }
            None => {}
        }
    }

    /// What the backend that served calls the deployment; not known of a backend that later settings brought.
    fn deployment_there(&self) -> Option<&str> {
        let backend = self.edge.backends.get(self.served_by?)?;
        backend.deployments.there(self.deployment.as_deref()?)
    }

    /// Writes the record; the first call counts.
    pub(super) fn end(&mut self, now: Instant, ended: Ended) {
        if std::mem::replace(&mut self.written, true) {
            return;
        }
        self.settle(now, ended);
        // Who left may have done so in line.
        self.count_held(now);
        let with_later: Vec<Arc<str>>;
        let backends = if self.later.is_empty() {
            &self.edge.names
        } else {
            with_later = self.edge.names.iter().chain(&self.later).map(Arc::clone).collect();
            &with_later
        };
        let record = AccessRecord {
            id: self.id,
            trace: self.trace.as_ref().map(|trace| trace.id()),
            caller: self.caller.as_deref(),
            method: self.method.as_str(),
            operation: self.operation,
            deployment: self.deployment.as_deref(),
            deployment_there: self.deployment_there(),
            status: self.status,
            backends,
            served_by: self.served_by,
            attempts: &self.attempts,
            exhausted: self.exhausted,
            error: self.error,
            held: self.held,
            first_byte: self.first_byte,
            total: now.saturating_duration_since(self.started),
            ours: self.ours,
            tokens: self.tokens,
            stream: self.stream,
            ended,
        };
        self.desk.metrics.observe(&record);
        self.desk.stir.request();
        self.desk.log.write(&record);
        if let Some(trace) = &self.trace {
            self.desk.spans.end(trace, &record);
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if !self.written {
            self.abandoned();
            let stopped = self.desk.cut.state() != Stop::Run;
            self.end(clock::now(), if stopped { Ended::Stopped } else { Ended::CallerLeft });
        }
    }
}
