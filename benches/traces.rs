//! What traces cost a request on its worker: off, not in the share, and traced (noted, turned into spans, put in line).

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue};
use sidestep::telemetry::access::{AccessRecord, AttemptNote, AttemptNotes, Ended, Tokens};
use sidestep::telemetry::request_id::RequestIds;
use sidestep::telemetry::traces::{Spans, Trace, message};

fn spans(sample: Option<f64>) -> Spans {
    let spans = Spans::new(7);
    spans.set(sample);
    spans
}

fn record<'a>(ids: &RequestIds, backends: &'a [Arc<str>], attempts: &'a AttemptNotes) -> AccessRecord<'a> {
    AccessRecord {
        id: ids.next_id(),
        trace: None,
        caller: Some("chat-app"),
        method: "POST",
        operation: "chat",
        held: None,
        deployment_there: None,
        deployment: Some("gpt-4o"),
        status: 200,
        backends,
        served_by: Some(1),
        attempts,
        exhausted: false,
        error: None,
        first_byte: Some(Duration::from_millis(340)),
        total: Duration::from_millis(812),
        ours: Duration::from_micros(210),
        tokens: Some(Tokens { prompt: 120, cached: 64, completion: 45, estimated: false }),
        stream: true,
        ended: Ended::Completed,
    }
}

/// As the ledger does it, for a request that fails over once.
fn note(trace: &mut Trace, now: Instant) {
    trace.set_route("/openai/deployments/{deployment}/chat/completions".to_owned());
    for (status, address) in [(429, "west.openai.azure.com"), (200, "east.openai.azure.com")] {
        trace.tries(now, (address, 443), Some(Arc::from("gpt-4o")));
        trace.answered(status);
        trace.tried(now);
    }
    trace.commits(now);
}

fn traces(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("traces");
    let backends: [Arc<str>; 2] = ["west".into(), "east".into()];
    let mut attempts = AttemptNotes::default();
    attempts.push(AttemptNote { status: 429, ..AttemptNote::new(0, "throttled") });
    attempts.push(AttemptNote { status: 200, ..AttemptNote::new(1, "served") });
    let ids = RequestIds::new(1, 0);
    let now = tokio::time::Instant::now().into_std();
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    for (name, sample) in [("off", None), ("on, 1 %", Some(0.01)), ("on, all", Some(1.0))] {
        let spans = spans(sample);
        let mut count = 0_u32;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let record = record(&ids, &backends, &attempts);
                if let Some(mut trace) = spans.begin(black_box(&headers), record.id, now) {
                    note(&mut trace, now);
                    spans.end(&trace, black_box(&record));
                    count += 1;
                    // Otherwise the line is full, and what is dropped costs less.
                    if count.is_multiple_of(100) {
                        drop(spans.take());
                    }
                }
            });
        });
    }
    let spans = spans(Some(1.0));
    group.bench_function("encode a batch of 300 spans, on the control thread", |bencher| {
        let batch = || {
            for _ in 0..100 {
                let record = record(&ids, &backends, &attempts);
                if let Some(mut trace) = spans.begin(&headers, record.id, now) {
                    note(&mut trace, now);
                    spans.end(&trace, &record);
                }
            }
            spans.take()
        };
        bencher.iter_batched(batch, |batch| message(&[], batch), criterion::BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(benches, traces);
criterion_main!(benches);
