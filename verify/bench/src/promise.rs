//! The cost of the read-back: from the acknowledgement of a record to its read-back.
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use seckill_order_log::Tail;
use seckill_protocol::{Record, RecordVerdict};
use tokio_util::sync::CancellationToken;

use crate::harness::{ActiveSale, Harness, new_request, open};
use crate::report::{Goal, Row};

const RECORDS: usize = 2_000;

/// Microseconds, in one round.
struct Latencies {
    acknowledgement: Histogram<u64>,
    /// From the acknowledgement to the read-back.
    read_back: Histogram<u64>,
}

pub async fn promise(harness: &Harness, rounds: u32) -> Result<Vec<Row>> {
    let start = harness.ledger.reader_start(harness.log.partitions()).await?;
    let shutdown = CancellationToken::new();
    let tail = Tail::spawn(harness.config.clone(), start, shutdown.clone())?;
    tail.caught_up().await;
    let sale = harness.offer(1_000_000, open()).await?;
    let (mut acknowledged, mut p50, mut p99) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut latencies = Latencies {
            acknowledgement: Histogram::new(3)?,
            read_back: Histogram::new(3)?,
        };
        for _ in 0..RECORDS {
            let verdict = append_and_read_back(harness, &tail, &sale, &mut latencies).await?;
            if verdict != RecordVerdict::Accepted {
                return Ok(vec![Row::broken("read-back", format!("{verdict:?}"))]);
            }
        }
        let ms = |histogram: &Histogram<u64>, q| histogram.value_at_quantile(q) as f64 / 1000.0;
        acknowledged.push(ms(&latencies.acknowledgement, 0.5));
        p50.push(ms(&latencies.read_back, 0.5));
        p99.push(ms(&latencies.read_back, 0.99));
    }
    shutdown.cancel();
    Ok(vec![
        Row::new("a record acknowledged by Kafka, p50", "ms", acknowledged),
        Row::new("from the acknowledgement to the read-back, p50", "ms", p50).goal(Goal::AtMost(2.0)),
        Row::new("from the acknowledgement to the read-back, p99", "ms", p99),
    ])
}

async fn append_and_read_back(
    harness: &Harness,
    tail: &Tail,
    sale: &ActiveSale,
    latencies: &mut Latencies,
) -> Result<RecordVerdict> {
    let request = new_request();
    let decided = harness.stock.purchase(sale.sale.id, sale.epoch, &[request]).await?;
    let (_, batch) = decided.ok().context("the index is not in force")?;
    let batch = batch.context("the sale is sold out")?;
    let order = batch.iter().next().context("the batch is empty")?.0;
    let record = Record::Batch(batch);
    let partition = sale.sale.partition;
    let started = Instant::now();
    let read_back = async {
        let verdict = tail.read_back(partition, order).await;
        (verdict, started.elapsed())
    };
    let append = async {
        harness.log.append(partition, &record).await?;
        anyhow::Ok(started.elapsed())
    };
    let ((verdict, read), appended) = tokio::join!(read_back, append);
    let appended = appended?;
    latencies.acknowledgement.saturating_record(micros(appended));
    latencies
        .read_back
        .saturating_record(micros(read.saturating_sub(appended)));
    Ok(verdict)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
