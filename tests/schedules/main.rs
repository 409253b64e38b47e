//! The invariants of design.md 15 over random schedules: the real pool and the real proxy on virtual time, with pipes
//! for connections. `SIDESTEP_SCHEDULES=n` runs the seeds from 0 to n, `SIDESTEP_SEED=n` replays one and shows it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod backend;
mod book;
mod caller;
mod health;
mod names;
mod run;
mod schedule;
mod script;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use self::run::{Broken, Seen, run};
use self::schedule::Schedule;

/// Where nobody says how many: seconds, not minutes.
const SCHEDULES: u64 = 300;

#[expect(clippy::disallowed_methods, reason = "how much to test is said from outside")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

fn tried(schedule: &Schedule, traced: bool) -> Result<Seen, Broken> {
    catch_unwind(AssertUnwindSafe(|| run(schedule, traced)))
        .unwrap_or_else(|_| Err(Broken { text: "a panic".to_owned(), trace: Vec::new() }))
}

/// Runs one seed; `Err` tells all of it.
fn prove(seed: u64) -> Result<Seen, String> {
    let schedule = Schedule::new(seed);
    tried(&schedule, false).map_err(|broken| {
        let traced = tried(&schedule, true).err();
        let again = traced.as_ref().is_some_and(|traced| traced.text == broken.text);
        let trace = traced.map_or_else(Vec::new, |traced| traced.trace).join("\n");
        format!(
            "{}\n\nSIDESTEP_SEED={seed} replays it{}\n\n{schedule}\n{trace}\n\n{}",
            broken.text,
            if again { "" } else { " (but just now it went otherwise)" },
            broken.text
        )
    })
}

#[test]
fn the_invariants_hold_on_every_schedule() {
    if let Some(seed) = number("SIDESTEP_SEED") {
        if let Err(told) = prove(seed) {
            panic!("{told}");
        }
        return;
    }
    let count = number("SIDESTEP_SCHEDULES").unwrap_or(SCHEDULES);
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get().min(4));
    let next = AtomicU64::new(0);
    let work = || {
        let mut seen = Seen::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= count {
                return Ok(seen);
            }
            match prove(seed) {
                Ok(of) => seen.add(of),
                Err(told) => {
                    next.store(count, Ordering::Relaxed);
                    return Err(told);
                }
            }
        }
    };
    let seen = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect::<Result<Vec<_>, _>>()
    });
    match seen {
        Ok(seen) => {
            let mut all = Seen::default();
            seen.into_iter().for_each(|seen| all.add(seen));
            // A proof that met nothing proves nothing.
            assert!(
                count < 100 || (all.served > count && all.left > count / 2 && all.held > count / 20),
                "{all:?}"
            );
        }
        Err(told) => panic!("{told}"),
    }
}

#[test]
fn a_schedule_is_the_same_each_time() {
    let told =
        || tried(&Schedule::new(7), false).map_or_else(|broken| broken.text, |seen| format!("{seen:?}"));
    assert_eq!(told(), told());
}
