//! What admitted callers may do: their limits, deployments, operations and priorities; keys that change; and who is no
//! caller but a page, or no operator.

use serde_json::{Value, json};
use sidestep::simulator::{Fault, FaultRule};

use super::fixture::{CHAT, QUESTION, STREAMED, Scene, settings};
use super::front::Front;
use super::raw::{Answer, Wire, ask, request, until};

const APP: &str = "api-key: the-key-of-the-app-01\r\n";
const OTHER: &str = "api-key: the-key-of-another-1\r\n";

/// In front of two backends, one caller with these rules and another without.
fn front(rules: &str) -> Front {
    let callers = format!(
        "[[callers.keys]]\nname = \"app\"\nkey = \"the-key-of-the-app-01\"\n{rules}\n\
         [[callers.keys]]\nname = \"other\"\nkey = \"the-key-of-another-1\"\n"
    );
    Front::of(Scene::of([("east", 1), ("west", 2)]).toml(&callers))
}

fn post(front: &Front, path: &str, headers: &str, body: &str) -> Answer {
    ask(front.address(), "POST", path, headers, body)
}

fn chat(front: &Front, headers: &str) -> Answer {
    post(front, CHAT, headers, QUESTION)
}

fn seen(front: &Front) -> u64 {
    front.seen("east") + front.seen("west")
}

fn last_record(front: &Front) -> Value {
    let log = front.log();
    let mut records = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    records.rfind(|record| record["message"] == "request").unwrap()
}

/// The wait of both headers, which agree; in milliseconds.
fn wait(answer: &Answer) -> u64 {
    let number = |name: &str| answer.header(name).unwrap().parse::<u64>().unwrap();
    let (ms, seconds) = (number("retry-after-ms"), number("retry-after"));
    assert_eq!(seconds, ms.div_ceil(1_000).max(1));
    ms
}

#[test]
fn beyond_its_requests_a_caller_is_told_when_to_come_back_and_no_lane_hears_of_it() {
    let front = front("requests_per_minute = 2");
    assert_eq!((chat(&front, APP).status, chat(&front, APP).status), (200, 200));
    let lanes = front.status()["backends"].clone();
    for _ in 0..20 {
        let answer = chat(&front, APP);
        assert_eq!((answer.status, answer.code().as_str()), (429, "caller_limit"), "{answer:?}");
        assert!(answer.text().contains("limit of requests per minute"), "{answer:?}");
        assert!((55_000..=60_250).contains(&wait(&answer)), "{answer:?}");
        assert!(answer.header("x-should-retry").is_none());
    }
    let after = &front.status()["backends"];
    for (before, after) in lanes.as_array().unwrap().iter().zip(after.as_array().unwrap()) {
        assert_eq!(before["state"], after["state"]);
        for (before, after) in
            before["lanes"].as_array().unwrap().iter().zip(after["lanes"].as_array().unwrap())
        {
            assert_eq!((&before["state"], &before["cooldown"]), (&after["state"], &after["cooldown"]));
        }
    }
    assert_eq!(seen(&front), 2);
    assert_eq!(chat(&front, OTHER).status, 200, "somebody else's limit is somebody else's");
    let metrics = ask(front.admin(), "GET", "/metrics", "", "");
    let counted = r#"caller="app",status="429"} 20"#;
    assert!(metrics.text().contains(counted), "{}", metrics.text());
    assert!(
        !metrics
            .text()
            .lines()
            .any(|line| line.starts_with("sidestep_exhausted_total{") && !line.ends_with(" 0"))
    );
}

#[test]
fn a_request_that_is_refused_is_in_the_log_under_its_callers_name() {
    let front = front("requests_per_minute = 1");
    chat(&front, APP);
    assert_eq!(chat(&front, APP).status, 429);
    let record = last_record(&front);
    assert_eq!(
        (&record["caller"], &record["error"], &record["status"]),
        (&json!("app"), &json!("caller_limit"), &json!(429))
    );
    assert!(!front.log().contains("the-key-of"));
}

fn sized(max_tokens: u64) -> String {
    QUESTION.replace("\"max_tokens\":20", &format!("\"max_tokens\":{max_tokens}"))
}

#[test]
fn tokens_are_charged_by_estimate_and_given_back_when_the_answer_tells_what_it_took() {
    let front = front("tokens_per_minute = 5000");
    for _ in 0..4 {
        let answer = post(&front, CHAT, APP, &sized(3_000));
        assert_eq!(answer.status, 200, "the estimate alone would admit one: {answer:?}");
        assert!(answer.json()["usage"]["total_tokens"].as_u64().unwrap() < 400);
    }
    let streamed = STREAMED.replace("\"max_tokens\":20", "\"max_tokens\":3000");
    assert_eq!(post(&front, CHAT, APP, &streamed).status, 200);
    assert_eq!(post(&front, CHAT, APP, &sized(3_000)).status, 200, "a stream's too");
}

#[test]
fn what_is_under_way_counts_as_estimated_and_what_failed_counts_as_nothing() {
    let front = front("tokens_per_minute = 5000");
    for name in ["east", "west"] {
        front
            .resource(name)
            .fault(FaultRule::times(Fault::Status { status: 400, body: None, headers: Vec::new() }, 1));
    }
    assert_eq!(post(&front, CHAT, APP, &sized(4_500)).status, 400);
    front.resource("east").fault(FaultRule::times(Fault::HangBeforeHead, 1));
    front.resource("west").clear();
    let mut waiting = Wire::to(front.address());
    waiting.send(request("POST", CHAT, APP, &sized(4_500)));
    until("it is under way", || front.resource("east").counters().in_flight == 1);
    let refused = post(&front, CHAT, APP, &sized(1_000));
    assert_eq!((refused.status, refused.code().as_str()), (429, "caller_limit"));
    assert!(refused.text().contains("limit of tokens per minute"));
    assert!((50_000..=60_250).contains(&wait(&refused)));
    assert_eq!(post(&front, CHAT, OTHER, &sized(4_500)).status, 200);
    drop(waiting);
    until("it has left", || front.resource("east").counters().in_flight == 0);
    until("it is settled", || front.log().contains("caller left"));
    assert_eq!(
        post(&front, CHAT, APP, &sized(1_000)).status,
        429,
        "who leaves does not get back what was begun"
    );
}

#[test]
fn the_size_of_a_recording_is_no_estimate_of_its_tokens() {
    let front = front("tokens_per_minute = 100");
    let form = "content-type: multipart/form-data; boundary=b\r\n";
    let path = CHAT.replace("chat/completions", "audio/transcriptions");
    let answer = post(&front, &path, &format!("{APP}{form}"), &"x".repeat(10_000));
    assert_ne!(answer.status, 429, "{answer:?}");
}

#[test]
fn a_request_that_alone_is_above_the_limit_is_told_that_no_waiting_helps() {
    let front = front("tokens_per_minute = 5000\nrequests_per_minute = 1");
    for _ in 0..3 {
        let answer = post(&front, CHAT, APP, &sized(100_000));
        assert_eq!((answer.status, answer.code().as_str()), (429, "above_caller_limit"), "{answer:?}");
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        assert!(answer.header("retry-after").is_none() && answer.header("retry-after-ms").is_none());
    }
    assert_eq!(seen(&front), 0);
    assert_eq!(chat(&front, APP).status, 200, "none of them counted as a request");
}

#[test]
fn one_limit_holds_over_several_workers_and_keys() {
    let callers = "[[callers.keys]]\nname = \"app\"\nkey = \"the-key-of-the-app-01\"\nrequests_per_minute = 10\n\
                   [[callers.keys]]\nname = \"app\"\nkey = \"the-key-of-another-1\"\n";
    let front = Front::of(Scene::of([("east", 1)]).server("workers = 4").toml(callers));
    let served = std::thread::scope(|threads| {
        let ask = |n: usize| {
            let key = [APP, OTHER][n % 2];
            let front = &front;
            threads.spawn(move || usize::from(chat(front, key).status == 200))
        };
        let asked: Vec<_> = (0..40).map(ask).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).sum::<usize>()
    });
    assert_eq!((served, seen_by(&front, "east")), (10, 10));
}

fn seen_by(front: &Front, name: &str) -> u64 {
    front.seen(name)
}

#[test]
fn a_caller_with_a_lowest_priority_does_not_spill_over_and_others_do() {
    let front = front("lowest_priority = 1");
    front.resource("east").fault(Fault::throttle_seconds(30));
    let answer = chat(&front, APP);
    assert_eq!((answer.status, answer.code().as_str()), (429, "429"));
    assert_eq!(front.seen("west"), 0);
    assert_eq!(chat(&front, OTHER).header("x-sidestep-backend"), Some("west"));
}

#[test]
fn a_caller_reaches_only_its_deployments_however_it_names_another() {
    let front = front("deployments = [\"gpt-4o\"]");
    let json = "content-type: application/json\r\n";
    let chat_v1 = "/openai/v1/chat/completions";
    let model = |name: &str| format!("{{\"model\":\"{name}\",\"messages\":[],\"max_tokens\":5}}");
    let part = "--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--b--\r\n";
    for (what, path, headers, body) in [
        ("in the path", CHAT.replace("gpt-4o", "gpt-5"), String::new(), QUESTION.to_owned()),
        ("in the path, escaped", CHAT.replace("gpt-4o", "gpt%2d5"), String::new(), QUESTION.to_owned()),
        ("in another case", CHAT.replace("gpt-4o", "GPT-4O"), String::new(), QUESTION.to_owned()),
        ("in the body", chat_v1.to_owned(), String::new(), model("gpt-5")),
        ("in the body, behind an allowed one in the query", format!("{chat_v1}?deployment=gpt-4o"), String::new(), model("gpt-5")),
        ("in a form that we cannot read", "/openai/v1/audio/transcriptions?deployment=gpt-4o".to_owned(), "content-type: multipart/form-data; boundary=\r\n".to_owned(), part.to_owned()),
        ("in an offer that we do not read", "/openai/v1/realtime/calls?model=gpt-4o".to_owned(), "content-type: application/sdp\r\n".to_owned(), "v=0".to_owned()),
        ("in a body of we know not what", "/openai/v1/brand_new".to_owned(), "content-type: application/zip\r\n".to_owned(), model("gpt-5")),
        ("in a body that we do not read", format!("{chat_v1}?deployment=gpt-4o"), "content-encoding: gzip\r\n".to_owned(), model("gpt-5")),
        ("nowhere", "/openai/v1/responses".to_owned(), String::new(), "{\"input\":\"a\"}".to_owned()),
        ("in a form", "/openai/v1/audio/transcriptions".to_owned(), "content-type: multipart/form-data; boundary=b\r\n".to_owned(), part.to_owned()),
        ("in the header of a second one", "/openai/v1/responses".to_owned(), "x-ms-oai-image-generation-deployment: dall-e\r\n".to_owned(), model("gpt-4o")),
        ("in one of two such headers", "/openai/v1/responses".to_owned(), "x-ms-oai-image-generation-deployment: gpt-4o\r\nx-ms-oai-image-generation-deployment: dall-e\r\n".to_owned(), model("gpt-4o")),
    ] {
        let json = if headers.contains("content-type") { "" } else { json };
        let answer = post(&front, &path, &format!("{APP}{json}{headers}"), &body);
        assert_eq!((answer.status, answer.code().as_str()), (403, "deployment_not_allowed"), "{what}: {answer:?}");
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
    }
    let socket = |path: &str| {
        let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
        Wire::to(front.address())
            .send(request("GET", path, &format!("{APP}{upgrade}"), ""))
            .answer()
            .unwrap()
            .status
    };
    for path in [
        "/openai/v1/responses",
        "/openai/v1/responses?deployment=gpt-4o",
        "/openai/v1/realtime",
        "/openai/v1/realtime?model=gpt-5",
    ] {
        assert_eq!(socket(path), 403, "{path}");
    }
    assert_eq!(seen(&front), 0);
    assert_ne!(socket("/openai/v1/realtime?model=gpt-4o"), 403);
    assert_eq!(chat(&front, APP).status, 200);
    assert_eq!(post(&front, chat_v1, &format!("{APP}{json}"), &model("gpt-4o")).status, 200);
    assert_ne!(ask(front.address(), "GET", "/v1/models", APP, "").status, 403, "what names none passes");
    assert_ne!(post(&front, &CHAT.replace("gpt-4o", "gpt-5"), OTHER, QUESTION).status, 403);
}

#[test]
fn fine_tuning_and_evals_must_be_named_and_what_we_do_not_know_passes() {
    let front = front("operations = [\"fine-tuning\"]");
    for path in [
        "/openai/v1/fine_tuning/jobs",
        "/openai/fine_tuning/jobs?api-version=2024-10-21",
        "/v1/Fine_Tuning/jobs",
        "/v1/fine%5ftuning/jobs",
        "//v1//fine_tuning//jobs",
        "/fine_tuning/jobs",
        "/openai/v1/fine-tunes",
        "/openai/v1/evals",
        "/evals/eval_1/runs",
        "/openai/deployments/gpt-4o/fine_tuning/jobs",
    ] {
        let answer = post(&front, path, OTHER, "{}");
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "operation_not_allowed"),
            "{path}: {answer:?}"
        );
        assert_eq!(ask(front.address(), "GET", path, OTHER, "").status, 403, "{path}");
    }
    assert_eq!(seen(&front), 0);
    assert_ne!(post(&front, "/openai/v1/brand_new", OTHER, "{}").status, 403);
    assert_ne!(ask(front.address(), "GET", "/openai/v1/fine_tuning/jobs", APP, "").status, 403);
    assert_eq!(chat(&front, APP).status, 403, "its own list is all it has");
}

#[test]
fn who_may_not_is_told_so_before_a_limit_is_touched() {
    let front = front("requests_per_minute = 1");
    for _ in 0..3 {
        assert_eq!(post(&front, "/openai/v1/evals", APP, "{}").status, 403);
    }
    assert_eq!(chat(&front, APP).status, 200);
}

#[test]
fn keys_change_without_a_gap_by_reload_and_what_was_used_still_counts() {
    let front = front("requests_per_minute = 3");
    let second = "[[callers.keys]]\nname = \"app\"\nkey = \"the-new-key-of-the-app\"\n[[backends]]";
    let both = front.text.replacen("[[backends]]", second, 1);
    let new = "api-key: the-new-key-of-the-app\r\n";
    assert_eq!((chat(&front, APP).status, chat(&front, new).status), (200, 401));
    front.balancer.reload(settings(&both)).unwrap();
    assert_eq!((chat(&front, APP).status, chat(&front, new).status), (200, 200));
    assert_eq!((chat(&front, APP).status, chat(&front, new).status), (429, 429), "one caller, one limit");
    let only_new = both.replace("the-key-of-the-app-01", "an-unused-key-of-app-0");
    front.balancer.reload(settings(&only_new)).unwrap();
    assert_eq!((chat(&front, APP).status, chat(&front, new).status), (401, 429));
    let more = only_new.replace("requests_per_minute = 3", "requests_per_minute = 4");
    front.balancer.reload(settings(&more)).unwrap();
    assert_eq!(
        (chat(&front, new).status, chat(&front, new).status),
        (200, 429),
        "the new number, the old count"
    );
}

#[test]
fn no_page_uses_a_local_balancer_whatever_it_calls_it_and_however_it_asks() {
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let anonymous_beside_keys =
        "[callers]\nanonymous = true\nkeys = [{ name = \"a\", key = \"the-key-of-the-app-01\" }]\n";
    for tables in ["", "[callers]\nanonymous = true\n", anonymous_beside_keys] {
        let front = Front::with("", tables);
        let status = |host: &str, more: &str| {
            let asked = format!("GET /v1/models HTTP/1.1\r\nhost: {host}\r\n{more}\r\n");
            Wire::to(front.address()).send(asked).answer().unwrap().status
        };
        for (host, more) in [
            ("localhost", "origin: https://evil.example\r\n"),
            ("localhost", "origin: null\r\n"),
            ("localhost", "origin: file://\r\n"),
            ("localhost", "origin: http://localhost:8080\r\n"),
            ("localhost", "Origin:\r\n"),
            ("localhost", "sec-fetch-site: cross-site\r\n"),
            ("localhost", "sec-fetch-site: same-site\r\n"),
            ("rebound.example:8080", ""),
            ("rebound.example.", ""),
            ("LOCALHOST.EVIL.EXAMPLE", ""),
            ("127.0.0.1.nip.io:8080", ""),
            ("0.0.0.0:8080", ""),
            ("[::]:8080", ""),
            ("[fe80::1]:8080", ""),
            ("127.1", ""),
            ("2130706433", ""),
        ] {
            assert_eq!(status(host, more), 403, "{host} {more} {tables}");
            assert_eq!(status(host, &format!("{more}{upgrade}")), 403, "upgrade: {host} {more} {tables}");
        }
        assert_eq!(front.seen("east"), 0);
        for host in ["localhost", "LocalHost.:80", "127.0.0.1:8080", "[::1]:8080", "app.localhost"] {
            assert_ne!(status(host, ""), 403, "{host}");
        }
        assert_ne!(status("localhost", "sec-fetch-site: none\r\n"), 403);
    }
}

/// Asks for something of the operators.
fn operator(front: &Front, line: &str, headers: &str) -> Answer {
    let asked = format!("{line} HTTP/1.1\r\n{headers}content-length: 0\r\n\r\n");
    Wire::to(front.admin()).send(asked).answer().unwrap()
}

#[test]
fn no_stranger_and_no_page_is_an_operator() {
    let with_token = Front::with("admin_token = \"the-token-of-operators\"", "");
    let here = "host: localhost\r\n";
    for headers in [
        "",
        "authorization: Bearer the-token-of-operator\r\n",
        "authorization: Bearer the-token-of-operatorsx\r\n",
        "authorization: Bearer THE-TOKEN-OF-OPERATORS\r\n",
        "authorization: the-token-of-operators\r\n",
        "authorization: Digest the-token-of-operators\r\n",
        "api-key: the-token-of-operators\r\n",
        "cookie: token=the-token-of-operators\r\n",
        // As the user's name, and with a wrong password.
        "authorization: Basic dGhlLXRva2VuLW9mLW9wZXJhdG9yczo=\r\n",
        "authorization: Basic b3BzOndyb25n\r\n",
        "authorization: Basic !!!!\r\n",
    ] {
        for line in [
            "GET /status",
            "GET /metrics",
            "GET /status?token=the-token-of-operators",
            "POST /backends/east/drain",
        ] {
            let answer = operator(&with_token, line, &format!("{here}{headers}"));
            assert_eq!(answer.status, 401, "{line} {headers}");
            assert!(!answer.text().contains("the-token") && answer.header("www-authenticate").is_some());
            assert!(answer.header("content-security-policy").unwrap().contains("frame-ancestors 'none'"));
        }
    }
    // "ops:the-token-of-operators"
    let basic = "authorization: Basic b3BzOnRoZS10b2tlbi1vZi1vcGVyYXRvcnM=\r\n";
    assert_eq!(operator(&with_token, "GET /status", &format!("{here}{basic}")).status, 200);
    for page in [
        "origin: https://evil.example\r\n",
        "origin: null\r\n",
        "origin: http://localhost:1\r\n",
        "origin: http://localhost\r\norigin: https://evil.example\r\n",
        "sec-fetch-site: cross-site\r\n",
        "sec-fetch-site: same-site\r\n",
    ] {
        let answer = operator(&with_token, "POST /backends/east/drain", &format!("{here}{basic}{page}"));
        assert_eq!(answer.status, 403, "a page whose browser knows the password: {page}");
    }
    assert_eq!(with_token.status()["backends"][0]["state"], "admitting");
    let without = Front::plain();
    for host in [
        "host: rebound.example\r\n",
        "host: localhost.evil.example\r\n",
        "",
        "host: localhost\r\nhost: evil.example\r\n",
    ] {
        for line in ["GET /status", "GET /metrics", "POST /backends/east/drain"] {
            let answer = operator(&without, line, host);
            assert!(matches!(answer.status, 400 | 403), "{line} {host}: {answer:?}");
        }
    }
    assert_eq!(without.status()["backends"][0]["state"], "admitting");
    assert_eq!(operator(&without, "GET /status", here).status, 200);
}

#[test]
fn a_reload_that_changes_the_operators_token_is_refused_and_the_old_one_stays() {
    let front = Front::with("admin_token = \"the-token-of-operators\"", "");
    let changed = front.text.replace("the-token-of-operators", "another-token-of-theirs");
    let told = front.balancer.reload(settings(&changed)).unwrap_err().to_string();
    assert!(told.contains("server.admin_token") && !told.contains("another-token"), "{told}");
    let old = "host: localhost\r\nauthorization: Bearer the-token-of-operators\r\n";
    assert_eq!(operator(&front, "GET /status", old).status, 200);
}
