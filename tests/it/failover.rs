//! One resource throttles, the next one answers; and when all do, callers are told honestly when to come back.

use std::time::Duration;

use serde_json::json;
use sidestep::simulator::{Fault, FaultRule, ModelKind};
use tokio::time::Instant;

use super::fixture::backend::PlayedBackend;
use super::fixture::{Answer, CHAT, QUESTION, RESPONSES, Scene, Stage, eventually, within};

/// A 429 that tells milliseconds.
fn throttle_ms(milliseconds: u64) -> Fault {
    Fault::Throttle { retry_after: None, retry_after_ms: Some(milliseconds.to_string()) }
}

/// Chats until this resource answers again; every answer is a good one.
async fn chat_until(stage: &Stage, region: &str) -> Duration {
    let began = Instant::now();
    within("an answer of that resource", async {
        loop {
            let answer = stage.chat().await;
            assert_eq!(answer.status, 200, "{answer:?}");
            if answer.region() == Some(region) {
                return began.elapsed();
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_429_is_absorbed_and_the_next_backend_answers() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    stage.resource("east").fault(Fault::throttle_seconds(30));
    let began = Instant::now();
    let answer = stage.chat().await;
    assert!(began.elapsed() < Duration::from_secs(1), "no wait between attempts");
    assert_eq!((answer.status, answer.region()), (200, Some("west")));
    assert_eq!(answer.header("x-sidestep-attempts"), Some("2"));
    assert_eq!(answer.header("x-sidestep-backend"), Some("west"));
    assert_eq!((stage.seen("east"), stage.seen("west")), (1, 1));
    let again = stage.chat().await;
    assert_eq!((again.status, again.header("x-sidestep-attempts")), (200, Some("1")));
    assert_eq!((stage.seen("east"), stage.seen("west")), (1, 2));
    let callers = stage.balancer.status().callers;
    assert_eq!((callers.failed_total, callers.failovers_total), (0, 1));
}

#[tokio::test]
async fn a_throttled_lane_gets_nothing_before_its_deadline_and_one_request_after_it() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    stage.resource("east").fault(FaultRule::times(throttle_ms(500), 1));
    let began = Instant::now();
    assert_eq!(stage.chat().await.region(), Some("west"));
    let lane = stage.lane("east", "gpt-4o");
    assert_eq!(lane.state, "cooling");
    assert!(lane.remaining_ms.is_some_and(|left| left <= 500), "{lane:?}");
    chat_until(&stage, "east").await;
    // The deadline counts from the 429, which came later than `began`.
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    assert_eq!(stage.seen("east"), 2);
    assert_eq!(stage.lane("east", "gpt-4o").state, "admitting");
}

#[tokio::test]
async fn retry_after_ms_beats_retry_after() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    let both = Fault::Throttle { retry_after: Some("50".into()), retry_after_ms: Some("60".into()) };
    stage.resource("east").fault(FaultRule::times(both, 1));
    stage.chat().await;
    assert!(chat_until(&stage, "east").await < Duration::from_secs(10));
}

#[tokio::test]
async fn retry_after_may_be_a_fraction_of_a_second() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    let fraction = Fault::Throttle { retry_after: Some("0.2".into()), retry_after_ms: None };
    stage.resource("east").fault(FaultRule::times(fraction, 1));
    let began = Instant::now();
    stage.chat().await;
    chat_until(&stage, "east").await;
    assert!((200..5_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn other_deployments_of_a_throttled_backend_are_unaffected() {
    let both = |resource: &mut sidestep::simulator::ResourceSettings| {
        resource.deployments.insert("gpt-4o-mini".into(), ModelKind::Chat);
    };
    let stage = Scene::of([("east", 1), ("west", 2)]).resource("east", both).resource("west", both).start();
    let rule =
        FaultRule { fault: Fault::throttle_seconds(30), times: None, deployment: Some("gpt-4o".into()) };
    stage.resource("east").fault(rule);
    assert_eq!(stage.chat().await.region(), Some("west"));
    let mini = stage.caller().post(&CHAT.replace("gpt-4o", "gpt-4o-mini"), QUESTION).await;
    assert_eq!((mini.status, mini.region()), (200, Some("east")));
    assert_eq!(stage.chat().await.region(), Some("west"));
    let states = ["gpt-4o", "gpt-4o-mini"].map(|name| stage.lane("east", name).state);
    assert_eq!(states, ["cooling", "admitting"]);
}

#[tokio::test]
async fn the_next_priority_group_serves_only_while_the_first_cannot() {
    let stage = Scene::of([("east", 1), ("west", 1), ("far", 2)]).start();
    for _ in 0..20 {
        assert_eq!(stage.chat().await.status, 200);
    }
    assert_eq!(stage.seen("far"), 0);
    for name in ["east", "west"] {
        stage.resource(name).fault(FaultRule::times(throttle_ms(1_000), 1));
    }
    // The first to be asked throttles, so does the other, and the one that is left answers.
    assert_eq!(stage.chat().await.header("x-sidestep-attempts"), Some("3"));
    assert_eq!(stage.chat().await.region(), Some("far"));
    eventually("both are back", || {
        ["east", "west"].iter().all(|name| stage.lane(name, "gpt-4o").state == "admitting")
    })
    .await;
    let before = stage.seen("far");
    for _ in 0..20 {
        assert_eq!(stage.chat().await.status, 200);
    }
    assert_eq!(stage.seen("far"), before);
}

#[tokio::test]
async fn equals_share_and_weights_decide_how() {
    let stage = Scene::of([("east", 1), ("west", 1), ("north", 1)]).backend("north", "weight = 4").start();
    // Each a conversation of its own: the turns of one stay together.
    for number in 0..240 {
        let question = QUESTION.replace("anyone", &format!("number {number}"));
        assert_eq!(stage.caller().post(CHAT, &question).await.status, 200);
    }
    // Means are 40, 40 and 160; the bounds are five standard deviations away.
    let [east, west, north] = ["east", "west", "north"].map(|name| stage.seen(name));
    assert!((11..=69).contains(&east) && (11..=69).contains(&west), "{east} {west} {north}");
    assert_eq!(east + west + north, 240);
    assert!(north > 123, "{east} {west} {north}");
}

#[tokio::test]
async fn when_all_are_throttled_a_429_comes_at_once_with_both_headers_and_nobody_is_asked() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    stage.resource("east").fault(Fault::throttle_seconds(20));
    stage.resource("west").fault(Fault::throttle_seconds(30));
    let first = stage.chat().await;
    let second = stage.chat().await;
    assert_eq!((stage.seen("east"), stage.seen("west")), (1, 1), "no hammering");
    for answer in [&first, &second] {
        assert_local_429(answer, 19_000..=31_001);
    }
    let callers = stage.balancer.status().callers;
    assert_eq!((callers.exhausted_total, callers.throttled_total), (2, 2));
}

/// In Azure's shape, with both headers that agree with each other.
fn assert_local_429(answer: &Answer, bounds: std::ops::RangeInclusive<u64>) {
    assert_eq!((answer.status, answer.code().as_str()), (429, "429"));
    let milliseconds = answer.number("retry-after-ms").unwrap();
    let seconds = answer.number("retry-after").unwrap();
    assert!(bounds.contains(&milliseconds), "{milliseconds} not within {bounds:?}");
    assert_eq!(seconds, milliseconds.div_ceil(1_000));
    assert!(answer.text().contains(&format!("Please retry after {seconds} seconds")), "{}", answer.text());
    assert_eq!(answer.json()["error"]["type"], "too_many_requests");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert!(answer.header("x-sidestep-request-id").is_some());
    assert_eq!(answer.region(), None, "nothing of the backends' own answers is shown");
}

#[tokio::test]
async fn whoever_comes_back_when_told_is_served() {
    let stage = Scene::of([("east", 1), ("west", 1)]).start();
    for name in ["east", "west"] {
        stage.resource(name).fault(FaultRule::times(throttle_ms(150), 1));
    }
    let refused = stage.chat().await;
    // The recovery of one of them, and at most as much again.
    assert_eq!(refused.status, 429);
    let told = refused.number("retry-after-ms").unwrap();
    assert!((10..=300).contains(&told), "{told}");
    assert_eq!(refused.number("retry-after"), Some(1));
    tokio::time::sleep(Duration::from_millis(told)).await;
    assert_eq!(stage.chat().await.status, 200);
}

#[tokio::test]
async fn a_day_of_waiting_is_never_told() {
    let stage = Scene::of([("east", 1)]).start();
    stage.resource("east").fault(Fault::throttle_seconds(86_400));
    for _ in 0..2 {
        assert_local_429(&stage.chat().await, 59_000..=59_000);
    }
    assert_eq!(stage.seen("east"), 1);
    let lane = stage.lane("east", "gpt-4o");
    assert!(lane.remaining_ms.is_some_and(|left| (50_000..=60_000).contains(&left)), "{lane:?}");
}

/// A chat whose prompt has about so many tokens.
fn long_question(tokens: usize) -> String {
    json!({"messages": [{"role": "user", "content": "word ".repeat(tokens)}], "max_tokens": 20}).to_string()
}

#[tokio::test]
async fn an_absurd_time_for_a_large_request_keeps_only_large_ones_away() {
    let stage = Scene::of([("east", 1), ("west", 2)])
        .resource("east", |east| east.quota.tokens_per_minute = 6_000)
        .resource("west", |west| west.quota.tokens_per_minute = 8_000)
        .start();
    let large = long_question(20_000);
    for round in 0..2 {
        let answer = stage.caller().post(CHAT, &large).await;
        assert_eq!((answer.status, answer.code().as_str()), (429, "request_too_large_now"), "{round}");
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        assert_eq!(answer.header("retry-after"), None);
    }
    assert_eq!((stage.seen("east"), stage.seen("west")), (1, 1));
    assert_eq!(stage.chat().await.region(), Some("east"), "small ones are served as before");
}

/// Azure's 429 for the size of one request.
fn peak_load() -> FaultRule {
    let message = "The request exceeds the maximum usage size allowed during peak load.";
    let peak = Fault::Status {
        status: 429,
        body: Some(format!(r#"{{"error":{{"code":"429","message":"{message}"}}}}"#)),
        headers: vec![("retry-after".into(), "30".into())],
    };
    FaultRule::times(peak, 1)
}

#[tokio::test]
async fn a_size_refused_of_a_body_that_is_not_read_keeps_only_that_size_away() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    stage.resource("east").fault(peak_load());
    let path = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21";
    let unread = "a body that is no JSON ".repeat(1_000);
    // West was asked, and says what it thinks of such a body.
    assert_eq!(stage.caller().post(path, &unread).await.status, 400);
    assert_eq!((stage.seen("east"), stage.seen("west")), (1, 1));
    assert_eq!(stage.chat().await.region(), Some("east"));
}

#[tokio::test]
async fn a_size_refused_in_peak_load_keeps_only_that_size_away() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    stage.resource("east").fault(peak_load());
    let large = long_question(2_000);
    for _ in 0..2 {
        assert_eq!(stage.caller().post(CHAT, &large).await.region(), Some("west"));
    }
    assert_eq!(stage.seen("east"), 1);
    assert_eq!(stage.chat().await.region(), Some("east"));
}

#[tokio::test]
async fn a_429_of_a_service_tier_cools_nothing() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    stage.resource("east").fault(FaultRule::times(Fault::throttle_seconds(30), 1));
    let flex = QUESTION.replace(r#""max_tokens""#, r#""service_tier":"flex","max_tokens""#);
    assert_eq!(stage.caller().post(CHAT, &flex).await.region(), Some("west"));
    assert_eq!(stage.lane("east", "gpt-4o").state, "admitting");
    assert_eq!(stage.chat().await.region(), Some("east"));
}

#[tokio::test]
async fn one_throttled_lane_makes_it_a_429_whatever_the_others_said() {
    for other in [500, 401] {
        let stage = Scene::of([("east", 1), ("west", 2)]).start();
        stage.resource("east").fault(Fault::throttle_seconds(20));
        stage.resource("west").fault(Fault::status(other));
        assert_local_429(&stage.chat().await, 19_000..=21_001);
        let reversed = Scene::of([("east", 2), ("west", 1)]).start();
        reversed.resource("east").fault(Fault::throttle_seconds(20));
        reversed.resource("west").fault(Fault::status(other));
        assert_local_429(&reversed.chat().await, 19_000..=21_001);
    }
}

#[tokio::test]
async fn an_error_of_the_backend_is_passed_back_before_a_refusal_of_ours_is_told() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    stage.resource("east").fault(Fault::status(500));
    stage.resource("west").fault(Fault::status(401));
    let answer = stage.chat().await;
    assert_eq!((answer.status, answer.region()), (500, Some("east")));
}

#[tokio::test]
async fn what_must_not_be_repeated_still_fails_over_from_a_429() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    stage.resource("east").fault(Fault::throttle_seconds(30));
    let background = r#"{"model":"gpt-4o","input":"Is anyone there?","background":true}"#;
    let answer = stage.caller().post(RESPONSES, background).await;
    assert_eq!((answer.status, answer.region()), (200, Some("west")));
}

#[tokio::test]
async fn a_spent_quota_spills_over_and_is_not_asked_again_before_its_minute_is_over() {
    let stage = Scene::of([("east", 1), ("west", 2)])
        .resource("east", |east| {
            // Four small chats.
            (east.quota.tokens_per_minute, east.quota.requests_per_minute) = (100, Some(1_000));
        })
        .start();
    let mut answers = Vec::new();
    while stage.seen("west") == 0 {
        answers.push(stage.chat().await.status);
        assert!(answers.len() < 20, "the quota is never spent");
    }
    let seen = stage.seen("east");
    for _ in 0..20 {
        answers.push(stage.chat().await.status);
    }
    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    assert_eq!(stage.seen("east"), seen, "nothing was sent in vain");
    assert!(stage.lane("east", "gpt-4o").throttled_total <= 1);
}

#[tokio::test]
async fn a_small_answer_that_stalls_in_its_middle_fails_over() {
    let east = PlayedBackend::listen().await;
    let stage = Scene::of([("west", 2)])
        .played("east", 1, east.address)
        .toml("[retry]\nstream_idle_timeout = \"100ms\"")
        .start();
    let serving = async {
        let (mut wire, _) = east.request().await;
        wire.write("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n{").await;
        wire
    };
    let (_held, answer) = tokio::join!(serving, within("an answer", stage.chat()));
    assert_eq!((answer.status, answer.region()), (200, Some("west")));
}
