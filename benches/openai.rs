//! What the room `openai` costs on the request path: `cargo bench --bench openai`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::Method;
use sidestep::openai::{Api, EventScanner, UsageScanner, route, scan};

fn routes(c: &mut Criterion) {
    let mut group = c.benchmark_group("route");
    for (name, path) in [
        ("deployment", "/openai/deployments/gpt-4o/chat/completions"),
        ("v1", "/openai/v1/responses"),
        ("bare", "/embeddings"),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let found = route(&Method::POST, black_box(path), Some("api-version=2024-10-21"));
                found.map(|route| (route.upstream_path(None).len(), route.upstream_query(None).is_some()))
            });
        });
    }
    group.finish();
}

fn bodies(c: &mut Criterion) {
    let mut group = c.benchmark_group("scan");
    let turn =
        r#"{"role":"user","content":"How do I move a deployment to another region?\nStep by step, please."}"#;
    let chat = |turns: usize| {
        format!(
            r#"{{"messages":[{}],"temperature":0.7,"model":"gpt-4o","stream":true}}"#,
            vec![turn; turns].join(",")
        )
    };
    let image = format!(
        r#"{{"model":"gpt-4o","messages":[{{"role":"user","content":[{{"image_url":{{"url":"data:image/png;base64,{}"}}}}]}}]}}"#,
        "iVBORw0KGgoA".repeat(100_000)
    );
    let prose = format!(r#"{{"input":"{}","model":"gpt-4o"}}"#, "a long unescaped text ".repeat(10_000));
    for (name, body) in [
        ("chat 1.5 KB", chat(15)),
        ("chat 200 KB", chat(2_000)),
        ("prose 220 KB", prose),
        ("image 1.2 MB", image),
    ] {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |b| b.iter(|| scan(black_box(body.as_bytes()))));
    }
    group.finish();
}

fn chunks(c: &mut Criterion) {
    let mut group = c.benchmark_group("chunk");
    let event = r#"data: {"choices":[{"content_filter_results":{"hate":{"filtered":false,"severity":"safe"},"self_harm":{"filtered":false,"severity":"safe"},"sexual":{"filtered":false,"severity":"safe"},"violence":{"filtered":false,"severity":"safe"}},"delta":{"content":" region"},"finish_reason":null,"index":0,"logprobs":null}],"created":1790000000,"id":"chatcmpl-1","model":"gpt-4o-2024-11-20","object":"chat.completion.chunk","system_fingerprint":"fp_1"}"#;
    let event = format!("{event}\n\n");
    group.throughput(Throughput::Bytes(event.len() as u64));
    group.bench_function("usage scanner, one event", |b| {
        let mut scanner = UsageScanner::default();
        b.iter(|| scanner.feed(black_box(event.as_bytes())));
    });
    group.bench_function("event scanner, one event", |b| {
        let mut scanner = EventScanner::new(Api::Chat);
        b.iter(|| scanner.pass(black_box(event.as_bytes())));
    });
    let vectors = format!(r#"{{"data":[{{"embedding":"{}"}}]"#, "QUJDREVG".repeat(8_000));
    group.throughput(Throughput::Bytes(vectors.len() as u64));
    group.bench_function("usage scanner, 64 KB of an answer", |b| {
        let mut scanner = UsageScanner::default();
        b.iter(|| scanner.feed(black_box(vectors.as_bytes())));
    });
    group.finish();
}

criterion_group!(benches, routes, bodies, chunks);
criterion_main!(benches);
