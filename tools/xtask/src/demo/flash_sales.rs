//! Where the FlashSales are applied: a cluster, or the folder that the operator reads.
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use super::tool::Tool;

#[derive(Clone)]
pub enum FlashSales {
    /// With kubectl.
    Cluster(Tool),
    Folder(PathBuf),
}

impl FlashSales {
    pub fn create_namespace(&self, name: &str) -> Result<()> {
        let FlashSales::Cluster(kubectl) = self else {
            return Ok(());
        };
        let namespace = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}");
        kubectl
            .text_with_input(&["apply", "-f", "-"], Some(&namespace))
            .map(drop)
    }

    /// Returns what a person would have done.
    pub fn apply(&self, namespace: &str, name: &str, manifest: &str) -> Result<String> {
        match self {
            FlashSales::Cluster(kubectl) => {
                kubectl.text_with_input(&["apply", "-n", namespace, "-f", "-"], Some(manifest))?;
                Ok(format!("kubectl apply: {namespace}/{name}"))
            }
            FlashSales::Folder(folder) => {
                let file = format!("{name}.yaml");
                let path = folder.join(&file);
                fs::write(&path, manifest).with_context(|| path.display().to_string())?;
                Ok(format!("sales/{file} written"))
            }
        }
    }

    /// The version of the cluster; `None`: there is none.
    pub fn kubernetes_version(&self) -> Result<Option<String>> {
        let FlashSales::Cluster(kubectl) = self else {
            return Ok(None);
        };
        let version: Value = serde_json::from_str(&kubectl.text(&["version", "-o", "json"])?)?;
        Ok(version["serverVersion"]["gitVersion"].as_str().map(str::to_owned))
    }
}

/// The statuses that the operator has written into its folder, by the names of the FlashSales.
pub fn statuses(folder: &Path, namespace: &str) -> Vec<(String, Value)> {
    let folder = folder.join(".seckill/status").join(namespace);
    let mut statuses = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(name) = name.strip_suffix(".yaml") else {
            continue;
        };
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        if let Ok(status) = serde_yaml::from_str(&text) {
            statuses.push((name.to_owned(), status));
        }
    }
    statuses
}
