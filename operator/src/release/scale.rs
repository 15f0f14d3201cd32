//! Keeps the replicas of the two Deployments at what the sales need. The planner adds up the demands; this loop observes and
//! applies.
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, ResourceExt as _};
use seckill_order_log::OrderLog;
use seckill_planner::demand::{Workload, Workloads, needs, needs_pods, total_demand};
use seckill_service::periodic;
use tokio::sync::watch;

use crate::args::DeploymentName;
use crate::cluster::convert::{desired_sale, sale_key};
use crate::cluster::watch::FlashSales;
use crate::context::{Context, ScaledDeployment};

const SCALE_INTERVAL: Duration = Duration::from_secs(1);
/// How often ScaledObjects are listed. What KEDA does with a Deployment, it does through a HorizontalPodAutoscaler.
const KEDA_INTERVAL: Duration = Duration::from_secs(10);

/// Runs until the leadership term ends.
pub async fn run(context: Arc<Context>, sales: FlashSales, observed: watch::Sender<Arc<Workloads>>) {
    let (mut keda, mut keda_at): (Keda, Option<Instant>) = (Keda::default(), None);
    let mut ticks = periodic(SCALE_INTERVAL);
    loop {
        ticks.tick().await;
        if !context.term.holds() {
            continue;
        }
        if keda_at.is_none_or(|at| at.elapsed() >= KEDA_INTERVAL) {
            keda = Keda::list(&context.cluster.kube, &context.release.api.name.namespace).await;
            keda_at = Some(Instant::now());
        }
        let workloads = scale(&context, &sales, &keda).await;
        observed.send_if_modified(|last| {
            let changed = **last != workloads;
            if changed {
                for error in [&workloads.api, &workloads.worker]
                    .into_iter()
                    .filter_map(|w| w.as_ref().err())
                {
                    tracing::warn!(error, "scaling failed");
                }
                *last = Arc::new(workloads);
            }
            changed
        });
    }
}

async fn scale(context: &Context, sales: &FlashSales, keda: &Keda) -> Workloads {
    let Context {
        release,
        cluster,
        cache,
        ..
    } = context;
    let now = context.now();
    let any_ending = cache.any_ending();
    let mut may_shrink = sales.all_known() && any_ending.is_some() && !cache.any_selling_orphan();
    let mut needing = Vec::new();
    for object in sales.all(&release.class) {
        let (key, desired) = (sale_key(&object), desired_sale(&object));
        match needs_pods(&desired, cache.standing(&key), now) {
            Some(true) => needing.push((key, desired)),
            Some(false) => {}
            None => may_shrink = false,
        }
    }
    // As long as the partitions are unknown they limit nothing.
    let partitions = context.connections.log().ok().map(OrderLog::partitions);
    let partitions = partitions.and_then(|partitions| i32::try_from(partitions).ok());
    let needs = needs(needing, partitions.unwrap_or(i32::MAX));
    let demand = total_demand(&needs, any_ending.unwrap_or_default() || cache.any_awaiting_ledger());
    context.metrics.demand(demand);
    let (api, worker) = tokio::join!(
        apply(&cluster.kube, &release.api, demand.api, may_shrink, keda),
        apply(&cluster.kube, &release.worker, demand.worker, may_shrink, keda),
    );
    Workloads { api, worker, needs }
}

/// Sets the replicas of a Deployment for a demand, unless an autoscaler controls them.
async fn apply(
    kube: &Client,
    scaled: &ScaledDeployment,
    demand: i32,
    may_shrink: bool,
    keda: &Keda,
) -> Result<Workload, String> {
    let DeploymentName { namespace, name } = &scaled.name;
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: kube::Error| format!("failed to {what} {namespace}/{name}: {error}")
    };
    let deployments: Api<Deployment> = Api::namespaced(kube.clone(), namespace);
    let deployment = deployments.get(name).await.map_err(failed("read Deployment"))?;
    let autoscaler = match keda.scaled_object_for(name)? {
        Some(scaled_object) => Some(scaled_object),
        None => autoscaler(kube, namespace, name)
            .await
            .map_err(failed("list the autoscalers of"))?,
    };
    let present = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let replicas = scaled.bounds.replicas(demand, present, may_shrink);
    if autoscaler.is_none() && present != replicas {
        // With the version that was read: a change that somebody made in between is not overwritten.
        let patch = serde_json::json!({
            "metadata": {"resourceVersion": deployment.metadata.resource_version},
            "spec": {"replicas": replicas},
        });
        deployments
            .patch_scale(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(failed("scale Deployment"))?;
        tracing::info!(deployment = name, from = present, to = replicas, "scaled");
    }
    let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas);
    let ready = ready.unwrap_or_default();
    let blocked = match ready < present {
        true => blocked(kube, &deployment).await,
        false => None,
    };
    Ok(Workload {
        name: name.clone(),
        bounds: scaled.bounds,
        ready,
        autoscaler,
        blocked,
    })
}

/// A ScaledObject works through a HorizontalPodAutoscaler too, once KEDA has created it.
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

/// The ScaledObjects of the release's namespace, if KEDA is installed.
#[derive(Debug)]
struct Keda(Result<Vec<DynamicObject>, String>);

impl Default for Keda {
    fn default() -> Self {
        Keda(Ok(Vec::new()))
    }
}

impl Keda {
    async fn list(kube: &Client, namespace: &str) -> Self {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("keda.sh", "v1alpha1", "ScaledObject"));
        let api: Api<DynamicObject> = Api::namespaced_with(kube.clone(), namespace, &kind);
        Keda(match api.list(&ListParams::default()).await {
            Ok(list) => Ok(list.items),
            // There is no KEDA, or no right to list its objects; then the HorizontalPodAutoscaler that KEDA makes is found.
            Err(kube::Error::Api(status)) if [403, 404].contains(&status.code) => Ok(Vec::new()),
            Err(error) => Err(format!("failed to list the ScaledObjects of {namespace}: {error}")),
        })
    }

    fn scaled_object_for(&self, deployment: &str) -> Result<Option<String>, String> {
        let objects = self.0.as_ref().map_err(Clone::clone)?;
        let found = objects.iter().find(|object| {
            let target = &object.data["spec"]["scaleTargetRef"];
            // The default kind is Deployment.
            target["kind"].as_str().unwrap_or("Deployment") == "Deployment" && target["name"] == deployment
        });
        Ok(found.map(|object| format!("ScaledObject {}", object.name_any())))
    }
}

/// Why pods of a Deployment can't be created or scheduled.
async fn blocked(kube: &Client, deployment: &Deployment) -> Option<String> {
    match refused(deployment) {
        Some(why) => Some(why),
        // An explanation only, so its failure is part of the text.
        None => unschedulable(kube, deployment)
            .await
            .unwrap_or_else(|error| Some(format!("failed to list its pods: {error}"))),
    }
}

/// Why the API server refuses pods of a Deployment, for example because of a ResourceQuota. Such pods do not exist, so only
/// the Deployment reports them.
fn refused(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failing = |c: &&DeploymentCondition| c.type_ == "ReplicaFailure" && c.status == "True";
    let condition = conditions.iter().find(failing)?;
    let why = condition.message.as_deref().or(condition.reason.as_deref());
    let why = why.unwrap_or("the Deployment reports ReplicaFailure");
    Some(format!("pods can't be created: {}", why.trim_end_matches('.')))
}

/// Why the scheduler finds no node for pods of a Deployment.
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
    let unscheduled = |c: &&PodCondition| {
        c.type_ == "PodScheduled" && c.status == "False" && c.reason.as_deref() == Some("Unschedulable")
    };
    let condition = conditions.iter().find(unscheduled)?;
    Some(condition.message.clone().unwrap_or_else(|| "no node fits".to_owned()))
}
