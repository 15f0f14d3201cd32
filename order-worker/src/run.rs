//! Puts the parts together, and takes them apart at the end.
use std::time::Duration;

use anyhow::Context;
use seckill_ledger::Ledger;
use seckill_order_log::OrderLog;
use seckill_service::metrics::registry::Registry;
use seckill_service::{Health, Shutdown, admin, retry, telemetry};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::adjustments::Adjuster;
use crate::args::{RunArgs, log_config};
use crate::consume::{Consume, Positions};
use crate::metrics::Metrics;
use crate::monitor;
use crate::relay::Relay;

/// A partition's transaction each, as far as they go, and the questions of the relay and the effects.
const CONNECTIONS: u32 = 10;
/// What the relay published last is given so long to arrive.
const FLUSH: Duration = Duration::from_secs(5);

pub async fn run(args: Box<RunArgs>) -> anyhow::Result<()> {
    telemetry::init(&args.telemetry, "order-worker");
    run_until(args, Shutdown::on_signal()).await
}

/// Runs until the shutdown. An error means that no waiting helps.
pub async fn run_until(args: Box<RunArgs>, shutdown: Shutdown) -> anyhow::Result<()> {
    let health = Health::new();
    let (schema, mysql) = (health.gate("schema"), health.gate("mysql"));
    let (kafka, reading) = (health.gate("kafka"), health.gate("order log"));
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    admin::serve(args.admin, health, registry, shutdown.clone()).await?;

    let url = args.mysql.mysql_url.expose();
    let connect = || Ledger::connect(url, CONNECTIONS);
    let Some(ledger) = retry::until_ok("connecting to MySQL", &mysql, &shutdown, connect).await else {
        return Ok(());
    };
    mysql.ready();
    let check = || ledger.check_schema();
    let Some(()) = retry::until_ok("checking the schema", &schema, &shutdown, check).await else {
        return Ok(());
    };
    schema.ready();
    let config = log_config(&args.kafka);
    let connect = || OrderLog::connect(config.clone());
    let Some(log) = retry::until_ok("connecting to Kafka", &kafka, &shutdown, connect).await else {
        return Ok(());
    };
    kafka.ready();

    let (positions, follow) = watch::channel(Positions::new());
    let relay = Relay {
        ledger: ledger.clone(),
        log: log.clone(),
        redis_url: args.redis.redis_url.expose().into(),
        positions: follow.clone(),
        metrics: metrics.clone(),
        shutdown: shutdown.clone(),
    };
    let relay = tokio::spawn(relay.run());
    let effects = Adjuster {
        ledger: ledger.clone(),
        redis_url: args.redis.redis_url.expose().into(),
        positions: follow.clone(),
        metrics: metrics.clone(),
        shutdown: shutdown.clone(),
    };
    let effects = tokio::spawn(effects.run());
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
        positions,
        shutdown: shutdown.clone(),
        runtime: Handle::current(),
    };
    // A thread of its own: the consumer blocks.
    let result = tokio::task::spawn_blocking(move || consume.run())
        .await
        .context("storing orders")?;
    shutdown.cancel();
    relay.await.context("the relay")?;
    effects.await.context("the effects")?;
    monitor.await.context("the monitor")?;
    if let Err(error) = log.flush(FLUSH).await {
        tracing::warn!(%error, "what the relay published last may be missing; the next one will see");
    }
    tracing::info!("ended");
    result
}
