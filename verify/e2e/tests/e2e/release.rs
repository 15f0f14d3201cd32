//! The release itself: how its pods run, and what is left when it goes.
use std::time::Duration;

use anyhow::{Result, ensure};
use seckill_e2e::{Release, Sale};

use super::Scenario;

pub const SCENARIOS: &[Scenario] = &[
    (
        "all_pods_of_the_release_are_admitted_as_restricted_and_run",
        all_pods_run_as_restricted,
    ),
    (
        "one_of_two_operators_leads_and_the_other_one_takes_over_when_its_pod_is_deleted",
        the_other_operator_takes_over,
    ),
    (
        "deleting_a_namespace_of_sales_ends_by_itself",
        deleting_a_namespace_of_sales_ends_by_itself,
    ),
    (
        "uninstalling_leaves_the_crd_and_the_sales_and_nothing_else",
        uninstalling_leaves_the_sales,
    ),
    (
        "deleting_the_namespace_after_the_release_ends_by_itself",
        deleting_the_namespace_after_the_release,
    ),
    (
        "deleting_the_namespace_before_the_release_ends_by_itself",
        deleting_the_namespace_before_the_release,
    ),
];

const LIMIT: Duration = Duration::from_secs(120);

/// The namespace enforces the restricted standard: a pod that breaks it would not exist.
fn all_pods_run_as_restricted(release: &Release) -> Result<()> {
    let level = "-o=jsonpath={.metadata.labels.pod-security\\.kubernetes\\.io/enforce}";
    let enforced = release
        .cluster
        .kubectl(&["get", "namespace", &release.namespace, level])?;
    ensure!(enforced == "restricted", "enforced: {enforced:?}");
    for component in ["operator", "api", "worker"] {
        for pod in release.pods(component)? {
            let args = [
                "wait",
                "-n",
                &release.namespace,
                &pod,
                "--for=condition=Ready",
                "--timeout=60s",
            ];
            release.cluster.kubectl(&args)?;
        }
    }
    Ok(())
}

fn the_other_operator_takes_over(release: &Release) -> Result<()> {
    let pods = release.pods("operator")?;
    ensure!(pods.len() == 2, "{pods:?}");
    let leader = release.leader()?;
    ensure!(pods.contains(&leader), "{leader} leads, and is none of {pods:?}");
    let args = ["delete", "-n", &release.namespace, &leader, "--wait=false"];
    release.cluster.kubectl(&args)?;
    seckill_e2e::until("another operator to lead", Duration::from_secs(10), || {
        let next = release.leader()?;
        ensure!(next != leader, "{leader} still leads");
        Ok(Some(()))
    })?;
    let namespace = release.sales_namespace()?;
    let sale = Sale::apply(
        &release.cluster,
        &Sale::manifest(&release.class, &namespace, "next", 10, -1, 300),
    )?;
    sale.reaches("Open", LIMIT)?;
    Ok(())
}

fn deleting_a_namespace_of_sales_ends_by_itself(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    let sale = Sale::apply(
        &release.cluster,
        &Sale::manifest(&release.class, &namespace, "open", 10, -1, 300),
    )?;
    sale.reaches("Open", LIMIT)?;
    release.namespace_ends(&namespace)
}

fn uninstalling_leaves_the_sales(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    Sale::apply(
        &release.cluster,
        &Sale::manifest(&release.class, &namespace, "stays", 10, 3600, 7200),
    )?;
    release.uninstall()?;
    seckill_e2e::until("everything of the release to be gone", LIMIT, || {
        let left = release.left_over()?;
        ensure!(left.is_empty(), "left: {left:?}");
        Ok(Some(()))
    })?;
    ensure!(
        release.cluster.get("flashsale", &namespace, "stays")?.is_some(),
        "the FlashSale is gone"
    );
    ensure!(
        release
            .cluster
            .get("crd", "default", "flashsales.seckill.dev")?
            .is_some(),
        "the CRD is gone"
    );
    // Nobody is there any more to take a finalizer off.
    release.namespace_ends(&namespace)
}

fn deleting_the_namespace_after_the_release(release: &Release) -> Result<()> {
    release.uninstall()?;
    release.namespace_ends(&release.namespace)
}

fn deleting_the_namespace_before_the_release(release: &Release) -> Result<()> {
    let again = Release::install(release.cluster.clone())?;
    let namespace = again.sales_namespace()?;
    let sale = Sale::apply(
        &again.cluster,
        &Sale::manifest(&again.class, &namespace, "open", 10, -1, 300),
    )?;
    sale.reaches("Open", LIMIT)?;
    let ended = again.namespace_ends(&again.namespace);
    // Cluster-wide objects of the release outlive its namespace; helm has lost its record of them.
    let selector = format!("app.kubernetes.io/instance={}", again.name);
    let cluster_wide = "clusterroles,clusterrolebindings";
    again
        .cluster
        .kubectl(&["delete", cluster_wide, "-l", &selector, "--ignore-not-found"])?;
    again.namespace_ends(&namespace)?;
    ended
}
