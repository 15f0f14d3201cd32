//! Undoes whatever a fault left behind.
use anyhow::Result;

use super::{Harness, Target};

impl Harness {
    /// Starts a killed process again. Waits until it answers if it is a server.
    pub async fn restart(&mut self, target: Target, which: usize) -> Result<()> {
        match target {
            Target::Redis => self.restart_primary().await,
            Target::Mysql => self.restart_mysql().await,
            Target::Kafka => self.restart_kafka().await,
            Target::Api | Target::Worker | Target::Operator => self.process(target, which).start(),
        }
    }

    pub async fn repair(&mut self) -> Result<()> {
        self.disarm_failpoints();
        self.release_failpoints()?;
        self.held.clear();
        self.set_clock_offset(Target::Redis, 0)?;
        self.set_clock_offset(Target::Operator, 0)?;
        self.stop_other_cluster()?;
        let programs = self.api.iter_mut().chain(&mut self.worker).chain(&mut self.operator);
        let redis = self.redis.iter_mut().chain(&mut self.sentinels);
        let servers = redis.chain([&mut self.mysql]).chain(&mut self.kafka);
        let servers = servers.chain([&mut self.etcd, &mut self.api_server]);
        for process in programs.chain(servers) {
            if process.is_running() {
                process.resume()?;
            }
        }
        for which in 0..self.redis.len() {
            self.start_redis(which)?;
        }
        for sentinel in &mut self.sentinels {
            sentinel.start()?;
        }
        self.wait_for_redis(self.primary).await?;
        self.wait_for_whole_redis().await?;
        self.restart_mysql().await?;
        self.dismiss_mysql_replica().await?;
        self.restart_kafka().await?;
        self.restart_cluster().await?;
        self.restart_programs()
    }
}
