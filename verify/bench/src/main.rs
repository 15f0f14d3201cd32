//! What the machine allows, and how near to it a sale comes: `cargo xtask bench`.
//!
//! A scenario is measured side by side with its limit, in the same run, by turns, at least five times: these machines are
//! noisy, and only a ratio of two figures of the same minute says something. A round whose checker fails has no figure.
//!
//! Read in this order:
//! - [`rounds`]: rounds, medians, ratios, and what is printed of them
//! - [`site`]: the servers, the sales, and the programs that run for a scenario
//! - [`limit`]: the HTTP server that does nothing but read a request and answer it
//! - [`http`], [`burst`], [`scale`]: what buyers see
//! - [`stock`], [`store`], [`promise`]: the three servers behind it, one by one
//! - [`cost`]: whose the processors' time is
//! - [`idle`]: what the programs take when nothing happens
//! - [`hot_path`]: instructions, which are the same however busy the machine is, against a budget
//! - [`doc`]: writes docs/benchmarks.md
mod burst;
mod cost;
mod doc;
mod hot_path;
mod http;
mod idle;
mod limit;
mod promise;
mod rounds;
mod scale;
mod site;
mod stock;
mod store;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};

use crate::rounds::{Measured, Report};
use crate::site::Site;

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
    /// Write docs/benchmarks.md, and the figures in the README, from those of a run
    Doc {
        #[arg(long, default_value = "target/bench/report.json")]
        json: PathBuf,
        /// Where the page goes
        #[arg(long, default_value = "docs")]
        folder: PathBuf,
        #[arg(long, default_value = "README.md")]
        readme: PathBuf,
    },
    /// Count the instructions of the hot path's parts, with valgrind, and compare them with their budgets
    Budget {
        /// Only run this part so many times, for valgrind to count
        #[arg(long, num_args = 2, value_names = ["PART", "TIMES"], hide = true)]
        run: Option<Vec<String>>,
    },
    /// Answer every purchase with the same bytes: the limit of what an HTTP server can do here
    Limit {
        #[arg(long, value_name = "127.0.0.1:8080")]
        listen: SocketAddr,
        /// The answer, as JSON
        #[arg(long)]
        answer: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Run {
    /// All of them if none is named
    scenarios: Vec<Scenario>,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Where the figures go
    #[arg(long, default_value = "target/bench/report.json")]
    json: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Winning purchases, from the request to the number that was read back from the log
    Purchase,
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
    /// From a record's acknowledgement to its being read back
    Promise,
    /// Memory and processor time of programs that have nothing to do
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
    let mut report = Report::begin(run.rounds, site::servers().await?);
    for scenario in scenarios {
        let name = scenario.to_possible_value().context("a scenario without a name")?;
        eprintln!("{} ...", name.get_name());
        let site = Site::new().await?;
        let measured: Measured = match scenario {
            Scenario::Purchase => http::purchase(&site, run.rounds).await?,
            Scenario::SoldOut => http::refusals(&site, run.rounds, http::Refusal::SoldOut).await?,
            Scenario::NotStarted => http::refusals(&site, run.rounds, http::Refusal::NotStarted).await?,
            Scenario::Ended => http::refusals(&site, run.rounds, http::Refusal::Ended).await?,
            Scenario::Redis => stock::redis(&site, run.rounds).await?.into(),
            Scenario::Store => store::store(&site, run.rounds).await?.into(),
            Scenario::Burst => burst::burst(&site, run.rounds).await?.into(),
            Scenario::Scale => scale::scale(&site, run.rounds).await?.into(),
            Scenario::Promise => promise::promise(&site, run.rounds).await?.into(),
            Scenario::Idle => idle::idle(&site).await?.into(),
        };
        site.end().await?;
        for row in &measured.rows {
            println!("{row}");
        }
        for cost in &measured.costs {
            println!("{cost}");
        }
        report.add(name.get_name(), measured);
    }
    report.write(&run.json)?;
    ensure!(report.is_whole(), "a checker failed: see above");
    Ok(())
}
