//! What the promise costs: from a record's acknowledgement to its being read back.
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use seckill_order_log::Tail;
use seckill_protocol::index::Request;
use seckill_protocol::{Buyer, KeyHash, Record, RecordVerdict};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::rounds::{Goal, Row};
use crate::site::{Site, open};

const RECORDS: usize = 2_000;

pub async fn promise(site: &Site, rounds: u32) -> Result<Vec<Row>> {
    let start = site.ledger.reader_start(site.log.partitions()).await?;
    let ended = CancellationToken::new();
    let tail = Tail::spawn(site.config.clone(), start, ended.clone())?;
    tail.caught_up().await;
    let sale = site.offer(1_000_000, open()).await?;
    let part = sale.sale.part;
    let (mut acknowledged, mut p50, mut p99) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let histogram = || Histogram::<u64>::new(3);
        let (mut acks, mut later) = (histogram()?, histogram()?);
        for _ in 0..RECORDS {
            let key = Uuid::new_v4().to_string();
            let request = Request {
                buyer: Buyer::anonymous(&key),
                quantity: 1,
                tier: 0,
                key: KeyHash::of(&key),
            };
            let decided = site.stock.purchase(sale.sale.id, sale.epoch, &[request]).await?;
            let (_, batch) = decided.ok().context("the index is in force")?;
            let batch = batch.context("there is stock")?;
            let order = batch.iter().next().context("an order")?.0;
            let record = Record::Batch(batch);
            let begun = Instant::now();
            let read_back = async {
                let verdict = tail.read_back(part, order).await;
                (verdict, begun.elapsed())
            };
            let append = async {
                site.log.append(part, &record).await?;
                anyhow::Ok(begun.elapsed())
            };
            let ((verdict, read), appended) = tokio::join!(read_back, append);
            let appended = appended?;
            if verdict != RecordVerdict::Accepted {
                return Ok(vec![Row::broken("read-back", format!("{verdict:?}"))]);
            }
            acks.saturating_record(micros(appended));
            later.saturating_record(micros(read.saturating_sub(appended)));
        }
        let ms = |histogram: &Histogram<u64>, q| histogram.value_at_quantile(q) as f64 / 1000.0;
        acknowledged.push(ms(&acks, 0.5));
        p50.push(ms(&later, 0.5));
        p99.push(ms(&later, 0.99));
    }
    ended.cancel();
    Ok(vec![
        Row::new("a record acknowledged by Kafka, p50", "ms", acknowledged),
        Row::new("from the acknowledgement to the read-back, p50", "ms", p50).goal(Goal::AtMost(2.0)),
        Row::new("from the acknowledgement to the read-back, p99", "ms", p99),
    ])
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
