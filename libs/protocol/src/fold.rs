//! What the log says of one sale: the fold that every view of it agrees with.
use std::collections::HashMap;

use crate::acceptance::{Acceptance, SaleCut, Verdict};
use crate::ids::{Buyer, Epoch, KeyHash, Offset, OrderId, Quantity, SaleId, Seq};
use crate::index::Holding;
use crate::record::Record;
use crate::status::OrderStatus;

/// An order as the index needs it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Folded {
    pub buyer: Buyer,
    pub quantity: Quantity,
    pub key: KeyHash,
    pub status: OrderStatus,
}

/// One sale: by a view of the log up to some offset, if there is one, and by the log from there on.
#[derive(Debug, Clone)]
pub struct Fold {
    sale: SaleId,
    acceptance: Acceptance,
    total: u64,
    orders: HashMap<OrderId, Folded>,
}

impl Fold {
    /// The cut, the total and the orders must come from one snapshot, and [`read`](Self::read) must go on where it ends.
    pub fn starting_from(
        sale: SaleId,
        cut: SaleCut,
        total: u64,
        orders: impl IntoIterator<Item = (OrderId, Folded)>,
    ) -> Self {
        Fold {
            sale,
            acceptance: Acceptance::starting_from([(sale, cut)]),
            total,
            orders: orders.into_iter().collect(),
        }
    }

    /// From the log's beginning.
    pub fn new(sale: SaleId) -> Self {
        Self::starting_from(sale, SaleCut::default(), 0, [])
    }

    /// Reads the next record of the sale's partition.
    pub fn read(&mut self, offset: Offset, record: &Record) {
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

    pub fn cut(&self) -> SaleCut {
        self.acceptance.cut(self.sale)
    }

    /// The units ever offered.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Orders of every status.
    pub fn orders(&self) -> &HashMap<OrderId, Folded> {
        &self.orders
    }

    /// Units in live orders.
    pub fn live(&self) -> u64 {
        let live = self.orders.values().filter(|order| order.status.is_live());
        live.map(|order| u64::from(order.quantity)).sum()
    }

    /// What an index of all this holds: cancelled orders too, for their keys are taken.
    pub fn into_holdings(self) -> HashMap<Buyer, Vec<Holding>> {
        let mut holdings: HashMap<Buyer, Vec<Holding>> = HashMap::with_capacity(self.orders.len());
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
    use crate::record::{Batch, Order};

    use super::*;

    const SALE: SaleId = SaleId(1);

    /// The total is 10, and the epoch 5 sells.
    fn fold() -> Fold {
        let cut = SaleCut {
            cur: Some(5),
            closed: None,
        };
        Fold::starting_from(SALE, cut, 10, [])
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
