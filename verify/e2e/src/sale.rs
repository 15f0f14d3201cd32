//! A FlashSale, from its manifest to its end.
use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::cluster::{Cluster, wait_until};

/// A sale on the cluster.
pub struct Sale<'a> {
    cluster: &'a Cluster,
    pub namespace: String,
    pub name: String,
}

impl<'a> Sale<'a> {
    /// A valid manifest; `starts` and `ends` are seconds from now.
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
    pub fn wait_for_phase(&self, phase: &str, limit: Duration) -> Result<Value> {
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
        let expected = place(phase);
        ensure!(expected.is_some(), "unknown phase {phase}");
        let mut last = Value::Null;
        let reached = wait_until(
            &format!("{}/{} to be {phase}", self.namespace, self.name),
            limit,
            || {
                last = self.status()?;
                let now = place(last["phase"].as_str().unwrap_or_default());
                Ok((now >= expected).then(|| last.clone()))
            },
        );
        reached.map_err(|error| error.context(format!("last status: {last}")))
    }

    pub fn wait_until_suspended(&self, limit: Duration) -> Result<()> {
        let what = format!("{}/{} to be suspended", self.namespace, self.name);
        wait_until(&what, limit, || {
            Ok((self.status()?["phase"] == "Suspended").then_some(()))
        })
    }

    /// Waits until a condition has a status.
    pub fn wait_for_condition(&self, kind: &str, status: &str, limit: Duration) -> Result<Value> {
        wait_until(
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

/// A time in the format of a manifest.
pub fn in_seconds(seconds: i64) -> String {
    let time = Timestamp::now() + SignedDuration::from_secs(seconds);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
