//! From the arguments to a server that is ready, and its shutdown.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use seckill_ledger::Ledger;
use seckill_order_log::{LogConfig, OrderLog, Tail};
use seckill_protocol::{Acceptance, BuyerKey, Offset};
use seckill_service::metrics::registry::Registry;
use seckill_service::retry::until_ok;
use seckill_service::traces::Traces;
use seckill_service::{Gate, Health, Heartbeats, Shutdown, admin, connect, mysql_pool, open_files};
use seckill_stock::StockClient;
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::api::{Api, Servers, Telemetry};
use crate::args::Args;
use crate::buyers::{self, Buyers};
use crate::catalogue::Catalogue;
use crate::identity::refresh::RefreshIntervals;
use crate::identity::{Issuers, config};
use crate::limits::MAX_CONCURRENT_PURCHASES;
use crate::metrics::Metrics;
use crate::partitions::follow_added;
use crate::rate_limit::RateLimits;
use crate::traced::TracedPurchases;
use crate::{routes, server};

const GAP_DISPLAY_INTERVAL: Duration = Duration::from_secs(1);
/// Time limit at shutdown for records that wait for Kafka. The relay of order-worker publishes the rest.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

pub async fn run_until_shutdown(args: Args, shutdown: Shutdown) -> anyhow::Result<()> {
    let health = Health::new();
    let gates = Gates {
        mysql: health.latched_gate("mysql"),
        redis: health.latched_gate("redis"),
        kafka: health.latched_gate("kafka"),
        sales: health.latched_gate("sales"),
        format: health.gate("format"),
    };
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let endpoint = args.traces.traces_endpoint.as_ref();
    let traces = Traces::start(endpoint, "seckill-api", args.instance.instance());
    let traces = traces.context("SECKILL_TRACES_ENDPOINT")?;
    admin::serve(args.admin, health, registry, shutdown.clone()).await?;
    let listener = listen("SECKILL_LISTEN", args.listen)?;
    let legacy_listener = match args.legacy_listen {
        Some(address) => Some(listen("SECKILL_LEGACY_LISTEN", address)?),
        None => None,
    };
    // The last answers need the tail, the catalogue and the keys of the issuers, so these stop after the server.
    let served = Shutdown::new();
    let buyers = Buyers::new(issuers(&args, metrics.clone(), &served)?, buyer_key(&args)?);
    let heartbeats = Heartbeats::new("seckill-api", args.instance.instance());
    let telemetry = Telemetry {
        metrics: metrics.clone(),
        traced: Arc::new(match &traces {
            Some(traces) => TracedPurchases::new(traces.clone(), args.traces_one_in),
            None => TracedPurchases::default(),
        }),
    };
    let Some(api) = start(&args, buyers, &gates, telemetry, &heartbeats, &shutdown, &served).await? else {
        heartbeats.end().await;
        return Ok(()); // shutdown during the start
    };
    tracing::info!(listen = %args.listen, legacy_listen = ?args.legacy_listen, "ready");

    let following = {
        let (catalogue, served) = (api.catalogue.clone(), served.clone());
        tokio::spawn(async move { catalogue.follow(served).await })
    };
    let serving = async {
        let listeners = 1 + usize::from(legacy_listener.is_some());
        let limits = args
            .connection_limits()
            .within_open_files(open_files::limit(), listeners);
        tracing::info!(max_connections = limits.max_connections, listeners, "serving");
        let serve = |listener, routes| server::serve(listener, routes, limits, metrics.clone(), shutdown.clone());
        let legacy = async {
            if let Some(listener) = legacy_listener {
                serve(listener, routes::legacy::router(api.clone())).await;
            }
        };
        tokio::join!(
            serve(listener, routes::v1(api.clone(), args.cors_origins.clone())),
            legacy
        );
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
    heartbeats.end().await;
    if let Some(traces) = traces {
        traces.end().await;
    }
    Ok(())
}

/// Their keys arrive in the background, so the program starts and is ready without its issuers.
fn issuers(args: &Args, metrics: Arc<Metrics>, served: &Shutdown) -> anyhow::Result<Issuers> {
    let Some(file) = &args.issuers_file else {
        return Ok(Issuers::none());
    };
    let started =
        config::read(file).and_then(|configs| Issuers::start(&configs, RefreshIntervals::default(), metrics, served));
    started.context("SECKILL_ISSUERS_FILE")
}

/// Latched, except `format`: a short outage of a server must not take all pods out of the Service at the same time.
struct Gates {
    mysql: Gate,
    redis: Gate,
    kafka: Gate,
    sales: Gate,
    /// Whether this program speaks the format that the ledger requires.
    format: Gate,
}

/// Connects to all servers. Ready when the sales are known and the tail has reached the end of the log once. None if the
/// shutdown comes first.
async fn start(
    args: &Args,
    buyers: Buyers,
    gates: &Gates,
    telemetry: Telemetry,
    heartbeats: &Heartbeats,
    shutdown: &Shutdown,
    served: &Shutdown,
) -> anyhow::Result<Option<Arc<Api>>> {
    let config = connect::log_config(&args.servers.kafka);
    let Some((ledger, stock, log, tail_start)) = connect_all(args, &config, gates, heartbeats, shutdown).await else {
        return Ok(None);
    };
    let tail = Tail::spawn(config, tail_start, served.token()).context("following the order log")?;
    tokio::select! {
        () = tail.caught_up() => gates.kafka.ready(),
        () = show_gaps(&tail, &gates.kafka) => {}
        () = shutdown.cancelled() => return Ok(None),
        failure = tail.failed() => return Err(failure).context("following the order log"),
    }
    tokio::spawn(follow_added(log.clone(), tail.clone(), ledger.clone(), served.clone()));

    let class = args.class.as_str().to_owned();
    let catalogue = Arc::new(Catalogue::new(ledger.clone(), class, gates.format.clone()));
    let read_sales = || catalogue.read();
    if until_ok("reading the sales", &gates.sales, shutdown, read_sales)
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
    Ok(Some(Api::new(
        servers,
        catalogue,
        args.order_no_keys.clone(),
        buyers,
        MAX_CONCURRENT_PURCHASES,
        telemetry,
        RateLimits::new(args.rate_limits()),
    )))
}

fn buyer_key(args: &Args) -> anyhow::Result<Option<BuyerKey>> {
    let Some(file) = &args.buyer_key_file else {
        return Ok(None);
    };
    let key = buyers::read_key(file)?;
    if key.is_none() {
        tracing::warn!(file = %file.display(), "no key of buyers: sales with spec.access are refused");
    }
    Ok(key)
}

/// Keeps the gate closed with the reason. Never returns.
async fn show_gaps(tail: &Tail, kafka: &Gate) {
    loop {
        let gaps: Vec<String> = tail.gaps().iter().map(ToString::to_string).collect();
        kafka.not_ready(match gaps.is_empty() {
            true => "reading the log to its end".to_owned(),
            false => gaps.join("; "),
        });
        sleep(GAP_DISPLAY_INTERVAL).await;
    }
}

/// For each partition the offset from which the tail reads, and the state of acceptance there.
type TailStart = Vec<(u32, Offset, Acceptance)>;

/// The clients, and the start of the tail.
async fn connect_all(
    args: &Args,
    config: &LogConfig,
    gates: &Gates,
    heartbeats: &Heartbeats,
    shutdown: &Shutdown,
) -> Option<(Ledger, StockClient, OrderLog, TailStart)> {
    let spoken = args.instance.format.spoken_format;
    let mysql = async {
        let ledger = connect::ledger(&args.servers.mysql, spoken, mysql_pool::API, &gates.mysql, shutdown).await?;
        heartbeats.begin(&ledger).await;
        gates.mysql.ready();
        Some(ledger)
    };
    let redis = async {
        let stock = connect::stock(&args.servers.redis, &gates.redis, shutdown).await?;
        gates.redis.ready();
        Some(stock)
    };
    let kafka = connect::order_log(config, &gates.kafka, shutdown);
    // At the same time, so that `/readyz` names every server that can't be reached.
    let (ledger, stock, log) = tokio::join!(mysql, redis, kafka);
    let (ledger, stock, log) = (ledger?, stock?, log?);
    let read_start = || ledger.reader_start(log.partitions());
    let tail_start = until_ok("reading the position in the log", &gates.kafka, shutdown, read_start).await?;
    Some((ledger, stock, log, tail_start))
}

fn listen(variable: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    server::listen(address).with_context(|| format!("{variable}: can't listen on {address}"))
}
