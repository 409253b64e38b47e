//! Goodput and failures of the product's own pool and of its peers' policies, on the same modelled quotas and callers,
//! in virtual time.
//!
//! ```text
//! cargo bench --bench goodput                    the tables
//! cargo bench --bench goodput -- --policy sidestep,samples --seeds 4
//! ```

mod caller;
mod figures;
mod oracle;
mod policy;
mod quota;
mod run;
mod samples;
mod scenario;
mod sidestep;
mod traffic;
mod units;
mod upstream;

use crate::figures::Summary;
use crate::scenario::{Pool, Scenario};

fn once(policy: &str, scenario: &Scenario, seed: u64) -> Summary {
    match policy {
        "sidestep" => run::run::<sidestep::Sidestep>(scenario, seed),
        "samples" => run::run::<samples::Samples<samples::Uniform>>(scenario, seed),
        "p2c" => run::run::<samples::Samples<samples::TwoChoices>>(scenario, seed),
        "ewma" => run::run::<samples::Samples<samples::PeakEwma>>(scenario, seed),
        "oracle" => run::run::<oracle::Oracle>(scenario, seed),
        other => panic!("no such policy: {other}"),
    }
    .summary()
}

#[expect(clippy::print_stdout, reason = "the tables are the output")]
fn main() {
    let seeds = 5_u64;
    for pool in [Pool::Article, Pool::Unequal(8)] {
        for policy in ["sidestep", "samples", "p2c", "ewma", "oracle"] {
            for load in [0.5, 0.9, 1.0, 1.1, 2.0] {
                let scenario = Scenario::base(pool, load);
                let start = tokio::time::Instant::now();
                let runs: Vec<Summary> = (1..=seeds).map(|seed| once(policy, &scenario, seed)).collect();
                let mean = |value: fn(&Summary) -> f64| runs.iter().map(value).sum::<f64>() / seeds as f64;
                println!(
                    "{:8} n={} load={load:3.1} {policy:9} fail {:6.2} good {:5.1} 429/1k {:7.1} added99 {:5.0} wait99 {:5.1} cached {:4.1} first {:5.1} ttft {:.2}/{:.2}  big {}",
                    pool.name(),
                    pool.count(),
                    mean(|s| s.failing_percent),
                    mean(|s| s.goodput_percent),
                    mean(|s| s.upstream_429_per_1000),
                    mean(|s| s.added_p99_ms),
                    mean(|s| s.wait_p99_s),
                    mean(|s| s.cached_percent),
                    mean(|s| s.first_refused_percent),
                    mean(|s| s.ttft_p50_s),
                    mean(|s| s.ttft_p99_s),
                    mean(|s| s.failing_big_percent) as u64,
                );
            }
        }
    }
}
