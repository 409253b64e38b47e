//! The certificate and key that callers' connections are encrypted with, and their exchange while running.
//!
//! One `ListenerTls` for all workers: connections that are open keep what they agreed on, the next handshake uses
//! what was loaded last. What is wrong with a pair on disk is found when it is loaded, never in a handshake.

use std::fmt;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use thiserror::Error;

use super::x509::CertificateFacts;

/// A file of certificates or keys is small; the bound is against a wrong path.
const LONGEST: u64 = 1 << 20;

/// Where something in PEM stands.
#[derive(Clone, Debug)]
pub enum Pem {
    /// In a file, which may change.
    File(PathBuf),
    /// Here.
    Text(SecretString),
}

impl PartialEq for Pem {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(one), Self::File(other)) => one == other,
            (Self::Text(one), Self::Text(other)) => one.expose_secret() == other.expose_secret(),
            (Self::File(_), Self::Text(_)) | (Self::Text(_), Self::File(_)) => false,
        }
    }
}

impl fmt::Display for Pem {
    /// Never the text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Text(_) => f.write_str("the settings"),
        }
    }
}

impl Pem {
    fn read(&self) -> io::Result<SecretSlice<u8>> {
        match self {
            Self::Text(text) => Ok(text.expose_secret().as_bytes().to_vec().into()),
            Self::File(path) => {
                let mut bytes = Vec::new();
                std::fs::File::open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
                Ok(bytes.into())
            }
        }
    }
}

/// Where the pair is.
#[derive(Clone, Debug, PartialEq)]
pub struct CertificateSettings {
    /// The certificate, and after it those that lead to its root.
    pub certificate: Pem,
    /// Its private key: PKCS#8, PKCS#1 or SEC1.
    pub key: Pem,
}

/// Half of a pair.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Half {
    /// The certificate.
    Certificate,
    /// The key.
    Key,
}

/// Why a pair cannot be used. Holds nothing of the key.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{}: {place}: expected {expected}", match half { Half::Certificate => "certificate", Half::Key => "key" })]
pub struct CertificateProblem {
    /// What is wrong.
    pub half: Half,
    /// Where it stands.
    pub place: String,
    /// The end of a sentence.
    pub expected: String,
}

/// A pair that fits together.
#[derive(Debug)]
pub struct Loaded {
    pair: Arc<CertifiedKey>,
    facts: Option<CertificateFacts>,
    mark: u64,
}

/// Reads the pair and holds one half against the other.
///
/// # Errors
/// The first thing that is wrong.
pub fn load(settings: &CertificateSettings) -> Result<Loaded, CertificateProblem> {
    let wrong = |half, expected: String| {
        let place = match half {
            Half::Certificate => settings.certificate.to_string(),
            Half::Key => settings.key.to_string(),
        };
        CertificateProblem { half, place, expected }
    };
    let unreadable = |half| move |error| wrong(half, format!("a readable PEM file ({error})"));
    let certificate = settings.certificate.read().map_err(unreadable(Half::Certificate))?;
    let key = settings.key.read().map_err(unreadable(Half::Key))?;
    let chain = CertificateDer::pem_slice_iter(certificate.expose_secret()).collect::<Result<Vec<_>, _>>();
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| {
        wrong(Half::Certificate, "a PEM file: it contains `-----BEGIN CERTIFICATE-----`".to_owned())
    })?;
    let private = PrivateKeyDer::from_pem_slice(key.expose_secret()).map_err(|_| {
        let locked = memchr::memmem::find(key.expose_secret(), b"ENCRYPTED").is_some();
        let expected = if locked {
            "a private key without a password"
        } else {
            "a PEM file with a private key (PKCS#8, PKCS#1 or SEC1)"
        };
        wrong(Half::Key, expected.to_owned())
    })?;
    let ring = rustls::crypto::ring::default_provider();
    let facts = chain.first().and_then(|first| CertificateFacts::read(first));
    let pair = CertifiedKey::from_der(chain, private, &ring).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => wrong(
            Half::Key,
            format!("the key of the certificate in {}; it is another's", settings.certificate),
        ),
        rustls::Error::InvalidCertificate(_) => {
            wrong(Half::Certificate, "a certificate that can be read (X.509, version 3)".to_owned())
        }
        _ => {
            wrong(Half::Key, "an RSA key of 2048 to 8192 bits, or one of P-256, P-384 or Ed25519".to_owned())
        }
    })?;
    Ok(Loaded { pair: Arc::new(pair), facts, mark: mark(&certificate, &key) })
}

/// Changes with what the files hold; `None` when one cannot be read now.
#[must_use]
pub fn look(settings: &CertificateSettings) -> Option<u64> {
    Some(mark(&settings.certificate.read().ok()?, &settings.key.read().ok()?))
}

fn mark(certificate: &SecretSlice<u8>, key: &SecretSlice<u8>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for half in [certificate, key] {
        hasher.write_usize(half.expose_secret().len());
        hasher.write(half.expose_secret());
    }
    hasher.finish()
}

impl Loaded {
    /// What people ask about.
    #[must_use]
    pub fn facts(&self) -> Option<&CertificateFacts> {
        self.facts.as_ref()
    }

    /// As `look` tells it.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.mark
    }
}

/// TLS for callers' connections, of all workers.
#[derive(Debug)]
pub struct ListenerTls {
    config: Arc<ServerConfig>,
    live: Arc<Live>,
    facts: Mutex<Option<CertificateFacts>>,
}

/// What the next handshake uses.
#[derive(Debug)]
struct Live(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Live {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl ListenerTls {
    /// TLS 1.2 and 1.3; HTTP/2 where the caller offers it, else HTTP/1.1.
    ///
    /// # Errors
    /// The library refuses its own defaults, or there is no randomness for session tickets.
    pub fn new(loaded: Loaded) -> Result<Self, rustls::Error> {
        let live = Arc::new(Live(RwLock::new(loaded.pair)));
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Live>::clone(&live);
        let mut config = ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Sessions that callers keep themselves: no memory of ours, however many come.
        config.ticketer = rustls::crypto::ring::Ticketer::new()?;
        Ok(Self { config: Arc::new(config), live, facts: Mutex::new(loaded.facts) })
    }

    /// For the handshakes.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// From the next handshake on. Open connections notice nothing.
    pub fn exchange(&self, loaded: Loaded) {
        *self.live.0.write().unwrap_or_else(PoisonError::into_inner) = loaded.pair;
        *self.locked() = loaded.facts;
    }

    /// Of the certificate that is used now.
    #[must_use]
    pub fn facts(&self) -> Option<CertificateFacts> {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, Option<CertificateFacts>> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;

    fn pair(certificate: &str, key: &str) -> CertificateSettings {
        CertificateSettings { certificate: Pem::Text(certificate.into()), key: Pem::Text(key.into()) }
    }

    fn certificate_of(key: &KeyPair) -> String {
        rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(key).unwrap().pem()
    }

    #[test]
    fn keys_of_the_usual_kinds_are_taken() {
        for key in [
            KeyPair::generate().unwrap(),
            KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(),
            KeyPair::generate_for(&PKCS_ED25519).unwrap(),
        ] {
            let loaded = load(&pair(&certificate_of(&key), &key.serialize_pem())).unwrap();
            assert!(loaded.facts().is_some());
            ListenerTls::new(loaded).unwrap();
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_half_and_its_place_and_nothing_of_the_key() {
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let (certificate, key, other) = (certificate_of(&key), key.serialize_pem(), other.serialize_pem());
        let locked = key.replace("PRIVATE", "ENCRYPTED PRIVATE");
        let torn = key.replace("MIG", "XXX");
        for (settings, half, word) in [
            (pair(&certificate, &other), Half::Key, "the key of the certificate in the settings"),
            (pair(&key, &key), Half::Certificate, "-----BEGIN CERTIFICATE-----"),
            (pair("", &key), Half::Certificate, "-----BEGIN CERTIFICATE-----"),
            (pair(&certificate, &certificate), Half::Key, "a private key (PKCS#8, PKCS#1 or SEC1)"),
            (pair(&certificate, &locked), Half::Key, "without a password"),
            (pair(&certificate, &torn), Half::Key, "an RSA key of 2048"),
        ] {
            let problem = load(&settings).unwrap_err();
            assert_eq!(problem.half, half, "{problem}");
            assert!(problem.expected.contains(word), "{problem}");
            let shown = format!("{problem}{problem:?}{settings:?}");
            let secret = key.lines().nth(1).unwrap();
            assert!(!shown.contains(&secret[..20]) && !shown.contains(&other.lines().nth(1).unwrap()[..20]));
        }
        let nowhere = CertificateSettings {
            certificate: Pem::File("/nowhere/tls.crt".into()),
            key: Pem::File("/nowhere/tls.key".into()),
        };
        assert_eq!(load(&nowhere).unwrap_err().place, "/nowhere/tls.crt");
        assert_eq!(look(&nowhere), None);
    }
}
