//! Passwords and the CA are replaced, as docs/installation.md describes it, while buyers buy: no purchase may fail, and the
//! old ones are refused afterwards.
//!
//! `SECKILL_ROTATE` is the command that changes the servers. `SECKILL_REPLACED_LOGINS_VALUES` has the values of a release with
//! the new passwords.
use std::process::Command;

use anyhow::{Context, Result, ensure};
use seckill_e2e::{Release, Scenario, wait_until};

use crate::open_sale::OpenSale;
use crate::sales::WAIT_LIMIT;
use crate::secured::{CA_IS_WRONG, CA_SECRET, Deployment, Named, PASSWORD_IS_WRONG, apply_cas, check_named, secure};

pub const SCENARIOS: &[Scenario] = &[(
    "replaced_passwords_and_cas_fail_no_purchase_and_the_old_ones_are_refused",
    replaced_passwords_and_cas_fail_no_purchase,
)];

const OLD_CA_SECRET: &str = "old-servers-ca";

fn replaced_passwords_and_cas_fail_no_purchase(release: &Release) -> Result<()> {
    // An interrupted run may have left others.
    rotate("reset")?;
    let result = secure(release).and_then(|()| replace(release));
    // The scenarios that follow use the first ones, whatever happened.
    let reset = rotate("reset");
    let upgraded = release.upgrade(&[]).map(drop);
    result.and(reset).and(upgraded)
}

fn replace(release: &Release) -> Result<()> {
    let api = Deployment::of(release, "api")?;
    let old_logins = ["SECKILL_REDIS_URL", "SECKILL_KAFKA_PROPERTIES", "SECKILL_MYSQL_URL"]
        .map(|variable| Ok((variable, api.secret(variable)?)))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let values = std::env::var("SECKILL_REPLACED_LOGINS_VALUES").context("SECKILL_REPLACED_LOGINS_VALUES")?;

    let mut sale = OpenSale::open(release, "rotation")?;
    sale.buy_during("new passwords", || {
        rotate("add-passwords")?;
        // The pods restart, because the Secrets of the chart change.
        release.upgrade(&["-f", &values])?;
        rotate("remove-old-passwords")
    })?;
    api.start_pod("old-password", &old_logins)?;
    wait_until_refused(&api, "old-password", &PASSWORD_IS_WRONG)?;

    sale.buy_during("new CA", || {
        apply_cas(release, CA_SECRET, &["ca", "next-ca"])?;
        restart_all(release)?;
        rotate("new-certificates")?;
        apply_cas(release, CA_SECRET, &["next-ca"])?;
        restart_all(release)
    })?;
    apply_cas(release, OLD_CA_SECRET, &["ca"])?;
    api.start_pod_with_ca("old-ca", &[], OLD_CA_SECRET)?;
    wait_until_refused(&api, "old-ca", &CA_IS_WRONG)?;
    sale.settle()
}

fn restart_all(release: &Release) -> Result<()> {
    ["operator", "api", "worker"]
        .into_iter()
        .try_for_each(|program| release.restart(program))
}

fn wait_until_refused(api: &Deployment, pod: &str, named: &Named) -> Result<()> {
    wait_until(&format!("seckill-api to name each {pod}"), WAIT_LIMIT, || {
        check_named(named, &api.reason_of_pod(pod)?).map(Some)
    })?;
    api.delete_pod(pod)
}

/// Changes the servers.
fn rotate(what: &str) -> Result<()> {
    let command = std::env::var("SECKILL_ROTATE").context("SECKILL_ROTATE")?;
    let command: Vec<String> = serde_json::from_str(&command).context("SECKILL_ROTATE")?;
    let (program, args) = command.split_first().context("SECKILL_ROTATE is empty")?;
    let output = Command::new(program).args(args).arg(what).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what}: {error}");
    Ok(())
}
