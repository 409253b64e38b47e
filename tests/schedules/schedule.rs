//! What happens, drawn from a seed: backends and their moods, calls, reloads, drains by an operator.

use std::collections::BTreeMap;
use std::fmt;

use fastrand::Rng;
use sidestep::balance::Deployments;

/// Milliseconds since the schedule began.
pub(crate) type Ms = u64;

pub(crate) const NAMES: [&str; 2] = ["alpha", "beta"];

#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    pub(crate) limits: Limits,
    pub(crate) backends: Vec<Backend>,
    /// In order.
    pub(crate) steps: Vec<(Ms, Step)>,
    /// The front drains then.
    pub(crate) drains_at: Option<Ms>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) deadline: Ms,
    pub(crate) connect: Ms,
    pub(crate) first_byte: Option<Ms>,
    pub(crate) first_event: Ms,
    pub(crate) stream_idle: Ms,
    pub(crate) replay: usize,
    pub(crate) buffered: usize,
    pub(crate) lanes: usize,
    /// How long a request may wait in line, and how many.
    pub(crate) hold: Option<Ms>,
    pub(crate) held: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Backend {
    pub(crate) name: String,
    pub(crate) priority: u32,
    pub(crate) weight: u32,
    pub(crate) serves: Deployments,
    pub(crate) mood: Mood,
    /// Tokens in a window of so many milliseconds.
    pub(crate) quota: Option<(u64, Ms)>,
}

/// What a backend tends to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mood {
    Well,
    Throttling,
    Failing,
    Unreachable,
    Breaking,
    Refusing,
    Anything,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Call(Call),
    Mood(usize, Mood),
    Reload(Vec<Backend>),
    Drained(String, bool),
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) kind: Kind,
    /// By the callers' name; `None` where the operation has none.
    pub(crate) deployment: Option<String>,
    /// Charged as more than half of any limit.
    pub(crate) big: bool,
    /// Longer than what is kept for failover.
    pub(crate) long: bool,
    pub(crate) leaves_after: Option<Ms>,
    /// Between two pieces of the answer.
    pub(crate) slow: Option<Ms>,
    pub(crate) patience_s: Option<u64>,
    /// Of the pipe to the caller, in bytes.
    pub(crate) pipe: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Chat,
    ChatStream,
    Response,
    ResponseStream,
    Embeddings,
    Background,
    VectorStore,
    Models,
}

impl Kind {
    pub(crate) fn streamed(self) -> bool {
        matches!(self, Self::ChatStream | Self::ResponseStream)
    }

    pub(crate) fn harmless(self) -> bool {
        !matches!(self, Self::Background | Self::VectorStore)
    }

    pub(crate) fn family(self) -> &'static str {
        match self {
            Self::Chat | Self::ChatStream | Self::Embeddings => "inference",
            Self::Response | Self::ResponseStream | Self::Background => "responses",
            Self::VectorStore => "vector-stores",
            Self::Models => "models",
        }
    }

    pub(crate) fn operation(self) -> &'static str {
        match self {
            Self::Chat | Self::ChatStream => "chat",
            Self::Embeddings => "embeddings",
            Self::Response | Self::ResponseStream | Self::Background => "responses",
            Self::VectorStore => "vector_stores",
            Self::Models => "models",
        }
    }

    pub(crate) fn named(self) -> bool {
        !matches!(self, Self::VectorStore | Self::Models)
    }
}

fn pick<T: Clone>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())].clone()
}

fn chance(rng: &mut Rng, percent: u32) -> bool {
    rng.u32(..100) < percent
}

pub(crate) fn mood(rng: &mut Rng) -> Mood {
    use Mood::{Anything, Breaking, Failing, Refusing, Throttling, Unreachable, Well};
    pick(rng, &[Well, Well, Well, Throttling, Throttling, Failing, Unreachable, Breaking, Refusing, Anything])
}

fn serves(rng: &mut Rng) -> Deployments {
    let named = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(name, there)| ((*name).to_owned(), (*there).to_owned()));
        Deployments::Named(pairs.collect::<BTreeMap<_, _>>())
    };
    match rng.u32(..10) {
        0..=4 => Deployments::Any,
        5 => named(&[("alpha", "alpha-there"), ("beta", "beta")]),
        6 => named(&[("alpha", "both"), ("beta", "both")]),
        7 => named(&[("alpha", "alpha")]),
        8 => named(&[("beta", "alpha")]),
        _ => Deployments::AllAs("all".to_owned()),
    }
}

fn backend(rng: &mut Rng, index: usize) -> Backend {
    let quota = chance(rng, 50).then(|| (rng.u64(50..2_000), pick(rng, &[5_000, 20_000, 60_000])));
    Backend {
        name: format!("b{index}"),
        priority: rng.u32(1..4),
        weight: rng.u32(1..5),
        serves: serves(rng),
        mood: mood(rng),
        quota,
    }
}

fn call(rng: &mut Rng, invents: bool) -> Call {
    use Kind::{Background, Chat, ChatStream, Embeddings, Models, Response, ResponseStream, VectorStore};
    const KINDS: [Kind; 12] = [
        Chat,
        Chat,
        Chat,
        ChatStream,
        ChatStream,
        ChatStream,
        Response,
        ResponseStream,
        Embeddings,
        Background,
        VectorStore,
        Models,
    ];
    let kind = pick(rng, &KINDS);
    let deployment = kind.named().then(|| {
        if invents && chance(rng, 40) {
            format!("invented-{}", rng.u32(..60))
        } else {
            pick(rng, &["alpha", "alpha", "beta"]).to_owned()
        }
    });
    let whole = matches!(kind, Chat | Embeddings);
    let (big, long) = (chance(rng, 15) && kind.named(), chance(rng, 8) && whole);
    Call {
        kind,
        deployment,
        // What is too long to be kept is not read for what it will be charged.
        big: big && !long,
        long,
        leaves_after: chance(rng, 20).then(|| rng.u64(..6_000)),
        slow: chance(rng, 15).then(|| rng.u64(1..700)),
        patience_s: chance(rng, 5).then(|| rng.u64(1..12)),
        pipe: pick(rng, &[64, 1_024, 65_536]),
    }
}

/// Other settings: priorities and weights change, a backend goes or comes.
fn reloaded(rng: &mut Rng, from: &[Backend], all: &[Backend], keeps_first: bool) -> Vec<Backend> {
    let mut to: Vec<Backend> = Vec::new();
    for (index, backend) in all.iter().enumerate() {
        let mut backend = from.iter().find(|old| old.name == backend.name).unwrap_or(backend).clone();
        if chance(rng, 20) && !(keeps_first && index == 0) {
            continue;
        }
        if chance(rng, 30) {
            backend.priority = rng.u32(1..4);
            backend.weight = rng.u32(1..5);
        }
        if chance(rng, 15) && !(keeps_first && index == 0) {
            backend.serves = serves(rng);
        }
        to.push(backend);
    }
    if to.is_empty() { from.to_vec() } else { to }
}

impl Schedule {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let invents = chance(&mut rng, 15);
        let count = rng.usize(1..6);
        let mut backends: Vec<Backend> = (0..count).map(|index| backend(&mut rng, index)).collect();
        if invents {
            let pairs = NAMES.map(|name| (name.to_owned(), name.to_owned()));
            backends[0].serves = Deployments::Named(BTreeMap::from(pairs));
        }
        let length = pick(&mut rng, &[2_000, 20_000, 90_000, 400_000]);
        let mut limits = Limits {
            deadline: rng.u64(9_000..40_000),
            connect: rng.u64(500..3_000),
            first_byte: chance(&mut rng, 25).then(|| rng.u64(5_000..8_900)),
            first_event: rng.u64(3_100..4_900),
            stream_idle: rng.u64(2_000..6_000),
            replay: 4_096,
            buffered: pick(&mut rng, &[3_000, 1 << 20, 1 << 20, 1 << 20]),
            lanes: if invents { rng.usize(1..30) } else { 200 },
            hold: None,
            held: 1,
        };
        let mut steps: Vec<(Ms, Step)> = Vec::new();
        for _ in 0..rng.usize(4..40) {
            let at = rng.u64(..length);
            // Calls seldom come alone.
            for _ in 0..if chance(&mut rng, 25) { rng.u32(1..6) } else { 1 } {
                steps.push((at + rng.u64(..200), Step::Call(call(&mut rng, invents))));
            }
        }
        for _ in 0..rng.usize(..8) {
            steps.push((rng.u64(..length), Step::Mood(rng.usize(..count), mood(&mut rng))));
        }
        for _ in 0..rng.usize(..3) {
            let name = format!("b{}", rng.usize(..count));
            steps.push((rng.u64(..length), Step::Drained(name, chance(&mut rng, 50))));
        }
        let mut now = backends.clone();
        let mut reloads: Vec<Ms> = (0..rng.usize(..4)).map(|_| rng.u64(..length)).collect();
        reloads.sort_unstable();
        for at in reloads {
            now = reloaded(&mut rng, &now, &backends, invents);
            steps.push((at, Step::Reload(now.clone())));
        }
        steps.sort_by_key(|(at, _)| *at);
        let drains_at = chance(&mut rng, 20).then(|| rng.u64(length / 2..length));
        // Last, so that the other draws of a seed stay what they were.
        limits.hold = chance(&mut rng, 40).then(|| pick(&mut rng, &[50, 250, 2_000, 8_000]));
        limits.held = pick(&mut rng, &[1, 3, 1_000]);
        Self { seed, limits, backends, steps, drains_at }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {:?}", self.seed, self.limits)?;
        for backend in &self.backends {
            writeln!(f, "  {backend:?}")?;
        }
        for (at, step) in &self.steps {
            match step {
                Step::Call(call) => writeln!(f, "  {at} ms: {call:?}")?,
                Step::Mood(backend, mood) => writeln!(f, "  {at} ms: b{backend} is {mood:?}")?,
                Step::Drained(name, true) => writeln!(f, "  {at} ms: an operator drains {name}")?,
                Step::Drained(name, false) => writeln!(f, "  {at} ms: an operator resumes {name}")?,
                Step::Reload(backends) => {
                    write!(f, "  {at} ms: reload to")?;
                    for Backend { name, priority, weight, serves, .. } in backends {
                        write!(f, " [{name} priority {priority} weight {weight} {serves:?}]")?;
                    }
                    writeln!(f)?;
                }
            }
        }
        match self.drains_at {
            Some(at) => writeln!(f, "  {at} ms: the front drains"),
            None => Ok(()),
        }
    }
}
