//! Checks licenses, sources and advisories of dependencies by cargo-deny, as deny.toml says.
use std::process::Command;

use anyhow::{Result, bail};

use super::count::Count;
use crate::cargo::cargo;
use crate::{command, tools, workspace};

/// Time limit for the check of advisories, which downloads a database from GitHub, in seconds.
const ADVISORIES_TIMEOUT: &str = "60";

pub fn check(count: &mut Count) -> Result<()> {
    let deny = tools::cargo_deny()?;
    // `--offline` needs every crate of Cargo.lock in cargo's cache.
    cargo(&["fetch", "--quiet"])?;
    let mut offline = Command::new(&deny);
    offline
        .args(["--offline", "check", "bans", "licenses", "sources"])
        .current_dir(workspace::folder()?);
    command::run(&mut offline)?;
    count.passed += 1;

    let output = Command::new("timeout")
        .arg(ADVISORIES_TIMEOUT)
        .arg(&deny)
        .args(["check", "advisories"])
        .env("GIT_TERMINAL_PROMPT", "0")
        .current_dir(workspace::folder()?)
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    match advisories(output.status.code(), &text) {
        Advisories::Passed => count.passed += 1,
        Advisories::Unreachable => {
            eprintln!("advisories: skipped, the advisory database can't be reached");
            count.skipped += 1;
        }
        Advisories::Failed => bail!("{}\nadvisories: failed", text.trim()),
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Advisories {
    Passed,
    Failed,
    Unreachable,
}

/// Reads the result of `timeout cargo-deny check advisories`. Its exit code does not tell a download that failed from an
/// advisory, but its message does; `timeout` exits with 124.
fn advisories(code: Option<i32>, stderr: &str) -> Advisories {
    match code {
        Some(0) => Advisories::Passed,
        Some(124) => Advisories::Unreachable,
        _ if stderr.contains("failed to fetch advisory database") => Advisories::Unreachable,
        _ => Advisories::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreachable_database_differs_from_an_advisory() {
        let fetch = "[ERROR] failed to fetch advisory database https://github.com/RustSec/advisory-db with cli";
        assert_eq!(advisories(Some(0), "advisories ok"), Advisories::Passed);
        assert_eq!(advisories(Some(1), fetch), Advisories::Unreachable);
        assert_eq!(advisories(Some(124), ""), Advisories::Unreachable);
        assert_eq!(
            advisories(Some(1), "error[vulnerability]: advisories FAILED"),
            Advisories::Failed
        );
        assert_eq!(advisories(None, ""), Advisories::Failed);
    }
}
