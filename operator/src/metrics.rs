//! What the operator counts.
use std::sync::atomic::AtomicU64;

use kube::ResourceExt as _;
use seckill_crds::FlashSale;
use seckill_service::metrics::encoding::EncodeLabelSet;
use seckill_service::metrics::metrics::counter::Counter;
use seckill_service::metrics::metrics::family::Family;
use seckill_service::metrics::metrics::gauge::Gauge;
use seckill_service::metrics::registry::Registry;

use crate::facts::Facts;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SaleLabels {
    namespace: String,
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Default)]
pub struct Metrics {
    reconciles: Counter,
    failures: Family<ReasonLabel, Counter>,
    remaining: Family<SaleLabels, Gauge>,
    in_flight: Family<SaleLabels, Gauge>,
    ready_lead: Family<SaleLabels, Gauge<f64, AtomicU64>>,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "seckill_operator_reconciles",
            "Looks at a sale",
            self.reconciles.clone(),
        );
        registry.register(
            "seckill_operator_failures",
            "Looks at a sale that failed, by reason",
            self.failures.clone(),
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
            "seckill_sale_ready_lead_seconds",
            "How long before its start a sale was ready; negative if after it",
            self.ready_lead.clone(),
        );
    }

    pub fn reconciled(&self) {
        self.reconciles.inc();
    }

    pub fn failed(&self, reason: &'static str) {
        self.failures.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub fn ready_lead(&self, object: &FlashSale, seconds: f64) {
        self.ready_lead.get_or_create(&labels(object)).set(seconds);
    }

    /// The figures of a sale with an index; those of a sale without one go.
    pub fn sample(&self, object: &FlashSale, facts: &Facts) {
        let labels = labels(object);
        match (facts.index.in_force(), &facts.sale) {
            (Some(index), Some(sale)) => {
                let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
                self.remaining.get_or_create(&labels).set(number(index.left));
                let in_flight = index.total.saturating_sub(index.left).saturating_sub(sale.sold);
                self.in_flight.get_or_create(&labels).set(number(in_flight));
            }
            _ => {
                self.remaining.remove(&labels);
                self.in_flight.remove(&labels);
            }
        }
    }
}

fn labels(object: &FlashSale) -> SaleLabels {
    SaleLabels {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}
