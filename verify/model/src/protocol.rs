//! The model: a world of some size, what can happen in each state of it, and what comes of that.
use std::sync::{Arc, OnceLock};

use seckill_protocol::index::SaleState;
use seckill_protocol::install::{Install, install};
use seckill_protocol::{Epoch, OrderId, Record};
use stateright::{Model, Property};

use crate::configuration::Configuration;
use crate::log::{Log, SALE};
use crate::properties;
use crate::state::{Api, Coordinator, Instance, MySql, Past, Row, Side, State};

pub struct Protocol {
    pub rules: Configuration,
    /// A search goes on a little after it has found something wrong; only what it found first counts, since the way
    /// there is a shortest one.
    first_wrong: OnceLock<State>,
    /// Only this property is looked at.
    only: Option<&'static str>,
    start: State,
}

/// A buyer and one of its keys, by their numbers.
pub type Asking = (u8, u8);

/// One atomic step of one process, or a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// An API process runs the purchase script.
    Buy {
        api: usize,
        on: Side,
        requests: Vec<Asking>,
    },
    /// It appends one of the batches that it holds.
    Publish {
        api: usize,
        batch: usize,
    },
    /// It knows what became of the batch, and answers.
    ReadBack {
        api: usize,
        batch: usize,
    },
    ApiCrashes {
        api: usize,
    },
    /// It learns the epoch that the ledger names.
    ApiRefreshes {
        api: usize,
    },
    /// It looks into the ledger whether the sale is over.
    ApiLists,
    /// The relay appends an entry of the outbox.
    Relay {
        on: Side,
        entry: usize,
    },

    Cancel(OrderId),
    Total(u64),
    /// The worker stores what it read, with the effects that it owes.
    Store,
    /// The index is told of an effect.
    StockAdjustment {
        on: Side,
        owed: usize,
    },
    /// The row of an effect that was answered goes.
    Forget {
        owed: usize,
    },
    WorkerCrashes,

    /// R0: a coordinator looks at the sale.
    Look {
        coordinator: usize,
    },
    /// It begins a rebuild that nobody needs.
    Needless {
        coordinator: usize,
    },
    /// R1.
    Barrier {
        coordinator: usize,
    },
    /// R1, with a barrier that it found.
    AdoptBarrier {
        coordinator: usize,
    },
    /// R2.
    Fold {
        coordinator: usize,
    },
    /// R3.
    Write {
        coordinator: usize,
        on: Side,
    },
    /// R4.
    Install {
        coordinator: usize,
        on: Side,
    },
    /// R4, and the answer is lost.
    InstallUnanswered {
        coordinator: usize,
        on: Side,
    },
    /// R5, in three steps.
    ReadTerms {
        coordinator: usize,
    },
    Apply {
        coordinator: usize,
    },
    Publicise {
        coordinator: usize,
    },
    CoordinatorDies {
        coordinator: usize,
    },

    /// The FlashSale changes.
    Wish,
    /// The sale's row follows the FlashSale.
    UpdateTerms,
    /// The index follows the row.
    ApplyTerms,
    /// It is seen that nothing is in flight any more.
    DecideClose,
    Close,
    Settle,

    RedisFlushed,
    RedisRestarts {
        lags: bool,
    },
    RedisFailsOver {
        lags: bool,
    },
    RedisReplicates,
    /// Everybody is sent to the old primary, which never noticed that it was replaced.
    FlipBack,
    MySqlReplicates,
    MySqlFailsOver,
}

impl Protocol {
    pub fn new(rules: Configuration) -> Self {
        let start = start(&rules);
        Protocol {
            rules,
            first_wrong: OnceLock::new(),
            only: None,
            start,
        }
    }

    /// The same world, in which all but this property may break.
    pub fn looking_at(self, property: &'static str) -> Self {
        Protocol {
            only: Some(property),
            ..self
        }
    }

    pub(crate) fn is_first_wrong(&self, state: &State) -> bool {
        self.first_wrong.get_or_init(|| state.clone()) == state
    }
}

/// A sale that was just preheated.
fn start(rules: &Configuration) -> State {
    let total = Record::Total {
        sale: SALE,
        total: rules.total,
    };
    let log = Log::empty().append(total, rules).append(barrier(), rules);
    let epoch = Epoch(1);
    let row = Row {
        version: 1,
        state: SaleState::Open,
    };
    let mut redis = Instance::new(0, Arc::default());
    let what = Install {
        epoch,
        total: rules.total,
        left: rules.total,
        holders: 0,
        terms: row.terms(rules.limit),
    };
    let index = install(None, &redis.server(), SALE, &what, Default::default());
    redis.data_mut().index = index.ok();
    let mysql = Arc::new(MySql {
        position: 2,
        live_epoch: Some(epoch),
        row,
        settled: false,
        owed: Vec::new(),
    });
    let api = Api {
        epoch: Some(epoch),
        pending: Vec::new(),
    };
    State {
        log,
        mysql_copy: mysql.clone(),
        mysql,
        old: None,
        redis_copy: rules.redis_lags.then(|| redis.data.clone()),
        redis,
        coordinators: vec![Coordinator::Idle; rules.coordinators],
        apis: vec![api; rules.apis],
        worker: Vec::new(),
        promised: Vec::new(),
        past: Past::default(),
        wrong: None,
    }
}

/// The nonce tells barriers apart for their coordinators; here each knows the offset of its own.
pub fn barrier() -> Record {
    Record::Barrier {
        sale: SALE,
        nonce: String::new(),
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start.clone()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.wrong.is_some() {
            return;
        }
        self.purchases(state, actions);
        self.changes(state, actions);
        self.recoveries(state, actions);
        self.ends(state, actions);
        self.faults(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.step(&mut state, action)?;
        state.canonical();
        let looked_at = |wrong: &&'static str| self.only.is_none_or(|only| only == *wrong);
        state.wrong = state.wrong(&self.rules).filter(looked_at);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all(&self.rules)
    }
}

impl Protocol {
    /// Nothing, if the action changes nothing.
    fn step(&self, state: &mut State, action: Action) -> Option<()> {
        use Action::*;
        match action {
            Buy { api, on, requests } => self.buy(state, api, on, &requests),
            Publish { api, batch } => self.publish(state, api, batch),
            ReadBack { api, batch } => self.read_back(state, api, batch),
            ApiCrashes { api } => self.api_crashes(state, api),
            ApiRefreshes { api } => self.api_refreshes(state, api),
            ApiLists => self.api_lists(state),
            Relay { on, entry } => self.relay(state, on, entry),
            Cancel(order) => self.cancel(state, order),
            Total(total) => self.append(state, Record::Total { sale: SALE, total }),
            Store => self.store(state),
            StockAdjustment { on, owed } => self.effect(state, on, owed),
            Forget { owed } => self.forget(state, owed),
            WorkerCrashes => {
                state.worker.clear();
                Some(())
            }
            Look { coordinator } => self.look(state, coordinator),
            Needless { coordinator } => self.needless(state, coordinator),
            Barrier { coordinator } => self.begin_epoch(state, coordinator),
            AdoptBarrier { coordinator } => self.adopt_barrier(state, coordinator),
            Fold { coordinator } => self.fold(state, coordinator),
            Write { coordinator, on } => self.write(state, coordinator, on),
            Install { coordinator, on } => self.install(state, coordinator, on, true),
            InstallUnanswered { coordinator, on } => self.install(state, coordinator, on, false),
            ReadTerms { coordinator } => self.read_terms(state, coordinator),
            Apply { coordinator } => self.apply(state, coordinator),
            Publicise { coordinator } => self.publicise(state, coordinator),
            CoordinatorDies { coordinator } => {
                state.coordinators[coordinator] = Coordinator::Idle;
                Some(())
            }
            Wish => {
                state.past.wishes += 1;
                Some(())
            }
            UpdateTerms => self.update_terms(state),
            ApplyTerms => self.apply_terms(state),
            DecideClose => {
                state.past.closing = true;
                Some(())
            }
            Close => self.close(state),
            Settle => self.settle(state),
            RedisFlushed => self.redis_flushed(state),
            RedisRestarts { lags } => self.redis_restarts(state, lags),
            RedisFailsOver { lags } => self.redis_fails_over(state, lags),
            RedisReplicates => {
                state.redis_copy = Some(state.redis.data.clone());
                Some(())
            }
            FlipBack => self.flip_back(state),
            MySqlReplicates => {
                state.mysql_copy = state.mysql.clone();
                Some(())
            }
            MySqlFailsOver => self.mysql_fails_over(state),
        }
    }

    /// The log takes one more record, if it is not full.
    pub(crate) fn append(&self, state: &mut State, record: Record) -> Option<()> {
        if !self.has_room(state) {
            return None;
        }
        state.log = state.log.append(record, &self.rules);
        Some(())
    }

    pub(crate) fn has_room(&self, state: &State) -> bool {
        state.log.len() < self.rules.log
    }
}
