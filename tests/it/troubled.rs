//! `GET /requests`: which backend served a request that met trouble, and why.

use serde_json::{Value, json};
use sidestep::simulator::{Fault, FaultRule};

use super::fixture::{CHAT, QUESTION, STREAMED, Scene};
use super::front::Front;
use super::raw::{Answer, ask, get, until};

fn two() -> Front {
    Front::of(Scene::of([("east", 1), ("west", 2)]))
}

fn chat(front: &Front) -> Answer {
    ask(front.address(), "POST", CHAT, "", QUESTION)
}

fn requests(front: &Front, query: &str) -> Value {
    let answer = get(front.admin(), &format!("/requests{query}"));
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    answer.json()
}

#[test]
fn an_absorbed_429_is_told_with_both_attempts_under_the_id_of_its_answer_and_a_happy_request_is_not() {
    let front = two();
    let happy = chat(&front);
    assert_eq!(requests(&front, ""), json!({"kept": 0, "requests": [], "note": null}));
    front.resource("east").fault(Fault::throttle_seconds(50));
    let answer = chat(&front);
    assert_eq!((answer.status, answer.header("x-ms-region")), (200, Some("west")));
    let id = answer.header("x-sidestep-request-id").unwrap();

    let told = requests(&front, &format!("?id={id}"));
    assert_eq!((&told["kept"], &told["note"]), (&json!(1), &Value::Null));
    let [one] = &told["requests"].as_array().unwrap()[..] else { panic!("{told}") };
    assert_eq!((&one["id"], &one["outcome"]), (&json!(id), &json!("succeeded")));
    assert_eq!((&one["backend"], &one["status"]), (&json!("west"), &json!(200)));
    let attempts = json!([{"backend": "east", "verdict": "throttled", "status": 429},
        {"backend": "west", "verdict": "served", "status": 200}]);
    assert_eq!(one["attempts"], attempts);
    assert_eq!((&one["deployment"], &one["operation"]), (&json!("gpt-4o"), &json!("chat")));
    assert_eq!(requests(&front, "")["requests"], json!([one]));
    assert_eq!(front.status()["callers"]["troubled_total"], 1);
    let all = requests(&front, "").to_string();
    assert!(!all.contains("key") && !QUESTION.split('"').any(|word| word.len() > 12 && all.contains(word)));

    let unkept = requests(&front, &format!("?id={}", happy.header("x-sidestep-request-id").unwrap()));
    assert_eq!(unkept["requests"], json!([]));
    assert!(unkept["note"].as_str().unwrap().starts_with("Not among the last 1 requests"), "{unkept}");
}

#[test]
fn failures_are_told_with_their_code_and_outlive_what_was_absorbed_after_them() {
    let front = two();
    for name in ["east", "west"] {
        front.resource(name).fault(FaultRule::times(Fault::status(500), 1));
    }
    let failed = chat(&front);
    assert_eq!(failed.status, 500, "{}", failed.text());
    for _ in 0..100 {
        front.resource("east").fault(FaultRule::times(Fault::status(408), 1));
        assert_eq!(chat(&front).status, 200);
    }
    front.resource("east").fault(FaultRule::times(Fault::CutAfterEvents { events: 2, reset: false }, 1));
    let cut = ask(front.address(), "POST", CHAT, "", STREAMED);
    until("the cut stream has ended", || requests(&front, "?each=1")["requests"][0]["outcome"] == "cut");
    for backend in ["east", "west"] {
        front.resource(backend).fault(Fault::throttle_seconds(50));
    }
    let exhausted = chat(&front);
    assert_eq!(exhausted.status, 429);

    let told = requests(&front, "?each=2");
    let brief = |one: &Value| ["outcome", "status", "error", "id"].map(|name| one[name].clone());
    let told: Vec<_> = told["requests"].as_array().unwrap().iter().map(brief).collect();
    let id = |answer: &Answer| json!(answer.header("x-sidestep-request-id").unwrap());
    assert_eq!(told[0], [json!("failed"), json!(429), json!("429"), id(&exhausted)]);
    assert_eq!(told[1], [json!("cut"), json!(200), Value::Null, id(&cut)]);
    assert!(told[2..4].iter().all(|one| one[0] == "succeeded"), "{told:?}");
    assert_eq!(told[4], [json!("failed"), json!(500), Value::Null, id(&failed)]);
    assert_eq!(told.len(), 5);
}
