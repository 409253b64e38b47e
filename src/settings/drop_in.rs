//! `BACKEND_n_…` and `HTTP_TIMEOUT_SECONDS`, so that a deployment of openai-aca-lb changes its image and
//! nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::balance::Deployments;
use crate::settings::address::Address;
use crate::settings::environment::Environment;
use crate::settings::identity::{Kind, RawIdentity};
use crate::settings::problem::{Located, Place, Problems, nearest};
use crate::settings::raw::{LARGEST_PRIORITY, RawBackend, RawRetry, RawSettings};
use crate::settings::value;

const SUFFIXES: [&str; 4] = ["URL", "PRIORITY", "APIKEY", "DEPLOYMENT_NAME"];

/// The backends of the environment, by their number.
pub(super) fn backends(environment: &Environment, problems: &Problems) -> Vec<RawBackend> {
    let mut numbers = BTreeSet::new();
    for name in environment.names() {
        let Some((digits, suffix)) = number_and_suffix(name) else { continue };
        if environment.given(name).is_none() {
            continue;
        }
        if SUFFIXES.contains(&suffix) {
            // By length first: the order of numbers of any length.
            numbers.insert((digits.len(), digits));
        } else {
            let expected = match nearest(suffix, SUFFIXES) {
                Some(known) => format!("a known variable; the nearest is BACKEND_{digits}_{known}"),
                None => {
                    format!("one of {}", SUFFIXES.map(|known| format!("BACKEND_{digits}_{known}")).join(", "))
                }
            };
            problems.add(name, &Place::Environment, "an unknown variable", expected);
        }
    }
    numbers.into_iter().map(|(_, digits)| backend(digits, environment, problems)).collect()
}

/// `BACKEND_12_URL` → `12`, `URL`.
fn number_and_suffix(name: &str) -> Option<(&str, &str)> {
    let (digits, suffix) = name.strip_prefix("BACKEND_")?.split_once('_')?;
    // A Kubernetes Service named `backend-1` puts these into every pod of its namespace.
    let from_kubernetes = suffix.starts_with("SERVICE_") || suffix == "PORT" || suffix.starts_with("PORT_");
    let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    (number && !from_kubernetes).then_some((digits, suffix))
}

fn backend(digits: &str, environment: &Environment, problems: &Problems) -> RawBackend {
    let variable = |suffix: &str| format!("BACKEND_{digits}_{suffix}");
    let (url_name, key_name) = (variable("URL"), variable("APIKEY"));
    if environment.given(&url_name).is_none() {
        let given: Vec<String> =
            SUFFIXES.map(variable).into_iter().filter(|name| environment.given(name).is_some()).collect();
        let found = format!("not set, though {} is", given.join(" and "));
        problems.add(&url_name, &Place::Environment, found, "the address of that resource");
    }
    // As there: without a key, whatever identity this machine has.
    let keyless = environment.given(&key_name).is_none();
    let kind = keyless.then(|| Located {
        value: Kind::Default,
        key: key_name.clone(),
        place: Place::Environment,
        found: "not set".to_owned(),
    });
    let deployments = match environment.parsed(&variable("DEPLOYMENT_NAME"), problems, value::name) {
        Some(name) => Deployments::AllAs(name.value),
        None => Deployments::Any,
    };
    RawBackend {
        name: None,
        url: environment.parsed(&url_name, problems, Address::parse),
        priority: environment.parsed(&variable("PRIORITY"), problems, value::number(0..=LARGEST_PRIORITY)),
        weight: None,
        api_key: environment.secret(&key_name, problems, value::api_key),
        identity: RawIdentity { kind, ..RawIdentity::default() },
        deployments,
        http2: None,
    }
}

/// Reads `HTTP_TIMEOUT_SECONDS`, where the file does not say otherwise. Only beside backends of the
/// environment: the name is too general to be meant for us when there are none.
pub(super) fn timeout(raw: &mut RawSettings, environment: &Environment, problems: &Problems) {
    const NAME: &str = "HTTP_TIMEOUT_SECONDS";
    let Some(seconds) = environment.parsed(NAME, problems, value::number(1..=86_400)) else { return };
    let Located { value, key, place, found } = seconds;
    let timeout = Located { value: Some(Duration::from_secs(value)), key, place, found };
    let RawRetry { first_byte_timeout, first_event_timeout, stream_idle_timeout, .. } = &mut raw.retry;
    for slot in [first_byte_timeout, first_event_timeout, stream_idle_timeout] {
        slot.get_or_insert_with(|| timeout.clone());
    }
}
