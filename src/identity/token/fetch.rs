//! One try for a token, request by request as azure-openai.md 6.1 has them.

use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use super::{Fetched, TokenError, TokenSettings, TokenSource, azure_cli};
use crate::net::upstream::{Origin, RequestBody, Reuse, Tls, Upstream};
use crate::telemetry::clock;
use crate::telemetry::text::chain;

/// A token service answers within milliseconds, or after a cold start of seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether there is a metadata service shows at once: outside Azure its address leads nowhere.
const PROBE: Duration = Duration::from_secs(1);

const CONNECT: Duration = Duration::from_secs(2);

/// Tokens have 2 KB, with many groups some more.
const LARGEST_ANSWER: usize = 256 * 1024;

/// A federated token has 1 KB.
const LARGEST_FILE: u64 = 64 * 1024;

/// What a service says for itself is repeated up to here, in characters.
const LONGEST_WORDS: usize = 120;

const METADATA: HeaderName = HeaderName::from_static("metadata");
const IDENTITY_HEADER: HeaderName = HeaderName::from_static("x-identity-header");

/// What RFC 3986 leaves as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Asks the source once.
///
/// # Errors
/// Why there is no token.
pub async fn fetch(settings: &TokenSettings, tls: &Tls) -> Result<Fetched, TokenError> {
    let scope = &*settings.scope;
    match &settings.source {
        TokenSource::Platform { endpoint, header, client_id } => {
            let target = managed(endpoint, "2019-08-01", scope, client_id.as_deref());
            let header = sensitive(header)?;
            ask(tls, endpoint, Method::GET, &target, [(IDENTITY_HEADER, header)], None).await
        }
        TokenSource::Imds { endpoint, client_id } => {
            imds(tls, endpoint, scope, client_id.as_deref(), "/metadata/identity/oauth2/token").await
        }
        TokenSource::Workload { authority, tenant_id, client_id, file } => {
            let assertion = federated(file).await?;
            let form = [
                ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
                ("client_assertion", assertion.expose_secret()),
            ];
            exchange(tls, authority, tenant_id, client_id, scope, &form).await
        }
        TokenSource::ClientSecret { authority, tenant_id, client_id, secret } => {
            let form = [("client_secret", secret.expose_secret())];
            exchange(tls, authority, tenant_id, client_id, scope, &form).await
        }
        TokenSource::AzureCli { tenant_id } => azure_cli::fetch(scope, tenant_id.as_deref()).await,
        TokenSource::Probed { endpoint, client_id, tenant_id } => {
            if is_there(tls, endpoint).await {
                imds(tls, endpoint, scope, client_id.as_deref(), "/metadata/identity/oauth2/token").await
            } else {
                azure_cli::fetch(scope, tenant_id.as_deref()).await
            }
        }
    }
}

/// Any answer will do: without `Metadata: true` it is a 400.
async fn is_there(tls: &Tls, endpoint: &Origin) -> bool {
    let target = format!("{}/metadata/identity/oauth2/token", endpoint.path_prefix);
    timeout(PROBE, call(tls, endpoint, Method::GET, &target, HeaderMap::new(), None))
        .await
        .is_ok_and(|it| it.is_ok())
}

async fn imds(
    tls: &Tls,
    endpoint: &Origin,
    scope: &str,
    client_id: Option<&str>,
    path: &str,
) -> Result<Fetched, TokenError> {
    let endpoint = Origin { path_prefix: format!("{}{path}", endpoint.path_prefix), ..endpoint.clone() };
    let target = managed(&endpoint, "2018-02-01", scope, client_id);
    ask(tls, &endpoint, Method::GET, &target, [(METADATA, HeaderValue::from_static("true"))], None).await
}

/// Managed identities want the resource, which is the scope without its last segment.
fn managed(endpoint: &Origin, version: &str, scope: &str, client_id: Option<&str>) -> String {
    let resource = scope.strip_suffix("/.default").unwrap_or(scope);
    let resource = utf8_percent_encode(resource, ENCODED);
    let mut target = format!("{}?api-version={version}&resource={resource}", endpoint.path_prefix);
    if let Some(client_id) = client_id {
        target.push_str("&client_id=");
        target.extend(utf8_percent_encode(client_id, ENCODED));
    }
    target
}

async fn exchange(
    tls: &Tls,
    authority: &Origin,
    tenant_id: &str,
    client_id: &str,
    scope: &str,
    proof: &[(&str, &str)],
) -> Result<Fetched, TokenError> {
    let target =
        format!("{}/{}/oauth2/v2.0/token", authority.path_prefix, utf8_percent_encode(tenant_id, ENCODED));
    let mut form = String::new();
    let common = [("client_id", client_id), ("grant_type", "client_credentials"), ("scope", scope)];
    for (name, value) in common.iter().chain(proof) {
        if !form.is_empty() {
            form.push('&');
        }
        form.push_str(name);
        form.push('=');
        form.extend(utf8_percent_encode(value, ENCODED));
    }
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
    ask(tls, authority, Method::POST, &target, [(header::CONTENT_TYPE, kind)], Some(form.into())).await
}

/// Read each time: the platform renews it.
async fn federated(file: &std::path::Path) -> Result<SecretString, TokenError> {
    let file = file.to_path_buf();
    // A file of a mounted volume may hang.
    let read = tokio::task::spawn_blocking(move || {
        use std::io::Read as _;
        let mut text = String::new();
        std::fs::File::open(file)?.take(LARGEST_FILE).read_to_string(&mut text)?;
        std::io::Result::Ok(text)
    });
    let text = read.await.map_err(|_| TokenError::File("reading it failed".to_owned()))?;
    let text = text.map_err(|error| TokenError::File(error.kind().to_string()))?;
    match text.trim() {
        "" => Err(TokenError::File("it is empty".to_owned())),
        token => Ok(token.into()),
    }
}

async fn ask(
    tls: &Tls,
    service: &Origin,
    method: Method,
    target: &str,
    headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    body: Option<Bytes>,
) -> Result<Fetched, TokenError> {
    let mut all = HeaderMap::from_iter(headers);
    all.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    let asking = call(tls, service, method, target, all, body);
    let (status, body) = timeout(PATIENCE, asking).await.unwrap_or(Err(TokenError::TimedOut))?;
    if status != StatusCode::OK {
        return Err(TokenError::Refused { status: status.as_u16(), said: said(&body) });
    }
    understand(&body, clock::unix_ms() / 1000)
}

/// A connection of its own each time: it is asked once an hour.
async fn call(
    tls: &Tls,
    service: &Origin,
    method: Method,
    target: &str,
    headers: HeaderMap,
    body: Option<Bytes>,
) -> Result<(StatusCode, Bytes), TokenError> {
    let unreachable = |error: &dyn std::error::Error| TokenError::Unreachable(cut(&chain(error)));
    let upstream = Upstream::new(service.clone(), tls, CONNECT).map_err(|error| unreachable(&error))?;
    let target = PathAndQuery::try_from(target).map_err(|error| unreachable(&error))?;
    let body =
        body.map_or_else(RequestBody::empty, |body| RequestBody::whole([body, Bytes::new(), Bytes::new()]));
    let sent = upstream.send(method, target, headers, body, Reuse::Never).await;
    let answer = sent.map_err(|error| unreachable(&error))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
    let body = body.map_err(|_| TokenError::Malformed("it broke off or is too long"))?;
    Ok((status, body.to_bytes()))
}

fn sensitive(secret: &SecretString) -> Result<HeaderValue, TokenError> {
    let mut value = HeaderValue::from_str(secret.expose_secret())
        .map_err(|_| TokenError::Malformed("IDENTITY_HEADER cannot be sent"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Numbers come as numbers from one service and as strings from another.
#[derive(Deserialize)]
struct Answer {
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Value,
    #[serde(default)]
    expires_on: Value,
}

fn understand(body: &[u8], now: u64) -> Result<Fetched, TokenError> {
    let answer: Answer =
        serde_json::from_slice(body).map_err(|_| TokenError::Malformed("it is not the JSON of a token"))?;
    let token = answer.access_token.filter(|token| !token.is_empty());
    let token = token.ok_or(TokenError::Malformed("it holds no access_token"))?;
    let number = |value: &Value| match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let lifetime = number(&answer.expires_in)
        .or_else(|| number(&answer.expires_on).map(|at| at.saturating_sub(now)))
        .ok_or(TokenError::Malformed("it tells no expires_in or expires_on"))?;
    if lifetime == 0 {
        return Err(TokenError::Malformed("its token has expired already"));
    }
    // No token lives for a year; a clock is not added to what somebody else wrote.
    Ok(Fetched { token: token.into(), lifetime: Duration::from_secs(lifetime.min(366 * 86_400)) })
}

/// What an error's body says: its code, and of Entra ID's description the number. Not its words: a gateway may repeat
/// what it was sent, and that was a secret.
fn said(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Complaint {
        error: Option<String>,
        error_description: Option<String>,
    }
    let Ok(complaint) = serde_json::from_slice::<Complaint>(body) else { return String::new() };
    let code = |text: &str, longest: usize| {
        let usual = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        (!text.is_empty() && text.len() <= longest && text.bytes().all(usual)).then(|| text.to_owned())
    };
    let error = complaint.error.and_then(|error| code(&error, 40));
    let description = complaint.error_description.unwrap_or_default();
    let number = description.split(':').next().filter(|number| number.starts_with("AADSTS"));
    let number = number.and_then(|number| code(number, 20));
    [error, number].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Somebody else's words, short, without control characters.
pub(super) fn cut(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_understood_as_number_or_string_relative_or_as_a_moment() {
        for (body, seconds) in [
            (r#"{"access_token":"t","expires_in":3599,"ext_expires_in":3599,"token_type":"Bearer"}"#, 3599),
            (r#"{"access_token":"t","expires_in":"86399","expires_on":"1586984735"}"#, 86_399),
            (r#"{"access_token":"t","expires_on":"1060"}"#, 60),
            (r#"{"access_token":"t","expires_on":1060}"#, 60),
            (r#"{"access_token":"t","expires_in":"","expires_on":1060}"#, 60),
            (r#"{"access_token":"t","expires_in":18446744073709551615}"#, 366 * 86_400),
        ] {
            assert_eq!(understand(body.as_bytes(), 1000).unwrap().lifetime.as_secs(), seconds, "{body}");
        }
    }

    #[test]
    fn what_is_no_token_is_told_without_what_it_holds() {
        for body in [
            "",
            "<html>s3cret</html>",
            "[]",
            r#"{"access_token":"s3cret"}"#,
            r#"{"access_token":"","expires_in":1}"#,
            r#"{"access_token":7,"expires_in":1}"#,
            r#"{"access_token":"s3cret","expires_in":-5}"#,
            r#"{"access_token":"s3cret","expires_in":0}"#,
            r#"{"access_token":"s3cret","expires_on":"999"}"#,
            r#"{"access_token":"s3cret","expires_on":"tomorrow"}"#,
            r#"{"expires_in":3600}"#,
        ] {
            let told = understand(body.as_bytes(), 1000).unwrap_err();
            assert!(matches!(told, TokenError::Malformed(_)), "{body}");
            assert!(!format!("{told} {told:?}").contains("s3cret"), "{body}");
        }
    }

    #[test]
    fn an_error_says_its_code_and_nothing_that_may_repeat_a_secret() {
        let aad = br#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided. Ensure the secret being sent in the request is the client secret value.\r\nTrace ID: 1","error_codes":[7000215]}"#;
        assert_eq!(said(aad), "invalid_client, AADSTS7000215");
        let imds = br#"{"error":"invalid_request","error_description":"Identity not found"}"#;
        assert_eq!(said(imds), "invalid_request");
        assert_eq!(said(b"<html>"), "");
        for echo in [
            r#"{"error":"client_secret=s3cret+/","error_description":"s3cret"}"#,
            r#"{"error":"s3cret s3cret","error_description":"AADSTS1 s3cret: x"}"#,
        ] {
            assert_eq!(said(echo.as_bytes()), "", "{echo}");
        }
    }

    #[test]
    fn managed_identities_are_asked_for_a_resource() {
        let origin = Origin {
            tls: false,
            host: "localhost".into(),
            port: 80,
            path_prefix: "/msi/token".into(),
            http2: false,
        };
        assert_eq!(
            managed(&origin, "2019-08-01", "https://cognitiveservices.azure.com/.default", Some("an id")),
            "/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fcognitiveservices.azure.com&client_id=an%20id"
        );
    }
}
