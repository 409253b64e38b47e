//! One deployment's quota: tokens and requests in fixed windows. Pure: time is an argument.
//!
//! The rules are those that Microsoft publishes: the token window is charged on arrival with an estimate, and
//! refused requests still count as requests. Time is the time since the simulator began.

use std::time::Duration;

use super::settings::{Anchor, Occupation, QuotaSettings};

/// What one deployment has used.
#[derive(Clone, Debug)]
pub(super) struct Quota {
    tokens: Window,
    requests: Window,
    anchor: Anchor,
    oversized_wait: Duration,
}

/// A counter that starts again with every window.
#[derive(Clone, Debug)]
struct Window {
    limit: u64,
    length: Duration,
    start: Option<Duration>,
    used: u64,
}

/// What the quota says to one request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Decision {
    /// Served and charged.
    Admitted(Levels),
    /// 429.
    Rejected {
        /// Which limit was reached.
        limit: Limit,
        /// Until that window ends; a day for a request larger than the whole window.
        wait: Duration,
        /// What stands in the answer's headers.
        levels: Levels,
    },
}

/// Which limiter fired.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Limit {
    /// Tokens per window.
    Tokens,
    /// Calls per window.
    Requests,
}

/// What `x-ratelimit-*` tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Levels {
    /// Tokens per window.
    pub limit_tokens: u64,
    /// Tokens left in this window.
    pub remaining_tokens: u64,
    /// Until the token window ends.
    pub reset_tokens: Duration,
    /// Requests per window.
    pub limit_requests: u64,
    /// Requests left in this window.
    pub remaining_requests: u64,
    /// Until the request window ends.
    pub reset_requests: Duration,
}

impl Quota {
    /// An unused quota.
    pub(super) fn new(settings: &QuotaSettings) -> Self {
        Self {
            tokens: Window::new(settings.tokens_per_window(), settings.window),
            requests: Window::new(settings.requests_per_window(), settings.request_window),
            anchor: settings.anchor,
            oversized_wait: settings.oversized_wait,
        }
    }

    /// One request arrives, estimated at `charge` tokens, while `others` use the same deployment.
    pub(super) fn arrive(&mut self, now: Duration, charge: u64, others: &[Occupation]) -> Decision {
        self.tokens.roll(now, self.anchor, others);
        self.requests.roll(now, self.anchor, &[]);
        self.requests.used = self.requests.used.saturating_add(1);
        let foreign = others_use(others, self.tokens.start.unwrap_or(now), now, self.tokens.limit);
        let used = self.tokens.used.saturating_add(foreign);

        let refused = if charge > self.tokens.limit {
            Some((Limit::Tokens, self.oversized_wait))
        } else if used.saturating_add(charge) > self.tokens.limit {
            Some((Limit::Tokens, self.tokens.left(now)))
        } else if self.requests.used > self.requests.limit {
            Some((Limit::Requests, self.requests.left(now)))
        } else {
            self.tokens.used = self.tokens.used.saturating_add(charge);
            None
        };
        let levels = Levels {
            limit_tokens: self.tokens.limit,
            remaining_tokens: self.tokens.limit.saturating_sub(self.tokens.used.saturating_add(foreign)),
            reset_tokens: self.tokens.left(now),
            limit_requests: self.requests.limit,
            remaining_requests: self.requests.limit.saturating_sub(self.requests.used),
            reset_requests: self.requests.left(now),
        };
        match refused {
            None => Decision::Admitted(levels),
            Some((limit, wait)) => Decision::Rejected { limit, wait, levels },
        }
    }
}

impl Window {
    fn new(limit: u64, length: Duration) -> Self {
        Self { limit, length, start: None, used: 0 }
    }

    /// Begins a new window when the old one is over. Other users' calls begin windows too.
    fn roll(&mut self, now: Duration, anchor: Anchor, others: &[Occupation]) {
        let over = self.start.map(|start| start + self.length);
        if over.is_some_and(|end| now < end) {
            return;
        }
        let first_use = match anchor {
            Anchor::Start => Duration::ZERO,
            Anchor::FirstUse => others
                .iter()
                .filter_map(|other| other.first_use(over.unwrap_or_default(), now))
                .min()
                .unwrap_or(now),
        };
        let behind = (now - first_use).as_nanos() % self.length.as_nanos().max(1);
        self.start = Some(now - Duration::from_nanos(u64::try_from(behind).unwrap_or(0)));
        self.used = 0;
    }

    fn left(&self, now: Duration) -> Duration {
        (self.start.unwrap_or(now) + self.length).saturating_sub(now)
    }
}

/// Tokens that others used between two moments, at most `limit`.
fn others_use(others: &[Occupation], from: Duration, to: Duration, limit: u64) -> u64 {
    let mut used: u64 = 0;
    for other in others {
        let busy = other.busy(from, to);
        let share = match other.tokens_per_second {
            None if other.first_use(from, to).is_some() => limit,
            None => 0,
            Some(rate) => {
                let tokens = u128::from(rate).saturating_mul(busy.as_nanos()) / 1_000_000_000;
                u64::try_from(tokens).unwrap_or(u64::MAX)
            }
        };
        used = used.saturating_add(share).min(limit);
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn settings() -> QuotaSettings {
        QuotaSettings { tokens_per_minute: 30_000, window: 10 * SECOND, ..QuotaSettings::default() }
    }

    fn wait(decision: Decision) -> Option<(Limit, Duration)> {
        match decision {
            Decision::Admitted(_) => None,
            Decision::Rejected { limit, wait, .. } => Some((limit, wait)),
        }
    }

    #[test]
    fn thirty_thousand_a_minute_are_five_thousand_in_ten_seconds() {
        let mut quota = Quota::new(&settings());
        assert_eq!(wait(quota.arrive(SECOND, 5_000, &[])), None);
        assert_eq!(wait(quota.arrive(2 * SECOND, 1, &[])), Some((Limit::Tokens, 9 * SECOND)));
    }

    #[test]
    fn a_window_begins_with_its_first_use_and_is_empty_again_after_its_length() {
        let mut quota = Quota::new(&settings());
        assert_eq!(wait(quota.arrive(7 * SECOND, 5_000, &[])), None);
        assert_eq!(wait(quota.arrive(16 * SECOND, 1, &[])), Some((Limit::Tokens, SECOND)));
        assert_eq!(wait(quota.arrive(17 * SECOND, 5_000, &[])), None);
    }

    #[test]
    fn aligned_windows_end_at_multiples_of_their_length() {
        let mut quota = Quota::new(&QuotaSettings { anchor: Anchor::Start, ..settings() });
        assert_eq!(wait(quota.arrive(7 * SECOND, 5_000, &[])), None);
        assert_eq!(wait(quota.arrive(8 * SECOND, 1, &[])), Some((Limit::Tokens, 2 * SECOND)));
        assert_eq!(wait(quota.arrive(10 * SECOND, 1, &[])), None);
    }

    #[test]
    fn refused_requests_count_as_requests_but_charge_no_tokens() {
        let limits = QuotaSettings { requests_per_minute: Some(18), ..settings() };
        let mut quota = Quota::new(&limits);
        for _ in 0..3 {
            assert_eq!(wait(quota.arrive(SECOND, 1, &[])), None);
        }
        assert_eq!(wait(quota.arrive(3 * SECOND, 1, &[])), Some((Limit::Requests, 8 * SECOND)));
        let Decision::Rejected { levels, .. } = quota.arrive(3 * SECOND, 1, &[]) else { panic!("admitted") };
        assert_eq!((levels.remaining_requests, levels.remaining_tokens), (0, 4_997));
        assert_eq!(wait(quota.arrive(11 * SECOND, 1, &[])), None);
    }

    #[test]
    fn a_request_larger_than_the_window_is_told_to_wait_a_day() {
        let mut quota = Quota::new(&settings());
        assert_eq!(
            wait(quota.arrive(SECOND, 5_001, &[])),
            Some((Limit::Tokens, Duration::from_secs(86_400)))
        );
        assert_eq!(wait(quota.arrive(SECOND, 5_000, &[])), None);
    }

    #[test]
    fn somebody_else_uses_all_and_the_window_stays_full_to_its_end() {
        let mut quota = Quota::new(&QuotaSettings { anchor: Anchor::Start, ..settings() });
        let others = [Occupation { from: 3 * SECOND, lasts: 5 * SECOND, ..Occupation::default() }];
        assert_eq!(wait(quota.arrive(2 * SECOND, 1, &others)), None);
        assert_eq!(wait(quota.arrive(4 * SECOND, 1, &others)), Some((Limit::Tokens, 6 * SECOND)));
        assert_eq!(wait(quota.arrive(9 * SECOND, 1, &others)), Some((Limit::Tokens, SECOND)));
        assert_eq!(wait(quota.arrive(10 * SECOND, 1, &others)), None);
    }

    #[test]
    fn somebody_else_uses_a_part_second_by_second() {
        let mut quota = Quota::new(&QuotaSettings { anchor: Anchor::Start, ..settings() });
        let others =
            [Occupation { lasts: 4 * SECOND, tokens_per_second: Some(1_000), ..Occupation::default() }];
        assert_eq!(wait(quota.arrive(2 * SECOND, 3_000, &others)), None);
        assert!(wait(quota.arrive(2 * SECOND, 1, &others)).is_some());
        assert_eq!(wait(quota.arrive(15 * SECOND, 5_000, &others)), None);
    }

    #[test]
    fn other_users_begin_windows_when_nobody_else_does() {
        let mut quota = Quota::new(&settings());
        let others = [Occupation { from: 4 * SECOND, lasts: 60 * SECOND, ..Occupation::default() }];
        assert_eq!(wait(quota.arrive(20 * SECOND, 1, &others)), Some((Limit::Tokens, 4 * SECOND)));
    }
}
