//! Tokens that were verified, so that a signature is checked once for each token and not for each request.

use std::collections::HashMap;
use std::sync::Arc;

use ring::digest::{SHA256, digest};

/// So many tokens are kept at least, and twice as many at most: some hundred bytes each. Only good ones are kept, so
/// nobody can fill it with rubbish.
const KEPT: usize = 2_048;

/// A token, without the token.
pub(super) type Fingerprint = [u8; 32];

pub(super) fn fingerprint(token: &[u8]) -> Fingerprint {
    digest(&SHA256, token).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Two halves: when the younger is full, the older goes.
#[derive(Debug, Default)]
pub(super) struct Verified {
    /// All was verified with keys that stood since; see `EntraKeys::current`.
    withdrawals: u64,
    young: HashMap<Fingerprint, Entry>,
    old: HashMap<Fingerprint, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    name: Arc<str>,
    /// In seconds since 1970.
    expires: u64,
}

impl Verified {
    /// As whom a token was admitted that has not expired since.
    pub(super) fn find(&mut self, token: &Fingerprint, now: u64, withdrawals: u64) -> Option<Arc<str>> {
        self.forget_after(withdrawals);
        let entry = match self.young.get(token) {
            Some(entry) => entry.clone(),
            None => {
                let entry = self.old.remove(token)?;
                self.insert(*token, entry.clone());
                entry
            }
        };
        (now < entry.expires).then_some(entry.name)
    }

    pub(super) fn add(&mut self, token: Fingerprint, name: Arc<str>, expires: u64, withdrawals: u64) {
        // Verified with a key that has gone meanwhile: it stays out.
        if withdrawals >= self.withdrawals {
            self.forget_after(withdrawals);
            self.insert(token, Entry { name, expires });
        }
    }

    /// A key went: what it signed is worth nothing any more.
    fn forget_after(&mut self, withdrawals: u64) {
        if withdrawals > self.withdrawals {
            *self = Self { withdrawals, ..Self::default() };
        }
    }

    fn insert(&mut self, token: Fingerprint, entry: Entry) {
        if self.young.len() >= KEPT {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(token, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u64) -> Fingerprint {
        fingerprint(&number.to_le_bytes())
    }

    #[test]
    fn a_token_is_known_until_it_expires_or_a_key_goes() {
        let mut verified = Verified::default();
        verified.add(token(1), "app".into(), 100, 0);
        assert_eq!(verified.find(&token(1), 99, 0).as_deref(), Some("app"));
        assert_eq!(verified.find(&token(1), 100, 0), None);
        assert_eq!(verified.find(&token(2), 0, 0), None);
        assert_eq!(verified.find(&token(1), 0, 1), None, "its key may be the one that went");
        verified.add(token(1), "app".into(), 100, 0);
        assert_eq!(verified.find(&token(1), 0, 1), None, "verified with the keys of before");
    }

    #[test]
    fn however_many_tokens_there_are_so_many_are_kept_and_those_in_use_stay() {
        let mut verified = Verified::default();
        verified.add(token(0), "app".into(), 100, 0);
        for number in 1..20_000 {
            verified.add(token(number), "other".into(), 100, 0);
            if number % 500 == 0 {
                assert!(verified.find(&token(0), 0, 0).is_some(), "after {number}");
            }
            assert!(verified.young.len() + verified.old.len() <= 2 * KEPT);
        }
        assert!(verified.find(&token(1), 0, 0).is_none());
    }
}
