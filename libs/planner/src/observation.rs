//! Everything that is known of a sale at one time. Data only; what could not be read is unknown, never zero.
use std::sync::Arc;
use std::time::Duration;

use seckill_protocol::format::Heartbeat;
use seckill_protocol::index::{IndexState, Millis, SaleState};
use seckill_protocol::install::InstallRefused;
use seckill_protocol::sale::Sale;
use seckill_protocol::tiers::GENERAL_NAME;
use seckill_protocol::{Epoch, Format};

use crate::balance::BalanceCheck;
use crate::clocks::Clocks;
use crate::condition::Blocker;
use crate::demand::Workloads;
use crate::orphan::Absence;
use crate::ownership::{Cluster, Ownership};
use crate::preflight::{self, Preflight, ServerSettings};
use crate::rebuild_pacing::RebuildDelay;
use crate::sale::{DesiredSale, SaleKey, tier_rules};

/// The input of [`plan`](crate::plan::plan).
#[derive(Debug, Clone)]
pub struct Observation {
    pub key: SaleKey,
    /// The class of the release.
    pub class: String,
    /// The cluster of this operator.
    pub cluster: Cluster,
    /// Partitions of the order log; `None`: Kafka has not answered yet.
    pub partitions: Option<u32>,
    pub clocks: Clocks,
    /// `None`: there is no FlashSale, as far as the watch shows. [`Self::absence`] has what is known of that.
    pub desired: Option<DesiredSale>,
    pub absence: Absence,
    /// `None`: the ledger does not know the sale.
    pub sale: Option<Sale>,
    /// Of a FlashSale that the ledger does not know: how far the ledger has read the log since.
    pub ledger_absence: Option<LedgerAbsence>,
    pub index: ObservedIndex,
    /// How long the index has been unknown, one reconcile after the other.
    pub index_unknown_for: Duration,
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
    /// The next rebuild has to wait; `None`: it may begin.
    pub rebuild_delay: Option<RebuildDelay>,
    /// A change of the sale or its index causes a reconcile.
    pub is_watched: bool,
}

/// The units of one tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierUnits<'a> {
    pub name: &'a str,
    /// In live orders.
    pub sold: u64,
    /// Kept for its buyers now.
    pub reserved: u64,
}

/// The ledger does not know the name of a FlashSale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerAbsence {
    /// When the name was not found, before the ends of the partitions were sampled.
    pub since: Millis,
    /// The partitions that the ledger has not read to these ends.
    pub behind: Vec<u32>,
    /// The format that the ledger requires.
    pub required_format: Format,
    /// The heartbeats of the programs that run.
    pub running: Vec<Heartbeat>,
}

/// A Redis that does not answer for a shorter time is no news: the last report stands.
const UNKNOWN_REPORTED_AFTER: Duration = Duration::from_secs(5);

/// The index of the sale in Redis.
#[derive(Debug, Clone, PartialEq)]
pub enum ObservedIndex {
    /// Redis was not asked: it holds nothing of the sale yet, or nothing any more.
    NotAsked,
    /// Redis does not answer, for this reason.
    Unknown(String),
    /// The server that answers would take no index, so it is not the one that sells, and a barrier would only stop a sale.
    NoServer(InstallRefused),
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

    /// Why nothing can be known of the index or done about it now; `None`: it is known.
    pub fn unavailable(&self) -> Option<String> {
        match self {
            ObservedIndex::Unknown(why) => Some(format!("Redis does not answer: {why}")),
            ObservedIndex::NoServer(refused) => Some(cannot_install(*refused)),
            ObservedIndex::NotAsked
            | ObservedIndex::Missing
            | ObservedIndex::Outdated(_)
            | ObservedIndex::InForce(_) => None,
        }
    }
}

/// Why the server at the address of Redis takes no index, and what to do.
pub fn cannot_install(refused: InstallRefused) -> String {
    match refused {
        InstallRefused::NotAPrimary => {
            "the address leads to a replica, which can't hold the stock index: point --redis-url to the primary"
        }
        InstallRefused::NoReplicationId => {
            "the server at the address of Redis reports no replication id: --redis-url needs a Redis whose `INFO \
             replication` has master_replid"
        }
        InstallRefused::Newer(_) | InstallRefused::Incomplete { .. } => "Redis refused the index",
    }
    .to_owned()
}

impl Observation {
    /// Whether the index is unknown, and has been for a moment only.
    pub fn is_index_unknown_for_a_moment(&self) -> bool {
        self.index.unavailable().is_some() && self.index_unknown_for < UNKNOWN_REPORTED_AFTER
    }

    /// The time by which plans are made, see [`Clocks::now`].
    pub fn now(&self) -> Millis {
        self.clocks.now()
    }

    /// The sale, if it belongs to the cluster of this operator.
    pub fn own_sale(&self) -> Option<&Sale> {
        let is_ours = |sale: &&Sale| self.cluster.ownership(sale.cluster.as_deref()) == Ownership::Ours;
        self.sale.as_ref().filter(is_ours)
    }

    /// The units of each tier, with general buyers first; `None`: no index is in force. A sale without tiers has none.
    pub fn tier_units(&self) -> Option<impl Iterator<Item = TierUnits<'_>>> {
        let (index, sale) = (self.index.in_force()?, self.own_sale()?);
        let now = self.now();
        let names = tier_rules(&sale.tiers).map(|rule| rule.name.as_str());
        let names = [GENERAL_NAME].into_iter().chain(names);
        let tiers = names.zip(index.terms.tiers.iter().zip(&index.taken));
        Some(tiers.map(move |(name, (terms, taken))| TierUnits {
            name,
            sold: *taken,
            reserved: terms.kept(*taken, now),
        }))
    }

    /// The preflight of a sale that has not ended; `None`: nothing was checked yet.
    pub fn preflight(&self) -> Option<Preflight> {
        let (sale, desired) = (self.own_sale()?, self.desired.as_ref()?);
        let servers = self.servers.as_ref().filter(|_| sale.state != SaleState::Closed)?;
        Some(preflight::check(
            servers,
            &self.workloads,
            desired,
            sale.partition,
            self.now(),
        ))
    }
}

/// Whether Redis may hold an index of the sale, so that it is worth a probe.
pub fn may_have_index(now: Millis, desired: Option<&DesiredSale>, sale: &Sale) -> bool {
    let due = desired.is_none_or(|desired| now >= desired.preheat_at());
    sale.freed_at_ms.is_none() && (due || sale.live_epoch.is_some() || sale.state == SaleState::Closed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::sale;
    use crate::sale::tests::{LEAD, START, desired};

    #[test]
    fn redis_is_probed_from_the_lead_time_until_it_was_freed() {
        let desired = desired();
        let may = |now, sale: &Sale| may_have_index(now, Some(&desired), sale);
        let early = START - LEAD - 1;
        assert!(!may(early, &sale()));
        assert!(may(START - LEAD, &sale()));
        // Without its FlashSale nobody knows the lead time.
        assert!(may_have_index(early, None, &sale()));
        let (mut live, mut closed) = (sale(), sale());
        live.live_epoch = Some(Epoch(4));
        closed.state = SaleState::Closed;
        for mut sale in [live, closed] {
            assert!(may(early, &sale));
            sale.freed_at_ms = Some(1);
            assert!(!may(early, &sale));
            assert!(!may(START, &sale));
        }
    }
}
