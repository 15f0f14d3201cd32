//! Brokers of Kafka go down.
use std::time::Duration;

use anyhow::Result;
use rand::Rng as _;

use crate::context::RunContext;

const DOWN_DURATION: Duration = Duration::from_secs(10);

pub async fn all_brokers_down(run: &mut RunContext) -> Result<String> {
    for broker in &mut run.harness.kafka {
        broker.kill()?;
    }
    stay_down(run).await?;
    Ok("Kafka was down for 10 s".into())
}

pub async fn one_broker_down(run: &mut RunContext) -> Result<String> {
    let which = run.rng.random_range(0..run.harness.kafka.len());
    run.harness.kafka[which].kill()?;
    stay_down(run).await?;
    Ok(format!("{} was down for 10 s", run.harness.kafka[which].name))
}

/// Fewer brokers than `min.insync.replicas`: no record can be acknowledged.
pub async fn one_broker_left(run: &mut RunContext) -> Result<String> {
    let left = run.rng.random_range(0..run.harness.kafka.len());
    for (i, broker) in run.harness.kafka.iter_mut().enumerate() {
        if i != left {
            broker.kill()?;
        }
    }
    stay_down(run).await?;
    Ok(format!("only {} was up for 10 s", run.harness.kafka[left].name))
}

async fn stay_down(run: &mut RunContext) -> Result<()> {
    run.harness.run_for(DOWN_DURATION).await?;
    run.harness.restart_kafka().await
}
