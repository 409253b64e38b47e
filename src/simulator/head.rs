//! Response headers as Azure sends them.

use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER,
};
use http::{HeaderValue, StatusCode};

use super::quota::{Levels, Limit};
use super::settings::HeaderSettings;

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(super) const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");
pub(super) const HTML: HeaderValue = HeaderValue::from_static("text/html");

const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const POLICY: HeaderName = HeaderName::from_static("policy-id");
const REQUEST: HeaderName = HeaderName::from_static("apim-request-id");
const MODEL_REQUEST: HeaderName = HeaderName::from_static("x-request-id");
const RESET_TOKENS: HeaderName = HeaderName::from_static("x-ratelimit-reset-tokens");
const REMAINING_TOKENS: HeaderName = HeaderName::from_static("x-ratelimit-remaining-tokens");

/// Headers of every answer; `region` says which resource answered. `id` makes the request ids.
pub(super) fn common(region: &HeaderValue, id: u64, content_type: HeaderValue) -> HeaderMap {
    let fixed = |name: &'static str, value: &'static str| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    let mut headers = HeaderMap::with_capacity(24);
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(HeaderName::from_static("x-ms-region"), region.clone());
    headers.insert(REQUEST, request_id(id));
    headers.insert(MODEL_REQUEST, request_id(id.rotate_left(32)));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, must-revalidate"));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.extend([
        fixed("strict-transport-security", "max-age=31536000; includeSubDomains; preload"),
        fixed("x-content-type-options", "nosniff"),
        fixed("x-accel-buffering", "no"),
        fixed("x-ms-rai-invoked", "true"),
        fixed("azureml-model-session", "d008-20261125000000"),
    ]);
    headers
}

/// The rate limit headers of an answer.
pub(super) fn limits(headers: &mut HeaderMap, levels: &Levels, sent: HeaderSettings) {
    let mut put = |name: &'static str, number: u64| {
        headers.insert(HeaderName::from_static(name), number.into());
    };
    if sent.ratelimit {
        put("x-ratelimit-limit-requests", levels.limit_requests);
        put("x-ratelimit-limit-tokens", levels.limit_tokens);
        put("x-ratelimit-remaining-requests", levels.remaining_requests);
        put("x-ratelimit-remaining-tokens", levels.remaining_tokens);
    }
    if sent.ratelimit_reset {
        put("x-ratelimit-reset-requests", whole_seconds(levels.reset_requests));
        put("x-ratelimit-reset-tokens", whole_seconds(levels.reset_tokens));
    }
    if sent.ratelimit && sent.remaining_unknown {
        headers.insert(REMAINING_TOKENS, HeaderValue::from_static("-1"));
        headers.insert(RESET_TOKENS, HeaderValue::from_static("0"));
    }
}

/// What a 429 adds.
pub(super) fn throttled(headers: &mut HeaderMap, limit: Limit, wait: Duration, sent: HeaderSettings) {
    headers.insert(
        POLICY,
        HeaderValue::from_static(match limit {
            Limit::Tokens => "DeploymentRatelimit-Token",
            Limit::Requests => "DeploymentRatelimit-Call",
        }),
    );
    if sent.retry_after {
        headers.insert(RETRY_AFTER, whole_seconds(wait).into());
    }
    if sent.retry_after_ms {
        let milliseconds = u64::try_from(wait.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
        headers.insert(RETRY_AFTER_MS, milliseconds.into());
    }
}

/// What a throttle fault adds: exactly what it was told.
pub(super) fn throttled_on_demand(
    headers: &mut HeaderMap,
    retry_after: Option<&str>,
    retry_after_ms: Option<&str>,
) {
    headers.insert(POLICY, HeaderValue::from_static("DeploymentRatelimit-Token"));
    headers.insert(REMAINING_TOKENS, HeaderValue::from_static("0"));
    for (name, value) in [(RETRY_AFTER, retry_after), (RETRY_AFTER_MS, retry_after_ms)] {
        if let Some(value) = value.and_then(|text| HeaderValue::from_str(text).ok()) {
            headers.insert(name, value);
        }
    }
}

/// Seconds, rounded up, as Azure tells them.
pub(super) fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// A status from a fault; nonsense becomes 500.
pub(super) fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).ok().filter(|_| code >= 200).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn request_id(id: u64) -> HeaderValue {
    let text = format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        id >> 32,
        (id >> 16) & 0xffff,
        id & 0xfff,
        (id >> 12) & 0xfff,
        id & 0xffff_ffff_ffff
    );
    HeaderValue::from_str(&text).expect("hexadecimal digits and hyphens are a header value")
}

/// Headers that Azure does not count as custom ones; of all others it takes ten.
const ORDINARY: [&str; 18] = [
    "host",
    "accept",
    "accept-encoding",
    "accept-language",
    "api-key",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "openai-beta",
    "sec-fetch-mode",
    "transfer-encoding",
    "user-agent",
    "aoai-evals",
    "x-ms-client-request-id",
    "x-ms-oai-image-generation-deployment",
    "x-ms-spillover-deployment",
    "te",
];

/// Whether Azure would answer 431: more than ten custom headers, or one above 8,190 bytes.
pub(super) fn too_many(headers: &HeaderMap) -> bool {
    let custom = headers
        .keys()
        .filter(|name| !name.as_str().starts_with("x-stainless-") && !ORDINARY.contains(&name.as_str()))
        .count();
    custom > 10 || headers.iter().any(|(name, value)| name.as_str().len() + value.len() > 8_190)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_rounded_up_in_both_units() {
        let mut headers = HeaderMap::new();
        throttled(&mut headers, Limit::Tokens, Duration::from_micros(5_000_100), HeaderSettings::default());
        assert_eq!(headers["retry-after"], "6");
        assert_eq!(headers["retry-after-ms"], "5001");
    }

    #[test]
    fn eleven_custom_headers_are_too_many_and_those_of_sdks_do_not_count() {
        let mut headers = HeaderMap::new();
        for number in 0..10 {
            headers.insert(HeaderName::try_from(format!("x-custom-{number}")).unwrap(), JSON);
            headers.insert(HeaderName::try_from(format!("x-stainless-{number}")).unwrap(), JSON);
        }
        headers.insert("api-key", JSON);
        assert!(!too_many(&headers));
        headers.insert("x-forwarded-for", JSON);
        assert!(too_many(&headers));
    }
}
