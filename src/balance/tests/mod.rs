//! The pool in virtual time: take a start once, then arithmetic.

mod allocations;
mod choosing;
mod cooldowns;
mod estimating;
mod exhaustion;
mod patience;
mod pinned;
mod pins;
mod properties;
mod quotas;
mod reload;
mod rests;
mod routes;
mod snapshots;
mod verdicts;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{
    Answer, Ask, AttemptFailure, Attempts, BackendSettings, Deployments, Exhausted, Judgement, Pick, Pool,
    PoolSettings, Tier, Verdict, judge, judge_failure,
};

const CHAT: Ask<'static> = Ask {
    deployment: Some("gpt-4o"),
    second: None,
    family: "inference",
    operation: "chat",
    charge: 1_000,
    unlimited: false,
    streamed: true,
    harmless: true,
    conversation: None,
    lowest_priority: None,
    pin: None,
    patience: Duration::ZERO,
    ahead: 0,
};

pub(in crate::balance) fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

pub(in crate::balance) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(in crate::balance) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn backend(name: &str, priority: u32, weight: u32) -> BackendSettings {
    BackendSettings {
        name: Arc::from(name),
        url: Arc::from(format!("https://{name}.example")),
        priority,
        weight: NonZeroU32::new(weight).unwrap(),
        deployments: Deployments::Any,
    }
}

fn settings(backends: Vec<BackendSettings>) -> PoolSettings {
    PoolSettings { backends, lanes: 1_000 }
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        (HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap())
    };
    pairs.iter().map(pair).collect()
}

/// A pool and a clock.
struct World {
    pool: Pool,
    now: Instant,
    ask: Ask<'static>,
}

impl World {
    fn new(backends: Vec<BackendSettings>) -> Self {
        Self::with(settings(backends))
    }

    fn with(settings: PoolSettings) -> Self {
        let count = settings.backends.len();
        let mut pool = Pool::new(settings, 7);
        for backend in 0..count {
            pool.set_credential(backend, true);
        }
        Self { pool, now: start(), ask: CHAT }
    }

    /// Backends of priorities 1, 2, 3 …: who is next is certain.
    fn ladder(count: u32) -> Self {
        Self::new((1..=count).map(|priority| backend(&format!("b{priority}"), priority, 1)).collect())
    }

    /// Backends of equal priority and weight.
    fn equals(count: u32) -> Self {
        Self::new((1..=count).map(|index| backend(&format!("b{index}"), 1, 1)).collect())
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn pick(&mut self, attempts: &mut Attempts) -> Result<Pick, Exhausted> {
        self.pool.pick(self.now, &self.ask, attempts)
    }

    /// Which backend a fresh request would get; leaves no trace but a probe's place freed again.
    fn next(&mut self) -> Result<usize, Exhausted> {
        let pick = self.pick(&mut Attempts::default())?;
        let backend = pick.backend;
        self.pool.abandon(pick);
        Ok(backend)
    }

    fn wait(&mut self) -> Duration {
        match self.next() {
            Err(Exhausted::Throttled { wait }) => wait,
            other => panic!("expected throttled, found {other:?}"),
        }
    }

    fn judged(&mut self, pick: Pick, answer: &Answer<'_>, attempts: &mut Attempts) -> Judgement {
        let judgement = judge(answer, &self.ask, attempts);
        self.pool.report(self.now, pick, judgement.verdict, attempts);
        judgement
    }

    fn answer(
        &mut self,
        pick: Pick,
        status: u16,
        pairs: &[(&str, &str)],
        body: &str,
        attempts: &mut Attempts,
    ) -> Judgement {
        let headers = headers(pairs);
        let answer = answer(status, &headers, body.as_bytes());
        self.judged(pick, &answer, attempts)
    }

    fn failure(&mut self, pick: Pick, failure: AttemptFailure, attempts: &mut Attempts) -> Judgement {
        let judgement = judge_failure(failure, &self.ask, attempts);
        self.pool.report(self.now, pick, judgement.verdict, attempts);
        judgement
    }

    fn served(&mut self, pick: Pick, attempts: &mut Attempts) {
        self.pool.answered(self.now, &pick, &HeaderMap::new(), attempts);
        self.pool.report(self.now, pick, Verdict::Served { tokens: 100 }, attempts);
    }

    /// A request whose first attempt meets this answer, and whose next lane, where there is one, serves.
    fn meet(&mut self, status: u16, pairs: &[(&str, &str)], body: &str) -> usize {
        let attempts = &mut Attempts::default();
        let pick = self.pick(attempts).unwrap();
        let backend = pick.backend;
        self.answer(pick, status, pairs, body, attempts);
        self.end_well(attempts);
        backend
    }

    fn meet_failure(&mut self, failure: AttemptFailure) -> usize {
        let attempts = &mut Attempts::default();
        let pick = self.pick(attempts).unwrap();
        let backend = pick.backend;
        self.failure(pick, failure, attempts);
        self.end_well(attempts);
        backend
    }

    fn end_well(&mut self, attempts: &mut Attempts) {
        if let Ok(pick) = self.pick(attempts) {
            self.served(pick, attempts);
        }
    }
}

fn answer<'a>(status: u16, headers: &'a HeaderMap, body: &'a [u8]) -> Answer<'a> {
    Answer {
        status: StatusCode::from_u16(status).unwrap(),
        headers,
        body,
        service_tier: None,
        callers_credential: false,
        looked_for: false,
    }
}

const PEAK_LOAD: &str = r#"{"error":{"code":"too_many_requests","message":"The system is currently experiencing high demand and cannot process your request. Your request exceeds the maximum usage size allowed during peak load. Please retry after 20 seconds."}}"#;
const NOT_FOUND: &str = r#"{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}"#;
const UNSUPPORTED: &str = r#"{"error":{"code":"OperationNotSupported","message":"The chatCompletion operation does not work with the specified model."}}"#;

fn flex(headers: &HeaderMap) -> Answer<'_> {
    Answer { service_tier: Some(Tier::Flex), ..answer(429, headers, b"") }
}
