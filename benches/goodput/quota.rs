//! What a deployment admits. The true kind of Azure's window is disputed, so there are five.

use std::collections::VecDeque;

use crate::units::Seconds;

const MINUTE: Seconds = 60.0;
/// How much work a provisioned deployment takes ahead; Azure does not say.
const PROVISIONED_DEPTH: Seconds = 10.0;

/// How a quota of tokens a minute is counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Window {
    /// Minutes, each deployment's at its own phase.
    Fixed,
    /// Minutes of the clock.
    Aligned,
    /// A minute from the first request on.
    Anchored,
    /// The last 60 s.
    Sliding,
    /// Refilled continuously, one minute deep.
    Bucket,
    /// Provisioned throughput: utilisation drains continuously; full means 429.
    Provisioned,
}

/// The counter of one deployment.
#[derive(Debug)]
pub(crate) struct Meter {
    window: Window,
    /// Tokens a minute.
    pub(crate) limit: f64,
    /// Of the window; of a bucket: until when `used` is drained.
    start: Seconds,
    used: f64,
    entries: VecDeque<(Seconds, f64)>,
    requests: RequestWindow,
}

/// Calls a second, or in ten.
#[derive(Debug)]
struct RequestWindow {
    width: Seconds,
    most: f64,
    start: Seconds,
    count: f64,
}

/// Why a call is refused, and when one like it would fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Full {
    pub(crate) wait: Seconds,
    pub(crate) by_requests: bool,
}

impl Meter {
    /// `phase` in 0..1; `rate` requests a minute for each 1,000 tokens a minute, counted by `width`.
    pub(crate) fn new(window: Window, limit: f64, phase: f64, (rate, width): (f64, Seconds)) -> Self {
        let start = match window {
            Window::Fixed => -phase * MINUTE,
            Window::Aligned | Window::Sliding | Window::Bucket | Window::Provisioned => 0.0,
            Window::Anchored => -MINUTE,
        };
        let most = (limit * rate / 1_000.0 / 60.0 * width).max(1.0).floor();
        let requests = RequestWindow { width, most, start: -phase * width, count: 0.0 };
        Self { window, limit, start, used: 0.0, entries: VecDeque::new(), requests }
    }

    fn advance(&mut self, now: Seconds) {
        match self.window {
            Window::Fixed | Window::Aligned => {
                if now >= self.start + MINUTE {
                    self.start += ((now - self.start) / MINUTE).floor() * MINUTE;
                    self.used = 0.0;
                }
            }
            Window::Anchored => {
                if now >= self.start + MINUTE {
                    self.start = now;
                    self.used = 0.0;
                }
            }
            Window::Sliding => {
                while let Some((at, charge)) = self.entries.front().copied()
                    && at + MINUTE <= now
                {
                    self.used -= charge;
                    self.entries.pop_front();
                }
            }
            Window::Bucket | Window::Provisioned => {
                self.used = (self.used - (now - self.start) * self.limit / MINUTE).max(0.0);
                self.start = now;
            }
        }
        let requests = &mut self.requests;
        if now >= requests.start + requests.width {
            requests.start += ((now - requests.start) / requests.width).floor() * requests.width;
            requests.count = 0.0;
        }
    }

    /// Tokens left now.
    pub(crate) fn remaining(&mut self, now: Seconds) -> f64 {
        self.advance(now);
        self.depth() - self.used
    }

    fn depth(&self) -> f64 {
        match self.window {
            Window::Provisioned => self.limit * PROVISIONED_DEPTH / MINUTE,
            _ => self.limit,
        }
    }

    /// How long its requests are counted together.
    pub(crate) fn request_window(&self) -> Seconds {
        self.requests.width
    }

    /// Until quota comes back of its own: what a weighted draw divides by.
    pub(crate) fn renews_in(&self, now: Seconds) -> Seconds {
        match self.window {
            Window::Fixed | Window::Aligned | Window::Anchored => (self.start + MINUTE - now).max(1.0),
            Window::Sliding | Window::Bucket | Window::Provisioned => 30.0,
        }
    }

    /// Whether a call of this charge fits now; if not, when.
    pub(crate) fn fits(&mut self, now: Seconds, charge: f64) -> Result<(), Full> {
        self.advance(now);
        let requests = &self.requests;
        if requests.count + 1.0 > requests.most {
            let wait = requests.start + requests.width - now;
            return Err(Full { wait, by_requests: true });
        }
        if self.has_tokens(charge) {
            Ok(())
        } else {
            Err(Full { wait: self.wait(now, charge), by_requests: false })
        }
    }

    fn has_tokens(&self, charge: f64) -> bool {
        match self.window {
            Window::Provisioned => self.used < self.depth(),
            _ => self.used + charge <= self.limit,
        }
    }

    /// Until a call of this charge fits by tokens as well as by requests; 0: it does now.
    pub(crate) fn frees_in(&mut self, now: Seconds, charge: f64) -> Seconds {
        match self.fits(now, charge) {
            Ok(()) => 0.0,
            Err(full) if self.has_tokens(charge) => full.wait,
            Err(full) => full.wait.max(self.wait(now, charge)),
        }
    }

    fn wait(&self, now: Seconds, charge: f64) -> Seconds {
        if charge > self.limit && self.window != Window::Provisioned {
            return 86_400.0;
        }
        match self.window {
            Window::Fixed | Window::Aligned | Window::Anchored => self.start + MINUTE - now,
            Window::Sliding => {
                let mut used = self.used;
                let fits = |used: f64| used + charge <= self.limit;
                let freed = self.entries.iter().find(|(_, freed)| {
                    used -= freed;
                    fits(used)
                });
                freed.map_or(MINUTE, |(at, _)| at + MINUTE - now)
            }
            Window::Bucket => (self.used + charge - self.limit) / self.limit * MINUTE,
            Window::Provisioned => (self.used - self.depth()) / self.limit * MINUTE + 0.001,
        }
    }

    /// Counts a call that fits.
    pub(crate) fn take(&mut self, now: Seconds, charge: f64) {
        self.requests.count += 1.0;
        self.used += charge;
        if self.window == Window::Sliding {
            self.entries.push_back((now, charge));
        }
    }

    /// What a provisioned deployment charged too much, as is known when the answer is complete.
    pub(crate) fn correct(&mut self, now: Seconds, surplus: f64) {
        if self.window == Window::Provisioned {
            self.advance(now);
            self.used = (self.used - surplus).max(0.0);
        }
    }
}
