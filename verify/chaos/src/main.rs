//! The chaos run: real servers and programs, buyers, faults, and a checker of the invariants. `cargo xtask chaos` starts
//! it inside the environment's network namespace. docs/chaos.md describes it, docs/glossary.md defines the terms.
//!
//! Read in this order:
//! - [`run`]: the run from start to end
//! - [`setup`], [`process`], [`forward`], [`harness`]: the servers and programs under its control
//! - [`flash_sales`], [`crowd`], [`traffic`], [`history`]: the sales, their buyers, and the answers to them
//! - [`context`], [`faults`]: what goes wrong
//! - [`evidence`], [`collect`], [`check`]: whether every invariant held
//! - [`mutants`]: rules broken on purpose, which the checker must find
//! - [`promotions`]: what buyers notice when another Redis becomes the primary
//! - [`report`]: what is printed and written
mod check;
mod collect;
mod context;
mod crowd;
mod evidence;
mod faults;
mod flash_sales;
mod forward;
mod harness;
mod history;
mod members;
mod mutants;
mod process;
mod promotions;
mod report;
mod run;
mod setup;
mod traffic;
mod waits;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use check::Finding;
use evidence::Evidence;
use faults::Fault;
use mutants::Mutant;
use run::Options;
use setup::{Setup, Topology};

/// How long a run with a mutant plays faults at most.
const MAX_MUTANT_DURATION: Duration = Duration::from_secs(15);
const MAX_OPEN_FILES: u64 = 8192;

/// Exits with 0 if every invariant held, with 1 if one was violated, with 2 if the run failed
#[derive(Debug, Parser)]
struct Args {
    /// The setup file that `cargo xtask chaos` writes
    #[arg(long)]
    setup: Option<PathBuf>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// How the Redis servers of the setup belong together
    #[arg(long, value_enum, default_value_t = Topology::Single)]
    redis: Topology,
    /// Play slow faults last
    #[arg(long)]
    quick: bool,
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    #[arg(long)]
    mutant: Option<String>,
    /// Write the report to this file
    #[arg(long)]
    report: Option<PathBuf>,
    #[arg(long)]
    list: bool,
    #[arg(long)]
    list_mutants: bool,
}

// The main thread starts the processes, and they end with it. The buyers run on the other threads.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let args = Args::parse();
    // Clients with thousands of connections need as many open files. With fewer, they open fewer connections.
    let _ = rlimit::increase_nofile_limit(MAX_OPEN_FILES);
    if args.list || args.list_mutants {
        list(&args);
        return ExitCode::SUCCESS;
    }
    match run_and_check(&args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Returns whether every invariant held.
async fn run_and_check(args: &Args) -> Result<bool> {
    let setup = args
        .setup
        .as_deref()
        .context("--setup is missing; run `cargo xtask chaos` instead")?;
    let setup = Setup::read(setup)?;
    let options = options(args)?;
    println!(
        "chaos: seed {}, Redis {}, {:.0} s of faults, {} Kafka brokers; state and logs: {}",
        options.seed,
        options.topology.name(),
        options.lasts.as_secs_f64(),
        setup.kafka.len(),
        setup.folder.display()
    );
    if let Some(mutant) = options.mutant {
        println!("mutant {}: {}", mutant.name, mutant.breaks);
    }
    let brokers = setup.kafka.len();
    let folder = setup.folder.clone();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (evidence, played) = tokio::select! {
        done = run::run(setup, &options) => done?,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    };
    let findings = check::check(&evidence);
    let held = !findings.iter().any(Finding::is_violated);
    report::print(&evidence, &played, &findings);
    let caught = options.mutant.map(|mutant| report::is_caught(mutant, &findings));
    if let Some(file) = &args.report {
        let known = json!({
            "seed": args.seed,
            "minutes": args.minutes,
            "brokers": brokers,
            "redis": options.topology.name(),
            "mutant": args.mutant,
            "caught": caught,
            "held": held,
        });
        let report = report::json(known, &evidence, &played, &findings);
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)?;
        println!("report: {}", file.display());
    }
    keep_or_remove(&folder, held, &evidence)?;
    let violated = findings.iter().filter(|finding| finding.is_violated()).count();
    let passed = findings.len() - violated;
    let word = if held { "ok" } else { "FAILED" };
    println!("test result: {word}. {passed} passed; {violated} failed; 0 ignored");
    Ok(held)
}

/// After a violation the state, the logs and the history stay for the search of the cause.
fn keep_or_remove(folder: &Path, held: bool, evidence: &Evidence) -> Result<()> {
    if held {
        std::fs::remove_dir_all(folder)?;
    } else {
        let history = json!({"buyers": evidence.history.buyers, "events": evidence.history.events});
        std::fs::write(folder.join("history.json"), serde_json::to_vec(&history)?)?;
    }
    Ok(())
}

fn options(args: &Args) -> Result<Options> {
    let mutant = match &args.mutant {
        Some(name) => Some(mutants::find(name).with_context(|| format!("unknown mutant {name}; --list names them"))?),
        None => None,
    };
    let faults: Vec<&str> = match mutant {
        Some(mutant) => mutant.faults.to_vec(),
        None => args.faults.iter().map(String::as_str).collect(),
    };
    let only: Result<Vec<_>> = faults
        .into_iter()
        .map(|name| faults::find(name).with_context(|| format!("unknown fault {name}; --list names them")))
        .collect();
    let only: Vec<&Fault> = only?;
    for fault in &only {
        if let Some(why) = fault.refused_by(args.redis) {
            bail!("{} is not played with --redis {}: {why}", fault.name, args.redis.name());
        }
    }
    let mut lasts = Duration::from_secs_f64(args.minutes * 60.0);
    if mutant.is_some() {
        lasts = lasts.min(MAX_MUTANT_DURATION);
    }
    Ok(Options {
        seed: args.seed,
        lasts,
        quick: args.quick,
        topology: args.redis,
        only,
        mutant,
    })
}

fn list(args: &Args) {
    if args.list {
        println!("faults with --redis {}:", args.redis.name());
        for fault in faults::all(args.redis, faults::MAX_BROKERS) {
            let needs = if fault.three_brokers {
                " (needs --brokers 3)"
            } else {
                ""
            };
            println!("  {}{needs}", fault.name);
        }
        println!("left out:");
        for (name, why) in faults::left_out(args.redis) {
            println!("  {name:<28} {why}");
        }
        println!("mutants:");
        for Mutant { name, breaks, .. } in mutants::MUTANTS {
            println!("  {name:<24} {breaks}");
        }
        return;
    }
    for mutant in mutants::MUTANTS {
        println!("{}", mutant.name);
    }
}
