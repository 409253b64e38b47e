//! The `model` field of a `multipart/form-data` body (audio, image edits).

use std::ops::Range;

use bytes::Bytes;
use memchr::memmem;

use super::body::{BodyProblem, Name};

/// Longest header block of one part, in bytes; beyond it the part is not understood.
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

/// The field `model` of a whole multipart body. What is no multipart body has none.
///
/// # Errors
/// Two such fields.
pub fn multipart_model(body: &[u8], boundary: &str) -> Result<Option<Name>, BodyProblem> {
    let delimiter = format!("\r\n--{boundary}");
    let finder = memmem::Finder::new(delimiter.as_bytes());
    let mut found = None;
    let mut at = if body.starts_with(&delimiter.as_bytes()[2..]) {
        delimiter.len() - 2
    } else {
        match finder.find(body) {
            Some(start) => start + delimiter.len(),
            None => return Ok(None),
        }
    };
    while let Some(end) = finder.find(&body[at..]).map(|length| at + length) {
        if let Some(range) = model_part(body, at..end)? {
            let value = String::from_utf8_lossy(&body[range.clone()]).into_owned();
            if found.replace(Name { range, value }).is_some() {
                return Err(BodyProblem::TwoModels);
            }
        }
        at = end + delimiter.len();
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
    let text = &body[part.clone()];
    let head = &text[..text.len().min(HEADERS)];
    let Some(end) = memmem::find(head, b"\r\n\r\n") else { return Ok(None) };
    let mut is_model = false;
    for line in head[..end].split(|byte| *byte == b'\n') {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        if !line[..colon].trim_ascii().eq_ignore_ascii_case(b"content-disposition") {
            continue;
        }
        let rest = memchr::memchr(b';', line).and_then(|at| line.get(at + 1..)).unwrap_or_default();
        let name = parameter(rest, "name").map_err(|()| BodyProblem::TwoModels)?;
        is_model |= name.is_some_and(|name| name.eq_ignore_ascii_case(b"model"));
    }
    Ok(is_model.then_some(part.start + end + 4..part.end))
}

/// One parameter of `a=b; c="d"`; an error if it is given twice.
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
        if key.eq_ignore_ascii_case(wanted.as_bytes()) && found.replace(value).is_some() {
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
    fn two_fields_or_two_names_are_a_problem() {
        let two = BODY
            .replace("--xyz--", "--xyz\r\ncontent-disposition: form-data; name=Model\r\n\r\nb\r\n--xyz--");
        assert_eq!(multipart_model(two.as_bytes(), "xyz"), Err(BodyProblem::TwoModels));
        let doubled = BODY.replace("name=\"model\"", "name=\"x\"; name=\"model\"");
        assert_eq!(multipart_model(doubled.as_bytes(), "xyz"), Err(BodyProblem::TwoModels));
    }

    #[test]
    fn a_body_without_the_field_has_no_model() {
        for body in [
            "",
            "--xyz",
            "--xyz--",
            "RIFF",
            "--xyz\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ncut",
        ] {
            assert_eq!(multipart_model(body.as_bytes(), "xyz"), Ok(None), "{body:?}");
        }
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
        fn no_body_panics(body in "(--b|--|\r\n|Content-Disposition:|;|name=|\"|model|\\\\|\\PC){0,30}") {
            let _ = multipart_model(body.as_bytes(), "b");
            let _ = multipart_boundary(&body);
        }
    }
}
