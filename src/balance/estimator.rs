//! How many tokens of its minute a lane has left: what its answers told, less what we have sent since.
//!
//! | name | unit | meaning | written by |
//! |---|---|---|---|
//! | `limit` | tokens a minute | the quota, as a header told it | reading |
//! | `highest` | tokens a minute | the quota where no header tells it: the most that was seen | reading |
//! | `base` | tokens | what was left at `read` | reading, restart, 429 |
//! | `read` | instant | when that was so; `None`: nothing is known | reading, restart |
//! | `filled` | instant | `base` has in it what trickled in until then | sent, reading |
//! | `told` | instant | when a header last told it | reading |
//! | `charged` | tokens | all that we ever sent there | sent |
//! | `counted` | tokens | the part of `charged` that `base` has in it | reading, restart, refund |
//! | `restart` | instant | when the minute begins again; `None`: not known | reading, 429 |
//! | `refill` | | all at once, or little by little | reading |
//! | `seen` | | the reading that the next one is compared with | reading |
//! | `risen` | instant | the earliest moment at which the last rise can have happened | reading |
//!
//! ```text
//! remaining  unknown                                         while nothing was read
//!            base − (charged − counted)                      stepping
//!            the same + limit · (now − filled) / 60 s ≤ limit  trickling
//! sent       trickling: base = remaining, counted = charged, filled = now, so that charges which no answer ever
//!            confirms are made up for by what comes in
//!            charged += charge; a charge beyond the limit cannot be right, and counts nothing
//! refund     counted += charge                               refused or failed: Azure did not count it
//! restart    stepping, and `restart` (else `read` + 60 s) is past: base = limit, counted = charged
//! reading r of a request sent since `read`:
//!            r above base, and above what was expected by 0.3 · limit: restart = sent + 60 s
//!            base = r, counted = charged when it was sent, read = when it was sent
//! forget     a good answer without r, a minute after `told`: nothing is known
//! rise       r above `seen`, of a request sent since `seen` came:
//!            the second within a minute                      trickling: a step comes once a minute
//!            faster than limit / 60 s, beyond 0.75 · limit   stepping: a trickle cannot do that, and what slides comes
//!                                                            back as it was taken, never all at once
//! 429        of tokens (r < charge; or r not told, and a wait beyond 10 s or no restart known):
//!            restart = now + wait, base < charge
//! ```
//!
//! Worth (`cargo bench --bench goodput -- --rows mechanisms`, without it → with it; f: callers failing in %, w: 429s per
//! 1,000 requests, p: p99 lost in failed attempts in ms):
//!
//! | without | rows that change | test |
//! |---|---|---|
//! | all of it | N=8 110 %: w 39 → 16, p 46 → 0; 3x30k 110 %: f 14.0 → 10.3, w 162 → 37; sliding is a little better without: f 1.9/7.3 → 2.5/7.6 | |
//! | the fit check | the same: where all requests have a conversation nothing else asks what remains | `a_request_goes_where_it_fits` |
//! | own charges | N=8 110 %: w 35 → 16, p 32 → 0; 3x30k 110 %: f 12.5 → 10.3 | `what_we_sent_since_the_reading…` |
//! | rises that tell `restart` | no timing 90 %: w 22 → 4, cached 70 → 76 %; 3x30k 110 %: f 11.1 → 10.3 | `a_rise_tells_when…` |
//! | 429s that tell it | 8 replicas 110 %: f 4.9 → 3.8; a little better without where quotas slide | `a_429_of_tokens_tells…` |
//! | stepping | 3x30k 110 %: f 12.7 → 10.3, w 139 → 37; sliding 110 % is better without: f 6.6 → 7.6 | `two_rises_within_a_minute…` |
//! | trickling | sliding 90/110 %: f 6.3/17.0 → 2.5/7.6 | the same |
//! | the 0.75 of stepping | sliding 110 %: f 9.6 → 7.6 | `what_slides_back_quickly…` |
//! | `highest` | no limit 90 %: w 22 → 4 | `where_no_header_tells_the_limit…` |
//! | older readings ignored | 0.3 per 1k 90 %: f 3.7 → 1.9; 3x30k 110 %: f 11.6 → 10.3; sliding 110 %: f 8.3 → 7.6 | `an_older_reading…` |
//!
//! No row shows what a 429 or a changed limit does to `base`, a refund, or the charge that counts nothing: they keep what
//! operators see true.

use std::time::{Duration, Instant};

use super::cooldown::SHORTEST;
use super::lane::Quota;

/// Azure counts tokens by the minute.
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// More than was expected by this share of the limit: no error of our estimates explains that, the minute began again.
const JUMP: f64 = 0.3;

/// A smaller rise, as a share of the limit, is a correction at the other side and teaches nothing.
const RISE: f64 = 0.05;

/// A rise to more than this share of the limit: the whole minute's quota came back, and not what was taken in some
/// seconds a minute ago.
const FULL: f64 = 0.75;

/// Requests are limited by the second or by ten: a longer wait speaks of tokens.
const REQUEST_WINDOW: Duration = Duration::from_secs(10);

/// Where no header tells the limit, the most that was seen is forgotten after this, or twice this, time: quotas shrink.
const MEMORY: Duration = Duration::from_secs(120);

/// How quota comes back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Refill {
    /// All at once, when the minute begins again.
    Stepping,
    /// Evenly.
    Trickling,
}

/// One request, as the estimator remembers it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) at: Instant,
    pub(super) charge: f64,
    /// `charged`, this request included.
    mark: f64,
}

/// Whether a request fits into what is left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Room {
    /// Yes, or nothing is known.
    Fits,
    /// Not before then.
    Later {
        /// When it will.
        until: Instant,
        /// `until` is the latest moment, for the minute's beginning is not known: a 429 would teach it.
        guessed: bool,
    },
    /// It is larger than the whole quota, if our estimate is right.
    Never,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    remaining: f64,
    sent: Instant,
    came: Instant,
}

/// The most that was seen in the last two to four minutes.
#[derive(Clone, Copy, Debug, Default)]
struct Highest {
    now: f64,
    before: f64,
    since: Option<Instant>,
}

impl Highest {
    fn see(&mut self, now: Instant, tokens: f64) {
        if self.since.is_none_or(|since| since + MEMORY <= now) {
            (self.before, self.now, self.since) = (self.now, 0.0, Some(now));
        }
        self.now = self.now.max(tokens);
    }

    fn get(&self) -> Option<f64> {
        let highest = self.now.max(self.before);
        (highest > 0.0).then_some(highest)
    }
}

/// The head of this file says it all.
#[derive(Debug)]
pub(super) struct Estimator {
    limit: Option<f64>,
    highest: Highest,
    base: f64,
    read: Option<Instant>,
    filled: Option<Instant>,
    told: Option<Instant>,
    charged: f64,
    counted: f64,
    restart: Option<Instant>,
    refill: Refill,
    seen: Option<Seen>,
    risen: Option<Instant>,
}

impl Default for Estimator {
    fn default() -> Self {
        Self {
            limit: None,
            highest: Highest::default(),
            base: 0.0,
            read: None,
            filled: None,
            told: None,
            charged: 0.0,
            counted: 0.0,
            restart: None,
            refill: Refill::Stepping,
            seen: None,
            risen: None,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "tokens are far below 2^52")]
pub(super) fn tokens(count: u64) -> f64 {
    count as f64
}

impl Estimator {
    /// The quota in tokens a minute, as far as it is known.
    pub(super) fn limit(&self) -> Option<f64> {
        self.limit.or_else(|| self.highest.get())
    }

    /// What is left now, in tokens; `None` while nothing is known.
    pub(super) fn remaining(&self, now: Instant) -> Option<f64> {
        let read = self.read?;
        let limit = self.limit()?;
        if self.refill == Refill::Stepping {
            let left =
                if self.restarted(now) { limit } else { self.base - (self.charged - self.counted).max(0.0) };
            return Some(left.clamp(0.0, limit));
        }
        let since = self.filled.unwrap_or(read);
        let trickled = limit * now.saturating_duration_since(since).as_secs_f64() / MINUTE.as_secs_f64();
        let left = self.base - (self.charged - self.counted).max(0.0) + trickled;
        Some(left.clamp(0.0, limit))
    }

    /// When the minute begins again, if that is known.
    pub(super) fn restart(&self, now: Instant) -> Option<Instant> {
        if self.refill == Refill::Trickling || self.read.is_none() {
            return None;
        }
        self.restart.map(|restart| after(restart, now))
    }

    /// Whether a request of so many tokens fits now.
    pub(super) fn room(&self, now: Instant, charge: f64) -> Room {
        let (Some(read), Some(limit), Some(remaining)) = (self.read, self.limit(), self.remaining(now))
        else {
            return Room::Fits;
        };
        if charge <= remaining {
            return Room::Fits;
        }
        if charge > limit {
            return Room::Never;
        }
        if self.refill == Refill::Trickling {
            let wait = MINUTE.mul_f64(((charge - remaining) / limit).min(1.0)).max(SHORTEST);
            return Room::Later { until: now + wait, guessed: false };
        }
        match self.restart(now) {
            Some(until) => Room::Later { until, guessed: false },
            None => Room::Later { until: read + MINUTE, guessed: true },
        }
    }

    /// Whether it is known, and not only assumed, that a request of so many tokens fits now.
    pub(super) fn has_room(&self, now: Instant, charge: f64) -> bool {
        self.remaining(now).is_some_and(|remaining| charge <= remaining)
    }

    /// What operators see.
    pub(super) fn quota(&self, now: Instant) -> Quota {
        let count = |tokens: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "saturates, and is never negative"
            )]
            let count = tokens as u64;
            count
        };
        Quota { limit_tokens: self.limit().map(count), remaining_tokens: self.remaining(now).map(count) }
    }

    /// A request goes there.
    pub(super) fn sent(&mut self, now: Instant, charge: f64) -> Sent {
        self.begin_again(now);
        if self.refill == Refill::Trickling
            && let Some(remaining) = self.remaining(now)
        {
            (self.base, self.counted, self.filled) = (remaining, self.charged, Some(now));
        }
        // A file of megabytes, say: no quota was ever charged for it, or it would not be served.
        let charge = if self.limit().is_some_and(|limit| charge > limit) { 0.0 } else { charge };
        self.charged += charge;
        Sent { at: now, charge, mark: self.charged }
    }

    /// It failed, or never arrived: Azure has not charged it.
    pub(super) fn refund(&mut self, sent: &Sent) {
        if sent.mark > self.counted {
            self.counted = (self.counted + sent.charge).min(self.charged);
        }
    }

    /// A good answer came.
    pub(super) fn answered(&mut self, now: Instant, sent: &Sent, quota: Quota) {
        self.learn_limit(quota.limit_tokens);
        match quota.remaining_tokens.map(tokens) {
            Some(remaining) => self.reading(now, sent, remaining, sent.charge),
            // It is not told any more. Our own charges alone are a guess that nothing corrects: they keep nobody out.
            None if self.told.is_some_and(|told| told + MINUTE <= now) => self.forget(),
            None => {}
        }
    }

    /// A 429 came that asked for `wait`; `told` is false where that is our own default.
    pub(super) fn throttled(&mut self, now: Instant, sent: &Sent, quota: Quota, wait: Duration, told: bool) {
        self.refund(sent);
        let remaining = quota.remaining_tokens.map(tokens);
        if let Some(remaining) = remaining {
            self.reading(now, sent, remaining, 0.0);
        }
        let of_tokens = match remaining {
            Some(remaining) => remaining < sent.charge,
            None => wait > REQUEST_WINDOW || self.restart.is_none(),
        };
        if !of_tokens {
            return;
        }
        if told {
            self.restart = Some(now + wait.min(MINUTE));
        }
        if sent.charge > 0.0 {
            let outstanding = (self.charged - self.counted).max(0.0);
            self.base = self.base.min(sent.charge + outstanding - 1.0).max(0.0);
        }
    }

    /// Any answer told a limit, or none.
    pub(super) fn learn_limit(&mut self, told: Option<u64>) {
        let Some(told) = told.map(tokens) else { return };
        if let Some(known) = self.limit {
            // The quota was changed: what is left moves with it.
            self.base += told - known;
            if let Some(seen) = &mut self.seen {
                seen.remaining += told - known;
            }
        }
        self.limit = Some(told);
    }

    fn reading(&mut self, now: Instant, sent: &Sent, remaining: f64, charge: f64) {
        self.told = Some(now);
        self.begin_again(now);
        if self.read.is_some_and(|read| sent.at < read) {
            return;
        }
        self.highest.see(now, remaining + charge);
        let limit = self.limit().unwrap_or(remaining);
        self.learn_refill(now, sent, remaining, limit);
        if self.read.is_some() {
            // Above `base` as well: estimates may be too large, and then less is gone than was expected.
            let expected = self.base - (sent.mark - self.counted);
            if sent.mark >= self.counted && remaining > self.base && remaining > expected + JUMP * limit {
                self.restart = Some(sent.at + MINUTE);
            }
        }
        self.base = remaining;
        self.counted = sent.mark.min(self.charged);
        (self.read, self.filled) = (Some(sent.at), Some(sent.at));
    }

    /// Two readings tell something of the refill only where the second request was sent when the first had answered:
    /// otherwise Azure may have seen them the other way round.
    fn learn_refill(&mut self, now: Instant, sent: &Sent, remaining: f64, limit: f64) {
        let next = Some(Seen { remaining, sent: sent.at, came: now });
        let Some(seen) = self.seen else {
            self.seen = next;
            return;
        };
        if sent.at < seen.came {
            return;
        }
        self.seen = next;
        let rise = remaining - seen.remaining;
        if rise < RISE * limit {
            return;
        }
        let at_most = now.saturating_duration_since(seen.sent).as_secs_f64();
        if self.risen.is_some_and(|risen| now < risen + MINUTE) {
            self.refill = Refill::Trickling;
        } else if rise > limit * at_most / MINUTE.as_secs_f64() && remaining > FULL * limit {
            self.refill = Refill::Stepping;
        }
        self.risen = Some(seen.sent);
    }

    fn restarted(&self, now: Instant) -> bool {
        let due = self.restart.or_else(|| self.read.map(|read| read + MINUTE));
        due.is_some_and(|due| due <= now)
    }

    /// Makes a restart that is past part of the state.
    fn begin_again(&mut self, now: Instant) {
        if self.refill == Refill::Trickling || self.read.is_none() || !self.restarted(now) {
            return;
        }
        self.base = self.limit().unwrap_or(self.base);
        self.counted = self.charged;
        self.read = Some(now);
        self.restart = self.restart.map(|restart| after(restart, now));
    }

    fn forget(&mut self) {
        (self.read, self.told, self.restart, self.seen, self.risen) = (None, None, None, None, None);
    }
}

/// The first of the moments a minute apart that is after `now`.
fn after(restart: Instant, now: Instant) -> Instant {
    if now < restart {
        return restart;
    }
    let minutes = (now - restart).as_secs() / MINUTE.as_secs() + 1;
    restart + Duration::from_secs(minutes * MINUTE.as_secs())
}
