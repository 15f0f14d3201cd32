//! Whether a sale that has not ended needs a new index: R0, the first question of a recovery.
use crate::acceptance::SaleCut;
use crate::ids::Epoch;
use crate::index::Server;

/// What is known of an index without reading what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'a> {
    pub epoch: Epoch,
    /// The replication id of the server on which it was installed.
    pub rid: &'a str,
}

/// What has to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Nothing,
    /// Begin a new epoch: none is in force, or what the index sells is void.
    Rebuild,
    /// An index is in force and the ledger does not name it: whoever installed it died, or the ledger lost its tail.
    Publish(Epoch),
}

/// `cut` and `live_epoch` are the ledger's, or newer. An older view only delays the answer: what it does not show yet, it
/// will show.
pub fn needed(found: Option<Found<'_>>, server: &Server, cut: SaleCut, live_epoch: Option<Epoch>) -> Need {
    if cut.closed.is_some() {
        return Need::Nothing;
    }
    let Some(found) = found.filter(|found| server.is_master && found.rid == server.rid) else {
        return Need::Rebuild;
    };
    if cut.epoch() > Some(found.epoch) {
        return Need::Rebuild;
    }
    match live_epoch {
        Some(live) if live >= found.epoch => Need::Nothing,
        _ => Need::Publish(found.epoch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server {
            is_master: true,
            rid: "r".into(),
            now: 0,
        }
    }

    fn cut(cur: i64) -> SaleCut {
        SaleCut {
            cur: Some(cur),
            closed: None,
        }
    }

    const FOUND: Found<'_> = Found {
        epoch: Epoch(5),
        rid: "r",
    };

    #[test]
    fn an_index_that_is_missing_elsewhere_or_outdated_is_rebuilt() {
        let live = Some(Epoch(5));
        assert_eq!(needed(None, &server(), cut(5), live), Need::Rebuild);
        let found = Found { rid: "s", ..FOUND };
        assert_eq!(needed(Some(found), &server(), cut(5), live), Need::Rebuild);
        let replica = Server {
            is_master: false,
            ..server()
        };
        assert_eq!(needed(Some(FOUND), &replica, cut(5), live), Need::Rebuild);
        assert_eq!(needed(Some(FOUND), &server(), cut(6), live), Need::Rebuild);
    }

    #[test]
    fn an_index_that_nobody_was_told_of_is_published() {
        for live in [None, Some(Epoch(4))] {
            assert_eq!(
                needed(Some(FOUND), &server(), cut(5), live),
                Need::Publish(Epoch(5)),
                "{live:?}"
            );
        }
        // The ledger has not read so far yet.
        assert_eq!(needed(Some(FOUND), &server(), cut(4), Some(Epoch(5))), Need::Nothing);
    }

    #[test]
    fn nothing_is_needed_while_all_is_well_or_after_the_end() {
        assert_eq!(needed(Some(FOUND), &server(), cut(5), Some(Epoch(5))), Need::Nothing);
        let closed = SaleCut {
            cur: Some(7),
            closed: Some(7),
        };
        assert_eq!(needed(None, &server(), closed, None), Need::Nothing);
    }
}
