//! What becomes of an edit, by field and by how far the sale is: the table of docs/operator.md.
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams, PostParams};
use seckill_crds::{FlashSale, Phase};
use seckill_ledger::Sale;
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

/// It is refused with these words, and nothing is changed.
async fn refused(harness: &Harness, name: &str, spec: Value, why: &str) {
    let sales = harness.api::<FlashSale>();
    let before = (sales.get(name).await.expect("there"), harness.sale(name).await);
    let refusal = change(harness, name, &spec).await.expect_err(&format!("{name} {spec}"));
    assert!(refusal.to_string().contains(why), "{name} {spec}: {refusal}");
    let after = sales.get(name).await.expect("there");
    assert_eq!(
        (after.metadata.generation, after.spec),
        (before.0.metadata.generation, before.0.spec)
    );
    assert_eq!(terms(&harness.sale(name).await), terms(&before.1), "{name} {spec}");
}

/// What an edit may change of a sale in the ledger.
fn terms(sale: &Sale) -> (u64, SaleState, u64, u64, Value, u64) {
    (
        sale.version,
        sale.state,
        sale.opens_at,
        sale.closes_at,
        sale.item.clone(),
        sale.offered,
    )
}

/// It is taken, seen, and written into the ledger that often; the same edit again is none.
async fn taken(harness: &Harness, name: &str, spec: Value, writes: u64, is: impl Fn(&Sale) -> bool) {
    let before = harness.sale(name).await;
    let object = change(harness, name, &spec).await.expect(name);
    let what = format!("{spec}, seen");
    harness
        .until(name, &what, |status| {
            status.observed_generation == object.metadata.generation
        })
        .await;
    harness
        .eventually(&format!("{name}: {spec} is in the ledger"), async || {
            is(&harness.sale(name).await)
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
        assert_eq!(terms(&after), terms(&before), "{name} {spec}");
    }
}

async fn what_never_matters_to_the_ledger(harness: &Harness, name: &str) {
    refused(
        harness,
        name,
        json!({"className": "other"}),
        "spec.className: it can't change",
    )
    .await;
    taken(harness, name, json!({"demand": {"apiReplicas": 2}}), 0, |_| true).await;
    taken(harness, name, json!({"coolDownSeconds": 1}), 0, |_| true).await;
    taken(harness, name, json!({"leadTimeSeconds": 6}), 0, |_| true).await;
}

async fn what_may_change_until_the_end(harness: &Harness, name: &str) {
    taken(harness, name, json!({"suspend": true}), 1, |sale| {
        sale.state == SaleState::Suspended
    })
    .await;
    taken(harness, name, json!({"suspend": false}), 1, |sale| {
        sale.state == SaleState::Open
    })
    .await;
    let before = harness.sale(name).await.closes_at;
    let later = json!({"endsAt": in_seconds(9000)});
    taken(harness, name, later, 1, |sale| sale.closes_at > before).await;
    taken(harness, name, json!({"stock": 12}), 1, |sale| sale.offered == 12).await;
}

async fn what_is_fixed_once_it_is_preheated(harness: &Harness, name: &str) {
    let item = json!({"item": {"price": "1.00"}});
    refused(
        harness,
        name,
        item,
        "spec.item: it can't change once the sale is preheated",
    )
    .await;
    let start = json!({"startsAt": in_seconds(-60)});
    refused(harness, name, start, "use spec.suspend to delay the sale").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_preheating_all_but_the_class_may_change() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("early", 3600, 3600, json!({})).await;
    harness.until_phase("early", Phase::Scheduled).await;
    what_never_matters_to_the_ledger(&harness, "early").await;
    what_may_change_until_the_end(&harness, "early").await;
    taken(&harness, "early", json!({"stock": 3}), 1, |sale| sale.offered == 3).await;
    taken(&harness, "early", json!({"item": {"price": "1.00"}}), 1, |sale| {
        sale.price == "1.00"
    })
    .await;
    let before = harness.sale("early").await.opens_at;
    let later = json!({"startsAt": in_seconds(4000)});
    taken(&harness, "early", later, 1, |sale| sale.opens_at > before).await;
    assert_eq!(harness.events("early").await, ["Accepted"]);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_preheated_a_sale_keeps_what_buyers_were_told_and_its_stock_rises_once() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness
        .apply("ready", 3600, 3600, json!({"leadTimeSeconds": 3700}))
        .await;
    harness.apply("open", -1, 3600, json!({})).await;
    for (name, phase) in [("ready", Phase::Ready), ("open", Phase::Open)] {
        harness.until_phase(name, phase).await;
        what_is_fixed_once_it_is_preheated(&harness, name).await;
        refused(
            &harness,
            name,
            json!({"stock": 9}),
            "to withdraw the remaining units, set an earlier spec.endsAt",
        )
        .await;
        what_may_change_until_the_end(&harness, name).await;
        what_never_matters_to_the_ledger(&harness, name).await;
        harness
            .eventually("the two more are offered", async || {
                harness.sale(name).await.total == 12
            })
            .await;
        let sale = harness.sale(name).await;
        let mut totals = 0;
        let count = |entry: Entry| {
            totals += usize::from(matches!(entry.record, Ok(Record::Total { sale: of, total: 12 }) if of == sale.id));
        };
        let end = harness.log.end_offset(sale.part).await.expect("Kafka");
        harness.log.read(sale.part, 0, end, count).await.expect("Kafka");
        assert_eq!(totals, 1);
        let restocked = harness
            .events(name)
            .await
            .iter()
            .filter(|event| *event == "Restocked")
            .count();
        assert_eq!(restocked, 1);
    }
    assert_eq!(harness.buy_surely("open", &["a"]).await, 1);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_sale_that_has_ended_nothing_that_was_sold_can_be_changed() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("over", -1, 3600, json!({})).await;
    harness.until_phase("over", Phase::Open).await;
    assert_eq!(harness.buy_surely("over", &["a"]).await, 1);
    harness.ends_in("over", 0).await;
    harness.until_phase("over", Phase::Settled).await;
    let settled = harness.sale("over").await;
    what_is_fixed_once_it_is_preheated(&harness, "over").await;
    what_never_matters_to_the_ledger(&harness, "over").await;
    taken(&harness, "over", json!({"suspend": true}), 0, |_| true).await;
    for stock in [9, 11] {
        refused(&harness, "over", json!({"stock": stock}), "spec.stock: it can").await;
    }
    let later = json!({"endsAt": in_seconds(3600)});
    refused(
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

/// As a GitOps tool does it.
async fn sync(harness: &Harness, manifest: &FlashSale) -> Result<FlashSale, kube::Error> {
    let params = PatchParams::apply("gitops").force();
    let sales = harness.api::<FlashSale>();
    sales
        .patch(&manifest.name_any(), &params, &Patch::Apply(manifest))
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_is_applied_again_and_again_changes_nothing_and_an_old_one_is_refused() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    let old = harness.manifest("synced", -100, 3600, json!({"stock": 5}));
    let manifest = harness.manifest("synced", -1, 3600, json!({}));
    sync(&harness, &manifest).await.expect("applied");
    harness.until_phase("synced", Phase::Open).await;
    harness.until_reason("synced", "LedgerBalanced", "Balanced").await;
    harness.until_reason("synced", "WorkloadsScaled", "Scaled").await;
    harness
        .eventually("its events are written", async || {
            harness.events("synced").await.contains(&"Opened".to_owned())
        })
        .await;

    let sales = harness.api::<FlashSale>();
    let state = async || {
        let object = sales.get("synced").await.expect("there");
        let seen = (object.metadata.generation, object.spec.clone());
        (seen, harness.sale("synced").await, harness.events("synced").await)
    };
    let before = state().await;
    for _ in 0..100 {
        sync(&harness, &manifest).await.expect("applied");
    }
    for _ in 0..100 {
        harness
            .eventually_soon("it is replaced", async || {
                let mut object = sales.get("synced").await.expect("there");
                object.spec = manifest.spec.clone();
                match sales.replace("synced", &PostParams::default(), &object).await {
                    // The operator wrote figures in between.
                    Err(kube::Error::Api(status)) if status.code == 409 => false,
                    replaced => replaced.is_ok(),
                }
            })
            .await;
    }
    assert_eq!(state().await, before);

    let refusal = sync(&harness, &old).await.expect_err("it is refused").to_string();
    for what in [
        "spec.stock: it can only rise",
        "to withdraw the remaining units, set an earlier spec.endsAt",
        "spec.startsAt: it can't change once the sale is preheated; use spec.suspend",
    ] {
        assert!(refusal.contains(what), "{refusal}");
    }
    assert_eq!(state().await, before);
    assert_eq!(harness.buy_surely("synced", &["a"]).await, 1);

    // A person stops it; the tool does not know of that.
    let annotation = json!({"metadata": {"annotations": {"seckill.dev/suspend": "true"}}});
    harness.edit("synced", annotation).await;
    harness.until_phase("synced", Phase::Suspended).await;
    let suspended = sync(&harness, &manifest).await.expect("applied");
    assert!(suspended.annotations().contains_key("seckill.dev/suspend"));
    assert_eq!(harness.buy_surely("synced", &["b"]).await, 0);
    assert_eq!(harness.sale("synced").await.state, SaleState::Suspended);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
