//! What the simulator is told: its resources, their quotas, latencies and credentials.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::fault::FaultRule;

/// All resources of one simulator.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimulatorSettings {
    /// Decides every text, vector, id and jitter.
    pub seed: u64,
    /// At least one.
    pub resources: Vec<ResourceSettings>,
}

/// One simulated Azure OpenAI resource.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResourceSettings {
    /// Stands in `x-ms-region` and `system_fingerprint` of its answers.
    pub name: String,
    /// Where it listens; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Keys it accepts in `api-key` or as Bearer. With no key and no token listed, any credential will do.
    pub api_keys: Vec<AcceptedKey>,
    /// Entra tokens it accepts as Bearer.
    pub bearer_tokens: Vec<AcceptedKey>,
    /// Deployment name to what its model can do.
    pub deployments: BTreeMap<String, ModelKind>,
    /// Of each deployment.
    pub quota: QuotaSettings,
    /// How long answers take.
    pub latency: LatencySettings,
    /// Which optional headers it sends.
    pub headers: HeaderSettings,
    /// Which paths it has.
    pub api: ApiForm,
    /// Words in an answer, on average; `max_tokens` cuts them.
    pub completion_tokens: u32,
    /// One fixed answer for every request, without quota: for measuring what is in front.
    pub canned: bool,
    /// Last requests kept for inspection.
    pub remember: usize,
    /// Faults that stand from the start.
    pub faults: Vec<FaultRule>,
    /// When somebody else uses this resource.
    pub occupied: Vec<Occupation>,
}

impl Default for ResourceSettings {
    fn default() -> Self {
        let deployments = [("gpt-4o", ModelKind::Chat), ("text-embedding-3-small", ModelKind::Embeddings)];
        Self {
            name: String::new(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            api_keys: Vec::new(),
            bearer_tokens: Vec::new(),
            deployments: deployments.map(|(name, kind)| (name.to_owned(), kind)).into(),
            quota: QuotaSettings::default(),
            latency: LatencySettings::default(),
            headers: HeaderSettings::default(),
            api: ApiForm::Both,
            completion_tokens: 40,
            canned: false,
            remember: 16,
            faults: Vec::new(),
            occupied: Vec::new(),
        }
    }
}

impl ResourceSettings {
    /// A resource of that name with everything else at its default: loopback, any port, any credential.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}

/// A credential; never shown.
#[derive(Clone, Deserialize, Eq, PartialEq)]
#[serde(transparent)]
pub struct AcceptedKey(String);

impl AcceptedKey {
    pub(super) fn matches(&self, given: &str) -> bool {
        self.0 == given
    }
}

impl From<&str> for AcceptedKey {
    fn from(key: &str) -> Self {
        Self(key.to_owned())
    }
}

impl fmt::Debug for AcceptedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// What a deployment's model can do.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum ModelKind {
    /// Chat, completions, responses.
    Chat,
    /// Embeddings.
    Embeddings,
}

/// Which paths a resource has.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum ApiForm {
    /// `/openai/deployments/…` and `/openai/v1/…`.
    Both,
    /// Only paths with an `api-version`.
    Legacy,
    /// Only `/openai/v1/…`.
    V1,
}

/// The limits of one deployment.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuotaSettings {
    /// As in Azure's portal. A shorter window gets its share of it.
    pub tokens_per_minute: u64,
    /// Length of the token window.
    #[serde(deserialize_with = "duration")]
    pub window: Duration,
    /// Default: 6 for every 1,000 tokens a minute, as Azure gives to chat models.
    pub requests_per_minute: Option<u64>,
    /// Length of the request window: Azure uses 1 s or 10 s.
    #[serde(deserialize_with = "duration")]
    pub request_window: Duration,
    /// When windows begin.
    pub anchor: Anchor,
    /// What a request larger than the whole window is told to wait.
    #[serde(deserialize_with = "duration")]
    pub oversized_wait: Duration,
}

impl Default for QuotaSettings {
    fn default() -> Self {
        Self {
            tokens_per_minute: 30_000,
            window: Duration::from_secs(60),
            requests_per_minute: None,
            request_window: Duration::from_secs(10),
            anchor: Anchor::FirstUse,
            oversized_wait: Duration::from_secs(86_400),
        }
    }
}

impl QuotaSettings {
    /// Limits that nobody reaches.
    pub fn unlimited() -> Self {
        Self { tokens_per_minute: 1_000_000_000_000, ..Self::default() }
    }

    /// Tokens of one token window.
    pub(super) fn tokens_per_window(&self) -> u64 {
        share_of_minute(self.tokens_per_minute, self.window)
    }

    /// Requests of one request window.
    pub(super) fn requests_per_window(&self) -> u64 {
        let per_minute =
            self.requests_per_minute.unwrap_or_else(|| self.tokens_per_minute.saturating_mul(6) / 1_000);
        share_of_minute(per_minute, self.request_window).max(1)
    }
}

fn share_of_minute(per_minute: u64, window: Duration) -> u64 {
    let share = u128::from(per_minute).saturating_mul(window.as_millis()) / 60_000;
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// When a fixed window begins.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Anchor {
    /// With the first request after the last window ended.
    FirstUse,
    /// At multiples of its length since the simulator began.
    Start,
}

/// How long a resource takes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatencySettings {
    /// Before the first byte of an answer, or the first event of a stream.
    #[serde(deserialize_with = "duration")]
    pub first_byte: Duration,
    /// For each token of the answer.
    #[serde(deserialize_with = "duration")]
    pub per_token: Duration,
    /// Before a 429.
    #[serde(deserialize_with = "duration")]
    pub throttled: Duration,
    /// Each of them is longer or shorter by up to this many percent.
    pub jitter_percent: u32,
}

/// Which optional headers a resource sends.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is one header that Azure was seen to leave out")]
pub struct HeaderSettings {
    /// `retry-after` on a 429.
    pub retry_after: bool,
    /// `retry-after-ms` on a 429.
    pub retry_after_ms: bool,
    /// `x-ratelimit-limit-*`, `-remaining-*`.
    pub ratelimit: bool,
    /// `x-ratelimit-reset-*`.
    pub ratelimit_reset: bool,
    /// `remaining` is -1 and `reset` 0: seen on Azure's Responses API where the limiter does not say.
    pub remaining_unknown: bool,
}

impl Default for HeaderSettings {
    fn default() -> Self {
        Self {
            retry_after: true,
            retry_after_ms: true,
            ratelimit: true,
            ratelimit_reset: true,
            remaining_unknown: false,
        }
    }
}

/// Somebody else uses the same deployments for a while, once or again and again.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Occupation {
    /// Since the simulator began.
    #[serde(deserialize_with = "duration")]
    pub from: Duration,
    /// How long each time.
    #[serde(deserialize_with = "duration")]
    pub lasts: Duration,
    /// Again after this long; zero: only once.
    #[serde(deserialize_with = "duration")]
    pub every: Duration,
    /// How much they use; absent: everything.
    pub tokens_per_second: Option<u64>,
    /// Absent: all deployments.
    pub deployment: Option<String>,
}

impl Occupation {
    /// Whether it concerns this deployment.
    pub(super) fn concerns(&self, deployment: &str) -> bool {
        self.deployment.as_deref().is_none_or(|name| name == deployment)
    }

    /// The first moment in `from..=to` at which they use something.
    pub(super) fn first_use(&self, from: Duration, to: Duration) -> Option<Duration> {
        self.spells(from, to)
            .map(|(begin, end)| (begin.max(from), end))
            .find(|(begin, end)| begin < end)
            .map(|(begin, _)| begin)
    }

    /// How much of `from..to` they are at work.
    pub(super) fn busy(&self, from: Duration, to: Duration) -> Duration {
        self.spells(from, to).map(|(begin, end)| end.min(to).saturating_sub(begin.max(from))).sum()
    }

    /// The spells that may touch `from..=to`, with their ends.
    fn spells(&self, from: Duration, to: Duration) -> impl Iterator<Item = (Duration, Duration)> + '_ {
        let since = from.saturating_sub(self.from + self.lasts);
        let skipped = since.as_nanos().checked_div(self.every.as_nanos()).unwrap_or(0);
        let skipped = u32::try_from(skipped).unwrap_or(u32::MAX);
        let first = self.from + self.every.saturating_mul(skipped);
        let begins =
            std::iter::successors(Some(first), |begin| (!self.every.is_zero()).then(|| *begin + self.every));
        begins.take_while(move |begin| *begin <= to).map(|begin| (begin, begin + self.lasts))
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "off" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(&text).map_err(serde::de::Error::custom)
}

impl SimulatorSettings {
    /// Reads `config/simulate.toml` and its like. The error names the line, or the resource, that is wrong.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        let settings: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        settings.validated()
    }

    /// Everything that types alone do not rule out.
    pub(super) fn validated(self) -> Result<Self, String> {
        if self.resources.is_empty() {
            return Err("no [[resources]]: at least one is needed".to_owned());
        }
        for (index, resource) in self.resources.iter().enumerate() {
            let problem = |what: &str| Err(format!("resources[{index}] '{}': {what}", resource.name));
            let before = &self.resources[..index];
            let token = |name: &str| {
                !name.is_empty()
                    && name.len() <= 64
                    && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            };
            if !token(&resource.name) {
                return problem("a name is 1 to 64 letters, digits, '.', '_' or '-'");
            }
            if before.iter().any(|other| other.name == resource.name) {
                return problem("this name is used twice");
            }
            if resource.listen.port() != 0 && before.iter().any(|other| other.listen == resource.listen) {
                return problem("another resource listens there");
            }
            if resource.deployments.is_empty() || !resource.deployments.keys().all(|name| token(name)) {
                return problem("deployments are needed, named by letters, digits, '.', '_' or '-'");
            }
            if resource.quota.window.is_zero() || resource.quota.request_window.is_zero() {
                return problem("a quota window is longer than zero");
            }
            if resource.quota.tokens_per_window() == 0 {
                return problem("the quota leaves no token in a window");
            }
        }
        Ok(self)
    }
}

/// The three resources of `sidestep demo`: 30,000 tokens a minute each, counted in windows of 10 s so that one
/// sees them recover. Every 30 s each of them in turn is fully used by somebody else for 5 s.
pub fn demo_settings() -> SimulatorSettings {
    let resource = |name: &str, turn: u64| ResourceSettings {
        quota: QuotaSettings {
            window: Duration::from_secs(10),
            anchor: Anchor::Start,
            ..QuotaSettings::default()
        },
        latency: LatencySettings {
            first_byte: Duration::from_millis(180),
            per_token: Duration::from_millis(15),
            throttled: Duration::from_millis(25),
            jitter_percent: 40,
        },
        occupied: vec![Occupation {
            from: Duration::from_secs(3 + 10 * turn),
            lasts: Duration::from_secs(5),
            every: Duration::from_secs(30),
            ..Occupation::default()
        }],
        remember: 0,
        ..ResourceSettings::named(name)
    };
    SimulatorSettings {
        seed: 1,
        resources: vec![resource("east", 0), resource("west", 1), resource("north", 2)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_describes_three_resources() {
        let settings = SimulatorSettings::from_toml(include_str!("../../config/simulate.toml")).unwrap();
        let ports: Vec<u16> = settings.resources.iter().map(|resource| resource.listen.port()).collect();
        assert_eq!(ports, [9101, 9102, 9103]);
        for resource in &settings.resources {
            assert_eq!(resource.quota.tokens_per_minute, 30_000);
            assert!(resource.deployments.contains_key("gpt-4o"));
            assert!(resource.deployments.contains_key("text-embedding-3-small"));
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let error =
            SimulatorSettings::from_toml("seed = 1\n[[resources]]\nname = \"a\"\ntoken = 3\n").unwrap_err();
        assert!(error.contains("line 4"), "{error}");
        assert!(error.contains("token"), "{error}");
    }

    #[test]
    fn two_resources_of_one_name_are_refused() {
        let error =
            SimulatorSettings::from_toml("[[resources]]\nname = \"a\"\n[[resources]]\nname = \"a\"\n")
                .unwrap_err();
        assert!(error.contains("resources[1] 'a'"), "{error}");
    }

    #[test]
    fn keys_do_not_show() {
        let resource =
            ResourceSettings { api_keys: vec!["topsecret".into()], ..ResourceSettings::named("a") };
        assert!(!format!("{resource:?}").contains("topsecret"));
    }

    #[test]
    fn in_the_demo_somebody_else_uses_each_resource_in_turn() {
        let settings = demo_settings();
        let occupied_at = |second: u64| -> Vec<&str> {
            let moment = Duration::from_secs(second);
            let busy = |resource: &&ResourceSettings| {
                resource.occupied.iter().any(|other| other.first_use(moment, moment).is_some())
            };
            settings.resources.iter().filter(busy).map(|resource| resource.name.as_str()).collect()
        };
        assert_eq!(occupied_at(0), Vec::<&str>::new());
        assert_eq!(occupied_at(4), ["east"]);
        assert_eq!(occupied_at(14), ["west"]);
        assert_eq!(occupied_at(24), ["north"]);
        assert_eq!(occupied_at(30 * 100 + 4), ["east"]);
        assert_eq!(occupied_at(30 * 100 + 9), Vec::<&str>::new());
    }
}
