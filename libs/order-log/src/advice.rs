//! What to do about a failure of Kafka.
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// What a person can do about a failure of a reader.
pub fn advice(error: &KafkaError) -> &'static str {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed) => {
            "grant the Kafka user its rights on the topic and the group: examples/kafka-acls.sh"
        }
        Some(Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL) => {
            "check the user, the password and the certificates in SECKILL_KAFKA_PROPERTIES and SECKILL_KAFKA_CA_FILE"
        }
        Some(
            Code::BadMessage | Code::BadCompression | Code::NotImplemented | Code::InvalidMessage | Code::InvalidRecord,
        ) => {
            "records can't be decoded: check compression.type of the topic (none, gzip, snappy, lz4 and zstd can be read) and \
             the disks of the brokers"
        }
        Some(Code::MessageSizeTooLarge) => "raise receive.message.max.bytes in SECKILL_KAFKA_PROPERTIES",
        Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition) => "restore the topic",
        _ => "check the brokers",
    }
}
