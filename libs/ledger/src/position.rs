//! The offset up to which the log was folded, and where readers of the log start.
use std::collections::HashSet;

use futures::TryStreamExt;
use seckill_protocol::fold::FoldedOrder;
use seckill_protocol::{Acceptance, Epoch, Fold, KeyHash, Offset, OrderId, OrderStatus, Record, SaleCut, SaleId};
use sqlx::{MySqlConnection, Row as _};

use crate::connection::Ledger;
use crate::error::LedgerError;
use crate::rows;

/// The state of one sale in the ledger at one instant. It contains nothing from offset `position` on.
#[derive(Debug, Clone)]
pub struct FoldStart {
    pub position: Offset,
    pub cut: SaleCut,
    pub total: u64,
    pub live_epoch: Option<Epoch>,
    /// Orders of every status, including those in quarantine: they were promised, so they still take their units.
    pub orders: Vec<(OrderId, FoldedOrder)>,
}

impl FoldStart {
    /// The fold so far. The caller reads the log into it from `position` on.
    pub fn fold(self, sale: SaleId) -> Fold {
        Fold::starting_from(sale, self.cut, self.total, self.orders)
    }
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

    /// Where a reader of the log starts: the position of each partition and the cuts of its sales, at one instant.
    pub async fn reader_start(&self, partitions: u32) -> Result<Vec<(u32, Offset, Acceptance)>, LedgerError> {
        let (positions, cuts) = self
            .snapshot(async |connection| {
                let positions = positions(connection).await?;
                let cuts: Vec<(u32, u32, Option<Offset>, Option<Offset>)> =
                    sqlx::query_as("SELECT part, id, cur, closed_at FROM sales")
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

    /// Where a rebuild of a sale's index starts.
    pub async fn fold_start(&self, sale: SaleId) -> Result<FoldStart, LedgerError> {
        self.snapshot(async |connection| fold_start(connection, sale).await)
            .await
    }
}

pub(crate) async fn positions(connection: &mut MySqlConnection) -> Result<Vec<(u32, Offset)>, LedgerError> {
    Ok(sqlx::query_as("SELECT part, off FROM log_position ORDER BY part")
        .fetch_all(connection)
        .await?)
}

async fn fold_start(connection: &mut MySqlConnection, sale: SaleId) -> Result<FoldStart, LedgerError> {
    type Row = (Option<Offset>, Option<Offset>, u64, Option<Offset>, Option<Offset>);
    let row: Option<Row> = sqlx::query_as(
        "SELECT s.cur, s.closed_at, s.total, s.live_epoch, p.off \
         FROM sales s LEFT JOIN log_position p ON p.part = s.part WHERE s.id = ?",
    )
    .bind(sale.0)
    .fetch_optional(&mut *connection)
    .await?;
    let (current_epoch, closed, total, live_epoch, position) = row.ok_or(LedgerError::NoSale(sale))?;
    let mut orders = stored_orders(connection, sale).await?;
    add_quarantined(connection, sale, &mut orders).await?;
    Ok(FoldStart {
        position: position.unwrap_or_default(),
        cut: SaleCut { current_epoch, closed },
        total,
        live_epoch: live_epoch.map(Epoch),
        orders,
    })
}

/// There may be millions of orders, and the sale does not sell until they are read. So it reads columns by index, and
/// only those that it needs.
async fn stored_orders(
    connection: &mut MySqlConnection,
    sale: SaleId,
) -> Result<Vec<(OrderId, FoldedOrder)>, LedgerError> {
    let query = sqlx::query("SELECT epoch, seq, buyer, quantity, key_hash, status FROM orders WHERE sale = ?");
    let mut stream = query.bind(sale.0).fetch(connection);
    let mut orders = Vec::new();
    while let Some(row) = stream.try_next().await? {
        let id = OrderId {
            sale,
            epoch: Epoch(row.try_get(0)?),
            seq: row.try_get(1)?,
        };
        let folded = FoldedOrder {
            buyer: rows::buyer(row.try_get(2)?)?,
            quantity: row.try_get(3)?,
            key: KeyHash(row.try_get(4)?),
            status: rows::status(row.try_get(5)?)?,
        };
        orders.push((id, folded));
    }
    Ok(orders)
}

/// Adds the promised orders that are in quarantine and not stored.
async fn add_quarantined(
    connection: &mut MySqlConnection,
    sale: SaleId,
    orders: &mut Vec<(OrderId, FoldedOrder)>,
) -> Result<(), LedgerError> {
    let payloads: Vec<Vec<u8>> = sqlx::query_scalar("SELECT payload FROM quarantine WHERE sale = ? ORDER BY part, off")
        .bind(sale.0)
        .fetch_all(connection)
        .await?;
    if payloads.is_empty() {
        return Ok(());
    }
    let mut seen: HashSet<OrderId> = orders.iter().map(|(id, _)| *id).collect();
    for payload in payloads {
        let Ok(Record::Batch(batch)) = Record::decode(&payload) else {
            return Err(LedgerError::Content {
                column: "quarantine.payload",
                value: String::from_utf8_lossy(&payload).chars().take(100).collect(),
            });
        };
        for (id, order) in batch.iter().filter(|(id, _)| seen.insert(*id)) {
            let folded = FoldedOrder {
                buyer: order.buyer.clone(),
                quantity: order.quantity,
                key: order.key,
                status: OrderStatus::Placed,
            };
            orders.push((id, folded));
        }
    }
    Ok(())
}
