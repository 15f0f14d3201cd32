//! Pending stock adjustments. [`store`](crate::store) writes the rows, in the transaction that moves the position.
use seckill_protocol::{Epoch, Offset, PendingAdjustment, SaleId, Seq, StockAdjustment};
use sqlx::FromRow;

use crate::connection::Ledger;
use crate::error::LedgerError;
use crate::rows;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAdjustment {
    pub partition: u32,
    pub sale: SaleId,
    pub pending: PendingAdjustment,
    /// The sale is settled, so it has no index any more.
    pub settled: bool,
}

#[derive(FromRow)]
struct Row {
    off: i64,
    sale: u32,
    since: i64,
    buyer: Option<String>,
    epoch: Option<i64>,
    seq: Option<Seq>,
    total: Option<u64>,
    settled: bool,
}

impl Ledger {
    /// The partitions with pending adjustments. Most of the time there are none.
    pub async fn partitions_with_pending_adjustments(&self) -> Result<Vec<u32>, LedgerError> {
        self.query(async |connection| {
            Ok(sqlx::query_scalar("SELECT DISTINCT part FROM effects")
                .fetch_all(connection)
                .await?)
        })
        .await
    }

    /// The pending adjustments of a partition, in the order of the log, at most `limit`.
    pub async fn pending_adjustments(&self, partition: u32, limit: u32) -> Result<Vec<StoredAdjustment>, LedgerError> {
        let rows: Vec<Row> = self
            .query(async |connection| {
                let query = sqlx::query_as(
                    "SELECT e.off, e.sale, e.since, e.buyer, e.epoch, e.seq, e.total, s.settled_at IS NOT NULL AS settled \
                     FROM effects e JOIN sales s ON s.id = e.sale WHERE e.part = ? ORDER BY e.off LIMIT ?",
                );
                Ok(query.bind(partition).bind(limit).fetch_all(connection).await?)
            })
            .await?;
        rows.into_iter().map(|row| row.into_adjustment(partition)).collect()
    }

    /// Deletes an adjustment that the index has confirmed. If this gets lost, the index gets the adjustment again.
    pub async fn delete_adjustment(&self, partition: u32, offset: Offset) -> Result<(), LedgerError> {
        self.query(async |connection| {
            let query = sqlx::query("DELETE FROM effects WHERE part = ? AND off = ?");
            query.bind(partition).bind(offset).execute(connection).await?;
            Ok(())
        })
        .await
    }

    /// Whether the sale has pending adjustments.
    pub async fn has_pending_adjustments(&self, sale: SaleId) -> Result<bool, LedgerError> {
        self.query(async |connection| {
            let query = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM effects WHERE sale = ?)");
            Ok(query.bind(sale.0).fetch_one(connection).await?)
        })
        .await
    }
}

impl Row {
    fn into_adjustment(self, partition: u32) -> Result<StoredAdjustment, LedgerError> {
        let adjustment = match (self.buyer, self.epoch, self.seq, self.total) {
            (Some(buyer), Some(epoch), Some(seq), None) => StockAdjustment::Return {
                buyer: rows::buyer(buyer)?,
                epoch: Epoch(epoch),
                seq,
            },
            (None, None, None, Some(total)) => StockAdjustment::Raise { total },
            other => {
                return Err(LedgerError::Content {
                    column: "effects",
                    value: format!("{other:?}"),
                });
            }
        };
        Ok(StoredAdjustment {
            partition,
            sale: SaleId(self.sale),
            pending: PendingAdjustment {
                offset: self.off,
                since: Epoch(self.since),
                adjustment,
            },
            settled: self.settled,
        })
    }
}
