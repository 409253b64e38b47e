//! Admitting callers: by their keys, or by tokens of Entra ID.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};
use thiserror::Error;

use super::entra::{Doubt, Entra, EntraKeys};
use super::limits::Limits;
use super::pages::Pages;
use super::{CallerKey, CallerRules, CallerSettings};

/// Where a bare key may stand.
static KEY_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("api-key"), HeaderName::from_static("ocp-apim-subscription-key")];

/// The most keys one request may present; more than the three headers and one query that carry one.
const PRESENTED: usize = 8;

/// Who may call. Shared by all workers.
#[derive(Debug)]
pub struct Callers {
    /// As whom somebody without a key is admitted, if at all.
    anyone: Option<Caller>,
    keys: Vec<(SecretString, Caller)>,
    entra: Option<(Entra, Arc<CallerRules>)>,
    pages: Pages,
}

/// Somebody who was admitted. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Caller {
    /// For log and metrics; `None` where callers have no names.
    pub name: Option<Arc<str>>,
    rules: Arc<CallerRules>,
    limits: Option<Limits>,
}

/// Why a request is not admitted.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Refusal {
    /// No key that we know, and no token.
    #[error("no key of ours")]
    NoKey,
    /// A token that does not admit.
    #[error("{0}")]
    Token(#[from] Doubt),
    /// A token that may be good, but the keys to check it with have not been fetched yet.
    #[error("keys not fetched")]
    KeysMissing,
}

impl Callers {
    /// `listen` is the callers' listener, `before` what these settings replace: what callers have used counts on, and
    /// fetched keys stay. Settings without keys beyond loopback are refused in `settings`, unless they say
    /// `anonymous`.
    #[must_use]
    pub fn new(settings: CallerSettings, listen: SocketAddr, before: Option<&Self>) -> Self {
        let keyless = settings.keys.is_empty() && settings.entra.is_none();
        let anonymous = settings.anonymous || keyless;
        // Also where others have keys: a page needs none where anonymous callers are admitted.
        let guarded = anonymous && listen.ip().to_canonical().is_loopback();
        let common =
            Arc::new(CallerRules { operations: settings.operations.clone(), ..CallerRules::default() });
        let mut keys: Vec<(SecretString, Caller)> = Vec::with_capacity(settings.keys.len());
        for CallerKey { name, key, rules } in settings.keys {
            let known = keys.iter().find(|(_, caller)| caller.name.as_deref() == Some(&name));
            let caller = match known {
                Some((_, caller)) => caller.clone(),
                None => Caller::new(name, rules, &common, before),
            };
            keys.push((key, caller));
        }
        let entra = settings.entra.map(|entra| {
            let fetched = before.and_then(|before| before.entra.as_ref()).map(|(entra, _)| entra.keys());
            (Entra::new(entra, fetched), Arc::clone(&common))
        });
        Self {
            anyone: anonymous.then_some(Caller { name: None, rules: common, limits: None }),
            keys,
            entra,
            pages: Pages::new(&settings.origins, listen, guarded),
        }
    }

    /// Which web pages may call.
    #[must_use]
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    /// The keys of Entra ID that somebody must fetch and keep fresh: see [`super::entra::keep_fresh`].
    #[must_use]
    pub fn entra_keys(&self) -> Option<&Arc<EntraKeys>> {
        self.entra.as_ref().map(|(entra, _)| entra.keys())
    }

    /// Whether and as whom a request is admitted: any key that matches admits, whatever the others are, because
    /// SDKs fill several headers. `query` only where a key may stand in it: on upgrades, as `?api-key=`.
    /// `unix_seconds` is the wall clock, which tokens are dated by.
    ///
    /// A request with unknown keys is admitted where anyone may call: every SDK sends some key.
    ///
    /// # Errors
    /// It is not admitted.
    pub fn admit(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        unix_seconds: u64,
    ) -> Result<Caller, Refusal> {
        let mut found = 0_u32; // 1 + index of the caller
        for presented in presented(headers, query).take(PRESENTED) {
            for ((key, _), number) in self.keys.iter().zip(1..) {
                let equal = key.expose_secret().as_bytes().ct_eq(&presented);
                found.conditional_assign(&number, equal);
            }
        }
        let index = usize::try_from(found).ok().and_then(|found| found.checked_sub(1));
        if let Some((_, caller)) = index.and_then(|index| self.keys.get(index)) {
            return Ok(caller.clone());
        }
        let refusal = match self.by_token(headers, unix_seconds) {
            Ok(caller) => return Ok(caller),
            Err(refusal) => refusal,
        };
        self.anyone.clone().ok_or(refusal)
    }

    /// By the token in `Authorization`, which must be the only one: of two, somebody else may read the other.
    fn by_token(&self, headers: &HeaderMap, unix_seconds: u64) -> Result<Caller, Refusal> {
        let Some((entra, rules)) = &self.entra else { return Err(Refusal::NoKey) };
        let mut values = headers.get_all(AUTHORIZATION).into_iter();
        let (first, second) = (values.next(), values.next());
        let Some(token) = first.and_then(|value| bearer(value.as_bytes())) else {
            return Err(Refusal::NoKey);
        };
        if second.is_some() {
            return Err(Doubt::Twice.into());
        }
        let name = entra.verify(token, unix_seconds)?;
        Ok(Caller { name: Some(name), rules: Arc::clone(rules), limits: None })
    }
}

impl Caller {
    fn new(name: Arc<str>, mut rules: CallerRules, common: &CallerRules, before: Option<&Callers>) -> Self {
        if rules.operations.is_none() {
            rules.operations.clone_from(&common.operations);
        }
        let mut limits = Limits::new(rules.requests_per_minute, rules.tokens_per_minute);
        let known = before.and_then(|before| {
            before.keys.iter().map(|(_, caller)| caller).find(|caller| caller.name.as_ref() == Some(&name))
        });
        if let (Some(limits), Some(before)) = (&mut limits, known.and_then(|known| known.limits.as_ref())) {
            limits.continue_from(before);
        }
        Self { name: Some(name), rules: Arc::new(rules), limits }
    }

    /// How much it may use, if that is limited.
    #[must_use]
    pub fn limits(&self) -> Option<&Limits> {
        self.limits.as_ref()
    }

    /// The largest priority number of a backend that may serve it.
    #[must_use]
    pub fn lowest_priority(&self) -> Option<u32> {
        self.rules.lowest_priority
    }

    /// Whether it may use operations of this family.
    #[must_use]
    pub fn may_use(&self, family: &str) -> bool {
        self.rules.operations.as_ref().is_none_or(|families| families.contains(&family))
    }

    /// Whether it may use some deployments only.
    #[must_use]
    pub fn is_confined(&self) -> bool {
        self.rules.deployments.is_some()
    }

    /// Whether it may use this deployment, by the name that callers use.
    #[must_use]
    pub fn may_call(&self, deployment: &str) -> bool {
        self.rules.deployments.as_ref().is_none_or(|names| names.iter().any(|name| name == deployment))
    }
}

impl Callers {
    /// The bearer token that a caller has for the backends: what it sends as `Authorization`, unless that is a key
    /// of ours, which is for us alone.
    #[must_use]
    pub fn own_token(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let value = headers.get(AUTHORIZATION)?;
        let token = bearer(value.as_bytes())?;
        let mut ours = Choice::from(0);
        for (key, _) in &self.keys {
            ours |= key.expose_secret().as_bytes().ct_eq(token);
        }
        if bool::from(ours) {
            return None;
        }
        let mut value = value.clone();
        value.set_sensitive(true);
        Some(value)
    }
}

/// All keys that a request presents, without the blanks around them.
fn presented<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> impl Iterator<Item = Cow<'a, [u8]>> {
    let plain = KEY_HEADERS.iter().flat_map(|name| headers.get_all(name));
    let bearer = headers.get_all(AUTHORIZATION).into_iter().filter_map(|value| bearer(value.as_bytes()));
    let query = query.into_iter().flat_map(|query| query.split('&')).filter_map(|pair| {
        let value = pair.strip_prefix("api-key=")?;
        Some(Cow::from(percent_encoding::percent_decode_str(value)))
    });
    plain
        .map(|value| Cow::Borrowed(value.as_bytes().trim_ascii()))
        .chain(bearer.map(Cow::Borrowed))
        .chain(query)
        .filter(|key| !key.is_empty())
}

/// The token of `Bearer token`, whose scheme is read in any case.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.trim_ascii().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn settings(keys: &[(&str, &str)], anonymous: bool) -> CallerSettings {
        let key = |(name, key): &(&str, &str)| CallerKey {
            name: (*name).into(),
            key: (*key).into(),
            rules: CallerRules::default(),
        };
        let keys = keys.iter().map(key).collect();
        CallerSettings { anonymous, keys, ..CallerSettings::default() }
    }

    fn of(settings: CallerSettings) -> Callers {
        Callers::new(settings, "127.0.0.1:8080".parse().unwrap(), None)
    }

    fn callers(keys: &[(&str, &str)], anonymous: bool) -> Callers {
        of(settings(keys, anonymous))
    }

    /// The name of who was admitted, `Some("")` for nobody in particular.
    fn admitted(callers: &Callers, headers: &HeaderMap, query: Option<&str>) -> Option<String> {
        let caller = callers.admit(headers, query, 0).ok()?;
        Some(caller.name.as_deref().unwrap_or_default().to_owned())
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let mut map = HeaderMap::new();
        pairs.for_each(|(name, value)| {
            map.append(name, value);
        });
        map
    }

    fn as_caller(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    #[test]
    fn a_key_admits_from_each_of_the_three_headers() {
        let callers = callers(&[("app", "k1"), ("batch", "k2")], false);
        for (header, value, name) in [
            ("api-key", "k1", "app"),
            ("api-key", " k2 ", "batch"),
            ("authorization", "Bearer k2", "batch"),
            ("authorization", "bearer  k1", "app"),
            ("ocp-apim-subscription-key", "k1", "app"),
        ] {
            let told = admitted(&callers, &headers(&[(header, value)]), None);
            assert_eq!(told, as_caller(name), "{header}: {value}");
        }
    }

    #[test]
    fn any_key_that_matches_admits_beside_others_that_do_not() {
        let callers = callers(&[("app", "k1"), ("batch", "k2")], false);
        let mixed =
            [("api-key", "wrong"), ("authorization", "Bearer k2"), ("ocp-apim-subscription-key", "x")];
        assert_eq!(admitted(&callers, &headers(&mixed), None), as_caller("batch"));
        let twice = [("api-key", "wrong"), ("api-key", "k1")];
        assert_eq!(admitted(&callers, &headers(&twice), None), as_caller("app"));
    }

    #[test]
    fn no_key_an_empty_one_a_part_of_one_or_another_scheme_is_unauthorized() {
        let callers = callers(&[("app", "k1")], false);
        for pairs in [
            &[][..],
            &[("api-key", "")],
            &[("api-key", "k")],
            &[("api-key", "k11")],
            &[("api-key", "K1")],
            &[("authorization", "k1")],
            &[("authorization", "Basic k1")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Bearer")],
            &[("x-api-key", "k1")],
        ] {
            assert_eq!(admitted(&callers, &headers(pairs), None), None, "{pairs:?}");
        }
    }

    #[test]
    fn a_key_in_the_query_counts_where_the_query_is_given() {
        let callers = callers(&[("app", "k/1")], false);
        let none = HeaderMap::new();
        assert_eq!(admitted(&callers, &none, Some("model=x&api-key=k%2F1")), as_caller("app"));
        assert_eq!(admitted(&callers, &none, Some("xapi-key=k%2F1")), None);
        assert_eq!(admitted(&callers, &none, None), None);
    }

    #[test]
    fn without_keys_or_with_anonymous_everyone_is_admitted_and_a_known_key_still_names_its_caller() {
        let some = headers(&[("api-key", "whatever")]);
        assert_eq!(admitted(&callers(&[], false), &some, None), as_caller(""));
        let open = callers(&[("app", "k1")], true);
        assert_eq!(admitted(&open, &some, None), as_caller(""));
        assert_eq!(admitted(&open, &headers(&[("api-key", "k1")]), None), as_caller("app"));
    }

    #[test]
    fn a_flood_of_keys_is_read_only_so_far() {
        let mut many = headers(&[("api-key", "wrong"); 100]);
        many.append("api-key", HeaderValue::from_static("k1"));
        assert_eq!(admitted(&callers(&[("app", "k1")], false), &many, None), None);
    }

    #[test]
    fn no_key_is_shown() {
        assert!(!format!("{:?}", callers(&[("app", "s3cret")], false)).contains("s3cret"));
    }

    #[test]
    fn keys_of_one_name_are_one_caller_with_one_limit() {
        let mut settings = settings(&[("app", "old"), ("app", "new")], false);
        for key in &mut settings.keys {
            key.rules.requests_per_minute = Some(2);
        }
        let (callers, now) = (of(settings.clone()), crate::telemetry::clock::now());
        let ask = |callers: &Callers, key: &'static str| {
            let caller = callers.admit(&headers(&[("api-key", key)]), None, 0).unwrap();
            caller.limits().unwrap().request(now).is_ok()
        };
        assert!(ask(&callers, "old") && ask(&callers, "new"));
        assert!(!ask(&callers, "old") && !ask(&callers, "new"));
        settings.keys.remove(0);
        let after = Callers::new(settings, "127.0.0.1:8080".parse().unwrap(), Some(&callers));
        assert!(!ask(&after, "new"), "what was used before a reload still counts");
        assert_eq!(admitted(&after, &headers(&[("api-key", "old")]), None), None, "the old key is gone");
    }

    #[test]
    fn what_a_caller_may_do_is_its_own_rule_or_else_the_common_one() {
        let mut settings = settings(&[("plain", "k1"), ("tuner", "k2")], false);
        settings.operations = Some(vec!["inference"]);
        settings.keys[1].rules = CallerRules {
            lowest_priority: Some(1),
            deployments: Some(vec!["gpt-4o".to_owned()]),
            operations: Some(vec!["fine-tuning"]),
            ..CallerRules::default()
        };
        let callers = of(settings);
        let [plain, tuner] =
            ["k1", "k2"].map(|key| callers.admit(&headers(&[("api-key", key)]), None, 0).unwrap());
        assert!(plain.may_use("inference") && !plain.may_use("fine-tuning"));
        assert!(!tuner.may_use("inference") && tuner.may_use("fine-tuning"));
        assert!(plain.may_call("anything") && !plain.is_confined());
        assert!(tuner.is_confined() && tuner.may_call("gpt-4o") && !tuner.may_call("GPT-4o"));
        assert_eq!((plain.lowest_priority(), tuner.lowest_priority()), (None, Some(1)));
    }

    #[test]
    fn pages_are_kept_out_also_where_anonymous_callers_are_admitted_beside_keys() {
        let page = headers(&[("host", "localhost"), ("origin", "https://evil.example")]);
        let path = http::Uri::from_static("/v1/models");
        for (keys, anonymous, admitted) in [
            (&[][..], false, false),
            (&[], true, false),
            (&[("app", "k")], true, false),
            (&[("app", "k")], false, true),
        ] {
            let callers = callers(keys, anonymous);
            assert_eq!(callers.pages().admit(&page, &path), admitted, "{keys:?} {anonymous}");
        }
    }
}
