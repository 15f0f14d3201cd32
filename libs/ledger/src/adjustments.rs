//! Pending stock adjustments. [`store`](crate::store) writes the rows, in the transaction that moves the position.
use seckill_protocol::{Epoch, Offset, PendingAdjustment, SaleId, Seq, StockAdjustment};
use sqlx::{FromRow, MySql, QueryBuilder};

use crate::connection::Ledger;
use crate::error::LedgerError;
use crate::format::check_now;
use crate::rows;

/// [`StockAdjustment::changes_units`] of a row `e`.
macro_rules! changes_units {
    () => {
        "(e.buyer IS NOT NULL OR e.total IS NOT NULL)"
    };
}
pub(crate) use changes_units;

/// A sale with pending adjustments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaleWithAdjustments {
    pub partition: u32,
    pub sale: SaleId,
    /// The sale is settled, so it has no index any more.
    pub settled: bool,
}

#[derive(FromRow)]
struct Row {
    off: i64,
    since: i64,
    buyer: Option<String>,
    epoch: Option<i64>,
    seq: Option<Seq>,
    total: Option<u64>,
}

impl Ledger {
    /// The sales with pending adjustments. Most of the time there are none. An error if the ledger requires a format that
    /// this program does not speak.
    pub async fn sales_with_pending_adjustments(&self) -> Result<Vec<SaleWithAdjustments>, LedgerError> {
        let rows: Vec<(u32, u32, bool)> = self
            .query(async |connection| {
                // The inner query skips through the index from sale to sale, however many rows a sale has.
                let query = sqlx::query_as(
                    "SELECT s.part, s.id, s.settled_at IS NOT NULL FROM (SELECT DISTINCT sale FROM effects) e \
                     JOIN sales s ON s.id = e.sale ORDER BY s.id",
                );
                let rows = query.fetch_all(&mut *connection).await?;
                if !rows.is_empty() {
                    check_now(connection, self.spoken).await?;
                }
                Ok(rows)
            })
            .await?;
        let sale = |(partition, id, settled)| SaleWithAdjustments {
            partition,
            sale: SaleId(id),
            settled,
        };
        Ok(rows.into_iter().map(sale).collect())
    }

    /// The first pending adjustments of a sale, in the order of the log, at most `limit`.
    pub async fn pending_adjustments(
        &self,
        partition: u32,
        sale: SaleId,
        limit: u32,
    ) -> Result<Vec<PendingAdjustment>, LedgerError> {
        let rows: Vec<Row> = self
            .query(async |connection| {
                let query = sqlx::query_as(
                    "SELECT off, since, buyer, epoch, seq, total FROM effects WHERE sale = ? AND part = ? \
                     ORDER BY off LIMIT ?",
                );
                let query = query.bind(sale.0).bind(partition).bind(limit);
                Ok(query.fetch_all(connection).await?)
            })
            .await?;
        rows.into_iter().map(PendingAdjustment::try_from).collect()
    }

    /// Deletes adjustments that the index has confirmed. If this gets lost, the index gets them again.
    ///
    /// The offsets are listed one by one: a row between them may be new, written when a quarantined record was replayed.
    pub async fn delete_adjustments(&self, partition: u32, offsets: &[Offset]) -> Result<(), LedgerError> {
        self.query(async |connection| {
            for chunk in offsets.chunks(rows::MAX_IN_SIZE) {
                let mut query: QueryBuilder<MySql> = QueryBuilder::new("DELETE FROM effects WHERE part = ");
                query.push_bind(partition).push(" AND off IN (");
                let mut list = query.separated(", ");
                for offset in rows::padded(chunk) {
                    list.push_bind(*offset);
                }
                query.push(")");
                query.build().execute(&mut *connection).await?;
            }
            Ok(())
        })
        .await
    }

    /// Whether the sale has pending adjustments that change units.
    pub async fn has_pending_adjustments(&self, sale: SaleId) -> Result<bool, LedgerError> {
        self.query(async |connection| {
            let query = sqlx::query_scalar(concat!(
                "SELECT EXISTS (SELECT 1 FROM effects e WHERE e.sale = ? AND ",
                changes_units!(),
                ")"
            ));
            Ok(query.bind(sale.0).fetch_one(connection).await?)
        })
        .await
    }
}

impl TryFrom<Row> for PendingAdjustment {
    type Error = LedgerError;

    fn try_from(row: Row) -> Result<Self, LedgerError> {
        let adjustment = match (row.buyer, row.epoch, row.seq, row.total) {
            (Some(buyer), Some(epoch), Some(seq), None) => StockAdjustment::Return {
                buyer: rows::buyer(buyer)?,
                epoch: Epoch(epoch),
                seq,
            },
            (None, None, None, Some(total)) => StockAdjustment::Raise { total },
            (None, None, None, None) => StockAdjustment::Pass,
            other => {
                return Err(LedgerError::Content {
                    column: "effects",
                    value: format!("{other:?}"),
                });
            }
        };
        Ok(PendingAdjustment {
            offset: row.off,
            since: Epoch(row.since),
            adjustment,
        })
    }
}
