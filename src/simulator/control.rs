//! What tests hold in their hands: faults in, counters and requests out; in Rust, and over HTTP for the others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, Uri};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::body::AnswerBody;
use super::fault::{Fault, FaultRule};
use super::resource::Resource;
use super::settings::Occupation;

/// What one resource has seen since it began.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Counters {
    /// Connections accepted, with or without a request.
    pub connections: u64,
    /// Requests whose head was read; the control door does not count.
    pub requests: u64,
    /// Requests that have not ended yet.
    pub in_flight: u64,
    /// Answers with a 2xx status.
    pub succeeded: u64,
    /// 429s given, by quota or on demand.
    pub throttled: u64,
    /// Other answers of 4xx and 5xx.
    pub failed: u64,
    /// Connections broken on demand, before the head or after it.
    pub severed: u64,
    /// Streams whose caller left before their end.
    pub streams_aborted: u64,
    /// Requests whose caller left before an answer.
    pub left_before_head: u64,
    /// Tokens charged on arrival, of admitted requests.
    pub tokens_charged: u64,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    /// GET, POST …
    pub method: Method,
    /// Path and query.
    pub uri: Uri,
    /// All headers.
    pub headers: HeaderMap,
    /// Byte for byte.
    pub body: Bytes,
}

/// Control over a running simulator; cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct SimulatorHandle {
    pub(super) resources: Arc<[ResourceHandle]>,
}

impl SimulatorHandle {
    /// One resource.
    ///
    /// # Panics
    /// If there is none of that name: a mistake in the test that asks.
    pub fn resource(&self, name: &str) -> &ResourceHandle {
        self.resources
            .iter()
            .find(|resource| resource.name() == name)
            .expect("only names of the simulator's own settings are asked for")
    }

    /// All of them, as in the settings.
    pub fn resources(&self) -> &[ResourceHandle] {
        &self.resources
    }
}

/// Control over one resource.
#[derive(Clone, Debug)]
pub struct ResourceHandle {
    pub(super) resource: Arc<Resource>,
    pub(super) address: SocketAddr,
}

impl ResourceHandle {
    /// Its name in the settings.
    pub fn name(&self) -> &str {
        self.resource.name()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://address`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds a fault; those added before come first.
    pub fn fault(&self, rule: impl Into<FaultRule>) {
        self.resource.add_fault(rule.into());
    }

    /// Ends all faults and all use by others. Counters and windows stay.
    pub fn clear(&self) {
        self.resource.clear();
    }

    /// Begins every quota window anew.
    pub fn refill(&self) {
        self.resource.refill();
    }

    /// Somebody else uses so much of every deployment from now on (`None`: all of it), for that long.
    pub fn occupy(&self, tokens_per_second: Option<u64>, lasts: Duration) {
        self.resource.occupy(Occupation { tokens_per_second, lasts, ..Occupation::default() });
    }

    /// What it has seen.
    pub fn counters(&self) -> Counters {
        self.resource.state().counters
    }

    /// The last requests, oldest first, as many as `remember` says.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.resource.state().recorded.iter().cloned().collect()
    }

    /// The last request, if `remember` is not zero.
    pub fn last_request(&self) -> Option<RecordedRequest> {
        self.resource.state().recorded.back().cloned()
    }
}

impl From<Fault> for FaultRule {
    fn from(fault: Fault) -> Self {
        Self::standing(fault)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OccupyAsk {
    #[serde(default)]
    tokens_per_second: Option<u64>,
    seconds: u64,
}

/// The same over HTTP. The module documentation lists the paths.
pub(super) fn door(resource: &Resource, method: &Method, path: &str, body: &[u8]) -> Response<AnswerBody> {
    let done = || (StatusCode::OK, "{}".to_owned());
    let wrong = |error: serde_json::Error| {
        (StatusCode::BAD_REQUEST, json!({ "error": { "message": error.to_string() } }).to_string())
    };
    let (status, answer) = match (method, path) {
        (&Method::POST, "/control/fault") => match serde_json::from_slice(body) {
            Ok(rule) => {
                resource.add_fault(rule);
                done()
            }
            Err(error) => wrong(error),
        },
        (&Method::POST, "/control/occupy") => match serde_json::from_slice::<OccupyAsk>(body) {
            Ok(OccupyAsk { tokens_per_second, seconds }) => {
                let lasts = Duration::from_secs(seconds);
                resource.occupy(Occupation { tokens_per_second, lasts, ..Occupation::default() });
                done()
            }
            Err(error) => wrong(error),
        },
        (&Method::POST, "/control/clear") => {
            resource.clear();
            done()
        }
        (&Method::POST, "/control/refill") => {
            resource.refill();
            done()
        }
        (&Method::GET, "/control/counters") => (StatusCode::OK, json!(resource.state().counters).to_string()),
        (&Method::GET, "/control/requests") => (StatusCode::OK, requests(resource)),
        _ => (StatusCode::NOT_FOUND, r#"{"error":{"message":"no such control"}}"#.to_owned()),
    };
    let mut response = Response::new(AnswerBody::whole(answer, None));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, super::head::JSON);
    response
}

fn requests(resource: &Resource) -> String {
    let state = resource.state();
    let list: Vec<_> = state
        .recorded
        .iter()
        .map(|request| {
            let headers: Vec<_> = request
                .headers
                .iter()
                .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
                .collect();
            json!({
                "method": request.method.as_str(),
                "uri": request.uri.to_string(),
                "headers": headers,
                "body": String::from_utf8_lossy(&request.body),
            })
        })
        .collect();
    json!(list).to_string()
}
