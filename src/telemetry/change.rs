//! State changes of lanes and backends, one log line each.

use crate::balance::Change;

/// Writes one change to the log: what, where, why, how long.
pub fn tell(change: &Change) {
    match change {
        Change::CooldownBegan { backend, deployment, reason, duration } => {
            let ms = duration.as_millis();
            tracing::info!(%backend, %deployment, cause = %reason, ms, "cooldown began");
        }
        Change::CooldownEnded { backend, deployment } => {
            tracing::info!(%backend, %deployment, "cooldown ended");
        }
        Change::Resting { backend, deployment, reason, duration } => {
            let deployment = deployment.as_deref().unwrap_or("all");
            let ms = duration.as_millis();
            tracing::warn!(%backend, %deployment, cause = %reason, ms, "resting after failures");
        }
        Change::Recovered { backend, deployment } => {
            let deployment = deployment.as_deref().unwrap_or("all");
            tracing::info!(%backend, %deployment, "recovered");
        }
        Change::Refused { backend, family, status, duration } => {
            let ms = duration.as_millis();
            tracing::error!(%backend, family, status, ms, "the backend refuses our credential");
        }
        Change::Absent { backend, deployment, duration } => {
            let ms = duration.as_millis();
            tracing::warn!(%backend, %deployment, ms, "the backend does not have this deployment");
        }
        Change::Unsupported { backend, deployment, operation, duration } => {
            let ms = duration.as_millis();
            tracing::warn!(%backend, %deployment, operation, ms, "the deployment does not do this operation");
        }
        Change::TooLarge { backend, deployment, charge, duration } => {
            let ms = duration.as_millis();
            tracing::info!(%backend, %deployment, tokens = charge, ms, "requests of this size are kept away");
        }
        Change::Lost { count } => tracing::warn!(count, "state changes came faster than they could be told"),
    }
}
