//! Goodput and failures of the product's own pool and of its peers' policies, on the same modelled quotas and callers,
//! in virtual time. The model is that of selection.md 1: described there, built here.
//!
//! ```text
//! cargo bench --bench goodput                      all tables
//! cargo bench --bench goodput -- --quick           short runs; exit code 1 if a figure leaves its band
//! cargo bench --bench goodput -- --json            one object per row
//! cargo bench --bench goodput -- --plot FILE.svg   failures and wasted calls over load
//! cargo bench --bench goodput -- --wire            the same over real sockets; exit code 1 if a figure leaves its band
//!     --rows base,sizes   --policy sidestep,samples   --seeds 4
//! ```

mod bands;
mod caller;
mod figures;
mod held;
mod oracle;
mod peers;
mod plot;
mod policy;
mod quota;
mod report;
mod rows;
mod run;
mod samples;
mod scenario;
mod sdk;
mod sidestep;
mod traffic;
mod units;
mod upstream;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::report::Row;
use crate::scenario::{Pool, Scenario};

/// What was asked for.
#[derive(Debug, Default)]
struct Options {
    quick: bool,
    wire: Option<Wire>,
    speed: Option<u32>,
    json: bool,
    plot: Option<PathBuf>,
    rows: Option<String>,
    policies: Option<String>,
    seeds: Option<u64>,
    /// Neither an option nor `cargo bench`: `cargo test`, which only wants to see it run.
    nothing: bool,
}

/// Real sockets.
#[derive(Clone, Copy, Debug)]
enum Wire {
    Start,
    /// In the process whose clocks are fast.
    AtSpeed,
}

impl Options {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { nothing: true, ..Self::default() };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--wire" => options.wire = Some(Wire::Start),
                "--wire-at-speed" => options.wire = Some(Wire::AtSpeed),
                "--speed" => {
                    options.speed = Some(value()?.parse().map_err(|error| format!("--speed: {error}"))?);
                }
                "--json" => options.json = true,
                "--plot" => options.plot = Some(value()?.into()),
                "--rows" => options.rows = Some(value()?),
                "--policy" => options.policies = Some(value()?),
                "--seeds" => {
                    options.seeds = Some(value()?.parse().map_err(|error| format!("--seeds: {error}"))?);
                }
                "--bench" => {}
                other => return Err(format!("{other}: not known; see the head of benches/goodput/main.rs")),
            }
            options.nothing = false;
        }
        Ok(options)
    }
}

/// Whether a comma-separated list, where given, has this name.
fn listed(list: Option<&str>, name: &str) -> bool {
    list.is_none_or(|list| list.split(',').any(|one| one == name))
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the tables are the output")]
fn main() -> ExitCode {
    let options = match Options::read(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    match options.wire {
        Some(Wire::Start) => {
            let speed = options.speed.unwrap_or(wire::SPEED);
            return wire::start(speed, options.seeds.unwrap_or(wire::SEEDS));
        }
        Some(Wire::AtSpeed) => {
            let seeds = options.seeds.unwrap_or(wire::SEEDS);
            let all = wire::run(seeds, |line| println!("{line}"));
            return if all { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        None => {}
    }
    if options.nothing || options.quick {
        if let Err(problem) = repeats() {
            eprintln!("{problem}");
            return ExitCode::FAILURE;
        }
        println!("the same seed gives the same figures");
    }
    if options.quick {
        let (lines, all) = bands::hold();
        lines.iter().for_each(|line| println!("{line}"));
        return if all { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let Some(path) = &options.plot {
        if let Err(problem) = plot::plot(path, options.seeds.unwrap_or(8)) {
            eprintln!("{}: {problem}", path.display());
            return ExitCode::FAILURE;
        }
        return ExitCode::SUCCESS;
    }
    if !options.nothing {
        show(&options, |line| println!("{line}"));
    }
    ExitCode::SUCCESS
}

/// Every policy, twice on one seed.
fn repeats() -> Result<(), String> {
    let scenario = Scenario { replicas: 2, ..Scenario::base(Pool::Article, 1.1) };
    for policy in rows::POLICIES {
        let (one, other) = (rows::once(policy, &scenario, 7), rows::once(policy, &scenario, 7));
        if one.is_none() || one != other {
            return Err(format!("{policy}: the same seed gave {one:?}, then {other:?}"));
        }
    }
    Ok(())
}

/// The largest pools take a second a run.
fn seeds(scenario: &Scenario) -> u64 {
    if scenario.pool.count() > 100 { 8 } else { 16 }
}

fn show(options: &Options, mut put: impl FnMut(String)) {
    for table in rows::tables() {
        if !listed(options.rows.as_deref(), table.name) {
            continue;
        }
        if !options.json {
            put(format!("\n## {} ({})\n{}", table.title, table.name, report::head()));
        }
        for (label, scenario) in &table.rows {
            let seeds = options.seeds.unwrap_or_else(|| seeds(scenario));
            let wanted = table.policies.iter().filter(|policy| listed(options.policies.as_deref(), policy));
            let rows: Vec<Row> = wanted.map(|policy| Row::measure(policy, label, scenario, seeds)).collect();
            let others = ["samples", "oracle"].map(|policy| rows.iter().find(|row| row.policy == policy));
            for row in &rows {
                put(if options.json { row.json() } else { row.line(others) });
            }
        }
    }
}
