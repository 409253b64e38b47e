//! An answer of HTTP/1.1, byte by byte: its head, how its body is framed, and the chunks of that. PURE: no sockets.
//!
//! Who answers is a backend that the operator named, but what stands in an answer may not be its own doing. So: what
//! is not clear is malformed and never guessed, nothing grows beyond a bound, and a connection whose bytes could be
//! read in two ways serves no other request. Each head is written anew for the caller: odd line ends do not travel.

use std::fmt;
use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hyper::ext::ReasonPhrase;
use thiserror::Error;

use super::field_names::field_name;

/// The bound of an answer's head, in bytes; what is said before the answer itself (1xx) counts.
pub(super) const MOST_HEAD: usize = 64 * 1024;

/// The end of a line and of the empty one behind it, in bytes, less one.
pub(super) const MOST_LINE_END: usize = 3;

/// Whether an empty line stands here: without one no head is whole.
pub(super) fn may_end_head(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| matches!(bytes[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
}

/// So many fields a head may have, and so many the trailers.
const MOST_FIELDS: usize = 100;

/// All that one body may say beside its chunks' sizes, in bytes.
const MOST_EXTENSIONS: usize = 16 * 1024;

/// The bound of what follows the last chunk, in bytes.
const MOST_TRAILERS: usize = 16 * 1024;

/// What came is not HTTP, or not clearly so.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Malformed {
    /// The head cannot be read.
    #[error("in the head: {0}")]
    Head(#[from] httparse::Error),
    /// The head is longer than it may be.
    #[error("the head is too long")]
    LongHead,
    /// A name or value that cannot stand in a head, or a status below 100.
    #[error("a field of the head is none")]
    Field,
    /// `Content-Length` is no number, or says different ones.
    #[error("its length is not clear")]
    Length,
    /// A transfer coding other than chunks alone; or any, in HTTP/1.0.
    #[error("a transfer coding that we have not asked for")]
    Coding,
    /// A chunk's size is none.
    #[error("a chunk's size is none")]
    ChunkSize,
    /// A chunk does not end where it should.
    #[error("a chunk does not end where it says")]
    ChunkEnd,
    /// Too much is said beside the chunks.
    #[error("too much beside the chunks")]
    Extensions,
    /// What follows the last chunk cannot be read.
    #[error("the trailers cannot be read")]
    Trailers,
}

/// Where a body ends.
#[derive(Debug)]
pub(super) enum Framing {
    /// After so many bytes; none where there is no body.
    Length(u64),
    /// After the last chunk.
    Chunked(Chunks),
    /// With the connection.
    UntilClose,
}

/// The head of an answer, without its fields.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    /// Where it is not the usual one.
    pub(super) reason: Option<ReasonPhrase>,
    pub(super) framing: Framing,
    /// The connection may serve another request after this one.
    pub(super) keeps: bool,
    /// In bytes, with all that came before.
    pub(super) length: usize,
}

/// Reads the head that `bytes` begin with, and its fields into `fields`; `None` where it has not come whole. Answers
/// that only say that another will follow (1xx) are passed over: `passed` is how far, and is not read again.
pub(super) fn read_head(
    bytes: &Bytes,
    passed: &mut usize,
    bodiless: bool,
    fields: &mut HeaderMap,
) -> Result<Option<Head>, Malformed> {
    loop {
        let head = read_one(bytes, *passed, bodiless, fields)?;
        let Some(mut head) = head else { return Ok(None) };
        head.length += *passed;
        if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
            return if head.length > MOST_HEAD { Err(Malformed::LongHead) } else { Ok(Some(head)) };
        }
        *passed = head.length;
    }
}

fn read_one(
    bytes: &Bytes,
    begun: usize,
    bodiless: bool,
    fields: &mut HeaderMap,
) -> Result<Option<Head>, Malformed> {
    let mut places = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut read = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let httparse::Status::Complete(length) =
        parser.parse_response_with_uninit_headers(&mut read, &bytes[begun..], &mut places)?
    else {
        return Ok(None);
    };
    let status = read.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed::Field)?;
    let reason = read.reason.filter(|reason| Some(*reason) != status.canonical_reason());
    let reason = reason.and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok());
    let mut told = Told { first: read.version == Some(0), ..Told::default() };
    fields.clear();
    fields.reserve(read.headers.len());
    for field in &*read.headers {
        let name = field_name(field.name.as_bytes()).map_err(|_| Malformed::Field)?;
        let value = bytes.slice_ref(field.value);
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| Malformed::Field)?;
        told.hear(&name, &value);
        fields.append(name, value);
    }
    if told.lengths > 1 || told.chunked || told.mistake == Some(Malformed::Length) {
        // Said twice it is said once; and where there are chunks, they are counted.
        fields.remove(header::CONTENT_LENGTH);
        if let (Some(length), None, false) = (told.length, told.mistake, told.chunked) {
            fields.insert(header::CONTENT_LENGTH, length.into());
        }
    }
    let no_body = bodiless
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    let framing = match told {
        _ if no_body => Framing::Length(0),
        Told { mistake: Some(mistake), .. } => return Err(mistake),
        Told { chunked: true, .. } => Framing::Chunked(Chunks::default()),
        Told { length: Some(length), .. } => Framing::Length(length),
        _ => Framing::UntilClose,
    };
    // What tells of a body where none can be may send one. Of other codings than chunks there is a mistake.
    let tells_body =
        told.chunked || status == StatusCode::NO_CONTENT && told.length.is_some_and(|length| length > 0);
    let keeps = told.keeps() && !matches!(framing, Framing::UntilClose) && !(no_body && tells_body);
    Ok(Some(Head { status, reason, framing, keeps, length }))
}

/// What a head says of its body and its connection.
#[derive(Debug, Default)]
struct Told {
    /// It is of HTTP/1.0.
    first: bool,
    closes: bool,
    chunked: bool,
    length: Option<u64>,
    lengths: usize,
    /// Matters only where there is a body.
    mistake: Option<Malformed>,
}

impl Told {
    fn hear(&mut self, name: &HeaderName, value: &HeaderValue) {
        let value = value.as_bytes();
        if *name == header::CONTENT_LENGTH {
            for number in value.split(|byte| *byte == b',') {
                let number = whole_number(number.trim_ascii());
                // Nobody answers so much, and what is added to it must not overflow.
                let number = number.filter(|number| i64::try_from(*number).is_ok());
                if number.is_none() || self.length.is_some() && self.length != number {
                    self.mistake = Some(Malformed::Length);
                }
                self.length = number;
                self.lengths += 1;
            }
        } else if *name == header::TRANSFER_ENCODING {
            let chunks = value.trim_ascii().eq_ignore_ascii_case(b"chunked");
            if self.first || !chunks || std::mem::replace(&mut self.chunked, true) {
                self.mistake.get_or_insert(Malformed::Coding);
            }
        } else if *name == header::CONNECTION {
            let mut words = value.split(|byte| *byte == b',');
            self.closes |= words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"));
        }
    }

    /// Not where two framings were told: what follows may be meant for somebody else.
    fn keeps(&self) -> bool {
        let twice = self.chunked && self.lengths > 0;
        !(self.first || self.closes || twice || self.mistake.is_some())
    }
}

/// Digits and nothing else.
fn whole_number(digits: &[u8]) -> Option<u64> {
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    let sum = |sum: u64, byte| sum.checked_mul(10)?.checked_add(digit(byte)?);
    if digits.is_empty() { None } else { digits.iter().try_fold(0, sum) }
}

/// Reads the chunks of one body.
#[derive(Default)]
pub(super) struct Chunks {
    at: At,
    /// Of the present chunk; while its size is read, that size so far.
    left: u64,
    extensions: usize,
    lines: Vec<u8>,
    trailers: Option<Box<HeaderMap>>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum At {
    /// The first digit of a size.
    #[default]
    Size,
    /// More of its digits, or what follows them.
    Digits,
    /// After blanks: no more digits.
    Blanks,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// A line of the trailers, or the empty one that is the last.
    Line,
    InLine,
    LineLf,
    LastLf,
    End,
    Broken(Malformed),
}

impl fmt::Debug for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not what stands in the trailers.
        f.debug_struct("Chunks").field("at", &self.at).field("left", &self.left).finish_non_exhaustive()
    }
}

impl Chunks {
    /// Appends to `data` what stands in the chunks of `input`; how much of `input` was of this body. What comes after
    /// a mistake is not read.
    pub(super) fn read(&mut self, input: &[u8], data: &mut Vec<u8>) -> usize {
        let mut rest = input;
        while let [byte, behind @ ..] = rest {
            match self.at {
                At::End | At::Broken(_) => break,
                At::Data => {
                    let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
                    // Most often one chunk is all there is.
                    data.reserve_exact(if data.is_empty() { here } else { rest.len() });
                    let (piece, behind) = rest.split_at(here);
                    data.extend_from_slice(piece);
                    rest = behind;
                    self.left -= here as u64;
                    if self.left == 0 {
                        self.at = At::DataCr;
                    }
                }
                _ => {
                    rest = behind;
                    self.at = self.step(*byte).unwrap_or_else(At::Broken);
                }
            }
        }
        input.len() - rest.len()
    }

    fn step(&mut self, byte: u8) -> Result<At, Malformed> {
        let next = match (self.at, byte) {
            (At::Size | At::Digits, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                if self.at == At::Digits && self.left == 0 {
                    // More zeros than one say nothing.
                    self.aside()?;
                }
                let size = self.left.checked_mul(16).ok_or(Malformed::ChunkSize)?;
                self.left = size + digit;
                At::Digits
            }
            (At::Digits | At::Blanks, b' ' | b'\t') => {
                self.aside()?;
                At::Blanks
            }
            (At::Digits | At::Blanks, b';') => At::Extension,
            (At::Digits | At::Blanks | At::Extension, b'\r') => At::SizeLf,
            (At::Size | At::Digits | At::Blanks, _) => return Err(Malformed::ChunkSize),
            // Who takes a bare line feed for an end reads something else here.
            (At::Extension, b'\n') => return Err(Malformed::Extensions),
            (At::Extension, _) => {
                self.aside()?;
                At::Extension
            }
            (At::SizeLf, b'\n') => {
                if self.left == 0 {
                    At::Line
                } else {
                    At::Data
                }
            }
            (At::SizeLf, _) => return Err(Malformed::ChunkSize),
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size,
            (At::DataCr | At::DataLf, _) => return Err(Malformed::ChunkEnd),
            (At::Line, b'\r') => At::LastLf,
            (At::InLine, b'\r') => At::LineLf,
            // As above: who takes a bare line feed for an end reads something else here.
            (At::Line | At::InLine, b'\n') => return Err(Malformed::Trailers),
            (At::Line | At::InLine, _) => At::InLine,
            (At::LineLf, b'\n') => At::Line,
            (At::LastLf, b'\n') => {
                self.trailers = trailers(&self.lines)?;
                At::End
            }
            (At::LineLf | At::LastLf, _) => return Err(Malformed::Trailers),
            (state @ (At::Data | At::End | At::Broken(_)), _) => state,
        };
        if matches!(self.at, At::Line | At::InLine | At::LineLf | At::LastLf) {
            self.lines.push(byte);
            if self.lines.len() >= MOST_TRAILERS {
                return Err(Malformed::Trailers);
            }
        }
        Ok(next)
    }

    /// A byte that is neither size nor data.
    fn aside(&mut self) -> Result<(), Malformed> {
        self.extensions += 1;
        if self.extensions < MOST_EXTENSIONS { Ok(()) } else { Err(Malformed::Extensions) }
    }

    /// The last chunk and all that follows it have been read.
    pub(super) fn is_over(&self) -> bool {
        self.at == At::End
    }

    /// The mistake that stands in it.
    pub(super) fn mistake(&self) -> Option<Malformed> {
        if let At::Broken(mistake) = self.at { Some(mistake) } else { None }
    }

    /// What followed the last chunk, once.
    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take().map(|trailers| *trailers)
    }

    pub(super) fn has_trailers(&self) -> bool {
        self.trailers.is_some()
    }
}

/// Read from all lines but the last line feed.
fn trailers(lines: &[u8]) -> Result<Option<Box<HeaderMap>>, Malformed> {
    if lines == b"\r" {
        return Ok(None);
    }
    let lines = [lines, b"\n"].concat();
    let mut places = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let Ok(httparse::Status::Complete((length, read))) = httparse::parse_headers(&lines, &mut places) else {
        return Err(Malformed::Trailers);
    };
    if length != lines.len() {
        return Err(Malformed::Trailers);
    }
    let mut fields = HeaderMap::with_capacity(read.len());
    for field in read {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed::Trailers)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| Malformed::Trailers)?;
        fields.append(name, value);
    }
    Ok(Some(Box::new(fields)))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};
    use proptest::prelude::*;

    use super::{Chunks, Framing, Head, Malformed, read_head};

    fn head(text: &str) -> (Result<Option<Head>, Malformed>, HeaderMap) {
        let mut fields = HeaderMap::new();
        (read_head(&Bytes::from(text.to_owned()), &mut 0, false, &mut fields), fields)
    }

    #[track_caller]
    fn good(fields: &str) -> (Head, HeaderMap) {
        let (head, fields) = head(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"));
        (head.unwrap().unwrap(), fields)
    }

    #[track_caller]
    fn bad(fields: &str) -> Malformed {
        head(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).0.unwrap_err()
    }

    #[test]
    fn a_length_is_taken_only_where_it_is_clear() {
        for one in [
            "content-length: 5\r\n",
            "content-length: 5\r\nContent-Length: 5\r\n",
            "content-length: 5, 5\r\n",
        ] {
            let (head, fields) = good(one);
            assert!(matches!(head.framing, Framing::Length(5)) && head.keeps, "{one}");
            assert_eq!(fields.get_all("content-length").iter().collect::<Vec<_>>(), ["5"], "{one}");
        }
        for none in
            ["5, 6", "+5", "-5", "0x5", "", "5,", "5 5", "9223372036854775808", "99999999999999999999999"]
        {
            assert_eq!(bad(&format!("content-length: {none}\r\n")), Malformed::Length, "{none}");
        }
        assert_eq!(bad("content-length: 5\r\ncontent-length: 6\r\n"), Malformed::Length);
    }

    #[test]
    fn where_both_framings_are_told_the_chunks_count_and_the_connection_serves_no_other_request() {
        for both in [
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        ] {
            let (head, fields) = good(both);
            assert!(matches!(head.framing, Framing::Chunked(_)) && !head.keeps, "{both}");
            assert!(!fields.contains_key("content-length"), "{both}");
        }
        assert!(good("transfer-encoding: Chunked \r\n").0.keeps);
        for coding in ["gzip", "gzip, chunked", "chunked, gzip", "chunked, chunked", "xchunked", ""] {
            assert_eq!(bad(&format!("transfer-encoding: {coding}\r\n")), Malformed::Coding, "{coding}");
        }
        let text = "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(head(text).0.unwrap_err(), Malformed::Coding);
    }

    #[test]
    fn a_connection_is_kept_only_by_http_1_1_that_does_not_close_and_says_where_its_answer_ends() {
        assert!(good("content-length: 0\r\n").0.keeps);
        assert!(!good("").0.keeps && matches!(good("").0.framing, Framing::UntilClose));
        assert!(!good("content-length: 0\r\nconnection: keep-alive, Close\r\n").0.keeps);
        assert!(!head("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n").0.unwrap().unwrap().keeps);
    }

    #[test]
    fn what_has_no_body_ends_with_its_head() {
        for status in ["204 No Content", "304 Not Modified", "101 Switching Protocols"] {
            let (head, _) = head(&format!("HTTP/1.1 {status}\r\ncontent-length: 5\r\n\r\n"));
            assert!(matches!(head.unwrap().unwrap().framing, Framing::Length(0)), "{status}");
        }
        let bytes = Bytes::from("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
        let head = read_head(&bytes, &mut 0, true, &mut HeaderMap::new()).unwrap().unwrap();
        assert!(matches!(head.framing, Framing::Length(0)));
    }

    #[test]
    fn what_tells_of_a_body_where_there_is_none_serves_no_other_request() {
        let read = |status: &str, fields: &str, asks: bool| {
            let text = format!("HTTP/1.1 {status}\r\n{fields}\r\n");
            let mut read = HeaderMap::new();
            let head = read_head(&Bytes::from(text), &mut 0, asks, &mut read).unwrap().unwrap();
            assert!(matches!(head.framing, Framing::Length(0)), "{status} {fields}");
            (head.keeps, read.contains_key("content-length"))
        };
        let (none, length, chunked) = ("", "content-length: 5\r\n", "transfer-encoding: chunked\r\n");
        for (status, asks, fields, keeps) in [
            ("204 No Content", false, none, true),
            ("204 No Content", false, "content-length: 0\r\n", true),
            ("204 No Content", false, length, false),
            ("204 No Content", false, chunked, false),
            ("304 Not Modified", false, length, true),
            ("304 Not Modified", false, chunked, false),
            ("200 OK", true, length, true),
            ("200 OK", true, chunked, false),
        ] {
            assert_eq!(read(status, fields, asks).0, keeps, "{status} {fields}");
        }
        for unclear in [
            "content-length: 5x\r\n",
            "content-length: 5\r\ncontent-length: 6\r\n",
            "content-length: x\r\ntransfer-encoding: gzip\r\n",
        ] {
            assert_eq!(read("200 OK", unclear, true), (false, false), "{unclear}");
        }
    }

    #[test]
    fn an_empty_line_is_found_where_it_stands() {
        for (text, there) in [
            ("a\r\n\r\n", true),
            ("a\n\n", true),
            ("a\n\r\nb", true),
            ("a\r\nb\r\n", false),
            ("\r\r\n", false),
        ] {
            assert_eq!(super::may_end_head(text.as_bytes()), there, "{text:?}");
        }
    }

    #[test]
    fn what_is_said_before_the_answer_is_passed_over_and_does_not_go_on_for_ever() {
        let hints = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n";
        let last = "HTTP/1.1 429 Slow down\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
        assert!(head(hints).0.unwrap().is_none());
        let (read, fields) = head(&format!("{hints}{last}"));
        let read = read.unwrap().unwrap();
        assert_eq!((read.status, read.length), (StatusCode::TOO_MANY_REQUESTS, hints.len() + last.len()));
        assert_eq!(read.reason.unwrap().as_bytes(), b"Slow down");
        assert!(!fields.contains_key("link"));
        let (read, _) = head(&format!("{}{last}", hints.repeat(2000)));
        assert_eq!(read.unwrap_err(), Malformed::LongHead);
    }

    #[test]
    fn folded_lines_and_other_oddities_are_malformed() {
        for odd in [
            "x-a: b\r\n c\r\n",
            " x-a: b\r\n",
            "x-a\r\n",
            "x a: b\r\n",
            "x-a : b\r\n",
            "x-a: b\rc\r\n",
            "x-a: b\0\r\n",
        ] {
            assert!(matches!(bad(odd), Malformed::Head(_)), "{odd}");
        }
        assert!(matches!(bad(&"x: y\r\n".repeat(101)), Malformed::Head(_)));
        assert_eq!(good(&"x: y\r\n".repeat(100)).1.len(), 100);
        for line in [
            "HTTP/2 200 OK",
            "HTTP/1.2 200 OK",
            "HTTP/1.1 20 OK",
            "HTTP/1.1 099 OK",
            "ICY 200 OK",
            "HTTP/1.1 abc OK",
        ] {
            assert!(head(&format!("{line}\r\n\r\n")).0.is_err(), "{line}");
        }
    }

    fn chunks(pieces: &[&[u8]]) -> (Vec<u8>, usize, Chunks) {
        let (mut chunks, mut data, mut read) = (Chunks::default(), Vec::new(), 0);
        pieces.iter().for_each(|piece| read += chunks.read(piece, &mut data));
        (data, read, chunks)
    }

    #[test]
    fn chunks_end_where_they_say_and_what_comes_behind_them_is_not_read() {
        let body = "5\r\nhello\r\n06 ;a=\"b\"\r\n world\r\n0\r\n\r\n";
        let (data, read, chunks) = chunks(&[format!("{body}HTTP/1.1 200 OK").as_bytes()]);
        assert_eq!((data.as_slice(), read), (&b"hello world"[..], body.len()));
        assert!(chunks.is_over() && chunks.mistake().is_none() && !chunks.has_trailers());
    }

    #[test]
    fn trailers_are_read_within_their_bounds() {
        let (_, _, mut read) = chunks(&[b"0\r\nx-a: b\r\nx-c: d\r\n\r\n"]);
        let trailers = read.take_trailers().unwrap();
        assert_eq!((trailers.len(), &trailers["x-c"]), (2, &http::HeaderValue::from_static("d")));
        for bad in [
            format!("0\r\nx: {}\r\n\r\n", "y".repeat(16 * 1024)),
            format!("0\r\n{}\r\n", "x: y\r\n".repeat(101)),
        ] {
            assert_eq!(chunks(&[bad.as_bytes()]).2.mistake(), Some(Malformed::Trailers));
        }
    }

    #[test]
    fn chunks_that_are_none_are_malformed_after_what_came_before_them() {
        for (bad, mistake) in [
            ("zz\r\n", Malformed::ChunkSize),
            ("\r\n", Malformed::ChunkSize),
            ("-1\r\n", Malformed::ChunkSize),
            ("0x1\r\n", Malformed::ChunkSize),
            ("1 1\r\n", Malformed::ChunkSize),
            ("1\n", Malformed::ChunkSize),
            ("1\rx", Malformed::ChunkSize),
            ("10000000000000000\r\n", Malformed::ChunkSize),
            ("1;a\nb\r\n", Malformed::Extensions),
            ("1\r\nab", Malformed::ChunkEnd),
            ("1\r\na\n", Malformed::ChunkEnd),
            ("1\r\na\rx", Malformed::ChunkEnd),
            ("0\r\nx-a\r\n\r\n", Malformed::Trailers),
            ("0\r\n x: y\r\n\r\n", Malformed::Trailers),
            ("0\r\nx: y\n\r\n", Malformed::Trailers),
            ("0\r\n\nx: y\r\n\r\n", Malformed::Trailers),
            ("0\r\n\rx", Malformed::Trailers),
        ] {
            let (data, _, read) = chunks(&[b"5\r\nhello\r\n", bad.as_bytes(), b"5\r\nnever\r\n"]);
            assert_eq!(read.mistake(), Some(mistake), "{bad:?}");
            assert!(data.starts_with(b"hello") && !data.ends_with(b"never") && !read.is_over(), "{bad:?}");
        }
        let long = format!("1;{}\r\na\r\n", "x".repeat(16 * 1024));
        assert_eq!(chunks(&[long.as_bytes()]).2.mistake(), Some(Malformed::Extensions));
        for aside in ["0", " ", "\t"] {
            let long = format!("1{}\r\na\r\n", aside.repeat(17 * 1024)).replacen("10", "0", 1);
            assert!(chunks(&[long.as_bytes()]).2.mistake().is_some(), "{aside:?}");
        }
        // The largest size there is.
        assert_eq!(chunks(&[b"ffffffffffffffff\r\nabc"]).0, b"abc");
    }

    proptest! {
        #[test]
        fn a_body_is_the_same_however_its_bytes_are_cut(
            pieces in prop::collection::vec("[0-9a-f;\r\n ]{0,9}|5\r\nhello\r\n|0\r\n|x: y\r\n|\r\n", 0..9),
            size in 1_usize..9,
        ) {
            let text = pieces.concat();
            let (whole, single) = (chunks(&[text.as_bytes()]), chunks(&text.as_bytes().chunks(size).collect::<Vec<_>>()));
            prop_assert_eq!((whole.0, whole.1), (single.0, single.1));
            prop_assert_eq!(whole.2.at, single.2.at);
        }
    }
}
