//! A state of the modelled system.
use std::collections::BTreeMap;
use std::sync::Arc;

use seckill_protocol::index::{Index, Millis, OrderBounds, SaleState, Server, Terms};
use seckill_protocol::install::WrittenHoldings;
use seckill_protocol::rebuild::HoldingCounts;
use seckill_protocol::recovery::FoundIndex;
use seckill_protocol::{Batch, Buyer, Epoch, KeyHash, OrderId, PendingAdjustment};

use crate::configuration::Configuration;
use crate::log::{Log, View};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub log: Log,
    pub mysql: Arc<MySql>,
    /// The replica of MySQL, which a failover promotes.
    pub mysql_copy: Arc<MySql>,
    /// The Redis to which all clients are sent.
    pub redis: RedisServer,
    /// The old primary, if it is alive and still takes writes.
    pub old: Option<RedisServer>,
    /// Older data that a restart or a failover may find.
    pub redis_copy: Option<Arc<RedisData>>,
    /// In order, since they are alike.
    pub coordinators: Vec<Coordinator>,
    /// In order, since they are alike.
    pub apis: Vec<ApiProcess>,
    /// Stock adjustments that the worker has applied and whose rows are still there.
    pub worker_memory: Vec<PendingAdjustment>,
    /// Numbers that were given out and are not in the log. There are none unless a rule is broken.
    pub promised: Vec<(OrderId, Buyer, KeyHash)>,
    pub past: Past,
    /// The property that the last action violated.
    pub violated: Option<&'static str>,
}

/// Counters of what can happen only a number of times, and other history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Past {
    pub redis_losses: u8,
    pub mysql_losses: u8,
    pub changes: u8,
    /// Somebody has decided to append CLOSE.
    pub closing: bool,
    /// The newest terms that were applied to any index, if the ledger never loses them.
    pub applied_version: u64,
    /// An API process has read at some time that the ledger had folded CLOSE.
    pub listed_as_closed: bool,
    /// The ledger's position in the snapshot from which an API process has the keys of all orders.
    pub keys_kept_at: Option<usize>,
    /// The time, if the sale has tiers. All servers of Redis have the same.
    pub now: Millis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Current,
    Old,
    /// A replica of the current primary: it lags, answers, and takes no writes.
    Replica,
}

/// A Redis server that takes writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RedisServer {
    /// The replication id, which changes with each start and each promotion.
    pub rid: String,
    pub data: Arc<RedisData>,
}

/// The data of the sale on a server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct RedisData {
    pub index: Option<Index>,
    /// `u:<epoch>` and `w:<epoch>` of epochs that are not in force.
    pub written: BTreeMap<Epoch, WrittenHoldings>,
    /// `l:<epoch>` of the index.
    pub outbox: Vec<Batch>,
}

/// The ledger. Its orders, total and cuts are the fold of the log up to the position.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MySql {
    pub position: usize,
    pub live_epoch: Option<Epoch>,
    pub row: TermsRow,
    pub settled: bool,
    /// Pending stock adjustments.
    pub adjustments: Vec<PendingAdjustment>,
}

/// The terms in the sale's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TermsRow {
    pub version: u64,
    pub state: SaleState,
}

/// The progress of a coordinator. It may wait before each step, or stop for ever.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Coordinator {
    Idle,
    /// R0 observed the need of a rebuild.
    Barrier {
        row: TermsRow,
    },
    /// R1 has an epoch.
    Fold {
        epoch: Epoch,
        row: TermsRow,
    },
    /// R2 has the log up to so many records. `position` is where its snapshot of the ledger ends, if that has an
    /// influence: not unless a rule is broken.
    Write {
        epoch: Epoch,
        fold: usize,
        position: Option<usize>,
        row: TermsRow,
    },
    /// R3 has written the holdings.
    Install {
        epoch: Epoch,
        fold: usize,
        counts: HoldingCounts,
        row: TermsRow,
    },
    /// R4 has put the index in force.
    ReadTerms {
        epoch: Epoch,
    },
    /// R5 has read the row again.
    Apply {
        epoch: Epoch,
        row: TermsRow,
    },
    /// Only `live_epoch` is missing.
    Publish {
        epoch: Epoch,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ApiProcess {
    /// The epoch in its purchases.
    pub epoch: Option<Epoch>,
    /// Batches that it may still publish, and waits for.
    pub pending: Vec<Batch>,
}

impl State {
    /// A server that takes writes.
    pub fn server(&self, side: Side) -> Option<&RedisServer> {
        match side {
            Side::Current => Some(&self.redis),
            Side::Old => self.old.as_ref(),
            Side::Replica => None,
        }
    }

    pub fn server_mut(&mut self, side: Side) -> Option<&mut RedisServer> {
        match side {
            Side::Current => Some(&mut self.redis),
            Side::Old => self.old.as_mut(),
            Side::Replica => None,
        }
    }

    pub fn sides(&self) -> impl Iterator<Item = Side> + use<> {
        [Side::Current]
            .into_iter()
            .chain(self.old.is_some().then_some(Side::Old))
    }

    /// The ledger's view of the log.
    pub fn ledger(&self) -> &View {
        self.log.up_to(self.mysql.position)
    }

    pub fn mysql_mut(&mut self) -> &mut MySql {
        Arc::make_mut(&mut self.mysql)
    }

    /// Sorts equal processes, so that states that differ only in the names of processes are one state.
    pub fn canonical(&mut self) {
        self.coordinators.sort();
        self.apis.sort_by(|a, b| {
            let batches = |api: &ApiProcess| api.pending.iter().map(order_of).collect::<Vec<_>>();
            a.epoch.cmp(&b.epoch).then_with(|| batches(a).cmp(&batches(b)))
        });
    }
}

/// Batches in the order in which they were sold.
pub fn order_of(batch: &Batch) -> (Epoch, u64, usize) {
    (batch.epoch, batch.first, batch.orders.len())
}

impl RedisServer {
    pub fn new(rid: u8, data: Arc<RedisData>) -> Self {
        RedisServer {
            rid: format!("r{rid}"),
            data,
        }
    }

    /// What the server reports about itself.
    pub fn server(&self) -> Server {
        Server {
            is_master: true,
            rid: self.rid.clone(),
            now: 0,
        }
    }

    /// The same at this time, for a purchase.
    pub fn server_at(&self, now: Millis) -> Server {
        Server { now, ..self.server() }
    }

    /// The same without the fence: the server on which the index was installed.
    pub fn unfenced(&self) -> Server {
        let rid = self.data.index.as_ref().map_or(&self.rid, |index| &index.rid);
        Server {
            rid: rid.clone(),
            ..self.server()
        }
    }

    /// The index, if it was installed since the last start or promotion of this server.
    pub fn in_force(&self) -> Option<&Index> {
        self.data.index.as_ref().filter(|index| index.rid == self.rid)
    }

    pub fn found_index(&self) -> Option<FoundIndex<'_>> {
        self.data.index.as_ref().map(|index| FoundIndex {
            epoch: index.epoch,
            rid: &index.rid,
            terms: &index.terms,
        })
    }

    pub fn data_mut(&mut self) -> &mut RedisData {
        Arc::make_mut(&mut self.data)
    }
}

impl TermsRow {
    pub fn terms(self, config: &Configuration) -> Terms {
        Terms {
            version: self.version,
            state: self.state,
            opens: 0,
            closes: u64::MAX,
            limit: config.limit,
            tiers: config.tier_terms(),
            bounds: OrderBounds {
                orders_ever_max: config.orders_ever_max,
                ..OrderBounds::default()
            },
        }
    }
}
