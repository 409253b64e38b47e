//! Raw → resolved: defaults, and what only shows when settings are held against each other.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use crate::net::certificate::{self, CertificateSettings, Half};
use crate::net::server::ServerLimits;
use crate::net::upstream::UpstreamSettings;
use crate::proxy::ProxySettings;
use crate::settings::environment::Environment;
use crate::settings::problem::{Located, Place, Problems};
use crate::settings::raw::{RawCallers, RawLimits, RawRetry, RawServer, RawSettings, RawTls};
use crate::settings::value::show_size;
use crate::settings::{Settings, backends, callers, defaults, traces};
use crate::telemetry::LogSettings;

/// The settings, good only if `problems` stayed empty.
pub(super) fn resolve(raw: RawSettings, environment: &Environment, problems: &Problems) -> Settings {
    let mut notes = raw.notes;
    let listen = value_or(raw.server.listen.as_ref(), defaults::LISTEN);
    let admin_listen = value_or(raw.server.admin_listen.as_ref(), Some(defaults::ADMIN_LISTEN));
    refuse_open_doors(&raw.server, &raw.callers, problems);
    let tls = raw.server.tls.as_ref().and_then(|tls| certificate(tls, problems));
    let drain_delay = match raw.server.drain_delay {
        Some(delay) => delay.value.unwrap_or_default(),
        None => defaults::drain_delay(listen),
    };
    let drain_timeout = value_or(raw.server.drain_timeout.as_ref(), defaults::DRAIN_TIMEOUT);
    if drain_delay + drain_timeout > Duration::from_secs(30) {
        notes.push(
            "drain_delay and drain_timeout together pass 30s, after which most platforms kill a process"
                .to_owned(),
        );
    }
    let proxy = proxy(&raw.retry, &raw.limits, raw.server.path_prefix, raw.server.explain_headers);
    let upstream = UpstreamSettings {
        connect_timeout: value_or(raw.retry.connect_timeout.as_ref(), defaults::upstream().connect_timeout),
        ca_file: raw.upstream.ca_file.map(|file| file.value),
    };
    refuse_reversed(&raw.retry, &raw.limits, &proxy, &upstream, problems);
    if raw.upstream.forward_headers.len() > 8 {
        notes.push(
            "Azure answers 431 to more than about ten custom headers; forward_headers is long".to_owned(),
        );
    }
    let proxy = ProxySettings {
        forward_headers: raw.upstream.forward_headers.into_iter().map(|header| header.value).collect(),
        ..proxy
    };
    let counts = (raw.limits.lanes, raw.limits.ids);
    let (pool, upstreams, pins) = backends::resolve(raw.backends, counts, environment, &mut notes, problems);
    let callers = callers::resolve(raw.callers, &pool.backends, &mut notes, problems);
    if callers.anonymous && !listen.ip().is_loopback() {
        notes.push(format!("unsafe: anonymous callers are admitted, so whoever reaches {listen} may call"));
    }
    Settings {
        listen,
        admin_listen,
        tls,
        admin_token: raw.server.admin_token.map(|token| token.value),
        workers: raw
            .server
            .workers
            .and_then(|workers| workers.value)
            .and_then(|n| NonZeroUsize::new(whole(n))),
        drain_delay,
        drain_timeout,
        server: server_limits(
            raw.limits.connections,
            raw.limits.streams_per_connection,
            raw.limits.header_bytes,
            raw.limits.header_time,
            raw.limits.idle,
            raw.limits.write_idle,
        ),
        callers,
        pool,
        pins,
        upstreams,
        upstream,
        proxy,
        log: LogSettings {
            level: value_or(raw.log.level.as_ref(), defaults::log().level),
            format: value_or(raw.log.format.as_ref(), defaults::log().format),
        },
        traces: traces::resolve(raw.traces, environment, &mut notes),
        notes,
    }
}

/// The pair, read once, so that a wrong one is told now and not at a start.
fn certificate(tls: &RawTls, problems: &Problems) -> Option<CertificateSettings> {
    let (certificate, key) = (tls.certificate.as_ref()?, tls.key.as_ref()?);
    let settings = CertificateSettings { certificate: certificate.value.clone(), key: key.value.clone() };
    if let Err(problem) = certificate::load(&settings) {
        let located = match problem.half {
            Half::Certificate => certificate,
            Half::Key => key,
        };
        problems.refuse(located, problem.expected);
    }
    Some(settings)
}

/// The value that was set, else the default.
pub(super) fn value_or<T: Clone>(set: Option<&Located<T>>, default: T) -> T {
    set.map_or(default, |located| located.value.clone())
}

/// Bounds make sure that it fits; a machine where it does not gets the largest.
pub(super) fn whole(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn refuse_open_doors(server: &RawServer, callers: &RawCallers, problems: &Problems) {
    let anonymous = callers.anonymous.as_ref().is_some_and(|anonymous| anonymous.value);
    if let Some(listen) = &server.listen
        && !listen.value.ip().is_loopback()
        && !callers.keys_given
        && !callers.entra_given
        && !anonymous
    {
        problems.refuse(
            listen,
            "a loopback address such as \"127.0.0.1:8080\", because nothing says who may call; to open \
                 it to others, set caller keys (SIDESTEP_CALLER_KEYS, or callers.keys or callers.entra in the file), or admit \
                 everyone (SIDESTEP_ANONYMOUS=true, or callers.anonymous)",
        );
    }
    let admin = value_or(server.admin_listen.as_ref(), Some(defaults::ADMIN_LISTEN));
    if let (Some(address), Some(located)) = (admin, &server.admin_listen)
        && !address.ip().is_loopback()
        && !server.admin_token_given
    {
        problems.refuse(
            located,
            "a loopback address such as \"127.0.0.1:9080\"; to open it to others, set server.admin_token \
                 in the file or SIDESTEP_ADMIN_TOKEN",
        );
    }
    let listen = value_or(server.listen.as_ref(), defaults::LISTEN);
    if let Some(admin) = admin.filter(|admin| clash(*admin, listen)) {
        let (key, place) = match (&server.admin_listen, &server.listen) {
            (Some(admin), _) => (admin.key.as_str(), &admin.place),
            (None, Some(listen)) => (listen.key.as_str(), &listen.place),
            (None, None) => ("server.admin_listen", &Place::Nowhere),
        };
        let found = format!("{listen} for callers and {admin} for operators");
        problems.add(key, place, found, "two addresses that differ, as by their port");
    }
}

/// Whether both cannot be listened on at once. Port 0 is a different one each time.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && same_ip
}

fn proxy(
    retry: &RawRetry,
    limits: &RawLimits,
    path_prefix: Option<Located<String>>,
    explain_headers: Option<Located<bool>>,
) -> ProxySettings {
    let default = defaults::proxy();
    let bytes = |set: &Option<Located<u64>>, default| set.as_ref().map_or(default, |set| whole(set.value));
    ProxySettings {
        deadline: value_or(retry.deadline.as_ref(), default.deadline),
        first_byte_timeout: value_or(retry.first_byte_timeout.as_ref(), default.first_byte_timeout),
        first_event_timeout: value_or(retry.first_event_timeout.as_ref(), default.first_event_timeout),
        stream_idle_timeout: value_or(retry.stream_idle_timeout.as_ref(), default.stream_idle_timeout),
        hold: value_or(retry.hold.as_ref(), default.hold),
        held: limits.held.as_ref().map_or(default.held, |set| whole(set.value)),
        explain_headers: value_or(explain_headers.as_ref(), default.explain_headers),
        path_prefix: path_prefix.map_or(default.path_prefix, |prefix| prefix.value),
        forward_headers: Vec::new(),
        body_idle: value_or(limits.body_idle.as_ref(), default.body_idle),
        request_replay: bytes(&limits.request_replay, default.request_replay),
        request_hard_limit: value_or(limits.request_hard_limit.as_ref(), default.request_hard_limit),
        buffered: bytes(&limits.buffered, default.buffered),
    }
}

/// Bounds of which one must not pass another.
fn refuse_reversed(
    retry: &RawRetry,
    limits: &RawLimits,
    proxy: &ProxySettings,
    upstream: &UpstreamSettings,
    problems: &Problems,
) {
    if upstream.connect_timeout > proxy.deadline {
        let at_most =
            format!("at most retry.deadline, which is {}", humantime::format_duration(proxy.deadline));
        match (&retry.connect_timeout, &retry.deadline) {
            (Some(connect), _) => problems.refuse(connect, at_most),
            (None, Some(deadline)) => {
                let connect = humantime::format_duration(upstream.connect_timeout);
                problems.refuse(deadline, format!("at least retry.connect_timeout, which is {connect}"));
            }
            (None, None) => {}
        }
    }
    if let (Some(hold), Some(value)) = (&retry.hold, proxy.hold)
        && value >= proxy.deadline
    {
        let deadline = humantime::format_duration(proxy.deadline);
        problems.refuse(hold, format!("less than retry.deadline, which is {deadline}, or \"off\""));
    }
    let replay = proxy.request_replay as u64;
    for (name, bound, set) in [
        ("request_hard_limit", proxy.request_hard_limit, &limits.request_hard_limit),
        ("buffered", proxy.buffered as u64, &limits.buffered),
    ] {
        if replay <= bound {
            continue;
        }
        match (&limits.request_replay, set) {
            (Some(replay), _) => {
                problems.refuse(replay, format!("at most limits.{name}, which is {}", show_size(bound)));
            }
            (None, Some(set)) => {
                problems
                    .refuse(set, format!("at least limits.request_replay, which is {}", show_size(replay)));
            }
            (None, None) => {}
        }
    }
}

fn server_limits(
    connections: Option<Located<u64>>,
    streams: Option<Located<u64>>,
    header_bytes: Option<Located<u64>>,
    header_time: Option<Located<Duration>>,
    idle: Option<Located<Duration>>,
    write_idle: Option<Located<Duration>>,
) -> ServerLimits {
    let default = ServerLimits::default();
    ServerLimits {
        connections: connections
            .and_then(|set| NonZeroUsize::new(whole(set.value)))
            .unwrap_or(default.connections),
        streams_per_connection: streams
            .and_then(|set| u32::try_from(set.value).ok())
            .unwrap_or(default.streams_per_connection),
        header_bytes: header_bytes.map_or(default.header_bytes, |set| whole(set.value)),
        header_time: header_time.map_or(default.header_time, |set| set.value),
        idle: idle.map_or(default.idle, |set| set.value),
        write_idle: write_idle.map_or(default.write_idle, |set| set.value),
    }
}
