//! Writes an index, installs it and changes its terms.
use crate::ids::{Epoch, SaleId};
use crate::index::{Holdings, Index, Server, Terms};
use crate::rebuild::{BuyerHoldings, HoldingCounts};

/// The holdings of an index that is not in force yet, and what the calls that wrote them counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct WrittenHoldings {
    pub holdings: Holdings,
    pub orders: u64,
    pub units: u64,
}

/// A buyer was written before. The index can't be installed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenTwice;

/// Writes buyers with all their holdings and counts them, all or nothing. Each buyer is written once: a call with a buyer
/// that is there is not counted, so [`install`] refuses. `write.lua` does the same inside Redis.
pub fn write(written: &mut WrittenHoldings, buyers: &[BuyerHoldings]) -> Result<(), WrittenTwice> {
    let (mut counts, mut twice) = (HoldingCounts::default(), false);
    for (buyer, held) in buyers {
        counts.add(held);
        twice |= written.holdings.insert(buyer.clone(), held.clone()).is_some();
    }
    if twice {
        return Err(WrittenTwice);
    }
    written.orders += counts.orders;
    written.units += counts.units;
    Ok(())
}

/// The data of a new index without its holdings, which were written before under their own key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    pub epoch: Epoch,
    pub total: u64,
    pub left: u64,
    /// Number of buyers that were written.
    pub holders: u64,
    /// Number of their orders, of every status. Their live orders have `total - left` units.
    pub orders: u64,
    /// Live units of each tier; empty: the sale has no tiers.
    pub taken: Vec<u64>,
    pub terms: Terms,
}

/// The reason why an index was not installed. The caller starts again with a new barrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstallRefused {
    NotAPrimary,
    NoReplicationId,
    /// An index of this epoch or a newer one is or was in force.
    Newer(Epoch),
    /// The written holdings are gone or incomplete: the server restarted or failed over in between.
    Incomplete(HoldingCounts),
}

/// Whether a server takes an index at all. A barrier is appended only after a server was reached that does.
pub fn takes_an_index(server: &Server) -> Result<(), InstallRefused> {
    if !server.is_master {
        return Err(InstallRefused::NotAPrimary);
    }
    if server.rid.bytes().all(|b| b == b'0') {
        return Err(InstallRefused::NoReplicationId);
    }
    Ok(())
}

/// Puts an index in force. It runs at most once for an epoch. A caller that does not know whether it ran starts again
/// with a new barrier.
///
/// `written` is the current content of the keys of the epoch. `install.lua` does the same inside Redis.
pub fn install(
    current: Option<&Index>,
    server: &Server,
    sale: SaleId,
    install: &Install,
    written: WrittenHoldings,
) -> Result<Index, InstallRefused> {
    takes_an_index(server)?;
    if let Some(current) = current.filter(|current| current.epoch >= install.epoch) {
        return Err(InstallRefused::Newer(current.epoch));
    }
    let found = HoldingCounts {
        holders: written.holdings.len() as u64,
        orders: written.orders,
        units: written.units,
        ..HoldingCounts::default()
    };
    if (found.holders, found.orders) != (install.holders, install.orders)
        || install.left.checked_add(found.units) != Some(install.total)
    {
        return Err(InstallRefused::Incomplete(found));
    }
    Ok(Index {
        sale,
        epoch: install.epoch,
        rid: server.rid.clone(),
        terms: install.terms.clone(),
        total: install.total,
        left: install.left,
        seq: 0,
        ever: Some(install.orders),
        // The fold contains every record before the barrier.
        adjusted: Some(install.epoch.0),
        taken: install.taken.clone(),
        holdings: written.holdings,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    Done,
    /// The same or newer terms are in force.
    Older,
    /// No index of that epoch is in force on this server.
    NotHere,
    /// The server is a replica, whatever index it holds.
    Replica,
}

impl Applied {
    /// Whether the index of the epoch is in force with these terms or newer ones.
    pub fn is_in_force(self) -> bool {
        matches!(self, Applied::Done | Applied::Older)
    }
}

/// Sets the terms if they are newer than the current ones. `apply.lua` does the same inside Redis.
///
/// `epoch` is the epoch of the index that the caller knows: "older" from another index would say nothing about it.
pub fn apply(index: Option<&mut Index>, server: &Server, epoch: Epoch, terms: &Terms) -> Applied {
    if !server.is_master {
        return Applied::Replica;
    }
    match index {
        Some(index) if server.rid == index.rid && index.epoch == epoch => {
            if terms.version <= index.terms.version {
                return Applied::Older;
            }
            index.terms = terms.clone();
            Applied::Done
        }
        _ => Applied::NotHere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Buyer, KeyHash};
    use crate::index::{Holding, OrderBounds, SaleState};

    fn server() -> Server {
        Server {
            is_master: true,
            rid: "r".into(),
            now: 0,
        }
    }

    fn terms(version: u64) -> Terms {
        Terms {
            version,
            state: SaleState::Open,
            opens: 0,
            closes: 1,
            limit: 0,
            bounds: OrderBounds::default(),
            tiers: Vec::new(),
        }
    }

    fn install_one(current: Option<&Index>, server: &Server, epoch: i64, orders: u64) -> Result<Index, InstallRefused> {
        install_written(current, server, epoch, orders, WrittenHoldings::default())
    }

    /// Each expected order is of one unit and one buyer.
    fn install_written(
        current: Option<&Index>,
        server: &Server,
        epoch: i64,
        orders: u64,
        written: WrittenHoldings,
    ) -> Result<Index, InstallRefused> {
        let what = Install {
            epoch: Epoch(epoch),
            total: 5,
            left: 5 - orders,
            holders: orders,
            orders,
            taken: vec![orders],
            terms: terms(1),
        };
        install(current, server, SaleId(1), &what, written)
    }

    fn holding(seq: u64) -> Holding {
        Holding {
            epoch: Epoch(1),
            seq,
            quantity: 1,
            tier: 0,
            key: KeyHash(seq),
            cancelled: false,
        }
    }

    #[test]
    fn an_index_is_installed_once_per_epoch_and_never_older() {
        let first = install_one(None, &server(), 5, 0).expect("installed");
        for epoch in [4, 5] {
            let again = install_one(Some(&first), &server(), epoch, 0);
            assert_eq!(again, Err(InstallRefused::Newer(Epoch(5))));
        }
        assert!(install_one(Some(&first), &server(), 6, 0).is_ok());
    }

    #[test]
    fn an_index_continues_the_count_of_orders_and_contains_all_before_its_barrier() {
        let mut written = WrittenHoldings::default();
        let buyers = ["a", "b", "c"].map(|buyer| (Buyer::anonymous(buyer), vec![holding(1)]));
        write(&mut written, &buyers).expect("once");
        let index = install_written(None, &server(), 5, 3, written).expect("installed");
        assert_eq!((index.ever, index.adjusted), (Some(3), Some(5)));
        assert_eq!(index.taken, [3]);
    }

    #[test]
    fn an_index_without_its_holdings_is_refused() {
        let refused = install_one(None, &server(), 5, 1);
        assert_eq!(refused, Err(InstallRefused::Incomplete(HoldingCounts::default())));
    }

    #[test]
    fn a_buyer_that_was_written_twice_prevents_the_install() {
        let (mut written, a) = (WrittenHoldings::default(), Buyer::anonymous("a"));
        assert_eq!(write(&mut written, &[(a.clone(), vec![holding(1)])]), Ok(()));
        let again = write(&mut written, &[(a, vec![holding(2)])]);
        assert_eq!(again, Err(WrittenTwice));
        let refused = install_written(None, &server(), 5, 2, written);
        assert!(matches!(refused, Err(InstallRefused::Incomplete(_))), "{refused:?}");
    }

    #[test]
    fn an_index_with_other_buyers_orders_or_units_is_refused() {
        let mut written = WrittenHoldings::default();
        write(&mut written, &[(Buyer::anonymous("a"), vec![holding(1)])]).expect("once");
        assert!(install_written(None, &server(), 5, 1, written.clone()).is_ok());
        let lost = WrittenHoldings {
            holdings: Holdings::new(),
            ..written.clone()
        };
        let refused = install_written(None, &server(), 5, 1, lost);
        assert!(matches!(refused, Err(InstallRefused::Incomplete(_))), "{refused:?}");
        for (orders, units) in [(2, 1), (0, 1), (1, 2), (1, 0)] {
            let miscounted = WrittenHoldings {
                orders,
                units,
                ..written.clone()
            };
            let refused = install_written(None, &server(), 5, 1, miscounted);
            assert!(matches!(refused, Err(InstallRefused::Incomplete(_))), "{refused:?}");
        }
    }

    #[test]
    fn an_index_needs_a_primary_with_a_replication_id() {
        let replica = Server {
            is_master: false,
            ..server()
        };
        assert_eq!(install_one(None, &replica, 5, 0), Err(InstallRefused::NotAPrimary));
        for rid in ["", "0000"] {
            let nameless = Server {
                rid: rid.into(),
                ..server()
            };
            assert_eq!(install_one(None, &nameless, 5, 0), Err(InstallRefused::NoReplicationId));
        }
    }

    #[test]
    fn only_newer_terms_apply_and_only_on_the_same_server() {
        let mut index = install_one(None, &server(), 5, 0).expect("installed");
        assert_eq!(apply(Some(&mut index), &server(), Epoch(5), &terms(1)), Applied::Older);
        assert_eq!(apply(Some(&mut index), &server(), Epoch(5), &terms(2)), Applied::Done);
        let other = Server {
            rid: "s".into(),
            ..server()
        };
        assert_eq!(apply(Some(&mut index), &other, Epoch(5), &terms(3)), Applied::NotHere);
        assert_eq!(apply(None, &server(), Epoch(5), &terms(3)), Applied::NotHere);
        let replica = Server {
            is_master: false,
            ..server()
        };
        assert_eq!(apply(Some(&mut index), &replica, Epoch(5), &terms(3)), Applied::Replica);
        assert_eq!(apply(None, &replica, Epoch(5), &terms(3)), Applied::Replica);
        assert_eq!(
            apply(Some(&mut index), &server(), Epoch(6), &terms(3)),
            Applied::NotHere
        );
        assert_eq!(index.terms.version, 2);
        assert!(Applied::Done.is_in_force() && Applied::Older.is_in_force());
        assert!(!Applied::NotHere.is_in_force() && !Applied::Replica.is_in_force());
    }
}
