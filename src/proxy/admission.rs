//! What an admitted caller may ask for.

use http::header::CONTENT_ENCODING;
use http::request::Parts;

use super::error::ProxyError;
use super::headers;
use super::request::Understood;
use crate::identity::callers::Caller;
use crate::identity::limits::Turn;
use crate::openai::{BodyKind, Operation};

/// Before the body is read: the operation family, and one more request. `None` where nothing is counted.
pub(super) fn enter(
    caller: &Caller,
    operation: &Operation,
    now: std::time::Instant,
) -> Result<Option<Turn>, ProxyError> {
    if !caller.may_use(operation.family) {
        return Err(ProxyError::ForbiddenOperation);
    }
    Ok(caller.limits().map(|limits| limits.request(now)).transpose()?)
}

/// Once the deployment is known: whether the caller may use it, however it was named.
///
/// A caller who is confined to some deployments must not reach another by naming an allowed one to us and that one to
/// the backend: in a body that we did not read, or in the header of a second deployment. What names none, such as
/// reading a file, passes. On a WebSocket for responses each message names one, unread: such a caller gets none.
pub(super) fn confine(caller: &Caller, parts: &Parts, understood: &Understood<'_>) -> Result<(), ProxyError> {
    if !caller.is_confined() {
        return Ok(());
    }
    let operation = &understood.route.operation;
    let in_path = understood.route.deployment.is_some();
    let coded = parts.headers.get_all(CONTENT_ENCODING).into_iter().any(|coding| coding != "identity");
    let unread = !in_path && operation.body != BodyKind::None && (coded || !understood.repeatable());
    let unread = unread || (understood.socket && operation.family == "responses");
    let named = match &understood.deployment {
        Some(name) => caller.may_call(name),
        None => {
            (operation.body == BodyKind::None && !understood.socket)
                || !matches!(operation.family, "inference" | "responses" | "realtime")
        }
    };
    let mut second = parts.headers.get_all(headers::IMAGE_DEPLOYMENT).into_iter();
    if named && !unread && second.all(|name| name.to_str().is_ok_and(|name| caller.may_call(name))) {
        Ok(())
    } else {
        Err(ProxyError::ForbiddenDeployment)
    }
}
