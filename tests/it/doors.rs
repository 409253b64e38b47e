//! Who and what gets in: health, callers' keys, web pages, paths, bodies and their bounds.

use serde_json::Value;
use sidestep::simulator::Fault;

use super::fixture::{CHAT, QUESTION};
use super::front::Front;
use super::raw::{Answer, Wire, ask, get, request, until};

const KEYS: &str = "[callers]\nkeys = [{ name = \"app\", key = \"caller-key-0123456789\" }]\n";
const EMBEDDINGS: &str = "/openai/v1/embeddings";

fn post(front: &Front, path: &str, headers: &str, body: &str) -> Answer {
    ask(front.address(), "POST", path, headers, body)
}

/// What came to the only backend.
fn received(front: &Front) -> u64 {
    front.seen("east")
}

#[test]
fn health_is_told_to_all_without_a_key_and_whatever_the_host() {
    let front = Front::with("", KEYS);
    for (path, text) in [("/healthz", "ok\n"), ("/livez", "ok\n"), ("/readyz", "ready\n")] {
        for address in [front.address(), front.admin()] {
            let asked = format!("GET {path} HTTP/1.1\r\nhost: 10.1.2.3\r\n\r\n");
            let answer = Wire::to(address).send(asked).answer().unwrap();
            assert_eq!((answer.status, answer.text()), (200, text), "{path}");
        }
    }
    assert_eq!(front.status()["callers"]["requests_total"], 0, "health checks are no requests of callers");
}

#[test]
fn throttling_of_every_backend_makes_nobody_unready() {
    let front = Front::plain();
    front.resource("east").fault(Fault::throttle_seconds(30));
    assert_eq!(post(&front, CHAT, "", QUESTION).status, 429);
    assert_eq!(front.status()["backends"][0]["lanes"][0]["state"], "cooling");
    assert_eq!(get(front.address(), "/readyz").status, 200);
}

#[test]
fn a_drain_makes_us_unready_at_once_but_not_dead() {
    let front = Front::with("drain_delay = \"20s\"", "");
    front.balancer.drain();
    until("unready", || get(front.address(), "/readyz").status == 503);
    assert_eq!(get(front.address(), "/readyz").text(), "draining\n");
    assert_eq!(get(front.admin(), "/readyz").status, 503);
    assert_eq!(get(front.address(), "/livez").status, 200);
    assert_eq!(post(&front, CHAT, "", QUESTION).status, 200, "platforms still route to us");
    assert_eq!(front.status()["draining"], true);
}

#[test]
fn a_callers_key_counts_in_any_of_three_headers() {
    let front = Front::with("", KEYS);
    for good in [
        "api-key: caller-key-0123456789\r\n",
        "authorization: Bearer caller-key-0123456789\r\n",
        "ocp-apim-subscription-key: caller-key-0123456789\r\n",
        "api-key: wrong\r\nauthorization: Bearer caller-key-0123456789\r\n",
    ] {
        assert_eq!(post(&front, CHAT, good, QUESTION).status, 200, "{good}");
    }
    let sent = front.resource("east").last_request().unwrap();
    assert_eq!(sent.headers["api-key"], "key-of-east");
    assert!(!format!("{:?}", sent.headers).contains("caller-key"), "a caller's key never travels");
}

#[test]
fn who_has_no_key_gets_401_in_azures_form_and_the_backend_hears_nothing() {
    let front = Front::with("", KEYS);
    for bad in ["", "api-key: caller-key-012345678\r\n", "authorization: Basic caller-key-0123456789\r\n"] {
        for path in [CHAT, "/v1/models", "/nothing/here"] {
            let answer = post(&front, path, bad, QUESTION);
            assert_eq!(answer.status, 401, "{bad}{path}");
            let error = answer.json()["error"].clone();
            assert_eq!(error["code"], "401");
            assert_eq!(error["type"], "invalid_request_error");
            assert_eq!(error["param"], Value::Null);
            assert!(error["message"].as_str().unwrap().starts_with("Access denied"));
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert!(answer.header("x-sidestep-request-id").is_some());
        }
    }
    assert_eq!(received(&front), 0);
}

#[test]
fn without_keys_programs_on_this_machine_may_call_and_web_pages_may_not() {
    let front = Front::with("", "[callers]\norigins = [\"https://app.example\"]\n");
    let status = |host: &str, more: &str| {
        let asked = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n{more}\r\n{QUESTION}",
            QUESTION.len()
        );
        Wire::to(front.address()).send(asked).answer().unwrap().status
    };
    for (host, more) in [
        ("evil.example", ""),
        ("localhost.evil.example", ""),
        ("localhost", "origin: https://evil.example\r\n"),
        ("localhost", "origin: null\r\n"),
        ("localhost", "origin: http://localhost:3000\r\n"),
        ("localhost", "origin: https://evil.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n"),
    ] {
        assert_eq!(status(host, more), 403, "{host} {more}");
    }
    assert_eq!(received(&front), 0);
    for (host, more) in [("localhost:1", ""), ("[::1]", ""), ("127.0.0.1", "origin: https://app.example\r\n")]
    {
        assert_eq!(status(host, more), 200, "{host} {more}");
    }
    let answer = post(&front, CHAT, "origin: https://evil.example\r\n", QUESTION);
    assert_eq!(answer.code(), "foreign_page");
    assert!(answer.header("access-control-allow-origin").is_none());
}

#[test]
fn tricks_in_a_path_are_refused_before_any_backend_hears_of_them() {
    let front = Front::plain();
    for path in [
        "/openai/deployments/../deployments/gpt-4o/chat/completions",
        "/openai/./v1/models",
        "/openai/%2e%2E/v1/models",
        "/openai/deployments/gpt-4o%2Fchat/completions",
        "/openai/deployments/gpt-4o%5cchat/completions",
        "/openai\\v1\\models",
        "/openai/deployments/gpt-4o%00/chat/completions",
        "/openai/deployments/gpt-4o%0d%0a/chat/completions",
        "/openai/deployments/gpt-4o%252f/chat/completions",
        "/openai/deployments/gpt-4o%/chat/completions",
        "/openai/deployments/gpt-4o;a=b/chat/completions",
        "http://localhost/openai/v1/models",
        "http://evil.example/openai/v1/models",
    ] {
        let asked = request("GET", path, "", "");
        let answer = Wire::to(front.address()).send(asked).answer().unwrap();
        // By another name than ours it is a page's request first.
        assert!(matches!(answer.status, 400 | 403), "{path}: {answer:?}");
        assert!(answer.status == 400 || path.contains("evil"), "{path}: {answer:?}");
    }
    for raw in ["/openai/v1/mod\u{1}els", "/openai/v1/\u{7f}models", "*", "localhost/openai/v1/models"] {
        let answer = Wire::to(front.address()).send(request("GET", raw, "", "")).answer().unwrap();
        assert_eq!(answer.status, 400, "{raw:?}");
    }
    assert_eq!(received(&front), 0);
}

#[test]
fn connect_and_trace_are_not_allowed() {
    let front = Front::plain();
    for asked in [
        "CONNECT localhost:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "TRACE /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ] {
        let answer = Wire::to(front.address()).send(asked).answer().unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (405, "method_not_allowed"), "{asked}");
    }
    assert_eq!(received(&front), 0);
}

#[test]
fn a_path_that_we_do_not_know_is_404_from_us() {
    let front = Front::plain();
    for path in
        ["/", "/nothing", "/openai", "/openai/v1", "/v1/", "/chat", "/status", "/metrics", "/robots.txt"]
    {
        let answer = post(&front, path, "", "{}");
        assert_eq!((answer.status, answer.code().as_str()), (404, "404"), "{path}");
    }
    assert_eq!(received(&front), 0);
}

#[test]
fn a_prefix_of_ours_is_removed_and_asked_for() {
    let front = Front::with("path_prefix = \"/team/llm\"", "");
    assert_eq!(post(&front, &format!("/team//llm{CHAT}"), "", QUESTION).status, 200);
    assert_eq!(front.resource("east").last_request().unwrap().uri, CHAT);
    assert_eq!(post(&front, CHAT, "", QUESTION).status, 404);
}

#[test]
fn a_deployment_is_one_plain_name_of_at_most_64_characters() {
    let front = Front::plain();
    let in_path = |name: &str| {
        let path = format!("/openai/deployments/{name}/chat/completions?api-version=2024-10-21");
        post(&front, &path, "", QUESTION)
    };
    let in_body = |name: &str| {
        post(&front, EMBEDDINGS, "", &serde_json::json!({ "model": name, "input": "a" }).to_string())
    };
    let (longest, longer) = ("n".repeat(64), "n".repeat(65));
    for good in [longest.as_str(), "A.b_c-9"] {
        assert_eq!(in_path(good).code(), "DeploymentNotFound", "{good}: it is asked for");
    }
    assert_eq!(received(&front), 2);
    for bad in [longer.as_str(), "a%20b", "%C3%BC", "a@b", "a:b", "a+b"] {
        assert_eq!((in_path(bad).status, in_path(bad).code().as_str()), (400, "invalid_path"), "{bad}");
    }
    for bad in [longer.as_str(), "a/b", "..", "ü", "a\nb", ""] {
        let answer = in_body(bad);
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_deployment"), "{bad}");
    }
    assert_eq!(received(&front), 2);
}

#[test]
fn a_body_in_which_the_name_is_in_doubt_is_400() {
    let front = Front::plain();
    let twice = r#"{"model":"gpt-4o","input":"a","model":"other"}"#;
    let escaped = r#"{"model":"gpt-4o","input":"a","mod\u0065l":"other"}"#;
    for body in [twice, escaped, "[1]", "not json", r#"{"model":"gpt-4o""#, "null"] {
        let answer = post(&front, EMBEDDINGS, "content-type: application/json\r\n", body);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert_eq!(answer.code(), "invalid_body", "{body}");
    }
    for coding in ["gzip", "br", "gzip, identity"] {
        let answer = post(&front, EMBEDDINGS, &format!("content-encoding: {coding}\r\n"), "xxxx");
        assert_eq!((answer.status, answer.code().as_str()), (400, "compressed_body"), "{coding}");
    }
    assert_eq!(received(&front), 0);
    let plain = r#"{"model":"text-embedding-3-small","input":"a"}"#;
    assert_eq!(post(&front, EMBEDDINGS, "content-encoding: identity\r\n", plain).status, 200);
}

#[test]
fn where_the_path_names_the_deployment_the_body_is_nobodys_business() {
    let front = Front::plain();
    for body in [r#"{"model":null,"messages":[]}"#, r#"{"model":"other","messages":[]}"#] {
        assert_eq!(post(&front, CHAT, "", body).status, 200, "{body}");
        assert_eq!(front.resource("east").last_request().unwrap().body, body);
    }
    // Compressed is fine here: nothing has to be found in it. What the resource says to it is its business.
    post(&front, CHAT, "content-encoding: gzip\r\n", "\u{1f}xyz");
    let sent = front.resource("east").last_request().unwrap();
    assert_eq!(
        (&sent.body[..], &sent.headers["content-encoding"]),
        ("\u{1f}xyz".as_bytes(), &"gzip".parse().unwrap())
    );
}

#[test]
fn a_hundred_headers_get_in_and_many_more_are_431() {
    let front = Front::plain();
    let with = |count: usize| {
        let many: String = (0..count).map(|number| format!("x-h{number}: 1\r\n")).collect();
        post(&front, CHAT, &many, QUESTION)
    };
    assert_eq!(with(90).status, 200);
    assert_eq!(with(200).status, 431);
    assert_eq!(received(&front), 1);
}

#[test]
fn a_head_beyond_its_bound_is_431_and_one_within_it_is_served() {
    let front = Front::with("", "[limits]\nheader_bytes = \"16KiB\"\n");
    let with = |bytes: usize| {
        let asked = request("POST", CHAT, &format!("x-long: {}\r\n", "x".repeat(bytes)), QUESTION);
        Wire::to(front.address()).send(asked).answer().unwrap().status
    };
    assert_eq!(with(12 * 1024), 200);
    assert_eq!(with(40 * 1024), 431);
    let long = format!("GET /v1/models?{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "x".repeat(40 * 1024));
    let status = Wire::to(front.address()).send(long).answer().unwrap().status;
    assert!(matches!(status, 414 | 431), "{status}");
}
