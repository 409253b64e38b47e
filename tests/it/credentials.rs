//! With what backends are called: tokens of every source over real sockets, and no credential where it does not
//! belong.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use sidestep::simulator::{AcceptedKey, Fault, FaultRule, ResourceSettings, Simulator, SimulatorSettings};

use super::fixture::backend::{PlayedBackend, answer};
use super::fixture::caller::post;
use super::fixture::tls::Authority;
use super::fixture::wire::Wire;
use super::fixture::{CHAT, QUESTION, Scene, Stage, eventually, key_of, settings_in};
use super::process::Running;
use super::raw::until;

/// A token service that the test plays: what it answers, and what it was asked.
#[derive(Clone)]
struct TokenService {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    answer: Arc<Mutex<Answering>>,
}

type Answering = Box<dyn FnMut(usize, &str) -> (Duration, u16, String) + Send>;

/// A token that lives so long.
fn token(token: &str, seconds: u64) -> (Duration, u16, String) {
    let body = json!({ "token_type": "Bearer", "expires_in": seconds, "access_token": token });
    (Duration::ZERO, 200, body.to_string())
}

fn refusal() -> (Duration, u16, String) {
    let body =
        json!({ "error": "invalid_client", "error_description": "AADSTS7000215: Invalid secret. More." });
    (Duration::ZERO, 401, body.to_string())
}

impl TokenService {
    fn start(answer: impl FnMut(usize, &str) -> (Duration, u16, String) + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let service = Self {
            address: listener.local_addr().unwrap(),
            asked: Arc::default(),
            answer: Arc::new(Mutex::new(Box::new(answer))),
        };
        let of_thread = service.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let service = of_thread.clone();
                std::thread::spawn(move || service.serve(stream.unwrap()));
            }
        });
        service
    }

    fn serve(&self, mut stream: std::net::TcpStream) {
        let mut read = Vec::new();
        let mut piece = [0; 4096];
        let request = loop {
            let text = String::from_utf8_lossy(&read).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length")
                        .then(|| value.trim().parse::<usize>().unwrap())
                });
                if body.len() >= length.unwrap_or(0) {
                    break text;
                }
            }
            match stream.read(&mut piece) {
                Ok(0) | Err(_) => return,
                Ok(count) => read.extend_from_slice(&piece[..count]),
            }
        };
        let number = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(request.clone());
            asked.len()
        };
        let (wait, status, body) = (self.answer.lock().unwrap())(number, &request);
        std::thread::sleep(wait);
        let length = body.len();
        let _gone = write!(
            stream,
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn now_answers(&self, answer: impl FnMut(usize, &str) -> (Duration, u16, String) + Send + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The lines of a backend that signs in here with a secret.
    fn client_secret(&self) -> String {
        let authority = self.url();
        format!(
            "identity = \"client-secret\"\ntenant_id = \"the-tenant\"\nclient_id = \"the-client\"\n\
             client_secret = \"the s3cret+/&\"\nauthority = \"{authority}\"\n"
        )
        .replace("the s3cret+/&", "the-s3cret+/&")
    }
}

/// A resource that accepts these bearer tokens and nothing else.
fn accepting<const N: usize>(backends: [(&str, u32); N], tokens: &[&str]) -> Scene {
    let mut scene = Scene::of(backends);
    for (name, _) in backends {
        scene = scene.resource(name, |resource| {
            resource.api_keys = Vec::new();
            resource.bearer_tokens = tokens.iter().map(|token| AcceptedKey::from(*token)).collect();
        });
    }
    scene
}

fn credential(stage: &Stage, backend: &str) -> &'static str {
    stage.backend(backend).credential
}

#[tokio::test]
async fn a_secret_is_exchanged_for_a_token_once_for_all_backends_that_use_it() {
    let service = TokenService::start(|_, _| token("the-token", 3600));
    let lines = service.client_secret();
    let stage = accepting([("east", 1), ("west", 2)], &["the-token"])
        .keyless("east", &lines)
        .keyless("west", &lines)
        .start();
    // It comes before the first token, and waits for it.
    let answer = stage.chat().await;
    assert_eq!((answer.status, answer.region()), (200, Some("east")));
    stage.resource("east").fault(Fault::throttle_seconds(10));
    assert_eq!(stage.chat().await.region(), Some("west"));
    let asked = service.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked[0].starts_with("POST /the-tenant/oauth2/v2.0/token HTTP/1.1\r\n"), "{asked:?}");
    assert!(
        asked[0].ends_with(
            "\r\n\r\nclient_id=the-client&grant_type=client_credentials&\
             scope=https%3A%2F%2Fcognitiveservices.azure.com%2F.default&client_secret=the-s3cret%2B%2F%26"
        ),
        "{asked:?}"
    );
    let (log, status) = (stage.log(), serde_json::to_string(&stage.balancer.status()).unwrap());
    for secret in ["the-s3cret", "the-token"] {
        assert!(!log.contains(secret) && !status.contains(secret), "{secret}: {log} {status}");
    }
}

#[tokio::test]
async fn container_apps_and_virtual_machines_are_asked_as_they_want_it() {
    let service = TokenService::start(|_, _| token("the-token", 86_400));
    let platform = accepting([("east", 1)], &["the-token"])
        .keyless("east", "identity = \"default\"\nscope = \"https://ai.azure.com/.default\"\n")
        .variable("IDENTITY_ENDPOINT", &format!("{}/msi/token", service.url()))
        .variable("IDENTITY_HEADER", "the-identity-header")
        .variable("AZURE_CLIENT_ID", "user-assigned")
        .start();
    assert_eq!(platform.chat().await.status, 200);
    let machine = accepting([("east", 1)], &["the-token"])
        .keyless("east", "identity = \"managed\"\n")
        .variable("AZURE_POD_IDENTITY_AUTHORITY_HOST", &service.url())
        .start();
    assert_eq!(machine.chat().await.status, 200);
    let [platform, machine] = <[String; 2]>::try_from(service.asked()).unwrap();
    let line = "GET /msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fai.azure.com&client_id=user-assigned HTTP/1.1\r\n";
    assert!(platform.starts_with(line), "{platform}");
    assert!(platform.contains("x-identity-header: the-identity-header\r\n"), "{platform}");
    let line = "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fcognitiveservices.azure.com HTTP/1.1\r\n";
    assert!(machine.starts_with(line), "{machine}");
    assert!(machine.contains("metadata: true\r\n"), "{machine}");
}

#[tokio::test]
async fn a_federated_file_is_read_anew_for_each_token() {
    let service = TokenService::start(|number, _| token(&format!("token-{number}"), 2));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first-assertion\n").unwrap();
    let stage = accepting([("east", 1)], &[])
        .keyless("east", &format!("identity = \"workload\"\nauthority = \"{}\"\n", service.url()))
        .variable("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap())
        .variable("AZURE_TENANT_ID", "t")
        .variable("AZURE_CLIENT_ID", "c")
        .start();
    eventually("the first token", || credential(&stage, "east") == "ready").await;
    std::fs::write(&file, "second-assertion").unwrap();
    eventually("a second one", || {
        service.asked().last().is_some_and(|last| last.ends_with("=second-assertion"))
    })
    .await;
    let first = &service.asked()[0];
    assert!(
        first.ends_with(
            "&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=first-assertion"
        ),
        "{first}"
    );
    // A file that is gone is a trouble that is told, and the token that is valid stays in use.
    std::fs::remove_file(&file).unwrap();
    eventually("the trouble", || {
        stage.backend("east").credential_cause.is_some_and(|cause| cause.contains("federated token"))
    })
    .await;
}

#[tokio::test]
async fn the_azure_cli_is_asked_on_a_developers_machine() {
    // `az` is found by the PATH of this process, which no test may change: here it is not installed, and that is told.
    if std::process::Command::new("az").arg("--version").output().is_ok() {
        return;
    }
    let stage = Scene::of([("east", 1), ("west", 2)]).keyless("east", "identity = \"azure-cli\"\n").start();
    eventually("the trouble", || {
        stage.backend("east").credential_cause.as_deref()
            == Some("az account get-access-token: az is not installed")
    })
    .await;
    assert_eq!(stage.chat().await.region(), Some("west"));
}

/// A command `az` that says this, in a folder that is the PATH.
fn azure_cli(folder: &std::path::Path, script: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;

    let az = folder.join("az");
    std::fs::write(&az, format!("#!/bin/sh\necho \"$@\" > asked\n{script}\n")).unwrap();
    std::fs::set_permissions(&az, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:/usr/bin:/bin", folder.display())
}

#[test]
fn the_azure_cli_gives_its_token_or_its_first_line_of_complaint() {
    let simulator = super::front::resources(&["east"]);
    for (script, said) in [
        (
            r#"echo "{\"accessToken\":\"s3cret-of-az\",\"expiresOn\":\"2026-01-01 00:00:00\",\"expires_on\":$(($(date +%s) + 3600))}""#,
            "token obtained",
        ),
        (
            "echo 'ERROR: Please run az login. s3cret-of-az' | cut -c1-27 >&2; exit 1",
            "ERROR: Please run az login.",
        ),
        ("echo nonsense", "not understood"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = azure_cli(folder.path(), script);
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
             [[backends]]\nname = \"east\"\nurl = \"{}\"\nidentity = \"azure-cli\"\ntenant_id = \"t1\"\n",
            simulator.resource("east").url()
        );
        std::fs::write(folder.path().join("sidestep.toml"), text).unwrap();
        let running = Running::start(folder.path(), &[], &[("PATH", &path)]);
        running.out().wait_for(&[said]);
        let asked = std::fs::read_to_string(folder.path().join("asked")).unwrap();
        let expected = "account get-access-token --output json --scope https://cognitiveservices.azure.com/.default --tenant t1";
        assert_eq!(asked.trim(), expected);
        running.signal("TERM");
        let (_, out, err) = running.end();
        assert!(!out.contains("s3cret-of-az") && !err.contains("s3cret-of-az"), "{out}{err}");
    }
}

#[test]
fn a_check_online_signs_in_as_the_balancer_would() {
    let service =
        TokenService::start(|number, _| if number == 1 { token("the-s3cret-token", 60) } else { refusal() });
    let mut resource = ResourceSettings::named("east");
    resource.bearer_tokens = vec![AcceptedKey::from("the-s3cret-token")];
    let simulator = Simulator::start(SimulatorSettings { seed: 1, resources: vec![resource] }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[[backends]]\nname = \"east\"\nurl = \"{}\"\n{}",
        simulator.resource("east").url(),
        service.client_secret()
    );
    std::fs::write(folder.path().join("sidestep.toml"), text).unwrap();
    let check = || Running::start(folder.path(), &["check", "--online"], &[]).end();
    let (status, said, _) = check();
    assert!(status.success() && said.contains("✓ east  credential accepted"), "{said}");
    let (status, refused, _) = check();
    assert_eq!(status.code(), Some(1), "{refused}");
    assert!(refused.contains("✗ east  client secret: the token service answers 401"), "{refused}");
    for secret in ["the-s3cret", "the-s3cret-token"] {
        assert!(!said.contains(secret) && !refused.contains(secret), "{said}{refused}");
    }
}

#[tokio::test]
async fn a_backend_without_a_token_is_left_out_while_the_others_serve_and_comes_back_by_itself() {
    let service = TokenService::start(|_, _| refusal());
    let stage = accepting([("east", 1)], &["the-token"])
        .keyless("east", &service.client_secret())
        .elsewhere("west", 2, "http://127.0.0.1:9")
        .start();
    eventually("a refusal", || !service.asked().is_empty()).await;
    eventually("the trouble", || {
        let east = stage.backend("east");
        east.credential_cause.as_deref()
            == Some("the token service answers 401: invalid_client, AADSTS7000215")
            && east.credential_next_try_seconds.is_some()
    })
    .await;
    assert_eq!(credential(&stage, "east"), "missing");
    assert_eq!(stage.caller().get("/readyz").await.status, 200, "west has its key");
    assert_eq!(stage.chat().await.code(), "backend_failed", "west alone was asked");
    assert_eq!(stage.seen("east"), 0);
    service.now_answers(|_, _| token("the-token", 3600));
    eventually("the token", || credential(&stage, "east") == "ready").await;
    assert_eq!(stage.chat().await.region(), Some("east"));
}

#[tokio::test]
async fn with_no_credential_at_all_a_request_waits_three_seconds_and_is_told_so() {
    let service = TokenService::start(|_, _| refusal());
    let stage = accepting([("east", 1)], &[]).keyless("east", &service.client_secret()).start();
    let began = tokio::time::Instant::now();
    let answer = stage.chat().await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "no_credential"));
    assert!(answer.headers.contains_key("retry-after"));
    let waited = began.elapsed().as_millis();
    assert!((2_900..6_000).contains(&waited), "{waited}");
    assert_eq!(stage.caller().get("/readyz").await.status, 503);
    assert_eq!(stage.caller().get("/livez").await.status, 200);
    assert_eq!(stage.seen("east"), 0);
}

#[tokio::test]
async fn a_slow_token_service_holds_up_the_first_requests_alone_and_for_no_longer_than_it_takes() {
    let service = TokenService::start(|_, _| (Duration::from_secs(1), 200, token("the-token", 3600).2));
    let stage = accepting([("east", 1)], &["the-token"]).keyless("east", &service.client_secret()).start();
    let began = tokio::time::Instant::now();
    let callers = [stage.caller(), stage.caller(), stage.caller()];
    let calls = callers.map(|caller| tokio::spawn(async move { caller.post(CHAT, QUESTION).await }));
    for call in calls {
        assert_eq!(call.await.unwrap().status, 200);
    }
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(900) && waited < Duration::from_millis(2_900), "{waited:?}");
    assert_eq!(service.asked().len(), 1);
}

#[tokio::test]
async fn what_is_no_token_is_told_whatever_it_is() {
    let huge = "x".repeat(300 * 1024);
    for (status, body, cause) in [
        (200, "<html>hello</html>", "not the JSON of a token"),
        (200, r#"{"access_token":"bad\u0001token","expires_in":60}"#, "cannot be sent"),
        (200, r#"{"access_token":"t"}"#, "expires_in"),
        (200, huge.as_str(), "too long"),
        (302, "", "answers 302"),
        (500, "<html>", "answers 500"),
    ] {
        let answer = (Duration::ZERO, status, body.to_owned());
        let service = TokenService::start(move |_, _| answer.clone());
        let stage = Scene::of([("east", 1)]).keyless("east", &service.client_secret()).start();
        eventually(cause, || stage.backend("east").credential_cause.is_some_and(|told| told.contains(cause)))
            .await;
    }
    // Nobody is there.
    let lines = "identity = \"client-secret\"\ntenant_id = \"t\"\nclient_id = \"c\"\nclient_secret = \"s\"\nauthority = \"http://127.0.0.1:9\"\n";
    let stage = Scene::of([("east", 1)]).keyless("east", lines).start();
    eventually("nobody", || {
        stage.backend("east").credential_cause.is_some_and(|told| told.contains("cannot be reached"))
    })
    .await;
}

#[tokio::test]
async fn a_rejected_token_is_renewed_once_for_all_and_the_requests_go_out_again() {
    let service = TokenService::start(|number, _| token(&format!("token-{number}"), 3600));
    let stage = accepting([("east", 1), ("west", 2)], &["token-2"])
        .keyless("east", &service.client_secret())
        .keyless("west", &service.client_secret())
        .start();
    eventually("the first token", || credential(&stage, "east") == "ready").await;
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let caller = stage.caller();
            tokio::spawn(async move { caller.post(CHAT, QUESTION).await })
        })
        .collect();
    for call in calls {
        let answer = call.await.unwrap();
        assert_eq!((answer.status, answer.region()), (200, Some("east")));
    }
    assert_eq!(service.asked().len(), 2, "one try for all twenty");
    assert_eq!(stage.seen("west"), 0);
    assert_eq!(stage.backend("east").state, "admitting");
}

#[tokio::test]
async fn a_token_rejected_with_a_body_that_cannot_be_sent_again_is_renewed_for_those_that_follow() {
    let service = TokenService::start(|number, _| token(&format!("token-{number}"), 3600));
    let stage = accepting([("east", 1)], &["token-2"])
        .keyless("east", &service.client_secret())
        .toml("[limits]\nrequest_replay = \"1KiB\"")
        .start();
    eventually("the first token", || credential(&stage, "east") == "ready").await;
    let large = QUESTION.replace("anyone", &"x".repeat(4096));
    let told = stage.caller().post(CHAT, &large).await;
    assert_eq!((told.status, told.code().as_str()), (502, "backend_refused"));
    eventually("another token", || service.asked().len() == 2).await;
    // Another family of operations: the refusal of this one goes on for a minute.
    let listed = stage.caller().get("/openai/v1/models").await;
    assert_eq!(listed.status, 200, "{listed:?}");
}

#[tokio::test]
async fn whom_to_trust_is_read_again_at_a_reload_also_for_tokens() {
    let authority = Authority::new();
    let server = authority.issue(&["127.0.0.1"]).server(&["http/1.1"]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            let _read = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 4096]).await;
            let words = answer("200 OK", "connection: close\r\n", &token("the-token", 3600).2);
            let _gone = tokio::io::AsyncWriteExt::write_all(&mut stream, words.as_bytes()).await;
            let _gone = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
        }
    });
    let lines = format!(
        "identity = \"client-secret\"\ntenant_id = \"t\"\nclient_id = \"c\"\nclient_secret = \"s\"\nauthority = \"https://{address}\"\n"
    );
    let stage = accepting([("east", 1)], &["the-token"]).keyless("east", &lines).start();
    eventually("no trust", || {
        // With its cause, not only that there is none.
        stage
            .backend("east")
            .credential_cause
            .is_some_and(|cause| cause.contains("TLS") && cause.contains("ertificate"))
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    let upstream = format!("[upstream]\nca_file = \"{}\"\n[log]", file.display());
    let text = stage.text.replace("[log]", &upstream);
    stage.balancer.reload(settings_in(&text, &stage.environment)).unwrap();
    eventually("the token", || credential(&stage, "east") == "ready").await;
    assert_eq!(stage.chat().await.status, 200);
}

#[tokio::test]
async fn a_key_of_ours_that_a_reload_retires_while_its_request_comes_travels_nowhere() {
    let keys = "[[callers.keys]]\nname = \"app\"\nkey = \"the-retired-key-of-ours\"\n";
    let other = "[[callers.keys]]\nname = \"app\"\nkey = \"the-newer-key-of-ours\"\n";
    let stage = Scene::of([("east", 1)])
        .resource("east", |resource| resource.api_keys = Vec::new())
        .keyless("east", "identity = \"caller\"\n")
        .toml(keys)
        .start();
    let mut wire = Wire::connect(stage.balancer.address()).await;
    let length = QUESTION.len();
    wire.write(format!(
        "POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer the-retired-key-of-ours\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    ))
    .await;
    eventually("its head", || stage.balancer.status().callers.in_flight == 1).await;
    stage.balancer.reload(settings_in(&stage.text.replace(keys, other), &stage.environment)).unwrap();
    wire.write(QUESTION).await;
    let head = wire.until("\r\n").await;
    assert!(head.starts_with("HTTP/1.1 401"), "{head}");
    assert_eq!(stage.seen("east"), 0);
}

#[tokio::test]
async fn a_token_that_is_rejected_again_is_not_asked_for_a_third_time_and_the_next_backend_serves() {
    let service = TokenService::start(|number, _| token(&format!("token-{number}"), 3600));
    let stage = accepting([("east", 1)], &["another"]).keyless("east", &service.client_secret());
    let west = PlayedBackend::listen().await;
    let stage = stage.played("west", 2, west.address).start();
    eventually("the first token", || credential(&stage, "east") == "ready").await;
    let serving = async {
        let (mut wire, _) = west.request().await;
        wire.write(answer("200 OK", "connection: close\r\n", "{}")).await;
    };
    let ((), told) = tokio::join!(serving, stage.chat());
    assert_eq!(told.status, 200);
    assert_eq!((stage.seen("east"), service.asked().len()), (2, 2));
    let east = stage.backend("east");
    assert!(east.lanes.iter().any(|lane| lane.state == "refused") || east.state == "refused", "{east:?}");
}

/// What the log says is seen with the real binary: in this process the log belongs to all tests together.
#[test]
fn each_trouble_with_a_token_is_logged_once_without_its_secrets() {
    let service = TokenService::start(|number, _| match number {
        1 | 2 | 5.. => token("the-s3cret-token", 2),
        _ => refusal(),
    });
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n[log]\nlevel = \"trace\"\n\
         [[backends]]\nname = \"east\"\nurl = \"http://127.0.0.1:9\"\n{}",
        service.client_secret()
    );
    std::fs::write(folder.path().join("sidestep.toml"), text).unwrap();
    let running = Running::start(folder.path(), &[], &[]);
    until("it is well again", || running.out().text().matches("token obtained").count() == 2);
    running.signal("TERM");
    let (_, out, err) = running.end();
    assert_eq!(out.matches("no token").count(), 1, "{out}");
    assert!(out.contains("invalid_client, AADSTS7000215"), "{out}");
    for secret in ["the-s3cret", "More."] {
        assert!(!out.contains(secret) && !err.contains(secret), "{secret}: {out}{err}");
    }
}

#[tokio::test]
async fn a_token_that_ended_while_its_source_is_down_is_sent_no_more() {
    let service = TokenService::start(|number, _| if number == 1 { token("short", 3) } else { refusal() });
    let stage = accepting([("east", 1), ("west", 2)], &["short"])
        .resource("west", |resource| {
            resource.bearer_tokens = Vec::new();
            resource.api_keys = vec![AcceptedKey::from(key_of("west").as_str())];
        })
        .keyless("east", &service.client_secret())
        .start();
    eventually("the token", || credential(&stage, "east") == "ready").await;
    assert_eq!(stage.chat().await.region(), Some("east"));
    eventually("the source is down", || service.asked().len() > 1).await;
    assert_eq!(stage.chat().await.region(), Some("east"), "the old one is still valid");
    eventually("its end", || credential(&stage, "east") == "missing").await;
    let before = stage.seen("east");
    assert_eq!(stage.chat().await.region(), Some("west"));
    assert_eq!(stage.seen("east"), before);
}

#[tokio::test]
async fn a_reload_keeps_the_tokens_of_sources_that_stay() {
    let service = TokenService::start(|number, _| token(&format!("token-{number}"), 3600));
    let stage = accepting([("east", 1)], &["token-1"]).keyless("east", &service.client_secret()).start();
    assert_eq!(stage.chat().await.status, 200);
    stage.balancer.reload(settings_in(&stage.text, &stage.environment)).unwrap();
    assert_eq!(stage.chat().await.status, 200);
    assert_eq!(service.asked().len(), 1);
    let other = stage.text.replace("client_id = \"the-client\"", "client_id = \"another\"");
    stage.balancer.reload(settings_in(&other, &stage.environment)).unwrap();
    eventually("the other identity", || service.asked().len() == 2).await;
    assert!(service.asked()[1].contains("client_id=another"));
}

#[tokio::test]
async fn with_the_callers_own_identity_its_token_travels_there_alone_and_its_refusal_is_its_own() {
    let stage = Scene::of([("keyed", 2)])
        .resource("keyed", |resource| resource.api_keys = vec![AcceptedKey::from("key-of-keyed")])
        .toml("[[callers.keys]]\nname = \"app\"\nkey = \"the-apps-own-key-of-ours\"");
    let east = PlayedBackend::listen().await;
    let stage = stage.played("east", 1, east.address).keyless("east", "identity = \"caller\"\n").start();
    let request = |token: Option<&str>| {
        let mut request = post(CHAT, QUESTION);
        request.headers_mut().insert("api-key", "the-apps-own-key-of-ours".parse().unwrap());
        if let Some(token) = token {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        request
    };
    for status in ["401 Unauthorized", "403 Forbidden"] {
        let serving = async {
            let (mut wire, seen) = east.request().await;
            let body = r#"{"error":{"code":"theirs"}}"#;
            wire.write(answer(status, "connection: close\r\n", body)).await;
            seen
        };
        let sending = async { stage.caller().send(request(Some("the-callers-token"))).await.whole().await };
        let (seen, told) = tokio::join!(serving, sending);
        assert!(seen.to_ascii_lowercase().contains("authorization: bearer the-callers-token\r\n"), "{seen}");
        assert!(!seen.contains("api-key"), "{seen}");
        assert_eq!((told.status.to_string().as_str(), told.code().as_str()), (&status[..3], "theirs"));
        assert_eq!(stage.backend("east").state, "admitting", "nobody else's requests are touched");
    }
    assert_eq!(stage.seen("keyed"), 0);
    // Without a token of its own, or with a key of ours as a bearer, it is served where none is wanted.
    for token in [None, Some("the-apps-own-key-of-ours")] {
        let told = stage.caller().send(request(token)).await.whole().await;
        assert_eq!((told.status, told.region()), (200, Some("keyed")));
    }
    let alone = Scene::default().played("east", 1, east.address).keyless("east", "identity = \"caller\"\n");
    let told = alone.start().chat().await;
    assert_eq!((told.status, told.code().as_str()), (401, "no_token"));
    // What else is wrong is told instead.
    let broken = Scene::default().elsewhere("west", 2, "http://127.0.0.1:9");
    let broken = broken.played("east", 1, east.address).keyless("east", "identity = \"caller\"\n").start();
    assert_eq!(broken.chat().await.code(), "backend_failed");
    // Failing over, the caller's token does not go along.
    {
        let bearer = "the-callers-token";
        let serving = async {
            let (mut wire, seen) = east.request().await;
            wire.write(answer("429 Too Many", "retry-after-ms: 10\r\nconnection: close\r\n", "{}")).await;
            seen
        };
        let sending = async { stage.caller().send(request(Some(bearer))).await.whole().await };
        let (seen, told) = tokio::join!(serving, sending);
        assert_eq!((told.status, told.region()), (200, Some("keyed")));
        assert!(seen.contains(bearer) && !seen.contains("the-apps-own-key-of-ours"), "{seen}");
        let last = stage.resource("keyed").last_request().unwrap();
        assert!(!format!("{:?}", last.headers).contains(bearer));
        eventually("the cooldown's end", || {
            stage.backend("east").lanes.iter().all(|lane| lane.state != "cooling")
        })
        .await;
    }
}

/// All orders of three backends: key, token, the caller's own. Each sees its own credential alone.
#[tokio::test]
async fn no_backend_ever_sees_anothers_credential_in_any_order_of_failover() {
    let service = TokenService::start(|_, _| token("token-of-ours", 3600));
    let orders = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];
    for order in orders {
        let stage = Scene::of([("keyed", order[0]), ("signed", order[1]), ("theirs", order[2])])
            .resource("keyed", |resource| resource.api_keys = Vec::new())
            .resource("signed", |resource| resource.api_keys = Vec::new())
            .resource("theirs", |resource| resource.api_keys = Vec::new())
            .keyless("signed", &service.client_secret())
            .keyless("theirs", "identity = \"caller\"\n")
            .start();
        eventually("the token", || credential(&stage, "signed") == "ready").await;
        for name in ["keyed", "signed", "theirs"] {
            stage.resource(name).fault(FaultRule::standing(Fault::status(500)));
        }
        let mut request = post(CHAT, QUESTION);
        request.headers_mut().insert("authorization", "Bearer token-of-the-caller".parse().unwrap());
        assert_eq!(stage.caller().send(request).await.whole().await.status, 500);
        let expected = BTreeMap::from([
            ("keyed", "key-of-keyed"),
            ("signed", "Bearer token-of-ours"),
            ("theirs", "Bearer token-of-the-caller"),
        ]);
        for (name, own) in &expected {
            let seen = format!("{:?}", stage.resource(name).last_request().unwrap().headers);
            for other in expected.values() {
                assert_eq!(seen.contains(other), other == own, "{order:?} {name}: {seen}");
            }
        }
    }
}
