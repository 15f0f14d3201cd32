//! How long a sale with a million orders stops selling after Redis is killed, and how much memory the operator needs for
//! rebuilds: `cargo xtask bench rebuild`.
//!
//! The benchmark kills Redis and restarts it immediately, alternately without persistence, as the documentation
//! recommends, and with an append-only file. For comparison it measures the raw costs of the same data: to read the
//! rows from MySQL, and to write the buyers into Redis.
//!
//! The operator is a process of its own, so its peak memory is that of the pod. It must stay below the memory limit of the
//! chart, for a million orders, for three million, and for 16 sales of 150,000 orders that are rebuilt at the same time.
//! The argument `memory` measures only that; SECKILL_BENCH_ORDERS replaces the million.
#[path = "../tests/life/harness.rs"]
#[allow(dead_code, reason = "only the tests use all of it")]
mod harness;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harness::{Harness, RunningProgram};
use seckill_crds::Phase;
use seckill_ledger::Sale;
use seckill_protocol::Record;
use seckill_protocol::index::{Decision, Request};
use seckill_protocol::{Buyer, KeyHash};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection};

const ROUNDS: usize = 3;
const CHART_VALUES: &str = include_str!("../../helm/seckill/values.yaml");
const PASSWORD: &str = "bench";

fn main() {
    let orders = std::env::var("SECKILL_BENCH_ORDERS").map_or(1_000_000, |n| n.parse().expect("a number of orders"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        println!("{}", servers().await);
        if !std::env::args().any(|argument| argument == "memory") {
            downtimes(orders).await;
        }
        let limit = memory_limit();
        let mut exceeded = false;
        for (sales, orders) in [(1, orders), (1, 3 * orders), (16, 3 * orders / 20)] {
            let (peak, took) = peak_memory(sales, orders).await;
            println!(
                "memory of the operator, {sales} x {orders} orders rebuilt in {took:.1?}: {:.1} of {:.0} MiB (limit of the chart)",
                mib(peak),
                mib(limit)
            );
            exceeded |= peak > limit;
        }
        assert!(!exceeded, "the operator would be killed");
    });
}

/// The servers and the machine, which decide most of the time.
async fn servers() -> String {
    let mut mysql = MySqlConnection::connect(&harness::required_env("SECKILL_TEST_MYSQL_URL"))
        .await
        .expect("MySQL");
    let version: String = sqlx::query_scalar("SELECT VERSION()")
        .fetch_one(&mut mysql)
        .await
        .expect("a version");
    let redis = Redis::start();
    harness::until_redis_answers(&redis.url()).await;
    let client = redis::Client::open(redis.url()).expect("a URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
    let mut info = redis::cmd("INFO");
    let info: String = info
        .arg("server")
        .query_async(&mut connection)
        .await
        .expect("an answer");
    let of_redis = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
    let kafka = std::env::var("SECKILL_KAFKA_VERSION").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "MySQL {version}, Redis {}, Kafka {kafka} and the operator share {cores} cores",
        of_redis.unwrap_or_default().trim()
    )
}

async fn downtimes(orders: u64) {
    let mut redis = Redis::start();
    let harness = Harness::with_redis(redis.url()).await;
    let (operator, worker) = (harness.operator(), harness.worker());
    open_sale(&harness, "million", orders).await;
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

    let orders = harness.sale("million").await.sold;
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
    end(worker, harness).await;
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

/// The highest memory of an operator process that rebuilds this many sales with so many orders each at the same time, and
/// the time until all of them sell.
async fn peak_memory(sales: usize, orders: u64) -> (u64, Duration) {
    let mut redis = Redis::start();
    let harness = Harness::with_redis(redis.url()).await;
    let (operator, worker) = (harness.operator(), harness.worker());
    let names: Vec<String> = (0..sales).map(|n| format!("sale-{n}")).collect();
    for name in &names {
        open_sale(&harness, name, orders).await;
    }
    operator.stop().await;
    // An operator that has done nothing else, so that its peak is that of the rebuilds.
    let mut operator = OperatorProcess::start(&harness);
    let before = live_epochs(&harness, &names).await;
    redis.kill();
    let killed = Instant::now();
    redis.restart(false);
    while live_epochs(&harness, &names)
        .await
        .iter()
        .zip(&before)
        .any(|(now, before)| now <= before)
    {
        assert!(operator.0.try_wait().expect("waits").is_none(), "the operator died");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (took, peak) = (killed.elapsed(), operator.peak_memory());
    drop(operator);
    end(worker, harness).await;
    (peak, took)
}

async fn live_epochs(harness: &Harness, names: &[String]) -> Vec<Option<i64>> {
    let mut epochs = Vec::new();
    for name in names {
        epochs.push(harness.sale(name).await.live_epoch.map(|epoch| epoch.0));
    }
    epochs
}

async fn end(worker: RunningProgram, harness: Harness) {
    worker.stop().await;
    harness.drop().await;
}

/// The operator as the chart runs it. It is killed on drop.
struct OperatorProcess(Child);

impl OperatorProcess {
    fn start(harness: &Harness) -> Self {
        let kubeconfig = harness::required_env("SECKILL_TEST_KUBECONFIG");
        let child = Command::new(env!("CARGO_BIN_EXE_operator"))
            .args(&harness.operator_args("measured", 15)[1..])
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        OperatorProcess(child.expect("the operator starts"))
    }

    /// The highest resident memory since its start, in bytes.
    fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("it runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.expect("a number of kB") * 1024
    }
}

impl Drop for OperatorProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The memory limit of the operator in the chart, in bytes.
fn memory_limit() -> u64 {
    let values: serde_yaml::Value = serde_yaml::from_str(CHART_VALUES).expect("YAML");
    let limit = values["operator"]["resources"]["limits"]["memory"]
        .as_str()
        .expect("a limit");
    let mib = limit.strip_suffix("Mi").expect("in Mi");
    mib.parse::<u64>().expect("a number") << 20
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Opens a sale and writes orders of one unit each into the ledger.
async fn open_sale(harness: &Harness, name: &str, orders: u64) {
    harness.apply(name, -1, 3600, json!({"stock": orders + 1000})).await;
    harness.until_phase(name, Phase::Open).await;
    fill(harness, &harness.sale(name).await, orders).await;
}

/// Writes rows as the worker would, without the way through Redis and Kafka. They are of an epoch before the live one: the
/// operator compares the orders of the live epoch with the index again and again, which would slow this down.
async fn fill(harness: &Harness, sale: &Sale, orders: u64) {
    let mut mysql = MySqlConnection::connect(&harness.database).await.expect("MySQL");
    let (id, epoch) = (sale.id.0, sale.live_epoch.expect("a live epoch").0 - 1);
    for first in (1..=orders).step_by(100_000) {
        let last = orders.min(first + 99_999);
        for statement in [
            "SET SESSION cte_max_recursion_depth = 1000000".to_owned(),
            format!(
                "INSERT INTO orders (sale, epoch, seq, buyer, tier, key_hash, quantity, price, status, created_at) \
                 WITH RECURSIVE n (i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last}) \
                 SELECT {id}, {epoch}, i, CONCAT('a:', LEFT(SHA2(i, 256), 32)), 0, i, 1, 9.9, 'placed', NOW(3) FROM n"
            ),
        ] {
            mysql.execute(AssertSqlSafe(statement)).await.expect("written");
        }
    }
    let units = format!("UPDATE sales SET sold = {orders}, taken = {orders}, orders_ever = {orders} WHERE id = {id}");
    mysql.execute(AssertSqlSafe(units)).await.expect("written");
}

/// The times to read all orders from MySQL, and to write as many holdings into Redis.
async fn raw_costs(harness: &Harness, redis: &Redis, sale: u32) -> (Duration, Duration) {
    let mut mysql = MySqlConnection::connect(&harness.database).await.expect("MySQL");
    let started = Instant::now();
    let rows = mysql
        .fetch_all(AssertSqlSafe(format!(
            "SELECT epoch, seq, buyer, quantity, key_hash, status FROM orders WHERE sale = {sale}"
        )))
        .await
        .expect("read");
    let read = started.elapsed();

    let client = redis::Client::open(redis.url()).expect("a URL");
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    let mut connection = connection.await.expect("Redis");
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
