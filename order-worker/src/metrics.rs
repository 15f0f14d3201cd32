//! Metrics of the worker.
use seckill_ledger::Stored;
use seckill_service::metrics::encoding::EncodeLabelSet;
use seckill_service::metrics::metrics::counter::Counter;
use seckill_service::metrics::metrics::family::Family;
use seckill_service::metrics::metrics::gauge::Gauge;
use seckill_service::metrics::metrics::histogram::{Histogram, exponential_buckets};
use seckill_service::metrics::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PartitionLabel {
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
    pub lag: Family<PartitionLabel, Gauge>,
    stopped: Family<PartitionLabel, Gauge>,
    pub republished: Counter,
    pub trimmed: Counter,
    pub adjustments_applied: Counter,
    pub adjustments_unknown: Counter,
    pub adjustments_pending: Gauge,
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
            stopped: Family::default(),
            republished: Counter::default(),
            trimmed: Counter::default(),
            adjustments_applied: Counter::default(),
            adjustments_unknown: Counter::default(),
            adjustments_pending: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("seckill_worker");
        let mut counter = |name: &str, help: &str, counter: &Counter| registry.register(name, help, counter.clone());
        counter("orders_stored", "Orders inserted into the ledger", &metrics.orders);
        counter("orders_void", "Orders of void batches", &metrics.void);
        counter(
            "orders_duplicate",
            "Orders that were already in the ledger",
            &metrics.duplicates,
        );
        counter(
            "records_quarantined",
            "Records that could not be folded and need a person",
            &metrics.quarantined,
        );
        counter(
            "batches",
            "Transactions that stored a range of a partition",
            &metrics.batches,
        );
        counter(
            "relay_republished",
            "Outbox entries that the relay published because they were missing from the log",
            &metrics.republished,
        );
        counter(
            "relay_trimmed",
            "Outbox entries removed after they were stored",
            &metrics.trimmed,
        );
        counter(
            "effects_told",
            "Stock adjustments (cancellations and raised totals) applied to an index",
            &metrics.adjustments_applied,
        );
        counter(
            "effects_unknown",
            "Cancelled orders that were missing from an index and need a person",
            &metrics.adjustments_unknown,
        );
        registry.register(
            "effects_owed",
            "Stock adjustments that wait for an index, up to 256 of each sale",
            metrics.adjustments_pending.clone(),
        );
        registry.register(
            "store_seconds",
            "Duration of the transactions that store records",
            metrics.store_seconds.clone(),
        );
        registry.register(
            "lag",
            "Records of a partition that are not stored yet",
            metrics.lag.clone(),
        );
        registry.register(
            "partition_stopped",
            "1 for a partition that is not stored any further until a person has acted",
            metrics.stopped.clone(),
        );
        metrics
    }

    pub fn partition_stopped(&self, partition: u32, stopped: bool) {
        let label = PartitionLabel { partition };
        match stopped {
            true => _ = self.stopped.get_or_create(&label).set(1),
            false => _ = self.stopped.remove(&label),
        }
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
