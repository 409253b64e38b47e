//! Sidestep: a failover load balancer for Azure OpenAI. One resource throttles, the next one answers.
//!
//! # The map
//! Rooms in reading order. Each room's own documentation says what it owns, what it does not, and why.
//!
//! | room | is |
//! |---|---|
//! | [`proxy`] | one request from top to bottom; one attempt; the committed body; our own errors |
//! | [`balance`] | PURE: who is picked, what an answer means, how long a lane stays away |
//! | [`openai`] | PURE: what we know of the API: operations and paths, deployment, streams, usage, errors |
//! | [`net`] | sockets, TLS, HTTP server and client; knows nothing of the product |
//! | [`identity`] | who may call us, and with what we call the backends |
//! | [`telemetry`] | log, access record, metrics, health |
//! | [`admin`] | what operators ask over HTTP |
//! | [`settings`] | file and environment → raw → resolved; all problems at once |
//! | [`app`] | composition: settings become a running balancer; the command line's verbs |
//! | [`terminal`] | the live view of `demo` and `top`; reads status documents only |
//! | [`simulator`] | a faithful fake Azure OpenAI; shares nothing with the proxy, so it cannot share a mistake |
//!
//! PURE means: no I/O, no clock, no threads; `now` is an argument, randomness is seeded by [`app`].
//!
//! # Who may import whom
//! ```text
//! main      → app → everything
//! proxy     → balance, openai, identity, net, telemetry
//! admin     → balance, telemetry, net
//! identity  → net, telemetry
//! telemetry → balance
//! settings  → the settings types that each room owns
//! terminal, simulator → net
//! balance, openai, net → nothing of ours
//! ```
//! `tests/tidy` enforces it.
//!
//! # Words
//! One meaning each.
//!
//! | word | means |
//! |---|---|
//! | caller, downstream | who sends us requests; its side of us |
//! | backend, upstream | one Azure OpenAI resource: address, credential, priority, weight; its side of us |
//! | deployment | a model deployment on a backend, by the name that callers use |
//! | lane | one deployment on one backend, by its name *there*: what has a quota, is picked and cools |
//! | operation family | inference, responses, files, …: what a credential is refused for |
//! | priority group | backends of equal priority; the lower number is used first |
//! | pick, report | reserve a place on a lane; hand it back with what happened, exactly once |
//! | attempt, failover | one try at one lane; a later try at another backend. At most one per backend and request |
//! | verdict | what one attempt's answer means for the request and for the lane |
//! | cooldown | the lane admits nothing until an instant, because it was throttled |
//! | rest, probe | a lane or backend admits nothing because it failed; then one request goes first |
//! | size mark | requests of at least some size are kept from a lane |
//! | refused, absent | the backend rejects our credential for a family; it does not have this deployment |
//! | exhausted | no lane that could serve this request admits it now |
//! | prelude | a stream's events before the first that says something |
//! | commit | the response head goes downstream; after it no failover |
//!
//! # One request's walk
//! 1. [`net`] accepts the connection, hands it to a worker thread, reads the head. From here to the end the
//!    request lives on that thread.
//! 2. [`proxy`] answers health checks; [`identity`] admits the caller, or it is a 401 or 403.
//! 3. [`openai`] reads from the path which operation it is; the body is read whole, up to `request_replay`, and
//!    scanned for the few keys that steer us. Now the deployment is known.
//! 4. The loop: `Pool::pick` reserves a place on a lane of a backend not yet tried. The request goes there with an
//!    allow-list of headers and that backend's credential alone. We wait for as much of the answer as its kind needs:
//!    the head, a small answer whole, a stream's first event that says something. `balance::judge` gives the verdict,
//!    `Pool::report` takes the pick back, and it is the next lane's turn, at once, or
//! 5. the commit: head, then body as it comes, one write per read. A stream that breaks off now ends with an error
//!    event and an aborted connection.
//! 6. The end, whatever it was, settles the pick and writes one access record.
//!
//! When `pick` finds no lane the request is exhausted: a 429 of our own with the time to come back, or what the last
//! attempt brought. A dropped future is a caller that left: the guard around the pick abandons it, the connection to
//! the backend closes, and no lane's state changes.
//!
//! # Invariants
//! - I1: a 429 or 5xx never reaches the caller while an eligible untried backend admits within the deadline and
//!   repeating is harmless.
//! - I2: nothing is ever sent to a lane before its deadline, but a probe.
//! - I3: the wait we tell is never sooner than the soonest recovery, or 59 s if that is less.
//! - I4: never do two upstreams stream to one caller, and no byte goes before the commit.
//! - I5: a credential of one backend, or of a caller, never reaches another backend.
//! - I6: a caller that leaves never changes a lane's state, and its upstream work never goes on.
//! - I7: memory never grows beyond what the settings allow.
//! - I8: picks minus reports never differ from what is in flight.
//! - I9: drain and reload never lose or double a request.
//! - I10: whatever happened before, an idle pool whose backends are well never refuses the next request.

pub mod admin;
pub mod app;
pub mod balance;
pub mod identity;
pub mod net;
pub mod openai;
pub mod proxy;
pub mod settings;
pub mod simulator;
pub mod telemetry;
pub mod terminal;
