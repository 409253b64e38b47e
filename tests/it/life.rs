//! The shipped binary from its start to its end: settings, signals, reload, drain, and its smaller verbs.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::Value;
use sidestep::simulator::{Fault, FaultRule, Simulator};

use super::fixture::{CHAT, QUESTION, STREAMED, key_of};
use super::front::{backends, resources};
use super::process::Running;
use super::raw::{Wire, ask, get, now, request, until};

/// A settings file in a folder of its own, and the balancer that reads it.
struct Daemon {
    running: Running,
    folder: tempfile::TempDir,
    address: SocketAddr,
    admin: SocketAddr,
}

const ANY_PORTS: &str = "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n";

impl Daemon {
    fn start(server: &str, rest: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), server, rest);
        let running = Running::start(folder.path(), &[], &[]);
        let (address, admin) = running.addresses();
        Self { running, folder, address, admin: admin.unwrap() }
    }

    /// Changes the file and says so.
    fn reload(&self, server: &str, rest: &str) {
        write(self.folder.path(), server, rest);
        self.running.signal("HUP");
    }

    fn chat(&self) -> (u16, Option<String>) {
        let answer = ask(self.address, "POST", CHAT, "", QUESTION);
        (answer.status, answer.header("x-sidestep-backend").map(str::to_owned))
    }

    fn status(&self) -> Value {
        get(self.admin, "/status").json()
    }
}

fn write(folder: &Path, server: &str, rest: &str) {
    let text = format!("[server]\n{ANY_PORTS}{server}\n{rest}");
    std::fs::write(folder.join("sidestep.toml"), text).unwrap();
}

fn all(simulator: &Simulator) -> String {
    backends(simulator.handle().resources())
}

fn one(simulator: &Simulator, name: &str) -> String {
    backends([simulator.resource(name)])
}

/// A stream that is under way, its first event read.
fn open_stream(daemon: &Daemon) -> Wire {
    let mut stream = Wire::to(daemon.address);
    assert_eq!(stream.send(request("POST", CHAT, "", STREAMED)).head().unwrap().status, 200);
    assert!(stream.chunk().is_some_and(|chunk| !chunk.is_empty()));
    stream
}

fn rest_of(mut stream: Wire) -> (String, bool) {
    let mut text = String::new();
    while let Some(chunk) = stream.chunk() {
        if chunk.is_empty() {
            return (text, true);
        }
        text.push_str(&String::from_utf8(chunk).unwrap());
    }
    (text, false)
}

#[test]
fn asked_to_stop_it_is_unready_then_closed_and_lets_a_stream_end_whole() {
    let simulator = resources(&["east"]);
    let daemon = Daemon::start("drain_delay = \"2s\"", &all(&simulator));
    simulator.resource("east").fault(FaultRule::times(Fault::SlowEvents { gap_ms: 100 }, 1));
    let stream = open_stream(&daemon);
    let mut idle = Wire::to(daemon.address);
    let silent = Wire::to(daemon.address);
    assert_eq!(idle.send(request("POST", CHAT, "", QUESTION)).answer().unwrap().status, 200);
    let began = now();
    daemon.running.signal("TERM");
    until("unready", || get(daemon.address, "/readyz").status == 503);
    assert_eq!(daemon.chat().0, 200, "platforms still route to us");
    assert_eq!(get(daemon.address, "/livez").status, 200);
    assert!(began.elapsed().as_millis() < 1900, "all that within the delay");
    until("closed", || TcpStream::connect(daemon.address).is_err());
    assert!(began.elapsed().as_millis() >= 2000, "not before the delay is over");
    assert!(idle.closed(), "an idle connection is told");
    let (text, whole) = rest_of(stream);
    assert!(whole && text.ends_with("data: [DONE]\n\n"), "{text}");
    let Daemon { running, .. } = daemon;
    let (exit, out, err) = running.end();
    assert_eq!((exit.code(), err.as_str()), (Some(0), ""));
    assert!(out.contains("drained") && !out.contains("cutting"), "{out}");
    assert!(began.elapsed().as_secs() < 20, "a connection that never spoke does not hold it up");
    drop(silent);
}

#[test]
fn a_second_signal_stops_at_once() {
    let simulator = resources(&["east"]);
    for (first, second) in [("TERM", "TERM"), ("INT", "TERM")] {
        let daemon = Daemon::start("drain_delay = \"20s\"", &all(&simulator));
        simulator.resource("east").fault(FaultRule::times(Fault::SlowEvents { gap_ms: 5_000 }, 1));
        let mut stream = Wire::to(daemon.address);
        assert_eq!(stream.send(request("POST", CHAT, "", QUESTION)).answer().unwrap().status, 200);
        let began = now();
        daemon.running.signal(first);
        daemon.running.out().wait_for(&["draining"]);
        daemon.running.signal(second);
        let (exit, _, err) = daemon.running.end();
        assert_eq!((exit.code(), err.as_str()), (Some(0), ""));
        assert!(began.elapsed().as_secs() < 15 && stream.closed());
        simulator.resource("east").clear();
    }
}

#[test]
fn interrupted_in_mid_stream_it_lets_the_stream_end_and_interrupted_again_it_stops_at_once() {
    for twice in [false, true] {
        let simulator = resources(&["east"]);
        let daemon = Daemon::start("", &all(&simulator));
        let gap_ms = if twice { 5_000 } else { 100 };
        simulator.resource("east").fault(FaultRule::times(Fault::SlowEvents { gap_ms }, 1));
        let stream = open_stream(&daemon);
        let began = now();
        daemon.running.signal("INT");
        daemon.running.out().wait_for(&["draining"]);
        if twice {
            daemon.running.signal("INT");
        }
        let (text, whole) = rest_of(stream);
        assert_eq!(whole && text.ends_with("data: [DONE]\n\n"), !twice, "{text}");
        let (exit, out, err) = daemon.running.end();
        assert_eq!((exit.code(), err.as_str()), (Some(0), ""));
        assert_eq!(out.contains("stopped before the drain was through"), twice, "{out}");
        assert!(began.elapsed().as_secs() < 4 || !twice, "a second time is at once");
    }
}

#[test]
fn without_a_terminal_the_live_view_of_a_running_balancer_is_plain_lines() {
    let simulator = resources(&["east"]);
    let daemon = Daemon::start("", &all(&simulator));
    assert_eq!(daemon.chat().0, 200);
    let admin = format!("http://{}", daemon.admin);
    let top = Running::start(daemon.folder.path(), &["top", "--admin", &admin], &[]);
    let line = top.out().wait_for(&["requests", "ok", "east: admitting"]);
    assert!(line.contains(" 1 ") && !line.contains('\u{1b}'), "{line:?}");
    simulator.resource("east").fault(FaultRule::times(Fault::throttle_seconds(30), 1));
    assert_eq!(daemon.chat().0, 429);
    top.out().wait_for(&["east: cooling"]);
    top.signal("INT");
    let (exit, _, err) = top.end();
    assert_eq!((exit.code(), err.as_str()), (Some(0), ""));
}

#[test]
fn a_stream_beyond_the_drains_time_is_told_so_and_never_looks_complete() {
    let simulator = resources(&["east"]);
    let daemon = Daemon::start("drain_timeout = \"300ms\"", &all(&simulator));
    simulator.resource("east").fault(FaultRule::times(Fault::SlowEvents { gap_ms: 3_000 }, 1));
    let stream = open_stream(&daemon);
    daemon.running.signal("TERM");
    let (text, whole) = rest_of(stream);
    assert!(!whole, "{text}");
    let last: Value = serde_json::from_str(text.trim().rsplit("data: ").next().unwrap()).unwrap();
    assert!(last["error"]["code"].is_string() && !text.contains("[DONE]"), "{text}");
    assert!(last["error"]["message"].as_str().unwrap().starts_with("The balancer shuts down"), "{text}");
    let (exit, out, err) = daemon.running.end();
    assert_eq!((exit.code(), err.as_str()), (Some(0), ""));
    assert!(out.contains("the drain's time is over"), "{out}");
    // The backend is not to blame, and what came is counted.
    let record = out.lines().find(|line| line.contains(" stream=true ")).expect("a record");
    assert!(record.contains("stopped here") && record.contains("attempts=\"east served\""), "{record}");
    assert!(record.contains("estimated=true") && !out.contains("cut_off"), "{out}");
}

#[test]
fn a_reload_under_load_loses_and_doubles_nothing_and_takes_the_new_backends() {
    let simulator = resources(&["east", "west", "north"]);
    let daemon = Daemon::start("", &one(&simulator, "east"));
    let (done, asked, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for kept in [true, true, false] {
            let (done, asked, failed, address) = (&done, &asked, &failed, daemon.address);
            scope.spawn(move || {
                let mut wire = Wire::to(address);
                while !done.load(Ordering::Relaxed) {
                    if !kept {
                        wire = Wire::to(address);
                    }
                    let answer = wire.send(request("POST", CHAT, "", QUESTION)).answer();
                    asked.fetch_add(1, Ordering::Relaxed);
                    if answer.is_none_or(|answer| answer.status != 200) {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for name in ["west", "north", "east", "west"] {
            daemon.reload("", &one(&simulator, name));
            until("the new backend is used", || daemon.chat() == (200, Some(name.to_owned())));
            let before = asked.load(Ordering::Relaxed);
            until("more requests", || asked.load(Ordering::Relaxed) > before + 50);
            let others = ["east", "west", "north"].into_iter().filter(|other| *other != name);
            let others: Vec<_> = others.map(|other| simulator.resource(other)).collect();
            let seen = || others.iter().map(|other| other.counters().requests).sum::<u64>();
            until("what was under way there ends", || {
                others.iter().all(|other| other.counters().in_flight == 0)
            });
            let (seen_before, before) = (seen(), asked.load(Ordering::Relaxed));
            until("more requests", || asked.load(Ordering::Relaxed) > before + 50);
            assert_eq!(seen(), seen_before, "those that were removed are left alone");
            assert_eq!(daemon.status()["backends"].as_array().unwrap().len(), 1);
            assert_eq!(daemon.status()["backends"][0]["name"], name);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0);
    let answered = daemon.status()["callers"]["requests_total"].as_u64().unwrap();
    let served: u64 =
        simulator.handle().resources().iter().map(|resource| resource.counters().requests).sum();
    assert!(answered > asked.load(Ordering::Relaxed));
    assert_eq!(served, answered, "each request went to one backend, once");
}

#[test]
fn a_stream_that_runs_during_a_reload_ends_on_its_old_backend() {
    let simulator = resources(&["east", "west"]);
    let daemon = Daemon::start("", &one(&simulator, "east"));
    simulator.resource("east").fault(FaultRule::times(Fault::SlowEvents { gap_ms: 50 }, 1));
    let stream = open_stream(&daemon);
    for name in ["west", "east", "west"] {
        daemon.reload("", &one(&simulator, name));
        until("reloaded", || daemon.status()["backends"][0]["name"] == name);
    }
    let (text, whole) = rest_of(stream);
    assert!(whole && text.ends_with("data: [DONE]\n\n"), "{text}");
    assert_eq!(simulator.resource("east").counters().streams_aborted, 0);
    assert_eq!(daemon.chat(), (200, Some("west".to_owned())));
}

#[test]
fn a_request_that_waits_during_a_reload_goes_on_among_the_new_backends() {
    let simulator = resources(&["east", "west"]);
    let patience = "[retry]\nfirst_byte_timeout = \"1s\"\n";
    let daemon = Daemon::start("", &(one(&simulator, "east") + patience));
    simulator.resource("east").fault(FaultRule::times(Fault::HangBeforeHead, 1));
    let mut waiting = Wire::to(daemon.address);
    waiting.send(request("POST", CHAT, "", QUESTION));
    until("east has it", || simulator.resource("east").counters().in_flight == 1);
    daemon.reload("", &(one(&simulator, "west") + patience));
    daemon.running.out().wait_for(&["settings reloaded"]);
    let answer = waiting.answer().unwrap();
    assert_eq!((answer.status, answer.header("x-sidestep-backend")), (200, Some("west")));
    daemon
        .running
        .out()
        .wait_for(&["backend=west", "attempts=\"east timed_out (first byte timeout), west served\""]);
    daemon.running.signal("TERM");
    daemon.running.end();
}

#[test]
fn a_reload_changes_who_may_call_and_leaves_what_an_operator_drained() {
    let simulator = resources(&["east", "west"]);
    let callers =
        |key: &str| format!("[callers]\nkeys = [{{ name = \"app\", key = \"{key}\" }}]\n{}", all(&simulator));
    let daemon = Daemon::start("", &callers("the-first-key-0123456789"));
    let call = |key: &str| ask(daemon.address, "POST", CHAT, &format!("api-key: {key}\r\n"), QUESTION);
    assert_eq!(ask(daemon.admin, "POST", "/backends/east/drain", "", "").status, 200);
    assert_eq!(call("the-first-key-0123456789").header("x-ms-region"), Some("west"));
    daemon.reload("", &callers("the-other-key-0123456789"));
    daemon.running.out().wait_for(&["settings reloaded"]);
    assert_eq!(call("the-first-key-0123456789").status, 401);
    assert_eq!(call("the-other-key-0123456789").header("x-ms-region"), Some("west"));
    assert_eq!(daemon.status()["backends"][0]["drained"], true);
}

#[test]
fn a_wrong_file_keeps_the_old_settings_and_the_log_says_why() {
    let simulator = resources(&["east", "west"]);
    let daemon = Daemon::start("", &one(&simulator, "east"));
    let wrong = one(&simulator, "west").replace("priority = 1", "prioritty = 1");
    daemon.reload("", &wrong);
    let line = daemon.running.out().wait_for(&["ERROR", "not reloaded", "prioritty"]);
    assert!(line.contains("priority"), "{line}");
    assert_eq!(daemon.chat(), (200, Some("east".to_owned())));

    daemon.reload("workers = 3", &one(&simulator, "west"));
    daemon.running.out().wait_for(&["ERROR", "not reloaded", "server.workers"]);
    assert_eq!(daemon.chat(), (200, Some("east".to_owned())));

    daemon.reload("admin_token = \"a-new-token-0123456789\"", &one(&simulator, "west"));
    daemon.running.out().wait_for(&["ERROR", "not reloaded", "server.admin_token"]);
    assert_eq!(get(daemon.admin, "/status").status, 200, "what guards the operators' door has not changed");

    std::fs::remove_file(daemon.folder.path().join("sidestep.toml")).unwrap();
    daemon.running.signal("HUP");
    daemon.running.out().wait_for(&["ERROR", "not reloaded", "no backend is set any more"]);
    assert_eq!(daemon.chat(), (200, Some("east".to_owned())));

    daemon.reload("", &one(&simulator, "west"));
    daemon.running.out().wait_for(&["settings reloaded"]);
    assert_eq!(daemon.chat(), (200, Some("west".to_owned())));
}

#[test]
fn what_was_learnt_of_a_backend_outlives_a_reload() {
    let simulator = resources(&["east", "west"]);
    let daemon = Daemon::start("", &all(&simulator));
    simulator.resource("east").fault(FaultRule::times(Fault::throttle_seconds(40), 1));
    assert_eq!(daemon.chat(), (200, Some("west".to_owned())));
    let lane = |status: &Value| status["backends"][0]["lanes"][0].clone();
    let before = lane(&daemon.status());
    assert_eq!(before["state"], "cooling");
    daemon.reload("explain_headers = true", &(all(&simulator) + "[retry]\ndeadline = \"500s\"\n"));
    daemon.running.out().wait_for(&["settings reloaded"]);
    let after = lane(&daemon.status());
    assert_eq!((&after["state"], &after["throttled_total"]), (&"cooling".into(), &1.into()));
    let (before, after) = (before["remaining_ms"].as_u64().unwrap(), after["remaining_ms"].as_u64().unwrap());
    assert!(after <= before && after > before - 20_000, "{before} {after}");
    assert_eq!(daemon.chat(), (200, Some("west".to_owned())));
    assert_eq!(simulator.resource("east").counters().requests, 1);
}

fn run(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let (exit, out, err) = Running::start(folder, arguments, variables).end();
    (exit.code(), out, err)
}

#[test]
fn wrong_settings_end_with_78_and_everything_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = "[server]\nlistn = \"a\"\nworkers = 0\n[[backends]]\nurl = \"nowhere\"\n";
    std::fs::write(folder.path().join("sidestep.toml"), wrong).unwrap();
    for arguments in [
        &[][..],
        &["serve"],
        &["check"],
        &["--config", "sidestep.toml"],
        &["check", "--config", "sidestep.toml"],
    ] {
        let (code, out, err) = run(folder.path(), arguments, &[]);
        assert_eq!((code, out.as_str()), (Some(78), ""), "{arguments:?}");
        for told in [
            "server.listn",
            "line 2",
            "`listen`",
            "server.workers",
            "line 3",
            "backends[0].url",
            "line 5",
            "backends[0].api_key",
            "problems in the settings",
        ] {
            assert!(err.contains(told), "{arguments:?} does not tell {told}:\n{err}");
        }
    }
    let (code, _, err) = run(folder.path(), &["--config", "elsewhere.toml"], &[]);
    assert_eq!(code, Some(78));
    assert!(err.contains("elsewhere.toml"), "{err}");
}

#[test]
fn with_nothing_set_it_ends_with_78_and_the_lines_to_set() {
    let folder = tempfile::tempdir().unwrap();
    let (code, out, err) = run(folder.path(), &[], &[]);
    assert_eq!((code, out.as_str()), (Some(78), ""));
    for told in ["BACKEND_1_URL", "BACKEND_1_APIKEY", "sidestep demo", "sidestep.toml"] {
        assert!(err.contains(told), "{err}");
    }
    assert!(err.lines().count() < 20 && !err.contains("found:"), "short:\n{err}");
}

#[test]
fn misused_words_end_with_2() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["serv"][..], &["--confg", "a"], &["demo", "--seconds", "x"], &["check", "a"]] {
        let (code, out, err) = run(folder.path(), arguments, &[]);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(err.contains("error:"), "{err}");
    }
    let (code, out, _) = run(folder.path(), &["--version"], &[]);
    assert_eq!((code, out), (Some(0), format!("sidestep {}\n", env!("CARGO_PKG_VERSION"))));
    let (code, out, _) = run(folder.path(), &["--help"], &[]);
    assert!(code == Some(0) && out.contains("Examples:") && out.contains("BACKEND_1_URL"), "{out}");
}

#[test]
fn an_address_in_use_ends_with_1_and_names_it() {
    let simulator = resources(&["east"]);
    let folder = tempfile::tempdir().unwrap();
    let taken = simulator.addresses()[0].to_string();
    let (url, key) = (simulator.resource("east").url(), key_of("east"));
    let variables =
        [("BACKEND_1_URL", url.as_str()), ("BACKEND_1_APIKEY", &key), ("SIDESTEP_LISTEN", &taken)];
    let (code, _, err) = run(folder.path(), &[], &variables);
    assert_eq!(code, Some(1));
    assert!(err.contains(&format!("cannot listen on {taken}")), "{err}");
}

#[test]
fn check_shows_what_was_understood_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let good = "[callers]\nkeys = [{ name = \"app\", key = \"a-callers-key-0123456789\" }]\n\
        [[backends]]\nname = \"west\"\nurl = \"https://west.openai.azure.com/openai/v1/\"\napi_key = \"${WEST_KEY}\"\npriority = 2\n\
        [[backends]]\nname = \"east\"\nurl = \"https://east.openai.azure.com\"\napi_key = \"${file:key}\"\nweight = 3\n";
    std::fs::write(folder.path().join("sidestep.toml"), good).unwrap();
    std::fs::write(folder.path().join("key"), "the-secret-of-east\n").unwrap();
    let (code, out, err) = run(folder.path(), &["check"], &[("WEST_KEY", "the-secret-of-west")]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    for told in [
        "http://127.0.0.1:8080",
        "http://127.0.0.1:9080",
        "app",
        "backends of priority 1",
        "backends of priority 2",
        "https://west.openai.azure.com",
        "weight 3",
        "****",
    ] {
        assert!(out.contains(told), "no {told}:\n{out}");
    }
    for secret in ["the-secret", "a-callers-key"] {
        assert!(!out.contains(secret), "{out}");
    }
    let east = out.find("east.openai").unwrap();
    assert!(east < out.find("west.openai").unwrap(), "in the order in which they are used");
}

#[test]
fn the_variables_of_openai_aca_lb_are_all_it_takes() {
    let simulator = resources(&["east", "west", "north"]);
    let url = |name: &str| simulator.resource(name).url() + "/";
    let (east, west, north) = (url("east"), format!("  {} ", url("west")), url("north"));
    let keys = ["east", "west", "north"].map(key_of);
    let folder = tempfile::tempdir().unwrap();
    let variables = [
        ("BACKEND_1_URL", east.as_str()),
        ("BACKEND_1_PRIORITY", "1"),
        ("BACKEND_1_APIKEY", keys[0].as_str()),
        ("BACKEND_2_URL", west.as_str()),
        ("BACKEND_2_PRIORITY", " 2"),
        ("BACKEND_2_APIKEY", keys[1].as_str()),
        ("BACKEND_2_DEPLOYMENT_NAME", "gpt-4o"),
        ("BACKEND_7_URL", north.as_str()),
        ("BACKEND_7_PRIORITY", "3"),
        ("BACKEND_7_APIKEY", keys[2].as_str()),
        ("HTTP_TIMEOUT_SECONDS", "100"),
        ("SIDESTEP_LISTEN", "127.0.0.1:0"),
        ("SIDESTEP_ADMIN_LISTEN", "127.0.0.1:0"),
    ];
    let running = Running::start(folder.path(), &[], &variables);
    let (address, _) = running.addresses();
    let chat = |path: &str| ask(address, "POST", path, "api-key: whatever\r\n", QUESTION);
    assert_eq!(chat(CHAT).header("x-ms-region"), Some("east"));
    simulator.resource("east").fault(Fault::throttle_seconds(20));
    let other_name = CHAT.replace("gpt-4o", "my-name");
    assert_eq!(
        chat(&other_name).header("x-ms-region"),
        Some("west"),
        "BACKEND_2 calls every deployment gpt-4o"
    );
    assert_eq!(simulator.resource("west").last_request().unwrap().uri, CHAT);
    simulator.resource("west").fault(Fault::throttle_seconds(20));
    assert_eq!(chat(CHAT).header("x-ms-region"), Some("north"));
    simulator.resource("north").fault(Fault::throttle_seconds(20));
    chat(CHAT);
    let told = chat(CHAT);
    assert_eq!(told.status, 429);
    let seconds: u64 = told.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=21).contains(&seconds), "{seconds}");
    running.signal("TERM");
    assert_eq!(running.end().0.code(), Some(0));
}

#[test]
fn beyond_loopback_it_must_be_said_who_may_call() {
    let folder = tempfile::tempdir().unwrap();
    let open = [
        ("BACKEND_1_URL", "http://127.0.0.1:1"),
        ("BACKEND_1_APIKEY", "0123456789abcdef"),
        ("SIDESTEP_LISTEN", "0.0.0.0:0"),
    ];
    let (code, _, err) = run(folder.path(), &[], &open);
    assert_eq!(code, Some(78));
    assert!(err.contains("SIDESTEP_CALLER_KEYS") && err.contains("SIDESTEP_ANONYMOUS"), "{err}");
}

#[test]
fn health_ends_with_0_where_a_balancer_answers_and_else_with_1() {
    let simulator = resources(&["east"]);
    let daemon = Daemon::start("", &all(&simulator));
    let folder = daemon.folder.path();
    let url = format!("http://{}", daemon.address);
    assert_eq!(run(folder, &["health", "--url", &url], &[]), (Some(0), String::new(), String::new()));
    daemon.running.signal("TERM");
    until("closed", || TcpStream::connect(daemon.address).is_err());
    let (code, _, err) = run(folder, &["health", "--url", &url], &[]);
    assert!(code == Some(1) && err.contains(&url), "{err}");
}

#[test]
fn each_new_key_is_long_new_and_admits() {
    let folder = tempfile::tempdir().unwrap();
    let keys = [(); 2].map(|()| run(folder.path(), &["key"], &[]).1);
    assert_ne!(keys[0], keys[1]);
    let simulator = resources(&["east"]);
    let key = keys[0].trim_end();
    let callers = format!("[callers]\nkeys = [{{ name = \"app\", key = \"{key}\" }}]\n");
    let daemon = Daemon::start("", &(callers + &all(&simulator)));
    assert_eq!(daemon.chat().0, 401);
    let authorization = format!("authorization: Bearer {key}\r\n");
    assert_eq!(ask(daemon.address, "POST", CHAT, &authorization, QUESTION).status, 200);
}

#[test]
fn simulate_answers_like_azure_until_it_is_told_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resources.toml");
    std::fs::write(&file, "[[resources]]\nname = \"east\"\n[[resources]]\nname = \"west\"\n").unwrap();
    let running = Running::start(folder.path(), &["simulate", "--config", "resources.toml"], &[]);
    let line = running.out().wait_for(&["west listens on http://"]);
    let address: SocketAddr = line.split_once("http://").unwrap().1.parse().unwrap();
    let answer = ask(address, "POST", CHAT, "api-key: any\r\n", QUESTION);
    assert_eq!((answer.status, answer.header("x-ms-region")), (200, Some("west")));
    running.out().wait_for(&["Ctrl-C"]);
    running.signal("TERM");
    let (exit, _, err) = running.end();
    assert_eq!((exit.code(), err.as_str()), (Some(0), ""));
    std::fs::write(&file, "[[resources]]\nnam = \"east\"\n").unwrap();
    let (code, _, err) = run(folder.path(), &["simulate", "--config", "resources.toml"], &[]);
    assert!(code == Some(78) && err.contains("nam"), "{err}");
}

#[test]
fn the_demo_ends_by_itself_with_what_its_callers_saw() {
    let folder = tempfile::tempdir().unwrap();
    let (code, out, err) = run(folder.path(), &["demo", "--seconds", "3", "--port", "0"], &[]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("Sidestep demo at http://127.0.0.1:") && out.contains("curl "), "{out}");
    assert!(!out.contains("a-simulated-key"), "{out}");
}

#[test]
fn operators_hear_of_refused_connections() {
    let simulator = resources(&["east"]);
    let daemon = Daemon::start("", &(all(&simulator) + "[limits]\nconnections = 2\n"));
    let _open: Vec<_> = (0..3).map(|_| Wire::to(daemon.address)).collect();
    daemon.running.out().wait_for(&["connections refused", "limits.connections", "2"]);
}
