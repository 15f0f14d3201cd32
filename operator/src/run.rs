//! From a command line to a running operator: wiring only, imported by nobody.
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kube::api::ListParams;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client};
use seckill_crds::FlashSale;
use seckill_planner::demand::{ReplicaBounds, Workloads};
use seckill_planner::election::ElectionTimes;
use seckill_planner::ownership;
use seckill_planner::preflight::ServerSettings;
use seckill_protocol::SaleId;
use seckill_service::clock::Clock;
use seckill_service::health::{Gate, Health};
use seckill_service::metrics::registry::Registry;
use seckill_service::shutdown::Shutdown;
use seckill_service::{Heartbeats, admin, open_files, periodic, retry, telemetry};
use tokio::sync::{Semaphore, watch};

use crate::args::{ApiArgs, LeaseArgs, Namespaces, RunArgs, WorkerArgs};
use crate::cluster::client::with_timeouts;
use crate::cluster::identity;
use crate::cluster::lease::Elector;
use crate::context::{
    Cluster, Connections, Context, LeaseName, Release, ReleaseObservations, ScaledDeployment, ScaledWorkloads,
};
use crate::error::ReconcileError;
use crate::folder::Folder;
use crate::format::{stand_down, watch_format};
use crate::metrics::Metrics;
use crate::release::{indexes, orphans, scale, servers};
use crate::sale::reconcile::{MAX_CONCURRENT_REBUILDS, controllers};
use crate::sale::status_writer::write_statuses;
use crate::sale_changes::SaleChanges;
use crate::status_queue::{DueStatuses, StatusQueue};

/// How often an operator that stands by checks its servers.
const STANDBY_CHECK_INTERVAL: Duration = Duration::from_secs(10);

pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    telemetry::init(&args.telemetry, "operator");
    open_files::raise_limit();
    if let Some(folder) = &args.sales {
        let folder = Folder::open(folder)?;
        return run_folder(args, folder, Shutdown::on_signal()).await;
    }
    let kube = Client::try_default()
        .await
        .context("no access to Kubernetes: found neither a kubeconfig nor a service account")?;
    run_until_shutdown(args, kube, Clock::system(), Shutdown::on_signal()).await
}

/// Runs the FlashSales of a folder until the shutdown.
pub async fn run_folder(mut args: RunArgs, folder: Folder, shutdown: Shutdown) -> anyhow::Result<()> {
    if args.ownership.cluster_identity.is_none() {
        args.ownership.cluster_identity = Some(folder.identity()?);
    }
    let kube = folder.client();
    tokio::select! {
        result = run_until_shutdown(args, kube, Clock::system(), shutdown) => result,
        () = folder.follow() => Ok(()),
    }
}

/// Runs until the shutdown. An error means that waiting would not help.
pub async fn run_until_shutdown(args: RunArgs, kube: Client, clock: Clock, shutdown: Shutdown) -> anyhow::Result<()> {
    let kube = with_timeouts(&kube);
    let health = Health::new();
    // Latched: a blip of the API server must not make the operator unready. No other server is needed to lead.
    let gate = health.latched_gate("kubernetes");
    // Ready without MySQL: only an operator that knows that it is too old is not ready.
    let format = health.gate("format");
    format.ready();
    let metrics = Arc::new(Metrics::default());
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    admin::serve(args.admin, health, registry, shutdown.clone()).await?;

    let Some(identity) = identity::of_cluster(&args.ownership, &kube, &gate, &shutdown).await else {
        return Ok(());
    };
    let heartbeats = Heartbeats::new("operator", args.instance.instance());
    let spoken = args.instance.format.spoken_format;
    let connections = Connections::start(&args.servers, spoken, Some(heartbeats.clone()), &shutdown);
    let (too_old_sender, too_old) = watch::channel(None);
    let watching_format = watch_format(connections.clone(), format, too_old_sender);
    if wait_for_crd(&kube, &args.watch_namespaces, &gate, &shutdown)
        .await
        .is_none()
    {
        heartbeats.end().await;
        return Ok(());
    }
    let reporter = Reporter {
        controller: "seckill-operator".into(),
        instance: args.instance.pod_name.as_ref().map(|name| name.0.clone()),
    };
    let recorder = Recorder::new(kube.clone(), reporter);
    let cluster = Cluster { kube, recorder };
    let elector = elector(&args, &cluster, &metrics);
    let lease = LeaseName {
        namespace: lease_namespace(&args.lease, &cluster.kube).to_owned(),
        name: args.lease.lease_name.0.clone(),
    };
    let release = Arc::new(release(args, identity, lease));
    let standing_by = stand_by(connections.clone(), metrics.clone());
    let leading = elector.lead(&shutdown, |term| {
        let (workloads_sender, workloads) = watch::channel(None);
        let (servers_sender, servers) = watch::channel(None);
        let (statuses, due_statuses) = StatusQueue::new();
        let context = Context {
            connections: connections.clone(),
            cluster: cluster.clone(),
            release: release.clone(),
            observations: ReleaseObservations { workloads, servers },
            cache: Arc::default(),
            metrics: metrics.clone(),
            statuses: Arc::new(statuses),
            changes: SaleChanges::default(),
            rebuilds: Arc::new(Semaphore::new(MAX_CONCURRENT_REBUILDS)),
            clock: clock.clone(),
            term,
        };
        let work = run_sales(Arc::new(context), workloads_sender, servers_sender, due_statuses);
        let too_old = too_old.clone();
        async move {
            tokio::select! {
                () = work => {}
                () = stand_down(too_old) => {}
            }
        }
    });
    let result = tokio::select! {
        result = leading => result,
        () = standing_by => Ok(()),
        () = watching_format => Ok(()),
    };
    heartbeats.end().await;
    result
}

/// Waits until the API server serves FlashSales; `None`: shutdown.
async fn wait_for_crd(kube: &Client, namespaces: &Namespaces, gate: &Gate, shutdown: &Shutdown) -> Option<()> {
    let served = retry::until_ok("listing FlashSales", gate, shutdown, async || {
        let namespaces = &namespaces.0;
        if namespaces.is_empty() {
            return list_one(Api::all(kube.clone())).await;
        }
        // A namespace that is gone does not block the others.
        let of = |namespace: &String| Box::pin(list_one(Api::namespaced(kube.clone(), namespace)));
        futures::future::select_ok(namespaces.iter().map(of))
            .await
            .map(|((), _)| ())
    });
    served.await?;
    gate.ready();
    Some(())
}

async fn list_one(api: Api<FlashSale>) -> Result<(), kube::Error> {
    api.list_metadata(&ListParams::default().limit(1)).await.map(drop)
}

fn elector(args: &RunArgs, cluster: &Cluster, metrics: &Arc<Metrics>) -> Elector {
    let pod = args.instance.pod_name.as_ref().map_or("operator", |name| &name.0);
    let (args, kube) = (&args.lease, &cluster.kube);
    Elector {
        leases: Api::namespaced(kube.clone(), lease_namespace(args, kube)),
        name: args.lease_name.0.clone(),
        identity: format!("{pod}_{:08x}", rand::random::<u32>()),
        times: ElectionTimes::of(Duration::from_secs(args.lease_seconds.into())),
        recorder: cluster.recorder.clone(),
        metrics: metrics.clone(),
    }
}

fn lease_namespace<'a>(args: &'a LeaseArgs, kube: &'a Client) -> &'a str {
    let namespace = args.lease_namespace.as_ref();
    namespace.map_or(kube.default_namespace(), |name| &name.0)
}

fn release(args: RunArgs, identity: String, lease: LeaseName) -> Release {
    Release {
        cluster: ownership::Cluster {
            identity,
            take_over_from: args.ownership.take_over_from.map(|identity| identity.0),
        },
        deletion_grace: u64::from(args.ownership.deletion_grace_seconds) * 1000,
        lease,
        class: args.class,
        namespaces: args.watch_namespaces,
        workloads: workloads(args.api, args.worker),
        topic: args.topic,
        issuers: args.issuers.map(|issuers| issuers.0),
        new_sales_need: args.new_sales.new_sales_need,
    }
}

fn workloads(api: ApiArgs, worker: WorkerArgs) -> Option<ScaledWorkloads> {
    let scaled = |name, floor, ceiling| ScaledDeployment {
        name,
        bounds: ReplicaBounds { floor, ceiling },
    };
    Some(ScaledWorkloads {
        api: scaled(api.api_deployment?, api.api_min_replicas, api.api_max_replicas),
        worker: scaled(
            worker.worker_deployment?,
            worker.worker_min_replicas,
            worker.worker_max_replicas,
        ),
    })
}

/// Runs the sales for one leadership term. It is one future: everything stops where it stands when that is dropped.
async fn run_sales(
    context: Arc<Context>,
    workloads: watch::Sender<Option<Arc<Workloads>>>,
    servers: watch::Sender<Option<Arc<ServerSettings>>>,
    due_statuses: DueStatuses,
) {
    let (sales, controllers) = controllers(&context);
    tracing::info!(
        class = context.release.class,
        cluster = context.release.cluster.identity,
        "reconciling FlashSales"
    );
    let until_shutdown = async {
        // Reconciles in progress are finished.
        tokio::join!(
            futures::future::join_all(controllers),
            orphans::run(context.clone(), sales.clone()),
        );
        context.statuses.emptied().await;
    };
    let meanwhile = async {
        tokio::join!(
            sales.clone().wait_until_known(),
            scale::run(context.clone(), sales.clone(), workloads),
            servers::run(context.clone(), servers),
            indexes::run(context.clone()),
            write_statuses(context.clone(), due_statuses),
        );
    };
    tokio::select! {
        () = until_shutdown => {}
        () = meanwhile => {}
    }
}

/// Checks the servers now and then while another operator leads: a connection that broke meanwhile is replaced before it is
/// needed. The API server is asked for the lease all the time.
async fn stand_by(connections: Connections, metrics: Arc<Metrics>) {
    let mut ticks = periodic(STANDBY_CHECK_INTERVAL);
    loop {
        ticks.tick().await;
        if metrics.is_leader() {
            continue;
        }
        let (ledger, log, stock) = tokio::join!(
            async { Ok(connections.ledger()?.check_schema().await?) },
            async { Ok(connections.log()?.end_offset(0).await.map(drop)?) },
            // Whether there is such a sale does not matter.
            async { Ok(connections.stock()?.probe(SaleId(0)).await.map(drop)?) },
        );
        let results: [Result<(), ReconcileError>; 3] = [ledger, log, stock];
        for error in results.into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "standing by, but a server that the leader needs does not answer");
            metrics.failed(error.label());
        }
    }
}
