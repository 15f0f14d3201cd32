use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, NoCustomPartitioner, Producer, ProducerContext, ThreadedProducer};
use seckill_protocol::{Offset, Record};
use tokio::sync::oneshot;

use crate::config::LogConfig;
use crate::creation_error::creation_error;
use crate::error::LogError;
use crate::kafka::{self, QUERY_TIMEOUT, QuietContext};

/// A handle on the log, to append and to query. Dropping the last clone drops queued records: call
/// [`flush`](Self::flush) first.
#[derive(Clone)]
pub struct OrderLog {
    config: Arc<LogConfig>,
    producer: Arc<ThreadedProducer<Reports>>,
    observer: Arc<BaseConsumer<QuietContext>>,
    failures: Arc<DeliveryFailures>,
    /// Only rises. Clones share it.
    partitions: Arc<AtomicU32>,
}

impl OrderLog {
    /// Finds the topic and connects to all brokers, so that the first record does not wait for it.
    pub async fn connect(config: LogConfig) -> Result<Self, LogError> {
        let producer_config = config.producer()?;
        let observer_config = config.observer()?;
        kafka::blocking("connecting", move || {
            // Query as a consumer first, because a query of a producer may create a missing topic.
            let observer = kafka::consumer(&observer_config)?;
            let partitions = kafka::find_topic(&observer, &config.topic)?.partitions;
            let failures = Arc::new(DeliveryFailures::default());
            let producer: ThreadedProducer<Reports> = producer_config
                .create_with_context(Reports(failures.clone()))
                .map_err(creation_error("creating a producer", &producer_config))?;
            producer
                .client()
                .fetch_metadata(Some(&config.topic), QUERY_TIMEOUT)
                .map_err(LogError::kafka("connecting the producer"))?;
            Ok(OrderLog {
                config: Arc::new(config),
                producer: Arc::new(producer),
                observer: Arc::new(observer),
                failures,
                partitions: Arc::new(AtomicU32::new(partitions)),
            })
        })
        .await
    }

    pub fn config(&self) -> &LogConfig {
        &self.config
    }

    /// The number of partitions by the last [`refresh_partitions`](Self::refresh_partitions). A sale keeps its partition, so
    /// added ones change nothing for the others.
    pub fn partitions(&self) -> u32 {
        self.partitions.load(Ordering::Relaxed)
    }

    /// Reads the number of partitions, which may have been added. It never goes down: Kafka can't remove a partition.
    pub async fn refresh_partitions(&self) -> Result<u32, LogError> {
        let (observer, producer, config) = (self.observer.clone(), self.producer.clone(), self.config.clone());
        let known = self.partitions();
        let found = kafka::blocking("reading the metadata of the topic", move || {
            let found = kafka::find_topic(&observer, &config.topic)?.partitions;
            if found > known {
                // Otherwise the producer would refuse them for minutes.
                producer
                    .client()
                    .fetch_metadata(Some(&config.topic), QUERY_TIMEOUT)
                    .map_err(LogError::kafka("reading the metadata of the topic"))?;
            }
            Ok(found)
        })
        .await?;
        let before = self.partitions.fetch_max(found, Ordering::Relaxed);
        if found > before {
            tracing::info!(before, partitions = found, "partitions were added to the topic");
        }
        Ok(found.max(before))
    }

    /// Number of records since the start that were queued and not acknowledged.
    pub fn failed_deliveries(&self) -> u64 {
        self.failures.count.load(Ordering::Relaxed)
    }

    /// Number of records that wait for their acknowledgement.
    pub fn in_flight(&self) -> u64 {
        u64::try_from(self.producer.in_flight_count()).unwrap_or(0)
    }

    /// Appends a record and waits until all in-sync replicas have it. After [`LogError::Unknown`] it may be in the log,
    /// now or later. After any other error it is not.
    pub async fn append(&self, partition: u32, record: &Record) -> Result<Offset, LogError> {
        let (sender, receiver) = oneshot::channel();
        self.send(partition, record, None, Some(sender))?;
        match receiver.await {
            Ok(result) => result.map_err(LogError::Unknown),
            Err(_) => Err(LogError::Unknown(KafkaError::Canceled)),
        }
    }

    /// Appends a record without waiting, for callers that read it back anyway. A later failure is logged and counted.
    pub fn append_now(&self, partition: u32, record: &Record) -> Result<(), LogError> {
        self.append_now_with(partition, record, &[])
    }

    /// The same, with headers. They are no part of the record: nothing depends on them.
    pub fn append_now_with(&self, partition: u32, record: &Record, headers: &[(&str, String)]) -> Result<(), LogError> {
        let with_header = |all: OwnedHeaders, (key, value): &(&str, String)| {
            let value = Some(value.as_str());
            all.insert(Header { key, value })
        };
        let owned = || {
            let none = OwnedHeaders::new_with_capacity(headers.len());
            headers.iter().fold(none, with_header)
        };
        self.send(partition, record, (!headers.is_empty()).then(owned), None)
    }

    fn send(
        &self,
        partition: u32,
        record: &Record,
        headers: Option<OwnedHeaders>,
        report: DeliveryWaiter,
    ) -> Result<(), LogError> {
        self.check_part(partition)?;
        let key = record.sale().to_string();
        let payload = record.encode();
        let mut message = BaseRecord::with_opaque_to(&self.config.topic, Box::new(report))
            .partition(partition as i32)
            .key(&key)
            .payload(&payload);
        message.headers = headers;
        self.producer.send(message).map_err(|(error, _)| match error {
            KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) => LogError::Full,
            error => LogError::NotSent(error),
        })
    }

    /// The offset of the next record.
    pub async fn end_offset(&self, partition: u32) -> Result<Offset, LogError> {
        Ok(self.offsets(partition).await?.end)
    }

    /// From the offset of the oldest record that Kafka still holds to that of the next record.
    pub async fn offsets(&self, partition: u32) -> Result<Range<Offset>, LogError> {
        self.check_part(partition)?;
        let (observer, config) = (self.observer.clone(), self.config.clone());
        let (begin, end) = kafka::blocking("reading the end of the log", move || {
            observer
                .fetch_watermarks(&config.topic, partition as i32, QUERY_TIMEOUT)
                .map_err(LogError::kafka("reading the end of the log"))
        })
        .await?;
        Ok(begin..end)
    }

    /// Waits until every appended record is acknowledged or has failed.
    pub async fn flush(&self, timeout: Duration) -> Result<(), LogError> {
        let producer = self.producer.clone();
        kafka::blocking("flushing", move || {
            producer.flush(timeout).map_err(LogError::kafka("flushing"))
        })
        .await
    }

    pub(crate) fn observer(&self) -> Arc<BaseConsumer<QuietContext>> {
        self.observer.clone()
    }

    pub(crate) fn check_part(&self, partition: u32) -> Result<(), LogError> {
        let partitions = self.partitions();
        if partition < partitions {
            return Ok(());
        }
        Err(LogError::NoPartition {
            topic: self.config.topic.clone(),
            partition,
            partitions,
        })
    }
}

/// The caller that waits for the delivery of a record, if there is one.
type DeliveryWaiter = Option<oneshot::Sender<Result<Offset, KafkaError>>>;

/// Receives the delivery reports.
struct Reports(Arc<DeliveryFailures>);

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        QuietContext::default().log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        QuietContext::default().error(error, reason);
    }
}

impl ProducerContext<NoCustomPartitioner> for Reports {
    type DeliveryOpaque = Box<DeliveryWaiter>;

    fn delivery(&self, result: &DeliveryResult<'_>, report: Box<DeliveryWaiter>) {
        let outcome = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => {
                self.0.count.fetch_add(1, Ordering::Relaxed);
                Err(error.clone())
            }
        };
        match (*report, outcome) {
            // The send fails if the caller has stopped waiting.
            (Some(sender), outcome) => drop(sender.send(outcome)),
            (None, Err(error)) => self.0.log(&error),
            (None, Ok(_)) => {}
        }
    }
}

/// Counts failed deliveries. It logs those without a waiting caller, at most once per
/// [`DeliveryFailures::LOG_INTERVAL`].
#[derive(Default)]
struct DeliveryFailures {
    count: AtomicU64,
    logged_at: Mutex<Option<Instant>>,
}

impl DeliveryFailures {
    const LOG_INTERVAL: Duration = Duration::from_secs(5);

    fn log(&self, error: &KafkaError) {
        let mut logged_at = self.logged_at.lock().unwrap_or_else(PoisonError::into_inner);
        if logged_at.is_none_or(|at| at.elapsed() >= Self::LOG_INTERVAL) {
            *logged_at = Some(Instant::now());
            let failed = self.count.load(Ordering::Relaxed);
            tracing::warn!(%error, failed, "Kafka did not acknowledge a record");
        }
    }
}
