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

/// Builds the programs, and returns their folder.
pub fn build(profile: &Profile) -> Result<PathBuf> {
    let started = Instant::now();
    eprintln!("  … the programs (cargo build --profile {})", profile.name);
    let mut args = vec!["build", "--quiet", "--workspace", "--profile", profile.name];
    for program in PROGRAMS.into_iter().chain([LOAD]) {
        args.extend(["--bin", program]);
    }
    cargo(&args)?;
    eprintln!("  ✓ the programs ({})", seconds(started.elapsed()));
    Ok(workspace::target_folder()?.join(profile.folder))
}
