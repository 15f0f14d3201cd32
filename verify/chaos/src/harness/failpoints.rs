//! Fail points: a file in a program's folder makes the program abort or stop at a named place in its code. The program
//! writes `<name>.reached` when it gets there.
use std::fs;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

use super::{Harness, Target};
use crate::process::Process;

/// Time limit for a program to reach a fail point.
const REACH_TIMEOUT: Duration = Duration::from_secs(40);

/// What a program does at a fail point.
#[derive(Debug, Clone, Copy)]
pub enum FailpointAction {
    Abort,
    /// The process stops itself, as SIGSTOP would.
    Stop,
    /// The task waits until [`Harness::release_failpoints`]. All else in the process goes on, such as its lease.
    Wait,
}

impl FailpointAction {
    fn word(self) -> &'static str {
        match self {
            FailpointAction::Abort => "abort",
            FailpointAction::Stop => "stop",
            FailpointAction::Wait => "wait",
        }
    }
}

impl Harness {
    /// Arms a fail point in both processes of a program. [`Harness::wait_for_failpoint`] disarms the slower one.
    pub fn arm_failpoint(&mut self, target: Target, name: &str, action: FailpointAction) -> Result<()> {
        self.armed_failpoints.insert(name.to_owned());
        for process in self.both(target) {
            let _ = fs::remove_file(process.spec.folder.join(format!("{name}.reached")));
            fs::write(process.spec.folder.join(name), action.word())?;
        }
        Ok(())
    }

    /// Waits until one of the two processes reaches the fail point, and disarms the other one. Returns which.
    pub async fn wait_for_failpoint(&mut self, target: Target, name: &str) -> Result<usize> {
        self.wait_for_failpoint_within(target, name, REACH_TIMEOUT).await
    }

    pub async fn wait_for_failpoint_within(&mut self, target: Target, name: &str, limit: Duration) -> Result<usize> {
        let started = Instant::now();
        loop {
            for (which, process) in self.both(target).iter().enumerate() {
                if process.spec.folder.join(format!("{name}.reached")).exists() {
                    self.disarm_failpoints();
                    return Ok(which);
                }
            }
            if started.elapsed() > limit {
                self.disarm_failpoints();
                bail!("no process reached {name}");
            }
            sleep(Duration::from_millis(5)).await;
            if started.elapsed().as_millis() % 200 < 10 {
                self.restart_programs()?;
            }
        }
    }

    pub async fn hit_failpoint(&mut self, target: Target, name: &str, action: FailpointAction) -> Result<usize> {
        self.arm_failpoint(target, name, action)?;
        self.wait_for_failpoint(target, name).await
    }

    /// The files of broken rules stay: a mutant breaks its rule for the whole run.
    pub fn disarm_failpoints(&mut self) {
        for name in std::mem::take(&mut self.armed_failpoints) {
            for process in self.programs() {
                let _ = fs::remove_file(process.spec.folder.join(&name));
            }
        }
    }

    /// Lets every task go on that waits at a fail point.
    pub fn release_failpoints(&self) -> Result<()> {
        for process in self.programs() {
            for entry in fs::read_dir(&process.spec.folder)?.flatten() {
                if entry.path().extension().is_some_and(|extension| extension == "reached") {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }

    fn both(&self, target: Target) -> &[Process; 2] {
        match target {
            Target::Api => &self.api,
            Target::Operator => &self.operator,
            _ => &self.worker,
        }
    }
}
