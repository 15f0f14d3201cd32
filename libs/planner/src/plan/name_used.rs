//! A FlashSale whose name belongs to a sale that has ended: a sale runs once.
use seckill_protocol::index::SaleState;
use seckill_protocol::sale::Sale;

use super::report::refusal;
use super::step::Plan;
use super::{ending, settled};
use crate::condition::Reason;
use crate::observation::Observation;
use crate::sale::{DesiredSale, Standing};

/// Whether the name belongs to a sale that had ended before this object was created. An object that was created before the
/// end belongs to the sale even if it is not the first one: it replaced one that was deleted.
pub(super) fn is_used(desired: &DesiredSale, sale: &Sale) -> bool {
    let created_after_the_end = desired.created_at / 1000 >= sale.closes_at / 1000;
    desired.uid != sale.uid && sale.state == SaleState::Closed && created_after_the_end
}

/// The sale that has the name continues to its settlement; this object reports only the refusal.
pub(super) fn plan(observed: &Observation, sale: &Sale) -> Plan {
    let mut plan = match sale.settled_at_ms {
        Some(_) => settled::plan(observed, sale),
        None => ending::plan(observed, sale),
    };
    let message = format!(
        "metadata.name: a sale named {} has already ended, and a name is used only once; choose another name",
        sale.name
    );
    plan.standing = Standing::Refused;
    plan.report = Some(refusal(Reason::NameUsed, &message));
    plan
}
