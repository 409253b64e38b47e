//! The list of models: what callers can ask for here, where the settings say so. PURE.
//!
//! Azure lists the base models of one resource, not deployments, and each resource has its own. As soon as one backend's
//! settings name deployments, the list is ours: those names and every one that traffic has shown to be served. Where
//! no settings name any, nothing is known of what there is, and a backend's own list passes.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, header};
use serde_json::{Value, json};

use super::committed::ProxyBody;
use crate::openai::Route;

/// The answer, where it is ours to give.
pub(super) fn answer(method: &Method, route: &Route<'_>, names: &[Arc<str>]) -> Option<Response<ProxyBody>> {
    if method != Method::GET {
        return None;
    }
    let mut segments = route.rest().split('/').filter(|segment| !segment.is_empty());
    if !segments.next()?.eq_ignore_ascii_case("models") {
        return None;
    }
    let body = match (segments.next(), segments.next()) {
        (None, _) => json!({ "object": "list", "data": names.iter().map(model).collect::<Vec<_>>() }),
        (Some(name), None) => model(names.iter().find(|known| ***known == *name)?),
        (Some(_), Some(_)) => return None,
    };
    let mut response = Response::new(ProxyBody::full(Bytes::from(body.to_string())));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Some(response)
}

/// When it was deployed is not known; clients want a number.
fn model(name: &Arc<str>) -> Value {
    json!({ "id": &**name, "object": "model", "created": 0, "owned_by": "azure" })
}
