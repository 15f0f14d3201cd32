//! Quarantine: records that could not be folded. A person inspects them and replays them after removing the cause.
use std::collections::BTreeSet;

use seckill_protocol::{Format, Offset, Record, SaleId, Seq};
use sqlx::{Executor, FromRow, MySqlConnection};

use crate::connection::Ledger;
use crate::error::LedgerError;
use crate::fold::{self, LogEntry, Stored};
use crate::format::check_now;
use crate::store;

/// A record that could not be folded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedRecord {
    pub partition: u32,
    pub offset: Offset,
    pub reason: String,
    /// The first MiB of the record.
    pub payload: Vec<u8>,
    /// The sale and the first and last order of a batch that counts and is not stored: it was promised to buyers.
    pub promised: Option<(SaleId, Seq, Seq)>,
    pub quarantined_at_ms: i64,
}

/// Why a record stays in quarantine.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("no quarantined record at partition {partition}, offset {offset}; see order-worker quarantine list")]
    NotThere { partition: u32, offset: Offset },
    #[error("the record can't be decoded: {0}")]
    Unreadable(String),
    #[error("unknown whether this batch counts: it was quarantined before it was judged")]
    NotJudged,
    #[error("can't dismiss the record: its orders were promised to buyers; remove the cause and replay it")]
    Promised,
    #[error("the record can't be folded yet: {0}")]
    Refused(String),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl From<sqlx::Error> for ReplayError {
    fn from(error: sqlx::Error) -> Self {
        ReplayError::Ledger(error.into())
    }
}

#[derive(FromRow)]
struct Row {
    #[sqlx(rename = "part")]
    partition: u32,
    off: Offset,
    reason: String,
    payload: Vec<u8>,
    sale: Option<u32>,
    first_seq: Option<Seq>,
    last_seq: Option<Seq>,
    quarantined_at_ms: i64,
}

impl From<Row> for QuarantinedRecord {
    fn from(row: Row) -> Self {
        let promised = match (row.sale, row.first_seq, row.last_seq) {
            (Some(sale), Some(first), Some(last)) => Some((SaleId(sale), first, last)),
            _ => None,
        };
        QuarantinedRecord {
            partition: row.partition,
            offset: row.off,
            reason: row.reason,
            payload: row.payload,
            promised,
            quarantined_at_ms: row.quarantined_at_ms,
        }
    }
}

macro_rules! select_quarantine {
    ($rest:literal) => {
        concat!(
            "SELECT part, off, reason, payload, sale, first_seq, last_seq, \
             TIMESTAMPDIFF(MICROSECOND, '1970-01-01', created_at) DIV 1000 AS quarantined_at_ms FROM quarantine ",
            $rest
        )
    };
}

impl Ledger {
    /// Quarantined records in the order of the log, at most `limit`.
    pub async fn quarantined(&self, limit: u32) -> Result<Vec<QuarantinedRecord>, LedgerError> {
        self.query(async |connection| {
            let query = sqlx::query_as::<_, Row>(select_quarantine!("ORDER BY part, off LIMIT ?"));
            let rows = query.bind(limit).fetch_all(connection).await?;
            Ok(rows.into_iter().map(QuarantinedRecord::from).collect())
        })
        .await
    }

    /// Folds a quarantined record as if it were read now, and removes it from quarantine. After an error nothing
    /// changed.
    pub async fn replay(&self, partition: u32, offset: Offset) -> Result<Stored, ReplayError> {
        let mut connection = self.acquire().await?;
        let stored = replay(&mut connection, self.spoken, partition, offset).await?;
        connection.give_back();
        Ok(stored)
    }

    /// Removes a quarantined record that promised nothing.
    pub async fn dismiss(&self, partition: u32, offset: Offset) -> Result<(), ReplayError> {
        let mut connection = self.acquire().await?;
        connection.execute("START TRANSACTION").await?;
        let record = locked(&mut connection, partition, offset).await?;
        if record.promised.is_some() {
            return Err(ReplayError::Promised);
        }
        remove(&mut connection, partition, offset).await?;
        connection.execute("COMMIT").await?;
        connection.give_back();
        Ok(())
    }
}

async fn replay(
    connection: &mut MySqlConnection,
    spoken: Format,
    partition: u32,
    offset: Offset,
) -> Result<Stored, ReplayError> {
    connection.execute("START TRANSACTION").await?;
    // As in `store`: its lock excludes every other writer of this partition.
    sqlx::query("SELECT off FROM log_position WHERE part = ? FOR UPDATE")
        .bind(partition)
        .execute(&mut *connection)
        .await?;
    check_now(connection, spoken).await?;
    let quarantined = locked(connection, partition, offset).await?;
    let record = Record::decode(&quarantined.payload).map_err(|error| ReplayError::Unreadable(error.to_string()))?;
    if matches!(record, Record::Batch(_)) && quarantined.promised.is_none() {
        return Err(ReplayError::NotJudged);
    }
    // Remove it first, so that the fold does not find the row of this batch.
    remove(connection, partition, offset).await?;
    let entry = LogEntry {
        offset,
        timestamp_ms: quarantined.quarantined_at_ms,
        payload: quarantined.payload,
        record: Ok(record.clone()),
    };
    let before = store::read_sales(connection, &BTreeSet::from([record.sale()])).await?;
    let mut sales = before.clone();
    let Some(sale) = sales.get(&record.sale()) else {
        return Err(ReplayError::Refused(format!("no sale {} in the ledger", record.sale())));
    };
    let judged = [fold::as_accepted(&entry, &record, sale)];
    let known = store::read_orders(connection, &fold::named_orders(&judged)).await?;
    let changes = fold::fold(&judged, &mut sales, known);
    if let Some(again) = changes.quarantine.first() {
        return Err(ReplayError::Refused(again.reason.clone()));
    }
    let written = store::write(connection, partition, &changes, &before, &sales).await;
    written.map_err(|error| ReplayError::Refused(error.to_string()))?;
    connection.execute("COMMIT").await?;
    Ok(changes.stored)
}

async fn locked(
    connection: &mut MySqlConnection,
    partition: u32,
    offset: Offset,
) -> Result<QuarantinedRecord, ReplayError> {
    let query = sqlx::query_as::<_, Row>(select_quarantine!("WHERE part = ? AND off = ? FOR UPDATE"));
    let row = query.bind(partition).bind(offset).fetch_optional(connection).await?;
    row.map(QuarantinedRecord::from)
        .ok_or(ReplayError::NotThere { partition, offset })
}

async fn remove(connection: &mut MySqlConnection, partition: u32, offset: Offset) -> Result<(), ReplayError> {
    sqlx::query("DELETE FROM quarantine WHERE part = ? AND off = ?")
        .bind(partition)
        .bind(offset)
        .execute(connection)
        .await?;
    Ok(())
}
