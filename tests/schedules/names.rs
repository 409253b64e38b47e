//! Who serves what under which name, and where what is made at home is made.

use std::collections::BTreeSet;

use sidestep::balance::Deployments;

use super::book::{Book, Outcome};
use super::schedule::Kind;

/// The name there; `None` where the deployment is not served.
pub(crate) fn there(serves: &Deployments, name: Option<&str>) -> Option<String> {
    let Some(name) = name else { return Some(String::new()) };
    match serves {
        Deployments::Any => Some(name.to_owned()),
        Deployments::Named(names) => names.get(name).cloned(),
        Deployments::AllAs(there) => Some(there.clone()),
    }
}

pub(crate) fn invented(there: &str) -> bool {
    there.starts_with("invented")
}

/// Whether a site may be asked by a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Home {
    /// It is home, or the request may go anywhere.
    Yes,
    No,
    /// Another one became home since the request came.
    Unsure,
}

impl Book {
    /// Objects that refer to each other are made at home, the first of the settings.
    pub(crate) fn home(&self, site: usize, request: usize) -> Home {
        let request = &self.requests[request];
        if request.call.kind != Kind::VectorStore {
            return Home::Yes;
        }
        let present = self.current.first().copied();
        match (Some(site) == request.home, Some(site) == present) {
            (true, true) => Home::Yes,
            (false, false) => Home::No,
            (true, false) | (false, true) => Home::Unsure,
        }
    }

    pub(crate) fn served_somewhere(&self, name: Option<&str>) -> bool {
        self.current.iter().any(|site| there(&self.sites[*site].serves, name).is_some())
    }

    pub(crate) fn attempts_of(&self, name: &str) -> u64 {
        let site = self.current.iter().find(|site| self.sites[**site].name == name);
        site.map_or(0, |site| self.sites[*site].attempts)
    }

    pub(crate) fn has_tried(&self, request: usize, site: usize) -> bool {
        self.requests[request].attempts.iter().any(|attempt| self.attempts[*attempt].site == site)
    }

    /// Whether it waited in line for what it found full there.
    pub(crate) fn may_again(&self, request: usize, site: usize) -> bool {
        let of_site = |attempt: &&usize| self.attempts[**attempt].site == site;
        let last = self.requests[request].attempts.iter().rfind(of_site);
        let outcome = last.and_then(|attempt| self.attempts[*attempt].outcome);
        self.limits.hold.is_some() && matches!(outcome, Some((Outcome::Throttled { .. }, _)))
    }

    /// How many requests asked a backend again.
    pub(crate) fn held(&self) -> usize {
        let again = |attempts: &[usize]| {
            let sites: BTreeSet<_> = attempts.iter().map(|attempt| self.attempts[*attempt].site).collect();
            sites.len() < attempts.len()
        };
        self.requests.iter().filter(|request| again(&request.attempts)).count()
    }
}
