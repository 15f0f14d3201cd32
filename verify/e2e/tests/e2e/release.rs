//! The release itself: how its pods run, and what is left after it is uninstalled.
use std::time::Duration;

use anyhow::{Result, ensure};
use seckill_e2e::{Release, Sale, Scenario, wait_until};

pub const SCENARIOS: &[Scenario] = &[
    (
        "all_pods_run_under_the_restricted_standard",
        all_pods_run_under_the_restricted_standard,
    ),
    (
        "the_other_operator_takes_over_when_the_leader_is_deleted",
        the_other_operator_takes_over,
    ),
    (
        "deleting_a_namespace_of_sales_ends_by_itself",
        deleting_a_namespace_of_sales_ends_by_itself,
    ),
    (
        "uninstalling_leaves_only_the_crd_the_sales_and_the_keys",
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

const WAIT_LIMIT: Duration = Duration::from_secs(120);

/// The namespace enforces the restricted standard: a pod that violates it would not exist.
fn all_pods_run_under_the_restricted_standard(release: &Release) -> Result<()> {
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
    ensure!(pods.contains(&leader), "{leader} leads, but is not one of {pods:?}");
    let args = ["delete", "-n", &release.namespace, &leader, "--wait=false"];
    release.cluster.kubectl(&args)?;
    wait_until("another operator to lead", Duration::from_secs(60), || {
        let next = release.leader()?;
        ensure!(next != leader, "{leader} still leads");
        Ok(Some(()))
    })?;
    let namespace = release.sales_namespace()?;
    let sale = Sale::apply(
        &release.cluster,
        &Sale::manifest(&release.class, &namespace, "next", 10, -1, 300),
    )?;
    sale.wait_for_phase("Open", WAIT_LIMIT)?;
    Ok(())
}

fn deleting_a_namespace_of_sales_ends_by_itself(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    let sale = Sale::apply(
        &release.cluster,
        &Sale::manifest(&release.class, &namespace, "open", 10, -1, 300),
    )?;
    sale.wait_for_phase("Open", WAIT_LIMIT)?;
    release.delete_namespace(&namespace)
}

fn uninstalling_leaves_the_sales(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    Sale::apply(
        &release.cluster,
        &Sale::manifest(&release.class, &namespace, "stays", 10, 3600, 7200),
    )?;
    release.uninstall()?;
    wait_until("everything of the release to be gone", WAIT_LIMIT, || {
        release.check_only_keys_remain()?;
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
    // No operator exists any more that could remove a finalizer.
    release.delete_namespace(&namespace)
}

fn deleting_the_namespace_after_the_release(release: &Release) -> Result<()> {
    release.uninstall()?;
    release.delete_namespace(&release.namespace)
}

fn deleting_the_namespace_before_the_release(release: &Release) -> Result<()> {
    let again = Release::install(release.cluster.clone())?;
    let namespace = again.sales_namespace()?;
    let sale = Sale::apply(
        &again.cluster,
        &Sale::manifest(&again.class, &namespace, "open", 10, -1, 300),
    )?;
    sale.wait_for_phase("Open", WAIT_LIMIT)?;
    let ended = again.delete_namespace(&again.namespace);
    // Cluster-scoped objects of the release outlive its namespace, and helm has lost its record of them.
    let selector = format!("app.kubernetes.io/instance={}", again.name);
    let cluster_wide = "clusterroles,clusterrolebindings";
    again
        .cluster
        .kubectl(&["delete", cluster_wide, "-l", &selector, "--ignore-not-found"])?;
    again.delete_namespace(&namespace)?;
    ended
}
