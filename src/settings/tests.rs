//! What a user sees: whole messages, the drop-in variables, the shipped files; and that no secret is shown.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::*;
use crate::balance::Deployments;

pub(super) const KEY: &str = "0123456789abcdef";

pub(super) fn text(toml: &str) -> Source {
    Source::Text { file: PathBuf::from("sidestep.toml"), text: toml.to_owned() }
}

pub(super) fn variables(pairs: &[(&str, &str)]) -> Environment {
    Environment::new(pairs.iter().copied())
}

pub(super) fn from_environment(pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let empty = tempfile::tempdir().unwrap();
    load(&Source::Folder(empty.path().to_owned()), &variables(pairs))
}

/// A file with one good backend and `more` before it.
pub(super) fn with_backend(more: &str) -> Result<Settings, SettingsError> {
    with_backend_and(more, &[])
}

pub(super) fn with_backend_and(more: &str, pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let backend = format!("[[backends]]\nurl = \"https://west.openai.azure.com\"\napi_key = \"{KEY}\"\n");
    load(&text(&format!("{more}\n{backend}")), &variables(pairs))
}

pub(super) fn keys(result: &Result<Settings, SettingsError>) -> Vec<&str> {
    match result {
        Ok(_) => Vec::new(),
        Err(error) => error.problems().iter().map(|problem| problem.key.as_str()).collect(),
    }
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn golden(name: &str) {
    let folder = repository("tests/it/golden/settings");
    let toml = std::fs::read_to_string(folder.join(name).with_extension("toml")).unwrap();
    let environment = variables(&[("PASSWORD", "hunter2 hunter2")]);
    let told = load(&text(&toml), &environment).unwrap_err();
    let expected = std::fs::read_to_string(folder.join(name).with_extension("txt")).unwrap_or_default();
    assert_eq!(told.to_string(), expected, "the message of {name}.toml; it now reads:\n{told}");
    let shown = format!("{told}{told:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("22222"), "a secret is shown:\n{shown}");
}

#[test]
fn misspelt_words_are_answered_with_the_nearest_known_one() {
    golden("typos");
}

#[test]
fn each_wrong_value_is_answered_with_what_would_be_right() {
    golden("values");
}

#[test]
fn unsafe_addresses_and_headers_are_refused_with_the_reason() {
    golden("doors");
}

#[test]
fn backends_that_cannot_work_together_are_refused() {
    golden("backends");
}

#[test]
fn one_backend_is_home_the_first_if_none_says_so() {
    let backend = |name: &str, more: &str| {
        let url = format!("https://{name}.openai.azure.com");
        format!("[[backends]]\nname = {name:?}\nurl = {url:?}\napi_key = \"{KEY}\"\n{more}\n")
    };
    let file = |first: &str, second: &str, third: &str| {
        let backends = [backend("a", first), backend("b", second), backend("c", third)].concat();
        load(&text(&format!("[limits]\nids = 500\n{backends}")), &variables(&[]))
    };
    let settings = file("", "home = false", "").unwrap();
    assert_eq!((settings.pins.home, settings.pins.ids), (0, 500));
    assert!(!describe(&settings).contains("home"));
    let settings = file("home = false", "", "home = true").unwrap();
    assert_eq!(settings.pins.home, 2);
    let home = |line: &&str| line.contains("home");
    assert_eq!(describe(&settings).lines().find(home).unwrap().split_whitespace().next(), Some("c"));
    let told = file("home = true", "", "home = true");
    assert_eq!(keys(&told), ["backends[2].home"]);
    let told = told.unwrap_err().to_string();
    assert!(told.contains("line 17") && told.contains("backend a is it already"), "{told}");
}

#[test]
fn wrong_secrets_are_told_without_being_shown() {
    golden("secrets");
}

#[test]
fn a_text_that_is_not_toml_is_told_by_its_lines() {
    golden("not-toml");
}

#[test]
fn with_nothing_set_the_message_shows_the_lines_to_set() {
    let told = from_environment(&[("PATH", "/bin"), ("SIDESTEP_LISTEN", "0.0.0.0:8080")]).unwrap_err();
    assert_eq!(told, SettingsError::Nothing);
    // A misspelt variable is something, and must not hide behind that message.
    assert_eq!(keys(&from_environment(&[("BACKEND_1_URI", "https://west")])), ["BACKEND_1_URI", "backends"]);
    for word in ["BACKEND_1_URL=", "BACKEND_1_APIKEY=", "[[backends]]", "sidestep demo"] {
        assert!(told.to_string().contains(word), "{word} is missing");
    }
}

#[test]
fn what_a_variable_holds_is_not_repeated_as_what_was_expected() {
    for line in ["path_prefix = \"${X}\"", "listen = \":${X}\"", "listen = \"localhost:${X}\""] {
        let told = with_backend_and(&format!("[server]\n{line}"), &[("X", "hunter2")]).unwrap_err();
        assert_eq!(told.problems().len(), 1, "{told}");
        assert!(!format!("{told}{told:?}").contains("hunter2"), "{told}");
    }
}

#[test]
fn names_that_a_path_or_a_multipart_body_would_read_otherwise_are_refused() {
    for name in ["..", ".", ".a", "-", "--boundary"] {
        for line in [format!("{name:?} = \"gpt-4o\""), format!("\"gpt-4o\" = {name:?}")] {
            let backend = "url = \"https://west.openai.azure.com\"\napi_key = \"0123456789abcdef\"\n";
            let file = format!("[[backends]]\n{backend}deployments = {{ {line} }}\n");
            assert_eq!(
                load(&text(&file), &Environment::default()).map(|_| ()).unwrap_err().problems().len(),
                1
            );
        }
    }
    let told = from_environment(&[
        ("BACKEND_1_URL", "https://west.openai.azure.com"),
        ("BACKEND_1_APIKEY", KEY),
        ("BACKEND_1_DEPLOYMENT_NAME", ".."),
    ]);
    assert_eq!(keys(&told), ["BACKEND_1_DEPLOYMENT_NAME"]);
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let result = load(&Source::File("/nonexistent/sidestep.toml".into()), &variables(&[]));
    assert_eq!(keys(&result), ["--config"]);
    assert_eq!(keys(&from_environment(&[("SIDESTEP_CONFIG", "/nonexistent.toml")])), ["SIDESTEP_CONFIG"]);
}

#[test]
fn the_file_is_found_in_the_folder_unless_the_environment_names_another() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, host: &str| {
        let toml = format!("[[backends]]\nurl = \"https://{host}\"\napi_key = \"${{file:key}}\"");
        std::fs::write(folder.path().join(name), toml).unwrap();
    };
    write("sidestep.toml", "here");
    write("other.toml", "other");
    std::fs::write(folder.path().join("key"), "from-a-file\r\n").unwrap();
    let source = Source::Folder(folder.path().to_owned());
    let here = load(&source, &variables(&[])).unwrap();
    assert_eq!(&*here.pool.backends[0].name, "here");
    let Credential::ApiKey(key) = &here.upstreams[0].credential else { panic!("a key") };
    assert_eq!(key.expose_secret(), "from-a-file");
    let other = folder.path().join("other.toml");
    let named = load(&source, &variables(&[("SIDESTEP_CONFIG", other.to_str().unwrap())])).unwrap();
    assert_eq!(&*named.pool.backends[0].name, "other");
}

#[test]
fn variables_of_the_other_balancer_work_as_they_are() {
    let settings = from_environment(&[
        ("BACKEND_10_URL", "https://ten.openai.azure.com/"),
        ("BACKEND_10_APIKEY", " key-ten "),
        ("BACKEND_2_URL", " https://two.openai.azure.com// "),
        ("BACKEND_2_PRIORITY", " 3 "),
        ("BACKEND_2_APIKEY", "key-two"),
        ("BACKEND_2_DEPLOYMENT_NAME", "gpt-4o-there"),
        ("BACKEND_3_URL", "  "),
        ("BACKEND_3_APIKEY", ""),
        ("BACKEND_1_SERVICE_HOST", "10.0.0.1"),
        ("BACKEND_1_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("BACKEND_URL", "of another program"),
        ("HTTP_TIMEOUT_SECONDS", "100"),
    ])
    .unwrap();
    let names: Vec<&str> = settings.pool.backends.iter().map(|backend| &*backend.name).collect();
    assert_eq!(names, ["two", "ten"]);
    assert_eq!(&*settings.pool.backends[0].url, "https://two.openai.azure.com");
    let priorities: Vec<u32> = settings.pool.backends.iter().map(|backend| backend.priority).collect();
    assert_eq!(priorities, [3, 1]);
    assert_eq!(settings.pool.backends[0].deployments, Deployments::AllAs("gpt-4o-there".into()));
    assert_eq!(settings.pool.backends[1].deployments, Deployments::Any);
    let Credential::ApiKey(key) = &settings.upstreams[1].credential else { panic!("a key") };
    assert_eq!(key.expose_secret(), "key-ten");
    let hundred = Some(Duration::from_secs(100));
    assert_eq!(settings.proxy.first_byte_timeout, hundred);
    assert_eq!(settings.proxy.first_event_timeout, hundred);
    assert_eq!(settings.proxy.stream_idle_timeout, hundred);
}

#[test]
fn wrong_variables_of_the_other_balancer_are_named() {
    let result = from_environment(&[
        ("BACKEND_1_URL", "west"),
        ("BACKEND_1_APIKEY", KEY),
        ("BACKEND_1_PRIORITY", "high"),
        ("BACKEND_2_APIKEY", KEY),
        ("BACKEND_3_URL", "https://three"),
        ("BACKEND_4_URL", "https://four"),
        ("BACKEND_4_API_KEY", KEY),
        ("BACKEND_4_DEPLOYMENT_NAME", "gpt/4o"),
        ("HTTP_TIMEOUT_SECONDS", "0"),
    ]);
    let mut named = keys(&result);
    named.sort_unstable();
    let expected = [
        "BACKEND_1_PRIORITY",
        "BACKEND_1_URL",
        "BACKEND_2_URL",
        "BACKEND_4_API_KEY",
        "BACKEND_4_DEPLOYMENT_NAME",
        "HTTP_TIMEOUT_SECONDS",
    ];
    assert_eq!(named, expected);
    let told = result.unwrap_err().to_string();
    assert!(told.contains("the nearest is BACKEND_4_APIKEY"), "{told}");
    assert!(told.contains("not set, though BACKEND_2_APIKEY is"), "{told}");
    assert!(!told.contains(KEY), "{told}");
}

#[test]
fn backends_in_both_places_are_refused() {
    let result = with_backend_and("", &[("BACKEND_1_URL", "https://one"), ("BACKEND_1_APIKEY", "one")]);
    assert_eq!(keys(&result), ["backends"]);
}

#[test]
fn the_environment_goes_over_the_file() {
    let file = "[server]\nlisten = \"127.0.0.1:1\"\nadmin_listen = \"off\"\n[log]\nlevel = \"warn\"\n[callers]\nanonymous = true";
    let pairs = [
        ("SIDESTEP_LISTEN", "0.0.0.0:2"),
        ("SIDESTEP_ADMIN_LISTEN", "0.0.0.0:3"),
        ("SIDESTEP_ADMIN_TOKEN", "0123456789abcdefg"),
        ("SIDESTEP_ANONYMOUS", "false"),
        ("SIDESTEP_CALLER_KEYS", "aaaaaaaaaaaaaaaa, bbbbbbbbbbbbbbbb,"),
        ("SIDESTEP_LOG", "debug"),
        ("SIDESTEP_LOG_FORMAT", "json"),
        ("SIDESTEP_CALLER_KEY", "cccccccccccccccc"),
        ("SIDESTEP_PORT_8080_TCP_ADDR", "10.0.0.1"),
    ];
    let settings = with_backend_and(file, &pairs).unwrap();
    assert_eq!(settings.listen.to_string(), "0.0.0.0:2");
    assert_eq!(settings.admin_listen.unwrap().to_string(), "0.0.0.0:3");
    assert!(!settings.callers.anonymous);
    let names: Vec<&str> = settings.callers.keys.iter().map(|key| &*key.name).collect();
    assert_eq!(names, ["key-1", "key-2"]);
    assert_eq!(settings.log.level, "debug");
    assert_eq!(settings.drain_delay, Duration::from_secs(5));
    assert_eq!(settings.notes.len(), 1, "{:?}", settings.notes);
    assert!(settings.notes[0].contains("SIDESTEP_CALLER_KEYS is"), "{:?}", settings.notes);
}

#[test]
fn beyond_loopback_it_must_be_said_who_may_call() {
    let open = [("SIDESTEP_LISTEN", "0.0.0.0:8080")];
    let told = with_backend_and("", &open).unwrap_err().to_string();
    assert!(told.contains("SIDESTEP_CALLER_KEYS") && told.contains("SIDESTEP_ANONYMOUS"), "{told}");
    let anonymous = with_backend_and("", &[open[0], ("SIDESTEP_ANONYMOUS", "true")]).unwrap();
    assert!(anonymous.notes.iter().any(|note| note.starts_with("unsafe")), "{:?}", anonymous.notes);
    let keyed = with_backend_and("", &[open[0], ("SIDESTEP_CALLER_KEYS", KEY)]).unwrap();
    assert!(keyed.notes.is_empty());
    assert_eq!(with_backend("").unwrap().drain_delay, Duration::ZERO);
}

#[test]
fn listeners_that_would_meet_are_refused_and_port_zero_never_meets() {
    let both = |listen: &str, admin: &str| {
        let file = format!(
            "[server]\nlisten = \"{listen}\"\nadmin_listen = \"{admin}\"\nadmin_token = \"{KEY}\"\n[callers]\nanonymous = true"
        );
        with_backend(&file).is_ok()
    };
    assert!(!both("127.0.0.1:80", "127.0.0.1:80"));
    assert!(!both("0.0.0.0:80", "127.0.0.1:80"));
    assert!(!both("127.0.0.1:9080", "0.0.0.0:9080"));
    assert!(both("127.0.0.1:0", "127.0.0.1:0"));
    assert!(both("127.0.0.1:80", "127.0.0.2:80"));
    assert_eq!(keys(&with_backend("[server]\nlisten = \"127.0.0.1:9080\"")), ["server.listen"]);
}

#[test]
fn addresses_are_taken_as_people_paste_them() {
    for (pasted, url, name, notes) in [
        ("https://West.openai.azure.com/", "https://west.openai.azure.com", "west", 0),
        ("https://west.openai.azure.com/openai/v1/", "https://west.openai.azure.com", "west", 1),
        (
            "https://w.openai.azure.com/openai/deployments/d/chat/completions?api-version=1",
            "https://w.openai.azure.com",
            "w",
            1,
        ),
        (
            "https://gateway.example:8443//team//llm/openai",
            "https://gateway.example:8443/team/llm",
            "gateway",
            1,
        ),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000", "127.0.0.1-9000", 0),
        ("http://[::1]:9000", "http://[::1]:9000", "--1-9000", 0),
        ("http://gateway", "http://gateway", "gateway", 1),
        ("https://openai.example/prefix", "https://openai.example/prefix", "openai", 0),
    ] {
        let toml = format!("[[backends]]\nurl = \"{pasted}\"\napi_key = \"{KEY}\"");
        let settings = load(&text(&toml), &variables(&[])).unwrap();
        let backend = &settings.pool.backends[0];
        assert_eq!((&*backend.url, &*backend.name, settings.notes.len()), (url, name, notes), "{pasted}");
    }
    for refused in [
        "",
        "west",
        "ftp://west",
        "https://",
        "https://a b",
        "https://west:0",
        "https://west:99999",
        "https://[::1",
        "https://[::1]x",
        "https://user@west",
        "https://west?key=1",
        "https://west/#top",
        "https://west/../x",
        "https://west/%2e",
        "https://.west",
        "https://::1",
    ] {
        let toml = format!("[[backends]]\nurl = \"{refused}\"\napi_key = \"{KEY}\"");
        assert_eq!(keys(&load(&text(&toml), &variables(&[]))), ["backends[0].url"], "{refused}");
    }
}

#[test]
fn names_are_made_unique_and_a_given_name_goes_first() {
    let toml = format!(
        "backends = [\n{{ url = \"https://a.one\", api_key = \"{KEY}\" }},\n{{ url = \"https://a.two\", api_key = \"{KEY}\" }},\n\
         {{ name = \"a\", url = \"https://b\", api_key = \"{KEY}\" }}]"
    );
    let settings = load(&text(&toml), &variables(&[])).unwrap();
    let names: Vec<&str> = settings.pool.backends.iter().map(|backend| &*backend.name).collect();
    assert_eq!(names, ["a-2", "a-3", "a"]);
}

#[test]
fn one_quota_behind_two_backends_is_refused_with_one_key_and_noted_with_two() {
    let pair = |first: &str, second: &str, second_key: &str| {
        let toml = format!(
            "[[backends]]\nurl = \"https://a\"\napi_key = \"{KEY}\"\n{first}\n[[backends]]\nurl = \"https://a/\"\napi_key = \"{second_key}\"\n{second}\n"
        );
        load(&text(&toml), &variables(&[])).map(|settings| settings.notes.len())
    };
    assert!(pair("", "", KEY).is_err());
    assert_eq!(pair("", "", "another key".replace(' ', "-").as_str()), Ok(1));
    assert!(pair("deployments = { a = 'x' }", "deployments = { b = 'x' }", KEY).is_err());
    assert_eq!(pair("deployments = { a = 'x' }", "deployments = { a = 'y' }", KEY), Ok(0));
    assert!(pair("deployments = { a = 'a' }", "", KEY).is_err());
    assert_eq!(pair("deployments = { a = 'b' }", "", KEY), Ok(0));
}

#[test]
fn strings_are_filled_from_the_environment_and_only_once() {
    let file = "[server]\npath_prefix = \"/${TEAM}/$$x\"";
    let settings = with_backend_and(file, &[("TEAM", "blue")]).unwrap();
    assert_eq!(settings.proxy.path_prefix, "/blue/$$x");
    for (written, environment) in [("/${NONE}", ""), ("/${", ""), ("/${}", ""), ("/${TEAM}", "${TEAM}")] {
        let file = format!("[server]\npath_prefix = \"{written}\"");
        let result = with_backend_and(&file, &[("TEAM", environment)]);
        assert_eq!(keys(&result), ["server.path_prefix"], "{written}");
    }
    // A plain `${` can be written; here it is a character that paths do not have.
    let told = with_backend("[server]\npath_prefix = \"/$${x}\"").unwrap_err().to_string();
    assert!(told.contains("a plain path"), "{told}");
}

#[test]
fn bounds_that_pass_each_other_are_refused_where_they_were_set() {
    assert_eq!(keys(&with_backend("[retry]\nconnect_timeout = \"20m\"")), ["retry.connect_timeout"]);
    assert_eq!(keys(&with_backend("[retry]\ndeadline = \"2s\"")), ["retry.deadline"]);
    assert_eq!(keys(&with_backend("[retry]\nhold = \"10m\"")), ["retry.hold"]);
    assert_eq!(keys(&with_backend("[limits]\nbuffered = \"32MiB\"")), ["limits.buffered"]);
    assert_eq!(keys(&with_backend("[limits]\nrequest_hard_limit = \"1MiB\"")), ["limits.request_hard_limit"]);
}

#[test]
fn toml_is_read_in_all_its_spellings() {
    let file = "\u{feff}server.listen = '127.0.0.1:1'\r\n[limits]\r\nconnections = 20_000\r\nlanes = 0x10\r\n\
                [[backends]]\r\nurl = 'https://east'\r\napi_key = 'k'\r\n[backends.deployments]\r\n\
                \"gpt-4.1\" = \"there\"\r\n";
    let settings = with_backend(file).unwrap();
    assert_eq!(settings.listen.port(), 1);
    assert_eq!(settings.server.connections.get(), 20_000);
    assert_eq!(settings.pool.lanes, 16);
    let names = [("gpt-4.1".to_owned(), "there".to_owned())];
    assert_eq!(settings.pool.backends[0].deployments, Deployments::Named(names.into()));
    let told = with_backend(&file.replace("\"gpt-4.1\"", "gpt-4.1")).unwrap_err();
    assert_eq!(told.problems()[0].key, "backends[0].deployments.gpt-4");
    assert!(told.to_string().contains("stands in quotes"), "{told}");
}

#[test]
fn deep_and_strange_structures_are_refused_without_harm() {
    let deep = format!("a = {}1{}", "[".repeat(20_000), "]".repeat(20_000));
    assert!(load(&text(&deep), &variables(&[])).is_err());
    for value in ["[1]", "{ a = 1 }", "[{ a = [] }]", "1979-05-27", "nan", "99999999999999999999999"] {
        for key in ["server", "server.listen", "callers.keys", "backends", "retry.deadline", "limits.lanes"] {
            assert!(load(&text(&format!("{key} = {value}")), &variables(&[])).is_err(), "{key} = {value}");
        }
    }
    assert_eq!(keys(&load(&text("backends = []"), &variables(&[]))), ["backends"]);
    assert_eq!(keys(&load(&text(""), &variables(&[]))), ["backends"]);
}

#[test]
fn a_key_put_where_the_address_belongs_is_not_shown() {
    let key = "0123456789abcdef0123456789abcdef";
    let toml = format!("[[backends]]\nurl = \"{key}\"\napi_key = \"https://west.openai.azure.com\"");
    for told in [
        load(&text(&toml), &variables(&[])).unwrap_err(),
        from_environment(&[("BACKEND_1_URL", key), ("BACKEND_1_APIKEY", "https://west")]).unwrap_err(),
    ] {
        assert!(!format!("{told}{told:?}").contains(key), "{told}");
        assert!(told.to_string().contains("****"), "{told}");
    }
}

#[test]
fn the_reference_file_shows_every_key_with_its_default() {
    let path = repository("config/sidestep.toml");
    let settings = load(&Source::File(path.clone()), &variables(&[])).unwrap();
    let described = describe(&settings);
    assert!(!described.contains("otherwise than by default"), "{described}");
    assert!(settings.notes.is_empty(), "{:?}", settings.notes);

    let reference = std::fs::read_to_string(path).unwrap();
    let unknown = "zzz = 1\n[server]\nzzz = 1\n[callers]\nzzz = 1\n[[callers.keys]]\nzzz = 1\n[callers.entra]\nzzz = 1\n[[backends]]\nzzz = 1\n\
                   [retry]\nzzz = 1\n[upstream]\nzzz = 1\n[limits]\nzzz = 1\n[log]\nzzz = 1\n[traces]\nzzz = 1";
    let told = load(&text(unknown), &variables(&[])).unwrap_err();
    let lists = told.problems().iter().filter_map(|p| p.expected.strip_prefix("one of the known keys: "));
    let known: Vec<&str> = lists.flat_map(|list| list.split(", ")).collect();
    assert!(known.len() > 40, "{known:?}");
    for key in known {
        let stands = |line: &str| {
            let line = line.trim_start_matches(['#', '[']);
            let line = line.strip_prefix("callers.").unwrap_or(line);
            line.strip_prefix(key).is_some_and(|rest| rest.starts_with([' ', ']', '.']))
        };
        assert!(reference.lines().any(stands), "{key} is missing in config/sidestep.toml");
    }
}

#[test]
fn what_is_commented_out_in_the_reference_file_is_right_too() {
    let reference = std::fs::read_to_string(repository("config/sidestep.toml")).unwrap();
    let whole: Vec<&str> = reference
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest,
            _ => line,
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let pem = "-----BEGIN CERTIFICATE-----\n";
    std::fs::write(folder.path().join("company-ca.pem"), pem).unwrap();
    certificate_in(folder.path());
    let source = Source::Text { file: folder.path().join("sidestep.toml"), text: whole.join("\n") };
    let environment = variables(&[("ADMIN_TOKEN", KEY), ("CHAT_APP_KEY", KEY), ("CLIENT_SECRET", KEY)]);
    let settings = load(&source, &environment).unwrap();
    assert!(matches!(settings.upstreams[2].credential, Credential::Token(_)));
    assert_eq!(&*settings.callers.keys[0].name, "chat-app");
    let entra = settings.callers.entra.unwrap();
    assert_eq!(
        (entra.audiences, entra.authority),
        (defaults::AUDIENCES.map(str::to_owned).to_vec(), defaults::AUTHORITY.to_owned())
    );
    assert_eq!(settings.upstream.ca_file, Some(folder.path().join("company-ca.pem")));
    assert!(settings.tls.is_some());
}

/// `tls.crt`, `tls.key`, and the key alone in `other.key`, which is another's.
fn certificate_in(folder: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    std::fs::write(folder.join("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("other.key"), other).unwrap();
    made.signing_key.serialize_pem()
}

#[test]
fn a_certificate_is_taken_from_files_or_from_the_text_and_described_without_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let key = certificate_in(folder.path());
    let backend = format!("[[backends]]\nurl = \"https://west.openai.azure.com\"\napi_key = \"{KEY}\"\n");
    for (written, shown) in [
        ("\"tls.key\"", folder.path().join("tls.key").display().to_string()),
        ("\"${TLS_KEY}\"", "the settings".to_owned()),
        ("\"${file:tls.key}\"", "the settings".to_owned()),
    ] {
        let toml = format!("[server]\ntls = {{ certificate = \"tls.crt\", key = {written} }}\n{backend}");
        let source = Source::Text { file: folder.path().join("sidestep.toml"), text: toml };
        let settings = load(&source, &variables(&[("TLS_KEY", &key)])).unwrap();
        let told = describe(&settings);
        assert!(told.contains("callers      https://127.0.0.1:8080\n"), "{told}");
        assert!(told.contains(&format!("tls.crt, its key in {shown}\n")), "{told}");
        let secret = key.lines().nth(1).unwrap();
        assert!(!format!("{told}{settings:?}{source:?}").contains(secret));
    }
}

#[test]
fn a_certificate_that_cannot_be_used_is_told_with_its_key_path_and_file() {
    let folder = tempfile::tempdir().unwrap();
    let key = certificate_in(folder.path());
    let body = key.lines().nth(1).unwrap();
    let backend = format!("[[backends]]\nurl = \"https://west.openai.azure.com\"\napi_key = \"{KEY}\"\n");
    let expected_of = |tls: &str, path: &str, found: &str, expected: &str| {
        let toml = format!("[server]\ntls = {{ {tls} }}\n{backend}");
        let source = Source::Text { file: folder.path().join("sidestep.toml"), text: toml };
        let told = load(&source, &variables(&[("BODY", &format!("{body}\n{body}"))])).unwrap_err();
        assert_eq!(told.problems().len(), 1, "{told}");
        let problem = &told.problems()[0];
        assert_eq!(problem.key, path);
        assert!(problem.found.contains(found) && problem.expected.contains(expected), "{told}");
        assert!(!format!("{told}{told:?}").contains(body), "{told}");
    };
    let both = |certificate: &str, key: &str| format!("certificate = \"{certificate}\", key = \"{key}\"");
    let key_path = "server.tls.key";
    expected_of(&both("tls.crt", "other.key"), key_path, "other.key", "the key of the certificate in");
    expected_of(&both("tls.crt", "none.key"), key_path, "none.key", "a readable PEM file");
    expected_of(&both("tls.crt", "tls.crt"), key_path, "tls.crt", "a private key (PKCS#8, PKCS#1 or SEC1)");
    expected_of(&both("tls.crt", "${BODY}"), key_path, MASKED, "the path of a PEM file, or its content");
    expected_of(&both("none.crt", "tls.key"), "server.tls.certificate", "none.crt", "a readable PEM file");
    expected_of(&both("tls.key", "tls.key"), "server.tls.certificate", "tls.key", "BEGIN CERTIFICATE");
    expected_of("certificate = \"tls.crt\"", key_path, "nothing", "the path of a PEM file");
    expected_of(&both("tls.crt", "tls.key\", keys = \""), "server.tls.keys", "an unknown key", "`key`");
}

/// What stands for a secret.
const MASKED: &str = "****";

#[test]
fn a_file_of_roots_is_read_no_further_than_its_bound() {
    let folder = tempfile::tempdir().unwrap();
    let with = |path: String| with_backend(&format!("[upstream]\nca_file = \"{path}\""));
    let roots = folder.path().join("roots.pem");
    let pem = "-----BEGIN CERTIFICATE-----\n";
    for (length, good) in [(4 << 20, true), ((4 << 20) + 1, false)] {
        std::fs::write(&roots, pem.to_owned() + &"x".repeat(length - pem.len())).unwrap();
        assert_eq!(with(roots.display().to_string()).is_ok(), good, "{length} bytes");
    }
    // A device without end.
    let told = with("/dev/zero".to_owned()).unwrap_err().to_string();
    assert!(told.contains("at most 4MiB"), "{told}");
}

#[test]
fn every_shipped_settings_file_loads() {
    let mut loaded = 0;
    for entry in std::fs::read_dir(repository("config")).unwrap() {
        let path = entry.unwrap().path();
        let simulator = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("simulate"));
        if path.extension().is_some_and(|extension| extension == "toml") && !simulator {
            load(&Source::File(path), &variables(&[])).unwrap();
            loaded += 1;
        }
    }
    assert!(loaded >= 2);
}

#[test]
fn what_was_understood_is_described() {
    let toml = format!(
        "[server]\nlisten = \"0.0.0.0:8080\"\ndrain_timeout = \"20s\"\n[limits]\nbuffered = \"256MiB\"\n\
         [callers]\nkeys = [{{ name = \"chat\", key = \"{KEY}\" }}]\n\
         [[backends]]\nurl = \"https://west.openai.azure.com\"\napi_key = \"{KEY}\"\nweight = 3\n\
         [[backends]]\nurl = \"http://gateway.example/openai\"\napi_key = \"{KEY}\"\npriority = 2\n\
         deployments = {{ \"gpt-4o\" = \"four\", \"emb\" = \"emb\" }}\n"
    );
    let described = describe(&load(&text(&toml), &variables(&[])).unwrap());
    let expected = "\
callers      http://0.0.0.0:8080
operators    http://127.0.0.1:9080
may call     who has one of the keys of chat

backends of priority 1
  west  https://west.openai.azure.com  api key ****, weight 3, every deployment

backends of priority 2
  gateway  http://gateway.example  api key ****, emb, gpt-4o (there: four)

set otherwise than by default
  server.drain_timeout = 20s (default 25s)
  limits.buffered = 256MiB (default 1GiB)

to know
  backend gateway: `/openai…` was cut from the end of its address, leaving http://gateway.example; requests bring their own path
  unsafe: backend gateway is called over plain http, so its key and all content can be read on the way
";
    assert_eq!(described, expected);
}

#[test]
fn nothing_that_prints_settings_prints_a_secret() {
    let secret = "very-secret-0123456789";
    let toml = format!(
        "[server]\nadmin_token = \"{secret}-a\"\n[callers]\nkeys = [{{ key = \"{secret}-b\" }}]\n\
         [[backends]]\nurl = \"https://west\"\napi_key = \"${{KEY}}\""
    );
    let (source, environment) = (text(&toml), variables(&[("KEY", secret)]));
    let settings = load(&source, &environment).unwrap();
    let printed = format!("{settings:?}{}{source:?}{environment:?}", describe(&settings));
    assert!(!printed.contains(secret), "{printed}");
}

#[test]
fn a_log_level_is_what_the_log_itself_understands() {
    for level in ["debug", " warn, sidestep::proxy=trace ", "OFF"] {
        assert!(with_backend(&format!("[log]\nlevel = \"{level}\"")).is_ok(), "{level}");
    }
    for level in ["", "inof", "sidestep=loud", "[span]", "info,sidestep[{id=7}]=debug"] {
        let result = with_backend(&format!("[log]\nlevel = \"{level}\""));
        assert_eq!(keys(&result), ["log.level"], "{level}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(toml in any::<String>(), values in any::<[String; 3]>()) {
        let _ = load(&text(&toml), &variables(&[]));
        let [a, b, c] = values;
        let _ = from_environment(&[
            ("BACKEND_1_URL", &a), ("BACKEND_1_PRIORITY", &b), ("BACKEND_1_DEPLOYMENT_NAME", &c),
            ("SIDESTEP_LISTEN", &a), ("SIDESTEP_LOG", &b), ("SIDESTEP_CALLER_KEYS", &c),
        ]);
    }

    #[test]
    fn no_value_makes_a_key_panic(value in "[ -~\n]{0,24}|[0-9]{1,20}[a-zA-Z]{1,4}|https?://[a-z0-9:@/?#\\[\\]é.]{0,20}", key in 0..8usize) {
        let keys = [
            "[server]\nlisten", "[server]\npath_prefix", "[retry]\ndeadline", "[limits]\nbuffered",
            "[log]\nlevel", "[callers]\norigins", "[server]\nworkers", "[[backends]]\nurl",
        ];
        let _ = load(&text(&format!("{} = {value}", keys[key])), &variables(&[]));
        let _ = load(&text(&format!("{} = {value:?}", keys[key])), &variables(&[]));
    }

    #[test]
    fn a_wrong_secret_is_never_told(secret in "[b-df-hj-np-tv-z]{8,15}", slot in 0..7usize) {
        let toml = match slot {
            0 => format!("[server]\nadmin_token = \"{secret}\""),
            1 => format!("[[callers.keys]]\nkey = \"{secret}\""),
            2 => format!("[[backends]]\nurl = \"https://a\"\napi_key = \"{secret} {secret}\""),
            3 => format!("[[backends]]\nurl = \"https://{secret}@a\""),
            4 => format!("[[backends]]\nurl = \"https://a/?api-key={secret}\""),
            5 => format!("[callers]\nkeys = \"{secret}\""),
            _ => format!("[server]\nadmin_token = \"{secret}"),
        };
        let told = load(&text(&toml), &variables(&[("SIDESTEP_CALLER_KEYS", &secret)])).unwrap_err();
        prop_assert!(!format!("{told}{told:?}").contains(&secret), "{}", told);
    }
}
