//! What a request asks for: its path and the few body fields that matter here.

use std::borrow::Cow;
use std::fmt;

use http::Method;
use percent_encoding::percent_decode_str;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::media::Media;
use super::objects::{self, ObjectCall};
use super::settings::ApiForm;

/// What the path names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Target {
    Chat,
    Completions,
    Embeddings,
    Responses,
    StoredResponse(String),
    ForgetResponse(String),
    /// What was the input of a stored response.
    ResponseInput(String),
    CancelResponse(String),
    Object(ObjectCall),
    Media(Media),
    /// A WebSocket: realtime, or responses over one.
    Socket,
    Models,
    Model(String),
}

/// A path that this resource has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Route {
    pub(super) target: Target,
    /// Named by the path; it wins over the body's `model`.
    pub(super) deployment: Option<String>,
    /// Empty on the v1 paths.
    pub(super) api_version: String,
}

/// The path, or nothing if this resource does not have it: "Resource not found".
pub(super) fn route(method: &Method, path: &str, query: Option<&str>, api: ApiForm) -> Option<Route> {
    let segments: Vec<Cow<'_, str>> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| percent_decode_str(segment).decode_utf8_lossy())
        .collect();
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    let api_version = parameter(query, "api-version").unwrap_or_default().to_owned();
    let (v1, deployment, rest) = match segments.as_slice() {
        ["openai", "v1", rest @ ..] => (true, None, rest),
        ["openai", "deployments", name, rest @ ..] if !rest.is_empty() => {
            (false, Some((*name).to_owned()), rest)
        }
        ["openai", rest @ ..] => (false, None, rest),
        _ => return None,
    };
    let offered = match api {
        ApiForm::Both => true,
        ApiForm::Legacy => !v1,
        ApiForm::V1 => v1,
    };
    // Azure knows a legacy path only together with an API version.
    if !offered || (!v1 && api_version.is_empty()) {
        return None;
    }
    let named = deployment.is_some() || v1;
    let target = match (method, rest) {
        (&Method::POST, ["chat", "completions"]) if named => Target::Chat,
        (&Method::POST, ["completions"]) if named => Target::Completions,
        (&Method::POST, ["embeddings"]) if named => Target::Embeddings,
        (&Method::POST, ["responses"]) if deployment.is_none() => Target::Responses,
        (&Method::GET, ["realtime" | "responses"]) if deployment.is_none() => Target::Socket,
        (&Method::GET, ["responses", id]) if deployment.is_none() => Target::StoredResponse((*id).to_owned()),
        (&Method::DELETE, ["responses", id]) if deployment.is_none() => {
            Target::ForgetResponse((*id).to_owned())
        }
        (&Method::GET, ["responses", id, "input_items"]) if deployment.is_none() => {
            Target::ResponseInput((*id).to_owned())
        }
        (&Method::POST, ["responses", id, "cancel"]) if deployment.is_none() => {
            Target::CancelResponse((*id).to_owned())
        }
        (&Method::GET, ["models"]) if deployment.is_none() => Target::Models,
        (&Method::GET, ["models", id]) if deployment.is_none() => Target::Model((*id).to_owned()),
        _ if named && Media::of(method, rest).is_some() => Target::Media(Media::of(method, rest)?),
        _ if deployment.is_none() || rest.first() == Some(&"batches") => {
            Target::Object(objects::call(method, rest)?)
        }
        _ => return None,
    };
    Some(Route { target, deployment, api_version })
}

/// A query parameter, as it stands there.
pub(super) fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// The fields of a body that decide about the answer; all others are taken and ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Ask {
    pub(super) model: Option<String>,
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<StreamOptions>,
    pub(super) messages: Option<Text>,
    pub(super) input: Option<Text>,
    pub(super) prompt: Option<Text>,
    pub(super) instructions: Option<Text>,
    pub(super) tools: Option<Text>,
    /// As it is: `"required"`, or which function.
    pub(super) tool_choice: Option<serde_json::Value>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
    n: Option<u64>,
    best_of: Option<u64>,
    pub(super) store: Option<bool>,
    pub(super) previous_response_id: Option<String>,
    pub(super) dimensions: Option<usize>,
    pub(super) encoding_format: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StreamOptions {
    pub(super) include_usage: Option<bool>,
}

/// Charged when a request does not say how long its answer may be: Azure's value is not published; this is the
/// `max_tokens` that its completions had by default.
const TOKENS_WHEN_UNSAID: u64 = 16;

impl Ask {
    pub(super) fn streamed(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// The most tokens that one choice may have.
    pub(super) fn longest(&self) -> Option<u64> {
        self.max_output_tokens.or(self.max_completion_tokens).or(self.max_tokens)
    }

    /// The request insists on a call of a function.
    pub(super) fn must_call(&self) -> bool {
        match &self.tool_choice {
            Some(serde_json::Value::String(word)) => word == "required",
            other => other.as_ref().is_some_and(serde_json::Value::is_object),
        }
    }

    pub(super) fn choices(&self) -> u64 {
        self.n.unwrap_or(1).clamp(1, 8)
    }

    /// Tokens of everything that the model reads, by its characters.
    pub(super) fn prompt_tokens(&self) -> u64 {
        let texts = [&self.messages, &self.input, &self.prompt, &self.instructions, &self.tools];
        let size = texts.into_iter().flatten().fold(Text::default(), Text::and);
        size.tokens.saturating_add(size.characters.div_ceil(4)).max(1)
    }

    /// What the quota is charged on arrival.
    pub(super) fn charge(&self, embeds: bool) -> u64 {
        if embeds {
            return self.prompt_tokens();
        }
        let answers = self.choices().max(self.best_of.unwrap_or(1));
        let each = self.longest().unwrap_or(TOKENS_WHEN_UNSAID);
        self.prompt_tokens().saturating_add(each.saturating_mul(answers))
    }

    /// Texts to embed.
    pub(super) fn inputs(&self) -> usize {
        self.input.as_ref().map_or(1, |input| input.items.max(1))
    }
}

/// How much text some JSON holds, without keeping it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Text {
    characters: u64,
    /// Numbers are tokens already.
    tokens: u64,
    /// Members, if it is a list of texts or lists.
    items: usize,
    /// `"encrypted_content"` of a reasoning item was somewhere within.
    pub(super) encrypted: Option<u64>,
}

impl Text {
    fn and(self, other: &Self) -> Self {
        Self {
            characters: self.characters.saturating_add(other.characters),
            tokens: self.tokens.saturating_add(other.tokens),
            items: self.items,
            encrypted: self.encrypted.or(other.encrypted),
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Measure)
    }
}

struct Measure;

impl<'de> Visitor<'de> for Measure {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        let characters = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
        Ok(Text { characters, items: 1, ..Text::default() })
    }

    fn visit_unit<E>(self) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
        Ok(Text { tokens: 1, ..Text::default() })
    }

    fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
        Ok(Text { tokens: 1, ..Text::default() })
    }

    fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
        Ok(Text { tokens: 1, ..Text::default() })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Text, A::Error> {
        let mut sum = Text::default();
        let (mut members, mut texts) = (0, false);
        while let Some(member) = list.next_element::<Text>()? {
            sum = sum.and(&member);
            members += 1;
            texts |= member.items > 0;
        }
        // A list of numbers is one text, already cut into tokens.
        Ok(Text { items: if texts { members } else { 1 }, ..sum })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        let mut sum = Text { items: 1, ..Text::default() };
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match key.as_ref() {
                "role" | "type" | "id" | "image_url" | "status" => {
                    map.next_value::<serde::de::IgnoredAny>()?;
                }
                "encrypted_content" => {
                    let content: Option<String> = map.next_value()?;
                    sum.encrypted = content.as_deref().map(hash);
                }
                _ => sum = sum.and(&map.next_value::<Text>()?),
            }
        }
        Ok(sum)
    }
}

/// FNV-1a: decides texts and vectors, so it must not change from run to run.
pub(super) fn hash(text: &str) -> u64 {
    hash_bytes(text.as_bytes())
}

/// The same of any bytes.
pub(super) fn hash_bytes(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(path: &str, query: Option<&str>) -> Option<Route> {
        route(&Method::POST, path, query, ApiForm::Both)
    }

    #[test]
    fn legacy_paths_need_an_api_version_and_v1_paths_do_not() {
        assert_eq!(post("/openai/deployments/gpt-4o/chat/completions", None), None);
        let legacy =
            post("/openai/deployments/gpt-4o/chat/completions", Some("api-version=2024-10-21")).unwrap();
        assert_eq!((legacy.target, legacy.deployment.as_deref()), (Target::Chat, Some("gpt-4o")));
        assert_eq!(post("/openai/v1/chat/completions", None).unwrap().target, Target::Chat);
        assert_eq!(
            post("/openai/responses", Some("a=b&api-version=preview")).unwrap().target,
            Target::Responses
        );
    }

    #[test]
    fn repeated_slashes_are_one_and_bare_paths_are_unknown() {
        assert!(post("//openai//v1/embeddings", None).is_some());
        assert!(post("/embeddings", None).is_none());
        assert!(post("/openai/chat/completions", Some("api-version=1")).is_none());
        assert!(route(&Method::GET, "/openai/v1/chat/completions", None, ApiForm::Both).is_none());
    }

    #[test]
    fn a_resource_without_v1_does_not_have_its_paths() {
        assert!(route(&Method::POST, "/openai/v1/responses", None, ApiForm::Legacy).is_none());
        assert!(route(&Method::POST, "/openai/responses", Some("api-version=1"), ApiForm::V1).is_none());
    }

    #[test]
    fn the_charge_is_a_quarter_of_the_characters_and_the_longest_answer() {
        let ask: Ask = serde_json::from_str(
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"0123456789abcdef"}]},{"role":"user","content":"0123"}],"max_tokens":100,"n":2,"seed":7}"#,
        )
        .unwrap();
        assert_eq!(ask.prompt_tokens(), 5);
        assert_eq!(ask.charge(false), 205);
    }

    #[test]
    fn inputs_are_counted_whether_text_or_tokens() {
        let count =
            |input: &str| serde_json::from_str::<Ask>(&format!("{{\"input\":{input}}}")).unwrap().inputs();
        assert_eq!(count(r#""one""#), 1);
        assert_eq!(count(r#"["one","two"]"#), 2);
        assert_eq!(count("[1,2,3]"), 1);
        assert_eq!(count("[[1,2],[3]]"), 2);
    }
}
