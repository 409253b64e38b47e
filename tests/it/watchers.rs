//! The status page's document and its event stream, as bytes.

use std::time::Duration;

use serde_json::Value;
use sidestep::simulator::{Fault, FaultRule};

use super::fixture::{CHAT, QUESTION, Scene};
use super::front::Front;
use super::raw::{Wire, ask, get, request, until};

fn two() -> Front {
    Front::of(Scene::of([("east", 1), ("west", 2)]))
}

fn chat(front: &Front) -> u16 {
    ask(front.address(), "POST", CHAT, "", QUESTION).status
}

/// One page's stream of events.
struct Watcher {
    wire: Wire,
    ahead: String,
    ended: bool,
}

impl Watcher {
    fn of(front: &Front) -> Self {
        let mut wire = Wire::to(front.admin());
        let head = wire.send(request("GET", "/events", "", "")).head().unwrap();
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
        Self { wire, ahead: String::new(), ended: false }
    }

    /// Name and data of the next event; `None` at the stream's proper end.
    fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.ahead.split_once("\n\n") {
                let (name, data) = event.split_once('\n').unwrap();
                let name = name.strip_prefix("event: ").unwrap().to_owned();
                let data = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
                self.ahead = rest.to_owned();
                return Some((name, data));
            }
            assert!(!self.ended, "after the end: {}", self.ahead);
            let chunk = self.wire.chunk().expect("the stream is not cut");
            self.ended = chunk.is_empty();
            if self.ended {
                return None;
            }
            self.ahead.push_str(&String::from_utf8(chunk).unwrap());
        }
    }

    /// The first status that is so.
    fn status(&mut self, so: impl Fn(&Value) -> bool) -> Value {
        loop {
            let (name, data) = self.next().expect("the stream goes on");
            if name == "status" && so(&data) {
                return data;
            }
        }
    }
}

#[test]
fn the_page_is_one_document() {
    let front = two();
    let page = get(front.admin(), "/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.text().contains("/events") && page.text().ends_with("</html>\n"));
    assert!(page.header("content-security-policy").unwrap().contains("script-src 'sha256-"));
}

#[test]
fn a_watcher_hears_the_past_the_present_and_every_change() {
    let front = two();
    assert_eq!(chat(&front), 200);
    let mut watcher = Watcher::of(&front);
    assert_eq!(watcher.next().unwrap().0, "past");
    let status = watcher.status(|_| true);
    assert_eq!(status["backends"][0]["lanes"][0]["served_total"], 1);
    front.resource("east").fault(Fault::throttle_seconds(30));
    assert_eq!(chat(&front), 200);
    let status = watcher.status(|status| status["backends"][0]["state"] == "cooling");
    assert!(status["backends"][0]["remaining_ms"].as_u64().unwrap() > 25_000);
    assert_eq!(ask(front.admin(), "POST", "/backends/west/drain", "", "").status, 200);
    watcher.status(|status| status["backends"][1]["drained"] == true);
}

#[test]
fn the_status_tells_how_soon_a_lane_answers_and_how_it_failed() {
    let front = two();
    front.resource("east").fault(FaultRule::times(Fault::status(500), 2));
    (0..2).for_each(|_| assert_eq!(chat(&front), 200));
    let status = front.status();
    let [east, west] = [0, 1].map(|at| &status["backends"][at]["lanes"][0]);
    assert_eq!((&east["first_byte_ms"], west["first_byte_ms"].is_u64()), (&Value::Null, true));
    let failures = east["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!((&failures[0]["cause"], &failures[0]["times"]), (&"500".into(), &2.into()));
    assert_eq!(west["failures"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_step_of_the_past_is_told_when_it_has_ended() {
    let front = two();
    let mut watcher = Watcher::of(&front);
    assert_eq!(chat(&front), 200);
    let step = loop {
        let (name, data) = watcher.next().unwrap();
        if name == "step" {
            break data;
        }
    };
    assert_eq!((&step["lanes"][0]["backend"], &step["lanes"][0]["served"]), (&"east".into(), &[1].into()));
    let (_, past) = Watcher::of(&front).next().unwrap();
    assert_eq!((&past["lanes"][0]["served"], &past["lanes"][0]["states"]), (&[1].into(), &"a".into()));
}

#[test]
fn a_page_opened_after_failures_is_told_of_them() {
    let front = two();
    let mut watcher = Watcher::of(&front);
    ["east", "west"].iter().for_each(|name| front.resource(name).fault(Fault::throttle_seconds(30)));
    assert_eq!(chat(&front), 429);
    while watcher.next().unwrap().0 != "step" {}
    let (_, past) = Watcher::of(&front).next().unwrap();
    assert_eq!((&past["failed"], &past["failed_total"]), (&[1].into(), &1.into()));
}

#[test]
fn twenty_may_watch_and_the_next_is_told_so_until_one_leaves() {
    let front = two();
    let mut watchers: Vec<Watcher> = (0..20).map(|_| Watcher::of(&front)).collect();
    let refused = get(front.admin(), "/events");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("10")));
    assert_eq!(refused.text(), "as many watch already as may; close another page\n");
    watchers.pop();
    until("a place is free", || {
        let mut wire = Wire::to(front.admin());
        wire.send(request("GET", "/events", "", "")).head().unwrap().status == 200
    });
    for watcher in &mut watchers {
        watcher.status(|_| true);
    }
}

#[test]
fn a_drain_is_shown_to_watchers_and_then_ends_their_streams_properly() {
    let front = two();
    let mut watcher = Watcher::of(&front);
    watcher.status(|_| true);
    front.balancer.drain();
    while watcher.next().is_some() {}
    until("it has stopped", || front.balancer.ended());
}

#[test]
fn what_is_asked_after_a_long_silence_stands_in_the_step_in_which_it_was_asked() {
    // Time itself is what is looked at: until nobody looks any more, and until the step of the request is over.
    const ASLEEP: Duration = Duration::from_millis(2_500);
    const STEP: Duration = Duration::from_millis(5_100);
    let front = two();
    std::thread::sleep(ASLEEP);
    assert_eq!(chat(&front), 200);
    std::thread::sleep(STEP);
    let (name, past) = Watcher::of(&front).next().unwrap();
    assert_eq!(name, "past");
    let served = past["lanes"][0]["served"].as_array().unwrap().iter();
    assert_eq!(served.filter_map(Value::as_u64).sum::<u64>(), 1, "{past}");
}
