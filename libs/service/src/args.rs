//! Flags and environment variables, and what a person is told about a wrong one.
//!
//! Convention for every argument of every program: `value_name` is an example of a good value. Help and errors show it.
//! An argument that holds a secret sets `hide_env_values = true`; then its value is never repeated.
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, Parser};
use std::error::Error as _;
use std::ffi::OsString;
use std::fmt::Write as _;

/// The program's arguments. Does not return if one is wrong or missing: says so on stderr and exits with code 2.
pub fn parse<A: Parser>() -> A {
    parse_from(std::env::args_os()).unwrap_or_else(|refused| refused.exit())
}

/// As [`parse`], from the given command line (its first word is the program's name) and the environment.
pub fn parse_from<A: Parser>(words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<A, Refused> {
    A::try_parse_from(words).map_err(|error| {
        let mut command = A::command();
        command.build();
        Refused {
            message: explain(&command, &error),
            error,
        }
    })
}

/// The arguments were not understood, or help was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{}", .message.clone().unwrap_or_else(|| .error.to_string()))]
pub struct Refused {
    /// Ours where we know more than clap does.
    message: Option<String>,
    error: clap::Error,
}

impl Refused {
    /// 2, or 0 if help or the version was asked for.
    pub fn exit_code(&self) -> i32 {
        self.error.exit_code()
    }

    fn exit(self) -> ! {
        match &self.message {
            Some(message) => eprintln!("{message}"),
            // clap knows whether this belongs on stdout (help, version) or stderr. If the terminal is gone, nobody reads it.
            None => drop(self.error.print()),
        }
        std::process::exit(self.exit_code())
    }
}

fn explain(command: &Command, error: &clap::Error) -> Option<String> {
    let named: Vec<&String> = match error.get(ContextKind::InvalidArg)? {
        ContextValue::String(name) => vec![name],
        ContextValue::Strings(names) => names.iter().collect(),
        _ => return None,
    };
    let args: Vec<&Arg> = named.iter().filter_map(|name| find(command, name)).collect();
    if args.is_empty() || args.len() < named.len() {
        return None;
    }
    match error.kind() {
        ErrorKind::MissingRequiredArgument => Some(missing(&args)),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue | ErrorKind::InvalidUtf8 => Some(wrong(args[0], error)),
        _ => None,
    }
}

/// clap names an argument in an error by its usage, such as `--log <info>`.
fn find<'a>(command: &'a Command, usage: &str) -> Option<&'a Arg> {
    let here = command.get_arguments().find(|arg| arg.to_string() == usage);
    here.or_else(|| command.get_subcommands().find_map(|sub| find(sub, usage)))
}

fn missing(args: &[&Arg]) -> String {
    let mut text = String::from("error: missing configuration\n");
    for arg in args {
        let _ = writeln!(text, "\n  {}", name(arg));
        if let Some(help) = arg.get_help() {
            let _ = writeln!(text, "    what it is: {help}");
        }
        let _ = writeln!(text, "    example:    {}", assignment(arg));
    }
    text
}

fn wrong(arg: &Arg, error: &clap::Error) -> String {
    let mut text = format!("error: wrong value for {}\n\n", name(arg));
    if let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue)
        && !arg.is_hide_env_values_set()
    {
        let _ = writeln!(text, "    found:    {value:?}");
    }
    let expected = match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(reason), _) => reason.to_string(),
        (None, Some(ContextValue::Strings(values))) => format!("one of {}", values.join(", ")),
        (None, _) => "a value".to_owned(),
    };
    let _ = writeln!(text, "    expected: {expected}");
    let _ = writeln!(text, "    example:  {}", assignment(arg));
    text
}

fn name(arg: &Arg) -> String {
    match (arg.get_env(), arg.get_long()) {
        (Some(variable), Some(flag)) => format!("{} (or --{flag})", variable.to_string_lossy()),
        (Some(variable), None) => variable.to_string_lossy().into_owned(),
        (None, Some(flag)) => format!("--{flag}"),
        (None, None) => arg.to_string(),
    }
}

fn assignment(arg: &Arg) -> String {
    let example = arg
        .get_value_names()
        .and_then(|names| names.first())
        .map_or("...", |name| name.as_str());
    match (arg.get_env(), arg.get_long()) {
        (Some(variable), _) => format!("{}={example}", variable.to_string_lossy()),
        (None, Some(flag)) => format!("--{flag} {example}"),
        (None, None) => example.to_owned(),
    }
}
