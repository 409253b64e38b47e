//! The model behind a resource: texts and vectors for admitted requests, and the responses it keeps.

use http::StatusCode;
use serde_json::{Value, json};

use super::answer::Answer;
use super::errors;
use super::quota::Levels;
use super::reply::Outcome;
use super::request::{Ask, Route, Target};
use super::resource::{Call, Resource};

/// Stored responses that can be read again; older ones are forgotten.
const STORED: usize = 256;

/// Vectors of `text-embedding-3-small`; `dimensions` asks for fewer.
const DIMENSIONS: usize = 1_536;

impl Resource {
    /// The same chat answer for everyone, made once.
    pub(super) fn canned(&self, streamed: bool) -> Outcome {
        let (body, events) = self.canned.get_or_init(|| {
            let answer = Answer {
                resource: &self.settings.name,
                model: "gpt-4o",
                seed: self.seed,
                id: self.seed,
                created: self.clock.unix,
                prompt_tokens: 100,
                completion_tokens: u64::from(self.settings.completion_tokens),
                choices: 1,
                cut: false,
            };
            (answer.chat().into(), answer.chat_events(true, true))
        });
        let wait = self.jittered(self.settings.latency.first_byte);
        if streamed {
            return Outcome::Events { list: events.clone(), levels: None, wait };
        }
        Outcome::Json { body: body.clone(), levels: None, wait }
    }

    /// An answer to an admitted request.
    pub(super) fn generate(&self, route: &Route, ask: &Ask, call: &Call, levels: Option<Levels>) -> Outcome {
        let seed = call.text_seed;
        let mut draw = fastrand::Rng::with_seed(seed);
        let mean = self.settings.completion_tokens;
        let drawn = u64::from(draw.u32(mean / 2..=mean.saturating_add(mean / 2))).max(1);
        let completion_tokens = ask.longest().map_or(drawn, |longest| drawn.min(longest.max(1)));
        let answer = Answer {
            resource: &self.settings.name,
            model: call.deployment.as_deref().unwrap_or_default(),
            seed,
            id: self.state().draw.u64(..),
            created: self.clock.unix + self.elapsed().as_secs(),
            prompt_tokens: ask.prompt_tokens(),
            completion_tokens,
            choices: if route.target == Target::Responses { 1 } else { ask.choices() },
            cut: completion_tokens < drawn,
        };
        let latency = &self.settings.latency;
        let first = self.jittered(latency.first_byte);
        let usage = ask.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false);
        if call.streamed && route.target != Target::Embeddings {
            let list = match route.target {
                Target::Responses => answer.response_events(ask.store.unwrap_or(true)),
                _ => answer.chat_events(route.target == Target::Chat, usage),
            };
            if route.target == Target::Responses {
                self.store(ask, &answer);
            }
            return Outcome::Events { list, levels, wait: first };
        }
        let words = u32::try_from(completion_tokens).unwrap_or(u32::MAX);
        let whole = first + self.jittered(latency.per_token.saturating_mul(words));
        let (body, wait) = match route.target {
            Target::Embeddings => {
                let dimensions = ask.dimensions.unwrap_or(DIMENSIONS).clamp(1, DIMENSIONS * 2);
                let base64 = ask.encoding_format.as_deref() == Some("base64");
                (answer.embeddings(ask.inputs().min(2_048), dimensions, base64), first)
            }
            Target::Completions => (answer.completion(), whole),
            Target::Responses => {
                self.store(ask, &answer);
                (answer.response(ask.store.unwrap_or(true)).1, whole)
            }
            _ if ask.must_call() => (with_call(&answer.chat(), &call.body), whole),
            _ => (answer.chat(), whole),
        };
        Outcome::Json { body: body.into(), levels, wait }
    }

    fn store(&self, ask: &Ask, answer: &Answer<'_>) {
        if ask.store == Some(false) {
            return;
        }
        let (id, body) = answer.response(true);
        let mut state = self.state();
        if state.stored.len() == STORED {
            state.stored.pop_front();
        }
        state.stored.push_back((id, body.into()));
    }

    /// Deletes a stored response.
    pub(super) fn forget(&self, id: &str) -> Outcome {
        let mut state = self.state();
        let Some(position) = state.stored.iter().position(|(known, _)| known == id) else {
            return Outcome::error(StatusCode::NOT_FOUND, errors::response_not_found(id, None));
        };
        state.stored.remove(position);
        Outcome::json(format!(r#"{{"id":"{id}","object":"response","deleted":true}}"#))
    }

    /// What was given to a stored response.
    pub(super) fn input_of(&self, id: &str) -> Outcome {
        match self.stored(id) {
            Outcome::Json { .. } => Outcome::json(
                r#"{"object":"list","data":[],"first_id":null,"last_id":null,"has_more":false}"#,
            ),
            other => other,
        }
    }

    /// A stored response, which is at its end now.
    pub(super) fn cancelled(&self, id: &str) -> Outcome {
        let mut state = self.state();
        let Some((_, body)) = state.stored.iter_mut().find(|(known, _)| known == id) else {
            return Outcome::error(StatusCode::NOT_FOUND, errors::response_not_found(id, None));
        };
        let text = String::from_utf8_lossy(body);
        *body = text.replacen(r#""status":"completed""#, r#""status":"cancelled""#, 1).into();
        Outcome::json(body.clone())
    }

    /// A stored response.
    pub(super) fn stored(&self, id: &str) -> Outcome {
        let state = self.state();
        match state.stored.iter().find(|(known, _)| known == id) {
            Some((_, body)) => Outcome::json(body.clone()),
            None => Outcome::error(StatusCode::NOT_FOUND, errors::response_not_found(id, None)),
        }
    }
}

/// The same chat answer as a call of the function that the request names, or of its first one.
fn with_call(chat: &str, request: &[u8]) -> String {
    let (Ok(mut chat), Ok(request)) =
        (serde_json::from_str::<Value>(chat), serde_json::from_slice::<Value>(request))
    else {
        return chat.to_owned();
    };
    let named = &request["tool_choice"]["function"]["name"];
    let name = if named.is_string() { named } else { &request["tools"][0]["function"]["name"] };
    let call = json!({ "id": "call_1", "type": "function", "function": { "name": name, "arguments": "{}" } });
    let choice = &mut chat["choices"][0];
    choice["finish_reason"] = "tool_calls".into();
    choice["message"]["content"] = Value::Null;
    choice["message"]["tool_calls"] = json!([call]);
    chat.to_string()
}
