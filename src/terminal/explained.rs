//! The answer to `GET /explain` as this room reads it; as tolerant and as careful as [`super::status`].

use serde::Deserialize;

use super::status::{BACKENDS_SHOWN, count, flag, maybe_count, or_default, text};

/// Who would serve a request for one deployment, in order, then who would not.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Explained {
    /// As callers name it.
    #[serde(deserialize_with = "text")]
    pub deployment: String,
    /// What the request would be charged.
    #[serde(deserialize_with = "count")]
    pub tokens: u64,
    /// Some backend would take it now.
    #[serde(deserialize_with = "flag")]
    pub served: bool,
    /// Every backend.
    #[serde(deserialize_with = "or_default")]
    pub backends: Vec<ExplainedBackend>,
}

/// One backend of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ExplainedBackend {
    /// Its name.
    #[serde(deserialize_with = "text")]
    pub name: String,
    /// Priority group.
    #[serde(deserialize_with = "count")]
    pub priority: u64,
    /// `home`, `drawn`, `spillover`, `last` or `not`.
    #[serde(deserialize_with = "text")]
    pub turn: String,
    /// What keeps the request away.
    #[serde(deserialize_with = "text")]
    pub obstacle: String,
    /// Milliseconds until that is over.
    #[serde(deserialize_with = "maybe_count")]
    pub remaining_ms: Option<u64>,
    /// All of it in words.
    #[serde(deserialize_with = "text")]
    pub text: String,
}

impl Explained {
    /// Reads a document.
    ///
    /// # Errors
    /// A short sentence, when the bytes are not a JSON object.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut explained: Self =
            serde_json::from_slice(bytes).map_err(|_| "the answer is no explanation".to_owned())?;
        explained.backends.truncate(BACKENDS_SHOWN);
        Ok(explained)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_is_read_tolerantly_made_harmless_and_cut() {
        let backends = vec![r#"{"name":"a\u001b[2J","turn":7,"text":"x\ny"}"#; BACKENDS_SHOWN + 3].join(",");
        let read = Explained::parse(format!(r#"{{"later":1,"backends":[{backends}]}}"#).as_bytes()).unwrap();
        assert_eq!(read.backends.len(), BACKENDS_SHOWN);
        let first = &read.backends[0];
        assert_eq!((first.name.as_str(), first.turn.as_str()), (r"a\u{1b}[2J", ""));
        assert_eq!(first.text, r"x\ny");
        assert_eq!(Explained::parse(b"<html>").unwrap_err(), "the answer is no explanation");
    }
}
