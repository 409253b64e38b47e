//! The official OpenAI SDKs, over real sockets, through the real binary, with a first backend that throttles.
//!
//! `sidestep simulate` plays two resources, `sidestep serve` stands in front; the first resource, of the better
//! priority, answers every request with 429 and a cooldown so short that it is asked again and again. The suites
//! in `python/` and `javascript/` then call as real apps do, without SDK retries. Where an SDK is not installed the
//! test says so and passes, except in CI, where `.ci/run` has installed it:
//!
//! ```text
//! tests/clients/install python javascript
//! ```

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

mod table;
mod tls;
mod voice;

/// What callers ask for, and of which kind it is; each backend adds its own name.
const MODELS: [(&str, &str); 4] = [
    ("gpt-4o", "chat"),
    ("text-embedding-3-small", "embeddings"),
    ("whisper", "chat"),
    ("gpt-image-1", "chat"),
];
const THROTTLED: &str = "east";
const SERVING: &str = "west";
/// The suites wait longer than this between calls, so that every call meets the throttled backend first.
const THROTTLE: &str = r#"{"fault":{"kind":"throttle","retry_after_ms":"10"}}"#;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A process of ours; ended when the test is over, however it ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn free_ports<const N: usize>() -> [u16; N] {
    // Held together, so that no two are the same.
    let listeners: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a free port on loopback"));
    listeners.map(|listener| listener.local_addr().expect("a bound socket has an address").port())
}

/// The smallest HTTP client: enough for the control door and health.
fn exchange(port: u16, request_line: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let length = body.len();
    write!(
        stream,
        "{request_line} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[track_caller]
fn await_answer(process: &mut Running, port: u16, request_line: &str, body: &str, status: &str) -> String {
    let mut last = String::new();
    for _ in 0..500 {
        if let Some(ended) = process.0.try_wait().expect("a child process can be asked") {
            panic!("the process ended with {ended} before it listened");
        }
        last = exchange(port, request_line, body).unwrap_or_else(|error| error.to_string());
        if last.starts_with(status) {
            return last;
        }
        thread::park_timeout(Duration::from_millis(20));
    }
    panic!("{request_line} on port {port} never answered {status}, last: {last}");
}

fn sidestep(arguments: &[&str], settings: &Path) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidestep"));
    command
        .args(arguments)
        .arg("--config")
        .arg(settings)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Running(command.spawn().expect("the binary under test starts"))
}

struct Stage {
    _simulator: Running,
    _balancers: [Running; 2],
    _settings: tempfile::TempDir,
    url: String,
    /// The same with TLS, and by whom its certificate is.
    tls: (String, PathBuf),
    throttled_port: u16,
}

fn stage() -> Stage {
    let [east, west, port, admin, tls_port, tls_admin] = free_ports::<6>();
    let settings = tempfile::tempdir().expect("a temporary folder");
    let simulate = settings.path().join("simulate.toml");
    let resource = |name: &str, port: u16| {
        format!(
            "[[resources]]\nname = \"{name}\"\nlisten = \"127.0.0.1:{port}\"\napi_keys = [\"key-of-{name}\"]\n\
             deployments = {{ {} }}\nquota = {{ tokens_per_minute = 10000000 }}\n\n",
            MODELS.map(|(model, kind)| format!("\"{model}-{name}\" = \"{kind}\"")).join(", ")
        )
    };
    let text = format!("seed = 7\n\n{}{}", resource(THROTTLED, east), resource(SERVING, west));
    std::fs::write(&simulate, text).expect("the temporary folder is writable");
    let backend = |name: &str, port: u16, priority: u8| {
        let home = name == SERVING;
        let models = MODELS.map(|(model, _)| format!("\"{model}\" = \"{model}-{name}\"")).join(", ");
        format!(
            "[[backends]]\nname = \"{name}\"\nurl = \"http://127.0.0.1:{port}\"\npriority = {priority}\n\
             api_key = \"key-of-{name}\"\nhome = {home}\ndeployments = {{ {models}{} }}\n\n",
            // Only the throttled one and the one that talks have it.
            if home { "" } else { ", \"gpt-realtime\" = \"gpt-realtime-there\"" }
        )
    };
    let voice = format!(
        "[[backends]]\nname = \"voice\"\nurl = \"http://127.0.0.1:{}\"\npriority = 3\napi_key = \"key-of-voice\"\n\
         deployments = {{ \"gpt-realtime\" = \"gpt-realtime-voice\" }}\n\n",
        voice::listen()
    );
    let serve = |file: &str, port: u16, admin: u16, more: &str| {
        let file = settings.path().join(file);
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\nadmin_listen = \"127.0.0.1:{admin}\"\n{more}\n{}{}{voice}",
            backend(THROTTLED, east, 1),
            backend(SERVING, west, 2)
        );
        std::fs::write(&file, text).expect("the temporary folder is writable");
        let mut balancer = sidestep(&["serve"], &file);
        await_answer(&mut balancer, admin, "GET /readyz", "", "HTTP/1.1 200");
        balancer
    };
    let files = tls::write(settings.path());
    let tls = format!("tls = {{ certificate = {:?}, key = {:?} }}\n", files.certificate, files.key);

    let mut simulator = sidestep(&["simulate"], &simulate);
    await_answer(&mut simulator, west, "GET /control/counters", "", "HTTP/1.1 200");
    await_answer(&mut simulator, east, "POST /control/fault", THROTTLE, "HTTP/1.1 20");
    let balancers =
        [serve("sidestep.toml", port, admin, ""), serve("with-tls.toml", tls_port, tls_admin, &tls)];
    Stage {
        _simulator: simulator,
        _balancers: balancers,
        _settings: settings,
        url: format!("http://127.0.0.1:{port}"),
        tls: (format!("https://127.0.0.1:{tls_port}"), files.authority),
        throttled_port: east,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test binary has no settings: the environment says whether this is CI"
)]
fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// Whether an SDK can be imported. In CI it must be.
fn installed(mut probe: Command, how: &str) -> bool {
    let found = probe.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success());
    assert!(found || !in_ci(), "the SDK is missing, and CI insists on it: {how}");
    if !found {
        say(&format!("skipped: the SDK is not installed here ({how})"));
    }
    found
}

#[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
fn say(line: &str) {
    eprintln!("{line}");
}

fn throttled_so_far(stage: &Stage) -> u64 {
    let answer = exchange(stage.throttled_port, "GET /control/counters", "").expect("the simulator answers");
    let body = answer.split("\r\n\r\n").nth(1).expect("the counters are the body");
    let counters: serde_json::Value = serde_json::from_str(body.trim()).expect("the counters are JSON");
    counters["throttled"].as_u64().expect("the counters count 429s")
}

/// Runs a suite before a stage of its own; what it printed.
#[track_caller]
fn run_suite(mut suite: Command) -> String {
    let stage = stage();
    let Output { status, stdout, stderr } = suite
        .env("SIDESTEP_URL", &stage.url)
        .env("SIDESTEP_TLS_URL", &stage.tls.0)
        .env("SIDESTEP_TLS_AUTHORITY", &stage.tls.1)
        .env("NODE_EXTRA_CA_CERTS", &stage.tls.1)
        .env("SIDESTEP_SERVING", SERVING)
        .env("SIDESTEP_THROTTLED_URL", format!("http://127.0.0.1:{}", stage.throttled_port))
        .env_remove("OPENAI_API_KEY")
        .env_remove("OPENAI_BASE_URL")
        .stdin(Stdio::null())
        .output()
        .expect("the suite's interpreter was found before");
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{stdout}\n{stderr}");
    say(stdout.trim_end());
    // Without this the suite would also pass with a first backend that nobody asked.
    assert!(
        throttled_so_far(&stage) > 0,
        "the throttled backend was never asked: nothing was proven\n{stdout}"
    );
    stdout.into_owned()
}

fn python() -> PathBuf {
    let own = root().join("tests/clients/python/.venv/bin/python");
    if own.exists() { own } else { PathBuf::from("python3") }
}

#[test]
fn python_apps_see_no_429_while_the_second_backend_answers() {
    let mut probe = Command::new(python());
    probe.args(["-c", "import openai"]);
    if installed(
        probe,
        "pip install -r tests/clients/python/requirements.txt into tests/clients/python/.venv",
    ) {
        let mut suite = Command::new(python());
        suite.arg(root().join("tests/clients/python/suite.py")).env("PYTHONUNBUFFERED", "1");
        run_suite(suite);
    }
}

#[test]
fn javascript_apps_see_no_429_while_the_second_backend_answers() {
    let folder = root().join("tests/clients/javascript");
    let mut probe = Command::new("node");
    probe.current_dir(&folder).args(["--input-type=module", "-e", "import 'openai'"]);
    if installed(probe, "npm ci --prefix tests/clients/javascript") {
        let mut suite = Command::new("node");
        suite.current_dir(&folder).arg("suite.mjs");
        run_suite(suite);
    }
}
