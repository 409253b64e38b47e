//! `GET /requests`: the last requests that met trouble, the newest first, with the fields of the log.
//!
//! | in the query | means |
//! |---|---|
//! | `id` | optional: that request alone |
//! | `each` | optional: at most so many of each kind of trouble |

use percent_encoding::percent_decode_str;

use crate::telemetry::metrics::{Ask, Troubled};

use super::explain::shown;

const EXPECTED: &str = "expected e.g. /requests?id=d8341cfa6d40bf72 or /requests?each=8";

/// What is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RequestsAsk {
    /// As an answer's `x-sidestep-request-id` has it.
    pub id: Option<String>,
    /// At most so many of each kind.
    pub each: usize,
}

impl RequestsAsk {
    /// Reads a query; else what is wrong with it.
    pub(super) fn read(query: Option<&str>) -> Result<Self, String> {
        let mut ask = Self { id: None, each: usize::MAX };
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8_lossy();
            match name {
                "id" => ask.id = Some(value.trim().to_ascii_lowercase()),
                "each" => {
                    ask.each = value
                        .parse()
                        .map_err(|_| format!("each: expected a whole number, found {}", shown(&value)))?;
                }
                other => return Err(format!("{} is not known here; {EXPECTED}", shown(other))),
            }
        }
        Ok(ask)
    }

    /// The same for who keeps them.
    #[must_use]
    pub fn of_metrics(&self) -> Ask<'_> {
        Ask { id: self.id.as_deref(), each: self.each }
    }
}

/// The document; what is kept is JSON already.
pub(super) fn document(ask: &RequestsAsk, troubled: &Troubled) -> Vec<u8> {
    let mut out = format!("{{\"kept\":{},\"requests\":[", troubled.kept).into_bytes();
    for (n, request) in troubled.requests.iter().enumerate() {
        out.extend_from_slice(if n == 0 { b"" } else { b"," });
        out.extend_from_slice(request);
    }
    let unknown = ask.id.is_some() && troubled.requests.is_empty();
    let note = if unknown { unkept(troubled.kept) } else { "null".to_owned() };
    out.extend_from_slice(format!("],\"note\":{note}}}").as_bytes());
    out
}

/// Nobody knows whether there was such a request: that is said, and where to look.
fn unkept(kept: usize) -> String {
    format!(
        "\"Not among the last {kept} requests that met trouble here. What was served at the first attempt, or came \
         before those, is in the log alone; x-sidestep-backend of its answer names its backend.\""
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<RequestsAsk, String> {
        RequestsAsk::read(Some(query))
    }

    #[test]
    fn a_query_may_name_one_id_and_how_many_of_each_kind() {
        assert_eq!(RequestsAsk::read(None), Ok(RequestsAsk { id: None, each: usize::MAX }));
        let one = RequestsAsk { id: Some("d8341cfa6d40bf72".to_owned()), each: 8 };
        assert_eq!(read("id=%20D8341CFA6D40BF72&each=8"), Ok(one));
        assert_eq!(read("each=-1").unwrap_err(), "each: expected a whole number, found `-1`");
        assert!(read("di=x\u{1b}").unwrap_err().starts_with("`di` is not known here; expected e.g. "));
    }

    #[test]
    fn the_document_holds_what_is_kept_and_says_when_an_id_is_not() {
        let told = |query: &str, requests: &[&str]| -> serde_json::Value {
            let requests = requests.iter().map(|json| json.as_bytes().to_vec()).collect();
            let troubled = Troubled { kept: 37, requests };
            serde_json::from_slice(&document(&read(query).unwrap(), &troubled)).unwrap()
        };
        let two = told("", &[r#"{"id":"b"}"#, r#"{"id":"a"}"#]);
        let expected = serde_json::json!({"kept": 37, "requests": [{"id": "b"}, {"id": "a"}], "note": null});
        assert_eq!(two, expected);
        assert_eq!(told("", &[])["note"], serde_json::Value::Null);
        let none = told("id=c", &[]);
        assert_eq!(none["requests"], serde_json::json!([]));
        assert!(none["note"].as_str().unwrap().starts_with("Not among the last 37 requests"), "{none}");
    }
}
