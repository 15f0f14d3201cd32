//! The pool, time limits, snapshots.
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::pool::PoolConnection;
use sqlx::{ConnectOptions, Connection, Executor, MySql, MySqlConnection, MySqlPool};

use crate::error::LedgerError;

/// How long a caller waits for a connection.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(5);
/// A query that takes longer never ends: the server's host is gone. It is also what a rebuild may take to read a sale.
const QUERY_LIMIT: Duration = Duration::from_secs(60);

/// A handle on the ledger. Clones share their connections.
#[derive(Clone)]
pub struct Ledger {
    pool: MySqlPool,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ledger")
    }
}

impl Ledger {
    /// Connects to `mysql://user:password@host:port/database`. Later, connections that break are replaced by themselves.
    pub async fn connect(url: &str, max_connections: u32) -> Result<Self, LedgerError> {
        let options = connect_options(url)?;
        // The pool hides why it can't connect behind a time-out of its own, so one connection is made without it.
        within(ACQUIRE_LIMIT, async { Ok(options.connect().await?.close().await?) }).await?;
        let pool = MySqlPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(ACQUIRE_LIMIT)
            .after_connect(|connection, _| Box::pin(set_up(connection)))
            .connect_lazy_with(options);
        Ok(Ledger { pool })
    }

    pub(crate) async fn lease(&self) -> Result<Lease, LedgerError> {
        Ok(Lease {
            connection: self.pool.acquire().await?,
            clean: false,
        })
    }

    /// Runs what needs no transaction.
    pub(crate) async fn query<T>(
        &self,
        run: impl AsyncFnOnce(&mut MySqlConnection) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let mut lease = self.lease().await?;
        let answer = within(QUERY_LIMIT, run(&mut lease)).await;
        lease.clean = answer.is_ok();
        answer
    }

    /// Runs queries that all see the ledger as it was at one instant.
    pub(crate) async fn snapshot<T>(
        &self,
        run: impl AsyncFnOnce(&mut MySqlConnection) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.query(async |connection| {
            connection
                .execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                .await?;
            connection
                .execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
                .await?;
            let answer = run(connection).await?;
            connection.execute("COMMIT").await?;
            Ok(answer)
        })
        .await
    }
}

/// A connection that goes back to the pool only when all went well. Whatever else happens, it is closed, and the server
/// rolls back: an error, a time-out, a caller that was dropped in the middle.
pub(crate) struct Lease {
    connection: PoolConnection<MySql>,
    clean: bool,
}

impl Lease {
    pub(crate) fn give_back(mut self) {
        self.clean = true;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.clean {
            self.connection.close_on_drop();
        }
    }
}

impl Deref for Lease {
    type Target = MySqlConnection;
    fn deref(&self) -> &MySqlConnection {
        &self.connection
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut MySqlConnection {
        &mut self.connection
    }
}

pub(crate) fn connect_options(url: &str) -> Result<MySqlConnectOptions, LedgerError> {
    let options: MySqlConnectOptions = url.parse()?;
    Ok(options.disable_statement_logging())
}

/// The server's own settings may differ. A value that does not fit must be refused, not cut off.
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
