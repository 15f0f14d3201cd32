//! The comparison at the end of a sale: what the ledger sold against what the index has left.
use seckill_protocol::sale::Sale;
use seckill_protocol::settlement::{Closing, Settlement, settle};

use crate::balance::BalanceCheck;
use crate::observation::Observation;

/// The units of a sale at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FinalBalance {
    pub total: u64,
    pub sold: u64,
    /// Units that the index had left; `None`: there was no index to compare with, so log and ledger decide alone.
    pub index_left: Option<u64>,
    /// The ledger and the index disagree: units that the ledger counts as sold, and units left in the index.
    pub mismatch: Option<(u64, u64)>,
}

impl FinalBalance {
    pub(super) fn of(sale: &Sale, index_left: Option<u64>) -> Self {
        // No adjustment is pending at this point.
        let settlement = index_left.map(|left| settle(&closing(sale, left, false)));
        FinalBalance {
            total: sale.total,
            sold: sale.sold,
            index_left,
            mismatch: match settlement {
                Some(Settlement::Uneven { live, found, .. }) => Some((live, found)),
                _ => None,
            },
        }
    }

    pub fn remaining(&self) -> u64 {
        self.total.saturating_sub(self.sold)
    }
}

/// Units that the index sold minus units that the ledger has, where the two were compared and differ: at the settlement, and
/// before the end.
pub fn imbalance(observed: &Observation) -> Option<i64> {
    let difference = |index: u64, ledger: u64| index.cast_signed().saturating_sub(ledger.cast_signed());
    let sale = observed.sale.as_ref()?;
    if sale.settled_at_ms.is_some() {
        let (live, left) = FinalBalance::of(sale, sale.settled_left).mismatch?;
        return Some(difference(sale.total.saturating_sub(left), live));
    }
    match observed.balance {
        Some(BalanceCheck::Imbalanced(units)) => Some(difference(units.index, units.ledger)),
        _ => None,
    }
}

/// The figures to compare once the ledger has read CLOSE.
pub(super) fn closing(sale: &Sale, left: u64, adjustments_pending: bool) -> Closing {
    Closing {
        total: sale.total,
        // An order that was cancelled after CLOSE is in neither figure, so this stays what it was there.
        live: sale.out(),
        pending_adjustments: usize::from(adjustments_pending),
        left,
        // CLOSE waited for an empty outbox.
        in_flight: 0,
    }
}
