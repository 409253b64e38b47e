//! The environment: captured once by `main`, read here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use secrecy::SecretString;

use crate::settings::problem::{Located, MASK, Place, Problems, nearest, shown};
use crate::settings::raw::{RawCallerKey, RawSettings};
use crate::settings::value;

/// A copy of the environment, so that nothing below `main` reads the real one.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// From `std::env::vars_os()`, or from what a test likes. What is not UTF-8 keeps replacement
    /// characters and is refused where it is used.
    pub fn new<K, V>(variables: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let text = |text: OsString| text.to_string_lossy().into_owned();
        Self(variables.into_iter().map(|(name, value)| (text(name.into()), text(value.into()))).collect())
    }

    /// The value as it is, blanks included.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value without blanks around it; a blank one counts as not set, since deployment templates
    /// set unused variables to nothing.
    pub(crate) fn given(&self, name: &str) -> Option<&str> {
        self.get(name).map(str::trim).filter(|value| !value.is_empty())
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(crate) fn parsed<T>(
        &self,
        name: &str,
        problems: &Problems,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Located<T>> {
        let text = self.given(name)?;
        located(name, shown(text), parse(text), problems)
    }

    pub(crate) fn secret(
        &self,
        name: &str,
        problems: &Problems,
        parse: impl FnOnce(&str) -> Result<SecretString, String>,
    ) -> Option<Located<SecretString>> {
        let text = self.given(name)?;
        let found = format!("{MASK} ({} characters)", text.chars().count());
        located(name, found, parse(text), problems)
    }
}

impl fmt::Debug for Environment {
    /// Names and values may both say too much.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({} variables)", self.0.len())
    }
}

fn located<T>(
    name: &str,
    found: String,
    parsed: Result<T, String>,
    problems: &Problems,
) -> Option<Located<T>> {
    match parsed {
        Ok(value) => Some(Located { value, key: name.to_owned(), place: Place::Environment, found }),
        Err(expected) => {
            problems.add(name, &Place::Environment, found, expected);
            None
        }
    }
}

const KNOWN: [&str; 8] = [
    "SIDESTEP_CONFIG",
    "SIDESTEP_LISTEN",
    "SIDESTEP_ADMIN_LISTEN",
    "SIDESTEP_ADMIN_TOKEN",
    "SIDESTEP_ANONYMOUS",
    "SIDESTEP_CALLER_KEYS",
    "SIDESTEP_LOG",
    "SIDESTEP_LOG_FORMAT",
];

/// Puts the `SIDESTEP_*` variables over what the file says.
pub(super) fn overlay(raw: &mut RawSettings, environment: &Environment, problems: &Problems) {
    fn over<T>(slot: &mut Option<T>, value: Option<T>) {
        if value.is_some() {
            *slot = value;
        }
    }
    over(&mut raw.server.listen, environment.parsed("SIDESTEP_LISTEN", problems, value::listen));
    over(
        &mut raw.server.admin_listen,
        environment.parsed("SIDESTEP_ADMIN_LISTEN", problems, value::listen_or_off),
    );
    over(&mut raw.server.admin_token, environment.secret("SIDESTEP_ADMIN_TOKEN", problems, value::own_key));
    raw.server.admin_token_given |= environment.given("SIDESTEP_ADMIN_TOKEN").is_some();
    over(&mut raw.callers.anonymous, environment.parsed("SIDESTEP_ANONYMOUS", problems, value::boolean));
    over(&mut raw.log.level, environment.parsed("SIDESTEP_LOG", problems, value::log_level));
    over(&mut raw.log.format, environment.parsed("SIDESTEP_LOG_FORMAT", problems, value::log_format));
    if let Some(list) = environment.given("SIDESTEP_CALLER_KEYS") {
        raw.callers.keys = caller_keys(list, problems);
        raw.callers.keys_given = true;
    }
    // Noted, not refused: a Kubernetes Service named `sidestep` puts its own SIDESTEP_* into every pod.
    for name in environment.names().filter(|name| name.starts_with("SIDESTEP_") && !KNOWN.contains(name)) {
        if let Some(known) = nearest(name, KNOWN) {
            raw.notes.push(format!("{name} is not known and changes nothing; {known} is"));
        }
    }
}

fn caller_keys(list: &str, problems: &Problems) -> Vec<RawCallerKey> {
    let keys: Vec<&str> = list.split(',').map(str::trim).filter(|key| !key.is_empty()).collect();
    let count = keys.len();
    let key = |(index, text): (usize, &str)| {
        let number = index + 1;
        let found = format!("{MASK} (key {number} of {count}, {} characters)", text.chars().count());
        let key = located("SIDESTEP_CALLER_KEYS", found, value::own_key(text), problems)?;
        let name = Located {
            value: format!("key-{number}"),
            key: key.key.clone(),
            place: Place::Environment,
            found: String::new(),
        };
        Some(RawCallerKey {
            name,
            key,
            requests_per_minute: None,
            tokens_per_minute: None,
            lowest_priority: None,
            deployments: None,
            operations: None,
        })
    };
    keys.into_iter().enumerate().filter_map(key).collect()
}
