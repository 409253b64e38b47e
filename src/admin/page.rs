//! The status page: one document with its style and script inside, made once. `page-words.js` is how it writes,
//! `page-timeline.js` the strips of the last fifteen minutes, `page-requests.js` single requests, `page.js` all else.
//!
//! The content security policy names exactly this style and this script by their hashes: whatever else gets into the
//! page neither runs nor loads. What the page shows comes from `/events` and `/requests` and is put in as text.

use bytes::Bytes;
use http::HeaderValue;
use ring::digest::{SHA256, digest};

const HTML: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = concat!(
    include_str!("page-words.js"),
    include_str!("page-timeline.js"),
    include_str!("page-requests.js"),
    include_str!("page.js")
);

/// The document, ready to be sent.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) body: Bytes,
    pub(super) policy: HeaderValue,
}

impl Document {
    pub(super) fn new() -> Self {
        let body = HTML.replace("/* style */", STYLE).replace("/* script */", SCRIPT);
        let policy = format!(
            "default-src 'none'; style-src '{}'; script-src '{}'; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hash(STYLE),
            hash(SCRIPT)
        );
        let policy = HeaderValue::from_str(&policy).expect("hashes are base64");
        Self { body: body.into(), policy }
    }
}

/// As a content security policy names a source.
fn hash(text: &str) -> String {
    format!("sha256-{}", base64(digest(&SHA256, text.as_bytes()).as_ref()))
}

/// Encodes to base64 of RFC 4648 section 4, with padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits =
            three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let six = usize::try_from(bits >> (18 - 6 * place) & 63).expect("six bits");
            text.push(if place <= three.len() { char::from(LETTERS[six]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_asks_for_nothing_from_outside() {
        let document = Document::new();
        let text = std::str::from_utf8(&document.body).unwrap();
        assert!(text.contains(STYLE) && text.contains(SCRIPT));
        assert!(text.starts_with("<!doctype html>") && text.trim_end().ends_with("</html>"));
        for outside in ["http:", "https:", "//cdn", "@import", "url(", " src=", "<link rel=\"style"] {
            let found =
                text.match_indices(outside).map(|(at, _)| text[at..].lines().next().unwrap_or_default());
            // The namespace of SVG is a name, not an address.
            let mut found = found.filter(|found| !found.starts_with("http://www.w3.org/"));
            assert_eq!(found.next(), None, "{outside}");
        }
        for unsafe_call in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "new Function", "document.write"]
        {
            assert!(!text.contains(unsafe_call), "{unsafe_call}");
        }
    }

    #[test]
    fn no_pattern_looks_back_which_older_safaris_cannot_read() {
        // There it is an error of syntax, and nothing of the script would run.
        assert!(!SCRIPT.contains("(?<=") && !SCRIPT.contains("(?<!"));
    }

    #[test]
    fn the_policy_allows_nothing_but_what_the_page_brings() {
        let policy = Document::new().policy;
        let policy = policy.to_str().unwrap();
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains(&format!("script-src '{}'", hash(SCRIPT))));
    }

    #[test]
    fn hashes_are_those_that_browsers_reckon() {
        assert_eq!(hash(""), "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        for (bytes, text) in
            [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"\xff\xef", "/+8=")]
        {
            assert_eq!(base64(bytes), text);
        }
    }
}
