//! Begins a new epoch of a sale and puts an index of it in force. Preheating is the rebuild of an index that was never
//! there.
//!
//! It is safe whenever it runs, however often, and by however many at once: from the barrier on, everything that an older
//! index sells is void for every reader of the log. Who dies on the way leaves a barrier without an index, which the next
//! look at the sale finds.
use std::time::{Duration, Instant};

use rand::random;
use seckill_ledger::{LedgerError, Sale};
use seckill_order_log::{LogError, OrderLog};
use seckill_protocol::{Epoch, Record};
use seckill_stock::{Applied, Install, Installed, StockError};

use crate::run::Operator;

#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Stock(#[from] StockError),
    #[error(
        "the barrier at offset {0} is not there any more: the order log was replaced or cut; nothing may be sold on it"
    )]
    BarrierLost(i64),
    #[error(
        "the new epoch {new} is not beyond {live}, under which the sale sold: the order log was replaced or cut; \
         restore it before anything is sold"
    )]
    LogReplaced { new: Epoch, live: Epoch },
    #[error(
        "the ledger has read its partition up to offset {position} and has not met the new epoch {new}: the order log \
         was replaced or cut; restore it before anything is sold"
    )]
    LedgerAhead { new: Epoch, position: i64 },
    #[error("more units are sold, {sold}, than offered, {total}; nothing may be sold until a person has looked at it")]
    Oversold { sold: u64, total: u64 },
    #[error("the index was refused: {0}; beginning again")]
    Refused(String),
    #[error("the sale has ended meanwhile")]
    Ended,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    pub epoch: Epoch,
    pub total: u64,
    pub left: u64,
    pub orders: usize,
    /// Purchases of the index before that the log does not know: they are void, and were promised to nobody. `None`:
    /// nothing is left that would tell.
    pub voided: Option<u64>,
    /// From the first question to the API's being told.
    pub took: Duration,
}

impl Operator {
    pub async fn rebuild(&self, sale: &Sale) -> Result<Rebuilt, RebuildError> {
        // R1: what was sold before this is in the log by now, or will be void.
        let begun = Instant::now();
        let before = self.ledger.sale(sale.id).await?.ok_or(LedgerError::NoSale(sale.id))?;
        let left_behind = self.stock.probe(sale.id).await?.index;
        if before.total < sale.offered {
            // It may be in the log already, and only the worker is behind: the highest total counts, twice is once.
            self.log
                .append(
                    sale.part,
                    &Record::Total {
                        sale: sale.id,
                        total: sale.offered,
                    },
                )
                .await?;
        }
        let nonce = format!("{:016x}", random::<u64>());
        let barrier = Record::Barrier { sale: sale.id, nonce };
        let epoch = Epoch(self.log.append(sale.part, &barrier).await?);
        self.read_back(sale, epoch, &barrier).await?;
        if let Some(live) = before.live_epoch.filter(|live| epoch <= *live) {
            return Err(RebuildError::LogReplaced { new: epoch, live });
        }

        seckill_failpoint::reach("rebuild.R1");

        // R2: the ledger up to its position, and the log from there up to the barrier.
        let start = self.ledger.fold_start(sale.id).await?;
        let position = start.position;
        if position > epoch.0 && start.cut.cur < Some(epoch.0) {
            return Err(RebuildError::LedgerAhead { new: epoch, position });
        }
        let mut fold = start.fold(sale.id);
        if position <= epoch.0 && !(sale.live_epoch.is_some() && seckill_failpoint::breaks("rebuild-without-log")) {
            self.log
                .read(sale.part, position, epoch.0 + 1, |entry| {
                    if let Ok(record) = &entry.record {
                        fold.read(entry.offset, record);
                    }
                })
                .await?;
        }
        if fold.cut().closed.is_some() {
            return Err(RebuildError::Ended);
        }
        let (total, sold, orders) = (fold.total(), fold.live(), fold.orders().len());
        let folded = begun.elapsed();
        // What the index that is given up took and the log does not know: void, and promised to nobody.
        let voided = left_behind.map(|index| {
            let known = fold.orders().keys().filter(|id| id.epoch == index.epoch).count() as u64;
            index.seq.saturating_sub(known)
        });
        let left = total.checked_sub(sold).ok_or(RebuildError::Oversold { sold, total })?;

        seckill_failpoint::reach("rebuild.R2");

        // R3: nothing points at these keys yet.
        let holdings = fold.into_holdings();
        let holders = holdings.len() as u64;
        self.stock.write_holdings(sale.id, epoch, &holdings).await?;
        seckill_failpoint::reach("rebuild.R3");

        // R4: at most once for this epoch. If its outcome is unknown, the next look finds an index in force or begins again.
        let index = Install {
            epoch,
            total,
            left,
            holders,
            terms: sale.terms(),
        };
        match self.stock.install(sale.id, &index).await? {
            Installed::Done => {}
            Installed::Refused(why) => return Err(RebuildError::Refused(why)),
        }

        seckill_failpoint::reach("rebuild.R4");

        // R5: the newest terms may be newer than those that this began with; after that the API may know.
        if let Some(newest) = self.ledger.sale(sale.id).await? {
            if newest.settled_at_ms.is_some() {
                // Whoever settled it could not free what was not here yet.
                self.stock.drop_sale(sale.id).await?;
                return Err(RebuildError::Ended);
            }
            // Of an index that has not got them nobody is told: the servers may have changed places since it was installed.
            if self.stock.apply(sale.id, epoch, &newest.terms()).await? == Applied::NotHere {
                return Err(RebuildError::Refused("it is not there any more".to_owned()));
            }
        }
        self.ledger.set_live_epoch(sale.id, epoch).await?;
        let took = begun.elapsed();
        tracing::info!(sale = %sale.id, %epoch, total, left, orders, voided, ?folded, ?took, "an index is in force");
        seckill_failpoint::reach("rebuild.R5");
        self.stock.drop_epochs_before(sale.id, epoch).await?;
        Ok(Rebuilt {
            epoch,
            total,
            left,
            orders,
            voided,
            took,
        })
    }

    /// A barrier of one's own is one that was read at its offset, never one that was merely acknowledged or found.
    async fn read_back(&self, sale: &Sale, epoch: Epoch, barrier: &Record) -> Result<(), RebuildError> {
        let mut found = false;
        let log: &OrderLog = &self.log;
        log.read(sale.part, epoch.0, epoch.0 + 1, |entry| {
            found |= entry.offset == epoch.0 && entry.record.as_ref().is_ok_and(|record| record == barrier);
        })
        .await?;
        if found {
            Ok(())
        } else {
            Err(RebuildError::BarrierLost(epoch.0))
        }
    }
}
