//! The emergency stop of a release: `operator suspend --all` and `operator resume --all`.
use seckill_crds::Phase;
use seckill_protocol::index::{Decision, SaleState};
use serde_json::json;

use crate::harness::{self, Harness};
use crate::proxy::Proxy;

async fn decision(harness: &Harness, name: &str, buyer: &str) -> Decision {
    let decisions = harness.try_buy(name, &[buyer]).await;
    decisions.into_iter().next().expect("an index in force")
}

async fn sells(harness: &Harness, name: &str, buyer: &str) -> bool {
    match decision(harness, name, buyer).await {
        Decision::Reserved { .. } => true,
        Decision::Suspended => false,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sale_is_stopped_and_resumed_without_an_api_server() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::start(harness::upstream().await).await;
    let operator = harness.operator_with_client(&proxy.client(), harness.operator_args("operator", 3));
    let worker = harness.worker();
    for name in ["one", "two"] {
        harness.apply(name, -1, 3600, json!({})).await;
    }
    harness.apply("later", 3600, 3600, json!({})).await;
    harness.apply("suspended", -1, 3600, json!({"suspend": true})).await;
    for name in ["one", "two"] {
        harness.until_phase(name, Phase::Open).await;
        assert!(sells(&harness, name, "before").await);
    }
    harness.until_phase("later", Phase::Scheduled).await;
    harness.until_phase("suspended", Phase::Suspended).await;
    harness
        .eventually("it leads", async || {
            operator.gauge("seckill_operator_leader").await == Some(1)
        })
        .await;

    proxy.refuse().await;
    // A leader that still works and one that has stopped are the same to the command.
    let done = harness.emergency_stop("suspend").await;
    assert!(done.contains("4 running sales, 3 with an index"), "{done}");
    for name in ["one", "two", "suspended"] {
        assert!(!sells(&harness, name, "a").await, "{name} sells");
    }
    harness
        .eventually("nobody leads", async || {
            operator.gauge("seckill_operator_leader").await == Some(0)
        })
        .await;
    assert!(!sells(&harness, "one", "b").await);
    // A winner's retry still gets its order.
    assert!(matches!(
        decision(&harness, "one", "before").await,
        Decision::AlreadyReserved(_)
    ));

    // It is undone without an operator as well, and only for the sales whose FlashSales are not suspended.
    harness.emergency_stop("resume").await;
    assert!(sells(&harness, "one", "c").await && sells(&harness, "two", "c").await);
    assert!(!sells(&harness, "suspended", "c").await);

    harness.emergency_stop("suspend").await;
    proxy.accept().await;
    // The operator reports the stop, and does not undo it.
    for name in ["one", "two", "suspended"] {
        let status = harness.until_reason(name, "Ready", "EmergencyStop").await;
        assert_eq!(status.phase, Some(Phase::Suspended), "{name}");
        assert!(!sells(&harness, name, "d").await, "{name} sells");
    }
    let status = harness.until_reason("later", "Ready", "EmergencyStop").await;
    assert_eq!(status.phase, Some(Phase::Suspended));
    harness.emergency_stop("resume").await;
    harness.until_reason("later", "Ready", "Scheduled").await;
    for name in ["one", "two"] {
        harness.until_phase(name, Phase::Open).await;
    }
    harness.until_reason("suspended", "Ready", "Suspended").await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_sale_is_held_while_the_stop_is_on() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("before", -1, 3600, json!({})).await;
    harness.until_phase("before", Phase::Open).await;
    harness.emergency_stop("suspend").await;
    harness.apply("new", -1, 3600, json!({})).await;
    let status = harness
        .until("new", "preheated and stopped", |status| {
            let stopped = harness::status_and_reason(status, "Ready") == ("True", "EmergencyStop");
            stopped && harness::status_and_reason(status, "StockPreheated").0 == "True"
        })
        .await;
    assert_eq!(status.phase, Some(Phase::Suspended));
    assert!(!sells(&harness, "new", "a").await);
    // Edits are applied meanwhile, and neither they nor a rebuild sell anything.
    harness.edit("before", json!({"spec": {"stock": 12}})).await;
    harness
        .eventually("the stock is raised", async || {
            harness.index("before").await.total == 12
        })
        .await;
    harness.edit("new", json!({"spec": {"suspend": true}})).await;
    harness
        .eventually("the ledger has the edit", async || {
            harness.sale("new").await.state == SaleState::Suspended
        })
        .await;
    let sale = harness.sale("before").await;
    harness.stock.drop_sale(sale.id).await.expect("Redis");
    harness
        .eventually("the index is rebuilt", async || {
            harness.sale("before").await.live_epoch > sale.live_epoch
        })
        .await;
    assert!(!sells(&harness, "before", "a").await);
    harness.emergency_stop("resume").await;
    assert!(sells(&harness, "before", "b").await);
    assert!(!sells(&harness, "new", "b").await);
    harness.until_phase("before", Phase::Open).await;
    harness.until_reason("new", "Ready", "Suspended").await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
