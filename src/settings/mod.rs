//! File and environment → raw → resolved; all problems at once.
//!
//! Owns the settings file's language, the environment variables, every default and every refusal. The
//! settings *types* belong to the rooms that act on them; this room fills them in.
//!
//! Three stages, each its own types: text → `reader` (typed values with file and line) → `raw` (what
//! was written, environment over file) → `resolve` (defaults, one setting held against another). No
//! stage stops at the first problem: whoever mends a file wants the whole list. What comes out cannot be
//! wrong, so nobody checks again.
//!
//! It reads files but not the environment: `main` captures that once and passes it in. Secrets are
//! `SecretString` from the first moment, and no problem, note or description shows one.

mod address;
mod backends;
mod callers;
mod defaults;
mod describe;
mod drop_in;
mod environment;
mod expansion;
mod identity;
mod problem;
mod raw;
pub(crate) mod reader;
mod resolve;
#[cfg(test)]
mod tests;
mod traces;
pub(crate) mod value;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use crate::balance::{PinSettings, PoolSettings};
use crate::identity::{CallerSettings, Credential};
use crate::net::certificate::CertificateSettings;
use crate::net::server::ServerLimits;
use crate::net::upstream::{Origin, UpstreamSettings};
use crate::proxy::ProxySettings;
use crate::settings::problem::Problems;
use crate::settings::raw::RawSettings;
use crate::settings::reader::Document;
use crate::telemetry::LogSettings;
use crate::telemetry::traces::TraceSettings;

pub use describe::describe;
pub use environment::Environment;
pub use problem::{Place, Problem, SettingsError};

/// Everything `sidestep serve` needs to know. Cannot be wrong once it exists.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Callers' listener.
    pub listen: SocketAddr,
    /// Encrypts it.
    pub tls: Option<CertificateSettings>,
    /// Operators' listener.
    pub admin_listen: Option<SocketAddr>,
    /// Required on the operators' listener when set.
    pub admin_token: Option<SecretString>,
    /// Worker threads; `None` is one per core, at most 4.
    pub workers: Option<std::num::NonZeroUsize>,
    /// `/readyz` says 503 for so long before we stop accepting; zero on loopback unless set.
    pub drain_delay: Duration,
    /// Then streams may take so long to end.
    pub drain_timeout: Duration,
    /// Bounds of the server side.
    pub server: ServerLimits,
    /// Who may call.
    pub callers: CallerSettings,
    /// What is balanced.
    pub pool: PoolSettings,
    /// Where objects live that only one backend has.
    pub pins: PinSettings,
    /// Same order and length as `pool.backends`.
    pub upstreams: Vec<UpstreamBackend>,
    /// How we connect to them.
    pub upstream: UpstreamSettings,
    /// How requests are treated.
    pub proxy: ProxySettings,
    /// The log.
    pub log: LogSettings,
    /// Where traces go.
    pub traces: TraceSettings,
    /// What an operator should know: cut addresses, unsafe choices. One sentence each.
    pub notes: Vec<String>,
}

/// Where a backend stands and with what it is called.
#[derive(Clone, Debug)]
pub struct UpstreamBackend {
    /// Address.
    pub origin: Origin,
    /// Credential.
    pub credential: Credential,
}

/// Where settings are looked for.
#[derive(Clone)]
pub enum Source {
    /// This file (`--config FILE`).
    File(PathBuf),
    /// `$SIDESTEP_CONFIG`, else `sidestep.toml` in this folder (empty: where we were started) if it stands
    /// there, else the environment alone.
    Folder(PathBuf),
    /// This text, as if it stood in a file of that path.
    Text {
        /// For problems, and for what relative paths count from.
        file: PathBuf,
        /// TOML.
        text: String,
    },
}

impl fmt::Debug for Source {
    /// A text may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, path) = match self {
            Self::File(file) => ("File", file),
            Self::Folder(folder) => ("Folder", folder),
            Self::Text { file, .. } => ("Text", file),
        };
        f.debug_tuple(kind).field(path).finish()
    }
}

/// The name that is looked for when no file is named.
const FILE_NAME: &str = "sidestep.toml";

/// Reads the settings: the file that `source` leads to, if any, and the environment over it. `main` passes
/// `Environment::new(std::env::vars_os())`.
///
/// # Errors
/// Everything that is wrong, at once; or [`SettingsError::Nothing`] when nobody set anything yet.
pub fn load(source: &Source, environment: &Environment) -> Result<Settings, SettingsError> {
    let problems = Problems::default();
    let Some(mut raw) = read(source, environment, &problems) else { return problems.or(None) };
    let from_environment = drop_in::backends(environment, &problems);
    match (&raw.backends_given, from_environment.is_empty()) {
        (None, true) if raw.file.is_none() && problems.is_empty() => return Err(SettingsError::Nothing),
        (None, true) => problems.add(
            "backends",
            &Place::Nowhere,
            "nothing",
            "at least one backend: a [[backends]] with `url` and `api_key`, or BACKEND_1_URL and \
             BACKEND_1_APIKEY",
        ),
        (Some(place), false) => problems.add(
            "backends",
            place,
            "backends here and BACKEND_n_… in the environment",
            "backends in one place only",
        ),
        (Some(place), true) if raw.backends.is_empty() && problems.is_empty() => {
            problems.add("backends", place, "an empty list", "at least one backend");
        }
        (Some(_), true) => {}
        (None, false) => {
            drop_in::timeout(&mut raw, environment, &problems);
            raw.backends = from_environment;
        }
    }
    environment::overlay(&mut raw, environment, &problems);
    let settings = resolve::resolve(raw, environment, &problems);
    problems.or(Some(settings))
}

/// The file's part of the settings; `None` when a file cannot be read, which `problems` then tells.
fn read(source: &Source, environment: &Environment, problems: &Problems) -> Option<RawSettings> {
    let (path, named_by) = match source {
        Source::Text { file, text } => return parse(file, text, environment, problems),
        Source::File(file) => (file.clone(), "--config"),
        Source::Folder(folder) => match environment.given("SIDESTEP_CONFIG") {
            Some(file) => (PathBuf::from(file), "SIDESTEP_CONFIG"),
            None => (folder.join(FILE_NAME), ""),
        },
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => parse(&path, &text, environment, problems),
        Err(error) if named_by.is_empty() && error.kind() == std::io::ErrorKind::NotFound => {
            Some(RawSettings::default())
        }
        Err(error) => {
            let key = if named_by.is_empty() { FILE_NAME } else { named_by };
            let found = format!("{} ({error})", path.display());
            problems.add(key, &Place::Nowhere, found, "a readable settings file (UTF-8 text)");
            None
        }
    }
}

fn parse(file: &Path, text: &str, environment: &Environment, problems: &Problems) -> Option<RawSettings> {
    let name: Arc<str> = Arc::from(file.display().to_string());
    let folder = file.parent().unwrap_or_else(|| Path::new(""));
    let document = Document { file: Arc::clone(&name), folder, text, environment, problems };
    let raw = document.read(raw::settings)?;
    Some(RawSettings { file: Some(name), ..raw })
}
