//! Begins a new epoch of a sale and puts an index of it in force. Preheating is the rebuild of an index that was never
//! there.
//!
//! A rebuild is safe at any time, as often as wanted, and by several coordinators at once: from the barrier on, everything
//! that an older index sells is void for every reader of the log. A coordinator that dies halfway leaves a barrier without
//! an index, which the next observation of the sale finds.
use std::time::{Duration, Instant};

use rand::random;
use seckill_ledger::{LedgerError, Sale};
use seckill_protocol::index::IndexState;
use seckill_protocol::{Epoch, Fold, Record};
use seckill_stock::{Applied, Install, Installed};

use crate::context::Stores;
use crate::error::RebuildError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    pub epoch: Epoch,
    pub total: u64,
    pub left: u64,
    pub orders: usize,
    /// Purchases of the previous index that the log does not know: they are void, and were promised to nobody. `None`: the
    /// previous index is gone, so nothing tells.
    pub voided: Option<u64>,
    /// From the first read to the publication for the API.
    pub took: Duration,
}

pub async fn rebuild(stores: &Stores, sale: &Sale) -> Result<Rebuilt, RebuildError> {
    let begun = Instant::now();
    let ledger = &stores.ledger;
    let before = ledger.sale(sale.id).await?.ok_or(LedgerError::NoSale(sale.id))?;
    let previous = stores.stock.probe(sale.id).await?.index;

    // R1: what was sold before the barrier is in the log by now, or will be void.
    let epoch = append_barrier(stores, sale, &before).await?;
    seckill_failpoint::reach("rebuild.R1");

    // R2
    let fold = fold_up_to(stores, sale, epoch).await?;
    let (total, sold, orders) = (fold.total(), fold.live(), fold.orders().len());
    let folded = begun.elapsed();
    let voided = previous.map(|index| voided(&index, &fold));
    let left = total.checked_sub(sold).ok_or(RebuildError::Oversold { sold, total })?;
    seckill_failpoint::reach("rebuild.R2");

    // R3: nothing points at these keys yet.
    let holdings = fold.into_holdings();
    let holders = holdings.len() as u64;
    stores.stock.write_holdings(sale.id, epoch, &holdings).await?;
    seckill_failpoint::reach("rebuild.R3");

    // R4: at most once for this epoch. If the outcome is unknown, the next reconcile finds an index in force or begins again.
    let index = Install {
        epoch,
        total,
        left,
        holders,
        terms: sale.terms(),
    };
    match stores.stock.install(sale.id, &index).await? {
        Installed::Done => {}
        Installed::Refused(why) => return Err(RebuildError::Refused(why)),
    }
    seckill_failpoint::reach("rebuild.R4");

    // R5
    publish(stores, sale, epoch).await?;
    let took = begun.elapsed();
    tracing::info!(sale = %sale.id, %epoch, total, left, orders, voided, ?folded, ?took, "installed an index");
    seckill_failpoint::reach("rebuild.R5");
    stores.stock.drop_epochs_before(sale.id, epoch).await?;
    Ok(Rebuilt {
        epoch,
        total,
        left,
        orders,
        voided,
        took,
    })
}

/// Begins the epoch whose number is the offset of its barrier.
async fn append_barrier(stores: &Stores, sale: &Sale, before: &Sale) -> Result<Epoch, RebuildError> {
    if before.total < sale.offered {
        // It may be in the log already, and only the worker is behind: the highest total counts, twice is once.
        let (sale_id, total) = (sale.id, sale.offered);
        let record = Record::Total { sale: sale_id, total };
        stores.log.append(sale.partition, &record).await?;
    }
    let nonce = format!("{:016x}", random::<u64>());
    let barrier = Record::Barrier { sale: sale.id, nonce };
    let epoch = Epoch(stores.log.append(sale.partition, &barrier).await?);
    read_back(stores, sale, epoch, &barrier).await?;
    match before.live_epoch {
        Some(live) if epoch <= live => Err(RebuildError::LogReplaced { new: epoch, live }),
        _ => Ok(epoch),
    }
}

/// A coordinator's own barrier is one that it read at its offset, never one that was merely acknowledged or found.
async fn read_back(stores: &Stores, sale: &Sale, epoch: Epoch, barrier: &Record) -> Result<(), RebuildError> {
    seckill_failpoint::reach("rebuild.barrier-acknowledged");
    let mut found = seckill_failpoint::breaks("barrier-not-read-back");
    stores
        .log
        .read(sale.partition, epoch.0, epoch.0 + 1, |entry| {
            found |= entry.offset == epoch.0 && entry.record.as_ref().is_ok_and(|record| record == barrier);
        })
        .await?;
    match found {
        true => Ok(()),
        false => Err(RebuildError::BarrierLost(epoch.0)),
    }
}

/// The ledger up to its position, and the log from there up to the barrier.
async fn fold_up_to(stores: &Stores, sale: &Sale, epoch: Epoch) -> Result<Fold, RebuildError> {
    let start = stores.ledger.fold_start(sale.id).await?;
    let position = start.position;
    if position > epoch.0 && start.cut.current_epoch < Some(epoch.0) {
        return Err(RebuildError::LedgerAhead { new: epoch, position });
    }
    let mut fold = start.fold(sale.id);
    let skip_log = sale.live_epoch.is_some() && seckill_failpoint::breaks("rebuild-without-log");
    if position <= epoch.0 && !skip_log {
        stores
            .log
            .read(sale.partition, position, epoch.0 + 1, |entry| {
                if let Ok(record) = &entry.record {
                    fold.read(entry.offset, record);
                }
            })
            .await?;
    }
    match fold.cut().closed {
        Some(_) => Err(RebuildError::Ended),
        None => Ok(fold),
    }
}

fn voided(previous: &IndexState, fold: &Fold) -> u64 {
    let known = fold.orders().keys().filter(|id| id.epoch == previous.epoch).count() as u64;
    previous.seq.saturating_sub(known)
}

/// Applies the newest terms, which may be newer than those at the beginning, and then names the index to the API.
async fn publish(stores: &Stores, sale: &Sale, epoch: Epoch) -> Result<(), RebuildError> {
    if let Some(newest) = stores.ledger.sale(sale.id).await? {
        if newest.settled_at_ms.is_some() {
            // Whoever settled the sale could not delete keys that were not written yet.
            stores.stock.drop_sale(sale.id).await?;
            return Err(RebuildError::Ended);
        }
        // An index without the newest terms is not published: the servers may have changed roles since it was installed.
        if stores.stock.apply(sale.id, epoch, &newest.terms()).await? == Applied::NotHere {
            return Err(RebuildError::Refused("the index is gone".to_owned()));
        }
    }
    stores.ledger.set_live_epoch(sale.id, epoch).await?;
    Ok(())
}
