//! Parts that all clients of Kafka share.
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::creation_error::creation_error;
use crate::error::LogError;

/// Time limit of a query to the brokers.
pub(crate) const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for the event of a failure that has happened.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);

/// Logs the lines of librdkafka at debug level. Each relevant failure also arrives as an error and is logged where it
/// is handled. That error does not say why there is no connection, but an event does.
#[derive(Default)]
pub(crate) struct QuietContext {
    connection_failure: Mutex<Option<String>>,
}

impl QuietContext {
    /// Why the last connection to a broker failed. The client does not repeat the event for each attempt.
    pub fn connection_failure(&self) -> Option<String> {
        self.locked().clone()
    }

    /// There is a connection: the next failure has its own reason.
    fn forget_connection_failure(&self) {
        *self.locked() = None;
    }

    fn locked(&self) -> MutexGuard<'_, Option<String>> {
        // A single assignment: a panic elsewhere leaves it whole.
        self.connection_failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for QuietContext {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", "{facility} {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", "{error}: {reason}");
        // `ssl://kafka:9093/bootstrap: SSL handshake failed: ...`. The last event only says that all brokers are down.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.locked() = Some(reason.trim().to_owned());
        }
    }
}

impl ConsumerContext for QuietContext {}

pub(crate) fn consumer(config: &ClientConfig) -> Result<BaseConsumer<QuietContext>, LogError> {
    config
        .create_with_context(QuietContext::default())
        .map_err(creation_error("creating a consumer", config))
}

/// The topic by the metadata of the brokers.
pub(crate) struct TopicMetadata {
    pub partitions: u32,
    /// The lowest number of replicas of a partition.
    pub replication: u32,
}

/// Reads the metadata of the topic. A missing topic is [`LogError::NoTopic`]. Blocks.
pub(crate) fn find_topic(observer: &BaseConsumer<QuietContext>, topic: &str) -> Result<TopicMetadata, LogError> {
    const WHAT: &str = "reading the metadata of the topic";
    let answer = observer.fetch_metadata(Some(topic), QUERY_TIMEOUT);
    // Nobody else polls for the events of this client.
    while observer.poll(Duration::ZERO).is_some() {}
    let context = observer.client().context();
    let metadata = match answer {
        Ok(metadata) => {
            context.forget_connection_failure();
            metadata
        }
        Err(error) => {
            while context.connection_failure().is_none() && observer.poll(POLL_TIMEOUT).is_some() {}
            return Err(match context.connection_failure() {
                Some(reason) => LogError::NoConnection { what: WHAT, reason },
                None => LogError::kafka(WHAT)(error),
            });
        }
    };
    let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else {
        return Err(LogError::NoTopic(topic.into()));
    };
    // Check this first: a topic with an error has no partitions.
    match found.error().map(RDKafkaErrorCode::from) {
        None => {}
        Some(RDKafkaErrorCode::UnknownTopicOrPartition) => return Err(LogError::NoTopic(topic.into())),
        Some(code) => {
            return Err(LogError::Kafka {
                what: WHAT,
                error: KafkaError::MetadataFetch(code),
            });
        }
    }
    let partitions = found.partitions();
    Ok(TopicMetadata {
        partitions: partitions.len() as u32,
        replication: partitions.iter().map(|p| p.replicas().len() as u32).min().unwrap_or(0),
    })
}

/// The log does not hold the next offset of a reader.
pub(crate) fn is_out_of_range(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::LogTruncation)
    )
}

/// Runs blocking work on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // It panicked, or the runtime is shutting down.
        Err(_) => Err(LogError::Kafka {
            what,
            error: KafkaError::Canceled,
        }),
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::config::LogConfig;

    #[test]
    fn the_reason_of_a_failure_is_forgotten_once_there_is_a_connection() {
        let cluster = MockCluster::new(1).expect("a cluster");
        cluster.create_topic("orders", 2, 1).expect("a topic");
        let config = LogConfig {
            brokers: cluster.bootstrap_servers(),
            topic: "orders".into(),
            properties: Vec::new(),
        };
        let observer = consumer(&config.observer().expect("valid")).expect("a consumer");
        cluster.broker_down(1).expect("down");
        // The connection may not have ended yet.
        let failure = loop {
            if let Err(LogError::NoConnection { reason, .. }) = find_topic(&observer, "orders") {
                break reason;
            }
        };
        assert!(failure.contains("127.0.0.1"), "{failure}");
        cluster.broker_up(1).expect("up");
        while find_topic(&observer, "orders").is_err() {}
        assert_eq!(observer.client().context().connection_failure(), None);
    }
}
