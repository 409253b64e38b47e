//! The backends held against each other: names, quotas that would be counted twice, what is unsafe.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::balance::{BackendSettings, Deployments, PoolSettings};
use crate::identity::Credential;
use crate::net::upstream::Origin;
use crate::settings::address::Address;
use crate::settings::environment::Environment;
use crate::settings::problem::{Located, Problems};
use crate::settings::raw::RawBackend;
use crate::settings::resolve::{value_or, whole};
use crate::settings::{UpstreamBackend, defaults, identity};

/// One backend of which everything that must be there is there.
struct Backend {
    name: Arc<str>,
    url: Located<Address>,
    credential: Credential,
    raw_deployments: Deployments,
    priority: u32,
    weight: NonZeroU32,
    http2: bool,
}

/// The pool and, in the same order, where its backends stand.
pub(super) fn resolve(
    raw: Vec<RawBackend>,
    lanes: Option<Located<u64>>,
    environment: &Environment,
    notes: &mut Vec<String>,
    problems: &Problems,
) -> (PoolSettings, Vec<UpstreamBackend>) {
    let mut names = given_names(&raw, problems);
    let backends: Vec<Backend> =
        raw.into_iter().filter_map(|raw| complete(raw, &mut names, environment, problems)).collect();
    for (index, backend) in backends.iter().enumerate() {
        note(backend, notes);
        for earlier in &backends[..index] {
            refuse_doubled(earlier, backend, notes, problems);
        }
    }
    let lanes = lanes.map_or(defaults::LANES, |lanes| whole(lanes.value));
    let (settings, upstreams) = backends.into_iter().map(Backend::split).unzip();
    (PoolSettings { backends: settings, lanes }, upstreams)
}

fn given_names(raw: &[RawBackend], problems: &Problems) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for name in raw.iter().filter_map(|backend| backend.name.as_ref()) {
        if !names.insert(name.value.clone()) {
            problems.refuse(name, "a name that no other backend has");
        }
    }
    names
}

/// `None` when something is missing, which was told already.
fn complete(
    raw: RawBackend,
    names: &mut BTreeSet<String>,
    environment: &Environment,
    problems: &Problems,
) -> Option<Backend> {
    let identity = identity::resolve(raw.identity, environment, problems);
    let credential = raw.api_key.map(|key| Credential::ApiKey(key.value)).or(identity);
    let url = raw.url?;
    let name = match raw.name {
        Some(name) => name.value,
        None => unused_name(&url.value.label(), names),
    };
    let weight = raw.weight.and_then(|weight| u32::try_from(weight.value).ok());
    Some(Backend {
        name: Arc::from(name),
        url,
        credential: credential?,
        raw_deployments: raw.deployments,
        priority: raw.priority.and_then(|set| u32::try_from(set.value).ok()).unwrap_or(defaults::PRIORITY),
        weight: weight.and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN),
        http2: value_or(raw.http2.as_ref(), false),
    })
}

fn unused_name(label: &str, names: &mut BTreeSet<String>) -> String {
    let mut name = label.to_owned();
    let mut number = 2;
    while !names.insert(name.clone()) {
        name = format!("{label}-{number}");
        number += 1;
    }
    name
}

fn note(backend: &Backend, notes: &mut Vec<String>) {
    let (name, address) = (&backend.name, &backend.url.value);
    if address.cut {
        notes.push(format!(
            "backend {name}: `/openai…` was cut from the end of its address, leaving {}; requests bring their \
             own path",
            address.url()
        ));
    }
    if !address.tls && !address.is_loopback() {
        notes.push(format!(
            "unsafe: backend {name} is called over plain http, so its key and all content can be read on the \
             way"
        ));
    }
}

/// Two backends that lead to one deployment are one quota counted twice, and a failover between them leads
/// nowhere. With different keys it may be a gateway with a quota for each key, so that is only noted.
fn refuse_doubled(earlier: &Backend, later: &Backend, notes: &mut Vec<String>, problems: &Problems) {
    if earlier.url.value.url() != later.url.value.url() {
        return;
    }
    let Some(shared) = shared_deployment(&earlier.raw_deployments, &later.raw_deployments) else { return };
    if earlier.credential == later.credential {
        problems.refuse(
            &later.url,
            format!(
                "another address, or other deployments: backend {} leads to {shared} there as well, so both \
                 would share one quota",
                earlier.name
            ),
        );
    } else {
        notes.push(format!(
            "backends {} and {} lead to {shared} at one address with different credentials; two keys of one \
             Azure resource share its quota",
            earlier.name, later.name
        ));
    }
}

/// A deployment that requests would reach on both sides, in words.
fn shared_deployment(one: &Deployments, other: &Deployments) -> Option<String> {
    match (one, other) {
        (Deployments::Any, Deployments::Any) => Some("every deployment".to_owned()),
        // Only who asks for exactly that name meets it on both sides: a fallback deployment on purpose.
        (Deployments::Any, Deployments::AllAs(_)) | (Deployments::AllAs(_), Deployments::Any) => None,
        (Deployments::Any, Deployments::Named(names)) | (Deployments::Named(names), Deployments::Any) => {
            names.iter().find(|(here, there)| here == there).map(|(_, there)| format!("{there:?}"))
        }
        (Deployments::AllAs(there), Deployments::AllAs(also)) => {
            (there == also).then(|| format!("{there:?}"))
        }
        (Deployments::AllAs(there), Deployments::Named(names))
        | (Deployments::Named(names), Deployments::AllAs(there)) => {
            names.values().any(|also| also == there).then(|| format!("{there:?}"))
        }
        (Deployments::Named(names), Deployments::Named(others)) => {
            let shared = names.values().find(|there| others.values().any(|also| also == *there));
            shared.map(|there| format!("{there:?}"))
        }
    }
}

// === impl Backend ===

impl Backend {
    fn split(self) -> (BackendSettings, UpstreamBackend) {
        let url = Arc::from(self.url.value.url());
        let Address { tls, host, port, path_prefix, cut: _ } = self.url.value;
        let settings = BackendSettings {
            name: self.name,
            url,
            priority: self.priority,
            weight: self.weight,
            deployments: self.raw_deployments,
        };
        let origin = Origin { tls, host, port, path_prefix, http2: self.http2 };
        (settings, UpstreamBackend { origin, credential: self.credential })
    }
}
