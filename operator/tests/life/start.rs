//! A sale opens on time.
use seckill_crds::Phase;
use seckill_protocol::index::Decision;
use serde_json::json;

use crate::harness::Harness;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_are_sold_from_the_start_and_never_before() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("sharp", 30, 3600, json!({})).await;
    harness.until_phase("sharp", Phase::Ready).await;
    let starts = harness.sale("sharp").await.opens_at;
    let mut refused = 0;
    // Only the clock of Redis decides, so the test reads it before and after each purchase.
    loop {
        let before = harness.redis_now().await;
        let (decisions, _) = harness.reserve("sharp", &["a"]).await;
        match decisions.as_slice() {
            [Decision::NotStarted { .. }] => {
                assert!(before < starts, "refused at {before}, which is not before {starts}");
                refused += 1;
            }
            [Decision::Reserved { .. }] => {
                let after = harness.redis_now().await;
                assert!(after >= starts, "reserved at {after}, which is before {starts}");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 0);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
