//! State that lives on one backend: made there, found there, and never another backend's 404.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use sidestep::admin::status::ObjectsStatus;
use sidestep::simulator::{Fault, FaultRule, Simulator};

use super::fixture::backend::{EVENTS, PlayedBackend, answer, chunk};
use super::fixture::caller::post;
use super::fixture::{Answer, RESPONSES, Scene, Stage, settings};
use super::front::resources;

const KEYS: &str = "[callers]\nkeys = [{ name = \"app\", key = \"key-of-app-0123456789\" }, \
                    { name = \"other\", key = \"key-of-other-0123456789\" }]\n";
const FORM: &str = "--x\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nassistants\r\n\
    --x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\ntext\r\n--x--\r\n";

/// East is preferred; nothing makes west the first choice but state.
fn two() -> Scene {
    Scene::of([("east", 1), ("west", 2)])
}

async fn ask(stage: &Stage, method: &str, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut request = post(path, &body);
    *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
    stage.caller().send(request).await.whole().await
}

/// With the key of this caller, of `KEYS`.
async fn ask_as(stage: &Stage, key: &str, method: &str, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut request = post(path, &body);
    *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
    request.headers_mut().insert("api-key", format!("key-of-{key}-0123456789").parse().unwrap());
    stage.caller().send(request).await.whole().await
}

async fn get(stage: &Stage, path: &str) -> Answer {
    ask(stage, "GET", path, &Value::Null).await
}

/// What it made, and where.
async fn make(stage: &Stage, path: &str, body: Value) -> (String, String) {
    let answer = ask(stage, "POST", path, &body).await;
    assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text());
    (answer.json()["id"].as_str().unwrap().to_owned(), answer.region().unwrap().to_owned())
}

/// The next request fails there, and is served by the other.
fn elsewhere(stage: &Stage, failing: &str) {
    let fault = Fault::status(500);
    stage.resource(failing).fault(FaultRule::times(fault, 1));
}

/// A response that lives on west, though east is preferred.
async fn response_in_the_west(stage: &Stage) -> String {
    elsewhere(stage, "east");
    let (id, region) = make(stage, RESPONSES, json!({ "model": "gpt-4o", "input": "a" })).await;
    assert_eq!(region, "west");
    id
}

async fn upload(stage: &Stage) -> (String, String) {
    let mut request: Request<Full<Bytes>> = post("/openai/v1/files", FORM);
    request.headers_mut().insert("content-type", "multipart/form-data; boundary=x".parse().unwrap());
    let answer = stage.caller().send(request).await.whole().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    (answer.json()["id"].as_str().unwrap().to_owned(), answer.region().unwrap().to_owned())
}

fn objects(stage: &Stage) -> ObjectsStatus {
    stage.balancer.status().objects
}

fn follow_up(id: &str) -> Value {
    json!({ "model": "gpt-4o", "input": "b", "previous_response_id": id })
}

#[tokio::test]
async fn a_stored_response_is_read_continued_cancelled_and_deleted_where_it_was_made() {
    let stage = two().start();
    let id = response_in_the_west(&stage).await;
    let east = stage.seen("east");
    for (method, path) in [
        ("GET", format!("/openai/v1/responses/{id}")),
        ("GET", format!("/openai/responses/{id}?api-version=2025-04-01-preview")),
        ("GET", format!("/responses/{id}/input_items")),
        ("POST", format!("/v1/responses/{id}/cancel")),
    ] {
        let answer = ask(&stage, method, &path, &Value::Null).await;
        assert_eq!((answer.status, answer.region()), (200, Some("west")), "{method} {path}");
    }
    let (next, region) = make(&stage, RESPONSES, follow_up(&id)).await;
    assert_eq!(region, "west");
    let answer = get(&stage, &format!("/openai/v1/responses/{next}")).await;
    assert_eq!((answer.status, answer.region()), (200, Some("west")));
    let answer = ask(&stage, "DELETE", &format!("/openai/v1/responses/{id}"), &Value::Null).await;
    assert_eq!((answer.status, answer.region()), (200, Some("west")));
    assert_eq!(stage.seen("east"), east, "it was never asked");
    assert_eq!(objects(&stage).lookups_total, 0);
}

#[tokio::test]
async fn a_deleted_object_is_forgotten_and_nobody_is_asked_for_it_again() {
    let stage = two().start();
    let id = response_in_the_west(&stage).await;
    let path = format!("/openai/v1/responses/{id}");
    assert_eq!(ask(&stage, "DELETE", &path, &Value::Null).await.status, 200);
    let (east, west) = (stage.seen("east"), stage.seen("west"));
    assert_eq!((get(&stage, &path).await.status, get(&stage, &path).await.code()), (404, "not_found".into()));
    assert_eq!((stage.seen("east"), stage.seen("west")), (east, west));
    assert_eq!(objects(&stage).absent, 1);
}

#[tokio::test]
async fn while_its_owner_cools_a_request_is_told_the_owners_wait_and_no_other_backend_is_asked() {
    let stage = two().start();
    let id = response_in_the_west(&stage).await;
    stage.resource("west").fault(Fault::throttle_seconds(30));
    let east = stage.seen("east");
    for _ in 0..2 {
        let answer = ask(&stage, "POST", RESPONSES, &follow_up(&id)).await;
        assert_eq!((answer.status, answer.code().as_str()), (429, "429"), "{}", answer.text());
        let wait = answer.number("retry-after").unwrap();
        assert!((29..=32).contains(&wait), "{wait}");
        assert!(answer.number("retry-after-ms").is_some());
    }
    assert_eq!(stage.seen("east"), east);
    // Others are served meanwhile.
    let (_, region) = make(&stage, RESPONSES, json!({ "model": "gpt-4o", "input": "a" })).await;
    assert_eq!(region, "east");
}

#[tokio::test]
async fn a_streamed_response_is_known_while_it_still_streams() {
    let played = PlayedBackend::listen().await;
    let stage = two()
        .backend("east", r#"deployments = { "other" = "gpt-4o" }"#)
        .backend("west", r#"deployments = { "other" = "gpt-4o" }"#)
        .played("played", 3, played.address)
        .start();
    let serving = async {
        let (mut stream, _) = played.request().await;
        let created = r#"{"type":"response.created","response":{"id":"resp_live","status":"in_progress"}}"#;
        let delta = r#"{"type":"response.output_text.delta","item_id":"msg_1","delta":"a"}"#;
        stream.write(EVENTS).await;
        for (name, data) in [("response.created", created), ("response.output_text.delta", delta)] {
            stream.write(chunk(&format!("event: {name}\ndata: {data}\n\n"))).await;
        }
        let (mut second, request) = played.request().await;
        assert!(request.starts_with("GET /openai/v1/responses/resp_live HTTP/1.1"), "{request}");
        second.write(answer("200 OK", "", "{}")).await;
        (stream, second)
    };
    let calling = async {
        let body = r#"{"model":"gpt-4o","input":"a","stream":true}"#;
        let mut stream = stage.caller().open(RESPONSES, body).await;
        stream.until("delta").await;
        let answer = get(&stage, "/openai/v1/responses/resp_live").await;
        assert_eq!((answer.status, answer.header("x-sidestep-backend")), (200, Some("played")));
    };
    tokio::join!(serving, calling);
    assert_eq!((stage.seen("east"), stage.seen("west")), (0, 0));
}

/// East and west, simulated, and as many balancers in front as are wanted.
struct Replicas(Simulator);

impl Replicas {
    fn new() -> Self {
        Self(resources(&["east", "west"]))
    }

    fn scene(&self) -> Scene {
        let url = |name: &str| self.0.resource(name).url();
        Scene::default().elsewhere("east", 1, &url("east")).elsewhere("west", 2, &url("west"))
    }

    fn seen(&self) -> u64 {
        ["east", "west"].map(|name| self.0.resource(name).counters().requests).iter().sum()
    }

    /// A response that lives on west, made through a balancer that is gone now.
    async fn response_in_the_west(&self) -> String {
        let first = self.scene().start();
        let fault = Fault::status(500);
        self.0.resource("east").fault(FaultRule::times(fault, 1));
        let (id, region) = make(&first, RESPONSES, json!({ "model": "gpt-4o", "input": "a" })).await;
        assert_eq!(region, "west");
        id
    }
}

#[tokio::test]
async fn an_id_made_before_a_restart_is_looked_for_once_and_then_known() {
    let replicas = Replicas::new();
    let id = replicas.response_in_the_west().await;
    let stage = replicas.scene().start();
    let before = replicas.seen();
    let (_, region) = make(&stage, RESPONSES, follow_up(&id)).await;
    assert_eq!(region, "west");
    assert_eq!(replicas.seen() - before, 2, "east was asked in vain");
    for _ in 0..3 {
        let answer = get(&stage, &format!("/openai/v1/responses/{id}")).await;
        assert_eq!((answer.status, answer.region()), (200, Some("west")));
    }
    assert_eq!(replicas.seen() - before, 5);
    assert_eq!(objects(&stage).lookups_total, 1);
    for lane in &stage.backend("east").lanes {
        assert_eq!((lane.state, lane.failed_total), ("admitting", 0), "not-found changes no lane");
    }
}

#[tokio::test]
async fn guessing_ids_costs_each_backend_one_request_for_each_id() {
    let stage = two().start();
    for _ in 0..50 {
        let answer = get(&stage, "/openai/v1/responses/resp_guess").await;
        assert_eq!(answer.status, 404);
        let answer = ask(&stage, "POST", RESPONSES, &follow_up("resp_guess2")).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "previous_response_not_found"));
    }
    assert_eq!((stage.seen("east"), stage.seen("west")), (2, 2));
    let known = objects(&stage);
    assert_eq!((known.ids, known.absent, known.lookups_total), (0, 2, 2));
}

#[tokio::test]
async fn what_cannot_be_asked_may_have_it_so_nobody_is_told_that_it_is_not_there() {
    let replicas = Replicas::new();
    let id = replicas.response_in_the_west().await;
    let stage = replicas.scene().start();
    let path = format!("/openai/v1/responses/{id}");
    let west = replicas.0.resource("west");
    west.fault(FaultRule::times(Fault::throttle_seconds(1), 1));
    let answer = get(&stage, &path).await;
    assert_eq!(answer.status, 429, "{}", answer.text());
    let west_is_back = || stage.lane("west", "").state == "admitting";
    super::fixture::eventually("west", west_is_back).await;
    let fault = Fault::status(500);
    west.fault(FaultRule::times(fault, 1));
    assert_eq!(get(&stage, &path).await.status, 500);
    west.fault(FaultRule::times(Fault::CloseBeforeHead, 2));
    assert_eq!(get(&stage, &path).await.status, 502);
    west.clear();
    let answer = get(&stage, &path).await;
    assert_eq!((answer.status, answer.region()), (200, Some("west")));
}

#[tokio::test]
async fn where_it_was_found_it_is_waited_for_too() {
    let replicas = Replicas::new();
    let id = replicas.response_in_the_west().await;
    let stage = replicas.scene().start();
    assert_eq!(get(&stage, &format!("/openai/v1/responses/{id}")).await.status, 200);
    replicas.0.resource("west").fault(Fault::throttle_seconds(30));
    let east = replicas.0.resource("east").counters().requests;
    for _ in 0..2 {
        let answer = ask(&stage, "POST", RESPONSES, &follow_up(&id)).await;
        assert_eq!(answer.status, 429, "{}", answer.text());
        assert!((29..=32).contains(&answer.number("retry-after").unwrap()));
    }
    assert_eq!(replicas.0.resource("east").counters().requests, east, "another backend cannot have it");
}

#[tokio::test]
async fn a_hint_that_is_wrong_by_now_is_given_up() {
    let replicas = Replicas::new();
    let id = replicas.response_in_the_west().await;
    let stage = replicas.scene().start();
    let path = format!("/openai/v1/responses/{id}");
    assert_eq!(get(&stage, &path).await.status, 200);
    assert_eq!(objects(&stage).ids, 1);
    // Deleted past us, and again past the balancer that knows nothing of it.
    let other = replicas.scene().start();
    assert_eq!(ask(&other, "DELETE", &path, &Value::Null).await.status, 200);
    assert_eq!(get(&stage, &path).await.status, 404);
    assert_eq!((objects(&stage).ids, objects(&stage).absent), (0, 1));
}

#[tokio::test]
async fn files_vector_stores_and_the_responses_that_search_them_find_each_other_at_home() {
    let stage = two().backend("west", "home = true").start();
    let (file, region) = upload(&stage).await;
    assert_eq!(region, "west");
    let (store, region) = make(&stage, "/openai/v1/vector_stores", json!({ "file_ids": [file] })).await;
    assert_eq!(region, "west");
    for (method, path, body) in [
        ("POST", format!("/v1/vector_stores/{store}/files"), json!({ "file_id": file })),
        ("POST", format!("/vector_stores/{store}/search"), json!({ "query": "a" })),
        ("GET", format!("/openai/files/{file}/content?api-version=2024-10-21"), Value::Null),
        ("GET", "/openai/v1/files".to_owned(), Value::Null),
        ("GET", format!("/openai/v1/vector_stores/{store}"), Value::Null),
    ] {
        let answer = ask(&stage, method, &path, &body).await;
        assert_eq!(
            (answer.status, answer.region()),
            (200, Some("west")),
            "{method} {path}: {}",
            answer.text()
        );
    }
    let searching = json!({ "model": "gpt-4o", "input": "a",
        "tools": [{ "type": "file_search", "vector_store_ids": [store] }] });
    let reading = json!({ "model": "gpt-4o", "input": [{ "role": "user",
        "content": [{ "type": "input_file", "file_id": file }] }] });
    for body in [searching, reading] {
        let (_, region) = make(&stage, RESPONSES, body).await;
        assert_eq!(region, "west");
    }
    assert_eq!(stage.seen("east"), 0);
}

#[tokio::test]
async fn batches_assistants_threads_runs_and_conversations_are_at_home_the_first_backend_if_none_says_so() {
    let stage = Scene::of([("spare", 2), ("east", 1)]).start();
    let at_home = |(id, region): (String, String)| {
        assert_eq!(region, "spare");
        id
    };
    let file = at_home(upload(&stage).await);
    let batch =
        json!({ "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h" });
    let batch = at_home(make(&stage, "/openai/batches?api-version=2024-10-21", batch).await);
    at_home(make(&stage, &format!("/openai/v1/batches/{batch}/cancel"), json!({})).await);
    let assistant = at_home(make(&stage, "/openai/v1/assistants", json!({ "model": "gpt-4o" })).await);
    let thread = at_home(make(&stage, "/openai/v1/threads", json!({})).await);
    let message = json!({ "role": "user", "content": "a", "attachments": [{ "file_id": file }] });
    at_home(make(&stage, &format!("/openai/v1/threads/{thread}/messages"), message).await);
    let run = json!({ "assistant_id": assistant });
    at_home(make(&stage, &format!("/openai/v1/threads/{thread}/runs"), run).await);
    let streamed = json!({ "assistant_id": assistant, "stream": true });
    let answer = ask(&stage, "POST", "/openai/v1/threads/runs", &streamed).await;
    assert!(answer.text().contains("thread.run.created"), "{}", answer.text());
    let conversation = at_home(make(&stage, "/openai/v1/conversations", json!({})).await);
    for conversation in [json!(conversation), json!({ "id": conversation })] {
        let body = json!({ "model": "gpt-4o", "input": "a", "conversation": conversation });
        at_home(make(&stage, RESPONSES, body).await);
    }
    // A run that is not there does not make its thread forgotten.
    let path = format!("/openai/v1/threads/{thread}/runs/run_none");
    assert_eq!(get(&stage, &path).await.status, 404);
    at_home(make(&stage, &format!("/openai/v1/threads/{thread}/messages"), json!({ "content": "b" })).await);
    assert_eq!(stage.seen("east"), 0);
}

#[tokio::test]
async fn while_home_cools_what_belongs_there_waits_and_while_it_fails_says_so() {
    let stage = two().start();
    stage.resource("east").fault(FaultRule::times(Fault::throttle_seconds(20), 1));
    for _ in 0..2 {
        let answer = ask(&stage, "POST", "/openai/v1/vector_stores", &json!({})).await;
        assert_eq!(answer.status, 429, "{}", answer.text());
        assert!((19..=22).contains(&answer.number("retry-after").unwrap()));
    }
    assert_eq!(stage.seen("east"), 1);
    let stage = two().start();
    elsewhere(&stage, "east");
    assert_eq!(ask(&stage, "POST", "/openai/v1/vector_stores", &json!({})).await.status, 500);
    assert_eq!(ask(&stage, "POST", "/openai/v1/vector_stores", &json!({})).await.status, 200);
    assert_eq!(stage.seen("west"), 0);
}

#[tokio::test]
async fn what_the_home_backend_cannot_run_is_made_where_it_can_be() {
    let stage = two().backend("east", r#"deployments = { "other" = "gpt-4o" }"#).start();
    let (assistant, region) = make(&stage, "/openai/v1/assistants", json!({ "model": "gpt-4o" })).await;
    assert_eq!(region, "west");
    let answer = get(&stage, &format!("/openai/v1/assistants/{assistant}")).await;
    assert_eq!((answer.status, answer.region()), (200, Some("west")));
    let (thread, region) = make(&stage, "/openai/v1/threads", json!({})).await;
    assert_eq!(region, "east");
    // They do not find each other, which is said at once, and neither is taken for gone.
    let runs = format!("/openai/v1/threads/{thread}/runs");
    let seen = stage.seen("east") + stage.seen("west");
    let answer = ask(&stage, "POST", &runs, &json!({ "assistant_id": assistant })).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "objects_apart"));
    assert_eq!(stage.seen("east") + stage.seen("west"), seen);
    assert_eq!(get(&stage, &format!("/openai/v1/assistants/{assistant}")).await.status, 200);
}

#[tokio::test]
async fn a_response_cannot_be_continued_by_a_deployment_that_its_backend_does_not_have_and_that_is_said() {
    let stage = two().backend("west", r#"deployments = { "gpt-4o" = "gpt-4o" }"#).start();
    let id = response_in_the_west(&stage).await;
    let follow = |model: &str| json!({ "model": model, "input": "b", "previous_response_id": id });
    let answer = ask(&stage, "POST", RESPONSES, &follow("text-embedding-3-small")).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "objects_apart"));
    let (_, region) = make(&stage, RESPONSES, follow("gpt-4o")).await;
    assert_eq!(region, "west");
}

#[tokio::test]
async fn a_page_of_a_list_is_read_where_what_it_begins_after_lives() {
    let stage = two().start();
    stage.resource("east").fault(FaultRule::times(Fault::throttle_seconds(1), 1));
    let (video, region) = make(&stage, "/v1/videos", json!({ "model": "sora", "prompt": "a" })).await;
    assert_eq!(region, "west");
    assert_eq!(get(&stage, "/v1/videos").await.region(), Some("east"));
    assert_eq!(get(&stage, &format!("/v1/videos?limit=1&after={video}")).await.region(), Some("west"));
}

#[tokio::test]
async fn a_call_and_a_template_of_a_prompt_are_looked_for_like_any_object() {
    let stage = two().start();
    let answer = ask(&stage, "POST", "/v1/realtime/calls/rtc_1/hangup", &Value::Null).await;
    assert_eq!(answer.status, 404);
    assert_eq!((stage.seen("east"), stage.seen("west")), (1, 1));
    let body = json!({ "model": "gpt-4o", "prompt": { "id": "pmpt_1" } });
    assert_eq!(ask(&stage, "POST", RESPONSES, &body).await.status, 200);
    assert_eq!(objects(&stage).lookups_total, 2);
}

#[tokio::test]
async fn a_creation_whose_home_a_reload_takes_away_goes_to_the_new_home() {
    // North would be drawn almost always.
    let scene = Scene::of([("west", 1), ("north", 1)]).backend("north", "weight = 1000");
    let east = PlayedBackend::listen().await;
    let stage = scene.played("east", 1, east.address).backend("east", "home = true").start();
    let after = stage.text.split("[[backends]]\nname = \"east\"").next().unwrap().to_owned();
    let serving = async {
        let (mut wire, _) = east.request().await;
        stage.balancer.reload(settings(&after)).unwrap();
        wire.write(answer("401 Unauthorized", "connection: close\r\n", "{}")).await;
    };
    let ((), (_, region)) = tokio::join!(serving, make(&stage, "/openai/v1/threads", json!({})));
    assert_eq!(region, "west");
}

#[tokio::test]
async fn another_callers_object_is_no_object() {
    let stage = two().toml(KEYS).start();
    let send = |key: &'static str, method: &'static str, path: String, body: Value| {
        let stage = &stage;
        async move { ask_as(stage, key, method, &path, &body).await }
    };
    let body = json!({ "model": "gpt-4o", "input": "a" });
    let id = send("app", "POST", RESPONSES.into(), body).await.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/openai/v1/responses/{id}");
    assert_eq!(send("app", "GET", path.clone(), Value::Null).await.status, 200);
    let seen = stage.seen("east") + stage.seen("west");
    let answer = send("other", "GET", path.clone(), Value::Null).await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"));
    let answer = send("other", "POST", RESPONSES.into(), follow_up(&id)).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "previous_response_not_found"));
    let escaped = format!(r#"{{"model":"gpt-4o","input":"b","previous_response\u005fid":"{id}"}}"#);
    let mut request = post(RESPONSES, &escaped);
    request.headers_mut().insert("api-key", "key-of-other-0123456789".parse().unwrap());
    assert_eq!(stage.caller().send(request).await.whole().await.status, 400);
    assert_eq!(send("other", "DELETE", path.clone(), Value::Null).await.status, 404);
    assert_eq!(stage.seen("east") + stage.seen("west"), seen, "no backend was asked");
    assert_eq!(send("app", "GET", path, Value::Null).await.status, 200);
}

#[tokio::test]
async fn what_is_made_besides_is_its_makers_too() {
    let stage = two().toml(KEYS).start();
    let made = async |path: &str, body: Value| ask_as(&stage, "app", "POST", path, &body).await.json();
    let assistant = made("/openai/v1/assistants", json!({ "model": "gpt-4o" })).await;
    let run = made("/openai/v1/threads/runs", json!({ "assistant_id": assistant["id"] })).await;
    let upload = made("/openai/v1/uploads", json!({})).await;
    let complete = format!("/openai/v1/uploads/{}/complete", upload["id"].as_str().unwrap());
    let completed = made(&complete, json!({ "part_ids": [] })).await;
    let seen = stage.seen("east") + stage.seen("west");
    for (collection, id) in [("threads", &run["thread_id"]), ("files", &completed["file"]["id"])] {
        let path = format!("/openai/v1/{collection}/{}", id.as_str().unwrap());
        assert_eq!(ask_as(&stage, "other", "GET", &path, &Value::Null).await.status, 404, "{path}");
        assert_eq!(stage.seen("east") + stage.seen("west"), seen, "{path}: no backend was asked");
    }
    let path = format!("/openai/v1/threads/{}", run["thread_id"].as_str().unwrap());
    assert_eq!(ask_as(&stage, "app", "GET", &path, &Value::Null).await.status, 200);
}

#[tokio::test]
async fn the_files_that_a_batch_wrote_are_its_makers() {
    let played = PlayedBackend::listen().await;
    let stage = Scene::default().played("played", 1, played.address).toml(KEYS).start();
    let batch = r#"{"id":"batch_1","input_file_id":"file-in","output_file_id":"file-out","error_file_id":"file-err"}"#;
    let serving = async {
        for (expected, body) in [
            ("POST /openai/v1/batches ", r#"{"id":"batch_1","input_file_id":"file-in"}"#),
            ("GET /openai/v1/batches/batch_1 ", batch),
            ("GET /openai/v1/files/file-in ", "{}"),
            ("GET /openai/v1/files/file-out ", "{}"),
        ] {
            let (mut wire, request) = played.request().await;
            assert!(request.starts_with(expected), "{expected} {request}");
            wire.write(answer("200 OK", "connection: close\r\n", body)).await;
        }
    };
    let calling = async {
        for (key, path, status) in [
            ("app", "batches/batch_1", 200),
            ("other", "files/file-out", 404),
            ("other", "files/file-err", 404),
            ("other", "files/file-in", 200),
            ("app", "files/file-out", 200),
        ] {
            let told = ask_as(&stage, key, "GET", &format!("/openai/v1/{path}"), &Value::Null).await;
            assert_eq!(told.status, status, "{key} {path}");
        }
    };
    let making = json!({ "input_file_id": "file-in" });
    let calling = async {
        assert_eq!(ask_as(&stage, "app", "POST", "/openai/v1/batches", &making).await.status, 200);
        calling.await;
    };
    tokio::join!(serving, calling);
}

#[tokio::test]
async fn a_response_that_its_owner_cannot_read_yet_is_asked_for_again() {
    let played = PlayedBackend::listen().await;
    let stage = Scene::default().played("played", 1, played.address).start();
    let missing = r#"{"error":{"message":"Response with id 'resp_1' not found.","code":null}}"#;
    let previous = r#"{"error":{"message":"Previous response with id 'resp_1' not found.","code":"previous_response_not_found"}}"#;
    let path = "/openai/v1/responses/resp_1";
    let serving = async {
        for (status, body) in [
            ("200 OK", r#"{"id":"resp_1"}"#),
            ("404 Not Found", missing),
            ("400 Bad Request", previous),
            ("200 OK", r#"{"id":"resp_1"}"#),
            ("200 OK", r#"{"id":"resp_2"}"#),
        ] {
            let (mut wire, _) = played.request().await;
            wire.write(answer(status, "connection: close\r\n", body)).await;
        }
    };
    let calling = async {
        let body = json!({ "model": "gpt-4o", "input": "a" });
        assert_eq!(ask(&stage, "POST", RESPONSES, &body).await.status, 200);
        assert_eq!(get(&stage, path).await.text(), missing);
        assert_eq!(ask(&stage, "POST", RESPONSES, &follow_up("resp_1")).await.text(), previous);
        assert_eq!(get(&stage, path).await.status, 200);
        assert_eq!(ask(&stage, "POST", RESPONSES, &follow_up("resp_1")).await.status, 200);
    };
    tokio::join!(serving, calling);
    assert_eq!(objects(&stage).absent, 0);
}

#[tokio::test]
async fn what_backends_that_were_not_asked_may_have_is_not_taken_for_nowhere() {
    // West does not serve that deployment.
    let replicas = Replicas::new();
    let id = replicas.response_in_the_west().await;
    let path = format!("/openai/v1/responses/{id}");
    let scene = replicas.scene().backend("west", r#"deployments = { "other" = "gpt-4o" }"#);
    let stage = scene.start();
    assert_eq!(ask(&stage, "POST", RESPONSES, &follow_up(&id)).await.status, 400);
    assert_eq!(get(&stage, &path).await.region(), Some("west"));
    // West is beyond what this caller may use.
    let keys = KEYS.replace("key-of-app-0123456789\"", "key-of-app-0123456789\", lowest_priority = 1");
    let stage = replicas.scene().toml(&keys).start();
    assert_eq!(ask_as(&stage, "app", "GET", &path, &Value::Null).await.status, 404);
    assert_eq!(ask_as(&stage, "other", "GET", &path, &Value::Null).await.region(), Some("west"));
}

#[tokio::test]
async fn so_many_ids_are_remembered_and_no_more() {
    let stage = two().toml("[limits]\nids = 10").start();
    for _ in 0..40 {
        make(&stage, RESPONSES, json!({ "model": "gpt-4o", "input": "a" })).await;
    }
    assert!((5..=10).contains(&objects(&stage).ids), "{}", objects(&stage).ids);
}

#[tokio::test]
async fn what_stores_nothing_is_not_remembered() {
    let stage = two().start();
    let body = json!({ "model": "gpt-4o", "input": "a", "store": false });
    assert_eq!(ask(&stage, "POST", RESPONSES, &body).await.status, 200);
    assert_eq!(stage.chat().await.status, 200);
    let body = json!({ "model": "text-embedding-3-small", "input": "a" });
    assert_eq!(ask(&stage, "POST", "/v1/embeddings", &body).await.status, 200);
    assert_eq!(objects(&stage).ids, 0);
}

#[tokio::test]
async fn a_reload_forgets_what_is_on_backends_that_are_gone() {
    let stage = two().start();
    let id = response_in_the_west(&stage).await;
    let known = objects(&stage).ids;
    assert!(known > 0);
    stage.balancer.reload(settings(&stage.text.replace("priority = 1", "priority = 3"))).unwrap();
    assert_eq!(objects(&stage).ids, known);
    let answer = get(&stage, &format!("/openai/v1/responses/{id}")).await;
    assert_eq!((answer.status, answer.region()), (200, Some("west")));
    let west = stage.text.find("[[backends]]\nname = \"west\"").unwrap();
    stage.balancer.reload(settings(&stage.text[..west])).unwrap();
    assert_eq!(objects(&stage).ids, 0);
    assert_eq!(get(&stage, &format!("/openai/v1/responses/{id}")).await.status, 404);
}

#[tokio::test]
async fn reasoning_that_only_one_backend_can_read_is_offered_to_each_in_turn() {
    let stage = two().start();
    let body = json!({ "model": "gpt-4o", "store": false, "input": [
        { "type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA-west" },
        { "role": "user", "content": "go on" }] });
    let (_, region) = make(&stage, RESPONSES, body).await;
    assert_eq!(region, "west");
    assert_eq!(objects(&stage).lookups_total, 0);
}

#[tokio::test]
async fn models_are_the_deployments_that_can_be_asked_for_where_the_settings_name_some() {
    let stage = two().backend("east", r#"deployments = { "chat" = "gpt-4o", "gpt-4o" = "gpt-4o" }"#).start();
    let listed = |answer: Answer| -> Vec<String> {
        let id = |model: &Value| model["id"].as_str().unwrap().to_owned();
        answer.json()["data"].as_array().unwrap().iter().map(id).collect()
    };
    for path in ["/openai/v1/models", "/models", "/v1/models", "/openai/models?api-version=2024-10-21"] {
        assert_eq!(listed(get(&stage, path).await), ["chat", "gpt-4o"], "{path}");
    }
    assert_eq!(get(&stage, "/v1/models/chat").await.json()["object"], "model");
    assert_eq!((stage.seen("east"), stage.seen("west")), (0, 0));
    let embeddings = json!({ "model": "text-embedding-3-small", "input": "a" });
    assert_eq!(ask(&stage, "POST", "/v1/embeddings", &embeddings).await.status, 200);
    assert_eq!(listed(get(&stage, "/v1/models").await), ["chat", "gpt-4o", "text-embedding-3-small"]);
    assert!(stage.log().contains("\"operation\":\"models\""));
    // Where nothing is named, a backend's own list passes.
    let stage = two().start();
    assert_eq!(get(&stage, "/v1/models").await.region(), Some("east"));
}
