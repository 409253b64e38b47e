//! Where objects live: known, hinted, absent, forgotten; of one caller only; bounded.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::start;
use crate::balance::{BackendId, PinSettings, Pins, Whereabouts};

const A: BackendId = BackendId(1);
const B: BackendId = BackendId(2);
const GONE: BackendId = BackendId(9);

fn pins(ids: usize) -> Pins {
    Pins::new(PinSettings { ids, home: 0 }, vec![A, B])
}

fn at(backend: BackendId, sure: bool) -> Whereabouts {
    Whereabouts::At { backend, sure }
}

/// Asks for some ids, one after the other in one text.
fn find(pins: &mut Pins, now: Instant, ids: &str, caller: Option<&str>) -> Whereabouts {
    let ids: Vec<String> = ids.split(' ').map(str::to_owned).collect();
    pins.find(now, &ids, caller)
}

#[test]
fn what_was_made_here_is_there_for_its_maker_and_nowhere_for_others() {
    let (mut pins, now) = (pins(100), start());
    pins.made("resp_1", A, Some("app"));
    pins.made("resp_2", B, None);
    assert_eq!(find(&mut pins, now, "resp_1", Some("app")), at(A, true));
    assert_eq!(find(&mut pins, now, "resp_2", None), at(B, true));
    for (id, other) in [("resp_1", Some("other")), ("resp_1", None), ("resp_2", Some("app"))] {
        assert_eq!(find(&mut pins, now, id, other), Whereabouts::Nowhere, "{id} {other:?}");
    }
    pins.seen("resp_2", A);
    pins.made("vs_1", B, Some("app"));
    // Beside one's own it is another's still.
    assert_eq!(find(&mut pins, now, "vs_1 resp_2", Some("app")), Whereabouts::Nowhere);
    assert_eq!(pins.counts().lookups, 0);
}

#[test]
fn a_hint_is_for_everyone_and_no_hint_takes_an_object_from_its_maker() {
    let (mut pins, now) = (pins(100), start());
    pins.seen("file-1", B);
    assert_eq!(find(&mut pins, now, "file-1", Some("app")), at(B, false));
    assert_eq!(find(&mut pins, now, "file-1", None), at(B, false));
    pins.made("file-1", A, Some("app"));
    pins.seen("file-1", B);
    assert_eq!(find(&mut pins, now, "file-1", Some("app")), at(A, true));
}

#[test]
fn of_several_ids_one_that_is_sure_decides_else_the_first_hint() {
    let (mut pins, now) = (pins(100), start());
    pins.made("vs_1", B, None);
    pins.seen("resp_1", A);
    pins.seen("resp_2", B);
    pins.nowhere(now, "file-1");
    assert_eq!(find(&mut pins, now, "x_1 resp_1 vs_1", None), at(B, true));
    assert_eq!(find(&mut pins, now, "x_1 resp_1 resp_2", None), at(A, false));
    assert_eq!(find(&mut pins, now, "file-1 vs_1", None), at(B, true));
    assert_eq!(find(&mut pins, now, "x_1 file-1", None), Whereabouts::Nowhere);
}

#[test]
fn what_is_surely_on_two_backends_is_apart() {
    let (mut pins, now) = (pins(100), start());
    pins.made("vs_1", B, None);
    pins.made("resp_1", A, None);
    pins.made("vs_2", B, Some("other"));
    assert_eq!(find(&mut pins, now, "resp_1 x_1 vs_1", None), Whereabouts::Apart);
    // Of what is another's nothing is told.
    assert_eq!(find(&mut pins, now, "resp_1 vs_1 vs_2", None), Whereabouts::Nowhere);
}

#[test]
fn what_was_nowhere_stays_so_for_a_minute() {
    let (mut pins, now) = (pins(100), start());
    assert_eq!(find(&mut pins, now, "resp_1", None), Whereabouts::Unknown);
    pins.nowhere(now, "resp_1");
    let later = now + Duration::from_secs(59);
    assert_eq!(find(&mut pins, later, "resp_1", None), Whereabouts::Nowhere);
    assert_eq!(find(&mut pins, later + Duration::from_secs(1), "resp_1", None), Whereabouts::Unknown);
    assert_eq!(pins.counts().lookups, 2);
    pins.seen("resp_1", A);
    assert_eq!(find(&mut pins, later, "resp_1", None), at(A, false));
    assert_eq!(pins.counts().absent, 0);
}

#[test]
fn a_deleted_object_is_forgotten() {
    let (mut pins, now) = (pins(100), start());
    pins.made("file-1", A, None);
    pins.nowhere(now, "file-1");
    assert_eq!(find(&mut pins, now, "file-1", None), Whereabouts::Nowhere);
    assert_eq!(pins.counts().ids, 0);
}

#[test]
fn only_the_backend_where_it_was_thought_to_be_can_say_that_it_is_gone_and_not_of_what_was_made_there() {
    let (mut pins, now) = (pins(100), start());
    pins.made("asst_1", A, None);
    pins.seen("file-1", A);
    for id in ["asst_1", "file-1", "vs_1"] {
        pins.gone(id, B);
    }
    assert_eq!(find(&mut pins, now, "asst_1", None), at(A, true));
    assert_eq!(find(&mut pins, now, "file-1", None), at(A, false));
    assert_eq!(find(&mut pins, now, "vs_1", None), Whereabouts::Unknown);
    for id in ["asst_1", "file-1"] {
        pins.gone(id, A);
    }
    assert_eq!(find(&mut pins, now, "asst_1", None), at(A, true), "it may not be readable yet");
    assert_eq!(find(&mut pins, now, "file-1", None), Whereabouts::Unknown, "it may be elsewhere");
}

#[test]
fn only_what_all_backends_lack_is_nowhere() {
    let pins = pins(100);
    assert!(pins.are_all(&[B, GONE, A]));
    assert!(!pins.are_all(&[B, GONE]));
    assert!(!pins.are_all(&[]));
}

#[test]
fn a_reload_forgets_what_was_on_removed_backends_and_nothing_else() {
    let (mut pins, now) = (pins(100), start());
    pins.made("file-1", A, None);
    pins.made("file-2", B, None);
    pins.nowhere(now, "file-3");
    assert_eq!(pins.home(), Some(A));
    pins.reconfigure(PinSettings { ids: 100, home: 1 }, vec![BackendId(3), B]);
    assert_eq!(pins.home(), Some(B));
    assert_eq!(find(&mut pins, now, "file-2", None), at(B, true));
    for id in ["file-1", "file-3"] {
        assert_eq!(find(&mut pins, now, id, None), Whereabouts::Unknown, "{id}");
    }
    // Told by an answer that was in flight.
    pins.made("file-1", A, None);
    pins.seen("file-4", GONE);
    assert_eq!(pins.counts().ids, 1);
}

#[test]
fn a_flood_of_ids_keeps_within_the_bound_and_what_is_used_stays() {
    let (mut pins, now) = (pins(1_000), start());
    pins.made("resp_used", B, None);
    for number in 0..20_000 {
        pins.made(&format!("resp_{number}"), A, None);
        assert!(pins.counts().ids <= 1_000);
        if number % 400 == 0 {
            assert_eq!(find(&mut pins, now, "resp_used", None), at(B, true), "{number}");
        }
    }
    assert_eq!(find(&mut pins, now, "resp_19999", None), at(A, true));
    assert_eq!(find(&mut pins, now, "resp_1", None), Whereabouts::Unknown);
    for number in 0..20_000 {
        pins.nowhere(now, &format!("guess_{number}"));
        assert!(pins.counts().absent <= 1_000);
    }
    assert_eq!(find(&mut pins, now, "resp_used", None), at(B, true), "guesses push out guesses only");
}

proptest! {
    /// Against a list that forgets nothing, within the bound.
    #[test]
    fn as_long_as_all_fits_nothing_is_lost(steps in proptest::collection::vec((0_u8..4, 0_u8..20, any::<bool>()), 0..200)) {
        let (mut pins, now) = (pins(40), start());
        let mut model = std::collections::HashMap::new();
        let mut deleted = std::collections::HashSet::new();
        for (what, id, backend) in steps {
            let (id, backend) = (format!("file-{id}"), if backend { A } else { B });
            match what {
                0 => {
                    deleted.remove(&id);
                    pins.made(&id, backend, None);
                    model.insert(id, (backend, true));
                }
                1 => {
                    deleted.remove(&id);
                    pins.seen(&id, backend);
                    let known = model.entry(id).or_insert((backend, false));
                    if !known.1 {
                        known.0 = backend;
                    }
                }
                2 => {
                    pins.gone(&id, A);
                    pins.gone(&id, B);
                    if model.get(&id).is_some_and(|(_, sure)| !sure) {
                        model.remove(&id);
                    }
                }
                _ => {
                    pins.nowhere(now, &id);
                    model.remove(&id);
                    deleted.insert(id);
                }
            }
            for number in 0..20 {
                let id = format!("file-{number}");
                let lost = if deleted.contains(&id) { Whereabouts::Nowhere } else { Whereabouts::Unknown };
                let expected = model.get(&id).map_or(lost, |(backend, sure)| at(*backend, *sure));
                prop_assert_eq!(find(&mut pins, now, &id, None), expected);
            }
        }
    }
}
