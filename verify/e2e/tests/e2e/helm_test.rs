//! `helm test` on the release.
use std::time::Duration;

use anyhow::{Result, ensure};
use seckill_e2e::{Release, Sale, Scenario, wait_until};

pub const SCENARIOS: &[Scenario] = &[
    (
        "helm_test_buys_and_returns_the_unit",
        helm_test_buys_and_returns_the_unit,
    ),
    ("helm_test_fails_with_the_reason", helm_test_fails_with_the_reason),
];

const WAIT_LIMIT: Duration = Duration::from_secs(120);

/// Runs `helm test` with such a value `test.sale`, and gives what helm and the pod say.
fn helm_test(release: &Release, sale: &str) -> Result<String> {
    release.upgrade(&["--set", &format!("test.sale={sale}")])?;
    let (name, namespace) = (&release.name, &release.namespace);
    let tested = release
        .cluster
        .helm(&["test", name, "-n", namespace, "--timeout", "3m"]);
    let pod = format!("{name}-seckill-test");
    let log = release.cluster.kubectl(&["logs", "-n", namespace, &pod]);
    release.cluster.kubectl(&["delete", "pod", "-n", namespace, &pod])?;
    let log = log?;
    // Without the value of the last upgrade.
    release.upgrade(&[])?;
    match tested {
        Ok(said) => Ok(format!("{said}\n{log}")),
        Err(error) => Err(error.context(log)),
    }
}

fn helm_test_buys_and_returns_the_unit(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    let manifest = Sale::manifest(&release.class, &namespace, "smoke-test", 1, -5, 3600);
    let sale = Sale::apply(&release.cluster, &manifest)?;
    sale.wait_for_phase("Open", WAIT_LIMIT)?;
    let path = format!("{namespace}/smoke-test");
    for _ in 0..2 {
        let said = helm_test(release, &path)?;
        ensure!(
            said.contains("201, order") && said.contains("cancelled, its unit returns"),
            "{said}"
        );
        wait_until("the unit to be back on sale", WAIT_LIMIT, || {
            Ok((release.api.get(&format!("/v1/sales/{path}"))?.body["remaining"] == 1).then_some(()))
        })?;
    }
    Ok(())
}

fn helm_test_fails_with_the_reason(release: &Release) -> Result<()> {
    let Err(error) = helm_test(release, "nowhere/smoke-test") else {
        anyhow::bail!("the test of a sale that does not exist succeeded");
    };
    let error = format!("{error:#}");
    ensure!(
        error.contains("sale_unknown") && error.contains("Check its namespace and name"),
        "{error}"
    );
    Ok(())
}
