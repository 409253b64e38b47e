//! A request's path, query and body on their way to a backend: only the deployment's name changes, what is replaced is
//! read again as the new name, and nothing that a server could read in two ways goes out.
//!
//! Input: `POST /path?query`, a line with the name there, a line with the content type, the body.
#![no_main]

use bytes::Bytes;
use http::{Method, Uri};
use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use sidestep::openai::{self, BodyScan, Route};
use sidestep_fuzz::line;

fuzz_target!(|data: &[u8]| {
    let (target, rest) = line(data);
    let (there, rest) = line(rest);
    let (content_type, body) = line(rest);
    // Settings let only such names through.
    let there = std::str::from_utf8(there).ok().filter(|name| settings_accept(name)).unwrap_or("gpt-4o-east");
    if let Some((method, uri)) = understood(target) {
        path_and_query(&method, &uri, there);
    }
    json(body, there);
    multipart(std::str::from_utf8(content_type).unwrap_or_default(), body, there);
});

fn settings_accept(name: &str) -> bool {
    openai::is_deployment_name(name) && !name.starts_with(['-', '.'])
}

/// Method and target, if an HTTP server would take them.
fn understood(line: &[u8]) -> Option<(Method, Uri)> {
    let (method, target) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let uri = Uri::try_from(target).ok()?;
    Some((Method::from_bytes(method.as_bytes()).ok()?, uri))
}

fn path_and_query(method: &Method, uri: &Uri, there: &str) {
    let Ok(route) = openai::route(method, uri.path(), uri.query()) else { return };
    let same = upstream(&route, None);
    guarded(&same.0);
    assert_eq!(same.1, uri.query().map(harmless).filter(|query| !query.is_empty()));
    let other = upstream(&route, Some(there));
    guarded(&other.0);
    // What we send would be understood by ourselves in the same way, but for the name.
    let again = openai::route(method, &other.0, other.1.as_deref()).expect("what goes out is well formed");
    assert_eq!((again.operation, again.rest()), (route.operation, route.rest()));
    assert_eq!(again.deployment.as_deref(), route.deployment.as_ref().map(|_| there));
    assert_eq!(again.query_deployment.as_deref(), route.query_deployment.as_ref().map(|_| there));
    assert_eq!(upstream(&again, None), other, "a second pass changes nothing");
    match &route.deployment {
        None => assert_eq!(same.0, other.0),
        // Apart from one segment the path is the same.
        Some(_) => {
            let differing = same.0.split('/').zip(other.0.split('/')).filter(|(a, b)| a != b).count();
            assert!(differing <= 1, "{} {}", same.0, other.0);
            assert_eq!(same.0.split('/').count(), other.0.split('/').count());
            assert_eq!(same.1, other.1, "the path names it, so the query stays");
        }
    }
    if let (Some(same), Some(other)) = (&same.1, &other.1) {
        for (before, after) in pairs(same).iter().zip(pairs(other)) {
            let names = matches!(decoded(before.0).as_str(), "deployment" | "model");
            assert!(*before == after || (names && after == (before.0, there)), "{before:?} {after:?}");
        }
        assert_eq!(pairs(same).len(), pairs(other).len());
    }
}

fn upstream(route: &Route<'_>, there: Option<&str>) -> (String, Option<String>) {
    (route.upstream_path(there).into_owned(), route.upstream_query(there).map(|query| query.into_owned()))
}

/// No server behind us can take this path for another one.
fn guarded(path: &str) {
    assert!(path.starts_with('/') && !path.contains("//"), "{path}");
    assert!(path.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\?#;".contains(&byte)), "{path}");
    for segment in path.split('/') {
        let decoded: Vec<u8> = percent_decode_str(segment).collect();
        assert!(decoded != b"." && decoded != b"..", "{path}");
        assert!(!decoded.iter().any(|byte| b"/\\%;".contains(byte) || byte.is_ascii_control()), "{path}");
    }
    assert!(decoded(path).starts_with("/openai/"), "{path}");
}

fn pairs(query: &str) -> Vec<(&str, &str)> {
    query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect()
}

/// The query without the pairs that carry a caller's credential.
fn harmless(query: &str) -> String {
    let credential = |pair: &&str| {
        let key = pair.split('=').next().unwrap_or_default();
        matches!(decoded(key).as_str(), "api-key" | "subscription-key" | "ocp-apim-subscription-key")
    };
    query.split('&').filter(|pair| !credential(pair)).collect::<Vec<_>>().join("&")
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().to_ascii_lowercase()
}

fn json(body: &[u8], there: &str) {
    let scanned = openai::scan(body);
    if let Ok(Value::Object(read)) = serde_json::from_slice(body) {
        agrees(&read, scanned.as_ref().ok());
    }
    let Ok(scan) = scanned else { return };
    scan.charge(u64::MAX);
    let Some(model) = &scan.model else { return };
    let body = Bytes::copy_from_slice(body);
    let pieces = openai::replace_model(&body, model.range.clone(), there);
    assert_eq!((&pieces[0], &pieces[2]), (&body.slice(..model.range.start), &body.slice(model.range.end..)));
    let replaced = pieces.concat();
    let again = openai::scan(&replaced).expect("as well formed as before");
    let name = again.model.clone().expect("the name is still there");
    assert_eq!((name.value.as_str(), name.range.start), (there, model.range.start));
    let rest = |scan: &BodyScan| {
        let mut rest = scan.clone();
        // These look at the name as well.
        (rest.model, rest.prompt_tokens, rest.may_name) = (None, 0, false);
        rest
    };
    assert_eq!(rest(&again), rest(&scan));
}

/// Whatever a JSON reader takes for an object, the scan does too, and it reads the same from it.
fn agrees(read: &serde_json::Map<String, Value>, scan: Option<&BodyScan>) {
    // Two models; the reader kept one of them.
    let Some(scan) = scan else { return assert!(read.keys().any(|key| key.eq_ignore_ascii_case("model"))) };
    assert!(scan.json);
    assert_eq!(scan.model.as_ref().map(|name| &*name.value), read.get("model").and_then(Value::as_str));
    let truth = |key: &str| read.get(key).and_then(Value::as_bool);
    assert_eq!(scan.stream, truth("stream") == Some(true));
    assert_eq!(scan.background, truth("background") == Some(true));
    assert_eq!(scan.store, truth("store"));
    let usage = read.get("stream_options").and_then(|options| options.get("include_usage"));
    assert_eq!(scan.include_usage, usage == Some(&Value::Bool(true)));
    assert_eq!(scan.n, read.get("n").and_then(Value::as_u64));
}

fn multipart(content_type: &str, body: &[u8], there: &str) {
    let Some(boundary) = openai::multipart_boundary(content_type) else { return };
    let Ok(Some(model)) = openai::multipart_model(body, &boundary) else { return };
    let body = Bytes::copy_from_slice(body);
    let pieces = openai::replace_multipart_model(&body, model.range.clone(), there);
    assert_eq!((&pieces[0], &pieces[2]), (&body.slice(..model.range.start), &body.slice(model.range.end..)));
    let again = openai::multipart_model(&pieces.concat(), &boundary).expect("as well formed as before");
    let name = again.expect("the name is still there");
    assert_eq!((name.value.as_str(), name.range.start), (there, model.range.start));
}
