//! A stream's events and its usage are the same however its bytes are cut, and our own error event, where it may be
//! written, is read as one.
//!
//! Input: a line of chunk sizes, taken in turn (`0` is an empty chunk), then the stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidestep::openai::{Api, Ending, EventKind, EventScanner, Usage, UsageScanner, errors};
use sidestep_fuzz::line;

/// No answer has as many tokens: what says so is not believed, so that sums cannot overflow.
const BELIEVED: u64 = 1 << 32;

fuzz_target!(|data: &[u8]| {
    let (sizes, stream) = line(data);
    let sizes = std::str::from_utf8(sizes).unwrap_or_default();
    let sizes: Vec<usize> = sizes.split(' ').filter_map(|size| size.parse().ok()).take(32).collect();
    let chunks = cut(stream, &sizes);
    let usage = usage(&[stream]);
    assert_eq!(self::usage(&chunks), usage);
    assert_eq!(self::usage(&single(stream)), usage);
    if let Some(usage) = usage {
        assert!(usage.prompt.max(usage.completion).max(usage.cached) <= BELIEVED, "{usage:?}");
    }
    for api in [Api::Chat, Api::Responses, Api::Other] {
        events(api, stream, &chunks);
    }
});

fn events(api: Api, stream: &[u8], chunks: &[&[u8]]) {
    let whole = Told::of(api, &[stream]);
    let cut = Told::of(api, chunks);
    let single = Told::of(api, &single(stream));
    assert_eq!(cut.events, whole.events, "{api:?}");
    assert_eq!(single.events, whole.events, "{api:?}");
    // After each chunk as after each byte.
    let mut at = 0;
    for (chunk, state) in chunks.iter().zip(&cut.states) {
        at += chunk.len();
        if let Some(expected) = at.checked_sub(1).map(|last| single.states[last]) {
            assert_eq!(*state, expected, "{api:?} after {at} bytes");
        }
    }
    if let Some(dispatched) = dispatched(stream) {
        let told = whole.events.iter().filter(|kind| **kind != EventKind::Comment).count();
        assert_eq!(told, dispatched, "{api:?}");
    }
    let inside = whole.states.last().is_some_and(|state| state.inside);
    if !inside {
        let error = errors::stream_event(api, "upstream_stream_interrupted", "cut", "3cac2921276ab313");
        let ended = Told::of(api, &[stream, &error]);
        let last = ended.events.last();
        assert!(
            matches!(last, Some(EventKind::Error(error)) if error.code == "upstream_stream_interrupted"),
            "{api:?}: {last:?}"
        );
        assert_eq!(ended.events.len(), whole.events.len() + 1, "{api:?}");
        assert_ne!(ended.states[1].ending, Ending::Open);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    ending: Ending,
    cut: bool,
    inside: bool,
}

struct Told {
    events: Vec<EventKind>,
    /// After each chunk.
    states: Vec<Standing>,
}

impl Told {
    fn of(api: Api, chunks: &[&[u8]]) -> Self {
        let mut scanner = EventScanner::new(api);
        let (mut events, mut states) = (Vec::new(), Vec::new());
        for chunk in chunks {
            let mut rest = *chunk;
            while let Some(kind) = scanner.next(&mut rest) {
                events.push(kind);
            }
            assert!(rest.is_empty());
            states.push(Standing {
                ending: scanner.ending(),
                cut: scanner.is_cut(),
                inside: scanner.inside_event(),
            });
        }
        Self { events, states }
    }
}

fn usage(chunks: &[&[u8]]) -> Option<Usage> {
    let mut scanner = UsageScanner::default();
    chunks.iter().for_each(|chunk| scanner.feed(chunk));
    scanner.usage()
}

fn single(stream: &[u8]) -> Vec<&[u8]> {
    stream.chunks(1).collect()
}

fn cut<'a>(mut stream: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    let endless = sizes.iter().any(|size| *size > 0);
    for size in sizes.iter().cycle().take_while(|_| endless) {
        if stream.is_empty() {
            break;
        }
        let (chunk, rest) = stream.split_at((*size).min(stream.len()));
        chunks.push(chunk);
        stream = rest;
    }
    chunks.push(stream);
    chunks
}

/// How many events a reader by the standard dispatches: blocks of lines with at least one field `data`.
/// `None` where a byte order mark makes readers differ.
fn dispatched(stream: &[u8]) -> Option<usize> {
    if stream.windows(3).any(|window| window == b"\xef\xbb\xbf") {
        return None;
    }
    let (mut count, mut data, mut line) = (0, false, Vec::new());
    let mut bytes = stream.iter().peekable();
    while let Some(byte) = bytes.next() {
        if !matches!(byte, b'\r' | b'\n') {
            line.push(*byte);
            continue;
        }
        if *byte == b'\r' {
            bytes.next_if_eq(&&b'\n');
        }
        if line.is_empty() {
            count += usize::from(std::mem::take(&mut data));
        } else {
            data |= line == b"data" || line.starts_with(b"data:");
        }
        line.clear();
    }
    Some(count)
}
