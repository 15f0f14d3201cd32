//! The programs that the demo runs.
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A program and how it is started, for example in a network namespace or in a pod.
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

    /// The same program with more arguments.
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

    /// Runs the program and returns its standard output.
    pub fn text(&self, args: &[&str]) -> Result<String> {
        self.text_with_input(args, None)
    }

    /// Runs the program with a standard input and returns its standard output.
    pub fn text_with_input(&self, args: &[&str], input: Option<&str>) -> Result<String> {
        let command_line = || self.line(args);
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().with_context(command_line)?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            stdin.write_all(input.as_bytes()).with_context(command_line)?;
        }
        let output = child.wait_with_output().with_context(command_line)?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("{}: {}: {}", command_line(), output.status, error.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The command line as a person would type it.
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
    fn text_is_the_standard_output() {
        let text = Tool::new(["cat"]).text_with_input(&[], Some("hello")).expect("cat");
        assert_eq!(text, "hello");
    }

    #[test]
    fn failure_names_the_command_and_its_error_output() {
        let tool = Tool::new(["sh", "-c"]);
        let error = tool
            .text(&["echo no such thing >&2; exit 3"])
            .expect_err("exit 3")
            .to_string();
        assert!(error.contains("no such thing") && error.contains("3"), "{error}");
    }

    #[test]
    fn command_line_can_be_pasted_into_a_shell() {
        let line = Tool::new(["mysql"]).line(&["-e", "SELECT 'a b'"]);
        assert_eq!(line, r"mysql -e 'SELECT '\''a b'\'''");
    }
}
