//! Sockets, TLS and HTTP plumbing.
//!
//! Owns: accepting connections and handing them to worker threads (`workers`), serving HTTP on one
//! connection with its limits and its drain (`server`, `pacing`, `flow`, `parting`, `watched`, `stop`), the one seam
//! to the backends (`upstream`, over `connect`, `names`, `idle`, `request_body`, and for HTTP/1.1 `exchange` and
//! `answer`), and a WebSocket between the two (`tunnel`, `frames`, `messages`). Of TLS: the listener's certificate and
//! its exchange (`certificate`, `handshake`), what a
//! backend's says (`seen`, `x509`).
//! Does not: know what a backend, a deployment or a cooldown is. Proxy, admin and simulator all stand on it.
//!
//! Everything on a worker is `!Send`: one thread, one current-thread runtime, its own upstream connections.
//! Measured, this costs 10–15 % less CPU per request than a multi-thread runtime, and nothing on the request
//! path takes a lock of this room's.

mod answer;
pub mod authority;
pub mod certificate;
pub mod connect;
mod exchange;
mod field_names;
mod flow;
pub(crate) mod frames;
mod handshake;
mod idle;
pub(crate) mod messages;
pub mod names;
mod pacing;
mod parting;
mod request_body;
pub mod seen;
pub mod server;
pub mod stop;
pub mod tunnel;
pub mod upstream;
mod watched;
pub mod workers;
pub mod x509;
