//! The FlashSales of a run, in a namespace of their own on the real API server. There is no node: this says of all pods
//! that they are ready.
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

pub struct Shop {
    pub name: String,
    kube: Client,
}

impl Shop {
    /// The namespace, which is the class too, and the Deployments that the operator scales.
    pub async fn open(kubeconfig: &std::path::Path) -> Result<Self> {
        let (file, default) = (Kubeconfig::read_from(kubeconfig)?, KubeConfigOptions::default());
        let kube = Client::try_from(Config::from_custom_kubeconfig(file, &default).await?)?;
        let crds: Api<CustomResourceDefinition> = Api::all(kube.clone());
        let apply = PatchParams::apply("seckill-chaos").force();
        crds.patch(FlashSale::crd_name(), &apply, &Patch::Apply(FlashSale::crd()))
            .await
            .context("applying the FlashSale resource")?;
        let established = kube::runtime::conditions::is_crd_established();
        kube::runtime::wait::await_condition(crds, FlashSale::crd_name(), established).await?;

        let name = format!("seckill-chaos-{:08x}", rand::random::<u32>());
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        Api::all(kube.clone())
            .create(&PostParams::default(), &namespace)
            .await?;
        let deployments: Api<Deployment> = Api::namespaced(kube.clone(), &name);
        for name in ["api", "worker"] {
            let labels = json!({"app": name});
            let deployment = serde_json::from_value(json!({
                "metadata": {"name": name},
                "spec": {
                    "selector": {"matchLabels": labels},
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {
                            // Where there are nodes, they are to leave these pods alone.
                            "schedulerName": "none",
                            "containers": [{"name": "c", "image": "none.invalid/none"}],
                        },
                    },
                },
            }))?;
            deployments.create(&PostParams::default(), &deployment).await?;
        }
        tokio::spawn(kubelet(Api::namespaced(kube.clone(), &name)));
        Ok(Shop { name, kube })
    }

    fn sales(&self) -> Api<FlashSale> {
        Api::namespaced(self.kube.clone(), &self.name)
    }

    pub async fn apply(&self, name: &str, stock: u64, starts_in: Duration, lasts: Duration) -> Result<()> {
        let manifest = json!({
            "apiVersion": "seckill.dev/v1alpha1",
            "kind": "FlashSale",
            "metadata": {"name": name},
            "spec": {
                "className": self.name,
                "item": {"sku": "s", "name": "An item", "price": "9.90", "currency": "EUR"},
                "stock": stock,
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

    /// Waits until the sale has come so far.
    pub async fn until(&self, name: &str, phases: &[Phase], patience: Duration) -> Result<FlashSaleStatus> {
        let begun = Instant::now();
        loop {
            let status = self.status(name).await?;
            if status.phase.is_some_and(|phase| phases.contains(&phase)) {
                return Ok(status);
            }
            if begun.elapsed() > patience {
                bail!(
                    "{name} did not come to be {phases:?} within {} s: {}",
                    patience.as_secs(),
                    serde_json::to_string(&status)?
                );
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    pub async fn close(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.kube.clone());
        namespaces.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }
}

/// In whole seconds, as Kubernetes keeps times.
fn in_seconds(time: Duration) -> Result<String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(Timestamp::from_second((now + time).as_secs() as i64)?.to_string())
}

async fn kubelet(pods: Api<Pod>) {
    loop {
        sleep(Duration::from_millis(300)).await;
        let Ok(found) = pods.list(&ListParams::default()).await else {
            continue;
        };
        for pod in found.items {
            let runs = pod.status.is_some_and(|s| s.phase.as_deref() == Some("Running"));
            if let (false, Some(name)) = (runs, pod.metadata.name) {
                let ready =
                    json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
                // It may be gone by now.
                let _ = pods
                    .patch_status(&name, &PatchParams::default(), &Patch::Merge(ready))
                    .await;
            }
        }
    }
}
