//! How long a sale with a million orders stops selling after Redis is killed: `cargo xtask bench rebuild`.
//!
//! The benchmark kills Redis and restarts it immediately, alternately without persistence, as the documentation
//! recommends, and with an append-only file. For comparison it measures the raw costs of the same data: to read the
//! rows from MySQL, and to write the buyers into Redis.
#[path = "../tests/life/harness.rs"]
#[allow(dead_code, reason = "only the tests use all of it")]
mod harness;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harness::Harness;
use seckill_crds::Phase;
use seckill_protocol::index::{Decision, Request};
use seckill_protocol::{Batch, Buyer, KeyHash, Record};
use serde_json::json;
use sqlx::{Connection, Executor, MySqlConnection};

const ROUNDS: usize = 3;
const PASSWORD: &str = "bench";

fn main() {
    let orders = std::env::var("SECKILL_BENCH_ORDERS").map_or(1_000_000, |n| n.parse().expect("a number of orders"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(bench(orders));
}

async fn bench(orders: u64) {
    let mut redis = Redis::start();
    let harness = Harness::with_redis(redis.url()).await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness
        .apply("million", -1, 3600, json!({"stock": orders + 1000}))
        .await;
    harness.until_phase("million", Phase::Open).await;
    fill(&harness, orders).await;
    let sale = harness.sale("million").await;

    let mut raw = Vec::new();
    // Times until Redis answers and until the sale sells: without and with an append-only file.
    let mut downtimes = [Vec::new(), Vec::new()];
    let mut buyer = 0;
    for round in 0..ROUNDS {
        raw.push(raw_costs(&harness, &redis, sale.id.0).await);
        for (persistent, downtimes) in [false, true].into_iter().zip(&mut downtimes) {
            if persistent {
                // This restart creates the append-only file.
                redis.kill();
                redis.restart(persistent);
                while !sells(&harness, &format!("persisted-{round}")).await {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            redis.kill();
            let killed = Instant::now();
            redis.restart(persistent);
            let answers = loop {
                if harness.stock.probe(sale.id).await.is_ok() {
                    break killed.elapsed();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
            let sells = loop {
                buyer += 1;
                if sells(&harness, &format!("late-{buyer}")).await {
                    break killed.elapsed();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
            let data = if persistent { "with its file" } else { "without data" };
            println!(
                "round {round}: restarted {data}: Redis answers after {answers:.2?}, the sale sells after {sells:.2?}"
            );
            downtimes.push((answers, sells));
        }
    }

    let orders = harness.orders("million").await;
    println!("\n{orders} orders, {ROUNDS} rounds, medians (minimum to maximum):");
    let read = raw.iter().map(|r| r.0).collect();
    let written = raw.iter().map(|r| r.1).collect();
    println!("  raw: read the rows from MySQL                     {}", spread(read));
    println!(
        "  raw: write the buyers into Redis                  {}",
        spread(written)
    );
    for (data, downtimes) in ["without data ", "with its file"].into_iter().zip(downtimes) {
        let answers = downtimes.iter().map(|d| d.0).collect();
        let sells = downtimes.iter().map(|d| d.1).collect();
        println!("  restarted {data}: Redis answers after    {}", spread(answers));
        println!("  restarted {data}: the sale sells after   {}", spread(sells));
    }
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

/// Whether a new buyer can buy a unit under the live epoch of the ledger.
async fn sells(harness: &Harness, buyer: &str) -> bool {
    let sale = harness.sale("million").await;
    let Some(epoch) = sale.live_epoch else { return false };
    let request = request(buyer);
    let Ok(Ok((answers, batch))) = harness.stock.purchase(sale.id, epoch, &[request]).await else {
        return false;
    };
    if let Some(batch) = batch {
        let appended = harness.log.append(sale.partition, &Record::Batch(batch)).await;
        appended.expect("Kafka");
    }
    matches!(answers.as_slice(), [Decision::Reserved { .. }])
}

fn request(buyer: &str) -> Request {
    Request {
        buyer: Buyer::anonymous(buyer),
        quantity: 1,
        tier: 0,
        key: KeyHash::of(buyer),
    }
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    format!(
        "{:.2?} ({:.2?} to {:.2?})",
        times[times.len() / 2],
        times[0],
        times[times.len() - 1]
    )
}

/// Sells one unit each to new buyers, until the ledger has `orders` orders.
async fn fill(harness: &Harness, orders: u64) {
    let sale = harness.sale("million").await;
    let epoch = sale.live_epoch.expect("a live epoch");
    let mut sold = 0;
    while sold < orders {
        let until = orders.min(sold + Batch::MAX_ORDERS as u64);
        let requests: Vec<Request> = (sold..until).map(|n| request(&n.to_string())).collect();
        let decided = harness.stock.purchase(sale.id, epoch, &requests).await.expect("Redis");
        let (_, batch) = decided.expect("not fenced");
        let record = Record::Batch(batch.expect("reserved orders"));
        while harness.log.append_now(sale.partition, &record).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        sold = until;
    }
    harness.log.flush(Duration::from_secs(60)).await.expect("Kafka");
    while harness.sale("million").await.sold < orders {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The times to read all orders from MySQL, and to write as many holdings into Redis.
async fn raw_costs(harness: &Harness, redis: &Redis, sale: u32) -> (Duration, Duration) {
    let mut mysql = MySqlConnection::connect(&harness.database).await.expect("MySQL");
    let started = Instant::now();
    let rows = mysql
        .fetch_all(sqlx::AssertSqlSafe(format!(
            "SELECT epoch, seq, buyer, quantity, key_hash, status FROM orders WHERE sale = {sale}"
        )))
        .await
        .expect("read");
    let read = started.elapsed();

    let client = redis::Client::open(redis.url()).expect("a URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
    let started = Instant::now();
    for (n, chunk) in rows.chunks(10_000).enumerate() {
        let mut pipeline = redis::pipe();
        for part in 0..chunk.len().div_ceil(500) {
            let hset = pipeline.cmd("HSET").arg("raw");
            for i in 0..500.min(chunk.len() - part * 500) {
                let n = n * 10_000 + part * 500 + i;
                hset.arg(format!("a:{n:032x}"))
                    .arg(format!("100000.{n}.1.0123456789abcdef"));
            }
            hset.ignore();
        }
        let () = pipeline.query_async(&mut connection).await.expect("written");
    }
    let written = started.elapsed();
    let () = redis::cmd("UNLINK")
        .arg("raw")
        .query_async(&mut connection)
        .await
        .expect("freed");
    (read, written)
}

/// A Redis server that only this benchmark uses.
struct Redis {
    port: u16,
    folder: PathBuf,
    process: Child,
}

impl Redis {
    fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        let folder = std::env::temp_dir().join(format!("seckill-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        Redis {
            port,
            process: spawn(port, &folder, false),
            folder,
        }
    }

    fn url(&self) -> String {
        format!("redis://:{PASSWORD}@127.0.0.1:{}", self.port)
    }

    fn kill(&mut self) {
        self.process.kill().expect("Redis runs");
        self.process.wait().expect("Redis ends");
    }

    fn restart(&mut self, persistent: bool) {
        self.process = spawn(self.port, &self.folder, persistent);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn spawn(port: u16, folder: &std::path::Path, persistent: bool) -> Child {
    let server = std::env::var("SECKILL_TEST_REDIS_SERVER").expect("run by `cargo xtask bench rebuild`");
    Command::new(server)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--requirepass", PASSWORD, "--maxmemory-policy", "noeviction"])
        .args(["--appendonly", if persistent { "yes" } else { "no" }])
        .args(["--save", "", "--dir"])
        .arg(folder)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server starts")
}
