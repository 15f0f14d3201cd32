//! Tests of append, read and topic with a real Kafka.
mod common;

use common::*;
use seckill_order_log::{Ensured, LogError, OrderLog, ensure_topic};
use seckill_protocol::{Offset, Record};

async fn read(log: &OrderLog, partition: u32, from: Offset, to: Offset) -> Vec<(Offset, Record)> {
    let mut entries = Vec::new();
    log.read(partition, from, to, |entry| {
        assert_eq!(entry.partition, partition);
        assert!(entry.timestamp_ms > 0);
        entries.push((entry.offset, entry.record.expect("a record")));
    })
    .await
    .expect("reads");
    entries
}

#[tokio::test]
async fn appended_records_are_read_in_order() {
    let log = new_log(2).await;
    let sale = sale();
    let mut expected = vec![(log.append(1, &barrier(sale)).await.expect("appends"), barrier(sale))];
    for i in 0..100 {
        let record = batch(sale, 0, 1 + i * 3, 3);
        expected.push((log.append(1, &record).await.expect("appends"), record));
    }
    let offsets: Vec<Offset> = expected.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(offsets, (0..101).collect::<Vec<_>>());
    assert_eq!(log.offsets(1).await.expect("answers").start, 0);
    assert_eq!(log.end_offset(1).await.expect("answers"), 101);
    assert_eq!(log.end_offset(0).await.expect("answers"), 0);
    assert_eq!(read(&log, 1, 0, 101).await, expected);
    assert_eq!(read(&log, 1, 40, 43).await, expected[40..43]);
    assert_eq!(read(&log, 1, 7, 7).await, []);
    assert_eq!(read(&log, 0, 0, 0).await, []);
}

#[tokio::test]
async fn append_now_is_complete_after_a_flush() {
    let log = new_log(1).await;
    let sale = sale();
    for i in 0..500 {
        log.append_now(0, &batch(sale, 0, 1 + i, 1)).expect("queues");
    }
    log.flush(std::time::Duration::from_secs(10)).await.expect("flushes");
    assert_eq!((log.in_flight(), log.failed_deliveries()), (0, 0));
    assert_eq!(read(&log, 0, 0, 500).await.len(), 500);
}

#[tokio::test]
async fn undecodable_bytes_are_returned_as_errors() {
    let log = new_log(1).await;
    log.append(0, &barrier(sale())).await.expect("appends");
    foreign(&log, b"hello").await;
    let mut seen = Vec::new();
    log.read(0, 0, 2, |entry| seen.push((entry.record.is_ok(), entry.payload)))
        .await
        .expect("reads");
    assert!(seen[0].0 && !seen[1].0);
    assert_eq!(seen[1].1, b"hello");
}

#[tokio::test]
async fn an_offset_out_of_range_is_an_error() {
    let log = new_log(1).await;
    log.append(0, &barrier(sale())).await.expect("appends");
    match log.read(0, 5, 9, |_| panic!("nothing is there")).await {
        Err(LogError::OutOfRange {
            partition: 0,
            offset: 5,
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_missing_record_is_an_error() {
    let log = new_log(1).await;
    log.append(0, &barrier(sale())).await.expect("appends");
    let mut count = 0;
    match log.read(0, 0, 9, |_| count += 1).await {
        Err(LogError::Stalled { offset: 1, to: 9, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(count, 1);
}

#[tokio::test]
async fn a_missing_topic_is_an_error_and_not_created() {
    let config = config(&new_topic_name());
    for _ in 0..2 {
        let error = OrderLog::connect(config.clone()).await.err().expect("no such topic");
        assert!(matches!(error, LogError::NoTopic(_)), "{error}");
        assert!(error.to_string().contains(&config.topic) && error.to_string().contains("--create-topic"));
    }
}

#[tokio::test]
async fn a_missing_partition_is_an_error() {
    let log = new_log(2).await;
    let error = log.append(2, &barrier(sale())).await.expect_err("there are two");
    assert!(
        matches!(
            error,
            LogError::NoPartition {
                partition: 2,
                partitions: 2,
                ..
            }
        ),
        "{error}"
    );
    assert!(log.append_now(2, &barrier(sale())).is_err());
    assert!(log.end_offset(2).await.is_err());
    assert!(log.read(2, 0, 1, |_| {}).await.is_err());
}

#[tokio::test]
async fn an_unreachable_broker_is_an_error() {
    let mut config = config("orders");
    config.brokers = "127.0.0.1:1".into();
    let error = OrderLog::connect(config).await.err().expect("no broker there");
    assert!(matches!(error, LogError::NoConnection { .. }), "{error}");
}

#[tokio::test]
async fn an_invalid_property_is_named() {
    let mut config = config("orders");
    config.properties = vec![("securty.protocol".into(), "ssl".into())];
    let error = OrderLog::connect(config)
        .await
        .err()
        .expect("no such property")
        .to_string();
    assert!(error.contains("securty.protocol"), "{error}");
}

#[tokio::test]
async fn the_topic_is_created_once_as_the_log_needs_it() {
    let config = config(&new_topic_name());
    assert_eq!(ensure_topic(&config, 3, 1, 1).await.expect("creates"), Ensured::Created);
    assert_eq!(ensure_topic(&config, 3, 1, 1).await.expect("finds"), Ensured::Existed);
    assert_eq!(ensure_topic(&config, 2, 1, 1).await.expect("finds"), Ensured::Existed);
    let log = OrderLog::connect(config.clone()).await.expect("connects");
    let facts = log.topic_facts().await.expect("answers");
    assert_eq!((facts.partitions, facts.replication, facts.min_insync), (3, 1, Some(1)));
    assert_eq!(facts.cleanup_policy.as_deref(), Some("delete"));
    assert_eq!((facts.retention_ms, facts.retention_bytes), (Some(-1), Some(-1)));
    assert_eq!(facts.unclean_election, Some(false));
    let error = ensure_topic(&config, 4, 1, 1)
        .await
        .expect_err("it has three")
        .to_string();
    assert!(
        error.contains("3 partitions") && error.contains("add partitions"),
        "{error}"
    );
}

#[tokio::test]
async fn impossible_topics_are_refused_with_the_reason() {
    let config = config(&new_topic_name());
    for (partitions, replication, min_insync) in [(0, 1, 1), (1, 1, 2), (1, 0, 0)] {
        let error = ensure_topic(&config, partitions, replication, min_insync).await;
        assert!(matches!(error, Err(LogError::Topic { .. })), "{error:?}");
    }
    let error = ensure_topic(&config, 1, 1_000, 1).await.expect_err("too few brokers");
    assert!(error.to_string().contains("fewer brokers"), "{error}");
}
