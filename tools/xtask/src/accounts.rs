//! A release with TLS and an account with few rights for each program: its values, and the accounts at the servers.
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::command::output;
use crate::environment::{Environment, KAFKA_TLS_PORTS, MYSQL_PASSWORD, REDIS_PASSWORD, REDIS_TLS_PORT};
use crate::servers::KAFKA_PROGRAM_USERS;
use crate::tools;
use crate::workspace;

/// The Secret with the CA of the servers. The end-to-end tests create it.
const CA_SECRET: &str = "servers-ca";
/// The programs that have an account of their own.
pub const PROGRAMS: [&str; 4] = KAFKA_PROGRAM_USERS;
/// The password of the file examples/redis.acl.
const REDIS_ACCOUNT_PASSWORD: &str = "change-me";

/// How the programs log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logins {
    First,
    /// After the passwords were replaced. At Kafka, other users have replaced the first ones.
    Replaced,
}

impl Logins {
    pub fn redis_password(self) -> &'static str {
        match self {
            Logins::First => REDIS_ACCOUNT_PASSWORD,
            Logins::Replaced => "replaced",
        }
    }

    pub fn mysql_password(self) -> &'static str {
        match self {
            Logins::First => MYSQL_PASSWORD,
            Logins::Replaced => "replaced",
        }
    }

    /// What follows the name of a program in that of its user of Kafka. The password is the name.
    pub fn kafka_suffix(self) -> &'static str {
        match self {
            Logins::First => "",
            Logins::Replaced => "-2",
        }
    }
}

/// Creates the accounts that do not exist yet.
pub fn create(env: &Environment) -> Result<()> {
    redis(env)?;
    let granted = env.state.join("kafka/granted");
    if !granted.exists() {
        grant_kafka(env, Logins::First)?;
        fs::write(granted, PROGRAMS.join("\n"))?;
    }
    Ok(())
}

/// Writes the values, in addition to those of the local environment.
pub fn tls_values(env: &Environment, logins: Logins) -> Result<PathBuf> {
    let (address, [_, kafka_port]) = (&env.node_address, KAFKA_TLS_PORTS);
    let kafka = |program: &str| {
        let user = format!("{program}{}", logins.kafka_suffix());
        format!("sasl.mechanism=SCRAM-SHA-512,sasl.username={user},sasl.password={user}")
    };
    let mysql = |program: &str| {
        let (password, port) = (logins.mysql_password(), env.mysql_port);
        format!("mysql://{program}:{password}@{address}:{port}/seckill")
    };
    let redis = format!(
        "rediss://seckill:{}@{address}:{REDIS_TLS_PORT}",
        logins.redis_password()
    );
    let tls = json!({"caSecret": CA_SECRET});
    let port = |port: u16| json!({"ports": [port]});
    let values = json!({
        "redis": {"url": redis, "tls": tls},
        "kafka": {
            "brokers": format!("{address}:{kafka_port}"), "tls": tls,
            "operatorProperties": kafka("operator"), "apiProperties": kafka("api"),
            "workerProperties": kafka("worker"), "migrateProperties": kafka("migrate"),
        },
        // The users of MySQL have few rights in any case.
        "mysql": {
            "operatorUrl": mysql("operator"), "apiUrl": mysql("api"),
            "workerUrl": mysql("worker"), "migrateUrl": mysql("migrate"),
            "tls": tls,
        },
        "networkPolicy": {
            "enabled": true,
            "redis": port(REDIS_TLS_PORT), "kafka": port(kafka_port), "mysql": port(env.mysql_port),
        },
    });
    let name = match logins {
        Logins::First => "values-tls.json",
        Logins::Replaced => "values-tls-replaced.json",
    };
    let file = env.state.join(name);
    fs::write(&file, serde_json::to_vec_pretty(&values)?).with_context(|| file.display().to_string())?;
    Ok(file)
}

/// The user of examples/redis.acl, and the same without a right that the fence needs.
pub fn redis(env: &Environment) -> Result<()> {
    let file = workspace::folder()?.join("examples/redis.acl");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let mut words = text.split_whitespace();
    ensure!(words.next() == Some("user"), "{}: not an ACL file", file.display());
    let rules: Vec<_> = words.skip(1).collect();
    for (user, more) in [("seckill", &[][..]), ("without-info", &["-info"])] {
        let user = ["acl", "setuser", user, "reset"];
        redis_cli(env, &[&user[..], &rules, more].concat()).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// Runs a command that answers OK.
pub fn redis_cli(env: &Environment, args: &[&str]) -> Result<()> {
    let mut command = env.sandbox.command(env.servers.join("redis-cli"));
    command.args(["-h", &env.node_address, "-p", &env.redis_port.to_string()]);
    command.args(["--no-auth-warning", "-a", REDIS_PASSWORD]);
    let answer = output(command.args(args))?;
    ensure!(answer.trim() == "OK", "redis-cli {}: {answer}", args.join(" "));
    Ok(())
}

/// The rights of examples/kafka-acls.sh.
pub fn grant_kafka(env: &Environment, logins: Logins) -> Result<()> {
    let mut command = env.sandbox.command("sh");
    command.arg(workspace::folder()?.join("examples/kafka-acls.sh"));
    command.env("KAFKA_ACLS", "java -Xmx256m org.apache.kafka.tools.AclCommand");
    command.env("CLASSPATH", kafka_libraries()?);
    command.env("BOOTSTRAP", env.kafka_brokers());
    command.env("SUFFIX", logins.kafka_suffix());
    output(&mut command).map(drop)
}

/// Changes the configuration of a broker or a user.
pub fn kafka_configs(env: &Environment, args: &[&str]) -> Result<()> {
    let mut command = env.sandbox.command("java");
    command.args(["-Xmx256m", "org.apache.kafka.tools.ConfigCommand", "--alter"]);
    command.args(["--bootstrap-server", &env.kafka_brokers()]);
    command.env("CLASSPATH", kafka_libraries()?);
    output(command.args(args)).map(drop)
}

fn kafka_libraries() -> Result<String> {
    Ok(format!("{}/libs/*", tools::get()?.kafka.display()))
}
