//! Which records count. This is the whole safety argument: it depends on the log's prefix alone, so every reader that
//! reads a partition in order agrees with every other, for ever.
use std::collections::HashMap;

use crate::ids::{Epoch, Offset, SaleId};
use crate::record::Record;

/// Where a sale stands at some offset of its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SaleCut {
    /// The offset of the latest BARRIER or CLOSE.
    pub cur: Option<Offset>,
    /// The offset of CLOSE, which is final.
    pub closed: Option<Offset>,
}

impl SaleCut {
    /// The epoch whose batches count now.
    pub fn epoch(&self) -> Option<Epoch> {
        match self.closed {
            Some(_) => None,
            None => self.cur.map(Epoch),
        }
    }

    /// Whether a refusal by an index of this epoch may be told to a buyer. This cut must have been read to the end of
    /// the log after the index had answered: an old primary refuses too, and does not know who bought elsewhere.
    pub fn lets_refuse(&self, by: Epoch) -> bool {
        self.epoch() == Some(by)
    }
}

/// What a record does, given all that stands before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordVerdict {
    /// It counts. (A batch may still be a duplicate, and a cancel may find nothing to cancel: that is for the stores.)
    Accepted,
    /// It changes nothing, now and for every reader.
    Void,
}

/// The fold over a partition that decides acceptance.
#[derive(Debug, Clone, Default)]
pub struct Acceptance {
    sales: HashMap<SaleId, SaleCut>,
}

impl Acceptance {
    /// Starts in the middle: `cuts` and the offset from which [`judge`](Self::judge) is called must come from one
    /// snapshot, and `cuts` must name all sales of the partition.
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
                cut.cur = Some(offset);
                RecordVerdict::Accepted
            }
            Record::Close { .. } if cut.closed.is_some() => RecordVerdict::Void,
            Record::Close { .. } => {
                *cut = SaleCut {
                    cur: Some(offset),
                    closed: Some(offset),
                };
                RecordVerdict::Accepted
            }
            Record::Batch(batch) if cut.epoch() == Some(batch.epoch) => RecordVerdict::Accepted,
            Record::Batch(_) => RecordVerdict::Void,
            Record::Total { .. } if cut.closed.is_some() => RecordVerdict::Void,
            // Cancels and payments go on after the end.
            Record::Total { .. } | Record::Cancel { .. } | Record::Paid { .. } => RecordVerdict::Accepted,
        }
    }

    /// Where a sale stands after all that was judged.
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
    fn only_the_index_of_the_current_epoch_may_refuse() {
        let cut = |closed| SaleCut { cur: Some(5), closed };
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
