//! Builds and runs the benchmarks.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cache::{self, output, shown};
use crate::environment::Environment;
use crate::test::cargo;
use crate::{target_folder, workspace};

/// What `seckill-bench` needs: itself, and the programs that it starts.
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
/// What a change is compared by, if nothing else is said.
const COMPARED: [&str; 4] = ["purchase", "sold-out", "redis", "store"];

pub fn bench(scenarios: &[String], rounds: u32) -> Result<()> {
    if let [compared, rest @ ..] = scenarios
        && compared == "compare"
    {
        let [base, scenarios @ ..] = rest else {
            bail!("compare: with which commit? For example: cargo xtask bench compare main~1 purchase");
        };
        return compare(base, scenarios, rounds);
    }
    let env = crate::up(crate::Up::Servers)?;
    let (of_operator, beside_limits): (Vec<&str>, Vec<&str>) = scenarios
        .iter()
        .map(String::as_str)
        .partition(|scenario| ["rebuild", "operator"].contains(scenario));
    for scenario in of_operator {
        let name = if scenario == "operator" { "thousand" } else { scenario };
        let bench = ["bench", "--quiet", "-p", "seckill-operator", "--bench", name];
        cargo(&[&bench[..], &["--no-run"]].concat())?;
        let mut command = env.command("cargo");
        command.args(bench).arg("--offline").current_dir(workspace()?);
        run(&mut command)?;
    }
    if beside_limits.is_empty() {
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

/// Both commits' own benchmarks by turns, a round of each at a time: what disturbs one disturbs the other.
fn compare(base: &str, scenarios: &[String], rounds: u32) -> Result<()> {
    let scenarios: Vec<&str> = match scenarios {
        [] => COMPARED.to_vec(),
        named => named.iter().map(String::as_str).collect(),
    };
    let commit = format!("{base}^{{commit}}");
    let mut command = Command::new("git");
    command
        .args(["rev-parse", "--verify", "--quiet", &commit])
        .current_dir(workspace()?);
    let commit = output(&mut command).with_context(|| format!("{base} is no commit of this repository"))?;
    let commit = commit.trim();

    let env = crate::up(crate::Up::Servers)?;
    let base_programs = build_base(commit)?;
    cargo(&[&["build", "--quiet", "--release"], &PROGRAMS[..]].concat())?;
    let programs = target_folder()?.join("release");
    // Each scenario's rows, in the rounds.
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        before.push(one_round(&env, &base_programs, &scenarios)?);
        after.push(one_round(&env, &programs, &scenarios)?);
    }
    let rows = compared(&before, &after)?;
    println!(
        "{:<70}{:>12}{:>12}{:>22}",
        "",
        &commit[..12.min(commit.len())],
        "here",
        "here / there"
    );
    for row in &rows {
        println!("{row}");
    }
    let file = workspace()?.join("target/bench/compare.json");
    fs::write(
        &file,
        serde_json::to_vec_pretty(&json!({"base": commit, "before": before, "after": after}))?,
    )?;
    eprintln!("each round's figures: {}", file.display());
    Ok(())
}

/// The commit's programs, built in the cache.
fn build_base(commit: &str) -> Result<PathBuf> {
    let folder = cache::folder()?.join("compare");
    let checkout = folder.join("checkout");
    let git = |arguments: &[&str], folder: &Path| -> Result<()> {
        output(Command::new("git").args(arguments).current_dir(folder)).map(drop)
    };
    if !checkout.exists() {
        fs::create_dir_all(&folder)?;
        let (from, to) = (workspace()?.display().to_string(), checkout.display().to_string());
        git(&["clone", "--quiet", "--no-checkout", &from, &to], &folder)?;
    }
    let from = workspace()?.display().to_string();
    git(&["fetch", "--quiet", &from, commit], &checkout)?;
    git(&["checkout", "--quiet", "--detach", "--force", commit], &checkout)?;
    let target = folder.join("target");
    let mut build = Command::new("cargo");
    build
        .args(["build", "--quiet", "--release"])
        .args(PROGRAMS)
        .env("CARGO_TARGET_DIR", &target)
        .current_dir(&checkout);
    run(&mut build).context("the commit must have this benchmark (bench/)")?;
    Ok(target.join("release"))
}

/// The figures of one round of each scenario, by a commit's own programs.
fn one_round(env: &Environment, programs: &Path, scenarios: &[&str]) -> Result<Value> {
    let report = workspace()?.join("target/bench/round.json");
    let mut command = env.command(programs.join("seckill-bench"));
    command
        .args(["run", "--rounds", "1", "--json", &report.display().to_string()])
        .args(scenarios)
        .stdout(std::process::Stdio::null());
    run(&mut command)?;
    Ok(serde_json::from_slice(&fs::read(&report)?)?)
}

/// A line for each row of the reports: the medians, and the median of the rounds' ratios with the least and the most.
fn compared(before: &[Value], after: &[Value]) -> Result<Vec<String>> {
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
    let named = after.first().context("no rounds")?;
    let alike = before.iter().chain(&after).all(|round| round.len() == named.len());
    ensure!(alike, "the two commits do not measure the same");
    let lines = named.iter().enumerate().map(|(n, (what, _))| {
        let (old, new) = (
            sorted(before.iter().map(|round| round[n].1)),
            sorted(after.iter().map(|round| round[n].1)),
        );
        let ratios = sorted(before.iter().zip(&after).map(|(old, new)| new[n].1 / old[n].1));
        let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
        format!(
            "{what:<70}{:>12.2}{:>12.2}{:>22}",
            middle(&old),
            middle(&new),
            format!("{:.2} ({least:.2} to {most:.2})", middle(&ratios))
        )
    });
    Ok(lines.collect())
}

fn sorted(figures: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures
}

fn middle(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(figure: f64) -> Value {
        json!({"scenarios": [{"rows": [{"what": "wins (limit: x)", "unit": "/s", "rounds": [figure]}]}]})
    }

    #[test]
    fn the_ratio_is_that_of_each_round() {
        let (before, after) = (
            [round(100.0), round(10.0), round(50.0)],
            [round(110.0), round(12.0), round(65.0)],
        );
        let lines = compared(&before, &after).expect("alike");
        assert!(lines[0].starts_with("wins, /s "), "{lines:?}");
        assert!(lines[0].ends_with("1.20 (1.10 to 1.30)"), "{lines:?}");
    }

    #[test]
    fn commits_that_measure_other_things_are_not_compared() {
        assert!(compared(&[json!({"scenarios": []})], &[round(1.0)]).is_err());
    }
}
