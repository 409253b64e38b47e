//! Errors of our own in the forms of the API. The caller of these functions sees to it that texts are short,
//! fixed and fit to be shown.

use bytes::Bytes;
use serde::Serialize;

use super::operations::Api;

/// The code of the event that ends a stream whose upstream broke.
pub const STREAM_INTERRUPTED: &str = "upstream_stream_interrupted";

#[derive(Serialize)]
struct Envelope<'a> {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    event: Option<&'static str>,
    error: Detail<'a>,
}

#[derive(Serialize)]
struct Detail<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    /// Always null: the SDKs expect the member.
    param: (),
    /// Beside Azure's members: whoever sends the error on, as SDKs show it, sends what to look for in the log.
    request_id: &'a str,
}

/// An error body as Azure shapes it: `{"error":{"code","message","type","param"}}`, and the request's id.
pub fn body(code: &str, message: &str, kind: &str, request_id: &str) -> Bytes {
    json(&Envelope { event: None, error: Detail { code, message, kind, param: (), request_id } }).into()
}

/// A whole event that makes the SDKs raise an error. It may be written only between events; after it the
/// connection is aborted, so that no client takes the stream for a complete one.
///
/// The error is nested also for Responses, where Azure nests it too: SDKs only pass a flat one on (azure-openai.md 5.3).
pub fn stream_event(api: Api, code: &str, message: &str, request_id: &str) -> Bytes {
    let error = Detail { code, message, kind: "server_error", param: (), request_id };
    let event = (api == Api::Responses).then_some("error");
    let data = json(&Envelope { event, error });
    match api {
        Api::Chat => format!("data: {data}\n\n"),
        Api::Responses | Api::Other => format!("event: error\ndata: {data}\n\n"),
    }
    .into()
}

fn json(envelope: &Envelope<'_>) -> String {
    serde_json::to_string(envelope).expect("strings alone always serialise")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_body_has_azures_shape_and_is_escaped() {
        let body = body("429", "say \"when\"\n\u{1}", "too_many_requests", "3cac2921276ab313");
        assert!(body.starts_with(br#"{"error":{"code":"429","message":"say \"when\"\n\u0001","#));
        let read: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            read,
            json!({"error": {"code": "429", "message": "say \"when\"\n\u{1}", "type": "too_many_requests", "param": null,
                "request_id": "3cac2921276ab313"}})
        );
    }

    #[test]
    fn a_chat_stream_ends_with_a_data_event() {
        assert_eq!(
            stream_event(Api::Chat, STREAM_INTERRUPTED, "cut\n\n", "3cac"),
            "data: {\"error\":{\"code\":\"upstream_stream_interrupted\",\"message\":\"cut\\n\\n\",\"type\":\"server_error\",\"param\":null,\"request_id\":\"3cac\"}}\n\n"
        );
    }

    #[test]
    fn a_responses_stream_ends_with_a_nested_error_event() {
        assert_eq!(
            stream_event(Api::Responses, "c", "m", "3cac"),
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"code\":\"c\",\"message\":\"m\",\"type\":\"server_error\",\"param\":null,\"request_id\":\"3cac\"}}\n\n"
        );
        assert!(stream_event(Api::Other, "c", "m", "3cac").starts_with(b"event: error\ndata: {\"error\":{"));
    }
}
