//! Begins a new epoch of a sale and puts an index of it in force. Preheating is the rebuild of an index that was never
//! there.
//!
//! A rebuild is safe at any time, as often as wanted, and by several coordinators at once: from the barrier on, everything
//! that an older index sells is void for every reader of the log. A coordinator that dies halfway leaves a barrier without
//! an index, which the next observation of the sale finds.
//!
//! The orders of the ledger go through the process as a stream, so a rebuild needs little memory however large the sale
//! is: some chunks of orders, and the orders that the log has and the ledger does not have yet.
use std::ops::ControlFlow;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use rand::random;
use seckill_ledger::{LedgerError, Sale, SaleSnapshot};
use seckill_order_log::{Entry, LogError, OrderLog};
use seckill_protocol::index::{IndexState, Terms};
use seckill_protocol::install::{Applied, InstallRefused, takes_an_index};
use seckill_protocol::rebuild::{BuyerHoldings, Delta, HoldingCounts};
use seckill_protocol::{Epoch, Offset, Record, SaleId};
use seckill_stock::{HoldingsWriter, Install, Installed, StockError};

use crate::context::Stores;
use crate::error::RebuildError;
use crate::sale::identity::ensure_identity;

/// Orders that the log may have and the ledger not. Each takes some 300 bytes while it waits for its place in the stream.
/// This and the number of rebuilds that run at once (`Context::rebuilds`) bound the memory of all rebuilds.
const MAX_ORDERS_BEHIND: usize = 50_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    pub epoch: Epoch,
    pub total: u64,
    pub left: u64,
    pub orders: u64,
    /// Purchases of the previous index that the log does not know: they are void, and were promised to nobody. `None`: the
    /// previous index is gone, so nothing tells.
    pub voided: Option<u64>,
    /// From the first read to the publication for the API.
    pub took: Duration,
}

pub async fn rebuild(stores: &Stores, sale: &Sale) -> Result<Rebuilt, RebuildError> {
    let begun = Instant::now();
    let before = stores.ledger.sale(sale.id).await?.ok_or(LedgerError::NoSale(sale.id))?;
    let probe = stores.stock.probe_for_rebuild(sale.id).await?;
    takes_an_index(&probe.server).map_err(RebuildError::NoServer)?;
    let previous = probe.index;
    ensure_identity(&stores.ledger, &stores.log, &before).await?;

    // R1: what was sold before the barrier is in the log by now, or will be void.
    append_total(stores, sale, &before).await?;
    let epoch = begin_epoch(&stores.log, sale.id, sale.partition, before.live_epoch).await?;
    seckill_failpoint::reach("rebuild.R1");

    // R2
    let (snapshot, delta) = read_delta(stores, sale, epoch).await?;
    let total = delta.total();
    let read = begun.elapsed();
    seckill_failpoint::reach("rebuild.R2");

    // R3: nothing points at these keys yet.
    let written = match write_index(stores, sale.id, epoch, snapshot, delta, previous.as_ref()).await {
        Ok(written) => written,
        Err(error) => {
            // Nobody will install them, and a sale that fails again and again must not fill Redis.
            if let Err(error) = stores.stock.drop_written(sale.id, epoch).await {
                tracing::debug!(sale = %sale.id, %epoch, %error, "failed to free the keys of an unfinished rebuild");
            }
            return Err(error);
        }
    };
    let Written { counts, left, voided } = written;
    seckill_failpoint::reach("rebuild.R3");

    // R4: at most once for this epoch. If the outcome is unknown, the next reconcile finds an index in force or begins again.
    let terms = sale.terms();
    let index = Install {
        epoch,
        total,
        left,
        holders: counts.holders,
        orders: counts.orders,
        taken: counts.taken(&terms),
        terms,
    };
    match stores.stock.install(sale.id, &index).await? {
        Installed::Done => {}
        Installed::Replica => return Err(RebuildError::NoServer(InstallRefused::NotAPrimary)),
        Installed::Refused(why) => return Err(RebuildError::Refused(why)),
    }
    seckill_failpoint::reach("rebuild.R4");

    // R5
    publish(stores, sale.id, epoch).await?;
    let (orders, took) = (counts.orders, begun.elapsed());
    tracing::info!(sale = %sale.id, %epoch, total, left, orders, voided, ?read, ?took, "installed an index");
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

/// R1: appends the total that the FlashSale asks for, if the ledger has a lower one.
async fn append_total(stores: &Stores, sale: &Sale, before: &Sale) -> Result<(), RebuildError> {
    if before.total < sale.offered {
        // It may be in the log already, and only the worker is behind: the highest total counts, twice is once.
        let (sale_id, total) = (sale.id, sale.offered);
        let record = Record::Total { sale: sale_id, total };
        stores.log.append(sale.partition, &record).await?;
    }
    Ok(())
}

/// R1: begins the epoch whose number is the offset of its barrier.
async fn begin_epoch(
    log: &impl BarrierLog,
    sale: SaleId,
    partition: u32,
    live_epoch: Option<Epoch>,
) -> Result<Epoch, RebuildError> {
    let nonce = format!("{:016x}", random::<u64>());
    let barrier = Record::Barrier { sale, nonce };
    let epoch = Epoch(log.append_barrier(partition, &barrier).await?);
    seckill_failpoint::reach("rebuild.barrier-acknowledged");
    // A coordinator's own barrier is one that it read at its offset, never one that was merely acknowledged or found.
    let is_ours = log.record_at(partition, epoch.0).await?.as_ref() == Some(&barrier);
    if !is_ours && !seckill_failpoint::breaks("barrier-not-read-back") {
        return Err(RebuildError::BarrierLost(epoch.0));
    }
    match live_epoch {
        Some(live) if epoch <= live => Err(RebuildError::LogReplaced { new: epoch, live }),
        _ => Ok(epoch),
    }
}

/// The order log as R1 uses it. A test replaces it by one that loses records.
trait BarrierLog {
    fn append_barrier(&self, partition: u32, barrier: &Record)
    -> impl Future<Output = Result<Offset, LogError>> + Send;

    fn record_at(
        &self,
        partition: u32,
        offset: Offset,
    ) -> impl Future<Output = Result<Option<Record>, LogError>> + Send;
}

impl BarrierLog for OrderLog {
    async fn append_barrier(&self, partition: u32, barrier: &Record) -> Result<Offset, LogError> {
        self.append(partition, barrier).await
    }

    async fn record_at(&self, partition: u32, offset: Offset) -> Result<Option<Record>, LogError> {
        let mut found = None;
        let each = |entry: Entry| {
            if entry.offset == offset {
                found = entry.record.ok();
            }
        };
        self.read(partition, offset, offset + 1, each).await?;
        Ok(found)
    }
}

/// R2: a snapshot of the ledger, and what the log has from its position up to the barrier.
async fn read_delta(stores: &Stores, sale: &Sale, epoch: Epoch) -> Result<(SaleSnapshot, Delta), RebuildError> {
    let mut snapshot = stores.ledger.sale_snapshot(sale.id).await?;
    let position = snapshot.position;
    if position > epoch.0 && snapshot.cut.current_epoch < Some(epoch.0) {
        return Err(RebuildError::LedgerAhead { new: epoch, position });
    }
    let mut delta = snapshot.delta();
    // Orders in quarantine come on top: a person has to look after them anyway.
    let most = delta.orders() + MAX_ORDERS_BEHIND;
    let skip_log = sale.live_epoch.is_some() && seckill_failpoint::breaks("rebuild-without-log");
    if position <= epoch.0 && !skip_log {
        let each = |entry: Entry| {
            if let Ok(record) = &entry.record {
                delta.read(entry.offset, record);
            }
            match delta.orders() > most {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        stores
            .log
            .read_while(sale.partition, position, epoch.0 + 1, each)
            .await?;
    }
    if delta.orders() > most {
        let most = MAX_ORDERS_BEHIND;
        return Err(RebuildError::LedgerBehind { position, most });
    }
    match delta.cut().closed {
        Some(_) => Err(RebuildError::Ended),
        None => Ok((snapshot, delta)),
    }
}

/// What R3 wrote.
struct Written {
    counts: HoldingCounts,
    left: u64,
    voided: Option<u64>,
}

/// R3: streams the orders of the ledger into Redis, with the delta applied, each buyer once.
async fn write_index(
    stores: &Stores,
    sale: SaleId,
    epoch: Epoch,
    mut snapshot: SaleSnapshot,
    delta: Delta,
    previous: Option<&IndexState>,
) -> Result<Written, RebuildError> {
    let (total, mut merge) = (delta.total(), delta.merge());
    let mut redis = HoldingsOfAnEpoch {
        writer: stores.stock.write_holdings(sale, epoch).await?,
        previous: previous.map(|index| index.epoch),
        of_previous: 0,
    };
    let mut buyers = Vec::new();
    let mut orders = pin!(snapshot.orders());
    while let Some(chunk) = orders.try_next().await? {
        for (id, order) in chunk {
            merge.stored(id, order, &mut buyers);
        }
        redis.write(&buyers).await?;
        buyers.clear();
    }
    let counts = merge.finish(&mut buyers);
    redis.write(&buyers).await?;
    let sold = counts.units;
    let written = Written {
        counts,
        left: total.checked_sub(sold).ok_or(RebuildError::Oversold { sold, total })?,
        voided: previous.map(|index| index.seq.saturating_sub(redis.of_previous)),
    };
    redis.writer.finish().await?;
    Ok(written)
}

/// Writes buyers, and counts the orders of the previous index among their orders.
struct HoldingsOfAnEpoch {
    writer: HoldingsWriter,
    previous: Option<Epoch>,
    of_previous: u64,
}

impl HoldingsOfAnEpoch {
    async fn write(&mut self, buyers: &[BuyerHoldings]) -> Result<(), RebuildError> {
        let held = buyers.iter().flat_map(|(_, held)| held);
        self.of_previous += held.filter(|holding| Some(holding.epoch) == self.previous).count() as u64;
        Ok(self.writer.write(buyers).await?)
    }
}

/// R5: applies the newest terms, which may be newer than those at the beginning, and then names the index to the API.
async fn publish(stores: &impl Publication, sale: SaleId, epoch: Epoch) -> Result<(), RebuildError> {
    if let Some(newest) = stores.newest(sale).await? {
        if newest.is_settled {
            // The operator that settled the sale could not delete keys that were not written yet.
            stores.drop_sale(sale).await?;
            return Err(RebuildError::Ended);
        }
        // An index without the newest terms is not published: the servers may have changed roles since it was installed.
        if !stores.apply(sale, epoch, &newest.terms).await?.is_in_force() {
            return Err(RebuildError::Refused("the index is gone".to_owned()));
        }
    }
    stores.set_live_epoch(sale, epoch).await?;
    Ok(())
}

/// What R5 needs of the sale's row.
struct NewestRow {
    is_settled: bool,
    terms: Terms,
}

/// The ledger and Redis as R5 uses them. A test replaces them, because nothing can happen between two of its steps on
/// real servers by intention.
trait Publication {
    fn newest(&self, sale: SaleId) -> impl Future<Output = Result<Option<NewestRow>, LedgerError>> + Send;

    fn apply(
        &self,
        sale: SaleId,
        epoch: Epoch,
        terms: &Terms,
    ) -> impl Future<Output = Result<Applied, StockError>> + Send;

    fn drop_sale(&self, sale: SaleId) -> impl Future<Output = Result<(), StockError>> + Send;

    fn set_live_epoch(&self, sale: SaleId, epoch: Epoch) -> impl Future<Output = Result<bool, LedgerError>> + Send;
}

impl Publication for Stores {
    async fn newest(&self, sale: SaleId) -> Result<Option<NewestRow>, LedgerError> {
        Ok(self.ledger.sale(sale).await?.map(|row| NewestRow {
            is_settled: row.settled_at_ms.is_some(),
            terms: row.terms(),
        }))
    }

    async fn apply(&self, sale: SaleId, epoch: Epoch, terms: &Terms) -> Result<Applied, StockError> {
        self.stock.apply(sale, epoch, terms).await
    }

    async fn drop_sale(&self, sale: SaleId) -> Result<(), StockError> {
        self.stock.drop_sale(sale).await
    }

    async fn set_live_epoch(&self, sale: SaleId, epoch: Epoch) -> Result<bool, LedgerError> {
        self.ledger.set_live_epoch(sale, epoch).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use seckill_protocol::index::{OrderBounds, SaleState};

    use super::*;

    /// A log that acknowledges a barrier at offset 7, where `found` says what is read from there.
    struct FakeLog<F> {
        found: F,
        appended: Mutex<Option<Record>>,
    }

    impl<F: Fn(Record) -> Option<Record> + Sync> BarrierLog for FakeLog<F> {
        async fn append_barrier(&self, _: u32, barrier: &Record) -> Result<Offset, LogError> {
            *self.appended.lock().expect("nobody panics") = Some(barrier.clone());
            Ok(7)
        }

        async fn record_at(&self, _: u32, offset: Offset) -> Result<Option<Record>, LogError> {
            assert_eq!(offset, 7);
            let appended = self.appended.lock().expect("nobody panics").clone();
            Ok(appended.and_then(&self.found))
        }
    }

    async fn begin(
        live_epoch: Option<i64>,
        found: impl Fn(Record) -> Option<Record> + Sync,
    ) -> Result<Epoch, RebuildError> {
        let log = FakeLog {
            found,
            appended: Mutex::new(None),
        };
        begin_epoch(&log, SaleId(1), 0, live_epoch.map(Epoch)).await
    }

    #[tokio::test]
    async fn an_epoch_begins_with_a_barrier_that_was_read_back() {
        assert_eq!(begin(Some(6), Some).await.expect("begun"), Epoch(7));
    }

    #[tokio::test]
    async fn an_acknowledged_barrier_that_is_not_in_the_log_begins_nothing() {
        let lost = begin(None, |_| None).await;
        assert!(matches!(lost, Err(RebuildError::BarrierLost(7))), "{lost:?}");
    }

    #[tokio::test]
    async fn the_barrier_of_another_coordinator_is_not_adopted() {
        let sale = SaleId(1);
        let other = |_| {
            let nonce = "of another coordinator".to_owned();
            Some(Record::Barrier { sale, nonce })
        };
        let adopted = begin(None, other).await;
        assert!(matches!(adopted, Err(RebuildError::BarrierLost(7))), "{adopted:?}");
    }

    #[tokio::test]
    async fn a_barrier_before_the_live_epoch_means_a_replaced_log() {
        for live in [7, 8] {
            let replaced = begin(Some(live), Some).await;
            assert!(
                matches!(replaced, Err(RebuildError::LogReplaced { .. })),
                "{replaced:?}"
            );
        }
    }

    /// A ledger and a Redis that note what R5 does to them.
    struct FakeServers {
        is_settled: bool,
        applied: Applied,
        done: Mutex<Vec<String>>,
    }

    impl FakeServers {
        fn note(&self, done: String) {
            self.done.lock().expect("nobody panics").push(done);
        }
    }

    impl Publication for FakeServers {
        async fn newest(&self, _: SaleId) -> Result<Option<NewestRow>, LedgerError> {
            let terms = Terms {
                version: 3,
                state: SaleState::Suspended,
                opens: 0,
                closes: 1,
                limit: 0,
                bounds: OrderBounds::default(),
                tiers: Vec::new(),
            };
            let is_settled = self.is_settled;
            Ok(Some(NewestRow { is_settled, terms }))
        }

        async fn apply(&self, _: SaleId, epoch: Epoch, terms: &Terms) -> Result<Applied, StockError> {
            self.note(format!("terms {} to epoch {epoch}", terms.version));
            Ok(self.applied)
        }

        async fn drop_sale(&self, _: SaleId) -> Result<(), StockError> {
            self.note("dropped".to_owned());
            Ok(())
        }

        async fn set_live_epoch(&self, _: SaleId, epoch: Epoch) -> Result<bool, LedgerError> {
            self.note(format!("named epoch {epoch}"));
            Ok(true)
        }
    }

    async fn published(is_settled: bool, applied: Applied) -> (Result<(), RebuildError>, Vec<String>) {
        let servers = FakeServers {
            is_settled,
            applied,
            done: Mutex::default(),
        };
        let result = publish(&servers, SaleId(1), Epoch(7)).await;
        (result, servers.done.into_inner().expect("nobody panics"))
    }

    #[tokio::test]
    async fn an_index_is_named_after_it_has_the_newest_terms() {
        for applied in [Applied::Done, Applied::Older] {
            let (result, done) = published(false, applied).await;
            result.expect("published");
            assert_eq!(done, ["terms 3 to epoch 7", "named epoch 7"]);
        }
    }

    #[tokio::test]
    async fn an_index_that_did_not_get_the_terms_is_not_named() {
        for applied in [Applied::NotHere, Applied::Replica] {
            let (result, done) = published(false, applied).await;
            assert!(matches!(result, Err(RebuildError::Refused(_))), "{result:?}");
            assert_eq!(done, ["terms 3 to epoch 7"]);
        }
    }

    #[tokio::test]
    async fn the_index_of_a_settled_sale_is_deleted_and_not_named() {
        let (result, done) = published(true, Applied::Done).await;
        assert!(matches!(result, Err(RebuildError::Ended)), "{result:?}");
        assert_eq!(done, ["dropped"]);
    }
}
