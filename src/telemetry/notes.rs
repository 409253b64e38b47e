//! What is noted of a request's attempts, for log, metrics and traces alike.

use std::io::Write as _;

use super::text::decimal;
use crate::balance::AttemptFailure;

/// The most attempts a record names; a request has at most about one per backend.
pub const NAMED_ATTEMPTS: usize = 16;
/// Of them, so many are kept without an allocation.
const INLINE: usize = 2;

/// One attempt.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct AttemptNote {
    /// Index of the backend.
    pub backend: usize,
    /// What came of it, e.g. `served`, `throttled`, `unreachable`.
    pub verdict: &'static str,
    /// The status of the backend's answer; 0 where no head came.
    pub status: u16,
    /// Why there was no usable answer.
    pub cause: Option<AttemptFailure>,
}

impl AttemptNote {
    /// Of an attempt of which no more is known.
    #[must_use]
    pub fn new(backend: usize, verdict: &'static str) -> Self {
        Self { backend, verdict, ..Self::default() }
    }

    /// Appends `throttled 429` or `unreachable (dns failed)`; a status is worth its place where it is an error's.
    pub(super) fn write_text(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.verdict.as_bytes());
        if self.status >= 400 {
            out.push(b' ');
            decimal(out, self.status.into());
        }
        if let Some(cause) = self.cause {
            let _whole = write!(out, " ({cause})");
        }
    }

    /// Appends the fields after the backend's.
    pub(super) fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"verdict\":\"");
        out.extend_from_slice(self.verdict.as_bytes());
        out.extend_from_slice(b"\",\"status\":");
        match self.status {
            0 => out.extend_from_slice(b"null"),
            status => decimal(out, status.into()),
        }
        if let Some(cause) = self.cause {
            let _whole = write!(out, ",\"cause\":\"{cause}\"");
        }
    }
}

/// The attempts of one request, in order; a record names the first [`NAMED_ATTEMPTS`] and counts further ones. There
/// are at most two for each backend, and as many more for each round after a wait in line, of which there are few.
#[derive(Clone, Debug, Default)]
pub struct AttemptNotes {
    /// Here, because most requests have one or two, and a record lives as long as its stream.
    first: [AttemptNote; INLINE],
    inline: usize,
    more: Vec<AttemptNote>,
    failovers: u32,
    last: Option<usize>,
}

impl AttemptNotes {
    /// Adds one.
    pub fn push(&mut self, note: AttemptNote) {
        if self.last.is_some_and(|last| last != note.backend) {
            self.failovers = self.failovers.saturating_add(1);
        }
        self.last = Some(note.backend);
        match self.first.get_mut(self.inline) {
            Some(place) => {
                *place = note;
                self.inline += 1;
            }
            None => self.more.push(note),
        }
    }

    /// The last one turned out otherwise than it began.
    pub fn amend(&mut self, verdict: &'static str) {
        let last = self.more.last_mut().or_else(|| self.first[..self.inline].last_mut());
        if let Some(note) = last {
            note.verdict = verdict;
        }
    }

    /// All of them, in order.
    pub fn all(&self) -> impl Iterator<Item = &AttemptNote> {
        self.first[..self.inline].iter().chain(&self.more)
    }

    /// Those that a record names, in order.
    pub fn named(&self) -> impl Iterator<Item = &AttemptNote> {
        self.all().take(NAMED_ATTEMPTS)
    }

    /// How many there were that a record does not name.
    pub(super) fn further(&self) -> u64 {
        (self.inline + self.more.len()).saturating_sub(NAMED_ATTEMPTS) as u64
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.inline + self.more.len()).unwrap_or(u32::MAX)
    }

    /// What came of the last one.
    #[must_use]
    pub fn verdict(&self) -> Option<&'static str> {
        self.more.last().or_else(|| self.first[..self.inline].last()).map(|note| note.verdict)
    }

    /// The backend of the last one.
    #[must_use]
    pub fn last(&self) -> Option<usize> {
        self.last
    }

    /// How many went to another backend than the one before.
    #[must_use]
    pub fn failovers(&self) -> u32 {
        self.failovers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(note: AttemptNote) -> (String, String) {
        let (mut text, mut json) = (Vec::new(), Vec::new());
        note.write_text(&mut text);
        note.write_json(&mut json);
        (String::from_utf8(text).unwrap(), String::from_utf8(json).unwrap())
    }

    #[test]
    fn an_attempt_tells_its_status_and_what_broke_it() {
        let failed = AttemptNote { status: 503, ..AttemptNote::new(0, "failed") };
        assert_eq!(told(failed), ("failed 503".into(), r#","verdict":"failed","status":503"#.into()));
        let cause = Some(AttemptFailure::Dns);
        let nobody = AttemptNote { cause, ..AttemptNote::new(0, "unreachable") };
        assert_eq!(
            told(nobody),
            (
                "unreachable (dns failed)".into(),
                r#","verdict":"unreachable","status":null,"cause":"dns failed""#.into()
            )
        );
        // Its head came, and then nothing.
        let silent = AttemptNote { status: 200, cause: Some(AttemptFailure::FirstEventTimeout), ..failed };
        assert_eq!(told(silent).0, "failed (first event timeout)");
        let served = AttemptNote { status: 200, ..AttemptNote::new(0, "served") };
        assert_eq!(told(served), ("served".into(), r#","verdict":"served","status":200"#.into()));
    }

    #[test]
    fn a_note_stays_small_because_a_record_lives_as_long_as_its_stream() {
        assert_eq!(size_of::<AttemptNote>(), 32);
    }
}
