//! What happens to MySQL: lost connections, a crash, lost commits.
use std::time::Duration;

use anyhow::Result;
use rand::Rng as _;
use tokio::time::sleep;

use crate::context::{FaultSale, RunContext};
use crate::harness::{FailpointAction, Target};

/// From the death of MySQL to the decision that its replica takes its place.
const DETECTION: Duration = Duration::from_secs(3);

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

/// MySQL dies, and a replica that has every acknowledged commit takes its place.
pub async fn fail_over(run: &mut RunContext) -> Result<String> {
    let harness = &mut run.harness;
    harness.join_mysql_replica().await?;
    harness.mysql.kill()?;
    harness.run_for(DETECTION).await?;
    harness.promote_mysql().await?;
    Ok(format!("killed MySQL; {} took its place", harness.mysql.name))
}

/// MySQL comes back as it was some seconds ago, as after a failover to a replica that lags.
pub async fn lose_tail(run: &mut RunContext) -> Result<String> {
    let _no_creation = run.sale_creation.clone().lock_owned().await;
    run.harness.mysql.copy_data()?;
    let lost = Duration::from_millis(run.rng.random_range(1500..4000));
    run.harness.run_for(lost).await?;
    run.harness.mysql.kill_and_restore_data()?;
    run.harness.restart_mysql().await?;
    Ok(format!("MySQL came back as it was {} ms ago", lost.as_millis()))
}

/// The lost tail begins before a sale was created that buyers have bought from.
pub async fn lose_sale(run: &mut RunContext) -> Result<String> {
    let _no_creation = run.sale_creation.clone().lock_owned().await;
    run.harness.mysql.copy_data()?;
    let sale = run.open_sale("lost", FaultSale::lasting(20)).await?;
    run.harness.run_for(Duration::from_secs(4)).await?;
    run.harness.mysql.kill_and_restore_data()?;
    run.harness.restart_mysql().await?;
    Ok(format!("MySQL came back as it was before {sale} was created"))
}
