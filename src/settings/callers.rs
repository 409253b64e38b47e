//! Callers: what belongs to one name put together, held against each other and against the backends.

use std::collections::HashMap;
use std::sync::Arc;

use secrecy::ExposeSecret;

use crate::balance::{BackendSettings, Deployments};
use crate::identity::entra::{Allow, EntraSettings};
use crate::identity::{CallerKey, CallerRules, CallerSettings};
use crate::settings::defaults;
use crate::settings::problem::{Located, Problems};
use crate::settings::raw::{RawCallerKey, RawCallers, RawEntra};

/// Who may call, good only if `problems` stayed empty.
pub(super) fn resolve(
    raw: RawCallers,
    backends: &[BackendSettings],
    notes: &mut Vec<String>,
    problems: &Problems,
) -> CallerSettings {
    let mut keys: Vec<CallerKey> = Vec::new();
    let mut owners = HashMap::new();
    for raw in raw.keys {
        refuse_unservable(&raw, backends, problems);
        let rules = rules(&raw);
        let RawCallerKey { name, key, .. } = raw;
        if let Some(other) = owners.insert(key.value.expose_secret().to_owned(), name.value.clone()) {
            problems.refuse(&key, format!("a key of its own: {other:?} has the same"));
        }
        // Two keys of one name are one caller that changes its key: it has its rules once.
        let rules = match keys.iter().find(|other| *other.name == *name.value) {
            None => rules,
            Some(other) if rules == other.rules || rules == CallerRules::default() => other.rules.clone(),
            Some(_) => {
                let expected = "the same limits and rules as with the first key of this name, or none here";
                problems.refuse(&name, expected);
                continue;
            }
        };
        keys.push(CallerKey { name: Arc::from(name.value), key: key.value, rules });
    }
    note_unknown_deployments(&keys, backends, notes);
    let entra = raw.entra.and_then(|raw| entra(raw, notes, problems));
    CallerSettings {
        anonymous: raw.anonymous.is_some_and(|anonymous| anonymous.value),
        keys,
        entra,
        origins: raw.origins.into_iter().map(|origin| origin.value).collect(),
        operations: Some(raw.operations.map_or_else(defaults::operations, values)),
    }
}

fn values<T>(list: Vec<Located<T>>) -> Vec<T> {
    list.into_iter().map(|item| item.value).collect()
}

fn rules(raw: &RawCallerKey) -> CallerRules {
    let number = |set: &Option<Located<u64>>| set.as_ref().map(|set| set.value);
    CallerRules {
        requests_per_minute: number(&raw.requests_per_minute),
        tokens_per_minute: number(&raw.tokens_per_minute),
        lowest_priority: number(&raw.lowest_priority).and_then(|priority| u32::try_from(priority).ok()),
        deployments: raw.deployments.clone().map(values),
        operations: raw.operations.clone().map(values),
    }
}

/// A caller for whom no backend is good enough would wait for ever.
fn refuse_unservable(raw: &RawCallerKey, backends: &[BackendSettings], problems: &Problems) {
    let first = backends.iter().map(|backend| backend.priority).min();
    if let (Some(lowest), Some(first)) = (&raw.lowest_priority, first)
        && lowest.value < u64::from(first)
    {
        problems.refuse(lowest, format!("at least {first}, the priority that is used first"));
    }
}

/// Only noted: a deployment may be added to the settings of backends later.
fn note_unknown_deployments(keys: &[CallerKey], backends: &[BackendSettings], notes: &mut Vec<String>) {
    let serves = |backend: &BackendSettings, name: &String| match &backend.deployments {
        Deployments::Any | Deployments::AllAs(_) => true,
        Deployments::Named(names) => names.contains_key(name),
    };
    for (at, key) in keys.iter().enumerate() {
        if keys[..at].iter().any(|other| other.name == key.name) {
            continue;
        }
        for name in key.rules.deployments.iter().flatten() {
            if !backends.iter().any(|backend| serves(backend, name)) {
                notes.push(format!("caller {} may use {name}, which no backend serves", key.name));
            }
        }
    }
}

fn entra(raw: RawEntra, notes: &mut Vec<String>, problems: &Problems) -> Option<EntraSettings> {
    let any = raw.allow.iter().find(|id| id.value == "any");
    if let Some(any) = any.filter(|_| raw.allow.len() > 1) {
        problems.refuse(any, "\"any\" alone, or ids alone");
    }
    let allow = match any {
        Some(_) => {
            notes.push(
                "callers.entra admits every application and user of the tenant, guests included".to_owned(),
            );
            Allow::Any
        }
        None => Allow::Ids(values(raw.allow)),
    };
    let audiences = match raw.audiences {
        audiences if audiences.is_empty() => defaults::AUDIENCES.map(str::to_owned).to_vec(),
        audiences => values(audiences),
    };
    let authority = raw.authority.map_or_else(|| defaults::AUTHORITY.to_owned(), |set| set.value);
    Some(EntraSettings { tenant: raw.tenant?.value, audiences, allow, authority })
}
