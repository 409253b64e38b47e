//! `GET /explain`: who would serve a request now, in what order, and why each other would not. Nothing is sent and
//! nothing changes.
//!
//! | in the query | means |
//! |---|---|
//! | `deployment` | by the name that callers use; empty for requests without one |
//! | `backend` | optional: then `deployment` is the name on that backend, as the status tells it |
//! | `bytes` | optional: the size of the request's body; a token is reckoned as four bytes |
//! | `max_tokens` | optional: as in a request; 0 |
//! | `lowest_priority` | optional: that of a caller who may not spill over beyond it |

use std::borrow::Cow;

use percent_encoding::percent_decode;
use serde::Serialize;

use crate::balance::{Explained, Explanation, Turn};
use crate::telemetry::text::{self, Place};

use super::backends::ms;

/// Of a usual chat request.
const BYTES: u64 = 4_000;
/// The longest name of a deployment.
const NAME: usize = 64;
const EXPECTED: &str = "expected e.g. /explain?deployment=gpt-4o&bytes=4000";

/// The request that is asked about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExplainAsk {
    /// Empty for requests without one.
    pub deployment: String,
    /// The deployment is by its name on this backend.
    pub backend: Option<String>,
    /// Size of its body.
    pub bytes: u64,
    /// Its limit for the answer.
    pub max_tokens: u64,
    /// The caller may not spill over beyond it.
    pub lowest_priority: Option<u32>,
}

impl ExplainAsk {
    /// A usual request for this deployment.
    #[must_use]
    pub fn of(deployment: &str) -> Self {
        let deployment = deployment.to_owned();
        Self { deployment, backend: None, bytes: BYTES, max_tokens: 0, lowest_priority: None }
    }

    /// Tokens that it would be charged, as far as sizes tell.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        (self.bytes / 4).saturating_add(self.max_tokens)
    }

    /// Reads a query; else what is wrong with it.
    pub(super) fn read(query: Option<&str>) -> Result<Self, String> {
        let mut ask = Self::of("");
        let mut seen: Vec<Cow<'_, str>> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name), decoded(value));
            if seen.contains(&name) {
                return Err(format!("{} is there twice", shown(&name)));
            }
            ask.take(&name, &value)?;
            seen.push(name);
        }
        if !seen.iter().any(|name| name == "deployment") {
            return Err(format!("deployment is missing; {EXPECTED}"));
        }
        Ok(ask)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        let wrong = |expected: &str| format!("{name}: expected {expected}, found {}", shown(value));
        match name {
            "deployment" => {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
                if value.len() > NAME || !value.bytes().all(plain) {
                    return Err(wrong("at most 64 letters, digits, dots, underscores and hyphens"));
                }
                value.clone_into(&mut self.deployment);
            }
            "backend" => self.backend = Some(value.to_owned()),
            "bytes" => self.bytes = value.parse().map_err(|_| wrong("a whole number"))?,
            "max_tokens" => self.max_tokens = value.parse().map_err(|_| wrong("a whole number"))?,
            "lowest_priority" => {
                self.lowest_priority = Some(value.parse().map_err(|_| wrong("a whole number"))?);
            }
            other => return Err(format!("{} is not known here; {EXPECTED}", shown(other))),
        }
        Ok(())
    }
}

/// As forms write it.
fn decoded(text: &str) -> Cow<'_, str> {
    let spaced = text.replace('+', " ");
    Cow::Owned(percent_decode(spaced.as_bytes()).decode_utf8_lossy().into_owned())
}

/// What came from outside, harmless and cut.
pub(super) fn shown(found: &str) -> String {
    let mut out = vec![b'`'];
    text::clean(&mut out, found, text::LONGEST, Place::Bare);
    out.push(b'`');
    String::from_utf8_lossy(&out).into_owned()
}

/// The answer. Fields are added, never renamed.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainDocument {
    /// As callers name it.
    pub deployment: String,
    /// What the request would be charged, as far as sizes tell.
    pub tokens: u64,
    /// It is in the settings or was served once; else its name may be an invention.
    pub known: bool,
    /// Some backend would take the request now.
    pub served: bool,
    /// Those that would serve first, in the order in which they would be tried, then the others.
    pub backends: Vec<ExplainedBackend>,
}

/// One backend of it.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedBackend {
    /// Its name.
    pub name: String,
    /// Lower is used first.
    pub priority: u32,
    /// `home` (never for a request without a history), `drawn`, `spillover`, `last` (only if no other has room) or `not`.
    pub turn: &'static str,
    /// Of one that is drawn: how likely, from 0 to 1.
    pub chance: Option<f64>,
    /// Of `last` and `not`: why.
    pub obstacle: Option<&'static str>,
    /// Until that is over, where it is known.
    pub remaining_ms: Option<u64>,
    /// The same in words.
    pub text: String,
}

impl ExplainDocument {
    /// The pool's explanation as it is told.
    #[must_use]
    pub fn new(deployment: &str, tokens: u64, explanation: &Explanation) -> Self {
        let backends: Vec<_> = explanation.backends.iter().map(ExplainedBackend::from).collect();
        Self {
            deployment: deployment.to_owned(),
            tokens,
            known: explanation.known,
            served: backends.iter().any(|backend| backend.turn != "not"),
            backends,
        }
    }
}

impl From<&Explained> for ExplainedBackend {
    fn from(explained: &Explained) -> Self {
        let obstacle = explained.turn.obstacle();
        Self {
            name: explained.name.to_string(),
            priority: explained.priority,
            turn: explained.turn.word(),
            chance: match explained.turn {
                Turn::Drawn { chance } => Some((chance * 1_000.0).round() / 1_000.0),
                Turn::Home | Turn::Spillover | Turn::Last(_) | Turn::Not(_) => None,
            },
            obstacle: obstacle.map(|obstacle| obstacle.word()),
            remaining_ms: obstacle.and_then(|obstacle| obstacle.remaining()).map(ms),
            text: explained.turn.to_string(),
        }
    }
}

/// What is said instead.
#[derive(Debug, Serialize)]
pub(super) struct ExplainProblem {
    pub(super) error: String,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::balance::Obstacle;

    use super::*;

    #[test]
    fn a_query_is_read_with_its_escapes_and_what_is_left_out_is_usual() {
        assert_eq!(ExplainAsk::read(Some("deployment=gpt-4o")), Ok(ExplainAsk::of("gpt-4o")));
        assert_eq!(ExplainAsk::of("gpt-4o").tokens(), 1_000);
        assert_eq!(ExplainAsk::read(Some("deployment=")), Ok(ExplainAsk::of("")));
        let all = "bytes=8001&deployment=gpt%2D4o&max_tokens=50&lowest_priority=2&backend=west+europe&";
        let ask = ExplainAsk::read(Some(all)).unwrap();
        let expected = ExplainAsk {
            deployment: "gpt-4o".into(),
            backend: Some("west europe".into()),
            bytes: 8_001,
            max_tokens: 50,
            lowest_priority: Some(2),
        };
        assert_eq!((ask.tokens(), ask), (2_050, expected));
    }

    #[test]
    fn each_bad_query_is_answered_with_what_is_wrong() {
        for (query, problem) in [
            ("", "deployment is missing; expected e.g. /explain?deployment=gpt-4o&bytes=4000"),
            ("bytes=4", "deployment is missing; expected e.g. /explain?deployment=gpt-4o&bytes=4000"),
            ("deployment=a&deployment=b", "`deployment` is there twice"),
            ("deployment=a&bytes=-1", "bytes: expected a whole number, found `-1`"),
            ("deployment=a&bytes=", "bytes: expected a whole number, found ``"),
            ("deployment=a&max_tokens=1e9", "max_tokens: expected a whole number, found `1e9`"),
            ("deployment=a&lowest_priority=x", "lowest_priority: expected a whole number, found `x`"),
            (
                "deployment=a%2Fb",
                "deployment: expected at most 64 letters, digits, dots, underscores and hyphens, found `a/b`",
            ),
            (
                "deployment=a&bite=1",
                "`bite` is not known here; expected e.g. /explain?deployment=gpt-4o&bytes=4000",
            ),
        ] {
            assert_eq!(ExplainAsk::read(Some(query)), Err(problem.to_owned()));
        }
        let evil = format!("deployment=%1b%5B2J{}", "x".repeat(900));
        let problem = ExplainAsk::read(Some(&evil)).unwrap_err();
        assert!(problem.contains(r"\u{1b}[2J") && problem.chars().count() < 320, "{problem}");
    }

    #[test]
    fn the_answer_has_exactly_the_agreed_fields() {
        let explained =
            |name: &str, priority, turn| Explained { backend: 0, name: name.into(), priority, turn };
        let remaining = Duration::from_micros(4_200_300);
        let explanation = Explanation {
            known: true,
            backends: vec![
                explained("west", 1, Turn::Drawn { chance: 0.666_66 }),
                explained("east", 1, Turn::Not(Obstacle::Cooling { remaining })),
            ],
        };
        let expected = serde_json::json!({"deployment": "gpt-4o", "tokens": 1000, "known": true, "served": true, "backends": [
            {"name": "west", "priority": 1, "turn": "drawn", "chance": 0.667, "obstacle": null, "remaining_ms": null,
                "text": "drawn with 67 %"},
            {"name": "east", "priority": 1, "turn": "not", "chance": null, "obstacle": "cooling", "remaining_ms": 4201,
                "text": "not now: cooling for 4.2 s"},
        ]});
        let document = ExplainDocument::new("gpt-4o", 1_000, &explanation);
        assert_eq!(serde_json::to_value(document).unwrap(), expected);
    }
}
