//! Error bodies in Azure's own words (observed ones; sources in the project's notes on the API).

use super::quota::Limit;
use super::request::Target;

pub(super) const UNAUTHORIZED: &str = r#"{"error":{"code":"401","message":"Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an active subscription and use a correct regional API endpoint for your resource."}}"#;
pub(super) const UNAUTHORIZED_TOKEN: &str = r#"{"error":{"code":"401","message":"Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), or have expired."}}"#;
pub(super) const FORBIDDEN: &str = r#"{"error":{"code":"PermissionDenied","message":"The principal lacks the required data action to perform this operation."}}"#;
pub(super) const NOT_FOUND: &str = r#"{"error":{"code":"404","message":"Resource not found"}}"#;
pub(super) const TIMEOUT: &str = r#"{"error":{"code":"Timeout","message":"The operation was timeout."}}"#;
pub(super) const SERVER_ERROR: &str = r#"{"error":{"message":"The server had an error while processing your request. Sorry about that!","type":"server_error","param":null,"code":null}}"#;
pub(super) const UNAVAILABLE: &str = r#"{"error":{"code":"503","message":"The service is temporarily unable to process your request. Please try again later."}}"#;
pub(super) const FILTERED: &str = r#"{"error":{"message":"The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify your prompt and retry.","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation","content_filter_result":{"hate":{"filtered":true,"severity":"high"},"self_harm":{"filtered":false,"severity":"safe"},"sexual":{"filtered":false,"severity":"safe"},"violence":{"filtered":false,"severity":"safe"}}}}}"#;
pub(super) const TOO_MANY_HEADERS: &str = "<html><head><title>Request Header Fields Too Large</title></head><body><h1><p>Request Header Fields Too Large</p></h1> Error parsing headers: &#x27;limit request headers fields&#x27;</body></html>";
pub(super) const ENCRYPTED: &str = r#"{"error":{"message":"The encrypted content could not be verified.","type":"invalid_request_error","param":null,"code":"invalid_encrypted_content"}}"#;
pub(super) const TOO_LARGE: &str = r#"{"error":{"code":"413","message":"The request body is too large."}}"#;
/// The payload of an error event inside a chat stream.
pub(super) const OVERLOADED: &str = r#"{"error":{"message":"That model is currently overloaded with other requests. You can retry your request, or contact us through an Azure support request.","type":"server_error","param":null,"code":null}}"#;
pub(super) const RATE_LIMIT_IN_CHAT: &str = r#"{"error":{"message":"Your requests to the deployment have exceeded rate limit.","type":"too_many_requests","param":null,"code":"rate_limit_exceeded"}}"#;

/// A deployment that is not there.
pub(super) fn deployment_not_found(v1: bool) -> String {
    let more = if v1 { r#","type":"invalid_request_error","param":null"# } else { "" };
    format!(
        r#"{{"error":{{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, please wait a moment and try again."{more}}}}}"#
    )
}

/// The name of an operation in Azure's messages.
pub(super) fn operation(target: &Target) -> &'static str {
    match target {
        Target::Chat => "ChatCompletions_Create",
        Target::Completions => "Completions_Create",
        Target::Embeddings => "Embeddings_Create",
        Target::Responses => "Responses_Create",
        Target::StoredResponse(_) | Target::ResponseInput(_) => "Responses_Get",
        Target::ForgetResponse(_) => "Responses_Delete",
        Target::CancelResponse(_) => "Responses_Cancel",
        Target::Object(_) => "Objects",
        Target::Media(_) => "Media_Create",
        Target::Socket => "Realtime_Connect",
        Target::Models | Target::Model(_) => "Models_List",
    }
}

/// A 429 of either limiter. `seconds` stands in the message.
pub(super) fn throttled(target: &Target, api_version: &str, limit: Limit, seconds: &str) -> String {
    let operation = operation(target);
    let version = if api_version.is_empty() { "v1" } else { api_version };
    let which = match limit {
        Limit::Tokens => "token",
        Limit::Requests => "call",
    };
    // The version comes from the caller: only what needs no escaping is repeated.
    let version: String =
        version.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    format!(
        r#"{{"error":{{"code":"429","message":"Requests to the {operation} Operation under Azure OpenAI API version {version} have exceeded {which} rate limit of your current OpenAI S0 pricing tier. Please retry after {seconds} seconds. Please go here: https://aka.ms/oai/quotaincrease if you would like to further increase the default rate limit."}}}}"#
    )
}

/// A deployment whose model cannot do this.
pub(super) fn not_supported(target: &Target, deployment: &str) -> String {
    let operation = match target {
        Target::Chat => "chatCompletion",
        Target::Completions => "completion",
        Target::Embeddings => "embeddings",
        Target::Responses
        | Target::StoredResponse(_)
        | Target::ForgetResponse(_)
        | Target::ResponseInput(_)
        | Target::CancelResponse(_)
        | Target::Object(_)
        | Target::Media(_)
        | Target::Socket
        | Target::Models
        | Target::Model(_) => "responses",
    };
    format!(
        r#"{{"error":{{"code":"OperationNotSupported","message":"The {operation} operation does not work with the specified model, {deployment}. Please choose different model and try again. You can learn more about which models can be used with each operation here: https://go.microsoft.com/fwlink/?linkid=2197993."}}}}"#
    )
}

/// A 400 about a body, in fixed words.
pub(super) fn invalid(message: &str, parameter: Option<&str>) -> String {
    let parameter = parameter.map_or_else(|| "null".to_owned(), |name| format!("\"{name}\""));
    format!(
        r#"{{"error":{{"message":"{message}","type":"invalid_request_error","param":{parameter},"code":null}}}}"#
    )
}

/// A stored response that this resource does not have.
pub(super) fn response_not_found(id: &str, parameter: Option<&str>) -> String {
    let id: String = id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(100).collect();
    let (code, parameter) = match parameter {
        Some(name) => ("\"previous_response_not_found\"", format!("\"{name}\"")),
        None => ("null", "null".to_owned()),
    };
    let what = if code == "null" { "Response" } else { "Previous response" };
    format!(
        r#"{{"error":{{"message":"{what} with id '{id}' not found.","type":"invalid_request_error","param":{parameter},"code":{code}}}}}"#
    )
}

/// The body that goes with a status, when a fault names none.
pub(super) fn of_status(status: u16) -> &'static str {
    match status {
        400 => FILTERED,
        401 => UNAUTHORIZED,
        403 => FORBIDDEN,
        404 => NOT_FOUND,
        408 => TIMEOUT,
        431 => TOO_MANY_HEADERS,
        500 => SERVER_ERROR,
        _ => UNAVAILABLE,
    }
}
