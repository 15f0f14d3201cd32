//! Begins a new epoch of a sale and puts an index of it in force. Preheating is the rebuild of an index that was never
//! there.
//!
//! It is safe whenever it runs, however often, and by however many at once: from the barrier on, everything that an older
//! index sells is void for every reader of the log. Who dies on the way leaves a barrier without an index, which the next
//! look at the sale finds.
use std::collections::HashMap;

use rand::random;
use seckill_ledger::{FoldStart, LedgerError, OrderStatus, Sale};
use seckill_order_log::{LogError, OrderLog};
use seckill_protocol::index::Holding;
use seckill_protocol::{Acceptance, Buyer, Epoch, KeyHash, OrderId, Quantity, Record, SaleId, Seq, Verdict};
use seckill_stock::{Install, Installed, StockError};

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
}

impl Operator {
    pub async fn rebuild(&self, sale: &Sale) -> Result<Rebuilt, RebuildError> {
        // R1: what was sold before this is in the log by now, or will be void.
        let before = self.ledger.fold_start(sale.id).await?;
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

        // R2: the ledger up to its position, and the log from there up to the barrier.
        let start = self.ledger.fold_start(sale.id).await?;
        let position = start.position;
        if position > epoch.0 && start.cut.cur < Some(epoch.0) {
            return Err(RebuildError::LedgerAhead { new: epoch, position });
        }
        let mut fold = Fold::starting_from(sale.id, start);
        if position <= epoch.0 {
            self.log
                .read(sale.part, position, epoch.0 + 1, |entry| {
                    if let Ok(record) = &entry.record {
                        fold.read(entry.offset, record);
                    }
                })
                .await?;
        }
        if fold.acceptance.cut(sale.id).closed.is_some() {
            return Err(RebuildError::Ended);
        }
        let left = fold.total.checked_sub(fold.live()).ok_or(RebuildError::Oversold {
            sold: fold.live(),
            total: fold.total,
        })?;

        // R3: nothing points at these keys yet.
        let (total, orders) = (fold.total, fold.orders.len());
        let holdings: Vec<_> = fold.into_holdings().into_iter().collect();
        self.stock.write_holdings(sale.id, epoch, &holdings).await?;

        // R4: at most once for this epoch. If its outcome is unknown, the next look finds an index in force or begins again.
        let holders = holdings.len() as u64;
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

        // R5: the newest terms may be newer than those that this began with; after that the API may know.
        if let Some(newest) = self.ledger.sale(sale.id).await? {
            if newest.settled_at_ms.is_some() {
                // Whoever settled it could not free what was not here yet.
                self.stock.drop_sale(sale.id).await?;
                return Err(RebuildError::Ended);
            }
            self.stock.apply(sale.id, &newest.terms()).await?;
        }
        self.ledger.set_live_epoch(sale.id, epoch).await?;
        self.stock.drop_epochs_before(sale.id, epoch).await?;
        Ok(Rebuilt {
            epoch,
            total,
            left,
            orders,
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

/// An order as the index needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Folded {
    buyer: Buyer,
    quantity: Quantity,
    key: KeyHash,
    status: OrderStatus,
}

/// One sale by the ledger, and then by the log.
struct Fold {
    sale: SaleId,
    acceptance: Acceptance,
    total: u64,
    orders: HashMap<OrderId, Folded>,
}

impl Fold {
    fn starting_from(sale: SaleId, start: FoldStart) -> Self {
        let orders = start.orders.into_iter().map(|order| {
            let folded = Folded {
                buyer: order.buyer,
                quantity: order.quantity,
                key: order.key,
                status: order.status,
            };
            (order.id, folded)
        });
        Fold {
            sale,
            acceptance: Acceptance::starting_from([(sale, start.cut)]),
            total: start.total,
            orders: orders.collect(),
        }
    }

    fn read(&mut self, offset: i64, record: &Record) {
        if record.sale() != self.sale || self.acceptance.judge(offset, record) == Verdict::Void {
            return;
        }
        match record {
            Record::Batch(batch) => {
                for (id, order) in batch.iter() {
                    // A duplicate is dropped against orders of every status: it never brings a cancelled one back.
                    self.orders.entry(id).or_insert_with(|| Folded {
                        buyer: order.buyer.clone(),
                        quantity: order.quantity,
                        key: order.key,
                        status: OrderStatus::Placed,
                    });
                }
            }
            Record::Total { total, .. } => self.total = self.total.max(*total),
            Record::Cancel { epoch, seq, reason, .. } => self.turn(*epoch, *seq, |status| status.cancelled(reason)),
            Record::Paid { epoch, seq, .. } => self.turn(*epoch, *seq, OrderStatus::paid),
            Record::Barrier { .. } | Record::Close { .. } => {}
        }
    }

    /// The first change in the log that an order's status allows wins, as in the ledger.
    fn turn(&mut self, epoch: Epoch, seq: Seq, into: impl Fn(OrderStatus) -> Option<OrderStatus>) {
        let sale = self.sale;
        if let Some(order) = self.orders.get_mut(&OrderId { sale, epoch, seq }) {
            order.status = into(order.status).unwrap_or(order.status);
        }
    }

    /// Units in live orders.
    fn live(&self) -> u64 {
        let live = self.orders.values().filter(|order| order.status.is_live());
        live.map(|order| u64::from(order.quantity)).sum()
    }

    fn into_holdings(self) -> HashMap<Buyer, Vec<Holding>> {
        let mut holdings: HashMap<Buyer, Vec<Holding>> = HashMap::new();
        for (id, order) in self.orders {
            holdings.entry(order.buyer).or_default().push(Holding {
                epoch: id.epoch,
                seq: id.seq,
                quantity: order.quantity,
                key: order.key,
                cancelled: !order.status.is_live(),
            });
        }
        for held in holdings.values_mut() {
            held.sort_by_key(|h| (h.epoch, h.seq));
        }
        holdings
    }
}

#[cfg(test)]
mod tests {
    use seckill_protocol::{Batch, Order, SaleCut};

    use super::*;

    const SALE: SaleId = SaleId(1);

    /// The total is 10, and the epoch 5 sells.
    fn fold() -> Fold {
        let cut = SaleCut {
            cur: Some(5),
            closed: None,
        };
        Fold::starting_from(
            SALE,
            FoldStart {
                position: 6,
                cut,
                total: 10,
                live_epoch: Some(Epoch(5)),
                orders: Vec::new(),
            },
        )
    }

    fn batch(epoch: i64, first: Seq, buyers: &[&str]) -> Record {
        let order = |buyer: &&str| Order {
            buyer: Buyer::anonymous(buyer),
            quantity: 2,
            tier: 0,
            key: KeyHash(first),
        };
        Record::Batch(Batch {
            sale: SALE,
            epoch: Epoch(epoch),
            first,
            orders: buyers.iter().map(order).collect(),
        })
    }

    fn cancel(seq: Seq) -> Record {
        Record::Cancel {
            sale: SALE,
            epoch: Epoch(5),
            seq,
            reason: "buyer".into(),
        }
    }

    #[test]
    fn orders_of_the_epoch_count_once_and_those_of_others_never() {
        let mut fold = fold();
        for (offset, record) in [
            (6, batch(5, 1, &["a", "b"])),
            (7, batch(5, 1, &["a", "b"])),
            (8, batch(4, 9, &["c"])),
        ] {
            fold.read(offset, &record);
        }
        assert_eq!(fold.live(), 4);
        assert_eq!(fold.into_holdings().len(), 2);
    }

    #[test]
    fn a_cancelled_order_returns_its_units_and_keeps_its_key() {
        let mut fold = fold();
        fold.read(6, &batch(5, 1, &["a"]));
        fold.read(7, &cancel(1));
        // A late copy of its record does not bring it back.
        fold.read(8, &batch(5, 1, &["a"]));
        assert_eq!(fold.live(), 0);
        let holdings = fold.into_holdings();
        assert!(holdings[&Buyer::anonymous("a")][0].cancelled);
    }

    #[test]
    fn a_paid_order_is_not_cancelled_any_more() {
        let mut fold = fold();
        fold.read(6, &batch(5, 1, &["a"]));
        let paid = Record::Paid {
            sale: SALE,
            epoch: Epoch(5),
            seq: 1,
            reference: "r".into(),
        };
        fold.read(7, &paid);
        fold.read(8, &cancel(1));
        assert_eq!(fold.live(), 2);
    }

    #[test]
    fn the_total_only_rises() {
        let mut fold = fold();
        for (offset, total) in [(6, 20), (7, 15)] {
            fold.read(offset, &Record::Total { sale: SALE, total });
        }
        assert_eq!(fold.total, 20);
    }

    #[test]
    fn what_other_sales_do_changes_nothing() {
        let mut fold = fold();
        fold.read(6, &Record::Close { sale: SaleId(2) });
        fold.read(7, &batch(5, 1, &["a"]));
        assert_eq!(fold.live(), 2);
    }
}
