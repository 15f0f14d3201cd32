//! Where the demo plays: what reaches the cluster, the servers and the buyers' door.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::stores::Stores;
use super::tool::Tool;
use crate::environment::{Environment, MYSQL_PASSWORD, REDIS_PASSWORD};

pub struct Site {
    /// The checkout.
    pub repository: PathBuf,
    /// For files that the demo makes.
    pub state: PathBuf,
    pub kubectl: Tool,
    pub helm: Tool,
    pub curl: Tool,
    pub load: Tool,
    pub stores: Stores,
    /// Values for the chart.
    pub values: PathBuf,
    /// Whether a CRD that is there already, from a test for example, may be made Helm's.
    pub take_crds: bool,
    /// Where the ingress answers.
    pub api_url: String,
    /// Where the old demo's routes answer.
    pub old_routes_url: String,
    /// What is known of the servers beside what they say themselves.
    pub known_versions: BTreeMap<String, String>,
}

impl Site {
    /// The local environment.
    pub fn local(env: &Environment, values: PathBuf) -> Result<Self> {
        let inside = |program: &str| Tool::from(&env.command(program));
        let of = |path: &std::path::Path| Tool::from(&env.command(path));
        let (node, mysql_port, redis_port) = (
            &env.node_address,
            env.mysql_port.to_string(),
            env.redis_port.to_string(),
        );
        Ok(Site {
            repository: crate::workspace()?,
            state: env.state.clone(),
            kubectl: of(&env.kubectl),
            helm: of(&env.helm),
            curl: inside("curl"),
            load: Tool::from(&env.command(load_program()?)).with(["--i-own-this-target"]),
            stores: Stores {
                mysql: of(&env.servers.join("mysql"))
                    .with(["-h", node, "-P", &mysql_port, "-u", "root", "seckill"])
                    .with_env("MYSQL_PWD", MYSQL_PASSWORD),
                redis: of(&env.servers.join("redis-cli"))
                    .with(["-h", node, "-p", &redis_port])
                    .with_env("REDISCLI_AUTH", REDIS_PASSWORD),
            },
            values,
            take_crds: true,
            api_url: env.ingress_url.clone(),
            old_routes_url: env.ingress_url.clone(),
            known_versions: env
                .versions
                .iter()
                .map(|(name, version)| (name.clone(), version.as_str().unwrap_or_default().to_string()))
                .collect(),
        })
    }

    /// Of all that took part.
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

/// The load generator, built. A debug build would measure itself.
pub fn load_program() -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let status = cargo
        .current_dir(crate::workspace()?)
        .args(["build", "--release", "--quiet", "--package", "seckill-load"])
        .status()
        .context("can't run cargo")?;
    ensure!(status.success(), "cargo build --release --package seckill-load failed");
    Ok(crate::target_folder()?.join("release/seckill-load"))
}
