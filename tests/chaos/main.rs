//! Trouble of every kind at random, over real sockets, for as long as one likes: five seconds in `cargo test`,
//! `SIDESTEP_CHAOS_SECONDS` of chaos and `SIDESTEP_SOAK_SECONDS` of a soak in `.ci/long`. `SIDESTEP_CHAOS_SEED`
//! repeats the choices of a run, though not the moments at which they meet.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod callers;
mod conversation;
#[path = "../it/fixture/mod.rs"]
#[expect(dead_code, reason = "what the scenarios of tests/it need besides")]
mod fixture;
mod process;
mod run;
mod trouble;

use std::time::Duration;

use self::run::{Plan, run};
use self::trouble::Temper;

#[expect(clippy::disallowed_methods, reason = "how much to test is said from outside")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

fn plan(temper: Temper, seconds: u64) -> Plan {
    Plan {
        temper,
        seed: number("SIDESTEP_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000)),
        lasts: Duration::from_secs(seconds),
        per_second: number("SIDESTEP_CHAOS_RATE").unwrap_or(60),
    }
}

#[tokio::test]
async fn in_five_seconds_of_chaos_nobody_fails_whom_a_backend_could_serve() {
    run(plan(Temper::Wild, 5)).await;
}

#[tokio::test]
#[ignore = "takes SIDESTEP_CHAOS_SECONDS (600); .ci/long runs it"]
async fn in_long_chaos_nobody_fails_whom_a_backend_could_serve() {
    run(plan(Temper::Wild, number("SIDESTEP_CHAOS_SECONDS").unwrap_or(600))).await;
}

#[tokio::test]
#[ignore = "takes SIDESTEP_SOAK_SECONDS (1800); .ci/long runs it"]
async fn a_long_soak_fails_nobody_and_grows_nothing() {
    run(plan(Temper::Mild, number("SIDESTEP_SOAK_SECONDS").unwrap_or(1_800))).await;
}
