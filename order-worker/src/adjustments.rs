//! Applies pending stock adjustments to the indexes: a cancelled order returns its units, a raised total adds units.
//! The log comes first, the index after it.
//!
//! The ledger holds the pending adjustments. The transaction that moves the position writes them, so a worker that dies
//! forgets none. An index that gets an adjustment twice answers that it has it already.
//!
//! Each sale has its turn, with a bounded number of adjustments, so a sale that can't take them delays no other one.
use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use seckill_ledger::{Ledger, LedgerError, SaleWithAdjustments};
use seckill_protocol::{AdjustmentOutcome, Offset, PendingAdjustment, SaleId};
use seckill_service::{FailureLog, Shutdown};
use seckill_stock::{RedisConfig, StockClient, StockError};
use tokio::sync::watch;

use crate::consume::Positions;
use crate::metrics::Metrics;

const ADJUST_INTERVAL: Duration = Duration::from_millis(100);
/// How long a sale that could not take its adjustments is left alone. Its index is being rebuilt.
const WAIT_INTERVAL: Duration = Duration::from_millis(500);
/// Sales that are served at the same time. Each uses a connection of the ledger's pool.
const MAX_CONCURRENT_SALES: usize = 4;

#[derive(Debug, thiserror::Error)]
enum AdjustError {
    #[error(transparent)]
    Stock(#[from] StockError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The result of one turn of a sale.
enum Turn {
    /// The index has all adjustments that were read.
    Applied {
        /// There may be more.
        more: bool,
    },
    /// So many of those that were read wait for the index.
    Waits(usize),
}

/// A sale that could not take its adjustments.
struct Waiting {
    until: Instant,
    /// Adjustments that wait, as far as they were read.
    pending: usize,
}

pub struct Adjuster {
    pub ledger: Ledger,
    pub redis: RedisConfig,
    pub positions: watch::Receiver<Positions>,
    pub metrics: Metrics,
    pub shutdown: Shutdown,
}

impl Adjuster {
    /// Runs until shutdown. A failure is retried in the next pass. Storing does not wait for it.
    pub async fn run(self) {
        let (mut stock, mut waiting) = (None, HashMap::new());
        let mut failures = FailureLog::first_only();
        loop {
            let result = self.pass(&mut stock, &mut waiting).await;
            let more = matches!(result, Ok(true));
            failures.note("applying stock adjustments", result.map(drop));
            let pause = if more { Duration::ZERO } else { ADJUST_INTERVAL };
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One turn for each sale with pending adjustments. Returns whether a sale has more of them that need not wait. An
    /// error of one sale does not affect the others; the first one is returned.
    async fn pass(
        &self,
        stock: &mut Option<StockClient>,
        waiting: &mut HashMap<SaleId, Waiting>,
    ) -> Result<bool, AdjustError> {
        // One query for all partitions: most of the time nothing is pending.
        let mut sales = self.ledger.sales_with_pending_adjustments().await?;
        sales.retain(|sale| self.positions.borrow().contains_key(&sale.partition));
        waiting.retain(|sale, _| sales.iter().any(|pending| pending.sale == *sale));
        let now = Instant::now();
        sales.retain(|sale| waiting.get(&sale.sale).is_none_or(|waiting| now >= waiting.until));
        let (mut more, mut failure) = (false, None);
        if !sales.is_empty() {
            let stock = match stock {
                Some(stock) => &*stock,
                None => &*stock.insert(StockClient::connect_to(&self.redis).await?),
            };
            let turns = sales
                .into_iter()
                .map(|sale| async move { (sale.sale, self.turn(stock, sale).await) });
            let turns = stream::iter(turns).buffer_unordered(MAX_CONCURRENT_SALES);
            for (sale, turn) in turns.collect::<Vec<_>>().await {
                let pending = match turn {
                    Ok(Turn::Applied { more: has_more }) => {
                        more |= has_more;
                        waiting.remove(&sale);
                        continue;
                    }
                    Ok(Turn::Waits(pending)) => pending,
                    Err(error) => {
                        failure = failure.or(Some(error));
                        1
                    }
                };
                let until = Instant::now() + WAIT_INTERVAL;
                waiting.insert(sale, Waiting { until, pending });
            }
        }
        let pending: usize = waiting.values().map(|waiting| waiting.pending).sum();
        self.metrics.adjustments_pending.set(pending as i64);
        match failure {
            Some(failure) => Err(failure),
            None => Ok(more),
        }
    }

    /// Applies the first pending adjustments of a sale, and deletes those that the index has.
    async fn turn(&self, stock: &StockClient, sale: SaleWithAdjustments) -> Result<Turn, AdjustError> {
        const MOST: usize = StockClient::MAX_ADJUSTMENTS;
        let SaleWithAdjustments {
            partition,
            sale,
            settled,
        } = sale;
        let adjustments = self.ledger.pending_adjustments(partition, sale, MOST as u32).await?;
        if adjustments.is_empty() {
            return Ok(Turn::Applied { more: false });
        }
        let applied = match settled {
            // There is no index any more.
            true => adjustments.len(),
            false => self.apply(stock, sale, &adjustments).await?,
        };
        let offsets: Vec<Offset> = adjustments[..applied].iter().map(|pending| pending.offset).collect();
        self.ledger.delete_adjustments(partition, &offsets).await?;
        self.metrics.adjustments_applied.inc_by(applied as u64);
        Ok(match adjustments.len() - applied {
            0 => Turn::Applied {
                more: adjustments.len() == MOST,
            },
            pending => Turn::Waits(pending),
        })
    }

    /// Returns the number of adjustments that the index has now. They are the first ones.
    async fn apply(
        &self,
        stock: &StockClient,
        sale: SaleId,
        adjustments: &[PendingAdjustment],
    ) -> Result<usize, AdjustError> {
        let outcomes = stock.apply_adjustments(sale, adjustments).await?;
        let mut applied = 0;
        for (outcome, pending) in outcomes.into_iter().zip(adjustments) {
            match outcome {
                // The next pass has another connection.
                AdjustmentOutcome::Replica => return Err(StockError::Replica.into()),
                AdjustmentOutcome::NotYet => break,
                AdjustmentOutcome::Done | AdjustmentOutcome::Already | AdjustmentOutcome::NoSuchOrder => {}
            }
            if outcome == AdjustmentOutcome::NoSuchOrder {
                // The balance check of the sale finds it too. This line names the cause.
                let PendingAdjustment { offset, adjustment, .. } = pending;
                tracing::error!(%sale, offset, ?adjustment, "index does not have the cancelled order");
                self.metrics.adjustments_unknown.inc();
            }
            applied += 1;
        }
        Ok(applied)
    }
}
