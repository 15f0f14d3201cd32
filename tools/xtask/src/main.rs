//! The development environment: `cargo xtask demo`, `test`, `up`, `down`. It stands on nothing but this machine: what
//! it needs is built or fetched from package registries, and kept in a cache.
mod bench;
mod cache;
mod chaos;
mod cluster;
mod demo;
mod down;
mod environment;
mod images;
mod process;
mod sandbox;
mod servers;
mod test;
mod tools;

use std::fs::{self, File, TryLockError};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use environment::Environment;

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
    /// A real cluster, the release, and two crowds: ends with a table and target/demo/report.json
    Demo(demo::Args),
    /// All tests, or a part of them
    Test {
        part: Option<test::Part>,
        /// Answer yes to all questions
        #[arg(long)]
        yes: bool,
        /// For the test programs: a part of a test's name, --nocapture, ...
        #[arg(last = true)]
        filter: Vec<String>,
    },
    /// Measures, on real servers and in release builds
    Bench {
        /// Two with servers of their own: rebuild (how long a sale of a million orders stops selling when Redis is killed)
        /// and operator (a thousand sales, fifty of which start in the same second). The others are measured beside
        /// their limits: purchase, sold-out, not-started, ended, redis, store, burst, scale, promise, idle; `all` is all of
        /// those. `compare COMMIT [SCENARIO...]` measures a commit and what is here by turns
        #[arg(required = true)]
        scenarios: Vec<String>,
        /// How often each is measured
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        /// Answer yes to all questions
        #[arg(long)]
        yes: bool,
    },
    /// Real servers and programs, a crowd, faults, and a checker of what came of it
    Chaos(chaos::Args),
    /// Starts the environment: a cluster with an ingress, Redis, MySQL and Kafka
    Up {
        /// Only Redis, MySQL, Kafka and the Kubernetes API server
        #[arg(long)]
        servers_only: bool,
        /// Answer yes to all questions
        #[arg(long)]
        yes: bool,
    },
    /// Takes the environment away
    Down,
    /// Builds the image of this checkout and hands it to the cluster; prints its name
    Image,
    /// Prints what the environment is, as lines for a shell
    Env,
    /// Runs a command inside the environment's network namespace, with its variables
    Exec {
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Args::parse().task) {
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
        Task::Test { part, yes, filter } => {
            let _lock = lock()?;
            if !matches!(part, Some(test::Part::Lint | test::Part::Unit | test::Part::Model)) {
                consent(yes)?;
            }
            test::test(part, &filter)?;
        }
        Task::Bench { scenarios, rounds, yes } => {
            let _lock = lock()?;
            consent(yes)?;
            tools::packages()?;
            bench::bench(&scenarios, rounds)?;
        }
        Task::Up { servers_only, yes } => {
            let _lock = lock()?;
            consent(yes)?;
            up(if servers_only { Up::Servers } else { Up::Cluster })?;
            eprintln!("  use it by `cargo xtask exec -- kubectl get pods -A`; `cargo xtask down` takes it away");
        }
        Task::Chaos(args) => {
            consent(false)?;
            return chaos::chaos(&args);
        }
        Task::Down => {
            let _lock = lock()?;
            down::down()?;
        }
        Task::Image => {
            let _lock = lock()?;
            println!("{}:{}", images::REPOSITORY, images::product(&Environment::load()?)?);
        }
        Task::Env => {
            for (name, value) in Environment::load()?.variables() {
                println!("export {name}='{value}'");
            }
        }
        Task::Exec { command } => {
            let env = Environment::load()?;
            let mut program = env.command(&command[0]);
            // kubectl, helm, mysql and redis-cli are found by their names.
            let folders = [env.kubectl.parent(), Some(env.servers.as_path())];
            let path = std::env::var("PATH").unwrap_or_default();
            let path = folders
                .into_iter()
                .flatten()
                .map(|f| f.display().to_string())
                .chain([path])
                .collect::<Vec<_>>();
            let status = program.args(&command[1..]).env("PATH", path.join(":")).status()?;
            return Ok(ExitCode::from(
                status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1),
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How much of the environment is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Up {
    Servers,
    Cluster,
}

/// Starts what does not run yet; what runs is kept.
pub fn up(what: Up) -> Result<Environment> {
    let tools = tools::get()?;
    let state = Environment::state_folder()?;
    fs::create_dir_all(&state)?;
    let sandbox = sandbox::Sandbox::make()?;
    let env = Environment {
        node_address: sandbox.node_address().to_owned(),
        sandbox,
        servers: tools.servers.clone(),
        kubectl: tools.cluster.join("kubectl"),
        helm: tools.cluster.join("helm"),
        kubeconfig: state.join("kubeconfig"),
        redis_port: 6379,
        mysql_port: 3306,
        kafka_port: 9092,
        ingress_url: format!("http://127.0.0.1:{}", cluster::INGRESS_PORT),
        ingress_class: "contour".to_owned(),
        versions: tools.versions()?,
        state,
    };
    env.save()?;
    servers::start(&env, &tools)?;
    if what == Up::Cluster {
        cluster::start(&env, &tools)?;
    }
    Ok(env)
}

/// Says what will be installed and changed, and asks, if a person sits at the terminal.
pub fn consent(yes: bool) -> Result<()> {
    let agreed = cache::folder()?.join("agreed");
    if yes || agreed.exists() || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    eprintln!(
        "{}\nThis is meant for a disposable machine. State and cache: {}",
        tools::consent_text(),
        cache::folder()?.display()
    );
    eprint!("Go on? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if !answer.trim().eq_ignore_ascii_case("y") {
        bail!("nothing was changed");
    }
    fs::create_dir_all(cache::folder()?)?;
    Ok(fs::write(agreed, "")?)
}

/// One of these commands at a time; the lock goes with the process.
pub fn lock() -> Result<File> {
    let folder = cache::folder()?;
    fs::create_dir_all(&folder)?;
    let file = File::create(folder.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another `cargo xtask` is at work with {}; wait for it",
            folder.display()
        ),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// The folder of the workspace, by cargo's word at run time: several checkouts may share one build.
pub fn workspace() -> Result<PathBuf> {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let folder = Path::new(&manifest).ancestors().nth(2);
    Ok(folder.context("xtask lies in tools/ of the workspace")?.to_owned())
}

/// Where cargo puts what it builds.
pub fn target_folder() -> Result<PathBuf> {
    let mut command = Command::new("cargo");
    command
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(workspace()?);
    let metadata: serde_json::Value = serde_json::from_str(&cache::output(&mut command)?)?;
    let folder = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target folder")?;
    Ok(folder.into())
}
