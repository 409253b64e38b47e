//! One small document of somebody else's service: fetched over TLS, whole, bounded, or not at all.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::ACCEPT;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use thiserror::Error;
use tokio::time::timeout;

use crate::net::authority;
use crate::net::upstream::{Origin, RequestBody, Reuse, SendError, Tls, Upstream};

/// From the name look-up to the last byte.
const PATIENCE: Duration = Duration::from_secs(10);

/// In bytes; the keys of Entra ID take some 30 KiB.
const LARGEST: usize = 512 * 1024;

/// Where a document is: `https`, or plain `http` on this machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Location {
    origin: Origin,
    path: PathAndQuery,
}

/// Why there is no document. Tells nothing of what it says.
#[derive(Debug, Error)]
pub(super) enum Unfetched {
    #[error("the address is not https")]
    Address,
    #[error(transparent)]
    Send(#[from] SendError),
    #[error("answered {}{}", .0.as_u16(), if .0.is_redirection() { ", and redirects are not followed" } else { "" })]
    Status(StatusCode),
    #[error("the document broke off, or is larger than 512 KiB")]
    Body,
    #[error("no answer in 10 seconds")]
    Slow,
    #[error("the document is not what it should be: {0}")]
    Form(&'static str),
}

impl Location {
    /// `None` for what is neither `https` nor on this machine, or has a user name.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let host = authority::host(uri.authority()?.as_str())?.to_owned();
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" if host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) => false,
            _ => return None,
        };
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let origin = Origin { tls, host, port, path_prefix: String::new(), http2: false };
        Some(Self { origin, path: uri.into_parts().path_and_query? })
    }

    /// The document there.
    pub(super) async fn fetch(&self, tls: &Tls) -> Result<Bytes, Unfetched> {
        let upstream = Upstream::new(self.origin.clone(), tls, PATIENCE).map_err(|_| Unfetched::Address)?;
        let fetching = async {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
            let body = RequestBody::empty();
            let answer = upstream.send(Method::GET, self.path.clone(), headers, body, Reuse::Never).await?;
            if answer.status() != StatusCode::OK {
                return Err(Unfetched::Status(answer.status()));
            }
            let whole = Limited::new(answer.into_body(), LARGEST).collect().await;
            Ok(whole.map_err(|_| Unfetched::Body)?.to_bytes())
        };
        timeout(PATIENCE, fetching).await.unwrap_or(Err(Unfetched::Slow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_this_machine_are_places_to_fetch_from() {
        for good in [
            "https://login.microsoftonline.com/a?b=c",
            "https://login:8443/a",
            "http://127.0.0.1:1/a",
            "http://localhost/a",
            "http://[::1]:1/a",
        ] {
            assert!(Location::parse(good).is_some(), "{good}");
        }
        for bad in [
            "http://login.microsoftonline.com/a",
            "http://127.0.0.1.evil.example/a",
            "http://localhost.evil.example/",
            "http://10.0.0.1/a",
            "https://user@login/a",
            "ftp://localhost/a",
            "file:///etc/passwd",
            "/a",
            "",
        ] {
            assert!(Location::parse(bad).is_none(), "{bad}");
        }
    }
}
