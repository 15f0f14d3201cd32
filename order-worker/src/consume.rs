//! The loop that reads the log and stores it.
//!
//! There is one way to begin and one way out of every trouble: read the positions from MySQL and assign the partitions
//! there. What was read and not stored is forgotten; the log still has it.
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::{StreamExt as _, stream};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList};
use seckill_ledger::{Ledger, LedgerError, LogEntry, StoreError, Stored};
use seckill_order_log::{Entry, LogConfig};
use seckill_protocol::{Offset, Record};
use seckill_service::{Gate, Shutdown, retry};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::assignment::{Assigned, Assignments};
use crate::metrics::Metrics;

/// A killed worker's partitions are given to others after this time. Kafka's default allows no less.
const SESSION_TIMEOUT_MS: &str = "6000";
const HEARTBEAT_MS: &str = "2000";
/// The longest that a transaction may keep us from polling, and the longest that the group waits for a member that is
/// gone while it gives out partitions anew: nothing is stored meanwhile. Whoever exceeds it loses its partitions to
/// others and joins again.
const MAX_POLL_INTERVAL_MS: &str = "30000";
/// Whoever is not a member for longer than that gives this membership up and joins as another.
const JOIN_WITHIN: Duration = Duration::from_secs(45);
/// How long we wait for the first record of a transaction.
const IDLE: Duration = Duration::from_millis(100);
/// A transaction is closed when it has so many orders; a record without any counts as one. More brings MySQL nothing.
const MAX_ORDERS: usize = 1000;
/// Kafka hands records over when there is so much, or after so long: under load that makes transactions few and large,
/// which costs MySQL a fraction.
const GATHERED_BYTES: &str = "32768";
const GATHERED_WITHIN_MS: &str = "50";
/// So many transactions run at once, each of another partition. Connections remain for what else the worker asks.
const STORED_AT_ONCE: usize = 8;
/// Reading goes on until so many orders are there to store, so that a partition of which much was fetched at once does
/// not keep the others waiting.
const MAX_UNSTORED: usize = STORED_AT_ONCE * MAX_ORDERS;
/// What Kafka hands over of a partition in one go, at most: for the same reason, and a few transactions' worth.
const FETCHED_AT_ONCE: &str = "262144";
/// How often an idle worker looks whether MySQL still stands where it left it (it may have lost its tail), and how often
/// the group is told where we are.
const EVERY: Duration = Duration::from_secs(1);

/// Our partitions and the offset to store next in each. Empty while we don't know.
pub type Positions = BTreeMap<u32, Offset>;

pub struct Consume {
    pub ledger: Ledger,
    pub log: LogConfig,
    pub group: String,
    pub mysql: Gate,
    /// Ready when we are a member of the group and read from where we should.
    pub reading: Gate,
    pub metrics: Metrics,
    pub positions: watch::Sender<Positions>,
    pub shutdown: Shutdown,
    pub runtime: Handle,
}

impl Consume {
    /// Blocks until the shutdown; then the batch under way is finished and the group is left.
    pub fn run(self) -> anyhow::Result<()> {
        let mut config = self.log.consumer()?;
        config
            .set("client.id", "order-worker")
            .set("group.id", &self.group)
            .set("session.timeout.ms", SESSION_TIMEOUT_MS)
            .set("heartbeat.interval.ms", HEARTBEAT_MS)
            .set("max.poll.interval.ms", MAX_POLL_INTERVAL_MS)
            .set("fetch.min.bytes", GATHERED_BYTES)
            .set("fetch.wait.max.ms", GATHERED_WITHIN_MS)
            .set("max.partition.fetch.bytes", FETCHED_AT_ONCE)
            .set("enable.partition.eof", "false");
        while !self.shutdown.is_cancelled() {
            self.as_a_member(&config)?;
        }
        Ok(())
    }

    /// Until the shutdown, or until the group is not to be had in this way.
    fn as_a_member(&self, config: &ClientConfig) -> anyhow::Result<()> {
        let consumer: BaseConsumer<Assignments> = config
            .create_with_context(Assignments::default())
            .context("creating the consumer")?;
        consumer
            .subscribe(&[&self.log.topic])
            .context("subscribing to the topic")?;
        self.reading.not_ready("waiting for the group to give out partitions");
        let mut reader = Reader {
            of: self,
            consumer: &consumer,
            assigned: Assigned::default(),
            no_member_since: Some(Instant::now()),
            at_position: false,
            unstored: Unstored::default(),
            failures: 0,
            again_at: Instant::now(),
            checked_at: Instant::now(),
            committed_at: Instant::now(),
        };
        while !self.shutdown.is_cancelled() {
            reader.turn()?;
            if reader
                .no_member_since
                .is_some_and(|since| since.elapsed() > JOIN_WITHIN)
            {
                let seconds = JOIN_WITHIN.as_secs();
                tracing::warn!("the group has given out no partitions for {seconds} s: joining it anew");
                break;
            }
        }
        reader.forget_positions();
        reader.commit();
        // Leaves the group, so that others need not wait for the session's time-out.
        drop(consumer);
        Ok(())
    }
}

struct Reader<'a> {
    of: &'a Consume,
    consumer: &'a BaseConsumer<Assignments>,
    /// What the group had given us when we last looked.
    assigned: Assigned,
    /// Since when the group has left us without an assignment, if it has.
    no_member_since: Option<Instant>,
    /// All our partitions are assigned at their positions.
    at_position: bool,
    unstored: Unstored,
    /// Failures in a row, and when to try again.
    failures: u32,
    again_at: Instant,
    checked_at: Instant,
    committed_at: Instant,
}

/// What was read from our positions on and is not stored yet.
#[derive(Default)]
struct Unstored {
    parts: BTreeMap<u32, VecDeque<LogEntry>>,
    orders: usize,
}

impl Unstored {
    fn add(&mut self, part: u32, entry: LogEntry) {
        self.orders += weight(&entry);
        self.parts.entry(part).or_default().push_back(entry);
    }

    /// Takes what goes into the next transaction of each partition.
    fn take(&mut self) -> Vec<(u32, Vec<LogEntry>)> {
        let mut taken = Vec::new();
        for (part, entries) in &mut self.parts {
            let (mut next, mut orders) = (Vec::new(), 0);
            while orders < MAX_ORDERS
                && let Some(entry) = entries.pop_front()
            {
                orders += weight(&entry);
                next.push(entry);
            }
            self.orders -= orders;
            taken.push((*part, next));
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

impl Reader<'_> {
    /// Reads what is there and stores it. Never waits for long, since the group's changes arrive while we poll.
    fn turn(&mut self) -> anyhow::Result<()> {
        let error = self.collect();
        if self.consumer.context().generation() != self.assigned.generation {
            // What was just read may be another's by now.
            self.assigned = self.consumer.context().now();
            self.no_member_since = match self.assigned.member {
                true => None,
                false => self.no_member_since.or_else(|| Some(Instant::now())),
            };
            self.forget_positions();
            self.again_at = Instant::now();
        } else if self.at_position {
            self.store();
        }
        if !self.at_position {
            self.unstored = Unstored::default();
        }
        if let Some(error) = error {
            self.trouble(error)?;
        }
        if !self.at_position && self.assigned.member && Instant::now() >= self.again_at {
            self.take_positions()?;
        }
        Ok(())
    }

    fn collect(&mut self) -> Option<KafkaError> {
        while self.unstored.orders < MAX_UNSTORED {
            let wait = match self.unstored.orders {
                0 => IDLE,
                _ => Duration::ZERO,
            };
            match self.consumer.poll(wait)? {
                Err(error) => return Some(error),
                Ok(message) => {
                    let entry = Entry::from_message(&message);
                    self.unstored.add(entry.part, log_entry(entry));
                }
            }
        }
        None
    }

    /// Stores the next records of each partition in a transaction of its own, many at once.
    fn store(&mut self) {
        let (next, positions) = (self.unstored.take(), self.of.positions.borrow().clone());
        let stores = next.iter().filter_map(|(part, entries)| {
            let (from, to) = (*positions.get(part)?, entries.last()?.offset + 1);
            Some(self.store_one(*part, from, to, entries))
        });
        let stores = stream::iter(stores).buffer_unordered(STORED_AT_ONCE);
        let results: Vec<_> = self.of.runtime.block_on(stores.collect());
        let idle = results.is_empty();
        for (part, to, result) in results {
            match result {
                Ok(_) => {
                    self.failures = 0;
                    self.of.mysql.ready();
                    // Unless another partition's failure made us forget all of them.
                    if self.at_position {
                        self.of.positions.send_modify(|positions| {
                            positions.insert(part, to);
                        });
                    }
                }
                Err(error) => self.not_stored(&error),
            }
        }
        if idle && self.at_position && self.checked_at.elapsed() >= EVERY {
            self.check_positions();
        }
        if self.at_position && self.committed_at.elapsed() >= EVERY {
            self.commit();
        }
    }

    async fn store_one(
        &self,
        part: u32,
        from: Offset,
        to: Offset,
        entries: &[LogEntry],
    ) -> (u32, Offset, Result<Stored, StoreError>) {
        let begun = Instant::now();
        let result = self.of.ledger.store(part, from, to, entries).await;
        if let Ok(stored) = &result {
            self.of.metrics.stored(*stored, begun.elapsed().as_secs_f64());
        }
        (part, to, result)
    }

    fn not_stored(&mut self, error: &StoreError) {
        match error {
            StoreError::PositionMoved { .. } => {
                tracing::info!(%error, "somebody else stored, or an answer of MySQL was lost");
                self.forget_positions();
                self.again_at = Instant::now();
            }
            StoreError::Ledger(error) => self.ledger_is_away("storing orders", error),
        }
    }

    /// MySQL may have lost its tail in a failover. Then it stands before us, and what it lost must be stored again.
    fn check_positions(&mut self) {
        self.checked_at = Instant::now();
        match self.of.runtime.block_on(self.of.ledger.positions()) {
            Ok(found) => {
                self.failures = 0;
                self.of.mysql.ready();
                let found: Positions = found.into_iter().collect();
                let differs = self
                    .of
                    .positions
                    .borrow()
                    .iter()
                    .any(|(part, at)| found.get(part) != Some(at));
                if differs {
                    tracing::warn!("MySQL does not stand where it was left: reading on from where it is");
                    self.forget_positions();
                    self.again_at = Instant::now();
                }
            }
            Err(error) => self.ledger_is_away("reading positions", &error),
        }
    }

    /// Asks MySQL where to read from, and begins there.
    fn take_positions(&mut self) -> anyhow::Result<()> {
        let positions = match self.of.runtime.block_on(self.read_positions()) {
            Ok(positions) => positions,
            Err(error) => {
                self.ledger_is_away("reading positions", &error);
                return Ok(());
            }
        };
        self.of.mysql.ready();
        let mut list = TopicPartitionList::new();
        for (part, at) in &positions {
            list.add_partition_offset(&self.of.log.topic, *part as i32, At::Offset(*at))
                .context("a position")?;
        }
        self.consumer.assign(&list).context("assigning partitions")?;
        tracing::info!(?positions, "reading on");
        self.of.positions.send_replace(positions);
        self.at_position = true;
        self.checked_at = Instant::now();
        self.of.reading.ready();
        Ok(())
    }

    async fn read_positions(&self) -> Result<Positions, LedgerError> {
        let mut positions = Positions::new();
        for part in &self.assigned.parts {
            positions.insert(*part, self.of.ledger.ensure_position(*part).await?);
        }
        Ok(positions)
    }

    /// Stops reading, until [`take_positions`](Self::take_positions).
    fn forget_positions(&mut self) {
        if self.at_position {
            self.at_position = false;
            self.of.positions.send_replace(Positions::new());
            // It fails when the group is about to take the partitions away: then they are not fetched any longer either.
            if let Err(error) = self.consumer.assign(&TopicPartitionList::new()) {
                tracing::debug!(%error, "the partitions were not let go of");
            }
        }
    }

    fn ledger_is_away(&mut self, what: &str, error: &LedgerError) {
        if self.failures == 0 {
            tracing::warn!(what, %error, "MySQL failed, trying again until it works");
        }
        self.of.mysql.not_ready(format!("{what}: {error}"));
        self.back_off();
    }

    fn trouble(&mut self, error: KafkaError) -> anyhow::Result<()> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal) => {
                let fatal = self.consumer.client().fatal_error();
                anyhow::bail!("Kafka's client can't go on: {fatal:?}");
            }
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                let positions = self.of.positions.borrow().clone();
                let why = format!(
                    "the log does not hold a position that MySQL has, {positions:?}: retention removed it, or the log \
                     was replaced"
                );
                if self.failures == 0 {
                    tracing::error!(%error, "{why}");
                }
                self.of.reading.not_ready(why);
                self.back_off();
            }
            // Connections come and go; the client makes them again, and the monitor says when Kafka is away.
            _ => tracing::debug!(%error, "Kafka's client reports"),
        }
        Ok(())
    }

    fn back_off(&mut self) {
        self.forget_positions();
        self.again_at = Instant::now() + retry::full_jitter(self.failures);
        self.failures = self.failures.saturating_add(1);
    }

    /// Tells the group where we are. Only people look at it, through lag tools.
    fn commit(&mut self) {
        self.committed_at = Instant::now();
        let mut list = TopicPartitionList::new();
        for (part, at) in self.of.positions.borrow().iter() {
            if list
                .add_partition_offset(&self.of.log.topic, *part as i32, At::Offset(*at))
                .is_err()
            {
                return;
            }
        }
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, CommitMode::Async)
        {
            tracing::debug!(%error, "the group was not told the positions");
        }
    }
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
