//! The end: whether what the log says of the units is what the index has left.

/// What is known once the ledger has read CLOSE, with an index in force that no barrier outdated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    pub total: u64,
    /// Units in live orders where CLOSE stands: a later cancel returns nothing to the index.
    pub live: u64,
    /// Effects on the index that are owed still.
    pub owed: usize,
    /// Units that the index has left.
    pub left: u64,
    /// Units in batches of the outbox that the ledger does not have: they came too late, and are void.
    pub in_flight: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// The index has still to be told of something.
    Wait,
    Even {
        remaining: u64,
    },
    /// Somebody has to find out why; the log counts.
    Uneven {
        total: u64,
        live: u64,
        found: u64,
    },
}

pub fn settle(closing: &Closing) -> Settlement {
    if closing.owed > 0 {
        return Settlement::Wait;
    }
    // Not as a difference: nobody says "even" of a sale that sold more than it had.
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
        owed: 0,
        left: 3,
        in_flight: 0,
    };

    #[test]
    fn units_that_came_too_late_are_counted() {
        assert_eq!(settle(&CLOSING), Settlement::Even { remaining: 3 });
        let late = Closing {
            left: 2,
            in_flight: 1,
            ..CLOSING
        };
        assert_eq!(settle(&late), Settlement::Even { remaining: 3 });
    }

    #[test]
    fn a_difference_is_told_and_never_healed() {
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
    fn it_waits_for_what_is_owed() {
        let owed = Closing { owed: 1, ..CLOSING };
        assert_eq!(settle(&owed), Settlement::Wait);
    }
}
