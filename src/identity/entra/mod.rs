//! Callers with tokens of Entra ID: what Azure's own samples send instead of a key.
//!
//! Owns: whether a token admits and as whom (`claims`), the tenant's keys (`keys`) and their fetching in the background
//! (`refresh`), what was verified already (`verified`), the one signature algorithm (`signature`).
//!
//! Why so: nothing on a request's path waits for the network. Keys are fetched from the start on and looked at again
//! when somebody comes with an unknown one, at most once a minute; until the first have come the answer is "not yet"
//! and not "no", since an SDK gives up at a 401. Keys that were good stay when a fetch fails.

mod claims;
mod keys;
mod refresh;
mod signature;
mod verified;

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
use thiserror::Error;

use self::claims::{Claims, Rules};
use self::keys::Missing;
use self::verified::{Verified, fingerprint};
use super::callers::Refusal;
use super::document::Location;

pub use self::claims::is_id;
pub use self::keys::EntraKeys;
pub use self::refresh::{Pace, keep_fresh};

/// The longest token that is read, in bytes; those of Entra ID have 1 to 4 KiB.
const LONGEST: usize = 16 * 1024;

/// Which tokens admit; `[callers.entra]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EntraSettings {
    /// The tenant's id.
    pub tenant: String,
    /// For whom a token may have been made out.
    pub audiences: Vec<String>,
    /// Who may call.
    pub allow: Allow,
    /// Who issues the tokens, without trailing slash: `https://login.microsoftonline.com`, or another cloud's.
    pub authority: String,
}

/// Whose tokens admit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Allow {
    /// Every application and user of the tenant.
    Any,
    /// These applications (client ids), users and service principals (object ids).
    Ids(Vec<String>),
}

/// Why a token does not admit. Displays as a word for the log.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Doubt {
    /// It is no JSON Web Token, or lacks what every token of Entra ID has.
    #[error("token malformed")]
    Malformed,
    /// There is a second `Authorization`.
    #[error("token not the only one")]
    Twice,
    /// Not signed with RS256.
    #[error("token algorithm")]
    Algorithm,
    /// Signed with a key that the tenant does not have.
    #[error("token key unknown")]
    UnknownKey,
    /// The signature is wrong.
    #[error("token signature")]
    Signature,
    /// By somebody else.
    #[error("token issuer")]
    Issuer,
    /// Of another tenant.
    #[error("token tenant")]
    Tenant,
    /// For somebody else.
    #[error("token audience")]
    Audience,
    /// Too old.
    #[error("token expired")]
    Expired,
    /// Not valid yet.
    #[error("token not valid yet")]
    NotYet,
    /// It names no application.
    #[error("token without application")]
    NoApplication,
    /// `allow` does not list it.
    #[error("token not allowed")]
    NotAllowed,
}

impl Doubt {
    /// The same as displayed.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Malformed => "token malformed",
            Self::Twice => "token not the only one",
            Self::Algorithm => "token algorithm",
            Self::UnknownKey => "token key unknown",
            Self::Signature => "token signature",
            Self::Issuer => "token issuer",
            Self::Tenant => "token tenant",
            Self::Audience => "token audience",
            Self::Expired => "token expired",
            Self::NotYet => "token not valid yet",
            Self::NoApplication => "token without application",
            Self::NotAllowed => "token not allowed",
        }
    }
}

/// Whether an authority can be used: `https`, or plain `http` on this machine.
#[must_use]
pub fn is_authority(text: &str) -> bool {
    Location::parse(text).is_some()
}

/// One tenant's tokens under one set of rules.
#[derive(Debug)]
pub(super) struct Entra {
    rules: Rules,
    keys: Arc<EntraKeys>,
    /// Held for less than a microsecond.
    verified: Mutex<Verified>,
}

/// What the crate itself checks: the algorithm and the signature. All else is ours to check, by a clock that is given.
static VALIDATION: LazyLock<Validation> = LazyLock::new(|| {
    let mut validation = Validation::new(Algorithm::RS256);
    validation.required_spec_claims.clear();
    (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
    validation
});

impl Entra {
    /// `fetched` are keys of settings before these; they stay where it is the same tenant.
    pub(super) fn new(settings: EntraSettings, fetched: Option<&Arc<EntraKeys>>) -> Self {
        signature::install();
        let same = |keys: &&Arc<EntraKeys>| {
            *keys.tenant == *settings.tenant && *keys.authority == *settings.authority
        };
        let new = || Arc::new(EntraKeys::new(&settings.tenant, &settings.authority));
        let keys = fetched.filter(same).map_or_else(new, Arc::clone);
        Self { rules: Rules::new(&settings), keys, verified: Mutex::default() }
    }

    pub(super) fn keys(&self) -> &Arc<EntraKeys> {
        &self.keys
    }

    /// As whom a token admits.
    pub(super) fn verify(&self, token: &[u8], now: u64) -> Result<Arc<str>, Refusal> {
        if token.len() > LONGEST {
            return Err(Doubt::Malformed.into());
        }
        let print = fingerprint(token);
        let known = self.verified().find(&print, now, self.keys.withdrawals());
        if let Some(name) = known {
            return Ok(name);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| Doubt::Malformed)?;
        if header.alg != Algorithm::RS256 {
            return Err(Doubt::Algorithm.into());
        }
        // What is critical is an extension by definition, and we know none.
        let kid = header.kid.filter(|_| header.crit.is_none()).ok_or(Doubt::Malformed)?;
        let (set, withdrawals) = self.keys.find(&kid).map_err(|missing| match missing {
            Missing::Awaited => Refusal::KeysMissing,
            Missing::Unknown => Doubt::UnknownKey.into(),
        })?;
        let key = set.key(&kid).ok_or(Doubt::UnknownKey)?;
        let read = jsonwebtoken::decode::<Claims>(token, key, &VALIDATION);
        let claims = read.map_err(|error| match error.kind() {
            ErrorKind::InvalidSignature => Doubt::Signature,
            ErrorKind::InvalidAlgorithm => Doubt::Algorithm,
            _ => Doubt::Malformed,
        })?;
        let name = self.rules.hold(&claims.claims, &set.issuer, now)?;
        self.verified().add(print, Arc::clone(&name), claims.claims.exp, withdrawals);
        Ok(name)
    }

    fn verified(&self) -> std::sync::MutexGuard<'_, Verified> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
