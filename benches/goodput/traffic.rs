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
const THINKING: Seconds = 10.0;
/// What a request is charged, about.
const ABOUT: f64 = 4_250.0;
/// Drawn until here, before stretching.
const HORIZON: Seconds = 1.6 * (WARM_UP + MEASURED);
const LONGEST_PROMPT: f64 = 20_000.0;
/// Each stretch moves requests into the measured time, or out of it.
const STRETCHES: usize = 8;
/// A burst's length and rate, and a lull's: "90 %" contains bursts of 175 %.
const BURST: (Seconds, f64) = (15.0, 1.94);
const LULL: (Seconds, f64) = (30.0, 0.53);
/// Tokens of a request that fits nowhere, and how often one comes.
const HUGE: (u64, Seconds) = (600_000, 120.0);
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
    /// By what part each of our estimates is off, at most, either way.
    pub(crate) spread: f64,
    /// Every two minutes one request that no deployment can ever serve.
    pub(crate) huge: bool,
    /// Neither bursts nor lulls: requests come by Poisson's law.
    pub(crate) even: bool,
}

impl Oddities {
    pub(crate) const NONE: Self =
        Self { images: 0.0, poison: 0.0, estimate: 1.0, spread: 0.15, huge: false, even: false };
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

    /// A conversation begins.
    fn begin(&mut self) -> usize {
        let at = self.rng.f64() * self.apps.last().map_or(0.0, |app| app.until);
        let app = self.apps.partition_point(|app| app.until < at);
        let history = log_normal(&mut self.rng, 200.0, 1.4);
        self.talks.push(Conversation { id: self.rng.u64(..), app, history });
        self.talks.len() - 1
    }

    /// A conversation's next turn; it may have another one later.
    fn turn(&mut self, at: Seconds, index: usize) -> Request {
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
        let spread = self.oddities.spread;
        let error = 1.0 - spread + 2.0 * spread * rng.f64();
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

/// When requests come: rare in lulls, many in bursts, unless `even`. `rate` a second on average.
fn arrivals(rng: &mut Rng, rate: f64, even: bool) -> Vec<Seconds> {
    let mean = (BURST.0 * BURST.1 + LULL.0 * LULL.1) / (BURST.0 + LULL.0);
    let mut arrivals = Vec::new();
    let (mut at, mut burst) = (0.0, false);
    while at < HORIZON {
        let (length, factor) = if burst { BURST } else { LULL };
        let factor = if even { mean } else { factor };
        let until = at + exponential(rng, length);
        let mut next = at;
        loop {
            // Exponential gaps have no memory: the next phase draws anew.
            next += exponential(rng, mean / (rate * factor));
            if next >= until {
                break;
            }
            arrivals.push(next);
        }
        (at, burst) = (until, !burst);
    }
    arrivals
}

/// The requests of one run, in order; `tokens` a minute are offered in the measured time.
pub(crate) fn trace(seed: u64, tokens: f64, oddities: Oddities) -> Vec<Request> {
    let mut traffic = Traffic::new(seed, oddities);
    let arrivals = arrivals(&mut traffic.rng, tokens / 60.0 / ABOUT, oddities.even);
    let mut requests = Vec::with_capacity(arrivals.len());
    for at in arrivals {
        // Bursts are bursts of requests, whoever asks: the conversation that has waited longest, else a new one.
        let due = traffic.waiting.peek().is_some_and(|Reverse((due, _))| due.0 <= at);
        let next = if due { traffic.waiting.pop() } else { None };
        let index = next.map_or_else(|| traffic.begin(), |Reverse((_, index))| index);
        requests.push(traffic.turn(at, index));
    }
    let mut due = 0.0;
    for request in requests.iter_mut().filter(|_| oddities.huge) {
        if request.at >= due {
            (request.prompt, request.estimate) = (HUGE.0, HUGE.0);
            due = request.at + HUGE.1;
        }
    }
    // Seeds differ much in bursts and conversations; stretched, every one offers what was asked for.
    for _ in 0..STRETCHES {
        let measured = requests.iter().filter(|request| (WARM_UP..WARM_UP + MEASURED).contains(&request.at));
        let offered = measured.map(|request| request.charge() as f64).sum::<f64>() / MEASURED * 60.0;
        requests.iter_mut().for_each(|request| request.at *= offered / tokens);
    }
    requests.retain(|request| request.at < WARM_UP + MEASURED);
    requests
}
