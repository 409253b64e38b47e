//! Nothing that is secret and nothing that was said leaves by log, status, metrics, the last requests or an answer of
//! ours, however much is logged and whatever goes wrong.

use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};
use sidestep::simulator::{Fault, FaultRule, Simulator};
use sidestep::telemetry::clock;

use super::fixture::tokens::{APP, FakeTenant, KEYS, Mood, TENANT, token_with};
use super::fixture::{CHAT, key_of};
use super::front::{backends, resources};
use super::process::Running;
use super::raw::{Answer, Wire, ask, request, until};

const CALLER: &str = "api-key: the-callers-key-0123456789\r\n";
/// Of a caller who may do next to nothing.
const LIMITED: &str = "api-key: the-callers-other-key-01\r\n";
const OPERATOR: &str = "authorization: Bearer the-admin-token-0123456789\r\n";
/// The same as the password of Basic.
const BASIC: &str = "authorization: Basic YW55b25lOnRoZS1hZG1pbi10b2tlbi0wMTIzNDU2Nzg5\r\n";
const PROMPT: &str = "the-secret-question";
const UPSTREAM_TEXT: &str = "what-the-backend-said-of-it";
const TENANT_TEXT: &str = "what-the-tenant-said";

/// What backends are called with, besides keys: client secrets, assertions, tokens. Whoever adds such a backend to the
/// house adds its secrets here, and they are looked for in everything.
const OF_BACKENDS: &[&str] = &[];

const SETTINGS: &str = r#"
[server]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
admin_token = "${TOKEN}"
[callers]
keys = [
    { name = "app", key = "the-callers-key-0123456789" },
    { name = "limited", key = "the-callers-other-key-01", requests_per_minute = 1, tokens_per_minute = 50, deployments = ["gpt-4o"] },
]
[callers.entra]
tenant = "${TENANT}"
allow = ["${APP}"]
authority = "${AUTHORITY}"
[retry]
deadline = "2s"
connect_timeout = "1s"
first_byte_timeout = "300ms"
first_event_timeout = "300ms"
stream_idle_timeout = "300ms"
[limits]
request_replay = "16KiB"
request_hard_limit = "32KiB"
"#;

struct House {
    simulator: Simulator,
    tenant: FakeTenant,
    /// One that admits, and parts of it.
    token: String,
    running: Running,
    address: SocketAddr,
    admin: SocketAddr,
    _folder: tempfile::TempDir,
    /// Answers that are our own.
    ours: Vec<Answer>,
}

impl House {
    fn start(format: &str) -> Self {
        let simulator = resources(&["east", "west", "north"]);
        let folder = tempfile::tempdir().unwrap();
        let backends = backends(simulator.handle().resources());
        // It refuses us.
        let backends = backends.replace(&key_of("north"), "not-the-key-of-north");
        std::fs::write(folder.path().join("sidestep.toml"), format!("{SETTINGS}{backends}")).unwrap();
        let tenant = FakeTenant::start(Mood::Keys(vec![0]));
        let authority = tenant.authority();
        let variables = [
            ("SIDESTEP_LOG", "trace"),
            ("SIDESTEP_LOG_FORMAT", format),
            ("TOKEN", "the-admin-token-0123456789"),
            ("TENANT", TENANT),
            ("APP", APP),
            ("AUTHORITY", &authority),
        ];
        let running = Running::start(folder.path(), &[], &variables);
        let (address, admin) = running.addresses();
        let token = token_with(&KEYS[0], clock::unix_ms() / 1_000, &json!({}));
        let (admin, ours) = (admin.unwrap(), Vec::new());
        Self { simulator, tenant, token, running, address, admin, _folder: folder, ours }
    }

    /// Once one of them admits again: a request that is answered here would meet no fault.
    fn fault(&self, fault: &Fault) {
        until("a backend admits", || {
            let status = ask(self.admin, "GET", "/status", OPERATOR, "").json();
            let ready = |of: &Value| of["state"] == "admitting" || of["state"] == "probing";
            let admits = |of: &Value| ready(of) && ready(&of["lanes"][0]);
            status["backends"].as_array().unwrap().iter().take(2).any(admits)
        });
        for name in ["east", "west"] {
            self.simulator.resource(name).clear();
            self.simulator.resource(name).fault(FaultRule::times(fault.clone(), 1));
        }
    }

    fn send(&mut self, bytes: &str) {
        let answer = Wire::to(self.address).send(bytes).answer();
        self.ours.extend(answer.filter(|answer| answer.header("x-sidestep-backend").is_none()));
    }

    fn post(&mut self, path: &str, headers: &str, body: &str) {
        self.send(&request("POST", path, headers, body));
    }

    /// What can go wrong at a backend and is soon forgotten.
    fn faults() -> Vec<Fault> {
        let said = |status: u16, headers: Vec<(String, String)>| {
            let body = format!(r#"{{"error":{{"code":"x","message":"{UPSTREAM_TEXT}"}}}}"#);
            Fault::Status { status, body: Some(body), headers }
        };
        let soon = ("retry-after-ms".to_owned(), "20".to_owned());
        vec![
            said(400, Vec::new()),
            said(404, Vec::new()),
            said(408, Vec::new()),
            said(418, Vec::new()),
            said(429, vec![soon.clone()]),
            said(500, Vec::new()),
            said(503, vec![soon]),
            Fault::CloseBeforeHead,
            Fault::Reset,
            Fault::Garbage,
            Fault::HangBeforeHead,
            Fault::HangBeforeFirstEvent,
            Fault::CutAfterEvents { events: 3, reset: true },
            Fault::CutInsideEvent { events: 3 },
            Fault::EndAfterEvents { events: 3 },
            Fault::CutMidJson,
            Fault::ErrorInStream { events: 1 },
            Fault::ErrorInStream { events: 4 },
        ]
    }

    /// All that can go wrong before one.
    fn refusals(&mut self) {
        let body = chat(false);
        let header = format!("{CALLER}cookie: the-secret-cookie\r\nx-custom: the-secret-header\r\n");
        self.post(CHAT, "api-key: a-strangers-key-0123\r\n", &body);
        self.post(CHAT, "authorization: Basic YS1zdHJhbmdlcnMta2V5LTAxMjM=\r\n", &body);
        self.post("/openai/v1/realtime?api-key=a-strangers-key-0123&model=gpt-4o", "", "");
        self.post(&format!("{CHAT}&api-key=the-secret-in-a-query"), &header, &body);
        self.post("/nothing/the-secret-path", &header, &body);
        self.post("/openai/../the-secret-path", &header, &body);
        let twice = format!(r#"{{"model":"a","model":"b","input":"{PROMPT}"}}"#);
        self.post("/v1/embeddings", &header, &twice);
        self.post("/v1/embeddings", &header, PROMPT);
        self.post("/v1/embeddings", &header, &format!(r#"{{"model":"{PROMPT} {PROMPT}","input":"a"}}"#));
        self.post("/v1/embeddings", &format!("{header}content-encoding: gzip\r\n"), PROMPT);
        self.post("/v1/embeddings", &header, &format!(r#"{{"model":"gpt-4o","input":"{PROMPT}"}}"#));
        self.post(&CHAT.replace("gpt-4o", "not-there"), &header, &body);
        let large = body.replace(PROMPT, &PROMPT.repeat(1_000));
        self.post(CHAT, &header, &large);
        self.post(CHAT, &header, &PROMPT.repeat(3_000));
        self.send(&format!(
            "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\n{CALLER}broken header {PROMPT}\r\n\r\n"
        ));
        self.send(&format!(
            "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\n{CALLER}x: {}\r\n\r\n",
            PROMPT.repeat(9_000)
        ));
        self.send(&format!(
            "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\n{CALLER}transfer-encoding: chunked\r\n\r\n{PROMPT}"
        ));
        // Who leaves in the middle of a body, and before an answer.
        Wire::to(self.address).send(request("POST", CHAT, CALLER, &body).trim_end_matches('}'));
        self.fault(&Fault::HangBeforeHead);
        let mut leaving = Wire::to(self.address);
        leaving.send(request("POST", CHAT, CALLER, &body));
        let resources = self.simulator.handle();
        let under_way =
            || resources.resources().iter().map(|resource| resource.counters().in_flight).sum::<u64>();
        until("it has come", || under_way() == 1);
        drop(leaving);
        until("it has left", || under_way() == 0);
    }

    /// Callers with tokens, good and bad, and one at its limits.
    fn callers(&mut self) {
        let now = clock::unix_ms() / 1_000;
        let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
        let good = bearer(&self.token);
        until("the tenant's keys are here", || {
            ask(self.address, "GET", "/v1/models", &good, "").status != 503
        });
        self.fault(&Fault::HangBeforeFirstEvent);
        self.post(CHAT, &good, &chat(false));
        let signed = |key: usize, change: Value| token_with(&KEYS[key], now, &change);
        for token in [
            signed(2, json!({})),
            signed(0, json!({ "exp": 1 })),
            signed(0, json!({ "aud": "the-secret-audience" })),
            signed(0, json!({ "tid": "the-secret-tenant" })),
            signed(0, json!({ "appid": "the-secret-application" })),
            signed(0, json!({ "iss": "the-secret-issuer" })),
            format!("{}AAAA", &self.token[..self.token.len() - 4]),
            self.token.clone() + ".the-secret-part",
            self.token.replacen('.', "", 1),
            "the-secret.token.here".to_owned(),
        ] {
            self.post(CHAT, &bearer(&token), &chat(false));
            assert_eq!(self.ours.last().unwrap().status, 401);
        }
        self.post(CHAT, &format!("{good}{good}"), &chat(false));
        self.post(&CHAT.replace("gpt-4o", "another-one"), LIMITED, &chat(false));
        self.post("/v1/fine_tuning/the-secret-path", LIMITED, "{}");
        self.post(CHAT, LIMITED, &chat(false));
        self.post(CHAT, LIMITED, &chat(false));
        assert_eq!(self.ours.last().unwrap().status, 429);
    }

    fn operators(&mut self) -> String {
        let admin = self.admin;
        let get = |path: &str, headers: &str| ask(admin, "GET", path, headers, "");
        for path in ["/status", "/requests", "/metrics", "/nothing"] {
            self.ours.push(get(path, "authorization: Bearer a-strangers-token-0123\r\n"));
            assert_eq!(self.ours.last().unwrap().status, 401);
        }
        let [status, metrics, requests] =
            ["/status", "/metrics", "/requests"].map(|path| get(path, OPERATOR));
        assert!(requests.json()["kept"].as_u64().unwrap() > 20);
        assert_eq!((status.status, metrics.status, get("/status", BASIC).status), (200, 200, 200));
        self.ours.push(ask(admin, "POST", "/backends/the-secret-path/drain", OPERATOR, ""));
        status.text().to_owned() + metrics.text() + requests.text()
    }
}

fn chat(stream: bool) -> String {
    format!(r#"{{"messages":[{{"role":"user","content":"{PROMPT}"}}],"max_tokens":20,"stream":{stream}}}"#)
}

/// Runs through everything; what the process said, and what it showed.
fn everything(format: &str) -> (String, Vec<String>, Vec<String>) {
    let mut house = House::start(format);
    let answer = ask(house.address, "POST", CHAT, CALLER, &chat(false)).json();
    let completion = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert!(completion.len() > 40, "{completion}");
    for fault in House::faults() {
        for stream in [false, true] {
            house.fault(&fault);
            house.post(CHAT, CALLER, &chat(stream));
        }
    }
    house.refusals();
    house.callers();
    let mut shown = vec![house.operators()];
    house.fault(&Fault::Refuse);
    until("nothing listens there", || {
        ["east", "west"]
            .iter()
            .all(|name| TcpStream::connect(house.simulator.resource(name).address()).is_err())
    });
    house.post(CHAT, CALLER, &chat(false));
    // This one keeps both away for long.
    house.fault(&Fault::RateLimitInStream { events: 1 });
    house.post(CHAT, CALLER, &chat(true));
    house.tenant.mood(Mood::Redirect(format!("http://{TENANT_TEXT}/")));
    house.running.signal("HUP");
    house.running.out().wait_for(&["settings reloaded"]);
    house.running.out().wait_for(&["the keys of Entra ID cannot be fetched"]);
    let keys = format!("{{\"keys\":\"{TENANT_TEXT}\"").into_bytes();
    house.tenant.mood(Mood::Documents { configuration: keys.clone(), keys });
    let asked = house.tenant.asked();
    until("it was asked again", || house.tenant.asked() > asked);
    shown.push(house.operators());
    house.running.signal("TERM");
    let House { running, ours, token, .. } = house;
    let (exit, out, err) = running.end();
    assert_eq!((exit.code(), err.as_str()), (Some(0), ""), "nothing panics");
    assert!(ours.len() > 20, "{}", ours.len());
    shown.extend(ours.into_iter().map(|answer| answer.head.clone() + answer.text()));
    let word = completion.split_inclusive(' ').take(4).collect();
    let parts = token.split('.').skip(1).map(|part| part[..40].to_owned());
    (out, shown, std::iter::once(word).chain(parts).collect())
}

fn assert_silent(text: &str, completions: &[String]) {
    let secrets = [
        PROMPT,
        UPSTREAM_TEXT,
        TENANT_TEXT,
        "the-callers-key",
        "the-callers-other-key",
        "a-subject-nobody-may-see",
        "the-admin-token",
        "dGhlLWFkbWluLXRva2Vu",
        "a-strangers",
        "YS1zdHJhbmdlcnMt",
        "key-of-",
        "the-secret",
    ];
    let secrets = secrets.into_iter().chain(OF_BACKENDS.iter().copied());
    for secret in secrets.chain(completions.iter().map(String::as_str)) {
        let shown = text.find(secret).map(|at| &text[at.saturating_sub(200)..text.len().min(at + 100)]);
        assert!(shown.is_none(), "{secret} is shown: {shown:?}");
    }
}

#[test]
fn at_trace_level_no_key_and_nothing_said_is_shown_in_text() {
    let (out, shown, completions) = everything("text");
    assert_silent(&out, &completions);
    shown.iter().for_each(|text| assert_silent(text, &completions));
    // The rows that were to be met were met.
    for met in [
        "served",
        "throttled",
        "failed",
        "unavailable",
        "unreachable",
        "passed_back",
        "refused",
        "absent",
        "cut_off",
        "unsupported",
        "caller left",
        "timed_out",
        "upstream cut",
        "answered here",
        "DEBUG",
        "attempt failed",
        "cooldown began",
        "resting after failures",
        "refuses our credential",
        "token signature",
        "token key unknown",
        "token expired",
        "token audience",
        "token malformed",
        "token not the only one",
        "caller_limit",
        "deployment_not_allowed",
        "operation_not_allowed",
        "the keys of Entra ID were fetched",
        "the keys of Entra ID cannot be fetched",
        APP,
        "status=413",
        "status=401",
        "status=400",
        "status=404",
        "status=502",
    ] {
        assert!(out.contains(met), "{met} was never met:\n{out}");
    }
    for line in out.lines() {
        assert!(line.starts_with("20") && line.contains("Z "), "not a line of the log: {line}");
    }
}

#[test]
fn at_trace_level_no_key_and_nothing_said_is_shown_in_json() {
    let (out, shown, completions) = everything("json");
    assert_silent(&out, &completions);
    shown.iter().for_each(|text| assert_silent(text, &completions));
    for line in out.lines() {
        let read: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(
            read["time"].is_string() && read["level"].is_string() && read["message"].is_string(),
            "{line}"
        );
    }
}

#[test]
fn hostile_text_is_no_line_of_its_own_and_moves_no_terminal() {
    for format in ["text", "json"] {
        let mut house = House::start(format);
        let evil = "\u{1b}[2J\u{202e}\u{9b}31m\nINFO forged\r\n";
        let body = serde_json::json!({ "model": evil, "input": evil }).to_string();
        house.post("/v1/embeddings", CALLER, &body);
        house.post(CHAT, &format!("{CALLER}user-agent: a\u{9b}31m\u{202e}\r\n"), &chat(false));
        house.post(&format!("{CHAT}&x=%1b[2J%0aINFO+forged"), CALLER, &chat(false));
        house.post("/openai/deployments/%1b%5b2J/chat/completions", CALLER, &chat(false));
        house.send(&format!("{} {CHAT} HTTP/1.1\r\nhost: localhost\r\n{CALLER}\r\n", "M".repeat(5_000)));
        let name = "POST /backends/%1b%5b2J%0aINFO%20forged/drain HTTP/1.1\r\nhost: localhost\r\n";
        let answer = Wire::to(house.admin).send(format!("{name}{OPERATOR}\r\n")).answer().unwrap();
        assert_eq!(answer.status, 404);
        house.running.signal("TERM");
        let (_, out, err) = house.running.end();
        assert_eq!(err, "");
        assert!(!out.contains("forged"), "{out}");
        let harmless = |c: char| c == '\n' || !(c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c));
        assert!(out.chars().all(harmless), "{out:?}");
        let cut = "M".repeat(200) + "…";
        assert!(out.contains(&cut) && !out.contains(&"M".repeat(201)), "{out}");
    }
}
