//! A certificate for loopback, by an authority that the suites are told to trust.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// PEM files.
pub(crate) struct Files {
    pub(crate) authority: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

pub(crate) fn write(folder: &Path) -> Files {
    let files = Files {
        authority: folder.join("authority.pem"),
        certificate: folder.join("certificate.pem"),
        key: folder.join("key.pem"),
    };
    let key = || KeyPair::generate().expect("keys can be made");
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Named like what it signs, it would be taken for it.
    params.distinguished_name.push(DnType::CommonName, "Authority of the test");
    let authority = CertifiedIssuer::self_signed(params, key()).expect("it signs itself");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
    let own = key();
    let certificate = params.signed_by(&own, &authority).expect("it is signed");
    for (file, text) in [
        (&files.authority, authority.pem()),
        (&files.certificate, certificate.pem()),
        (&files.key, own.serialize_pem()),
    ] {
        std::fs::write(file, text).expect("the temporary folder is writable");
    }
    files
}
