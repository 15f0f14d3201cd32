//! From the first entry in the ledger to the end of the sale.
use std::time::Duration;

use seckill_protocol::Epoch;
use seckill_protocol::index::{IndexState, Millis, SaleState};
use seckill_protocol::sale::{Sale, first_opens_at};

use super::ending;
use super::index_need::exchange_step;
use super::report::{accepted, progress};
use super::step::{PROBE_INTERVAL_UNKNOWN, Plan, RebuildCause, SaleVersion, Step};
use crate::balance::BalanceCheck;
use crate::condition::{Condition, ConditionStatus, ConditionType, Phase, Progress, Reason};
use crate::demand::{Shortage, Workloads};
use crate::observation::{Observation, ObservedIndex};
use crate::preflight::Preflight;
use crate::sale::{DesiredSale, SaleKey};

/// How often the index of a sale that sells, or soon will, is probed.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// The same if a change causes a reconcile anyway, and nothing is to come: the preflight and the pods are looked at then.
const WATCHED_INTERVAL: Duration = Duration::from_secs(10);
/// The longest time without a reconcile, in case the clock is set.
const RECONCILE_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// The same for a sale that shows an emergency stop: its end is nothing that a watch reports.
const RECONCILE_INTERVAL_STOPPED: Duration = Duration::from_secs(5);

pub(super) fn plan(observed: &Observation, desired: &DesiredSale, sale: &Sale) -> Plan {
    let now = observed.now();
    if observed.clocks.have_reached(desired.ends_at) {
        return ending::begin(sale, now);
    }
    if sale.missing_since_ms.is_some() {
        return Plan::without_report(Step::ForgetDeletion { sale: sale.id });
    }
    let preflight = observed.preflight();
    let held = is_held(preflight.as_ref(), desired, sale, &observed.index, now);
    let held_by_clocks = is_held_by_clocks(observed, desired, sale);
    if let Some(step) = ledger_step(desired, sale, held || held_by_clocks) {
        return Plan::without_report(step);
    }
    let preflight = preflight_condition(preflight);
    if now < desired.preheat_at() && !sale.is_counted() {
        return scheduled(observed, desired, sale, preflight);
    }
    if let Some(step) = index_step(observed, sale) {
        return Plan::without_report(step);
    }
    if sale.live_epoch.is_some() && observed.is_index_unknown_for_a_moment() {
        return Plan::waiting_for_redis();
    }
    let (step, stock) = stock(observed, sale);
    let pods = pods(&observed.workloads, sale);
    let first_opens = sale.first_opens_at();
    let opened = now >= first_opens;
    let shown = shown(observed, desired, sale, held, [&stock, &pods, &preflight]);
    let working = working(opened, &stock, &pods);
    let most = match opened && is_steady(observed, &shown) {
        true => WATCHED_INTERVAL,
        false => probe_interval(observed),
    };
    Plan::reporting(step, shown.phase, progress(observed, working))
        .with(accepted(Some(desired), sale))
        .with(prepared([&stock, &pods, &preflight]))
        .with(preflight)
        .with(stock)
        .with(pods)
        .with(shown.sellable(opened))
        .with(shown.ready())
        .with(balance(observed.balance, sale))
        .with_condition(
            ConditionType::Settled,
            ConditionStatus::False,
            Reason::Running,
            "the sale has not ended",
        )
        .until(
            &observed.clocks,
            if opened { sale.closes_at } else { first_opens },
            most,
        )
}

/// Whether nothing of the sale will change before a change of its row or its index. A balance that is not complete yet is
/// checked again soon.
fn is_steady(observed: &Observation, shown: &Shown) -> bool {
    let is_complete = shown.ready == ConditionStatus::True;
    observed.is_watched
        && is_complete
        && observed.balance == Some(BalanceCheck::Balanced)
        && !observed.adjustments_pending
}

fn probe_interval(observed: &Observation) -> Duration {
    if observed.index.unavailable().is_some() {
        return PROBE_INTERVAL_UNKNOWN;
    }
    let delay = observed.rebuild_delay.filter(|_| observed.index.in_force().is_none());
    delay.map_or(PROBE_INTERVAL, |delay| delay.left.min(PROBE_INTERVAL))
}

/// What the ledger has to learn from the FlashSale.
fn ledger_step(desired: &DesiredSale, sale: &Sale, held: bool) -> Option<Step> {
    let counted = sale.is_counted();
    let version = SaleVersion::from(sale);
    let mut terms = desired.terms();
    if counted {
        terms.opens_at = sale.opens_at;
        // Buyers may hold larger orders.
        terms.max_per_order = terms.max_per_order.max(sale.max_per_order);
        // Each order of an anonymous sale has a buyer of its own.
        if sale.issuer.is_none() {
            terms.limit_per_buyer = 0;
        }
        terms.tier_limits = desired.tier_limits_of(sale);
        terms.orders_ever_max = desired.orders_ever_max_of(desired.offer.offered.max(sale.offered));
    }
    if held {
        terms.state = SaleState::Suspended;
    }
    let offer = &desired.offer;
    let other_offer = (&offer.item, &offer.issuer, &offer.tiers) != (&sale.item, &sale.issuer, &sale.tiers);
    if !counted && (other_offer || offer.offered != sale.offered) {
        return Some(Step::UpdateOffer {
            sale: version,
            offer: Box::new(offer.clone()),
            format: desired.format,
        });
    }
    if terms != sale.sale_terms() {
        return Some(Step::UpdateTerms { sale: version, terms });
    }
    // Totals only rise; units are withdrawn by an earlier end. The log may count more than the row offers, if the stock was
    // lowered while the record of a preheating that failed was not read yet.
    let units = offer.offered.max(sale.total);
    (counted && units > sale.offered).then_some(Step::RaiseOffer { sale: version, units })
}

/// What an index in force and the ledger have to learn from each other, and the units that were added.
pub(super) fn index_step(observed: &Observation, sale: &Sale) -> Option<Step> {
    let index = observed.index.in_force()?;
    if let Some(step) = exchange_step(index, sale) {
        return Some(step);
    }
    let raised = index.total < sale.offered && sale.total < sale.offered;
    (raised && !observed.total_appended).then_some(Step::AppendTotal {
        sale: sale.id,
        partition: sale.partition,
        total: sale.offered,
    })
}

fn scheduled(observed: &Observation, desired: &DesiredSale, sale: &Sale, preflight: Condition) -> Plan {
    let most = match preflight.reason {
        Reason::Checking => PROBE_INTERVAL,
        _ if sale.stopped => RECONCILE_INTERVAL_STOPPED,
        _ => RECONCILE_INTERVAL_MAX,
    };
    let message = "preheating and scaling start spec.leadTimeSeconds before spec.startsAt";
    let not_yet = |type_, message: &str| Condition::new(type_, ConditionStatus::False, Reason::NotYetDue, message);
    let shown = match desired.suspended {
        _ if sale.stopped => Shown::stopped(ConditionStatus::True),
        true => Shown::suspended(),
        false => Shown {
            phase: Phase::Scheduled,
            ready: ConditionStatus::True,
            sellable: ConditionStatus::False,
            reason: Reason::Scheduled,
            message: format!("nothing is needed yet; {message}"),
        },
    };
    Plan::reporting(Step::Nothing, shown.phase, progress(observed, Progress::UpToDate))
        .with(accepted(Some(desired), sale))
        .with(not_yet(ConditionType::Prepared, message))
        .with(preflight)
        .with(not_yet(ConditionType::StockPreheated, message))
        .with(not_yet(ConditionType::WorkloadsScaled, message))
        .with(shown.sellable(false))
        .with(shown.ready())
        .with(balance(None, sale))
        .with(not_yet(ConditionType::Settled, "the sale has not started"))
        .until(&observed.clocks, desired.preheat_at(), most)
}

/// The phase of a running sale, and the two conditions that go with it.
struct Shown {
    phase: Phase,
    ready: ConditionStatus,
    sellable: ConditionStatus,
    reason: Reason,
    message: String,
}

impl Shown {
    fn suspended() -> Self {
        Shown {
            phase: Phase::Suspended,
            ready: ConditionStatus::True,
            sellable: ConditionStatus::False,
            reason: Reason::Suspended,
            message: "suspended by spec.suspend or the annotation seckill.dev/suspend".to_owned(),
        }
    }

    /// An emergency stop holds the sale. Its index is kept up to date meanwhile.
    fn stopped(stock: ConditionStatus) -> Self {
        Shown {
            phase: Phase::Suspended,
            ready: stock,
            sellable: ConditionStatus::False,
            reason: Reason::EmergencyStop,
            message:
                "the emergency stop of this release is on, so none of its sales sells; `operator resume --all` ends it"
                    .to_owned(),
        }
    }

    fn ready(&self) -> Condition {
        Condition::new(ConditionType::Ready, self.ready, self.reason, self.message.clone())
    }

    fn sellable(&self, opened: bool) -> Condition {
        let not_yet = !opened && self.phase != Phase::Suspended;
        let (status, reason, message) = match not_yet {
            true => (
                ConditionStatus::False,
                Reason::NotYetDue,
                "buyers can buy from spec.startsAt on",
            ),
            false => (self.sellable, self.reason, self.message.as_str()),
        };
        Condition::new(ConditionType::Sellable, status, reason, message)
    }
}

/// What readers see first of a running sale.
fn shown(
    observed: &Observation,
    desired: &DesiredSale,
    sale: &Sale,
    held: bool,
    [stock, pods, preflight]: [&Condition; 3],
) -> Shown {
    use ConditionStatus::{False, True};
    if sale.stopped {
        return Shown::stopped(stock.status);
    }
    // The index of a suspended sale is built all the same, so that the sale can be resumed.
    if desired.suspended && stock.status == True {
        return Shown::suspended();
    }
    let opened = observed.now() >= sale.first_opens_at();
    let refusal = observed.clocks.refusal_of_redis(sale.first_opens_at(), sale.closes_at);
    let refusal = refusal.or_else(|| refusal_by_clocks(observed, desired, sale));
    let sold_out = observed.index.in_force().is_some_and(|index| index.left == 0);
    let exhausted = observed.index.in_force().is_some_and(IndexState::is_exhausted);
    let (phase, ready, sellable, reason, message) = match stock.status {
        True if !opened && pods.status != True => (
            Phase::Preheating,
            False,
            False,
            Reason::WorkloadsMissing,
            pods.message.clone(),
        ),
        True if held => (
            Phase::Suspended,
            False,
            False,
            Reason::HeldByPreflight,
            format!("held back by spec.preflight=Require: {}", preflight.message),
        ),
        True if !opened && sale.state == SaleState::Suspended => (
            Phase::Ready,
            True,
            False,
            Reason::ReadyToSell,
            "stock and pods are ready; the clock of Redis is ahead, so the index is opened when two clocks have reached \
             spec.startsAt"
                .to_owned(),
        ),
        True if !opened => (
            Phase::Ready,
            True,
            False,
            Reason::ReadyToSell,
            "stock and pods are ready".to_owned(),
        ),
        True if refusal.is_some() => (
            Phase::Suspended,
            False,
            False,
            Reason::ClocksDiffer,
            refusal.unwrap_or_default(),
        ),
        True if exhausted => (
            Phase::Suspended,
            False,
            False,
            Reason::OrdersExhausted,
            format!(
                "the sale has made {} orders, as many as spec.ordersEverMax allows, so it sells nothing; raise \
                 spec.ordersEverMax, after checking who buys and cancels",
                sale.orders_ever_max
            ),
        ),
        True if sold_out => (
            Phase::SoldOut,
            True,
            False,
            Reason::SoldOut,
            "every unit is sold".to_owned(),
        ),
        True if observed.workloads.lacks_api() => (
            Phase::Open,
            False,
            False,
            Reason::WorkloadsMissing,
            "no pod of seckill-api is ready".to_owned(),
        ),
        True => (Phase::Open, True, True, Reason::Selling, "buyers can buy".to_owned()),
        missing => (
            Phase::Preheating,
            missing,
            missing,
            Reason::StockMissing,
            stock.message.clone(),
        ),
    };
    Shown {
        phase,
        ready,
        sellable,
        reason,
        message,
    }
}

/// Stock, pods and preflight, whatever else keeps the sale from selling.
fn prepared([stock, pods, preflight]: [&Condition; 3]) -> Condition {
    let is_missing = |(condition, _): &(&Condition, Reason)| condition.status != ConditionStatus::True;
    let missing = [
        (stock, Reason::StockMissing),
        (pods, Reason::WorkloadsMissing),
        (preflight, preflight.reason),
    ]
    .into_iter()
    .find(is_missing);
    let (status, reason, message) = match missing {
        Some((condition, reason)) => (condition.status, reason, condition.message.as_str()),
        None => (
            ConditionStatus::True,
            Reason::ReadyToSell,
            "stock, pods and preflight are in order",
        ),
    };
    Condition::new(ConditionType::Prepared, status, reason, message)
}

/// What the operator does about a running sale. Missing pods gate the opening, and nothing after it.
fn working(opened: bool, stock: &Condition, pods: &Condition) -> Progress {
    let (reason, message) = match (stock.status, pods.status) {
        (ConditionStatus::True, ConditionStatus::True) => return Progress::UpToDate,
        (ConditionStatus::True, _) if opened => return Progress::UpToDate,
        (ConditionStatus::True, _) => (Reason::WorkloadsMissing, pods.message.clone()),
        _ => (Reason::StockMissing, stock.message.clone()),
    };
    Progress::Working { reason, message }
}

/// Whether a sale that requires its preflight may not sell yet. A sale that has opened is left alone, and as long as
/// nothing is known, nothing changes. A row that was restored from the log is suspended, but the index still sells.
fn is_held(
    preflight: Option<&Preflight>,
    desired: &DesiredSale,
    sale: &Sale,
    index: &ObservedIndex,
    now: Millis,
) -> bool {
    let sells = index
        .in_force()
        .is_some_and(|index| index.terms.state == SaleState::Open);
    let open = sale.state == SaleState::Open || sells;
    let has_opened = sale.is_counted() && open && now >= sale.first_opens_at();
    if !desired.preflight_required || now < desired.preheat_at() || has_opened {
        return false;
    }
    preflight.map_or(sale.state == SaleState::Suspended, |preflight| !preflight.passed())
}

/// Whether the index of a sale that may have one must not open by itself, because the clock of Redis is ahead.
fn is_held_by_clocks(observed: &Observation, desired: &DesiredSale, sale: &Sale) -> bool {
    let due = observed.now() >= desired.preheat_at() || sale.is_counted();
    let (tiers, starts_at) = match sale.is_counted() {
        true => (&sale.tiers, sale.opens_at),
        false => (&desired.offer.tiers, desired.starts_at),
    };
    let held = sale.state == SaleState::Suspended;
    let first_opens = first_opens_at(tiers.as_ref(), starts_at);
    let mut openings = tiers.iter().flat_map(|tiers| tiers.openings(starts_at));
    due && (observed.clocks.hold_opening(first_opens, held)
        || openings.any(|opens_at| observed.clocks.hold_next_opening(opens_at, held)))
}

/// Why a sale that is open for a tier does not sell before its next opening.
fn refusal_by_clocks(observed: &Observation, desired: &DesiredSale, sale: &Sale) -> Option<String> {
    is_held_by_clocks(observed, desired, sale).then(|| {
        "the clock of Redis is ahead, so the index sells nothing until two clocks have reached the next opening of a tier or \
         spec.startsAt: set it right (NTP)"
            .to_owned()
    })
}

fn preflight_condition(preflight: Option<Preflight>) -> Condition {
    let Some(preflight) = preflight else {
        return Condition::new(
            ConditionType::Preflight,
            ConditionStatus::Unknown,
            Reason::Checking,
            "the preflight checks have not finished yet",
        );
    };
    let (status, reason) = match (preflight.problems.is_empty(), preflight.unknown.is_empty()) {
        (false, _) => (ConditionStatus::False, Reason::ProblemsFound),
        (true, false) => (ConditionStatus::Unknown, Reason::NotChecked),
        (true, true) if !preflight.warnings.is_empty() => (ConditionStatus::True, Reason::ClocksDiffer),
        (true, true) => (ConditionStatus::True, Reason::Passed),
    };
    let mut parts = [preflight.problems, preflight.unknown].concat();
    if parts.is_empty() {
        parts.push("no problem was found".to_owned());
    }
    if !preflight.warnings.is_empty() {
        parts.push(format!("warning: {}", preflight.warnings.join("; ")));
    }
    if !preflight.advice.is_empty() {
        parts.push(format!("advice: {}", preflight.advice.join("; ")));
    }
    Condition::new(ConditionType::Preflight, status, reason, parts.join("; "))
}

/// What has to be done about the index of a running sale.
pub(super) fn stock(observed: &Observation, sale: &Sale) -> (Step, Condition) {
    let condition =
        |status, reason, message: String| Condition::new(ConditionType::StockPreheated, status, reason, message);
    if let Some(why) = observed.index.unavailable() {
        let unknown = condition(ConditionStatus::Unknown, Reason::RedisUnavailable, why);
        return (Step::Nothing, unknown);
    }
    let rebuild = |cause: fn(Epoch) -> RebuildCause| Step::Rebuild {
        sale: Box::new(sale.clone()),
        cause: sale.live_epoch.map_or(RebuildCause::Preheat, cause),
    };
    let (step, status, reason, message) = match (&observed.index, observed.rebuild_delay) {
        (ObservedIndex::InForce(index), _) => (
            Step::Nothing,
            ConditionStatus::True,
            Reason::Preheated,
            format!("{} units in epoch {}", index.total, index.epoch),
        ),
        (_, Some(delay)) => (
            Step::Nothing,
            ConditionStatus::False,
            Reason::Preheating,
            delay.message(),
        ),
        (ObservedIndex::Outdated(epoch), None) => (
            rebuild(RebuildCause::Outdated),
            ConditionStatus::False,
            Reason::Preheating,
            format!("a newer epoch than {epoch} has begun without an index; rebuilding the stock index in Redis"),
        ),
        (_, None) => (
            rebuild(RebuildCause::Lost),
            ConditionStatus::False,
            Reason::Preheating,
            "building the stock index in Redis".to_owned(),
        ),
    };
    (step, condition(status, reason, message))
}

/// The balance of a running sale. The message does not change with each unit: the status is not written for that.
fn balance(check: Option<BalanceCheck>, sale: &Sale) -> Condition {
    let (status, reason, message) = match check {
        None => (
            ConditionStatus::Unknown,
            Reason::NothingCounted,
            "the index and the ledger have not been compared yet".to_owned(),
        ),
        Some(BalanceCheck::InFlight(_) | BalanceCheck::Superseded) => (
            ConditionStatus::Unknown,
            Reason::InFlight,
            "units are in flight to the ledger".to_owned(),
        ),
        Some(BalanceCheck::Balanced) => (
            ConditionStatus::True,
            Reason::Balanced,
            "sold, remaining and in-flight units add up to the total".to_owned(),
        ),
        Some(BalanceCheck::Imbalanced(imbalance)) => (
            ConditionStatus::False,
            Reason::Imbalanced,
            format!(
                "of {} units, {} are sold according to the index and {} according to the ledger; the ledger is \
                 authoritative, investigate the difference: `order-worker quarantine list`, the log of order-worker",
                sale.total, imbalance.index, imbalance.ledger
            ),
        ),
    };
    Condition::new(ConditionType::LedgerBalanced, status, reason, message)
}

fn pods(workloads: &Workloads, sale: &Sale) -> Condition {
    let autoscalers = workloads.autoscalers();
    let key = SaleKey::new(&sale.namespace, &sale.name);
    let (status, reason, message) = match workloads.shortage(&key) {
        None if !workloads.are_managed => (
            ConditionStatus::True,
            Reason::NotManaged,
            "the operator does not manage the programs; start seckill-api and order-worker yourself".to_owned(),
        ),
        None if autoscalers.is_empty() => (
            ConditionStatus::True,
            Reason::Scaled,
            "the requested pods are ready".to_owned(),
        ),
        None => (
            ConditionStatus::True,
            Reason::LeftToAutoscaler,
            format!(
                "the requested pods are ready; {} controls the replicas",
                autoscalers.join(", ")
            ),
        ),
        Some(Shortage::Unknown(why)) => (ConditionStatus::Unknown, Reason::ClusterUnknown, why),
        Some(Shortage::Starting(what)) => (ConditionStatus::False, Reason::Scaling, what),
        Some(Shortage::Ceiling(what)) => (ConditionStatus::False, Reason::CeilingReached, what),
        Some(Shortage::Autoscaler(what)) => (ConditionStatus::False, Reason::LeftToAutoscaler, what),
    };
    Condition::new(ConditionType::WorkloadsScaled, status, reason, message)
}
