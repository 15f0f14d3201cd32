//! From a command line to a running operator.
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kube::api::ListParams;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client};
use seckill_crds::FlashSale;
use seckill_ledger::Ledger;
use seckill_order_log::{LogConfig, OrderLog};
use seckill_protocol::SaleId;
use seckill_service::health::Health;
use seckill_service::metrics::registry::Registry;
use seckill_service::shutdown::Shutdown;
use seckill_service::{admin, retry, telemetry};
use seckill_stock::StockClient;
use tokio::sync::watch;

use crate::args::{LeaseArgs, Namespaces, RunArgs, TopicArgs};
use crate::error::OperatorError;
use crate::lease::{Elector, Term, Times};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::preflight::{self, Servers};
use crate::scale::{self, Scaled, Workloads};
use crate::watch as watching;
use crate::{controller, orphans};

/// How often an operator that stands by looks whether it could take over.
const STANDBY_CHECK: Duration = Duration::from_secs(10);

/// What every look at a sale needs, for one term: what a leader remembers ends with it.
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
    pub servers: watch::Receiver<Option<Arc<Servers>>>,
    /// What is expected of the order log.
    pub topic: TopicArgs,
    pub recorder: Recorder,
    pub metrics: Arc<Metrics>,
    pub memory: Memory,
    pub term: Term,
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
    let kube = watching::bounded(&kube);
    let health = Health::new();
    let (ledger_gate, log_gate, stock_gate, kube_gate) = (
        health.latched_gate("mysql"),
        health.latched_gate("kafka"),
        health.latched_gate("redis"),
        health.latched_gate("kubernetes"),
    );
    let metrics = Arc::new(Metrics::default());
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
        let namespaces = &args.watch_namespaces.0;
        if namespaces.is_empty() {
            return served(Api::all(kube.clone())).await;
        }
        // One that is gone does not hold the others up.
        let of = |namespace: &String| Box::pin(served(Api::namespaced(kube.clone(), namespace)));
        futures::future::select_ok(namespaces.iter().map(of))
            .await
            .map(|((), _)| ())
    });
    let Some(()) = served.await else { return Ok(()) };
    kube_gate.ready();

    let reporter = Reporter {
        controller: "seckill-operator".into(),
        instance: args.lease.pod_name.as_ref().map(|name| name.0.clone()),
    };
    let recorder = Recorder::new(kube.clone(), reporter);
    let elector = elector(&args.lease, &kube, &recorder, &metrics);
    let (api, worker) = (
        Scaled {
            name: args.api.api_deployment,
            floor: args.api.api_min_replicas,
            ceiling: args.api.api_max_replicas,
        },
        Scaled {
            name: args.worker.worker_deployment,
            floor: args.worker.worker_min_replicas,
            ceiling: args.worker.worker_max_replicas,
        },
    );
    let (class, namespaces, topic) = (args.class, args.watch_namespaces, args.topic);
    let standing_by = stand_by(ledger.clone(), log.clone(), stock.clone(), metrics.clone());
    let leading = elector.lead(&shutdown, |term| {
        let (workloads_seen, workloads) = watch::channel(Arc::new(Workloads::default()));
        let (servers_seen, servers) = watch::channel(None);
        let operator = Operator {
            kube: kube.clone(),
            ledger: ledger.clone(),
            log: log.clone(),
            stock: stock.clone(),
            class: class.clone(),
            namespaces: namespaces.clone(),
            api: api.clone(),
            worker: worker.clone(),
            workloads,
            servers,
            topic: topic.clone(),
            recorder: recorder.clone(),
            metrics: metrics.clone(),
            memory: Memory::default(),
            term,
        };
        serve(Arc::new(operator), workloads_seen, servers_seen)
    });
    tokio::select! {
        led = leading => led,
        () = standing_by => Ok(()),
    }
}

async fn served(api: Api<FlashSale>) -> Result<(), kube::Error> {
    api.list_metadata(&ListParams::default().limit(1)).await.map(drop)
}

fn elector(args: &LeaseArgs, kube: &Client, recorder: &Recorder, metrics: &Arc<Metrics>) -> Elector {
    let namespace = args.lease_namespace.as_ref().map(|name| name.0.as_str());
    let pod = args.pod_name.as_ref().map_or("operator", |name| &name.0);
    Elector {
        leases: Api::namespaced(kube.clone(), namespace.unwrap_or(kube.default_namespace())),
        name: args.lease_name.0.clone(),
        identity: format!("{pod}_{:08x}", rand::random::<u32>()),
        times: Times::of(Duration::from_secs(args.lease_seconds.into())),
        recorder: recorder.clone(),
        metrics: metrics.clone(),
    }
}

/// Runs the sales for a term. All of it is this one future: it stops where it stands when the future is dropped.
async fn serve(
    operator: Arc<Operator>,
    workloads: watch::Sender<Arc<Workloads>>,
    servers: watch::Sender<Option<Arc<Servers>>>,
) {
    let (sales, controllers) = controller::controllers(&operator);
    tracing::info!(class = operator.class, "running the sales");
    let told_to_end = async {
        // Looks that are under way are finished.
        tokio::join!(
            futures::future::join_all(controllers),
            orphans::run(operator.clone(), sales.clone()),
        );
    };
    let meanwhile = async {
        tokio::join!(
            sales.clone().learn(),
            sales.clone().note_deletions(operator.clone()),
            scale::run(operator.clone(), sales.clone(), workloads),
            preflight::run(operator.clone(), servers),
        );
    };
    tokio::select! {
        () = told_to_end => {}
        () = meanwhile => {}
    }
}

/// Asks the servers now and then while another operator leads: a connection that broke meanwhile is made again now, and
/// not when it is needed. The API server is asked for the lease all the time.
async fn stand_by(ledger: Ledger, log: OrderLog, stock: StockClient, metrics: Arc<Metrics>) {
    let mut every = tokio::time::interval(STANDBY_CHECK);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if metrics.is_leader() {
            continue;
        }
        let (ledger, log, stock) = tokio::join!(
            async { ledger.check_schema().await.map_err(OperatorError::from) },
            async { log.end_offset(0).await.map(drop).map_err(OperatorError::from) },
            // Whether there is such a sale does not matter.
            async { stock.probe(SaleId(0)).await.map(drop).map_err(OperatorError::from) },
        );
        for error in [ledger, log, stock].into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "standing by, without a server that leading needs");
            metrics.failed(error.label());
        }
    }
}
