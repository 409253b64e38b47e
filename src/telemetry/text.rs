//! What came from outside, made harmless; numbers, without detours.

use std::time::Duration;

/// The most characters of an outside string that are shown.
pub const LONGEST: usize = 200;

/// Where cleaned text goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// On its own: quotes and backslashes stay.
    Bare,
    /// Between double quotes of a text line: quotes and backslashes are escaped.
    Quoted,
    /// Between the quotes of a JSON string. What is escaped stays visible after a JSON reader has undone JSON's
    /// own escapes, so that `jq -r` to a terminal is safe as well.
    Json,
}

/// Appends `text` with controls, terminal sequences, bidirectional and invisible marks written as `\u{1b}`, cut
/// at `longest` characters (then `…`).
pub fn clean(out: &mut Vec<u8>, text: &str, longest: usize, place: Place) {
    if text.len() <= longest && text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\') {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for (n, c) in text.chars().enumerate() {
        if n == longest {
            out.extend_from_slice("…".as_bytes());
            return;
        }
        if deceives(c) {
            if place == Place::Json {
                out.push(b'\\');
            }
            out.extend_from_slice(c.escape_unicode().to_string().as_bytes());
            continue;
        }
        if matches!(c, '"' | '\\') && place != Place::Bare {
            out.push(b'\\');
        }
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

/// Whether a character changes how the text around it is shown, or cannot be seen.
fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Appends an outside string as a value of a text line: bare when it is one plain word, else quoted.
pub fn word(out: &mut Vec<u8>, text: &str) {
    if !text.is_empty()
        && text.len() <= LONGEST
        && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'='))
    {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    clean(out, text, LONGEST, Place::Quoted);
    out.push(b'"');
}

/// Appends an outside string as a JSON string, with its quotes.
pub fn json(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    clean(out, text, LONGEST, Place::Json);
    out.push(b'"');
}

/// Appends a number. (`write!` costs half as much again, and an access record has a dozen.)
pub fn decimal(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(n % 10).expect("a digit");
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a duration in milliseconds with three decimals: `12.034`.
pub fn millis(out: &mut Vec<u8>, duration: Duration) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    decimal(out, micros / 1_000);
    let rest = micros % 1_000;
    out.push(b'.');
    if rest < 100 {
        out.push(b'0');
    }
    if rest < 10 {
        out.push(b'0');
    }
    decimal(out, rest);
}

/// An error with its causes, for people.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(text: &str, place: Place) -> String {
        let mut out = Vec::new();
        clean(&mut out, text, LONGEST, place);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn controls_terminal_sequences_and_bidirectional_marks_become_visible() {
        assert_eq!(
            cleaned("a\u{1b}[31mb\r\nc\u{202e}d\u{9b}e", Place::Bare),
            r"a\u{1b}[31mb\u{d}\u{a}c\u{202e}d\u{9b}e"
        );
        assert_eq!(cleaned("Zürich 東京 \"x\"", Place::Bare), "Zürich 東京 \"x\"");
    }

    #[test]
    fn a_json_string_reads_back_as_the_visible_text() {
        let mut out = Vec::new();
        json(&mut out, "a\u{1b}[31m \"q\" \\ \u{2066}ü\n");
        let read: String = serde_json::from_slice(&out).unwrap();
        assert_eq!(read, "a\\u{1b}[31m \"q\" \\ \\u{2066}ü\\u{a}");
    }

    #[test]
    fn long_strings_are_cut_at_two_hundred_characters_not_bytes() {
        assert_eq!(cleaned(&"ü".repeat(200), Place::Bare), "ü".repeat(200));
        assert_eq!(cleaned(&"ü".repeat(201), Place::Bare), "ü".repeat(200) + "…");
        assert_eq!(cleaned(&"x".repeat(100_000), Place::Quoted), "x".repeat(200) + "…");
    }

    #[test]
    fn a_word_is_quoted_when_it_could_be_read_as_something_else() {
        let shown = |text: &str| {
            let mut out = Vec::new();
            word(&mut out, text);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown("gpt-4o"), "gpt-4o");
        assert_eq!(shown(""), "\"\"");
        assert_eq!(shown("a b"), "\"a b\"");
        assert_eq!(shown("x status=200"), "\"x status=200\"");
        assert_eq!(shown("x\" y"), "\"x\\\" y\"");
    }

    #[test]
    fn numbers_and_milliseconds_are_written_exactly() {
        let mut out = Vec::new();
        for n in [0, 7, 10, 1_234_567, u64::MAX] {
            decimal(&mut out, n);
            out.push(b' ');
        }
        for micros in [0, 7, 42, 999, 1_000, 12_034] {
            millis(&mut out, Duration::from_micros(micros));
            out.push(b' ');
        }
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "0 7 10 1234567 18446744073709551615 0.000 0.007 0.042 0.999 1.000 12.034 "
        );
    }
}
