//! Tells the indexes what the log did after the sale of a unit: a cancelled order returns its units, a raised total adds
//! some. The log first, the index after.
//!
//! What is owed stands in the ledger, written in the transaction that moved the position, so nothing is forgotten by a
//! worker that dies; an index that is told twice answers that it knew.
use std::collections::HashSet;
use std::time::Duration;

use seckill_ledger::{Ledger, LedgerError, StoredAdjustment};
use seckill_protocol::{AdjustmentOutcome, PendingAdjustment};
use seckill_service::Shutdown;
use seckill_stock::{StockClient, StockError};
use tokio::sync::watch;

use crate::consume::Positions;
use crate::metrics::Metrics;
use crate::passes::Passes;

const EVERY: Duration = Duration::from_millis(100);
/// Effects that are read at once.
const PAGE: u32 = 500;

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
    /// Until the shutdown. Whatever fails is tried again in the next pass; storing does not wait for it.
    pub async fn run(self) {
        let mut stock = None;
        let mut passes = Passes::of("telling the indexes of the log");
        loop {
            passes.note(self.pass(&mut stock).await);
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    async fn pass(&self, stock: &mut Option<StockClient>) -> Result<(), AdjustError> {
        // Asked of all at once: nothing is owed most of the time.
        let mut parts = self.ledger.partitions_with_pending_adjustments().await?;
        parts.retain(|part| self.positions.borrow().contains_key(part));
        let mut owed = 0;
        for part in parts {
            let effects = self.ledger.pending_adjustments(part, PAGE).await?;
            owed += effects.len();
            let stock = match stock {
                Some(stock) => &*stock,
                None => &*stock.insert(StockClient::connect(&self.redis_url).await?),
            };
            // In the log's order for each sale; one without an index does not hold the others up.
            let mut waiting = HashSet::new();
            for effect in effects {
                if !waiting.contains(&effect.sale) && !self.tell(stock, &effect).await? {
                    waiting.insert(effect.sale);
                }
            }
        }
        self.metrics.effects_owed.set(owed as i64);
        Ok(())
    }

    /// False: not yet.
    async fn tell(&self, stock: &StockClient, owed: &StoredAdjustment) -> Result<bool, AdjustError> {
        let StoredAdjustment {
            part,
            sale,
            settled,
            owed,
        } = owed;
        let PendingAdjustment { offset, since, effect } = owed;
        if !settled {
            match stock.apply_adjustment(*sale, *since, effect).await? {
                AdjustmentOutcome::NotYet => return Ok(false),
                AdjustmentOutcome::Done | AdjustmentOutcome::Already => {}
                AdjustmentOutcome::NoSuchOrder => {
                    // It shows in the balance of the sale too; here is where it comes from.
                    tracing::error!(%sale, offset, ?effect, "the index does not know an order that was cancelled");
                    self.metrics.effects_unknown.inc();
                }
            }
        }
        self.ledger.delete_adjustment(*part, *offset).await?;
        self.metrics.effects_told.inc();
        Ok(true)
    }
}
