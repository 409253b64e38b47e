//! One resource: what it remembers, and one request from top to bottom.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Collected, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::sleep;

use super::answer;
use super::body::{AnswerBody, Severing, Visit};
use super::control::{Counters, RecordedRequest, door};
use super::fault::{Fault, FaultRule, Severed, take};
use super::media;
use super::objects::Stored;
use super::quota::{Decision, Limit, Quota};
use super::reply::Outcome;
use super::request::{Ask, Route, Target, hash, hash_bytes, parameter, route};
use super::settings::{ModelKind, Occupation, ResourceSettings};
use super::{errors, head};

/// Larger bodies are refused, as Azure does with its own limits.
const LARGEST_BODY: usize = 64 * 1024 * 1024;

/// A resource and all it remembers.
#[derive(Debug)]
pub(super) struct Resource {
    pub(super) settings: ResourceSettings,
    pub(super) region: HeaderValue,
    pub(super) clock: Clock,
    pub(super) seed: u64,
    state: Mutex<State>,
    refusing: watch::Sender<bool>,
    /// The fixed answers of a `canned` resource, whole and as events.
    pub(super) canned: OnceLock<(Bytes, Vec<Bytes>)>,
}

/// When the simulator began, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) began: Instant,
    /// Unix time, seconds.
    pub(super) unix: u64,
    pub(super) now: fn() -> Instant,
}

/// Everything that changes.
#[derive(Debug)]
pub(super) struct State {
    pub(super) counters: Counters,
    pub(super) recorded: VecDeque<RecordedRequest>,
    quotas: HashMap<String, Quota>,
    faults: Vec<FaultRule>,
    occupied: Vec<Occupation>,
    pub(super) stored: VecDeque<(String, Bytes)>,
    pub(super) objects: VecDeque<Stored>,
    pub(super) draw: fastrand::Rng,
}

/// A request that was read whole.
pub(super) struct Call {
    pub(super) route: Option<Route>,
    /// Absent where the body is not what the operation takes.
    ask: Result<Ask, &'static str>,
    pub(super) deployment: Option<String>,
    pub(super) streamed: bool,
    pub(super) text_seed: u64,
    /// Asks for a WebSocket.
    upgrade: bool,
    pub(super) body: Bytes,
}

impl Resource {
    pub(super) fn new(settings: ResourceSettings, seed: u64, clock: Clock) -> Self {
        let seed = seed ^ hash(&settings.name);
        let region = HeaderValue::from_str(&settings.name).unwrap_or(HeaderValue::from_static("unnamed"));
        let state = State {
            counters: Counters::default(),
            recorded: VecDeque::new(),
            quotas: HashMap::new(),
            faults: settings.faults.clone(),
            occupied: settings.occupied.clone(),
            stored: VecDeque::new(),
            objects: VecDeque::new(),
            draw: fastrand::Rng::with_seed(seed),
        };
        let refuses = settings.faults.iter().any(|rule| rule.fault == Fault::Refuse);
        let refusing = watch::Sender::new(refuses);
        Self { settings, region, clock, seed, state: Mutex::new(state), refusing, canned: OnceLock::new() }
    }

    pub(super) fn name(&self) -> &str {
        &self.settings.name
    }

    pub(super) fn refusing(&self) -> watch::Receiver<bool> {
        self.refusing.subscribe()
    }

    /// A panicking test must not take its simulator with it.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add_fault(&self, rule: FaultRule) {
        if rule.fault == Fault::Refuse {
            self.refusing.send_replace(true);
        }
        self.state().faults.push(rule);
    }

    pub(super) fn clear(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.occupied.clear();
        drop(state);
        self.refusing.send_replace(false);
    }

    pub(super) fn refill(&self) {
        self.state().quotas.clear();
    }

    pub(super) fn occupy(&self, occupation: Occupation) {
        let from = self.elapsed();
        self.state().occupied.push(Occupation { from, ..occupation });
    }

    pub(super) fn elapsed(&self) -> Duration {
        (self.clock.now)().saturating_duration_since(self.clock.began)
    }

    /// One request from top to bottom.
    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        severing: &Severing,
    ) -> Result<Response<AnswerBody>, Severed> {
        let (parts, body) = request.into_parts();
        if parts.uri.path().starts_with("/control/") {
            let body = body.collect().await.map_err(|_| Severed::Close)?.to_bytes();
            return Ok(door(&self, &parts.method, parts.uri.path(), &body));
        }
        let mut visit = Visit::begin(&self);
        let body = Limited::new(body, LARGEST_BODY).collect().await.map(Collected::to_bytes);
        let body = match body {
            Ok(body) => body,
            Err(error) if error.is::<LengthLimitError>() => {
                let (status, text) =
                    (StatusCode::PAYLOAD_TOO_LARGE, Bytes::from_static(errors::TOO_LARGE.as_bytes()));
                return Ok(self.error(status, text, HeaderMap::new(), visit));
            }
            // The caller left while it sent.
            Err(_) => return Err(Severed::Close),
        };
        let call = self.read(&parts, &body);
        let unwelcome = self.unwelcome(&parts.headers, parts.uri.query());
        self.remember(parts, body);
        let fault = take(&mut self.state().faults, call.deployment.as_deref(), call.streamed);
        if let Some(severed) = self.strike(fault.as_ref()).await {
            self.state().counters.severed += 1;
            visit.over();
            return Err(severed);
        }
        let outcome =
            self.told_to_fail(fault.as_ref(), &call).or(unwelcome).unwrap_or_else(|| self.decide(&call));
        match &outcome {
            Outcome::Error { wait, .. } | Outcome::Json { wait, .. } | Outcome::Events { wait, .. }
                if !wait.is_zero() =>
            {
                sleep(*wait).await;
            }
            _ => {}
        }
        Ok(match outcome {
            Outcome::Events { list, levels, .. } => {
                self.stream(list, levels, fault.as_ref(), &call, severing, visit)
            }
            Outcome::Socket => self.socket(severing, visit),
            Outcome::Json { body, levels, .. } if fault == Some(Fault::CutMidJson) => {
                self.cut_json(body, levels, severing, visit)
            }
            Outcome::Json { body, levels, .. } => {
                self.whole(StatusCode::OK, self.head(head::JSON, levels.as_ref()), body, visit)
            }
            Outcome::Error { status, body, headers, .. } => self.error(status, body, headers, visit),
        })
    }

    /// Path and the fields of the body.
    fn read(&self, parts: &Parts, body: &Bytes) -> Call {
        let route = route(&parts.method, parts.uri.path(), parts.uri.query(), self.settings.api);
        let ask = if self.settings.canned || parts.method != Method::POST {
            Ok(Ask::default())
        } else {
            serde_json::from_slice::<Ask>(body)
                .map_err(|_| "We could not parse the JSON body of your request.")
        };
        let streamed = match &ask {
            _ if self.settings.canned => [&b"\"stream\":true"[..], b"\"stream\": true"]
                .iter()
                .any(|asked| memchr::memmem::find(body, asked).is_some()),
            Ok(ask) => ask.streamed(),
            Err(_) => false,
        };
        let deployment = route
            .as_ref()
            .and_then(|route| route.deployment.clone())
            .or_else(|| ask.as_ref().ok().and_then(|ask| ask.model.clone()))
            .or_else(|| media::field(body, "model").map(str::to_owned))
            .or_else(|| {
                let query = parts.uri.query();
                parameter(query, "model").or_else(|| parameter(query, "deployment")).map(str::to_owned)
            });
        let upgrade = parts.headers.contains_key(http::header::UPGRADE);
        let text_seed = self.seed ^ hash_bytes(body);
        Call { route, ask, deployment, streamed, text_seed, upgrade, body: body.clone() }
    }

    fn remember(&self, parts: Parts, body: Bytes) {
        if self.settings.remember == 0 {
            return;
        }
        let mut state = self.state();
        if state.recorded.len() == self.settings.remember {
            state.recorded.pop_front();
        }
        let Parts { method, uri, headers, .. } = parts;
        state.recorded.push_back(RecordedRequest { method, uri, headers, body });
    }

    /// Faults before any answer. Says how the connection ends, if it does.
    async fn strike(&self, fault: Option<&Fault>) -> Option<Severed> {
        match fault? {
            Fault::HangBeforeHead => std::future::pending().await,
            Fault::SlowHead { delay_ms } => {
                sleep(Duration::from_millis(*delay_ms)).await;
                None
            }
            Fault::CloseBeforeHead => Some(Severed::Close),
            Fault::Reset => Some(Severed::Reset),
            Fault::Garbage => Some(Severed::Garbage),
            _ => None,
        }
    }

    /// Faults that are an answer of their own.
    fn told_to_fail(&self, fault: Option<&Fault>, call: &Call) -> Option<Outcome> {
        match fault? {
            Fault::Status { status, body, headers } => {
                let status = head::status(*status);
                let body = match body {
                    Some(body) => Bytes::from(body.clone()),
                    None if status == StatusCode::TOO_MANY_REQUESTS => self.throttled_text(call, "10").into(),
                    None => Bytes::from_static(errors::of_status(status.as_u16()).as_bytes()),
                };
                let pairs = headers.iter().filter_map(|(name, value)| {
                    Some((HeaderName::try_from(name).ok()?, HeaderValue::from_str(value).ok()?))
                });
                Some(Outcome::Error { status, body, headers: pairs.collect(), wait: Duration::ZERO })
            }
            Fault::Throttle { retry_after, retry_after_ms } => {
                Some(self.throttled_on_demand(call, retry_after.as_deref(), retry_after_ms.as_deref()))
            }
            Fault::RateLimitInStream { .. } if !call.streamed => {
                Some(self.throttled_on_demand(call, Some("10"), Some("10000")))
            }
            _ => None,
        }
    }

    fn throttled_text(&self, call: &Call, seconds: &str) -> String {
        let (target, version) = call
            .route
            .as_ref()
            .map_or((&Target::Chat, ""), |route| (&route.target, route.api_version.as_str()));
        errors::throttled(target, version, Limit::Tokens, seconds)
    }

    fn throttled_on_demand(&self, call: &Call, seconds: Option<&str>, milliseconds: Option<&str>) -> Outcome {
        let mut headers = HeaderMap::new();
        head::throttled_on_demand(&mut headers, seconds, milliseconds);
        let told = seconds.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let body = match told {
            Some(seconds) => self.throttled_text(call, seconds),
            // Without a number Azure's message has no sentence about waiting.
            None => self.throttled_text(call, "").replace(" Please retry after  seconds.", ""),
        };
        let wait = self.jittered(self.settings.latency.throttled);
        Outcome::Error { status: StatusCode::TOO_MANY_REQUESTS, body: body.into(), headers, wait }
    }

    /// 401 without a credential that this resource accepts, 431 with too many headers.
    fn unwelcome(&self, headers: &HeaderMap, query: Option<&str>) -> Option<Outcome> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let given = [text("api-key").or_else(|| parameter(query, "api-key")), bearer];
        let ResourceSettings { api_keys, bearer_tokens, .. } = &self.settings;
        let any = api_keys.is_empty() && bearer_tokens.is_empty();
        let known = |credential: &str| {
            any || api_keys.iter().any(|key| key.matches(credential))
                || (bearer == Some(credential) && bearer_tokens.iter().any(|token| token.matches(credential)))
        };
        if !given.iter().flatten().any(|credential| !credential.is_empty() && known(credential)) {
            let body = if given[0].is_none() && bearer.is_some() {
                errors::UNAUTHORIZED_TOKEN
            } else {
                errors::UNAUTHORIZED
            };
            return Some(Outcome::error(StatusCode::UNAUTHORIZED, body));
        }
        head::too_many(headers)
            .then(|| Outcome::error(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, errors::TOO_MANY_HEADERS))
    }

    /// The answer of a resource in good health.
    fn decide(&self, call: &Call) -> Outcome {
        let Some(route) = &call.route else {
            return Outcome::error(StatusCode::NOT_FOUND, errors::NOT_FOUND);
        };
        match &route.target {
            Target::Models => {
                let models: Vec<_> = self
                    .settings
                    .deployments
                    .keys()
                    .map(|name| answer::model(name, self.clock.unix))
                    .collect();
                return Outcome::json(format!(r#"{{"object":"list","data":[{}]}}"#, models.join(",")));
            }
            Target::Model(name) if self.settings.deployments.contains_key(name) => {
                return Outcome::json(answer::model(name, self.clock.unix));
            }
            Target::Model(_) => return Outcome::error(StatusCode::NOT_FOUND, errors::NOT_FOUND),
            Target::StoredResponse(id) => return self.stored(id),
            Target::ForgetResponse(id) => return self.forget(id),
            Target::ResponseInput(id) => return self.input_of(id),
            Target::CancelResponse(id) => return self.cancelled(id),
            Target::Object(object) => return self.object(object, &call.body, call.streamed),
            Target::Media(media) => return self.media(*media, call),
            Target::Socket => return self.open_socket(call),
            Target::Chat | Target::Completions | Target::Embeddings | Target::Responses => {}
        }
        if self.settings.canned {
            return self.canned(call.streamed);
        }
        let ask = match &call.ask {
            Ok(ask) => ask,
            Err(problem) => {
                return Outcome::error(StatusCode::BAD_REQUEST, errors::invalid(problem, None));
            }
        };
        if let Some(refusal) = self.refusal(route, ask, call.deployment.as_deref()) {
            return refusal;
        }
        let refers = |word: &[u8]| memchr::memmem::find(&call.body, word).is_some();
        if (refers(b"_id") || refers(b"conv_"))
            && let Ok(given) = serde_json::from_slice(&call.body)
            && let Some(missing) = self.missing(&given)
        {
            return missing;
        }
        let deployment = call.deployment.as_deref().unwrap_or_default();
        match self.charge(deployment, ask.charge(route.target == Target::Embeddings)) {
            Decision::Admitted(levels) => self.generate(route, ask, call, Some(levels)),
            Decision::Rejected { limit, wait, levels } => {
                let mut headers = HeaderMap::new();
                head::limits(&mut headers, &levels, self.settings.headers);
                head::throttled(&mut headers, limit, wait, self.settings.headers);
                let seconds = head::whole_seconds(wait).to_string();
                let body = errors::throttled(&route.target, &route.api_version, limit, &seconds).into();
                let wait = self.jittered(self.settings.latency.throttled);
                Outcome::Error { status: StatusCode::TOO_MANY_REQUESTS, body, headers, wait }
            }
        }
    }

    fn open_socket(&self, call: &Call) -> Outcome {
        match &call.deployment {
            _ if !call.upgrade => Outcome::error(StatusCode::NOT_FOUND, errors::NOT_FOUND),
            Some(name) if !self.settings.deployments.contains_key(name) => {
                Outcome::error(StatusCode::NOT_FOUND, errors::deployment_not_found(true))
            }
            Some(_) | None => Outcome::Socket,
        }
    }

    /// What a well-formed request is refused for, other than quota.
    fn refusal(&self, route: &Route, ask: &Ask, deployment: Option<&str>) -> Option<Outcome> {
        let bad = |body: String| Some(Outcome::error(StatusCode::BAD_REQUEST, body));
        let missing = |name: &str| bad(errors::invalid(&format!("'{name}' is a required property"), None));
        let Some(deployment) = deployment else { return missing("model") };
        let Some(kind) = self.settings.deployments.get(deployment) else {
            let body = errors::deployment_not_found(route.api_version.is_empty());
            return Some(Outcome::error(StatusCode::NOT_FOUND, body));
        };
        if (*kind == ModelKind::Embeddings) != (route.target == Target::Embeddings) {
            return bad(errors::not_supported(&route.target, deployment));
        }
        match route.target {
            Target::Chat if ask.messages.is_none() => return missing("messages"),
            Target::Embeddings if ask.input.is_none() => return missing("input"),
            _ => {}
        }
        // Reasoning items can be read only by the resource that made them.
        if ask.input.and_then(|input| input.encrypted).is_some_and(|sum| sum != hash(&self.encrypted_token()))
        {
            return bad(errors::ENCRYPTED.to_owned());
        }
        match &ask.previous_response_id {
            Some(id) if !self.state().stored.iter().any(|(known, _)| known == id) => {
                bad(errors::response_not_found(id, Some("previous_response_id")))
            }
            _ => None,
        }
    }

    /// The `encrypted_content` that this resource accepts.
    fn encrypted_token(&self) -> String {
        format!("gAAAA-{}", self.settings.name)
    }

    fn charge(&self, deployment: &str, charge: u64) -> Decision {
        let now = self.elapsed();
        let mut state = self.state();
        let State { quotas, occupied, counters, .. } = &mut *state;
        let others: Vec<Occupation> =
            occupied.iter().filter(|other| other.concerns(deployment)).cloned().collect();
        if !quotas.contains_key(deployment) {
            quotas.insert(deployment.to_owned(), Quota::new(&self.settings.quota));
        }
        let quota = quotas.get_mut(deployment).expect("it was put there above");
        let decision = quota.arrive(now, charge, &others);
        if matches!(decision, Decision::Admitted(_)) {
            counters.tokens_charged = counters.tokens_charged.saturating_add(charge);
        }
        decision
    }
}
