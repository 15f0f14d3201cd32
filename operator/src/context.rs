//! What reconciles and release loops work with, in parts, so that each function takes only what it needs.
use std::sync::Arc;

use kube::Client;
use kube::runtime::events::Recorder;
use seckill_ledger::Ledger;
use seckill_order_log::OrderLog;
use seckill_planner::demand::{ReplicaBounds, Workloads};
use seckill_planner::ownership;
use seckill_planner::preflight::ServerSettings;
use seckill_protocol::index::Millis;
use seckill_service::clock::Clock;
use seckill_stock::StockClient;
use tokio::sync::watch;

use crate::args::{DeploymentName, Namespaces, TopicArgs};
use crate::cluster::lease::LeadershipTerm;
use crate::metrics::Metrics;
use crate::reconcile_cache::ReconcileCache;

/// The three servers of a sale's units.
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
    pub api: ScaledDeployment,
    pub worker: ScaledDeployment,
    /// The expected settings of the order log.
    pub topic: TopicArgs,
}

#[derive(Debug, Clone)]
pub struct LeaseName {
    pub namespace: String,
    pub name: String,
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
    pub workloads: watch::Receiver<Arc<Workloads>>,
    pub servers: watch::Receiver<Option<Arc<ServerSettings>>>,
}

/// All of it, for one leadership term: what a leader remembers ends with its term.
#[derive(Clone)]
pub struct Context {
    pub stores: Stores,
    pub cluster: Cluster,
    pub release: Arc<Release>,
    pub observations: ReleaseObservations,
    pub cache: Arc<ReconcileCache>,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
    pub term: LeadershipTerm,
}
