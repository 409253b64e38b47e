//! The listener's certificate over time: read again when its files change (cert-manager, certbot), told before it ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use crate::admin::status::CertificateStatus;
use crate::net::certificate::{self, CertificateProblem, CertificateSettings, Half, ListenerTls, Loaded};
use crate::telemetry::clock;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(2);

/// A certificate that ends within this is told.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// The mark of files that cannot be read; no others have it, but for a chance in 2⁶⁴.
const UNREADABLE: u64 = 0;

/// The listener's certificate; clones share it.
#[derive(Clone, Debug)]
pub(super) struct ListenerCertificate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tls: ListenerTls,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    settings: CertificateSettings,
    /// Of what was judged last, good or not.
    judged: u64,
    /// Why the files are not used.
    problem: Option<String>,
    /// That it ends soon was told.
    told: bool,
}

/// With the key path in front.
pub(super) fn sentence(problem: &CertificateProblem) -> String {
    let half = match problem.half {
        Half::Certificate => "certificate",
        Half::Key => "key",
    };
    format!("server.tls.{half}: {}: expected {}", problem.place, problem.expected)
}

impl ListenerCertificate {
    /// Reads the files.
    pub(super) fn new(settings: CertificateSettings) -> Result<Self, String> {
        let loaded = certificate::load(&settings).map_err(|problem| sentence(&problem))?;
        let judged = loaded.mark();
        let tls = ListenerTls::new(loaded).map_err(|error| format!("TLS cannot be set up: {error}"))?;
        let state = Mutex::new(State { settings, judged, problem: None, told: false });
        Ok(Self(Arc::new(Shared { tls, state })))
    }

    /// For the workers.
    pub(super) fn tls(&self) -> &ListenerTls {
        &self.0.tls
    }

    /// Other settings, or the same ones read again because an operator asks for it.
    pub(super) fn take(&self, settings: CertificateSettings, loaded: Loaded) {
        self.state().settings = settings;
        self.exchange(loaded);
    }

    /// For the status document.
    pub(super) fn status(&self) -> CertificateStatus {
        let facts = self.0.tls.facts();
        let left = facts.as_ref().map(|facts| facts.left(clock::wall()));
        CertificateStatus {
            subject: facts.as_ref().map(|facts| facts.subject.clone()),
            ends_ms: facts.as_ref().map(|facts| facts.not_after.saturating_mul(1000)),
            ends_soon: left.is_some_and(|left| left < SOON),
            problem: self.state().problem.clone(),
        }
    }

    /// Looks at the files from time to time, for ever. Off this thread, which accepts connections: the files may lie
    /// on a network.
    pub(super) async fn watch(self) {
        let mut seen = None;
        loop {
            self.tell_its_end();
            sleep(LOOK).await;
            let settings = self.state().settings.clone();
            let looked = tokio::task::spawn_blocking(move || certificate::look(&settings)).await;
            let now = looked.ok().flatten().unwrap_or(UNREADABLE);
            // Two files do not change at one moment: they are judged once they have stood still.
            let still = seen.replace(now) == Some(now);
            let judged = self.state().judged;
            if still && now != judged {
                self.judge(now).await;
            }
        }
    }

    async fn judge(&self, mark: u64) {
        let settings = self.state().settings.clone();
        let asked = settings.clone();
        let loaded = tokio::task::spawn_blocking(move || certificate::load(&asked)).await;
        if self.state().settings != settings {
            return;
        }
        match loaded {
            Ok(Ok(loaded)) => self.exchange(loaded),
            Ok(Err(problem)) => {
                let reason = sentence(&problem);
                tracing::error!(%reason, "certificate not reloaded, the old one stays");
                let mut state = self.state();
                state.judged = mark;
                state.problem = Some(reason);
            }
            // The runtime ends.
            Err(_) => {}
        }
    }

    fn exchange(&self, loaded: Loaded) {
        {
            let mut state = self.state();
            let same = state.judged == loaded.mark() && state.problem.is_none();
            state.judged = loaded.mark();
            state.problem = None;
            if same {
                return;
            }
            state.told = false;
        }
        self.0.tls.exchange(loaded);
        match self.0.tls.facts() {
            Some(facts) => tracing::info!(certificate = %facts, "certificate reloaded"),
            None => tracing::info!("certificate reloaded"),
        }
        self.tell_its_end();
    }

    fn tell_its_end(&self) {
        let Some(facts) = self.0.tls.facts() else { return };
        let now = clock::wall();
        let left = facts.left(now);
        if left >= SOON || std::mem::replace(&mut self.state().told, true) {
            return;
        }
        if left.is_zero() {
            tracing::warn!(certificate = %facts, "the listener's certificate has expired");
        } else {
            let days = left.as_secs() / (24 * 3600);
            tracing::warn!(certificate = %facts, days, "the listener's certificate expires soon");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::path::Path;

    use tokio::runtime::{Builder, LocalOptions};
    use tracing::field::{Field, Visit};
    use tracing_subscriber::Layer;
    use tracing_subscriber::layer::{Context, SubscriberExt as _};

    use super::*;
    use crate::net::certificate::Pem;

    /// Keeps the messages that are logged on this thread.
    #[derive(Clone, Default)]
    struct Told(Arc<Mutex<Vec<String>>>);

    impl<S: tracing::Subscriber> Layer<S> for Told {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            struct Message<'a>(&'a mut Vec<String>);
            impl Visit for Message<'_> {
                fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                    if field.name() == "message" {
                        self.0.push(format!("{value:?}"));
                    }
                }
            }
            if event.metadata().target().starts_with("sidestep") {
                event.record(&mut Message(&mut self.0.lock().unwrap()));
            }
        }
    }

    impl Told {
        /// What came since the last time.
        fn now(&self) -> Vec<String> {
            std::mem::take(&mut *self.0.lock().unwrap())
        }
    }

    struct Pair(String, String);

    impl Pair {
        fn new() -> Self {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
            Self(made.cert.pem(), made.signing_key.serialize_pem())
        }

        fn write_certificate(&self, folder: &Path) {
            std::fs::write(folder.join("tls.crt"), &self.0).unwrap();
        }

        fn write_key(&self, folder: &Path) {
            std::fs::write(folder.join("tls.key"), &self.1).unwrap();
        }
    }

    #[test]
    fn files_are_judged_once_they_have_stood_still_and_what_is_wrong_is_told_once() {
        let told = Told::default();
        let _heard = tracing::subscriber::set_default(tracing_subscriber::registry().with(told.clone()));
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let (first, second) = (Pair::new(), Pair::new());
        first.write_certificate(at);
        first.write_key(at);
        let file = |name: &str| Pem::File(at.join(name));
        let settings = CertificateSettings { certificate: file("tls.crt"), key: file("tls.key") };
        let certificate = ListenerCertificate::new(settings).unwrap();
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            tokio::task::spawn_local(certificate.clone().watch());
            sleep(LOOK * 10).await;
            assert_eq!(told.now(), [""; 0], "nothing has changed");
            // Half of the change may be seen by one look, not by two.
            second.write_key(at);
            sleep(LOOK * 3 / 4).await;
            second.write_certificate(at);
            sleep(LOOK * 10).await;
            assert_eq!(told.now(), ["certificate reloaded"]);
            first.write_key(at);
            sleep(LOOK * 10).await;
            assert_eq!(told.now(), ["certificate not reloaded, the old one stays"]);
            assert!(certificate.status().problem.is_some());
            std::fs::remove_file(at.join("tls.key")).unwrap();
            sleep(LOOK * 10).await;
            assert_eq!(told.now(), ["certificate not reloaded, the old one stays"]);
            second.write_key(at);
            sleep(LOOK * 10).await;
            assert_eq!(told.now(), ["certificate reloaded"]);
            assert_eq!(certificate.status().problem, None);
        });
    }
}
