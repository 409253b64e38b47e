//! What one request costs in the pool: pick, answered, report, on the happy path and around throttled lanes.
//! The promise is well under 1 µs at 8 backends, without an allocation.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue};
use sidestep::balance::{
    Ask, Attempts, BackendSettings, Deployments, Pool, PoolSettings, Quota, Reason, Told, Verdict,
};

const ASK: Ask<'static> = Ask {
    deployment: Some("gpt-4o"),
    family: "inference",
    operation: "chat",
    charge: 1_000,
    streamed: true,
    harmless: true,
    lowest_priority: None,
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

fn request(pool: &mut Pool, now: Instant, headers: &HeaderMap) {
    let mut attempts = Attempts::default();
    let pick = pool.pick(now, black_box(&ASK), &mut attempts).expect("some lane admits");
    pool.answered(now, &pick, headers, &mut attempts);
    pool.report(now, pick, Verdict::Served { tokens: 900 }, &mut attempts);
}

fn happy(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick, answered, report");
    let headers = answered_headers();
    for count in [3, 8, 200] {
        let (mut pool, now) = (pool(count), start());
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| request(&mut pool, now, &headers));
        });
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
            bencher.iter(|| request(&mut pool, now, &headers));
        });
    }
    group.finish();
}

criterion_group!(benches, happy, throttled);
criterion_main!(benches);
