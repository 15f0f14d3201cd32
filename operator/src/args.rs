//! The command line.
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, Subcommand};
use seckill_planner::preflight::KnownIssuer;
use seckill_service::config::{
    AdminArgs, Expected, FormatArgs, InstanceArgs, MysqlArgs, NewSalesArgs, ObjectName, RedisArgs, ServerArgs,
    TelemetryArgs,
};

/// Runs flash sales on time: preheats the stock, scales the workloads, settles the end
#[derive(Debug, Parser)]
#[command(name = "operator", version, next_line_help = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator
    Run(Box<RunArgs>),
    /// Say what Redis, Kafka and MySQL lack for this release, and how to correct it; fails if anything is wrong
    Check(Box<CheckArgs>),
    /// Print the manifest of the FlashSale resource
    Crd,
    /// Fail if the ledger requires a format that this version does not speak, before a rollback to it
    CheckFormat(CheckFormatArgs),
    /// Emergency stop: suspend every sale of the release, without the API server of Kubernetes
    Suspend(EmergencyStopArgs),
    /// End the emergency stop: every sale continues as its FlashSale says
    Resume(EmergencyStopArgs),
}

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
    #[command(flatten)]
    pub admin: AdminArgs,
    #[command(flatten)]
    pub servers: ServerArgs,
    #[command(flatten)]
    pub instance: InstanceArgs,
    /// The class of this release: it runs the FlashSales with this spec.className
    #[arg(long, env = "SECKILL_CLASS", value_name = "default", default_value = "default")]
    pub class: String,
    /// The watched namespaces, separated by commas; empty means all
    #[arg(
        long,
        env = "SECKILL_WATCH_NAMESPACES",
        value_name = "shop,outlet",
        default_value = ""
    )]
    pub watch_namespaces: Namespaces,
    /// A folder with manifests of FlashSales, instead of a cluster: for evaluation and for a single host. The pods are not managed
    #[arg(long, env = "SECKILL_SALES", value_name = "sales", conflicts_with_all = ["api_deployment", "worker_deployment"])]
    pub sales: Option<PathBuf>,
    #[command(flatten)]
    pub ownership: OwnershipArgs,
    #[command(flatten)]
    pub api: ApiArgs,
    #[command(flatten)]
    pub worker: WorkerArgs,
    #[command(flatten)]
    pub topic: TopicArgs,
    /// The issuers of tokens that seckill-api knows, separated by commas, with ":tiers" behind those that have a tierClaim. The
    /// preflight checks sales with spec.access against them; default: it does not
    #[arg(long, env = "SECKILL_ISSUERS", value_name = "main:tiers,staff")]
    pub issuers: Option<Issuers>,
    #[command(flatten)]
    pub lease: LeaseArgs,
    #[command(flatten)]
    pub new_sales: NewSalesArgs,
}

#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub servers: ServerArgs,
    #[command(flatten)]
    pub format: FormatArgs,
    #[command(flatten)]
    pub topic: TopicArgs,
    /// The class of the release
    #[arg(long, env = "SECKILL_CLASS", value_name = "default", default_value = "default")]
    pub class: String,
    /// Seconds to wait for the connections
    #[arg(
        long,
        env = "SECKILL_CHECK_TIMEOUT_SECONDS",
        default_value_t = 20,
        value_name = "20",
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    pub timeout_seconds: u64,
}

#[derive(Debug, clap::Args)]
pub struct CheckFormatArgs {
    #[command(flatten)]
    pub mysql: MysqlArgs,
    #[command(flatten)]
    pub format: FormatArgs,
    /// Time limit for the whole command, including waiting for MySQL, in seconds
    #[arg(
        long,
        env = "SECKILL_CHECK_FORMAT_TIMEOUT_SECONDS",
        default_value_t = 60,
        value_name = "60"
    )]
    pub timeout_seconds: u64,
}

#[derive(Debug, clap::Args)]
pub struct EmergencyStopArgs {
    /// Confirms that all sales of the release are meant
    #[arg(long, required = true)]
    pub all: bool,
    #[command(flatten)]
    pub mysql: MysqlArgs,
    #[command(flatten)]
    pub redis: RedisArgs,
    #[command(flatten)]
    pub format: FormatArgs,
    /// The class of the release
    #[arg(long, env = "SECKILL_CLASS", value_name = "default", default_value = "default")]
    pub class: String,
    /// Time limit for the whole command, including waiting for MySQL and Redis, in seconds
    #[arg(
        long,
        env = "SECKILL_EMERGENCY_STOP_TIMEOUT_SECONDS",
        default_value_t = 60,
        value_name = "60"
    )]
    pub timeout_seconds: u64,
}

/// Whose sales this operator runs, and when it ends one whose FlashSale was deleted.
#[derive(Debug, clap::Args)]
pub struct OwnershipArgs {
    /// The identity of this Kubernetes cluster among those that share the database; default: the UID of the namespace
    /// kube-system
    #[arg(long, env = "SECKILL_CLUSTER_IDENTITY", value_name = "production-eu")]
    pub cluster_identity: Option<ClusterIdentity>,
    /// The identity of a cluster that is gone for good, whose sales this one takes over
    #[arg(long, env = "SECKILL_TAKE_OVER_FROM", value_name = "production-old")]
    pub take_over_from: Option<ClusterIdentity>,
    /// Seconds from the confirmed deletion of a FlashSale, which suspends its sale, to the end of the sale
    #[arg(long, env = "SECKILL_DELETION_GRACE_SECONDS", value_name = "300", default_value_t = 300,
        value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub deletion_grace_seconds: u32,
}

/// The settings of the order log that the preflight expects.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct TopicArgs {
    /// Replicas that each partition of the topic should have
    #[arg(long, env = "SECKILL_TOPIC_REPLICATION", default_value_t = 3, value_name = "3",
        value_parser = clap::value_parser!(u32).range(1..=100))]
    pub topic_replication: u32,

    /// Replicas that must have a record before it counts as written (min.insync.replicas)
    #[arg(long, env = "SECKILL_TOPIC_MIN_INSYNC", default_value_t = 2, value_name = "2",
        value_parser = clap::value_parser!(u32).range(1..=100))]
    pub topic_min_insync: u32,
}

/// Of the operators that share a Lease, one is the leader.
#[derive(Debug, clap::Args)]
pub struct LeaseArgs {
    /// The Lease that the operators of this release share
    #[arg(
        long,
        env = "SECKILL_LEASE_NAME",
        value_name = "seckill-operator",
        default_value = "seckill-operator"
    )]
    pub lease_name: ObjectName,
    /// The namespace of the Lease; default: the namespace of the pod, or of the kubeconfig
    #[arg(long, env = "SECKILL_LEASE_NAMESPACE", value_name = "seckill")]
    pub lease_namespace: Option<ObjectName>,
    /// Seconds without a renewal after which another operator takes over
    #[arg(long, env = "SECKILL_LEASE_SECONDS", value_name = "15", default_value_t = 15, value_parser = clap::value_parser!(u32).range(3..=300))]
    pub lease_seconds: u32,
}

#[derive(Debug, clap::Args)]
pub struct ApiArgs {
    /// The Deployment of seckill-api
    #[arg(
        long,
        env = "SECKILL_API_DEPLOYMENT",
        value_name = "seckill/seckill-api",
        required_unless_present = "sales"
    )]
    pub api_deployment: Option<DeploymentName>,
    /// Replicas while no sale asks for more
    #[arg(long, env = "SECKILL_API_MIN_REPLICAS", value_name = "2", default_value_t = 2, value_parser = clap::value_parser!(i32).range(0..=1000))]
    pub api_min_replicas: i32,
    /// Maximum of replicas, whatever sales ask for
    #[arg(long, env = "SECKILL_API_MAX_REPLICAS", value_name = "20", default_value_t = 20, value_parser = clap::value_parser!(i32).range(1..=1000))]
    pub api_max_replicas: i32,
}

#[derive(Debug, clap::Args)]
pub struct WorkerArgs {
    /// The Deployment of order-worker
    #[arg(
        long,
        env = "SECKILL_WORKER_DEPLOYMENT",
        value_name = "seckill/seckill-worker",
        required_unless_present = "sales"
    )]
    pub worker_deployment: Option<DeploymentName>,
    /// Replicas while no sale asks for more
    #[arg(long, env = "SECKILL_WORKER_MIN_REPLICAS", value_name = "1", default_value_t = 1, value_parser = clap::value_parser!(i32).range(0..=1000))]
    pub worker_min_replicas: i32,
    /// Maximum of replicas, whatever sales ask for
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

/// The name of a cluster in the ledger, such as a UID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterIdentity(pub String);

impl FromStr for ClusterIdentity {
    type Err = Expected;
    fn from_str(s: &str) -> Result<Self, Expected> {
        let inside = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let at_its_ends = |c: char| c.is_ascii_alphanumeric();
        if s.len() <= 253 && s.chars().all(inside) && s.starts_with(at_its_ends) && s.ends_with(at_its_ends) {
            Ok(ClusterIdentity(s.to_owned()))
        } else {
            Err(Expected::new(
                "the identity of a cluster: at most 253 letters, digits, hyphens, dots and underscores, with a letter or \
                 digit at both ends",
            ))
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

/// The issuers that seckill-api knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Issuers(pub BTreeMap<String, KnownIssuer>);

impl FromStr for Issuers {
    type Err = Infallible;
    fn from_str(s: &str) -> Result<Self, Infallible> {
        let issuers = s.split(',').map(str::trim).filter(|issuer| !issuer.is_empty());
        let named = issuers.map(|issuer| {
            let (name, has_tier_claim) = match issuer.strip_suffix(":tiers") {
                Some(name) => (name, true),
                None => (issuer, false),
            };
            (name.to_owned(), KnownIssuer { has_tier_claim })
        });
        Ok(Issuers(named.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers_are_a_list_of_names_and_some_have_tiers() {
        let issuers = "main:tiers, staff".parse::<Issuers>().unwrap().0;
        let found: Vec<_> = issuers
            .iter()
            .map(|(name, issuer)| (name.as_str(), issuer.has_tier_claim))
            .collect();
        assert_eq!(found, [("main", true), ("staff", false)]);
        assert_eq!("".parse::<Issuers>().unwrap(), Issuers::default());
    }

    #[test]
    fn only_valid_identities_are_accepted() {
        let uid = "0b6f4c1e-8a53-4d0e-9d0c-6f0d3f1f2a11";
        for right in [uid, "production", "eu.Prod_1", "7", &"a".repeat(253)] {
            assert_eq!(
                right.parse::<ClusterIdentity>().map(|name| name.0).as_deref(),
                Ok(right)
            );
        }
        for wrong in ["", " ", "a b", "-a", "a-", "a/b", "ä", &"a".repeat(254)] {
            assert!(wrong.parse::<ClusterIdentity>().is_err(), "{wrong}");
        }
    }
}
