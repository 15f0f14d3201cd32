//! Replaces passwords and certificates at the running servers, by the steps of docs/installation.md, "Rotation". The
//! end-to-end tests use it.
use std::fs;

use anyhow::Result;
use clap::ValueEnum;

use crate::accounts::{Logins, PROGRAMS, grant_kafka, kafka_configs, redis, redis_cli};
use crate::command::output;
use crate::environment::{Environment, MYSQL_PASSWORD};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rotation {
    /// New passwords beside the old ones; at Kafka, new users
    AddPasswords,
    /// Only the new passwords
    RemoveOldPasswords,
    /// Certificates that another CA has signed
    NewCertificates,
    /// What the servers had at first
    Reset,
}

pub fn rotate(env: &Environment, rotation: Rotation) -> Result<()> {
    match rotation {
        Rotation::AddPasswords => add_passwords(env),
        Rotation::RemoveOldPasswords => remove_passwords(env),
        Rotation::NewCertificates => next_certificates(env),
        Rotation::Reset => reset(env),
    }
}

fn add_passwords(env: &Environment) -> Result<()> {
    let new = Logins::Replaced;
    redis_cli(
        env,
        &["acl", "setuser", "seckill", &format!(">{}", new.redis_password())],
    )?;
    let password = new.mysql_password();
    let alter = |user: &str| format!("ALTER USER '{user}'@'%' IDENTIFIED BY '{password}' RETAIN CURRENT PASSWORD;");
    mysql(env, &PROGRAMS.map(alter).concat())?;
    add_kafka_users(env, new)?;
    grant_kafka(env, new)
}

fn remove_passwords(env: &Environment) -> Result<()> {
    let old = Logins::First;
    redis_cli(
        env,
        &["acl", "setuser", "seckill", &format!("<{}", old.redis_password())],
    )?;
    let discard = |user: &str| format!("ALTER USER '{user}'@'%' DISCARD OLD PASSWORD;");
    mysql(env, &PROGRAMS.map(discard).concat())?;
    alter_kafka_users(env, old, |_| ["--delete-config", "SCRAM-SHA-512"].map(String::from))
}

fn add_kafka_users(env: &Environment, logins: Logins) -> Result<()> {
    alter_kafka_users(env, logins, |user| {
        ["--add-config".into(), format!("SCRAM-SHA-512=[password={user}]")]
    })
}

fn alter_kafka_users(env: &Environment, logins: Logins, change: impl Fn(&str) -> [String; 2]) -> Result<()> {
    for program in PROGRAMS {
        let user = format!("{program}{}", logins.kafka_suffix());
        let [option, config] = change(&user);
        let of_user = ["--entity-type", "users", "--entity-name", &user];
        kafka_configs(env, &[&of_user[..], &[&option, &config]].concat())?;
    }
    Ok(())
}

fn next_certificates(env: &Environment) -> Result<()> {
    // Of the clients, whose certificates stay, and of the server: MySQL takes no certificate that its own CAs don't verify.
    let both = "both-cas.crt";
    let tls = env.state.join("tls");
    let cas = ["ca.crt", "next-ca.crt"].map(|ca| fs::read_to_string(tls.join(ca)));
    let [old, new] = cas;
    fs::write(tls.join(both), old? + &new?)?;
    certificates(env, "next-server", both)
}

/// New connections see them. The servers keep them until they restart, Kafka also then.
fn certificates(env: &Environment, pair: &str, cas: &str) -> Result<()> {
    let file = |name: &str| env.state.join("tls").join(name).display().to_string();
    let [certificate, key, both] = ["crt", "key", "pem"].map(|kind| file(&format!("{pair}.{kind}")));
    redis_cli(
        env,
        &["config", "set", "tls-cert-file", &certificate, "tls-key-file", &key],
    )?;
    let ssl = [("ssl_ca", &file(cas)), ("ssl_cert", &certificate), ("ssl_key", &key)];
    let set = ssl.map(|(variable, file)| format!("SET GLOBAL {variable} = '{file}'; "));
    mysql(env, &(set.concat() + "ALTER INSTANCE RELOAD TLS;"))?;
    let keystore = "listener.name.sasl_ssl.ssl.keystore";
    let add = format!("{keystore}.location={both},{keystore}.type=PEM");
    let of_broker = ["--entity-type", "brokers", "--entity-name", "1"];
    kafka_configs(env, &[&of_broker[..], &["--add-config", &add]].concat())
}

fn reset(env: &Environment) -> Result<()> {
    redis(env)?;
    let first = |user: &str| {
        format!(
            "ALTER USER '{user}'@'%' IDENTIFIED BY '{MYSQL_PASSWORD}'; ALTER USER '{user}'@'%' DISCARD OLD PASSWORD;"
        )
    };
    mysql(env, &PROGRAMS.map(first).concat())?;
    add_kafka_users(env, Logins::First)?;
    certificates(env, "server", "ca.crt")
}

fn mysql(env: &Environment, sql: &str) -> Result<()> {
    let mut client = env.sandbox.command(env.servers.join("mysql"));
    client.args([
        "-h",
        &env.node_address,
        "-P",
        &env.mysql_port.to_string(),
        "-uroot",
        "-e",
        sql,
    ]);
    output(client.env("MYSQL_PWD", MYSQL_PASSWORD)).map(drop)
}
