//! Objects that are stored at one resource and known nowhere else: files, vector stores, batches, assistants, threads,
//! conversations and the like. They are made, read, listed, deleted and referred to; nothing happens to them by itself.
//! Who names one that this resource does not have gets the 404 (or 400) for it.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::answer;
use super::errors;
use super::media;
use super::reply::Outcome;
use super::resource::Resource;

/// Objects that are kept; older ones are forgotten.
const STORED: usize = 8_192;

/// Path (one segment, or two), what ids begin with, what `object` says.
const COLLECTIONS: [(&str, &str, &str, &str); 11] = [
    ("files", "", "file-", "file"),
    ("uploads", "", "upload_", "upload"),
    ("batches", "", "batch_", "batch"),
    ("vector_stores", "", "vs_", "vector_store"),
    ("assistants", "", "asst_", "assistant"),
    ("threads", "", "thread_", "thread"),
    ("conversations", "", "conv_", "conversation"),
    ("containers", "", "cntr_", "container"),
    ("fine_tuning", "jobs", "ftjob-", "fine_tuning.job"),
    ("evals", "", "eval_", "eval"),
    ("videos", "", "video_", "video"),
];

/// Within an object: the segment, what ids begin with, what `object` says.
const WITHIN: [(&str, &str, &str); 6] = [
    ("messages", "msg_", "thread.message"),
    ("runs", "run_", "thread.run"),
    ("items", "msg_", "message"),
    ("parts", "part_", "upload.part"),
    ("files", "", "vector_store.file"),
    ("search", "", "vector_store.search_results.page"),
];

/// What a path asks of stored objects.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ObjectCall {
    method: Method,
    /// Position in `COLLECTIONS`.
    collection: usize,
    id: Option<String>,
    rest: Vec<String>,
}

/// One object.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    id: String,
    collection: usize,
    /// The object it is part of, and as what.
    within: Option<(String, String)>,
    body: Value,
}

/// Understands a path, given after `/openai` and `v1`.
pub(super) fn call(method: &Method, segments: &[&str]) -> Option<ObjectCall> {
    let first = segments.first()?;
    let collection = COLLECTIONS.iter().position(|(name, second, ..)| {
        name == first && (second.is_empty() || segments.get(1) == Some(second))
    })?;
    let skipped = if COLLECTIONS[collection].1.is_empty() { 1 } else { 2 };
    let mut rest = segments[skipped..].iter().map(|segment| (*segment).to_owned());
    // `threads/runs` makes both.
    let id = if segments == ["threads", "runs"] { None } else { rest.next() };
    let rest = rest.collect();
    Some(ObjectCall { method: method.clone(), collection, id, rest })
}

impl Resource {
    /// What an object call comes to.
    pub(super) fn object(&self, call: &ObjectCall, body: &Bytes, streamed: bool) -> Outcome {
        let given: Value = serde_json::from_slice(body)
            .unwrap_or_else(|_| json!({ "purpose": media::field(body, "purpose") }));
        if let Some(missing) = self.missing(&given) {
            return missing;
        }
        let (collection, rest) = (call.collection, call.rest.as_slice());
        let Some(id) = &call.id else {
            return match call.method {
                Method::POST if !rest.is_empty() => self.thread_and_run(&given, streamed),
                Method::POST => {
                    let object = COLLECTIONS[collection].3;
                    Outcome::json(
                        self.keep(collection, COLLECTIONS[collection].2, object, None, &given).to_string(),
                    )
                }
                _ => self.list(|stored| stored.collection == collection && stored.within.is_none()),
            };
        };
        let Some(found) = self.find(id).filter(|stored| stored.collection == collection) else {
            return not_there(COLLECTIONS[collection].3, id);
        };
        match (rest, &call.method) {
            ([], &Method::DELETE) => {
                self.state().objects.retain(|stored| stored.id != *id);
                let object = format!("{}.deleted", COLLECTIONS[collection].3);
                Outcome::json(json!({ "id": id, "object": object, "deleted": true }).to_string())
            }
            ([action], &Method::POST) if action == "cancel" => {
                let mut body = found.body;
                body["status"] = "cancelled".into();
                Outcome::json(body.to_string())
            }
            ([action], &Method::POST) if action == "complete" => {
                let file = self.keep(0, COLLECTIONS[0].2, "file", None, &json!({}));
                let mut body = found.body;
                body["status"] = "completed".into();
                body["file"] = file;
                Outcome::json(body.to_string())
            }
            ([content], _) if content == "content" => Outcome::json(format!("{{\"content of\":\"{id}\"}}")),
            ([], _) => Outcome::json(found.body.to_string()),
            ([part, rest @ ..], method) => self.within(call, id, (part, rest), method, (&given, streamed)),
        }
    }

    /// Something within an object: a thread's messages, a store's files.
    fn within(
        &self,
        call: &ObjectCall,
        id: &str,
        (part, rest): (&str, &[String]),
        method: &Method,
        (given, streamed): (&Value, bool),
    ) -> Outcome {
        let Some((_, prefix, object)) = WITHIN.iter().find(|(name, ..)| *name == part) else {
            return Outcome::error(StatusCode::NOT_FOUND, errors::NOT_FOUND);
        };
        let parent = Some((id.to_owned(), part.to_owned()));
        if let [inner, ..] = rest {
            let found = self.find(inner).filter(|stored| stored.within == parent);
            return found
                .map_or_else(|| not_there(object, inner), |stored| Outcome::json(stored.body.to_string()));
        }
        match (part, method) {
            ("search", &Method::POST) => {
                let hit = json!({ "file_id": "file-of-the-store", "filename": "a.txt", "score": 0.9,
                    "content": [{ "type": "text", "text": format!("from {}", self.name()) }], "attributes": {} });
                Outcome::json(
                    json!({ "object": object, "search_query": ["a"], "data": [hit], "has_more": false,
                    "next_page": null })
                    .to_string(),
                )
            }
            ("files", &Method::POST) => {
                let file = given["file_id"].clone();
                Outcome::json(
                    json!({ "id": file, "object": object, "created_at": 1, "status": "completed",
                    "usage_bytes": 1, "vector_store_id": id, "last_error": null })
                    .to_string(),
                )
            }
            (_, &Method::POST) => {
                let mut given = given.clone();
                if *object == "thread.run" {
                    given["thread_id"] = id.into();
                }
                let body = self.keep(call.collection, prefix, object, parent, &given);
                if streamed { run_events(&body) } else { Outcome::json(body.to_string()) }
            }
            _ => self.list(|stored| stored.within == parent),
        }
    }

    fn thread_and_run(&self, given: &Value, streamed: bool) -> Outcome {
        let thread = self.keep(5, "thread_", "thread", None, &json!({}));
        let id = thread["id"].as_str().unwrap_or_default().to_owned();
        let mut given = given.clone();
        given["thread_id"] = thread["id"].clone();
        let run = self.keep(5, "run_", "thread.run", Some((id, "runs".to_owned())), &given);
        if streamed { run_events(&run) } else { Outcome::json(run.to_string()) }
    }

    /// Stores a new object: what was given, an id, and what every object says of itself.
    fn keep(
        &self,
        collection: usize,
        prefix: &str,
        object: &str,
        within: Option<(String, String)>,
        given: &Value,
    ) -> Value {
        let mut state = self.state();
        let id = format!("{prefix}{:016x}", state.draw.u64(..));
        let mut members = given.as_object().cloned().unwrap_or_else(Map::new);
        members.remove("stream");
        // The id stands last, as it may.
        members.remove("id");
        for (key, value) in [
            ("object", object.into()),
            ("created_at", self.clock.unix.into()),
            ("status", if object == "file" { "processed" } else { "completed" }.into()),
            ("bytes", 1.into()),
            ("filename", "a.jsonl".into()),
            ("id", Value::from(id.clone())),
        ] {
            members.insert(key.to_owned(), value);
        }
        let body = Value::Object(members);
        if state.objects.len() == STORED {
            state.objects.pop_front();
        }
        state.objects.push_back(Stored { id, collection, within, body: body.clone() });
        body
    }

    fn find(&self, id: &str) -> Option<Stored> {
        self.state().objects.iter().find(|stored| stored.id == id).cloned()
    }

    fn list(&self, belongs: impl Fn(&Stored) -> bool) -> Outcome {
        let data: Vec<Value> = self
            .state()
            .objects
            .iter()
            .filter(|stored| belongs(stored))
            .map(|stored| stored.body.clone())
            .collect();
        let end = |object: Option<&Value>| object.map_or(Value::Null, |object| object["id"].clone());
        let (first, last) = (end(data.first()), end(data.last()));
        Outcome::json(
            json!({ "object": "list", "data": data, "first_id": first, "last_id": last, "has_more": false })
                .to_string(),
        )
    }

    /// The answer to a body that refers to an object which this resource does not have.
    pub(super) fn missing(&self, given: &Value) -> Option<Outcome> {
        let mut named = Vec::new();
        references(given, &mut named);
        let state = self.state();
        let missing = named.into_iter().find(|id| !state.objects.iter().any(|stored| stored.id == *id))?;
        let (_, _, _, object) = COLLECTIONS.iter().find(|(_, _, prefix, _)| missing.starts_with(prefix))?;
        Some(not_there(object, missing))
    }
}

/// What a body refers to, apart from responses.
fn references<'a>(given: &'a Value, named: &mut Vec<&'a str>) {
    let known = |id: &str| COLLECTIONS.iter().any(|(_, _, prefix, _)| id.starts_with(prefix));
    match given {
        Value::Object(members) => {
            for (key, value) in members.iter().filter(|(key, _)| *key != "metadata") {
                let refers = key.ends_with("_id") || key == "conversation" || key == "training_file";
                match value {
                    Value::String(id) if refers && known(id) => named.push(id),
                    Value::Array(ids) if key.ends_with("_ids") => {
                        named.extend(ids.iter().filter_map(Value::as_str).filter(|id| known(id)));
                    }
                    Value::Object(inner) if key == "conversation" => {
                        named.extend(inner.get("id").and_then(Value::as_str));
                    }
                    _ => references(value, named),
                }
            }
        }
        Value::Array(members) => members.iter().for_each(|member| references(member, named)),
        _ => {}
    }
}

fn not_there(object: &str, id: &str) -> Outcome {
    let id: String =
        id.chars().filter(|c| c.is_ascii_alphanumeric() || "_-.".contains(*c)).take(100).collect();
    let body = json!({ "error": { "message": format!("No such {object} object: {id}"), "type": "invalid_request_error",
        "param": "id", "code": null } });
    Outcome::error(StatusCode::NOT_FOUND, body.to_string())
}

/// A run as it is streamed.
fn run_events(run: &Value) -> Outcome {
    let list = ["thread.run.created", "thread.run.queued", "thread.run.completed"];
    let mut list: Vec<Bytes> =
        list.iter().map(|name| Bytes::from(format!("event: {name}\ndata: {run}\n\n"))).collect();
    list.push(answer::done());
    Outcome::Events { list, levels: None, wait: std::time::Duration::ZERO }
}
