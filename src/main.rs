//! Parse arguments, call app, exit code. Nothing else.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use sidestep::app::{DemoOptions, commands, demo};
use sidestep::settings::Environment;

/// Failover load balancer for Azure OpenAI: one resource throttles, the next one answers.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Config,
}

const EXAMPLES: &str = "Examples:
  sidestep demo                         see it work, without an account
  BACKEND_1_URL=https://one.openai.azure.com BACKEND_1_APIKEY=… \\
  BACKEND_2_URL=https://two.openai.azure.com BACKEND_2_APIKEY=… sidestep
  sidestep check --config sidestep.toml --online
  sidestep --config sidestep.toml";

#[derive(Args)]
struct Config {
    /// Settings file
    #[arg(
        long,
        value_name = "FILE",
        help = "Settings file [default: $SIDESTEP_CONFIG, ./sidestep.toml, or BACKEND_n_… variables]"
    )]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the balancer (the default command)
    Serve(Config),
    /// Say everything that is wrong with the settings, or show what was understood
    Check {
        #[command(flatten)]
        config: Config,
        /// Also ask each backend, with its credential, whether it answers
        #[arg(long)]
        online: bool,
    },
    /// Three simulated resources, the balancer in front, sample traffic, the live view
    Demo {
        /// Where callers find it (8080, or a free one)
        #[arg(long)]
        port: Option<u16>,
        /// Sample traffic, above 0 and at most 1000
        #[arg(long, value_name = "R", value_parser = rate)]
        requests_per_second: Option<f64>,
        /// End by itself after so many seconds
        #[arg(long, value_name = "S")]
        seconds: Option<u64>,
    },
    /// Only the simulated resources, for testing any client or balancer
    Simulate(Config),
    /// The live view of a running balancer
    #[command(after_help = "$SIDESTEP_ADMIN_TOKEN is sent if it is set.")]
    Top {
        /// Its admin listener
        #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9080")]
        admin: String,
    },
    /// Print a new caller key
    Key,
    /// Ask a running balancer whether it is alive; for containers without a shell
    Health {
        /// Its callers' listener [default: `http://127.0.0.1`, the port of `$SIDESTEP_LISTEN` or 8080]
        #[arg(long, value_name = "URL")]
        url: Option<String>,
    },
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| *rate > 0.0 && *rate <= 1000.0);
    rate.ok_or_else(|| "expected a number above 0, at most 1000".to_owned())
}

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let environment = Environment::new(std::env::vars_os());
    let no_color = std::env::var_os("NO_COLOR");
    let no_color = no_color.as_deref();
    ExitCode::from(match line.command.unwrap_or(Command::Serve(line.serve)) {
        Command::Serve(Config { config }) => commands::serve(config, &environment, no_color),
        Command::Check { config: Config { config }, online } => commands::check(config, online, &environment),
        Command::Demo { port, requests_per_second, seconds } => {
            demo(&DemoOptions { port, requests_per_second, seconds }, no_color)
        }
        Command::Simulate(Config { config }) => commands::simulate(config),
        Command::Top { admin } => {
            let token = std::env::var_os("SIDESTEP_ADMIN_TOKEN");
            commands::top(&admin, token.as_deref().and_then(|token| token.to_str()), no_color)
        }
        Command::Key => commands::key(),
        Command::Health { url } => {
            let listen = std::env::var_os("SIDESTEP_LISTEN");
            commands::health(url.as_deref(), listen.as_deref().and_then(|listen| listen.to_str()))
        }
    })
}
