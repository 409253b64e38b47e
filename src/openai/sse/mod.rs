//! The events of a stream, told apart as their bytes pass: what may be held back before commit, what is an
//! error, and whether the stream came to its proper end.
//!
//! The bytes themselves are not touched. An event that lies whole within a chunk is read where it is; only one
//! that crosses chunks is copied, up to [`LONGEST_EVENT`]. Of a longer one the beginning must do: it holds the
//! event's name, or the `type` as OpenAI writes it first; otherwise the event counts as content.

use std::borrow::Cow;
use std::sync::LazyLock;

use http::StatusCode;
use memchr::memmem::Finder;
use serde_json::Value;

use super::json::{Kind, Members, Step};
use super::operations::Api;

/// How much of an event is kept across chunks, in bytes. `response.completed` repeats instructions, tools and
/// the whole answer.
pub const LONGEST_EVENT: usize = 1024 * 1024;
/// Capacity that is kept for the next event once a long one is over, in bytes.
const KEPT: usize = 16 * 1024;
/// Longest message of an error that is kept, in bytes.
const LONGEST_MESSAGE: usize = 1024;

/// What an event means for the phase before commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Nothing that a client's reader would dispatch: comments, or fields without data.
    Comment,
    /// Says nothing yet and may be held back: chat chunks with empty `choices` (the last one, with usage, looks
    /// the same), `response.created`, `response.queued`, `response.in_progress`.
    Prelude,
    /// Part of the answer.
    Content,
    /// The stream failed.
    Error(StreamError),
    /// The proper end: `[DONE]`, `response.completed`, `response.incomplete`, `response.cancelled`.
    Done,
}

/// An error inside a stream whose status was 200.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamError {
    /// What the service wrote as `code`, else as `type`; empty if neither.
    pub code: String,
    /// What the service wrote, at most 1 KiB. It comes from outside: escape it before it is shown.
    pub message: String,
    /// What it would have been as a status.
    pub class: ErrorClass,
}

/// What an error inside a stream would have been as a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// 429
    RateLimited,
    /// 5xx
    Server,
    /// The request is to blame: content filter, invalid prompt. It would fail everywhere.
    Other,
    /// `response.failed` with a null error: the `error` event that Azure sends next says which.
    Unknown,
}

impl StreamError {
    /// The status for the verdict: 429, 500 or 400; unknown is 500.
    pub fn status(&self) -> StatusCode {
        match self.class {
            ErrorClass::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            ErrorClass::Server | ErrorClass::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorClass::Other => StatusCode::BAD_REQUEST,
        }
    }
}

/// How far a stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// More must come.
    Open,
    /// Its last event was there.
    Complete,
    /// It told its client that it failed.
    Failed,
    /// The same, and the request is to blame.
    Refused,
}

/// Cuts a stream into events across chunk borders and says what each is.
///
/// Before commit: `while let Some(kind) = scanner.next(&mut rest)`. Hold on `Comment` and `Prelude`, commit on
/// `Content` and `Done`, judge an `Error` by [`StreamError::status`]. An error of class `Unknown` is not judged
/// yet: read on, the next `Error` says more; if the stream ends, or a short time passes, without one, it counts
/// as the 500 that its status says. After commit: [`pass`](Self::pass) every chunk, and when the upstream is
/// gone ask [`is_cut`](Self::is_cut) and [`inside_event`](Self::inside_event).
#[derive(Debug)]
pub struct EventScanner {
    api: Api,
    /// What came of an event that is not over.
    event: Vec<u8>,
    /// The current line has no byte yet.
    line_empty: bool,
    /// The last chunk ended with a carriage return; a line feed after it belongs to it.
    after_return: bool,
    ending: Ending,
    /// More content came after it had told an error.
    goes_on: bool,
}

impl EventScanner {
    /// A scanner for a stream of this form, before its first byte.
    pub fn new(api: Api) -> Self {
        Self {
            api,
            event: Vec::new(),
            line_empty: true,
            after_return: false,
            ending: Ending::Open,
            goes_on: false,
        }
    }

    /// The next event that ends in `rest`, which is shortened to what comes after it; `None` when `rest` is used up.
    pub fn next(&mut self, rest: &mut &[u8]) -> Option<EventKind> {
        let chunk = *rest;
        // An empty chunk is no border: a carriage return before it may still get its line feed.
        if chunk.is_empty() {
            return None;
        }
        let mut start = 0;
        let mut at = 0;
        if std::mem::take(&mut self.after_return) && chunk.first() == Some(&b'\n') {
            at = 1;
            start = usize::from(self.event.is_empty());
        }
        while let Some(length) = memchr::memchr2(b'\n', b'\r', &chunk[at..]) {
            let blank = length == 0 && self.line_empty;
            let end = at + length;
            at = end + 1;
            if chunk[end] == b'\r' {
                match chunk.get(at) {
                    Some(b'\n') => at += 1,
                    Some(_) => {}
                    None => self.after_return = true,
                }
            }
            self.line_empty = true;
            if !blank {
                continue;
            }
            if self.event.is_empty() && start == end {
                start = at;
                continue;
            }
            *rest = &chunk[at..];
            return Some(self.close(&chunk[start..end]));
        }
        self.line_empty &= at == chunk.len();
        self.keep(&chunk[start..]);
        *rest = &[];
        None
    }

    /// Takes note of a chunk whose events are of no interest any more.
    pub fn pass(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while self.next(&mut rest).is_some() {}
    }

    /// How far the stream has come. One whose form we do not know stays `Open` unless it says `[DONE]` or fails.
    pub fn ending(&self) -> Ending {
        self.ending
    }

    /// Whether a stream that ends now was cut: within an event, or before its last one, where the form has one.
    pub fn is_cut(&self) -> bool {
        self.inside_event() || (self.ending == Ending::Open && self.api != Api::Other)
    }

    /// Whether its client knows how it ended: by its last event, or by an error after which nothing came.
    pub fn is_over(&self) -> bool {
        !self.inside_event()
            && self.ending != Ending::Open
            && (self.ending == Ending::Complete || !self.goes_on)
    }

    /// Whether an event was begun and is not over, so that nothing may be written after it. Whole lines of
    /// comment do not begin one.
    pub fn inside_event(&self) -> bool {
        let comments = || lines(&self.event).all(|line| line.starts_with(b":"));
        !(self.event.is_empty() || (self.line_empty && comments()))
    }

    fn close(&mut self, tail: &[u8]) -> EventKind {
        let kind = if self.event.is_empty() {
            classify(self.api, tail)
        } else {
            self.keep(tail);
            classify(self.api, &self.event)
        };
        self.event.clear();
        self.event.shrink_to(KEPT);
        match kind {
            EventKind::Content => self.goes_on = self.ending != Ending::Open,
            EventKind::Error(_) | EventKind::Done => self.goes_on = false,
            EventKind::Comment | EventKind::Prelude => {}
        }
        self.ending = match (self.ending, &kind) {
            (Ending::Open, EventKind::Done) => Ending::Complete,
            // What Azure says first may not tell why, and what it says next does.
            (Ending::Open | Ending::Failed, EventKind::Error(error)) if error.class == ErrorClass::Other => {
                Ending::Refused
            }
            (Ending::Open, EventKind::Error(_)) => Ending::Failed,
            (ending, _) => ending,
        };
        kind
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LONGEST_EVENT.saturating_sub(self.event.len());
        self.event.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// The lines of an event that are not empty.
fn lines(event: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = memchr::memchr2_iter(b'\n', b'\r', event).chain([event.len()]);
    let mut start = 0;
    let lines = ends.map(move |end| &event[std::mem::replace(&mut start, end + 1)..end]);
    lines.filter(|line| !line.is_empty())
}

fn classify(api: Api, event: &[u8]) -> EventKind {
    let event = event.strip_prefix(b"\xef\xbb\xbf").unwrap_or(event);
    let mut name: &[u8] = b"";
    let mut data: Option<Cow<'_, [u8]>> = None;
    for line in lines(event) {
        let (field, value) = match memchr::memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => name = value,
            b"data" => match &mut data {
                None => data = Some(Cow::Borrowed(value)),
                Some(data) => {
                    let data = data.to_mut();
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
            },
            _ => {}
        }
    }
    let Some(data) = data else { return EventKind::Comment };
    if data.trim_ascii() == b"[DONE]" {
        return EventKind::Done;
    }
    match api {
        Api::Chat => chat(name, &data),
        Api::Responses => response(name, &data),
        Api::Other => other(name, &data),
    }
}

fn chat(name: &[u8], data: &[u8]) -> EventKind {
    if name.is_empty() && is_plain_chunk(data) {
        return EventKind::Content;
    }
    let top = top(data);
    if name == b"error" || top.error {
        EventKind::Error(error(data))
    } else if top.no_choices {
        EventKind::Prelude
    } else {
        EventKind::Content
    }
}

const CHOICES: &[u8] = b"\"choices\":[";
/// These are made once: to make one costs more than to look through an event.
static CHOICES_FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(CHOICES));
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"error\""));

/// Nearly every event of a chat, told without reading it whole: choices, and no word of an error.
fn is_plain_chunk(data: &[u8]) -> bool {
    let first = data.get(1..=CHOICES.len()) == Some(CHOICES);
    let at = if first { Some(1) } else { CHOICES_FINDER.find(data) };
    at.and_then(|at| data.get(at + CHOICES.len())) == Some(&b'{') && ERROR.find(data).is_none()
}

fn response(name: &[u8], data: &[u8]) -> EventKind {
    let kind = if name.is_empty() { kind(data) } else { Cow::Borrowed(name) };
    match &*kind {
        b"response.created" | b"response.queued" | b"response.in_progress" => EventKind::Prelude,
        b"response.failed" | b"error" => EventKind::Error(error(data)),
        b"response.completed" | b"response.incomplete" | b"response.cancelled" => EventKind::Done,
        b"" if top(data).error => EventKind::Error(error(data)),
        _ => EventKind::Content,
    }
}

fn other(name: &[u8], data: &[u8]) -> EventKind {
    let failed = name == b"error"
        || match &*kind(data) {
            b"" => top(data).error,
            kind => kind == b"error",
        };
    if failed { EventKind::Error(error(data)) } else { EventKind::Content }
}

/// The `type` of an event's data, empty if it has none; read no further than it stands.
fn kind(data: &[u8]) -> Cow<'_, [u8]> {
    let mut members = Members::of(data);
    while let Step::Member(member) = members.next() {
        if &*member.key(data) == b"type"
            && let Some(kind) = member.string(data)
        {
            return match kind {
                Cow::Borrowed(kind) => Cow::Borrowed(kind.as_bytes()),
                Cow::Owned(kind) => Cow::Owned(kind.into_bytes()),
            };
        }
    }
    Cow::Borrowed(b"")
}

/// What the top level of an event's data says.
#[derive(Default)]
struct Top {
    /// There is an `error` that is not null.
    error: bool,
    /// `choices` is there and empty.
    no_choices: bool,
}

fn top(data: &[u8]) -> Top {
    let mut top = Top::default();
    let mut members = Members::of(data);
    while let Step::Member(member) = members.next() {
        match &*member.key(data) {
            b"error" => top.error = matches!(member.kind, Kind::Object | Kind::String),
            b"choices" => {
                let inner = member.text(data).strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
                top.no_choices = inner.is_some_and(|inner| inner.trim_ascii().is_empty());
            }
            _ => {}
        }
    }
    top
}

fn error(data: &[u8]) -> StreamError {
    let value: Value = serde_json::from_slice(data).unwrap_or_default();
    let nested =
        [value.get("error"), value.pointer("/response/error")].into_iter().flatten().find(|e| !e.is_null());
    // A flat error has its fields beside `type`, which then is only the event's name.
    let flat = value.get("type").and_then(Value::as_str) == Some("error");
    let detail = nested.or(if flat { Some(&value) } else { None }).unwrap_or(&Value::Null);
    let word = |key: &str| match detail.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    let (code, mut kind) = (word("code"), word("type"));
    if nested.is_none() {
        kind.clear();
    }
    let mut message = detail.as_str().map_or_else(|| word("message"), str::to_owned);
    shorten(&mut message);
    let class = class_of(&code).or_else(|| class_of(&kind)).or_else(|| class_of_message(&message));
    let silent = code.is_empty() && kind.is_empty() && message.is_empty();
    let class = class.unwrap_or(if silent { ErrorClass::Unknown } else { ErrorClass::Other });
    let mut code = if code.is_empty() { kind } else { code };
    shorten(&mut code);
    StreamError { code, message, class }
}

fn shorten(text: &mut String) {
    if text.len() > LONGEST_MESSAGE {
        let end = (0..=LONGEST_MESSAGE).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
    }
}

/// What a code or a type says, `None` if it is not one of those that another backend might not give.
fn class_of(word: &str) -> Option<ErrorClass> {
    match word.to_ascii_lowercase().as_str() {
        "429"
        | "rate_limit_exceeded"
        | "rate_limit_error"
        | "too_many_requests"
        | "toomanyrequests"
        | "insufficient_quota" => Some(ErrorClass::RateLimited),
        "server_error"
        | "internal_error"
        | "internal_server_error"
        | "internalservererror"
        | "service_unavailable"
        | "serviceunavailable"
        | "overloaded"
        | "overloaded_error"
        | "server_overloaded"
        | "bad_gateway"
        | "gateway_timeout"
        | "timeout"
        | "vector_store_timeout"
        | "no_kv_space" => Some(ErrorClass::Server),
        word => match word.parse() {
            Ok(500..=599_u16) => Some(ErrorClass::Server),
            _ => None,
        },
    }
}

/// Some errors have neither code nor type that says anything.
fn class_of_message(message: &str) -> Option<ErrorClass> {
    let message = message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&["rate limit", "too many requests"]) {
        Some(ErrorClass::RateLimited)
    } else if says(&["overloaded", "server had an error", "no_kv_space"]) {
        Some(ErrorClass::Server)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
