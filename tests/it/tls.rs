//! Callers over TLS: what is agreed on, what is refused, a certificate that is exchanged, callers that dawdle.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http_body_util::BodyExt;
use rustls::version::{TLS12, TLS13};
use sidestep::app::balancer::StartError;
use sidestep::app::commands;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::fixture::backend::{EVENTS, PlayedBackend, answer, chunk, request};
use super::fixture::caller::post;
use super::fixture::tls::{Authority, Line, Pair, client, dial, listener};
use super::fixture::wire::{Ending, Wire};
use super::fixture::{CHAT, QUESTION, STREAMED, Scene, Stage, eventually, settings, within};
use super::process::Running;
use super::raw::now;

/// A certificate for `localhost` in a folder of its own, and who issued it.
struct Gate {
    authority: Authority,
    folder: TempDir,
}

impl Gate {
    fn new() -> Self {
        Self::with(|authority| authority.issue(&["localhost", "gate.test"]))
    }

    fn with(issue: impl FnOnce(&Authority) -> Pair) -> Self {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        issue(&authority).write(folder.path());
        Self { authority, folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn scene(&self) -> Scene {
        Scene::of([("east", 1)]).server(&listener(self.path()))
    }

    fn client(&self, protocols: &[&str]) -> TlsConnector {
        client(&self.authority, protocols, rustls::ALL_VERSIONS)
    }

    /// Another certificate from now on.
    fn exchange(&self) -> Pair {
        let pair = self.authority.issue(&["localhost"]);
        pair.write(self.path());
        pair
    }

    /// The certificate that the next handshake meets.
    async fn shown(&self, address: SocketAddr) -> Vec<u8> {
        let stream = dial(&self.client(&[]), address).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    /// Waits until it is this one.
    async fn shows(&self, address: SocketAddr, pair: &Pair) {
        within("the new certificate", async {
            while self.shown(address).await != pair.certificate.to_vec() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }
}

fn problem(stage: &Stage) -> Option<String> {
    stage.balancer.status().certificate.unwrap().problem
}

#[tokio::test]
async fn callers_speak_what_they_offer_in_either_version_of_tls() {
    let gate = Gate::new();
    let stage = gate.scene().start();
    assert!(stage.balancer.status().listen.starts_with("https://127.0.0.1:"));
    for version in [&TLS12, &TLS13] {
        for (offered, agreed) in [
            (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
            (&["http/1.1", "h2"], Some(b"h2")),
            (&["http/1.1"], Some(b"http/1.1")),
            (&[], None),
        ] {
            let client = client(&gate.authority, offered, &[version]);
            let stream = dial(&client, stage.balancer.address()).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), agreed, "{offered:?}");
            assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
            let mut line = Line::over(stream).await;
            for _ in 0..3 {
                assert_eq!(line.chat().await.unwrap(), 200, "{offered:?} {version:?}");
            }
        }
    }
}

#[tokio::test]
async fn the_whole_chain_is_shown() {
    let gate = Gate::new();
    let between = gate.authority.intermediate();
    let mut pair = between.issue(&["localhost"]);
    pair.certificate_pem += &between.pem();
    pair.write(gate.path());
    let stage = gate.scene().start();
    let stream = dial(&gate.client(&[]), stage.balancer.address()).await.unwrap();
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap().len(), 2);
}

#[tokio::test]
async fn keys_are_taken_in_each_form_that_openssl_writes() {
    let run = |program: &'static str, folder: &Path, arguments: String| {
        let mut command = std::process::Command::new(program);
        command.current_dir(folder).args(arguments.split(' '));
        async move { tokio::task::spawn_blocking(move || command.output()).await.unwrap() }
    };
    for (form, make) in [
        ("BEGIN RSA PRIVATE KEY", "genrsa -traditional -out tls.key 2048"),
        ("BEGIN PRIVATE KEY", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out tls.key"),
        ("BEGIN EC PRIVATE KEY", "ecparam -name prime256v1 -genkey -out tls.key"),
        ("BEGIN PRIVATE KEY", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out tls.key"),
    ] {
        let gate = Gate::new();
        // Not everywhere there is one.
        let Ok(made) = run("openssl", gate.path(), make.to_owned()).await else { return };
        assert!(made.status.success(), "{made:?}");
        let sign = "req -x509 -key tls.key -subj /CN=localhost -days 30 -out tls.crt";
        assert!(run("openssl", gate.path(), sign.to_owned()).await.unwrap().status.success());
        assert!(std::fs::read_to_string(gate.path().join("tls.key")).unwrap().contains(form));
        let stage = gate.scene().start();
        let url = format!("-sSk -o /dev/null -w %{{http_code}} https://{}/healthz", stage.balancer.address());
        let Ok(curl) = run("curl", gate.path(), url).await else { return };
        assert_eq!(String::from_utf8_lossy(&curl.stdout), "200", "{form}: {curl:?}");
    }
}

#[tokio::test]
async fn who_offers_nothing_that_we_speak_is_refused_in_the_handshake() {
    let gate = Gate::new();
    let stage = gate.scene().start();
    let refused = dial(&gate.client(&["spdy/3"]), stage.balancer.address()).await.unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    // A caller of TLS 1.0, which no library here would play.
    let mut hello = b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x01".to_vec();
    hello.extend([7; 32]);
    hello.extend(b"\x00\x00\x02\x00\x2f\x01\x00");
    let mut wire = Wire::connect(stage.balancer.address()).await;
    wire.write(&hello).await;
    let mut said = Vec::new();
    let _reset = within("an alert", wire.socket.read_to_end(&mut said)).await;
    assert_eq!((said[0], said[5]), (0x15, 2), "a fatal alert: {said:?}");
    let mut wire = Wire::connect(stage.balancer.address()).await;
    wire.write([&[0x16_u8][..], &[0xff; 300]].concat()).await;
    let _reset = within("an end", wire.socket.read_to_end(&mut said)).await;
    assert_eq!(
        Line::over(dial(&gate.client(&[]), stage.balancer.address()).await.unwrap())
            .await
            .chat()
            .await
            .unwrap(),
        200
    );
}

#[tokio::test]
async fn plain_http_is_told_to_use_https() {
    let gate = Gate::new();
    let stage = gate.scene().start();
    let large = "x".repeat(300_000);
    for said in [
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
        format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 300000\r\n\r\n{large}"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ] {
        let mut wire = Wire::connect(stage.balancer.address()).await;
        // It may close before all has been said.
        let _cut = wire.socket.write_all(said.as_bytes()).await;
        let told = wire.until("}}").await;
        assert!(told.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{told}");
        assert!(told.contains("\"tls_required\"") && told.contains("connection: close"), "{told}");
    }
    let url = format!("http://{}", stage.balancer.address());
    let asked = tokio::task::spawn_blocking(move || commands::health(Some(&url), None));
    assert_eq!(asked.await.unwrap(), commands::OK, "a container's health check");
}

#[tokio::test]
async fn a_slow_handshake_is_cut_after_its_time_and_others_are_served_meanwhile() {
    let gate = Gate::new();
    let stage = gate.scene().toml("[limits]\nheader_time = \"700ms\"").start();
    let began = now();
    let mut silent = Wire::connect(stage.balancer.address()).await;
    let mut slow = Wire::connect(stage.balancer.address()).await;
    slow.write(b"\x16\x03\x01\x02").await;
    for _ in 0..20 {
        let stream = dial(&gate.client(&["h2"]), stage.balancer.address()).await.unwrap();
        assert_eq!(Line::over(stream).await.chat().await.unwrap(), 200);
    }
    for wire in [&mut silent, &mut slow] {
        let mut said = Vec::new();
        let _reset = within("the end", wire.socket.read_to_end(&mut said)).await;
        assert!(said.is_empty(), "{said:?}");
    }
    assert!(began.elapsed() >= Duration::from_millis(700), "cut too soon: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_thousand_half_open_handshakes_take_no_more_than_the_limit_of_connections() {
    let gate = Gate::new();
    let stage = gate.scene().toml("[limits]\nconnections = 50\nheader_time = \"2s\"").start();
    let mut crowd = Vec::new();
    for _ in 0..1000 {
        let mut socket = TcpStream::connect(stage.balancer.address()).await.unwrap();
        let _refused = socket.write_all(b"\x16\x03\x01\x02\x00\x01").await;
        crowd.push(socket);
    }
    // Those beyond the bound are gone at once.
    let mut left = 0;
    for socket in &mut crowd {
        let mut said = [0; 1];
        match tokio::time::timeout(Duration::from_millis(20), socket.read(&mut said)).await {
            Err(_) => left += 1,
            Ok(read) => assert_eq!(read.unwrap_or(0), 0),
        }
    }
    assert!(left <= 50, "{left} are left");
    // And when their time is over, there is room again, although none of them leaves.
    within(
        "room",
        Box::pin(async {
            loop {
                if let Ok(stream) = dial(&gate.client(&[]), stage.balancer.address()).await
                    && Line::over(stream).await.chat().await.is_ok_and(|status| status == 200)
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }),
    )
    .await;
    drop(crowd);
}

#[tokio::test]
async fn a_certificate_that_changes_on_disk_is_used_and_open_connections_lose_nothing() {
    let gate = Gate::new();
    let west = PlayedBackend::listen().await;
    let scene = Scene::default().played("west", 1, west.address).server(&listener(gate.path()));
    let stage = scene.start();
    let address = stage.balancer.address();
    let mut lines = Vec::new();
    for protocol in ["h2", "http/1.1"] {
        let mut line = Line::over(dial(&gate.client(&[protocol]), address).await.unwrap()).await;
        let (sent, (mut backend, _)) = tokio::join!(line.send(post(CHAT, STREAMED)), async {
            let (mut backend, asked) = west.request().await;
            backend.write(format!("{EVENTS}{}", chunk("data: {\"choices\":[{}]}\n\n"))).await;
            (backend, asked)
        });
        let mut body = sent.unwrap().into_body();
        assert!(within("an event", body.frame()).await.unwrap().is_ok());
        backend.write(chunk("data: {\"choices\":[{}]}\n\n")).await;
        lines.push((line, body, backend));
    }
    let new = gate.exchange();
    gate.shows(address, &new).await;
    for (mut line, mut body, mut backend) in lines {
        backend.write(format!("{}{}", chunk("data: [DONE]\n\n"), "0\r\n\r\n")).await;
        let mut text = Vec::new();
        while let Some(frame) = within("the rest", body.frame()).await {
            text.extend(frame.unwrap().into_data().unwrap());
        }
        assert!(String::from_utf8(text).unwrap().ends_with("data: [DONE]\n\n"));
        let asked = async {
            request(&mut backend).await;
            backend.write(answer("200 OK", "", "{}")).await;
        };
        assert_eq!(tokio::join!(line.chat(), asked).0.unwrap(), 200);
    }
}

#[tokio::test]
async fn a_broken_pair_on_disk_keeps_the_old_one_and_shows_in_the_status() {
    let gate = Gate::new();
    let stage = gate.scene().start();
    let address = stage.balancer.address();
    let old = gate.shown(address).await;
    let another = gate.authority.issue(&["localhost"]);
    std::fs::write(gate.path().join("tls.key"), another.key.serialize_pem()).unwrap();
    eventually("another's key is told", || problem(&stage).is_some()).await;
    let told = problem(&stage).unwrap();
    assert!(told.contains("server.tls.key") && told.contains("tls.key: expected the key of"), "{told}");
    std::fs::remove_file(gate.path().join("tls.crt")).unwrap();
    eventually("the lack is told", || problem(&stage).is_some_and(|told| told.contains("readable"))).await;
    std::fs::write(gate.path().join("tls.crt"), &another.certificate_pem[..200]).unwrap();
    eventually("half a file is told", || problem(&stage).is_some_and(|told| told.contains("BEGIN"))).await;
    assert_eq!(gate.shown(address).await, old);
    let mut line = Line::over(dial(&gate.client(&["h2"]), address).await.unwrap()).await;
    assert_eq!(line.chat().await.unwrap(), 200);
    another.write(gate.path());
    gate.shows(address, &another).await;
    assert_eq!(problem(&stage), None);
    assert_eq!(line.chat().await.unwrap(), 200);
}

#[tokio::test]
async fn an_order_to_reload_reads_the_files_at_once() {
    let gate = Gate::new();
    let stage = gate.scene().start();
    let new = gate.exchange();
    stage.balancer.reload(settings(&stage.text)).unwrap();
    assert_eq!(gate.shown(stage.balancer.address()).await, new.certificate.to_vec());
    // From another place, from then on.
    let moved = tempfile::tempdir().unwrap();
    let next = gate.authority.issue(&["localhost"]);
    next.write(moved.path());
    let text = stage.text.replace(&listener(gate.path()), &listener(moved.path()));
    stage.balancer.reload(settings(&text)).unwrap();
    assert_eq!(gate.shown(stage.balancer.address()).await, next.certificate.to_vec());
    let last = gate.authority.issue(&["localhost"]);
    last.write(moved.path());
    gate.shows(stage.balancer.address(), &last).await;
    let without = stage.text.replace(&listener(gate.path()), "");
    let refused = stage.balancer.reload(settings(&without)).unwrap_err();
    assert!(matches!(refused, StartError::Fixed("whether server.tls is set")), "{refused}");
}

/// One that ends so many days from now.
fn ending_in(authority: &Authority, days: i64) -> Pair {
    #[expect(clippy::disallowed_methods, reason = "certificates are dated by the wall clock")]
    let today = std::time::SystemTime::now();
    let day = Duration::from_secs(24 * 3600 * days.unsigned_abs());
    let end = if days < 0 { today - day } else { today + day };
    authority.issue_with(&["localhost"], |params| params.not_after = end.into())
}

#[tokio::test]
async fn a_certificate_that_ends_soon_or_has_ended_shows_in_the_status() {
    for (days, soon) in [(40_i64, false), (15, false), (13, true), (-1, true)] {
        let gate = Gate::with(|authority| ending_in(authority, days));
        let stage = gate.scene().start();
        let certificate = stage.balancer.status().certificate.unwrap();
        assert_eq!(certificate.ends_soon, soon, "{days} days");
    }
}

#[test]
fn the_log_tells_of_certificates_once_a_change_and_never_of_keys() {
    let gate = Gate::with(|authority| ending_in(authority, 5));
    let first = std::fs::read_to_string(gate.path().join("tls.key")).unwrap();
    let listen = "listen = \"127.0.0.1:0\"\nadmin_listen = \"off\"\n";
    let backend = "[[backends]]\nurl = \"http://127.0.0.1:9\"\napi_key = \"0123456789abcdef\"\n";
    let tls = listener(gate.path());
    std::fs::write(gate.path().join("sidestep.toml"), format!("[server]\n{listen}{tls}\n{backend}")).unwrap();
    let daemon = Running::start(gate.path(), &[], &[("SIDESTEP_LOG", "trace")]);
    daemon.out().wait_for(&["listening", "listen=https://127.0.0.1:"]);
    daemon.out().wait_for(&["the listener's certificate expires soon", "days=", "Authority of the test"]);
    let second = ending_in(&gate.authority, -3);
    std::fs::write(gate.path().join("tls.key"), second.key.serialize_pem()).unwrap();
    daemon.out().wait_for(&[
        "ERROR",
        "certificate not reloaded",
        "server.tls.key",
        "tls.key: expected the key of",
    ]);
    daemon.signal("HUP");
    daemon.out().wait_for(&["ERROR", "settings not reloaded", "key=server.tls.key"]);
    // One more change, which takes some more looks to be seen: the broken pair was not told in each of them.
    second.write(gate.path());
    daemon.out().wait_for(&["INFO", "certificate reloaded"]);
    daemon.out().wait_for(&["the listener's certificate has expired"]);
    daemon.signal("HUP");
    daemon.out().wait_for(&["INFO", "settings reloaded"]);
    daemon.signal("TERM");
    let (status, said, complained) = daemon.end();
    assert!(status.success(), "{said}{complained}");
    for (words, times) in [
        ("certificate not reloaded", 1),
        ("INFO certificate reloaded", 1),
        ("expires soon", 1),
        ("has expired", 1),
    ] {
        assert_eq!(said.matches(words).count(), times, "{words}: {said}");
    }
    let second = second.key.serialize_pem();
    for secret in
        [&first, &second].into_iter().flat_map(|key| key.lines().filter(|line| !line.contains("---")))
    {
        assert!(!said.contains(secret) && !complained.contains(secret), "a key is in the log");
    }
}

#[test]
fn a_daemon_does_not_start_with_a_certificate_that_cannot_be_used() {
    let gate = Gate::new();
    let another = gate.authority.issue(&["localhost"]);
    std::fs::write(gate.path().join("tls.key"), another.key.serialize_pem()).unwrap();
    let backend = "[[backends]]\nurl = \"http://127.0.0.1:9\"\napi_key = \"0123456789abcdef\"\n";
    let text = format!("[server]\n{}\n{backend}", listener(gate.path()));
    std::fs::write(gate.path().join("sidestep.toml"), text).unwrap();
    for verb in ["serve", "check"] {
        let (status, _, said) = Running::start(gate.path(), &[verb], &[]).end();
        assert_eq!(status.code(), Some(78), "{said}");
        assert!(said.contains("server.tls.key") && said.contains("tls.key"), "{said}");
    }
}

#[tokio::test]
async fn a_caller_that_leaves_cancels_the_backends_work_over_tls_too() {
    let gate = Gate::new();
    let west = PlayedBackend::listen().await;
    let stage = Scene::default().played("west", 1, west.address).server(&listener(gate.path())).start();
    for protocol in ["h2", "http/1.1"] {
        let mut stream = dial(&gate.client(&[protocol]), stage.balancer.address()).await.unwrap();
        if protocol == "http/1.1" {
            // By hand: gone with FIN alone, without TLS's own farewell, while the next request is already here.
            let one = format!(
                "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{QUESTION}",
                QUESTION.len()
            );
            stream.write_all(format!("{one}{one}").as_bytes()).await.unwrap();
            let (backend, _) = west.request().await;
            stream.get_mut().0.shutdown().await.unwrap();
            backend.rest().await;
        } else {
            let mut line = Line::over(stream).await;
            let asking = tokio::spawn(async move { line.chat().await.is_ok() });
            let (backend, _) = west.request().await;
            asking.abort();
            backend.rest().await;
        }
        eventually("the place is free", || stage.backend("west").in_flight == 0).await;
    }
    assert_eq!(stage.backend("west").failed_total, 0);
}

#[tokio::test]
async fn a_web_socket_is_opened_and_carried_over_tls() {
    let gate = Gate::new();
    let west = PlayedBackend::listen().await;
    let stage = Scene::default().played("west", 1, west.address).server(&listener(gate.path())).start();
    let mut stream = dial(&gate.client(&["http/1.1"]), stage.balancer.address()).await.unwrap();
    let head = "GET /openai/v1/realtime?model=gpt-4o HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\n\
                upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut backend, _) = west.request().await;
    backend
        .write(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x01\x02hi",
        )
        .await;
    let mut said = Vec::new();
    within("the backend's words", async {
        while !said.ends_with(b"\x01\x02hi") {
            assert!(stream.read_buf(&mut said).await.unwrap() > 0, "{}", String::from_utf8_lossy(&said));
        }
    })
    .await;
    assert!(said.starts_with(b"HTTP/1.1 101 "));
    stream.write_all(b"\x81\x82\0\0\0\0ok").await.unwrap();
    assert_eq!(backend.exactly(8).await, b"\x81\x82\0\0\0\0ok");
    drop(stream);
    backend.rest().await;
    eventually("the place is free", || stage.backend("west").in_flight == 0).await;
}

#[tokio::test]
async fn a_stream_that_is_cut_never_looks_complete_over_tls() {
    let gate = Gate::new();
    let west = PlayedBackend::listen().await;
    let stage = Scene::default().played("west", 1, west.address).server(&listener(gate.path())).start();
    for protocol in ["h2", "http/1.1"] {
        let mut line =
            Line::over(dial(&gate.client(&[protocol]), stage.balancer.address()).await.unwrap()).await;
        let (sent, ()) = tokio::join!(line.send(post(CHAT, STREAMED)), async {
            let (mut backend, _) = west.request().await;
            backend.write(format!("{EVENTS}{}", chunk("data: {\"choices\":[{}]}\n\n"))).await;
            backend.write(chunk("data: {\"choices\":[{}]}\n\n")).await;
        });
        let mut body = sent.unwrap().into_body();
        let cut = loop {
            match within("an end", body.frame()).await {
                Some(Ok(_)) => {}
                Some(Err(_)) => break true,
                None => break false,
            }
        };
        assert!(cut, "{protocol}: it looked complete");
    }
}

#[tokio::test]
async fn a_drain_ends_what_has_begun_and_lets_go_of_who_has_said_nothing() {
    let gate = Gate::new();
    let west = PlayedBackend::listen().await;
    let stage = Scene::default().played("west", 1, west.address).server(&listener(gate.path())).start();
    let address = stage.balancer.address();
    let idle = dial(&gate.client(&["http/1.1"]), address).await.unwrap();
    let mut half = Wire::connect(address).await;
    half.write(b"\x16\x03").await;
    let mut line = Line::over(dial(&gate.client(&["h2"]), address).await.unwrap()).await;
    let asking = tokio::spawn(async move { line.chat().await });
    let (mut backend, _) = west.request().await;
    stage.balancer.drain();
    let (_, ended) = half.rest().await;
    assert!(matches!(ended, Ending::Closed | Ending::Reset));
    let (mut reader, _writer) = tokio::io::split(idle);
    let closed = within("the idle one ends", reader.read(&mut [0; 16])).await;
    assert!(closed.is_ok_and(|read| read == 0), "a proper farewell");
    backend.write(answer("200 OK", "", "{}")).await;
    assert_eq!(asking.await.unwrap().unwrap(), 200);
    eventually("it has ended", || stage.balancer.ended()).await;
}

#[tokio::test]
async fn curl_speaks_both_versions_of_http_to_it() {
    let gate = Gate::new();
    let stage = gate.scene().start();
    let ca = gate.path().join("ca.pem");
    std::fs::write(&ca, gate.authority.pem()).unwrap();
    let port = stage.balancer.address().port();
    for (version, told) in [("--http2", "2 200"), ("--http1.1", "1.1 200")] {
        let mut curl = std::process::Command::new("curl");
        curl.args(["-sS", version, "--cacert"])
            .arg(&ca)
            .args(["--connect-to", &format!("localhost:{port}:127.0.0.1:{port}")])
            .args(["-o", "/dev/null", "-w", "%{http_version} %{http_code}"])
            .args(["-H", "content-type: application/json", "-d", QUESTION])
            .arg(format!("https://localhost:{port}{CHAT}"));
        let curl = tokio::task::spawn_blocking(move || curl.output()).await.unwrap();
        // Not everywhere there is one.
        let Ok(curl) = curl else { return };
        assert_eq!(String::from_utf8_lossy(&curl.stdout), told, "{}", String::from_utf8_lossy(&curl.stderr));
    }
}
