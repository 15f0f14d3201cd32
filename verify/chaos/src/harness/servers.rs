//! Commands to Redis, MySQL and Kafka, and waiting until they answer.
use std::io::Write as _;

use anyhow::{Result, bail};
use tokio::net::TcpStream;

use super::{CLOCK_FILE, Harness, Target, wait_until};

impl Harness {
    pub async fn redis(&self, which: usize, words: &[&str]) -> Result<redis::Value> {
        let client = redis::Client::open(self.redis_url(which))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        Ok(command.query_async(&mut connection).await?)
    }

    pub async fn flush_redis(&self) -> Result<()> {
        self.redis(self.primary, &["FLUSHALL"]).await?;
        Ok(())
    }

    /// Starts one Redis, as the primary or as a replica of the primary.
    pub fn start_redis(&mut self, which: usize) -> Result<()> {
        let primary = self.redis_address(self.primary);
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

    /// Moves the wall clock of both Redis servers, or of both operators.
    pub fn set_clock_offset(&self, target: Target, ms: i64) -> Result<()> {
        let processes = match target {
            Target::Redis => &self.redis,
            _ => &self.operator,
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
        self.redis_forwards.redirect_to(self.redis_address(new));
        self.primary = new;
        Ok(())
    }

    /// Makes the other Redis a replica of the primary, in place.
    pub async fn demote_other(&self) -> Result<()> {
        let address = self.redis_address(self.primary);
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
