//! Decides which records count. This is the whole safety argument: the decision depends only on the prefix of the log,
//! so all readers that read a partition in order always agree.
use std::collections::HashMap;

use crate::ids::{Epoch, Offset, SaleId};
use crate::record::Record;

/// The state of a sale at some offset of its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SaleCut {
    /// The offset of the latest BARRIER or CLOSE.
    pub current_epoch: Option<Offset>,
    /// The offset of CLOSE, which is final.
    pub closed: Option<Offset>,
}

impl SaleCut {
    /// The epoch whose batches count now.
    pub fn epoch(&self) -> Option<Epoch> {
        match self.closed {
            Some(_) => None,
            None => self.current_epoch.map(Epoch),
        }
    }

    /// Whether a buyer may get a refusal by an index of this epoch. The cut must have been read at the end of the log
    /// after the index answered: an old primary also refuses, and it does not know purchases on another server.
    pub fn lets_refuse(&self, by: Epoch) -> bool {
        self.epoch() == Some(by)
    }
}

/// The verdict on a record, which depends on all records before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordVerdict {
    /// It counts. A batch may still be a duplicate, and a cancel may find no order: the stores handle these.
    Accepted,
    /// It changes nothing, for every reader.
    Void,
}

/// The fold over a partition that decides acceptance.
#[derive(Debug, Clone, Default)]
pub struct Acceptance {
    sales: HashMap<SaleId, SaleCut>,
}

impl Acceptance {
    /// Starts in the middle of a partition. `cuts` and the offset of the first [`judge`](Self::judge) must come from
    /// one snapshot, and `cuts` must contain all sales of the partition.
    pub fn starting_from(cuts: impl IntoIterator<Item = (SaleId, SaleCut)>) -> Self {
        Acceptance {
            sales: cuts.into_iter().collect(),
        }
    }

    /// Reads the next record of the partition.
    pub fn judge(&mut self, offset: Offset, record: &Record) -> RecordVerdict {
        let cut = self.sales.entry(record.sale()).or_default();
        match record {
            Record::Barrier { .. } if cut.closed.is_some() => RecordVerdict::Void,
            Record::Barrier { .. } => {
                cut.current_epoch = Some(offset);
                RecordVerdict::Accepted
            }
            Record::Close { .. } if cut.closed.is_some() => RecordVerdict::Void,
            Record::Close { .. } => {
                *cut = SaleCut {
                    current_epoch: Some(offset),
                    closed: Some(offset),
                };
                RecordVerdict::Accepted
            }
            Record::Batch(batch) if cut.epoch() == Some(batch.epoch) => RecordVerdict::Accepted,
            Record::Batch(_) => RecordVerdict::Void,
            Record::Total { .. } | Record::Identity(_) if cut.closed.is_some() => RecordVerdict::Void,
            // It changes neither the epoch nor orders. Cancels and payments also count after CLOSE.
            Record::Identity(_) | Record::Total { .. } | Record::Cancel { .. } | Record::Paid { .. } => {
                RecordVerdict::Accepted
            }
        }
    }

    /// The cut of a sale after all judged records.
    pub fn cut(&self, sale: SaleId) -> SaleCut {
        self.sales.get(&sale).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Buyer, KeyHash};
    use crate::record::{Batch, Order};

    const SALE: SaleId = SaleId(1);
    const OTHER: SaleId = SaleId(2);

    fn barrier(sale: SaleId) -> Record {
        Record::Barrier {
            sale,
            nonce: String::new(),
        }
    }

    fn batch(epoch: i64) -> Record {
        let order = Order {
            buyer: Buyer::anonymous("k"),
            quantity: 1,
            tier: 0,
            key: KeyHash(1),
        };
        Record::Batch(Batch {
            sale: SALE,
            epoch: Epoch(epoch),
            first: 1,
            orders: vec![order],
        })
    }

    fn verdicts(records: &[Record]) -> Vec<RecordVerdict> {
        let mut acceptance = Acceptance::default();
        records
            .iter()
            .enumerate()
            .map(|(i, r)| acceptance.judge(i as Offset, r))
            .collect()
    }

    use RecordVerdict::{Accepted, Void};

    #[test]
    fn a_batch_counts_only_under_the_latest_barrier() {
        let log = [
            batch(0),
            barrier(SALE),
            batch(1),
            batch(0),
            barrier(SALE),
            batch(1),
            batch(4),
            batch(5),
        ];
        assert_eq!(
            verdicts(&log),
            [Void, Accepted, Accepted, Void, Accepted, Void, Accepted, Void]
        );
    }

    #[test]
    fn a_barrier_of_another_sale_changes_nothing() {
        let log = [barrier(SALE), barrier(OTHER), batch(0), batch(1)];
        assert_eq!(verdicts(&log), [Accepted, Accepted, Accepted, Void]);
    }

    #[test]
    fn only_cancels_and_payments_count_after_close() {
        let close = Record::Close { sale: SALE };
        let cancel = Record::Cancel {
            sale: SALE,
            epoch: Epoch(0),
            seq: 1,
            reason: "buyer".into(),
        };
        let total = Record::Total { sale: SALE, total: 9 };
        let log = [
            barrier(SALE),
            close.clone(),
            batch(0),
            batch(1),
            barrier(SALE),
            batch(4),
            total,
            close,
            cancel,
        ];
        assert_eq!(
            verdicts(&log),
            [Accepted, Accepted, Void, Void, Void, Void, Void, Void, Accepted]
        );
    }

    #[test]
    fn an_identity_changes_no_epoch_and_is_void_after_close() {
        let identity = || Record::Identity(Box::new(crate::identity::tests::identity(SALE)));
        let log = [
            identity(),
            barrier(SALE),
            identity(),
            batch(1),
            Record::Close { sale: SALE },
            identity(),
        ];
        assert_eq!(verdicts(&log), [Accepted, Accepted, Accepted, Accepted, Accepted, Void]);
    }

    #[test]
    fn only_the_index_of_the_current_epoch_may_refuse() {
        let cut = |closed| SaleCut {
            current_epoch: Some(5),
            closed,
        };
        assert!(cut(None).lets_refuse(Epoch(5)));
        assert!(!cut(None).lets_refuse(Epoch(4)));
        assert!(!cut(None).lets_refuse(Epoch(6)));
        assert!(!cut(Some(5)).lets_refuse(Epoch(5)));
        assert!(!SaleCut::default().lets_refuse(Epoch(5)));
    }

    #[test]
    fn a_reader_that_starts_in_the_middle_agrees() {
        let close = Record::Close { sale: SALE };
        let log = [
            barrier(SALE),
            batch(0),
            barrier(SALE),
            batch(2),
            batch(0),
            close,
            batch(2),
            barrier(SALE),
            batch(7),
        ];
        let all = verdicts(&log);
        for middle in 0..log.len() {
            let mut first = Acceptance::default();
            for (i, r) in log[..middle].iter().enumerate() {
                first.judge(i as Offset, r);
            }
            let mut second = Acceptance::starting_from([(SALE, first.cut(SALE))]);
            for (i, r) in log.iter().enumerate().skip(middle) {
                assert_eq!(second.judge(i as Offset, r), all[i], "from {middle} at {i}");
            }
        }
    }
}
