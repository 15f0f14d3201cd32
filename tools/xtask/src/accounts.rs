//! A release with TLS and an account with few rights for each program: its values, and the accounts at the servers.
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::command::output;
use crate::environment::{Environment, KAFKA_TLS_PORTS, REDIS_PASSWORD, REDIS_TLS_PORT};
use crate::servers::KAFKA_PROGRAM_USERS;
use crate::tools;
use crate::workspace;

/// The Secret with the CA of the servers. The end-to-end tests create it.
const CA_SECRET: &str = "servers-ca";

/// Creates the accounts that do not exist yet, and writes the values, in addition to those of the local environment.
pub fn tls_values(env: &Environment) -> Result<PathBuf> {
    redis(env)?;
    kafka(env)?;
    let (address, [_, kafka_port]) = (&env.node_address, KAFKA_TLS_PORTS);
    let login = |user: &str| format!("sasl.mechanism=SCRAM-SHA-512,sasl.username={user},sasl.password={user}");
    let tls = json!({"caSecret": CA_SECRET});
    let port = |port: u16| json!({"ports": [port]});
    // The users of MySQL have few rights in any case.
    let values = json!({
        "redis": {"url": format!("rediss://seckill:change-me@{address}:{REDIS_TLS_PORT}"), "tls": tls},
        "kafka": {
            "brokers": format!("{address}:{kafka_port}"), "tls": tls,
            "operatorProperties": login("operator"), "apiProperties": login("api"),
            "workerProperties": login("worker"), "migrateProperties": login("migrate"),
        },
        "mysql": {"tls": tls},
        "networkPolicy": {
            "enabled": true,
            "redis": port(REDIS_TLS_PORT), "kafka": port(kafka_port), "mysql": port(env.mysql_port),
        },
    });
    let file = env.state.join("values-tls.json");
    fs::write(&file, serde_json::to_vec_pretty(&values)?).with_context(|| file.display().to_string())?;
    Ok(file)
}

/// The user of examples/redis.acl, and the same without a right that the fence needs.
fn redis(env: &Environment) -> Result<()> {
    let file = workspace::folder()?.join("examples/redis.acl");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let mut words = text.split_whitespace();
    ensure!(words.next() == Some("user"), "{}: not an ACL file", file.display());
    let rules: Vec<_> = words.skip(1).collect();
    for (user, more) in [("seckill", &[][..]), ("without-info", &["-info"])] {
        let mut command = env.sandbox.command(env.servers.join("redis-cli"));
        command.args(["-h", &env.node_address, "-p", &env.redis_port.to_string()]);
        command.args([
            "--no-auth-warning",
            "-a",
            REDIS_PASSWORD,
            "acl",
            "setuser",
            user,
            "reset",
        ]);
        let answer = output(command.args(&rules).args(more))?;
        ensure!(answer.trim() == "OK", "{}: {answer}", file.display());
    }
    Ok(())
}

/// The rights of examples/kafka-acls.sh, for the users that the broker was formatted with.
fn kafka(env: &Environment) -> Result<()> {
    let granted = env.state.join("kafka/granted");
    if granted.exists() {
        return Ok(());
    }
    let libraries = format!("{}/libs/*", tools::get()?.kafka.display());
    let mut command = env.sandbox.command("sh");
    command.arg(workspace::folder()?.join("examples/kafka-acls.sh"));
    command.env("KAFKA_ACLS", "java -Xmx256m org.apache.kafka.tools.AclCommand");
    command.env("CLASSPATH", libraries);
    command.env("BOOTSTRAP", env.kafka_brokers());
    output(&mut command)?;
    Ok(fs::write(granted, KAFKA_PROGRAM_USERS.join("\n"))?)
}
