//! `kubectl seckill`: sales at a glance, and commands for incidents.
//!
//! Every access goes through the `kubectl` on the PATH, so contexts, logins, proxies and RBAC are those of kubectl. The
//! programs of a release are asked by `kubectl exec` and by the proxy of the API server; no port is opened.
//!
//! - [`kubectl`]: runs kubectl
//! - [`release`]: the pods of a release
//! - [`status`], [`top`], [`suspend`], [`release`], [`report`]: one file for each command
//! - [`metrics`]: reads what a program exports
//! - [`table`]: columns for people
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod kubectl;
mod metrics;
mod release;
mod report;
mod status;
mod suspend;
mod table;
mod top;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use kubectl::{Kubectl, Scope};
use release::Program;

/// Flash sales at a glance, and commands for incidents
#[derive(Debug, Parser)]
#[command(name = "kubectl seckill", bin_name = "kubectl seckill", version)]
struct Args {
    #[command(flatten)]
    scope: Scope,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The sales of a namespace, or one sale with its times, units and conditions
    Status {
        /// The name of a FlashSale
        sale: Option<String>,
    },
    /// Units, rates and latencies of running sales, refreshed continuously
    Top {
        /// Seconds between two lines of figures
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
        interval: u64,
        /// Print once, and exit
        #[arg(long)]
        once: bool,
    },
    /// Say what Redis, Kafka and MySQL lack, as the operator sees them
    Check,
    /// Stop selling. Buyers get the error `suspended`; nothing is lost
    Suspend {
        /// The name of a FlashSale
        sale: String,
    },
    /// Sell again
    Resume {
        /// The name of a FlashSale
        sale: String,
    },
    /// Records of the order log that could not be stored
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    /// Write a folder with what helps others to find a fault: objects, events, logs, metrics. No Secret is read
    Report {
        /// The folder. It must not exist
        #[arg(default_value_os_t = report::default_folder())]
        folder: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum QuarantineCommand {
    /// One line per record
    List,
    /// Show the reason and the record
    Show(Record),
    /// Store the record as if it were read now. If that fails, nothing changes
    Replay(Record),
}

#[derive(Debug, clap::Args)]
struct Record {
    /// Partition, as shown by `list`
    partition: u32,
    /// Offset, as shown by `list`
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    offset: i64,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(Args { scope, command }: Args) -> Result<()> {
    let kubectl = Kubectl::new(scope);
    match command {
        Command::Status { sale: None } => status::all(&kubectl),
        Command::Status { sale: Some(sale) } => status::one(&kubectl, &sale),
        Command::Top { interval, once } => top::top(&kubectl, Duration::from_secs(interval), once),
        Command::Check => release::run_in(&kubectl, Program::Operator, &["check"]),
        Command::Suspend { sale } => suspend::set(&kubectl, &sale, true),
        Command::Resume { sale } => suspend::set(&kubectl, &sale, false),
        Command::Quarantine(command) => {
            let at = |verb: &str, Record { partition, offset }: Record| {
                [
                    "quarantine".to_owned(),
                    verb.to_owned(),
                    partition.to_string(),
                    offset.to_string(),
                ]
                .to_vec()
            };
            let words = match command {
                QuarantineCommand::List => ["quarantine", "list"].map(str::to_owned).to_vec(),
                QuarantineCommand::Show(record) => at("show", record),
                QuarantineCommand::Replay(record) => at("replay", record),
            };
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            release::run_in(&kubectl, Program::Worker, &words)
        }
        Command::Report { folder } => report::write(&kubectl, &folder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_valid() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }
}
