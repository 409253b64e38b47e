//! One pass over the members of one JSON object, without a tree.
//!
//! Only the outermost object is told member by member; whatever is nested is skipped by counting depth, so
//! neither size nor depth of a body costs memory. This is not a validator: it accepts some texts that are not
//! JSON (`{"a":[}}`), but it stops (`Step::Broken`) at everything that strict and lenient readers take
//! differently, above all comments, single quotes and unquoted keys.

use std::borrow::Cow;
use std::ops::Range;

use super::ids;

/// A string of at least this many bytes without a space counts as data, not as text.
const UNBROKEN: usize = 4 * 1024;

/// What a member's value is, told by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    String,
    Object,
    Array,
    /// Number, `true`, `false` or `null`.
    Scalar,
}

/// One `"key": value` of the outermost object.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// Between the quotes.
    key: Range<usize>,
    key_escaped: bool,
    /// The whole value: of a string with its quotes.
    pub(super) value: Range<usize>,
    pub(super) kind: Kind,
}

impl Member {
    /// The key as a JSON reader sees it: `"mod\u0065l"` is `model`.
    pub(super) fn key<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        let raw = text.get(self.key.clone()).unwrap_or_default();
        if !self.key_escaped {
            return Cow::Borrowed(raw);
        }
        Cow::Owned(unescape(raw).into_owned().into_bytes())
    }

    pub(super) fn text<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        text.get(self.value.clone()).unwrap_or_default()
    }

    /// The unescaped content, if the value is a string.
    pub(super) fn string<'a>(&self, text: &'a [u8]) -> Option<Cow<'a, str>> {
        if self.kind != Kind::String {
            return None;
        }
        let inner = self.value.start + 1..self.value.end.saturating_sub(1);
        Some(unescape(text.get(inner).unwrap_or_default()))
    }
}

/// What comes next in the object.
#[derive(Debug)]
pub(super) enum Step {
    Member(Member),
    /// The object is closed and only white space follows.
    End,
    /// Not JSON, or cut: what came before may be used with care, nothing after it is known.
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    AfterMember,
    Stopped,
}

/// Walks over the members of the object that `text` is.
#[derive(Debug)]
pub(super) struct Members<'a> {
    text: &'a [u8],
    at: usize,
    state: State,
    unbroken_bytes: usize,
    unbroken_strings: u64,
    may_name: bool,
}

impl<'a> Members<'a> {
    pub(super) fn of(text: &'a [u8]) -> Self {
        let at = if text.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        Self { text, at, state: State::Start, unbroken_bytes: 0, unbroken_strings: 0, may_name: false }
    }

    /// How many bytes stand in strings that are data, not text, and how many such strings there are.
    pub(super) fn unbroken(&self) -> (usize, u64) {
        (self.unbroken_bytes, self.unbroken_strings)
    }

    /// Whether a string so far, at any depth, may say that the text names objects that live on one backend.
    pub(super) fn may_name(&self) -> bool {
        self.may_name
    }

    pub(super) fn next(&mut self) -> Step {
        let step = match self.state {
            State::Stopped => None,
            State::Start => self.open(),
            State::AfterMember => self.after_member(),
        };
        let step = step.unwrap_or(Step::Broken);
        self.state = match step {
            Step::Member(_) => State::AfterMember,
            Step::End | Step::Broken => State::Stopped,
        };
        step
    }

    fn open(&mut self) -> Option<Step> {
        self.take(b'{')?;
        self.space();
        if self.peek() == Some(b'}') { self.close() } else { self.member() }
    }

    fn after_member(&mut self) -> Option<Step> {
        self.space();
        match self.peek()? {
            b'}' => self.close(),
            b',' => {
                self.at += 1;
                self.member()
            }
            _ => None,
        }
    }

    fn close(&mut self) -> Option<Step> {
        self.at += 1;
        self.space();
        (self.at == self.text.len()).then_some(Step::End)
    }

    fn member(&mut self) -> Option<Step> {
        self.space();
        let start = self.at;
        let key_escaped = self.string()?;
        let key = start + 1..self.at - 1;
        self.take(b':')?;
        self.space();
        let start = self.at;
        let kind = self.value()?;
        Some(Step::Member(Member { key, key_escaped, value: start..self.at, kind }))
    }

    fn value(&mut self) -> Option<Kind> {
        match self.peek()? {
            b'"' => self.string().map(|_| Kind::String),
            b'{' => self.nested().map(|()| Kind::Object),
            b'[' => self.nested().map(|()| Kind::Array),
            _ => {
                let rest = self.text.get(self.at..)?;
                let length = rest.iter().take_while(|byte| SCALAR[usize::from(**byte)]).count();
                self.at += length;
                (length > 0).then_some(Kind::Scalar)
            }
        }
    }

    fn nested(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            let byte = self.peek()?;
            match byte {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                b',' | b':' | b' ' | b'\n' | b'\r' | b'\t' => {}
                _ if SCALAR[usize::from(byte)] => {}
                _ => return None,
            }
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// Steps over a string, quotes included; tells whether it has escapes.
    fn string(&mut self) -> Option<bool> {
        if self.peek()? != b'"' {
            return None;
        }
        let start = self.at + 1;
        let mut at = start;
        let mut escaped = false;
        let mut prose = false;
        loop {
            at += memchr::memchr2(b'"', b'\\', self.text.get(at..)?)?;
            if self.text[at] == b'"' {
                break;
            }
            escaped = true;
            // Base64 has line ends and `\/` at most; anything else speaks for text.
            prose |= !matches!(self.text.get(at + 1)?, b'/' | b'n' | b'r');
            at += 2;
        }
        self.at = at + 1;
        self.may_name |= ids::may_name(&self.text[start..at], escaped);
        if at - start >= UNBROKEN && !prose {
            let content = &self.text[start..at];
            if memchr::memchr(b' ', content).is_none() && content.is_ascii() {
                self.unbroken_bytes += content.len();
                self.unbroken_strings += 1;
            }
        }
        Some(escaped)
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        self.space();
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }
}

/// Walks over the values of the array that `text` is; ends where it ends, is cut or broken.
#[derive(Debug)]
pub(super) struct Elements<'a> {
    inner: Members<'a>,
    first: bool,
}

impl<'a> Elements<'a> {
    pub(super) fn of(text: &'a [u8]) -> Self {
        Self { inner: Members::of(text), first: true }
    }

    /// Where the next value stands.
    pub(super) fn next(&mut self) -> Option<Range<usize>> {
        self.inner.take(if std::mem::take(&mut self.first) { b'[' } else { b',' })?;
        self.inner.space();
        let start = self.inner.at;
        self.inner.value()?;
        Some(start..self.inner.at)
    }
}

/// The bytes that numbers, `true`, `false` and `null` are made of, and nothing else.
const SCALAR: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "the loop ends at 256")]
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric() || b == b'-' || b == b'+' || b == b'.';
        byte += 1;
    }
    table
};

/// The content of a JSON string. What is no UTF-8 or no valid escape becomes U+FFFD, which no name contains.
pub(super) fn unescape(raw: &[u8]) -> Cow<'_, str> {
    if memchr::memchr(b'\\', raw).is_none() {
        return String::from_utf8_lossy(raw);
    }
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.push_str(&String::from_utf8_lossy(&rest[..at]));
        let (char, length) = escape(&rest[at + 1..]);
        out.push(char);
        rest = rest.get(at + 1 + length..).unwrap_or_default();
    }
    out.push_str(&String::from_utf8_lossy(rest));
    Cow::Owned(out)
}

/// One escape after its backslash: the character and how many bytes it took.
fn escape(after: &[u8]) -> (char, usize) {
    let char = match after.first() {
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(byte @ (b'"' | b'\\' | b'/')) => char::from(*byte),
        Some(b'u') => return unicode_escape(after),
        _ => char::REPLACEMENT_CHARACTER,
    };
    (char, 1)
}

fn unicode_escape(after: &[u8]) -> (char, usize) {
    let unit = |at: usize| {
        let digits = after.get(at..at + 4)?;
        digits.iter().try_fold(0_u32, |sum, digit| Some(sum * 16 + char::from(*digit).to_digit(16)?))
    };
    let Some(first) = unit(1) else { return (char::REPLACEMENT_CHARACTER, 1) };
    if let Some(char) = char::from_u32(first) {
        return (char, 5);
    }
    let low = (after.get(5..7) == Some(b"\\u")).then(|| unit(7)).flatten();
    match low {
        Some(low @ 0xdc00..=0xdfff) if first < 0xdc00 => {
            let code = 0x1_0000 + ((first - 0xd800) << 10) + (low - 0xdc00);
            (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 11)
        }
        _ => (char::REPLACEMENT_CHARACTER, 5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> (Vec<String>, bool) {
        let mut members = Members::of(text.as_bytes());
        let mut keys = Vec::new();
        loop {
            match members.next() {
                Step::Member(member) => {
                    keys.push(String::from_utf8_lossy(&member.key(text.as_bytes())).into_owned());
                }
                Step::End => return (keys, true),
                Step::Broken => return (keys, false),
            }
        }
    }

    #[test]
    fn only_outermost_members_are_told() {
        let (keys, whole) = keys(r#" { "a" : {"b":[{"c":"}"}]} , "d":[1,[2]], "e":"\"x\"", "f":-1.5e3 } "#);
        assert_eq!(keys, ["a", "d", "e", "f"]);
        assert!(whole);
    }

    #[test]
    fn what_lenient_readers_accept_is_broken_here() {
        for text in [
            "",
            "[]",
            "\"a\"",
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{\"a\":1,}",
            "{\"a\":1}{}",
            "{a:1}",
            "{'a':1}",
            "{\"a\":'b'}",
            "{\"a\":[/*\"*/]}",
            "{/**/\"a\":1}",
            "{\"a\":}",
            "{\"a\":\"b",
            "{\"a\":\"b\\",
            "{\"a\":[",
            "{\"a\" 1}",
            "{\"a\":1 \"b\":2}",
        ] {
            assert!(!keys(text).1, "{text} passed for JSON");
        }
    }

    #[test]
    fn a_depth_bomb_costs_no_stack() {
        let text = format!("{{\"a\":{}", "[".repeat(4_000_000));
        assert_eq!(keys(&text), (vec![], false));
        let text = format!("{{\"a\":{}{}}}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(keys(&text), (vec!["a".to_owned()], true));
    }

    #[test]
    fn unescaping_agrees_with_serde_json_and_marks_what_is_broken() {
        for raw in [r"a", r#"\"\\\/\b\f\n\r\t"#, r"mod\u0065l", r"\ud83d\ude00!", r"ä\u00e4"] {
            let expected: String = serde_json::from_str(&format!("\"{raw}\"")).unwrap();
            assert_eq!(unescape(raw.as_bytes()), expected);
        }
        for raw in
            [r"\ud83d", r"\ud83dx", r"\ude00\ud83d", r"\u12", r"\q", r"\", r"\ud83d\u0041", r"\ud83d\u"]
        {
            assert!(unescape(raw.as_bytes()).contains('\u{fffd}'), "{raw}");
        }
        assert_eq!(unescape(b"\xff"), "\u{fffd}");
    }

    #[test]
    fn a_byte_order_mark_is_stepped_over() {
        assert_eq!(keys("\u{feff}{\"a\":null}"), (vec!["a".to_owned()], true));
    }
}
