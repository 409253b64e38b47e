//! What can be seen of a running balancer, from any thread.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::certificate::ListenerCertificate;
use super::explain::explain;
use crate::admin::Failed;
use crate::admin::explain::{ExplainAsk, ExplainDocument};
use crate::admin::status::{
    BackendStatus, ByCaller, CallersStatus, DeploymentStatus, ObjectsStatus, StatusDocument, TokensStatus,
};
use crate::balance::PoolSnapshot;
use crate::identity::token::Slot;
use crate::proxy::Shared;
use crate::telemetry::callers::CallersLately;
use crate::telemetry::clock;
use crate::telemetry::metrics::{Lost, Metrics, PoolGauges};
use crate::telemetry::sink::Sink;
use crate::telemetry::traces::Spans;

/// What can be seen from any thread.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) spans: Arc<Spans>,
    pub(super) callers: Arc<Mutex<CallersLately>>,
    /// Callers' connections beyond the bound.
    pub(super) refused: Arc<AtomicU64>,
    pub(super) sink: Sink,
    pub(super) started: Instant,
    pub(super) listen: SocketAddr,
    pub(super) certificate: Option<ListenerCertificate>,
    pub(super) admin: Option<SocketAddr>,
    /// By the pool's index: where a backend's token lies, if it is called with one.
    pub(super) tokens: Arc<Mutex<Vec<Option<Slot>>>>,
}

impl View {
    pub(super) fn pool(&self) -> PoolSnapshot {
        self.shared.pool().snapshot(clock::now())
    }

    pub(super) fn tokens(&self) -> Vec<Option<Slot>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells the pool and the callers that wait which backends have a valid token.
    pub(super) fn tell_credentials(&self) {
        let now = clock::now();
        let ready = |slot: &Option<Slot>| slot.as_ref().is_none_or(|slot| slot.current(now).is_some());
        self.shared.set_credentials(self.tokens().iter().map(ready));
    }

    /// Where callers find it.
    pub(super) fn url(&self) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.listen)
    }

    pub(super) fn status(&self, snapshot: &PoolSnapshot) -> StatusDocument {
        let totals = self.metrics.totals();
        StatusDocument {
            version: env!("CARGO_PKG_VERSION"),
            now_ms: clock::unix_ms(),
            uptime_seconds: clock::now().saturating_duration_since(self.started).as_secs_f64(),
            listen: self.url(),
            certificate: self.certificate.as_ref().map(ListenerCertificate::status),
            admin: self.admin.map(|admin| format!("http://{admin}")),
            draining: self.shared.health.draining(),
            callers: CallersStatus {
                held: self.shared.held(),
                connections_refused_total: self.refused.load(Ordering::Relaxed),
                ..CallersStatus::from(&totals)
            },
            tokens: TokensStatus::from(&totals),
            by_caller: ByCaller::from(self.look_at_callers().told()),
            objects: ObjectsStatus::from(self.shared.pins().counts()),
            backends: snapshot
                .backends
                .iter()
                .zip(self.tokens().into_iter().chain(std::iter::repeat(None)))
                .map(|(backend, slot)| {
                    let state = slot.map(|slot| slot.state()).unwrap_or_default();
                    let left = |at: Instant| at.saturating_duration_since(clock::now()).as_secs();
                    BackendStatus {
                        credential_cause: state.trouble.as_deref().map(str::to_owned),
                        credential_valid_seconds: state.held.map(|held| left(held.expires)),
                        credential_next_try_seconds: state.next.map(left),
                        ..BackendStatus::from(backend)
                    }
                })
                .collect(),
            deployments: snapshot.deployments.iter().map(DeploymentStatus::from).collect(),
        }
    }

    /// What callers did not get so far.
    pub(super) fn failed(&self) -> Failed {
        Failed { requests: self.metrics.totals().failed, connections: self.refused.load(Ordering::Relaxed) }
    }

    pub(super) fn look_at_callers(&self) -> MutexGuard<'_, CallersLately> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        callers.look(clock::now(), self.metrics.callers());
        callers
    }

    pub(super) fn explain(&self, ask: &ExplainAsk) -> Result<ExplainDocument, String> {
        explain(&self.shared.pool(), clock::now(), ask)
    }

    pub(super) fn metrics(&self) -> String {
        let lost = Lost {
            log_lines: self.sink.dropped(),
            spans: self.spans.dropped(),
            connections: self.refused.load(Ordering::Relaxed),
        };
        self.metrics.render(PoolGauges::from(&self.pool()), lost)
    }

    pub(super) fn set_drained(&self, name: &str, drained: bool) -> bool {
        let mut pool = self.shared.pool();
        let snapshot = pool.snapshot(clock::now());
        let Some(index) = snapshot.backends.iter().position(|backend| &*backend.name == name) else {
            return false;
        };
        pool.set_drained(index, drained);
        drop(pool);
        self.shared.stir.stir();
        self.shared.look_again();
        if drained {
            tracing::info!(backend = name, "drained by an operator");
        } else {
            tracing::info!(backend = name, "resumed by an operator");
        }
        true
    }
}
