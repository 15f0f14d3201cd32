//! Partitions that are added to the topic while this process runs. A new sale may be in one of them.
use std::time::Duration;

use anyhow::Context as _;
use seckill_ledger::Ledger;
use seckill_order_log::{OrderLog, Tail};
use seckill_service::{FailureLog, Shutdown};
use tokio::time::sleep;

/// No sale starts sooner than this after its creation: its lead time is at least 5 s.
const CHECK_INTERVAL: Duration = Duration::from_secs(3);

/// Follows added partitions until shutdown.
pub async fn follow_added(log: OrderLog, tail: Tail, ledger: Ledger, shutdown: Shutdown) {
    let mut failures = FailureLog::first_only();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep(CHECK_INTERVAL) => {}
        }
        failures.note("looking for added partitions", follow_once(&log, &tail, &ledger).await);
    }
}

async fn follow_once(log: &OrderLog, tail: &Tail, ledger: &Ledger) -> anyhow::Result<()> {
    let partitions = log.refresh_partitions().await.context("Kafka")?;
    if partitions > tail.partitions() {
        tail.follow(ledger.reader_start(partitions).await.context("MySQL")?);
    }
    Ok(())
}
