//! The setup file that `cargo xtask chaos` writes: how each server and program is started, and where.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::Deserialize;

/// How the Redis servers of a run belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Topology {
    /// One address that leads to a primary. The run itself promotes its replica.
    Single,
    /// A primary with two replicas, and three Sentinels that watch them.
    Sentinel,
    /// A Cluster of three primaries with a replica each.
    Cluster,
}

impl Topology {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Topology::Single => "single",
            Topology::Sentinel => "sentinel",
            Topology::Cluster => "cluster",
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
pub struct Setup {
    /// The folder of this run: state, logs, fail points.
    pub folder: PathBuf,
    /// A loopback address that only this run uses, so that every port is free.
    pub address: String,
    pub etcd: Spec,
    /// The cluster whose FlashSales the run creates, and another one.
    pub clusters: [Cluster; 2],
    pub redis: Vec<Spec>,
    pub sentinels: Vec<Spec>,
    pub redis_cli: PathBuf,
    pub mysql: Spec,
    /// Joins MySQL when a fault needs it. Only with three brokers.
    pub mysql_replica: Option<Spec>,
    pub kafka: Vec<Spec>,
    pub ports: Ports,
    /// `seckill-api`, `order-worker`, `operator`, built with their fail points.
    pub programs: BTreeMap<String, PathBuf>,
    /// The library that gives a process a wall clock of its own.
    pub clock: PathBuf,
    pub mysql_password: String,
    pub redis_password: String,
    /// The name of the primary at the Sentinels.
    pub sentinel_master: String,
}

/// A Kubernetes cluster, of which only the API server runs.
#[derive(Debug, Clone, Deserialize)]
pub struct Cluster {
    pub api_server: Spec,
    pub kubeconfig: PathBuf,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Ports {
    /// The port of the first Redis; the others have the next ports. The same for the Sentinels.
    pub redis: u16,
    pub sentinels: u16,
    pub mysql: u16,
    pub mysql_replica: u16,
    /// The port of the first broker; the other brokers have the next ports.
    pub kafka: u16,
}

/// The command line of a process.
#[derive(Debug, Clone, Deserialize)]
pub struct Spec {
    pub argv: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The folder of its durable state.
    pub folder: PathBuf,
}

impl Setup {
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is not a setup file of this version", file.display()))
    }

    /// `host:port` of each broker.
    pub fn broker_addresses(&self) -> Vec<String> {
        let broker = |i: usize| format!("{}:{}", self.address, self.ports.kafka + i as u16);
        (0..self.kafka.len()).map(broker).collect()
    }
}
