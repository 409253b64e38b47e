//! Which conversation a request belongs to: its turns repeat how it began, and a backend that has seen the beginning
//! has it in its prompt cache.
//!
//! | API | what is hashed |
//! |---|---|
//! | any | `prompt_cache_key`, if it is given: the caller's own word for it |
//! | chat | `messages` up to and including the first of role `user` |
//! | responses | `instructions`, and `input`: a string whole, an array as `messages` |
//!
//! The bytes are hashed as they were sent: a client writes the same beginning the same way each time. Embeddings have
//! an `input` too; a hash for these harms nothing, each text has another.

use super::json::{Elements, Kind, Member, Members, Step};

/// More of a beginning is not read: what is longer has the same cache in common. Also the price of an inline image.
const READ: usize = 64 * 1024;

/// The parts of a body that tell conversations apart, hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Thread {
    key: Option<u64>,
    instructions: Option<u64>,
    beginning: Option<u64>,
}

impl Thread {
    /// A member of the body that may be such a part.
    pub(super) fn take(&mut self, key: &[u8], member: &Member, body: &[u8]) {
        let text = member.text(body);
        match key {
            b"prompt_cache_key" if member.kind == Kind::String => self.key = Some(hash(text)),
            b"instructions" if member.kind == Kind::String => self.instructions = Some(hash(cut(text))),
            b"input" if member.kind == Kind::String => self.beginning = Some(hash(cut(text))),
            b"messages" | b"input" if member.kind == Kind::Array => {
                self.beginning = Some(hash(beginning(cut(text))));
            }
            _ => {}
        }
    }

    pub(super) fn hash(&self) -> Option<u64> {
        let began =
            || Some(self.beginning? ^ self.instructions.map_or(0, |instructions| fold(instructions, SECOND)));
        self.key.or_else(began)
    }
}

fn cut(text: &[u8]) -> &[u8] {
    &text[..text.len().min(READ)]
}

/// An array's text up to and including the first message of a user; all of it where there is none.
fn beginning(array: &[u8]) -> &[u8] {
    let mut elements = Elements::of(array);
    while let Some(element) = elements.next() {
        let end = element.end;
        if is_of_user(array.get(element).unwrap_or_default()) {
            return array.get(..end).unwrap_or(array);
        }
    }
    array
}

fn is_of_user(message: &[u8]) -> bool {
    let mut members = Members::of(message);
    while let Step::Member(member) = members.next() {
        if &*member.key(message) == b"role" {
            return member.text(message) == b"\"user\"";
        }
    }
    false
}

const FIRST: u64 = 0x9e37_79b9_7f4a_7c15;
const SECOND: u64 = 0xe703_7ed1_a0b4_28db;

/// Fast on long texts, without a seed, and never to be changed: with it every conversation moves. Who sends texts
/// that collide has his own conversations together, and no one else's.
fn hash(text: &[u8]) -> u64 {
    let mut hash = fold(FIRST ^ text.len() as u64, SECOND);
    let mut blocks = text.chunks_exact(16);
    for block in &mut blocks {
        hash = fold(word(&block[..8]) ^ FIRST, word(&block[8..]) ^ hash);
    }
    let mut last = [0; 16];
    let rest = blocks.remainder();
    last[..rest.len()].copy_from_slice(rest);
    hash = fold(word(&last[..8]) ^ FIRST, word(&last[8..]) ^ hash);
    fold(hash, SECOND)
}

fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

/// Both halves of the product, so that every bit of both counts.
fn fold(one: u64, two: u64) -> u64 {
    let product = u128::from(one) * u128::from(two);
    #[expect(clippy::cast_possible_truncation, reason = "the lower half, and then the upper")]
    let (low, high) = (product as u64, (product >> 64) as u64);
    low ^ high
}

#[cfg(test)]
mod tests {
    use super::super::scan;
    use super::*;
    use serde_json::json;

    fn of(text: &str) -> Option<u64> {
        scan(text.as_bytes()).unwrap().conversation()
    }

    fn chat(messages: &[(&str, &str)]) -> Option<u64> {
        let messages: Vec<_> =
            messages.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
        of(&json!({"model": "m", "temperature": 0.5, "messages": messages}).to_string())
    }

    #[test]
    fn the_turns_of_a_chat_have_one_hash_and_two_chats_have_two() {
        let began = chat(&[("system", "Be brief."), ("user", "Hello")]);
        assert!(began.is_some());
        let later = [("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi."), ("user", "Why?")];
        assert_eq!(chat(&later), began);
        assert_ne!(chat(&[("system", "Be brief."), ("user", "Hello!")]), began);
        assert_ne!(chat(&[("system", "Be long."), ("user", "Hello")]), began);
        assert_ne!(chat(&[("assistant", "Be brief."), ("user", "Hello")]), began);
    }

    #[test]
    fn the_turns_of_a_response_have_one_hash_in_every_form_of_the_input() {
        let first = json!([{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}]);
        let mut second = first.clone();
        second.as_array_mut().unwrap().extend([
            json!({"type": "reasoning", "encrypted_content": "x"}),
            json!({"role": "user", "content": "Why?"}),
        ]);
        let of_both = |instructions: &str| {
            [&first, &second]
                .map(|input| of(&json!({"instructions": instructions, "input": input}).to_string()))
        };
        let [one, two] = of_both("Be brief.");
        assert!(one.is_some() && one == two);
        assert_ne!(of_both("Be long.")[0], one);
        assert_ne!(of(r#"{"input":"Hello"}"#), of(r#"{"input":"Hello!"}"#));
        assert_eq!(
            of(r#"{"input":"Hello","instructions":"x"}"#),
            of(r#"{"instructions":"x","input":"Hello"}"#)
        );
    }

    #[test]
    fn the_callers_own_key_goes_before_all_else() {
        let with = |key: &str, text: &str| of(&json!({"prompt_cache_key": key, "input": text}).to_string());
        assert_eq!(with("a", "one"), with("a", "two"));
        assert_ne!(with("a", "one"), with("b", "one"));
        assert_eq!(of(r#"{"prompt_cache_key":null,"input":"x"}"#), of(r#"{"input":"x"}"#));
    }

    #[test]
    fn what_has_no_beginning_is_no_conversation() {
        for text in ["{}", r#"{"model":"m"}"#, r#"{"messages":"x"}"#, r#"{"input":null}"#, "", "[1]"] {
            assert_eq!(of(text), None, "{text}");
        }
        assert!(of(r#"{"messages":[]}"#).is_some());
        assert!(of(r#"{"messages":[1,"x",[],{"role":1}]}"#).is_some(), "odd messages are passed over");
    }

    #[test]
    fn of_a_very_long_beginning_the_first_part_counts() {
        let long =
            |end: &str| chat(&[("system", &format!("{}{end}", "word ".repeat(20_000))), ("user", "x")]);
        assert_eq!(long("a"), long("b"));
    }

    #[test]
    fn the_hash_is_the_same_in_every_process_and_version() {
        assert_eq!(hash(b""), HASHES[0], "written down once; a change moves every conversation");
        assert_eq!(hash(b"0123456789abcdef-"), HASHES[1]);
    }

    const HASHES: [u64; 2] = [0x5e05_b8b8_0c6a_0b06, 0xe1ae_0fad_3f2c_45b7];

    #[test]
    fn one_bit_of_the_text_changes_half_of_the_hash() {
        let text: Vec<u8> = (0..100).collect();
        for bit in 0..800 {
            let mut other = text.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            let changed = (hash(&text) ^ hash(&other)).count_ones();
            assert!((10..54).contains(&changed), "bit {bit}: {changed}");
        }
    }
}
