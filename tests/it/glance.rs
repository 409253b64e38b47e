//! What an operator must see in ten seconds: who uses it, how much quota is left and until when, who would serve a
//! request now and why the others would not; and that telling costs log lines, never requests.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};
use sidestep::app::balancer::Balancer;
use sidestep::simulator::{Fault, FaultRule, ResourceSettings};
use sidestep::telemetry::LogFormat;
use sidestep::telemetry::sink::Sink;

use super::fixture::{CHAT, QUESTION, Scene, settings};
use super::front::{Front, backends, resources};
use super::raw::{Answer, ask, get};

fn chat(front: &Front, headers: &str) -> u16 {
    ask(front.address(), "POST", CHAT, headers, QUESTION).status
}

fn explain(front: &Front, query: &str) -> Answer {
    get(front.admin(), &format!("/explain?{query}"))
}

/// A resource that has the model under another name too.
fn also_called(resource: &mut ResourceSettings, name: &str) {
    let kind = resource.deployments["gpt-4o"];
    resource.deployments.insert(name.to_owned(), kind);
}

/// Name, turn and obstacle of each backend.
fn turns(document: &Value) -> Vec<(&str, &str, Option<&str>)> {
    let backends = document["backends"].as_array().unwrap().iter();
    backends
        .map(|one| (one["name"].as_str().unwrap(), one["turn"].as_str().unwrap(), one["obstacle"].as_str()))
        .collect()
}

#[test]
fn it_is_explained_who_would_serve_a_request_and_nothing_changes_by_it() {
    let scene = Scene::of([("east", 1), ("west", 1), ("north", 2)])
        .backend("north", "deployments = { \"gpt-4o\" = \"gpt-4o-north\" }")
        .resource("north", |north| also_called(north, "gpt-4o-north"));
    let front = Front::of(scene);
    let answer = explain(&front, "deployment=gpt-4o&bytes=4000");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let document = answer.json();
    let expected = [("east", "drawn", None), ("west", "drawn", None), ("north", "spillover", None)];
    assert_eq!(turns(&document), expected);
    assert_eq!((&document["deployment"], &document["tokens"]), (&json!("gpt-4o"), &json!(1_000)));
    assert_eq!(document["backends"][0]["chance"], json!(0.5));

    assert_eq!(ask(front.admin(), "POST", "/backends/west/drain", "", "").status, 200);
    front.resource("east").fault(FaultRule::times(Fault::throttle_seconds(50), 1));
    assert_eq!(chat(&front, ""), 200, "north answers");
    let before = front.status();
    let document = explain(&front, "deployment=gpt-4o&bytes=4000&lowest_priority=1").json();
    let expected = [
        ("east", "not", Some("cooling")),
        ("west", "not", Some("out_of_use")),
        ("north", "not", Some("out_of_use")),
    ];
    assert_eq!((turns(&document), &document["served"]), (expected.into(), &json!(false)));
    let left = document["backends"][0]["remaining_ms"].as_u64().unwrap();
    assert!((30_000..=50_000).contains(&left), "{left}");
    assert!(document["backends"][0]["text"].as_str().unwrap().starts_with("not now: cooling for "));
    let document = explain(&front, "deployment=gpt-4o").json();
    assert_eq!(turns(&document)[0], ("north", "drawn", None));
    assert_eq!(document["served"], true);
    // By the name of the deployment there, as the status tells it.
    let there = explain(&front, "deployment=gpt-4o-north&backend=north").json();
    assert_eq!((&there["deployment"], turns(&there)), (&json!("gpt-4o"), turns(&document)));

    for _ in 0..50 {
        assert_eq!(explain(&front, "deployment=never-heard-of&backend=east").status, 200);
    }
    let after = front.status();
    for (one, other) in
        before["backends"].as_array().unwrap().iter().zip(after["backends"].as_array().unwrap())
    {
        assert_eq!(one["requests_total"], other["requests_total"]);
        assert_eq!(
            one["lanes"].as_array().map(Vec::len),
            other["lanes"].as_array().map(Vec::len),
            "asking makes no lane"
        );
    }
    assert_eq!(before["callers"], after["callers"]);
}

#[test]
fn a_question_that_cannot_be_answered_is_told_why() {
    let front = Front::of(Scene::of([("east", 1)]).backend("east", "deployments = { \"gpt-4o\" = \"x\" }"));
    for (query, status, error) in [
        ("", 400, "deployment is missing; expected e.g. /explain?deployment=gpt-4o&bytes=4000"),
        ("deployment=gpt-4o&bytes=many", 400, "bytes: expected a whole number, found `many`"),
        ("deployment=gpt-5", 404, "no backend serves gpt-5; these are served: gpt-4o"),
        ("deployment=gpt-4o&backend=east", 404, "there is no such backend, or no gpt-4o on it"),
        ("deployment=x&backend=west", 404, "there is no such backend, or no x on it"),
    ] {
        let answer = explain(&front, query);
        assert_eq!((answer.status, answer.json()), (status, json!({ "error": error })), "{query}");
    }
    let front = Front::of(Scene::of([("east", 1)]).server("admin_token = \"the-admin-token-0123456789\""));
    assert_eq!(explain(&front, "deployment=gpt-4o").status, 401);
    let never_seen = Front::of(Scene::of([("east", 1)]));
    let document = explain(&never_seen, "deployment=gpt-4o").json();
    assert_eq!((&document["known"], &document["served"]), (&json!(false), &json!(true)));
}

#[test]
fn it_is_told_who_uses_it_and_whose_requests_fail() {
    const APP: &str = "api-key: the-key-of-the-app-01\r\n";
    let front = Front::of(Scene::of([("east", 1)]).toml(
        "[callers]\nanonymous = true\n[[callers.keys]]\nname = \"app\"\nkey = \"the-key-of-the-app-01\"\n",
    ));
    assert_eq!(front.status()["by_caller"]["callers"], json!([]));
    (0..3).for_each(|_| assert_eq!(chat(&front, APP), 200));
    assert_eq!(chat(&front, ""), 200);
    front.resource("east").fault(Fault::throttle_seconds(30));
    assert_eq!((chat(&front, APP), chat(&front, APP)), (429, 429));
    let status = get(front.admin(), "/status").json();
    let by_caller = &status["by_caller"];
    assert_eq!(
        (&by_caller["lately_seconds"], &by_caller["others"], &by_caller["rest"]),
        (&json!(300), &json!(0), &Value::Null)
    );
    let told = by_caller["callers"].as_array().unwrap();
    let row = |one: &Value| (one["name"].clone(), one["requests"].clone(), one["failed"].clone());
    assert_eq!(
        told.iter().map(row).collect::<Vec<_>>(),
        [(json!("app"), json!(5), json!(2)), (json!("anonymous"), json!(1), json!(0))]
    );
    let tokens = |of: &Value| of["tokens"].as_u64().unwrap();
    assert!(tokens(&told[0]) > tokens(&told[1]), "{told:?}");
    let all = &status["tokens"];
    let all = all["prompt_total"].as_u64().unwrap() + all["completion_total"].as_u64().unwrap();
    assert_eq!(tokens(&told[0]) + tokens(&told[1]), all);
    assert_eq!(told[0]["tokens_total"], told[0]["tokens"]);
}

#[test]
fn what_is_left_of_a_quota_is_told_with_the_moment_at_which_all_is_there_again() {
    let scene = Scene::of([("east", 1), ("west", 2)]).resource("east", |east| {
        east.quota.tokens_per_minute = 30_000;
        east.quota.requests_per_minute = Some(1_000_000);
    });
    let front = Front::of(scene);
    assert_eq!(chat(&front, ""), 200);
    let quota = |status: &Value| status["backends"][0]["lanes"][0]["quota"].clone();
    let known = quota(&front.status());
    assert_eq!(known["limit_tokens"], 30_000);
    let left = known["remaining_tokens"].as_u64().unwrap();
    assert!((20_000..30_000).contains(&left), "{left}");
    front.resource("east").fault(FaultRule::times(Fault::throttle_seconds(40), 1));
    assert_eq!(chat(&front, ""), 200, "west answers");
    let throttled = quota(&front.status());
    let restart = throttled["restart_ms"].as_u64().unwrap();
    assert!((20_000..=40_000).contains(&restart), "{throttled}");
    assert!(throttled["remaining_tokens"].as_u64().unwrap() < left, "{throttled}");
    let text = get(front.admin(), "/metrics").text().to_owned();
    for series in [
        r#"sidestep_lane_quota_tokens{backend="east",deployment="gpt-4o",kind="limit"} 30000"#,
        r#"sidestep_lane_tokens_total{backend="east",deployment="gpt-4o",kind="prompt"} "#,
        r#"sidestep_lane_tokens_total{backend="west",deployment="gpt-4o",kind="completion"} "#,
    ] {
        assert!(text.contains(series), "{series} in\n{text}");
    }
}

#[test]
fn a_lanes_tokens_are_counted_by_its_name_there_as_its_quota_is() {
    let scene = Scene::of([("east", 1)])
        .backend("east", "deployments = { \"gpt-4o\" = \"gpt-4o-east\" }")
        .resource("east", |east| also_called(east, "gpt-4o-east"));
    let front = Front::of(scene);
    assert_eq!(chat(&front, ""), 200);
    let text = get(front.admin(), "/metrics").text().to_owned();
    let count = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!(count(r#"sidestep_lane_tokens_total{backend="east",deployment="gpt-4o-east","#), 3, "{text}");
    assert_eq!(count(r#"sidestep_lane_tokens_total{backend="east",deployment="gpt-4o","#), 0, "{text}");
    assert_eq!(count(r#"sidestep_tokens_total{deployment="gpt-4o","#), 3, "{text}");
}

/// Takes nothing until it is let go.
struct Stalled {
    go: Receiver<()>,
}

impl Write for Stalled {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.go.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_log_that_nobody_reads_costs_lines_which_are_counted_and_no_request() {
    let simulator = resources(&["east"]);
    let text = "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n".to_owned()
        + &backends(simulator.handle().resources());
    let (let_go, go) = channel();
    let sink = Sink::with_capacity(Stalled { go }, LogFormat::Text, 4_000).unwrap();
    let balancer = Balancer::start(settings(&text), sink).unwrap();
    let served = (0..40).filter(|_| ask(balancer.address(), "POST", CHAT, "", QUESTION).status == 200);
    assert_eq!(served.count(), 40);
    let text = get(balancer.admin_address().unwrap(), "/metrics").text().to_owned();
    let dropped = text.lines().find_map(|line| line.strip_prefix("sidestep_log_lines_dropped_total "));
    let dropped: u64 = dropped.unwrap().parse().unwrap();
    // What the writer has taken, and a buffer's worth, is not lost.
    assert!((10..40).contains(&dropped), "{dropped}");
    drop(let_go);
    balancer.abort();
    assert!(balancer.wait());
}
