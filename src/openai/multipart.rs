//! The `model` field of a `multipart/form-data` body (audio, image edits).
//!
//! Strict where lenient readers might find another field than we do: bare line feeds before a boundary, parts
//! without an end of their headers and doubled names are refused, so that no name slips past the permissions.

use std::ops::Range;

use bytes::Bytes;
use memchr::memmem;

use super::body::{BodyProblem, Name};

/// Longest header block of one part, in bytes.
const HEADERS: usize = 8 * 1024;

/// The boundary in a `content-type`, if that is `multipart/form-data`.
pub fn multipart_boundary(content_type: &str) -> Option<String> {
    let (kind, rest) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let value = parameter(rest.as_bytes(), "boundary").ok()??;
    String::from_utf8(value).ok().filter(|boundary| (1..=70).contains(&boundary.len()))
}

/// The field `model` of a whole multipart body.
///
/// # Errors
/// Two such fields, and whatever readers might take in different ways.
pub fn multipart_model(body: &[u8], boundary: &str) -> Result<Option<Name>, BodyProblem> {
    let delimiter = format!("\n--{boundary}");
    let finder = memmem::Finder::new(delimiter.as_bytes());
    let mut found = None;
    let mut part = body.starts_with(&delimiter.as_bytes()[1..]).then_some(delimiter.len() - 1);
    for end in finder.find_iter(body) {
        if end == 0 || body[end - 1] != b'\r' {
            return Err(BodyProblem::Parts);
        }
        if let Some(start) = part
            && let Some(range) = model_part(body, start..end - 1)?
        {
            let value = String::from_utf8_lossy(&body[range.clone()]).into_owned();
            if found.replace(Name { range, value }).is_some() {
                return Err(BodyProblem::TwoModels);
            }
        }
        part = Some(end + delimiter.len());
    }
    Ok(found)
}

/// The body with another name in place of the one at `range`, every other byte as sent.
///
/// # Panics
/// If `range` is not within the body: it must come from [`multipart_model`] of this very body.
pub fn replace_multipart_model(body: &Bytes, range: Range<usize>, new_name: &str) -> [Bytes; 3] {
    [body.slice(..range.start), Bytes::copy_from_slice(new_name.as_bytes()), body.slice(range.end..)]
}

/// The content of the part between two delimiters, if its field is `model`.
fn model_part(body: &[u8], part: Range<usize>) -> Result<Option<Range<usize>>, BodyProblem> {
    let text = body.get(part.clone()).ok_or(BodyProblem::Parts)?;
    let head = &text[..text.len().min(HEADERS)];
    let end = memmem::find(head, b"\r\n\r\n").ok_or(BodyProblem::Parts)?;
    let mut is_model = false;
    for line in head[..end].split(|byte| *byte == b'\n') {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        if !line[..colon].trim_ascii().eq_ignore_ascii_case(b"content-disposition") {
            continue;
        }
        let rest = memchr::memchr(b';', line).and_then(|at| line.get(at + 1..)).unwrap_or_default();
        let name = parameter(rest, "name").map_err(|()| BodyProblem::Parts)?;
        is_model |= name.is_some_and(|name| name.eq_ignore_ascii_case(b"model"));
    }
    Ok(is_model.then_some(part.start + end + 4..part.end))
}

/// One parameter of `a=b; c="d"`; an error if it is given twice, or in the extended form `a*=`.
fn parameter(text: &[u8], wanted: &str) -> Result<Option<Vec<u8>>, ()> {
    let mut rest = text.trim_ascii();
    let mut found = None;
    while !rest.is_empty() {
        let key_end = memchr::memchr2(b'=', b';', rest).unwrap_or(rest.len());
        let key = rest[..key_end].trim_ascii();
        let (value, after) = match rest.get(key_end) {
            Some(b'=') => value(&rest[key_end + 1..]),
            _ => (Vec::new(), &rest[key_end..]),
        };
        let (key, extended) = key.strip_suffix(b"*").map_or((key, false), |key| (key, true));
        if key.eq_ignore_ascii_case(wanted.as_bytes()) && (extended || found.replace(value).is_some()) {
            return Err(());
        }
        rest = memchr::memchr(b';', after).map_or(&[][..], |at| after[at + 1..].trim_ascii());
    }
    Ok(found)
}

fn value(text: &[u8]) -> (Vec<u8>, &[u8]) {
    let text = text.trim_ascii_start();
    if text.first() != Some(&b'"') {
        let end = memchr::memchr(b';', text).unwrap_or(text.len());
        return (text[..end].trim_ascii().to_vec(), &text[end..]);
    }
    let mut value = Vec::new();
    let mut bytes = text.iter().enumerate().skip(1);
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return (value, &text[at + 1..]),
            b'\\' => value.extend(bytes.next().map(|(_, byte)| *byte)),
            byte => value.push(*byte),
        }
    }
    (value, &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BODY: &str = "--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a; name=\\\"model\\\".wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n--xy\r\n\r\n--xyz\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--xyz--\r\n";

    #[test]
    fn the_model_field_is_found_and_replaced_in_place() {
        let name = multipart_model(BODY.as_bytes(), "xyz").unwrap().unwrap();
        assert_eq!(name.value, "whisper");
        let pieces = replace_multipart_model(&Bytes::from_static(BODY.as_bytes()), name.range, "w-2");
        assert_eq!(pieces.concat(), BODY.replace("whisper", "w-2").as_bytes());
        let unquoted = BODY.replace("name=\"model\"", "NAME=model ;x");
        assert_eq!(multipart_model(unquoted.as_bytes(), "xyz").unwrap().unwrap().value, "whisper");
    }

    #[test]
    fn two_fields_are_a_problem() {
        let two = BODY
            .replace("--xyz--", "--xyz\r\ncontent-disposition: form-data; name=Model\r\n\r\nb\r\n--xyz--");
        assert_eq!(multipart_model(two.as_bytes(), "xyz"), Err(BodyProblem::TwoModels));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let hidden = "\n--xyz\nContent-Disposition: form-data; name=\"model\"\n\nhidden";
        for body in [
            BODY.replace("name=\"model\"", "name=\"x\"; name=\"model\""),
            BODY.replace("name=\"model\"", "name*=utf-8''model"),
            BODY.replace("RIFF", hidden),
            BODY.replace("name=\"model\"\r\n", "name=\"model\""),
            BODY.replace("name=\"model\"", &format!("name=\"model\"\r\nX: {}", "a".repeat(HEADERS))),
        ] {
            assert_eq!(multipart_model(body.as_bytes(), "xyz"), Err(BodyProblem::Parts), "{body:?}");
        }
    }

    #[test]
    fn a_body_without_the_field_has_no_model() {
        let cut = "--xyz\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ncut";
        for body in ["", "--xyz", "--xyz--", "RIFF", cut] {
            assert_eq!(multipart_model(body.as_bytes(), "xyz"), Ok(None), "{body:?}");
        }
        let preamble = format!("preamble\r\n{BODY}epilogue");
        assert_eq!(multipart_model(preamble.as_bytes(), "xyz").unwrap().unwrap().value, "whisper");
    }

    #[test]
    fn the_boundary_is_read_from_the_content_type() {
        assert_eq!(multipart_boundary("multipart/form-data; boundary=xyz").as_deref(), Some("xyz"));
        assert_eq!(multipart_boundary("Multipart/Form-Data; a=b; Boundary=\"x y\"").as_deref(), Some("x y"));
        for other in [
            "application/json",
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=a; boundary=b",
            "multipart/mixed; boundary=a",
        ] {
            assert_eq!(multipart_boundary(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(body in "(--b|--|\r\n|\n|Content-Disposition:|;|name=|\"|model|\\\\|\\PC){0,30}") {
            let _ = multipart_model(body.as_bytes(), "b");
            let _ = multipart_boundary(&body);
        }
    }
}
