//! Installs an index and changes its terms.
use crate::ids::{Epoch, SaleId};
use crate::index::{Holdings, Index, Server, Terms};

/// The data of a new index without its holdings, which were written before under their own key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    pub epoch: Epoch,
    pub total: u64,
    pub left: u64,
    /// Number of buyers that were written.
    pub holders: u64,
    /// Number of holdings that were written: orders of every status.
    pub orders: u64,
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
    Incomplete {
        found: u64,
    },
}

/// Puts an index in force. It runs at most once for an epoch. A caller that does not know whether it ran starts again
/// with a new barrier.
///
/// `holdings` is the current content of the key of the epoch. `install.lua` does the same inside Redis.
pub fn install(
    current: Option<&Index>,
    server: &Server,
    sale: SaleId,
    install: &Install,
    holdings: Holdings,
) -> Result<Index, InstallRefused> {
    if !server.is_master {
        return Err(InstallRefused::NotAPrimary);
    }
    if server.rid.bytes().all(|b| b == b'0') {
        return Err(InstallRefused::NoReplicationId);
    }
    if let Some(current) = current.filter(|current| current.epoch >= install.epoch) {
        return Err(InstallRefused::Newer(current.epoch));
    }
    if holdings.len() as u64 != install.holders {
        return Err(InstallRefused::Incomplete {
            found: holdings.len() as u64,
        });
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
        holdings,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    Done,
    /// The same or newer terms are in force.
    Older,
    /// No index of that epoch is in force on this server.
    NotHere,
}

/// Sets the terms if they are newer than the current ones. `apply.lua` does the same inside Redis.
///
/// `epoch` is the epoch of the index that the caller knows: "older" from another index would say nothing about it.
pub fn apply(index: Option<&mut Index>, server: &Server, epoch: Epoch, terms: &Terms) -> Applied {
    match index {
        Some(index) if server.is_master && server.rid == index.rid && index.epoch == epoch => {
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
    use crate::index::{OrderBounds, SaleState};

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
        }
    }

    fn install_one(
        current: Option<&Index>,
        server: &Server,
        epoch: i64,
        holders: u64,
    ) -> Result<Index, InstallRefused> {
        let what = Install {
            epoch: Epoch(epoch),
            total: 5,
            left: 5,
            holders,
            orders: 7,
            terms: terms(1),
        };
        install(current, server, SaleId(1), &what, Holdings::new())
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
        let index = install_one(None, &server(), 5, 0).expect("installed");
        assert_eq!((index.ever, index.adjusted), (Some(7), Some(5)));
    }

    #[test]
    fn an_index_without_its_holdings_is_refused() {
        let refused = install_one(None, &server(), 5, 1);
        assert_eq!(refused, Err(InstallRefused::Incomplete { found: 0 }));
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
        assert_eq!(
            apply(Some(&mut index), &server(), Epoch(6), &terms(3)),
            Applied::NotHere
        );
        assert_eq!(index.terms.version, 2);
    }
}
