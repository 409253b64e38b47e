//! The only place that reads clocks.

use std::time::{Duration, Instant, SystemTime};

/// The monotonic clock, which decisions are made by. Follows tokio's paused time.
#[must_use]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Wall time, for log lines and documents only; it may jump, so nothing is decided by it.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one reader of wall time")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Wall time as milliseconds since 1970, zero for a clock set before that.
#[must_use]
pub fn unix_ms() -> u64 {
    u64::try_from(since_epoch(wall()).as_millis()).unwrap_or(u64::MAX)
}

/// Since 1970; nothing for a clock set before that.
pub(super) fn since_epoch(at: SystemTime) -> Duration {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// An RFC 3339 time in UTC with milliseconds, `2026-11-25T01:43:34.123Z`. Keeps the text of the last second, so
/// that only three digits are new on most lines.
#[derive(Debug)]
pub struct Stamp {
    second: Option<u64>,
    text: [u8; 24],
}

impl Default for Stamp {
    fn default() -> Self {
        Self { second: None, text: *b"1970-01-01T00:00:00.000Z" }
    }
}

impl Stamp {
    /// The text of `at`. Times beyond the year 9999 keep the text before them.
    pub fn at(&mut self, at: SystemTime) -> &[u8; 24] {
        use std::io::Write as _;

        let since = since_epoch(at);
        if self.second != Some(since.as_secs()) {
            const LAST: u64 = 253_402_300_799; // 9999-12-31T23:59:59Z, the last that has four digits
            let whole = Duration::from_secs(since.as_secs().min(LAST));
            let mut rest = &mut self.text[..];
            let time = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + whole);
            // "2026-11-25T01:43:34Z" is 20 bytes of the 24.
            let _ = write!(rest, "{time}");
            self.second = Some(since.as_secs());
        }
        let millis = since.subsec_millis();
        let digit = |n: u32| b'0' + u8::try_from(n % 10).expect("a digit");
        self.text[19] = b'.';
        self.text[20] = digit(millis / 100);
        self.text[21] = digit(millis / 10);
        self.text[22] = digit(millis);
        self.text[23] = b'Z';
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_rfc_3339_with_milliseconds_within_and_across_seconds() {
        let mut stamp = Stamp::default();
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        assert_eq!(stamp.at(at(1_790_000_000_007)), b"2026-09-21T14:13:20.007Z");
        assert_eq!(stamp.at(at(1_790_000_000_950)), b"2026-09-21T14:13:20.950Z");
        assert_eq!(stamp.at(at(1_790_000_001_000)), b"2026-09-21T14:13:21.000Z");
        assert_eq!(stamp.at(at(1_790_000_000_999)), b"2026-09-21T14:13:20.999Z");
    }

    #[test]
    fn a_clock_before_1970_or_after_9999_is_no_panic() {
        let mut stamp = Stamp::default();
        assert_eq!(stamp.at(SystemTime::UNIX_EPOCH - Duration::from_secs(5)), b"1970-01-01T00:00:00.000Z");
        assert_eq!(
            stamp.at(SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800)),
            b"9999-12-31T23:59:59.000Z"
        );
    }
}
