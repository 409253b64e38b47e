//! Names of requests: short, unique, cheap.

use std::cell::Cell;
use std::fmt;

use http::HeaderValue;

/// Sixteen hexadecimal digits, in the log and in `x-sidestep-request-id`.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct RequestId([u8; 16]);

impl RequestId {
    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits")
    }

    /// The same as a number.
    pub(super) fn number(self) -> u64 {
        u64::from_str_radix(self.as_str(), 16).expect("sixteen hexadecimal digits")
    }

    /// As a header's value.
    #[must_use]
    pub fn header_value(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.0).expect("hexadecimal digits are visible ASCII")
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One worker's source of ids.
///
/// A counter that starts at a random place of the process, mixed by a bijection: ids of one process never repeat
/// (each worker has 2^48 of its own), those of different processes practically never, and neighbours look
/// different, which helps eyes that search a log.
#[derive(Debug)]
pub struct RequestIds(Cell<u64>);

impl RequestIds {
    /// `seed` is one random number per process, `worker` the thread's number.
    #[must_use]
    pub fn new(seed: u64, worker: u16) -> Self {
        Self(Cell::new(seed.wrapping_add(u64::from(worker) << 48)))
    }

    /// The next id.
    pub fn next_id(&self) -> RequestId {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let n = self.0.get();
        self.0.set(n.wrapping_add(1));
        let mixed = mix(n).to_be_bytes();
        let mut text = [0; 16];
        for (pair, byte) in text.chunks_exact_mut(2).zip(mixed) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        RequestId(text)
    }
}

/// The finalizer of `SplitMix64` (Steele, Lea, Flood 2014): a bijection on 64 bits.
fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_of_all_workers_of_a_process_differ() {
        let mut seen = HashSet::new();
        for worker in 0..4 {
            // The seed is near its wrap on purpose.
            let ids = RequestIds::new(u64::MAX - 3, worker);
            for _ in 0..1_000 {
                assert!(seen.insert(ids.next_id()));
            }
        }
    }

    #[test]
    fn an_id_is_sixteen_hexadecimal_digits_in_log_and_header() {
        let id = RequestIds::new(7, 0).next_id();
        assert_eq!(id.as_str().len(), 16);
        assert!(id.as_str().bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()));
        assert_eq!(id.header_value(), id.to_string());
    }
}
