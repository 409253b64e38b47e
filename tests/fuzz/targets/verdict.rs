//! Answers of any kind through the verdict and into the pool: nothing panics, and after each of them its invariants
//! hold (I1, I2, I3, I8), at the end I10.
//!
//! Input: steps between lines of `---`, each an answer: words, headers, a blank line, the body. A request goes from
//! lane to lane with one step for each attempt. Words: a status, or `refused`, `closed`, `silent`, `malformed`, or `left` (the
//! caller). Before the step: `after=250` (ms), `reload`, `drain=0`, `undrain=0`, `begin` (one more request, no answer).
//! Which request: `which=1`. Of a request when it begins: `charge=5000`, `streamed`, `once` (not harmless), `mini`, `unnamed`.
//! Of an answer: `flex`, `callers` (own credential), `cut` (breaks off at the end).
#![no_main]

use std::time::{Duration, Instant};

use http::StatusCode;
use libfuzzer_sys::fuzz_target;
use sidestep::balance::{
    Answer, Ask, AttemptFailure, Attempts, BackendSnapshot, Cause, Exhausted, Judgement, LaneSnapshot, Next,
    Pick, Pool, State, Tier, Verdict, judge, judge_failure,
};
use sidestep::openai::UsageScanner;
use sidestep_fuzz::{LONGEST, LONGEST_WAIT, Message, SHORTEST, backends, pieces, pool};

const BACKENDS: usize = 4;
const ABSENT: Duration = Duration::from_secs(300);

fuzz_target!(|data: &[u8]| {
    let mut world = World {
        pool: pool(BACKENDS),
        now: Instant::now(),
        held: Vec::new(),
        smallest_mark: u64::MAX,
        unsupported: false,
    };
    for step in pieces(data).into_iter().take(64) {
        world.step(&Message::of(step));
        world.check();
    }
    world.serves_again();
});

#[derive(Default)]
struct Request {
    attempts: Attempts,
    tried: Vec<usize>,
    deployment: Option<&'static str>,
    charge: u64,
    streamed: bool,
    harmless: bool,
    kept: bool,
}

impl Request {
    fn ask(&self) -> Ask<'static> {
        Ask {
            deployment: self.deployment,
            second: None,
            family: "inference",
            operation: "chat",
            charge: self.charge,
            unlimited: false,
            streamed: self.streamed,
            harmless: self.harmless,
            conversation: None,
            lowest_priority: None,
            pin: None,
            patience: Duration::ZERO,
            ahead: 0,
        }
    }

    /// The name of its lane on a backend, where that serves it.
    fn lane(&self, backend: usize) -> Option<&'static str> {
        match (self.deployment, backend % 3 == 2) {
            (None, _) => Some(""),
            (Some("gpt-4o"), true) => Some("gpt-4o-east"),
            (Some(_), true) => None,
            (Some(name), false) => Some(name),
        }
    }
}

struct World {
    pool: Pool,
    now: Instant,
    held: Vec<(Pick, Request)>,
    /// Smaller requests meet no size mark.
    smallest_mark: u64,
    unsupported: bool,
}

impl World {
    fn step(&mut self, step: &Message<'_>) {
        self.now += Duration::from_millis(step.number("after").unwrap_or(0).min(1_000_000));
        if step.says("reload") {
            self.pool.reconfigure(self.now, backends(BACKENDS));
        }
        for (word, drained) in [("drain", true), ("undrain", false)] {
            if let Some(index) = step.number(word) {
                self.pool.set_drained(usize::try_from(index).unwrap_or(usize::MAX), drained);
            }
        }
        let begin = step.says("begin");
        if begin || self.held.is_empty() {
            let deployment = match () {
                () if step.says("unnamed") => None,
                () if step.says("mini") => Some("gpt-4o-mini"),
                () => Some("gpt-4o"),
            };
            self.pick(Request {
                deployment,
                charge: step.number("charge").unwrap_or(1_000),
                streamed: step.says("streamed"),
                harmless: !step.says("once"),
                ..Request::default()
            });
        }
        if !begin && !self.held.is_empty() {
            let which = step.number("which").unwrap_or(0) % self.held.len() as u64;
            let (pick, request) = self.held.swap_remove(usize::try_from(which).unwrap_or(0));
            self.answer(step, pick, request);
        }
    }

    fn answer(&mut self, step: &Message<'_>, pick: Pick, mut request: Request) {
        if step.says("left") {
            return self.pool.abandon(pick);
        }
        let ask = request.ask();
        let status = step.words.split(' ').find_map(|word| StatusCode::from_bytes(word.as_bytes()).ok());
        let failure = failure(step);
        let judged = match failure {
            Some(failure) => {
                let judged = judge_failure(failure, &ask, &mut request.attempts);
                assert!(!judged.keep);
                judged
            }
            None => {
                let answer = Answer {
                    status: status.unwrap_or(StatusCode::OK),
                    headers: &step.headers,
                    body: step.body,
                    service_tier: step.says("flex").then_some(Tier::Flex),
                    callers_credential: step.says("callers"),
                    looked_for: false,
                };
                let judged = judge(&answer, &ask, &mut request.attempts);
                answers_row(&answer, &ask, judged);
                judged
            }
        };
        request.kept |= judged.keep;
        let (verdict, pick_back) =
            (self.as_the_edge_reports(step, &pick, judged.verdict, &mut request), pick.backend);
        self.pool.report(self.now, pick, verdict, &mut request.attempts);
        self.remember(&request, verdict, pick_back);
        if judged.next == Next::NextLane {
            self.pick(request);
        }
    }

    /// A good answer is `answered` with its head and reported with its tokens.
    fn as_the_edge_reports(
        &mut self,
        step: &Message<'_>,
        pick: &Pick,
        verdict: Verdict,
        request: &mut Request,
    ) -> Verdict {
        let Verdict::Served { .. } = verdict else { return verdict };
        let mut usage = UsageScanner::default();
        usage.feed(step.body);
        let tokens = usage.usage().map_or(0, |usage| usage.prompt + usage.completion);
        self.pool.answered(self.now, pick, &step.headers, &mut request.attempts);
        if step.says("cut") { Verdict::CutOff { tokens } } else { Verdict::Served { tokens } }
    }

    fn remember(&mut self, request: &Request, verdict: Verdict, backend: usize) {
        let name = request.lane(backend).unwrap_or_default();
        let (now, snapshot) = (self.now, self.pool.snapshot(self.now));
        let lane = lane(&snapshot.backends[backend], name);
        match verdict {
            Verdict::Throttled { told, .. } if told.duration <= Duration::from_secs(300) => {
                // Unless something says more: a drained backend, a deployment that is not there.
                let told = told.duration.clamp(SHORTEST, LONGEST);
                let cooling = lane.filter(|lane| lane.state == State::Cooling);
                assert!(
                    cooling.is_none_or(|lane| lane.remaining.is_some_and(|left| left >= told)),
                    "{told:?} at {now:?}: {lane:?}"
                );
                assert!(lane.is_none_or(|lane| lane.state != State::Admitting), "{lane:?}");
            }
            Verdict::Throttled { .. } | Verdict::TooLarge { .. } => {
                self.smallest_mark = self.smallest_mark.min(request.charge);
            }
            Verdict::Unsupported => self.unsupported = true,
            _ => {}
        }
    }

    fn pick(&mut self, mut request: Request) {
        let before = self.pool.snapshot(self.now);
        match self.pool.pick(self.now, &request.ask(), &mut request.attempts) {
            Ok(pick) => {
                let backend = &before.backends[pick.backend];
                let name = request.lane(pick.backend).expect("only who serves it is picked");
                let state = lane(backend, name).map_or(State::Admitting, |lane| lane.state);
                let well = state == State::Admitting && backend.state != State::Drained;
                let probe = pick.probe && matches!(state, State::Resting | State::Probing);
                assert!(well || probe, "I2: picked while {state}");
                assert!(!request.tried.contains(&pick.backend), "tried twice");
                request.tried.push(pick.backend);
                assert_eq!(request.attempts.count(), request.tried.len());
                self.held.push((pick, request));
            }
            Err(exhausted) => self.exhausted(&request, exhausted, &before.backends),
        }
    }

    fn exhausted(&self, request: &Request, told: Exhausted, before: &[BackendSnapshot]) {
        let lanes =
            || before.iter().enumerate().filter_map(|(at, backend)| Some((at, backend, request.lane(at)?)));
        if request.charge < self.smallest_mark && !self.unsupported {
            for (at, backend, name) in lanes() {
                // Whose own headers have told that nothing is left for this request is not asked either.
                let admitted = |lane: &LaneSnapshot| {
                    let room = lane.quota.remaining_tokens.is_none_or(|left| left > request.charge);
                    lane.state == State::Admitting && room
                };
                let admits = backend.state == State::Admitting && lane(backend, name).is_none_or(admitted);
                assert!(
                    !admits || request.tried.contains(&at),
                    "I1: b{at} admits and was not tried: {told:?}"
                );
            }
        }
        match told {
            Exhausted::Throttled { wait } => {
                assert!((SHORTEST..=LONGEST_WAIT).contains(&wait), "{wait:?}");
                let left = lanes().filter_map(|(_, backend, name)| lane(backend, name));
                let soonest =
                    left.filter(|lane| lane.state == State::Cooling).filter_map(|lane| lane.remaining).min();
                if let Some(soonest) = soonest.filter(|_| request.tried.is_empty()) {
                    assert!(wait >= soonest.min(LONGEST_WAIT), "I3: told {wait:?}, soonest {soonest:?}");
                }
            }
            Exhausted::Spent { cause: Cause::Answered } => assert!(request.kept, "no answer was kept"),
            Exhausted::TooLarge => assert!(request.charge >= self.smallest_mark),
            Exhausted::Unserved => panic!("all deployments are served"),
            Exhausted::Soon { .. } => panic!("it has no patience"),
            Exhausted::Spent { .. } => {}
        }
    }

    fn check(&mut self) {
        let snapshot = self.pool.snapshot(self.now);
        let held = self.held.len() as u64;
        assert_eq!(snapshot.in_flight, held, "I8");
        assert_eq!(snapshot.backends.iter().map(|backend| backend.tally.in_flight).sum::<u64>(), held, "I8");
        let lanes = || snapshot.backends.iter().flat_map(|backend| &backend.lanes);
        assert_eq!(lanes().map(|lane| lane.tally.in_flight).sum::<u64>(), held, "I8");
        for lane in lanes() {
            let bound = match lane.state {
                State::Admitting | State::Drained | State::Probing => Duration::ZERO,
                State::Cooling | State::Resting | State::Refused => LONGEST,
                State::Absent => ABSENT,
            };
            assert!(lane.remaining.unwrap_or_default() <= bound, "{lane:?}");
            assert_eq!(lane.cause.is_none(), matches!(lane.state, State::Admitting | State::Drained));
        }
        if self.pool.has_changes() {
            assert!(!self.pool.take_changes().is_empty());
        }
    }

    /// I10: an idle pool whose backends are well serves the next request, at once or after the wait it tells.
    fn serves_again(mut self) {
        for (pick, _) in std::mem::take(&mut self.held) {
            self.pool.abandon(pick);
        }
        (0..BACKENDS).for_each(|index| self.pool.set_drained(index, false));
        let mut request = Request { deployment: Some("gpt-4o"), charge: 1_000, ..Request::default() };
        let mut waits = 0..4;
        let pick = loop {
            let found = self.pool.pick(self.now, &request.ask(), &mut request.attempts);
            match found {
                Ok(pick) => break pick,
                Err(Exhausted::Throttled { wait }) => self.now += wait,
                // Azure itself said for how long it would refuse this.
                Err(Exhausted::Spent { .. } | Exhausted::TooLarge) => self.now += 2 * ABSENT,
                Err(Exhausted::Unserved | Exhausted::Soon { .. }) => panic!("all deployments are served"),
            }
            assert!(waits.next().is_some(), "I10: still exhausted");
        };
        self.pool.report(self.now, pick, Verdict::Served { tokens: 1 }, &mut request.attempts);
        self.check();
    }
}

fn lane<'a>(backend: &'a BackendSnapshot, name: &str) -> Option<&'a LaneSnapshot> {
    backend.lanes.iter().find(|lane| &*lane.deployment == name)
}

fn failure(step: &Message<'_>) -> Option<AttemptFailure> {
    let table = [
        ("refused", AttemptFailure::Refused),
        ("unreachable", AttemptFailure::Connect),
        ("closed", AttemptFailure::Closed),
        ("malformed", AttemptFailure::Malformed),
        ("silent", AttemptFailure::FirstEventTimeout),
    ];
    table.into_iter().find_map(|(word, failure)| step.says(word).then_some(failure))
}

/// The rows of design.md 6 that need no reading.
fn answers_row(answer: &Answer<'_>, ask: &Ask<'_>, judged: Judgement) {
    let next = judged.next == Next::NextLane;
    assert!(next || !judged.keep, "only what may be forgotten is kept");
    match answer.status.as_u16() {
        200..=399 => assert_eq!(judged.verdict, Verdict::Served { tokens: 0 }),
        429 => {
            // Kept or not: that depends on what is kept already.
            assert!(next);
            let sized = matches!(judged.verdict, Verdict::TooLarge { .. });
            let tier = judged.verdict == Verdict::TierFull;
            assert!(sized || tier == answer.service_tier.is_some());
        }
        500..=599 => {
            assert_eq!(next, ask.harmless);
            assert!(matches!(judged.verdict, Verdict::Failed { .. } | Verdict::Unavailable { .. }));
        }
        401 | 403 => assert!(!judged.keep && next != answer.callers_credential),
        408 => assert!(ask.harmless || !next),
        400 | 404 => {}
        _ => assert!(!next && judged.verdict == Verdict::PassedBack),
    }
}
