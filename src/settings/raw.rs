//! Settings as they were written: typed one by one, not yet held against each other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use secrecy::SecretString;

use crate::balance::Deployments;
use crate::net::certificate::Pem;
use crate::settings::address::Address;
use crate::settings::identity::{self, RawIdentity};
use crate::settings::problem::{Located, Place, shown};
use crate::settings::reader::Table;
use crate::settings::traces::{self, RawTraces};
use crate::settings::value;
use crate::telemetry::LogFormat;

type Set<T> = Option<Located<T>>;

/// Priorities are written by people: a bound that no sane file meets.
pub(super) const LARGEST_PRIORITY: u64 = 999_999;

/// More than any model serves.
const MOST_PER_MINUTE: u64 = 1_000_000_000;

/// Everything; what was not set is `None`.
#[derive(Debug, Default)]
pub(super) struct RawSettings {
    /// The settings file, if there was one.
    pub(super) file: Option<Arc<str>>,
    pub(super) server: RawServer,
    pub(super) callers: RawCallers,
    pub(super) backends: Vec<RawBackend>,
    /// `[[backends]]` stands in the file, right or wrong.
    pub(super) backends_given: Option<Place>,
    pub(super) retry: RawRetry,
    pub(super) upstream: RawUpstream,
    pub(super) limits: RawLimits,
    pub(super) log: RawLog,
    pub(super) traces: RawTraces,
    pub(super) notes: Vec<String>,
}

/// `[server]`
#[derive(Debug, Default)]
pub(super) struct RawServer {
    pub(super) listen: Set<SocketAddr>,
    pub(super) admin_listen: Set<Option<SocketAddr>>,
    pub(super) admin_token: Set<SecretString>,
    /// It stands there, right or wrong.
    pub(super) admin_token_given: bool,
    pub(super) tls: Option<RawTls>,
    pub(super) path_prefix: Set<String>,
    pub(super) workers: Set<Option<u64>>,
    pub(super) drain_delay: Set<Option<Duration>>,
    pub(super) drain_timeout: Set<Duration>,
    pub(super) explain_headers: Set<bool>,
}

/// `server.tls`
#[derive(Debug)]
pub(super) struct RawTls {
    pub(super) certificate: Set<Pem>,
    pub(super) key: Set<Pem>,
}

/// `[callers]`
#[derive(Debug, Default)]
pub(super) struct RawCallers {
    pub(super) anonymous: Set<bool>,
    pub(super) keys: Vec<RawCallerKey>,
    /// They stand there, right or wrong.
    pub(super) keys_given: bool,
    pub(super) entra: Option<RawEntra>,
    /// It stands there, right or wrong.
    pub(super) entra_given: bool,
    pub(super) origins: Vec<Located<String>>,
    pub(super) operations: Option<Vec<Located<&'static str>>>,
}

/// `[[callers.keys]]`
#[derive(Debug)]
pub(super) struct RawCallerKey {
    pub(super) name: Located<String>,
    pub(super) key: Located<SecretString>,
    pub(super) requests_per_minute: Set<u64>,
    pub(super) tokens_per_minute: Set<u64>,
    pub(super) lowest_priority: Set<u64>,
    pub(super) deployments: Option<Vec<Located<String>>>,
    pub(super) operations: Option<Vec<Located<&'static str>>>,
}

/// `[callers.entra]`
#[derive(Debug)]
pub(super) struct RawEntra {
    pub(super) tenant: Set<String>,
    pub(super) audiences: Vec<Located<String>>,
    pub(super) allow: Vec<Located<String>>,
    pub(super) authority: Set<String>,
}

/// `[[backends]]`, or `BACKEND_n_…`
#[derive(Debug)]
pub(super) struct RawBackend {
    pub(super) name: Set<String>,
    pub(super) url: Set<Address>,
    pub(super) priority: Set<u64>,
    pub(super) weight: Set<u64>,
    pub(super) api_key: Set<SecretString>,
    pub(super) identity: RawIdentity,
    pub(super) deployments: Deployments,
    pub(super) http2: Set<bool>,
    pub(super) home: Set<bool>,
}

/// `[retry]`
#[derive(Debug, Default)]
pub(super) struct RawRetry {
    pub(super) deadline: Set<Duration>,
    pub(super) connect_timeout: Set<Duration>,
    pub(super) first_byte_timeout: Set<Option<Duration>>,
    pub(super) first_event_timeout: Set<Option<Duration>>,
    pub(super) stream_idle_timeout: Set<Option<Duration>>,
    pub(super) hold: Set<Option<Duration>>,
}

/// `[upstream]`
#[derive(Debug, Default)]
pub(super) struct RawUpstream {
    pub(super) ca_file: Set<PathBuf>,
    pub(super) forward_headers: Vec<Located<HeaderName>>,
}

/// `[limits]`
#[derive(Debug, Default)]
pub(super) struct RawLimits {
    pub(super) connections: Set<u64>,
    pub(super) streams_per_connection: Set<u64>,
    pub(super) header_bytes: Set<u64>,
    pub(super) header_time: Set<Duration>,
    pub(super) idle: Set<Duration>,
    pub(super) write_idle: Set<Duration>,
    pub(super) body_idle: Set<Duration>,
    pub(super) request_replay: Set<u64>,
    pub(super) request_hard_limit: Set<u64>,
    pub(super) buffered: Set<u64>,
    pub(super) held: Set<u64>,
    pub(super) lanes: Set<u64>,
    pub(super) ids: Set<u64>,
}

/// `[log]`
#[derive(Debug, Default)]
pub(super) struct RawLog {
    pub(super) level: Set<String>,
    pub(super) format: Set<LogFormat>,
}

/// Reads a whole settings file.
pub(super) fn settings(root: &mut Table<'_>) -> RawSettings {
    RawSettings {
        file: None,
        server: root.within("server", server).unwrap_or_default(),
        callers: root.within("callers", callers).unwrap_or_default(),
        backends: root.each("backends", |_, table| backend(table)),
        backends_given: root.has("backends").then(|| root.place_of("backends")),
        retry: root.within("retry", retry).unwrap_or_default(),
        upstream: root.within("upstream", upstream).unwrap_or_default(),
        limits: root.within("limits", limits).unwrap_or_default(),
        log: root.within("log", log).unwrap_or_default(),
        traces: root.within("traces", traces::read).unwrap_or_default(),
        notes: Vec::new(),
    }
}

fn server(table: &mut Table<'_>) -> RawServer {
    RawServer {
        listen: table.parsed("listen", value::listen),
        admin_listen: table.parsed("admin_listen", value::listen_or_off),
        admin_token: table.secret("admin_token", value::own_key),
        admin_token_given: table.has("admin_token"),
        tls: table.within("tls", tls),
        path_prefix: table.parsed("path_prefix", value::path_prefix),
        workers: table.integer_or_auto("workers", 1..=256),
        drain_delay: table.parsed("drain_delay", value::duration_or_off),
        drain_timeout: table.parsed("drain_timeout", value::duration),
        explain_headers: table.boolean("explain_headers"),
    }
}

fn tls(table: &mut Table<'_>) -> RawTls {
    let folder = table.folder();
    let pem = |located: Located<SecretString>| {
        let Located { value, key, place, found } = located;
        let pem = value::pem(folder, value);
        // A path may be shown, and helps.
        let found = if let Pem::File(path) = &pem { shown(&path.to_string_lossy()) } else { found };
        Located { value: pem, key, place, found }
    };
    for key in ["certificate", "key"].into_iter().filter(|key| !table.has(key)) {
        table.problems().add(table.path(key), &table.place(), "nothing", "the path of a PEM file");
    }
    RawTls {
        certificate: table.secret("certificate", value::pem_or_path).map(pem),
        key: table.secret("key", value::pem_or_path).map(pem),
    }
}

fn callers(table: &mut Table<'_>) -> RawCallers {
    RawCallers {
        anonymous: table.boolean("anonymous"),
        keys: table.each("keys", caller_key).into_iter().flatten().collect(),
        keys_given: table.has("keys"),
        entra: table.within("entra", entra),
        entra_given: table.has("entra"),
        origins: table.list("origins", value::origin),
        operations: some_of(table, "operations", value::operation_family),
    }
}

/// A list that, given, must not be empty: nobody would be served.
fn some_of<T>(
    table: &mut Table<'_>,
    key: &'static str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<Vec<Located<T>>> {
    let before = table.problems().count();
    let list = table.list(key, parse);
    if table.has(key) && list.is_empty() && table.problems().count() == before {
        let expected = format!("at least one; without the key `{key}` the default holds");
        table.problems().add(table.path(key), &table.place_of(key), "an empty list", expected);
    }
    table.has(key).then_some(list)
}

fn entra(table: &mut Table<'_>) -> RawEntra {
    let entra = RawEntra {
        tenant: table.parsed("tenant", value::tenant),
        audiences: some_of(table, "audiences", value::audience).unwrap_or_default(),
        allow: some_of(table, "allow", value::allowed).unwrap_or_default(),
        authority: table.parsed("authority", value::authority),
    };
    for (key, expected) in [
        ("tenant", "the tenant's id, as the portal shows it: \"00000000-0000-0000-0000-000000000000\""),
        ("allow", "the client or object ids of who may call; [\"any\"] admits the whole tenant"),
    ] {
        if !table.has(key) {
            table.problems().add(table.path(key), &table.place(), "nothing", expected);
        }
    }
    entra
}

fn caller_key(index: usize, table: &mut Table<'_>) -> Option<RawCallerKey> {
    let name = table.parsed("name", value::name);
    let key = table.secret("key", value::own_key);
    let requests_per_minute = table.integer("requests_per_minute", 1..=MOST_PER_MINUTE);
    let tokens_per_minute = table.integer("tokens_per_minute", 1..=MOST_PER_MINUTE);
    let lowest_priority = table.integer("lowest_priority", 0..=LARGEST_PRIORITY);
    let deployments = some_of(table, "deployments", value::name);
    let operations = some_of(table, "operations", value::operation_family);
    if !table.has("key") {
        table.problems().add(table.path("key"), &table.place(), "nothing", "the key of this caller");
    }
    let unnamed = || {
        let name = format!("key-{}", index + 1);
        Located { found: format!("{name:?}"), value: name, key: table.path("name"), place: table.place() }
    };
    Some(RawCallerKey {
        name: name.unwrap_or_else(unnamed),
        key: key?,
        requests_per_minute,
        tokens_per_minute,
        lowest_priority,
        deployments,
        operations,
    })
}

fn backend(table: &mut Table<'_>) -> RawBackend {
    let backend = RawBackend {
        name: table.parsed("name", value::name),
        url: table.parsed("url", Address::parse),
        priority: table.integer("priority", 0..=LARGEST_PRIORITY),
        weight: table.integer("weight", 1..=1_000),
        api_key: table.secret("api_key", value::api_key),
        identity: identity::read(table),
        deployments: deployments(table),
        http2: table.boolean("http2"),
        home: table.boolean("home"),
    };
    let problems = table.problems();
    if !table.has("url") {
        problems.add(table.path("url"), &table.place(), "nothing", "the address of this resource");
    }
    backend
}

fn deployments(table: &mut Table<'_>) -> Deployments {
    match table.names("deployments", value::name) {
        None => Deployments::Any,
        Some(names) => {
            if names.value.is_empty() {
                let expected = "at least one name; without the key `deployments` all are served";
                table.problems().refuse(&names, expected);
            }
            Deployments::Named(BTreeMap::from_iter(names.value))
        }
    }
}

fn retry(table: &mut Table<'_>) -> RawRetry {
    RawRetry {
        deadline: table.parsed("deadline", value::duration),
        connect_timeout: table.parsed("connect_timeout", value::duration),
        first_byte_timeout: table.parsed("first_byte_timeout", value::duration_or_off),
        first_event_timeout: table.parsed("first_event_timeout", value::duration_or_off),
        stream_idle_timeout: table.parsed("stream_idle_timeout", value::duration_or_off),
        hold: table.parsed("hold", value::duration_or_off),
    }
}

fn upstream(table: &mut Table<'_>) -> RawUpstream {
    let folder = table.folder();
    RawUpstream {
        ca_file: table.parsed("ca_file", |text| value::ca_file(&folder.join(text))),
        forward_headers: table.list("forward_headers", value::forwarded_header),
    }
}

fn limits(table: &mut Table<'_>) -> RawLimits {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const TIB: u64 = 1 << 40;
    RawLimits {
        connections: table.integer("connections", 1..=1_000_000),
        streams_per_connection: table.integer("streams_per_connection", 1..=100_000),
        header_bytes: table.parsed("header_bytes", value::size(8 * KIB..=MIB)),
        header_time: table.parsed("header_time", value::duration),
        idle: table.parsed("idle", value::duration),
        write_idle: table.parsed("write_idle", value::duration),
        body_idle: table.parsed("body_idle", value::duration),
        request_replay: table.parsed("request_replay", value::size(KIB..=TIB)),
        request_hard_limit: table.parsed("request_hard_limit", value::size(KIB..=TIB)),
        buffered: table.parsed("buffered", value::size(MIB..=TIB)),
        held: table.integer("held", 1..=1_000_000),
        lanes: table.integer("lanes", 1..=1_000_000),
        ids: table.integer("ids", 2..=10_000_000),
    }
}

fn log(table: &mut Table<'_>) -> RawLog {
    RawLog {
        level: table.parsed("level", value::log_level),
        format: table.parsed("format", value::log_format),
    }
}
