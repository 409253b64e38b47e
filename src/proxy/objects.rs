//! What a request has to do with objects that live on one backend: where it must go, and what its answer tells.
//!
//! The map itself is `balance::Pins`, shared by all workers under a lock of its own, held for microseconds and never
//! together with the pool's.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::response::Parts as Head;
use http::{Method, StatusCode};
use memchr::memmem;

use super::Shared;
use super::error::ProxyError;
use crate::balance::{BackendId, Cause, Exhausted, Pins, Whereabouts};
use crate::openai::{self, IdScanner, Route, Told};
use crate::telemetry::clock;

/// Whether the path names an object.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum InPath {
    #[default]
    No,
    /// And something within it.
    Within,
    /// And ends there: a 404 can mean nothing else.
    Last,
}

/// The objects that a request names, and what it does to them.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// The path's first.
    ids: Vec<String>,
    path: InPath,
    deletes: bool,
    /// Objects of its kind are made and listed at home.
    at_home: bool,
    /// Its answer tells ids.
    tells: bool,
    /// What it makes besides: ids that begin so are mentioned in its answer.
    besides: &'static [&'static str],
}

impl Objects {
    /// `json` is the body, where it may name objects; `named` says whether there is a deployment.
    pub(super) fn of(
        parts: &Parts,
        route: &Route<'_>,
        named: bool,
        store: Option<bool>,
        json: Option<&Bytes>,
    ) -> Self {
        let operation = &route.operation;
        let path = openai::named_in_path(route.rest());
        let in_path = match &path {
            None => InPath::No,
            Some(object) if object.last => InPath::Last,
            Some(_) => InPath::Within,
        };
        let mut ids: Vec<String> = path.map(|object| object.id).into_iter().collect();
        // Nothing that computes vectors, pictures or sound refers to objects.
        if let Some(body) = json.filter(|_| !matches!(operation.name, "embeddings" | "completions")) {
            ids.extend(openai::named_in_body(body));
        }
        if let Some(query) = parts.uri.query().filter(|_| ids.is_empty()) {
            ids.extend(openai::named_in_query(query));
        }
        let rest = route.rest().trim_matches('/');
        let besides: &[&str] = match operation.name {
            _ if parts.method != Method::POST => &[],
            "threads" if rest.eq_ignore_ascii_case("threads/runs") => &["thread_"],
            "uploads" if rest.to_ascii_lowercase().ends_with("/complete") => &["file-", "assistant-"],
            _ => &[],
        };
        let content = route.rest().trim_end_matches('/').ends_with("/content");
        Self {
            ids,
            path: in_path,
            deletes: in_path == InPath::Last && parts.method == Method::DELETE,
            // What we do not know, and what has no deployment to go by, may be state.
            at_home: operation.is_at_home() || (operation.is_unknown() && !named),
            tells: !content && operation.tells_ids(&parts.method, store),
            besides,
        }
    }
}

/// Where the request may go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    /// Anywhere.
    Free,
    /// There alone.
    Only(BackendId),
    /// It was there when last seen; if it is there no longer, wherever it is found.
    Seen(BackendId),
    /// There first, for most of its kind are; else wherever it is found.
    First(BackendId),
    /// Wherever it is found.
    Search,
}

/// One request's tie to its objects.
pub(super) struct Bond {
    shared: Arc<Shared>,
    caller: Option<Arc<str>>,
    objects: Objects,
    way: Cell<Way>,
    /// Backends that said it is not there.
    not_there: RefCell<Vec<BackendId>>,
    /// A bit for each id that all of those have meant.
    meant: Cell<u32>,
}

impl fmt::Debug for Bond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bond").field("way", &self.way.get()).finish_non_exhaustive()
    }
}

impl Bond {
    /// Looks up where the objects live.
    ///
    /// # Errors
    /// There are none such for this caller, or not on one backend.
    pub(super) fn tie(
        shared: &Arc<Shared>,
        caller: Option<Arc<str>>,
        objects: Objects,
    ) -> Result<Self, ProxyError> {
        let way = if objects.ids.is_empty() && !objects.at_home {
            Way::Free
        } else {
            let mut pins = shared.pins();
            let home = pins.home().filter(|_| objects.at_home);
            match objects.ids.as_slice() {
                [] => home.map_or(Way::Free, Way::Only),
                ids => match pins.find(clock::now(), ids, caller.as_deref()) {
                    Whereabouts::At { backend, sure: true } => Way::Only(backend),
                    Whereabouts::At { backend, sure: false } => Way::Seen(backend),
                    Whereabouts::Unknown => home.map_or(Way::Search, Way::First),
                    Whereabouts::Apart => return Err(ProxyError::ObjectsApart),
                    Whereabouts::Nowhere => {
                        let previous = objects.path == InPath::No && ids[0].starts_with("resp_");
                        return Err(ProxyError::NoSuchObject { previous });
                    }
                },
            }
        };
        let (way, not_there, meant) = (Cell::new(way), RefCell::default(), Cell::new(u32::MAX));
        Ok(Self { shared: Arc::clone(shared), caller, objects, way, not_there, meant })
    }

    /// The only backend to ask next.
    pub(super) fn pin(&self) -> Option<BackendId> {
        match self.way.get() {
            Way::Only(backend) | Way::Seen(backend) | Way::First(backend) => Some(backend),
            Way::Free | Way::Search => None,
        }
    }

    /// An answer that is not good: whether it says that the object is not there while others may have it.
    pub(super) fn is_looked_for(&self, backend: BackendId, status: StatusCode, body: &[u8]) -> bool {
        let ids = &self.objects.ids;
        if ids.is_empty() || !openai::says_not_found(status, body, ids) {
            return false;
        }
        let meant = self.meant_by(body);
        match self.way.get() {
            Way::Free => false,
            Way::Only(_) => {
                self.each(meant, |pins, id| pins.gone(id, backend));
                false
            }
            Way::Seen(_) | Way::First(_) | Way::Search => {
                self.each(meant, |pins, id| pins.gone(id, backend));
                self.went_on(backend, meant);
                true
            }
        }
    }

    fn went_on(&self, backend: BackendId, meant: u32) {
        self.not_there.borrow_mut().push(backend);
        self.meant.set(self.meant.get() & meant);
        self.way.set(Way::Search);
    }

    /// Which ids such an answer means: a thread is not gone when one of its runs is.
    fn meant_by(&self, body: &[u8]) -> u32 {
        let Objects { ids, path, .. } = &self.objects;
        let alone = *path == InPath::Last && ids.len() == 1;
        let bits =
            ids.iter().enumerate().filter(|(_, id)| alone || memmem::find(body, id.as_bytes()).is_some());
        bits.fold(0, |bits, (index, _)| {
            bits | 1_u32.checked_shl(u32::try_from(index).unwrap_or(32)).unwrap_or(0)
        })
    }

    fn each(&self, meant: u32, tell: impl Fn(&mut Pins, &str)) {
        let mut pins = self.shared.pins();
        let ids = self.objects.ids.iter().enumerate().take(32);
        ids.filter(|(index, _)| meant >> index & 1 == 1).for_each(|(_, id)| tell(&mut pins, id));
    }

    fn nowhere(&self, meant: u32) {
        let now = clock::now();
        self.each(meant, |pins, id| pins.nowhere(now, id));
    }

    /// Nothing more can be asked. True where there is more to ask after all.
    pub(super) fn goes_on(&self, exhausted: &Exhausted) -> bool {
        match self.way.get() {
            // Where objects of its kind are made cannot be asked now; it may be elsewhere.
            Way::First(_) => {
                self.way.set(Way::Search);
                true
            }
            Way::Search => {
                // Who does not serve the deployment, or is beyond this caller's priorities, was not asked and may have it.
                if matches!(exhausted, Exhausted::Spent { cause: Cause::Answered })
                    && self.shared.pins().are_all(&self.not_there.borrow())
                {
                    self.nowhere(self.meant.get());
                }
                false
            }
            Way::Only(tied) if self.objects.ids.is_empty() && *exhausted == Exhausted::Unserved => {
                // A reload may have taken this home away and given another. Else home does not serve the deployment:
                // better made elsewhere than not at all.
                let home = self.shared.pins().home().filter(|home| *home != tied);
                self.way.set(home.map_or(Way::Free, Way::Only));
                true
            }
            Way::Free | Way::Only(_) | Way::Seen(_) => false,
        }
    }

    /// Whether only one backend could have served.
    pub(super) fn binds(&self) -> bool {
        matches!(self.way.get(), Way::Only(_) | Way::Seen(_))
    }

    /// A good answer came: its objects are there, or were until now. Gives what reads the ids in it, if there may be any.
    pub(super) fn served(&self, backend: BackendId, head: &Head) -> Option<Box<Noting>> {
        if !head.status.is_success() {
            return None;
        }
        if self.objects.deletes {
            self.nowhere(1);
        } else if matches!(self.way.get(), Way::Search | Way::First(_) | Way::Seen(_)) {
            let mut pins = self.shared.pins();
            self.objects.ids.iter().for_each(|id| pins.seen(id, backend));
        }
        if !self.objects.tells {
            return None;
        }
        let form = head.headers.get(CONTENT_TYPE)?.as_bytes();
        let stream = form.starts_with(b"text/event-stream");
        (stream || form.starts_with(b"application/json")).then(|| self.noting(backend, stream))
    }

    /// Whether the one object that the request names is known to be this caller's, or is made by it.
    fn owns(&self) -> bool {
        let Objects { path, ids, .. } = &self.objects;
        *path == InPath::No || (ids.len() == 1 && matches!(self.way.get(), Way::Only(_)))
    }

    /// What reads the ids in an answer, or in the messages of a socket.
    pub(super) fn noting(&self, backend: BackendId, stream: bool) -> Box<Noting> {
        Box::new(Noting {
            shared: Arc::clone(&self.shared),
            backend,
            caller: self.caller.clone(),
            makes: self.objects.path == InPath::No,
            owns: self.owns(),
            besides: self.objects.besides,
            scanner: IdScanner::new(stream),
        })
    }
}

/// Notes the ids that a passing answer tells, before the caller can use them.
pub(super) struct Noting {
    shared: Arc<Shared>,
    backend: BackendId,
    caller: Option<Arc<str>>,
    /// What the answer is about was made by this request.
    makes: bool,
    /// Or is this caller's: so is what came of it.
    owns: bool,
    besides: &'static [&'static str],
    scanner: IdScanner,
}

impl Noting {
    /// A message on a socket is over.
    pub(super) fn next_message(&mut self) {
        self.scanner.restart();
    }

    /// The next bytes of the answer.
    pub(super) fn feed(&mut self, data: &[u8]) {
        let mut told = Vec::new();
        self.scanner.feed(data, |what, id| told.push((what, id.to_owned())));
        if told.is_empty() {
            return;
        }
        let mut pins = self.shared.pins();
        for (what, id) in told {
            match what {
                Told::Subject if self.makes => pins.made(&id, self.backend, self.caller.as_deref()),
                Told::Output if self.owns => pins.made(&id, self.backend, self.caller.as_deref()),
                Told::Mentioned if self.owns && self.besides.iter().any(|with| id.starts_with(with)) => {
                    pins.made(&id, self.backend, self.caller.as_deref());
                }
                Told::Subject | Told::Output | Told::Mentioned => pins.seen(&id, self.backend),
            }
        }
    }
}
