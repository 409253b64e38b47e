//! `sidestep check --online`, as a process.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use sidestep::simulator::{AcceptedKey, QuotaSettings, ResourceSettings, Simulator, SimulatorSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::fixture::key_of;
use super::fixture::tls::Authority;
use super::process::Running;

/// A backend that answers everything with these bytes, over TLS if there is a configuration for it.
async fn says(words: String, tls: Option<rustls::ServerConfig>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = tls.map(|config| TlsAcceptor::from(std::sync::Arc::new(config)));
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let (words, tls) = (words.clone(), tls.clone());
            tokio::spawn(async move {
                if let Some(tls) = tls {
                    let Ok(mut stream) = tls.accept(socket).await else { return };
                    let _read = stream.read(&mut [0; 4096]).await;
                    let _gone = stream.write_all(words.as_bytes()).await;
                    let _gone = stream.shutdown().await;
                } else {
                    let _read = socket.read(&mut [0; 4096]).await;
                    let _gone = socket.write_all(words.as_bytes()).await;
                }
            });
        }
    });
    address
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

struct Checked {
    code: Option<i32>,
    said: String,
}

impl Checked {
    /// The line of one backend.
    fn line(&self, name: &str) -> &str {
        let named = |line: &&str| line.split_whitespace().nth(1) == Some(name) && line.contains(['✓', '✗']);
        self.said.lines().find(named).unwrap_or_else(|| panic!("no line of {name}: {}", self.said))
    }
}

/// Checks these backends: name and URL, further lines.
async fn check(folder: &Path, backends: &[(&str, String, &str)]) -> Checked {
    let mut text = "[upstream]\nca_file = \"ca.pem\"\n".to_owned();
    for (name, url, lines) in backends {
        let key = key_of(name);
        write!(text, "[[backends]]\nname = \"{name}\"\nurl = \"{url}\"\napi_key = \"{key}\"\n{lines}\n")
            .unwrap();
    }
    std::fs::write(folder.join("sidestep.toml"), text).unwrap();
    let folder = folder.to_owned();
    let (status, said, complained) =
        tokio::task::spawn_blocking(move || Running::start(&folder, &["check", "--online"], &[]).end())
            .await
            .unwrap();
    assert!(complained.is_empty(), "{complained}");
    for (name, ..) in backends {
        assert!(!said.contains(&key_of(name)), "the key of {name} is shown: {said}");
    }
    Checked { code: status.code(), said }
}

fn simulator() -> Simulator {
    let mut resource = ResourceSettings::named("west");
    resource.quota = QuotaSettings::unlimited();
    resource.api_keys = vec![AcceptedKey::from(key_of("west").as_str())];
    Simulator::start(SimulatorSettings { seed: 1, resources: vec![resource] }).unwrap()
}

#[tokio::test]
async fn all_that_is_well_is_told_with_what_was_seen() {
    let (folder, authority, simulator) = (tempfile::tempdir().unwrap(), Authority::new(), simulator());
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    let list = http("200 OK", r#"{"object":"list","data":[{"id":"gpt-4o"},{"id":"\u001b[31m"},{"id":7}]}"#);
    let safe = says(list, Some(authority.issue(&["localhost"]).server(&[]))).await;
    let busy = says(http("429 Too Many Requests", "{}"), None).await;
    let checked = check(
        folder.path(),
        &[
            ("west", simulator.resource("west").url(), ""),
            (
                "safe",
                format!("https://localhost:{}", safe.port()),
                "deployments = { \"gpt-4o\" = \"gpt-4o\", a = \"lost\" }",
            ),
            ("busy", format!("http://{busy}"), ""),
        ],
    )
    .await;
    assert_eq!(checked.code, Some(0), "{}", checked.said);
    assert!(checked.line("west").contains("✓ west  credential accepted, 2 models"), "{}", checked.said);
    let safe = checked.line("safe");
    assert!(safe.contains("issued by Authority of the test, good until 4096-01-01"), "{safe}");
    assert!(
        safe.contains("credential accepted, 1 models and deployments listed: gpt-4o; not among them: lost"),
        "{safe}"
    );
    assert!(
        checked.line("busy").contains("✓ busy  credential accepted, throttled just now"),
        "{}",
        checked.said
    );
}

#[tokio::test]
async fn what_is_not_well_is_told_with_its_cause_and_without_its_key() {
    let (folder, authority, simulator) = (tempfile::tempdir().unwrap(), Authority::new(), simulator());
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    let echo =
        |name: &str| http("200 OK", &format!(r#"{{"data":[{{"id":"{0}"}},{{"id":"x{0}"}}]}}"#, key_of(name)));
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let strange = Authority::named("Stranger").issue(&["localhost"]).server(&[]);
    let strange = says(String::new(), Some(strange)).await;
    let other = says(String::new(), Some(authority.issue(&["west.test"]).server(&[]))).await;
    let mut backends = vec![
        ("stale", simulator.resource("west").url(), ""),
        ("closed", format!("http://{closed}"), ""),
        ("silent", format!("http://{}", silent.local_addr().unwrap()), ""),
        ("nowhere", "http://nowhere.invalid".to_owned(), ""),
        ("strange", format!("https://localhost:{}", strange.port()), ""),
        ("other", format!("https://localhost:{}", other.port()), ""),
        ("echo", format!("http://{}", says(echo("echo"), None).await), ""),
    ];
    for (name, status) in [
        ("role", "403 Forbidden"),
        ("path", "404 Not Found"),
        ("broken", "500 Internal Server Error"),
        ("moved", "302 Found"),
        ("text", "200 OK"),
    ] {
        let body = format!("the key {} is wrong", key_of(name));
        backends.push((name, format!("http://{}", says(http(status, &body), None).await), ""));
    }
    let checked = check(folder.path(), &backends).await;
    assert_eq!(checked.code, Some(1), "{}", checked.said);
    for (name, mark, words) in [
        ("stale", '✗', "401: it rejects the credential"),
        ("closed", '✗', "connection refused"),
        ("silent", '✗', "no answer within 10 s"),
        ("nowhere", '✗', "name look-up failed"),
        ("strange", '✗', "UnknownIssuer; its certificate is of rcgen self signed cert, issued by Stranger"),
        ("other", '✗', "not valid for name"),
        ("echo", '✓', "0 models and deployments listed"),
        ("role", '✗', "403: the credential lacks the role"),
        ("path", '✗', "404: it has no /openai/v1/models"),
        ("broken", '✗', "it answered 500"),
        ("moved", '✗', "it answered 302"),
        ("text", '✗', "its answer is no list of models"),
    ] {
        let line = checked.line(name);
        assert!(line.contains(mark) && line.contains(words), "{name}: {}", checked.said);
    }
}

#[test]
fn wrong_settings_are_told_before_anyone_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("sidestep.toml"), "[server]\nlisten = 8080\n").unwrap();
    let (status, said, _) = Running::start(folder.path(), &["check", "--online"], &[]).end();
    assert_eq!(status.code(), Some(78));
    assert!(!said.contains("asked just now"));
}
