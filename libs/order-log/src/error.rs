use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaConfRes;
use seckill_protocol::Offset;

use crate::advice::advice;

/// A failure of the order log.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    #[error("Kafka configuration: {0}")]
    Config(String),
    #[error(
        "the topic {0:?} does not exist: create it with `order-worker migrate --create-topic`, or configure another one"
    )]
    NoTopic(String),
    #[error("the topic {topic:?}: {problem}")]
    Topic { topic: String, problem: String },
    #[error("partition {partition} does not exist: the topic {topic:?} has {partitions}")]
    NoPartition {
        topic: String,
        partition: u32,
        partitions: u32,
    },
    /// The record is not in the log. The queue to the brokers is full, because they are slow or away.
    #[error("the queue to Kafka is full")]
    Full,
    /// The record is not in the log.
    #[error("not sent to Kafka: {0}")]
    NotSent(KafkaError),
    /// The record may be in the log, now or later. Only reading the log decides.
    #[error("Kafka did not acknowledge: {0}")]
    Unknown(KafkaError),
    /// The log does not hold the offset: retention removed it, the log lost its tail, or it was replaced.
    #[error(
        "partition {partition} of the topic {topic:?} does not hold offset {offset}: retention removed it, or the log was \
         replaced or lost its tail"
    )]
    OutOfRange {
        topic: String,
        partition: u32,
        offset: Offset,
    },
    /// Kafka gives no record at `next`, although it has newer ones.
    #[error(
        "partition {partition}: the log has no record at offset {next}, the next one is at {found}. If a broker has lost or \
         damaged it, restore the topic. If another program wrote a transaction into the topic, stop that program; then \
         UPDATE log_position SET off = {found} WHERE part = {partition} AND off = {next}, and restart seckill-api"
    )]
    Gap {
        partition: u32,
        next: Offset,
        found: Offset,
    },
    #[error("partition {partition}: no record for {seconds} s while reading offset {offset} of {to}: {why}")]
    Stalled {
        partition: u32,
        offset: Offset,
        to: Offset,
        seconds: u64,
        why: String,
    },
    #[error("partition {0}: the tail did not reach the end of the log in time")]
    NotFresh(u32),
    #[error("the tail has stopped")]
    Stopped,
    /// TLS, the login or the network; the client says why.
    #[error("Kafka, {what}: no connection: {reason}")]
    NoConnection { what: &'static str, reason: String },
    #[error("Kafka, {what}: {error}{}", right_to_grant(.error))]
    Kafka { what: &'static str, error: KafkaError },
}

/// What to do about a missing right, behind the error.
fn right_to_grant(error: &KafkaError) -> String {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed) => {
            format!("; {}", advice(error))
        }
        _ => String::new(),
    }
}

impl LogError {
    pub fn kafka(what: &'static str) -> impl FnOnce(KafkaError) -> LogError {
        move |error| match error {
            // The description and the value may have a password, also under the name of another property.
            KafkaError::ClientConfig(reason, _, property, _) => LogError::Config(match reason {
                RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN if property.contains('.') => {
                    format!("the Kafka client has no property {property}: correct its name in SECKILL_KAFKA_PROPERTIES")
                }
                // It may be the rest of a password with a comma.
                RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN => "the Kafka client does not know a property in \
                     SECKILL_KAFKA_PROPERTIES: correct its name, and write a comma inside a value as \\,"
                    .to_owned(),
                _ => format!("invalid value of the property {property} in SECKILL_KAFKA_PROPERTIES"),
            }),
            error => LogError::Kafka { what, error },
        }
    }
}
