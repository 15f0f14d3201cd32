//! The tools and addresses by which the demo reaches the cluster, the servers and the API.
use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;

use super::names::Names;
use super::stores::Stores;
use super::tool::Tool;
use crate::cargo::cargo;
use crate::environment::{Environment, MYSQL_PASSWORD, REDIS_PASSWORD};
use crate::workspace;

pub struct Site {
    /// The folder of the checkout.
    pub repository: PathBuf,
    /// The folder for files of the demo.
    pub state: PathBuf,
    pub kubectl: Tool,
    pub helm: Tool,
    pub curl: Tool,
    pub load: Tool,
    pub stores: Stores,
    /// The values file for the chart.
    pub values: PathBuf,
    pub names: Names,
    pub crds: Crds,
    /// Whether the demo starts, and deletes, Kafka, MySQL and Redis of `examples/dependencies.yaml`.
    pub creates_dependencies: bool,
    /// The URL of the API.
    pub api_url: String,
    /// The URL of the old demo's routes.
    pub old_routes_url: String,
    /// Versions that the servers cannot be asked for.
    pub known_versions: BTreeMap<String, String>,
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

impl Site {
    /// The local environment.
    pub fn local(env: &Environment, values: PathBuf) -> Result<Self> {
        let inside = |program: &str| Tool::from(&env.command(program));
        let tool = |path: &std::path::Path| Tool::from(&env.command(path));
        let (node, mysql_port, redis_port) = (
            &env.node_address,
            env.mysql_port.to_string(),
            env.redis_port.to_string(),
        );
        Ok(Site {
            repository: workspace::folder()?,
            state: env.state.clone(),
            kubectl: tool(&env.kubectl),
            helm: tool(&env.helm),
            curl: inside("curl"),
            load: Tool::from(&env.command(load_program()?)).with(["--i-own-this-target"]),
            stores: Stores {
                mysql: tool(&env.servers.join("mysql"))
                    .with(["-h", node, "-P", &mysql_port, "-u", "root", "seckill"])
                    .with_env("MYSQL_PWD", MYSQL_PASSWORD),
                redis: tool(&env.servers.join("redis-cli"))
                    .with(["-h", node, "-p", &redis_port])
                    .with_env("REDISCLI_AUTH", REDIS_PASSWORD),
            },
            values,
            names: Names::local(),
            crds: Crds::Chart,
            creates_dependencies: false,
            api_url: env.ingress_url.clone(),
            old_routes_url: env.ingress_url.clone(),
            known_versions: env
                .versions
                .iter()
                .map(|(name, version)| (name.clone(), version.as_str().unwrap_or_default().to_string()))
                .collect(),
        })
    }

    /// The path of a file of the examples.
    pub fn example(&self, file: &str) -> String {
        self.repository.join("examples").join(file).display().to_string()
    }

    /// The versions of all servers and programs.
    pub fn versions(&self) -> Result<BTreeMap<String, String>> {
        let mut versions = self.known_versions.clone();
        let kubernetes: serde_json::Value = serde_json::from_str(&self.kubectl.text(&["version", "-o", "json"])?)?;
        if let Some(version) = kubernetes["serverVersion"]["gitVersion"].as_str() {
            versions.insert("kubernetes".into(), version.into());
        }
        versions.extend(self.stores.versions()?);
        versions.insert("seckill".into(), env!("CARGO_PKG_VERSION").into());
        Ok(versions)
    }
}

/// Builds the load generator and returns its path. A debug build would be too slow to measure the API.
pub fn load_program() -> Result<PathBuf> {
    cargo(&["build", "--release", "--quiet", "--package", "seckill-load"])?;
    Ok(workspace::target_folder()?.join("release/seckill-load"))
}
