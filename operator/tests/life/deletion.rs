//! FlashSales that go away: whose sales end, and when.
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use seckill_crds::{FlashSale, Phase};
use seckill_ledger::{NewSale, Offer, SaleTerms};
use seckill_protocol::Format;
use seckill_protocol::index::{Decision, SaleState};
use serde_json::json;

use crate::harness::{self, Harness, RunningProgram, remove_flag, set_flag, status_and_reason};
use crate::proxy::{Fault, Proxy};

const WITHOUT_FLASH_SALE: &str = "seckill_operator_sales_without_flash_sale";

/// An operator of this cluster with its own lease and grace.
fn operator_with_grace(harness: &Harness, lease: &str, seconds: u32) -> RunningProgram {
    let mut args = harness.operator_args(lease, 15);
    set_flag(&mut args, "--deletion-grace-seconds", &seconds.to_string());
    harness.operator_with_client(&harness.kube, args)
}

/// An operator that leads beside the others, with another cluster identity.
fn operator_of(harness: &Harness, identity: &str, kube: &Client, more: &[&str]) -> RunningProgram {
    let mut args = harness.operator_args(identity, 15);
    set_flag(&mut args, "--cluster-identity", identity);
    args.extend(more.iter().map(|word| (*word).to_owned()));
    harness.operator_with_client(kube, args)
}

/// Settlements one after the other. Each needs a check of the sales without a FlashSale, and checks are a second apart.
const CHECKS_LONGER_THAN_A_DELETION: u32 = 8;

/// Waits until the operator of a cluster has checked the sales without a FlashSale for longer than a deletion takes. The
/// sales that it settles meanwhile have ended, so they do not look like a mass deletion.
async fn until_checked(harness: &Harness, cluster: &str) {
    for n in 0..CHECKS_LONGER_THAN_A_DELETION {
        let name = format!("ended-{n}");
        create_ended_row(harness, &name, cluster).await;
        until_settled(harness, &name).await;
    }
}

/// A sale in the ledger that has ended, and whose FlashSale never existed here.
async fn create_ended_row(harness: &Harness, name: &str, cluster: &str) {
    let now = harness.redis_now().await;
    let new = NewSale {
        class: harness.name.clone(),
        namespace: harness.namespace.clone(),
        name: name.to_owned(),
        cluster: Some(cluster.to_owned()),
        uid: "none".into(),
        partition: 0,
        format: Format::FIRST,
        terms: SaleTerms {
            state: SaleState::Closed,
            opens_at: now,
            closes_at: now,
            limit_per_buyer: 0,
            max_per_order: 1,
            orders_ever_max: 0,
            tier_limits: Default::default(),
        },
        offer: Offer {
            item: json!({"sku": "s"}),
            item_id: None,
            issuer: None,
            tiers: None,
            price: "1.00".into(),
            currency: "EUR".into(),
            offered: 1,
        },
    };
    harness.ledger.create_sale(&new).await.expect("created");
}

async fn until_settled(harness: &Harness, name: &str) {
    let what = format!("{name} is settled");
    harness
        .eventually(&what, async || harness.sale(name).await.settled_at_ms.is_some())
        .await;
}

async fn until_state(harness: &Harness, name: &str, state: SaleState) {
    let what = format!("{name} is {state:?}");
    harness
        .eventually(&what, async || harness.sale(name).await.state == state)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_in_an_empty_cluster_leaves_open_sales_alone() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("open", -1, 3600, json!({})).await;
    harness.until_phase("open", Phase::Open).await;
    assert_eq!(harness.buy("open", &["a"]).await, 1);
    let before = harness.sale("open").await;

    let mut proxy = Proxy::start(harness::upstream().await).await;
    proxy.set(Fault::EmptyCluster).await;
    let staging = operator_of(&harness, "staging", &proxy.client(), &[]);
    until_checked(&harness, "staging").await;
    let after = harness.sale("open").await;
    assert_eq!(
        (after.state, after.version, after.cluster),
        (SaleState::Open, before.version, before.cluster)
    );
    assert_eq!(staging.gauge(WITHOUT_FLASH_SALE).await, Some(0));
    assert_eq!(harness.buy("open", &["b"]).await, 1);
    staging.stop().await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

/// As after a restore of etcd from a backup that is older than the sale.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flash_sale_that_the_cluster_has_lost_ends_no_sale() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("open", -1, 3600, json!({})).await;
    harness.until_phase("open", Phase::Open).await;
    operator.stop().await;

    let mut proxy = Proxy::start(harness::upstream().await).await;
    proxy.set(Fault::EmptyCluster).await;
    let args = harness.operator_args("operator", 15);
    let operator = harness.operator_with_client(&proxy.client(), args);
    until_checked(&harness, harness::CLUSTER).await;
    assert_eq!(harness.sale("open").await.state, SaleState::Open);
    assert_eq!(operator.gauge(WITHOUT_FLASH_SALE).await, Some(1));
    // It even keeps its index.
    let lost = harness.sale("open").await;
    harness.stock.drop_sale(lost.id).await.expect("Redis");
    harness
        .eventually("the index is rebuilt", async || {
            harness.sale("open").await.live_epoch > lost.live_epoch
        })
        .await;
    assert_eq!(harness.buy("open", &["a"]).await, 1);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_name_of_another_cluster_is_refused_until_it_is_taken_over() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("moves", -1, 3600, json!({})).await;
    harness.until_phase("moves", Phase::Open).await;
    assert_eq!(harness.buy("moves", &["a"]).await, 1);
    harness
        .eventually("the order is in the ledger", async || {
            harness.orders("moves").await == 1
        })
        .await;
    operator.stop().await;
    let before = harness.sale("moves").await;
    assert_eq!(before.cluster.as_deref(), Some(harness::CLUSTER));
    harness.stock.drop_sale(before.id).await.expect("Redis");
    let end = harness.log.end_offset(before.partition).await.expect("Kafka");

    let stranger = operator_of(&harness, "new", &harness.kube, &[]);
    let refused = harness.until_reason("moves", "Accepted", "OtherCluster").await;
    assert_eq!(refused.phase, None);
    assert_eq!(status_and_reason(&refused, "Accepted"), ("False", "OtherCluster"));
    assert_eq!(status_and_reason(&refused, "Ready"), ("False", "OtherCluster"));
    assert_eq!(status_and_reason(&refused, "Stalled"), ("True", "OtherCluster"));
    // An edit and a deletion of that FlashSale change nothing either.
    harness.edit("moves", json!({"spec": {"suspend": true}})).await;
    harness
        .until("moves", "observed", |status| {
            status.observed_generation > refused.observed_generation
        })
        .await;
    harness.delete("moves").await;
    until_checked(&harness, "new").await;
    assert_eq!(harness.sale("moves").await, before);
    assert!(!harness.has_index("moves").await);
    stranger.stop().await;

    let records = harness.records_after(before.partition, end, before.id).await;
    assert_eq!(records, 0, "a record of the sale was written");
    harness.apply("moves", -1, 3600, json!({})).await;
    let heir = operator_of(&harness, "new", &harness.kube, &["--take-over-from", harness::CLUSTER]);
    harness.until_phase("moves", Phase::Open).await;
    let after = harness.sale("moves").await;
    assert_eq!((after.id, after.cluster.as_deref()), (before.id, Some("new")));
    assert_eq!(harness.buy("moves", &["a", "b"]).await, 1);
    heir.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_identity_of_a_cluster_is_the_uid_of_kube_system() {
    let harness = Harness::new().await;
    let mut args = harness.operator_args("operator", 15);
    remove_flag(&mut args, "--cluster-identity");
    let operator = harness.operator_with_client(&harness.kube, args);
    harness.apply("named", 3600, 3600, json!({})).await;
    harness.until_phase("named", Phase::Scheduled).await;
    let namespaces: Api<Namespace> = Api::all(harness.kube.clone());
    let system = namespaces.get("kube-system").await.expect("it exists");
    assert_eq!(harness.sale("named").await.cluster, system.uid());
    operator.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flash_sale_that_comes_back_within_the_grace_resumes_its_sale() {
    let harness = Harness::new().await;
    let (operator, worker) = (operator_with_grace(&harness, "operator", 3600), harness.worker());
    harness.apply("back", -1, 3600, json!({})).await;
    harness.until_phase("back", Phase::Open).await;
    assert_eq!(harness.buy("back", &["a"]).await, 1);
    harness.delete("back").await;
    until_state(&harness, "back", SaleState::Suspended).await;
    assert!(harness.sale("back").await.missing_since_ms.is_some());
    // A purchase before that would succeed.
    harness
        .eventually("the index is suspended", async || {
            harness.index("back").await.terms.state == SaleState::Suspended
        })
        .await;
    assert_eq!(harness.try_buy("back", &["b"]).await, [Decision::Suspended]);

    harness.apply("back", -1, 3600, json!({})).await;
    let open = harness.until_phase("back", Phase::Open).await;
    assert_eq!(status_and_reason(&open, "Accepted"), ("True", "Adopted"), "{open:#?}");
    let sale = harness.sale("back").await;
    assert_eq!((sale.state, sale.missing_since_ms), (SaleState::Open, None));
    assert_eq!(harness.buy("back", &["a", "b"]).await, 1);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_leader_continues_the_grace_of_a_deletion() {
    let harness = Harness::new().await;
    let (first, worker) = (operator_with_grace(&harness, "operator", 3600), harness.worker());
    for name in ["gone", "back"] {
        harness.apply(name, -1, 3600, json!({})).await;
        harness.until_phase(name, Phase::Open).await;
    }
    harness.delete("gone").await;
    until_state(&harness, "gone", SaleState::Suspended).await;
    first.stop().await;
    let since = harness.sale("gone").await.missing_since_ms;
    assert!(since.is_some());
    // The other one was deleted too, and came back while nobody led.
    let back = harness.sale("back").await.id;
    harness.ledger.record_deletion(back, 1).await.expect("MySQL");

    // This leader has seen no deletion. The row has.
    let next = operator_with_grace(&harness, "operator", 1);
    until_settled(&harness, "gone").await;
    assert_eq!(harness.sale("gone").await.missing_since_ms, since);
    harness
        .eventually("the deletion of the other one is forgotten", async || {
            let back = harness.sale("back").await;
            (back.state, back.missing_since_ms) == (SaleState::Open, None)
        })
        .await;
    next.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mass_deletion_is_held_back_until_a_person_confirms_it() {
    const SALES: [&str; 4] = ["one", "two", "three", "four"];
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    for name in SALES {
        harness.apply(name, -1, 3600, json!({})).await;
    }
    for name in SALES {
        harness.until_phase(name, Phase::Open).await;
    }
    let all: Api<FlashSale> = harness.api();
    all.delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .expect("deleted");
    let mut token = String::new();
    harness
        .eventually("the deletions are announced", async || {
            let events = harness
                .api::<Event>()
                .list(&ListParams::default())
                .await
                .expect("listed");
            let held = events
                .into_iter()
                .filter(|e| e.reason.as_deref() == Some("MassDeletionHeldBack"));
            // The deletions may have been seen in two steps. The last announcement names all of them.
            let held = held
                .filter_map(|event| event.note)
                .find(|note| note.starts_with("4 FlashSales"));
            token = held.map(|note| token_of(&note)).unwrap_or_default();
            !token.is_empty()
        })
        .await;
    until_checked(&harness, harness::CLUSTER).await;
    for name in SALES {
        assert_eq!(harness.sale(name).await.state, SaleState::Open, "{name}");
        assert_eq!(harness.buy(name, &["a"]).await, 1);
    }
    assert_eq!(operator.gauge(WITHOUT_FLASH_SALE).await, Some(4));

    let annotation = json!({"metadata": {"annotations": {"seckill.dev/end-missing": token}}});
    harness
        .api::<Lease>()
        .patch("operator", &PatchParams::default(), &Patch::Merge(annotation))
        .await
        .expect("annotated");
    for name in SALES {
        until_settled(&harness, name).await;
        assert_eq!(harness.sale(name).await.sold, 1, "{name}");
    }
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

/// From the command that an event recommends.
fn token_of(note: &str) -> String {
    let (_, token) = note.rsplit_once("seckill.dev/end-missing=").expect("a command");
    token.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_a_namespace_ends_all_its_sales() {
    const SALES: [&str; 4] = ["one", "two", "three", "four"];
    let harness = Harness::new().await;
    let other = harness.another_namespace().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    for name in SALES {
        other.apply(name, -1, 3600, json!({})).await;
    }
    for name in SALES {
        other.until_phase(name, Phase::Open).await;
    }
    other.delete_namespace().await;
    for name in SALES {
        until_settled(&other, name).await;
    }
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flash_sale_held_by_a_foreign_finalizer_counts_as_deleted() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("kept", -1, 3600, json!({})).await;
    let finalizers = |names: serde_json::Value| json!({"metadata": {"finalizers": names}});
    harness.edit("kept", finalizers(json!(["example.com/theirs"]))).await;
    harness.until_phase("kept", Phase::Open).await;
    harness.delete("kept").await;
    harness.until_phase("kept", Phase::Settled).await;
    harness.edit("kept", finalizers(json!(null))).await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
