//! The table of verdicts, row by row: what the request does, and what the lane does.

use super::{
    Answer, Attempts, CHAT, Judgement, NOT_FOUND, PEAK_LOAD, UNSUPPORTED, World, answer, flex, headers,
    millis, seconds,
};
use crate::balance::{Ask, AttemptFailure, Cause, Exhausted, Next, Verdict, judge, judge_failure};
use http::HeaderMap;

fn verdict(status: u16, body: &str) -> Judgement {
    judge(&answer(status, &HeaderMap::new(), body.as_bytes()), &CHAT, &mut Attempts::default())
}

fn harmful() -> Ask<'static> {
    Ask { harmless: false, ..CHAT }
}

#[test]
fn good_answers_are_passed_back() {
    for status in [200, 201, 204, 301, 304] {
        assert_eq!(verdict(status, "").next, Next::PassBack, "{status}");
    }
}

#[test]
fn the_callers_own_errors_are_passed_back_and_change_nothing() {
    for status in [400, 402, 404, 405, 409, 413, 415, 422, 424, 431, 499] {
        let mut world = World::ladder(1);
        world.meet(
            status,
            &[("retry-after", "30")],
            "{\"error\":{\"code\":\"404\",\"message\":\"Resource not found\"}}",
        );
        assert_eq!(verdict(status, "").next, Next::PassBack, "{status}");
        assert_eq!(world.next(), Ok(0), "{status}");
    }
}

#[test]
fn content_filter_and_context_length_are_billed_and_never_retried() {
    let filtered = r#"{"error":{"code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#;
    let long = r#"{"error":{"message":"maximum context length","code":"context_length_exceeded"}}"#;
    for body in [filtered, long] {
        assert_eq!(verdict(400, body).next, Next::PassBack);
    }
}

#[test]
fn a_429_moves_the_request_on_and_cools_only_that_lane() {
    let mut world = World::ladder(2);
    assert_eq!(world.meet(429, &[("retry-after", "5")], ""), 0);
    assert_eq!(world.next(), Ok(1));
    world.ask.deployment = Some("gpt-4o-mini");
    assert_eq!(world.next(), Ok(0), "another deployment of the same backend");
    world.ask.deployment = Some("gpt-4o");
    world.pass(millis(4_999));
    assert_eq!(world.next(), Ok(1));
    world.pass(millis(1));
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn a_429_moves_on_even_what_is_not_harmless() {
    let judgement = judge(&answer(429, &HeaderMap::new(), b""), &harmful(), &mut Attempts::default());
    assert_eq!(judgement.next, Next::NextLane);
}

#[test]
fn a_429_of_peak_load_keeps_away_requests_at_least_this_large_for_that_time() {
    let mut world = World::ladder(2);
    world.meet(429, &[], PEAK_LOAD);
    assert_eq!(world.next(), Ok(1), "the same size");
    world.ask.charge = 999;
    assert_eq!(world.next(), Ok(0), "smaller");
    world.ask.charge = 1_000;
    world.pass(millis(19_999));
    assert_eq!(world.next(), Ok(1));
    world.pass(millis(1));
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn a_short_peak_load_mark_does_not_take_the_length_of_an_oversize_mark() {
    let mut world = World::ladder(2);
    world.meet(429, &[], PEAK_LOAD);
    world.ask.charge = 50_000;
    world.pass(seconds(20));
    world.meet(429, &[("retry-after", "86400")], "");
    world.ask.charge = 1_000;
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn a_429_of_a_service_tier_moves_on_and_leaves_the_lane_alone() {
    let mut world = World::ladder(2);
    let attempts = &mut Attempts::default();
    let pick = world.pick(attempts).unwrap();
    let headers = headers(&[("retry-after", "30")]);
    let judgement = world.judged(pick, &flex(&headers), attempts);
    assert_eq!((judgement.next, judgement.verdict), (Next::NextLane, Verdict::TierFull));
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn any_5xx_moves_on_where_harmless_only() {
    for status in [500, 501, 502, 503, 504, 529, 599] {
        assert_eq!(verdict(status, "").next, Next::NextLane, "{status}");
        let judgement = judge(&answer(status, &HeaderMap::new(), b""), &harmful(), &mut Attempts::default());
        assert_eq!(judgement.next, Next::PassBack, "{status}");
    }
}

#[test]
fn a_503_with_retry_after_rests_the_lane_at_once() {
    let mut world = World::ladder(2);
    world.meet(503, &[("retry-after", "20")], "");
    assert_eq!(world.next(), Ok(1));
    world.pass(millis(19_999));
    assert_eq!(world.next(), Ok(1));
    world.pass(millis(1));
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn a_503_with_retry_after_rests_no_longer_than_a_minute() {
    let mut world = World::ladder(2);
    world.meet(503, &[("retry-after", "86400")], "");
    world.pass(seconds(60));
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn a_503_without_retry_after_is_a_failure_like_the_others() {
    let mut world = World::ladder(2);
    world.meet(503, &[], "");
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn a_408_moves_on_once_per_request_and_leaves_the_lane_alone() {
    let mut world = World::ladder(3);
    let attempts = &mut Attempts::default();
    let first = world.pick(attempts).unwrap();
    assert_eq!(world.answer(first, 408, &[], "", attempts).next, Next::NextLane);
    let second = world.pick(attempts).unwrap();
    assert_eq!(second.backend, 1);
    assert_eq!(world.answer(second, 408, &[], "", attempts).next, Next::PassBack);
    assert_eq!(world.next(), Ok(0));
    let judgement = judge(&answer(408, &HeaderMap::new(), b""), &harmful(), &mut Attempts::default());
    assert_eq!(judgement.next, Next::PassBack);
}

#[test]
fn what_failed_before_anything_was_sent_moves_on_whether_harmless_or_not() {
    use AttemptFailure::{Connect, ConnectTimeout, Dns, Refused, Tls};
    for failure in [Refused, Connect, Dns, Tls, ConnectTimeout] {
        assert_eq!(
            judge_failure(failure, &harmful(), &mut Attempts::default()).next,
            Next::NextLane,
            "{failure}"
        );
    }
}

#[test]
fn what_broke_after_sending_moves_on_where_harmless_only() {
    use AttemptFailure::{Closed, FirstByteTimeout, FirstEventTimeout, Malformed};
    for failure in [Closed, Malformed, FirstByteTimeout, FirstEventTimeout] {
        assert_eq!(judge_failure(failure, &CHAT, &mut Attempts::default()).next, Next::NextLane, "{failure}");
        assert_eq!(
            judge_failure(failure, &harmful(), &mut Attempts::default()).next,
            Next::PassBack,
            "{failure}"
        );
    }
}

#[test]
fn silence_is_a_failure_of_the_lane_for_streams_only() {
    for (streamed, backend) in [(true, 1), (false, 0)] {
        let mut world = World::ladder(2);
        world.ask.streamed = streamed;
        for _ in 0..3 {
            world.meet_failure(AttemptFailure::FirstByteTimeout);
        }
        assert_eq!(world.next(), Ok(backend), "streamed: {streamed}");
        world.ask.deployment = Some("another");
        assert_eq!(world.next(), Ok(0), "of the lane, not of the backend");
    }
}

#[test]
fn a_401_or_403_refuses_the_operation_family_on_this_backend_for_a_minute() {
    for status in [401, 403] {
        let mut world = World::ladder(2);
        assert_eq!(verdict(status, "").next, Next::NextLane);
        world.meet(status, &[], "");
        assert_eq!(world.next(), Ok(1));
        world.ask.deployment = Some("another");
        assert_eq!(world.next(), Ok(1), "every deployment of the backend");
        world.ask.family = "files";
        assert_eq!(world.next(), Ok(0), "another family is not refused");
        world.ask.family = "inference";
        world.pass(millis(59_999));
        assert_eq!(world.next(), Ok(1));
        world.pass(millis(1));
        assert_eq!(world.next(), Ok(0));
    }
}

#[test]
fn with_the_callers_own_credential_401_and_403_are_passed_back_and_change_nothing() {
    let headers = HeaderMap::new();
    for status in [401, 403] {
        let mut world = World::ladder(2);
        let attempts = &mut Attempts::default();
        let pick = world.pick(attempts).unwrap();
        let answer = Answer { callers_credential: true, ..answer(status, &headers, b"") };
        assert_eq!(world.judged(pick, &answer, attempts).next, Next::PassBack);
        assert_eq!(world.next(), Ok(0));
    }
}

#[test]
fn refusals_are_never_shown_to_a_caller() {
    let mut world = World::ladder(2);
    let attempts = &mut Attempts::default();
    while let Ok(pick) = world.pick(attempts) {
        let judgement = world.answer(pick, 401, &[], "secret detail", attempts);
        assert!(!judgement.keep);
    }
    assert_eq!(world.pick(attempts).unwrap_err(), Exhausted::Spent { cause: Cause::Refused });
    assert_eq!(world.next(), Err(Exhausted::Spent { cause: Cause::Refused }), "nor to the next one");
}

#[test]
fn a_deployment_not_found_makes_the_lane_absent_for_five_minutes() {
    let mut world = World::ladder(2);
    assert_eq!(verdict(404, NOT_FOUND).next, Next::NextLane);
    world.meet(404, &[], NOT_FOUND);
    assert_eq!(world.next(), Ok(1));
    world.ask.deployment = Some("another");
    assert_eq!(world.next(), Ok(0));
    world.ask.deployment = Some("gpt-4o");
    world.pass(millis(299_999));
    assert_eq!(world.next(), Ok(1));
    world.pass(millis(1));
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn a_good_answer_shows_that_the_deployment_exists_after_all() {
    let mut world = World::ladder(2);
    let (one, two) = (&mut Attempts::default(), &mut Attempts::default());
    let (first, second) = (world.pick(one).unwrap(), world.pick(two).unwrap());
    world.answer(first, 404, &[], NOT_FOUND, one);
    world.served(second, two);
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn when_all_lanes_are_absent_that_404_is_passed_back() {
    let mut world = World::ladder(2);
    let attempts = &mut Attempts::default();
    while let Ok(pick) = world.pick(attempts) {
        assert!(world.answer(pick, 404, &[], NOT_FOUND, attempts).keep);
    }
    assert_eq!(world.pick(attempts).unwrap_err(), Exhausted::Spent { cause: Cause::Answered });
    assert_eq!(
        world.next(),
        Err(Exhausted::Spent { cause: Cause::Absent }),
        "the next one is told from memory"
    );
}

#[test]
fn an_absent_404_never_takes_the_place_of_a_better_answer() {
    let mut world = World::ladder(2);
    let attempts = &mut Attempts::default();
    let pick = world.pick(attempts).unwrap();
    assert!(world.answer(pick, 500, &[], "", attempts).keep);
    let pick = world.pick(attempts).unwrap();
    assert!(!world.answer(pick, 404, &[], NOT_FOUND, attempts).keep);
    assert_eq!(world.pick(attempts).unwrap_err(), Exhausted::Spent { cause: Cause::Answered });
}

#[test]
fn an_operation_not_supported_is_absent_from_this_lane_only() {
    let mut world = World::ladder(2);
    assert_eq!(verdict(400, UNSUPPORTED).next, Next::NextLane);
    world.meet(400, &[], UNSUPPORTED);
    assert_eq!(world.next(), Ok(1));
    world.ask.operation = "responses";
    assert_eq!(world.next(), Ok(0), "another operation");
    world.ask.operation = "chat";
    world.pass(seconds(300));
    assert_eq!(world.next(), Ok(0));
}

#[test]
fn what_lives_on_another_backend_is_looked_for_there_and_changes_nothing() {
    for (status, code, expected) in [
        (400, "invalid_encrypted_content", Verdict::Elsewhere),
        (400, "previous_response_not_found", Verdict::NotThere),
        (404, "previous_response_not_found", Verdict::NotThere),
    ] {
        let mut world = World::ladder(2);
        let body = format!("{{\"error\":{{\"message\":\"no\",\"code\" : \"{code}\"}}}}");
        let judgement = verdict(status, &body);
        assert_eq!((judgement.next, judgement.verdict), (Next::NextLane, expected));
        world.meet(status, &[], &body);
        assert_eq!(world.next(), Ok(0));
    }
}

#[test]
fn a_code_is_a_whole_value_and_not_words_that_the_caller_sent() {
    for body in [
        r#"{"error":{"code":"DeploymentNotFoundElse"}}"#,
        r#"{"error":{"message":"you sent {\"code\":\"DeploymentNotFound\"}"}}"#,
        r#"{"error":{"message":"DeploymentNotFound"}}"#,
        r#"{"error":{"code""#,
        r#"{"code":"#,
    ] {
        assert_eq!(verdict(404, body).verdict, Verdict::PassedBack, "{body}");
    }
}
