//! What an admitted caller may ask for.

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
    let bodiless = operation.body == BodyKind::None;
    let named = match &understood.deployment {
        // By the query alone, another may stand in a body that we did not read and the backend does.
        Some(name) => {
            let certain = bodiless || understood.route.deployment.is_some() || understood.is_named_in_body();
            let elsewhere = understood.socket && operation.family == "responses";
            caller.may_call(name) && certain && !elsewhere
        }
        None => match operation.family {
            "inference" | "responses" | "realtime" => bodiless && !understood.socket,
            // Any body may name one, and this one was not read.
            _ if operation.is_unknown() => understood.scan.json || understood.is_empty(),
            _ => true,
        },
    };
    let mut second = parts.headers.get_all(headers::IMAGE_DEPLOYMENT).into_iter();
    if named && second.all(|name| name.to_str().is_ok_and(|name| caller.may_call(name))) {
        Ok(())
    } else {
        Err(ProxyError::ForbiddenDeployment)
    }
}
