//! The fold of a sale for a new index, in memory that does not grow with the orders in the ledger.
//!
//! 1. A [`Delta`] reads the log from the position of the ledger up to the barrier (R2).
//! 2. A [`Merge`] takes the orders of the ledger one by one, sorted by buyer, epoch and seq. It applies the delta to them
//!    and gives each buyer once, with all holdings (R3). A buyer is never added to later, so writing one twice does no
//!    harm and counting buyers finds a lost one.
//!
//! The result is the one of [`Fold::starting_from`] with all orders, which a test compares.
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::vec;

use crate::acceptance::{RecordVerdict, SaleCut};
use crate::fold::{Fold, FoldedOrder};
use crate::ids::{Buyer, Offset, OrderId, SaleId};
use crate::index::{Holding, Terms};
use crate::record::Record;
use crate::status::StatusChanges;
use crate::tiers::PerTier;

/// A buyer and all holdings of that buyer.
pub type BuyerHoldings = (Buyer, Vec<Holding>);

/// The changes of a sale that its orders in the ledger do not show.
#[derive(Debug, Clone)]
pub struct Delta {
    /// Orders that the ledger may lack. The fold is right for those that it does lack.
    fold: Fold,
    /// The changes of orders that the ledger may have.
    changes: BTreeMap<OrderId, StatusChanges>,
}

impl Delta {
    /// The cut, the total and the promised orders in quarantine must come from the same snapshot as the orders that
    /// [`Merge`] takes later. [`read`](Self::read) must continue where the snapshot ends.
    pub fn starting_from(
        sale: SaleId,
        cut: SaleCut,
        total: u64,
        quarantined: impl IntoIterator<Item = (OrderId, FoldedOrder)>,
    ) -> Self {
        Delta {
            fold: Fold::starting_from(sale, cut, total, quarantined),
            changes: BTreeMap::new(),
        }
    }

    /// Reads the next record of the sale's partition.
    pub fn read(&mut self, offset: Offset, record: &Record) {
        if self.fold.read(offset, record) == RecordVerdict::Accepted
            && let Some(id) = record.changed_order()
        {
            self.changes.entry(id).or_default().add(record);
        }
    }

    pub fn cut(&self) -> SaleCut {
        self.fold.cut()
    }

    /// The units ever offered.
    pub fn total(&self) -> u64 {
        self.fold.total()
    }

    /// The number of orders that it keeps in memory.
    pub fn orders(&self) -> usize {
        self.fold.orders().len() + self.changes.len()
    }

    pub fn merge(self) -> Merge {
        let mut new: Vec<(OrderId, FoldedOrder)> = self.fold.into_orders().into_iter().collect();
        new.sort_unstable_by(|(a, order), (b, other)| (&order.buyer, a).cmp(&(&other.buyer, b)));
        Merge {
            new: new.into_iter().peekable(),
            changes: self.changes,
            buyer: None,
            counts: HoldingCounts::default(),
        }
    }
}

/// What a new index holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldingCounts {
    /// Buyers.
    pub holders: u64,
    /// Orders of every status.
    pub orders: u64,
    /// Units in live orders.
    pub units: u64,
    /// The same of each tier.
    pub by_tier: PerTier<u64>,
}

impl HoldingCounts {
    pub fn add(&mut self, held: &[Holding]) {
        self.holders += 1;
        self.orders += held.len() as u64;
        for holding in held.iter().filter(|holding| !holding.cancelled) {
            let units = u64::from(holding.quantity);
            self.units += units;
            if let Some(of_tier) = self.by_tier.get_mut(usize::from(holding.tier)) {
                *of_tier += units;
            }
        }
    }

    /// The units that an index with these terms counts for its tiers.
    pub fn taken(&self, terms: &Terms) -> Vec<u64> {
        self.by_tier.iter().copied().take(terms.tiers.len()).collect()
    }
}

/// Merges the orders of the ledger with a [`Delta`].
#[derive(Debug)]
pub struct Merge {
    /// The orders of the delta by buyer, epoch and seq.
    new: Peekable<vec::IntoIter<(OrderId, FoldedOrder)>>,
    changes: BTreeMap<OrderId, StatusChanges>,
    /// The buyer whose orders are being taken.
    buyer: Option<BuyerHoldings>,
    counts: HoldingCounts,
}

impl Merge {
    /// Takes the next order of the ledger, by buyer, epoch and seq. Buyers that are complete are added to `complete`.
    pub fn stored(&mut self, id: OrderId, mut order: FoldedOrder, complete: &mut Vec<BuyerHoldings>) {
        let before = |(new_id, new): &(OrderId, FoldedOrder)| (&new.buyer, new_id) <= (&order.buyer, &id);
        while let Some((new_id, new)) = self.new.next_if(before) {
            // The ledger has the order: the delta has a late copy of its record.
            if new_id != id {
                hold(&mut self.buyer, &mut self.counts, new_id, new, complete);
            }
        }
        if let Some(changes) = self.changes.get(&id) {
            order.status = changes.apply(order.status);
        }
        hold(&mut self.buyer, &mut self.counts, id, order, complete);
    }

    /// Adds the remaining buyers, after the last order of the ledger.
    pub fn finish(mut self, complete: &mut Vec<BuyerHoldings>) -> HoldingCounts {
        for (id, order) in self.new {
            hold(&mut self.buyer, &mut self.counts, id, order, complete);
        }
        if let Some((buyer, held)) = self.buyer {
            self.counts.add(&held);
            complete.push((buyer, held));
        }
        self.counts
    }
}

/// Adds an order to its buyer. If another buyer was being taken, that one is complete.
fn hold(
    current: &mut Option<BuyerHoldings>,
    counts: &mut HoldingCounts,
    id: OrderId,
    order: FoldedOrder,
    complete: &mut Vec<BuyerHoldings>,
) {
    let holding = order.holding(id);
    match current {
        Some((buyer, held)) if *buyer == order.buyer => held.push(holding),
        _ => {
            if let Some((buyer, held)) = current.replace((order.buyer, vec![holding])) {
                counts.add(&held);
                complete.push((buyer, held));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::ids::{Epoch, KeyHash, Seq};
    use crate::index::{Holdings, OrderBounds, SaleState};
    use crate::record::{Batch, Order};
    use crate::status::OrderStatus;
    use crate::tiers::tests::tiers;

    const SALE: SaleId = SaleId(1);

    /// An order number always stands for the same order.
    fn order(epoch: i64, seq: Seq) -> Order {
        let number = epoch as u64 * 7 + seq * 3;
        Order {
            buyer: Buyer::new(format!("b{}", number % 4)).expect("valid"),
            quantity: 1 + (number % 3) as u32,
            tier: (number % 7) as u8,
            key: KeyHash(epoch as u64 * 100 + seq),
        }
    }

    fn id(epoch: i64, seq: Seq) -> OrderId {
        OrderId {
            sale: SALE,
            epoch: Epoch(epoch),
            seq,
        }
    }

    fn batch(epoch: i64, first: Seq, orders: u64) -> Record {
        Record::Batch(Batch {
            sale: SALE,
            epoch: Epoch(epoch),
            first,
            orders: (first..first + orders).map(|seq| order(epoch, seq)).collect(),
        })
    }

    /// Barriers are rare, so that most batches of these epochs count. Few numbers, so that most records change an order
    /// that exists, and many batches are late copies.
    fn record() -> impl Strategy<Value = Record> {
        let barrier = Record::Barrier {
            sale: SALE,
            nonce: String::new(),
        };
        let cancel = |(epoch, seq, expired)| Record::Cancel {
            sale: SALE,
            epoch: Epoch(epoch),
            seq,
            reason: if expired { "expired" } else { "buyer" }.to_owned(),
        };
        let paid = |(epoch, seq)| Record::Paid {
            sale: SALE,
            epoch: Epoch(epoch),
            seq,
            reference: "r".to_owned(),
        };
        let epochs = || prop_oneof![6 => Just(0i64), 1 => 1..12i64];
        prop_oneof![
            1 => Just(barrier),
            8 => (epochs(), 1..9u64, 1..4u64).prop_map(|(epoch, first, orders)| batch(epoch, first, orders)),
            4 => (epochs(), 1..9u64, any::<bool>()).prop_map(cancel),
            3 => (epochs(), 1..9u64).prop_map(paid),
            1 => (1..50u64).prop_map(|total| Record::Total { sale: SALE, total }),
            1 => prop_oneof![4 => Just(SaleId(2)), 1 => Just(SALE)].prop_map(|sale| Record::Close { sale }),
        ]
    }

    /// The log from a barrier on, the position of the ledger, and which of its orders are in quarantine.
    fn logs() -> impl Strategy<Value = (Vec<Record>, usize, Vec<bool>)> {
        let first = Record::Barrier {
            sale: SALE,
            nonce: String::new(),
        };
        let records = prop::collection::vec(record(), 0..40);
        (records, 0..41usize, prop::collection::vec(any::<bool>(), 12)).prop_map(
            move |(records, position, quarantined)| {
                let log: Vec<Record> = [first.clone()].into_iter().chain(records).collect();
                let position = position.min(log.len());
                (log, position, quarantined)
            },
        )
    }

    fn read(log: &[Record], from: usize, mut each: impl FnMut(Offset, &Record)) {
        for (offset, record) in log.iter().enumerate().skip(from) {
            each(offset as Offset, record);
        }
    }

    /// What a rebuild gives for these orders of the ledger.
    fn rebuilt(delta: Delta, stored: &[(OrderId, FoldedOrder)]) -> (Vec<BuyerHoldings>, HoldingCounts) {
        let mut stored = stored.to_vec();
        stored.sort_by(|(a, order), (b, other)| (&order.buyer, a).cmp(&(&other.buyer, b)));
        let (mut complete, mut merge) = (Vec::new(), delta.merge());
        for (id, order) in stored {
            merge.stored(id, order, &mut complete);
        }
        let counts = merge.finish(&mut complete);
        (complete, counts)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..Default::default() })]

        #[test]
        fn streaming_equals_the_fold_of_all_orders((log, position, quarantined) in logs()) {
            let mut ledger = Fold::new(SALE);
            read(&log[..position], 0, |offset, record| {
                ledger.read(offset, record);
            });
            let (cut, total) = (ledger.cut(), ledger.total());
            let all: Vec<(OrderId, FoldedOrder)> = ledger.into_orders().into_iter().collect();
            // A batch is in quarantine as a whole, so an order of it may be stored too, with another status.
            let in_quarantine = |id: &OrderId| quarantined[id.seq as usize % quarantined.len()];
            let is_stored = |(id, order): &(OrderId, FoldedOrder)| {
                !in_quarantine(id) || order.status != OrderStatus::Placed || id.seq % 2 == 0
            };
            let stored: Vec<_> = all.iter().filter(|order| is_stored(order)).cloned().collect();
            let quarantine = all.iter().filter(|(id, _)| in_quarantine(id)).map(|(id, order)| {
                let status = OrderStatus::Placed;
                (*id, FoldedOrder { status, ..order.clone() })
            });
            let quarantine: Vec<_> = quarantine.collect();

            let mut expected = Fold::starting_from(SALE, cut, total, all);
            let mut delta = Delta::starting_from(SALE, cut, total, quarantine);
            read(&log, position, |offset, record| {
                expected.read(offset, record);
                delta.read(offset, record);
            });
            prop_assert_eq!((delta.cut(), delta.total()), (expected.cut(), expected.total()));
            let (complete, counts) = rebuilt(delta, &stored);

            let buyers: BTreeSet<&Buyer> = complete.iter().map(|(buyer, _)| buyer).collect();
            prop_assert_eq!(buyers.len(), complete.len(), "a buyer was given twice");
            let of_tier = |tier: usize| {
                let live = expected.orders().values().filter(|order| order.status.is_live());
                live.filter(|order| usize::from(order.tier) == tier).map(|order| u64::from(order.quantity)).sum()
            };
            prop_assert_eq!(counts, HoldingCounts {
                holders: complete.len() as u64,
                orders: expected.orders().len() as u64,
                units: expected.live(),
                by_tier: std::array::from_fn(of_tier),
            });
            let holdings: Holdings = complete.into_iter().collect();
            prop_assert_eq!(holdings, expected.into_holdings());
        }
    }

    fn stored(epoch: i64, seq: Seq, buyer: &str, status: OrderStatus) -> (OrderId, FoldedOrder) {
        let order = FoldedOrder {
            buyer: Buyer::new(buyer).expect("valid"),
            quantity: 1,
            tier: 0,
            key: KeyHash(seq),
            status,
        };
        (id(epoch, seq), order)
    }

    #[test]
    fn the_units_of_tiers_are_those_of_live_orders() {
        let held = |tier, quantity, cancelled| Holding {
            epoch: Epoch(1),
            seq: 1,
            quantity,
            tier,
            key: KeyHash(1),
            cancelled,
        };
        let mut counts = HoldingCounts::default();
        counts.add(&[
            held(0, 1, false),
            held(1, 2, false),
            held(1, 4, true),
            held(9, 8, false),
        ]);
        counts.add(&[held(1, 16, false)]);
        assert_eq!((counts.units, counts.by_tier), (27, [1, 18, 0, 0, 0]));
        let terms = Terms {
            version: 1,
            state: SaleState::Open,
            opens: 0,
            closes: 1,
            limit: 0,
            bounds: OrderBounds::default(),
            tiers: tiers().terms(0, [0; 5]),
        };
        assert_eq!(counts.taken(&terms), [1, 18, 0]);
        let without = Terms {
            tiers: Vec::new(),
            ..terms
        };
        assert_eq!(counts.taken(&without), [0u64; 0]);
    }

    fn delta() -> Delta {
        let cut = SaleCut {
            current_epoch: Some(5),
            closed: None,
        };
        Delta::starting_from(SALE, cut, 10, [])
    }

    fn change(seq: Seq, paid: bool) -> Record {
        match paid {
            true => Record::Paid {
                sale: SALE,
                epoch: Epoch(5),
                seq,
                reference: "r".into(),
            },
            false => Record::Cancel {
                sale: SALE,
                epoch: Epoch(5),
                seq,
                reason: "buyer".into(),
            },
        }
    }

    #[test]
    fn the_log_cancels_an_order_of_the_ledger() {
        let mut delta = delta();
        delta.read(6, &change(1, false));
        delta.read(7, &change(2, true));
        delta.read(8, &change(2, false));
        let rows = [
            stored(5, 1, "a", OrderStatus::Placed),
            stored(5, 2, "b", OrderStatus::Placed),
        ];
        let (complete, counts) = rebuilt(delta, &rows);
        let cancelled: Vec<bool> = complete.iter().map(|(_, held)| held[0].cancelled).collect();
        assert_eq!(cancelled, [true, false]);
        assert_eq!((counts.orders, counts.units), (2, 1));
    }

    #[test]
    fn a_cancel_before_its_order_changes_only_a_stored_one() {
        let cancel_first = |rows: &[(OrderId, FoldedOrder)]| {
            let mut delta = delta();
            delta.read(6, &change(1, false));
            delta.read(7, &batch(5, 1, 1));
            rebuilt(delta, rows).1.units
        };
        let order = order(5, 1);
        assert_eq!(cancel_first(&[]), u64::from(order.quantity));
        assert_eq!(
            cancel_first(&[stored(5, 1, order.buyer.as_str(), OrderStatus::Placed)]),
            0
        );
    }

    #[test]
    fn a_delta_counts_the_orders_that_it_keeps() {
        let mut delta = delta();
        delta.read(6, &batch(5, 1, 3));
        delta.read(7, &batch(5, 1, 3));
        delta.read(8, &change(9, false));
        delta.read(9, &change(9, true));
        assert_eq!(delta.orders(), 4);
    }
}
