//! Many sales at the same time: no writes while nothing changes, and no influence on each other.
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt as _};
use seckill_crds::{FlashSale, Phase};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::harness::{self, Harness, written_by_operator};
use crate::proxy::Proxy;

type Objects = BTreeMap<String, Value>;

/// What an operator may write of all objects of a kind, by name.
async fn objects<K>(harness: &Harness, of_operator: impl Fn(&K) -> Value) -> Objects
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let all = harness.api::<K>().list(&ListParams::default()).await.expect("listed");
    let named = |object: K| (format!("{} {}", K::kind(&()), object.name_any()), of_operator(&object));
    all.items.into_iter().map(named).collect()
}

/// All objects but the Lease, which is renewed all the time.
async fn all_objects(harness: &Harness) -> Objects {
    let mut all = objects::<FlashSale>(harness, written_by_operator).await;
    let replicas = |deployment: &Deployment| json!(deployment.spec.as_ref().and_then(|spec| spec.replicas));
    all.extend(objects::<Deployment>(harness, replicas).await);
    let event = |event: &Event| json!([event.reporting_controller, event.regarding, event.reason, event.series]);
    let mut events = objects::<Event>(harness, event).await;
    events.retain(|_, event| event[0] == "seckill-operator");
    all.extend(events);
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_operator_asks_the_api_server_nothing() {
    let harness = Harness::new().await;
    let proxy = Proxy::start(harness::upstream().await).await;
    let operator = harness.operator_with_client(&proxy.client(), harness.operator_args("operator", 15));
    let worker = harness.worker();
    harness.apply("open", -1, 3600, json!({})).await;
    harness.apply("later", 3600, 3600, json!({})).await;
    harness.until_phase("open", Phase::Open).await;
    harness.until_phase("later", Phase::Scheduled).await;
    // Late writes of statuses, and now and then a look for KEDA, are no polling.
    harness
        .eventually("nothing is asked while the Lease is renewed", async || {
            proxy.take_asked();
            harness.until_lease_is_renewed(4).await;
            proxy.take_asked().is_empty()
        })
        .await;
    // It sees what changes all the same.
    harness
        .edit(
            "later",
            json!({"spec": {"leadTimeSeconds": 3700, "demand": {"apiReplicas": 2}}}),
        )
        .await;
    harness.until_phase("later", Phase::Ready).await;
    assert_eq!(harness.replicas("api").await, 2);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_while_nothing_changes() {
    const SALES_PER_PHASE: usize = 12;
    // A real kubelet, if the cluster has one, can't pull the image. It would reset the readiness that the harness
    // reports, and the Deployments would change. So no pod is reported as ready here.
    let harness = Harness::without_pods().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    for n in 0..SALES_PER_PHASE {
        harness.apply(&format!("scheduled-{n}"), 3600, 3600, json!({})).await;
        harness.apply(&format!("open-{n}"), -1, 3600, json!({})).await;
        harness.apply(&format!("settled-{n}"), -100, 50, json!({})).await;
    }
    for n in 0..SALES_PER_PHASE {
        harness.until_phase(&format!("scheduled-{n}"), Phase::Scheduled).await;
        harness.until_phase(&format!("open-{n}"), Phase::Open).await;
        harness.until_phase(&format!("settled-{n}"), Phase::Settled).await;
    }
    // Some writes of status and events may still follow.
    let mut before = all_objects(&harness).await;
    harness
        .eventually("nothing is written while the Lease is renewed", async || {
            harness.until_lease_is_renewed(3).await;
            let now = all_objects(&harness).await;
            std::mem::replace(&mut before, now) == before
        })
        .await;
    let is_event = |name: &&String| name.starts_with("Event ");
    assert!(
        before.keys().filter(is_event).count() >= 3 * SALES_PER_PHASE,
        "{before:#?}"
    );
    // In this time each sale is reconciled.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let after = all_objects(&harness).await;
    let written: Vec<_> = after
        .iter()
        .filter(|(name, object)| before.get(*name) != Some(object))
        .collect();
    let were: Vec<_> = written.iter().map(|(name, _)| before.get(*name)).collect();
    assert!(written.is_empty(), "{written:#?} were {were:#?}");
    assert_eq!(after.len(), before.len());
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sales_of_one_name_in_many_namespaces_are_independent() {
    let harness = Harness::new().await;
    let mut namespaces = Vec::new();
    for _ in 0..10 {
        namespaces.push(harness.another_namespace().await);
    }
    let (operator, worker) = (harness.operator(), harness.worker());
    for (n, harness) in namespaces.iter().enumerate() {
        harness.apply("monday", -1, 3600, json!({"stock": n + 1})).await;
        harness.apply("tuesday", 3600, 3600, json!({"stock": n + 1})).await;
    }
    let buyers: Vec<String> = (0..20).map(|n| format!("buyer-{n}")).collect();
    let buyers: Vec<&str> = buyers.iter().map(String::as_str).collect();
    for (n, harness) in namespaces.iter().enumerate() {
        harness.until_phase("monday", Phase::Open).await;
        harness.until_phase("tuesday", Phase::Scheduled).await;
        // One unit is left in each namespace but the first. The buyers are the same in all namespaces.
        assert_eq!(harness.buy("monday", &buyers[..n.max(1)]).await, n.max(1));
    }
    let (first, others) = namespaces.split_first().expect("ten");
    first.delete("monday").await;
    first
        .eventually("the sale is settled", async || {
            first.sale("monday").await.settled_at_ms.is_some()
        })
        .await;
    assert_eq!((first.sale("monday").await.sold, first.orders("monday").await), (1, 1));
    first.until_phase("tuesday", Phase::Scheduled).await;
    for (n, harness) in others.iter().enumerate().map(|(n, harness)| (n + 1, harness)) {
        let units = i64::try_from(n).expect("few");
        let status = harness
            .until("monday", "sampled with all orders", |status| {
                status
                    .ledger
                    .as_ref()
                    .is_some_and(|l| l.sold == units && l.remaining == 1)
            })
            .await;
        assert_eq!(status.phase, Some(Phase::Open));
        assert_eq!(harness.orders("monday").await, n);
        harness.until_phase("tuesday", Phase::Scheduled).await;
        assert_eq!(harness.buy("monday", &["last", "refused"]).await, 1);
    }
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
