//! Which partitions are ours. The group decides that; where we read from in them is MySQL's word alone.
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

/// What the group has given us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assigned {
    /// Rises with each change; 0 before the first.
    pub generation: u64,
    /// A member of the group, if perhaps one without partitions. Between two assignments it is none.
    pub member: bool,
    pub parts: Vec<u32>,
}

/// The consumer's callbacks. They run inside of its `poll`, on the thread that calls it.
#[derive(Debug, Default)]
pub struct Assignments(Mutex<Assigned>);

impl Assignments {
    pub fn now(&self) -> Assigned {
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
            // Nothing is fetched until the positions are known, which can take as long as MySQL is away.
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => (
                parts.elements().iter().map(|part| part.partition() as u32).collect(),
                consumer.assign(&TopicPartitionList::new()),
            ),
            _ => (Vec::new(), consumer.unassign()),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "the change of partitions was not taken; the group will time it out");
        }
        tracing::info!(?parts, "partitions of this worker");
        let mut assigned = self.lock();
        assigned.generation += 1;
        assigned.member = member;
        assigned.parts = parts;
    }
}
