//! What could spoil a sale is told before it opens, and holds it back if it asks for that.
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use seckill_crds::Phase;
use seckill_protocol::index::Decision;
use serde_json::json;

use crate::bed::{Bed, reason, server};

const SETTING: &str = "unclean.leader.election.enable";

/// Lets the order log lose what was acknowledged, or not.
async fn may_lose(bed: &Bed, may: bool) {
    let kafka: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", server("SECKILL_TEST_KAFKA"))
        .create()
        .expect("Kafka");
    // What is not named goes back to the brokers' defaults.
    let config = AlterConfig::new(ResourceSpecifier::Topic(&bed.name))
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
    let bed = Bed::new().await;
    may_lose(&bed, true).await;
    let (operator, worker) = (bed.operator(), bed.worker());
    bed.apply("risky", 20, 3600, json!({"leadTimeSeconds": 20})).await;
    let told = bed.until_reason("risky", "Preflight", "ProblemsFound").await;
    let condition = told.conditions.iter().find(|c| c.type_ == "Preflight").expect("told");
    assert!(
        condition.status == "False"
            && condition.message.contains(SETTING)
            && condition.message.contains("set it to false"),
        "{condition:?}"
    );
    bed.eventually("there is an event", async || {
        bed.events("risky").await.contains(&"PreflightFailed".to_owned())
    })
    .await;
    bed.until_phase("risky", Phase::Open).await;
    assert_eq!(bed.buy_surely("risky", &["a"]).await, 1);
    may_lose(&bed, false).await;
    let mended = bed.until_reason("risky", "Preflight", "Passed").await;
    assert_eq!(mended.phase, Some(Phase::Open));
    operator.stop().await;
    worker.stop().await;
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_that_requires_its_preflight_opens_when_what_was_found_is_mended_and_is_not_stopped_later() {
    let bed = Bed::new().await;
    may_lose(&bed, true).await;
    let (operator, worker) = (bed.operator(), bed.worker());
    bed.apply("strict", -1, 3600, json!({"preflight": "Require"})).await;
    let held = bed.until_reason("strict", "Ready", "HeldByPreflight").await;
    assert_eq!(held.phase, Some(Phase::Suspended));
    assert_eq!(bed.buy("strict", &["a"]).await.0, [Decision::Suspended]);
    may_lose(&bed, false).await;
    bed.until_phase("strict", Phase::Open).await;
    assert_eq!(bed.buy_surely("strict", &["a"]).await, 1);
    may_lose(&bed, true).await;
    let found = bed.until_reason("strict", "Preflight", "ProblemsFound").await;
    assert_eq!(
        (found.phase, reason(&found, "Ready")),
        (Some(Phase::Open), ("True", "Selling"))
    );
    assert_eq!(bed.buy_surely("strict", &["b"]).await, 1);
    operator.stop().await;
    worker.stop().await;
    bed.drop().await;
}
