//! What the worker counts.
use seckill_ledger::Stored;
use seckill_service::metrics::encoding::EncodeLabelSet;
use seckill_service::metrics::metrics::counter::Counter;
use seckill_service::metrics::metrics::family::Family;
use seckill_service::metrics::metrics::gauge::Gauge;
use seckill_service::metrics::metrics::histogram::{Histogram, exponential_buckets};
use seckill_service::metrics::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Part {
    pub partition: u32,
}

#[derive(Clone)]
pub struct Metrics {
    orders: Counter,
    void: Counter,
    duplicates: Counter,
    quarantined: Counter,
    batches: Counter,
    store_seconds: Histogram,
    pub lag: Family<Part, Gauge>,
    pub republished: Counter,
    pub trimmed: Counter,
    pub effects_told: Counter,
    pub effects_unknown: Counter,
    pub effects_owed: Gauge,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Metrics {
            orders: Counter::default(),
            void: Counter::default(),
            duplicates: Counter::default(),
            quarantined: Counter::default(),
            batches: Counter::default(),
            store_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            lag: Family::default(),
            republished: Counter::default(),
            trimmed: Counter::default(),
            effects_told: Counter::default(),
            effects_unknown: Counter::default(),
            effects_owed: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("seckill_worker");
        let mut counter = |name: &str, help: &str, counter: &Counter| registry.register(name, help, counter.clone());
        counter("orders_stored", "Orders that became rows", &metrics.orders);
        counter("orders_void", "Orders of batches that don't count", &metrics.void);
        counter(
            "orders_duplicate",
            "Orders that were stored before",
            &metrics.duplicates,
        );
        counter(
            "records_quarantined",
            "Records that could not be folded; someone has to look",
            &metrics.quarantined,
        );
        counter(
            "batches",
            "Transactions that stored a stretch of a partition",
            &metrics.batches,
        );
        counter(
            "relay_republished",
            "Outbox entries that did not reach the log and were published again",
            &metrics.republished,
        );
        counter(
            "relay_trimmed",
            "Outbox entries that were stored and removed",
            &metrics.trimmed,
        );
        counter(
            "effects_told",
            "Cancellations and raised totals that an index took",
            &metrics.effects_told,
        );
        counter(
            "effects_unknown",
            "Cancelled orders that an index did not know; someone has to look",
            &metrics.effects_unknown,
        );
        registry.register(
            "effects_owed",
            "Cancellations and raised totals that an index has still to take",
            metrics.effects_owed.clone(),
        );
        registry.register(
            "store_seconds",
            "Duration of those transactions",
            metrics.store_seconds.clone(),
        );
        registry.register("lag", "Records of the log that are not stored yet", metrics.lag.clone());
        metrics
    }

    pub fn stored(&self, stored: Stored, seconds: f64) {
        self.orders.inc_by(stored.orders);
        self.void.inc_by(stored.void);
        self.duplicates.inc_by(stored.duplicates);
        self.quarantined.inc_by(stored.quarantined);
        self.batches.inc();
        self.store_seconds.observe(seconds);
    }
}
