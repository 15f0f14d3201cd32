//! The state that the routes share.
use std::sync::Arc;

use seckill_ledger::{Ledger, Sale};
use seckill_order_log::{LogError, OrderLog, Tail};
use seckill_protocol::{Batch, Epoch, OrderNoKeys, Record};
use seckill_stock::{BatchSink, Batcher, StockClient};
use tokio::sync::{Semaphore, watch};

use crate::buyers::Buyers;
use crate::catalogue::Catalogue;
use crate::fold_progress::FoldProgress;
use crate::ledger_lookup::LedgerLookups;
use crate::metrics::Metrics;
use crate::order_lookup::OrderLookups;
use crate::purchase_locks::PurchaseLocks;
use crate::rate_limit::RateLimits;
use crate::traced::TracedPurchases;
use crate::unknown_sales::UnknownSales;

pub struct Api {
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) stock: StockClient,
    pub(crate) log: OrderLog,
    pub(crate) tail: Tail,
    pub(crate) ledger: Ledger,
    pub(crate) order_no_keys: OrderNoKeys,
    pub(crate) buyers: Buyers,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) traced: Arc<TracedPurchases>,
    pub(crate) purchase_locks: PurchaseLocks,
    pub(crate) purchase_permits: Semaphore,
    max_purchases: usize,
    pub(crate) lookups: Arc<LedgerLookups>,
    pub(crate) order_lookups: OrderLookups,
    pub(crate) fold_progress: FoldProgress,
    pub(crate) unknown_sales: UnknownSales,
    pub(crate) rate_limits: Arc<RateLimits>,
}

/// The servers behind the API.
pub struct Servers {
    pub stock: StockClient,
    pub log: OrderLog,
    pub tail: Tail,
    pub ledger: Ledger,
}

/// What others see of the API at work.
pub struct Telemetry {
    pub metrics: Arc<Metrics>,
    pub traced: Arc<TracedPurchases>,
}

impl Api {
    /// `max_purchases` limits how many purchases are in progress at the same time.
    pub fn new(
        servers: Servers,
        catalogue: Arc<Catalogue>,
        order_no_keys: OrderNoKeys,
        buyers: Buyers,
        max_purchases: usize,
        telemetry: Telemetry,
        rate_limits: RateLimits,
    ) -> Arc<Self> {
        let Telemetry { metrics, traced } = telemetry;
        let Servers {
            stock,
            log,
            tail,
            ledger,
        } = servers;
        metrics.collect_from(tail.clone(), log.clone());
        let lookups = Arc::new(LedgerLookups::new(metrics.ledger_queries.clone()));
        Arc::new(Api {
            catalogue,
            stock,
            log,
            tail,
            order_lookups: OrderLookups::new(ledger.clone(), lookups.clone(), metrics.kept_order_keys.clone()),
            fold_progress: FoldProgress::new(ledger.clone(), lookups.clone()),
            ledger,
            order_no_keys,
            buyers,
            metrics,
            traced,
            purchase_locks: PurchaseLocks::default(),
            purchase_permits: Semaphore::new(max_purchases),
            max_purchases,
            lookups,
            unknown_sales: UnknownSales::default(),
            rate_limits: Arc::new(rate_limits),
        })
    }

    pub(crate) fn spawn_batcher(&self, sale: &Sale, epochs: watch::Receiver<Option<Epoch>>) -> Batcher {
        let sink = Appender {
            log: self.log.clone(),
            partition: sale.partition,
            metrics: self.metrics.clone(),
            traced: self.traced.clone(),
        };
        Batcher::spawn(self.stock.clone(), sale.id, epochs, sink, self.max_purchases)
    }

    pub(crate) fn append(&self, partition: u32, record: &Record) {
        count_failure(partition, self.log.append_now(partition, record), &self.metrics);
    }
}

/// Appends a batch of orders to the log without waiting: the read-back confirms them.
struct Appender {
    log: OrderLog,
    partition: u32,
    metrics: Arc<Metrics>,
    traced: Arc<TracedPurchases>,
}

impl BatchSink for Appender {
    fn append(&self, batch: Batch) {
        self.metrics.batch_orders.observe(batch.orders.len() as f64);
        seckill_failpoint::reach("api.before-append");
        let headers = self.traced.headers(&batch);
        let record = Record::Batch(batch);
        let appended = self.log.append_now_with(self.partition, &record, &headers);
        count_failure(self.partition, appended, &self.metrics);
        seckill_failpoint::reach("api.after-append");
    }
}

/// A record that could not be appended stays in the outbox of the index, and the relay of order-worker publishes it.
fn count_failure(partition: u32, appended: Result<(), LogError>, metrics: &Metrics) {
    if let Err(error) = appended {
        // Counted, not logged as a warning: a Kafka outage causes thousands, and the Kafka client logs the outage.
        metrics.not_appended.inc();
        tracing::debug!(partition, %error, "failed to append a record");
    }
}
