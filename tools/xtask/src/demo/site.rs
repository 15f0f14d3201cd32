//! The tools and addresses by which the demo reaches the cluster, the servers and the API.
use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::flash_sales::FlashSales;
use super::names::Names;
use super::stores::Stores;
use super::tool::Tool;
use crate::environment::{Environment, MYSQL_PASSWORD, REDIS_PASSWORD};
use crate::programs::build_load;
use crate::workspace;

/// What the sales need, wherever the programs run.
pub struct Site {
    /// The folder of the checkout.
    pub repository: PathBuf,
    /// The folder for files of the demo.
    pub state: PathBuf,
    pub flash_sales: FlashSales,
    pub curl: Tool,
    pub load: Tool,
    pub stores: Stores,
    pub names: Names,
    /// The URL of the API.
    pub api_url: String,
    /// The URL of the old demo's routes.
    pub old_routes_url: String,
    /// Versions that the servers cannot be asked for.
    pub known_versions: BTreeMap<String, String>,
}

/// A site in a cluster.
pub struct ClusterSite {
    pub site: Site,
    pub kubectl: Tool,
    pub helm: Tool,
    /// The values file for the chart.
    pub values: PathBuf,
    pub crds: Crds,
    /// Whether the demo starts, and deletes, Kafka, MySQL and Redis of `examples/dependencies.yaml`.
    pub creates_dependencies: bool,
}

impl Deref for ClusterSite {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

/// Where the definition of FlashSales comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crds {
    /// From the chart, which takes over an existing one, for example one that a test created.
    Chart,
    /// The demo creates and deletes it. The chart would keep it, and a later release of the chart would not accept it.
    Created,
    /// It is there, and stays.
    Existing,
}

impl ClusterSite {
    /// The local environment.
    pub fn local(env: &Environment, values: PathBuf) -> Result<Self> {
        let kubectl = Tool::from(&env.command(&env.kubectl));
        let load = build_load()?;
        Ok(ClusterSite {
            site: Site {
                flash_sales: FlashSales::Cluster(kubectl.clone()),
                ..Site::local(env, &load, env.ingress_url.clone(), env.ingress_url.clone())?
            },
            kubectl,
            helm: Tool::from(&env.command(&env.helm)),
            values,
            crds: Crds::Chart,
            creates_dependencies: false,
        })
    }
}

impl Site {
    /// The local environment, with the FlashSales in a folder.
    pub fn local(env: &Environment, load: &Path, api_url: String, old_routes_url: String) -> Result<Self> {
        let inside = |program: &str| Tool::from(&env.command(program));
        let tool = |path: &Path| Tool::from(&env.command(path));
        let (node, mysql_port, redis_port) = (
            &env.node_address,
            env.mysql_port.to_string(),
            env.redis_port.to_string(),
        );
        let version = |(name, version): (&String, &serde_json::Value)| {
            (name.clone(), version.as_str().unwrap_or_default().to_string())
        };
        Ok(Site {
            repository: workspace::folder()?,
            state: env.state.clone(),
            flash_sales: FlashSales::Folder(env.sales()),
            curl: inside("curl"),
            load: tool(load).with(["--i-own-this-target"]),
            stores: Stores {
                mysql: tool(&env.servers.join("mysql"))
                    .with(["-h", node, "-P", &mysql_port, "-u", "root", "seckill"])
                    .with_env("MYSQL_PWD", MYSQL_PASSWORD),
                redis: tool(&env.servers.join("redis-cli"))
                    .with(["-h", node, "-p", &redis_port])
                    .with_env("REDISCLI_AUTH", REDIS_PASSWORD),
            },
            names: Names::local(),
            api_url,
            old_routes_url,
            known_versions: env.versions.iter().map(version).collect(),
        })
    }

    /// The path of a file of the examples.
    pub fn example(&self, file: &str) -> String {
        self.repository.join("examples").join(file).display().to_string()
    }

    /// The versions of all servers and programs.
    pub fn versions(&self) -> Result<BTreeMap<String, String>> {
        let mut versions = self.known_versions.clone();
        match self.flash_sales.kubernetes_version()? {
            Some(version) => _ = versions.insert("kubernetes".into(), version),
            None => versions.retain(|name, _| WITHOUT_CLUSTER.contains(&name.as_str())),
        }
        versions.extend(self.stores.versions()?);
        versions.insert("seckill".into(), env!("CARGO_PKG_VERSION").into());
        Ok(versions)
    }
}

/// What a demo without a cluster uses, of the environment's parts.
const WITHOUT_CLUSTER: [&str; 4] = ["kafka", "mysql", "redis", "seckill"];
