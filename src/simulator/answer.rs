//! Answers as Azure writes them: JSON of every operation, and the events of streams.
//!
//! Texts and vectors follow from the seed and the request alone. They are plain words, so nothing needs escaping.

use std::fmt::Write;

use bytes::Bytes;

const WORDS: [&str; 48] = [
    "the", "answer", "is", "that", "every", "region", "has", "a", "quota", "of", "its", "own", "and", "when",
    "one", "of", "them", "is", "full", "another", "still", "takes", "your", "request", "without", "any",
    "delay", "so", "an", "app", "sees", "no", "error", "at", "all", "while", "tokens", "come", "back",
    "with", "each", "minute", "in", "turn", "for", "everyone", "who", "waits",
];

const SAFE: &str = r#"{"hate":{"filtered":false,"severity":"safe"},"self_harm":{"filtered":false,"severity":"safe"},"sexual":{"filtered":false,"severity":"safe"},"violence":{"filtered":false,"severity":"safe"}}"#;
const SAFE_PROMPT: &str = r#"[{"prompt_index":0,"content_filter_results":{"hate":{"filtered":false,"severity":"safe"},"jailbreak":{"filtered":false,"detected":false},"self_harm":{"filtered":false,"severity":"safe"},"sexual":{"filtered":false,"severity":"safe"},"violence":{"filtered":false,"severity":"safe"}}}]"#;

/// Everything an answer is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer<'a> {
    /// Stands in `system_fingerprint`.
    pub(super) resource: &'a str,
    /// The deployment's name.
    pub(super) model: &'a str,
    /// Decides the text.
    pub(super) seed: u64,
    /// Makes its ids unlike all others of the simulator.
    pub(super) id: u64,
    /// Unix time, seconds.
    pub(super) created: u64,
    pub(super) prompt_tokens: u64,
    /// Words, each counted as one token.
    pub(super) completion_tokens: u64,
    pub(super) choices: u64,
    /// The answer was cut by its longest length.
    pub(super) cut: bool,
}

impl Answer<'_> {
    fn words(&self, choice: u64) -> impl Iterator<Item = &'static str> {
        let mut draw = fastrand::Rng::with_seed(self.seed.wrapping_add(choice));
        let words = usize::try_from(self.completion_tokens).unwrap_or(usize::MAX);
        std::iter::repeat_with(move || WORDS[draw.usize(..WORDS.len())]).take(words)
    }

    fn text(&self, choice: u64) -> String {
        let mut text = String::new();
        for (index, word) in self.words(choice).enumerate() {
            if index > 0 {
                text.push(' ');
            }
            text.push_str(word);
        }
        text
    }

    fn finish(&self) -> &'static str {
        if self.cut { "length" } else { "stop" }
    }

    fn tokens_out(&self) -> u64 {
        self.completion_tokens.saturating_mul(self.choices)
    }

    fn chat_usage(&self) -> String {
        let (prompt, completion) = (self.prompt_tokens, self.tokens_out());
        let total = prompt.saturating_add(completion);
        format!(
            r#"{{"completion_tokens":{completion},"completion_tokens_details":{{"accepted_prediction_tokens":0,"audio_tokens":0,"reasoning_tokens":0,"rejected_prediction_tokens":0}},"prompt_tokens":{prompt},"prompt_tokens_details":{{"audio_tokens":0,"cached_tokens":0}},"total_tokens":{total}}}"#
        )
    }

    fn responses_usage(&self) -> String {
        let (prompt, completion) = (self.prompt_tokens, self.completion_tokens);
        let total = prompt.saturating_add(completion);
        format!(
            r#"{{"input_tokens":{prompt},"input_tokens_details":{{"cache_write_tokens":0,"cached_tokens":0}},"output_tokens":{completion},"output_tokens_details":{{"reasoning_tokens":0}},"total_tokens":{total}}}"#
        )
    }

    /// `chat.completion`, keys in Azure's order.
    pub(super) fn chat(&self) -> String {
        let mut body = String::with_capacity(1_024);
        body.push_str(r#"{"choices":["#);
        for choice in 0..self.choices {
            let comma = if choice > 0 { "," } else { "" };
            let (text, finish) = (self.text(choice), self.finish());
            put(
                &mut body,
                format_args!(
                    r#"{comma}{{"content_filter_results":{SAFE},"finish_reason":"{finish}","index":{choice},"logprobs":null,"message":{{"annotations":[],"content":"{text}","refusal":null,"role":"assistant"}}}}"#
                ),
            );
        }
        let Self { resource, model, id, created, .. } = self;
        put(
            &mut body,
            format_args!(
                r#"],"created":{created},"id":"chatcmpl-{id:016x}","model":"{model}","object":"chat.completion","prompt_filter_results":{SAFE_PROMPT},"system_fingerprint":"fp_{resource}","usage":{}}}"#,
                self.chat_usage()
            ),
        );
        body
    }

    /// `text_completion`.
    pub(super) fn completion(&self) -> String {
        let Self { resource, model, id, created, .. } = self;
        let mut body = String::with_capacity(1_024);
        body.push_str(r#"{"choices":["#);
        for choice in 0..self.choices {
            let comma = if choice > 0 { "," } else { "" };
            let (text, finish) = (self.text(choice), self.finish());
            put(
                &mut body,
                format_args!(
                    r#"{comma}{{"content_filter_results":{SAFE},"finish_reason":"{finish}","index":{choice},"logprobs":null,"text":"{text}"}}"#
                ),
            );
        }
        put(
            &mut body,
            format_args!(
                r#"],"created":{created},"id":"cmpl-{id:016x}","model":"{model}","object":"text_completion","prompt_filter_results":{SAFE_PROMPT},"system_fingerprint":"fp_{resource}","usage":{}}}"#,
                self.chat_usage()
            ),
        );
        body
    }

    /// The events of a chat stream (or of the older completions), `[DONE]` included.
    pub(super) fn chat_events(&self, chat: bool, include_usage: bool) -> Vec<Bytes> {
        let Self { resource, model, id, created, .. } = self;
        let (object, prefix) =
            if chat { ("chat.completion.chunk", "chatcmpl") } else { ("text_completion", "cmpl") };
        let usage = if include_usage { r#","usage":null"# } else { "" };
        let tail = format!(
            r#""created":{created},"id":"{prefix}-{id:016x}","model":"{model}","object":"{object}","system_fingerprint":"fp_{resource}""#
        );
        let mut events = vec![event(format_args!(
            r#"{{"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":{SAFE_PROMPT}{usage}}}"#
        ))];
        if chat {
            for choice in 0..self.choices {
                events.push(event(format_args!(
                    r#"{{"choices":[{{"content_filter_results":{{}},"delta":{{"content":"","refusal":null,"role":"assistant"}},"finish_reason":null,"index":{choice},"logprobs":null}}],{tail}{usage}}}"#
                )));
            }
        }
        let mut voices: Vec<_> = (0..self.choices).map(|choice| self.words(choice)).collect();
        for index in 0..self.completion_tokens {
            let space = if index > 0 { " " } else { "" };
            for (choice, words) in voices.iter_mut().enumerate() {
                let word = words.next().unwrap_or_default();
                events.push(if chat {
                    event(format_args!(
                        r#"{{"choices":[{{"content_filter_results":{SAFE},"delta":{{"content":"{space}{word}"}},"finish_reason":null,"index":{choice},"logprobs":null}}],{tail}{usage}}}"#
                    ))
                } else {
                    event(format_args!(
                        r#"{{"choices":[{{"content_filter_results":{SAFE},"finish_reason":null,"index":{choice},"logprobs":null,"text":"{space}{word}"}}],{tail}{usage}}}"#
                    ))
                });
            }
        }
        let (finish, last) = (self.finish(), if chat { r#""delta":{}"# } else { r#""text":"""# });
        for choice in 0..self.choices {
            events.push(event(format_args!(
                r#"{{"choices":[{{"content_filter_results":{{}},{last},"finish_reason":"{finish}","index":{choice},"logprobs":null}}],{tail}{usage}}}"#
            )));
        }
        if include_usage {
            events.push(event(format_args!(r#"{{"choices":[],{tail},"usage":{}}}"#, self.chat_usage())));
        }
        events.push(Bytes::from_static(b"data: [DONE]\n\n"));
        events
    }

    fn response_id(&self) -> String {
        format!("resp_{:016x}", self.id)
    }

    fn message(&self, status: &str, content: &str) -> String {
        let id = self.id;
        format!(
            r#"{{"id":"msg_{id:016x}","type":"message","status":"{status}","content":[{content}],"role":"assistant"}}"#
        )
    }

    fn response_object(&self, status: &str, output: &str, usage: &str, error: &str, store: bool) -> String {
        let Self { resource, model, created, .. } = self;
        let id = self.response_id();
        let incomplete = if status == "incomplete" { r#"{"reason":"max_output_tokens"}"# } else { "null" };
        format!(
            r#"{{"id":"{id}","object":"response","created_at":{created},"status":"{status}","background":false,"content_filters":null,"error":{error},"incomplete_details":{incomplete},"instructions":null,"max_output_tokens":null,"max_tool_calls":null,"metadata":{{}},"model":"{model}","output":[{output}],"parallel_tool_calls":true,"previous_response_id":null,"prompt_cache_key":"{resource}","reasoning":{{"effort":null,"summary":null}},"safety_identifier":null,"service_tier":"default","store":{store},"temperature":1.0,"text":{{"format":{{"type":"text"}}}},"tool_choice":"auto","tools":[],"top_logprobs":0,"top_p":1.0,"truncation":"disabled","usage":{usage},"user":null}}"#
        )
    }

    fn closing_status(&self) -> &'static str {
        if self.cut { "incomplete" } else { "completed" }
    }

    /// A response with its id.
    pub(super) fn response(&self, store: bool) -> (String, String) {
        let part = output_text(&self.text(0));
        let message = self.message(self.closing_status(), &part);
        let usage = self.responses_usage();
        (self.response_id(), self.response_object(self.closing_status(), &message, &usage, "null", store))
    }

    /// The events of a response, `response.completed` (or `incomplete`) last.
    pub(super) fn response_events(&self, store: bool) -> Vec<Bytes> {
        let begun = self.response_object("in_progress", "", "null", "null", store);
        let item = format!("msg_{:016x}", self.id);
        let place = format!(r#""item_id":"{item}","output_index":0,"content_index":0"#);
        let mut events = Events::default();
        events.put("response.created", &format!(r#""response":{begun}"#));
        events.put("response.in_progress", &format!(r#""response":{begun}"#));
        let empty = self.message("in_progress", "");
        events.put("response.output_item.added", &format!(r#""output_index":0,"item":{empty}"#));
        let part = output_text("");
        events.put("response.content_part.added", &format!(r#"{place},"part":{part}"#));
        for (index, word) in self.words(0).enumerate() {
            let space = if index > 0 { " " } else { "" };
            events.put(
                "response.output_text.delta",
                &format!(r#"{place},"delta":"{space}{word}","logprobs":[]"#),
            );
        }
        let text = self.text(0);
        events.put("response.output_text.done", &format!(r#"{place},"text":"{text}","logprobs":[]"#));
        let part = output_text(&text);
        events.put("response.content_part.done", &format!(r#"{place},"part":{part}"#));
        let status = self.closing_status();
        let message = self.message(status, &part);
        events.put("response.output_item.done", &format!(r#""output_index":0,"item":{message}"#));
        let usage = self.responses_usage();
        let done = self.response_object(status, &message, &usage, "null", store);
        events.put(&format!("response.{status}"), &format!(r#""response":{done}"#));
        events.list
    }

    /// A rate limit after 200, as seen on Azure's Responses API: `after` events, then `response.failed`, `error`.
    pub(super) fn response_rate_limited(&self, after: usize) -> Vec<Bytes> {
        self.response_failed(
            after,
            r#"{"type":"too_many_requests","code":"rate_limit_exceeded","headers":{"x-ms-fe-error":"true"},"message":"Your requests to the deployment have exceeded rate limit.","param":null}"#,
        )
    }

    /// A server error after 200.
    pub(super) fn response_errored(&self, after: usize) -> Vec<Bytes> {
        self.response_failed(
            after,
            r#"{"type":"server_error","code":"server_error","message":"The server had an error while processing your request. Sorry about that!","param":null}"#,
        )
    }

    fn response_failed(&self, after: usize, error: &str) -> Vec<Bytes> {
        let mut list = self.response_events(false);
        list.truncate(after);
        let mut events = Events { next: list.len(), list };
        let failed = self.response_object("failed", "", "null", "null", false);
        events.put("response.failed", &format!(r#""response":{failed}"#));
        events.put("error", &format!(r#""error":{error}"#));
        events.list
    }

    /// Vectors for so many inputs.
    pub(super) fn embeddings(&self, inputs: usize, dimensions: usize, base64: bool) -> String {
        let mut body = String::with_capacity(inputs * dimensions * 12 + 256);
        body.push_str(r#"{"object":"list","data":["#);
        for index in 0..inputs {
            if index > 0 {
                body.push(',');
            }
            put(&mut body, format_args!(r#"{{"object":"embedding","index":{index},"embedding":"#));
            let vector = vector(self.seed.wrapping_add(index as u64), dimensions);
            if base64 {
                body.push('"');
                base64_floats(&mut body, &vector);
                body.push('"');
            } else {
                put(&mut body, format_args!("{vector:?}"));
            }
            body.push('}');
        }
        let (model, tokens) = (self.model, self.prompt_tokens);
        put(
            &mut body,
            format_args!(
                r#"],"model":"{model}","usage":{{"prompt_tokens":{tokens},"total_tokens":{tokens}}}}}"#
            ),
        );
        body
    }
}

/// One model as `GET /openai/v1/models` lists it.
pub(super) fn model(name: &str, created: u64) -> String {
    format!(r#"{{"id":"{name}","object":"model","created":{created},"owned_by":"system"}}"#)
}

/// A chat event with that payload.
pub(super) fn event(payload: std::fmt::Arguments<'_>) -> Bytes {
    Bytes::from(format!("data: {payload}\n\n"))
}

/// The end of a stream of runs or chats.
pub(super) fn done() -> Bytes {
    Bytes::from_static(b"event: done\ndata: [DONE]\n\n")
}

fn output_text(text: &str) -> String {
    format!(r#"{{"type":"output_text","annotations":[],"logprobs":[],"text":"{text}"}}"#)
}

fn put(body: &mut String, text: std::fmt::Arguments<'_>) {
    body.write_fmt(text).expect("a String takes everything");
}

/// Events of the Responses API, numbered.
#[derive(Default)]
struct Events {
    next: usize,
    list: Vec<Bytes>,
}

impl Events {
    fn put(&mut self, kind: &str, fields: &str) {
        let number = self.next;
        self.next += 1;
        self.list.push(Bytes::from(format!(
            "event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":{number},{fields}}}\n\n"
        )));
    }
}

/// A vector of length one.
fn vector(seed: u64, dimensions: usize) -> Vec<f32> {
    let mut draw = fastrand::Rng::with_seed(seed);
    let mut vector: Vec<f32> = std::iter::repeat_with(|| draw.f32() - 0.5).take(dimensions).collect();
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
    vector
}

/// Little-endian floats in base64, as the SDKs ask for by default.
fn base64_floats(out: &mut String, vector: &[f32]) {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    for three in bytes.chunks(3) {
        let mut group = [0_u8; 4];
        group[1..=three.len()].copy_from_slice(three);
        let number = u32::from_be_bytes(group);
        for position in 0..4 {
            let letter = LETTERS[(number >> (18 - 6 * position)) as usize & 63];
            out.push(if position <= three.len() { char::from(letter) } else { '=' });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn answer() -> Answer<'static> {
        Answer {
            resource: "east",
            model: "gpt-4o",
            seed: 7,
            id: 9,
            created: 1_790_000_000,
            prompt_tokens: 11,
            completion_tokens: 3,
            choices: 1,
            cut: false,
        }
    }

    fn payload(event: &Bytes) -> Value {
        let text = std::str::from_utf8(event).unwrap();
        let data = text.split("data: ").nth(1).unwrap();
        assert!(data.ends_with("\n\n"));
        serde_json::from_str(data.trim_end()).unwrap()
    }

    #[test]
    fn a_chat_answer_is_json_with_keys_in_azures_order() {
        let body = Answer { choices: 2, ..answer() }.chat();
        let value: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(value["choices"].as_array().unwrap().len(), 2);
        assert_eq!(value["usage"]["total_tokens"], 11 + 6);
        assert_eq!(value["system_fingerprint"], "fp_east");
        let keys =
            ["choices", "created", "id", "model", "object", "prompt_filter_results", "system_fingerprint"];
        let places = keys.map(|key| body.find(&format!("\"{key}\":")).unwrap());
        assert!(places.is_sorted(), "{places:?}");
        assert!(body.find("\"usage\":").unwrap() > places[6]);
    }

    #[test]
    fn a_chat_stream_begins_with_the_prompt_filter_and_ends_with_usage_and_done() {
        let events = answer().chat_events(true, true);
        assert_eq!(events.len(), 1 + 1 + 3 + 1 + 1 + 1);
        let first = payload(&events[0]);
        assert_eq!(first["choices"].as_array().unwrap().len(), 0);
        assert!(first["prompt_filter_results"].is_array());
        assert_eq!(payload(&events[1])["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(payload(&events[5])["choices"][0]["finish_reason"], "stop");
        assert_eq!(payload(&events[6])["usage"]["completion_tokens"], 3);
        assert_eq!(events[7], "data: [DONE]\n\n");
        let text: String = events[2..5]
            .iter()
            .map(|event| payload(event)["choices"][0]["delta"]["content"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(text, answer().text(0));
    }

    #[test]
    fn events_of_a_response_are_numbered_and_end_with_its_usage() {
        let events = answer().response_events(true);
        for (index, event) in events.iter().enumerate() {
            assert_eq!(payload(event)["sequence_number"], index);
        }
        let last = payload(events.last().unwrap());
        assert_eq!(last["type"], "response.completed");
        assert_eq!(last["response"]["usage"]["total_tokens"], 14);
        let (id, whole) = answer().response(true);
        assert_eq!(last["response"], serde_json::from_str::<Value>(&whole).unwrap());
        assert_eq!(last["response"]["id"], Value::from(id));
    }

    #[test]
    fn a_rate_limit_in_a_response_stream_is_a_failed_event_and_an_error_event() {
        let events = answer().response_rate_limited(1);
        let kinds: Vec<Value> = events.iter().map(|event| payload(event)["type"].clone()).collect();
        assert_eq!(kinds, ["response.created", "response.failed", "error"]);
        assert_eq!(payload(&events[2])["sequence_number"], 2);
        assert_eq!(payload(&events[2])["error"]["code"], "rate_limit_exceeded");
    }

    #[test]
    fn vectors_have_length_one_in_both_encodings() {
        let plain: Value = serde_json::from_str(&answer().embeddings(2, 5, false)).unwrap();
        let vector: Vec<f64> =
            plain["data"][1]["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        let length: f64 = vector.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
        let packed: Value = serde_json::from_str(&answer().embeddings(1, 5, true)).unwrap();
        assert_eq!(packed["data"][0]["embedding"].as_str().unwrap().len(), 28);
    }

    #[test]
    fn base64_is_the_usual_one() {
        let mut text = String::new();
        base64_floats(&mut text, &[1.0, -2.0]);
        assert_eq!(text, "AACAPwAAAMA=");
    }
}
