//! Purchases in Redis: through the batcher, and the same script as fast as redis-benchmark can call it.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use seckill_protocol::index::{Decision, MAX_HOLDINGS, Request};
use seckill_protocol::{Batch, Buyer, KeyHash};
use seckill_stock::{BatchSink, Batcher};
use tokio::sync::watch;
use uuid::Uuid;

use crate::rounds::{Goal, Row};
use crate::site::{OnSale, Site, open};

const PURCHASES: usize = 100_000;
const CALLERS: usize = 512;

/// Nobody publishes what is sold here.
struct Nowhere;

impl BatchSink for Nowhere {
    fn append(&self, _batch: Batch) {}
}

/// How redis-benchmark calls the script.
#[derive(Debug, Clone, Copy)]
struct Calls {
    batch: usize,
    clients: usize,
}

pub async fn redis(site: &Site, rounds: u32) -> Result<Vec<Row>> {
    let program = std::env::var("SECKILL_REDIS_BENCHMARK").context("SECKILL_REDIS_BENCHMARK is not set")?;
    let mut best = (0.0, Calls { batch: 1, clients: 1 });
    for batch in [32, 64, Batch::MAX_ORDERS] {
        for clients in [1, 2, 4] {
            let calls = Calls { batch, clients };
            let rate = limit(site, &program, calls, PURCHASES / 3).await?;
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
        limits.push(limit(site, &program, calls, PURCHASES).await?);
        match through_the_batcher(site).await? {
            Ok(rate) => ours.push(rate),
            Err(why) => return Ok(vec![Row::broken(what, why)]),
        }
    }
    Ok(vec![
        Row::new(what, "/s", ours).beside(limits).goal(Goal::RatioAtLeast(0.8)),
    ])
}

async fn through_the_batcher(site: &Site) -> Result<Result<f64, String>> {
    let sale = site.offer(PURCHASES as u64, open()).await?;
    let (_epoch, epoch) = watch::channel(Some(sale.epoch));
    let batcher = Batcher::spawn(site.stock.clone(), sale.sale.id, epoch, Nowhere, 2 * CALLERS);
    let sold = Arc::new(AtomicU64::new(0));
    // Who buys is not the batcher's to know, so it is known before.
    let mut buyers: Vec<Request> = (0..PURCHASES).map(|_| new_buyer()).collect();
    let begun = Instant::now();
    let callers = (0..CALLERS).map(|caller| {
        let (batcher, sold) = (batcher.clone(), sold.clone());
        let buyers = buyers.split_off(buyers.len() - buyers.len() / (CALLERS - caller));
        tokio::spawn(async move {
            for request in buyers {
                if let Ok((_, Decision::Reserved { .. })) = batcher.purchase(request).await {
                    sold.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    });
    join_all(callers).await;
    let took = begun.elapsed();
    let index_left = left_of(site, &sale).await?;
    site.stock.drop_sale(sale.sale.id).await?;
    let sold = sold.load(Ordering::Relaxed);
    Ok(match (sold, index_left) {
        (sold, 0) if sold == PURCHASES as u64 => Ok(PURCHASES as f64 / took.as_secs_f64()),
        (sold, left) => Err(format!("{sold} of {PURCHASES} sold, {left} left")),
    })
}

fn new_buyer() -> Request {
    let key = Uuid::new_v4().to_string();
    Request {
        buyer: Buyer::anonymous(&key),
        quantity: 1,
        tier: 0,
        key: KeyHash::of(&key),
    }
}

/// Each call with as many buyers as fit, all of them new.
async fn limit(site: &Site, program: &str, calls: Calls, purchases: usize) -> Result<f64> {
    let sale = site.offer(10_000_000, open()).await?;
    // The script is loaded by whoever calls it first.
    let loaded = site.stock.purchase(sale.sale.id, sale.epoch, &[new_buyer()]).await?;
    ensure!(loaded.is_ok(), "the index is in force");
    let script = redis::Script::new(include_str!("../../../libs/stock/src/lua/purchase.lua"));
    let (id, epoch) = (sale.sale.id, sale.epoch);
    let requests = purchases / calls.batch;
    let url = url::Url::parse(&site.redis_url)?;
    let (host, port) = (url.host_str().unwrap_or("127.0.0.1"), url.port().unwrap_or(6379));
    let mut command = tokio::process::Command::new(program);
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
        .args([epoch.to_string(), MAX_HOLDINGS.to_string()]);
    for n in 0..calls.batch {
        // As long as an anonymous buyer's, and a key.
        command.args([
            format!("a:00000000-0000-0000-{n:04}-__rand_int__"),
            "1".into(),
            "0".into(),
            "__rand_int__".into(),
        ]);
    }
    let output = command.output().await.with_context(|| format!("can't run {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let fields = text
        .lines()
        .last()
        .unwrap_or_default()
        .rsplit("\",\"")
        .collect::<Vec<_>>();
    // "test","rps","avg","min","p50","p95","p99","max"
    let rate = fields.get(6).and_then(|rps| rps.parse::<f64>().ok());
    let rate = rate.with_context(|| format!("{text}{}", String::from_utf8_lossy(&output.stderr)))?;
    let sold = 10_000_000 - left_of(site, &sale).await?;
    site.stock.drop_sale(sale.sale.id).await?;
    // A few numbers may have come twice.
    ensure!(
        sold * 100 >= (requests * calls.batch * 99) as u64,
        "redis-benchmark sold {sold} of {}",
        requests * calls.batch
    );
    Ok(rate * calls.batch as f64)
}

async fn left_of(site: &Site, sale: &OnSale) -> Result<u64> {
    let probe = site.stock.probe(sale.sale.id).await?;
    Ok(probe.valid().context("the index is in force")?.left)
}
