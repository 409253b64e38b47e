//! Choosing a backend. PURE: no I/O, no clock, no global randomness; `now` is always an argument.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

/// What the pool is made of; produced by `settings`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolSettings {
    /// In the order of the settings file; the index is the backend's identity within one `Pool`.
    pub backends: Vec<BackendSettings>,
    /// The most lanes remembered, over all backends (`limits.lanes`).
    pub lanes: usize,
}

/// One backend as the pool sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BackendSettings {
    /// Unique name, for people.
    pub name: Arc<str>,
    /// Where it leads: together with `name` what makes a backend the same one after a reload.
    pub url: Arc<str>,
    /// Lower is used first.
    pub priority: u32,
    /// Share among equals.
    pub weight: NonZeroU32,
    /// Which deployments are served there, and under which names.
    pub deployments: Deployments,
}

/// Which deployments a backend serves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Deployments {
    /// Every deployment, under the caller's own name.
    Any,
    /// Only these: name for callers → name there.
    Named(BTreeMap<String, String>),
    /// Every deployment, all called this there (openai-aca-lb's `BACKEND_n_DEPLOYMENT_NAME`).
    AllAs(String),
}
