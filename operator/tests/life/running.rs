//! Sales that run: phases, suspension, edits, pods, stock changes and the balance check.
use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use seckill_crds::{FlashSale, LedgerStatus, Phase};
use seckill_protocol::Record;
use seckill_protocol::index::Decision;
use serde_json::json;

use crate::harness::{self, Harness, status_and_reason};
use crate::proxy::{Fault, Proxy};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_gets_ready_opens_sells_out_ends_and_settles() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    let spec = json!({"demand": {"apiReplicas": 2}});
    harness.apply("life", 90, 3600, spec).await;

    let scheduled = harness.until_phase("life", Phase::Scheduled).await;
    assert_eq!(status_and_reason(&scheduled, "Accepted"), ("True", "Accepted"));
    assert_eq!(harness.replicas("api").await, 1);

    let ready = harness
        .until("life", "ready and counted", |status| {
            status.phase == Some(Phase::Ready) && status_and_reason(status, "LedgerBalanced").0 == "True"
        })
        .await;
    for condition in ["StockPreheated", "WorkloadsScaled", "Ready", "LedgerBalanced"] {
        assert_eq!(
            status_and_reason(&ready, condition).0,
            "True",
            "{condition}: {ready:#?}"
        );
    }
    assert_eq!(harness.replicas("api").await, 2);
    let starts = harness.sale("life").await.opens_at;
    let ready_at = ready.ready_at.expect("the field").0.as_millisecond();
    assert!(u64::try_from(ready_at).expect("after 1970") < starts);
    let (decisions, _) = harness.reserve("life", &["early"]).await;
    assert_eq!(decisions, [Decision::NotStarted { opens: starts }]);

    harness.until_phase("life", Phase::Open).await;
    assert_eq!(harness.buy("life", &["a", "b", "c"]).await, 3);
    let sold = LedgerStatus {
        total: 10,
        sold: 3,
        remaining: 7,
        in_flight: 0,
    };
    harness
        .until("life", "sampled with 3 sold", |status| {
            status.ledger.as_ref() == Some(&sold)
        })
        .await;
    // The seckill-api that reserved these units dies before it appends the batch.
    let (decisions, batch) = harness.reserve("life", &["d", "e", "f", "g", "h", "i", "j", "k"]).await;
    assert!(batch.is_some());
    assert_eq!(decisions.last(), Some(&Decision::SoldOut { left: 0, release: None }));
    harness.until_phase("life", Phase::SoldOut).await;

    harness.end_in("life", 2).await;
    let settled = harness.until_phase("life", Phase::Settled).await;
    assert_eq!(
        status_and_reason(&settled, "LedgerBalanced"),
        ("True", "Balanced"),
        "{settled:#?}"
    );
    assert_eq!(status_and_reason(&settled, "Settled"), ("True", "Settled"));
    let sold = LedgerStatus {
        total: 10,
        sold: 10,
        remaining: 0,
        in_flight: 0,
    };
    assert_eq!(settled.ledger, Some(sold));
    assert!(settled.settled_at.is_some());
    assert_eq!(harness.orders("life").await, 10);
    harness
        .eventually("its index is deleted", async || !harness.has_index("life").await)
        .await;
    harness
        .eventually("the api Deployment has its minimum of replicas", async || {
            harness.replicas("api").await == 1
        })
        .await;
    let reasons = [
        "Accepted",
        "Preheated",
        "Ready",
        "Opened",
        "SoldOut",
        "Ended",
        "Settled",
    ];
    harness.until_events("life", &reasons).await;

    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_whose_start_has_passed_opens_immediately_and_can_end_early() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("late", -30, 3600, json!({})).await;
    harness.until_phase("late", Phase::Open).await;
    assert_eq!(harness.buy("late", &["a"]).await, 1);
    harness.end_in("late", 2).await;
    let settled = harness.until_phase("late", Phase::Settled).await;
    assert_eq!(settled.ledger.as_ref().map(|l| (l.sold, l.remaining)), Some((1, 9)));
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_is_suspended_while_the_field_or_the_annotation_is_set() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("held", -1, 3600, json!({"suspend": true})).await;
    harness.until_phase("held", Phase::Suspended).await;
    assert_eq!(harness.reserve("held", &["a"]).await.0, [Decision::Suspended]);
    let annotation = |value| json!({"metadata": {"annotations": {"seckill.dev/suspend": value}}});
    harness.edit("held", annotation(Some("true"))).await;
    harness.edit("held", json!({"spec": {"suspend": false}})).await;
    harness
        .until("held", "observed in its new generation", |s| {
            s.observed_generation == Some(2)
        })
        .await;
    assert_eq!(harness.status("held").await.phase, Some(Phase::Suspended));
    harness.edit("held", annotation(None)).await;
    harness.until_phase("held", Phase::Open).await;
    assert_eq!(harness.buy("held", &["a"]).await, 1);
    harness.edit("held", json!({"spec": {"suspend": true}})).await;
    harness.until_phase("held", Phase::Suspended).await;
    assert_eq!(harness.reserve("held", &["b"]).await.0, [Decision::Suspended]);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_of_stock_price_and_times_before_preheating_are_applied() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("edited", 3600, 3600, json!({})).await;
    harness.until_phase("edited", Phase::Scheduled).await;
    harness
        .edit("edited", json!({"spec": {"stock": 3, "item": {"price": "1.00"}}}))
        .await;
    harness
        .eventually("the ledger has the new stock and price", async || {
            let sale = harness.sale("edited").await;
            (sale.offered, sale.price.as_str()) == (3, "1.00")
        })
        .await;
    harness
        .edit(
            "edited",
            json!({"spec": {"startsAt": "2020-01-01T00:00:00Z", "endsAt": "2020-01-02T00:00:00Z"}}),
        )
        .await;
    // A sale runs once, so an end in the past can't be reverted.
    harness.until_phase("edited", Phase::Settled).await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_without_ready_pods_is_not_ready_but_opens() {
    let harness = Harness::without_pods().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("podless", 30, 3600, json!({})).await;
    let waiting = harness
        .until("podless", "waiting for its pods", |status| {
            status_and_reason(status, "Ready").1 == "WorkloadsMissing"
                && status_and_reason(status, "WorkloadsScaled") == ("False", "Scaling")
        })
        .await;
    assert_eq!(waiting.phase, Some(Phase::Preheating));
    assert_eq!(status_and_reason(&waiting, "StockPreheated"), ("True", "Preheated"));
    let open = harness.until_phase("podless", Phase::Open).await;
    assert_eq!(status_and_reason(&open, "WorkloadsScaled"), ("False", "Scaling"));
    harness.pods_become_ready.store(true, Ordering::Relaxed);
    harness.until_reason("podless", "WorkloadsScaled", "Scaled").await;
    harness.until_event("podless", "ReadyLate").await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_is_not_scaled_while_it_has_an_autoscaler() {
    let harness = Harness::new().await;
    let autoscaler: HorizontalPodAutoscaler = serde_json::from_value(json!({
        "metadata": {"name": "theirs"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "api"},
            "minReplicas": 1,
            "maxReplicas": 3,
        },
    }))
    .expect("an autoscaler");
    let autoscalers = harness.api::<HorizontalPodAutoscaler>();
    autoscalers
        .create(&PostParams::default(), &autoscaler)
        .await
        .expect("created");
    let (operator, worker) = (harness.operator(), harness.worker());
    harness
        .apply(
            "scaled",
            3600,
            3600,
            json!({"demand": {"apiReplicas": 2}, "leadTimeSeconds": 3700}),
        )
        .await;
    let left = harness
        .until_reason("scaled", "WorkloadsScaled", "LeftToAutoscaler")
        .await;
    let condition = left.conditions.iter().find(|c| c.type_ == "WorkloadsScaled");
    let message = &condition.expect("the condition").message;
    assert!(message.contains("HorizontalPodAutoscaler theirs"), "{message}");
    assert_eq!(harness.replicas("api").await, 1);
    autoscalers
        .delete("theirs", &DeleteParams::default())
        .await
        .expect("deleted");
    harness.until_phase("scaled", Phase::Ready).await;
    assert_eq!(harness.replicas("api").await, 2);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_of_another_class_is_ignored() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness
        .apply("theirs", -1, 3600, json!({"className": "somebody-else"}))
        .await;
    harness.apply("ours", -1, 3600, json!({})).await;
    harness.until_phase("ours", Phase::Open).await;
    let theirs = harness.api::<FlashSale>().get("theirs").await.expect("it exists");
    // The default, by which tools know that no operator has seen it.
    let status = theirs.status.expect("a default");
    assert_eq!((status.observed_generation, status.phase), (Some(-1), None));
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raised_stock_is_sold_and_lowered_stock_is_refused() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("more", -1, 3600, json!({})).await;
    harness.until_phase("more", Phase::Open).await;
    let buyers: Vec<String> = (0..14).map(|n| format!("buyer-{n}")).collect();
    let buyers: Vec<&str> = buyers.iter().map(String::as_str).collect();
    assert_eq!(harness.buy("more", &buyers).await, 10);
    harness.until_phase("more", Phase::SoldOut).await;

    harness.edit("more", json!({"spec": {"stock": 13}})).await;
    harness.until_phase("more", Phase::Open).await;
    let (decisions, batch) = harness.reserve("more", &buyers).await;
    let count = |is: fn(&Decision) -> bool| decisions.iter().filter(|a| is(a)).count();
    let held = count(|a| matches!(a, Decision::AlreadyReserved(_)));
    let (sold, refused) = (
        count(|a| matches!(a, Decision::Reserved { .. })),
        count(|a| matches!(a, Decision::SoldOut { .. })),
    );
    assert_eq!((held, sold, refused), (10, 3, 1));
    let partition = harness.sale("more").await.partition;
    harness
        .log
        .append(partition, &Record::Batch(batch.expect("sold")))
        .await
        .expect("Kafka");
    let balanced = LedgerStatus {
        total: 13,
        sold: 13,
        remaining: 0,
        in_flight: 0,
    };
    harness
        .until("more", "sampled with 13 sold", |status| {
            status.ledger.as_ref() == Some(&balanced)
        })
        .await;

    // A GitOps tool applies an old manifest again.
    let object: FlashSale = harness.api().get("more").await.expect("it exists");
    let lower = json!({"spec": {"stock": 10}});
    let refused = harness
        .api::<FlashSale>()
        .patch(
            &object.metadata.name.unwrap_or_default(),
            &PatchParams::default(),
            &Patch::Merge(lower),
        )
        .await
        .expect_err("the API server refuses it")
        .to_string();
    assert!(refused.contains("spec.stock: it can only rise"), "{refused}");

    harness.end_in("more", 2).await;
    let settled = harness.until_phase("more", Phase::Settled).await;
    assert_eq!(
        status_and_reason(&settled, "LedgerBalanced"),
        ("True", "Balanced"),
        "{settled:#?}"
    );
    assert_eq!(harness.orders("more").await, 13);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_unit_of_a_cancelled_order_is_sold_again_in_balance() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("again", -1, 3600, json!({})).await;
    harness.until_phase("again", Phase::Open).await;
    let buyers: Vec<String> = (0..10).map(|n| format!("buyer-{n}")).collect();
    let buyers: Vec<&str> = buyers.iter().map(String::as_str).collect();
    assert_eq!(harness.buy("again", &buyers).await, 10);
    harness.until_phase("again", Phase::SoldOut).await;
    let sale = harness.sale("again").await;
    let cancel = Record::Cancel {
        sale: sale.id,
        epoch: sale.live_epoch.expect("a live epoch"),
        seq: 3,
        reason: "buyer".into(),
    };
    for _ in 0..2 {
        harness.log.append(sale.partition, &cancel).await.expect("Kafka");
    }
    harness.until_phase("again", Phase::Open).await;
    assert_eq!(harness.buy("again", &["late", "later"]).await, 1);
    let again = harness.until_phase("again", Phase::SoldOut).await;
    assert_ne!(status_and_reason(&again, "LedgerBalanced").0, "False", "{again:#?}");
    harness.end_in("again", 2).await;
    let settled = harness.until_phase("again", Phase::Settled).await;
    assert_eq!(
        status_and_reason(&settled, "LedgerBalanced"),
        ("True", "Balanced"),
        "{settled:#?}"
    );
    assert_eq!(settled.ledger.as_ref().map(|l| (l.total, l.sold)), Some((10, 10)));
    assert_eq!(harness.orders("again").await, 11);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_that_are_unaccounted_for_are_reported_with_numbers() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("odd", -1, 3600, json!({})).await;
    harness.until_phase("odd", Phase::Open).await;
    assert_eq!(harness.buy("odd", &["a", "b", "c"]).await, 3);
    harness.until_reason("odd", "LedgerBalanced", "Balanced").await;
    // Somebody writes into Redis: the index has two units too many.
    harness.add_units_to_index("odd", 2).await;
    let odd = harness.until_reason("odd", "LedgerBalanced", "Imbalanced").await;
    let condition = odd.conditions.iter().find(|c| c.type_ == "LedgerBalanced");
    let message = &condition.expect("the condition").message;
    assert!(
        message.contains("1 are sold according to the index and 3 according to the ledger"),
        "{message}"
    );
    harness.until_event("odd", "Imbalanced").await;
    assert_eq!(operator.metric_of("seckill_sale_imbalanced", "odd").await, Some(1.0));
    assert_eq!(
        operator.metric_of("seckill_sale_imbalance_units", "odd").await,
        Some(-2.0)
    );
    // It is repaired before the end, so the settlement finds nothing.
    harness.add_units_to_index("odd", -2).await;
    harness.end_in("odd", 1).await;
    let settled = harness.until_phase("odd", Phase::Settled).await;
    assert_eq!(status_and_reason(&settled, "LedgerBalanced"), ("True", "Balanced"));
    assert_eq!(operator.metric_of("seckill_sale_imbalanced", "odd").await, Some(0.0));
    assert_eq!(
        operator.metric_of("seckill_sale_imbalance_units", "odd").await,
        Some(0.0)
    );
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

/// Creates a FlashSale that the operator can't parse.
async fn create_unparseable(harness: &Harness, name: &str) -> Api<DynamicObject> {
    let resource = ApiResource::erase::<FlashSale>(&());
    let objects: Api<DynamicObject> = Api::namespaced_with(harness.kube.clone(), &harness.namespace, &resource);
    let mut manifest = serde_json::to_value(harness.manifest(name, 3600, 3600, json!({}))).expect("serializes");
    // The API server accepts ten digits after the point, and the operator can parse nine.
    manifest["spec"]["startsAt"] = json!("2099-12-31T10:00:00.0000000000Z");
    manifest["spec"]["endsAt"] = json!("2099-12-31T11:00:00Z");
    let manifest: DynamicObject = serde_json::from_value(manifest).expect("an object");
    objects
        .create(&PostParams::default(), &manifest)
        .await
        .expect("created");
    objects
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unparseable_flash_sale_is_reported_and_affects_no_other_object() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("whole", -1, 3600, json!({})).await;
    harness.until_phase("whole", Phase::Open).await;
    let objects = create_unparseable(&harness, "odd").await;
    harness
        .eventually("the condition Accepted reports the parse error", async || {
            let object = objects.get("odd").await.expect("it exists");
            let conditions = object.data["status"]["conditions"].as_array().cloned();
            let accepted = conditions
                .unwrap_or_default()
                .into_iter()
                .find(|c| c["type"] == "Accepted");
            accepted.is_some_and(|c| {
                let message = c["message"].as_str().unwrap_or_default();
                c["status"] == "False"
                    && c["reason"] == "Invalid"
                    && message.contains("can't be parsed")
                    && message.contains("apply the manifest again")
            })
        })
        .await;

    // Other sales continue, also under an operator that starts while the invalid object exists.
    assert_eq!(harness.buy("whole", &["a"]).await, 1);
    operator.stop().await;
    let operator = harness.operator();
    harness.apply("next", -1, 3600, json!({})).await;
    harness.until_phase("next", Phase::Open).await;
    harness.end_in("whole", 0).await;
    harness.until_phase("whole", Phase::Settled).await;

    // After a correction, the FlashSale is an ordinary sale.
    let corrected = harness.manifest("odd", -1, 3600, json!({})).spec;
    harness.edit("odd", json!({"spec": corrected})).await;
    let open = harness.until_phase("odd", Phase::Open).await;
    assert_eq!(status_and_reason(&open, "Accepted"), ("True", "Accepted"));
    assert_eq!(status_and_reason(&open, "Stalled"), ("False", "Progressing"));
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_parse_error_is_not_written_to_a_recreated_sale() {
    let harness = Harness::new().await;
    let proxy = Proxy::start(harness::upstream().await).await;
    let operator = harness.operator_with_client(&proxy.client(), harness.operator_args("operator", 15));
    harness.apply("first", 3600, 3600, json!({})).await;
    harness.until_phase("first", Phase::Scheduled).await;
    proxy.set_for_new_requests(Fault::SlowResource("/flashsales/odd", Duration::from_secs(1)));
    proxy.take_asked();
    create_unparseable(&harness, "odd").await;
    harness
        .eventually("the operator reads its status", async || {
            proxy.take_asked().iter().any(|asked| asked.contains("/flashsales/odd"))
        })
        .await;
    harness.delete("odd").await;
    harness.apply("odd", 3600, 3600, json!({})).await;
    // A status stands for a second at least, because the next one is as slow.
    harness
        .until("odd", "it is scheduled", |status| {
            assert_ne!(
                status_and_reason(status, "Accepted"),
                ("False", "Invalid"),
                "{status:#?}"
            );
            status.phase == Some(Phase::Scheduled)
        })
        .await;
    operator.stop().await;
    harness.drop().await;
}
