//! `seckill-load` signs tokens for its buyers, and checks limits and tiers from outside.
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::shop::{AUDIENCE, Scenario, Shop};

/// They need the private key of the issuer.
pub const SCENARIOS: &[(&str, Scenario)] = &[(
    "seckill_load_finds_limits_and_tiers_kept_for_a_signed_crowd",
    seckill_load_finds_limits_and_tiers_kept,
)];

fn seckill_load_finds_limits_and_tiers_kept(shop: &Shop) -> Result<()> {
    let program = std::env::var("SECKILL_LOAD").context("SECKILL_LOAD")?;
    let key = shop.issuer.key_pem().context("the issuer keeps its private key")?;
    let file = std::env::temp_dir().join(format!("{}.pem", shop.release.name));
    fs::write(&file, key)?;

    // The crowd arrives before and after the start, and wants more than there is.
    let gold = json!({"name": "gold", "values": ["gold"], "opensBeforeSeconds": 600, "limitPerBuyer": 3});
    let fields = json!({"limitPerBuyer": 2, "tiers": [gold], "reservedForGeneral": 50});
    let sale = shop.sale_with("signed", 200, 15, &fields)?;
    let mut load = Command::new(program);
    load.arg(shop.release.api.url()).args(["--sale", &shop.path(&sale)]);
    load.args(["--header", &format!("Host: {}", shop.release.api.host())]);
    load.args(["--buyers", "900", "--people", "200", "--over", "30s", "--units", "200"]);
    load.args(["--issuer", shop.issuer.url(), "--audience", AUDIENCE])
        .arg("--token-key")
        .arg(&file);
    load.args([
        "--limit-per-buyer",
        "2",
        "--tier",
        "gold,share=0.2,opens-before=10m,limit=3",
    ]);
    // The ingress has an address of the test's own namespace.
    load.arg("--i-own-this-target");
    let output = load.output().context("failed to run seckill-load")?;
    fs::remove_file(&file)?;
    let report = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{}: {report}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let status = sale.status()?;
    ensure!(
        status["tiers"]
            .as_array()
            .is_some_and(|tiers| tiers.iter().any(|tier| tier["sold"].as_u64() > Some(0))),
        "nobody with a tier has bought: {status}\n{report}"
    );
    sale.delete()
}
