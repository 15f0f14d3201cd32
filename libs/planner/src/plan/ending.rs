//! From the end of a sale to its settlement: refuse, drain, CLOSE, compare.
use std::time::Duration;

use seckill_protocol::index::{Millis, SaleState};
use seckill_protocol::sale::{Sale, SaleTerms};
use seckill_protocol::settlement::{Settlement, settle};

use super::final_balance::{FinalBalance, closing};
use super::index_need::exchange_step;
use super::report::{accepted, progress};
use super::step::{Plan, SaleVersion, Step};
use crate::condition::{ConditionStatus, ConditionType, Phase, Progress, Reason};
use crate::observation::Observation;

/// People wait for the settlement.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);

/// How long the end of a sale waits for a Redis that does not answer. The index could still be in force if only the
/// connection was lost; a server that restarted or failed over holds none. After that the sale is settled from the log.
const REDIS_WAIT: Duration = Duration::from_secs(30);

/// Ends a sale now. The ledger keeps when it ended, not when it would have.
pub(super) fn begin(sale: &Sale, now: Millis) -> Plan {
    let present = sale.sale_terms();
    Plan::without_report(Step::UpdateTerms {
        sale: SaleVersion::from(sale),
        terms: SaleTerms {
            state: SaleState::Closed,
            closes_at: present.closes_at.min(now),
            ..present
        },
    })
}

pub(super) fn plan(observed: &Observation, sale: &Sale) -> Plan {
    // The index may hold batches that buyers wait for, and its units have to be compared.
    if let Some(why) = observed.index.unavailable()
        && observed.index_unknown_for < REDIS_WAIT
    {
        let message = format!(
            "Redis does not answer, so its units can't be compared with the ledger; without an answer within {} s the sale \
             is settled from the log: {why}",
            REDIS_WAIT.as_secs()
        );
        return waiting(observed, sale, Step::Nothing, Reason::RedisUnavailable, message);
    }
    match sale.cut.closed {
        None => before_close(observed, sale),
        Some(_) => after_close(observed, sale),
    }
}

/// A lost, unreachable or outdated index is not rebuilt for the end: what the log holds before CLOSE counts, and what was not published
/// was promised to nobody.
fn before_close(observed: &Observation, sale: &Sale) -> Plan {
    let index = observed.index.in_force();
    // The index has to know the end, and the worker the index: it empties the outbox of the epoch that the ledger names.
    if let Some(step) = index.and_then(|index| exchange_step(index, sale)) {
        return Plan::without_report(step);
    }
    match index {
        // The worker publishes what was sold before the index knew the end and was not published by its seller.
        Some(index) if index.outbox > 0 => {
            let batches = index.outbox;
            let message = format!("waiting for order-worker to read {batches} more batches of orders from the log");
            waiting(observed, sale, Step::Nothing, Reason::Draining, message)
        }
        _ if observed.close_appended => {
            let message = "waiting for order-worker to read the CLOSE record";
            waiting(observed, sale, Step::Nothing, Reason::Closing, message)
        }
        _ => {
            let step = Step::Close {
                sale: sale.id,
                partition: sale.partition,
            };
            waiting(
                observed,
                sale,
                step,
                Reason::Closing,
                "appending the CLOSE record to the log",
            )
        }
    }
}

fn after_close(observed: &Observation, sale: &Sale) -> Plan {
    let index_left = observed.index.in_force().map(|index| index.left);
    if let Some(left) = index_left
        && settle(&closing(sale, left, observed.adjustments_pending)) == Settlement::Wait
    {
        let message = "waiting for order-worker to apply pending stock adjustments to the index";
        return waiting(observed, sale, Step::Nothing, Reason::Draining, message);
    }
    let step = Step::Settle {
        sale: sale.id,
        balance: FinalBalance::of(sale, index_left),
    };
    waiting(observed, sale, step, Reason::Closing, "accounting for every unit")
}

fn waiting(observed: &Observation, sale: &Sale, step: Step, reason: Reason, message: impl Into<String>) -> Plan {
    let message = message.into();
    let working = Progress::Working {
        reason,
        message: message.clone(),
    };
    let mut plan = Plan::reporting(step, Phase::Ended, progress(observed, working))
        .with(accepted(observed.desired.as_ref(), sale))
        .with_ended_conditions()
        .with_condition(ConditionType::Settled, ConditionStatus::False, reason, message);
    plan.requeue_after = Some(PROBE_INTERVAL);
    plan
}
