//! A request, read and understood: its body within the bounds, its operation, its deployment.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Version};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout_at;

use super::error::ProxyError;
use super::headers;
use super::objects::Objects;
use super::{ProxySettings, Shared};
use crate::net::upstream::RequestBody;
use crate::openai::{self, BodyKind, BodyScan, Name, PathProblem, Route, is_deployment_name};
use crate::telemetry::clock;

/// What stands for a token in a body that is not read, in bytes.
const BYTES_PER_TOKEN: u64 = 4;

/// What a request is, apart from its headers.
#[derive(Debug)]
pub(super) struct Understood<'a> {
    pub(super) route: Route<'a>,
    /// By the name that callers use.
    pub(super) deployment: Option<Arc<str>>,
    /// Where the body names it, if the body is what names it.
    named: Option<Named>,
    /// Empty where the body is no JSON.
    pub(super) scan: BodyScan,
    /// Taken when the request sets out.
    pub(super) objects: Objects,
    /// Gone once a body that cannot be repeated was sent.
    body: Option<Body>,
    /// A WebSocket is asked for.
    pub(super) socket: bool,
}

#[derive(Debug)]
enum Named {
    Json(Name),
    Multipart(Name),
}

/// A request's body as far as it was read.
#[derive(Debug)]
pub(super) enum Body {
    /// All of it: may be sent again. The share of all buffered bytes is given back with it.
    Whole(Bytes, #[expect(dead_code, reason = "held until the body goes")] Share),
    /// More than may be kept: goes to one backend as it comes. What has begun gives its share back once it was sent.
    Begun { begun: VecDeque<Bytes>, rest: Incoming, length: Option<u64>, most: u64, idle: Duration },
}

/// A share of the bytes that all buffered bodies together may take.
#[derive(Debug)]
pub(super) struct Share {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Share {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), bytes: 0 }
    }

    /// All that was taken.
    pub(super) fn give_back(&mut self) {
        self.shrink(self.bytes);
    }

    /// So much of what was taken.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.shared.buffered.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes more; `false`, and nothing is taken, where all would be more than `most`.
    pub(super) fn grow(&mut self, bytes: usize, most: usize) -> bool {
        let before = self.shared.buffered.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > most {
            self.shared.buffered.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes += bytes;
        true
    }
}

/// Bytes that give their share back when the last of them goes.
struct Counted {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.give_back();
        }
    }
}

impl Body {
    /// In bytes: all of them, as far as they were told or have come.
    fn size(&self) -> u64 {
        match self {
            Self::Whole(bytes, _) => bytes.len() as u64,
            Self::Begun { begun, length, .. } => {
                length.unwrap_or_else(|| begun.iter().map(Bytes::len).sum::<usize>() as u64)
            }
        }
    }

    /// Reads the body whole, or as far as bodies are kept.
    pub(super) async fn read(
        mut body: Incoming,
        settings: &ProxySettings,
        shared: &Arc<Shared>,
        now: Instant,
        deadline: Instant,
    ) -> Result<Self, ProxyError> {
        let length = body.size_hint().exact();
        if length.is_some_and(|length| length > settings.request_hard_limit) {
            return Err(ProxyError::BodyTooLarge);
        }
        let (most, idle) = (settings.request_hard_limit, settings.body_idle);
        if length.is_some_and(|length| length > settings.request_replay as u64) {
            return Ok(Self::Begun { begun: VecDeque::new(), rest: body, length, most, idle });
        }
        let mut share = Share::new(shared);
        let mut whole = Gathered::Nothing;
        let mut limit = deadline.min(now + idle);
        loop {
            let frame = match timeout_at(limit.into(), body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) => return Err(ProxyError::BrokenBody),
                Ok(None) => return Ok(Self::Whole(whole.freeze(), share)),
                Err(_) => return Err(ProxyError::SlowBody),
            };
            // Trailers end here: the allow-list knows none.
            let Ok(data) = frame.into_data() else { continue };
            if !data.is_empty() {
                limit = deadline.min(clock::now() + idle);
            }
            if !share.grow(data.len(), settings.buffered) {
                return Err(ProxyError::Full);
            }
            whole.push(data, length);
            if whole.len() > settings.request_replay {
                let begun = whole.freeze();
                let Some(most) = most.checked_sub(begun.len() as u64) else {
                    return Err(ProxyError::BodyTooLarge);
                };
                let begun = Bytes::from_owner(Counted { bytes: begun, _share: share });
                return Ok(Self::Begun { begun: VecDeque::from([begun]), rest: body, length, most, idle });
            }
        }
    }
}

/// So much room a body gets before it has come, in bytes, whatever length it tells.
const ROOM: usize = 1024 * 1024;

/// Frames put together; a body that came in one frame is not copied.
enum Gathered {
    Nothing,
    One(Bytes),
    Many(BytesMut),
}

impl Gathered {
    fn push(&mut self, data: Bytes, length: Option<u64>) {
        match self {
            Self::Nothing => *self = Self::One(data),
            Self::One(first) => {
                let known = length.and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
                // What is told is not here yet: room for it comes with it.
                let mut many = BytesMut::with_capacity(known.min(ROOM).max(first.len() + data.len()));
                many.extend_from_slice(first);
                many.extend_from_slice(&data);
                *self = Self::Many(many);
            }
            Self::Many(many) => many.extend_from_slice(&data),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::One(data) => data.len(),
            Self::Many(data) => data.len(),
        }
    }

    fn freeze(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::One(data) => data,
            Self::Many(data) => data.freeze(),
        }
    }
}

/// Where a request goes: origin-form only, without our own prefix.
pub(super) fn route<'a>(parts: &'a Parts, prefix: &str) -> Result<Route<'a>, ProxyError> {
    if parts.method == Method::CONNECT || parts.method == Method::TRACE {
        return Err(ProxyError::Method);
    }
    // In HTTP/2 scheme and authority are always there; in HTTP/1.1 they make a proxy's absolute form.
    if parts.version < Version::HTTP_2 && parts.uri.authority().is_some() {
        return Err(PathProblem::Malformed.into());
    }
    let path = match prefix {
        "" => parts.uri.path(),
        prefix => openai::strip_prefix(parts.uri.path(), prefix).ok_or(PathProblem::NotFound)?,
    };
    Ok(openai::route(&parts.method, path, parts.uri.query())?)
}

/// Whether a WebSocket is asked for. Any other upgrade is not taken up, which HTTP allows.
pub(super) fn wants_socket(parts: &Parts, body: &Incoming) -> Result<bool, ProxyError> {
    if !text(&parts.headers, UPGRADE).eq_ignore_ascii_case("websocket") {
        return Ok(false);
    }
    let listed = |value: &HeaderValue| {
        value
            .to_str()
            .is_ok_and(|value| value.split(',').any(|option| option.trim().eq_ignore_ascii_case("upgrade")))
    };
    // RFC 6455, section 4.1. A body would be taken for the first frames.
    let sound = parts.method == Method::GET
        && parts.version == Version::HTTP_11
        && body.is_end_stream()
        && parts.headers.get_all(CONNECTION).iter().any(listed);
    if sound { Ok(true) } else { Err(ProxyError::Upgrade) }
}

/// Finds the deployment: in the path, else in the body, else in the query.
pub(super) fn understand<'a>(
    parts: &Parts,
    route: Route<'a>,
    body: Body,
) -> Result<Understood<'a>, ProxyError> {
    let mut scan = BodyScan::default();
    let mut named = None;
    let whole = match &body {
        Body::Whole(bytes, _) if !bytes.is_empty() => Some(bytes),
        _ => None,
    };
    for name in parts.headers.get_all(headers::IMAGE_DEPLOYMENT) {
        if !name.to_str().is_ok_and(is_deployment_name) {
            return Err(ProxyError::DeploymentName);
        }
    }
    let must_name = route.deployment.is_none() && route.query_deployment.is_none();
    let mut read = None;
    if let Some(bytes) = whole {
        let content_type = text(&parts.headers, CONTENT_TYPE);
        let boundary = openai::multipart_boundary(content_type);
        let json = boundary.is_none()
            && (content_type.starts_with("application/json")
                || content_type.contains("json")
                || (route.operation.body == BodyKind::Json && !route.operation.may_be_sent_as(content_type)));
        let compressed = !matches!(text(&parts.headers, CONTENT_ENCODING), "" | "identity");
        if compressed && must_name && route.operation.body != BodyKind::None {
            return Err(ProxyError::Compressed);
        }
        if json && !compressed {
            scan = openai::scan(bytes)?;
            if must_name && route.operation.body == BodyKind::Json && !scan.json {
                return Err(ProxyError::NotJson);
            }
            named = scan.model.take().map(Named::Json);
            read = Some(bytes).filter(|_| scan.may_name);
        } else if let Some(boundary) = boundary.filter(|_| !compressed) {
            named = openai::multipart_model(bytes, &boundary)?.map(Named::Multipart);
        }
    }
    if !scan.json {
        // Not read: its size must do, so that a mark for size never keeps every request away.
        scan.prompt_tokens = body.size() / BYTES_PER_TOKEN;
    }
    // The name may stand at the end of what is too long to be kept.
    if matches!(body, Body::Begun { .. }) && must_name && route.operation.is_named_in_body() {
        return Err(ProxyError::NameTooFar);
    }
    // The path wins over a body that says otherwise or null; the body's own name then stays as it was sent. So does the
    // base model of a fine-tuning, which is no deployment.
    if route.deployment.is_some() || route.operation.name == "fine_tuning" {
        named = None;
    }
    let deployment: Option<Arc<str>> = match (&route.deployment, &named, &route.query_deployment) {
        (Some(name), ..) => Some(name.as_ref().into()),
        (None, Some(Named::Json(name) | Named::Multipart(name)), _) => {
            if !is_deployment_name(&name.value) {
                return Err(ProxyError::DeploymentName);
            }
            Some(name.value.as_str().into())
        }
        (None, None, Some(name)) => Some(name.as_ref().into()),
        (None, None, None) => None,
    };
    let objects = Objects::of(parts, &route, deployment.is_some(), scan.store, read);
    Ok(Understood { route, deployment, named, scan, objects, body: Some(body), socket: false })
}

fn text(headers: &HeaderMap, name: http::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

impl Understood<'_> {
    /// Whether the body was read and names the deployment.
    pub(super) fn is_named_in_body(&self) -> bool {
        self.named.is_some()
    }

    /// Whether there is no body.
    pub(super) fn is_empty(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.size() == 0)
    }

    /// Whether the body can be sent once more.
    pub(super) fn repeatable(&self) -> bool {
        matches!(self.body, Some(Body::Whole(..)))
    }

    /// The target at a backend, where the deployment may have another name.
    pub(super) fn target(&self, parts: &Parts, prefix: &str, there: Option<&str>) -> Option<PathAndQuery> {
        let path = self.route.upstream_path(there);
        let query = self.route.upstream_query(there.filter(|_| self.named.is_none()));
        let same_path =
            prefix.is_empty() && matches!(&path, Cow::Borrowed(path) if *path == parts.uri.path());
        if same_path && query.as_deref() == parts.uri.query() {
            return parts.uri.path_and_query().cloned();
        }
        let mut target =
            String::with_capacity(prefix.len() + path.len() + query.as_ref().map_or(0, |q| q.len() + 1));
        target.push_str(prefix);
        target.push_str(&path);
        if let Some(query) = query {
            target.push('?');
            target.push_str(&query);
        }
        PathAndQuery::from_maybe_shared(Bytes::from(target)).ok()
    }

    /// The body for a backend. `None` once a body that cannot be repeated was sent.
    pub(super) fn body(&mut self, there: Option<&str>) -> Option<RequestBody> {
        if let Some(Body::Whole(bytes, _)) = &self.body {
            let pieces = match (there, &self.named) {
                (Some(there), Some(Named::Json(name))) => {
                    openai::replace_model(bytes, name.range.clone(), there)
                }
                (Some(there), Some(Named::Multipart(name))) => {
                    openai::replace_multipart_model(bytes, name.range.clone(), there)
                }
                _ => [bytes.clone(), Bytes::new(), Bytes::new()],
            };
            return Some(RequestBody::whole(pieces));
        }
        match self.body.take()? {
            Body::Begun { begun, rest, length, most, idle } => {
                Some(RequestBody::streamed(begun, rest, length, most, idle))
            }
            Body::Whole(..) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_told_length_makes_no_room_before_it_has_come() {
        let mut gathered = Gathered::Nothing;
        for _ in 0..3 {
            gathered.push(Bytes::from_static(b"piece"), Some(1 << 30));
        }
        let Gathered::Many(many) = gathered else { panic!("three pieces are put together") };
        assert!(many.len() == 15 && many.capacity() <= ROOM, "{}", many.capacity());
    }
}
