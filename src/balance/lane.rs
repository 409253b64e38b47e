//! One deployment on one backend, by its name there: what keeps requests away from it, and what it has done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName};

use super::backend::BackendId;
use super::cooldown::{self, Away, Told};
use super::estimator::Estimator;
use super::health::Health;
use super::reason::Reason;
use super::recent::Recent;
use super::size::SizeMarks;
use super::speed::Speed;

/// How long a deployment is believed not to exist; Azure says new ones appear within five minutes.
pub(super) const ABSENT: Duration = Duration::from_secs(300);

static LIMIT_TOKENS: HeaderName = HeaderName::from_static("x-ratelimit-limit-tokens");
static REMAINING_TOKENS: HeaderName = HeaderName::from_static("x-ratelimit-remaining-tokens");

/// What was done; of a lane since it is remembered, of a backend since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// Picks.
    pub requests: u64,
    /// Good answers that ended well.
    pub served: u64,
    /// 429s.
    pub throttled: u64,
    /// Of them, those whose request another attempt answered well; of a backend 0, its lanes tell.
    pub absorbed: u64,
    /// 5xx, broken and missing answers, streams that broke off.
    pub failed: u64,
    /// Tokens of good answers, as the edge read or estimated them.
    pub tokens: u64,
    /// Picks not yet reported or abandoned.
    pub in_flight: u64,
}

impl Tally {
    pub(super) fn picked(&mut self) {
        self.requests += 1;
        self.in_flight += 1;
    }
}

/// The tokens-a-minute quota: as an answer told it, or as it is believed to stand now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Quota {
    /// `x-ratelimit-limit-tokens`, in tokens a minute.
    pub limit_tokens: Option<u64>,
    /// `x-ratelimit-remaining-tokens`; −1 is "unknown" and read as `None`.
    pub remaining_tokens: Option<u64>,
}

impl Quota {
    /// What `headers` tell.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Self {
        let number = |name| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
        Self {
            limit_tokens: number(&LIMIT_TOKENS).filter(|limit| *limit > 0),
            remaining_tokens: number(&REMAINING_TOKENS),
        }
    }
}

/// A running cooldown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cooldown {
    pub(super) until: Instant,
    pub(super) reason: Reason,
}

/// What a 429 did to the lane.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Throttling {
    /// It cools from now on.
    Began(Duration),
    /// It was cooling already.
    Goes,
    /// Requests of this size stay away.
    Sized(Duration),
}

/// One deployment on one backend.
#[derive(Debug)]
pub(super) struct Lane {
    /// Never given twice, so that a late report does not hit another lane in the same slot.
    pub(super) stamp: u64,
    pub(super) backend: BackendId,
    /// Name there; empty for the unnamed lane.
    pub(super) name: Arc<str>,
    /// Named in the settings (or the unnamed lane): never forgotten.
    pub(super) configured: bool,
    /// Its deployment has been served or throttled somewhere, so it is not an invention.
    pub(super) known: bool,
    /// How many callers' names lead here.
    pub(super) routes: usize,
    pub(super) tally: Tally,
    pub(super) health: Health,
    pub(super) recent: Recent,
    pub(super) estimator: Estimator,
    pub(super) speed: Speed,
    /// When a request was last sent just to learn when the minute begins again.
    pub(super) learning: Option<Instant>,
    cooldown: Option<Cooldown>,
    absent_until: Option<Instant>,
    unsupported: Vec<(&'static str, Instant)>,
    /// From "exceeds the maximum usage size allowed during peak load", and from absurd times: larger than the
    /// deployment's whole limit.
    sizes: SizeMarks,
}

impl Lane {
    pub(super) fn new(stamp: u64, backend: BackendId, name: Arc<str>, configured: bool) -> Self {
        Self {
            stamp,
            backend,
            name,
            configured,
            known: configured,
            routes: 0,
            tally: Tally::default(),
            health: Health::default(),
            recent: Recent::default(),
            estimator: Estimator::default(),
            speed: Speed::default(),
            learning: None,
            cooldown: None,
            absent_until: None,
            unsupported: Vec::new(),
            sizes: SizeMarks::default(),
        }
    }

    pub(super) fn cooldown(&self, now: Instant) -> Option<Cooldown> {
        self.cooldown.filter(|cooldown| now < cooldown.until)
    }

    /// Forgets a cooldown that is over. True when there was one.
    pub(super) fn end_cooldown(&mut self, now: Instant) -> bool {
        self.cooldown.take_if(|cooldown| cooldown.until <= now).is_some()
    }

    pub(super) fn throttled(&mut self, now: Instant, told: Told, charge: u64) -> Throttling {
        match cooldown::away(told.duration, charge, self.estimator.limit()) {
            Away::SizeMark(length) => {
                self.sizes.set(now, charge, length);
                Throttling::Sized(length)
            }
            Away::Cooldown(length) => {
                let until = now + length;
                match &mut self.cooldown {
                    Some(running) if now < running.until => {
                        if running.until < until {
                            *running = Cooldown { until, reason: told.reason };
                        }
                        Throttling::Goes
                    }
                    _ => {
                        self.cooldown = Some(Cooldown { until, reason: told.reason });
                        Throttling::Began(length)
                    }
                }
            }
        }
    }

    /// The peak-load answer. How long requests of this size stay away.
    pub(super) fn too_large(&mut self, now: Instant, told: Told, charge: u64) -> Duration {
        let length = cooldown::clamp(told.duration);
        self.sizes.set(now, charge, length);
        length
    }

    pub(super) fn is_too_large(&self, now: Instant, charge: u64) -> bool {
        self.sizes.keep_away(now, charge)
    }

    /// When it is believed to exist again, if it is not now.
    pub(super) fn absent(&self, now: Instant) -> Option<Instant> {
        self.absent_until.filter(|until| now < *until)
    }

    /// It has not answered otherwise since.
    pub(super) fn was_absent(&self) -> bool {
        self.absent_until.is_some()
    }

    /// True when this is news.
    pub(super) fn set_absent(&mut self, now: Instant) -> bool {
        let news = self.absent(now).is_none();
        self.absent_until = Some(now + ABSENT);
        news
    }

    pub(super) fn lacks(&self, now: Instant, operation: &str) -> bool {
        self.unsupported.iter().any(|(lacking, until)| *lacking == operation && now < *until)
    }

    /// True when this is news.
    pub(super) fn set_lacking(&mut self, now: Instant, operation: &'static str) -> bool {
        let news = !self.lacks(now, operation);
        self.unsupported.retain(|(lacking, until)| *lacking != operation && now < *until);
        self.unsupported.push((operation, now + ABSENT));
        news
    }

    /// It answered, so it exists.
    pub(super) fn forget_absence(&mut self) {
        self.absent_until = None;
    }

    /// The settings changed, and what the other side lacked may be mended.
    pub(super) fn forget_lacks(&mut self) {
        self.absent_until = None;
        self.unsupported.clear();
    }
}
