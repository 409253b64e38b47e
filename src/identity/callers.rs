//! Admitting callers by their keys.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use super::CallerSettings;
use super::pages::Pages;

/// Where a bare key may stand.
static KEY_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("api-key"), HeaderName::from_static("ocp-apim-subscription-key")];

/// The most keys one request may present; more than the three headers and one query that carry one.
const PRESENTED: usize = 8;

/// Who may call.
#[derive(Debug)]
pub struct Callers {
    anonymous: bool,
    keys: Vec<(Arc<str>, SecretString)>,
    pages: Pages,
}

/// Whether a request may go on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Admission {
    /// Yes, as this caller; `None` where callers have no names.
    Admitted(Option<Arc<str>>),
    /// No: 401.
    Unauthorized,
}

impl Callers {
    /// `listen` is the callers' listener. Settings without keys beyond loopback are refused in `settings`, unless
    /// they say `anonymous`.
    #[must_use]
    pub fn new(settings: CallerSettings, listen: SocketAddr) -> Self {
        let keyless = settings.keys.is_empty();
        let pages =
            Pages::new(&settings.origins, listen, keyless && listen.ip().to_canonical().is_loopback());
        let keys = settings.keys.into_iter().map(|caller| (caller.name, caller.key)).collect();
        Self { anonymous: settings.anonymous || keyless, keys, pages }
    }

    /// Which web pages may call.
    #[must_use]
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    /// Whether and as whom a request is admitted: any key that matches admits, whatever the others are, because
    /// SDKs fill several headers. `query` only where a key may stand in it: on upgrades, as `?api-key=`.
    ///
    /// A request with unknown keys is admitted where anyone may call: every SDK sends some key.
    #[must_use]
    pub fn admit(&self, headers: &HeaderMap, query: Option<&str>) -> Admission {
        let mut found = 0_u32; // 1 + index of the caller
        for presented in presented(headers, query).take(PRESENTED) {
            for ((_, key), number) in self.keys.iter().zip(1..) {
                let equal = key.expose_secret().as_bytes().ct_eq(&presented);
                found.conditional_assign(&number, equal);
            }
        }
        let index = usize::try_from(found).ok().and_then(|found| found.checked_sub(1));
        match index.and_then(|index| self.keys.get(index)) {
            Some((name, _)) => Admission::Admitted(Some(Arc::clone(name))),
            None if self.anonymous => Admission::Admitted(None),
            None => Admission::Unauthorized,
        }
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
        for (_, key) in &self.keys {
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

    use super::super::CallerKey;
    use super::*;

    fn callers(keys: &[(&str, &str)], anonymous: bool) -> Callers {
        let keys =
            keys.iter().map(|(name, key)| CallerKey { name: (*name).into(), key: (*key).into() }).collect();
        let settings = CallerSettings { anonymous, keys, origins: Vec::new() };
        Callers::new(settings, "127.0.0.1:8080".parse().unwrap())
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

    fn as_caller(name: &str) -> Admission {
        Admission::Admitted(Some(name.into()))
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
            assert_eq!(
                callers.admit(&headers(&[(header, value)]), None),
                as_caller(name),
                "{header}: {value}"
            );
        }
    }

    #[test]
    fn any_key_that_matches_admits_beside_others_that_do_not() {
        let callers = callers(&[("app", "k1"), ("batch", "k2")], false);
        let mixed =
            [("api-key", "wrong"), ("authorization", "Bearer k2"), ("ocp-apim-subscription-key", "x")];
        assert_eq!(callers.admit(&headers(&mixed), None), as_caller("batch"));
        let twice = [("api-key", "wrong"), ("api-key", "k1")];
        assert_eq!(callers.admit(&headers(&twice), None), as_caller("app"));
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
            assert_eq!(callers.admit(&headers(pairs), None), Admission::Unauthorized, "{pairs:?}");
        }
    }

    #[test]
    fn a_key_in_the_query_counts_where_the_query_is_given() {
        let callers = callers(&[("app", "k/1")], false);
        let none = HeaderMap::new();
        assert_eq!(callers.admit(&none, Some("model=x&api-key=k%2F1")), as_caller("app"));
        assert_eq!(callers.admit(&none, Some("xapi-key=k%2F1")), Admission::Unauthorized);
        assert_eq!(callers.admit(&none, None), Admission::Unauthorized);
    }

    #[test]
    fn without_keys_or_with_anonymous_everyone_is_admitted_and_a_known_key_still_names_its_caller() {
        let some = headers(&[("api-key", "whatever")]);
        assert_eq!(callers(&[], false).admit(&some, None), Admission::Admitted(None));
        let open = callers(&[("app", "k1")], true);
        assert_eq!(open.admit(&some, None), Admission::Admitted(None));
        assert_eq!(open.admit(&headers(&[("api-key", "k1")]), None), as_caller("app"));
    }

    #[test]
    fn a_flood_of_keys_is_read_only_so_far() {
        let mut many = headers(&[("api-key", "wrong"); 100]);
        many.append("api-key", HeaderValue::from_static("k1"));
        assert_eq!(callers(&[("app", "k1")], false).admit(&many, None), Admission::Unauthorized);
    }

    #[test]
    fn no_key_is_shown() {
        assert!(!format!("{:?}", callers(&[("app", "s3cret")], false)).contains("s3cret"));
    }
}
