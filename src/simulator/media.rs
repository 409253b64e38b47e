//! Sounds and pictures: transcription and translation of uploads, speech, images made and edited. The answers have
//! the form of the real ones; the picture is one dot, the sound is silence.

use bytes::Bytes;
use http::{Method, StatusCode};
use memchr::memmem;
use serde_json::json;

use super::errors;
use super::reply::Outcome;
use super::resource::{Call, Resource};

/// A PNG of one dot, in base64.
const DOT: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

/// What is asked of a model that hears, speaks or paints.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Media {
    /// Text from a sound, in its language or in English.
    Text,
    Speech,
    Image,
    ImageEdit,
}

impl Media {
    /// Understands a path, given after `/openai` and `v1` or `deployments/{name}`.
    pub(super) fn of(method: &Method, rest: &[&str]) -> Option<Self> {
        match (method, rest) {
            (&Method::POST, ["audio", "transcriptions" | "translations"]) => Some(Self::Text),
            (&Method::POST, ["audio", "speech"]) => Some(Self::Speech),
            (&Method::POST, ["images", "generations"]) => Some(Self::Image),
            (&Method::POST, ["images", "edits"]) => Some(Self::ImageEdit),
            _ => None,
        }
    }

    /// Whether the body is a form with an upload.
    fn takes_form(self) -> bool {
        matches!(self, Self::Text | Self::ImageEdit)
    }
}

/// A field of a `multipart/form-data` body, if it is there and text.
pub(super) fn field<'a>(body: &'a [u8], name: &str) -> Option<&'a str> {
    let begin = format!("name=\"{name}\"");
    let part = &body[memmem::find(body, begin.as_bytes())? + begin.len()..];
    let value = &part[memmem::find(part, b"\r\n\r\n")? + 4..];
    std::str::from_utf8(&value[..memmem::find(value, b"\r\n--")?]).ok()
}

impl Resource {
    /// What such a request comes to; quotas are not counted here.
    pub(super) fn media(&self, media: Media, call: &Call) -> Outcome {
        let Some(name) = &call.deployment else {
            let problem = errors::invalid("'model' is a required property", None);
            return Outcome::error(StatusCode::BAD_REQUEST, problem);
        };
        if !self.settings.deployments.contains_key(name) {
            let v1 = call.route.as_ref().is_some_and(|route| route.api_version.is_empty());
            return Outcome::error(StatusCode::NOT_FOUND, errors::deployment_not_found(v1));
        }
        let upload = if media == Media::ImageEdit { "image" } else { "file" };
        let uploaded = memmem::find(&call.body, format!("name=\"{upload}").as_bytes()).is_some();
        if media.takes_form() && !uploaded {
            let problem = errors::invalid(&format!("'{upload}' is a required property"), None);
            return Outcome::error(StatusCode::BAD_REQUEST, problem);
        }
        match media {
            Media::Text => {
                let text = format!("heard in {}", self.name());
                Outcome::json(
                    json!({ "text": text, "usage": { "type": "duration", "seconds": 1 } }).to_string(),
                )
            }
            Media::Speech => Outcome::json(Bytes::from_static(&[0; 64])),
            Media::Image | Media::ImageEdit => Outcome::json(
                json!({ "created": self.clock.unix, "data": [{ "b64_json": DOT, "revised_prompt": "a dot" }],
                    "usage": { "input_tokens": 3, "output_tokens": 5, "total_tokens": 8,
                        "input_tokens_details": { "text_tokens": 3, "image_tokens": 0 } } })
                .to_string(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_a_form_is_found_between_its_head_and_the_next_part() {
        let body = b"--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--x\r\n\
            Content-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n\xff\xfe\r\n--x--\r\n";
        assert_eq!(field(body, "model"), Some("whisper"));
        assert_eq!(field(body, "file"), None, "it is no text");
        assert_eq!(field(body, "prompt"), None);
    }
}
