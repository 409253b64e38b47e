//! Ids of objects that live on one backend: which ones a request's body names, which ones an answer tells.
//!
//! One incremental pass over JSON, or over JSON within the events of a stream: it knows the depth, the key before a
//! value and one short string, so neither size nor depth of what passes costs memory. Text that a person or a model
//! wrote can hold anything that looks like an id; it stands inside a string, and only a whole string under a key that
//! is made for ids counts.

use std::borrow::Cow;

use super::json::unescape;

/// Longest id, in bytes; the longest of Azure's have under 80.
const LONGEST: usize = 128;

/// Of a body no more than so many ids are looked at.
const MOST_NAMED: usize = 16;

/// Of an answer no more is read, in bytes, and no more ids are told.
const MOST_READ: usize = 1024 * 1024;
const MOST_TOLD: usize = 128;

/// What ids begin with (azure-openai.md 2.4 and the SDKs' types). Files are `assistant-…` on older Azure API versions.
const PREFIXES: [&str; 21] = [
    "resp_",
    "file-",
    "assistant-",
    "batch_",
    "vs_",
    "vsfb_",
    "asst_",
    "thread_",
    "run_",
    "conv_",
    "ftjob-",
    "ftckpt_",
    "upload_",
    "eval_",
    "evalrun_",
    "cntr_",
    "cfile_",
    "video_",
    "task_",
    "chatcmpl-",
    "rtc_",
];

/// What ids of items within a response or conversation begin with. A request names one only by an item reference:
/// callers that keep a conversation themselves send the items back whole, with their ids, and may go anywhere.
const ITEMS: [&str; 6] = ["msg_", "rs_", "fc_", "step_", "ws_", "ci_"];

/// What the id of a prompt that is kept as a template begins with.
const TEMPLATE: &str = "pmpt_";

fn begins(text: &str, prefixes: &[&str]) -> bool {
    is_plain(text) && prefixes.iter().any(|prefix| text.len() > prefix.len() && text.starts_with(prefix))
}

/// Whether this can be an id at all, whatever it begins with.
pub(super) fn is_plain(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    !text.is_empty() && text.len() <= LONGEST && text.bytes().all(plain)
}

/// The ids of objects that a JSON request names, in their order, at most sixteen. Most name none, which
/// [`BodyScan::may_name`](super::BodyScan) tells without another pass.
pub fn named_in_body(body: &[u8]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    Walk::over(Side::Request).feed(body, &mut |_, id| {
        if names.len() < MOST_NAMED && !names.iter().any(|known| known == id) {
            names.push(id.to_owned());
        }
    });
    names
}

/// The ids of objects that a query names: where a page of a list begins, or which call a socket joins.
pub fn named_in_query(query: &str) -> Vec<String> {
    let names = super::query::values(query, &["after", "before", "call_id"]);
    names.filter(|name| begins(name, &PREFIXES)).map(Cow::into_owned).take(MOST_NAMED).collect()
}

/// Whether this string of a request's body, key or value, may make a difference to what the body names. Cheap, and never
/// wrongly `false`.
pub(super) fn may_name(raw: &[u8], escaped: bool) -> bool {
    if raw.len() > LONGEST {
        return false;
    }
    // An ASCII character that is escaped for no reason may be a part of any key.
    let written_oddly = escaped && raw.windows(4).any(|four| four == b"\\u00");
    if written_oddly || raw.starts_with(TEMPLATE.as_bytes()) {
        return true;
    }
    match raw.last() {
        Some(b'd') => raw.ends_with(b"_id") && !raw.ends_with(b"call_id"),
        Some(b's') => raw.ends_with(b"_ids") || raw == b"result_files",
        Some(b'e') => raw.ends_with(b"_file") || raw == b"item_reference",
        Some(b'n') => raw == b"conversation",
        Some(b'r') => raw == b"container",
        _ => false,
    }
}

/// What an answer says of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is the id of what the answer is about.
    Subject,
    /// It is the id of a file that the work which the answer is about has written.
    Output,
    /// It is mentioned: the object is there as well.
    Mentioned,
}

/// Reads the ids that a passing answer tells.
#[derive(Debug)]
pub struct IdScanner {
    walk: Walk,
    read: usize,
    told: usize,
    /// Marks of the last ones told: the events of a stream repeat them.
    recent: [u64; 8],
}

impl IdScanner {
    /// `stream` where the answer is one of events.
    #[must_use]
    pub fn new(stream: bool) -> Self {
        Self { walk: Walk::over(Side::Answer { stream }), read: 0, told: 0, recent: [0; 8] }
    }

    /// Another text begins, such as the next message on a socket; its bounds are its own.
    pub fn restart(&mut self) {
        self.walk = Walk::over(self.walk.side);
        (self.read, self.told) = (0, 0);
    }

    /// Reads the next bytes; beyond its bounds it reads no more.
    pub fn feed(&mut self, data: &[u8], mut found: impl FnMut(Told, &str)) {
        if self.read >= MOST_READ || self.told >= MOST_TOLD {
            return;
        }
        self.read += data.len();
        let (recent, count) = (&mut self.recent, &mut self.told);
        self.walk.feed(data, &mut |told, id| {
            let mark = mark(id);
            if *count < MOST_TOLD && !recent.contains(&mark) {
                recent[*count % recent.len()] = mark;
                *count += 1;
                found(told, id);
            }
        });
    }
}

/// FNV-1a. Two ids of one mark cost one of them its note, no more.
fn mark(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Request,
    Answer { stream: bool },
}

/// What the key before a value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Id,
    Type,
    /// Made for one id or a list of them.
    Names,
    /// Likewise, of files that a batch wrote.
    Writes,
    Response,
    Conversation,
    Prompt,
    /// Of the caller's own making, whatever is in it.
    Metadata,
    Other,
}

impl Key {
    fn of(text: &str) -> Self {
        match text {
            "id" => Self::Id,
            "type" => Self::Type,
            "response" => Self::Response,
            "conversation" => Self::Conversation,
            "prompt" => Self::Prompt,
            "metadata" => Self::Metadata,
            "container" | "training_file" | "validation_file" | "result_files" => Self::Names,
            "output_file_id" | "error_file_id" => Self::Writes,
            // `call_id` and `tool_call_id` stand in every conversation with tools, and name no object.
            _ if text.ends_with("call_id") => Self::Other,
            _ if text.ends_with("_id") || text.ends_with("_ids") => Self::Names,
            _ => Self::Other,
        }
    }
}

/// Where the pass stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Between,
    InString,
    AfterBackslash,
    /// A string has ended; what follows shows whether it was a key.
    AfterString,
}

/// The pass itself.
#[derive(Debug)]
struct Walk {
    side: Side,
    depth: u32,
    at: At,
    escapes: bool,
    token: [u8; LONGEST],
    /// Of the string, in bytes; `LONGEST + 1` for all that are longer.
    length: usize,
    key: Key,
    /// The key at the first depth.
    top: Key,
    /// At this depth began what is the caller's own.
    muted: Option<u32>,
    /// Of the innermost object, where it is a request's: says it is a reference, and to what.
    reference: bool,
    item: Option<String>,
    after_line: bool,
}

impl Walk {
    fn over(side: Side) -> Self {
        Self {
            side,
            depth: 0,
            at: At::Between,
            escapes: false,
            token: [0; LONGEST],
            length: 0,
            key: Key::Other,
            top: Key::Other,
            muted: None,
            reference: false,
            item: None,
            after_line: false,
        }
    }

    fn feed(&mut self, mut data: &[u8], found: &mut impl FnMut(Told, &str)) {
        while let Some(&first) = data.first() {
            if matches!(self.at, At::InString | At::AfterBackslash) {
                data = self.string(data);
            } else {
                self.between(first, found);
                data = &data[1..];
            }
        }
    }

    /// Reads on within a string; returns what comes after what was read.
    fn string<'a>(&mut self, mut data: &'a [u8]) -> &'a [u8] {
        if self.at == At::AfterBackslash {
            self.at = At::InString;
            let (escaped, rest) = data.split_at(1);
            self.keep(escaped);
            data = rest;
        }
        let Some(at) = memchr::memchr2(b'"', b'\\', data) else {
            self.keep(data);
            return &[];
        };
        self.keep(&data[..at]);
        if data[at] == b'"' {
            self.at = At::AfterString;
        } else {
            self.keep(b"\\");
            self.escapes = true;
            self.at = At::AfterBackslash;
        }
        &data[at + 1..]
    }

    fn keep(&mut self, data: &[u8]) {
        let end = self.length + data.len();
        match self.token.get_mut(self.length..end) {
            Some(place) => {
                place.copy_from_slice(data);
                self.length = end;
            }
            None => self.length = LONGEST + 1,
        }
    }

    /// A byte outside of strings.
    fn between(&mut self, byte: u8, found: &mut impl FnMut(Told, &str)) {
        match byte {
            b'"' if self.depth > 0 => {
                self.at = At::InString;
                self.escapes = false;
                self.length = 0;
            }
            b':' if self.at == At::AfterString => self.key(),
            b',' => self.value(found),
            b'{' | b'[' => {
                self.depth = self.depth.saturating_add(1);
                self.reference = false;
                self.item = None;
            }
            b'}' | b']' => {
                self.value(found);
                if let Some(item) = self.item.take().filter(|_| self.reference) {
                    found(Told::Mentioned, &item);
                }
                self.reference = false;
                self.depth = self.depth.saturating_sub(1);
                if self.muted.is_some_and(|muted| self.depth < muted) {
                    self.muted = None;
                }
            }
            // A blank line ends an event, whatever it was.
            b'\n' if self.after_line && self.side == (Side::Answer { stream: true }) => {
                *self = Self::over(self.side);
                return;
            }
            _ => {}
        }
        self.after_line = byte == b'\n' || (byte == b'\r' && self.after_line);
    }

    fn text(&self) -> Option<Cow<'_, str>> {
        let raw = self.token.get(..self.length)?;
        if self.escapes { Some(unescape(raw)) } else { std::str::from_utf8(raw).ok().map(Cow::Borrowed) }
    }

    fn key(&mut self) {
        self.at = At::Between;
        let key = self.text().map_or(Key::Other, |text| Key::of(&text));
        self.key = key;
        if self.depth == 1 {
            self.top = key;
        }
        if self.muted.is_some_and(|muted| self.depth <= muted) {
            self.muted = None;
        }
        if key == Key::Metadata && self.muted.is_none() {
            self.muted = Some(self.depth);
        }
    }

    /// What was read last was a value, if it was a string at all.
    fn value(&mut self, found: &mut impl FnMut(Told, &str)) {
        if std::mem::replace(&mut self.at, At::Between) != At::AfterString || self.muted.is_some() {
            return;
        }
        let Some(text) = self.text() else { return };
        let told = match (self.side, self.key) {
            (Side::Request, Key::Id) if self.depth == 2 && self.top == Key::Conversation => {
                Some(Told::Subject)
            }
            (Side::Request, Key::Conversation) if self.depth == 1 => Some(Told::Subject),
            (Side::Request, Key::Id)
                if self.depth == 2 && self.top == Key::Prompt && begins(&text, &[TEMPLATE]) =>
            {
                Some(Told::Subject)
            }
            (Side::Request, Key::Names | Key::Writes) if begins(&text, &PREFIXES) => Some(Told::Mentioned),
            (Side::Request, Key::Id) => {
                let item = (begins(&text, &ITEMS) || begins(&text, &PREFIXES)).then(|| text.into_owned());
                self.item = item;
                return;
            }
            (Side::Request, Key::Type) => {
                let reference = text == "item_reference";
                self.reference |= reference;
                return;
            }
            (Side::Answer { .. }, Key::Id)
                if self.depth == 1 || (self.depth == 2 && self.top == Key::Response) =>
            {
                Some(Told::Subject)
            }
            (Side::Answer { .. }, Key::Writes) if self.depth == 1 && begins(&text, &PREFIXES) => {
                Some(Told::Output)
            }
            (Side::Answer { .. }, Key::Id | Key::Names | Key::Writes)
                if begins(&text, &PREFIXES) || begins(&text, &ITEMS) =>
            {
                Some(Told::Mentioned)
            }
            _ => None,
        };
        if let Some(told) = told.filter(|_| is_plain(&text)) {
            found(told, &text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(body: &str) -> Vec<String> {
        named_in_body(body.as_bytes())
    }

    fn told(answer: &str, stream: bool, pieces: usize) -> Vec<(Told, String)> {
        let mut found = Vec::new();
        let mut scanner = IdScanner::new(stream);
        for piece in answer.as_bytes().chunks(pieces) {
            scanner.feed(piece, |told, id| found.push((told, id.to_owned())));
        }
        found
    }

    #[test]
    fn the_files_that_a_batch_wrote_are_told_from_what_is_only_mentioned() {
        let batch =
            r#"{"id":"batch_1","input_file_id":"file-1","output_file_id":"file-2","error_file_id":"file-3"}"#;
        let of = |told, id: &str| (told, id.to_owned());
        let files = [of(Told::Mentioned, "file-1"), of(Told::Output, "file-2"), of(Told::Output, "file-3")];
        assert_eq!(told(batch, false, 7), [&[of(Told::Subject, "batch_1")], &files[..]].concat());
        // Of a list nobody knows whose each is.
        let listed = told(&format!(r#"{{"data":[{batch}]}}"#), false, 7);
        assert!(listed.iter().all(|(told, _)| *told == Told::Mentioned), "{listed:?}");
    }

    #[test]
    fn a_request_names_what_stands_under_the_keys_that_are_made_for_it() {
        for (body, expected) in [
            (r#"{"previous_response_id":"resp_1"}"#, "resp_1"),
            (r#"{"conversation":"conv_1","input":"a"}"#, "conv_1"),
            (r#"{"conversation" : { "id" : "conv_1" } }"#, "conv_1"),
            (r#"{"input":[{"role":"user","content":[{"type":"input_file","file_id":"file-1"}]}]}"#, "file-1"),
            (
                r#"{"tools":[{"type":"file_search","vector_store_ids":["vs_1","vs_2"],"x":"vs_3"}]}"#,
                "vs_1 vs_2",
            ),
            (
                r#"{"tool_resources":{"file_search":{"vector_store_ids":["vs_1"]},"code_interpreter":{"file_ids":["file-1"]}}}"#,
                "vs_1 file-1",
            ),
            (r#"{"prompt":{"version":"2","id":"pmpt_1","variables":{"id":"pmpt_2"}}}"#, "pmpt_1"),
            (r#"{"input_file_id":"file-1","endpoint":"/v1/responses"}"#, "file-1"),
            (
                r#"{"assistant_id":"asst_1","thread":{"messages":[{"attachments":[{"file_id":"assistant-9"}]}]}}"#,
                "asst_1 assistant-9",
            ),
            (r#"{"training_file":"file-1","validation_file":"file-2"}"#, "file-1 file-2"),
            (r#"{"tools":[{"type":"code_interpreter","container":"cntr_1"}]}"#, "cntr_1"),
            (
                r#"{"input":[{"type":"item_reference","id":"msg_1"},{"id":"rs_1","type":"item_reference"}]}"#,
                "msg_1 rs_1",
            ),
            (r#"{"messages":[{"content":[{"type":"file","file":{"file_id":"file-1"}}]}]}"#, "file-1"),
            (r#"{"previous\u005fresponse_id":"resp\u005f1"}"#, "resp_1"),
            (r#"{"\u0063onversation":"conv_1"}"#, "conv_1"),
            (r#"{"file_ids":["file-1","file-1"],"metadata":null,"vector_store_id":"vs_1"}"#, "file-1 vs_1"),
        ] {
            assert_eq!(named(body).join(" "), expected, "{body}");
        }
    }

    #[test]
    fn what_only_looks_like_an_id_names_nothing() {
        for body in [
            r#"{"input":"previous_response_id resp_1","model":"gpt-4o"}"#,
            r#"{"input":"\"previous_response_id\":\"resp_1\""}"#,
            r#"{"metadata":{"thread_id":"thread_1","deep":{"file_id":"file-1"},"conversation":"conv_1"}}"#,
            r#"{"prompt":"pmpt_1","input":[{"id":"pmpt_1"}]}"#,
            r#"{"previous_response_id":null,"tool_call_id":"call_1","user_id":"u-7"}"#,
            r#"{"tools":[{"parameters":{"properties":{"file_id":{"type":"string"}},"required":["file_id"]}}]}"#,
            r#"{"input":[{"type":"message","id":"msg_1"},{"type":"reasoning","id":"rs_1","encrypted_content":"a"}]}"#,
            r#"{"file_id":"file-","vector_store_ids":["../vs_1","vs_1/files","vs 1"]}"#,
            r#"{"file_id":"file-"#,
        ] {
            assert_eq!(named(body), Vec::<String>::new(), "{body}");
        }
        let long = format!(r#"{{"file_id":"file-{}","vector_store_id":"vs_1"}}"#, "x".repeat(LONGEST));
        assert_eq!(named(&long), ["vs_1"]);
        let many: Vec<String> = (0..50).map(|number| format!("\"file-{number}\"")).collect();
        assert_eq!(named(&format!(r#"{{"file_ids":[{}]}}"#, many.join(","))).len(), MOST_NAMED);
    }

    #[test]
    fn a_query_names_where_a_page_begins_and_which_call_is_joined() {
        assert_eq!(named_in_query("limit=2&after=chatcmpl-1&order=asc"), ["chatcmpl-1"]);
        assert_eq!(named_in_query("call_id=rtc%5F1&model=resp_1"), ["rtc_1"]);
        assert_eq!(
            named_in_query("after=1&before=&starting_after=resp_1&after=resp_%2F"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_comes_after_metadata_counts_again() {
        assert_eq!(named(r#"{"metadata":{"file_id":"file-1"},"vector_store_id":"vs_1"}"#), ["vs_1"]);
        assert_eq!(named(r#"{"x":{"metadata":{"a":"b"}},"vector_store_id":"vs_1"}"#), ["vs_1"]);
        assert_eq!(named(r#"{"x":[{"metadata":"file-1"},{"file_id":"file-2"}]}"#), ["file-2"]);
    }

    #[test]
    fn an_answer_tells_its_subject_and_what_it_mentions_however_it_is_cut() {
        let object = r#"{"created_at":1,"metadata":{"id":"file-9"},"id":"batch_1","input_file_id":"file-1","errors":null,"list":[{"id":"vs_1"}],"text":"\"id\":\"file-3\"","name":"file-4"}"#;
        for pieces in [1, 2, 3, 7, 4_096] {
            assert_eq!(
                told(object, false, pieces),
                [
                    (Told::Subject, "batch_1".into()),
                    (Told::Mentioned, "file-1".into()),
                    (Told::Mentioned, "vs_1".into())
                ],
                "{pieces}"
            );
        }
        // Of legacy objects the id may be anything.
        let guid = "f4e1bd1e-0c61-4a5e-9f9a-0123456789ab";
        assert_eq!(told(&format!(r#"{{"id":"{guid}"}}"#), false, 9), [(Told::Subject, guid.into())]);
    }

    #[test]
    fn a_streams_first_event_tells_the_id_and_later_ones_do_not_repeat_it() {
        let created = r#"{"type":"response.created","response":{"id":"resp_1","object":"response","output":[]},"sequence_number":0}"#;
        let delta = r#"{"type":"response.output_text.delta","item_id":"msg_1","delta":"\"id\":\"resp_2\""}"#;
        let stream = format!(
            "event: response.created\ndata: {created}\n\n{}",
            format!("event: x\r\ndata: {delta}\r\n\r\n").repeat(50)
        );
        for pieces in [1, 5, 64, 9_999] {
            let found = told(&stream, true, pieces);
            assert_eq!(
                found,
                [(Told::Subject, "resp_1".into()), (Told::Mentioned, "msg_1".into())],
                "{pieces}"
            );
        }
        let run = "event: thread.run.created\ndata: {\"id\":\"run_1\",\"thread_id\":\"thread_1\"}\n\ndata: [DONE]\n\n";
        assert_eq!(told(run, true, 3).len(), 2);
    }

    #[test]
    fn the_id_of_a_tools_call_names_no_object_whatever_it_looks_like() {
        for body in [
            r#"{"input":[{"type":"function_call_output","call_id":"resp_1"}]}"#,
            r#"{"messages":[{"role":"tool","tool_call_id":"resp_1","content":"x"}]}"#,
        ] {
            assert_eq!(named(body), Vec::<String>::new());
            assert!(!super::super::scan(body.as_bytes()).unwrap().may_name, "nor is it worth another pass");
        }
    }

    #[test]
    fn an_event_that_breaks_off_does_not_spoil_the_next() {
        let stream = "data: {\"a\":[{\n\ndata: {\"response\":{\"id\":\"resp_1\"}}\n\n";
        assert_eq!(told(stream, true, 4), [(Told::Subject, "resp_1".into())]);
    }

    #[test]
    fn a_long_answer_is_read_up_to_a_bound() {
        let item = |number: usize| format!(r#"{{"id":"file-{number}"}}"#);
        let list: Vec<String> = (0..10_000).map(item).collect();
        let list = format!(r#"{{"data":[{}]}}"#, list.join(","));
        assert_eq!(told(&list, false, 1_000).len(), MOST_TOLD);
        let late = format!(r#"{{"text":"{}","file_id":"file-1"}}"#, "x ".repeat(MOST_READ));
        assert_eq!(told(&late, false, 64 * 1024), []);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_cutting_them_changes_nothing(
            text in "[\\[\\]{}\":,\\\\u0-9idfile_resp \n]{0,200}",
            pieces in 1_usize..9,
            stream: bool,
        ) {
            let _ = named(&text);
            let whole = told(&format!("{{{text}"), stream, 10_000);
            prop_assert_eq!(told(&format!("{{{text}"), stream, pieces), whole);
        }

        #[test]
        fn no_body_that_names_an_object_looks_as_if_it_named_none(pieces in prop::collection::vec(
            prop::sample::select(vec![
                "{", "}", "[", "]", ":", ",", "\"id\"", "\"type\"", "\"item_reference\"", "\"conversation\"",
                "\"prompt\"", "\"pmpt_1\"", "\"file_id\"", "\"file_\\u0069d\"", "\"vector_store_ids\"", "\"container\"",
                "\"training_file\"", "\"file-1\"", "\"resp_1\"", "\"msg_1\"", "\"call_id\"", "\"a\"", "1", "null",
                "{\"file_id\":\"file-1\"}", "{\"type\":\"item_reference\",\"id\":\"msg_1\"}", "\"x\":",
                "\"conversation\":{\"id\":\"conv_1\"}", "\"prompt\":{\"id\":\"pmpt_1\"}",
            ]),
            0..12,
        )) {
            let text = format!("{{{}}}", pieces.concat());
            if let Ok(scan) = super::super::scan(text.as_bytes()) {
                let names = named(&text);
                prop_assert!(scan.may_name || names.is_empty(), "{} names {:?}", text, names);
            }
        }

        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = named_in_body(&body);
            IdScanner::new(true).feed(&body, |_, _| {});
        }
    }
}
