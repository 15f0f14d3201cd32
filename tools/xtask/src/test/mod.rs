//! `cargo xtask test`: runs all tests and checks, or one step of them. The last line adds up the results.
mod alerts;
mod chart;
mod count;
mod dashboards;
mod deny;
mod mutants;
mod planner;
pub mod prometheus;
mod runner;
mod session;
mod suites;
mod unused;

use std::time::Instant;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::cache::seconds;
use crate::cargo::cargo;
use crate::scope::Scope;
use crate::{consent, cycles, down, lock, tools};
use count::{Count, StepResult};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The step to run; without it, all steps except `alternatives`, `dashboards`, `session`, `mutants` and `extended`
    step: Option<Step>,
    /// A part of the names of the tests to run
    name: Option<String>,
    /// Answer yes to all questions
    #[arg(long)]
    yes: bool,
    /// Arguments of the test programs, such as --nocapture
    #[arg(last = true)]
    filter: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// rustfmt
    Fmt,
    /// dependencies that no code uses
    Unused,
    /// module circles
    Cycles,
    /// licenses, sources and advisories of dependencies
    Deny,
    /// clippy, with warnings as errors
    Clippy,
    /// rustdoc, with warnings as errors
    Docs,
    /// the planner crate alone: its tests, and no I/O library in its dependency tree
    Planner,
    /// tests without servers
    Unit,
    /// the model of the protocol, exhaustively at small sizes, and its mutants
    Model,
    /// the alerts of the chart, by promtool
    Alerts,
    /// each package against real Redis, Kafka, MySQL and a real Kubernetes API server
    Integration,
    /// the tests of ledger, stock, order-worker and seckill-api, on MariaDB and Valkey
    Alternatives,
    /// the queries of the dashboards and alerts, by a Prometheus that scrapes the programs during a sale
    Dashboards,
    /// the session of docs/demo.md, word for word
    Session,
    /// short chaos runs: real processes, faults, invariants
    Chaos,
    /// the scenarios on a real cluster, by kubectl, helm and HTTP
    E2e,
    /// the instructions of the hot path, in a release build, against their budgets
    Budget,
    /// changes of the decision code that no test notices (half an hour)
    Mutants,
    /// every check that runs no program: `fmt`, `unused`, `cycles`, `deny`, `clippy` and `docs`
    Lint,
    /// the slow tests of all packages, `alternatives`, `dashboards`, `session`, and `mutants`
    Extended,
}

/// The steps of `lint`, with which a full run begins.
const LINT: [Step; 6] = [
    Step::Fmt,
    Step::Unused,
    Step::Cycles,
    Step::Deny,
    Step::Clippy,
    Step::Docs,
];

/// The other steps of a full run. Cheap ones come first.
const AFTER_LINT: [Step; 8] = [
    Step::Planner,
    Step::Unit,
    Step::Model,
    Step::Alerts,
    Step::Integration,
    Step::Chaos,
    Step::E2e,
    Step::Budget,
];

impl Step {
    fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether the step needs root, the Debian packages, and the environment to itself.
    fn needs_environment(self) -> bool {
        matches!(
            self,
            Step::Alerts
                | Step::Integration
                | Step::Alternatives
                | Step::Dashboards
                | Step::Session
                | Step::Chaos
                | Step::E2e
                | Step::Budget
                | Step::Extended
        )
    }
}

/// Runs the steps. Returns an error if any of them failed.
pub fn test(args: &Args) -> Result<()> {
    let steps = match args.step {
        Some(step) => vec![step],
        None => [LINT.as_slice(), AFTER_LINT.as_slice()].concat(),
    };
    let uses_environment = steps.iter().any(|step| step.needs_environment());
    let _lock = if uses_environment {
        let lock = lock::take()?;
        consent::ask(args.yes, Scope::Cluster)?;
        // The first steps compile C code, which needs packages too.
        tools::packages()?;
        Some(lock)
    } else {
        None
    };
    let filter: Vec<String> = args.name.iter().chain(&args.filter).cloned().collect();
    let results: Vec<StepResult> = steps.into_iter().map(|step| run(step, &filter)).collect();
    if uses_environment && std::env::var_os("CI").is_some() {
        down::down()?;
    }
    println!("\n{}", count::table(&results));
    println!("{}", count::total(&results));
    let failed: Vec<&str> = results.iter().filter(|r| r.failed).map(|r| r.name.as_str()).collect();
    if !failed.is_empty() {
        bail!("failed steps: {}", failed.join(", "));
    }
    Ok(())
}

/// Runs one step and prints its error.
fn run(step: Step, filter: &[String]) -> StepResult {
    let started = Instant::now();
    let name = step.name();
    eprintln!("\n== {name}");
    let mut count = Count::default();
    let result = run_counted(step, filter, &mut count);
    if let Err(error) = &result {
        eprintln!("{error:#}");
    }
    let duration = started.elapsed();
    eprintln!("== {name}: {}", seconds(duration));
    StepResult::new(name, result.is_err(), count, duration)
}

fn run_counted(step: Step, filter: &[String], count: &mut Count) -> Result<()> {
    match step {
        Step::Fmt => one_check(cargo(&["fmt", "--all", "--check"]), count),
        Step::Unused => one_check(unused::check(), count),
        Step::Cycles => one_check(cycles::check(), count),
        Step::Deny => deny::check(count),
        Step::Clippy => one_check(suites::clippy(), count),
        Step::Docs => one_check(suites::docs(), count),
        Step::Planner => planner::check(filter, count),
        Step::Unit => suites::unit(filter, count),
        Step::Model => suites::model(filter, count),
        Step::Alerts => one_check(alerts::check(), count),
        Step::Integration => suites::integration(filter, count),
        Step::Alternatives => suites::alternatives(filter, count),
        Step::Dashboards => one_check(dashboards::check(), count),
        Step::Session => one_check(session::check(), count),
        Step::Chaos => suites::chaos(count),
        Step::E2e => suites::e2e(filter, count),
        Step::Budget => suites::budget(count),
        Step::Mutants => one_check(mutants::check(filter), count),
        Step::Extended => {
            suites::extended(filter, count)?;
            one_check(dashboards::check(), count)?;
            suites::alternatives(filter, count)?;
            one_check(session::check(), count)?;
            one_check(mutants::check(&[]), count)
        }
        Step::Lint => {
            for check in LINT {
                run_counted(check, filter, count)?;
            }
            Ok(())
        }
    }
}

/// Counts a check as one test.
fn one_check(result: Result<()>, count: &mut Count) -> Result<()> {
    if result.is_ok() {
        count.passed += 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_run_has_every_step_except_alias_and_slow_ones() {
        for step in Step::value_variants() {
            let expected = !matches!(
                step,
                Step::Lint | Step::Alternatives | Step::Dashboards | Step::Session | Step::Mutants | Step::Extended
            );
            assert_eq!(LINT.contains(step) || AFTER_LINT.contains(step), expected, "{step:?}");
        }
    }
}
