//! Whether every unit is accounted for while a sale runs: total = left + in flight + live.
//!
//! The ledger follows the log, and the index is ahead of both, so one comparison proves nothing. A sample of the index
//! is kept and checked against the ledger again and again, without the orders that came after the sample. Sooner or later
//! the ledger holds all that was sold up to the sample; then the two agree, or never will. An imbalance is reported with
//! its numbers; nothing here repairs one.
use std::cmp::Ordering;

use seckill_protocol::index::{IndexState, Millis};
use seckill_protocol::sale::{LedgerUnits, Sale};
use seckill_protocol::{Epoch, SaleCut, Seq};

/// Time limit for sold units to reach the ledger.
const STORE_TIMEOUT_MS: Millis = 10_000;

/// An index at one time, and the units that the ledger had returned before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexSample {
    pub at: Millis,
    pub epoch: Epoch,
    pub seq: Seq,
    /// Units that the index has sold and not got back.
    out: u64,
    total: u64,
    returned: u64,
}

/// The result of checking a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BalanceCheck {
    Balanced,
    /// This many units are on their way into the ledger.
    InFlight(u64),
    /// Units were returned or added meanwhile, or another index is in force: this sample can't be decided any more.
    Superseded,
    Imbalanced(Imbalance),
}

/// Units sold and not returned, according to the index and to the ledger, as of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imbalance {
    pub index: u64,
    pub ledger: u64,
}

impl IndexSample {
    /// The sale must have been read before the index.
    pub fn of(at: Millis, sale: &Sale, index: &IndexState) -> Self {
        IndexSample {
            at,
            epoch: index.epoch,
            seq: index.seq,
            out: index.total.saturating_sub(index.left),
            total: index.total,
            returned: sale.returned,
        }
    }

    /// `units` are those of the ledger for [`epoch`](Self::epoch) and [`seq`](Self::seq). `caught_up` says whether the
    /// ledger has read the log to its end since the sample became overdue; it is needed only then.
    pub fn check(&self, now: Millis, units: &LedgerUnits, cut: SaleCut, caught_up: Option<bool>) -> BalanceCheck {
        let changed = units.total != self.total || units.returned != self.returned || units.adjustments_pending;
        if changed || cut.epoch().is_some_and(|epoch| epoch > self.epoch) || cut.closed.is_some() {
            return BalanceCheck::Superseded;
        }
        let ledger = units.taken.saturating_sub(units.beyond + units.returned);
        match ledger.cmp(&self.out) {
            Ordering::Equal => BalanceCheck::Balanced,
            Ordering::Less if !(self.is_overdue(now) && caught_up == Some(true)) => {
                BalanceCheck::InFlight(self.out - ledger)
            }
            _ => BalanceCheck::Imbalanced(Imbalance {
                index: self.out,
                ledger,
            }),
        }
    }

    /// Whether the sample's units should be in the ledger by now.
    pub fn is_overdue(&self, now: Millis) -> bool {
        now >= self.at + STORE_TIMEOUT_MS
    }
}

/// The balance checks of one sale, from one reconcile to the next.
#[derive(Debug, Clone, Default)]
pub struct BalanceHistory {
    /// A sample whose units are still in flight.
    pub sample: Option<IndexSample>,
    /// The result to report.
    pub reported: Option<BalanceCheck>,
}

impl BalanceHistory {
    /// The history after a sample was checked.
    pub fn after(&self, now: Millis, sample: IndexSample, check: BalanceCheck) -> BalanceHistory {
        let reported = match (check, self.reported) {
            (BalanceCheck::Superseded, last) => last,
            // Units in flight are no news, and don't prove that an imbalance is over.
            (BalanceCheck::InFlight(_), Some(BalanceCheck::Imbalanced(_))) => self.reported,
            (BalanceCheck::InFlight(_), Some(BalanceCheck::Balanced)) if !sample.is_overdue(now) => self.reported,
            _ => Some(check),
        };
        BalanceHistory {
            sample: matches!(check, BalanceCheck::InFlight(_)).then_some(sample),
            reported,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Millis = 1_000_000;

    /// Ten units offered, of which seven are out after nine orders: two came back.
    fn sample() -> IndexSample {
        IndexSample {
            at: AT,
            epoch: Epoch(4),
            seq: 9,
            out: 7,
            total: 10,
            returned: 2,
        }
    }

    /// All of them are in the ledger.
    fn units() -> LedgerUnits {
        LedgerUnits {
            total: 10,
            taken: 9,
            returned: 2,
            beyond: 0,
            adjustments_pending: false,
        }
    }

    fn cut() -> SaleCut {
        SaleCut {
            current_epoch: Some(4),
            closed: None,
        }
    }

    fn check(units: LedgerUnits) -> BalanceCheck {
        sample().check(AT + 1000, &units, cut(), None)
    }

    #[test]
    fn units_in_the_ledger_are_balanced() {
        assert_eq!(check(units()), BalanceCheck::Balanced);
    }

    #[test]
    fn orders_after_the_sample_are_left_out() {
        let more = LedgerUnits {
            taken: 12,
            beyond: 3,
            ..units()
        };
        assert_eq!(check(more), BalanceCheck::Balanced);
    }

    #[test]
    fn missing_units_are_in_flight_until_the_ledger_has_read_the_log() {
        let fewer = LedgerUnits { taken: 6, ..units() };
        assert_eq!(check(fewer), BalanceCheck::InFlight(3));
        let late = |caught_up| sample().check(AT + STORE_TIMEOUT_MS, &fewer, cut(), caught_up);
        assert_eq!(late(None), BalanceCheck::InFlight(3));
        assert_eq!(late(Some(false)), BalanceCheck::InFlight(3));
        assert_eq!(
            late(Some(true)),
            BalanceCheck::Imbalanced(Imbalance { index: 7, ledger: 4 })
        );
    }

    #[test]
    fn more_in_the_ledger_than_the_index_sold_is_an_imbalance() {
        let more = LedgerUnits { taken: 10, ..units() };
        assert_eq!(check(more), BalanceCheck::Imbalanced(Imbalance { index: 7, ledger: 8 }));
    }

    #[test]
    fn a_sample_with_later_returns_is_superseded() {
        for changed in [
            LedgerUnits { returned: 3, ..units() },
            LedgerUnits { total: 11, ..units() },
            LedgerUnits {
                adjustments_pending: true,
                ..units()
            },
        ] {
            assert_eq!(check(changed), BalanceCheck::Superseded, "{changed:?}");
        }
    }

    #[test]
    fn a_sample_of_a_replaced_index_is_superseded() {
        let newer = SaleCut {
            current_epoch: Some(5),
            closed: None,
        };
        assert_eq!(sample().check(AT, &units(), newer, None), BalanceCheck::Superseded);
    }

    #[test]
    fn an_imbalance_stays_reported_until_a_sample_balances() {
        let imbalanced = BalanceCheck::Imbalanced(Imbalance { index: 7, ledger: 4 });
        let found = BalanceHistory::default().after(AT, sample(), imbalanced);
        assert_eq!((found.sample.clone(), found.reported), (None, Some(imbalanced)));
        let in_flight = found.after(AT, sample(), BalanceCheck::InFlight(1));
        assert_eq!(
            (in_flight.sample.clone(), in_flight.reported),
            (Some(sample()), Some(imbalanced))
        );
        let superseded = in_flight.after(AT, sample(), BalanceCheck::Superseded);
        assert_eq!((superseded.sample, superseded.reported), (None, Some(imbalanced)));
        let balanced = in_flight.after(AT, sample(), BalanceCheck::Balanced);
        assert_eq!(balanced.reported, Some(BalanceCheck::Balanced));
        // Units in flight are reported once they are overdue.
        let early = balanced.after(AT + 1, sample(), BalanceCheck::InFlight(1));
        assert_eq!(early.reported, Some(BalanceCheck::Balanced));
        let overdue = balanced.after(AT + STORE_TIMEOUT_MS, sample(), BalanceCheck::InFlight(1));
        assert_eq!(overdue.reported, Some(BalanceCheck::InFlight(1)));
    }
}
