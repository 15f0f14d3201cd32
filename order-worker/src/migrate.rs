//! The schema and the topic, before anything runs. A Job: it waits for servers that come up beside it, and ends.
use std::fmt::Display;
use std::time::Duration;

use anyhow::{Context, bail};
use seckill_order_log::{LogError, ensure_topic};
use seckill_service::health::Health;
use seckill_service::{Shutdown, retry, telemetry};

use crate::args::{MigrateArgs, log_config};

pub async fn migrate(args: Box<MigrateArgs>) -> anyhow::Result<()> {
    telemetry::init(&args.telemetry, "order-worker");
    let shutdown = Shutdown::on_signal();
    let limit = Duration::from_secs(args.timeout_seconds);
    let work = async {
        let url = args.migrate_mysql_url.expose();
        let version = patiently("migrating", &shutdown, || seckill_ledger::migrate(url)).await?;
        tracing::info!(version, "the schema is up to date");
        if args.create_topic {
            create_topic(&args, &shutdown).await?;
        }
        Ok(())
    };
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => bail!(
            "not done within {} s: see the failures above, or give --timeout-seconds more",
            limit.as_secs()
        ),
    }
}

async fn create_topic(args: &MigrateArgs, shutdown: &Shutdown) -> anyhow::Result<()> {
    let config = log_config(&args.kafka);
    let create = || async {
        match ensure_topic(
            &config,
            args.topic_partitions,
            args.topic_replication,
            args.topic_min_insync,
        )
        .await
        {
            // Waiting does not heal these.
            Err(error @ (LogError::Config(_) | LogError::Topic { .. })) => Ok(Err(error)),
            other => other.map(Ok),
        }
    };
    let ensured = patiently("creating the topic", shutdown, create).await??;
    tracing::info!(topic = config.topic, ?ensured, "the topic is there");
    Ok(())
}

async fn patiently<T, E: Display, F: Future<Output = Result<T, E>>>(
    what: &str,
    shutdown: &Shutdown,
    attempt: impl FnMut() -> F,
) -> anyhow::Result<T> {
    // Nobody asks a Job whether it is ready.
    let gate = Health::new().gate("migrate");
    retry::until_ok(what, &gate, shutdown, attempt)
        .await
        .context("told to end before it was done")
}
