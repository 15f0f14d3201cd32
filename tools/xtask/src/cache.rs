//! Downloads and builds that are kept on this machine, and the steps that make them.
use std::fs::{self, File};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::command::shown;

/// The folder for downloads and builds: `SECKILL_CACHE`, else `~/.cache/seckill`.
pub fn folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("SECKILL_CACHE") {
        return Ok(folder.into());
    }
    let home = std::env::var_os("HOME").context("HOME is not set; set it, or SECKILL_CACHE to a folder")?;
    Ok(Path::new(&home).join(".cache/seckill"))
}

/// A folder in the cache. It is created under another name and then renamed, so it is either complete or absent.
pub struct Item {
    /// The name of the folder. It contains the version, so that another version is another item.
    pub name: String,
    /// The title of the step that creates it.
    pub title: String,
}

impl Item {
    /// Where the item is, or will be.
    pub fn folder(&self) -> Result<PathBuf> {
        Ok(folder()?.join(&self.name))
    }

    /// Returns the folder. If it does not exist, `create` fills it first.
    pub fn get(&self, create: impl FnOnce(&Path, &Log) -> Result<()>) -> Result<PathBuf> {
        let complete = self.folder()?;
        if complete.exists() {
            return Ok(complete);
        }
        let partial = folder()?.join(format!("{}.half", self.name));
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir_all(&partial)?;
        step(&self.title, &self.name, |log| create(&partial, log))?;
        fs::rename(&partial, &complete)?;
        Ok(complete)
    }
}

/// The log file of a step.
pub struct Log(PathBuf);

impl Log {
    /// Runs a command until it exits, with its output in the log.
    pub fn run(&self, command: &mut Command) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(&self.0)?;
        use std::io::Write;
        writeln!(file, "$ {}", shown(command))?;
        let status = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .with_context(|| format!("failed to run {}", command.get_program().display()))?;
        if !status.success() {
            bail!("{} failed with {status}", shown(command));
        }
        Ok(())
    }
}

/// Runs one step. Shows its progress and duration, and the end of its log if it fails.
pub fn step<T>(title: &str, name: &str, work: impl FnOnce(&Log) -> Result<T>) -> Result<T> {
    let logs = folder()?.join("logs");
    fs::create_dir_all(&logs)?;
    let log = Log(logs.join(format!("{name}.log")));
    File::create(&log.0)?;
    let bar = if std::io::stderr().is_terminal() {
        let bar = ProgressBar::new_spinner().with_message(title.to_owned());
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    } else {
        eprintln!("  … {title}");
        ProgressBar::hidden()
    };
    let started = Instant::now();
    let result = work(&log);
    bar.finish_and_clear();
    match result {
        Ok(value) => {
            eprintln!("  ✓ {title} ({})", seconds(started.elapsed()));
            Ok(value)
        }
        Err(error) => {
            eprintln!("  ✗ {title} ({})", seconds(started.elapsed()));
            let text = fs::read_to_string(&log.0).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(15)..] {
                eprintln!("    | {line}");
            }
            Err(error.context(format!("{title} failed; log: {}", log.0.display())))
        }
    }
}

pub fn seconds(duration: Duration) -> String {
    let s = duration.as_secs();
    if s >= 60 {
        format!("{} min {:02} s", s / 60, s % 60)
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}
