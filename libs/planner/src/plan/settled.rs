//! After the settlement: delete what Redis holds, and report the result. A Redis that is gone for good does not hold up the
//! result.
use std::time::Duration;

use seckill_protocol::sale::Sale;

use super::final_balance::FinalBalance;
use super::report::{accepted, progress};
use super::step::{Plan, Step};
use crate::condition::{Condition, ConditionStatus, ConditionType, Phase, Progress, Reason};
use crate::observation::Observation;
use crate::sale::Standing;

/// How often a Redis is asked that does not answer and may hold keys of the sale.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

pub(super) fn plan(observed: &Observation, sale: &Sale) -> Plan {
    let balance = FinalBalance::of(sale, sale.settled_left);
    let freed = sale.freed_at_ms.is_some();
    if !freed && observed.is_index_unknown_for_a_moment() {
        return Plan::waiting_for_redis();
    }
    let unreachable = observed.index.unavailable().is_some();
    let mut result = format!(
        "{} units: {} sold, {} left",
        balance.total,
        balance.sold,
        balance.remaining()
    );
    if !freed && unreachable {
        result.push_str("; its keys in Redis are deleted when Redis answers");
    }
    let (step, phase, status, reason, message) = match freed || unreachable {
        true => (
            Step::Nothing,
            Phase::Settled,
            ConditionStatus::True,
            Reason::Settled,
            result,
        ),
        false => (
            Step::Free { sale: sale.id },
            Phase::Ended,
            ConditionStatus::False,
            Reason::Closing,
            "every unit is accounted for; deleting the sale's keys in Redis".to_owned(),
        ),
    };
    // That the keys of a settled sale are left in Redis keeps nobody waiting.
    let progress = match freed || unreachable {
        true => Progress::UpToDate,
        false => progress(
            observed,
            Progress::Working {
                reason,
                message: message.clone(),
            },
        ),
    };
    let mut plan = Plan::reporting(step, phase, progress)
        .with(accepted(observed.desired.as_ref(), sale))
        .with_ended_conditions()
        .with(balanced(&balance))
        .with_condition(ConditionType::Settled, status, reason, message);
    if freed || unreachable {
        plan.standing = Standing::Settled;
    }
    if !freed && unreachable {
        plan.requeue_after = Some(PROBE_INTERVAL);
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
        (None, None) if *total == 0 => (
            ConditionStatus::True,
            Reason::ComparedWithoutIndex,
            "no unit was offered".to_owned(),
        ),
        (None, None) => (
            ConditionStatus::Unknown,
            Reason::ComparedWithoutIndex,
            format!(
                "{total} units: {sold} sold, {remaining} left according to the log; there was no index to compare with, \
                 because Redis did not answer or had lost it"
            ),
        ),
    };
    Condition::new(ConditionType::LedgerBalanced, status, reason, message)
}
