//! The log, and the product's own fold of each prefix of it.
//!
//! Logs form a tree: each is its parent and one record. The fold of a log is computed once, however many states hold
//! the log.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use seckill_protocol::fold::FoldedOrder;
use seckill_protocol::index::Holdings;
use seckill_protocol::tiers::PerTier;
use seckill_protocol::{
    Acceptance, Batch, Buyer, Epoch, Fold, KeyHash, Offset, Order, OrderId, OrderStatus, PendingAdjustment, Record,
    RecordVerdict, SaleCut, SaleId, Tier,
};

use crate::configuration::{Configuration, Rule};
use crate::property;

pub const SALE: SaleId = SaleId(1);

#[derive(Clone)]
pub struct Log(Arc<Node>);

struct Node {
    /// A hash of all records.
    digest: u64,
    /// The view of each prefix, from the empty log to this one.
    views: Vec<Arc<View>>,
    children: Mutex<Vec<(Record, Log)>>,
}

/// A log read to its end.
pub struct View {
    /// Its last record.
    pub record: Option<Record>,
    pub fold: Fold,
    /// The holdings of an index built from it.
    pub holdings: Holdings,
    pub live: u64,
    /// Live units of each tier.
    pub live_of_tier: PerTier<u64>,
    /// The orders by buyer and key.
    pub by_key: BTreeMap<(Buyer, KeyHash), OrderId>,
    /// How often each order is in the log, void or not.
    pub copies: BTreeMap<OrderId, usize>,
    /// Orders of void records.
    pub void: BTreeSet<OrderId>,
    /// The stock adjustment of the last record.
    pub adjustment: Option<PendingAdjustment>,
    pub barriers: usize,
    /// The latest barrier before CLOSE.
    pub latest_barrier: Option<Epoch>,
    /// The property that the log alone violates.
    pub violated: Option<&'static str>,
}

impl Log {
    pub fn empty() -> Self {
        let view = View {
            record: None,
            fold: Fold::new(SALE),
            holdings: Holdings::new(),
            live: 0,
            live_of_tier: PerTier::default(),
            by_key: BTreeMap::new(),
            copies: BTreeMap::new(),
            void: BTreeSet::new(),
            adjustment: None,
            barriers: 0,
            latest_barrier: None,
            violated: None,
        };
        Log(Arc::new(Node {
            digest: 0,
            views: vec![Arc::new(view)],
            children: Mutex::default(),
        }))
    }

    pub fn len(&self) -> usize {
        self.0.views.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The offset of the next record.
    pub fn end(&self) -> Offset {
        self.len() as Offset
    }

    /// The view of the whole log.
    pub fn view(&self) -> &View {
        self.up_to(self.len())
    }

    /// The view of the first records.
    pub fn up_to(&self, length: usize) -> &View {
        &self.0.views[length]
    }

    pub fn record(&self, offset: usize) -> Option<&Record> {
        self.0.views.get(offset + 1)?.record.as_ref()
    }

    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.0.views.iter().filter_map(|view| view.record.as_ref())
    }

    pub fn append(&self, record: Record, config: &Configuration) -> Log {
        let mut children = self.0.children.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, child)) = children.iter().find(|(known, _)| *known == record) {
            return child.clone();
        }
        let mut hasher = DefaultHasher::new();
        (self.0.digest, &record).hash(&mut hasher);
        let mut views = self.0.views.clone();
        views.push(Arc::new(View::after(self, &record, config)));
        let child = Log(Arc::new(Node {
            digest: hasher.finish(),
            views,
            children: Mutex::default(),
        }));
        children.push((record, child.clone()));
        child
    }
}

impl PartialEq for Log {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.0.digest == other.0.digest && self.records().eq(other.records()))
    }
}

impl Eq for Log {}

impl Hash for Log {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.digest.hash(state);
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.records()).finish()
    }
}

impl View {
    fn after(log: &Log, record: &Record, config: &Configuration) -> View {
        let before = log.view();
        let offset = log.end();
        let mut fold = before.fold.clone();
        let verdict = read(&mut fold, log, record, config);
        let is_row = |pending: &PendingAdjustment| {
            verdict == RecordVerdict::Accepted
                && (pending.adjustment.changes_units() || !config.breaks(Rule::EveryCancelIsARow))
        };
        let adjustment = adjustment(offset, record, &before.fold, &fold).filter(is_row);
        let by_key = fold.orders().iter().map(|(id, o)| ((o.buyer.clone(), o.key), *id));
        let mut view = View {
            record: Some(record.clone()),
            live: fold.live(),
            live_of_tier: live_of_tier(&fold),
            holdings: fold.clone().into_holdings().into_iter().collect(),
            by_key: by_key.collect(),
            copies: before.copies.clone(),
            void: before.void.clone(),
            adjustment,
            barriers: before.barriers,
            latest_barrier: before.latest_barrier,
            violated: None,
            fold,
        };
        view.count(offset, record, verdict);
        view.violated = before
            .violated
            .or_else(|| violation_of_the_log(before, &view, record, verdict, config));
        view
    }

    /// Counts the orders and barriers of the last record.
    fn count(&mut self, offset: Offset, record: &Record, verdict: RecordVerdict) {
        match record {
            Record::Batch(batch) => {
                for (id, _) in batch.iter() {
                    *self.copies.entry(id).or_default() += 1;
                    if verdict == RecordVerdict::Void {
                        self.void.insert(id);
                    }
                }
            }
            Record::Barrier { .. } => {
                self.barriers += 1;
                if self.fold.cut().closed.is_none() {
                    self.latest_barrier = Some(Epoch(offset));
                }
            }
            _ => {}
        }
    }

    /// Live units of a tier.
    pub fn live_of(&self, tier: Tier) -> u64 {
        self.live_of_tier[usize::from(tier)]
    }

    /// Whether the log has this order, for this buyer and key.
    pub fn has(&self, id: OrderId, buyer: &Buyer, key: KeyHash) -> bool {
        let order = self.fold.orders().get(&id);
        order.is_some_and(|order| order.buyer == *buyer && order.key == key)
    }
}

fn live_of_tier(fold: &Fold) -> PerTier<u64> {
    let mut units = PerTier::default();
    for order in fold.orders().values().filter(|order| order.status.is_live()) {
        units[usize::from(order.tier)] += u64::from(order.quantity);
    }
    units
}

/// Whether an order that the log has is as this copy of its record has it.
fn is_same(folded: &FoldedOrder, order: &Order) -> bool {
    (&folded.buyer, folded.quantity, folded.tier, folded.key) == (&order.buyer, order.quantity, order.tier, order.key)
}

/// The stock adjustment of a record that changed the fold from `before` to `after`.
fn adjustment(offset: Offset, record: &Record, before: &Fold, after: &Fold) -> Option<PendingAdjustment> {
    let cancelled = match record {
        Record::Cancel { sale, epoch, seq, .. } => {
            let id = OrderId {
                sale: *sale,
                epoch: *epoch,
                seq: *seq,
            };
            let live = |fold: &Fold| fold.orders().get(&id).filter(|order| order.status.is_live()).cloned();
            live(before).filter(|_| live(after).is_none())
        }
        _ => None,
    };
    PendingAdjustment::of(
        offset,
        record,
        before.cut(),
        cancelled.as_ref().map(|order| &order.buyer),
    )
}

/// The property that the last record violates in the log alone.
fn violation_of_the_log(
    before: &View,
    after: &View,
    record: &Record,
    verdict: RecordVerdict,
    config: &Configuration,
) -> Option<&'static str> {
    let orders = after.fold.orders();
    if after.live > after.fold.total() {
        return Some(property::OVERSOLD);
    }
    if before.fold.orders().keys().any(|id| !orders.contains_key(id)) {
        return Some(property::STAYS);
    }
    // The index knew the orders with smaller numbers, and the limit was that of the tier of the order.
    let mut held: BTreeMap<_, u32> = BTreeMap::new();
    for order in orders.values().filter(|order| order.status.is_live()) {
        let units = held.entry(&order.buyer).or_default();
        *units += order.quantity;
        if *units > config.limit_of(order.tier) {
            return Some(property::LIMIT);
        }
    }
    if config.orders_ever_max > 0 && orders.len() as u64 > config.orders_ever_max {
        return Some(property::ORDERS);
    }
    if after.by_key.len() < orders.len() {
        return Some(property::KEY);
    }
    if let (Record::Batch(batch), RecordVerdict::Accepted) = (record, verdict)
        && batch
            .iter()
            .any(|(id, order)| orders.contains_key(&id) && !after.has(id, &order.buyer, order.key))
    {
        return Some(property::NUMBER);
    }
    if let (Record::Batch(batch), RecordVerdict::Accepted) = (record, verdict)
        && batch
            .iter()
            .any(|(id, order)| orders.get(&id).is_some_and(|folded| !is_same(folded, order)))
    {
        return Some(property::CONTENT);
    }
    let (was, is) = (&before.fold, &after.fold);
    if was.cut().closed.is_some()
        && (was.orders().len() != orders.len() || was.total() != is.total() || was.cut() != is.cut())
    {
        return Some(property::CLOSED);
    }
    None
}

/// Reads the next record, with the broken rules of the configuration.
fn read(fold: &mut Fold, log: &Log, record: &Record, config: &Configuration) -> RecordVerdict {
    let (offset, cut) = (log.end(), fold.cut());
    let verdict = Acceptance::starting_from([(SALE, cut)]).judge(offset, record);
    if config.broken.is_empty() {
        fold.read(offset, record);
        return verdict;
    }
    match record {
        Record::Batch(batch) => {
            let counts = verdict == RecordVerdict::Accepted
                || config.breaks(Rule::BarrierEndsEpoch)
                || (config.breaks(Rule::EpochEquals) && Some(batch.epoch) >= cut.current_epoch.map(Epoch));
            if !counts {
                fold.read(offset, record);
                return RecordVerdict::Void;
            }
            let batch = renumber_in_another_record(fold, log, batch, config);
            // The batch is read as if its epoch were the current one.
            let selling = SaleCut {
                current_epoch: Some(batch.epoch.0),
                closed: None,
            };
            let orders = orders_for_duplicates(fold, &batch, config);
            *fold = Fold::starting_from(SALE, selling, fold.total(), orders);
            fold.read(offset, &Record::Batch(batch));
            *fold = Fold::starting_from(SALE, cut, fold.total(), fold.orders().clone());
            return RecordVerdict::Accepted;
        }
        Record::Barrier { .. } if cut.closed.is_some() && config.breaks(Rule::CloseIsFinal) => {
            let selling = SaleCut {
                current_epoch: Some(offset),
                closed: None,
            };
            *fold = Fold::starting_from(SALE, selling, fold.total(), fold.orders().clone());
            return RecordVerdict::Accepted;
        }
        Record::Total { total, .. } if config.breaks(Rule::TotalOnlyRises) && verdict == RecordVerdict::Accepted => {
            *fold = Fold::starting_from(SALE, cut, *total, fold.orders().clone());
        }
        _ => {
            fold.read(offset, record);
        }
    }
    verdict
}

/// If duplicates are dropped by record, an order in another record is another order.
fn renumber_in_another_record(fold: &Fold, log: &Log, batch: &Batch, config: &Configuration) -> Batch {
    let mut batch = batch.clone();
    let known = batch.iter().any(|(id, _)| fold.orders().contains_key(&id));
    let is_copy = log.records().any(|r| matches!(r, Record::Batch(b) if *b == batch));
    if config.breaks(Rule::DuplicatesByOrder) && known && !is_copy {
        batch.first += 100 * log.len() as u64;
    }
    batch
}

/// The orders against which duplicates are dropped.
fn orders_for_duplicates(fold: &Fold, batch: &Batch, config: &Configuration) -> Vec<(OrderId, FoldedOrder)> {
    let forgotten = |id: &OrderId, status: OrderStatus| {
        config.breaks(Rule::DuplicatesOfEveryStatus) && !status.is_live() && batch.iter().any(|(i, _)| i == *id)
    };
    let orders = fold.orders().iter().filter(|(id, order)| !forgotten(id, order.status));
    orders.map(|(id, order)| (*id, order.clone())).collect()
}
