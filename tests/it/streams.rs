//! Streams: passed event by event, failed over until they say something, and never cut so that they look complete.

use std::time::Duration;

use serde_json::Value;
use sidestep::simulator::{Fault, FaultRule};
use tokio::time::Instant;

use super::fixture::backend::{EVENTS, PlayedBackend, chunk};
use super::fixture::caller::post;
use super::fixture::wire::Wire;
use super::fixture::{
    CHAT, Caller, QUESTION, RESPONSE_STREAMED, RESPONSES, STREAMED, Scene, Stage, eventually,
};

const PRELUDE: &str = "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n";
const WORD: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"word\"},\"index\":0}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// Both protocols of callers.
const BOTH: [fn(&Stage) -> Caller; 2] = [Stage::caller, Stage::caller_http2];

/// Two backends, the first with this fault for once.
fn with_fault(fault: Fault) -> Stage {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    stage.resource("east").fault(FaultRule::times(fault, 1));
    stage
}

/// A backend that the test plays, alone.
async fn played() -> (PlayedBackend, Stage) {
    let east = PlayedBackend::listen().await;
    let stage = Scene::default().played("east", 1, east.address).start();
    (east, stage)
}

/// The payloads of all whole events.
fn payloads(text: &str) -> Vec<Value> {
    let data = text.split("\n\n").filter_map(|event| event.split("data: ").nth(1));
    data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
}

#[tokio::test]
async fn an_event_is_here_before_the_next_is_sent() {
    let (east, stage) = played().await;
    for caller in BOTH.map(|caller| caller(&stage)) {
        let serving = async {
            let (mut wire, _) = east.request().await;
            wire.write(EVENTS).await;
            wire.write(chunk(PRELUDE)).await;
            wire.write(chunk(WORD)).await;
            wire
        };
        let (mut wire, mut reply) = tokio::join!(serving, caller.open(CHAT, STREAMED));
        assert_eq!(reply.status(), 200);
        for number in 0..20 {
            let event = WORD.replace("word", &format!("word-{number}"));
            wire.write(chunk(&event)).await;
            reply.until(&event).await;
        }
        wire.write(chunk(DONE)).await;
        wire.write("0\r\n\r\n").await;
        let answer = reply.whole().await;
        assert!(answer.complete && answer.text().ends_with(DONE));
    }
}

#[tokio::test]
async fn bytes_pass_unaltered_however_they_are_cut() {
    let (east, stage) = played().await;
    let parts = [
        ": ping\n\nda",
        "ta: {\"choices\":[{\"delta\":{\"content\":\"caf\\u00e9\"},\"index\":0}]}\r\n\r",
        "\ndata:{\"choices\":[{\"delta\":{}}]}\nid: 7\n\n\n\n: end\n\n",
        "data: [DO",
        "NE]\n\n: after\n\n",
    ];
    for caller in BOTH.map(|caller| caller(&stage)) {
        let serving = async {
            let (mut wire, _) = east.request().await;
            wire.write(EVENTS).await;
            for part in parts {
                wire.write(chunk(part)).await;
            }
            wire.write("0\r\n\r\n").await;
        };
        let ((), answer) = tokio::join!(serving, caller.post(CHAT, STREAMED));
        assert_eq!(answer.text(), parts.concat());
        assert!(answer.complete);
        assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    }
}

#[tokio::test]
async fn a_rate_limit_after_response_created_fails_over_unseen() {
    for caller in BOTH {
        let stage = with_fault(Fault::RateLimitInStream { events: 1 });
        let answer = caller(&stage).post(RESPONSES, RESPONSE_STREAMED).await;
        assert_eq!((answer.status, answer.region(), answer.complete), (200, Some("west"), true));
        let events = payloads(answer.text());
        assert_eq!(events[0]["type"], "response.created");
        assert_eq!(events.last().unwrap()["type"], "response.completed");
        assert!(events.iter().all(|event| event["type"] != "error" && event["type"] != "response.failed"));
        assert_eq!(answer.header("x-sidestep-attempts"), Some("2"));
        assert_eq!(stage.lane("east", "gpt-4o").state, "cooling");
    }
}

#[tokio::test]
async fn an_error_in_a_chats_prelude_fails_over_unseen() {
    for (fault, state) in [
        (Fault::RateLimitInStream { events: 1 }, "cooling"),
        (Fault::RateLimitInStream { events: 0 }, "cooling"),
        (Fault::ErrorInStream { events: 1 }, "admitting"),
        (Fault::CutAfterEvents { events: 0, reset: false }, "admitting"),
        (Fault::CutAfterEvents { events: 1, reset: true }, "admitting"),
        (Fault::CutInsideEvent { events: 0 }, "admitting"),
        (Fault::EndAfterEvents { events: 1 }, "admitting"),
    ] {
        let stage = with_fault(fault.clone());
        let answer = stage.caller().post(CHAT, STREAMED).await;
        assert_eq!((answer.status, answer.region(), answer.complete), (200, Some("west"), true), "{fault:?}");
        assert_eq!(answer.text().matches("prompt_filter_results").count(), 1, "{fault:?}");
        assert!(answer.text().ends_with(DONE));
        assert_eq!(stage.lane("east", "gpt-4o").state, state, "{fault:?}");
    }
}

#[tokio::test]
async fn when_every_stream_begins_with_a_rate_limit_the_caller_gets_a_plain_429() {
    let stage = Scene::of([("east", 1), ("west", 2)])
        .resource("east", |east| east.headers.ratelimit_reset = false)
        .resource("west", |west| west.headers.ratelimit_reset = false)
        .start();
    for name in ["east", "west"] {
        stage.resource(name).fault(Fault::RateLimitInStream { events: 1 });
    }
    let answer = stage.caller().post(RESPONSES, RESPONSE_STREAMED).await;
    assert_eq!((answer.status, answer.code().as_str()), (429, "429"));
    assert!(answer.number("retry-after-ms").is_some_and(|told| (9_000..=11_001).contains(&told)));
}

#[tokio::test]
async fn an_error_that_is_the_requests_own_fault_passes_with_the_stream() {
    let (east, stage) = played().await;
    let error = "data: {\"error\":{\"message\":\"filtered\",\"type\":null,\"code\":\"content_filter\"}}\n\n";
    let serving = async {
        let (mut wire, _) = east.request().await;
        wire.write(format!("{EVENTS}{}{}0\r\n\r\n", chunk(PRELUDE), chunk(error))).await;
    };
    let caller = stage.caller();
    let ((), answer) = tokio::join!(serving, caller.post(CHAT, STREAMED));
    assert_eq!((answer.status, answer.text(), answer.complete), (200, &*format!("{PRELUDE}{error}"), true));
}

#[tokio::test]
async fn a_stream_that_says_nothing_is_held_for_a_second() {
    let (east, stage) = played().await;
    let serving = async {
        let (mut wire, _) = east.request().await;
        let sent = Instant::now();
        wire.write(format!("{EVENTS}{}", chunk(PRELUDE))).await;
        (wire, sent)
    };
    let caller = stage.caller();
    let ((_wire, sent), mut reply) = tokio::join!(serving, caller.open(CHAT, STREAMED));
    assert!(sent.elapsed() >= Duration::from_millis(990), "{:?}", sent.elapsed());
    assert!(sent.elapsed() < Duration::from_secs(5), "{:?}", sent.elapsed());
    reply.until(PRELUDE).await;
}

/// What comes after the head is cut where the fault says; what the caller got.
async fn cut(fault: Fault, caller: fn(&Stage) -> Caller, path: &str, body: &str) -> (Stage, String) {
    let stage = with_fault(fault);
    let answer = caller(&stage).post(path, body).await;
    assert_eq!((answer.status, answer.region()), (200, Some("east")));
    assert!(!answer.complete, "it looks complete: {}", answer.text());
    assert_eq!(stage.seen("west"), 0, "no failover after the commit");
    let text = answer.text().to_owned();
    (stage, text)
}

#[tokio::test]
async fn a_chat_that_is_cut_ends_with_an_error_event_and_an_aborted_connection() {
    for caller in BOTH {
        for fault in [
            Fault::CutAfterEvents { events: 6, reset: false },
            Fault::CutAfterEvents { events: 6, reset: true },
            Fault::EndAfterEvents { events: 6 },
        ] {
            let (stage, text) = cut(fault.clone(), caller, CHAT, STREAMED).await;
            let events = payloads(&text);
            assert!(text.ends_with("\n\n") && !text.contains("[DONE]"));
            let (last, before) = events.split_last().unwrap();
            assert_eq!(last["error"]["code"], "upstream_stream_interrupted", "{fault:?}: {text}");
            // What a reset leaves unread is lost; without one every event has come.
            if !matches!(fault, Fault::CutAfterEvents { reset: true, .. }) {
                assert_eq!(before.len(), 6, "{fault:?}");
            }
            assert_eq!(stage.lane("east", "gpt-4o").in_flight, 0);
            assert!(stage.log().contains("\"ended\":\"upstream cut\""), "{}", stage.log());
        }
    }
}

#[tokio::test]
async fn a_response_that_is_cut_ends_with_an_error_event_of_its_own_form() {
    for caller in BOTH {
        let fault = Fault::CutAfterEvents { events: 8, reset: false };
        let (_, text) = cut(fault, caller, RESPONSES, RESPONSE_STREAMED).await;
        let events = payloads(&text);
        assert_eq!(events.len(), 9);
        let last = text.trim_end().rsplit("\n\n").next().unwrap();
        assert!(last.starts_with("event: error\ndata: {\"type\":\"error\",\"error\":{\"code\":"), "{last}");
        assert!(!text.contains("response.completed"));
    }
}

#[tokio::test]
async fn inside_a_half_sent_event_there_is_only_the_abort() {
    for caller in BOTH {
        let (_, text) = cut(Fault::CutInsideEvent { events: 6 }, caller, CHAT, STREAMED).await;
        assert!(!text.contains("upstream_stream_interrupted") && !text.ends_with("\n\n"), "{text}");
        assert_eq!(text.matches("\n\n").count(), 6, "what came has been passed on: {text}");
    }
}

#[tokio::test]
async fn on_the_wire_a_cut_stream_has_no_last_chunk() {
    let stage = with_fault(Fault::CutAfterEvents { events: 6, reset: false });
    let mut wire = Wire::connect(stage.balancer.address()).await;
    let length = STREAMED.len();
    wire.write(format!(
        "POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {length}\r\n\r\n{STREAMED}"
    ))
    .await;
    let (text, _) = wire.rest().await;
    assert!(text.contains("transfer-encoding: chunked"), "{text}");
    assert!(text.ends_with("}}\n\n\r\n"), "{text}");
    assert!(!text.contains("\r\n0\r\n"), "{text}");
}

#[tokio::test]
async fn a_large_json_answer_that_breaks_off_is_aborted() {
    let inputs = vec!["text"; 12];
    let body = serde_json::json!({"model": "text-embedding-3-small", "input": inputs}).to_string();
    for caller in BOTH {
        let stage = Scene::of([("east", 1), ("west", 2)]).start();
        let whole = caller(&stage).post("/v1/embeddings", &body).await;
        assert!(whole.complete && whole.body.len() > 64 * 1024);
        stage.resource("east").fault(FaultRule::times(Fault::CutMidJson, 1));
        let answer = caller(&stage).post("/v1/embeddings", &body).await;
        assert_eq!((answer.status, answer.region(), answer.complete), (200, Some("east"), false));
        assert_eq!(answer.body, whole.body.slice(..whole.body.len() / 2), "what came has been passed on");
        assert_eq!(stage.seen("west"), 0);
    }
}

#[tokio::test]
async fn an_upstream_in_http2_streams_and_breaks_just_the_same() {
    let stage = Scene::of([("east", 1), ("west", 2)]).backend("east", "http2 = true").start();
    let answer = stage.caller().post(CHAT, STREAMED).await;
    assert_eq!((answer.region(), answer.complete), (Some("east"), true));
    assert!(answer.text().ends_with(DONE));
    let cut_at = |events| FaultRule::times(Fault::CutAfterEvents { events, reset: false }, 1);
    stage.resource("east").fault(cut_at(6));
    let answer = stage.caller().post(CHAT, STREAMED).await;
    assert_eq!((answer.region(), answer.complete), (Some("east"), false));
    assert!(answer.text().contains("upstream_stream_interrupted"), "{}", answer.text());
    stage.resource("east").fault(cut_at(1));
    let answer = stage.caller().post(CHAT, STREAMED).await;
    assert_eq!((answer.region(), answer.complete), (Some("west"), true));
    assert_eq!(stage.resource("east").counters().connections, 1, "one connection for all of it");
    // A stream that is reset before its head on a connection that lives: at once elsewhere.
    stage.resource("east").fault(FaultRule::times(Fault::CloseBeforeHead, 1));
    assert_eq!(stage.chat().await.region(), Some("west"));
    assert_eq!(stage.resource("east").counters().connections, 1);
    stage.resource("east").fault(FaultRule::times(Fault::throttle_seconds(30), 1));
    assert_eq!(stage.chat().await.region(), Some("west"));
}

/// Upstream hears within this time that a caller has left. Of several rounds one must show it: another program
/// may have taken our processor in the others.
const HEARD_WITHIN: Duration = Duration::from_millis(100);

/// Rounds; more than failures in a row would rest a lane.
const ROUNDS: usize = 4;

/// The caller is gone: no lane has changed. How long it took until upstream heard of it.
async fn assert_left(stage: &Stage, left: Instant) -> Duration {
    eventually("upstream is cancelled", || stage.resource("east").counters().in_flight == 0).await;
    let heard = left.elapsed();
    eventually("the place is free", || stage.backend("east").in_flight == 0).await;
    assert_eq!((stage.backend("east").state, stage.lane("east", "gpt-4o").state), ("admitting", "admitting"));
    assert_eq!(stage.backend("east").failed_total, 0);
    eventually("it is written down", || stage.log().contains("\"ended\":\"caller left\"")).await;
    assert_eq!(stage.seen("west"), 0);
    heard
}

#[tokio::test]
async fn a_caller_that_leaves_before_the_answer_cancels_it_and_changes_nothing() {
    for caller in BOTH {
        let stage = Scene::of([("east", 1), ("west", 2)]).start();
        stage.resource("east").fault(Fault::HangBeforeHead);
        let mut heard = Vec::new();
        for round in 1..=ROUNDS as u64 {
            let caller = caller(&stage);
            let calling = tokio::spawn(async move { caller.try_send(post(CHAT, QUESTION)).await });
            eventually("the request is there", || stage.seen("east") == round).await;
            calling.abort();
            heard.push(assert_left(&stage, Instant::now()).await);
            assert_eq!(stage.resource("east").counters().left_before_head, round);
        }
        assert!(heard.iter().any(|heard| *heard < HEARD_WITHIN), "{heard:?}");
    }
}

#[tokio::test]
async fn a_half_closed_connection_is_a_caller_that_left() {
    let stage = Scene::of([("east", 1), ("west", 2)]).start();
    stage.resource("east").fault(Fault::HangBeforeHead);
    let mut heard = Vec::new();
    for round in 1..=ROUNDS as u64 {
        let mut wire = Wire::connect(stage.balancer.address()).await;
        let head = format!("POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {}", QUESTION.len());
        wire.write(format!("{head}\r\n\r\n{QUESTION}")).await;
        eventually("the request is there", || stage.seen("east") == round).await;
        tokio::io::AsyncWriteExt::shutdown(&mut wire.socket).await.unwrap();
        heard.push(assert_left(&stage, Instant::now()).await);
    }
    assert!(heard.iter().any(|heard| *heard < HEARD_WITHIN), "{heard:?}");
}

#[tokio::test]
async fn a_caller_that_leaves_in_the_prelude_cancels_it_and_changes_nothing() {
    for caller in BOTH {
        let stage = Scene::of([("east", 1), ("west", 2)]).start();
        stage.resource("east").fault(Fault::HangBeforeFirstEvent);
        let mut heard = Vec::new();
        for round in 1..=ROUNDS as u64 {
            let caller = caller(&stage);
            let calling = tokio::spawn(async move { caller.try_send(post(CHAT, STREAMED)).await });
            eventually("the stream is there", || stage.resource("east").counters().succeeded == round).await;
            calling.abort();
            heard.push(assert_left(&stage, Instant::now()).await);
        }
        assert!(heard.iter().any(|heard| *heard < HEARD_WITHIN), "{heard:?}");
    }
}

#[tokio::test]
async fn a_caller_that_leaves_mid_stream_cancels_it_and_changes_nothing() {
    for caller in BOTH {
        let stage = Scene::of([("east", 1), ("west", 2)]).start();
        stage.resource("east").fault(Fault::SlowEvents { gap_ms: 30 });
        let mut heard = Vec::new();
        for round in 1..=ROUNDS as u64 {
            let mut reply = caller(&stage).open(CHAT, STREAMED).await;
            reply.until("\"content\":").await;
            drop(reply);
            heard.push(assert_left(&stage, Instant::now()).await);
            assert_eq!(stage.resource("east").counters().streams_aborted, round);
        }
        assert!(heard.iter().any(|heard| *heard < HEARD_WITHIN), "{heard:?}");
    }
}

#[tokio::test]
async fn what_a_caller_was_sent_before_it_left_is_counted() {
    for caller in BOTH {
        let stage = Scene::of([("east", 1)]).start();
        stage.resource("east").fault(Fault::SlowEvents { gap_ms: 30 });
        let mut reply = caller(&stage).open(CHAT, STREAMED).await;
        reply.until("\"content\":").await;
        drop(reply);
        eventually("it is written down", || stage.log().contains("\"ended\":\"caller left\"")).await;
        assert!(stage.log().contains("\"estimated\":true"), "{}", stage.log());
        let tokens = stage.balancer.status().tokens;
        assert!(tokens.prompt_total > 0 && tokens.completion_total > 0, "{tokens:?}");
        let lane = stage.lane("east", "gpt-4o");
        assert_eq!(lane.tokens_total, tokens.prompt_total + tokens.completion_total);
    }
}

#[tokio::test]
async fn the_first_event_of_a_stream_that_nobody_announced_is_awaited_from_its_head() {
    const FORM: &str = "--x\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\ngpt-4o\r\n--x\r\ncontent-disposition: form-data; name=\"stream\"\r\n\r\ntrue\r\n--x--\r\n";
    let east = PlayedBackend::listen().await;
    let limit = "[retry]\nfirst_event_timeout = \"200ms\"";
    let stage = Scene::default().played("east", 1, east.address).toml(limit).start();
    let serving = async {
        let (mut wire, _) = east.request().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        wire.write(EVENTS).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let event = "event: transcript.text.delta\ndata: {\"delta\":\"word\"}\n\n";
        wire.write(chunk(event) + "0\r\n\r\n").await;
    };
    let mut request = post("/openai/v1/audio/transcriptions", FORM);
    request.headers_mut().insert("content-type", "multipart/form-data; boundary=x".parse().unwrap());
    let caller = stage.caller();
    let ((), reply) = tokio::join!(serving, caller.send(request));
    let answer = reply.whole().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("word"));
}

#[tokio::test]
async fn a_caller_that_reads_slowly_slows_the_backend_down() {
    const MIB: usize = 1024 * 1024;
    for caller in BOTH {
        let (east, stage) = played().await;
        let caller = caller(&stage);
        let serving = async {
            let (mut wire, _) = east.request().await;
            wire.write(EVENTS).await;
            wire.write(chunk(WORD)).await;
            wire
        };
        let (mut wire, mut reply) = tokio::join!(serving, caller.open(CHAT, STREAMED));
        let event = WORD.replace("word", &"x".repeat(64 * 1024));
        let mut sent = 0;
        // Until the backend cannot write any more, since nobody reads.
        while let Ok(written) = tokio::time::timeout(
            Duration::from_millis(500),
            tokio::io::AsyncWriteExt::write_all(&mut wire.socket, chunk(&event).as_bytes()),
        )
        .await
        {
            written.unwrap();
            sent += 1;
            assert!(sent * event.len() < 64 * MIB, "all is taken although nobody reads");
        }
        // The last event was cut by the time limit: whether whole or not, the stream goes on being read.
        drop(wire);
        let mut came = 0;
        while let Some(Ok(data)) = reply.piece().await {
            came += data.len();
        }
        assert!(came >= sent * event.len(), "{came} of {sent} events");
    }
}

#[tokio::test]
async fn usage_is_read_from_the_passing_bytes() {
    let stage = Scene::of([("east", 1)]).start();
    let tokens = || {
        let tokens = stage.balancer.status().tokens;
        (tokens.prompt_total, tokens.completion_total)
    };
    let usage = |value: &Value| {
        let number = |names: [&str; 2]| {
            names.iter().find_map(|name| value["usage"][name].as_u64()).expect("the answer tells")
        };
        (number(["prompt_tokens", "input_tokens"]), number(["completion_tokens", "output_tokens"]))
    };
    let mut expected = (0, 0);
    let mut add = |(prompt, completion): (u64, u64)| {
        expected = (expected.0 + prompt, expected.1 + completion);
        expected
    };
    let answer = stage.chat().await;
    assert_eq!(tokens(), add(usage(&answer.json())));

    let with_usage = STREAMED.replace("true}", r#"true,"stream_options":{"include_usage":true}}"#);
    let answer = stage.caller().post(CHAT, &with_usage).await;
    let told = payloads(answer.text()).last().map(usage).unwrap();
    let now = add(told);
    eventually("the stream is counted", || tokens() == now).await;

    let answer = stage.caller().post(RESPONSES, RESPONSE_STREAMED).await;
    let told = payloads(answer.text()).last().map(|last| usage(&last["response"])).unwrap();
    let now = add(told);
    eventually("the response is counted", || tokens() == now).await;
    assert_eq!(stage.lane("east", "gpt-4o").tokens_total, now.0 + now.1);
    assert!(!stage.log().contains("\"estimated\":true"));

    // Without usage it is estimated, and said to be.
    stage.caller().post(CHAT, STREAMED).await;
    eventually("an estimate is counted", || tokens().1 > now.1 && tokens().0 > now.0).await;
    assert!(stage.log().contains("\"estimated\":true"));
}

#[tokio::test]
async fn a_first_event_that_does_not_come_fails_over_and_three_rest_the_lane() {
    for fault in [Fault::HangBeforeFirstEvent, Fault::HangBeforeHead] {
        let stage =
            Scene::of([("east", 1), ("west", 2)]).toml("[retry]\nfirst_event_timeout = \"100ms\"").start();
        stage.resource("east").fault(fault.clone());
        for round in 1..=3 {
            let answer = stage.caller().post(CHAT, STREAMED).await;
            assert_eq!((answer.region(), answer.complete), (Some("west"), true), "{fault:?}");
            assert_eq!(stage.seen("east"), round);
        }
        assert_eq!(stage.lane("east", "gpt-4o").state, "resting", "{fault:?}");
        eventually("nothing goes on there", || stage.resource("east").counters().in_flight == 0).await;
    }
}

#[tokio::test]
async fn when_no_stream_begins_in_time_the_caller_hears_of_a_time_out() {
    let stage = Scene::of([("east", 1)]).toml("[retry]\nfirst_event_timeout = \"100ms\"").start();
    stage.resource("east").fault(Fault::HangBeforeFirstEvent);
    let answer = stage.caller().post(CHAT, STREAMED).await;
    assert_eq!((answer.status, answer.code().as_str()), (504, "backend_timeout"));
}

#[tokio::test]
async fn a_stream_that_falls_silent_is_ended_as_a_cut_one() {
    let east = PlayedBackend::listen().await;
    let stage = Scene::default()
        .played("east", 1, east.address)
        .toml("[retry]\nstream_idle_timeout = \"500ms\"")
        .start();
    for caller in BOTH.map(|caller| caller(&stage)) {
        let serving = async {
            let (mut wire, _) = east.request().await;
            wire.write(EVENTS).await;
            // Slower altogether than the limit, but never silent for so long.
            for _ in 0..10 {
                wire.write(chunk(WORD)).await;
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
            wire
        };
        let (mut wire, answer) = tokio::join!(serving, caller.post(CHAT, STREAMED));
        assert!(!answer.complete);
        assert_eq!(payloads(answer.text()).len(), 11, "{}", answer.text());
        assert!(answer.text().contains("upstream_stream_interrupted"));
        let mut rest = Vec::new();
        let _ended = tokio::io::AsyncReadExt::read_to_end(&mut wire.socket, &mut rest).await;
        assert!(rest.is_empty(), "the backend's connection is closed");
    }
}

#[tokio::test]
async fn the_deadline_ends_with_the_commit() {
    let stage = Scene::of([("east", 1)])
        .toml("[retry]\ndeadline = \"300ms\"\nconnect_timeout = \"300ms\"")
        .resource("east", |east| east.latency.per_token = Duration::from_millis(50))
        .start();
    let began = Instant::now();
    let answer = stage.caller().post(CHAT, STREAMED).await;
    assert!(answer.complete && answer.text().ends_with(DONE), "{}", answer.text());
    assert!(began.elapsed() > Duration::from_millis(300));
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_last_event_spoils_nothing() {
    let (east, stage) = played().await;
    for caller in BOTH.map(|caller| caller(&stage)) {
        let serving = async {
            let (mut wire, _) = east.request().await;
            wire.write(format!("{EVENTS}{}{}", chunk(WORD), chunk(DONE))).await;
        };
        let ((), answer) = tokio::join!(serving, caller.post(CHAT, STREAMED));
        assert_eq!(answer.text(), format!("{WORD}{DONE}"));
        assert!(answer.complete);
    }
    assert_eq!(stage.backend("east").failed_total, 0);
}

#[tokio::test]
async fn an_error_that_the_stream_told_is_told_once_when_the_connection_breaks_after_it() {
    // What the request is to blame for is no failure of the backend; the other is one. One that goes on is cut.
    for (code, goes_on, failed) in
        [("content_filter", false, 0), ("server_error", false, 1), ("content_filter", true, 1)]
    {
        let (east, stage) = played().await;
        let error = format!("data: {{\"error\":{{\"code\":\"{code}\",\"message\":\"no\"}}}}\n\n");
        let serving = async {
            let (mut wire, _) = east.request().await;
            let more = if goes_on { chunk(WORD) } else { String::new() };
            wire.write(format!("{EVENTS}{}{}{more}", chunk(WORD), chunk(&error))).await;
        };
        let caller = stage.caller();
        let ((), answer) = tokio::join!(serving, caller.post(CHAT, STREAMED));
        let told = answer.text();
        assert!(told.starts_with(&format!("{WORD}{error}")), "{told}");
        assert_eq!(answer.complete, !goes_on, "{code}");
        assert_eq!(told.contains("stream_interrupted"), goes_on, "{told}");
        assert_eq!(stage.backend("east").failed_total, failed, "{code}");
    }
}

#[tokio::test]
async fn a_caller_that_leaves_while_it_reads_nothing_is_noticed() {
    for caller in BOTH {
        let (east, stage) = played().await;
        let caller = caller(&stage);
        let serving = async {
            let (mut wire, _) = east.request().await;
            wire.write(EVENTS).await;
            wire.write(chunk(WORD)).await;
            wire
        };
        let (mut wire, reply) = tokio::join!(serving, caller.open(CHAT, STREAMED));
        let event = chunk(&WORD.replace("word", &"x".repeat(64 * 1024)));
        let writing = async {
            while tokio::io::AsyncWriteExt::write_all(&mut wire.socket, event.as_bytes()).await.is_ok() {}
        };
        let full = tokio::time::timeout(Duration::from_millis(500), writing).await;
        assert!(full.is_err(), "nobody reads, so there is no room");
        drop(reply);
        eventually("the place is free", || stage.backend("east").in_flight == 0).await;
        assert_eq!(stage.backend("east").state, "admitting");
    }
}

#[tokio::test]
async fn comments_are_no_first_event() {
    let east = PlayedBackend::listen().await;
    let stage = Scene::of([("west", 2)])
        .played("east", 1, east.address)
        .toml("[retry]\nfirst_event_timeout = \"200ms\"")
        .start();
    let caller = stage.caller();
    let serving = async {
        let (mut wire, _) = east.request().await;
        wire.write(EVENTS).await;
        let ping = chunk(": ping\n\n");
        while tokio::io::AsyncWriteExt::write_all(&mut wire.socket, ping.as_bytes()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ((), answer) = tokio::join!(serving, caller.post(CHAT, STREAMED));
    assert_eq!((answer.region(), answer.complete), (Some("west"), true));
    assert!(!answer.text().contains("ping"));
}

#[tokio::test]
async fn no_more_than_a_mebibyte_of_prelude_is_held() {
    let (east, stage) = played().await;
    let large = PRELUDE.replace("[]}", &format!("[],\"pad\":\"{}\"}}", "x".repeat(300 * 1024)));
    let caller = stage.caller();
    let serving = async {
        let (mut wire, _) = east.request().await;
        let began = Instant::now();
        wire.write(EVENTS).await;
        for _ in 0..4 {
            wire.write(chunk(&large)).await;
        }
        (wire, began)
    };
    let ((mut wire, began), mut reply) = tokio::join!(serving, caller.open(CHAT, STREAMED));
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    wire.write(format!("{}{}0\r\n\r\n", chunk(WORD), chunk(DONE))).await;
    reply.until(DONE).await;
    assert_eq!(reply.seen, format!("{}{WORD}{DONE}", large.repeat(4)));
}

#[tokio::test]
async fn an_error_after_content_is_the_streams_own_end() {
    for fault in [Fault::RateLimitInStream { events: 6 }, Fault::ErrorInStream { events: 6 }] {
        for caller in BOTH {
            let stage = with_fault(fault.clone());
            let answer = caller(&stage).post(RESPONSES, RESPONSE_STREAMED).await;
            assert_eq!((answer.status, answer.region()), (200, Some("east")));
            assert!(answer.complete && !answer.text().contains("upstream_stream_interrupted"));
            let events = payloads(answer.text());
            assert_eq!((events.len(), events.last().unwrap()["type"].as_str()), (8, Some("error")));
            assert_eq!(stage.seen("west"), 0);
        }
    }
}

#[tokio::test]
async fn a_stream_of_told_length_is_cut_like_any_other() {
    let (east, stage) = played().await;
    // Whole as HTTP counts, but without its last event; and cut where an error event would just fill it up.
    for missing in [0, 50] {
        for caller in BOTH.map(|caller| caller(&stage)) {
            let serving = async {
                let (mut wire, _) = east.request().await;
                let length = WORD.len() + missing;
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
                wire.write(format!("{head}content-length: {length}\r\n\r\n{WORD}")).await;
            };
            let ((), answer) = tokio::join!(serving, caller.post(CHAT, STREAMED));
            assert!(!answer.complete, "{missing}: {}", answer.text());
            assert!(answer.text().contains("upstream_stream_interrupted"), "{missing}: {}", answer.text());
            assert_eq!(answer.header("content-length"), None);
        }
    }
    let serving = async {
        let (mut wire, _) = east.request().await;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
        wire.write(format!("{head}content-length: {}\r\n\r\n{WORD}{DONE}", WORD.len() + DONE.len())).await;
    };
    let caller = stage.caller();
    let ((), answer) = tokio::join!(serving, caller.post(CHAT, STREAMED));
    assert_eq!((answer.text(), answer.complete), (&*format!("{WORD}{DONE}"), true));
}
