//! The command line.
use std::convert::Infallible;
use std::str::FromStr;

use clap::{Parser, Subcommand};
use seckill_service::config::{AdminArgs, Expected, KafkaArgs, MysqlArgs, RedisArgs, TelemetryArgs};

/// Runs flash sales on time: preheats the stock, scales the workloads, settles the end
#[derive(Debug, Parser)]
#[command(name = "operator", version)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the sales
    Run(Box<RunArgs>),
    /// Print the manifest of the FlashSale resource
    Crd,
}

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
    #[command(flatten)]
    pub admin: AdminArgs,
    #[command(flatten)]
    pub redis: RedisArgs,
    #[command(flatten)]
    pub kafka: KafkaArgs,
    #[command(flatten)]
    pub mysql: MysqlArgs,
    /// The FlashSales with this class belong to this release
    #[arg(long, env = "SECKILL_CLASS", value_name = "default", default_value = "default")]
    pub class: String,
    /// The namespaces whose FlashSales are run, separated by commas; empty means all
    #[arg(
        long,
        env = "SECKILL_WATCH_NAMESPACES",
        value_name = "shop,outlet",
        default_value = ""
    )]
    pub watch_namespaces: Namespaces,
    #[command(flatten)]
    pub api: ApiArgs,
    #[command(flatten)]
    pub worker: WorkerArgs,
}

#[derive(Debug, clap::Args)]
pub struct ApiArgs {
    /// The Deployment of seckill-api
    #[arg(long, env = "SECKILL_API_DEPLOYMENT", value_name = "seckill/seckill-api")]
    pub api_deployment: DeploymentName,
    /// Its pods while no sale asks for more
    #[arg(long, env = "SECKILL_API_MIN_REPLICAS", value_name = "2", default_value_t = 2, value_parser = clap::value_parser!(i32).range(0..=1000))]
    pub api_min_replicas: i32,
    /// Its most pods, whatever sales ask for
    #[arg(long, env = "SECKILL_API_MAX_REPLICAS", value_name = "20", default_value_t = 20, value_parser = clap::value_parser!(i32).range(1..=1000))]
    pub api_max_replicas: i32,
}

#[derive(Debug, clap::Args)]
pub struct WorkerArgs {
    /// The Deployment of order-worker
    #[arg(long, env = "SECKILL_WORKER_DEPLOYMENT", value_name = "seckill/seckill-worker")]
    pub worker_deployment: DeploymentName,
    /// Its pods while no sale asks for more
    #[arg(long, env = "SECKILL_WORKER_MIN_REPLICAS", value_name = "1", default_value_t = 1, value_parser = clap::value_parser!(i32).range(0..=1000))]
    pub worker_min_replicas: i32,
    /// Its most pods, whatever sales ask for
    #[arg(long, env = "SECKILL_WORKER_MAX_REPLICAS", value_name = "8", default_value_t = 8, value_parser = clap::value_parser!(i32).range(1..=1000))]
    pub worker_max_replicas: i32,
}

/// `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentName {
    pub namespace: String,
    pub name: String,
}

impl FromStr for DeploymentName {
    type Err = Expected;
    fn from_str(s: &str) -> Result<Self, Expected> {
        match s.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(DeploymentName {
                    namespace: namespace.into(),
                    name: name.into(),
                })
            }
            _ => Err(Expected::new("namespace/name of a Deployment")),
        }
    }
}

/// A list of namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces(pub Vec<String>);

impl FromStr for Namespaces {
    type Err = Infallible;
    fn from_str(s: &str) -> Result<Self, Infallible> {
        Ok(Namespaces(
            s.split(',')
                .map(str::trim)
                .filter(|n| !n.is_empty())
                .map(str::to_owned)
                .collect(),
        ))
    }
}

impl Namespaces {
    pub fn contain(&self, namespace: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|n| n == namespace)
    }
}
