//! The folders of this checkout.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::output;

/// Names the folder of this package, as cargo does when it runs the program.
pub const XTASK_FOLDER: &str = "SECKILL_XTASK_FOLDER";

/// The folder of the workspace. Cargo names it at run time, because several checkouts may share one build.
pub fn folder() -> Result<PathBuf> {
    let manifest = std::env::var_os(XTASK_FOLDER).unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let folder = Path::new(&manifest).ancestors().nth(2);
    Ok(folder.context("xtask is not in tools/ of the workspace")?.to_owned())
}

/// The folder that cargo builds into.
pub fn target_folder() -> Result<PathBuf> {
    let metadata = metadata()?;
    let folder = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target folder")?;
    Ok(folder.into())
}

/// `cargo metadata`, with the packages of this workspace only.
pub fn metadata() -> Result<Value> {
    let mut command = Command::new("cargo");
    command
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(folder()?);
    Ok(serde_json::from_str(&output(&mut command)?)?)
}
