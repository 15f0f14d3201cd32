//! After the settlement: delete what Redis holds, and report the result.
use seckill_protocol::sale::Sale;

use super::final_balance::FinalBalance;
use super::report::{accepted, stalled};
use super::step::{Plan, Step};
use crate::condition::{Condition, ConditionStatus, ConditionType, Phase, Reason};
use crate::observation::Observation;
use crate::sale::Standing;

pub(super) fn plan(observed: &Observation, sale: &Sale) -> Plan {
    let balance = FinalBalance::of(sale, sale.settled_left);
    let freed = sale.freed_at_ms.is_some();
    let (step, phase, status, reason, message) = match freed {
        true => (
            Step::Nothing,
            Phase::Settled,
            ConditionStatus::True,
            Reason::Settled,
            format!(
                "{} units: {} sold, {} left",
                balance.total,
                balance.sold,
                balance.remaining()
            ),
        ),
        false => (
            Step::Free { sale: sale.id },
            Phase::Ended,
            ConditionStatus::False,
            Reason::Closing,
            "every unit is accounted for; deleting the sale's keys in Redis".to_owned(),
        ),
    };
    let mut plan = Plan::reporting(step, phase)
        .with(accepted(observed.desired.as_ref(), sale))
        .with_ended_conditions()
        .with(balanced(&balance))
        .with_condition(ConditionType::Settled, status, reason, message)
        .with(stalled(observed));
    if freed {
        plan.standing = Standing::Settled;
    }
    plan
}

fn balanced(balance: &FinalBalance) -> Condition {
    let FinalBalance { total, sold, .. } = balance;
    let remaining = balance.remaining();
    let (status, reason, message) = match (balance.index_left, balance.mismatch) {
        (_, Some((_, found))) => (
            ConditionStatus::False,
            Reason::Imbalanced,
            format!(
                "{total} units: {sold} sold according to the ledger, but {found} left in Redis; the ledger is authoritative, \
                 investigate the difference"
            ),
        ),
        (Some(_), None) => (
            ConditionStatus::True,
            Reason::Balanced,
            format!("{total} units: {sold} sold, {remaining} left; the ledger and Redis agree"),
        ),
        (None, None) => (
            ConditionStatus::True,
            Reason::ComparedWithoutIndex,
            format!("{total} units: {sold} sold, {remaining} left; Redis held no index to compare with"),
        ),
    };
    Condition::new(ConditionType::LedgerBalanced, status, reason, message)
}
