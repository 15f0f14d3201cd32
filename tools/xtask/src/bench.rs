//! `cargo xtask bench`: builds and runs the benchmarks.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cache;
use crate::cargo::cargo;
use crate::command::{output, run};
use crate::environment::Environment;
use crate::scope::Scope;
use crate::up::up;
use crate::workspace;

/// The cargo arguments that select `seckill-bench` and the programs that it starts.
const PROGRAMS: [&str; 9] = [
    "--workspace",
    "--bin",
    "seckill-bench",
    "--bin",
    "seckill-api",
    "--bin",
    "order-worker",
    "--bin",
    "operator",
];
/// The scenarios of `compare`, if the user names none.
const COMPARED_BY_DEFAULT: [&str; 4] = ["purchase", "sold-out", "redis", "store"];

pub fn bench(scenarios: &[String], rounds: u32) -> Result<()> {
    if let [first, rest @ ..] = scenarios
        && first == "compare"
    {
        let [base, scenarios @ ..] = rest else {
            bail!("compare needs a commit, for example: cargo xtask bench compare main~1 purchase");
        };
        return compare(base, scenarios, rounds);
    }
    let env = up(Scope::Servers)?;
    let (operator_benches, scenarios_with_limits): (Vec<&str>, Vec<&str>) = scenarios
        .iter()
        .map(String::as_str)
        .partition(|scenario| ["rebuild", "operator"].contains(scenario));
    for scenario in operator_benches {
        let name = if scenario == "operator" { "thousand" } else { scenario };
        let bench = ["bench", "--quiet", "-p", "seckill-operator", "--bench", name];
        cargo(&[&bench[..], &["--no-run"]].concat())?;
        let mut command = env.command("cargo");
        command
            .args(bench)
            .arg("--offline")
            .env("SECKILL_KAFKA_VERSION", kafka_version(&env))
            .current_dir(workspace::folder()?);
        run(&mut command)?;
    }
    if scenarios_with_limits.is_empty() {
        return Ok(());
    }
    cargo(&[&["build", "--quiet", "--release"], &PROGRAMS[..]].concat())?;
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
        .env("SECKILL_KAFKA_VERSION", kafka_version(&env))
        .args(scenarios_with_limits.iter().filter(|scenario| **scenario != "all"))
        .current_dir(workspace::folder()?);
    run(&mut command)
}

/// A Kafka server does not tell its version.
fn kafka_version(env: &Environment) -> &str {
    env.versions["kafka"].as_str().unwrap_or_default()
}

/// Measures a commit and this checkout in turn, one round at a time, so that a disturbance affects both. Each is measured
/// by its own benchmarks.
fn compare(base: &str, scenarios: &[String], rounds: u32) -> Result<()> {
    let scenarios: Vec<&str> = match scenarios {
        [] => COMPARED_BY_DEFAULT.to_vec(),
        named => named.iter().map(String::as_str).collect(),
    };
    let commit = format!("{base}^{{commit}}");
    let mut command = Command::new("git");
    command
        .args(["rev-parse", "--verify", "--quiet", &commit])
        .current_dir(workspace::folder()?);
    let commit = output(&mut command).with_context(|| format!("{base} is not a commit of this repository"))?;
    let commit = commit.trim();

    let env = up(Scope::Servers)?;
    let base_programs = build_base(commit)?;
    cargo(&[&["build", "--quiet", "--release"], &PROGRAMS[..]].concat())?;
    let programs = workspace::target_folder()?.join("release");
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        before.push(one_round(&env, &base_programs, &scenarios)?);
        after.push(one_round(&env, &programs, &scenarios)?);
    }
    let rows = comparison(&before, &after)?;
    println!(
        "{:<70}{:>12}{:>12}{:>22}",
        "",
        &commit[..12.min(commit.len())],
        "here",
        "here / commit"
    );
    for row in &rows {
        println!("{row}");
    }
    let file = workspace::folder()?.join("target/bench/compare.json");
    fs::write(
        &file,
        serde_json::to_vec_pretty(&json!({"base": commit, "before": before, "after": after}))?,
    )?;
    eprintln!("each round's figures: {}", file.display());
    Ok(())
}

/// Builds the commit's programs in the cache, and returns their folder.
fn build_base(commit: &str) -> Result<PathBuf> {
    let folder = cache::folder()?.join("compare");
    let checkout = folder.join("checkout");
    let git = |arguments: &[&str], folder: &Path| -> Result<()> {
        output(Command::new("git").args(arguments).current_dir(folder)).map(drop)
    };
    if !checkout.exists() {
        fs::create_dir_all(&folder)?;
        let (from, to) = (
            workspace::folder()?.display().to_string(),
            checkout.display().to_string(),
        );
        git(&["clone", "--quiet", "--no-checkout", &from, &to], &folder)?;
    }
    let from = workspace::folder()?.display().to_string();
    git(&["fetch", "--quiet", &from, commit], &checkout)?;
    git(&["checkout", "--quiet", "--detach", "--force", commit], &checkout)?;
    let target = folder.join("target");
    let mut build = Command::new("cargo");
    build
        .args(["build", "--quiet", "--release"])
        .args(PROGRAMS)
        .env("CARGO_TARGET_DIR", &target)
        .current_dir(&checkout);
    run(&mut build).context("failed to build the commit; it must have this benchmark (verify/bench)")?;
    Ok(target.join("release"))
}

/// Measures one round of each scenario with the given programs.
fn one_round(env: &Environment, programs: &Path, scenarios: &[&str]) -> Result<Value> {
    let report = workspace::folder()?.join("target/bench/round.json");
    let mut command = env.command(programs.join("seckill-bench"));
    command
        .args(["run", "--rounds", "1", "--json", &report.display().to_string()])
        .args(scenarios)
        .stdout(std::process::Stdio::null());
    run(&mut command)?;
    Ok(serde_json::from_slice(&fs::read(&report)?)?)
}

/// A line for each row of the reports: the medians, and the median of the rounds' ratios with their minimum and maximum.
fn comparison(before: &[Value], after: &[Value]) -> Result<Vec<String>> {
    let rows = |report: &Value| -> Vec<(String, f64)> {
        let scenarios = report["scenarios"].as_array().into_iter().flatten();
        let rows = scenarios.flat_map(|scenario| scenario["rows"].as_array().into_iter().flatten());
        let figure = |row: &Value| {
            let unit = row["unit"].as_str().unwrap_or_default();
            let what = row["what"].as_str().unwrap_or_default().split(" (limit").next();
            let what = format!("{}, {unit}", what.unwrap_or_default());
            (what, row["rounds"][0].as_f64().unwrap_or(f64::NAN))
        };
        rows.map(figure).collect()
    };
    let (before, after): (Vec<_>, Vec<_>) = (before.iter().map(rows).collect(), after.iter().map(rows).collect());
    let first = after.first().context("no rounds")?;
    let same = before.iter().chain(&after).all(|round| round.len() == first.len());
    ensure!(same, "the two commits measure different rows");
    let lines = first.iter().enumerate().map(|(n, (what, _))| {
        let (old, new) = (
            sorted(before.iter().map(|round| round[n].1)),
            sorted(after.iter().map(|round| round[n].1)),
        );
        let ratios = sorted(before.iter().zip(&after).map(|(old, new)| new[n].1 / old[n].1));
        let (min, max) = (ratios[0], ratios[ratios.len() - 1]);
        format!(
            "{what:<70}{:>12.2}{:>12.2}{:>22}",
            median(&old),
            median(&new),
            format!("{:.2} ({min:.2} to {max:.2})", median(&ratios))
        )
    });
    Ok(lines.collect())
}

fn sorted(figures: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(figure: f64) -> Value {
        json!({"scenarios": [{"rows": [{"what": "wins (limit: x)", "unit": "/s", "rounds": [figure]}]}]})
    }

    #[test]
    fn ratio_is_computed_for_each_round() {
        let (before, after) = (
            [round(100.0), round(10.0), round(50.0)],
            [round(110.0), round(12.0), round(65.0)],
        );
        let lines = comparison(&before, &after).expect("the same rows");
        assert!(lines[0].starts_with("wins, /s "), "{lines:?}");
        assert!(lines[0].ends_with("1.20 (1.10 to 1.30)"), "{lines:?}");
    }

    #[test]
    fn commits_with_different_rows_are_not_compared() {
        assert!(comparison(&[json!({"scenarios": []})], &[round(1.0)]).is_err());
    }
}
