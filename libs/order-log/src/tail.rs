use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use seckill_protocol::{Acceptance, Offset, OrderId, Record, RecordVerdict, SaleCut, SaleId};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::advice::advice;
use crate::config::LogConfig;
use crate::error::LogError;
use crate::kafka::{self, QUERY_TIMEOUT, QuietContext};
use crate::partition::{OrderVerdict, Partition};
use crate::read::{assigned, partition_list, position};

/// Follows all partitions in one process. An order is promised to its buyer after it was read back here.
///
/// It only fetches new records from Kafka, unless a caller wants to know whether this process is up to date.
#[derive(Clone)]
pub struct Tail {
    shared: Arc<Shared>,
    /// Asks for the ends of partitions.
    observer: Arc<BaseConsumer<QuietContext>>,
    stop: CancellationToken,
    /// The last clone stops the reader.
    _guard: Arc<DropGuard>,
}

struct Shared {
    topic: String,
    /// Partitions are only added.
    parts: RwLock<BTreeMap<u32, Arc<FollowedPartition>>>,
    /// Partitions that the reading thread does not read yet.
    added: Mutex<Vec<(u32, Offset)>>,
    undecodable: AtomicU64,
    failure: watch::Sender<Option<LogError>>,
}

impl Shared {
    fn part(&self, partition: u32) -> Option<Arc<FollowedPartition>> {
        let parts = self.parts.read().unwrap_or_else(PoisonError::into_inner);
        parts.get(&partition).cloned()
    }

    fn parts(&self) -> Vec<Arc<FollowedPartition>> {
        let parts = self.parts.read().unwrap_or_else(PoisonError::into_inner);
        parts.values().cloned().collect()
    }
}

struct FollowedPartition {
    partition: u32,
    state: Mutex<Partition>,
    /// The next offset to read. It moves under the lock of `state`.
    position: watch::Sender<Offset>,
    /// The latest request for the end of the partition, at that time or later.
    requested: watch::Sender<Option<Instant>>,
    end: watch::Sender<Option<KnownEnd>>,
    /// The latest known instant at which this process had read the whole partition.
    fresh_at: Mutex<Option<Instant>>,
    /// The records that are missing before those that Kafka gives.
    gap: Mutex<Option<LogError>>,
}

/// The end of a partition at some instant after `asked_at`.
#[derive(Clone)]
struct KnownEnd {
    asked_at: Instant,
    offset: Result<Offset, LogError>,
}

const POLL: Duration = Duration::from_millis(100);
/// How often a partition with a gap is read again.
const GAP_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Time limit of a freshness check. A buyer waits for it.
const FRESHNESS_TIMEOUT: Duration = Duration::from_secs(2);

impl Tail {
    /// Starts to read at offsets and acceptances from one snapshot of MySQL. Must be called within a tokio runtime. It
    /// ends at `shutdown` or with the last clone.
    pub fn spawn(
        config: LogConfig,
        start: Vec<(u32, Offset, Acceptance)>,
        shutdown: CancellationToken,
    ) -> Result<Tail, LogError> {
        let consumer = assigned(&config.consumer()?, &config.topic, [])?;
        let observer = Arc::new(kafka::consumer(&config.observer()?)?);
        let shared = Arc::new(Shared {
            topic: config.topic,
            parts: RwLock::default(),
            added: Mutex::default(),
            undecodable: AtomicU64::new(0),
            failure: watch::Sender::new(None),
        });
        let stop = shutdown.child_token();
        let tail = Tail {
            shared: shared.clone(),
            observer,
            stop: stop.clone(),
            _guard: Arc::new(stop.clone().drop_guard()),
        };
        tail.follow(start);
        let reader = TailReader { shared, consumer, stop };
        std::thread::Builder::new()
            .name("order-log-tail".into())
            .spawn(move || reader.run())
            .map_err(|error| LogError::Config(format!("can't start the reading thread: {error}")))?;
        Ok(tail)
    }

    /// Follows further partitions too. Those that are followed already stay as they are. Must be called within a tokio
    /// runtime.
    pub fn follow(&self, start: Vec<(u32, Offset, Acceptance)>) {
        for (partition, offset, acceptance) in start {
            let followed = Arc::new(FollowedPartition::new(partition, offset, acceptance));
            {
                let mut parts = self.shared.parts.write().unwrap_or_else(PoisonError::into_inner);
                if parts.contains_key(&partition) {
                    continue;
                }
                parts.insert(partition, followed.clone());
            }
            // Subscribe here: a task that starts later would miss an earlier request.
            let asked = followed.requested.subscribe();
            let (topic, observer) = (self.shared.topic.clone(), self.observer.clone());
            let answering = answer_end_requests(topic, observer, followed, asked);
            let stop = self.stop.clone();
            tokio::spawn(async move { stop.run_until_cancelled(answering).await });
            lock(&self.shared.added).push((partition, offset));
        }
    }

    /// The number of followed partitions. They are the first ones of the topic.
    pub fn partitions(&self) -> u32 {
        let parts = self.shared.parts.read().unwrap_or_else(PoisonError::into_inner);
        parts.len() as u32
    }

    /// The partitions that can't be read any further, because records are missing: [`LogError::Gap`].
    pub fn gaps(&self) -> Vec<LogError> {
        let parts = self.shared.parts();
        parts.iter().filter_map(|part| lock(&part.gap).clone()).collect()
    }

    /// Resolves when each partition was read to the end that it had at the call or later. This may take any time, and
    /// it never happens after [`failed`](Self::failed).
    pub async fn caught_up(&self) {
        for partition in self.shared.parts() {
            let mut logged = false;
            while let Err(error) = partition.confirm(Instant::now()).await {
                if !logged {
                    logged = true;
                    tracing::warn!(partition = partition.partition, %error, "reading the end of the log failed, retrying");
                }
                tokio::time::sleep(POLL).await;
            }
        }
    }

    /// The verdict on an order that was appended or is about to be. It is registered at the call, not at the first
    /// poll.
    ///
    /// Accepted: its record was read and counts. Void: it can't count any more. An order of an epoch before the
    /// previous one is void here even if it was accepted long ago: query MySQL for those. Set a time limit: the future
    /// never resolves if Kafka is away or the record is never appended.
    pub fn read_back(&self, partition: u32, order: OrderId) -> ReadBack {
        let Some(found) = self.shared.part(partition) else {
            return ReadBack(ReadBackState::Never);
        };
        let mut state = found.state();
        // Copied while the state is locked, so that both are consistent.
        let next = *found.position.borrow();
        match state.verdict(order, next) {
            OrderVerdict::Known(verdict) => ReadBack(ReadBackState::Over(verdict)),
            OrderVerdict::Later(ticket, receiver) => {
                drop(state);
                ReadBack(ReadBackState::For {
                    receiver,
                    partition: found,
                    order,
                    ticket,
                })
            }
        }
    }

    /// The cut of a sale after all records that were read.
    pub fn cut(&self, partition: u32, sale: SaleId) -> SaleCut {
        match self.shared.part(partition) {
            Some(partition) => partition.state().cut(sale),
            None => SaleCut::default(),
        }
    }

    /// Confirms that this process had read the whole partition at some instant later than `max_age` ago. All callers
    /// share one query to Kafka at a time, and none is sent while a recent answer is enough.
    pub async fn confirm_fresh(&self, partition: u32, max_age: Duration) -> Result<(), LogError> {
        let Some(found) = self.shared.part(partition) else {
            return Err(LogError::NoPartition {
                topic: self.shared.topic.clone(),
                partition,
                partitions: self.partitions(),
            });
        };
        let now = Instant::now();
        let since = now.checked_sub(max_age).unwrap_or(now);
        if found.is_fresh(since) {
            return Ok(());
        }
        // On the heap: the future is large and rarely needed under load, and it would enlarge the future of every
        // caller.
        let confirmed = Box::pin(tokio::time::timeout(FRESHNESS_TIMEOUT, found.confirm(since)));
        confirmed.await.unwrap_or(Err(LogError::NotFresh(partition)))
    }

    /// The next offset that this process reads.
    pub fn position(&self, partition: u32) -> Option<Offset> {
        self.shared
            .part(partition)
            .map(|partition| *partition.position.borrow())
    }

    /// Number of unread records by the last known end of the partition; `None` before the first query.
    pub fn lag(&self, partition: u32) -> Option<i64> {
        let partition = self.shared.part(partition)?;
        let end = partition.end.borrow().as_ref()?.offset.as_ref().ok().copied()?;
        Some((end - *partition.position.borrow()).max(0))
    }

    /// Number of callers that wait for a read-back.
    pub fn waiting(&self) -> usize {
        self.shared
            .parts()
            .iter()
            .map(|partition| partition.state().waiting())
            .sum()
    }

    /// Number of messages that were skipped because they are not records. They change nothing; the order-worker keeps
    /// them.
    pub fn undecodable(&self) -> u64 {
        self.shared.undecodable.load(Ordering::Relaxed)
    }

    /// Resolves when this process can't continue, because the log does not hold the next offset. The process must exit
    /// and start again from a new snapshot.
    pub async fn failed(&self) -> LogError {
        let mut failure = self.shared.failure.subscribe();
        let failed = failure.wait_for(Option::is_some).await;
        match failed.as_deref() {
            Ok(Some(error)) => error.clone(),
            _ => LogError::Stopped,
        }
    }
}

impl FollowedPartition {
    fn new(partition: u32, offset: Offset, acceptance: Acceptance) -> Self {
        FollowedPartition {
            partition,
            state: Mutex::new(Partition::starting_from(acceptance)),
            position: watch::Sender::new(offset),
            requested: watch::Sender::new(None),
            end: watch::Sender::new(None),
            fresh_at: Mutex::new(None),
            gap: Mutex::new(None),
        }
    }

    fn state(&self) -> MutexGuard<'_, Partition> {
        lock(&self.state)
    }

    /// Whether the whole partition had been read at some instant since `since`.
    fn is_fresh(&self, since: Instant) -> bool {
        lock(&self.fresh_at).is_some_and(|at| at >= since)
    }

    /// Waits until everything was read that the partition held at some instant not before `since`.
    async fn confirm(&self, since: Instant) -> Result<(), LogError> {
        let mut end = self.end.subscribe();
        self.requested.send_if_modified(|asked| {
            let newer = asked.is_none_or(|asked| since > asked);
            if newer {
                *asked = Some(since);
            }
            newer
        });
        let KnownEnd { asked_at, offset } = match end
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

/// Reads the end of a partition from Kafka whenever a caller requests a newer one than the last.
async fn answer_end_requests(
    topic: String,
    observer: Arc<BaseConsumer<QuietContext>>,
    found: Arc<FollowedPartition>,
    mut asked: watch::Receiver<Option<Instant>>,
) {
    let partition = found.partition;
    while asked.changed().await.is_ok() {
        let since = *asked.borrow_and_update();
        let last = found.end.borrow().as_ref().map(|end| end.asked_at);
        if last >= since {
            continue; // answered by the query that was in flight
        }
        let asked_at = Instant::now();
        let (observer, topic) = (observer.clone(), topic.clone());
        let offset = kafka::blocking("reading the end of the log", move || {
            end_of(&observer, &topic, partition)
        })
        .await;
        found.end.send_replace(Some(KnownEnd { asked_at, offset }));
    }
}

/// Blocks. It takes one request, where reading the watermarks takes two.
fn end_of(observer: &BaseConsumer<QuietContext>, topic: &str, partition: u32) -> Result<Offset, LogError> {
    const WHAT: &str = "reading the end of the log";
    let mut query = TopicPartitionList::new();
    query
        .add_partition_offset(topic, partition as i32, KafkaOffset::End)
        .map_err(LogError::kafka(WHAT))?;
    let answer = observer
        .offsets_for_times(query, FRESHNESS_TIMEOUT)
        .map_err(LogError::kafka(WHAT))?;
    for element in answer.elements() {
        element.error().map_err(LogError::kafka(WHAT))?;
        if let KafkaOffset::Offset(end) = element.offset() {
            return Ok(end);
        }
    }
    Err(LogError::NotFresh(partition))
}

/// The partitions with a gap, and when they are read again.
type Gaps = BTreeMap<u32, Instant>;

/// The reading thread.
struct TailReader {
    shared: Arc<Shared>,
    consumer: BaseConsumer<QuietContext>,
    stop: CancellationToken,
}

impl TailReader {
    fn run(&self) {
        // Each kind of error is logged once until a message is read again.
        let mut logged_errors = Vec::new();
        let mut gaps = BTreeMap::new();
        while !self.stop.is_cancelled() {
            self.read_added();
            self.read_gaps_again(&mut gaps);
            match self.consumer.poll(POLL) {
                None => {}
                Some(Ok(message)) => {
                    seckill_failpoint::reach("tail.before-read");
                    self.read(&message, &mut gaps);
                    if !logged_errors.is_empty() {
                        logged_errors.clear();
                        tracing::info!("reading the order log recovered");
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => self.reached_end(partition as u32, &mut gaps),
                Some(Err(error)) if kafka::is_out_of_range(&error) => {
                    let failure = self.lost(error);
                    self.shared.failure.send_replace(Some(failure));
                    return;
                }
                Some(Err(error)) if logged_errors.contains(&error) => {}
                Some(Err(error)) => {
                    tracing::warn!(%error, advice = advice(&error), "reading the order log failed, retrying");
                    logged_errors.push(error);
                }
            }
        }
    }

    /// Begins to read partitions that are followed since the last call.
    fn read_added(&self) {
        let added = std::mem::take(&mut *lock(&self.shared.added));
        if added.is_empty() {
            return;
        }
        let begun = partition_list(&self.shared.topic, added).and_then(|list| {
            self.consumer
                .incremental_assign(&list)
                .map_err(LogError::kafka("assigning partitions"))
        });
        if let Err(error) = begun {
            self.shared.failure.send_replace(Some(error));
        }
    }

    fn read(&self, message: &BorrowedMessage<'_>, gaps: &mut Gaps) {
        let Some(partition) = self.shared.part(message.partition() as u32) else {
            return;
        };
        let (next, found) = (*partition.position.borrow(), message.offset());
        match found.cmp(&next) {
            std::cmp::Ordering::Less => return, // read already
            std::cmp::Ordering::Greater => return self.found_gap(&partition, next, found, gaps),
            std::cmp::Ordering::Equal => {}
        }
        self.filled_gap(&partition, gaps);
        let record = Record::decode(message.payload().unwrap_or_default());
        let mut state = partition.state();
        match record {
            Ok(record) => state.read(found, &record),
            Err(_) => {
                self.shared.undecodable.fetch_add(1, Ordering::Relaxed);
            }
        }
        partition.position.send_replace(found + 1);
    }

    /// Records may be missing at the end of a partition as well.
    fn reached_end(&self, partition: u32, gaps: &mut Gaps) {
        let Some(found) = self.shared.part(partition) else {
            return;
        };
        if let Some(end) = position(&self.consumer, &self.shared.topic, partition) {
            let next = *found.position.borrow();
            if end > next {
                self.found_gap(&found, next, end, gaps);
            }
        }
    }

    /// What is missing may be a barrier: nothing after a gap can be judged. The partition is read again from there on, until
    /// Kafka has the records.
    fn found_gap(&self, partition: &FollowedPartition, next: Offset, found: Offset, gaps: &mut Gaps) {
        gaps.entry(partition.partition)
            .or_insert_with(|| Instant::now() + GAP_RETRY_INTERVAL);
        let gap = LogError::Gap {
            partition: partition.partition,
            next,
            found,
        };
        if lock(&partition.gap).replace(gap.clone()).is_none() {
            tracing::error!(partition = partition.partition, offset = next, "{gap}");
        }
    }

    fn filled_gap(&self, partition: &FollowedPartition, gaps: &mut Gaps) {
        if gaps.remove(&partition.partition).is_some() {
            *lock(&partition.gap) = None;
            tracing::info!(partition = partition.partition, "the missing records were read");
        }
    }

    fn read_gaps_again(&self, gaps: &mut Gaps) {
        let now = Instant::now();
        for (partition, retry_at) in gaps.iter_mut().filter(|(_, at)| **at <= now) {
            *retry_at = now + GAP_RETRY_INTERVAL;
            let Some(found) = self.shared.part(*partition) else {
                continue;
            };
            let next = KafkaOffset::Offset(*found.position.borrow());
            let again = self
                .consumer
                .seek(&self.shared.topic, *partition as i32, next, GAP_RETRY_INTERVAL);
            if let Err(error) = again {
                tracing::debug!(partition, %error, "failed to read the partition again");
            }
        }
    }

    /// Finds the partition, because the error does not name it.
    fn lost(&self, error: KafkaError) -> LogError {
        for found in self.shared.parts() {
            let offset = *found.position.borrow();
            let held = self
                .consumer
                .fetch_watermarks(&self.shared.topic, found.partition as i32, QUERY_TIMEOUT);
            if held.is_ok_and(|(begin, end)| !(begin..=end).contains(&offset)) {
                return LogError::OutOfRange {
                    topic: self.shared.topic.clone(),
                    partition: found.partition,
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

/// A reader that ends before the shutdown is a failure.
impl Drop for TailReader {
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
pub struct ReadBack(ReadBackState);

enum ReadBackState {
    Over(RecordVerdict),
    For {
        receiver: oneshot::Receiver<RecordVerdict>,
        partition: Arc<FollowedPartition>,
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
            ReadBackState::Over(verdict) => *verdict,
            ReadBackState::Never => return Poll::Pending,
            ReadBackState::For { receiver, .. } => match Pin::new(receiver).poll(context) {
                Poll::Ready(Ok(verdict)) => verdict,
                Poll::Ready(Err(_)) | Poll::Pending => return Poll::Pending,
            },
        };
        self.0 = ReadBackState::Over(verdict);
        Poll::Ready(verdict)
    }
}

impl Drop for ReadBackState {
    fn drop(&mut self) {
        if let ReadBackState::For {
            partition,
            order,
            ticket,
            ..
        } = self
        {
            partition.state().forget(*order, *ticket);
        }
    }
}

/// The guarded data changes in single steps, so a panic elsewhere leaves it consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
