//! The fold of the log over one sale. Every view of the sale agrees with it.
use std::collections::BTreeMap;

use crate::acceptance::{Acceptance, RecordVerdict, SaleCut};
use crate::ids::{Buyer, KeyHash, Offset, OrderId, Quantity, SaleId, Tier};
use crate::index::{Holding, Holdings};
use crate::record::Record;
use crate::status::OrderStatus;

/// An order as the index needs it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FoldedOrder {
    pub buyer: Buyer,
    pub quantity: Quantity,
    pub tier: Tier,
    pub key: KeyHash,
    pub status: OrderStatus,
}

impl FoldedOrder {
    /// The holding of its buyer. A cancelled order has one too, because its key is used.
    pub(crate) fn holding(&self, id: OrderId) -> Holding {
        Holding {
            epoch: id.epoch,
            seq: id.seq,
            quantity: self.quantity,
            tier: self.tier,
            key: self.key,
            cancelled: !self.status.is_live(),
        }
    }
}

/// One sale: from a view of the log up to some offset, if there is one, and from the log after it.
#[derive(Debug, Clone)]
pub struct Fold {
    sale: SaleId,
    acceptance: Acceptance,
    total: u64,
    /// A sorted map, because orders come sorted: a million of them is built at once.
    orders: BTreeMap<OrderId, FoldedOrder>,
}

impl Fold {
    /// The cut, the total and the orders must come from one snapshot. [`read`](Self::read) must continue where it ends.
    pub fn starting_from(
        sale: SaleId,
        cut: SaleCut,
        total: u64,
        orders: impl IntoIterator<Item = (OrderId, FoldedOrder)>,
    ) -> Self {
        Fold {
            sale,
            acceptance: Acceptance::starting_from([(sale, cut)]),
            total,
            orders: orders.into_iter().collect(),
        }
    }

    /// From the beginning of the log.
    pub fn new(sale: SaleId) -> Self {
        Self::starting_from(sale, SaleCut::default(), 0, [])
    }

    /// Reads the next record of the sale's partition. A record of another sale is void here.
    pub fn read(&mut self, offset: Offset, record: &Record) -> RecordVerdict {
        if record.sale() != self.sale || self.acceptance.judge(offset, record) == RecordVerdict::Void {
            return RecordVerdict::Void;
        }
        match record {
            Record::Batch(batch) => {
                for (id, order) in batch.iter() {
                    // A duplicate is dropped whatever the status of the order is: it never restores a cancelled order.
                    self.orders.entry(id).or_insert_with(|| FoldedOrder {
                        buyer: order.buyer.clone(),
                        quantity: order.quantity,
                        tier: order.tier,
                        key: order.key,
                        status: OrderStatus::Placed,
                    });
                }
            }
            Record::Total { total, .. } => self.total = self.total.max(*total),
            Record::Cancel { .. } | Record::Paid { .. } => {
                // The first change in the log that the status allows wins, as in the ledger.
                if let Some(order) = record.changed_order().and_then(|id| self.orders.get_mut(&id)) {
                    order.status = order.status.after(record);
                }
            }
            Record::Identity(_) | Record::Barrier { .. } | Record::Close { .. } => {}
        }
        RecordVerdict::Accepted
    }

    pub fn cut(&self) -> SaleCut {
        self.acceptance.cut(self.sale)
    }

    /// The units ever offered.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Orders of every status.
    pub fn orders(&self) -> &BTreeMap<OrderId, FoldedOrder> {
        &self.orders
    }

    /// Units in live orders.
    pub fn live(&self) -> u64 {
        let live = self.orders.values().filter(|order| order.status.is_live());
        live.map(|order| u64::from(order.quantity)).sum()
    }

    pub fn into_orders(self) -> BTreeMap<OrderId, FoldedOrder> {
        self.orders
    }

    /// The holdings of an index made from this fold. They include cancelled orders, because their keys are used.
    pub fn into_holdings(self) -> Holdings {
        let mut holdings = Holdings::new();
        for (id, order) in self.orders {
            let holding = order.holding(id);
            holdings.entry(order.buyer).or_default().push(holding);
        }
        holdings
    }
}

#[cfg(test)]
mod tests {
    use crate::ids::{Epoch, Seq};
    use crate::record::{Batch, Order};

    use super::*;

    const SALE: SaleId = SaleId(1);

    /// The total is 10, and epoch 5 sells.
    fn fold() -> Fold {
        let cut = SaleCut {
            current_epoch: Some(5),
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
    fn only_orders_of_the_epoch_count_and_only_once() {
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
        assert!(fold.into_holdings()[&Buyer::anonymous("a")][0].cancelled);
    }

    #[test]
    fn holdings_of_a_buyer_stay_in_order() {
        let mut fold = fold();
        fold.read(6, &batch(5, 1, &["a", "b"]));
        fold.read(7, &batch(5, 3, &["c", "a", "a"]));
        let numbers = |(buyer, held): (Buyer, Vec<Holding>)| (buyer, held.iter().map(|h| h.seq).collect());
        let held: BTreeMap<Buyer, Vec<Seq>> = fold.into_holdings().into_iter().map(numbers).collect();
        let expected = [("a", vec![1, 4, 5]), ("b", vec![2]), ("c", vec![3])];
        assert_eq!(
            held,
            expected.map(|(buyer, seqs)| (Buyer::anonymous(buyer), seqs)).into()
        );
    }

    #[test]
    fn a_paid_order_can_not_be_cancelled() {
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
        assert_eq!(fold.total(), 20);
    }

    #[test]
    fn a_fold_knows_the_epoch_and_the_end_of_its_sale() {
        let barrier = Record::Barrier {
            sale: SALE,
            nonce: "n".into(),
        };
        let mut fold = Fold::new(SALE);
        let mut cut = |offset, record| {
            fold.read(offset, &record);
            (fold.cut().current_epoch, fold.cut().closed)
        };
        assert_eq!(cut(3, barrier.clone()), (Some(3), None));
        assert_eq!(cut(4, barrier), (Some(4), None));
        assert_eq!(cut(6, Record::Close { sale: SALE }), (Some(6), Some(6)));
    }

    #[test]
    fn records_of_other_sales_change_nothing() {
        let mut fold = fold();
        fold.read(6, &Record::Close { sale: SaleId(2) });
        fold.read(7, &batch(5, 1, &["a"]));
        assert_eq!(fold.live(), 2);
    }
}
