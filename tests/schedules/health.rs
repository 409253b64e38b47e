//! Design.md 6 once more, for failures and rests: three that count in a row, or one that rests at once, then a probe.

use super::schedule::Ms;

const PROBE_PATIENCE: Ms = 15_000;

pub(crate) const SHORTEST: Ms = 10;
pub(crate) const LONGEST: Ms = 60_000;

/// Of a lane or of a backend's connections.
#[derive(Debug, Default)]
pub(crate) struct Health {
    in_a_row: u32,
    own_rests: u32,
    /// Attempts up to this number say nothing new.
    began: u64,
    began_at: Ms,
    rest: Option<Rest>,
}

#[derive(Debug)]
struct Rest {
    until: Ms,
    /// Number of the attempt, and when it was sent.
    probe: Option<(u64, Ms)>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fit {
    Well,
    ProbeDue,
    Resting(Ms),
    Probing,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub(crate) number: u64,
    pub(crate) told: Option<Ms>,
    pub(crate) at_once: bool,
}

impl Health {
    pub(crate) fn fit(&self, now: Ms) -> Fit {
        match &self.rest {
            None => Fit::Well,
            Some(Rest { probe: Some((_, sent)), .. }) if now < sent + PROBE_PATIENCE => Fit::Probing,
            Some(rest) if rest.until <= now => Fit::ProbeDue,
            Some(rest) => Fit::Resting(rest.until),
        }
    }

    pub(crate) fn until(&self) -> Option<Ms> {
        self.rest.as_ref().map(|rest| rest.until)
    }

    pub(crate) fn sent(&mut self, number: u64, now: Ms) {
        if let Some(rest) = &mut self.rest {
            rest.probe = Some((number, now));
        }
    }

    /// True when it was the probe.
    pub(crate) fn over(&mut self, number: u64) -> bool {
        match &mut self.rest {
            Some(rest) if rest.probe.is_some_and(|(probe, _)| probe == number) => {
                rest.probe = None;
                true
            }
            _ => false,
        }
    }

    /// True when something is different now.
    pub(crate) fn well(&mut self, number: u64) -> bool {
        if number <= self.began {
            return false;
        }
        let different = self.in_a_row > 0 || self.rest.is_some();
        self.in_a_row = 0;
        self.own_rests = 0;
        self.rest = None;
        different
    }

    /// Whether a good answer to this attempt would change anything.
    pub(crate) fn would_change(&self, number: u64) -> bool {
        number > self.began && (self.in_a_row > 0 || self.rest.is_some())
    }

    pub(crate) fn failed(&mut self, now: Ms, newest: u64, failure: Failure) {
        let told = failure.told.map(|told| told.clamp(SHORTEST, LONGEST));
        if failure.number <= self.began {
            if let (Some(rest), Some(told), true) = (&mut self.rest, told, failure.at_once) {
                rest.until = rest.until.max(now + told);
            }
            return;
        }
        self.in_a_row += 1;
        if !(failure.at_once || self.rest.is_some() || self.in_a_row >= 3) {
            return;
        }
        let length = told.unwrap_or_else(|| {
            self.own_rests += 1;
            (5_000 << (self.own_rests - 1).min(8)).min(LONGEST)
        });
        let until = self.until().unwrap_or_default().max(now + length);
        self.rest = Some(Rest { until, probe: None });
        self.in_a_row = 0;
        self.began = newest;
        self.began_at = now;
    }

    /// Which attempts of this instant came before the rest began is not known from outside.
    pub(crate) fn began_at(&self) -> Option<Ms> {
        (self.began > 0).then_some(self.began_at)
    }
}

/// The last change, and whose it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Touch {
    pub(crate) at: Ms,
    pub(crate) by: usize,
}

/// More than one did, at the same instant: to each of them another was there.
const SEVERAL: usize = usize::MAX - 1;

impl Touch {
    /// What is known after one more change.
    pub(crate) fn joined(touch: Option<Self>, at: Ms, by: usize) -> Option<Self> {
        let by = if Self::by_another(touch, by, at) { SEVERAL } else { by };
        Some(Self { at, by })
    }

    /// Whether another request changed it at this very instant: which of the two came first is not known.
    pub(crate) fn by_another(touch: Option<Self>, request: usize, now: Ms) -> bool {
        touch.is_some_and(|touch| touch.at == now && touch.by != request)
    }
}
