//! How numbers, durations and foreign text are written, on the screen and in plain lines.

use std::time::Duration;

use ratatui::text::Span;

/// Characters of a foreign text that are kept (design.md 11).
const TEXT_CHARACTERS: usize = 200;

/// A foreign text without anything that moves the cursor, colours, or turns the reading direction.
/// Such characters are spelt out (`\u{1b}`); the text is cut at 200 characters.
pub(super) fn harmless(text: &str) -> String {
    let mut clean = String::with_capacity(text.len().min(TEXT_CHARACTERS * 4));
    for character in text.chars().take(TEXT_CHARACTERS) {
        match character {
            '\t' | '\n' | '\r' => clean.extend(character.escape_default()),
            _ if character.is_control() || is_invisible(character) => {
                clean.extend(character.escape_unicode());
            }
            _ => clean.push(character),
        }
    }
    clean
}

/// Zero-width, bidirectional and tag characters.
const fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Cut to `width` columns, with `…` where something is missing.
pub(super) fn cut(text: &str, width: usize) -> String {
    if Span::raw(text).width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 1;
    for character in text.chars() {
        used += Span::raw(character.to_string()).width();
        if width < used {
            break;
        }
        kept.push(character);
    }
    if width != 0 {
        kept.push('…');
    }
    kept
}

/// `1,234,567`; from ten million on `12.3M`, so that a column stays narrow.
pub(super) fn count(number: u64) -> String {
    for (unit, suffix) in
        [(1_000_000_000_000_000, "P"), (1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M")]
    {
        if unit * 10 <= number {
            return format!("{}.{}{suffix}", number / unit, number % unit * 10 / unit);
        }
    }
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + 3);
    for (place, digit) in digits.chars().enumerate() {
        if place != 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `980`, `21.3k`, `1.2M`: where there are few columns.
pub(super) fn short(number: u64) -> String {
    for (unit, suffix) in [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")] {
        if unit <= number {
            let tenths = number / (unit / 10);
            let (whole, tenth) = (tenths / 10, tenths % 10);
            return if tenth == 0 || 100 <= whole {
                format!("{whole}{suffix}")
            } else {
                format!("{whole}.{tenth}{suffix}")
            };
        }
    }
    number.to_string()
}

/// A rate per second: one decimal below ten, whole above.
pub(super) fn rate(per_second: f64) -> String {
    if per_second < 9.95 { format!("{per_second:.1}") } else { count(whole(per_second.round())) }
}

/// Time left: `850 ms`, `4.2 s`, `1m 05s`.
pub(super) fn left(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{}.{} s", millis / 1_000, millis % 1_000 / 100),
        _ => format!("{}m {:02}s", millis / 60_000, millis % 60_000 / 1_000),
    }
}

/// Time since a start: `0:07`, `12:34`, `1:02:03`.
pub(super) fn clock(seconds: f64) -> String {
    let seconds = whole(seconds);
    let (hours, minutes, seconds) = (seconds / 3_600, seconds % 3_600 / 60, seconds % 60);
    if hours == 0 { format!("{minutes}:{seconds:02}") } else { format!("{hours}:{minutes:02}:{seconds:02}") }
}

/// The share of successes among successes and failures, e.g. `99.9 %`; never rounded up to 100.
pub(super) fn share(succeeded: u64, failed: u64) -> String {
    let all = u128::from(succeeded) + u128::from(failed);
    if all == 0 {
        return "–".to_owned();
    }
    if failed == 0 {
        return "100 %".to_owned();
    }
    let tenths = u128::from(succeeded) * 1_000 / all;
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// `1 request`, `2 requests`.
pub(super) fn several(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// The whole part of a number; nothing below zero, and what is not a number is zero.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float cast saturates, NaN is 0"
)]
pub(super) const fn whole(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped_and_long_ones_shortened() {
        let written = [0, 999, 1_000, 9_999_999, 10_000_000, 12_345_678_901, u64::MAX].map(count);
        assert_eq!(written, ["0", "999", "1,000", "9,999,999", "10.0M", "12.3G", "18446.7P"]);
    }

    #[test]
    fn short_counts_have_at_most_six_columns_below_a_billion() {
        let written = [0, 980, 1_000, 21_340, 30_000, 999_999, 1_200_000, 240_000_000].map(short);
        assert_eq!(written, ["0", "980", "1k", "21.3k", "30k", "999k", "1.2M", "240M"]);
    }

    #[test]
    fn time_left_counts_in_milliseconds_then_seconds_then_minutes() {
        let written =
            [0, 850, 999, 1_000, 4_250, 59_999, 65_000].map(|millis| left(Duration::from_millis(millis)));
        assert_eq!(written, ["0 ms", "850 ms", "999 ms", "1.0 s", "4.2 s", "59.9 s", "1m 05s"]);
    }

    #[test]
    fn one_failure_in_a_million_is_not_a_hundred_percent() {
        assert_eq!(share(999_999, 1), "99.9 %");
        assert_eq!(share(5, 0), "100 %");
        assert_eq!(share(0, 0), "–");
        assert_eq!(share(u64::MAX, u64::MAX), "50.0 %");
    }

    #[test]
    fn a_cut_text_never_exceeds_its_columns() {
        for width in 0..12 {
            for text in ["", "west", "a-very-long-name", "東京リージョン", "e\u{301}e\u{301}e\u{301}"]
            {
                assert!(Span::raw(cut(text, width)).width() <= width, "{text} at {width}");
            }
        }
        assert_eq!(cut("a-very-long-name", 8), "a-very-…");
    }

    #[test]
    fn the_clock_of_any_number_is_writable() {
        let written = [0.0, 7.9, 754.0, 3_723.0, f64::NAN, -1.0].map(clock);
        assert_eq!(written, ["0:00", "0:07", "12:34", "1:02:03", "0:00", "0:00"]);
    }
}
