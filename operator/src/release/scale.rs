//! Keeps the two Deployments at what the sales ask for. They are shared by all sales of the release, so no sale scales
//! them: each states its demand, and this adds them up, between floor and ceiling.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;

use crate::args::DeploymentName;
use crate::facts::{Millis, Wanted, now};
use crate::memory::Key;
use crate::plan::Standing;
use crate::run::Operator;
use crate::watch::Sales;

const EVERY: Duration = Duration::from_secs(1);
/// How often KEDA's objects are looked for; what they do with a Deployment they do through an autoscaler of Kubernetes.
const EVERY_KEDA: Duration = Duration::from_secs(10);

/// A Deployment and the replicas that it may have.
#[derive(Debug, Clone)]
pub struct Scaled {
    pub name: DeploymentName,
    pub floor: i32,
    pub ceiling: i32,
}

/// A Deployment as it was seen last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub name: String,
    pub ceiling: i32,
    pub floor: i32,
    pub ready: i32,
    /// The autoscaler that has it in charge.
    pub autoscaler: Option<String>,
    /// Why pods of it find no node.
    pub unschedulable: Option<String>,
}

/// The pods that must be there for a sale to have its own: those that it asks for, and those of the sales before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    pub api: i32,
    pub worker: i32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workloads {
    pub api: Result<Workload, String>,
    pub worker: Result<Workload, String>,
    /// Of each sale that needs pods now.
    pub needs: HashMap<Key, Needs>,
}

/// What is missing for a sale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shortage {
    Unknown(String),
    Starting(String),
    Ceiling(String),
    Autoscaler(String),
}

impl Default for Workloads {
    fn default() -> Self {
        let unseen = || Err("the Deployments were not looked at yet".to_owned());
        Workloads {
            api: unseen(),
            worker: unseen(),
            needs: HashMap::new(),
        }
    }
}

impl Workloads {
    /// What a sale lacks of the pods that it needs; a sale that asks for none needs the floor, and at least one.
    pub fn shortage(&self, sale: &Key) -> Option<Shortage> {
        let Some(needs) = self.needs.get(sale) else {
            return Some(Shortage::Starting("its pods are about to be asked for".to_owned()));
        };
        shortage(&self.api, needs.api).or_else(|| shortage(&self.worker, needs.worker))
    }

    /// Those that have one of the Deployments in charge.
    pub fn autoscalers(&self) -> Vec<&str> {
        let seen = [&self.api, &self.worker].into_iter().filter_map(|w| w.as_ref().ok());
        seen.filter_map(|w| w.autoscaler.as_deref()).collect()
    }
}

fn shortage(workload: &Result<Workload, String>, needed: i32) -> Option<Shortage> {
    let workload = match workload {
        Ok(workload) => workload,
        Err(why) => return Some(Shortage::Unknown(why.clone())),
    };
    let Workload {
        name,
        ceiling,
        floor,
        ready,
        autoscaler,
        unschedulable,
    } = workload;
    let needed = needed.max(*floor).max(1);
    if *ready >= needed {
        return None;
    }
    let mut have = format!("{name} has {ready} ready pods of {needed}");
    if let Some(why) = unschedulable {
        have = format!("{have}; {why}");
    }
    Some(match autoscaler {
        Some(autoscaler) => Shortage::Autoscaler(format!("{have}; {autoscaler} is in charge of it")),
        None if needed > *ceiling => Shortage::Ceiling(format!(
            "{have}, for it and the sales that start before it; the release's ceiling is {ceiling}"
        )),
        None => Shortage::Starting(have),
    })
}

/// Adds up what the sales ask for, in the order of their starts: at the ceiling those that start first have theirs. More
/// workers than the log has partitions would have nothing to do.
pub fn needs(mut sales: Vec<(Key, Wanted)>, partitions: i32) -> HashMap<Key, Needs> {
    sales.sort_by_cached_key(|(key, wanted)| (wanted.starts_at(), key.clone()));
    let mut sum = Needs::default();
    let added = sales.into_iter().map(|(key, wanted)| {
        let demand = wanted.spec.demand.unwrap_or_default();
        sum.api = sum.api.saturating_add(demand.api_replicas.unwrap_or_default());
        sum.worker = sum.worker.saturating_add(demand.worker_replicas.unwrap_or_default());
        sum.worker = sum.worker.min(partitions);
        (key, sum)
    });
    added.collect()
}

/// What the sales ask for in all: at least one pod if there is a sale that needs any.
fn most(needs: &HashMap<Key, Needs>, of: impl Fn(&Needs) -> i32) -> i32 {
    needs.values().map(|needs| of(needs).max(1)).max().unwrap_or_default()
}

/// From the lead time before the start until the cool-down after the end, and until it is settled. A sale is settled when
/// the ledger has read all that the log has of it, so that no worker is taken away that has still to store its orders.
pub fn needs_pods(wanted: &Wanted, standing: Standing, now: Millis) -> bool {
    let cool_down = 1000 * u64::try_from(wanted.spec.cool_down_seconds).unwrap_or_default();
    match standing {
        Standing::Refused => false,
        _ if now < wanted.preheat_at() => false,
        Standing::Unsettled => true,
        Standing::Settled => now < wanted.ends_at().saturating_add(cool_down),
    }
}

/// Runs until the term ends.
pub async fn run(operator: Arc<Operator>, sales: Sales, seen: watch::Sender<Arc<Workloads>>) {
    let partitions = i32::try_from(operator.log.partitions()).unwrap_or(i32::MAX);
    let (mut keda, mut keda_seen): (Keda, Option<Instant>) = (Keda::default(), None);
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if !operator.term.holds() {
            continue;
        }
        if keda_seen.is_none_or(|at| at.elapsed() >= EVERY_KEDA) {
            keda = Keda::of(&operator).await;
            keda_seen = Some(Instant::now());
        }
        let now = now();
        // Before all FlashSales are known, a demand that is not seen is not a demand of zero.
        let may_shrink = sales.know_all();
        let sales = sales.all(&operator.class).into_iter().filter_map(|object| {
            let (key, wanted) = (Key::of(&object), Wanted::of(&object));
            // Before it was looked at, its times alone decide.
            let standing = operator.memory.standing(&key);
            needs_pods(&wanted, standing.unwrap_or(Standing::Unsettled), now).then_some((key, wanted))
        });
        let needs = needs(sales.collect(), partitions);
        // A sale whose FlashSale is gone settles too, and for that needs a worker.
        let settling = i32::from(operator.memory.any_ending());
        let (api, worker) = (most(&needs, |n| n.api), most(&needs, |n| n.worker).max(settling));
        operator.metrics.demand(api, worker);
        let (api, worker) = tokio::join!(
            reconcile(&operator.kube, &operator.api, api, may_shrink, &keda),
            reconcile(&operator.kube, &operator.worker, worker, may_shrink, &keda),
        );
        let workloads = Workloads { api, worker, needs };
        seen.send_if_modified(|last| {
            let changed = **last != workloads;
            if changed {
                for error in [&workloads.api, &workloads.worker]
                    .into_iter()
                    .filter_map(|w| w.as_ref().err())
                {
                    tracing::warn!("scaling: {error}");
                }
                *last = Arc::new(workloads);
            }
            changed
        });
    }
}

/// Sets the replicas of a Deployment to what is asked for, between floor and ceiling, unless an autoscaler has it in
/// charge.
async fn reconcile(
    kube: &Client,
    scaled: &Scaled,
    asked: i32,
    may_shrink: bool,
    keda: &Keda,
) -> Result<Workload, String> {
    let DeploymentName { namespace, name } = &scaled.name;
    let said = |what: &str| {
        let what = what.to_owned();
        move |error: kube::Error| format!("{what} {namespace}/{name}: {error}")
    };
    let deployments: Api<Deployment> = Api::namespaced(kube.clone(), namespace);
    let deployment = deployments.get(name).await.map_err(said("can't read Deployment"))?;
    let autoscaler = match keda.in_charge_of(name)? {
        Some(scaled_object) => Some(scaled_object),
        None => autoscaler(kube, namespace, name)
            .await
            .map_err(said("can't list the autoscalers of"))?,
    };
    let has = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let least = if may_shrink {
        scaled.floor
    } else {
        has.max(scaled.floor)
    };
    let replicas = asked.max(least).min(scaled.ceiling);
    if autoscaler.is_none() && has != replicas {
        // With the version that was read: who scaled it in between is not overruled by what we knew before.
        let patch = serde_json::json!({
            "metadata": {"resourceVersion": deployment.metadata.resource_version},
            "spec": {"replicas": replicas},
        });
        deployments
            .patch_scale(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(said("can't scale Deployment"))?;
        tracing::info!(deployment = name, from = has, to = replicas, "scaled");
    }
    let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas);
    let ready = ready.unwrap_or_default();
    let unschedulable = match ready < has {
        // It is only a word of explanation.
        true => unschedulable(kube, &deployment)
            .await
            .unwrap_or_else(|error| Some(format!("its pods can't be listed: {error}"))),
        false => None,
    };
    Ok(Workload {
        name: name.clone(),
        ceiling: scaled.ceiling,
        floor: scaled.floor,
        ready,
        autoscaler,
        unschedulable,
    })
}

/// A KEDA ScaledObject works through a HorizontalPodAutoscaler too, once KEDA has made that.
async fn autoscaler(kube: &Client, namespace: &str, deployment: &str) -> Result<Option<String>, kube::Error> {
    let autoscalers: Api<HorizontalPodAutoscaler> = Api::namespaced(kube.clone(), namespace);
    let found = autoscalers
        .list(&ListParams::default())
        .await?
        .items
        .into_iter()
        .find(|autoscaler| {
            let target = &autoscaler.spec.scale_target_ref;
            target.kind == "Deployment" && target.name == deployment
        });
    Ok(found
        .and_then(|autoscaler| autoscaler.metadata.name)
        .map(|name| format!("HorizontalPodAutoscaler {name}")))
}

/// KEDA's ScaledObjects of the release's namespace, if there is KEDA.
#[derive(Debug)]
struct Keda(Result<Vec<DynamicObject>, String>);

impl Default for Keda {
    fn default() -> Self {
        Keda(Ok(Vec::new()))
    }
}

impl Keda {
    async fn of(operator: &Operator) -> Self {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("keda.sh", "v1alpha1", "ScaledObject"));
        let namespace = &operator.api.name.namespace;
        let api: Api<DynamicObject> = Api::namespaced_with(operator.kube.clone(), namespace, &kind);
        Keda(match api.list(&ListParams::default()).await {
            Ok(list) => Ok(list.items),
            // There is no KEDA; or no right to read them, and then what KEDA makes of them shows.
            Err(kube::Error::Api(status)) if [403, 404].contains(&status.code) => Ok(Vec::new()),
            Err(error) => Err(format!("can't list the ScaledObjects of {namespace}: {error}")),
        })
    }

    fn in_charge_of(&self, deployment: &str) -> Result<Option<String>, String> {
        let objects = self.0.as_ref().map_err(Clone::clone)?;
        let found = objects.iter().find(|object| {
            let target = &object.data["spec"]["scaleTargetRef"];
            // Without a kind it is a Deployment.
            target["kind"].as_str().unwrap_or("Deployment") == "Deployment" && target["name"] == deployment
        });
        Ok(found.map(|object| format!("ScaledObject {}", object.name_any())))
    }
}

/// What the scheduler says of pods for which it finds no node.
async fn unschedulable(kube: &Client, deployment: &Deployment) -> Result<Option<String>, kube::Error> {
    let labels = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.match_labels.clone());
    let selector: Vec<String> = labels
        .unwrap_or_default()
        .into_iter()
        .map(|(label, value)| format!("{label}={value}"))
        .collect();
    let pods: Api<Pod> = Api::namespaced(kube.clone(), &deployment.namespace().unwrap_or_default());
    let pods = pods.list(&ListParams::default().labels(&selector.join(","))).await?;
    let whys: Vec<String> = pods.items.iter().filter_map(why_unschedulable).collect();
    Ok(whys.first().map(|why| {
        let pods = if whys.len() == 1 { "pod" } else { "pods" };
        format!(
            "{} {pods} can't be scheduled: {}",
            whys.len(),
            why.trim_end_matches('.')
        )
    }))
}

fn why_unschedulable(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let unscheduled = |c: &&k8s_openapi::api::core::v1::PodCondition| {
        c.type_ == "PodScheduled" && c.status == "False" && c.reason.as_deref() == Some("Unschedulable")
    };
    let condition = conditions.iter().find(unscheduled)?;
    Some(condition.message.clone().unwrap_or_else(|| "no node fits".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use seckill_crds::FlashSaleSpec;

    /// From 100 s to 200 s, with 10 s before and 20 s after it.
    fn wanted(api_replicas: Option<i32>) -> Wanted {
        let spec: FlashSaleSpec = serde_json::from_value(serde_json::json!({
            "item": {"sku": "s", "name": "n", "price": "1.00", "currency": "EUR"},
            "stock": 1,
            "startsAt": "1970-01-01T00:01:40Z",
            "endsAt": "1970-01-01T00:03:20Z",
            "leadTimeSeconds": 10,
            "coolDownSeconds": 20,
            "demand": {"apiReplicas": api_replicas},
        }))
        .expect("a spec");
        Wanted {
            uid: "u".into(),
            created_at: 0,
            spec,
            suspended: false,
        }
    }

    fn sale(name: &str, starts: i64, api: Option<i32>, worker: Option<i32>) -> (Key, Wanted) {
        let mut wanted = wanted(api);
        wanted.spec.starts_at.0 = k8s_openapi::jiff::Timestamp::from_second(starts).expect("a time");
        wanted.spec.demand.get_or_insert_default().worker_replicas = worker;
        (Key::new("shop", name), wanted)
    }

    fn workload(ready: i32) -> Workload {
        Workload {
            name: "w".into(),
            ceiling: 5,
            floor: 2,
            ready,
            autoscaler: None,
            unschedulable: None,
        }
    }

    fn needed(of: &HashMap<Key, Needs>, name: &str) -> (i32, i32) {
        let needs = of[&Key::new("shop", name)];
        (needs.api, needs.worker)
    }

    #[test]
    fn demands_add_up_in_the_order_of_the_starts_and_workers_end_at_the_partitions() {
        let needs = needs(
            vec![
                sale("late", 103, Some(4), Some(2)),
                sale("none", 102, None, None),
                sale("early", 101, Some(3), Some(1)),
                // Of two that start together either may be the first, but always the same.
                sale("early-too", 101, Some(1), Some(7)),
            ],
            8,
        );
        assert_eq!(needed(&needs, "early"), (3, 1));
        assert_eq!(needed(&needs, "early-too"), (4, 8));
        assert_eq!(needed(&needs, "none"), (4, 8));
        assert_eq!(needed(&needs, "late"), (8, 8));
        assert_eq!((most(&needs, |n| n.api), most(&needs, |n| n.worker)), (8, 8));
    }

    #[test]
    fn a_sale_that_asks_for_nothing_needs_one_pod_and_no_sale_none() {
        let asking_nothing = needs(vec![sale("a", 101, None, None)], 8);
        assert_eq!(most(&asking_nothing, |n| n.api), 1);
        assert_eq!(most(&HashMap::new(), |n| n.api), 0);
    }

    #[test]
    fn at_the_ceiling_the_sale_that_starts_first_has_its_pods_and_the_other_one_is_told() {
        let workloads = Workloads {
            api: Ok(workload(5)),
            worker: Ok(workload(2)),
            needs: needs(
                vec![sale("second", 102, Some(2), None), sale("first", 101, Some(4), None)],
                8,
            ),
        };
        assert_eq!(workloads.shortage(&Key::new("shop", "first")), None);
        assert!(matches!(
            workloads.shortage(&Key::new("shop", "second")),
            Some(Shortage::Ceiling(what)) if what.contains("5 ready pods of 6") && what.contains("ceiling is 5")
        ));
    }

    #[test]
    fn pods_are_needed_from_the_lead_time_to_the_cool_down() {
        let wanted = wanted(None);
        let needs = |standing, seconds: u64| needs_pods(&wanted, standing, seconds * 1000);
        assert!(!needs(Standing::Unsettled, 89));
        assert!(needs(Standing::Unsettled, 90));
        assert!(needs(Standing::Settled, 219));
        assert!(!needs(Standing::Settled, 220));
    }

    #[test]
    fn pods_stay_until_the_sale_is_settled_however_long_that_takes() {
        assert!(needs_pods(&wanted(None), Standing::Unsettled, 100_000_000));
    }

    #[test]
    fn a_sale_that_is_not_accepted_needs_no_pods() {
        assert!(!needs_pods(&wanted(None), Standing::Refused, 100_000));
    }

    #[test]
    fn a_deployment_that_an_autoscaler_has_in_charge_is_named() {
        let autoscaler = Some("HorizontalPodAutoscaler a".to_owned());
        let workloads = Workloads {
            api: Ok(Workload {
                autoscaler,
                ..workload(1)
            }),
            worker: Ok(workload(2)),
            needs: needs(vec![sale("a", 101, None, None)], 8),
        };
        assert!(matches!(
            workloads.shortage(&Key::new("shop", "a")),
            Some(Shortage::Autoscaler(what)) if what.contains("HorizontalPodAutoscaler a")
        ));
        assert_eq!(workloads.autoscalers(), ["HorizontalPodAutoscaler a"]);
    }

    #[test]
    fn a_sale_whose_pods_were_not_asked_for_yet_waits_for_them() {
        let workloads = Workloads {
            api: Ok(workload(5)),
            worker: Ok(workload(5)),
            needs: HashMap::new(),
        };
        let shortage = workloads.shortage(&Key::new("shop", "new"));
        assert!(matches!(shortage, Some(Shortage::Starting(_))), "{shortage:?}");
    }
}
