//! Runs `seckill-load`, which sends the crowd.
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::screen::Screen;
use super::tool::Tool;

/// One line of the program's output.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Progress(Progress),
    Report(Box<Answers>),
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct Progress {
    pub buyers: u64,
    #[serde(flatten)]
    pub counts: Counts,
    /// Lines for a terminal.
    pub view: String,
}

/// The number of buyers by answer.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Counts {
    pub won: u64,
    pub sold_out: u64,
    pub not_started: u64,
    pub ended: u64,
    pub other: u64,
    pub unanswered: u64,
}

impl Counts {
    pub fn settled(&self) -> u64 {
        self.won + self.sold_out + self.not_started + self.ended + self.other + self.unanswered
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let named = [
            (self.won, "won"),
            (self.sold_out, "sold out"),
            (self.not_started, "not started"),
            (self.ended, "ended"),
            (self.other, "other"),
            (self.unanswered, "unanswered"),
        ];
        let present = named.iter().filter(|(count, _)| *count > 0);
        let parts: Vec<_> = present.map(|(count, name)| format!("{count} {name}")).collect();
        f.write_str(&parts.join(", "))
    }
}

/// The report of `seckill-load`.
#[derive(Debug, Clone, Deserialize)]
pub struct Answers {
    pub buyers: u64,
    pub answered: u64,
    #[serde(flatten)]
    pub counts: Counts,
    pub latency: Latency,
    pub samples: Vec<Sample>,
    pub checks: Vec<Check>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Latency {
    /// The time from sending a request to its answer.
    pub from_send: Quantiles,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Quantiles {
    pub p50_ms: f64,
    pub p99_ms: f64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Sample {
    pub said: String,
    pub buyers: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Check {
    pub what: String,
    pub passed: bool,
}

/// Sends the crowd. Calls `on_progress` a few times a second. `title` is shown above the figures, if stdout is a terminal.
pub fn send(
    load: &Tool,
    args: &[&str],
    screen: &Screen,
    title: impl Fn() -> String,
    mut on_progress: impl FnMut(Progress),
) -> Result<Answers> {
    let command_line = || load.line(args);
    let mut child = load
        .with(["--output", "json"])
        .command(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(command_line)?;
    let stdout = child.stdout.take().context("no output")?;
    let bar = screen.bar(0);
    let mut report = None;
    for line in BufReader::new(stdout).lines() {
        match serde_json::from_str(&line?).with_context(command_line)? {
            Line::Progress(progress) => {
                bar.set_length(progress.buyers);
                bar.set_position(progress.counts.settled());
                bar.set_message(format!("{}\n{}", title(), progress.view));
                on_progress(progress);
            }
            Line::Report(answers) => report = Some(*answers),
        }
    }
    bar.finish_and_clear();
    let status = child.wait()?;
    // Failed checks are in the report. Without a report the program did not run to its end.
    match report {
        Some(report) => Ok(report),
        None => {
            let mut error = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                stderr.read_to_string(&mut error)?;
            }
            bail!("{}: {status}: {}", command_line(), error.trim())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_lines_of_seckill_load_are_parsed() {
        let counts = r#""won":1,"sold_out":2,"not_started":0,"ended":0,"other":0,"unanswered":0"#;
        let progress = format!(r#"{{"progress":{{"buyers":3,"arrived":3,"in_flight":0,{counts},"view":""}}}}"#);
        match serde_json::from_str(&progress).expect("a line") {
            Line::Progress(p) => assert_eq!(p.counts.settled(), 3),
            Line::Report(_) => panic!("unexpected report"),
        }
        let q = r#"{"p50_ms":1.0,"p90_ms":1.0,"p99_ms":2.5,"p999_ms":3.0,"max_ms":3.0}"#;
        let report = format!(
            r#"{{"report":{{"buyers":3,"answered":3,{counts},"latency":{{"from_send":{q},"from_schedule":{q}}},"samples":[],"checks":[{{"what":"x","passed":true}}]}}}}"#
        );
        match serde_json::from_str(&report).expect("a line") {
            Line::Report(r) => assert_eq!((r.latency.from_send.p99_ms, r.checks.len()), (2.5, 1)),
            Line::Progress(_) => panic!("unexpected progress"),
        }
    }
}
