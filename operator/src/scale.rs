//! Keeps the two Deployments at what the sales ask for. They are shared by all sales of the release, so no sale scales
//! them: each states its demand, and this adds them up, between floor and ceiling.
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use seckill_crds::Demand;
use tokio::sync::watch;

use crate::args::DeploymentName;
use crate::controller::Sales;
use crate::facts::{Millis, Wanted, now};
use crate::memory::Key;
use crate::plan::Standing;
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

    /// Those that have one of the Deployments in charge.
    pub fn autoscalers(&self) -> Vec<&str> {
        let seen = [&self.api, &self.worker].into_iter().filter_map(|w| w.as_ref().ok());
        seen.filter_map(|w| w.autoscaler.as_deref()).collect()
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

/// The replicas that the sales ask for: the most that any of them asks for, between floor and ceiling.
pub fn wanted_replicas<'a>(
    sales: impl IntoIterator<Item = &'a Wanted>,
    scaled: &Scaled,
    asked: impl Fn(&Demand) -> Option<i32>,
) -> i32 {
    let most = sales
        .into_iter()
        .map(|sale| sale.spec.demand.as_ref().and_then(&asked).unwrap_or(1))
        .max()
        .unwrap_or(0);
    most.max(scaled.floor).min(scaled.ceiling)
}

/// From the lead time before the start until the cool-down after the end, and until it is settled.
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
    // Before all FlashSales are known, a demand that is not seen is not a demand of zero.
    sales.ready().await;
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if !operator.term.holds() {
            continue;
        }
        let now = now();
        let sales: Vec<Wanted> = sales
            .all(&operator.class)
            .iter()
            .filter_map(|object| {
                let wanted = Wanted::of(object);
                // Before it was looked at, its times alone decide.
                let standing = operator.memory.standing(&Key::of(object));
                needs_pods(&wanted, standing.unwrap_or(Standing::Unsettled), now).then_some(wanted)
            })
            .collect();
        // A sale whose FlashSale is gone settles too, and for that needs a worker.
        let settling = i32::from(operator.memory.any_ending());
        let api = wanted_replicas(&sales, &operator.api, |demand| demand.api_replicas);
        let worker = wanted_replicas(&sales, &operator.worker, |demand| demand.worker_replicas);
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

    fn scaled() -> Scaled {
        Scaled {
            name: "seckill/api".parse().expect("a name"),
            floor: 2,
            ceiling: 5,
        }
    }

    #[test]
    fn the_largest_demand_counts_between_floor_and_ceiling() {
        let replicas = |asked: &[Option<i32>]| {
            let sales: Vec<Wanted> = asked.iter().map(|asked| wanted(*asked)).collect();
            wanted_replicas(&sales, &scaled(), |demand| demand.api_replicas)
        };
        assert_eq!(replicas(&[]), 2);
        assert_eq!(replicas(&[None, Some(1)]), 2);
        assert_eq!(replicas(&[Some(3), Some(4)]), 4);
        assert_eq!(replicas(&[Some(9)]), 5);
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
        let workload = |ready, autoscaler: Option<&str>| {
            Ok(Workload {
                name: "w".into(),
                ceiling: 5,
                floor: 2,
                ready,
                autoscaler: autoscaler.map(str::to_owned),
            })
        };
        let workloads = Workloads {
            api: workload(1, Some("HorizontalPodAutoscaler a")),
            worker: workload(2, None),
        };
        assert!(
            matches!(workloads.shortage(None), Some(Shortage::Autoscaler(what)) if what.contains("HorizontalPodAutoscaler a"))
        );
        assert_eq!(workloads.autoscalers(), ["HorizontalPodAutoscaler a"]);
    }
}
