//! The live view in the terminal, of `sidestep demo` and `sidestep top`.
//!
//! It reads status documents and explanations and nothing else, so it shows a daemon in this process and one far away
//! in the same way, and can never get in a request's path. It does not fetch: the caller passes
//! functions that do. It prints no logs and reads no environment.
//!
//! Pure parts, each fed with `now`: [`status`] (the document, made harmless), `history` (samples and
//! rates), `story` (what happened, in sentences), `view` and `rows` (the picture), `detail` (one
//! backend), `keys`, `plain` (lines for a pipe), [`summary()`]. Only this file reads a clock and touches the terminal, through
//! ratatui, which draws the difference between two pictures; the terminal is given back on every
//! way out, a panic included.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

mod detail;
pub mod explained;
mod history;
mod keys;
mod palette;
mod plain;
mod rows;
pub mod status;
mod story;
mod summary;
mod view;
mod words;

#[cfg(test)]
mod tests;

pub use self::explained::Explained;
pub use self::status::Status;
pub use self::summary::summary;

use self::keys::press;
use self::view::{Shown, ViewState};

/// Between two documents on the screen; short, because a cooldown may last less than a second.
const FETCH_EVERY: Duration = Duration::from_millis(200);
/// After a failed fetch.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Between two pictures, when no key is pressed.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// How to show it.
#[derive(Clone, Debug)]
pub struct ViewOptions {
    /// First words on the screen, e.g. `Sidestep`.
    pub title: String,
    /// Lines under the picture: how to try it. One that starts with `curl ` is wrapped so that it
    /// can be copied.
    pub notes: Vec<String>,
    /// End by itself after this long.
    pub seconds: Option<Duration>,
    /// Set by a signal: end soon.
    pub stop: Arc<AtomicBool>,
    /// Plain lines on standard output, because that is no terminal.
    pub plain: bool,
    /// Colours; off when `NO_COLOR` is set and not empty.
    pub colour: bool,
}

/// How the view ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Why.
    pub cause: EndCause,
    /// The last document that came, for [`summary()`].
    pub last: Option<Status>,
}

/// Why the view ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EndCause {
    /// The user pressed q, Ctrl-C or, at the list, Esc; or closed the pipe.
    Quit,
    /// [`ViewOptions::seconds`] were over.
    Time,
    /// [`ViewOptions::stop`] was set.
    Stopped,
}

/// Shows documents from `fetch` until something ends it. Runs on the calling thread; `fetch` is
/// called several times a second there, so it should answer or give up within a second. Its error is
/// a short text that is shown while it is tried again. `explain` is asked once a second while one
/// backend is looked at: by that backend's name and a deployment's name there.
///
/// # Errors
/// When the terminal or standard output cannot be used.
pub fn run_view(
    fetch: impl FnMut() -> Result<Status, String>,
    explain: impl FnMut(&str, &str) -> Result<Explained, String>,
    options: ViewOptions,
) -> io::Result<Ended> {
    let started = clock();
    let ends =
        Ends { stop: options.stop, at: options.seconds.and_then(|seconds| started.checked_add(seconds)) };
    let state = ViewState {
        title: words::harmless(&options.title),
        notes: options
            .notes
            .iter()
            .map(|note| note.chars().filter(|character| !character.is_control()).collect())
            .collect(),
        colour: options.colour,
        ..ViewState::default()
    };
    if options.plain {
        return match print_lines(fetch, state, &ends, &mut io::stdout()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Ok(Ended { cause: EndCause::Quit, last: None })
            }
            ended => ended,
        };
    }
    // `try_init` also makes a panic give the terminal back before its message is printed.
    let _restored = Restored;
    let terminal = ratatui::try_init()?;
    show(terminal, (fetch, explain), state, &ends)
}

/// Gives the terminal back when it goes out of scope.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        // An error here has no better place to go: the terminal is what would show it.
        let _ = ratatui::try_restore();
    }
}

/// What ends the view besides the user.
struct Ends {
    stop: Arc<AtomicBool>,
    at: Option<Instant>,
}

impl Ends {
    fn reached(&self, now: Instant) -> Option<EndCause> {
        if self.stop.load(Ordering::Relaxed) {
            return Some(EndCause::Stopped);
        }
        self.at.is_some_and(|at| at <= now).then_some(EndCause::Time)
    }
}

fn show(
    mut terminal: DefaultTerminal,
    (mut fetch, mut explain): (
        impl FnMut() -> Result<Status, String>,
        impl FnMut(&str, &str) -> Result<Explained, String>,
    ),
    mut state: ViewState,
    ends: &Ends,
) -> io::Result<Ended> {
    let mut next_fetch = clock();
    loop {
        if next_fetch <= clock() {
            next_fetch = take(&mut state, fetch(), FETCH_EVERY);
        }
        if let Some((backend, deployment)) = state.unexplained(clock()) {
            let explained = explain(&backend, &deployment);
            state.explain(clock(), (backend, deployment), explained);
        }
        let mut shown = Shown::default();
        terminal.draw(|frame| shown = view::draw(frame, &state, clock()))?;
        let mut wait = DRAW_EVERY;
        while event::poll(wait)? {
            // A resize needs nothing: each picture is drawn for the size of its moment.
            if let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
                && press(&mut state, key, shown)
            {
                return Ok(Ended { cause: EndCause::Quit, last: state.status });
            }
            wait = Duration::ZERO;
        }
        if let Some(cause) = ends.reached(clock()) {
            return Ok(Ended { cause, last: state.status });
        }
    }
}

/// Takes a fetched document in, and says when the next is due.
fn take(state: &mut ViewState, fetched: Result<Status, String>, every: Duration) -> Instant {
    let now = clock();
    match fetched {
        Ok(status) => {
            state.observe(now, status);
            now + every
        }
        Err(reason) => {
            state.lose(&reason);
            now + RETRY_AFTER
        }
    }
}

fn print_lines(
    mut fetch: impl FnMut() -> Result<Status, String>,
    mut state: ViewState,
    ends: &Ends,
    out: &mut impl Write,
) -> io::Result<Ended> {
    for note in &state.notes {
        writeln!(out, "{note}")?;
    }
    let (mut told, mut next_fetch, mut next_line) = (0, clock(), clock());
    loop {
        if let Some(cause) = ends.reached(clock()) {
            return Ok(Ended { cause, last: state.status });
        }
        if next_fetch <= clock() {
            let fetched = fetch();
            if let Err(reason) = &fetched {
                writeln!(out, "         {}; retrying", words::harmless(reason))?;
            }
            next_fetch = take(&mut state, fetched, FETCH_EVERY);
        }
        for (number, event) in state.story.complete_since(told) {
            writeln!(out, "{}", plain::event(event.at, &event.text))?;
            told = number;
        }
        if let Some(status) = state.status.as_ref().filter(|_| next_line <= clock() && state.is_current()) {
            writeln!(out, "{}", plain::line(&state, status))?;
            next_line = clock().max(next_line + LINE_EVERY);
        }
        out.flush()?;
        std::thread::sleep(DRAW_EVERY);
    }
}

fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}
