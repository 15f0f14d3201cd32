//! A third, small model: FlashSales that go away. Two clusters share a ledger, each with one leading operator, which watches
//! its own API server and asks it live. Persons delete and create FlashSales, watches deliver or lose events, etcd is
//! restored from an older backup, leaders change.
//!
//! What an operator does is the planner's own decision: `Cluster::ownership`, `SeenDeletions` (the brake) and `plan`. The
//! model adds which events it has seen, what the API server answers, and what a change of leader forgets.
use std::collections::{BTreeMap, BTreeSet};

use seckill_planner::clocks::Clocks;
use seckill_planner::orphan::{Absence, LiveAnswer, MissingSale, SeenDeletions, needs_live_answer};
use seckill_planner::ownership::{Cluster, Ownership};
use seckill_planner::sale::Demand;
use seckill_planner::{DesiredSale, Observation, ObservedIndex, SaleKey, Step, plan};
use seckill_protocol::index::{Millis, SaleState};
use seckill_protocol::sale::{Offer, Sale};
use seckill_protocol::{Format, SaleCut, SaleId};
use stateright::{Model, Property};

pub const JUSTIFIED: &str = "I15 no sale ends but by its own end, its own deletion, or a person's word";
pub const ENDS: &str = "a sale that was really deleted ends after the grace";

/// Time passes in steps of this; it is how long a deletion waits before it suspends its sale.
const TICK: Millis = seckill_planner::orphan::SUSPEND_AFTER;
const GRACE: Millis = 2 * TICK;
/// The own end of all sales.
const END: Millis = 5 * TICK;
/// The cluster whose FlashSales the sales come from, and another one with the same database and class.
const HOME: usize = 0;
const OTHER: usize = 1;
const CLASS: &str = "default";

/// A rule that a mutant breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeletionRule {
    /// That a FlashSale is missing is no deletion.
    AbsenceIsNoDeletion,
    /// A deletion counts only if a live answer confirms it.
    LiveAnswer,
    /// An operator leaves the sales of another cluster alone.
    OwnCluster,
    /// The row keeps a confirmed deletion.
    GraceInRow,
    /// A mass deletion is held back.
    Brake,
}

#[derive(Debug, Clone, Copy)]
pub struct Deletions {
    pub sales: usize,
    /// How often persons delete and create FlashSales, in both clusters.
    pub deletions: u8,
    pub creations: u8,
    pub leader_changes: u8,
    /// How often etcd is restored from a backup without FlashSales, or a watch has to list again.
    pub losses: u8,
    /// The sales belong to no cluster at first.
    pub unclaimed: bool,
    /// A person tells the other cluster to take the sales over.
    pub take_over: bool,
    pub broken: Option<DeletionRule>,
}

impl Deletions {
    pub const SMALL: Deletions = Deletions {
        sales: 1,
        deletions: 2,
        creations: 1,
        leader_changes: 1,
        losses: 1,
        unclaimed: false,
        take_over: false,
        broken: None,
    };

    fn breaks(&self, rule: DeletionRule) -> bool {
        self.broken == Some(rule)
    }
}

type Sales = BTreeSet<usize>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeletionState {
    now: Millis,
    rows: Vec<Row>,
    clusters: [ClusterState; 2],
    used: Used,
    history: History,
}

/// The row of a sale in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Row {
    owner: Option<usize>,
    state: SaleState,
    closes_at: Millis,
    missing_since: Option<Millis>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct ClusterState {
    /// The FlashSales in etcd.
    objects: Sales,
    /// Those that a person deleted, and nobody created again.
    deleted: Sales,
    /// What the watch of the leader shows.
    store: Sales,
    /// The deletions that the watch delivered in this leadership term.
    events: Sales,
    deletions: SeenDeletions,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Used {
    deletions: u8,
    creations: u8,
    leader_changes: u8,
    losses: u8,
}

/// What happened, for the properties alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct History {
    /// Sales that are part of a mass deletion which an operator has seen, and nobody confirmed.
    held: Sales,
    confirmed: Sales,
    /// When the deletions were recorded in the rows.
    recorded_at: BTreeMap<usize, Millis>,
    unjustified: bool,
    stuck: bool,
    resumed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeletionAction {
    Tick,
    Delete {
        cluster: usize,
        sale: usize,
    },
    Create {
        cluster: usize,
        sale: usize,
    },
    /// The watch shows what has changed.
    Deliver {
        cluster: usize,
        sale: usize,
    },
    /// The watch has expired, and a list tells what there is now.
    ListAgain {
        cluster: usize,
    },
    /// From a backup without FlashSales.
    RestoreEtcd {
        cluster: usize,
    },
    ChangeLeader {
        cluster: usize,
    },
    /// One observation, and one step. `conclusive`: the API server answers for the object.
    Reconcile {
        cluster: usize,
        sale: usize,
        conclusive: bool,
    },
    /// By a person, in the home cluster.
    Confirm,
}

impl Model for Deletions {
    type State = DeletionState;
    type Action = DeletionAction;

    fn init_states(&self) -> Vec<DeletionState> {
        let row = Row {
            owner: (!self.unclaimed).then_some(HOME),
            state: SaleState::Open,
            closes_at: END,
            missing_since: None,
        };
        let all: Sales = (0..self.sales).collect();
        let home = ClusterState {
            objects: all.clone(),
            store: all,
            ..ClusterState::default()
        };
        vec![DeletionState {
            now: 0,
            rows: vec![row; self.sales],
            clusters: [home, ClusterState::default()],
            used: Used::default(),
            history: History::default(),
        }]
    }

    fn actions(&self, state: &DeletionState, actions: &mut Vec<DeletionAction>) {
        use DeletionAction::*;
        let used = &state.used;
        if state.now < END {
            actions.push(Tick);
        }
        for (cluster, its) in state.clusters.iter().enumerate() {
            for sale in 0..self.sales {
                let exists = its.objects.contains(&sale);
                if exists && used.deletions < self.deletions {
                    actions.push(Delete { cluster, sale });
                }
                if !exists && used.creations < self.creations {
                    actions.push(Create { cluster, sale });
                }
                if exists != its.store.contains(&sale) {
                    actions.push(Deliver { cluster, sale });
                }
                actions.extend([true, false].map(|conclusive| Reconcile {
                    cluster,
                    sale,
                    conclusive,
                }));
            }
            if used.losses < self.losses {
                actions.push(ListAgain { cluster });
                // A restore takes minutes, and the operator has seen and done by then what had changed before.
                actions.extend(state.is_at_rest(cluster).then_some(RestoreEtcd { cluster }));
            }
            if used.leader_changes < self.leader_changes {
                actions.push(ChangeLeader { cluster });
            }
        }
        if state.clusters[HOME].deletions.held_back().is_some() {
            actions.push(Confirm);
        }
    }

    fn next_state(&self, last: &DeletionState, action: DeletionAction) -> Option<DeletionState> {
        let mut state = last.clone();
        match action {
            DeletionAction::Tick => state.now += TICK,
            DeletionAction::Delete { cluster, sale } => {
                state.used.deletions += 1;
                let its = &mut state.clusters[cluster];
                its.objects.remove(&sale);
                its.deleted.insert(sale);
            }
            DeletionAction::Create { cluster, sale } => {
                state.used.creations += 1;
                let its = &mut state.clusters[cluster];
                its.objects.insert(sale);
                its.deleted.remove(&sale);
                // Another deletion of it would be another event.
                if state.rows[sale].owner == Some(cluster) {
                    state.history.held.remove(&sale);
                    state.history.confirmed.remove(&sale);
                }
            }
            DeletionAction::Deliver { cluster, sale } => state.deliver(cluster, sale),
            DeletionAction::ListAgain { cluster } => {
                state.used.losses += 1;
                state.clusters[cluster].list_again();
            }
            DeletionAction::RestoreEtcd { cluster } => {
                state.used.losses += 1;
                state.clusters[cluster].objects.clear();
                state.clusters[cluster].list_again();
            }
            DeletionAction::ChangeLeader { cluster } => self.change_leader(&mut state, cluster),
            DeletionAction::Reconcile {
                cluster,
                sale,
                conclusive,
            } => self.reconcile(&mut state, cluster, sale, conclusive)?,
            DeletionAction::Confirm => {
                let deletions = &mut state.clusters[HOME].deletions;
                let token = deletions.held_back()?.token;
                deletions.confirm(&token);
                let held = std::mem::take(&mut state.history.held);
                state.history.confirmed.extend(held);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(JUSTIFIED, |_, state: &DeletionState| !state.history.unjustified),
            Property::always(ENDS, |_, state: &DeletionState| !state.history.stuck),
        ];
        if self.broken.is_none() {
            properties.extend([Property::sometimes(
                "a deleted sale ends before its own end",
                |_, state: &DeletionState| {
                    state
                        .rows
                        .iter()
                        .any(|row| row.state == SaleState::Closed && row.closes_at < END)
                },
            )]);
        }
        if self.broken.is_none() && self.creations > 0 {
            let resumed = |_: &Deletions, state: &DeletionState| state.history.resumed;
            properties.push(Property::sometimes("a sale resumes", resumed));
        }
        if self.broken.is_none() && self.sales > 1 {
            properties.push(Property::sometimes(
                "a mass deletion is held back to the end",
                |_, state: &DeletionState| {
                    let has_ended = |sale: &usize| state.rows[*sale].state == SaleState::Closed;
                    state.history.held.len() > 1 && state.history.held.iter().all(has_ended)
                },
            ));
        }
        properties
    }
}

impl DeletionState {
    fn deliver(&mut self, cluster: usize, sale: usize) {
        let its = &mut self.clusters[cluster];
        if its.objects.contains(&sale) {
            its.store.insert(sale);
            its.events.remove(&sale);
        } else {
            its.store.remove(&sale);
            its.events.insert(sale);
        }
    }

    /// Notes a mass deletion by the rule as it is documented: more than one of these few sales.
    fn note_mass_deletion(&mut self, seen: Sales) {
        let unconfirmed: Sales = seen.difference(&self.history.confirmed).copied().collect();
        if unconfirmed.len() > 1 {
            self.history.held.extend(unconfirmed);
        }
    }

    /// Whether the operator of a cluster has seen all changes, and knows which FlashSales are back.
    fn is_at_rest(&self, cluster: usize) -> bool {
        let its = &self.clusters[cluster];
        let is_back = |sale: &usize| self.rows[*sale].missing_since.is_some();
        its.store == its.objects && !its.objects.iter().any(is_back)
    }

    /// Whether the FlashSale of a sale was deleted by a person in the cluster that owns the sale, not with many others.
    fn may_end(&self, sale: usize) -> bool {
        let owner = self.rows[sale].owner.map(|owner| &self.clusters[owner]);
        let is_deleted = owner.is_some_and(|owner| owner.deleted.contains(&sale) && !owner.objects.contains(&sale));
        is_deleted && !self.history.held.contains(&sale)
    }
}

impl ClusterState {
    /// A list causes no events.
    fn list_again(&mut self) {
        self.store = self.objects.clone();
        let store = &self.store;
        self.events.retain(|sale| !store.contains(sale));
    }
}

impl Deletions {
    fn change_leader(&self, state: &mut DeletionState, cluster: usize) {
        state.used.leader_changes += 1;
        let its = &mut state.clusters[cluster];
        its.store = its.objects.clone();
        its.events.clear();
        its.deletions = SeenDeletions::default();
        // The next leader knows only the rows: not what the last one was about to take out of a row because of a mass
        // deletion, nor what it was about to write after a confirmation.
        let (rows, history) = (&mut state.rows, &mut state.history);
        let is_theirs = |row: &Row| row.owner == Some(cluster);
        let is_recorded = |sale: &usize| rows[*sale].missing_since.is_some();
        history
            .held
            .retain(|sale| !is_theirs(&rows[*sale]) || !is_recorded(sale));
        history
            .recorded_at
            .retain(|sale, _| !is_theirs(&rows[*sale]) || is_recorded(sale));
        if self.breaks(DeletionRule::GraceInRow) {
            let theirs = rows.iter_mut().filter(|row| is_theirs(row));
            theirs.for_each(|row| row.missing_since = None);
        }
    }

    fn identity(&self, cluster: usize) -> String {
        let cluster = if self.breaks(DeletionRule::OwnCluster) {
            HOME
        } else {
            cluster
        };
        format!("cluster-{cluster}")
    }

    fn cluster(&self, cluster: usize) -> Cluster {
        Cluster {
            identity: self.identity(cluster),
            take_over_from: (self.take_over && cluster == OTHER).then(|| self.identity(HOME)),
        }
    }

    fn reconcile(&self, state: &mut DeletionState, cluster: usize, sale: usize, conclusive: bool) -> Option<()> {
        let now = state.now;
        self.see_deletions(state, cluster);
        let its = &state.clusters[cluster];
        let before = &state.rows[sale];
        if before.state == SaleState::Closed {
            return None;
        }
        let row = self.sale(sale, before);
        let deletion = its.deletions.of(row.id);
        let live = match (its.objects.contains(&sale), conclusive) {
            _ if self.breaks(DeletionRule::LiveAnswer) => LiveAnswer::NotFound,
            _ if !needs_live_answer(&row, deletion, now) => LiveAnswer::Inconclusive,
            (_, false) => LiveAnswer::Inconclusive,
            (true, true) => LiveAnswer::Found {
                class: Some(CLASS.to_owned()),
                terminating: false,
            },
            (false, true) => LiveAnswer::NotFound,
        };
        let desired = its.store.contains(&sale).then(desired);
        let is_present = desired.is_some();
        let observed = Observation {
            key: key(sale),
            class: CLASS.to_owned(),
            cluster: self.cluster(cluster),
            partitions: Some(1),
            clocks: Clocks::all_at(now),
            desired,
            absence: Absence {
                live,
                deletion,
                grace: GRACE,
            },
            sale: Some(row),
            ledger_absence: None,
            index: ObservedIndex::NotAsked,
            index_unknown_for: Default::default(),
            rebuild_delay: None,
            is_watched: false,
            workloads: Default::default(),
            servers: None,
            balance: None,
            adjustments_pending: false,
            close_appended: false,
            total_appended: false,
            blocker: None,
        };
        let step = plan(&observed).step;
        if step == Step::Nothing && conclusive && !is_present {
            state.history.stuck |= self.is_stuck(state, cluster, sale);
        }
        apply(state, sale, &step);
        Some(())
    }

    /// The part of the loop that all sales share.
    fn see_deletions(&self, state: &mut DeletionState, cluster: usize) {
        let its = &state.clusters[cluster];
        let is_ours = |row: &Row| {
            let owner = row.owner.map(|owner| self.identity(owner));
            let is_ours = self.cluster(cluster).ownership(owner.as_deref()) == Ownership::Ours;
            is_ours && row.state != SaleState::Closed
        };
        let ours: Vec<usize> = (0..self.sales).filter(|sale| is_ours(&state.rows[*sale])).collect();
        let missing: Vec<usize> = ours.iter().copied().filter(|sale| !its.store.contains(sale)).collect();
        let seen: Sales = missing
            .iter()
            .copied()
            .filter(|sale| its.events.contains(sale))
            .collect();
        let found = missing.iter().map(|sale| MissingSale {
            sale: id(*sale),
            deletion_seen: seen.contains(sale) || self.breaks(DeletionRule::AbsenceIsNoDeletion),
            namespace_ends: false,
        });
        let found: Vec<MissingSale> = found.collect();
        let running = if self.breaks(DeletionRule::Brake) {
            100
        } else {
            ours.len()
        };
        let now = state.now;
        state.clusters[cluster].deletions.update(&found, running, now);
        state.note_mass_deletion(seen);
    }

    /// Whether nothing is left to do, although the sale should have ended.
    fn is_stuck(&self, state: &DeletionState, cluster: usize, sale: usize) -> bool {
        let (row, its) = (&state.rows[sale], &state.clusters[cluster]);
        if row.owner != Some(cluster) || its.objects.contains(&sale) {
            return false;
        }
        let grace_is_over = |at: &Millis| state.now >= at + GRACE;
        let was_deleted = state.history.recorded_at.get(&sale).is_some_and(grace_is_over);
        state.now >= END || (was_deleted && state.may_end(sale))
    }

    fn sale(&self, sale: usize, row: &Row) -> Sale {
        let desired = desired();
        let terms = desired.terms();
        Sale {
            id: id(sale),
            class: CLASS.to_owned(),
            namespace: key(sale).namespace,
            name: key(sale).name,
            cluster: row.owner.map(|owner| self.identity(owner)),
            uid: desired.uid,
            partition: 0,
            format: desired.format,
            version: 1,
            state: row.state,
            opens_at: desired.starts_at,
            closes_at: row.closes_at,
            limit_per_buyer: 0,
            max_per_order: terms.max_per_order,
            orders_ever_max: terms.orders_ever_max,
            orders_ever: 0,
            item: desired.offer.item,
            item_id: None,
            issuer: None,
            tiers: None,
            tier_limits: Default::default(),
            price: desired.offer.price,
            currency: desired.offer.currency,
            offered: desired.offer.offered,
            live_epoch: None,
            total: 0,
            sold: 0,
            taken: 0,
            returned: 0,
            cut: SaleCut::default(),
            identity_at: None,
            created_at_ms: 0,
            updated_at_ms: 0,
            settled_at_ms: None,
            settled_left: None,
            freed_at_ms: None,
            missing_since_ms: row.missing_since,
            stopped: false,
        }
    }
}

fn apply(state: &mut DeletionState, sale: usize, step: &Step) {
    let (now, may_end) = (state.now, state.may_end(sale));
    let (row, history) = (&mut state.rows[sale], &mut state.history);
    match step {
        Step::Claim { cluster, .. } => {
            row.owner = Some(if cluster.ends_with('0') { HOME } else { OTHER });
            row.missing_since = None;
            history.recorded_at.remove(&sale);
        }
        Step::RecordDeletion { at, .. } => {
            row.missing_since = Some(*at);
            history.recorded_at.insert(sale, *at);
        }
        Step::ForgetDeletion { .. } => {
            row.missing_since = None;
            history.recorded_at.remove(&sale);
        }
        Step::UpdateTerms { terms, .. } => {
            history.resumed |= terms.state == SaleState::Open;
            history.unjustified |= terms.state != SaleState::Open && now < END && !may_end;
            (row.state, row.closes_at) = (terms.state, terms.closes_at);
        }
        _ => {}
    }
}

fn id(sale: usize) -> SaleId {
    SaleId(sale as u32)
}

fn key(sale: usize) -> SaleKey {
    SaleKey::new("shop", format!("sale-{sale}"))
}

/// The same for all: one unit, sold just before the end, so that no index is needed until then.
fn desired() -> DesiredSale {
    DesiredSale {
        uid: "u".to_owned(),
        created_at: 0,
        offer: Offer {
            item: Default::default(),
            item_id: None,
            issuer: None,
            tiers: None,
            price: "1.00".to_owned(),
            currency: "EUR".to_owned(),
            offered: 1,
        },
        known_id: None,
        unknown_fields: Vec::new(),
        format: Format::FIRST,
        limit_per_buyer: 0,
        tier_limits: Default::default(),
        max_per_order: 1,
        orders_ever_max: None,
        starts_at: END - 1,
        ends_at: END,
        lead_time_seconds: 0,
        cool_down_seconds: 0,
        demand: Demand::default(),
        suspended: false,
        preflight_required: false,
    }
}
