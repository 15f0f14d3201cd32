//! Whether every unit is accounted for while a sale runs: total = left + in flight + live.
//!
//! The ledger follows the log, and the index is ahead of both, so one look at the two proves nothing. A sample of the
//! index is kept, and weighed against the ledger again and again, with the orders that came after the sample taken out:
//! sooner or later the ledger holds all that was sold up to the sample, and then the two agree or never will. An
//! imbalance is told with its numbers; nothing here repairs one.
use seckill_ledger::{LedgerUnits, Sale};
use seckill_protocol::{Epoch, SaleCut, Seq};
use seckill_stock::IndexState;

use crate::facts::Millis;

/// What is sold is given so long to reach the ledger.
const PATIENCE: Millis = 10_000;

/// An index at an instant, and what the ledger had returned to it before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub at: Millis,
    pub epoch: Epoch,
    pub seq: Seq,
    /// Units that the index has handed out and not got back.
    out: u64,
    total: u64,
    returned: u64,
}

/// What a sample came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weighed {
    Balanced,
    /// So many units are on their way into the ledger.
    InFlight(u64),
    /// Units returned or were added meanwhile, or another index sells: this sample will never tell.
    Moved,
    Imbalanced(Difference),
}

/// Units taken and not returned, by the index and by the ledger, as of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    pub index: u64,
    pub ledger: u64,
}

impl Sample {
    /// The sale must have been read before the index.
    pub fn of(at: Millis, sale: &Sale, index: &IndexState) -> Self {
        Sample {
            at,
            epoch: index.epoch,
            seq: index.seq,
            out: index.total.saturating_sub(index.left),
            total: index.total,
            returned: sale.returned,
        }
    }

    /// `weights` are the ledger's for [`epoch`](Self::epoch) and [`seq`](Self::seq). `caught_up` says whether the ledger
    /// has read the log to its end since the sample was given up on; it is asked for only when that decides.
    pub fn weigh(&self, now: Millis, weights: &LedgerUnits, cut: SaleCut, caught_up: Option<bool>) -> Weighed {
        let moved = weights.total != self.total || weights.returned != self.returned || weights.owed;
        if moved || cut.epoch().is_some_and(|epoch| epoch > self.epoch) || cut.closed.is_some() {
            return Weighed::Moved;
        }
        let ledger = weights.taken.saturating_sub(weights.beyond + weights.returned);
        let difference = Difference {
            index: self.out,
            ledger,
        };
        if ledger == self.out {
            Weighed::Balanced
        } else if ledger < self.out && (now < self.at + PATIENCE || caught_up != Some(true)) {
            Weighed::InFlight(self.out - ledger)
        } else {
            Weighed::Imbalanced(difference)
        }
    }

    /// Whether it matters if the ledger has read the log to its end.
    pub fn is_overdue(&self, now: Millis) -> bool {
        now >= self.at + PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Millis = 1_000_000;

    /// Ten units offered, of which seven are out after nine orders: two came back.
    fn sample() -> Sample {
        Sample {
            at: AT,
            epoch: Epoch(4),
            seq: 9,
            out: 7,
            total: 10,
            returned: 2,
        }
    }

    /// All of them are in the ledger.
    fn weights() -> LedgerUnits {
        LedgerUnits {
            total: 10,
            taken: 9,
            returned: 2,
            beyond: 0,
            owed: false,
        }
    }

    fn cut() -> SaleCut {
        SaleCut {
            cur: Some(4),
            closed: None,
        }
    }

    fn weigh(weights: LedgerUnits) -> Weighed {
        sample().weigh(AT + 1000, &weights, cut(), None)
    }

    #[test]
    fn units_that_are_all_in_the_ledger_are_balanced() {
        assert_eq!(weigh(weights()), Weighed::Balanced);
    }

    #[test]
    fn orders_that_came_after_the_sample_are_left_out() {
        let more = LedgerUnits {
            taken: 12,
            beyond: 3,
            ..weights()
        };
        assert_eq!(weigh(more), Weighed::Balanced);
    }

    #[test]
    fn units_on_their_way_are_in_flight_until_the_ledger_has_read_the_log_and_they_are_missing() {
        let fewer = LedgerUnits { taken: 6, ..weights() };
        assert_eq!(weigh(fewer), Weighed::InFlight(3));
        let late = |caught_up| sample().weigh(AT + PATIENCE, &fewer, cut(), caught_up);
        assert_eq!(late(None), Weighed::InFlight(3));
        assert_eq!(late(Some(false)), Weighed::InFlight(3));
        assert_eq!(
            late(Some(true)),
            Weighed::Imbalanced(Difference { index: 7, ledger: 4 })
        );
    }

    #[test]
    fn more_in_the_ledger_than_the_index_ever_sold_is_an_imbalance_at_once() {
        let more = LedgerUnits { taken: 10, ..weights() };
        assert_eq!(weigh(more), Weighed::Imbalanced(Difference { index: 7, ledger: 8 }));
    }

    #[test]
    fn a_sample_that_units_returned_to_tells_nothing() {
        for moved in [
            LedgerUnits {
                returned: 3,
                ..weights()
            },
            LedgerUnits { total: 11, ..weights() },
            LedgerUnits {
                owed: true,
                ..weights()
            },
        ] {
            assert_eq!(weigh(moved), Weighed::Moved, "{moved:?}");
        }
    }

    #[test]
    fn a_sample_of_an_index_that_was_replaced_tells_nothing() {
        let newer = SaleCut {
            cur: Some(5),
            closed: None,
        };
        assert_eq!(sample().weigh(AT, &weights(), newer, None), Weighed::Moved);
    }
}
