//! The spans of a request, made of its record when it has ended. PURE.
//!
//! Names and attributes are those of OpenTelemetry's conventions for HTTP servers and for generative AI clients, content
//! left out; what those have no name for is `sidestep.…`. Tokens stand at the attempt that served alone, so that a sum
//! over spans counts them once.

use std::time::Instant;

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;

use super::super::access::{AccessRecord, AttemptNote, Ended, Tokens};
use super::{Trace, Try, span_id, unix_nanos};

/// Of a span's flags: it is sampled; whether its parent is remote is known; it is.
const SAMPLED: u32 = 0x1;
const PARENT_KNOWN: u32 = 0x100;
const PARENT_REMOTE: u32 = 0x200;

/// The request's span, then one for each attempt; of very many, those of the first and the last.
pub(super) fn of(trace: &Trace, record: &AccessRecord<'_>) -> Vec<Span> {
    let end = trace.started + record.total;
    let mut spans = Vec::with_capacity(1 + trace.tries.len());
    spans.push(request(trace, record, end));
    let left_out = (record.attempts.count() as usize).saturating_sub(trace.tries.len());
    let last = trace.tries.len().saturating_sub(1);
    let notes = record.attempts.all().enumerate();
    let notes = notes.filter(|(number, _)| *number < last || *number >= last + left_out);
    for (tried, (number, note)) in trace.tries.iter().zip(notes) {
        spans.push(attempt(trace, record, number, (tried, *note), end));
    }
    spans
}

fn request(trace: &Trace, record: &AccessRecord<'_>, end: Instant) -> Span {
    let method = method(record.method);
    let mut facts = Facts(Vec::with_capacity(16));
    facts.text("http.request.method", method);
    if let Some(route) = &trace.route {
        facts.text("http.route", route);
    }
    facts.status(record.status);
    facts.text("sidestep.request_id", record.id.as_str());
    if let Some(caller) = record.caller {
        facts.text("sidestep.caller", caller);
    }
    facts.text("sidestep.operation", record.operation);
    if let Some(deployment) = record.deployment {
        facts.text("sidestep.deployment", deployment);
    }
    if let Some(backend) = record.served_by {
        facts.text("sidestep.backend", record.backend_name(backend));
    }
    facts.number("sidestep.attempts", record.attempts.count().into());
    facts.flag("sidestep.exhausted", record.exhausted);
    facts.flag("sidestep.stream", record.stream);
    facts.text("sidestep.ended", record.ended.word());
    if let Some(first_byte) = record.first_byte {
        facts.seconds("sidestep.time_to_first_byte", first_byte.as_secs_f64());
    }
    facts.seconds("sidestep.added_latency", record.ours.as_secs_f64());
    if let Some(held) = record.held {
        facts.seconds("sidestep.held", held.as_secs_f64());
    }
    let cut = record.ended == Ended::UpstreamCut;
    match record.error {
        Some(code) => facts.text("error.type", code),
        None if cut => facts.text("error.type", "upstream_cut"),
        None if record.status >= 500 => facts.text("error.type", &record.status.to_string()),
        None => {}
    }
    let remote = if trace.parent.is_some() { PARENT_REMOTE } else { 0 };
    Span {
        span_id: trace.span.to_vec(),
        parent_span_id: trace.parent.map_or_else(Vec::new, |parent| parent.to_vec()),
        flags: SAMPLED | PARENT_KNOWN | remote,
        name: trace.route.as_ref().map_or_else(|| method.to_owned(), |route| format!("{method} {route}")),
        kind: SpanKind::Server.into(),
        // What a caller did wrong is no error of a server.
        status: error_if(cut || record.status >= 500),
        attributes: facts.0,
        ..span(trace, trace.started, end)
    }
}

fn attempt(
    trace: &Trace,
    record: &AccessRecord<'_>,
    number: usize,
    (tried, note): (&Try, AttemptNote),
    end: Instant,
) -> Span {
    let mut facts = Facts(Vec::with_capacity(20));
    let operation = operation(record.operation);
    if let Some(operation) = operation {
        facts.text("gen_ai.operation.name", operation);
        facts.text("gen_ai.provider.name", "azure.ai.openai");
        if let Some(model) = &tried.model {
            facts.text("gen_ai.request.model", model);
        }
        if record.stream {
            facts.flag("gen_ai.request.stream", true);
        }
    }
    let serves = tried.first.is_some();
    if let Some(first) = tried.first.filter(|_| record.stream) {
        let waited = first.saturating_duration_since(tried.began);
        facts.seconds("gen_ai.response.time_to_first_chunk", waited.as_secs_f64());
    }
    if let Some(tokens) = record.tokens.filter(|_| serves) {
        facts.tokens(tokens);
    }
    facts.text("server.address", &tried.address);
    facts.number("server.port", tried.port.into());
    facts.text("http.request.method", method(record.method));
    facts.status(tried.status.unwrap_or(0));
    if number > 0 {
        facts.number("http.request.resend_count", number as u64);
    }
    facts.text("sidestep.request_id", record.id.as_str());
    facts.text("sidestep.backend", record.backend_name(note.backend));
    facts.text("sidestep.verdict", note.verdict);
    if let Some(caller) = record.caller {
        facts.text("sidestep.caller", caller);
    }
    let refused = tried.status.filter(|status| *status >= 400);
    // What was abandoned says nothing of the backend.
    let failed = refused.is_some() || !matches!(note.verdict, "served" | "passed_back" | "abandoned");
    match (refused, note.cause) {
        (Some(status), _) => facts.text("error.type", &status.to_string()),
        (None, Some(cause)) => facts.text("error.type", &cause.to_string()),
        (None, None) if failed => facts.text("error.type", note.verdict),
        (None, None) => {}
    }
    let what = operation.unwrap_or(record.operation);
    Span {
        span_id: span_id().to_vec(),
        parent_span_id: trace.span.to_vec(),
        flags: SAMPLED | PARENT_KNOWN,
        name: tried.model.as_ref().map_or_else(|| what.to_owned(), |model| format!("{what} {model}")),
        kind: SpanKind::Client.into(),
        status: error_if(failed),
        attributes: facts.0,
        ..span(trace, tried.began, tried.ended.unwrap_or(end))
    }
}

/// What all spans of a trace have.
fn span(trace: &Trace, began: Instant, ended: Instant) -> Span {
    let wall = |at: Instant| unix_nanos(trace.wall + at.saturating_duration_since(trace.started));
    Span {
        trace_id: trace.id.0.to_vec(),
        trace_state: trace.state.clone(),
        start_time_unix_nano: wall(began),
        end_time_unix_nano: wall(ended),
        ..Span::default()
    }
}

fn error_if(failed: bool) -> Option<Status> {
    failed.then(|| Status { message: String::new(), code: StatusCode::Error.into() })
}

/// The name that the conventions have for an operation; `None` where no model answers. Those that they have no name for
/// keep ours.
fn operation(name: &str) -> Option<&str> {
    Some(match name {
        "chat" | "responses" => "chat",
        "completions" => "text_completion",
        "embeddings" | "moderations" | "realtime" => name,
        _ if name.starts_with("images.") || name.starts_with("audio.") => name,
        _ => return None,
    })
}

/// What the conventions know; anything else comes from outside.
fn method(sent: &str) -> &str {
    const KNOWN: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == sent).unwrap_or("_OTHER")
}

/// A span's attributes.
struct Facts(Vec<KeyValue>);

impl Facts {
    fn add(&mut self, key: &str, value: Value) {
        self.0.push(pair(key, value));
    }

    fn text(&mut self, key: &str, text: &str) {
        self.add(key, Value::StringValue(text.to_owned()));
    }

    fn number(&mut self, key: &str, number: u64) {
        self.add(key, Value::IntValue(i64::try_from(number).unwrap_or(i64::MAX)));
    }

    fn flag(&mut self, key: &str, flag: bool) {
        self.add(key, Value::BoolValue(flag));
    }

    fn seconds(&mut self, key: &str, seconds: f64) {
        self.add(key, Value::DoubleValue(seconds));
    }

    /// 0: there was none.
    fn status(&mut self, status: u16) {
        if status > 0 {
            self.number("http.response.status_code", status.into());
        }
    }

    fn tokens(&mut self, tokens: Tokens) {
        self.number("gen_ai.usage.input_tokens", tokens.prompt);
        self.number("gen_ai.usage.output_tokens", tokens.completion);
        if tokens.cached > 0 {
            self.number("gen_ai.usage.cache_read.input_tokens", tokens.cached);
        }
        if tokens.estimated {
            self.flag("sidestep.tokens_estimated", true);
        }
    }
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// What is sent: these spans of ours, as one message.
#[must_use]
pub fn message(resource: &[(String, String)], spans: Vec<Span>) -> Vec<u8> {
    let attributes =
        resource.iter().map(|(key, value)| pair(key, Value::StringValue(value.clone()))).collect();
    let scope = InstrumentationScope {
        name: "sidestep".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
    let resource = Some(Resource { attributes, ..Resource::default() });
    let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

/// How many spans a receiver says it did not take, in an answer that is good otherwise.
#[must_use]
pub fn rejected(answer: &[u8]) -> usize {
    let answer = ExportTraceServiceResponse::decode(answer).unwrap_or_default();
    let rejected = answer.partial_success.map_or(0, |partial| partial.rejected_spans);
    usize::try_from(rejected).unwrap_or(0)
}
