//! One sale at one instant, for a rebuild of its index. The orders are read as a stream, because there may be millions.
use std::time::Duration;

use futures::stream::{self, BoxStream, Stream, StreamExt as _, TryStreamExt as _};
use seckill_protocol::fold::FoldedOrder;
use seckill_protocol::rebuild::Delta;
use seckill_protocol::{Epoch, KeyHash, Offset, OrderId, OrderStatus, Record, SaleCut, SaleId};
use sqlx::mysql::MySqlRow;
use sqlx::{Executor as _, MySqlConnection, Row as _};

use crate::connection::{Ledger, LedgerConnection, QUERY_TIMEOUT, START_SNAPSHOT, within};
use crate::error::LedgerError;
use crate::rows;

/// A key has the rows in order, so the first one is there at once. A server that sends no row for this time is gone.
const ROW_TIMEOUT: Duration = Duration::from_secs(20);
/// Bounds what a reader of [`SaleSnapshot::orders`] holds in memory.
const ORDERS_PER_CHUNK: usize = 5000;

/// An open snapshot of a sale. It contains nothing from offset `position` on. Dropping it closes its connection, which ends
/// the transaction.
pub struct SaleSnapshot {
    connection: LedgerConnection,
    sale: SaleId,
    pub position: Offset,
    pub cut: SaleCut,
    pub total: u64,
    pub live_epoch: Option<Epoch>,
    /// Promised orders in quarantine. They still take their units. Some may be stored too.
    quarantined: Vec<(OrderId, FoldedOrder)>,
}

impl Ledger {
    pub async fn sale_snapshot(&self, sale: SaleId) -> Result<SaleSnapshot, LedgerError> {
        let mut connection = self.acquire().await?;
        let open = async {
            for statement in START_SNAPSHOT {
                connection.execute(statement).await?;
            }
            let state = state(&mut connection, sale).await?;
            Ok((state, quarantined(&mut connection, sale).await?))
        };
        let ((position, cut, total, live_epoch), quarantined) = within(QUERY_TIMEOUT, open).await?;
        Ok(SaleSnapshot {
            connection,
            sale,
            position,
            cut,
            total,
            live_epoch,
            quarantined,
        })
    }
}

impl SaleSnapshot {
    /// The start of the delta, which the caller continues with the log from `position` on.
    pub fn delta(&mut self) -> Delta {
        let quarantined = std::mem::take(&mut self.quarantined);
        Delta::starting_from(self.sale, self.cut, self.total, quarantined)
    }

    /// The stored orders of every status in chunks, by buyer, epoch and seq. It reads ahead no further than the buffers of
    /// the connection.
    pub fn orders(&mut self) -> impl Stream<Item = Result<Vec<(OrderId, FoldedOrder)>, LedgerError>> + Send {
        let sale = self.sale;
        // This key has the order and all columns. With another one the server would sort the orders in a temporary file.
        let query = sqlx::query(
            "SELECT epoch, seq, buyer, quantity, tier, key_hash, status FROM orders FORCE INDEX (buyer) WHERE sale = ? \
             ORDER BY buyer, epoch, seq",
        );
        let rows = query.bind(sale.0).fetch(&mut *self.connection);
        stream::try_unfold(rows, next_row)
            .map(move |row| order(sale, &row?))
            .try_chunks(ORDERS_PER_CHUNK)
            .map_err(|failed| failed.1)
    }

    /// All orders of a small sale, including those in quarantine: for tests and checks.
    pub async fn all_orders(mut self) -> Result<Vec<(OrderId, FoldedOrder)>, LedgerError> {
        let mut orders = self.orders().try_concat().await?;
        for (id, order) in std::mem::take(&mut self.quarantined) {
            if !orders.iter().any(|(known, _)| *known == id) {
                orders.push((id, order));
            }
        }
        orders.sort_by_key(|(id, _)| *id);
        Ok(orders)
    }
}

async fn state(
    connection: &mut MySqlConnection,
    sale: SaleId,
) -> Result<(Offset, SaleCut, u64, Option<Epoch>), LedgerError> {
    type Row = (Option<Offset>, Option<Offset>, u64, Option<Offset>, Option<Offset>);
    let row: Option<Row> = sqlx::query_as(
        "SELECT s.cur, s.closed_at, s.total, s.live_epoch, p.off \
         FROM sales s LEFT JOIN log_position p ON p.part = s.part WHERE s.id = ?",
    )
    .bind(sale.0)
    .fetch_optional(connection)
    .await?;
    let (current_epoch, closed, total, live_epoch, position) = row.ok_or(LedgerError::NoSale(sale))?;
    let cut = SaleCut { current_epoch, closed };
    Ok((position.unwrap_or_default(), cut, total, live_epoch.map(Epoch)))
}

type Rows<'c> = BoxStream<'c, Result<MySqlRow, sqlx::Error>>;

async fn next_row(mut rows: Rows<'_>) -> Result<Option<(MySqlRow, Rows<'_>)>, LedgerError> {
    let row = within(ROW_TIMEOUT, async { Ok(rows.try_next().await?) }).await?;
    Ok(row.map(|row| (row, rows)))
}

fn order(sale: SaleId, row: &MySqlRow) -> Result<(OrderId, FoldedOrder), LedgerError> {
    let id = OrderId {
        sale,
        epoch: Epoch(row.try_get(0)?),
        seq: row.try_get(1)?,
    };
    let order = FoldedOrder {
        buyer: rows::buyer(row.try_get(2)?)?,
        quantity: row.try_get(3)?,
        tier: row.try_get(4)?,
        key: KeyHash(row.try_get(5)?),
        status: rows::status(row.try_get(6)?)?,
    };
    Ok((id, order))
}

async fn quarantined(
    connection: &mut MySqlConnection,
    sale: SaleId,
) -> Result<Vec<(OrderId, FoldedOrder)>, LedgerError> {
    let payloads: Vec<Vec<u8>> = sqlx::query_scalar("SELECT payload FROM quarantine WHERE sale = ? ORDER BY part, off")
        .bind(sale.0)
        .fetch_all(connection)
        .await?;
    let mut orders = Vec::new();
    for payload in payloads {
        let Ok(Record::Batch(batch)) = Record::decode(&payload) else {
            return Err(LedgerError::Content {
                column: "quarantine.payload",
                value: String::from_utf8_lossy(&payload).chars().take(100).collect(),
            });
        };
        orders.extend(batch.iter().map(|(id, order)| {
            let folded = FoldedOrder {
                buyer: order.buyer.clone(),
                quantity: order.quantity,
                tier: order.tier,
                key: order.key,
                status: OrderStatus::Placed,
            };
            (id, folded)
        }));
    }
    Ok(orders)
}
