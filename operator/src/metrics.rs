//! What the operator counts.
use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use seckill_planner::clocks::ClockDifference;
use seckill_planner::demand::Needs;
use seckill_planner::observation::TierUnits;
use seckill_planner::{Observation, SaleKey};
use seckill_service::metrics::encoding::EncodeLabelSet;
use seckill_service::metrics::metrics::counter::Counter;
use seckill_service::metrics::metrics::family::Family;
use seckill_service::metrics::metrics::gauge::Gauge;
use seckill_service::metrics::metrics::histogram::Histogram;
use seckill_service::metrics::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SaleLabels {
    namespace: String,
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TierLabels {
    namespace: String,
    name: String,
    tier: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkloadLabel {
    workload: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerLabel {
    server: &'static str,
}

/// From a reconcile that finds nothing to do, to the rebuild of a large index.
const RECONCILE_SECONDS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

pub struct Metrics {
    duration: Histogram,
    failures: Family<ReasonLabel, Counter>,
    watch_failures: Family<ReasonLabel, Counter>,
    remaining: Family<SaleLabels, Gauge>,
    in_flight: Family<SaleLabels, Gauge>,
    imbalance: Family<SaleLabels, Gauge>,
    imbalanced: Family<SaleLabels, Gauge>,
    orders_ever: Family<SaleLabels, Gauge>,
    orders_ever_max: Family<SaleLabels, Gauge>,
    tier_sold: Family<TierLabels, Gauge>,
    tier_reserved: Family<TierLabels, Gauge>,
    ready_lead: Family<SaleLabels, Gauge<f64, AtomicU64>>,
    preflight_problems: Family<SaleLabels, Gauge>,
    demand: Family<WorkloadLabel, Gauge>,
    clock_difference: Family<ServerLabel, Gauge<f64, AtomicU64>>,
    without_flash_sale: Gauge,
    leader: Gauge,
    terms: Counter,
    lease_failures: Counter,
    /// The sales that have gauges, with the labels of their tiers.
    sales: Mutex<HashMap<SaleKey, Vec<TierLabels>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            duration: Histogram::new(RECONCILE_SECONDS),
            failures: Family::default(),
            watch_failures: Family::default(),
            remaining: Family::default(),
            in_flight: Family::default(),
            imbalance: Family::default(),
            imbalanced: Family::default(),
            orders_ever: Family::default(),
            orders_ever_max: Family::default(),
            tier_sold: Family::default(),
            tier_reserved: Family::default(),
            ready_lead: Family::default(),
            preflight_problems: Family::default(),
            demand: Family::default(),
            clock_difference: Family::default(),
            without_flash_sale: Gauge::default(),
            leader: Gauge::default(),
            terms: Counter::default(),
            lease_failures: Counter::default(),
            sales: Mutex::default(),
        }
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "seckill_operator_reconcile_seconds",
            "Duration of a reconcile",
            self.duration.clone(),
        );
        registry.register(
            "seckill_operator_failures",
            "Failed reconciles, by reason",
            self.failures.clone(),
        );
        registry.register(
            "seckill_operator_watch_failures",
            "Failed lists and watches of FlashSales, by reason",
            self.watch_failures.clone(),
        );
        registry.register(
            "seckill_sale_remaining_units",
            "Units left to buy",
            self.remaining.clone(),
        );
        registry.register(
            "seckill_sale_in_flight_units",
            "Units sold and not in the ledger yet",
            self.in_flight.clone(),
        );
        registry.register(
            "seckill_sale_imbalance_units",
            "Units sold according to the index minus units sold according to the ledger, once they should agree",
            self.imbalance.clone(),
        );
        registry.register(
            "seckill_sale_imbalanced",
            "1: the condition LedgerBalanced of the sale is False; 0: it is not",
            self.imbalanced.clone(),
        );
        registry.register(
            "seckill_sale_orders_ever",
            "Orders ever made, including cancelled ones",
            self.orders_ever.clone(),
        );
        registry.register(
            "seckill_sale_orders_ever_max",
            "Orders at which the sale stops selling; 0: no bound",
            self.orders_ever_max.clone(),
        );
        registry.register(
            "seckill_sale_tier_sold_units",
            "Units that buyers of a tier have bought and not cancelled; general: buyers of no tier",
            self.tier_sold.clone(),
        );
        registry.register(
            "seckill_sale_tier_reserved_units",
            "Units that are kept for buyers of a tier now",
            self.tier_reserved.clone(),
        );
        registry.register(
            "seckill_sale_ready_lead_seconds",
            "Seconds before its start at which a sale was ready; negative if later",
            self.ready_lead.clone(),
        );
        registry.register(
            "seckill_sale_preflight_problems",
            "Problems that the preflight of a sale found",
            self.preflight_problems.clone(),
        );
        registry.register(
            "seckill_operator_demand_pods",
            "Pods that the sales ask for now, regardless of floor and ceiling",
            self.demand.clone(),
        );
        registry.register(
            "seckill_operator_clock_difference_seconds",
            "Seconds that the clock of a server is ahead of the operator's; negative: behind",
            self.clock_difference.clone(),
        );
        registry.register(
            "seckill_operator_sales_without_flash_sale",
            "Running sales of this cluster whose FlashSale is missing without a confirmed deletion",
            self.without_flash_sale.clone(),
        );
        registry.register(
            "seckill_operator_leader",
            "1: this operator is the leader; 0: it stands by",
            self.leader.clone(),
        );
        registry.register(
            "seckill_operator_terms",
            "Leadership terms of this operator",
            self.terms.clone(),
        );
        registry.register(
            "seckill_operator_lease_failures",
            "Failed attempts to acquire or renew the lease",
            self.lease_failures.clone(),
        );
    }

    pub fn became_leader(&self) {
        self.terms.inc();
        self.leader.set(1);
    }

    /// The figures of the sales are the next leader's to export.
    pub fn lost_leadership(&self) {
        self.leader.set(0);
        self.demand.clear();
        self.clock_difference.clear();
        self.without_flash_sale.set(0);
        self.keep(&HashSet::new());
    }

    pub fn is_leader(&self) -> bool {
        self.leader.get() == 1
    }

    /// Failed attempts so far.
    pub fn lease_failures(&self) -> u64 {
        self.lease_failures.get()
    }

    pub fn lease_failed(&self) {
        self.lease_failures.inc();
    }

    pub fn reconciled(&self, took: Duration) {
        self.duration.observe(took.as_secs_f64());
    }

    pub fn failed(&self, reason: &'static str) {
        self.failures.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub fn watch_failed(&self, reason: &'static str) {
        self.watch_failures.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub fn ready_lead(&self, key: &SaleKey, seconds: f64) {
        self.ready_lead.get_or_create(&self.labels(key)).set(seconds);
    }

    /// What the sales ask for: an autoscaler that controls the Deployments can follow it.
    pub fn demand(&self, demand: Needs) {
        for (workload, pods) in [("api", demand.api), ("worker", demand.worker)] {
            self.demand.get_or_create(&WorkloadLabel { workload }).set(pods.into());
        }
    }

    /// How far a server's clock is ahead; `None`: unknown.
    pub fn clock_difference(&self, server: &'static str, difference: Option<ClockDifference>) {
        let labels = ServerLabel { server };
        match difference {
            Some(difference) => {
                let seconds = difference.ahead_ms as f64 / 1000.0;
                self.clock_difference.get_or_create(&labels).set(seconds);
            }
            None => drop(self.clock_difference.remove(&labels)),
        }
    }

    pub fn sales_without_flash_sale(&self, sales: usize) {
        self.without_flash_sale.set(i64::try_from(sales).unwrap_or(i64::MAX));
    }

    /// The figures of a sale. Those of its index are removed when it has none.
    pub fn observed(&self, observed: &Observation) {
        let labels = self.labels(&observed.key);
        match observed.preflight() {
            Some(preflight) => {
                let problems = i64::try_from(preflight.problems.len()).unwrap_or(i64::MAX);
                self.preflight_problems.get_or_create(&labels).set(problems);
            }
            None => {
                self.preflight_problems.remove(&labels);
            }
        }
        match (observed.index.in_force(), &observed.sale) {
            (Some(index), Some(sale)) => {
                let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
                self.remaining.get_or_create(&labels).set(number(index.left));
                let in_flight = index.total.saturating_sub(index.left).saturating_sub(sale.out());
                self.in_flight.get_or_create(&labels).set(number(in_flight));
                let ever = index.ever.unwrap_or(sale.orders_ever);
                self.orders_ever.get_or_create(&labels).set(number(ever));
                let most = index.terms.bounds.orders_ever_max;
                self.orders_ever_max.get_or_create(&labels).set(number(most));
                self.observed_tiers(observed);
            }
            _ => {
                self.remaining.remove(&labels);
                self.in_flight.remove(&labels);
                self.orders_ever.remove(&labels);
                self.orders_ever_max.remove(&labels);
                self.remove_tiers(&observed.key);
            }
        }
    }

    fn observed_tiers(&self, observed: &Observation) {
        let tiers: Vec<TierUnits<'_>> = observed.tier_units().into_iter().flatten().collect();
        if tiers.is_empty() {
            return;
        }
        let SaleLabels { namespace, name } = SaleLabels::of(&observed.key);
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let mut all = Vec::with_capacity(tiers.len());
        for tier in tiers {
            let labels = TierLabels {
                namespace: namespace.clone(),
                name: name.clone(),
                tier: tier.name.to_owned(),
            };
            self.tier_sold.get_or_create(&labels).set(number(tier.sold));
            self.tier_reserved.get_or_create(&labels).set(number(tier.reserved));
            all.push(labels);
        }
        self.sales().insert(observed.key.clone(), all);
    }

    fn remove_tiers(&self, key: &SaleKey) {
        let of_sale = self.sales().get_mut(key).map(std::mem::take);
        for labels in of_sale.into_iter().flatten() {
            self.tier_sold.remove(&labels);
            self.tier_reserved.remove(&labels);
        }
    }

    fn sales(&self) -> MutexGuard<'_, HashMap<SaleKey, Vec<TierLabels>>> {
        self.sales.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the condition LedgerBalanced of a sale is False, and its units if they are known. A condition that was found
    /// by an earlier leader stays without a number.
    pub fn balance(&self, key: &SaleKey, imbalanced: bool, units: Option<i64>) {
        let labels = self.labels(key);
        self.imbalanced.get_or_create(&labels).set(imbalanced.into());
        match units {
            Some(units) => _ = self.imbalance.get_or_create(&labels).set(units),
            None if !imbalanced => _ = self.imbalance.get_or_create(&labels).set(0),
            None => {}
        }
    }

    /// Removes the gauges of FlashSales that are gone.
    pub fn keep(&self, present: &HashSet<SaleKey>) {
        let gone: Vec<SaleKey> = self
            .sales()
            .keys()
            .filter(|key| !present.contains(key))
            .cloned()
            .collect();
        for key in gone {
            let labels = SaleLabels::of(&key);
            self.remaining.remove(&labels);
            self.in_flight.remove(&labels);
            self.imbalance.remove(&labels);
            self.imbalanced.remove(&labels);
            self.orders_ever.remove(&labels);
            self.orders_ever_max.remove(&labels);
            self.ready_lead.remove(&labels);
            self.preflight_problems.remove(&labels);
            self.remove_tiers(&key);
            self.sales().remove(&key);
        }
    }

    fn labels(&self, key: &SaleKey) -> SaleLabels {
        let mut sales = self.sales();
        if !sales.contains_key(key) {
            sales.insert(key.clone(), Vec::new());
        }
        SaleLabels::of(key)
    }
}

impl SaleLabels {
    fn of(key: &SaleKey) -> Self {
        SaleLabels {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        }
    }
}
