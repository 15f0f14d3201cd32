//! What is downloaded or built once for this machine, and the steps that do it.
use std::fs::{self, File};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// The folder for downloads and builds: `SECKILL_CACHE`, else `~/.cache/seckill`.
pub fn folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("SECKILL_CACHE") {
        return Ok(folder.into());
    }
    let home = std::env::var_os("HOME").context("HOME is not set; set it, or SECKILL_CACHE to a folder")?;
    Ok(Path::new(&home).join(".cache/seckill"))
}

/// Something in the cache. It is there or not there, never half: it is made beside its place and then renamed.
pub struct Item {
    /// Part of the folder's name, with the version, so that another version is another item.
    pub name: String,
    /// What a person reads while it is made.
    pub what: String,
}

impl Item {
    /// Its folder, made by `make` in a folder to be renamed if it is not there yet.
    pub fn get(&self, make: impl FnOnce(&Path, &Log) -> Result<()>) -> Result<PathBuf> {
        let place = folder()?.join(&self.name);
        if place.exists() {
            return Ok(place);
        }
        let half = folder()?.join(format!("{}.half", self.name));
        if half.exists() {
            fs::remove_dir_all(&half)?;
        }
        fs::create_dir_all(&half)?;
        step(&self.what, &self.name, |log| make(&half, log))?;
        fs::rename(&half, &place)?;
        Ok(place)
    }
}

/// Where the output of a step goes.
pub struct Log(PathBuf);

impl Log {
    /// Runs a command to its end; its output goes into the log.
    pub fn run(&self, command: &mut Command) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(&self.0)?;
        use std::io::Write;
        writeln!(file, "$ {}", shown(command))?;
        let status = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .with_context(|| format!("can't run {}", command.get_program().display()))?;
        if !status.success() {
            bail!("{} ended with {status}", shown(command));
        }
        Ok(())
    }
}

/// Does one step, showing that it goes on and how long it took; the tail of its log if it fails.
pub fn step<T>(what: &str, name: &str, work: impl FnOnce(&Log) -> Result<T>) -> Result<T> {
    let logs = folder()?.join("logs");
    fs::create_dir_all(&logs)?;
    let log = Log(logs.join(format!("{name}.log")));
    File::create(&log.0)?;
    let bar = if std::io::stderr().is_terminal() {
        let bar = ProgressBar::new_spinner().with_message(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    } else {
        eprintln!("  … {what}");
        ProgressBar::hidden()
    };
    let begun = Instant::now();
    let done = work(&log);
    bar.finish_and_clear();
    match done {
        Ok(done) => {
            eprintln!("  ✓ {what} ({})", seconds(begun.elapsed()));
            Ok(done)
        }
        Err(error) => {
            eprintln!("  ✗ {what} ({})", seconds(begun.elapsed()));
            let text = fs::read_to_string(&log.0).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(15)..] {
                eprintln!("    | {line}");
            }
            Err(error.context(format!("{what} failed; the whole log: {}", log.0.display())))
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

/// A command as a person would type it.
pub fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

/// Runs a command and gives what it prints.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("can't run {}", shown(command)))?;
    if !output.status.success() {
        bail!(
            "{} ended with {}: {}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
