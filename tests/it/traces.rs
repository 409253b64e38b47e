//! Traces: what a receiver of OTLP gets, decoded by the test, and that no request ever suffers for it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use sidestep::simulator::Fault;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::fixture::backend::{EVENTS, PlayedBackend, answer, chunk};
use super::fixture::caller::post;
use super::fixture::tls::Authority;
use super::fixture::{
    Answer, CHAT, Caller, QUESTION, RESPONSE_STREAMED, RESPONSES, STREAMED, Scene, Stage, eventually, key_of,
    settings, within,
};
use super::process::Running;

/// A receiver of OTLP over HTTP, played by the test.
#[derive(Clone)]
struct Collector {
    address: SocketAddr,
    got: Arc<Mutex<Vec<(http::request::Parts, Bytes)>>>,
    /// So many are answered 503 first.
    refuses: Arc<AtomicUsize>,
    status: Arc<Mutex<StatusCode>>,
}

impl Collector {
    async fn listen() -> Self {
        Self::listen_at((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    async fn listen_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let collector = Self::at(listener.local_addr().unwrap());
        let serving = collector.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(socket));
            }
        });
        collector
    }

    fn at(address: SocketAddr) -> Self {
        let status = Arc::new(Mutex::new(StatusCode::OK));
        Self { address, got: Arc::default(), refuses: Arc::default(), status }
    }

    async fn serve(self, socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = service_fn(move |request: Request<Incoming>| {
            let this = self.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let refuses = this.refuses.load(Ordering::Relaxed);
                let mut answer = Response::new(Full::new(Bytes::new()));
                if refuses > 0 {
                    this.refuses.store(refuses - 1, Ordering::Relaxed);
                    *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                } else {
                    *answer.status_mut() = *this.status.lock().unwrap();
                    this.got.lock().unwrap().push((head, body));
                }
                hyper::Result::Ok(answer)
            }
        });
        let _closed =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn settings(&self, sample: &str) -> String {
        format!("[traces]\nendpoint = \"{}\"\nsample = {sample}", self.url())
    }

    fn messages(&self) -> Vec<ExportTraceServiceRequest> {
        let got = self.got.lock().unwrap();
        got.iter().map(|(_, body)| ExportTraceServiceRequest::decode(body.clone()).unwrap()).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let resources = self.messages().into_iter().flat_map(|message| message.resource_spans);
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    /// The spans of one request: its own, then its attempts by time.
    async fn trace(&self) -> (Span, Vec<Span>) {
        let is_request = |span: &Span| span.kind == SpanKind::Server as i32;
        eventually("a request's span", || self.spans().iter().any(is_request)).await;
        let (mut requests, mut attempts): (Vec<Span>, Vec<Span>) =
            self.spans().into_iter().partition(is_request);
        assert_eq!(requests.len(), 1, "{requests:?}");
        attempts.sort_by_key(|span| span.start_time_unix_nano);
        (requests.remove(0), attempts)
    }
}

fn map(attributes: &[KeyValue]) -> BTreeMap<&str, String> {
    let shown = |fact: &KeyValue| match fact.value.as_ref().unwrap().value.as_ref().unwrap() {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        Value::DoubleValue(_) => "a number".to_owned(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|fact| (fact.key.as_str(), shown(fact))).collect()
}

/// The span has these attributes, among others.
#[track_caller]
fn assert_facts<const N: usize>(span: &Span, expected: [(&str, &str); N]) {
    let facts = map(&span.attributes);
    for (key, value) in expected {
        assert_eq!(facts.get(key).map(String::as_str), Some(value), "{key} in {facts:?}");
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn traced(scene: Scene, collector: &Collector) -> Stage {
    scene.toml(&collector.settings("1.0")).start()
}

/// West throttles, east answers.
async fn failed_over(collector: &Collector) -> (Stage, Answer) {
    let scene = Scene::of([("west", 1), ("east", 2)])
        .toml("[[callers.keys]]\nname = \"chat-app\"\nkey = \"key-of-the-chat-app\"");
    let stage = traced(scene, collector);
    stage.resource("west").fault(Fault::throttle_seconds(30));
    let mut request = post(CHAT, QUESTION);
    request.headers_mut().insert("api-key", "key-of-the-chat-app".parse().unwrap());
    let answer = stage.caller().send(request).await.whole().await;
    assert_eq!(answer.status, 200);
    (stage, answer)
}

#[tokio::test]
async fn the_span_of_a_request_is_tied_to_answer_and_log() {
    let collector = Collector::listen().await;
    let (stage, answer) = failed_over(&collector).await;
    let id = answer.header("x-sidestep-request-id").unwrap();
    let (request, _) = collector.trace().await;
    assert_eq!(request.name, "POST /openai/deployments/{deployment}/chat/completions");
    assert_eq!((request.parent_span_id.len(), request.span_id.len(), request.trace_id.len()), (0, 8, 16));
    assert_eq!(request.status, None);
    assert_facts(
        &request,
        [
            ("http.request.method", "POST"),
            ("http.route", "/openai/deployments/{deployment}/chat/completions"),
            ("http.response.status_code", "200"),
            ("sidestep.request_id", id),
            ("sidestep.caller", "chat-app"),
            ("sidestep.operation", "chat"),
            ("sidestep.deployment", "gpt-4o"),
            ("sidestep.backend", "east"),
            ("sidestep.attempts", "2"),
            ("sidestep.exhausted", "false"),
            ("sidestep.ended", "completed"),
        ],
    );
    assert!(!map(&request.attributes).contains_key("error.type"));

    let trace_id = hex(&request.trace_id);
    assert!(trace_id.ends_with(id), "{trace_id} {id}");
    let log = stage.log();
    let line = log.lines().find(|line| line.contains(id)).unwrap();
    assert!(line.contains(&format!("\"trace_id\":\"{trace_id}\"")), "{line}");

    let got = collector.got.lock().unwrap();
    let head = &got[0].0;
    assert_eq!((head.method.as_str(), head.uri.path()), ("POST", "/v1/traces"));
    assert_eq!(head.headers["content-type"], "application/x-protobuf");
}

#[tokio::test]
async fn a_failover_is_two_attempts_under_one_request() {
    let collector = Collector::listen().await;
    let (_stage, answer) = failed_over(&collector).await;
    let id = answer.header("x-sidestep-request-id").unwrap();
    let (request, attempts) = collector.trace().await;
    let [west, east] = attempts.try_into().unwrap();
    for span in [&west, &east] {
        assert_eq!((&span.trace_id, &span.parent_span_id), (&request.trace_id, &request.span_id));
        assert_eq!((span.kind, span.name.as_str()), (SpanKind::Client as i32, "chat gpt-4o"));
        assert!(request.start_time_unix_nano <= span.start_time_unix_nano);
        assert!(span.start_time_unix_nano < span.end_time_unix_nano);
        assert!(span.end_time_unix_nano <= request.end_time_unix_nano);
        assert_facts(
            span,
            [
                ("gen_ai.operation.name", "chat"),
                ("gen_ai.provider.name", "azure.ai.openai"),
                ("gen_ai.request.model", "gpt-4o"),
                ("server.address", "127.0.0.1"),
                ("sidestep.request_id", id),
                ("sidestep.caller", "chat-app"),
            ],
        );
    }
    assert!(west.end_time_unix_nano <= east.start_time_unix_nano);
    assert_facts(
        &west,
        [
            ("sidestep.backend", "west"),
            ("sidestep.verdict", "throttled"),
            ("http.response.status_code", "429"),
            ("error.type", "429"),
        ],
    );
    assert!(!map(&west.attributes).contains_key("gen_ai.usage.input_tokens"));
    let code = |span: &Span| span.status.as_ref().map(|status| status.code);
    assert_eq!((code(&west), code(&east)), (Some(2), None));
    let usage = |kind: &str| answer.json()["usage"][kind].to_string();
    assert_facts(
        &east,
        [
            ("sidestep.backend", "east"),
            ("sidestep.verdict", "served"),
            ("http.request.resend_count", "1"),
            ("gen_ai.usage.input_tokens", &usage("prompt_tokens")),
            ("gen_ai.usage.output_tokens", &usage("completion_tokens")),
        ],
    );
}

#[tokio::test]
async fn a_stream_is_one_attempt_until_its_end_and_tells_its_tokens() {
    let collector = Collector::listen().await;
    let stage = traced(Scene::of([("west", 1)]), &collector);
    let answer = stage.caller().post(RESPONSES, RESPONSE_STREAMED).await;
    assert!(answer.complete);
    let (request, attempts) = collector.trace().await;
    assert_eq!(request.name, "POST /openai/v1/responses");
    let [attempt] = attempts.try_into().unwrap();
    assert_eq!(
        (attempt.name.as_str(), attempt.end_time_unix_nano),
        ("chat gpt-4o", request.end_time_unix_nano)
    );
    let facts = map(&attempt.attributes);
    assert_eq!(facts["gen_ai.request.stream"], "true");
    assert!(facts.contains_key("gen_ai.response.time_to_first_chunk"), "{facts:?}");
    assert!(facts.contains_key("gen_ai.usage.output_tokens"), "{facts:?}");
}

#[tokio::test]
async fn the_callers_span_is_the_parent_and_its_flag_decides_nothing() {
    let collector = Collector::listen().await;
    let backend = PlayedBackend::listen().await;
    let scene = Scene::default().played("west", 1, backend.address);
    // Traced is the half of ids whose second half begins with a digit below 8.
    let stage = scene.toml(&collector.settings("0.5")).start();
    let parent = |half: &str, flags: &str| format!("00-0af7651916cd43dd{half}-b7ad6b7169203331-{flags}");
    for (half, flags) in [("8448eb211c80319c", "01"), ("7448eb211c80319c", "00"), ("f448eb211c80319c", "01")]
    {
        let mut request = post(CHAT, QUESTION);
        request.headers_mut().insert("traceparent", parent(half, flags).parse().unwrap());
        request.headers_mut().insert("tracestate", "vendor=its-state".parse().unwrap());
        let caller = stage.caller();
        let call = tokio::spawn(async move { caller.send(request).await.whole().await });
        let (mut wire, sent) = backend.request().await;
        assert!(!sent.contains("traceparent") && !sent.contains("its-state"), "{sent}");
        wire.write(&answer("200 OK", "", "{}")).await;
        assert_eq!(call.await.unwrap().status, 200);
    }
    let (request, attempts) = collector.trace().await;
    assert_eq!(hex(&request.trace_id), "0af7651916cd43dd7448eb211c80319c");
    assert_eq!(hex(&request.parent_span_id), "b7ad6b7169203331");
    assert_eq!(request.trace_state, "vendor=its-state");
    assert_eq!((attempts.len(), &attempts[0].parent_span_id), (1, &request.span_id));
    drop(stage);
    assert_eq!(collector.spans().len(), 2, "the others were traced as well");
}

#[tokio::test]
async fn trace_context_travels_as_it_is_where_the_settings_forward_it() {
    let collector = Collector::listen().await;
    let backend = PlayedBackend::listen().await;
    let scene = Scene::default()
        .played("west", 1, backend.address)
        .toml("[upstream]\nforward_headers = [\"traceparent\"]");
    let stage = traced(scene, &collector);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let mut request = post(CHAT, QUESTION);
    request.headers_mut().insert("traceparent", parent.parse().unwrap());
    let caller = stage.caller();
    let call = tokio::spawn(async move { caller.send(request).await.whole().await });
    let (mut wire, sent) = backend.request().await;
    assert!(sent.contains(&format!("traceparent: {parent}\r\n")), "{sent}");
    wire.write(&answer("200 OK", "", "{}")).await;
    assert_eq!(call.await.unwrap().status, 200);
}

#[tokio::test]
async fn an_answer_of_our_own_is_a_span_with_its_code_and_without_attempts() {
    let collector = Collector::listen().await;
    let stage = traced(Scene::of([("west", 1)]), &collector);
    let answer = stage.caller().post("/openai/v1/chat/completions", "no json").await;
    assert_eq!(answer.status, 400);
    let (request, attempts) = collector.trace().await;
    let facts = map(&request.attributes);
    assert_eq!((attempts.len(), facts["sidestep.ended"].as_str()), (0, "answered here"));
    assert_eq!(facts["error.type"], answer.code());
    assert_eq!(request.status, None, "what a caller did wrong is no error of ours");
    assert_one_id(&stage, &answer, &answer.json(), &request);
}

/// The request is found by one id wherever it is told of; `told` is our error as the caller got it.
#[track_caller]
fn assert_one_id(stage: &Stage, answer: &Answer, told: &serde_json::Value, request: &Span) {
    let id = answer.header("x-sidestep-request-id").unwrap();
    assert_eq!(told["error"]["request_id"], id);
    assert_facts(request, [("sidestep.request_id", id)]);
    assert!(hex(&request.trace_id).ends_with(id));
    let log = stage.log();
    let found: Vec<_> = log.lines().filter(|line| line.contains("total_ms")).collect();
    assert!(found.len() == 1 && found[0].contains(&format!("\"id\":\"{id}\"")), "{log}");
    // SDKs show this one; of an answer that is a backend's it is the backend's own.
    let shown = answer.header("x-request-id").unwrap();
    assert_eq!(shown == id, answer.status != 200);
}

#[tokio::test]
async fn the_event_that_ends_a_broken_stream_has_the_id_of_header_log_and_span() {
    for (path, body) in [(CHAT, STREAMED), (RESPONSES, RESPONSE_STREAMED)] {
        let collector = Collector::listen().await;
        let stage = traced(Scene::of([("west", 1)]), &collector);
        stage.resource("west").fault(Fault::CutAfterEvents { events: 6, reset: false });
        let answer = stage.caller().post(path, body).await;
        assert_eq!((answer.status, answer.complete), (200, false));
        let last = answer.text().trim_end().rsplit("data: ").next().unwrap();
        let (request, _) = collector.trace().await;
        assert_one_id(&stage, &answer, &serde_json::from_str(last).unwrap(), &request);
    }
}

#[tokio::test]
async fn a_caller_that_leaves_in_the_middle_ends_both_spans() {
    let collector = Collector::listen().await;
    let backend = PlayedBackend::listen().await;
    let stage = traced(Scene::default().played("west", 1, backend.address), &collector);
    let caller = stage.caller();
    let call = tokio::spawn(async move { caller.open(CHAT, STREAMED).await });
    let (mut wire, _) = backend.request().await;
    wire.write(EVENTS).await;
    let event = "data: {\"choices\":[{\"delta\":{\"content\":\"a secret word\"}}]}\n\n";
    wire.write(&chunk(event)).await;
    let mut reply = call.await.unwrap();
    reply.until("a secret word").await;
    drop(reply);
    let (request, attempts) = collector.trace().await;
    assert_eq!(map(&request.attributes)["sidestep.ended"], "caller left");
    assert_eq!((attempts.len(), attempts[0].end_time_unix_nano), (1, request.end_time_unix_nano));
}

#[tokio::test]
async fn off_sends_nothing_and_names_no_trace() {
    let collector = Collector::listen().await;
    let stage = Scene::of([("west", 1)])
        .toml("[traces]\nendpoint = \"off\"")
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
        .start();
    assert_eq!(stage.chat().await.status, 200);
    assert!(!stage.log().contains("trace_id"));
    stage.balancer.drain();
    eventually("the end", || stage.balancer.ended()).await;
    assert_eq!(collector.got.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_receiver_behind_tls_is_trusted_by_the_ca_file_of_the_backends() {
    let authority = Authority::new();
    let pair = authority.issue(&["localhost"]);
    let acceptor = TlsAcceptor::from(Arc::new(pair.server(&["http/1.1"])));
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, authority.pem()).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let collector = Collector::at(listener.local_addr().unwrap());
    let serving = collector.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            if let Ok(socket) = acceptor.accept(socket).await {
                tokio::spawn(serving.clone().serve(socket));
            }
        }
    });
    let stage = Scene::of([("west", 1)])
        .toml(&format!("[upstream]\nca_file = \"{}\"", ca_file.display()))
        .toml(&format!("[traces]\nendpoint = \"https://localhost:{}\"", collector.address.port()))
        .start();
    assert_eq!(stage.chat().await.status, 200);
    assert_eq!(collector.trace().await.1.len(), 1);
}

#[tokio::test]
async fn what_waits_at_a_shutdown_is_sent_before_the_end() {
    let collector = Collector::listen().await;
    let stage = Scene::of([("west", 1)])
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
        .variable("OTEL_EXPORTER_OTLP_HEADERS", "x-secret=of-the-collector")
        .variable("OTEL_SERVICE_NAME", "chat-front")
        .start();
    assert_eq!(stage.chat().await.status, 200);
    stage.balancer.drain();
    eventually("the end", || stage.balancer.ended()).await;
    assert_eq!(collector.spans().len(), 2);
    let resource = collector.messages()[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(map(&resource.attributes)["service.name"], "chat-front");
    assert_eq!(collector.got.lock().unwrap()[0].0.headers["x-secret"], "of-the-collector");
    assert!(!stage.log().contains("of-the-collector"));
}

/// The binary before `west`, with spans for `collector`.
fn process(west: &Stage, collector: SocketAddr) -> (Running, Caller, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"off\"\ndrain_timeout = \"1s\"\n\
         [[backends]]\nurl = \"{}\"\napi_key = \"{}\"",
        west.resource("west").url(),
        key_of("west")
    );
    std::fs::write(folder.path().join("sidestep.toml"), text).unwrap();
    let endpoint = format!("http://{collector}");
    let running = Running::start(folder.path(), &[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
    let caller = Caller::http1(running.addresses().0);
    (running, caller, folder)
}

#[tokio::test]
async fn a_receiver_that_is_down_hurts_no_request_and_is_told_once_and_gets_all_when_it_is_back() {
    let west = Scene::of([("west", 1)]).start();
    // Nobody listens there any more.
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let (running, caller, _folder) = process(&west, address);
    assert_eq!(caller.post(CHAT, QUESTION).await.status, 200);
    running.out().wait_for(&["WARN", "traces are not taken", &address.to_string()]);
    for _ in 0..4 {
        assert_eq!(caller.post(CHAT, QUESTION).await.status, 200);
    }
    let collector = Collector::listen_at(address).await;
    eventually("the good news", || running.out().text().contains("traces are taken again")).await;
    eventually("all spans", || collector.spans().len() == 10).await;
    running.signal("TERM");
    let (status, out, _) = running.end();
    assert!(status.success());
    assert_eq!(out.matches("traces are not taken").count(), 1, "{out}");
    assert_eq!(out.matches("request id=").count(), 5, "{out}");
}

#[tokio::test]
async fn a_receiver_that_never_answers_holds_up_neither_requests_nor_the_end() {
    let west = Scene::of([("west", 1)]).start();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (running, caller, _folder) = process(&west, listener.local_addr().unwrap());
    assert_eq!(caller.post(CHAT, QUESTION).await.status, 200);
    let _silent = within("the receiver is asked", listener.accept()).await.unwrap();
    assert_eq!(caller.post(CHAT, QUESTION).await.status, 200);
    running.signal("TERM");
    let (status, out, _) = running.end();
    assert!(status.success() && out.contains("the last traces were not sent in time"), "{out}");
}

#[tokio::test]
async fn what_a_receiver_cannot_take_now_is_sent_again_and_what_it_refuses_is_counted() {
    let collector = Collector::listen().await;
    collector.refuses.store(1, Ordering::Relaxed);
    let scene = Scene::of([("west", 1)]).server("admin_listen = \"127.0.0.1:0\"");
    let stage = traced(scene, &collector);
    assert_eq!(stage.chat().await.status, 200);
    collector.trace().await;
    *collector.status.lock().unwrap() = StatusCode::INTERNAL_SERVER_ERROR;
    assert_eq!(stage.chat().await.status, 200);
    let admin = Caller::http1(stage.balancer.admin_address().unwrap());
    within("two spans are counted", async {
        while !admin.get("/metrics").await.text().contains("sidestep_spans_dropped_total 2\n") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(stage.chat().await.status, 200);
}

#[tokio::test]
async fn neither_secrets_nor_content_stand_in_what_is_sent() {
    let collector = Collector::listen().await;
    let scene = Scene::of([("west", 1), ("east", 2)])
        .toml("[[callers.keys]]\nname = \"chat-app\"\nkey = \"key-of-the-chat-app\"");
    let stage = traced(scene, &collector);
    stage.resource("west").fault(Fault::throttle_seconds(30));
    let body = r#"{"messages":[{"role":"user","content":"my secret plan"}],"user":"secret-user"}"#;
    for (path, body) in [
        (CHAT, body),
        ("/openai/deployments/gpt-4o/chat/completions?api-version=1&note=secret-query", body),
        ("/openai/v1/responses/resp_secret", ""),
        ("/openai/v1/secret-path/chat", body),
    ] {
        let mut request = post(path, body);
        request.headers_mut().insert("api-key", "key-of-the-chat-app".parse().unwrap());
        request.headers_mut().insert("x-mine", "secret-header".parse().unwrap());
        let _any = stage.caller().send(request).await.whole().await;
    }
    let mut wrong = post(CHAT, QUESTION);
    wrong.headers_mut().insert("api-key", "secret-wrong-key".parse().unwrap());
    *wrong.method_mut() = "SECRETMETHOD".parse().unwrap();
    let _refused = stage.caller().send(wrong).await.whole().await;
    stage.balancer.drain();
    eventually("the end", || stage.balancer.ended()).await;
    let got = collector.got.lock().unwrap();
    assert!(!got.is_empty());
    for (head, body) in &*got {
        let sent = format!("{:?}{}", head.headers, String::from_utf8_lossy(body)).to_lowercase();
        for secret in ["secret", "key-of-", "is anyone there", "plan"] {
            assert!(!sent.contains(secret), "{secret} in {sent}");
        }
    }
}

#[tokio::test]
async fn a_reload_switches_traces_on_and_off() {
    let collector = Collector::listen().await;
    let stage = Scene::of([("west", 1)]).start();
    assert_eq!(stage.chat().await.status, 200);
    let with = settings(&format!("{}\n{}", stage.text, collector.settings("1")));
    stage.balancer.reload(with).unwrap();
    assert_eq!(stage.chat().await.status, 200);
    collector.trace().await;
    stage.balancer.reload(settings(&stage.text)).unwrap();
    assert_eq!(stage.chat().await.status, 200);
    stage.balancer.drain();
    eventually("the end", || stage.balancer.ended()).await;
    assert_eq!(collector.spans().len(), 2);
}

#[tokio::test]
async fn after_a_reload_the_receiver_of_before_gets_nothing_more() {
    let (before, after) = (Collector::listen().await, Collector::listen().await);
    let stage = Scene::of([("west", 1)]).start();
    let with = |collector: &Collector| settings(&format!("{}\n{}", stage.text, collector.settings("1")));
    stage.balancer.reload(with(&before)).unwrap();
    assert_eq!(stage.chat().await.status, 200);
    before.trace().await;
    stage.balancer.reload(with(&after)).unwrap();
    for _ in 0..20 {
        assert_eq!(stage.chat().await.status, 200);
    }
    stage.balancer.drain();
    eventually("the end", || stage.balancer.ended()).await;
    assert_eq!((before.spans().len(), after.spans().len()), (2, 40));
}
