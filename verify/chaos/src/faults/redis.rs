//! What happens to Redis: lost data, lost scripts, a wrong clock, a failover.
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rand::Rng as _;
use tokio::time::sleep;

use crate::check::RECOVERY_TIMEOUT;
use crate::context::{FaultSale, RunContext};
use crate::evidence::ClockStep;
use crate::harness::Target;

/// An operator first waits for a Redis that does not answer.
const SETTLEMENT_WITHOUT_REDIS: Duration = Duration::from_secs(60);

/// The data with which Redis restarts.
#[derive(Debug, Clone, Copy)]
pub enum RedisData {
    Aof,
    TruncatedAof,
    Nothing,
}

/// Connections break again and again, also while scripts run.
pub async fn cut_connections(run: &mut RunContext) -> Result<String> {
    for _ in 0..8 {
        run.harness.cut_redis().await?;
        sleep(Duration::from_millis(150)).await;
    }
    Ok("cut all connections to Redis, 8 times".into())
}

pub async fn flush_all(run: &mut RunContext) -> Result<String> {
    run.harness.flush_redis().await?;
    Ok("FLUSHALL".into())
}

pub async fn flush_scripts(run: &mut RunContext) -> Result<String> {
    run.harness.redis_primaries(&["SCRIPT", "FLUSH"]).await?;
    Ok("SCRIPT FLUSH".into())
}

/// The clock of Redis's host is wrong for some seconds.
pub async fn step_clock(run: &mut RunContext) -> Result<String> {
    let ms: i64 = run.rng.random_range(2_000..20_000);
    let ms = if run.rng.random() { ms } else { -ms };
    let from = run.history.now();
    run.harness.set_clock_offset(Target::Redis, ms)?;
    run.harness.run_for(Duration::from_secs(3)).await?;
    run.harness.set_clock_offset(Target::Redis, 0)?;
    run.clock_steps.push(ClockStep {
        from,
        to: run.history.now(),
        offset_ms: ms.unsigned_abs(),
        preheated: None,
    });
    Ok(format!("set the clock of Redis {ms} ms off for 3 s"))
}

pub async fn restart(run: &mut RunContext, data: RedisData) -> Result<String> {
    let redis = &mut run.harness.redis[run.harness.primary];
    redis.kill()?;
    let files = redis.spec.folder.join("appendonlydir");
    let with = match data {
        RedisData::Aof => "with its AOF".to_owned(),
        RedisData::TruncatedAof => {
            let newest = fs::read_dir(&files)?
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| path.to_string_lossy().ends_with(".incr.aof"))
                .max_by_key(|path| path.metadata().and_then(|m| m.modified()).ok());
            let newest = newest.context("Redis has no append-only file")?;
            let whole = newest.metadata()?.len();
            let kept = whole - (whole / 50 + run.rng.random_range(100..4000)).min(whole);
            fs::File::options().write(true).open(&newest)?.set_len(kept)?;
            format!("with {kept} of {whole} bytes of its AOF")
        }
        RedisData::Nothing => {
            fs::remove_dir_all(&files)?;
            "without data".to_owned()
        }
    };
    run.harness.restart_primary().await?;
    Ok(format!("killed redis-{} and restarted it {with}", run.harness.primary))
}

/// The replica is promoted. The old primary still serves those connected to it, and is demoted a moment later. Every
/// second failover promotes a server that was demoted before.
pub async fn fail_over(run: &mut RunContext) -> Result<String> {
    let harness = &mut run.harness;
    harness.wait_for_replica().await?;
    let (old, new) = (harness.primary, 1 - harness.primary);
    harness.promote().await?;
    let split = Duration::from_millis(run.rng.random_range(0..3000));
    sleep(split).await;
    harness.redis_forwards.cut();
    harness.demote_other().await?;
    let ms = split.as_millis();
    Ok(format!(
        "promoted redis-{new}; redis-{old} still took purchases for {ms} ms, then was demoted"
    ))
}

/// A planned switchover: the old primary becomes a replica, and all connections to it stay alive.
pub async fn switch_over(run: &mut RunContext) -> Result<String> {
    let harness = &mut run.harness;
    harness.wait_for_replica().await?;
    let (old, new) = (harness.primary, 1 - harness.primary);
    harness.promote().await?;
    harness.demote_other().await?;
    Ok(format!(
        "promoted redis-{new} and demoted redis-{old}; no connection was cut"
    ))
}

/// The primary hangs, its replica is promoted, and the old primary comes back: it is still a primary, its replication id is
/// valid, and connections to it are alive.
pub async fn hang_and_return(run: &mut RunContext) -> Result<String> {
    run.harness.wait_for_replica().await?;
    let (old, new) = (run.harness.primary, 1 - run.harness.primary);
    run.harness.redis[old].pause()?;
    run.harness.promote().await?;
    if run.win_within(RECOVERY_TIMEOUT).await?.is_none() {
        let failure = format!("selling did not resume at redis-{new} while redis-{old} hung");
        run.unrecovered.push(failure);
    }
    run.harness.redis[old].resume()?;
    run.harness.run_for(Duration::from_secs(3)).await?;
    if run.win_within(RECOVERY_TIMEOUT).await?.is_none() {
        let failure = format!("selling did not go on after redis-{old} came back as a primary");
        run.unrecovered.push(failure);
    }
    run.harness.demote_other().await?;
    Ok(format!(
        "redis-{old} hung and redis-{new} was promoted; redis-{old} came back as a primary, and was demoted later"
    ))
}

/// Redis is lost with all its data just before a sale ends. The sale settles nevertheless.
pub async fn gone_at_the_end(run: &mut RunContext) -> Result<String> {
    let sale = run.open_sale("alone", FaultSale::lasting(6)).await?;
    let end = run.sales.ends().get(&sale).copied().unwrap_or_default();
    let left = end.saturating_sub(run.history.started_at + run.history.now());
    run.harness.run_for(Duration::from_millis(left)).await?;
    for redis in &mut run.harness.redis {
        redis.kill()?;
        fs::remove_dir_all(redis.spec.folder.join("appendonlydir"))?;
    }
    if !run.settles_within(&sale, SETTLEMENT_WITHOUT_REDIS).await? {
        let failure = format!("{sale} did not settle while Redis was gone");
        run.unrecovered.push(failure);
    }
    Ok(format!("all Redis were gone at the end of {sale}, with all data"))
}
