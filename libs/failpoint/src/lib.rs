//! Failpoints for the chaos run: named places in the programs at which a process dies, stops or breaks a rule of the
//! protocol on purpose. A broken rule tests the checker.
//!
//! A file arms a failpoint while the process runs: `$SECKILL_FAILPOINTS/<name>` contains the word `abort`, `stop` or `wait`,
//! or anything for a broken rule. Without the feature `enabled` all functions are empty and cost nothing. The crate `fail`
//! is no replacement: it can't stop or abort the process.
//!
//! Terms: docs/glossary.md.

/// Marks a place. An armed failpoint fires once, and its file is renamed to `<name>.reached`. `wait` blocks the calling
/// thread until that file is deleted; the rest of the process goes on.
#[cfg(not(feature = "enabled"))]
#[inline(always)]
pub fn reach(_name: &str) {}

/// Whether the program has to break this rule.
#[cfg(not(feature = "enabled"))]
#[inline(always)]
pub fn breaks(_rule: &str) -> bool {
    false
}

#[cfg(feature = "enabled")]
pub use enabled::{breaks, reach};

#[cfg(feature = "enabled")]
mod enabled {
    use std::fs;
    use std::path::PathBuf;
    use std::process::Command;
    use std::sync::LazyLock;
    use std::time::Duration;

    const WAIT_INTERVAL: Duration = Duration::from_millis(10);

    static FOLDER: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os("SECKILL_FAILPOINTS").map(Into::into));

    pub fn reach(name: &str) {
        let Some(folder) = &*FOLDER else { return };
        let reached = folder.join(format!("{name}.reached"));
        // Only one of several threads succeeds.
        if fs::rename(folder.join(name), &reached).is_err() {
            return;
        }
        match fs::read_to_string(&reached).as_deref().map(str::trim) {
            Ok("stop") => {
                // Stops the whole process until SIGCONT.
                let id = std::process::id().to_string();
                let _ = Command::new("kill").args(["-STOP", &id]).status();
            }
            Ok("wait") => {
                while reached.exists() {
                    std::thread::sleep(WAIT_INTERVAL);
                }
            }
            _ => std::process::abort(),
        }
    }

    pub fn breaks(rule: &str) -> bool {
        FOLDER.as_ref().is_some_and(|folder| folder.join(rule).exists())
    }
}
