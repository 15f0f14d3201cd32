use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use seckill_protocol::{Offset, Record, RecordError};
use tokio::sync::mpsc;

use crate::append::OrderLog;
use crate::error::LogError;
use crate::kafka::{self, Quiet};

/// What stands at one offset.
#[derive(Debug)]
pub struct Entry {
    pub part: u32,
    pub offset: Offset,
    /// When it was appended, by the clock of whoever did; -1 if unknown.
    pub timestamp_ms: i64,
    /// Bytes that are no record change nothing, but must not be passed over in silence.
    pub record: Result<Record, RecordError>,
    pub payload: Vec<u8>,
}

impl Entry {
    /// For readers with a consumer of their own, so that all of them understand a message alike.
    pub fn from_message(message: &BorrowedMessage<'_>) -> Self {
        let payload = message.payload().unwrap_or_default().to_vec();
        Entry {
            part: message.partition() as u32,
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
            record: Record::decode(&payload),
            payload,
        }
    }
}

/// Entries between the thread that reads and the caller.
const QUEUED: usize = 256;
const POLL: Duration = Duration::from_millis(100);
/// A read that gets nothing for this long fails.
const PATIENCE: Duration = Duration::from_secs(10);

impl OrderLog {
    /// Hands over the entries of `from..to` in order. All of them must be in the log already: `to` is at most its
    /// [`end_offset`](Self::end_offset).
    pub async fn read(&self, part: u32, from: Offset, to: Offset, mut each: impl FnMut(Entry)) -> Result<(), LogError> {
        self.check_part(part)?;
        let config = self.config().consumer()?;
        let topic = self.config().topic.clone();
        let (sender, mut receiver) = mpsc::channel(QUEUED);
        let reading = tokio::spawn(kafka::blocking("reading", move || {
            let range = Range { topic, part, from, to };
            range.read(&config, sender)
        }));
        while let Some(entry) = receiver.recv().await {
            each(entry);
        }
        match reading.await {
            Ok(result) => result,
            Err(_) => Err(LogError::Stopped),
        }
    }
}

struct Range {
    topic: String,
    part: u32,
    from: Offset,
    to: Offset,
}

impl Range {
    fn read(&self, config: &ClientConfig, sender: mpsc::Sender<Entry>) -> Result<(), LogError> {
        if self.from >= self.to {
            return Ok(());
        }
        let consumer = assigned(config, &self.topic, [(self.part, self.from)])?;
        let mut next = self.from;
        let mut progress = Instant::now();
        let mut why = String::from("nothing came");
        while next < self.to && !sender.is_closed() {
            match consumer.poll(POLL) {
                Some(Ok(message)) => {
                    // There may be no record at the last offsets before `to`.
                    if message.offset() >= self.to || sender.blocking_send(Entry::from_message(&message)).is_err() {
                        return Ok(());
                    }
                    next = message.offset() + 1;
                    progress = Instant::now();
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    next = position(&consumer, &self.topic, self.part).map_or(next, |p| p.max(next));
                }
                Some(Err(error)) if kafka::is_out_of_range(&error) => {
                    return Err(LogError::OutOfRange {
                        topic: self.topic.clone(),
                        part: self.part,
                        offset: next,
                    });
                }
                Some(Err(error)) => why = error.to_string(),
                None => {}
            }
            if next < self.to && progress.elapsed() > PATIENCE {
                return Err(LogError::Stalled {
                    part: self.part,
                    offset: next,
                    to: self.to,
                    seconds: PATIENCE.as_secs(),
                    why,
                });
            }
        }
        Ok(())
    }
}

/// A consumer that reads these partitions from exactly these offsets on.
pub(crate) fn assigned(
    config: &ClientConfig,
    topic: &str,
    start: impl IntoIterator<Item = (u32, Offset)>,
) -> Result<BaseConsumer<Quiet>, LogError> {
    let consumer = kafka::consumer(config)?;
    let mut partitions = TopicPartitionList::new();
    for (part, offset) in start {
        partitions
            .add_partition_offset(topic, part as i32, KafkaOffset::Offset(offset))
            .map_err(LogError::kafka("naming a partition"))?;
    }
    consumer
        .assign(&partitions)
        .map_err(LogError::kafka("assigning partitions"))?;
    Ok(consumer)
}

/// Where the consumer stands. It counts what is at no offset that we are shown, such as marks of a foreign transaction.
pub(crate) fn position(consumer: &BaseConsumer<Quiet>, topic: &str, part: u32) -> Option<Offset> {
    let positions = consumer.position().ok()?;
    let offset = positions.find_partition(topic, part as i32)?.offset();
    match offset {
        KafkaOffset::Offset(offset) => Some(offset),
        _ => None, // nothing read yet
    }
}
