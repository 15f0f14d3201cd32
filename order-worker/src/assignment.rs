//! Partitions that the consumer group has assigned to this worker. The offsets to read from come from MySQL alone.
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

/// The latest assignment by the group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assigned {
    /// Rises with each change; 0 before the first.
    pub generation: u64,
    /// This worker is a member of the group, perhaps without partitions. False between two assignments.
    pub member: bool,
    pub parts: Vec<u32>,
}

/// Callbacks of the consumer. They run inside of its `poll`, on the thread that calls it.
#[derive(Debug, Default)]
pub struct Assignments(Mutex<Assigned>);

impl Assignments {
    pub fn current(&self) -> Assigned {
        self.lock().clone()
    }

    pub fn generation(&self) -> u64 {
        self.lock().generation
    }

    fn lock(&self) -> MutexGuard<'_, Assigned> {
        // Nothing that could panic runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Assignments {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", "{facility} {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", "{error}: {reason}");
    }
}

impl ConsumerContext for Assignments {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, parts: &mut TopicPartitionList) {
        let member = matches!(event, RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS);
        let (parts, done) = match event {
            // Nothing is fetched until the positions are known. That can take as long as MySQL is away.
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => (
                parts
                    .elements()
                    .iter()
                    .map(|partition| partition.partition() as u32)
                    .collect(),
                consumer.assign(&TopicPartitionList::new()),
            ),
            _ => (Vec::new(), consumer.unassign()),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "rebalance not confirmed; the group will time out this member");
        }
        tracing::info!(?parts, "partitions assigned");
        let mut assigned = self.lock();
        assigned.generation += 1;
        assigned.member = member;
        assigned.parts = parts;
    }
}
