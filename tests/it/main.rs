//! Scenarios over real sockets.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bytes;
mod crowd;
mod failover;
mod failures;
mod fixture;
mod simulator;
mod streams;
