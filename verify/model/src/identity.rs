//! A third, small model: the identity of a sale. MySQL fails over and loses its tail together with the row of a sale,
//! while operators create the sale of one FlashSale, begin its first epoch, and buyers buy.
//!
//! The decisions are the product's own: `admission` (what the worker does with a record of a sale whose row is missing),
//! `behind` (when an operator may insert a new row), `other_of_name` (when it may begin an epoch), and `Fold`. Redis and
//! the rest of a rebuild are left out: an index that was installed sells under its epoch until CLOSE.
//!
//! With `ends`, a sale may also be closed at any time, as after the deletion of its FlashSale, and one that has offered no
//! unit frees its name for another sale.
use std::collections::{BTreeMap, BTreeSet};

use seckill_protocol::admission::{Admission, KnownSale, Stop, admission, behind, has_freed_name, other_of_name};
use seckill_protocol::fold::FoldedOrder;
use seckill_protocol::{
    Batch, Epoch, Fold, Format, Identity, KeyHash, Offset, Order, OrderId, Record, SaleCut, SaleId,
};
use stateright::{Model, Property};

use crate::buying::buyer_of;

pub const PROMISE: &str = "I2 each number given out is in MySQL, or the log brings it there";
pub const ONE_SALE: &str = "buyers have numbers of only one sale of a name";

/// The partition of all sales here.
const PARTITION: u32 = 0;

/// The size, and the broken rule.
#[derive(Debug, Clone, Default)]
pub struct IdentityConfig {
    /// Operators that all believe to be the leader.
    pub operators: usize,
    /// The most records in the log.
    pub log: usize,
    /// How often MySQL fails over and loses its tail.
    pub losses: u8,
    /// Sales are closed, and their names used again.
    pub ends: bool,
    /// The sale was sold by a version without IDENTITY, and MySQL's replica lacks its row.
    pub without_identity: bool,
    pub broken: Option<IdentityRule>,
}

/// The rules that can be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityRule {
    /// A new row is inserted only after the ledger has read the log to an end sampled after the name was not found.
    InsertAfterCatchingUp,
    /// IDENTITY is in the log before the first barrier of its sale.
    IdentityBeforeBarrier,
    /// The worker stops at a record of a sale that the ledger does not know.
    UnknownSaleStops,
    /// The worker inserts the missing row of an IDENTITY.
    IdentityInserts,
    /// No epoch begins while the log has another sale of the name that the ledger has not read.
    OtherSaleOfNameRefuses,
    /// IDENTITY is in the log before CLOSE.
    IdentityBeforeClose,
    /// Only a sale that has offered no unit frees its name.
    OnlyUnofferedFreesName,
    /// The worker gives the name of an ended sale that has offered no unit to the sale of an IDENTITY.
    IdentityTakesFreedName,
    /// The row of a sale whose name was freed stays, and late copies of its IDENTITY are void.
    FreedRowStays,
}

pub struct Identities {
    pub config: IdentityConfig,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdentityState {
    log: Vec<Record>,
    ledger: Rows,
    /// The replica, which a failover promotes.
    copy: Rows,
    operators: Vec<Operator>,
    /// Ids drawn so far.
    drawn: u32,
    /// The epoch of the index of each sale.
    indexes: BTreeMap<SaleId, Epoch>,
    promised: BTreeSet<OrderId>,
    losses: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Rows {
    position: usize,
    sales: BTreeMap<SaleId, Row>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Row {
    identified: bool,
    cut: SaleCut,
    total: u64,
    /// Another sale can have its name.
    renamed: bool,
    orders: BTreeMap<OrderId, FoldedOrder>,
}

/// What an operator is about to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Operator {
    Idle,
    /// The name was not found, and then this end was sampled.
    Absent {
        end: Offset,
    },
    /// The ledger has read to the end, and the name was not there.
    Inserts,
    /// It found the row of a sale without an index.
    Begins {
        sale: SaleId,
    },
    /// Its IDENTITY is at this offset.
    Identified {
        sale: SaleId,
        offset: Offset,
    },
    /// It is about to append the barrier.
    Checked {
        sale: SaleId,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityAction {
    Observe { operator: usize },
    Insert { operator: usize },
    AppendIdentity { operator: usize },
    CheckLog { operator: usize },
    AppendBarrier { operator: usize },
    Sell { sale: SaleId },
    Close { sale: SaleId },
    FreeName { sale: SaleId },
    Store,
    Replicates,
    FailsOver,
}

fn identity(sale: SaleId) -> Identity {
    Identity {
        sale,
        format: Format::FIRST,
        class: "default".into(),
        namespace: "shop".into(),
        name: "phone".into(),
        cluster: None,
        uid: String::new(),
        item: Default::default(),
        item_id: None,
        issuer: None,
        tiers: None,
        price: "1.00".into(),
        currency: "EUR".into(),
        offered: 1,
        starts_at: 0,
        ends_at: 1,
    }
}

fn barrier(sale: SaleId) -> Record {
    Record::Barrier {
        sale,
        nonce: String::new(),
    }
}

fn batch(sale: SaleId, epoch: Epoch) -> Batch {
    let order = Order {
        buyer: buyer_of(0),
        quantity: 1,
        tier: 0,
        key: KeyHash(1),
    };
    Batch {
        sale,
        epoch,
        first: 1,
        orders: vec![order],
    }
}

impl Model for Identities {
    type State = IdentityState;
    type Action = IdentityAction;

    fn init_states(&self) -> Vec<IdentityState> {
        let mut state = IdentityState {
            log: Vec::new(),
            ledger: Rows::default(),
            copy: Rows::default(),
            operators: vec![Operator::Idle; self.config.operators],
            drawn: 0,
            indexes: BTreeMap::new(),
            promised: BTreeSet::new(),
            losses: 0,
        };
        if self.config.without_identity {
            let sale = state.draw();
            state.ledger.sales.insert(sale, Row::default());
            state.begin(sale);
            state.sell(sale);
        }
        vec![state]
    }

    fn actions(&self, state: &IdentityState, actions: &mut Vec<IdentityAction>) {
        let room = state.log.len() < self.config.log;
        for (operator, doing) in state.operators.iter().enumerate() {
            match doing {
                Operator::Idle | Operator::Absent { .. } => actions.push(IdentityAction::Observe { operator }),
                Operator::Inserts => actions.push(IdentityAction::Insert { operator }),
                Operator::Begins { .. } if room => actions.push(IdentityAction::AppendIdentity { operator }),
                Operator::Identified { .. } => actions.push(IdentityAction::CheckLog { operator }),
                Operator::Checked { .. } if room => actions.push(IdentityAction::AppendBarrier { operator }),
                Operator::Begins { .. } | Operator::Checked { .. } => {}
            }
        }
        let unsold = |sale: &&SaleId| !state.promised.iter().any(|order| order.sale == **sale);
        if room {
            let sales = state.indexes.keys().filter(unsold).copied();
            actions.extend(sales.map(|sale| IdentityAction::Sell { sale }));
        }
        if self.config.ends {
            let rows = state.ledger.sales.iter().filter(|(_, row)| !row.renamed);
            for (sale, row) in rows {
                if room && row.cut.closed.is_none() && !state.log.contains(&Record::Close { sale: *sale }) {
                    actions.push(IdentityAction::Close { sale: *sale });
                }
                if self.frees_name(row) {
                    actions.push(IdentityAction::FreeName { sale: *sale });
                }
            }
        }
        if state.ledger.position < state.log.len() {
            actions.push(IdentityAction::Store);
        }
        if state.losses < self.config.losses && state.ledger != state.copy {
            actions.extend([IdentityAction::Replicates, IdentityAction::FailsOver]);
        }
    }

    fn next_state(&self, last: &IdentityState, action: IdentityAction) -> Option<IdentityState> {
        let mut state = last.clone();
        match action {
            IdentityAction::Observe { operator } => state.operators[operator] = self.observe(last, operator),
            IdentityAction::Insert { operator } => {
                // The name is unique in the table.
                if state.ledger.named().is_none() {
                    let sale = state.draw();
                    state.ledger.sales.insert(sale, Row::default());
                }
                state.operators[operator] = Operator::Idle;
            }
            IdentityAction::AppendIdentity { operator } => {
                state.operators[operator] = self.append_identity(&mut state, operator)?
            }
            IdentityAction::CheckLog { operator } => state.operators[operator] = self.check_log(last, operator)?,
            IdentityAction::AppendBarrier { operator } => {
                let Operator::Checked { sale } = state.operators[operator] else {
                    return None;
                };
                state.begin(sale);
                state.operators[operator] = Operator::Idle;
            }
            IdentityAction::Sell { sale } => state.sell(sale),
            IdentityAction::Close { sale } => {
                let is_identified = state.ledger.sales.get(&sale)?.identified;
                if !is_identified && !self.breaks(IdentityRule::IdentityBeforeClose) {
                    state.log.push(Record::Identity(Box::new(identity(sale))));
                }
                state.log.push(Record::Close { sale });
            }
            IdentityAction::FreeName { sale } if self.breaks(IdentityRule::FreedRowStays) => {
                state.ledger.sales.remove(&sale);
            }
            IdentityAction::FreeName { sale } => state.ledger.sales.get_mut(&sale)?.renamed = true,
            IdentityAction::Store => state.ledger = self.stored(&last.ledger, &last.log).ok()?,
            IdentityAction::Replicates => state.copy = state.ledger.clone(),
            IdentityAction::FailsOver => {
                state.ledger = state.copy.clone();
                state.losses += 1;
            }
        }
        state.operators.sort();
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(ONE_SALE, |_, state: &IdentityState| {
                let sales: BTreeSet<SaleId> = state.promised.iter().map(|order| order.sale).collect();
                sales.len() <= 1
            }),
            Property::sometimes(
                "the replica lacks the row of a sale that sold",
                |_, state: &IdentityState| {
                    state.losses > 0
                        && state
                            .promised
                            .iter()
                            .any(|order| !state.ledger.sales.contains_key(&order.sale))
                },
            ),
        ];
        if self.config.ends {
            properties.push(Property::sometimes(
                "a sale sells under a name that was freed",
                |_, state: &IdentityState| {
                    let freed = state.ledger.sales.values().any(|row| row.renamed);
                    freed && !state.promised.is_empty()
                },
            ));
        }
        // Two operators at once, or a sale without IDENTITY, may leave a partition that waits for a person.
        if self.config.operators == 1 && !self.config.without_identity {
            properties.push(Property::always(PROMISE, |model: &Self, state: &IdentityState| {
                let rows = model.replayed(&state.ledger, &state.log);
                let stored = |order: &OrderId| {
                    rows.sales
                        .get(&order.sale)
                        .is_some_and(|row| row.orders.contains_key(order))
                };
                state.promised.iter().all(stored)
            }));
            properties.push(Property::sometimes(
                "a lost row comes back with its order",
                |_, state: &IdentityState| {
                    state.losses > 0
                        && state
                            .ledger
                            .sales
                            .values()
                            .any(|row| row.identified && !row.orders.is_empty())
                },
            ));
        }
        properties
    }
}

impl Identities {
    fn breaks(&self, rule: IdentityRule) -> bool {
        self.config.broken == Some(rule)
    }

    fn observe(&self, state: &IdentityState, operator: usize) -> Operator {
        let ledger = &state.ledger;
        match (ledger.named(), &state.operators[operator]) {
            (Some((_, row)), _) if row.cut.closed.is_some() => Operator::Idle,
            (Some((sale, _)), _) if state.indexes.contains_key(sale) => Operator::Idle,
            (Some((sale, row)), _) if row.identified => Operator::Checked { sale: *sale },
            (Some((sale, _)), _) => Operator::Begins { sale: *sale },
            (None, Operator::Absent { end }) => {
                let behind = behind(&[*end], &[(PARTITION, ledger.position as Offset)]);
                match behind.is_empty() || self.breaks(IdentityRule::InsertAfterCatchingUp) {
                    true => Operator::Inserts,
                    false => Operator::Absent { end: *end },
                }
            }
            (None, _) => Operator::Absent {
                end: state.log.len() as Offset,
            },
        }
    }

    fn append_identity(&self, state: &mut IdentityState, operator: usize) -> Option<Operator> {
        let Operator::Begins { sale } = state.operators[operator] else {
            return None;
        };
        if !state.ledger.sales.contains_key(&sale) {
            return Some(Operator::Idle);
        }
        if self.breaks(IdentityRule::IdentityBeforeBarrier) {
            return Some(Operator::Checked { sale });
        }
        let offset = state.log.len() as Offset;
        state.log.push(Record::Identity(Box::new(identity(sale))));
        Some(Operator::Identified { sale, offset })
    }

    /// Reads what the ledger has not read, up to the operator's own IDENTITY.
    fn check_log(&self, state: &IdentityState, operator: usize) -> Option<Operator> {
        let Operator::Identified { sale, offset } = state.operators[operator] else {
            return None;
        };
        let own = identity(sale);
        let unread = state.log.iter().take(offset as usize + 1).skip(state.ledger.position);
        let other = unread.filter_map(|record| other_of_name(&own, record)).next();
        let refused = other.is_some() && !self.breaks(IdentityRule::OtherSaleOfNameRefuses);
        Some(if refused {
            Operator::Idle
        } else {
            Operator::Checked { sale }
        })
    }

    /// One transaction of the worker, of one record.
    fn stored(&self, rows: &Rows, log: &[Record]) -> Result<Rows, Stop> {
        let (mut rows, offset, record) = (rows.clone(), rows.position as Offset, &log[rows.position]);
        rows.position += 1;
        let sale = record.sale();
        let named = match record {
            Record::Identity(_) => rows.named().map(|(sale, row)| self.known(*sale, row)),
            _ => None,
        };
        let known = rows.sales.get(&sale).map(|row| self.known(sale, row));
        match admission(record, known, named) {
            Admission::Known => {}
            Admission::Replace(_, ended) if self.breaks(IdentityRule::IdentityTakesFreedName) => {
                return Err(Stop::NameTaken {
                    new: sale,
                    known: ended,
                });
            }
            Admission::Replace(_, ended) => {
                if let Some(row) = rows.sales.get_mut(&ended) {
                    row.renamed = true;
                }
                rows.sales.insert(sale, Row::default());
            }
            Admission::Insert(_) if self.breaks(IdentityRule::IdentityInserts) => return Ok(rows),
            Admission::Insert(_) => _ = rows.sales.insert(sale, Row::default()),
            Admission::Stop(Stop::UnknownSale(_)) if self.breaks(IdentityRule::UnknownSaleStops) => return Ok(rows),
            Admission::Stop(stop) => return Err(stop),
        }
        if let Some(row) = rows.sales.get_mut(&sale) {
            let mut fold = Fold::starting_from(sale, row.cut, row.total, row.orders.clone());
            fold.read(offset, record);
            row.cut = fold.cut();
            row.total = fold.total();
            row.orders = fold.orders().iter().map(|(id, order)| (*id, order.clone())).collect();
            row.identified |= matches!(record, Record::Identity(_));
        }
        Ok(rows)
    }

    fn frees_name(&self, row: &Row) -> bool {
        let is_ended = row.cut.closed.is_some() && self.breaks(IdentityRule::OnlyUnofferedFreesName);
        is_ended || has_freed_name(row.cut, row.total)
    }

    fn known(&self, sale: SaleId, row: &Row) -> KnownSale {
        KnownSale {
            sale,
            has_freed_name: self.frees_name(row),
        }
    }

    /// The rows after the worker has read all that it can.
    fn replayed(&self, rows: &Rows, log: &[Record]) -> Rows {
        let mut rows = rows.clone();
        while rows.position < log.len() {
            match self.stored(&rows, log) {
                Ok(next) => rows = next,
                Err(_) => break,
            }
        }
        rows
    }
}

impl Rows {
    /// The sale that has the name.
    fn named(&self) -> Option<(&SaleId, &Row)> {
        self.sales.iter().find(|(_, row)| !row.renamed)
    }
}

impl IdentityState {
    fn draw(&mut self) -> SaleId {
        self.drawn += 1;
        SaleId(self.drawn)
    }

    /// Appends the total and a barrier, and installs an index if the ledger still has the row.
    fn begin(&mut self, sale: SaleId) {
        self.log.push(Record::Total { sale, total: 1 });
        let epoch = Epoch(self.log.len() as Offset);
        self.log.push(barrier(sale));
        if self.ledger.sales.contains_key(&sale) {
            self.indexes.insert(sale, epoch);
        }
    }

    /// A buyer buys, and gets the number once the record was read back as accepted.
    fn sell(&mut self, sale: SaleId) {
        if let Some(epoch) = self.indexes.get(&sale) {
            let batch = batch(sale, *epoch);
            if !self.log.contains(&Record::Close { sale }) {
                self.promised.extend(batch.iter().map(|(id, _)| id));
            }
            self.log.push(Record::Batch(batch));
        }
    }
}
