//! The servers and programs of a run.
//!
//! - [`start`]: starts them in order
//! - [`redis_servers`]: where the Redis servers are, and which of them are primaries
//! - [`servers`]: commands to Redis, MySQL and Kafka, and waiting until they answer
//! - [`mysql_replica`]: a replica of MySQL joins, and is promoted
//! - [`cluster`]: the API servers of the run's own cluster, and of another one
//! - [`failpoints`]: makes a program abort or stop at a named place in its code
//! - [`repair`]: undoes what a fault left behind
//! - [`wait`]: repeats an attempt until a server answers
mod cluster;
mod failpoints;
mod mysql_replica;
mod redis_servers;
mod repair;
mod servers;
mod start;
mod wait;

pub use failpoints::FailpointAction;
pub use redis_servers::RedisServers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use seckill_ledger::Ledger;
use seckill_order_log::{LogConfig, OrderLog};
use seckill_protocol::SaleId;
use tokio::time::{Instant, sleep};

use self::wait::{START_TIMEOUT, wait_for, wait_until};
use crate::forward::{Forward, Forwards};
use crate::process::Process;
use crate::setup::{Setup, Topology};

/// How often programs that ended are started again.
const RESTART_INTERVAL: Duration = Duration::from_millis(200);
/// The operators' lease: the other operator takes over after this time.
pub const LEASE_DURATION: Duration = Duration::from_secs(5);
const TOPIC: &str = "seckill-orders";
/// In the folder of a process with a wall clock of its own.
const CLOCK_FILE: &str = "clock";
/// A deleted FlashSale suspends its sale for this time, and then ends it.
const DELETION_GRACE: Duration = Duration::from_secs(60);
/// The checker decodes order numbers with these keys.
pub const ORDER_NO_KEYS: &str = "1:00112233445566778899aabbccddeeff";

/// Whose process a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Api,
    Worker,
    Operator,
    Redis,
    Kafka,
    Mysql,
}

pub struct Harness {
    setup: Setup,
    pub redis: Vec<Process>,
    pub sentinels: Vec<Process>,
    pub redis_servers: RedisServers,
    /// The Redis that takes the writes of the main sale.
    pub primary: usize,
    /// Known since the main sale was created.
    pub main_sale: Option<SaleId>,
    /// The MySQL that takes writes.
    pub mysql: Process,
    /// Runs only during a fault.
    mysql_replica: Option<Process>,
    pub kafka: Vec<Process>,
    pub api: [Process; 2],
    pub worker: [Process; 2],
    pub operator: [Process; 2],
    pub etcd: Process,
    pub api_server: Process,
    other_cluster: OtherCluster,
    /// The programs reach a single Redis through these: each seckill-api through the one with its number, all others through the last.
    pub redis_forwards: Forwards<3>,
    /// The programs reach MySQL through this.
    pub mysql_forward: Forward,
    pub api_addresses: [SocketAddr; 2],
    /// Programs that stay down until the fault is over.
    pub held: Vec<Target>,
    armed_failpoints: BTreeSet<String>,
}

/// Another cluster, with an operator of the same class. Both run only during a fault.
pub struct OtherCluster {
    pub api_server: Process,
    pub operator: Process,
}

impl Harness {
    pub fn mysql_url(&self) -> String {
        self.mysql_url_at(self.setup.ports.mysql)
    }

    fn mysql_url_at(&self, port: u16) -> String {
        let (password, address) = (&self.setup.mysql_password, &self.setup.address);
        format!("mysql://root:{password}@{address}:{port}/seckill")
    }

    /// The URL of the Redis that has a sale.
    pub async fn redis_url_of(&self, sale: SaleId) -> Result<String> {
        let which = match self.redis_servers.topology {
            Topology::Single => self.primary,
            Topology::Sentinel | Topology::Cluster => {
                let servers = &self.redis_servers;
                wait_for("the Redis of a sale", async || servers.server_of(sale).await).await?
            }
        };
        Ok(self.redis_servers.url(which))
    }

    pub async fn log(&self) -> Result<OrderLog> {
        Ok(OrderLog::connect(self.log_config()).await?)
    }

    /// Programs break connections to MySQL, this one does not.
    pub async fn ledger(&self) -> Result<Ledger> {
        Ok(Ledger::connect(&self.mysql_url(), 2).await?)
    }

    fn log_config(&self) -> LogConfig {
        LogConfig {
            brokers: self.setup.broker_addresses().join(","),
            topic: TOPIC.into(),
            properties: Vec::new(),
        }
    }

    /// One process of a program or server; of Redis it is the primary.
    pub fn process(&mut self, target: Target, which: usize) -> &mut Process {
        match target {
            Target::Api => &mut self.api[which],
            Target::Worker => &mut self.worker[which],
            Target::Operator => &mut self.operator[which],
            Target::Redis => &mut self.redis[self.primary],
            Target::Kafka => {
                let which = which % self.kafka.len();
                &mut self.kafka[which]
            }
            Target::Mysql => &mut self.mysql,
        }
    }

    fn programs(&self) -> impl Iterator<Item = &Process> {
        self.api.iter().chain(&self.worker).chain(&self.operator)
    }

    /// Starts every program that does not run, as Kubernetes would.
    pub fn restart_programs(&mut self) -> Result<()> {
        let programs = [
            (Target::Api, &mut self.api),
            (Target::Worker, &mut self.worker),
            (Target::Operator, &mut self.operator),
        ];
        let held = &self.held;
        for (_, processes) in programs.into_iter().filter(|(target, _)| !held.contains(target)) {
            for process in processes {
                process.start()?;
            }
        }
        Ok(())
    }

    /// Waits, and restarts programs that end meanwhile.
    pub async fn run_for(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            sleep(RESTART_INTERVAL.min(until - Instant::now())).await;
            self.restart_programs()?;
        }
        Ok(())
    }

    /// Waits for a future, and restarts programs that end meanwhile.
    pub async fn run_until<T>(&mut self, future: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::pin!(future);
        loop {
            tokio::select! {
                done = &mut future => return done,
                ran = self.run_for(RESTART_INTERVAL) => ran?,
            }
        }
    }

    /// The peak memory of each program, in KiB.
    pub fn peak_memory(&self) -> BTreeMap<String, u64> {
        self.programs()
            .map(|program| (program.name.clone(), program.peak_kib()))
            .collect()
    }
}
