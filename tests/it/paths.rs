//! Every request line that a client is known to send, and what of it reaches each of two backends that call the
//! deployment by names of their own (azure-openai.md 2.1 and 1).

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use sidestep::simulator::{Fault, RecordedRequest};

use super::fixture::caller::post;
use super::fixture::{PATIENCE, Scene, Stage, key_of};
use super::process::Running;

const JSON: &str = "application/json";
const FORM: &str = "multipart/form-data; boundary=x";

/// A client's request, and what a backend gets. In `there` and `body_there`, `{d}` stands for the deployment's name
/// on that backend; `=` is the same as was sent.
struct Row {
    client: String,
    method: String,
    sent: String,
    form: &'static str,
    body: String,
    there: String,
    body_there: String,
}

fn form(model: Option<&str>) -> String {
    let part = |name: &str, value: &str| {
        format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let model = model.map(|model| part("model", model)).unwrap_or_default();
    format!("{}{model}{}--x--\r\n", part("prompt", "gpt-4o"), part("file", "\u{1}gpt-4o\u{2}"))
}

/// What goes to whichever backend has room: client | line | body | line there | body there. `-` is nothing, `FORM` a form
/// that names the deployment, `BARE FORM` one that does not.
const COMPUTING: &str = r#"
    AzureOpenAI py, js | /openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21 | {"model":"gpt-4o","messages":[{"role":"user","content":"\"model\":\"gpt-4o\""}]} | /openai/deployments/{d}/chat/completions?api-version=2024-10-21 | =
    AzureOpenAI py, js | /openai/deployments/gpt-4o/embeddings?api-version=2024-10-21 | {"model":"gpt-4o","messages":[{"role":"user","content":"\"model\":\"gpt-4o\""}]} | /openai/deployments/{d}/embeddings?api-version=2024-10-21 | =
    AzureOpenAI py, js | /openai/deployments/gpt-4o/completions?api-version=2024-10-21 | {"model":"gpt-4o","messages":[{"role":"user","content":"\"model\":\"gpt-4o\""}]} | /openai/deployments/{d}/completions?api-version=2024-10-21 | =
    AzureOpenAI py, js | /openai/deployments/gpt-4o/images/generations?api-version=2024-10-21 | {"model":"gpt-4o","messages":[{"role":"user","content":"\"model\":\"gpt-4o\""}]} | /openai/deployments/{d}/images/generations?api-version=2024-10-21 | =
    AzureOpenAI py, js | /openai/deployments/gpt-4o/audio/speech?api-version=2024-10-21 | {"model":"gpt-4o","messages":[{"role":"user","content":"\"model\":\"gpt-4o\""}]} | /openai/deployments/{d}/audio/speech?api-version=2024-10-21 | =
    AzureOpenAI py, js | /openai/deployments/gpt-4o/images/edits?api-version=2024-10-21 | FORM | /openai/deployments/{d}/images/edits?api-version=2024-10-21 | =
    AzureOpenAI, no model part | /openai/deployments/gpt-4o/images/edits?api-version=2024-10-21 | BARE FORM | /openai/deployments/{d}/images/edits?api-version=2024-10-21 | =
    OpenAI(base_url=H/openai/v1/) | /openai/v1/images/edits | FORM | = | FORM
    OpenAI(base_url=H) | /images/edits | FORM | /openai/v1/images/edits | FORM
    AzureOpenAI py, js | /openai/deployments/gpt-4o/audio/transcriptions?api-version=2024-10-21 | FORM | /openai/deployments/{d}/audio/transcriptions?api-version=2024-10-21 | =
    AzureOpenAI, no model part | /openai/deployments/gpt-4o/audio/transcriptions?api-version=2024-10-21 | BARE FORM | /openai/deployments/{d}/audio/transcriptions?api-version=2024-10-21 | =
    OpenAI(base_url=H/openai/v1/) | /openai/v1/audio/transcriptions | FORM | = | FORM
    OpenAI(base_url=H) | /audio/transcriptions | FORM | /openai/v1/audio/transcriptions | FORM
    AzureOpenAI py, js | /openai/deployments/gpt-4o/audio/translations?api-version=2024-10-21 | FORM | /openai/deployments/{d}/audio/translations?api-version=2024-10-21 | =
    AzureOpenAI, no model part | /openai/deployments/gpt-4o/audio/translations?api-version=2024-10-21 | BARE FORM | /openai/deployments/{d}/audio/translations?api-version=2024-10-21 | =
    OpenAI(base_url=H/openai/v1/) | /openai/v1/audio/translations | FORM | = | FORM
    OpenAI(base_url=H) | /audio/translations | FORM | /openai/v1/audio/translations | FORM
    AzureOpenAI(azure_deployment) | /openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21 | {"model":"ignored","messages":[]} | /openai/deployments/{d}/chat/completions?api-version=2024-10-21 | =
    AzureOpenAI(azure_deployment) | /openai/deployments/gpt-4o/embeddings?api-version=2024-10-21 | {"model":"emb","input":"a"} | /openai/deployments/{d}/embeddings?api-version=2024-10-21 | =
    AzureOpenAI(base_url=H/openai/deployments/D) | /openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21 | {"model":"gpt-4o","messages":[{"role":"user","content":"\"model\":\"gpt-4o\""}]} | /openai/deployments/{d}/chat/completions?api-version=2024-10-21 | =
    LangChain AzureChatOpenAI | /openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21 | {"model":null,"messages":[]} | /openai/deployments/{d}/chat/completions?api-version=2024-10-21 | =
    LangChain AzureOpenAIEmbeddings | /openai/deployments/gpt-4o/embeddings?api-version=2024-10-21 | {"model":"text-embedding-ada-002","input":[[1]]} | /openai/deployments/{d}/embeddings?api-version=2024-10-21 | =
    semantic-kernel, .NET | /openai/deployments/gpt-4o/chat/completions?api-version=2025-08-28 | {"messages":[]} | /openai/deployments/{d}/chat/completions?api-version=2025-08-28 | =
    azure-sdk-for-java, py 1.12, js 4.104 | //openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21 | {"model":"gpt-4o","messages":[{"role":"user","content":"\"model\":\"gpt-4o\""}]} | /openai/deployments/{d}/chat/completions?api-version=2024-10-21 | =
    azure-search-openai-javascript | /openai/deployments/gpt-4o/chat/completions?api-version=2024-02-01 | {"model":"gpt-4o","messages":[{"role":"user","content":"\"model\":\"gpt-4o\""}]} | /openai/deployments/{d}/chat/completions?api-version=2024-02-01 | =
    AzureOpenAI responses | /openai/responses?api-version=2025-04-01-preview | {"input":"a","model":"gpt-4o","store":false} | = | {"input":"a","model":"{d}","store":false}
    AzureOpenAI(base_url=H/openai/v1/) chat | /openai/v1/deployments/gpt-4o/chat/completions?api-version=preview | {"model":"gpt-4o","messages":[{"role":"user","content":"\"model\":\"gpt-4o\""}]} | /openai/v1/deployments/{d}/chat/completions?api-version=preview | =
    AzureOpenAI(base_url=H/openai/v1/) responses | /openai/v1/responses?api-version=preview | {"input":"a","model":"gpt-4o","store":false} | = | {"input":"a","model":"{d}","store":false}
    OpenAI(base_url=H/openai/v1/) | /openai/v1/chat/completions | {"model":"gpt-4o","messages":[{"role":"user","content":"\"model\":\"gpt-4o\""}]} | = | {"model":"{d}","messages":[{"role":"user","content":"\"model\":\"gpt-4o\""}]}
    OpenAI(base_url=H/openai/v1/) | /openai/v1/responses | {"input":"a","model":"gpt-4o","store":false} | = | {"input":"a","model":"{d}","store":false}
    OpenAI(base_url=H/openai/v1/) | /openai/v1/embeddings | {"input":["a"],"model":"gpt-4o"} | = | {"input":["a"],"model":"{d}"}
    OpenAI(base_url=H//openai/v1) | //openai/v1/responses | {"input":"a","model":"gpt-4o","store":false} | /openai/v1/responses | {"input":"a","model":"{d}","store":false}
    new chat app, OpenAI(base_url=H) | /responses | {"input":"a","model":"gpt-4o","store":false} | /openai/v1/responses | {"input":"a","model":"{d}","store":false}
    new chat app, OpenAI(base_url=H) | /embeddings | {"input":["a"],"model":"gpt-4o"} | /openai/v1/embeddings | {"input":["a"],"model":"{d}"}
    chat app of 2025, OpenAI(base_url=H) | /chat/completions | {"model":"gpt-4o","messages":[{"role":"user","content":"\"model\":\"gpt-4o\""}]} | /openai/v1/chat/completions | {"model":"{d}","messages":[{"role":"user","content":"\"model\":\"gpt-4o\""}]}
    OpenAI(base_url=H/v1) | /v1/chat/completions | {"model":"gpt-4o","messages":[{"role":"user","content":"\"model\":\"gpt-4o\""}]} | /openai/v1/chat/completions | {"model":"{d}","messages":[{"role":"user","content":"\"model\":\"gpt-4o\""}]}
    OpenAI(base_url=H/v1/) | //v1//responses | {"input":"a","model":"gpt-4o","store":false} | /openai/v1/responses | {"input":"a","model":"{d}","store":false}
    OpenAI(base_url=H) | /completions | {"prompt":"a","model":"gpt-4o"} | /openai/v1/completions | {"prompt":"a","model":"{d}"}
    OpenAI(base_url=H) | /moderations | {"input":["a"],"model":"gpt-4o"} | /openai/v1/moderations | {"input":["a"],"model":"{d}"}
    OpenAI(base_url=H) | /images/generations | {"prompt":"a","model":"gpt-4o"} | /openai/v1/images/generations | {"prompt":"a","model":"{d}"}
    OpenAI(base_url=H) | /audio/speech | {"model" : "gpt-4o","input":"a"} | /openai/v1/audio/speech | {"model" : "{d}","input":"a"}
    OpenAI(base_url=H) | /responses/compact | {"input":"a","model":"gpt-4o","store":false} | /openai/v1/responses/compact | {"input":"a","model":"{d}","store":false}
    OpenAI(base_url=H) | /responses/input_tokens | {"input":"a","model":"gpt-4o","store":false} | /openai/v1/responses/input_tokens | {"input":"a","model":"{d}","store":false}
    Foundry inference | /models/chat/completions?api-version=2024-05-01-preview | {"model":"gpt-4o","messages":[{"role":"user","content":"\"model\":\"gpt-4o\""}]} | = | {"model":"{d}","messages":[{"role":"user","content":"\"model\":\"gpt-4o\""}]}
    a name in the query alone | GET /openai/v1/unknown?deployment=gpt-4o&a=b | - | /openai/v1/unknown?deployment={d}&a=b | =
    a name with escapes | /v1/chat/completions | {"m\u006fdel":"gpt\u002d4o","messages":[]} | /openai/v1/chat/completions | {"m\u006fdel":"{d}","messages":[]}
"#;

/// What belongs to one backend, and goes to the home.
const STORING: &str = r#"
    AzureOpenAI | GET /openai/files?api-version=2024-10-21 | - | = | =
    OpenAI(base_url=H/openai/v1/) | GET /openai/v1/files | - | = | =
    OpenAI(base_url=H) | GET /files | - | /openai/v1/files | =
    AzureOpenAI | GET /openai/batches?api-version=2024-10-21 | - | = | =
    OpenAI(base_url=H/openai/v1/) | GET /openai/v1/batches | - | = | =
    OpenAI(base_url=H) | GET /batches | - | /openai/v1/batches | =
    AzureOpenAI | POST /openai/batches?api-version=2024-10-21 | {"model":null} | = | =
    OpenAI(base_url=H/openai/v1/) | POST /openai/v1/batches | {"model":null} | = | =
    OpenAI(base_url=H) | POST /batches | {"model":null} | /openai/v1/batches | =
    AzureOpenAI | POST /openai/threads?api-version=2024-10-21 | {"model":null} | = | =
    OpenAI(base_url=H/openai/v1/) | POST /openai/v1/threads | {"model":null} | = | =
    OpenAI(base_url=H) | POST /threads | {"model":null} | /openai/v1/threads | =
    AzureOpenAI | POST /openai/threads/runs?api-version=2024-10-21 | {"model":null} | = | =
    OpenAI(base_url=H/openai/v1/) | POST /openai/v1/threads/runs | {"model":null} | = | =
    OpenAI(base_url=H) | POST /threads/runs | {"model":null} | /openai/v1/threads/runs | =
    AzureOpenAI | POST /openai/assistants?api-version=2024-10-21 | {"model":null} | = | =
    OpenAI(base_url=H/openai/v1/) | POST /openai/v1/assistants | {"model":null} | = | =
    OpenAI(base_url=H) | POST /assistants | {"model":null} | /openai/v1/assistants | =
    AzureOpenAI | GET /openai/assistants?api-version=2024-10-21 | - | = | =
    OpenAI(base_url=H/openai/v1/) | GET /openai/v1/assistants | - | = | =
    OpenAI(base_url=H) | GET /assistants | - | /openai/v1/assistants | =
    AzureOpenAI | POST /openai/vector_stores?api-version=2024-10-21 | {"model":null} | = | =
    OpenAI(base_url=H/openai/v1/) | POST /openai/v1/vector_stores | {"model":null} | = | =
    OpenAI(base_url=H) | POST /vector_stores | {"model":null} | /openai/v1/vector_stores | =
    AzureOpenAI | GET /openai/vector_stores?api-version=2024-10-21 | - | = | =
    OpenAI(base_url=H/openai/v1/) | GET /openai/v1/vector_stores | - | = | =
    OpenAI(base_url=H) | GET /vector_stores | - | /openai/v1/vector_stores | =
    AzureOpenAI | POST /openai/conversations?api-version=2024-10-21 | {"model":null} | = | =
    OpenAI(base_url=H/openai/v1/) | POST /openai/v1/conversations | {"model":null} | = | =
    OpenAI(base_url=H) | POST /conversations | {"model":null} | /openai/v1/conversations | =
    AzureOpenAI | POST /openai/uploads?api-version=2024-10-21 | {"model":null} | = | =
    OpenAI(base_url=H/openai/v1/) | POST /openai/v1/uploads | {"model":null} | = | =
    OpenAI(base_url=H) | POST /uploads | {"model":null} | /openai/v1/uploads | =
    AzureOpenAI | GET /openai/fine_tuning/jobs?api-version=2024-10-21 | - | = | =
    OpenAI(base_url=H/openai/v1/) | GET /openai/v1/fine_tuning/jobs | - | = | =
    OpenAI(base_url=H) | GET /fine_tuning/jobs | - | /openai/v1/fine_tuning/jobs | =
    AzureOpenAI | POST /openai/evals?api-version=2024-10-21 | {"model":null} | = | =
    OpenAI(base_url=H/openai/v1/) | POST /openai/v1/evals | {"model":null} | = | =
    OpenAI(base_url=H) | POST /evals | {"model":null} | /openai/v1/evals | =
    AzureOpenAI | POST /openai/containers?api-version=2024-10-21 | {"model":null} | = | =
    OpenAI(base_url=H/openai/v1/) | POST /openai/v1/containers | {"model":null} | = | =
    OpenAI(base_url=H) | POST /containers | {"model":null} | /openai/v1/containers | =
    AzureOpenAI | POST /openai/files?api-version=2024-10-21 | BARE FORM | = | =
    OpenAI(base_url=H) | POST /files | BARE FORM | /openai/v1/files | =
    the base model of a fine-tuning is no deployment | POST /openai/v1/fine_tuning/jobs | {"model":"gpt-4o-mini-2024-07-18","training_file":"a"} | = | =
    what we do not know and names no deployment | POST /openai/v1/skills | {"name":"gpt-4o"} | = | =
    the same, no JSON | POST /skills | BARE FORM | /openai/v1/skills | =
    lists of what is made anywhere | GET /openai/v1/chat/completions?limit=2 | - | = | =
    lists of what is made anywhere | GET /openai/v1/videos | - | = | =
    js AzureOpenAI batches.create({model}) | /openai/deployments/gpt-4o/batches?api-version=2024-10-21 | {"model":"gpt-4o"} | /openai/deployments/{d}/batches?api-version=2024-10-21 | =
    OpenAI(base_url=H/v1) | /v1/assistants | {"model":"gpt-4o"} | /openai/v1/assistants | {"model":"{d}"}
"#;

fn rows(table: &str) -> Vec<Row> {
    let lines = table.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let mut fields = line.split(" | ");
            let [client, line, body, there, body_there] = [(); 5].map(|()| fields.next().unwrap());
            let text = |text: &str, name: &str| match text {
                "-" => String::new(),
                "FORM" => form(Some(name)),
                "BARE FORM" => form(None),
                text => text.to_owned(),
            };
            let (method, sent) = line.split_once(' ').unwrap_or(("POST", line));
            let same = |text: &str, sent: &str| if text == "=" { sent.to_owned() } else { text.to_owned() };
            let sent_body = text(body, "gpt-4o");
            Row {
                client: client.to_owned(),
                method: method.to_owned(),
                sent: sent.to_owned(),
                form: if body.ends_with("FORM") { FORM } else { JSON },
                there: same(there, sent),
                body_there: same(&text(body_there, "{d}"), &sent_body),
                body: sent_body,
            }
        })
        .collect()
}

/// East answers 408 to everything, which sends what may be repeated on to west; that answers 400. Neither changes a lane.
fn stage(server: &str) -> Stage {
    let stage = Scene::of([("east", 1), ("west", 2)])
        .backend("east", r#"deployments = { "gpt-4o" = "east.4o" }"#)
        .backend("west", r#"deployments = { "gpt-4o" = "west_4o" }"#)
        .server(server)
        // Also what callers may use only where it is named.
        .toml(&format!("[callers]\noperations = {:?}", sidestep::openai::FAMILIES))
        .start();
    stage.resource("east").fault(Fault::status(408));
    stage.resource("west").fault(Fault::status(400));
    stage
}

async fn send(stage: &Stage, row: &Row, prefix: &str) -> u16 {
    let mut request: Request<Full<Bytes>> = post(&format!("{prefix}{}", row.sent), &row.body);
    *request.method_mut() = Method::from_bytes(row.method.as_bytes()).unwrap();
    request.headers_mut().insert("content-type", row.form.parse().unwrap());
    // The JavaScript sample sends its one token in both places.
    request.headers_mut().insert("authorization", "Bearer a-callers-token".parse().unwrap());
    request.headers_mut().insert("api-key", "a-callers-token".parse().unwrap());
    stage.caller().send(request).await.whole().await.status
}

fn check(row: &Row, seen: &RecordedRequest, there: &str, key: &str) {
    let Row { client, sent, .. } = row;
    assert_eq!(seen.method, *row.method, "{client}: {sent}");
    assert_eq!(seen.uri.to_string(), row.there.replace("{d}", there), "{client}: {sent}");
    assert_eq!(String::from_utf8_lossy(&seen.body), row.body_there.replace("{d}", there), "{client}: {sent}");
    assert_eq!(seen.headers["api-key"], key, "{client}: {sent}");
    assert!(!seen.headers.contains_key("authorization"), "{client}: {sent}");
}

#[tokio::test]
async fn every_clients_request_reaches_each_backend_under_the_name_that_the_deployment_has_there() {
    for prefix in ["", "/api"] {
        let stage = stage(&format!("path_prefix = \"{prefix}\""));
        for row in rows(COMPUTING) {
            let (east, west) = (stage.seen("east"), stage.seen("west"));
            let status = send(&stage, &row, prefix).await;
            assert_eq!(status, 400, "{}: {}", row.client, row.sent);
            assert_eq!(
                (stage.seen("east"), stage.seen("west")),
                (east + 1, west + 1),
                "{}: {}",
                row.client,
                row.sent
            );
            check(&row, &stage.resource("east").last_request().unwrap(), "east.4o", &key_of("east"));
            check(&row, &stage.resource("west").last_request().unwrap(), "west_4o", &key_of("west"));
        }
    }
}

#[tokio::test]
async fn what_is_stored_goes_to_the_home_backend_alone_from_every_client() {
    let stage = stage("");
    for row in rows(STORING) {
        let east = stage.seen("east");
        let status = send(&stage, &row, "").await;
        assert_eq!(status, 408, "{}: {}", row.client, row.sent);
        assert_eq!(stage.seen("east"), east + 1, "{}: {}", row.client, row.sent);
        check(&row, &stage.resource("east").last_request().unwrap(), "east.4o", &key_of("east"));
    }
    assert_eq!(stage.seen("west"), 0);
}

#[tokio::test]
async fn an_offer_of_webrtc_is_no_json_and_passes() {
    let stage = stage("");
    let mut request = post("/v1/realtime/calls?model=gpt-4o", "v=0\r\n");
    request.headers_mut().insert("content-type", "application/sdp".parse().unwrap());
    assert_eq!(stage.caller().send(request).await.whole().await.status, 408);
    let seen = stage.resource("east").last_request().unwrap();
    assert_eq!(
        (seen.uri.to_string().as_str(), &seen.body[..]),
        ("/openai/v1/realtime/calls?model=east.4o", &b"v=0\r\n"[..])
    );
}

#[tokio::test]
async fn a_form_too_long_to_find_its_deployment_must_name_it_in_the_path() {
    let stage = Scene::of([("east", 1)])
        .backend("east", r#"deployments = { "gpt-4o" = "east.4o" }"#)
        .toml("[limits]\nrequest_replay = \"64KiB\"")
        .start();
    let long = form(Some("gpt-4o")).replace('\u{1}', &"s".repeat(100_000));
    let send = |path: &str| {
        let mut request: Request<Full<Bytes>> = post(path, &long);
        request.headers_mut().insert("content-type", FORM.parse().unwrap());
        let caller = stage.caller();
        async move { caller.send(request).await.whole().await }
    };
    let answer = send("/v1/audio/transcriptions").await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));
    assert_eq!(stage.seen("east"), 0);
    assert_ne!(send("/v1/deployments/gpt-4o/audio/transcriptions").await.status, 413);
    assert_ne!(send("/v1/files").await.status, 413, "an upload names none");
    assert_eq!(stage.seen("east"), 2);
}

#[tokio::test]
async fn an_app_that_uses_api_v1_finds_us_by_either_prefix() {
    for prefix in ["/api", "/api/v1"] {
        let stage = Scene::of([("east", 1)]).server(&format!("path_prefix = \"{prefix}\"")).start();
        let body = r#"{"model":"gpt-4o","input":"a","store":false}"#;
        let answer = stage.caller().post("/api/v1/responses", body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(stage.resource("east").last_request().unwrap().uri, "/openai/v1/responses");
        assert_eq!(stage.caller().post("/v1/responses", body).await.status, 404);
    }
}

#[tokio::test]
async fn only_backends_that_serve_a_deployment_are_asked_for_it() {
    let stage = Scene::of([("east", 1), ("west", 1), ("north", 1)])
        .backend("east", r#"deployments = { "gpt-4o" = "gpt-4o" }"#)
        .backend("west", r#"deployments = { "small" = "gpt-4o-mini" }"#)
        .backend("north", r#"deployments = { "gpt-4o" = "gpt-4o", "small" = "gpt-4o-mini" }"#)
        .start();
    for name in ["east", "west", "north"] {
        stage.resource(name).fault(Fault::status(408));
    }
    let body = r#"{"model":"small","messages":[]}"#;
    for _ in 0..10 {
        assert_eq!(stage.caller().post("/v1/chat/completions", body).await.status, 408);
    }
    assert_eq!((stage.seen("east"), stage.seen("west"), stage.seen("north")), (0, 10, 10));
    let body = r#"{"model":"none","messages":[]}"#;
    assert_eq!(stage.caller().post("/v1/chat/completions", body).await.status, 404);
    assert_eq!(stage.seen("east"), 0);
}

#[tokio::test]
async fn a_name_behind_megabytes_of_prompt_is_found_and_mapped() {
    let stage = stage("");
    let prompt = "text with \\\"model\\\": \\\"gpt-4o\\\" in it, \\u00e9 ".repeat(120_000);
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{prompt}"}}],"model":"gpt-4o"}}"#);
    assert!(body.len() > 5_000_000);
    assert_eq!(stage.caller().post("/v1/chat/completions", &body).await.status, 400);
    for (name, there) in [("east", "east.4o"), ("west", "west_4o")] {
        let seen = stage.resource(name).last_request().unwrap();
        assert!(
            seen.body == body.replace(r#""model":"gpt-4o"}"#, &format!(r#""model":"{there}"}}"#)),
            "{name}"
        );
    }
}

/// Takes one request of known length, however long, and answers; gives how many bytes of body came.
fn drink(listener: &TcpListener) -> u64 {
    let (mut socket, _) = listener.accept().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = vec![0; 256 * 1024];
    let (mut head, mut came) = (Vec::new(), 0);
    let mut length = None;
    while length.is_none_or(|length| came < length) {
        let read = socket.read(&mut buffer).unwrap();
        assert_ne!(read, 0, "the upload ended after {came} bytes");
        if length.is_some() {
            came += read as u64;
            continue;
        }
        head.extend_from_slice(&buffer[..read]);
        let Some(end) = memchr::memmem::find(&head, b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&head[..end]).to_lowercase();
        let told = text.split_once("content-length: ").unwrap().1;
        length = Some(told.split("\r\n").next().unwrap().parse::<u64>().unwrap());
        came = (head.len() - end - 4) as u64;
    }
    let body = r#"{"id":"file-1","object":"file"}"#;
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(answer.as_bytes()).unwrap();
    came
}

/// Sends a form with so many bytes of file, made on the way; the answer's status line.
fn pour(address: SocketAddr, bytes: u64) -> String {
    let before = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.bin\"\r\n\r\n";
    let after = "\r\n--x--\r\n";
    let length = bytes + (before.len() + after.len()) as u64;
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = format!(
        "POST /openai/v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-type: {FORM}\r\ncontent-length: {length}\r\n\r\n{before}"
    );
    socket.write_all(head.as_bytes()).unwrap();
    let piece = vec![b'b'; 256 * 1024];
    let mut left = bytes;
    while left > 0 {
        let now = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        socket.write_all(&piece[..now]).unwrap();
        left -= now as u64;
    }
    socket.write_all(after.as_bytes()).unwrap();
    let mut answer = vec![0; 64];
    let read = socket.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..read]).lines().next().unwrap().to_owned()
}

/// Through the shipped binary, whose memory is its own. Gives how much it grew at its highest, in MiB.
fn upload_grows_by(mib: u64) -> u64 {
    let backend = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let settings = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"off\"\n[[backends]]\nname = \"east\"\n\
         url = \"http://{}\"\napi_key = \"a-key-of-the-resource\"\n",
        backend.local_addr().unwrap()
    );
    std::fs::write(folder.path().join("sidestep.toml"), settings).unwrap();
    let running = Running::start(folder.path(), &[], &[]);
    let (address, _) = running.addresses();
    let before = running.most_memory();
    let taking = std::thread::spawn(move || drink(&backend));
    let status = pour(address, mib << 20);
    assert!(status.starts_with("HTTP/1.1 200"), "{status}");
    assert!(taking.join().unwrap() > mib << 20);
    (running.most_memory() - before) >> 20
}

#[test]
fn an_upload_of_half_a_gigabyte_takes_hardly_any_memory() {
    let grown = upload_grows_by(512);
    assert!(grown <= 16, "{grown} MiB");
}
