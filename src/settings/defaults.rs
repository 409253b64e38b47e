//! What holds where nothing was set. `config/sidestep.toml` shows the same; a test compares them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::net::upstream::UpstreamSettings;
use crate::openai::FAMILIES;
use crate::proxy::ProxySettings;
use crate::telemetry::{LogFormat, LogSettings};

pub(super) const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
pub(super) const ADMIN_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9080);
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);
pub(super) const LANES: usize = 10_000;
pub(super) const IDS: usize = 100_000;
pub(super) const PRIORITY: u32 = 1;

/// Platforms keep routing to us for seconds after they asked us to stop; nobody routes to loopback.
pub(super) fn drain_delay(listen: SocketAddr) -> Duration {
    if listen.ip().is_loopback() { Duration::ZERO } else { Duration::from_secs(5) }
}

/// Who issues tokens in the public cloud.
pub(super) const AUTHORITY: &str = "https://login.microsoftonline.com";

/// For whom the SDKs ask Entra ID for tokens, older and newer ones (azure-openai.md 6).
pub(super) const AUDIENCES: [&str; 2] = ["https://cognitiveservices.azure.com", "https://ai.azure.com"];

/// All but what changes models and costs by itself. `other` are operations that we do not know.
pub(super) fn operations() -> Vec<&'static str> {
    FAMILIES.into_iter().filter(|family| !matches!(*family, "fine-tuning" | "evals")).collect()
}

pub(super) fn upstream() -> UpstreamSettings {
    UpstreamSettings { connect_timeout: Duration::from_secs(5), ca_file: None }
}

pub(super) fn proxy() -> ProxySettings {
    ProxySettings {
        deadline: Duration::from_secs(600),
        first_byte_timeout: None,
        first_event_timeout: Some(Duration::from_secs(120)),
        stream_idle_timeout: Some(Duration::from_secs(600)),
        hold: None,
        held: 1_000,
        explain_headers: true,
        path_prefix: String::new(),
        forward_headers: Vec::new(),
        body_idle: Duration::from_secs(60),
        request_replay: 64 << 20,
        request_hard_limit: 1 << 30,
        buffered: 1 << 30,
    }
}

pub(super) fn log() -> LogSettings {
    LogSettings { level: "info".to_owned(), format: LogFormat::Text }
}
