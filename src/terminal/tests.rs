//! The picture, the lines and the summary from documents as a daemon writes them.

use std::io::Write as _;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};

use super::view::{self, Shown, ViewState};
use super::{
    EndCause, Ends, Explained, Status, ViewOptions, clock, plain, press, print_lines, run_view, summary,
};

/// One backend of a document.
fn backend(name: &str, state: &str, remaining_ms: Option<u64>, cause: Option<&str>, served: u64) -> Value {
    json!({ "name": name, "url": "https://x", "priority": 1, "weight": 1, "credential": "ready", "drained": false,
        "in_flight": 2, "state": state, "remaining_ms": remaining_ms, "cause": cause, "requests_total": served + 5,
        "served_total": served, "throttled_total": served / 10, "failed_total": 0, "tokens_total": served * 250,
        "lanes": [{ "deployment": "gpt-4o", "state": state, "remaining_ms": remaining_ms, "cause": cause,
            "in_flight": 2, "requests_total": served + 5, "served_total": served, "throttled_total": served / 10,
            "failed_total": 1, "tokens_total": served * 250, "first_byte_ms": 340,
            "quota": { "limit_tokens": 30_000, "remaining_tokens": null, "restart_ms": null },
            "failures": [{ "cause": "429, retry-after-ms", "times": 40, "ago_ms": 4_000 }] }] })
}

fn document(uptime: f64, failovers: u64, backends: &[Value]) -> Status {
    let served: u64 =
        backends.iter().filter_map(|backend| backend["served_total"].as_u64()).fold(0, u64::saturating_add);
    let text = json!({ "version": "0.1.0", "now_ms": 1, "uptime_seconds": uptime, "listen": "http://127.0.0.1:8080",
        "admin": "http://127.0.0.1:9080", "draining": false,
        "callers": { "requests_total": served, "succeeded_total": served, "failed_total": 0, "throttled_total": 0,
            "in_flight": 3, "failovers_total": failovers, "exhausted_total": 0 },
        "tokens": { "prompt_total": served.saturating_mul(200), "cached_total": 0, "completion_total": served.saturating_mul(50) },
        "backends": backends });
    Status::parse(text.to_string().as_bytes()).unwrap()
}

/// West cools, the others serve.
fn cooling(uptime: f64) -> Status {
    document(
        uptime,
        7,
        &[
            backend("west", "cooling", Some(4_200), Some("retry-after-ms"), 400),
            backend("east", "admitting", None, None, 390),
            backend("north", "resting", Some(65_000), Some("500"), 20),
        ],
    )
}

fn state_of(documents: Vec<Status>, start: Instant) -> ViewState {
    let mut state = ViewState { title: "Sidestep".into(), colour: true, ..ViewState::default() };
    for (place, status) in (0..).zip(documents) {
        state.observe(start + Duration::from_millis(250) * place, status);
    }
    state
}

fn picture(state: &ViewState, now: Instant, width: u16, height: u16) -> (String, Shown) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let mut shown = Shown::default();
    terminal.draw(|frame| shown = view::draw(frame, state, now)).unwrap();
    let buffer = terminal.backend().buffer();
    let lines = buffer.content().chunks(width.into()).map(|row| {
        let line: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        line.trim_end().to_owned() + "\n"
    });
    (lines.collect(), shown)
}

/// The line that tells of this backend.
fn line_of<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name} is missing:\n{text}"))
}

/// Documents as a demo has them: each backend in turn is throttled for some seconds.
struct Demo {
    random: fastrand::Rng,
    tick: u32,
    served: [u64; 3],
    throttled: [u64; 3],
    until: [u32; 3],
    failovers: u64,
}

impl Demo {
    /// Documents a second.
    const RATE: u32 = 4;

    fn new() -> Self {
        let random = fastrand::Rng::with_seed(7);
        Self { random, tick: 0, served: [0; 3], throttled: [0; 3], until: [0; 3], failovers: 0 }
    }

    fn next(&mut self) -> Status {
        self.tick += 1;
        let mut rows = Vec::new();
        for (place, name) in ["west", "east", "north"].into_iter().enumerate() {
            let turn = self.tick + u32::try_from(place).unwrap() * 13;
            if self.until[place] <= self.tick && turn % 40 == 17 {
                self.until[place] = self.tick + self.random.u32(9..35);
                self.throttled[place] += self.random.u64(1..3);
                self.failovers += 1;
            }
            let left = u64::from(self.until[place].saturating_sub(self.tick)) * 250;
            let cooling = left != 0;
            if !cooling {
                self.served[place] += self.random.u64(0..4);
            }
            let (word, cause) =
                if cooling { ("cooling", Some("retry-after-ms")) } else { ("admitting", None) };
            let mut row = backend(name, word, cooling.then_some(left), cause, self.served[place]);
            row["throttled_total"] = self.throttled[place].into();
            row["in_flight"] = u64::from(!cooling).into();
            rows.push(row);
        }
        document(f64::from(self.tick) / f64::from(Self::RATE), self.failovers, &rows)
    }
}

fn key(code: KeyCode) -> KeyEvent {
    KeyEvent::new(code, KeyModifiers::NONE)
}

/// East would serve, west cools.
fn explanation() -> Explained {
    let of = |name: &str, turn: &str, obstacle: Option<&str>, text: &str| json!({ "name": name, "priority": 1, "turn": turn, "chance": null, "obstacle": obstacle, "remaining_ms": null, "text": text });
    let document = json!({ "deployment": "gpt-4o", "tokens": 1_000, "known": true, "served": true, "backends": [
        of("east", "drawn", None, "drawn with 62 %"), of("south", "last", Some("silent"), "last: silent"),
        of("west", "not", Some("cooling"), "not now: cooling for 4.2 s"), of("north", "not", Some("resting"), "not now: resting for 65.0 s") ] });
    Explained::parse(document.to_string().as_bytes()).unwrap()
}

/// West has two deployments, one of them with a known quota; opened.
fn opened(start: Instant) -> ViewState {
    let mut west = backend("west", "cooling", Some(4_200), Some("retry-after-ms"), 400);
    west["lanes"][0]["quota"] =
        json!({ "limit_tokens": 30_000, "remaining_tokens": 12_300, "restart_ms": 23_000 });
    let mut embed = west["lanes"][0].clone();
    (embed["deployment"], embed["state"], embed["remaining_ms"]) =
        ("embed".into(), "admitting".into(), Value::Null);
    embed["quota"] = json!({});
    west["lanes"].as_array_mut().unwrap().push(embed);
    let mut state =
        state_of(vec![document(59.0, 7, &[backend("east", "admitting", None, None, 390), west])], start);
    let shown = picture(&state, start, 80, 24).1;
    for code in [KeyCode::Down, KeyCode::Down, KeyCode::Enter] {
        assert!(!press(&mut state, key(code), shown));
    }
    state
}

fn demo_notes() -> Vec<String> {
    vec![
        "Three simulated resources, each 30,000 tokens a minute; windows are 10 s".into(),
        "curl http://127.0.0.1:8080/v1/chat/completions --json '{\"model\":\"gpt-4o\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}'".into(),
    ]
}

fn demo(seconds: u32, start: Instant) -> (ViewState, Instant) {
    let mut state = ViewState {
        title: "Sidestep demo".into(),
        colour: true,
        notes: demo_notes(),
        ..ViewState::default()
    };
    let (mut source, mut now) = (Demo::new(), start);
    for tick in 0..seconds * Demo::RATE {
        now = start + Duration::from_secs(1) * tick / Demo::RATE;
        state.observe(now, source.next());
    }
    (state, now)
}

#[test]
#[ignore = "for eyes, in a terminal: cargo test --lib terminal::tests::live -- --ignored"]
fn live() {
    let mut source = Demo::new();
    let mut fetched = 0;
    let fetch = || {
        fetched += 1;
        if fetched == 60 { Err("cannot reach http://127.0.0.1:9080".to_owned()) } else { Ok(source.next()) }
    };
    let plain = !std::io::IsTerminal::is_terminal(&std::io::stdout());
    let options = ViewOptions {
        title: "Sidestep demo".into(),
        notes: demo_notes(),
        seconds: Some(Duration::from_secs(if plain { 4 } else { 90 })),
        stop: std::sync::Arc::default(),
        plain,
        colour: true,
    };
    let explain = |_: &str, _: &str| Ok(explanation());
    let ended = run_view(fetch, explain, options).unwrap();
    std::io::stdout().write_all(summary(&ended.last.unwrap()).as_bytes()).unwrap();
}

#[test]
#[ignore = "for eyes: cargo test --lib terminal::tests::gallery -- --ignored --nocapture"]
fn gallery() {
    let start = clock();
    let (state, now) = demo(83, start);
    let mut pages = String::new();
    for (width, height) in [(80, 24), (120, 40), (100, 30), (40, 12)] {
        pages += &picture(&state, now, width, height).0;
        pages += "──\n";
    }
    let mut open = opened(start);
    open.explain(start, open.unexplained(start).unwrap(), Ok(explanation()));
    for (width, height) in [(80, 24), (120, 40), (40, 12)] {
        pages += &picture(&open, start, width, height).0;
        pages += "──\n";
    }
    let many: Vec<_> =
        (0..200).map(|n| backend(&format!("backend-{n}"), "admitting", None, None, n * 7)).collect();
    pages += &picture(&state_of(vec![document(9.0, 0, &many)], start), start, 80, 24).0;
    pages += &picture(&state_of(vec![cooling(1.0)], start), start, 80, 24).0;
    let lane =
        |name, state, left: Option<u64>| json!({ "deployment": name, "state": state, "remaining_ms": left });
    let mut two = backend("sweden-central-production", "admitting", None, None, 3);
    two["lanes"] =
        json!([lane("gpt-4o", "cooling", Some(3_100)), lane("text-embedding-3-large", "admitting", None)]);
    two["weight"] = json!(3);
    let mut failing = document(7_261.0, 0, &[two, backend("east", "refused", None, Some("401"), 0)]);
    (failing.callers.failed_total, failing.callers.throttled_total) = (12, 9);
    pages += &picture(&state_of(vec![failing], start), start, 80, 24).0;
    pages += &picture(&ViewState { title: "Sidestep".into(), ..ViewState::default() }, start, 80, 24).0;
    pages += &summary(state.status.as_ref().unwrap());
    std::io::stdout().write_all(pages.as_bytes()).unwrap();
}

#[test]
fn the_picture_tells_state_time_left_and_what_callers_saw() {
    let start = clock();
    let state = state_of(vec![cooling(59.0)], start);
    for (width, height) in [(80, 24), (120, 40)] {
        let (text, _) = picture(&state, start, width, height);
        for expected in [
            "Sidestep 0.1.0",
            "http://127.0.0.1:8080",
            "up 0:59",
            "810",
            "100 %",
            " 81 ",
            "absorbed",
            "0 failures",
            "reached callers",
            "202,500",
            "retry-after-ms",
            "1 of 3 admit",
            "q quit",
        ] {
            assert!(text.contains(expected), "{expected} at {width}×{height}:\n{text}");
        }
        // The words stand in the legend at the bottom as well: each must stand in its backend's line.
        for (name, told) in [
            ("● east", &["admitting"][..]),
            ("◐ west", &["cooling", "4.2 s", "━"]),
            ("▲ north", &["resting", "1m 05s"]),
        ] {
            let line = line_of(&text, name);
            assert!(told.iter().all(|word| line.contains(word)), "{name} at {width}×{height}:\n{text}");
        }
    }
}

#[test]
fn a_small_terminal_still_tells_each_state_and_the_time_left() {
    let start = clock();
    let (text, _) = picture(&state_of(vec![cooling(59.0)], start), start, 40, 12);
    assert!(text.contains("Sidestep") && text.contains("810 requests"), "{text}");
    for (name, told) in [("west", "cooling    4.2 s"), ("east", "admitting"), ("north", "resting")] {
        assert!(line_of(&text, name).contains(told), "{told}:\n{text}");
    }
}

#[test]
fn the_countdown_and_its_gauge_go_on_between_documents() {
    let start = clock();
    let state = state_of(vec![cooling(1.0)], start);
    let bar = |text: &str| text.matches('━').count();
    let (fresh, _) = picture(&state, start, 80, 24);
    let (later, _) = picture(&state, start + Duration::from_millis(3_350), 80, 24);
    assert!(later.contains("850 ms"), "{later}");
    assert!(bar(&later) < bar(&fresh));
    let (over, _) = picture(&state, start + Duration::from_secs(90), 80, 24);
    assert!(line_of(&over, "west").contains(" 0 ms"), "{over}");
}

#[test]
fn when_all_cool_it_says_that_none_admits() {
    let start = clock();
    let all = ["west", "east"].map(|name| backend(name, "cooling", Some(9_000), Some("retry-after"), 1));
    let (text, _) = picture(&state_of(vec![document(3.0, 0, &all)], start), start, 80, 24);
    assert!(text.contains("none admits now"), "{text}");
}

#[test]
fn no_size_and_no_document_panics() {
    let start = clock();
    let many: Vec<_> = (0..200).map(|n| backend(&format!("b{n}"), "cooling", Some(n), None, n)).collect();
    let strange = json!({ "name": "東京\u{1b}[31m\u{301}".repeat(90), "state": 7, "remaining_ms": u64::MAX,
        "served_total": u64::MAX, "throttled_total": u64::MAX, "tokens_total": -4, "lanes": [{}, {}, {}] });
    let states = [
        ViewState::default(),
        state_of(vec![cooling(1.0)], start),
        state_of(vec![document(1.0, 0, &many), document(2.0, 0, &many)], start),
        state_of(vec![Status::default(), Status::parse(b"{}").unwrap()], start),
        state_of(vec![document(0.0, 0, &[]), document(1.0, 0, std::slice::from_ref(&strange))], start),
        demo(30, start).0,
        opened(start),
        {
            let mut state = opened(start);
            let asked = state.unexplained(start).unwrap();
            state.explain(start, asked, Ok(explanation()));
            state
        },
        {
            let mut state = state_of(
                vec![document(1.0, 0, &many), document(1.0, 0, std::slice::from_ref(&strange))],
                start,
            );
            state.open(0);
            state
        },
    ];
    for mut state in states {
        for (width, height) in (1..=30).flat_map(|width| (1..=14).map(move |height| (width, height))) {
            picture(&state, start, width, height);
            picture(&state, start, width * 7, height * 4);
        }
        state.scroll = usize::MAX;
        state.lose("connection refused\u{1b}");
        picture(&state, start, 80, 24);
        picture(&state, start, 5, 2);
    }
}

#[test]
fn two_hundred_backends_scroll_to_the_last() {
    let start = clock();
    let many: Vec<_> =
        (0..200).map(|n| backend(&format!("backend-{n}"), "admitting", None, None, n)).collect();
    let mut state = state_of(vec![document(9.0, 0, &many)], start);
    let (text, shown) = picture(&state, start, 80, 24);
    assert!(text.contains("backend-0 ") && !text.contains("backend-199"), "{text}");
    assert_eq!(shown.page + shown.last, 200);
    assert!(!press(&mut state, key(KeyCode::Char('G')), shown));
    assert!(picture(&state, start, 80, 24).0.contains("backend-199"));
    press(&mut state, key(KeyCode::Down), shown);
    assert_eq!((state.chosen, state.scroll), (Some(199), shown.last), "not beyond the last");
    (0..shown.page).for_each(|_| assert!(!press(&mut state, key(KeyCode::Char('k')), shown)));
    assert_eq!(
        (state.chosen, state.scroll),
        (Some(199 - shown.page), shown.last - 1),
        "the chosen one is in sight"
    );
    press(&mut state, key(KeyCode::PageUp), shown);
    assert_eq!(state.chosen, Some(199 - 2 * shown.page));
    press(&mut state, key(KeyCode::Char('g')), shown);
    assert_eq!((state.chosen, state.scroll), (Some(0), 0));
    assert!(press(&mut state, key(KeyCode::Char('q')), shown));
    assert!(press(&mut state, KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), shown));
    assert!(!press(&mut state, key(KeyCode::Char('c')), shown));
}

#[test]
fn nothing_from_outside_reaches_the_terminal_as_a_control() {
    let start = clock();
    let evil = "\u{1b}]0;gone\u{7}\r\n\u{202e}west";
    let mut first = backend(evil, "admitting", None, Some(evil), 3);
    let mut second = first.clone();
    first["lanes"] =
        json!([{ "deployment": evil, "state": "admitting" }, { "deployment": "b", "state": "admitting" }]);
    second["lanes"] =
        json!([{ "deployment": evil, "state": "cooling", "cause": evil, "remaining_ms": 5 }, {}]);
    let mut state = state_of(vec![document(1.0, 0, &[first]), document(2.0, 0, &[second])], start);
    let status = state.status.clone().unwrap();
    let mut texts = vec![picture(&state, start, 200, 50).0, summary(&status), plain::line(&state, &status)];
    texts.extend(state.story.events().map(|event| event.text.clone()));
    state.lose(evil);
    texts.push(picture(&state, start, 200, 50).0);
    for text in texts {
        assert!(!text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{text:?}");
    }
}

#[test]
fn without_colour_every_cell_has_the_default_colour() {
    let start = clock();
    let mut state = state_of(vec![cooling(1.0), cooling(2.0)], start);
    let mut coloured = |colour| {
        state.colour = colour;
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| assert_ne!(view::draw(frame, &state, start).page, 0)).unwrap();
        let cells = terminal.backend().buffer().content().to_vec();
        cells.iter().any(|cell| cell.fg != ratatui::style::Color::Reset)
    };
    assert!(coloured(true));
    assert!(!coloured(false));
}

#[test]
fn the_story_names_who_was_throttled_and_who_answered() {
    let start = clock();
    let east = |served| backend("east", "admitting", None, None, served);
    let state = state_of(
        vec![
            document(1.0, 0, &[backend("west", "admitting", None, None, 9), east(5)]),
            document(1.25, 1, &[backend("west", "cooling", Some(4_200), Some("retry-after-ms"), 9), east(5)]),
            document(1.5, 1, &[backend("west", "cooling", Some(3_950), Some("retry-after-ms"), 9), east(6)]),
            document(5.5, 1, &[backend("west", "admitting", None, None, 9), east(9)]),
        ],
        start,
    );
    let texts: Vec<_> = state.story.events().map(|event| event.text.as_str()).collect();
    assert_eq!(
        texts,
        ["west admits again after 4.2 s", "west wants 4.2 s of rest (retry-after-ms); east answered at once"]
    );
}

#[test]
fn exhaustion_failures_and_a_restart_are_told_and_joined() {
    let start = clock();
    let at = |uptime, exhausted: u64, failed: u64| {
        let mut status = document(uptime, 0, &[]);
        status.callers.exhausted_total = exhausted;
        status.callers.failed_total = failed;
        status
    };
    let mut state = state_of(vec![at(1.0, 0, 0), at(1.2, 1, 1), at(1.4, 3, 4)], start);
    let texts = |state: &ViewState| state.story.events().map(|event| event.text.clone()).collect::<Vec<_>>();
    assert_eq!(
        texts(&state),
        ["1 failure reached callers", "nobody had room: 3 callers told when to come back"]
    );
    state.observe(start, at(0.1, 0, 0));
    assert_eq!(texts(&state)[0], "Sidestep was restarted");
}

#[test]
fn a_429_without_a_rest_is_told_once_with_a_growing_count() {
    let start = clock();
    let at = |uptime, throttled: u64| {
        let mut west = backend("west", "admitting", None, None, 9);
        west["throttled_total"] = throttled.into();
        document(uptime, 0, &[west])
    };
    let state = state_of(vec![at(1.0, 0), at(1.2, 1), at(1.4, 3), at(9.0, 4)], start);
    let texts: Vec<_> = state.story.events().map(|event| event.text.as_str()).collect();
    assert_eq!(
        texts,
        ["west throttled 1 request and admits others", "west throttled 3 requests and admits others"]
    );
}

#[test]
fn a_lane_is_told_by_its_name_where_a_backend_has_several() {
    let start = clock();
    let at = |uptime, state: &str, left: Option<u64>| {
        let mut west = backend("west", "admitting", None, None, 9);
        west["lanes"] = json!([
            { "deployment": "gpt-4o", "state": state, "remaining_ms": left, "total_ms": 10_000, "cause": "message" },
            { "deployment": "embed", "state": "admitting" },
        ]);
        document(uptime, 0, &[west])
    };
    let state = state_of(vec![at(1.0, "admitting", None), at(1.2, "cooling", Some(9_850))], start);
    let texts: Vec<_> = state.story.events().map(|event| event.text.as_str()).collect();
    assert_eq!(texts, ["west/gpt-4o throttled and is given 10.0 s of rest (message)"]);
    let (text, _) = picture(&state, start, 80, 24);
    assert!(text.contains("◐ gpt-4o 9.8 s") && text.contains("● embed"), "{text}");
}

#[test]
fn a_lost_daemon_is_named_while_the_last_picture_stays() {
    let start = clock();
    let mut state = state_of(vec![cooling(1.0)], start);
    state.lose("cannot reach http://127.0.0.1:9080");
    let (text, _) = picture(&state, start, 80, 24);
    assert!(text.contains("cannot reach http://127.0.0.1:9080") && text.contains("retrying"), "{text}");
    assert!(text.contains("west"), "{text}");
}

#[test]
fn a_plain_line_has_the_essentials_in_fixed_columns() {
    let start = clock();
    let state = state_of(vec![cooling(59.0)], start);
    assert_eq!(
        plain::line(&state, state.status.as_ref().unwrap()),
        "   0:59  requests     810  ok  100 %  429s absorbed    81  failures    0  tokens   202,500       –/s  \
         west: cooling 4.2 s  east: admitting  north: resting 1m 05s"
    );
}

#[test]
fn plain_mode_prints_notes_lines_and_errors_and_ends_when_told() {
    let state = ViewState { notes: vec!["try this".into()], ..ViewState::default() };
    let ends = Ends { stop: std::sync::Arc::default(), at: None };
    let mut answers = [Ok(cooling(59.0)), Err("cannot reach it".to_owned())].into_iter().cycle();
    let stop = std::sync::Arc::clone(&ends.stop);
    let mut fetched = 0;
    let fetch = || {
        fetched += 1;
        stop.store(fetched == 2, std::sync::atomic::Ordering::Relaxed);
        answers.next().unwrap()
    };
    let mut out = Vec::new();
    let ended = print_lines(fetch, state, &ends, &mut out).unwrap();
    assert_eq!(ended.cause, EndCause::Stopped);
    assert_eq!(ended.last.unwrap().backends.len(), 3);
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("try this\n   0:59  requests"), "{text}");
    assert!(text.ends_with("         cannot reach it; retrying\n"), "{text}");
}

#[test]
fn the_summary_is_a_small_table() {
    assert_eq!(
        summary(&cooling(59.0)),
        "\
810 requests in 0:59
  callers saw      810 answered, 0 failures
  429s absorbed    81
  failovers        7
  tokens served    202,500

  backend     served       tokens       429s    failed
  west           400      100,000         40         0
  east           390       97,500         39         0
  north           20        5,000          2         0
"
    );
}

#[test]
fn a_backend_is_chosen_with_the_arrows_opened_with_enter_and_left_with_escape() {
    let start = clock();
    let mut state = opened(start);
    assert_eq!(state.unexplained(start), Some(("west".to_owned(), "gpt-4o".to_owned())));
    let (text, shown) = picture(&state, start, 80, 24);
    assert!(text.contains("asking") && !text.contains("east"), "{text}");
    state.explain(start, ("west".to_owned(), "gpt-4o".to_owned()), Ok(explanation()));
    assert_eq!(state.unexplained(start + Duration::from_millis(900)), None);
    assert!(state.unexplained(start + Duration::from_secs(1)).is_some(), "once a second");
    let (text, _) = picture(&state, start, 80, 24);
    for expected in [
        "◐ west  cooling 4.2 s  retry-after-ms",
        "priority 1, weight 1 · 2 in flight · https://x",
        "› ◐ gpt-4o",
        "12.3k left",
        "full in 23.0 s",
        "  ● embed",
        "quota not told",
        "400 served",
        "340 ms to first byte",
        "40×  429, retry-after-ms",
        "4.0 s ago",
        "who would serve gpt-4o now",
        "a request of 1,000 tokens",
        "1  east    drawn with 62 %",
        "2  south   last: silent",
        "–  west    not now: cooling for 4.2 s",
        "esc back",
    ] {
        assert!(text.contains(expected), "{expected}:\n{text}");
    }
    press(&mut state, key(KeyCode::Down), shown);
    press(&mut state, key(KeyCode::Down), shown);
    assert_eq!(state.unexplained(start), Some(("west".to_owned(), "embed".to_owned())), "asked for at once");
    assert!(picture(&state, start, 80, 24).0.contains("who would serve embed now"));
    assert!(!press(&mut state, key(KeyCode::Esc), shown), "back, and not out");
    let (text, shown) = picture(&state, start, 80, 24);
    assert!(text.contains("● east") && text.contains("enter open"), "{text}");
    assert!(press(&mut state, key(KeyCode::Esc), shown));
}

#[test]
fn what_cannot_be_explained_says_why_and_a_backend_that_is_gone_too() {
    let start = clock();
    let mut state = opened(start);
    let asked = state.unexplained(start).unwrap();
    state.explain(start, asked, Err("answered 404\u{1b}".to_owned()));
    let (text, _) = picture(&state, start, 80, 24);
    assert!(text.contains("answered 404") && !text.contains('\u{1b}'), "{text}");
    state.observe(start, document(60.0, 7, &[backend("east", "admitting", None, None, 390)]));
    assert_eq!(state.unexplained(start + Duration::from_secs(9)), None);
    assert!(picture(&state, start, 80, 24).0.contains("west is in the settings no more"));
}

#[test]
fn a_long_explanation_scrolls_to_its_last_backend() {
    let start = clock();
    let mut state = opened(start);
    let asked = state.unexplained(start).unwrap();
    let all: Vec<_> = (0..200)
        .map(|n| json!({ "name": format!("b{n}"), "turn": "spillover", "text": "spillover" }))
        .collect();
    let long = Explained::parse(json!({ "served": true, "backends": all }).to_string().as_bytes()).unwrap();
    state.explain(start, asked, Ok(long));
    let (text, shown) = picture(&state, start, 80, 24);
    assert!(text.contains(" of 200") && !text.contains("b199"), "{text}");
    press(&mut state, key(KeyCode::PageDown), shown);
    assert!(picture(&state, start, 80, 24).0.contains(&format!("{}–", shown.page + 1)));
    press(&mut state, key(KeyCode::End), shown);
    assert!(picture(&state, start, 80, 24).0.contains("b199"));
}

#[test]
fn quota_left_is_a_number_and_a_bar_and_who_uses_it_a_line() {
    let start = clock();
    let mut east = backend("east", "admitting", None, None, 390);
    east["lanes"][0]["quota"] = json!({ "limit_tokens": 30_000, "remaining_tokens": 12_300 });
    let mut status = document(59.0, 7, &[east, backend("west", "cooling", Some(4_200), None, 1)]);
    let caller = |name: &str, requests, failed, tokens| super::status::Caller {
        name: name.into(),
        requests,
        failed,
        limited: u64::from(name == "batch") * 7,
        tokens,
    };
    status.by_caller.lately_seconds = 300;
    status.by_caller.callers =
        vec![caller("chat-app", 1_200, 0, 80_000), caller("batch", 40, 3, 20_000), caller("quiet", 0, 0, 0)];
    let deployment = |name: &str, remaining_tokens| super::status::Deployment {
        name: name.into(),
        limit_tokens: 60_000,
        remaining_tokens,
    };
    status.deployments = vec![deployment("gpt-4o", 12_300), deployment("embed", 60_000)];
    let state = state_of(vec![status], start);
    let (text, _) = picture(&state, start, 80, 24);
    assert!(text.contains("  tokens left      gpt-4o 12.3k of 60k   embed 60k of 60k\n"), "{text}");
    let line = text.lines().find(|line| line.contains("east")).unwrap();
    assert!(line.contains("12.3k left  ━"), "{text}");
    assert!(
        text.contains("  tokens in 5 min  chat-app 80 %   batch 20 %, 3 failed, 7 over limit\n"),
        "{text}"
    );
    let (text, _) = picture(&state, start, 120, 40);
    assert!(
        text.contains("chat-app 80 %, 1,200 requests   batch 20 %, 40 requests, 3 failed, 7 over limit\n"),
        "{text}"
    );
    assert!(text.lines().any(|line| line.contains("12.3k left  ━") && line.contains(" of 30k")), "{text}");
}

#[test]
fn a_backend_without_its_credential_is_not_in_use_and_says_why() {
    let start = clock();
    let at = |uptime, credential: &str| {
        let mut west = backend("west", "admitting", None, None, 9);
        west["credential"] = credential.into();
        west["credential_cause"] = json!("invalid_client");
        let mut embed = west["lanes"][0].clone();
        embed["deployment"] = "embed".into();
        west["lanes"].as_array_mut().unwrap().push(embed);
        document(uptime, 0, &[west, backend("east", "admitting", None, None, 5)])
    };
    let mut state = state_of(vec![at(1.0, "ready"), at(1.2, "missing")], start);
    for (width, height) in [(80, 24), (120, 40), (80, 7)] {
        let (text, _) = picture(&state, start, width, height);
        assert!(text.contains("1 of 2 admit, 1 without credential"), "{text}");
        let expected = if height == 7 { "not in use  no credential:" } else { "not in use  invalid_client" };
        assert!(line_of(&text, "⊘ west").contains(expected), "{width}×{height}:\n{text}");
        assert!(height == 7 || text.contains("    no credential"), "{width}×{height}:\n{text}");
    }
    let told = |state: &ViewState| state.story.events().next().unwrap().text.clone();
    assert_eq!(told(&state), "west is not in use (no credential: invalid_client)");
    state.open(0);
    let (text, _) = picture(&state, start, 80, 24);
    assert!(text.contains("⊘ west  not in use  no credential: invalid_client"), "{text}");
    state.observe(start, at(1.4, "ready"));
    assert_eq!(told(&state), "west admits again");
}

#[test]
fn answers_that_broke_off_are_told_among_the_failures() {
    let start = clock();
    let mut status = cooling(59.0);
    for (failed, throttled, cut, expected) in
        [(3, 0, 2, "2 of them cut"), (3, 1, 2, "1× 429, 2× cut"), (3, 1, 0, "1 of them 429")]
    {
        (status.callers.failed_total, status.callers.throttled_total) = (failed, throttled);
        status.callers.cut_total = cut;
        let (text, _) = picture(&state_of(vec![status.clone()], start), start, 80, 24);
        assert!(text.contains("3 failures") && text.contains(expected), "{expected}:\n{text}");
    }
}
