//! What could spoil a sale is told before it opens, and holds it back if it asks for that.
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use seckill_crds::Phase;
use seckill_protocol::index::Decision;
use serde_json::json;

use crate::harness::{Harness, reason, server};

const SETTING: &str = "unclean.leader.election.enable";

/// Lets the order log lose what was acknowledged, or not.
async fn may_lose(harness: &Harness, may: bool) {
    let kafka: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", server("SECKILL_TEST_KAFKA"))
        .create()
        .expect("Kafka");
    // What is not named goes back to the brokers' defaults.
    let config = AlterConfig::new(ResourceSpecifier::Topic(&harness.name))
        .set(SETTING, if may { "true" } else { "false" })
        .set("retention.ms", "-1")
        .set("retention.bytes", "-1");
    let altered = kafka
        .alter_configs([&config], &AdminOptions::new())
        .await
        .expect("Kafka");
    assert!(altered.iter().all(Result::is_ok), "{altered:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_spoil_a_sale_is_told_with_its_fix_until_it_is_mended_and_the_sale_opens_all_the_same() {
    let harness = Harness::new().await;
    may_lose(&harness, true).await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("risky", 20, 3600, json!({"leadTimeSeconds": 20})).await;
    let told = harness.until_reason("risky", "Preflight", "ProblemsFound").await;
    let condition = told.conditions.iter().find(|c| c.type_ == "Preflight").expect("told");
    assert!(
        condition.status == "False"
            && condition.message.contains(SETTING)
            && condition.message.contains("set it to false"),
        "{condition:?}"
    );
    harness
        .eventually("there is an event", async || {
            harness.events("risky").await.contains(&"PreflightFailed".to_owned())
        })
        .await;
    harness.until_phase("risky", Phase::Open).await;
    assert_eq!(harness.buy_surely("risky", &["a"]).await, 1);
    may_lose(&harness, false).await;
    let mended = harness.until_reason("risky", "Preflight", "Passed").await;
    assert_eq!(mended.phase, Some(Phase::Open));
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_that_requires_its_preflight_opens_when_what_was_found_is_mended_and_is_not_stopped_later() {
    let harness = Harness::new().await;
    may_lose(&harness, true).await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("strict", -1, 3600, json!({"preflight": "Require"})).await;
    let held = harness.until_reason("strict", "Ready", "HeldByPreflight").await;
    assert_eq!(held.phase, Some(Phase::Suspended));
    assert_eq!(harness.buy("strict", &["a"]).await.0, [Decision::Suspended]);
    may_lose(&harness, false).await;
    harness.until_phase("strict", Phase::Open).await;
    assert_eq!(harness.buy_surely("strict", &["a"]).await, 1);
    may_lose(&harness, true).await;
    let found = harness.until_reason("strict", "Preflight", "ProblemsFound").await;
    assert_eq!(
        (found.phase, reason(&found, "Ready")),
        (Some(Phase::Open), ("True", "Selling"))
    );
    assert_eq!(harness.buy_surely("strict", &["b"]).await, 1);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
