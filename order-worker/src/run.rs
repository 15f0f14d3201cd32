//! Starts the parts of the worker and stops them in order.
use std::time::Duration;

use anyhow::Context;
use seckill_service::metrics::registry::Registry;
use seckill_service::traces::Traces;
use seckill_service::{Health, Heartbeats, Shutdown, admin, connect, mysql_pool, open_files, telemetry};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::adjustments::Adjuster;
use crate::args::RunArgs;
use crate::consume::{Consume, Positions};
use crate::metrics::Metrics;
use crate::monitor;
use crate::relay::Relay;

const MYSQL_CONNECTIONS: u32 = mysql_pool::WORKER_STORES + mysql_pool::WORKER;
/// Time limit for the last records of the relay to reach Kafka.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

pub async fn run(args: Box<RunArgs>) -> anyhow::Result<()> {
    telemetry::init(&args.telemetry, "order-worker");
    open_files::raise_limit();
    run_until_shutdown(args, Shutdown::on_signal()).await
}

/// Runs until shutdown. An error means that retrying does not help.
pub async fn run_until_shutdown(args: Box<RunArgs>, shutdown: Shutdown) -> anyhow::Result<()> {
    let health = Health::new();
    let (mysql, kafka, reading) = (health.gate("mysql"), health.gate("kafka"), health.gate("order log"));
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let endpoint = args.traces.traces_endpoint.as_ref();
    let traces = Traces::start(endpoint, "order-worker", args.instance.instance());
    let traces = traces.context("SECKILL_TRACES_ENDPOINT")?;
    admin::serve(args.admin, health, registry, shutdown.clone()).await?;

    let spoken = args.instance.format.spoken_format;
    let heartbeats = Heartbeats::new("order-worker", args.instance.instance());
    let connect_mysql = async {
        let ledger = connect::ledger(&args.servers.mysql, spoken, MYSQL_CONNECTIONS, &mysql, &shutdown).await?;
        heartbeats.begin(&ledger).await;
        mysql.ready();
        Some(ledger)
    };
    let config = connect::log_config(&args.servers.kafka);
    let connect_kafka = connect::order_log(&config, &kafka, &shutdown);
    // At the same time, so that `/readyz` names every server that can't be reached.
    let (Some(ledger), Some(log)) = tokio::join!(connect_mysql, connect_kafka) else {
        heartbeats.end().await;
        return Ok(());
    };
    kafka.ready();

    let (positions, follow) = watch::channel(Positions::new());
    let relay = Relay {
        ledger: ledger.clone(),
        log: log.clone(),
        redis: args.servers.redis.config(),
        positions: follow.clone(),
        metrics: metrics.clone(),
        shutdown: shutdown.clone(),
    };
    let relay = tokio::spawn(relay.run());
    let adjuster = Adjuster {
        ledger: ledger.clone(),
        redis: args.servers.redis.config(),
        positions: follow.clone(),
        metrics: metrics.clone(),
        shutdown: shutdown.clone(),
    };
    let adjuster = tokio::spawn(adjuster.run());
    let monitor = tokio::spawn(monitor::run(
        log.clone(),
        follow,
        kafka,
        metrics.clone(),
        shutdown.clone(),
    ));
    let consume = Consume {
        ledger,
        log: config,
        group: args.group,
        mysql,
        reading,
        metrics,
        traces: traces.clone(),
        positions,
        shutdown: shutdown.clone(),
        runtime: Handle::current(),
    };
    // On a thread of its own, because the consumer blocks.
    let result = tokio::task::spawn_blocking(move || consume.run())
        .await
        .context("the thread that stores orders panicked")?;
    shutdown.cancel();
    relay.await.context("the relay task panicked")?;
    adjuster.await.context("the adjuster task panicked")?;
    monitor.await.context("the monitor task panicked")?;
    if let Err(error) = log.flush(FLUSH_TIMEOUT).await {
        tracing::warn!(%error, "flush failed; the next relay publishes missing batches again");
    }
    heartbeats.end().await;
    if let Some(traces) = traces {
        traces.end().await;
    }
    tracing::info!("stopped");
    result
}
