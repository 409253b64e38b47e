//! What travels and what does not: names mapped in place, every other byte as sent, one credential, few headers.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use sidestep::simulator::{AcceptedKey, Fault, FaultRule, RecordedRequest};

use super::fixture::backend::PlayedBackend;
use super::fixture::caller::post;
use super::fixture::wire::Wire;
use super::fixture::{CHAT, QUESTION, RESPONSES, Scene, Stage, key_of};

/// Callers say `chat`, the resource says `gpt-4o`.
fn mapped() -> Stage {
    Scene::of([("east", 1)]).backend("east", r#"deployments = { "chat" = "gpt-4o" }"#).start()
}

fn last(stage: &Stage, name: &str) -> RecordedRequest {
    stage.resource(name).last_request().unwrap()
}

#[tokio::test]
async fn a_deployment_is_mapped_in_the_path_and_the_body_stays_as_it_is() {
    let stage = mapped();
    let body = r#"{ "model" : "chat", "messages":[{"role":"user","content":"chat"}] }"#;
    for path in [
        "/openai/deployments/chat/chat/completions?api-version=2024-10-21&x=a%20b",
        "//openai///deployments//chat/chat/completions?api-version=2024-10-21&x=a%20b",
        "/openai/deployments/%63hat/chat/completions?api-version=2024-10-21&x=a%20b",
    ] {
        let answer = stage.caller().post(path, body).await;
        assert_eq!(answer.status, 200, "{path}");
        let seen = last(&stage, "east");
        let expected = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21&x=a%20b";
        assert_eq!(seen.uri.to_string(), expected);
        assert_eq!(seen.body, body.as_bytes());
    }
}

#[tokio::test]
async fn a_name_that_nobody_maps_is_unknown() {
    let stage = mapped();
    let answer = stage.chat().await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "DeploymentNotFound"));
    assert_eq!(stage.seen("east"), 0);
}

#[tokio::test]
async fn a_json_model_is_mapped_in_place_and_every_other_byte_is_as_sent() {
    let stage = mapped();
    // Each with the one place where the name stands, however it is written.
    let bodies = [
        (r#"{"model":"chat","messages":[]}"#, r#""chat""#),
        (r#"{"messages":[{"content":"say \"model\":\"chat\""}],"model":"chat"}"#, r#""chat"}"#),
        (
            "\r\n{\t\"messages\" : [] ,\n \"model\" :\t\"\\u0063h\\u0061t\" , \"n\" : 1 } \n",
            "\"\\u0063h\\u0061t\"",
        ),
        (r#"{"m\u006fdel":"chat","messages":[],"top_p":1.0e-5,"seed":12345678901234567890123}"#, r#""chat""#),
        (
            r#"{"metadata":{"model":"chat"},"tools":[{"model":"chat"}],"messages":[],"model":"chat","model2":"chat"}"#,
            r#""chat","model2"#,
        ),
        (
            "{\"messages\":[{\"role\":\"user\",\"content\":\"\\ud83d\\ude00 é 日本 \\/ \\u0000\"}],\"a\":1,\"a\":2,\"model\":\"chat\"}",
            "\"chat\"}",
        ),
    ];
    for (body, place) in bodies {
        let replaced = place.replace("chat", "gpt-4o").replace("\\u0063h\\u0061t", "gpt-4o");
        assert_eq!(body.matches(place).count(), 1, "{body}");
        let expected = body.replace(place, &replaced);
        for path in ["/v1/chat/completions", "/chat/completions", "/openai/v1/chat/completions"] {
            let answer = stage.caller().post(path, body).await;
            let seen = last(&stage, "east");
            assert_eq!(seen.uri.to_string(), "/openai/v1/chat/completions", "{}", answer.text());
            assert_eq!(String::from_utf8_lossy(&seen.body), expected);
            assert_eq!(seen.headers["content-length"], expected.len().to_string());
        }
    }
}

#[tokio::test]
async fn each_backend_gets_its_own_name_and_its_own_key() {
    let stage = Scene::of([("east", 1), ("west", 2)])
        .backend("east", r#"deployments = { "chat" = "gpt-4o" }"#)
        .backend("west", r#"deployments = { "chat" = "gpt-4o-of-west" }"#)
        .resource("west", |west| {
            west.deployments.insert("gpt-4o-of-west".into(), sidestep::simulator::ModelKind::Chat);
        })
        .start();
    stage.resource("east").fault(Fault::throttle_seconds(30));
    let answer = stage.caller().post("/v1/responses", r#"{"input":"text","model":"chat"}"#).await;
    assert_eq!((answer.status, answer.region()), (200, Some("west")));
    assert_eq!(last(&stage, "east").body, r#"{"input":"text","model":"gpt-4o"}"#.as_bytes());
    assert_eq!(last(&stage, "west").body, r#"{"input":"text","model":"gpt-4o-of-west"}"#.as_bytes());
    for name in ["east", "west"] {
        let keys: Vec<_> = last(&stage, name).headers.get_all("api-key").iter().cloned().collect();
        assert_eq!(keys, [key_of(name).as_str()]);
    }
}

#[tokio::test]
async fn an_unmapped_body_of_any_size_arrives_byte_for_byte() {
    let stage = Scene::of([("east", 1)]).start();
    let large = format!(r#"{{"model":"gpt-4o","input":"{}"}}"#, "0123456789abcdef".repeat(200_000));
    let answer = stage.caller().post(RESPONSES, &large).await;
    assert_eq!(answer.status, 200);
    assert!(last(&stage, "east").body == large.as_bytes());
}

#[tokio::test]
async fn a_name_in_a_form_is_mapped_in_place() {
    let stage = mapped();
    let part = |name: &str, value: &str| {
        format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let form = |model: &str| {
        format!(
            "{}{}{}--x--\r\n",
            part("prompt", "chat"),
            part("model", model),
            part("file", "\u{1}chat\u{2}")
        )
    };
    let mut request = post("/v1/audio/transcriptions", &form("chat"));
    request.headers_mut().insert("content-type", "multipart/form-data; boundary=x".parse().unwrap());
    stage.caller().send(request).await.whole().await;
    let seen = last(&stage, "east");
    assert_eq!(String::from_utf8_lossy(&seen.body), form("gpt-4o"));
    assert_eq!(seen.headers["content-type"], "multipart/form-data; boundary=x");
}

#[tokio::test]
async fn a_deployment_named_by_a_header_is_checked_and_mapped_too() {
    let stage = Scene::of([("east", 1)])
        .backend("east", r#"deployments = { "gpt-4o" = "gpt-4o", "draw" = "gpt-image-1-east" }"#)
        .start();
    let name = "x-ms-oai-image-generation-deployment";
    let send = |drawing: &str| {
        let mut request = post(CHAT, QUESTION);
        request.headers_mut().insert(name, drawing.parse().unwrap());
        let caller = stage.caller();
        async move { caller.send(request).await.whole().await }
    };
    assert_eq!(send("draw").await.status, 200);
    assert_eq!(last(&stage, "east").headers[name], "gpt-image-1-east");
    for (drawing, refused) in
        [("other", (404, "DeploymentNotFound")), ("a/../b", (400, "invalid_deployment"))]
    {
        let answer = send(drawing).await;
        assert_eq!((answer.status, answer.code().as_str()), refused, "{drawing}");
    }
    assert_eq!(stage.seen("east"), 1);
}

#[tokio::test]
async fn only_a_backend_that_serves_both_deployments_of_a_request_is_asked() {
    let stage = Scene::of([("east", 1), ("west", 2)])
        .backend("east", r#"deployments = { "gpt-4o" = "gpt-4o" }"#)
        .backend("west", r#"deployments = { "gpt-4o" = "gpt-4o", "draw" = "gpt-image-1" }"#)
        .start();
    for (drawing, served_by) in [(Some("draw"), "west"), (None, "east")] {
        let mut request = post(CHAT, QUESTION);
        if let Some(drawing) = drawing {
            request.headers_mut().insert("x-ms-oai-image-generation-deployment", drawing.parse().unwrap());
        }
        let answer = stage.caller().send(request).await.whole().await;
        assert_eq!((answer.status, answer.region()), (200, Some(served_by)));
    }
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused_here() {
    let stage = mapped();
    let twice = r#"{"model":"chat","messages":[],"model":"other"}"#;
    let answer = stage.caller().post("/v1/chat/completions", twice).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_body"));
    let mut packed = post("/v1/chat/completions", "\u{1f}packed");
    packed.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    let answer = stage.caller().send(packed).await.whole().await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "compressed_body"));
    assert_eq!(stage.seen("east"), 0);
}

/// A request with everything that a caller, an SDK and an ingress may add.
fn laden() -> Request<Full<Bytes>> {
    let mut request = post(&format!("{CHAT}&api-key=query-secret"), QUESTION);
    for (name, value) in [
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate"),
        ("user-agent", "AzureOpenAI/Python 2.0"),
        ("openai-beta", "assistants=v2"),
        ("aoai-evals", "preview"),
        ("x-ms-client-request-id", "my-own-id"),
        ("api-key", "caller-secret"),
        ("authorization", "Bearer caller-secret"),
        ("ocp-apim-subscription-key", "caller-secret"),
        ("proxy-authorization", "Basic caller-secret"),
        ("cookie", "session=caller-secret"),
        ("x-stainless-lang", "python"),
        ("x-stainless-retry-count", "0"),
        ("x-stainless-read-timeout", "600"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-host", "chat.example"),
        ("forwarded", "for=10.0.0.1"),
        ("x-real-ip", "10.0.0.1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "a=b"),
        ("x-ms-spillover-deployment", "other"),
        ("x-custom", "wanted"),
        ("x-hop", "of this hop"),
        ("connection", "keep-alive, x-hop"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
    ] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn of_a_callers_headers_only_listed_ones_travel() {
    for (http2, forward) in [(false, ""), (true, ""), (false, "[upstream]\nforward_headers = [\"x-custom\"]")]
    {
        let stage = Scene::of([("east", 1)]).toml(forward).start();
        let mut request = laden();
        if http2 {
            for name in ["connection", "keep-alive", "proxy-authorization"] {
                request.headers_mut().remove(name);
            }
        }
        let caller = if http2 { stage.caller_http2() } else { stage.caller() };
        let answer = caller.send(request).await.whole().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = last(&stage, "east");
        let names: BTreeSet<&str> = seen.headers.keys().map(http::HeaderName::as_str).collect();
        let mut expected = BTreeSet::from([
            "accept",
            "api-key",
            "content-length",
            "content-type",
            "host",
            "aoai-evals",
            "openai-beta",
            "user-agent",
            "x-ms-client-request-id",
        ]);
        if !forward.is_empty() {
            expected.insert("x-custom");
        }
        assert_eq!(names, expected);
        assert!(names.len() <= 10);
        assert_eq!(seen.headers["api-key"], key_of("east"));
        assert_eq!(seen.headers["host"], stage.resource("east").address().to_string());
        assert!(!format!("{seen:?}").contains("secret"), "{seen:?}");
        assert_eq!(seen.uri.query(), Some("api-version=2024-10-21"));
    }
}

#[tokio::test]
async fn a_callers_key_admits_and_goes_no_further() {
    let key = "caller-key-of-at-least-32-characters-0123456789";
    let stage = Scene::of([("east", 1)])
        .resource("east", |east| east.api_keys.push(AcceptedKey::from(key)))
        .toml(&format!("[[callers.keys]]\nname = \"app\"\nkey = \"{key}\""))
        .start();
    assert_eq!(stage.chat().await.status, 401);
    for (name, value) in [
        ("api-key", key.to_owned()),
        ("authorization", format!("Bearer {key}")),
        ("ocp-apim-subscription-key", key.to_owned()),
    ] {
        let mut request = post(CHAT, QUESTION);
        request.headers_mut().insert(name, value.parse().unwrap());
        assert_eq!(stage.caller().send(request).await.whole().await.status, 200, "{name}");
        let seen = last(&stage, "east");
        assert_eq!(seen.headers["api-key"], key_of("east"));
        assert!(!format!("{seen:?}").contains(key));
    }
    let log = stage.log();
    assert!(
        !log.contains(key) && !log.contains(&key_of("east")) && !log.contains("Is anyone there?"),
        "{log}"
    );
    assert_eq!(stage.seen("east"), 3);
}

#[tokio::test]
async fn of_an_answers_headers_those_of_the_hop_and_of_other_origins_end_here() {
    let east = PlayedBackend::listen().await;
    let stage = Scene::default().played("east", 1, east.address).start();
    let serving = async {
        let (mut wire, _) = east.request().await;
        wire.write(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
             Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nTrailer: x-sum\r\n\
             Access-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: a\r\n\
             x-ms-region: East US\r\napim-request-id: abc\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\
             x-ratelimit-remaining-tokens: 5\r\ndate: Tue, 24 Nov 2026 10:00:00 GMT\r\n\
             content-length: 2\r\n\r\n{}",
        )
        .await;
    };
    let calling = async {
        let mut wire = Wire::connect(stage.balancer.address()).await;
        wire.write(format!(
            "POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}"
        ))
        .await;
        wire.rest().await.0
    };
    let ((), answer) = tokio::join!(serving, calling);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "{}");
    let lines: BTreeSet<&str> = head.lines().collect();
    for line in [
        "HTTP/1.1 200 OK",
        "content-type: application/json",
        "content-length: 2",
        "x-ms-region: East US",
        "apim-request-id: abc",
        "set-cookie: a=1",
        "set-cookie: b=2",
        "x-ratelimit-remaining-tokens: 5",
        "date: Tue, 24 Nov 2026 10:00:00 GMT",
        "x-sidestep-backend: east",
        "x-sidestep-attempts: 1",
        "connection: close",
    ] {
        assert!(lines.contains(line), "{line}: {head}");
    }
    assert_eq!(lines.len(), 13, "and the request id: {head}");
}

#[tokio::test]
async fn explaining_headers_can_be_switched_off_and_ids_differ() {
    let stage = Scene::of([("east", 1)]).server("explain_headers = false").start();
    let (one, two) = (stage.chat().await, stage.chat().await);
    assert!(one.header("x-sidestep-backend").is_none() && one.header("x-sidestep-attempts").is_none());
    assert_ne!(one.header("x-sidestep-request-id").unwrap(), two.header("x-sidestep-request-id").unwrap());
    assert!(stage.log().contains(one.header("x-sidestep-request-id").unwrap()));
}

#[tokio::test]
async fn a_wait_that_is_passed_back_is_at_most_59_seconds() {
    let told = |seconds: &str, milliseconds: &str| Fault::Status {
        status: 500,
        body: None,
        headers: vec![
            ("retry-after".into(), seconds.to_owned()),
            ("retry-after-ms".into(), milliseconds.to_owned()),
        ],
    };
    let stage = Scene::of([("east", 1)]).start();
    for (given, passed) in [
        (("86400", "86400000"), ("59", "59000")),
        (("60", "60000"), ("59", "59000")),
        (("7", "6500"), ("7", "6500")),
        (("Tue, 24 Nov 2026 10:00:00 GMT", "soon"), ("Tue, 24 Nov 2026 10:00:00 GMT", "soon")),
    ] {
        stage.resource("east").fault(FaultRule::times(told(given.0, given.1), 1));
        let answer = stage.chat().await;
        assert_eq!(answer.status, 500);
        assert_eq!(answer.header("retry-after"), Some(passed.0));
        assert_eq!(answer.header("retry-after-ms"), Some(passed.1));
    }
}

#[tokio::test]
async fn answers_without_a_body_pass_as_they_are() {
    let east = PlayedBackend::listen().await;
    let stage = Scene::default().played("east", 1, east.address).start();
    let cases = [
        (Method::HEAD, "200 OK", "content-length: 1234\r\n", Some("1234")),
        (Method::DELETE, "204 No Content", "", None),
        (Method::GET, "304 Not Modified", "etag: \"a\"\r\n", None),
        (
            Method::GET,
            "302 Found",
            "location: https://elsewhere.example/\r\ncontent-length: 0\r\n",
            Some("0"),
        ),
    ];
    let serving = async {
        // Kept alive: whoever misread a length would stumble over the next answer.
        let mut wire = east.accept().await;
        for (_, status, headers, _) in &cases {
            super::fixture::backend::request(&mut wire).await;
            wire.write(format!("HTTP/1.1 {status}\r\n{headers}\r\n")).await;
        }
        wire
    };
    let calling = async {
        for (method, status, headers, length) in &cases {
            // What was deleted is not asked for again.
            let mut request = post(&format!("/openai/v1/files/file-{method}"), "");
            *request.method_mut() = method.clone();
            let answer = stage.caller().send(request).await.whole().await;
            assert_eq!(answer.status.to_string(), status[..3], "{method}");
            assert_eq!(answer.header("content-length"), *length, "{method} {status}");
            assert!(answer.complete && answer.body.is_empty(), "{method} {status}");
            assert_eq!(answer.header("location").is_some(), headers.contains("location"), "never followed");
        }
    };
    let (_kept, ()) = tokio::join!(serving, calling);
    assert_eq!(stage.backend("east").requests_total, 4);
    assert_eq!(stage.backend("east").in_flight, 0);
}

#[tokio::test]
async fn interim_answers_of_a_backend_are_no_answers() {
    let east = PlayedBackend::listen().await;
    let stage = Scene::default().played("east", 1, east.address).start();
    let serving = async {
        let (mut wire, _) = east.request().await;
        wire.write("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await;
        wire.write("HTTP/1.1 100 Continue\r\n\r\n").await;
        wire.write(super::fixture::backend::answer("200 OK", "", "{}")).await;
        wire
    };
    let (_kept, answer) = tokio::join!(serving, stage.chat());
    assert_eq!((answer.status, answer.text(), answer.header("link")), (200, "{}", None));
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_passes_whole() {
    let east = PlayedBackend::listen().await;
    let stage = Scene::default().played("east", 1, east.address).start();
    let serving = async {
        let (mut wire, _) = east.request().await;
        wire.write("HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{\"until\":").await;
        wire.write("\"the end\"}").await;
    };
    let ((), answer) = tokio::join!(serving, stage.chat());
    assert_eq!((answer.status, answer.text(), answer.complete), (200, r#"{"until":"the end"}"#, true));
}

#[tokio::test]
async fn our_own_prefix_goes_and_a_backends_prefix_comes() {
    let east = PlayedBackend::listen().await;
    let stage = Scene::default().played("east", 1, east.address).server("path_prefix = \"/ai\"").start();
    let reloaded = stage.text.replace(&format!("{}\"", east.address), &format!("{}/gate/\"", east.address));
    stage.balancer.reload(super::fixture::settings(&reloaded)).unwrap();
    let serving = async {
        let (mut wire, request) = east.request().await;
        wire.write(super::fixture::backend::answer("200 OK", "", "{}")).await;
        request
    };
    let caller = stage.caller();
    let path = format!("/ai{CHAT}");
    let (request, answer) = tokio::join!(serving, caller.post(&path, QUESTION));
    assert_eq!(answer.status, 200);
    assert!(request.starts_with(&format!("POST /gate{CHAT} HTTP/1.1\r\n")), "{request}");
    assert_eq!(stage.chat().await.status, 404, "without the prefix it is not ours");
}
