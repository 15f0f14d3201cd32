use std::sync::Arc;
use std::time::Duration;

use seckill_protocol::format::Heartbeat;
use seckill_protocol::index::{IndexState, Millis, SaleState};
use seckill_protocol::install::InstallRefused;
use seckill_protocol::sale::Sale;
use seckill_protocol::tiers::TierRule;
use seckill_protocol::{Epoch, Format, SaleCut, SaleId, Tiers};

use super::*;
use crate::balance::{BalanceCheck, Imbalance};
use crate::clocks::{ClockDifference, Clocks};
use crate::condition::{Blocker, ConditionStatus, ConditionType, Phase, Progress, Reason, StatusReport};
use crate::demand::{Needs, ReplicaBounds, Workload, Workloads};
use crate::observation::{LedgerAbsence, ObservedIndex};
use crate::orphan::{Absence, Deletion, LiveAnswer};
use crate::ownership::Cluster;
use crate::preflight::tests::right;
use crate::rebuild_pacing::RebuildDelay;
use crate::sale::tests::{END, LEAD, START, desired};
use crate::sale::{SaleKey, Standing};

fn workload(ready: i32) -> Result<Workload, String> {
    Ok(Workload {
        name: "w".into(),
        bounds: ReplicaBounds { floor: 1, ceiling: 2 },
        ready,
        autoscaler: None,
        blocked: None,
    })
}

/// So many pods each, and what the one sale needs of the API.
fn workloads(ready: i32, api: i32) -> Arc<Workloads> {
    let needs = Needs { api, worker: 1 };
    Arc::new(Workloads {
        are_managed: true,
        api: workload(ready),
        worker: workload(1),
        needs: [(SaleKey::new("shop", "sale"), needs)].into(),
    })
}

/// A sale that the ledger took over from the FlashSale, at some instant.
fn scheduled(now: Millis) -> Observation {
    let desired = desired();
    let (terms, offer) = (desired.terms(), desired.offer.clone());
    let sale = Sale {
        id: SaleId(1),
        class: "default".into(),
        namespace: "shop".into(),
        name: "sale".into(),
        uid: "u".into(),
        partition: 0,
        format: Format::FIRST,
        version: 1,
        state: terms.state,
        opens_at: terms.opens_at,
        closes_at: terms.closes_at,
        limit_per_buyer: 0,
        max_per_order: terms.max_per_order,
        orders_ever_max: terms.orders_ever_max,
        item: offer.item,
        item_id: None,
        issuer: None,
        tiers: None,
        tier_limits: Default::default(),
        price: "1.00".into(),
        currency: "EUR".into(),
        offered: 10,
        live_epoch: None,
        total: 0,
        sold: 0,
        taken: 0,
        returned: 0,
        orders_ever: 0,
        cut: SaleCut::default(),
        created_at_ms: 0,
        updated_at_ms: 0,
        settled_at_ms: None,
        settled_left: None,
        freed_at_ms: None,
        missing_since_ms: None,
        stopped: false,
        identity_at: None,
        cluster: Some("cluster".into()),
    };
    Observation {
        key: SaleKey::new("shop", "sale"),
        class: "default".into(),
        cluster: Cluster {
            identity: "cluster".into(),
            take_over_from: None,
        },
        partitions: Some(8),
        clocks: Clocks::all_at(now),
        desired: Some(desired),
        absence: Absence::default(),
        ledger_absence: None,
        sale: Some(sale),
        index: ObservedIndex::NotAsked,
        index_unknown_for: Duration::ZERO,
        workloads: workloads(1, 1),
        servers: Some(Arc::new(right())),
        balance: None,
        adjustments_pending: false,
        close_appended: false,
        total_appended: false,
        blocker: None,
        rebuild_delay: None,
        is_watched: false,
    }
}

/// An open sale that was not preheated yet.
pub(crate) fn sale() -> Sale {
    scheduled(START).sale.expect("there is one")
}

/// The same with an index of 10 units in force, of which some are left.
fn preheated(now: Millis, left: u64) -> Observation {
    let mut observed = scheduled(now);
    let terms = observed.sale().terms();
    observed.index = ObservedIndex::InForce(IndexState {
        epoch: Epoch(4),
        rid: "r".into(),
        terms,
        total: 10,
        left,
        seq: 10 - left,
        ever: Some(10 - left),
        adjusted: Some(4),
        taken: Vec::new(),
        holders: 0,
        outbox: 0,
    });
    observed.sale().live_epoch = Some(Epoch(4));
    observed
}

/// A sale that was told to sell no more, and whose index knows it.
fn over(left: u64) -> Observation {
    let mut observed = preheated(END, left);
    observed.sale().state = SaleState::Closed;
    observed.sale().total = 10;
    observed.sale().sold = 10 - left;
    observed.sale().taken = 10 - left;
    let terms = observed.sale().terms();
    observed.index().terms = terms;
    observed
}

impl Observation {
    fn sale(&mut self) -> &mut Sale {
        self.sale.as_mut().expect("there is one")
    }

    fn index(&mut self) -> &mut IndexState {
        match &mut self.index {
            ObservedIndex::InForce(index) => index,
            other => panic!("{other:?}"),
        }
    }
}

fn reason(plan: &Plan, type_: ConditionType) -> (ConditionStatus, Reason) {
    let condition = report(plan).condition(type_).expect("reported");
    (condition.status, condition.reason)
}

/// Why the sale does not go on.
fn blocked(plan: &Plan) -> (Reason, &str) {
    match &report(plan).progress {
        Progress::Blocked { reason, message } | Progress::Stopped { reason, message } => (*reason, message),
        other => panic!("{other:?}"),
    }
}

fn message(plan: &Plan, type_: ConditionType) -> &str {
    &report(plan).condition(type_).expect("reported").message
}

fn report(plan: &Plan) -> &StatusReport {
    plan.report.as_ref().expect("a report")
}

fn step_and_phase(plan: &Plan) -> (&'static str, Option<Phase>) {
    (plan.step.name(), report(plan).phase)
}

/// A FlashSale that the ledger does not know, some milliseconds after that was found.
fn absent(millis: Millis, behind: &[u32]) -> Observation {
    Observation {
        sale: None,
        ledger_absence: Some(LedgerAbsence {
            since: START - LEAD - 9_000,
            behind: behind.to_vec(),
            required_format: Format::FIRST,
            running: Vec::new(),
        }),
        ..scheduled(START - LEAD - 9_000 + millis)
    }
}

#[test]
fn a_new_sale_is_entered_into_the_ledger() {
    let plan = plan(&absent(0, &[]));
    let Step::Create(new) = &plan.step else {
        panic!("{plan:?}")
    };
    assert_eq!((new.terms.opens_at, new.name.as_str()), (START, "sale"));
    assert_eq!(new.cluster.as_deref(), Some("cluster"));
    assert_eq!(plan.report, None);
}

#[test]
fn a_sale_of_a_newer_format_waits_for_older_programs() {
    let mut observed = absent(0, &[]);
    observed.desired.as_mut().expect("there is one").format = Format(2);
    assert_eq!(plan(&observed).step.name(), "Create");
    let heartbeat = |instance: &str, format| Heartbeat {
        program: "seckill-api".into(),
        instance: instance.into(),
        format: Format(format),
    };
    let absence = observed.ledger_absence.as_mut().expect("absent");
    absence.running = vec![heartbeat("old", 1), heartbeat("new", 2)];
    let waits = plan(&observed);
    assert_eq!((waits.step.clone(), waits.standing), (Step::Nothing, Standing::Refused));
    assert_eq!(
        reason(&waits, ConditionType::Accepted),
        (ConditionStatus::False, Reason::NewerFormatNeeded)
    );
    let accepted = report(&waits).condition(ConditionType::Accepted).expect("reported");
    assert!(
        accepted.message.contains("seckill-api/old (format 1);"),
        "{}",
        accepted.message
    );
    assert!(waits.requeue_after.is_some_and(|after| after <= Duration::from_secs(5)));
    let absence = observed.ledger_absence.as_mut().expect("absent");
    absence.required_format = Format(2);
    assert_eq!(plan(&observed).step.name(), "Create");
}

#[test]
fn unknown_fields_refuse_a_new_sale_and_not_an_accepted_one() {
    let unknown = |mut observed: Observation| {
        observed.desired.as_mut().expect("there is one").unknown_fields = vec!["spec.rehearsal".into()];
        plan(&observed)
    };
    let refused = unknown(absent(0, &[]));
    assert_eq!(
        (refused.step.clone(), refused.standing),
        (Step::Nothing, Standing::Refused)
    );
    assert_eq!(
        reason(&refused, ConditionType::Accepted),
        (ConditionStatus::False, Reason::UnknownFields)
    );
    // The row may come back from the log, which no event tells.
    assert!(refused.requeue_after.is_some());
    for (observed, phase) in [
        (scheduled(START - LEAD - 1), Phase::Scheduled),
        (preheated(START, 5), Phase::Open),
    ] {
        let accepted = unknown(observed);
        assert_eq!(report(&accepted).phase, Some(phase));
        assert_eq!(
            reason(&accepted, ConditionType::Accepted),
            (ConditionStatus::True, Reason::UnknownFields)
        );
    }
}

#[test]
fn no_sale_is_created_while_the_ledger_is_behind() {
    let short = plan(&absent(999, &[3]));
    assert_eq!((short.step, short.report), (Step::Nothing, None));
    let long = plan(&absent(1_000, &[3, 5]));
    assert_eq!(step_and_phase(&long), ("Nothing", Some(Phase::Scheduled)));
    let due = plan(&absent(9_000, &[3]));
    assert_eq!(step_and_phase(&due), ("Nothing", Some(Phase::Preheating)));
    let accepted = report(&long).condition(ConditionType::Accepted).expect("reported");
    assert_eq!(
        (accepted.status, accepted.reason),
        (ConditionStatus::Unknown, Reason::LedgerBehind)
    );
    assert!(
        accepted.message.contains("partitions behind: 3, 5;"),
        "{}",
        accepted.message
    );
    let unread = Observation {
        ledger_absence: None,
        ..absent(0, &[])
    };
    for waiting in [short.standing, long.standing, plan(&unread).standing] {
        assert_eq!(waiting, Standing::AwaitingLedger);
    }
}

#[test]
fn a_sale_other_than_the_status_names_is_not_touched() {
    let mut other = scheduled(START);
    other.desired.as_mut().expect("desired").known_id = Some(SaleId(7));
    let mut gone = absent(0, &[]);
    gone.desired.as_mut().expect("desired").known_id = Some(SaleId(7));
    for observed in [other.clone(), gone] {
        let plan = plan(&observed);
        assert_eq!(plan.step, Step::Nothing);
        // A person may restore the other sale.
        assert_eq!(plan.requeue_after, Some(Duration::from_secs(5)));
        let mismatch = Reason::IdentityMismatch;
        assert_eq!(
            reason(&plan, ConditionType::Accepted),
            (ConditionStatus::False, mismatch)
        );
        assert_eq!(blocked(&plan).0, mismatch);
    }
    let mut same = other;
    same.desired.as_mut().expect("desired").known_id = Some(SaleId(1));
    assert_eq!(reason(&plan(&same), ConditionType::Accepted).1, Reason::Accepted);
}

/// What the worker inserts for an IDENTITY: suspended, version 1, no live epoch.
fn restored(now: Millis) -> Observation {
    let mut observed = preheated(now, 4);
    observed.index().terms.version = 5;
    let sale = observed.sale();
    (sale.state, sale.live_epoch, sale.identity_at) = (SaleState::Suspended, None, Some(0));
    sale.cut.current_epoch = Some(4);
    observed
}

#[test]
fn a_restored_row_gets_the_terms_of_the_flash_sale_first() {
    let mut observed = restored(START + 1);
    let resumed = plan(&observed);
    assert!(
        matches!(&resumed.step, Step::UpdateTerms { terms, .. } if terms.state == SaleState::Open),
        "{resumed:?}"
    );
    (observed.sale().state, observed.sale().version) = (SaleState::Open, 2);
    assert!(matches!(plan(&observed).step, Step::Publish { epoch: Epoch(4), .. }));
}

#[test]
fn a_restored_row_is_not_held_back_by_the_preflight() {
    let mut observed = restored(START + 1);
    observed.desired.as_mut().expect("desired").preflight_required = true;
    observed.servers = None;
    let terms = |plan: Plan| match plan.step {
        Step::UpdateTerms { terms, .. } => Some(terms.state),
        _ => None,
    };
    assert_eq!(terms(plan(&observed)), Some(SaleState::Open));
    // A sale that was held back stays so.
    observed.index().terms.state = SaleState::Suspended;
    assert_eq!(terms(plan(&observed)), None);
}

#[test]
fn close_in_the_log_ends_a_sale_whose_row_forgot_it() {
    let mut observed = restored(START + 1);
    observed.sale().cut.closed = Some(9);
    let plan = plan(&observed);
    assert!(
        matches!(&plan.step, Step::UpdateTerms { terms, .. } if terms.state == SaleState::Closed),
        "{plan:?}"
    );
}

#[test]
fn before_its_lead_time_a_sale_waits_for_it() {
    let plan = plan(&scheduled(START - LEAD - 500));
    assert_eq!(step_and_phase(&plan), ("Nothing", Some(Phase::Scheduled)));
    assert_eq!(
        (report(&plan).next_transition_at, plan.requeue_after),
        (Some(START - LEAD), Some(Duration::from_millis(500)))
    );
}

#[test]
fn from_its_lead_time_a_missing_index_is_built() {
    let plan = plan(&scheduled(START - LEAD));
    assert_eq!(step_and_phase(&plan), ("Rebuild", Some(Phase::Preheating)));
    assert_eq!(
        reason(&plan, ConditionType::Ready),
        (ConditionStatus::False, Reason::StockMissing)
    );
}

#[test]
fn a_sale_whose_start_is_past_is_preheated_at_once() {
    assert_eq!(plan(&scheduled(END - 1)).step.name(), "Rebuild");
}

#[test]
fn a_sale_whose_end_is_past_is_closed_and_never_preheated() {
    let plan = plan(&scheduled(END));
    assert!(matches!(plan.step, Step::UpdateTerms { terms, .. } if terms.state == SaleState::Closed));
}

#[test]
fn with_stock_and_pods_a_sale_is_ready_and_opens() {
    let ready = plan(&preheated(START - 1, 10));
    assert_eq!(step_and_phase(&ready), ("Nothing", Some(Phase::Ready)));
    assert_eq!(ready.requeue_after, Some(Duration::from_millis(1)));
    let open = plan(&preheated(START, 10));
    assert_eq!(
        (report(&open).phase, report(&open).next_transition_at),
        (Some(Phase::Open), Some(END))
    );
    assert_eq!(report(&plan(&preheated(START, 0))).phase, Some(Phase::SoldOut));
}

#[test]
fn an_address_that_leads_to_a_replica_begins_no_rebuild() {
    for refused in [InstallRefused::NotAPrimary, InstallRefused::NoReplicationId] {
        let mut observed = preheated(START, 10);
        observed.index = ObservedIndex::NoServer(refused);
        observed.index_unknown_for = Duration::from_secs(5);
        let plan = plan(&observed);
        assert_eq!(step_and_phase(&plan), ("Nothing", Some(Phase::Preheating)));
        assert_eq!(plan.requeue_after, Some(Duration::from_millis(200)));
        let (unknown, unavailable) = (ConditionStatus::Unknown, Reason::RedisUnavailable);
        assert_eq!(reason(&plan, ConditionType::StockPreheated), (unknown, unavailable));
        let replica = refused == InstallRefused::NotAPrimary;
        assert_eq!(blocked(&plan).0, unavailable);
        assert_eq!(blocked(&plan).1.starts_with("the address leads to a replica"), replica);
    }
}

#[test]
fn an_ended_index_is_published_before_the_worker_drains_it() {
    let mut observed = over(4);
    observed.index().outbox = 2;
    // MySQL came back without the newest epoch, so the worker reads the outbox of an older one.
    observed.sale().live_epoch = Some(Epoch(3));
    assert!(matches!(plan(&observed).step, Step::Publish { epoch: Epoch(4), .. }));
    observed.sale().live_epoch = None;
    assert!(matches!(plan(&observed).step, Step::Publish { epoch: Epoch(4), .. }));
    observed.sale().live_epoch = Some(Epoch(4));
    assert_eq!(step_and_phase(&plan(&observed)), ("Nothing", Some(Phase::Ended)));
}

#[test]
fn an_ended_sale_outnumbers_terms_that_mysql_lost() {
    let mut observed = over(4);
    observed.index().terms.version = 2;
    observed.index().terms.state = SaleState::Open;
    assert!(matches!(plan(&observed).step, Step::Renumber { version: 3, .. }));
}

#[test]
fn a_sale_that_ended_waits_for_a_primary_before_close() {
    let mut observed = over(4);
    observed.index = ObservedIndex::NoServer(InstallRefused::NotAPrimary);
    let plan = plan(&observed);
    assert_eq!(step_and_phase(&plan), ("Nothing", Some(Phase::Ended)));
    assert_eq!(
        reason(&plan, ConditionType::Settled),
        (ConditionStatus::False, Reason::RedisUnavailable)
    );
}

#[test]
fn a_rebuild_soon_after_others_waits_and_is_reported() {
    for index in [ObservedIndex::Missing, ObservedIndex::Outdated(Epoch(4))] {
        let mut observed = preheated(START, 10);
        observed.index = index;
        observed.rebuild_delay = Some(RebuildDelay {
            in_a_row: 3,
            left: Duration::from_millis(40),
        });
        let waiting = plan(&observed);
        assert_eq!(step_and_phase(&waiting), ("Nothing", Some(Phase::Preheating)));
        assert_eq!(waiting.requeue_after, Some(Duration::from_millis(40)));
        let stock = report(&waiting)
            .condition(ConditionType::StockPreheated)
            .expect("reported");
        assert!(stock.message.contains("rebuild 3 in a row"), "{}", stock.message);
        observed.rebuild_delay = None;
        assert_eq!(plan(&observed).step.name(), "Rebuild");
    }
}

#[test]
fn missing_pods_delay_ready_before_the_start_only() {
    let mut observed = preheated(START - 1, 10);
    assert_eq!(report(&plan(&observed)).progress, Progress::UpToDate);
    observed.workloads = workloads(0, 1);
    let before = plan(&observed);
    let waits_for = report(&before).progress.reason().map(|(reason, _)| reason);
    assert_eq!(waits_for, Some(Reason::WorkloadsMissing));
    assert_eq!(report(&before).phase, Some(Phase::Preheating));
    assert_eq!(
        reason(&before, ConditionType::Ready),
        (ConditionStatus::False, Reason::WorkloadsMissing)
    );
    assert_eq!(
        reason(&before, ConditionType::WorkloadsScaled),
        (ConditionStatus::False, Reason::Scaling)
    );
    observed.clocks = Clocks::all_at(START);
    let opened = plan(&observed);
    assert_eq!(report(&opened).phase, Some(Phase::Open));
    assert_eq!(report(&opened).progress, Progress::UpToDate);
}

#[test]
fn an_autoscaler_is_named_although_all_pods_are_ready() {
    let mut observed = preheated(START - 1, 10);
    let pods = Arc::make_mut(&mut observed.workloads);
    pods.api.as_mut().expect("known").autoscaler = Some("HorizontalPodAutoscaler a".to_owned());
    let left = plan(&observed);
    assert_eq!(
        reason(&left, ConditionType::WorkloadsScaled),
        (ConditionStatus::True, Reason::LeftToAutoscaler)
    );
    assert!(message(&left, ConditionType::WorkloadsScaled).contains("HorizontalPodAutoscaler a"));
}

#[test]
fn an_operator_without_deployments_waits_for_no_pods() {
    let mut observed = preheated(START - 1, 10);
    observed.workloads = Arc::new(Workloads::not_managed());
    let before = plan(&observed);
    assert_eq!(
        reason(&before, ConditionType::WorkloadsScaled),
        (ConditionStatus::True, Reason::NotManaged)
    );
    assert_eq!(report(&before).phase, Some(Phase::Ready));
}

#[test]
fn a_demand_above_the_ceiling_is_named() {
    let mut observed = preheated(START - 1, 10);
    observed.workloads = workloads(1, 3);
    assert_eq!(
        reason(&plan(&observed), ConditionType::WorkloadsScaled),
        (ConditionStatus::False, Reason::CeilingReached)
    );
}

#[test]
fn a_lost_index_is_rebuilt_and_an_unknown_one_is_not() {
    let mut observed = preheated(START + 1, 3);
    observed.index = ObservedIndex::Missing;
    assert_eq!(plan(&observed).step.name(), "Rebuild");
    observed.index = ObservedIndex::Unknown("refused".into());
    observed.index_unknown_for = Duration::from_secs(5);
    let unknown = plan(&observed);
    assert_eq!(unknown.step.name(), "Nothing");
    assert_eq!(
        reason(&unknown, ConditionType::StockPreheated),
        (ConditionStatus::Unknown, Reason::RedisUnavailable)
    );
    assert_eq!(blocked(&unknown).0, Reason::RedisUnavailable);
    let unknown_ = (ConditionStatus::Unknown, Reason::StockMissing);
    for type_ in [ConditionType::Prepared, ConditionType::Sellable, ConditionType::Ready] {
        assert_eq!(reason(&unknown, type_), unknown_);
    }
}

#[test]
fn a_redis_that_does_not_answer_for_a_moment_changes_no_report() {
    let mut observed = preheated(START + 1, 3);
    observed.index = ObservedIndex::Unknown("refused".into());
    observed.index_unknown_for = Duration::from_millis(4999);
    let assert_waits = |plan: &Plan| {
        assert_eq!((plan.step.name(), &plan.report), ("Nothing", &None));
        assert!(plan.requeue_after.is_some_and(|after| after < Duration::from_secs(1)));
    };
    assert_waits(&plan(&observed));
    // A sale that never had an index has no earlier report to stand.
    observed.sale().live_epoch = None;
    assert!(plan(&observed).report.is_some());
    let sale = observed.sale();
    (sale.state, sale.settled_at_ms) = (SaleState::Closed, Some(1));
    assert_waits(&plan(&observed));
}

#[test]
fn a_barrier_without_an_index_leads_to_a_rebuild() {
    let mut observed = preheated(START + 1, 3);
    observed.index = ObservedIndex::Outdated(Epoch(4));
    assert_eq!(plan(&observed).step.name(), "Rebuild");
}

#[test]
fn an_index_unknown_to_the_ledger_is_published() {
    let mut observed = preheated(START + 1, 3);
    observed.sale().live_epoch = Some(Epoch(3));
    assert!(matches!(plan(&observed).step, Step::Publish { epoch: Epoch(4), .. }));
}

#[test]
fn terms_lost_by_the_ledger_get_a_newer_version() {
    let mut observed = preheated(START + 1, 3);
    observed.index().terms.version = 7;
    observed.index().terms.state = SaleState::Suspended;
    assert!(matches!(plan(&observed).step, Step::Renumber { version: 8, .. }));
    observed.sale().version = 8;
    assert!(matches!(plan(&observed).step, Step::ApplyTerms { epoch: Epoch(4), .. }));
    // The same terms under a newer version are no trouble.
    observed.sale().version = 5;
    observed.index().terms.state = SaleState::Open;
    assert_eq!(plan(&observed).step.name(), "Nothing");
}

#[test]
fn changed_terms_go_to_the_ledger_then_to_the_index() {
    let mut observed = preheated(START + 1, 3);
    observed.desired.as_mut().expect("desired").suspended = true;
    let changed = plan(&observed);
    let Step::UpdateTerms { terms, .. } = changed.step else {
        panic!("{changed:?}")
    };
    assert_eq!(terms.state, SaleState::Suspended);
    observed.sale().state = terms.state;
    observed.sale().version = 2;
    assert!(matches!(plan(&observed).step, Step::ApplyTerms { epoch: Epoch(4), .. }));
    observed.index().terms.version = 2;
    observed.index().terms.state = SaleState::Suspended;
    let suspended = plan(&observed);
    assert_eq!(step_and_phase(&suspended), ("Nothing", Some(Phase::Suspended)));
}

#[test]
fn a_suspended_sale_needs_nothing_and_sells_nothing() {
    let mut observed = preheated(START - 1, 10);
    observed.desired.as_mut().expect("desired").suspended = true;
    observed.sale().state = SaleState::Suspended;
    observed.index().terms.state = SaleState::Suspended;
    let suspended = plan(&observed);
    assert_eq!(step_and_phase(&suspended), ("Nothing", Some(Phase::Suspended)));
    assert_eq!(
        reason(&suspended, ConditionType::Ready),
        (ConditionStatus::True, Reason::Suspended)
    );
    assert_eq!(
        reason(&suspended, ConditionType::Sellable),
        (ConditionStatus::False, Reason::Suspended)
    );
    // It can go on at once.
    assert_eq!(
        reason(&suspended, ConditionType::Prepared),
        (ConditionStatus::True, Reason::ReadyToSell)
    );
}

#[test]
fn a_sale_that_is_suspended_before_its_lead_time_says_so() {
    let mut observed = scheduled(START - LEAD - 1);
    observed.desired.as_mut().expect("desired").suspended = true;
    observed.sale().state = SaleState::Suspended;
    let suspended = plan(&observed);
    assert_eq!(step_and_phase(&suspended), ("Nothing", Some(Phase::Suspended)));
    assert_eq!(
        reason(&suspended, ConditionType::Sellable),
        (ConditionStatus::False, Reason::Suspended)
    );
    assert_eq!(
        reason(&suspended, ConditionType::Prepared),
        (ConditionStatus::False, Reason::NotYetDue)
    );
    assert_eq!(report(&suspended).next_transition_at, Some(START - LEAD));
}

#[test]
fn a_sale_is_ready_in_each_phase_that_misses_nothing() {
    let mut settled = over(3);
    settled.sale().settled_at_ms = Some(1);
    let (yes, no) = (ConditionStatus::True, ConditionStatus::False);
    for (observed, phase, sellable) in [
        (scheduled(START - LEAD - 1), Phase::Scheduled, no),
        (preheated(START - 1, 10), Phase::Ready, no),
        (preheated(START, 10), Phase::Open, yes),
        (preheated(START, 0), Phase::SoldOut, no),
        (over(3), Phase::Ended, no),
    ] {
        let plan = plan(&observed);
        assert_eq!(report(&plan).phase, Some(phase));
        assert_eq!(reason(&plan, ConditionType::Ready).0, yes, "{phase:?}");
        assert_eq!(reason(&plan, ConditionType::Sellable).0, sellable, "{phase:?}");
    }
    assert_eq!(reason(&plan(&settled), ConditionType::Ready).0, yes);
}

#[test]
fn a_problem_of_the_preflight_is_no_go_although_the_sale_opens() {
    let risky = plan(&risky(preheated(START, 10)));
    assert_eq!(
        reason(&risky, ConditionType::Prepared),
        (ConditionStatus::False, Reason::ProblemsFound)
    );
    assert_eq!(
        reason(&risky, ConditionType::Sellable),
        (ConditionStatus::True, Reason::Selling)
    );
}

#[test]
fn nobody_can_buy_without_a_pod_of_the_api() {
    let mut observed = preheated(START, 10);
    observed.workloads = workloads(0, 1);
    let plan = plan(&observed);
    assert_eq!(report(&plan).phase, Some(Phase::Open));
    let missing = (ConditionStatus::False, Reason::WorkloadsMissing);
    assert_eq!(reason(&plan, ConditionType::Sellable), missing);
    assert_eq!(reason(&plan, ConditionType::Ready), missing);
}

#[test]
fn a_total_in_the_log_raises_what_the_row_offers() {
    let mut observed = preheated(START, 10);
    observed.sale().total = 12;
    assert!(matches!(plan(&observed).step, Step::RaiseOffer { units: 12, .. }));
}

#[test]
fn an_end_that_came_too_late_is_named_as_without_effect() {
    let mut observed = over(3);
    observed.desired.as_mut().expect("desired").ends_at = END + 1;
    let ended = plan(&observed);
    let accepted = report(&ended).condition(ConditionType::Accepted).expect("reported");
    assert_eq!(accepted.reason, Reason::Adopted);
    assert!(accepted.message.contains("spec.endsAt"), "{}", accepted.message);
    assert!(
        accepted.message.starts_with("the sale has ended"),
        "{}",
        accepted.message
    );
}

#[test]
fn a_refusal_that_an_upgrade_ends_is_blocked_and_any_other_stops_the_sale() {
    for (reason, is_blocked, keeps_phase) in [
        (Reason::NewerFormatNeeded, true, true),
        (Reason::UnknownFields, true, true),
        (Reason::NameUsed, false, false),
        (Reason::OtherCluster, false, false),
    ] {
        let refused = report::refusal(reason, "");
        assert_eq!(
            matches!(refused.progress, Progress::Blocked { .. }),
            is_blocked,
            "{reason:?}"
        );
        assert_eq!(refused.keeps_phase, keeps_phase, "{reason:?}");
    }
}

/// The FlashSale wants the sale open, and the emergency stop of its class is on.
#[test]
fn an_emergency_stop_holds_the_index_and_is_reported() {
    let stopped = (ConditionStatus::True, Reason::EmergencyStop);
    let mut observed = preheated(START + 1, 3);
    (observed.sale().stopped, observed.sale().version) = (true, 2);
    let Step::ApplyTerms { terms, .. } = plan(&observed).step else {
        panic!("{:?}", plan(&observed))
    };
    assert_eq!((terms.version, terms.state), (2, SaleState::Suspended));
    observed.index().terms = terms;
    let held = plan(&observed);
    assert_eq!(step_and_phase(&held), ("Nothing", Some(Phase::Suspended)));
    assert_eq!(reason(&held, ConditionType::Ready), stopped);
    // A lost index is rebuilt meanwhile.
    observed.index = ObservedIndex::Missing;
    let rebuilt = plan(&observed);
    assert_eq!(step_and_phase(&rebuilt), ("Rebuild", Some(Phase::Suspended)));
    let incomplete = (ConditionStatus::False, Reason::EmergencyStop);
    assert_eq!(reason(&rebuilt, ConditionType::Ready), incomplete);
    let mut observed = scheduled(START - LEAD - 60_000);
    observed.sale().stopped = true;
    let waiting = plan(&observed);
    assert_eq!(step_and_phase(&waiting), ("Nothing", Some(Phase::Suspended)));
    assert_eq!(reason(&waiting, ConditionType::Ready), stopped);
    assert!(waiting.requeue_after <= Some(Duration::from_secs(5)));
    // It delays no end.
    let mut observed = preheated(END, 3);
    observed.sale().stopped = true;
    let Step::UpdateTerms { terms, .. } = plan(&observed).step else {
        panic!("{:?}", plan(&observed))
    };
    assert_eq!(terms.state, SaleState::Closed);
}

#[test]
fn a_watched_sale_of_which_nothing_is_to_come_waits_for_changes() {
    let interval = |change: &dyn Fn(&mut Observation)| {
        let mut observed = preheated(START + 1, 3);
        (observed.is_watched, observed.balance) = (true, Some(BalanceCheck::Balanced));
        change(&mut observed);
        plan(&observed).requeue_after.expect("it is reconciled again").as_secs()
    };
    assert_eq!(interval(&|_| {}), 10);
    assert_eq!(interval(&|observed| observed.index().left = 0), 10);
    assert_eq!(interval(&|observed| observed.is_watched = false), 1);
    assert_eq!(interval(&|observed| observed.balance = None), 1);
    assert_eq!(interval(&|observed| observed.adjustments_pending = true), 1);
    // Before the start the pods have to become ready.
    assert_eq!(
        interval(&|observed| observed.clocks = Clocks::all_at(START - 60_000)),
        1
    );
    // Its end is never late.
    assert_eq!(interval(&|observed| observed.clocks = Clocks::all_at(END - 4_000)), 4);
}

#[test]
fn a_recreated_flash_sale_cannot_move_the_start() {
    let mut observed = preheated(START + 1, 3);
    let desired = observed.desired.as_mut().expect("desired");
    desired.uid = "another".into();
    desired.starts_at = START + 30_000;
    desired.offer.offered = 9;
    let plan = plan(&observed);
    assert_eq!(step_and_phase(&plan), ("Nothing", Some(Phase::Open)));
    assert_eq!(
        reason(&plan, ConditionType::Accepted),
        (ConditionStatus::True, Reason::Adopted)
    );
}

/// An open sale without a FlashSale.
fn orphaned(now: Millis, deletion: Deletion) -> Observation {
    let mut observed = preheated(now, 3);
    observed.desired = None;
    observed.absence = Absence {
        live: LiveAnswer::NotFound,
        deletion,
        grace: 20_000,
    };
    observed
}

#[test]
fn a_deleted_sale_is_suspended_and_closed_after_the_grace() {
    let seen = Deletion::Seen { at: START };
    assert_eq!(plan(&orphaned(START + 4_999, seen)).step.name(), "Nothing");
    let mut observed = orphaned(START + 5_000, seen);
    assert!(matches!(plan(&observed).step, Step::RecordDeletion { at, .. } if at == START + 5_000));
    observed.sale().missing_since_ms = Some(START + 5_000);
    let suspend = plan(&observed);
    assert!(matches!(suspend.step, Step::UpdateTerms { terms, .. } if terms.state == SaleState::Suspended));
    observed.sale().state = SaleState::Suspended;
    observed.sale().version = 2;
    assert_eq!(plan(&observed).step.name(), "ApplyTerms");
    observed.index().terms = observed.sale().terms();
    assert_eq!(plan(&observed).step, Step::Nothing);
    observed.clocks = Clocks::all_at(START + 25_000);
    let closed = plan(&observed);
    let Step::UpdateTerms { terms, .. } = closed.step else {
        panic!("{closed:?}")
    };
    // When it ended is kept, not when it would have: an object that is made later is told that the name is used.
    assert_eq!((terms.state, terms.closes_at), (SaleState::Closed, START + 25_000));
}

#[test]
fn a_flash_sale_that_comes_back_resumes_its_sale() {
    let mut observed = preheated(START + 9_000, 3);
    observed.sale().missing_since_ms = Some(START + 5_000);
    observed.sale().state = SaleState::Suspended;
    assert_eq!(plan(&observed).step.name(), "ForgetDeletion");
    observed.sale().missing_since_ms = None;
    assert!(matches!(plan(&observed).step, Step::UpdateTerms { terms, .. } if terms.state == SaleState::Open));
}

#[test]
fn a_missing_flash_sale_without_a_deletion_stops_nothing() {
    for live in [LiveAnswer::NotFound, LiveAnswer::Inconclusive] {
        let mut observed = orphaned(END - 1, Deletion::NotSeen);
        observed.absence.live = live;
        assert_eq!(plan(&observed).step, Step::Nothing);
        // Its index is kept.
        observed.index = ObservedIndex::Missing;
        assert_eq!(plan(&observed).step.name(), "Rebuild");
        observed.clocks = Clocks::all_at(END);
        assert!(matches!(plan(&observed).step, Step::UpdateTerms { terms, .. } if terms.state == SaleState::Closed));
    }
    let mut scheduled = scheduled(START);
    (scheduled.desired, scheduled.index) = (None, ObservedIndex::Missing);
    assert_eq!(plan(&scheduled).step, Step::Nothing);
}

#[test]
fn a_sale_of_another_cluster_is_refused_and_never_touched() {
    let other = |mut observed: Observation| {
        observed.sale().cluster = Some("another".into());
        observed
    };
    let mut settled = over(3);
    settled.sale().settled_at_ms = Some(1);
    let mut past_its_end = preheated(END, 3);
    past_its_end.sale().missing_since_ms = Some(START);
    for observed in [scheduled(START), preheated(START, 3), past_its_end, over(3), settled] {
        let mut observed = other(observed);
        let refused = plan(&observed);
        assert_eq!((&refused.step, refused.standing), (&Step::Nothing, Standing::Refused));
        for type_ in [
            ConditionType::Accepted,
            ConditionType::Prepared,
            ConditionType::Sellable,
            ConditionType::Ready,
        ] {
            assert_eq!(reason(&refused, type_), (ConditionStatus::False, Reason::OtherCluster));
        }
        assert_eq!(blocked(&refused).0, Reason::OtherCluster);
        observed.desired = None;
        observed.absence.live = LiveAnswer::NotFound;
        observed.absence.deletion = Deletion::Seen { at: 0 };
        let orphan = plan(&observed);
        assert_eq!((orphan.step, orphan.report), (Step::Nothing, None));
    }
}

#[test]
fn a_sale_is_claimed_from_the_cluster_that_is_named() {
    let mut observed = preheated(START, 3);
    observed.sale().cluster = Some("another".into());
    observed.cluster.take_over_from = Some("another".into());
    let claim = Step::Claim {
        sale: SaleId(1),
        from: Some("another".into()),
        cluster: "cluster".into(),
    };
    assert_eq!(plan(&observed).step, claim);
    // Without its FlashSale only to settle it.
    observed.desired = None;
    assert_eq!(plan(&observed).step, Step::Nothing);
    observed.clocks = Clocks::all_at(END);
    assert_eq!(plan(&observed).step, claim);
}

#[test]
fn a_sale_of_no_cluster_is_claimed_only_with_its_flash_sale() {
    let mut observed = preheated(START, 3);
    observed.sale().cluster = None;
    assert!(matches!(plan(&observed).step, Step::Claim { from: None, .. }));
    observed.sale().total = 10;
    assert!(matches!(plan(&observed).step, Step::Claim { from: None, .. }));
    observed.desired = None;
    assert_eq!(plan(&observed).step, Step::Nothing);
    observed.clocks = Clocks::all_at(END);
    assert_eq!(plan(&observed).step, Step::Nothing);
    // A FlashSale that is not accepted does not count.
    let mut used = over(3);
    used.sale().cluster = None;
    let desired = used.desired.as_mut().expect("desired");
    (desired.uid, desired.created_at) = ("another".into(), END + 1000);
    assert_eq!(step_and_phase(&plan(&used)), ("Nothing", None));
    let accepted = reason(&plan(&used), ConditionType::Accepted);
    assert_eq!(accepted, (ConditionStatus::False, Reason::NameUsed));
}

#[test]
fn the_end_waits_for_the_outbox_and_then_for_the_worker() {
    let mut observed = over(3);
    observed.sale().version = 2;
    assert!(matches!(plan(&observed).step, Step::ApplyTerms { epoch: Epoch(4), .. }));
    observed.index().terms.version = 2;
    observed.index().outbox = 1;
    let draining = plan(&observed);
    assert_eq!(draining.step.name(), "Nothing");
    assert_eq!(
        reason(&draining, ConditionType::Settled),
        (ConditionStatus::False, Reason::Draining)
    );
    observed.index().outbox = 0;
    assert_eq!(plan(&observed).step.name(), "Close");
    observed.close_appended = true;
    assert_eq!(plan(&observed).step.name(), "Nothing");
    observed.sale().cut = SaleCut {
        current_epoch: Some(9),
        closed: Some(9),
    };
    assert!(matches!(plan(&observed).step, Step::Settle { balance, .. } if balance.index_left == Some(3)));
}

#[test]
fn a_difference_at_the_end_is_reported() {
    let mut observed = over(3);
    observed.sale().cut = SaleCut {
        current_epoch: Some(9),
        closed: Some(9),
    };
    observed.index().left = 2;
    assert!(matches!(plan(&observed).step, Step::Settle { balance, .. } if balance.index_left == Some(2)));
    // Also by somebody who comes after it, and finds no index any more.
    observed.sale().settled_at_ms = Some(1);
    observed.sale().settled_left = Some(2);
    observed.index = ObservedIndex::NotAsked;
    for freed in [None, Some(1)] {
        observed.sale().freed_at_ms = freed;
        let told = reason(&plan(&observed), ConditionType::LedgerBalanced);
        assert_eq!(told, (ConditionStatus::False, Reason::Imbalanced));
        // Eight units are gone from the index, and the ledger has seven.
        assert_eq!(imbalance(&observed), Some(1));
    }
    observed.sale().settled_left = Some(3);
    assert_eq!(imbalance(&observed), None);
}

#[test]
fn an_imbalance_is_reported_while_the_sale_runs() {
    let mut observed = preheated(START + 1, 3);
    let balanced = |observed: &Observation| reason(&plan(observed), ConditionType::LedgerBalanced);
    assert_eq!(balanced(&observed), (ConditionStatus::Unknown, Reason::NothingCounted));
    for (balance, told) in [
        (BalanceCheck::InFlight(2), (ConditionStatus::Unknown, Reason::InFlight)),
        (BalanceCheck::Balanced, (ConditionStatus::True, Reason::Balanced)),
        (
            BalanceCheck::Imbalanced(Imbalance { index: 7, ledger: 8 }),
            (ConditionStatus::False, Reason::Imbalanced),
        ),
    ] {
        observed.balance = Some(balance);
        assert_eq!(balanced(&observed), told);
        let expected = (told.1 == Reason::Imbalanced).then_some(-1);
        assert_eq!(imbalance(&observed), expected);
    }
}

#[test]
fn a_raised_stock_goes_to_the_ledger_then_to_the_log() {
    let mut observed = preheated(START + 1, 0);
    observed.sale().total = 10;
    observed.desired.as_mut().expect("desired").offer.offered = 15;
    assert!(matches!(plan(&observed).step, Step::UpdateTerms { terms, .. } if terms.orders_ever_max == 300));
    observed.sale().orders_ever_max = 300;
    observed.index().terms.bounds.orders_ever_max = 300;
    assert!(matches!(plan(&observed).step, Step::RaiseOffer { units: 15, .. }));
    observed.sale().offered = 15;
    assert_eq!(plan(&observed).step.name(), "AppendTotal");
    observed.total_appended = true;
    assert_eq!(plan(&observed).step.name(), "Nothing");
    // The worker has folded it, and the index is about to be told.
    observed.total_appended = false;
    observed.sale().total = 15;
    assert_eq!(plan(&observed).step.name(), "Nothing");
    observed.index().total = 15;
    observed.index().left = 5;
    assert_eq!(report(&plan(&observed)).phase, Some(Phase::Open));
}

#[test]
fn a_lowered_stock_has_no_effect_and_is_reported() {
    let mut observed = preheated(START + 1, 3);
    observed.desired.as_mut().expect("desired").offer.offered = 5;
    let plan = plan(&observed);
    assert_eq!(plan.step.name(), "Nothing");
    assert_eq!(
        reason(&plan, ConditionType::Accepted),
        (ConditionStatus::True, Reason::Adopted)
    );
}

#[test]
fn the_settlement_waits_for_pending_adjustments() {
    let mut observed = over(3);
    observed.sale().cut = SaleCut {
        current_epoch: Some(9),
        closed: Some(9),
    };
    // One was cancelled: the index does not know it yet.
    observed.sale().sold = 6;
    observed.sale().returned = 1;
    observed.adjustments_pending = true;
    assert_eq!(plan(&observed).step.name(), "Nothing");
    observed.index().left = 4;
    observed.adjustments_pending = false;
    assert!(matches!(plan(&observed).step, Step::Settle { balance, .. } if balance.index_left == Some(4)));
    // Another one after the end returns to nothing.
    observed.sale().sold = 5;
    assert!(matches!(plan(&observed).step, Step::Settle { balance, .. } if balance.index_left == Some(4)));
    observed.sale().settled_at_ms = Some(1);
    observed.sale().settled_left = Some(4);
    assert_eq!(
        reason(&plan(&observed), ConditionType::LedgerBalanced),
        (ConditionStatus::True, Reason::Balanced)
    );
}

#[test]
fn at_the_end_a_lost_index_is_not_rebuilt() {
    let mut observed = over(3);
    observed.index = ObservedIndex::Missing;
    assert_eq!(plan(&observed).step.name(), "Close");
    observed.index = ObservedIndex::Unknown("refused".into());
    assert_eq!(plan(&observed).step.name(), "Nothing");
    observed.index = ObservedIndex::Missing;
    observed.sale().cut = SaleCut {
        current_epoch: Some(9),
        closed: Some(9),
    };
    assert!(matches!(plan(&observed).step, Step::Settle { balance, .. } if balance.index_left.is_none()));
}

#[test]
fn a_sale_that_never_offered_a_unit_is_balanced() {
    let mut observed = scheduled(END);
    let sale = observed.sale();
    (sale.state, sale.settled_at_ms) = (SaleState::Closed, Some(1));
    assert_eq!(
        reason(&plan(&observed), ConditionType::LedgerBalanced),
        (ConditionStatus::True, Reason::ComparedWithoutIndex)
    );
}

#[test]
fn a_settled_sale_is_final_and_its_name_is_used() {
    let mut observed = over(0);
    observed.sale().settled_at_ms = Some(1);
    let freeing = plan(&observed);
    assert_eq!(step_and_phase(&freeing), ("Free", Some(Phase::Ended)));
    assert_eq!(freeing.standing, Standing::Unsettled);
    observed.sale().freed_at_ms = Some(1);
    let settled = plan(&observed);
    assert_eq!(step_and_phase(&settled), ("Nothing", Some(Phase::Settled)));
    assert_eq!((settled.requeue_after, settled.standing), (None, Standing::Settled));
    let desired = observed.desired.as_mut().expect("desired");
    (desired.uid, desired.created_at) = ("another".into(), END);
    let used = plan(&observed);
    assert_eq!(step_and_phase(&used), ("Nothing", None));
    assert_eq!(
        reason(&used, ConditionType::Accepted),
        (ConditionStatus::False, Reason::NameUsed)
    );
    assert_eq!(used.standing, Standing::Refused);
}

#[test]
fn an_object_recreated_before_the_end_owns_the_sale() {
    let mut observed = over(0);
    let desired = observed.desired.as_mut().expect("desired");
    (desired.uid, desired.created_at) = ("another".into(), END - 1000);
    assert_eq!(report(&plan(&observed)).phase, Some(Phase::Ended));
    observed.sale().settled_at_ms = Some(1);
    observed.sale().freed_at_ms = Some(1);
    assert_eq!(report(&plan(&observed)).phase, Some(Phase::Settled));
}

#[test]
fn an_object_created_after_the_end_is_refused_while_the_sale_settles() {
    let mut observed = over(0);
    let desired = observed.desired.as_mut().expect("desired");
    (desired.uid, desired.created_at) = ("another".into(), END + 1000);
    assert_eq!(step_and_phase(&plan(&observed)), ("Close", None));
}

#[test]
fn before_a_unit_is_counted_an_edit_changes_the_offer() {
    let mut observed = scheduled(START - LEAD - 1);
    observed.desired.as_mut().expect("desired").offer.offered = 11;
    assert_eq!(plan(&observed).step.name(), "UpdateOffer");
}

/// Buyers need a token, and each may have three units.
fn with_access(observed: &mut Observation) {
    let desired = observed.desired.as_mut().expect("desired");
    (desired.offer.issuer, desired.limit_per_buyer, desired.format) = (Some("main".into()), 3, Format(2));
}

#[test]
fn access_can_change_before_a_unit_is_counted() {
    let mut observed = scheduled(START - LEAD - 1);
    with_access(&mut observed);
    let Step::UpdateOffer { offer, format, .. } = plan(&observed).step else {
        panic!("{:?}", plan(&observed).step)
    };
    assert_eq!((offer.issuer.as_deref(), format), (Some("main"), Format(2)));
    // The row keeps the format that it once needed.
    observed.sale().issuer = Some("main".into());
    assert!(matches!(plan(&observed).step, Step::UpdateTerms { terms, .. } if terms.limit_per_buyer == 3));
    observed.sale().limit_per_buyer = 3;
    assert_eq!(plan(&observed).step.name(), "Nothing");
}

/// Gold opens two minutes before the start, of which the lead time is ten seconds more; its limit is two units.
fn tiered(observed: &mut Observation) {
    let rule = |name: &str, opens_before_seconds| TierRule {
        name: name.into(),
        values: vec![name.into()],
        opens_before_seconds,
        reserved: 3,
        reserved_for_seconds: 60,
    };
    let tiers = Tiers {
        tiers: vec![rule("gold", 120), rule("silver", 0)],
        reserved_for_general: 2,
    };
    with_access(observed);
    let desired = observed.desired.as_mut().expect("desired");
    (desired.offer.tiers, desired.tier_limits) = (Some(tiers.clone()), [2, 3, 0, 0]);
    let sale = observed.sale();
    (sale.issuer, sale.tiers) = (Some("main".into()), Some(tiers));
    (sale.limit_per_buyer, sale.tier_limits) = (3, [2, 3, 0, 0]);
    if observed.index.in_force().is_some() {
        let terms = observed.sale().terms();
        (observed.index().terms, observed.index().taken) = (terms, vec![0, 1, 0]);
    }
}

const GOLD: Millis = START - 120_000;

#[test]
fn a_sale_is_preheated_before_its_first_tier_opens() {
    let at = |now| {
        let mut observed = scheduled(now);
        tiered(&mut observed);
        plan(&observed)
    };
    assert_eq!(
        step_and_phase(&at(GOLD - LEAD - 1)),
        ("Nothing", Some(Phase::Scheduled))
    );
    assert_eq!(step_and_phase(&at(GOLD - LEAD)).1, Some(Phase::Preheating));
}

#[test]
fn a_sale_is_open_from_its_first_opening_on() {
    let at = |now| {
        let mut observed = preheated(now, 9);
        tiered(&mut observed);
        let plan = plan(&observed);
        (plan.step.name(), report(&plan).phase)
    };
    assert_eq!(at(GOLD - 1), ("Nothing", Some(Phase::Ready)));
    assert_eq!(at(GOLD), ("Nothing", Some(Phase::Open)));
    assert_eq!(at(START), ("Nothing", Some(Phase::Open)));
}

#[test]
fn tiers_can_change_before_a_unit_is_counted_and_their_limits_later() {
    let mut observed = scheduled(GOLD - LEAD - 1);
    tiered(&mut observed);
    observed.sale().tiers = None;
    assert_eq!(plan(&observed).step.name(), "UpdateOffer");
    let mut observed = preheated(GOLD, 9);
    tiered(&mut observed);
    let desired = observed.desired.as_mut().expect("desired");
    // Applied again in another order, with another reserve, and without silver.
    let tiers = desired.offer.tiers.as_mut().expect("tiers");
    (tiers.tiers[0].name, tiers.tiers[1].name) = ("bronze".into(), "gold".into());
    tiers.reserved_for_general = 7;
    desired.tier_limits = [8, 9, 0, 0];
    let changed = plan(&observed);
    assert!(
        matches!(&changed.step, Step::UpdateTerms { terms, .. } if terms.tier_limits == [9, 3, 0, 0]),
        "{:?}",
        changed.step
    );
    observed.sale().tier_limits = [9, 3, 0, 0];
    observed.index().terms = observed.sale().terms();
    let plan = plan(&observed);
    assert_eq!(plan.step.name(), "Nothing");
    let accepted = report(&plan).condition(ConditionType::Accepted).expect("reported");
    assert!(
        accepted.reason == Reason::Adopted && accepted.message.contains("spec.tiers and spec.reservedForGeneral"),
        "{}",
        accepted.message
    );
}

#[test]
fn a_redis_ahead_opens_no_tier_and_not_the_sale_early() {
    // At the second one the clock of Redis has not reached the start, but will soon.
    for (now, ahead, opened) in [(GOLD - 60_000, 3_600_000, false), (START - 60_000, 50_000, true)] {
        let mut observed = preheated(now, 9);
        tiered(&mut observed);
        observed.clocks.redis = Some(now + ahead);
        let held = plan(&observed);
        assert!(
            matches!(&held.step, Step::UpdateTerms { terms, .. } if terms.state == SaleState::Suspended),
            "{:?}",
            held.step
        );
        observed.sale().state = SaleState::Suspended;
        observed.index().terms.state = SaleState::Suspended;
        let shown = plan(&observed);
        let expected = if opened { Phase::Suspended } else { Phase::Ready };
        assert_eq!(step_and_phase(&shown), ("Nothing", Some(expected)));
        if opened {
            assert_eq!(
                reason(&shown, ConditionType::Sellable),
                (ConditionStatus::False, Reason::ClocksDiffer)
            );
            let sellable = report(&shown).condition(ConditionType::Sellable).expect("reported");
            assert!(sellable.message.contains("the next opening"), "{}", sellable.message);
        }
    }
    // Gold buys on as long as the next opening is far by the clock of Redis too.
    let mut observed = preheated(START - 60_000, 9);
    tiered(&mut observed);
    observed.clocks.redis = Some(START - 50_000);
    assert_eq!(step_and_phase(&plan(&observed)), ("Nothing", Some(Phase::Open)));
}

#[test]
fn the_units_of_tiers_are_named() {
    let units = |now| {
        let mut observed = preheated(now, 9);
        tiered(&mut observed);
        let units = observed.tier_units().expect("an index");
        let units: Vec<_> = units
            .map(|tier| (tier.name.to_owned(), tier.sold, tier.reserved))
            .collect();
        units
    };
    let named = |general, gold, silver| {
        [("general", 0, general), ("gold", 1, gold), ("silver", 0, silver)]
            .map(|(name, sold, kept)| (name.to_owned(), sold, kept))
    };
    assert_eq!(units(GOLD), named(2, 2, 3));
    assert_eq!(units(START), named(0, 2, 3));
    assert_eq!(units(START + 60_000), named(0, 0, 0));
    assert_eq!(preheated(START, 9).tier_units().expect("an index").count(), 0);
    assert!(scheduled(START).tier_units().is_none());
}

#[test]
fn the_limit_of_a_buyer_can_change_in_mid_sale() {
    let mut observed = preheated(START + 1, 3);
    with_access(&mut observed);
    observed.sale().issuer = Some("main".into());
    for (present, limit) in [(0, 3), (3, 1), (1, 0)] {
        observed.sale().limit_per_buyer = present;
        observed.desired.as_mut().expect("desired").limit_per_buyer = limit;
        assert!(matches!(plan(&observed).step, Step::UpdateTerms { terms, .. } if terms.limit_per_buyer == limit));
    }
}

#[test]
fn a_recreated_flash_sale_cannot_change_who_can_buy() {
    let mut observed = preheated(START + 1, 3);
    with_access(&mut observed);
    let refused = plan(&observed);
    assert_eq!(refused.step.name(), "Nothing", "an anonymous sale has no limit");
    let message = |plan: &Plan| {
        let accepted = report(plan).condition(ConditionType::Accepted).expect("reported");
        assert_eq!(accepted.reason, Reason::Adopted);
        accepted.message.clone()
    };
    let ignored = message(&refused);
    assert!(
        ignored.ends_with("no effect: spec.access (buyers are anonymous)"),
        "{ignored}"
    );

    observed.sale().issuer = Some("other".into());
    observed.sale().limit_per_buyer = 3;
    observed.index().terms.limit = 3;
    let ignored = message(&plan(&observed));
    assert!(
        ignored.ends_with("spec.access (buyers need a token of the issuer other)"),
        "{ignored}"
    );
}

#[test]
fn an_edit_after_the_end_has_no_effect_also_if_no_unit_was_offered() {
    let mut observed = scheduled(END + 1);
    observed.sale().state = SaleState::Closed;
    let accepted = |observed: &Observation| {
        let plan = plan(observed);
        let accepted = report(&plan).condition(ConditionType::Accepted).expect("reported");
        (accepted.reason, accepted.message.clone())
    };
    assert_eq!(accepted(&observed).0, Reason::Accepted);
    observed.desired.as_mut().expect("desired").offer.item = serde_json::json!({"sku": "other"});
    let (reason, message) = accepted(&observed);
    assert_eq!(
        (reason, message.as_str()),
        (
            Reason::Adopted,
            "the sale has ended; these fields have no effect: spec.item"
        )
    );
}

#[test]
fn a_later_end_takes_effect_in_mid_sale() {
    let mut observed = preheated(START + 1, 3);
    observed.desired.as_mut().expect("desired").ends_at = END + 1000;
    assert!(matches!(plan(&observed).step, Step::UpdateTerms { terms, .. } if terms.closes_at == END + 1000));
}

#[test]
fn an_outdated_index_does_not_count_at_the_end() {
    let mut observed = over(3);
    observed.index = ObservedIndex::Outdated(Epoch(4));
    assert_eq!(plan(&observed).step.name(), "Close");
    observed.sale().cut = SaleCut {
        current_epoch: Some(9),
        closed: Some(9),
    };
    assert!(matches!(plan(&observed).step, Step::Settle { balance, .. } if balance.index_left.is_none()));
}

#[test]
fn a_blocker_is_reported_until_a_reconcile_succeeds() {
    let mut observed = preheated(START + 1, 3);
    observed.blocker = Some(Blocker {
        reason: Reason::LogUnavailable,
        message: "Kafka did not acknowledge".into(),
    });
    assert_eq!(blocked(&plan(&observed)).0, Reason::LogUnavailable);
    observed.blocker = None;
    assert_eq!(report(&plan(&observed)).progress, Progress::UpToDate);
}

#[test]
fn every_report_of_an_accepted_sale_has_each_condition() {
    let mut settled = over(3);
    settled.sale().settled_at_ms = Some(1);
    let mut closed = over(3);
    closed.sale().cut = SaleCut {
        current_epoch: Some(9),
        closed: Some(9),
    };
    // What was last found while it ran is kept: the balance until the settlement, the preflight for good.
    let (ended, settled_) = (
        [ConditionType::LedgerBalanced, ConditionType::Preflight],
        [ConditionType::Preflight],
    );
    for (observed, kept) in [
        (scheduled(START - LEAD - 1), &[][..]),
        (scheduled(START - LEAD), &[]),
        (preheated(START, 3), &[]),
        (over(3), &ended),
        (closed, &ended),
        (settled, &settled_),
    ] {
        let plan = plan(&observed);
        let mut types: Vec<ConditionType> = report(&plan)
            .conditions
            .iter()
            .map(|f| f.type_)
            .chain(kept.iter().copied())
            .collect();
        types.sort();
        let all = [
            ConditionType::Accepted,
            ConditionType::Preflight,
            ConditionType::StockPreheated,
            ConditionType::WorkloadsScaled,
            ConditionType::Prepared,
            ConditionType::Sellable,
            ConditionType::Ready,
            ConditionType::LedgerBalanced,
            ConditionType::Settled,
        ];
        assert_eq!(types, all, "{plan:?}");
    }
}

/// With a clock of Redis that is so far ahead.
fn redis_ahead(mut observed: Observation, ms: i64) -> Observation {
    let redis = observed.now().saturating_add_signed(ms);
    observed.clocks.redis = Some(redis);
    let difference = ClockDifference {
        ahead_ms: ms,
        round_trip_ms: 1,
    };
    let mut servers = right();
    servers.redis.as_mut().expect("known")[0].clock = difference;
    observed.servers = Some(Arc::new(servers));
    observed
}

const HOUR_MS: i64 = 3_600_000;

#[test]
fn a_sale_is_looked_at_when_any_clock_reaches_its_lead_time() {
    let mut observed = scheduled(0);
    let preheat_at = desired().preheat_at();
    let (right, wrong) = (preheat_at - 7_000, preheat_at - 3_600_000);
    observed.clocks = Clocks {
        operator: wrong,
        redis: Some(wrong),
        mysql: Some(right),
    };
    assert_eq!(plan(&observed).requeue_after, Some(Duration::from_secs(7)));
}

#[test]
fn one_clock_past_the_end_closes_nothing() {
    let mut observed = redis_ahead(preheated(END - 1, 3), HOUR_MS);
    assert_eq!(plan(&observed).step.name(), "Nothing");
    observed.clocks = Clocks {
        operator: END,
        redis: None,
        mysql: None,
    };
    let alone = plan(&observed);
    assert_eq!(alone.step.name(), "Nothing");
    assert!(alone.requeue_after >= Some(Duration::from_millis(200)), "{alone:?}");
    observed.clocks.mysql = Some(END);
    assert_eq!(plan(&observed).step.name(), "UpdateTerms");
}

#[test]
fn a_slow_operator_closes_a_sale_on_time() {
    let mut observed = preheated(END, 3);
    observed.clocks.operator = END - 3_600_000;
    assert_eq!(plan(&observed).step.name(), "UpdateTerms");
}

#[test]
fn an_index_is_suspended_while_the_clock_of_redis_is_ahead() {
    // Already for the installation, and for an index that is in force.
    for observed in [scheduled(START - LEAD), preheated(START - 1, 10)] {
        let held = plan(&redis_ahead(observed, HOUR_MS));
        assert!(matches!(held.step, Step::UpdateTerms { terms, .. } if terms.state == SaleState::Suspended));
    }
    let mut held = redis_ahead(preheated(START - 1, 10), HOUR_MS);
    held.sale().state = SaleState::Suspended;
    held.index().terms.state = SaleState::Suspended;
    let waiting = plan(&held);
    assert_eq!(step_and_phase(&waiting), ("Nothing", Some(Phase::Ready)));
    let message = |plan: &Plan| {
        let ready = report(plan).condition(ConditionType::Ready).expect("reported");
        assert_eq!(
            (ready.status, ready.reason),
            (ConditionStatus::True, Reason::ReadyToSell)
        );
        ready.message.clone()
    };
    assert!(message(&waiting).contains("the clock of Redis is ahead"));
    assert_eq!(message(&plan(&preheated(START - 1, 10))), "stock and pods are ready");
    assert_eq!(waiting.requeue_after, Some(Duration::from_millis(1)));
    held.clocks = Clocks {
        redis: held.clocks.redis,
        ..Clocks::all_at(START)
    };
    assert!(matches!(plan(&held).step, Step::UpdateTerms { terms, .. } if terms.state == SaleState::Open));
}

#[test]
fn a_difference_between_clocks_is_reported_and_holds_no_sale_back() {
    let differs = plan(&requiring(redis_ahead(preheated(START, 10), HOUR_MS)));
    assert_eq!(
        reason(&differs, ConditionType::Preflight),
        (ConditionStatus::True, Reason::ClocksDiffer)
    );
    // This clock has passed the end, so the index refuses.
    assert_eq!(
        reason(&differs, ConditionType::Ready),
        (ConditionStatus::False, Reason::ClocksDiffer)
    );
    let slow = plan(&redis_ahead(preheated(START, 10), -HOUR_MS));
    assert_eq!(
        reason(&slow, ConditionType::Ready),
        (ConditionStatus::False, Reason::ClocksDiffer)
    );
    assert_eq!(report(&slow).progress, Progress::UpToDate);
}

#[test]
fn a_close_that_two_clocks_dispute_is_stalled_after_a_minute() {
    let mut observed = preheated(END - 1, 3);
    observed.index = ObservedIndex::Unknown("refused".into());
    observed.index_unknown_for = Duration::from_secs(60);
    observed.clocks = Clocks {
        operator: END + 60_000,
        redis: None,
        mysql: Some(END - 1),
    };
    let disputed = plan(&observed);
    assert_eq!(blocked(&disputed).0, Reason::ClocksDiffer);
    assert_eq!(disputed.step.name(), "Nothing");
}

#[test]
fn a_redis_that_is_gone_for_good_delays_the_end_by_seconds() {
    let mut observed = over(3);
    observed.index = ObservedIndex::Unknown("refused".into());
    assert_eq!(plan(&observed).step.name(), "Nothing");
    observed.index_unknown_for = Duration::from_secs(30);
    assert_eq!(plan(&observed).step.name(), "Close");
    observed.sale().cut = SaleCut {
        current_epoch: Some(9),
        closed: Some(9),
    };
    assert!(matches!(plan(&observed).step, Step::Settle { balance, .. } if balance.index_left.is_none()));
    observed.sale().settled_at_ms = Some(1);
    let settled = plan(&observed);
    assert_eq!(step_and_phase(&settled), ("Nothing", Some(Phase::Settled)));
    assert_eq!(
        reason(&settled, ConditionType::LedgerBalanced),
        (ConditionStatus::Unknown, Reason::ComparedWithoutIndex)
    );
    // Its keys are deleted when it answers.
    let keys = "its keys in Redis are deleted when Redis answers";
    assert_eq!(settled.requeue_after, Some(Duration::from_secs(10)));
    assert!(message(&settled, ConditionType::Settled).contains(keys));
    let mut freed = observed.clone();
    freed.sale().freed_at_ms = Some(1);
    let freed = plan(&freed);
    assert_eq!((freed.requeue_after, freed.standing), (None, Standing::Settled));
    assert!(!message(&freed, ConditionType::Settled).contains(keys));
    observed.index = ObservedIndex::Missing;
    assert_eq!(plan(&observed).step.name(), "Free");
}

fn requiring(mut observed: Observation) -> Observation {
    observed.desired.as_mut().expect("desired").preflight_required = true;
    observed
}

/// With a Redis that drops stock.
fn risky(mut observed: Observation) -> Observation {
    let mut servers = right();
    servers.redis.as_mut().expect("known")[0].eviction = Some("allkeys-lru".into());
    observed.servers = Some(Arc::new(servers));
    observed
}

#[test]
fn a_sale_that_only_warns_opens_despite_problems() {
    let before = plan(&risky(scheduled(START - LEAD - 1)));
    assert_eq!(
        reason(&before, ConditionType::Preflight),
        (ConditionStatus::False, Reason::ProblemsFound)
    );
    let open = plan(&risky(preheated(START, 10)));
    assert_eq!(step_and_phase(&open), ("Nothing", Some(Phase::Open)));
    assert_eq!(
        reason(&open, ConditionType::Preflight),
        (ConditionStatus::False, Reason::ProblemsFound)
    );
    let passed = plan(&preheated(START, 10));
    assert_eq!(
        reason(&passed, ConditionType::Preflight),
        (ConditionStatus::True, Reason::Passed)
    );
}

#[test]
fn a_sale_that_requires_its_preflight_is_held_back() {
    let early = plan(&requiring(risky(scheduled(START - LEAD - 1))));
    assert_eq!(step_and_phase(&early), ("Nothing", Some(Phase::Scheduled)));
    let due = plan(&requiring(risky(scheduled(START - LEAD))));
    assert!(matches!(due.step, Step::UpdateTerms { terms, .. } if terms.state == SaleState::Suspended));
    let mut held = requiring(risky(preheated(START, 10)));
    held.sale().state = SaleState::Suspended;
    held.index().terms.state = SaleState::Suspended;
    let told_of = plan(&held);
    assert_eq!(step_and_phase(&told_of), ("Nothing", Some(Phase::Suspended)));
    assert_eq!(
        reason(&told_of, ConditionType::Ready),
        (ConditionStatus::False, Reason::HeldByPreflight)
    );
    held.servers = Some(Arc::new(right()));
    assert!(matches!(plan(&held).step, Step::UpdateTerms { terms, .. } if terms.state == SaleState::Open));
}

#[test]
fn an_open_sale_is_not_held_back_by_later_problems() {
    let open = plan(&requiring(risky(preheated(START, 10))));
    assert_eq!(step_and_phase(&open), ("Nothing", Some(Phase::Open)));
    // Resuming is opening anew.
    let mut resumed = requiring(risky(preheated(START + 1, 10)));
    resumed.sale().state = SaleState::Suspended;
    resumed.index().terms.state = SaleState::Suspended;
    assert_eq!(
        reason(&plan(&resumed), ConditionType::Ready),
        (ConditionStatus::False, Reason::HeldByPreflight)
    );
}

#[test]
fn the_result_of_an_unfinished_preflight_is_awaited() {
    let mut observed = scheduled(START - LEAD - HOUR_MS.unsigned_abs());
    assert_eq!(plan(&observed).requeue_after, Some(Duration::from_secs(60)));
    observed.servers = None;
    assert_eq!(plan(&observed).requeue_after, Some(Duration::from_secs(1)));
}

#[test]
fn an_unfinished_preflight_changes_nothing() {
    let mut observed = requiring(preheated(START - 1, 10));
    observed.servers = None;
    let ready = plan(&observed);
    assert_eq!(step_and_phase(&ready), ("Nothing", Some(Phase::Ready)));
    assert_eq!(
        reason(&ready, ConditionType::Preflight),
        (ConditionStatus::Unknown, Reason::Checking)
    );
    observed.sale().state = SaleState::Suspended;
    observed.index().terms.state = SaleState::Suspended;
    assert_eq!(
        reason(&plan(&observed), ConditionType::Ready),
        (ConditionStatus::False, Reason::HeldByPreflight)
    );
}

#[test]
fn a_sale_that_has_made_all_its_orders_says_so_and_is_not_sold_out() {
    let mut observed = preheated(START, 0);
    observed.index().ever = Some(199);
    assert_eq!(step_and_phase(&plan(&observed)), ("Nothing", Some(Phase::SoldOut)));
    observed.index().ever = Some(200);
    let exhausted = plan(&observed);
    assert_eq!(step_and_phase(&exhausted), ("Nothing", Some(Phase::Suspended)));
    let ready = report(&exhausted).condition(ConditionType::Ready).expect("reported");
    assert_eq!(
        (ready.status, ready.reason),
        (ConditionStatus::False, Reason::OrdersExhausted)
    );
    assert!(ready.message.contains("200 orders") && ready.message.contains("raise spec.ordersEverMax"));
}

#[test]
fn bounds_change_live_but_a_counted_sale_never_gets_smaller_orders() {
    let terms = |observed: &Observation| match plan(observed).step {
        Step::UpdateTerms { terms, .. } => terms,
        other => panic!("{other:?}"),
    };
    let mut observed = preheated(START, 10);
    observed.desired.as_mut().expect("wanted").orders_ever_max = Some(50);
    assert_eq!(terms(&observed).orders_ever_max, 50);
    observed.desired.as_mut().expect("wanted").max_per_order = 1;
    assert_eq!(terms(&observed).max_per_order, 2);
    assert!(accepted_message(&mut observed).contains("spec.maxPerOrder (an order can have 2 units)"));
    observed.desired.as_mut().expect("wanted").max_per_order = 5;
    assert_eq!(terms(&observed).max_per_order, 5);
    // Before the first unit is counted, it may fall too.
    let mut early = scheduled(START - LEAD - 1);
    early.desired.as_mut().expect("wanted").max_per_order = 1;
    assert_eq!(terms(&early).max_per_order, 1);
}

/// What the condition Accepted says once the ledger has the terms.
fn accepted_message(observed: &mut Observation) -> String {
    let mut known = observed.clone();
    let most = known.desired.as_ref().expect("wanted").orders_ever_max.expect("set");
    known.sale().orders_ever_max = most;
    known.index().terms = known.sale().terms();
    let plan = plan(&known);
    report(&plan)
        .condition(ConditionType::Accepted)
        .expect("reported")
        .message
        .clone()
}

#[test]
fn more_stock_allows_more_orders() {
    let mut observed = preheated(START, 10);
    observed.desired.as_mut().expect("wanted").offer.offered = 12;
    assert!(matches!(plan(&observed).step, Step::UpdateTerms { terms, .. } if terms.orders_ever_max == 240));
    observed.sale().orders_ever_max = 240;
    assert!(matches!(plan(&observed).step, Step::RaiseOffer { units: 12, .. }));
    // A FlashSale that was created again with less stock.
    observed.desired.as_mut().expect("wanted").offer.offered = 5;
    assert!(matches!(plan(&observed).step, Step::UpdateTerms { terms, .. } if terms.orders_ever_max == 200));
}

/// The report as a reader of `kubectl describe` sees it.
fn rendered(plan: &Plan) -> String {
    let report = report(plan);
    let mut lines = vec![format!("{} -> {:?}", plan.step.name(), report.phase)];
    lines.extend(report.conditions.iter().map(|condition| {
        format!(
            "{:?}={:?} {:?}: {}",
            condition.type_, condition.status, condition.reason, condition.message
        )
    }));
    lines.push(format!("{:?}", report.progress));
    lines.join("\n")
}

#[test]
fn readers_of_a_scheduled_sale_are_told_what_comes_next() {
    let expected = "\
Nothing -> Some(Scheduled)
Accepted=True Accepted: the sale is recorded in the ledger
Prepared=False NotYetDue: preheating and scaling start spec.leadTimeSeconds before spec.startsAt
Preflight=True Passed: no problem was found
StockPreheated=False NotYetDue: preheating and scaling start spec.leadTimeSeconds before spec.startsAt
WorkloadsScaled=False NotYetDue: preheating and scaling start spec.leadTimeSeconds before spec.startsAt
Sellable=False NotYetDue: buyers can buy from spec.startsAt on
Ready=True Scheduled: nothing is needed yet; preheating and scaling start spec.leadTimeSeconds before spec.startsAt
LedgerBalanced=Unknown NothingCounted: the index and the ledger have not been compared yet
Settled=False NotYetDue: the sale has not started
UpToDate";
    assert_eq!(rendered(&plan(&scheduled(START - LEAD - 1))), expected);
}

#[test]
fn readers_of_an_open_sale_are_told_that_buyers_can_buy() {
    let mut observed = preheated(START, 3);
    observed.balance = Some(BalanceCheck::Balanced);
    let expected = "\
Nothing -> Some(Open)
Accepted=True Accepted: the sale is recorded in the ledger
Prepared=True ReadyToSell: stock, pods and preflight are in order
Preflight=True Passed: no problem was found
StockPreheated=True Preheated: 10 units in epoch 4
WorkloadsScaled=True Scaled: the requested pods are ready
Sellable=True Selling: buyers can buy
Ready=True Selling: buyers can buy
LedgerBalanced=True Balanced: sold, remaining and in-flight units add up to the total
Settled=False Running: the sale has not ended
UpToDate";
    assert_eq!(rendered(&plan(&observed)), expected);
}

#[test]
fn readers_of_an_ending_sale_are_told_what_it_waits_for() {
    let mut observed = over(3);
    observed.index().outbox = 2;
    let expected = "\
Nothing -> Some(Ended)
Accepted=True Accepted: the sale is recorded in the ledger
StockPreheated=False Ended: the sale has ended
WorkloadsScaled=False Ended: the sale has ended
Prepared=False Ended: the sale has ended
Sellable=False Ended: the sale has ended
Ready=True Ended: the sale has ended
Settled=False Draining: waiting for order-worker to read 2 more batches of orders from the log
Working { reason: Draining, message: \"waiting for order-worker to read 2 more batches of orders from the log\" }";
    assert_eq!(rendered(&plan(&observed)), expected);
}

#[test]
fn readers_of_a_settled_sale_are_told_its_units() {
    let mut observed = over(3);
    observed.sale().settled_at_ms = Some(1);
    observed.sale().settled_left = Some(3);
    observed.sale().freed_at_ms = Some(1);
    let expected = "\
Nothing -> Some(Settled)
Accepted=True Accepted: the sale is recorded in the ledger
StockPreheated=False Ended: the sale has ended
WorkloadsScaled=False Ended: the sale has ended
Prepared=False Ended: the sale has ended
Sellable=False Ended: the sale has ended
Ready=True Ended: the sale has ended
LedgerBalanced=True Balanced: 10 units: 7 sold, 3 left; the ledger and Redis agree
Settled=True Settled: 10 units: 7 sold, 3 left
UpToDate";
    assert_eq!(rendered(&plan(&observed)), expected);
}

#[test]
fn a_name_is_free_once_a_sale_that_offered_no_unit_is_settled() {
    let mut observed = scheduled(END + 60_000);
    let desired = observed.desired.as_mut().expect("desired");
    (desired.uid, desired.created_at) = ("another".into(), END + 30_000);
    observed.sale().state = SaleState::Closed;
    observed.index = ObservedIndex::Missing;
    let closing = plan(&observed);
    assert_eq!(closing.step.name(), "Close");
    assert_eq!(
        reason(&closing, ConditionType::Accepted),
        (ConditionStatus::Unknown, Reason::Closing)
    );
    observed.sale().cut = SaleCut {
        current_epoch: Some(9),
        closed: Some(9),
    };
    assert_eq!(plan(&observed).step.name(), "Settle");
    observed.sale().settled_at_ms = Some(1);
    // The worker has to read the log before the name belongs to the next sale.
    let freeing = plan(&observed);
    assert_eq!(
        (freeing.step, freeing.standing),
        (Step::FreeName { sale: SaleId(1) }, Standing::AwaitingLedger)
    );
    observed.sale().total = 1;
    assert_eq!(blocked(&plan(&observed)).0, Reason::NameUsed);
}

#[test]
fn the_index_of_a_suspended_sale_is_built_all_the_same() {
    let mut observed = scheduled(START);
    observed.desired.as_mut().expect("desired").suspended = true;
    observed.sale().state = SaleState::Suspended;
    observed.index = ObservedIndex::Missing;
    let building = plan(&observed);
    assert_eq!(step_and_phase(&building), ("Rebuild", Some(Phase::Preheating)));
    assert_eq!(
        reason(&building, ConditionType::Ready),
        (ConditionStatus::False, Reason::StockMissing)
    );
}
