//! `order-worker migrate`: brings the schema up to date and creates the topic. It runs as a Job that waits for servers
//! that start at the same time.
use std::fmt::Display;
use std::time::Duration;

use anyhow::{Context, bail};
use seckill_order_log::{LogError, ensure_topic};
use seckill_service::connect::log_config;
use seckill_service::health::Health;
use seckill_service::{Shutdown, retry, telemetry};

use crate::args::MigrateArgs;

pub async fn migrate(args: Box<MigrateArgs>) -> anyhow::Result<()> {
    telemetry::init(&args.telemetry, "order-worker");
    let shutdown = Shutdown::on_signal();
    let limit = Duration::from_secs(args.timeout_seconds);
    let work = async {
        let url = args.mysql_tls.applied_to(&args.migrate_mysql_url);
        let version = retry_until_ok("migrating the schema", &shutdown, || seckill_ledger::migrate(&url)).await?;
        tracing::info!(version, "schema is up to date");
        if args.create_topic {
            create_topic(&args, &shutdown).await?;
        }
        Ok(())
    };
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => bail!(
            "timed out after {} s: see the failures above, or raise --timeout-seconds",
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
            // Retrying does not help against these.
            Err(error @ (LogError::Config(_) | LogError::Topic { .. })) => Ok(Err(error)),
            other => other.map(Ok),
        }
    };
    let ensured = retry_until_ok("creating the topic", shutdown, create).await??;
    tracing::info!(topic = config.topic, ?ensured, "topic is ready");
    Ok(())
}

async fn retry_until_ok<T, E: Display, F: Future<Output = Result<T, E>>>(
    what: &str,
    shutdown: &Shutdown,
    attempt: impl FnMut() -> F,
) -> anyhow::Result<T> {
    // Nothing probes the readiness of a Job.
    let gate = Health::new().gate("migrate");
    retry::until_ok(what, &gate, shutdown, attempt)
        .await
        .context("shut down before the migration ended")
}
