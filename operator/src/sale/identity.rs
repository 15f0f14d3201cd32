//! One sale under one name, even if MySQL loses the row of the sale.
//!
//! The row comes first, because its name is unique in the table. Then IDENTITY, the row's copy in the log, before the first
//! barrier: from there on the worker can insert the row again. An operator that does not find a name must not insert a new
//! row before the ledger has read all that the log may know of it.
use futures::future::try_join_all;
use seckill_ledger::{Formats, Ledger, Sale};
use seckill_order_log::OrderLog;
use seckill_planner::SaleKey;
use seckill_planner::observation::LedgerAbsence;
use seckill_protocol::admission::{behind, other_of_name};
use seckill_protocol::index::Millis;
use seckill_protocol::{Offset, Record};

use crate::context::Connections;
use crate::error::{RebuildError, ReconcileError};
use crate::reconcile_cache::{AbsentSince, ReconcileCache};

/// How far the ledger has read the log since the name was not found for the first time. The ends are sampled after that,
/// so an IDENTITY of the name is before them.
pub async fn observe_absence(
    connections: &Connections,
    cache: &ReconcileCache,
    key: &SaleKey,
    now: Millis,
) -> Result<LedgerAbsence, ReconcileError> {
    let (ledger, log) = (connections.ledger()?, connections.log()?);
    let AbsentSince { since, ends } = match cache.absent_since(key) {
        Some(absent) => absent,
        None => {
            // A sale may be in a partition that was added since.
            let partitions = log.refresh_partitions().await?;
            let ends = (0..partitions).map(|partition| log.end_offset(partition));
            let ends: Vec<Offset> = try_join_all(ends).await?;
            let absent = AbsentSince { since: now, ends };
            cache.set_absent(key, absent.clone());
            absent
        }
    };
    let positions = ledger.positions().await?;
    let Formats { required, running } = ledger.formats().await?;
    Ok(LedgerAbsence {
        since,
        behind: behind(&ends, &positions),
        required_format: required,
        running,
    })
}

/// Appends the identity of a sale unless the ledger has read it. Its barrier and CLOSE may follow only after this: what the
/// ledger has not read of the partition must not have another sale of the name, which MySQL has lost.
pub async fn ensure_identity(ledger: &Ledger, log: &OrderLog, sale: &Sale) -> Result<(), RebuildError> {
    if sale.identity_at.is_some() {
        return Ok(());
    }
    let identity = sale.identity();
    identity.validate()?;
    let record = Record::Identity(Box::new(identity.clone()));
    let offset = log.append(sale.partition, &record).await?;
    tracing::info!(sale = %sale.id, partition = sale.partition, offset, "appended the identity");
    // A worker that has passed the offset has found no other sale: it would have stopped.
    let mut other = None;
    read_unread(ledger, log, sale, offset + 1, |record| {
        other = other.or(other_of_name(&identity, record));
    })
    .await?;
    match other {
        None => Ok(()),
        Some(other) => Err(RebuildError::NameTaken { sale: sale.id, other }),
    }
}

/// Whether the log has a record of a sale that the ledger has not read.
pub async fn has_unread_record(ledger: &Ledger, log: &OrderLog, sale: &Sale) -> Result<bool, ReconcileError> {
    let end = log.end_offset(sale.partition).await?;
    let mut found = false;
    read_unread(ledger, log, sale, end, |record| found |= record.sale() == sale.id).await?;
    Ok(found)
}

/// Reads what the ledger has not read of a sale's partition, up to an offset.
async fn read_unread(
    ledger: &Ledger,
    log: &OrderLog,
    sale: &Sale,
    to: Offset,
    mut each: impl FnMut(&Record),
) -> Result<(), RebuildError> {
    let positions = ledger.positions().await?;
    let position = positions.iter().find(|(partition, _)| *partition == sale.partition);
    let position = position.map_or(0, |(_, position)| *position);
    if position >= to {
        return Ok(());
    }
    let read = log.read(sale.partition, position, to, |entry| {
        if let Ok(record) = &entry.record {
            each(record);
        }
    });
    Ok(read.await?)
}
