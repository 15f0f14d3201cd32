//! The test suites and the checks that cargo runs.
use std::process::Command;

use anyhow::Result;

use super::count::Count;
use super::runner::counted;
use crate::accounts::Logins;
use crate::cargo::cargo;
use crate::environment::Environment;
use crate::scope::Scope;
use crate::up::up;
use crate::{accounts, chaos, command, demo, images, programs, servers, tools, workspace};

/// Packages that have no integration tests of their own, or whose tests another step runs.
const NOT_INTEGRATION: [&str; 6] = [
    "--exclude",
    "seckill-e2e",
    "--exclude",
    "xtask",
    "--exclude",
    "seckill-model",
];

const ALL_TESTS: [&str; 2] = ["--test", "*"];

pub fn clippy() -> Result<()> {
    cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ])
}

pub fn docs() -> Result<()> {
    command::run(
        Command::new("cargo")
            .args(["doc", "--workspace", "--no-deps", "--quiet"])
            .env("RUSTDOCFLAGS", "-D warnings")
            .current_dir(workspace::folder()?),
    )
}

pub fn unit(filter: &[String], count: &mut Count) -> Result<()> {
    let mut command = Command::new("cargo");
    command
        .args(["test", "--quiet", "--workspace", "--no-fail-fast", "--lib", "--bins"])
        // The comparison of docs/configuration.md with each program's arguments.
        .args(["--test", "configuration_docs"])
        .arg("--")
        .args(filter);
    counted(&mut command, count)
}

pub fn model(filter: &[String], count: &mut Count) -> Result<()> {
    let mut command = Command::new("cargo");
    command
        .args(["test", "--quiet", "-p", "seckill-model", "--"])
        .args(filter);
    counted(&mut command, count)
}

pub fn integration(filter: &[String], count: &mut Count) -> Result<()> {
    let env = up(Scope::Servers)?;
    let tests = [&["--workspace"], &NOT_INTEGRATION[..], &ALL_TESTS].concat();
    let variables = [&downloads()?[..], &[threads()]].concat();
    inside(&env, &tests, filter, &variables, count)
}

/// The tests of everything that queries MySQL or runs scripts in Redis, on MariaDB and Valkey.
pub fn alternatives(filter: &[String], count: &mut Count) -> Result<()> {
    let env = up(Scope::Servers)?;
    let servers = servers::start_alternatives(&env, &tools::alternatives()?)?;
    let variables = [&servers[..], &downloads()?, &[threads()]].concat();
    let tests = [
        "ledger",
        "index_in_redis",
        "same_as_protocol",
        "topologies",
        "worker",
        "api",
    ];
    let tests: Vec<&str> = tests.into_iter().flat_map(|test| ["--test", test]).collect();
    let tests = [&["--workspace"], &tests[..]].concat();
    inside(&env, &tests, filter, &variables, count)
}

/// What tests use of the registries, which the namespace cannot reach: tools of the HTTP contract, and documents of Kubernetes.
fn downloads() -> Result<[(&'static str, String); 3]> {
    let tools::ContractTools { python, node_modules } = tools::contract()?;
    Ok([
        ("SECKILL_TEST_PYTHON", python.display().to_string()),
        ("SECKILL_TEST_NODE_MODULES", node_modules.display().to_string()),
        (
            "SECKILL_TEST_KUBERNETES_OPENAPI",
            tools::openapi()?.display().to_string(),
        ),
    ])
}

/// The tests mostly wait, so there are more threads than cores.
fn threads() -> (&'static str, String) {
    ("RUST_TEST_THREADS", "4".to_owned())
}

pub fn chaos(count: &mut Count) -> Result<()> {
    let env = up(Scope::Servers)?;
    chaos::quick(&env, |run| counted(run, count))
}

pub fn e2e(filter: &[String], count: &mut Count) -> Result<()> {
    let tests = [&["-p", "seckill-e2e"], &ALL_TESTS[..]].concat();
    match filter.iter().any(|arg| arg.ends_with("ignored")) {
        true => slow_on_cluster(&tests, filter, count),
        false => on_cluster(&tests, filter, &[], count),
    }
}

pub fn budget(count: &mut Count) -> Result<()> {
    let bench = ["--quiet", "--release", "-p", "seckill-bench"];
    cargo(&[&["build"], &bench[..]].concat())?;
    let mut command = Command::new("cargo");
    command.arg("run").args(bench).args(["--", "budget"]);
    counted(&mut command, count)
}

pub fn extended(filter: &[String], count: &mut Count) -> Result<()> {
    let filter: Vec<String> = ["--ignored".to_owned()]
        .into_iter()
        .chain(filter.iter().cloned())
        .collect();
    tools::browser()?;
    slow_on_cluster(&[&["--workspace"], &ALL_TESTS[..]].concat(), &filter, count)
}

/// Runs tests on the cluster, with what only slow ones need.
fn slow_on_cluster(tests: &[&str], filter: &[String], count: &mut Count) -> Result<()> {
    let env = up(Scope::Servers)?;
    let keycloak = servers::start_keycloak(&env)?;
    let variables = [&downloads()?[..], &[keycloak.variable()?]].concat();
    let result = on_cluster(tests, filter, &variables, count);
    // It takes much memory.
    result.and(servers::stop_keycloak(&env))
}

/// Runs tests that install the charts on the cluster.
fn on_cluster(tests: &[&str], filter: &[String], variables: &[(&str, String)], count: &mut Count) -> Result<()> {
    let env = up(Scope::Cluster)?;
    let programs = programs::build(&programs::QUICK)?;
    let tag = images::product(&env, &programs)?;
    let values = demo::local_values(&env, &tag)?;
    let demo = demo::command_on_context(&env, &tag, &values)?;
    accounts::create(&env)?;
    let tls_values = |logins| Ok::<_, anyhow::Error>(accounts::tls_values(&env, logins)?.display().to_string());
    let rotate = [std::env::current_exe()?.display().to_string(), "rotate".into()];
    let cluster = [
        ("SECKILL_HELM_VALUES", values.display().to_string()),
        ("SECKILL_TLS_VALUES", tls_values(Logins::First)?),
        ("SECKILL_REPLACED_LOGINS_VALUES", tls_values(Logins::Replaced)?),
        ("SECKILL_ROTATE", serde_json::to_string(&rotate)?),
        ("SECKILL_DEMO", serde_json::to_string(&demo)?),
        ("SECKILL_LOAD", programs.join(programs::LOAD).display().to_string()),
        ("SECKILL_PLUGIN", programs.join(programs::PLUGIN).display().to_string()),
        ("PATH", env.path()),
    ];
    inside(&env, tests, filter, &[variables, &cluster].concat(), count)
}

/// Runs tests inside the network namespace. They are built outside, because the namespace cannot reach a registry.
fn inside(
    env: &Environment,
    tests: &[&str],
    filter: &[String],
    variables: &[(&str, String)],
    count: &mut Count,
) -> Result<()> {
    let build = [&["test", "--quiet", "--no-run"], tests].concat();
    cargo(&build)?;
    let mut command = env.command("cargo");
    command
        .args(["test", "--quiet", "--offline", "--no-fail-fast"])
        .args(tests)
        .arg("--")
        .args(filter);
    for (name, value) in variables {
        command.env(name, value);
    }
    counted(&mut command, count)
}
