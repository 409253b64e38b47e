//! Which headers travel, in both directions. PURE.

use std::time::Duration;

use http::header::{
    ACCEPT, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, DATE, RETRY_AFTER, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::edge::EdgeBackend;
use crate::balance::Deployments;

/// The id of a request, on every answer.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-sidestep-request-id");
/// The same where the answer is ours: SDKs show this one with an error. On other answers it is the backend's.
pub(super) const SDK_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Which backend answered.
pub(super) const BACKEND: HeaderName = HeaderName::from_static("x-sidestep-backend");
/// How many attempts it took.
pub(super) const ATTEMPTS: HeaderName = HeaderName::from_static("x-sidestep-attempts");
/// Milliseconds to wait; SDKs read it first.
pub(super) const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
/// Whether an SDK should try again.
pub(super) const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// The caller's own patience in seconds, as the Python SDK sends it.
const READ_TIMEOUT: HeaderName = HeaderName::from_static("x-stainless-read-timeout");

/// The deployment that draws for a response; mapped like the one in the path or body.
pub(super) const IMAGE_DEPLOYMENT: HeaderName =
    HeaderName::from_static("x-ms-oai-image-generation-deployment");

/// No wait longer than this is passed on: from 60 s on, SDKs ignore or oversleep it (azure-openai.md 5.1).
const LONGEST_WAIT: u64 = 59;

/// What travels upstream: Azure answers 431 to more than ten headers of one's own (azure-openai.md 3.6), and
/// what is not listed cannot leak.
static UPSTREAM: [HeaderName; 8] = [
    ACCEPT,
    CONTENT_ENCODING,
    CONTENT_TYPE,
    USER_AGENT,
    HeaderName::from_static("aoai-evals"),
    HeaderName::from_static("openai-beta"),
    HeaderName::from_static("x-ms-client-request-id"),
    IMAGE_DEPLOYMENT,
];

/// The headers for one backend: the listed ones, the operator's, and that backend's credential alone.
pub(super) fn upstream(
    from: &HeaderMap,
    forwarded: &[HeaderName],
    backend: &EdgeBackend,
    credential: Option<(HeaderName, HeaderValue)>,
) -> HeaderMap {
    // The answer's are read into the same map: room for them too.
    let mut headers = HeaderMap::with_capacity(24);
    let mut image = None;
    // One look at each that came: a look-up costs a hash each.
    for (name, value) in from {
        if UPSTREAM.contains(name) || forwarded.contains(name) {
            headers.append(name.clone(), value.clone());
            if *name == IMAGE_DEPLOYMENT {
                image.get_or_insert(value);
            }
        }
    }
    let image = image.and_then(|name| name.to_str().ok());
    let there = image.and_then(|name| drawing(&backend.deployments, name));
    if let Some(there) = there.and_then(|name| HeaderValue::from_str(name).ok()) {
        headers.insert(IMAGE_DEPLOYMENT, there);
    }
    if let Some((name, value)) = credential {
        headers.insert(name, value);
    }
    headers
}

/// What the deployment that draws is called there. A backend with one name for all has it for the one that talks.
fn drawing<'a>(deployments: &'a Deployments, name: &'a str) -> Option<&'a str> {
    if matches!(deployments, Deployments::AllAs(_)) { None } else { deployments.there(name) }
}

/// A browser's way to send its key with a WebSocket: a protocol of that name. The caller's key is not for the backend.
const KEY_AS_PROTOCOL: &str = "openai-insecure-api-key.";

/// What opens a WebSocket, beside `upstream`. No extension is asked for: what passes stays readable for the count of
/// its tokens, and no side has to keep a window of compression for an idle socket.
pub(super) fn socket(from: &HeaderMap, headers: &mut HeaderMap) {
    for name in [SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION] {
        if let Some(value) = from.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    let protocols = from.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter().filter_map(|value| value.to_str().ok());
    let protocols: Vec<&str> = protocols
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|protocol| !protocol.is_empty() && !protocol.starts_with(KEY_AS_PROTOCOL))
        .collect();
    if let Ok(value) = HeaderValue::from_str(&protocols.join(", "))
        && !protocols.is_empty()
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
}

/// Takes from an answer what is of one hop or ours to say, and clamps what it tells of waiting.
pub(super) fn downstream(headers: &mut HeaderMap) {
    // One look at each name: most answers have nothing to take away, and a removal costs a hash each.
    let mut waits = false;
    let foreign: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            waits |= **name == RETRY_AFTER || **name == RETRY_AFTER_MS;
            is_ours_to_say(name.as_str())
        })
        .cloned()
        .collect();
    if foreign.contains(&CONNECTION) {
        remove_listed(headers);
    }
    // Told in both ways, the chunks counted; passed on alone, the length would make a cut answer look complete.
    if foreign.contains(&TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    for name in foreign {
        headers.remove(name);
    }
    if waits {
        clamp(headers, &RETRY_AFTER, LONGEST_WAIT);
        clamp(headers, &RETRY_AFTER_MS, LONGEST_WAIT * 1000);
    }
}

/// Headers of one hop, which end here; and which pages may read an answer, which Azure answers with `*`.
fn is_ours_to_say(name: &str) -> bool {
    match name.as_bytes().first() {
        Some(b'a') => name.starts_with("access-control-"),
        Some(b'c') => name == "connection",
        Some(b'k') => name == "keep-alive",
        Some(b'p') => matches!(name, "proxy-authenticate" | "proxy-connection"),
        Some(b't') => matches!(name, "trailer" | "transfer-encoding"),
        Some(b'u') => name == "upgrade",
        _ => false,
    }
}

/// What `Connection` lists is of one hop too.
fn remove_listed(headers: &mut HeaderMap) {
    let values: Vec<HeaderValue> = headers.get_all(CONNECTION).into_iter().cloned().collect();
    for name in values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')) {
        if let Ok(name) = HeaderName::try_from(name.trim()) {
            headers.remove(name);
        }
    }
}

fn clamp(headers: &mut HeaderMap, name: &HeaderName, most: u64) {
    let Some(told) = headers.get(name).and_then(|value| value.to_str().ok()) else { return };
    // A date passes as it is: whoever sends one means a moment, not 86,400.
    let too_long = told.trim().parse::<f64>().is_ok_and(|told| told > most as f64);
    if too_long {
        headers.insert(name.clone(), HeaderValue::from(most));
    }
}

/// What an answer tells of waiting, alone. The quota headers of a 200 were written before the error in its
/// stream: `x-ratelimit-reset-*` there says when the minute ends, not when to come back.
pub(super) fn waits(headers: &HeaderMap) -> HeaderMap {
    let told = [DATE, RETRY_AFTER, RETRY_AFTER_MS].into_iter();
    told.filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))).collect()
}

/// How long a request may take until its commit: the settings' time, or the caller's own patience if less.
pub(super) fn deadline(headers: &HeaderMap, most: Duration) -> Duration {
    let asked = headers.get(READ_TIMEOUT).and_then(|value| value.to_str().ok()?.trim().parse::<f64>().ok());
    match asked.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        Some(asked) => asked.max(Duration::from_secs(1)).min(most),
        None => most,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_for_every_deployment_is_not_that_of_the_one_that_draws() {
        let named = [("draw".to_owned(), "gpt-image-1".to_owned())];
        assert_eq!(drawing(&Deployments::Named(named.into()), "draw"), Some("gpt-image-1"));
        assert_eq!(drawing(&Deployments::Any, "draw"), Some("draw"));
        assert_eq!(drawing(&Deployments::AllAs("gpt-4o".to_owned()), "draw"), None);
    }
}
