//! The query of a request: the deployment it may name, and the caller's key, which must not travel.

use std::borrow::Cow;
use std::ops::Range;

use percent_encoding::{percent_decode_str, utf8_percent_encode};

use super::operations::{same, split};
use super::path::{NAME, is_deployment_name};

/// Keys that carry the caller's credential: Azure's, and those of a gateway of Microsoft's before it.
const CREDENTIALS: [&str; 3] = ["api-key", "subscription-key", "ocp-apim-subscription-key"];

/// The caller's key, for upgrades that cannot set headers.
pub fn api_key(query: &str) -> Option<Cow<'_, str>> {
    let pair = pairs(query).find(|pair| same(pair.key(query), "api-key"))?;
    percent_decode_str(&query[pair.value]).decode_utf8().ok()
}

/// The values of these keys, as far as they are text.
pub(super) fn values<'a>(query: &'a str, keys: &[&str]) -> impl Iterator<Item = Cow<'a, str>> {
    let wanted = pairs(query).filter(|pair| keys.iter().any(|word| same(pair.key(query), word)));
    wanted.filter_map(|pair| percent_decode_str(&query[pair.value]).decode_utf8().ok())
}

/// The deployment by `deployment=` or `model=`; an error if it is no name, or if there are two that differ.
pub(super) fn deployment(query: &str) -> Result<Option<Cow<'_, str>>, ()> {
    let mut found: Option<Cow<'_, str>> = None;
    for pair in pairs(query).filter(|pair| names_deployment(pair.key(query))) {
        let name = percent_decode_str(&query[pair.value]).decode_utf8().map_err(|_| ())?;
        if !is_deployment_name(&name) || found.as_ref().is_some_and(|other| *other != name) {
            return Err(());
        }
        found = Some(name);
    }
    Ok(found)
}

/// The query without credentials and with the deployment replaced, all else as sent.
pub(super) fn upstream<'a>(query: &'a str, deployment_there: Option<&str>) -> Option<Cow<'a, str>> {
    let is_credential = |key: &str| CREDENTIALS.iter().any(|word| same(key, word));
    let changes = |pair: &Pair| {
        let key = pair.key(query);
        is_credential(key) || (deployment_there.is_some() && names_deployment(key))
    };
    if !pairs(query).any(|pair| changes(&pair)) {
        return (!query.is_empty()).then_some(Cow::Borrowed(query));
    }
    let mut out = String::with_capacity(query.len());
    let mut first = true;
    for pair in pairs(query).filter(|pair| !is_credential(pair.key(query))) {
        if !first {
            out.push('&');
        }
        first = false;
        match deployment_there.filter(|_| names_deployment(pair.key(query))) {
            Some(name) => {
                out.push_str(pair.key(query));
                out.push('=');
                out.extend(utf8_percent_encode(name, NAME));
            }
            None => out.push_str(&query[pair.whole]),
        }
    }
    (!out.is_empty()).then_some(Cow::Owned(out))
}

struct Pair {
    whole: Range<usize>,
    key_end: usize,
    value: Range<usize>,
}

impl Pair {
    fn key<'a>(&self, query: &'a str) -> &'a str {
        &query[self.whole.start..self.key_end]
    }
}

fn names_deployment(key: &str) -> bool {
    same(key, "deployment") || same(key, "model")
}

fn pairs(query: &str) -> impl Iterator<Item = Pair> {
    let mut start = 0;
    split(query, b'&').map(move |pair| {
        let whole = start..start + pair.len();
        start = whole.end + 1;
        let (key_end, value) = match memchr::memchr(b'=', pair.as_bytes()) {
            Some(at) => (whole.start + at, whole.start + at + 1..whole.end),
            None => (whole.end, whole.end..whole.end),
        };
        Pair { whole, key_end, value }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_key_never_travels() {
        for query in [
            "api-key=k",
            "Api-Key=k",
            "%61pi-key=k",
            "api%2Dkey=k",
            "api-key",
            "subscription-key=k",
            "api-key=a&api-key=b",
        ] {
            assert_eq!(upstream(query, None), None, "{query}");
            assert_eq!(
                upstream(&format!("a=1&{query}&b=%26"), None).as_deref(),
                Some("a=1&b=%26"),
                "{query}"
            );
        }
        assert_eq!(api_key("a=1&api-key=x%2By").as_deref(), Some("x+y"));
        assert_eq!(api_key("api-keys=x"), None);
    }

    #[test]
    fn a_query_that_needs_no_change_is_not_copied() {
        assert!(matches!(
            upstream("api-version=2024-10-21&a", Some("x")),
            Some(Cow::Borrowed("api-version=2024-10-21&a"))
        ));
        assert_eq!(upstream("", None), None);
    }

    #[test]
    fn the_deployment_is_replaced_in_place() {
        assert_eq!(
            upstream("a&&model=m&deployment=m&c=", Some("x y")).as_deref(),
            Some("a&&model=x%20y&deployment=x%20y&c=")
        );
        assert_eq!(deployment("x=1&model=gpt%2D4o"), Ok(Some(Cow::Borrowed("gpt-4o"))));
        assert_eq!(deployment("models=x&a"), Ok(None));
        assert_eq!(deployment("model=a&deployment=a"), Ok(Some(Cow::Borrowed("a"))));
        assert_eq!(deployment("model=a&model=b"), Err(()));
        assert_eq!(deployment("model=%ff"), Err(()));
    }
}
