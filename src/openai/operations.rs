//! Which operation a request is: its name, its family, and what may be done with it.
//!
//! Segments are compared without regard to case and after percent-decoding, because the service behind us may
//! do the same: otherwise `/Fine_Tuning/jobs` would pass as an operation that we do not know.

use http::Method;

/// The families that `callers.operations` and refusals speak of, in the spelling of the settings.
pub const FAMILIES: [&str; 11] = [
    INFERENCE,
    RESPONSES,
    FILES,
    VECTOR_STORES,
    BATCHES,
    ASSISTANTS,
    REALTIME,
    MODELS,
    FINE_TUNING,
    EVALS,
    OTHER,
];

const INFERENCE: &str = "inference";
const RESPONSES: &str = "responses";
const FILES: &str = "files";
const VECTOR_STORES: &str = "vector-stores";
const BATCHES: &str = "batches";
const ASSISTANTS: &str = "assistants";
const REALTIME: &str = "realtime";
const MODELS: &str = "models";
const FINE_TUNING: &str = "fine-tuning";
const EVALS: &str = "evals";
const OTHER: &str = "other";

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its name in logs and metrics and for `OperationNotSupported`: `chat`, `images.edits`, `files`, …, `other`.
    pub name: &'static str,
    /// One of [`FAMILIES`].
    pub family: &'static str,
    /// The form of its streams and of error events in them.
    pub api: Api,
    /// What the API documents for the request body. Where a `content-type` says otherwise, that is right.
    pub body: BodyKind,
    /// Whether repeating it on another backend doubles nothing that anyone would miss or pay for twice.
    pub harmless: Harmless,
}

/// The form of streams and of error events in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `data: {"choices":[…]}`, ended by `data: [DONE]`.
    Chat,
    /// `event: response.…`, ended by `response.completed`, `response.incomplete` or `response.failed`.
    Responses,
    /// Images, audio, assistants and what we do not know: no prelude, no known end.
    Other,
}

/// What a request's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// One JSON object.
    Json,
    /// `multipart/form-data`.
    Multipart,
    /// Nothing that steers us.
    None,
}

/// Whether repeating an operation doubles nothing that anyone would miss or pay for twice (design.md 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harmless {
    /// Inference and reads.
    Always,
    /// A response: harmless, a stored one included, unless it runs in the background.
    UnlessBackground,
    /// Creates, changes or deletes something that stays.
    Never,
}

impl Harmless {
    /// The answer for one request; `background` is `BodyScan::background`.
    pub fn given(self, background: bool) -> bool {
        match self {
            Self::Always => true,
            Self::UnlessBackground => !background,
            Self::Never => false,
        }
    }
}

impl Operation {
    /// Whether it is none that we know.
    pub fn is_unknown(&self) -> bool {
        self.family == OTHER && self.name == "other"
    }

    /// Whether its body is one that names the deployment, if nothing before it does.
    pub fn is_named_in_body(&self) -> bool {
        match self.body {
            BodyKind::Json => true,
            // An upload's form names none.
            BodyKind::Multipart => self.family == INFERENCE,
            BodyKind::None => false,
        }
    }

    /// Whether a body of this type is something else than the JSON that we expect: of what we do not know, and for
    /// what WebRTC offers by SDP. All else is JSON, whatever it says of itself: `curl -d` says that it is a form.
    pub fn may_be_sent_as(&self, content_type: &str) -> bool {
        let said = content_type.split(';').next().unwrap_or_default().trim();
        (self.is_unknown() || self.family == REALTIME)
            && !said.is_empty()
            && !said.eq_ignore_ascii_case("application/x-www-form-urlencoded")
    }
}

/// The parts of a text between these characters, which are ASCII: what `str::split` gives, in a third of the time.
pub(super) fn split(text: &str, at: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = memchr::memchr(at, text.as_bytes());
        rest = end.map(|end| &text[end + 1..]);
        Some(end.map_or(text, |end| &text[..end]))
    })
}

/// The operation of a path that is given without `/openai`, `v1` and `deployments/{d}`.
pub(super) fn classify(method: &Method, rest: &str) -> Operation {
    let mut segments = split(rest, b'/').filter(|segment| !segment.is_empty());
    let [a, b, c] = [segments.next(), segments.next(), segments.next()].map(Option::unwrap_or_default);
    let reads = method == Method::GET || method == Method::HEAD || method == Method::OPTIONS;
    let posts = method == Method::POST;

    let computes =
        |row: &&(&str, &str, &'static str, Api, BodyKind)| same(a, row.0) && same(b, row.1) && c.is_empty();
    if posts && let Some((.., name, api, body)) = INFERENCES.iter().find(computes) {
        return Operation { name, family: INFERENCE, api: *api, body: *body, harmless: Harmless::Always };
    }
    if same(a, "responses") {
        return responses(reads, posts, b, c);
    }
    let named = LASTING.iter().find(|(segment, ..)| same(a, segment));
    let (_, name, family) = *named.unwrap_or(&("", "other", OTHER));
    // A repeated delete doubles nothing, but elsewhere it answers 404 and hides what went wrong.
    let harmless = if reads { Harmless::Always } else { Harmless::Never };
    let body = if posts { BodyKind::Json } else { BodyKind::None };
    let plain = Operation { name, family, api: Api::Other, body, harmless };
    if posts && name == "vector_stores" && same(c, "search") {
        return Operation { name: "vector_stores.search", harmless: Harmless::Always, ..plain };
    }
    let uploads = match name {
        "files" => b.is_empty(),
        "uploads" => same(c, "parts"),
        "containers" => same(c, "files"),
        _ => false,
    };
    if posts && uploads { Operation { body: BodyKind::Multipart, ..plain } } else { plain }
}

/// First and second segment, name, form and body of what is inference when it is posted.
const INFERENCES: [(&str, &str, &str, Api, BodyKind); 10] = [
    ("chat", "completions", "chat", Api::Chat, BodyKind::Json),
    ("embeddings", "", "embeddings", Api::Other, BodyKind::Json),
    ("completions", "", "completions", Api::Chat, BodyKind::Json),
    ("moderations", "", "moderations", Api::Other, BodyKind::Json),
    ("images", "generations", "images.generations", Api::Other, BodyKind::Json),
    ("images", "edits", "images.edits", Api::Other, BodyKind::Multipart),
    ("images", "variations", "images.variations", Api::Other, BodyKind::Multipart),
    ("audio", "speech", "audio.speech", Api::Other, BodyKind::Json),
    ("audio", "transcriptions", "audio.transcriptions", Api::Other, BodyKind::Multipart),
    ("audio", "translations", "audio.translations", Api::Other, BodyKind::Multipart),
];

/// First segment, name, family of what is told by its first segment alone.
const LASTING: [(&str, &str, &str); 17] = [
    ("chat", "chat.stored", INFERENCE),
    ("files", "files", FILES),
    ("uploads", "uploads", FILES),
    ("batches", "batches", BATCHES),
    ("vector_stores", "vector_stores", VECTOR_STORES),
    ("assistants", "assistants", ASSISTANTS),
    ("threads", "threads", ASSISTANTS),
    ("conversations", "conversations", RESPONSES),
    ("realtime", "realtime", REALTIME),
    ("models", "models", MODELS),
    ("fine_tuning", "fine_tuning", FINE_TUNING),
    ("fine-tunes", "fine_tuning", FINE_TUNING),
    ("evals", "evals", EVALS),
    ("containers", "containers", OTHER),
    ("videos", "videos", OTHER),
    ("video", "videos", OTHER),
    ("deployments", "models", MODELS),
];

fn responses(reads: bool, posts: bool, b: &str, c: &str) -> Operation {
    let form =
        |name, body, harmless| Operation { name, family: RESPONSES, api: Api::Responses, body, harmless };
    if posts && b.is_empty() {
        return form("responses", BodyKind::Json, Harmless::UnlessBackground);
    }
    if posts && same(b, "input_tokens") && c.is_empty() {
        return form("responses.input_tokens", BodyKind::Json, Harmless::Always);
    }
    if posts && same(b, "compact") && c.is_empty() {
        return form("responses.compact", BodyKind::Json, Harmless::Always);
    }
    // A read of the collection itself can only be the upgrade to a WebSocket.
    let name = if b.is_empty() { "responses" } else { "responses.stored" };
    form(name, BodyKind::None, if reads { Harmless::Always } else { Harmless::Never })
}

/// Whether a path segment, percent-decoded and in lower case, is this word.
pub(super) fn same(segment: &str, word: &str) -> bool {
    // An escape makes a segment longer than what it stands for, by two for each.
    if segment.len() < word.len() + 2 {
        return segment.eq_ignore_ascii_case(word);
    }
    let mut word = word.bytes();
    percent_encoding::percent_decode_str(segment)
        .all(|byte| word.next().is_some_and(|expected| byte.eq_ignore_ascii_case(&expected)))
        && word.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &Method, rest: &str) -> Operation {
        classify(method, rest)
    }

    #[test]
    fn the_parts_of_a_text_are_those_that_the_standard_library_gives() {
        for text in ["", "/", "a", "a/b", "/a//b/", "ä/ö/", "//"] {
            assert!(split(text, b'/').eq(text.split('/')), "{text}");
        }
    }

    #[test]
    fn every_operation_has_its_name_family_and_harmlessness() {
        use Harmless::{Always, Never, UnlessBackground};
        let table = [
            ("POST", "/chat/completions", "chat", "inference", Always),
            ("POST", "/chat/completions/", "chat", "inference", Always),
            ("GET", "/chat/completions/chatcmpl-1", "chat.stored", "inference", Always),
            ("POST", "/chat/completions/chatcmpl-1", "chat.stored", "inference", Never),
            ("DELETE", "/chat/completions/chatcmpl-1", "chat.stored", "inference", Never),
            ("POST", "/completions", "completions", "inference", Always),
            ("POST", "/embeddings", "embeddings", "inference", Always),
            ("POST", "/images/generations", "images.generations", "inference", Always),
            ("POST", "/images/edits", "images.edits", "inference", Always),
            ("POST", "/audio/speech", "audio.speech", "inference", Always),
            ("POST", "/audio/transcriptions", "audio.transcriptions", "inference", Always),
            ("POST", "/audio/translations", "audio.translations", "inference", Always),
            ("POST", "/moderations", "moderations", "inference", Always),
            ("POST", "/responses", "responses", "responses", UnlessBackground),
            ("GET", "/responses", "responses", "responses", Always),
            ("POST", "/responses/input_tokens", "responses.input_tokens", "responses", Always),
            ("POST", "/responses/compact", "responses.compact", "responses", Always),
            ("GET", "/responses/resp_1", "responses.stored", "responses", Always),
            ("GET", "/responses/resp_1/input_items", "responses.stored", "responses", Always),
            ("POST", "/responses/resp_1/cancel", "responses.stored", "responses", Never),
            ("DELETE", "/responses/resp_1", "responses.stored", "responses", Never),
            ("POST", "/conversations", "conversations", "responses", Never),
            ("POST", "/files", "files", "files", Never),
            ("GET", "/files/file-1/content", "files", "files", Always),
            ("POST", "/uploads", "uploads", "files", Never),
            ("POST", "/batches", "batches", "batches", Never),
            ("POST", "/vector_stores", "vector_stores", "vector-stores", Never),
            ("POST", "/vector_stores/vs_1/search", "vector_stores.search", "vector-stores", Always),
            ("POST", "/assistants", "assistants", "assistants", Never),
            ("POST", "/threads/thread_1/runs", "threads", "assistants", Never),
            ("GET", "/realtime", "realtime", "realtime", Always),
            ("POST", "/realtime/calls", "realtime", "realtime", Never),
            ("GET", "/models", "models", "models", Always),
            ("POST", "/fine_tuning/jobs", "fine_tuning", "fine-tuning", Never),
            ("POST", "/Fine_%54uning/jobs", "fine_tuning", "fine-tuning", Never),
            ("POST", "/evals", "evals", "evals", Never),
            ("POST", "/containers", "containers", "other", Never),
            ("POST", "/videos", "videos", "other", Never),
            ("POST", "/brand_new", "other", "other", Never),
            ("GET", "/brand_new", "other", "other", Always),
        ];
        for (method, rest, name, family, harmless) in table {
            let found = of(&method.parse().unwrap(), rest);
            assert_eq!(
                (found.name, found.family, found.harmless),
                (name, family, harmless),
                "{method} {rest}"
            );
            assert!(FAMILIES.contains(&found.family));
        }
    }

    #[test]
    fn a_background_response_is_not_repeated() {
        let create = of(&Method::POST, "/responses");
        assert!(create.harmless.given(false));
        assert!(!create.harmless.given(true));
        assert!(of(&Method::POST, "/chat/completions").harmless.given(true));
        assert!(!of(&Method::POST, "/files").harmless.given(false));
    }

    #[test]
    fn bodies_and_streams_have_the_form_of_their_operation() {
        assert_eq!(of(&Method::POST, "/audio/transcriptions").body, BodyKind::Multipart);
        assert_eq!(of(&Method::POST, "/files").body, BodyKind::Multipart);
        assert_eq!(of(&Method::POST, "/embeddings").body, BodyKind::Json);
        assert_eq!(of(&Method::DELETE, "/responses/resp_1").body, BodyKind::None);
        assert_eq!(of(&Method::POST, "/completions").api, Api::Chat);
        assert_eq!(of(&Method::GET, "/responses/resp_1").api, Api::Responses);
        assert_eq!(of(&Method::POST, "/threads/t/runs").api, Api::Other);
    }
}
