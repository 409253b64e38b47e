//! The live view as a picture: state in, lines out, no clock and no terminal.
//!
//! From top to bottom: what this is and where, what callers got and who they are, the backends, what
//! happened, how to try it, the keys. A backend that was opened takes the place of all but the first line and the keys. What does not fit is left out in the order notes, story, head of the table, so
//! that the backends are the last to go.

use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::text::{Line, Span};

use super::detail::{self, Detail};
use super::explained::Explained;
use super::history::{self, History};
use super::palette::Palette;
use super::rows::{self, Columns};
use super::status::{Backend, Status};
use super::story::{Story, Tone};
use super::words;

/// All that the picture shows.
#[derive(Debug, Default)]
pub(super) struct ViewState {
    pub(super) title: String,
    pub(super) notes: Vec<String>,
    pub(super) colour: bool,
    pub(super) status: Option<Status>,
    pub(super) history: History,
    pub(super) story: Story,
    /// First backend shown.
    pub(super) scroll: usize,
    /// The backend that the keys have chosen.
    pub(super) chosen: Option<usize>,
    /// The backend that was opened.
    pub(super) detail: Option<Detail>,
    pub(super) received: Option<Instant>,
    pub(super) lost: Option<String>,
}

/// What the picture turned out to show, for the keys that scroll.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Shown {
    /// Backends (of a detail: lines of its explanation) visible at once.
    pub(super) page: usize,
    /// The largest useful `scroll`.
    pub(super) last: usize,
}

impl ViewState {
    /// Takes the next document in.
    pub(super) fn observe(&mut self, now: Instant, status: Status) {
        self.history.observe(now, self.status.as_ref(), &status);
        if let Some(before) = &self.status {
            self.story.observe(before, &status);
        }
        self.status = Some(status);
        self.received = Some(now);
        self.lost = None;
    }

    /// No document came; the last one stays on the screen.
    pub(super) fn lose(&mut self, reason: &str) {
        self.lost = Some(words::harmless(reason));
    }

    /// The last fetch brought a document.
    pub(super) const fn is_current(&self) -> bool {
        self.lost.is_none()
    }

    /// Opens a backend.
    pub(super) fn open(&mut self, place: usize) {
        let backend = self.status.as_ref().and_then(|status| status.backends.get(place));
        self.detail = backend.map(|backend| Detail::of(&backend.name));
    }

    /// The backend that is open, as the last document has it.
    pub(super) fn looked_at(&self) -> Option<&Backend> {
        let (detail, status) = (self.detail.as_ref()?, self.status.as_ref()?);
        history::find(status, self.chosen.unwrap_or_default(), &detail.backend)
    }

    /// Backend and deployment that an explanation is due for.
    pub(super) fn unexplained(&self, now: Instant) -> Option<(String, String)> {
        let lane = self.detail.as_ref()?.lane_of(self.looked_at()?)?;
        let detail = self.detail.as_ref().filter(|detail| detail.is_due(now))?;
        Some((detail.backend.clone(), lane.deployment.clone()))
    }

    /// An explanation came, or why none did.
    pub(super) fn explain(
        &mut self,
        now: Instant,
        (backend, _): (String, String),
        explained: Result<Explained, String>,
    ) {
        if let Some(detail) = self.detail.as_mut().filter(|detail| detail.backend == backend) {
            detail.take(now, explained.map_err(|reason| words::harmless(&reason)));
        }
    }

    /// Time left now of what the last document said.
    pub(super) fn remaining(&self, millis: Option<u64>, now: Instant) -> Option<Duration> {
        let since = self.received.map(|received| now.saturating_duration_since(received)).unwrap_or_default();
        millis.map(|millis| Duration::from_millis(millis).saturating_sub(since))
    }
}

/// Draws the whole picture.
pub(super) fn draw(frame: &mut Frame<'_>, state: &ViewState, now: Instant) -> Shown {
    let area = frame.area();
    let margin = if 60 <= area.width { 2 } else { 0 };
    let (lines, shown) = lines(state, now, (area.width - 2 * margin).into(), area.height.into());
    for (line, row) in lines.iter().zip(area.rows()) {
        frame.buffer_mut().set_line(row.x + margin, row.y, line, row.width - 2 * margin);
    }
    shown
}

/// The picture in `height` lines of `width` columns.
fn lines(state: &ViewState, now: Instant, width: usize, height: usize) -> (Vec<Line<'static>>, Shown) {
    let palette = Palette::new(state.colour);
    let airy = 20 <= height;
    let gap = |lines: &mut Vec<Line<'static>>| {
        if airy {
            lines.push(Line::default());
        }
    };
    let mut top = vec![title(state, width, palette)];
    gap(&mut top);
    if state.detail.is_some() {
        let keys = (6 <= height).then(|| keys(state, width, palette));
        let room = height.saturating_sub(top.len() + usize::from(keys.is_some()));
        let (lines, shown) = detail::lines(state, now, (width, room), palette);
        top.extend(lines);
        top.resize(height.saturating_sub(usize::from(keys.is_some())).max(1), Line::default());
        top.extend(keys);
        return (top, shown);
    }
    top.extend(headline(state, width, height, palette));
    top.extend(users(state, width, height, palette));
    top.extend(quotas(state, width, height, palette));
    gap(&mut top);

    let mut bottom = Vec::new();
    if 18 <= height {
        let notes = notes(state, width, height / 4, palette);
        if !notes.is_empty() {
            bottom.push(Line::default());
            bottom.extend(notes);
        }
    }
    if 6 <= height {
        if 26 <= height || bottom.is_empty() {
            gap(&mut bottom);
        }
        bottom.push(keys(state, width, palette));
    }

    let middle = height.saturating_sub(top.len() + bottom.len());
    let story_floor = match middle {
        0..6 => 0,
        6..10 => 2,
        _ => 4,
    };
    let (table, shown) = table(state, width, middle - story_floor, palette, now);
    let story = story(state, width, middle - table.len(), palette);
    top.extend(table);
    top.extend(story);
    top.resize(height.saturating_sub(bottom.len()).max(top.len()), Line::default());
    top.extend(bottom);
    top.truncate(height);
    (top, shown)
}

fn title(state: &ViewState, width: usize, palette: Palette) -> Line<'static> {
    let status = state.status.as_ref();
    let mut left = vec![Span::styled(state.title.clone(), palette.accent().patch(palette.bold()))];
    if let Some(status) = status {
        left.push(Span::styled(format!(" {}", status.version), palette.dim()));
    }
    if let Some(reason) = &state.lost {
        let room = width.saturating_sub(total_width(&left) + 3);
        left.push(Span::styled(format!("   {}", words::cut(reason, room.max(12))), palette.failed()));
        return spread(left, vec![Span::styled("  retrying", palette.failed())], width);
    }
    let Some(status) = status else {
        left.push(Span::styled("   waiting for the first status", palette.dim()));
        return Line::from(left);
    };
    if status.draining {
        left.push(Span::styled("   draining", palette.throttled()));
    }
    let room = width.saturating_sub(total_width(&left) + 3);
    left.push(Span::raw(format!("   {}", words::cut(&status.listen, room))));
    spread(
        left,
        vec![Span::styled(format!("  up {}", words::clock(status.uptime_seconds)), palette.dim())],
        width,
    )
}

/// What callers got: figures over their names, or one line where there is little room.
fn headline(state: &ViewState, width: usize, height: usize, palette: Palette) -> Vec<Line<'static>> {
    let Some(status) = &state.status else { return Vec::new() };
    let callers = &status.callers;
    let failures = words::several(callers.failed_total, "failure");
    let share = words::share(callers.succeeded_total, callers.failed_total);
    let absorbed = status.absorbed();
    if width < 72 || height < 12 {
        let text = format!(
            "{}, {share} well, {} absorbed, {failures} seen",
            words::several(callers.requests_total, "request"),
            words::count(absorbed)
        );
        let lines = wrap(&text, width).into_iter().take(if 10 <= height { 2 } else { 1 });
        return lines.map(|line| Line::styled(words::cut(&line, width), palette.bold())).collect();
    }
    let rates = state.history.rates();
    let rate =
        |pick: fn((f64, f64)) -> f64| rates.map_or_else(|| "–".to_owned(), |rates| words::rate(pick(rates)));
    let seen = match (callers.throttled_total, callers.cut_total) {
        (0, 0) => "reached callers".to_owned(),
        (throttled, 0) => format!("{} of them 429", words::count(throttled)),
        (0, cut) => format!("{} of them cut", words::count(cut)),
        (throttled, cut) => format!("{}× 429, {}× cut", words::short(throttled), words::short(cut)),
    };
    let outcome = if callers.failed_total == 0 { palette.good() } else { palette.failed() };
    let absorbed_style = if absorbed == 0 { palette.plain() } else { palette.throttled() };
    let figures = [
        (words::count(callers.requests_total), "requests".to_owned(), palette.plain(), 11),
        (share, "succeeded".to_owned(), outcome, 12),
        (words::count(absorbed), "absorbed".to_owned(), absorbed_style, 12),
        (failures, seen, outcome, 18),
        (words::count(status.tokens_served()), "tokens".to_owned(), palette.plain(), 11),
        (rate(|(_, tokens)| tokens), "tokens/s".to_owned(), palette.plain(), 11),
        (rate(|(requests, _)| requests), "requests/s".to_owned(), palette.plain(), 13),
        (words::count(callers.in_flight), "in flight".to_owned(), palette.plain(), 12),
        (words::count(callers.failovers_total), "failovers".to_owned(), palette.plain(), 12),
    ];
    let (mut values, mut names, mut used) = (Vec::new(), Vec::new(), 0);
    for (value, name, style, column) in figures {
        let column = if 100 <= width { column + 2 } else { column };
        // The last one needs no gap after it.
        if width < used + value.chars().count().max(name.len()) {
            break;
        }
        used += column;
        values.push(Span::styled(format!("{value:<column$}"), style.patch(palette.bold())));
        names.push(Span::styled(format!("{name:<column$}"), palette.dim()));
    }
    vec![Line::from(values), Line::from(names)]
}

/// The backends in at most `room` lines, as tall as all of them allow.
fn table(
    state: &ViewState,
    width: usize,
    room: usize,
    palette: Palette,
    now: Instant,
) -> (Vec<Line<'static>>, Shown) {
    let Some(status) = &state.status else { return (Vec::new(), Shown::default()) };
    let backends = &status.backends;
    let columns = Columns::fit(width, backends);
    let with_head = 3 <= room;
    let body = room - usize::from(with_head);
    let height = [3, 2].into_iter().find(|height| backends.len() * height <= body).unwrap_or(1);
    let page = (body / height).min(backends.len());
    let shown = Shown { page, last: backends.len() - page };
    let first = state.scroll.min(shown.last);
    let mut lines = Vec::with_capacity(room);
    if with_head {
        let range =
            if page < backends.len() { format!("{}–{}", first + 1, first + page) } else { String::new() };
        lines.push(rows::head(state, &columns, &range, palette));
    }
    let peak = rows::peak(state, &columns);
    for (place, backend) in backends.iter().enumerate().skip(first).take(page) {
        let backend = (backend, state.chosen == Some(place));
        lines.extend(rows::backend(state, backend, &columns, (height, peak), palette, now));
    }
    lines.truncate(room);
    if height < 3 && lines.len() < room && 8 <= room {
        lines.push(Line::default());
    }
    (lines, shown)
}

/// The latest events, newest first.
fn story(state: &ViewState, width: usize, room: usize, palette: Palette) -> Vec<Line<'static>> {
    if room < 2 || state.status.is_none() {
        return Vec::new();
    }
    let mut lines = vec![Line::styled("what happened", palette.bold())];
    let mut events = state.story.events().peekable();
    if events.peek().is_none() {
        lines.push(Line::styled("nothing yet: every backend is as it was at the first look", palette.dim()));
    }
    for event in events.take(room - 1) {
        let (sign, style) = match event.tone {
            Tone::Good => ("●", palette.good()),
            Tone::Throttled => ("◐", palette.throttled()),
            Tone::Failed => ("▲", palette.failed()),
            Tone::Plain => ("·", palette.dim()),
        };
        lines.push(Line::from(vec![
            Span::styled(format!("{:>5}  ", words::clock(event.at)), palette.dim()),
            Span::styled(format!("{sign} "), style),
            Span::raw(words::cut(&event.text, width.saturating_sub(9))),
        ]));
    }
    lines
}

/// The caller's notes, wrapped so that a command can still be copied; one that does not fit whole is
/// left out, because half a command is worse than none.
fn notes(state: &ViewState, width: usize, room: usize, palette: Palette) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for wrapped in state.notes.iter().map(|note| wrap(note, width)) {
        let fits = wrapped.iter().all(|line| Span::raw(line).width() <= width);
        if fits && lines.len() + wrapped.len() <= room {
            lines.extend(wrapped.into_iter().map(|line| Line::styled(line, palette.plain())));
        }
    }
    lines
}

/// Who uses it: shares of the last minutes' tokens, and whose requests failed.
fn users(state: &ViewState, width: usize, height: usize, palette: Palette) -> Option<Line<'static>> {
    let by_caller = state.status.as_ref().map(|status| &status.by_caller).filter(|_| 16 <= height)?;
    let callers = &by_caller.callers;
    let tokens =
        callers.iter().chain([&by_caller.rest]).fold(0_u64, |sum, one| sum.saturating_add(one.tokens));
    let active = callers.iter().filter(|caller| caller.requests > 0).count();
    let mut spans =
        vec![Span::styled(format!("tokens in {} min  ", by_caller.lately_seconds / 60), palette.dim())];
    for (place, caller) in callers.iter().take(active).enumerate() {
        let share = match u128::from(caller.tokens) * 100 / u128::from(tokens.max(1)) {
            0 if caller.tokens > 0 => "<1 %".to_owned(),
            share => format!("{share} %"),
        };
        let mut entry = vec![
            Span::raw(if place == 0 { "" } else { "   " }),
            Span::styled(words::cut(&caller.name, 24), palette.bold()),
            Span::raw(format!(" {share}")),
        ];
        if 100 <= width {
            let requests = format!(", {}", words::several(caller.requests, "request"));
            entry.push(Span::styled(requests, palette.dim()));
        }
        if caller.failed > 0 {
            entry.push(Span::styled(format!(", {} failed", words::count(caller.failed)), palette.failed()));
        }
        if caller.limited > 0 {
            entry.push(Span::styled(format!(", {} over limit", words::count(caller.limited)), palette.dim()));
        }
        let others = u64::try_from(active - place).unwrap_or(0).saturating_add(by_caller.others);
        if width < total_width(&spans) + total_width(&entry) + 6 {
            spans.push(Span::styled(format!("   +{}", words::count(others)), palette.dim()));
            break;
        }
        spans.extend(entry);
    }
    (active > 0).then(|| Line::from(spans))
}

/// What is left of all quotas together, the scarcest first.
fn quotas(state: &ViewState, width: usize, height: usize, palette: Palette) -> Option<Line<'static>> {
    let deployments = state.status.as_ref().map(|status| &status.deployments).filter(|_| 24 <= height)?;
    let mut spans = vec![Span::styled("tokens left      ", palette.dim())];
    for (place, deployment) in deployments.iter().enumerate() {
        let left = format!(
            " {} of {}",
            words::short(deployment.remaining_tokens),
            words::short(deployment.limit_tokens)
        );
        let entry = [
            Span::raw(if place == 0 { "" } else { "   " }),
            Span::styled(words::cut(&deployment.name, 24), palette.bold()),
            Span::raw(left),
        ];
        if width < total_width(&spans) + total_width(&entry) + 6 {
            spans.push(Span::styled(format!("   +{}", deployments.len() - place), palette.dim()));
            break;
        }
        spans.extend(entry);
    }
    (!deployments.is_empty()).then(|| Line::from(spans))
}

fn keys(state: &ViewState, width: usize, palette: Palette) -> Line<'static> {
    let named: &[(&str, &str)] = if state.detail.is_some() {
        &[("q", " quit   "), ("esc", " back   "), ("↑ ↓", " deployment   "), ("space", " more")]
    } else {
        &[("q", " quit   "), ("↑ ↓", " choose   "), ("enter", " open")]
    };
    let mut left = Vec::new();
    for (key, does) in named {
        let next = [Span::styled(*key, palette.bold()), Span::styled(*does, palette.dim())];
        if width < total_width(&left) + total_width(&next) {
            break;
        }
        left.extend(next);
    }
    if state.detail.is_some() {
        return spread(left, Vec::new(), width);
    }
    let wide = 104 <= width;
    let what = if wide { "each column a second:" } else { "each second:" };
    let mut right = vec![Span::styled(what, palette.dim())];
    let marks = [
        ("▅", " served", palette.good()),
        ("×", " 429", palette.throttled()),
        ("─", " cooling", palette.throttled()),
        ("!", " failed", palette.failed()),
        ("═", " resting", palette.failed()),
    ];
    for (mark, word, style) in marks.into_iter().take(if wide { 5 } else { 3 }) {
        right.extend([Span::raw("  "), Span::styled(mark, style), Span::styled(word, palette.dim())]);
    }
    spread(left, right, width)
}

/// `left` and `right` at the two ends; `right` is left out where both do not fit.
pub(super) fn spread(mut left: Vec<Span<'static>>, right: Vec<Span<'static>>, width: usize) -> Line<'static> {
    let taken = total_width(&left) + total_width(&right);
    if taken <= width {
        left.push(Span::raw(" ".repeat(width - taken)));
        left.extend(right);
    }
    Line::from(left)
}

/// Columns of these spans.
pub(super) fn total_width(spans: &[Span<'_>]) -> usize {
    spans.iter().map(Span::width).sum()
}

/// A note in lines of at most `width` columns where its words allow. A command (`curl …`) is broken
/// outside its quotes and continued with `\`, so that it can be copied as it stands.
fn wrap(note: &str, width: usize) -> Vec<String> {
    let command = note.starts_with("curl ");
    let room = width.saturating_sub(if command { 2 } else { 0 }).max(1);
    let mut lines = vec![String::new()];
    for word in pieces(note, command) {
        let line = lines.last().map_or(0, |line| Span::raw(line).width());
        if line != 0 && room < line + 1 + Span::raw(word).width() {
            lines.push(word.to_owned());
        } else if let Some(last) = lines.last_mut() {
            if line != 0 {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    let count = lines.len();
    if command {
        lines.iter_mut().take(count - 1).for_each(|line| line.push_str(" \\"));
    }
    lines
}

/// The words of a note; in a command what stands in single quotes is one.
fn pieces(note: &str, command: bool) -> Vec<&str> {
    let mut quoted = false;
    note.split(move |character: char| {
        quoted ^= command && character == '\'';
        character == ' ' && !quoted
    })
    .filter(|piece| !piece.is_empty())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_command_is_still_the_same_command() {
        let command =
            "curl http://127.0.0.1:8080/v1/x -H 'a: b c' --json '{\"content\":\"one two three four\"}'";
        for width in 1..120 {
            let lines = wrap(command, width);
            let joined = lines.join("\n").replace("\\\n", "");
            assert_eq!(joined, command, "at {width}");
        }
        assert_eq!(wrap(command, 44)[0], "curl http://127.0.0.1:8080/v1/x -H \\");
    }

    #[test]
    fn prose_is_wrapped_between_words() {
        assert_eq!(wrap("windows are 10 s long", 11), ["windows are", "10 s long"]);
        assert_eq!(wrap("", 11), [""]);
    }

    #[test]
    fn a_command_that_does_not_fit_whole_is_left_out() {
        let notes_of = |text: &str, width, room| {
            let state = ViewState { notes: vec![text.into(), "short".into()], ..ViewState::default() };
            notes(&state, width, room, Palette::new(false)).len()
        };
        assert_eq!(notes_of("curl http://127.0.0.1:8080/a-long-path", 20, 9), 1);
        assert_eq!(notes_of("curl http://127.0.0.1:8080/ -v -i -k", 32, 1), 1);
        assert_eq!(notes_of("curl http://127.0.0.1:8080/ -v -i -k", 32, 3), 3);
    }
}
