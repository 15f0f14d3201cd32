//! The index is lost, and something else goes wrong before it is rebuilt.
use std::time::Duration;

use anyhow::Result;
use seckill_crds::Phase;
use serde_json::json;
use tokio::time::sleep;

use super::redis;
use crate::context::RunContext;
use crate::crowd::MAIN_SALE;
use crate::evidence::Suspension;
use crate::harness::{FailpointAction, LEASE_DURATION, Target};

/// The fail point between writing the index and installing it.
const BEFORE_INSTALL: &str = "rebuild.R3";

pub async fn operator_aborts(run: &mut RunContext, step: &str) -> Result<String> {
    let which = flush_and_hit(run, step, FailpointAction::Abort).await?;
    run.harness.run_for(Duration::from_millis(500)).await?;
    Ok(format!(
        "FLUSHALL; {} aborted at {step}",
        run.harness.operator[which].name
    ))
}

/// The other operator takes over and rebuilds; then the first one goes on with its rebuild.
pub async fn operator_outlives_its_lease(run: &mut RunContext, step: &str) -> Result<String> {
    let which = flush_and_hit(run, step, FailpointAction::Stop).await?;
    let time = LEASE_DURATION + Duration::from_secs(3);
    run.harness.run_for(time).await?;
    run.harness.operator[which].resume()?;
    let (name, seconds) = (&run.harness.operator[which].name, time.as_secs());
    Ok(format!("FLUSHALL; {name} stopped at {step} for {seconds} s"))
}

pub async fn flush_before_install(run: &mut RunContext) -> Result<String> {
    let which = flush_and_hit(run, BEFORE_INSTALL, FailpointAction::Stop).await?;
    run.harness.flush_redis().await?;
    run.harness.operator[which].resume()?;
    Ok("FLUSHALL, and again between writing the index and installing it".into())
}

pub async fn failover_before_install(run: &mut RunContext) -> Result<String> {
    let which = flush_and_hit(run, BEFORE_INSTALL, FailpointAction::Stop).await?;
    let failover = redis::fail_over(run).await;
    run.harness.operator[which].resume()?;
    Ok(format!(
        "FLUSHALL, and between writing the index and installing it: {}",
        failover?
    ))
}

/// Loses the index, and waits until an operator reaches this step of the rebuild. Returns which operator.
async fn flush_and_hit(run: &mut RunContext, step: &str, action: FailpointAction) -> Result<usize> {
    run.harness.arm_failpoint(Target::Operator, step, action)?;
    run.harness.flush_redis().await?;
    run.harness.wait_for_failpoint(Target::Operator, step).await
}

/// An API process stops between the script and the log while the index is rebuilt: its record comes after the barrier.
pub async fn record_behind_barrier(run: &mut RunContext) -> Result<String> {
    let harness = &mut run.harness;
    let which = harness
        .hit_failpoint(Target::Api, "api.before-append", FailpointAction::Stop)
        .await?;
    harness.flush_redis().await?;
    harness.run_for(Duration::from_secs(4)).await?;
    harness.api[which].resume()?;
    let name = &harness.api[which].name;
    Ok(format!("{name} stopped before its append; FLUSHALL meanwhile"))
}

/// The workers stand still while the index is rebuilt, so most of its orders come from the log.
pub async fn rebuild_from_log(run: &mut RunContext) -> Result<String> {
    let harness = &mut run.harness;
    for worker in &harness.worker {
        worker.pause()?;
    }
    harness.run_for(Duration::from_secs(2)).await?;
    harness.flush_redis().await?;
    harness.run_for(Duration::from_secs(3)).await?;
    for worker in &harness.worker {
        worker.resume()?;
    }
    Ok("FLUSHALL while both workers were paused for 5 s".into())
}

/// Units are reserved that never reach the log: the API processes and Redis are lost while Kafka stands still.
pub async fn sold_and_lost(run: &mut RunContext) -> Result<String> {
    let harness = &mut run.harness;
    for broker in &harness.kafka {
        broker.pause()?;
    }
    sleep(Duration::from_millis(1500)).await;
    for api in &mut harness.api {
        api.kill()?;
    }
    harness.flush_redis().await?;
    for broker in &harness.kafka {
        broker.resume()?;
    }
    harness.restart_programs()?;
    Ok("paused Kafka for 1.5 s; meanwhile killed both API processes, then FLUSHALL".into())
}

pub async fn suspend_sale(run: &mut RunContext) -> Result<String> {
    run.harness.flush_redis().await?;
    run.sales.edit(MAIN_SALE, json!({"suspend": true})).await?;
    run.sales
        .wait_for_phase(MAIN_SALE, &[Phase::Suspended], Duration::from_secs(45))
        .await?;
    run.harness.run_for(Duration::from_millis(1500)).await?;
    let from = run.history.now();
    run.harness.run_for(Duration::from_secs(2)).await?;
    let to = run.history.now();
    run.sales.edit(MAIN_SALE, json!({"suspend": false})).await?;
    run.suspensions.push(Suspension {
        sale: MAIN_SALE.into(),
        from,
        to,
    });
    Ok("FLUSHALL; suspended the sale during the recovery for some seconds".into())
}

pub async fn end_sale(run: &mut RunContext) -> Result<String> {
    run.harness.flush_redis().await?;
    let sale = run.current_sale.lock().await.clone();
    let how = match run.end_sale(&sale).await? {
        true => "was ended early",
        false => "ended",
    };
    Ok(format!("FLUSHALL; {sale} {how} during the recovery"))
}

pub async fn raise_stock(run: &mut RunContext) -> Result<String> {
    let stock = run.sales.stock(MAIN_SALE).await? + 50;
    run.harness.flush_redis().await?;
    run.sales.edit(MAIN_SALE, json!({"stock": stock})).await?;
    Ok(format!("FLUSHALL; raised the stock to {stock} during the recovery"))
}
