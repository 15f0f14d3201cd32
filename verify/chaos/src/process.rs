//! A child process that the run starts, pauses, resumes and kills. No child outlives this program.
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::setup::Spec;

pub struct Process {
    pub name: String,
    pub spec: Spec,
    log: PathBuf,
    child: Option<Child>,
    /// The peak memory of earlier children of this process, in KiB.
    peak: u64,
}

impl Process {
    pub fn new(name: &str, spec: Spec, logs: &std::path::Path) -> Self {
        Process {
            name: name.to_owned(),
            spec,
            log: logs.join(format!("{name}.log")),
            child: None,
            peak: 0,
        }
    }

    /// Starts the process unless it runs. Call this from a thread that lives as long as the run: the kernel kills the
    /// process when that thread ends.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(&[])
    }

    /// As [`Process::start`], with more arguments for this start only.
    pub fn start_with(&mut self, arguments: &[String]) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        command.args(&self.spec.argv).args(arguments);
        command.envs(&self.spec.env).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        // Ctrl-C at the terminal must reach this program only.
        command.process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("failed to start {}", self.name))?;
        self.child = Some(child);
        Ok(())
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.as_mut().map(Child::try_wait), Some(Ok(None)))
    }

    /// Sends SIGKILL and waits until the process has ended.
    pub fn kill(&mut self) -> Result<()> {
        self.peak = self.peak_kib();
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Sends SIGSTOP: the process keeps its memory and connections, and does nothing.
    pub fn pause(&self) -> Result<()> {
        self.signal("-STOP")
    }

    /// Sends SIGCONT.
    pub fn resume(&self) -> Result<()> {
        self.signal("-CONT")
    }

    /// Copies the data as of one instant, as a power failure would leave it.
    pub fn copy_data(&self) -> Result<()> {
        let (data, copy) = self.data_folders();
        if copy.exists() {
            fs::remove_dir_all(&copy)?;
        }
        self.pause()?;
        let copied = Command::new("cp").arg("-a").args([&data, &copy]).status();
        self.resume()?;
        if !copied?.success() {
            bail!("failed to copy the data of {}", self.name);
        }
        Ok(())
    }

    /// Kills the process. It starts again with the data that was copied.
    pub fn kill_and_restore_data(&mut self) -> Result<()> {
        let (data, copy) = self.data_folders();
        self.kill()?;
        fs::remove_dir_all(&data)?;
        fs::rename(&copy, &data)?;
        Ok(())
    }

    fn data_folders(&self) -> (PathBuf, PathBuf) {
        (self.spec.folder.join("data"), self.spec.folder.join("copy"))
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let Some(child) = &self.child else {
            bail!("{} does not run", self.name)
        };
        let id = child.id().to_string();
        if !Command::new("kill").args([signal, &id]).status()?.success() {
            bail!("{}: kill {signal} {id} failed", self.name);
        }
        Ok(())
    }

    /// The peak resident memory, in KiB.
    pub fn peak_kib(&self) -> u64 {
        let id = self.child.as_ref().map_or(0, Child::id);
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        self.peak.max(now.unwrap_or_default())
    }

    /// The last lines of the log.
    pub fn tail(&self, lines: usize) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // If this fails, the kernel kills the process when this program ends.
        let _ = self.kill();
    }
}
