//! A process under our control: started, killed, stopped, started again. None of them outlives this one.
use std::fs::File;
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
    /// The most memory that an earlier life of it had, in KiB.
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

    /// Starts it unless it runs. Call it from a thread that lives as long as the run: when that thread ends, the kernel
    /// kills the process.
    pub fn start(&mut self) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(&self.spec.argv);
        command.envs(&self.spec.env).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        // A Ctrl-C at the terminal is for us alone.
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("can't start {}", self.name))?;
        self.child = Some(child);
        Ok(())
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.as_mut().map(Child::try_wait), Some(Ok(None)))
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.peak = self.peak_kib();
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGSTOP: it is still there, and does nothing.
    pub fn stop(&self) -> Result<()> {
        self.signal("-STOP")
    }

    /// SIGCONT.
    pub fn go_on(&self) -> Result<()> {
        self.signal("-CONT")
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

    /// The most memory that it had resident, in KiB.
    pub fn peak_kib(&self) -> u64 {
        let id = self.child.as_ref().map_or(0, Child::id);
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        self.peak.max(now.unwrap_or_default())
    }

    /// The last lines that it wrote.
    pub fn tail(&self, lines: usize) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What fails here, the kernel does when we are gone.
        let _ = self.kill();
    }
}
