//! The arguments of `cargo xtask demo`.
use std::path::PathBuf;

/// `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Keep the environment running afterwards, and print how to use it
    #[arg(long)]
    pub keep: bool,
    /// Answer yes to all questions
    #[arg(long)]
    pub yes: bool,
    /// Build and start a Kubernetes cluster, and run the programs there, installed by Helm
    #[arg(long, conflicts_with = "context")]
    pub cluster: bool,
    /// Run only the first sale, with 300 buyers
    #[arg(long)]
    pub small: bool,
    /// Use an existing cluster, by the name of its context, instead of building one. It says what it will do there, and asks
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// With --context: an image that is loaded into the cluster, for example seckill:dev
    #[arg(long, requires = "context", value_name = "NAME:TAG")]
    pub image: Option<String>,
    /// With --context: the URL of the cluster's ingress. Without it, requests go through kubectl port-forward, which is
    /// slow with 20,000 buyers
    #[arg(long, requires = "context")]
    pub url: Option<String>,
    /// With --url: the ingress class, if it is not the cluster's default
    #[arg(long, requires = "url", default_value = "", hide_default_value = true)]
    pub ingress_class: String,
    /// With --context: values of the chart that name your own servers, instead of examples/values-trying-out.yaml and the
    /// servers of examples/dependencies.yaml
    #[arg(long, requires_all = ["context", "mysql", "redis"], value_name = "FILE")]
    pub values: Option<PathBuf>,
    /// With --values: a command that queries that MySQL, for example "mysql --defaults-file=my.cnf seckill"
    #[arg(long, requires = "values", value_name = "COMMAND")]
    pub mysql: Option<String>,
    /// With --values: a command that queries that Redis, for example "redis-cli -h redis.example"
    #[arg(long, requires = "values", value_name = "COMMAND")]
    pub redis: Option<String>,
}
