//! What the balancer may believe: computed from what the modelled backends did and from design.md 6, never by asking
//! the pool. `Unsure`: two requests act at one instant, in an order not known from outside.

use std::collections::BTreeMap;

use sidestep::balance::Deployments;

use super::health::{Failure, Fit, Health, LONGEST, SHORTEST, Touch};
use super::names::{Home, invented, there};
use super::schedule::{Backend, Call, Limits, Ms};

/// The longest prelude here, with what is read together with its end.
const PRELUDE: usize = 16 * 1024;

const REFUSED: Ms = 60_000;
const ABSENT: Ms = 300_000;
const OVERSIZE: Ms = 600_000;
const ABSURD: Ms = 300_000;
const MINUTE: Ms = 60_000;

/// Who changed something that is no request.
const OPERATOR: usize = usize::MAX;

/// What one lane is to one request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Standing {
    Out,
    Blocked(&'static str),
    Cooling(Ms),
    Resting(Ms),
    Probing,
    ProbeDue,
    Admits,
    Unsure,
}

/// What an attempt brought.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    Good,
    PassedBack,
    Throttled { told: Ms },
    PeakLoad { told: Ms },
    Failed { told: Option<Ms> },
    Unavailable { told: Ms },
    Refused,
    Absent,
    Unsupported,
    RequestTimeout,
    ConnectRefused,
    ConnectFailed,
    Closed,
    Silent,
    OutOfTime,
}

/// What must come next for a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Next {
    Lane,
    Nothing,
}

#[derive(Debug, Default)]
struct Lane {
    cooling: Ms,
    absent: Ms,
    lacking: BTreeMap<&'static str, Ms>,
    /// Set by a big request or not; until when.
    marks: Vec<(bool, Ms)>,
    /// When a refusal last told what is left: from then on charges count, which are not known to the token.
    told: Option<Ms>,
    health: Health,
    touched: Option<Touch>,
    /// Nothing is known for certain any more.
    fog: bool,
}

/// One backend from when it is in the settings until it is not.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) name: String,
    pub(crate) priority: u32,
    pub(crate) attempts: u64,
    pub(crate) serves: Deployments,
    drained: bool,
    current: bool,
    refused: BTreeMap<&'static str, Ms>,
    health: Health,
    lanes: BTreeMap<String, Lane>,
    touched: Option<Touch>,
    fog: bool,
}

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) call: Call,
    pub(crate) deadline: Ms,
    pub(crate) attempts: Vec<usize>,
    pub(crate) next: Next,
    pub(crate) left: bool,
    pub(crate) done: bool,
    pub(crate) answered: bool,
    /// Which site was home when it came.
    pub(crate) home: Option<usize>,
    pub(crate) body: usize,
    /// Site, lane, when sent.
    unconfirmed: Vec<(usize, Option<String>, Ms, Failure)>,
}

#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) request: usize,
    pub(crate) site: usize,
    pub(crate) there: String,
    pub(crate) sent: Ms,
    /// The backend, or the way to it, is still at work.
    pub(crate) open: bool,
    pub(crate) outcome: Option<(Outcome, Ms)>,
    /// The body, as far as it was sent.
    pub(crate) written: Vec<u8>,
    pub(crate) status: u16,
    pub(crate) finished: bool,
    pub(crate) cut: bool,
    pub(crate) wrote_at: Ms,
}

#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) limits: Limits,
    pub(crate) sites: Vec<Site>,
    /// By the pool's index.
    pub(crate) current: Vec<usize>,
    pub(crate) requests: Vec<Request>,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) violation: Option<String>,
    pub(crate) trace: Option<Vec<String>>,
}

impl Book {
    pub(crate) fn new(limits: Limits, backends: &[Backend], traced: bool) -> Self {
        let mut book = Self {
            limits,
            sites: Vec::new(),
            current: Vec::new(),
            requests: Vec::new(),
            attempts: Vec::new(),
            violation: None,
            trace: traced.then(Vec::new),
        };
        book.reload(0, backends);
        book
    }

    pub(crate) fn note(&mut self, now: Ms, text: impl FnOnce() -> String) {
        if self.violation.is_none()
            && let Some(trace) = &mut self.trace
        {
            trace.push(format!("{now:>7} {}", text()));
        }
    }

    pub(crate) fn violated(&mut self, now: Ms, invariant: &str, text: &str) {
        self.note(now, || format!("!! {invariant}: {text}"));
        self.violation.get_or_insert_with(|| format!("{invariant} at {now} ms: {text}"));
    }

    pub(crate) fn reload(&mut self, now: Ms, backends: &[Backend]) {
        let old = std::mem::take(&mut self.current);
        for backend in backends {
            let kept = old.iter().copied().find(|site| self.sites[*site].name == backend.name);
            let site = kept.unwrap_or_else(|| {
                self.sites.push(Site {
                    name: backend.name.clone(),
                    priority: 0,
                    attempts: 0,
                    serves: Deployments::Any,
                    drained: false,
                    current: true,
                    refused: BTreeMap::new(),
                    health: Health::default(),
                    lanes: BTreeMap::new(),
                    touched: None,
                    fog: false,
                });
                self.sites.len() - 1
            });
            self.current.push(site);
            let site = &mut self.sites[site];
            site.priority = backend.priority;
            site.serves = backend.serves.clone();
            site.touched = Touch::joined(site.touched, now, OPERATOR);
            site.refused.clear();
            for (name, lane) in &mut site.lanes {
                lane.absent = 0;
                lane.lacking.clear();
                // One that nothing leads to is forgotten, whenever it is asked for again.
                let led_to = name.is_empty()
                    || match &site.serves {
                        Deployments::Any => true,
                        Deployments::Named(names) => names.values().any(|there| there == name),
                        Deployments::AllAs(there) => there == name,
                    };
                lane.fog |= !led_to;
            }
        }
        old.iter().for_each(|site| self.sites[*site].current = self.current.contains(site));
        // A lane of which only failures are known that do not count yet is forgotten, and they with it.
        for of in self.requests.iter().flat_map(|of| of.unconfirmed.clone()).collect::<Vec<_>>() {
            of.1.iter().for_each(|there| self.lane(of.0, there).fog = true);
        }
    }

    pub(crate) fn drained(&mut self, now: Ms, name: &str, drained: bool) -> Option<usize> {
        let index = self.current.iter().position(|site| self.sites[*site].name == name)?;
        let site = &mut self.sites[self.current[index]];
        site.drained = drained;
        site.touched = Touch::joined(site.touched, now, OPERATOR);
        Some(index)
    }

    fn lane(&mut self, site: usize, there: &str) -> &mut Lane {
        self.sites[site].lanes.entry(there.to_owned()).or_default()
    }

    /// What a site is to a request; `None` where the deployment is not served there.
    pub(crate) fn standing(&self, site: usize, request: usize, now: Ms) -> Option<Standing> {
        let call = &self.requests[request].call;
        let home = self.home(site, request);
        let site = &self.sites[site];
        let there = there(&site.serves, call.deployment.as_deref())?;
        match home {
            Home::No => return None,
            Home::Unsure => return Some(Standing::Unsure),
            Home::Yes => {}
        }
        if site.fog || Touch::by_another(site.touched, request, now) {
            return Some(Standing::Unsure);
        }
        if site.drained {
            return Some(Standing::Out);
        }
        if site.refused.get(call.kind.family()).is_some_and(|until| now < *until) {
            return Some(Standing::Blocked("refused"));
        }
        if invented(&there) {
            return Some(Standing::Unsure);
        }
        let nothing = Lane::default();
        let lane = site.lanes.get(&there).unwrap_or(&nothing);
        if lane.fog || Touch::by_another(lane.touched, request, now) {
            return Some(Standing::Unsure);
        }
        if now < lane.absent {
            return Some(Standing::Blocked("absent"));
        }
        if lane.lacking.get(call.kind.operation()).is_some_and(|until| now < *until) {
            return Some(Standing::Blocked("unsupported"));
        }
        let cooling = now < lane.cooling;
        let fits = [site.health.fit(now), lane.health.fit(now)];
        let rest =
            fits.iter().filter_map(|fit| if let Fit::Resting(until) = fit { Some(*until) } else { None });
        let rest = rest.max();
        if cooling {
            // A rest beyond it is our own caution, and keeps nobody out.
            return Some(Standing::Cooling(lane.cooling));
        }
        if lane.told.is_some() {
            return Some(Standing::Unsure);
        }
        // What it was charged is not known to the token.
        if lane.marks.iter().any(|(big, until)| now < *until && (call.big || !big)) {
            return Some(Standing::Unsure);
        }
        Some(if fits.contains(&Fit::Probing) {
            Standing::Probing
        } else if let Some(until) = rest {
            Standing::Resting(until)
        } else if fits.contains(&Fit::ProbeDue) {
            Standing::ProbeDue
        } else {
            Standing::Admits
        })
    }

    /// Sites of the present settings that serve a request, with what they are to it.
    pub(crate) fn serving(&self, request: usize, now: Ms) -> Vec<(usize, Standing)> {
        let standing = |site: &usize| Some((*site, self.standing(*site, request, now)?));
        self.current.iter().filter_map(standing).collect()
    }

    /// The balancer closed the connection, or gave up waiting for one: which of its limits was it?
    pub(crate) fn given_up(&mut self, attempt: usize, dialed_at: Option<Ms>, now: Ms) {
        self.attempts[attempt].open = false;
        let of = &self.attempts[attempt];
        let (asked, limits) = (&self.requests[of.request], self.limits);
        if asked.left || of.finished || of.cut {
            return;
        }
        match of.outcome {
            Some((Outcome::Good, _)) if now >= of.wrote_at + limits.stream_idle => {
                self.attempts[attempt].cut = true;
                self.ended(attempt, now);
            }
            Some((Outcome::Good, _)) => {
                let text = format!("request {}: a committed answer was broken off by us", of.request);
                self.violated(now, "I4", &text);
            }
            Some(_) => {}
            None => {
                let silent = limits.first_byte.is_some_and(|limit| now == of.sent + limit)
                    || (asked.call.kind.streamed() && now == of.sent + limits.first_event);
                let outcome = if now == asked.deadline {
                    Outcome::OutOfTime
                } else if dialed_at.is_some_and(|at| now == at + limits.connect) {
                    Outcome::ConnectFailed
                } else if silent {
                    Outcome::Silent
                } else {
                    let text = format!("request {}: an attempt was given up for no reason", of.request);
                    self.violated(now, "I9", &text);
                    return;
                };
                self.decide(attempt, outcome, now);
            }
        }
    }

    /// A committed answer is over, one way or the other: once more the backend was reached. When a slow caller's answer
    /// is over for the balancer is not known from outside.
    pub(crate) fn ended(&mut self, attempt: usize, now: Ms) {
        let Attempt { request, site, outcome, .. } = self.attempts[attempt];
        let number = attempt as u64 + 1;
        let asked = &self.requests[request];
        let site = &mut self.sites[site];
        let raced = Touch::by_another(site.touched, request, now);
        let news = site.health.would_change(number) || raced;
        if asked.left || !matches!(outcome, Some((Outcome::Good, _))) || !news {
            return;
        }
        if asked.call.slow.is_some() || raced {
            site.fog = true;
        } else {
            site.health.well(number);
            site.touched = Touch::joined(site.touched, now, request);
        }
    }

    /// What a request does next tells that it waits no longer, before the backend hears of it.
    pub(crate) fn goes_on(&mut self, request: usize, now: Ms) {
        if let Some(&last) = self.requests[request].attempts.last()
            && self.attempts[last].outcome.is_none()
        {
            self.given_up(last, None, now);
        }
    }

    /// An attempt reaches a backend, or the way to it.
    pub(crate) fn begin(&mut self, request: usize, site: usize, now: Ms) -> usize {
        self.goes_on(request, now);
        self.check_begin(request, site, now);
        let deployment = self.requests[request].call.deployment.clone();
        let there = there(&self.sites[site].serves, deployment.as_deref()).unwrap_or_default();
        let number = self.attempts.len() as u64 + 1;
        let of_site = &mut self.sites[site];
        of_site.attempts += 1;
        // It may have been picked before the rest of this very instant began.
        of_site.fog |= of_site.health.began_at() == Some(now);
        of_site.health.sent(number, now);
        if of_site.health.until().is_some() {
            of_site.touched = Touch::joined(of_site.touched, now, request);
        }
        if invented(&there) {
            // A name beyond the bound may be the probe of the unnamed lane.
            let lane = self.lane(site, "");
            lane.fog |= lane.health.until().is_some();
        } else {
            let lane = self.lane(site, &there);
            lane.fog |= lane.health.began_at() == Some(now);
            lane.health.sent(number, now);
            if lane.health.until().is_some() {
                lane.touched = Touch::joined(lane.touched, now, request);
            }
        }
        self.note(now, || format!("request {request}: attempt {number} at s{site} ({there})"));
        self.attempts.push(Attempt {
            request,
            site,
            there,
            sent: now,
            open: true,
            outcome: None,
            written: Vec::new(),
            status: 0,
            finished: false,
            cut: false,
            wrote_at: now,
        });
        let attempt = self.attempts.len() - 1;
        self.requests[request].attempts.push(attempt);
        self.requests[request].next = Next::Nothing;
        attempt
    }

    fn check_begin(&mut self, request: usize, site: usize, now: Ms) {
        let asked = &self.requests[request];
        let name = &self.sites[site].name;
        // That a caller left stands behind its upload: while that is not read, as in the line, nobody can see it.
        let broken = if asked.left && !asked.call.long {
            Some(("I6", format!("request {request} goes to {name} although its caller left")))
        } else if asked.answered {
            Some(("I4", format!("request {request} goes to {name} after its head")))
        } else if asked.next != Next::Lane {
            Some(("I9", format!("request {request} goes to {name} although it must not be repeated")))
        } else if self.has_tried(request, site) && !self.may_again(request, site) {
            Some(("I9", format!("request {request} goes to {name} twice")))
        } else if !self.sites[site].current && self.sites[site].touched.is_none_or(|touch| touch.at < now) {
            Some(("I9", format!("request {request} goes to {name}, which is in no settings")))
        } else {
            self.check_choice(request, site, now)
        };
        if let Some((invariant, text)) = broken {
            self.violated(now, invariant, &text);
        }
    }

    fn check_choice(&self, request: usize, site: usize, now: Ms) -> Option<(&'static str, String)> {
        let Some(standing) = self.standing(site, request, now) else {
            return Some(("I9", format!("request {request}: its deployment is not served there")));
        };
        let name = &self.sites[site].name;
        let others = self.serving(request, now).into_iter();
        let admitting = others.filter(|(other, standing)| {
            *other != site
                && !self.has_tried(request, *other)
                && matches!(standing, Standing::Admits | Standing::ProbeDue)
        });
        let mut admitting = admitting.map(|(other, _)| &self.sites[other]);
        match standing {
            Standing::Unsure => None,
            Standing::Admits | Standing::ProbeDue => {
                let better = admitting.find(|other| other.priority < self.sites[site].priority)?;
                Some((
                    "I1",
                    format!("request {request} goes to {name}, but {} is first in line", better.name),
                ))
            }
            Standing::Resting(until) => {
                let well = admitting.next()?;
                Some((
                    "I2",
                    format!("request {request} probes {name} before {until}, but {} admits", well.name),
                ))
            }
            Standing::Out | Standing::Blocked(_) | Standing::Cooling(_) | Standing::Probing => {
                Some(("I2", format!("request {request} goes to {name}, which is {standing:?}")))
            }
        }
    }

    /// The attempt is decided. False where nobody was there any more to be told.
    pub(crate) fn decide(&mut self, attempt: usize, outcome: Outcome, now: Ms) -> bool {
        let Attempt { request, site, ref there, sent, outcome: ref decided, .. } = self.attempts[attempt];
        if decided.is_some() || self.requests[request].left {
            return false;
        }
        let there = there.clone();
        self.note(now, || format!("request {request}: attempt {} at s{site}: {outcome:?}", attempt + 1));
        self.attempts[attempt].outcome = Some((outcome, now));
        self.attempts[attempt].open = outcome == Outcome::Good;
        self.release(attempt, now);
        self.requests[request].next = self.next(request, outcome);
        let number = attempt as u64 + 1;
        let reached = !matches!(
            outcome,
            Outcome::ConnectRefused
                | Outcome::ConnectFailed
                | Outcome::Closed
                | Outcome::Silent
                | Outcome::OutOfTime
                | Outcome::RequestTimeout
        );
        if outcome == Outcome::Good && !invented(&there) {
            let lane = self.lane(site, &there);
            // Good answers here tell nothing: after a minute the reading is forgotten.
            lane.told = lane.told.filter(|told| now <= told + MINUTE);
            let raced = Touch::by_another(lane.touched, request, now);
            if lane.health.well(number) || lane.absent > now || raced {
                lane.fog |= raced;
                lane.absent = 0;
                lane.touched = Touch::joined(lane.touched, now, request);
            }
        }
        let of_site = &mut self.sites[site];
        let raced = Touch::by_another(of_site.touched, request, now);
        if reached && (of_site.health.well(number) || raced) {
            of_site.fog |= raced;
            of_site.touched = Touch::joined(of_site.touched, now, request);
        }
        if outcome == Outcome::Good {
            for (site, lane, sent, failure) in std::mem::take(&mut self.requests[request].unconfirmed) {
                self.fail((site, lane), sent, failure, request, now);
            }
        }
        let failure = Failure { number, told: None, at_once: false };
        let of_lane = Some(there.clone());
        match outcome {
            Outcome::Failed { told } => {
                let failure = Failure { told, ..failure };
                self.requests[request].unconfirmed.push((site, of_lane, sent, failure));
            }
            Outcome::Silent if self.requests[request].call.kind.streamed() => {
                self.requests[request].unconfirmed.push((site, of_lane, sent, failure));
            }
            Outcome::ConnectFailed | Outcome::Closed => {
                self.requests[request].unconfirmed.push((site, None, sent, failure));
            }
            Outcome::ConnectRefused => {
                self.fail((site, None), sent, Failure { at_once: true, ..failure }, request, now);
            }
            Outcome::Unavailable { told } => {
                let failure = Failure { told: Some(told), at_once: true, ..failure };
                self.fail((site, of_lane), sent, failure, request, now);
            }
            _ => self.keep_out(attempt, outcome, now),
        }
        true
    }

    /// What only Azure's own answers do.
    fn keep_out(&mut self, attempt: usize, outcome: Outcome, now: Ms) {
        let Attempt { request, site, ref there, .. } = self.attempts[attempt];
        let there = there.clone();
        let (big, kind) = (self.requests[request].call.big, self.requests[request].call.kind);
        if outcome == Outcome::Refused {
            self.sites[site].refused.insert(kind.family(), now + REFUSED);
            self.sites[site].touched = Touch::joined(self.sites[site].touched, now, request);
            return;
        }
        if invented(&there) {
            return;
        }
        let lane = self.lane(site, &there);
        match outcome {
            Outcome::Throttled { told } if told > ABSURD && big => lane.marks.push((big, now + OVERSIZE)),
            Outcome::Throttled { told } => {
                lane.cooling = lane.cooling.max(now + told.clamp(SHORTEST, LONGEST));
            }
            Outcome::PeakLoad { told } => lane.marks.push((big, now + told.clamp(SHORTEST, LONGEST))),
            Outcome::Absent => lane.absent = now + ABSENT,
            Outcome::Unsupported => {
                lane.lacking.insert(kind.operation(), now + ABSENT);
            }
            _ => return,
        }
        lane.touched = Touch::joined(lane.touched, now, request);
    }

    /// A refusal told what is left of its lane's minute.
    pub(crate) fn told(&mut self, attempt: usize, now: Ms) {
        let Attempt { site, ref there, .. } = self.attempts[attempt];
        let there = there.clone();
        if !invented(&there) {
            self.lane(site, &there).told = Some(now);
        }
    }

    fn next(&self, request: usize, outcome: Outcome) -> Next {
        let asked = &self.requests[request];
        let again = match outcome {
            Outcome::Good | Outcome::PassedBack | Outcome::OutOfTime => false,
            Outcome::Throttled { .. }
            | Outcome::PeakLoad { .. }
            | Outcome::Refused
            | Outcome::Absent
            | Outcome::Unsupported
            | Outcome::ConnectRefused
            | Outcome::ConnectFailed => true,
            Outcome::RequestTimeout => {
                let outcomes = asked.attempts.iter().filter_map(|attempt| self.attempts[*attempt].outcome);
                let timeouts = outcomes.filter(|(outcome, _)| *outcome == Outcome::RequestTimeout).count();
                asked.call.kind.harmless() && timeouts == 1
            }
            Outcome::Failed { .. } | Outcome::Unavailable { .. } | Outcome::Closed | Outcome::Silent => {
                asked.call.kind.harmless()
            }
        };
        if again && !asked.call.long { Next::Lane } else { Next::Nothing }
    }

    fn fail(&mut self, of: (usize, Option<String>), sent: Ms, failure: Failure, request: usize, now: Ms) {
        let newest = self.attempts.len() as u64;
        let (site, lane) = of;
        let (health, fog, touched) = match lane {
            None => {
                let site = &mut self.sites[site];
                (&mut site.health, &mut site.fog, &mut site.touched)
            }
            Some(there) if invented(&there) => return,
            Some(there) => {
                let lane = self.lane(site, &there);
                (&mut lane.health, &mut lane.fog, &mut lane.touched)
            }
        };
        *fog |= health.began_at() == Some(sent) || Touch::by_another(*touched, request, now);
        health.failed(now, newest, failure);
        *touched = Touch::joined(*touched, now, request);
    }

    /// The probe's place is free.
    fn release(&mut self, attempt: usize, now: Ms) {
        let Attempt { request, site, ref there, .. } = self.attempts[attempt];
        let there = there.clone();
        let number = attempt as u64 + 1;
        if self.sites[site].health.over(number) {
            self.sites[site].touched = Touch::joined(self.sites[site].touched, now, request);
        }
        if !invented(&there) {
            let lane = self.lane(site, &there);
            if lane.health.over(number) {
                lane.touched = Touch::joined(lane.touched, now, request);
            }
        }
    }

    /// The caller is gone: the place is free, nothing else changes.
    pub(crate) fn left(&mut self, request: usize, now: Ms) {
        self.note(now, || format!("request {request}: the caller leaves"));
        self.requests[request].left = true;
        let Some(&attempt) = self.requests[request].attempts.last() else { return };
        self.release(attempt, now);
        // Whether the answer or the caller was faster is not known.
        let Attempt { site, ref there, sent, outcome, .. } = self.attempts[attempt];
        // Behind a body that no backend takes yet, the balancer cannot see its caller leave.
        let unseen = self.requests[request].call.long;
        if unseen || sent == now || outcome.is_some_and(|(_, at)| at == now) {
            let there = there.clone();
            self.sites[site].fog = true;
            self.lane(site, &there).fog = true;
        }
    }

    pub(crate) fn ask(&mut self, call: Call, deadline: Ms, body: usize) {
        self.requests.push(Request {
            call,
            deadline,
            attempts: Vec::new(),
            next: Next::Lane,
            left: false,
            done: false,
            answered: false,
            home: self.current.first().copied(),
            body,
            unconfirmed: Vec::new(),
        });
    }

    /// Whether a backend is still at work for this request.
    pub(crate) fn open(&self, request: usize) -> bool {
        let asked = &self.requests[request];
        !asked.call.long && asked.attempts.iter().any(|attempt| self.attempts[*attempt].open)
    }

    /// The least and the most that may be in flight: a good answer is, until its caller has read it.
    pub(crate) fn in_flight(&self) -> (u64, u64) {
        let waited_for = self.requests.iter().filter(|request| !request.left && !request.done);
        let last = waited_for.filter_map(|request| Some(&self.attempts[*request.attempts.last()?]));
        let hidden = self.attempts.iter().filter(|attempt| {
            let of = &self.requests[attempt.request];
            attempt.open && of.left && of.call.long
        });
        let hidden = hidden.fold(0, |count, _| count + 1);
        last.fold((0, hidden), |(least, most), attempt| match attempt.outcome {
            None => (least + 1, most + 1),
            Some((Outcome::Good, _)) => (least, most + 1),
            Some(_) => (least, most),
        })
    }

    /// Bytes that may be held: the bodies that callers wait for answers to, and the preludes of the answers.
    pub(crate) fn bodies(&self) -> usize {
        self.requests.iter().filter(|request| !request.done).map(|request| request.body + PRELUDE).sum()
    }

    /// Whether these may be too many.
    pub(crate) fn is_full(&self) -> bool {
        self.bodies() > self.limits.buffered
    }

    /// An operator resumes all; how many there are.
    pub(crate) fn resume(&mut self, now: Ms) -> usize {
        for site in &self.current {
            self.sites[*site].drained = false;
            self.sites[*site].touched = Touch::joined(self.sites[*site].touched, now, OPERATOR);
        }
        self.current.len()
    }
}
