//! Counters per worker, summed when somebody asks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::balance::{DeploymentSnapshot, Quota};

use super::access::{AccessRecord, Tokens};
use super::clock;

use self::histogram::{FIRST_BYTE, Histogram, OURS, WHOLE};
use self::names::{Met, NameId, Names, OTHER};
use self::outcome::Outcome;
use self::troubles::{Gathered, Troubles};

mod callers;
mod exposition;
mod histogram;
mod names;
mod outcome;
mod pool;
mod troubles;

pub use callers::CallerTotals;
pub use exposition::CONTENT_TYPE;
pub use troubles::{Ask, Troubled};

/// The most label sets of one metric that a worker counts apart; further ones count as `other`.
const SETS: usize = 1_000;
/// The most statuses of one label set that are counted apart; further ones count as 0.
const STATUSES: usize = 40;

/// All counters of the process.
#[derive(Debug)]
pub struct Metrics {
    names: Arc<AllNames>,
    workers: Mutex<Vec<Arc<Worker>>>,
}

/// One worker thread's counters. Recording takes one lock that nobody else wants, except a scrape.
#[derive(Clone, Debug)]
pub struct WorkerMetrics {
    names: Arc<AllNames>,
    worker: Arc<Worker>,
}

/// A caller's request that has begun; ended when dropped.
#[derive(Debug)]
pub struct InFlight(Arc<Worker>);

/// What callers saw since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Requests that ended.
    pub requests: u64,
    /// Of them, answered 2xx or 3xx, to the end where the caller wanted it.
    pub succeeded: u64,
    /// Of them, answered 429 or 5xx, or broken off; limits of the caller's own apart.
    pub failed: u64,
    /// Of `failed`, answered 429.
    pub throttled: u64,
    /// Of `failed`, good answers that broke off in their middle.
    pub cut: u64,
    /// Refused for the caller's own limits.
    pub limited: u64,
    /// Attempts that came to nothing, of requests that were answered well in the end.
    pub absorbed: u64,
    /// Requests that have begun and not ended.
    pub in_flight: u64,
    /// Attempts that went to another backend than the one before.
    pub failovers: u64,
    /// Requests that no lane admitted.
    pub exhausted: u64,
    /// Requests that waited in line for room.
    pub held: u64,
    /// Requests that met trouble: the last of them are kept.
    pub troubled: u64,
    /// Tokens of prompts, cached ones included.
    pub prompt_tokens: u64,
    /// Cached tokens of prompts.
    pub cached_tokens: u64,
    /// Tokens of answers.
    pub completion_tokens: u64,
}

/// What the pool looks like at the moment of a scrape.
#[derive(Clone, Debug, Default)]
pub struct PoolGauges {
    /// All backends.
    pub backends: Vec<BackendGauge>,
    /// Deployments by the callers' names, over all backends: tokens a minute, and what is left of them.
    pub deployments: Vec<DeploymentSnapshot>,
}

/// What found no room, since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lost {
    /// Lines of the log.
    pub log_lines: u64,
    /// Spans of traces.
    pub spans: u64,
    /// Callers' connections.
    pub connections: u64,
}

/// One backend.
#[derive(Clone, Debug)]
pub struct BackendGauge {
    /// Its name.
    pub name: Arc<str>,
    /// Attempts under way.
    pub in_flight: u64,
    /// Its key or a valid token is there.
    pub credential_ready: bool,
    /// Its lanes.
    pub lanes: Vec<LaneGauge>,
}

/// One lane.
#[derive(Clone, Debug)]
pub struct LaneGauge {
    /// The deployment; empty for the unnamed lane.
    pub deployment: Arc<str>,
    /// From the settings, or a backend has answered to it; otherwise a caller may have invented the name, and the
    /// lane gets no series.
    pub known: bool,
    /// One of [`STATES`].
    pub state: &'static str,
    /// Time until it admits again.
    pub remaining: Option<Duration>,
    /// Tokens a minute that it may use, and what is left of them; as far as its answers have told.
    pub quota: Quota,
}

/// The words for a lane's state.
pub const STATES: [&str; 7] = ["admitting", "cooling", "resting", "probing", "refused", "absent", "drained"];

#[derive(Debug)]
struct AllNames {
    deployments: Names,
    callers: Names,
    backends: Names,
}

#[derive(Debug)]
struct Worker {
    in_flight: AtomicU64,
    counters: Mutex<Counters>,
    /// Apart, so that who reads them holds up no request that has met none.
    troubles: Mutex<Troubles>,
}

impl Worker {
    /// A poisoned lock is taken all the same: a count may be off by one, nothing else.
    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn troubles(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct MetNames {
    deployments: Met,
    callers: Met,
    backends: Met,
}

#[derive(Debug)]
struct Counters {
    met: MetNames,
    sums: Sums,
}

/// What is counted, by numbers of names.
#[derive(Debug)]
struct Sums {
    totals: Totals,
    /// By deployment and caller.
    requests: HashMap<(NameId, NameId), RequestCounts>,
    /// By backend and deployment: verdict and count. A handful of words, so a list.
    attempts: HashMap<(NameId, NameId), Vec<(&'static str, u64)>>,
    /// By backend and the deployment's name there.
    lanes: HashMap<(NameId, NameId), TokenCounts>,
    /// By deployment.
    flow: HashMap<NameId, Flow>,
    first_byte: Histogram,
    whole: Histogram,
    ours: Histogram,
}

#[derive(Clone, Debug, Default)]
struct RequestCounts {
    statuses: Vec<(u16, u64)>,
    failed: u64,
    limited: u64,
    tokens: TokenCounts,
}

#[derive(Clone, Copy, Debug, Default)]
struct TokenCounts {
    prompt: u64,
    cached: u64,
    completion: u64,
}

impl TokenCounts {
    fn count(&mut self, tokens: Tokens) {
        self.add(Self { prompt: tokens.prompt, cached: tokens.cached, completion: tokens.completion });
    }

    fn add(&mut self, other: Self) {
        self.prompt = self.prompt.saturating_add(other.prompt);
        self.cached = self.cached.saturating_add(other.cached);
        self.completion = self.completion.saturating_add(other.completion);
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    failovers: u64,
    absorbed: u64,
    exhausted: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Counters at zero.
    #[must_use]
    pub fn new() -> Self {
        let names = AllNames {
            deployments: Names::new(""),
            callers: Names::new("anonymous"),
            backends: Names::new(""),
        };
        Self { names: Arc::new(names), workers: Mutex::default() }
    }

    /// Counters for one more worker thread.
    #[must_use]
    pub fn worker(&self) -> WorkerMetrics {
        let worker = Arc::new(Worker {
            in_flight: AtomicU64::new(0),
            counters: Mutex::new(Counters { met: MetNames::default(), sums: Sums::default() }),
            troubles: Mutex::default(),
        });
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&worker));
        WorkerMetrics { names: Arc::clone(&self.names), worker }
    }

    /// What callers saw since the start.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for worker in self.workers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            totals.add(&worker.lock().sums.totals);
            totals.in_flight += worker.in_flight.load(Ordering::Relaxed);
        }
        totals
    }

    /// The last requests that met trouble.
    #[must_use]
    pub fn troubled(&self, ask: Ask<'_>) -> Troubled {
        let mut gathered = Gathered::default();
        for worker in self.workers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            worker.troubles().gather(ask, &mut gathered);
        }
        gathered.in_order(ask)
    }

    /// The `OpenMetrics` document, of type [`CONTENT_TYPE`].
    #[must_use]
    pub fn render(&self, pool: PoolGauges, lost: Lost) -> String {
        let mut sums = Sums::default();
        for worker in self.workers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            sums.add(&worker.lock().sums);
        }
        exposition::render(sums, &self.names, pool, lost)
    }
}

impl WorkerMetrics {
    /// A caller's request begins.
    #[must_use]
    pub fn begin(&self) -> InFlight {
        self.worker.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(&self.worker))
    }

    /// Counts a request that ended, with its attempts, tokens and times.
    pub fn observe(&self, record: &AccessRecord<'_>) {
        let outcome = Outcome::of(record);
        let trouble = outcome.trouble(record);
        if let Some(trouble) = trouble {
            self.worker.troubles().keep(clock::wall(), trouble, outcome, record);
        }
        let Counters { met, sums } = &mut *self.worker.lock();
        sums.totals.troubled += u64::from(trouble.is_some());
        // Names from callers are not to be trusted until a backend has answered to them.
        let earned = record.served_by.is_some() && matches!(outcome, Outcome::Succeeded | Outcome::Cut);
        let deployment = met.deployments.number(&self.names.deployments, record.deployment, earned);
        let caller = met.callers.number(&self.names.callers, record.caller, true);
        sums.count_request(deployment, caller, record, outcome);
        for note in record.attempts.all() {
            let name = record.backends.get(note.backend).map(|name| &**name);
            let backend = met.backends.number(&self.names.backends, name, true);
            bounded(&mut sums.attempts, (backend, deployment)).add(note.verdict, 1);
        }
        if let (Some(backend), Some(tokens)) = (record.served_by, record.tokens) {
            let name = record.backends.get(backend).map(|name| &**name);
            let backend = met.backends.number(&self.names.backends, name, true);
            let there = match record.deployment_there {
                Some(there) if record.deployment != Some(there) => {
                    met.deployments.number(&self.names.deployments, Some(there), earned)
                }
                _ => deployment,
            };
            bounded(&mut sums.lanes, (backend, there)).count(tokens);
        }
        sums.whole.observe(record.total);
        sums.ours.observe(record.ours);
        // How fast we refuse would hide how slow backends are.
        if let Some(first_byte) = record.first_byte.filter(|_| record.served_by.is_some()) {
            sums.first_byte.observe(first_byte);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The entry of `key`, or the common one of those that came when there was no room.
fn bounded<V: Default>(map: &mut HashMap<(NameId, NameId), V>, key: (NameId, NameId)) -> &mut V {
    let key = if map.len() < SETS || map.contains_key(&key) { key } else { (OTHER, OTHER) };
    map.entry(key).or_default()
}

/// A short list of counts by a small key.
trait Tally<K> {
    fn add(&mut self, key: K, by: u64);
}

impl<K: PartialEq> Tally<K> for Vec<(K, u64)> {
    fn add(&mut self, key: K, by: u64) {
        match self.iter_mut().find(|(known, _)| *known == key) {
            Some((_, count)) => *count += by,
            None => self.push((key, by)),
        }
    }
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            totals: Totals::default(),
            requests: HashMap::new(),
            attempts: HashMap::new(),
            lanes: HashMap::new(),
            flow: HashMap::new(),
            first_byte: Histogram::new(FIRST_BYTE),
            whole: Histogram::new(WHOLE),
            ours: Histogram::new(OURS),
        }
    }
}

impl Sums {
    fn count_request(
        &mut self,
        deployment: NameId,
        caller: NameId,
        record: &AccessRecord<'_>,
        outcome: Outcome,
    ) {
        let totals = &mut self.totals;
        totals.requests += 1;
        totals.succeeded += u64::from(outcome == Outcome::Succeeded);
        totals.held += u64::from(record.held.is_some());
        totals.throttled += u64::from(outcome == Outcome::Failed && record.status == 429);
        totals.failed += u64::from(outcome.is_failure());
        totals.cut += u64::from(outcome == Outcome::Cut);
        totals.limited += u64::from(outcome == Outcome::Limited);
        let absorbed = outcome.absorbed(record);
        totals.absorbed += absorbed;
        let counts = bounded(&mut self.requests, (deployment, caller));
        counts.failed += u64::from(outcome.is_failure());
        counts.limited += u64::from(outcome == Outcome::Limited);
        let room = counts.statuses.len() < STATUSES
            || counts.statuses.iter().any(|(status, _)| *status == record.status);
        counts.statuses.add(if room { record.status } else { 0 }, 1);
        if let Some(tokens) = record.tokens {
            counts.tokens.count(tokens);
            totals.prompt_tokens = totals.prompt_tokens.saturating_add(tokens.prompt);
            totals.cached_tokens = totals.cached_tokens.saturating_add(tokens.cached);
            totals.completion_tokens = totals.completion_tokens.saturating_add(tokens.completion);
        }
        let failovers = u64::from(record.attempts.failovers());
        if failovers > 0 || record.exhausted || absorbed > 0 {
            let flow = self.flow.entry(deployment).or_default();
            flow.failovers += failovers;
            flow.absorbed += absorbed;
            flow.exhausted += u64::from(record.exhausted);
            totals.failovers += failovers;
            totals.exhausted += u64::from(record.exhausted);
        }
    }

    fn add(&mut self, other: &Self) {
        self.totals.add(&other.totals);
        for (key, theirs) in &other.requests {
            let mine = self.requests.entry(*key).or_default();
            theirs.statuses.iter().for_each(|(status, count)| mine.statuses.add(*status, *count));
            mine.failed += theirs.failed;
            mine.limited += theirs.limited;
            mine.tokens.add(theirs.tokens);
        }
        for (key, theirs) in &other.lanes {
            self.lanes.entry(*key).or_default().add(*theirs);
        }
        for (key, theirs) in &other.attempts {
            let mine = self.attempts.entry(*key).or_default();
            theirs.iter().for_each(|(verdict, count)| mine.add(*verdict, *count));
        }
        for (key, theirs) in &other.flow {
            let mine = self.flow.entry(*key).or_default();
            mine.failovers += theirs.failovers;
            mine.absorbed += theirs.absorbed;
            mine.exhausted += theirs.exhausted;
        }
        self.first_byte.add(&other.first_byte);
        self.whole.add(&other.whole);
        self.ours.add(&other.ours);
    }
}

impl Totals {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.throttled += other.throttled;
        self.cut += other.cut;
        self.limited += other.limited;
        self.absorbed += other.absorbed;
        self.in_flight += other.in_flight;
        self.failovers += other.failovers;
        self.exhausted += other.exhausted;
        self.held += other.held;
        self.troubled += other.troubled;
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(other.completion_tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::super::access::AttemptNotes;
    use super::super::access::tests::{notes, record};
    use super::*;

    fn line_of<'a>(text: &'a str, start: &str) -> Option<&'a str> {
        text.lines().find_map(|line| line.strip_prefix(start)).map(str::trim)
    }

    #[test]
    fn requests_of_all_workers_are_summed_by_deployment_caller_and_status() {
        let metrics = Metrics::new();
        let backends = ["east".into(), "west".into()];
        let attempts = notes(&[(0, "throttled"), (1, "served")]);
        for worker in [metrics.worker(), metrics.worker()] {
            let _under_way = worker.begin();
            worker.observe(&record(&backends, &attempts));
        }
        let text = metrics.render(PoolGauges::default(), Lost { log_lines: 3, spans: 5, connections: 7 });
        let labels = r#"{deployment="gpt-4o",caller="app""#;
        assert_eq!(line_of(&text, &format!("sidestep_requests_total{labels},status=\"200\"}}")), Some("2"));
        for (kind, count) in [("prompt", "240"), ("cached", "128"), ("completion", "90")] {
            assert_eq!(
                line_of(&text, &format!("sidestep_tokens_total{labels},kind=\"{kind}\"}}")),
                Some(count)
            );
        }
        for (start, count) in [
            (r#"sidestep_attempts_total{backend="east",deployment="gpt-4o",verdict="throttled"}"#, "2"),
            (r#"sidestep_attempts_total{backend="west",deployment="gpt-4o",verdict="served"}"#, "2"),
            (r#"sidestep_failovers_total{deployment="gpt-4o"}"#, "2"),
            (r#"sidestep_lane_tokens_total{backend="west",deployment="gpt-4o",kind="prompt"}"#, "240"),
            (r#"sidestep_lane_tokens_total{backend="west",deployment="gpt-4o",kind="cached"}"#, "128"),
            (r#"sidestep_lane_tokens_total{backend="west",deployment="gpt-4o",kind="completion"}"#, "90"),
            ("sidestep_time_to_first_byte_seconds_count", "2"),
            (r#"sidestep_time_to_first_byte_seconds_bucket{le="0.35"}"#, "2"),
            (r#"sidestep_request_duration_seconds_bucket{le="0.5"}"#, "0"),
            (r#"sidestep_request_duration_seconds_bucket{le="+Inf"}"#, "2"),
            ("sidestep_added_latency_seconds_sum", "0.00042"),
            ("sidestep_log_lines_dropped_total", "3"),
            ("sidestep_spans_dropped_total", "5"),
            ("sidestep_connections_refused_total", "7"),
        ] {
            assert_eq!(line_of(&text, start), Some(count), "{start}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        let totals = metrics.totals();
        assert_eq!((totals.requests, totals.succeeded, totals.failovers, totals.in_flight), (2, 2, 2, 0));
    }

    #[test]
    fn every_attempt_is_counted_however_many_a_record_names() {
        let metrics = Metrics::new();
        let backends = ["east".into()];
        let attempts = notes(&[(0, "failed"); 20]);
        metrics.worker().observe(&record(&backends, &attempts));
        let text = metrics.render(PoolGauges::default(), Lost::default());
        let start = r#"sidestep_attempts_total{backend="east",deployment="gpt-4o",verdict="failed"}"#;
        assert_eq!(line_of(&text, start), Some("20"));
    }

    #[test]
    fn tokens_of_a_lane_are_told_by_the_deployments_name_there() {
        let metrics = Metrics::new();
        let backends = ["east".into(), "west".into()];
        let attempts = notes(&[(1, "served")]);
        let mut mapped = record(&backends, &attempts);
        mapped.deployment_there = Some("gpt-4o-west");
        metrics.worker().observe(&mapped);
        mapped.served_by = None;
        metrics.worker().observe(&mapped);
        let text = metrics.render(PoolGauges::default(), Lost::default());
        let lanes: Vec<_> =
            text.lines().filter(|line| line.starts_with("sidestep_lane_tokens_total{")).collect();
        assert_eq!(lanes.len(), 3, "{lanes:?}");
        let lane = r#"sidestep_lane_tokens_total{backend="west",deployment="gpt-4o-west",kind="prompt"}"#;
        assert_eq!(line_of(&text, lane), Some("120"));
    }

    #[test]
    fn a_deployment_that_no_backend_has_served_is_other() {
        let metrics = Metrics::new();
        let worker = metrics.worker();
        let backends = ["east".into(), "west".into()];
        let attempts = AttemptNotes::default();
        let mut made_up = record(&backends, &attempts);
        made_up.deployment = Some("made-up");
        made_up.tokens = None;
        (made_up.status, made_up.served_by, made_up.exhausted) = (429, None, true);
        worker.observe(&made_up);
        made_up.deployment = None;
        (made_up.status, made_up.exhausted) = (404, false);
        worker.observe(&made_up);
        let text = metrics.render(PoolGauges::default(), Lost::default());
        assert!(!text.contains("made-up"));
        let start = r#"sidestep_requests_total{deployment="other",caller="app",status="429"}"#;
        assert_eq!(line_of(&text, start), Some("1"));
        assert_eq!(line_of(&text, r#"sidestep_exhausted_total{deployment="other"}"#), Some("1"));
        let start = r#"sidestep_requests_total{deployment="",caller="app",status="404"}"#;
        assert_eq!(line_of(&text, start), Some("1"));
        let totals = metrics.totals();
        assert_eq!((totals.failed, totals.throttled, totals.exhausted, totals.succeeded), (1, 1, 1, 0));
    }

    #[test]
    fn our_words_for_states_are_the_pools() {
        assert_eq!(STATES, crate::balance::State::ALL.map(crate::balance::State::word));
    }

    #[test]
    fn label_sets_and_statuses_are_bounded() {
        let metrics = Metrics::new();
        let worker = metrics.worker();
        let backends = ["east".into(), "west".into()];
        let attempts = AttemptNotes::default();
        let names: Vec<_> = (0..1_200).map(|n| format!("d{n}")).collect();
        for name in &names {
            let mut served = record(&backends, &attempts);
            served.deployment = Some(name);
            worker.observe(&served);
        }
        for status in 200..300 {
            let mut served = record(&backends, &attempts);
            served.deployment = Some("d0");
            served.status = status;
            worker.observe(&served);
        }
        let text = metrics.render(PoolGauges::default(), Lost::default());
        let requests = text.lines().filter(|l| l.starts_with("sidestep_requests_total{"));
        assert!(requests.count() <= SETS + 1 + STATUSES);
        assert_eq!(metrics.totals().requests, 1_300, "nothing goes uncounted");
        let counted: u64 = text
            .lines()
            .filter(|l| l.starts_with("sidestep_requests_total{"))
            .map(|l| l.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum();
        assert_eq!(counted, 1_300);
    }

    #[test]
    fn lanes_show_their_state_and_only_a_cooldown_counts_as_one() {
        let metrics = Metrics::new();
        let lane = |deployment: &str, state, seconds: u64| LaneGauge {
            deployment: deployment.into(),
            known: state != "absent",
            state,
            remaining: (seconds > 0).then(|| Duration::from_secs(seconds)),
            quota: Quota {
                limit_tokens: (seconds == 7).then_some(30_000),
                remaining_tokens: (seconds == 7).then_some(0),
            },
        };
        let lanes =
            vec![lane("gpt-4o", "cooling", 7), lane("o3", "resting", 5), lane("guess", "absent", 300)];
        let backends =
            vec![BackendGauge { name: "we\"st".into(), in_flight: 4, credential_ready: false, lanes }];
        let (name, limit_tokens, remaining_tokens) = ("chat".into(), 60_000, 12_000);
        let deployments = vec![DeploymentSnapshot { name, limit_tokens, remaining_tokens }];
        let text = metrics.render(PoolGauges { backends, deployments }, Lost::default());
        for (start, count) in [
            (r#"sidestep_lane_state{backend="we\"st",deployment="gpt-4o",state="cooling"}"#, Some("1")),
            (r#"sidestep_lane_state{backend="we\"st",deployment="gpt-4o",state="admitting"}"#, Some("0")),
            (r#"sidestep_cooldown_seconds{backend="we\"st",deployment="gpt-4o"}"#, Some("7.0")),
            (r#"sidestep_cooldown_seconds{backend="we\"st",deployment="o3"}"#, Some("0.0")),
            (r#"sidestep_in_flight{backend="we\"st"}"#, Some("4")),
            (
                r#"sidestep_lane_quota_tokens{backend="we\"st",deployment="gpt-4o",kind="limit"}"#,
                Some("30000"),
            ),
            (
                r#"sidestep_lane_quota_tokens{backend="we\"st",deployment="gpt-4o",kind="remaining"}"#,
                Some("0"),
            ),
            (r#"sidestep_lane_quota_tokens{backend="we\"st",deployment="o3",kind="limit"}"#, None),
            (r#"sidestep_credential_ready{backend="we\"st"}"#, Some("0")),
            (r#"sidestep_quota_tokens{deployment="chat",kind="limit"}"#, Some("60000")),
            (r#"sidestep_quota_tokens{deployment="chat",kind="remaining"}"#, Some("12000")),
        ] {
            assert_eq!(line_of(&text, start), count, "{start}\n{text}");
        }
        assert!(!text.contains("guess"), "a name that no backend knows gets no series");
    }
}
