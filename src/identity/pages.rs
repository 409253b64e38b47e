//! Which web pages may call: the guard against foreign pages, and CORS for those in `callers.origins`.

use std::net::{IpAddr, SocketAddr};

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Uri};

use crate::net::authority;

/// Web pages and the names under which we are called.
#[derive(Debug)]
pub struct Pages {
    /// Lower case, without a trailing slash.
    origins: Vec<String>,
    /// Host names that may stand in `Host` besides loopback ones: those of `origins`, and what we listen on.
    names: Vec<String>,
    /// Everyone on this machine may call, without a key; so pages in its browsers must be kept out.
    guarded: bool,
}

impl Pages {
    /// `guarded` where everyone on this machine may call without a key.
    #[must_use]
    pub fn new(origins: &[String], listen: SocketAddr, guarded: bool) -> Self {
        let origins: Vec<_> =
            origins.iter().map(|origin| origin.trim_end_matches('/').to_ascii_lowercase()).collect();
        let hosts = origins.iter().filter_map(|origin| authority::host(origin.split_once("://")?.1));
        let names = hosts.map(str::to_owned).chain([listen.ip().to_string()]).collect();
        Self { origins, names, guarded }
    }

    /// False: 403, upgrades included. On loopback without keys, a request is turned away when its `Origin` is not
    /// listed, or when a name it calls us by is neither loopback nor configured (a page whose DNS name was made
    /// to point here). With keys, or beyond loopback, keys do that work: a page has none.
    #[must_use]
    pub fn admit(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        if !self.guarded {
            return true;
        }
        let mut names = authority::names(headers, uri).peekable();
        names.peek().is_some()
            && names.all(|name| name.is_some_and(|name| self.known(name)))
            && headers.get_all(ORIGIN).into_iter().all(|origin| self.listed(origin))
            && (headers.contains_key(ORIGIN) || !sent_by_a_foreign_page(headers))
    }

    /// The headers of the answer (204) to a preflight request of a listed page. Asked before keys are: a
    /// preflight has none.
    #[must_use]
    pub fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<HeaderMap> {
        let wanted = method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        let origin = headers.get(ORIGIN).filter(|origin| wanted && self.listed(origin))?;
        let mut answer = HeaderMap::with_capacity(5);
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer
            .insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE"));
        // Whatever the page asks for: what travels on is an allow-list of its own.
        if let Some(asked) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        answer.insert(VARY, HeaderValue::from_static("origin, access-control-request-headers"));
        Some(answer)
    }

    /// Adds to an answer what lets a listed page read it. `request` are the request's headers.
    pub fn allow(&self, request: &HeaderMap, answer: &mut HeaderMap) {
        if self.origins.is_empty() {
            return;
        }
        // An answer without the header differs from one with it, and a cache must know.
        answer.append(VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = request.get(ORIGIN).filter(|origin| self.listed(origin)) {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
        }
    }

    fn listed(&self, origin: &HeaderValue) -> bool {
        let is = |listed: &String| listed.as_bytes().eq_ignore_ascii_case(origin.as_bytes());
        self.origins.iter().any(is)
    }

    fn known(&self, name: &str) -> bool {
        let same = |known: &String| match (known.parse::<IpAddr>(), name.parse::<IpAddr>()) {
            (Ok(known), Ok(name)) => known == name,
            _ => known.eq_ignore_ascii_case(name),
        };
        authority::is_loopback(name) || self.names.iter().any(same)
    }
}

/// A page that asks for an image or follows a link sends no `Origin`; its browser tells of it here. Another port of this
/// machine is another page.
fn sent_by_a_foreign_page(headers: &HeaderMap) -> bool {
    headers.get_all("sec-fetch-site").into_iter().any(|site| site != "none" && site != "same-origin")
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn pages(origins: &[&str], guarded: bool) -> Pages {
        let origins: Vec<_> = origins.iter().map(|origin| (*origin).to_owned()).collect();
        Pages::new(&origins, "127.0.0.1:8080".parse().unwrap(), guarded)
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    fn admitted(pages: &Pages, pairs: &[(&'static str, &'static str)]) -> bool {
        pages.admit(&headers(pairs), &Uri::from_static("/v1/chat/completions"))
    }

    #[test]
    fn programs_on_this_machine_may_call_and_pages_may_not() {
        let pages = pages(&["https://App.example/"], true);
        assert!(admitted(&pages, &[("host", "127.0.0.1:8080")]));
        assert!(admitted(&pages, &[("host", "localhost:8080")]));
        assert!(admitted(&pages, &[("host", "localhost"), ("origin", "https://app.example")]));
        for origin in ["https://evil.example", "null", "http://app.example", "http://localhost:3000", ""] {
            assert!(!admitted(&pages, &[("host", "localhost"), ("origin", origin)]), "{origin}");
        }
        let both =
            [("host", "localhost"), ("origin", "https://app.example"), ("origin", "https://evil.example")];
        assert!(!admitted(&pages, &both));
    }

    #[test]
    fn a_name_that_was_made_to_point_here_is_turned_away() {
        let pages = pages(&["https://app.example:444"], true);
        assert!(admitted(&pages, &[("host", "app.example")]));
        for host in ["rebound.example:8080", "127.0.0.1.evil.example", "10.0.0.1", "bad host", ""] {
            assert!(!admitted(&pages, &[("host", host)]), "{host}");
        }
        assert!(!admitted(&pages, &[]), "no name at all");
        assert!(!admitted(&pages, &[("host", "localhost"), ("host", "evil.example")]));
    }

    #[test]
    fn a_page_that_sends_no_origin_is_known_by_what_its_browser_says() {
        let pages = pages(&["https://app.example"], true);
        let sent = |site, more: &[(&'static str, &'static str)]| {
            admitted(&pages, &[&[("host", "localhost"), ("sec-fetch-site", site)], more].concat())
        };
        assert!(
            !sent("cross-site", &[]) && !sent("same-site", &[]) && !sent("cross-site", &[("origin", "null")])
        );
        assert!(sent("none", &[]), "somebody typed the address");
        assert!(sent("cross-site", &[("origin", "https://app.example")]));
    }

    #[test]
    fn names_are_compared_as_names_and_odd_spellings_of_an_address_are_none() {
        let pages = pages(&["https://app.example"], true);
        for host in [
            "LOCALHOST:8080",
            "localhost.",
            "[::1]:8080",
            "[0:0:0:0:0:0:0:1]",
            "127.0.0.1:65535",
            "APP.example",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(admitted(&pages, &[("host", host)]), "{host}");
        }
        for host in [
            "evil.example.",
            "localhost:8080:80",
            "localhost@evil.example",
            "evil.example:80@localhost",
            "127.1",
            "0x7f000001",
            "2130706433",
            "0.0.0.0:8080",
            "[::]",
            "[fe80::1%25lo]",
            "[::1].evil.example",
            "localhost evil.example",
            "localhost,evil.example",
            "xn--localhost",
        ] {
            assert!(!admitted(&pages, &[("host", host)]), "{host}");
        }
    }

    #[test]
    fn the_authority_of_http_2_is_checked_like_host() {
        let pages = pages(&[], true);
        assert!(pages.admit(&HeaderMap::new(), &Uri::from_static("http://localhost:8080/v1")));
        assert!(!pages.admit(&HeaderMap::new(), &Uri::from_static("http://evil.example/v1")));
        let differing = headers(&[("host", "localhost")]);
        assert!(!pages.admit(&differing, &Uri::from_static("http://evil.example/v1")));
    }

    #[test]
    fn where_callers_have_keys_pages_are_not_guessed_at() {
        let pages = pages(&[], false);
        assert!(admitted(&pages, &[("host", "api.example"), ("origin", "https://app.example")]));
    }

    #[test]
    fn a_preflight_is_answered_for_listed_pages_only() {
        let pages = pages(&["https://app.example"], true);
        let ask = |origin| {
            let asked = [
                ("origin", origin),
                ("access-control-request-method", "POST"),
                ("access-control-request-headers", "api-key, content-type"),
            ];
            pages.preflight(&Method::OPTIONS, &headers(&asked))
        };
        let answer = ask("https://app.example").unwrap();
        assert_eq!(answer["access-control-allow-origin"], "https://app.example");
        assert_eq!(answer["access-control-allow-headers"], "api-key, content-type");
        assert!(answer.contains_key("vary"));
        assert!(ask("https://evil.example").is_none());
        let plain = headers(&[("origin", "https://app.example")]);
        assert!(pages.preflight(&Method::OPTIONS, &plain).is_none());
        assert!(pages.preflight(&Method::POST, &plain).is_none());
    }

    #[test]
    fn answers_are_readable_for_listed_pages_and_vary_for_all() {
        let pages = pages(&["https://app.example"], true);
        let answer = |origin| {
            let mut answer = headers(&[("vary", "accept")]);
            pages.allow(&headers(&[("origin", origin)]), &mut answer);
            answer
        };
        let listed = answer("https://app.example");
        assert_eq!(listed["access-control-allow-origin"], "https://app.example");
        assert_eq!(listed.get_all("vary").iter().count(), 2);
        let other = answer("https://evil.example");
        assert!(!other.contains_key("access-control-allow-origin"));
        assert_eq!(other.get_all("vary").iter().count(), 2);
        let mut untouched = HeaderMap::new();
        self::pages(&[], true).allow(&headers(&[("origin", "https://app.example")]), &mut untouched);
        assert!(untouched.is_empty());
    }
}
