//! Which sales a view of the log knows, and when it learns of one. A view that lost its tail has lost rows of sales
//! too; the record IDENTITY brings them back, before anything that counts for them.
use crate::acceptance::SaleCut;
use crate::identity::Identity;
use crate::ids::{Offset, SaleId};
use crate::record::Record;

/// What a record means for the sales that a view knows.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission<'a> {
    /// The view knows the sale.
    Known,
    /// The view does not know the sale, and the record says which one it is.
    Insert(&'a Identity),
    /// The same, and the name belonged to this sale, which has freed it.
    Replace(&'a Identity, SaleId),
    /// Nothing may be stored from this record on.
    Stop(Stop),
}

/// Why the log can't be stored any further until a person has removed the cause. To skip the record would lose orders
/// that buyers have numbers of, or sell the stock of one name twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    #[error(
        "the ledger does not know sale {0}, and its orders may have been promised: restore its row in the table sales \
         from a backup"
    )]
    UnknownSale(SaleId),
    #[error(
        "sale {new} has the name of sale {known}, which the ledger knows: one of them was created while MySQL lacked the \
         other; if sale {known} has sold nothing, delete its row, and sale {new} continues"
    )]
    NameTaken { new: SaleId, known: SaleId },
    #[error("sale {0} has another name in the ledger: two sales have drawn the same id")]
    IdTaken(SaleId),
}

/// A sale that a view has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownSale {
    pub sale: SaleId,
    pub has_freed_name: bool,
}

/// Whether a sale has freed its name: it was closed before it offered a unit, so nobody can ever have bought anything. CLOSE
/// is the record of that, because no TOTAL counts after it.
pub fn has_freed_name(cut: SaleCut, total: u64) -> bool {
    cut.closed.is_some() && total == 0
}

/// Decides about a record of a partition. `known` is the record's sale, and `named` the one that the view has under the name
/// of an IDENTITY.
pub fn admission(record: &Record, known: Option<KnownSale>, named: Option<KnownSale>) -> Admission<'_> {
    let sale = record.sale();
    let Record::Identity(identity) = record else {
        return match known {
            Some(_) => Admission::Known,
            None => Admission::Stop(Stop::UnknownSale(sale)),
        };
    };
    match (known, named) {
        // A late copy of its IDENTITY, which is void. The name may be another sale's by now.
        (Some(known), _) if known.has_freed_name => Admission::Known,
        (None, Some(named)) if named.has_freed_name => Admission::Replace(identity, named.sale),
        (_, Some(named)) if named.sale != sale => Admission::Stop(Stop::NameTaken {
            new: sale,
            known: named.sale,
        }),
        (Some(_), None) => Admission::Stop(Stop::IdTaken(sale)),
        (Some(_), Some(_)) => Admission::Known,
        (None, _) => Admission::Insert(identity),
    }
}

/// The partitions that a view has not read to the given ends; the number of a partition is its index. A view has read
/// nothing of a partition without a position.
pub fn behind(ends: &[Offset], positions: &[(u32, Offset)]) -> Vec<u32> {
    let position = |partition: u32| {
        positions
            .iter()
            .find(|(of, _)| *of == partition)
            .map_or(0, |(_, at)| *at)
    };
    let ends = (0..).zip(ends);
    ends.filter(|(partition, end)| position(*partition) < **end)
        .map(|(partition, _)| partition)
        .collect()
}

/// Another sale of the same name that this record tells of. A sale must not begin while the log has one.
pub fn other_of_name(identity: &Identity, record: &Record) -> Option<SaleId> {
    match record {
        Record::Identity(other) if other.has_same_name(identity) && other.sale != identity.sale => Some(other.sale),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::identity;

    const SALE: SaleId = SaleId(1);
    const OTHER: SaleId = SaleId(2);

    fn of(sale: SaleId) -> Option<KnownSale> {
        let has_freed_name = false;
        Some(KnownSale { sale, has_freed_name })
    }

    fn freed(sale: SaleId) -> Option<KnownSale> {
        let has_freed_name = true;
        Some(KnownSale { sale, has_freed_name })
    }

    #[test]
    fn an_unknown_sale_is_inserted_by_its_identity_only() {
        let record = Record::Identity(Box::new(identity(SALE)));
        assert_eq!(admission(&record, None, None), Admission::Insert(&identity(SALE)));
        let unknown = Admission::Stop(Stop::UnknownSale(SALE));
        let barrier = Record::Barrier {
            sale: SALE,
            nonce: "n".into(),
        };
        for record in [barrier, Record::Close { sale: SALE }] {
            assert_eq!(admission(&record, None, None), unknown);
            assert_eq!(admission(&record, of(SALE), None), Admission::Known);
        }
    }

    #[test]
    fn a_second_sale_of_a_name_stops_the_reader() {
        let record = Record::Identity(Box::new(identity(SALE)));
        assert_eq!(admission(&record, of(SALE), of(SALE)), Admission::Known);
        let taken = Stop::NameTaken {
            new: SALE,
            known: OTHER,
        };
        assert_eq!(admission(&record, None, of(OTHER)), Admission::Stop(taken.clone()));
        assert_eq!(admission(&record, of(SALE), of(OTHER)), Admission::Stop(taken.clone()));
        assert_eq!(admission(&record, of(SALE), freed(OTHER)), Admission::Stop(taken));
        assert_eq!(admission(&record, of(SALE), None), Admission::Stop(Stop::IdTaken(SALE)));
        assert_eq!(other_of_name(&identity(OTHER), &record), Some(SALE));
        assert_eq!(other_of_name(&identity(SALE), &record), None);
        assert_eq!(other_of_name(&identity(OTHER), &Record::Close { sale: SALE }), None);
    }

    #[test]
    fn a_sale_takes_the_name_of_one_that_never_offered_a_unit() {
        let record = Record::Identity(Box::new(identity(SALE)));
        assert_eq!(
            admission(&record, None, freed(OTHER)),
            Admission::Replace(&identity(SALE), OTHER)
        );
        // A late copy of the identity of the sale that had the name.
        for named in [None, of(OTHER), freed(SALE)] {
            assert_eq!(admission(&record, freed(SALE), named), Admission::Known);
        }
        let cut = |closed| SaleCut {
            current_epoch: closed,
            closed,
        };
        assert!(has_freed_name(cut(Some(7)), 0));
        assert!(!has_freed_name(cut(Some(7)), 1));
        assert!(!has_freed_name(cut(None), 0));
    }

    #[test]
    fn a_partition_without_a_position_is_at_its_beginning() {
        assert!(behind(&[0, 0], &[]).is_empty());
        assert_eq!(behind(&[5, 0, 7, 9], &[(0, 5), (2, 6), (9, 1)]), [2, 3]);
        assert!(behind(&[5], &[(0, 9)]).is_empty());
    }
}
