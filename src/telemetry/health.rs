//! Are we well, are we ready: one answer, for both listeners.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::StatusCode;

/// What readiness is made of; one per process, told by `app`.
///
/// Throttling is no part of it: an exhausted balancer still answers honestly, and a platform that takes it away
/// makes things worse.
#[derive(Debug, Default)]
pub struct Health {
    listening: AtomicBool,
    draining: AtomicBool,
    credentials: AtomicUsize,
}

/// Whether requests should be sent to us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Readiness {
    /// Yes.
    Ready,
    /// The callers' listener is not open yet.
    Starting,
    /// We are about to stop.
    Draining,
    /// No backend has its credential.
    NoCredential,
}

impl Health {
    /// The callers' listener is open.
    pub fn set_listening(&self) {
        self.listening.store(true, Ordering::Relaxed);
    }

    /// We are about to stop; there is no way back.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// So many backends have their credential.
    pub fn set_credentials(&self, backends: usize) {
        self.credentials.store(backends, Ordering::Relaxed);
    }

    /// True from the moment a stop was asked for.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether requests should be sent to us.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        if self.draining() {
            Readiness::Draining
        } else if !self.listening.load(Ordering::Relaxed) {
            Readiness::Starting
        } else if self.credentials.load(Ordering::Relaxed) == 0 {
            Readiness::NoCredential
        } else {
            Readiness::Ready
        }
    }
}

/// The answer to a health path, `None` for any other path. Liveness depends on nothing.
#[must_use]
pub fn health(path: &str, readiness: Readiness) -> Option<(StatusCode, &'static str)> {
    match path {
        "/healthz" | "/livez" => Some((StatusCode::OK, "ok\n")),
        "/readyz" => Some(match readiness {
            Readiness::Ready => (StatusCode::OK, "ready\n"),
            Readiness::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            Readiness::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            Readiness::NoCredential => {
                (StatusCode::SERVICE_UNAVAILABLE, "no backend has its credential yet\n")
            }
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_listening_with_a_credential_and_not_draining() {
        let health = Health::default();
        assert_eq!(health.readiness(), Readiness::Starting);
        health.set_listening();
        assert_eq!(health.readiness(), Readiness::NoCredential);
        health.set_credentials(1);
        assert_eq!(health.readiness(), Readiness::Ready);
        health.set_draining();
        assert_eq!(health.readiness(), Readiness::Draining);
    }

    #[test]
    fn liveness_holds_whatever_readiness_says() {
        for path in ["/healthz", "/livez"] {
            assert_eq!(health(path, Readiness::Draining).map(|(status, _)| status), Some(StatusCode::OK));
        }
        assert_eq!(health("/readyz", Readiness::Ready), Some((StatusCode::OK, "ready\n")));
        for not in [Readiness::Starting, Readiness::Draining, Readiness::NoCredential] {
            assert_eq!(
                health("/readyz", not).map(|(status, _)| status),
                Some(StatusCode::SERVICE_UNAVAILABLE)
            );
        }
        assert_eq!(health("/healthz/x", Readiness::Ready), None);
    }
}
