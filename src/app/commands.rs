//! The verbs of the command line, but the demo. Each returns the exit code.

use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};

use super::balancer::Balancer;
use super::fetch::{Fetch, TLS_REQUIRED};
use crate::identity;
use crate::settings::{self, Environment, Place, Settings, Source};
use crate::simulator::{Simulator, SimulatorSettings};
use crate::telemetry::log;
use crate::telemetry::sink::Sink;
use crate::terminal::{Explained, Status, ViewOptions, run_view};

/// All went well.
pub const OK: u8 = 0;
/// Anything else went wrong.
pub const FAILED: u8 = 1;
/// The settings are wrong: `EX_CONFIG` of `sysexits.h`.
pub const WRONG_SETTINGS: u8 = 78;

/// At the end the log gets so long to be written.
const FLUSH: Duration = Duration::from_secs(2);
/// Between two looks at whether a balancer has stopped.
const LOOK: Duration = Duration::from_millis(20);

/// What `sidestep simulate` does without a file.
const SIMULATE: &str = include_str!("../../config/simulate.toml");

/// Text for people on standard output. A closed pipe is nobody's loss.
pub(super) fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _closed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Text for people about what went wrong.
pub(super) fn complain(text: &str) {
    let mut err = io::stderr().lock();
    let _closed = writeln!(err, "{}", text.trim_end());
}

/// Where settings are: the named file, else what the environment and the folder say.
fn source(config: Option<PathBuf>) -> Source {
    config.map_or_else(|| Source::Folder(PathBuf::new()), Source::File)
}

fn load(config: Option<PathBuf>, environment: &Environment) -> Result<Settings, u8> {
    settings::load(&source(config), environment).map_err(|error| {
        complain(&error.to_string());
        WRONG_SETTINGS
    })
}

/// `sidestep check`: what was understood, or everything that is wrong; with `online`, also what each backend says.
#[must_use]
pub fn check(config: Option<PathBuf>, online: bool, environment: &Environment) -> u8 {
    match load(config, environment) {
        Ok(settings) => {
            say(&settings::describe(&settings));
            if online && !super::online::ask(&settings) { FAILED } else { OK }
        }
        Err(code) => code,
    }
}

/// `sidestep key`: a new caller key.
#[must_use]
pub fn key() -> u8 {
    match identity::new_key() {
        Ok(key) => {
            say(&format!("{key}\n"));
            OK
        }
        Err(error) => {
            complain(&error.to_string());
            FAILED
        }
    }
}

/// `sidestep serve`: until a signal ends it.
#[must_use]
pub fn serve(config: Option<PathBuf>, environment: &Environment, no_color: Option<&OsStr>) -> u8 {
    let settings = match load(config.clone(), environment) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let sink = match Sink::new(io::stdout(), settings.log.format) {
        Ok(sink) => sink.coloured(log::colours(no_color)),
        Err(error) => {
            complain(&format!("the log cannot start: {error}"));
            return FAILED;
        }
    };
    if let Err(error) = log::start(&settings.log, &sink) {
        complain(&error.to_string());
        return FAILED;
    }
    let started = Balancer::start(settings.clone(), sink.clone());
    let code = match started {
        Ok(balancer) => run(balancer, &settings, || settings::load(&source(config.clone()), environment)),
        Err(error) => {
            complain(&error.to_string());
            FAILED
        }
    };
    let _late = sink.flush(FLUSH);
    code
}

/// Where it listens, whom it stands in front of, what is unsafe.
fn announce(settings: &Settings, balancer: &Balancer) {
    let version = env!("CARGO_PKG_VERSION");
    let admin =
        balancer.admin_address().map_or_else(|| "off".to_owned(), |address| format!("http://{address}"));
    tracing::info!(version, listen = %balancer.url(), %admin, "listening");
    for (backend, upstream) in settings.pool.backends.iter().zip(&settings.upstreams) {
        let identity = upstream.credential.word();
        tracing::info!(backend = %backend.name, url = %backend.url, priority = backend.priority, identity, "backend");
    }
    for note in &settings.notes {
        tracing::warn!("{note}");
    }
}

/// Obeys signals until the balancer has stopped. Announced once it does: who reads that may send one at once.
fn run(
    balancer: Balancer,
    settings: &Settings,
    reread: impl Fn() -> Result<Settings, settings::SettingsError>,
) -> u8 {
    let Ok(runtime) = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) else {
        return FAILED;
    };
    let ended: io::Result<()> = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        announce(settings, &balancer);
        let mut draining = false;
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hang_up.recv() => {
                    reload(&balancer, reread());
                    continue;
                }
                () = balancer.stopped() => return Ok(()),
            }
            if draining {
                balancer.abort();
            } else {
                balancer.drain();
            }
            draining = true;
        }
    });
    match ended {
        Ok(()) if balancer.wait() => OK,
        _ => FAILED,
    }
}

fn reload(balancer: &Balancer, settings: Result<Settings, settings::SettingsError>) {
    let settings = match settings {
        Ok(settings) => settings,
        Err(settings::SettingsError::Nothing) => {
            tracing::error!(reason = "no backend is set any more", "settings not reloaded");
            return;
        }
        Err(error) => {
            for problem in error.problems() {
                let place = match &problem.place {
                    Place::File { file, line } => format!("{file}:{line}"),
                    Place::Environment => "environment".to_owned(),
                    Place::Nowhere => String::new(),
                };
                let (key, found, expected) = (&problem.key, &problem.found, &problem.expected);
                tracing::error!(%key, %place, %found, %expected, "settings not reloaded");
            }
            return;
        }
    };
    if let Err(error) = balancer.reload(settings) {
        tracing::error!(reason = %error, "settings not reloaded");
    }
}

/// `sidestep simulate`: only the simulated resources, until a signal ends them.
#[must_use]
pub fn simulate(config: Option<PathBuf>) -> u8 {
    let (name, text) = match config {
        None => ("built-in settings".to_owned(), SIMULATE.to_owned()),
        Some(path) => match std::fs::read_to_string(&path) {
            Ok(text) => (path.display().to_string(), text),
            Err(error) => {
                complain(&format!("{}: {error}", path.display()));
                return WRONG_SETTINGS;
            }
        },
    };
    let settings = match SimulatorSettings::from_toml(&text) {
        Ok(settings) => settings,
        Err(error) => {
            complain(&format!("{name}: {error}"));
            return WRONG_SETTINGS;
        }
    };
    let simulator = match Simulator::start(settings) {
        Ok(simulator) => simulator,
        Err(error) => {
            complain(&format!("{name}: {error}"));
            return FAILED;
        }
    };
    for resource in simulator.handle().resources() {
        say(&format!("{} listens on {}\n", resource.name(), resource.url()));
    }
    let stop = stop_flag();
    say("Ctrl-C ends it.\n");
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK);
    }
    simulator.stop();
    OK
}

/// A flag that SIGTERM and SIGINT set, from now on.
pub(super) fn stop_flag() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    let (ready, watched) = std::sync::mpsc::channel();
    let watching = std::thread::Builder::new().name("signals".into()).spawn(move || {
        let Ok(runtime) = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
        else {
            return;
        };
        let _unwatched: io::Result<()> = runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            let _gone = ready.send(());
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                set.store(true, Ordering::Relaxed);
            }
        });
    });
    // Without the thread a signal ends the process as it ends any other.
    drop(watching);
    let _unwatched = watched.recv();
    flag
}

/// `sidestep top`: the live view of a running balancer.
#[must_use]
pub fn top(admin: &str, token: Option<&str>, no_color: Option<&OsStr>) -> u8 {
    let fetch = match Fetch::new(admin, "/status", token) {
        Ok(fetch) => fetch,
        Err(error) => {
            complain(&error);
            return FAILED;
        }
    };
    let get = || fetch.get().and_then(|document| Status::parse(&document));
    let explain = |backend: &str, deployment: &str| {
        let escaped = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let query = format!("deployment={}&backend={}", escaped(deployment), escaped(backend));
        fetch.get_beside("explain", &query).and_then(|document| Explained::parse(&document))
    };
    let view = ViewOptions {
        title: "Sidestep".to_owned(),
        notes: Vec::new(),
        seconds: None,
        stop: stop_flag(),
        plain: !io::stdout().is_terminal(),
        colour: log::colours(no_color),
    };
    let shown = run_view(|| get().map_err(|error| format!("cannot reach {admin}: {error}")), explain, view);
    match shown {
        Ok(_) => OK,
        Err(error) => {
            complain(&error.to_string());
            FAILED
        }
    }
}

/// `sidestep health`: whether a running balancer answers its health check; for containers without a shell.
/// `listen` is what the environment says of where it listens.
#[must_use]
pub fn health(url: Option<&str>, listen: Option<&str>) -> u8 {
    let own = own_url(listen);
    let url = url.unwrap_or(&own);
    match Fetch::new(url, "/healthz", None).and_then(|fetch| fetch.get()) {
        Ok(_) => OK,
        // It lives, and says that it speaks TLS; whom its certificate names is not asked here.
        Err(error) if error == TLS_REQUIRED => OK,
        Err(error) => {
            complain(&format!("{url}: {error}"));
            FAILED
        }
    }
}

/// Where a balancer of this container answers that listens there.
fn own_url(listen: Option<&str>) -> String {
    let listen = listen.and_then(|listen| listen.trim().parse::<SocketAddr>().ok());
    match listen {
        Some(address) if !address.ip().is_unspecified() => format!("http://{address}"),
        // All addresses take the loopback's in.
        other => format!("http://127.0.0.1:{}", other.map_or(8080, |at| at.port())),
    }
}

#[cfg(test)]
mod tests {
    use super::own_url;

    #[test]
    fn health_asks_the_address_that_the_balancer_listens_on() {
        for (listen, url) in [
            (None, "http://127.0.0.1:8080"),
            (Some("no address"), "http://127.0.0.1:8080"),
            (Some("0.0.0.0:9000"), "http://127.0.0.1:9000"),
            (Some("[::]:9000"), "http://127.0.0.1:9000"),
            (Some(" 10.0.0.5:8080 "), "http://10.0.0.5:8080"),
            (Some("[::1]:8080"), "http://[::1]:8080"),
        ] {
            assert_eq!(own_url(listen), url, "{listen:?}");
        }
    }
}
