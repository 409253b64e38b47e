//! The live view where there is no terminal: one aligned line a second and the events between, in
//! plain text that a log can keep.

use std::fmt::Write as _;

use super::status::{Backend, State, Status};
use super::view::ViewState;
use super::words;

/// Backends named in a line; of more only the numbers per state are told.
const NAMED: usize = 6;

/// The essentials of one moment.
pub(super) fn line(state: &ViewState, status: &Status) -> String {
    let callers = &status.callers;
    let tokens_rate = state.history.rates().map_or_else(|| "–".to_owned(), |(_, tokens)| words::rate(tokens));
    format!(
        "{:>7}  requests {:>7}  ok {:>6}  429s absorbed {:>5}  failures {:>4}  tokens {:>9}  {:>6}/s  {}",
        words::clock(status.uptime_seconds),
        words::count(callers.requests_total),
        words::share(callers.succeeded_total, callers.failed_total),
        words::count(status.absorbed_429s()),
        words::count(callers.failed_total),
        words::count(status.tokens_served()),
        tokens_rate,
        standings(&status.backends),
    )
}

/// One event.
pub(super) fn event(at: f64, text: &str) -> String {
    format!("{:>7}  * {text}", words::clock(at))
}

fn standings(backends: &[Backend]) -> String {
    let mut line = String::new();
    if backends.len() <= NAMED {
        for backend in backends {
            let gap = if line.is_empty() { "" } else { "  " };
            let left = backend.remaining_ms.map_or_else(String::new, |millis| {
                format!(" {}", words::left(std::time::Duration::from_millis(millis)))
            });
            let _ = write!(line, "{gap}{}: {}{left}", words::cut(&backend.name, 24), backend.state.word());
        }
        return line;
    }
    for state in [
        State::Admitting,
        State::Cooling,
        State::Resting,
        State::Probing,
        State::Refused,
        State::Absent,
        State::Drained,
        State::Unused,
        State::Unknown,
    ] {
        let number = backends.iter().filter(|backend| backend.state == state).count();
        if number != 0 {
            let gap = if line.is_empty() { "" } else { ", " };
            let _ = write!(line, "{gap}{number} {}", state.word());
        }
    }
    line
}
