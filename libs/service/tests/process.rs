//! Tests of a whole process: exit code, standard output, signals. Each test runs this test program again as a child
//! process that executes only the test that plays the program.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use clap::Parser;
use seckill_service::Shutdown;
use seckill_service::config::{MysqlArgs, TelemetryArgs};
use std::process::{Command, Output};

const PLAYED: &str = "SECKILL_TEST_PLAYED";

fn play(program: &str, environment: &[(&str, &str)]) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", program, "--nocapture"])
        .env(PLAYED, program)
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn is_played(program: &str) -> bool {
    std::env::var(PLAYED).is_ok_and(|played| played == program)
}

fn kill_myself() {
    let pid = std::process::id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
}

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    telemetry: TelemetryArgs,
    #[command(flatten)]
    mysql: MysqlArgs,
    /// The test harness's own
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _rest: Vec<String>,
}

#[test]
fn program() {
    if is_played("program") {
        let program: Program = seckill_service::parse();
        seckill_service::telemetry::init(&program.telemetry, "played");
        tracing::warn!(url = %program.mysql.mysql_url, "connecting");
        panic!("a bug");
    }
}

#[test]
fn an_invalid_variable_exits_with_2_without_the_secret() {
    let ended = play("program", &[("SECKILL_MYSQL_URL", "mysql://user:hunter2@mysql")]);
    let text = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(2));
    assert!(text.starts_with("error: invalid value for SECKILL_MYSQL_URL"), "{text}");
    assert!(
        text.contains("example:  SECKILL_MYSQL_URL=mysql://user:password@mysql:3306/seckill"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn logs_and_panics_are_json_lines_on_stdout() {
    let ended = play(
        "program",
        &[("SECKILL_MYSQL_URL", "mysql://user:hunter2@mysql/seckill")],
    );
    let text = String::from_utf8(ended.stdout).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("\"level\"")).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines.iter().all(|line| line.ends_with('}')), "{text}");
    assert!(
        lines[0].contains(r#""message":"starting","program":"played""#),
        "{text}"
    );
    assert!(lines[1].contains(r#""url":"mysql://user:***@mysql/seckill""#), "{text}");
    assert!(
        lines[2].contains(r#""level":"ERROR""#) && lines[2].contains("a bug"),
        "{text}"
    );
}

#[test]
fn the_log_can_be_text() {
    let environment = [
        ("SECKILL_MYSQL_URL", "mysql://user@mysql/seckill"),
        ("SECKILL_LOG_FORMAT", "text"),
    ];
    let text = String::from_utf8(play("program", &environment).stdout).unwrap();
    assert!(text.contains("connecting") && !text.contains("\"level\""), "{text}");
}

#[tokio::test]
async fn signalled_once() {
    if is_played("signalled_once") {
        let shutdown = Shutdown::on_signal();
        assert!(!shutdown.is_cancelled());
        kill_myself();
        shutdown.cancelled().await;
        assert!(shutdown.token().is_cancelled());
    }
}

#[tokio::test]
async fn signalled_twice() {
    if is_played("signalled_twice") {
        let shutdown = Shutdown::on_signal();
        kill_myself();
        shutdown.cancelled().await;
        kill_myself();
        std::future::pending::<()>().await;
    }
}

#[test]
fn the_first_signal_begins_the_shutdown() {
    assert!(play("signalled_once", &[]).status.success());
}

#[test]
fn the_second_signal_aborts_the_process() {
    assert_eq!(play("signalled_twice", &[]).status.code(), Some(130));
}
