//! What reconciles and release loops work with, in parts, so that each function takes only what it needs.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::runtime::events::Recorder;
use seckill_ledger::Ledger;
use seckill_order_log::OrderLog;
use seckill_planner::demand::{ReplicaBounds, Workloads};
use seckill_planner::ownership;
use seckill_planner::preflight::{KnownIssuer, ServerSettings};
use seckill_protocol::Format;
use seckill_protocol::index::Millis;
use seckill_service::clock::Clock;
use seckill_service::config::ServerArgs;
use seckill_service::connect::{self, Connecting, NotConnected};
use seckill_service::heartbeat::Heartbeats;
use seckill_service::mysql_pool;
use seckill_service::shutdown::Shutdown;
use seckill_stock::StockClient;
use tokio::sync::{Semaphore, watch};

use crate::args::{DeploymentName, Namespaces, TopicArgs};
use crate::cluster::lease::LeadershipTerm;
use crate::error::{ReconcileError, Server};
use crate::metrics::Metrics;
use crate::reconcile_cache::ReconcileCache;
use crate::sale_changes::SaleChanges;
use crate::status_queue::StatusQueue;

/// How often a wait for the connections looks.
const CONNECTED_INTERVAL: Duration = Duration::from_millis(50);

/// The connections to the three servers of a sale's units. An operator leads without them: each is connected in the
/// background, and one that is away is a fact.
#[derive(Clone)]
pub struct Connections {
    pub ledger: Connecting<Ledger>,
    pub log: Connecting<OrderLog>,
    pub stock: Connecting<StockClient>,
}

impl Connections {
    /// Connects to the servers in the background. Heartbeats begin with the connection to MySQL.
    pub fn start(args: &ServerArgs, spoken: Format, heartbeats: Option<Heartbeats>, shutdown: &Shutdown) -> Self {
        let ServerArgs { redis, kafka, mysql } = args.clone();
        let kafka = connect::log_config(&kafka);
        let [for_mysql, for_kafka, for_redis] = [shutdown.clone(), shutdown.clone(), shutdown.clone()];
        Connections {
            ledger: Connecting::start("mysql", |gate| async move {
                let ledger = connect::ledger(&mysql, spoken, mysql_pool::OPERATOR, &gate, &for_mysql).await?;
                if let Some(heartbeats) = heartbeats {
                    heartbeats.begin(&ledger).await;
                }
                Some(ledger)
            }),
            log: Connecting::start("kafka", |gate| async move {
                connect::order_log(&kafka, &gate, &for_kafka).await
            }),
            stock: Connecting::start("redis", |gate| async move {
                connect::stock(&redis, &gate, &for_redis).await
            }),
        }
    }

    pub fn ledger(&self) -> Result<&Ledger, ReconcileError> {
        self.ledger.get().map_err(|_| self.not_connected(Server::Mysql))
    }

    pub fn log(&self) -> Result<&OrderLog, ReconcileError> {
        self.log.get().map_err(|_| self.not_connected(Server::Kafka))
    }

    pub fn stock(&self) -> Result<&StockClient, ReconcileError> {
        self.stock.get().map_err(|_| self.not_connected(Server::Redis))
    }

    /// Names every server that can't be reached, so that a person can correct all of them at once.
    fn not_connected(&self, server: Server) -> ReconcileError {
        let reasons = [self.ledger.get().err(), self.log.get().err(), self.stock.get().err()];
        let reasons: Vec<_> = reasons.into_iter().flatten().map(|why| why.0).collect();
        let why = NotConnected(reasons.join("; "));
        ReconcileError::NotConnected { server, why }
    }

    /// Waits until all of them are connected.
    pub async fn connected(&self) {
        while self.stores().is_err() {
            tokio::time::sleep(CONNECTED_INTERVAL).await;
        }
    }

    /// For work that needs all of them.
    pub fn stores(&self) -> Result<Stores, ReconcileError> {
        Ok(Stores {
            ledger: self.ledger()?.clone(),
            log: self.log()?.clone(),
            stock: self.stock()?.clone(),
        })
    }
}

/// Clients of the three servers.
#[derive(Clone)]
pub struct Stores {
    pub ledger: Ledger,
    pub log: OrderLog,
    pub stock: StockClient,
}

/// The API server.
#[derive(Clone)]
pub struct Cluster {
    pub kube: Client,
    pub recorder: Recorder,
}

/// The configuration of the release.
#[derive(Clone)]
pub struct Release {
    pub class: String,
    pub namespaces: Namespaces,
    /// The cluster whose sales the release runs.
    pub cluster: ownership::Cluster,
    /// From the confirmed deletion of a FlashSale to the end of its sale, in ms.
    pub deletion_grace: Millis,
    /// The Lease of the leader election. A person confirms a mass deletion on it.
    pub lease: LeaseName,
    /// `None`: the operator manages no pods.
    pub workloads: Option<ScaledWorkloads>,
    /// The expected settings of the order log.
    pub topic: TopicArgs,
    /// The issuers of tokens that seckill-api knows; `None`: unknown.
    pub issuers: Option<BTreeMap<String, KnownIssuer>>,
    /// The format that each new sale needs at least.
    pub new_sales_need: Format,
}

#[derive(Debug, Clone)]
pub struct LeaseName {
    pub namespace: String,
    pub name: String,
}

#[derive(Debug, Clone)]
pub struct ScaledWorkloads {
    pub api: ScaledDeployment,
    pub worker: ScaledDeployment,
}

/// A Deployment that the operator scales, and the replicas that it may have.
#[derive(Debug, Clone)]
pub struct ScaledDeployment {
    pub name: DeploymentName,
    pub bounds: ReplicaBounds,
}

/// What the release loops observe for all sales.
#[derive(Clone)]
pub struct ReleaseObservations {
    /// `None` until the Deployments and the FlashSales were listed, or could not be for some seconds.
    pub workloads: watch::Receiver<Option<Arc<Workloads>>>,
    pub servers: watch::Receiver<Option<Arc<ServerSettings>>>,
}

/// All of it, for one leadership term: what a leader remembers ends with its term.
#[derive(Clone)]
pub struct Context {
    pub connections: Connections,
    pub cluster: Cluster,
    pub release: Arc<Release>,
    pub observations: ReleaseObservations,
    pub cache: Arc<ReconcileCache>,
    pub metrics: Arc<Metrics>,
    pub statuses: Arc<StatusQueue>,
    /// Sales that changed elsewhere than in their FlashSales.
    pub changes: SaleChanges,
    /// The rebuilds that may run at once: each holds some chunks of orders in memory.
    pub rebuilds: Arc<Semaphore>,
    /// The operator's own clock. One clock alone decides nothing final, see [`seckill_planner::clocks`].
    pub clock: Clock,
    pub term: LeadershipTerm,
}

impl Context {
    /// The time by which sales are planned: the operator's clock, corrected by the other ones.
    pub fn now(&self) -> Millis {
        self.cache.corrected(self.clock.now())
    }
}
