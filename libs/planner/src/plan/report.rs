//! Builds the status report of a plan: conditions that several phases of a sale share.
use std::time::Duration;

use seckill_protocol::index::{Millis, SaleState};
use seckill_protocol::sale::Sale;

use super::step::{PROBE_INTERVAL_UNKNOWN, Plan, Step};
use crate::clocks::Clocks;
use crate::condition::{Condition, ConditionStatus, ConditionType, Phase, Progress, Reason, StatusReport};
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

    /// Redis has not answered for a moment. The last report stands.
    pub(super) fn waiting_for_redis() -> Self {
        Plan {
            requeue_after: Some(PROBE_INTERVAL_UNKNOWN),
            ..Plan::without_report(Step::Nothing)
        }
    }

    pub(super) fn reporting(step: Step, phase: Phase, progress: Progress) -> Self {
        let report = StatusReport {
            phase: Some(phase),
            keeps_phase: true,
            conditions: Vec::new(),
            progress,
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

    /// The conditions of every sale that has ended. Nothing is missing for it.
    pub(super) fn with_ended_conditions(self) -> Self {
        use ConditionStatus::{False, True};
        [
            (ConditionType::StockPreheated, False),
            (ConditionType::WorkloadsScaled, False),
            (ConditionType::Prepared, False),
            (ConditionType::Sellable, False),
            (ConditionType::Ready, True),
        ]
        .into_iter()
        .fold(self, |plan, (type_, status)| {
            plan.with_condition(type_, status, Reason::Ended, "the sale has ended")
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
    let message = message.to_owned();
    let progress = match reason {
        // An upgrade that is under way ends it.
        Reason::NewerFormatNeeded | Reason::UnknownFields => Progress::Blocked {
            reason,
            message: message.clone(),
        },
        _ => Progress::Stopped {
            reason,
            message: message.clone(),
        },
    };
    let conditions = [
        ConditionType::Accepted,
        ConditionType::Prepared,
        ConditionType::Sellable,
        ConditionType::Ready,
    ];
    let refused = |type_| Condition::new(type_, ConditionStatus::False, reason, message.clone());
    StatusReport {
        phase: None,
        // With these the sale of that name is another one.
        keeps_phase: !matches!(reason, Reason::NameUsed | Reason::OtherCluster),
        conditions: conditions.into_iter().map(refused).collect(),
        progress,
        next_transition_at: None,
    }
}

/// Accepted; names the fields of the FlashSale that have no effect.
pub(super) fn accepted(desired: Option<&DesiredSale>, sale: &Sale) -> Condition {
    let ignored = desired
        .filter(|_| sale.is_counted() || sale.state == SaleState::Closed)
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
    let since = match sale.state {
        SaleState::Closed => "the sale has ended",
        _ => "the sale was preheated before this manifest was applied and continues unchanged",
    };
    let message = format!("{since}; these fields have no effect: {}", ignored.join(", "));
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
    if desired.offer.issuer != sale.issuer {
        let buyers = match &sale.issuer {
            None => "buyers are anonymous".to_owned(),
            Some(issuer) => format!("buyers need a token of the issuer {issuer}"),
        };
        ignored.push(format!("spec.access ({buyers})"));
    }
    if desired.offer.tiers != sale.tiers {
        ignored.push("spec.tiers and spec.reservedForGeneral, but for limits of tiers with the same name".to_owned());
    }
    if desired.starts_at != sale.opens_at {
        ignored.push("spec.startsAt".to_owned());
    }
    if sale.state == SaleState::Closed && desired.ends_at > sale.closes_at {
        ignored.push("spec.endsAt".to_owned());
    }
    ignored
}

/// What keeps a sale from its next step; `otherwise`, if nothing does.
pub(super) fn progress(observed: &Observation, otherwise: Progress) -> Progress {
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
    match (&observed.blocker, overdue, observed.index.unavailable()) {
        (Some(blocker), ..) => Progress::of(blocker),
        // It is overdue for long already.
        (None, Some(message), _) => Progress::Stopped {
            reason: Reason::ClocksDiffer,
            message,
        },
        (None, None, Some(message)) => Progress::Blocked {
            reason: Reason::RedisUnavailable,
            message,
        },
        (None, None, None) => otherwise,
    }
}
