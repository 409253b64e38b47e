//! Conversations stay together, so that the backend's prompt cache has what was said before.
//!
//! | name | unit | meaning | written by |
//! |---|---|---|---|
//! | `conversation` | hash | what makes turns one conversation; of the request | the edge |
//! | `anchor` | hash | of the backend's name | settings |
//!
//! ```text
//! score      quota · weight · health / −ln(hash(conversation, anchor) in (0, 1)); the highest serves
//! eligible   has room, seconds ≤ 4 · fastest
//! ```
//!
//! Rendezvous hashing: a backend that goes or comes moves only its own share, and replicas agree without talking.
//!
//! Worth (`cargo bench --bench goodput -- --rows mechanisms`, without it → with it): row "N=8 50 %", cached share of prompt
//! tokens 60 → 81 %, p99 of the time to the first token 2.2 → 1.3 s; at 90 % load 62 → 76 %. The bound by speed: row "8x
//! slow", median 0.39 → 0.32 s. Tests: `turns_of_a_conversation_stay_together…`, `a_conversation_leaves_a_home…`.
//! A bound that keeps half of an even use of the minute for others (selection.md 7) cost 3 of these points at 90 % load and
//! won nothing beyond chance: it is not there.

/// Beyond so many times the fastest lane's time to the first event the cache is not worth it.
const SLOWER: f64 = 4.0;

/// Of a name, the same in every process and version.
pub(super) fn anchor(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Higher is better; `share` is the lane's part in the pool.
pub(super) fn score(conversation: u64, anchor: u64, share: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "53 of 64 bits are enough to tell backends apart")]
    let unit = ((mix(conversation ^ mix(anchor)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    share / -unit.ln()
}

/// Whether it is fast enough to.
pub(super) fn is_fast(seconds: f64, fastest: f64) -> bool {
    seconds <= SLOWER * fastest
}

/// Every bit of the result depends on every bit given (the finalizer of splitmix64).
fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(conversation: u64, backends: &[(&str, f64)]) -> usize {
        let scores = backends.iter().map(|(name, share)| score(conversation, anchor(name), *share));
        scores.enumerate().max_by(|one, two| one.1.total_cmp(&two.1)).unwrap().0
    }

    #[test]
    fn conversations_are_shared_out_by_quota() {
        let backends = [("a", 1.0), ("b", 3.0), ("c", 4.0)];
        let mut counts = [0_u32; 3];
        for conversation in 0..80_000 {
            counts[home(conversation, &backends)] += 1;
        }
        for (count, expected) in counts.into_iter().zip([10_000, 30_000, 40_000]) {
            assert!(count.abs_diff(expected) < 600, "{counts:?}");
        }
    }

    #[test]
    fn a_backend_that_goes_moves_only_its_own_conversations() {
        let all = [("a", 1.0), ("b", 1.0), ("c", 1.0)];
        for conversation in 0..1_000 {
            let (before, after) = (home(conversation, &all), home(conversation, &all[..2]));
            assert!(before == 2 || before == after);
        }
    }

    #[test]
    fn the_score_is_the_same_in_every_process_and_version() {
        assert_eq!(
            anchor("east"),
            0x2115_9860_1e3f_cc3c,
            "written down once; a change moves every conversation"
        );
    }
}
