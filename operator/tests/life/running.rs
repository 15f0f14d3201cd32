//! From the manifest to a sale that sells.
use std::sync::atomic::Ordering;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use seckill_crds::{FlashSale, LedgerStatus, Phase};
use seckill_protocol::Record;
use seckill_protocol::index::Decision;
use serde_json::json;

use crate::harness::{Harness, reason};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_is_ready_before_its_start_sells_what_it_has_and_settles_behind_its_end() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    let demand = json!({"demand": {"apiReplicas": 2}});
    harness.apply("life", 12, 20, demand).await;

    let scheduled = harness.until_phase("life", Phase::Scheduled).await;
    assert_eq!(reason(&scheduled, "Accepted"), ("True", "Accepted"));
    assert_eq!(harness.replicas("api").await, 1);

    let ready = harness.until_phase("life", Phase::Ready).await;
    for condition in ["StockPreheated", "WorkloadsScaled", "Ready", "LedgerBalanced"] {
        assert_eq!(reason(&ready, condition).0, "True", "{condition}: {ready:#?}");
    }
    assert_eq!(harness.replicas("api").await, 2);
    let starts = harness.sale("life").await.opens_at;
    let ready_at = ready.ready_at.expect("said").0.as_millisecond();
    assert!(u64::try_from(ready_at).expect("after 1970") < starts);
    let (answers, _) = harness.buy("life", &["early"]).await;
    assert_eq!(answers, [Decision::NotStarted { opens: starts }]);

    harness.until_phase("life", Phase::Open).await;
    assert_eq!(harness.buy_surely("life", &["a", "b", "c"]).await, 3);
    let sold = LedgerStatus {
        total: 10,
        sold: 3,
        remaining: 7,
        in_flight: 0,
    };
    harness
        .until("life", "at 3 sold", |status| status.ledger.as_ref() == Some(&sold))
        .await;
    // Whoever sold these dies before the log has them.
    let (answers, batch) = harness.buy("life", &["d", "e", "f", "g", "h", "i", "j", "k"]).await;
    assert!(batch.is_some());
    assert_eq!(answers.last(), Some(&Decision::SoldOut { left: 0 }));
    harness.until_phase("life", Phase::SoldOut).await;

    let settled = harness.until_phase("life", Phase::Settled).await;
    assert_eq!(reason(&settled, "LedgerBalanced"), ("True", "Balanced"), "{settled:#?}");
    assert_eq!(reason(&settled, "Settled"), ("True", "Settled"));
    let sold = LedgerStatus {
        total: 10,
        sold: 10,
        remaining: 0,
        in_flight: 0,
    };
    assert_eq!(settled.ledger, Some(sold));
    assert!(settled.settled_at.is_some());
    assert_eq!(harness.orders("life").await, 10);
    assert!(!harness.has_index("life").await);
    harness
        .eventually("the release is at its floor", async || {
            harness.replicas("api").await == 1
        })
        .await;
    let life = [
        "Accepted",
        "Preheated",
        "Ready",
        "Opened",
        "SoldOut",
        "Ended",
        "Settled",
    ];
    harness
        .eventually("the events are written", async || harness.events("life").await == life)
        .await;

    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_whose_start_is_past_opens_at_once_and_its_end_can_be_moved() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("late", -30, 3600, json!({})).await;
    harness.until_phase("late", Phase::Open).await;
    assert_eq!(harness.buy_surely("late", &["a"]).await, 1);
    harness.ends_in("late", 2).await;
    let settled = harness.until_phase("late", Phase::Settled).await;
    assert_eq!(settled.ledger.as_ref().map(|l| (l.sold, l.remaining)), Some((1, 9)));
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_is_held_back_by_field_or_annotation_until_neither_says_so() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("held", -1, 3600, json!({"suspend": true})).await;
    harness.until_phase("held", Phase::Suspended).await;
    assert_eq!(harness.buy("held", &["a"]).await.0, [Decision::Suspended]);
    let annotation = |value| json!({"metadata": {"annotations": {"seckill.dev/suspend": value}}});
    harness.edit("held", annotation(Some("true"))).await;
    harness.edit("held", json!({"spec": {"suspend": false}})).await;
    harness
        .until("held", "seen in its new generation", |s| {
            s.observed_generation == Some(2)
        })
        .await;
    assert_eq!(harness.status("held").await.phase, Some(Phase::Suspended));
    harness.edit("held", annotation(None)).await;
    harness.until_phase("held", Phase::Open).await;
    assert_eq!(harness.buy_surely("held", &["a"]).await, 1);
    harness.edit("held", json!({"spec": {"suspend": true}})).await;
    harness.until_phase("held", Phase::Suspended).await;
    assert_eq!(harness.buy("held", &["b"]).await.0, [Decision::Suspended]);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn until_its_preheating_a_sale_can_be_edited_and_sells_what_was_said_last() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("edited", 3600, 3600, json!({})).await;
    harness.until_phase("edited", Phase::Scheduled).await;
    harness
        .edit("edited", json!({"spec": {"stock": 3, "item": {"price": "1.00"}}}))
        .await;
    harness
        .eventually("the ledger has it", async || {
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
    // That was a mistake, and it can't be taken back: a sale runs once.
    harness.until_phase("edited", Phase::Settled).await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_without_its_pods_is_not_ready_and_opens_in_spite_of_that() {
    let harness = Harness::without_pods().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("podless", 9, 3600, json!({})).await;
    let waiting = harness.until_reason("podless", "Ready", "WorkloadsMissing").await;
    assert_eq!(waiting.phase, Some(Phase::Preheating));
    assert_eq!(reason(&waiting, "StockPreheated"), ("True", "Preheated"));
    assert_eq!(reason(&waiting, "WorkloadsScaled"), ("False", "Scaling"));
    let open = harness.until_phase("podless", Phase::Open).await;
    assert_eq!(reason(&open, "WorkloadsScaled"), ("False", "Scaling"));
    harness.pods_start.store(true, Ordering::Relaxed);
    harness.until_reason("podless", "WorkloadsScaled", "Scaled").await;
    harness
        .eventually("it is told", async || {
            harness.events("podless").await.contains(&"ReadyLate".to_owned())
        })
        .await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_that_an_autoscaler_has_in_charge_is_left_to_it_until_it_goes() {
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
    let message = &condition.expect("said").message;
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
async fn a_sale_of_another_class_is_none_of_its_business() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness
        .apply("theirs", -1, 3600, json!({"className": "somebody-else"}))
        .await;
    harness.apply("ours", -1, 3600, json!({})).await;
    harness.until_phase("ours", Phase::Open).await;
    let theirs = harness.api::<FlashSale>().get("theirs").await.expect("it is there");
    assert_eq!(theirs.status, None);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raised_stock_is_sold_too_and_a_lowered_one_is_not_taken_back() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("more", -1, 3600, json!({})).await;
    harness.until_phase("more", Phase::Open).await;
    let buyers: Vec<String> = (0..14).map(|n| format!("buyer-{n}")).collect();
    let buyers: Vec<&str> = buyers.iter().map(String::as_str).collect();
    assert_eq!(harness.buy_surely("more", &buyers).await, 10);
    harness.until_phase("more", Phase::SoldOut).await;

    harness.edit("more", json!({"spec": {"stock": 13}})).await;
    harness.until_phase("more", Phase::Open).await;
    let (answers, batch) = harness.buy("more", &buyers).await;
    let count = |is: fn(&Decision) -> bool| answers.iter().filter(|a| is(a)).count();
    let held = count(|a| matches!(a, Decision::AlreadyReserved(_)));
    let (sold, refused) = (
        count(|a| matches!(a, Decision::Reserved { .. })),
        count(|a| matches!(a, Decision::SoldOut { .. })),
    );
    assert_eq!((held, sold, refused), (10, 3, 1));
    let part = harness.sale("more").await.part;
    harness
        .log
        .append(part, &Record::Batch(batch.expect("sold")))
        .await
        .expect("Kafka");
    let balanced = LedgerStatus {
        total: 13,
        sold: 13,
        remaining: 0,
        in_flight: 0,
    };
    harness
        .until("more", "13 sold", |status| status.ledger.as_ref() == Some(&balanced))
        .await;

    // An old manifest, as a GitOps tool would apply it again.
    let object: FlashSale = harness.api().get("more").await.expect("it is there");
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

    harness.ends_in("more", 2).await;
    let settled = harness.until_phase("more", Phase::Settled).await;
    assert_eq!(reason(&settled, "LedgerBalanced"), ("True", "Balanced"), "{settled:#?}");
    assert_eq!(harness.orders("more").await, 13);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_order_s_unit_is_sold_again_and_the_balance_holds() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("again", -1, 3600, json!({})).await;
    harness.until_phase("again", Phase::Open).await;
    let buyers: Vec<String> = (0..10).map(|n| format!("buyer-{n}")).collect();
    let buyers: Vec<&str> = buyers.iter().map(String::as_str).collect();
    assert_eq!(harness.buy_surely("again", &buyers).await, 10);
    harness.until_phase("again", Phase::SoldOut).await;
    let sale = harness.sale("again").await;
    let cancel = Record::Cancel {
        sale: sale.id,
        epoch: sale.live_epoch.expect("it sells"),
        seq: 3,
        reason: "buyer".into(),
    };
    for _ in 0..2 {
        harness.log.append(sale.part, &cancel).await.expect("Kafka");
    }
    harness.until_phase("again", Phase::Open).await;
    assert_eq!(harness.buy_surely("again", &["late", "later"]).await, 1);
    let again = harness.until_phase("again", Phase::SoldOut).await;
    assert_ne!(reason(&again, "LedgerBalanced").0, "False", "{again:#?}");
    harness.ends_in("again", 2).await;
    let settled = harness.until_phase("again", Phase::Settled).await;
    assert_eq!(reason(&settled, "LedgerBalanced"), ("True", "Balanced"), "{settled:#?}");
    assert_eq!(settled.ledger.as_ref().map(|l| (l.total, l.sold)), Some((10, 10)));
    assert_eq!(harness.orders("again").await, 11);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_that_are_not_accounted_for_are_told_with_their_numbers() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("odd", -1, 3600, json!({})).await;
    harness.until_phase("odd", Phase::Open).await;
    assert_eq!(harness.buy_surely("odd", &["a", "b", "c"]).await, 3);
    harness.until_reason("odd", "LedgerBalanced", "Balanced").await;
    // Somebody writes into Redis: two units are there twice.
    harness.give_back("odd", 2).await;
    let odd = harness.until_reason("odd", "LedgerBalanced", "Imbalanced").await;
    let condition = odd.conditions.iter().find(|c| c.type_ == "LedgerBalanced");
    let message = &condition.expect("said").message;
    assert!(
        message.contains("1 are sold according to the index and 3 according to the ledger"),
        "{message}"
    );
    assert!(harness.events("odd").await.contains(&"Imbalanced".to_owned()));
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flash_sale_that_can_t_be_understood_harms_only_itself_and_is_told_so() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("whole", -1, 3600, json!({})).await;
    harness.until_phase("whole", Phase::Open).await;
    let resource = ApiResource::erase::<FlashSale>(&());
    let objects: Api<DynamicObject> = Api::namespaced_with(harness.kube.clone(), &harness.namespace, &resource);
    let mut odd = serde_json::to_value(harness.manifest("odd", 3600, 3600, json!({}))).expect("serializes");
    // The API server knows this day; to us the last one is the day before.
    odd["spec"]["startsAt"] = json!("9999-12-31T10:00:00Z");
    odd["spec"]["endsAt"] = json!("9999-12-31T11:00:00Z");
    let odd: DynamicObject = serde_json::from_value(odd).expect("an object");
    objects.create(&PostParams::default(), &odd).await.expect("created");
    harness
        .eventually("it is told", async || {
            let object = objects.get("odd").await.expect("there");
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

    // The others go on, also with an operator that finds it when it begins.
    assert_eq!(harness.buy_surely("whole", &["a"]).await, 1);
    operator.stop().await;
    let operator = harness.operator();
    harness.apply("next", -1, 3600, json!({})).await;
    harness.until_phase("next", Phase::Open).await;
    harness.ends_in("whole", 0).await;
    harness.until_phase("whole", Phase::Settled).await;

    // Once it is put right it is a sale like any other.
    let right = harness.manifest("odd", -1, 3600, json!({})).spec;
    harness.edit("odd", json!({"spec": right})).await;
    let open = harness.until_phase("odd", Phase::Open).await;
    assert_eq!(reason(&open, "Accepted"), ("True", "Accepted"));
    assert_eq!(reason(&open, "Stalled"), ("False", "Progressing"));
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
