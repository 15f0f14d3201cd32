//! The log, and what the product's own fold says of each prefix of it.
//!
//! Logs form a tree: each is its parent and one record. The fold of a log is made once, when it is first appended to,
//! however many states hold it.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use seckill_protocol::fold::FoldedOrder;
use seckill_protocol::index::Holdings;
use seckill_protocol::{
    Acceptance, Batch, Buyer, Epoch, Fold, KeyHash, Offset, OrderId, OrderStatus, PendingAdjustment, Record,
    RecordVerdict, SaleCut, SaleId,
};

use crate::configuration::{Configuration, Rule};
use crate::properties;

pub const SALE: SaleId = SaleId(1);

#[derive(Clone)]
pub struct Log(Arc<Node>);

struct Node {
    /// Of all records.
    digest: u64,
    /// What each prefix says, from the empty one to this.
    views: Vec<Arc<View>>,
    children: Mutex<Vec<(Record, Log)>>,
}

/// What a log says, read up to its end.
pub struct View {
    /// Its last record.
    pub record: Option<Record>,
    pub fold: Fold,
    /// What an index of it holds.
    pub holdings: Holdings,
    pub live: u64,
    /// The orders by what their buyers know of them.
    pub by_key: BTreeMap<(Buyer, KeyHash), OrderId>,
    /// How often each order is in the log, void or not.
    pub copies: BTreeMap<OrderId, usize>,
    /// Orders of void records.
    pub void: BTreeSet<OrderId>,
    /// What the index has to be told of the last record.
    pub owed: Option<PendingAdjustment>,
    pub barriers: usize,
    /// Where the latest barrier stands that was appended before CLOSE.
    pub latest_barrier: Option<Epoch>,
    /// The property that the log alone breaks.
    pub wrong: Option<&'static str>,
}

impl Log {
    pub fn empty() -> Self {
        let view = View {
            record: None,
            fold: Fold::new(SALE),
            holdings: Holdings::new(),
            live: 0,
            by_key: BTreeMap::new(),
            copies: BTreeMap::new(),
            void: BTreeSet::new(),
            owed: None,
            barriers: 0,
            latest_barrier: None,
            wrong: None,
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

    /// All of it.
    pub fn view(&self) -> &View {
        self.up_to(self.len())
    }

    /// Its first records.
    pub fn up_to(&self, length: usize) -> &View {
        &self.0.views[length]
    }

    pub fn record(&self, offset: usize) -> Option<&Record> {
        self.0.views.get(offset + 1)?.record.as_ref()
    }

    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.0.views.iter().filter_map(|view| view.record.as_ref())
    }

    pub fn append(&self, record: Record, rules: &Configuration) -> Log {
        let mut children = self.0.children.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, child)) = children.iter().find(|(known, _)| *known == record) {
            return child.clone();
        }
        let mut hasher = DefaultHasher::new();
        (self.0.digest, &record).hash(&mut hasher);
        let mut views = self.0.views.clone();
        views.push(Arc::new(View::after(self, &record, rules)));
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
    fn after(log: &Log, record: &Record, rules: &Configuration) -> View {
        let before = log.view();
        let offset = log.end();
        let cut = before.fold.cut();
        let mut fold = before.fold.clone();
        let verdict = read(&mut fold, log, record, rules);

        let (mut copies, mut void, mut latest_barrier) =
            (before.copies.clone(), before.void.clone(), before.latest_barrier);
        let mut barriers = before.barriers;
        match record {
            Record::Batch(batch) => {
                for (id, _) in batch.iter() {
                    *copies.entry(id).or_default() += 1;
                    if verdict == RecordVerdict::Void {
                        void.insert(id);
                    }
                }
            }
            Record::Barrier { .. } => {
                barriers += 1;
                if fold.cut().closed.is_none() {
                    latest_barrier = Some(Epoch(offset));
                }
            }
            _ => {}
        }
        let ended = match record {
            Record::Cancel { sale, epoch, seq, .. } => {
                let id = OrderId {
                    sale: *sale,
                    epoch: *epoch,
                    seq: *seq,
                };
                let live = |fold: &Fold| fold.orders().get(&id).filter(|order| order.status.is_live()).cloned();
                live(&before.fold).filter(|_| live(&fold).is_none())
            }
            _ => None,
        };
        let owed = PendingAdjustment::of(offset, record, cut, ended.as_ref().map(|order| &order.buyer))
            .filter(|_| verdict == RecordVerdict::Accepted);
        let by_key = fold.orders().iter().map(|(id, o)| ((o.buyer.clone(), o.key), *id));
        let mut view = View {
            record: Some(record.clone()),
            live: fold.live(),
            holdings: fold.clone().into_holdings().into_iter().collect(),
            by_key: by_key.collect(),
            copies,
            void,
            owed,
            barriers,
            latest_barrier,
            wrong: None,
            fold,
        };
        view.wrong = before
            .wrong
            .or_else(|| properties::of_the_log(before, &view, record, verdict, rules));
        view
    }

    /// Whether the log has this order, for this buyer and key.
    pub fn has(&self, id: OrderId, buyer: &Buyer, key: KeyHash) -> bool {
        let order = self.fold.orders().get(&id);
        order.is_some_and(|order| order.buyer == *buyer && order.key == key)
    }
}

/// The next record, by the rules or by broken ones.
fn read(fold: &mut Fold, log: &Log, record: &Record, rules: &Configuration) -> RecordVerdict {
    let (offset, cut) = (log.end(), fold.cut());
    let verdict = Acceptance::starting_from([(SALE, cut)]).judge(offset, record);
    if rules.broken.is_empty() {
        fold.read(offset, record);
        return verdict;
    }
    match record {
        Record::Batch(batch) => {
            let counts = verdict == RecordVerdict::Accepted
                || rules.breaks(Rule::BarrierEndsEpoch)
                || (rules.breaks(Rule::EpochEquals) && Some(batch.epoch) >= cut.cur.map(Epoch));
            if !counts {
                fold.read(offset, record);
                return RecordVerdict::Void;
            }
            let batch = distinguished(fold, log, batch, rules);
            // As if its epoch were the one that sells.
            let selling = SaleCut {
                cur: Some(batch.epoch.0),
                closed: None,
            };
            let orders = kept(fold, &batch, rules);
            *fold = Fold::starting_from(SALE, selling, fold.total(), orders);
            fold.read(offset, &Record::Batch(batch));
            *fold = Fold::starting_from(SALE, cut, fold.total(), fold.orders().clone());
            return RecordVerdict::Accepted;
        }
        Record::Barrier { .. } if cut.closed.is_some() && rules.breaks(Rule::CloseIsFinal) => {
            let selling = SaleCut {
                cur: Some(offset),
                closed: None,
            };
            *fold = Fold::starting_from(SALE, selling, fold.total(), fold.orders().clone());
            return RecordVerdict::Accepted;
        }
        Record::Total { total, .. } if rules.breaks(Rule::TotalOnlyRises) && verdict == RecordVerdict::Accepted => {
            *fold = Fold::starting_from(SALE, cut, *total, fold.orders().clone());
        }
        _ => fold.read(offset, record),
    }
    verdict
}

/// If duplicates are dropped by record, an order in another record is another order.
fn distinguished(fold: &Fold, log: &Log, batch: &Batch, rules: &Configuration) -> Batch {
    let mut batch = batch.clone();
    let known = batch.iter().any(|(id, _)| fold.orders().contains_key(&id));
    let is_copy = log.records().any(|r| matches!(r, Record::Batch(b) if *b == batch));
    if rules.breaks(Rule::DuplicatesByOrder) && known && !is_copy {
        batch.first += 100 * log.len() as u64;
    }
    batch
}

/// The orders against which duplicates are dropped.
fn kept(fold: &Fold, batch: &Batch, rules: &Configuration) -> Vec<(OrderId, FoldedOrder)> {
    let forgotten = |id: &OrderId, status: OrderStatus| {
        rules.breaks(Rule::DuplicatesOfEveryStatus) && !status.is_live() && batch.iter().any(|(i, _)| i == *id)
    };
    let orders = fold.orders().iter().filter(|(id, order)| !forgotten(id, order.status));
    orders.map(|(id, order)| (*id, order.clone())).collect()
}
