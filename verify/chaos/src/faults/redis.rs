//! What happens to Redis: lost data, lost scripts, a wrong clock, a failover.
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rand::Rng as _;
use tokio::time::sleep;

use crate::context::RunContext;
use crate::evidence::ClockStep;

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
        run.harness.redis_forward.cut();
        sleep(Duration::from_millis(150)).await;
    }
    Ok("cut all connections to Redis, 8 times".into())
}

pub async fn flush_all(run: &mut RunContext) -> Result<String> {
    run.harness.flush_redis().await?;
    Ok("FLUSHALL".into())
}

pub async fn flush_scripts(run: &mut RunContext) -> Result<String> {
    run.harness.redis(run.harness.primary, &["SCRIPT", "FLUSH"]).await?;
    Ok("SCRIPT FLUSH".into())
}

/// The clock of Redis's host is wrong for some seconds.
pub async fn step_clock(run: &mut RunContext) -> Result<String> {
    let ms: i64 = run.rng.random_range(2_000..20_000);
    let ms = if run.rng.random() { ms } else { -ms };
    let from = run.history.now();
    run.harness.set_redis_clock_offset(ms)?;
    run.harness.run_for(Duration::from_secs(3)).await?;
    run.harness.set_redis_clock_offset(0)?;
    run.clock_steps.push(ClockStep {
        from,
        to: run.history.now(),
        offset_ms: ms.unsigned_abs(),
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
    harness.redis(new, &["REPLICAOF", "NO", "ONE"]).await?;
    // Existing connections still lead to the old primary.
    harness.redis_forward.redirect_to(harness.redis_address(new));
    let split = Duration::from_millis(run.rng.random_range(0..3000));
    sleep(split).await;
    harness.redis_forward.cut();
    harness.primary = new;
    let address = harness.redis_address(new);
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    harness.redis(old, &["REPLICAOF", &host, &port]).await?;
    let ms = split.as_millis();
    Ok(format!(
        "promoted redis-{new}; redis-{old} still took purchases for {ms} ms, then was demoted"
    ))
}
