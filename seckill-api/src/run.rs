//! From the arguments to a server that is ready, and its shutdown.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use seckill_ledger::{Ledger, LedgerError};
use seckill_order_log::{LogConfig, OrderLog, Tail};
use seckill_service::metrics::registry::Registry;
use seckill_service::retry::until_ok;
use seckill_service::{Gate, Health, Shutdown, admin};
use seckill_stock::StockClient;
use tokio::net::TcpListener;

use crate::api::{Api, Servers};
use crate::args::Args;
use crate::catalogue::Catalogue;
use crate::metrics::Metrics;
use crate::{routes, server};

const MYSQL_CONNECTIONS: u32 = 16;
/// Time limit at shutdown for records that wait for Kafka. The relay of order-worker publishes the rest.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

pub async fn run_until_shutdown(args: Args, shutdown: Shutdown) -> anyhow::Result<()> {
    let health = Health::new();
    let gates = Gates {
        mysql: health.latched_gate("mysql"),
        redis: health.latched_gate("redis"),
        kafka: health.latched_gate("kafka"),
        sales: health.latched_gate("sales"),
    };
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    admin::serve(args.admin, health, registry, shutdown.clone()).await?;
    let listener = listen("SECKILL_LISTEN", args.listen)?;
    let legacy_listener = match args.legacy_listen {
        Some(address) => Some(listen("SECKILL_LEGACY_LISTEN", address)?),
        None => None,
    };
    // The last answers need the tail and the catalogue, so these stop after the server.
    let served = Shutdown::new();
    let Some(api) = start(&args, &gates, metrics, &shutdown, &served).await? else {
        return Ok(()); // shutdown during the start
    };
    tracing::info!(listen = %args.listen, legacy_listen = ?args.legacy_listen, "ready");

    let following = {
        let (catalogue, served) = (api.catalogue.clone(), served.clone());
        tokio::spawn(async move { catalogue.follow(served).await })
    };
    let serving = async {
        let legacy = async {
            if let Some(listener) = legacy_listener {
                server::serve(listener, routes::legacy::router(api.clone()), shutdown.clone()).await;
            }
        };
        let v1 = server::serve(listener, routes::v1(api.clone()), shutdown.clone());
        tokio::join!(v1, legacy);
    };
    tokio::select! {
        () = serving => {}
        failure = api.tail.failed() => {
            // No purchase can be answered any more. A new process starts from a new snapshot of the ledger.
            return Err(failure).context("following the order log");
        }
    }
    served.cancel();
    following.await.context("reading the sales")?;
    if let Err(error) = api.log.flush(FLUSH_TIMEOUT).await {
        tracing::warn!(%error, "flush failed, the relay publishes the remaining records");
    }
    Ok(())
}

/// Latched: a short outage of a server must not take all pods out of the Service at the same time.
struct Gates {
    mysql: Gate,
    redis: Gate,
    kafka: Gate,
    sales: Gate,
}

/// Connects to all servers. Ready when the sales are known and the tail has reached the end of the log once.
async fn start(
    args: &Args,
    gates: &Gates,
    metrics: Arc<Metrics>,
    shutdown: &Shutdown,
    served: &Shutdown,
) -> anyhow::Result<Option<Arc<Api>>> {
    let connect_ledger = async || -> Result<Ledger, LedgerError> {
        let ledger = Ledger::connect(args.mysql.mysql_url.expose(), MYSQL_CONNECTIONS).await?;
        ledger.check_schema().await?;
        Ok(ledger)
    };
    let Some(ledger) = until_ok("connecting to MySQL", &gates.mysql, shutdown, connect_ledger).await else {
        return Ok(None);
    };
    gates.mysql.ready();

    let connect_stock = || StockClient::connect(args.redis.redis_url.expose());
    let Some(stock) = until_ok("connecting to Redis", &gates.redis, shutdown, connect_stock).await else {
        return Ok(None);
    };
    gates.redis.ready();

    let config = LogConfig {
        brokers: args.kafka.kafka_brokers.to_string(),
        topic: args.kafka.kafka_topic.to_string(),
        properties: args.kafka.kafka_properties.expose().to_vec(),
    };
    let connect_log = || OrderLog::connect(config.clone());
    let Some(log) = until_ok("connecting to Kafka", &gates.kafka, shutdown, connect_log).await else {
        return Ok(None);
    };
    let read_start = || ledger.reader_start(log.partitions());
    let Some(start) = until_ok("reading the position in the log", &gates.kafka, shutdown, read_start).await else {
        return Ok(None);
    };
    let tail = Tail::spawn(config.clone(), start, served.token()).context("following the order log")?;
    gates.kafka.not_ready("reading the log to its end");
    tokio::select! {
        () = tail.caught_up() => gates.kafka.ready(),
        () = shutdown.cancelled() => return Ok(None),
        failure = tail.failed() => return Err(failure).context("following the order log"),
    }

    let class = args.class.as_str().to_owned();
    let catalogue = Arc::new(Catalogue::new(ledger.clone(), class, log.partitions()));
    if until_ok("reading the sales", &gates.sales, shutdown, || catalogue.read())
        .await
        .is_none()
    {
        return Ok(None);
    }
    gates.sales.ready();
    let servers = Servers {
        stock,
        log,
        tail,
        ledger,
    };
    Ok(Some(Api::new(servers, catalogue, args.order_no_keys.clone(), metrics)))
}

fn listen(variable: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    server::listen(address).with_context(|| format!("{variable}: can't listen on {address}"))
}
