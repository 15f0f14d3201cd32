//! What the log does to an index that is in force: a cancelled order returns its units, a raised total adds some.
//!
//! The log first, the index after, never the other way. The order-worker remembers each effect in the transaction that
//! moves its position, and forgets it once the index has answered; so an effect may be tried any number of times, and
//! on an index that a rebuild made from a longer part of the log, which contains it already.
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

/// An effect that the index has to be told of, remembered until it answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PendingAdjustment {
    /// Where its record stands in the log.
    pub offset: Offset,
    /// The epoch in force there: an index of an older one is not told.
    pub since: Epoch,
    pub effect: StockAdjustment,
}

impl PendingAdjustment {
    /// What is owed to the index for a record that counts. `cut` is the sale's where the record stands; `ended` is the
    /// buyer of the order that the record ended, if it ended one.
    ///
    /// After CLOSE nothing is owed: nothing is sold any more, and the index goes.
    pub fn of(offset: Offset, record: &Record, cut: SaleCut, ended: Option<&Buyer>) -> Option<PendingAdjustment> {
        let since = cut.epoch()?;
        let effect = match record {
            Record::Cancel { epoch, seq, .. } => StockAdjustment::Return {
                buyer: ended?.clone(),
                epoch: *epoch,
                seq: *seq,
            },
            Record::Total { total, .. } => StockAdjustment::Raise { total: *total },
            Record::Barrier { .. } | Record::Batch(_) | Record::Paid { .. } | Record::Close { .. } => return None,
        };
        Some(PendingAdjustment { offset, since, effect })
    }
}

/// What came of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdjustmentOutcome {
    Done,
    /// It, or a greater one, was there before.
    Already,
    /// No index is in force here that has reached the effect's place in the log: one is on its way.
    NotYet,
    /// The index is in force and does not know the order, which no fold of the log explains.
    NoSuchOrder,
}

/// `since` is the epoch in force at the effect's offset: an older index will be replaced by one that contains the effect
/// or that it has to be told to.
///
/// The scripts `return.lua` and `raise.lua` in libs/stock do the same inside Redis.
pub fn apply_adjustment(
    index: Option<&mut Index>,
    server: &Server,
    since: Epoch,
    effect: &StockAdjustment,
) -> AdjustmentOutcome {
    let Some(index) = index else {
        return AdjustmentOutcome::NotYet;
    };
    if !server.is_master || server.rid != index.rid || index.epoch < since {
        return AdjustmentOutcome::NotYet;
    }
    match effect {
        StockAdjustment::Return { buyer, epoch, seq } => {
            let mut held = index.holdings.get_mut(buyer).into_iter().flatten();
            // Both: under another epoch the same number is another order.
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

    fn take(index: &mut Index, since: i64, effect: &StockAdjustment) -> AdjustmentOutcome {
        apply_adjustment(Some(index), &server(), Epoch(since), effect)
    }

    #[test]
    fn a_cancelled_order_returns_its_units_once_and_keeps_its_key() {
        let mut index = index();
        assert_eq!(take(&mut index, 5, &returned()), AdjustmentOutcome::Done);
        assert_eq!(take(&mut index, 5, &returned()), AdjustmentOutcome::Already);
        assert_eq!(index.left, 10);
        assert!(matches!(buy(&mut index, 1), Decision::AlreadyReserved(h) if h.cancelled));
        // The limit counts live orders.
        assert_eq!(buy(&mut index, 2), Decision::Reserved { seq: 2 });
    }

    #[test]
    fn the_same_number_under_another_epoch_is_another_order() {
        let mut index = index();
        let other = StockAdjustment::Return {
            buyer: a(),
            epoch: Epoch(4),
            seq: 1,
        };
        assert_eq!(take(&mut index, 5, &other), AdjustmentOutcome::NoSuchOrder);
        assert_eq!(index.left, 8);
    }

    #[test]
    fn a_cancel_that_ended_an_order_and_a_total_are_owed_until_the_end() {
        let sale = SaleId(1);
        let cancel = Record::Cancel {
            sale,
            epoch: Epoch(4),
            seq: 2,
            reason: "buyer".into(),
        };
        let total = Record::Total { sale, total: 9 };
        let open = SaleCut {
            cur: Some(5),
            closed: None,
        };
        let owed = PendingAdjustment::of(8, &cancel, open, Some(&a())).expect("owed");
        let effect = StockAdjustment::Return {
            buyer: a(),
            epoch: Epoch(4),
            seq: 2,
        };
        assert_eq!((owed.offset, owed.since, owed.effect), (8, Epoch(5), effect));
        // The second CANCEL of an order ends nothing.
        assert_eq!(PendingAdjustment::of(9, &cancel, open, None), None);
        assert!(PendingAdjustment::of(9, &total, open, None).is_some());
        let closed = SaleCut {
            cur: Some(7),
            closed: Some(7),
        };
        // Neither after the end nor before the first epoch: the index that comes contains it.
        for cut in [closed, SaleCut::default()] {
            assert_eq!(PendingAdjustment::of(9, &cancel, cut, Some(&a())), None);
            assert_eq!(PendingAdjustment::of(9, &total, cut, None), None);
        }
    }

    #[test]
    fn a_total_only_rises() {
        let mut index = index();
        for (total, effected, left) in [
            (12, AdjustmentOutcome::Done, 10),
            (12, AdjustmentOutcome::Already, 10),
            (11, AdjustmentOutcome::Already, 10),
        ] {
            assert_eq!(
                take(&mut index, 5, &StockAdjustment::Raise { total }),
                effected,
                "{total}"
            );
            assert_eq!((index.total, index.left), (12, left));
        }
    }

    #[test]
    fn an_index_that_is_behind_or_not_in_force_is_left_alone() {
        let mut index = index();
        assert_eq!(take(&mut index, 6, &returned()), AdjustmentOutcome::NotYet);
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
            let effected = apply_adjustment(Some(&mut index), &other, Epoch(5), &returned());
            assert_eq!(effected, AdjustmentOutcome::NotYet);
        }
        assert_eq!(
            apply_adjustment(None, &server(), Epoch(5), &returned()),
            AdjustmentOutcome::NotYet
        );
        assert_eq!(index.left, 8);
    }
}
