//! When a token is asked for again. PURE.
//!
//! | after | the next try |
//! |---|---|
//! | a token | half its life later, a little earlier by chance, so that replicas do not ask together |
//! | a failure | 1 s later, doubled with each failure in a row up to 60 s, 20 % more or less by chance |
//!
//! Half its life, whatever life that is: managed identities' tokens live a day, applications' an hour, and what fails
//! at half life has the other half to be mended in.

use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// So much earlier than half life at most, as a part of it.
const EARLIER: f64 = 0.1;

/// So much more or less a pause is, as a part of it.
const AROUND: f64 = 0.2;

/// From a token's coming to the next try. `chance` is 0 to 1.
pub(super) fn after_token(lifetime: Duration, chance: f64) -> Duration {
    (lifetime / 2).mul_f64(1.0 - EARLIER * chance).max(FIRST_PAUSE)
}

/// From a failure to the next try; `failures` is how many there were in a row. `chance` is 0 to 1.
pub(super) fn after_failure(failures: u32, chance: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10));
    doubled.min(LONGEST_PAUSE).mul_f64(1.0 - AROUND + 2.0 * AROUND * chance)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_is_renewed_at_half_its_life_or_a_little_before() {
        let day = Duration::from_secs(86_400);
        assert_eq!(after_token(day, 0.0), day / 2);
        assert_eq!(after_token(day, 1.0), (day / 2).mul_f64(0.9));
        assert_eq!(after_token(Duration::from_millis(300), 0.5), FIRST_PAUSE);
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        let pauses = [1, 2, 3, 6, 7, 40, u32::MAX].map(|failures| after_failure(failures, 0.5).as_secs());
        assert_eq!(pauses, [1, 2, 4, 32, 60, 60, 60]);
    }

    proptest! {
        #[test]
        fn no_pause_is_shorter_or_longer_than_its_bounds(failures: u32, chance in 0.0..=1.0) {
            let pause = after_failure(failures, chance);
            prop_assert!(pause >= FIRST_PAUSE.mul_f64(0.79) && pause <= LONGEST_PAUSE.mul_f64(1.21));
        }
    }
}
