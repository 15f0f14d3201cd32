//! Settlement at the end of a sale: compares the units of the log with the units that the index has left.

/// The figures after the ledger has folded CLOSE. The index is in force, and no barrier has outdated it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    pub total: u64,
    /// Units in live orders at CLOSE. A later cancel returns nothing to the index.
    pub live: u64,
    /// Adjustments that the index has not confirmed yet.
    pub pending_adjustments: usize,
    /// Units that the index has left.
    pub left: u64,
    /// Units in outbox batches that the ledger does not have: they came too late and are void.
    pub in_flight: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Adjustments are pending.
    Wait,
    Even {
        remaining: u64,
    },
    /// A person has to find the cause. The log counts.
    Uneven {
        total: u64,
        live: u64,
        found: u64,
    },
}

pub fn settle(closing: &Closing) -> Settlement {
    if closing.pending_adjustments > 0 {
        return Settlement::Wait;
    }
    // A saturating difference would call an oversold sale even.
    let (total, live, found) = (closing.total, closing.live, closing.left + closing.in_flight);
    match total == live + found {
        true => Settlement::Even { remaining: found },
        false => Settlement::Uneven { total, live, found },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSING: Closing = Closing {
        total: 10,
        live: 7,
        pending_adjustments: 0,
        left: 3,
        in_flight: 0,
    };

    #[test]
    fn late_units_in_the_outbox_are_counted() {
        assert_eq!(settle(&CLOSING), Settlement::Even { remaining: 3 });
        let late = Closing {
            left: 2,
            in_flight: 1,
            ..CLOSING
        };
        assert_eq!(settle(&late), Settlement::Even { remaining: 3 });
    }

    #[test]
    fn a_difference_is_reported() {
        let uneven = Closing { left: 2, ..CLOSING };
        assert!(matches!(settle(&uneven), Settlement::Uneven { live: 7, found: 2, .. }));
        let oversold = Closing {
            live: 11,
            left: 0,
            ..CLOSING
        };
        assert!(matches!(
            settle(&oversold),
            Settlement::Uneven {
                total: 10,
                live: 11,
                found: 0
            }
        ));
    }

    #[test]
    fn pending_adjustments_delay_the_settlement() {
        let pending = Closing {
            pending_adjustments: 1,
            ..CLOSING
        };
        assert_eq!(settle(&pending), Settlement::Wait);
    }
}
