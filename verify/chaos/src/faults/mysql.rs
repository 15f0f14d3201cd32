//! What happens to MySQL: lost connections, a crash, lost commits.
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use rand::Rng as _;
use tokio::time::sleep;

use crate::context::RunContext;
use crate::harness::{FailpointAction, Target};

/// Connections break again and again, also in transactions.
pub async fn cut_connections(run: &mut RunContext) -> Result<String> {
    for _ in 0..8 {
        run.harness.mysql_forward.cut();
        sleep(Duration::from_millis(150)).await;
    }
    Ok("cut all connections to MySQL, 8 times".into())
}

pub async fn down(run: &mut RunContext) -> Result<String> {
    let harness = &mut run.harness;
    harness.mysql.kill()?;
    harness.run_for(Duration::from_secs(10)).await?;
    harness.restart_mysql().await?;
    Ok("MySQL was down for 10 s".into())
}

pub async fn killed_before_commit(run: &mut RunContext) -> Result<String> {
    let harness = &mut run.harness;
    let owner = harness
        .hit_failpoint(Target::Worker, "worker.before-commit", FailpointAction::Stop)
        .await?;
    harness.mysql.kill()?;
    harness.worker[owner].resume()?;
    harness.restart_mysql().await?;
    Ok("killed MySQL when a worker was about to commit".into())
}

/// MySQL comes back as it was some seconds ago, as after a failover to a replica that lags.
pub async fn lose_tail(run: &mut RunContext) -> Result<String> {
    // No sale may be created meanwhile: the FlashSale would stay, but with another id in the ledger.
    let _no_creation = run.sale_creation.lock().await;
    let harness = &mut run.harness;
    let data = harness.mysql.spec.folder.join("data");
    let copy = harness.mysql.spec.folder.join("copy");
    // The pause makes all files of one instant, as after a power failure.
    harness.mysql.pause()?;
    let copied = copy_folder(&data, &copy);
    harness.mysql.resume()?;
    copied?;
    let lost = Duration::from_millis(run.rng.random_range(1500..4000));
    harness.run_for(lost).await?;
    harness.mysql.kill()?;
    fs::remove_dir_all(&data)?;
    fs::rename(&copy, &data)?;
    harness.restart_mysql().await?;
    Ok(format!("MySQL came back as it was {} ms ago", lost.as_millis()))
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    if !Command::new("cp").arg("-a").arg(from).arg(to).status()?.success() {
        bail!("failed to copy the data folder of MySQL");
    }
    Ok(())
}
