//! A FlashSale, from its manifest to its end.
use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::cluster::{Cluster, until};

/// A sale on the cluster.
pub struct Sale<'a> {
    cluster: &'a Cluster,
    pub namespace: String,
    pub name: String,
}

impl<'a> Sale<'a> {
    /// A manifest that is right; `starts` and `ends` are seconds from now.
    pub fn manifest(class: &str, namespace: &str, name: &str, stock: u64, starts: i64, ends: i64) -> Value {
        json!({
            "apiVersion": "seckill.dev/v1alpha1",
            "kind": "FlashSale",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {
                "className": class,
                "item": {"sku": "sku-1", "name": "A thing", "price": "9.90", "currency": "EUR"},
                "stock": stock,
                "startsAt": in_seconds(starts),
                "endsAt": in_seconds(ends),
                "coolDownSeconds": 0,
            }
        })
    }

    /// Applies a manifest.
    pub fn apply(cluster: &'a Cluster, manifest: &Value) -> Result<Self> {
        cluster.apply(manifest)?;
        let text = |field: &str| manifest["metadata"][field].as_str().unwrap_or_default().to_string();
        Ok(Sale {
            cluster,
            namespace: text("namespace"),
            name: text("name"),
        })
    }

    pub fn status(&self) -> Result<Value> {
        let object = self.cluster.get("flashsale", &self.namespace, &self.name)?;
        Ok(object.map(|o| o["status"].clone()).unwrap_or_default())
    }

    /// Waits until the sale has reached a phase, or a later one.
    pub fn reaches(&self, phase: &str, limit: Duration) -> Result<Value> {
        const ORDER: [&str; 7] = [
            "Scheduled",
            "Preheating",
            "Ready",
            "Open",
            "SoldOut",
            "Ended",
            "Settled",
        ];
        let place = |phase: &str| ORDER.iter().position(|p| *p == phase);
        let wanted = place(phase);
        ensure!(wanted.is_some(), "{phase} is no phase");
        let mut last = Value::Null;
        let reached = until(
            &format!("{}/{} to be {phase}", self.namespace, self.name),
            limit,
            || {
                last = self.status()?;
                let now = place(last["phase"].as_str().unwrap_or_default());
                Ok((now >= wanted).then(|| last.clone()))
            },
        );
        reached.map_err(|error| error.context(format!("last status: {last}")))
    }

    /// Whether a condition is what it should be, waiting for it.
    pub fn condition(&self, kind: &str, status: &str, limit: Duration) -> Result<Value> {
        until(
            &format!("{kind}={status} of {}/{}", self.namespace, self.name),
            limit,
            || {
                let found = self.status()?;
                let conditions = found["conditions"].as_array().cloned().unwrap_or_default();
                Ok(conditions
                    .into_iter()
                    .find(|c| c["type"] == kind && c["status"] == status))
            },
        )
    }

    pub fn delete(&self) -> Result<()> {
        let args = [
            "delete",
            "flashsale",
            &self.name,
            "-n",
            &self.namespace,
            "--timeout=30s",
        ];
        self.cluster.kubectl(&args).map(|_| ())
    }
}

/// A time as a manifest has it.
pub fn in_seconds(seconds: i64) -> String {
    let time = Timestamp::now() + SignedDuration::from_secs(seconds);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
