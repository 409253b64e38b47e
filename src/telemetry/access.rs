//! The access log: one record per request, without content.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use tracing::Level;

use super::LogFormat;
use super::clock::{self, Stamp};
use super::log::Directives;
pub use super::notes::{AttemptNote, AttemptNotes, NAMED_ATTEMPTS};
use super::request_id::RequestId;
use super::sink::Sink;
use super::text::{decimal, json, millis, word};
use super::traces::TraceId;

/// The target under which records are switched on and off in the log level.
const TARGET: &str = "sidestep::access";

/// What is told about one request when it ended. Borrowed from the request's own state: making one allocates
/// nothing.
#[derive(Clone, Debug)]
pub struct AccessRecord<'a> {
    /// Its id.
    pub id: RequestId,
    /// The trace that tells of it, where it is traced.
    pub trace: Option<TraceId>,
    /// The caller's name; `None` without keys.
    pub caller: Option<&'a str>,
    /// The method as sent.
    pub method: &'a str,
    /// Name of the operation: `chat`, `responses`, `embeddings`, …
    pub operation: &'a str,
    /// The deployment that was asked for, as the caller names it.
    pub deployment: Option<&'a str>,
    /// What the backend that served it calls the deployment; for the metrics alone.
    pub deployment_there: Option<&'a str>,
    /// The status that the caller got; 0 when it left before.
    pub status: u16,
    /// The names of all backends, by index.
    pub backends: &'a [Arc<str>],
    /// The backend whose answer the caller got; `None` when the answer is ours.
    pub served_by: Option<usize>,
    /// What was tried.
    pub attempts: &'a AttemptNotes,
    /// No lane admitted the request, so it was answered here.
    pub exhausted: bool,
    /// The `code` of an answer of our own.
    pub error: Option<&'static str>,
    /// For how long it waited in line for room; `None`: it did not.
    pub held: Option<Duration>,
    /// From the request's head to the answer's first byte to the caller.
    pub first_byte: Option<Duration>,
    /// From the request's head to the end.
    pub total: Duration,
    /// The part of it that was ours: not waiting for a backend or the caller.
    pub ours: Duration,
    /// Tokens, where the answer told them or they were estimated.
    pub tokens: Option<Tokens>,
    /// The answer was a stream.
    pub stream: bool,
    /// Who ended it.
    pub ended: Ended,
}

/// Tokens of one request.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tokens {
    /// Of the prompt, cached ones included.
    pub prompt: u64,
    /// Of the prompt, those that were cached.
    pub cached: u64,
    /// Of the answer.
    pub completion: u64,
    /// Guessed from sizes, not read from the answer.
    pub estimated: bool,
}

/// Who ended a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// The answer went to its end.
    Completed,
    /// The caller left.
    CallerLeft,
    /// The backend broke off, or was silent too long, after the commit.
    UpstreamCut,
    /// The answer is ours.
    AnsweredHere,
    /// We did: we stop. Of a socket also that its caller took nothing for too long.
    Stopped,
}

impl Ended {
    /// The word in the log.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::CallerLeft => "caller left",
            Self::UpstreamCut => "upstream cut",
            Self::AnsweredHere => "answered here",
            Self::Stopped => "stopped here",
        }
    }
}

impl AccessRecord<'_> {
    /// A backend's name by its number here.
    pub(super) fn backend_name(&self, index: usize) -> &str {
        self.backends.get(index).map_or("?", |name| name)
    }

    /// Appends one line for people; `now` as from [`Stamp::at`]. What most lines have stands in columns, so that an eye
    /// runs down them; what is absent is `-`.
    pub fn write_text(&self, out: &mut Vec<u8>, now: &[u8; 24], colours: bool) {
        let mut line = Line { out, colours };
        line.begin(now);
        line.text("id", ID, Some(self.id.as_str()));
        line.styled("status", STATUS, Some(status_colour(self.status)), |out| {
            decimal(out, self.status.into());
        });
        line.text("caller", NAME, self.caller);
        line.text("method", METHOD, Some(self.method));
        line.text("operation", OPERATION, Some(self.operation));
        line.text("deployment", DEPLOYMENT, self.deployment);
        line.text("backend", NAME, self.served_by.map(|index| self.backend_name(index)));
        line.millis("total_ms", MILLIS, Some(self.total));
        line.millis("first_byte_ms", MILLIS, self.first_byte);
        line.millis("ours_ms", OURS, Some(self.ours));
        line.number("prompt_tokens", TOKENS, self.tokens.map(|tokens| tokens.prompt));
        line.number("cached_tokens", TOKENS, self.tokens.map(|tokens| tokens.cached));
        line.number("completion_tokens", TOKENS, self.tokens.map(|tokens| tokens.completion));
        line.text("stream", FLAG, Some(if self.stream { "true" } else { "false" }));
        line.text("ended", 0, Some(self.ended.word()));
        if self.attempts.count() > 0 {
            line.styled("attempts", 0, None, |out| self.write_text_attempts(out));
        }
        if self.tokens.is_some_and(|tokens| tokens.estimated) {
            line.text("estimated", 0, Some("true"));
        }
        if let Some(held) = self.held {
            line.millis("held_ms", 0, Some(held));
        }
        if let Some(trace) = self.trace {
            line.text("trace_id", 0, Some(&trace.to_string()));
        }
        if let Some(error) = self.error {
            line.text("error", 0, Some(error));
        }
        line.out.push(b'\n');
    }

    fn write_text_attempts(&self, out: &mut Vec<u8>) {
        out.push(b'"');
        for (n, note) in self.attempts.named().enumerate() {
            if n > 0 {
                out.extend_from_slice(b", ");
            }
            super::text::clean(
                out,
                self.backend_name(note.backend),
                super::text::LONGEST,
                super::text::Place::Quoted,
            );
            out.push(b' ');
            note.write_text(out);
        }
        if self.attempts.further() > 0 {
            out.extend_from_slice(b", further ");
            decimal(out, self.attempts.further());
        }
        out.push(b'"');
    }

    /// Appends one JSON object and a newline; `now` as from [`Stamp::at`].
    pub fn write_json(&self, out: &mut Vec<u8>, now: &[u8; 24]) {
        let put = |out: &mut Vec<u8>, text: &str| out.extend_from_slice(text.as_bytes());
        put(out, "{\"time\":\"");
        out.extend_from_slice(now);
        put(out, "\",\"level\":\"INFO\",\"message\":\"request\",");
        self.write_json_fields(out);
        put(out, "}\n");
    }

    /// Appends what is told of the request itself, as the fields of a JSON object.
    pub(super) fn write_json_fields(&self, out: &mut Vec<u8>) {
        let put = |out: &mut Vec<u8>, text: &str| out.extend_from_slice(text.as_bytes());
        put(out, "\"id\":\"");
        put(out, self.id.as_str());
        if let Some(trace) = self.trace {
            put(out, "\",\"trace_id\":\"");
            put(out, &trace.to_string());
        }
        put(out, "\",\"caller\":");
        optional_json(out, self.caller);
        put(out, ",\"method\":");
        json(out, self.method);
        put(out, ",\"operation\":");
        json(out, self.operation);
        put(out, ",\"deployment\":");
        optional_json(out, self.deployment);
        put(out, ",\"status\":");
        decimal(out, self.status.into());
        put(out, ",\"backend\":");
        optional_json(out, self.served_by.map(|index| self.backend_name(index)));
        put(out, ",\"attempts\":[");
        for (n, note) in self.attempts.named().enumerate() {
            put(out, if n == 0 { "{\"backend\":" } else { ",{\"backend\":" });
            json(out, self.backend_name(note.backend));
            note.write_json(out);
            out.push(b'}');
        }
        put(out, "],\"further_attempts\":");
        decimal(out, self.attempts.further());
        for (name, time) in [(",\"held_ms\":", self.held), (",\"first_byte_ms\":", self.first_byte)] {
            put(out, name);
            match time {
                Some(time) => millis(out, time),
                None => put(out, "null"),
            }
        }
        put(out, ",\"total_ms\":");
        millis(out, self.total);
        put(out, ",\"ours_ms\":");
        millis(out, self.ours);
        if let Some(tokens) = self.tokens {
            put(out, ",\"prompt_tokens\":");
            decimal(out, tokens.prompt);
            put(out, ",\"cached_tokens\":");
            decimal(out, tokens.cached);
            put(out, ",\"completion_tokens\":");
            decimal(out, tokens.completion);
            put(out, if tokens.estimated { ",\"estimated\":true" } else { ",\"estimated\":false" });
        }
        put(out, if self.stream { ",\"stream\":true" } else { ",\"stream\":false" });
        put(out, ",\"ended\":");
        json(out, self.ended.word());
        put(out, ",\"error\":");
        optional_json(out, self.error);
    }
}

/// Widths of the columns of a line for people; a longer value takes what it needs.
const ID: usize = 16;
const STATUS: usize = 3;
const NAME: usize = 12;
const METHOD: usize = 4;
const OPERATION: usize = 11;
const DEPLOYMENT: usize = 16;
const MILLIS: usize = 9;
const OURS: usize = 6;
const TOKENS: usize = 5;
const FLAG: usize = 5;

/// One line for people as it grows.
struct Line<'a> {
    out: &'a mut Vec<u8>,
    /// Names are faint, so that values stand out.
    colours: bool,
}

impl Line<'_> {
    fn begin(&mut self, now: &[u8; 24]) {
        if self.colours {
            self.out.extend_from_slice(b"\x1b[2m");
            self.out.extend_from_slice(now);
            self.out.extend_from_slice(b"\x1b[0m  \x1b[32mINFO\x1b[0m request");
        } else {
            self.out.extend_from_slice(now);
            self.out.extend_from_slice(b"  INFO request");
        }
    }

    /// ` name=value`, filled with spaces up to `width` where another field will follow.
    fn styled(&mut self, name: &str, width: usize, colour: Option<&str>, value: impl FnOnce(&mut Vec<u8>)) {
        if self.colours {
            self.out.extend_from_slice(b"\x1b[2m ");
            self.out.extend_from_slice(name.as_bytes());
            self.out.extend_from_slice(b"=\x1b[0m");
        } else {
            self.out.push(b' ');
            self.out.extend_from_slice(name.as_bytes());
            self.out.push(b'=');
        }
        let colour = colour.filter(|_| self.colours);
        if let Some(colour) = colour {
            self.out.extend_from_slice(colour.as_bytes());
        }
        let from = self.out.len();
        value(self.out);
        // Bytes that go on with a character begin with 10.
        let long =
            self.out.get(from..).unwrap_or_default().iter().filter(|byte| **byte & 0xC0 != 0x80).count();
        if colour.is_some() {
            self.out.extend_from_slice(b"\x1b[0m");
        }
        self.out.resize(self.out.len() + width.saturating_sub(long), b' ');
    }

    fn text(&mut self, name: &str, width: usize, value: Option<&str>) {
        self.styled(name, width, None, |out| match value {
            Some(value) => word(out, value),
            None => out.push(b'-'),
        });
    }

    fn number(&mut self, name: &str, width: usize, value: Option<u64>) {
        self.styled(name, width, None, |out| match value {
            Some(value) => decimal(out, value),
            None => out.push(b'-'),
        });
    }

    fn millis(&mut self, name: &str, width: usize, value: Option<Duration>) {
        self.styled(name, width, None, |out| match value {
            Some(value) => millis(out, value),
            None => out.push(b'-'),
        });
    }
}

fn status_colour(status: u16) -> &'static str {
    match status {
        200..400 => "\x1b[32m",
        429 => "\x1b[33m",
        500.. => "\x1b[31m",
        // The caller left, or was itself to blame.
        _ => "\x1b[36m",
    }
}

fn optional_json(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => json(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

/// One worker's way to write records: a reused buffer before the shared sink.
#[derive(Debug)]
pub struct AccessLog {
    sink: Sink,
    format: LogFormat,
    enabled: bool,
    line: RefCell<(Stamp, Vec<u8>)>,
}

impl AccessLog {
    /// Records go to `sink` where the directives let `sidestep::access` through at `info`.
    #[must_use]
    pub fn new(sink: Sink, format: LogFormat, directives: &Directives) -> Self {
        let enabled = directives.enables(TARGET, Level::INFO);
        Self { sink, format, enabled, line: RefCell::default() }
    }

    /// Writes one record. Never waits for the output.
    pub fn write(&self, record: &AccessRecord<'_>) {
        if !self.enabled {
            return;
        }
        let (stamp, line) = &mut *self.line.borrow_mut();
        line.clear();
        let now = stamp.at(clock::wall());
        match self.format {
            LogFormat::Text => record.write_text(line, now, self.sink.colours()),
            LogFormat::Json => record.write_json(line, now),
        }
        self.sink.line(line);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::mpsc::channel;

    use super::super::request_id::RequestIds;
    use super::super::sink::tests::{Page, Stalled};
    use super::*;

    const NOW: &[u8; 24] = b"2026-09-21T14:13:20.007Z";

    pub(crate) fn notes(attempts: &[(usize, &'static str)]) -> AttemptNotes {
        let mut notes = AttemptNotes::default();
        attempts.iter().for_each(|(backend, verdict)| notes.push(AttemptNote::new(*backend, verdict)));
        notes
    }

    pub(crate) fn record<'a>(backends: &'a [Arc<str>], attempts: &'a AttemptNotes) -> AccessRecord<'a> {
        AccessRecord {
            id: RequestIds::new(1, 0).next_id(),
            trace: None,
            caller: Some("app"),
            method: "POST",
            operation: "chat",
            deployment: Some("gpt-4o"),
            deployment_there: None,
            status: 200,
            backends,
            served_by: Some(1),
            attempts,
            exhausted: false,
            error: None,
            held: None,
            first_byte: Some(Duration::from_micros(340_500)),
            total: Duration::from_millis(812),
            ours: Duration::from_micros(210),
            tokens: Some(Tokens { prompt: 120, cached: 64, completion: 45, estimated: false }),
            stream: true,
            ended: Ended::Completed,
        }
    }

    fn text_of(record: &AccessRecord<'_>) -> String {
        let mut out = Vec::new();
        record.write_text(&mut out, NOW, false);
        String::from_utf8(out).unwrap()
    }

    fn json_of(record: &AccessRecord<'_>) -> serde_json::Value {
        let mut out = Vec::new();
        record.write_json(&mut out, NOW);
        assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_text_record_tells_the_whole_story_in_one_line() {
        let backends = ["east".into(), "west".into()];
        let attempts = notes(&[(0, "throttled"), (1, "served")]);
        let record = record(&backends, &attempts);
        assert_eq!(
            text_of(&record),
            format!(
                "2026-09-21T14:13:20.007Z  INFO request id={} status=200 caller=app          method=POST \
                 operation=chat        deployment=gpt-4o           backend=west         total_ms=812.000   \
                 first_byte_ms=340.500   ours_ms=0.210  prompt_tokens=120   cached_tokens=64    \
                 completion_tokens=45    stream=true  ended=completed attempts=\"east throttled, west served\"\n",
                record.id
            )
        );
    }

    #[test]
    fn the_columns_of_unlike_records_stand_below_each_other() {
        let backends = ["east".into(), "west".into()];
        let attempts = AttemptNotes::default();
        let served = record(&backends, &attempts);
        let mut refused = served.clone();
        (refused.caller, refused.deployment, refused.served_by) = (Some("größer"), None, None);
        (refused.tokens, refused.first_byte, refused.status, refused.operation) =
            (None, None, 0, "embeddings");
        refused.total = Duration::from_secs(61);
        let starts = |record: &AccessRecord<'_>| -> Vec<usize> {
            let text = text_of(record);
            let text: Vec<char> = text.chars().collect();
            (0..text.len()).filter(|at| text[*at] == '=').collect()
        };
        assert_eq!(starts(&served).len(), 15);
        // A status of one digit moves nothing either.
        assert_eq!(starts(&served), starts(&refused), "{}{}", text_of(&served), text_of(&refused));
    }

    #[test]
    fn colours_are_added_where_the_output_is_a_terminal_and_change_no_word() {
        let backends = ["east".into(), "west".into()];
        let attempts = notes(&[(0, "throttled"), (1, "served")]);
        for (status, colour) in [(200, "32"), (404, "36"), (429, "33"), (503, "31"), (0, "36")] {
            let mut record = record(&backends, &attempts);
            record.status = status;
            let mut out = Vec::new();
            record.write_text(&mut out, NOW, true);
            let coloured = String::from_utf8(out).unwrap();
            assert!(coloured.contains(&format!("\u{1b}[{colour}m{status}\u{1b}[0m")), "{coloured:?}");
            let mut plain = coloured;
            for code in ["0", "2", "31", "32", "33", "36"] {
                plain = plain.replace(&format!("\u{1b}[{code}m"), "");
            }
            assert_eq!(plain, text_of(&record));
        }
        let page = Page::default();
        for sink in [Sink::new(page.clone(), LogFormat::Text), Sink::new(page.clone(), LogFormat::Json)] {
            let sink = sink.unwrap().coloured(true);
            let format = if sink.colours() { LogFormat::Text } else { LogFormat::Json };
            AccessLog::new(sink.clone(), format, &"info".parse().unwrap())
                .write(&record(&backends, &attempts));
            assert!(sink.flush(Duration::from_secs(30)));
        }
        let text = page.text();
        assert!(text.lines().any(|line| line.starts_with('{') && !line.contains('\u{1b}')), "{text:?}");
        assert!(text.lines().any(|line| line.contains("\u{1b}[32m200")), "{text:?}");
    }

    #[test]
    fn a_json_record_has_the_same_facts() {
        let backends = ["east".into(), "west".into()];
        let attempts = notes(&[(0, "throttled"), (1, "served")]);
        let record = record(&backends, &attempts);
        assert_eq!(
            json_of(&record),
            serde_json::json!({
                "time": "2026-09-21T14:13:20.007Z", "level": "INFO", "message": "request",
                "id": record.id.as_str(), "caller": "app", "method": "POST", "operation": "chat",
                "deployment": "gpt-4o", "status": 200, "backend": "west",
                "attempts": [
                    {"backend": "east", "verdict": "throttled", "status": null},
                    {"backend": "west", "verdict": "served", "status": null},
                ],
                "further_attempts": 0, "held_ms": null, "first_byte_ms": 340.5, "total_ms": 812.0, "ours_ms": 0.21,
                "prompt_tokens": 120, "cached_tokens": 64, "completion_tokens": 45, "estimated": false,
                "stream": true, "ended": "completed", "error": null
            })
        );
    }

    #[test]
    fn a_record_takes_no_memory_beside_the_buffer_that_is_used_again() {
        let backends = ["east".into(), "west".into()];
        let mut out = Vec::with_capacity(4_096);
        let counted = allocation_counter::measure(|| {
            for cause in [None, Some(crate::balance::AttemptFailure::Dns)] {
                let mut attempts = AttemptNotes::default();
                attempts.push(AttemptNote { status: 503, cause, ..AttemptNote::new(0, "failed") });
                attempts.push(AttemptNote { status: 200, ..AttemptNote::new(1, "served") });
                let record = record(&backends, &attempts);
                record.write_text(&mut out, NOW, true);
                record.write_json(&mut out, NOW);
            }
        });
        assert_eq!(counted.count_total, 0, "{counted:?}");
    }

    #[test]
    fn a_request_refused_here_has_no_backend_and_no_tokens() {
        let attempts = AttemptNotes::default();
        let mut record = record(&[], &attempts);
        (record.served_by, record.tokens, record.first_byte, record.caller) = (None, None, None, None);
        (record.status, record.ended) = (429, Ended::AnsweredHere);
        let text = text_of(&record);
        for absent in
            [" caller=- ", " backend=- ", " first_byte_ms=- ", " prompt_tokens=- ", " completion_tokens=- "]
        {
            assert!(text.contains(absent), "{absent} in {text}");
        }
        assert!(!text.contains("attempts="));
        assert!(text.contains("status=429") && text.contains("ended=\"answered here\""));
        let json = json_of(&record);
        assert!(json["backend"].is_null() && json["caller"].is_null() && json["first_byte_ms"].is_null());
        assert_eq!(json["attempts"], serde_json::json!([]));
    }

    #[test]
    fn a_request_that_waited_in_line_says_for_how_long() {
        let (backends, attempts) = (["east".into(), "west".into()], notes(&[(1, "served")]));
        let mut record = record(&backends, &attempts);
        record.held = Some(Duration::from_micros(43_250));
        assert!(text_of(&record).contains(" attempts=\"west served\" held_ms=43.250"));
        assert_eq!(json_of(&record)["held_ms"], 43.25);
    }

    #[test]
    fn strings_from_outside_can_neither_forge_a_field_nor_a_line() {
        let backends = ["ea\"st\n".into()];
        let attempts = notes(&[(0, "served"), (7, "served")]);
        let mut record = record(&backends, &attempts);
        record.method = "PO\u{1b}[2JST status=200";
        record.deployment = Some("x\" status=200\n\u{202e}");
        let long = "m".repeat(300);
        record.caller = Some(&long);
        let text = text_of(&record);
        assert_eq!(text.lines().count(), 1);
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'));
        assert!(text.contains(r#"deployment="x\" status=200\u{a}\u{202e}""#), "{text}");
        let json = json_of(&record);
        assert_eq!(json["caller"].as_str().unwrap().chars().count(), 201);
        assert_eq!(json["attempts"][1]["backend"], "?");
    }

    #[test]
    fn attempts_beyond_the_bound_are_counted_and_failovers_are_changes_of_backend() {
        let mut notes = AttemptNotes::default();
        (0..20).for_each(|n| notes.push(AttemptNote::new(n / 2, "failed")));
        assert_eq!((notes.named().count(), notes.count(), notes.failovers()), (16, 20, 9));
        assert!(text_of(&record(&[], &notes)).contains("? failed, further 4\""));
    }

    #[test]
    fn records_appear_only_where_the_level_lets_them() {
        let page = Page::default();
        let sink = Sink::new(page.clone(), LogFormat::Text).unwrap();
        let attempts = AttemptNotes::default();
        for level in ["warn", "info,sidestep::access=off", "info"] {
            let log = AccessLog::new(sink.clone(), LogFormat::Text, &level.parse().unwrap());
            log.write(&record(&[], &attempts));
        }
        assert!(sink.flush(Duration::from_secs(30)));
        assert_eq!(page.text().lines().count(), 1);
    }

    #[test]
    fn at_twenty_thousand_requests_a_second_a_reader_may_stall_for_a_third_of_a_second() {
        let backends = ["contoso-west-europe".into(), "contoso-east".into()];
        let attempts = notes(&[(0, "throttled"), (1, "served")]);
        for format in [LogFormat::Text, LogFormat::Json] {
            let (began, writes) = channel();
            let (let_go, go) = channel();
            let page = Page::default();
            let sink = Sink::new(Stalled { page: page.clone(), began, go }, format).unwrap();
            let log = AccessLog::new(sink.clone(), format, &"info".parse().unwrap());
            log.write(&record(&backends, &attempts));
            writes.recv().unwrap(); // From here on nobody reads.
            (0..20_000 / 3).for_each(|_| log.write(&record(&backends, &attempts)));
            assert_eq!(sink.dropped(), 0, "{format:?}");
            drop(let_go);
            assert!(sink.flush(Duration::from_secs(30)));
            assert_eq!(page.text().lines().count(), 1 + 20_000 / 3);
        }
    }
}
