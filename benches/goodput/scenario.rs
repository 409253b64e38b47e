//! What is varied between runs.

use crate::caller;
use crate::quota::Window;
use crate::traffic::Oddities;
use crate::units::Seconds;

/// What the answers' headers say of the quota.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Headers {
    /// Limit and remaining; a 429 says when to come back.
    #[default]
    Full,
    /// A 429 says when to come back, no more.
    None,
    /// Every other backend like `None`.
    Half,
    /// `remaining` is up to 15 s old.
    Stale,
    /// `remaining: -1`, and nothing in the 429.
    MinusOne,
    /// Only `x-ratelimit-reset-*`, in the 429.
    OnlyReset,
    /// Limit and remaining; nothing in the 429.
    NoTiming,
    /// Remaining, and not of how much.
    NoLimit,
}

/// What goes wrong at the largest backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// 500 for so long, for this share.
    Errors { seconds: Seconds, share: f64 },
    /// Silence for so long, for this share.
    Hangs { seconds: Seconds, share: f64 },
    /// Eight times slower, always.
    Slow,
    /// Its quota, and that of the next largest, is multiplied by this, and stays so.
    Quota(f64),
}

/// Which backends there are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Pool {
    /// The article's: three of 30,000 tokens a minute each.
    Article,
    /// Unequal quotas from 30,000 to 450,000; a quarter carry hidden traffic.
    Unequal(usize),
    /// The eight, half of whose quota others use on four.
    Shared,
    /// Eight of 30,000; a quarter carry hidden traffic.
    Small,
    /// Two provisioned deployments first, six others behind them.
    Provisioned,
    /// Three provisioned deployments, nothing behind them.
    Reserved,
}

const UNEQUAL: [f64; 8] =
    [450_000.0, 360_000.0, 300_000.0, 240_000.0, 150_000.0, 120_000.0, 60_000.0, 30_000.0];
/// Share of a quota that others use, where they do.
const HIDDEN: f64 = 0.25;
/// The same of a pool that is shared more.
const HALF: f64 = 0.5;

impl Pool {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Article => "article",
            Self::Unequal(_) => "unequal",
            Self::Shared => "shared",
            Self::Small => "small",
            Self::Provisioned => "provisioned",
            Self::Reserved => "reserved",
        }
    }

    pub(crate) fn quotas(self) -> Vec<f64> {
        match self {
            Self::Article => vec![30_000.0; 3],
            // Three: a small, a middle, a large one.
            Self::Unequal(3) => vec![450_000.0, 200_000.0, 60_000.0],
            Self::Unequal(count) => UNEQUAL.iter().copied().cycle().take(count).collect(),
            Self::Shared => UNEQUAL.to_vec(),
            Self::Small => vec![30_000.0; 8],
            Self::Reserved => vec![300_000.0; 3],
            Self::Provisioned => {
                vec![100_000.0, 100_000.0, 240_000.0, 200_000.0, 150_000.0, 100_000.0, 60_000.0, 30_000.0]
            }
        }
    }

    pub(crate) fn count(self) -> usize {
        self.quotas().len()
    }

    pub(crate) fn is_provisioned(self, index: usize) -> bool {
        self == Self::Reserved || (self == Self::Provisioned && index < 2)
    }

    pub(crate) fn priority(self, index: usize) -> u32 {
        if self == Self::Provisioned && index >= 2 { 2 } else { 1 }
    }

    pub(crate) fn hidden(self, index: usize) -> f64 {
        match self {
            Self::Small if matches!(index, 0 | 5) => HIDDEN * self.quotas()[index],
            Self::Shared if index.is_multiple_of(2) => HALF * self.quotas()[index],
            Self::Unequal(count) if count >= 8 && matches!(index % 8, 0 | 5) => HIDDEN * self.quotas()[index],
            _ => 0.0,
        }
    }
}

/// One row of a table, but for policy and seed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scenario {
    pub(crate) pool: Pool,
    pub(crate) load: f64,
    pub(crate) replicas: usize,
    pub(crate) window: Window,
    pub(crate) headers: Headers,
    pub(crate) oddities: Oddities,
    pub(crate) fault: Option<Fault>,
    /// Requests a minute for each 1,000 tokens a minute.
    pub(crate) requests: f64,
    /// How often the SDK tries again.
    pub(crate) retries: u32,
}

impl Scenario {
    pub(crate) fn base(pool: Pool, load: f64) -> Self {
        Self {
            pool,
            load,
            replicas: 1,
            window: Window::Fixed,
            headers: Headers::Full,
            oddities: Oddities::NONE,
            fault: None,
            requests: 6.0,
            retries: caller::RETRIES,
        }
    }
}
