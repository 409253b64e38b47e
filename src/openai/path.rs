//! The path of a request: what we let through, what it becomes upstream, which deployment it names.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use http::{Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::operations::{BodyKind, Operation, classify, same};
use super::query;

/// First segments that may stand without `/openai/v1` before them: clients whose base address is ours alone.
const BARE: [&str; 24] = [
    "responses",
    "chat",
    "embeddings",
    "completions",
    "images",
    "audio",
    "models",
    "files",
    "batches",
    "moderations",
    "realtime",
    "vector_stores",
    "assistants",
    "threads",
    "conversations",
    "fine_tuning",
    "evals",
    "containers",
    "uploads",
    "videos",
    "video",
    "fine-tunes",
    "skills",
    "agents",
];

/// What else stands in paths of the API.
const WORDS: [&str; 37] = [
    "openai",
    "v1",
    "deployments",
    "completions",
    "messages",
    "input_items",
    "input_tokens",
    "compact",
    "cancel",
    "generations",
    "edits",
    "variations",
    "speech",
    "transcriptions",
    "translations",
    "content",
    "parts",
    "complete",
    "search",
    "file_batches",
    "runs",
    "steps",
    "submit_tool_outputs",
    "items",
    "calls",
    "client_secrets",
    "sessions",
    "transcription_sessions",
    "jobs",
    "events",
    "checkpoints",
    "permissions",
    "pause",
    "resume",
    "output_items",
    "remix",
    "api",
];

/// No path of the API has more.
const MOST_SEGMENTS: usize = 12;

/// Longest deployment name, in characters (Azure's own limit).
const DEPLOYMENT_LENGTH: usize = 64;

/// What stays as it is when a name is put into a path or query.
pub(super) const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b'-').remove(b'~');

/// Why a path is not let through. The texts are fixed and fit for callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    /// Dot segments, encoded slashes, backslashes, control characters, broken escapes, no origin-form.
    #[error("the path contains characters or segments that are not allowed")]
    Malformed,
    /// The name of the deployment is none.
    #[error("the deployment name is not valid")]
    Deployment,
    /// The query names two different deployments, or one that is no name.
    #[error("the query does not name one valid deployment")]
    Query,
    /// No such path here.
    #[error("resource not found")]
    NotFound,
}

impl PathProblem {
    /// 404 for a path that we do not know, else 400.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed | Self::Deployment | Self::Query => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
        }
    }
}

/// Where a request goes, whatever the backend. Borrows from the request's target.
#[derive(Clone)]
pub struct Route<'a> {
    /// What it asks for.
    pub operation: Operation,
    /// The deployment that the path names, unescaped; it wins over body and query.
    pub deployment: Option<Cow<'a, str>>,
    /// The deployment that the query names, unescaped; looked at only if neither path nor body names one.
    pub query_deployment: Option<Cow<'a, str>>,
    /// Put before the path for the upstream.
    added: &'static str,
    /// As sent, repeated slashes collapsed.
    path: Cow<'a, str>,
    deployment_at: Option<Range<usize>>,
    rest_at: usize,
    query: Option<&'a str>,
}

impl fmt::Debug for Route<'_> {
    /// Without the query, which may hold the caller's key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("operation", &self.operation)
            .field("deployment", &self.deployment)
            .field("query_deployment", &self.query_deployment)
            .field("upstream_path", &self.upstream_path(None))
            .finish_non_exhaustive()
    }
}

impl Route<'_> {
    /// The path for a backend; `deployment_there` is given only if the name differs from the caller's.
    /// It replaces the path's deployment segment, if there is one. Borrowed unless something changes.
    pub fn upstream_path(&self, deployment_there: Option<&str>) -> Cow<'_, str> {
        match (&self.deployment_at, deployment_there) {
            (Some(at), Some(name)) => {
                let name = utf8_percent_encode(name, NAME);
                Cow::Owned(format!("{}{}{name}{}", self.added, &self.path[..at.start], &self.path[at.end..]))
            }
            _ if self.added.is_empty() => Cow::Borrowed(&self.path),
            _ => Cow::Owned([self.added, &self.path].concat()),
        }
    }

    /// The query for a backend: without the caller's key, and with `deployment_there` in place of the
    /// deployment, if the query is what names it (nothing is replaced if the path does). `None` if nothing is left.
    pub fn upstream_query(&self, deployment_there: Option<&str>) -> Option<Cow<'_, str>> {
        let deployment_there = deployment_there.filter(|_| self.query_deployment.is_some());
        query::upstream(self.query?, deployment_there)
    }

    /// The path as it would stand in a list of paths: what is no word of the API is `{deployment}` or `{id}`.
    pub fn template(&self) -> String {
        let mut template = String::from(self.added);
        let mut at = 0;
        for count in 0.. {
            let segment = segment(&self.path, at);
            if segment.is_empty() {
                break;
            }
            at = segment.end;
            let word = &self.path[segment.clone()];
            template.push('/');
            template.push_str(match &self.deployment_at {
                _ if count == MOST_SEGMENTS => "…",
                Some(deployment) if *deployment == segment => "{deployment}",
                _ if is_word(word) => word,
                _ => "{id}",
            });
            if count == MOST_SEGMENTS {
                break;
            }
        }
        template
    }

    /// The path after `/openai`, `v1` and `deployments/{d}`, as sent: `/responses/resp_1/cancel`.
    pub fn rest(&self) -> &str {
        &self.path[self.rest_at..]
    }
}

/// Understands a request's target in origin-form; a `path_prefix` is already stripped.
///
/// # Errors
/// What must not travel (400) and what we do not know (404).
pub fn route<'a>(method: &Method, path: &'a str, query: Option<&'a str>) -> Result<Route<'a>, PathProblem> {
    guard(path)?;
    let path = collapse(path);
    let first = segment(&path, 0);
    let (added, mut at) = if same(&path[first.clone()], "openai") {
        let second = segment(&path, first.end);
        ("", if same(&path[second.clone()], "v1") { second.end } else { first.end })
    } else if same(&path[first.clone()], "v1") {
        ("/openai", first.end)
    } else if is_foundry(&path, &first) {
        ("", first.end)
    } else {
        known_bare(&path, &first)?;
        ("/openai/v1", 0)
    };
    let mut deployment_at = None;
    let next = segment(&path, at);
    if same(&path[next.clone()], "deployments") {
        let name = segment(&path, next.end);
        if !name.is_empty() {
            at = name.end;
            deployment_at = Some(name);
        }
    }
    let rest = &path[at..];
    if deployment_at.is_none() && rest.trim_matches('/').is_empty() {
        return Err(PathProblem::NotFound);
    }
    let deployment = deployment_at.as_ref().map(|at| deployment(&path, at.clone())).transpose()?;
    let operation = if deployment_at.is_some() && rest.trim_matches('/').is_empty() {
        classify(method, "deployments")
    } else {
        classify(method, rest)
    };
    let query_deployment = match (&deployment, query) {
        (None, Some(query)) => query_deployment(&operation, query)?,
        _ => None,
    };
    Ok(Route { operation, deployment, query_deployment, added, deployment_at, rest_at: at, query, path })
}

/// The path without a prefix of whole segments, or `None` if it does not begin so. Repeated slashes count as one.
pub fn strip_prefix<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let mut rest = path;
    for expected in prefix.split('/').filter(|segment| !segment.is_empty()) {
        let after = rest.trim_start_matches('/').strip_prefix(expected)?;
        if after.len() == rest.len()
            || !(after.is_empty() || after.starts_with('/'))
            || !rest.starts_with('/')
        {
            return None;
        }
        rest = after;
    }
    Some(if rest.is_empty() { "/" } else { rest })
}

/// Whether a name, unescaped, can be a deployment's.
pub fn is_deployment_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty()
        && name.len() <= DEPLOYMENT_LENGTH
        && name.bytes().all(plain)
        && !matches!(name, "." | "..")
}

fn is_word(segment: &str) -> bool {
    BARE.contains(&segment) || WORDS.contains(&segment)
}

/// Refuses what a service behind us might read in another way than we do.
fn guard(path: &str) -> Result<(), PathProblem> {
    if !path.starts_with('/') {
        return Err(PathProblem::Malformed);
    }
    let bytes = path.as_bytes();
    let mut at = 0;
    let mut dubious = false;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'%' => {
                let hex = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
                let (Some(high), Some(low)) = (hex(at + 1), hex(at + 2)) else {
                    return Err(PathProblem::Malformed);
                };
                // An encoded percent sign is the first half of a double encoding; `;` begins path parameters,
                // which some servers cut off. No name has either.
                if matches!(high * 16 + low, 0..=0x1f | 0x25 | 0x2f | 0x3b | 0x5c | 0x7f) {
                    return Err(PathProblem::Malformed);
                }
                dubious = true;
                at += 3;
            }
            0..=0x20 | 0x7f.. | b'\\' | b'?' | b'#' | b';' => return Err(PathProblem::Malformed),
            _ => {
                dubious |= *byte == b'.' && bytes[at - 1] == b'/';
                at += 1;
            }
        }
    }
    let dots = |segment: &str| same(segment, ".") || same(segment, "..");
    if dubious && path.split('/').any(dots) { Err(PathProblem::Malformed) } else { Ok(()) }
}

fn collapse(path: &str) -> Cow<'_, str> {
    if !path.as_bytes().windows(2).any(|two| two == b"//") {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len());
    for char in path.chars() {
        if char != '/' || !out.ends_with('/') {
            out.push(char);
        }
    }
    Cow::Owned(out)
}

/// The segment after the slash at `from`; empty at the end of the path.
fn segment(path: &str, from: usize) -> Range<usize> {
    let start = (from + 1).min(path.len());
    let end = memchr::memchr(b'/', &path.as_bytes()[start..]).map_or(path.len(), |length| start + length);
    start..end
}

/// `/models/chat/completions` and the like: the inference paths of a Foundry resource, which stay as they are.
fn is_foundry(path: &str, first: &Range<usize>) -> bool {
    let (second, third) = (segment(path, first.end), segment(path, segment(path, first.end).end));
    let [second, third] = [second, third].map(|at| &path[at]);
    let images = same(second, "images") && same(third, "embeddings");
    let known =
        (same(second, "chat") && same(third, "completions")) || (same(second, "embeddings") || images);
    same(&path[first.clone()], "models") && known
}

fn known_bare(path: &str, first: &Range<usize>) -> Result<(), PathProblem> {
    let name = &path[first.clone()];
    let second = &path[segment(path, first.end)];
    if !BARE.iter().any(|word| same(name, word)) {
        return Err(PathProblem::NotFound);
    }
    let known = match () {
        () if same(name, "chat") => same(second, "completions"),
        () if same(name, "images") || same(name, "audio") => !second.is_empty(),
        () => true,
    };
    if known { Ok(()) } else { Err(PathProblem::NotFound) }
}

fn deployment<'a>(path: &Cow<'a, str>, at: Range<usize>) -> Result<Cow<'a, str>, PathProblem> {
    let name = match path {
        Cow::Borrowed(path) => percent_decode_str(&path[at]).decode_utf8(),
        Cow::Owned(path) => {
            percent_decode_str(&path[at]).decode_utf8().map(|name| Cow::Owned(name.into_owned()))
        }
    };
    name.ok().filter(|name| is_deployment_name(name)).ok_or(PathProblem::Deployment)
}

/// A body may still name the deployment of other operations, then the query means nothing: only where it alone
/// decides must it be beyond doubt.
fn query_deployment<'a>(operation: &Operation, query: &'a str) -> Result<Option<Cow<'a, str>>, PathProblem> {
    let decides = operation.body == BodyKind::None && matches!(operation.family, "realtime" | "responses");
    match query::deployment(query) {
        Ok(found) => Ok(found),
        Err(()) if decides => Err(PathProblem::Query),
        Err(()) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(path: &str) -> Result<Route<'_>, PathProblem> {
        route(&Method::POST, path, None)
    }

    /// azure-openai.md 2.1, the clients' request lines as measured: path, deployment or `-`, the path with
    /// another deployment (`=`: the same), operation.
    const MEASURED: &str = "
        /openai/deployments/gpt-4o/chat/completions gpt-4o /openai/deployments/D2/chat/completions chat
        //openai/deployments/gpt-4o/chat/completions gpt-4o /openai/deployments/D2/chat/completions chat
        /openai/deployments/emb/embeddings emb /openai/deployments/D2/embeddings embeddings
        /openai/deployments/d/completions d /openai/deployments/D2/completions completions
        /openai/deployments/d/images/generations d /openai/deployments/D2/images/generations images.generations
        /openai/deployments/d/images/edits d /openai/deployments/D2/images/edits images.edits
        /openai/deployments/d/audio/transcriptions d /openai/deployments/D2/audio/transcriptions audio.transcriptions
        /openai/deployments/d/audio/translations d /openai/deployments/D2/audio/translations audio.translations
        /openai/deployments/d/audio/speech d /openai/deployments/D2/audio/speech audio.speech
        /openai/responses - = responses
        /openai/responses/resp_1 - = responses.stored
        /openai/responses/resp_1/cancel - = responses.stored
        /openai/models - = models
        /openai/files - = files
        /openai/batches - = batches
        /openai/threads - = threads
        /openai/assistants - = assistants
        /openai/vector_stores - = vector_stores
        /openai/moderations - = moderations
        /openai/deployments/d/batches d /openai/deployments/D2/batches batches
        /openai/v1/deployments/d/chat/completions d /openai/v1/deployments/D2/chat/completions chat
        /openai/v1/responses - = responses
        /openai/v1/chat/completions - = chat
        /openai/v1/embeddings - = embeddings
        /openai/v1/audio/transcriptions - = audio.transcriptions
        /openai/v1/models/gpt-4o - = models
        /openai/v1/responses/resp_1/input_items - = responses.stored
        /responses - /openai/v1/responses responses
        /chat/completions - /openai/v1/chat/completions chat
        /embeddings - /openai/v1/embeddings embeddings
        /v1/chat/completions - /openai/v1/chat/completions chat
        /v1/deployments/d/chat/completions d /openai/v1/deployments/D2/chat/completions chat
        /openai/realtime - = realtime
        /openai/v1/realtime - = realtime
        /openai/deployments - = models
        /openai/deployments/d d /openai/deployments/D2 models
        /models/chat/completions - = chat
        /models/embeddings - = embeddings
        /models - /openai/v1/models models
        /openai/v1/brand_new - = other
    ";

    #[test]
    fn every_measured_client_is_understood() {
        let rows: Vec<&str> = MEASURED.lines().map(str::trim).filter(|row| !row.is_empty()).collect();
        assert_eq!(rows.len(), 40);
        for row in rows {
            let mut words = row.split(' ');
            let [path, deployment, there, name] = [(); 4].map(|()| words.next().unwrap());
            let route = at(path).unwrap_or_else(|problem| panic!("{path}: {problem}"));
            assert_eq!(route.deployment.as_deref().unwrap_or("-"), deployment, "{path}");
            assert_eq!(route.upstream_path(Some("D2")), if there == "=" { path } else { there }, "{path}");
            assert_eq!(route.operation.name, name, "{path}");
        }
    }

    #[test]
    fn every_bare_path_goes_to_v1() {
        for word in BARE {
            let path = match word {
                "chat" => "/chat/completions".to_owned(),
                "images" => "/images/generations".to_owned(),
                "audio" => "/audio/speech".to_owned(),
                word => format!("/{word}"),
            };
            assert_eq!(at(&path).unwrap().upstream_path(None), format!("/openai/v1{path}"));
            assert_eq!(at(&format!("/v1{path}")).unwrap().upstream_path(None), format!("/openai/v1{path}"));
        }
    }

    #[test]
    fn a_deployment_called_chat_is_replaced_once_only() {
        let route = at("/openai/deployments/chat/chat/completions").unwrap();
        assert_eq!(route.upstream_path(Some("X")), "/openai/deployments/X/chat/completions");
        let route = at("/openai/deployments/openai/chat/completions").unwrap();
        assert_eq!(route.upstream_path(Some("X y")), "/openai/deployments/X%20y/chat/completions");
    }

    #[test]
    fn the_template_of_a_path_holds_words_of_the_api_alone() {
        for (path, template) in [
            (
                "/openai/deployments/gpt-4o/chat/completions",
                "/openai/deployments/{deployment}/chat/completions",
            ),
            (
                "/openai/deployments/chat/chat/completions",
                "/openai/deployments/{deployment}/chat/completions",
            ),
            ("/chat/completions", "/openai/v1/chat/completions"),
            ("/v1/responses/resp_1/cancel", "/openai/v1/responses/{id}/cancel"),
            ("/openai/v1/files/a-secret/content/", "/openai/v1/files/{id}/content"),
            ("/openai/brand_new", "/openai/{id}"),
        ] {
            assert_eq!(at(path).unwrap().template(), template, "{path}");
        }
        let long = at(&format!("/openai{}", "/x".repeat(1_000))).unwrap().template();
        assert_eq!(long, format!("/openai{}/…", "/{id}".repeat(11)));
    }

    #[test]
    fn an_unchanged_path_is_not_copied() {
        let route = at("/openai/deployments/gpt-4o/chat/completions").unwrap();
        assert!(matches!(
            route.upstream_path(None),
            Cow::Borrowed("/openai/deployments/gpt-4o/chat/completions")
        ));
        assert!(matches!(route.deployment, Some(Cow::Borrowed("gpt-4o"))));
        assert_eq!(route.rest(), "/chat/completions");
        assert_eq!(at("/responses/resp_1").unwrap().rest(), "/responses/resp_1");
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for path in [
            "",
            "*",
            "openai/v1/responses",
            "http://h/openai/v1/responses",
            "/openai/v1/../responses",
            "/openai/v1/./responses",
            "/openai/v1/%2e%2e/responses",
            "/openai/v1/.%2E/x",
            "/openai/v1/%2e/x",
            "/openai/v1/..",
            "/openai/v1/..;a/x",
            "/openai/deployments;a/secret/x",
            "/openai/v1/%2e%2e%3bx/y",
            "/openai/deployments/a%2fb/chat/completions",
            "/openai/deployments/a%5Cb/x",
            "/openai\\v1/responses",
            "/openai/v1/responses%00",
            "/openai/v1/a%0d%0ab",
            "/openai/v1/a%7f",
            "/openai/v1/a\u{1}",
            "/openai/v1/a b",
            "/openai/v1/%",
            "/openai/v1/%2",
            "/openai/v1/%zz",
            "/openai/v1/%252e%252e/x",
            "/openai/v1/é",
            "/openai/v1/x?y",
            "/openai/v1/x#y",
            "/openai/deployments/../chat/completions",
        ] {
            assert_eq!(at(path).err(), Some(PathProblem::Malformed), "{path:?}");
            assert_eq!(PathProblem::Malformed.status(), 400);
        }
    }

    #[test]
    fn what_we_do_not_know_is_not_found() {
        for path in [
            "/",
            "//",
            "/openai",
            "/openai/",
            "/openai/v1",
            "/openai/v1/",
            "/v1",
            "/foo",
            "/healthz",
            "/openaix/v1/responses",
            "/chat",
            "/chat/x",
            "/images",
            "/audio/",
            "/v2/responses",
        ] {
            assert_eq!(at(path).err(), Some(PathProblem::NotFound), "{path:?}");
        }
        assert_eq!(PathProblem::NotFound.status(), 404);
    }

    #[test]
    fn deployment_names_are_unescaped_and_checked() {
        let route = at("/openai/deployments/gpt%2D4o/chat/completions").unwrap();
        assert_eq!(route.deployment.as_deref(), Some("gpt-4o"));
        assert_eq!(route.upstream_path(None), "/openai/deployments/gpt%2D4o/chat/completions");
        for name in ["a%20b", "a:b", "%C3%A9", "%ff", &"a".repeat(65)] {
            let path = format!("/openai/deployments/{name}/chat/completions");
            assert_eq!(at(&path).err(), Some(PathProblem::Deployment), "{name}");
        }
        assert!(is_deployment_name(&"a".repeat(64)) && is_deployment_name("..a"));
        assert!(!is_deployment_name("") && !is_deployment_name("..") && !is_deployment_name("."));
    }

    #[test]
    fn other_spellings_of_the_words_hide_no_deployment() {
        for path in [
            "/openai/Deployments/secret/chat/completions",
            "/OpenAI/%64eployments/secret/chat/completions",
            "/openai/V1/deployments/secret/Chat/Completions",
        ] {
            let route = at(path).unwrap();
            assert_eq!(route.deployment.as_deref(), Some("secret"), "{path}");
            assert_eq!(route.operation.name, "chat", "{path}");
            assert_eq!(route.upstream_path(None), path);
        }
    }

    #[test]
    fn a_prefix_is_stripped_by_whole_segments() {
        assert_eq!(strip_prefix("/api/v1/responses", "/api"), Some("/v1/responses"));
        assert_eq!(strip_prefix("//api//v1/responses", "/api/"), Some("//v1/responses"));
        assert_eq!(strip_prefix("/a//b/c", "/a/b"), Some("/c"));
        assert_eq!(strip_prefix("/api", "api"), Some("/"));
        assert_eq!(strip_prefix("/x", ""), Some("/x"));
        for path in ["/apix/v1", "/ap", "/", "", "api/v1", "/v1/api"] {
            assert_eq!(strip_prefix(path, "/api"), None, "{path}");
        }
    }

    #[test]
    fn realtime_names_its_deployment_in_the_query() {
        let route =
            route(&Method::GET, "/openai/realtime", Some("api-version=V&deployment=rt&api-key=k")).unwrap();
        assert_eq!(route.query_deployment.as_deref(), Some("rt"));
        assert_eq!(route.upstream_query(Some("there")).as_deref(), Some("api-version=V&deployment=there"));
        assert_eq!(route.upstream_query(None).as_deref(), Some("api-version=V&deployment=rt"));
        assert!(!format!("{route:?}").contains("api-key"), "the caller's key stays out of Debug");
    }

    #[test]
    fn a_doubtful_query_is_refused_only_where_it_decides() {
        for query in ["model=a&model=b", "deployment=a&model=b", "model=", "model=a%20b"] {
            let realtime = route(&Method::GET, "/openai/v1/realtime", Some(query));
            assert_eq!(realtime.err(), Some(PathProblem::Query), "{query}");
            let chat = route(&Method::POST, "/openai/v1/chat/completions", Some(query)).unwrap();
            assert_eq!(chat.query_deployment, None);
            assert!(chat.upstream_query(Some("x")).is_some_and(|sent| sent == query));
            let named = route(&Method::GET, "/openai/deployments/d/x", Some(query)).unwrap();
            assert_eq!(named.query_deployment, None);
        }
    }

    proptest! {
        #[test]
        fn no_target_panics_and_nothing_dubious_passes(path in "(/(\\.|%2e|%2f|%5c|%|v1|openai|deployments|a|[ -~]{0,3}|\\PC){0,3}){0,6}", query in proptest::option::of("\\PC*")) {
            for method in [Method::GET, Method::POST] {
                if let Ok(route) = route(&method, &path, query.as_deref()) {
                    let there = route.upstream_path(Some("x"));
                    prop_assert!(there.starts_with("/openai/") || route.added.is_empty());
                    prop_assert!(!there.contains("//") && !there.contains('\\'));
                    let decoded = percent_decode_str(&there).decode_utf8_lossy().into_owned();
                    prop_assert!(decoded.split('/').all(|segment| segment != "." && segment != ".."));
                    prop_assert_eq!(decoded.matches('/').count(), there.matches('/').count());
                    let _ = route.upstream_query(Some("x"));
                }
            }
            let _ = strip_prefix(&path, "/a/v1");
        }
    }
}
