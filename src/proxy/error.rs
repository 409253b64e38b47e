//! Answers of our own: status, code, a short fixed text. Details are in the log under the request's id.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use thiserror::Error;

use super::committed::ProxyBody;
use super::headers::{RETRY_AFTER_MS, SDK_REQUEST_ID, SHOULD_RETRY};
use crate::identity::callers::Refusal;
use crate::identity::entra::Doubt;
use crate::identity::limits::{Measure, Reached};
use crate::openai::{BodyProblem, PathProblem, errors};
use crate::telemetry::request_id::RequestId;

/// Why a request is answered here. The text of each is what the caller reads.
#[derive(Clone, Copy, Debug, Error)]
pub enum ProxyError {
    /// 401
    #[error("Access denied: no valid key or token for this balancer was given.")]
    Unauthorized(Option<Doubt>),
    /// 503
    #[error("This balancer cannot check tokens yet. Please retry after 1 second.")]
    KeysMissing,
    /// 403
    #[error("This caller may not use this kind of operation.")]
    ForbiddenOperation,
    /// 403
    #[error("This caller may not use this deployment.")]
    ForbiddenDeployment,
    /// 429
    #[error("This caller's limit of {measure} per minute is reached. Please retry after {} seconds.", seconds(*wait))]
    CallerLimit {
        /// Which limit.
        measure: Measure,
        /// When to come back.
        wait: Duration,
    },
    /// 429
    #[error("The request alone is larger than this caller's limit of {0} per minute.")]
    AboveCallerLimit(Measure),
    /// 403
    #[error("Web pages may not call this balancer.")]
    ForeignPage,
    /// 400 or 404
    #[error("{0}")]
    Path(#[from] PathProblem),
    /// 400
    #[error("{0}")]
    Body(#[from] BodyProblem),
    /// 400
    #[error("The deployment name is not valid.")]
    DeploymentName,
    /// 400
    #[error("A compressed body is not accepted where the deployment stands in it.")]
    Compressed,
    /// 400
    #[error("The body is not a JSON object.")]
    NotJson,
    /// 405
    #[error("The method is not allowed here.")]
    Method,
    /// 408
    #[error("The request body did not arrive in time.")]
    SlowBody,
    /// 400
    #[error("The request body ended too soon.")]
    BrokenBody,
    /// 413
    #[error("The request body is too large.")]
    BodyTooLarge,
    /// 413
    #[error("The request body is too large to find its deployment: name the deployment in the path.")]
    NameTooFar,
    /// 400
    #[error("A WebSocket is opened by a GET over HTTP/1.1 without a body.")]
    Upgrade,
    /// 503
    #[error("Too many large requests at once. Please retry after 1 second.")]
    Full,
    /// 503
    #[error("This balancer is overloaded. Please retry after 1 second.")]
    Overloaded,
    /// 404
    #[error("The API deployment for this resource does not exist on any backend.")]
    UnknownDeployment,
    /// 400
    #[error("No backend's deployment supports this operation.")]
    Unsupported,
    /// 429
    #[error("All backends for this deployment are rate limited. Please retry after {} seconds.", seconds(*wait))]
    Throttled {
        /// When to come back.
        wait: Duration,
    },
    /// 429
    #[error("The backend that has what this request names is rate limited. Please retry after {} seconds.", seconds(*wait))]
    OwnerThrottled {
        /// When to come back.
        wait: Duration,
    },
    /// 404, or 400 where Azure says so
    #[error("{}", if *previous { "The previous response was not found." } else { "No object with this id was found." })]
    NoSuchObject {
        /// It is the response to be continued.
        previous: bool,
    },
    /// 400
    #[error("What this request names, objects and deployment, is on different backends: none has it all.")]
    ObjectsApart,
    /// 429
    #[error("The request is too large for every backend at the moment.")]
    TooLargeNow,
    /// 502
    #[error("No backend could serve the request.")]
    UpstreamFailed,
    /// 502
    #[error("The backends refuse this balancer's credential.")]
    BackendRefused,
    /// 503
    #[error("The backends are recovering. Please retry after 1 second.")]
    Resting,
    /// 401
    #[error(
        "The backends are called with the caller's own token: send it as Authorization, a key of this balancer as api-key."
    )]
    NoCallersToken,
    /// 503
    #[error("No backend's credential is available. Please retry after 1 second.")]
    NoCredential,
    /// 503
    #[error("No backend is in use.")]
    NoBackend,
    /// 504
    #[error("No backend answered in time.")]
    UpstreamTimeout,
}

impl From<Refusal> for ProxyError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoKey => Self::Unauthorized(None),
            Refusal::Token(doubt) => Self::Unauthorized(Some(doubt)),
            Refusal::KeysMissing => Self::KeysMissing,
        }
    }
}

impl From<Reached> for ProxyError {
    fn from(Reached { measure, wait }: Reached) -> Self {
        match wait {
            Some(wait) => Self::CallerLimit { measure, wait },
            None => Self::AboveCallerLimit(measure),
        }
    }
}

impl ProxyError {
    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized(_) | Self::NoCallersToken => StatusCode::UNAUTHORIZED,
            Self::ForeignPage | Self::ForbiddenOperation | Self::ForbiddenDeployment => StatusCode::FORBIDDEN,
            Self::Path(problem) => problem.status(),
            Self::NoSuchObject { previous: false } => StatusCode::NOT_FOUND,
            Self::NoSuchObject { previous: true } => StatusCode::BAD_REQUEST,
            Self::Body(_)
            | Self::DeploymentName
            | Self::Compressed
            | Self::BrokenBody
            | Self::NotJson
            | Self::Upgrade
            | Self::ObjectsApart
            | Self::Unsupported => StatusCode::BAD_REQUEST,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge | Self::NameTooFar => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnknownDeployment => StatusCode::NOT_FOUND,
            Self::Throttled { .. }
            | Self::OwnerThrottled { .. }
            | Self::TooLargeNow
            | Self::CallerLimit { .. }
            | Self::AboveCallerLimit(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::UpstreamFailed | Self::BackendRefused => StatusCode::BAD_GATEWAY,
            Self::Full
            | Self::Overloaded
            | Self::Resting
            | Self::NoCredential
            | Self::NoBackend
            | Self::KeysMissing => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The `code` of the body.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unauthorized(_) => "401",
            Self::KeysMissing => "token_keys_missing",
            Self::ForbiddenOperation => "operation_not_allowed",
            Self::ForbiddenDeployment => "deployment_not_allowed",
            Self::CallerLimit { .. } => "caller_limit",
            Self::AboveCallerLimit(_) => "above_caller_limit",
            Self::ForeignPage => "foreign_page",
            Self::Path(PathProblem::NotFound) => "404",
            Self::Path(_) => "invalid_path",
            Self::Body(_) | Self::BrokenBody | Self::NotJson => "invalid_body",
            Self::DeploymentName => "invalid_deployment",
            Self::Compressed => "compressed_body",
            Self::Method => "method_not_allowed",
            Self::SlowBody => "Timeout",
            Self::BodyTooLarge | Self::NameTooFar => "body_too_large",
            Self::Upgrade => "invalid_upgrade",
            Self::Full | Self::Overloaded => "overloaded",
            Self::UnknownDeployment => "DeploymentNotFound",
            Self::Unsupported => "OperationNotSupported",
            Self::Throttled { .. } | Self::OwnerThrottled { .. } => "429",
            Self::NoSuchObject { previous: true } => "previous_response_not_found",
            Self::NoSuchObject { previous: false } => "not_found",
            Self::ObjectsApart => "objects_apart",
            Self::TooLargeNow => "request_too_large_now",
            Self::UpstreamFailed => "backend_failed",
            Self::BackendRefused => "backend_refused",
            Self::Resting => "backends_resting",
            Self::NoCallersToken => "no_token",
            Self::NoCredential => "no_credential",
            Self::NoBackend => "no_backend",
            Self::UpstreamTimeout => "backend_timeout",
        }
    }

    /// What the log says of it; the caller is not told what is wrong with a token.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unauthorized(Some(doubt)) => doubt.word(),
            other => other.code(),
        }
    }

    fn kind(&self) -> &'static str {
        match self.status().as_u16() {
            429 => "too_many_requests",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        }
    }

    /// The answer.
    #[must_use]
    pub fn response(&self, id: RequestId) -> Response<ProxyBody> {
        tracing::debug!(%id, code = self.code(), "answered here");
        let body: Bytes = errors::body(self.code(), &self.to_string(), self.kind(), id.as_str());
        let mut response = Response::new(ProxyBody::full(body));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(SDK_REQUEST_ID, id.header_value());
        match self {
            Self::Throttled { wait } | Self::OwnerThrottled { wait } | Self::CallerLimit { wait, .. } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(*wait)));
                headers.insert(RETRY_AFTER_MS, HeaderValue::from(milliseconds(*wait)));
            }
            Self::Full | Self::Overloaded | Self::Resting | Self::NoCredential | Self::KeysMissing => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(1));
            }
            // Worth another try only with a smaller request: the SDKs are told so.
            Self::TooLargeNow | Self::AboveCallerLimit(_) => {
                headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            }
            _ => {}
        }
        response
    }
}

/// Whole seconds, rounded up, at least 1: a 0 makes the JavaScript SDK storm (azure-openai.md 5.1).
fn seconds(wait: Duration) -> u64 {
    milliseconds(wait).div_ceil(1000).max(1)
}

fn milliseconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}
