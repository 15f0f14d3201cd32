//! The addresses, files and versions of a running environment, for tests, the demo and people.
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::sandbox::Sandbox;

/// Passwords of servers that only this machine can reach and that are deleted after the tests.
pub const MYSQL_PASSWORD: &str = "seckill";
/// The context of the cluster in the kubeconfig.
pub const CONTEXT: &str = "seckill";
pub const REDIS_PASSWORD: &str = "seckill";
pub const KAFKA_PASSWORD: &str = "seckill";
/// The user of Kafka's login. It has no right on any topic.
pub const KAFKA_USER: &str = "seckill";
/// With TLS, beside the ports without. MySQL has one port for both.
pub const REDIS_TLS_PORT: u16 = 6390;
/// With client certificates, and with a login (SCRAM-SHA-512).
pub const KAFKA_TLS_PORTS: [u16; 2] = [9094, 9095];

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Environment {
    pub sandbox: Sandbox,
    /// The folder with all state. `cargo xtask down` deletes it.
    pub state: PathBuf,
    /// redis-cli, redis-server, redis-benchmark, mysql, mysqld.
    pub servers: PathBuf,
    pub kubectl: PathBuf,
    pub helm: PathBuf,
    pub kubeconfig: PathBuf,
    /// The address of the node, as seen from pods too.
    pub node_address: String,
    pub redis_port: u16,
    pub mysql_port: u16,
    pub kafka_port: u16,
    pub ingress_url: String,
    pub ingress_class: String,
    pub versions: serde_json::Map<String, serde_json::Value>,
}

impl Environment {
    /// The state folder: `SECKILL_STATE`, else the default.
    pub fn state_folder() -> Result<PathBuf> {
        match std::env::var_os("SECKILL_STATE") {
            Some(folder) => Ok(std::path::absolute(folder)?),
            None => Self::default_state_folder(),
        }
    }

    /// `run` in the cache folder.
    pub fn default_state_folder() -> Result<PathBuf> {
        Ok(crate::cache::folder()?.join("run"))
    }

    fn file(state: &Path) -> PathBuf {
        state.join("environment.json")
    }

    pub fn save(&self) -> Result<()> {
        Ok(fs::write(Self::file(&self.state), serde_json::to_vec_pretty(self)?)?)
    }

    /// The environment that was started last.
    pub fn load() -> Result<Self> {
        let file = Self::file(&Self::state_folder()?);
        let text = fs::read(&file).context("no environment is running; start one with `cargo xtask up`")?;
        serde_json::from_slice(&text).with_context(|| format!("{} has the format of another version", file.display()))
    }

    pub fn redis_url(&self) -> String {
        format!("redis://:{REDIS_PASSWORD}@{}:{}", self.node_address, self.redis_port)
    }

    /// The URL for a MySQL user; `root` has all rights.
    pub fn mysql_url(&self, user: &str, database: &str) -> String {
        format!(
            "mysql://{user}:{MYSQL_PASSWORD}@{}:{}/{database}",
            self.node_address, self.mysql_port
        )
    }

    pub fn kafka_brokers(&self) -> String {
        format!("{}:{}", self.node_address, self.kafka_port)
    }

    /// The socket of the container runtime, which is separate from the machine's own.
    pub fn containerd_socket(&self) -> PathBuf {
        self.state.join("containerd/containerd.sock")
    }

    /// The folder of FlashSales of the demo without a cluster.
    pub fn sales(&self) -> PathBuf {
        self.state.join("sales")
    }

    /// The PATH with kubectl, helm, mysql and redis-cli.
    pub fn path(&self) -> String {
        let folders = [self.kubectl.parent(), Some(self.servers.as_path())];
        let path = std::env::var("PATH").unwrap_or_default();
        let folders = folders.into_iter().flatten().map(|folder| folder.display().to_string());
        folders.chain([path]).collect::<Vec<_>>().join(":")
    }

    /// The variables that tests and people use.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let path = |p: &Path| p.display().to_string();
        let at_port = |port: u16| format!("{}:{port}", self.node_address);
        let [kafka_tls, kafka_login] = KAFKA_TLS_PORTS;
        vec![
            ("SECKILL_TEST_CERTIFICATES", path(&self.state.join("tls"))),
            ("SECKILL_TEST_REDIS_TLS", at_port(REDIS_TLS_PORT)),
            ("SECKILL_TEST_KAFKA_TLS", at_port(kafka_tls)),
            ("SECKILL_TEST_KAFKA_LOGIN", at_port(kafka_login)),
            ("SECKILL_TEST_REDIS_URL", self.redis_url()),
            ("SECKILL_TEST_MYSQL_URL", self.mysql_url("root", "seckill_test")),
            ("SECKILL_TEST_KAFKA", self.kafka_brokers()),
            ("SECKILL_TEST_KUBECONFIG", path(&self.kubeconfig)),
            ("SECKILL_TEST_REDIS_SERVER", path(&self.servers.join("redis-server"))),
            ("SECKILL_REDIS_BENCHMARK", path(&self.servers.join("redis-benchmark"))),
            ("SECKILL_KUBECTL", path(&self.kubectl)),
            ("SECKILL_HELM", path(&self.helm)),
            ("SECKILL_INGRESS_URL", self.ingress_url.clone()),
            ("SECKILL_NODE_ADDRESS", self.node_address.clone()),
            // Not with the prefix of the product: its programs would read it.
            ("SALES_FOLDER", path(&self.sales())),
            ("KUBECONFIG", path(&self.kubeconfig)),
        ]
    }

    /// A command that runs inside the network namespace, with the variables.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> std::process::Command {
        let mut command = self.sandbox.command(program);
        command.envs(self.variables());
        command
    }
}
