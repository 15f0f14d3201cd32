//! Finds dependencies that no code uses, by cargo-machete. Exceptions are in the packages' Cargo.toml.
use std::process::Command;

use anyhow::Result;

use crate::{command, tools, workspace};

pub fn check() -> Result<()> {
    let machete = tools::cargo_machete()?;
    let mut command = Command::new(machete);
    command.arg(workspace::folder()?).current_dir(workspace::folder()?);
    command::run(&mut command)
}
