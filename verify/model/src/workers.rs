//! A second, small model: two workers on one partition, one of which may be a zombie, and a reader that starts at the
//! ledger's position. The rows of the ledger are part of the state here, not derived from the log.
use std::collections::{BTreeMap, BTreeSet};

use seckill_protocol::fold::FoldedOrder;
use seckill_protocol::{Acceptance, Batch, Epoch, Fold, KeyHash, Offset, Order, OrderId, Record, SaleCut};
use stateright::{Model, Property};

use crate::buying::buyer_of;
use crate::configuration::{Configuration, Rule};
use crate::log::{Log, SALE};
use crate::protocol::barrier;

pub const ROWS: &str = "I12 the ledger's rows are the fold of the log up to its position";
pub const READER: &str = "a reader that starts where the ledger stands agrees with one that read all";

pub struct Workers {
    /// Only the length of the log, the losses of MySQL and the broken rules matter.
    pub config: Configuration,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkersState {
    log: Log,
    rows: Rows,
    /// The replica of the rows, which a failover promotes.
    copy: Rows,
    /// The range of records that each worker has read and not stored.
    workers: [Option<(usize, usize)>; 2],
    reader: Reader,
    losses: u8,
}

/// The ledger.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Rows {
    position: usize,
    cut: SaleCut,
    total: u64,
    orders: BTreeMap<OrderId, FoldedOrder>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Reader {
    Idle,
    Position(usize),
    Reads { from: usize, cut: SaleCut },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkersAction {
    Append(Record),
    Read { worker: usize, to: usize },
    Commit { worker: usize },
    GiveUp { worker: usize },
    ReaderStarts,
    ReaderReadsPosition,
    ReaderReadsCuts,
    Replicates,
    FailsOver,
}

impl Model for Workers {
    type State = WorkersState;
    type Action = WorkersAction;

    fn init_states(&self) -> Vec<WorkersState> {
        let total = Record::Total { sale: SALE, total: 2 };
        let rows = Rows {
            position: 0,
            cut: SaleCut::default(),
            total: 0,
            orders: BTreeMap::new(),
        };
        vec![WorkersState {
            log: Log::empty().append(total, &self.config).append(barrier(), &self.config),
            copy: rows.clone(),
            rows,
            workers: [None, None],
            reader: Reader::Idle,
            losses: 0,
        }]
    }

    fn actions(&self, state: &WorkersState, actions: &mut Vec<WorkersAction>) {
        if state.log.len() < self.config.log {
            actions.extend(next_records(&state.log).into_iter().map(WorkersAction::Append));
        }
        for (worker, read) in state.workers.iter().enumerate() {
            match read {
                None => {
                    let further = state.rows.position + 1..=state.log.len();
                    actions.extend(further.map(|to| WorkersAction::Read { worker, to }));
                }
                Some(_) => actions.extend([WorkersAction::Commit { worker }, WorkersAction::GiveUp { worker }]),
            }
        }
        match state.reader {
            Reader::Idle if self.config.breaks(Rule::StartFromOneSnapshot) => {
                actions.push(WorkersAction::ReaderReadsPosition)
            }
            Reader::Idle => actions.push(WorkersAction::ReaderStarts),
            Reader::Position(_) => actions.push(WorkersAction::ReaderReadsCuts),
            Reader::Reads { .. } => {}
        }
        if state.losses < self.config.mysql_losses && state.rows != state.copy {
            actions.extend([WorkersAction::Replicates, WorkersAction::FailsOver]);
        }
    }

    fn next_state(&self, last: &WorkersState, action: WorkersAction) -> Option<WorkersState> {
        let mut state = last.clone();
        match action {
            WorkersAction::Append(record) => state.log = state.log.append(record, &self.config),
            WorkersAction::Read { worker, to } => state.workers[worker] = Some((state.rows.position, to)),
            WorkersAction::Commit { worker } => {
                let (from, to) = state.workers[worker].take()?;
                if from != state.rows.position && !self.config.breaks(Rule::PositionCompared) {
                    return None;
                }
                state.rows = state.rows.after(&state.log, from, to);
            }
            WorkersAction::GiveUp { worker } => state.workers[worker] = None,
            WorkersAction::ReaderStarts => {
                state.reader = Reader::Reads {
                    from: state.rows.position,
                    cut: state.rows.cut,
                }
            }
            WorkersAction::ReaderReadsPosition => state.reader = Reader::Position(state.rows.position),
            WorkersAction::ReaderReadsCuts => {
                let Reader::Position(from) = state.reader else {
                    return None;
                };
                let cut = state.rows.cut;
                state.reader = Reader::Reads { from, cut };
            }
            WorkersAction::Replicates => state.copy = state.rows.clone(),
            WorkersAction::FailsOver => {
                state.rows = state.copy.clone();
                state.losses += 1;
            }
        }
        state.workers.sort();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ROWS, |_, state: &WorkersState| {
                let fold = &state.log.up_to(state.rows.position).fold;
                let orders: BTreeMap<_, _> = fold.orders().iter().map(|(id, order)| (*id, order.clone())).collect();
                (fold.cut(), fold.total(), orders) == (state.rows.cut, state.rows.total, state.rows.orders.clone())
            }),
            Property::always(READER, |_, state: &WorkersState| match state.reader {
                Reader::Reads { from, cut } => verdicts_agree(&state.log, from, cut),
                Reader::Idle | Reader::Position(_) => true,
            }),
            Property::sometimes("an order is cancelled in the ledger", |_, state: &WorkersState| {
                state.rows.orders.values().any(|order| !order.status.is_live())
            }),
        ]
    }
}

impl Rows {
    /// The rows after one transaction, which reads them under its lock.
    fn after(&self, log: &Log, from: usize, to: usize) -> Rows {
        let mut fold = Fold::starting_from(SALE, self.cut, self.total, self.orders.clone());
        for (offset, record) in log.records().enumerate().take(to).skip(from) {
            fold.read(offset as Offset, record);
        }
        Rows {
            position: to,
            cut: fold.cut(),
            total: fold.total(),
            orders: fold.orders().iter().map(|(id, order)| (*id, order.clone())).collect(),
        }
    }
}

/// The records that may come next: a barrier, orders of the first and of the last epoch, cancels.
fn next_records(log: &Log) -> Vec<Record> {
    let first = Epoch(1);
    let mut epochs = vec![first];
    epochs.extend(log.view().latest_barrier.filter(|latest| *latest != first));
    let batch = |epoch, seq| {
        let order = Order {
            buyer: buyer_of(seq as u8),
            quantity: 1,
            tier: 0,
            key: KeyHash(seq),
        };
        Record::Batch(Batch {
            sale: SALE,
            epoch,
            first: seq,
            orders: vec![order],
        })
    };
    let batches = epochs.into_iter().flat_map(|epoch| [batch(epoch, 1), batch(epoch, 2)]);
    let orders: BTreeSet<OrderId> = log.view().fold.orders().keys().copied().collect();
    let cancels = orders.into_iter().map(|id| Record::Cancel {
        sale: id.sale,
        epoch: id.epoch,
        seq: id.seq,
        reason: "buyer".to_owned(),
    });
    [barrier()].into_iter().chain(batches).chain(cancels).collect()
}

fn verdicts_agree(log: &Log, from: usize, cut: SaleCut) -> bool {
    let (mut all, mut some) = (Acceptance::default(), Acceptance::starting_from([(SALE, cut)]));
    log.records().enumerate().all(|(offset, record)| {
        let verdict = all.judge(offset as Offset, record);
        offset < from || some.judge(offset as Offset, record) == verdict
    })
}
