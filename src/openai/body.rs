//! The few top-level keys of a JSON request that steer us, found in one pass; everything else is skipped.

use std::ops::Range;

use bytes::Bytes;

use super::conversation::Thread;
use super::json::{Kind, Member, Members, Step};
use super::usage::MOST;

/// Bytes of text per token. English prose has a little over four, code and other languages fewer.
const BYTES_PER_TOKEN: usize = 4;
/// What one long unbroken string (an inline image, a file) is taken for, in tokens.
const UNBROKEN_TOKENS: u64 = 1_000;

/// Why a body that names a deployment cannot be used. The texts are fixed and fit for callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyProblem {
    /// Readers differ on which of two counts.
    #[error("the body names the model more than once")]
    TwoModels,
    /// Readers differ on where the parts of a multipart body begin, or on what they are called.
    #[error("the multipart body is not well formed")]
    Parts,
}

/// A name in a body and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// In JSON the whole string with its quotes, in multipart the bare value; bytes of the body.
    pub range: Range<usize>,
    /// Unescaped. Anything at all: ask [`is_deployment_name`](super::is_deployment_name) before it is used as one.
    pub value: String,
}

/// A service tier with capacity of its own: its 429 says nothing about the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceTier {
    /// `"flex"`
    Flex,
    /// `"priority"`
    Priority,
}

/// What a JSON request says about itself at its top level. Of a key given twice the last counts, as with most
/// readers; only a second `model` is a problem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four independent facts, each a boolean of the API")]
pub struct BodyScan {
    /// The whole body is one JSON object, as far as a scan can tell. When false, `model` is `None`, and the
    /// rest is what was found before the text broke.
    pub json: bool,
    /// `model`, if it is a string; null and other types count as absent.
    pub model: Option<Name>,
    /// `stream: true`
    pub stream: bool,
    /// `stream_options.include_usage: true`
    pub include_usage: bool,
    /// `background: true`
    pub background: bool,
    /// `store`, if given as a boolean.
    pub store: Option<bool>,
    /// `service_tier`, if it is one with its own capacity.
    pub service_tier: Option<ServiceTier>,
    /// The largest of `max_tokens`, `max_completion_tokens`, `max_output_tokens`.
    pub max_tokens: Option<u64>,
    /// `n`
    pub n: Option<u64>,
    /// `best_of`
    pub best_of: Option<u64>,
    /// What its turns have in common, and no other conversation has; see [`Self::conversation`].
    thread: Thread,
    /// Estimate of the prompt, in tokens: a quarter of the bytes, punctuation of the JSON included; each ASCII
    /// string of 4 KiB and more without a space counts 1,000 whatever its length. Tokenizers differ by a factor
    /// of two either way; the estimate orders lanes, it never refuses.
    pub prompt_tokens: u64,
    /// The body may name objects that live on one backend: [`named_in_body`](super::named_in_body) knows.
    pub may_name: bool,
}

impl BodyScan {
    /// What Azure is expected to charge on arrival, in tokens: the prompt and the limit for each completion.
    /// `usual_completion` stands for a limit that is not given (the mean of that deployment, 0 if unknown).
    pub fn charge(&self, usual_completion: u64) -> u64 {
        let completions = self.n.unwrap_or(1).max(self.best_of.unwrap_or(1)).max(1);
        let each = self.max_tokens.unwrap_or(usual_completion);
        // A limit that no model has is not believed: a lane's count could not hold its sum.
        self.prompt_tokens.saturating_add(each.saturating_mul(completions)).min(MOST)
    }

    /// A hash of what makes its turns one conversation: `prompt_cache_key`, else all up to the first user message.
    /// The same in every process, so that replicas agree. `None` where the body is no conversation.
    pub fn conversation(&self) -> Option<u64> {
        self.thread.hash()
    }
}

/// Scans a request body. Whatever is no JSON object yields a scan with `json` false: if the path named the
/// deployment it may travel as it is, and Azure says what it thinks of it; else no name was found.
///
/// # Errors
/// Two top-level `model` keys, escapes and case disregarded.
pub fn scan(body: &[u8]) -> Result<BodyScan, BodyProblem> {
    let mut scan = BodyScan::default();
    let mut members = Members::of(body);
    let mut models = 0;
    loop {
        match members.next() {
            Step::Member(member) => {
                let key = member.key(body);
                // A reader without regard to case would take `Model` for the same key.
                models += usize::from(key.eq_ignore_ascii_case(b"model"));
                scan.take(&key, &member, body);
            }
            Step::End => {
                scan.json = true;
                break;
            }
            Step::Broken => break,
        }
    }
    if models > 1 {
        return Err(BodyProblem::TwoModels);
    }
    if !scan.json {
        scan.model = None;
    }
    // What comes after a break was not looked at.
    scan.may_name = !scan.json || members.may_name();
    let (bytes, strings) = members.unbroken();
    let text = body.len().saturating_sub(bytes) / BYTES_PER_TOKEN;
    scan.prompt_tokens = u64::try_from(text).unwrap_or(u64::MAX).saturating_add(strings * UNBROKEN_TOKENS);
    Ok(scan)
}

impl BodyScan {
    fn take(&mut self, key: &[u8], member: &Member, body: &[u8]) {
        match key {
            b"model" => {
                let value = member.string(body);
                self.model =
                    value.map(|value| Name { range: member.value.clone(), value: value.into_owned() });
            }
            b"stream" => self.stream = boolean(member, body) == Some(true),
            b"background" => self.background = boolean(member, body) == Some(true),
            b"store" => self.store = boolean(member, body),
            b"stream_options" => self.include_usage = includes_usage(member, body),
            b"service_tier" => {
                self.service_tier = match member.string(body).as_deref() {
                    Some("flex") => Some(ServiceTier::Flex),
                    Some("priority") => Some(ServiceTier::Priority),
                    _ => None,
                };
            }
            b"max_tokens" | b"max_completion_tokens" | b"max_output_tokens" => {
                self.max_tokens = self.max_tokens.max(number(member, body));
            }
            b"n" => self.n = number(member, body),
            b"best_of" => self.best_of = number(member, body),
            key => self.thread.take(key, member, body),
        }
    }
}

fn boolean(member: &Member, body: &[u8]) -> Option<bool> {
    match member.text(body) {
        b"true" => Some(true),
        b"false" => Some(false),
        _ => None,
    }
}

fn number(member: &Member, body: &[u8]) -> Option<u64> {
    std::str::from_utf8(member.text(body)).ok()?.parse().ok()
}

fn includes_usage(member: &Member, body: &[u8]) -> bool {
    if member.kind != Kind::Object {
        return false;
    }
    let options = member.text(body);
    let mut members = Members::of(options);
    let mut included = false;
    while let Step::Member(member) = members.next() {
        if &*member.key(options) == b"include_usage" {
            included = member.text(options) == b"true";
        }
    }
    included
}

/// The body with another name in place of the one at `range`, in three pieces; the outer two are slices of
/// the body, every byte as sent.
///
/// # Panics
/// If `range` is not within the body: it must come from [`scan`] of this very body.
pub fn replace_model(body: &Bytes, range: Range<usize>, new_name: &str) -> [Bytes; 3] {
    let name = serde_json::Value::from(new_name).to_string();
    [body.slice(..range.start), Bytes::from(name), body.slice(range.end..)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    fn model(text: &str) -> Option<String> {
        scan(text.as_bytes()).unwrap().model.map(|name| name.value)
    }

    #[test]
    fn the_model_is_found_wherever_and_however_it_is_written() {
        for text in [
            r#"{"model":"gpt-4o"}"#,
            " \r\n\t{ \"messages\" : [ { \"model\" : \"no\" } ] , \"model\"\n:\t\"gpt-4o\" , \"n\":1 } \n",
            r#"{"mod\u0065l":"gpt-4o","messages":[]}"#,
            r#"{"model":"gpt\u002d4o"}"#,
            r#"{"input":"say \"model\":\"no\" \\","model":"gpt-4o"}"#,
            r#"{"a":"\\","model":"gpt-4o","b":"\\\""}"#,
            "\u{feff}{\"model\":\"gpt-4o\"}",
        ] {
            assert_eq!(model(text).as_deref(), Some("gpt-4o"), "{text}");
        }
        let text = format!(r#"{{"input":"{}","model":"gpt-4o"}}"#, "long prompt \\n ".repeat(300_000));
        assert_eq!(model(&text).as_deref(), Some("gpt-4o"));
    }

    #[test]
    fn null_and_other_types_are_no_model() {
        for text in [
            r#"{"model":null}"#,
            r#"{"model":1}"#,
            r#"{"model":{"model":"x"}}"#,
            r#"{"model":["x"]}"#,
            "{}",
            r#"{"Model":"x"}"#,
        ] {
            let scan = scan(text.as_bytes()).unwrap();
            assert!(scan.json, "{text}");
            assert_eq!(scan.model, None, "{text}");
        }
    }

    #[test]
    fn two_models_are_a_problem_in_any_spelling() {
        for text in [
            r#"{"model":"a","model":"b"}"#,
            r#"{"model":"a","x":[1,{"y":2}],"mod\u0065l":"a"}"#,
            r#"{"model":null,"model":"b"}"#,
            r#"{"Model":"a","model":"b"}"#,
            r#"{"model":"a","model":"b", broken"#,
        ] {
            assert_eq!(scan(text.as_bytes()), Err(BodyProblem::TwoModels), "{text}");
        }
        assert_eq!(model(r#"{"model":"a","x":{"model":"b"}}"#).as_deref(), Some("a"));
    }

    #[test]
    fn what_is_not_json_names_no_model() {
        for text in [
            "",
            "model=a",
            "[1]",
            r#"{"model":"a""#,
            r#"{"model":"a"} trailing"#,
            r#"{"model":"a",}"#,
            r#"{"model":"a""x":1}"#,
            r#"{"model":"a","x":[/*"*/]}"#,
        ] {
            let scan = scan(text.as_bytes()).unwrap();
            assert!(!scan.json && scan.model.is_none(), "{text}");
        }
    }

    #[test]
    fn every_key_that_steers_is_read() {
        let text = json!({
            "model": "m", "stream": true, "stream_options": {"x": 1, "include_usage": true}, "background": true,
            "store": false, "service_tier": "flex", "max_tokens": 5, "max_completion_tokens": 7, "n": 3, "best_of": 2,
        })
        .to_string();
        let found = scan(text.as_bytes()).unwrap();
        assert!(found.stream && found.include_usage && found.background);
        assert_eq!((found.store, found.service_tier), (Some(false), Some(ServiceTier::Flex)));
        assert_eq!((found.max_tokens, found.n, found.best_of), (Some(7), Some(3), Some(2)));
        let text = r#"{"stream":"true","stream_options":null,"background":null,"store":null,"service_tier":"auto","max_output_tokens":9,"n":-1}"#;
        let found = scan(text.as_bytes()).unwrap();
        assert!(!found.stream && !found.include_usage && !found.background);
        assert_eq!((found.store, found.service_tier, found.max_tokens, found.n), (None, None, Some(9), None));
    }

    #[test]
    fn the_charge_is_the_prompt_and_the_limit_for_each_completion() {
        let text = format!(r#"{{"max_tokens":100,"n":3,"input":"{}"}}"#, "four ".repeat(800));
        let found = scan(text.as_bytes()).unwrap();
        assert_eq!(found.prompt_tokens, u64::try_from(text.len() / 4).unwrap());
        assert_eq!(found.charge(50), found.prompt_tokens + 300);
        let unlimited = scan(br#"{"input":"x"}"#).unwrap();
        assert_eq!(unlimited.charge(50), unlimited.prompt_tokens + 50);
        let absurd = scan(br#"{"max_tokens":18446744073709551615,"n":18446744073709551615}"#).unwrap();
        assert_eq!(absurd.charge(0), MOST, "more than a lane's count could take back");
    }

    #[test]
    fn an_inline_image_counts_a_thousand_tokens_and_long_text_its_bytes() {
        let tokens = |content: &str| {
            scan(format!(r#"{{"messages":[{{"url":"{content}"}},"and some words"]}}"#).as_bytes())
                .unwrap()
                .prompt_tokens
        };
        let image = format!("data:image/png;base64,{}", "QUJD".repeat(250_000));
        assert!((1_000..1_100).contains(&tokens(&image)));
        assert!((1_000..1_100).contains(&tokens(&image.replace("QUJDQUJDQUJD", "QUJDQ\\/JDQUJD\\n"))));
        assert_eq!(tokens(&"QUJD".repeat(500)), (2_000 + 41) / 4);
        assert!(tokens(&"word ".repeat(10_000)) >= 12_500);
        assert!(tokens(&"你好".repeat(10_000)) >= 15_000);
        assert!(tokens(&"\\u4f60".repeat(10_000)) >= 15_000);
        assert!(tokens(&"{\\\"a\\\":1}".repeat(10_000)) >= 22_500);
    }

    #[test]
    fn replacing_the_model_leaves_every_other_byte() {
        let body = Bytes::from_static(b" {\"a\" :\t1.0, \"model\" : \"g\\u0070t\" ,\"z\":[ ] }\n");
        let name = scan(&body).unwrap().model.unwrap();
        assert_eq!(name.value, "gpt");
        let [before, new, after] = replace_model(&body, name.range, "other\"\n");
        assert_eq!(
            [&before[..], &new[..], &after[..]].concat(),
            b" {\"a\" :\t1.0, \"model\" : \"other\\\"\\n\" ,\"z\":[ ] }\n"
        );
        assert_eq!(before.as_ptr(), body.as_ptr(), "the outer pieces are not copied");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e9..1e9_f64).prop_map(Value::from),
            "\\PC*".prop_map(Value::from),
            "[\\x00-\\x7f]{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::vec(("model|stream|\\PC{0,8}", inner), 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn any_object() -> impl Strategy<Value = Map<String, Value>> {
        let key = "model|stream|n|store|background|[a-z\"\\\\]{0,6}|\\PC{0,6}";
        proptest::collection::vec((key, any_json()), 0..8).prop_map(|members| {
            members
                .into_iter()
                .filter(|(key, _)| key == "model" || !key.eq_ignore_ascii_case("model"))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn the_scan_agrees_with_serde_json(object in any_object(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&object).unwrap() } else { serde_json::to_string(&object).unwrap() };
            let found = scan(text.as_bytes()).unwrap();
            prop_assert!(found.json);
            prop_assert_eq!(found.model.as_ref().map(|name| name.value.as_str()), object.get("model").and_then(Value::as_str));
            prop_assert_eq!(found.stream, object.get("stream") == Some(&Value::Bool(true)));
            prop_assert_eq!(found.store, object.get("store").and_then(Value::as_bool));
            prop_assert_eq!(found.n, object.get("n").and_then(Value::as_u64));
            if let Some(name) = found.model {
                let body = Bytes::from(text);
                let replaced = replace_model(&body, name.range, "other \u{1} name").concat();
                // Read from the text as well: serde_json reads some fractions a last digit off.
                let mut expected: Map<String, Value> = serde_json::from_slice(&body).unwrap();
                expected.insert("model".to_owned(), Value::from("other \u{1} name"));
                prop_assert_eq!(serde_json::from_slice::<Map<String, Value>>(&replaced).unwrap(), expected);
            }
        }

        #[test]
        fn a_cut_body_is_never_taken_for_whole(object in any_object(), keep in 0.0..1.0_f64) {
            let text = serde_json::to_vec(&object).unwrap();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a fraction of a short text")]
            let cut = (text.len() as f64 * keep) as usize;
            prop_assert!(!scan(&text[..cut]).unwrap().json);
        }

        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = scan(&body);
        }

        #[test]
        fn no_text_of_json_bytes_panics(body in "[\\[\\]{}\":,\\\\u0-9dmodeltrue \n]{0,200}") {
            let _ = scan(body.as_bytes());
            let _ = scan(format!("{{\"model\":\"{body}").as_bytes());
        }
    }
}
