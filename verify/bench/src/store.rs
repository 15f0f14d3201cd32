//! Orders from the log into MySQL by one worker, beside the same rows written by plain INSERTs.
use std::time::Instant;

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use seckill_protocol::index::Request;
use seckill_protocol::{Batch, Buyer, Record};
use sqlx::{AssertSqlSafe, Executor as _, MySql, QueryBuilder};
use uuid::Uuid;

use crate::harness::{ActiveSale, Harness, new_request, open};
use crate::report::{Goal, Row};

const ORDERS: usize = 160_000;
/// Under load, seckill-api writes about as many.
const ORDERS_PER_RECORD: usize = 64;

/// How the plain INSERTs are sent.
#[derive(Debug, Clone, Copy)]
struct ByHand {
    rows: usize,
    connections: usize,
}

pub async fn store(harness: &Harness, rounds: u32) -> Result<Vec<Row>> {
    let _worker = harness.worker().await?;
    let mut mysql = harness.mysql().await?;
    mysql.execute("CREATE TABLE by_hand LIKE orders").await?;
    let settings: (u64, u64, i64) = sqlx::query_as("SELECT @@innodb_flush_log_at_trx_commit, @@sync_binlog, @@log_bin")
        .fetch_one(&mut mysql)
        .await?;
    let mut best = (
        0.0,
        ByHand {
            rows: 1,
            connections: 1,
        },
    );
    for rows in [64, 256, 1024] {
        for connections in [1, 2, 4] {
            let by_hand = ByHand { rows, connections };
            let rate = limit(harness, by_hand, ORDERS / 4).await?;
            if rate > best.0 {
                best = (rate, by_hand);
            }
        }
    }
    let (_, by_hand) = best;
    let what = format!(
        "orders from the log into MySQL (limit: {} rows, {} connections)",
        by_hand.rows, by_hand.connections
    );
    let (mut ours, mut limits) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        limits.push(limit(harness, by_hand, ORDERS).await?);
        match from_the_log(harness).await? {
            Ok(rate) => ours.push(rate),
            Err(why) => return Ok(vec![Row::broken(what, why)]),
        }
    }
    let (flush, sync_binlog, binlog) = settings;
    let durability =
        format!("{what}; innodb_flush_log_at_trx_commit={flush}, sync_binlog={sync_binlog}, log_bin={binlog}");
    Ok(vec![
        Row::new(durability, "/s", ours.clone())
            .beside(limits)
            .goal(Goal::RatioAtLeast(0.8)),
        Row::new("the same", "/s", ours).goal(Goal::AtLeast(50_000.0)),
    ])
}

/// Orders per second. Batches in all partitions are prepared, then appended as fast as the log accepts them.
async fn from_the_log(harness: &Harness) -> Result<Result<f64, String>> {
    let parts = harness.log.partitions();
    let sales: Vec<ActiveSale> =
        try_join_all((0..parts).map(|partition| harness.offer_on(partition, ORDERS as u64, open()))).await?;
    let (mut records, mut promised) = (Vec::new(), vec![0; sales.len()]);
    for batch in 0..ORDERS / ORDERS_PER_RECORD {
        let of = batch % sales.len();
        records.push((
            sales[of].sale.partition,
            Record::Batch(reserve_batch(harness, &sales[of]).await?),
        ));
        promised[of] += ORDERS_PER_RECORD as u64;
    }
    for partition in 0..parts {
        harness.wait_until_stored(partition).await?;
    }
    let started = Instant::now();
    stream::iter(&records)
        .map(|(partition, record)| harness.log.append(*partition, record))
        .buffer_unordered(1_000)
        .try_collect::<Vec<_>>()
        .await?;
    for partition in 0..parts {
        harness.wait_until_stored(partition).await?;
    }
    let took = started.elapsed();
    for (sale, promised) in sales.iter().zip(promised) {
        let checked = harness.check(sale, promised).await;
        harness.stock.drop_sale(sale.sale.id).await?;
        if let Err(why) = checked {
            return Ok(Err(why));
        }
    }
    Ok(Ok(ORDERS as f64 / took.as_secs_f64()))
}

async fn reserve_batch(harness: &Harness, sale: &ActiveSale) -> Result<Batch> {
    let requests: Vec<Request> = (0..ORDERS_PER_RECORD).map(|_| new_request()).collect();
    let decided = harness.stock.purchase(sale.sale.id, sale.epoch, &requests).await?;
    let (_, batch) = decided.ok().context("the index is not in force")?;
    let batch = batch.context("the sale is sold out")?;
    // Otherwise the relay of the worker would publish the batch from the outbox.
    harness
        .stock
        .trim_outbox(sale.sale.id, sale.epoch, batch.last())
        .await?;
    Ok(batch)
}

/// Rows per second of plain INSERTs with the same columns, one commit for each statement.
async fn limit(harness: &Harness, by_hand: ByHand, orders: usize) -> Result<f64> {
    let mut mysql = harness.mysql().await?;
    mysql
        .execute(AssertSqlSafe("TRUNCATE TABLE by_hand".to_owned()))
        .await?;
    let buyers: Vec<String> = (0..orders)
        .map(|_| Buyer::anonymous(&Uuid::new_v4().to_string()).to_string())
        .collect();
    let mut connections = try_join_all((0..by_hand.connections).map(|_| harness.mysql())).await?;
    let share = orders / by_hand.connections;
    let started = Instant::now();
    let writing = connections.iter_mut().zip(buyers.chunks(share)).enumerate();
    try_join_all(writing.map(async |(n, (connection, buyers))| {
        for (at, rows) in buyers.chunks(by_hand.rows).enumerate() {
            let mut insert = QueryBuilder::<MySql>::new(
                "INSERT INTO by_hand (sale, epoch, seq, buyer, tier, key_hash, quantity, price, status, created_at) ",
            );
            insert.push_values(rows.iter().enumerate(), |mut row, (i, buyer)| {
                let seq = (at * by_hand.rows + i) as u64;
                row.push_bind(n as u32).push_bind(1i64).push_bind(seq).push_bind(buyer);
                row.push_bind(0u8)
                    .push_bind(rand::random::<u64>())
                    .push_bind(1u32)
                    .push_bind("499.00");
                row.push_bind("placed").push_bind("2026-11-28 10:00:00.000");
            });
            insert.build().execute(&mut *connection).await?;
        }
        anyhow::Ok(())
    }))
    .await?;
    Ok(orders as f64 / started.elapsed().as_secs_f64())
}
