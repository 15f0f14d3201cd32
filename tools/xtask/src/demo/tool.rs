//! Programs that the demo drives.
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A program and how it is started: in a network namespace, in another root, in a pod.
#[derive(Debug, Clone)]
pub struct Tool {
    argv: Vec<String>,
    env: Vec<(String, String)>,
}

impl Tool {
    /// `argv` has at least the program's name.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Tool {
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
        }
    }

    /// The same with more arguments.
    pub fn with<S: Into<String>>(&self, args: impl IntoIterator<Item = S>) -> Self {
        let mut tool = self.clone();
        tool.argv.extend(args.into_iter().map(Into::into));
        tool
    }

    pub fn with_env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).args(args).stdin(Stdio::null());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// What it prints.
    pub fn text(&self, args: &[&str]) -> Result<String> {
        self.fed(args, None)
    }

    /// What it prints, given a standard input.
    pub fn fed(&self, args: &[&str], input: Option<&str>) -> Result<String> {
        let what = || self.line(args);
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().with_context(what)?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            stdin.write_all(input.as_bytes()).with_context(what)?;
        }
        let output = child.wait_with_output().with_context(what)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{}: {}: {}", what(), output.status, said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// As a person would type it.
    pub fn line(&self, args: &[&str]) -> String {
        let words = self.argv.iter().map(String::as_str).chain(args.iter().copied());
        words.map(quoted).collect::<Vec<_>>().join(" ")
    }
}

impl From<&Command> for Tool {
    fn from(command: &Command) -> Self {
        let text = |s: &std::ffi::OsStr| s.to_string_lossy().into_owned();
        Tool {
            argv: std::iter::once(command.get_program())
                .chain(command.get_args())
                .map(text)
                .collect(),
            env: command
                .get_envs()
                .filter_map(|(name, value)| Some((text(name), text(value?))))
                .collect(),
        }
    }
}

fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=@,+%".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tool_prints_is_its_text() {
        let text = Tool::new(["cat"]).fed(&[], Some("hello")).expect("cat");
        assert_eq!(text, "hello");
    }

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let tool = Tool::new(["sh", "-c"]);
        let error = tool
            .text(&["echo no such thing >&2; exit 3"])
            .expect_err("exit 3")
            .to_string();
        assert!(error.contains("no such thing") && error.contains("3"), "{error}");
    }

    #[test]
    fn a_line_can_be_pasted_into_a_shell() {
        let line = Tool::new(["mysql"]).line(&["-e", "SELECT 'a b'"]);
        assert_eq!(line, r"mysql -e 'SELECT '\''a b'\'''");
    }
}
