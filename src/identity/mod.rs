//! Who may call us, and with what we call the backends.
//!
//! Owns: callers' keys and their comparison ([`callers`]), which web pages may call ([`pages`]), tokens for the
//! backends ([`token`]), and a backend's credential as a header. It does not route, limit or answer: it says who somebody is, `proxy` acts on it.
//!
//! Why keys are compared the way they are: every key is compared with every presented one, each time, in constant
//! time, so that neither the time nor the order of the settings tells how close a guess was.

use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;

pub mod callers;
pub mod pages;
pub mod token;

use self::token::{Slot, TokenSettings};

/// Who may call; `[callers]`.
#[derive(Clone, Debug, Default)]
pub struct CallerSettings {
    /// Anyone may call.
    pub anonymous: bool,
    /// Named keys.
    pub keys: Vec<CallerKey>,
    /// Origins of web pages that may call (`https://app.example`), besides none.
    pub origins: Vec<String>,
}

/// One caller's key.
#[derive(Clone, Debug)]
pub struct CallerKey {
    /// For log and metrics.
    pub name: Arc<str>,
    /// The key itself.
    pub key: SecretString,
}

/// With what a backend is called, as the settings say.
#[derive(Clone, Debug)]
pub enum Credential {
    /// `api-key: …`
    ApiKey(SecretString),
    /// `Authorization: Bearer …` with a token of our own.
    Token(TokenSettings),
    /// `Authorization: Bearer …` as the caller sent it.
    Caller,
}

/// The same, ready to be used for requests.
#[derive(Clone, Debug)]
pub enum Presented {
    /// Always this header, marked sensitive.
    Header(HeaderName, HeaderValue),
    /// The token that lies there.
    Token(Slot),
    /// What the caller sent.
    Caller,
}

/// A credential that cannot be a header's value: it has control characters or line breaks.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("the key has characters that cannot be sent in a header")]
pub struct UnsendableCredential;

impl Credential {
    /// How requests carry it. Made once per backend, not per request; a token's slot comes from `slot`.
    ///
    /// # Errors
    /// When the key cannot be a header's value.
    pub fn presented(
        &self,
        slot: impl FnOnce(&TokenSettings) -> Slot,
    ) -> Result<Presented, UnsendableCredential> {
        match self {
            Self::ApiKey(key) => {
                let mut value =
                    HeaderValue::from_str(key.expose_secret()).map_err(|_| UnsendableCredential)?;
                value.set_sensitive(true);
                Ok(Presented::Header(HeaderName::from_static("api-key"), value))
            }
            Self::Token(settings) => Ok(Presented::Token(slot(settings))),
            Self::Caller => Ok(Presented::Caller),
        }
    }

    /// What it is called in the log.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::ApiKey(_) => "api key",
            Self::Token(settings) => settings.source.word(),
            Self::Caller => "the caller's own token",
        }
    }
}

impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::ApiKey(one), Self::ApiKey(other)) => one.expose_secret() == other.expose_secret(),
            (Self::Token(one), Self::Token(other)) => one == other,
            (Self::Caller, Self::Caller) => true,
            _ => false,
        }
    }
}

/// The operating system gave no randomness.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("the operating system gave no random bytes")]
pub struct NoRandomness;

/// A new caller key: `sk-sidestep-` and 256 random bits of the operating system in hexadecimal.
///
/// # Errors
/// When the operating system gives no randomness.
pub fn new_key() -> Result<String, NoRandomness> {
    use std::fmt::Write as _;

    let mut bytes = [0; 32];
    let provider = rustls::crypto::ring::default_provider();
    provider.secure_random.fill(&mut bytes).map_err(|_| NoRandomness)?;
    let mut key = String::from("sk-sidestep-");
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(key, "{byte:02x}");
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_becomes_a_header_that_nothing_shows() {
        let credential = Credential::ApiKey("s3cret".into());
        let presented = credential.presented(|_| Slot::default()).unwrap();
        let Presented::Header(name, value) = presented else { panic!("a key is a header") };
        assert_eq!((name.as_str(), value.as_bytes()), ("api-key", &b"s3cret"[..]));
        assert!(value.is_sensitive());
        assert!(!format!("{credential:?} {value:?}").contains("s3cret"));
    }

    #[test]
    fn a_key_with_a_line_break_is_refused_without_showing_it() {
        let problem = Credential::ApiKey("s3cret\r\nx: y".into()).presented(|_| Slot::default()).unwrap_err();
        assert!(!format!("{problem} {problem:?}").contains("s3cret"));
    }

    #[test]
    fn new_keys_are_long_sendable_and_differ() {
        let (one, two) = (new_key().unwrap(), new_key().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), "sk-sidestep-".len() + 64);
        assert!(one.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
    }
}
