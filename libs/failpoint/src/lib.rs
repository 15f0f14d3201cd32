//! Named places in the programs, for the chaos run: at some a process is to die or to stand still, at others it is to
//! break a rule of the protocol on purpose, so that it is seen whether the checker notices.
//!
//! They are armed while the process runs, by a file: `$SECKILL_FAILPOINTS/<name>` with the word `abort` or `stop` in it,
//! or anything for a broken rule. Without the feature `enabled` all of this is nothing, and costs nothing. (The crate
//! `fail` blocks a thread of the runtime where the whole process is to stand still, and knows no abort.)

/// The process passes this place. If it is armed, that happens once, and the file is renamed to `<name>.reached`.
#[cfg(not(feature = "enabled"))]
#[inline(always)]
pub fn reach(_name: &str) {}

/// Whether this rule is to be broken.
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

    static FOLDER: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os("SECKILL_FAILPOINTS").map(Into::into));

    pub fn reach(name: &str) {
        let Some(folder) = &*FOLDER else { return };
        let reached = folder.join(format!("{name}.reached"));
        // Of several threads one does it.
        if fs::rename(folder.join(name), &reached).is_err() {
            return;
        }
        match fs::read_to_string(&reached).as_deref().map(str::trim) {
            Ok("stop") => {
                // The whole process, until somebody sends SIGCONT.
                let id = std::process::id().to_string();
                let _ = Command::new("kill").args(["-STOP", &id]).status();
            }
            _ => std::process::abort(),
        }
    }

    pub fn breaks(rule: &str) -> bool {
        FOLDER.as_ref().is_some_and(|folder| folder.join(rule).exists())
    }
}
