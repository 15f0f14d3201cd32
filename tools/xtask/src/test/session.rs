//! The session of docs/demo.md, word for word: its commands run in a shell of the environment after `cargo xtask demo --keep`, and
//! print what the page shows. `UPDATE=1` writes what they print into the page.
use std::fs;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};

use crate::environment::Environment;
use crate::{demo, down, workspace};

const PAGE: &str = "docs/demo.md";
const HEADING: &str = "## A session\n";
/// The shell prints it after the output of each command.
const MARK: &str = "--- end of command";

pub fn check() -> Result<()> {
    // A sale runs once, so its name would be another one in an environment that has run it.
    down::down()?;
    let result = demo::keep_small().and_then(|()| follow());
    result.and(down::down())
}

fn follow() -> Result<()> {
    let file = workspace::folder()?.join(PAGE);
    let page = fs::read_to_string(&file)?;
    let start = page.find(HEADING).context("no session")? + HEADING.len();
    let end = page[start..].find("\n## ").map_or(page.len(), |end| start + end);
    let steps = steps(&page[start..end]);
    ensure!(!steps.is_empty(), "{PAGE}: the session has no command");
    let printed = printed(&steps)?;
    if std::env::var_os("UPDATE").is_some() {
        let session = with_outputs(&page[start..end], &printed);
        return Ok(fs::write(file, [&page[..start], &session, &page[end..]].concat())?);
    }
    for (step, printed) in steps.iter().zip(&printed) {
        let (shown, found) = (masked(&step.output), masked(printed));
        ensure!(
            shown == found,
            "{PAGE}: {}\nshown:\n{shown}\nprinted:\n{found}",
            step.command
        );
    }
    Ok(())
}

/// A command of the page, and what the page shows below it.
#[derive(Debug, PartialEq)]
struct Step {
    command: String,
    output: String,
}

/// The lines of the blocks of type console.
fn steps(session: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in session.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap_or_default();
        for line in block.lines() {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step {
                    command: command.to_owned(),
                    output: String::new(),
                }),
                (None, Some(step)) => step.output += &format!("{line}\n"),
                (None, None) => {}
            }
        }
    }
    steps
}

/// Runs all commands in one shell, which ends at the first that fails. Returns what each prints.
fn printed(steps: &[Step]) -> Result<Vec<String>> {
    let env = Environment::load()?;
    let commands = steps
        .iter()
        .map(|step| format!("{}\necho; echo '{MARK}'\n", step.command));
    let script: String = commands.collect();
    let mut shell = env.command("bash");
    shell.args(["-euo", "pipefail", "-c", &script]).env("PATH", env.path());
    let output = shell.stdin(Stdio::null()).output().context("bash")?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!(
            "{}: {printed}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let outputs = printed.split(MARK).take(steps.len());
    Ok(outputs.map(|output| output.trim().to_owned()).collect())
}

/// The session with other outputs.
fn with_outputs(session: &str, printed: &[String]) -> String {
    let mut printed = printed.iter();
    let mut lines = Vec::new();
    let mut in_console = false;
    for line in session.lines() {
        let is_command = in_console && line.starts_with("$ ");
        match line {
            "```console" => in_console = true,
            "```" => in_console = false,
            _ if in_console && !is_command => continue,
            _ => {}
        }
        lines.push(line.to_owned());
        if is_command {
            lines.extend(printed.next().filter(|output| !output.is_empty()).cloned());
        }
    }
    lines.join("\n") + "\n"
}

/// Without what is another one each time: times, ids, order numbers.
fn masked(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-:.+".contains(c);
    let mut masked = String::new();
    for line in text.trim().lines() {
        let mut rest = line.trim_end();
        while !rest.is_empty() {
            let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(length);
            let varies = word.len() >= 8 && word.contains(|c: char| c.is_ascii_digit());
            masked += if varies { "#" } else { word };
            let separators = after.find(is_part).unwrap_or(after.len());
            masked += &after[..separators];
            rest = &after[separators..];
        }
        masked.push('\n');
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &str =
        "Buy:\n\n```console\n$ curl -s $SALE\n{\"left\":29}\n$ SALE=1\n```\n\nThen\n\n```sh\n$ no command\n```\n";

    #[test]
    fn steps_are_commands_with_their_outputs() {
        let step = |command: &str, output: &str| Step {
            command: command.into(),
            output: output.into(),
        };
        assert_eq!(
            steps(SESSION),
            [step("curl -s $SALE", "{\"left\":29}\n"), step("SALE=1", "")]
        );
    }

    #[test]
    fn outputs_replace_those_of_the_page() {
        let updated = with_outputs(SESSION, &["{\"left\":28}".into(), String::new()]);
        assert_eq!(updated, SESSION.replace("29", "28"));
    }

    #[test]
    fn times_and_order_numbers_are_masked_and_counts_are_not() {
        let of = |text: &str| masked(text).trim().to_owned();
        assert_eq!(
            of(r#"{"order_no":"1AB2C-3DE4F","left":29}"#),
            r##"{"order_no":"#","left":29}"##
        );
        assert_eq!(of("2026-11-28T13:00:00Z\tplaced"), "#\tplaced");
    }
}
