//! What a plan consists of.
use std::time::Duration;

use seckill_protocol::index::{Millis, Terms};
use seckill_protocol::sale::{NewSale, Offer, Sale, SaleTerms};
use seckill_protocol::{Epoch, Format, SaleId};
use strum::IntoStaticStr;

use super::final_balance::FinalBalance;
use crate::condition::StatusReport;
use crate::sale::Standing;

/// How often a Redis is asked that does not answer: once it does, buyers wait for the rebuild.
pub(super) const PROBE_INTERVAL_UNKNOWN: Duration = Duration::from_millis(200);

/// The one thing to do now, with everything that it needs.
#[derive(Debug, Clone, PartialEq, IntoStaticStr)]
pub enum Step {
    Nothing,
    /// Enter the sale into the ledger.
    Create(Box<NewSale>),
    /// Make a sale of no cluster, or of one that is gone for good, a sale of this cluster.
    Claim {
        sale: SaleId,
        from: Option<String>,
        cluster: String,
    },
    /// Keep in the ledger that the FlashSale was deleted, and since when.
    RecordDeletion {
        sale: SaleId,
        at: Millis,
    },
    /// The FlashSale is back, or its deletion does not count.
    ForgetDeletion {
        sale: SaleId,
    },
    /// Change what is offered; no unit of it is counted yet.
    UpdateOffer {
        sale: SaleVersion,
        offer: Box<Offer>,
        /// The format that the sale needs then.
        format: Format,
    },
    /// Change state and window in the ledger; a later step applies them to the index.
    UpdateTerms {
        sale: SaleVersion,
        terms: SaleTerms,
    },
    /// Offer more units than before; a later step appends them to the log.
    RaiseOffer {
        sale: SaleVersion,
        units: u64,
    },
    /// Append the total that the sale offers by now.
    AppendTotal {
        sale: SaleId,
        partition: u32,
        total: u64,
    },
    /// Begin a new epoch and put an index in force: preheating and recovery are the same.
    Rebuild {
        sale: Box<Sale>,
        cause: RebuildCause,
    },
    /// Tell the API which index sells.
    Publish {
        sale: SaleId,
        epoch: Epoch,
    },
    /// Apply the ledger's terms to the index of this epoch.
    ApplyTerms {
        sale: SaleId,
        epoch: Epoch,
        terms: Terms,
    },
    /// Give the terms in the ledger, which has lost its tail, a version that the index accepts.
    Renumber {
        sale: SaleVersion,
        version: u64,
    },
    /// Append the terminal record.
    Close {
        sale: SaleId,
        partition: u32,
    },
    /// Record that every unit is accounted for.
    Settle {
        sale: SaleId,
        balance: FinalBalance,
    },
    /// Let another sale have the name of a sale that never offered a unit.
    FreeName {
        sale: SaleId,
    },
    /// Delete what Redis holds.
    Free {
        sale: SaleId,
    },
}

impl Step {
    /// For logs and metrics.
    pub fn name(&self) -> &'static str {
        self.into()
    }
}

/// A sale in the version that was observed: a change of another version is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaleVersion {
    pub id: SaleId,
    pub version: u64,
}

impl From<&Sale> for SaleVersion {
    fn from(sale: &Sale) -> Self {
        SaleVersion {
            id: sale.id,
            version: sale.version,
        }
    }
}

/// Why an index is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebuildCause {
    /// The sale never had one.
    Preheat,
    /// A barrier newer than this epoch has no index.
    Outdated(Epoch),
    /// Redis lost the index of this epoch.
    Lost(Epoch),
}

/// A step, and the report of what is going on.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub step: Step,
    /// `None`: the step takes no time worth reporting, and the last report stays.
    pub report: Option<StatusReport>,
    pub standing: Standing,
    /// When to reconcile again if there is no step and nothing changes; `None`: never.
    pub requeue_after: Option<Duration>,
}
