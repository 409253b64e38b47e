//! Mistakes that others have made, one test for each. Many are met by tests that stand elsewhere:
//!
//! | whose | what | test |
//! |---|---|---|
//! | openai-apim-lb | shared array, lost cooldowns | here; `balance::tests::properties` |
//! | openai-apim-lb | `Retry-After` above 60 s forgotten when idle | here |
//! | openai-apim-lb | all throttled: index 0 hammered | `failover::when_all_are_throttled_a_429_comes_at_once_with_both_headers_and_nobody_is_asked` |
//! | openai-apim-lb | a wait it cannot parse is a 500 | here |
//! | openai-apim-lb | 401 taken for throttling | `failures::a_refused_credential_is_never_shown_and_not_tried_again_for_that_family` |
//! | openai-apim-lb | callers held for 30 s | `failover::when_all_are_throttled_…` |
//! | openai-aca-lb | two retry predicates: empty 429, "response already started" | here |
//! | openai-aca-lb | unbounded loop | `failures::a_request_that_fails_everywhere_gets_the_last_answer_and_rests_nothing` |
//! | openai-aca-lb | `Path.Replace` replaces every match | here |
//! | openai-aca-lb | all cool: a backend at random | `failover::when_all_are_throttled_…` |
//! | openai-aca-lb | full blast after a cooldown | `failures::while_a_probe_is_out_others_go_elsewhere_and_a_probe_that_left_frees_its_place` (after a 429 on purpose not: design.md 6) |
//! | APIM pools | 503 instead of 429 | `failover::one_throttled_lane_makes_it_a_429_whatever_the_others_said` |
//! | APIM pools | tripped for a day | `failover::a_day_of_waiting_is_never_told` |
//! | SimpleL7Proxy | one set of headers for all attempts: key of A to B | here; `bytes::each_backend_gets_its_own_name_and_its_own_key` |
//! | SimpleL7Proxy | delays of its own making | `failover::a_429_is_absorbed_and_the_next_backend_answers` |
//! | PowerProxy | a streamed 429 leaks its connection | here |
//! | PowerProxy | four workers, four states | here |
//! | PowerProxy | 502, 503, 504 not failed over | `failures::a_server_error_is_absorbed_whichever_it_is` |
//! | Portkey | a truncated stream looks complete | `streams::a_chat_that_is_cut_ends_with_an_error_event_and_an_aborted_connection`, `streams::on_the_wire_a_cut_stream_has_no_last_chunk` |
//! | Bifrost | back-off between attempts, 5xx stays on its key | `failover::a_429_is_absorbed_…`, `failures::a_server_error_is_absorbed_…` |
//! | Helicone | a backend is lost forever | `failures::a_backend_where_nobody_listens_rests_at_once_and_is_found_again` |
//! | Helicone | unbounded channel between stream and caller | `streams::a_caller_that_reads_slowly_slows_the_backend_down` |
//! | Helicone | status of a stream forced to 200 | here |
//! | AISIX | a success in flight clears a newer 429 | here |
//! | LiteLLM, agentgateway | the shorter of two cooldowns wins | `balance::tests::cooldowns::the_longest_deadline_wins` |
//! | agentgateway | 64 KiB of body end all retries | `bounds::a_body_up_to_the_replay_limit_fails_over_and_a_larger_one_goes_to_one_backend` |
//! | TensorZero | every request pays again for the dead first backend | here |
//! | Kong, nginx | fixed time-outs after N failures | `failures::a_503_with_a_time_rests_the_lane_at_once` |

use std::time::Duration;

use sidestep::simulator::{Fault, FaultRule, ModelKind};
use tokio::task::JoinSet;

use super::fixture::caller::post;
use super::fixture::{
    Answer, CHAT, QUESTION, RESPONSE_STREAMED, RESPONSES, STREAMED, Scene, Stage, eventually, key_of,
};

/// So many chats at once.
async fn at_once(stage: &Stage, count: usize, body: &'static str) -> Vec<Answer> {
    let mut crowd = JoinSet::new();
    for number in 0..count {
        let caller = if number % 3 == 0 { stage.caller_http2() } else { stage.caller() };
        crowd.spawn(async move { caller.post(CHAT, body).await });
    }
    crowd.join_all().await
}

#[tokio::test]
async fn openai_apim_lb_a_shared_array_loses_no_cooldown() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let stage = Scene::of(names.map(|name| (name, 1))).server("workers = 4").start();
    for name in names {
        stage.resource(name).fault(Fault::throttle_seconds(30));
    }
    for answer in at_once(&stage, 40, QUESTION).await {
        assert_eq!(answer.status, 429);
    }
    let seen = names.map(|name| stage.seen(name));
    for name in names {
        assert_eq!(stage.lane(name, "gpt-4o").state, "cooling", "{name}");
    }
    at_once(&stage, 40, QUESTION).await;
    assert_eq!(names.map(|name| stage.seen(name)), seen, "a cooldown was lost");
}

#[tokio::test]
async fn openai_apim_lb_a_retry_after_beyond_60_seconds_is_not_forgotten_when_idle() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    stage.resource("east").fault(FaultRule::times(Fault::throttle_seconds(120), 1));
    assert_eq!(stage.chat().await.region(), Some("west"));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let lane = stage.lane("east", "gpt-4o");
    assert!(lane.remaining_ms.is_some_and(|left| (50_000..=58_500).contains(&left)), "{lane:?}");
    assert_eq!(stage.chat().await.region(), Some("west"));
    assert_eq!(stage.seen("east"), 1);
}

#[tokio::test]
async fn openai_apim_lb_a_wait_that_cannot_be_parsed_is_no_500() {
    for wait in ["1.5", "6m0s", "Wed, 21 Oct 2026 07:28:00 GMT", "nonsense", "-1", "NaN", "1e400", ""] {
        for milliseconds in [None, Some(wait.to_owned())] {
            let stage = Scene::of([("east", 1), ("west", 2)]).start();
            let fault =
                Fault::Throttle { retry_after: Some(wait.into()), retry_after_ms: milliseconds.clone() };
            stage.resource("east").fault(FaultRule::times(fault, 1));
            let answer = stage.chat().await;
            assert_eq!((answer.status, answer.region()), (200, Some("west")), "{wait:?}");
            // A millisecond and a half, that is ten, may be over before one can look.
            let short = milliseconds.as_deref() == Some("1.5");
            assert!(short || stage.lane("east", "gpt-4o").state == "cooling", "{wait:?}");
        }
    }
}

#[tokio::test]
async fn openai_aca_lb_two_retry_predicates_make_no_empty_429() {
    let stage = Scene::of([("east", 1), ("west", 1)]).server("workers = 2").start();
    for round in 0..5 {
        for name in ["east", "west"] {
            let wait = Fault::Throttle { retry_after: None, retry_after_ms: Some("5".into()) };
            stage.resource(name).fault(wait);
        }
        for body in [QUESTION, STREAMED] {
            for answer in at_once(&stage, 12, body).await {
                assert_eq!((answer.status, answer.complete, answer.code().as_str()), (429, true, "429"));
                assert!(answer.number("retry-after-ms").is_some_and(|wait| wait > 0), "{round}: {answer:?}");
            }
        }
    }
}

#[tokio::test]
async fn openai_aca_lb_path_replace_touches_the_deployment_alone() {
    let names = ["openai", "chat", "deployments", "completions", "v1"];
    let lines: Vec<_> = names.iter().map(|name| format!("{name} = \"there-{name}\"")).collect();
    let stage = Scene::of([("east", 1)])
        .backend("east", &format!("deployments = {{ {} }}", lines.join(", ")))
        .resource("east", |east| {
            for name in names {
                east.deployments.insert(format!("there-{name}"), ModelKind::Chat);
            }
        })
        .start();
    for name in names {
        let path = format!("/openai/deployments/{name}/chat/completions?api-version=2024-10-21&q={name}");
        assert_eq!(stage.caller().post(&path, QUESTION).await.status, 200, "{name}");
        let sent = stage.resource("east").last_request().unwrap().uri.to_string();
        let expected =
            format!("/openai/deployments/there-{name}/chat/completions?api-version=2024-10-21&q={name}");
        assert_eq!(sent, expected);
    }
}

#[tokio::test]
async fn simple_l7_proxy_shared_headers_carry_no_key_of_a_to_b() {
    let names = ["east", "west", "north"];
    let stage = Scene::of(names.map(|name| (name, 1)))
        .server("workers = 2")
        .resource("east", |east| east.remember = 200)
        .resource("west", |west| west.remember = 200)
        .resource("north", |north| north.remember = 200)
        .start();
    for name in ["east", "west"] {
        let wait = Fault::Throttle { retry_after: None, retry_after_ms: Some("10".into()) };
        stage.resource(name).fault(wait);
    }
    for _ in 0..6 {
        for answer in at_once(&stage, 10, QUESTION).await {
            assert_eq!((answer.status, answer.region()), (200, Some("north")));
        }
    }
    for name in names {
        let requests = stage.resource(name).requests();
        assert!(!requests.is_empty(), "{name}");
        for request in requests {
            let keys: Vec<_> = request.headers.get_all("api-key").iter().cloned().collect();
            assert_eq!(keys, [key_of(name).as_str()]);
            assert!(!request.headers.contains_key("authorization"));
        }
    }
}

#[tokio::test]
async fn powerproxy_a_streamed_429_leaks_no_connection() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    let wait = Fault::Throttle { retry_after: None, retry_after_ms: Some("10".into()) };
    stage.resource("east").fault(wait);
    for round in 1..=20 {
        assert_eq!(stage.caller().post(CHAT, STREAMED).await.region(), Some("west"), "{round}");
        eventually("it is back", || stage.lane("east", "gpt-4o").state == "admitting").await;
    }
    assert_eq!(stage.seen("east"), 20);
    for name in ["east", "west"] {
        assert_eq!(stage.resource(name).counters().connections, 1, "{name}");
    }
}

#[tokio::test]
async fn powerproxy_four_workers_share_one_state() {
    let stage = Scene::of([("east", 1), ("west", 2)]).server("workers = 4").start();
    stage.resource("east").fault(Fault::throttle_seconds(30));
    assert_eq!(stage.chat().await.region(), Some("west"));
    for answer in at_once(&stage, 40, QUESTION).await {
        assert_eq!((answer.region(), answer.header("x-sidestep-attempts")), (Some("west"), Some("1")));
    }
    assert_eq!(stage.seen("east"), 1);
}

#[tokio::test]
async fn helicone_the_status_of_a_stream_is_the_backends_own() {
    let stage = Scene::of([("east", 1)]).start();
    for (path, body) in [(CHAT, STREAMED), (RESPONSES, RESPONSE_STREAMED)] {
        for status in [400, 422, 500] {
            stage.resource("east").fault(FaultRule::times(Fault::status(status), 1));
            assert_eq!(stage.caller().post(path, body).await.status, status);
        }
    }
}

#[tokio::test]
async fn aisix_a_success_in_flight_clears_no_newer_429() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    stage.resource("east").fault(FaultRule::times(Fault::SlowHead { delay_ms: 400 }, 1));
    let caller = stage.caller();
    let slow = tokio::spawn(async move { caller.send(post(CHAT, QUESTION)).await.whole().await });
    eventually("the slow one is there", || stage.seen("east") == 1).await;
    stage.resource("east").fault(FaultRule::times(Fault::throttle_seconds(30), 1));
    assert_eq!(stage.chat().await.region(), Some("west"));
    assert_eq!(slow.await.unwrap().region(), Some("east"));
    assert_eq!(stage.lane("east", "gpt-4o").state, "cooling");
    assert_eq!(stage.chat().await.region(), Some("west"));
    assert_eq!(stage.seen("east"), 2);
}

#[tokio::test]
async fn tensorzero_not_every_request_pays_for_the_dead_first_backend() {
    for fault in [Fault::CloseBeforeHead, Fault::Garbage, Fault::status(500), Fault::status(401)] {
        let stage = Scene::of([("east", 1), ("west", 2)]).start();
        stage.resource("east").fault(fault.clone());
        for _ in 0..10 {
            assert_eq!(stage.chat().await.region(), Some("west"), "{fault:?}");
        }
        assert!(stage.seen("east") <= 3, "{fault:?}: asked {} times", stage.seen("east"));
    }
}
