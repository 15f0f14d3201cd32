//! What the routes share.
use std::sync::Arc;

use seckill_ledger::{Ledger, Sale};
use seckill_order_log::{OrderLog, Tail};
use seckill_protocol::{Batch, Epoch, OrderNoKeys, Record};
use seckill_stock::{BatchSink, Batcher, StockClient};
use tokio::sync::{Semaphore, watch};

use crate::catalogue::Catalogue;
use crate::in_flight::InFlight;
use crate::ledger_lookup::Lookups;
use crate::metrics::Metrics;

/// Purchases that wait at once in this process. More are answered "overloaded" at once, and cost nothing.
const PLACES: usize = 16 * 1024;

pub struct Api {
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) stock: StockClient,
    pub(crate) log: OrderLog,
    pub(crate) tail: Tail,
    pub(crate) ledger: Ledger,
    pub(crate) numbers: OrderNoKeys,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) in_flight: InFlight,
    pub(crate) places: Semaphore,
    pub(crate) lookups: Lookups,
}

/// The servers behind the API.
pub struct Servers {
    pub stock: StockClient,
    pub log: OrderLog,
    pub tail: Tail,
    pub ledger: Ledger,
}

impl Api {
    pub fn new(servers: Servers, catalogue: Arc<Catalogue>, numbers: OrderNoKeys, metrics: Arc<Metrics>) -> Arc<Self> {
        let Servers {
            stock,
            log,
            tail,
            ledger,
        } = servers;
        metrics.follow(tail.clone(), log.clone());
        Arc::new(Api {
            catalogue,
            stock,
            log,
            tail,
            ledger,
            numbers,
            metrics,
            in_flight: InFlight::default(),
            places: Semaphore::new(PLACES),
            lookups: Lookups::default(),
        })
    }

    pub(crate) fn spawn_batcher(&self, sale: &Sale, epochs: watch::Receiver<Option<Epoch>>) -> Batcher {
        let sink = Appender {
            log: self.log.clone(),
            part: sale.part,
            metrics: self.metrics.clone(),
        };
        Batcher::spawn(self.stock.clone(), sale.id, epochs, sink, PLACES)
    }

    pub(crate) fn append(&self, part: u32, record: &Record) {
        append(&self.log, part, record, &self.metrics);
    }
}

/// Writes what a batch sold into the log, without waiting for it: the read-back tells.
struct Appender {
    log: OrderLog,
    part: u32,
    metrics: Arc<Metrics>,
}

impl BatchSink for Appender {
    fn append(&self, batch: Batch) {
        self.metrics.batch_orders.observe(batch.orders.len() as f64);
        seckill_failpoint::reach("api.before-append");
        append(&self.log, self.part, &Record::Batch(batch), &self.metrics);
        seckill_failpoint::reach("api.after-append");
    }
}

/// A record that was not sent stays in the outbox of the index, from where the order-worker publishes it.
fn append(log: &OrderLog, part: u32, record: &Record, metrics: &Metrics) {
    if let Err(error) = log.append_now(part, record) {
        // Counted rather than warned of: while Kafka is away there are thousands, and its client says so itself.
        metrics.not_appended.inc();
        tracing::debug!(part, %error, "a record was not sent");
    }
}
