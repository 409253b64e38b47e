//! What telling costs a request: `cargo bench --bench telemetry`.
//!
//! Times are processor time of the whole process, the log's writing thread included, so that a busy machine does not
//! change them much. `off` is a request with everything switched off: its own record is filled all the same. `access
//! log` and `metrics` add one thing each. `everything` is what a running balancer does for each request: a record
//! formatted and handed to the writer, counters of the worker, and the share of one request in what is looked at once
//! a second, at 200 requests a second. What the page's history costs each second, whatever the traffic, stands apart. The
//! output is `/dev/null`.

use std::cell::RefCell;
use std::fs::File;
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use sidestep::admin::{Admin, Doors};
use sidestep::balance::{BackendSettings, Deployments, Pool, PoolSettings, PoolSnapshot};
use sidestep::telemetry::access::{AccessLog, AccessRecord, AttemptNote, AttemptNotes, Ended, Tokens};
use sidestep::telemetry::callers::CallersLately;
use sidestep::telemetry::health::Readiness;
use sidestep::telemetry::metrics::{Lost, Metrics, PoolGauges, Troubled, WorkerMetrics};
use sidestep::telemetry::request_id::RequestIds;
use sidestep::telemetry::sink::Sink;
use sidestep::telemetry::{LogFormat, clock};
use tokio::runtime::Builder;
use tokio::task::LocalSet;

/// One request's record as the proxy fills it: two attempts, tokens read.
fn record<'a>(ids: &RequestIds, backends: &'a [Arc<str>], attempts: &'a AttemptNotes) -> AccessRecord<'a> {
    AccessRecord {
        id: ids.next_id(),
        trace: None,
        caller: Some("chat-app"),
        method: "POST",
        operation: "chat",
        deployment: Some("gpt-4o"),
        deployment_there: Some("gpt-4o-east"),
        status: 200,
        backends,
        served_by: Some(1),
        attempts,
        exhausted: false,
        error: None,
        held: None,
        first_byte: Some(Duration::from_micros(364_324)),
        total: Duration::from_micros(1_685_042),
        ours: Duration::from_micros(116),
        tokens: Some(Tokens { prompt: 1_208, cached: 1_024, completion: 358, estimated: false }),
        stream: true,
        ended: Ended::Completed,
    }
}

fn log(level: &str, format: LogFormat) -> (AccessLog, Sink) {
    let out = File::options().write(true).open("/dev/null").expect("there is a /dev/null");
    let sink = Sink::new(out, format).expect("a thread");
    (AccessLog::new(sink.clone(), format, &level.parse().expect("a level")), sink)
}

/// One request, told to whoever is there; at its first attempt, or at the second.
fn request(
    ids: &RequestIds,
    backends: &[Arc<str>],
    log: &AccessLog,
    metrics: Option<&WorkerMetrics>,
    first: bool,
) {
    let under_way = metrics.map(WorkerMetrics::begin);
    let mut attempts = AttemptNotes::default();
    if !first {
        attempts.push(AttemptNote { status: 429, ..AttemptNote::new(0, "throttled") });
    }
    attempts.push(AttemptNote { status: 200, ..AttemptNote::new(1, "served") });
    let record = record(ids, backends, &attempts);
    if let Some(metrics) = metrics {
        metrics.observe(black_box(&record));
    }
    log.write(black_box(&record));
    drop(under_way);
}

/// Processor time of all threads so far. What the running one has used is counted when it is scheduled anew.
fn cpu() -> Duration {
    std::thread::yield_now();
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux");
    let used =
        threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok());
    Duration::from_nanos(used.filter_map(|line| line.split(' ').next()?.parse::<u64>().ok()).sum())
}

/// Processor time of so many calls, in batches between which all that was logged is written.
fn batches(calls: u64, log: &Sink, mut call: impl FnMut()) -> Duration {
    let before = cpu();
    for number in 1..=calls {
        call();
        if number.is_multiple_of(1_000) {
            let _late = log.flush(Duration::from_secs(10));
        }
    }
    let _late = log.flush(Duration::from_secs(10));
    cpu().saturating_sub(before)
}

fn cost(c: &mut Criterion) {
    let backends: Vec<Arc<str>> = ["west", "east", "north"].map(Arc::from).into();
    let ids = RequestIds::new(1, 0);
    let all = Metrics::new();
    let worker = all.worker();
    let mut lately = CallersLately::default();
    let mut group = c.benchmark_group("a request's telemetry");
    group.throughput(Throughput::Elements(1));
    for (name, level, format, metrics) in [
        ("off", "off", LogFormat::Text, false),
        ("access log, text", "info", LogFormat::Text, false),
        ("access log, json", "info", LogFormat::Json, false),
        ("metrics", "off", LogFormat::Text, true),
        ("everything, text", "info", LogFormat::Text, true),
        ("everything, json", "info", LogFormat::Json, true),
        ("everything, text, first attempt", "info", LogFormat::Text, true),
        ("everything, json, first attempt", "info", LogFormat::Json, true),
    ] {
        let first = name.ends_with("first attempt");
        let (log, sink) = log(level, format);
        let mut number = 0_u32;
        group.bench_function(name, |b| {
            b.iter_custom(|calls| {
                batches(calls, &sink, || {
                    request(&ids, &backends, &log, metrics.then_some(&worker), first);
                    number = number.wrapping_add(1);
                    if metrics && number.is_multiple_of(200) {
                        lately.look(clock::now(), all.callers());
                        black_box(all.totals());
                    }
                })
            });
        });
        assert_eq!(sink.dropped(), 0);
    }
    group.finish();
    once_a_second(c, &all, &mut lately);
}

/// The looks of one second at a pool of 20 backends with three deployments each, when nobody watches.
fn history(c: &mut BenchmarkGroup<'_, WallTime>) {
    let deployments =
        ["gpt-4o", "o3", "text-embedding-3-large"].map(|name| (name.to_owned(), name.to_owned()));
    let backends = (0..20).map(|n| BackendSettings {
        name: format!("backend-{n}").into(),
        url: "https://contoso.openai.azure.com".into(),
        priority: 1,
        weight: NonZeroU32::MIN,
        deployments: Deployments::Named(deployments.iter().cloned().collect()),
    });
    let pool = Pool::new(PoolSettings { backends: backends.collect(), lanes: 1_000 }, 1);
    let pool = Rc::new(RefCell::new(pool));
    let doors = Doors {
        stir: Arc::default(),
        readiness: Rc::new(|| Readiness::Draining),
        // One request is always under way: at rest nobody looks.
        pool: Rc::new(move || PoolSnapshot { in_flight: 1, ..pool.borrow_mut().snapshot(clock::now()) }),
        changes: Rc::new(|| 0),
        failed: Rc::new(sidestep::admin::Failed::default),
        status: Rc::new(|_| unreachable!("nobody watches")),
        explain: Rc::new(|_| Err(String::new())),
        requests: Rc::new(|_| Troubled::default()),
        metrics: Rc::new(String::new),
        set_drained: Rc::new(|_, _| false),
    };
    let admin = Rc::new(Admin::new(SocketAddr::from(([127, 0, 0, 1], 9080)), None, doors));
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let local = LocalSet::new();
    local.spawn_local(admin.look());
    c.bench_function("history of 60 lanes", |b| {
        b.iter(|| local.block_on(&runtime, async { tokio::time::sleep(Duration::from_secs(1)).await }));
    });
}

/// Four workers write so many records a second for three seconds, in steps of a millisecond, to a pipe that somebody
/// reads. Told: what was lost. Not a measurement of criterion's, because the answer is a count.
fn lossless(per_second: u32) -> std::io::Result<()> {
    const WORKERS: u32 = 4;
    const SECONDS: u32 = 3;
    let (mut reader, writer) = std::io::pipe()?;
    let sink = Sink::new(writer, LogFormat::Text)?;
    let read = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&read);
    // Never joined: the writer's thread keeps the pipe open.
    std::thread::spawn(move || {
        let mut piece = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = reader.read(&mut piece) {
            let lines = memchr::memchr_iter(b'\n', &piece[..length]).count();
            counted.fetch_add(u32::try_from(lines).unwrap_or(u32::MAX), Ordering::Relaxed);
        }
    });
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let log = AccessLog::new(sink.clone(), LogFormat::Text, &"info".parse().expect("a level"));
            scope.spawn(move || {
                let (ids, began) = (RequestIds::new(1, u16::try_from(worker).unwrap_or(0)), clock::now());
                let backends: Vec<Arc<str>> = ["west", "east", "north"].map(Arc::from).into();
                for step in 1..=SECONDS * 1_000 {
                    for _ in 0..per_second / WORKERS / 1_000 {
                        request(&ids, &backends, &log, None, false);
                    }
                    let next = began + Duration::from_millis(step.into());
                    std::thread::sleep(next.saturating_duration_since(clock::now()));
                }
            });
        }
    });
    let written = per_second / WORKERS / 1_000 * WORKERS * 1_000 * SECONDS;
    let _late = sink.flush(Duration::from_secs(10));
    let patience = clock::now() + Duration::from_secs(2);
    while read.load(Ordering::Relaxed) < written && clock::now() < patience {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (read, dropped) = (read.load(Ordering::Relaxed), sink.dropped());
    let told =
        format!("access log at {per_second} lines/s: {written} written, {read} read, {dropped} dropped");
    writeln!(std::io::stdout(), "{told}")
}

fn losses(_: &mut Criterion) {
    for per_second in [20_000, 40_000, 80_000] {
        lossless(per_second).expect("a pipe and threads");
    }
}

fn once_a_second(c: &mut Criterion, all: &Metrics, lately: &mut CallersLately) {
    let mut group = c.benchmark_group("once a second or a scrape");
    history(&mut group);
    group.bench_function("callers", |b| b.iter(|| lately.look(clock::now(), all.callers())));
    group.bench_function("scrape", |b| b.iter(|| all.render(PoolGauges::default(), Lost::default()).len()));
    group.finish();
}

criterion_group!(benches, cost, losses);
criterion_main!(benches);
