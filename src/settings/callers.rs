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

#[cfg(test)]
mod tests {
    use crate::settings::tests::{KEY, keys, text, variables, with_backend, with_backend_and};
    use crate::settings::{describe, load};

    const TENANT: &str = "00000000-aaaa-bbbb-cccc-000000000001";

    #[test]
    fn two_keys_of_one_name_are_one_caller_and_its_rules_are_said_once() {
        let keys_of = |second: &str| {
            format!(
                "[[callers.keys]]\nname = \"app\"\nkey = \"{KEY}-1\"\nrequests_per_minute = 60\ndeployments = [\"gpt-4o\"]\n\
                 [[callers.keys]]\nname = \"app\"\nkey = \"{KEY}-2\"\n{second}"
            )
        };
        for second in ["", "requests_per_minute = 60\ndeployments = [\"gpt-4o\"]"] {
            let settings = with_backend(&keys_of(second)).unwrap();
            let [first, second] = &settings.callers.keys[..] else { panic!("two keys") };
            assert_eq!((&first.name, &first.rules), (&second.name, &second.rules));
            assert_eq!(first.rules.requests_per_minute, Some(60));
            let described = describe(&settings);
            assert!(described.contains("who has one of the keys of app\n"), "{described}");
            assert!(described.contains("  app: 60 requests a minute; deployments gpt-4o\n"), "{described}");
        }
        for second in ["requests_per_minute = 61", "tokens_per_minute = 1", "operations = [\"files\"]"] {
            assert_eq!(keys(&with_backend(&keys_of(second))), ["callers.keys[1].name"], "{second}");
        }
        let same = keys_of("").replace(&format!("{KEY}-2"), &format!("{KEY}-1"));
        assert_eq!(keys(&with_backend(&same)), ["callers.keys[1].key"]);
    }

    #[test]
    fn limits_and_rules_that_would_serve_nobody_are_refused() {
        for (line, at) in [
            ("requests_per_minute = 0", "requests_per_minute"),
            ("requests_per_minute = -1", "requests_per_minute"),
            ("tokens_per_minute = 2000000000", "tokens_per_minute"),
            ("tokens_per_minute = \"off\"", "tokens_per_minute"),
            ("tokens_per_minute = 1.5", "tokens_per_minute"),
            ("lowest_priority = 0", "lowest_priority"),
            ("deployments = []", "deployments"),
            ("deployments = [\"a/b\"]", "deployments[0]"),
            ("operations = []", "operations"),
            ("operations = [\"Inference\"]", "operations[0]"),
            ("operations = [\"fine_tuning\"]", "operations[0]"),
        ] {
            let told = with_backend(&format!("[[callers.keys]]\nkey = \"{KEY}\"\n{line}"));
            assert_eq!(keys(&told), [format!("callers.keys[0].{at}")], "{line}");
        }
        let told = with_backend("[callers]\noperations = [\"fine_tuning\"]").unwrap_err();
        assert!(told.to_string().contains("the nearest is \"fine-tuning\""), "{told}");
    }

    #[test]
    fn a_deployment_that_no_backend_serves_is_noted() {
        let file = format!(
            "[[callers.keys]]\nname = \"app\"\nkey = \"{KEY}\"\ndeployments = [\"gpt-4o\", \"gpt-5\"]\n\
             [[backends]]\nurl = \"https://east\"\napi_key = \"k\"\ndeployments = {{ \"gpt-4o\" = \"x\" }}"
        );
        let settings = load(&text(&file), &variables(&[])).unwrap();
        assert_eq!(settings.notes, ["caller app may use gpt-5, which no backend serves"]);
    }

    #[test]
    fn all_but_fine_tuning_and_evals_is_allowed_unless_it_is_named() {
        let operations = |lines: &str| with_backend(lines).unwrap().callers.operations.unwrap();
        let usual = operations("");
        assert!(usual.contains(&"inference") && usual.contains(&"other"));
        assert!(!usual.contains(&"fine-tuning") && !usual.contains(&"evals"));
        assert_eq!(operations("[callers]\noperations = [\"evals\"]"), ["evals"]);
    }

    #[test]
    fn callers_of_entra_id_are_told_by_tenant_and_list_and_open_the_listener() {
        let entra = |lines: &str| {
            with_backend_and(&format!("[callers.entra]\n{lines}"), &[("SIDESTEP_LISTEN", "0.0.0.0:1")])
        };
        let settings =
            entra(&format!("tenant = \"{}\"\nallow = [\"{TENANT}\"]", TENANT.to_ascii_uppercase())).unwrap();
        let described = describe(&settings);
        assert!(
            described.contains(&format!("who has a token of {TENANT} of Entra ID tenant {TENANT}\n")),
            "{described}"
        );
        let any = entra(&format!("tenant = \"{TENANT}\"\nallow = [\"any\"]")).unwrap();
        assert!(any.notes.iter().any(|note| note.contains("guests included")), "{:?}", any.notes);
        let good = format!("tenant = \"{TENANT}\"\n");
        for (lines, at) in [
            ("", &["callers.entra.tenant", "callers.entra.allow"][..]),
            ("allow = [\"any\"]\ntenant = \"common\"", &["callers.entra.tenant"]),
            ("allow = [\"any\"]\ntenant = \"contoso.onmicrosoft.com\"", &["callers.entra.tenant"]),
            (&*good, &["callers.entra.allow"]),
            (&*format!("{good}allow = []"), &["callers.entra.allow"]),
            (&*format!("{good}allow = [\"*\"]"), &["callers.entra.allow[0]"]),
            (&*format!("{good}allow = [\"any\", \"{TENANT}\"]"), &["callers.entra.allow[0]"]),
            (&*format!("{good}allow = [\"any\"]\naudiences = []"), &["callers.entra.audiences"]),
            (
                &*format!("{good}allow = [\"any\"]\nauthority = \"http://login.example\""),
                &["callers.entra.authority"],
            ),
            (
                &*format!("{good}allow = [\"any\"]\nauthority = \"https://user@login.example\""),
                &["callers.entra.authority"],
            ),
            (
                &*format!("{good}allow = [\"any\"]\nauthority = \"https://login.example/?a=b\""),
                &["callers.entra.authority"],
            ),
        ] {
            assert_eq!(keys(&entra(lines)), at, "{lines}");
        }
    }
}
