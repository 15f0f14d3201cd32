//! All that the modelled world remembers between two steps.
use std::collections::BTreeMap;
use std::sync::Arc;

use seckill_protocol::index::{Holdings, Index, SaleState, Server, Terms};
use seckill_protocol::recovery::FoundIndex;
use seckill_protocol::{Batch, Buyer, Epoch, KeyHash, OrderId, PendingAdjustment};

use crate::log::{Log, View};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub log: Log,
    pub mysql: Arc<MySql>,
    /// What is left of it after a failover.
    pub mysql_copy: Arc<MySql>,
    /// The server to which everybody is sent.
    pub redis: Instance,
    /// The primary before, if it is alive and thinks that it is one.
    pub old: Option<Instance>,
    /// What a restart or a failover finds, if not all.
    pub redis_copy: Option<Arc<Data>>,
    /// In order, since they are alike.
    pub coordinators: Vec<Coordinator>,
    /// In order, since they are alike.
    pub apis: Vec<Api>,
    /// What the worker remembers: effects that the index has answered, and whose rows are still there.
    pub worker: Vec<PendingAdjustment>,
    /// Numbers that were told and are not in the log. There are none, unless a rule is broken.
    pub promised: Vec<(OrderId, Buyer, KeyHash)>,
    pub past: Past,
    /// The property that the last step broke.
    pub wrong: Option<&'static str>,
}

/// What has happened, where it can happen only so often.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Past {
    pub redis_losses: u8,
    pub mysql_losses: u8,
    pub wishes: u8,
    /// Somebody has decided to append CLOSE.
    pub closing: bool,
    /// The newest terms that any index was told of, if the ledger never loses them.
    pub told_version: u64,
    /// An API process has seen, at some time, that the ledger had folded CLOSE.
    pub listed_as_closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Current,
    Old,
    /// A replica of the current one: it answers, lags, and takes no writes.
    Replica,
}

/// A Redis server that takes writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Instance {
    /// Its replication id: another one after each start and each promotion.
    pub rid: String,
    pub data: Arc<Data>,
}

/// What a server holds of the sale.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Data {
    pub index: Option<Index>,
    /// `u:<epoch>` of epochs that are not in force.
    pub written: BTreeMap<Epoch, Holdings>,
    /// `l:<epoch>` of the index.
    pub outbox: Vec<Batch>,
}

/// The ledger. Its orders, total and cuts are the fold of the log up to the position.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MySql {
    pub position: usize,
    pub live_epoch: Option<Epoch>,
    pub row: Row,
    pub settled: bool,
    pub owed: Vec<PendingAdjustment>,
}

/// The terms in the sale's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    pub version: u64,
    pub state: SaleState,
}

/// How far a coordinator has come. It may rest before each step, for ever too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Coordinator {
    Idle,
    /// R0 saw the need.
    Barrier {
        row: Row,
    },
    /// R1 has an epoch.
    Fold {
        epoch: Epoch,
        row: Row,
    },
    /// R2 has the fold of so many records.
    Write {
        epoch: Epoch,
        fold: usize,
        row: Row,
    },
    /// R3 has written the holdings.
    Install {
        epoch: Epoch,
        fold: usize,
        row: Row,
    },
    /// R4 has put the index in force.
    ReadTerms {
        epoch: Epoch,
    },
    /// R5 has read the row again.
    Apply {
        epoch: Epoch,
        row: Row,
    },
    /// Only `live_epoch` is missing.
    Publish {
        epoch: Epoch,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Api {
    /// The epoch that it sells under.
    pub epoch: Option<Epoch>,
    /// What it may still publish, and waits for.
    pub pending: Vec<Batch>,
}

impl State {
    /// A server that takes writes.
    pub fn server(&self, side: Side) -> Option<&Instance> {
        match side {
            Side::Current => Some(&self.redis),
            Side::Old => self.old.as_ref(),
            Side::Replica => None,
        }
    }

    pub fn server_mut(&mut self, side: Side) -> Option<&mut Instance> {
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

    /// Gives processes that are alike an order, so that states that differ in their names only are one.
    pub fn canonical(&mut self) {
        self.coordinators.sort();
        self.apis.sort_by(|a, b| {
            let batches = |api: &Api| api.pending.iter().map(order_of).collect::<Vec<_>>();
            a.epoch.cmp(&b.epoch).then_with(|| batches(a).cmp(&batches(b)))
        });
    }
}

/// Batches in the order in which they were sold.
pub fn order_of(batch: &Batch) -> (Epoch, u64, usize) {
    (batch.epoch, batch.first, batch.orders.len())
}

impl Instance {
    pub fn new(rid: u8, data: Arc<Data>) -> Self {
        Instance {
            rid: format!("r{rid}"),
            data,
        }
    }

    /// The server by its own word.
    pub fn server(&self) -> Server {
        Server {
            is_master: true,
            rid: self.rid.clone(),
            now: 1,
        }
    }

    /// The same without the fence: it seems to be the server on which the index was installed.
    pub fn unfenced(&self) -> Server {
        let rid = self.data.index.as_ref().map_or(&self.rid, |index| &index.rid);
        Server {
            rid: rid.clone(),
            ..self.server()
        }
    }

    /// The index, if it was installed in this life of this server.
    pub fn in_force(&self) -> Option<&Index> {
        self.data.index.as_ref().filter(|index| index.rid == self.rid)
    }

    pub fn found(&self) -> Option<FoundIndex<'_>> {
        self.data.index.as_ref().map(|index| FoundIndex {
            epoch: index.epoch,
            rid: &index.rid,
            terms: &index.terms,
        })
    }

    pub fn data_mut(&mut self) -> &mut Data {
        Arc::make_mut(&mut self.data)
    }
}

impl Row {
    pub fn terms(self, limit: u32) -> Terms {
        Terms {
            version: self.version,
            state: self.state,
            opens: 0,
            closes: u64::MAX,
            limit,
        }
    }
}
