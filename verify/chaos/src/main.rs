//! The chaos run: real servers and programs, a crowd, faults, and a checker of what came of it. `cargo xtask chaos` starts
//! it inside the environment's network namespace.
//!
//! - [`setup`]: what it is given
//! - [`process`], [`forward`], [`world`]: the servers and programs under its control
//! - [`shop`], [`crowd`], [`history`]: the sales, their buyers, and what these heard
//! - [`faults`]: what goes wrong
//! - [`run`]: all of it in its order
//! - [`load`], [`check`]: what came of it, and whether every invariant held
//! - [`mutants`]: rules broken on purpose, which the checker must find
mod check;
mod crowd;
mod faults;
mod forward;
mod history;
mod load;
mod mutants;
mod process;
mod run;
mod setup;
mod shop;
mod world;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use check::{Evidence, Finding};
use faults::Fault;
use mutants::Mutant;
use run::{Options, Played};
use setup::Setup;

/// Ends with 0 if every invariant held, with 1 if one was violated, with 2 if the run did not come to its end
#[derive(Debug, Parser)]
struct Args {
    /// The file that `cargo xtask chaos` writes
    #[arg(long)]
    setup: Option<PathBuf>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// The faults that take long come last
    #[arg(long)]
    quick: bool,
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    #[arg(long)]
    mutant: Option<String>,
    /// Where the report goes
    #[arg(long)]
    report: Option<PathBuf>,
    #[arg(long)]
    list: bool,
    #[arg(long)]
    list_mutants: bool,
}

// The main thread starts the processes, so that they end with it; the buyers live on the others.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    match begin(Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn begin(args: Args) -> Result<bool> {
    if args.list || args.list_mutants {
        list(args.list);
        return Ok(true);
    }
    let setup = Setup::read(
        args.setup
            .as_deref()
            .context("--setup: say `cargo xtask chaos` instead")?,
    )?;
    let options = options(&args)?;
    println!(
        "chaos: seed {}, {:.0} s of faults, {} of Kafka's brokers; state and logs: {}",
        options.seed,
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
        _ = terminate.recv() => bail!("told to end"),
    };
    let findings = check::check(&evidence);
    let held = findings.iter().all(|finding| finding.violations.is_empty());
    show(&evidence, &played, &findings);
    let caught = options.mutant.map(|mutant| is_caught(mutant, &findings));
    if let Some(file) = &args.report {
        let report = json!({
            "seed": args.seed,
            "minutes": args.minutes,
            "brokers": brokers,
            "mutant": args.mutant,
            "caught": caught,
            "held": held,
            "faults": played,
            "buyers": evidence.history.buyers.len(),
            "requests": evidence.history.events.len(),
            "winners": winners(&evidence),
            "recovery": evidence.recovery,
            "invariants": findings,
        });
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)?;
        println!("report: {}", file.display());
    }
    if !held {
        // For whoever looks for the reason.
        let history = json!({"buyers": evidence.history.buyers, "events": evidence.history.events});
        std::fs::write(folder.join("history.json"), serde_json::to_vec(&history)?)?;
    } else {
        std::fs::remove_dir_all(&folder)?;
    }
    let violated = findings.iter().filter(|finding| !finding.violations.is_empty()).count();
    let passed = findings.len() - violated;
    let word = if held { "ok" } else { "FAILED" };
    println!("test result: {word}. {passed} passed; {violated} failed; 0 ignored");
    Ok(held)
}

fn options(args: &Args) -> Result<Options> {
    let mut only = Vec::new();
    for name in &args.faults {
        let known = faults::kinds(3).into_iter().find(|fault| fault.name() == *name);
        only.push(known.with_context(|| format!("no fault is called {name}; --list names them"))?);
    }
    let mutant = match &args.mutant {
        Some(name) => {
            Some(mutants::find(name).with_context(|| format!("no mutant is called {name}; --list names them"))?)
        }
        None => None,
    };
    let mut lasts = Duration::from_secs_f64(args.minutes * 60.0);
    if let Some(mutant) = mutant {
        only = mutant.faults.to_vec();
        lasts = lasts.min(Duration::from_secs(15));
    }
    Ok(Options {
        seed: args.seed,
        lasts,
        quick: args.quick,
        only,
        mutant,
    })
}

fn list(faults_too: bool) {
    if faults_too {
        println!("faults (the last two need --brokers 3):");
        for fault in faults::kinds(3) {
            println!("  {}", Fault::name(fault));
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

fn is_caught(mutant: &Mutant, findings: &[Finding]) -> bool {
    let by: Vec<&str> = findings
        .iter()
        .filter(|finding| !finding.violations.is_empty() && mutant.caught_by.contains(&finding.invariant))
        .map(|finding| finding.invariant)
        .collect();
    match by.is_empty() {
        true => println!(
            "\nmutant {} SURVIVED; expected: {}",
            mutant.name,
            mutant.caught_by.join(" or ")
        ),
        false => println!("\nmutant {} caught by {}", mutant.name, by.join(", ")),
    }
    !by.is_empty()
}

fn winners(evidence: &Evidence) -> usize {
    let won = |event: &&history::Event| matches!(event.answer, history::Answer::Won { .. });
    let winners: HashSet<usize> = evidence
        .history
        .events
        .iter()
        .filter(won)
        .map(|event| event.buyer)
        .collect();
    winners.len()
}

/// Of a violated invariant so many cases are shown; the report has all.
const SHOWN: usize = 5;

fn show(evidence: &Evidence, played: &[Played], findings: &[Finding]) {
    let history = &evidence.history;
    println!(
        "\n{} faults, {} sales, {} buyers, {} requests, {} winners",
        played.len(),
        evidence.sales.len(),
        history.buyers.len(),
        history.events.len(),
        winners(evidence)
    );
    println!(
        "\n  {:<36} {:>5}  selling stopped, median and longest",
        "fault", "times"
    );
    let mut kinds: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for fault in played {
        kinds.entry(&fault.fault).or_default().push(fault.stopped_ms);
    }
    for (kind, stopped) in &mut kinds {
        stopped.sort_unstable();
        let seconds = |ms: u64| ms as f64 / 1000.0;
        let (median, longest) = (stopped[stopped.len() / 2], stopped[stopped.len() - 1]);
        println!(
            "  {kind:<36} {:>5}  {:>5.1} s {:>5.1} s",
            stopped.len(),
            seconds(median),
            seconds(longest)
        );
    }
    println!();
    for finding in findings {
        let word = if finding.violations.is_empty() {
            "held"
        } else {
            "VIOLATED"
        };
        println!(
            "  {:<8} {word:<8} {}: {}",
            finding.invariant, finding.says, finding.checked
        );
        for violation in finding.violations.iter().take(SHOWN) {
            println!("             - {violation}");
        }
        if finding.violations.len() > SHOWN {
            println!("             - and {} more", finding.violations.len() - SHOWN);
        }
    }
    println!();
}
