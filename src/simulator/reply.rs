//! From an outcome to a response: headers, the whole body or its events, and what a fault leaves of them.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::answer::{self, Answer};
use super::body::{AnswerBody, Severing, Visit};
use super::fault::{Fault, Severed, StreamFate};
use super::quota::Levels;
use super::request::Target;
use super::resource::{Call, Resource};
use super::{errors, head};

/// What a request comes to, before it is a response.
pub(super) enum Outcome {
    Error { status: StatusCode, body: Bytes, headers: HeaderMap, wait: Duration },
    Json { body: Bytes, levels: Option<Levels>, wait: Duration },
    Events { list: Vec<Bytes>, levels: Option<Levels>, wait: Duration },
    Socket,
}

impl Outcome {
    pub(super) fn error(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::Error { status, body: body.into(), headers: HeaderMap::new(), wait: Duration::ZERO }
    }

    pub(super) fn json(body: impl Into<Bytes>) -> Self {
        Self::Json { body: body.into(), levels: None, wait: Duration::ZERO }
    }
}

impl Resource {
    /// Longer or shorter, as the settings say.
    pub(super) fn jittered(&self, time: Duration) -> Duration {
        let jitter = self.settings.latency.jitter_percent.min(100);
        if time.is_zero() || jitter == 0 {
            return time;
        }
        let percent = self.state().draw.u32(100 - jitter..=100 + jitter);
        time.saturating_mul(percent) / 100
    }

    /// The headers of an answer; a canned one has quota headers too, though no quota.
    pub(super) fn head(&self, content_type: HeaderValue, levels: Option<&Levels>) -> HeaderMap {
        let id = self.state().draw.u64(..);
        let mut headers = head::common(&self.region, id, content_type);
        let canned = Levels {
            limit_tokens: self.settings.quota.tokens_per_minute,
            remaining_tokens: self.settings.quota.tokens_per_minute,
            reset_tokens: Duration::ZERO,
            limit_requests: self.settings.quota.tokens_per_minute,
            remaining_requests: self.settings.quota.tokens_per_minute,
            reset_requests: Duration::ZERO,
        };
        let levels = levels.or_else(|| self.settings.canned.then_some(&canned));
        if let Some(levels) = levels {
            head::limits(&mut headers, levels, self.settings.headers);
        }
        headers
    }

    /// An error as it was made, with the headers of every answer.
    pub(super) fn error(
        &self,
        status: StatusCode,
        body: Bytes,
        headers: HeaderMap,
        visit: Visit,
    ) -> Response<AnswerBody> {
        let kind = if body.starts_with(b"<") { head::HTML } else { head::JSON };
        let mut all = self.head(kind, None);
        all.extend(headers);
        self.whole(status, all, body, visit)
    }

    /// An answer of known length.
    pub(super) fn whole(
        &self,
        status: StatusCode,
        headers: HeaderMap,
        body: Bytes,
        visit: Visit,
    ) -> Response<AnswerBody> {
        self.count(status);
        let mut response = Response::new(AnswerBody::whole(body, Some(visit)));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    /// 101: from here on this connection is an echo.
    pub(super) fn socket(&self, severing: &Severing, visit: Visit) -> Response<AnswerBody> {
        severing.set(Some(Severed::Echo));
        let mut response = Response::new(AnswerBody::whole(Bytes::new(), Some(visit)));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(http::header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(http::header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert("x-ms-region", self.region.clone());
        self.state().counters.succeeded += 1;
        response
    }

    fn count(&self, status: StatusCode) {
        let counters = &mut self.state().counters;
        if status == StatusCode::TOO_MANY_REQUESTS {
            counters.throttled += 1;
        } else if status.is_success() {
            counters.succeeded += 1;
        } else {
            counters.failed += 1;
        }
    }

    pub(super) fn stream(
        &self,
        mut list: Vec<Bytes>,
        levels: Option<Levels>,
        fault: Option<&Fault>,
        call: &Call,
        severing: &Severing,
        visit: Visit,
    ) -> Response<AnswerBody> {
        let responses = call.route.as_ref().is_some_and(|route| route.target == Target::Responses);
        let mut fate = StreamFate::default();
        match fault {
            Some(Fault::HangBeforeFirstEvent) => fate.hangs = true,
            Some(Fault::SlowEvents { gap_ms }) => fate.gap = Duration::from_millis(*gap_ms),
            Some(Fault::EndAfterEvents { events }) => list.truncate(*events),
            Some(Fault::CutAfterEvents { events, reset }) => {
                list.truncate(*events);
                fate.severed = Some(if *reset { Severed::Reset } else { Severed::Close });
            }
            Some(Fault::CutInsideEvent { events }) => {
                list.truncate(events.saturating_add(1));
                if let Some(last) = list.last_mut() {
                    last.truncate(last.len() / 2);
                }
                fate.severed = Some(Severed::Close);
            }
            Some(Fault::RateLimitInStream { events }) => {
                list = self.failing(list, *events, responses, Failure::RateLimit, call);
            }
            Some(Fault::ErrorInStream { events }) => {
                list = self.failing(list, *events, responses, Failure::Overloaded, call);
            }
            _ => {}
        }
        self.count(StatusCode::OK);
        if fate.severed.is_some() {
            self.state().counters.severed += 1;
        }
        let gap = self.jittered(self.settings.latency.per_token);
        let headers = self.head(head::EVENTS, levels.as_ref());
        let mut response =
            Response::new(AnswerBody::events(list, gap, fate, Severing::clone(severing), visit));
        *response.headers_mut() = headers;
        response
    }

    /// A stream that tells of its failure after some events.
    fn failing(
        &self,
        mut list: Vec<Bytes>,
        events: usize,
        responses: bool,
        failure: Failure,
        call: &Call,
    ) -> Vec<Bytes> {
        if !responses {
            list.truncate(events);
            let error = match failure {
                Failure::RateLimit => errors::RATE_LIMIT_IN_CHAT,
                Failure::Overloaded => errors::OVERLOADED,
            };
            list.push(answer::event(format_args!("{error}")));
            return list;
        }
        let answer = Answer {
            resource: &self.settings.name,
            model: call.deployment.as_deref().unwrap_or_default(),
            seed: call.text_seed,
            id: self.state().draw.u64(..),
            created: self.clock.unix + self.elapsed().as_secs(),
            prompt_tokens: 1,
            completion_tokens: 20,
            choices: 1,
            cut: false,
        };
        match failure {
            Failure::RateLimit => answer.response_rate_limited(events),
            Failure::Overloaded => answer.response_errored(events),
        }
    }

    /// A JSON answer of known length that stops in its middle.
    pub(super) fn cut_json(
        &self,
        mut body: Bytes,
        levels: Option<Levels>,
        severing: &Severing,
        visit: Visit,
    ) -> Response<AnswerBody> {
        self.count(StatusCode::OK);
        self.state().counters.severed += 1;
        let mut headers = self.head(head::JSON, levels.as_ref());
        headers.insert(http::header::CONTENT_LENGTH, body.len().into());
        body.truncate(body.len() / 2);
        let fate = StreamFate { severed: Some(Severed::Close), ..StreamFate::default() };
        let content = AnswerBody::events(vec![body], Duration::ZERO, fate, Severing::clone(severing), visit);
        let mut response = Response::new(content);
        *response.headers_mut() = headers;
        response
    }
}

#[derive(Clone, Copy)]
enum Failure {
    RateLimit,
    Overloaded,
}
