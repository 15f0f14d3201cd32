//! Runs cargo in the workspace.
use std::process::Command;

use anyhow::Result;

use crate::{command, workspace};

pub fn cargo(args: &[&str]) -> Result<()> {
    command::run(Command::new("cargo").args(args).current_dir(workspace::folder()?))
}
