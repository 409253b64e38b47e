//! The access log: one record per request, without content.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use tracing::Level;

use super::LogFormat;
use super::clock::{self, Stamp};
use super::log::Directives;
use super::request_id::RequestId;
use super::sink::Sink;
use super::text::{decimal, json, millis, word};

/// The target under which records are switched on and off in the log level.
const TARGET: &str = "sidestep::access";
/// The most attempts a record names; a request has at most about one per backend.
pub const NAMED_ATTEMPTS: usize = 16;
/// Of them, so many are kept without an allocation.
const INLINE: usize = 2;

/// What is told about one request when it ended. Borrowed from the request's own state: making one allocates
/// nothing.
#[derive(Clone, Debug)]
pub struct AccessRecord<'a> {
    /// Its id.
    pub id: RequestId,
    /// The caller's name; `None` without keys.
    pub caller: Option<&'a str>,
    /// The method as sent.
    pub method: &'a str,
    /// Name of the operation: `chat`, `responses`, `embeddings`, …
    pub operation: &'a str,
    /// The deployment that was asked for, as the caller names it.
    pub deployment: Option<&'a str>,
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
    /// We did: we stop, or the caller took nothing for too long.
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

/// One attempt.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct AttemptNote {
    /// Index of the backend.
    pub backend: usize,
    /// What came of it, e.g. `served`, `throttled`, `connect refused`.
    pub verdict: &'static str,
}

/// The attempts of one request, in order; a record names the first [`NAMED_ATTEMPTS`] and counts further ones. There
/// are at most two for each backend.
#[derive(Clone, Debug, Default)]
pub struct AttemptNotes {
    /// Here, because most requests have one or two, and a record lives as long as its stream.
    first: [AttemptNote; INLINE],
    inline: usize,
    more: Vec<AttemptNote>,
    failovers: u32,
    last: Option<usize>,
}

impl AttemptNotes {
    /// Adds one.
    pub fn push(&mut self, backend: usize, verdict: &'static str) {
        if self.last.is_some_and(|last| last != backend) {
            self.failovers = self.failovers.saturating_add(1);
        }
        self.last = Some(backend);
        let note = AttemptNote { backend, verdict };
        match self.first.get_mut(self.inline) {
            Some(place) => {
                *place = note;
                self.inline += 1;
            }
            None => self.more.push(note),
        }
    }

    /// The last one turned out otherwise than it began.
    pub fn amend(&mut self, verdict: &'static str) {
        let last = self.more.last_mut().or_else(|| self.first[..self.inline].last_mut());
        if let Some(note) = last {
            note.verdict = verdict;
        }
    }

    /// All of them, in order.
    pub fn all(&self) -> impl Iterator<Item = &AttemptNote> {
        self.first[..self.inline].iter().chain(&self.more)
    }

    /// Those that a record names, in order.
    pub fn named(&self) -> impl Iterator<Item = &AttemptNote> {
        self.all().take(NAMED_ATTEMPTS)
    }

    /// How many there were that a record does not name.
    fn further(&self) -> u64 {
        (self.inline + self.more.len()).saturating_sub(NAMED_ATTEMPTS) as u64
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.inline + self.more.len()).unwrap_or(u32::MAX)
    }

    /// How many went to another backend than the one before.
    #[must_use]
    pub fn failovers(&self) -> u32 {
        self.failovers
    }
}

impl AccessRecord<'_> {
    fn backend_name(&self, index: usize) -> &str {
        self.backends.get(index).map_or("?", |name| name)
    }

    /// Appends one line for people; `now` as from [`Stamp::at`].
    pub fn write_text(&self, out: &mut Vec<u8>, now: &[u8; 24]) {
        let put = |out: &mut Vec<u8>, text: &str| out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(now);
        put(out, "  INFO request id=");
        put(out, self.id.as_str());
        if let Some(caller) = self.caller {
            put(out, " caller=");
            word(out, caller);
        }
        put(out, " method=");
        word(out, self.method);
        put(out, " operation=");
        word(out, self.operation);
        if let Some(deployment) = self.deployment {
            put(out, " deployment=");
            word(out, deployment);
        }
        put(out, " status=");
        decimal(out, self.status.into());
        if let Some(backend) = self.served_by {
            put(out, " backend=");
            word(out, self.backend_name(backend));
        }
        self.write_text_attempts(out);
        if let Some(held) = self.held {
            put(out, " held_ms=");
            millis(out, held);
        }
        if let Some(first_byte) = self.first_byte {
            put(out, " first_byte_ms=");
            millis(out, first_byte);
        }
        put(out, " total_ms=");
        millis(out, self.total);
        put(out, " ours_ms=");
        millis(out, self.ours);
        if let Some(tokens) = self.tokens {
            put(out, " prompt_tokens=");
            decimal(out, tokens.prompt);
            put(out, " cached_tokens=");
            decimal(out, tokens.cached);
            put(out, " completion_tokens=");
            decimal(out, tokens.completion);
            put(out, if tokens.estimated { " estimated=true" } else { "" });
        }
        put(out, if self.stream { " stream=true" } else { " stream=false" });
        put(out, " ended=");
        word(out, self.ended.word());
        if let Some(error) = self.error {
            put(out, " error=");
            word(out, error);
        }
        out.push(b'\n');
    }

    fn write_text_attempts(&self, out: &mut Vec<u8>) {
        if self.attempts.count() == 0 {
            return;
        }
        out.extend_from_slice(b" attempts=\"");
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
            out.extend_from_slice(note.verdict.as_bytes());
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
        put(out, "\",\"level\":\"INFO\",\"message\":\"request\",\"id\":\"");
        put(out, self.id.as_str());
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
            put(out, ",\"verdict\":");
            json(out, note.verdict);
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
        put(out, "}\n");
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
            LogFormat::Text => record.write_text(line, now),
            LogFormat::Json => record.write_json(line, now),
        }
        self.sink.line(line);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::request_id::RequestIds;
    use super::super::sink::tests::Page;
    use super::*;

    const NOW: &[u8; 24] = b"2026-09-21T14:13:20.007Z";

    pub(crate) fn notes(attempts: &[(usize, &'static str)]) -> AttemptNotes {
        let mut notes = AttemptNotes::default();
        attempts.iter().for_each(|(backend, verdict)| notes.push(*backend, verdict));
        notes
    }

    pub(crate) fn record<'a>(backends: &'a [Arc<str>], attempts: &'a AttemptNotes) -> AccessRecord<'a> {
        AccessRecord {
            id: RequestIds::new(1, 0).next_id(),
            caller: Some("app"),
            method: "POST",
            operation: "chat",
            deployment: Some("gpt-4o"),
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
        record.write_text(&mut out, NOW);
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
                "2026-09-21T14:13:20.007Z  INFO request id={} caller=app method=POST operation=chat \
                 deployment=gpt-4o status=200 backend=west attempts=\"east throttled, west served\" \
                 first_byte_ms=340.500 total_ms=812.000 ours_ms=0.210 prompt_tokens=120 cached_tokens=64 \
                 completion_tokens=45 stream=true ended=completed\n",
                record.id
            )
        );
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
                "attempts": [{"backend": "east", "verdict": "throttled"}, {"backend": "west", "verdict": "served"}],
                "further_attempts": 0, "held_ms": null, "first_byte_ms": 340.5, "total_ms": 812.0, "ours_ms": 0.21,
                "prompt_tokens": 120, "cached_tokens": 64, "completion_tokens": 45, "estimated": false,
                "stream": true, "ended": "completed", "error": null
            })
        );
    }

    #[test]
    fn a_request_refused_here_has_no_backend_and_no_tokens() {
        let attempts = AttemptNotes::default();
        let mut record = record(&[], &attempts);
        (record.served_by, record.tokens, record.first_byte, record.caller) = (None, None, None, None);
        (record.status, record.ended) = (429, Ended::AnsweredHere);
        let text = text_of(&record);
        assert!(!text.contains("backend=") && !text.contains("tokens") && !text.contains("attempts="));
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
        assert!(text_of(&record).contains(" attempts=\"west served\" held_ms=43.250 first_byte_ms="));
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
        (0..20).for_each(|n| notes.push(n / 2, "failed"));
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
}
