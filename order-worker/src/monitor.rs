//! Measures the lag of each partition and whether Kafka answers.
use std::collections::BTreeSet;
use std::time::Duration;

use seckill_order_log::OrderLog;
use seckill_service::{FailureLog, Gate, Shutdown};
use tokio::sync::watch;

use crate::consume::Positions;
use crate::metrics::{Metrics, PartitionLabel};

const MONITOR_INTERVAL: Duration = Duration::from_secs(1);

/// Runs until shutdown.
pub async fn run(
    log: OrderLog,
    positions: watch::Receiver<Positions>,
    kafka: Gate,
    metrics: Metrics,
    shutdown: Shutdown,
) {
    let mut shown = BTreeSet::new();
    let mut failures = FailureLog::first_only();
    loop {
        let positions = positions.borrow().clone();
        for partition in shown.iter().filter(|partition| !positions.contains_key(partition)) {
            metrics.lag.remove(&PartitionLabel { partition: *partition });
        }
        shown = positions.keys().copied().collect();
        let result = measure_lag(&log, &positions, &metrics).await;
        match &result {
            Ok(()) => kafka.ready(),
            Err(error) => kafka.not_ready(error.to_string()),
        }
        failures.note("measuring the lag in Kafka", result);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(MONITOR_INTERVAL) => {}
        }
    }
}

async fn measure_lag(
    log: &OrderLog,
    positions: &Positions,
    metrics: &Metrics,
) -> Result<(), seckill_order_log::LogError> {
    if positions.keys().any(|partition| *partition >= log.partitions()) {
        log.refresh_partitions().await?;
    }
    for (partition, position) in positions {
        let lag = log.end_offset(*partition).await? - position;
        metrics
            .lag
            .get_or_create(&PartitionLabel { partition: *partition })
            .set(lag.max(0));
    }
    if positions.is_empty() {
        log.end_offset(0).await?;
    }
    Ok(())
}
