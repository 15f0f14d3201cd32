//! `report`: a folder with what helps others to find a fault. No Secret is read, and the values of variables that could be
//! secret are left out.
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kubectl::Kubectl;
use crate::release::{Program, ProgramPod, pods};

/// The last lines of each log.
const LOG_LINES: &str = "--tail=5000";
/// Of what kubectl says last of an object, for a person; the whole manifest with its values, therefore not kept.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub fn default_folder() -> PathBuf {
    PathBuf::from(format!(
        "seckill-report-{}",
        Timestamp::now().strftime("%Y%m%dT%H%M%SZ")
    ))
}

pub fn write(kubectl: &Kubectl, folder: &Path) -> Result<()> {
    fs::create_dir(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let report = Report { kubectl, folder };
    report.add("versions.txt", || kubectl.output(&["version"]));
    report.add("flashsales.yaml", || {
        report.objects(&["get", "flashsales", "--all-namespaces"])
    });
    report.add("flashsale-events.txt", || {
        let sales = "--field-selector=involvedObject.kind=FlashSale";
        kubectl.output(&["get", "events", "--all-namespaces", sales, "--sort-by=.lastTimestamp"])
    });
    let pods = pods(kubectl)?;
    let mut namespaces: Vec<&str> = pods.iter().map(|pod| pod.namespace.as_str()).collect();
    namespaces.dedup();
    for namespace in namespaces {
        let kinds = "deployments,replicasets,pods,jobs,services,leases,horizontalpodautoscalers,networkpolicies";
        report.add(&format!("{namespace}/objects.yaml"), || {
            report.objects(&["get", kinds, "-n", namespace])
        });
        report.add(&format!("{namespace}/events.txt"), || {
            kubectl.output(&["get", "events", "-n", namespace, "--sort-by=.lastTimestamp"])
        });
    }
    for pod in &pods {
        report.add_pod(pod);
    }
    println!("wrote {}; read it before you send it", folder.display());
    Ok(())
}

struct Report<'a> {
    kubectl: &'a Kubectl,
    folder: &'a Path,
}

impl Report<'_> {
    /// Writes a file. What can't be had is said in its place, so that one missing right does not cost the rest.
    fn add(&self, name: &str, text: impl FnOnce() -> Result<String>) {
        let text = text().unwrap_or_else(|error| format!("not available: {error:#}\n"));
        let file = self.folder.join(name);
        let folder = file.parent().unwrap_or(self.folder);
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(&file, text));
        if let Err(error) = written {
            eprintln!("failed to write {}: {error}", file.display());
        }
    }

    fn add_pod(&self, pod: &ProgramPod) {
        let ProgramPod { namespace, name, .. } = pod;
        let logs = ["logs", "-n", namespace, name, "--timestamps", LOG_LINES];
        self.add(&format!("{namespace}/{name}.log"), || self.kubectl.output(&logs));
        let restarted = pod
            .pod
            .status
            .iter()
            .flat_map(|status| status.container_statuses.iter().flatten());
        if restarted.into_iter().any(|container| container.restart_count > 0) {
            let previous = [&logs[..], &["--previous"]].concat();
            self.add(&format!("{namespace}/{name}.previous.log"), || {
                self.kubectl.output(&previous)
            });
        }
        self.add(&format!("{namespace}/{name}.metrics.txt"), || pod.metrics(self.kubectl));
        let commands: &[&[&str]] = match pod.program {
            Program::Operator => &[&["/usr/local/bin/operator", "check"]],
            Program::Worker => &[&["/usr/local/bin/order-worker", "quarantine", "list"]],
            Program::Api => &[],
        };
        for command in commands {
            let exec = ["exec", "-n", namespace, name, "--"];
            let said = || self.kubectl.output(&[&exec[..], command].concat());
            self.add(&format!("{namespace}/{name}.{}.txt", command[1]), said);
        }
    }

    /// Objects without values that could be secret.
    fn objects(&self, args: &[&str]) -> Result<String> {
        let mut objects: Vec<Value> = self.kubectl.list_with(args)?;
        objects.iter_mut().for_each(redact);
        Ok(serde_yaml::to_string(
            &json!({"apiVersion": "v1", "kind": "List", "items": objects}),
        )?)
    }
}

/// Variables with a value in the manifest may be passwords that somebody has put there.
fn redact(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Object(fields) => {
            fields.remove("managedFields");
            fields.remove(LAST_APPLIED);
            for variable in fields
                .get_mut("env")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                let name = variable["name"].as_str().unwrap_or_default();
                if is_secret(name) && variable["value"].is_string() {
                    variable["value"] = "(left out)".into();
                }
            }
            fields.values_mut().for_each(redact);
        }
        _ => {}
    }
}

/// By the name of a variable. Those of the product that hold secrets end like this, and so do most of others.
fn is_secret(variable: &str) -> bool {
    ["URL", "PROPERTIES", "KEY", "KEYS", "PASSWORD", "TOKEN", "SECRET"]
        .iter()
        .any(|end| variable.to_uppercase().ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_could_be_secret_are_left_out() {
        let mut object = json!({
            "metadata": {
                "name": "api", "managedFields": [{"manager": "helm"}],
                "annotations": {LAST_APPLIED: "redis://:hunter2@redis"},
            },
            "spec": {"template": {"spec": {"containers": [{"env": [
                {"name": "SECKILL_REDIS_URL", "value": "redis://:hunter2@redis"},
                {"name": "SECKILL_LOG", "value": "info"},
                {"name": "SECKILL_MYSQL_URL", "valueFrom": {"secretKeyRef": {"name": "mysql", "key": "api-url"}}},
            ]}]}}},
        });
        redact(&mut object);
        let text = object.to_string();
        for secret in ["hunter2", "managedFields"] {
            assert!(!text.contains(secret), "{text}");
        }
        for kept in ["SECKILL_REDIS_URL", "info", "secretKeyRef"] {
            assert!(text.contains(kept), "{text}");
        }
    }
}
