//! A backend fails, breaks off, hangs or refuses: the next lane answers where that doubles nothing.

use std::time::Duration;

use sidestep::simulator::{Fault, FaultRule, ModelKind};
use tokio::time::Instant;

use super::fixture::backend::{PlayedBackend, answer, request};
use super::fixture::caller::post;
use super::fixture::{CHAT, QUESTION, RESPONSES, Scene, Stage, eventually};

/// Two backends, the first with this fault.
fn with_fault(fault: impl Into<FaultRule>) -> Stage {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    stage.resource("east").fault(fault);
    stage
}

/// A server error that asks to be left alone for so long.
fn failing_for(status: u16, milliseconds: u64) -> Fault {
    let headers = vec![("retry-after-ms".to_owned(), milliseconds.to_string())];
    Fault::Status { status, body: None, headers }
}

#[tokio::test]
async fn a_server_error_is_absorbed_whichever_it_is() {
    for status in [500, 502, 503, 504, 529, 599] {
        let stage = with_fault(Fault::status(status));
        let answer = stage.chat().await;
        assert_eq!((answer.status, answer.region()), (200, Some("west")), "{status}");
        assert_eq!(answer.header("x-sidestep-attempts"), Some("2"));
        assert_eq!(stage.lane("east", "gpt-4o").state, "admitting", "one failure is chance");
    }
}

#[tokio::test]
async fn a_request_that_fails_everywhere_gets_the_last_answer_and_rests_nothing() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    for name in ["east", "west"] {
        let body = Some(format!(r#"{{"error":{{"code":"boom","message":"{name}\u00e9"}}}}"#));
        stage.resource(name).fault(Fault::Status { status: 500, body, headers: Vec::new() });
    }
    for round in 1..=5 {
        let answer = stage.chat().await;
        assert_eq!((answer.status, answer.region()), (500, Some("west")));
        assert_eq!(answer.text(), r#"{"error":{"code":"boom","message":"west\u00e9"}}"#);
        assert_eq!(answer.header("x-sidestep-backend"), Some("west"));
        assert_eq!((stage.seen("east"), stage.seen("west")), (round, round), "nothing rests");
    }
    stage.resource("east").clear();
    assert_eq!(stage.chat().await.region(), Some("east"));
}

#[tokio::test]
async fn three_failures_while_another_answers_rest_the_lane_until_a_probe_goes_well() {
    let stage = with_fault(failing_for(500, 800));
    for round in 1..=3 {
        assert_eq!(stage.chat().await.region(), Some("west"));
        assert_eq!(stage.seen("east"), round);
    }
    assert_eq!(stage.lane("east", "gpt-4o").state, "resting");
    assert_eq!(stage.chat().await.region(), Some("west"));
    assert_eq!(stage.seen("east"), 3, "a resting lane is asked nothing");
    // One probe, which fails: it rests again, for as long as the answer asked.
    eventually("a probe is due", || stage.lane("east", "gpt-4o").state == "probing").await;
    assert_eq!(stage.chat().await.region(), Some("west"));
    assert_eq!(stage.seen("east"), 4);
    assert_eq!(stage.lane("east", "gpt-4o").state, "resting");
    stage.resource("east").clear();
    eventually("a probe is due", || stage.lane("east", "gpt-4o").state == "probing").await;
    assert_eq!(stage.chat().await.region(), Some("east"));
    assert_eq!(stage.lane("east", "gpt-4o").state, "admitting");
}

#[tokio::test]
async fn while_a_probe_is_out_others_go_elsewhere_and_a_probe_that_left_frees_its_place() {
    let stage = with_fault(FaultRule::times(failing_for(503, 50), 1));
    assert_eq!(stage.chat().await.region(), Some("west"));
    eventually("a probe is due", || stage.lane("east", "gpt-4o").state == "probing").await;
    stage.resource("east").fault(Fault::HangBeforeHead);
    let caller = stage.caller();
    let probe = tokio::spawn(async move { caller.try_send(post(CHAT, QUESTION)).await });
    eventually("the probe is there", || stage.seen("east") == 2).await;
    assert_eq!(stage.chat().await.region(), Some("west"));
    assert_eq!(stage.seen("east"), 2, "one probe at a time");
    stage.resource("east").clear();
    probe.abort();
    eventually("the probe is gone", || stage.backend("east").in_flight == 0).await;
    assert_eq!(stage.chat().await.region(), Some("east"));
}

#[tokio::test]
async fn a_503_with_a_time_rests_the_lane_at_once() {
    let stage = with_fault(FaultRule::times(failing_for(503, 1_000), 1));
    let began = Instant::now();
    assert_eq!(stage.chat().await.region(), Some("west"));
    assert_eq!(stage.lane("east", "gpt-4o").state, "resting");
    assert_eq!(stage.chat().await.region(), Some("west"));
    assert_eq!(stage.seen("east"), 1);
    eventually("a probe is due", || stage.lane("east", "gpt-4o").state == "probing").await;
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(stage.chat().await.region(), Some("east"));
}

#[tokio::test]
async fn a_lane_that_rests_is_asked_all_the_same_when_nothing_else_is_left() {
    let stage = Scene::of([("east", 1)]).start();
    stage.resource("east").fault(FaultRule::times(failing_for(503, 60_000), 1));
    assert_eq!(stage.chat().await.status, 503);
    assert_eq!(stage.lane("east", "gpt-4o").state, "resting");
    assert_eq!(stage.chat().await.status, 200);
}

#[tokio::test]
async fn a_backend_where_nobody_listens_rests_at_once_and_is_found_again() {
    let stage = with_fault(Fault::Refuse);
    eventually("nobody listens", || std::net::TcpStream::connect(stage.resource("east").address()).is_err())
        .await;
    let answer = stage.chat().await;
    assert_eq!((answer.status, answer.region()), (200, Some("west")));
    assert_eq!(answer.header("x-sidestep-attempts"), Some("2"));
    assert_eq!(stage.backend("east").state, "resting");
    assert_eq!(stage.chat().await.header("x-sidestep-attempts"), Some("1"));

    let alone = Scene::of([("east", 1)]).start();
    alone.resource("east").fault(Fault::Refuse);
    eventually("nobody listens", || std::net::TcpStream::connect(alone.resource("east").address()).is_err())
        .await;
    let answer = alone.chat().await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "backend_failed"));
    alone.resource("east").clear();
    eventually("it listens", || std::net::TcpStream::connect(alone.resource("east").address()).is_ok()).await;
    assert_eq!(alone.chat().await.status, 200);
    assert_eq!(alone.backend("east").state, "admitting");
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_answer_fails_over() {
    for fault in [Fault::CloseBeforeHead, Fault::Reset, Fault::Garbage] {
        let stage = with_fault(fault.clone());
        let answer = stage.chat().await;
        assert_eq!((answer.status, answer.region()), (200, Some("west")), "{fault:?}");
        assert_eq!(stage.seen("east"), 1, "{fault:?}: a fresh connection is not tried again");
        let alone = Scene::of([("east", 1)]).start();
        alone.resource("east").fault(fault);
        let answer = alone.chat().await;
        assert_eq!((answer.status, answer.code().as_str()), (502, "backend_failed"));
    }
}

#[tokio::test]
async fn three_broken_connections_rest_the_backend() {
    let stage = with_fault(Fault::CloseBeforeHead);
    for _ in 0..3 {
        assert_eq!(stage.chat().await.region(), Some("west"));
    }
    assert_eq!(stage.backend("east").state, "resting");
    assert_eq!(stage.chat().await.region(), Some("west"));
    assert_eq!(stage.seen("east"), 3);
}

#[tokio::test]
async fn a_pooled_connection_that_died_is_replaced_silently() {
    let east = PlayedBackend::listen().await;
    let stage = Scene::of([("west", 2)]).played("east", 1, east.address).start();
    let serving = async {
        let (mut first, _) = east.request().await;
        first.write(answer("200 OK", "", "{}")).await;
        // The second request on it finds its end.
        request(&mut first).await;
        drop(first);
        let (mut second, repeated) = east.request().await;
        second.write(answer("200 OK", "", r#"{"second":1}"#)).await;
        repeated
    };
    let calling = async {
        assert_eq!(stage.chat().await.text(), "{}");
        stage.chat().await
    };
    let (repeated, answer) = tokio::join!(serving, calling);
    assert!(repeated.ends_with(QUESTION), "{repeated}");
    assert_eq!((answer.status, answer.text()), (200, r#"{"second":1}"#));
    assert_eq!(answer.header("x-sidestep-attempts"), Some("1"), "nobody hears of it");
    assert_eq!(stage.backend("east").failed_total, 0);
}

#[tokio::test]
async fn what_must_not_be_repeated_is_not_repeated_after_a_reset() {
    let upload = "--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--b--\r\n";
    let background = r#"{"model":"gpt-4o","input":"Is anyone there?","background":true}"#;
    let cases = [
        ("/openai/v1/files", "multipart/form-data; boundary=b", upload),
        (RESPONSES, "application/json", background),
        ("/openai/v1/batches", "application/json", r#"{"input_file_id":"file-1"}"#),
    ];
    for (path, kind, body) in cases {
        for fault in [Fault::Reset, Fault::CloseBeforeHead, Fault::Garbage] {
            let stage = with_fault(fault.clone());
            let mut request = post(path, body);
            request.headers_mut().insert("content-type", kind.parse().unwrap());
            let answer = stage.caller().send(request).await.whole().await;
            assert_eq!((answer.status, answer.code().as_str()), (502, "backend_failed"), "{path} {fault:?}");
            assert_eq!((stage.seen("east"), stage.seen("west")), (1, 0), "{path} {fault:?}");
        }
        let stage = with_fault(Fault::status(500));
        let mut request = post(path, body);
        request.headers_mut().insert("content-type", kind.parse().unwrap());
        let answer = stage.caller().send(request).await.whole().await;
        assert_eq!((answer.status, answer.region(), stage.seen("west")), (500, Some("east"), 0), "{path}");
    }
}

#[tokio::test]
async fn what_must_not_be_repeated_is_not_repeated_on_a_fresh_connection_either() {
    let east = PlayedBackend::listen().await;
    let stage = Scene::of([("west", 2)]).played("east", 1, east.address).start();
    let background = r#"{"model":"gpt-4o","input":"Is anyone there?","background":true}"#;
    let serving = async {
        let (mut first, _) = east.request().await;
        first.write(answer("200 OK", "", "{}")).await;
        request(&mut first).await;
    };
    let calling = async {
        assert_eq!(stage.chat().await.status, 200);
        stage.caller().post(RESPONSES, background).await
    };
    let ((), answer) = tokio::join!(serving, calling);
    assert_eq!((answer.status, answer.code().as_str()), (502, "backend_failed"));
    assert_eq!((stage.seen("west"), stage.backend("east").requests_total), (0, 2));
}

#[tokio::test]
async fn what_was_never_sent_is_sent_elsewhere_whatever_it_is() {
    let stage = with_fault(Fault::Refuse);
    eventually("nobody listens", || std::net::TcpStream::connect(stage.resource("east").address()).is_err())
        .await;
    let background = r#"{"model":"gpt-4o","input":"Is anyone there?","background":true}"#;
    let answer = stage.caller().post(RESPONSES, background).await;
    assert_eq!((answer.status, answer.region()), (200, Some("west")));
}

#[tokio::test]
async fn a_first_byte_that_does_not_come_fails_over_and_blames_nobody() {
    let stage = Scene::of([("east", 1), ("west", 2)]).toml("[retry]\nfirst_byte_timeout = \"100ms\"").start();
    stage.resource("east").fault(Fault::HangBeforeHead);
    for _ in 0..4 {
        assert_eq!(stage.chat().await.region(), Some("west"));
    }
    assert_eq!(stage.seen("east"), 4, "a long answer is no failure");
    stage.resource("west").fault(Fault::HangBeforeHead);
    let answer = stage.chat().await;
    assert_eq!((answer.status, answer.code().as_str()), (504, "backend_timeout"));
    eventually("nothing goes on there", || stage.resource("east").counters().in_flight == 0).await;
}

#[tokio::test]
async fn the_deadline_ends_a_request_wherever_it_is() {
    let stage = Scene::of([("east", 1), ("west", 2)])
        .toml("[retry]\ndeadline = \"200ms\"\nconnect_timeout = \"200ms\"")
        .start();
    stage.resource("east").fault(Fault::HangBeforeHead);
    let began = Instant::now();
    let answer = stage.chat().await;
    assert_eq!((answer.status, answer.code().as_str()), (504, "backend_timeout"));
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert_eq!(stage.seen("west"), 0, "no time is left for another");
    eventually("nothing goes on there", || stage.resource("east").counters().in_flight == 0).await;
    assert_eq!(stage.lane("east", "gpt-4o").state, "admitting");
}

#[tokio::test]
async fn the_callers_own_patience_is_a_deadline_too() {
    let stage = with_fault(Fault::HangBeforeHead);
    let mut request = post(CHAT, QUESTION);
    request.headers_mut().insert("x-stainless-read-timeout", "0.01".parse().unwrap());
    let began = Instant::now();
    let answer = stage.caller().send(request).await.whole().await;
    assert_eq!((answer.status, answer.code().as_str()), (504, "backend_timeout"));
    assert!(began.elapsed() >= Duration::from_secs(1), "not less than a second: {:?}", began.elapsed());
}

#[tokio::test]
async fn an_error_of_the_callers_own_is_passed_back_untouched_and_never_retried() {
    for status in [400, 404, 409, 413, 415, 422, 431] {
        let stage = with_fault(Fault::status(status));
        let direct = super::fixture::Caller::http1(stage.resource("east").address());
        let mut request = post(CHAT, QUESTION);
        request.headers_mut().insert("api-key", "key-of-east".parse().unwrap());
        let direct = direct.send(request).await.whole().await;
        let answer = stage.chat().await;
        assert_eq!((answer.status, answer.region()), (status, Some("east")));
        assert_eq!(answer.body, direct.body);
        assert_eq!(answer.header("content-type"), direct.header("content-type"));
        assert_eq!(stage.seen("west"), 0);
        assert_eq!(stage.lane("east", "gpt-4o").state, "admitting");
    }
}

#[tokio::test]
async fn a_content_filter_is_the_callers_answer() {
    let stage = with_fault(Fault::status(400));
    let answer = stage.chat().await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "content_filter"));
    assert_eq!(answer.json()["error"]["innererror"]["code"], "ResponsibleAIPolicyViolation");
    assert_eq!((stage.seen("east"), stage.seen("west")), (1, 0));
}

#[tokio::test]
async fn a_refused_credential_is_never_shown_and_not_tried_again_for_that_family() {
    for status in [401, 403] {
        let stage = with_fault(Fault::status(status));
        assert_eq!(stage.chat().await.region(), Some("west"));
        assert_eq!(stage.backend("east").state, "refused");
        assert_eq!(stage.chat().await.region(), Some("west"));
        assert_eq!(stage.seen("east"), 1);
        stage.resource("east").clear();
        assert_eq!(stage.caller().get("/openai/v1/models").await.region(), Some("east"), "another family");
        assert_eq!(stage.chat().await.region(), Some("west"));

        let alone = Scene::of([("east", 1)]).start();
        alone.resource("east").fault(Fault::status(status));
        for _ in 0..2 {
            let answer = alone.chat().await;
            assert_eq!((answer.status, answer.code().as_str()), (502, "backend_refused"));
            assert_eq!(answer.region(), None);
        }
        assert_eq!(alone.seen("east"), 1);
    }
}

#[tokio::test]
async fn a_deployment_that_is_not_there_is_looked_for_elsewhere() {
    let stage = Scene::of([("east", 1), ("west", 2)])
        .resource("east", |east| {
            east.deployments = [("gpt-5".to_owned(), ModelKind::Chat)].into();
        })
        .start();
    for _ in 0..2 {
        assert_eq!(stage.chat().await.region(), Some("west"));
    }
    assert_eq!(stage.seen("east"), 1, "absent for five minutes");
    assert_eq!(stage.lane("east", "gpt-4o").state, "absent");
}

#[tokio::test]
async fn a_deployment_that_is_nowhere_is_azures_own_404() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    let unknown = CHAT.replace("gpt-4o", "gpt-9");
    for _ in 0..2 {
        let answer = stage.caller().post(&unknown, QUESTION).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "DeploymentNotFound"));
        assert!(answer.text().contains("The API deployment for this resource does not exist"));
    }
    assert_eq!((stage.seen("east"), stage.seen("west")), (1, 1));
    assert_eq!(stage.chat().await.region(), Some("east"));
}

#[tokio::test]
async fn an_operation_that_a_deployment_does_not_do_is_asked_of_another() {
    let stage = Scene::of([("east", 1), ("west", 2)])
        .resource("east", |east| {
            east.deployments.insert("gpt-4o".into(), ModelKind::Embeddings);
        })
        .start();
    for _ in 0..2 {
        assert_eq!(stage.chat().await.region(), Some("west"));
    }
    assert_eq!(stage.seen("east"), 1);
    let embedding = CHAT.replace("chat/completions", "embeddings");
    let answer = stage.caller().post(&embedding, r#"{"input":"text"}"#).await;
    assert_eq!((answer.status, answer.region()), (200, Some("east")), "the lane does what it can");
}

#[tokio::test]
async fn what_refers_to_another_resource_is_tried_at_the_others_in_turn() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    let reasoning =
        r#"{"model":"gpt-4o","input":[{"type":"reasoning","encrypted_content":"gAAAA-west","summary":[]}]}"#;
    let answer = stage.caller().post(RESPONSES, reasoning).await;
    assert_eq!((answer.status, answer.region()), (200, Some("west")));
    let nowhere = reasoning.replace("gAAAA-west", "gAAAA-north");
    let answer = stage.caller().post(RESPONSES, &nowhere).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_encrypted_content"));
    assert_eq!(stage.lane("east", "gpt-4o").state, "admitting");
}

#[tokio::test]
async fn a_408_is_tried_once_more_and_no_further() {
    let stage = Scene::of([("east", 1), ("west", 2), ("north", 3)]).start();
    stage.resource("east").fault(FaultRule::times(Fault::status(408), 1));
    assert_eq!(stage.chat().await.region(), Some("west"));
    for name in ["east", "west", "north"] {
        stage.resource(name).fault(Fault::status(408));
    }
    let answer = stage.chat().await;
    assert_eq!((answer.status, answer.region()), (408, Some("west")));
    assert_eq!((stage.seen("east"), stage.seen("west"), stage.seen("north")), (2, 2, 0));
    assert_eq!(stage.lane("east", "gpt-4o").state, "admitting");
}

#[tokio::test]
async fn small_json_that_breaks_off_fails_over() {
    let stage = with_fault(Fault::CutMidJson);
    let answer = stage.chat().await;
    assert_eq!((answer.status, answer.region(), answer.complete), (200, Some("west"), true));
    assert_eq!(answer.json()["object"], "chat.completion");
}

#[tokio::test]
async fn an_error_too_long_to_keep_is_told_in_our_words() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    let long = |status| Fault::Status { status, body: Some("x".repeat(100_000)), headers: Vec::new() };
    for name in ["east", "west"] {
        stage.resource(name).fault(long(500));
    }
    let answer = stage.chat().await;
    assert_eq!((answer.status, answer.code().as_str(), answer.complete), (502, "backend_failed", true));
    // One that is the caller's own passes at any length.
    stage.resource("east").clear();
    stage.resource("east").fault(long(400));
    let answer = stage.chat().await;
    assert_eq!((answer.status, answer.body.len(), answer.complete), (400, 100_000, true));
}

#[tokio::test]
async fn an_error_whose_body_breaks_off_never_looks_complete() {
    let east = PlayedBackend::listen().await;
    let stage = Scene::default().played("east", 1, east.address).start();
    let (known, chunked) = ("content-length: 100", "transfer-encoding: chunked");
    for (status, framing, sent, begun) in [
        (400, known, "", ""),
        (400, known, "{\"error\":", "{\"error\":"),
        (404, chunked, "", ""),
        (400, chunked, "5\r\n{\"a\":\r\n", "{\"a\":"),
    ] {
        let serving = async {
            let (mut wire, _) = east.request().await;
            wire.write(format!("HTTP/1.1 {status} Oh\r\n{framing}\r\n\r\n{sent}")).await;
        };
        let ((), answer) = tokio::join!(serving, stage.chat());
        assert_eq!((answer.status, answer.text(), answer.complete), (status, begun, false), "{framing}");
    }
    // A failure of the backend's own is told in our words.
    let serving = async {
        let (mut wire, _) = east.request().await;
        wire.write("HTTP/1.1 500 Oops\r\ncontent-length: 100\r\n\r\n{").await;
    };
    let ((), answer) = tokio::join!(serving, stage.chat());
    assert_eq!((answer.status, answer.code().as_str(), answer.complete), (502, "backend_failed", true));
}

#[tokio::test]
async fn an_error_in_chunks_passes_whole_and_its_connection_is_kept() {
    let east = PlayedBackend::listen().await;
    let stage = Scene::default().played("east", 1, east.address).start();
    let serving = async {
        let mut wire = east.accept().await;
        for _ in 0..2 {
            request(&mut wire).await;
            wire.write("HTTP/1.1 400 Bad Request\r\ntransfer-encoding: chunked\r\n\r\n").await;
            wire.write("3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n").await;
        }
        wire
    };
    let calling = async { [stage.chat().await, stage.chat().await] };
    let (_kept, answers) = tokio::join!(serving, calling);
    for answer in answers {
        assert_eq!((answer.status, answer.text(), answer.complete), (400, r#"{"a":1}"#, true));
    }
}

#[tokio::test]
async fn a_body_too_large_to_keep_goes_to_one_backend_and_its_refusal_is_still_not_shown() {
    let replaying_little =
        || Scene::of([("east", 1), ("west", 2)]).toml("[limits]\nrequest_replay = \"1KiB\"").start();
    let stage = replaying_little();
    let large = format!(r#"{{"messages":[{{"role":"user","content":"{}"}}]}}"#, "word ".repeat(1_000));
    let served = stage.caller().post(CHAT, &large).await;
    assert_eq!((served.status, served.region()), (200, Some("east")));
    assert!(stage.resource("east").last_request().unwrap().body == large.as_bytes());
    for (status, shown) in [(429, 429), (500, 500), (401, 502), (403, 502)] {
        let stage = replaying_little();
        stage.resource("east").fault(Fault::status(status));
        let answer = stage.caller().post(CHAT, &large).await;
        assert_eq!(answer.status, shown, "{status}");
        if shown == 502 {
            assert_eq!((answer.code().as_str(), answer.region()), ("backend_refused", None));
        }
        assert_eq!(stage.seen("west"), 0, "no failover");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_http_fails_over_however_it_is_wrong() {
    let heads = [
        "HTTP/1.1 banana\r\n\r\n".to_owned(),
        "HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "HTTP/3.7 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "\r\n\r\n\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nno colon here\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\nx-large: {}\r\n\r\n", "x".repeat(1024 * 1024)),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "x-many: 1\r\n".repeat(1_000)),
        "HTTP/1.1 200 O".to_owned(),
    ];
    for head in heads {
        let east = PlayedBackend::listen().await;
        let stage = Scene::of([("west", 2)]).played("east", 1, east.address).start();
        let serving = async {
            let (mut wire, _) = east.request().await;
            // Whoever had enough of it may have closed already.
            let _closed = tokio::io::AsyncWriteExt::write_all(&mut wire.socket, head.as_bytes()).await;
        };
        let ((), answer) = tokio::join!(serving, stage.chat());
        let head = head.get(..60).unwrap_or(&head);
        assert_eq!((answer.status, answer.region(), answer.complete), (200, Some("west"), true), "{head:?}");
        assert_eq!(stage.backend("east").in_flight, 0, "{head:?}");
    }
}

#[tokio::test]
async fn a_backend_that_cannot_be_reached_fails_over_whatever_is_asked() {
    let background = r#"{"model":"gpt-4o","input":"Is anyone there?","background":true}"#;
    let silent = PlayedBackend::listen().await;
    let plain = Scene::of([("plain", 1)]).start();
    for (url, alone) in [
        // TLS with somebody who does not speak it, or says nothing at all; a name that does not exist.
        (format!("https://{}", plain.resource("plain").address()), (502, "backend_failed")),
        (format!("https://{}", silent.address), (504, "backend_timeout")),
        ("http://no-such-resource.invalid".to_owned(), (502, "backend_failed")),
    ] {
        let limit = "[retry]\nconnect_timeout = \"300ms\"";
        let stage = Scene::of([("west", 2)]).elsewhere("east", 1, &url).toml(limit).start();
        let answer = stage.chat().await;
        assert_eq!((answer.status, answer.region()), (200, Some("west")), "{url}");
        let answer = stage.caller().post(RESPONSES, background).await;
        assert_eq!((answer.status, answer.region()), (200, Some("west")), "{url}: nothing was sent");
        let east = stage.backend("east");
        assert_eq!((east.requests_total, east.failed_total, east.in_flight), (2, 2, 0), "{url}");
        let stage = Scene::default().elsewhere("east", 1, &url).toml(limit).start();
        let answer = stage.chat().await;
        assert_eq!((answer.status, answer.code().as_str()), alone, "{url}");
    }
}

#[tokio::test]
async fn that_one_backend_cannot_read_a_request_is_not_told_while_another_cannot_be_reached() {
    let gone = PlayedBackend::listen().await.address;
    let stage = Scene::of([("east", 1)]).played("west", 2, gone).start();
    let reasoning =
        r#"{"model":"gpt-4o","input":[{"type":"reasoning","encrypted_content":"gAAAA-west","summary":[]}]}"#;
    let answer = stage.caller().post(RESPONSES, reasoning).await;
    assert_eq!((answer.status, stage.seen("east")), (502, 1), "{}", answer.text());
}

#[tokio::test]
async fn a_stream_that_fails_as_it_begins_is_not_answered_with_an_older_404() {
    let stage = Scene::of([("east", 1), ("west", 2)])
        .resource("east", |east| {
            east.deployments = [("gpt-5".to_owned(), ModelKind::Chat)].into();
        })
        .start();
    stage.resource("west").fault(Fault::ErrorInStream { events: 1 });
    let streamed = QUESTION.replace(r#""max_tokens""#, r#""stream":true,"max_tokens""#);
    let answer = stage.caller().post(CHAT, &streamed).await;
    assert_eq!((answer.status, stage.seen("east"), stage.seen("west")), (502, 1, 1), "{}", answer.text());
}

#[tokio::test]
async fn a_service_tier_that_is_full_in_every_stream_is_a_429() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    for name in ["east", "west"] {
        stage.resource(name).fault(Fault::RateLimitInStream { events: 1 });
    }
    let flex = QUESTION.replace(r#""max_tokens""#, r#""stream":true,"service_tier":"flex","max_tokens""#);
    let answer = stage.caller().post(CHAT, &flex).await;
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert!(answer.number("retry-after-ms").is_some_and(|told| told >= 10_000));
    assert_eq!(stage.lane("east", "gpt-4o").state, "admitting");
}
