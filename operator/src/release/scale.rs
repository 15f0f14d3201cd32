//! Keeps the replicas of the two Deployments at what the sales need. The planner adds up the demands; this loop observes and
//! applies.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition};
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use seckill_order_log::OrderLog;
use seckill_planner::SaleKey;
use seckill_planner::demand::{Needs, Workload, Workloads, needs, needs_pods, total_demand};
use seckill_service::log_once::FailureLog;
use seckill_service::periodic;
use tokio::sync::watch;

use crate::cluster::convert::{pod_schedule, sale_key};
use crate::cluster::watch::FlashSales;
use crate::cluster::workloads::{ObservedDeployment, WatchedWorkloads};
use crate::context::{Context, ScaledDeployment, ScaledWorkloads};

const SCALE_INTERVAL: Duration = Duration::from_secs(1);
/// How long the first tick waits for what the watches list. Meanwhile the statuses that the last leader wrote stand.
const LIST_WAIT: Duration = Duration::from_secs(5);
const LIST_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// How often the pods of a Deployment are listed again that lacks some of them.
const PODS_INTERVAL: Duration = Duration::from_secs(5);

/// Runs until the leadership term ends.
pub async fn run(context: Arc<Context>, sales: FlashSales, observed: watch::Sender<Option<Arc<Workloads>>>) {
    let Some(scaled) = &context.release.workloads else {
        observed.send_replace(Some(Arc::new(Workloads::not_managed())));
        return std::future::pending().await;
    };
    let watched = WatchedWorkloads::new(&context.cluster.kube, &scaled.api.name, &scaled.worker.name);
    tokio::select! {
        () = watched.run() => {}
        () = keep_scaled(&context, scaled, &sales, &watched, &observed) => {}
    }
}

async fn keep_scaled(
    context: &Context,
    scaled: &ScaledWorkloads,
    sales: &FlashSales,
    watched: &WatchedWorkloads,
    observed: &watch::Sender<Option<Arc<Workloads>>>,
) {
    let known = async {
        while !(watched.are_known() && sales.all_known()) {
            tokio::time::sleep(LIST_CHECK_INTERVAL).await;
        }
    };
    let _ = tokio::time::timeout(LIST_WAIT, known).await;
    let (mut api, mut worker) = (Scaling::new(&scaled.api), Scaling::new(&scaled.worker));
    let mut ticks = periodic(SCALE_INTERVAL);
    loop {
        ticks.tick().await;
        if !context.term.holds() {
            continue;
        }
        let (needs, demand, may_shrink) = demand(context, sales);
        let kube = &context.cluster.kube;
        let (api, worker) = tokio::join!(
            api.apply(kube, watched.api(), demand.api, may_shrink),
            worker.apply(kube, watched.worker(), demand.worker, may_shrink),
        );
        publish(
            observed,
            Workloads {
                are_managed: true,
                api,
                worker,
                needs,
            },
        );
    }
}

fn publish(observed: &watch::Sender<Option<Arc<Workloads>>>, workloads: Workloads) {
    observed.send_if_modified(|last| {
        let changed = last.as_deref() != Some(&workloads);
        if changed {
            let results = [&workloads.api, &workloads.worker];
            for error in results.into_iter().filter_map(|workload| workload.as_ref().err()) {
                tracing::warn!(error, "failed to observe a Deployment");
            }
            *last = Some(Arc::new(workloads));
        }
        changed
    });
}

/// What each sale needs, all of them together, and whether pods may be removed.
fn demand(context: &Context, sales: &FlashSales) -> (HashMap<SaleKey, Needs>, Needs, bool) {
    let Context { release, cache, .. } = context;
    let now = context.now();
    let any_ending = cache.any_ending();
    let mut may_shrink = sales.all_known() && any_ending.is_some() && !cache.any_selling_orphan();
    let mut needing = Vec::new();
    sales.for_each(&release.class, |object| {
        let (key, schedule) = (sale_key(object), pod_schedule(object));
        match needs_pods(&schedule, cache.standing(&key), now) {
            Some(true) => needing.push((key, schedule)),
            Some(false) => {}
            None => may_shrink = false,
        }
    });
    // As long as the partitions are unknown they limit nothing.
    let partitions = context.connections.log().ok().map(OrderLog::partitions);
    let partitions = partitions.and_then(|partitions| i32::try_from(partitions).ok());
    let needs = needs(needing, partitions.unwrap_or(i32::MAX));
    let demand = total_demand(&needs, any_ending.unwrap_or_default() || cache.any_awaiting_ledger());
    context.metrics.demand(demand);
    (needs, demand, may_shrink)
}

/// The scaling of one Deployment.
struct Scaling<'a> {
    scaled: &'a ScaledDeployment,
    /// Why pods are missing, and when and of which version of the Deployment that was read.
    blocked: Option<(Instant, Option<String>, Option<String>)>,
    failures: FailureLog,
}

impl<'a> Scaling<'a> {
    fn new(scaled: &'a ScaledDeployment) -> Self {
        Scaling {
            scaled,
            blocked: None,
            failures: FailureLog::changes(),
        }
    }

    /// Sets the replicas of the Deployment for a demand, unless an autoscaler controls them.
    async fn apply(
        &mut self,
        kube: &Client,
        observed: Result<ObservedDeployment, String>,
        demand: i32,
        may_shrink: bool,
    ) -> Result<Workload, String> {
        let ObservedDeployment { deployment, autoscaler } = observed?;
        let bounds = self.scaled.bounds;
        let present = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let replicas = bounds.replicas(demand, present, may_shrink);
        let scaled = match autoscaler.is_none() && present != replicas {
            true => set_replicas(kube, &deployment, present, replicas).await,
            false => Ok(()),
        };
        self.failures.note("scaling a Deployment", scaled.as_ref().copied());
        let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas);
        let ready = ready.unwrap_or_default();
        let blocked = match scaled {
            // What was observed is known all the same.
            Err(failure) => Some(failure),
            Ok(()) if ready < present => self.blocked(kube, &deployment).await,
            Ok(()) => None,
        };
        Ok(Workload {
            name: self.scaled.name.name.clone(),
            bounds,
            ready,
            autoscaler,
            blocked,
        })
    }

    /// Why pods of the Deployment can't be created or scheduled.
    async fn blocked(&mut self, kube: &Client, deployment: &Deployment) -> Option<String> {
        if let Some(why) = refused(deployment) {
            return Some(why);
        }
        if let Some((at, version, why)) = &self.blocked
            && at.elapsed() < PODS_INTERVAL
            && *version == deployment.resource_version()
        {
            return why.clone();
        }
        // An explanation only, so its failure is part of the text.
        let why = unschedulable(kube, deployment)
            .await
            .unwrap_or_else(|error| Some(format!("failed to list its pods: {error}")));
        self.blocked = Some((Instant::now(), deployment.resource_version(), why.clone()));
        why
    }
}

async fn set_replicas(kube: &Client, deployment: &Deployment, from: i32, to: i32) -> Result<(), String> {
    let (name, namespace) = (deployment.name_any(), deployment.namespace().unwrap_or_default());
    let deployments: Api<Deployment> = Api::namespaced(kube.clone(), &namespace);
    // With the version that was seen: a change that somebody made in between is not overwritten.
    let patch = serde_json::json!({
        "metadata": {"resourceVersion": deployment.metadata.resource_version},
        "spec": {"replicas": to},
    });
    let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
    match deployments.patch_scale(&name, &params, &patch).await {
        Ok(_) => tracing::info!(deployment = name, from, to, "scaled"),
        // The watch is about to show what changed.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            tracing::debug!(deployment = name, from, to, "the Deployment has changed");
        }
        Err(error) => return Err(format!("failed to scale Deployment {namespace}/{name}: {error}")),
    }
    Ok(())
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
