//! Preflight checks: problems are reported before a sale opens, and delay it if `spec.preflight` is `Require`.
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use seckill_crds::Phase;
use seckill_protocol::index::Decision;
use serde_json::json;

use crate::harness::{Harness, required_env, status_and_reason};

const SETTING: &str = "unclean.leader.election.enable";

/// Allows or forbids that the order log loses acknowledged records.
pub async fn set_unclean_election(harness: &Harness, enabled: bool) {
    let kafka: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", required_env("SECKILL_TEST_KAFKA"))
        .create()
        .expect("Kafka");
    // The request resets settings that it does not name to the defaults of the brokers.
    let config = AlterConfig::new(ResourceSpecifier::Topic(&harness.name))
        .set(SETTING, if enabled { "true" } else { "false" })
        .set("retention.ms", "-1")
        .set("retention.bytes", "-1");
    let altered = kafka
        .alter_configs([&config], &AdminOptions::new())
        .await
        .expect("Kafka");
    assert!(altered.iter().all(Result::is_ok), "{altered:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preflight_problems_are_reported_with_a_fix_and_the_sale_opens() {
    let harness = Harness::new().await;
    set_unclean_election(&harness, true).await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("risky", 20, 3600, json!({})).await;
    let reported = harness.until_reason("risky", "Preflight", "ProblemsFound").await;
    let condition = reported
        .conditions
        .iter()
        .find(|c| c.type_ == "Preflight")
        .expect("the condition");
    assert!(
        condition.status == "False"
            && condition.message.contains(SETTING)
            && condition.message.contains("set it to false"),
        "{condition:?}"
    );
    harness.until_event("risky", "PreflightFailed").await;
    harness.until_phase("risky", Phase::Open).await;
    assert_eq!(harness.buy("risky", &["a"]).await, 1);
    set_unclean_election(&harness, false).await;
    let passed = harness.until_reason("risky", "Preflight", "Passed").await;
    assert_eq!(passed.phase, Some(Phase::Open));
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_required_preflight_delays_the_opening_but_stops_no_open_sale() {
    let harness = Harness::new().await;
    set_unclean_election(&harness, true).await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("strict", -1, 3600, json!({"preflight": "Require"})).await;
    let held = harness.until_reason("strict", "Ready", "HeldByPreflight").await;
    assert_eq!(held.phase, Some(Phase::Suspended));
    assert_eq!(harness.reserve("strict", &["a"]).await.0, [Decision::Suspended]);
    set_unclean_election(&harness, false).await;
    harness.until_reason("strict", "Ready", "Selling").await;
    assert_eq!(harness.buy("strict", &["a"]).await, 1);
    set_unclean_election(&harness, true).await;
    let found = harness.until_reason("strict", "Preflight", "ProblemsFound").await;
    assert_eq!(
        (found.phase, status_and_reason(&found, "Ready")),
        (Some(Phase::Open), ("True", "Selling"))
    );
    assert_eq!(harness.buy("strict", &["b"]).await, 1);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
