//! Requests that are too large for a lane for a time. PURE.
//!
//! | name | unit | meaning | written by |
//! |---|---|---|---|
//! | `charge` | tokens | requests of at least this charge stay away | a 429 that is about size |
//! | `until` | instant | as long as that answer said | the same |
//!
//! Each mark stands for one answer. Put together, a mark for a large request that lasts long and one for a small
//! request that lasts a moment would keep small ones away for long, which nobody asked for.
//!
//! Worth (`cargo bench --bench goodput -- --rows mechanisms`): row "600k 90 %", callers failing 3.7 → 0.15 %, for else one
//! request that fits nowhere cools lane after lane; test `only_a_429_for_it_keeps_a_request_of_that_size_out`.

use std::time::{Duration, Instant};

/// More marks at a time are not kept: then the one for the largest requests goes, which costs one more 429.
const MOST: usize = 4;

/// The marks of one lane. Of two, that for the smaller charge ends sooner: otherwise it says all that the other does.
#[derive(Debug, Default)]
pub(super) struct SizeMarks {
    marks: Vec<Mark>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    charge: u64,
    until: Instant,
}

impl SizeMarks {
    /// From now on requests of at least this charge stay away for so long.
    pub(super) fn set(&mut self, now: Instant, charge: u64, length: Duration) {
        let new = Mark { charge, until: now + length };
        let covers = |one: &Mark, other: &Mark| one.charge <= other.charge && one.until >= other.until;
        if self.marks.iter().any(|mark| covers(mark, &new)) {
            return;
        }
        self.marks.retain(|mark| now < mark.until && !covers(&new, mark));
        self.marks.push(new);
        self.marks.sort_unstable_by_key(|mark| mark.charge);
        self.marks.truncate(MOST);
    }

    /// Whether a request of this charge stays away.
    pub(super) fn keep_away(&self, now: Instant, charge: u64) -> bool {
        self.marks.iter().any(|mark| now < mark.until && charge >= mark.charge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_size_stays_away_as_long_as_an_answer_for_that_size_or_a_smaller_one_said() {
        let start = tokio::time::Instant::now().into_std();
        let mut marks = SizeMarks::default();
        marks.set(start, 100, 11 * SECOND);
        marks.set(start, 900, 26 * SECOND);
        let away = |charge, seconds| marks.keep_away(start + seconds * SECOND, charge);
        assert!(!away(99, 0) && away(100, 10) && !away(100, 11));
        assert!(away(900, 10) && away(900, 25) && !away(900, 26));
    }

    #[test]
    fn a_longer_mark_for_a_smaller_size_says_it_all() {
        let start = tokio::time::Instant::now().into_std();
        let mut marks = SizeMarks::default();
        marks.set(start, 900, 5 * SECOND);
        marks.set(start, 100, 20 * SECOND);
        marks.set(start, 500, 10 * SECOND);
        assert_eq!(marks.marks.len(), 1);
        assert!(marks.keep_away(start + 19 * SECOND, 100) && !marks.keep_away(start + 20 * SECOND, 900));
    }

    #[test]
    fn however_many_answers_there_are_a_few_marks_remain_and_past_ones_go() {
        let start = tokio::time::Instant::now().into_std();
        let mut marks = SizeMarks::default();
        for step in 1..100_u32 {
            marks.set(start, u64::from(step) * 10, step * SECOND);
        }
        assert_eq!(marks.marks.len(), MOST);
        marks.set(start + 200 * SECOND, 7_000, SECOND);
        assert_eq!(marks.marks.len(), 1);
    }
}
