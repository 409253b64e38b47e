//! Streams cut at every place, and what each event says.

use super::*;
use proptest::prelude::*;

const CREATED: &str = "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"error\":null}}\n\n";
// azure-openai.md 3.5, as reported.
const FAILED: &str = "data: {\"type\":\"response.failed\",\"response\":{\"id\":\"resp_1\",\"status\":\"failed\",\"error\":null,\"incomplete_details\":null,\"output\":[],\"usage\":null},\"sequence_number\":1}\n\n";
const LIMITED: &str = "data: {\"type\":\"error\",\"error\":{\"type\":\"too_many_requests\",\"code\":\"rate_limit_exceeded\",\"headers\":{\"x-ms-fe-error\":\"true\"},\"message\":\"Your requests to the deployment have exceeded rate limit.\",\"param\":null},\"sequence_number\":2}\n\n";
const FILTER: &str = "data: {\"choices\":[],\"created\":0,\"id\":\"\",\"model\":\"\",\"object\":\"\",\"prompt_filter_results\":[{\"prompt_index\":0}]}\n\n";
const DELTA: &str =
    "data: {\"choices\":[{\"delta\":{\"content\":\"{\\\"error\\\":{}}\"}}],\"usage\":null}\n\n";

fn fed(api: Api, chunks: &[&[u8]]) -> (Vec<EventKind>, EventScanner) {
    let mut scanner = EventScanner::new(api);
    let mut kinds = Vec::new();
    for chunk in chunks {
        let mut rest = *chunk;
        while let Some(kind) = scanner.next(&mut rest) {
            kinds.push(kind);
        }
        assert!(rest.is_empty());
    }
    (kinds, scanner)
}

fn kinds(api: Api, text: &str) -> Vec<EventKind> {
    fed(api, &[text.as_bytes()]).0
}

fn only_error(api: Api, text: &str) -> StreamError {
    match kinds(api, text).pop() {
        Some(EventKind::Error(error)) => error,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn a_chat_stream_is_told_from_prelude_to_end() {
    let text = [
        FILTER,
        DELTA,
        DELTA,
        "data: {\"choices\": [ ],\"usage\":{\"prompt_tokens\":1}}\n\n",
        "data: [DONE]\n\n",
    ]
    .concat();
    let (kinds, scanner) = fed(Api::Chat, &[text.as_bytes()]);
    assert_eq!(
        kinds,
        [EventKind::Prelude, EventKind::Content, EventKind::Content, EventKind::Prelude, EventKind::Done]
    );
    assert_eq!(scanner.ending(), Ending::Complete);
    assert!(!scanner.is_cut());
}

#[test]
fn a_responses_stream_is_told_from_prelude_to_end() {
    let text = [
        CREATED,
        "event: response.queued\ndata: {}\n\n",
        "data: {\"type\":\"response.in_progress\"}\n\n",
        "event: response.output_item.added\ndata: {\"type\":\"response.output_item.added\"}\n\n",
        "data: {\"type\":\"response.output_text.delta\",\"delta\":\"response.completed\"}\n\n",
    ]
    .concat();
    let (told, mut scanner) = fed(Api::Responses, &[text.as_bytes()]);
    assert_eq!(
        told,
        [EventKind::Prelude, EventKind::Prelude, EventKind::Prelude, EventKind::Content, EventKind::Content]
    );
    assert!(scanner.is_cut() && !scanner.inside_event());
    scanner.pass(b"event: response.completed\ndata: {\"response\":{}}\n\n");
    assert!(!scanner.is_cut());
    assert_eq!(kinds(Api::Responses, "data: {\"type\":\"response.incomplete\"}\n\n"), [EventKind::Done]);
}

#[test]
fn azures_rate_limit_inside_a_stream_is_unknown_and_then_named() {
    let text = [CREATED, FAILED, LIMITED].concat();
    let (kinds, scanner) = fed(Api::Responses, &[text.as_bytes()]);
    let [EventKind::Prelude, EventKind::Error(first), EventKind::Error(second)] = &kinds[..] else {
        panic!("{kinds:?}")
    };
    assert_eq!((first.class, first.status().as_u16()), (ErrorClass::Unknown, 500));
    assert_eq!((second.class, second.status().as_u16()), (ErrorClass::RateLimited, 429));
    assert_eq!(second.code, "rate_limit_exceeded");
    assert_eq!(second.message, "Your requests to the deployment have exceeded rate limit.");
    assert_eq!(scanner.ending(), Ending::Failed);
    assert!(!scanner.is_cut());
    let filtered = "event: error\ndata: {\"type\":\"error\",\"code\":\"content_filter\"}\n\n";
    let (_, scanner) = fed(Api::Responses, &[CREATED.as_bytes(), FAILED.as_bytes(), filtered.as_bytes()]);
    assert_eq!(scanner.ending(), Ending::Refused, "which is told last");
}

#[test]
fn errors_have_the_class_of_their_code_type_or_message() {
    let table = [
        (
            Api::Responses,
            "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"rate_limit_exceeded\",\"message\":\"m\"}}}\n\n",
            ErrorClass::RateLimited,
        ),
        (
            Api::Responses,
            "event: response.failed\ndata: {\"response\":{\"error\":{\"code\":\"server_error\"}}}\n\n",
            ErrorClass::Server,
        ),
        (
            Api::Responses,
            "event: error\ndata: {\"type\":\"error\",\"code\":\"too_many_requests\",\"message\":\"flat\"}\n\n",
            ErrorClass::RateLimited,
        ),
        (
            Api::Responses,
            "event: error\ndata: {\"type\":\"error\",\"code\":null,\"message\":\"?\"}\n\n",
            ErrorClass::Other,
        ),
        (
            Api::Responses,
            "data: {\"type\":\"error\",\"error\":{\"type\":\"server_error\",\"message\":\"no_kv_space\"}}\n\n",
            ErrorClass::Server,
        ),
        (
            Api::Responses,
            "data: {\"error\":{\"code\":\"invalid_prompt\",\"message\":\"m\"}}\n\n",
            ErrorClass::Other,
        ),
        (Api::Responses, "event: response.failed\ndata: not json\n\n", ErrorClass::Unknown),
        (
            Api::Chat,
            "data: {\"error\":{\"message\":\"That model is currently overloaded with other requests.\",\"type\":\"server_error\",\"param\":null,\"code\":null}}\n\n",
            ErrorClass::Server,
        ),
        (Api::Chat, "data: {\"error\":{\"code\":429,\"message\":\"\"}}\n\n", ErrorClass::RateLimited),
        (Api::Chat, "data: {\"error\":{\"code\":\"503\"}}\n\n", ErrorClass::Server),
        (
            Api::Chat,
            "data: {\"error\":{\"code\":null,\"message\":\"You exceeded the Rate Limit\"}}\n\n",
            ErrorClass::RateLimited,
        ),
        (
            Api::Chat,
            "data: {\"error\":{\"code\":\"content_filter\",\"type\":null,\"message\":\"filtered\"}}\n\n",
            ErrorClass::Other,
        ),
        (Api::Chat, "data: {\"error\":\"rate limit\"}\n\n", ErrorClass::RateLimited),
        (Api::Other, "event: error\ndata: {\"error\":{\"code\":\"server_error\"}}\n\n", ErrorClass::Server),
        (Api::Other, "data: {\"type\":\"error\",\"code\":\"500\"}\n\n", ErrorClass::Server),
    ];
    for (api, text, class) in table {
        assert_eq!(only_error(api, text).class, class, "{text}");
        let ending = if class == ErrorClass::Other { Ending::Refused } else { Ending::Failed };
        assert_eq!(fed(api, &[text.as_bytes()]).1.ending(), ending, "{text}");
    }
    let unfiltered = "data: {\"choices\":[{\"content_filter_results\":{\"error\":{\"code\":\"content_filter_error\"}}}]}\n\n";
    assert_eq!(kinds(Api::Chat, unfiltered), [EventKind::Content]);
    let late = "data: {\"choices\":[{}],\"error\":{\"code\":\"429\"}}\n\n";
    assert_eq!(only_error(Api::Chat, late).class, ErrorClass::RateLimited);
    let untyped = "data: {\"x\":1,\"type\":\"response.created\"}\n\n";
    assert_eq!(kinds(Api::Responses, untyped), [EventKind::Prelude]);
    assert_eq!(kinds(Api::Chat, "data: {\"error\":null,\"choices\":[{}]}\n\n"), [EventKind::Content]);
}

#[test]
fn every_kind_of_line_end_ends_an_event() {
    for end in ["\n", "\r\n", "\r"] {
        let text =
            format!("{FILTER}{DELTA}: keep-alive\n\nid: 1\n\ndata: [DO\ndata: NE]\n\n\n\ndata:[DONE]\n\n")
                .replace('\n', end);
        let expected = [
            EventKind::Prelude,
            EventKind::Content,
            EventKind::Comment,
            EventKind::Comment,
            EventKind::Content,
            EventKind::Done,
        ];
        assert_eq!(kinds(Api::Chat, &text), expected, "{end:?}");
        let single: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        let (kinds, scanner) = fed(Api::Chat, &single);
        assert_eq!(kinds, expected, "{end:?}");
        assert!(!scanner.inside_event());
    }
}

#[test]
fn data_on_several_lines_is_one_text() {
    assert_eq!(kinds(Api::Chat, "data: {\"choices\":\ndata: []}\n\n"), [EventKind::Prelude]);
    assert_eq!(kinds(Api::Chat, "\u{feff}data: {\"choices\":[]}\n\n"), [EventKind::Prelude]);
}

#[test]
fn an_empty_chunk_between_return_and_line_feed_ends_no_event() {
    let (told, scanner) = fed(Api::Chat, &[b"data: [DO\r", b"", b"\ndata: NE]\r\n\r", b"", b"\n"]);
    assert_eq!(told, [EventKind::Content]);
    assert!(!scanner.inside_event());
}

#[test]
fn a_half_sent_event_is_known_at_every_byte() {
    let text = DELTA.as_bytes();
    for cut in 1..text.len() {
        let (kinds, scanner) = fed(Api::Chat, &[&text[..cut]]);
        assert!(kinds.is_empty() && scanner.inside_event() && scanner.is_cut(), "{cut}");
    }
    let (_, scanner) = fed(Api::Chat, &[text]);
    assert!(!scanner.inside_event() && scanner.is_cut());
    assert!(!fed(Api::Chat, &[b": keep-alive\n"]).1.inside_event());
    assert!(fed(Api::Chat, &[b": keep-al"]).1.inside_event());
    assert!(!fed(Api::Chat, &[b"data: x\r\n\r"]).1.inside_event());
    let (_, other) = fed(Api::Other, &[b"data: x\n\n"]);
    assert!(!other.is_cut(), "the end of an unknown form is not known");
}

#[test]
fn an_event_beyond_the_cap_is_told_by_its_beginning_and_memory_stays_bounded() {
    let filler = vec![b'a'; 256 * 1024];
    for (begin, expected) in [
        ("event: response.completed\ndata: {\"response\":{\"x\":\"", EventKind::Done),
        ("data: {\"type\":\"response.completed\",\"response\":{\"x\":\"", EventKind::Done),
        ("data: {\"response\":{\"x\":\"", EventKind::Content),
    ] {
        let mut scanner = EventScanner::new(Api::Responses);
        scanner.pass(begin.as_bytes());
        for _ in 0..20 {
            scanner.pass(&filler);
            assert!(scanner.event.capacity() <= 2 * LONGEST_EVENT);
        }
        let mut rest: &[u8] = b"\"}}\n\n";
        assert_eq!(scanner.next(&mut rest), Some(expected), "{begin}");
        assert!(scanner.event.capacity() <= KEPT);
    }
}

#[test]
fn our_own_error_events_are_errors_of_their_form() {
    for api in [Api::Chat, Api::Responses, Api::Other] {
        let event = crate::openai::errors::stream_event(
            api,
            "upstream_stream_interrupted",
            "the upstream broke off",
            "3cac2921276ab313",
        );
        let (kinds, scanner) = fed(api, &[&event]);
        assert!(
            matches!(&kinds[..], [EventKind::Error(error)] if error.code == "upstream_stream_interrupted")
        );
        assert!(!scanner.inside_event());
    }
}

proptest! {
    #[test]
    fn chunk_borders_never_change_what_is_told(text in "(data: |event: response\\.(failed|created)|\\[DONE\\]|\\{\"choices\":\\[\\]\\}|\\{\"error\":\\{\"code\":\"429\"\\}\\}|\r|\n|\n\n|\r\n\r\n|:|[a-z{}\"]|\\PC){0,40}", size in 1_usize..8) {
        for api in [Api::Chat, Api::Responses, Api::Other] {
            let (whole, at_end) = fed(api, &[text.as_bytes()]);
            let chunks: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            let (cut, cut_at_end) = fed(api, &chunks);
            prop_assert_eq!(whole, cut);
            prop_assert_eq!(at_end.inside_event(), cut_at_end.inside_event());
            prop_assert_eq!(at_end.ending(), cut_at_end.ending());
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for api in [Api::Chat, Api::Responses, Api::Other] {
            fed(api, &[&bytes]);
        }
    }
}

#[test]
fn a_stream_is_over_by_its_last_event_or_by_an_error_after_which_no_content_came() {
    const ERROR: &str = "data: {\"error\":{\"code\":\"content_filter\"}}\n\n";
    const WORD: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    const USAGE: &str = "data: {\"choices\":[],\"usage\":{}}\n\n";
    const PING: &str = ": ping\n\n";
    const DONE: &str = "data: [DONE]\n\n";
    let over = |events: &[&str]| {
        let events: Vec<&[u8]> = events.iter().map(|event| event.as_bytes()).collect();
        fed(Api::Chat, &events).1.is_over()
    };
    assert!(!over(&[WORD]) && over(&[WORD, DONE]) && over(&[WORD, ERROR]) && over(&[WORD, ERROR, PING]));
    assert!(!over(&[ERROR, WORD]) && !over(&[ERROR, WORD, PING]) && !over(&[ERROR, WORD, USAGE]));
    assert!(over(&[ERROR, WORD, ERROR]) && over(&[ERROR, WORD, DONE]) && over(&[WORD, DONE, PING]));
    assert!(!over(&[WORD, ERROR, "data: {\"ch"]), "within an event");
}
