//! The state of one partition in one process: the records that it has read and the callers that wait for more.
use std::collections::{BTreeMap, HashMap};

use seckill_protocol::{Acceptance, Batch, Epoch, Offset, OrderId, Record, RecordVerdict, SaleCut, SaleId, Seq};
use tokio::sync::oneshot;

use crate::seqs::Seqs;

#[derive(Default)]
pub(crate) struct Partition {
    acceptance: Acceptance,
    sales: HashMap<SaleId, FollowedSale>,
    tickets: u64,
}

/// A sale on the partition.
#[derive(Default)]
struct FollowedSale {
    /// Accepted orders of the current epoch.
    accepted: Seqs,
    /// Accepted orders of the previous epoch, for callers just after its end.
    ended: Option<(Epoch, Seqs)>,
    waiting: BTreeMap<(Epoch, Seq, u64), oneshot::Sender<RecordVerdict>>,
}

/// The known or future verdict on an order.
pub(crate) enum OrderVerdict {
    Known(RecordVerdict),
    /// It will be sent. Call [`Partition::forget`] with the ticket when nobody waits any more.
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
                // Orders of an epoch that this process does not know yet keep waiting.
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
            // A future epoch could make another copy count.
            (Record::Batch(batch), RecordVerdict::Void) if batch.epoch.0 <= offset => {
                sale.resolve(batch, RecordVerdict::Void)
            }
            _ => {}
        }
    }

    /// The verdict on an order after all records before `next` were read.
    pub fn verdict(&mut self, order: OrderId, next: Offset) -> OrderVerdict {
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
            return OrderVerdict::Known(RecordVerdict::Accepted);
        }
        let past = order.epoch.0 < next && !current;
        if past || cut.closed.is_some() {
            return OrderVerdict::Known(RecordVerdict::Void);
        }
        self.tickets += 1;
        let (sender, receiver) = oneshot::channel();
        sale.waiting.insert((order.epoch, order.seq, self.tickets), sender);
        OrderVerdict::Later(self.tickets, receiver)
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

impl FollowedSale {
    fn end(&mut self, epoch: Option<Epoch>) {
        let accepted = std::mem::take(&mut self.accepted);
        self.ended = epoch.map(|epoch| (epoch, accepted));
    }

    fn void_all(&mut self) {
        for sender in std::mem::take(&mut self.waiting).into_values() {
            let _ = sender.send(RecordVerdict::Void); // fails if the caller has given up
        }
    }

    fn resolve(&mut self, batch: &Batch, verdict: RecordVerdict) {
        let range = (batch.epoch, batch.first, 0)..=(batch.epoch, batch.last(), u64::MAX);
        let tickets: Vec<_> = self.waiting.range(range).map(|(ticket, _)| *ticket).collect();
        for ticket in tickets {
            if let Some(sender) = self.waiting.remove(&ticket) {
                let _ = sender.send(verdict); // fails if the caller has given up
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
        match partition.verdict(order, next) {
            OrderVerdict::Known(verdict) => Some(verdict),
            OrderVerdict::Later(..) => None,
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
        match partition.verdict(order, next) {
            OrderVerdict::Later(_, receiver) => receiver,
            OrderVerdict::Known(verdict) => panic!("already {verdict:?}"),
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
        let OrderVerdict::Later(ticket, _receiver) = partition.verdict(order(0, 1), next) else {
            panic!("known");
        };
        partition.forget(order(0, 1), ticket);
        assert_eq!(partition.waiting(), 0);
    }

    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Event {
        Barrier,
        Close,
        /// Of the epoch of an earlier barrier, counted from the last one, or of a future epoch.
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

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            2 => Just(Event::Barrier),
            1 => (0..40u8).prop_map(|n| if n == 0 { Event::Close } else { Event::Barrier }),
            8 => (-1..4i64, 1..6u64, 1..4usize).prop_map(|(ago, first, count)| Event::Batch { ago, first, count }),
            8 => (-1..4i64, 1..9u64).prop_map(|(ago, seq)| Event::Ask { ago, seq }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn every_answer_agrees_with_the_log(events in prop::collection::vec(event(), 1..60)) {
            let mut partition = Partition::default();
            let mut acceptance = Acceptance::default();
            let mut next: Offset = 0;
            let mut barriers: Vec<Offset> = Vec::new();
            let mut accepted: Vec<(OrderId, Offset)> = Vec::new();
            let mut asked = Vec::new();
            for event in events {
                // -1 guesses an epoch that may or may not come.
                let epoch = |ago: i64| match usize::try_from(ago) {
                    Ok(ago) => barriers.iter().rev().nth(ago).copied().unwrap_or(0),
                    Err(_) => next + 1,
                };
                let record = match event {
                    Event::Barrier => barrier(),
                    Event::Close => close(),
                    Event::Batch { ago, first, count } => batch(epoch(ago), first, count),
                    Event::Ask { ago, seq } => {
                        let order = order(epoch(ago), seq);
                        let closed = acceptance.cut(SALE).closed.is_some();
                        let ends = barriers.iter().filter(|barrier| **barrier > order.epoch.0).count() + usize::from(closed);
                        asked.push((order, next, ends, partition.verdict(order, next)));
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
                    OrderVerdict::Known(verdict) => Some(verdict),
                    OrderVerdict::Later(_, mut receiver) => receiver.try_recv().ok(),
                };
                let mut accepted_at = accepted.iter().filter(|(id, _)| *id == order).map(|(_, offset)| *offset);
                match verdict {
                    Some(Accepted) => prop_assert!(accepted_at.next().is_some()),
                    // An order accepted in an epoch before the previous one may have been forgotten.
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
