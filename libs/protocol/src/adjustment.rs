//! Stock adjustments, which the log makes to an index in force: a cancelled order returns its units, a raised total
//! adds units.
//!
//! The log always comes first, the index after it. The order-worker stores each pending adjustment in the transaction
//! that moves its position, and deletes it after the index has answered. So an adjustment may be applied any number of
//! times, also to an index that was rebuilt from a longer part of the log and contains it already.
use crate::acceptance::SaleCut;
use crate::ids::{Buyer, Epoch, Offset, Seq};
use crate::index::{Index, Server};
use crate::record::Record;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StockAdjustment {
    /// A CANCEL ended this order: its units return, once.
    Return { buyer: Buyer, epoch: Epoch, seq: Seq },
    /// A TOTAL raised the total.
    Raise { total: u64 },
}

/// An adjustment that the index has not confirmed yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PendingAdjustment {
    /// The offset of its record in the log.
    pub offset: Offset,
    /// The epoch in force at that offset. An index of an older epoch does not get the adjustment.
    pub since: Epoch,
    pub adjustment: StockAdjustment,
}

impl PendingAdjustment {
    /// The adjustment for an accepted record, if there is one. `cut` is the sale's cut at the record's offset. `ended`
    /// is the buyer of the order that the record ended, if it ended one.
    ///
    /// After CLOSE there is none: nothing is sold any more, and the index is dropped.
    pub fn of(offset: Offset, record: &Record, cut: SaleCut, ended: Option<&Buyer>) -> Option<PendingAdjustment> {
        let since = cut.epoch()?;
        let adjustment = match record {
            Record::Cancel { epoch, seq, .. } => StockAdjustment::Return {
                buyer: ended?.clone(),
                epoch: *epoch,
                seq: *seq,
            },
            Record::Total { total, .. } => StockAdjustment::Raise { total: *total },
            Record::Identity(_)
            | Record::Barrier { .. }
            | Record::Batch(_)
            | Record::Paid { .. }
            | Record::Close { .. } => return None,
        };
        Some(PendingAdjustment {
            offset,
            since,
            adjustment,
        })
    }
}

/// The result of applying an adjustment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdjustmentOutcome {
    Done,
    /// The index had this adjustment, or a greater total, before.
    Already,
    /// No index in force here has reached the adjustment's offset. A newer index is being made.
    NotYet,
    /// The index is in force and does not have the order. No fold of the log explains that.
    NoSuchOrder,
}

/// Applies an adjustment to an index. `since` is the epoch in force at the adjustment's offset. An older index will be
/// replaced by one that contains the adjustment or still has to get it.
///
/// The scripts `return.lua` and `raise.lua` in libs/stock do the same inside Redis.
pub fn apply_adjustment(
    index: Option<&mut Index>,
    server: &Server,
    since: Epoch,
    adjustment: &StockAdjustment,
) -> AdjustmentOutcome {
    let Some(index) = index else {
        return AdjustmentOutcome::NotYet;
    };
    if !server.is_master || server.rid != index.rid || index.epoch < since {
        return AdjustmentOutcome::NotYet;
    }
    match adjustment {
        StockAdjustment::Return { buyer, epoch, seq } => {
            let mut held = index.holdings.get_mut(buyer).into_iter().flatten();
            // Compare both: the same sequence number in another epoch is another order.
            match held.find(|h| (h.epoch, h.seq) == (*epoch, *seq)) {
                None => AdjustmentOutcome::NoSuchOrder,
                Some(holding) if holding.cancelled => AdjustmentOutcome::Already,
                Some(holding) => {
                    holding.cancelled = true;
                    index.left += u64::from(holding.quantity);
                    AdjustmentOutcome::Done
                }
            }
        }
        StockAdjustment::Raise { total } if *total > index.total => {
            index.left += total - index.total;
            index.total = *total;
            AdjustmentOutcome::Done
        }
        StockAdjustment::Raise { .. } => AdjustmentOutcome::Already,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{KeyHash, SaleId};
    use crate::index::{Decision, Request, SaleState, Terms, purchase};

    fn server() -> Server {
        Server {
            is_master: true,
            rid: "r".into(),
            now: 100,
        }
    }

    /// Ten units, of which `a` has bought two.
    fn index() -> Index {
        let mut index = Index {
            sale: SaleId(1),
            epoch: Epoch(5),
            rid: "r".into(),
            terms: Terms {
                version: 1,
                state: SaleState::Open,
                opens: 0,
                closes: 200,
                limit: 2,
            },
            total: 10,
            left: 10,
            seq: 0,
            holdings: Default::default(),
        };
        assert_eq!(buy(&mut index, 1), Decision::Reserved { seq: 1 });
        index
    }

    fn buy(index: &mut Index, key: u64) -> Decision {
        let request = Request {
            buyer: a(),
            quantity: 2,
            tier: 0,
            key: KeyHash(key),
        };
        purchase(Some(index), &server(), Epoch(5), &[request])
            .expect("not fenced")
            .0[0]
    }

    fn a() -> Buyer {
        Buyer::anonymous("a")
    }

    fn returned() -> StockAdjustment {
        StockAdjustment::Return {
            buyer: a(),
            epoch: Epoch(5),
            seq: 1,
        }
    }

    fn apply(index: &mut Index, since: i64, adjustment: &StockAdjustment) -> AdjustmentOutcome {
        apply_adjustment(Some(index), &server(), Epoch(since), adjustment)
    }

    #[test]
    fn a_cancelled_order_returns_its_units_once_and_keeps_its_key() {
        let mut index = index();
        assert_eq!(apply(&mut index, 5, &returned()), AdjustmentOutcome::Done);
        assert_eq!(apply(&mut index, 5, &returned()), AdjustmentOutcome::Already);
        assert_eq!(index.left, 10);
        assert!(matches!(buy(&mut index, 1), Decision::AlreadyReserved(h) if h.cancelled));
        // The limit counts live orders.
        assert_eq!(buy(&mut index, 2), Decision::Reserved { seq: 2 });
    }

    #[test]
    fn same_number_in_another_epoch_is_another_order() {
        let mut index = index();
        let other = StockAdjustment::Return {
            buyer: a(),
            epoch: Epoch(4),
            seq: 1,
        };
        assert_eq!(apply(&mut index, 5, &other), AdjustmentOutcome::NoSuchOrder);
        assert_eq!(index.left, 8);
    }

    #[test]
    fn cancels_and_totals_are_pending_until_close() {
        let sale = SaleId(1);
        let cancel = Record::Cancel {
            sale,
            epoch: Epoch(4),
            seq: 2,
            reason: "buyer".into(),
        };
        let total = Record::Total { sale, total: 9 };
        let open = SaleCut {
            current_epoch: Some(5),
            closed: None,
        };
        let pending = PendingAdjustment::of(8, &cancel, open, Some(&a())).expect("pending");
        let adjustment = StockAdjustment::Return {
            buyer: a(),
            epoch: Epoch(4),
            seq: 2,
        };
        assert_eq!(
            (pending.offset, pending.since, pending.adjustment),
            (8, Epoch(5), adjustment)
        );
        // The second CANCEL of an order ends nothing.
        assert_eq!(PendingAdjustment::of(9, &cancel, open, None), None);
        assert!(PendingAdjustment::of(9, &total, open, None).is_some());
        let closed = SaleCut {
            current_epoch: Some(7),
            closed: Some(7),
        };
        // Not after CLOSE, and not before the first epoch: the first index will contain it.
        for cut in [closed, SaleCut::default()] {
            assert_eq!(PendingAdjustment::of(9, &cancel, cut, Some(&a())), None);
            assert_eq!(PendingAdjustment::of(9, &total, cut, None), None);
        }
    }

    #[test]
    fn a_total_only_rises() {
        let mut index = index();
        for (total, outcome, left) in [
            (12, AdjustmentOutcome::Done, 10),
            (12, AdjustmentOutcome::Already, 10),
            (11, AdjustmentOutcome::Already, 10),
        ] {
            assert_eq!(
                apply(&mut index, 5, &StockAdjustment::Raise { total }),
                outcome,
                "{total}"
            );
            assert_eq!((index.total, index.left), (12, left));
        }
    }

    #[test]
    fn an_older_or_invalid_index_is_not_changed() {
        let mut index = index();
        assert_eq!(apply(&mut index, 6, &returned()), AdjustmentOutcome::NotYet);
        let others = [
            Server {
                is_master: false,
                ..server()
            },
            Server {
                rid: "s".into(),
                ..server()
            },
        ];
        for other in others {
            let outcome = apply_adjustment(Some(&mut index), &other, Epoch(5), &returned());
            assert_eq!(outcome, AdjustmentOutcome::NotYet);
        }
        assert_eq!(
            apply_adjustment(None, &server(), Epoch(5), &returned()),
            AdjustmentOutcome::NotYet
        );
        assert_eq!(index.left, 8);
    }
}
