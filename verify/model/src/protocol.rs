//! The modelled system: its configuration, its start, and the actions that can happen in it.
use std::sync::{Arc, OnceLock};

use seckill_protocol::index::SaleState;
use seckill_protocol::install::{Install, install};
use seckill_protocol::rebuild::HoldingCounts;
use seckill_protocol::{Epoch, OrderId, Quantity, Record, Tier};

use crate::configuration::Configuration;
use crate::log::{Log, SALE};
use crate::state::{ApiProcess, Coordinator, MySql, Past, RedisServer, Side, State, TermsRow};

pub struct Protocol {
    pub config: Configuration,
    /// A search goes on a little after it has found a violation. Only the first one counts, since its path is a shortest
    /// one.
    first_violation: OnceLock<State>,
    /// Only this property is checked.
    pub(crate) only: Option<&'static str>,
    pub(crate) start: State,
}

/// A buyer and one of its keys, by their numbers.
pub type BuyerKey = (u8, u8);

/// What a buyer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    pub of: BuyerKey,
    /// The tier of the token that the buyer has now.
    pub tier: Tier,
    pub quantity: Quantity,
}

/// One atomic step of one process, or a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// An API process runs the purchase script.
    Buy {
        api: usize,
        on: Side,
        requests: Vec<Wish>,
    },
    /// An API process appends one of its batches.
    Publish {
        api: usize,
        batch: usize,
    },
    /// An API process has read the batch back, and answers.
    ReadBack {
        api: usize,
        batch: usize,
    },
    ApiCrashes {
        api: usize,
    },
    /// An API process reads the live epoch from the ledger.
    ApiRefreshes {
        api: usize,
    },
    /// An API process reads from the ledger whether the sale is closed.
    ApiLists,
    /// An API process reads the keys of all orders from the ledger, and keeps them.
    ApiKeepsKeys,
    /// The relay appends an entry of the outbox.
    Relay {
        on: Side,
        entry: usize,
    },

    Cancel(OrderId),
    Total(u64),
    /// The worker stores what it read, with the pending stock adjustments.
    Store,
    /// The worker applies a stock adjustment to the index.
    Adjust {
        on: Side,
        adjustment: usize,
    },
    /// The worker deletes the row of an applied adjustment.
    ForgetAdjustment {
        adjustment: usize,
    },
    WorkerCrashes,

    /// R0: a coordinator observes the sale.
    Observe {
        coordinator: usize,
    },
    /// A coordinator begins a rebuild that is not needed.
    RebuildNeedlessly {
        coordinator: usize,
    },
    /// R1.
    Barrier {
        coordinator: usize,
    },
    /// R1, with the barrier of another coordinator.
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
    /// R4, and the reply is lost.
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
    PublishEpoch {
        coordinator: usize,
    },
    CoordinatorDies {
        coordinator: usize,
    },

    /// The FlashSale changes.
    ChangeFlashSale,
    /// The row of the sale takes the state of the FlashSale.
    UpdateTerms,
    /// The index takes the terms of the row.
    ApplyTerms,
    /// An operator observes that nothing is in flight any more.
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
    /// All clients are sent back to the old primary, which never noticed that it was replaced.
    FlipBack,
    MySqlReplicates,
    MySqlFailsOver,

    /// The start of the sale, or the release of the reserve.
    ClockAdvances,
}

impl Protocol {
    pub fn new(config: Configuration) -> Self {
        let start = start(&config);
        Protocol {
            config,
            first_violation: OnceLock::new(),
            only: None,
            start,
        }
    }

    /// The same model, in which only this property is checked.
    pub fn checking_only(self, property: &'static str) -> Self {
        Protocol {
            only: Some(property),
            ..self
        }
    }

    pub(crate) fn is_first_violation(&self, state: &State) -> bool {
        self.first_violation.get_or_init(|| state.clone()) == state
    }
}

/// A sale right after preheating.
fn start(config: &Configuration) -> State {
    let total = Record::Total {
        sale: SALE,
        total: config.total,
    };
    let log = Log::empty().append(total, config).append(barrier(), config);
    let epoch = Epoch(1);
    let row = TermsRow {
        version: 1,
        state: SaleState::Open,
    };
    let mut redis = RedisServer::new(0, Arc::default());
    let terms = row.terms(config);
    let new = Install {
        epoch,
        total: config.total,
        left: config.total,
        holders: 0,
        orders: 0,
        taken: HoldingCounts::default().taken(&terms),
        terms,
    };
    let index = install(None, &redis.server(), SALE, &new, Default::default());
    redis.data_mut().index = index.ok();
    let mysql = Arc::new(MySql {
        position: 2,
        live_epoch: Some(epoch),
        row,
        settled: false,
        adjustments: Vec::new(),
    });
    let api = ApiProcess {
        epoch: Some(epoch),
        pending: Vec::new(),
    };
    State {
        log,
        mysql_copy: mysql.clone(),
        mysql,
        old: None,
        redis_copy: config.redis_lags.then(|| redis.data.clone()),
        redis,
        coordinators: vec![Coordinator::Idle; config.coordinators],
        apis: vec![api; config.apis],
        worker_memory: Vec::new(),
        promised: Vec::new(),
        past: Past {
            now: *config.instants().start(),
            ..Past::default()
        },
        violated: None,
    }
}

/// Coordinators recognize their barriers by the nonce. Here each coordinator knows the offset of its barrier instead.
pub fn barrier() -> Record {
    Record::Barrier {
        sale: SALE,
        nonce: String::new(),
    }
}

impl Protocol {
    /// Appends a record, if the log is not full.
    pub(crate) fn append(&self, state: &mut State, record: Record) -> Option<()> {
        if !self.has_room(state) {
            return None;
        }
        state.log = state.log.append(record, &self.config);
        Some(())
    }

    pub(crate) fn has_room(&self, state: &State) -> bool {
        state.log.len() < self.config.log
    }
}
