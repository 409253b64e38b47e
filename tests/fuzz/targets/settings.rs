//! A settings file and an environment are refused with reasons or understood; neither shows a secret, and what was
//! understood keeps every promise of `Settings`.
//!
//! Input: the file, `---` on a line, `NAME=value` lines. `${SECRET}` and `${file:secret}` stand for a secret in both.
#![no_main]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use secrecy::ExposeSecret;
use sidestep::balance::Deployments;
use sidestep::identity::Credential;
use sidestep::openai::is_deployment_name;
use sidestep::settings::{Environment, Settings, Source, describe, load};
use sidestep_fuzz::pieces;

/// Two runs of letters as in Azure's keys, and between them what no name, path, origin or header has: where this is
/// shown, a secret is.
const SECRET: &str = "Zq8RtWv3KpLm7XcNb2YhJd5F<Mw4GsTe9QaUi6PoBv1LkHx3C";

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // No other files: some never end.
    if text.replace("${file:secret}", "").contains("file") || text.contains("CONFIG") || leaks(text) {
        return;
    }
    let pieces = pieces(data);
    let piece =
        |at: usize| pieces.get(at).and_then(|piece| std::str::from_utf8(piece).ok()).unwrap_or_default();
    let variables = piece(1).lines().filter_map(|line| line.split_once('='));
    let variables = variables.map(|(name, value)| (name.to_owned(), value.replace("${SECRET}", SECRET)));
    let environment = Environment::new(variables.chain([("SECRET".to_owned(), SECRET.to_owned())]));
    let source = match piece(0) {
        "" => Source::Folder(folder().clone()),
        text => Source::Text { file: folder().join("sidestep.toml"), text: text.to_owned() },
    };
    match load(&source, &environment) {
        Err(error) => {
            let told = format!("{error}\n{error:?}");
            assert!(!leaks(&told), "{told}");
        }
        Ok(settings) => {
            kept(&settings);
            // Directives may name anything as the module they are for.
            if !leaks(&settings.log.level) {
                let told = format!("{}\n{settings:?}", describe(&settings));
                assert!(!leaks(&told), "{told}");
            }
        }
    }
});

// Half of the time whole lines: what goes wrong between two settings needs both, and each of them right.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut rng = fastrand::Rng::with_seed(seed.into());
    if rng.bool() {
        return fuzzer_mutate(data, size, max_size);
    }
    let mut lines: Vec<Vec<u8>> = data[..size].split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(0..=lines.len());
        match rng.u8(0..3) {
            0 if at < lines.len() => drop(lines.remove(at)),
            1 if at < lines.len() => {
                let line = lines.remove(at);
                lines.insert(rng.usize(0..=lines.len()), line);
            }
            _ => lines.insert(at, rng.choice(vocabulary()).copied().unwrap_or_default().to_vec()),
        }
    }
    let text = lines.join(&b'\n');
    let size = text.len().min(max_size);
    data[..size].copy_from_slice(&text[..size]);
    size
});

/// Lines that mean something: the reference file shows every key, commented out or not.
fn vocabulary() -> &'static [&'static [u8]] {
    static LINES: OnceLock<Vec<&[u8]>> = OnceLock::new();
    const FILE: &str = include_str!("../../../config/sidestep.toml");
    const MORE: [&str; 3] = [
        include_str!("../seeds/settings/environment-alone"),
        include_str!("../seeds/settings/file-and-environment"),
        include_str!("../seeds/settings/open-doors"),
    ];
    LINES.get_or_init(|| {
        let settings = FILE.lines().map(|line| line.strip_prefix('#').unwrap_or(line));
        let settings = settings.filter(|line| !line.starts_with(' ') && !line.is_empty());
        settings.chain(MORE.into_iter().flat_map(str::lines)).map(str::as_bytes).collect()
    })
}

fn leaks(text: &str) -> bool {
    SECRET.split('<').any(|half| text.contains(half))
}

/// With a file `secret` in it, and no settings file.
fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = std::env::temp_dir().join("sidestep-fuzz-settings");
        std::fs::create_dir_all(&folder).expect("a folder for one file");
        std::fs::write(folder.join("secret"), format!("{SECRET}\n")).expect("one small file");
        folder
    })
}

/// Nobody checks again after `load`.
fn kept(settings: &Settings) {
    let callers = &settings.callers;
    let someone = callers.anonymous || !callers.keys.is_empty();
    assert!(settings.listen.ip().is_loopback() || someone, "an open door");
    if let Some(admin) = settings.admin_listen {
        assert!(admin.ip().is_loopback() || settings.admin_token.is_some(), "an open door for operators");
    }
    let backends = &settings.pool.backends;
    assert!(!backends.is_empty() && backends.len() == settings.upstreams.len());
    let names: BTreeSet<&str> = backends.iter().map(|backend| &*backend.name).collect();
    assert_eq!(names.len(), backends.len());
    for backend in backends {
        match &backend.deployments {
            Deployments::Any => {}
            Deployments::AllAs(there) => assert!(may_be_sent(there), "{there:?}"),
            Deployments::Named(names) => {
                assert!(!names.is_empty());
                for (here, there) in names {
                    assert!(is_deployment_name(here) && may_be_sent(there), "{here:?} {there:?}");
                }
            }
        }
    }
    for upstream in &settings.upstreams {
        let Credential::ApiKey(key) = &upstream.credential else { continue };
        assert!(http::HeaderValue::from_str(key.expose_secret()).is_ok());
        let host = &upstream.origin.host;
        let authority = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let authority = format!("{authority}:{}", upstream.origin.port);
        assert!(authority.parse::<http::uri::Authority>().is_ok(), "{authority}");
        let target = format!("{}/openai/v1/models", upstream.origin.path_prefix);
        assert!(target.parse::<http::uri::PathAndQuery>().is_ok(), "{target}");
    }
    let keys: BTreeSet<&str> = callers.keys.iter().map(|key| key.key.expose_secret()).collect();
    assert_eq!(keys.len(), callers.keys.len());
    assert!(callers.keys.iter().all(|key| key.key.expose_secret().len() >= 16));
    let proxy = &settings.proxy;
    assert!(settings.upstream.connect_timeout <= proxy.deadline);
    assert!(proxy.request_replay as u64 <= proxy.request_hard_limit);
    assert!(proxy.hold.is_none_or(|hold| hold < proxy.deadline));
    assert!(proxy.request_replay <= proxy.buffered);
}

/// In a path it is one segment, and in a multipart body no boundary.
fn may_be_sent(there: &str) -> bool {
    is_deployment_name(there) && !there.starts_with(['-', '.'])
}
