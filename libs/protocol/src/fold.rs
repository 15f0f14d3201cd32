//! The fold of the log over one sale. Every view of the sale agrees with it.
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};

use crate::acceptance::{Acceptance, RecordVerdict, SaleCut};
use crate::ids::{Buyer, Epoch, KeyHash, Offset, OrderId, Quantity, SaleId, Seq};
use crate::index::Holding;
use crate::record::Record;
use crate::status::OrderStatus;

/// An order as the index needs it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FoldedOrder {
    pub buyer: Buyer,
    pub quantity: Quantity,
    pub key: KeyHash,
    pub status: OrderStatus,
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

    /// Reads the next record of the sale's partition.
    pub fn read(&mut self, offset: Offset, record: &Record) {
        if record.sale() != self.sale || self.acceptance.judge(offset, record) == RecordVerdict::Void {
            return;
        }
        match record {
            Record::Batch(batch) => {
                for (id, order) in batch.iter() {
                    // A duplicate is dropped whatever the status of the order is: it never restores a cancelled order.
                    self.orders.entry(id).or_insert_with(|| FoldedOrder {
                        buyer: order.buyer.clone(),
                        quantity: order.quantity,
                        key: order.key,
                        status: OrderStatus::Placed,
                    });
                }
            }
            Record::Total { total, .. } => self.total = self.total.max(*total),
            Record::Cancel { epoch, seq, reason, .. } => {
                self.change_status(*epoch, *seq, |status| status.cancelled(reason))
            }
            Record::Paid { epoch, seq, .. } => self.change_status(*epoch, *seq, OrderStatus::paid),
            Record::Identity(_) | Record::Barrier { .. } | Record::Close { .. } => {}
        }
    }

    /// The first change in the log that the status allows wins, as in the ledger.
    fn change_status(&mut self, epoch: Epoch, seq: Seq, into: impl Fn(OrderStatus) -> Option<OrderStatus>) {
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
    pub fn orders(&self) -> &BTreeMap<OrderId, FoldedOrder> {
        &self.orders
    }

    /// Units in live orders.
    pub fn live(&self) -> u64 {
        let live = self.orders.values().filter(|order| order.status.is_live());
        live.map(|order| u64::from(order.quantity)).sum()
    }

    /// The holdings of an index made from this fold, by buyer. They include cancelled orders, because their keys are
    /// used.
    pub fn into_holdings(self) -> Vec<(Buyer, Vec<Holding>)> {
        // The sale does not sell until this ends. Most buyers have one order, so only the other buyers are grouped.
        let hasher = RandomState::new();
        let hashes: Vec<u64> = self.orders.values().map(|o| hasher.hash_one(&o.buyer)).collect();
        let mut seen = HashSet::with_capacity(hashes.len());
        let several: HashSet<u64> = hashes.iter().copied().filter(|hash| !seen.insert(*hash)).collect();
        let mut holdings: Vec<(Buyer, Vec<Holding>)> = Vec::with_capacity(hashes.len());
        let mut places: HashMap<Buyer, usize> = HashMap::new();
        for ((id, order), hash) in self.orders.into_iter().zip(hashes) {
            let holding = Holding {
                epoch: id.epoch,
                seq: id.seq,
                quantity: order.quantity,
                key: order.key,
                cancelled: !order.status.is_live(),
            };
            let place = match several.contains(&hash) {
                true => *places.entry(order.buyer.clone()).or_insert(holdings.len()),
                false => holdings.len(),
            };
            match holdings.get_mut(place) {
                Some((_, held)) => held.push(holding),
                None => holdings.push((order.buyer, vec![holding])),
            }
        }
        holdings
    }
}

#[cfg(test)]
mod tests {
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
        let holdings = fold.into_holdings();
        assert_eq!(holdings[0].0, Buyer::anonymous("a"));
        assert!(holdings[0].1[0].cancelled);
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
        assert_eq!(fold.total, 20);
    }

    #[test]
    fn records_of_other_sales_change_nothing() {
        let mut fold = fold();
        fold.read(6, &Record::Close { sale: SaleId(2) });
        fold.read(7, &batch(5, 1, &["a"]));
        assert_eq!(fold.live(), 2);
    }
}
