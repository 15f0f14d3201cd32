//! `cargo xtask test`: all tests, or a part of them; the last line adds up what passed and failed.
use std::io::{BufRead, BufReader, IsTerminal};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::cache::{seconds, shown};
use crate::environment::Environment;
use crate::{images, workspace};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// rustfmt and clippy
    Lint,
    /// what needs no server
    Unit,
    /// the model of the protocol, exhaustively at small sizes, and its mutants
    Model,
    /// against real Redis, Kafka, MySQL and a real Kubernetes API server
    Integration,
    /// on the cluster, by kubectl, helm and HTTP
    E2e,
    /// a short chaos run: real processes, faults, invariants
    Chaos,
    /// the instructions of the hot path, in a release build, against their budgets
    Budget,
    /// the slow ones of every part
    Extended,
}

/// A part that runs longer, with nobody at a terminal to see it, is ended. Several times what any of them takes.
const STUCK: Duration = Duration::from_secs(30 * 60);
/// Packages without tests of the kind that `integration` runs.
const NOT_INTEGRATION: [&str; 6] = [
    "--exclude",
    "seckill-e2e",
    "--exclude",
    "xtask",
    "--exclude",
    "seckill-model",
];

#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Count {
    /// Adds what a line of a test runner says: `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    fn add(&mut self, line: &str) {
        let Some(result) = line.trim_start().strip_prefix("test result:") else {
            return;
        };
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (number, what) = (words.next().and_then(|n| n.parse::<u64>().ok()), words.next());
            match (number, what) {
                (Some(n), Some("passed")) => self.passed += n,
                (Some(n), Some("failed")) => self.failed += n,
                (Some(n), Some("ignored")) => self.ignored += n,
                _ => {}
            }
        }
    }
}

/// Runs the parts; everything but the end-to-end part needs no node. Gives an error if anything failed.
pub fn test(part: Option<Part>, filter: &[String]) -> Result<()> {
    let parts = match part {
        Some(part) => vec![part],
        None => vec![
            Part::Lint,
            Part::Unit,
            Part::Model,
            Part::Integration,
            Part::Chaos,
            Part::E2e,
            Part::Budget,
        ],
    };
    // The cluster is built first: while a part fails, the cache of what it needs is there for the next try.
    crate::tools::packages()?;
    let mut count = Count::default();
    let mut broken = Vec::new();
    for part in parts {
        let begun = Instant::now();
        eprintln!("\n== {part:?}");
        if let Err(error) = run(part, filter, &mut count) {
            eprintln!("{error:#}");
            broken.push(format!("{part:?}"));
        }
        eprintln!("== {part:?}: {}", seconds(begun.elapsed()));
    }
    if std::env::var_os("CI").is_some() {
        crate::down::down()?;
    }
    if count.failed < broken.len() as u64 {
        // What could not even run, or did not end, counts as one failure, so that the last line never looks well.
        count.failed = broken.len() as u64;
    }
    println!(
        "\n{} passed, {} failed, {} skipped",
        count.passed, count.failed, count.ignored
    );
    if !broken.is_empty() {
        bail!("failed: {}", broken.join(", "));
    }
    Ok(())
}

fn run(part: Part, filter: &[String], count: &mut Count) -> Result<()> {
    match part {
        Part::Lint => {
            cargo(&["fmt", "--all", "--check"])?;
            cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ])
        }
        Part::Unit => {
            let mut command = Command::new("cargo");
            command
                .args([
                    "test",
                    "--quiet",
                    "--workspace",
                    "--lib",
                    "--bins",
                    "--no-fail-fast",
                    "--",
                ])
                .args(filter);
            counted(&mut command, count)
        }
        Part::Model => {
            let mut command = Command::new("cargo");
            command
                .args(["test", "--quiet", "-p", "seckill-model", "--"])
                .args(filter);
            counted(&mut command, count)
        }
        Part::Integration => {
            let env = crate::up(crate::Up::Servers)?;
            let tests = [&["--workspace"], &NOT_INTEGRATION[..]].concat();
            // They mostly wait.
            let threads = [("RUST_TEST_THREADS", "4".to_owned())];
            inside(&env, &tests, filter, &threads, count)
        }
        Part::E2e => {
            let env = crate::up(crate::Up::Cluster)?;
            let tag = images::product(&env)?;
            let values = crate::demo::local_values(&env, &tag)?;
            inside(
                &env,
                &["-p", "seckill-e2e"],
                filter,
                &[("SECKILL_HELM_VALUES", values.display().to_string())],
                count,
            )
        }
        Part::Chaos => {
            let env = crate::up(crate::Up::Servers)?;
            counted(&mut crate::chaos::quick(&env)?, count)
        }
        Part::Budget => {
            let bench = ["--quiet", "--release", "-p", "seckill-bench"];
            cargo(&[&["build"], &bench[..]].concat())?;
            let mut command = Command::new("cargo");
            command.arg("run").args(bench).args(["--", "budget"]);
            counted(&mut command, count)
        }
        Part::Extended => {
            let env = crate::up(crate::Up::Cluster)?;
            let tag = images::product(&env)?;
            let filter: Vec<String> = ["--ignored".to_owned()]
                .into_iter()
                .chain(filter.iter().cloned())
                .collect();
            let values = crate::demo::local_values(&env, &tag)?;
            inside(
                &env,
                &["--workspace"],
                &filter,
                &[("SECKILL_HELM_VALUES", values.display().to_string())],
                count,
            )
        }
    }
}

/// Builds tests outside the namespace, which has no way out to fetch anything, and runs them inside.
fn inside(
    env: &Environment,
    tests: &[&str],
    filter: &[String],
    variables: &[(&str, String)],
    count: &mut Count,
) -> Result<()> {
    let build = [&["test", "--quiet", "--no-run", "--test", "*"], tests].concat();
    cargo(&build)?;
    let mut command = env.command("cargo");
    command
        .args(["test", "--quiet", "--offline", "--no-fail-fast", "--test", "*"])
        .args(tests)
        .arg("--")
        .args(filter);
    for (name, value) in variables {
        command.env(name, value);
    }
    counted(&mut command, count)
}

pub fn cargo(args: &[&str]) -> Result<()> {
    let mut command = Command::new("cargo");
    let status = command
        .args(args)
        .current_dir(workspace()?)
        .status()
        .context("can't run cargo")?;
    if !status.success() {
        bail!("{} failed", shown(&command));
    }
    Ok(())
}

/// Runs a test command, showing what it prints and adding up its results.
fn counted(command: &mut Command, count: &mut Count) -> Result<()> {
    let attended = std::io::stdin().is_terminal();
    command
        .current_dir(workspace()?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if !attended {
        // So that all of it can be ended together. At a terminal that is for Ctrl-C to do.
        command.process_group(0);
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("can't run {}", shown(command)))?;
    let output = child.stdout.take().context("standard output is a pipe")?;
    let (over, was_over) = mpsc::channel::<()>();
    let group = format!("-{}", child.id());
    let watch = thread::spawn(move || {
        let stuck = !attended && was_over.recv_timeout(STUCK) == Err(RecvTimeoutError::Timeout);
        if stuck {
            // It fails if all of them have just ended.
            let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        }
        stuck
    });
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        count.add(&line);
    }
    let ended = child.wait()?;
    drop(over);
    if watch.join().is_ok_and(|stuck| stuck) {
        bail!("{} was stuck: ended after {}", shown(command), seconds(STUCK));
    }
    if !ended.success() {
        bail!("{} failed", shown(command));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failure_modes_name_tests_that_exist() {
        let folder = workspace().expect("a workspace");
        let page = std::fs::read_to_string(folder.join("docs/failure-modes.md")).expect("the page");
        let mut tests = String::new();
        for package in [
            "seckill-api",
            "order-worker",
            "operator",
            "verify/e2e",
            "libs/ledger",
            "libs/stock",
        ] {
            let mut folders = vec![folder.join(package).join("tests")];
            while let Some(next) = folders.pop() {
                for entry in std::fs::read_dir(next).expect("a folder").flatten() {
                    match entry.path() {
                        path if path.is_dir() => folders.push(path),
                        path => tests += &std::fs::read_to_string(path).expect("a source file"),
                    }
                }
            }
        }
        let words = page.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        let named: Vec<&str> = words.filter(|word| word.matches('_').count() >= 4).collect();
        assert!(named.len() > 20, "{named:?}");
        for name in named {
            assert!(tests.contains(&format!("fn {name}(")), "no test is called {name}");
        }
    }

    #[test]
    fn results_of_several_runners_add_up() {
        let mut count = Count::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.25s",
        ] {
            count.add(line);
        }
        assert_eq!(
            count,
            Count {
                passed: 5,
                failed: 1,
                ignored: 1
            }
        );
    }
}
