//! The FlashSales of a run, in a namespace of their own on the real API server. There is no node, so a task here reports
//! all pods as ready.
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, CustomResourceExt as _};
use seckill_crds::{FlashSale, FlashSaleStatus, Phase};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

pub struct FlashSales {
    /// The namespace, and also the class.
    pub namespace: String,
    kube: Client,
}

impl FlashSales {
    /// Creates the namespace, and the Deployments that the operator scales.
    pub async fn create_namespace(kubeconfig: &std::path::Path) -> Result<Self> {
        let (file, default) = (Kubeconfig::read_from(kubeconfig)?, KubeConfigOptions::default());
        let kube = Client::try_from(Config::from_custom_kubeconfig(file, &default).await?)?;
        let crds: Api<CustomResourceDefinition> = Api::all(kube.clone());
        let apply = PatchParams::apply("seckill-chaos").force();
        crds.patch(FlashSale::crd_name(), &apply, &Patch::Apply(FlashSale::crd()))
            .await
            .context("applying the FlashSale resource")?;
        let established = kube::runtime::conditions::is_crd_established();
        kube::runtime::wait::await_condition(crds, FlashSale::crd_name(), established).await?;

        let namespace = format!("seckill-chaos-{:08x}", rand::random::<u32>());
        let object: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
        Api::all(kube.clone()).create(&PostParams::default(), &object).await?;
        let deployments: Api<Deployment> = Api::namespaced(kube.clone(), &namespace);
        for name in ["api", "worker"] {
            deployments.create(&PostParams::default(), &deployment(name)?).await?;
        }
        tokio::spawn(report_pods_ready(Api::namespaced(kube.clone(), &namespace)));
        Ok(FlashSales { namespace, kube })
    }

    fn sales(&self) -> Api<FlashSale> {
        Api::namespaced(self.kube.clone(), &self.namespace)
    }

    pub async fn create(&self, name: &str, stock: u64, starts_in: Duration, lasts: Duration) -> Result<()> {
        let manifest = json!({
            "apiVersion": "seckill.dev/v1alpha1",
            "kind": "FlashSale",
            "metadata": {"name": name},
            "spec": {
                "className": self.namespace,
                "item": {"sku": "s", "name": "An item", "price": "9.90", "currency": "EUR"},
                "stock": stock,
                "maxPerOrder": 3,
                "startsAt": in_seconds(starts_in)?,
                "endsAt": in_seconds(starts_in + lasts)?,
                "leadTimeSeconds": 5,
                "coolDownSeconds": 0,
            },
        });
        let object = serde_json::from_value(manifest)?;
        self.sales().create(&PostParams::default(), &object).await?;
        Ok(())
    }

    pub async fn edit(&self, name: &str, spec: Value) -> Result<()> {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.sales().patch(name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    pub async fn end_in(&self, name: &str, time: Duration) -> Result<()> {
        self.edit(name, json!({"endsAt": in_seconds(time)?})).await
    }

    pub async fn status(&self, name: &str) -> Result<FlashSaleStatus> {
        Ok(self.sales().get(name).await?.status.unwrap_or_default())
    }

    pub async fn stock(&self, name: &str) -> Result<i64> {
        Ok(self.sales().get(name).await?.spec.stock)
    }

    pub async fn wait_for_phase(&self, name: &str, phases: &[Phase], limit: Duration) -> Result<FlashSaleStatus> {
        let started = Instant::now();
        loop {
            let status = self.status(name).await?;
            if status.phase.is_some_and(|phase| phases.contains(&phase)) {
                return Ok(status);
            }
            if started.elapsed() > limit {
                bail!(
                    "{name} did not reach {phases:?} within {} s: {}",
                    limit.as_secs(),
                    serde_json::to_string(&status)?
                );
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    pub async fn delete_namespace(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.kube.clone());
        namespaces.delete(&self.namespace, &DeleteParams::default()).await?;
        Ok(())
    }
}

/// In whole seconds, as Kubernetes keeps times.
fn in_seconds(time: Duration) -> Result<String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(Timestamp::from_second((now + time).as_secs() as i64)?.to_string())
}

/// A Deployment whose pods no scheduler takes.
fn deployment(name: &str) -> Result<Deployment> {
    let labels = json!({"app": name});
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    // If the cluster has nodes, they must ignore these pods.
                    "schedulerName": "none",
                    "containers": [{"name": "c", "image": "none.invalid/none"}],
                },
            },
        },
    }))?)
}

/// What a kubelet would do.
async fn report_pods_ready(pods: Api<Pod>) {
    loop {
        sleep(Duration::from_millis(300)).await;
        let Ok(list) = pods.list(&ListParams::default()).await else {
            continue;
        };
        for pod in list.items {
            let runs = pod.status.is_some_and(|s| s.phase.as_deref() == Some("Running"));
            if let (false, Some(name)) = (runs, pod.metadata.name) {
                let ready =
                    json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
                // The pod may be gone by now.
                let _ = pods
                    .patch_status(&name, &PatchParams::default(), &Patch::Merge(ready))
                    .await;
            }
        }
    }
}
