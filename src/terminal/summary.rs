//! What a demo was, in a few lines at its end.

use std::fmt::Write as _;

use ratatui::text::Span;

use super::status::Status;
use super::words;

/// Backends listed; the others are counted.
const LISTED: usize = 20;
/// The longest name that is not cut, in columns.
const NAME: usize = 24;

/// Requests, what callers saw of it, 429s absorbed, and a table of the backends. Several lines, each
/// ended; plain text without escape codes.
#[must_use]
pub fn summary(status: &Status) -> String {
    let callers = &status.callers;
    let throttled = match callers.throttled_total {
        0 => String::new(),
        number => format!(" ({} of them 429)", words::count(number)),
    };
    let mut text = format!(
        "{} in {}\n  callers saw      {} answered, {}{throttled}\n  429s absorbed    {}\n  failovers        {}\n  tokens served    {}\n",
        words::several(callers.requests_total, "request"),
        words::clock(status.uptime_seconds),
        words::count(callers.succeeded_total),
        words::several(callers.failed_total, "failure"),
        words::count(status.absorbed_429s()),
        words::count(callers.failovers_total),
        words::count(status.tokens_served()),
    );
    if status.backends.is_empty() {
        return text;
    }
    let listed = status.backends.iter().take(LISTED);
    let longest = listed.clone().map(|backend| Span::raw(&backend.name).width()).max().unwrap_or(0);
    let name = longest.clamp("backend".len(), NAME);
    let _ = writeln!(
        text,
        "\n  {:<name$}  {:>9}  {:>11}  {:>9}  {:>8}",
        "backend", "served", "tokens", "429s", "failed"
    );
    for backend in listed {
        let cut = words::cut(&backend.name, name);
        let filled = " ".repeat(name.saturating_sub(Span::raw(&cut).width()));
        let _ = writeln!(
            text,
            "  {cut}{filled}  {:>9}  {:>11}  {:>9}  {:>8}",
            words::count(backend.served_total),
            words::count(backend.tokens_total),
            words::count(backend.throttled_total),
            words::count(backend.failed_total),
        );
    }
    if LISTED < status.backends.len() {
        let _ = writeln!(text, "  and {} more", status.backends.len() - LISTED);
    }
    text
}
