//! What callers ask: bursts, conversations that grow turn by turn, heavy-tailed prompts. A trace is drawn once per
//! seed and load and is the same for every policy, so that differences are paired.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fastrand::Rng;

use crate::units::{Moment, Seconds, exponential, log_normal, whole};

/// Not measured: quotas, caches and estimators fill up meanwhile.
pub(crate) const WARM_UP: Seconds = 180.0;
/// Measured after that.
pub(crate) const MEASURED: Seconds = 900.0;
/// Applications, each with its system prompt, drawn by Zipf's law.
const APPS: usize = 24;
/// Turns of a conversation, on average.
const TURNS: f64 = 4.0;
/// Between a conversation's turns, on average.
const THINKING: Seconds = 30.0;
const LONGEST_PROMPT: f64 = 20_000.0;
/// A burst's length and rate, and a lull's: "90 %" contains bursts of 175 %.
const BURST: (Seconds, f64) = (15.0, 1.94);
const LULL: (Seconds, f64) = (30.0, 0.53);
/// Of requests over-estimated because of an inline image.
const IMAGE_FACTOR: u64 = 60;

/// What is odd about the traffic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Oddities {
    /// Share of requests whose charge we over-estimate 60-fold.
    pub(crate) images: f64,
    /// Share of requests that answer 500 on every backend.
    pub(crate) poison: f64,
    /// Factor on all our estimates.
    pub(crate) estimate: f64,
}

impl Oddities {
    pub(crate) const NONE: Self = Self { images: 0.0, poison: 0.0, estimate: 1.0 };
}

/// One request of one caller.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) at: Seconds,
    pub(crate) app: usize,
    pub(crate) conversation: u64,
    /// Tokens of the application's system prompt.
    pub(crate) shared: u64,
    /// Tokens of the whole prompt.
    pub(crate) prompt: u64,
    pub(crate) max_tokens: u64,
    pub(crate) completion: u64,
    pub(crate) streamed: bool,
    /// What the balancer believes it will be charged.
    pub(crate) estimate: u64,
    pub(crate) poison: bool,
    /// U(0,1): what is particular to this request (speed, back-off), whoever serves it.
    pub(crate) luck: f64,
}

impl Request {
    /// What Azure counts on arrival.
    pub(crate) fn charge(&self) -> u64 {
        self.prompt + self.max_tokens
    }
}

struct App {
    system: f64,
    until: f64,
}

struct Conversation {
    id: u64,
    app: usize,
    history: f64,
}

/// Draws a trace.
pub(crate) struct Traffic {
    rng: Rng,
    apps: Vec<App>,
    waiting: BinaryHeap<Reverse<(Moment, usize)>>,
    talks: Vec<Conversation>,
    oddities: Oddities,
}

impl Traffic {
    fn new(seed: u64, oddities: Oddities) -> Self {
        let rng = Rng::with_seed(seed ^ 0x7261_6666_6963);
        // The same applications whatever the seed: with Zipf's law, the first one's prompt is a third of the load.
        let mut sizes = Rng::with_seed(24);
        let mut apps = Vec::new();
        let mut until = 0.0;
        for rank in 1_u32..=24 {
            until += 1.0 / f64::from(rank);
            apps.push(App { system: log_normal(&mut sizes, 1_500.0, 0.4).min(4_000.0), until });
        }
        debug_assert_eq!(apps.len(), APPS);
        Self { rng, apps, waiting: BinaryHeap::new(), talks: Vec::new(), oddities }
    }

    fn conversation(&mut self, now: Seconds) -> usize {
        if let Some(Reverse((due, _))) = self.waiting.peek()
            && due.0 <= now
            && let Some(Reverse((_, index))) = self.waiting.pop()
        {
            return index;
        }
        let at = self.rng.f64() * self.apps.last().map_or(0.0, |app| app.until);
        let app = self.apps.partition_point(|app| app.until < at);
        let history = log_normal(&mut self.rng, 200.0, 1.4);
        self.talks.push(Conversation { id: self.rng.u64(..), app, history });
        self.talks.len() - 1
    }

    fn request(&mut self, at: Seconds) -> Request {
        let index = self.conversation(at);
        let rng = &mut self.rng;
        let talk = &mut self.talks[index];
        let system = self.apps[talk.app].system;
        let prompt = whole((system + talk.history).min(LONGEST_PROMPT));
        let max_tokens = match rng.f64() {
            luck if luck < 0.6 => 400,
            luck if luck < 0.9 => 800,
            _ => 2_000,
        };
        let completion = whole(log_normal(rng, 180.0, 0.8)).clamp(1, max_tokens);
        let charge = prompt + max_tokens;
        let image = if rng.f64() < self.oddities.images { IMAGE_FACTOR } else { 1 };
        let error = 0.85 + 0.3 * rng.f64();
        let estimate = whole((charge * image) as f64 * error * self.oddities.estimate);
        let request = Request {
            at,
            app: talk.app,
            conversation: talk.id,
            shared: whole(system),
            prompt,
            max_tokens,
            completion,
            streamed: rng.f64() < 0.7,
            estimate,
            poison: rng.f64() < self.oddities.poison,
            luck: rng.f64(),
        };
        talk.history += completion as f64 + log_normal(rng, 100.0, 1.3);
        if rng.f64() >= 1.0 / TURNS {
            let due = at + exponential(rng, THINKING);
            self.waiting.push(Reverse((Moment(due), index)));
        }
        request
    }
}

/// Switches between burst and lull: until when which factor holds, scaled so that the measured time has mean 1.
fn phases(rng: &mut Rng) -> Vec<(Seconds, f64)> {
    let mut phases = Vec::new();
    let (mut at, mut burst) = (0.0, false);
    let mut weighted = 0.0;
    while at < WARM_UP + MEASURED {
        let (length, factor) = if burst { BURST } else { LULL };
        let until = at + exponential(rng, length);
        let measured = (until.min(WARM_UP + MEASURED) - at.max(WARM_UP)).max(0.0);
        weighted += measured * factor;
        phases.push((until, factor));
        (at, burst) = (until, !burst);
    }
    let mean = weighted / MEASURED;
    phases.iter_mut().for_each(|(_, factor)| *factor /= mean);
    phases
}

/// What a request is charged, on average; so that a load in tokens becomes a rate.
fn mean_charge() -> f64 {
    const SAMPLE: u32 = 20_000;
    let mut traffic = Traffic::new(0, Oddities::NONE);
    let mut charges = (0..2 * SAMPLE).map(|index| traffic.request(f64::from(index) * 0.15).charge());
    // Conversations must have grown first.
    let total: u64 = charges.by_ref().skip(SAMPLE as usize).sum();
    total as f64 / f64::from(SAMPLE)
}

/// The requests of one run, in order; `tokens` a minute are offered on average.
pub(crate) fn trace(seed: u64, tokens: f64, oddities: Oddities) -> Vec<Request> {
    let mut traffic = Traffic::new(seed, oddities);
    let rate = tokens / 60.0 / mean_charge();
    let phases = phases(&mut traffic.rng);
    let mut requests = Vec::with_capacity(usize::try_from(whole(rate * 1_200.0)).unwrap_or(0));
    let mut at = 0.0;
    for (until, factor) in phases {
        loop {
            at += exponential(&mut traffic.rng, 1.0 / (rate * factor));
            // Exponential gaps have no memory: the next phase draws anew.
            if at >= until.min(WARM_UP + MEASURED) {
                at = until;
                break;
            }
            requests.push(traffic.request(at));
        }
    }
    requests
}
