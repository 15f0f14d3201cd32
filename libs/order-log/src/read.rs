use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use seckill_protocol::{Offset, Record, RecordError};
use tokio::sync::mpsc;

use crate::advice::advice;
use crate::append::OrderLog;
use crate::error::LogError;
use crate::kafka::{self, QuietContext};

/// The content of one offset.
#[derive(Debug)]
pub struct Entry {
    pub partition: u32,
    pub offset: Offset,
    /// Time of the append by the clock of the appending process; -1 if unknown.
    pub timestamp_ms: i64,
    /// Bytes that are not a record change nothing, but must be reported.
    pub record: Result<Record, RecordError>,
    pub payload: Vec<u8>,
}

impl Entry {
    /// For readers with their own consumer, so that all of them decode a message in the same way.
    pub fn from_message(message: &BorrowedMessage<'_>) -> Self {
        let payload = message.payload().unwrap_or_default().to_vec();
        Entry {
            partition: message.partition() as u32,
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
            record: Record::decode(&payload),
            payload,
        }
    }
}

/// The values of a header of a message, in their order.
pub fn header_values(message: &BorrowedMessage<'_>, key: &str) -> Vec<String> {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    let of_key = headers.filter(|header| header.key == key);
    let texts = of_key.filter_map(|header| std::str::from_utf8(header.value?).ok());
    texts.map(str::to_owned).collect()
}

/// Entries between the reading thread and the caller. Each may have some 30 kB.
const MAX_QUEUED: usize = 32;
/// Kilobytes that the client reads ahead. Several ranges may be read at once, by an operator with little memory.
const MAX_READ_AHEAD: &str = "2048";
const POLL: Duration = Duration::from_millis(100);
/// A read without a new entry for this time fails.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

impl OrderLog {
    /// Passes the entries of `from..to` to `each` in order. All must be in the log already: `to` is at most its
    /// [`end_offset`](Self::end_offset).
    pub async fn read(
        &self,
        partition: u32,
        from: Offset,
        to: Offset,
        mut each: impl FnMut(Entry),
    ) -> Result<(), LogError> {
        let all = |entry| {
            each(entry);
            ControlFlow::Continue(())
        };
        self.read_while(partition, from, to, all).await
    }

    /// The same, until `each` breaks.
    pub async fn read_while(
        &self,
        partition: u32,
        from: Offset,
        to: Offset,
        mut each: impl FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        self.check_part(partition)?;
        let mut config = self.config().consumer()?;
        config.set("queued.max.messages.kbytes", MAX_READ_AHEAD);
        let topic = self.config().topic.clone();
        let (sender, mut receiver) = mpsc::channel(MAX_QUEUED);
        let reading = tokio::spawn(kafka::blocking("reading", move || {
            let range = Range {
                topic,
                partition,
                from,
                to,
            };
            range.read(&config, sender)
        }));
        while let Some(entry) = receiver.recv().await {
            if each(entry).is_break() {
                // The reading thread ends when it finds the channel closed.
                return Ok(());
            }
        }
        match reading.await {
            Ok(result) => result,
            Err(_) => Err(LogError::Stopped),
        }
    }
}

struct Range {
    topic: String,
    partition: u32,
    from: Offset,
    to: Offset,
}

impl Range {
    fn read(&self, config: &ClientConfig, sender: mpsc::Sender<Entry>) -> Result<(), LogError> {
        if self.from >= self.to {
            return Ok(());
        }
        let consumer = assigned(config, &self.topic, [(self.partition, self.from)])?;
        let mut next = self.from;
        let mut progress = Instant::now();
        let mut why = String::from("no message arrived");
        while next < self.to && !sender.is_closed() {
            match consumer.poll(POLL) {
                Some(Ok(message)) => {
                    if message.offset() > next {
                        return Err(self.gap(next, message.offset()));
                    }
                    if sender.blocking_send(Entry::from_message(&message)).is_err() {
                        return Ok(());
                    }
                    next = message.offset() + 1;
                    progress = Instant::now();
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    let end = position(&consumer, &self.topic, self.partition).unwrap_or(next);
                    if end > next {
                        return Err(self.gap(next, end));
                    }
                }
                Some(Err(error)) if kafka::is_out_of_range(&error) => {
                    return Err(LogError::OutOfRange {
                        topic: self.topic.clone(),
                        partition: self.partition,
                        offset: next,
                    });
                }
                Some(Err(error)) => why = format!("{error}: {}", advice(&error)),
                None => {}
            }
            if next < self.to && progress.elapsed() > STALL_TIMEOUT {
                return Err(LogError::Stalled {
                    partition: self.partition,
                    offset: next,
                    to: self.to,
                    seconds: STALL_TIMEOUT.as_secs(),
                    why,
                });
            }
        }
        Ok(())
    }

    fn gap(&self, next: Offset, found: Offset) -> LogError {
        LogError::Gap {
            partition: self.partition,
            next,
            found,
        }
    }
}

/// A consumer that reads these partitions from these offsets on.
pub(crate) fn assigned(
    config: &ClientConfig,
    topic: &str,
    start: impl IntoIterator<Item = (u32, Offset)>,
) -> Result<BaseConsumer<QuietContext>, LogError> {
    let consumer = kafka::consumer(config)?;
    consumer
        .assign(&partition_list(topic, start)?)
        .map_err(LogError::kafka("assigning partitions"))?;
    Ok(consumer)
}

pub(crate) fn partition_list(
    topic: &str,
    start: impl IntoIterator<Item = (u32, Offset)>,
) -> Result<TopicPartitionList, LogError> {
    let mut partitions = TopicPartitionList::new();
    for (partition, offset) in start {
        partitions
            .add_partition_offset(topic, partition as i32, KafkaOffset::Offset(offset))
            .map_err(LogError::kafka("adding a partition"))?;
    }
    Ok(partitions)
}

/// The next offset of the consumer. At the end of a partition it counts offsets without a message too.
pub fn position<C: ConsumerContext>(consumer: &BaseConsumer<C>, topic: &str, partition: u32) -> Option<Offset> {
    let positions = consumer.position().ok()?;
    let offset = positions.find_partition(topic, partition as i32)?.offset();
    match offset {
        KafkaOffset::Offset(offset) => Some(offset),
        _ => None, // nothing read yet
    }
}
