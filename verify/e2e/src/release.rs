//! A release of the charts.
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use uuid::Uuid;

use crate::buyers::Api;
use crate::cluster::{Cluster, until};

/// A release with names of its own.
#[derive(Clone)]
pub struct Release {
    pub cluster: Cluster,
    pub name: String,
    pub class: String,
    /// Where the release is; its sales are in other namespaces.
    pub namespace: String,
    pub api: Api,
}

impl Release {
    /// Installs both charts.
    pub fn install(cluster: Cluster) -> Result<Self> {
        let release = Release::prepare(cluster)?;
        release.upgrade(&[])?;
        release.answers()?;
        Ok(release)
    }

    /// All that a release needs of the cluster's administrator: a namespace, which lets in only pods of the restricted
    /// standard, and the CRD.
    pub fn prepare(cluster: Cluster) -> Result<Self> {
        let name = unique("e2e");
        cluster.create_namespace(&name, json!({"pod-security.kubernetes.io/enforce": "restricted"}))?;
        // The CRD may be there already, from another test.
        let crds = [
            "upgrade",
            "--install",
            "seckill-crds",
            &chart("seckill-crds"),
            "-n",
            "default",
        ];
        cluster.helm(&[crds.as_slice(), &["--wait", "--take-ownership"]].concat())?;
        Ok(Release {
            api: Api::at(&cluster.ingress_url, &host(&name)),
            cluster,
            class: name.clone(),
            namespace: name.clone(),
            name,
        })
    }

    /// The same release, for somebody who may have fewer rights.
    pub fn as_user(&self, user: &str) -> Self {
        Release {
            cluster: self.cluster.as_user(user),
            ..self.clone()
        }
    }

    /// Waits until buyers get through.
    pub fn answers(&self) -> Result<()> {
        until("the ingress to lead to the release", Duration::from_secs(60), || {
            Ok((self.api.get("/v1/sales")?.status == 200).then_some(()))
        })
    }

    /// Installs or upgrades it with more flags of helm, which the next upgrade does not remember.
    pub fn upgrade(&self, more: &[&str]) -> Result<String> {
        let values = self.cluster.values.display().to_string();
        let own = format!("className={},ingress.host={}", self.class, host(&self.name));
        let chart = chart("seckill");
        let to = ["upgrade", "--install", &self.name, &chart, "-n", &self.namespace];
        let with = ["-f", &values, "--set", &own, "--wait", "--timeout", "5m"];
        self.cluster.helm(&[to.as_slice(), &with, more].concat())
    }

    /// A new namespace for sales.
    pub fn sales_namespace(&self) -> Result<String> {
        let name = unique("shop");
        self.cluster
            .create_namespace(&name, json!({"seckill.dev/e2e": self.name}))?;
        Ok(name)
    }

    /// Objects of the release, in all namespaces and of all kinds that kubectl can list, but for those that a
    /// controller of Kubernetes owns and will take away by itself.
    pub fn left_over(&self) -> Result<Vec<String>> {
        let kinds = self
            .cluster
            .kubectl(&["api-resources", "--verbs=list,get", "-o", "name"])?;
        let skipped = ["events", "events.events.k8s.io", "componentstatuses"];
        let kinds: Vec<_> = kinds.lines().filter(|k| !skipped.contains(k)).collect();
        let selector = format!("app.kubernetes.io/instance={}", self.name);
        let found = self.cluster.kubectl(&[
            "get",
            &kinds.join(","),
            "-A",
            "-l",
            &selector,
            "--ignore-not-found",
            "--no-headers",
            "-o",
            "custom-columns=KIND:.kind,NAME:.metadata.name",
        ])?;
        Ok(found
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .map(str::to_string)
            .collect())
    }

    pub fn uninstall(&self) -> Result<()> {
        let args = [
            "uninstall",
            &self.name,
            "-n",
            &self.namespace,
            "--ignore-not-found",
            "--wait",
            "--timeout",
            "3m",
        ];
        self.cluster.helm(&args).map(|_| ())
    }

    /// Takes everything away that the scenarios made. What can't be taken away is said, once.
    pub fn clean_up(&self) -> Result<()> {
        self.uninstall()?;
        let selector = format!("seckill.dev/e2e={}", self.name);
        self.cluster
            .kubectl(&["delete", "namespace", "-l", &selector, "--timeout=120s"])?;
        self.cluster.kubectl(&[
            "delete",
            "namespace",
            &self.namespace,
            "--ignore-not-found",
            "--timeout=120s",
        ])?;
        Ok(())
    }

    /// Waits until a namespace that is being deleted is gone.
    pub fn namespace_ends(&self, name: &str) -> Result<()> {
        self.cluster.kubectl(&["delete", "namespace", name, "--wait=false"])?;
        until(
            &format!("the namespace {name} to end"),
            Duration::from_secs(120),
            || {
                let left = self
                    .cluster
                    .kubectl(&["get", "namespace", name, "--ignore-not-found", "-o", "name"])?;
                Ok(left.trim().is_empty().then_some(()))
            },
        )
    }

    /// `pod/NAME` of the operator that leads.
    pub fn leader(&self) -> Result<String> {
        // The chart's name for a release whose name does not say seckill.
        let lease = format!("{}-seckill-operator", self.name);
        let holder = "-o=jsonpath={.spec.holderIdentity}";
        let holder = self
            .cluster
            .kubectl(&["get", "lease", &lease, "-n", &self.namespace, holder])?;
        // What follows the name of the pod is of the process.
        let (pod, _) = holder.rsplit_once('_').context("nobody leads")?;
        Ok(format!("pod/{pod}"))
    }

    /// Pods of one of the Deployments.
    pub fn pods(&self, component: &str) -> Result<Vec<String>> {
        let selector = format!(
            "app.kubernetes.io/instance={},app.kubernetes.io/component={component}",
            self.name
        );
        let names = self
            .cluster
            .kubectl(&["get", "pods", "-n", &self.namespace, "-l", &selector, "-o", "name"])?;
        let pods: Vec<_> = names.lines().map(str::to_string).collect();
        ensure!(!pods.is_empty(), "no pods of {component}");
        Ok(pods)
    }
}

/// The folder of a chart, by cargo's word at run time: several checkouts may share one build.
pub fn chart(name: &str) -> String {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| ".".into());
    let path = PathBuf::from(package).join("../../helm").join(name);
    path.display().to_string()
}

/// By which the ingress knows the release.
fn host(release: &str) -> String {
    format!("{release}.test")
}

fn unique(prefix: &str) -> String {
    let id = Uuid::new_v4().simple().to_string();
    format!("{prefix}-{}", &id[..8])
}

/// What is missing, as an error.
pub fn all_named(text: &str, names: &[&str]) -> Result<()> {
    let missing: Vec<_> = names.iter().filter(|n| !text.contains(**n)).collect();
    ensure!(missing.is_empty(), "{missing:?} not named in:\n{text}");
    Ok(())
}

/// The value of a field, an error if it is not there.
pub fn text<'a>(value: &'a serde_json::Value, field: &str) -> Result<&'a str> {
    value[field].as_str().with_context(|| format!("no {field} in {value}"))
}
