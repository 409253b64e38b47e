//! Scenarios over real sockets.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bounds;
mod bytes;
mod callers;
mod connections;
mod credentials;
mod crowd;
mod dashboards;
mod descriptors;
mod doors;
mod early;
mod failover;
mod failures;
mod fixture;
mod frames;
mod framing;
mod front;
mod life;
mod online;
mod operators;
mod paths;
mod peers;
mod process;
mod raw;
mod readers;
mod secrets;
mod settling;
mod simulator;
mod sockets;
mod state;
mod streams;
mod tls;
mod tokens;
mod trust;
mod uploads;
mod watchers;
