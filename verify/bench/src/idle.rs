//! What the programs take when nothing happens.
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cost::cpu_seconds;
use crate::rounds::{Goal, Row};
use crate::site::{Program, Site, not_started};

/// Until all that belongs to a start is over.
const SETTLE: Duration = Duration::from_secs(15);
const WATCHED: Duration = Duration::from_secs(20);
const SALES: usize = 1_000;
/// In per cent of a core: as good as nothing.
const NOTHING: f64 = 2.0;

pub async fn idle(site: &Site) -> Result<Vec<Row>> {
    let kubeconfig = std::env::var("SECKILL_TEST_KUBECONFIG").context("SECKILL_TEST_KUBECONFIG")?;
    // Of another class, so that it finds none of the sales without a FlashSale that the others are about to see.
    let of_operator = [
        ("KUBECONFIG", kubeconfig),
        ("SECKILL_CLASS", "bench-idle".to_owned()),
        ("SECKILL_API_DEPLOYMENT", "default/bench-api".to_owned()),
        ("SECKILL_WORKER_DEPLOYMENT", "default/bench-worker".to_owned()),
        ("SECKILL_LEASE_NAMESPACE", "default".to_owned()),
        ("SECKILL_LEASE_NAME", "seckill-bench".to_owned()),
    ];
    let programs = [
        ("seckill-api", site.api().await?, 25.0),
        ("order-worker", site.worker().await?, 25.0),
        ("operator", site.program("operator", &of_operator, None)?, 35.0),
    ];
    let mut rows = watch("without sales", &programs).await?;
    for _ in 0..SALES {
        site.announce(100, not_started()).await?;
    }
    // The operator's thousand sales are in `cargo xtask bench operator`.
    rows.extend(watch("with 1,000 sales announced", &programs[..2]).await?);
    Ok(rows)
}

async fn watch(when: &str, programs: &[(&str, Program, f64)]) -> Result<Vec<Row>> {
    tokio::time::sleep(SETTLE).await;
    let mut before = Vec::new();
    for (_, program, _) in programs {
        before.push(cpu_seconds(program.pid()?)?);
    }
    tokio::time::sleep(WATCHED).await;
    let mut rows = Vec::new();
    for ((name, program, most), before) in programs.iter().zip(before) {
        let busy = 100.0 * (cpu_seconds(program.pid()?)? - before) / WATCHED.as_secs_f64();
        let resident = resident_mib(program.pid()?)?;
        rows.push(Row::new(format!("{name} {when}: memory"), "MiB", vec![resident]).goal(Goal::AtMost(*most)));
        rows.push(Row::new(format!("{name} {when}: of a core"), "%", vec![busy]).goal(Goal::AtMost(NOTHING)));
    }
    Ok(rows)
}

pub fn resident_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("VmRSS")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}
