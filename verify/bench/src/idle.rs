//! Memory and processor time of idle programs.
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cpu::{cpu_seconds, resident_mib};
use crate::harness::{Harness, Program, not_started};
use crate::report::{Goal, Row};

/// The work that belongs to a start ends within this time.
const STARTUP_DURATION: Duration = Duration::from_secs(15);
const MEASURED_DURATION: Duration = Duration::from_secs(20);
const SALES: usize = 1_000;
const MAX_CPU_PERCENT: f64 = 2.0;

pub async fn idle(harness: &Harness) -> Result<Vec<Row>> {
    let kubeconfig = std::env::var("SECKILL_TEST_KUBECONFIG").context("SECKILL_TEST_KUBECONFIG")?;
    // The operator has another class, so that it ignores the sales below, which have no FlashSale.
    let operator_variables = [
        ("KUBECONFIG", kubeconfig),
        ("SECKILL_CLASS", "bench-idle".to_owned()),
        ("SECKILL_API_DEPLOYMENT", "default/bench-api".to_owned()),
        ("SECKILL_WORKER_DEPLOYMENT", "default/bench-worker".to_owned()),
        ("SECKILL_LEASE_NAMESPACE", "default".to_owned()),
        ("SECKILL_LEASE_NAME", "seckill-bench".to_owned()),
    ];
    let programs = [
        ("seckill-api", harness.api().await?, 25.0),
        ("order-worker", harness.worker().await?, 25.0),
        (
            "operator",
            harness.program("operator", &operator_variables, None)?,
            35.0,
        ),
    ];
    let mut rows = measure("without sales", &programs).await?;
    for _ in 0..SALES {
        harness.announce(100, not_started()).await?;
    }
    // The operator's thousand sales are in `cargo xtask bench operator`.
    rows.extend(measure("with 1,000 sales announced", &programs[..2]).await?);
    Ok(rows)
}

async fn measure(when: &str, programs: &[(&str, Program, f64)]) -> Result<Vec<Row>> {
    tokio::time::sleep(STARTUP_DURATION).await;
    let mut before = Vec::new();
    for (_, program, _) in programs {
        before.push(cpu_seconds(program.pid()?)?);
    }
    tokio::time::sleep(MEASURED_DURATION).await;
    let mut rows = Vec::new();
    for ((name, program, max_mib), before) in programs.iter().zip(before) {
        let busy = 100.0 * (cpu_seconds(program.pid()?)? - before) / MEASURED_DURATION.as_secs_f64();
        let resident = resident_mib(program.pid()?)?;
        rows.push(Row::new(format!("{name} {when}: memory"), "MiB", vec![resident]).goal(Goal::AtMost(*max_mib)));
        rows.push(Row::new(format!("{name} {when}: of a core"), "%", vec![busy]).goal(Goal::AtMost(MAX_CPU_PERCENT)));
    }
    Ok(rows)
}
