//! The keys that a tenant's tokens are signed with: read from its documents, kept while they are good.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use tokio::sync::Notify;

use super::claims::Rules;

/// More keys than a tenant ever has; Entra ID lists some ten.
const MOST_KEYS: usize = 100;

/// What `/.well-known/openid-configuration` says, as far as it matters.
#[derive(Debug, Deserialize)]
pub(super) struct Configuration {
    pub(super) issuer: String,
    pub(super) jwks_uri: String,
}

#[derive(Deserialize)]
struct Document {
    /// Read one by one: one of a kind that we do not know must not spoil the others.
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: String,
    n: String,
    e: String,
    r#use: Option<String>,
    alg: Option<String>,
    issuer: Option<String>,
}

/// The keys of one moment.
#[derive(Debug)]
pub(super) struct KeySet {
    /// Of tokens of version 2.
    pub(super) issuer: Box<str>,
    keys: Vec<(Box<str>, DecodingKey, Box<str>)>,
}

impl KeySet {
    /// `None` when there is no key of use in the document.
    pub(super) fn read(document: &[u8], issuer: String, rules: &Rules) -> Option<Self> {
        let Document { keys } = serde_json::from_slice(document).ok()?;
        let mut read: Vec<(Box<str>, DecodingKey, Box<str>)> = Vec::new();
        for key in keys {
            let Ok(jwk) = serde_json::from_value::<Jwk>(key) else { continue };
            let signs = jwk.kty == "RSA"
                && jwk.r#use.is_none_or(|purpose| purpose == "sig")
                && jwk.alg.is_none_or(|algorithm| algorithm == "RS256")
                && rules.signs_for_us(jwk.issuer.as_deref());
            let twice = read.iter().any(|(kid, ..)| **kid == *jwk.kid);
            if let Ok(key) = DecodingKey::from_rsa_components(&jwk.n, &jwk.e)
                && signs
                && !twice
                && read.len() < MOST_KEYS
            {
                read.push((jwk.kid.into(), key, jwk.n.into()));
            }
        }
        (!read.is_empty()).then(|| Self { issuer: issuer.into(), keys: read })
    }

    pub(super) fn key(&self, kid: &str) -> Option<&DecodingKey> {
        self.keys.iter().find(|(known, ..)| **known == *kid).map(|(_, key, _)| key)
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether every key of an earlier set is still here, the same as then.
    fn keeps(&self, before: &Self) -> bool {
        let same = |(kid, _, n): &(Box<str>, DecodingKey, Box<str>)| {
            self.keys.iter().any(|(known, _, modulus)| known == kid && modulus == n)
        };
        before.keys.iter().all(same)
    }
}

/// The keys of one tenant, shared by workers and by whoever fetches them.
#[derive(Debug)]
pub struct EntraKeys {
    pub(super) tenant: Box<str>,
    pub(super) authority: Box<str>,
    known: Mutex<Known>,
    /// Somebody came with a key that we do not know.
    pub(super) wanted: Notify,
}

#[derive(Debug, Default)]
struct Known {
    set: Option<Arc<KeySet>>,
    /// Counts the times that a key went.
    withdrawals: u64,
    /// A fetch was tried a moment ago, so that another would bring nothing new.
    settled: bool,
}

/// A key is not known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Missing {
    /// And will not be soon.
    Unknown,
    /// It may come with the fetch that now begins.
    Awaited,
}

impl EntraKeys {
    pub(super) fn new(tenant: &str, authority: &str) -> Self {
        Self {
            tenant: tenant.into(),
            authority: authority.into(),
            known: Mutex::default(),
            wanted: Notify::new(),
        }
    }

    /// Held for less than a microsecond.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often a key went.
    pub(super) fn withdrawals(&self) -> u64 {
        self.known().withdrawals
    }

    pub(super) fn any(&self) -> bool {
        self.known().set.is_some()
    }

    /// The set that has this key, and how often a key went before it.
    pub(super) fn find(&self, kid: &str) -> Result<(Arc<KeySet>, u64), Missing> {
        let known = self.known();
        match &known.set {
            Some(set) if set.key(kid).is_some() => Ok((Arc::clone(set), known.withdrawals)),
            Some(_) if known.settled => Err(Missing::Unknown),
            _ => {
                drop(known);
                self.wanted.notify_one();
                Err(Missing::Awaited)
            }
        }
    }

    /// After a fetch. Whether these are the first.
    pub(super) fn replace(&self, set: KeySet) -> bool {
        let mut known = self.known();
        let gone = known.set.as_ref().is_some_and(|before| !set.keeps(before));
        known.withdrawals += u64::from(gone);
        known.settled = true;
        known.set.replace(Arc::new(set)).is_none()
    }

    pub(super) fn settle(&self, settled: bool) {
        self.known().settled = settled;
    }
}
