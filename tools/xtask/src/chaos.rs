//! `cargo xtask chaos`: prepares separate servers, next to those of the environment, and starts the runner. The runner is
//! another program because it needs the Kafka client, and xtask must compile before a C++ compiler is installed.
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::ValueEnum as _;
use serde_json::{Value, json};

use crate::cache::{Item, step};
use crate::command::output;
use crate::environment::{Environment, MYSQL_PASSWORD, REDIS_PASSWORD};
use crate::scope::Scope;
use crate::servers::{ApiServer, etcd_args, kafka_java, mysqld_args};
use crate::tools::{self, Tools};
use crate::up::up;
use crate::{lock, workspace};

#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// The seed of the random choice and order of faults
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Minutes of faults. Without --quick and --faults the run is longer if it needs that to inject every kind once. Start,
    /// settling and checks take another minute
    #[arg(long, default_value_t = 2.0)]
    pub minutes: f64,
    /// The number of Kafka brokers, 1 or 3. With 3, MySQL has a replica too
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=3))]
    pub brokers: u16,
    /// The servers of Redis: one with a replica, a primary that Sentinels watch, or a Cluster
    #[arg(long, value_enum, default_value_t = Topology::Single)]
    pub redis: Topology,
    /// Run Valkey instead of Redis
    #[arg(long)]
    pub valkey: bool,
    /// Inject only these kinds of faults, separated by commas; --list prints them
    #[arg(long)]
    pub faults: Option<String>,
    /// Break one rule of the protocol on purpose. The checker must find it, and the command fails
    #[arg(long)]
    pub mutant: Option<String>,
    /// Inject the slow kinds of faults last, as in `cargo xtask test chaos`
    #[arg(long)]
    pub quick: bool,
    /// Run every mutant; succeeds if the checker catches each
    #[arg(long)]
    pub mutants: bool,
    /// Print the kinds of faults and the mutants
    #[arg(long)]
    pub list: bool,
}

/// How the Redis servers of a run belong together.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    Single,
    Sentinel,
    Cluster,
}

impl Topology {
    fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The number of servers with data.
    fn servers(self) -> u16 {
        match self {
            Topology::Single => 2,
            Topology::Sentinel => 3,
            Topology::Cluster => 6,
        }
    }
}

/// The programs under test, and the runner.
const PROGRAMS: &[&str] = &["seckill-api", "order-worker", "operator"];
const PACKAGES: &[&str] = &["seckill-api", "seckill-order-worker", "seckill-operator"];
const RUNNER: &str = "seckill-chaos";
/// The library that gives Redis and the operators separate clocks.
const CLOCK: &str = "clock.so";

/// The port of the first Redis; the others have the next ports. The same for the Sentinels, of which there are three.
const REDIS: u16 = 16379;
const SENTINEL: u16 = 17379;
const SENTINELS: u16 = 3;
/// The name of the primary at the Sentinels.
const SENTINEL_MASTER: &str = "chaos";
/// Short, so that a promotion takes few seconds. A pause of the machine must not be taken for a failure.
const SILENCE_MS: u16 = 2000;
const MYSQL: [u16; 2] = [13306, 13307];
const KAFKA: u16 = 19092;
const CONTROLLER: u16 = 19192;
/// The API servers of the run's own cluster, and of another one.
const API_SERVERS: [u16; 2] = [16443, 16444];

/// The exit code of a run in which an invariant was violated. Other codes mean that the run did not complete.
const VIOLATED: i32 = 1;

pub fn chaos(args: &Args) -> Result<ExitCode> {
    build()?;
    // It may run at the same time as another command. Then it uses the environment that the other command started.
    let env = match lock::take() {
        Ok(_lock) => up(Scope::Servers)?,
        Err(busy) => Environment::load().map_err(|_| busy)?,
    };
    if args.list {
        return run(&env, args, &["--list"]);
    }
    if args.mutants {
        if args.redis != Topology::Single {
            bail!("the faults of the mutants need --redis single");
        }
        return mutants(&env, args);
    }
    let mut words = Vec::new();
    if let Some(mutant) = &args.mutant {
        words.extend(["--mutant", mutant]);
    }
    run(&env, args, &words)
}

/// Runs every mutant. The checker must report an invariant that the mutant breaks.
fn mutants(env: &Environment, args: &Args) -> Result<ExitCode> {
    let mutants = output(env.sandbox.command(binaries()?.join(RUNNER)).arg("--list-mutants"))?;
    let mut survived = Vec::new();
    for name in mutants.lines() {
        let result = run(env, args, &["--mutant", name]);
        let report = fs::read(report(args, Some(name))?).unwrap_or_default();
        let report: Value = serde_json::from_slice(&report).unwrap_or_default();
        if result.is_err() || report["caught"] != true {
            survived.push(name);
        }
    }
    println!(
        "\n{} mutants, {} caught",
        mutants.lines().count(),
        mutants.lines().count() - survived.len()
    );
    if !survived.is_empty() {
        bail!("mutants not caught: {}", survived.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

/// Short runs with each topology of Redis, for `cargo xtask test`. `start` gets the command of each, after the one before has
/// ended, because they use the same folder.
pub fn quick(env: &Environment, mut start: impl FnMut(&mut Command) -> Result<()>) -> Result<()> {
    build()?;
    for (redis, minutes) in [
        (Topology::Single, 1.5),
        (Topology::Sentinel, 1.0),
        (Topology::Cluster, 1.0),
    ] {
        start(&mut quick_run(env, redis, minutes)?)?;
    }
    Ok(())
}

fn quick_run(env: &Environment, redis: Topology, minutes: f64) -> Result<Command> {
    let args = Args {
        seed: 1,
        minutes,
        brokers: 1,
        redis,
        valkey: false,
        faults: None,
        mutant: None,
        quick: true,
        mutants: false,
        list: false,
    };
    command(env, &args, &[])
}

fn run(env: &Environment, args: &Args, words: &[&str]) -> Result<ExitCode> {
    let status = command(env, args, words)?
        .status()
        .context("failed to start the chaos runner")?;
    match status.code() {
        Some(0) => Ok(ExitCode::SUCCESS),
        Some(VIOLATED) => Ok(ExitCode::from(VIOLATED as u8)),
        _ => bail!("the chaos run did not complete: {status}"),
    }
}

fn command(env: &Environment, args: &Args, words: &[&str]) -> Result<Command> {
    let mut command = env.sandbox.command("setpriv");
    // The runner, and with it everything that it started, must exit when this process is killed.
    command.args(["--pdeathsig", "TERM", "--"]);
    command.arg(binaries()?.join(RUNNER));
    command.args(words).args(["--redis", &args.redis.name()]);
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
        command.arg("--setup").arg(prepare(env, args)?);
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
    let name = match (mutant, args.redis) {
        (Some(mutant), _) => format!("report-mutant-{mutant}.json"),
        (None, Topology::Single) => format!("report-{}.json", args.seed),
        (None, redis) => format!("report-{}-{}.json", redis.name(), args.seed),
    };
    Ok(workspace::target_folder()?.join("chaos").join(name))
}

/// The folder of copies, because an ordinary build puts programs without fail points at the same path.
fn binaries() -> Result<PathBuf> {
    Ok(workspace::target_folder()?.join("chaos/bin"))
}

fn build() -> Result<()> {
    step(
        "build the programs with fail points, and the chaos runner",
        "chaos-build",
        |log| {
            let mut command = Command::new("cargo");
            command.args(["build", "-p", RUNNER]);
            for package in PACKAGES {
                command.args(["-p", package, "--features", &format!("{package}/failpoints")]);
            }
            log.run(command.current_dir(workspace::folder()?))?;
            let built = workspace::target_folder()?.join("debug");
            fs::create_dir_all(binaries()?)?;
            for program in PROGRAMS.iter().chain([&RUNNER]) {
                let target = binaries()?.join(program);
                // Replaced by a rename, because a running program cannot be written.
                let partial = target.with_extension("partial");
                fs::copy(built.join(program), &partial)?;
                fs::rename(partial, target)?;
            }
            let clock = binaries()?.join(CLOCK);
            let mut command = Command::new("cc");
            command
                .args(["-O2", "-shared", "-fPIC", "-o"])
                .arg(clock.with_extension("partial"));
            log.run(command.arg(workspace::folder()?.join("verify/chaos/clock.c")))?;
            fs::rename(clock.with_extension("partial"), clock)?;
            Ok(())
        },
    )
}

/// Creates fresh state for all servers. Returns the setup file of the runner.
fn prepare(env: &Environment, args: &Args) -> Result<PathBuf> {
    let tools = tools::get()?;
    let all = env.state.join("chaos");
    fs::create_dir_all(&all)?;
    // Deletes the folders that earlier runs left for inspection.
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
        redis: RedisPrograms::get(&tools, args.valkey)?,
        folder: &folder,
        address: &address,
    };
    let (brokers, redis) = (args.brokers, args.redis);
    let setup = json!({
        "folder": folder,
        "address": address,
        "etcd": servers.etcd()?,
        "clusters": [servers.cluster(0)?, servers.cluster(1)?],
        "ports": {"redis": REDIS, "sentinels": SENTINEL, "mysql": MYSQL[0], "mysql_replica": MYSQL[1], "kafka": KAFKA},
        "redis": (0..redis.servers()).map(|i| servers.redis(i, redis)).collect::<Result<Vec<_>>>()?,
        "sentinels": match redis {
            Topology::Sentinel => (0..SENTINELS).map(|i| servers.sentinel(i)).collect::<Result<Vec<_>>>()?,
            Topology::Single | Topology::Cluster => Vec::new(),
        },
        "redis_cli": servers.redis.cli,
        "mysql": servers.mysql(0, brokers > 1)?,
        "mysql_replica": (brokers > 1).then(|| servers.mysql(1, true)).transpose()?,
        "kafka": (0..brokers).map(|i| servers.kafka(i, brokers)).collect::<Result<Vec<_>>>()?,
        "programs": programs(&folder)?,
        "clock": binaries()?.join(CLOCK),
        "mysql_password": MYSQL_PASSWORD,
        "redis_password": REDIS_PASSWORD,
        "sentinel_master": SENTINEL_MASTER,
    });
    let file = folder.join("setup.json");
    fs::write(&file, serde_json::to_vec_pretty(&setup)?)?;
    Ok(file)
}

/// Links the programs into the folder of this run, so that a later build does not replace them during the run.
fn programs(folder: &Path) -> Result<BTreeMap<&'static str, PathBuf>> {
    let mut programs = BTreeMap::new();
    for program in PROGRAMS {
        let (built, linked) = (binaries()?.join(program), folder.join(program));
        if fs::hard_link(&built, &linked).is_err() {
            fs::copy(&built, &linked)?;
        }
        programs.insert(*program, linked);
    }
    Ok(programs)
}

struct RedisPrograms {
    server: PathBuf,
    cli: PathBuf,
}

impl RedisPrograms {
    fn get(tools: &Tools, valkey: bool) -> Result<Self> {
        let (folder, name) = match valkey {
            false => (tools.servers.clone(), "redis"),
            true => (tools::valkey()?, "valkey"),
        };
        Ok(RedisPrograms {
            server: folder.join(format!("{name}-server")),
            cli: folder.join(format!("{name}-cli")),
        })
    }
}

struct Servers<'a> {
    tools: &'a Tools,
    redis: RedisPrograms,
    folder: &'a Path,
    address: &'a str,
}

impl Servers<'_> {
    fn spec(&self, program: &Path, words: Vec<String>, folder: &Path) -> Value {
        let argv: Vec<String> = [program.display().to_string()].into_iter().chain(words).collect();
        json!({"argv": argv, "folder": folder})
    }

    /// Servers that belong together have a configuration file, in which they keep their role.
    fn redis(&self, i: u16, topology: Topology) -> Result<Value> {
        let folder = self.folder.join(format!("redis-{i}"));
        fs::create_dir_all(&folder)?;
        let (address, file) = (self.address, folder.join("redis.conf"));
        let together = match topology {
            Topology::Single => String::new(),
            Topology::Sentinel => {
                let first = format!("replicaof {address} {REDIS}\n");
                fs::write(&file, if i == 0 { "" } else { &first })?;
                format!("{} --replica-announce-ip {address} ", file.display())
            }
            Topology::Cluster => {
                fs::write(&file, "")?;
                format!(
                    "{} --cluster-enabled yes --cluster-node-timeout {SILENCE_MS} --cluster-announce-ip {address} \
                     --cluster-require-full-coverage no --cluster-replica-validity-factor 0 \
                     --cluster-allow-replica-migration no ",
                    file.display()
                )
            }
        };
        let words = format!(
            "{together}--port {} --bind {address} --requirepass {REDIS_PASSWORD} --masterauth {REDIS_PASSWORD} \
             --appendonly yes --save '' --maxmemory-policy noeviction --repl-diskless-sync-delay 0 --dir {}",
            REDIS + i,
            folder.display()
        );
        let words = words.split(' ').map(|word| word.trim_matches('\'').to_owned());
        Ok(self.spec(&self.redis.server, words.collect(), &folder))
    }

    fn sentinel(&self, i: u16) -> Result<Value> {
        let folder = self.folder.join(format!("sentinel-{i}"));
        fs::create_dir_all(&folder)?;
        let (address, file) = (self.address, folder.join("sentinel.conf"));
        fs::write(
            &file,
            format!(
                "port {}\n\
                 bind {address}\n\
                 dir {}\n\
                 sentinel announce-ip {address}\n\
                 sentinel monitor {SENTINEL_MASTER} {address} {REDIS} 2\n\
                 sentinel auth-pass {SENTINEL_MASTER} {REDIS_PASSWORD}\n\
                 sentinel down-after-milliseconds {SENTINEL_MASTER} {SILENCE_MS}\n\
                 sentinel failover-timeout {SENTINEL_MASTER} 5000\n\
                 sentinel parallel-syncs {SENTINEL_MASTER} 2\n",
                SENTINEL + i,
                folder.display()
            ),
        )?;
        let words = vec![file.display().to_string(), "--sentinel".into()];
        Ok(self.spec(&self.redis.server, words, &folder))
    }

    fn etcd(&self) -> Result<Value> {
        let folder = self.folder.join("etcd");
        fs::create_dir_all(&folder)?;
        let args = etcd_args(&folder.join("data"), self.address);
        Ok(self.spec(&self.tools.servers.join("etcd"), args, &folder))
    }

    /// A Kubernetes cluster of which only the API server runs. Both keep their objects in the same etcd, apart.
    fn cluster(&self, i: usize) -> Result<Value> {
        let folder = self.folder.join(format!("kube-apiserver-{i}"));
        fs::create_dir_all(&folder)?;
        let server = ApiServer {
            folder: folder.clone(),
            address: self.address.to_owned(),
            port: API_SERVERS[i],
        };
        let mut args = server.args(self.address)?;
        args.extend([
            format!("--etcd-prefix=/cluster-{i}"),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
            "--authorization-mode=AlwaysAllow".into(),
            // No service leads to it, and a loopback address would be refused.
            "--endpoint-reconciler-type=none".into(),
        ]);
        let kubeconfig = folder.join("kubeconfig");
        fs::write(&kubeconfig, server.kubeconfig()?)?;
        let spec = self.spec(&self.tools.cluster.join("kube-apiserver"), args, &folder);
        Ok(json!({"api_server": spec, "kubeconfig": kubeconfig}))
    }

    fn mysql(&self, i: usize, replicated: bool) -> Result<Value> {
        let mysqld = self.tools.servers.join("mysqld");
        let empty = Item {
            name: "mysql-data-1".into(),
            title: "an empty MySQL for the chaos run".into(),
        };
        let empty = empty.get(|folder, log| {
            let mut command = Command::new(&mysqld);
            command.args(mysqld_args(self.tools, &folder.join("data")));
            log.run(command.arg("--initialize-insecure"))
        })?;
        let folder = self.folder.join(format!("mysql-{i}"));
        fs::create_dir_all(&folder)?;
        let data = folder.join("data");
        output(Command::new("cp").arg("-a").arg(empty.join("data")).arg(&data))?;
        let users = folder.join("users.sql");
        fs::write(
            &users,
            format!(
                "SET sql_log_bin = 0;\n\
                 CREATE DATABASE IF NOT EXISTS seckill;\n\
                 CREATE USER IF NOT EXISTS 'root'@'%' IDENTIFIED BY '{MYSQL_PASSWORD}';\n\
                 GRANT ALL ON *.* TO 'root'@'%' WITH GRANT OPTION;\n"
            ),
        )?;
        let mut words = mysqld_args(self.tools, &data);
        words.extend([
            format!("--port={}", MYSQL[i]),
            format!("--bind-address={}", self.address),
            format!("--socket={}/mysql.sock", folder.display()),
            format!("--pid-file={}/mysql.pid", folder.display()),
            format!("--init-file={}", users.display()),
        ]);
        // Small, so that its folder can be copied quickly. Durable, as by default.
        let small = "--skip-name-resolve --mysqlx=OFF --max-connections=300 --innodb-buffer-pool-size=128M \
                     --innodb-redo-log-capacity=8388608";
        let log = match replicated {
            false => "--disable-log-bin".to_owned(),
            true => format!(
                "--server-id={} --gtid-mode=ON --enforce-gtid-consistency=ON --plugin-load-add=mysql_clone.so \
                 --plugin-load-add=semisync_source.so --plugin-load-add=semisync_replica.so",
                i + 1
            ),
        };
        words.extend(
            small
                .split_whitespace()
                .chain(log.split_whitespace())
                .map(str::to_owned),
        );
        Ok(self.spec(&mysqld, words, &folder))
    }

    /// The setup of one broker, which is also a controller.
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
                 broker.heartbeat.interval.ms=500\n\
                 log.message.timestamp.type=LogAppendTime\n",
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
