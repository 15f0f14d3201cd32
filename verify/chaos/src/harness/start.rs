//! Starts the servers, creates the schema and the topic, and starts the programs.
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Harness, LEASE_DURATION, ORDER_NO_KEYS, START_TIMEOUT, TOPIC, wait_until};
use crate::forward::Forward;
use crate::process::Process;
use crate::setup::{Setup, Spec};

const PARTITIONS: u32 = 4;
const API_PORTS: [u16; 2] = [18080, 18081];

impl Harness {
    /// `class` is the class and namespace of the sales. The programs break `rules` from the start.
    pub async fn start(setup: Setup, class: &str, rules: &[&str]) -> Result<Self> {
        let mut harness = Harness::prepare(setup, class, rules).await?;
        harness.start_servers().await?;
        seckill_ledger::migrate(&harness.mysql_url())
            .await
            .context("failed to create the schema")?;
        harness.create_topic().await?;
        harness.restart_programs()?;
        harness.wait_for_apis().await?;
        Ok(harness)
    }

    /// Everything but the processes.
    async fn prepare(setup: Setup, class: &str, rules: &[&str]) -> Result<Self> {
        let logs = setup.folder.join("logs");
        std::fs::create_dir_all(&logs)?;
        let address = |port: u16| -> Result<SocketAddr> { Ok(format!("{}:{port}", setup.address).parse()?) };
        let redis_forward = Forward::to(&setup.address, address(setup.ports.redis[0])?).await?;
        let mysql_forward = Forward::to(&setup.address, address(setup.ports.mysql)?).await?;
        let api_addresses = [address(API_PORTS[0])?, address(API_PORTS[1])?];

        let env = environment(&setup, class, redis_forward.address, mysql_forward.address);
        let program = |name: &str, which: usize, arguments: &[&str]| -> Result<Process> {
            let mut env = env.clone();
            if name == "seckill-api" {
                env.insert("SECKILL_LISTEN".into(), api_addresses[which].to_string());
            }
            let spec = program_spec(&setup, name, which, arguments, env, rules)?;
            Ok(Process::new(&format!("{name}-{which}"), spec, &logs))
        };
        let server = |name: &str, spec: &Spec| Process::new(name, spec.clone(), &logs);
        Ok(Harness {
            redis: [server("redis-0", &setup.redis[0]), server("redis-1", &setup.redis[1])],
            primary: 0,
            mysql: server("mysql", &setup.mysql),
            kafka: (setup.kafka.iter().enumerate())
                .map(|(i, spec)| server(&format!("kafka-{i}"), spec))
                .collect(),
            api: [program("seckill-api", 0, &[])?, program("seckill-api", 1, &[])?],
            worker: [
                program("order-worker", 0, &["run"])?,
                program("order-worker", 1, &["run"])?,
            ],
            operator: [program("operator", 0, &["run"])?, program("operator", 1, &["run"])?],
            redis_forward,
            mysql_forward,
            api_addresses,
            armed_failpoints: BTreeSet::new(),
            setup,
        })
    }

    async fn start_servers(&mut self) -> Result<()> {
        self.start_redis(0)?;
        self.start_redis(1)?;
        self.mysql.start()?;
        for broker in &mut self.kafka {
            broker.start()?;
        }
        self.wait_for_redis(0).await?;
        self.wait_for_redis(1).await?;
        self.wait_for_mysql().await?;
        self.wait_for_kafka().await
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

/// The environment variables that all programs share.
fn environment(setup: &Setup, class: &str, redis: SocketAddr, mysql: SocketAddr) -> BTreeMap<String, String> {
    let (replicas, min_insync) = replication(setup.kafka.len());
    let variables = [
        (
            "SECKILL_REDIS_URL",
            format!("redis://:{}@{redis}", setup.redis_password),
        ),
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
        ("SECKILL_WATCH_NAMESPACES", class.into()),
        ("SECKILL_API_DEPLOYMENT", format!("{class}/api")),
        ("SECKILL_WORKER_DEPLOYMENT", format!("{class}/worker")),
        ("SECKILL_API_MIN_REPLICAS", "1".into()),
        ("SECKILL_WORKER_MIN_REPLICAS", "1".into()),
        // Short, so that many leaders can die in a run.
        ("SECKILL_LEASE_SECONDS", LEASE_DURATION.as_secs().to_string()),
        ("SECKILL_LEASE_NAMESPACE", class.into()),
        ("KUBECONFIG", setup.kubeconfig.display().to_string()),
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
    env.insert("HOSTNAME".into(), host);
    let argv = [path.display().to_string()].into_iter();
    Ok(Spec {
        argv: argv.chain(arguments.iter().map(|word| (*word).to_owned())).collect(),
        env,
        folder,
    })
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
