//! File and environment → raw → resolved; all problems at once.

use std::net::SocketAddr;
use std::time::Duration;

use secrecy::SecretString;

use crate::balance::PoolSettings;
use crate::identity::{CallerSettings, Credential};
use crate::net::server::ServerLimits;
use crate::net::upstream::{Origin, UpstreamSettings};
use crate::proxy::ProxySettings;
use crate::telemetry::LogSettings;

/// Everything `sidestep serve` needs to know. Cannot be wrong once it exists.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Callers' listener.
    pub listen: SocketAddr,
    /// Operators' listener.
    pub admin_listen: Option<SocketAddr>,
    /// Required on the operators' listener when set.
    pub admin_token: Option<SecretString>,
    /// Worker threads; `None` is one per core, at most 4.
    pub workers: Option<std::num::NonZeroUsize>,
    /// `/readyz` says 503 for so long before we stop accepting; zero on loopback unless set.
    pub drain_delay: Duration,
    /// Then streams may take so long to end.
    pub drain_timeout: Duration,
    /// Bounds of the server side.
    pub server: ServerLimits,
    /// Who may call.
    pub callers: CallerSettings,
    /// What is balanced.
    pub pool: PoolSettings,
    /// Same order and length as `pool.backends`.
    pub upstreams: Vec<UpstreamBackend>,
    /// How we connect to them.
    pub upstream: UpstreamSettings,
    /// How requests are treated.
    pub proxy: ProxySettings,
    /// The log.
    pub log: LogSettings,
    /// What an operator should know: cut addresses, unsafe choices. One sentence each.
    pub notes: Vec<String>,
}

/// Where a backend stands and with what it is called.
#[derive(Clone, Debug)]
pub struct UpstreamBackend {
    /// Address.
    pub origin: Origin,
    /// Credential.
    pub credential: Credential,
}
