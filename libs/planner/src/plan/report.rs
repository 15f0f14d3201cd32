//! Builds the status report of a plan: conditions that several phases of a sale share.
use std::time::Duration;

use seckill_protocol::index::{Millis, SaleState};
use seckill_protocol::sale::Sale;

use super::step::{Plan, Step};
use crate::clocks::Clocks;
use crate::condition::{Condition, ConditionStatus, ConditionType, Phase, Reason, StatusReport};
use crate::observation::Observation;
use crate::sale::{DesiredSale, Standing};

impl Plan {
    /// A step after which the sale is observed again at once.
    pub(super) fn without_report(step: Step) -> Self {
        Plan {
            step,
            report: None,
            standing: Standing::Unsettled,
            requeue_after: None,
        }
    }

    pub(super) fn reporting(step: Step, phase: Phase) -> Self {
        let report = StatusReport {
            phase: Some(phase),
            conditions: Vec::new(),
            next_transition_at: None,
        };
        Plan {
            report: Some(report),
            ..Plan::without_report(step)
        }
    }

    pub(super) fn with(mut self, condition: Condition) -> Self {
        if let Some(report) = &mut self.report {
            report.conditions.push(condition);
        }
        self
    }

    pub(super) fn with_condition(
        self,
        type_: ConditionType,
        status: ConditionStatus,
        reason: Reason,
        message: impl Into<String>,
    ) -> Self {
        self.with(Condition::new(type_, status, reason, message))
    }

    /// The conditions of every sale that has ended.
    pub(super) fn with_ended_conditions(self) -> Self {
        let message = "the sale has ended";
        [
            ConditionType::StockPreheated,
            ConditionType::WorkloadsScaled,
            ConditionType::Ready,
        ]
        .into_iter()
        .fold(self, |plan, type_| {
            plan.with_condition(type_, ConditionStatus::False, Reason::Ended, message)
        })
    }

    /// Reconciles again when one of the clocks reaches the next transition, and no later than after `most`.
    pub(super) fn until(mut self, clocks: &Clocks, transition_at: Millis, most: Duration) -> Self {
        if let Some(report) = &mut self.report {
            report.next_transition_at = Some(transition_at);
        }
        // A transition that is due and not made waits for something else.
        let left = clocks.time_until(transition_at);
        self.requeue_after = Some(left.map_or(most, |left| left.min(most)));
        self
    }
}

/// The report of a FlashSale that is not accepted as it is.
pub(super) fn refusal(reason: Reason, message: &str) -> StatusReport {
    let refused = |type_, status| Condition::new(type_, status, reason, message);
    StatusReport {
        phase: None,
        conditions: vec![
            refused(ConditionType::Accepted, ConditionStatus::False),
            refused(ConditionType::Ready, ConditionStatus::False),
            refused(ConditionType::Stalled, ConditionStatus::True),
        ],
        next_transition_at: None,
    }
}

/// Accepted; names the fields of the FlashSale that have no effect.
pub(super) fn accepted(desired: Option<&DesiredSale>, sale: &Sale) -> Condition {
    let ignored = desired
        .filter(|_| sale.is_counted())
        .map(|desired| ignored_fields(desired, sale))
        .unwrap_or_default();
    if let Some(unknown) = desired.and_then(unknown_fields) {
        let message = format!("the sale continues by the fields that this operator knows; {unknown}");
        return Condition::new(
            ConditionType::Accepted,
            ConditionStatus::True,
            Reason::UnknownFields,
            message,
        );
    }
    if ignored.is_empty() {
        return Condition::new(
            ConditionType::Accepted,
            ConditionStatus::True,
            Reason::Accepted,
            "the sale is recorded in the ledger",
        );
    }
    let message = format!(
        "the sale was preheated before this manifest was applied and continues unchanged; these fields have no effect: {}",
        ignored.join(", ")
    );
    Condition::new(ConditionType::Accepted, ConditionStatus::True, Reason::Adopted, message)
}

/// The fields of the FlashSale that this version does not know, and what to do.
pub(super) fn unknown_fields(desired: &DesiredSale) -> Option<String> {
    let fields = &desired.unknown_fields;
    (!fields.is_empty()).then(|| {
        format!(
            "unknown fields: {}; this operator is older than the FlashSale resource: upgrade the release, or remove the fields",
            fields.join(", ")
        )
    })
}

fn ignored_fields(desired: &DesiredSale, sale: &Sale) -> Vec<String> {
    let mut ignored = Vec::new();
    if desired.offer.offered != sale.offered {
        ignored.push(format!("spec.stock ({} units are offered)", sale.offered));
    }
    if desired.max_per_order < sale.max_per_order {
        ignored.push(format!(
            "spec.maxPerOrder (an order can have {} units)",
            sale.max_per_order
        ));
    }
    if desired.offer.item != sale.item {
        ignored.push("spec.item".to_owned());
    }
    if desired.starts_at != sale.opens_at {
        ignored.push("spec.startsAt".to_owned());
    }
    ignored
}

pub(super) fn stalled(observed: &Observation) -> Condition {
    let overdue = observed
        .desired
        .as_ref()
        .filter(|_| {
            observed
                .sale
                .as_ref()
                .is_some_and(|sale| sale.state != SaleState::Closed)
        })
        .and_then(|desired| observed.clocks.close_overdue(desired.ends_at));
    let (status, reason, message) = match (&observed.blocker, overdue, observed.index.unavailable()) {
        (Some(blocker), ..) => (ConditionStatus::True, blocker.reason, blocker.message.clone()),
        (None, Some(overdue), _) => (ConditionStatus::True, Reason::ClocksDiffer, overdue),
        (None, None, Some(why)) => (ConditionStatus::True, Reason::RedisUnavailable, why),
        (None, None, None) => (
            ConditionStatus::False,
            Reason::Progressing,
            "nothing blocks the sale".to_owned(),
        ),
    };
    Condition::new(ConditionType::Stalled, status, reason, message)
}
