//! From settings to how backends are called.

use std::sync::Arc;

use super::balancer::StartError;
use crate::identity::Presented;
use crate::identity::callers::Callers;
use crate::identity::token::{Keeper, Slot};
use crate::net::upstream::Tls;
use crate::proxy::EdgeSettings;
use crate::settings::Settings;

/// How each backend is called; the sources of tokens get their slots.
pub(super) fn presented(settings: &Settings, keeper: &mut Keeper) -> Result<Vec<Presented>, StartError> {
    let backends = settings.pool.backends.iter().zip(&settings.upstreams);
    backends
        .map(|(backend, upstream)| {
            let presented = upstream.credential.presented(|settings| keeper.slot(settings));
            presented.map_err(|error| StartError::Credential(Arc::clone(&backend.name), error))
        })
        .collect()
}

/// Where their tokens are, by the backend's position.
pub(super) fn slots(presented: &[Presented]) -> Vec<Option<Slot>> {
    let slot = |presented: &Presented| match presented {
        Presented::Token(slot) => Some(slot.clone()),
        Presented::Header(..) | Presented::Caller => None,
    };
    presented.iter().map(slot).collect()
}

/// What the proxy needs of settings numbered `generation`.
pub(super) fn edge_settings(
    settings: &Settings,
    callers: Arc<Callers>,
    presented: Vec<Presented>,
    tls: Tls,
    generation: u32,
) -> EdgeSettings {
    let backends = settings.pool.backends.iter().zip(&settings.upstreams).zip(presented);
    let backends = backends
        .map(|((backend, upstream), presented)| {
            let (name, deployments) = (Arc::clone(&backend.name), backend.deployments.clone());
            (name, upstream.origin.clone(), presented, deployments)
        })
        .collect();
    EdgeSettings {
        generation,
        callers,
        proxy: settings.proxy.clone(),
        backends,
        tls,
        connect_timeout: settings.upstream.connect_timeout,
    }
}
