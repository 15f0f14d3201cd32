//! Runs cargo in the workspace.
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{command, workspace};

/// What `cargo run` tells a program of its package. For a cargo that inherits it, the environment of `ring`'s build script has
/// changed since a build outside of xtask, and it compiles `ring` and all that depends on it again.
const PACKAGE_VARIABLES: &[&str] = &["CARGO_MANIFEST_", "CARGO_PKG_"];

/// Starts this program again without the variables of its package, if it has any.
pub fn leave_package() -> Result<()> {
    let Some(manifest) = std::env::var_os("CARGO_MANIFEST_DIR") else {
        return Ok(());
    };
    let names = std::env::vars_os().map(|(name, _)| name);
    let of_package = names.filter(|name| {
        let name = name.to_string_lossy();
        PACKAGE_VARIABLES.iter().any(|prefix| name.starts_with(prefix))
    });
    let mut again = Command::new(std::env::current_exe()?);
    again
        .args(std::env::args_os().skip(1))
        .env(workspace::XTASK_FOLDER, manifest);
    for name in of_package {
        again.env_remove(name);
    }
    Err(again.exec()).context("failed to start again without the variables of cargo")
}

pub fn cargo(args: &[&str]) -> Result<()> {
    command::run(Command::new("cargo").args(args).current_dir(workspace::folder()?))
}
