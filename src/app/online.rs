//! `sidestep check --online`: asks each backend, with its credential, whether it answers. One line each.
//!
//! What is printed is ours: of an answer only its status and the names of deployments, of a certificate only what
//! `net::x509` lets through. A backend that echoes its key into an error message gets nothing of it shown.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use secrecy::ExposeSecret as _;
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::commands::say;
use crate::balance::Deployments;
use crate::identity::token::{Slot, fetch};
use crate::identity::{Credential, Presented};
use crate::net::connect::ConnectError;
use crate::net::seen::Seen;
use crate::net::upstream::{RequestBody, Reuse, SendError, Tls, Upstream};
use crate::settings::{Settings, UpstreamBackend};
use crate::telemetry::text::chain;

/// So long all of one backend's answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// So large a list of models may be, in bytes.
const LARGEST: usize = 8 * 1024 * 1024;

/// So many names are shown.
const SHOWN: usize = 8;

/// Of a line, in characters: a certificate may be good for any number of other names.
const LONGEST: usize = 500;

/// Lists what the resource has: allowed to every role that may call models, costs nothing, and is answered for keys and
/// tokens alike (azure-openai.md 2.1).
const MODELS: &str = "/openai/v1/models";

/// Asks all at one time and prints what they said. Whether all are well.
pub(super) fn ask(settings: &Settings) -> bool {
    let Ok(runtime) = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) else {
        say("\nthe operating system refuses a runtime\n");
        return false;
    };
    let found = runtime.block_on(async {
        let mut asking = JoinSet::new();
        for (index, upstream) in settings.upstreams.iter().enumerate() {
            let (settings, upstream) = (settings.clone(), upstream.clone());
            asking.spawn_local(async move {
                let told = timeout(PATIENCE, backend(&settings, index, &upstream)).await;
                (
                    index,
                    told.unwrap_or_else(|_| Err(format!("no answer within {}", PATIENCE.as_secs()) + " s")),
                )
            });
        }
        let mut found = asking.join_all().await;
        found.sort_by_key(|(index, _)| *index);
        found
    });
    let backends = &settings.pool.backends;
    let width = backends.iter().map(|backend| backend.name.len()).max().unwrap_or(0);
    let mut text = String::from("\nasked just now\n");
    let mut well = true;
    for (index, told) in found {
        let name = &backends[index].name;
        let (mark, told) = match told {
            Ok(told) => ('✓', told),
            Err(told) => {
                well = false;
                ('✗', told)
            }
        };
        // Writing to a string does not fail.
        let told: String = told.chars().take(LONGEST).collect();
        let _ = writeln!(text, "  {mark} {name:width$}  {told}");
    }
    say(&text);
    well
}

/// The header with which a backend is asked; none where callers bring their own token.
async fn credential(
    settings: &Settings,
    upstream: &UpstreamBackend,
) -> Result<Option<(HeaderName, HeaderValue)>, String> {
    let token = match &upstream.credential {
        Credential::Token(token) => token,
        key => match key.presented(|_| Slot::default()) {
            Ok(Presented::Header(name, value)) => return Ok(Some((name, value))),
            Ok(Presented::Token(_) | Presented::Caller) => return Ok(None),
            Err(error) => return Err(format!("{error} (api_key)")),
        },
    };
    let tls = Tls::new(&settings.upstream).map_err(|error| chain(&error))?;
    let fetched = fetch(token, &tls).await.map_err(|error| format!("{}: {error}", token.source.word()))?;
    let bearer = format!("Bearer {}", fetched.token.expose_secret());
    let mut value = HeaderValue::from_str(&bearer).map_err(|_| "its token cannot be sent".to_owned())?;
    value.set_sensitive(true);
    Ok(Some((AUTHORIZATION, value)))
}

async fn backend(settings: &Settings, index: usize, upstream: &UpstreamBackend) -> Result<String, String> {
    let credential = credential(settings, upstream).await?;
    let secret = credential.as_ref().map_or(HeaderValue::from_static(""), |(_, value)| value.clone());
    let seen = Seen::default();
    let tls = Tls::noting(&settings.upstream, seen.clone()).map_err(|error| chain(&error))?;
    let client = Upstream::new(upstream.origin.clone(), &tls, settings.upstream.connect_timeout)
        .map_err(|error| error.to_string())?;
    let path = format!("{}{MODELS}", upstream.origin.path_prefix);
    let path = PathAndQuery::try_from(path).map_err(|_| "its path cannot be sent".to_owned())?;
    let headers = HeaderMap::from_iter(credential.clone());
    let sending = client.send(Method::GET, path, headers, RequestBody::empty(), Reuse::Never);
    let response = sending.await.map_err(|error| unreachable(&error, &seen))?;
    let status = response.status();
    let trusted = match seen.certificate() {
        Some(certificate) => format!("TLS ({certificate}), "),
        None => String::new(),
    };
    match status {
        StatusCode::OK => {}
        StatusCode::TOO_MANY_REQUESTS => {
            return Ok(format!("{trusted}credential accepted, throttled just now"));
        }
        StatusCode::UNAUTHORIZED if credential.is_none() => {
            return Ok(format!("{trusted}answers; callers bring their own token"));
        }
        StatusCode::UNAUTHORIZED => return Err(format!("{trusted}401: it rejects the credential")),
        StatusCode::FORBIDDEN => {
            return Err(format!(
                "{trusted}403: the credential lacks the role (Cognitive Services OpenAI User), or the resource's \
                 network rules keep this machine out"
            ));
        }
        StatusCode::NOT_FOUND => {
            return Err(format!(
                "{trusted}404: it has no {MODELS}; is this the address of an Azure OpenAI resource?"
            ));
        }
        other => return Err(format!("{trusted}it answered {}", other.as_u16())),
    }
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    let body = body.map_err(|_| format!("{trusted}its answer broke off"))?.to_bytes();
    let names = names(&body, &secret).ok_or_else(|| format!("{trusted}its answer is no list of models"))?;
    Ok(format!(
        "{trusted}credential accepted, {}",
        listed(&names, &settings.pool.backends[index].deployments)
    ))
}

/// The names in a list of models, but for what is not a name and what may be the key.
fn names(body: &[u8], secret: &HeaderValue) -> Option<BTreeSet<String>> {
    let document: serde_json::Value = serde_json::from_slice(body).ok()?;
    let usual = |name: &&str| {
        let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
        (1..=64).contains(&name.len())
            && name.bytes().all(letters)
            && (secret.is_empty()
                || memchr::memmem::find(secret.as_bytes(), name.as_bytes()).is_none()
                    && memchr::memmem::find(name.as_bytes(), secret.as_bytes()).is_none())
    };
    let models = document.get("data")?.as_array()?.iter();
    Some(models.filter_map(|model| model.get("id")?.as_str()).filter(usual).map(str::to_owned).collect())
}

/// How many, and those that are asked for by name first.
fn listed(names: &BTreeSet<String>, deployments: &Deployments) -> String {
    let wanted: BTreeSet<&str> = match deployments {
        Deployments::Named(named) => named.values().map(String::as_str).collect(),
        Deployments::Any | Deployments::AllAs(_) => BTreeSet::new(),
    };
    let mut text = format!("{} models and deployments listed", names.len());
    let first = names.iter().filter(|name| wanted.contains(name.as_str()));
    let rest = names.iter().filter(|name| !wanted.contains(name.as_str()));
    let shown: Vec<&str> = first.chain(rest).take(SHOWN).map(String::as_str).collect();
    if !shown.is_empty() {
        text += ": ";
        text += &shown.join(", ");
        if names.len() > shown.len() {
            text += ", …";
        }
    }
    // Azure lists models and, not on every resource, deployments: not being listed proves nothing.
    let missing: Vec<&str> = wanted.into_iter().filter(|name| !names.contains(*name)).collect();
    if !missing.is_empty() {
        text += "; not among them: ";
        text += &missing.join(", ");
    }
    text
}

fn unreachable(error: &SendError, seen: &Seen) -> String {
    let told = chain(error);
    match (error, seen.certificate()) {
        (SendError::Connect(ConnectError::Tls(_)), Some(certificate)) => {
            format!("{told}; its certificate is {certificate}")
        }
        _ => told,
    }
}
