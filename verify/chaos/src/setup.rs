//! What `cargo xtask chaos` hands over: how each server and program is started, and where.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
pub struct Setup {
    /// The folder of this run: state, logs, fail points.
    pub folder: PathBuf,
    /// A loopback address that nobody else uses, so that every port is free.
    pub address: String,
    pub kubeconfig: PathBuf,
    pub redis: [Spec; 2],
    pub mysql: Spec,
    pub kafka: Vec<Spec>,
    pub ports: Ports,
    /// `seckill-api`, `order-worker`, `operator`, built with their fail points.
    pub programs: BTreeMap<String, PathBuf>,
    pub mysql_password: String,
    pub redis_password: String,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Ports {
    pub redis: [u16; 2],
    pub mysql: u16,
    /// Of the first broker; the others follow.
    pub kafka: u16,
}

/// How a process is started.
#[derive(Debug, Clone, Deserialize)]
pub struct Spec {
    pub argv: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Where it keeps what it must not lose.
    pub folder: PathBuf,
}

impl Setup {
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read(file).with_context(|| format!("can't read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is not of this version", file.display()))
    }
}
