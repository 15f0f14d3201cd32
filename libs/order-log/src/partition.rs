//! What one process has read of one partition, and who waits for more of it.
use std::collections::{BTreeMap, HashMap};

use seckill_protocol::{Acceptance, Batch, Epoch, Offset, OrderId, Record, RecordVerdict, SaleCut, SaleId, Seq};
use tokio::sync::oneshot;

use crate::seqs::Seqs;

#[derive(Default)]
pub(crate) struct Partition {
    acceptance: Acceptance,
    sales: HashMap<SaleId, Followed>,
    tickets: u64,
}

/// A sale on the partition.
#[derive(Default)]
struct Followed {
    /// Orders of the current epoch that were read as accepted.
    accepted: Seqs,
    /// The same of the epoch before, for who asks just after it ended.
    ended: Option<(Epoch, Seqs)>,
    waiting: BTreeMap<(Epoch, Seq, u64), oneshot::Sender<RecordVerdict>>,
}

/// The answer to the question what became of an order.
pub(crate) enum Asked {
    Known(RecordVerdict),
    /// It will be sent. [`Partition::forget`] the ticket if nobody waits any longer.
    Later(u64, oneshot::Receiver<RecordVerdict>),
}

impl Partition {
    pub fn starting_from(acceptance: Acceptance) -> Self {
        Partition {
            acceptance,
            ..Partition::default()
        }
    }

    pub fn cut(&self, sale: SaleId) -> SaleCut {
        self.acceptance.cut(sale)
    }

    /// Reads the next record.
    pub fn read(&mut self, offset: Offset, record: &Record) {
        let ended = self.acceptance.cut(record.sale()).epoch();
        let verdict = self.acceptance.judge(offset, record);
        let sale = self.sales.entry(record.sale()).or_default();
        match (record, verdict) {
            (Record::Barrier { .. }, RecordVerdict::Accepted) => {
                sale.end(ended);
                // Orders of an epoch that this process does not know yet go on waiting.
                let newer = sale.waiting.split_off(&(Epoch(offset), 0, 0));
                sale.void_all();
                sale.waiting = newer;
            }
            (Record::Close { .. }, RecordVerdict::Accepted) => {
                sale.end(ended);
                sale.void_all();
            }
            (Record::Batch(batch), RecordVerdict::Accepted) => {
                sale.accepted.insert(batch.first, batch.last());
                sale.resolve(batch, RecordVerdict::Accepted);
            }
            // An epoch that is still to come would make another copy count.
            (Record::Batch(batch), RecordVerdict::Void) if batch.epoch.0 <= offset => {
                sale.resolve(batch, RecordVerdict::Void)
            }
            _ => {}
        }
    }

    /// What became of an order, all before `next` having been read.
    pub fn ask(&mut self, order: OrderId, next: Offset) -> Asked {
        let cut = self.acceptance.cut(order.sale);
        let current = cut.epoch() == Some(order.epoch);
        let sale = self.sales.entry(order.sale).or_default();
        let accepted = if current {
            sale.accepted.contains(order.seq)
        } else {
            let ended = sale.ended.as_ref();
            ended.is_some_and(|(epoch, accepted)| *epoch == order.epoch && accepted.contains(order.seq))
        };
        if accepted {
            return Asked::Known(RecordVerdict::Accepted);
        }
        let past = order.epoch.0 < next && !current;
        if past || cut.closed.is_some() {
            return Asked::Known(RecordVerdict::Void);
        }
        self.tickets += 1;
        let (sender, receiver) = oneshot::channel();
        sale.waiting.insert((order.epoch, order.seq, self.tickets), sender);
        Asked::Later(self.tickets, receiver)
    }

    pub fn forget(&mut self, order: OrderId, ticket: u64) {
        if let Some(sale) = self.sales.get_mut(&order.sale) {
            sale.waiting.remove(&(order.epoch, order.seq, ticket));
        }
    }

    pub fn waiting(&self) -> usize {
        self.sales.values().map(|sale| sale.waiting.len()).sum()
    }
}

impl Followed {
    fn end(&mut self, epoch: Option<Epoch>) {
        let accepted = std::mem::take(&mut self.accepted);
        self.ended = epoch.map(|epoch| (epoch, accepted));
    }

    fn void_all(&mut self) {
        for sender in std::mem::take(&mut self.waiting).into_values() {
            let _ = sender.send(RecordVerdict::Void); // nobody there: the caller has given up
        }
    }

    fn resolve(&mut self, batch: &Batch, verdict: RecordVerdict) {
        let range = (batch.epoch, batch.first, 0)..=(batch.epoch, batch.last(), u64::MAX);
        let tickets: Vec<_> = self.waiting.range(range).map(|(ticket, _)| *ticket).collect();
        for ticket in tickets {
            if let Some(sender) = self.waiting.remove(&ticket) {
                let _ = sender.send(verdict); // nobody there: the caller has given up
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seckill_protocol::{Buyer, KeyHash, Order};

    const SALE: SaleId = SaleId(1);

    fn barrier() -> Record {
        Record::Barrier {
            sale: SALE,
            nonce: String::new(),
        }
    }

    fn close() -> Record {
        Record::Close { sale: SALE }
    }

    fn batch(epoch: i64, first: Seq, count: usize) -> Record {
        let order = Order {
            buyer: Buyer::anonymous("k"),
            quantity: 1,
            tier: 0,
            key: KeyHash(1),
        };
        Record::Batch(Batch {
            sale: SALE,
            epoch: Epoch(epoch),
            first,
            orders: vec![order; count],
        })
    }

    fn order(epoch: i64, seq: Seq) -> OrderId {
        OrderId {
            sale: SALE,
            epoch: Epoch(epoch),
            seq,
        }
    }

    /// A partition that has read these from offset 0 on, and the offset after them.
    fn having_read(records: &[Record]) -> (Partition, Offset) {
        let mut partition = Partition::default();
        for (offset, record) in records.iter().enumerate() {
            partition.read(offset as Offset, record);
        }
        (partition, records.len() as Offset)
    }

    fn known((mut partition, next): (Partition, Offset), order: OrderId) -> Option<RecordVerdict> {
        match partition.ask(order, next) {
            Asked::Known(verdict) => Some(verdict),
            Asked::Later(..) => None,
        }
    }

    use RecordVerdict::{Accepted, Void};

    #[test]
    fn an_order_that_was_read_is_known_at_once() {
        let log = [barrier(), batch(0, 1, 3)];
        for (seq, expected) in [(1, Some(Accepted)), (3, Some(Accepted)), (4, None)] {
            assert_eq!(known(having_read(&log), order(0, seq)), expected, "{seq}");
        }
    }

    #[test]
    fn orders_of_the_previous_epoch_stay_accepted() {
        for end in [barrier(), close()] {
            let log = [barrier(), batch(0, 1, 1), end];
            assert_eq!(known(having_read(&log), order(0, 1)), Some(Accepted));
            assert_eq!(known(having_read(&log), order(0, 2)), Some(Void));
        }
    }

    #[test]
    fn a_future_epoch_waits_and_a_non_epoch_is_void() {
        let log = [barrier(), batch(0, 1, 1), barrier()];
        assert_eq!(known(having_read(&log), order(3, 1)), None);
        assert_eq!(known(having_read(&log), order(1, 1)), Some(Void));
        assert_eq!(known(having_read(&[]), order(0, 1)), None);
    }

    #[test]
    fn nothing_waits_after_close() {
        let log = [barrier(), close()];
        assert_eq!(known(having_read(&log), order(7, 1)), Some(Void));
    }

    fn wait(partition: &mut Partition, order: OrderId, next: Offset) -> oneshot::Receiver<RecordVerdict> {
        match partition.ask(order, next) {
            Asked::Later(_, receiver) => receiver,
            Asked::Known(verdict) => panic!("already {verdict:?}"),
        }
    }

    #[test]
    fn a_batch_answers_all_waiters_of_its_orders() {
        let (mut partition, next) = having_read(&[barrier()]);
        let mut first = wait(&mut partition, order(0, 1), next);
        let mut again = wait(&mut partition, order(0, 1), next);
        let mut third = wait(&mut partition, order(0, 3), next);
        partition.read(1, &batch(0, 1, 2));
        assert_eq!(first.try_recv(), Ok(Accepted));
        assert_eq!(again.try_recv(), Ok(Accepted));
        assert!(third.try_recv().is_err());
        assert_eq!(partition.waiting(), 1);
    }

    #[test]
    fn a_barrier_voids_older_epochs_and_no_newer_one() {
        let (mut partition, next) = having_read(&[barrier()]);
        let mut old = wait(&mut partition, order(0, 1), next);
        let mut own = wait(&mut partition, order(1, 1), next);
        let mut newer = wait(&mut partition, order(5, 1), next);
        partition.read(1, &barrier());
        assert_eq!(old.try_recv(), Ok(Void));
        assert!(own.try_recv().is_err());
        assert!(newer.try_recv().is_err());
        partition.read(2, &batch(0, 1, 1));
        partition.read(3, &batch(1, 1, 1));
        assert_eq!(own.try_recv(), Ok(Accepted));
        partition.read(4, &close());
        assert_eq!(newer.try_recv(), Ok(Void));
        assert_eq!(partition.waiting(), 0);
    }

    #[test]
    fn a_batch_of_a_non_epoch_is_void() {
        let (mut partition, _) = having_read(&[barrier()]);
        let mut waiting = wait(&mut partition, order(1, 1), 1);
        partition.read(1, &Record::Total { sale: SALE, total: 1 });
        partition.read(2, &batch(1, 1, 1));
        assert_eq!(waiting.try_recv(), Ok(Void));
    }

    #[test]
    fn a_cancelled_waiter_leaves_nothing_behind() {
        let (mut partition, next) = having_read(&[barrier()]);
        let Asked::Later(ticket, _receiver) = partition.ask(order(0, 1), next) else {
            panic!("known");
        };
        partition.forget(order(0, 1), ticket);
        assert_eq!(partition.waiting(), 0);
    }

    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Barrier,
        Close,
        /// Under the barrier so many barriers ago, or one to come.
        Batch {
            ago: i64,
            first: Seq,
            count: usize,
        },
        Ask {
            ago: i64,
            seq: Seq,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => Just(Step::Barrier),
            1 => (0..40u8).prop_map(|n| if n == 0 { Step::Close } else { Step::Barrier }),
            8 => (-1..4i64, 1..6u64, 1..4usize).prop_map(|(ago, first, count)| Step::Batch { ago, first, count }),
            8 => (-1..4i64, 1..9u64).prop_map(|(ago, seq)| Step::Ask { ago, seq }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn every_answer_agrees_with_the_log(steps in prop::collection::vec(step(), 1..60)) {
            let mut partition = Partition::default();
            let mut acceptance = Acceptance::default();
            let mut next: Offset = 0;
            let mut barriers: Vec<Offset> = Vec::new();
            let mut accepted: Vec<(OrderId, Offset)> = Vec::new();
            let mut asked = Vec::new();
            for step in steps {
                // -1: a guess at an epoch that may or may not come.
                let epoch = |ago: i64| match usize::try_from(ago) {
                    Ok(ago) => barriers.iter().rev().nth(ago).copied().unwrap_or(0),
                    Err(_) => next + 1,
                };
                let record = match step {
                    Step::Barrier => barrier(),
                    Step::Close => close(),
                    Step::Batch { ago, first, count } => batch(epoch(ago), first, count),
                    Step::Ask { ago, seq } => {
                        let order = order(epoch(ago), seq);
                        let closed = acceptance.cut(SALE).closed.is_some();
                        let ends = barriers.iter().filter(|barrier| **barrier > order.epoch.0).count() + usize::from(closed);
                        asked.push((order, next, ends, partition.ask(order, next)));
                        continue;
                    }
                };
                partition.read(next, &record);
                let verdict = acceptance.judge(next, &record);
                match &record {
                    Record::Barrier { .. } if verdict == Accepted => barriers.push(next),
                    Record::Batch(batch) if verdict == Accepted => accepted.extend(batch.iter().map(|(id, _)| (id, next))),
                    _ => {}
                }
                next += 1;
            }
            for (order, at, ends, answer) in asked {
                let verdict = match answer {
                    Asked::Known(verdict) => Some(verdict),
                    Asked::Later(_, mut receiver) => receiver.try_recv().ok(),
                };
                let mut accepted_at = accepted.iter().filter(|(id, _)| *id == order).map(|(_, offset)| *offset);
                match verdict {
                    Some(Accepted) => prop_assert!(accepted_at.next().is_some()),
                    // What was accepted in an epoch before the last one may have been forgotten.
                    Some(Void) => {
                        let forgotten = accepted_at.all(|offset| offset < at && ends >= 2);
                        prop_assert!(forgotten);
                    }
                    None => {
                        prop_assert!(accepted_at.next().is_none());
                        let cut = acceptance.cut(SALE);
                        prop_assert!(cut.closed.is_none());
                        prop_assert!(cut.epoch() == Some(order.epoch) || order.epoch.0 >= at);
                    }
                }
            }
        }
    }
}
