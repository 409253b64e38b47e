//! Many callers at once, while backends misbehave: nobody hears of it as long as one backend is well.

use std::time::Duration;

use sidestep::simulator::{Fault, FaultRule};
use tokio::task::JoinSet;

use super::fixture::backend::{PlayedBackend, answer};
use super::fixture::caller::post;
use super::fixture::{
    CHAT, Caller, QUESTION, RESPONSE_STREAMED, RESPONSES, STREAMED, Scene, Stage, eventually,
};

/// So many callers, each with several requests one after the other, in both protocols, streamed and not.
async fn crowd(stage: &Stage, callers: usize, requests: usize) {
    let mut crowd = JoinSet::new();
    for number in 0..callers {
        let caller: Caller = if number % 4 == 0 { stage.caller_http2() } else { stage.caller() };
        crowd.spawn(async move {
            for turn in 0..requests {
                let (path, body) = match (number + turn) % 3 {
                    0 => (CHAT, QUESTION),
                    1 => (CHAT, STREAMED),
                    _ => (RESPONSES, RESPONSE_STREAMED),
                };
                let answer = caller.post(path, body).await;
                assert_eq!((answer.status, answer.complete), (200, true), "{answer:?}");
            }
        });
    }
    while let Some(ended) = crowd.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn whatever_befalls_two_backends_the_third_serves_everybody() {
    let stage = Scene::of([("east", 1), ("west", 1), ("north", 2)]).server("workers = 2").start();
    let faults = [
        Fault::Throttle { retry_after: None, retry_after_ms: Some("20".into()) },
        Fault::CloseBeforeHead,
        Fault::status(500),
        Fault::RateLimitInStream { events: 1 },
        Fault::Reset,
        Fault::CutAfterEvents { events: 1, reset: false },
        Fault::Garbage,
        Fault::CutMidJson,
        Fault::ErrorInStream { events: 1 },
    ];
    for fault in faults {
        for name in ["east", "west"] {
            stage.resource(name).fault(FaultRule::times(fault.clone(), 8));
        }
        crowd(&stage, 12, 4).await;
        for name in ["east", "west"] {
            stage.resource(name).clear();
        }
    }
    let status = stage.balancer.status();
    assert_eq!((status.callers.failed_total, status.callers.requests_total), (0, 432));
    assert!(status.callers.failovers_total > 0);
    eventually("every place is handed back", || {
        let status = stage.balancer.status();
        status.callers.in_flight == 0 && status.backends.iter().all(|backend| backend.in_flight == 0)
    })
    .await;
}

#[tokio::test]
async fn callers_that_leave_at_any_moment_leave_nothing_behind() {
    let stage = Scene::of([("east", 1), ("west", 2)])
        .server("workers = 2")
        .resource("east", |east| east.latency.per_token = Duration::from_millis(2))
        .start();
    let mut crowd = JoinSet::new();
    for number in 0..60_u64 {
        let caller = if number % 2 == 0 { stage.caller() } else { stage.caller_http2() };
        crowd.spawn(async move {
            let patience = Duration::from_millis(number);
            let _left = tokio::time::timeout(patience, caller.post(CHAT, STREAMED)).await;
        });
    }
    while let Some(ended) = crowd.join_next().await {
        ended.unwrap();
    }
    eventually("every place is handed back", || {
        let status = stage.balancer.status();
        status.callers.in_flight == 0 && status.backends.iter().all(|backend| backend.in_flight == 0)
    })
    .await;
    eventually("nothing goes on upstream", || stage.resource("east").counters().in_flight == 0).await;
    let east = stage.backend("east");
    assert_eq!((east.state, east.failed_total, stage.seen("west")), ("admitting", 0, 0));
    assert_eq!(stage.chat().await.region(), Some("east"));
}

#[tokio::test]
async fn errors_keep_their_connection() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    stage.resource("east").fault(Fault::status(408));
    for _ in 0..10 {
        assert_eq!(stage.chat().await.region(), Some("west"));
        assert_eq!(stage.caller().post(CHAT, STREAMED).await.region(), Some("west"));
    }
    assert_eq!(stage.seen("east"), 20);
    for name in ["east", "west"] {
        assert_eq!(stage.resource(name).counters().connections, 1, "{name}");
    }
}

#[tokio::test]
async fn a_connection_that_the_backend_closed_while_idle_costs_nobody_anything() {
    let east = PlayedBackend::listen().await;
    let stage = Scene::default().played("east", 1, east.address).start();
    for _ in 0..5 {
        let serving = async {
            let (mut wire, _) = east.request().await;
            wire.write(answer("200 OK", "", "{}")).await;
        };
        // Not to be repeated: so it must not be sent on a connection that is known to be dead.
        let caller = stage.caller();
        let background = r#"{"model":"gpt-4o","input":"Is anyone there?","background":true}"#;
        let ((), answer) = tokio::join!(serving, caller.post(RESPONSES, background));
        assert_eq!((answer.status, answer.header("x-sidestep-attempts")), (200, Some("1")));
    }
}

#[tokio::test]
async fn a_large_body_that_is_answered_before_its_end_is_answered() {
    let stage = Scene::of([("east", 1), ("west", 2)]).toml("[limits]\nrequest_replay = \"1KiB\"").start();
    let east = PlayedBackend::listen().await;
    let played =
        Scene::default().played("east", 1, east.address).toml("[limits]\nrequest_replay = \"1KiB\"").start();
    let large = format!(r#"{{"messages":[{{"role":"user","content":"{}"}}]}}"#, "word ".repeat(1_000_000));
    let serving = async {
        let mut wire = east.accept().await;
        wire.until("\r\n\r\n").await;
        wire.write(answer("429 Too Many Requests", "retry-after: 7\r\n", "{\"error\":{\"code\":\"429\"}}"))
            .await;
        wire
    };
    let caller = played.caller();
    let (wire, answer) = tokio::join!(serving, caller.post(CHAT, &large));
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("7")));
    drop(wire);
    eventually("the place is free", || played.backend("east").in_flight == 0).await;
    // Of known length or not, it arrives whole.
    for chunked in [false, true] {
        let mut sent = post(CHAT, &large);
        if chunked {
            sent.headers_mut().insert("transfer-encoding", "chunked".parse().unwrap());
        }
        let answer = stage.caller().send(sent).await.whole().await;
        assert_eq!((answer.status, answer.region()), (200, Some("east")));
        assert!(stage.resource("east").last_request().unwrap().body == large.as_bytes());
    }
}

#[tokio::test]
async fn one_connection_of_a_caller_carries_answers_of_every_kind() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    let mut wire = super::fixture::wire::Wire::connect(stage.balancer.address()).await;
    let post = |body: &str| {
        format!("POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    for fault in [None, Some(Fault::status(500)), Some(Fault::status(400)), Some(Fault::CutMidJson)] {
        if let Some(fault) = fault {
            stage.resource("east").fault(FaultRule::times(fault, 1));
        }
        wire.write(post(QUESTION)).await;
        let head = wire.until("\r\n\r\n").await;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        wire.exactly(length.parse().unwrap()).await;
        wire.write(post(STREAMED)).await;
        let stream = wire.until("data: [DONE]\n\n\r\n0\r\n\r\n").await;
        assert!(stream.starts_with("HTTP/1.1 200 OK\r\n"), "{stream}");
        assert!(wire.read.is_empty());
    }
}

#[tokio::test]
async fn a_caller_that_leaves_while_it_sends_blames_no_backend() {
    let stage = Scene::of([("east", 1), ("west", 2)]).toml("[limits]\nrequest_replay = \"1KiB\"").start();
    // Kept and not yet sent anywhere; passed on as it comes.
    for (length, reaches) in [(1_000, 0), (100_000, 1)] {
        for round in 1..=4 {
            let mut wire = super::fixture::wire::Wire::connect(stage.balancer.address()).await;
            let head = format!("POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {length}\r\n\r\n");
            wire.write(format!("{head}{}", "x".repeat(length / 2))).await;
            eventually("it has begun", || {
                stage.seen("east") == reaches * round && stage.balancer.status().callers.in_flight == 1
            })
            .await;
            drop(wire);
            eventually("every place is handed back", || {
                stage.balancer.status().callers.in_flight == 0 && stage.backend("east").in_flight == 0
            })
            .await;
        }
    }
    eventually("nothing goes on upstream", || stage.resource("east").counters().in_flight == 0).await;
    let east = stage.backend("east");
    assert_eq!((east.state, east.failed_total, stage.seen("west")), ("admitting", 0, 0));
    assert_eq!(stage.chat().await.region(), Some("east"));
}
