//! Sentinels or a Cluster promote a replica of the primary that has the main sale, or a Cluster moves its slot.
use std::time::Duration;

use anyhow::{Context as _, Result};
use rand::Rng as _;

use crate::check::RECOVERY_TIMEOUT;
use crate::context::RunContext;
use crate::evidence::Promotion;
use crate::history::At;

pub async fn kill_primary(run: &mut RunContext) -> Result<String> {
    let (old, replicas) = primary_and_replicas(run).await?;
    let from = run.history.now();
    run.harness.redis[old].kill()?;
    let new = wait_for_promotion(run, &replicas, from).await?;
    sells(run, &format!("at redis-{new} after redis-{old} was killed")).await?;
    run.harness.start_redis(old)?;
    run.harness.wait_for_whole_redis().await?;
    Ok(format!(
        "killed redis-{old}, redis-{new} was promoted, and redis-{old} came back as a replica"
    ))
}

/// The old primary hands over. A Cluster cuts no connection; a Sentinel cuts those of the old primary when it demotes it.
pub async fn hand_over(run: &mut RunContext) -> Result<String> {
    let did = begin_hand_over(run).await?;
    sells(run, &format!("after this: {did}")).await?;
    run.harness.wait_for_whole_redis().await?;
    Ok(did)
}

/// Returns as soon as there is a new primary.
pub async fn begin_hand_over(run: &mut RunContext) -> Result<String> {
    let (old, replicas) = primary_and_replicas(run).await?;
    let replica = *replicas.first().context("there is no replica")?;
    let from = run.history.now();
    let servers = run.harness.redis_servers.clone();
    run.harness.run_until(servers.hand_over_to(replica)).await?;
    let new = wait_for_promotion(run, &replicas, from).await?;
    Ok(format!("redis-{old} handed over to redis-{new}"))
}

/// The old primary comes back after the promotion: until somebody demotes it, it is a primary with a valid replication id,
/// and connections to it are alive.
pub async fn hang_and_return(run: &mut RunContext) -> Result<String> {
    let (old, replicas) = primary_and_replicas(run).await?;
    let from = run.history.now();
    run.harness.redis[old].pause()?;
    let new = wait_for_promotion(run, &replicas, from).await?;
    sells(run, &format!("at redis-{new} while redis-{old} hung")).await?;
    run.harness.redis[old].resume()?;
    run.harness.run_for(Duration::from_secs(2)).await?;
    sells(run, &format!("after redis-{old} came back")).await?;
    run.harness.wait_for_whole_redis().await?;
    Ok(format!(
        "redis-{old} hung, redis-{new} was promoted, and redis-{old} came back as a primary, then as a replica"
    ))
}

/// The slot of the main sale moves to another primary, key by key, while buyers come.
pub async fn move_slot(run: &mut RunContext) -> Result<String> {
    let sale = run.harness.main_sale.context("the main sale is not known")?;
    let servers = run.harness.redis_servers.clone();
    let old = run.harness.primary;
    let mut others = servers.primaries().await;
    others.retain(|which| *which != old);
    let new = *others
        .get(run.which % others.len().max(1))
        .context("there is no other primary")?;
    let step = Duration::from_millis(run.rng.random_range(0..300));
    let from = run.history.now();
    let slot = run.harness.run_until(servers.move_slot(sale, old, new, step)).await?;
    let promoted_ms = run.history.now();
    run.promotion = Some(Promotion {
        from_ms: from,
        promoted_ms,
    });
    sells(run, &format!("after its slot moved to redis-{new}")).await?;
    run.harness.wait_for_whole_redis().await?;
    let ms = step.as_millis();
    Ok(format!(
        "slot {slot} moved from redis-{old} to redis-{new}, a key in {ms} ms"
    ))
}

/// The primary of the main sale, and the replicas of which one can be promoted.
async fn primary_and_replicas(run: &mut RunContext) -> Result<(usize, Vec<usize>)> {
    run.harness.wait_for_whole_redis().await?;
    let old = run.harness.primary;
    let replicas = run.harness.redis_servers.replicas_of(old).await;
    Ok((old, replicas))
}

async fn wait_for_promotion(run: &mut RunContext, replicas: &[usize], from_ms: At) -> Result<usize> {
    run.harness.wait_for_promotion(replicas).await?;
    let promoted_ms = run.history.now();
    run.promotion = Some(Promotion { from_ms, promoted_ms });
    Ok(run.harness.primary)
}

/// Waits for a buyer of the main sale who wins. A long wait is a violation.
async fn sells(run: &mut RunContext, whereabouts: &str) -> Result<()> {
    if run.win_within(RECOVERY_TIMEOUT).await?.is_none() {
        run.unrecovered.push(format!("nobody bought {whereabouts}"));
    }
    Ok(())
}
