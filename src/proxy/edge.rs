//! Where the backends of one generation of settings stand and with what they are called, on one worker.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use thiserror::Error;
use tokio::time::timeout_at;

use super::ProxySettings;
use crate::balance::Deployments;
use crate::identity::Presented;
use crate::identity::callers::Callers;
use crate::net::connect::Connector;
use crate::net::upstream::{Origin, Tls, UnusableOrigin, Upstream};
use crate::telemetry::clock;

/// What an edge is made of; the same for all workers.
#[derive(Clone, Debug)]
pub struct EdgeSettings {
    /// The pool's generation that it belongs to.
    pub generation: u32,
    /// Who may call; one for all workers, so that a caller's limit is one.
    pub callers: Arc<Callers>,
    /// How requests are treated.
    pub proxy: ProxySettings,
    /// By the pool's index.
    pub backends: Vec<(Arc<str>, Origin, Presented, Deployments)>,
    /// TLS to all of them.
    pub tls: Tls,
    /// TCP, TLS and name look-up together.
    pub connect_timeout: Duration,
}

/// An edge that cannot be made.
#[derive(Debug, Error)]
pub enum UnusableEdge {
    /// A backend's address.
    #[error(transparent)]
    Origin(#[from] UnusableOrigin),
}

/// One generation of settings, on one worker.
#[derive(Debug)]
pub struct Edge {
    pub(super) generation: u32,
    pub(super) settings: ProxySettings,
    pub(super) callers: Arc<Callers>,
    pub(super) names: Vec<Arc<str>>,
    pub(super) backends: Vec<EdgeBackend>,
}

/// One backend.
#[derive(Debug)]
pub(super) struct EdgeBackend {
    pub(super) upstream: Upstream,
    pub(super) path_prefix: String,
    pub(super) credential: Presented,
    /// For a deployment that a header names; the others were mapped by the pool.
    pub(super) deployments: Arc<Deployments>,
    /// For `x-sidestep-backend`, made once.
    pub(super) name: HeaderValue,
}

impl Edge {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// An address cannot be sent.
    pub fn new(settings: EdgeSettings) -> Result<Self, UnusableEdge> {
        let network = settings.tls.network();
        Self::over(&network, settings)
    }

    /// The same over another network than the machine's.
    ///
    /// # Errors
    /// An address cannot be sent.
    pub fn over(connector: &Connector, settings: EdgeSettings) -> Result<Self, UnusableEdge> {
        let names = settings.backends.iter().map(|(name, ..)| Arc::clone(name)).collect();
        let mut backends = Vec::with_capacity(settings.backends.len());
        for (name, origin, credential, deployments) in settings.backends {
            backends.push(EdgeBackend {
                path_prefix: origin.path_prefix.clone(),
                upstream: Upstream::over(connector, origin, &settings.tls, settings.connect_timeout)?
                    .with_spare(&settings.tls),
                credential,
                deployments: Arc::new(deployments),
                name: HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("unnamed")),
            });
        }
        Ok(Self {
            generation: settings.generation,
            settings: settings.proxy,
            callers: settings.callers,
            names,
            backends,
        })
    }
}

impl Edge {
    /// No connection to this one is kept.
    pub(super) fn let_go(&self, backend: &str) {
        let of_name = self.names.iter().zip(&self.backends).filter(|(name, _)| ***name == *backend);
        of_name.for_each(|(_, backend)| backend.upstream.let_go());
    }
}

impl EdgeBackend {
    /// With what one request is sent now; `callers` are those who admitted it. `None` when it brings no token where its
    /// own is wanted, or when ours has ended since the backend was picked.
    pub(super) fn credential(&self, now: Instant, callers: &Callers, from: &HeaderMap) -> Option<Sent> {
        match &self.credential {
            Presented::Header(name, value) => {
                Some(Sent { header: Some((name.clone(), value.clone())), token: None })
            }
            Presented::Token(slot) => {
                let held = slot.current(now)?;
                Some(Sent { header: Some((AUTHORIZATION, held.header)), token: Some(held.serial) })
            }
            Presented::Caller => {
                let header = (AUTHORIZATION, callers.own_token(from)?);
                Some(Sent { header: Some(header), token: None })
            }
        }
    }
}

impl EdgeBackend {
    /// Whether there is a newer token than this rejected one, within the time. Nothing was done with the rejected one,
    /// so with the newer one the request is sent once more.
    /// Where the request cannot be sent again, the token is renewed for those that come after it.
    pub(super) async fn renewed(&self, rejected: Option<u64>, repeatable: bool, limit: Instant) -> bool {
        let (Presented::Token(slot), Some(serial)) = (&self.credential, rejected) else { return false };
        if !repeatable {
            slot.rejected(serial, clock::now());
            return false;
        }
        let newer = timeout_at(limit.into(), slot.newer_than(serial, clock::now())).await;
        newer.is_ok_and(|newer| newer.is_some())
    }
}

/// What one request was sent with.
pub(super) struct Sent {
    pub(super) header: Option<(HeaderName, HeaderValue)>,
    /// Which of its source's tokens it was, if it was one.
    pub(super) token: Option<u64>,
}

/// The generations that requests may still meet: the present one and, around a reload, its neighbour.
#[derive(Debug)]
pub(super) struct Edges(RefCell<Vec<Rc<Edge>>>);

impl Edges {
    pub(super) fn new(edge: Edge) -> Self {
        Self(RefCell::new(vec![Rc::new(edge)]))
    }

    pub(super) fn push(&self, edge: Edge) {
        let mut edges = self.0.borrow_mut();
        if edges.len() == 2 {
            edges.remove(0);
        }
        for backend in edges.iter().flat_map(|edge| &edge.backends) {
            backend.upstream.retire();
        }
        edges.push(Rc::new(edge));
    }

    pub(super) fn newest(&self) -> Rc<Edge> {
        Rc::clone(
            self.0.borrow().last().expect("never empty: made with one, and one goes only when one comes"),
        )
    }

    /// The edge of a generation. Between two reloads at most two are alive, and the pool never names another; if it
    /// did, the same number could mean another backend, with another's credential.
    pub(super) fn of(&self, generation: u32) -> Option<Rc<Edge>> {
        self.0.borrow().iter().rev().find(|edge| edge.generation == generation).map(Rc::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::CallerSettings;

    fn edge(generation: u32) -> Edge {
        let settings = ProxySettings {
            deadline: Duration::from_secs(1),
            first_byte_timeout: None,
            first_event_timeout: None,
            stream_idle_timeout: None,
            hold: None,
            held: 0,
            explain_headers: true,
            path_prefix: String::new(),
            forward_headers: Vec::new(),
            body_idle: Duration::from_secs(1),
            request_replay: 0,
            request_hard_limit: 0,
            buffered: 0,
        };
        let callers = Callers::new(CallerSettings::default(), ([127, 0, 0, 1], 0).into(), None).into();
        Edge { generation, settings, callers, names: Vec::new(), backends: Vec::new() }
    }

    #[test]
    fn of_settings_that_are_not_known_there_is_no_backend_rather_than_another() {
        let edges = Edges::new(edge(0));
        edges.push(edge(1));
        edges.push(edge(2));
        let known = [0, 1, 2, 3].map(|generation| edges.of(generation).map(|edge| edge.generation));
        assert_eq!(known, [None, Some(1), Some(2), None]);
    }
}
