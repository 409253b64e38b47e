//! `[traces]`, and the variables of OpenTelemetry where the file says nothing.
//!
//! Those variables are meant for every program of a machine: one that we cannot use is noted, and stops nothing.

use http::{HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;

use crate::settings::environment::Environment;
use crate::settings::problem::Located;
use crate::settings::reader::Table;
use crate::telemetry::traces::TraceSettings;

/// Where OTLP over HTTP takes spans, below the address of the receiver.
const PATH: &str = "/v1/traces";

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

/// `[traces]`
#[derive(Debug, Default)]
pub(super) struct RawTraces {
    endpoint: Option<Located<Option<Uri>>>,
    sample: Option<Located<f64>>,
}

pub(super) fn read(table: &mut Table<'_>) -> RawTraces {
    RawTraces { endpoint: table.parsed("endpoint", endpoint_or_off), sample: table.share("sample") }
}

pub(super) fn default() -> TraceSettings {
    let resource = vec![
        ("service.name".to_owned(), "sidestep".to_owned()),
        ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ];
    TraceSettings { endpoint: None, sample: 1.0, headers: Vec::new(), resource }
}

pub(super) fn resolve(raw: RawTraces, environment: &Environment, notes: &mut Vec<String>) -> TraceSettings {
    let default = default();
    let endpoint = match raw.endpoint {
        Some(set) => set.value,
        None => from_environment(environment, notes),
    };
    let sample = raw.sample.map_or(default.sample, |set| set.value);
    let Some(endpoint) = endpoint else { return TraceSettings { sample, ..default } };
    let headers = headers(environment, notes);
    if !headers.is_empty() && endpoint.scheme_str() == Some("http") && !is_loopback(&endpoint) {
        notes.push(format!("unsafe: the headers of traces go to {endpoint} in plain HTTP"));
    }
    let resource = resource(default.resource, environment, notes);
    TraceSettings { endpoint: Some(endpoint), sample, headers, resource }
}

/// The address of a receiver; the path is added where it is missing.
fn endpoint_or_off(text: &str) -> Result<Option<Uri>, String> {
    match text.trim() {
        "off" => Ok(None),
        text => address(text, true).map(Some).map_err(|expected| format!("{expected}, or \"off\"")),
    }
}

fn address(text: &str, add_path: bool) -> Result<Uri, String> {
    let wrong = || "the address of an OTLP receiver, such as \"http://127.0.0.1:4318\"".to_owned();
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    if text.contains(['@', '?', '#']) {
        return Err(
            "an address without user name, password, `?…` or `#…`; secrets belong in OTEL_EXPORTER_OTLP_HEADERS"
                .to_owned(),
        );
    }
    let (Some("http" | "https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong());
    };
    let after_host = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    if authority.host().is_empty() || (!after_host.is_empty() && authority.port_u16().is_none()) {
        return Err(wrong());
    }
    let path = uri.path().trim_end_matches('/');
    let path = match path {
        path if add_path && !path.ends_with(PATH) => format!("{path}{PATH}"),
        "" => "/".to_owned(),
        path => path.to_owned(),
    };
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(path.parse().map_err(|_| wrong())?);
    Uri::from_parts(parts).map_err(|_| wrong())
}

fn is_loopback(endpoint: &Uri) -> bool {
    let host = endpoint.host().unwrap_or_default().trim_matches(['[', ']']);
    match host.parse::<std::net::IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

fn from_environment(environment: &Environment, notes: &mut Vec<String>) -> Option<Uri> {
    let (name, text, add_path) = match (environment.given(TRACES_ENDPOINT), environment.given(ENDPOINT)) {
        (Some(text), _) => (TRACES_ENDPOINT, text, false),
        (None, Some(text)) => (ENDPOINT, text, true),
        (None, None) => return None,
    };
    let disabled = environment.given("OTEL_SDK_DISABLED").is_some_and(|set| set.eq_ignore_ascii_case("true"));
    let exporters = environment.given("OTEL_TRACES_EXPORTER").unwrap_or("otlp");
    if disabled || !exporters.split(',').any(|exporter| exporter.trim() == "otlp") {
        return None;
    }
    let protocol = first(environment, ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]);
    if protocol.is_some_and(|(_, protocol)| protocol != "http/protobuf") {
        notes.push(format!(
            "nothing is traced: {name} is meant for another protocol than http/protobuf, the one that Sidestep speaks; \
             traces.endpoint in the file says where to send traces"
        ));
        return None;
    }
    match address(text, add_path) {
        Ok(endpoint) => Some(endpoint),
        Err(expected) => {
            notes.push(format!("nothing is traced: {name} is not {expected}"));
            None
        }
    }
}

/// The first of these that is given, with its name.
fn first<'a, const N: usize>(
    environment: &'a Environment,
    names: [&'static str; N],
) -> Option<(&'static str, &'a str)> {
    names.into_iter().find_map(|name| Some((name, environment.given(name)?)))
}

/// The pairs of `a=b,c=d`, percent-decoded; `None` for what is none.
fn pairs(list: &str) -> impl Iterator<Item = Option<(String, String)>> {
    let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries.map(|entry| {
        let (key, value) = entry.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        Some((key.trim().to_owned(), value.into_owned()))
    })
}

fn headers(environment: &Environment, notes: &mut Vec<String>) -> Vec<(HeaderName, HeaderValue)> {
    let given = first(environment, ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"]);
    let Some((name, list)) = given else { return Vec::new() };
    let header = |pair: Option<(String, String)>| {
        let (key, value) = pair?;
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::try_from(key).ok()?, value))
    };
    let headers: Option<Vec<_>> = pairs(list).map(header).collect();
    headers.unwrap_or_else(|| {
        notes.push(format!("{name} is not understood and not sent: expected \"name=value,name=value\""));
        Vec::new()
    })
}

fn resource(
    mut resource: Vec<(String, String)>,
    environment: &Environment,
    notes: &mut Vec<String>,
) -> Vec<(String, String)> {
    const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
    let mut set = |key: String, value: String| {
        resource.retain(|(known, _)| *known != key);
        resource.push((key, value));
    };
    let attributes: Option<Vec<_>> = pairs(environment.given(ATTRIBUTES).unwrap_or_default()).collect();
    match attributes {
        Some(attributes) => attributes.into_iter().for_each(|(key, value)| set(key, value)),
        None => notes.push(format!("{ATTRIBUTES} is not understood: expected \"name=value,name=value\"")),
    }
    if let Some(name) = environment.given("OTEL_SERVICE_NAME") {
        set("service.name".to_owned(), name.to_owned());
    }
    resource
}

#[cfg(test)]
mod tests {
    use super::super::tests::{from_environment, keys, with_backend, with_backend_and};
    use super::super::{Settings, describe};

    fn endpoint(settings: &Settings) -> Option<String> {
        settings.traces.endpoint.as_ref().map(ToString::to_string)
    }

    fn in_file(endpoint: &str) -> Result<Settings, super::super::SettingsError> {
        with_backend(&format!("[traces]\nendpoint = \"{endpoint}\""))
    }

    #[test]
    fn the_path_of_the_protocol_is_added_where_it_is_missing() {
        for (written, sent_to) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
            ("https://otel.example/api/public/otel", "https://otel.example/api/public/otel/v1/traces"),
            ("https://otel.example/v1/traces", "https://otel.example/v1/traces"),
            ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
        ] {
            assert_eq!(endpoint(&in_file(written).unwrap()).as_deref(), Some(sent_to));
        }
    }

    #[test]
    fn an_address_or_share_that_cannot_be_is_refused_with_key_and_line_and_without_secrets() {
        for wrong in [
            "127.0.0.1:4318",
            "grpc://127.0.0.1:4317",
            "",
            "https://me:pass-word-1@otel.example",
            "https://otel.example/?key=pass-word-1",
            "https:///v1/traces",
            "http://collector:431800",
            "http://collector:otlp",
        ] {
            let told = in_file(wrong).unwrap_err();
            assert_eq!(told.problems()[0].key, "traces.endpoint", "{wrong}");
            let told = told.to_string();
            assert!(told.contains("line 2") && !told.contains("pass-word-1"), "{told}");
        }
        for wrong in ["0", "0.0", "1.1", "-0.5", "nan", "\"0.5\"", "true"] {
            let result = with_backend(&format!("[traces]\nsample = {wrong}"));
            assert_eq!(keys(&result), ["traces.sample"], "{wrong}");
        }
        for (good, sample) in [("1", 1.0), ("0.25", 0.25), ("1e-3", 0.001)] {
            let settings = with_backend(&format!("[traces]\nsample = {good}")).unwrap();
            assert!((settings.traces.sample - sample).abs() < 1e-12);
        }
    }

    #[test]
    fn the_variables_of_opentelemetry_hold_where_the_file_says_nothing() {
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.test:4318/base/");
        let of = |toml: &str, pairs: &[(&str, &str)]| endpoint(&with_backend_and(toml, pairs).unwrap());
        assert_eq!(of("", &[]), None);
        assert_eq!(of("", &[base]).as_deref(), Some("http://collector.test:4318/base/v1/traces"));
        let exact = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces.test/spans");
        assert_eq!(of("", &[base, exact]).as_deref(), Some("http://traces.test/spans"));
        let ours = "[traces]\nendpoint = \"http://ours.test\"";
        assert_eq!(of(ours, &[base, exact]).as_deref(), Some("http://ours.test/v1/traces"));
        assert_eq!(of("[traces]\nendpoint = \"off\"", &[base, exact]), None);
        assert_eq!(of("", &[base, ("OTEL_SDK_DISABLED", "true")]), None);
        assert_eq!(of("", &[base, ("OTEL_TRACES_EXPORTER", "none")]), None);
    }

    #[test]
    fn a_variable_that_we_cannot_use_is_noted_and_stops_nothing() {
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
        for (pairs, traced, noted) in [
            (
                vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317")],
                false,
                "OTEL_EXPORTER_OTLP_ENDPOINT is not",
            ),
            (
                vec![base, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
                false,
                "another protocol than http/protobuf",
            ),
            (vec![base, ("OTEL_EXPORTER_OTLP_HEADERS", "pass word")], true, "HEADERS is not understood"),
            (vec![base, ("OTEL_RESOURCE_ATTRIBUTES", "a")], true, "ATTRIBUTES is not understood"),
        ] {
            let settings = with_backend_and("", &pairs).unwrap();
            assert_eq!(endpoint(&settings).is_some(), traced, "{pairs:?}");
            assert!(settings.notes.iter().any(|note| note.contains(noted)), "{:?}", settings.notes);
            assert!(!format!("{settings:?}").contains("pass word"));
        }
    }

    #[test]
    fn headers_are_secrets_and_the_resource_says_who_we_are() {
        let settings = from_environment(&[
            ("BACKEND_1_URL", "https://west.openai.azure.com"),
            ("BACKEND_1_APIKEY", "k"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.test:4318"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20c2VjcmV0, x-team = blue"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment.environment.name=caf%C3%A9"),
            ("OTEL_SERVICE_NAME", "chat-front"),
        ])
        .unwrap();
        let headers = &settings.traces.headers;
        assert_eq!(
            (headers[0].0.as_str(), headers[0].1.to_str().unwrap()),
            ("authorization", "Basic c2VjcmV0")
        );
        assert_eq!((headers[1].0.as_str(), headers[1].1.to_str().unwrap()), ("x-team", "blue"));
        let shown = format!("{}{settings:?}{:?}", describe(&settings), settings.notes);
        assert!(!shown.contains("c2VjcmV0") && shown.contains("in plain HTTP"), "{shown}");
        let resource = &settings.traces.resource;
        let of = |key: &str| -> Vec<&str> {
            resource.iter().filter(|(known, _)| known == key).map(|(_, value)| value.as_str()).collect()
        };
        assert_eq!(of("service.name"), ["chat-front"]);
        assert_eq!(of("deployment.environment.name"), ["café"]);
        assert_eq!(of("service.version").len(), 1);
    }
}
