//! Starts the servers, creates the schema and the topic; then starts the programs.
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{
    CLOCK_FILE, DELETION_GRACE, Harness, LEASE_DURATION, ORDER_NO_KEYS, OtherCluster, RedisServers, START_TIMEOUT,
    TOPIC, wait_until,
};
use crate::forward::{Forward, Forwards};
use crate::members::{BUYER_KEY, Members};
use crate::process::Process;
use crate::setup::{Setup, Spec, Topology};

const PARTITIONS: u32 = 4;
const API_PORTS: [u16; 2] = [18080, 18081];

/// Several times what the buyers use, who all have one address.
const MAX_CONNECTIONS_PER_ADDRESS: u32 = 500;
/// The soft limit of open files of seckill-api, as many container runtimes set it.
const API_OPEN_FILES: &str = "--nofile=1024:";

impl Harness {
    /// Starts the servers. `class` is the class and namespace of the sales.
    pub async fn start_servers(
        setup: Setup,
        topology: Topology,
        class: &str,
        rules: &[&str],
        members: &Members,
    ) -> Result<Self> {
        let (issuers, key) = (setup.folder.join("issuers.yaml"), setup.folder.join("buyer-key"));
        std::fs::write(issuers, members.issuers_file())?;
        std::fs::write(key, BUYER_KEY)?;
        let mut harness = Harness::prepare(setup, topology, class, rules).await?;
        harness.etcd.start()?;
        harness.api_server.start()?;
        for which in 0..harness.redis.len() {
            harness.start_redis(which)?;
        }
        harness.mysql.start()?;
        for broker in &mut harness.kafka {
            broker.start()?;
        }
        harness.join_redis().await?;
        harness.wait_for_mysql().await?;
        harness.wait_for_kafka().await?;
        harness.wait_for_cluster().await?;
        seckill_ledger::migrate(&harness.mysql_url())
            .await
            .context("failed to create the schema")?;
        harness.create_topic().await?;
        Ok(harness)
    }

    /// Waits for the Redis servers, and brings them together.
    async fn join_redis(&mut self) -> Result<()> {
        for which in 0..self.redis.len() {
            self.wait_for_redis(which).await?;
        }
        if self.redis_servers.topology == Topology::Cluster {
            self.redis_servers.create_cluster().await?;
        }
        for sentinel in &mut self.sentinels {
            sentinel.start()?;
        }
        let servers = self.redis_servers.clone();
        wait_until("all of Redis", async || servers.check_whole().await).await
    }

    /// Starts the programs. They break the rules from the start.
    pub async fn start_programs(&mut self) -> Result<()> {
        self.restart_programs()?;
        self.wait_for_apis().await
    }

    /// Everything but the processes.
    async fn prepare(setup: Setup, topology: Topology, class: &str, rules: &[&str]) -> Result<Self> {
        let logs = setup.folder.join("logs");
        std::fs::create_dir_all(&logs)?;
        let address = |port: u16| -> Result<SocketAddr> { Ok(format!("{}:{port}", setup.address).parse()?) };
        let redis_forward = async || Forward::to(&setup.address, address(setup.ports.redis)?).await;
        let redis_forwards = Forwards([redis_forward().await?, redis_forward().await?, redis_forward().await?]);
        let mysql_forward = Forward::to(&setup.address, address(setup.ports.mysql)?).await?;
        let api_addresses = [address(API_PORTS[0])?, address(API_PORTS[1])?];

        let redis_servers = RedisServers::new(topology, &setup)?;
        let env = environment(&setup, class, mysql_forward.address);
        let program = |name: &str, which: usize, arguments: &[&str]| -> Result<Process> {
            let mut env = env.clone();
            let forward = if name == "seckill-api" { which } else { 2 };
            let url = redis_servers.program_url(redis_forwards.0[forward].address);
            env.insert("SECKILL_REDIS_URL".into(), url);
            if name == "seckill-api" {
                env.insert("SECKILL_LISTEN".into(), api_addresses[which].to_string());
            }
            let mut spec = program_spec(&setup, name, which, arguments, env, rules)?;
            if name == "seckill-api" {
                let limit = MAX_CONNECTIONS_PER_ADDRESS.to_string();
                spec.env.insert("SECKILL_MAX_CONNECTIONS_PER_ADDRESS".into(), limit);
                spec.argv
                    .splice(0..0, ["prlimit".into(), API_OPEN_FILES.into(), "--".into()]);
            }
            Ok(Process::new(&format!("{name}-{which}"), spec, &logs))
        };
        let operator = |which: usize| -> Result<Process> {
            let mut process = program("operator", which, &["run"])?;
            give_clock(&setup, &mut process.spec)?;
            Ok(process)
        };
        let server = |name: &str, spec: &Spec| Process::new(name, spec.clone(), &logs);
        let redis = |which: usize| -> Result<Process> {
            let mut process = server(&format!("redis-{which}"), &setup.redis[which]);
            give_clock(&setup, &mut process.spec)?;
            Ok(process)
        };
        let mut other_operator = program("operator", 2, &["run"])?;
        let [own, other] = &setup.clusters;
        other_operator.spec.env.extend([
            ("KUBECONFIG".into(), other.kubeconfig.display().to_string()),
            ("SECKILL_CLUSTER_IDENTITY".into(), "other".into()),
        ]);
        Ok(Harness {
            redis: (0..setup.redis.len()).map(redis).collect::<Result<_>>()?,
            sentinels: (setup.sentinels.iter().enumerate())
                .map(|(i, spec)| server(&format!("sentinel-{i}"), spec))
                .collect(),
            redis_servers: redis_servers.clone(),
            primary: 0,
            main_sale: None,
            mysql: server("mysql-0", &setup.mysql),
            mysql_replica: setup.mysql_replica.as_ref().map(|spec| server("mysql-1", spec)),
            kafka: (setup.kafka.iter().enumerate())
                .map(|(i, spec)| server(&format!("kafka-{i}"), spec))
                .collect(),
            api: [program("seckill-api", 0, &[])?, program("seckill-api", 1, &[])?],
            worker: [
                program("order-worker", 0, &["run"])?,
                program("order-worker", 1, &["run"])?,
            ],
            operator: [operator(0)?, operator(1)?],
            etcd: server("etcd", &setup.etcd),
            api_server: server("kube-apiserver-0", &own.api_server),
            other_cluster: OtherCluster {
                api_server: server("kube-apiserver-1", &other.api_server),
                operator: other_operator,
            },
            redis_forwards,
            mysql_forward,
            api_addresses,
            held: Vec::new(),
            armed_failpoints: BTreeSet::new(),
            setup,
        })
    }

    async fn create_topic(&self) -> Result<()> {
        let (replicas, min_insync) = replication(self.kafka.len());
        let config = self.log_config();
        wait_until("the topic", async || {
            seckill_order_log::ensure_topic(&config, PARTITIONS, replicas, min_insync).await?;
            Ok(())
        })
        .await
    }

    async fn wait_for_apis(&mut self) -> Result<()> {
        let started = Instant::now();
        for address in self.api_addresses {
            while TcpStream::connect(address).await.is_err() {
                if started.elapsed() > START_TIMEOUT {
                    bail!("seckill-api does not listen; end of its log:\n{}", self.api[0].tail(10));
                }
                self.run_for(Duration::from_millis(200)).await?;
            }
        }
        Ok(())
    }
}

/// The environment variables that all programs share. A program ignores those that it does not know.
fn environment(setup: &Setup, class: &str, mysql: SocketAddr) -> BTreeMap<String, String> {
    let (replicas, min_insync) = replication(setup.kafka.len());
    let variables = [
        (
            "SECKILL_MYSQL_URL",
            format!("mysql://root:{}@{mysql}/seckill", setup.mysql_password),
        ),
        ("SECKILL_KAFKA_BROKERS", setup.broker_addresses().join(",")),
        ("SECKILL_KAFKA_TOPIC", TOPIC.into()),
        ("SECKILL_TOPIC_REPLICATION", replicas.to_string()),
        ("SECKILL_TOPIC_MIN_INSYNC", min_insync.to_string()),
        ("SECKILL_ADMIN_LISTEN", format!("{}:0", setup.address)),
        ("SECKILL_LOG", "info".into()),
        ("SECKILL_LOG_FORMAT", "text".into()),
        ("SECKILL_CLASS", class.into()),
        ("SECKILL_ORDER_NO_KEYS", ORDER_NO_KEYS.into()),
        (
            "SECKILL_ISSUERS_FILE",
            setup.folder.join("issuers.yaml").display().to_string(),
        ),
        (
            "SECKILL_BUYER_KEY_FILE",
            setup.folder.join("buyer-key").display().to_string(),
        ),
        ("SECKILL_WATCH_NAMESPACES", class.into()),
        ("SECKILL_API_DEPLOYMENT", format!("{class}/api")),
        ("SECKILL_WORKER_DEPLOYMENT", format!("{class}/worker")),
        ("SECKILL_API_MIN_REPLICAS", "1".into()),
        ("SECKILL_WORKER_MIN_REPLICAS", "1".into()),
        // Short, so that many leaders can die in a run.
        ("SECKILL_LEASE_SECONDS", LEASE_DURATION.as_secs().to_string()),
        ("SECKILL_LEASE_NAMESPACE", class.into()),
        ("SECKILL_CLUSTER_IDENTITY", "chaos".into()),
        ("SECKILL_DELETION_GRACE_SECONDS", DELETION_GRACE.as_secs().to_string()),
        ("KUBECONFIG", setup.clusters[0].kubeconfig.display().to_string()),
        ("NO_COLOR", "1".into()),
    ];
    variables.map(|(name, value)| (name.to_owned(), value)).into()
}

/// The command line of a program, and the folder of its fail points.
fn program_spec(
    setup: &Setup,
    name: &str,
    which: usize,
    arguments: &[&str],
    mut env: BTreeMap<String, String>,
    rules: &[&str],
) -> Result<Spec> {
    let path = setup.programs.get(name).with_context(|| format!("no program {name}"))?;
    let host = format!("{name}-{which}");
    let folder = setup.folder.join("failpoints").join(&host);
    break_rules(&folder, rules)?;
    env.insert("SECKILL_FAILPOINTS".into(), folder.display().to_string());
    env.insert("SECKILL_POD_NAME".into(), host);
    let argv = [path.display().to_string()].into_iter();
    Ok(Spec {
        argv: argv.chain(arguments.iter().map(|word| (*word).to_owned())).collect(),
        env,
        folder,
    })
}

/// Lets a process read a wall clock of its own.
fn give_clock(setup: &Setup, spec: &mut Spec) -> Result<()> {
    let file = spec.folder.join(CLOCK_FILE);
    std::fs::write(&file, [0; 8])?;
    spec.env.extend([
        ("LD_PRELOAD".into(), setup.clock.display().to_string()),
        ("SECKILL_CLOCK".into(), file.display().to_string()),
    ]);
    Ok(())
}

fn break_rules(folder: &Path, rules: &[&str]) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for rule in rules {
        std::fs::write(folder.join(rule), "")?;
    }
    Ok(())
}

/// Replicas of the topic, and how many of them must have a record.
fn replication(brokers: usize) -> (u32, u32) {
    if brokers > 1 { (3, 2) } else { (1, 1) }
}
