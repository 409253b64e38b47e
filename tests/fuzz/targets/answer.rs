//! What a backend answers in HTTP/1.1 is read as hyper reads it, however its bytes are cut; where we read less, it is
//! because the framing is not clear. And its connection is kept only after an answer with a clear end.
//!
//! Input: a line of chunk sizes, taken in turn, with the word `head` for an answer to HEAD; then what the backend
//! sends before it closes. `CRLF` line ends are written as they are.
#![no_main]

#[path = "../../it/beside_hyper.rs"]
mod beside_hyper;

use http::Method;
use libfuzzer_sys::fuzz_target;
use sidestep::net::upstream::Tls;
use sidestep_fuzz::line;

use beside_hyper::{compare, tls};

fuzz_target!(|data: &[u8]| {
    let (first, stream) = line(data);
    let words = std::str::from_utf8(first).unwrap_or_default();
    let method = if words.split(' ').any(|word| word == "head") { Method::HEAD } else { Method::GET };
    let sizes: Vec<usize> = words.split(' ').filter_map(|size| size.parse().ok()).take(32).collect();
    thread_local!(static TLS: Tls = tls());
    TLS.with(|tls| compare(&method, &cut(stream, &sizes), tls));
});

fn cut<'a>(mut stream: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let mut sizes = sizes.iter().cycle();
    while !stream.is_empty() {
        let size = sizes.next().copied().unwrap_or(stream.len()).clamp(1, stream.len());
        let (piece, rest) = stream.split_at(size);
        pieces.push(piece);
        stream = rest;
    }
    pieces
}
