//! Applies pending stock adjustments to the indexes: a cancelled order returns its units, a raised total adds units.
//! The log comes first, the index after it.
//!
//! The ledger holds the pending adjustments. The transaction that moves the position writes them, so a worker that dies
//! forgets none. An index that gets an adjustment twice answers that it has it already.
use std::collections::HashSet;
use std::time::Duration;

use seckill_ledger::{Ledger, LedgerError, StoredAdjustment};
use seckill_protocol::{AdjustmentOutcome, PendingAdjustment};
use seckill_service::{FailureLog, Shutdown};
use seckill_stock::{StockClient, StockError};
use tokio::sync::watch;

use crate::consume::Positions;
use crate::metrics::Metrics;

const ADJUST_INTERVAL: Duration = Duration::from_millis(100);
/// Adjustments in one read of a partition.
const PAGE_SIZE: u32 = 500;

#[derive(Debug, thiserror::Error)]
enum AdjustError {
    #[error(transparent)]
    Stock(#[from] StockError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

pub struct Adjuster {
    pub ledger: Ledger,
    pub redis_url: String,
    pub positions: watch::Receiver<Positions>,
    pub metrics: Metrics,
    pub shutdown: Shutdown,
}

impl Adjuster {
    /// Runs until shutdown. A failure is retried in the next pass. Storing does not wait for it.
    pub async fn run(self) {
        let mut stock = None;
        let mut failures = FailureLog::first_only();
        loop {
            failures.note("applying stock adjustments", self.pass(&mut stock).await);
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(ADJUST_INTERVAL) => {}
            }
        }
    }

    async fn pass(&self, stock: &mut Option<StockClient>) -> Result<(), AdjustError> {
        // One query for all partitions: most of the time nothing is pending.
        let mut parts = self.ledger.partitions_with_pending_adjustments().await?;
        parts.retain(|partition| self.positions.borrow().contains_key(partition));
        let mut pending = 0;
        for partition in parts {
            let adjustments = self.ledger.pending_adjustments(partition, PAGE_SIZE).await?;
            pending += adjustments.len();
            let stock = match stock {
                Some(stock) => &*stock,
                None => &*stock.insert(StockClient::connect(&self.redis_url).await?),
            };
            // In the log's order for each sale. A sale without an index does not delay the others.
            let mut waiting = HashSet::new();
            for adjustment in adjustments {
                if !waiting.contains(&adjustment.sale) && !self.apply(stock, &adjustment).await? {
                    waiting.insert(adjustment.sale);
                }
            }
        }
        self.metrics.adjustments_pending.set(pending as i64);
        Ok(())
    }

    /// False: the index can't take it yet.
    async fn apply(&self, stock: &StockClient, stored: &StoredAdjustment) -> Result<bool, AdjustError> {
        let StoredAdjustment {
            partition,
            sale,
            settled,
            pending,
        } = stored;
        let PendingAdjustment {
            offset,
            since,
            adjustment,
        } = pending;
        if !settled {
            match stock.apply_adjustment(*sale, *since, adjustment).await? {
                AdjustmentOutcome::NotYet => return Ok(false),
                // It is the same server for all sales. The next pass has another connection.
                AdjustmentOutcome::Replica => return Err(StockError::Replica.into()),
                AdjustmentOutcome::Done | AdjustmentOutcome::Already => {}
                AdjustmentOutcome::NoSuchOrder => {
                    // The balance check of the sale finds it too. This line names the cause.
                    tracing::error!(%sale, offset, ?adjustment, "index does not have the cancelled order");
                    self.metrics.adjustments_unknown.inc();
                }
            }
        }
        self.ledger.delete_adjustment(*partition, *offset).await?;
        self.metrics.adjustments_applied.inc();
        Ok(true)
    }
}
