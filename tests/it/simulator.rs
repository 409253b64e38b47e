//! Every shape that the simulator answers with, read from the socket by a client of a few lines.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use sidestep::simulator::{
    AcceptedKey, Fault, FaultRule, HeaderSettings, QuotaSettings, ResourceSettings, Simulator,
    SimulatorSettings,
};

const CHAT: &str = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21";
const QUESTION: &str = r#"{"messages":[{"role":"user","content":"Is anyone there?"}],"max_tokens":20}"#;
const STREAMED: &str =
    r#"{"messages":[{"role":"user","content":"Is anyone there?"}],"max_tokens":5,"stream":true}"#;
const RESPONSE: &str = r#"{"model":"gpt-4o","input":"Is anyone there?","max_output_tokens":400}"#;
const RESPONSE_STREAM: &str = r#"{"model":"gpt-4o","input":"Is anyone there?","store":false,"stream":true}"#;

fn started(change: impl FnOnce(&mut ResourceSettings)) -> Simulator {
    let mut east = ResourceSettings::named("east");
    change(&mut east);
    let settings = SimulatorSettings { seed: 1, resources: vec![east, ResourceSettings::named("west")] };
    Simulator::start(settings).unwrap()
}

fn plain() -> Simulator {
    started(|_| {})
}

struct Answer {
    status: u16,
    head: String,
    /// Chunk framing removed.
    body: String,
    /// The body ended as HTTP says it should.
    complete: bool,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap().to_owned()
    }

    fn events(&self) -> Vec<Value> {
        let data = self.body.split("\n\n").filter_map(|event| event.split("data: ").nth(1));
        data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

fn send(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: azure\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
    .unwrap();
    stream
}

/// Reads to the end of the connection, or to its break.
fn receive(mut stream: TcpStream) -> Answer {
    let mut raw = Vec::new();
    let _ = stream.read_to_end(&mut raw);
    let raw = String::from_utf8(raw).unwrap();
    let (head, rest) = raw.split_once("\r\n\r\n").unwrap_or((&raw, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let mut answer = Answer { status, head: head.to_owned(), body: String::new(), complete: false };
    if answer.header("transfer-encoding").is_none() {
        rest.clone_into(&mut answer.body);
        answer.complete = answer.header("content-length") == Some(rest.len().to_string().as_str());
        return answer;
    }
    let mut rest = rest;
    while let Some((size, more)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        answer.complete = size == 0;
        answer.body.push_str(&more[..size]);
        rest = more[size..].trim_start_matches("\r\n");
    }
    answer
}

/// Reads one answer of known length and leaves the connection open.
fn receive_one(stream: &mut TcpStream) -> Answer {
    let mut raw = Vec::new();
    let mut piece = [0; 4_096];
    loop {
        let read = stream.read(&mut piece).unwrap();
        assert_ne!(read, 0, "closed within an answer");
        raw.extend_from_slice(&piece[..read]);
        let text = std::str::from_utf8(&raw).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let answer = Answer { status, head: head.to_owned(), body: body.to_owned(), complete: true };
        if answer.header("content-length") == Some(body.len().to_string().as_str()) {
            return answer;
        }
    }
}

fn ask(address: SocketAddr, path: &str, body: &str) -> Answer {
    receive(send(address, "POST", path, "api-key: any\r\n", body))
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now_for_waiting();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::yield_now();
    }
}

/// Tests with sockets wait for what other threads do.
trait Waiting {
    fn now_for_waiting() -> Self;
}

impl Waiting for Instant {
    #[expect(clippy::disallowed_methods, reason = "a bound on waiting, in real time")]
    fn now_for_waiting() -> Self {
        Self::now()
    }
}

#[test]
fn a_chat_answer_tells_its_resource_and_its_quota() {
    let simulator = plain();
    let answer = ask(simulator.addresses()[0], CHAT, QUESTION);
    assert_eq!((answer.status, answer.complete), (200, true));
    assert_eq!(answer.json()["object"], "chat.completion");
    assert_eq!(answer.header("x-ms-region"), Some("east"));
    assert_eq!(answer.header("x-ratelimit-limit-tokens"), Some("30000"));
    assert_eq!(answer.header("x-ratelimit-remaining-tokens"), Some("29976"));
    assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("29"));
    assert_eq!(ask(simulator.addresses()[1], CHAT, QUESTION).header("x-ms-region"), Some("west"));
}

#[test]
fn the_same_question_gets_the_same_text() {
    let text = |answer: Answer| answer.json()["choices"][0]["message"]["content"].clone();
    let (one, two) = (plain(), plain());
    let first = text(ask(one.addresses()[0], CHAT, QUESTION));
    assert_eq!(first, text(ask(two.addresses()[0], CHAT, QUESTION)));
    assert_ne!(first, text(ask(one.addresses()[1], CHAT, QUESTION)));
}

#[test]
fn a_spent_quota_is_a_429_in_azures_words_with_both_headers() {
    let simulator = started(|east| east.quota.tokens_per_minute = 30);
    assert_eq!(ask(simulator.addresses()[0], CHAT, QUESTION).status, 200);
    let answer = ask(simulator.addresses()[0], CHAT, QUESTION);
    assert_eq!((answer.status, answer.code().as_str()), (429, "429"));
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    let milliseconds: u64 = answer.header("retry-after-ms").unwrap().parse().unwrap();
    assert_eq!(milliseconds.div_ceil(1_000), seconds);
    assert!(answer.body.contains("have exceeded token rate limit"), "{}", answer.body);
    assert!(answer.body.contains(&format!("Please retry after {seconds} seconds")), "{}", answer.body);
    assert_eq!(answer.header("policy-id"), Some("DeploymentRatelimit-Token"));
    assert_eq!(answer.header("x-ratelimit-remaining-tokens"), Some("6"));
    let counters = simulator.resource("east").counters();
    assert_eq!((counters.requests, counters.succeeded, counters.throttled), (2, 1, 1));
    assert_eq!(counters.tokens_charged, 24);
}

#[test]
fn withheld_headers_are_not_sent() {
    let simulator = started(|east| {
        east.quota.tokens_per_minute = 30;
        east.headers = HeaderSettings {
            retry_after: false,
            retry_after_ms: false,
            ratelimit: false,
            ratelimit_reset: true,
            ..HeaderSettings::default()
        };
    });
    ask(simulator.addresses()[0], CHAT, QUESTION);
    let answer = ask(simulator.addresses()[0], CHAT, QUESTION);
    assert_eq!(answer.status, 429);
    assert!(answer.header("retry-after").is_none() && answer.header("retry-after-ms").is_none());
    assert!(answer.header("x-ratelimit-remaining-tokens").is_none());
    assert!(answer.header("x-ratelimit-reset-tokens").is_some());
}

#[test]
fn a_limiter_that_does_not_say_answers_minus_one() {
    let simulator = started(|east| east.headers.remaining_unknown = true);
    let answer = ask(simulator.addresses()[0], CHAT, QUESTION);
    assert_eq!(answer.header("x-ratelimit-remaining-tokens"), Some("-1"));
    assert_eq!(answer.header("x-ratelimit-reset-tokens"), Some("0"));
    assert_eq!(answer.header("x-ratelimit-limit-tokens"), Some("30000"));
}

#[test]
fn one_connection_carries_many_requests() {
    let simulator = started(|east| east.canned = true);
    let east = simulator.resource("east");
    let mut stream = TcpStream::connect(east.address()).unwrap();
    let request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: a\r\napi-key: a\r\ncontent-length: {}\r\n\r\n{QUESTION}",
        QUESTION.len()
    );
    for _ in 0..100 {
        stream.write_all(request.as_bytes()).unwrap();
        assert_eq!(receive_one(&mut stream).status, 200);
    }
    assert_eq!((east.counters().connections, east.counters().succeeded), (1, 100));
}

#[test]
fn each_deployment_has_its_own_quota() {
    let simulator = started(|east| east.quota.tokens_per_minute = 30);
    let address = simulator.addresses()[0];
    ask(address, CHAT, QUESTION);
    assert_eq!(ask(address, CHAT, QUESTION).status, 429);
    let embedding = r#"{"model":"text-embedding-3-small","input":"text"}"#;
    assert_eq!(ask(address, "/openai/v1/embeddings", embedding).status, 200);
}

#[test]
fn chat_streams_with_and_without_usage() {
    let simulator = plain();
    let answer = ask(simulator.addresses()[0], CHAT, STREAMED);
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert!(answer.complete && answer.body.ends_with("data: [DONE]\n\n"));
    let events = answer.events();
    assert!(events[0]["prompt_filter_results"].is_array());
    assert!(events.iter().all(|event| event.get("usage").is_none()));
    let with_usage = STREAMED.replace("true}", r#"true,"stream_options":{"include_usage":true}}"#);
    let events = ask(simulator.addresses()[0], CHAT, &with_usage).events();
    assert_eq!(events.last().unwrap()["usage"]["completion_tokens"], 5);
    assert_eq!(simulator.resource("east").counters().streams_aborted, 0);
}

#[test]
fn responses_are_answered_streamed_stored_and_forgotten() {
    let simulator = plain();
    let address = simulator.addresses()[0];
    let whole = ask(address, "/openai/v1/responses", RESPONSE).json();
    assert_eq!((whole["object"].as_str(), whole["status"].as_str()), (Some("response"), Some("completed")));
    let path = format!("/openai/v1/responses/{}", whole["id"].as_str().unwrap());
    let again = receive(send(address, "GET", &path, "api-key: any\r\n", ""));
    assert_eq!(again.json(), whole);
    assert_eq!(receive(send(simulator.addresses()[1], "GET", &path, "api-key: any\r\n", "")).status, 404);
    let next = RESPONSE.replace("400}", &format!(r#"400,"previous_response_id":{}}}"#, whole["id"]));
    assert_eq!(ask(address, "/openai/v1/responses", &next).status, 200);
    let lost = ask(simulator.addresses()[1], "/openai/v1/responses", &next);
    assert_eq!((lost.status, lost.code().as_str()), (400, "previous_response_not_found"));
    assert_eq!(receive(send(address, "DELETE", &path, "api-key: any\r\n", "")).json()["deleted"], true);
    assert_eq!(receive(send(address, "GET", &path, "api-key: any\r\n", "")).status, 404);

    let events = ask(address, "/openai/responses?api-version=2025-04-01-preview", RESPONSE_STREAM).events();
    assert_eq!(events[0]["type"], "response.created");
    assert_eq!(events.last().unwrap()["type"], "response.completed");
}

#[test]
fn encrypted_reasoning_is_read_only_where_it_was_made() {
    let simulator = plain();
    let body =
        r#"{"model":"gpt-4o","input":[{"type":"reasoning","encrypted_content":"gAAAA-east","summary":[]}]}"#;
    assert_eq!(ask(simulator.addresses()[0], "/openai/v1/responses", body).status, 200);
    let answer = ask(simulator.addresses()[1], "/openai/v1/responses", body);
    assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_encrypted_content"));
}

#[test]
fn embeddings_come_as_floats_or_base64_in_the_dimensions_asked_for() {
    let simulator = plain();
    let path = "/openai/deployments/text-embedding-3-small/embeddings?api-version=2024-10-21";
    let floats = ask(simulator.addresses()[0], path, r#"{"input":["a","b"],"dimensions":8}"#).json();
    assert_eq!(floats["data"][1]["embedding"].as_array().unwrap().len(), 8);
    let packed = r#"{"input":"a","dimensions":3,"encoding_format":"base64"}"#;
    let packed = ask(simulator.addresses()[0], path, packed).json();
    assert_eq!(packed["data"][0]["embedding"].as_str().unwrap().len(), 16);
}

#[test]
fn strangers_unknown_deployments_and_unknown_paths_are_told_so() {
    let simulator = started(|east| {
        east.api_keys = vec![AcceptedKey::from("k-east")];
        east.bearer_tokens = vec![AcceptedKey::from("t-east")];
    });
    let status = |headers: &str, path: &str, body: &str| {
        let answer = receive(send(simulator.addresses()[0], "POST", path, headers, body));
        (answer.status, answer.code())
    };
    assert_eq!(status("", CHAT, QUESTION), (401, "401".to_owned()));
    assert_eq!(status("api-key: k-west\r\n", CHAT, QUESTION).0, 401);
    assert_eq!(status("api-key: t-east\r\n", CHAT, QUESTION).0, 401);
    for good in
        ["api-key: k-east\r\n", "authorization: Bearer k-east\r\n", "authorization: Bearer t-east\r\n"]
    {
        assert_eq!(
            receive(send(simulator.addresses()[0], "POST", CHAT, good, QUESTION)).status,
            200,
            "{good}"
        );
    }
    let key = "api-key: k-east\r\n";
    let unknown = CHAT.replace("gpt-4o", "gpt-9");
    assert_eq!(status(key, &unknown, QUESTION), (404, "DeploymentNotFound".to_owned()));
    assert_eq!(status(key, "/openai/deployments/gpt-4o/chat/completions", QUESTION), (404, "404".to_owned()));
    assert_eq!(status(key, "/responses", RESPONSE), (404, "404".to_owned()));
    let wrong_model = r#"{"model":"gpt-4o","input":"a"}"#;
    assert_eq!(status(key, "/openai/v1/embeddings", wrong_model), (400, "OperationNotSupported".to_owned()));
    assert_eq!(receive(send(simulator.addresses()[0], "POST", CHAT, key, "{")).status, 400);
    assert_eq!(receive(send(simulator.addresses()[0], "POST", CHAT, key, "{}")).status, 400);
}

#[test]
fn models_are_the_deployments() {
    let simulator = plain();
    let models =
        receive(send(simulator.addresses()[0], "GET", "/openai/v1/models", "api-key: a\r\n", "")).json();
    assert_eq!(models["data"][0]["id"], "gpt-4o");
    assert_eq!(models["data"].as_array().unwrap().len(), 2);
}

#[test]
fn eleven_custom_headers_are_431_in_html() {
    let simulator = plain();
    let many: String = (0..11).map(|number| format!("x-custom-{number}: 1\r\n")).collect();
    let answer =
        receive(send(simulator.addresses()[0], "POST", CHAT, &format!("api-key: a\r\n{many}"), QUESTION));
    assert_eq!(answer.status, 431);
    assert!(answer.body.contains("limit request headers fields"));
}

#[test]
fn status_and_throttle_faults_say_exactly_what_they_were_told() {
    let simulator = plain();
    let (east, address) = (simulator.resource("east"), simulator.addresses()[0]);
    east.fault(FaultRule::times(Fault::status(503), 1));
    assert_eq!(ask(address, CHAT, QUESTION).status, 503);
    east.fault(FaultRule::times(
        Fault::Throttle { retry_after: Some("86400".to_owned()), retry_after_ms: None },
        2,
    ));
    for _ in 0..2 {
        let answer = ask(address, CHAT, QUESTION);
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("86400")));
        assert!(answer.header("retry-after-ms").is_none());
        assert!(answer.body.contains("Please retry after 86400 seconds."));
    }
    assert_eq!(ask(address, CHAT, QUESTION).status, 200);
    east.fault(Fault::Status {
        status: 500,
        body: Some("<html>".to_owned()),
        headers: vec![("retry-after".to_owned(), "3".to_owned())],
    });
    let answer = ask(address, CHAT, QUESTION);
    assert_eq!(
        (answer.status, answer.header("retry-after"), answer.body.as_str()),
        (500, Some("3"), "<html>")
    );
    east.clear();
    assert_eq!(ask(address, CHAT, QUESTION).status, 200);
}

#[test]
fn connections_break_before_the_head_in_three_ways() {
    let simulator = plain();
    let (east, address) = (simulator.resource("east"), simulator.addresses()[0]);
    let raw = || {
        let mut stream = send(address, "POST", CHAT, "api-key: a\r\n", QUESTION);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map(|_| bytes)
    };
    east.fault(FaultRule::times(Fault::CloseBeforeHead, 1));
    assert_eq!(raw().unwrap(), b"");
    east.fault(FaultRule::times(Fault::Reset, 1));
    assert_eq!(raw().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    east.fault(FaultRule::times(Fault::Garbage, 1));
    assert!(raw().unwrap().starts_with(b"SSH-2.0"));
    assert_eq!(east.counters().severed, 3);
    assert_eq!(east.counters().left_before_head, 0);
}

#[test]
fn a_cut_stream_keeps_its_events_and_never_looks_complete() {
    let simulator = plain();
    let (east, address) = (simulator.resource("east"), simulator.addresses()[0]);
    for reset in [false, true] {
        east.fault(FaultRule::times(Fault::CutAfterEvents { events: 3, reset }, 1));
        let answer = ask(address, CHAT, STREAMED);
        assert_eq!((answer.status, answer.complete, answer.events().len()), (200, false, 3));
    }
    east.fault(FaultRule::times(Fault::CutInsideEvent { events: 1 }, 1));
    let answer = ask(address, CHAT, STREAMED);
    assert!(!answer.complete && !answer.body.ends_with("\n\n"));
    assert_eq!(answer.body.matches("\n\n").count(), 1);
    east.fault(FaultRule::times(Fault::EndAfterEvents { events: 3 }, 1));
    let answer = ask(address, CHAT, STREAMED);
    assert!(answer.complete && !answer.body.contains("[DONE]"));
    assert_eq!(east.counters().streams_aborted, 0);
}

#[test]
fn a_json_answer_is_cut_in_its_middle() {
    let simulator = plain();
    simulator.resource("east").fault(Fault::CutMidJson);
    let answer = ask(simulator.addresses()[0], CHAT, QUESTION);
    assert_eq!((answer.status, answer.complete), (200, false));
    let told: usize = answer.header("content-length").unwrap().parse().unwrap();
    assert_eq!(answer.body.len(), told / 2);
}

#[test]
fn answers_take_their_time_and_slow_events_more() {
    let simulator = started(|east| east.latency.first_byte = Duration::from_millis(20));
    let (east, address) = (simulator.resource("east"), simulator.addresses()[0]);
    let began = Instant::now_for_waiting();
    ask(address, CHAT, QUESTION);
    assert!(began.elapsed() >= Duration::from_millis(20));
    east.fault(Fault::SlowEvents { gap_ms: 10 });
    let began = Instant::now_for_waiting();
    let events = ask(address, CHAT, STREAMED).body.matches("\n\n").count();
    assert_eq!(events, 9);
    assert!(began.elapsed() >= Duration::from_millis(20 + 10 * 9), "{:?}", began.elapsed());
}

#[test]
fn a_rate_limit_comes_inside_a_200_stream() {
    let simulator = plain();
    let (east, address) = (simulator.resource("east"), simulator.addresses()[0]);
    east.fault(Fault::RateLimitInStream { events: 1 });
    let events = ask(address, "/openai/v1/responses", RESPONSE_STREAM).events();
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["response.created", "response.failed", "error"]);
    let events = ask(address, CHAT, STREAMED).events();
    assert_eq!(events.len(), 2);
    assert_eq!(events[1]["error"]["code"], "rate_limit_exceeded");
    assert_eq!(ask(address, CHAT, QUESTION).status, 429);
}

#[test]
fn who_leaves_a_hanging_request_or_a_stream_is_counted() {
    let simulator = plain();
    let (east, address) = (simulator.resource("east"), simulator.addresses()[0]);
    east.fault(FaultRule::times(Fault::HangBeforeHead, 1));
    let stream = send(address, "POST", CHAT, "api-key: a\r\n", QUESTION);
    wait_until("the request arrives", || east.counters().in_flight == 1);
    drop(stream);
    wait_until("its end is seen", || east.counters().left_before_head == 1);

    east.fault(FaultRule::times(Fault::HangBeforeFirstEvent, 1));
    let mut stream = send(address, "POST", CHAT, "api-key: a\r\n", STREAMED);
    let mut head = [0; 15];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    drop(stream);
    wait_until("the aborted stream is counted", || east.counters().streams_aborted == 1);
    assert_eq!(east.counters().in_flight, 0);
}

#[test]
fn a_refusing_resource_has_no_listener_until_cleared() {
    let simulator = plain();
    let (east, address) = (simulator.resource("east"), simulator.addresses()[0]);
    let open = TcpStream::connect(address).unwrap();
    wait_until("the connection is accepted", || east.counters().connections == 1);
    east.fault(Fault::Refuse);
    wait_until("connections are refused", || {
        TcpStream::connect(address).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
    assert_eq!((&open).read(&mut [0]).unwrap_or(0), 0, "the open connection is closed");
    east.clear();
    wait_until("it listens again", || TcpStream::connect(address).is_ok());
    assert_eq!(ask(address, CHAT, QUESTION).status, 200);
}

#[test]
fn somebody_else_takes_everything_for_a_while() {
    let simulator = plain();
    let (east, address) = (simulator.resource("east"), simulator.addresses()[0]);
    east.occupy(None, Duration::from_secs(3_600));
    assert_eq!(ask(address, CHAT, QUESTION).status, 429);
    assert_eq!(ask(simulator.addresses()[1], CHAT, QUESTION).status, 200);
    east.clear();
    assert_eq!(ask(address, CHAT, QUESTION).status, 200);
}

#[test]
fn requests_are_remembered_byte_for_byte() {
    let simulator = started(|east| east.remember = 2);
    let body = "{ \"messages\" : [] ,\n\"odd\":1e3 }";
    for number in 0..3 {
        let headers = format!("api-key: any\r\nx-number: {number}\r\n");
        receive(send(simulator.addresses()[0], "POST", CHAT, &headers, body));
    }
    let requests = simulator.resource("east").requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[1].body, body);
    assert_eq!(
        (requests[0].headers["x-number"].as_bytes(), requests[1].headers["x-number"].as_bytes()),
        (&b"1"[..], &b"2"[..])
    );
    assert_eq!(requests[0].uri, CHAT);
}

#[test]
fn other_languages_control_a_resource_over_its_own_port() {
    let simulator = plain();
    let address = simulator.addresses()[0];
    let control = |method: &str, path: &str, body: &str| receive(send(address, method, path, "", body));
    let fault = r#"{"fault":{"kind":"throttle","retry_after":"7"},"times":1}"#;
    assert_eq!(control("POST", "/control/fault", fault).status, 200);
    assert_eq!(ask(address, CHAT, QUESTION).header("retry-after"), Some("7"));
    assert_eq!(control("POST", "/control/fault", "{}").status, 400);
    assert_eq!(control("POST", "/control/occupy", r#"{"seconds":60}"#).status, 200);
    assert_eq!(ask(address, CHAT, QUESTION).status, 429);
    assert_eq!(control("POST", "/control/clear", "").status, 200);
    assert_eq!(control("POST", "/control/refill", "").status, 200);
    assert_eq!(ask(address, CHAT, QUESTION).status, 200);
    let counters = control("GET", "/control/counters", "").json();
    assert_eq!((counters["requests"].as_u64(), counters["throttled"].as_u64()), (Some(3), Some(2)));
    let requests = control("GET", "/control/requests", "").json();
    assert_eq!(requests[2]["body"], QUESTION);
    assert_eq!(control("GET", "/control/nothing", "").status, 404);
}

#[test]
fn a_canned_resource_gives_one_answer_whatever_the_quota() {
    let simulator = started(|east| {
        east.canned = true;
        east.quota = QuotaSettings { tokens_per_minute: 10, ..QuotaSettings::default() };
    });
    let first = ask(simulator.addresses()[0], CHAT, QUESTION);
    assert_eq!(first.status, 200);
    assert_eq!(ask(simulator.addresses()[0], CHAT, "anything").body, first.body);
    assert!(ask(simulator.addresses()[0], CHAT, STREAMED).body.ends_with("data: [DONE]\n\n"));
}

#[test]
fn a_socket_is_an_echo_after_its_101() {
    let simulator = plain();
    let path = "/openai/v1/realtime?model=gpt-4o&api-key=any";
    let mut stream = TcpStream::connect(simulator.addresses()[0]).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nearly"
    )
    .unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"early") && stream.read(&mut byte).unwrap() == 1 {
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    stream.write_all(b"late").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "late");
    assert_eq!(receive(send(simulator.addresses()[0], "GET", path, "", "")).status, 404);
}

#[test]
fn http2_with_prior_knowledge_is_understood() {
    let simulator = plain();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (status, body) = runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(simulator.addresses()[0]).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::post(format!("http://azure{CHAT}"))
            .header("api-key", "any")
            .body(STREAMED.to_owned())
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let status = answer.status();
        (status, http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes())
    });
    assert_eq!(status, 200);
    assert!(body.ends_with(b"data: [DONE]\n\n"));
}

#[test]
fn stopping_frees_the_port() {
    let simulator = plain();
    let address = simulator.addresses()[0];
    simulator.stop();
    assert!(TcpStream::connect(address).is_err());
}
