//! The connection pool, time limits and snapshots.
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use seckill_protocol::{FORMAT, Format};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::pool::PoolConnection;
use sqlx::{ConnectOptions, Connection, Executor, MySql, MySqlConnection, MySqlPool};

use crate::diagnosis::step_that_hangs;
use crate::error::LedgerError;

/// How long a caller waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A query that takes longer never ends: the host of the server is gone. Its caller must be free again
/// soon.
pub(crate) const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// The statements after which all queries see the ledger at one instant.
pub(crate) const START_SNAPSHOT: [&str; 2] = [
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
];

/// A handle on the ledger. Clones share their connections.
#[derive(Clone)]
pub struct Ledger {
    pool: MySqlPool,
    /// The format that this program speaks.
    pub(crate) spoken: Format,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ledger")
    }
}

impl Ledger {
    /// Connects to `mysql://user:password@host:port/database`. The pool replaces broken connections.
    pub async fn connect(url: &str, max_connections: u32) -> Result<Self, LedgerError> {
        let options = connect_options(url)?;
        // The pool hides connection errors behind its own timeout, so the first connection is made without it.
        first_connection(&options).await?;
        let pool = MySqlPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(|connection, _| Box::pin(set_up(connection)))
            .connect_lazy_with(options);
        Ok(Ledger { pool, spoken: FORMAT })
    }

    /// The same for a program that speaks another format than this code, as tests need it.
    pub fn speaking(mut self, format: Format) -> Self {
        self.spoken = format;
        self
    }

    /// The most connections that the server allows to all its clients together.
    pub async fn max_connections(&self) -> Result<u64, LedgerError> {
        self.query(async |connection| {
            let query = sqlx::query_scalar("SELECT CAST(@@max_connections AS UNSIGNED)");
            Ok(query.fetch_one(connection).await?)
        })
        .await
    }

    pub(crate) async fn acquire(&self) -> Result<LedgerConnection, LedgerError> {
        Ok(LedgerConnection {
            connection: self.pool.acquire().await?,
            clean: false,
        })
    }

    /// Runs queries without a transaction.
    pub(crate) async fn query<T>(
        &self,
        run: impl AsyncFnOnce(&mut MySqlConnection) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let mut connection = self.acquire().await?;
        let answer = within(QUERY_TIMEOUT, run(&mut connection)).await;
        connection.clean = answer.is_ok();
        answer
    }

    /// Runs queries that all see the ledger at one instant, within the time limit of one query.
    pub(crate) async fn snapshot<T>(
        &self,
        run: impl AsyncFnOnce(&mut MySqlConnection) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.query(async |connection| {
            begin_snapshot(connection).await?;
            let answer = run(connection).await?;
            connection.execute("COMMIT").await?;
            Ok(answer)
        })
        .await
    }
}

async fn begin_snapshot(connection: &mut MySqlConnection) -> Result<(), LedgerError> {
    for statement in START_SNAPSHOT {
        connection.execute(statement).await?;
    }
    Ok(())
}

/// A connection that returns to the pool only after success. After an error, a timeout or a dropped caller it is
/// closed, and the server rolls back.
pub(crate) struct LedgerConnection {
    connection: PoolConnection<MySql>,
    clean: bool,
}

impl LedgerConnection {
    pub(crate) fn give_back(mut self) {
        self.clean = true;
    }
}

impl Drop for LedgerConnection {
    fn drop(&mut self) {
        if !self.clean {
            self.connection.close_on_drop();
        }
    }
}

impl Deref for LedgerConnection {
    type Target = MySqlConnection;
    fn deref(&self) -> &MySqlConnection {
        &self.connection
    }
}

impl DerefMut for LedgerConnection {
    fn deref_mut(&mut self) -> &mut MySqlConnection {
        &mut self.connection
    }
}

pub(crate) fn connect_options(url: &str) -> Result<MySqlConnectOptions, LedgerError> {
    let options: MySqlConnectOptions = url.parse().map_err(|_| LedgerError::Url)?;
    Ok(options.disable_statement_logging())
}

/// Connects once. After a timeout, the error names the step that hangs.
async fn first_connection(options: &MySqlConnectOptions) -> Result<(), LedgerError> {
    match within(ACQUIRE_TIMEOUT, async { Ok(options.connect().await?.close().await?) }).await {
        Err(LedgerError::TimedOut(seconds)) if options.get_socket().is_none() => {
            let (host, port) = (options.get_host(), options.get_port());
            Err(LedgerError::ConnectTimedOut {
                address: format!("{host}:{port}"),
                seconds,
                step: step_that_hangs(host, port).await,
            })
        }
        result => result,
    }
}

/// The defaults of the server may differ. A value that does not fit must be refused, not truncated.
async fn set_up(connection: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    connection
        .execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        .await?;
    connection
        .execute("SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')")
        .await?;
    Ok(())
}

pub(crate) async fn within<T>(
    limit: Duration,
    run: impl Future<Output = Result<T, LedgerError>>,
) -> Result<T, LedgerError> {
    tokio::time::timeout(limit, run)
        .await
        .unwrap_or(Err(LedgerError::TimedOut(limit.as_secs())))
}

#[cfg(test)]
mod tests {
    use super::connect_options;

    #[test]
    fn an_invalid_url_is_refused_without_its_values() {
        for url in [
            "mysql://user:hunter2@host/db?ssl-mode=hunter2",
            "mysql://user:hunter2@host/db?statement-cache-capacity=hunter2",
            "mysql://user:hunter2@host:hunter2/db",
        ] {
            let error = connect_options(url).map(drop).expect_err(url);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
