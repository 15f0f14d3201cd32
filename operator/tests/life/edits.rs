//! Which field can be edited in which stage of a sale: the table of docs/operator.md.
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams, PostParams};
use seckill_crds::{FlashSale, Phase};
use seckill_ledger::{Sale, SaleTerms};
use seckill_order_log::Entry;
use seckill_protocol::Record;
use seckill_protocol::index::SaleState;
use serde_json::{Value, json};

use crate::harness::Harness;

fn in_seconds(seconds: i64) -> String {
    let at = Timestamp::from_second(Timestamp::now().as_second() + seconds).expect("a time");
    at.to_string()
}

async fn change(harness: &Harness, name: &str, spec: &Value) -> Result<FlashSale, kube::Error> {
    let patch = Patch::Merge(json!({"spec": spec}));
    harness
        .api::<FlashSale>()
        .patch(name, &PatchParams::default(), &patch)
        .await
}

/// The API server refuses the edit with this message, and nothing changes.
async fn assert_refused(harness: &Harness, name: &str, spec: Value, message: &str) {
    let sales = harness.api::<FlashSale>();
    let before = (sales.get(name).await.expect("it exists"), harness.sale(name).await);
    let refusal = change(harness, name, &spec).await.expect_err(&format!("{name} {spec}"));
    assert!(refusal.to_string().contains(message), "{name} {spec}: {refusal}");
    let after = sales.get(name).await.expect("it exists");
    assert_eq!(
        (after.metadata.generation, after.spec),
        (before.0.metadata.generation, before.0.spec)
    );
    assert_eq!(
        editable(&harness.sale(name).await),
        editable(&before.1),
        "{name} {spec}"
    );
}

/// The columns of a sale in the ledger that an edit can change.
fn editable(sale: &Sale) -> (u64, SaleTerms, Value, u64) {
    (sale.version, sale.sale_terms(), sale.item.clone(), sale.offered)
}

/// The API server accepts the edit, the operator observes it and writes the ledger `writes` times. The same edit again
/// changes nothing.
async fn assert_applied(harness: &Harness, name: &str, spec: Value, writes: u64, is_so: impl Fn(&Sale) -> bool) {
    let before = harness.sale(name).await;
    let object = change(harness, name, &spec).await.expect(name);
    let what = format!("observed with {spec}");
    harness
        .until(name, &what, |status| {
            status.observed_generation == object.metadata.generation
        })
        .await;
    harness
        .eventually(&format!("{name}: {spec} is in the ledger"), async || {
            is_so(&harness.sale(name).await)
        })
        .await;
    let again = change(harness, name, &spec).await.expect(name);
    assert_eq!(again.metadata.generation, object.metadata.generation, "{name} {spec}");
    let after = harness.sale(name).await;
    assert_eq!(
        after.version,
        before.version + writes,
        "{name} {spec}: {before:#?} {after:#?}"
    );
    if writes == 0 {
        assert_eq!(editable(&after), editable(&before), "{name} {spec}");
    }
}

async fn assert_edits_outside_the_ledger(harness: &Harness, name: &str) {
    assert_refused(
        harness,
        name,
        json!({"className": "other"}),
        "spec.className: it can't change",
    )
    .await;
    assert_applied(harness, name, json!({"demand": {"apiReplicas": 2}}), 0, |_| true).await;
    assert_applied(harness, name, json!({"coolDownSeconds": 1}), 0, |_| true).await;
    assert_applied(harness, name, json!({"leadTimeSeconds": 61}), 0, |_| true).await;
}

async fn assert_edits_until_the_end(harness: &Harness, name: &str) {
    assert_applied(harness, name, json!({"suspend": true}), 1, |sale| {
        sale.state == SaleState::Suspended
    })
    .await;
    assert_applied(harness, name, json!({"suspend": false}), 1, |sale| {
        sale.state == SaleState::Open
    })
    .await;
    let before = harness.sale(name).await.closes_at;
    let later = json!({"endsAt": in_seconds(9000)});
    assert_applied(harness, name, later, 1, |sale| sale.closes_at > before).await;
    // The stock, and the number of orders that goes with it.
    assert_applied(harness, name, json!({"stock": 12}), 2, |sale| {
        (sale.offered, sale.orders_ever_max) == (12, 240)
    })
    .await;
    for most in [500, 30] {
        assert_applied(harness, name, json!({"ordersEverMax": most}), 1, |sale| {
            sale.orders_ever_max == most
        })
        .await;
    }
    let too_few = json!({"ordersEverMax": 12});
    assert_refused(
        harness,
        name,
        too_few,
        "spec.ordersEverMax: it must be greater than spec.stock",
    )
    .await;
    assert_applied(harness, name, json!({"maxPerOrder": 3}), 1, |sale| {
        sale.max_per_order == 3
    })
    .await;
}

async fn assert_fixed_after_preheating(harness: &Harness, name: &str) {
    let item = json!({"item": {"price": "1.00"}});
    assert_refused(
        harness,
        name,
        item,
        "spec.item: it can't change once the sale is preheated",
    )
    .await;
    let start = json!({"startsAt": in_seconds(-60)});
    assert_refused(harness, name, start, "use spec.suspend to delay the sale").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_preheating_all_fields_but_the_class_can_change() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("early", 3600, 3600, json!({})).await;
    harness.until_phase("early", Phase::Scheduled).await;
    assert_edits_outside_the_ledger(&harness, "early").await;
    assert_edits_until_the_end(&harness, "early").await;
    assert_applied(&harness, "early", json!({"stock": 3}), 1, |sale| sale.offered == 3).await;
    assert_applied(&harness, "early", json!({"maxPerOrder": 2}), 1, |sale| {
        sale.max_per_order == 2
    })
    .await;
    assert_applied(&harness, "early", json!({"item": {"price": "1.00"}}), 1, |sale| {
        sale.price == "1.00"
    })
    .await;
    let limited = json!({"access": {"issuer": "main"}, "limitPerBuyer": 3});
    assert_applied(&harness, "early", limited, 2, |sale| {
        (sale.issuer.as_deref(), sale.limit_per_buyer) == (Some("main"), 3)
    })
    .await;
    let anonymous = json!({"access": null, "limitPerBuyer": null});
    assert_applied(&harness, "early", anonymous, 2, |sale| {
        (sale.issuer.as_deref(), sale.limit_per_buyer) == (None, 0)
    })
    .await;
    let before = harness.sale("early").await.opens_at;
    let later = json!({"startsAt": in_seconds(4000)});
    assert_applied(&harness, "early", later, 1, |sale| sale.opens_at > before).await;
    harness.until_events("early", &["Accepted", "Suspended"]).await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_preheating_item_and_start_are_fixed_and_stock_rises_once() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness
        .apply("ready", 3600, 3600, json!({"leadTimeSeconds": 3700}))
        .await;
    harness.apply("open", -1, 3600, json!({})).await;
    for (name, phase) in [("ready", Phase::Ready), ("open", Phase::Open)] {
        harness.until_phase(name, phase).await;
        assert_fixed_after_preheating(&harness, name).await;
        assert_refused(
            &harness,
            name,
            json!({"stock": 9}),
            "to withdraw the remaining units, set an earlier spec.endsAt",
        )
        .await;
        assert_edits_until_the_end(&harness, name).await;
        let smaller = json!({"maxPerOrder": 2});
        assert_refused(
            &harness,
            name,
            smaller,
            "spec.maxPerOrder: it can only rise once the sale is preheated",
        )
        .await;
        harness
            .eventually("the bounds are in the index", async || {
                let index = harness.index(name).await;
                (index.terms.bounds.max_per_order, index.terms.bounds.orders_ever_max) == (3, 30)
            })
            .await;
        assert_edits_outside_the_ledger(&harness, name).await;
        harness
            .eventually("the two added units are offered", async || {
                harness.sale(name).await.total == 12
            })
            .await;
        let sale = harness.sale(name).await;
        let mut totals = 0;
        let count = |entry: Entry| {
            totals += usize::from(matches!(entry.record, Ok(Record::Total { sale: of, total: 12 }) if of == sale.id));
        };
        let end = harness.log.end_offset(sale.partition).await.expect("Kafka");
        harness.log.read(sale.partition, 0, end, count).await.expect("Kafka");
        // It is repeated if the worker is slow to store it.
        assert!(totals >= 1, "{totals}");
        let restocked = harness
            .events(name)
            .await
            .iter()
            .filter(|event| *event == "Restocked")
            .count();
        assert_eq!(restocked, 1);
    }
    assert_eq!(harness.buy("open", &["a"]).await, 1);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_of_a_buyer_changes_in_mid_sale_and_access_does_not() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    let limited = json!({"access": {"issuer": "main"}, "limitPerBuyer": 1});
    harness.apply("limited", -1, 3600, limited).await;
    harness.until_phase("limited", Phase::Open).await;
    assert_eq!(harness.index("limited").await.terms.limit, 1);
    for access in [json!(null), json!({"issuer": "other"})] {
        let refused = "spec.access: it can't change once the sale is preheated";
        assert_refused(&harness, "limited", json!({"access": access}), refused).await;
    }
    for (limit, units) in [(json!(5), 5), (json!(2), 2), (json!(null), 0)] {
        assert_applied(&harness, "limited", json!({"limitPerBuyer": limit}), 1, |sale| {
            sale.limit_per_buyer == units
        })
        .await;
        harness
            .eventually("the limit is in the index", async || {
                harness.index("limited").await.terms.limit == units
            })
            .await;
    }
    harness.apply("anonymous", -1, 3600, json!({})).await;
    harness.until_phase("anonymous", Phase::Open).await;
    let access = json!({"access": {"issuer": "main"}});
    assert_refused(&harness, "anonymous", access, "spec.access: it can't change once").await;
    let limit = json!({"limitPerBuyer": 1});
    assert_refused(&harness, "anonymous", limit, "an anonymous sale can't know its buyers").await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_sale_keeps_its_item_its_times_and_its_stock() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("over", -1, 3600, json!({})).await;
    harness.until_phase("over", Phase::Open).await;
    assert_eq!(harness.buy("over", &["a"]).await, 1);
    harness.end_in("over", 0).await;
    harness.until_phase("over", Phase::Settled).await;
    let settled = harness.sale("over").await;
    assert_fixed_after_preheating(&harness, "over").await;
    assert_edits_outside_the_ledger(&harness, "over").await;
    assert_applied(&harness, "over", json!({"suspend": true}), 0, |_| true).await;
    for stock in [9, 11] {
        assert_refused(&harness, "over", json!({"stock": stock}), "spec.stock: it can").await;
    }
    let later = json!({"endsAt": in_seconds(3600)});
    assert_refused(
        &harness,
        "over",
        later,
        "spec.endsAt: it can't change once the sale has ended",
    )
    .await;
    assert_eq!(harness.sale("over").await, settled);
    assert_eq!(harness.status("over").await.phase, Some(Phase::Settled));
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

/// Applies a manifest as a GitOps tool does.
async fn sync(harness: &Harness, manifest: &FlashSale) -> Result<FlashSale, kube::Error> {
    let params = PatchParams::apply("gitops").force();
    let sales = harness.api::<FlashSale>();
    sales
        .patch(&manifest.name_any(), &params, &Patch::Apply(manifest))
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reapplied_manifest_changes_nothing_and_an_old_one_is_refused() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    let old = harness.manifest("synced", -100, 3600, json!({"stock": 5}));
    let manifest = harness.manifest("synced", -1, 3600, json!({}));
    sync(&harness, &manifest).await.expect("applied");
    harness.until_phase("synced", Phase::Open).await;
    harness.until_reason("synced", "LedgerBalanced", "Balanced").await;
    harness.until_reason("synced", "WorkloadsScaled", "Scaled").await;
    harness.until_event("synced", "Opened").await;

    let sales = harness.api::<FlashSale>();
    let state = async || {
        let object = sales.get("synced").await.expect("it exists");
        let spec = (object.metadata.generation, object.spec.clone());
        (spec, harness.sale("synced").await, harness.events("synced").await)
    };
    let before = state().await;
    for _ in 0..100 {
        sync(&harness, &manifest).await.expect("applied");
    }
    for _ in 0..100 {
        harness
            .eventually_without_delay("the object is replaced", async || {
                let mut object = sales.get("synced").await.expect("it exists");
                object.spec = manifest.spec.clone();
                match sales.replace("synced", &PostParams::default(), &object).await {
                    // The operator wrote the status in between.
                    Err(kube::Error::Api(status)) if status.code == 409 => false,
                    replaced => replaced.is_ok(),
                }
            })
            .await;
    }
    assert_eq!(state().await, before);

    let refusal = sync(&harness, &old)
        .await
        .expect_err("the old manifest is refused")
        .to_string();
    for message in [
        "spec.stock: it can only rise",
        "to withdraw the remaining units, set an earlier spec.endsAt",
        "spec.startsAt: it can't change once the sale is preheated; use spec.suspend",
    ] {
        assert!(refusal.contains(message), "{refusal}");
    }
    assert_eq!(state().await, before);
    assert_eq!(harness.buy("synced", &["a"]).await, 1);

    // A person suspends the sale by the annotation, which the GitOps tool does not manage.
    let annotation = json!({"metadata": {"annotations": {"seckill.dev/suspend": "true"}}});
    harness.edit("synced", annotation).await;
    harness.until_phase("synced", Phase::Suspended).await;
    let suspended = sync(&harness, &manifest).await.expect("applied");
    assert!(suspended.annotations().contains_key("seckill.dev/suspend"));
    assert_eq!(harness.buy("synced", &["b"]).await, 0);
    assert_eq!(harness.sale("synced").await.state, SaleState::Suspended);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

/// What a preheating has appended before it failed.
async fn append_identity_and_total(harness: &Harness, name: &str) {
    let sale = harness.sale(name).await;
    let total = sale.offered;
    for record in [
        Record::Identity(Box::new(sale.identity())),
        Record::Total { sale: sale.id, total },
    ] {
        harness.log.append(sale.partition, &record).await.expect("Kafka");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_total_in_the_log_counts_as_preheated() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("failed", 3600, 3600, json!({})).await;
    harness.until_phase("failed", Phase::Scheduled).await;
    append_identity_and_total(&harness, "failed").await;
    harness
        .until("failed", "preheated", |status| status.preheated_at.is_some())
        .await;
    assert_fixed_after_preheating(&harness, "failed").await;
    let lower = json!({"stock": 5});
    assert_refused(&harness, "failed", lower, "spec.stock: it can only rise").await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lower_stock_is_not_offered_after_a_total_that_nobody_has_read() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("failed", 3600, 3600, json!({})).await;
    harness.until_phase("failed", Phase::Scheduled).await;
    worker.stop().await;
    append_identity_and_total(&harness, "failed").await;
    change(&harness, "failed", &json!({"stock": 5}))
        .await
        .expect("accepted");
    harness.until_reason("failed", "Reconciling", "LedgerUnavailable").await;
    assert_eq!(harness.sale("failed").await.offered, 10);
    let worker = harness.worker();
    let adopted = harness.until_reason("failed", "Accepted", "Adopted").await;
    assert_eq!(harness.sale("failed").await.offered, 10);
    let accepted = adopted.conditions.iter().find(|c| c.type_ == "Accepted");
    let message = &accepted.expect("reported").message;
    assert!(message.contains("spec.stock (10 units are offered)"), "{message}");
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
