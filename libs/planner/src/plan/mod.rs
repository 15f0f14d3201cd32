//! The next step of a sale, and the status report for its readers: a pure function of an observation.
//!
//! A plan has at most one step. After the step the sale is observed again, so a step never relies on what another step
//! changed, and a crash between two steps is nothing special.
//!
//! A sale passes through `running`, `ending` and `settled`; `name_used` is a FlashSale whose name belongs to an
//! earlier sale.
mod ending;
mod name_used;
mod report;
mod running;
mod settled;
#[cfg(test)]
mod tests;

use std::time::Duration;

use seckill_protocol::index::{IndexState, SaleState, Server, Terms};
use seckill_protocol::recovery::{self, Found, Known, Need};
use seckill_protocol::sale::{NewSale, Offer, Sale, SaleTerms};
use seckill_protocol::{Epoch, SaleId};
use strum::IntoStaticStr;

use crate::condition::StatusReport;
use crate::observation::Observation;
use crate::sale::Standing;

pub use ending::FinalBalance;

/// The one thing to do now, with everything that it needs.
#[derive(Debug, Clone, PartialEq, IntoStaticStr)]
pub enum Step {
    Nothing,
    /// Enter the sale into the ledger.
    Create(Box<NewSale>),
    /// Change what is offered; no unit of it is counted yet.
    UpdateOffer {
        sale: SaleVersion,
        offer: Box<Offer>,
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

#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub step: Step,
    /// `None`: the step takes no time worth reporting, and the last report stays.
    pub report: Option<StatusReport>,
    pub standing: Standing,
    /// When to reconcile again if there is no step and nothing changes; `None`: never.
    pub requeue_after: Option<Duration>,
}

/// Decides what to do about a sale.
pub fn plan(observed: &Observation) -> Plan {
    let Some(sale) = &observed.sale else {
        return match &observed.desired {
            Some(desired) => {
                let new = desired.new_sale(&observed.class, &observed.key, observed.partitions);
                Plan::without_report(Step::Create(Box::new(new)))
            }
            None => Plan::without_report(Step::Nothing),
        };
    };
    if let Some(desired) = &observed.desired
        && name_used::is_used(desired, sale)
    {
        return name_used::plan(observed, sale);
    }
    if sale.settled_at_ms.is_some() {
        return settled::plan(observed, sale);
    }
    if sale.state == SaleState::Closed {
        return ending::plan(observed, sale);
    }
    match &observed.desired {
        Some(desired) => running::plan(observed, desired, sale),
        // The FlashSale was deleted in mid-sale: the sale ends now.
        None => ending::begin(sale, observed.now),
    }
}

/// Whether units of the sale are counted: then a FlashSale that is created anew under its name can't change what is sold,
/// and when.
fn is_counted(sale: &Sale) -> bool {
    sale.live_epoch.is_some() || sale.cut.cur.is_some()
}

fn terms_of(sale: &Sale) -> SaleTerms {
    SaleTerms {
        state: sale.state,
        opens_at: sale.opens_at,
        closes_at: sale.closes_at,
        limit_per_buyer: sale.limit_per_buyer,
    }
}

/// What a valid index needs, by the protocol.
pub fn need_of(index: &IndexState, sale: &Sale) -> Need {
    let found = Found {
        epoch: index.epoch,
        rid: &index.rid,
        terms: &index.terms,
    };
    // A valid index was installed on the server where it was found.
    let server = Server {
        is_master: true,
        rid: index.rid.clone(),
        now: 0,
    };
    let known = Known {
        cut: sale.cut,
        live_epoch: sale.live_epoch,
        terms: sale.terms(),
    };
    recovery::needed(Some(found), &server, &known)
}
