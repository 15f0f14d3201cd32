//! Restarts, an upgrade and a rollback, while buyers buy: no purchase may fail.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use seckill_e2e::{Release, Scenario, repository};

use crate::open_sale::OpenSale;

pub const SCENARIOS: &[Scenario] = &[
    (
        "rolling_restarts_of_all_programs_fail_no_purchase",
        rolling_restarts_fail_no_purchase,
    ),
    (
        "an_upgrade_and_a_rollback_fail_no_purchase",
        an_upgrade_and_a_rollback_fail_no_purchase,
    ),
];

fn rolling_restarts_fail_no_purchase(release: &Release) -> Result<()> {
    let mut sale = OpenSale::open(release, "restarts")?;
    for program in ["api", "worker", "operator"] {
        sale.buy_during(&format!("restart of {program}"), || release.restart(program))?;
    }
    sale.settle()
}

/// From the chart of the commit before to this one, and back.
fn an_upgrade_and_a_rollback_fail_no_purchase(release: &Release) -> Result<()> {
    let before = PreviousChart::export()?;
    release.upgrade_to(&before.path(), &[])?;
    let mut sale = OpenSale::open(release, "upgrade")?;
    // A changed annotation starts all pods again, also when the two charts are the same.
    let changed = ["--set", "podAnnotations.upgraded=yes"];
    sale.buy_during("upgrade", || release.upgrade(&changed).map(drop))?;
    let back = [
        "rollback",
        &release.name,
        "-n",
        &release.namespace,
        "--wait",
        "--timeout",
        "5m",
    ];
    sale.buy_during("rollback", || release.cluster.helm(&back).map(drop))?;
    sale.settle()?;
    release.upgrade(&[]).map(drop)
}

/// The chart of the commit before, in a folder that is removed at the end.
struct PreviousChart(PathBuf);

impl PreviousChart {
    fn export() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("seckill-previous-chart-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let exported = PreviousChart(folder);
        let archive = exported.0.join("chart.tar");
        let output = ["archive", "--output", path_text(&archive)?, "HEAD^", "helm/seckill"];
        run(Command::new("git").current_dir(repository()).args(output))?;
        run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&exported.0))?;
        Ok(exported)
    }

    fn path(&self) -> String {
        self.0.join("helm/seckill").display().to_string()
    }
}

impl Drop for PreviousChart {
    fn drop(&mut self) {
        // What is left in the folder for temporary files does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn path_text(path: &Path) -> Result<&str> {
    path.to_str().context("the folder for temporary files is not UTF-8")
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
