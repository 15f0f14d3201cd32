//! A FlashSale whose name the ledger does not know: a new sale, or one whose row MySQL lost in a failover. Only the log
//! tells which, so a row is inserted once the ledger has read the log to an end that was sampled after the name was not
//! found. Until then the worker may restore the row from the sale's IDENTITY.
use std::time::Duration;

use seckill_protocol::SaleId;
use seckill_protocol::format::raise;
use seckill_protocol::index::Millis;

use super::report::{progress, refusal, unknown_fields};
use super::step::{Plan, Step};
use crate::condition::{Condition, ConditionStatus, ConditionType, Phase, Progress, Reason};
use crate::observation::Observation;
use crate::sale::{DesiredSale, Standing};

/// The worker usually needs a few milliseconds.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
/// A wait that is shorter is not worth a write of the status.
const REPORT_AFTER: Millis = 1_000;
/// How often a mismatch is checked again, which only a person can end.
const MISMATCH_INTERVAL: Duration = Duration::from_secs(5);
/// How often a sale is tried again that waits for an upgrade.
const REFUSED_INTERVAL: Duration = Duration::from_secs(3);

pub(super) fn plan(observed: &Observation, desired: &DesiredSale) -> Plan {
    match &observed.ledger_absence {
        Some(absence) if absence.behind.is_empty() => match desired.known_id {
            None => {
                // Without Kafka nothing was read of the log.
                let Some(partitions) = observed.partitions else {
                    return waiting(Plan::without_report(Step::Nothing));
                };
                let cluster = &observed.cluster.identity;
                let new = desired.new_sale(&observed.class, cluster, &observed.key, partitions);
                if let Some(unknown) = unknown_fields(desired) {
                    return refused(Reason::UnknownFields, &unknown);
                }
                match raise(absence.required_format, new.format, &absence.running) {
                    Ok(_) => Plan::without_report(Step::Create(Box::new(new))),
                    Err(too_old) => refused(Reason::NewerFormatNeeded, &too_old.to_string()),
                }
            }
            Some(known) => mismatch(format!(
                "status.saleId is {known}, but neither the ledger nor the log has that sale: restore the database and \
                     the topic that it was sold on; if it never sold anything, delete the FlashSale and create it again"
            )),
        },
        Some(absence) if observed.now() >= absence.since.saturating_add(REPORT_AFTER) => {
            reported(observed, desired, &absence.behind)
        }
        Some(_) => waiting(Plan::without_report(Step::Nothing)),
        // Nothing was read that allows a new row.
        None => waiting(Plan::without_report(Step::Nothing)),
    }
}

fn waiting(mut plan: Plan) -> Plan {
    plan.standing = Standing::AwaitingLedger;
    plan.requeue_after = Some(PROBE_INTERVAL);
    plan
}

fn reported(observed: &Observation, desired: &DesiredSale, behind: &[u32]) -> Plan {
    let phase = match observed.now() < desired.preheat_at() {
        true => Phase::Scheduled,
        false => Phase::Preheating,
    };
    let partitions: Vec<String> = behind.iter().map(u32::to_string).collect();
    let message = format!(
        "waiting for order-worker to read the log, which may know a sale of this name; partitions behind: {}; check its \
         pods, their readiness and their log",
        partitions.join(", ")
    );
    let condition = |type_, status| Condition::new(type_, status, Reason::LedgerBehind, message.clone());
    let behind = Progress::Blocked {
        reason: Reason::LedgerBehind,
        message: message.clone(),
    };
    waiting(
        Plan::reporting(Step::Nothing, phase, progress(observed, behind))
            .with(condition(ConditionType::Accepted, ConditionStatus::Unknown))
            .with(condition(ConditionType::Prepared, ConditionStatus::False))
            .with(condition(ConditionType::Sellable, ConditionStatus::False))
            .with(condition(ConditionType::Ready, ConditionStatus::False)),
    )
}

/// The status names another sale than the ledger. That is the only use of the status, and it can only stop.
pub(super) fn other_id(known: SaleId, found: SaleId) -> Plan {
    mismatch(format!(
        "status.saleId is {known}, but the ledger has sale {found} under this name: another database is connected, or \
             the sale was created anew; nothing is changed until someone investigates"
    ))
}

/// Not accepted until the programs are upgraded. It needs no pods until then.
fn refused(reason: Reason, message: &str) -> Plan {
    Plan {
        report: Some(refusal(reason, message)),
        standing: Standing::Refused,
        requeue_after: Some(REFUSED_INTERVAL),
        ..Plan::without_report(Step::Nothing)
    }
}

fn mismatch(message: String) -> Plan {
    Plan {
        report: Some(refusal(Reason::IdentityMismatch, &message)),
        requeue_after: Some(MISMATCH_INTERVAL),
        ..Plan::without_report(Step::Nothing)
    }
}
