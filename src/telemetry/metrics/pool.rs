//! The pool's snapshot as gauges.

use std::sync::Arc;

use crate::balance::PoolSnapshot;

use super::{BackendGauge, LaneGauge, PoolGauges};

impl From<&PoolSnapshot> for PoolGauges {
    fn from(pool: &PoolSnapshot) -> Self {
        let backends = pool.backends.iter().map(|backend| BackendGauge {
            name: Arc::clone(&backend.name),
            in_flight: backend.tally.in_flight,
            credential_ready: backend.credential_ready,
            lanes: backend
                .lanes
                .iter()
                .map(|lane| LaneGauge {
                    deployment: Arc::clone(&lane.deployment),
                    known: lane.known,
                    state: lane.state.word(),
                    remaining: lane.remaining,
                    quota: lane.quota,
                })
                .collect(),
        });
        Self { backends: backends.collect(), deployments: pool.deployments.clone() }
    }
}
