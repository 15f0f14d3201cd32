//! Sales whose operator or Redis has a wrong clock, and a Redis that is gone for good.
use seckill_crds::Phase;
use seckill_protocol::index::{Decision, SaleState};
use seckill_service::clock::{Clock, WrongClock};
use serde_json::json;

use crate::harness::{Harness, status_and_reason};
use crate::redis_server::RedisServer;

const HOUR_MS: i64 = 3_600_000;

async fn with_redis() -> (RedisServer, Harness) {
    let redis = RedisServer::start();
    crate::harness::until_redis_answers(&redis.url()).await;
    let harness = Harness::with_redis(redis.url()).await;
    (redis, harness)
}

/// Buys again and again until a unit is reserved, which must not happen before the start.
async fn assert_opens_on_time(harness: &Harness, name: &str) {
    let starts = harness.sale(name).await.opens_at;
    harness
        .eventually_without_delay("a unit is sold", async || {
            let sold = matches!(harness.try_buy(name, &["a"]).await[..], [Decision::Reserved { .. }]);
            assert!(!sold || Clock::system().now() >= starts, "sold before the start");
            sold
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_an_hour_ahead_opens_no_sale_early() {
    let (redis, harness) = with_redis().await;
    redis.set_ahead(HOUR_MS);
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("early", 30, 7200, json!({})).await;
    harness.until_reason("early", "StockPreheated", "Preheated").await;
    assert_opens_on_time(&harness, "early").await;
    harness.until_phase("early", Phase::Open).await;
    let checked = harness.until_reason("early", "Preflight", "ClocksDiffer").await;
    assert_eq!(status_and_reason(&checked, "Preflight"), ("True", "ClocksDiffer"));
    harness.until_event("early", "ClocksDiffer").await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_clock_set_ahead_after_preheating_opens_no_sale_early() {
    let (redis, harness) = with_redis().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("jumps", 40, 7200, json!({})).await;
    harness.until_reason("jumps", "StockPreheated", "Preheated").await;
    // So much that it still has not started by that clock, but will soon.
    redis.set_ahead(5_000);
    harness
        .eventually("the index is suspended", async || {
            harness.sale("jumps").await.state == SaleState::Suspended
        })
        .await;
    assert_opens_on_time(&harness, "jumps").await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_an_hour_behind_sells_late_and_says_so() {
    let (redis, harness) = with_redis().await;
    redis.set_ahead(-HOUR_MS);
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("late", -1, 7200, json!({})).await;
    harness.until_reason("late", "Ready", "ClocksDiffer").await;
    let (decisions, _) = harness.reserve("late", &["a"]).await;
    assert!(matches!(decisions[..], [Decision::NotStarted { .. }]), "{decisions:?}");
    redis.set_ahead(0);
    harness.until_phase("late", Phase::Open).await;
    assert_eq!(harness.buy("late", &["a"]).await, 1);
    redis.set_ahead(-HOUR_MS);
    harness.end_in("late", 1).await;
    let settled = harness.until_phase("late", Phase::Settled).await;
    assert_eq!(status_and_reason(&settled, "LedgerBalanced"), ("True", "Balanced"));
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_an_hour_ahead_closes_no_sale() {
    let (redis, harness) = with_redis().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("goes-on", -1, 1800, json!({})).await;
    harness.until_phase("goes-on", Phase::Open).await;
    redis.set_ahead(HOUR_MS);
    harness.until_reason("goes-on", "Ready", "ClocksDiffer").await;
    let (decisions, _) = harness.reserve("goes-on", &["a"]).await;
    assert_eq!(decisions, [Decision::Ended]);
    let sale = harness.sale("goes-on").await;
    assert_eq!((sale.state, sale.cut.closed), (SaleState::Open, None));
    redis.set_ahead(0);
    harness.until_phase("goes-on", Phase::Open).await;
    assert_eq!(harness.buy("goes-on", &["a"]).await, 1);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_an_hour_ahead_closes_no_sale() {
    let harness = Harness::new().await;
    let clock = WrongClock::ahead_by(HOUR_MS);
    let (operator, worker) = (harness.operator_with_clock(&clock), harness.worker());
    harness.apply("goes-on", -1, 1800, json!({})).await;
    harness.until_phase("goes-on", Phase::Open).await;
    // An edit shows that the operator has planned the sale again.
    harness.edit("goes-on", json!({"spec": {"stock": 12}})).await;
    harness
        .eventually("the stock is raised", async || {
            harness.sale("goes-on").await.total == 12
        })
        .await;
    let sale = harness.sale("goes-on").await;
    assert_eq!((sale.state, sale.cut.closed), (SaleState::Open, None));
    assert_eq!(harness.buy("goes-on", &["a"]).await, 1);
    // The start of another one is no nearer.
    harness.apply("tomorrow", 1800, 3600, json!({})).await;
    harness.until_phase("tomorrow", Phase::Scheduled).await;
    harness.end_in("goes-on", 1).await;
    harness.until_phase("goes-on", Phase::Settled).await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

/// The last reading of Redis's clock must not step with the operator's: two wrong clocks would outvote MySQL's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_whose_clock_steps_back_opens_the_next_sale_on_time() {
    let harness = Harness::new().await;
    let clock = WrongClock::ahead_by(0);
    let (operator, worker) = (harness.operator_with_clock(&clock), harness.worker());
    harness.apply("before", 1800, 3600, json!({})).await;
    let checked = |status: &_| !["", "Checking"].contains(&status_and_reason(status, "Preflight").1);
    harness.until("before", "the servers are checked", checked).await;
    clock.set_ahead(-HOUR_MS);
    harness.apply("after", 30, 3600, json!({})).await;
    let accepted = |status: &_| status_and_reason(status, "Accepted").0 == "True";
    harness.until("after", "it is accepted", accepted).await;
    assert_opens_on_time(&harness, "after").await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_an_hour_behind_opens_and_ends_sales_on_time() {
    let harness = Harness::new().await;
    let clock = WrongClock::ahead_by(-HOUR_MS);
    let (operator, worker) = (harness.operator_with_clock(&clock), harness.worker());
    harness.apply("punctual", 30, 3600, json!({})).await;
    harness.until_phase("punctual", Phase::Ready).await;
    assert_opens_on_time(&harness, "punctual").await;
    harness.until_phase("punctual", Phase::Open).await;
    harness.end_in("punctual", 1).await;
    let settled = harness.until_phase("punctual", Phase::Settled).await;
    assert_eq!(settled.ledger.as_ref().map(|l| (l.total, l.sold)), Some((10, 1)));
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_settles_from_the_log_if_redis_is_gone_for_good() {
    let (mut redis, harness) = with_redis().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("gone", -1, 3600, json!({})).await;
    harness.until_phase("gone", Phase::Open).await;
    assert_eq!(harness.buy("gone", &["a", "b"]).await, 2);
    redis.kill();
    harness.end_in("gone", 1).await;
    harness
        .eventually("the sale has ended", async || {
            harness.sale("gone").await.state == SaleState::Closed
        })
        .await;
    harness
        .eventually("CLOSE is in the log", async || {
            harness.sale("gone").await.cut.closed.is_some()
        })
        .await;
    let settled = harness.until_phase("gone", Phase::Settled).await;
    assert_eq!(settled.ledger.as_ref().map(|l| (l.total, l.sold)), Some((10, 2)));
    assert_eq!(
        status_and_reason(&settled, "LedgerBalanced"),
        ("Unknown", "ComparedWithoutIndex")
    );
    assert_eq!(harness.sale("gone").await.freed_at_ms, None);
    redis.launch();
    harness
        .eventually("its keys are deleted", async || {
            harness.sale("gone").await.freed_at_ms.is_some()
        })
        .await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
