//! The development environment: `cargo xtask demo`, `test`, `up`, `down`. It needs nothing but this machine: it builds
//! its tools, or fetches them from package registries, and keeps them in a cache.
mod accounts;
mod bench;
mod cache;
mod cargo;
mod certificates;
mod chaos;
mod cluster;
mod command;
mod consent;
mod cycles;
mod demo;
mod down;
mod environment;
mod images;
mod issuer;
mod lock;
mod picture;
mod process;
mod programs;
#[cfg(test)]
mod repository;
mod rotation;
mod sandbox;
mod scope;
mod servers;
mod test;
mod tools;
mod up;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use environment::Environment;
use scope::Scope;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "The development environment of Seckill"
)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run the product on a real cluster with two crowds of buyers; print a table, write target/demo/report.json
    Demo(demo::Args),
    /// Run all tests and checks, or one step of them
    Test(test::Args),
    /// Run benchmarks on real servers, in release builds
    Bench {
        /// The scenarios to measure. `rebuild` (the pause of a sale of a million orders when Redis is killed) and `operator`
        /// (a thousand sales, fifty of which start in the same second) have their own servers. The others are measured
        /// next to their theoretical limits: purchase, identity, sold-out, not-started, ended, redis, store, burst, scale, promise,
        /// idle; `all` is all of those. `compare COMMIT [SCENARIO...]` measures a commit and this checkout in turn
        #[arg(required = true)]
        scenarios: Vec<String>,
        /// The number of measurements of each scenario
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        /// Answer yes to all questions
        #[arg(long)]
        yes: bool,
    },
    /// Run a sale, and draw what a Prometheus has of it: docs/sale.svg
    Picture {
        /// Answer yes to all questions
        #[arg(long)]
        yes: bool,
    },
    /// Run real servers and programs under load, inject faults, and check the invariants
    Chaos(chaos::Args),
    /// Run an issuer of tokens for tests, and print how a release and seckill-load use it
    Issuer(issuer::Args),
    /// Start the environment: a cluster with an ingress, Redis, MySQL and Kafka
    Up {
        /// Start only Redis, MySQL, Kafka and the Kubernetes API server
        #[arg(long)]
        servers_only: bool,
        /// Answer yes to all questions
        #[arg(long)]
        yes: bool,
    },
    /// Start Keycloak beside a running environment, with the realm of examples/keycloak, and print its address
    Keycloak {
        /// Stop it instead; its realms and users stay until `down`
        #[arg(long)]
        stop: bool,
    },
    /// Replace the passwords of the programs, or the certificates, at the running servers, as the end-to-end tests do
    #[command(hide = true)]
    Rotate { what: rotation::Rotation },
    /// Stop the environment and delete its state
    Down,
    /// Build the image of this checkout, import it into the cluster, and print its name
    Image,
    /// Print the variables of the environment, as lines for a shell
    Env,
    /// Run a command inside the environment's network namespace, with its variables
    Exec {
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = cargo::leave_package().and_then(|()| run(Args::parse().task));
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Demo(args) => demo::demo(&args)?,
        Task::Test(args) => test::test(&args)?,
        Task::Bench { scenarios, rounds, yes } => {
            let _lock = lock::take()?;
            consent::ask(yes, Scope::Cluster)?;
            tools::packages()?;
            bench::bench(&scenarios, rounds)?;
        }
        Task::Up { servers_only, yes } => {
            let _lock = lock::take()?;
            consent::ask(yes, Scope::Cluster)?;
            up::up(if servers_only { Scope::Servers } else { Scope::Cluster })?;
            eprintln!("  use it with `cargo xtask exec -- kubectl get pods -A`; stop it with `cargo xtask down`");
        }
        Task::Picture { yes } => {
            let _lock = lock::take()?;
            consent::ask(yes, Scope::Stores)?;
            picture::picture()?;
        }
        Task::Chaos(args) => {
            consent::ask(false, Scope::Cluster)?;
            return chaos::chaos(&args);
        }
        // No lock for these: tests run them while `test` has the lock.
        Task::Keycloak { stop: true } => servers::stop_keycloak(&Environment::load()?)?,
        Task::Keycloak { stop: false } => println!("{}", servers::start_keycloak(&Environment::load()?)?.url),
        Task::Rotate { what } => rotation::rotate(&Environment::load()?, what)?,
        Task::Issuer(args) => issuer::issuer(&args)?,
        Task::Down => {
            let _lock = lock::take()?;
            down::down()?;
        }
        Task::Image => {
            let _lock = lock::take()?;
            println!(
                "{}:{}",
                images::REPOSITORY,
                images::product(&Environment::load()?, &programs::build(&programs::RELEASE)?)?
            );
        }
        Task::Env => {
            for (name, value) in Environment::load()?.variables() {
                println!("export {name}='{value}'");
            }
        }
        Task::Exec { command } => return exec(&command),
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a command inside the environment and returns its exit code.
fn exec(command: &[String]) -> Result<ExitCode> {
    let env = Environment::load()?;
    let mut program = env.command(&command[0]);
    let status = program.args(&command[1..]).env("PATH", env.path()).status()?;
    Ok(ExitCode::from(
        status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1),
    ))
}
