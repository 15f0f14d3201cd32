//! Decides what a range of the log changes in the tables. It is plain code: the caller reads the rows that it needs
//! before.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::AddAssign;

use seckill_protocol::admission::{KnownSale, has_freed_name};
use seckill_protocol::{
    Acceptance, Batch, Buyer, Epoch, Identity, Offset, Order, OrderId, OrderStatus, PendingAdjustment, Record,
    RecordError, RecordVerdict, SaleCut, SaleId, Seq,
};

/// A record of one partition, as it was read.
#[derive(Debug)]
pub struct LogEntry {
    pub offset: Offset,
    /// Unix ms, by the log.
    pub timestamp_ms: i64,
    pub record: Result<Record, RecordError>,
    /// The bytes of the record, for quarantine.
    pub payload: Vec<u8>,
}

/// Counts of one call of `store`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// Orders that are new in the ledger.
    pub orders: u64,
    /// Orders of void batches.
    pub void: u64,
    /// Orders that were in the ledger before.
    pub duplicates: u64,
    /// Records that could not be folded.
    pub quarantined: u64,
}

impl AddAssign for Stored {
    fn add_assign(&mut self, other: Self) {
        self.orders += other.orders;
        self.void += other.void;
        self.duplicates += other.duplicates;
        self.quarantined += other.quarantined;
    }
}

/// The columns of a sale's row that follow the log, and the price that an order takes from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SaleRow {
    pub partition: u32,
    pub price: String,
    pub total: u64,
    pub sold: u64,
    pub taken: u64,
    pub returned: u64,
    pub orders_ever: u64,
    pub cut: SaleCut,
    pub identity_at: Option<Offset>,
}

impl SaleRow {
    pub fn known(&self, sale: SaleId) -> KnownSale {
        let has_freed_name = has_freed_name(self.cut, self.total);
        KnownSale { sale, has_freed_name }
    }

    /// The row that an IDENTITY brings back. What the log says of the sale comes after it.
    pub fn restored(partition: u32, offset: Offset, identity: &Identity) -> Self {
        SaleRow {
            partition,
            price: identity.price.clone(),
            total: 0,
            sold: 0,
            taken: 0,
            returned: 0,
            orders_ever: 0,
            cut: SaleCut::default(),
            identity_at: Some(offset),
        }
    }
}

/// An order that is in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownOrder {
    pub order: Order,
    pub status: OrderStatus,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NewOrder<'a> {
    pub order: &'a Order,
    pub status: OrderStatus,
    pub created_at_ms: i64,
}

#[derive(Debug)]
pub(crate) struct Quarantined<'a> {
    pub entry: &'a LogEntry,
    pub reason: String,
    /// A batch that counts and whose orders are not stored.
    pub promised: Option<&'a Batch>,
}

/// All rows that the transaction has to write.
#[derive(Debug, Default)]
pub(crate) struct Changes<'a> {
    pub inserts: BTreeMap<OrderId, NewOrder<'a>>,
    pub statuses: BTreeMap<OrderId, OrderStatus>,
    /// The first IDENTITY of sales that have a row.
    pub identities: Vec<(Offset, &'a Identity)>,
    pub quarantine: Vec<Quarantined<'a>>,
    /// Adjustments for the indexes.
    pub adjustments: Vec<(SaleId, PendingAdjustment)>,
    pub stored: Stored,
}

/// A record with its judgement, which depends on all records before it.
pub(crate) struct Judged<'a> {
    entry: &'a LogEntry,
    judgement: Judgement<'a>,
    /// The cut of the sale after this record.
    cut: SaleCut,
}

enum Judgement<'a> {
    Counts(&'a Record),
    Void(&'a Record),
    /// The server refuses the rows of this record.
    Refused(&'a Record, &'a str),
    Unreadable(String),
}

/// Judges whether each entry counts, and moves the cuts of the sales. `refused` is the error of a server that refuses
/// the content of the entry; it is given with a single entry.
pub(crate) fn judge<'a>(
    partition: u32,
    sales: &mut BTreeMap<SaleId, SaleRow>,
    entries: &'a [LogEntry],
    refused: Option<&'a str>,
) -> Vec<Judged<'a>> {
    let mut acceptance = Acceptance::starting_from(sales.iter().map(|(id, sale)| (*id, sale.cut)));
    let judged = entries
        .iter()
        .map(|entry| {
            let judgement = match &entry.record {
                Err(error) => Judgement::Unreadable(error.to_string()),
                Ok(record) => match sales.get(&record.sale()) {
                    None => Judgement::Unreadable(format!("no sale {} in the ledger", record.sale())),
                    Some(sale) if sale.partition != partition => {
                        Judgement::Unreadable(format!("sale {} lives on partition {}", record.sale(), sale.partition))
                    }
                    Some(_) => match (acceptance.judge(entry.offset, record), refused) {
                        (RecordVerdict::Void, _) if ignores_epoch(record) => Judgement::Counts(record),
                        (RecordVerdict::Void, _) => Judgement::Void(record),
                        (RecordVerdict::Accepted, None) => Judgement::Counts(record),
                        (RecordVerdict::Accepted, Some(reason)) => Judgement::Refused(record, reason),
                    },
                },
            };
            let sale = entry.record.as_ref().ok().map(Record::sale);
            let cut = sale.map_or(SaleCut::default(), |sale| acceptance.cut(sale));
            Judged { entry, judgement, cut }
        })
        .collect();
    for (id, sale) in sales.iter_mut() {
        sale.cut = acceptance.cut(*id);
    }
    judged
}

/// For the chaos run: a batch is stored whatever its epoch is.
fn ignores_epoch(record: &Record) -> bool {
    matches!(record, Record::Batch(_)) && seckill_failpoint::breaks("epoch-ignored")
}

/// A record that is known to count.
pub(crate) fn as_accepted<'a>(entry: &'a LogEntry, record: &'a Record, sale: &SaleRow) -> Judged<'a> {
    Judged {
        entry,
        judgement: Judgement::Counts(record),
        cut: sale.cut,
    }
}

/// The orders that the fold has to know: those that a record would create or change.
pub(crate) fn named_orders(judged: &[Judged<'_>]) -> BTreeSet<OrderId> {
    let mut ids = BTreeSet::new();
    for Judged { judgement, .. } in judged {
        match judgement {
            Judgement::Counts(Record::Batch(batch)) => ids.extend(batch.iter().map(|(id, _)| id)),
            Judgement::Counts(record) => ids.extend(record.changed_order()),
            _ => {}
        }
    }
    ids
}

/// Ranges that cover the ids and few others. A late copy of an early order must not make one range over all orders.
pub(crate) fn ranges(ids: &BTreeSet<OrderId>) -> Vec<(SaleId, Epoch, Seq, Seq)> {
    const GAP: Seq = Batch::MAX_ORDERS as Seq;
    let mut ranges: Vec<(SaleId, Epoch, Seq, Seq)> = Vec::new();
    for id in ids {
        match ranges.last_mut() {
            Some((sale, epoch, _, last)) if (*sale, *epoch) == (id.sale, id.epoch) && id.seq - *last <= GAP => {
                *last = id.seq;
            }
            _ => ranges.push((id.sale, id.epoch, id.seq, id.seq)),
        }
    }
    ranges
}

/// Folds judged records. `known` holds those of the [`named_orders`] that are in the ledger.
pub(crate) fn fold<'a>(
    judged: &[Judged<'a>],
    sales: &mut BTreeMap<SaleId, SaleRow>,
    known: HashMap<OrderId, KnownOrder>,
) -> Changes<'a> {
    let mut fold = LedgerFold {
        sales,
        known,
        changes: Changes::default(),
    };
    for Judged { entry, judgement, cut } in judged {
        match judgement {
            Judgement::Counts(record) => fold.record(entry, record, *cut),
            Judgement::Void(Record::Batch(batch)) => fold.changes.stored.void += batch.orders.len() as u64,
            Judgement::Void(_) => {}
            Judgement::Refused(record, reason) => {
                let promised = if let Record::Batch(batch) = record {
                    Some(batch)
                } else {
                    None
                };
                fold.quarantine(entry, format!("refused by MySQL: {reason}"), promised);
            }
            Judgement::Unreadable(reason) => fold.quarantine(entry, reason.clone(), None),
        }
    }
    fold.changes
}

struct LedgerFold<'s, 'a> {
    sales: &'s mut BTreeMap<SaleId, SaleRow>,
    known: HashMap<OrderId, KnownOrder>,
    changes: Changes<'a>,
}

impl<'a> LedgerFold<'_, 'a> {
    fn record(&mut self, entry: &'a LogEntry, record: &'a Record, cut: SaleCut) {
        let Some(sale) = self.sales.get_mut(&record.sale()) else {
            return; // judged unreadable
        };
        match record {
            Record::Identity(identity) if sale.identity_at.is_none() => {
                sale.identity_at = Some(entry.offset);
                // Orders come after it, so each has the price of the log.
                sale.price.clone_from(&identity.price);
                self.changes.identities.push((entry.offset, &**identity));
            }
            Record::Identity(_) => {}
            // These moved the cut when they were judged.
            Record::Barrier { .. } | Record::Close { .. } => {}
            Record::Total { total, .. } if *total > sale.total => {
                sale.total = *total;
                self.add_adjustment(entry, record, cut, None);
            }
            Record::Total { .. } => {}
            Record::Batch(batch) => self.batch(entry, batch),
            Record::Cancel { reason, .. } => self.status(entry, record, cut, |status| status.cancelled(reason)),
            Record::Paid { .. } => self.status(entry, record, cut, OrderStatus::paid),
        }
    }

    fn batch(&mut self, entry: &'a LogEntry, batch: &'a Batch) {
        let mut new = Vec::with_capacity(batch.orders.len());
        let mut other_content = Vec::new();
        for (id, order) in batch.iter() {
            match self.known.get(&id) {
                None => new.push((id, order)),
                Some(known) if known.order == *order => self.changes.stored.duplicates += 1,
                Some(_) => other_content.push(id.seq),
            }
        }
        if !other_content.is_empty() {
            let (sale, epoch) = (batch.sale, batch.epoch);
            let reason =
                format!("orders {other_content:?} of sale {sale}, epoch {epoch} are stored with other content");
            self.quarantine(entry, reason, None);
        }
        let Some(sale) = self.sales.get_mut(&batch.sale) else {
            return; // judged unreadable
        };
        let units: u64 = new.iter().map(|(_, order)| u64::from(order.quantity)).sum();
        if units > sale.total.saturating_sub(sale.sold) {
            let reason = format!(
                "oversold: {} of {} units are sold, and the batch has {units} more",
                sale.sold, sale.total
            );
            self.quarantine(entry, reason, Some(batch));
            return;
        }
        sale.sold += units;
        sale.taken += units;
        sale.orders_ever += new.len() as u64;
        self.changes.stored.orders += new.len() as u64;
        for (id, order) in new {
            let status = OrderStatus::Placed;
            self.known.insert(
                id,
                KnownOrder {
                    order: order.clone(),
                    status,
                },
            );
            let created_at_ms = entry.timestamp_ms;
            self.changes.inserts.insert(
                id,
                NewOrder {
                    order,
                    status,
                    created_at_ms,
                },
            );
        }
    }

    fn status(
        &mut self,
        entry: &'a LogEntry,
        record: &Record,
        cut: SaleCut,
        change: impl FnOnce(OrderStatus) -> Option<OrderStatus>,
    ) {
        let Some((id, known)) = record
            .changed_order()
            .and_then(|id| Some((id, self.known.get_mut(&id)?)))
        else {
            self.quarantine(entry, "changes an order that is not in the ledger".into(), None);
            return;
        };
        let Some(status) = change(known.status) else {
            // An earlier CANCEL or PAID won. The index learns that it has reached a CANCEL.
            self.add_adjustment(entry, record, cut, None);
            return;
        };
        known.status = status;
        let (buyer, units) = (known.order.buyer.clone(), u64::from(known.order.quantity));
        if !status.is_live()
            && let Some(sale) = self.sales.get_mut(&id.sale)
        {
            sale.sold = sale.sold.saturating_sub(units);
            // After CLOSE no index can take the units back.
            if cut.closed.is_none() {
                sale.returned += units;
            }
            self.add_adjustment(entry, record, cut, Some(&buyer));
        }
        match self.changes.inserts.get_mut(&id) {
            Some(new) => new.status = status,
            None => {
                self.changes.statuses.insert(id, status);
            }
        }
    }

    fn add_adjustment(&mut self, entry: &LogEntry, record: &Record, cut: SaleCut, ended: Option<&Buyer>) {
        let pending = PendingAdjustment::of(entry.offset, record, cut, ended);
        self.changes
            .adjustments
            .extend(pending.map(|pending| (record.sale(), pending)));
    }

    fn quarantine(&mut self, entry: &'a LogEntry, reason: String, promised: Option<&'a Batch>) {
        self.changes.stored.quarantined += 1;
        // One row per entry. The promised batch must not get lost.
        match self.changes.quarantine.last_mut() {
            Some(last) if last.entry.offset == entry.offset => {
                self.changes.stored.quarantined -= 1;
                last.reason = format!("{}; {reason}", last.reason);
                last.promised = last.promised.or(promised);
            }
            _ => self.changes.quarantine.push(Quarantined {
                entry,
                reason,
                promised,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_copy_does_not_make_one_range_over_all_orders() {
        let id = |sale, epoch, seq| OrderId {
            sale: SaleId(sale),
            epoch: Epoch(epoch),
            seq,
        };
        let ids = [
            id(1, 5, 1),
            id(1, 5, 2),
            id(1, 5, 100),
            id(1, 5, 9000),
            id(1, 6, 9001),
            id(2, 6, 9002),
        ];
        let range = |sale, epoch, first, last| (SaleId(sale), Epoch(epoch), first, last);
        assert_eq!(
            ranges(&ids.into_iter().collect()),
            [
                range(1, 5, 1, 100),
                range(1, 5, 9000, 9000),
                range(1, 6, 9001, 9001),
                range(2, 6, 9002, 9002)
            ]
        );
        assert_eq!(ranges(&BTreeSet::new()), []);
    }
}
