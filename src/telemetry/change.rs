//! State changes of lanes and backends, one log line each.

use std::time::Duration;

use crate::balance::Change;

/// What stands for the whole backend.
const EVERY: &str = "all";
/// What stands for the lane of requests that name no deployment.
const UNNAMED: &str = "none";

/// Writes one change to the log: what, where, why, how long.
pub fn tell(change: &Change) {
    match change {
        Change::CooldownBegan { backend, deployment, reason, duration } => {
            let deployment = shown(deployment);
            let ms = milliseconds(*duration);
            tracing::info!(%backend, %deployment, cause = %reason, ms, "cooldown began");
        }
        Change::CooldownEnded { backend, deployment } => {
            let deployment = shown(deployment);
            tracing::info!(%backend, %deployment, "cooldown ended");
        }
        Change::Resting { backend, deployment, reason, duration } => {
            let deployment = deployment.as_deref().map_or(EVERY, shown);
            let ms = milliseconds(*duration);
            tracing::warn!(%backend, %deployment, cause = %reason, ms, "resting after failures");
        }
        Change::Recovered { backend, deployment } => {
            let deployment = deployment.as_deref().map_or(EVERY, shown);
            tracing::info!(%backend, %deployment, "recovered");
        }
        Change::Refused { backend, family, status, duration } => {
            let ms = milliseconds(*duration);
            tracing::error!(%backend, family, status, ms, "the backend refuses our credential");
        }
        Change::Absent { backend, deployment, duration } => {
            let deployment = shown(deployment);
            let ms = milliseconds(*duration);
            tracing::warn!(%backend, %deployment, ms, "the backend does not have this deployment");
        }
        Change::Unsupported { backend, deployment, operation, duration } => {
            let deployment = shown(deployment);
            let ms = milliseconds(*duration);
            tracing::warn!(%backend, %deployment, operation, ms, "the deployment does not do this operation");
        }
        Change::TooLarge { backend, deployment, charge, duration } => {
            let deployment = shown(deployment);
            let ms = milliseconds(*duration);
            tracing::info!(%backend, %deployment, tokens = charge, ms, "requests of this size are kept away");
        }
        Change::Lost { count } => tracing::warn!(count, "state changes came faster than they could be told"),
    }
}

fn shown(deployment: &str) -> &str {
    if deployment.is_empty() { UNNAMED } else { deployment }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
