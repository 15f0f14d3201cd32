//! A release of the charts.
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use uuid::Uuid;

use crate::buyers::ApiClient;
use crate::cluster::{Cluster, wait_until};

/// A release with unique names.
#[derive(Clone)]
pub struct Release {
    pub cluster: Cluster,
    pub name: String,
    pub class: String,
    /// The namespace of the release. Its sales are in other namespaces.
    pub namespace: String,
    pub api: ApiClient,
}

impl Release {
    /// Installs both charts.
    pub fn install(cluster: Cluster) -> Result<Self> {
        let release = Release::prepare(cluster)?;
        release.upgrade(&[])?;
        release.wait_until_reachable()?;
        Ok(release)
    }

    /// Does what a release needs from the administrator of the cluster: the CRD, and a namespace that admits only pods of
    /// the restricted standard.
    pub fn prepare(cluster: Cluster) -> Result<Self> {
        let name = unique("e2e");
        cluster.create_namespace(&name, json!({"pod-security.kubernetes.io/enforce": "restricted"}))?;
        // The CRD may exist already, from another test.
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
            api: ApiClient::at(&cluster.ingress_url, &host(&name)),
            cluster,
            class: name.clone(),
            namespace: name.clone(),
            name,
        })
    }

    /// The same release, for a user who may have fewer rights.
    pub fn as_user(&self, user: &str) -> Self {
        Release {
            cluster: self.cluster.as_user(user),
            ..self.clone()
        }
    }

    /// Waits until buyers can reach the release.
    pub fn wait_until_reachable(&self) -> Result<()> {
        wait_until("the ingress to serve the release", Duration::from_secs(60), || {
            Ok((self.api.get("/v1/sales")?.status == 200).then_some(()))
        })
    }

    /// Installs or upgrades the release with more flags of helm. The next upgrade does not keep them.
    pub fn upgrade(&self, more: &[&str]) -> Result<String> {
        self.upgrade_to(&chart("seckill"), more)
    }

    /// The same with another version of the chart.
    pub fn upgrade_to(&self, chart: &str, more: &[&str]) -> Result<String> {
        let values = self.cluster.values.display().to_string();
        let own = format!("className={},ingress.host={}", self.class, host(&self.name));
        let to = ["upgrade", "--install", &self.name, chart, "-n", &self.namespace];
        let with = ["-f", &values, "--set", &own, "--wait", "--timeout", "5m"];
        self.cluster.helm(&[to.as_slice(), &with, more].concat())
    }

    /// Restarts a program, and waits until all its pods are new.
    pub fn restart(&self, program: &str) -> Result<()> {
        let deployment = format!("deployment/{}-seckill-{program}", self.name);
        let of_release = ["-n", &self.namespace, &deployment];
        self.cluster
            .kubectl(&[&["rollout", "restart"], &of_release[..]].concat())?;
        let status = ["rollout", "status", "--timeout=180s"];
        self.cluster.kubectl(&[&status[..], &of_release].concat())?;
        Ok(())
    }

    /// A new namespace for sales.
    pub fn sales_namespace(&self) -> Result<String> {
        let name = unique("shop");
        self.cluster
            .create_namespace(&name, json!({"seckill.dev/e2e": self.name}))?;
        Ok(name)
    }

    /// Objects of the release, in all namespaces and of all kinds that kubectl can list, except kinds that controllers of
    /// Kubernetes remove by themselves.
    fn remaining_objects(&self) -> Result<Vec<String>> {
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

    /// Checks that an uninstallation has left only the keys of order numbers and of buyers, which Helm must keep.
    pub fn check_only_keys_remain(&self) -> Result<()> {
        let mut left = self.remaining_objects()?;
        for object in &mut left {
            *object = object.split_whitespace().collect::<Vec<_>>().join(" ");
        }
        left.sort();
        let kept = ["buyer-key", "order-number-keys"].map(|key| format!("Secret {}-seckill-{key}", self.name));
        ensure!(left == kept, "left: {left:?}");
        Ok(())
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

    /// Removes everything that the scenarios created.
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

    /// Deletes a namespace, and waits until it is gone.
    pub fn delete_namespace(&self, name: &str) -> Result<()> {
        self.cluster.kubectl(&["delete", "namespace", name, "--wait=false"])?;
        wait_until(
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

    /// The Lease of the operators: the chart's name for a release whose name does not say seckill.
    fn lease(&self) -> String {
        format!("{}-seckill-operator", self.name)
    }

    /// Confirms the mass deletion that the operator announced last, if any, as the event on its Lease says.
    pub fn confirm_mass_deletion(&self) -> Result<()> {
        let of_lease = "reason=MassDeletionHeldBack";
        let newest = "--sort-by=.metadata.creationTimestamp";
        let notes = "-o=jsonpath={range .items[*]}{.note}{\"\\n\"}{end}";
        let kind = "events.events.k8s.io";
        let args = [
            "get",
            kind,
            "-n",
            &self.namespace,
            "--field-selector",
            of_lease,
            newest,
            notes,
        ];
        let announced = self.cluster.kubectl(&args)?;
        let Some((_, confirmation)) = announced.trim_end().rsplit_once("--overwrite ") else {
            return Ok(());
        };
        let args = [
            "annotate",
            "lease",
            &self.lease(),
            "-n",
            &self.namespace,
            "--overwrite",
            confirmation,
        ];
        self.cluster.kubectl(&args).map(|_| ())
    }

    /// `pod/NAME` of the leading operator.
    pub fn leader(&self) -> Result<String> {
        let lease = self.lease();
        let holder = "-o=jsonpath={.spec.holderIdentity}";
        let holder = self
            .cluster
            .kubectl(&["get", "lease", &lease, "-n", &self.namespace, holder])?;
        // The name of the pod is followed by an id of the process.
        let (pod, _) = holder.rsplit_once('_').context("no operator leads")?;
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

/// The folder of the repository. Cargo names the package folder at run time, since several checkouts may share one build.
pub fn repository() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| ".".into());
    PathBuf::from(package).join("../..")
}

/// The folder of a chart.
pub fn chart(name: &str) -> String {
    repository().join("helm").join(name).display().to_string()
}

/// The host name of the release at the ingress.
fn host(release: &str) -> String {
    format!("{release}.test")
}

fn unique(prefix: &str) -> String {
    let id = Uuid::new_v4().simple().to_string();
    format!("{prefix}-{}", &id[..8])
}

/// Checks that a text has all these names.
pub fn check_all_named(text: &str, names: &[&str]) -> Result<()> {
    let missing: Vec<_> = names.iter().filter(|n| !text.contains(**n)).collect();
    ensure!(missing.is_empty(), "{missing:?} not named in:\n{text}");
    Ok(())
}

/// The text of a field; an error if it does not exist.
pub fn text_field<'a>(value: &'a serde_json::Value, field: &str) -> Result<&'a str> {
    value[field].as_str().with_context(|| format!("no {field} in {value}"))
}
