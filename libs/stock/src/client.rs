//! Connections and script calls.
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError, Script, ServerErrorKind, ToRedisArgs};

/// A purchase without an answer after this time has an unknown outcome. The limit leaves time for a retry before the
/// buyer times out.
const PURCHASE_TIMEOUT: Duration = Duration::from_millis(1000);
const ADMINISTRATION_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum StockError {
    /// The command may have run.
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
    /// Another program writes to these keys, or a script of another version answered.
    #[error("unexpected answer of Redis: {0}")]
    Reply(String),
}

/// A handle on the server that holds the stock. Clones share their connections.
///
/// One slow command blocks those behind it on its connection, so purchases, the outbox and administration have one
/// each.
#[derive(Clone)]
pub struct StockClient {
    pub(crate) purchases: ConnectionManager,
    pub(crate) streams: ConnectionManager,
    pub(crate) administration: ConnectionManager,
}

impl std::fmt::Debug for StockClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StockClient")
    }
}

impl StockClient {
    /// Connects to `redis://[user:password@]host:port[/db]` (or `rediss://`). Broken connections
    /// are replaced. The command that finds one broken gets an error and is not repeated, because it may have run.
    pub async fn connect(url: &str) -> Result<Self, StockError> {
        let info = url.into_connection_info()?;
        // Nagle's algorithm would delay a batch until the answer to the previous one arrives.
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let client = Client::open(info.set_tcp_settings(tcp))?;
        let connection = async |timeout| {
            let config = ConnectionManagerConfig::new()
                .set_connection_timeout(Some(Duration::from_secs(2)))
                .set_response_timeout(Some(timeout))
                .set_max_delay(Duration::from_millis(500))
                .set_number_of_retries(2);
            ConnectionManager::new_with_config(client.clone(), config).await
        };
        Ok(StockClient {
            purchases: connection(PURCHASE_TIMEOUT).await?,
            streams: connection(ADMINISTRATION_TIMEOUT).await?,
            administration: connection(ADMINISTRATION_TIMEOUT).await?,
        })
    }
}

/// Calls a script by its hash. It loads the script and calls it again if the server does not have it: then it did not
/// run.
pub(crate) async fn call<T: FromRedisValue>(
    connection: &ConnectionManager,
    script: &Script,
    keys: &[String],
    args: impl ToRedisArgs,
) -> Result<T, StockError> {
    // The script call of the library would copy each argument twice.
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(keys.len()).arg(keys).arg(args);
    let mut connection = connection.clone();
    match command.query_async(&mut connection).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            script.load_async(&mut connection).await?;
            Ok(command.query_async(&mut connection).await?)
        }
        result => Ok(result?),
    }
}
