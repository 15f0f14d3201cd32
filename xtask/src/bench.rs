//! Builds and runs the benchmarks.
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cache::shown;
use crate::test::cargo;
use crate::workspace;

pub fn bench(scenarios: &[String], rounds: u32) -> Result<()> {
    let env = crate::up(crate::Up::Servers)?;
    let (of_operator, beside_limits): (Vec<&str>, Vec<&str>) = scenarios
        .iter()
        .map(String::as_str)
        .partition(|scenario| ["rebuild", "operator"].contains(scenario));
    for scenario in of_operator {
        let name = if scenario == "operator" { "thousand" } else { scenario };
        let bench = ["bench", "--quiet", "-p", "operator", "--bench", name];
        cargo(&[&bench[..], &["--no-run"]].concat())?;
        let mut command = env.command("cargo");
        command.args(bench).arg("--offline").current_dir(workspace()?);
        run(&mut command)?;
    }
    if beside_limits.is_empty() {
        return Ok(());
    }
    let programs = [
        "-p",
        "seckill-bench",
        "-p",
        "seckill-api",
        "-p",
        "order-worker",
        "-p",
        "operator",
    ];
    cargo(&[&["build", "--quiet", "--release"], &programs[..]].concat())?;
    let mut command = env.command("cargo");
    command
        .args([
            "run",
            "--quiet",
            "--release",
            "--offline",
            "-p",
            "seckill-bench",
            "--",
            "run",
        ])
        .args(["--rounds", &rounds.to_string()])
        .env(
            "SECKILL_KAFKA_VERSION",
            env.versions["kafka"].as_str().unwrap_or_default(),
        )
        .args(beside_limits.iter().filter(|scenario| **scenario != "all"))
        .current_dir(workspace()?);
    run(&mut command)
}

fn run(command: &mut Command) -> Result<()> {
    if !command.status().context("can't run cargo")?.success() {
        bail!("{} failed", shown(command));
    }
    Ok(())
}
