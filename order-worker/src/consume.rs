//! The loop that reads the log and stores it.
//!
//! There is one way to start and to recover from every failure: read the positions from MySQL and assign the partitions
//! at these offsets. Entries that were read and not stored are dropped; the log still holds them.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use futures::{StreamExt as _, stream};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList};
use seckill_ledger::{Ledger, LedgerError, LogEntry, NotSpoken, StoreError, Stored};
use seckill_order_log::{Entry, LogConfig, LogError, advice, creation_error, header_values, position};
use seckill_protocol::{Offset, Record};
use seckill_service::traces::{SpanContext, SpanKind, TRACEPARENT, Traces, sampled};
use seckill_service::{FailureLog, Gate, Shutdown, mysql_pool, retry};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::assignment::{Assigned, Assignments};
use crate::metrics::Metrics;

/// The group reassigns the partitions of a killed worker after this time. Brokers allow no less by default.
const SESSION_TIMEOUT_MS: &str = "6000";
const HEARTBEAT_MS: &str = "2000";
/// Limit of the time between two polls, and so of a transaction. During a rebalance the group waits this long for a
/// member that is gone, and nothing is stored meanwhile. A worker that exceeds it loses its partitions and joins again.
const MAX_POLL_INTERVAL_MS: &str = "30000";
/// After this time without an assignment the worker leaves the group and joins as a new member.
const JOIN_TIMEOUT: Duration = Duration::from_secs(45);
/// Limit of one poll while nothing waits to be stored.
const IDLE_POLL: Duration = Duration::from_millis(100);
/// Orders in one transaction. A record without orders counts as one. Larger transactions do not make MySQL faster.
const MAX_ORDERS_PER_TRANSACTION: usize = 1000;
/// Kafka answers a fetch when it has this much, or after this long. Under load this makes transactions few and large,
/// which costs MySQL a fraction.
const FETCH_MIN_BYTES: &str = "32768";
const FETCH_MAX_WAIT_MS: &str = "50";
/// Concurrent transactions, each of another partition. The pool has more connections, for the other queries.
const MAX_CONCURRENT_STORES: usize = mysql_pool::WORKER_STORES as usize;
/// Orders that are read before storing starts. A partition of which much was fetched then does not delay the others.
const MAX_UNSTORED_ORDERS: usize = MAX_CONCURRENT_STORES * MAX_ORDERS_PER_TRANSACTION;
/// Limit of one partition in one fetch, for the same reason. It is worth a few transactions.
const MAX_PARTITION_FETCH_BYTES: &str = "262144";
/// How often an idle worker checks its positions in MySQL, which may have lost its tail.
const POSITION_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often a worker that is too old for the ledger checks whether it still is.
const FORMAT_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often a partition is tried again that stopped: at a record of a sale that the ledger does not know, or at a gap.
const STOPPED_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// How soon the group assigns partitions that were added to the topic.
const METADATA_REFRESH_MS: &str = "10000";
/// Traced records that wait to be stored. What is beyond is stored without a span.
const MAX_TRACED: usize = 1000;
/// How often the positions are committed to the consumer group.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// The partitions of this worker and the offset to store next in each. Empty while these are unknown.
pub type Positions = BTreeMap<u32, Offset>;

pub struct Consume {
    pub ledger: Ledger,
    pub log: LogConfig,
    pub group: String,
    pub mysql: Gate,
    /// Ready while this worker is a member of the group, reads at the positions of MySQL, and no partition has stopped.
    pub reading: Gate,
    pub metrics: Metrics,
    pub traces: Option<Arc<Traces>>,
    pub positions: watch::Sender<Positions>,
    pub shutdown: Shutdown,
    pub runtime: Handle,
}

impl Consume {
    /// Blocks until shutdown. Then it finishes the current transactions and leaves the group.
    pub fn run(self) -> anyhow::Result<()> {
        let mut config = self.log.consumer()?;
        config
            .set("client.id", "order-worker")
            .set("group.id", &self.group)
            .set("session.timeout.ms", SESSION_TIMEOUT_MS)
            .set("heartbeat.interval.ms", HEARTBEAT_MS)
            .set("max.poll.interval.ms", MAX_POLL_INTERVAL_MS)
            .set("fetch.min.bytes", FETCH_MIN_BYTES)
            .set("fetch.wait.max.ms", FETCH_MAX_WAIT_MS)
            .set("max.partition.fetch.bytes", MAX_PARTITION_FETCH_BYTES)
            .set("topic.metadata.refresh.interval.ms", METADATA_REFRESH_MS);
        let mut refused = None;
        while !self.shutdown.is_cancelled() {
            if self.may_store(&mut refused) {
                self.run_membership(&config)?;
            } else {
                let pause = async { tokio::time::timeout(FORMAT_CHECK_INTERVAL, self.shutdown.cancelled()).await };
                let _ = self.runtime.block_on(pause);
            }
        }
        Ok(())
    }

    /// Whether this worker speaks the format that the ledger requires. Otherwise it stays out of the group, so that the
    /// others have its partitions.
    fn may_store(&self, refused: &mut Option<NotSpoken>) -> bool {
        match self.runtime.block_on(self.ledger.check_format()) {
            Err(LedgerError::NotSpoken(not_spoken)) => {
                if refused.replace(not_spoken) != Some(not_spoken) {
                    tracing::error!("{not_spoken}");
                }
                self.mysql.not_ready(not_spoken.to_string());
                false
            }
            Ok(()) => {
                if refused.take().is_some() {
                    tracing::info!("this program speaks the format that the ledger requires");
                }
                true
            }
            // The membership deals with it.
            Err(_) => true,
        }
    }

    /// Runs one group membership: until shutdown, until the group gives no assignment for too long, or until the ledger
    /// requires a format that this worker does not speak.
    fn run_membership(&self, config: &ClientConfig) -> anyhow::Result<()> {
        let consumer: BaseConsumer<Assignments> = config
            .create_with_context(Assignments::default())
            .map_err(creation_error("creating the consumer", config))?;
        consumer
            .subscribe(&[&self.log.topic])
            .context("subscribe to the topic")?;
        self.reading.not_ready("waiting for a partition assignment");
        let mut membership = Membership {
            worker: self,
            consumer: &consumer,
            assigned: Assigned::default(),
            unassigned_since: Some(Instant::now()),
            at_position: false,
            unstored: Unstored::default(),
            traced: BTreeMap::new(),
            next: Positions::new(),
            unread: BTreeSet::new(),
            failed: None,
            gaps: BTreeMap::new(),
            stopped: BTreeMap::new(),
            paused: BTreeSet::new(),
            stopped_retry_at: None,
            failures: FailureLog::first_only(),
            retry_at: Instant::now(),
            checked_at: Instant::now(),
            committed_at: Instant::now(),
            too_old: false,
        };
        while !self.shutdown.is_cancelled() {
            membership.turn()?;
            if membership.too_old {
                self.reading.not_ready("not a member of the group");
                break;
            }
            if membership
                .unassigned_since
                .is_some_and(|since| since.elapsed() > JOIN_TIMEOUT)
            {
                let seconds = JOIN_TIMEOUT.as_secs();
                tracing::warn!(seconds, "no partition assignment, joining the group again");
                break;
            }
        }
        membership.forget_positions();
        membership.commit();
        // Leaves the group, so that the other workers need not wait for the session timeout.
        drop(consumer);
        Ok(())
    }
}

struct Membership<'a> {
    worker: &'a Consume,
    consumer: &'a BaseConsumer<Assignments>,
    /// The assignment that this struct has acted on.
    assigned: Assigned,
    /// Start of the time without an assignment.
    unassigned_since: Option<Instant>,
    /// All partitions of this worker are assigned at their positions.
    at_position: bool,
    unstored: Unstored,
    /// The spans of the purchases in unstored records, by partition and offset.
    traced: BTreeMap<(u32, Offset), Vec<SpanContext>>,
    /// The offset to read next in each partition.
    next: Positions,
    /// Partitions that Kafka has not answered for since they were assigned.
    unread: BTreeSet<u32>,
    /// The failure of Kafka after which everything is read again, until it was.
    failed: Option<String>,
    /// Partitions that stop as soon as everything before the gap is stored.
    gaps: BTreeMap<u32, LogError>,
    /// Why partitions can't be stored any further. The others go on.
    stopped: BTreeMap<u32, String>,
    /// Those of them that are not read until the next try.
    paused: BTreeSet<u32>,
    stopped_retry_at: Option<Instant>,
    failures: FailureLog,
    /// No retry before this time.
    retry_at: Instant,
    checked_at: Instant,
    committed_at: Instant,
    /// The ledger requires a format that this worker does not speak.
    too_old: bool,
}

/// Entries that were read and are not stored yet.
#[derive(Default)]
struct Unstored {
    parts: BTreeMap<u32, VecDeque<LogEntry>>,
    orders: usize,
}

impl Unstored {
    fn add(&mut self, partition: u32, entry: LogEntry) {
        self.orders += weight(&entry);
        self.parts.entry(partition).or_default().push_back(entry);
    }

    fn drop_partition(&mut self, partition: u32) {
        let dropped = self.parts.remove(&partition).unwrap_or_default();
        self.orders -= dropped.iter().map(weight).sum::<usize>();
    }

    /// Takes the entries of the next transaction of each partition.
    fn take(&mut self) -> Vec<(u32, Vec<LogEntry>)> {
        let mut taken = Vec::new();
        for (partition, entries) in &mut self.parts {
            let (mut next, mut orders) = (Vec::new(), 0);
            while orders < MAX_ORDERS_PER_TRANSACTION
                && let Some(entry) = entries.pop_front()
            {
                orders += weight(&entry);
                next.push(entry);
            }
            self.orders -= orders;
            taken.push((*partition, next));
        }
        self.parts.retain(|_, entries| !entries.is_empty());
        taken
    }
}

fn weight(entry: &LogEntry) -> usize {
    match &entry.record {
        Ok(Record::Batch(batch)) => batch.orders.len().max(1),
        _ => 1,
    }
}

impl Membership<'_> {
    /// Reads available entries and stores them. It never waits long, because rebalances arrive during polls.
    fn turn(&mut self) -> anyhow::Result<()> {
        let error = self.collect();
        if self.consumer.context().generation() != self.assigned.generation {
            // Another worker may own the partitions of these entries by now.
            self.assigned = self.consumer.context().current();
            self.unassigned_since = match self.assigned.member {
                true => None,
                false => self.unassigned_since.or_else(|| Some(Instant::now())),
            };
            self.forget_positions();
            self.retry_at = Instant::now();
            let ours = |partition: &u32| self.assigned.parts.contains(partition);
            let gone: Vec<u32> = self.stopped.keys().filter(|p| !ours(p)).copied().collect();
            gone.into_iter().for_each(|partition| self.continues(partition));
        } else if self.at_position && self.stopped_retry_at.is_some_and(|at| Instant::now() >= at) {
            // The only way to read a partition again is the way in which every reading starts.
            self.forget_positions();
            self.retry_at = Instant::now();
        } else if self.at_position {
            self.store();
            self.stop_at_gaps();
        }
        if !self.at_position {
            self.unstored = Unstored::default();
            self.traced.clear();
        }
        if let Some(error) = error {
            self.handle_kafka_error(error)?;
        }
        if !self.at_position && self.assigned.member && Instant::now() >= self.retry_at {
            self.assign_positions()?;
        }
        Ok(())
    }

    fn collect(&mut self) -> Option<KafkaError> {
        while self.unstored.orders < MAX_UNSTORED_ORDERS {
            let wait = match self.unstored.orders {
                0 => IDLE_POLL,
                _ => Duration::ZERO,
            };
            match self.consumer.poll(wait)? {
                Err(KafkaError::PartitionEOF(partition)) => self.reached_end(partition as u32),
                Err(error) => return Some(error),
                Ok(message) => {
                    if self.read(Entry::from_message(&message)) {
                        self.note_spans(&message);
                    }
                }
            }
        }
        None
    }

    fn note_spans(&mut self, message: &BorrowedMessage<'_>) {
        if self.worker.traces.is_none() || self.traced.len() >= MAX_TRACED {
            return;
        }
        let headers = header_values(message, TRACEPARENT);
        let spans: Vec<_> = headers.iter().filter_map(|header| sampled(header)).collect();
        if !spans.is_empty() {
            self.traced
                .insert((message.partition() as u32, message.offset()), spans);
        }
    }

    /// Returns whether the entry is going to be stored.
    fn read(&mut self, entry: Entry) -> bool {
        let partition = entry.partition;
        let Some(next) = self.next.get_mut(&partition) else {
            return false; // not assigned at its position
        };
        if self.paused.contains(&partition) || self.gaps.contains_key(&partition) || entry.offset < *next {
            return false;
        }
        if entry.offset > *next {
            let (next, found) = (*next, entry.offset);
            self.found_gap(partition, next, found);
            return false;
        }
        *next += 1;
        self.unstored.add(partition, log_entry(entry));
        self.was_read(partition);
        true
    }

    /// Records may be missing at the end of a partition as well.
    fn reached_end(&mut self, partition: u32) {
        let Some(next) = self.next.get(&partition).copied() else {
            return;
        };
        match position(self.consumer, &self.worker.log.topic, partition) {
            Some(end) if end > next => self.found_gap(partition, next, end),
            _ => self.was_read(partition),
        }
    }

    /// What is missing may be an order: nothing after a gap is stored. It also can't be told from the marker of a
    /// transaction, which only another program can have written, so a person decides.
    fn found_gap(&mut self, partition: u32, next: Offset, found: Offset) {
        let gap = LogError::Gap { partition, next, found };
        self.gaps.entry(partition).or_insert(gap);
    }

    /// Stops the partitions with a gap of which everything before is stored.
    fn stop_at_gaps(&mut self) {
        let is_stored = |partition: &u32| !self.unstored.parts.contains_key(partition);
        let stored: Vec<u32> = self.gaps.keys().filter(|p| is_stored(p)).copied().collect();
        for partition in stored {
            if let (Some(gap), Some(next)) = (self.gaps.remove(&partition), self.next.get(&partition).copied())
                && self.at_position
            {
                self.was_read(partition);
                self.stop(partition, next, &gap);
            }
        }
    }

    /// Kafka has answered for the partition.
    fn was_read(&mut self, partition: u32) {
        if self.unread.remove(&partition) && self.unread.is_empty() {
            if self.failed.take().is_some() {
                tracing::info!("reading the log recovered");
            }
            self.show_reading();
        }
    }

    /// Stores the next entries of each partition in a transaction of its own, several concurrently.
    fn store(&mut self) {
        let (next, positions) = (self.unstored.take(), self.worker.positions.borrow().clone());
        let stores = next.iter().filter_map(|(partition, entries)| {
            let (from, to) = (*positions.get(partition)?, entries.last()?.offset + 1);
            Some(self.store_one(*partition, from, to, entries))
        });
        let stores = stream::iter(stores).buffer_unordered(MAX_CONCURRENT_STORES);
        let results: Vec<_> = self.worker.runtime.block_on(stores.collect());
        let idle = results.is_empty();
        for (partition, to, result) in results {
            match result {
                Ok(_) => {
                    self.failures.succeeded();
                    self.worker.mysql.ready();
                    self.continues(partition);
                    self.traced.retain(|(of, offset), _| *of != partition || *offset >= to);
                    // A failure of another partition makes this worker forget all positions.
                    if self.at_position {
                        self.worker.positions.send_modify(|positions| {
                            positions.insert(partition, to);
                        });
                    }
                }
                Err(error) => self.store_failed(&error),
            }
        }
        if idle && self.at_position && self.checked_at.elapsed() >= POSITION_CHECK_INTERVAL {
            self.check_positions();
        }
        if self.at_position && self.committed_at.elapsed() >= COMMIT_INTERVAL {
            self.commit();
        }
    }

    async fn store_one(
        &self,
        partition: u32,
        from: Offset,
        to: Offset,
        entries: &[LogEntry],
    ) -> (u32, Offset, Result<Stored, StoreError>) {
        let (begun, begun_at) = (Instant::now(), SystemTime::now());
        let result = self.worker.ledger.store(partition, from, to, entries).await;
        if let Ok(stored) = &result {
            self.trace((partition, from), (partition, to), begun_at);
            self.worker.metrics.stored(*stored, begun.elapsed().as_secs_f64());
        }
        (partition, to, result)
    }

    /// Adds the transaction to the traces of the purchases that it has stored.
    fn trace(&self, from: (u32, Offset), to: (u32, Offset), begun_at: SystemTime) {
        let Some(traces) = &self.worker.traces else { return };
        for ((partition, offset), purchases) in self.traced.range(from..to) {
            for purchase in purchases {
                let mut span = traces.span("store", SpanKind::Consumer, Some(purchase), begun_at);
                span.set("messaging.system", "kafka");
                span.set("messaging.destination.partition.id", partition.to_string());
                span.set("messaging.kafka.offset", *offset);
                span.set("db.system.name", "mysql");
            }
        }
    }

    fn store_failed(&mut self, error: &StoreError) {
        match error {
            StoreError::PositionMoved { .. } => {
                tracing::info!(%error, "position moved: another worker stored, or an answer of MySQL was lost");
                self.forget_positions();
                self.retry_at = Instant::now();
            }
            StoreError::Stopped { partition, offset, .. } => self.stop(*partition, *offset, error),
            StoreError::Ledger(error) => self.ledger_failed("storing orders", error),
        }
    }

    /// Leaves a partition alone until the next try. Everything before `offset` is stored.
    fn stop(&mut self, partition: u32, offset: Offset, reason: &impl Display) {
        let why = reason.to_string();
        if self.stopped.insert(partition, why.clone()).as_ref() != Some(&why) {
            tracing::error!(partition, offset, "{why}");
        }
        self.worker.metrics.partition_stopped(partition, true);
        self.show_reading();
        self.unstored.drop_partition(partition);
        self.stopped_retry_at = Some(Instant::now() + STOPPED_RETRY_INTERVAL);
        // A failure of another partition makes this worker forget all positions.
        if !self.at_position {
            return;
        }
        self.worker.positions.send_modify(|positions| {
            positions.insert(partition, offset);
        });
        self.paused.insert(partition);
        if let Err(error) = self.consumer.pause(&self.paused_list()) {
            tracing::debug!(partition, %error, "pausing the partition failed; its messages are dropped");
        }
    }

    fn paused_list(&self) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in &self.paused {
            list.add_partition(&self.worker.log.topic, *partition as i32);
        }
        list
    }

    /// A partition that had stopped was stored, or is not this worker's any more.
    fn continues(&mut self, partition: u32) {
        if self.stopped.remove(&partition).is_some() {
            tracing::info!(partition, "partition continues");
            self.worker.metrics.partition_stopped(partition, false);
            if self.at_position {
                self.show_reading();
            }
        }
    }

    /// Ready once Kafka has answered for each partition since the last failure, and none has stopped.
    fn show_reading(&self) {
        let mut why: Vec<String> = self.failed.iter().chain(self.stopped.values()).cloned().collect();
        if why.is_empty() && !self.unread.is_empty() {
            why.push(format!(
                "waiting for the first answer of Kafka for partitions {:?}",
                self.unread
            ));
        }
        match why.is_empty() {
            true => self.worker.reading.ready(),
            false => self.worker.reading.not_ready(why.join("; ")),
        }
    }

    /// MySQL may have lost its tail in a failover. Then its positions are lower, and the lost records are stored again.
    fn check_positions(&mut self) {
        self.checked_at = Instant::now();
        match self.worker.runtime.block_on(self.read_stored_positions()) {
            Ok(stored) => {
                self.failures.succeeded();
                self.worker.mysql.ready();
                let stored: Positions = stored.into_iter().collect();
                let differs = self
                    .worker
                    .positions
                    .borrow()
                    .iter()
                    .any(|(partition, at)| stored.get(partition) != Some(at));
                if differs {
                    tracing::warn!("positions in MySQL changed, reading again from these");
                    self.forget_positions();
                    self.retry_at = Instant::now();
                }
            }
            Err(error) => self.ledger_failed("reading positions", &error),
        }
    }

    /// Reads the positions from MySQL and assigns the partitions there.
    fn assign_positions(&mut self) -> anyhow::Result<()> {
        let positions = match self.worker.runtime.block_on(self.read_positions()) {
            Ok(positions) => positions,
            Err(error) => {
                self.ledger_failed("reading positions", &error);
                return Ok(());
            }
        };
        self.worker.mysql.ready();
        let mut list = TopicPartitionList::new();
        for (partition, at) in &positions {
            list.add_partition_offset(&self.worker.log.topic, *partition as i32, At::Offset(*at))
                .context("add a position to the assignment")?;
        }
        self.consumer.assign(&list).context("assign partitions")?;
        tracing::info!(?positions, "reading from positions");
        self.unread = positions.keys().copied().collect();
        self.next = positions.clone();
        self.worker.positions.send_replace(positions);
        self.at_position = true;
        self.checked_at = Instant::now();
        self.show_reading();
        Ok(())
    }

    /// An idle worker has no transaction that checks the format.
    async fn read_stored_positions(&self) -> Result<Vec<(u32, Offset)>, LedgerError> {
        self.worker.ledger.check_format().await?;
        self.worker.ledger.positions().await
    }

    async fn read_positions(&self) -> Result<Positions, LedgerError> {
        let mut positions = Positions::new();
        for partition in &self.assigned.parts {
            positions.insert(*partition, self.worker.ledger.ensure_position(*partition).await?);
        }
        Ok(positions)
    }

    /// Stops reading, until [`assign_positions`](Self::assign_positions).
    fn forget_positions(&mut self) {
        if !self.paused.is_empty() {
            // The client remembers a pause beyond the assignment.
            if let Err(error) = self.consumer.resume(&self.paused_list()) {
                tracing::debug!(%error, "resuming the partitions failed");
            }
            self.paused.clear();
        }
        self.stopped_retry_at = None;
        self.gaps.clear();
        self.next.clear();
        if self.at_position {
            self.at_position = false;
            self.worker.positions.send_replace(Positions::new());
            // It fails during a rebalance that revokes the partitions. Then they are not fetched any more either.
            if let Err(error) = self.consumer.assign(&TopicPartitionList::new()) {
                tracing::debug!(%error, "unassigning the partitions failed");
            }
        }
    }

    fn ledger_failed(&mut self, what: &str, error: &LedgerError) {
        self.too_old |= matches!(error, LedgerError::NotSpoken(_));
        if self.failures.failed(error) {
            tracing::warn!(task = what, %error, "MySQL failed, retrying");
        }
        self.worker.mysql.not_ready(format!("{what}: {error}"));
        self.back_off();
    }

    fn handle_kafka_error(&mut self, error: KafkaError) -> anyhow::Result<()> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal) => {
                let fatal = self.consumer.client().fatal_error();
                anyhow::bail!("fatal error of the Kafka client: {fatal:?}");
            }
            Some(
                RDKafkaErrorCode::AutoOffsetReset
                | RDKafkaErrorCode::OffsetOutOfRange
                | RDKafkaErrorCode::LogTruncation,
            ) => {
                let positions = self.worker.positions.borrow().clone();
                self.read_again(format!(
                    "the log does not hold a position of MySQL, {positions:?}: retention removed it, or the log was replaced \
                     or lost its tail; restore the topic"
                ));
            }
            Some(code) if is_transient(code) => tracing::debug!(%error, "Kafka client error"),
            // Records may have been skipped, or no more will come.
            _ => self.read_again(format!("reading the log failed: {error}; {}", advice(&error))),
        }
        Ok(())
    }

    /// Reads everything again from the positions. Not ready until Kafka has answered for each partition.
    fn read_again(&mut self, why: String) {
        let count = self.failures.failed(&why);
        if count || self.failed.as_ref() != Some(&why) {
            tracing::error!("{why}");
        }
        self.failed = Some(why);
        self.back_off();
        self.show_reading();
    }

    /// Call it after the failure was counted.
    fn back_off(&mut self) {
        self.forget_positions();
        let failures_before = self.failures.count().saturating_sub(1);
        self.retry_at = Instant::now() + retry::full_jitter(failures_before);
    }

    /// Commits the positions to the group. Nothing depends on it: it is for lag tools.
    fn commit(&mut self) {
        self.committed_at = Instant::now();
        let mut list = TopicPartitionList::new();
        for (partition, at) in self.worker.positions.borrow().iter() {
            if list
                .add_partition_offset(&self.worker.log.topic, *partition as i32, At::Offset(*at))
                .is_err()
            {
                return;
            }
        }
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, CommitMode::Async)
        {
            tracing::debug!(%error, "committing the positions to the group failed");
        }
    }
}

/// The client reconnects, or joins the group again, by itself. The monitor reports when Kafka is away.
fn is_transient(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::RebalanceInProgress
            | Code::UnknownMemberId
            | Code::IllegalGeneration
            | Code::PollExceeded
    )
}

fn log_entry(entry: Entry) -> LogEntry {
    let Entry {
        offset,
        timestamp_ms,
        record,
        payload,
        ..
    } = entry;
    LogEntry {
        offset,
        timestamp_ms,
        record,
        payload,
    }
}
