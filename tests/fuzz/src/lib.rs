//! What the fuzz targets share. Inputs are texts that a person can read and write: see `seeds`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use sidestep::balance::{BackendSettings, Deployments, Pool, PoolSettings};

/// What the pool clamps every cooldown and rest to (design.md 6).
pub const SHORTEST: Duration = Duration::from_millis(10);
/// See [`SHORTEST`].
pub const LONGEST: Duration = Duration::from_secs(60);
/// The longest wait that a caller is told.
pub const LONGEST_WAIT: Duration = Duration::from_secs(59);

/// Text in the form of an HTTP message: a line of words, headers, a blank line, a body.
pub struct Message<'a> {
    /// The first line.
    pub words: &'a str,
    /// Lines that are no headers are left out.
    pub headers: HeaderMap,
    /// Everything after the blank line.
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads anything.
    pub fn of(data: &'a [u8]) -> Self {
        let (first, mut rest) = line(data);
        let mut headers = HeaderMap::new();
        while !rest.is_empty() {
            let (header, after) = line(rest);
            rest = after;
            if header.is_empty() {
                break;
            }
            if let Some(colon) = header.iter().position(|byte| *byte == b':')
                && let Ok(name) = HeaderName::from_bytes(&header[..colon])
                && let Ok(value) = HeaderValue::from_bytes(header[colon + 1..].trim_ascii())
            {
                headers.append(name, value);
            }
        }
        Self { words: std::str::from_utf8(first).unwrap_or_default(), headers, body: rest }
    }

    /// Whether this word stands in the first line.
    pub fn says(&self, word: &str) -> bool {
        self.words.split(' ').any(|said| said == word)
    }

    /// The number of `name=7` in the first line.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.words.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
    }
}

/// The first line without its end, and what comes after it.
pub fn line(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|byte| *byte == b'\n') {
        Some(end) => (data[..end].strip_suffix(b"\r").unwrap_or(&data[..end]), &data[end + 1..]),
        None => (data, b""),
    }
}

/// The pieces between lines of three dashes.
pub fn pieces(mut data: &[u8]) -> Vec<&[u8]> {
    const BORDER: &[u8] = b"\n---\n";
    let mut pieces = Vec::new();
    while let Some(at) = data.windows(BORDER.len()).position(|window| window == BORDER) {
        pieces.push(&data[..at]);
        data = &data[at + BORDER.len()..];
    }
    pieces.push(data);
    pieces
}

/// The settings of a pool of `count` backends. Every third is of priority 2 and serves only `gpt-4o`, by another name.
pub fn backends(count: usize) -> PoolSettings {
    let backend = |index: usize| BackendSettings {
        name: Arc::from(format!("b{index}")),
        url: Arc::from(format!("https://b{index}.example")),
        priority: if index % 3 == 2 { 2 } else { 1 },
        weight: NonZeroU32::MIN,
        deployments: if index % 3 == 2 {
            Deployments::Named(BTreeMap::from([("gpt-4o".to_owned(), "gpt-4o-east".to_owned())]))
        } else {
            Deployments::Any
        },
    };
    PoolSettings { backends: (0..count).map(backend).collect(), lanes: 100 }
}

/// A pool whose backends all have their credentials.
pub fn pool(count: usize) -> Pool {
    let mut pool = Pool::new(backends(count), 7);
    (0..count).for_each(|index| pool.set_credential(index, true));
    pool
}
