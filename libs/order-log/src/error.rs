use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;
use seckill_protocol::Offset;

use crate::config::is_fixed;

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
    #[error("Kafka, {what}: {error}")]
    Kafka { what: &'static str, error: KafkaError },
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

    /// For the creation of a client. What the client says may repeat the value of a property, or a part of it.
    pub fn creating(what: &'static str, config: &ClientConfig) -> impl FnOnce(KafkaError) -> LogError {
        move |error| match error {
            KafkaError::ClientCreation(problem) => LogError::Config(without_values(&problem, config)),
            error => LogError::kafka(what)(error),
        }
    }
}

/// Shorter words say nothing about a password.
const MIN_HIDDEN_LENGTH: usize = 4;

/// The text without the words that are part of a property's value.
fn without_values(text: &str, config: &ClientConfig) -> String {
    let properties = config.config_map();
    let values: Vec<&str> = properties
        .iter()
        .filter(|(name, _)| !is_fixed(name))
        .map(|(_, value)| *value)
        .collect();
    let hide = |word: &str| {
        let bare = word.trim_matches(|c: char| c.is_ascii_punctuation());
        bare.len() >= MIN_HIDDEN_LENGTH && values.iter().any(|value| value.contains(bare))
    };
    let words = text.split(' ').map(|word| if hide(word) { "***" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::BaseConsumer;

    use super::*;

    fn creation_error(name: &str, value: &str) -> String {
        let mut config = ClientConfig::new();
        config.set("group.id", "seckill").set("sasl.mechanism", "OAUTHBEARER");
        config.set("security.protocol", "SASL_SSL").set(name, value);
        let consumer: Result<BaseConsumer, _> = config.create();
        let error = consumer.map_err(LogError::creating("creating a consumer", &config));
        // Some values are only checked when they are used.
        error.map_or_else(|error| format!("{error} {error:?}"), |_| String::new())
    }

    #[test]
    fn an_error_never_shows_the_value_of_a_property() {
        for (name, value) in [
            ("sasl.pasword", "hunter2-secret"),
            ("sasl.mechanisms.x", "hunter2-secret"),
            ("hunter2", "x"),
            ("security.protocol", "hunter2-secret"),
            ("socket.timeout.ms", "hunter2-secret"),
            ("ssl.key.pem", "hunter2-secret"),
            ("sasl.oauthbearer.config", "hunter2-secret"),
            ("ssl.ca.location", "/hunter2-secret"),
        ] {
            let error = creation_error(name, value);
            assert!(!error.contains("hunter2"), "{name}: {error}");
        }
        assert!(creation_error("sasl.pasword", "x").contains("no property sasl.pasword"));
    }
}
