//! The transaction that folds records of the log into tables, exactly once.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use seckill_protocol::admission::{Admission, admission};
use seckill_protocol::format::check;
use seckill_protocol::{
    Epoch, Format, KeyHash, Offset, Order, OrderId, OrderStatus, PendingAdjustment, Record, SaleCut, SaleId,
    StockAdjustment,
};
use sqlx::{Executor, FromRow, MySql, MySqlConnection, QueryBuilder};

use crate::connection::Ledger;
use crate::error::{LedgerError, Retry, StoreError};
use crate::fold::{self, Changes, KnownOrder, LogEntry, NewOrder, Quarantined, SaleRow, Stored};
use crate::format::{check_now, required_format};
use crate::{identity, rows};

/// A transaction that takes longer never ends: the host of the server is gone.
const STORE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a transaction is retried after a deadlock or a lock timeout.
const LOCK_RETRIES: u32 = 5;
/// Numbers of rows in one INSERT. Each is a statement of its own to the server, so there are few. The largest fits into
/// one TLS record of 16 KiB with the longest buyers: sqlx leaves Nagle's algorithm on, and a second record would wait
/// up to 40 ms for the acknowledgement of the first.
const INSERT_SIZES: [usize; 4] = [64, 16, 4, 1];
/// Bytes of a record that quarantine keeps. MySQL refuses larger packets.
const MAX_QUARANTINED_BYTES: usize = 1 << 20;

impl Ledger {
    /// Stores the entries of `from..to` of a partition. The position moves from `from` to `to` in the same transaction,
    /// so the entries are stored exactly once, however many processes try it.
    ///
    /// A record that can't be stored is put into quarantine, so that one record never stops a partition. The exception is
    /// a record of a sale that the ledger does not know ([`StoreError::Stopped`]). Nothing is stored if the ledger requires
    /// a format that this program does not speak. After an error some entries may be
    /// stored: read the position again and continue from there. Do the same if the future is dropped before it ends.
    pub async fn store(
        &self,
        partition: u32,
        from: Offset,
        to: Offset,
        entries: &[LogEntry],
    ) -> Result<Stored, StoreError> {
        let mut stored = Stored::default();
        let mut ranges = vec![(from, to, entries)];
        while let Some((from, to, entries)) = ranges.pop() {
            let error = match self.store_range(partition, from, to, entries, None).await {
                Ok(part_stored) => {
                    stored += part_stored;
                    continue;
                }
                Err(error) => error,
            };
            let retry = match &error {
                StoreError::Ledger(error) => Retry::of(error),
                StoreError::PositionMoved { .. } => return Err(error),
                StoreError::Stopped { offset, .. } => {
                    let (before, rest) = entries.split_at(entries.partition_point(|entry| entry.offset < *offset));
                    if before.is_empty() {
                        // The position must never pass the record, so what comes behind it is not tried.
                        return Err(error);
                    }
                    // What comes before it may be what it needs: a sale that it names may end there.
                    ranges.push((*offset, to, rest));
                    ranges.push((from, *offset, before));
                    continue;
                }
            };
            match retry {
                // Halve until the record that the server refuses stands alone.
                Retry::Refused(_) if entries.len() > 1 => {
                    let (first, second) = entries.split_at(entries.len() / 2);
                    let middle = second[0].offset;
                    ranges.push((middle, to, second));
                    ranges.push((from, middle, first));
                }
                Retry::Refused(reason) => {
                    stored += self.store_range(partition, from, to, entries, Some(&reason)).await?
                }
                Retry::AtOnce | Retry::Later => return Err(error),
            }
        }
        Ok(stored)
    }

    /// One transaction, retried after a deadlock or a lock timeout.
    async fn store_range(
        &self,
        partition: u32,
        from: Offset,
        to: Offset,
        entries: &[LogEntry],
        refused: Option<&str>,
    ) -> Result<Stored, StoreError> {
        let mut retries = 0;
        loop {
            let mut connection = self.acquire().await?;
            let run = transaction(&mut connection, self.spoken, partition, (from, to), entries, refused);
            let result = match tokio::time::timeout(STORE_TIMEOUT, run).await {
                Ok(result) => result,
                Err(_) => Err(LedgerError::TimedOut(STORE_TIMEOUT.as_secs()).into()),
            };
            match result {
                Ok(changes) => {
                    connection.give_back();
                    log_quarantined(partition, &changes.quarantine);
                    return Ok(changes.stored);
                }
                Err(StoreError::Ledger(error)) if retries < LOCK_RETRIES && Retry::of(&error) == Retry::AtOnce => {
                    drop(connection);
                    retries += 1;
                    tracing::debug!(partition, from, %error, "lock conflict, storing again");
                    tokio::time::sleep(Duration::from_millis(rand::random_range(1..=20 << retries))).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn log_quarantined(partition: u32, quarantine: &[Quarantined<'_>]) {
    for Quarantined {
        entry,
        reason,
        promised,
    } in quarantine
    {
        let (offset, promised) = (entry.offset, promised.map_or(0, |batch| batch.orders.len()));
        tracing::error!(partition, offset, promised, reason, "record quarantined");
    }
}

/// Ends with COMMIT. After an error the caller must close the connection.
async fn transaction<'a>(
    connection: &mut MySqlConnection,
    spoken: Format,
    partition: u32,
    (from, to): (Offset, Offset),
    entries: &'a [LogEntry],
    refused: Option<&'a str>,
) -> Result<Changes<'a>, StoreError> {
    seckill_failpoint::reach("worker.before-transaction");
    connection.execute("START TRANSACTION").await?;
    // This statement is first: its lock excludes every other writer of the partition, so the rows read below stay
    // valid. And it moves nothing if this program is too old for the ledger.
    let moved = sqlx::query(concat!(
        "UPDATE log_position SET off = ? WHERE part = ? AND off = ? AND ? >= ",
        required_format!()
    ));
    let moved = moved
        .bind(to)
        .bind(partition)
        .bind(from)
        .bind(spoken.0)
        .execute(&mut *connection)
        .await?;
    if seckill_failpoint::breaks("position-apart") {
        connection.execute("COMMIT").await?;
        connection.execute("START TRANSACTION").await?;
    }
    if moved.rows_affected() != 1 {
        connection.execute("ROLLBACK").await?;
        check_now(connection, spoken).await?;
        return Err(StoreError::PositionMoved { partition, from });
    }

    let ids: BTreeSet<SaleId> = entries
        .iter()
        .filter_map(|e| e.record.as_ref().ok())
        .map(|r| r.sale())
        .collect();
    let mut before = read_sales(connection, &ids).await?;
    if let Err(stopped) = admit(connection, spoken, partition, entries, &mut before).await {
        connection.execute("ROLLBACK").await?;
        return Err(stopped);
    }
    let mut sales = before.clone();
    let judged = fold::judge(partition, &mut sales, entries, refused);
    let known = read_orders(connection, &fold::named_orders(&judged)).await?;
    let changes = fold::fold(&judged, &mut sales, known);

    write(connection, partition, &changes, &before, &sales).await?;
    seckill_failpoint::reach("worker.before-commit");
    connection.execute("COMMIT").await?;
    seckill_failpoint::reach("worker.after-commit");
    Ok(changes)
}

/// Inserts the rows of sales that the ledger has lost and an IDENTITY brings back. An error if there is a record of a sale
/// that the ledger does not know.
async fn admit(
    connection: &mut MySqlConnection,
    spoken: Format,
    partition: u32,
    entries: &[LogEntry],
    sales: &mut BTreeMap<SaleId, SaleRow>,
) -> Result<(), StoreError> {
    for LogEntry { offset, record, .. } in entries {
        let Ok(record) = record else { continue };
        let (offset, sale) = (*offset, record.sale());
        let named = match record {
            Record::Identity(identity) => identity::sale_of_name(connection, identity).await?,
            _ => None,
        };
        let known = sales.get(&sale).map(|row| row.known(sale));
        match admission(record, known, named) {
            Admission::Known => {}
            _ if seckill_failpoint::breaks("lost-row-forgotten") => {}
            admitted @ (Admission::Insert(identity) | Admission::Replace(identity, _)) => {
                if let Admission::Replace(_, freed) = admitted {
                    identity::free_name(connection, freed).await?;
                }
                // MySQL has lost the row, and with it that the ledger requires this format.
                check(identity.format, spoken).map_err(LedgerError::from)?;
                identity::insert_row(connection, partition, offset, identity).await?;
                sales.insert(sale, SaleRow::restored(partition, offset, identity));
                tracing::warn!(%sale, name = identity.name, partition, offset, "restored the row of a sale from the log");
            }
            Admission::Stop(stop) => {
                return Err(StoreError::Stopped {
                    partition,
                    offset,
                    stop,
                });
            }
        }
    }
    Ok(())
}

pub(crate) async fn write(
    connection: &mut MySqlConnection,
    partition: u32,
    changes: &Changes<'_>,
    before: &BTreeMap<SaleId, SaleRow>,
    sales: &BTreeMap<SaleId, SaleRow>,
) -> Result<(), LedgerError> {
    for (offset, identity) in &changes.identities {
        identity::fix_row(connection, *offset, identity).await?;
    }
    insert_orders(connection, &changes.inserts, sales).await?;
    for (id, status) in &changes.statuses {
        update_status(connection, *id, *status).await?;
    }
    for (id, sale) in sales {
        if before.get(id) != Some(sale) {
            update_sale(connection, *id, &before[id], sale).await?;
        }
    }
    for quarantined in &changes.quarantine {
        insert_quarantined(connection, partition, quarantined).await?;
    }
    for (sale, pending) in &changes.adjustments {
        insert_adjustment(connection, partition, *sale, pending).await?;
    }
    Ok(())
}

pub(crate) async fn read_sales(
    connection: &mut MySqlConnection,
    ids: &BTreeSet<SaleId>,
) -> Result<BTreeMap<SaleId, SaleRow>, LedgerError> {
    #[derive(FromRow)]
    struct Row {
        id: u32,
        #[sqlx(rename = "part")]
        partition: u32,
        price: String,
        total: u64,
        sold: u64,
        taken: u64,
        returned: u64,
        orders_ever: u64,
        #[sqlx(rename = "cur")]
        current_epoch: Option<i64>,
        closed_at: Option<i64>,
        identity_at: Option<i64>,
    }
    let ids: Vec<SaleId> = ids.iter().copied().collect();
    let mut sales = BTreeMap::new();
    for chunk in ids.chunks(rows::MAX_IN_SIZE) {
        let mut query: QueryBuilder<MySql> = QueryBuilder::new(
            "SELECT id, part, CAST(price AS CHAR) AS price, total, sold, taken, returned, orders_ever, cur, closed_at, identity_at \
             FROM sales WHERE id IN (",
        );
        let mut list = query.separated(", ");
        for id in rows::padded(chunk) {
            list.push_bind(id.0);
        }
        query.push(")");
        let rows: Vec<Row> = query.build_query_as().fetch_all(&mut *connection).await?;
        sales.extend(rows.into_iter().map(|row| {
            let sale = SaleRow {
                partition: row.partition,
                price: row.price,
                total: row.total,
                sold: row.sold,
                taken: row.taken,
                returned: row.returned,
                orders_ever: row.orders_ever,
                cut: SaleCut {
                    current_epoch: row.current_epoch,
                    closed: row.closed_at,
                },
                identity_at: row.identity_at,
            };
            (SaleId(row.id), sale)
        }));
    }
    Ok(sales)
}

/// The stored ones among these orders, and perhaps a few others.
pub(crate) async fn read_orders(
    connection: &mut MySqlConnection,
    ids: &BTreeSet<OrderId>,
) -> Result<HashMap<OrderId, KnownOrder>, LedgerError> {
    #[derive(FromRow)]
    struct Row {
        seq: u64,
        buyer: String,
        tier: u8,
        key_hash: u64,
        quantity: u32,
        status: String,
    }
    let mut known = HashMap::new();
    for (sale, epoch, first, last) in fold::ranges(ids) {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT seq, buyer, tier, key_hash, quantity, status FROM orders \
             WHERE sale = ? AND epoch = ? AND seq BETWEEN ? AND ?",
        )
        .bind(sale.0)
        .bind(epoch.0)
        .bind(first)
        .bind(last)
        .fetch_all(&mut *connection)
        .await?;
        for row in rows {
            let order = Order {
                buyer: rows::buyer(row.buyer)?,
                quantity: row.quantity,
                tier: row.tier,
                key: KeyHash(row.key_hash),
            };
            let status = rows::status(row.status)?;
            known.insert(
                OrderId {
                    sale,
                    epoch,
                    seq: row.seq,
                },
                KnownOrder { order, status },
            );
        }
    }
    Ok(known)
}

async fn insert_orders(
    connection: &mut MySqlConnection,
    inserts: &BTreeMap<OrderId, NewOrder<'_>>,
    sales: &BTreeMap<SaleId, SaleRow>,
) -> Result<(), LedgerError> {
    let rows: Vec<_> = inserts.iter().collect();
    // All orders of a record have its timestamp.
    let mut time = (i64::MIN, String::new());
    for chunk in in_sizes(&rows) {
        let mut query: QueryBuilder<MySql> = QueryBuilder::new(
            "INSERT INTO orders (sale, epoch, seq, buyer, tier, key_hash, quantity, price, status, created_at) ",
        );
        query.push_values(chunk, |mut row, (id, new)| {
            let Epoch(epoch) = id.epoch;
            if time.0 != new.created_at_ms {
                time = (new.created_at_ms, date_time(new.created_at_ms));
            }
            row.push_bind(id.sale.0).push_bind(epoch).push_bind(id.seq);
            row.push_bind(new.order.buyer.as_str())
                .push_bind(new.order.tier)
                .push_bind(new.order.key.0);
            row.push_bind(new.order.quantity)
                .push_bind(sales[&id.sale].price.as_str());
            row.push_bind(new.status.as_str()).push_bind(time.1.clone());
        });
        query.build().execute(&mut *connection).await?;
    }
    Ok(())
}

/// Splits rows into pieces of [`INSERT_SIZES`].
fn in_sizes<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = INSERT_SIZES.into_iter().find(|size| *size <= rows.len())?;
        let (piece, rest) = rows.split_at(size);
        rows = rest;
        Some(piece)
    })
}

/// The text of a DATETIME(3). The log writes a missing timestamp as one that no calendar has; it becomes the current
/// time.
fn date_time(unix_ms: i64) -> String {
    let at = match Timestamp::from_millisecond(unix_ms) {
        Ok(at) if at >= Timestamp::UNIX_EPOCH => at,
        _ => Timestamp::now(),
    };
    at.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

async fn update_status(connection: &mut MySqlConnection, id: OrderId, status: OrderStatus) -> Result<(), LedgerError> {
    sqlx::query("UPDATE orders SET status = ? WHERE sale = ? AND epoch = ? AND seq = ?")
        .bind(status.as_str())
        .bind(id.sale.0)
        .bind(id.epoch.0)
        .bind(id.seq)
        .execute(connection)
        .await?;
    Ok(())
}

/// Only the owner of the partition writes these columns. A row that changed since it was read was changed by hand. The
/// fold never sells more than the total, and the table has a CHECK too.
async fn update_sale(
    connection: &mut MySqlConnection,
    id: SaleId,
    before: &SaleRow,
    after: &SaleRow,
) -> Result<(), LedgerError> {
    let updated = sqlx::query(
        "UPDATE sales SET total = ?, sold = ?, taken = ?, returned = ?, orders_ever = ?, cur = ?, closed_at = ? \
         WHERE id = ? AND total = ? AND sold = ?",
    )
    .bind(after.total)
    .bind(after.sold)
    .bind(after.taken)
    .bind(after.returned)
    .bind(after.orders_ever)
    .bind(after.cut.current_epoch)
    .bind(after.cut.closed)
    .bind(id.0)
    .bind(before.total)
    .bind(before.sold)
    .execute(connection)
    .await?;
    match updated.rows_affected() {
        1 => Ok(()),
        _ => Err(LedgerError::SaleChanged(id)),
    }
}

async fn insert_quarantined(
    connection: &mut MySqlConnection,
    partition: u32,
    quarantined: &Quarantined<'_>,
) -> Result<(), LedgerError> {
    let Quarantined {
        entry,
        reason,
        promised,
    } = quarantined;
    let kept = &entry.payload[..entry.payload.len().min(MAX_QUARANTINED_BYTES)];
    // A person may have set the position back. An existing row stays.
    sqlx::query(
        "INSERT INTO quarantine (part, off, reason, payload, sale, epoch, first_seq, last_seq) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON DUPLICATE KEY UPDATE part = part",
    )
    .bind(partition)
    .bind(entry.offset)
    .bind(reason.as_str())
    .bind(kept)
    .bind(promised.map(|batch| batch.sale.0))
    .bind(promised.map(|batch| batch.epoch.0))
    .bind(promised.map(|batch| batch.first))
    .bind(promised.map(|batch| batch.last()))
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_adjustment(
    connection: &mut MySqlConnection,
    partition: u32,
    sale: SaleId,
    pending: &PendingAdjustment,
) -> Result<(), LedgerError> {
    let (order, total) = match &pending.adjustment {
        StockAdjustment::Return { buyer, epoch, seq } => (Some((buyer.as_str(), epoch.0, *seq)), None),
        StockAdjustment::Raise { total } => (None, Some(*total)),
        StockAdjustment::Pass => (None, None),
    };
    // A person may have set the position back. An existing row stays.
    sqlx::query(
        "INSERT INTO effects (part, off, sale, since, buyer, epoch, seq, total) VALUES (?, ?, ?, ?, ?, ?, ?, ?) \
         ON DUPLICATE KEY UPDATE part = part",
    )
    .bind(partition)
    .bind(pending.offset)
    .bind(sale.0)
    .bind(pending.since.0)
    .bind(order.map(|(buyer, ..)| buyer))
    .bind(order.map(|(_, epoch, _)| epoch))
    .bind(order.map(|(.., seq)| seq))
    .bind(total)
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_split_into_few_sizes() {
        let rows = vec![0; 151];
        let sizes: Vec<usize> = in_sizes(&rows).map(<[i32]>::len).collect();
        assert_eq!(sizes, [64, 64, 16, 4, 1, 1, 1]);
        assert_eq!(in_sizes::<i32>(&[]).count(), 0);
    }

    #[test]
    fn timestamps_are_written_in_utc_with_milliseconds() {
        assert_eq!(date_time(1_795_396_511_045), "2026-11-23 01:15:11.045");
        assert_eq!(date_time(0), "1970-01-01 00:00:00.000");
    }

    #[test]
    fn a_missing_timestamp_becomes_the_current_time() {
        for none in [-1, i64::MAX] {
            assert!(date_time(none).starts_with("20"), "{none}");
        }
    }
}
