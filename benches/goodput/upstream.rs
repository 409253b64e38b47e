//! The modelled Azure OpenAI resources: quota, prompt cache, speed, faults, and what their headers say.

use std::collections::HashMap;

use fastrand::Rng;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::quota::{Full, Meter, Window};
use crate::scenario::{Fault, Headers, Scenario};
use crate::traffic::{MEASURED, Request, WARM_UP};
use crate::units::{Seconds, exponential, whole};

/// A prompt's beginning is forgotten after so long without use.
const CACHE_TTL: Seconds = 300.0;
/// Shorter prompts are not cached.
const CACHE_FROM: u64 = 1_024;
const CACHE_STEP: u64 = 128;
/// What the hidden traffic's requests are charged.
const HIDDEN_CHARGE: f64 = 4_000.0;
/// How old `remaining` may be where headers are stale.
const STALE: Seconds = 15.0;
/// When a fault begins.
const FAULT_FROM: Seconds = 400.0;
/// When a quota is changed.
const MID_RUN: Seconds = WARM_UP + MEASURED / 2.0;
/// A hanging backend is given up after so long.
pub(crate) const HANG: Seconds = 30.0;

/// One resource with one deployment.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) meter: Meter,
    pub(crate) priority: u32,
    pub(crate) provisioned: bool,
    /// Tokens a minute that others use.
    pub(crate) hidden: f64,
    speed: f64,
    headers: Headers,
    fault: Option<Fault>,
    published: (Seconds, f64),
    talks: HashMap<u64, (Seconds, u64)>,
    apps: Vec<Seconds>,
    rng: Rng,
}

/// What comes back from one call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reply {
    /// 0: nothing came.
    pub(crate) status: u16,
    /// When the head, or a stream's first event, is there.
    pub(crate) head: Seconds,
    /// When the answer is complete.
    pub(crate) end: Seconds,
    /// Of the prompt, in tokens.
    pub(crate) cached: u64,
    /// By a backend that is not of the first priority.
    pub(crate) spilled: bool,
    headers: Headers,
    limit: u64,
    remaining: f64,
    full: Option<(Seconds, bool)>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) backends: Vec<Backend>,
}

impl World {
    pub(crate) fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x776f_726c_6400);
        let quotas = scenario.pool.quotas();
        let largest = quotas.iter().copied().fold(0.0, f64::max);
        let second = quotas.iter().copied().filter(|quota| *quota < largest).fold(0.0, f64::max);
        let mut faulty = false;
        let backends = quotas.iter().enumerate().map(|(index, quota)| {
            let provisioned = scenario.pool.is_provisioned(index);
            let window = if provisioned { Window::Provisioned } else { scenario.window };
            let width = if rng.bool() { 1.0 } else { 10.0 };
            let headers = match scenario.headers {
                // Utilisation stands in place of what remains.
                Headers::Full if provisioned => Headers::None,
                Headers::Half if index % 2 == 0 => Headers::Full,
                Headers::Half => Headers::None,
                headers => headers,
            };
            let hit = match scenario.fault {
                Some(Fault::Quota(_)) => *quota >= second,
                _ => !faulty && *quota >= largest,
            };
            faulty |= hit;
            Backend {
                meter: Meter::new(window, *quota, rng.f64(), (scenario.requests, width)),
                priority: scenario.pool.priority(index),
                provisioned,
                hidden: scenario.pool.hidden(index),
                speed: 0.8 + 1.4 * rng.f64(),
                headers,
                fault: scenario.fault.filter(|_| hit),
                published: (-STALE, *quota),
                talks: HashMap::new(),
                apps: vec![-CACHE_TTL; 24],
                rng: rng.fork(),
            }
        });
        Self { backends: backends.collect() }
    }

    /// Tokens a minute that the hidden traffic leaves.
    pub(crate) fn left(&self) -> f64 {
        self.backends.iter().map(|backend| backend.meter.limit - backend.hidden).sum()
    }

    /// Tokens a minute, altogether.
    pub(crate) fn quota(&self) -> f64 {
        self.backends.iter().map(|backend| backend.meter.limit).sum()
    }
}

impl Backend {
    /// How much slower than the fastest, about.
    pub(crate) fn speed(&self) -> f64 {
        self.speed
    }

    /// The next request of others; when the one after it comes.
    pub(crate) fn hidden_call(&mut self, now: Seconds) -> Seconds {
        let charge = HIDDEN_CHARGE.min(self.meter.limit) * (0.5 + self.rng.f64());
        if self.meter.fits(now, charge).is_ok() {
            self.meter.take(now, charge);
        }
        now + exponential(&mut self.rng, HIDDEN_CHARGE / self.hidden * 60.0)
    }

    /// What one call brings.
    pub(crate) fn call(&mut self, now: Seconds, request: &Request) -> Reply {
        if let Some(Fault::Quota(factor)) = self.fault.take_if(|fault| changes(fault, now)) {
            self.meter.limit *= factor;
        }
        if let Some(reply) = self.faulty(now, request) {
            return reply;
        }
        let cached = self.cached(now, request);
        let charge = if self.provisioned { request.charge() - cached } else { request.charge() } as f64;
        let quick = now + 0.02 + 0.08 * self.rng.f64();
        if let Err(full) = self.meter.fits(now, charge) {
            return self.reply(429, (quick, quick), now, Some(full));
        }
        self.meter.take(now, charge);
        let (ttft, each) = self.pace(request, cached);
        let end = now + ttft + request.completion as f64 * each;
        let head = if request.streamed { now + ttft } else { end };
        self.remember(now, request);
        Reply { cached, ..self.reply(200, (head, end), now, None) }
    }

    /// An answer is complete.
    pub(crate) fn ended(&mut self, now: Seconds, request: &Request) {
        self.meter.correct(now, (request.max_tokens - request.completion) as f64);
    }

    fn reply(
        &mut self,
        status: u16,
        (head, end): (Seconds, Seconds),
        now: Seconds,
        full: Option<Full>,
    ) -> Reply {
        if self.headers != Headers::Stale || now - self.published.0 >= STALE {
            self.published = (now, self.meter.remaining(now));
        }
        Reply {
            status,
            head,
            end,
            cached: 0,
            spilled: self.priority > 1,
            headers: self.headers,
            limit: whole(self.meter.limit),
            remaining: self.published.1,
            full: full.map(|full| (full.wait, full.by_requests)),
        }
    }

    /// Until the first token, and for each.
    fn pace(&self, request: &Request, cached: u64) -> (Seconds, Seconds) {
        let slow = match self.fault {
            Some(Fault::Slow) => 8.0,
            _ => 1.0,
        };
        let factor = self.speed * slow;
        let luck = 0.7 + 0.6 * request.luck;
        let ttft = factor * luck * (0.15 + (request.prompt - cached) as f64 / 6_500.0);
        (ttft, factor / (30.0 + 50.0 * request.luck))
    }

    fn faulty(&mut self, now: Seconds, request: &Request) -> Option<Reply> {
        let quick = now + 0.05 + 0.1 * self.rng.f64();
        let (until, share) = match self.fault {
            Some(Fault::Errors { seconds, share }) => (seconds, share),
            Some(Fault::Hangs { seconds, share }) => (seconds, share),
            _ => (0.0, 0.0),
        };
        let during = (FAULT_FROM..FAULT_FROM + until).contains(&now);
        if during && self.rng.f64() < share {
            return Some(match self.fault {
                Some(Fault::Hangs { .. }) => self.reply(0, (now + HANG, now + HANG), now, None),
                _ => self.reply(500, (quick, quick), now, None),
            });
        }
        request.poison.then(|| self.reply(500, (quick, quick), now, None))
    }

    fn cached(&self, now: Seconds, request: &Request) -> u64 {
        let fresh = |at: Seconds| now - at < CACHE_TTL;
        let talk = self
            .talks
            .get(&request.conversation)
            .filter(|(at, _)| fresh(*at))
            .map_or(0, |(_, tokens)| *tokens);
        let app = if fresh(self.apps[request.app]) { request.shared } else { 0 };
        let known = talk.max(app).min(request.prompt);
        if known < CACHE_FROM { 0 } else { known / CACHE_STEP * CACHE_STEP }
    }

    fn remember(&mut self, now: Seconds, request: &Request) {
        self.apps[request.app] = now;
        self.talks.insert(request.conversation, (now, request.prompt));
        if self.talks.len() > 4_096 {
            self.talks.retain(|_, (at, _)| now - *at < CACHE_TTL);
        }
    }
}

/// Once, when the time has come.
fn changes(fault: &Fault, now: Seconds) -> bool {
    matches!(fault, Fault::Quota(_)) && now >= MID_RUN
}

static RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
static RETRY_AFTER: HeaderName = HeaderName::from_static("retry-after");
static LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit-tokens");
static REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining-tokens");
static RESET_TOKENS: HeaderName = HeaderName::from_static("x-ratelimit-reset-tokens");
static RESET_REQUESTS: HeaderName = HeaderName::from_static("x-ratelimit-reset-requests");

impl Reply {
    pub(crate) fn is_good(&self) -> bool {
        self.status == 200
    }

    /// The answer's headers, with Azure's names.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        headers.clear();
        let mut put = |name: &HeaderName, value: u64| {
            headers.insert(name.clone(), HeaderValue::from(value));
        };
        match self.headers {
            Headers::Full | Headers::Half | Headers::Stale | Headers::NoTiming => {
                put(&LIMIT, self.limit);
                put(&REMAINING, whole(self.remaining));
            }
            Headers::NoLimit => put(&REMAINING, whole(self.remaining)),
            Headers::None | Headers::OnlyReset => {}
            Headers::MinusOne => {
                headers.insert(REMAINING.clone(), HeaderValue::from_static("-1"));
                return;
            }
        }
        let Some((wait, by_requests)) = self.full else { return };
        match self.headers {
            Headers::NoTiming | Headers::MinusOne => {}
            Headers::OnlyReset => {
                put(if by_requests { &RESET_REQUESTS } else { &RESET_TOKENS }, whole(wait.ceil()));
            }
            Headers::Full | Headers::Half | Headers::Stale | Headers::None | Headers::NoLimit => {
                put(&RETRY_AFTER_MS, whole((wait * 1_000.0).ceil()));
                put(&RETRY_AFTER, whole(wait.ceil()));
            }
        }
    }

    /// What a reader of `Retry-After` and the reset headers gets, in whole seconds.
    pub(crate) fn seconds(&self) -> Option<Seconds> {
        match self.headers {
            Headers::NoTiming | Headers::MinusOne => None,
            _ => self.full.map(|(wait, _)| wait.ceil()),
        }
    }

    /// What a caller's SDK gets.
    pub(crate) fn told(&self) -> Option<Seconds> {
        match self.headers {
            Headers::NoTiming | Headers::MinusOne | Headers::OnlyReset => None,
            _ => self.full.map(|(wait, _)| wait),
        }
    }
}
