//! Composition: settings become rooms, rooms become a running balancer. The only room that knows all others.
//!
//! `balancer` is the daemon as a value (start, look at, drain, wait), which `serve`, the demo, and the tests
//! share, `view` what can be seen of it, `certificate` its listener's; `commands` are the command line's verbs, `online` one of them; `explain` puts an operator's question to the pool; `demo` puts the simulator under it and callers before it; `traces` sends spans; `upstreams` says how backends are called.
//! No decision about a request is made here.

pub mod balancer;
mod certificate;
pub mod commands;
mod demo;
mod explain;
mod fetch;
mod online;
mod traces;
mod upstreams;
mod view;

pub use self::demo::{DemoOptions, demo};
