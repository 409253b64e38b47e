//! Who may use the admin listener.

use std::net::{IpAddr, SocketAddr};

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, request};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::{Choice, ConstantTimeEq as _};

use crate::net::authority;

/// The rules of one listener.
#[derive(Debug)]
pub(super) struct Access {
    listen: IpAddr,
    token: Option<SecretString>,
}

impl Access {
    pub(super) fn new(listen: SocketAddr, token: Option<SecretString>) -> Self {
        Self { listen: listen.ip(), token }
    }

    /// Whether the names by which the request calls us are ours. A page whose DNS name was made to point here
    /// fails this. Where a token is asked for, such a page cannot have it, and operators reach us by names that
    /// we do not know (a service name, a tunnel), so any will do; the same for what is `free` of a token.
    pub(super) fn named_well(&self, request: &request::Parts, free: bool) -> bool {
        if free || self.token.is_some() {
            return true;
        }
        let mut names = authority::names(&request.headers, &request.uri).peekable();
        names.peek().is_some() && names.all(|name| name.is_some_and(|name| self.ours(name)))
    }

    fn ours(&self, name: &str) -> bool {
        authority::is_loopback(name)
            || name.parse::<IpAddr>().is_ok_and(|address| {
                // Listening on every address, any literal may be ours; a page made to point here has a name.
                address == self.listen || self.listen.is_unspecified()
            })
    }

    /// Whether the request shows the token, as Bearer or as the password of Basic. True without a token.
    pub(super) fn token_shown(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let token = token.expose_secret().as_bytes();
        let mut shown = Choice::from(0);
        for value in headers.get_all(AUTHORIZATION).into_iter().take(4) {
            shown |= presented(value.as_bytes()).unwrap_or_default().ct_eq(token);
        }
        // An empty token would be shown by an empty password.
        bool::from(shown) && !token.is_empty()
    }
}

/// The secret in an `Authorization` value.
fn presented(value: &[u8]) -> Option<Vec<u8>> {
    let space = value.iter().position(|b| *b == b' ')?;
    let (scheme, rest) = value.split_at(space);
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(rest.trim_ascii().to_vec());
    }
    if scheme.eq_ignore_ascii_case(b"basic") {
        let pair = base64(rest.trim_ascii())?;
        let colon = pair.iter().position(|b| *b == b':')?;
        return Some(pair[colon + 1..].to_vec());
    }
    None
}

/// Decodes base64 of RFC 4648 section 4, with or without padding.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut held) = (0_u32, 0_u8);
    for byte in text {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from((bits >> held) & 0xff).expect("eight bits"));
            bits &= (1 << held) - 1;
        }
    }
    (text.len() % 4 != 1).then_some(out)
}

/// Whether a request that changes something comes from our own pages, or from no page at all.
pub(super) fn same_origin(request: &request::Parts) -> bool {
    let headers = &request.headers;
    let ours = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    let ours = ours.or_else(|| headers.get(HOST).map(HeaderValue::as_bytes));
    let origin_is_ours = headers.get_all(ORIGIN).into_iter().all(|origin| {
        let origin = origin.as_bytes();
        let theirs = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
        theirs.zip(ours).is_some_and(|(theirs, ours)| theirs.eq_ignore_ascii_case(ours))
    });
    let site_is_ours =
        headers.get_all("sec-fetch-site").into_iter().all(|site| site == "same-origin" || site == "none");
    origin_is_ours && site_is_ours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded_and_what_is_none_is_refused() {
        for (text, bytes) in [
            ("", Some(&b""[..])),
            ("Zg==", Some(b"f")),
            ("Zg", Some(b"f")),
            ("Zm8=", Some(b"fo")),
            ("Zm9v", Some(b"foo")),
            ("Zm9vYmFy", Some(b"foobar")),
            ("/+8=", Some(b"\xff\xef")),
            ("Z", None),
            ("Zm9v!", None),
            ("Zm=v", None),
        ] {
            assert_eq!(base64(text.as_bytes()).as_deref(), bytes, "{text}");
        }
    }

    #[test]
    fn an_empty_or_odd_authorization_shows_no_token() {
        let shown = |token: &str, value: &'static str| {
            let access = Access::new("0.0.0.0:1".parse().unwrap(), Some(token.into()));
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
            access.token_shown(&headers)
        };
        assert!(shown("t", "Bearer t") && shown("t", "bearer t") && shown("t", "Basic eDp0"));
        for value in ["", "Bearer", "Bearer ", "t", "Basic", "Basic eA==", "Basic !", "Digest t", "Bearer tt"]
        {
            assert!(!shown("t", value), "{value}");
        }
        assert!(!shown("", "Bearer "), "an empty token is never shown");
    }

    #[test]
    fn a_listener_on_every_address_knows_literals_and_no_foreign_names() {
        let access = |listen: &str| Access::new(listen.parse().unwrap(), None);
        assert!(access("0.0.0.0:9080").ours("10.0.0.5") && access("[::]:9080").ours("fe80::1"));
        assert!(!access("0.0.0.0:9080").ours("evil.example"));
        assert!(access("10.0.0.5:9080").ours("10.0.0.5") && !access("10.0.0.5:9080").ours("10.0.0.6"));
    }
}
