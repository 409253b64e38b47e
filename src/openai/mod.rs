//! What we know of the OpenAI and Azure OpenAI API. PURE: no I/O, no clock, no threads, nothing of ours.
//!
//! Owns: paths and what they become upstream (`path`, `query`), what an operation is and whether repeating
//! it doubles anything (`operations`), the few top-level keys of a JSON request that steer us (`body`,
//! `multipart`), which conversation it belongs to (`conversation`), objects that live on one backend (`objects`, `ids`),
//! token counts in passing answers (`usage`), the events of a stream (`sse`) and the form of our own errors (`errors`).
//! Does not: choose a backend, judge an answer, check who may call, add credentials.
//!
//! Bodies are scanned, never parsed into a tree and never re-serialised: prompts are megabytes, the keys we
//! need are few, and every byte we do not understand must arrive as it was sent. What comes from outside can
//! be anything: no input panics, nothing recurses, every buffer has a cap.
//!
//! Where a lenient reader behind us could see something else than we do (case, escapes, doubled keys), we
//! refuse to guess: a deployment name that steers permissions must mean the same here and there.

mod body;
mod conversation;
pub mod errors;
mod ids;
mod json;
mod multipart;
mod objects;
mod operations;
mod path;
mod query;
mod sse;
mod usage;

pub use body::{BodyProblem, BodyScan, Name, ServiceTier, replace_model, scan};
pub use ids::{IdScanner, Told, named_in_body, named_in_query};
pub use multipart::{multipart_boundary, multipart_model, replace_multipart_model};
pub use objects::{PathObject, named_in_path, says_not_found};
pub use operations::{Api, BodyKind, FAMILIES, Harmless, Operation};
pub use path::{PathProblem, Route, is_deployment_name, route, strip_prefix};
pub use query::api_key as query_api_key;
pub use sse::{Ending, ErrorClass, EventKind, EventScanner, LONGEST_EVENT, StreamError};
pub use usage::{Usage, UsageScanner};
