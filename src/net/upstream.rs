//! The one seam to the backends: send a head and body bytes, get a head and a body.

use std::time::Duration;

/// How the upstream side connects and keeps connections.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// TCP, TLS and name look-up together.
    pub connect_timeout: Duration,
    /// PEM file of further roots, beside the platform's.
    pub ca_file: Option<std::path::PathBuf>,
}

/// Where a backend stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Origin {
    /// `https`, else plain `http`.
    pub tls: bool,
    /// Host name or IP literal, without brackets.
    pub host: String,
    /// Port, 443 or 80 when the address names none.
    pub port: u16,
    /// Path prefix without trailing slash, usually empty.
    pub path_prefix: String,
    /// Speak HTTP/2 (by ALPN over TLS, by prior knowledge otherwise).
    pub http2: bool,
}
