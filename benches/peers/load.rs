//! The fake upstream and the load of `benches/peers/run`: the same for every peer, and cheap.
//!
//! Plain TCP with just enough HTTP/1.1, because the answers are known. One thread, so that it fits on one core
//! beside itself. Only loopback; every mode ends by itself.
//!
//! ```text
//! peers_load upstream --ports 9001,9002,9003 [--throttled 9001] [--retry-after-ms 1000] [--tls DIR] --seconds 600
//! peers_load certificate --folder DIR                               for --tls, of `localhost`; and whom to trust
//! peers_load load   --port 8080 --connections 64 --seconds 5 [--rate 200] [--bytes 200000] [--path P] [--key K]
//! peers_load stream --port 8080 --connections 100 --seconds 5       events of open streams
//! peers_load hold   --port 8080 --connections 1000 --seconds 20     streams that stay silent after one event
//! ```
//! Each mode but `upstream` prints one JSON object. `GET /counters` on any upstream port tells what was asked.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

const HEADERS: &str = "content-type: application/json\r\ndate: Wed, 25 Nov 2026 02:00:00 GMT\r\n\
    apim-request-id: 2f0c7f6e-0a51-4bd8-8d8f-0d8f5b0f8a11\r\nazureml-model-session: d042-20261110\r\n\
    strict-transport-security: max-age=31536000; includeSubDomains; preload\r\nx-content-type-options: nosniff\r\n\
    x-ms-deployment-name: gpt-4o\r\nx-ms-region: East US\r\nx-ms-client-request-id: 0c7f-2f0c\r\n\
    x-ratelimit-limit-requests: 180000\r\nx-ratelimit-limit-tokens: 30000000\r\n\
    x-ratelimit-remaining-requests: 179999\r\nx-ratelimit-remaining-tokens: 29999000\r\n\
    x-request-id: 5e1c6c1e-7b4b-4a55-8b0e-0a1c2d3e4f50\r\n";
const EVENT: &str = "data: {\"choices\":[{\"content_filter_results\":{},\"delta\":{\"content\":\" word\"},\
    \"finish_reason\":null,\"index\":0,\"logprobs\":null}],\"created\":1790000000,\"id\":\"chatcmpl-1\",\
    \"model\":\"gpt-4o\",\"object\":\"chat.completion.chunk\",\"system_fingerprint\":\"fp_east\",\"usage\":null}\n\n";
/// Between two events of one stream: 100 streams make 20,000 events a second.
const EVENT_GAP: Duration = Duration::from_millis(5);

type Options = HashMap<String, String>;

#[derive(Default)]
struct Counters {
    connections: Cell<u64>,
    answered: Cell<u64>,
    throttled: Cell<u64>,
}

fn number(options: &Options, name: &str, default: u64) -> u64 {
    options.get(name).map_or(default, |text| text.parse().expect("the option is a whole number"))
}

fn answer_body() -> String {
    let text = "A side step is shorter than a wait. ".repeat(14);
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_790_000_000_u64, "model": "gpt-4o",
        "system_fingerprint": "fp_east",
        "choices": [{ "index": 0, "finish_reason": "stop", "logprobs": null, "content_filter_results": {},
                      "message": { "role": "assistant", "content": text } }],
        "usage": { "prompt_tokens": 330, "completion_tokens": 126, "total_tokens": 456 }
    })
    .to_string()
}

fn request_body(bytes: usize, extra: &str) -> String {
    const SENTENCE: &str = "Tell me about load balancing in one sentence. ";
    let text = SENTENCE.repeat(bytes / SENTENCE.len());
    format!(
        r#"{{"messages":[{{"role":"user","content":"{text}"}}],"model":"gpt-4o","max_tokens":200{extra}}}"#
    )
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The status of an answer whose head stands at the beginning of `buffer`; 0 for none.
fn status_of(buffer: &[u8]) -> u16 {
    let digits = buffer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Reads until a whole head stands at the beginning of `buffer`; its length, or `None` at the end of the stream.
async fn read_head<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
    loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            return Ok(Some(end + 4));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

async fn read_until<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
    length: usize,
) -> io::Result<()> {
    while buffer.len() < length {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Reads the body of one request or answer, of known length or in chunks, and removes it all from `buffer`. Tells
/// whether a request asks for a stream, and for one that stays silent.
async fn read_message<S>(stream: &mut S, buffer: &mut Vec<u8>, head: usize) -> io::Result<[bool; 2]>
where
    S: AsyncRead + Unpin,
{
    let text = std::str::from_utf8(&buffer[..head]).unwrap_or_default();
    let length = header(text, "content-length").map(|value| value.parse::<usize>().expect("a whole number"));
    let end = if length.is_none()
        && header(text, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    {
        loop {
            // The bodies are JSON without line breaks of their own: this ends the last chunk only.
            if let Some(end) = find(&buffer[head - 2..], b"\r\n0\r\n\r\n") {
                break head - 2 + end + 7;
            }
            let next = buffer.len() + 1;
            read_until(stream, buffer, next).await?;
        }
    } else {
        head + length.unwrap_or(0)
    };
    read_until(stream, buffer, end).await?;
    // The streams' marks stand at the end of the body: small requests cost no search.
    let tail = &buffer[end.saturating_sub(40).max(head)..end];
    let marks = [find(tail, b"\"stream\":true").is_some(), find(tail, b"\"hold\"").is_some()];
    buffer.drain(..end);
    Ok(marks)
}

struct Upstream {
    good: String,
    refusal: String,
    stream_head: String,
    counters: Counters,
}

impl Upstream {
    fn new(retry_after_ms: u64) -> Self {
        let body = answer_body();
        let seconds = retry_after_ms.div_ceil(1_000);
        let refused = format!(
            r#"{{"error":{{"code":"429","message":"Requests have exceeded the token rate limit. Please retry after {seconds} seconds."}}}}"#
        );
        Self {
            good: format!("HTTP/1.1 200 OK\r\n{HEADERS}content-length: {}\r\n\r\n{body}", body.len()),
            refusal: format!(
                "HTTP/1.1 429 Too Many Requests\r\nretry-after-ms: {retry_after_ms}\r\nretry-after: {seconds}\r\n\
                 {HEADERS}content-length: {}\r\n\r\n{refused}",
                refused.len()
            ),
            stream_head: format!(
                "HTTP/1.1 200 OK\r\n{}transfer-encoding: chunked\r\n\r\n",
                HEADERS.replace("application/json", "text/event-stream")
            ),
            counters: Counters::default(),
        }
    }

    async fn connection<S>(self: Rc<Self>, mut stream: S, throttled: bool) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut buffer = Vec::with_capacity(8 * 1024);
        while let Some(head) = read_head(&mut stream, &mut buffer).await? {
            if buffer.starts_with(b"GET /counters") {
                let Counters { connections, answered, throttled } = &self.counters;
                let body = json!({
                    "connections": connections.get(), "answered": answered.get(), "throttled": throttled.get()
                });
                let body = body.to_string();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                return stream.write_all(answer.as_bytes()).await;
            }
            let [streamed, hold] = read_message(&mut stream, &mut buffer, head).await?;
            if throttled {
                self.counters.throttled.set(self.counters.throttled.get() + 1);
                stream.write_all(self.refusal.as_bytes()).await?;
                continue;
            }
            self.counters.answered.set(self.counters.answered.get() + 1);
            if streamed {
                return self.events(stream, hold).await;
            }
            stream.write_all(self.good.as_bytes()).await?;
        }
        Ok(())
    }

    /// Events until the caller leaves; with `hold` one event, then silence.
    async fn events<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S, hold: bool) -> io::Result<()> {
        stream.write_all(self.stream_head.as_bytes()).await?;
        let chunk = format!("{:x}\r\n{EVENT}\r\n", EVENT.len());
        stream.write_all(chunk.as_bytes()).await?;
        if hold {
            let mut rest = [0_u8; 64];
            while stream.read(&mut rest).await? > 0 {}
            return Ok(());
        }
        let mut ticks = interval_at(Instant::now() + EVENT_GAP, EVENT_GAP);
        loop {
            ticks.tick().await;
            stream.write_all(chunk.as_bytes()).await?;
        }
    }
}

/// Writes `certificate.pem` and `key.pem` of `localhost`, and `authority.pem`, whom to trust.
fn write_certificate(folder: &Path) -> io::Result<()> {
    let made = || -> Result<_, rcgen::Error> {
        let key = rcgen::KeyPair::generate()?;
        let mut parameters = rcgen::CertificateParams::new(Vec::new())?;
        // Of the same name as the certificate's own it would look self-signed.
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "benches/peers");
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = parameters.self_signed(&key)?;
        let issuer = rcgen::Issuer::new(parameters, key);
        let key = rcgen::KeyPair::generate()?;
        let certificate =
            rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, &issuer)?;
        Ok((authority.pem(), certificate.pem(), key.serialize_pem()))
    };
    let (authority, certificate, key) = made().map_err(io::Error::other)?;
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("authority.pem"), authority)?;
    std::fs::write(folder.join("certificate.pem"), certificate)?;
    std::fs::write(folder.join("key.pem"), key)
}

fn acceptor(folder: &Path) -> io::Result<TlsAcceptor> {
    let certificate =
        CertificateDer::from_pem_file(folder.join("certificate.pem")).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).map_err(io::Error::other)?;
    let settings = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
    Ok(TlsAcceptor::from(Arc::new(settings.map_err(io::Error::other)?)))
}

async fn serve_upstream(options: &Options) -> io::Result<()> {
    let upstream = Rc::new(Upstream::new(number(options, "retry-after-ms", 1_000)));
    let throttled: Vec<&str> =
        options.get("throttled").map(|ports| ports.split(',').collect()).unwrap_or_default();
    let tls = options.get("tls").map(|folder| acceptor(Path::new(folder))).transpose()?;
    for port in options.get("ports").expect("--ports is given").split(',') {
        let refuses = throttled.contains(&port);
        let listener = TcpListener::bind(("127.0.0.1", port.parse().expect("a port"))).await?;
        let (upstream, tls) = (Rc::clone(&upstream), tls.clone());
        tokio::task::spawn_local(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                drop(stream.set_nodelay(true));
                let (upstream, tls) = (Rc::clone(&upstream), tls.clone());
                let connections = &upstream.counters.connections;
                connections.set(connections.get() + 1);
                // A peer that leaves ends its connection only.
                tokio::task::spawn_local(async move {
                    match tls {
                        Some(tls) => upstream.connection(tls.accept(stream).await?, refuses).await,
                        None => upstream.connection(stream, refuses).await,
                    }
                });
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(number(options, "seconds", 600))).await;
    Ok(())
}

#[derive(Default)]
struct Tally {
    latencies: Vec<u64>,
    statuses: HashMap<u16, u64>,
    broken: u64,
    events: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.broken += other.broken;
        self.events += other.events;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
    }

    fn micros(&self, permille: usize) -> Option<u64> {
        self.latencies.get(self.latencies.len() * permille / 1_000).copied()
    }

    fn print(mut self, started: Instant) {
        self.latencies.sort_unstable();
        let report = json!({
            "completed": self.latencies.len(), "broken": self.broken, "statuses": self.statuses, "events": self.events,
            "seconds": started.elapsed().as_secs_f64(), "p50_us": self.micros(500), "p99_us": self.micros(990)
        });
        say(&report.to_string());
    }
}

#[expect(clippy::print_stdout, reason = "the report of a measuring program")]
fn say(line: &str) {
    println!("{line}");
}

#[derive(Clone)]
struct Plan {
    port: u16,
    request: Rc<Vec<u8>>,
    until: Instant,
    /// Between two requests of one connection; zero: as fast as the answers come.
    gap: Duration,
}

impl Plan {
    fn new(options: &Options, connections: u64, extra: &str) -> Self {
        let bytes = usize::try_from(number(options, "bytes", 1_400)).expect("a size");
        let body = request_body(bytes, extra);
        let path = options
            .get("path")
            .map_or("/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21", |path| path);
        let key = options.get("key").map_or("bench-caller-key-0123456789", |key| key);
        let port = u16::try_from(number(options, "port", 0)).expect("a port");
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\naccept: application/json\r\nuser-agent: AzureOpenAI/Python 3.57.0\r\n\
             accept-encoding: gzip, deflate\r\napi-key: {key}\r\nx-stainless-lang: python\r\nx-stainless-retry-count: 0\r\n\
             x-stainless-read-timeout: 600\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let gap = match number(options, "rate", 0) {
            0 => Duration::ZERO,
            rate => Duration::from_secs(connections).div_f64(rate as f64),
        };
        let until = Instant::now() + Duration::from_secs(number(options, "seconds", 5));
        Self { port, request: Rc::new(request.into_bytes()), until, gap }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

async fn requests(plan: &Plan, mut next: Instant, tally: &mut Tally) -> io::Result<()> {
    let mut stream = plan.connect().await?;
    let mut buffer = Vec::with_capacity(8 * 1024);
    while Instant::now() < plan.until {
        if !plan.gap.is_zero() {
            sleep_until(next).await;
            next += plan.gap;
        }
        let sent = Instant::now();
        stream.write_all(&plan.request).await?;
        let head = read_head(&mut stream, &mut buffer).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = status_of(&buffer);
        let text = std::str::from_utf8(&buffer[..head]).unwrap_or_default();
        let closing = header(text, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        read_message(&mut stream, &mut buffer, head).await?;
        tally.latencies.push(u64::try_from(sent.elapsed().as_micros()).expect("a short time"));
        *tally.statuses.entry(status).or_default() += 1;
        if closing {
            stream = plan.connect().await?;
            buffer.clear();
        }
    }
    Ok(())
}

async fn load(options: &Options) {
    let connections = number(options, "connections", 64);
    let plan = Plan::new(options, connections, "");
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for index in 0..connections {
        let plan = plan.clone();
        // Paced connections take turns.
        let first = started + plan.gap.mul_f64(index as f64 / connections as f64);
        tasks.spawn_local(async move {
            let mut tally = Tally::default();
            while Instant::now() < plan.until {
                if requests(&plan, first.max(Instant::now()), &mut tally).await.is_err() {
                    tally.broken += 1;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            tally
        });
    }
    gather(tasks).await.print(started);
}

async fn gather(mut tasks: JoinSet<Tally>) -> Tally {
    let mut all = Tally::default();
    while let Some(tally) = tasks.join_next().await {
        all.add(tally.expect("a task that only counts does not panic"));
    }
    all
}

/// Counts events on one stream until the plan ends. `first` is told once the first one came.
async fn events(plan: &Plan, tally: &mut Tally, opened: &Cell<u64>) -> io::Result<()> {
    let mut stream = plan.connect().await?;
    stream.write_all(&plan.request).await?;
    let mut buffer = Vec::with_capacity(16 * 1024);
    let head = read_head(&mut stream, &mut buffer).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    *tally.statuses.entry(status_of(&buffer)).or_default() += 1;
    buffer.drain(..head);
    let mut counted = false;
    loop {
        // `}\n` ends each event and occurs nowhere else; a pair cut by a read is counted with the next one.
        let ends = buffer.windows(2).filter(|pair| pair == b"}\n").count() as u64;
        tally.events += ends;
        if ends > 0 && !counted {
            counted = true;
            opened.set(opened.get() + 1);
        }
        let kept = usize::from(buffer.last() == Some(&b'}'));
        buffer.drain(..buffer.len() - kept);
        let Ok(read) = tokio::time::timeout_at(plan.until, stream.read_buf(&mut buffer)).await else {
            return Ok(());
        };
        if read? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn streams(options: &Options, hold: bool) {
    let connections = number(options, "connections", 100);
    let extra = if hold { r#","user":"hold","stream":true"# } else { r#","stream":true"# };
    let plan = Plan::new(options, connections, extra);
    let started = Instant::now();
    let opened = Rc::new(Cell::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let (plan, opened) = (plan.clone(), Rc::clone(&opened));
        tasks.spawn_local(async move {
            let mut tally = Tally::default();
            if events(&plan, &mut tally, &opened).await.is_err() {
                tally.broken += 1;
            }
            tally
        });
    }
    if hold {
        let all_open = async {
            while opened.get() < connections {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let complete = timeout(plan.until - Instant::now(), all_open).await.is_ok();
        say(&json!({ "open": opened.get(), "complete": complete }).to_string());
    }
    gather(tasks).await.print(started);
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().unwrap_or_default();
    let mut options = Options::new();
    while let (Some(name), Some(value)) = (arguments.next(), arguments.next()) {
        options.insert(name.trim_start_matches("--").to_owned(), value);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        match mode.as_str() {
            "upstream" => serve_upstream(&options).await?,
            "certificate" => {
                write_certificate(Path::new(options.get("folder").expect("--folder is given")))?;
                say("{}");
            }
            "load" => load(&options).await,
            "stream" => streams(&options, false).await,
            "hold" => streams(&options, true).await,
            _ => say(
                "peers_load upstream|certificate|load|stream|hold --option value …; see benches/peers/run",
            ),
        }
        Ok(())
    })
}
