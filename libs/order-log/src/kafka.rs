//! What all our clients of Kafka share.
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error::LogError;

/// How long a question to the brokers may take.
pub(crate) const ASK: Duration = Duration::from_secs(5);

/// Keeps librdkafka's own lines at debug level: each failure that matters reaches us as an error too, and is logged
/// where it is handled.
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", "{facility} {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", "{error}: {reason}");
    }
}

impl ConsumerContext for Quiet {}

pub(crate) fn consumer(config: &ClientConfig) -> Result<BaseConsumer<Quiet>, LogError> {
    config
        .create_with_context(Quiet)
        .map_err(LogError::kafka("creating a consumer"))
}

/// What the brokers say of the topic.
pub(crate) struct Found {
    pub partitions: u32,
    /// The fewest that a partition has.
    pub replication: u32,
}

/// Asks for the topic; a topic that does not exist is [`LogError::NoTopic`]. Blocks.
pub(crate) fn find_topic(observer: &BaseConsumer<Quiet>, topic: &str) -> Result<Found, LogError> {
    let metadata = observer
        .fetch_metadata(Some(topic), ASK)
        .map_err(LogError::kafka("asking for the topic"))?;
    let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else {
        return Err(LogError::NoTopic(topic.into()));
    };
    // To be checked first: a topic with an error has no partitions to look at.
    match found.error().map(RDKafkaErrorCode::from) {
        None => {}
        Some(RDKafkaErrorCode::UnknownTopicOrPartition) => return Err(LogError::NoTopic(topic.into())),
        Some(code) => {
            return Err(LogError::Kafka {
                what: "asking for the topic",
                error: KafkaError::MetadataFetch(code),
            });
        }
    }
    let partitions = found.partitions();
    Ok(Found {
        partitions: partitions.len() as u32,
        replication: partitions.iter().map(|p| p.replicas().len() as u32).min().unwrap_or(0),
    })
}

/// The log does not hold the offset that a reader stands at.
pub(crate) fn is_out_of_range(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::LogTruncation)
    )
}

/// Runs what blocks on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // It panicked, or the runtime is going down.
        Err(_) => Err(LogError::Kafka {
            what,
            error: KafkaError::Canceled,
        }),
    }
}
