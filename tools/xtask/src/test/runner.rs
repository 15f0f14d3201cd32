//! Runs test programs.
use std::io::{BufRead, BufReader, IsTerminal};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::count::Count;
use crate::cache::seconds;
use crate::command::shown;
use crate::workspace;

/// Time limit for one test command when nobody is at a terminal. It is several times what any of them takes.
const UNATTENDED_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Runs a test command, shows its output, and adds up its results.
pub fn counted(command: &mut Command, count: &mut Count) -> Result<()> {
    let attended = std::io::stdin().is_terminal();
    command
        .current_dir(workspace::folder()?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if !attended {
        // A process group, so that all its processes can be killed together. At a terminal, Ctrl-C must reach them.
        command.process_group(0);
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("failed to run {}", shown(command)))?;
    let output = child.stdout.take().context("standard output is not a pipe")?;
    let (finished, has_finished) = mpsc::channel::<()>();
    let group = format!("-{}", child.id());
    let watchdog = thread::spawn(move || {
        let timed_out = !attended && has_finished.recv_timeout(UNATTENDED_TIMEOUT) == Err(RecvTimeoutError::Timeout);
        if timed_out {
            // This fails if all of them have just exited.
            let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        }
        timed_out
    });
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        count.add(&line);
    }
    let status = child.wait()?;
    drop(finished);
    if watchdog.join().is_ok_and(|timed_out| timed_out) {
        bail!("{} was killed after {}", shown(command), seconds(UNATTENDED_TIMEOUT));
    }
    if !status.success() {
        bail!("{} failed with {status}", shown(command));
    }
    Ok(())
}
