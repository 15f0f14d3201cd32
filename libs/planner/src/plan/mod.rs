//! The next step of a sale, and the status report for its readers: a pure function of an observation.
//!
//! A plan has at most one step. After the step the sale is observed again, so a step never relies on what another step
//! changed, and a crash between two steps is nothing special.
//!
//! A sale passes through `running`, `ending` and `settled`; `absent` is a FlashSale whose name the ledger does not know,
//! `orphaned` a running sale without a FlashSale, `name_used` a FlashSale whose name belongs to an earlier sale, and `not_ours`
//! a sale that does not belong to this cluster. `step` has the types of a plan, `report` the parts of a report that several phases share.
mod absent;
mod ending;
mod final_balance;
mod index_need;
mod name_used;
mod not_ours;
mod orphaned;
mod report;
mod running;
mod settled;
mod step;
#[cfg(test)]
pub(crate) mod tests;

use seckill_protocol::index::SaleState;

use crate::observation::Observation;
use crate::ownership::Ownership;

pub use final_balance::{FinalBalance, imbalance};
pub use index_need::index_need;
pub use step::{Plan, RebuildCause, SaleVersion, Step};

/// Decides what to do about a sale.
pub fn plan(observed: &Observation) -> Plan {
    let Some(sale) = &observed.sale else {
        return match &observed.desired {
            Some(desired) => absent::plan(observed, desired),
            None => Plan::without_report(Step::Nothing),
        };
    };
    let ownership = observed.cluster.ownership(sale.cluster.as_deref());
    if ownership != Ownership::Ours {
        return not_ours::plan(observed, sale, ownership);
    }
    if let Some(known) = observed.desired.as_ref().and_then(|desired| desired.known_id)
        && known != sale.id
    {
        return absent::other_id(known, sale.id);
    }
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
    // CLOSE is final. A row that MySQL has lost, or that is older, does not know it.
    if sale.cut.closed.is_some() {
        return ending::begin(sale, observed.now());
    }
    match &observed.desired {
        Some(desired) => running::plan(observed, desired, sale),
        None => orphaned::plan(observed, sale),
    }
}
