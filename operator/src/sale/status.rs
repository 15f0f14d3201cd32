//! What the readers of a FlashSale are told: its status, and events.
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation, TestOperation};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client};
use seckill_crds::{FlashSale, FlashSaleStatus, LedgerStatus, TierStatus};
use seckill_planner::condition::Blocker;
use seckill_planner::observation::TierUnits;
use seckill_planner::plan::imbalance;
use seckill_planner::{
    ConditionStatus, ConditionType, Observation, Phase, Plan, Progress, Reason, SaleKey, StatusReport,
};
use seckill_protocol::sale::Sale;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cluster::convert::{self, sale_key, to_time};
use crate::cluster::events::Note;
use crate::context::Context;
use crate::status_queue::Refusal;

/// One field manager for each concern; this one is of the status.
const FIELD_MANAGER: &str = "seckill-operator/status";

/// Has the status written if it changed, figures alone only now and then, and what changed for its reader as events. False:
/// a new leader does not know the pods yet, so what the last one wrote stands, or the figures have to wait for their turn.
pub fn report(context: &Context, object: &FlashSale, observed: &Observation, plan: &Plan) -> bool {
    let Some(report) = &plan.report else { return true };
    if context.observations.workloads.borrow().is_none() {
        return false;
    }
    let old = context.cache.status(object);
    let mut report = report.clone();
    let progress = context.cache.note_progress(&observed.key, &report.progress);
    report.conditions.extend(progress);
    let new = next_status(object.metadata.generation, &old, observed, &report);
    let lead = ready_lead(&new, observed);
    if let Some(seconds) = lead {
        context.metrics.ready_lead(&observed.key, seconds);
    }
    let imbalanced = new
        .conditions
        .iter()
        .any(|c| c.type_ == "LedgerBalanced" && c.status == "False");
    context
        .metrics
        .balance(&observed.key, imbalanced, imbalance(observed).filter(|_| imbalanced));
    if new == old {
        return true;
    }
    let only_figures = FlashSaleStatus {
        ledger: old.ledger.clone(),
        tiers: old.tiers.clone(),
        ..new.clone()
    } == old;
    if only_figures && !context.cache.may_write_figures(&observed.key) {
        return false;
    }
    let mut notes = Vec::new();
    if new.phase != old.phase {
        notes.extend(report.phase.and_then(phase_note));
    }
    if old.ready_at.is_none() {
        notes.extend(lead.and_then(|lead| ready_late(lead, observed)));
    }
    notes.extend(turned_bad(&old, &new));
    context.cache.wrote(object, new.clone());
    context.statuses.push_status(object, new, notes);
    true
}

/// Says why the reconciles of a sale fail. What was known before stands until the sale counts as stalled.
pub fn report_blocker(context: &Context, object: &FlashSale, blocker: &Blocker) {
    let old = context.cache.status(object);
    let progress = context.cache.note_progress(&sale_key(object), &Progress::of(blocker));
    let Some(new) = blocked(&old, object.metadata.generation, &progress, &to_time(context.now())) else {
        return;
    };
    let notes = turned_bad(&old, &new);
    context.cache.wrote(object, new.clone());
    context.statuses.push_status(object, new, notes);
}

/// The status of a sale whose reconciles fail; `None`: it says so already. The same reason in other words, such as an
/// attempt's number, is no news.
fn blocked(
    old: &FlashSaleStatus,
    generation: Option<i64>,
    progress: &[seckill_planner::Condition; 2],
    now: &Time,
) -> Option<FlashSaleStatus> {
    let is_known = |reported: &seckill_planner::Condition| {
        let new = condition(&old.conditions, reported, generation, now);
        let same = |c: &Condition| (&c.type_, &c.status, &c.reason) == (&new.type_, &new.status, &new.reason);
        old.conditions.iter().any(same)
    };
    let [_, stalled] = progress;
    let is_stalled = stalled.status == ConditionStatus::True;
    if progress.iter().all(is_known) && (!is_stalled || old.observed_generation == generation) {
        return None;
    }
    let mut new = old.clone();
    let mut set = |reported: &seckill_planner::Condition| {
        let condition = condition(&old.conditions, reported, generation, now);
        set_condition(&mut new.conditions, condition);
    };
    progress.iter().for_each(&mut set);
    if is_stalled {
        // Nothing was observed for long, so nobody knows what buyers hear.
        for type_ in [ConditionType::Prepared, ConditionType::Sellable, ConditionType::Ready] {
            set(&seckill_planner::Condition::new(
                type_,
                ConditionStatus::Unknown,
                stalled.reason,
                stalled.message.clone(),
            ));
        }
        new.observed_generation = generation;
    }
    Some(new)
}

/// Refuses the FlashSale of this uid, which can't be parsed, for example because a newer version wrote it. It affects no
/// other object, and the rest of its status stays as it is.
pub async fn refuse(context: &Context, key: &SaleKey, uid: &str, refusal: &Refusal) -> Result<(), kube::Error> {
    let resource = ApiResource::erase::<FlashSale>(&());
    let sales: Api<DynamicObject> = Api::namespaced_with(context.cluster.kube.clone(), &key.namespace, &resource);
    let Some(object) = sales.get_opt(&key.name).await? else {
        return Ok(());
    };
    let is_another = object.metadata.uid.as_deref() != Some(uid);
    let is_corrected = object.metadata.generation != refusal.generation;
    if is_another || is_corrected || object.data["spec"]["className"] != context.release.class {
        return Ok(());
    }
    let old = &object.data["status"];
    let new = refused(old, refusal, &to_time(context.now()));
    if new == *old {
        return Ok(());
    }
    tracing::warn!(sale = %key, error = refusal.error, "failed to parse a FlashSale");
    sales
        .patch_status(&key.name, &params(), &replacement(uid, &new))
        .await
        .map(drop)
}

/// The status is kept as it was written, because the operator that wrote it may be newer: the rules of the API server about
/// edits read it.
fn refused(old: &Value, refusal: &Refusal, now: &Time) -> Value {
    let message = format!(
        "the manifest can't be parsed, so nothing is sold by it: {}; correct the field as `kubectl explain fsale.spec` \
         describes it, and apply the manifest again",
        refusal.error
    );
    let old_conditions: Vec<Condition> = serde_json::from_value(old["conditions"].clone()).unwrap_or_default();
    let mut conditions = old_conditions.clone();
    for (type_, status) in [
        (ConditionType::Accepted, ConditionStatus::False),
        (ConditionType::Prepared, ConditionStatus::False),
        (ConditionType::Sellable, ConditionStatus::False),
        (ConditionType::Ready, ConditionStatus::False),
        (ConditionType::Reconciling, ConditionStatus::False),
        (ConditionType::Stalled, ConditionStatus::True),
    ] {
        let refused = seckill_planner::Condition::new(type_, status, Reason::Invalid, message.clone());
        set_condition(
            &mut conditions,
            condition(&old_conditions, &refused, refusal.generation, now),
        );
    }
    let mut new = old.as_object().cloned().unwrap_or_default();
    new.insert("observedGeneration".to_owned(), json!(refusal.generation));
    new.insert("conditions".to_owned(), json!(conditions));
    Value::Object(new)
}

fn set_condition(conditions: &mut Vec<Condition>, new: Condition) {
    conditions.retain(|condition| condition.type_ != new.type_);
    conditions.push(new);
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
}

pub async fn write(kube: &Client, key: &SaleKey, uid: &str, status: &FlashSaleStatus) -> Result<(), kube::Error> {
    let sales: Api<FlashSale> = Api::namespaced(kube.clone(), &key.namespace);
    sales
        .patch_status(&key.name, &params(), &replacement(uid, status))
        .await
        .map(drop)
}

fn params() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

/// The API server carries it out only on the FlashSale with this uid. Another one of the same name was created after a
/// deletion, and has its own status. (A status that is applied would be written to it: the API server ignores the rest of
/// the object.)
fn replacement(uid: &str, status: &impl Serialize) -> Patch<()> {
    Patch::Json(json_patch::Patch(vec![
        PatchOperation::Test(TestOperation {
            path: PointerBuf::from_tokens(["metadata", "uid"]),
            value: json!(uid),
        }),
        PatchOperation::Add(AddOperation {
            path: PointerBuf::from_tokens(["status"]),
            value: json!(status),
        }),
    ]))
}

/// Whether an error of a write means that the FlashSale was deleted, or replaced by another one of the same name.
pub async fn is_gone(kube: &Client, key: &SaleKey, uid: &str, error: &kube::Error) -> bool {
    let kube::Error::Api(answer) = error else { return false };
    if ![404, 422].contains(&answer.code) {
        return false;
    }
    let sales: Api<FlashSale> = Api::namespaced(kube.clone(), &key.namespace);
    match sales.get_metadata_opt(&key.name).await {
        Ok(found) => found.and_then(|found| found.metadata.uid).as_deref() != Some(uid),
        Err(_) => false,
    }
}

/// The status after a reconcile. Nothing of the old status is an input to a decision; it is kept where it says when
/// something was observed for the first time.
fn next_status(
    generation: Option<i64>,
    old: &FlashSaleStatus,
    observed: &Observation,
    report: &StatusReport,
) -> FlashSaleStatus {
    let now = to_time(observed.now());
    let index = observed.index.in_force();
    let sale = observed.own_sale();
    let ready = matches!(report.phase, Some(Phase::Ready | Phase::Open | Phase::SoldOut));
    // From the first record on, item, start and total are what the log says, whatever becomes of this preheating.
    let preheated = index.is_some() || sale.is_some_and(|s| s.is_counted() || s.total > 0);
    let open = matches!(report.phase, Some(Phase::Open | Phase::SoldOut));
    let last_phase = old.phase.filter(|_| report.keeps_phase);
    let first = |before: &Option<Time>, seen: bool| before.clone().or_else(|| seen.then(|| now.clone()));
    FlashSaleStatus {
        observed_generation: generation,
        phase: report.phase.map(convert::phase).or(last_phase),
        // The first id stays: another one is a mismatch, which the status must still show at the next reconcile.
        sale_id: old.sale_id.clone().or_else(|| identified(sale)),
        conditions: conditions(&old.conditions, report, generation, &now),
        epoch: index.map(|i| i.epoch.0).or(old.epoch),
        ledger: ledger_status(observed, report).or_else(|| old.ledger.clone()),
        tiers: tier_statuses(observed).unwrap_or_else(|| old.tiers.clone()),
        preheated_at: first(&old.preheated_at, preheated),
        ready_at: first(&old.ready_at, ready),
        opened_at: first(&old.opened_at, open),
        settled_at: sale
            .and_then(|s| s.settled_at_ms)
            .map(|ms| to_time(u64::try_from(ms).unwrap_or_default()))
            .or_else(|| old.settled_at.clone()),
        next_transition_at: report.next_transition_at.map(to_time),
    }
}

/// The id of a sale whose identity the log holds. Before that, a row that MySQL loses is created anew under another id, and
/// nothing depends on it.
fn identified(sale: Option<&Sale>) -> Option<String> {
    let sale = sale.filter(|sale| sale.identity_at.is_some())?;
    Some(sale.id.to_string())
}

fn ledger_status(observed: &Observation, report: &StatusReport) -> Option<LedgerStatus> {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let sale = observed.own_sale()?;
    if let Some(index) = observed.index.in_force() {
        return Some(LedgerStatus {
            total: number(index.total),
            sold: number(sale.sold),
            remaining: number(index.left),
            in_flight: number(index.total.saturating_sub(index.left).saturating_sub(sale.out())),
        });
    }
    (report.phase == Some(Phase::Settled)).then(|| LedgerStatus {
        total: number(sale.total),
        sold: number(sale.sold),
        remaining: number(sale.total.saturating_sub(sale.sold)),
        in_flight: 0,
    })
}

/// `None`: there is no index in force.
fn tier_statuses(observed: &Observation) -> Option<Vec<TierStatus>> {
    let tiers = observed.tier_units()?;
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let status = |tier: TierUnits| TierStatus {
        name: tier.name.to_owned(),
        sold: number(tier.sold),
        reserved: number(tier.reserved),
    };
    Some(tiers.map(status).collect())
}

/// The reported conditions, and of the old ones those that the report lacks: what was compared at the end stays.
fn conditions(old: &[Condition], report: &StatusReport, generation: Option<i64>, now: &Time) -> Vec<Condition> {
    let reported = report
        .conditions
        .iter()
        .filter(|condition| !is_better_known(old, condition));
    let mut conditions: Vec<Condition> = reported.map(|c| condition(old, c, generation, now)).collect();
    if report.phase.is_some() {
        let missing = |c: &&Condition| !conditions.iter().any(|new| new.type_ == c.type_);
        let kept: Vec<Condition> = old.iter().filter(missing).cloned().collect();
        conditions.extend(kept);
    }
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    conditions
}

fn condition(
    old: &[Condition],
    reported: &seckill_planner::Condition,
    generation: Option<i64>,
    now: &Time,
) -> Condition {
    let (type_, status): (&str, &str) = (reported.type_.into(), reported.status.into());
    let before = old.iter().find(|c| c.type_ == type_ && c.status == status);
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: <&str>::from(reported.reason).to_owned(),
        message: reported.message.clone(),
        observed_generation: generation,
        last_transition_time: before.map_or_else(|| now.clone(), |c| c.last_transition_time.clone()),
    }
}

/// An imbalance that was found is not taken back when there is nothing left to compare with at the end, and what a new
/// leader has not checked yet stays as the last one found it.
fn is_better_known(old: &[Condition], reported: &seckill_planner::Condition) -> bool {
    let imbalanced: &str = Reason::Imbalanced.into();
    old.iter()
        .filter(|c| c.type_ == <&str>::from(reported.type_))
        .any(|c| match reported.reason {
            Reason::ComparedWithoutIndex => c.reason == imbalanced,
            Reason::Checking => true,
            _ => false,
        })
}

/// How many seconds before its start the sale was ready.
fn ready_lead(status: &FlashSaleStatus, observed: &Observation) -> Option<f64> {
    let (ready, starts) = (status.ready_at.as_ref()?, observed.sale.as_ref()?.opens_at);
    Some((starts as f64 - ready.0.as_millisecond() as f64) / 1000.0)
}

/// A warning if a sale was ready late. Preheating starts no earlier than asked for and takes some time, so up to half of the
/// lead time is normal. For a sale that was created later than its lead time, only the time that it had counts.
fn ready_late(lead: f64, observed: &Observation) -> Option<Note> {
    let (desired, sale) = (observed.desired.as_ref()?, observed.sale.as_ref()?);
    let asked = f64::from(desired.lead_time_seconds);
    let available = (sale.opens_at as f64 - sale.created_at_ms as f64) / 1000.0;
    (available > 0.0 && lead < asked.min(available) / 2.0).then(|| {
        let when = if lead < 0.0 { "after" } else { "before" };
        let message = format!("ready {:.0} s {when} the start; the lead time is {asked} s", lead.abs());
        Note::warning("ReadyLate", message)
    })
}

fn phase_note(phase: Phase) -> Option<Note> {
    let (reason, message) = match phase {
        Phase::Ready => ("Ready", "stock and pods are ready; the sale opens at its start time"),
        Phase::Open => ("Opened", "the sale is open"),
        Phase::SoldOut => ("SoldOut", "every unit is sold"),
        Phase::Suspended => ("Suspended", "the sale sells nothing until it is resumed"),
        Phase::Ended => ("Ended", "the sale has ended; the ledger is storing the last orders"),
        Phase::Scheduled | Phase::Preheating | Phase::Settled => return None,
    };
    Some(Note::normal(reason, message))
}

/// A warning for each condition that turned bad.
fn turned_bad(old: &FlashSaleStatus, new: &FlashSaleStatus) -> Vec<Note> {
    let bad = |c: &&Condition| match c.type_.as_str() {
        "Preflight" => c.status == "False" || c.reason == "ClocksDiffer",
        "LedgerBalanced" => c.status == "False",
        "Accepted" => c.status == "False" || c.reason == "UnknownFields",
        "Stalled" => c.status == "True",
        "WorkloadsScaled" => c.status == "False" && (c.reason == "CeilingReached" || c.reason == "LeftToAutoscaler"),
        _ => false,
    };
    let was_bad = |c: &Condition| {
        old.conditions
            .iter()
            .any(|o| o.type_ == c.type_ && o.reason == c.reason)
    };
    let reason = |c: &Condition| match c.type_.as_str() {
        "LedgerBalanced" => "Imbalanced",
        "Accepted" if c.reason == "UnknownFields" => "UnknownFields",
        "Accepted" => "NotAccepted",
        "Stalled" => "Stalled",
        "Preflight" if c.reason == "ClocksDiffer" => "ClocksDiffer",
        "Preflight" => "PreflightFailed",
        _ => "NotScaled",
    };
    let turned = new.conditions.iter().filter(bad).filter(|c| !was_bad(c));
    turned.map(|c| Note::warning(reason(c), c.message.clone())).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use seckill_planner::progress::ProgressHistory;

    use super::*;

    #[test]
    fn a_refusal_keeps_the_rest_of_the_status() {
        let refusal = |error: &str| Refusal {
            error: error.to_owned(),
            generation: Some(2),
        };
        let report = StatusReport {
            phase: Some(Phase::Open),
            conditions: vec![seckill_planner::Condition::new(
                ConditionType::LedgerBalanced,
                ConditionStatus::True,
                Reason::Balanced,
                "",
            )],
            keeps_phase: true,
            progress: Progress::UpToDate,
            next_transition_at: None,
        };
        // A newer operator wrote a phase that this one does not know.
        let old = json!({
            "saleId": "00000001",
            "phase": "Rehearsed",
            "preheatedAt": "2030-01-01T00:00:00Z",
            "conditions": conditions(&[], &report, Some(1), &to_time(0)),
        });
        let first = refused(&old, &refusal("a wrong day"), &to_time(1000));
        for field in ["saleId", "phase", "preheatedAt"] {
            assert_eq!(first[field], old[field], "{field}");
        }
        assert_eq!(first["observedGeneration"], 2);
        let types: Vec<&str> = first["conditions"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|condition| condition["type"].as_str())
            .collect();
        assert_eq!(
            types,
            [
                "Accepted",
                "LedgerBalanced",
                "Prepared",
                "Ready",
                "Reconciling",
                "Sellable",
                "Stalled"
            ]
        );
        // Nothing is written again later.
        assert_eq!(refused(&first, &refusal("a wrong day"), &to_time(9000)), first);
        assert_ne!(refused(&first, &refusal("a wrong hour"), &to_time(9000)), first);
    }

    /// The status, its conditions and the generation of a sale whose ledger is away for this long.
    fn blocked_for(seconds: u64, old: &FlashSaleStatus) -> Option<FlashSaleStatus> {
        let away = Progress::of(&Blocker {
            reason: Reason::LedgerUnavailable,
            message: String::new(),
        });
        let (mut history, begun) = (ProgressHistory::default(), Instant::now());
        history.note(&away, begun);
        let progress = history.note(&away, begun + Duration::from_secs(seconds));
        blocked(old, Some(2), &progress, &to_time(1000))
    }

    #[test]
    fn the_last_view_stands_until_a_sale_is_stalled() {
        let report = StatusReport {
            phase: Some(Phase::Open),
            keeps_phase: true,
            conditions: vec![seckill_planner::Condition::new(
                ConditionType::Ready,
                ConditionStatus::True,
                Reason::Selling,
                "",
            )],
            progress: Progress::UpToDate,
            next_transition_at: None,
        };
        let mut history = ProgressHistory::default();
        let mut report_ = report.clone();
        report_
            .conditions
            .extend(history.note(&report.progress, Instant::now()));
        let old = FlashSaleStatus {
            observed_generation: Some(1),
            conditions: conditions(&[], &report_, Some(1), &to_time(0)),
            ..FlashSaleStatus::default()
        };
        let status = |new: &FlashSaleStatus, type_: &str| {
            let found = new.conditions.iter().find(|c| c.type_ == type_);
            found.expect("there").status.clone()
        };
        assert_eq!(blocked_for(4, &old), None);
        let after_seconds = blocked_for(5, &old).expect("news");
        assert_eq!(status(&after_seconds, "Ready"), "True");
        assert_eq!(status(&after_seconds, "Reconciling"), "True");
        assert_eq!(after_seconds.observed_generation, Some(1));
        assert_eq!(blocked_for(6, &after_seconds), None);
        let after_a_minute = blocked_for(60, &after_seconds).expect("news");
        for (type_, expected) in [
            ("Ready", "Unknown"),
            ("Sellable", "Unknown"),
            ("Reconciling", "False"),
            ("Stalled", "True"),
        ] {
            assert_eq!(status(&after_a_minute, type_), expected, "{type_}");
        }
        assert_eq!(after_a_minute.observed_generation, Some(2));
        assert_eq!(blocked_for(61, &after_a_minute), None);
    }

    fn after(old: Reason, new: Reason) -> String {
        let report = |reason| StatusReport {
            phase: Some(Phase::Open),
            conditions: vec![seckill_planner::Condition::new(
                ConditionType::LedgerBalanced,
                ConditionStatus::True,
                reason,
                "",
            )],
            keeps_phase: true,
            progress: Progress::UpToDate,
            next_transition_at: None,
        };
        let old = conditions(&[], &report(old), None, &to_time(0));
        let new = conditions(&old, &report(new), None, &to_time(1000));
        new.into_iter().map(|condition| condition.reason).collect()
    }

    #[test]
    fn a_known_condition_is_not_replaced_by_an_unchecked_one() {
        assert_eq!(after(Reason::Imbalanced, Reason::ComparedWithoutIndex), "Imbalanced");
        assert_eq!(
            after(Reason::Balanced, Reason::ComparedWithoutIndex),
            "ComparedWithoutIndex"
        );
        assert_eq!(after(Reason::Passed, Reason::Checking), "Passed");
        assert_eq!(after(Reason::Passed, Reason::NotChecked), "NotChecked");
    }
}
