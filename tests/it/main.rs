//! Scenarios over real sockets.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bounds;
mod bytes;
mod connections;
mod credentials;
mod crowd;
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
mod operators;
mod peers;
mod process;
mod raw;
mod readers;
mod secrets;
mod settling;
mod simulator;
mod sockets;
mod streams;
mod uploads;
