//! Time, draws and the few conversions between them.

use std::cmp::Ordering;

use fastrand::Rng;

/// Virtual seconds since the run began.
pub(crate) type Seconds = f64;

/// A moment that can be ordered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(pub(crate) Seconds);

impl PartialEq for Moment {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Moment {}

impl PartialOrd for Moment {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Moment {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// The whole part of what is not negative.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, as wanted")]
pub(crate) fn whole(value: f64) -> u64 {
    value as u64
}

/// One draw, of this mean.
pub(crate) fn exponential(rng: &mut Rng, mean: f64) -> f64 {
    -mean * (1.0 - rng.f64()).ln()
}

/// One draw, of this median.
pub(crate) fn log_normal(rng: &mut Rng, median: f64, sigma: f64) -> f64 {
    let (radius, angle) = ((-2.0 * (1.0 - rng.f64()).ln()).sqrt(), std::f64::consts::TAU * rng.f64());
    median * (sigma * radius * angle.cos()).exp()
}

/// One of `candidates`, each as likely as its weight.
pub(crate) fn draw(rng: &mut Rng, candidates: impl Iterator<Item = (usize, f64)>) -> Option<usize> {
    let (mut total, mut drawn) = (0.0, None);
    for (candidate, weight) in candidates {
        total += weight;
        if rng.f64() * total < weight {
            drawn = Some(candidate);
        }
    }
    drawn
}
