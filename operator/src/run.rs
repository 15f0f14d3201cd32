//! From a command line to a running operator.
use std::sync::Arc;

use anyhow::Context as _;
use kube::api::ListParams;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client};
use seckill_crds::FlashSale;
use seckill_ledger::Ledger;
use seckill_order_log::{LogConfig, OrderLog};
use seckill_service::health::Health;
use seckill_service::metrics::registry::Registry;
use seckill_service::shutdown::Shutdown;
use seckill_service::{admin, retry, telemetry};
use seckill_stock::StockClient;
use tokio::sync::watch;

use crate::args::{Namespaces, RunArgs};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::scale::{self, Scaled, Workloads};
use crate::{controller, orphans};

/// What every look at a sale needs.
pub struct Operator {
    pub kube: Client,
    pub ledger: Ledger,
    pub log: OrderLog,
    pub stock: StockClient,
    pub class: String,
    pub namespaces: Namespaces,
    pub api: Scaled,
    pub worker: Scaled,
    pub workloads: watch::Receiver<Arc<Workloads>>,
    pub recorder: Recorder,
    pub metrics: Metrics,
    pub memory: Memory,
}

pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    telemetry::init(&args.telemetry, "operator");
    let kube = Client::try_default()
        .await
        .context("no way to Kubernetes: neither a kubeconfig nor a service account")?;
    run_until(args, kube, Shutdown::on_signal()).await
}

/// Runs until the shutdown. An error means that no waiting helps.
pub async fn run_until(args: RunArgs, kube: Client, shutdown: Shutdown) -> anyhow::Result<()> {
    let health = Health::new();
    let (ledger_gate, log_gate, stock_gate, kube_gate) = (
        health.latched_gate("mysql"),
        health.latched_gate("kafka"),
        health.latched_gate("redis"),
        health.latched_gate("kubernetes"),
    );
    let metrics = Metrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    admin::serve(args.admin, health, registry, shutdown.clone()).await?;

    let ledger = retry::until_ok("MySQL", &ledger_gate, &shutdown, async || {
        let ledger = Ledger::connect(args.mysql.mysql_url.expose(), 8).await?;
        ledger.check_schema().await?;
        Ok::<_, seckill_ledger::LedgerError>(ledger)
    });
    let Some(ledger) = ledger.await else { return Ok(()) };
    ledger_gate.ready();
    let config = LogConfig {
        brokers: args.kafka.kafka_brokers.to_string(),
        topic: args.kafka.kafka_topic.to_string(),
        properties: args.kafka.kafka_properties.expose().to_vec(),
    };
    let log = retry::until_ok("Kafka", &log_gate, &shutdown, || OrderLog::connect(config.clone())).await;
    let Some(log) = log else { return Ok(()) };
    log_gate.ready();
    let stock = retry::until_ok("Redis", &stock_gate, &shutdown, || {
        StockClient::connect(args.redis.redis_url.expose())
    })
    .await;
    let Some(stock) = stock else { return Ok(()) };
    stock_gate.ready();
    let served = retry::until_ok("FlashSales", &kube_gate, &shutdown, async || {
        let api: Api<FlashSale> = match args.watch_namespaces.0.first() {
            Some(namespace) => Api::namespaced(kube.clone(), namespace),
            None => Api::all(kube.clone()),
        };
        api.list_metadata(&ListParams::default().limit(1)).await.map(drop)
    });
    let Some(()) = served.await else { return Ok(()) };
    kube_gate.ready();

    let (seen, workloads) = watch::channel(Arc::new(Workloads::default()));
    let reporter = Reporter {
        controller: "seckill-operator".into(),
        instance: std::env::var("HOSTNAME").ok(),
    };
    let operator = Arc::new(Operator {
        recorder: Recorder::new(kube.clone(), reporter),
        kube,
        ledger,
        log,
        stock,
        class: args.class,
        namespaces: args.watch_namespaces,
        api: Scaled {
            name: args.api.api_deployment,
            floor: args.api.api_min_replicas,
            ceiling: args.api.api_max_replicas,
        },
        worker: Scaled {
            name: args.worker.worker_deployment,
            floor: args.worker.worker_min_replicas,
            ceiling: args.worker.worker_max_replicas,
        },
        workloads,
        metrics,
        memory: Memory::default(),
    });
    serve(operator, seen, shutdown).await;
    Ok(())
}

/// Runs the sales until the shutdown; looks that are under way are finished.
async fn serve(operator: Arc<Operator>, seen: watch::Sender<Arc<Workloads>>, shutdown: Shutdown) {
    let (sales, controllers) = controller::controllers(&operator, &shutdown);
    let scaling = tokio::spawn(scale::run(operator.clone(), sales.clone(), seen));
    let orphans = tokio::spawn(orphans::run(operator.clone(), sales, shutdown.clone()));
    tracing::info!(class = operator.class, "running the sales");
    futures::future::join_all(controllers).await;
    scaling.abort();
    // It ends between two sales; an error would be its panic, which the telemetry has told.
    let _ = orphans.await;
}
