//! How far behind we are, and whether Kafka answers.
use std::collections::BTreeSet;
use std::time::Duration;

use seckill_order_log::OrderLog;
use seckill_service::{Gate, Shutdown};
use tokio::sync::watch;

use crate::consume::Positions;
use crate::metrics::{Metrics, Part};

const EVERY: Duration = Duration::from_secs(1);

/// Until the shutdown.
pub async fn run(
    log: OrderLog,
    positions: watch::Receiver<Positions>,
    kafka: Gate,
    metrics: Metrics,
    shutdown: Shutdown,
) {
    let mut shown = BTreeSet::new();
    loop {
        let positions = positions.borrow().clone();
        for part in shown.iter().filter(|part| !positions.contains_key(part)) {
            metrics.lag.remove(&Part { partition: *part });
        }
        shown = positions.keys().copied().collect();
        match show_lag(&log, &positions, &metrics).await {
            Ok(()) => kafka.ready(),
            Err(error) => {
                if kafka.is_ready() {
                    tracing::warn!(%error, "Kafka is away");
                }
                kafka.not_ready(error.to_string());
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn show_lag(log: &OrderLog, positions: &Positions, metrics: &Metrics) -> Result<(), seckill_order_log::LogError> {
    for (part, position) in positions {
        let lag = log.end_offset(*part).await? - position;
        metrics.lag.get_or_create(&Part { partition: *part }).set(lag.max(0));
    }
    if positions.is_empty() {
        log.end_offset(0).await?;
    }
    Ok(())
}
