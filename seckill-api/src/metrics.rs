//! What this program measures. All labels are bounded: routes as they are written down, codes of an enum.
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
    pub answers: Family<Answer, Counter>,
    pub in_flight: Gauge,
    pub purchase_seconds: Histogram,
    pub read_back_seconds: Histogram,
    pub batch_orders: Histogram,
    pub not_appended: Counter,
    log: Arc<Log>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Answer {
    pub route: String,
    pub status: u16,
    pub code: &'static str,
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
            log: Arc::default(),
        };
        let registry = registry.sub_registry_with_prefix("seckill_api");
        registry.register("answers", "Answers by route, status and code", metrics.answers.clone());
        registry.register(
            "requests_in_flight",
            "Requests that are being answered",
            metrics.in_flight.clone(),
        );
        registry.register_with_unit(
            "purchase",
            "From the request of a purchase to its outcome",
            Unit::Seconds,
            metrics.purchase_seconds.clone(),
        );
        registry.register_with_unit(
            "read_back",
            "From the index's decision to its record being read from the log",
            Unit::Seconds,
            metrics.read_back_seconds.clone(),
        );
        registry.register(
            "batch_orders",
            "Orders in one call of the purchase script that sold something",
            metrics.batch_orders.clone(),
        );
        registry.register(
            "records_not_appended",
            "Records that were left to the relay, since the queue to Kafka was full or broken",
            metrics.not_appended.clone(),
        );
        registry.register_collector(Box::new(metrics.log.clone()));
        Arc::new(metrics)
    }

    /// What the tail knows is read when someone asks.
    pub(crate) fn follow(&self, tail: Tail, log: OrderLog) {
        let _ = self.log.0.set((tail, log)); // once a process
    }
}

/// The figures of the log and its tail, once there is one.
#[derive(Default)]
struct Log(OnceLock<(Tail, OrderLog)>);

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Log")
    }
}

impl Collector for Log {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let Some((tail, log)) = self.0.get() else {
            return Ok(());
        };
        let mut lag = encoder.encode_descriptor(
            "seckill_api_tail_lag_records",
            "Records behind the end of a partition that was last asked for",
            None,
            ConstGauge::<i64>::TYPE,
        )?;
        for part in 0..log.partitions() {
            if let Some(records) = tail.lag(part) {
                ConstGauge::new(records).encode(lag.encode_family(&[("partition", part.to_string())])?)?;
            }
        }
        let waiting = ConstGauge::new(i64::try_from(tail.waiting()).unwrap_or(i64::MAX));
        let help = "Purchases that wait for the log";
        waiting.encode(encoder.encode_descriptor("seckill_api_tail_waiting", help, None, waiting.metric_type())?)?;
        for (name, help, value) in [
            (
                "seckill_api_undecodable_records",
                "Records of the log that are none",
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
