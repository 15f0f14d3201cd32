//! What the operator counts.
use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::ResourceExt as _;
use seckill_crds::FlashSale;
use seckill_service::metrics::encoding::EncodeLabelSet;
use seckill_service::metrics::metrics::counter::Counter;
use seckill_service::metrics::metrics::family::Family;
use seckill_service::metrics::metrics::gauge::Gauge;
use seckill_service::metrics::metrics::histogram::Histogram;
use seckill_service::metrics::registry::Registry;

use crate::balance::Weighed;
use crate::facts::Facts;
use crate::memory::Key;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SaleLabels {
    namespace: String,
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkloadLabel {
    workload: &'static str,
}

/// From the round trips of a look that finds nothing to do, to the rebuild of a large index.
const SECONDS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

pub struct Metrics {
    duration: Histogram,
    failures: Family<ReasonLabel, Counter>,
    watch_failures: Family<ReasonLabel, Counter>,
    remaining: Family<SaleLabels, Gauge>,
    in_flight: Family<SaleLabels, Gauge>,
    imbalance: Family<SaleLabels, Gauge>,
    ready_lead: Family<SaleLabels, Gauge<f64, AtomicU64>>,
    preflight_problems: Family<SaleLabels, Gauge>,
    demand: Family<WorkloadLabel, Gauge>,
    leader: Gauge,
    terms: Counter,
    lease_failures: Counter,
    /// Those with a gauge.
    sales: Mutex<HashMap<Key, SaleLabels>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            duration: Histogram::new(SECONDS),
            failures: Family::default(),
            watch_failures: Family::default(),
            remaining: Family::default(),
            in_flight: Family::default(),
            imbalance: Family::default(),
            ready_lead: Family::default(),
            preflight_problems: Family::default(),
            demand: Family::default(),
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
            "What looks at a sale took",
            self.duration.clone(),
        );
        registry.register(
            "seckill_operator_failures",
            "Looks at a sale that failed, by reason",
            self.failures.clone(),
        );
        registry.register(
            "seckill_operator_watch_failures",
            "Lists and watches of FlashSales that failed, by reason",
            self.watch_failures.clone(),
        );
        registry.register(
            "seckill_sale_remaining_units",
            "Units left to buy",
            self.remaining.clone(),
        );
        registry.register(
            "seckill_sale_in_flight_units",
            "Units taken and not in the ledger yet",
            self.in_flight.clone(),
        );
        registry.register(
            "seckill_sale_imbalance_units",
            "Units out by the index less units out by the ledger, once they ought to agree",
            self.imbalance.clone(),
        );
        registry.register(
            "seckill_sale_ready_lead_seconds",
            "How long before its start a sale was ready; negative if after it",
            self.ready_lead.clone(),
        );
        registry.register(
            "seckill_sale_preflight_problems",
            "What the preflight found that could spoil a sale",
            self.preflight_problems.clone(),
        );
        registry.register(
            "seckill_operator_demand_pods",
            "Pods that the sales ask for now, whatever floor and ceiling are",
            self.demand.clone(),
        );
        registry.register(
            "seckill_operator_leader",
            "1: it runs the sales; 0: it stands by",
            self.leader.clone(),
        );
        registry.register(
            "seckill_operator_terms",
            "How often it began to lead",
            self.terms.clone(),
        );
        registry.register(
            "seckill_operator_lease_failures",
            "Calls for the lease, and renewals of it, that failed",
            self.lease_failures.clone(),
        );
    }

    pub fn leads(&self) {
        self.terms.inc();
        self.leader.set(1);
    }

    /// What it knew of the sales is another's to say.
    pub fn follows(&self) {
        self.leader.set(0);
        self.demand.clear();
        self.keep(&HashSet::new());
    }

    pub fn is_leader(&self) -> bool {
        self.leader.get() == 1
    }

    /// Calls for the lease that failed so far.
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

    pub fn ready_lead(&self, object: &FlashSale, seconds: f64) {
        self.ready_lead.get_or_create(&self.labels(object)).set(seconds);
    }

    /// What the sales ask for: an autoscaler that has the Deployments in charge can go by it.
    pub fn demand(&self, api: i32, worker: i32) {
        for (workload, pods) in [("api", api), ("worker", worker)] {
            self.demand.get_or_create(&WorkloadLabel { workload }).set(pods.into());
        }
    }

    /// The figures of a sale with an index; those of a sale without one go.
    pub fn sample(&self, object: &FlashSale, facts: &Facts) {
        let labels = self.labels(object);
        match facts.preflight() {
            Some(verdict) => {
                let problems = i64::try_from(verdict.problems.len()).unwrap_or(i64::MAX);
                self.preflight_problems.get_or_create(&labels).set(problems);
            }
            None => {
                self.preflight_problems.remove(&labels);
            }
        }
        match (facts.index.in_force(), &facts.sale) {
            (Some(index), Some(sale)) => {
                let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
                self.remaining.get_or_create(&labels).set(number(index.left));
                let in_flight = index.total.saturating_sub(index.left).saturating_sub(sale.out());
                self.in_flight.get_or_create(&labels).set(number(in_flight));
                let imbalance = match facts.weighed {
                    Some(Weighed::Imbalanced(units)) => number(units.index) - number(units.ledger),
                    _ => 0,
                };
                self.imbalance.get_or_create(&labels).set(imbalance);
            }
            _ => {
                self.remaining.remove(&labels);
                self.in_flight.remove(&labels);
            }
        }
    }

    /// The gauges of a FlashSale end with it.
    pub fn keep(&self, there: &HashSet<Key>) {
        let mut sales = self.sales.lock().unwrap_or_else(PoisonError::into_inner);
        sales.retain(|key, labels| {
            let keep = there.contains(key);
            if !keep {
                self.remaining.remove(labels);
                self.in_flight.remove(labels);
                self.imbalance.remove(labels);
                self.ready_lead.remove(labels);
                self.preflight_problems.remove(labels);
            }
            keep
        });
    }

    fn labels(&self, object: &FlashSale) -> SaleLabels {
        let labels = SaleLabels {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
        };
        let mut sales = self.sales.lock().unwrap_or_else(PoisonError::into_inner);
        sales.insert(Key::of(object), labels.clone());
        labels
    }
}
