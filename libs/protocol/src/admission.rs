//! Which sales a view of the log knows, and when it learns of one. A view that lost its tail has lost rows of sales
//! too; the record IDENTITY brings them back, before anything that counts for them.
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

/// Decides about a record of a partition. `known` says whether the view has the record's sale, and `named` which sale
/// the view has under the name of an IDENTITY.
pub fn admission(record: &Record, known: bool, named: Option<SaleId>) -> Admission<'_> {
    let sale = record.sale();
    match (record, named) {
        (Record::Identity(_), Some(named)) if named != sale => Admission::Stop(Stop::NameTaken {
            new: sale,
            known: named,
        }),
        (Record::Identity(_), None) if known => Admission::Stop(Stop::IdTaken(sale)),
        _ if known => Admission::Known,
        (Record::Identity(identity), _) => Admission::Insert(identity),
        _ => Admission::Stop(Stop::UnknownSale(sale)),
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

    #[test]
    fn an_unknown_sale_is_inserted_by_its_identity_only() {
        let record = Record::Identity(Box::new(identity(SALE)));
        assert_eq!(admission(&record, false, None), Admission::Insert(&identity(SALE)));
        let unknown = Admission::Stop(Stop::UnknownSale(SALE));
        let barrier = Record::Barrier {
            sale: SALE,
            nonce: "n".into(),
        };
        for record in [barrier, Record::Close { sale: SALE }] {
            assert_eq!(admission(&record, false, None), unknown);
            assert_eq!(admission(&record, true, None), Admission::Known);
        }
    }

    #[test]
    fn a_second_sale_of_a_name_stops_the_reader() {
        let record = Record::Identity(Box::new(identity(SALE)));
        assert_eq!(admission(&record, true, Some(SALE)), Admission::Known);
        let taken = Stop::NameTaken {
            new: SALE,
            known: OTHER,
        };
        assert_eq!(admission(&record, false, Some(OTHER)), Admission::Stop(taken.clone()));
        assert_eq!(admission(&record, true, Some(OTHER)), Admission::Stop(taken));
        assert_eq!(admission(&record, true, None), Admission::Stop(Stop::IdTaken(SALE)));
        assert_eq!(other_of_name(&identity(OTHER), &record), Some(SALE));
        assert_eq!(other_of_name(&identity(SALE), &record), None);
        assert_eq!(other_of_name(&identity(OTHER), &Record::Close { sale: SALE }), None);
    }

    #[test]
    fn a_partition_without_a_position_is_at_its_beginning() {
        assert!(behind(&[0, 0], &[]).is_empty());
        assert_eq!(behind(&[5, 0, 7, 9], &[(0, 5), (2, 6), (9, 1)]), [2, 3]);
        assert!(behind(&[5], &[(0, 9)]).is_empty());
    }
}
