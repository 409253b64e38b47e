//! Notes what certificate a backend shows, so that a refused one can be told with its issuer and its end: the TLS
//! library says that it is not trusted, not whose it is. Whom to trust stays the library's decision.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use super::x509::CertificateFacts;

/// What was shown last; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<Mutex<Option<CertificateFacts>>>);

impl Seen {
    /// The certificate that was shown last.
    #[must_use]
    pub fn certificate(&self) -> Option<CertificateFacts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes, then asks the one who decides.
    pub(crate) fn before(self, decides: Arc<WebPkiServerVerifier>) -> Noting {
        Noting { seen: self, decides }
    }
}

/// Notes, then asks the one who decides.
#[derive(Debug)]
pub(crate) struct Noting {
    seen: Seen,
    decides: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Noting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.seen.0.lock().unwrap_or_else(PoisonError::into_inner) = CertificateFacts::read(end_entity);
        self.decides.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.decides.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.decides.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.decides.supported_verify_schemes()
    }
}
