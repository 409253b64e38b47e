//! `retry.hold`: who finds every backend full may wait in line for room.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use sidestep::simulator::{Fault, FaultRule, HeaderSettings};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::fixture::caller::post;
use super::fixture::{Answer, CHAT, Caller, QUESTION, STREAMED, Scene, Stage, eventually, settings, within};
use super::raw::Wire;

fn throttle_ms(milliseconds: u64) -> Fault {
    Fault::Throttle { retry_after: None, retry_after_ms: Some(milliseconds.to_string()) }
}

/// `east` alone, whose quota is known, with `hold` and these lines in `[limits]`.
async fn known(hold: &str, limits: &str) -> Stage {
    let tables = format!("[retry]\nhold = \"{hold}\"\n[limits]\n{limits}");
    let stage = Scene::of([("east", 1)]).toml(&tables).start();
    assert_eq!(stage.chat().await.status, 200);
    stage
}

/// The same, but no header tells how much room there is. As much as is served lately in the time that one may wait is as
/// many as may wait.
async fn blind(hold: &str) -> Stage {
    let blind = HeaderSettings { ratelimit: false, ratelimit_reset: false, ..HeaderSettings::default() };
    let scene = Scene::of([("east", 1)]).resource("east", |east| east.headers = blind);
    let stage = scene.toml(&format!("[retry]\nhold = \"{hold}\"")).start();
    for _ in 0..20 {
        assert_eq!(stage.chat().await.status, 200);
    }
    stage
}

/// The next request is answered 429 and its lane cools for so long.
fn full_for(stage: &Stage, milliseconds: u64) {
    stage.resource("east").fault(FaultRule::times(throttle_ms(milliseconds), 1));
}

/// A chat that says `name`.
fn asks(stage: &Stage, name: &str) -> JoinHandle<Answer> {
    let (caller, question) = (stage.caller(), QUESTION.replace("anyone", name));
    tokio::spawn(async move { caller.post(CHAT, &question).await })
}

async fn waiting(stage: &Stage, count: usize) {
    eventually("so many wait", || stage.balancer.status().callers.held == count).await;
}

async fn answer(asked: JoinHandle<Answer>) -> Answer {
    within("an answer", asked).await.unwrap()
}

fn told_at_once(answer: &Answer, began: Instant) {
    assert_eq!((answer.status, answer.code().as_str()), (429, "429"), "{answer:?}");
    assert!(answer.number("retry-after-ms").is_some() && answer.number("retry-after").is_some());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

fn records(stage: &Stage) -> Vec<Value> {
    let log = stage.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == "request").collect()
}

#[tokio::test]
async fn who_finds_every_backend_full_waits_in_line_and_is_served_when_one_is_back() {
    let stage = known("10s", "").await;
    full_for(&stage, 300);
    let began = Instant::now();
    let answer = stage.chat().await;
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    assert_eq!((answer.status, answer.header("x-sidestep-attempts")), (200, Some("2")));
    let callers = stage.balancer.status().callers;
    assert_eq!((callers.held, callers.held_total, callers.exhausted_total), (0, 1, 0));
    let records = records(&stage);
    assert!(records[0]["held_ms"].is_null());
    let held = records[1]["held_ms"].as_f64().unwrap();
    assert!((250.0..10_000.0).contains(&held), "{held}");
    assert!(records[1]["ours_ms"].as_f64().unwrap() < held, "waiting is not work");
}

#[tokio::test]
async fn without_hold_the_answer_is_429_at_once() {
    let stage = Scene::of([("east", 1)]).start();
    full_for(&stage, 300);
    let began = Instant::now();
    told_at_once(&stage.chat().await, began);
    assert_eq!(stage.balancer.status().callers.held_total, 0);
}

#[tokio::test]
async fn those_in_line_are_served_in_the_order_in_which_they_came() {
    let stage = known("15s", "").await;
    full_for(&stage, 1_500);
    let mut asked = Vec::new();
    for number in 0..6 {
        asked.push(asks(&stage, &format!("caller {number}")));
        waiting(&stage, number + 1).await;
    }
    for asked in asked {
        assert_eq!(answer(asked).await.status, 200);
    }
    let seen = stage.resource("east").requests();
    let bodies: Vec<_> =
        seen.iter().skip(2).map(|request| String::from_utf8(request.body.to_vec()).unwrap()).collect();
    assert_eq!(bodies.len(), 6);
    for (number, body) in bodies.iter().enumerate() {
        assert!(body.contains(&format!("caller {number}")), "{bodies:?}");
    }
}

#[tokio::test]
async fn who_would_wait_in_vain_is_told_at_once() {
    let stage = known("2s", "").await;
    full_for(&stage, 20_000);
    for _ in 0..2 {
        let began = Instant::now();
        let answer = stage.chat().await;
        told_at_once(&answer, began);
        assert!(answer.number("retry-after-ms").unwrap() >= 19_000);
    }
    assert_eq!(stage.balancer.status().callers.held_total, 0);
}

#[tokio::test]
async fn nobody_waits_longer_than_half_of_the_time_that_is_left_until_its_deadline() {
    let stage = blind("15s").await;
    // The first looks after a second and a half, finds the lane full once more, and is served after three.
    stage.resource("east").fault(FaultRule::times(throttle_ms(1_500), 2));
    let first = asks(&stage, "first");
    waiting(&stage, 1).await;
    let mut request = post(CHAT, QUESTION);
    request.headers_mut().insert("x-stainless-read-timeout", "4".parse().unwrap());
    let caller = stage.caller();
    let began = Instant::now();
    let second = tokio::spawn(async move { caller.send(request).await.whole().await });
    waiting(&stage, 2).await;
    let second = answer(second).await;
    assert!(began.elapsed() >= Duration::from_millis(1_900), "it waited: {:?}", began.elapsed());
    told_at_once(&second, began);
    assert_eq!(stage.balancer.status().callers.held, 1, "before the first was served");
    assert_eq!(answer(first).await.status, 200);
}

#[tokio::test]
async fn who_is_told_to_come_back_at_once_again_and_again_asks_a_bounded_number_of_times() {
    let stage = known("60s", "").await;
    let before = stage.seen("east");
    stage.resource("east").fault(throttle_ms(10));
    let answer = stage.chat().await;
    assert_eq!((answer.status, answer.code().as_str()), (429, "429"), "{answer:?}");
    assert_eq!(stage.seen("east") - before, 17, "once, and sixteen times more");
    assert_eq!(stage.balancer.status().callers.held_total, 1);
}

#[tokio::test]
async fn who_leaves_while_in_line_counts_as_held() {
    let stage = known("15s", "").await;
    full_for(&stage, 5_000);
    let asked = asks(&stage, "first");
    waiting(&stage, 1).await;
    asked.abort();
    eventually("it is told", || records(&stage).len() == 2).await;
    let record = &records(&stage)[1];
    assert_eq!(record["status"], 0, "{record}");
    assert!(record["held_ms"].is_number(), "{record}");
    assert_eq!(stage.balancer.status().callers.held_total, 1);
}

#[tokio::test]
async fn one_more_than_may_wait_is_answered_at_once() {
    let stage = known("15s", "held = 1").await;
    full_for(&stage, 1_500);
    let first = asks(&stage, "first");
    waiting(&stage, 1).await;
    let began = Instant::now();
    told_at_once(&stage.chat().await, began);
    assert_eq!(answer(first).await.status, 200);
    assert_eq!(stage.seen("east"), 3, "who was told at once was sent nowhere");
}

#[tokio::test]
async fn a_caller_that_leaves_frees_its_place_for_the_one_behind_it() {
    let stage = known("30s", "held = 3").await;
    full_for(&stage, 1_500);
    let mut asked = Vec::new();
    for (number, name) in ["first", "second", "third"].into_iter().enumerate() {
        asked.push(asks(&stage, name));
        waiting(&stage, number + 1).await;
    }
    let began = Instant::now();
    asked.remove(0).abort();
    waiting(&stage, 2).await;
    for asked in asked {
        assert_eq!(answer(asked).await.status, 200);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "long before their time was over");
    let seen = stage.resource("east").requests();
    assert_eq!(seen.len(), 4, "who left was sent nowhere once it stood in line");
}

/// `east` is full for long, and one waits for it: `west` was drained, or is not there yet.
async fn waits_for_east(stage: &Stage) -> JoinHandle<Answer> {
    full_for(stage, 20_000);
    let first = asks(stage, "first");
    waiting(stage, 1).await;
    first
}

fn post_to(stage: &Stage, path: &str) -> u16 {
    let mut wire = Wire::to(stage.balancer.admin_address().unwrap());
    wire.send(format!("POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0\r\n\r\n"));
    wire.head().unwrap().status
}

#[tokio::test]
async fn those_in_line_use_a_backend_that_an_operator_resumes() {
    let stage = Scene::of([("east", 1), ("west", 1)])
        .server("admin_listen = \"127.0.0.1:0\"\n")
        .toml("[retry]\nhold = \"30s\"")
        .start();
    assert_eq!(post_to(&stage, "/backends/west/drain"), 200);
    assert_eq!(stage.chat().await.region(), Some("east"));
    let asked = [waits_for_east(&stage).await, asks(&stage, "second")];
    waiting(&stage, 2).await;
    let began = Instant::now();
    assert_eq!(post_to(&stage, "/backends/west/resume"), 200);
    for asked in asked {
        assert_eq!(answer(asked).await.region(), Some("west"));
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn those_in_line_use_a_backend_that_a_reload_brings() {
    let stage = Scene::of([("east", 1), ("west", 1)]).toml("[retry]\nhold = \"30s\"").start();
    let without = stage.text.rsplit_once("[[backends]]").unwrap().0;
    stage.balancer.reload(settings(without)).unwrap();
    assert_eq!(stage.chat().await.region(), Some("east"));
    let asked = waits_for_east(&stage).await;
    let began = Instant::now();
    stage.balancer.reload(settings(&stage.text)).unwrap();
    assert_eq!(answer(asked).await.region(), Some("west"));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_drain_tells_all_who_wait_to_come_back() {
    let stage = known("15s", "").await;
    full_for(&stage, 12_000);
    let first = asks(&stage, "first");
    waiting(&stage, 1).await;
    let asked = [first, asks(&stage, "second")];
    waiting(&stage, 2).await;
    let began = Instant::now();
    stage.balancer.drain();
    for asked in asked {
        told_at_once(&answer(asked).await, began);
    }
    eventually("the drain is over", || stage.balancer.ended()).await;
}

#[tokio::test]
async fn streams_and_callers_in_http2_wait_as_well() {
    let stage = known("10s", "").await;
    full_for(&stage, 500);
    let caller = stage.caller_http2();
    let first = tokio::spawn(async move { caller.post(CHAT, STREAMED).await });
    waiting(&stage, 1).await;
    let second = asks(&stage, "second");
    let first = answer(first).await;
    assert_eq!(first.status, 200);
    assert!(first.text().contains("[DONE]"));
    assert_eq!(answer(second).await.status, 200);
}

#[tokio::test]
async fn a_body_that_can_be_sent_only_once_waits_before_it_is_sent() {
    let stage = known("10s", "request_replay = \"1KiB\"").await;
    full_for(&stage, 500);
    let first = asks(&stage, "first");
    waiting(&stage, 1).await;
    let large = QUESTION.replace("anyone", &"anyone ".repeat(1_000));
    let large = stage.caller().post(CHAT, &large).await;
    assert_eq!((large.status, large.header("x-sidestep-attempts")), (200, Some("1")));
    assert_eq!(answer(first).await.status, 200);
    assert_eq!(stage.balancer.status().callers.held_total, 2);
}

/// Asks for a WebSocket on the same lane; the status.
fn socket(address: SocketAddr) -> Option<u16> {
    let mut wire = Wire::to(address);
    wire.send(
        "GET /openai/v1/realtime?model=gpt-4o HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    wire.head().map(|head| head.status)
}

#[tokio::test]
async fn a_websocket_waits_for_room_before_it_is_opened() {
    let stage = known("10s", "").await;
    full_for(&stage, 500);
    let first = asks(&stage, "first");
    waiting(&stage, 1).await;
    let address = stage.balancer.address();
    let opened = tokio::task::spawn_blocking(move || socket(address));
    assert_eq!(within("a socket", opened).await.unwrap(), Some(101));
    assert_eq!(answer(first).await.status, 200);
    eventually("both are told", || stage.balancer.status().callers.held_total == 2).await;
}

#[tokio::test]
async fn where_no_header_tells_how_much_room_there_is_one_place_wakes_one_request() {
    let stage = blind("15s").await;
    stage.resource("east").fault(throttle_ms(300));
    let before = stage.seen("east");
    let began = Instant::now();
    let asked: Vec<_> = (0..8).map(|number| asks(&stage, &format!("caller {number}"))).collect();
    eventually("several wait", || stage.balancer.status().callers.held >= 6).await;
    eventually("some of them have looked again", || stage.seen("east") >= before + 12).await;
    let rounds = u64::try_from(began.elapsed().as_millis() / 300).unwrap();
    let most = before + 8 + rounds + 1;
    assert!(stage.seen("east") <= most, "{} in {rounds} rounds", stage.seen("east") - before);
    stage.resource("east").clear();
    for asked in asked {
        assert_eq!(answer(asked).await.status, 200);
    }
}

#[tokio::test]
async fn who_is_tied_to_one_backend_waits_for_that_one() {
    let stage = Scene::of([("east", 1), ("west", 2)]).toml("[retry]\nhold = \"10s\"").start();
    let body = r#"{"model":"gpt-4o","input":"Is anyone there?"}"#;
    let caller: Caller = stage.caller();
    let made = caller.post(super::fixture::RESPONSES, body).await;
    assert_eq!((made.status, made.region()), (200, Some("east")));
    let id = made.json()["id"].as_str().unwrap().to_owned();
    full_for(&stage, 600);
    assert_eq!(stage.chat().await.region(), Some("west"), "others go elsewhere and do not wait");
    let body = format!(r#"{{"model":"gpt-4o","input":"And now?","previous_response_id":"{id}"}}"#);
    let next = caller.post(super::fixture::RESPONSES, &body).await;
    assert_eq!((next.status, next.region()), (200, Some("east")));
    assert_eq!(stage.balancer.status().callers.held_total, 1);
}
