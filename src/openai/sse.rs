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
}

impl EventScanner {
    /// A scanner for a stream of this form, before its first byte.
    pub fn new(api: Api) -> Self {
        Self { api, event: Vec::new(), line_empty: true, after_return: false, ending: Ending::Open }
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

/// Nearly every event of a chat, told without reading it whole: choices, and no word of an error.
fn is_plain_chunk(data: &[u8]) -> bool {
    const CHOICES: &[u8] = b"\"choices\":[";
    static CHOICES_FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(CHOICES));
    static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"error\""));
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CREATED: &str = "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"error\":null}}\n\n";
    // azure-openai.md 3.5, as reported.
    const FAILED: &str = "data: {\"type\":\"response.failed\",\"response\":{\"id\":\"resp_1\",\"status\":\"failed\",\"error\":null,\"incomplete_details\":null,\"output\":[],\"usage\":null},\"sequence_number\":1}\n\n";
    const LIMITED: &str = "data: {\"type\":\"error\",\"error\":{\"type\":\"too_many_requests\",\"code\":\"rate_limit_exceeded\",\"headers\":{\"x-ms-fe-error\":\"true\"},\"message\":\"Your requests to the deployment have exceeded rate limit.\",\"param\":null},\"sequence_number\":2}\n\n";
    const FILTER: &str = "data: {\"choices\":[],\"created\":0,\"id\":\"\",\"model\":\"\",\"object\":\"\",\"prompt_filter_results\":[{\"prompt_index\":0}]}\n\n";
    const DELTA: &str =
        "data: {\"choices\":[{\"delta\":{\"content\":\"{\\\"error\\\":{}}\"}}],\"usage\":null}\n\n";

    fn fed(api: Api, chunks: &[&[u8]]) -> (Vec<EventKind>, EventScanner) {
        let mut scanner = EventScanner::new(api);
        let mut kinds = Vec::new();
        for chunk in chunks {
            let mut rest = *chunk;
            while let Some(kind) = scanner.next(&mut rest) {
                kinds.push(kind);
            }
            assert!(rest.is_empty());
        }
        (kinds, scanner)
    }

    fn kinds(api: Api, text: &str) -> Vec<EventKind> {
        fed(api, &[text.as_bytes()]).0
    }

    fn only_error(api: Api, text: &str) -> StreamError {
        match kinds(api, text).pop() {
            Some(EventKind::Error(error)) => error,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_chat_stream_is_told_from_prelude_to_end() {
        let text = [
            FILTER,
            DELTA,
            DELTA,
            "data: {\"choices\": [ ],\"usage\":{\"prompt_tokens\":1}}\n\n",
            "data: [DONE]\n\n",
        ]
        .concat();
        let (kinds, scanner) = fed(Api::Chat, &[text.as_bytes()]);
        assert_eq!(
            kinds,
            [EventKind::Prelude, EventKind::Content, EventKind::Content, EventKind::Prelude, EventKind::Done]
        );
        assert_eq!(scanner.ending(), Ending::Complete);
        assert!(!scanner.is_cut());
    }

    #[test]
    fn a_responses_stream_is_told_from_prelude_to_end() {
        let text = [
            CREATED,
            "event: response.queued\ndata: {}\n\n",
            "data: {\"type\":\"response.in_progress\"}\n\n",
            "event: response.output_item.added\ndata: {\"type\":\"response.output_item.added\"}\n\n",
            "data: {\"type\":\"response.output_text.delta\",\"delta\":\"response.completed\"}\n\n",
        ]
        .concat();
        let (told, mut scanner) = fed(Api::Responses, &[text.as_bytes()]);
        assert_eq!(
            told,
            [
                EventKind::Prelude,
                EventKind::Prelude,
                EventKind::Prelude,
                EventKind::Content,
                EventKind::Content
            ]
        );
        assert!(scanner.is_cut() && !scanner.inside_event());
        scanner.pass(b"event: response.completed\ndata: {\"response\":{}}\n\n");
        assert!(!scanner.is_cut());
        assert_eq!(kinds(Api::Responses, "data: {\"type\":\"response.incomplete\"}\n\n"), [EventKind::Done]);
    }

    #[test]
    fn azures_rate_limit_inside_a_stream_is_unknown_and_then_named() {
        let text = [CREATED, FAILED, LIMITED].concat();
        let (kinds, scanner) = fed(Api::Responses, &[text.as_bytes()]);
        let [EventKind::Prelude, EventKind::Error(first), EventKind::Error(second)] = &kinds[..] else {
            panic!("{kinds:?}")
        };
        assert_eq!((first.class, first.status().as_u16()), (ErrorClass::Unknown, 500));
        assert_eq!((second.class, second.status().as_u16()), (ErrorClass::RateLimited, 429));
        assert_eq!(second.code, "rate_limit_exceeded");
        assert_eq!(second.message, "Your requests to the deployment have exceeded rate limit.");
        assert_eq!(scanner.ending(), Ending::Failed);
        assert!(!scanner.is_cut());
        let filtered = "event: error\ndata: {\"type\":\"error\",\"code\":\"content_filter\"}\n\n";
        let (_, scanner) = fed(Api::Responses, &[CREATED.as_bytes(), FAILED.as_bytes(), filtered.as_bytes()]);
        assert_eq!(scanner.ending(), Ending::Refused, "which is told last");
    }

    #[test]
    fn errors_have_the_class_of_their_code_type_or_message() {
        let table = [
            (
                Api::Responses,
                "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"rate_limit_exceeded\",\"message\":\"m\"}}}\n\n",
                ErrorClass::RateLimited,
            ),
            (
                Api::Responses,
                "event: response.failed\ndata: {\"response\":{\"error\":{\"code\":\"server_error\"}}}\n\n",
                ErrorClass::Server,
            ),
            (
                Api::Responses,
                "event: error\ndata: {\"type\":\"error\",\"code\":\"too_many_requests\",\"message\":\"flat\"}\n\n",
                ErrorClass::RateLimited,
            ),
            (
                Api::Responses,
                "event: error\ndata: {\"type\":\"error\",\"code\":null,\"message\":\"?\"}\n\n",
                ErrorClass::Other,
            ),
            (
                Api::Responses,
                "data: {\"type\":\"error\",\"error\":{\"type\":\"server_error\",\"message\":\"no_kv_space\"}}\n\n",
                ErrorClass::Server,
            ),
            (
                Api::Responses,
                "data: {\"error\":{\"code\":\"invalid_prompt\",\"message\":\"m\"}}\n\n",
                ErrorClass::Other,
            ),
            (Api::Responses, "event: response.failed\ndata: not json\n\n", ErrorClass::Unknown),
            (
                Api::Chat,
                "data: {\"error\":{\"message\":\"That model is currently overloaded with other requests.\",\"type\":\"server_error\",\"param\":null,\"code\":null}}\n\n",
                ErrorClass::Server,
            ),
            (Api::Chat, "data: {\"error\":{\"code\":429,\"message\":\"\"}}\n\n", ErrorClass::RateLimited),
            (Api::Chat, "data: {\"error\":{\"code\":\"503\"}}\n\n", ErrorClass::Server),
            (
                Api::Chat,
                "data: {\"error\":{\"code\":null,\"message\":\"You exceeded the Rate Limit\"}}\n\n",
                ErrorClass::RateLimited,
            ),
            (
                Api::Chat,
                "data: {\"error\":{\"code\":\"content_filter\",\"type\":null,\"message\":\"filtered\"}}\n\n",
                ErrorClass::Other,
            ),
            (Api::Chat, "data: {\"error\":\"rate limit\"}\n\n", ErrorClass::RateLimited),
            (
                Api::Other,
                "event: error\ndata: {\"error\":{\"code\":\"server_error\"}}\n\n",
                ErrorClass::Server,
            ),
            (Api::Other, "data: {\"type\":\"error\",\"code\":\"500\"}\n\n", ErrorClass::Server),
        ];
        for (api, text, class) in table {
            assert_eq!(only_error(api, text).class, class, "{text}");
            let ending = if class == ErrorClass::Other { Ending::Refused } else { Ending::Failed };
            assert_eq!(fed(api, &[text.as_bytes()]).1.ending(), ending, "{text}");
        }
        let unfiltered = "data: {\"choices\":[{\"content_filter_results\":{\"error\":{\"code\":\"content_filter_error\"}}}]}\n\n";
        assert_eq!(kinds(Api::Chat, unfiltered), [EventKind::Content]);
        let late = "data: {\"choices\":[{}],\"error\":{\"code\":\"429\"}}\n\n";
        assert_eq!(only_error(Api::Chat, late).class, ErrorClass::RateLimited);
        let untyped = "data: {\"x\":1,\"type\":\"response.created\"}\n\n";
        assert_eq!(kinds(Api::Responses, untyped), [EventKind::Prelude]);
        assert_eq!(kinds(Api::Chat, "data: {\"error\":null,\"choices\":[{}]}\n\n"), [EventKind::Content]);
    }

    #[test]
    fn every_kind_of_line_end_ends_an_event() {
        for end in ["\n", "\r\n", "\r"] {
            let text = format!(
                "{FILTER}{DELTA}: keep-alive\n\nid: 1\n\ndata: [DO\ndata: NE]\n\n\n\ndata:[DONE]\n\n"
            )
            .replace('\n', end);
            let expected = [
                EventKind::Prelude,
                EventKind::Content,
                EventKind::Comment,
                EventKind::Comment,
                EventKind::Content,
                EventKind::Done,
            ];
            assert_eq!(kinds(Api::Chat, &text), expected, "{end:?}");
            let single: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            let (kinds, scanner) = fed(Api::Chat, &single);
            assert_eq!(kinds, expected, "{end:?}");
            assert!(!scanner.inside_event());
        }
    }

    #[test]
    fn data_on_several_lines_is_one_text() {
        assert_eq!(kinds(Api::Chat, "data: {\"choices\":\ndata: []}\n\n"), [EventKind::Prelude]);
        assert_eq!(kinds(Api::Chat, "\u{feff}data: {\"choices\":[]}\n\n"), [EventKind::Prelude]);
    }

    #[test]
    fn an_empty_chunk_between_return_and_line_feed_ends_no_event() {
        let (told, scanner) = fed(Api::Chat, &[b"data: [DO\r", b"", b"\ndata: NE]\r\n\r", b"", b"\n"]);
        assert_eq!(told, [EventKind::Content]);
        assert!(!scanner.inside_event());
    }

    #[test]
    fn a_half_sent_event_is_known_at_every_byte() {
        let text = DELTA.as_bytes();
        for cut in 1..text.len() {
            let (kinds, scanner) = fed(Api::Chat, &[&text[..cut]]);
            assert!(kinds.is_empty() && scanner.inside_event() && scanner.is_cut(), "{cut}");
        }
        let (_, scanner) = fed(Api::Chat, &[text]);
        assert!(!scanner.inside_event() && scanner.is_cut());
        assert!(!fed(Api::Chat, &[b": keep-alive\n"]).1.inside_event());
        assert!(fed(Api::Chat, &[b": keep-al"]).1.inside_event());
        assert!(!fed(Api::Chat, &[b"data: x\r\n\r"]).1.inside_event());
        let (_, other) = fed(Api::Other, &[b"data: x\n\n"]);
        assert!(!other.is_cut(), "the end of an unknown form is not known");
    }

    #[test]
    fn an_event_beyond_the_cap_is_told_by_its_beginning_and_memory_stays_bounded() {
        let filler = vec![b'a'; 256 * 1024];
        for (begin, expected) in [
            ("event: response.completed\ndata: {\"response\":{\"x\":\"", EventKind::Done),
            ("data: {\"type\":\"response.completed\",\"response\":{\"x\":\"", EventKind::Done),
            ("data: {\"response\":{\"x\":\"", EventKind::Content),
        ] {
            let mut scanner = EventScanner::new(Api::Responses);
            scanner.pass(begin.as_bytes());
            for _ in 0..20 {
                scanner.pass(&filler);
                assert!(scanner.event.capacity() <= 2 * LONGEST_EVENT);
            }
            let mut rest: &[u8] = b"\"}}\n\n";
            assert_eq!(scanner.next(&mut rest), Some(expected), "{begin}");
            assert!(scanner.event.capacity() <= KEPT);
        }
    }

    #[test]
    fn our_own_error_events_are_errors_of_their_form() {
        for api in [Api::Chat, Api::Responses, Api::Other] {
            let event = crate::openai::errors::stream_event(
                api,
                "upstream_stream_interrupted",
                "the upstream broke off",
                "3cac2921276ab313",
            );
            let (kinds, scanner) = fed(api, &[&event]);
            assert!(
                matches!(&kinds[..], [EventKind::Error(error)] if error.code == "upstream_stream_interrupted")
            );
            assert!(!scanner.inside_event());
        }
    }

    proptest! {
        #[test]
        fn chunk_borders_never_change_what_is_told(text in "(data: |event: response\\.(failed|created)|\\[DONE\\]|\\{\"choices\":\\[\\]\\}|\\{\"error\":\\{\"code\":\"429\"\\}\\}|\r|\n|\n\n|\r\n\r\n|:|[a-z{}\"]|\\PC){0,40}", size in 1_usize..8) {
            for api in [Api::Chat, Api::Responses, Api::Other] {
                let (whole, at_end) = fed(api, &[text.as_bytes()]);
                let chunks: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
                let (cut, cut_at_end) = fed(api, &chunks);
                prop_assert_eq!(whole, cut);
                prop_assert_eq!(at_end.inside_event(), cut_at_end.inside_event());
                prop_assert_eq!(at_end.ending(), cut_at_end.ending());
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for api in [Api::Chat, Api::Responses, Api::Other] {
                fed(api, &[&bytes]);
            }
        }
    }
}
