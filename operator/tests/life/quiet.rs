//! Many sales at once: beside each other, and while nothing happens.
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt as _};
use seckill_crds::{FlashSale, Phase};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::harness::Harness;

type Objects = BTreeMap<String, Value>;

async fn objects<K>(harness: &Harness) -> Objects
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let all = harness.api::<K>().list(&ListParams::default()).await.expect("listed");
    let named = |mut object: K| {
        object.managed_fields_mut().clear();
        let name = format!("{} {}", K::kind(&()), object.name_any());
        (name, serde_json::to_value(object).expect("serializes"))
    };
    all.items.into_iter().map(named).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_nothing_happens_nothing_is_written() {
    const OF_EACH: usize = 12;
    // A real kubelet looks at the pods now and then and finds no image: in this harness only pods that never start stand still.
    let harness = Harness::without_pods().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    for n in 0..OF_EACH {
        harness.apply(&format!("scheduled-{n}"), 3600, 3600, json!({})).await;
        harness.apply(&format!("open-{n}"), -1, 3600, json!({})).await;
        harness.apply(&format!("settled-{n}"), -100, 50, json!({})).await;
    }
    for n in 0..OF_EACH {
        harness.until_phase(&format!("scheduled-{n}"), Phase::Scheduled).await;
        harness.until_phase(&format!("open-{n}"), Phase::Open).await;
        harness.until_phase(&format!("settled-{n}"), Phase::Settled).await;
    }
    // But the Lease: it is renewed all the time.
    let all = async || {
        let mut all = objects::<FlashSale>(&harness).await;
        all.extend(objects::<Deployment>(&harness).await);
        let mut events = objects::<Event>(&harness).await;
        events.retain(|_, event| event["reportingController"] == "seckill-operator");
        assert!(events.len() >= 3 * OF_EACH, "{events:#?}");
        all.extend(events);
        all
    };
    // The last figures and events are on their way.
    let mut before = all().await;
    harness
        .eventually("it is quiet for some seconds", async || {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let now = all().await;
            std::mem::replace(&mut before, now) == before
        })
        .await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let after = all().await;
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
async fn sales_of_one_name_in_many_namespaces_are_none_of_each_other_s_business() {
    let harness = Harness::new().await;
    let mut beds = Vec::new();
    for _ in 0..10 {
        beds.push(harness.one_more_namespace().await);
    }
    let (operator, worker) = (harness.operator(), harness.worker());
    for (n, harness) in beds.iter().enumerate() {
        harness.apply("monday", -1, 3600, json!({"stock": n + 1})).await;
        harness.apply("tuesday", 3600, 3600, json!({"stock": n + 1})).await;
    }
    let buyers: Vec<String> = (0..20).map(|n| format!("buyer-{n}")).collect();
    let buyers: Vec<&str> = buyers.iter().map(String::as_str).collect();
    for (n, harness) in beds.iter().enumerate() {
        harness.until_phase("monday", Phase::Open).await;
        harness.until_phase("tuesday", Phase::Scheduled).await;
        // One is left in each but the first, by the same buyers everywhere.
        assert_eq!(harness.buy_surely("monday", &buyers[..n.max(1)]).await, n.max(1));
    }
    let (gone, rest) = beds.split_first().expect("ten");
    gone.delete("monday").await;
    gone.eventually("it is settled", async || {
        gone.sale("monday").await.settled_at_ms.is_some()
    })
    .await;
    assert_eq!((gone.sale("monday").await.sold, gone.orders("monday").await), (1, 1));
    gone.until_phase("tuesday", Phase::Scheduled).await;
    for (n, harness) in rest.iter().enumerate().map(|(n, harness)| (n + 1, harness)) {
        let units = i64::try_from(n).expect("few");
        let status = harness
            .until("monday", "sampled", |status| {
                status
                    .ledger
                    .as_ref()
                    .is_some_and(|l| l.sold == units && l.remaining == 1)
            })
            .await;
        assert_eq!(status.phase, Some(Phase::Open));
        assert_eq!(harness.orders("monday").await, n);
        harness.until_phase("tuesday", Phase::Scheduled).await;
        assert_eq!(harness.buy_surely("monday", &["last", "too late"]).await, 1);
    }
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
