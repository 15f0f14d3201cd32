//! Any process is killed or paused.
use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use crate::context::RunContext;
use crate::harness::Target;

const PAUSE_DURATION: Duration = Duration::from_secs(5);
/// Longer than the session timeout of a worker in the consumer group, which is 6 s.
pub const LONGER_THAN_A_SESSION: Duration = Duration::from_secs(9);

pub async fn kill(run: &mut RunContext, target: Target) -> Result<String> {
    let which = run.which;
    let process = run.harness.process(target, which);
    process.kill()?;
    let name = process.name.clone();
    run.harness.restart(target, which).await?;
    Ok(format!("killed {name} and restarted it"))
}

pub async fn pause(run: &mut RunContext, target: Target) -> Result<String> {
    let which = run.which;
    let process = run.harness.process(target, which);
    process.pause()?;
    let name = process.name.clone();
    sleep(PAUSE_DURATION).await;
    run.harness.process(target, which).resume()?;
    Ok(format!("paused {name} for {} s", PAUSE_DURATION.as_secs()))
}

/// The worker loses its partitions, and resumes as if it still owned them.
pub async fn worker_outlives_its_session(run: &mut RunContext) -> Result<String> {
    let (harness, which) = (&mut run.harness, run.which);
    harness.worker[which].pause()?;
    harness.run_for(LONGER_THAN_A_SESSION).await?;
    harness.worker[which].resume()?;
    let (name, seconds) = (&harness.worker[which].name, LONGER_THAN_A_SESSION.as_secs());
    Ok(format!(
        "paused {name} for {seconds} s, longer than its session timeout"
    ))
}
