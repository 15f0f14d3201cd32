//! An operator whose servers are away when it starts, or whose connections to MySQL go silent.
use std::time::{Duration, Instant};

use seckill_crds::Phase;
use seckill_protocol::index::Request;
use seckill_protocol::{Buyer, Epoch, KeyHash, SaleId};
use seckill_service::mysql_pool;
use serde_json::json;

use crate::harness::{Harness, RunningProgram, required_env, set_flag, until_redis_answers};
use crate::redis_server::RedisServer;
use crate::tcp_proxy::TcpProxy;

/// The operator leads, scales, and says what is missing.
async fn assert_leads_without(harness: &Harness, reason: &str) -> RunningProgram {
    harness
        .apply("patient", -1, 3600, json!({"demand": {"apiReplicas": 2}}))
        .await;
    harness
        .eventually("the API is scaled", async || harness.replicas("api").await == 2)
        .await;
    harness.until_reason("patient", "Reconciling", reason).await;
    harness.worker()
}

async fn assert_sells(harness: &Harness) {
    harness.until_phase("patient", Phase::Open).await;
    // A connection that lost its server notices it once.
    let request = Request {
        buyer: Buyer::anonymous("a"),
        quantity: 1,
        tier: 0,
        key: KeyHash::of("a"),
    };
    harness
        .eventually("Redis answers", async || {
            let requests = std::slice::from_ref(&request);
            harness.stock.purchase(SaleId(0), Epoch(0), requests).await.is_ok()
        })
        .await;
    assert_eq!(harness.buy("patient", &["a"]).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_leads_without_redis() {
    let mut redis = RedisServer::start();
    until_redis_answers(&redis.url()).await;
    let harness = Harness::with_redis(redis.url()).await;
    redis.kill();
    let operator = harness.operator();
    let worker = assert_leads_without(&harness, "RedisUnavailable").await;
    redis.launch();
    assert_sells(&harness).await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_leads_without_kafka() {
    let harness = Harness::new().await;
    let mut proxy = TcpProxy::closed(&required_env("SECKILL_TEST_KAFKA"));
    let mut args = harness.operator_args("operator", 15);
    set_flag(&mut args, "--kafka-brokers", &proxy.address);
    let operator = harness.operator_with_client(&harness.kube, args);
    let worker = assert_leads_without(&harness, "LogUnavailable").await;
    proxy.open().await;
    assert_sells(&harness).await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

/// An operator that reaches MySQL through a proxy.
fn operator_behind(harness: &Harness) -> (TcpProxy, RunningProgram) {
    let (user, rest) = harness.database.rsplit_once('@').expect("a user");
    let (server, database) = rest.split_once('/').expect("a database");
    let proxy = TcpProxy::closed(server);
    let mut args = harness.operator_args("operator", 15);
    // With TLS the proxy could not tell the answer to a ping from others.
    let url = format!("{user}@{}/{database}?ssl-mode=DISABLED", proxy.address);
    set_flag(&mut args, "--mysql-url", &url);
    let operator = harness.operator_with_client(&harness.kube, args);
    (proxy, operator)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_leads_without_mysql() {
    let harness = Harness::new().await;
    let (mut proxy, operator) = operator_behind(&harness);
    let worker = assert_leads_without(&harness, "LedgerUnavailable").await;
    proxy.open().await;
    assert_sells(&harness).await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

/// Enough of them that all connections of the operator to MySQL are in use: each is compared with the ledger every second.
const BUSY_SALES: usize = 20;
/// Several times the time limit of a query, and far less than a minute.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sales_go_on_within_seconds_when_all_mysql_connections_go_silent() {
    let harness = Harness::new().await;
    let (mut proxy, operator) = operator_behind(&harness);
    proxy.open().await;
    let worker = harness.worker();
    let busy: Vec<String> = (0..BUSY_SALES).map(|n| format!("busy-{n}")).collect();
    for name in &busy {
        harness.apply(name, -1, 3600, json!({})).await;
    }
    for name in &busy {
        harness.until_phase(name, Phase::Open).await;
    }
    // While answers are slow, the sales need all connections at the same time.
    proxy.delay_answers(Duration::from_millis(300));
    let all = u64::from(mysql_pool::OPERATOR);
    harness
        .eventually("all connections are open", async || proxy.open_connections() >= all)
        .await;
    proxy.silence_present_connections();
    proxy.delay_answers(Duration::ZERO);
    let silenced = Instant::now();
    harness
        .eventually_without_delay("a query waits on each connection", async || {
            proxy.unanswered_connections() >= all
        })
        .await;
    harness.apply("new", -1, 3600, json!({})).await;
    harness.edit("busy-0", json!({"spec": {"stock": 12}})).await;
    harness.until_phase("new", Phase::Open).await;
    harness
        .eventually("the edit is applied", async || harness.sale("busy-0").await.total == 12)
        .await;
    assert!(silenced.elapsed() < SILENCE_TIMEOUT, "{:?}", silenced.elapsed());
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
