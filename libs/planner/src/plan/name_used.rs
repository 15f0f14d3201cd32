//! A FlashSale whose name belongs to a sale that has ended: a sale runs once.
use seckill_protocol::index::SaleState;
use seckill_protocol::sale::Sale;

use super::report::refusal;
use super::step::{Plan, Step};
use super::{ending, settled};
use crate::condition::{Condition, ConditionStatus, ConditionType, Progress, Reason, StatusReport};
use crate::observation::Observation;
use crate::sale::{DesiredSale, Standing};

/// Whether the name belongs to a sale that had ended before this object was created. An object that was created before the
/// end belongs to the sale even if it is not the first one: it replaced one that was deleted.
pub(super) fn is_used(desired: &DesiredSale, sale: &Sale) -> bool {
    let created_after_the_end = desired.created_at / 1000 >= sale.closes_at / 1000;
    desired.uid != sale.uid && sale.state == SaleState::Closed && created_after_the_end
}

/// The sale that has the name continues to its settlement; this object reports only the refusal. A sale that never offered a
/// unit frees its name once it is settled.
pub(super) fn plan(observed: &Observation, sale: &Sale) -> Plan {
    if sale.settled_at_ms.is_some() && sale.has_freed_name() {
        return Plan {
            standing: Standing::AwaitingLedger,
            ..Plan::without_report(Step::FreeName { sale: sale.id })
        };
    }
    let mut plan = match sale.settled_at_ms {
        Some(_) => settled::plan(observed, sale),
        None => ending::plan(observed, sale),
    };
    plan.standing = Standing::Refused;
    plan.report = Some(match may_free_name(sale) {
        true => waiting(&sale.name),
        false => {
            let message = format!(
                "metadata.name: a sale named {} has already ended, and a name is used only once; choose another name",
                sale.name
            );
            refusal(Reason::NameUsed, &message)
        }
    });
    plan
}

/// Whether the sale has offered no unit, as far as the ledger has read the log. What CLOSE says is final.
pub(super) fn may_free_name(sale: &Sale) -> bool {
    sale.total == 0
}

fn waiting(name: &str) -> StatusReport {
    let message = format!(
        "the last sale named {name} is being closed; as it has offered no unit, this one can have its name afterwards"
    );
    let reason = Reason::Closing;
    let condition = |type_, status| Condition::new(type_, status, reason, message.clone());
    StatusReport {
        phase: None,
        keeps_phase: false,
        conditions: vec![
            condition(ConditionType::Accepted, ConditionStatus::Unknown),
            condition(ConditionType::Prepared, ConditionStatus::False),
            condition(ConditionType::Sellable, ConditionStatus::False),
            condition(ConditionType::Ready, ConditionStatus::False),
        ],
        progress: Progress::Blocked { reason, message },
        next_transition_at: None,
    }
}
