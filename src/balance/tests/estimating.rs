//! What is believed to be left of a lane's minute.

use std::time::Instant;

use proptest::prelude::{ProptestConfig, Strategy, any, prop_assert, prop_oneof, proptest};

use super::{Duration, millis, seconds, start};
use crate::balance::Quota;
use crate::balance::estimator::{Estimator, Room, Sent, tokens};

/// An estimator and a clock.
#[derive(Debug)]
struct Lane {
    estimator: Estimator,
    now: Instant,
}

fn quota(limit: i64, remaining: i64) -> Quota {
    let told = |tokens: i64| u64::try_from(tokens).ok();
    Quota { limit_tokens: told(limit).filter(|limit| *limit > 0), remaining_tokens: told(remaining) }
}

impl Lane {
    fn new() -> Self {
        Self { estimator: Estimator::default(), now: start() }
    }

    fn sent(&mut self, charge: u64) -> Sent {
        self.estimator.sent(self.now, tokens(charge))
    }

    /// A request whose answer comes after `millis` and tells this.
    fn told(&mut self, charge: u64, after: u64, limit: i64, remaining: i64) {
        let sent = self.sent(charge);
        self.now += millis(after);
        self.estimator.answered(self.now, &sent, quota(limit, remaining));
    }

    fn left(&self) -> Option<u64> {
        self.estimator.quota(self.now).remaining_tokens
    }

    fn until(&self, charge: u64) -> Room {
        self.estimator.room(self.now, tokens(charge))
    }
}

#[test]
fn nothing_is_believed_before_anything_was_told() {
    let mut lane = Lane::new();
    lane.sent(5_000);
    assert_eq!((lane.left(), lane.until(1_000_000)), (None, Room::Fits));
    lane.told(1_000, 100, 30_000, -1);
    assert_eq!((lane.left(), lane.until(1_000_000)), (None, Room::Fits), "-1 is not known");
    assert_eq!(lane.estimator.quota(lane.now).limit_tokens, Some(30_000));
}

#[test]
fn what_we_sent_since_the_reading_is_taken_off() {
    let mut lane = Lane::new();
    lane.told(1_000, 100, 30_000, 29_000);
    assert_eq!(lane.left(), Some(29_000));
    let sent = lane.sent(4_000);
    lane.sent(5_000);
    assert_eq!(lane.left(), Some(20_000));
    lane.now += millis(300);
    lane.estimator.answered(lane.now, &sent, quota(30_000, 24_500));
    assert_eq!(lane.left(), Some(19_500), "the second is not in that reading");
}

#[test]
fn what_was_refused_or_failed_is_given_back() {
    let mut lane = Lane::new();
    lane.told(1_000, 100, 30_000, 29_000);
    let failed = lane.sent(4_000);
    let well = lane.sent(5_000);
    lane.estimator.refund(&failed);
    assert_eq!(lane.left(), Some(24_000));
    lane.estimator.answered(lane.now, &well, quota(30_000, 24_000));
    assert_eq!(lane.left(), Some(24_000));
}

#[test]
fn an_older_reading_that_comes_late_changes_nothing() {
    let mut lane = Lane::new();
    let slow = lane.sent(1_000);
    lane.now += millis(10);
    let quick = lane.sent(1_000);
    lane.estimator.answered(lane.now, &quick, quota(30_000, 28_000));
    lane.estimator.answered(lane.now, &slow, quota(30_000, 29_000));
    assert_eq!(lane.left(), Some(28_000));
}

#[test]
fn a_reading_of_a_minute_ago_says_that_all_is_there_again() {
    let mut lane = Lane::new();
    lane.told(1_000, 0, 30_000, 2_000);
    let read = lane.now;
    assert_eq!(lane.until(5_000), Room::Later { until: read + seconds(60), guessed: true });
    lane.now += seconds(60);
    assert_eq!((lane.left(), lane.until(30_000)), (Some(30_000), Room::Fits));
    lane.sent(4_000);
    assert_eq!(lane.left(), Some(26_000));
}

#[test]
fn a_rise_tells_when_the_minute_began_again() {
    let mut lane = Lane::new();
    lane.told(1_000, 0, 30_000, 2_000);
    lane.now += seconds(20);
    lane.told(1_000, 0, 30_000, 29_000);
    let restart = lane.now + seconds(60);
    lane.now += seconds(50);
    lane.told(1_000, 0, 30_000, 3_000);
    assert_eq!(lane.until(5_000), Room::Later { until: restart, guessed: false });
    lane.now = restart;
    assert_eq!(lane.left(), Some(30_000));
    lane.now += seconds(150);
    assert_eq!(lane.estimator.restart(lane.now), Some(restart + seconds(180)), "minute by minute");
}

#[test]
fn a_429_of_tokens_tells_when_the_minute_begins_again_and_one_of_requests_does_not() {
    let mut lane = Lane::new();
    lane.told(1_000, 0, 30_000, 20_000);
    let sent = lane.sent(4_000);
    lane.estimator.throttled(lane.now, &sent, quota(30_000, 20_000), seconds(4), true);
    assert_eq!((lane.left(), lane.estimator.restart(lane.now)), (Some(20_000), None));
    let sent = lane.sent(4_000);
    lane.estimator.throttled(lane.now, &sent, quota(30_000, 300), seconds(24), true);
    assert_eq!(lane.left(), Some(300));
    assert_eq!(lane.estimator.restart(lane.now), Some(lane.now + seconds(24)));
    // Now that it is known, a short wait without a reading is the other limit's.
    let sent = lane.sent(4_000);
    lane.estimator.throttled(lane.now, &sent, Quota::default(), seconds(2), true);
    assert_eq!(lane.estimator.restart(lane.now), Some(lane.now + seconds(24)));
}

#[test]
fn a_429_without_a_reading_leaves_less_than_the_request_needs() {
    let mut lane = Lane::new();
    lane.told(1_000, 0, 30_000, 20_000);
    let (one, _two) = (lane.sent(4_000), lane.sent(1_000));
    lane.estimator.throttled(lane.now, &one, Quota::default(), seconds(30), true);
    assert_eq!(lane.left(), Some(3_999));
    assert!(matches!(lane.until(4_000), Room::Later { .. }));
}

#[test]
fn our_own_default_wait_says_nothing_of_the_minute() {
    let mut lane = Lane::new();
    lane.told(1_000, 0, 30_000, 2_000);
    let sent = lane.sent(4_000);
    lane.estimator.throttled(lane.now, &sent, Quota::default(), seconds(10), false);
    assert_eq!(lane.estimator.restart(lane.now), None);
}

#[test]
fn a_request_larger_than_the_limit_never_fits_and_takes_nothing_from_the_others() {
    let mut lane = Lane::new();
    lane.told(1_000, 0, 30_000, 29_000);
    assert_eq!(lane.until(30_001), Room::Never);
    lane.sent(1_000_000);
    assert_eq!(lane.left(), Some(29_000));
}

#[test]
fn two_rises_within_a_minute_are_a_trickle_and_a_quick_rise_is_a_step() {
    let mut lane = Lane::new();
    // 60,000 a minute: 1,000 a second.
    lane.told(1_000, 0, 60_000, 5_000);
    for remaining in [12_000, 19_000] {
        lane.now += seconds(8);
        lane.told(1_000, 0, 60_000, remaining);
    }
    lane.now += seconds(10);
    assert_eq!(lane.left(), Some(29_000), "it trickles");
    assert_eq!(lane.until(34_000), Room::Later { until: lane.now + seconds(5), guessed: false });
    lane.now += seconds(100);
    assert_eq!(lane.left(), Some(60_000), "never more than the limit");
    lane.told(1_000, 0, 60_000, 3_000);
    lane.now += seconds(61);
    lane.told(1_000, 0, 60_000, 10_000);
    lane.now += seconds(61);
    lane.told(1_000, 0, 60_000, 2_000);
    lane.now += seconds(5);
    lane.told(1_000, 0, 60_000, 59_000);
    lane.now += seconds(10);
    assert_eq!(lane.left(), Some(59_000), "it steps");
}

#[test]
fn what_slides_back_quickly_but_not_all_at_once_is_no_step() {
    let mut lane = Lane::new();
    for remaining in [5_000, 12_000, 19_000, 3_000] {
        lane.told(1_000, 0, 60_000, remaining);
        lane.now += seconds(8);
    }
    lane.now += seconds(61);
    lane.told(1_000, 0, 60_000, 2_000);
    lane.now += seconds(5);
    lane.told(1_000, 0, 60_000, 44_000);
    assert_eq!(lane.estimator.restart(lane.now), None, "a burst of a minute ago came back");
    lane.now += seconds(10);
    assert_eq!(lane.left(), Some(54_000));
}

#[test]
fn readings_of_requests_that_overlapped_teach_nothing_of_the_refill() {
    let mut lane = Lane::new();
    lane.told(1_000, 0, 60_000, 50_000);
    for _ in 0..5 {
        lane.now += seconds(1);
        let (one, two) = (lane.sent(9_000), lane.sent(9_000));
        lane.now += millis(100);
        // Azure saw them the other way round.
        lane.estimator.answered(lane.now, &one, quota(60_000, 20_000));
        lane.estimator.answered(lane.now, &two, quota(60_000, 29_000));
        lane.now += seconds(1);
        lane.told(1_000, 0, 60_000, 19_000);
    }
    let left = lane.left();
    lane.now += seconds(10);
    assert_eq!(lane.left(), left, "still taken for stepping");
}

#[test]
fn a_changed_limit_is_believed_at_once_and_moves_what_is_left() {
    let mut lane = Lane::new();
    let slow = lane.sent(1_000);
    lane.now += millis(10);
    lane.told(1_000, 0, 30_000, 20_000);
    // An older reading: only the limit is news.
    lane.estimator.answered(lane.now, &slow, quota(10_000, 9_000));
    assert_eq!(lane.estimator.quota(lane.now), quota(10_000, 0));
    lane.told(1_000, 0, 50_000, 39_000);
    assert_eq!(lane.estimator.quota(lane.now), quota(50_000, 39_000));
}

#[test]
fn where_no_header_tells_the_limit_it_is_the_most_that_was_seen_of_late() {
    let mut lane = Lane::new();
    lane.told(2_000, 0, 0, 28_000);
    assert_eq!(lane.estimator.quota(lane.now), quota(30_000, 28_000));
    for _ in 0..5 {
        lane.now += seconds(61);
        lane.told(2_000, 0, 0, 8_000);
    }
    assert_eq!(lane.estimator.quota(lane.now), quota(10_000, 8_000), "it shrank");
    lane.told(2_000, 0, 0, 38_000);
    assert_eq!(lane.estimator.quota(lane.now), quota(40_000, 38_000));
}

#[test]
fn what_is_not_told_any_more_is_not_believed_for_long() {
    let mut lane = Lane::new();
    lane.told(1_000, 0, 30_000, 2_000);
    lane.told(1_000, 0, 30_000, -1);
    assert_eq!(lane.left(), Some(1_000), "the reading is fresh");
    lane.now += seconds(61);
    let sent = lane.sent(1_000);
    assert_eq!(lane.left(), Some(29_000));
    lane.now += seconds(61);
    lane.estimator.answered(lane.now, &sent, quota(30_000, -1));
    assert_eq!(lane.left(), None);
}

#[test]
fn charges_that_no_answer_confirms_are_made_up_for_by_what_trickles_in() {
    let mut lane = Lane::new();
    for left in [10_000, 20_000, 30_000, 40_000] {
        lane.told(0, 0, 60_000, left);
        lane.now += seconds(10);
    }
    assert!(lane.estimator.restart(lane.now).is_none(), "it is known to trickle");
    lane.now += seconds(60);
    for _ in 0..10 {
        // Their callers leave, or they are answered 400.
        lane.sent(6_000);
    }
    assert!(matches!(lane.until(6_000), Room::Later { .. }));
    lane.now += seconds(61);
    assert_eq!(lane.until(60_000), Room::Fits);
}

#[test]
fn our_own_charges_alone_keep_nobody_out_however_steady_the_traffic() {
    let mut lane = Lane::new();
    let refused = lane.sent(1_000);
    lane.estimator.throttled(lane.now, &refused, quota(30_000, 0), seconds(5), true);
    for second in 0..300 {
        lane.now += seconds(1);
        lane.told(5_000, 0, 30_000, -1);
        if second >= 65 {
            assert_eq!((lane.left(), lane.until(30_000)), (None, Room::Fits), "after {second} s");
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Pass(u64),
    Send(u64),
    Answer { which: usize, limit: i64, remaining: i64 },
    Throttle { which: usize, remaining: i64, wait: u64 },
    Fail { which: usize },
}

fn event() -> impl Strategy<Value = Event> {
    let told = || prop_oneof![-1_i64..2, 0_i64..100_000, any::<i64>()];
    prop_oneof![
        (0_u64..90_000).prop_map(Event::Pass),
        prop_oneof![0_u64..9_000, any::<u64>()].prop_map(Event::Send),
        (any::<usize>(), told(), told()).prop_map(|(which, limit, remaining)| Event::Answer {
            which,
            limit,
            remaining
        }),
        (any::<usize>(), told(), 0_u64..100_000).prop_map(|(which, remaining, wait)| Event::Throttle {
            which,
            remaining,
            wait
        }),
        any::<usize>().prop_map(|which| Event::Fail { which }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is told: between nothing and the limit, and what does not fit now does within a minute, or never.
    #[test]
    fn estimates_are_bounded(events in proptest::collection::vec(event(), 0..120), charge in 0_u64..200_000) {
        let mut lane = Lane::new();
        let mut sent = Vec::new();
        for event in events {
            let take = |which: usize, sent: &mut Vec<Sent>| {
                (!sent.is_empty()).then(|| sent.swap_remove(which % sent.len()))
            };
            match event {
                Event::Pass(time) => lane.now += millis(time),
                // As the pool does: only what fits, or cannot be right, is sent.
                Event::Send(charge) if matches!(lane.until(charge), Room::Later { .. }) => {}
                Event::Send(charge) => sent.push(lane.sent(charge)),
                Event::Answer { which, limit, remaining } => {
                    if let Some(sent) = take(which, &mut sent) {
                        lane.estimator.answered(lane.now, &sent, quota(limit, remaining));
                    }
                }
                Event::Throttle { which, remaining, wait } => {
                    if let Some(sent) = take(which, &mut sent) {
                        let wait = Duration::from_millis(wait);
                        lane.estimator.throttled(lane.now, &sent, quota(0, remaining), wait, true);
                    }
                }
                Event::Fail { which } => {
                    if let Some(sent) = take(which, &mut sent) {
                        lane.estimator.refund(&sent);
                    }
                }
            }
            if let (Some(left), Some(limit)) = (lane.estimator.remaining(lane.now), lane.estimator.limit()) {
                prop_assert!(left >= 0.0 && left <= limit, "{left} of {limit}");
            }
            match lane.until(charge) {
                Room::Later { until, .. } => {
                    prop_assert!(until > lane.now && until <= lane.now + seconds(60));
                }
                Room::Never => prop_assert!(lane.estimator.limit().is_some_and(|limit| tokens(charge) > limit)),
                Room::Fits => {}
            }
        }
        lane.now += seconds(121);
        prop_assert!(!matches!(lane.until(charge), Room::Later { .. }), "idle for two minutes, and still {lane:?}");
    }
}
