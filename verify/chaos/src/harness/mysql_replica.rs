//! A replica of MySQL. It joins when a fault needs it: it clones the primary, and then follows it semi-synchronously, so that
//! it has each commit that the primary acknowledges.
use std::mem::swap;

use anyhow::{Context as _, Result, bail, ensure};
use sqlx::{Connection as _, MySqlConnection, Row as _};

use super::{Harness, wait_until};

impl Harness {
    /// Starts the replica, and waits until it has all data of the primary.
    pub async fn join_mysql_replica(&mut self) -> Result<()> {
        let (primary, replica) = (self.mysql_url(), self.mysql_url_at(self.setup.ports.mysql_replica));
        let (address, password) = (self.setup.address.clone(), self.setup.mysql_password.clone());
        let port = self.setup.ports.mysql;
        self.start_mysql_replica(&replica).await?;
        let clone = format!(
            "SET GLOBAL clone_valid_donor_list = '{address}:{port}'; \
             CLONE INSTANCE FROM 'root'@'{address}':{port} IDENTIFIED BY '{password}'"
        );
        // The clone is complete when the server shuts down, which its last statement reports as an error.
        let result = self.run_until(execute(&replica, &clone)).await;
        let process = self.mysql_replica.as_mut().context("no replica")?;
        let ended = wait_until("the end of the clone", async || {
            ensure!(!process.is_running(), "the replica did not shut down: {result:?}");
            Ok(())
        });
        ended.await?;
        self.start_mysql_replica(&replica).await?;
        let follow = format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '{address}', SOURCE_PORT = {port}, SOURCE_USER = 'root', \
             SOURCE_PASSWORD = '{password}', SOURCE_SSL = 1, SOURCE_AUTO_POSITION = 1; \
             SET GLOBAL rpl_semi_sync_replica_enabled = ON; START REPLICA"
        );
        execute(&replica, &follow).await?;
        // Only now: without a replica every commit of the primary would wait.
        execute(
            &primary,
            "SET GLOBAL rpl_semi_sync_source_timeout = 3600000; SET GLOBAL rpl_semi_sync_source_enabled = ON",
        )
        .await?;
        let joined = wait_until("the replica of MySQL", async || {
            let mut connection = MySqlConnection::connect(&primary).await?;
            for (status, expected) in [("source_clients", "1"), ("source_status", "ON")] {
                let show = format!("SHOW STATUS LIKE 'Rpl_semi_sync_{status}'");
                let row = sqlx::raw_sql(sqlx::AssertSqlSafe(show))
                    .fetch_one(&mut connection)
                    .await?;
                let value: String = row.try_get(1)?;
                ensure!(value == expected, "{status} is {value}");
            }
            Ok(())
        });
        self.run_until(joined).await
    }

    /// Undoes a join that did not lead to a promotion: commits must not wait for the replica any more.
    pub async fn dismiss_mysql_replica(&mut self) -> Result<()> {
        let Some(process) = &mut self.mysql_replica else {
            return Ok(());
        };
        if !process.is_running() {
            return Ok(());
        }
        process.kill()?;
        execute(&self.mysql_url(), "SET GLOBAL rpl_semi_sync_source_enabled = OFF").await
    }

    /// Makes the replica the primary, after the primary has died. New connections lead to it.
    pub async fn promote_mysql(&mut self) -> Result<()> {
        let replica = self.mysql_url_at(self.setup.ports.mysql_replica);
        execute(&replica, "STOP REPLICA IO_THREAD").await?;
        let mut connection = MySqlConnection::connect(&replica).await?;
        let applied: Option<i64> = sqlx::query_scalar(
            "SELECT WAIT_FOR_EXECUTED_GTID_SET(RECEIVED_TRANSACTION_SET, 60) \
             FROM performance_schema.replication_connection_status",
        )
        .fetch_one(&mut connection)
        .await?;
        ensure!(applied == Some(0), "the replica did not apply what it has received");
        execute(&replica, "STOP REPLICA; RESET REPLICA ALL").await?;
        let Some(process) = &mut self.mysql_replica else {
            bail!("no replica");
        };
        swap(&mut self.mysql, process);
        let ports = &mut self.setup.ports;
        swap(&mut ports.mysql, &mut ports.mysql_replica);
        let address = format!("{}:{}", self.setup.address, ports.mysql);
        self.mysql_forward.redirect_to(address.parse()?);
        Ok(())
    }

    async fn start_mysql_replica(&mut self, url: &str) -> Result<()> {
        self.mysql_replica.as_mut().context("no replica")?.start()?;
        let answers = wait_until("the replica of MySQL", async || {
            MySqlConnection::connect(url).await?.ping().await?;
            Ok(())
        });
        self.run_until(answers).await
    }
}

/// Runs statements one after the other.
async fn execute(url: &str, statements: &str) -> Result<()> {
    let mut connection = MySqlConnection::connect(url).await?;
    for statement in statements.split("; ") {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()))
            .execute(&mut connection)
            .await
            .with_context(|| statement.split_whitespace().take(3).collect::<Vec<_>>().join(" "))?;
    }
    Ok(())
}
