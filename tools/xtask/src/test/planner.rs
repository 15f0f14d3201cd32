//! Builds and tests the planner crate alone. It holds the operator's decisions, so it must not depend on I/O libraries.
use std::process::Command;

use anyhow::{Result, ensure};

use super::count::Count;
use super::runner::counted;
use crate::command::output;
use crate::workspace;

const PACKAGE: &str = "seckill-planner";

/// Packages that the planner must not depend on, directly or indirectly.
const FORBIDDEN: [&str; 7] = ["kube", "k8s-openapi", "tokio", "clap", "sqlx", "rdkafka", "redis"];

pub fn check(filter: &[String], count: &mut Count) -> Result<()> {
    let mut tree = Command::new("cargo");
    tree.args(["tree", "-p", PACKAGE, "-e", "normal", "--prefix", "none"])
        .current_dir(workspace::folder()?);
    let found = forbidden(&output(&mut tree)?);
    ensure!(found.is_empty(), "{PACKAGE} depends on {}", found.join(", "));
    count.passed += 1;

    let mut tests = Command::new("cargo");
    tests.args(["test", "--quiet", "-p", PACKAGE, "--"]).args(filter);
    counted(&mut tests, count)
}

/// The forbidden packages in the output of `cargo tree --prefix none`.
fn forbidden(tree: &str) -> Vec<&'static str> {
    let packages: Vec<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    FORBIDDEN.into_iter().filter(|name| packages.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_packages_are_found_by_exact_name() {
        let allowed = "seckill-planner v0.1.0 (/x)\nseckill-protocol v0.1.0 (/y)\nkube-like v1.0.0\nserde v1.0.0 (*)\n";
        assert!(forbidden(allowed).is_empty());
        let tree = format!("{allowed}tokio v1.47.0 (*)\nkube v5.0.0\n");
        assert_eq!(forbidden(&tree), ["kube", "tokio"]);
    }
}
