//! `sidestep demo`: three simulated resources, the balancer in front, callers before it, the live view.
//!
//! Each resource in turn is also used by somebody else, so that throttling is always seen; what the callers
//! see is what the demo is about.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::BodyExt;
use tokio::runtime::{Builder, LocalOptions};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::balancer::{Balancer, StartError};
use super::commands::{FAILED, OK, complain, say, stop_flag};
use crate::admin::explain::ExplainAsk;
use crate::net::upstream::{Origin, RequestBody, Reuse, Tls, Upstream, UpstreamSettings};
use crate::settings::{self, Environment, Source};
use crate::simulator::{Simulator, demo_settings};
use crate::telemetry::log;
use crate::telemetry::sink::Sink;
use crate::terminal::{Explained, Status, ViewOptions, run_view, summary};

/// Where callers find the demo, if it is free.
const PORT: u16 = 8080;
/// Small enough for two of the three resources, large enough that the third's absence is felt.
const REQUESTS_PER_SECOND: f64 = 5.0;
/// At the end requests under way get so long to be answered.
const LAST_ANSWERS: Duration = Duration::from_secs(3);

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct DemoOptions {
    /// Where callers find it; must be free.
    pub port: Option<u16>,
    /// Sample traffic; above 0.
    pub requests_per_second: Option<f64>,
    /// End by itself after so long.
    pub seconds: Option<u64>,
}

/// Runs the demo. No account, no settings, no network.
#[must_use]
pub fn demo(options: &DemoOptions, no_color: Option<&OsStr>) -> u8 {
    let rate = options.requests_per_second.unwrap_or(REQUESTS_PER_SECOND);
    match run(options, rate, no_color) {
        Ok(()) => OK,
        Err(error) => {
            complain(&error);
            FAILED
        }
    }
}

fn run(options: &DemoOptions, rate: f64, no_color: Option<&OsStr>) -> Result<(), String> {
    let simulator = Simulator::start(demo_settings()).map_err(|error| error.to_string())?;
    let balancer = balancer(&simulator, options.port)?;
    let stop = stop_flag();
    let done = Arc::new(AtomicBool::new(false));
    let callers = callers(&balancer, rate, Arc::clone(&done)).map_err(|error| error.to_string())?;
    let address = format!("http://{}", balancer.address());
    let page = balancer.admin_address().map(|admin| format!("http://{admin}"));
    let plain = !io::stdout().is_terminal();
    if plain {
        say(&welcome(&address, page.as_deref()));
    }
    let view = ViewOptions {
        title: "Sidestep demo".to_owned(),
        notes: if plain { Vec::new() } else { notes(&address, page.as_deref()) },
        seconds: options.seconds.map(Duration::from_secs),
        stop,
        plain,
        colour: log::colours(no_color),
    };
    let status = || -> Result<Status, String> {
        let document = serde_json::to_vec(&balancer.status()).map_err(|error| error.to_string())?;
        Status::parse(&document)
    };
    let explain = |backend: &str, deployment: &str| -> Result<Explained, String> {
        let ask = ExplainAsk { backend: Some(backend.to_owned()), ..ExplainAsk::of(deployment) };
        let document = serde_json::to_vec(&balancer.explain(&ask)?).map_err(|error| error.to_string())?;
        Explained::parse(&document)
    };
    let shown = run_view(status, explain, view).map_err(|error| error.to_string())?;
    done.store(true, Ordering::Relaxed);
    let _panicked = callers.join();
    let last = status().ok().or(shown.last);
    if let Some(last) = last {
        say(&summary(&last));
    }
    balancer.abort();
    let _ended = balancer.wait();
    simulator.stop();
    Ok(())
}

/// The balancer with the settings that a user would write for these resources.
fn balancer(simulator: &Simulator, port: Option<u16>) -> Result<Balancer, String> {
    let start = |port: u16, admin: u16| -> Result<Result<Balancer, StartError>, String> {
        let mut text = format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\nadmin_listen = \"127.0.0.1:{admin}\"\n[log]\nlevel = \"off\"\n"
        );
        for resource in simulator.handle().resources() {
            let (name, url) = (resource.name(), resource.url());
            write!(text, "[[backends]]\nname = \"{name}\"\nurl = \"{url}\"\napi_key = \"a-simulated-key\"\n")
                .expect("a String takes all");
        }
        let source = Source::Text { file: PathBuf::from("demo"), text };
        let nothing = Environment::new(std::iter::empty::<(String, String)>());
        let settings = settings::load(&source, &nothing).map_err(|error| error.to_string())?;
        // The log would be written over the picture: it goes nowhere.
        let sink = Sink::new(io::sink(), settings.log.format).map_err(|error| error.to_string())?;
        Ok(Balancer::start(settings, sink))
    };
    // Another program may have our usual ports: any free one will do, unless one was asked for.
    let tries = match port {
        Some(port) => vec![(port, 9080), (port, 0)],
        None => vec![(PORT, 9080), (PORT, 0), (0, 0)],
    };
    let mut failure = String::new();
    for (port, admin) in tries {
        match start(port, admin)? {
            Ok(balancer) => return Ok(balancer),
            Err(error) => failure = error.to_string(),
        }
    }
    Err(failure)
}

/// Under the picture: what is seen, and how to try it.
fn notes(address: &str, page: Option<&str>) -> Vec<String> {
    let page = page.map(|page| format!("Status page: {page}"));
    let how = [
        "Three simulated resources, each 30,000 tokens a minute; windows are 10 s".to_owned(),
        curl(address),
        format!("python: c = openai.OpenAI(base_url=\"{address}\", api_key=\"x\")"),
        "        print(c.responses.create(model=\"gpt-4o\", input=\"hi\").output_text)".to_owned(),
    ];
    page.into_iter().chain(how).collect()
}

fn curl(address: &str) -> String {
    format!(
        "curl {address}/v1/chat/completions --json '{{\"model\":\"gpt-4o\",\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}]}}'"
    )
}

fn python(address: &str) -> String {
    format!(
        "    from openai import OpenAI\n    client = OpenAI(base_url=\"{address}\", api_key=\"does-not-matter\")\n    \
         print(client.responses.create(model=\"gpt-4o\", input=\"hi\").output_text)\n"
    )
}

fn welcome(address: &str, page: Option<&str>) -> String {
    let page = page.map(|page| format!("Status page: {page}\n")).unwrap_or_default();
    format!(
        "Sidestep demo at {address}: three simulated Azure OpenAI resources, each 30,000 tokens a minute;\n\
         windows are 10 s, and each resource in turn is also used by somebody else.\n{page}\nTry it:\n\n    {}\n\n{}\n",
        curl(address),
        python(address)
    )
}

/// Sample traffic, until `done`: small chat requests, every second one streamed, from a thread of its own.
fn callers(balancer: &Balancer, rate: f64, done: Arc<AtomicBool>) -> io::Result<JoinHandle<()>> {
    let address = balancer.address();
    std::thread::Builder::new().name("callers".into()).spawn(move || {
        let Ok(runtime) = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
        else {
            return;
        };
        let origin = Origin {
            tls: false,
            host: address.ip().to_string(),
            port: address.port(),
            path_prefix: String::new(),
            http2: false,
        };
        let settings = UpstreamSettings { connect_timeout: Duration::from_secs(5), ca_file: None };
        let Ok(tls) = Tls::new(&settings) else { return };
        let Ok(upstream) = Upstream::new(origin, &tls, settings.connect_timeout) else { return };
        runtime.block_on(async {
            let upstream = std::rc::Rc::new(upstream);
            let mut calls = tokio::task::JoinSet::new();
            let mut tick = interval(Duration::from_secs_f64(1.0 / rate));
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut number = 0_u64;
            while !done.load(Ordering::Relaxed) {
                tick.tick().await;
                number += 1;
                let upstream = std::rc::Rc::clone(&upstream);
                calls.spawn_local(async move { call(&upstream, number).await });
                while calls.try_join_next().is_some() {}
            }
            tokio::select! {
                () = sleep(LAST_ANSWERS) => {}
                () = async { while calls.join_next().await.is_some() {} } => {}
            }
        });
    })
}

/// One caller's request. What it gets is counted by the balancer, where the view reads it.
async fn call(upstream: &Upstream, number: u64) {
    let streamed = number.is_multiple_of(2);
    let body = format!(
        r#"{{"model":"gpt-4o","max_tokens":48,"stream":{streamed},"messages":[{{"role":"user","content":"Question {number}: what does a load balancer do when a resource is throttled?"}}]}}"#
    );
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let path = PathAndQuery::from_static("/v1/chat/completions");
    let body = RequestBody::whole([Bytes::from(body), Bytes::new(), Bytes::new()]);
    if let Ok(response) = upstream.send(Method::POST, path, headers, body, Reuse::Allowed).await {
        let mut answer = response.into_body();
        while let Some(Ok(_)) = answer.frame().await {}
    }
}
