use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use seckill_protocol::{Acceptance, Offset, OrderId, Record, RecordVerdict, SaleCut, SaleId};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::LogConfig;
use crate::error::LogError;
use crate::kafka::{self, ASK, Quiet};
use crate::partition::{Asked, Partition};
use crate::read::{assigned, position};

/// Follows all partitions in one process: what a buyer is promised was read back here.
///
/// Nothing is asked of Kafka but new records, unless someone wants to know whether this process is up to date.
#[derive(Clone)]
pub struct Tail {
    shared: Arc<Shared>,
    /// The last clone stops the reader.
    _stop: Arc<DropGuard>,
}

struct Shared {
    topic: String,
    parts: BTreeMap<u32, Part>,
    undecodable: AtomicU64,
    failure: watch::Sender<Option<LogError>>,
}

struct Part {
    part: u32,
    state: Mutex<Partition>,
    /// The offset to read next; moved under the lock of `state`.
    position: watch::Sender<Offset>,
    /// Someone wants to know the end of the partition, as it was then or later.
    asked: watch::Sender<Option<Instant>>,
    end: watch::Sender<Option<End>>,
    /// The latest instant of which we know that we had read all that was in the log.
    fresh_at: Mutex<Option<Instant>>,
}

/// The end of a partition at some instant after `asked_at`.
#[derive(Clone)]
struct End {
    asked_at: Instant,
    offset: Result<Offset, LogError>,
}

const POLL: Duration = Duration::from_millis(100);
/// How long it may take to learn that we are up to date; who waits for it waits with a buyer.
const FRESH_WITHIN: Duration = Duration::from_secs(2);

impl Tail {
    /// Starts to read at offsets and acceptances that come from one snapshot of MySQL. To be called within a tokio
    /// runtime; ends with `shutdown` or with the last clone.
    pub fn spawn(
        config: LogConfig,
        start: Vec<(u32, Offset, Acceptance)>,
        shutdown: CancellationToken,
    ) -> Result<Tail, LogError> {
        let offsets: Vec<(u32, Offset)> = start.iter().map(|(part, offset, _)| (*part, *offset)).collect();
        let consumer = assigned(&config.consumer()?, &config.topic, offsets)?;
        let observer = Arc::new(kafka::consumer(&config.observer()?)?);
        let shared = Arc::new(Shared {
            topic: config.topic,
            parts: start
                .into_iter()
                .map(|(part, offset, acceptance)| (part, Part::new(part, offset, acceptance)))
                .collect(),
            undecodable: AtomicU64::new(0),
            failure: watch::Sender::new(None),
        });
        let stop = shutdown.child_token();
        let guard = Arc::new(stop.clone().drop_guard());
        for (part, found) in &shared.parts {
            // Subscribed here: a task that begins later would miss a question that came before.
            let asked = found.asked.subscribe();
            let answering = answer_about_the_end(shared.clone(), observer.clone(), *part, asked);
            let stop = stop.clone();
            tokio::spawn(async move { stop.run_until_cancelled(answering).await });
        }
        let reader = Reader {
            shared: shared.clone(),
            consumer,
            stop,
        };
        std::thread::Builder::new()
            .name("order-log-tail".into())
            .spawn(move || reader.run())
            .map_err(|error| LogError::Config(format!("no thread to read with: {error}")))?;
        Ok(Tail { shared, _stop: guard })
    }

    /// Resolves when each partition was read to the end that it had at the call or later, which may take any time;
    /// never after [`failed`](Self::failed).
    pub async fn caught_up(&self) {
        for part in self.shared.parts.values() {
            let mut logged = false;
            while let Err(error) = part.confirm(Instant::now()).await {
                if !logged {
                    logged = true;
                    tracing::warn!(partition = part.part, "can't learn the end of the log yet: {error}");
                }
                tokio::time::sleep(POLL).await;
            }
        }
    }

    /// What becomes of an order that was appended or is about to be. Registered at the call, not at the first poll.
    ///
    /// Accepted: its record was read and counts. Void: it can't count any more. An order of an epoch before the last
    /// one is void here even if it was accepted long ago: ask MySQL for those. Without an answer (Kafka away, the
    /// record never appended) it waits for ever: set a time limit.
    pub fn read_back(&self, part: u32, order: OrderId) -> ReadBack {
        let Some(found) = self.shared.parts.get(&part) else {
            return ReadBack(Waiting::Never);
        };
        let mut state = found.state();
        // Copied while the state is locked, so that the two agree.
        let next = *found.position.borrow();
        match state.ask(order, next) {
            Asked::Known(verdict) => ReadBack(Waiting::Over(verdict)),
            Asked::Later(ticket, receiver) => ReadBack(Waiting::For {
                receiver,
                shared: self.shared.clone(),
                part,
                order,
                ticket,
            }),
        }
    }

    /// Where a sale stands after all that was read.
    pub fn cut(&self, part: u32, sale: SaleId) -> SaleCut {
        match self.shared.parts.get(&part) {
            Some(part) => part.state().cut(sale),
            None => SaleCut::default(),
        }
    }

    /// Confirms that at some instant later than `max_age` ago this process had read all that was in the partition.
    /// However many ask, Kafka is asked one question at a time, and none while a recent answer will do.
    pub async fn confirm_fresh(&self, part: u32, max_age: Duration) -> Result<(), LogError> {
        let Some(found) = self.shared.parts.get(&part) else {
            return Err(LogError::NoPartition {
                topic: self.shared.topic.clone(),
                part,
                partitions: self.shared.parts.len() as u32,
            });
        };
        let now = Instant::now();
        let since = now.checked_sub(max_age).unwrap_or(now);
        if found.is_fresh(since) {
            return Ok(());
        }
        // On the heap: it is large, and under load rare, and every caller's future would have to hold the room for it.
        let confirmed = Box::pin(tokio::time::timeout(FRESH_WITHIN, found.confirm(since)));
        confirmed.await.unwrap_or(Err(LogError::NotFresh(part)))
    }

    /// The offset that this process reads next.
    pub fn position(&self, part: u32) -> Option<Offset> {
        self.shared.parts.get(&part).map(|part| *part.position.borrow())
    }

    /// How many records are unread, by the end that was last asked for; none before it was.
    pub fn lag(&self, part: u32) -> Option<i64> {
        let part = self.shared.parts.get(&part)?;
        let end = part.end.borrow().as_ref()?.offset.as_ref().ok().copied()?;
        Some((end - *part.position.borrow()).max(0))
    }

    /// How many wait for a read-back.
    pub fn waiting(&self) -> usize {
        self.shared.parts.values().map(|part| part.state().waiting()).sum()
    }

    /// How many records were skipped since they are none. They change nothing; the order-worker keeps them.
    pub fn undecodable(&self) -> u64 {
        self.shared.undecodable.load(Ordering::Relaxed)
    }

    /// Resolves when this process can never read on, because the log does not hold what comes next: it must exit and
    /// begin again from a new snapshot.
    pub async fn failed(&self) -> LogError {
        let mut failure = self.shared.failure.subscribe();
        let failed = failure.wait_for(Option::is_some).await;
        match failed.as_deref() {
            Ok(Some(error)) => error.clone(),
            _ => LogError::Stopped,
        }
    }
}

impl Part {
    fn new(part: u32, offset: Offset, acceptance: Acceptance) -> Self {
        Part {
            part,
            state: Mutex::new(Partition::starting_from(acceptance)),
            position: watch::Sender::new(offset),
            asked: watch::Sender::new(None),
            end: watch::Sender::new(None),
            fresh_at: Mutex::new(None),
        }
    }

    fn state(&self) -> MutexGuard<'_, Partition> {
        lock(&self.state)
    }

    /// Whether at some instant since then all that was in the partition had been read.
    fn is_fresh(&self, since: Instant) -> bool {
        lock(&self.fresh_at).is_some_and(|at| at >= since)
    }

    /// Waits until all was read that the partition held at some instant not before `since`.
    async fn confirm(&self, since: Instant) -> Result<(), LogError> {
        let mut end = self.end.subscribe();
        self.asked.send_if_modified(|asked| {
            let newer = asked.is_none_or(|asked| since > asked);
            if newer {
                *asked = Some(since);
            }
            newer
        });
        let End { asked_at, offset } = match end
            .wait_for(|end| end.as_ref().is_some_and(|end| end.asked_at >= since))
            .await
            .as_deref()
        {
            Ok(Some(end)) => end.clone(),
            _ => return Err(LogError::Stopped),
        };
        let offset = offset?;
        let mut position = self.position.subscribe();
        if position.wait_for(|position| *position >= offset).await.is_err() {
            return Err(LogError::Stopped);
        }
        let mut fresh_at = lock(&self.fresh_at);
        *fresh_at = (*fresh_at).max(Some(asked_at));
        Ok(())
    }
}

/// Asks Kafka for the end of a partition whenever someone wants a newer answer than the last.
async fn answer_about_the_end(
    shared: Arc<Shared>,
    observer: Arc<BaseConsumer<Quiet>>,
    part: u32,
    mut asked: watch::Receiver<Option<Instant>>,
) {
    let Some(found) = shared.parts.get(&part) else { return };
    while asked.changed().await.is_ok() {
        let since = *asked.borrow_and_update();
        let last = found.end.borrow().as_ref().map(|end| end.asked_at);
        if last >= since {
            continue; // answered by a question that was under way
        }
        let asked_at = Instant::now();
        let (observer, topic) = (observer.clone(), shared.topic.clone());
        let offset = kafka::blocking("asking for the log's end", move || end_of(&observer, &topic, part)).await;
        found.end.send_replace(Some(End { asked_at, offset }));
    }
}

/// Blocks. One question, where asking for the watermarks takes two.
fn end_of(observer: &BaseConsumer<Quiet>, topic: &str, part: u32) -> Result<Offset, LogError> {
    const WHAT: &str = "asking for the log's end";
    let mut question = TopicPartitionList::new();
    question
        .add_partition_offset(topic, part as i32, KafkaOffset::End)
        .map_err(LogError::kafka(WHAT))?;
    let answer = observer
        .offsets_for_times(question, FRESH_WITHIN)
        .map_err(LogError::kafka(WHAT))?;
    for element in answer.elements() {
        element.error().map_err(LogError::kafka(WHAT))?;
        if let KafkaOffset::Offset(end) = element.offset() {
            return Ok(end);
        }
    }
    Err(LogError::NotFresh(part))
}

/// The thread that reads.
struct Reader {
    shared: Arc<Shared>,
    consumer: BaseConsumer<Quiet>,
    stop: CancellationToken,
}

impl Reader {
    fn run(&self) {
        // Each kind of trouble is logged once until something is read again.
        let mut troubles = Vec::new();
        while !self.stop.is_cancelled() {
            match self.consumer.poll(POLL) {
                None => {}
                Some(Ok(message)) => {
                    self.read(&message);
                    if !troubles.is_empty() {
                        troubles.clear();
                        tracing::info!("reading the order log again");
                    }
                }
                Some(Err(KafkaError::PartitionEOF(part))) => self.reached_end(part as u32),
                Some(Err(error)) if kafka::is_out_of_range(&error) => {
                    let failure = self.lost(error);
                    self.shared.failure.send_replace(Some(failure));
                    return;
                }
                Some(Err(error)) if troubles.contains(&error) => {}
                Some(Err(error)) => {
                    tracing::warn!("reading the order log: {error}; going on");
                    troubles.push(error);
                }
            }
        }
    }

    fn read(&self, message: &BorrowedMessage<'_>) {
        let Some(part) = self.shared.parts.get(&(message.partition() as u32)) else {
            return;
        };
        let record = Record::decode(message.payload().unwrap_or_default());
        let mut state = part.state();
        match record {
            Ok(record) => state.read(message.offset(), &record),
            Err(_) => {
                self.shared.undecodable.fetch_add(1, Ordering::Relaxed);
            }
        }
        part.position.send_replace(message.offset() + 1);
    }

    /// There may be no record at the last offsets of a partition.
    fn reached_end(&self, part: u32) {
        let Some(found) = self.shared.parts.get(&part) else {
            return;
        };
        if let Some(next) = position(&self.consumer, &self.shared.topic, part) {
            let _state = found.state();
            found.position.send_if_modified(|position| {
                let ahead = next > *position;
                *position = next.max(*position);
                ahead
            });
        }
    }

    /// Which partition it was: the error does not say.
    fn lost(&self, error: KafkaError) -> LogError {
        for (part, found) in &self.shared.parts {
            let offset = *found.position.borrow();
            let held = self.consumer.fetch_watermarks(&self.shared.topic, *part as i32, ASK);
            if held.is_ok_and(|(begin, end)| !(begin..=end).contains(&offset)) {
                return LogError::OutOfRange {
                    topic: self.shared.topic.clone(),
                    part: *part,
                    offset,
                };
            }
        }
        LogError::Kafka {
            what: "reading the log",
            error,
        }
    }
}

/// A reader that is gone without having been told to is a failure.
impl Drop for Reader {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            self.shared.failure.send_if_modified(|failure| {
                let unknown = failure.is_none();
                failure.get_or_insert(LogError::Stopped);
                unknown
            });
        }
    }
}

/// See [`Tail::read_back`].
#[must_use = "a read-back is a future"]
pub struct ReadBack(Waiting);

enum Waiting {
    Over(RecordVerdict),
    For {
        receiver: oneshot::Receiver<RecordVerdict>,
        shared: Arc<Shared>,
        part: u32,
        order: OrderId,
        ticket: u64,
    },
    /// The partition is not followed.
    Never,
}

impl Future for ReadBack {
    type Output = RecordVerdict;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<RecordVerdict> {
        let verdict = match &mut self.0 {
            Waiting::Over(verdict) => *verdict,
            Waiting::Never => return Poll::Pending,
            Waiting::For { receiver, .. } => match Pin::new(receiver).poll(context) {
                Poll::Ready(Ok(verdict)) => verdict,
                Poll::Ready(Err(_)) | Poll::Pending => return Poll::Pending,
            },
        };
        self.0 = Waiting::Over(verdict);
        Poll::Ready(verdict)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Waiting::For {
            shared,
            part,
            order,
            ticket,
            ..
        } = self
            && let Some(part) = shared.parts.get(part)
        {
            part.state().forget(*order, *ticket);
        }
    }
}

/// What the lock guards is changed in single steps, so a panic elsewhere leaves it whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
