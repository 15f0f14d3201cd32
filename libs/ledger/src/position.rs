//! The offset up to which the log was folded, and where readers of the log start.
use seckill_protocol::{Acceptance, Offset, SaleCut, SaleId};
use sqlx::MySqlConnection;

use crate::connection::Ledger;
use crate::error::LedgerError;

/// Longer than any program keeps a settled sale.
macro_rules! settled_cut_retention {
    () => {
        "INTERVAL 8 DAY"
    };
}

impl Ledger {
    pub async fn positions(&self) -> Result<Vec<(u32, Offset)>, LedgerError> {
        self.query(async |connection| positions(connection).await).await
    }

    /// The position of a partition. It is 0 before the first store.
    pub async fn ensure_position(&self, partition: u32) -> Result<Offset, LedgerError> {
        self.query(async |connection| {
            sqlx::query("INSERT INTO log_position (part, off) VALUES (?, 0) ON DUPLICATE KEY UPDATE part = part")
                .bind(partition)
                .execute(&mut *connection)
                .await?;
            let query = sqlx::query_scalar("SELECT off FROM log_position WHERE part = ?").bind(partition);
            Ok(query.fetch_one(connection).await?)
        })
        .await
    }

    /// Where a reader of the log starts: the position of each partition and the cuts of its sales, at one instant. No program
    /// sells or answers for a sale that was settled more than a week ago, so its cut is left out.
    pub async fn reader_start(&self, partitions: u32) -> Result<Vec<(u32, Offset, Acceptance)>, LedgerError> {
        let (positions, cuts) = self
            .snapshot(async |connection| {
                let positions = positions(connection).await?;
                let cuts: Vec<(u32, u32, Option<Offset>, Option<Offset>)> = sqlx::query_as(concat!(
                    "SELECT part, id, cur, closed_at FROM sales FORCE INDEX (settled) \
                         WHERE settled_at IS NULL OR settled_at > CURRENT_TIMESTAMP(3) - ",
                    settled_cut_retention!()
                ))
                .fetch_all(connection)
                .await?;
                Ok((positions, cuts))
            })
            .await?;
        let start = |partition| {
            let position = positions
                .iter()
                .find(|(p, _)| *p == partition)
                .map_or(0, |(_, position)| *position);
            let cuts = cuts.iter().filter(|(p, ..)| *p == partition);
            let cuts = cuts.map(|&(_, id, current_epoch, closed)| (SaleId(id), SaleCut { current_epoch, closed }));
            (partition, position, Acceptance::starting_from(cuts))
        };
        Ok((0..partitions).map(start).collect())
    }
}

pub(crate) async fn positions(connection: &mut MySqlConnection) -> Result<Vec<(u32, Offset)>, LedgerError> {
    Ok(sqlx::query_as("SELECT part, off FROM log_position ORDER BY part")
        .fetch_all(connection)
        .await?)
}
