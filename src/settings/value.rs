//! The small languages inside values: durations, sizes, numbers, names, keys, addresses to listen on.
//!
//! Each function takes the text and gives the value, or the sentence that says what was expected.

use std::io::Read as _;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderName;
use secrecy::SecretString;

use crate::settings::problem::nearest;
use crate::telemetry::LogFormat;
use crate::telemetry::log::Directives;

/// Longer than any wait here makes sense; guards additions to clocks as well.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Sizes are written with these units. Fifteen lines here instead of a crate: the crates for it accept
/// fractions, bits and bare numbers, each of which would be one more way to be misunderstood.
const UNITS: [(&str, u64); 6] =
    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("MB", 1_000_000), ("kB", 1_000), ("B", 1)];

/// A duration that cannot be off.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text == "off" {
        return Err("a duration such as \"30s\"; this one cannot be off".to_owned());
    }
    positive_duration(text)
}

/// A duration, or `None` for `"off"`.
pub(crate) fn duration_or_off(text: &str) -> Result<Option<Duration>, String> {
    let text = text.trim();
    if text == "off" {
        return Ok(None);
    }
    positive_duration(text)
        .map(Some)
        .map_err(|expected| format!("{expected}; to switch this off, write \"off\""))
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("a duration longer than zero, such as \"30s\"".to_owned()),
        Ok(duration) if duration < Duration::from_millis(1) => Err("at least \"1ms\"".to_owned()),
        Ok(duration) if duration > LONGEST => Err("at most \"24h\"".to_owned()),
        Ok(duration) => Ok(duration),
        Err(_) if text == "0" => Err("a duration longer than zero, such as \"30s\"".to_owned()),
        Err(_) if !text.is_empty() && text.len() < 10 && text.bytes().all(|b| b.is_ascii_digit()) => {
            Err(format!("a duration with its unit: \"{text}s\" or \"{text}ms\""))
        }
        Err(_) => Err("a duration such as \"250ms\", \"30s\" or \"5m\"".to_owned()),
    }
}

/// A size in bytes within `range`.
pub(crate) fn size(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> {
    move |text| {
        let text = text.trim();
        let bytes = UNITS.iter().find_map(|(unit, bytes)| {
            let number = text.strip_suffix(unit)?.trim_end();
            if !number.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            number.parse::<u64>().ok()?.checked_mul(*bytes)
        });
        match bytes {
            Some(bytes) if range.contains(&bytes) => Ok(bytes),
            Some(_) => Err(format!(
                "a size from \"{}\" to \"{}\"",
                show_size(*range.start()),
                show_size(*range.end())
            )),
            None => Err("a size such as \"64KiB\", \"64MiB\" or \"1GiB\"".to_owned()),
        }
    }
}

/// The shortest exact way to write a size.
pub(crate) fn show_size(bytes: u64) -> String {
    let (unit, factor) = UNITS
        .iter()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor))
        .unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / factor)
}

/// A whole number within `range`.
pub(crate) fn number(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> {
    move |text| {
        let number = text.trim().parse::<u64>().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("a whole number from {} to {}", range.start(), range.end()))
    }
}

/// `true` or `false`.
pub(crate) fn boolean(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err("true or false".to_owned()),
    }
}

/// An address and port to listen on.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    text.parse().map_err(|_| match text.rsplit_once(':') {
        // Only a port is repeated: anything else may have come from a variable that holds a secret.
        Some(("", port)) if port.parse::<u16>().is_ok() => {
            format!("an address and a port: \"127.0.0.1:{port}\" or \"0.0.0.0:{port}\"")
        }
        Some(("localhost", port)) if port.parse::<u16>().is_ok() => {
            format!("an address, not a name: \"127.0.0.1:{port}\"")
        }
        _ => "an address and a port such as \"127.0.0.1:8080\" or \"[::1]:8080\"".to_owned(),
    })
}

/// An address and port to listen on, or `None` for `"off"`.
pub(crate) fn listen_or_off(text: &str) -> Result<Option<SocketAddr>, String> {
    match text.trim() {
        "off" => Ok(None),
        text => listen(text).map(Some).map_err(|expected| format!("{expected}, or \"off\"")),
    }
}

/// A name for people, paths and labels: of backends, deployments, callers.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let text = text.trim();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    // The first character sets it apart from a dot segment of a path and from the border of a multipart body.
    if (1..=64).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with(['.', '-']) {
        Ok(text.to_owned())
    } else {
        Err("1 to 64 letters, digits, dots, dashes or underscores, the first no dot or dash".to_owned())
    }
}

/// A secret that *others* chose: the key of an Azure resource.
pub(crate) fn api_key(text: &str) -> Result<SecretString, String> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.into())
    } else {
        Err("the key as the portal shows it: not empty, no blanks or line breaks inside".to_owned())
    }
}

/// A secret that *we* hand out: a caller's key, the admin token. Long enough not to be guessed.
pub(crate) fn own_key(text: &str) -> Result<SecretString, String> {
    let text = text.trim();
    if text.len() >= 16 && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.into())
    } else {
        Err("at least 16 characters without blanks; `sidestep key` prints a good one".to_owned())
    }
}

/// A path prefix: empty, or `/…` without trailing slash.
pub(crate) fn path_prefix(text: &str) -> Result<String, String> {
    let text = text.trim();
    let segments: Vec<&str> = text.split('/').filter(|segment| !segment.is_empty()).collect();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&b);
    let plain = |segment: &&str| !matches!(*segment, "." | "..") && segment.bytes().all(allowed);
    if !segments.is_empty() && !text.starts_with('/') {
        Err("a path that begins with a slash, such as \"/team/llm\"".to_owned())
    } else if !segments.iter().all(plain) {
        Err("a plain path such as \"/team/llm\", without `%`, dot segments or blanks".to_owned())
    } else {
        Ok(segments.iter().fold(String::new(), |path, segment| path + "/" + segment))
    }
}

/// An origin as browsers send it: scheme, host, port; lower case.
pub(crate) fn origin(text: &str) -> Result<String, String> {
    let text = text.trim().trim_end_matches('/').to_ascii_lowercase();
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if !host.is_empty() && host.bytes().all(allowed) {
        Ok(text)
    } else {
        Err("the origin of one web page, such as \"https://app.example.com\"; each must be named".to_owned())
    }
}

/// Filter directives of the log, e.g. `info` or `warn,sidestep::proxy=debug`.
pub(crate) fn log_level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let text = text.trim();
    match text.parse::<Directives>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(match nearest(text, LEVELS) {
            Some(known) => format!("a level; the nearest is \"{known}\""),
            None => format!("a level ({}) or directives such as \"warn,sidestep=debug\"", LEVELS.join(", ")),
        }),
    }
}

/// How log lines look.
pub(crate) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text.trim() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("\"text\" or \"json\"".to_owned()),
    }
}

/// A PEM file with certificates, looked into so that a wrong path is told now and not with the first request.
pub(crate) fn ca_file(path: &Path) -> Result<PathBuf, String> {
    // Ten times the bundle of a whole platform: the bound is only against a wrong path (a device, a log).
    const LONGEST: u64 = 4 << 20;
    let mut content = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut content));
    match read {
        Ok(length) if length as u64 > LONGEST => Err(format!("a PEM file of at most {}", show_size(LONGEST))),
        Ok(_) if memchr::memmem::find(&content, b"-----BEGIN CERTIFICATE-----").is_some() => {
            Ok(path.to_owned())
        }
        Ok(_) => Err("a PEM file: it contains `-----BEGIN CERTIFICATE-----`".to_owned()),
        Err(error) => Err(format!("a readable PEM file at {} ({error})", path.display())),
    }
}

/// A request header that may travel to the backends.
pub(crate) fn forwarded_header(text: &str) -> Result<HeaderName, String> {
    let name: HeaderName = text
        .trim()
        .parse()
        .map_err(|_| "the name of a request header, such as \"x-correlation-id\"".to_owned())?;
    match name.as_str() {
        "authorization" | "api-key" | "proxy-authorization" | "ocp-apim-subscription-key" => {
            Err("no credential: each backend gets its own, a caller's never travels".to_owned())
        }
        "cookie" | "cookie2" => Err("no cookies: they belong to another site than the backend".to_owned()),
        "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer" | "transfer-encoding"
        | "upgrade" => {
            Err("no hop-by-hop header: it describes one connection, and the backend's is another".to_owned())
        }
        "host" | "content-length" | "expect" | "content-type" | "accept-encoding" => {
            Err("a header that we do not set ourselves for each request".to_owned())
        }
        _ => Ok(name),
    }
}
