//! Servers that outlive this program. Each has a log and a file with its process id, and only processes with such a
//! file are stopped.
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Time limit for a server to exit after SIGTERM.
const TERM_TIMEOUT: Duration = Duration::from_secs(20);

/// The folder of the process files and logs.
pub struct Processes {
    folder: PathBuf,
}

impl Processes {
    pub fn new(state: &Path) -> Result<Self> {
        let folder = state.join("processes");
        fs::create_dir_all(&folder)?;
        Ok(Processes { folder })
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.pid"))
    }

    /// Starts a server unless it is running. Returns whether it was started now.
    pub fn start(&self, name: &str, command: &mut Command) -> Result<bool> {
        if self.running(name).is_some() {
            return Ok(false);
        }
        let log = File::create(self.log(name))?;
        // A separate session, so that Ctrl-C at the terminal does not stop the server.
        let mut detached = Command::new("setsid");
        detached.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => detached.env(key, value),
                None => detached.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            detached.current_dir(folder);
        }
        let child = detached
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("failed to start {name}"))?;
        let started = started_at(child.id()).unwrap_or_default();
        fs::write(self.file(name), format!("{} {started}", child.id()))?;
        Ok(true)
    }

    /// The process id, if the process is still running. The start time tells a reused id apart.
    pub fn running(&self, name: &str) -> Option<u32> {
        let text = fs::read_to_string(self.file(name)).ok()?;
        let (id, started) = text.split_once(' ')?;
        let id = id.parse().ok()?;
        (started_at(id)?.to_string() == started).then_some(id)
    }

    /// Waits until `ready` succeeds. The error says why it did not, with the end of the server's log.
    pub fn wait(&self, name: &str, limit: Duration, mut ready: impl FnMut() -> Result<()>) -> Result<()> {
        let started = Instant::now();
        loop {
            let Err(error) = ready() else { return Ok(()) };
            let exited = self.running(name).is_none();
            if exited || started.elapsed() > limit {
                let text = fs::read_to_string(self.log(name)).unwrap_or_default();
                let lines: Vec<_> = text.lines().collect();
                for line in &lines[lines.len().saturating_sub(15)..] {
                    eprintln!("    | {line}");
                }
                let why = if exited { "exited" } else { "did not become ready" };
                bail!("{name} {why}: {error:#}; log: {}", self.log(name).display());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Stops a server by SIGTERM, and by SIGKILL after a timeout.
    pub fn stop(&self, name: &str) -> Result<()> {
        let signal = |id: u32, signal: &str| Command::new("kill").args([signal, &id.to_string()]).status();
        if let Some(id) = self.running(name) {
            signal(id, "-TERM")?;
            let started = Instant::now();
            while self.running(name).is_some() {
                if started.elapsed() > TERM_TIMEOUT {
                    signal(id, "-KILL")?;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let file = self.file(name);
        if file.exists() {
            fs::remove_file(file)?;
        }
        Ok(())
    }

    /// The names of all servers that were started.
    pub fn names(&self) -> Result<Vec<String>> {
        let names = fs::read_dir(&self.folder)?.filter_map(|entry| {
            let path = entry.ok()?.path();
            let is_process = path.extension().is_some_and(|e| e == "pid");
            is_process
                .then(|| path.file_stem().map(|s| s.to_string_lossy().into_owned()))
                .flatten()
        });
        Ok(names.collect())
    }
}

/// The start time of a process, in clock ticks since boot; `None` for one that has exited or is a zombie.
fn started_at(id: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The second field, the command, may contain anything, so fields are counted from its closing parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if fields.first() == Some(&"Z") {
        return None;
    }
    fields.get(19)?.parse().ok()
}
