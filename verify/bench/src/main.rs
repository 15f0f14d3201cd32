//! Benchmarks of a sale, each beside the limit of the machine: `cargo xtask bench`.
//!
//! A scenario and its limit are measured by turns in the same run, at least five times. The machines are noisy, so only
//! the ratio of two figures of the same minute means something. A round whose checker fails has no figure.
//!
//! Read in this order:
//! - [`rounds`], [`report`]: figures of the rounds, medians, ratios, goals
//! - [`harness`]: the servers, the sales, and the programs of a scenario
//! - [`limit`], [`client`]: the HTTP server that only reads a request and answers it, with a recorded response
//! - [`buyers`], [`http`], [`burst`], [`scale`]: purchases and refusals over HTTP
//! - [`stock`], [`store`], [`promise`]: Redis, MySQL and Kafka alone
//! - [`cpu`]: processor time and memory of processes
//! - [`idle`]: programs without work
//! - [`hot_path`]: instructions against a budget; their number does not depend on how busy the machine is
//! - [`doc`]: writes docs/benchmarks.md
mod burst;
mod buyers;
mod client;
mod cpu;
mod doc;
mod harness;
mod hot_path;
mod http;
mod identity;
mod idle;
mod limit;
mod promise;
mod report;
mod rounds;
mod scale;
mod stock;
mod store;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};

use crate::harness::Harness;
use crate::report::{Measured, Report};

#[derive(Debug, Parser)]
#[command(name = "seckill-bench", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure
    Run(Run),
    /// Write docs/benchmarks.md, and the figures of the README, from the report of a run
    Doc {
        #[arg(long, default_value = "target/bench/report.json")]
        json: PathBuf,
        /// Write the page to this folder
        #[arg(long, default_value = "docs")]
        folder: PathBuf,
        #[arg(long, default_value = "README.md")]
        readme: PathBuf,
    },
    /// Count the instructions of the hot path's parts, with valgrind, and compare them with their budgets
    Budget {
        /// Run only this part, this many times; valgrind counts the instructions
        #[arg(long, num_args = 2, value_names = ["PART", "TIMES"], hide = true)]
        run: Option<Vec<String>>,
    },
    /// Answer every purchase with the same bytes: the limit of an HTTP server on this machine
    Limit {
        #[arg(long, value_name = "127.0.0.1:8080")]
        listen: SocketAddr,
        /// The response, as JSON
        #[arg(long)]
        answer: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Run {
    /// Without names: all scenarios
    scenarios: Vec<Scenario>,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Write the figures to this file
    #[arg(long, default_value = "target/bench/report.json")]
    json: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Winning purchases, from the request to the number that was read back from the log
    Purchase,
    /// Purchases with tokens, and the verification of tokens
    Identity,
    /// Answers when all is sold
    SoldOut,
    /// Answers before the start
    NotStarted,
    /// Answers after the end
    Ended,
    /// Purchases in Redis, without HTTP
    Redis,
    /// Orders from the log into MySQL
    Store,
    /// 20,000 buyers in a second for 10,000 units
    Burst,
    /// More API processes, more sales, more stock
    Scale,
    /// From the acknowledgement of a record to its read-back
    Promise,
    /// Memory and processor time of idle programs
    Idle,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Args::parse().command {
        Command::Limit { listen, answer } => limit::serve(listen, &answer).await,
        Command::Doc { json, folder, readme } => doc::write(&Report::read(&json)?, &folder, &readme),
        Command::Run(run) => measure(run).await,
        Command::Budget { run: None } => hot_path::compare(),
        Command::Budget { run: Some(part) } => hot_path::run(&part),
    }
}

async fn measure(run: Run) -> Result<()> {
    let scenarios = match run.scenarios.is_empty() {
        true => Scenario::value_variants(),
        false => &run.scenarios,
    };
    let mut report = Report::new(run.rounds, harness::servers().await?);
    for scenario in scenarios {
        let name = scenario.to_possible_value().context("a scenario has no name")?;
        eprintln!("{} ...", name.get_name());
        let harness = Harness::new().await?;
        let measured: Measured = match scenario {
            Scenario::Purchase => http::purchase(&harness, run.rounds).await?,
            Scenario::Identity => identity::identity(&harness, run.rounds).await?,
            Scenario::SoldOut => http::refusals(&harness, run.rounds, http::Refusal::SoldOut).await?,
            Scenario::NotStarted => http::refusals(&harness, run.rounds, http::Refusal::NotStarted).await?,
            Scenario::Ended => http::refusals(&harness, run.rounds, http::Refusal::Ended).await?,
            Scenario::Redis => stock::redis(&harness, run.rounds).await?.into(),
            Scenario::Store => store::store(&harness, run.rounds).await?.into(),
            Scenario::Burst => burst::burst(&harness, run.rounds).await?.into(),
            Scenario::Scale => scale::scale(&harness, run.rounds).await?.into(),
            Scenario::Promise => promise::promise(&harness, run.rounds).await?.into(),
            Scenario::Idle => idle::idle(&harness).await?.into(),
        };
        harness.clean_up().await?;
        for row in &measured.rows {
            println!("{row}");
        }
        for cost in &measured.costs {
            println!("{cost}");
        }
        report.add(name.get_name(), measured);
    }
    report.write(&run.json)?;
    ensure!(report.is_complete(), "a checker failed; see above");
    Ok(())
}
