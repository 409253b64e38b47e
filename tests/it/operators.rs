//! What operators see and do: status, metrics, access log, draining a backend; and who may.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sidestep::simulator::{Fault, FaultRule};

use super::fixture::{CHAT, QUESTION, STREAMED, Scene};
use super::front::{Front, backends, resources};
use super::process::Running;
use super::raw::{Answer, Wire, ask, get, request, until};

fn two() -> Scene {
    Scene::of([("east", 1), ("west", 2)])
}

fn chat(front: &Front) -> Answer {
    ask(front.address(), "POST", CHAT, "", QUESTION)
}

/// Three good ones, one that fails over from a throttled backend, one that nobody admits, one without a path of ours.
/// Tokens that the answers told: prompt, completion.
fn traffic(front: &Front) -> (u64, u64) {
    let mut tokens = (0, 0);
    let mut served = |region: &str| {
        let answer = chat(front);
        assert_eq!((answer.status, answer.header("x-ms-region")), (200, Some(region)));
        let usage = &answer.json()["usage"];
        tokens.0 += usage["prompt_tokens"].as_u64().unwrap();
        tokens.1 += usage["completion_tokens"].as_u64().unwrap();
    };
    (0..3).for_each(|_| served("east"));
    front.resource("east").fault(Fault::throttle_seconds(50));
    served("west");
    front.resource("west").fault(Fault::throttle_seconds(40));
    assert_eq!(chat(front).status, 429);
    assert_eq!(ask(front.address(), "POST", "/nothing", "", QUESTION).status, 404);
    tokens
}

#[test]
fn the_status_tells_what_happened() {
    let front = Front::of(two());
    let quiet = get(front.admin(), "/status").json();
    assert_eq!(quiet["callers"]["requests_total"], 0);
    assert_eq!(quiet["backends"][0]["state"], "admitting");
    let (prompt, completion) = traffic(&front);
    let status = get(front.admin(), "/status").json();
    let expected = json!({ "requests_total": 6, "succeeded_total": 4, "failed_total": 1, "throttled_total": 1,
        "cut_total": 0, "limited_total": 0, "connections_refused_total": 0, "absorbed_total": 1,
        "in_flight": 0, "failovers_total": 1, "exhausted_total": 1, "held": 0, "held_total": 0,
        "troubled_total": 2 });
    assert_eq!(status["callers"], expected);
    let expected = json!({ "prompt_total": prompt, "cached_total": 0, "completion_total": completion });
    assert_eq!(status["tokens"], expected);
    let numbers = |of: &Value| {
        ["requests_total", "served_total", "throttled_total", "failed_total", "in_flight"]
            .map(|name| of[name].as_u64().unwrap())
    };
    let [east, west] = [0, 1].map(|place| status["backends"][place].clone());
    assert_eq!((&east["name"], &west["name"]), (&json!("east"), &json!("west")));
    assert_eq!((&east["priority"], &west["priority"]), (&json!(1), &json!(2)));
    assert_eq!((numbers(&east), numbers(&west)), ([4, 3, 1, 0, 0], [2, 1, 1, 0, 0]));
    assert_eq!(
        (numbers(&east["lanes"][0]), &east["lanes"][0]["deployment"]),
        ([4, 3, 1, 0, 0], &json!("gpt-4o"))
    );
    let used = |of: &Value| of["tokens_total"].as_u64().unwrap();
    assert_eq!(used(&east) + used(&west), prompt + completion);
    assert_eq!(used(&east["lanes"][0]), used(&east));
    for (backend, most) in [(&east, 50_000), (&west, 40_000)] {
        let lane = &backend["lanes"][0];
        assert_eq!((&lane["state"], &lane["cause"]), (&json!("cooling"), &json!("retry-after-ms")));
        let left = lane["remaining_ms"].as_u64().unwrap();
        assert!(left <= most && left > most - 15_000, "{left}");
    }
    assert_eq!(east["url"], front.resource("east").url());
    assert_eq!(status["listen"], format!("http://{}", front.address()));
    assert_eq!((&status["version"], &status["draining"]), (&json!(env!("CARGO_PKG_VERSION")), &json!(false)));
    assert!(status["uptime_seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn what_is_under_way_is_counted_until_it_ends() {
    let front = Front::of(two());
    front.resource("east").fault(FaultRule::times(Fault::HangBeforeHead, 1));
    let mut wire = Wire::to(front.address());
    wire.send(request("POST", CHAT, "", QUESTION));
    until("the backend has it", || front.resource("east").counters().in_flight == 1);
    let status = front.status();
    assert_eq!(status["callers"]["in_flight"], 1);
    assert_eq!(
        (&status["backends"][0]["in_flight"], &status["backends"][1]["in_flight"]),
        (&json!(1), &json!(0))
    );
    let gauge = metrics(&front).samples["sidestep_in_flight{backend=\"east\"}"];
    assert!((gauge - 1.0).abs() < f64::EPSILON);
    drop(wire);
    until("it has ended", || front.status()["callers"]["in_flight"] == 0);
    assert_eq!(front.status()["backends"][0]["in_flight"], 0);
}

/// A document of metrics, read as strictly as its format is.
struct Metrics {
    samples: BTreeMap<String, f64>,
    kinds: BTreeMap<String, String>,
}

fn metrics(front: &Front) -> Metrics {
    let answer = get(front.admin(), "/metrics");
    assert_eq!(
        answer.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    let text = answer.text();
    assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
    let (mut samples, mut kinds) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            if let Some((name, kind)) = comment.strip_prefix("TYPE ").and_then(|rest| rest.split_once(' ')) {
                assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        let family = ["_total", "_bucket", "_count", "_sum"]
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .chain([name])
            .find(|family| kinds.contains_key(*family));
        assert!(family.is_some(), "a sample of no family: {line}");
        assert!(samples.insert(series.to_owned(), value.parse().unwrap()).is_none(), "{series} twice");
    }
    Metrics { samples, kinds }
}

impl Metrics {
    #[track_caller]
    fn is(&self, series: &str, expected: u64) {
        let found = self.samples.get(series).copied();
        #[expect(clippy::cast_precision_loss, reason = "small numbers of a test")]
        let expected = expected as f64;
        let same = found.is_some_and(|found| (found - expected).abs() < f64::EPSILON);
        assert!(same, "{series} is {found:?}, not {expected}, in {:#?}", self.samples);
    }
}

#[test]
fn the_metrics_parse_and_count_what_happened() {
    let front = Front::of(two());
    let (prompt, completion) = traffic(&front);
    let metrics = metrics(&front);
    for (name, kind) in [
        ("requests", "counter"),
        ("attempts", "counter"),
        ("failovers", "counter"),
        ("exhausted", "counter"),
        ("tokens", "counter"),
        ("lane_state", "gauge"),
        ("cooldown_seconds", "gauge"),
        ("in_flight", "gauge"),
        ("time_to_first_byte_seconds", "histogram"),
        ("request_duration_seconds", "histogram"),
        ("added_latency_seconds", "histogram"),
    ] {
        assert_eq!(metrics.kinds.get(&format!("sidestep_{name}")).map(String::as_str), Some(kind), "{name}");
    }
    let chat = "deployment=\"gpt-4o\",caller=\"anonymous\"";
    metrics.is(&format!("sidestep_requests_total{{{chat},status=\"200\"}}"), 4);
    metrics.is(&format!("sidestep_requests_total{{{chat},status=\"429\"}}"), 1);
    metrics.is("sidestep_requests_total{deployment=\"\",caller=\"anonymous\",status=\"404\"}", 1);
    metrics.is(&format!("sidestep_tokens_total{{{chat},kind=\"prompt\"}}"), prompt);
    metrics.is(&format!("sidestep_tokens_total{{{chat},kind=\"completion\"}}"), completion);
    for (backend, verdict, count) in
        [("east", "served", 3), ("east", "throttled", 1), ("west", "served", 1), ("west", "throttled", 1)]
    {
        let labels = format!("backend=\"{backend}\",deployment=\"gpt-4o\",verdict=\"{verdict}\"");
        metrics.is(&format!("sidestep_attempts_total{{{labels}}}"), count);
    }
    metrics.is("sidestep_failovers_total{deployment=\"gpt-4o\"}", 1);
    metrics.is("sidestep_exhausted_total{deployment=\"gpt-4o\"}", 1);
    metrics.is("sidestep_lane_state{backend=\"east\",deployment=\"gpt-4o\",state=\"cooling\"}", 1);
    metrics.is("sidestep_lane_state{backend=\"east\",deployment=\"gpt-4o\",state=\"admitting\"}", 0);
    metrics.is("sidestep_in_flight{backend=\"east\"}", 0);
    let left = metrics.samples["sidestep_cooldown_seconds{backend=\"east\",deployment=\"gpt-4o\"}"];
    assert!((35.0..=50.0).contains(&left), "{left}");
    // Two of them were answered here.
    for (name, count) in [("time_to_first_byte", 4), ("request_duration", 6), ("added_latency", 6)] {
        metrics.is(&format!("sidestep_{name}_seconds_count"), count);
        metrics.is(&format!("sidestep_{name}_seconds_bucket{{le=\"+Inf\"}}"), count);
        assert!(metrics.samples[&format!("sidestep_{name}_seconds_sum")] > 0.0);
    }
}

#[test]
fn invented_deployments_get_no_series_of_their_own() {
    let front = Front::of(two());
    chat(&front);
    let before = metrics(&front).samples.len();
    for number in 0..200 {
        let path = CHAT.replace("gpt-4o", &format!("invented-{number}"));
        assert_eq!(ask(front.address(), "POST", &path, "", QUESTION).status, 404);
    }
    let after = metrics(&front);
    assert!(!after.samples.keys().any(|series| series.contains("invented")));
    assert!(after.samples.len() <= before + 12, "{before} {}", after.samples.len());
    after.is("sidestep_requests_total{deployment=\"other\",caller=\"anonymous\",status=\"404\"}", 200);
}

#[test]
fn the_admin_token_is_asked_for_everywhere_but_at_health() {
    let front = Front::of(two().server("admin_token = \"the-admin-token-0123456789\""));
    let status = |method: &str, path: &str, headers: &str| ask(front.admin(), method, path, headers, "");
    for (method, path) in [
        ("GET", "/status"),
        ("GET", "/requests"),
        ("GET", "/metrics"),
        ("POST", "/backends/east/drain"),
        ("GET", "/x"),
    ] {
        for wrong in [
            "",
            "authorization: Bearer the-admin-token-012345678\r\n",
            "api-key: the-admin-token-0123456789\r\n",
        ] {
            let answer = status(method, path, wrong);
            assert_eq!(answer.status, 401, "{path} {wrong}");
            assert!(answer.header("www-authenticate").unwrap().starts_with("Basic "));
        }
    }
    assert_eq!(front.status()["backends"][0]["drained"], false);
    for right in [
        "authorization: Bearer the-admin-token-0123456789\r\n",
        // anyone:the-admin-token-0123456789
        "authorization: Basic YW55b25lOnRoZS1hZG1pbi10b2tlbi0wMTIzNDU2Nzg5\r\n",
    ] {
        assert_eq!(status("GET", "/status", right).status, 200, "{right}");
    }
    for free in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(status("GET", free, "").status, 200);
    }
    assert_eq!(chat(&front).status, 200, "callers need another key, or none");
}

#[test]
fn without_a_token_the_operators_door_knows_this_machine_only_and_no_foreign_page() {
    let front = Front::of(two());
    let ask = |method: &str, path: &str, host: &str, more: &str| {
        let asked = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{more}\r\n");
        Wire::to(front.admin()).send(asked).answer().unwrap().status
    };
    assert_eq!(ask("GET", "/status", "evil.example", ""), 403);
    assert_eq!(ask("GET", "/metrics", "localhost.evil.example", ""), 403);
    assert_eq!(ask("GET", "/status", "localhost", ""), 200);
    assert_eq!(ask("GET", "/healthz", "evil.example", ""), 200);
    let drain = "/backends/east/drain";
    for more in ["origin: https://evil.example\r\n", "origin: null\r\n", "sec-fetch-site: cross-site\r\n"] {
        assert_eq!(ask("POST", drain, "localhost", more), 403, "{more}");
    }
    assert_eq!(ask("GET", drain, "localhost", ""), 405);
    assert_eq!(front.status()["backends"][0]["drained"], false);
    assert_eq!(ask("POST", drain, "localhost", "origin: http://localhost\r\n"), 200);
    assert_eq!(front.status()["backends"][0]["drained"], true);
}

#[test]
fn a_drained_backend_gets_nothing_new_until_it_is_resumed() {
    let front = Front::of(two());
    let post = |path: &str| ask(front.admin(), "POST", path, "", "").status;
    let region = || chat(&front).header("x-ms-region").map(str::to_owned);
    front.resource("east").fault(FaultRule::times(Fault::SlowEvents { gap_ms: 20 }, 1));
    let mut stream = Wire::to(front.address());
    assert_eq!(stream.send(request("POST", CHAT, "", STREAMED)).head().unwrap().status, 200);
    assert_eq!(post("/backends/east/drain"), 200);
    assert_eq!(region().as_deref(), Some("west"));
    assert_eq!(front.status()["backends"][0]["state"], "drained");
    let mut text = String::new();
    while let Some(chunk) = stream.chunk().filter(|chunk| !chunk.is_empty()) {
        text.push_str(&String::from_utf8(chunk).unwrap());
    }
    assert!(text.ends_with("data: [DONE]\n\n"), "what runs there ends there: {text}");
    assert_eq!(post("/backends/west/drain"), 200);
    let answer = chat(&front);
    assert_eq!((answer.status, answer.code().as_str()), (503, "no_backend"));
    assert_eq!(get(front.admin(), "/readyz").status, 200);
    assert_eq!(post("/backends/east/resume"), 200);
    assert_eq!(region().as_deref(), Some("east"));
    assert_eq!(post("/backends/nowhere/drain"), 404);
    assert_eq!(front.status()["backends"][1]["drained"], true);
}

/// Four requests of callers and as many health checks; the lines of the access log.
fn logged(format: &str) -> Vec<String> {
    let simulator = resources(&["east", "west"]);
    let folder = tempfile::tempdir().unwrap();
    let settings = "[callers]\nkeys = [{ name = \"app\", key = \"the-callers-key-0123456789\" }]\n";
    let text = settings.to_owned() + &backends(simulator.handle().resources());
    std::fs::write(folder.path().join("sidestep.toml"), text).unwrap();
    let variables = [
        ("SIDESTEP_LISTEN", "127.0.0.1:0"),
        ("SIDESTEP_ADMIN_LISTEN", "127.0.0.1:0"),
        ("SIDESTEP_LOG_FORMAT", format),
    ];
    let running = Running::start(folder.path(), &[], &variables);
    let (address, _) = running.addresses();
    let key = "api-key: the-callers-key-0123456789\r\n";
    simulator.resource("east").fault(FaultRule::times(Fault::status(500), 1));
    let answer = ask(address, "POST", CHAT, key, QUESTION);
    assert_eq!((answer.status, answer.header("x-sidestep-attempts")), (200, Some("2")));
    assert_eq!(get(address, "/healthz").status, 200);
    assert_eq!(ask(address, "POST", CHAT, key, STREAMED).status, 200);
    assert_eq!(get(address, "/readyz").status, 200);
    assert_eq!(ask(address, "POST", CHAT, "", QUESTION).status, 401);
    simulator.resource("east").fault(FaultRule::times(Fault::CutAfterEvents { events: 4, reset: false }, 1));
    assert!(!ask(address, "POST", CHAT, key, STREAMED).complete);
    running.signal("TERM");
    let (_, out, _) = running.end();
    let id = answer.header("x-sidestep-request-id").unwrap();
    let lines: Vec<_> = out.lines().filter(|line| line.contains("total_ms")).map(str::to_owned).collect();
    assert!(lines[0].contains(id), "{id} in {}", lines[0]);
    assert_eq!(lines.len(), 4, "one line for each request, none for a health check:\n{out}");
    lines
}

#[test]
fn each_request_is_one_json_record_with_all_that_matters() {
    let lines: Vec<Value> = logged("json").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [failed_over, streamed, refused, cut] = &lines[..] else { panic!("{lines:?}") };
    for (name, value) in [
        ("level", json!("INFO")),
        ("message", json!("request")),
        ("caller", json!("app")),
        ("method", json!("POST")),
        ("operation", json!("chat")),
        ("deployment", json!("gpt-4o")),
        ("status", json!(200)),
        ("backend", json!("west")),
        ("stream", json!(false)),
        ("ended", json!("completed")),
        ("estimated", json!(false)),
        (
            "attempts",
            json!([
                { "backend": "east", "verdict": "failed", "status": 500 },
                { "backend": "west", "verdict": "served", "status": 200 },
            ]),
        ),
        ("cached_tokens", json!(0)),
    ] {
        assert_eq!(failed_over[name], value, "{name}");
    }
    for positive in ["first_byte_ms", "total_ms", "ours_ms", "prompt_tokens", "completion_tokens"] {
        assert!(failed_over[positive].as_f64().unwrap() > 0.0, "{positive}");
    }
    let ms = |name: &str| failed_over[name].as_f64().unwrap();
    assert!(ms("ours_ms") <= ms("total_ms") && ms("first_byte_ms") <= ms("total_ms"));
    assert_eq!((&streamed["stream"], &streamed["estimated"]), (&json!(true), &json!(true)));
    for (name, value) in [
        ("status", json!(401)),
        ("caller", Value::Null),
        ("backend", Value::Null),
        ("attempts", json!([])),
        ("ended", json!("answered here")),
        ("error", json!("401")),
    ] {
        assert_eq!(refused[name], value, "{name}");
    }
    assert_eq!((&cut["status"], &cut["ended"]), (&json!(200), &json!("upstream cut")));
    assert_eq!(cut["attempts"][0]["verdict"], "cut_off");
}

#[test]
fn each_attempt_tells_its_status_and_what_broke_it_and_at_debug_the_whole_error_under_the_same_id() {
    let simulator = resources(&["ill", "gone", "cut", "odd", "well"]);
    for (name, fault) in [
        ("ill", Fault::status(503)),
        ("gone", Fault::Refuse),
        ("cut", Fault::CutMidJson),
        ("odd", Fault::Garbage),
    ] {
        simulator.resource(name).fault(FaultRule::standing(fault));
    }
    let gone = simulator.resource("gone").address();
    until("nobody listens there", || std::net::TcpStream::connect(gone).is_err());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("sidestep.toml"), backends(simulator.handle().resources())).unwrap();
    let variables = [
        ("SIDESTEP_LISTEN", "127.0.0.1:0"),
        ("SIDESTEP_ADMIN_LISTEN", "off"),
        ("SIDESTEP_LOG_FORMAT", "json"),
        ("SIDESTEP_LOG", "debug"),
    ];
    let running = Running::start(folder.path(), &[], &variables);
    let answer = ask(running.addresses().0, "POST", CHAT, "", QUESTION);
    assert_eq!((answer.status, answer.header("x-sidestep-attempts")), (200, Some("5")));
    let id = answer.header("x-sidestep-request-id").unwrap();
    running.signal("TERM");
    let (_, out, _) = running.end();
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let record = lines.iter().find(|line| line["message"] == "request").unwrap();
    assert_eq!(
        record["attempts"],
        json!([
            { "backend": "ill", "verdict": "failed", "status": 503 },
            { "backend": "gone", "verdict": "unreachable", "status": null, "cause": "connect refused" },
            { "backend": "cut", "verdict": "unreachable", "status": 200, "cause": "closed" },
            { "backend": "odd", "verdict": "unreachable", "status": null, "cause": "malformed" },
            { "backend": "well", "verdict": "served", "status": 200 },
        ])
    );
    let errors: Vec<&Value> = lines.iter().filter(|line| line["message"] == "attempt failed").collect();
    let of: Vec<&Value> = errors.iter().map(|line| &line["backend"]).collect();
    assert_eq!(of, ["gone", "cut", "odd"]);
    for error in errors {
        assert_eq!((&error["id"], &error["level"]), (&json!(id), &json!("DEBUG")));
        assert!(error["error"].as_str().unwrap().len() > 15, "{error}");
    }
}

#[test]
fn each_request_is_one_line_of_text_with_the_same() {
    let lines = logged("text");
    for field in [
        "  INFO request id=",
        " status=200 ",
        " caller=app ",
        " method=POST ",
        " operation=chat ",
        " deployment=gpt-4o ",
        " backend=west ",
        " total_ms=",
        " first_byte_ms=",
        " ours_ms=",
        " prompt_tokens=",
        " cached_tokens=0 ",
        " completion_tokens=",
        " stream=false ",
        " ended=completed ",
        " attempts=\"east failed 500, west served\"",
    ] {
        assert!(lines[0].contains(field), "no {field} in {}", lines[0]);
    }
    assert!(lines[1].contains(" stream=true ") && lines[1].ends_with(" estimated=true"), "{}", lines[1]);
    assert!(
        lines[2].contains(" status=401 ") && lines[2].ends_with(" ended=\"answered here\" error=401"),
        "{}",
        lines[2]
    );
    assert!(
        lines[3].contains(" ended=\"upstream cut\" ") && lines[3].contains(" attempts=\"east cut_off\""),
        "{}",
        lines[3]
    );
    let column = |line: &str, name: &str| line.find(name).unwrap();
    for name in [" status=", " caller=", " backend=", " total_ms=", " completion_tokens=", " ended="] {
        let columns: Vec<_> = lines.iter().map(|line| column(line, name)).collect();
        assert!(columns.iter().all(|at| *at == columns[0]), "{name} at {columns:?}");
    }
    assert!(!lines.iter().any(|line| line.contains('\u{1b}')), "no colours where no terminal reads");
}
