//! Counting durations into buckets.

use std::time::Duration;

/// Upper bounds in nanoseconds, ascending.
pub(super) type Bounds = &'static [u64];

const MICRO: u64 = 1_000;
const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// Time to first byte of language models: 50 ms to 60 s.
pub(super) const FIRST_BYTE: Bounds = &[
    50 * MILLI,
    100 * MILLI,
    200 * MILLI,
    350 * MILLI,
    500 * MILLI,
    750 * MILLI,
    SECOND,
    1_500 * MILLI,
    2 * SECOND,
    3 * SECOND,
    5 * SECOND,
    10 * SECOND,
    20 * SECOND,
    30 * SECOND,
    60 * SECOND,
];
/// Whole answers: 0.1 s to 600 s.
pub(super) const WHOLE: Bounds = &[
    100 * MILLI,
    250 * MILLI,
    500 * MILLI,
    SECOND,
    2 * SECOND,
    3 * SECOND,
    5 * SECOND,
    10 * SECOND,
    20 * SECOND,
    30 * SECOND,
    60 * SECOND,
    120 * SECOND,
    300 * SECOND,
    600 * SECOND,
];
/// Our own part: 50 µs to 100 ms.
pub(super) const OURS: Bounds = &[
    50 * MICRO,
    100 * MICRO,
    200 * MICRO,
    350 * MICRO,
    500 * MICRO,
    MILLI,
    2 * MILLI,
    5 * MILLI,
    10 * MILLI,
    25 * MILLI,
    50 * MILLI,
    100 * MILLI,
];

/// More than the longest [`Bounds`]: the last counted bucket is the one without a bound.
const BUCKETS: usize = 16;

/// Counts of durations.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    bounds: Bounds,
    counts: [u64; BUCKETS],
    sum: Duration,
}

impl Histogram {
    pub(super) fn new(bounds: Bounds) -> Self {
        assert!(bounds.len() < BUCKETS, "room for the bucket without a bound");
        Self { bounds, counts: [0; BUCKETS], sum: Duration::ZERO }
    }

    pub(super) fn observe(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[self.bounds.partition_point(|bound| *bound < nanos)] += 1;
        self.sum = self.sum.saturating_add(duration);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.sum = self.sum.saturating_add(other.sum);
    }

    pub(super) fn sum_seconds(&self) -> f64 {
        self.sum.as_secs_f64()
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Upper bound in seconds and count of each bucket, not cumulative.
    pub(super) fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds.iter().map(|nanos| Duration::from_nanos(*nanos).as_secs_f64());
        bounds.chain([f64::INFINITY]).zip(self.counts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_the_first_bucket_that_holds_it() {
        let mut histogram = Histogram::new(OURS);
        for micros in [50, 51, 100, 100_000, 100_001, 9_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let filled: Vec<_> = histogram.buckets().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.000_05, 1), (0.000_1, 2), (0.1, 1), (f64::INFINITY, 2)]);
        assert_eq!(histogram.count(), 6);
    }

    #[test]
    fn bounds_ascend_and_leave_room() {
        for bounds in [FIRST_BYTE, WHOLE, OURS] {
            assert!(bounds.is_sorted() && bounds.len() < BUCKETS);
        }
    }
}
