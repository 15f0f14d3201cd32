//! The index is lost, and something else goes wrong before it is rebuilt.
use std::time::Duration;

use anyhow::{Context as _, Result};
use seckill_crds::Phase;
use seckill_protocol::Record;
use serde_json::json;
use tokio::time::sleep;

use super::{promotions, redis};
use crate::check::RECOVERY_TIMEOUT;
use crate::context::RunContext;
use crate::crowd::MAIN_SALE;
use crate::evidence::Suspension;
use crate::flash_sales::NAMESPACE;
use crate::harness::{FailpointAction, LEASE_DURATION, Target};
use crate::setup::Topology;

/// The fail point between the acknowledgement of a barrier and its read-back.
const BARRIER_ACKNOWLEDGED: &str = "rebuild.barrier-acknowledged";
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
    let failover = match run.harness.redis_servers.topology {
        Topology::Single => redis::fail_over(run).await,
        Topology::Sentinel | Topology::Cluster => promotions::begin_hand_over(run).await,
    };
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

/// An API process stops, and misses a failover. When it goes on, it is connected to the old primary, and can't read the log or
/// the ledger: it must not tell buyers of the new primary that they bought nothing.
pub async fn api_misses_failover(run: &mut RunContext) -> Result<String> {
    let which = run.which;
    run.harness.wait_for_replica().await?;
    run.harness.api[which].pause()?;
    // The answer to its last fetch arrives, so it will not see the next barrier.
    run.harness.run_for(Duration::from_secs(1)).await?;
    run.harness.promote().await?;
    run.harness.redis_forwards.cut_all_but(which);
    let promoted = run.history.now();
    run.win_within(RECOVERY_TIMEOUT)
        .await?
        .context("nobody won at the new primary")?;
    run.harness.run_for(Duration::from_secs(2)).await?;

    for server in run.harness.kafka.iter().chain([&run.harness.mysql]) {
        server.pause()?;
    }
    run.harness.api[which].resume()?;
    let winners = run.history.winners_since(MAIN_SALE, promoted, 20);
    run.crowd.ask_again(&winners, which).await;
    for server in run.harness.kafka.iter().chain([&run.harness.mysql]) {
        server.resume()?;
    }
    run.harness.redis_forwards.cut();
    run.harness.demote_other().await?;
    let (name, count) = (&run.harness.api[which].name, winners.len());
    Ok(format!(
        "{name} missed a failover, and {count} winners asked it for their orders"
    ))
}

/// Kafka acknowledges a barrier and loses it, and another record takes its offset. Nothing else is lost.
pub async fn barrier_is_lost(run: &mut RunContext) -> Result<String> {
    let _no_creation = run.sale_creation.clone().lock_owned().await;
    let harness = &mut run.harness;
    harness.held = vec![Target::Api, Target::Worker];
    for process in harness.api.iter_mut().chain(&mut harness.worker) {
        process.kill()?;
    }
    sleep(Duration::from_secs(1)).await;
    let ledger = harness.ledger().await?;
    let sale = ledger.sale_by_name(NAMESPACE, NAMESPACE, MAIN_SALE).await?;
    let sale = sale.context("the ledger does not know the main sale")?;
    for broker in &harness.kafka {
        broker.copy_data()?;
    }

    harness.arm_failpoint(Target::Operator, BARRIER_ACKNOWLEDGED, FailpointAction::Wait)?;
    let figures = format!("{{{}}}:m", sale.id);
    harness.redis(harness.primary, &["DEL", &figures]).await?;
    harness
        .wait_for_failpoint(Target::Operator, BARRIER_ACKNOWLEDGED)
        .await?;
    for broker in &mut harness.kafka {
        broker.kill_and_restore_data()?;
    }
    harness.restart_kafka().await?;
    let (id, total) = (sale.id, sale.total);
    let record = Record::Total { sale: id, total };
    harness.log().await?.append(sale.partition, &record).await?;

    harness.release_failpoints()?;
    harness.held.clear();
    harness.run_for(Duration::from_secs(3)).await?;
    // A leader remembers what it has appended, and that may be lost too.
    for operator in &mut harness.operator {
        operator.kill()?;
    }
    Ok("Kafka lost a barrier that it had acknowledged, and a TOTAL took its offset".into())
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
