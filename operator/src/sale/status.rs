//! What the readers of a FlashSale are told: its status, and events.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Patch, PatchParams};
use kube::core::error_boundary::InvalidObject;
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource as _, ResourceExt as _};
use seckill_crds::{FlashSale, FlashSaleStatus, LedgerStatus, Phase};

use crate::error::Trouble;
use crate::facts::{Facts, Millis, now};
use crate::memory::Key;
use crate::plan::{Finding, Is, Plan, Reason, Told, Type};
use crate::run::Operator;
use crate::watch::Sales;

/// One field manager for each concern; this one is of the status.
const FIELD_MANAGER: &str = "seckill-operator/status";

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
fn status(generation: Option<i64>, old: &FlashSaleStatus, facts: &Facts, told: &Told) -> FlashSaleStatus {
    let now = time(facts.now);
    let index = facts.index.in_force();
    let ready = told.findings.iter().any(|f| f.type_ == Type::Ready && f.is == Is::True);
    let sale = facts.sale.as_ref();
    let preheated = index.is_some() || sale.is_some_and(|s| s.live_epoch.is_some());
    let open = matches!(told.phase, Some(Phase::Open | Phase::SoldOut));
    let first = |before: &Option<Time>, seen: bool| before.clone().or_else(|| seen.then(|| now.clone()));
    FlashSaleStatus {
        observed_generation: generation,
        phase: told.phase,
        conditions: conditions(&old.conditions, told, generation, &now),
        epoch: index.map(|i| i.epoch.0).or(old.epoch),
        ledger: ledger(facts, told).or_else(|| old.ledger.clone()),
        preheated_at: first(&old.preheated_at, preheated),
        ready_at: first(&old.ready_at, ready),
        opened_at: first(&old.opened_at, open),
        settled_at: sale
            .and_then(|s| s.settled_at_ms)
            .map(|ms| time(u64::try_from(ms).unwrap_or_default()))
            .or_else(|| old.settled_at.clone()),
        next_transition_at: told.next.map(time),
    }
}

fn time(at: Millis) -> Time {
    // Whole seconds: what Kubernetes writes, and what does not change with each look.
    let at = i64::try_from(at / 1000).unwrap_or_default();
    Time(k8s_openapi::jiff::Timestamp::from_second(at).unwrap_or_default())
}

fn ledger(facts: &Facts, told: &Told) -> Option<LedgerStatus> {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let sale = facts.sale.as_ref()?;
    if let Some(index) = facts.index.in_force() {
        return Some(LedgerStatus {
            total: number(index.total),
            sold: number(sale.sold),
            remaining: number(index.left),
            in_flight: number(index.total.saturating_sub(index.left).saturating_sub(sale.out())),
        });
    }
    let over = told.phase == Some(Phase::Settled);
    over.then(|| LedgerStatus {
        total: number(sale.total),
        sold: number(sale.sold),
        remaining: number(sale.total.saturating_sub(sale.sold)),
        in_flight: 0,
    })
}

/// What was found, and of the old conditions those of which nothing was found: what was compared at the end stays.
fn conditions(old: &[Condition], told: &Told, generation: Option<i64>, now: &Time) -> Vec<Condition> {
    let found = told.findings.iter().filter(|finding| !is_better_known(old, finding));
    let mut conditions: Vec<Condition> = found.map(|finding| condition(old, finding, generation, now)).collect();
    if told.phase.is_some() {
        let unfound = |c: &&Condition| !conditions.iter().any(|new| new.type_ == c.type_);
        let kept: Vec<Condition> = old.iter().filter(unfound).cloned().collect();
        conditions.extend(kept);
    }
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    conditions
}

fn condition(old: &[Condition], finding: &Finding, generation: Option<i64>, now: &Time) -> Condition {
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
}

/// A difference that was found is not taken back when at the end there is nothing left to compare with, and what a new
/// leader has not looked at yet is as the last one found it.
fn is_better_known(old: &[Condition], finding: &Finding) -> bool {
    old.iter()
        .filter(|c| c.type_ == finding.type_.as_str())
        .any(|c| match finding.reason {
            Reason::ComparedWithoutIndex => c.reason == Reason::Imbalanced.as_str(),
            Reason::Checking => true,
            _ => false,
        })
}

impl Operator {
    /// Writes the status if it changed, figures alone only now and then, and what changed for its reader as events.
    pub async fn tell(&self, object: &FlashSale, facts: &Facts, plan: &Plan) -> Result<(), kube::Error> {
        let Some(told) = &plan.told else { return Ok(()) };
        let old = self.memory.status(object);
        let new = status(object.metadata.generation, &old, facts, told);
        let lead = lead(&new, facts);
        if let Some(seconds) = lead {
            self.metrics.ready_lead(object, seconds);
        }
        if new == old {
            return Ok(());
        }
        let ledger = old.ledger.clone();
        let only_figures = FlashSaleStatus { ledger, ..new.clone() } == old;
        if only_figures && !self.memory.may_sample(&Key::of(object)) {
            return Ok(());
        }
        self.write(object, &new).await?;
        let mut notes: Notes = new
            .phase
            .filter(|phase| old.phase != Some(*phase))
            .and_then(phase_note)
            .into_iter()
            .collect();
        if old.ready_at.is_none() {
            notes.extend(lead.and_then(|lead| late(lead, facts)));
        }
        notes.extend(turned_bad(&old, &new));
        self.publish(object, notes).await;
        Ok(())
    }

    /// Says why nothing is known, or nothing can be done; all else that the status says stays as it is.
    pub async fn tell_trouble(&self, object: &FlashSale, trouble: &Trouble) -> Result<(), kube::Error> {
        let old = self.memory.status(object);
        let finding = Finding {
            type_: Type::Stalled,
            is: Is::True,
            reason: trouble.reason,
            message: trouble.message.clone(),
        };
        let stalled = condition(&old.conditions, &finding, object.metadata.generation, &time(now()));
        // The same trouble in other words, such as an attempt's number, is no news.
        let known =
            |c: &Condition| c.type_ == stalled.type_ && c.status == stalled.status && c.reason == stalled.reason;
        if old.conditions.iter().any(known) {
            return Ok(());
        }
        let mut new = old.clone();
        new.conditions.retain(|c| c.type_ != stalled.type_);
        new.conditions.push(stalled);
        new.conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        self.write(object, &new).await?;
        self.publish(object, turned_bad(&old, &new)).await;
        Ok(())
    }

    /// A FlashSale that can't be understood, for example because a newer version wrote it: it harms only itself.
    pub async fn refuse(&self, invalid: &InvalidObject) -> Result<(), kube::Error> {
        let namespace = invalid.metadata.namespace.clone().unwrap_or_default();
        let name = invalid.metadata.name.clone().unwrap_or_default();
        let resource = ApiResource::erase::<FlashSale>(&());
        let sales: Api<DynamicObject> = Api::namespaced_with(self.kube.clone(), &namespace, &resource);
        let Some(object) = sales.get_opt(&name).await? else {
            return Ok(());
        };
        if object.data["spec"]["className"] != self.class.as_str() {
            return Ok(());
        }
        tracing::warn!(
            namespace,
            name,
            error = invalid.error,
            "a FlashSale that can't be understood"
        );
        let message = format!(
            "the manifest can't be understood, and nothing is sold by it: {}; write what it names as this version's \
             `kubectl explain fsale.spec` has it, and apply it anew",
            invalid.error
        );
        let finding = |type_, is| Finding {
            type_,
            is,
            reason: Reason::Invalid,
            message: message.clone(),
        };
        let now = time(now());
        let findings = [
            finding(Type::Accepted, Is::False),
            finding(Type::Ready, Is::False),
            finding(Type::Stalled, Is::True),
        ];
        let generation = object.metadata.generation;
        let conditions = findings.map(|finding| condition(&[], &finding, generation, &now));
        let status = FlashSaleStatus {
            observed_generation: generation,
            conditions: conditions.into(),
            ..FlashSaleStatus::default()
        };
        sales.patch_status(&name, &params(), &patch(&status)).await.map(drop)
    }

    async fn write(&self, object: &FlashSale, status: &FlashSaleStatus) -> Result<(), kube::Error> {
        let sales: Api<FlashSale> = Api::namespaced(self.kube.clone(), &object.namespace().unwrap_or_default());
        sales
            .patch_status(&object.name_any(), &params(), &patch(status))
            .await?;
        self.memory.wrote(object, status.clone());
        Ok(())
    }

    /// An event that can't be written is no reason to fail.
    pub async fn publish(&self, object: &FlashSale, notes: Notes) {
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

    /// What is kept of FlashSales ends with them.
    pub fn forget_what_is_gone(&self, sales: &Sales) {
        let there = sales.keys();
        self.memory.keep(&there);
        self.metrics.keep(&there);
    }
}

fn params() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

fn patch(status: &FlashSaleStatus) -> Patch<serde_json::Value> {
    Patch::Apply(serde_json::json!({
        "apiVersion": FlashSale::api_version(&()),
        "kind": FlashSale::kind(&()),
        "status": status,
    }))
}

/// How many seconds before its start the sale was ready.
fn lead(status: &FlashSaleStatus, facts: &Facts) -> Option<f64> {
    let (ready, starts) = (status.ready_at.as_ref()?, facts.sale.as_ref()?.opens_at);
    Some((starts as f64 - ready.0.as_millisecond() as f64) / 1000.0)
}

/// Preheating begins no earlier than asked for, and takes its time; up to half of it is as it should be. Of a sale that was
/// made later than that, only the time that there was is counted.
fn late(lead: f64, facts: &Facts) -> Option<Note> {
    let (wanted, sale) = (facts.wanted.as_ref()?, facts.sale.as_ref()?);
    let asked = f64::from(wanted.spec.lead_time_seconds);
    let there_was = (sale.opens_at as f64 - sale.created_at_ms as f64) / 1000.0;
    (there_was > 0.0 && lead < asked.min(there_was) / 2.0).then(|| {
        let when = if lead < 0.0 { "after" } else { "before" };
        let message = format!(
            "ready {:.0} s {when} the start; {asked} s before it were asked for",
            lead.abs()
        );
        Note::warning("ReadyLate", message)
    })
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
fn turned_bad(old: &FlashSaleStatus, new: &FlashSaleStatus) -> Notes {
    let bad = |c: &&Condition| match c.type_.as_str() {
        "LedgerBalanced" | "Accepted" | "Preflight" => c.status == "False",
        "Stalled" => c.status == "True",
        "WorkloadsScaled" => c.status == "False" && (c.reason == "CeilingReached" || c.reason == "LeftToAutoscaler"),
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
        "Preflight" => "PreflightFailed",
        _ => "NotScaled",
    };
    let turned = new.conditions.iter().filter(bad).filter(|c| !was(c));
    turned.map(|c| Note::warning(reason(c), c.message.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(old: Reason, new: Reason) -> String {
        let finding = |reason| Finding {
            type_: Type::LedgerBalanced,
            is: Is::True,
            reason,
            message: String::new(),
        };
        let told = |reason| Told {
            phase: Some(Phase::Open),
            findings: vec![finding(reason)],
            next: None,
        };
        let old = conditions(&[], &told(old), None, &time(0));
        let new = conditions(&old, &told(new), None, &time(1));
        new.into_iter().map(|condition| condition.reason).collect()
    }

    #[test]
    fn what_is_known_is_not_replaced_by_what_was_not_looked_at() {
        assert_eq!(after(Reason::Imbalanced, Reason::ComparedWithoutIndex), "Imbalanced");
        assert_eq!(
            after(Reason::Balanced, Reason::ComparedWithoutIndex),
            "ComparedWithoutIndex"
        );
        assert_eq!(after(Reason::Passed, Reason::Checking), "Passed");
        assert_eq!(after(Reason::Passed, Reason::NotChecked), "NotChecked");
    }
}
