//! `report`: a folder with what helps others to find a fault. No Secret is read, only objects of the release are included, and
//! everything in them that could be secret is left out.
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
#[cfg(unix)]
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kubectl::Kubectl;
use crate::release::{INSTANCE, Program, ProgramPod, pods};

/// The last lines of each log.
const LOG_LINES: &str = "--tail=5000";
/// The kinds of objects of a release. One request each, so that one missing permission does not cost the others.
const KINDS: [&str; 8] = [
    "deployments",
    "replicasets",
    "pods",
    "jobs",
    "services",
    "leases",
    "horizontalpodautoscalers",
    "networkpolicies",
];
/// The annotations that are kept begin like this. Others may be hashes or copies of secrets.
const KEPT_ANNOTATIONS: [&str; 3] = ["seckill.dev/", "meta.helm.sh/", "deployment.kubernetes.io/"];
/// Fields that may have passwords or tokens. The chart sets none of them.
const LEFT_OUT: [&str; 3] = ["args", "httpHeaders", "managedFields"];

pub fn default_folder() -> PathBuf {
    PathBuf::from(format!(
        "seckill-report-{}",
        Timestamp::now().strftime("%Y%m%dT%H%M%SZ")
    ))
}

pub fn write(kubectl: &Kubectl, folder: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    builder.mode(0o700);
    builder
        .create(folder)
        .with_context(|| format!("failed to create {}", folder.display()))?;
    let report = Report { kubectl, folder };
    report.add("versions.txt", || kubectl.output(&["version"]));
    report.add("flashsales.yaml", || {
        report.objects(&["get", "flashsales", "--all-namespaces"])
    });
    report.add("flashsale-events.txt", || {
        let sales = "--field-selector=involvedObject.kind=FlashSale";
        kubectl.output(&["get", "events", "--all-namespaces", sales, "--sort-by=.lastTimestamp"])
    });
    let pods = match pods(kubectl) {
        Ok(pods) => pods,
        Err(error) => {
            report.add("release.txt", || Err(error));
            bail!("wrote {}, without the release: see release.txt there", folder.display());
        }
    };
    let releases: BTreeSet<(&str, &str)> = pods.iter().map(|pod| (pod.namespace.as_str(), pod.release())).collect();
    for (namespace, release) in &releases {
        let selector = format!("{INSTANCE}={release}");
        for kind in KINDS {
            report.add(&format!("{namespace}/{release}/{kind}.yaml"), || {
                report.objects(&["get", kind, "-n", namespace, "-l", &selector])
            });
        }
    }
    for namespace in releases.iter().map(|(namespace, _)| namespace).collect::<BTreeSet<_>>() {
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
    /// Writes a file. If its content is not available, the file has the reason, so that one missing permission does not cost the rest.
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
        let ProgramPod {
            namespace,
            name,
            container,
            ..
        } = pod;
        let logs = [
            "logs",
            "-n",
            namespace,
            name,
            "-c",
            container,
            "--timestamps",
            LOG_LINES,
        ];
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
            let exec = ["exec", "-n", namespace, name, "-c", container, "--"];
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

/// Removes what could be secret: a value in the manifest may be a password that somebody has put there.
fn redact(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Object(fields) => {
            fields.retain(|name, _| !LEFT_OUT.contains(&name.as_str()));
            if let Some(annotations) = fields.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.retain(|name, _| KEPT_ANNOTATIONS.iter().any(|start| name.starts_with(start)));
            }
            for variable in fields
                .get_mut("env")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                let name = variable["name"].as_str().unwrap_or_default();
                if !is_harmless(name) && variable["value"].is_string() {
                    variable["value"] = "(left out)".into();
                }
            }
            fields.values_mut().for_each(redact);
        }
        _ => {}
    }
}

/// By the name of a variable: those of the product, unless they hold credentials.
fn is_harmless(variable: &str) -> bool {
    let secret = [
        "URL",
        "PROPERTIES",
        "KEY",
        "KEYS",
        "PASSWORD",
        "TOKEN",
        "SECRET",
        "ENDPOINT",
    ];
    variable.starts_with("SECKILL_") && !secret.iter().any(|end| variable.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_could_be_secret_are_left_out() {
        let mut object = json!({
            "metadata": {
                "name": "api", "managedFields": [{"manager": "helm"}],
                "annotations": {
                    "kubectl.kubernetes.io/last-applied-configuration": "redis://:hunter2@redis",
                    "checksum/secrets": "hunter2", "seckill.dev/suspend": "true",
                },
            },
            "spec": {"template": {"spec": {"containers": [{"args": ["--password=hunter2"], "env": [
                {"name": "OTEL_EXPORTER_OTLP_HEADERS", "value": "authorization=hunter2"},
                {"name": "HTTPS_PROXY", "value": "http://a:hunter2@proxy"},
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
        for kept in ["SECKILL_REDIS_URL", "info", "secretKeyRef", "seckill.dev/suspend"] {
            assert!(text.contains(kept), "{text}");
        }
    }
}
