//! Everything that is known of a sale at one time. Data only; what could not be read is unknown, never zero.
use std::sync::Arc;

use seckill_protocol::Epoch;
use seckill_protocol::index::{IndexState, Millis, SaleState};
use seckill_protocol::sale::Sale;

use crate::balance::BalanceCheck;
use crate::condition::Blocker;
use crate::demand::Workloads;
use crate::preflight::{self, Preflight, ServerSettings};
use crate::sale::{DesiredSale, SaleKey};

/// The input of [`plan`](crate::plan::plan).
#[derive(Debug, Clone)]
pub struct Observation {
    pub key: SaleKey,
    /// The class of the release.
    pub class: String,
    /// Partitions of the order log.
    pub partitions: u32,
    pub now: Millis,
    /// `None`: the FlashSale is gone, and that is certain.
    pub desired: Option<DesiredSale>,
    /// `None`: the ledger does not know the sale.
    pub sale: Option<Sale>,
    /// Of a FlashSale that the ledger does not know: how far the ledger has read the log since.
    pub absence: Option<Absence>,
    pub index: ObservedIndex,
    pub workloads: Arc<Workloads>,
    /// `None`: the servers were not checked yet.
    pub servers: Option<Arc<ServerSettings>>,
    /// The last balance check of a running sale; `None`: there was none yet.
    pub balance: Option<BalanceCheck>,
    /// The index still has to apply stock adjustments.
    pub adjustments_pending: bool,
    /// This process appended a CLOSE that the ledger has not read yet.
    pub close_appended: bool,
    /// This process appended the TOTAL of the present offer, and the ledger has not read it yet.
    pub total_appended: bool,
    /// Why the last reconciles failed.
    pub blocker: Option<Blocker>,
}

/// The ledger does not know the name of a FlashSale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absence {
    /// When the name was not found, before the ends of the partitions were sampled.
    pub since: Millis,
    /// The partitions that the ledger has not read to these ends.
    pub behind: Vec<u32>,
}

/// The index of the sale in Redis.
#[derive(Debug, Clone, PartialEq)]
pub enum ObservedIndex {
    /// Redis was not asked: it holds nothing of the sale yet, or nothing any more.
    NotAsked,
    /// Redis does not answer, for this reason.
    Unknown(String),
    /// No index is in force: it was never installed, it is lost, or it belongs to another server or an earlier life of it.
    Missing,
    /// An index exists, but a newer epoch has begun: all that it sells is void.
    Outdated(Epoch),
    InForce(IndexState),
}

impl ObservedIndex {
    pub fn in_force(&self) -> Option<&IndexState> {
        match self {
            ObservedIndex::InForce(index) => Some(index),
            _ => None,
        }
    }
}

impl Observation {
    /// The preflight of a sale that has not ended; `None`: nothing was checked yet.
    pub fn preflight(&self) -> Option<Preflight> {
        let (sale, desired) = (self.sale.as_ref()?, self.desired.as_ref()?);
        let servers = self.servers.as_ref().filter(|_| sale.state != SaleState::Closed)?;
        Some(preflight::check(
            servers,
            &self.workloads,
            desired,
            sale.partition,
            self.now,
        ))
    }
}

/// Whether Redis may hold an index of the sale, so that it is worth a probe.
pub fn may_have_index(now: Millis, desired: Option<&DesiredSale>, sale: &Sale) -> bool {
    let due = desired.is_none_or(|desired| now >= desired.preheat_at());
    sale.settled_at_ms.is_none() && (due || sale.live_epoch.is_some() || sale.state == SaleState::Closed)
}
