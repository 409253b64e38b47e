//! What one request costs in the pool: pick, answered, report, on the happy path and around throttled lanes.
//! The promise is less than 2 µs at 8 backends and 20 µs at 200. That nothing is allocated is a test
//! (`src/balance/tests/allocations.rs`).

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, StatusCode};
use sidestep::balance::{
    Answer, Ask, Attempts, BackendSettings, Deployments, PinSettings, Pins, Pool, PoolSettings, Quota,
    Reason, Told, Verdict, judge,
};

const ASK: Ask<'static> = Ask {
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

fn pool(count: usize) -> Pool {
    let backend = |index| BackendSettings {
        name: Arc::from(format!("backend-{index}")),
        url: Arc::from(format!("https://backend-{index}.example")),
        priority: 1,
        weight: NonZeroU32::MIN,
        deployments: Deployments::Any,
    };
    let settings = PoolSettings { backends: (0..count).map(backend).collect(), lanes: 10_000 };
    let mut pool = Pool::new(settings, 7);
    (0..count).for_each(|index| pool.set_credential(index, true));
    pool
}

fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn answered_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-ratelimit-limit-tokens", "30000"),
        ("x-ratelimit-remaining-tokens", "29000"),
        ("x-ratelimit-remaining-requests", "179"),
        ("x-ms-region", "West Europe"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}

fn request(pool: &mut Pool, now: Instant, headers: &HeaderMap, conversation: Option<u64>) {
    let mut attempts = Attempts::default();
    let pick =
        pool.pick(now, black_box(&Ask { conversation, ..ASK }), &mut attempts).expect("some lane admits");
    pool.answered(now, &pick, headers, &mut attempts);
    pool.report(now, pick, Verdict::Served { tokens: 900 }, &mut attempts);
}

fn happy(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick, answered, report");
    let headers = answered_headers();
    for (conversation, how) in [(None, "drawn"), (Some(7), "at home")] {
        for count in [3, 8, 200] {
            let (mut pool, now) = (pool(count), start());
            group.bench_function(BenchmarkId::new(how, count), |bencher| {
                bencher.iter(|| request(&mut pool, now, &headers, conversation));
            });
        }
    }
    group.finish();
}

/// All lanes but one cool.
fn throttled(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("all but one throttled");
    let headers = answered_headers();
    for count in [3, 8, 200] {
        let (mut pool, now) = (pool(count), start());
        let attempts = &mut Attempts::default();
        for _ in 1..count {
            let pick = pool.pick(now, &ASK, attempts).expect("some lane admits");
            let told = Told { duration: Duration::from_secs(30), reason: Reason::RetryAfter };
            pool.report(now, pick, Verdict::Throttled { told, quota: Quota::default() }, attempts);
        }
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| request(&mut pool, now, &headers, None));
        });
    }
    group.finish();
}

/// What a 429's head and body cost to read: the header work of a failover.
fn judged(criterion: &mut Criterion) {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("retry-after", "7"),
        ("retry-after-ms", "6650"),
        ("x-ratelimit-limit-tokens", "30000"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "7"),
        ("policy-id", "DeploymentRatelimit-Token"),
        ("x-ms-region", "West US"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let body = br#"{"error":{"code":"429","message":"Requests to the ChatCompletions_Create Operation have exceeded token rate limit. Please retry after 7 seconds."}}"#;
    let answer = Answer {
        status: StatusCode::TOO_MANY_REQUESTS,
        headers: &headers,
        body,
        service_tier: None,
        callers_credential: false,
        looked_for: false,
    };
    criterion.bench_function("judge a 429", |bencher| {
        bencher.iter(|| judge(black_box(&answer), &ASK, &mut Attempts::default()));
    });
}

/// An id told by an answer, and looked up by the request that names it; the map is full, so that each new one takes an old
/// one's place.
fn pinned(criterion: &mut Criterion) {
    let backends = pool(8).backend_ids();
    let mut pins = Pins::new(PinSettings { ids: 100_000, home: 0 }, backends.clone());
    let ids: Vec<[String; 1]> = (0..200_000).map(|number| [format!("resp_{number:048x}")]).collect();
    ids.iter().for_each(|[id]| pins.made(id, backends[0], Some("app")));
    let (mut at, now) = (0, start());
    criterion.bench_function("an id noted and looked up among 100,000", |bencher| {
        bencher.iter(|| {
            at = (at + 1) % ids.len();
            pins.made(&ids[at][0], backends[at % 8], Some("app"));
            black_box(pins.find(now, &ids[at], Some("app")))
        });
    });
}

/// What the page, a scrape and the history look at, once a second: for so long nobody is picked.
fn looked_at(criterion: &mut Criterion) {
    let headers = answered_headers();
    let (mut pool, now) = (pool(200), start());
    for conversation in 0..2_000 {
        request(&mut pool, now, &headers, Some(conversation));
    }
    criterion.bench_function("a snapshot of 200 backends", |bencher| bencher.iter(|| pool.snapshot(now)));
}

criterion_group!(benches, happy, throttled, judged, pinned, looked_at);
criterion_main!(benches);
