//! The metrics of this program. All labels are bounded: route patterns, and codes of an enum.
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use seckill_order_log::{OrderLog, Tail};

#[derive(Debug)]
pub struct Metrics {
    pub answers: Family<AnswerLabels, Counter>,
    pub in_flight: Gauge,
    pub purchase_seconds: Histogram,
    pub read_back_seconds: Histogram,
    pub batch_orders: Histogram,
    pub not_appended: Counter,
    pub ledger_queries: Counter,
    pub kept_order_keys: Gauge,
    pub connections: Gauge,
    connections_dropped: Family<DropLabels, Counter>,
    token_verifications: Family<TokenLabels, Counter>,
    key_fetches: Family<KeyFetchLabels, Counter>,
    log: Arc<LogCollector>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AnswerLabels {
    pub route: String,
    pub status: u16,
    pub code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DropLabels {
    reason: &'static str,
}

/// `issuer` is a name from the configuration; `outcome` is `verified`, `cached` or the code of a problem.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    issuer: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyFetchLabels {
    issuer: String,
    result: &'static str,
}

/// Why the server closed a connection.
#[derive(Debug, Clone, Copy)]
pub enum DropReason {
    /// The address of the client had as many connections as it may have.
    AddressLimit,
    /// All places were taken, and this connection waited longest for a request.
    Reclaimed,
}

impl DropReason {
    fn as_str(self) -> &'static str {
        match self {
            DropReason::AddressLimit => "address_limit",
            DropReason::Reclaimed => "reclaimed",
        }
    }
}

/// 0.5 ms to 8 s.
fn seconds() -> Histogram {
    Histogram::new([
        0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.0, 4.0, 8.0,
    ])
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Arc<Self> {
        let metrics = Metrics {
            answers: Family::default(),
            in_flight: Gauge::default(),
            purchase_seconds: seconds(),
            read_back_seconds: seconds(),
            batch_orders: Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]),
            not_appended: Counter::default(),
            ledger_queries: Counter::default(),
            kept_order_keys: Gauge::default(),
            connections: Gauge::default(),
            connections_dropped: Family::default(),
            token_verifications: Family::default(),
            key_fetches: Family::default(),
            log: Arc::default(),
        };
        // Its metrics have whole names.
        registry.register_collector(Box::new(metrics.log.clone()));
        let registry = registry.sub_registry_with_prefix("seckill_api");
        registry.register("answers", "Answers by route, status and code", metrics.answers.clone());
        registry.register("requests_in_flight", "Requests in progress", metrics.in_flight.clone());
        registry.register_with_unit(
            "purchase",
            "Time from the request of a purchase to its outcome",
            Unit::Seconds,
            metrics.purchase_seconds.clone(),
        );
        registry.register_with_unit(
            "read_back",
            "Time from the decision of the index until its record is read back from the log",
            Unit::Seconds,
            metrics.read_back_seconds.clone(),
        );
        registry.register(
            "batch_orders",
            "Orders in one call of the purchase script that reserved something",
            metrics.batch_orders.clone(),
        );
        registry.register(
            "records_not_appended",
            "Records left to the relay because the queue to Kafka was full or broken",
            metrics.not_appended.clone(),
        );
        registry.register(
            "ledger_queries",
            "Queries of MySQL for requests",
            metrics.ledger_queries.clone(),
        );
        registry.register(
            "kept_order_keys",
            "Keys of the orders of sales that are over, in memory: 8 bytes each",
            metrics.kept_order_keys.clone(),
        );
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register(
            "connections_dropped",
            "Connections that were closed to protect others, by reason",
            metrics.connections_dropped.clone(),
        );
        registry.register(
            "token_verifications",
            "Verifications of bearer tokens, by issuer and outcome",
            metrics.token_verifications.clone(),
        );
        registry.register(
            "issuer_key_fetches",
            "Fetches of the keys of an issuer, by issuer and result",
            metrics.key_fetches.clone(),
        );
        Arc::new(metrics)
    }

    pub(crate) fn count_dropped(&self, reason: DropReason) {
        let labels = DropLabels {
            reason: reason.as_str(),
        };
        self.connections_dropped.get_or_create(&labels).inc();
    }

    pub(crate) fn count_token(&self, issuer: &str, outcome: &'static str) {
        let issuer = issuer.to_owned();
        self.token_verifications
            .get_or_create(&TokenLabels { issuer, outcome })
            .inc();
    }

    pub(crate) fn count_key_fetch(&self, issuer: &str, succeeded: bool) {
        let labels = KeyFetchLabels {
            issuer: issuer.to_owned(),
            result: if succeeded { "succeeded" } else { "failed" },
        };
        self.key_fetches.get_or_create(&labels).inc();
    }

    /// The metrics of the log and its tail are read when they are scraped.
    pub(crate) fn collect_from(&self, tail: Tail, log: OrderLog) {
        let _ = self.log.0.set((tail, log)); // called once in a process
    }
}

/// The metrics of the log and its tail, once they are connected.
#[derive(Default)]
struct LogCollector(OnceLock<(Tail, OrderLog)>);

impl std::fmt::Debug for LogCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogCollector")
    }
}

impl Collector for LogCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let Some((tail, log)) = self.0.get() else {
            return Ok(());
        };
        let mut lag = encoder.encode_descriptor(
            "seckill_api_tail_lag_records",
            "Records between the position of the tail and the last known end of the partition",
            None,
            ConstGauge::<i64>::TYPE,
        )?;
        for partition in 0..tail.partitions() {
            if let Some(records) = tail.lag(partition) {
                ConstGauge::new(records).encode(lag.encode_family(&[("partition", partition.to_string())])?)?;
            }
        }
        let waiting = ConstGauge::new(i64::try_from(tail.waiting()).unwrap_or(i64::MAX));
        let help = "Purchases that wait for their read-back from the log";
        waiting.encode(encoder.encode_descriptor("seckill_api_tail_waiting", help, None, waiting.metric_type())?)?;
        for (name, help, value) in [
            (
                "seckill_api_undecodable_records",
                "Records of the log that could not be decoded",
                tail.undecodable(),
            ),
            (
                "seckill_api_failed_deliveries",
                "Records that Kafka did not acknowledge",
                log.failed_deliveries(),
            ),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}
