//! Builds the programs of the product, and the program that sends crowds.
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;

use crate::cache::seconds;
use crate::cargo::cargo;
use crate::workspace;

/// A profile of Cargo.
pub struct Profile {
    name: &'static str,
    /// In the target folder.
    folder: &'static str,
}

/// As they are shipped.
pub const RELEASE: Profile = Profile {
    name: "release",
    folder: "release",
};
/// Without link-time optimization, which takes most of the time of a release build.
pub const QUICK: Profile = Profile {
    name: "quick",
    folder: "quick",
};
/// For tests that measure nothing.
pub const DEV: Profile = Profile {
    name: "dev",
    folder: "debug",
};

/// The programs of the image.
pub const PROGRAMS: [&str; 3] = ["operator", "seckill-api", "order-worker"];
/// The program that sends crowds. It is not in the image.
pub const LOAD: &str = "seckill-load";
/// The plugin of kubectl. It is not in the image.
pub const PLUGIN: &str = "kubectl-seckill";

/// Builds the programs, and returns their folder.
pub fn build(profile: &Profile) -> Result<PathBuf> {
    let started = Instant::now();
    eprintln!("  … the programs (cargo build --profile {})", profile.name);
    let programs: Vec<_> = PROGRAMS.into_iter().chain([LOAD, PLUGIN]).collect();
    let folder = build_each(profile, &programs)?;
    eprintln!("  ✓ the programs ({})", seconds(started.elapsed()));
    Ok(folder)
}

/// Builds the program that sends crowds, and returns its path. A debug build would be too slow to measure the API.
pub fn build_load() -> Result<PathBuf> {
    Ok(build_each(&QUICK, &[LOAD])?.join(LOAD))
}

/// With `--workspace`, each program has the same dependencies however many are built.
fn build_each(profile: &Profile, programs: &[&str]) -> Result<PathBuf> {
    let mut args = vec!["build", "--quiet", "--workspace", "--profile", profile.name];
    args.extend(programs.iter().flat_map(|program| ["--bin", program]));
    cargo(&args)?;
    Ok(workspace::target_folder()?.join(profile.folder))
}
