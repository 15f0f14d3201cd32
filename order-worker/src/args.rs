//! Flags and environment variables.
use std::ffi::OsString;

use clap::Parser;
use seckill_service::args::parse_from;
use seckill_service::config::{
    AdminArgs, InstanceArgs, KafkaArgs, MysqlArgs, MysqlTlsArgs, MysqlUrl, ServerArgs, TelemetryArgs, TraceArgs,
};

/// Folds the order log into MySQL
#[derive(Debug, Parser)]
#[command(name = "order-worker", version, next_line_help = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Store the order log in MySQL. This is the default without a subcommand
    Run(Box<RunArgs>),
    /// Bring the schema of MySQL up to date and, with --create-topic, create the topic. Safe to repeat
    Migrate(Box<MigrateArgs>),
    /// Show records that could not be stored, and store them once the cause is removed
    Quarantine(QuarantineArgs),
}

#[derive(Debug, clap::Args)]
pub struct QuarantineArgs {
    #[command(flatten)]
    pub mysql: MysqlArgs,
    #[command(subcommand)]
    pub command: QuarantineCommand,
}

#[derive(Debug, clap::Subcommand)]
pub enum QuarantineCommand {
    /// One line per record: partition and offset, sale, number of promised orders, reason
    List,
    /// Show the reason and the record
    Show(QuarantinedAt),
    /// Store the record as if it were read now. If that fails, nothing changes
    Replay(QuarantinedAt),
    /// Remove the record. Refused if it promises orders to buyers
    Dismiss(QuarantinedAt),
}

#[derive(Debug, clap::Args)]
pub struct QuarantinedAt {
    /// Partition, as shown by `list`
    pub partition: u32,
    /// Offset, as shown by `list`
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    pub offset: i64,
}

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
    #[command(flatten)]
    pub admin: AdminArgs,
    #[command(flatten)]
    pub servers: ServerArgs,
    #[command(flatten)]
    pub instance: InstanceArgs,
    #[command(flatten)]
    pub traces: TraceArgs,

    /// Consumer group of the workers. Workers of the same group share the partitions
    #[arg(long, env = "SECKILL_WORKER_GROUP", default_value = "seckill-order-worker", value_name = "seckill-order-worker",
        value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub group: String,
}

#[derive(Debug, clap::Args)]
pub struct MigrateArgs {
    #[command(flatten)]
    pub telemetry: TelemetryArgs,

    /// URL of MySQL, with a user that may create and change tables
    #[arg(
        long,
        env = "SECKILL_MIGRATE_MYSQL_URL",
        hide_env_values = true,
        value_name = "mysql://admin:password@mysql:3306/seckill"
    )]
    pub migrate_mysql_url: MysqlUrl,
    #[command(flatten)]
    pub mysql_tls: MysqlTlsArgs,

    #[command(flatten)]
    pub kafka: KafkaArgs,

    /// Also create the topic of the order log if it does not exist
    #[arg(long)]
    pub create_topic: bool,

    /// Partitions of a new topic. It limits the number of workers that share the work
    #[arg(long, env = "SECKILL_TOPIC_PARTITIONS", default_value_t = 8, value_name = "8",
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub topic_partitions: u32,

    /// Replicas of a new topic
    #[arg(long, env = "SECKILL_TOPIC_REPLICATION", default_value_t = 3, value_name = "3",
        value_parser = clap::value_parser!(u32).range(1..=100))]
    pub topic_replication: u32,

    /// In-sync replicas that must have a record before Kafka acknowledges it
    #[arg(long, env = "SECKILL_TOPIC_MIN_INSYNC", default_value_t = 2, value_name = "2",
        value_parser = clap::value_parser!(u32).range(1..=100))]
    pub topic_min_insync: u32,

    /// Time limit for the whole command, including waiting for servers, in seconds
    #[arg(
        long,
        env = "SECKILL_MIGRATE_TIMEOUT_SECONDS",
        default_value_t = 300,
        value_name = "300"
    )]
    pub timeout_seconds: u64,
}

impl Args {
    /// The arguments of this process. Does not return if one is wrong.
    pub fn parse() -> Self {
        parse_from(with_default_command(std::env::args_os().collect())).unwrap_or_else(|refused| {
            match refused.exit_code() {
                0 => print!("{refused}"), // help was asked for
                _ => eprintln!("{refused}"),
            }
            std::process::exit(refused.exit_code())
        })
    }
}

/// Inserts `run` if the command line has no subcommand.
fn with_default_command(mut words: Vec<OsString>) -> Vec<OsString> {
    let first = words.get(1).and_then(|word| word.to_str()).unwrap_or("--");
    let asks_for_help_or_version = matches!(first, "-h" | "--help" | "-V" | "--version");
    if first.starts_with('-') && !asks_for_help_or_version {
        words.insert(1.min(words.len()), "run".into());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn run_is_the_default_subcommand() {
        for (given, expected) in [
            ("order-worker", "order-worker run"),
            ("order-worker --group g", "order-worker run --group g"),
            ("order-worker run", "order-worker run"),
            (
                "order-worker migrate --create-topic",
                "order-worker migrate --create-topic",
            ),
            ("order-worker --help", "order-worker --help"),
        ] {
            assert_eq!(with_default_command(words(given)), words(expected));
        }
    }

    #[test]
    fn invalid_values_are_named() {
        let servers = "--kafka-brokers k:1 --migrate-mysql-url mysql://u:p@h/d";
        for (wrong, named) in [
            ("--topic-partitions 0", "--topic-partitions"),
            ("--topic-min-insync x", "--topic-min-insync"),
            ("--timeout-seconds soon", "--timeout-seconds"),
        ] {
            let line = words(&format!("order-worker migrate {servers} {wrong}"));
            let refused = parse_from::<Args>(line).expect_err(wrong);
            assert_eq!(refused.exit_code(), 2);
            assert!(refused.to_string().contains(named), "{refused}");
        }
        let refused = parse_from::<Args>(words("order-worker run --mysql-url redis://x")).expect_err("no URL of MySQL");
        assert!(refused.to_string().contains("SECKILL_MYSQL_URL"), "{refused}");
    }
}
