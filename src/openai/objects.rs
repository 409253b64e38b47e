//! Objects that live on one backend: which one a path names, which operations make or list some.

use http::{Method, StatusCode};
use memchr::memmem;
use percent_encoding::percent_decode_str;

use super::ids::is_plain;
use super::operations::{Harmless, Operation, same, split};

/// What a path says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathObject {
    /// Its id.
    pub id: String,
    /// Nothing follows the id: a DELETE deletes this object, not something within it.
    pub last: bool,
}

/// First segment of the path, and the place of the id after it. What stands there may instead be a word.
const COLLECTIONS: [(&str, usize); 15] = [
    ("responses", 1),
    ("files", 1),
    ("uploads", 1),
    ("batches", 1),
    ("vector_stores", 1),
    ("assistants", 1),
    ("threads", 1),
    ("conversations", 1),
    ("evals", 1),
    ("containers", 1),
    ("videos", 1),
    ("fine-tunes", 1),
    ("fine_tuning", 2),
    ("chat", 2),
    ("realtime", 2),
];

/// In the place of an id, but none.
const WORDS: [&str; 10] = [
    "input_tokens",
    "compact",
    "runs",
    "jobs",
    "checkpoints",
    "graders",
    "client_secrets",
    "characters",
    "edits",
    "extensions",
];

/// The object that a path names, given after `/openai`, `v1` and `deployments/{d}`.
pub fn named_in_path(rest: &str) -> Option<PathObject> {
    let mut segments = split(rest, b'/').filter(|segment| !segment.is_empty());
    let first = segments.next()?;
    let segment = if same(first, "video") {
        // `video/generations/jobs/{id}`, `video/generations/{id}/content/video`
        let third = segments.nth(1)?;
        if same(third, "jobs") { segments.next()? } else { third }
    } else {
        let (_, at) = COLLECTIONS.iter().find(|(collection, _)| same(first, collection))?;
        segments.nth(at - 1)?
    };
    let id = percent_decode_str(segment).decode_utf8().ok()?;
    let names = is_plain(&id) && !WORDS.iter().any(|word| id.eq_ignore_ascii_case(word));
    names.then(|| PathObject { id: id.into_owned(), last: segments.next().is_none() })
}

impl Operation {
    /// Objects of this kind refer to each other, so that they must find each other: all of them live on one home
    /// backend, and are listed there. Others are made wherever there is room; of them, the home's are listed.
    pub fn is_at_home(&self) -> bool {
        if self.name == "videos" {
            return self.harmless == Harmless::Always;
        }
        matches!(
            self.name,
            "files"
                | "uploads"
                | "batches"
                | "vector_stores"
                | "vector_stores.search"
                | "assistants"
                | "threads"
                | "conversations"
                | "fine_tuning"
                | "evals"
                | "containers"
                | "chat.stored"
        )
    }

    /// Whether the answer tells ids of objects: it made some, or lists them. `store` is the body's, where it has one.
    pub fn tells_ids(&self, method: &Method, store: Option<bool>) -> bool {
        let posts = method == Method::POST;
        match self.name {
            "responses" => posts && store != Some(false),
            "chat" => posts && store == Some(true),
            "videos" | "chat.stored" => true,
            _ => self.is_at_home() && (posts || method == Method::GET),
        }
    }
}

/// Whether an answer to a request that names `ids` says that one of them is not there: a 404, or a 400 with words to
/// that effect (which of the two is not documented for all of them).
pub fn says_not_found(status: StatusCode, body: &[u8], ids: &[String]) -> bool {
    if status == StatusCode::NOT_FOUND {
        return memmem::find(body, b"DeploymentNotFound").is_none();
    }
    if status != StatusCode::BAD_REQUEST {
        return false;
    }
    if memmem::find(body, b"previous_response_not_found").is_some() {
        return true;
    }
    const WORDS: [&[u8]; 6] =
        [b"not found", b"No such", b"not exist", b"NotFound", b"not_found", b"could not find"];
    WORDS.iter().any(|word| memmem::find(body, word).is_some())
        && ids.iter().any(|id| memmem::find(body, id.as_bytes()).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::route;

    #[test]
    fn a_path_names_the_object_after_its_collection() {
        for (path, id, last) in [
            ("/openai/v1/responses/resp_1", "resp_1", true),
            ("/openai/responses/resp_1/cancel", "resp_1", false),
            ("/responses/resp_1/input_items", "resp_1", false),
            ("/openai/v1/files/assistant-1/content", "assistant-1", false),
            ("/openai/files/any.thing", "any.thing", true),
            ("/openai/v1/vector_stores/vs_1/files/file-1", "vs_1", false),
            ("/openai/threads/thread_1/runs/run_1/steps/step_1", "thread_1", false),
            ("/openai/v1/fine_tuning/jobs/ftjob-1/events", "ftjob-1", false),
            ("/openai/v1/Fine%5Ftuning/Jobs/ftjob-1", "ftjob-1", true),
            ("/v1/chat/completions/chatcmpl-1", "chatcmpl-1", true),
            ("/openai/v1/video/generations/jobs/task_1", "task_1", true),
            ("/openai/v1/video/generations/gen_1/content/video", "gen_1", false),
            ("/openai/v1/videos/video_1/content", "video_1", false),
            ("/openai/v1/evals/eval_1/runs/evalrun_1", "eval_1", false),
            ("/openai/v1/conversations/conv_1/items", "conv_1", false),
            ("/openai/deployments/d/batches/batch_1", "batch_1", true),
            ("/openai/v1/files/file%2D1", "file-1", true),
            ("/openai/v1/realtime/calls/rtc_1/hangup", "rtc_1", false),
        ] {
            let route = route(&Method::GET, path, None).unwrap();
            let expected = PathObject { id: id.into(), last };
            assert_eq!(named_in_path(route.rest()), Some(expected), "{path}");
        }
    }

    #[test]
    fn collections_and_actions_name_none() {
        for path in [
            "/openai/v1/responses",
            "/openai/v1/responses/compact",
            "/openai/v1/responses/input_tokens",
            "/openai/v1/threads/runs",
            "/openai/v1/fine_tuning/jobs",
            "/openai/v1/chat/completions",
            "/openai/v1/models/gpt-4o",
            "/openai/v1/video/generations/jobs",
            "/openai/v1/files/a%20b",
            "/openai/v1/nothing/resp_1",
            "/openai/v1/realtime/calls",
            "/openai/v1/realtime/client_secrets",
            "/openai/v1/realtime/translations/client_secrets",
            "/openai/v1/videos/edits",
            "/openai/v1/fine_tuning/alpha/graders/run",
        ] {
            let route = route(&Method::POST, path, None).unwrap();
            assert_eq!(named_in_path(route.rest()), None, "{path}");
        }
    }

    #[test]
    fn only_what_makes_or_lists_objects_tells_ids() {
        let tells = |method: &Method, path: &str, store| {
            route(method, path, None).unwrap().operation.tells_ids(method, store)
        };
        for path in [
            "/responses",
            "/files",
            "/batches",
            "/vector_stores/vs_1/files",
            "/threads/runs",
            "/conversations",
        ] {
            assert!(tells(&Method::POST, path, None), "{path}");
        }
        assert!(tells(&Method::GET, "/files", None));
        assert!(tells(&Method::POST, "/chat/completions", Some(true)));
        for (path, store) in [
            ("/chat/completions", None),
            ("/responses", Some(false)),
            ("/embeddings", None),
            ("/audio/speech", None),
        ] {
            assert!(!tells(&Method::POST, path, store), "{path}");
        }
    }

    #[test]
    fn not_found_is_told_from_other_errors() {
        let ids = ["vs_1".to_owned()];
        let says = |status: u16, body: &str| {
            says_not_found(StatusCode::from_u16(status).unwrap(), body.as_bytes(), &ids)
        };
        assert!(says(404, ""));
        assert!(says(404, "{\"error\":{\"code\":\"404\",\"message\":\"Resource not found\"}}"));
        assert!(says(400, "{\"error\":{\"message\":\"No such vector store: vs_1\"}}"));
        assert!(says(400, "{\"error\":{\"message\":\"Vector store with id [vs_1] not found.\"}}"));
        assert!(says(400, "{\"error\":{\"code\":\"previous_response_not_found\"}}"));
        assert!(!says(404, "{\"error\":{\"code\":\"DeploymentNotFound\"}}"));
        assert!(!says(400, "{\"error\":{\"message\":\"vs_1 is not a thread\"}}"));
        assert!(!says(400, "{\"error\":{\"message\":\"tool vs_2 not found\"}}"));
        assert!(!says(500, "vs_1 not found"));
    }
}
