//! All servers and programs of a run: how they are started, and that they answer.
use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use seckill_order_log::{LogConfig, OrderLog};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::forward::Forward;
use crate::process::Process;
use crate::setup::{Setup, Spec};

/// Far beyond what a start takes, for a machine that is busy with builds.
const PATIENCE: Duration = Duration::from_secs(90);
/// After that long without a word of the leading operator the other one takes over.
pub const LEASE: Duration = Duration::from_secs(5);
pub const PARTITIONS: u32 = 4;
pub const TOPIC: &str = "seckill-orders";
/// Order numbers of a run are decoded by the checker.
pub const ORDER_NO_KEYS: &str = "1:00112233445566778899aabbccddeeff";

pub struct World {
    setup: Setup,
    pub redis: [Process; 2],
    /// Which of the two takes writes.
    pub primary: usize,
    pub mysql: Process,
    pub kafka: Vec<Process>,
    pub api: [Process; 2],
    pub worker: [Process; 2],
    pub operator: [Process; 2],
    /// The programs' way to Redis and to MySQL.
    pub to_redis: Forward,
    pub to_mysql: Forward,
    pub api_addresses: [SocketAddr; 2],
}

impl World {
    /// Starts the servers, makes the schema and the topic, and starts the programs. `rules` are broken from the start.
    pub async fn start(setup: Setup, class: &str, rules: &[&str]) -> Result<Self> {
        let logs = setup.folder.join("logs");
        std::fs::create_dir_all(&logs)?;
        let address = |port: u16| -> Result<SocketAddr> { Ok(format!("{}:{port}", setup.address).parse()?) };
        let to_redis = Forward::to(&setup.address, address(setup.ports.redis[0])?).await?;
        let to_mysql = Forward::to(&setup.address, address(setup.ports.mysql)?).await?;
        let api_addresses = [address(18080)?, address(18081)?];

        let mut env = BTreeMap::new();
        let mut set = |name: &str, value: String| env.insert(name.to_owned(), value);
        set(
            "SECKILL_REDIS_URL",
            format!("redis://:{}@{}", setup.redis_password, to_redis.address),
        );
        set(
            "SECKILL_MYSQL_URL",
            format!("mysql://root:{}@{}/seckill", setup.mysql_password, to_mysql.address),
        );
        set("SECKILL_KAFKA_BROKERS", brokers(&setup));
        set("SECKILL_KAFKA_TOPIC", TOPIC.into());
        let (replicas, least) = replicas(setup.kafka.len());
        set("SECKILL_TOPIC_REPLICATION", replicas.to_string());
        set("SECKILL_TOPIC_MIN_INSYNC", least.to_string());
        set("SECKILL_ADMIN_LISTEN", format!("{}:0", setup.address));
        set("SECKILL_LOG", "info".into());
        set("SECKILL_LOG_FORMAT", "text".into());
        set("SECKILL_CLASS", class.into());
        set("SECKILL_ORDER_NO_KEYS", ORDER_NO_KEYS.into());
        set("SECKILL_WATCH_NAMESPACES", class.into());
        set("SECKILL_API_DEPLOYMENT", format!("{class}/api"));
        set("SECKILL_WORKER_DEPLOYMENT", format!("{class}/worker"));
        set("SECKILL_API_MIN_REPLICAS", "1".into());
        set("SECKILL_WORKER_MIN_REPLICAS", "1".into());
        // Short, so that many leaders can die in a run.
        set("SECKILL_LEASE_SECONDS", LEASE.as_secs().to_string());
        set("SECKILL_LEASE_NAMESPACE", class.into());
        set("KUBECONFIG", setup.kubeconfig.display().to_string());
        set("NO_COLOR", "1".into());

        let program = |name: &str, i: usize, words: &[&str]| -> Result<Process> {
            let path = setup.programs.get(name).with_context(|| format!("no program {name}"))?;
            let called = format!("{name}-{i}");
            let folder = setup.folder.join("failpoints").join(&called);
            std::fs::create_dir_all(&folder)?;
            for rule in rules {
                std::fs::write(folder.join(rule), "")?;
            }
            let mut env = env.clone();
            env.insert("SECKILL_FAILPOINTS".into(), folder.display().to_string());
            env.insert("HOSTNAME".into(), called.clone());
            if name == "seckill-api" {
                env.insert("SECKILL_LISTEN".into(), api_addresses[i].to_string());
            }
            let argv = [path.display().to_string()].into_iter();
            let spec = Spec {
                argv: argv.chain(words.iter().map(|w| (*w).to_owned())).collect(),
                env,
                folder,
            };
            Ok(Process::new(&called, spec, &logs))
        };
        let server = |name: &str, spec: &Spec| Process::new(name, spec.clone(), &logs);
        let mut world = World {
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
            to_redis,
            to_mysql,
            api_addresses,
            setup,
        };
        world.redis_starts(0)?;
        world.redis_starts(1)?;
        world.mysql.start()?;
        for broker in &mut world.kafka {
            broker.start()?;
        }
        world.redis_answers(0).await?;
        world.redis_answers(1).await?;
        world.mysql_answers().await?;
        world.kafka_answers().await?;
        seckill_ledger::migrate(&world.mysql_url())
            .await
            .context("the schema")?;
        world.make_topic().await?;
        world.tend()?;
        world.programs_answer().await?;
        Ok(world)
    }

    pub fn mysql_url(&self) -> String {
        format!(
            "mysql://root:{}@{}:{}/seckill",
            self.setup.mysql_password, self.setup.address, self.setup.ports.mysql
        )
    }

    pub fn redis_url(&self, which: usize) -> String {
        format!("redis://:{}@{}", self.setup.redis_password, self.redis_address(which))
    }

    pub fn redis_address(&self, which: usize) -> SocketAddr {
        let address = format!("{}:{}", self.setup.address, self.setup.ports.redis[which]);
        address.parse().unwrap_or(self.to_redis.address)
    }

    pub fn log_config(&self) -> LogConfig {
        LogConfig {
            brokers: brokers(&self.setup),
            topic: TOPIC.into(),
            properties: Vec::new(),
        }
    }

    pub async fn log(&self) -> Result<OrderLog> {
        Ok(OrderLog::connect(self.log_config()).await?)
    }

    /// Starts every program that does not run, as Kubernetes would.
    pub fn tend(&mut self) -> Result<()> {
        let programs = self.api.iter_mut().chain(&mut self.worker).chain(&mut self.operator);
        for program in programs {
            program.start()?;
        }
        Ok(())
    }

    /// Lets a time pass, in which programs that ended are started again.
    pub async fn pass(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            sleep(Duration::from_millis(200).min(until - Instant::now())).await;
            self.tend()?;
        }
        Ok(())
    }

    /// As the primary, or as a replica of it.
    pub fn redis_starts(&mut self, which: usize) -> Result<()> {
        let primary = self.redis_address(self.primary);
        let process = &mut self.redis[which];
        let plain = process.spec.argv.clone();
        if which != self.primary {
            let words = [
                "--replicaof".to_owned(),
                primary.ip().to_string(),
                primary.port().to_string(),
            ];
            process.spec.argv.extend(words);
        }
        let started = process.start();
        process.spec.argv = plain;
        started
    }

    /// Sets the wall clock of both off by so much.
    pub fn redis_clock(&self, ms: i64) -> Result<()> {
        for redis in &self.redis {
            // It is mapped there: it must not become shorter for a moment.
            let mut file = std::fs::File::options()
                .write(true)
                .open(redis.spec.folder.join("clock"))?;
            file.write_all(&ms.to_ne_bytes())?;
        }
        Ok(())
    }

    /// The most memory that each program had, in KiB.
    pub fn peaks(&self) -> BTreeMap<String, u64> {
        let programs = self.api.iter().chain(&self.worker).chain(&self.operator);
        programs
            .map(|program| (program.name.clone(), program.peak_kib()))
            .collect()
    }

    pub async fn redis(&self, which: usize, command: &[&str]) -> Result<redis::Value> {
        let client = redis::Client::open(self.redis_url(which))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut asked = redis::cmd(command[0]);
        for word in &command[1..] {
            asked.arg(*word);
        }
        Ok(asked.query_async(&mut connection).await?)
    }

    pub async fn redis_answers(&self, which: usize) -> Result<()> {
        until("Redis", async || {
            self.redis(which, &["PING"]).await?;
            Ok(())
        })
        .await
    }

    /// The replica holds what the primary holds, or nearly.
    pub async fn replica_follows(&self) -> Result<()> {
        until("the replica of Redis", async || {
            let said: String = redis::from_redis_value(self.redis(1 - self.primary, &["INFO", "replication"]).await?)?;
            if said.contains("role:slave") && said.contains("master_link_status:up") {
                return Ok(());
            }
            bail!("it does not follow: {said}")
        })
        .await
    }

    pub async fn mysql_answers(&self) -> Result<()> {
        let url = self.mysql_url();
        until("MySQL", async || {
            seckill_ledger::Ledger::connect(&url, 1).await?;
            Ok(())
        })
        .await
    }

    pub async fn kafka_answers(&self) -> Result<()> {
        for i in 0..self.kafka.len() {
            let address = format!("{}:{}", self.setup.address, self.setup.ports.kafka + i as u16);
            until("Kafka", async || {
                TcpStream::connect(&address).await?;
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    async fn make_topic(&self) -> Result<()> {
        let (replicas, least) = replicas(self.kafka.len());
        let config = self.log_config();
        until("the topic", async || {
            seckill_order_log::ensure_topic(&config, PARTITIONS, replicas, least).await?;
            Ok(())
        })
        .await
    }

    async fn programs_answer(&mut self) -> Result<()> {
        let begun = Instant::now();
        for address in self.api_addresses {
            while TcpStream::connect(address).await.is_err() {
                if begun.elapsed() > PATIENCE {
                    bail!("seckill-api does not listen; its log ends:\n{}", self.api[0].tail(10));
                }
                self.pass(Duration::from_millis(200)).await?;
            }
        }
        Ok(())
    }
}

/// Of the topic, and how many of them must have a record.
fn replicas(brokers: usize) -> (u32, u32) {
    if brokers > 1 { (3, 2) } else { (1, 1) }
}

fn brokers(setup: &Setup) -> String {
    let all = (0..setup.kafka.len()).map(|i| format!("{}:{}", setup.address, setup.ports.kafka + i as u16));
    all.collect::<Vec<_>>().join(",")
}

/// Waits until something works.
pub async fn until(what: &str, mut works: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    loop {
        let tried = tokio::time::timeout(Duration::from_secs(10), works()).await;
        let why = match tried {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => format!("{why:#}"),
            Err(_) => "no answer".into(),
        };
        if begun.elapsed() > PATIENCE {
            bail!("{what} is not there after {} s: {why}", PATIENCE.as_secs());
        }
        sleep(Duration::from_millis(100)).await;
    }
}
