//! Each test has its own topic on the Kafka of SECKILL_TEST_KAFKA.
#![allow(dead_code)] // each test program uses its part
use std::future::Future;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use seckill_order_log::{LogConfig, OrderLog, Tail, ensure_topic};
use seckill_protocol::{Acceptance, Batch, Buyer, Epoch, KeyHash, Offset, Order, OrderId, Record, SaleId, Seq};
use tokio_util::sync::CancellationToken;

pub fn config(topic: &str) -> LogConfig {
    LogConfig {
        brokers: std::env::var("SECKILL_TEST_KAFKA").expect("SECKILL_TEST_KAFKA; run `cargo xtask test integration`"),
        topic: topic.into(),
        properties: Vec::new(),
    }
}

pub fn new_topic_name() -> String {
    format!("test-order-log-{:016x}", rand::random::<u64>())
}

pub async fn new_log(partitions: u32) -> OrderLog {
    let config = config(&new_topic_name());
    ensure_topic(&config, partitions, 1, 1).await.expect("creates a topic");
    OrderLog::connect(config).await.expect("connects")
}

/// A tail from the beginning of all partitions.
pub fn tail_of(log: &OrderLog) -> Tail {
    let start = (0..log.partitions()).map(|partition| (partition, 0, Acceptance::default()));
    tail_from(log, start.collect())
}

pub fn tail_from(log: &OrderLog, start: Vec<(u32, Offset, Acceptance)>) -> Tail {
    Tail::spawn(log.config().clone(), start, CancellationToken::new()).expect("starts")
}

pub fn sale() -> SaleId {
    SaleId(rand::random())
}

pub fn barrier(sale: SaleId) -> Record {
    Record::Barrier {
        sale,
        nonce: "n".into(),
    }
}

pub fn batch(sale: SaleId, epoch: Offset, first: Seq, count: u64) -> Record {
    let order = |i: u64| Order {
        buyer: Buyer::anonymous(&format!("key {i}")),
        quantity: 1,
        tier: 0,
        key: KeyHash(i),
    };
    Record::Batch(Batch {
        sale,
        epoch: Epoch(epoch),
        first,
        orders: (0..count).map(order).collect(),
    })
}

pub fn order(sale: SaleId, epoch: Offset, seq: Seq) -> OrderId {
    OrderId {
        sale,
        epoch: Epoch(epoch),
        seq,
    }
}

/// Waits for an event that must happen soon.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .expect("nothing happened in 30 s")
}

/// Another program writes into the topic.
pub async fn foreign(log: &OrderLog, payload: &'static [u8]) {
    let config = log.config().clone();
    let writing = move || {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &config.brokers)
            .create()
            .expect("valid");
        let record = BaseRecord::<(), [u8]>::to(&config.topic).partition(0).payload(payload);
        producer.send(record).map_err(|(error, _)| error).expect("queues");
        producer.flush(Duration::from_secs(10)).expect("is written");
    };
    tokio::task::spawn_blocking(writing).await.expect("does not panic");
}

/// Another program writes into the topic in a transaction.
pub async fn foreign_transaction(log: &OrderLog, payload: &'static [u8]) {
    let config = log.config().clone();
    let writing = move || {
        let timeout = Duration::from_secs(20);
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &config.brokers)
            .set("transactional.id", &config.topic)
            .create()
            .expect("valid");
        producer.init_transactions(timeout).expect("is allowed");
        producer.begin_transaction().expect("begins");
        let record = BaseRecord::<(), [u8]>::to(&config.topic).partition(0).payload(payload);
        producer.send(record).map_err(|(error, _)| error).expect("queues");
        producer.commit_transaction(timeout).expect("commits");
    };
    tokio::task::spawn_blocking(writing).await.expect("does not panic");
}

/// A person adds partitions.
pub async fn add_partitions(log: &OrderLog, partitions: usize) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &log.config().brokers)
        .create()
        .expect("valid");
    let more = NewPartitions::new(&log.config().topic, partitions);
    let added = admin.create_partitions([&more], &AdminOptions::new()).await;
    added.expect("answers")[0].as_ref().expect("added");
}
