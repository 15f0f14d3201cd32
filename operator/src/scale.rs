//! Keeps the two Deployments at what the sales ask for. They are shared by all sales of the release, so no sale scales
//! them: each states its demand, and this adds them up, between floor and ceiling.
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use seckill_crds::{Demand, FlashSale};
use tokio::sync::watch;

use crate::args::DeploymentName;
use crate::controller::Sales;
use crate::facts::{Millis, now};
use crate::run::Operator;

const EVERY: Duration = Duration::from_secs(1);

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
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workloads {
    pub api: Result<Workload, String>,
    pub worker: Result<Workload, String>,
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
        }
    }
}

impl Workloads {
    /// What a sale lacks of the pods that it asks for; a sale that asks for none needs the floor, and at least one.
    pub fn shortage(&self, demand: Option<&Demand>) -> Option<Shortage> {
        let api = demand.and_then(|d| d.api_replicas);
        let worker = demand.and_then(|d| d.worker_replicas);
        shortage(&self.api, api).or_else(|| shortage(&self.worker, worker))
    }
}

fn shortage(workload: &Result<Workload, String>, asked: Option<i32>) -> Option<Shortage> {
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
    } = workload;
    let needed = asked.unwrap_or(*floor).max(1);
    if *ready >= needed {
        return None;
    }
    let have = format!("{name} has {ready} ready pods of {needed}");
    Some(match autoscaler {
        Some(autoscaler) => Shortage::Autoscaler(format!("{have}; {autoscaler} is in charge of it")),
        None if needed > *ceiling => Shortage::Ceiling(format!("{have}; the release's ceiling is {ceiling}")),
        None => Shortage::Starting(have),
    })
}

/// The replicas that the sales ask for at some instant: the most that any of them asks for, between floor and ceiling.
pub fn wanted_replicas<'a>(
    sales: impl IntoIterator<Item = &'a FlashSale>,
    now: Millis,
    scaled: &Scaled,
    asked: impl Fn(&Demand) -> Option<i32>,
) -> i32 {
    let most = sales
        .into_iter()
        .filter(|sale| needs_pods(sale, now))
        .map(|sale| sale.spec.demand.as_ref().and_then(&asked).unwrap_or(1))
        .max()
        .unwrap_or(0);
    most.max(scaled.floor).min(scaled.ceiling)
}

/// From the lead time before the start until the cool-down after the end, and until it is settled.
fn needs_pods(sale: &FlashSale, now: Millis) -> bool {
    let wanted = crate::facts::Wanted::of(sale);
    let cool_down = 1000 * u64::try_from(sale.spec.cool_down_seconds).unwrap_or_default();
    let begun = now >= wanted.preheat_at();
    let refused = sale.status.as_ref().is_some_and(|status| status.phase.is_none());
    let settled = sale.status.as_ref().is_some_and(|status| status.settled_at.is_some());
    let over = now >= wanted.ends_at() + cool_down && settled;
    begun && !over && !refused
}

/// Runs until the process ends.
pub async fn run(operator: Arc<Operator>, sales: Sales, seen: watch::Sender<Arc<Workloads>>) {
    // Before all FlashSales are known, a demand that is not seen is not a demand of zero.
    sales.ready().await;
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let sales = sales.all(&operator.class);
        // A sale whose FlashSale is gone settles too, and for that needs a worker.
        let settling = i32::from(operator.memory.any_ending());
        let now = now();
        let api = wanted_replicas(sales.iter(), now, &operator.api, |demand| demand.api_replicas);
        let worker = wanted_replicas(sales.iter(), now, &operator.worker, |demand| demand.worker_replicas);
        let (api, worker) = tokio::join!(
            reconcile(&operator.kube, &operator.api, api),
            reconcile(&operator.kube, &operator.worker, worker.max(settling)),
        );
        let workloads = Workloads { api, worker };
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

/// Sets the replicas of a Deployment, unless an autoscaler has it in charge.
async fn reconcile(kube: &Client, scaled: &Scaled, replicas: i32) -> Result<Workload, String> {
    let DeploymentName { namespace, name } = &scaled.name;
    let said = |what: &str| {
        let what = what.to_owned();
        move |error: kube::Error| format!("{what} {namespace}/{name}: {error}")
    };
    let deployments: Api<Deployment> = Api::namespaced(kube.clone(), namespace);
    let deployment = deployments.get(name).await.map_err(said("can't read Deployment"))?;
    let autoscaler = autoscaler(kube, namespace, name)
        .await
        .map_err(said("can't list the autoscalers of"))?;
    let has = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
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
    Ok(Workload {
        name: name.clone(),
        ceiling: scaled.ceiling,
        floor: scaled.floor,
        ready: deployment.status.and_then(|status| status.ready_replicas).unwrap_or(0),
        autoscaler,
    })
}

/// A KEDA ScaledObject works through a HorizontalPodAutoscaler too.
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
