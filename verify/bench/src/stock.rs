//! Purchases in Redis: through the batcher, beside the same script called by redis-benchmark.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use seckill_protocol::Batch;
use seckill_protocol::index::{Decision, Request};
use seckill_stock::{BatchSink, Batcher};
use tokio::process::Command;
use tokio::sync::watch;

use crate::harness::{ActiveSale, Harness, new_request, open};
use crate::report::{Goal, Row};

const PURCHASES: usize = 100_000;
const CALLERS: usize = 512;

/// Drops the batches: nobody publishes them.
struct NoSink;

impl BatchSink for NoSink {
    fn append(&self, _batch: Batch) {}
}

/// How redis-benchmark calls the script.
#[derive(Debug, Clone, Copy)]
struct Calls {
    batch: usize,
    clients: usize,
}

pub async fn redis(harness: &Harness, rounds: u32) -> Result<Vec<Row>> {
    let program = std::env::var("SECKILL_REDIS_BENCHMARK").context("SECKILL_REDIS_BENCHMARK is not set")?;
    let mut best = (0.0, Calls { batch: 1, clients: 1 });
    for batch in [32, 64, Batch::MAX_ORDERS] {
        for clients in [1, 2, 4] {
            let calls = Calls { batch, clients };
            let rate = limit(harness, &program, calls, PURCHASES / 3).await?;
            if rate > best.0 {
                best = (rate, calls);
            }
        }
    }
    let (_, calls) = best;
    let what = format!(
        "purchases in Redis, {CALLERS} callers (limit: {} at once, {} clients)",
        calls.batch, calls.clients
    );
    let (mut ours, mut limits) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        limits.push(limit(harness, &program, calls, PURCHASES).await?);
        match through_the_batcher(harness).await? {
            Ok(rate) => ours.push(rate),
            Err(why) => return Ok(vec![Row::broken(what, why)]),
        }
    }
    Ok(vec![
        Row::new(what, "/s", ours).beside(limits).goal(Goal::RatioAtLeast(0.8)),
    ])
}

async fn through_the_batcher(harness: &Harness) -> Result<Result<f64, String>> {
    let sale = harness.offer(PURCHASES as u64, open()).await?;
    let (_epoch, epoch) = watch::channel(Some(sale.epoch));
    let batcher = Batcher::spawn(harness.stock.clone(), sale.sale.id, epoch, NoSink, 2 * CALLERS);
    let sold = Arc::new(AtomicU64::new(0));
    // The requests are made before the measurement starts.
    let mut requests: Vec<Request> = (0..PURCHASES).map(|_| new_request()).collect();
    let started = Instant::now();
    let callers = (0..CALLERS).map(|caller| {
        let (batcher, sold) = (batcher.clone(), sold.clone());
        let requests = requests.split_off(requests.len() - requests.len() / (CALLERS - caller));
        tokio::spawn(async move {
            for request in requests {
                if let Ok((_, Decision::Reserved { .. })) = batcher.purchase(request).await {
                    sold.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    });
    join_all(callers).await;
    let took = started.elapsed();
    let index_left = left_of(harness, &sale).await?;
    harness.stock.drop_sale(sale.sale.id).await?;
    let sold = sold.load(Ordering::Relaxed);
    Ok(match (sold, index_left) {
        (sold, 0) if sold == PURCHASES as u64 => Ok(PURCHASES as f64 / took.as_secs_f64()),
        (sold, left) => Err(format!("{sold} of {PURCHASES} sold, {left} left")),
    })
}

/// Purchases per second of redis-benchmark. Each call has as many buyers as fit, all of them new.
async fn limit(harness: &Harness, program: &str, calls: Calls, purchases: usize) -> Result<f64> {
    let sale = harness.offer(10_000_000, open()).await?;
    // The first call loads the script.
    let loaded = harness
        .stock
        .purchase(sale.sale.id, sale.epoch, &[new_request()])
        .await?;
    ensure!(loaded.is_ok(), "the index is not in force");
    let requests = purchases / calls.batch;
    let output = benchmark_command(harness, program, calls, requests, &sale)?
        .output()
        .await
        .with_context(|| format!("failed to run {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = calls_per_second(&text);
    let rate = rate.with_context(|| format!("{text}{}", String::from_utf8_lossy(&output.stderr)))?;
    let sold = 10_000_000 - left_of(harness, &sale).await?;
    harness.stock.drop_sale(sale.sale.id).await?;
    // A few random numbers may have come twice.
    ensure!(
        sold * 100 >= (requests * calls.batch * 99) as u64,
        "redis-benchmark sold {sold} of {}",
        requests * calls.batch
    );
    Ok(rate * calls.batch as f64)
}

/// redis-benchmark, calling the purchase script.
fn benchmark_command(
    harness: &Harness,
    program: &str,
    calls: Calls,
    requests: usize,
    sale: &ActiveSale,
) -> Result<Command> {
    let script = redis::Script::new(include_str!("../../../libs/stock/src/lua/purchase.lua"));
    let (id, epoch) = (sale.sale.id, sale.epoch);
    let url = url::Url::parse(&harness.redis_url)?;
    let (host, port) = (url.host_str().unwrap_or("127.0.0.1"), url.port().unwrap_or(6379));
    let mut command = Command::new(program);
    if let Some(password) = url.password() {
        command.args(["-a", password]);
    }
    command
        .args(["-h", host, "-p", &port.to_string(), "--csv", "-r", "2000000000"])
        .args(["-n", &requests.to_string(), "-c", &calls.clients.to_string()])
        .args(["EVALSHA", script.get_hash(), "3"])
        .args([
            format!("{{{id}}}:m"),
            format!("{{{id}}}:u:{epoch}"),
            format!("{{{id}}}:l:{epoch}"),
        ])
        .arg(epoch.to_string());
    for n in 0..calls.batch {
        // A buyer as long as an anonymous one, one unit, tier 0, and a key.
        command.args([
            format!("a:00000000-0000-0000-{n:04}-__rand_int__"),
            "1".into(),
            "0".into(),
            "__rand_int__".into(),
        ]);
    }
    Ok(command)
}

/// The last line of the CSV: "test","rps","avg","min","p50","p95","p99","max".
fn calls_per_second(csv: &str) -> Option<f64> {
    let fields: Vec<&str> = csv.lines().last()?.rsplit("\",\"").collect();
    fields.get(6)?.parse().ok()
}

async fn left_of(harness: &Harness, sale: &ActiveSale) -> Result<u64> {
    let probe = harness.stock.probe(sale.sale.id).await?;
    Ok(probe.valid().context("the index is not in force")?.left)
}
