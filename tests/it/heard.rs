//! What callers heard of failures, and what not: the figures of the status document and of the metrics by which an
//! operator knows whether anybody is failing.

use serde_json::{Value, json};
use sidestep::simulator::{Fault, FaultRule};

use super::fixture::{CHAT, QUESTION, Scene};
use super::front::Front;
use super::raw::{Answer, Wire, ask, get, request, until};

const STREAMED: &str = r#"{"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;

fn post(front: &Front, path: &str, headers: &str, body: &str) -> Answer {
    ask(front.address(), "POST", path, headers, body)
}

fn metric(front: &Front, series: &str) -> Option<String> {
    let text = get(front.admin(), "/metrics").text().to_owned();
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned))
}

/// These figures of the callers'.
fn callers<const N: usize>(front: &Front, names: [&str; N]) -> [u64; N] {
    let status = front.status();
    names.map(|name| status["callers"][format!("{name}_total")].as_u64().unwrap())
}

fn lane(status: &Value, backend: usize) -> &Value {
    &status["backends"][backend]["lanes"][0]
}

#[test]
fn a_429_is_absorbed_when_another_backend_answers_and_not_when_the_caller_gets_one() {
    let front = Front::of(Scene::of([("east", 1), ("west", 2)]));
    front.resource("east").fault(FaultRule::times(Fault::throttle_seconds(1), 1));
    assert_eq!(post(&front, CHAT, "", QUESTION).status, 200, "west answers");
    let names = ["succeeded", "failed", "absorbed", "throttled"];
    assert_eq!(callers(&front, names), [1, 0, 1, 0]);
    front.resource("east").fault(Fault::throttle_seconds(30));
    front.resource("west").fault(Fault::throttle_seconds(30));
    until("east is asked again", || {
        let status = post(&front, CHAT, "", QUESTION).status;
        assert!([200, 429].contains(&status), "{status}");
        lane(&front.status(), 0)["throttled_total"] == 2
    });
    let status = front.status();
    assert_eq!(lane(&status, 0)["absorbed_total"], 1, "{status}");
    assert_eq!(lane(&status, 1)["absorbed_total"], 0, "{status}");
    assert_eq!(status["callers"]["absorbed_total"], 1);
    assert!(status["callers"]["failed_total"].as_u64().unwrap() > 0);
    assert_eq!(metric(&front, r#"sidestep_absorbed_total{deployment="gpt-4o"}"#).as_deref(), Some("1"));
}

#[test]
fn an_answer_that_breaks_off_in_its_callers_face_is_a_failure() {
    let front = Front::of(Scene::of([("east", 1)]));
    front.resource("east").fault(FaultRule::times(Fault::CutAfterEvents { events: 3, reset: false }, 1));
    let answer = post(&front, CHAT, "", STREAMED);
    assert!(answer.status == 200 && !answer.complete, "{answer:?}");
    assert_eq!(callers(&front, ["succeeded", "failed", "cut"]), [0, 1, 1]);
    assert!(post(&front, CHAT, "", STREAMED).complete);
    assert_eq!(callers(&front, ["succeeded", "failed", "cut"]), [1, 1, 1]);
    let series = r#"sidestep_failed_total{deployment="gpt-4o",caller="anonymous"}"#;
    assert_eq!(metric(&front, series).as_deref(), Some("1"));
    assert_eq!(front.status()["by_caller"]["callers"][0]["failed"], 1);
}

#[test]
fn whoever_is_at_a_limit_of_its_own_is_told_apart_from_those_that_fail() {
    const APP: &str = "api-key: the-key-of-the-app-01\r\n";
    let key = "name = \"app\"\nkey = \"the-key-of-the-app-01\"\nrequests_per_minute = 1\n";
    let front = Front::of(Scene::of([("east", 1)]).toml(&format!("[[callers.keys]]\n{key}")));
    let statuses = [(), ()].map(|()| post(&front, CHAT, APP, QUESTION).status);
    assert_eq!(statuses, [200, 429]);
    assert_eq!(callers(&front, ["requests", "failed", "throttled", "limited"]), [2, 0, 0, 1]);
    let told = &front.status()["by_caller"]["callers"][0];
    assert_eq!((&told["limited"], &told["failed"]), (&json!(1), &json!(0)));
    // What is refused before its body is read bears no deployment.
    let text = get(front.admin(), "/metrics").text().to_owned();
    let limited = text.lines().filter(|line| line.starts_with("sidestep_limited_total{"));
    assert_eq!(limited.filter(|line| line.ends_with(" 1")).count(), 1, "{text}");
}

#[test]
fn a_misspelt_deployment_is_in_nobodys_way() {
    let front = Front::of(Scene::of([("east", 1), ("west", 1)]));
    let path = CHAT.replace("gpt-4o", "gpt-4oo");
    assert_eq!(post(&front, &path, "", QUESTION).status, 404);
    let status = front.status();
    for backend in status["backends"].as_array().unwrap() {
        assert_eq!((&backend["state"], &backend["lanes"]), (&json!("admitting"), &json!([])));
    }
    assert_eq!(post(&front, CHAT, "", QUESTION).status, 200);
    let lanes = |backend: &Value| backend["lanes"].as_array().unwrap().len();
    let status = front.status();
    assert_eq!(status["backends"].as_array().unwrap().iter().map(lanes).sum::<usize>(), 1, "{status}");
}

#[test]
fn a_deployments_quota_is_told_by_the_callers_name_whatever_backends_call_it() {
    let scene = Scene::of([("east", 1), ("west", 1)])
        .backend("east", "deployments = { \"gpt-4o\" = \"gpt-4o-east\" }")
        .resource("east", |east| {
            let kind = east.deployments["gpt-4o"];
            east.deployments.insert("gpt-4o-east".to_owned(), kind);
        });
    let front = Front::of(scene);
    assert_eq!(front.status()["deployments"], json!([]));
    for away in ["east", "west"] {
        let operator = |what| ask(front.admin(), "POST", &format!("/backends/{away}/{what}"), "", "").status;
        assert_eq!(operator("drain"), 200);
        assert_eq!(post(&front, CHAT, "", QUESTION).status, 200);
        assert_eq!(operator("resume"), 200);
    }
    let status = front.status();
    let sum = |kind: &str| (0..2).map(|one| lane(&status, one)["quota"][kind].as_u64().unwrap()).sum::<u64>();
    let told = &status["deployments"];
    assert_eq!((&told[0]["name"], told.as_array().unwrap().len()), (&json!("gpt-4o"), 1));
    assert_eq!(told[0]["limit_tokens"], sum("limit_tokens"));
    assert_eq!(told[0]["remaining_tokens"], sum("remaining_tokens"));
    let series = r#"sidestep_quota_tokens{deployment="gpt-4o",kind="limit"}"#;
    assert_eq!(metric(&front, series), Some(sum("limit_tokens").to_string()));
    // Whose backend is out of use has no quota to give.
    assert_eq!(ask(front.admin(), "POST", "/backends/west/drain", "", "").status, 200);
    assert_eq!(front.status()["deployments"][0]["limit_tokens"], lane(&status, 0)["quota"]["limit_tokens"]);
}

#[test]
fn how_fast_we_refuse_does_not_pass_for_how_fast_backends_answer() {
    let front = Front::of(
        Scene::of([("east", 1)]).toml("[[callers.keys]]\nname = \"app\"\nkey = \"the-key-of-the-app-01\"\n"),
    );
    assert_eq!(post(&front, CHAT, "", QUESTION).status, 401);
    assert_eq!(metric(&front, "sidestep_time_to_first_byte_seconds_count").as_deref(), Some("0"));
    assert_eq!(metric(&front, "sidestep_request_duration_seconds_count").as_deref(), Some("1"));
}

#[test]
fn what_we_stop_before_it_is_answered_is_told_as_ours_and_not_as_a_caller_that_left() {
    let front = Front::of(Scene::of([("east", 1)]));
    front.resource("east").fault(Fault::HangBeforeHead);
    let mut wire = Wire::to(front.address());
    wire.send(request("POST", CHAT, "", QUESTION));
    until("it is on its way", || front.resource("east").counters().in_flight == 1);
    front.balancer.abort();
    assert!(wire.closed());
    until("it has stopped", || front.balancer.ended());
    let log = front.log();
    let record = log.lines().find(|line| line.contains("\"message\":\"request\"")).unwrap();
    assert!(record.contains("\"status\":0,") && record.contains("\"ended\":\"stopped here\""), "{record}");
}
