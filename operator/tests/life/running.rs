//! From the manifest to a sale that sells.
use std::sync::atomic::Ordering;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use seckill_crds::{FlashSale, LedgerStatus, Phase};
use seckill_protocol::Record;
use seckill_protocol::index::Decision;
use serde_json::json;

use crate::bed::{Bed, reason};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_is_ready_before_its_start_sells_what_it_has_and_settles_behind_its_end() {
    let bed = Bed::new().await;
    let (operator, worker) = (bed.operator(), bed.worker());
    let demand = json!({"demand": {"apiReplicas": 2}});
    bed.apply("life", 12, 20, demand).await;

    let scheduled = bed.until_phase("life", Phase::Scheduled).await;
    assert_eq!(reason(&scheduled, "Accepted"), ("True", "Accepted"));
    assert_eq!(bed.replicas("api").await, 1);

    let ready = bed.until_phase("life", Phase::Ready).await;
    for condition in ["StockPreheated", "WorkloadsScaled", "Ready", "LedgerBalanced"] {
        assert_eq!(reason(&ready, condition).0, "True", "{condition}: {ready:#?}");
    }
    assert_eq!(bed.replicas("api").await, 2);
    let starts = bed.sale("life").await.opens_at;
    let ready_at = ready.ready_at.expect("said").0.as_millisecond();
    assert!(u64::try_from(ready_at).expect("after 1970") < starts);
    let (answers, _) = bed.buy("life", &["early"]).await;
    assert_eq!(answers, [Decision::NotStarted { opens: starts }]);

    bed.until_phase("life", Phase::Open).await;
    assert_eq!(bed.buy_surely("life", &["a", "b", "c"]).await, 3);
    let sold = LedgerStatus {
        total: 10,
        sold: 3,
        remaining: 7,
        in_flight: 0,
    };
    bed.until("life", "at 3 sold", |status| status.ledger.as_ref() == Some(&sold))
        .await;
    // Whoever sold these dies before the log has them.
    let (answers, batch) = bed.buy("life", &["d", "e", "f", "g", "h", "i", "j", "k"]).await;
    assert!(batch.is_some());
    assert_eq!(answers.last(), Some(&Decision::SoldOut { left: 0 }));
    bed.until_phase("life", Phase::SoldOut).await;

    let settled = bed.until_phase("life", Phase::Settled).await;
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
    assert_eq!(bed.orders("life").await, 10);
    assert!(!bed.has_index("life").await);
    bed.eventually("the release is at its floor", async || bed.replicas("api").await == 1)
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
    bed.eventually("the events are written", async || bed.events("life").await == life)
        .await;

    operator.stop().await;
    worker.stop().await;
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_whose_start_is_past_opens_at_once_and_its_end_can_be_moved() {
    let bed = Bed::new().await;
    let (operator, worker) = (bed.operator(), bed.worker());
    bed.apply("late", -30, 3600, json!({})).await;
    bed.until_phase("late", Phase::Open).await;
    assert_eq!(bed.buy_surely("late", &["a"]).await, 1);
    bed.ends_in("late", 2).await;
    let settled = bed.until_phase("late", Phase::Settled).await;
    assert_eq!(settled.ledger.as_ref().map(|l| (l.sold, l.remaining)), Some((1, 9)));
    operator.stop().await;
    worker.stop().await;
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_is_held_back_by_field_or_annotation_until_neither_says_so() {
    let bed = Bed::new().await;
    let (operator, worker) = (bed.operator(), bed.worker());
    bed.apply("held", -1, 3600, json!({"suspend": true})).await;
    bed.until_phase("held", Phase::Suspended).await;
    assert_eq!(bed.buy("held", &["a"]).await.0, [Decision::Suspended]);
    let annotation = |value| json!({"metadata": {"annotations": {"seckill.dev/suspend": value}}});
    bed.edit("held", annotation(Some("true"))).await;
    bed.edit("held", json!({"spec": {"suspend": false}})).await;
    bed.until("held", "seen in its new generation", |s| {
        s.observed_generation == Some(2)
    })
    .await;
    assert_eq!(bed.status("held").await.phase, Some(Phase::Suspended));
    bed.edit("held", annotation(None)).await;
    bed.until_phase("held", Phase::Open).await;
    assert_eq!(bed.buy_surely("held", &["a"]).await, 1);
    bed.edit("held", json!({"spec": {"suspend": true}})).await;
    bed.until_phase("held", Phase::Suspended).await;
    assert_eq!(bed.buy("held", &["b"]).await.0, [Decision::Suspended]);
    operator.stop().await;
    worker.stop().await;
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn until_its_preheating_a_sale_can_be_edited_and_sells_what_was_said_last() {
    let bed = Bed::new().await;
    let (operator, worker) = (bed.operator(), bed.worker());
    bed.apply("edited", 3600, 3600, json!({})).await;
    bed.until_phase("edited", Phase::Scheduled).await;
    bed.edit("edited", json!({"spec": {"stock": 3, "item": {"price": "1.00"}}}))
        .await;
    bed.eventually("the ledger has it", async || {
        let sale = bed.sale("edited").await;
        (sale.offered, sale.price.as_str()) == (3, "1.00")
    })
    .await;
    bed.edit(
        "edited",
        json!({"spec": {"startsAt": "2020-01-01T00:00:00Z", "endsAt": "2020-01-02T00:00:00Z"}}),
    )
    .await;
    // That was a mistake, and it can't be taken back: a sale runs once.
    bed.until_phase("edited", Phase::Settled).await;
    operator.stop().await;
    worker.stop().await;
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_without_its_pods_is_not_ready_and_opens_in_spite_of_that() {
    let bed = Bed::without_pods().await;
    let (operator, worker) = (bed.operator(), bed.worker());
    bed.apply("podless", 9, 3600, json!({})).await;
    let waiting = bed.until_reason("podless", "Ready", "WorkloadsMissing").await;
    assert_eq!(waiting.phase, Some(Phase::Preheating));
    assert_eq!(reason(&waiting, "StockPreheated"), ("True", "Preheated"));
    assert_eq!(reason(&waiting, "WorkloadsScaled"), ("False", "Scaling"));
    let open = bed.until_phase("podless", Phase::Open).await;
    assert_eq!(reason(&open, "WorkloadsScaled"), ("False", "Scaling"));
    bed.pods_start.store(true, Ordering::Relaxed);
    bed.until_reason("podless", "WorkloadsScaled", "Scaled").await;
    bed.eventually("it is told", async || {
        bed.events("podless").await.contains(&"ReadyLate".to_owned())
    })
    .await;
    operator.stop().await;
    worker.stop().await;
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_that_an_autoscaler_has_in_charge_is_left_to_it_until_it_goes() {
    let bed = Bed::new().await;
    let autoscaler: HorizontalPodAutoscaler = serde_json::from_value(json!({
        "metadata": {"name": "theirs"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "api"},
            "minReplicas": 1,
            "maxReplicas": 3,
        },
    }))
    .expect("an autoscaler");
    let autoscalers = bed.api::<HorizontalPodAutoscaler>();
    autoscalers
        .create(&PostParams::default(), &autoscaler)
        .await
        .expect("created");
    let (operator, worker) = (bed.operator(), bed.worker());
    bed.apply(
        "scaled",
        3600,
        3600,
        json!({"demand": {"apiReplicas": 2}, "leadTimeSeconds": 3700}),
    )
    .await;
    let left = bed.until_reason("scaled", "WorkloadsScaled", "LeftToAutoscaler").await;
    let condition = left.conditions.iter().find(|c| c.type_ == "WorkloadsScaled");
    let message = &condition.expect("said").message;
    assert!(message.contains("HorizontalPodAutoscaler theirs"), "{message}");
    assert_eq!(bed.replicas("api").await, 1);
    autoscalers
        .delete("theirs", &DeleteParams::default())
        .await
        .expect("deleted");
    bed.until_phase("scaled", Phase::Ready).await;
    assert_eq!(bed.replicas("api").await, 2);
    operator.stop().await;
    worker.stop().await;
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_of_another_class_is_none_of_its_business() {
    let bed = Bed::new().await;
    let (operator, worker) = (bed.operator(), bed.worker());
    bed.apply("theirs", -1, 3600, json!({"className": "somebody-else"}))
        .await;
    bed.apply("ours", -1, 3600, json!({})).await;
    bed.until_phase("ours", Phase::Open).await;
    let theirs = bed.api::<FlashSale>().get("theirs").await.expect("it is there");
    assert_eq!(theirs.status, None);
    operator.stop().await;
    worker.stop().await;
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raised_stock_is_sold_too_and_a_lowered_one_is_not_taken_back() {
    let bed = Bed::new().await;
    let (operator, worker) = (bed.operator(), bed.worker());
    bed.apply("more", -1, 3600, json!({})).await;
    bed.until_phase("more", Phase::Open).await;
    let buyers: Vec<String> = (0..14).map(|n| format!("buyer-{n}")).collect();
    let buyers: Vec<&str> = buyers.iter().map(String::as_str).collect();
    assert_eq!(bed.buy_surely("more", &buyers).await, 10);
    bed.until_phase("more", Phase::SoldOut).await;

    bed.edit("more", json!({"spec": {"stock": 13}})).await;
    bed.until_phase("more", Phase::Open).await;
    let (answers, batch) = bed.buy("more", &buyers).await;
    let count = |is: fn(&Decision) -> bool| answers.iter().filter(|a| is(a)).count();
    let held = count(|a| matches!(a, Decision::AlreadyReserved(_)));
    let (sold, refused) = (
        count(|a| matches!(a, Decision::Reserved { .. })),
        count(|a| matches!(a, Decision::SoldOut { .. })),
    );
    assert_eq!((held, sold, refused), (10, 3, 1));
    let part = bed.sale("more").await.part;
    bed.log
        .append(part, &Record::Batch(batch.expect("sold")))
        .await
        .expect("Kafka");
    let balanced = LedgerStatus {
        total: 13,
        sold: 13,
        remaining: 0,
        in_flight: 0,
    };
    bed.until("more", "13 sold", |status| status.ledger.as_ref() == Some(&balanced))
        .await;

    // An old manifest, as a GitOps tool would apply it again.
    let object: FlashSale = bed.api().get("more").await.expect("it is there");
    let lower = json!({"spec": {"stock": 10}});
    let refused = bed
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

    bed.ends_in("more", 2).await;
    let settled = bed.until_phase("more", Phase::Settled).await;
    assert_eq!(reason(&settled, "LedgerBalanced"), ("True", "Balanced"), "{settled:#?}");
    assert_eq!(bed.orders("more").await, 13);
    operator.stop().await;
    worker.stop().await;
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_order_s_unit_is_sold_again_and_the_balance_holds() {
    let bed = Bed::new().await;
    let (operator, worker) = (bed.operator(), bed.worker());
    bed.apply("again", -1, 3600, json!({})).await;
    bed.until_phase("again", Phase::Open).await;
    let buyers: Vec<String> = (0..10).map(|n| format!("buyer-{n}")).collect();
    let buyers: Vec<&str> = buyers.iter().map(String::as_str).collect();
    assert_eq!(bed.buy_surely("again", &buyers).await, 10);
    bed.until_phase("again", Phase::SoldOut).await;
    let sale = bed.sale("again").await;
    let cancel = Record::Cancel {
        sale: sale.id,
        epoch: sale.live_epoch.expect("it sells"),
        seq: 3,
        reason: "buyer".into(),
    };
    for _ in 0..2 {
        bed.log.append(sale.part, &cancel).await.expect("Kafka");
    }
    bed.until_phase("again", Phase::Open).await;
    assert_eq!(bed.buy_surely("again", &["late", "later"]).await, 1);
    let again = bed.until_phase("again", Phase::SoldOut).await;
    assert_ne!(reason(&again, "LedgerBalanced").0, "False", "{again:#?}");
    bed.ends_in("again", 2).await;
    let settled = bed.until_phase("again", Phase::Settled).await;
    assert_eq!(reason(&settled, "LedgerBalanced"), ("True", "Balanced"), "{settled:#?}");
    assert_eq!(settled.ledger.as_ref().map(|l| (l.total, l.sold)), Some((10, 10)));
    assert_eq!(bed.orders("again").await, 11);
    operator.stop().await;
    worker.stop().await;
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_that_are_not_accounted_for_are_told_with_their_numbers() {
    let bed = Bed::new().await;
    let (operator, worker) = (bed.operator(), bed.worker());
    bed.apply("odd", -1, 3600, json!({})).await;
    bed.until_phase("odd", Phase::Open).await;
    assert_eq!(bed.buy_surely("odd", &["a", "b", "c"]).await, 3);
    bed.until_reason("odd", "LedgerBalanced", "Balanced").await;
    // Somebody writes into Redis: two units are there twice.
    bed.give_back("odd", 2).await;
    let odd = bed.until_reason("odd", "LedgerBalanced", "Imbalanced").await;
    let condition = odd.conditions.iter().find(|c| c.type_ == "LedgerBalanced");
    let message = &condition.expect("said").message;
    assert!(
        message.contains("1 are out by the index and 3 by the ledger"),
        "{message}"
    );
    assert!(bed.events("odd").await.contains(&"Imbalanced".to_owned()));
    operator.stop().await;
    worker.stop().await;
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flash_sale_that_can_t_be_understood_harms_only_itself_and_is_told_so() {
    let bed = Bed::new().await;
    let (operator, worker) = (bed.operator(), bed.worker());
    bed.apply("whole", -1, 3600, json!({})).await;
    bed.until_phase("whole", Phase::Open).await;
    let resource = ApiResource::erase::<FlashSale>(&());
    let objects: Api<DynamicObject> = Api::namespaced_with(bed.kube.clone(), &bed.namespace, &resource);
    let mut odd = serde_json::to_value(bed.manifest("odd", 3600, 3600, json!({}))).expect("serializes");
    // The API server knows this day; to us the last one is the day before.
    odd["spec"]["startsAt"] = json!("9999-12-31T10:00:00Z");
    odd["spec"]["endsAt"] = json!("9999-12-31T11:00:00Z");
    let odd: DynamicObject = serde_json::from_value(odd).expect("an object");
    objects.create(&PostParams::default(), &odd).await.expect("created");
    bed.eventually("it is told", async || {
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
                && message.contains("can't be understood")
                && message.contains("apply it anew")
        })
    })
    .await;

    // The others go on, also with an operator that finds it when it begins.
    assert_eq!(bed.buy_surely("whole", &["a"]).await, 1);
    operator.stop().await;
    let operator = bed.operator();
    bed.apply("next", -1, 3600, json!({})).await;
    bed.until_phase("next", Phase::Open).await;
    bed.ends_in("whole", 0).await;
    bed.until_phase("whole", Phase::Settled).await;

    // Once it is put right it is a sale like any other.
    let right = bed.manifest("odd", -1, 3600, json!({})).spec;
    bed.edit("odd", json!({"spec": right})).await;
    let open = bed.until_phase("odd", Phase::Open).await;
    assert_eq!(reason(&open, "Accepted"), ("True", "Accepted"));
    assert_eq!(reason(&open, "Stalled"), ("False", "Progressing"));
    operator.stop().await;
    worker.stop().await;
    bed.drop().await;
}
