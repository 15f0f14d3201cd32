//! Flags and environment variables, and the error text of an invalid one.
//!
//! Convention for every argument of every program: `value_name` is an example of a valid value. Help and errors show
//! it. An argument with a secret sets `hide_env_values = true`; then errors never repeat its value.
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, Parser};
use std::error::Error as _;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::{fs, io};

/// The arguments of the program. If one is invalid or missing, it prints the error on stderr and exits with code 2.
pub fn parse<A: Parser>() -> A {
    parse_words(std::env::args_os())
}

/// Like [`parse`], from the given command line.
pub fn parse_words<A: Parser>(words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> A {
    parse_from(words).unwrap_or_else(|refused| refused.exit())
}

/// Like [`parse`], from the given command line (its first word is the name of the program) and the environment.
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

/// The arguments are invalid, or help was requested.
#[derive(Debug, thiserror::Error)]
#[error("{}", .message.clone().unwrap_or_else(|| .error.to_string()))]
pub struct Refused {
    /// Replaces the message of clap where this module knows more.
    message: Option<String>,
    error: clap::Error,
}

impl Refused {
    /// 2, or 0 if help or the version was requested.
    pub fn exit_code(&self) -> i32 {
        self.error.exit_code()
    }

    fn exit(self) -> ! {
        match &self.message {
            Some(message) => eprintln!("{message}"),
            // clap chooses stdout (help, version) or stderr. A failed print is ignored: the terminal is gone.
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
        ErrorKind::ValueValidation | ErrorKind::InvalidValue | ErrorKind::InvalidUtf8 => Some(invalid(args[0], error)),
        _ => None,
    }
}

/// clap identifies an argument in an error by its usage, such as `--log <info>`.
fn find<'a>(command: &'a Command, usage: &str) -> Option<&'a Arg> {
    let here = command.get_arguments().find(|arg| arg.to_string() == usage);
    here.or_else(|| command.get_subcommands().find_map(|sub| find(sub, usage)))
}

fn missing(args: &[&Arg]) -> String {
    let mut text = String::from("error: missing configuration\n");
    for arg in args {
        let _ = writeln!(text, "\n  {}", name(arg));
        if let Some(help) = arg.get_help() {
            let _ = writeln!(text, "    meaning: {help}");
        }
        let _ = writeln!(text, "    example: {}", assignment(arg));
    }
    text
}

fn invalid(arg: &Arg, error: &clap::Error) -> String {
    let mut text = format!("error: invalid value for {}\n\n", name(arg));
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

/// For a test of each program: fails if a Markdown file says something else than the arguments of the program. If the
/// variable UPDATE is set, it writes the file instead.
pub fn check_documentation(file: &str, command: &Command) -> io::Result<()> {
    let page = fs::read_to_string(file)?;
    let expected = documented(&page, command).ok_or_else(|| io::Error::other("no section for this program"))?;
    if std::env::var_os("UPDATE").is_some() {
        return fs::write(file, expected);
    }
    match page == expected {
        true => Ok(()),
        false => Err(io::Error::other(
            "it is out of date; run `UPDATE=1 cargo test --workspace --test configuration_docs`",
        )),
    }
}

/// The page with each program's section replaced by what its arguments say now; `None` if the page has no section for the
/// program. A section is between the lines `<!-- begin NAME -->` and `<!-- end NAME -->`.
fn documented(page: &str, command: &Command) -> Option<String> {
    let (begin, end) = (
        format!("<!-- begin {} -->\n", command.get_name()),
        format!("<!-- end {} -->", command.get_name()),
    );
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}{}\n{end}{after}", table(command)))
}

/// The flags and variables of a program as Markdown: one table for the program and for each subcommand that has any.
fn table(command: &Command) -> String {
    let mut text = String::new();
    add_table(command, command.get_name(), &mut text);
    text
}

fn add_table(command: &Command, title: &str, text: &mut String) {
    let args: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| arg.get_long().is_some() && !arg.is_hide_set())
        .collect();
    if !args.is_empty() {
        let _ = write!(
            text,
            "\n### `{title}`\n\n| variable | flag | default | meaning |\n|---|---|---|---|\n"
        );
    }
    for arg in args {
        let variable = arg
            .get_env()
            .map_or_else(String::new, |name| format!("`{}`", name.to_string_lossy()));
        let flag = arg.get_long().unwrap_or_default();
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let secret = if arg.is_hide_env_values_set() { ". Secret" } else { "" };
        let _ = writeln!(
            text,
            "| {variable} | `--{flag}` | {} | {}{secret} |",
            default(arg),
            help.replace('\\', "\\\\").replace('|', "\\|")
        );
    }
    for subcommand in command.get_subcommands() {
        add_table(subcommand, &format!("{title} {}", subcommand.get_name()), text);
    }
}

/// The default of an argument, or an example of a value if there is none.
fn default(arg: &Arg) -> String {
    if !arg.get_action().takes_values() {
        return "off".into();
    }
    let values: Vec<_> = arg
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy())
        .collect();
    let example = arg.get_value_names().and_then(|names| names.first());
    match (values.join(","), example) {
        (value, _) if !value.is_empty() => format!("`{value}`"),
        (_, Some(example)) if !values.is_empty() => format!("empty; example: `{example}`"),
        (_, Some(example)) if arg.is_required_set() => format!("required; example: `{example}`"),
        (_, Some(example)) => format!("none; example: `{example}`"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ArgAction;

    #[test]
    fn table_names_variable_flag_default_and_meaning() {
        let command = Command::new("program").subcommand(
            Command::new("run")
                .arg(Arg::new("a").long("a").env("A").default_value("1").help("A | B"))
                .arg(
                    Arg::new("b")
                        .long("b")
                        .env("B")
                        .required(true)
                        .value_name("x:1")
                        .hide_env_values(true)
                        .help("C"),
                )
                .arg(Arg::new("c").long("c").value_name("y").help("D"))
                .arg(Arg::new("d").long("d").action(ArgAction::SetTrue).help("E"))
                .arg(Arg::new("position")),
        );
        assert_eq!(
            documented("x\n<!-- begin program -->\nold\n<!-- end program -->\ny\n", &command).unwrap(),
            "x\n<!-- begin program -->\n\n### `program run`\n\n\
             | variable | flag | default | meaning |\n|---|---|---|---|\n\
             | `A` | `--a` | `1` | A \\| B |\n\
             | `B` | `--b` | required; example: `x:1` | C. Secret |\n\
             |  | `--c` | none; example: `y` | D |\n\
             |  | `--d` | off | E |\n\
             \n<!-- end program -->\ny\n"
        );
        assert_eq!(documented("no section", &command), None);
    }
}
