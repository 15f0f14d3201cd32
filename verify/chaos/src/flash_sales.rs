//! The FlashSales of a run, in a namespace on the run's own API server. There are no controllers and no nodes, so a task here
//! reports all pods as ready.
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, CustomResourceExt as _};
use seckill_crds::{FlashSale, FlashSaleStatus, Phase};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// The namespace of a run's sales, and also their class.
pub const NAMESPACE: &str = "chaos";

/// `now` is in whole seconds, and the edit takes a moment.
const END_TOLERANCE_MS: i128 = 2000;
/// How long the ledger may take to have a new sale: longer than any fault.
const ACCEPTANCE_LIMIT: Duration = Duration::from_secs(60);

/// The time from the creation of a sale to its start, and how long it sells.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub starts_in: Duration,
    pub lasts: Duration,
}

pub struct FlashSales {
    kube: Client,
    /// The end of each sale as the run ordered it last, in unix milliseconds. No sale may end earlier.
    ends: Mutex<HashMap<String, u64>>,
}

pub async fn client(kubeconfig: &Path) -> Result<Client> {
    let (file, default) = (Kubeconfig::read_from(kubeconfig)?, KubeConfigOptions::default());
    Ok(Client::try_from(Config::from_custom_kubeconfig(file, &default).await?)?)
}

/// Creates the FlashSale resource and the namespace.
pub async fn prepare_cluster(kube: &Client, namespace: &str) -> Result<()> {
    let crds: Api<CustomResourceDefinition> = Api::all(kube.clone());
    let apply = PatchParams::apply("seckill-chaos").force();
    crds.patch(FlashSale::crd_name(), &apply, &Patch::Apply(seckill_crds::crd()))
        .await
        .context("applying the FlashSale resource")?;
    let established = kube::runtime::conditions::is_crd_established();
    kube::runtime::wait::await_condition(crds, FlashSale::crd_name(), established).await?;
    let namespaces: Api<Namespace> = Api::all(kube.clone());
    let object: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
    namespaces.patch(namespace, &apply, &Patch::Apply(object)).await?;
    Ok(())
}

impl FlashSales {
    /// Creates the namespace, and the Deployments that the operator scales.
    pub async fn prepare(kubeconfig: &Path) -> Result<Self> {
        let kube = client(kubeconfig).await?;
        prepare_cluster(&kube, NAMESPACE).await?;
        let deployments: Api<Deployment> = Api::namespaced(kube.clone(), NAMESPACE);
        for name in ["api", "worker"] {
            deployments.create(&PostParams::default(), &deployment(name)?).await?;
        }
        tokio::spawn(report_pods_ready(deployments));
        let ends = Mutex::default();
        Ok(FlashSales { kube, ends })
    }

    fn sales(&self) -> Api<FlashSale> {
        Api::namespaced(self.kube.clone(), NAMESPACE)
    }

    /// Without the Rust types, which would drop fields that they do not know.
    fn manifests(&self) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<FlashSale>(&());
        Api::namespaced_with(self.kube.clone(), NAMESPACE, &resource)
    }

    fn ends_by_name(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn ends(&self) -> HashMap<String, u64> {
        self.ends_by_name().clone()
    }

    pub async fn create(&self, name: &str, stock: u64, times: Times) -> Result<()> {
        self.create_with(name, stock, times, json!({})).await
    }

    /// Creates a sale with more fields in its spec. A server that does not know a field drops it.
    pub async fn create_with(&self, name: &str, stock: u64, times: Times, fields: Value) -> Result<()> {
        let ends_in = times.starts_in + times.lasts;
        let mut manifest = json!({
            "apiVersion": "seckill.dev/v1alpha1",
            "kind": "FlashSale",
            "metadata": {"name": name},
            "spec": {
                "className": NAMESPACE,
                "item": {"sku": "s", "name": "An item", "price": "9.90", "currency": "EUR"},
                "stock": stock,
                "maxPerOrder": 3,
                "startsAt": in_seconds(times.starts_in)?.to_string(),
                "endsAt": in_seconds(ends_in)?.to_string(),
                "leadTimeSeconds": 60,
                "coolDownSeconds": 0,
            },
        });
        for (field, value) in fields.as_object().into_iter().flatten() {
            manifest["spec"][field] = value.clone();
        }
        self.note_end(name, in_seconds(ends_in)?);
        let object = serde_json::from_value(manifest)?;
        self.manifests().create(&PostParams::default(), &object).await?;
        Ok(())
    }

    fn note_end(&self, name: &str, at: Timestamp) {
        let at = u64::try_from(at.as_millisecond()).unwrap_or_default();
        self.ends_by_name().insert(name.to_owned(), at);
    }

    /// Deletes FlashSales. Returns manifests from which they can be created again.
    pub async fn delete(&self, names: &[String]) -> Result<Vec<DynamicObject>> {
        let api = self.manifests();
        let mut manifests = Vec::new();
        for name in names {
            let found = api.get(name).await?;
            let resource = ApiResource::erase::<FlashSale>(&());
            let mut manifest = DynamicObject::new(name, &resource);
            manifest.data = json!({"spec": found.data["spec"]});
            manifests.push(manifest);
        }
        for name in names {
            api.delete(name, &DeleteParams::default()).await?;
        }
        Ok(manifests)
    }

    pub async fn create_again(&self, manifests: &[DynamicObject]) -> Result<()> {
        for manifest in manifests {
            self.manifests().create(&PostParams::default(), manifest).await?;
        }
        Ok(())
    }

    pub async fn edit(&self, name: &str, spec: Value) -> Result<()> {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.sales().patch(name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Moves the end of a sale. If its old end has passed and no operator has seen that yet, buyers may have heard of the old
    /// one, so that one counts.
    pub async fn end_in(&self, name: &str, time: Duration) -> Result<()> {
        let (now, at) = (in_seconds(Duration::ZERO)?, in_seconds(time)?);
        self.edit(name, json!({"endsAt": at.to_string()})).await?;
        let has_ended = |end: &u64| i128::from(*end) <= i128::from(now.as_millisecond()) + END_TOLERANCE_MS;
        if !self.ends_by_name().get(name).is_some_and(has_ended) {
            self.note_end(name, at);
        }
        Ok(())
    }

    pub async fn status(&self, name: &str) -> Result<FlashSaleStatus> {
        Ok(self.sales().get(name).await?.status.unwrap_or_default())
    }

    pub async fn stock(&self, name: &str) -> Result<i64> {
        Ok(self.sales().get(name).await?.spec.stock)
    }

    /// Waits until the ledger has the sale, as `kubectl wait --for=condition=Accepted` does. The phase is no proof: a new sale
    /// shows one while it waits for the workers.
    pub async fn wait_until_accepted(&self, name: &str) -> Result<()> {
        let is_accepted = |condition: &Condition| condition.type_ == "Accepted" && condition.status == "True";
        let accepted = |status: &FlashSaleStatus| status.conditions.iter().any(is_accepted);
        self.wait_until(name, "was not accepted", ACCEPTANCE_LIMIT, accepted)
            .await
            .map(drop)
    }

    pub async fn wait_for_phase(&self, name: &str, phases: &[Phase], limit: Duration) -> Result<FlashSaleStatus> {
        let in_phase = |status: &FlashSaleStatus| status.phase.is_some_and(|phase| phases.contains(&phase));
        self.wait_until(name, &format!("did not reach {phases:?}"), limit, in_phase)
            .await
    }

    /// `failure` is what the error says of the sale.
    async fn wait_until(
        &self,
        name: &str,
        failure: &str,
        limit: Duration,
        is_so: impl Fn(&FlashSaleStatus) -> bool,
    ) -> Result<FlashSaleStatus> {
        let started = Instant::now();
        loop {
            // The API server may not answer for a moment.
            let status = self.status(name).await;
            if let Ok(status) = &status
                && is_so(status)
            {
                return Ok(status.clone());
            }
            if started.elapsed() > limit {
                let (limit, status) = (limit.as_secs(), serde_json::to_string(&status?)?);
                bail!("{name} {failure} within {limit} s: {status}");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// In whole seconds, as Kubernetes keeps times.
fn in_seconds(time: Duration) -> Result<Timestamp> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(Timestamp::from_second((now + time).as_secs() as i64)?)
}

/// A Deployment of which no controller makes pods.
fn deployment(name: &str) -> Result<Deployment> {
    let labels = json!({"app": name});
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "c", "image": "none.invalid/none"}]},
            },
        },
    }))?)
}

/// What a controller and a kubelet would do.
async fn report_pods_ready(deployments: Api<Deployment>) {
    loop {
        sleep(Duration::from_millis(300)).await;
        let Ok(list) = deployments.list(&ListParams::default()).await else {
            continue;
        };
        for deployment in list.items {
            let wanted = deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1);
            let ready = deployment.status.and_then(|status| status.ready_replicas);
            if let (true, Some(name)) = (ready != Some(wanted), deployment.metadata.name) {
                let status = json!({"status": {
                    "observedGeneration": deployment.metadata.generation,
                    "replicas": wanted,
                    "updatedReplicas": wanted,
                    "readyReplicas": wanted,
                    "availableReplicas": wanted,
                }});
                // A failure is repeated.
                let _ = deployments
                    .patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
                    .await;
            }
        }
    }
}
