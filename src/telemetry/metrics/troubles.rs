//! The last requests that met trouble, so that an operator can ask for one by its id. A request that was served at its
//! first attempt is in the log alone, and costs nothing here.
//!
//! Each worker keeps [`EACH`] of every kind, as the JSON that the log has of them: kinds apart, so that a thousand
//! absorbed 429s a second push out no failure. What is kept longest is written over, in its own memory.

use std::time::SystemTime;

use crate::telemetry::access::AccessRecord;
use crate::telemetry::clock::{Stamp, since_epoch};
use crate::telemetry::request_id::RequestId;

use super::outcome::{Outcome, Trouble};

/// How many of one kind a worker keeps.
const EACH: usize = 32;
/// A place that needed more gives it back with its next request. All outside text is cut, so this is rare.
const USUAL: usize = 2_048;

/// One request.
#[derive(Debug)]
struct Kept {
    id: RequestId,
    ended: SystemTime,
    json: Vec<u8>,
}

/// Those of one kind; `next` is the place that is written over next.
#[derive(Debug, Default)]
struct Ring {
    places: Vec<Kept>,
    next: usize,
}

impl Ring {
    fn place(&mut self, id: RequestId, ended: SystemTime) -> &mut Vec<u8> {
        let at = self.next;
        self.next = (at + 1) % EACH;
        if at == self.places.len() {
            self.places.push(Kept { id, ended, json: Vec::new() });
        }
        let kept = &mut self.places[at];
        (kept.id, kept.ended) = (id, ended);
        kept.json.clear();
        kept.json.shrink_to(USUAL);
        &mut kept.json
    }

    fn newest_first(&self) -> impl Iterator<Item = &Kept> {
        let (newer, older) = self.places.split_at(self.next.min(self.places.len()));
        newer.iter().rev().chain(older.iter().rev())
    }
}

/// What one worker keeps.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    stamp: Stamp,
    /// By [`Trouble`].
    rings: [Ring; Trouble::KINDS],
}

impl Troubles {
    pub(super) fn keep(
        &mut self,
        ended: SystemTime,
        trouble: Trouble,
        outcome: Outcome,
        record: &AccessRecord<'_>,
    ) {
        let json = self.rings[trouble as usize].place(record.id, ended);
        json.extend_from_slice(b"{\"time\":\"");
        json.extend_from_slice(self.stamp.at(ended));
        json.extend_from_slice(b"\",\"outcome\":\"");
        json.extend_from_slice(outcome.word().as_bytes());
        json.extend_from_slice(b"\",");
        record.write_json_fields(json);
        json.push(b'}');
    }

    pub(super) fn gather(&self, ask: Ask<'_>, into: &mut Gathered) {
        for (kind, ring) in self.rings.iter().enumerate() {
            into.kept += ring.places.len();
            let asked = ring.newest_first().filter(|kept| ask.id.is_none_or(|id| kept.id.as_str() == id));
            for kept in asked.take(ask.each) {
                into.found.push((kept.ended, kind, kept.json.clone()));
            }
        }
    }
}

/// Which of the kept requests somebody wants to see.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ask<'a> {
    /// The one with this id alone.
    pub id: Option<&'a str>,
    /// At most so many of each kind: the newest.
    pub each: usize,
}

/// Requests that met trouble.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Troubled {
    /// How many are kept, shown here or not.
    pub kept: usize,
    /// Those that were asked for, the newest first: JSON objects with the fields of the log.
    pub requests: Vec<Vec<u8>>,
}

/// Those of several workers, as they come.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    kept: usize,
    found: Vec<(SystemTime, usize, Vec<u8>)>,
}

impl Gathered {
    pub(super) fn in_order(mut self, ask: Ask<'_>) -> Troubled {
        self.found.sort_by_key(|(ended, ..)| std::cmp::Reverse(since_epoch(*ended)));
        let mut told = [0; Trouble::KINDS];
        let wanted = self.found.into_iter().filter(|(_, kind, _)| {
            told[*kind] += 1;
            told[*kind] <= ask.each
        });
        Troubled { kept: self.kept, requests: wanted.map(|(.., json)| json).collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::super::access::tests::{notes, record};
    use super::super::super::access::{AttemptNotes, Ended};
    use super::super::super::request_id::RequestIds;
    use super::*;

    const ALL: Ask<'_> = Ask { id: None, each: usize::MAX };

    fn at(ms: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_000 + ms)
    }

    fn keep(troubles: &mut Troubles, ms: u64, record: &AccessRecord<'_>) -> bool {
        let outcome = Outcome::of(record);
        let trouble = outcome.trouble(record);
        if let Some(trouble) = trouble {
            troubles.keep(at(ms), trouble, outcome, record);
        }
        trouble.is_some()
    }

    fn told(all: &[&Troubles], ask: Ask<'_>) -> (usize, Vec<serde_json::Value>) {
        let mut gathered = Gathered::default();
        all.iter().for_each(|troubles| troubles.gather(ask, &mut gathered));
        let told = gathered.in_order(ask);
        (told.kept, told.requests.iter().map(|json| serde_json::from_slice(json).unwrap()).collect())
    }

    fn names() -> [Arc<str>; 2] {
        ["east".into(), "west".into()]
    }

    #[test]
    fn what_is_kept_is_what_the_log_has_with_the_outcome() {
        let (backends, attempts) = (names(), notes(&[(0, "throttled"), (1, "served")]));
        let record = record(&backends, &attempts);
        let mut troubles = Troubles::default();
        assert!(keep(&mut troubles, 7, &record));
        let (kept, requests) = told(&[&troubles], ALL);
        let mut line = Vec::new();
        record.write_json(&mut line, b"2026-09-21T14:13:20.007Z");
        let mut logged: serde_json::Value = serde_json::from_slice(&line).unwrap();
        let fields = logged.as_object_mut().unwrap();
        fields.remove("level");
        fields.remove("message");
        fields.insert("outcome".to_owned(), "succeeded".into());
        assert_eq!((kept, &requests[..]), (1, &[logged][..]));
    }

    #[test]
    fn who_was_served_at_the_first_attempt_and_who_is_itself_to_blame_is_not_kept() {
        let (backends, mut troubles) = (names(), Troubles::default());
        for verdict in ["served", "passed_back"] {
            let attempts = notes(&[(1, verdict)]);
            let happy = record(&backends, &attempts);
            assert!(!keep(&mut troubles, 0, &happy), "{verdict}");
        }
        let none = AttemptNotes::default();
        let mut unknown = record(&backends, &none);
        (unknown.status, unknown.error, unknown.ended) = (401, Some("401"), Ended::AnsweredHere);
        assert!(!keep(&mut troubles, 0, &unknown));
        assert_eq!(told(&[&troubles], ALL), (0, Vec::new()));
    }

    #[test]
    fn each_kind_of_trouble_is_kept() {
        let backends = names();
        let (once, none) = (notes(&[(1, "served")]), AttemptNotes::default());
        let (cut, left) = (notes(&[(1, "cut_off")]), notes(&[(0, "abandoned")]));
        let happy = record(&backends, &once);
        let here = AccessRecord { served_by: None, ended: Ended::AnsweredHere, ..record(&backends, &none) };
        let cases = [
            (AccessRecord { held: Some(Duration::from_millis(240)), ..happy.clone() }, "succeeded"),
            (AccessRecord { ended: Ended::UpstreamCut, ..record(&backends, &cut) }, "cut"),
            (AccessRecord { status: 503, error: Some("no_backend"), ..here.clone() }, "failed"),
            (AccessRecord { status: 429, error: Some("429"), exhausted: true, ..here.clone() }, "failed"),
            (AccessRecord { status: 429, error: Some("caller_limit"), ..here }, "limited"),
            (AccessRecord { status: 0, ended: Ended::CallerLeft, ..record(&backends, &left) }, "other"),
        ];
        for (record, outcome) in cases {
            let mut troubles = Troubles::default();
            assert!(keep(&mut troubles, 0, &record), "{outcome}");
            assert_eq!(told(&[&troubles], ALL).1[0]["outcome"], outcome);
        }
    }

    #[test]
    fn they_are_told_newest_first_over_all_workers_and_few_where_few_are_asked_for() {
        let (backends, attempts) = (names(), notes(&[(0, "throttled"), (1, "served")]));
        let (mut one, mut other) = (Troubles::default(), Troubles::default());
        let ids = RequestIds::new(7, 0);
        let mut expected = Vec::new();
        for n in 0..10 {
            let record = AccessRecord { id: ids.next_id(), ..record(&backends, &attempts) };
            keep(if n % 3 == 0 { &mut one } else { &mut other }, n, &record);
            expected.insert(0, record.id.to_string());
        }
        let ids = |ask| -> Vec<_> {
            told(&[&one, &other], ask).1.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(ids(ALL), expected);
        assert_eq!(ids(Ask { id: None, each: 3 }), expected[..3]);
        assert_eq!(ids(Ask { id: Some(&expected[4]), each: 1 }), expected[4..5]);
        assert_eq!(ids(Ask { id: Some("0000000000000000"), each: 1 }), [""; 0]);
    }

    #[test]
    fn a_failure_outlives_a_storm_of_absorbed_ones_and_of_limits_in_the_memory_of_few() {
        let backends = names();
        let (absorbed, none) = (notes(&[(0, "throttled"), (1, "served")]), AttemptNotes::default());
        let here = AccessRecord { served_by: None, ended: Ended::AnsweredHere, ..record(&backends, &none) };
        let failed = AccessRecord { status: 502, error: Some("backend_failed"), ..here.clone() };
        let full = AccessRecord { status: 429, error: Some("429"), exhausted: true, ..here.clone() };
        let limited = AccessRecord { status: 429, error: Some("caller_limit"), ..here };
        let served = record(&backends, &absorbed);
        let mut troubles = Troubles::default();
        keep(&mut troubles, 0, &failed);
        let long = "\u{202e}".repeat(5_000);
        for n in 1..4_000 {
            let name = if n < 2_000 { &long[..] } else { "gpt-4o" };
            for record in [&served, &full, &limited] {
                keep(&mut troubles, n, &AccessRecord { deployment: Some(name), ..record.clone() });
            }
        }
        let (kept, requests) = told(&[&troubles], ALL);
        assert_eq!((kept, requests.len()), (1 + 3 * EACH, 1 + 3 * EACH));
        let last = requests.last().unwrap();
        assert_eq!((&last["status"], &last["error"]), (&502.into(), &"backend_failed".into()));
        for kept in troubles.rings.iter().flat_map(|ring| &ring.places) {
            assert!(kept.json.capacity() <= USUAL, "{}", kept.json.capacity());
        }
    }

    #[test]
    fn what_came_from_outside_is_escaped_and_cut() {
        let (backends, attempts) = (names(), notes(&[(0, "failed")]));
        let name = format!("\u{1b}[31m\"\u{202e}{}", "x".repeat(100_000));
        let failed = AccessRecord { status: 500, deployment: Some(&name), ..record(&backends, &attempts) };
        let mut troubles = Troubles::default();
        keep(&mut troubles, 0, &failed);
        let (_, requests) = told(&[&troubles], ALL);
        let told = requests[0]["deployment"].as_str().unwrap();
        assert!(told.starts_with("\\u{1b}[31m\"\\u{202e}xxx") && told.ends_with("x…"), "{told}");
        assert!(told.chars().count() < 230);
    }

    #[test]
    fn a_name_stays_what_it_was_when_a_reload_gives_its_number_to_another() {
        let attempts = notes(&[(0, "throttled"), (1, "served")]);
        let mut troubles = Troubles::default();
        keep(&mut troubles, 0, &record(&names(), &attempts));
        let after: [Arc<str>; 2] = ["north".into(), "south".into()];
        keep(&mut troubles, 1, &record(&after, &attempts));
        let (_, requests) = told(&[&troubles], ALL);
        let names = |n: usize| (&requests[n]["attempts"][0]["backend"], &requests[n]["backend"]);
        assert_eq!(names(0), (&"north".into(), &"south".into()));
        assert_eq!(names(1), (&"east".into(), &"west".into()));
    }
}
