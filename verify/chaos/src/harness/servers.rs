//! Commands to Redis, MySQL and Kafka, and waiting until they answer.
use std::io::Write as _;

use anyhow::{Context as _, Result, bail};
use futures::future::join_all;
use tokio::net::TcpStream;

use super::{CLOCK_FILE, Harness, Target, wait_for, wait_until};
use crate::setup::Topology;

impl Harness {
    pub async fn redis(&self, which: usize, words: &[&str]) -> Result<redis::Value> {
        self.redis_servers.command(which, words).await
    }

    /// Sends a command to each Redis that takes writes.
    pub async fn redis_primaries(&self, words: &[&str]) -> Result<()> {
        let primaries = match self.redis_servers.topology {
            Topology::Single => vec![self.primary],
            Topology::Sentinel | Topology::Cluster => self.redis_servers.primaries().await,
        };
        for which in primaries {
            self.redis(which, words).await?;
        }
        Ok(())
    }

    pub async fn flush_redis(&self) -> Result<()> {
        self.redis_primaries(&["FLUSHALL"]).await
    }

    /// Closes all connections of the programs to Redis.
    pub async fn cut_redis(&self) -> Result<()> {
        if self.redis_servers.topology == Topology::Single {
            self.redis_forwards.cut();
            return Ok(());
        }
        for which in 0..self.redis.len() {
            self.redis(which, &["CLIENT", "KILL", "TYPE", "normal"]).await?;
        }
        Ok(())
    }

    /// Starts one Redis: a single one as the primary or as a replica of the primary, others in the role that they had.
    pub fn start_redis(&mut self, which: usize) -> Result<()> {
        if self.redis_servers.topology != Topology::Single {
            return self.redis[which].start();
        }
        let primary = self.redis_servers.address(self.primary);
        let replica_of = [
            "--replicaof".to_owned(),
            primary.ip().to_string(),
            primary.port().to_string(),
        ];
        let arguments = if which == self.primary { &[][..] } else { &replica_of };
        self.redis[which].start_with(arguments)
    }

    pub async fn restart_primary(&mut self) -> Result<()> {
        self.start_redis(self.primary)?;
        self.wait_for_redis(self.primary).await
    }

    /// Looks up which Redis has the main sale. Sentinels and Clusters may have promoted another one.
    pub async fn find_primary(&mut self) -> Result<()> {
        let (servers, sale) = (self.redis_servers.clone(), self.main_sale);
        let Some(sale) = sale.filter(|_| servers.topology != Topology::Single) else {
            return Ok(());
        };
        let find = wait_for("the Redis of the main sale", async || servers.server_of(sale).await);
        self.primary = self.run_until(find).await?;
        Ok(())
    }

    /// Waits until one of these servers of the main sale has become a primary.
    pub async fn wait_for_promotion(&mut self, replicas: &[usize]) -> Result<()> {
        let servers = self.redis_servers.clone();
        let promoted = wait_for("a promoted replica", async || {
            let roles = join_all(replicas.iter().map(|which| servers.is_primary(*which))).await;
            let promoted = replicas.iter().zip(roles).find(|(_, is_primary)| *is_primary);
            promoted.map(|(which, _)| *which).context("no replica is promoted")
        });
        self.primary = self.run_until(promoted).await?;
        Ok(())
    }

    /// Waits until every primary has its replicas again, in sync, and all agree on that.
    pub async fn wait_for_whole_redis(&mut self) -> Result<()> {
        let servers = self.redis_servers.clone();
        let whole = wait_until("all of Redis", async || servers.check_whole().await);
        self.run_until(whole).await?;
        self.find_primary().await
    }

    /// Moves the wall clock of all Redis servers, or of both operators.
    pub fn set_clock_offset(&self, target: Target, ms: i64) -> Result<()> {
        let processes = match target {
            Target::Redis => &self.redis[..],
            _ => &self.operator[..],
        };
        for process in processes {
            // The process maps this file, so it must never be truncated.
            let file = process.spec.folder.join(CLOCK_FILE);
            std::fs::File::options()
                .write(true)
                .open(file)?
                .write_all(&ms.to_ne_bytes())?;
        }
        Ok(())
    }

    /// The connections of all programs stay as they are, and so may lead to the server that was the primary.
    pub async fn promote(&mut self) -> Result<()> {
        let new = 1 - self.primary;
        self.redis(new, &["REPLICAOF", "NO", "ONE"]).await?;
        self.redis_forwards.redirect_to(self.redis_servers.address(new));
        self.primary = new;
        Ok(())
    }

    /// Makes the other Redis a replica of the primary, in place.
    pub async fn demote_other(&self) -> Result<()> {
        let address = self.redis_servers.address(self.primary);
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        self.redis(1 - self.primary, &["REPLICAOF", &host, &port]).await?;
        Ok(())
    }

    pub async fn wait_for_redis(&self, which: usize) -> Result<()> {
        wait_until("Redis", async || {
            self.redis(which, &["PING"]).await?;
            Ok(())
        })
        .await
    }

    /// Waits until the replica is connected to the primary and has nearly all of its data.
    pub async fn wait_for_replica(&self) -> Result<()> {
        wait_until("the replica of Redis", async || {
            let info: String = redis::from_redis_value(self.redis(1 - self.primary, &["INFO", "replication"]).await?)?;
            if info.contains("role:slave") && info.contains("master_link_status:up") {
                return Ok(());
            }
            bail!("no link to the primary: {info}")
        })
        .await
    }

    pub async fn restart_mysql(&mut self) -> Result<()> {
        self.mysql.start()?;
        self.wait_for_mysql().await
    }

    pub async fn wait_for_mysql(&self) -> Result<()> {
        let url = self.mysql_url();
        wait_until("MySQL", async || {
            seckill_ledger::Ledger::connect(&url, 1).await?;
            Ok(())
        })
        .await
    }

    pub async fn restart_kafka(&mut self) -> Result<()> {
        for broker in &mut self.kafka {
            broker.start()?;
        }
        self.wait_for_kafka().await
    }

    pub async fn wait_for_kafka(&self) -> Result<()> {
        for address in self.setup.broker_addresses() {
            wait_until("Kafka", async || {
                TcpStream::connect(&address).await?;
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}
