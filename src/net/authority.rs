//! Whom a request believes it talks to: `Host`, or `:authority` in HTTP/2.

use std::net::{IpAddr, Ipv6Addr};

use http::header::HOST;
use http::{HeaderMap, Uri};

/// All names that a request gives us, each without its port; more than one only where `Host` and the target
/// differ. `None` stands for a name that cannot be read.
pub fn names<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> impl Iterator<Item = Option<&'a str>> {
    let hosts = headers.get_all(HOST).into_iter().map(|value| value.to_str().ok().and_then(host));
    hosts.chain(uri.authority().map(|authority| host(authority.as_str())))
}

/// The host of `host[:port]`, IPv6 literals without brackets. `None` when it is neither.
#[must_use]
pub fn host(authority: &str) -> Option<&str> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(literal) => {
            let (host, rest) = literal.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, rest)
        }
        None => authority.find(':').map_or((authority, ""), |colon| authority.split_at(colon)),
    };
    let port =
        rest.is_empty() || rest.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
    (port && !host.is_empty() && host.bytes().all(plain)).then_some(host)
}

/// Whether a host names this machine for itself: a loopback address, `localhost`, or a name under it. No page of
/// the network can have such an origin, whatever its DNS says.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => {
            const NAME: &[u8] = b".localhost";
            let host = host.as_bytes();
            let end = &host[host.len().saturating_sub(NAME.len())..];
            host.eq_ignore_ascii_case(&NAME[1..]) || end.eq_ignore_ascii_case(NAME)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_read_without_its_port() {
        for (authority, expected) in [
            ("localhost:8080", Some("localhost")),
            ("LOCALHOST", Some("LOCALHOST")),
            ("[::1]:80", Some("::1")),
            ("[::1]", Some("::1")),
            ("10.0.0.1:", Some("10.0.0.1")),
            ("", None),
            (":80", None),
            ("[::1", None),
            ("[::1]x", None),
            ("[localhost]", None),
            ("a:b", None),
            ("user@localhost", None),
            ("a b", None),
        ] {
            assert_eq!(host(authority), expected, "{authority}");
        }
    }

    #[test]
    fn loopback_is_told_from_names_that_look_like_it() {
        for yes in
            ["localhost", "LocalHost.", "app.localhost", "127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"]
        {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in
            ["localhost.evil.example", "127.0.0.1.evil.example", "evillocalhost", "0.0.0.0", "10.0.0.1", "::"]
        {
            assert!(!is_loopback(no), "{no}");
        }
    }
}
