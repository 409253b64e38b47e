//! One GET to a listener of ours: for `top`, `health` and the demo's view.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::time::timeout;

use crate::net::upstream::{Origin, RequestBody, Reuse, Tls, Upstream, UpstreamSettings};

/// So long an answer may take; the view waits for it.
const PATIENCE: Duration = Duration::from_secs(1);
/// So large it may be, in bytes.
const LARGEST: usize = 16 * 1024 * 1024;

/// A listener with TLS was asked in plain HTTP.
pub(super) const TLS_REQUIRED: &str = "it speaks TLS: use https";

/// A client for one address, on the calling thread.
pub(super) struct Fetch {
    runtime: LocalRuntime,
    upstream: Upstream,
    path: PathAndQuery,
    token: Option<HeaderValue>,
}

impl Fetch {
    /// `path` is asked where `url` has none. The token, if any, travels as a Bearer.
    pub(super) fn new(url: &str, path: &'static str, token: Option<&str>) -> Result<Self, String> {
        let wrong = || format!("{url}: expected an address such as http://127.0.0.1:9080");
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        let host = uri.host().ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let origin = Origin { tls, host, port, path_prefix: String::new(), http2: false };
        let settings = UpstreamSettings { connect_timeout: PATIENCE, ca_file: None };
        let roots = Tls::new(&settings).map_err(|error| error.to_string())?;
        let upstream = Upstream::new(origin, &roots, PATIENCE).map_err(|error| error.to_string())?;
        let token = token.map(|token| HeaderValue::from_str(&format!("Bearer {token}"))).transpose();
        let token = token.map_err(|_| "the admin token cannot stand in a header".to_owned())?;
        let path = match uri.path() {
            "" | "/" => PathAndQuery::from_static(path),
            _ => uri.path_and_query().cloned().ok_or_else(wrong)?,
        };
        let runtime: io::Result<_> =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        Ok(Self { runtime: runtime.map_err(|error| error.to_string())?, upstream, path, token })
    }

    /// The answer, or a short text for people.
    pub(super) fn get(&self) -> Result<Bytes, String> {
        self.ask(self.path.clone())
    }

    /// The same of another page that stands beside: `status` and `explain` are in one place, wherever that is.
    pub(super) fn get_beside(&self, page: &str, query: &str) -> Result<Bytes, String> {
        let path = self.path.path();
        let (place, _) = path.rsplit_once('/').unwrap_or_default();
        let path = format!("{place}/{page}?{query}").parse();
        self.ask(path.map_err(|_| "that name cannot be asked for".to_owned())?)
    }

    fn ask(&self, path: PathAndQuery) -> Result<Bytes, String> {
        self.runtime.block_on(async {
            let mut headers = HeaderMap::new();
            headers.extend(self.token.clone().map(|token| (AUTHORIZATION, token)));
            let asking = async {
                let sent =
                    self.upstream.send(Method::GET, path, headers, RequestBody::empty(), Reuse::Allowed);
                let response = sent.await.map_err(|error| error.to_string())?;
                let status = response.status();
                let body = Limited::new(response.into_body(), LARGEST).collect().await;
                let body = body.map_err(|_| "the answer broke off".to_owned())?.to_bytes();
                match status {
                    StatusCode::OK => Ok(body),
                    StatusCode::BAD_REQUEST if memchr::memmem::find(&body, b"\"tls_required\"").is_some() => {
                        Err(TLS_REQUIRED.to_owned())
                    }
                    StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Err(problem(&body, status)),
                    StatusCode::UNAUTHORIZED => Err("401: set SIDESTEP_ADMIN_TOKEN".to_owned()),
                    other => Err(format!("answered {}", other.as_u16())),
                }
            };
            timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err("no answer within a second".to_owned()))
        })
    }
}

/// What an answer says in its `error`, or else its status.
fn problem(body: &[u8], status: StatusCode) -> String {
    let said = serde_json::from_slice::<serde_json::Value>(body).ok();
    let said = said.as_ref().and_then(|said| said.get("error")?.as_str());
    said.map_or_else(|| format!("answered {}", status.as_u16()), str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// What a listener at `path` is asked first, and how its answer is understood.
    fn asked(
        path: &str,
        answer: &str,
        ask: impl Fn(&Fetch) -> Result<Bytes, String>,
    ) -> (String, Result<Bytes, String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}{path}", listener.local_addr().unwrap());
        let answer = answer.to_owned();
        let serving = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let (mut head, mut piece) = (String::new(), [0; 1024]);
            while !head.contains("\r\n\r\n") {
                let length = socket.read(&mut piece).unwrap();
                assert_ne!(length, 0, "{head}");
                head.push_str(std::str::from_utf8(&piece[..length]).unwrap());
            }
            socket.write_all(answer.as_bytes()).unwrap();
            head.lines().next().unwrap().to_owned()
        });
        let fetch = Fetch::new(&url, "/status", Some("the-token")).unwrap();
        let got = ask(&fetch);
        (serving.join().unwrap(), got)
    }

    #[test]
    fn an_explanation_is_asked_for_where_the_status_stands() {
        let well = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        let explain = |fetch: &Fetch| fetch.get_beside("explain", "deployment=a&backend=b%20c");
        for (path, expected) in [
            ("", "GET /explain?deployment=a&backend=b%20c HTTP/1.1"),
            ("/", "GET /explain?deployment=a&backend=b%20c HTTP/1.1"),
            ("/far/away/status", "GET /far/away/explain?deployment=a&backend=b%20c HTTP/1.1"),
        ] {
            let (line, got) = asked(path, well, explain);
            assert_eq!((line.as_str(), got), (expected, Ok(Bytes::from_static(b"{}"))));
        }
        assert_eq!(asked("/far/away/status", well, Fetch::get).0, "GET /far/away/status HTTP/1.1");
    }

    #[test]
    fn why_there_is_no_answer_is_told_in_the_answers_own_words() {
        let unknown = "HTTP/1.1 404 Not Found\r\ncontent-length: 19\r\n\r\n{\"error\":\"no such\"}";
        assert_eq!(asked("", unknown, Fetch::get).1, Err("no such".to_owned()));
        let plain = "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno";
        assert_eq!(asked("", plain, Fetch::get).1, Err("answered 404".to_owned()));
    }
}
