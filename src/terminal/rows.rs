//! The backends of the live view: who admits, who rests for how long, and the last minute of each.
//!
//! A backend takes three lines where there is room (state, its recent past, its lanes), two or one
//! where there is not. State is told by word and sign as well as colour.

use std::time::{Duration, Instant};

use ratatui::style::Modifier;
use ratatui::text::{Line, Span};

use super::history::{Sample, Track};
use super::palette::Palette;
use super::status::{Backend, Quota, State};
use super::view::{ViewState, spread, total_width};
use super::words;

/// The longest strip, in seconds and columns.
const STRIP: usize = 120;
/// The longest gauge, in columns.
const GAUGE: usize = 24;
/// Columns of the state in words.
const WORD: usize = 10;
/// Columns of the time left.
const LEFT: usize = 6;
/// A strip's bars are at least on this scale, so that one request a second does not look like a storm.
const SCALE_FLOOR: u64 = 4;
/// Columns of what is left of a quota.
const TOKENS: usize = 10;
const BARS: [&str; 8] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];

/// Columns of the table, in characters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    width: usize,
    name: usize,
    /// Number columns that fit, leftmost first: served, tokens, 429s, now.
    numbers: &'static [(Number, usize)],
}

#[derive(Clone, Copy, Debug)]
enum Number {
    Served,
    Tokens,
    Throttled,
    InFlight,
}

impl Columns {
    /// What fits into `width` characters for these names.
    pub(super) fn fit(width: usize, backends: &[Backend]) -> Self {
        let longest = backends.iter().map(|backend| Span::raw(&backend.name).width()).max().unwrap_or(0);
        let name = match width {
            0..24 => width.saturating_sub(14),
            24..60 => longest.clamp(4, 10),
            60..100 => longest.clamp(17, 20),
            _ => longest.clamp(19, 36),
        };
        let numbers: &[_] = match width {
            100.. => {
                &[(Number::Served, 11), (Number::Tokens, 13), (Number::Throttled, 11), (Number::InFlight, 8)]
            }
            72.. => {
                &[(Number::Served, 8), (Number::Tokens, 10), (Number::Throttled, 6), (Number::InFlight, 5)]
            }
            56.. => &[(Number::Served, 8), (Number::Throttled, 6)],
            40.. => &[(Number::Throttled, 6)],
            _ => &[],
        };
        Self { width, name: name + 3, numbers }
    }

    /// Seconds that a strip under the state shows.
    pub(super) fn strip(&self) -> usize {
        self.width.saturating_sub(self.name).min(STRIP)
    }

    fn middle(&self) -> usize {
        let numbers: usize = self.numbers.iter().map(|(_, width)| width).sum();
        self.width.saturating_sub(self.name + numbers)
    }
}

/// The scale of all strips.
pub(super) fn peak(state: &ViewState, columns: &Columns) -> u64 {
    state.history.peak(columns.strip()).max(SCALE_FLOOR)
}

/// The table's head: how many admit, and the columns' names.
pub(super) fn head(state: &ViewState, columns: &Columns, shown: &str, palette: Palette) -> Line<'static> {
    let backends = state.status.as_ref().map_or(&[][..], |status| &status.backends);
    let admitting = backends.iter().filter(|backend| matches!(backend.state, State::Admitting)).count();
    let first_back = backends.iter().filter_map(|backend| backend.remaining_ms).min();
    let mut left = vec![Span::styled("backends  ", palette.bold())];
    if !backends.is_empty() {
        left.push(match (admitting, first_back) {
            (0, Some(_)) => Span::styled("none admits now", palette.throttled()),
            _ => Span::styled(format!("{admitting} of {} admit", backends.len()), palette.dim()),
        });
        let unused = backends.iter().filter(|backend| backend.state == State::Unused).count();
        if unused != 0 {
            left.push(Span::styled(format!(", {unused} without credential"), palette.failed()));
        }
        left.push(Span::styled(format!("  {shown}"), palette.dim()));
    }
    let right = columns.numbers.iter().map(|(number, width)| {
        let name = match number {
            Number::Served => "served",
            Number::Tokens => "tokens",
            Number::Throttled => "429s",
            Number::InFlight => "now",
        };
        Span::styled(format!("{name:>width$}"), palette.dim())
    });
    spread(left, right.collect(), columns.width)
}

/// One backend in `height` lines (1 to 3), its bars on the scale of `peak`, marked where it is `chosen`.
pub(super) fn backend(
    state: &ViewState,
    (backend, chosen): (&Backend, bool),
    columns: &Columns,
    (height, peak): (usize, u64),
    palette: Palette,
    now: Instant,
) -> Vec<Line<'static>> {
    let track = state.history.track(&backend.name);
    let mut left = vec![
        Span::styled(format!("{} ", sign(backend.state)), palette.state(backend.state)),
        // Without its last column, so that a chosen name ends where it ends.
        Span::styled(words::cut(&backend.name, columns.name.saturating_sub(3)), palette.name(chosen)),
    ];
    left.push(Span::raw(" ".repeat(columns.name.saturating_sub(total_width(&left)))));
    left.extend(standing(state, backend, track, columns, (height == 1).then_some(peak), palette, now));
    let right = columns.numbers.iter().map(|(number, width)| {
        let (value, style) = match number {
            Number::Served => (backend.served_total, palette.plain()),
            Number::Tokens => (backend.tokens_total, palette.plain()),
            Number::Throttled if backend.throttled_total == 0 => (0, palette.dim()),
            Number::Throttled => (backend.throttled_total, palette.throttled()),
            Number::InFlight => (backend.in_flight, palette.dim()),
        };
        Span::styled(format!("{:>width$}", words::count(value)), style)
    });
    let mut lines = vec![spread(left, right.collect(), columns.width)];
    if 2 <= height {
        let aside = Some(aside(backend)).filter(|aside| 12 < columns.name || aside.len() + 3 <= columns.name);
        let aside = format!("  {}", aside.unwrap_or_default());
        let mut past = vec![Span::styled(pad(&aside, columns.name), palette.dim())];
        past.extend(strip(track, columns.strip().min(state.history.seconds()), peak, palette));
        lines.push(Line::from(past));
    }
    if 3 <= height {
        lines.push(lanes(state, backend, columns, palette, now));
    }
    lines
}

/// The word, and the time left with a draining gauge or, in a single line, the recent past.
fn standing(
    state: &ViewState,
    backend: &Backend,
    track: Option<&Track>,
    columns: &Columns,
    single: Option<u64>,
    palette: Palette,
    now: Instant,
) -> Vec<Span<'static>> {
    let style = palette.state(backend.state);
    let word = backend.state.word();
    let mut spans = vec![Span::styled(format!("{word:<WORD$}"), style)];
    let room = columns.middle().saturating_sub(WORD);
    let Some(remaining) = state.remaining(backend.remaining_ms, now) else {
        if backend.state == State::Unused {
            let told = single.is_some() || backend.credential_cause.is_empty();
            let cause = if told { &backend.cause } else { &backend.credential_cause };
            let cause = words::cut(cause, room.saturating_sub(2));
            spans.push(Span::styled(format!("  {cause}"), palette.dim()));
        } else if let Some(peak) = single {
            if 8 <= room {
                spans.extend(strip(track, (room - 2).min(STRIP).min(state.history.seconds()), peak, palette));
            }
        } else if let Some(quota) = tightest(backend) {
            spans.extend(quota_bar(quota, room, palette));
        }
        return spans;
    };
    spans
        .push(Span::styled(format!("{:>LEFT$}", words::left(remaining)), style.add_modifier(Modifier::BOLD)));
    let gauge_width = room.saturating_sub(LEFT + 2).min(GAUGE);
    if 3 <= gauge_width {
        let whole = track.map_or(Duration::ZERO, Track::pause).max(remaining);
        let (full, empty) = gauge(remaining.as_millis(), whole.as_millis(), gauge_width);
        spans.extend([Span::raw("  "), Span::styled(full, style), Span::styled(empty, palette.dim())]);
    }
    spans
}

/// A bar as long as the part that is left, to half a column, and what is gone.
fn gauge(part: u128, whole: u128, width: usize) -> (String, String) {
    let halves = u128::try_from(width).unwrap_or(0) * 2 * part / whole.max(1);
    let halves = usize::try_from(halves).unwrap_or(0).min(width * 2);
    let mut full = "━".repeat(halves / 2);
    if halves % 2 == 1 {
        full.push('╸');
    }
    (full, "·".repeat(width - halves.div_ceil(2)))
}

/// The quota of that lane of which the least is left.
fn tightest(backend: &Backend) -> Option<Quota> {
    let known = backend.lanes.iter().map(|lane| lane.quota).filter(|quota| quota.known().is_some());
    known.min_by_key(|quota| quota.known().map_or(0, |(left, limit)| left.saturating_mul(1_000) / limit))
}

/// What is left of a quota, as a number and as a bar, in at most `room` columns; nothing where it is not known.
pub(super) fn quota_bar(quota: Quota, room: usize, palette: Palette) -> Vec<Span<'static>> {
    let Some((left, limit)) = quota.known().filter(|_| TOKENS <= room) else { return Vec::new() };
    let mut spans = vec![Span::raw(format!("{:>TOKENS$}", format!("{} left", words::short(left))))];
    let (of, bar) = (format!(" of {}", words::short(limit)), (room - TOKENS).saturating_sub(2));
    // The whole is told where a bar worth looking at remains.
    let of = if of.len() + 8 <= bar { of } else { String::new() };
    let width = (bar - of.len()).min(GAUGE);
    if 3 <= width {
        let style = match left.saturating_mul(100) / limit {
            0..10 => palette.failed(),
            10..25 => palette.throttled(),
            _ => palette.good(),
        };
        let (full, empty) = gauge(left.into(), limit.into(), width);
        spans.extend([Span::raw("  "), Span::styled(full, style), Span::styled(empty, palette.dim())]);
        spans.push(Span::styled(of, palette.dim()));
    }
    spans
}

/// A column per second of the last `length`; bars are requests served. All strips cover the same
/// seconds: it grows to the right until it is full, then moves left.
fn strip(track: Option<&Track>, length: usize, peak: u64, palette: Palette) -> Vec<Span<'static>> {
    let samples: Vec<Sample> = track.into_iter().flat_map(|track| track.recent(length)).collect();
    let mut spans = vec![Span::raw(" ".repeat(length.saturating_sub(samples.len())))];
    spans.extend(samples.into_iter().map(|sample| mark(sample, peak, palette)));
    spans
}

fn mark(sample: Sample, peak: u64, palette: Palette) -> Span<'static> {
    match sample {
        Sample { state: None, .. } => Span::raw(" "),
        Sample { failed: 1.., .. } => Span::styled("!", palette.failed()),
        Sample { throttled: 1.., .. } => Span::styled("×", palette.throttled()),
        Sample { served: served @ 1.., .. } => {
            let step = (u128::from(served) * 8).div_ceil(u128::from(peak.max(served)));
            let bar = usize::try_from(step).unwrap_or(BARS.len()).clamp(1, BARS.len()) - 1;
            Span::styled(BARS[bar], palette.good())
        }
        Sample { state: Some(State::Cooling), .. } => Span::styled("─", palette.throttled()),
        Sample { state: Some(State::Resting | State::Refused | State::Absent | State::Unused), .. } => {
            Span::styled("═", palette.failed())
        }
        Sample { .. } => Span::styled("·", palette.dim()),
    }
}

/// Why it does not admit, else where it stands in the settings.
fn aside(backend: &Backend) -> String {
    match backend.state {
        State::Unused => "no credential".to_owned(),
        State::Cooling | State::Resting | State::Refused | State::Absent | State::Probing
            if !backend.cause.is_empty() =>
        {
            backend.cause.clone()
        }
        _ if 1 < backend.weight => format!("priority {} ×{}", backend.priority, backend.weight),
        _ => format!("priority {}", backend.priority),
    }
}

/// The deployments, where there are several; an empty line otherwise.
fn lanes(
    state: &ViewState,
    backend: &Backend,
    columns: &Columns,
    palette: Palette,
    now: Instant,
) -> Line<'static> {
    if backend.lanes.len() < 2 {
        return Line::default();
    }
    let mut spans = vec![Span::raw(" ".repeat(columns.name))];
    for (place, lane) in backend.lanes.iter().enumerate() {
        let name = if lane.deployment.is_empty() { "no deployment" } else { &lane.deployment };
        let remaining = state.remaining(lane.remaining_ms, now);
        let tokens = lane
            .quota
            .known()
            .map(|(left, limit)| format!(" {}/{}", words::short(left), words::short(limit)));
        let left = remaining.map(|left| format!(" {}", words::left(left))).or(tokens).unwrap_or_default();
        let text = [
            Span::raw(if place == 0 { "" } else { "   " }),
            Span::styled(format!("{} {}", sign(lane.state), words::cut(name, 24)), palette.state(lane.state)),
            Span::styled(left, palette.state(lane.state)),
        ];
        if columns.width < total_width(&spans) + total_width(&text) + 5 {
            spans.push(Span::styled(format!("   +{}", backend.lanes.len() - place), palette.dim()));
            break;
        }
        spans.extend(text);
    }
    Line::from(spans)
}

/// A sign for each state, so that colour is never the only difference.
pub(super) const fn sign(state: State) -> &'static str {
    match state {
        State::Admitting => "●",
        State::Cooling => "◐",
        State::Resting => "▲",
        State::Probing => "◇",
        State::Refused => "×",
        State::Absent => "○",
        State::Drained => "□",
        State::Unused => "⊘",
        State::Unknown => "?",
    }
}

/// Cut or filled with spaces to exactly `width` columns, the last of which is a space.
pub(super) fn pad(text: &str, width: usize) -> String {
    let text = words::cut(text, width.saturating_sub(1));
    let missing = width.saturating_sub(Span::raw(&text).width());
    text + &" ".repeat(missing)
}
