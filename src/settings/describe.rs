//! What was understood, for `sidestep check`: no secret in it.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

use crate::balance::{BackendSettings, Deployments};
use crate::identity::entra::Allow;
use crate::identity::{CallerKey, CallerRules, CallerSettings, Credential};
use crate::net::server::ServerLimits;
use crate::settings::identity::SCOPE;
use crate::settings::problem::MASK;
use crate::settings::value::show_size;
use crate::settings::{Settings, UpstreamBackend, defaults, traces};
use crate::telemetry::LogFormat;
use crate::telemetry::traces::TraceSettings;

/// A summary in plain text: addresses, callers, backends by priority, what differs from the defaults, notes.
#[must_use]
pub fn describe(settings: &Settings) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut text, settings);
    text
}

fn write(text: &mut String, settings: &Settings) -> fmt::Result {
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    writeln!(text, "callers      {scheme}://{}{}", settings.listen, settings.proxy.path_prefix)?;
    if let Some(tls) = &settings.tls {
        writeln!(text, "certificate  {}, its key in {}", tls.certificate, tls.key)?;
    }
    match settings.admin_listen {
        Some(admin) => {
            let token =
                if settings.admin_token.is_some() { format!(", token {MASK}") } else { String::new() };
            writeln!(text, "operators    http://{admin}{token}")?;
        }
        None => writeln!(text, "operators    off")?,
    }
    writeln!(text, "may call     {}", who_may_call(&settings.callers))?;
    if !settings.callers.origins.is_empty() {
        writeln!(text, "web pages    {}", settings.callers.origins.join(", "))?;
    }
    section(text, "callers with rules of their own", &caller_rules(&settings.callers))?;
    let mut groups: BTreeMap<u32, Vec<(&BackendSettings, &UpstreamBackend)>> = BTreeMap::new();
    for pair in settings.pool.backends.iter().zip(&settings.upstreams) {
        groups.entry(pair.0.priority).or_default().push(pair);
    }
    for (priority, backends) in groups {
        writeln!(text, "\nbackends of priority {priority}")?;
        let name_width = backends.iter().map(|(backend, _)| backend.name.len()).max().unwrap_or(0);
        let url_width = backends.iter().map(|(backend, _)| backend.url.len()).max().unwrap_or(0);
        for (backend, upstream) in backends {
            let (name, url) = (&backend.name, &backend.url);
            write!(text, "  {name:name_width$}  {url:url_width$}  {}", called_with(&upstream.credential))?;
            if backend.weight.get() != 1 {
                write!(text, ", weight {}", backend.weight)?;
            }
            let is_home =
                settings.pool.backends.get(settings.pins.home).is_some_and(|home| home.name == *name);
            if is_home && settings.pins.home > 0 {
                write!(text, ", home")?;
            }
            if upstream.origin.http2 {
                write!(text, ", HTTP/2")?;
            }
            writeln!(text, ", {}", served(&backend.deployments))?;
        }
    }
    section(text, "set otherwise than by default", &differences(settings))?;
    section(text, "to know", &settings.notes)
}

fn section(text: &mut String, title: &str, lines: &[String]) -> fmt::Result {
    if !lines.is_empty() {
        writeln!(text, "\n{title}")?;
    }
    lines.iter().try_for_each(|line| writeln!(text, "  {line}"))
}

fn who_may_call(callers: &CallerSettings) -> String {
    if callers.anonymous {
        return "anyone who reaches that address".to_owned();
    }
    let mut names: Vec<&str> = callers.keys.iter().map(|key| key.name.as_ref()).collect();
    names.dedup();
    let keys = (!names.is_empty()).then(|| format!("who has one of the keys of {}", names.join(", ")));
    let tokens = callers.entra.as_ref().map(|entra| {
        let who = match &entra.allow {
            Allow::Any => "any token".to_owned(),
            Allow::Ids(ids) => format!("a token of {}", ids.join(", ")),
        };
        format!("who has {who} of Entra ID tenant {}", entra.tenant)
    });
    match (keys, tokens) {
        (None, None) => "everyone on this machine, but no web page".to_owned(),
        (Some(one), None) | (None, Some(one)) => one,
        (Some(keys), Some(tokens)) => format!("{keys}; {tokens}"),
    }
}

/// What single callers may do otherwise than the others, one line each.
fn caller_rules(callers: &CallerSettings) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for CallerKey { name, rules, .. } in &callers.keys {
        let CallerRules { requests_per_minute, tokens_per_minute, lowest_priority, deployments, operations } =
            rules;
        let parts = [
            requests_per_minute.map(|number| format!("{number} requests a minute")),
            tokens_per_minute.map(|number| format!("{number} tokens a minute")),
            lowest_priority.map(|priority| format!("no backend beyond priority {priority}")),
            deployments.as_ref().map(|names| format!("deployments {}", names.join(", "))),
            operations.as_ref().map(|families| format!("operations {}", families.join(", "))),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        let line = format!("{name}: {}", parts.join("; "));
        if !parts.is_empty() && !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

fn called_with(credential: &Credential) -> String {
    match credential {
        Credential::ApiKey(_) => format!("api key {MASK}"),
        Credential::Token(token) if &*token.scope == SCOPE => token.source.word().to_owned(),
        Credential::Token(token) => format!("{} for {}", token.source.word(), token.scope),
        Credential::Caller => "the caller's own token".to_owned(),
    }
}

fn served(deployments: &Deployments) -> String {
    match deployments {
        Deployments::Any => "every deployment".to_owned(),
        Deployments::AllAs(name) => format!("every deployment, called {name} there"),
        Deployments::Named(names) => {
            let pair = |(here, there): (&String, &String)| {
                if here == there { here.clone() } else { format!("{here} (there: {there})") }
            };
            names.iter().map(pair).collect::<Vec<_>>().join(", ")
        }
    }
}

fn differences(settings: &Settings) -> Vec<String> {
    let (proxy, proxy_default) = (&settings.proxy, defaults::proxy());
    let workers = settings.workers.map_or_else(|| "auto".to_owned(), |workers| workers.to_string());
    let ca_file =
        settings.upstream.ca_file.as_ref().map_or_else(String::new, |file| file.display().to_string());
    let table = [
        ("server.workers", workers, "auto".to_owned()),
        ("server.drain_delay", time(settings.drain_delay), time(defaults::drain_delay(settings.listen))),
        ("server.drain_timeout", time(settings.drain_timeout), time(defaults::DRAIN_TIMEOUT)),
        (
            "server.explain_headers",
            proxy.explain_headers.to_string(),
            proxy_default.explain_headers.to_string(),
        ),
        (
            "callers.operations",
            settings.callers.operations.as_ref().map_or_else(String::new, |families| families.join(", ")),
            defaults::operations().join(", "),
        ),
        ("retry.deadline", time(proxy.deadline), time(proxy_default.deadline)),
        (
            "retry.connect_timeout",
            time(settings.upstream.connect_timeout),
            time(defaults::upstream().connect_timeout),
        ),
        (
            "retry.first_byte_timeout",
            time_or_off(proxy.first_byte_timeout),
            time_or_off(proxy_default.first_byte_timeout),
        ),
        (
            "retry.first_event_timeout",
            time_or_off(proxy.first_event_timeout),
            time_or_off(proxy_default.first_event_timeout),
        ),
        (
            "retry.stream_idle_timeout",
            time_or_off(proxy.stream_idle_timeout),
            time_or_off(proxy_default.stream_idle_timeout),
        ),
        ("retry.hold", time_or_off(proxy.hold), time_or_off(proxy_default.hold)),
        ("upstream.ca_file", ca_file, String::new()),
        ("upstream.forward_headers", header_names(&proxy.forward_headers), String::new()),
        ("log.level", settings.log.level.clone(), defaults::log().level),
        ("log.format", format_word(settings.log.format), format_word(defaults::log().format)),
        ("traces.endpoint", endpoint(&settings.traces), endpoint(&traces::default())),
        ("traces.sample", settings.traces.sample.to_string(), traces::default().sample.to_string()),
    ];
    table
        .into_iter()
        .chain(limits(settings))
        .filter(|(_, value, default)| value != default)
        .map(|(key, value, default)| match default.as_str() {
            "" => format!("{key} = {value}"),
            default => format!("{key} = {value} (default {default})"),
        })
        .collect()
}

/// Key, value and default of what `[limits]` says.
fn limits(settings: &Settings) -> impl Iterator<Item = (&'static str, String, String)> {
    let (proxy, proxy_default) = (&settings.proxy, defaults::proxy());
    let (server, server_default) = (&settings.server, ServerLimits::default());
    [
        ("limits.connections", server.connections.to_string(), server_default.connections.to_string()),
        (
            "limits.streams_per_connection",
            server.streams_per_connection.to_string(),
            server_default.streams_per_connection.to_string(),
        ),
        ("limits.header_bytes", bytes(server.header_bytes), bytes(server_default.header_bytes)),
        ("limits.header_time", time(server.header_time), time(server_default.header_time)),
        ("limits.idle", time(server.idle), time(server_default.idle)),
        ("limits.write_idle", time(server.write_idle), time(server_default.write_idle)),
        ("limits.body_idle", time(proxy.body_idle), time(proxy_default.body_idle)),
        ("limits.request_replay", bytes(proxy.request_replay), bytes(proxy_default.request_replay)),
        (
            "limits.request_hard_limit",
            show_size(proxy.request_hard_limit),
            show_size(proxy_default.request_hard_limit),
        ),
        ("limits.buffered", bytes(proxy.buffered), bytes(proxy_default.buffered)),
        ("limits.held", proxy.held.to_string(), proxy_default.held.to_string()),
        ("limits.lanes", settings.pool.lanes.to_string(), defaults::LANES.to_string()),
        ("limits.ids", settings.pins.ids.to_string(), defaults::IDS.to_string()),
    ]
    .into_iter()
}

fn header_names(names: &[http::HeaderName]) -> String {
    names.iter().map(http::HeaderName::as_str).collect::<Vec<_>>().join(", ")
}

fn time(duration: Duration) -> String {
    // Without blanks, as it would be written in the file.
    if duration.is_zero() {
        "off".to_owned()
    } else {
        humantime::format_duration(duration).to_string().replace(' ', "")
    }
}

fn format_word(format: LogFormat) -> String {
    match format {
        LogFormat::Text => "text".to_owned(),
        LogFormat::Json => "json".to_owned(),
    }
}

fn endpoint(traces: &TraceSettings) -> String {
    traces.endpoint.as_ref().map_or_else(|| "off".to_owned(), ToString::to_string)
}

fn time_or_off(duration: Option<Duration>) -> String {
    time(duration.unwrap_or_default())
}

fn bytes(size: usize) -> String {
    show_size(size as u64)
}
