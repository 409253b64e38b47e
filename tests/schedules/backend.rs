//! The modelled backends: HTTP/1.1 by hand over pipes, one task for each connection.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use sidestep::net::connect::InMemory;
use sidestep::net::upstream::Origin;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::{self, Id};
use tokio::time::{Instant, sleep};

use super::book::{Book, Outcome};
use super::names::invented;
use super::schedule::{Kind, Mood, Ms, Schedule};
use super::script::{self, Dial, Script, Status};

/// Stands in every key and nowhere else.
pub(crate) const SECRET: &str = "s3cr3t";

/// A backend's own key.
pub(crate) fn key_of(name: &str) -> String {
    format!("{SECRET}-of-{name}")
}

/// All that is not the balancer.
pub(crate) struct World {
    pub(crate) book: RefCell<Book>,
    pub(crate) rng: RefCell<Rng>,
    pub(crate) moods: RefCell<Vec<Mood>>,
    /// From now on all is well.
    pub(crate) healed: Cell<bool>,
    /// Which request is served by which task.
    pub(crate) tasks: RefCell<HashMap<Id, usize>>,
    quotas: Vec<Option<(u64, Ms)>>,
    used: RefCell<HashMap<(usize, String, Ms), u64>>,
    /// By request: its attempt goes on over a fresh connection.
    repeats: RefCell<HashMap<usize, usize>>,
    start: Instant,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

impl World {
    pub(crate) fn new(schedule: &Schedule, traced: bool) -> Rc<Self> {
        let now = Instant::now();
        Rc::new(Self {
            book: RefCell::new(Book::new(schedule.limits, &schedule.backends, traced)),
            rng: RefCell::new(Rng::with_seed(schedule.seed ^ 0x5eed)),
            moods: RefCell::new(schedule.backends.iter().map(|backend| backend.mood).collect()),
            healed: Cell::new(false),
            tasks: RefCell::default(),
            quotas: schedule.backends.iter().map(|backend| backend.quota).collect(),
            used: RefCell::default(),
            repeats: RefCell::default(),
            start: now,
        })
    }

    pub(crate) fn now(&self) -> Ms {
        u64::try_from(self.start.elapsed().as_millis()).unwrap()
    }

    pub(crate) fn at(&self, ms: Ms) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    pub(crate) fn violated(&self, invariant: &str, text: &str) {
        self.book.borrow_mut().violated(self.now(), invariant, text);
    }

    fn script(&self, name: &str, attempt: usize) -> Script {
        if self.healed.get() {
            return Script::Good;
        }
        let (index, now) = (index_of(name), self.now());
        let book = self.book.borrow();
        let of = &book.attempts[attempt];
        let call = &book.requests[of.request].call;
        let rng = &mut *self.rng.borrow_mut();
        if invented(&of.there) {
            return script::unknown(rng);
        }
        if let Some((limit, window)) = self.quotas[index] {
            let mut used = self.used.borrow_mut();
            let used = used.entry((index, of.there.clone(), now / window)).or_default();
            let cost = if call.big { 900 } else { 100 };
            if *used + cost > limit {
                return Script::Status(script::throttled(window - now % window));
            }
            *used += cost;
        }
        script::script(rng, self.moods.borrow()[index], call)
    }

    /// The balancer closed the connection, or gave up waiting for one.
    fn gone(&self, attempt: usize, dialed_at: Option<Ms>) {
        self.book.borrow_mut().given_up(attempt, dialed_at, self.now());
    }
}

fn index_of(name: &str) -> usize {
    name.trim_start_matches('b').parse().unwrap()
}

/// The way to the backends.
#[derive(Clone, Debug)]
pub(crate) struct Net(pub(crate) Rc<World>);

impl InMemory for Net {
    fn connect(&self, origin: &Origin) -> Pin<Box<dyn Future<Output = io::Result<DuplexStream>>>> {
        let world = Rc::clone(&self.0);
        let now = world.now();
        let name = origin.host.trim_end_matches(".test").to_owned();
        let request = task::try_id().and_then(|id| world.tasks.borrow().get(&id).copied());
        let site = {
            let book = world.book.borrow();
            let found = book.current.iter().copied().find(|site| book.sites[*site].name == name);
            found.unwrap_or_else(|| {
                let gone = book.sites.iter().rposition(|site| site.name == name);
                gone.expect("only backends of some settings are called")
            })
        };
        let Some(request) = request else { return spare(world, name, site) };
        let repeated = world.repeats.borrow_mut().remove(&request);
        let attempt = repeated.unwrap_or_else(|| world.book.borrow_mut().begin(request, site, now));
        world.book.borrow_mut().attempts[attempt].open = true;
        let (dial, wait, pipe) = {
            let rng = &mut *world.rng.borrow_mut();
            let mood = world.moods.borrow()[index_of(&name)];
            let dial = if world.healed.get() { Dial::Accept } else { script::dial(rng, mood) };
            (dial, if rng.u32(..4) == 0 { rng.u64(..400) } else { 0 }, [64, 1_024, 65_536][rng.usize(..3)])
        };
        Box::pin(async move {
            let mut guard = Dialing { world: Rc::clone(&world), attempt, at: now, waiting: true };
            if wait > 0 {
                sleep(Duration::from_millis(wait)).await;
            }
            let (kind, outcome) = match dial {
                Dial::Accept => {
                    guard.waiting = false;
                    let (ours, theirs) = duplex(pipe);
                    let site = world.book.borrow().attempts[attempt].site;
                    let line = Line {
                        world: Rc::clone(&world),
                        stream: theirs,
                        name,
                        site,
                        attempt,
                        served: 0,
                        ahead: Vec::new(),
                    };
                    task::spawn_local(line.serve());
                    return Ok(ours);
                }
                Dial::Silent => std::future::pending().await,
                Dial::Refuse => (io::ErrorKind::ConnectionRefused, Outcome::ConnectRefused),
                Dial::Fail => (io::ErrorKind::NetworkUnreachable, Outcome::ConnectFailed),
            };
            guard.waiting = false;
            let mut book = world.book.borrow_mut();
            // There never was a connection, also where the caller leaves at this very instant and nothing is decided.
            book.attempts[attempt].open = false;
            book.decide(attempt, outcome, world.now());
            Err(kind.into())
        })
    }
}

/// A connection that no request has asked for. Its first request finds it as if another had been served on it before.
fn spare(
    world: Rc<World>,
    name: String,
    site: usize,
) -> Pin<Box<dyn Future<Output = io::Result<DuplexStream>>>> {
    Box::pin(async move {
        let dial = script::dial(&mut world.rng.borrow_mut(), world.moods.borrow()[index_of(&name)]);
        if !matches!(dial, Dial::Accept) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = duplex(1_024);
        let (stream, ahead) = (theirs, Vec::new());
        let line = Line { world, stream, name, site, attempt: usize::MAX, served: 1, ahead };
        task::spawn_local(line.stand_by());
        Ok(ours)
    })
}

/// A connection that is not there yet.
struct Dialing {
    world: Rc<World>,
    attempt: usize,
    at: Ms,
    waiting: bool,
}

impl Drop for Dialing {
    fn drop(&mut self) {
        if self.waiting {
            self.world.gone(self.attempt, Some(self.at));
        }
    }
}

/// Who closed the connection.
enum Gone {
    Balancer,
    Backend,
}

fn request_of(head: &str) -> usize {
    let named = |line: &str| Some(line.strip_prefix("x-ms-client-request-id: ")?.parse().unwrap());
    head.lines().find_map(named).unwrap()
}

/// One connection.
struct Line {
    world: Rc<World>,
    stream: DuplexStream,
    name: String,
    site: usize,
    attempt: usize,
    served: u32,
    /// Read already.
    ahead: Vec<u8>,
}

impl Line {
    /// Until its first request, a spare connection may be closed, or something said on it that nobody has asked for.
    async fn stand_by(mut self) {
        let (trouble, wait) = {
            let mut rng = self.world.rng.borrow_mut();
            (rng.u32(..6), rng.u64(..2_000))
        };
        if trouble > 1 || self.world.healed.get() {
            return self.serve().await;
        }
        let mut piece = [0; 4_096];
        let asked = tokio::select! {
            biased;
            read = self.stream.read(&mut piece) => Some(read.unwrap_or(0)),
            () = sleep(Duration::from_millis(wait)) => None,
        };
        match asked {
            Some(0) => {}
            Some(count) => {
                self.ahead.extend_from_slice(&piece[..count]);
                self.serve().await;
            }
            None if trouble == 0 => {}
            None => {
                // It fits: nobody waits between the look above and this.
                let said = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n";
                let _gone = self.stream.write_all(said).await;
                if self.stream.read(&mut piece).await.is_ok_and(|count| count > 0) {
                    self.world
                        .violated("I9", "a request on a connection on which there was an answer before it");
                }
            }
        }
    }

    async fn serve(mut self) {
        loop {
            // The first request asked for the connection; each later one begins with its head.
            let mut begun = self.served == 0;
            let Some((head, body)) = self.request(&mut begun).await else {
                if begun {
                    self.world.gone(self.attempt, None);
                }
                return;
            };
            let request = request_of(&head);
            self.check(request, &head, &body);
            let script = self.world.script(&self.name, self.attempt);
            let now = self.world.now();
            self.world.book.borrow_mut().note(now, || format!("request {request}: {script:?}"));
            match self.answer(script).await {
                Ok(()) => {}
                Err(Gone::Balancer) => return self.world.gone(self.attempt, None),
                Err(Gone::Backend) => return,
            }
            self.served += 1;
            // Some close at once, some after a while.
            let kept = self.world.rng.borrow_mut().u32(..10);
            if kept == 0 {
                return;
            }
        }
    }

    async fn request(&mut self, begun: &mut bool) -> Option<(String, String)> {
        let mut read = std::mem::take(&mut self.ahead);
        loop {
            let end = read.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                let head = String::from_utf8(read[..end].to_vec()).unwrap();
                if !std::mem::replace(begun, true) {
                    let now = self.world.now();
                    self.attempt = self.world.book.borrow_mut().begin(request_of(&head), self.site, now);
                }
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.map_or(0, |length| length.parse().unwrap());
                if read.len() >= end + 4 + length {
                    return Some((head, String::from_utf8(read[end + 4..].to_vec()).unwrap()));
                }
            }
            let mut piece = [0; 4_096];
            match self.stream.read(&mut piece).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => read.extend_from_slice(&piece[..count]),
            }
        }
    }

    /// The right key alone, and the deployment by its name here.
    fn check(&self, request: usize, head: &str, body: &str) {
        let key = format!("api-key: {}", key_of(&self.name));
        if !head.lines().any(|line| line == key) || head.matches(SECRET).count() != 1 || body.contains(SECRET)
        {
            self.world.violated("I5", &format!("request {request} came to {} with {head:?}", self.name));
        }
        let (of, kind, there) = {
            let book = self.world.book.borrow();
            let of = &book.attempts[self.attempt];
            (of.request, book.requests[of.request].call.kind, of.there.clone())
        };
        let named = match kind {
            Kind::Chat | Kind::ChatStream | Kind::Embeddings => {
                head.contains(&format!("/deployments/{there}/"))
            }
            Kind::Response | Kind::ResponseStream | Kind::Background => {
                body.contains(&format!("\"model\":\"{there}\""))
            }
            Kind::VectorStore | Kind::Models => true,
        };
        if of != request || !named {
            self.world
                .violated("I9", &format!("request {of} for {there:?} came to {} as {head:?}", self.name));
        }
    }

    /// Waits, and hears when the balancer closes. Never until one of the balancer's own limits: which of the two
    /// comes first at one instant is chance.
    async fn pause(&mut self, ms: Ms) -> Result<(), Gone> {
        let mut until = self.world.now() + ms;
        {
            let book = self.world.book.borrow();
            let of = &book.attempts[self.attempt];
            let sent = of.sent;
            let limits = [
                book.requests[of.request].deadline,
                sent + book.limits.first_event,
                sent + book.limits.first_byte.unwrap_or_default(),
                of.wrote_at + book.limits.stream_idle,
            ];
            while limits.contains(&until) {
                until += 1;
            }
        }
        self.pause_until(until).await
    }

    async fn pause_until(&mut self, until: Ms) -> Result<(), Gone> {
        let mut byte = [0];
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(self.world.at(until)) => Ok(()),
            _ = self.stream.read(&mut byte) => Err(Gone::Balancer),
        }
    }

    /// Until the balancer closes.
    async fn wait(&mut self) -> Gone {
        let mut byte = [0];
        let _closed = self.stream.read(&mut byte).await;
        Gone::Balancer
    }

    async fn send(&mut self, raw: &str) -> Result<(), Gone> {
        self.stream.write_all(raw.as_bytes()).await.map_err(|_| Gone::Balancer)?;
        let now = self.world.now();
        self.world.book.borrow_mut().attempts[self.attempt].wrote_at = now;
        Ok(())
    }

    /// A piece of a chunked body.
    async fn chunk(&mut self, text: &str) -> Result<(), Gone> {
        self.of(|of| of.written.extend_from_slice(text.as_bytes()));
        self.send(&format!("{:x}\r\n{text}\r\n", text.len())).await
    }

    fn of(&self, change: impl FnOnce(&mut super::book::Attempt)) {
        change(&mut self.world.book.borrow_mut().attempts[self.attempt]);
    }

    fn decide(&self, outcome: Outcome) -> Result<(), Gone> {
        let now = self.world.now();
        if self.world.book.borrow_mut().decide(self.attempt, outcome, now) {
            Ok(())
        } else {
            Err(Gone::Balancer)
        }
    }

    fn kind(&self) -> Kind {
        let book = self.world.book.borrow();
        book.requests[book.attempts[self.attempt].request].call.kind
    }

    fn finish(&self) {
        self.of(|of| (of.finished, of.open) = (true, false));
        self.world.book.borrow_mut().ended(self.attempt, self.world.now());
    }

    async fn answer(&mut self, script: Script) -> Result<(), Gone> {
        let latency = {
            let rng = &mut *self.world.rng.borrow_mut();
            let most = [30, 800, 800, 6_000][rng.usize(..4)];
            rng.u64(1..most)
        };
        self.pause(if self.world.healed.get() { 5 } else { latency }).await?;
        let streamed = self.kind().streamed();
        match script {
            Script::Status(status) => self.status(&status).await,
            Script::Close if self.repeatable() => {
                let request = self.world.book.borrow().attempts[self.attempt].request;
                self.world.repeats.borrow_mut().insert(request, self.attempt);
                self.of(|of| of.open = false);
                self.close()
            }
            Script::Close => {
                self.decide(Outcome::Closed)?;
                self.close()
            }
            Script::Garbage => {
                self.decide(Outcome::Closed)?;
                self.send("\u{1}\u{2} nothing that HTTP knows\r\n\r\n").await?;
                Err(Gone::Backend)
            }
            Script::Hang => Err(self.wait().await),
            Script::CutBody => {
                self.decide(Outcome::Closed)?;
                self.send(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
                )
                .await?;
                Err(Gone::Backend)
            }
            Script::Chunked { cut } => self.chunked(cut).await,
            script if streamed => self.stream(script).await,
            _ => {
                let text = format!("{{\"by\":\"{}\"}}", self.attempt);
                self.of(|of| (of.status, of.written) = (200, text.clone().into_bytes()));
                self.decide(Outcome::Good)?;
                let length = text.len();
                self.send(&format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-ratelimit-limit-tokens: 8000\r\n\
                     content-length: {length}\r\n\r\n{text}"
                ))
                .await?;
                self.finish();
                Ok(())
            }
        }
    }

    /// A kept-alive connection that dies without a byte is replaced, silently, where that is harmless.
    fn repeatable(&self) -> bool {
        let book = self.world.book.borrow();
        let call = &book.requests[book.attempts[self.attempt].request].call;
        self.served > 0 && call.kind.harmless() && !call.long
    }

    fn close(&self) -> Result<(), Gone> {
        self.of(|of| of.open = false);
        Err(Gone::Backend)
    }

    async fn status(&mut self, status: &Status) -> Result<(), Gone> {
        let Status { status, headers, code, message, outcome } = status;
        let text = format!(
            "{{\"error\":{{\"code\":\"{code}\",\"message\":\"{message}\"}},\"by\":{}}}",
            self.attempt
        );
        self.of(|of| (of.status, of.written) = (*status, text.clone().into_bytes()));
        self.decide(*outcome)?;
        if headers.contains("remaining-tokens") {
            self.world.book.borrow_mut().told(self.attempt, self.world.now());
        }
        let length = text.len();
        self.send(&format!(
            "HTTP/1.1 {status} Because\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\r\n{text}"
        ))
        .await?;
        self.finish();
        Ok(())
    }

    async fn chunked(&mut self, cut: bool) -> Result<(), Gone> {
        self.of(|of| of.status = 200);
        self.decide(Outcome::Good)?;
        self.send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
            .await?;
        for piece in 0..3 {
            self.pause(40).await?;
            let text = format!("{} of {}, ", piece, self.attempt);
            self.chunk(&text).await?;
        }
        self.end(cut).await
    }

    async fn end(&mut self, cut: bool) -> Result<(), Gone> {
        if cut {
            self.of(|of| of.cut = true);
            self.world.book.borrow_mut().ended(self.attempt, self.world.now());
            return self.close();
        }
        self.send("0\r\n\r\n").await?;
        self.finish();
        Ok(())
    }

    async fn stream(&mut self, script: Script) -> Result<(), Gone> {
        self.of(|of| of.status = 200);
        self.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            .await?;
        if matches!(script, Script::HeadOnly) {
            return Err(self.wait().await);
        }
        let responses = self.kind() == Kind::ResponseStream;
        let prelude = self.world.rng.borrow_mut().u32(..3);
        // Longer ones are committed by time.
        let between =
            if matches!(script, Script::PreludeError { .. } | Script::PreludeCut) { 300 } else { 900 };
        let mut hold = None;
        for _ in 0..prelude.max(u32::from(matches!(script, Script::PreludeCut))) {
            self.chunk(if responses {
                "event: response.created\ndata: {\"type\":\"response.created\"}\n\n"
            } else {
                "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n"
            })
            .await?;
            let hold = *hold.get_or_insert_with(|| self.world.now() + 1_000);
            let pause = self.world.rng.borrow_mut().u64(1..between);
            self.hold(hold, pause).await?;
        }
        match script {
            Script::PreludeError { code, outcome } => {
                self.decide(outcome)?;
                let event = if responses { "event: error\n" } else { "" };
                self.chunk(&format!(
                    "{event}data: {{\"error\":{{\"code\":\"{code}\",\"message\":\"no\"}}}}\n\n"
                ))
                .await?;
                self.end(false).await
            }
            Script::PreludeCut => {
                self.decide(Outcome::Closed)?;
                self.close()
            }
            Script::SilentAfter(0) if prelude > 0 => {
                // Committed by time, and then nothing.
                let hold = hold.unwrap_or_default();
                self.hold(hold, 1_001).await?;
                Err(self.wait().await)
            }
            script => self.events(script, responses).await,
        }
    }

    /// Waits within the prelude, which is held for a second and then committed.
    async fn hold(&mut self, hold: Ms, pause: Ms) -> Result<(), Gone> {
        let now = self.world.now();
        let undecided = self.world.book.borrow().attempts[self.attempt].outcome.is_none();
        if undecided && now + pause >= hold {
            self.pause_until(hold).await?;
            self.decide(Outcome::Good)?;
            return self.pause(now + pause - hold).await;
        }
        self.pause(pause).await
    }

    async fn events(&mut self, script: Script, responses: bool) -> Result<(), Gone> {
        if self.world.book.borrow().attempts[self.attempt].outcome.is_none() {
            self.decide(Outcome::Good)?;
        }
        let count = self.world.rng.borrow_mut().u32(1..6).max(if let Script::CutAfter(after, _) = script {
            after
        } else {
            0
        });
        for number in 0..count {
            let text = format!("{number} of {}", self.attempt);
            let event = if responses {
                format!(
                    "event: response.output_text.delta\ndata: {{\"type\":\"response.output_text.delta\",\"delta\":\"{text}\"}}\n\n"
                )
            } else {
                format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
            };
            match script {
                Script::CutAfter(after, inside) if number == after => {
                    if inside {
                        self.chunk(&event[..event.len() / 2]).await?;
                    }
                    return self.end(true).await;
                }
                Script::SilentAfter(after) if number > after => return Err(self.wait().await),
                _ => self.chunk(&event).await?,
            }
            let pause = self.world.rng.borrow_mut().u64(..1_200);
            self.pause(pause).await?;
        }
        match script {
            Script::CutAfter(..) => return self.end(true).await,
            Script::SilentAfter(_) => return Err(self.wait().await),
            _ => {}
        }
        self.chunk(if responses {
            "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{}}\n\n"
        } else {
            "data: [DONE]\n\n"
        })
        .await?;
        self.end(false).await
    }
}
