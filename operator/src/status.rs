//! What the readers of a FlashSale are told: its status, and events.
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource as _, ResourceExt as _};
use seckill_crds::{FlashSale, FlashSaleStatus, LedgerStatus, Phase};

use crate::facts::{Facts, Millis};
use crate::plan::{Is, Plan, Type};
use crate::run::Operator;

/// One field manager for each concern; this one is of the status.
const FIELD_MANAGER: &str = "seckill-operator/status";
/// Figures that always move are written no more often than this.
const SAMPLE: Duration = Duration::from_secs(2);

/// Something worth an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

pub type Notes = Vec<Note>;

impl Note {
    pub fn normal(reason: &'static str, message: String) -> Self {
        Note {
            warning: false,
            reason,
            message,
        }
    }

    pub fn warning(reason: &'static str, message: String) -> Self {
        Note {
            warning: true,
            reason,
            message,
        }
    }
}

/// The status after a look at the sale. Nothing of the old one is an input to a decision; it is kept where it says when
/// something was seen for the first time.
pub fn status(object: &FlashSale, facts: &Facts, plan: &Plan) -> FlashSaleStatus {
    let old = object.status.clone().unwrap_or_default();
    let now = time(facts.now);
    let index = facts.index.in_force();
    let is = |type_: Type| plan.findings.iter().any(|f| f.type_ == type_ && f.is == Is::True);
    let sale = facts.sale.as_ref();
    let preheated = index.is_some() || sale.is_some_and(|s| s.live_epoch.is_some());
    let open = matches!(plan.phase, Some(Phase::Open | Phase::SoldOut));
    FlashSaleStatus {
        observed_generation: object.metadata.generation,
        phase: plan.phase,
        conditions: conditions(&old.conditions, plan, object.metadata.generation, &now),
        epoch: index.map(|i| i.epoch.0).or(old.epoch),
        ledger: ledger(facts, plan).or(old.ledger),
        preheated_at: old.preheated_at.or(preheated.then(|| now.clone())),
        ready_at: old.ready_at.or(is(Type::Ready).then(|| now.clone())),
        opened_at: old.opened_at.or(open.then(|| now.clone())),
        settled_at: sale
            .and_then(|s| s.settled_at_ms)
            .map(|ms| time(u64::try_from(ms).unwrap_or_default()))
            .or(old.settled_at),
        next_transition_at: plan.next.map(time),
    }
}

fn time(at: Millis) -> Time {
    // Whole seconds: what Kubernetes writes, and what does not change with each look.
    let at = i64::try_from(at / 1000).unwrap_or_default();
    Time(k8s_openapi::jiff::Timestamp::from_second(at).unwrap_or_default())
}

fn ledger(facts: &Facts, plan: &Plan) -> Option<LedgerStatus> {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let sale = facts.sale.as_ref()?;
    if let Some(index) = facts.index.in_force() {
        return Some(LedgerStatus {
            total: number(index.total),
            sold: number(sale.sold),
            remaining: number(index.left),
            in_flight: number(index.total.saturating_sub(index.left).saturating_sub(sale.sold)),
        });
    }
    let over = plan.phase == Some(Phase::Settled);
    over.then(|| LedgerStatus {
        total: number(sale.total),
        sold: number(sale.sold),
        remaining: number(sale.total.saturating_sub(sale.sold)),
        in_flight: 0,
    })
}

/// The plan's findings, and of the old conditions those that it says nothing about: what was compared at the end stays.
fn conditions(old: &[Condition], plan: &Plan, generation: Option<i64>, now: &Time) -> Vec<Condition> {
    let found = plan.findings.iter().map(|finding| {
        let before = old
            .iter()
            .find(|c| c.type_ == finding.type_.as_str() && c.status == finding.is.as_str());
        Condition {
            type_: finding.type_.as_str().to_owned(),
            status: finding.is.as_str().to_owned(),
            reason: finding.reason.as_str().to_owned(),
            message: finding.message.clone(),
            observed_generation: generation,
            last_transition_time: before.map_or_else(|| now.clone(), |c| c.last_transition_time.clone()),
        }
    });
    let mut conditions: Vec<Condition> = found.collect();
    if plan.phase.is_some() {
        let kept = old
            .iter()
            .filter(|c| !plan.findings.iter().any(|f| f.type_.as_str() == c.type_));
        conditions.extend(kept.cloned());
    }
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    conditions
}

impl Operator {
    /// Writes the status if it changed; figures alone only now and then.
    pub async fn write_status(&self, object: &FlashSale, status: FlashSaleStatus) -> Result<(), kube::Error> {
        let old = object.status.clone().unwrap_or_default();
        if status == old {
            return Ok(());
        }
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let only_figures = FlashSaleStatus {
            ledger: old.ledger.clone(),
            ..status.clone()
        } == old;
        let key = format!("{namespace}/{name}");
        if only_figures && !self.memory.may_sample(&key, SAMPLE) {
            return Ok(());
        }
        let patch = serde_json::json!({
            "apiVersion": FlashSale::api_version(&()),
            "kind": FlashSale::kind(&()),
            "status": status,
        });
        let sales: Api<FlashSale> = Api::namespaced(self.kube.clone(), &namespace);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        sales.patch_status(&name, &params, &Patch::Apply(patch)).await?;
        self.memory.sampled(key, Instant::now());
        Ok(())
    }

    /// What changed for the reader, as events. An event that can't be written is no reason to fail.
    pub async fn tell(&self, object: &FlashSale, status: &FlashSaleStatus, facts: &Facts, mut notes: Notes) {
        let old = object.status.clone().unwrap_or_default();
        if let Some(phase) = status.phase.filter(|phase| old.phase != Some(*phase)) {
            notes.extend(phase_note(phase));
        }
        if let (Some(ready), None, Some(wanted)) = (&status.ready_at, &old.ready_at, &facts.wanted) {
            let starts = wanted.starts_at();
            let lead = (starts as f64 - ready.0.as_millisecond() as f64) / 1000.0;
            self.metrics.ready_lead(object, lead);
            if starts > facts.now && lead + 1.0 < f64::from(wanted.spec.lead_time_seconds) / 2.0 {
                let asked = wanted.spec.lead_time_seconds;
                notes.push(Note::warning(
                    "ReadyLate",
                    format!("ready {lead:.0} s before the start; {asked} s were asked for"),
                ));
            }
        }
        for finding in &facts_changed(&old, status) {
            notes.push(finding.clone());
        }
        for note in notes {
            let event = Event {
                type_: if note.warning {
                    EventType::Warning
                } else {
                    EventType::Normal
                },
                reason: note.reason.to_owned(),
                note: Some(note.message),
                action: note.reason.to_owned(),
                secondary: None,
            };
            if let Err(error) = self.recorder.publish(&event, &object.object_ref(&())).await {
                tracing::warn!(%error, reason = note.reason, "an event could not be written");
            }
        }
    }
}

fn phase_note(phase: Phase) -> Option<Note> {
    let (reason, message) = match phase {
        Phase::Ready => ("Ready", "stock and pods are in place; it opens by itself"),
        Phase::Open => ("Opened", "buyers buy"),
        Phase::SoldOut => ("SoldOut", "every unit is sold"),
        Phase::Suspended => ("Suspended", "it sells nothing until it is resumed"),
        Phase::Ended => (
            "Ended",
            "its time is over; the last orders are on their way into the ledger",
        ),
        Phase::Scheduled | Phase::Preheating | Phase::Settled => return None,
    };
    Some(Note::normal(reason, message.to_owned()))
}

/// Conditions that turned bad.
fn facts_changed(old: &FlashSaleStatus, new: &FlashSaleStatus) -> Notes {
    let bad = |c: &&Condition| match c.type_.as_str() {
        "LedgerBalanced" | "Accepted" => c.status == "False",
        "Stalled" => c.status == "True",
        "WorkloadsScaled" => c.reason == "CeilingReached" || c.reason == "LeftToAutoscaler",
        _ => false,
    };
    let was = |c: &Condition| {
        old.conditions
            .iter()
            .any(|o| o.type_ == c.type_ && o.reason == c.reason)
    };
    let reason = |c: &Condition| match c.type_.as_str() {
        "LedgerBalanced" => "Imbalanced",
        "Accepted" => "NotAccepted",
        "Stalled" => "Stalled",
        _ => "NotScaled",
    };
    let turned = new.conditions.iter().filter(bad).filter(|c| !was(c));
    turned.map(|c| Note::warning(reason(c), c.message.clone())).collect()
}
