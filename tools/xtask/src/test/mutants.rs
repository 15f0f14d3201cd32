//! Changes the decision code in many small ways by cargo-mutants, and runs the tests of its package for each change. A change
//! that no test notices fails the step. `.cargo/mutants.toml` names the code and explains each exception.
use std::process::Command;

use anyhow::Result;

use crate::{command, tools, workspace};

/// Each job compiles and tests one change in a copy of the workspace.
const JOBS: &str = "2";

/// `filter` has further arguments of cargo-mutants.
pub fn check(filter: &[String]) -> Result<()> {
    let mut command = Command::new(tools::cargo_mutants()?);
    command
        .args(["mutants", "--jobs", JOBS, "--output"])
        .arg(workspace::target_folder()?)
        .args(filter)
        // Jobs that share a folder would wait for each other.
        .env_remove("CARGO_TARGET_DIR")
        .current_dir(workspace::folder()?);
    command::run(&mut command)
}
