//! Stock adjustments, which the log makes to an index in force: a cancelled order returns its units, a raised total
//! adds units.
//!
//! The log always comes first, the index after it. The order-worker stores each pending adjustment in the transaction
//! that moves its position, and deletes it after the index has answered. So an adjustment may be applied any number of
//! times, also to an index that was rebuilt from a longer part of the log and contains it already.
//!
//! The index remembers the offset up to which it contains all adjustments of its sale. So the adjustments of a sale are
//! applied in the order of the log, and every CANCEL is one, also if it changes nothing.
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
    /// A CANCEL changed nothing: an earlier CANCEL or PAID won. The index only learns that it has reached the record.
    Pass,
}

impl StockAdjustment {
    pub fn changes_units(&self) -> bool {
        *self != StockAdjustment::Pass
    }
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
        let adjustment = match (record, ended) {
            (Record::Cancel { epoch, seq, .. }, Some(buyer)) => StockAdjustment::Return {
                buyer: buyer.clone(),
                epoch: *epoch,
                seq: *seq,
            },
            (Record::Cancel { .. }, None) => StockAdjustment::Pass,
            (Record::Total { total, .. }, _) => StockAdjustment::Raise { total: *total },
            (
                Record::Identity(_)
                | Record::Barrier { .. }
                | Record::Batch(_)
                | Record::Paid { .. }
                | Record::Close { .. },
                _,
            ) => return None,
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
    /// The index is in force and does not have the order. No fold of the log explains that.
    NoSuchOrder,
    /// No index in force here has reached the adjustment's offset. A newer index is being made.
    NotYet,
    /// This server is a replica.
    Replica,
}

impl AdjustmentOutcome {
    /// Whether the index needs the adjustment no more.
    pub fn is_final(self) -> bool {
        !matches!(self, AdjustmentOutcome::NotYet | AdjustmentOutcome::Replica)
    }
}

/// Applies adjustments of one sale, which must be in the order of the log and begin with the first pending one. It stops
/// at the first one that is not final; there is an outcome for each one up to there.
///
/// `adjust.lua` in libs/stock does the same inside Redis.
pub fn apply_adjustments(
    index: Option<&mut Index>,
    server: &Server,
    adjustments: &[PendingAdjustment],
) -> Vec<AdjustmentOutcome> {
    if !server.is_master {
        return vec![AdjustmentOutcome::Replica];
    }
    let Some(index) = index.filter(|index| server.rid == index.rid) else {
        return vec![AdjustmentOutcome::NotYet];
    };
    let mut outcomes = Vec::with_capacity(adjustments.len());
    for PendingAdjustment {
        offset,
        since,
        adjustment,
    } in adjustments
    {
        // An older index will be replaced by one that contains the adjustment or still has to get it.
        if index.epoch < *since {
            outcomes.push(AdjustmentOutcome::NotYet);
            break;
        }
        outcomes.push(apply_one(index, adjustment));
        index.adjusted = index.adjusted.map(|adjusted| adjusted.max(*offset));
    }
    outcomes
}

fn apply_one(index: &mut Index, adjustment: &StockAdjustment) -> AdjustmentOutcome {
    match adjustment {
        StockAdjustment::Return { buyer, epoch, seq } => {
            let mut held = index.holdings.get_mut(buyer).into_iter().flatten();
            // Compare both: the same sequence number in another epoch is another order.
            match held.find(|h| (h.epoch, h.seq) == (*epoch, *seq)) {
                None => AdjustmentOutcome::NoSuchOrder,
                Some(holding) if holding.cancelled => AdjustmentOutcome::Already,
                Some(holding) => {
                    holding.cancelled = true;
                    let (tier, units) = (usize::from(holding.tier), u64::from(holding.quantity));
                    index.left += units;
                    if let Some(taken) = index.taken.get_mut(tier) {
                        *taken = taken.saturating_sub(units);
                    }
                    AdjustmentOutcome::Done
                }
            }
        }
        StockAdjustment::Raise { total } if *total > index.total => {
            index.left += total - index.total;
            index.total = *total;
            AdjustmentOutcome::Done
        }
        StockAdjustment::Raise { .. } | StockAdjustment::Pass => AdjustmentOutcome::Already,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{KeyHash, SaleId};
    use crate::index::{Decision, OrderBounds, Request, SaleState, Terms, purchase};

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
                bounds: OrderBounds::default(),
                tiers: Vec::new(),
            },
            total: 10,
            left: 10,
            seq: 0,
            ever: Some(0),
            adjusted: Some(5),
            taken: Vec::new(),
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

    fn pending(offset: Offset, since: i64, adjustment: StockAdjustment) -> PendingAdjustment {
        PendingAdjustment {
            offset,
            since: Epoch(since),
            adjustment,
        }
    }

    fn apply(index: &mut Index, since: i64, adjustment: &StockAdjustment) -> AdjustmentOutcome {
        let pending = pending(9, since, adjustment.clone());
        apply_adjustments(Some(index), &server(), &[pending])[0]
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
    fn a_cancelled_order_refills_the_reserve_of_its_tier() {
        let mut index = index();
        index.taken = vec![2, 3];
        assert_eq!(apply(&mut index, 5, &returned()), AdjustmentOutcome::Done);
        assert_eq!(apply(&mut index, 5, &returned()), AdjustmentOutcome::Already);
        assert_eq!(index.taken, [0, 3]);
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
        assert!(pending.adjustment.changes_units());
        let adjustment = StockAdjustment::Return {
            buyer: a(),
            epoch: Epoch(4),
            seq: 2,
        };
        assert_eq!(
            (pending.offset, pending.since, pending.adjustment),
            (8, Epoch(5), adjustment)
        );
        // The second CANCEL of an order ends nothing, and the index learns that it has reached it.
        let second = PendingAdjustment::of(9, &cancel, open, None).expect("pending");
        assert!(!second.adjustment.changes_units());
        assert_eq!((second.offset, second.adjustment), (9, StockAdjustment::Pass));
        assert!(PendingAdjustment::of(9, &total, open, None).is_some());
        let closed = SaleCut {
            current_epoch: Some(7),
            closed: Some(7),
        };
        // Not after CLOSE, and not before the first epoch: the first index will contain it.
        for cut in [closed, SaleCut::default()] {
            assert_eq!(PendingAdjustment::of(9, &cancel, cut, Some(&a())), None);
            assert_eq!(PendingAdjustment::of(9, &cancel, cut, None), None);
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
        let other = Server {
            rid: "s".into(),
            ..server()
        };
        let replica = Server {
            is_master: false,
            ..server()
        };
        let all = [pending(9, 5, returned())];
        let mut applied = |server: &Server| apply_adjustments(Some(&mut index), server, &all);
        assert_eq!(applied(&other), [AdjustmentOutcome::NotYet]);
        assert_eq!(applied(&replica), [AdjustmentOutcome::Replica]);
        assert_eq!(apply_adjustments(None, &server(), &all), [AdjustmentOutcome::NotYet]);
        assert_eq!((index.left, index.adjusted), (8, Some(5)));
    }

    #[test]
    fn only_an_index_in_force_ends_an_adjustment() {
        use AdjustmentOutcome::{Already, Done, NoSuchOrder, NotYet, Replica};
        assert!([Done, Already, NoSuchOrder].iter().all(|outcome| outcome.is_final()));
        assert!(![NotYet, Replica].iter().any(|outcome| outcome.is_final()));
    }

    #[test]
    fn the_index_remembers_the_offset_up_to_the_first_that_waits() {
        let mut index = index();
        let all = [
            pending(7, 5, returned()),
            pending(8, 5, StockAdjustment::Pass),
            pending(9, 6, StockAdjustment::Raise { total: 12 }),
            pending(10, 5, StockAdjustment::Raise { total: 12 }),
        ];
        use AdjustmentOutcome::{Already, Done, NotYet};
        assert_eq!(
            apply_adjustments(Some(&mut index), &server(), &all),
            [Done, Already, NotYet]
        );
        assert_eq!((index.adjusted, index.left, index.total), (Some(8), 10, 10));
        // A worker that is late applies the first one again.
        let again = apply_adjustments(Some(&mut index), &server(), &all[..1]);
        assert_eq!((again.as_slice(), index.adjusted), ([Already].as_slice(), Some(8)));
    }
}
