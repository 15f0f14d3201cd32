//! Tests of the read-back with a real Kafka.
mod common;

use std::time::Duration;

use common::*;
use futures::FutureExt;
use futures::future::join_all;
use seckill_order_log::{LogError, OrderLog, ensure_topic};
use seckill_protocol::{Acceptance, Epoch, Offset, Record, RecordVerdict, SaleCut};

async fn append(log: &OrderLog, record: &Record) -> Offset {
    log.append(0, record).await.expect("appends")
}

#[tokio::test]
async fn read_back_works_before_and_after_the_record() {
    let log = new_log(1).await;
    let tail = tail_of(&log);
    let sale = sale();
    let epoch = append(&log, &barrier(sale)).await;
    let before = tail.read_back(0, order(sale, epoch, 2));
    append(&log, &batch(sale, epoch, 1, 3)).await;
    assert_eq!(soon(before).await, RecordVerdict::Accepted);
    // Known by now, so at once.
    for seq in 1..=3 {
        assert_eq!(
            tail.read_back(0, order(sale, epoch, seq)).now_or_never(),
            Some(RecordVerdict::Accepted)
        );
    }
    assert_eq!(tail.read_back(0, order(sale, epoch, 4)).now_or_never(), None);
}

#[tokio::test]
async fn a_batch_under_an_old_epoch_is_void_after_a_barrier() {
    let log = new_log(1).await;
    let tail = tail_of(&log);
    let sale = sale();
    let old = append(&log, &barrier(sale)).await;
    let waiting = tail.read_back(0, order(sale, old, 1));
    let new = append(&log, &barrier(sale)).await;
    append(&log, &batch(sale, old, 1, 1)).await;
    append(&log, &batch(sale, new, 1, 1)).await;
    assert_eq!(soon(waiting).await, RecordVerdict::Void);
    assert_eq!(
        soon(tail.read_back(0, order(sale, new, 1))).await,
        RecordVerdict::Accepted
    );
    assert_eq!(soon(tail.read_back(0, order(sale, old, 1))).await, RecordVerdict::Void);
    assert_eq!(
        tail.cut(0, sale),
        SaleCut {
            current_epoch: Some(new),
            closed: None
        }
    );
    assert_eq!(tail.cut(0, sale).epoch(), Some(Epoch(new)));
}

#[tokio::test]
async fn nothing_counts_after_close() {
    let log = new_log(1).await;
    let tail = tail_of(&log);
    let sale = sale();
    let epoch = append(&log, &barrier(sale)).await;
    let waiting = tail.read_back(0, order(sale, epoch, 1));
    let closed = append(&log, &Record::Close { sale }).await;
    append(&log, &batch(sale, epoch, 1, 1)).await;
    assert_eq!(soon(waiting).await, RecordVerdict::Void);
    soon(tail.caught_up()).await;
    assert_eq!(tail.cut(0, sale).closed, Some(closed));
    assert_eq!(
        soon(tail.read_back(0, order(sale, epoch, 1))).await,
        RecordVerdict::Void
    );
}

#[tokio::test]
async fn duplicates_and_disorder_are_harmless() {
    let log = new_log(1).await;
    let tail = tail_of(&log);
    let sale = sale();
    let epoch = append(&log, &barrier(sale)).await;
    for first in [5, 1, 5, 3, 1, 1] {
        append(&log, &batch(sale, epoch, first, 2)).await;
    }
    for seq in 1..=6 {
        assert_eq!(
            soon(tail.read_back(0, order(sale, epoch, seq))).await,
            RecordVerdict::Accepted
        );
    }
}

#[tokio::test]
async fn a_tail_that_starts_in_the_middle_agrees() {
    let log = new_log(1).await;
    let sale = sale();
    let first = append(&log, &barrier(sale)).await;
    append(&log, &batch(sale, first, 1, 1)).await;
    let second = append(&log, &barrier(sale)).await;
    let middle = append(&log, &batch(sale, first, 2, 1)).await;
    append(&log, &batch(sale, second, 1, 1)).await;
    let cut = SaleCut {
        current_epoch: Some(second),
        closed: None,
    };
    let tail = tail_from(&log, vec![(0, middle, Acceptance::starting_from([(sale, cut)]))]);
    soon(tail.caught_up()).await;
    assert_eq!(tail.cut(0, sale), cut);
    assert_eq!(
        soon(tail.read_back(0, order(sale, second, 1))).await,
        RecordVerdict::Accepted
    );
    assert_eq!(
        soon(tail.read_back(0, order(sale, first, 2))).await,
        RecordVerdict::Void
    );
    assert_eq!(tail.position(0), Some(middle + 2));
}

#[tokio::test]
async fn a_fresh_tail_knows_all_that_was_in_the_log() {
    let log = new_log(3).await;
    let tail = tail_of(&log);
    soon(tail.caught_up()).await;
    let sale = sale();
    for partition in 0..3 {
        for round in 0..10 {
            let epoch = log.append(partition, &barrier(sale)).await.expect("appends");
            tail.confirm_fresh(partition, Duration::ZERO).await.expect("is fresh");
            assert_eq!(
                tail.cut(partition, sale).current_epoch,
                Some(epoch),
                "{partition} {round}"
            );
        }
        assert_eq!(tail.lag(partition), Some(0));
    }
    assert!(matches!(
        tail.confirm_fresh(3, Duration::ZERO).await,
        Err(LogError::NoPartition { partition: 3, .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_freshness_checks_share_one_request() {
    let log = new_log(1).await;
    let tail = tail_of(&log);
    append(&log, &barrier(sale())).await;
    let asking = (0..5_000).map(|_| {
        let tail = tail.clone();
        tokio::spawn(async move { tail.confirm_fresh(0, Duration::from_millis(100)).await })
    });
    for answer in soon(join_all(asking)).await {
        answer.expect("does not panic").expect("is fresh");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_waiters_are_all_answered() {
    const CALLERS: u64 = 10_000;
    let log = new_log(1).await;
    let tail = tail_of(&log);
    let sale = sale();
    let epoch = append(&log, &barrier(sale)).await;
    let waiting: Vec<_> = (1..=CALLERS)
        .map(|seq| tokio::spawn(tail.read_back(0, order(sale, epoch, seq))))
        .collect();
    for first in (1..=CALLERS).step_by(100) {
        log.append_now(0, &batch(sale, epoch, first, 100)).expect("queues");
    }
    for verdict in soon(join_all(waiting)).await {
        assert_eq!(verdict.expect("does not panic"), RecordVerdict::Accepted);
    }
    assert_eq!(tail.waiting(), 0);
}

#[tokio::test]
async fn a_dropped_read_back_leaves_nothing_behind() {
    let log = new_log(1).await;
    let tail = tail_of(&log);
    let sale = sale();
    let epoch = append(&log, &barrier(sale)).await;
    let waiting: Vec<_> = (1..=100)
        .map(|seq| tail.read_back(0, order(sale, epoch, seq)))
        .collect();
    assert_eq!(tail.waiting(), 100);
    drop(waiting);
    assert_eq!(tail.waiting(), 0);
}

#[tokio::test]
async fn undecodable_bytes_are_skipped_and_counted() {
    let log = new_log(1).await;
    let tail = tail_of(&log);
    let sale = sale();
    let epoch = append(&log, &barrier(sale)).await;
    foreign(&log, b"{}").await;
    append(&log, &batch(sale, epoch, 1, 1)).await;
    assert_eq!(
        soon(tail.read_back(0, order(sale, epoch, 1))).await,
        RecordVerdict::Accepted
    );
    assert_eq!(tail.undecodable(), 1);
}

#[tokio::test]
async fn a_position_out_of_range_stops_the_tail() {
    let log = new_log(2).await;
    append(&log, &barrier(sale())).await;
    let tail = tail_from(
        &log,
        vec![(0, 0, Acceptance::default()), (1, 77, Acceptance::default())],
    );
    let failure = soon(tail.failed()).await;
    assert!(
        matches!(
            failure,
            LogError::OutOfRange {
                partition: 1,
                offset: 77,
                ..
            }
        ),
        "{failure}"
    );
}

/// The marker of a transaction is an offset without a record. A reader can't tell it from a record that a broker has lost.
#[tokio::test]
async fn no_reader_passes_an_offset_without_a_record() {
    let log = new_log(2).await;
    let tail = tail_of(&log);
    let sale = sale();
    let epoch = append(&log, &barrier(sale)).await;
    foreign_transaction(&log, b"{}").await;
    let marker = epoch + 2;
    while log.end_offset(0).await.expect("answers") <= marker {
        tokio::time::sleep(Duration::from_millis(20)).await; // the marker arrives after the commit
    }
    // At the end of the partition, and before another record.
    let gap_before = async |found: Offset| {
        let is_found = |gap: &LogError| matches!(gap, LogError::Gap { partition: 0, next, found: at } if (*next, *at) == (marker, found));
        soon(async {
            while !tail.gaps().iter().any(is_found) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let read = log.read(0, 0, log.end_offset(0).await.expect("answers"), |_| {}).await;
        assert!(read.as_ref().is_err_and(is_found), "{read:?}");
    };
    gap_before(marker + 1).await;
    let next_epoch = append(&log, &barrier(sale)).await;
    tail.confirm_fresh(0, Duration::ZERO).await.expect_err("not fresh");
    assert_eq!(tail.position(0), Some(marker));
    assert_eq!(tail.cut(0, sale).current_epoch, Some(epoch));
    // The other partition goes on, and so does a reader that starts behind the gap.
    let other = log.append(1, &barrier(sale)).await.expect("appends");
    tail.confirm_fresh(1, Duration::ZERO).await.expect("is fresh");
    assert_eq!(tail.cut(1, sale).current_epoch, Some(other));
    let behind = tail_from(&log, vec![(0, next_epoch, Acceptance::default())]);
    soon(behind.caught_up()).await;
    assert_eq!(
        (behind.cut(0, sale).current_epoch, behind.gaps().len()),
        (Some(next_epoch), 0)
    );
}

#[tokio::test]
async fn a_partition_that_is_added_is_followed() {
    let log = new_log(1).await;
    let tail = tail_of(&log);
    append(&log, &barrier(sale())).await;
    add_partitions(&log, 2).await;
    soon(async {
        while log.refresh_partitions().await.expect("answers") < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let (before, sale) = (tail.read_back(1, order(sale(), 0, 1)), sale());
    assert_eq!((log.partitions(), tail.partitions()), (2, 1));
    tail.follow(vec![(1, 0, Acceptance::default())]);
    let epoch = soon(async {
        loop {
            // The brokers may not know the partition yet.
            if let Ok(epoch) = log.append(1, &barrier(sale)).await {
                return epoch;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    log.append(1, &batch(sale, epoch, 1, 1)).await.expect("appends");
    assert_eq!(
        soon(tail.read_back(1, order(sale, epoch, 1))).await,
        RecordVerdict::Accepted
    );
    assert_eq!(before.now_or_never(), None);
    tail.confirm_fresh(0, Duration::ZERO).await.expect("is fresh");
}

#[tokio::test]
async fn records_compressed_with_zstd_are_read() {
    let mut config = config(&new_topic_name());
    ensure_topic(&config, 1, 1, 1).await.expect("creates a topic");
    config.properties = vec![("compression.codec".into(), "zstd".into())];
    let log = OrderLog::connect(config).await.expect("connects");
    let (tail, sale) = (tail_of(&log), sale());
    let epoch = append(&log, &barrier(sale)).await;
    append(&log, &batch(sale, epoch, 1, 100)).await;
    assert_eq!(
        soon(tail.read_back(0, order(sale, epoch, 100))).await,
        RecordVerdict::Accepted
    );
}
