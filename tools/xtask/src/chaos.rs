//! `cargo xtask chaos`: prepares servers of its own, beside those of the environment, and hands them to the runner, which
//! is a program of its own since it needs what this one must not (it is compiled before there is a C++ compiler).
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cache::{Item, output, step};
use crate::environment::{Environment, MYSQL_PASSWORD, REDIS_PASSWORD};
use crate::servers::{kafka_java, mysqld_args};
use crate::tools::{self, Tools};
use crate::{target_folder, workspace};

#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Decides which faults come, and in which order
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How long faults go on, and until every kind came once, unless --quick or --faults. Starting, settling and checking
    /// take a minute more
    #[arg(long, default_value_t = 2.0)]
    pub minutes: f64,
    /// Brokers of Kafka, 1 or 3
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=3))]
    pub brokers: u16,
    /// Only these kinds of faults, separated by commas; --list names them
    #[arg(long)]
    pub faults: Option<String>,
    /// Breaks one rule of the protocol on purpose: the checker must find it, and the command fails
    #[arg(long)]
    pub mutant: Option<String>,
    /// The kinds that take long come last, as in `cargo xtask test chaos`
    #[arg(long)]
    pub quick: bool,
    /// Plays every mutant; succeeds if the checker caught each
    #[arg(long)]
    pub mutants: bool,
    /// Prints the kinds of faults and the mutants
    #[arg(long)]
    pub list: bool,
}

/// The programs under test, and the runner.
const PROGRAMS: &[&str] = &["seckill-api", "order-worker", "operator"];
const PACKAGES: &[&str] = &["seckill-api", "seckill-order-worker", "seckill-operator"];
const RUNNER: &str = "seckill-chaos";
/// Gives Redis a clock of its own.
const CLOCK: &str = "clock.so";

const REDIS: u16 = 16379;
const MYSQL: u16 = 13306;
const KAFKA: u16 = 19092;
const CONTROLLER: u16 = 19192;

/// The exit code of a run in which an invariant was violated; others mean that it could not run.
const VIOLATED: i32 = 1;

pub fn chaos(args: &Args) -> Result<ExitCode> {
    build()?;
    // It runs beside the other commands: while one of them is at work, what that one has started is used.
    let env = match crate::lock() {
        Ok(_lock) => crate::up(crate::Up::Servers)?,
        Err(busy) => Environment::load().map_err(|_| busy)?,
    };
    if args.list {
        return run(&env, args, &["--list"]);
    }
    if args.mutants {
        return mutants(&env, args);
    }
    let mut words = Vec::new();
    if let Some(mutant) = &args.mutant {
        words.extend(["--mutant", mutant]);
    }
    run(&env, args, &words)
}

/// Every mutant must be caught by an invariant that it breaks.
fn mutants(env: &Environment, args: &Args) -> Result<ExitCode> {
    let listed = output(env.sandbox.command(binaries()?.join(RUNNER)).arg("--list-mutants"))?;
    let mut survived = Vec::new();
    for name in listed.lines() {
        let ended = run(env, args, &["--mutant", name]);
        let report = fs::read(report(args, Some(name))?).unwrap_or_default();
        let report: Value = serde_json::from_slice(&report).unwrap_or_default();
        if ended.is_err() || report["caught"] != true {
            survived.push(name);
        }
    }
    println!(
        "\n{} mutants, {} caught",
        listed.lines().count(),
        listed.lines().count() - survived.len()
    );
    if !survived.is_empty() {
        bail!("not caught: {}", survived.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

/// A short run for `cargo xtask test`: the command that plays it.
pub fn quick(env: &Environment) -> Result<Command> {
    build()?;
    let args = Args {
        seed: 1,
        minutes: 1.5,
        brokers: 1,
        faults: None,
        mutant: None,
        quick: true,
        mutants: false,
        list: false,
    };
    command(env, &args, &[])
}

fn run(env: &Environment, args: &Args, words: &[&str]) -> Result<ExitCode> {
    let status = command(env, args, words)?.status().context("can't run the runner")?;
    match status.code() {
        Some(0) => Ok(ExitCode::SUCCESS),
        Some(VIOLATED) => Ok(ExitCode::from(VIOLATED as u8)),
        _ => bail!("the chaos run did not come to its end: {status}"),
    }
}

fn command(env: &Environment, args: &Args, words: &[&str]) -> Result<Command> {
    let mut command = env.sandbox.command("setpriv");
    // It must not outlive us, whatever ends us; with it end all that it started.
    command.args(["--pdeathsig", "TERM", "--"]);
    command.arg(binaries()?.join(RUNNER));
    command.args(words);
    if !words.contains(&"--list") {
        command.args(["--seed", &args.seed.to_string(), "--minutes", &args.minutes.to_string()]);
        if args.quick {
            command.arg("--quick");
        }
        if let Some(faults) = &args.faults {
            command.args(["--faults", faults]);
        }
        let report = report(args, args.mutant.as_deref().or(mutant_of(words)))?;
        if let Some(folder) = report.parent() {
            fs::create_dir_all(folder)?;
        }
        command.arg("--report").arg(report);
        command.arg("--setup").arg(prepare(env, args.brokers)?);
    }
    Ok(command)
}

fn mutant_of<'a>(words: &[&'a str]) -> Option<&'a str> {
    match words {
        ["--mutant", name] => Some(name),
        _ => None,
    }
}

fn report(args: &Args, mutant: Option<&str>) -> Result<PathBuf> {
    let name = match mutant {
        Some(mutant) => format!("report-mutant-{mutant}.json"),
        None => format!("report-{}.json", args.seed),
    };
    Ok(target_folder()?.join("chaos").join(name))
}

/// Copies, since the usual build puts programs without fail points at the same place.
fn binaries() -> Result<PathBuf> {
    Ok(target_folder()?.join("chaos/bin"))
}

fn build() -> Result<()> {
    step(
        "the programs with their fail points, and the runner",
        "chaos-build",
        |log| {
            let mut command = Command::new("cargo");
            command.args(["build", "-p", RUNNER]);
            for package in PACKAGES {
                command.args(["-p", package, "--features", &format!("{package}/failpoints")]);
            }
            log.run(command.current_dir(workspace()?))?;
            let built = target_folder()?.join("debug");
            fs::create_dir_all(binaries()?)?;
            for program in PROGRAMS.iter().chain([&RUNNER]) {
                let place = binaries()?.join(program);
                // Renamed into its place: one that runs can't be written.
                let half = place.with_extension("half");
                fs::copy(built.join(program), &half)?;
                fs::rename(half, place)?;
            }
            let clock = binaries()?.join(CLOCK);
            let mut command = Command::new("cc");
            command
                .args(["-O2", "-shared", "-fPIC", "-o"])
                .arg(clock.with_extension("half"));
            log.run(command.arg(workspace()?.join("verify/chaos/clock.c")))?;
            fs::rename(clock.with_extension("half"), clock)?;
            Ok(())
        },
    )
}

/// Fresh state for all servers. Gives the file that tells the runner.
fn prepare(env: &Environment, brokers: u16) -> Result<PathBuf> {
    let tools = tools::get()?;
    let all = env.state.join("chaos");
    fs::create_dir_all(&all)?;
    // What earlier runs left to be looked at.
    for entry in fs::read_dir(&all)?.flatten() {
        if !Path::new("/proc").join(entry.file_name()).exists() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    let id = std::process::id();
    let folder = all.join(id.to_string());
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let address = format!("127.77.{}.{}", id / 250 % 250 + 1, id % 250 + 1);
    let servers = Servers {
        tools: &tools,
        folder: &folder,
        address: &address,
    };
    let setup = json!({
        "folder": folder,
        "address": address,
        "kubeconfig": env.kubeconfig,
        "ports": {"redis": [REDIS, REDIS + 1], "mysql": MYSQL, "kafka": KAFKA},
        "redis": [servers.redis(0)?, servers.redis(1)?],
        "mysql": servers.mysql()?,
        "kafka": (0..brokers).map(|i| servers.kafka(i, brokers)).collect::<Result<Vec<_>>>()?,
        "programs": programs(&folder)?,
        "mysql_password": MYSQL_PASSWORD,
        "redis_password": REDIS_PASSWORD,
    });
    let file = folder.join("setup.json");
    fs::write(&file, serde_json::to_vec_pretty(&setup)?)?;
    Ok(file)
}

/// The run's own, so that another build does not change them in the middle.
fn programs(folder: &Path) -> Result<BTreeMap<&'static str, PathBuf>> {
    let mut programs = BTreeMap::new();
    for program in PROGRAMS {
        let (built, own) = (binaries()?.join(program), folder.join(program));
        if fs::hard_link(&built, &own).is_err() {
            fs::copy(&built, &own)?;
        }
        programs.insert(*program, own);
    }
    Ok(programs)
}

struct Servers<'a> {
    tools: &'a Tools,
    folder: &'a Path,
    address: &'a str,
}

impl Servers<'_> {
    fn spec(&self, program: &Path, words: Vec<String>, folder: &Path) -> Value {
        let argv: Vec<String> = [program.display().to_string()].into_iter().chain(words).collect();
        json!({"argv": argv, "folder": folder})
    }

    fn redis(&self, i: u16) -> Result<Value> {
        let folder = self.folder.join(format!("redis-{i}"));
        fs::create_dir_all(&folder)?;
        let words = format!(
            "--port {} --bind {} --requirepass {REDIS_PASSWORD} --masterauth {REDIS_PASSWORD} --appendonly yes --save '' \
             --maxmemory-policy noeviction --repl-diskless-sync-delay 0 --dir {}",
            REDIS + i,
            self.address,
            folder.display()
        );
        let words = words.split(' ').map(|word| word.trim_matches('\'').to_owned());
        let clock = folder.join("clock");
        fs::write(&clock, [0; 8])?;
        let mut spec = self.spec(&self.tools.servers.join("redis-server"), words.collect(), &folder);
        spec["env"] = json!({"LD_PRELOAD": binaries()?.join(CLOCK), "SECKILL_CLOCK": clock});
        Ok(spec)
    }

    fn mysql(&self) -> Result<Value> {
        let mysqld = self.tools.servers.join("mysqld");
        let fresh = Item {
            name: "mysql-data-1".into(),
            what: "an empty MySQL for the chaos run".into(),
        };
        let fresh = fresh.get(|folder, log| {
            let mut command = Command::new(&mysqld);
            command.args(mysqld_args(self.tools, &folder.join("data")));
            log.run(command.arg("--initialize-insecure"))
        })?;
        let folder = self.folder.join("mysql");
        fs::create_dir_all(&folder)?;
        let data = folder.join("data");
        output(Command::new("cp").arg("-a").arg(fresh.join("data")).arg(&data))?;
        let users = folder.join("users.sql");
        fs::write(
            &users,
            format!(
                "CREATE DATABASE IF NOT EXISTS seckill;\n\
                 CREATE USER IF NOT EXISTS 'root'@'%' IDENTIFIED BY '{MYSQL_PASSWORD}';\n\
                 GRANT ALL ON *.* TO 'root'@'%' WITH GRANT OPTION;\n"
            ),
        )?;
        let mut words = mysqld_args(self.tools, &data);
        words.extend([
            format!("--port={MYSQL}"),
            format!("--bind-address={}", self.address),
            format!("--socket={}/mysql.sock", folder.display()),
            format!("--pid-file={}/mysql.pid", folder.display()),
            format!("--init-file={}", users.display()),
        ]);
        // Small and without a binary log, so that its folder is quickly copied. Durable, as it is by default.
        let small = "--skip-name-resolve --mysqlx=OFF --max-connections=300 --innodb-buffer-pool-size=128M \
                     --disable-log-bin --innodb-redo-log-capacity=8388608";
        words.extend(small.split_whitespace().map(str::to_owned));
        Ok(self.spec(&mysqld, words, &folder))
    }

    /// Each broker is a controller too.
    fn kafka(&self, i: u16, brokers: u16) -> Result<Value> {
        let folder = self.folder.join(format!("kafka-{i}"));
        fs::create_dir_all(&folder)?;
        let (address, port, controller) = (self.address, KAFKA + i, CONTROLLER + i);
        let voters = (0..brokers).map(|n| format!("{}@{address}:{}", n + 1, CONTROLLER + n));
        let properties = folder.join("server.properties");
        let replicas = if brokers > 1 { 3 } else { 1 };
        fs::write(
            &properties,
            format!(
                "process.roles=broker,controller\n\
                 node.id={}\n\
                 controller.quorum.voters={}\n\
                 listeners=PLAINTEXT://{address}:{port},CONTROLLER://{address}:{controller}\n\
                 advertised.listeners=PLAINTEXT://{address}:{port}\n\
                 controller.listener.names=CONTROLLER\n\
                 log.dirs={}\n\
                 auto.create.topics.enable=false\n\
                 unclean.leader.election.enable=false\n\
                 offsets.topic.replication.factor={replicas}\n\
                 offsets.topic.num.partitions=4\n\
                 group.initial.rebalance.delay.ms=0\n\
                 broker.session.timeout.ms=3000\n\
                 broker.heartbeat.interval.ms=500\n",
                i + 1,
                voters.collect::<Vec<_>>().join(","),
                folder.join("data").display()
            ),
        )?;
        let mut format = Command::new("java");
        format.args(kafka_java(self.tools, "kafka.tools.StorageTool"));
        format.args(["format", "-t", "c2Vja2lsbC1jbHVzdGVyMQ", "-c"]);
        output(format.arg(&properties))?;
        let mut words = kafka_java(self.tools, "kafka.Kafka");
        words.push(properties.display().to_string());
        Ok(self.spec(Path::new("java"), words, &folder))
    }
}
