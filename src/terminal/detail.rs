//! One backend, opened: its deployments with what is left of their quota, how the chosen one did lately, and who
//! would serve it now.

use std::time::{Duration, Instant};

use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::explained::{Explained, ExplainedBackend};
use super::palette::Palette;
use super::rows::{pad, quota_bar, sign};
use super::status::{Backend, Lane};
use super::view::{Shown, ViewState, spread, total_width};
use super::words;

/// Between two explanations.
const EXPLAIN_EVERY: Duration = Duration::from_secs(1);
/// The longest name of a deployment or backend, in columns.
const NAME: usize = 32;
/// Columns of a state and of the time left.
const WORD: usize = 10;
const LEFT: usize = 7;

/// What is open.
#[derive(Debug)]
pub(super) struct Detail {
    pub(super) backend: String,
    /// The chosen deployment, by its place.
    pub(super) lane: usize,
    /// First line of the explanation shown.
    pub(super) scroll: usize,
    explained: Option<Result<Explained, String>>,
    due: Option<Instant>,
}

impl Detail {
    pub(super) fn of(backend: &str) -> Self {
        Self { backend: backend.to_owned(), lane: 0, scroll: 0, explained: None, due: None }
    }

    /// Another deployment, which an explanation is due for at once.
    pub(super) fn choose(&mut self, lane: usize) {
        *self = Self { lane, ..Self::of(&self.backend) };
    }

    pub(super) fn lane_of<'a>(&self, backend: &'a Backend) -> Option<&'a Lane> {
        backend.lanes.get(self.lane.min(backend.lanes.len().checked_sub(1)?))
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }

    pub(super) fn take(&mut self, now: Instant, explained: Result<Explained, String>) {
        self.explained = Some(explained);
        self.due = now.checked_add(EXPLAIN_EVERY);
    }
}

/// In at most `room` lines of `width` columns.
pub(super) fn lines(
    state: &ViewState,
    now: Instant,
    (width, room): (usize, usize),
    palette: Palette,
) -> (Vec<Line<'static>>, Shown) {
    let Some(detail) = &state.detail else { return (Vec::new(), Shown::default()) };
    let Some(backend) = state.looked_at() else {
        let text = format!("{} is in the settings no more", detail.backend);
        return (vec![Line::styled(words::cut(&text, width), palette.failed())], Shown::default());
    };
    let airy = 14 <= room;
    let gap = |lines: &mut Vec<Line<'static>>| {
        if airy {
            lines.push(Line::default());
        }
    };
    let mut lines = heading(state, backend, now, width, palette);
    gap(&mut lines);
    let Some(lane) = detail.lane_of(backend) else {
        lines.push(Line::styled("no requests yet: its deployments are not known", palette.dim()));
        lines.truncate(room);
        return (lines, Shown::default());
    };
    // A third for the deployments; what they leave is for the others.
    lines.extend(lanes(state, (backend, detail), now, (width, (room / 3).max(1)), palette));
    gap(&mut lines);
    lines.extend(chosen(lane, (width, room), palette));
    gap(&mut lines);
    let (told, shown) = explanation(detail, lane, (width, room.saturating_sub(lines.len())), palette);
    lines.extend(told);
    lines.truncate(room);
    (lines, shown)
}

fn heading(
    state: &ViewState,
    backend: &Backend,
    now: Instant,
    width: usize,
    palette: Palette,
) -> Vec<Line<'static>> {
    let style = palette.state(backend.state);
    let mut first = vec![
        Span::styled(format!("{} ", sign(backend.state)), style),
        Span::styled(words::cut(&backend.name, NAME.min(width / 2)), palette.bold()),
        Span::styled(format!("  {}", backend.state.word()), style),
    ];
    if let Some(left) = state.remaining(backend.remaining_ms, now) {
        let left = format!(" {}", words::left(left));
        first.push(Span::styled(left, style.add_modifier(Modifier::BOLD)));
    }
    if !backend.cause.is_empty() {
        let room = width.saturating_sub(total_width(&first) + 2);
        first.push(Span::styled(format!("  {}", words::cut(&backend.cause, room)), palette.dim()));
    }
    let facts = format!(
        "priority {}, weight {} · {} in flight · {}",
        backend.priority,
        backend.weight,
        words::count(backend.in_flight),
        backend.url
    );
    vec![Line::from(first), Line::styled(words::cut(&facts, width), palette.dim())]
}

/// The deployments around the chosen one.
fn lanes(
    state: &ViewState,
    (backend, detail): (&Backend, &Detail),
    now: Instant,
    (width, room): (usize, usize),
    palette: Palette,
) -> Vec<Line<'static>> {
    let (all, room) = (backend.lanes.len(), room.max(1));
    let at = detail.lane.min(all.saturating_sub(1));
    let first = at.saturating_sub(room / 2).min(all.saturating_sub(room));
    let longest = backend.lanes.iter().map(|lane| Span::raw(name(lane)).width()).max().unwrap_or(0);
    let column = longest.clamp(8, NAME.min(width / 3).max(8)) + 2;
    let shown = backend.lanes.iter().enumerate().skip(first).take(room);
    shown
        .map(|(place, lane)| {
            let style = palette.state(lane.state);
            let label = words::cut(name(lane), column - 2);
            let fill = " ".repeat(column.saturating_sub(Span::raw(&label).width()));
            let mut spans = vec![
                Span::raw(if place == at { "› " } else { "  " }),
                Span::styled(format!("{} ", sign(lane.state)), style),
                Span::styled(label, palette.name(place == at && 1 < all)),
                Span::styled(format!("{fill}{:<WORD$}", lane.state.word()), style),
            ];
            let left = state.remaining(lane.remaining_ms, now).map(words::left).unwrap_or_default();
            spans.push(Span::styled(format!("{left:>LEFT$}"), style.add_modifier(Modifier::BOLD)));
            let restart = state.remaining(lane.quota.restart_ms, now);
            let restart = restart.map(|left| format!("  full in {}", words::left(left))).unwrap_or_default();
            let room = width.saturating_sub(total_width(&spans) + 2 + restart.len());
            let mut quota = quota_bar(lane.quota, room, palette);
            if quota.is_empty() && "quota not told".len() <= room {
                quota.push(Span::styled("quota not told", palette.dim()));
            }
            spans.push(Span::raw("  "));
            spans.extend(quota);
            if lane.quota.known().is_some() && total_width(&spans) + restart.len() <= width {
                spans.push(Span::styled(restart, palette.dim()));
            }
            Line::from(spans)
        })
        .collect()
}

fn name(lane: &Lane) -> &str {
    if lane.deployment.is_empty() { "no deployment" } else { &lane.deployment }
}

/// What the chosen deployment did, and how it failed.
fn chosen(lane: &Lane, (width, room): (usize, usize), palette: Palette) -> Vec<Line<'static>> {
    let first_byte = lane.first_byte_ms.map(|ms| words::left(Duration::from_millis(ms)));
    let facts = [
        (words::count(lane.served_total), "served"),
        (words::count(lane.absorbed()), "429s absorbed"),
        (words::count(lane.failed_total), "failed"),
        (first_byte.unwrap_or_else(|| "–".to_owned()), "to first byte"),
        (words::count(lane.tokens_total), "tokens"),
        (words::count(lane.in_flight), "now"),
    ];
    let mut spans = Vec::new();
    for (value, word) in facts {
        let next = [Span::styled(value, palette.bold()), Span::styled(format!(" {word}   "), palette.dim())];
        if width + 3 < total_width(&spans) + total_width(&next) {
            break;
        }
        spans.extend(next);
    }
    let mut lines = vec![Line::from(spans)];
    let since = |ms: u64| format!("{} ago", words::left(Duration::from_millis(ms)));
    for failure in lane.failures.iter().take((room / 6).max(1)) {
        let times = format!("{:>6}×  ", words::count(failure.times));
        let cause = pad(&failure.cause, width.saturating_sub(22).clamp(8, 44));
        let line = vec![
            Span::styled(times, palette.dim()),
            Span::raw(cause),
            Span::styled(since(failure.ago_ms), palette.dim()),
        ];
        lines.push(Line::from(line));
    }
    lines
}

/// Who would serve it now.
fn explanation(
    detail: &Detail,
    lane: &Lane,
    (width, room): (usize, usize),
    palette: Palette,
) -> (Vec<Line<'static>>, Shown) {
    if room < 2 {
        return (Vec::new(), Shown::default());
    }
    let about = |more: &str| {
        let left = vec![
            Span::styled("who would serve ", palette.bold()),
            Span::styled(words::cut(name(lane), NAME), palette.bold()),
            Span::styled(" now", palette.bold()),
        ];
        spread(left, vec![Span::styled(format!("  {more}"), palette.dim())], width)
    };
    let explained = match &detail.explained {
        None => return (vec![about(""), Line::styled("asking …", palette.dim())], Shown::default()),
        Some(Err(reason)) => {
            return (
                vec![about(""), Line::styled(words::cut(reason, width), palette.failed())],
                Shown::default(),
            );
        }
        Some(Ok(explained)) => explained,
    };
    let page = (room - 1).min(explained.backends.len());
    let shown = Shown { page, last: explained.backends.len() - page };
    let first = detail.scroll.min(shown.last);
    let more = if !explained.served {
        "nobody".to_owned()
    } else if page < explained.backends.len() {
        format!("{}–{} of {}", first + 1, first + page, explained.backends.len())
    } else {
        format!("a request of {} tokens", words::count(explained.tokens))
    };
    let mut lines = vec![about(&more)];
    let longest =
        explained.backends.iter().map(|backend| Span::raw(&backend.name).width()).max().unwrap_or(0);
    let column = longest.clamp(4, NAME.min(width / 3).max(4)) + 3;
    for (place, backend) in explained.backends.iter().enumerate().skip(first).take(page) {
        let (rank, style) = match backend.turn.as_str() {
            "not" => ("–".to_owned(), kept_away(backend, palette)),
            "last" => ((place + 1).to_string(), palette.accent()),
            _ => ((place + 1).to_string(), palette.good()),
        };
        let here = backend.name == detail.backend;
        let label = words::cut(&backend.name, column - 3);
        let fill = " ".repeat(column.saturating_sub(Span::raw(&label).width()));
        lines.push(Line::from(vec![
            Span::styled(format!("{rank:>4}  "), palette.dim()),
            Span::styled(label, if here { palette.bold() } else { palette.plain() }),
            Span::raw(fill),
            Span::styled(words::cut(&backend.text, width.saturating_sub(column + 6)), style),
        ]));
    }
    (lines, shown)
}

fn kept_away(backend: &ExplainedBackend, palette: Palette) -> Style {
    match backend.obstacle.as_str() {
        "cooling" | "full" => palette.throttled(),
        "resting" | "refused" | "absent" | "no_credential" => palette.failed(),
        _ => palette.dim(),
    }
}
