//! A program dies or stops at a named place in its code.
use std::time::Duration;

use anyhow::Result;

use super::processes::LONGER_THAN_A_SESSION;
use crate::context::RunContext;
use crate::harness::{FailpointAction, Target};

pub async fn api_aborts(run: &mut RunContext, place: &str) -> Result<String> {
    let harness = &mut run.harness;
    let which = harness
        .hit_failpoint(Target::Api, place, FailpointAction::Abort)
        .await?;
    harness.run_for(Duration::from_millis(500)).await?;
    Ok(format!("{} aborted at {place}", harness.api[which].name))
}

pub async fn worker_aborts(run: &mut RunContext, place: &str) -> Result<String> {
    let harness = &mut run.harness;
    let owner = harness
        .hit_failpoint(Target::Worker, place, FailpointAction::Abort)
        .await?;
    harness.run_for(Duration::from_millis(500)).await?;
    Ok(format!("{} aborted at {place}", harness.worker[owner].name))
}

/// The relay needs an outbox entry, so an API process is stopped between the script and the log. A buyer who retries
/// publishes the entry too; if that comes before the relay, the attempt is repeated.
pub async fn relay_aborts(run: &mut RunContext, place: &str) -> Result<String> {
    let harness = &mut run.harness;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let api = harness
            .hit_failpoint(Target::Api, "api.before-append", FailpointAction::Stop)
            .await?;
        harness.arm_failpoint(Target::Worker, place, FailpointAction::Abort)?;
        let reached = harness
            .wait_for_failpoint_within(Target::Worker, place, Duration::from_secs(10))
            .await;
        harness.api[api].resume()?;
        match reached {
            Ok(worker) => {
                let (worker, api) = (&harness.worker[worker].name, &harness.api[api].name);
                return Ok(format!("{api} stopped before its append; {worker} aborted at {place}"));
            }
            Err(_) if attempts < 5 => harness.run_for(Duration::from_secs(1)).await?,
            Err(error) => return Err(error),
        }
    }
}

/// The owner of a partition loses it at this place, and goes on as if it still owned it.
pub async fn worker_outlives_its_session(run: &mut RunContext, place: &str) -> Result<String> {
    let harness = &mut run.harness;
    let owner = harness
        .hit_failpoint(Target::Worker, place, FailpointAction::Stop)
        .await?;
    harness.run_for(LONGER_THAN_A_SESSION).await?;
    harness.worker[owner].resume()?;
    let (name, seconds) = (&harness.worker[owner].name, LONGER_THAN_A_SESSION.as_secs());
    Ok(format!("{name} stopped at {place} for {seconds} s"))
}
