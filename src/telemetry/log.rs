//! Where events of `tracing` go: one line each, cleaned, into the [`Sink`].

use std::cell::Cell;
use std::ffi::OsStr;
use std::fmt;
use std::io::{IsTerminal as _, Write as _};
use std::str::FromStr;

use thiserror::Error;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::layer::{Context, SubscriberExt as _};

use super::clock::{self, Stamp};
use super::sink::Sink;
use super::text::{self, Place};
use super::{LogFormat, LogSettings};

/// The crate whose events may appear at every level.
const OURS: &str = "sidestep";
/// The most characters of a message of ours. Longer than outside strings, because notes at start are sentences.
const LONGEST_MESSAGE: usize = 2_000;

/// What is logged: levels and `target=level` pairs, comma-separated, e.g. `info,sidestep::proxy=trace`.
#[derive(Clone, Debug)]
pub struct Directives(Targets);

/// Why a level is no level.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("`{found}` is not a log level; expected off, error, warn, info, debug or trace, or target=level")]
pub struct DirectiveProblem {
    /// The part that was not understood.
    pub found: String,
}

/// Why the log could not be started.
#[derive(Debug, Error)]
pub enum LogProblem {
    /// The level in the settings.
    #[error(transparent)]
    Level(#[from] DirectiveProblem),
    /// Something else in this process logs already.
    #[error("a log is already running in this process")]
    Running(#[from] tracing::subscriber::SetGlobalDefaultError),
}

impl FromStr for Directives {
    type Err = DirectiveProblem;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() {
            return Err(DirectiveProblem { found: String::new() });
        }
        let mut targets = Targets::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let problem = || DirectiveProblem { found: part.to_owned() };
            // A bare word is a level. (`Targets` itself takes `inof` for a target and logs everything of it.)
            let level = |word: &str| word.trim().parse::<LevelFilter>().map_err(|_| problem());
            targets = match part.split_once('=') {
                None => targets.with_default(level(part)?),
                Some((target, word)) => targets.with_target(target.trim(), level(word)?),
            };
        }
        Ok(Self(targets))
    }
}

impl Directives {
    /// Whether an event of `target` at `level` appears. Other crates than ours never do below `warn`: what hyper
    /// and rustls tell at `debug` and `trace` includes headers and bytes, thus keys and prompts.
    #[must_use]
    pub fn enables(&self, target: &str, level: Level) -> bool {
        let ours = target.strip_prefix(OURS).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
        (ours || level <= Level::WARN) && self.0.would_enable(target, &level)
    }
}

/// Colours are for people at a terminal who did not say no; `no_color` is the variable `NO_COLOR`.
#[must_use]
pub fn colours(no_color: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty) && std::io::stdout().is_terminal()
}

/// Sends all events of this process to `sink`, from now on.
///
/// # Errors
/// When the level is not understood, or a log is running already.
pub fn start(settings: &LogSettings, sink: &Sink) -> Result<(), LogProblem> {
    let directives = settings.level.parse()?;
    tracing::subscriber::set_global_default(subscriber(directives, sink, settings.format))?;
    Ok(())
}

/// The subscriber that [`start`] makes global; for tests also of a scope.
pub fn subscriber(
    directives: Directives,
    sink: &Sink,
    format: LogFormat,
) -> impl Subscriber + Send + Sync + use<> {
    let enabled = move |metadata: &Metadata<'_>| {
        metadata.is_event() && directives.enables(metadata.target(), *metadata.level())
    };
    let lines = Lines { sink: sink.clone(), format };
    tracing_subscriber::registry().with(lines.with_filter(filter_fn(enabled)))
}

/// Turns each event into a line.
struct Lines {
    sink: Sink,
    format: LogFormat,
}

thread_local! {
    static BUFFERS: Cell<Option<(Stamp, Vec<u8>)>> = const { Cell::new(None) };
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // Taken, not borrowed: the `Debug` of a field may log in turn.
        let (mut stamp, mut line) = BUFFERS.take().unwrap_or_default();
        line.clear();
        let now = stamp.at(clock::wall());
        match self.format {
            LogFormat::Text => self.write_text(&mut line, now, event),
            LogFormat::Json => write_json(&mut line, now, event),
        }
        self.sink.line(&line);
        BUFFERS.set(Some((stamp, line)));
    }
}

impl Lines {
    fn write_text(&self, line: &mut Vec<u8>, now: &[u8; 24], event: &Event<'_>) {
        let (word, colour) = match *event.metadata().level() {
            Level::ERROR => ("ERROR", "31"),
            Level::WARN => (" WARN", "33"),
            Level::INFO => (" INFO", "32"),
            Level::DEBUG => ("DEBUG", "34"),
            Level::TRACE => ("TRACE", "35"),
        };
        // Writing to a `Vec` cannot fail.
        let stamp = String::from_utf8_lossy(now);
        let _ = if self.sink.colours() {
            write!(line, "\x1b[2m{stamp}\x1b[0m \x1b[{colour}m{word}\x1b[0m")
        } else {
            write!(line, "{stamp} {word}")
        };
        // A target only where it tells something: what we say at `info` is for people who do not know our rooms.
        let target = event.metadata().target();
        if !target.starts_with(OURS) || *event.metadata().level() > Level::INFO {
            let _ = write!(line, " {target}:");
        }
        event.record(&mut Fields { line, format: LogFormat::Text });
        line.push(b'\n');
    }
}

fn write_json(line: &mut Vec<u8>, now: &[u8; 24], event: &Event<'_>) {
    line.extend_from_slice(b"{\"time\":\"");
    line.extend_from_slice(now);
    line.extend_from_slice(b"\",\"level\":\"");
    line.extend_from_slice(event.metadata().level().as_str().as_bytes());
    line.extend_from_slice(b"\",\"target\":");
    text::json(line, event.metadata().target());
    event.record(&mut Fields { line, format: LogFormat::Json });
    line.extend_from_slice(b"}\n");
}

/// Appends an event's fields to its line, each cleaned.
struct Fields<'a> {
    line: &'a mut Vec<u8>,
    format: LogFormat,
}

impl Fields<'_> {
    fn name(&mut self, field: &Field) {
        match self.format {
            LogFormat::Text => {
                self.line.push(b' ');
                self.line.extend_from_slice(field.name().as_bytes());
                self.line.push(b'=');
            }
            LogFormat::Json => {
                self.line.push(b',');
                text::json(self.line, field.name());
                self.line.push(b':');
            }
        }
    }

    fn bare(&mut self, field: &Field, value: impl fmt::Display) {
        self.name(field);
        let _ = write!(self.line, "{value}");
    }

    fn text(&mut self, field: &Field, value: &str) {
        let message = field.name() == "message";
        match (self.format, message) {
            (LogFormat::Text, true) => {
                self.line.push(b' ');
                text::clean(self.line, value, LONGEST_MESSAGE, Place::Bare);
            }
            (LogFormat::Text, false) => {
                self.name(field);
                text::word(self.line, value);
            }
            (LogFormat::Json, true) => {
                self.name(field);
                self.line.push(b'"');
                text::clean(self.line, value, LONGEST_MESSAGE, Place::Json);
                self.line.push(b'"');
            }
            (LogFormat::Json, false) => {
                self.name(field);
                text::json(self.line, value);
            }
        }
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.bare(field, value);
        } else {
            self.text(field, &value.to_string());
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.text(field, &value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tracing::{debug, error, info, trace, warn};

    use super::super::sink::tests::Page;
    use super::*;

    fn logged(level: &str, format: LogFormat, colours: bool, events: impl FnOnce()) -> String {
        let page = Page::default();
        let sink = Sink::new(page.clone(), format).unwrap().coloured(colours);
        let subscriber = subscriber(level.parse().unwrap(), &sink, format);
        tracing::subscriber::with_default(subscriber, events);
        assert!(sink.flush(Duration::from_secs(30)));
        page.text()
    }

    #[test]
    fn a_text_line_has_time_level_message_and_fields() {
        let text = logged("info", LogFormat::Text, false, || {
            info!(backend = "west", seconds = 12, url = "a b", "cooldown began");
            debug!("not this");
        });
        let (time, rest) = text.split_once(' ').unwrap();
        assert_eq!(time.len(), 24, "{time}");
        assert_eq!(rest, " INFO cooldown began backend=west seconds=12 url=\"a b\"\n");
    }

    #[test]
    fn a_json_line_is_one_flat_object() {
        let text = logged("info", LogFormat::Json, true, || {
            warn!(backend = "we\"st", n = 3_u64, yes = true, nan = f64::NAN, "hello \u{1b}[31m");
        });
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["message"], "hello \\u{1b}[31m");
        assert_eq!(read["backend"], "we\"st");
        assert_eq!(read["n"], 3);
        assert_eq!(read["yes"], true);
        assert_eq!(read["nan"], "NaN");
        assert_eq!(read["level"], "WARN");
        assert!(read["target"].as_str().unwrap().starts_with("sidestep::"));
    }

    #[test]
    fn other_crates_are_heard_at_warn_and_above_whatever_the_level_says() {
        let text = logged("trace,hyper=trace,rustls=trace", LogFormat::Text, false, || {
            trace!(target: "hyper::proto", "api-key: secret");
            debug!(target: "rustls::client", "secret");
            info!(target: "sidestepper", "secret");
            warn!(target: "hyper::proto", "odd");
            error!(target: "rustls", "bad");
            trace!("ours");
        });
        assert!(!text.contains("secret"), "{text}");
        assert!(text.contains("hyper::proto: odd") && text.contains("rustls: bad") && text.contains("ours"));
    }

    #[test]
    fn outside_text_cannot_forge_a_line_or_reach_the_terminal() {
        let text = logged("info", LogFormat::Text, false, || {
            info!(path = "/x\n2026 INFO forged \u{1b}[2J\u{202e}", error = %"a\r\nb", "request");
            info!(name = %"y".repeat(500), "long");
        });
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}') && !text.contains('\r'));
        assert!(text.contains(&("y".repeat(200) + "…")) && !text.contains(&"y".repeat(201)));
    }

    #[test]
    fn colours_are_for_text_only() {
        assert!(logged("info", LogFormat::Text, true, || info!("x")).contains("\u{1b}[32m"));
        assert!(!logged("info", LogFormat::Json, true, || info!("x")).contains('\u{1b}'));
        assert!(!colours(Some(OsStr::new("1"))));
    }

    #[test]
    fn a_misspelt_level_is_refused_and_not_taken_for_a_target() {
        assert_eq!("inof".parse::<Directives>().unwrap_err().found, "inof");
        assert_eq!("info,sidestep=loud".parse::<Directives>().unwrap_err().found, "sidestep=loud");
        assert!("".parse::<Directives>().is_err(), "nothing is not a level");
        let quiet: Directives = "off, sidestep::access=info".parse().unwrap();
        assert!(quiet.enables("sidestep::access", Level::INFO));
        assert!(!quiet.enables("sidestep::proxy", Level::ERROR));
    }
}
