//! Token counts, read from the bytes of an answer as they pass, be it JSON or a stream of events.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;

const KEY: &[u8] = b"\"usage\"";
static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(KEY));
/// Longest usage object that is read, in bytes; real ones have a few hundred.
const LONGEST: usize = 16 * 1024;
/// No answer has more tokens of one kind: an object that says so is not believed, or sums over the life of a process
/// could overflow.
pub(super) const MOST: u64 = 1 << 32;

/// The tokens of one answer, as Azure counted them. Zero where an operation has no such count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Input, cached ones included.
    pub prompt: u64,
    /// The part of the input that came from the prompt cache.
    pub cached: u64,
    /// Output, reasoning included.
    pub completion: u64,
    /// The part of the output that was reasoning.
    pub reasoning: u64,
    /// Input and output.
    pub total: u64,
}

/// Finds the last `"usage": {…}` in passing bytes, whatever their chunks.
///
/// It looks at bytes, not at structure: an object under that key anywhere in the answer counts if it holds
/// token counts. Inside a JSON string the quotes are escaped, so what a model writes does not count.
#[derive(Debug, Default)]
pub struct UsageScanner {
    state: State,
    /// The byte before the next chunk.
    before: u8,
    object: Vec<u8>,
    found: Option<Usage>,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// Between keys.
    #[default]
    Seek,
    /// The last chunk ended with this many bytes of the key.
    Key(usize),
    /// After the key: white space, a colon, white space, a brace.
    Value { colon: bool },
    /// Inside the object.
    Object { depth: usize, string: bool, escaped: bool },
}

impl UsageScanner {
    /// Looks at the next bytes of the answer.
    pub fn feed(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while !rest.is_empty() {
            let used = match self.state {
                State::Seek => self.seek(rest, chunk),
                State::Key(matched) => self.key(matched, rest),
                State::Value { colon } => self.value(colon, rest),
                State::Object { depth, string, escaped } => self.object(depth, string, escaped, rest),
            };
            rest = &rest[used..];
        }
        if let Some(last) = chunk.last() {
            self.before = *last;
        }
    }

    /// The last usage seen whole so far.
    pub fn usage(&self) -> Option<Usage> {
        self.found
    }

    fn seek(&mut self, rest: &[u8], chunk: &[u8]) -> usize {
        let offset = chunk.len() - rest.len();
        let before = |at: usize| (offset + at).checked_sub(1).map_or(self.before, |at| chunk[at]);
        if let Some(at) = FINDER.find(rest) {
            if before(at) == b'\\' {
                return at + 1;
            }
            self.state = State::Value { colon: false };
            return at + KEY.len();
        }
        let tail = rest.len().saturating_sub(KEY.len() - 1);
        if let Some(at) = memchr::memrchr(b'"', &rest[tail..]).map(|at| tail + at)
            && KEY.starts_with(&rest[at..])
            && before(at) != b'\\'
        {
            self.state = State::Key(rest.len() - at);
        }
        rest.len()
    }

    fn key(&mut self, matched: usize, rest: &[u8]) -> usize {
        let missing = &KEY[matched..];
        let length = missing.len().min(rest.len());
        if rest[..length] != missing[..length] {
            self.state = State::Seek;
            return 0;
        }
        let complete = length == missing.len();
        self.state = if complete { State::Value { colon: false } } else { State::Key(matched + length) };
        length
    }

    fn value(&mut self, colon: bool, rest: &[u8]) -> usize {
        match rest[0] {
            b' ' | b'\n' | b'\r' | b'\t' => {}
            b':' if !colon => self.state = State::Value { colon: true },
            b'{' if colon => {
                self.object.clear();
                self.state = State::Object { depth: 0, string: false, escaped: false };
                return 0;
            }
            _ => {
                self.state = State::Seek;
                return 0;
            }
        }
        1
    }

    fn object(&mut self, mut depth: usize, mut string: bool, mut escaped: bool, rest: &[u8]) -> usize {
        if depth == 0
            && let Some((length, usage)) = read_whole(rest)
        {
            self.found = usage.or(self.found);
            self.state = State::Seek;
            return length;
        }
        for (at, byte) in rest.iter().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if string => escaped = true,
                b'"' => string = !string,
                b'{' if !string => depth += 1,
                b'}' if !string => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                self.object.extend_from_slice(&rest[..=at]);
                self.found = read(&self.object).or(self.found);
                self.object.clear();
                self.state = State::Seek;
                return at + 1;
            }
            if self.object.len() + at >= LONGEST {
                self.object = Vec::new();
                self.state = State::Seek;
                return at + 1;
            }
        }
        self.object.extend_from_slice(rest);
        self.state = State::Object { depth, string, escaped };
        rest.len()
    }
}

/// Both shapes: chat's `prompt_tokens` and Responses' `input_tokens`.
#[derive(Deserialize)]
struct Raw {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
    completion_tokens_details: Option<Details>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    input_tokens_details: Option<Details>,
    output_tokens_details: Option<Details>,
    total_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
    reasoning_tokens: Option<u64>,
}

/// An object that is here whole, as most are: its length, and what it says.
fn read_whole(bytes: &[u8]) -> Option<(usize, Option<Usage>)> {
    let bytes = bytes.get(..LONGEST).unwrap_or(bytes);
    let mut objects = serde_json::Deserializer::from_slice(bytes).into_iter::<Raw>();
    let raw = objects.next()?.ok()?;
    Some((objects.byte_offset(), usage(raw)))
}

fn read(object: &[u8]) -> Option<Usage> {
    usage(serde_json::from_slice(object).ok()?)
}

fn usage(raw: Raw) -> Option<Usage> {
    let prompt = raw.prompt_tokens.or(raw.input_tokens);
    let completion = raw.completion_tokens.or(raw.output_tokens);
    if prompt.is_none() && completion.is_none() && raw.total_tokens.is_none() {
        return None;
    }
    let (prompt, completion) = (prompt.unwrap_or(0), completion.unwrap_or(0));
    let input = raw.prompt_tokens_details.or(raw.input_tokens_details);
    let output = raw.completion_tokens_details.or(raw.output_tokens_details);
    let usage = Usage {
        prompt,
        cached: input.and_then(|details| details.cached_tokens).unwrap_or(0),
        completion,
        reasoning: output.and_then(|details| details.reasoning_tokens).unwrap_or(0),
        total: raw.total_tokens.unwrap_or_else(|| prompt.saturating_add(completion)),
    };
    let counts = [usage.prompt, usage.cached, usage.completion, usage.reasoning];
    (counts.iter().all(|count| *count <= MOST) && usage.total <= 2 * MOST).then_some(usage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHAT: &str = r#"{"choices":[{"message":{"content":"he said \"usage\": {\"prompt_tokens\":999}"}}],"usage" : {"completion_tokens":5,"completion_tokens_details":{"reasoning_tokens":2},"prompt_tokens":7,"prompt_tokens_details":{"audio_tokens":0,"cached_tokens":3},"total_tokens":12}}"#;
    const RESPONSES: &str = "event: response.created\ndata: {\"response\":{\"usage\":null}}\n\nevent: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":10,\"input_tokens_details\":{\"cached_tokens\":4},\"output_tokens\":6,\"output_tokens_details\":{\"reasoning_tokens\":1},\"total_tokens\":16}}}\n\n";

    fn of(chunks: &[&[u8]]) -> Option<Usage> {
        let mut scanner = UsageScanner::default();
        for chunk in chunks {
            scanner.feed(chunk);
        }
        scanner.usage()
    }

    #[test]
    fn both_shapes_are_read_at_every_chunk_border() {
        let chat = Usage { prompt: 7, cached: 3, completion: 5, reasoning: 2, total: 12 };
        let responses = Usage { prompt: 10, cached: 4, completion: 6, reasoning: 1, total: 16 };
        for (text, expected) in [(CHAT, chat), (RESPONSES, responses)] {
            let bytes = text.as_bytes();
            assert_eq!(of(&[bytes]), Some(expected));
            for cut in 0..bytes.len() {
                assert_eq!(of(&[&bytes[..cut], &bytes[cut..]]), Some(expected), "cut at {cut}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(of(&single), Some(expected));
        }
    }

    #[test]
    fn the_last_usage_counts_and_null_is_none() {
        assert_eq!(of(&[br#"{"usage":null}"#]), None);
        assert_eq!(of(&[br#"{"usage":null} {"usage":{"prompt_tokens":1}} {"usage":{"prompt_tokens":2,"total_tokens":2}} {"usage":null}"#]).map(|usage| usage.prompt), Some(2));
    }

    #[test]
    fn embeddings_have_no_completion() {
        let usage = of(&[br#"{"data":[],"usage":{"prompt_tokens":8,"total_tokens":8}}"#]);
        assert_eq!(usage, Some(Usage { prompt: 8, total: 8, ..Usage::default() }));
    }

    #[test]
    fn what_only_looks_like_usage_does_not_count() {
        for text in [
            r#"{"properties":{"usage":{"type":"string"}}}"#,
            r#"{"usage":[{"prompt_tokens":1}]}"#,
            r#"{"usage","x":{"prompt_tokens":1}}"#,
            r#"{"content":"\"usage\":{\"prompt_tokens\":1}"}"#,
            r#"{"content":"\"usage":{"prompt_tokens":1}}"#,
            r#"{"usage":{"prompt_tokens":"many"}}"#,
            r#"{"usage":{"prompt_tokens":1"#,
        ] {
            assert_eq!(of(&[text.as_bytes()]), None, "{text}");
        }
    }

    #[test]
    fn counts_that_no_answer_has_are_not_believed() {
        for count in [u64::MAX, u64::MAX / 2, MOST + 1] {
            assert_eq!(of(&[format!("{{\"usage\":{{\"prompt_tokens\":{count}}}}}").as_bytes()]), None);
            assert_eq!(
                of(&[format!("{{\"usage\":{{\"prompt_tokens\":1,\"prompt_tokens_details\":{{\"cached_tokens\":{count}}}}}}}").as_bytes()]),
                None
            );
        }
    }

    #[test]
    fn a_key_that_begins_at_the_end_of_an_escaped_one_is_found_at_every_chunk_border() {
        let bytes = br#"\"usage"usage":{"total_tokens":3}"#;
        for cut in 0..bytes.len() {
            assert_eq!(of(&[&bytes[..cut], &bytes[cut..]]).map(|usage| usage.total), Some(3), "cut at {cut}");
        }
    }

    #[test]
    fn an_endless_object_is_given_up_and_the_next_one_read() {
        let mut scanner = UsageScanner::default();
        scanner.feed(b"{\"usage\":{\"x\":\"");
        for _ in 0..100 {
            scanner.feed(&[b'a'; 1024]);
            assert!(scanner.object.capacity() <= 2 * LONGEST);
        }
        scanner.feed(b"\"}} {\"usage\":{\"total_tokens\":3}}");
        assert_eq!(scanner.usage().map(|usage| usage.total), Some(3));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_borders_never_matter(text in "(\"usage\"|:|\\{|\\}|\\\\|\"|\"total_tokens\":1|[a-z ]){0,40}", cut in 0_usize..200) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            prop_assert_eq!(of(&[bytes]), of(&[&bytes[..cut], &bytes[cut..]]));
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(of(&[bytes]), of(&single));
        }
    }
}
