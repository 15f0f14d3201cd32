//! What is to be done about a sale, and what its readers are told: a pure function of the facts.
//!
//! A plan has at most one step. After it the facts are read again, so that a step never stands on what another one
//! changed, and a crash between two steps is nothing special.
use std::time::Duration;

use seckill_crds::{Phase, Preflight};
use seckill_ledger::{Sale, SaleTerms};
use seckill_protocol::Epoch;
use seckill_protocol::index::SaleState;
use seckill_protocol::recovery::Need;
use seckill_protocol::settlement::{Closing, Settlement, settle};

use crate::balance::Weighed;
use crate::facts::{Facts, Index, Millis, Wanted, need_of};
use crate::memory::Key;
use crate::preflight::Verdict;
use crate::scale::{Shortage, Workloads};

/// What is to be done now.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    Nothing,
    /// Enter the sale into the ledger.
    Create,
    /// Take over what is offered, as long as no unit of it is counted.
    UpdateOffer,
    /// Take over state and window; the index learns them by the next plan.
    UpdateTerms(SaleTerms),
    /// Offer more units than before; the log learns it by the next plan.
    RaiseOffer(u64),
    /// Append the total that the sale offers by now.
    AppendTotal,
    /// Begin a new epoch and put an index in force: preheating and recovery are the same.
    Rebuild,
    /// Tell the API which index sells.
    Publish(Epoch),
    /// Tell the index of this epoch the terms.
    ApplyTerms(Epoch),
    /// Give the terms in the ledger, which has lost its tail, a version that the index will take.
    Renumber(u64),
    /// Append the terminal record.
    Close,
    /// Write down that every unit is accounted for, and what the index has left; `None`: there is no index to compare with,
    /// and the log and the ledger decide alone.
    Settle(Option<u64>),
    /// Take away what Redis holds.
    Free,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Type {
    Accepted,
    Preflight,
    StockPreheated,
    WorkloadsScaled,
    Ready,
    LedgerBalanced,
    Settled,
    Stalled,
}

impl Type {
    pub fn as_str(self) -> &'static str {
        match self {
            Type::Accepted => "Accepted",
            Type::Preflight => "Preflight",
            Type::StockPreheated => "StockPreheated",
            Type::WorkloadsScaled => "WorkloadsScaled",
            Type::Ready => "Ready",
            Type::LedgerBalanced => "LedgerBalanced",
            Type::Settled => "Settled",
            Type::Stalled => "Stalled",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    True,
    False,
    Unknown,
}

impl Is {
    pub fn as_str(self) -> &'static str {
        match self {
            Is::True => "True",
            Is::False => "False",
            Is::Unknown => "Unknown",
        }
    }
}

/// Why a condition is as it is. docs/operator.md has a line for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    Accepted,
    Invalid,
    Adopted,
    NameUsed,
    NotYetDue,
    Passed,
    ProblemsFound,
    NotChecked,
    Checking,
    Preheating,
    Preheated,
    LedgerUnavailable,
    LogUnavailable,
    RedisUnavailable,
    LogReplaced,
    Oversold,
    Scaling,
    Scaled,
    CeilingReached,
    LeftToAutoscaler,
    ClusterUnknown,
    StockMissing,
    WorkloadsMissing,
    ReadyToSell,
    Selling,
    SoldOut,
    Suspended,
    HeldByPreflight,
    Ended,
    Balanced,
    InFlight,
    Imbalanced,
    ComparedWithoutIndex,
    NothingCounted,
    Running,
    Draining,
    Closing,
    Settled,
    Progressing,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Accepted => "Accepted",
            Reason::Invalid => "Invalid",
            Reason::Adopted => "Adopted",
            Reason::NameUsed => "NameUsed",
            Reason::NotYetDue => "NotYetDue",
            Reason::Passed => "Passed",
            Reason::ProblemsFound => "ProblemsFound",
            Reason::NotChecked => "NotChecked",
            Reason::Checking => "Checking",
            Reason::Preheating => "Preheating",
            Reason::Preheated => "Preheated",
            Reason::LedgerUnavailable => "LedgerUnavailable",
            Reason::LogUnavailable => "LogUnavailable",
            Reason::RedisUnavailable => "RedisUnavailable",
            Reason::LogReplaced => "LogReplaced",
            Reason::Oversold => "Oversold",
            Reason::Scaling => "Scaling",
            Reason::Scaled => "Scaled",
            Reason::CeilingReached => "CeilingReached",
            Reason::LeftToAutoscaler => "LeftToAutoscaler",
            Reason::ClusterUnknown => "ClusterUnknown",
            Reason::StockMissing => "StockMissing",
            Reason::WorkloadsMissing => "WorkloadsMissing",
            Reason::ReadyToSell => "ReadyToSell",
            Reason::Selling => "Selling",
            Reason::SoldOut => "SoldOut",
            Reason::Suspended => "Suspended",
            Reason::HeldByPreflight => "HeldByPreflight",
            Reason::Ended => "Ended",
            Reason::Balanced => "Balanced",
            Reason::InFlight => "InFlight",
            Reason::Imbalanced => "Imbalanced",
            Reason::ComparedWithoutIndex => "ComparedWithoutIndex",
            Reason::NothingCounted => "NothingCounted",
            Reason::Running => "Running",
            Reason::Draining => "Draining",
            Reason::Closing => "Closing",
            Reason::Settled => "Settled",
            Reason::Progressing => "Progressing",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub type_: Type,
    pub is: Is,
    pub reason: Reason,
    pub message: String,
}

/// What scaling needs to know of a sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is not accepted, so it needs nothing.
    Refused,
    Unsettled,
    Settled,
}

/// What the readers of the FlashSale are told.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// `None`: the sale is not accepted, it has no phase.
    pub phase: Option<Phase>,
    pub findings: Vec<Finding>,
    /// When the phase changes next by itself.
    pub next: Option<Millis>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub step: Step,
    /// `None`: the step takes no time worth telling; what stands there stays until the next plan.
    pub told: Option<Told>,
    pub standing: Standing,
    /// How long nothing needs to be looked at, if there is no step and nothing is seen to change; `None`: for ever.
    pub look_again: Option<Duration>,
}

/// How often the index of a sale that sells, or soon will, is looked at.
const PROBE: Duration = Duration::from_secs(1);
/// The same while Redis does not answer: once it does, buyers wait for the rebuild.
const PROBE_IF_SILENT: Duration = Duration::from_millis(200);
/// The same at the end, where people wait for it.
const PROBE_AT_THE_END: Duration = Duration::from_millis(200);
/// No wait is longer, in case the clock is set.
const LONGEST: Duration = Duration::from_secs(60);

pub fn plan(facts: &Facts) -> Plan {
    let Some(sale) = &facts.sale else {
        return match &facts.wanted {
            Some(_) => Plan::quick(Step::Create),
            None => Plan::quick(Step::Nothing),
        };
    };
    if facts.wanted.as_ref().is_some_and(|wanted| name_is_used(wanted, sale)) {
        return name_used(facts, sale);
    }
    if sale.settled_at_ms.is_some() {
        return settled(facts, sale);
    }
    if sale.state == SaleState::Closed {
        return ending(facts, sale);
    }
    match &facts.wanted {
        Some(wanted) => running(facts, wanted, sale),
        // Deleted in mid-sale: it ends now.
        None => Plan::quick(Step::UpdateTerms(closing(terms_of(sale), facts.now))),
    }
}

/// Whether the name belongs to a sale that had ended before this object was made. An object that was made before the end
/// is this sale's own, also if it is not the first: it took over from one that was deleted.
fn name_is_used(wanted: &Wanted, sale: &Sale) -> bool {
    let made_after_the_end = wanted.created_at / 1000 >= sale.closes_at / 1000;
    wanted.uid != sale.uid && sale.state == SaleState::Closed && made_after_the_end
}

fn terms_of(sale: &Sale) -> SaleTerms {
    SaleTerms {
        state: sale.state,
        opens_at: sale.opens_at,
        closes_at: sale.closes_at,
        limit_per_buyer: sale.limit_per_buyer,
    }
}

/// The ledger keeps when a sale ended, and not when it would have.
fn closing(terms: SaleTerms, now: Millis) -> SaleTerms {
    SaleTerms {
        state: SaleState::Closed,
        closes_at: terms.closes_at.min(now),
        ..terms
    }
}

/// Once units are counted, a FlashSale that was made anew under the same name can't change what is sold and when.
fn is_counted(sale: &Sale) -> bool {
    sale.live_epoch.is_some() || sale.cut.cur.is_some()
}

/// Up to its end.
fn running(facts: &Facts, wanted: &Wanted, sale: &Sale) -> Plan {
    let now = facts.now;
    let counted = is_counted(sale);
    let mut terms = wanted.terms();
    if counted {
        terms.opens_at = sale.opens_at;
    }
    let preflight = facts.preflight();
    let held = is_held(preflight.as_ref(), wanted, sale, now);
    if held {
        terms.state = SaleState::Suspended;
    }
    let preflight = checked(preflight);
    if now >= terms.closes_at {
        return Plan::quick(Step::UpdateTerms(closing(terms_of(sale), now)));
    }
    let offer = wanted.offer();
    if !counted && (offer.item != sale.item || offer.offered != sale.offered) {
        return Plan::quick(Step::UpdateOffer);
    }
    if terms != terms_of(sale) {
        return Plan::quick(Step::UpdateTerms(terms));
    }
    // Totals only rise; units are withdrawn by an earlier end.
    if counted && offer.offered > sale.offered {
        return Plan::quick(Step::RaiseOffer(offer.offered));
    }
    if now < wanted.preheat_at() && !counted {
        let message = "the stock is put in place, and the pods are started, at spec.startsAt less spec.leadTimeSeconds";
        let again = if preflight.reason == Reason::Checking {
            PROBE
        } else {
            LONGEST
        };
        return Plan::telling(Step::Nothing, Phase::Scheduled)
            .finding(accepted(Some(wanted), sale))
            .finding(preflight)
            .find(Type::StockPreheated, Is::False, Reason::NotYetDue, message)
            .find(Type::WorkloadsScaled, Is::False, Reason::NotYetDue, message)
            .find(Type::Ready, Is::False, Reason::NotYetDue, message)
            .finding(balanced_so_far(None, sale))
            .find(Type::Settled, Is::False, Reason::NotYetDue, "the sale has not begun")
            .finding(stalled(facts))
            .next(now, wanted.preheat_at(), again);
    }
    if let Index::InForce(index) = &facts.index {
        match need_of(index, sale) {
            Need::Apply => return Plan::quick(Step::ApplyTerms(index.epoch)),
            Need::Renumber(version) => return Plan::quick(Step::Renumber(version)),
            Need::Publish(epoch) => return Plan::quick(Step::Publish(epoch)),
            Need::Nothing | Need::Rebuild => {}
        }
        if index.total < sale.offered && sale.total < sale.offered && !facts.total_appended {
            return Plan::quick(Step::AppendTotal);
        }
    }
    let pods = pods(&facts.workloads, sale);
    let opened = now >= sale.opens_at;
    let (step, stock) = stock(&facts.index);
    let sold_out = facts.index.in_force().is_some_and(|index| index.left == 0);
    let (is, reason, message) = match stock.is {
        Is::True if !opened && pods.is != Is::True => (Is::False, Reason::WorkloadsMissing, pods.message.clone()),
        Is::True if held && !wanted.suspended => (
            Is::False,
            Reason::HeldByPreflight,
            format!("held back by spec.preflight=Require: {}", preflight.message),
        ),
        Is::True if sale.state == SaleState::Suspended => (
            Is::False,
            Reason::Suspended,
            "suspended by spec.suspend or the annotation seckill.dev/suspend".to_owned(),
        ),
        Is::True if !opened => (Is::True, Reason::ReadyToSell, "stock and pods are in place".to_owned()),
        Is::True if sold_out => (Is::True, Reason::SoldOut, "every unit is sold".to_owned()),
        Is::True => (Is::True, Reason::Selling, "buyers buy".to_owned()),
        missing => (missing, Reason::StockMissing, stock.message.clone()),
    };
    let phase = match reason {
        Reason::Suspended | Reason::HeldByPreflight => Phase::Suspended,
        Reason::ReadyToSell => Phase::Ready,
        Reason::SoldOut => Phase::SoldOut,
        Reason::Selling => Phase::Open,
        _ => Phase::Preheating,
    };
    Plan::telling(step, phase)
        .finding(accepted(Some(wanted), sale))
        .finding(preflight)
        .finding(stock)
        .finding(pods)
        .find(Type::Ready, is, reason, message)
        .finding(balanced_so_far(facts.weighed, sale))
        .find(Type::Settled, Is::False, Reason::Running, "the sale has not ended")
        .finding(stalled(facts))
        .next(
            now,
            if opened { sale.closes_at } else { sale.opens_at },
            if matches!(facts.index, Index::Unknown(_)) {
                PROBE_IF_SILENT
            } else {
                PROBE
            },
        )
}

/// Whether a sale that requires its preflight to pass may not sell yet. One that has opened is left alone, and as long as
/// nothing is known, nothing changes.
fn is_held(preflight: Option<&Verdict>, wanted: &Wanted, sale: &Sale, now: Millis) -> bool {
    let has_opened = is_counted(sale) && sale.state == SaleState::Open && now >= sale.opens_at;
    if wanted.spec.preflight != Preflight::Require || now < wanted.preheat_at() || has_opened {
        return false;
    }
    preflight.map_or(sale.state == SaleState::Suspended, |verdict| !verdict.passed())
}

fn checked(preflight: Option<Verdict>) -> Finding {
    let Some(verdict) = preflight else {
        let message = "what could spoil the sale is being looked for";
        return finding(Type::Preflight, Is::Unknown, Reason::Checking, message);
    };
    let (is, reason) = match (verdict.problems.is_empty(), verdict.unknown.is_empty()) {
        (false, _) => (Is::False, Reason::ProblemsFound),
        (true, false) => (Is::Unknown, Reason::NotChecked),
        (true, true) => (Is::True, Reason::Passed),
    };
    let mut said = [verdict.problems, verdict.unknown].concat();
    if said.is_empty() {
        said.push("nothing was found that could spoil the sale".to_owned());
    }
    if !verdict.advice.is_empty() {
        said.push(format!("worth a thought: {}", verdict.advice.join("; ")));
    }
    finding(Type::Preflight, is, reason, said.join("; "))
}

/// What is to be done about the index of a sale that runs.
fn stock(index: &Index) -> (Step, Finding) {
    let (step, is, reason, message) = match index {
        Index::Unknown(why) => (
            Step::Nothing,
            Is::Unknown,
            Reason::RedisUnavailable,
            format!("Redis does not answer: {why}"),
        ),
        Index::NotAsked | Index::None => (
            Step::Rebuild,
            Is::False,
            Reason::Preheating,
            "the index is being put in place".to_owned(),
        ),
        Index::Outdated(epoch) => (
            Step::Rebuild,
            Is::False,
            Reason::Preheating,
            format!("a newer epoch than {epoch} was begun and has no index: it is being rebuilt"),
        ),
        Index::InForce(index) => (
            Step::Nothing,
            Is::True,
            Reason::Preheated,
            format!("{} units under epoch {}", index.total, index.epoch),
        ),
    };
    (step, finding(Type::StockPreheated, is, reason, message))
}

/// From its end to its settlement.
fn ending(facts: &Facts, sale: &Sale) -> Plan {
    let ended = |step, reason, message: String| {
        let mut plan = Plan::telling(step, Phase::Ended)
            .finding(accepted(facts.wanted.as_ref(), sale))
            .over()
            .find(Type::Settled, Is::False, reason, message)
            .finding(stalled(facts));
        plan.look_again = Some(PROBE_AT_THE_END);
        plan
    };
    // It may hold batches that buyers wait for, and its numbers are to be compared: there is no hurry.
    if let Index::Unknown(why) = &facts.index {
        let message = format!("Redis does not answer, and what it holds is to be compared and freed: {why}");
        return ended(Step::Nothing, Reason::RedisUnavailable, message);
    }
    // A lost or outdated index is not rebuilt for the end: what is in the log before CLOSE counts, and what was not
    // published was promised to nobody.
    let index = facts.index.in_force();
    if sale.cut.closed.is_none() {
        return match index {
            Some(index) if index.terms.version < sale.version => Plan::quick(Step::ApplyTerms(index.epoch)),
            // What was sold before the index learnt of the end is on its way: the worker publishes what its seller did
            // not.
            Some(index) if index.outbox > 0 => ended(
                Step::Nothing,
                Reason::Draining,
                format!(
                    "order-worker has still to see {} batches of orders in the log",
                    index.outbox
                ),
            ),
            _ if facts.close_appended => ended(
                Step::Nothing,
                Reason::Closing,
                "order-worker is on its way to the terminal record of the log".to_owned(),
            ),
            _ => ended(
                Step::Close,
                Reason::Closing,
                "the terminal record is being appended to the log".to_owned(),
            ),
        };
    }
    let left = match index {
        None => None,
        Some(index) => match settle(&closing_of(sale, index.left, facts.effects_owed)) {
            Settlement::Wait => {
                let message = "order-worker has still to tell the index of orders that were cancelled";
                return ended(Step::Nothing, Reason::Draining, message.to_owned());
            }
            Settlement::Even { .. } | Settlement::Uneven { .. } => Some(index.left),
        },
    };
    ended(
        Step::Settle(left),
        Reason::Closing,
        "every unit is being accounted for".to_owned(),
    )
}

fn closing_of(sale: &Sale, left: u64, owed: bool) -> Closing {
    Closing {
        total: sale.total,
        // What was cancelled after CLOSE is in neither, so this stays what it was there.
        live: sale.out(),
        owed: usize::from(owed),
        left,
        // CLOSE waited for an empty outbox.
        in_flight: 0,
    }
}

/// What the comparison at the end told. Nothing was owed then.
pub fn compared(sale: &Sale, left: u64) -> Settlement {
    settle(&closing_of(sale, left, false))
}

fn verdict(sale: &Sale) -> Finding {
    let (total, sold) = (sale.total, sale.sold);
    let remaining = total.saturating_sub(sold);
    let (is, reason, message) = match sale.settled_left.map(|left| compared(sale, left)) {
        Some(Settlement::Uneven { found, .. }) => (
            Is::False,
            Reason::Imbalanced,
            format!(
                "{total} units: {sold} sold by the ledger, but {found} left in Redis; the ledger counts, find out why"
            ),
        ),
        Some(Settlement::Even { .. } | Settlement::Wait) => (
            Is::True,
            Reason::Balanced,
            format!("{total} units: {sold} sold, {remaining} left, in the ledger and in Redis"),
        ),
        None => (
            Is::True,
            Reason::ComparedWithoutIndex,
            format!("{total} units: {sold} sold, {remaining} left, by the ledger; Redis held no index to compare with"),
        ),
    };
    finding(Type::LedgerBalanced, is, reason, message)
}

fn settled(facts: &Facts, sale: &Sale) -> Plan {
    let freed = sale.freed_at_ms.is_some();
    let (step, phase) = match freed {
        true => (Step::Nothing, Phase::Settled),
        false => (Step::Free, Phase::Ended),
    };
    let (is, reason, message) = match freed {
        true => (
            Is::True,
            Reason::Settled,
            format!(
                "{} units: {} sold, {} left",
                sale.total,
                sale.sold,
                sale.total.saturating_sub(sale.sold)
            ),
        ),
        false => (
            Is::False,
            Reason::Closing,
            "every unit is accounted for; what Redis holds is being freed".to_owned(),
        ),
    };
    let mut plan = Plan::telling(step, phase)
        .finding(accepted(facts.wanted.as_ref(), sale))
        .over()
        .finding(verdict(sale))
        .finding(finding(Type::Settled, is, reason, message))
        .finding(stalled(facts));
    if freed {
        plan.standing = Standing::Settled;
    }
    plan
}

/// The sale that has the name goes on to its settlement, unseen by this object.
fn name_used(facts: &Facts, sale: &Sale) -> Plan {
    let mut plan = if sale.settled_at_ms.is_some() {
        settled(facts, sale)
    } else {
        ending(facts, sale)
    };
    let message = format!(
        "metadata.name: a sale called {} has ended, and a sale runs once; choose another name",
        sale.name
    );
    plan.standing = Standing::Refused;
    plan.told = Some(Told {
        phase: None,
        findings: vec![
            finding(Type::Accepted, Is::False, Reason::NameUsed, message.clone()),
            finding(Type::Ready, Is::False, Reason::NameUsed, message.clone()),
            finding(Type::Stalled, Is::True, Reason::NameUsed, message),
        ],
        next: None,
    });
    plan
}

/// While the sale runs. What is told does not change with each unit: the status is not written for that.
fn balanced_so_far(weighed: Option<Weighed>, sale: &Sale) -> Finding {
    let (is, reason, message) = match weighed {
        None => (
            Is::Unknown,
            Reason::NothingCounted,
            "the index and the ledger were not compared yet".to_owned(),
        ),
        Some(Weighed::InFlight(_) | Weighed::Moved) => (
            Is::Unknown,
            Reason::InFlight,
            "units are on their way into the ledger".to_owned(),
        ),
        Some(Weighed::Balanced) => (
            Is::True,
            Reason::Balanced,
            "sold, left and in flight are what was offered".to_owned(),
        ),
        Some(Weighed::Imbalanced(difference)) => (
            Is::False,
            Reason::Imbalanced,
            format!(
                "of {} units, {} are out by the index and {} by the ledger; the ledger counts, find out why: \
                 `order-worker quarantine list`, the log of order-worker",
                sale.total, difference.index, difference.ledger
            ),
        ),
    };
    finding(Type::LedgerBalanced, is, reason, message)
}

fn pods(workloads: &Workloads, sale: &Sale) -> Finding {
    let autoscalers = workloads.autoscalers();
    let (is, reason, message) = match workloads.shortage(&Key::new(&sale.namespace, &sale.name)) {
        None if autoscalers.is_empty() => (
            Is::True,
            Reason::Scaled,
            "the pods that the sale asks for are ready".to_owned(),
        ),
        None => (
            Is::True,
            Reason::LeftToAutoscaler,
            format!(
                "the pods that the sale asks for are ready; {} is left in charge",
                autoscalers.join(", ")
            ),
        ),
        Some(Shortage::Unknown(why)) => (Is::Unknown, Reason::ClusterUnknown, why),
        Some(Shortage::Starting(what)) => (Is::False, Reason::Scaling, what),
        Some(Shortage::Ceiling(what)) => (Is::False, Reason::CeilingReached, what),
        Some(Shortage::Autoscaler(what)) => (Is::False, Reason::LeftToAutoscaler, what),
    };
    finding(Type::WorkloadsScaled, is, reason, message)
}

/// Says so if the object asks for what does not count any more.
fn accepted(wanted: Option<&Wanted>, sale: &Sale) -> Finding {
    let kept = wanted
        .filter(|_| is_counted(sale))
        .map(kept_of(sale))
        .unwrap_or_default();
    if kept.is_empty() {
        return finding(Type::Accepted, Is::True, Reason::Accepted, "the ledger knows the sale");
    }
    let message = format!(
        "the sale was preheated before this manifest came, and goes on as it was: without effect are {}",
        kept.join(", ")
    );
    finding(Type::Accepted, Is::True, Reason::Adopted, message)
}

/// What of an object has no effect, because the sale had begun before.
fn kept_of(sale: &Sale) -> impl Fn(&Wanted) -> Vec<String> {
    |wanted| {
        let offer = wanted.offer();
        let mut kept = Vec::new();
        if offer.offered != sale.offered {
            kept.push(format!("spec.stock ({} are offered)", sale.offered));
        }
        if offer.item != sale.item {
            kept.push("spec.item".to_owned());
        }
        if wanted.starts_at() != sale.opens_at {
            kept.push("spec.startsAt".to_owned());
        }
        kept
    }
}

fn stalled(facts: &Facts) -> Finding {
    match (&facts.trouble, &facts.index) {
        (Some(trouble), _) => finding(Type::Stalled, Is::True, trouble.reason, trouble.message.clone()),
        (None, Index::Unknown(why)) => finding(
            Type::Stalled,
            Is::True,
            Reason::RedisUnavailable,
            format!("Redis does not answer: {why}"),
        ),
        (None, _) => finding(
            Type::Stalled,
            Is::False,
            Reason::Progressing,
            "nothing holds the sale up",
        ),
    }
}

fn finding(type_: Type, is: Is, reason: Reason, message: impl Into<String>) -> Finding {
    Finding {
        type_,
        is,
        reason,
        message: message.into(),
    }
}

impl Plan {
    /// A step after which the facts are read again at once; or nothing at all, and for ever.
    fn quick(step: Step) -> Self {
        Plan {
            step,
            told: None,
            standing: Standing::Unsettled,
            look_again: None,
        }
    }

    fn telling(step: Step, phase: Phase) -> Self {
        let told = Told {
            phase: Some(phase),
            findings: Vec::new(),
            next: None,
        };
        Plan {
            told: Some(told),
            ..Plan::quick(step)
        }
    }

    fn finding(mut self, finding: Finding) -> Self {
        if let Some(told) = &mut self.told {
            told.findings.push(finding);
        }
        self
    }

    fn find(self, type_: Type, is: Is, reason: Reason, message: impl Into<String>) -> Self {
        self.finding(finding(type_, is, reason, message))
    }

    /// What is true of every sale that has ended.
    fn over(self) -> Self {
        let message = "the sale has ended";
        self.find(Type::StockPreheated, Is::False, Reason::Ended, message)
            .find(Type::WorkloadsScaled, Is::False, Reason::Ended, message)
            .find(Type::Ready, Is::False, Reason::Ended, message)
    }

    /// Looks again at the boundary, and no later than after `most`.
    fn next(mut self, now: Millis, at: Millis, most: Duration) -> Self {
        if let Some(told) = &mut self.told {
            told.next = Some(at);
        }
        self.look_again = Some(Duration::from_millis(at.saturating_sub(now).max(1)).min(most));
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use seckill_crds::{FlashSaleSpec, Item};
    use seckill_protocol::{SaleCut, SaleId};
    use seckill_stock::IndexState;

    use super::*;
    use crate::balance::Difference;
    use crate::error::Trouble;
    use crate::preflight::tests::right;
    use crate::scale::{Needs, Workload};

    const START: Millis = 1_900_000_000_000;
    const END: Millis = START + 60_000;
    const LEAD: Millis = 10_000;

    fn time(at: Millis) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
        let at = k8s_openapi::jiff::Timestamp::from_millisecond(i64::try_from(at).expect("fits")).expect("a time");
        k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at)
    }

    fn wanted() -> Wanted {
        let item = Item {
            sku: "s".into(),
            id: None,
            name: "n".into(),
            price: "1.00".into(),
            currency: "EUR".into(),
            description: None,
        };
        let spec = FlashSaleSpec {
            class_name: "default".into(),
            item,
            stock: 10,
            starts_at: time(START),
            ends_at: time(END),
            lead_time_seconds: 10,
            cool_down_seconds: 0,
            demand: None,
            suspend: false,
            preflight: Preflight::Warn,
        };
        Wanted {
            uid: "u".into(),
            created_at: START - 60_000,
            spec,
            suspended: false,
        }
    }

    fn workload(ready: i32) -> Result<Workload, String> {
        Ok(Workload {
            name: "w".into(),
            ceiling: 2,
            floor: 1,
            ready,
            autoscaler: None,
            unschedulable: None,
        })
    }

    /// So many pods each, and what the one sale needs of the API.
    fn workloads(ready: i32, api: i32) -> Arc<Workloads> {
        let needs = Needs { api, worker: 1 };
        Arc::new(Workloads {
            api: workload(ready),
            worker: workload(1),
            needs: [(Key::new("shop", "sale"), needs)].into(),
        })
    }

    /// A sale that the ledger took over from the FlashSale, at some instant.
    fn facts(now: Millis) -> Facts {
        let wanted = wanted();
        let (terms, offer) = (wanted.terms(), wanted.offer());
        let sale = Sale {
            id: SaleId(1),
            class: "default".into(),
            namespace: "shop".into(),
            name: "sale".into(),
            uid: "u".into(),
            part: 0,
            version: 1,
            state: terms.state,
            opens_at: terms.opens_at,
            closes_at: terms.closes_at,
            limit_per_buyer: 0,
            item: offer.item,
            item_id: None,
            price: "1.00".into(),
            currency: "EUR".into(),
            offered: 10,
            live_epoch: None,
            total: 0,
            sold: 0,
            taken: 0,
            returned: 0,
            cut: SaleCut::default(),
            created_at_ms: 0,
            updated_at_ms: 0,
            settled_at_ms: None,
            settled_left: None,
            freed_at_ms: None,
        };
        Facts {
            now,
            wanted: Some(wanted),
            sale: Some(sale),
            index: Index::NotAsked,
            workloads: workloads(1, 1),
            servers: Some(Arc::new(right())),
            weighed: None,
            effects_owed: false,
            close_appended: false,
            total_appended: false,
            trouble: None,
        }
    }

    /// The same with an index of 10 units in force, of which some are left.
    fn preheated(now: Millis, left: u64) -> Facts {
        let mut facts = facts(now);
        let terms = facts.sale().terms();
        facts.index = Index::InForce(IndexState {
            epoch: Epoch(4),
            rid: "r".into(),
            terms,
            total: 10,
            left,
            seq: 10 - left,
            holders: 0,
            outbox: 0,
        });
        facts.sale().live_epoch = Some(Epoch(4));
        facts
    }

    /// A sale that was told to sell no more, and whose index knows it.
    fn over(left: u64) -> Facts {
        let mut facts = preheated(END, left);
        facts.sale().state = SaleState::Closed;
        facts.sale().total = 10;
        facts.sale().sold = 10 - left;
        facts.sale().taken = 10 - left;
        facts
    }

    impl Facts {
        fn sale(&mut self) -> &mut Sale {
            self.sale.as_mut().expect("there is one")
        }

        fn index(&mut self) -> &mut IndexState {
            match &mut self.index {
                Index::InForce(index) => index,
                other => panic!("{other:?}"),
            }
        }
    }

    fn reason(plan: &Plan, type_: Type) -> (Is, Reason) {
        let finding = told(plan).findings.iter().find(|f| f.type_ == type_).expect("said");
        (finding.is, finding.reason)
    }

    fn told(plan: &Plan) -> &Told {
        plan.told.as_ref().expect("something is told")
    }

    fn step_and_phase(plan: &Plan) -> (Step, Option<Phase>) {
        (plan.step.clone(), told(plan).phase)
    }

    #[test]
    fn a_new_sale_is_entered_into_the_ledger() {
        let plan = plan(&Facts {
            sale: None,
            ..facts(START - LEAD - 1)
        });
        assert_eq!((plan.step, plan.told), (Step::Create, None));
    }

    #[test]
    fn before_its_lead_time_nothing_is_done_and_it_is_looked_at_again_when_it_begins() {
        let plan = plan(&facts(START - LEAD - 500));
        assert_eq!(step_and_phase(&plan), (Step::Nothing, Some(Phase::Scheduled)));
        assert_eq!(
            (told(&plan).next, plan.look_again),
            (Some(START - LEAD), Some(Duration::from_millis(500)))
        );
    }

    #[test]
    fn from_its_lead_time_on_a_missing_index_is_built() {
        let plan = plan(&facts(START - LEAD));
        assert_eq!(step_and_phase(&plan), (Step::Rebuild, Some(Phase::Preheating)));
        assert_eq!(reason(&plan, Type::Ready), (Is::False, Reason::StockMissing));
    }

    #[test]
    fn a_sale_whose_start_is_past_is_preheated_at_once() {
        assert_eq!(plan(&facts(END - 1)).step, Step::Rebuild);
    }

    #[test]
    fn a_sale_whose_end_is_past_is_closed_and_never_preheated() {
        let plan = plan(&facts(END));
        assert!(matches!(plan.step, Step::UpdateTerms(terms) if terms.state == SaleState::Closed));
    }

    #[test]
    fn with_stock_and_pods_it_is_ready_and_opens_at_its_start() {
        let ready = plan(&preheated(START - 1, 10));
        assert_eq!(step_and_phase(&ready), (Step::Nothing, Some(Phase::Ready)));
        assert_eq!(ready.look_again, Some(Duration::from_millis(1)));
        let open = plan(&preheated(START, 10));
        assert_eq!((told(&open).phase, told(&open).next), (Some(Phase::Open), Some(END)));
        assert_eq!(told(&plan(&preheated(START, 0))).phase, Some(Phase::SoldOut));
    }

    #[test]
    fn missing_pods_hold_readiness_up_before_the_start_and_never_after() {
        let mut facts = preheated(START - 1, 10);
        facts.workloads = workloads(0, 1);
        let before = plan(&facts);
        assert_eq!(told(&before).phase, Some(Phase::Preheating));
        assert_eq!(reason(&before, Type::Ready), (Is::False, Reason::WorkloadsMissing));
        assert_eq!(reason(&before, Type::WorkloadsScaled), (Is::False, Reason::Scaling));
        assert_eq!(told(&plan(&Facts { now: START, ..facts })).phase, Some(Phase::Open));
    }

    #[test]
    fn more_pods_than_the_ceiling_are_named_as_such() {
        let mut facts = preheated(START - 1, 10);
        facts.workloads = workloads(1, 3);
        assert_eq!(
            reason(&plan(&facts), Type::WorkloadsScaled),
            (Is::False, Reason::CeilingReached)
        );
    }

    #[test]
    fn a_lost_index_is_rebuilt_and_an_unknown_one_is_not() {
        let mut facts = preheated(START + 1, 3);
        facts.index = Index::None;
        assert_eq!(plan(&facts).step, Step::Rebuild);
        facts.index = Index::Unknown("refused".into());
        let unknown = plan(&facts);
        assert_eq!(unknown.step, Step::Nothing);
        assert_eq!(
            reason(&unknown, Type::StockPreheated),
            (Is::Unknown, Reason::RedisUnavailable)
        );
        assert_eq!(reason(&unknown, Type::Stalled), (Is::True, Reason::RedisUnavailable));
    }

    #[test]
    fn a_barrier_without_an_index_is_followed_by_another_one() {
        let mut facts = preheated(START + 1, 3);
        facts.index = Index::Outdated(Epoch(4));
        assert_eq!(plan(&facts).step, Step::Rebuild);
    }

    #[test]
    fn an_index_that_the_ledger_does_not_name_is_published() {
        let mut facts = preheated(START + 1, 3);
        facts.sale().live_epoch = Some(Epoch(3));
        assert_eq!(plan(&facts).step, Step::Publish(Epoch(4)));
    }

    #[test]
    fn terms_that_the_ledger_has_lost_are_given_a_version_that_the_index_takes() {
        let mut facts = preheated(START + 1, 3);
        facts.index().terms.version = 7;
        facts.index().terms.state = SaleState::Suspended;
        assert_eq!(plan(&facts).step, Step::Renumber(8));
        facts.sale().version = 8;
        assert_eq!(plan(&facts).step, Step::ApplyTerms(Epoch(4)));
        // The same terms under a newer version are no trouble.
        facts.sale().version = 5;
        facts.index().terms.state = SaleState::Open;
        assert_eq!(plan(&facts).step, Step::Nothing);
    }

    #[test]
    fn changed_terms_go_into_the_ledger_and_then_into_the_index() {
        let mut facts = preheated(START + 1, 3);
        facts.wanted.as_mut().expect("wanted").suspended = true;
        let changed = plan(&facts);
        let Step::UpdateTerms(terms) = changed.step else {
            panic!("{changed:?}")
        };
        assert_eq!(terms.state, SaleState::Suspended);
        facts.sale().state = terms.state;
        facts.sale().version = 2;
        assert_eq!(plan(&facts).step, Step::ApplyTerms(Epoch(4)));
        facts.index().terms.version = 2;
        facts.index().terms.state = SaleState::Suspended;
        let suspended = plan(&facts);
        assert_eq!(step_and_phase(&suspended), (Step::Nothing, Some(Phase::Suspended)));
    }

    #[test]
    fn a_flash_sale_made_anew_can_t_move_the_start_of_what_is_counted() {
        let mut facts = preheated(START + 1, 3);
        let wanted = facts.wanted.as_mut().expect("wanted");
        wanted.uid = "another".into();
        wanted.spec.starts_at = time(START + 30_000);
        wanted.spec.stock = 9;
        let plan = plan(&facts);
        assert_eq!(step_and_phase(&plan), (Step::Nothing, Some(Phase::Open)));
        assert_eq!(reason(&plan, Type::Accepted), (Is::True, Reason::Adopted));
    }

    #[test]
    fn a_deleted_sale_is_closed() {
        let plan = plan(&Facts {
            wanted: None,
            ..preheated(START + 1, 3)
        });
        let Step::UpdateTerms(terms) = plan.step else {
            panic!("{plan:?}")
        };
        // When it ended is kept, not when it would have: an object that is made later is told that the name is used.
        assert_eq!((terms.state, terms.closes_at), (SaleState::Closed, START + 1));
    }

    #[test]
    fn the_end_waits_for_what_was_sold_and_then_for_the_worker() {
        let mut facts = over(3);
        facts.sale().version = 2;
        assert_eq!(plan(&facts).step, Step::ApplyTerms(Epoch(4)));
        facts.index().terms.version = 2;
        facts.index().outbox = 1;
        let draining = plan(&facts);
        assert_eq!(draining.step, Step::Nothing);
        assert_eq!(reason(&draining, Type::Settled), (Is::False, Reason::Draining));
        facts.index().outbox = 0;
        assert_eq!(plan(&facts).step, Step::Close);
        facts.close_appended = true;
        assert_eq!(plan(&facts).step, Step::Nothing);
        facts.sale().cut = SaleCut {
            cur: Some(9),
            closed: Some(9),
        };
        assert_eq!(plan(&facts).step, Step::Settle(Some(3)));
    }

    #[test]
    fn a_difference_at_the_end_is_told_with_its_numbers() {
        let mut facts = over(3);
        facts.sale().cut = SaleCut {
            cur: Some(9),
            closed: Some(9),
        };
        facts.index().left = 2;
        assert_eq!(plan(&facts).step, Step::Settle(Some(2)));
        // Also by somebody who comes after it, and finds no index any more.
        facts.sale().settled_at_ms = Some(1);
        facts.sale().settled_left = Some(2);
        facts.index = Index::NotAsked;
        for freed in [None, Some(1)] {
            facts.sale().freed_at_ms = freed;
            let told = reason(&plan(&facts), Type::LedgerBalanced);
            assert_eq!(told, (Is::False, Reason::Imbalanced));
        }
    }

    #[test]
    fn an_imbalance_is_told_while_the_sale_runs() {
        let mut facts = preheated(START + 1, 3);
        let balanced = |facts: &Facts| reason(&plan(facts), Type::LedgerBalanced);
        assert_eq!(balanced(&facts), (Is::Unknown, Reason::NothingCounted));
        for (weighed, told) in [
            (Weighed::InFlight(2), (Is::Unknown, Reason::InFlight)),
            (Weighed::Balanced, (Is::True, Reason::Balanced)),
            (
                Weighed::Imbalanced(Difference { index: 7, ledger: 8 }),
                (Is::False, Reason::Imbalanced),
            ),
        ] {
            facts.weighed = Some(weighed);
            assert_eq!(balanced(&facts), told);
        }
    }

    #[test]
    fn a_raised_stock_goes_into_the_ledger_and_then_into_the_log() {
        let mut facts = preheated(START + 1, 0);
        facts.sale().total = 10;
        facts.wanted.as_mut().expect("wanted").spec.stock = 15;
        assert_eq!(plan(&facts).step, Step::RaiseOffer(15));
        facts.sale().offered = 15;
        assert_eq!(plan(&facts).step, Step::AppendTotal);
        facts.total_appended = true;
        assert_eq!(plan(&facts).step, Step::Nothing);
        // The worker has folded it, and the index is about to be told.
        facts.total_appended = false;
        facts.sale().total = 15;
        assert_eq!(plan(&facts).step, Step::Nothing);
        facts.index().total = 15;
        facts.index().left = 5;
        assert_eq!(told(&plan(&facts)).phase, Some(Phase::Open));
    }

    #[test]
    fn a_lowered_stock_changes_nothing_and_is_told() {
        let mut facts = preheated(START + 1, 3);
        facts.wanted.as_mut().expect("wanted").spec.stock = 5;
        let plan = plan(&facts);
        assert_eq!(plan.step, Step::Nothing);
        assert_eq!(reason(&plan, Type::Accepted), (Is::True, Reason::Adopted));
    }

    #[test]
    fn the_settlement_waits_for_units_that_are_on_their_way_back() {
        let mut facts = over(3);
        facts.sale().cut = SaleCut {
            cur: Some(9),
            closed: Some(9),
        };
        // One was cancelled: the index does not know it yet.
        facts.sale().sold = 6;
        facts.sale().returned = 1;
        facts.effects_owed = true;
        assert_eq!(plan(&facts).step, Step::Nothing);
        facts.index().left = 4;
        facts.effects_owed = false;
        assert_eq!(plan(&facts).step, Step::Settle(Some(4)));
        // Another one after the end returns to nothing.
        facts.sale().sold = 5;
        assert_eq!(plan(&facts).step, Step::Settle(Some(4)));
        facts.sale().settled_at_ms = Some(1);
        facts.sale().settled_left = Some(4);
        assert_eq!(
            reason(&plan(&facts), Type::LedgerBalanced),
            (Is::True, Reason::Balanced)
        );
    }

    #[test]
    fn at_the_end_a_lost_index_is_not_rebuilt_and_a_silent_redis_is_waited_for() {
        let mut facts = over(3);
        facts.index = Index::None;
        assert_eq!(plan(&facts).step, Step::Close);
        facts.index = Index::Unknown("refused".into());
        assert_eq!(plan(&facts).step, Step::Nothing);
        facts.index = Index::None;
        facts.sale().cut = SaleCut {
            cur: Some(9),
            closed: Some(9),
        };
        assert_eq!(plan(&facts).step, Step::Settle(None));
    }

    #[test]
    fn a_settled_sale_is_left_alone_and_its_name_is_used() {
        let mut facts = over(0);
        facts.sale().settled_at_ms = Some(1);
        let freeing = plan(&facts);
        assert_eq!(step_and_phase(&freeing), (Step::Free, Some(Phase::Ended)));
        assert_eq!(freeing.standing, Standing::Unsettled);
        facts.sale().freed_at_ms = Some(1);
        let settled = plan(&facts);
        assert_eq!(step_and_phase(&settled), (Step::Nothing, Some(Phase::Settled)));
        assert_eq!((settled.look_again, settled.standing), (None, Standing::Settled));
        let wanted = facts.wanted.as_mut().expect("wanted");
        (wanted.uid, wanted.created_at) = ("another".into(), END);
        let used = plan(&facts);
        assert_eq!(step_and_phase(&used), (Step::Nothing, None));
        assert_eq!(reason(&used, Type::Accepted), (Is::False, Reason::NameUsed));
        assert_eq!(used.standing, Standing::Refused);
    }

    #[test]
    fn an_object_made_anew_before_the_end_sees_its_sale_settle() {
        let mut facts = over(0);
        let wanted = facts.wanted.as_mut().expect("wanted");
        (wanted.uid, wanted.created_at) = ("another".into(), END - 1000);
        assert_eq!(told(&plan(&facts)).phase, Some(Phase::Ended));
        facts.sale().settled_at_ms = Some(1);
        facts.sale().freed_at_ms = Some(1);
        assert_eq!(told(&plan(&facts)).phase, Some(Phase::Settled));
    }

    #[test]
    fn an_object_made_after_the_end_has_that_sale_settled_unseen() {
        let mut facts = over(0);
        let wanted = facts.wanted.as_mut().expect("wanted");
        (wanted.uid, wanted.created_at) = ("another".into(), END + 1000);
        assert_eq!(step_and_phase(&plan(&facts)), (Step::Close, None));
    }

    #[test]
    fn while_no_unit_is_counted_an_edit_changes_the_offer() {
        let mut facts = facts(START - LEAD - 1);
        facts.wanted.as_mut().expect("wanted").spec.stock = 11;
        assert_eq!(plan(&facts).step, Step::UpdateOffer);
    }

    #[test]
    fn a_later_end_is_taken_over_in_mid_sale() {
        let mut facts = preheated(START + 1, 3);
        facts.wanted.as_mut().expect("wanted").spec.ends_at = time(END + 1000);
        assert!(matches!(plan(&facts).step, Step::UpdateTerms(terms) if terms.closes_at == END + 1000));
    }

    #[test]
    fn an_outdated_index_is_neither_waited_for_nor_compared_with_at_the_end() {
        let mut facts = over(3);
        facts.index = Index::Outdated(Epoch(4));
        assert_eq!(plan(&facts).step, Step::Close);
        facts.sale().cut = SaleCut {
            cur: Some(9),
            closed: Some(9),
        };
        assert_eq!(plan(&facts).step, Step::Settle(None));
    }

    #[test]
    fn what_the_last_look_failed_for_is_told_until_one_succeeds() {
        let mut facts = preheated(START + 1, 3);
        facts.trouble = Some(Trouble {
            reason: Reason::LogUnavailable,
            message: "Kafka did not acknowledge".into(),
        });
        assert_eq!(reason(&plan(&facts), Type::Stalled), (Is::True, Reason::LogUnavailable));
        facts.trouble = None;
        assert_eq!(reason(&plan(&facts), Type::Stalled), (Is::False, Reason::Progressing));
    }

    #[test]
    fn every_plan_that_tells_something_of_an_accepted_sale_tells_of_each_condition() {
        let mut settled = over(3);
        settled.sale().settled_at_ms = Some(1);
        let mut closed = over(3);
        closed.sale().cut = SaleCut {
            cur: Some(9),
            closed: Some(9),
        };
        // What was last found while it ran is kept: the balance until the settlement, the preflight for good.
        let (ended, settled_) = ([Type::LedgerBalanced, Type::Preflight], [Type::Preflight]);
        for (facts, kept) in [
            (facts(START - LEAD - 1), &[][..]),
            (facts(START - LEAD), &[]),
            (preheated(START, 3), &[]),
            (over(3), &ended),
            (closed, &ended),
            (settled, &settled_),
        ] {
            let plan = plan(&facts);
            let mut types: Vec<Type> = told(&plan)
                .findings
                .iter()
                .map(|f| f.type_)
                .chain(kept.iter().copied())
                .collect();
            types.sort();
            let all = [
                Type::Accepted,
                Type::Preflight,
                Type::StockPreheated,
                Type::WorkloadsScaled,
                Type::Ready,
                Type::LedgerBalanced,
                Type::Settled,
                Type::Stalled,
            ];
            assert_eq!(types, all, "{plan:?}");
        }
    }

    fn requiring(mut facts: Facts) -> Facts {
        facts.wanted.as_mut().expect("wanted").spec.preflight = Preflight::Require;
        facts
    }

    /// With a Redis that drops stock.
    fn risky(mut facts: Facts) -> Facts {
        let mut servers = right();
        servers.redis.as_mut().expect("known").eviction = "allkeys-lru".into();
        facts.servers = Some(Arc::new(servers));
        facts
    }

    #[test]
    fn what_could_spoil_a_sale_is_told_and_a_sale_that_only_warns_opens() {
        let before = plan(&risky(facts(START - LEAD - 1)));
        assert_eq!(reason(&before, Type::Preflight), (Is::False, Reason::ProblemsFound));
        let open = plan(&risky(preheated(START, 10)));
        assert_eq!(step_and_phase(&open), (Step::Nothing, Some(Phase::Open)));
        assert_eq!(reason(&open, Type::Preflight), (Is::False, Reason::ProblemsFound));
        let passed = plan(&preheated(START, 10));
        assert_eq!(reason(&passed, Type::Preflight), (Is::True, Reason::Passed));
    }

    #[test]
    fn a_sale_that_requires_its_preflight_is_held_back_from_its_lead_time_until_nothing_is_found() {
        let scheduled = plan(&requiring(risky(facts(START - LEAD - 1))));
        assert_eq!(step_and_phase(&scheduled), (Step::Nothing, Some(Phase::Scheduled)));
        let due = plan(&requiring(risky(facts(START - LEAD))));
        assert!(matches!(due.step, Step::UpdateTerms(terms) if terms.state == SaleState::Suspended));
        let mut held = requiring(risky(preheated(START, 10)));
        held.sale().state = SaleState::Suspended;
        held.index().terms.state = SaleState::Suspended;
        let told_of = plan(&held);
        assert_eq!(step_and_phase(&told_of), (Step::Nothing, Some(Phase::Suspended)));
        assert_eq!(reason(&told_of, Type::Ready), (Is::False, Reason::HeldByPreflight));
        held.servers = Some(Arc::new(right()));
        assert!(matches!(plan(&held).step, Step::UpdateTerms(terms) if terms.state == SaleState::Open));
    }

    #[test]
    fn a_sale_that_has_opened_is_not_held_back_by_what_is_found_later() {
        let open = plan(&requiring(risky(preheated(START, 10))));
        assert_eq!(step_and_phase(&open), (Step::Nothing, Some(Phase::Open)));
        // Resuming is opening anew.
        let mut resumed = requiring(risky(preheated(START + 1, 10)));
        resumed.sale().state = SaleState::Suspended;
        resumed.index().terms.state = SaleState::Suspended;
        assert_eq!(
            reason(&plan(&resumed), Type::Ready),
            (Is::False, Reason::HeldByPreflight)
        );
    }

    #[test]
    fn before_anything_was_checked_a_sale_that_requires_it_stays_as_it_is() {
        let mut facts = requiring(preheated(START - 1, 10));
        facts.servers = None;
        let ready = plan(&facts);
        assert_eq!(step_and_phase(&ready), (Step::Nothing, Some(Phase::Ready)));
        assert_eq!(reason(&ready, Type::Preflight), (Is::Unknown, Reason::Checking));
        facts.sale().state = SaleState::Suspended;
        facts.index().terms.state = SaleState::Suspended;
        assert_eq!(reason(&plan(&facts), Type::Ready), (Is::False, Reason::HeldByPreflight));
    }

    #[test]
    fn a_new_sale_that_requires_its_preflight_is_entered_as_held_back() {
        let state = |facts: Facts| {
            let wanted = facts.wanted.expect("wanted");
            wanted.new_sale("default", "shop", "sale", 0).terms.state
        };
        assert_eq!(state(facts(START)), SaleState::Open);
        assert_eq!(state(requiring(facts(START))), SaleState::Suspended);
    }
}
