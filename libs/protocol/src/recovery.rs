//! Decides what the index of a sale needs. It is R0, the first step of a recovery and of every reconcile of an index.
use crate::acceptance::SaleCut;
use crate::ids::Epoch;
use crate::index::{Server, Terms};

/// An index without its holdings, as it was found in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundIndex<'a> {
    pub epoch: Epoch,
    /// The replication id of the server on which it was installed.
    pub rid: &'a str,
    pub terms: &'a Terms,
}

/// The sale as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerView {
    /// An older view only delays the answer: it will show later what it does not show yet.
    pub cut: SaleCut,
    pub live_epoch: Option<Epoch>,
    /// The terms in the sale's row.
    pub terms: Terms,
}

/// The next step. Steps are taken one at a time and in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Nothing,
    /// Begin a new epoch: no index is in force, or what it sells is void.
    Rebuild,
    /// Apply the terms of the row.
    Apply,
    /// Give the row this version. The index has other terms under the row's version or a newer one, and would refuse
    /// the row's terms forever. This happens after the ledger has lost its tail.
    Renumber(u64),
    /// An index is in force and the ledger does not name it: its installer died, or the ledger lost its tail. This step
    /// is last, because nothing must be sold under the terms of an older row.
    Publish(Epoch),
}

pub fn needed(found: Option<FoundIndex<'_>>, server: &Server, known: &LedgerView) -> Need {
    if known.cut.closed.is_some() {
        return Need::Nothing;
    }
    let Some(found) = found.filter(|found| server.is_master && found.rid == server.rid) else {
        return Need::Rebuild;
    };
    if known.cut.epoch() > Some(found.epoch) {
        return Need::Rebuild;
    }
    if found.terms.version < known.terms.version {
        return Need::Apply;
    }
    let same = Terms {
        version: found.terms.version,
        ..known.terms.clone()
    };
    if *found.terms != same {
        return Need::Renumber(found.terms.version + 1);
    }
    match known.live_epoch {
        Some(live) if live >= found.epoch => Need::Nothing,
        _ => Need::Publish(found.epoch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{OrderBounds, SaleState};

    fn server() -> Server {
        Server {
            is_master: true,
            rid: "r".into(),
            now: 0,
        }
    }

    fn terms(version: u64, state: SaleState) -> Terms {
        Terms {
            version,
            state,
            opens: 0,
            closes: 1,
            limit: 0,
            bounds: OrderBounds::default(),
            tiers: Vec::new(),
        }
    }

    /// The index of epoch 5 sells by the terms of version 2.
    fn known() -> LedgerView {
        let cut = SaleCut {
            current_epoch: Some(5),
            closed: None,
        };
        LedgerView {
            cut,
            live_epoch: Some(Epoch(5)),
            terms: terms(2, SaleState::Open),
        }
    }

    fn need(epoch: i64, rid: &str, terms: Terms, known: &LedgerView) -> Need {
        let epoch = Epoch(epoch);
        let terms = &terms;
        needed(Some(FoundIndex { epoch, rid, terms }), &server(), known)
    }

    const OPEN: SaleState = SaleState::Open;

    #[test]
    fn a_missing_foreign_or_outdated_index_is_rebuilt() {
        assert_eq!(needed(None, &server(), &known()), Need::Rebuild);
        assert_eq!(need(5, "s", terms(2, OPEN), &known()), Need::Rebuild);
        let replica = Server {
            is_master: false,
            ..server()
        };
        let found = FoundIndex {
            epoch: Epoch(5),
            rid: "r",
            terms: &terms(2, OPEN),
        };
        assert_eq!(needed(Some(found), &replica, &known()), Need::Rebuild);
        assert_eq!(need(4, "r", terms(2, OPEN), &known()), Need::Rebuild);
    }

    #[test]
    fn an_unpublished_index_is_published_after_its_terms() {
        for live_epoch in [None, Some(Epoch(4))] {
            let known = LedgerView { live_epoch, ..known() };
            assert_eq!(need(5, "r", terms(2, OPEN), &known), Need::Publish(Epoch(5)));
            assert_eq!(need(5, "r", terms(1, OPEN), &known), Need::Apply);
        }
    }

    #[test]
    fn an_index_follows_the_row_after_a_lost_tail() {
        let suspended = |version| terms(version, SaleState::Suspended);
        assert_eq!(need(5, "r", suspended(1), &known()), Need::Apply);
        assert_eq!(need(5, "r", suspended(2), &known()), Need::Renumber(3));
        assert_eq!(need(5, "r", suspended(7), &known()), Need::Renumber(8));
        // The same terms under another number are the same terms.
        assert_eq!(need(5, "r", terms(7, OPEN), &known()), Need::Nothing);
    }

    #[test]
    fn a_healthy_or_closed_sale_needs_nothing() {
        assert_eq!(need(5, "r", terms(2, OPEN), &known()), Need::Nothing);
        // The ledger has not folded so far yet.
        let mut behind = known();
        behind.cut.current_epoch = Some(4);
        assert_eq!(need(5, "r", terms(2, OPEN), &behind), Need::Nothing);
        let mut over = known();
        over.cut.closed = Some(7);
        assert_eq!(needed(None, &server(), &over), Need::Nothing);
    }
}
