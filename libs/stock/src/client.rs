//! Connections and script calls.
use std::time::Duration;

use redis::{
    Client, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError, RedisResult, Script, ServerErrorKind,
    ToRedisArgs,
};

use crate::connection::{Connection, tcp_settings};

/// A purchase without an answer after this time has an unknown outcome. The limit leaves time for a retry before the
/// buyer times out.
const PURCHASE_TIMEOUT: Duration = Duration::from_millis(1000);
/// The outbox is read in small parts.
const OUTBOX_TIMEOUT: Duration = Duration::from_secs(2);
/// No command but those that write holdings takes longer, and a server that does not answer must not hold up other sales.
const ADMINISTRATION_TIMEOUT: Duration = Duration::from_secs(2);
/// One round trip with some thousand buyers.
const HOLDINGS_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum StockError {
    /// The command may have run.
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
    /// Another program writes to these keys, or a script of another version answered.
    #[error("unexpected answer of Redis: {0}")]
    Reply(String),
    /// Nothing ran.
    #[error("the address of Redis leads to a replica; point it to the primary")]
    Replica,
}

/// A handle on the server that holds the stock. Clones share their connections.
///
/// One slow command blocks those behind it on its connection, so purchases, the outbox, administration and the holdings
/// of new indexes have one each. `connection` says when one of them is replaced.
#[derive(Clone)]
pub struct StockClient {
    pub(crate) purchases: Connection,
    pub(crate) streams: Connection,
    pub(crate) administration: Connection,
    pub(crate) holdings: Connection,
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
        let tcp = tcp_settings(info.tcp_settings());
        let client = Client::open(info.set_tcp_settings(tcp))?;
        let stock = StockClient {
            purchases: Connection::new(client.clone(), PURCHASE_TIMEOUT),
            streams: Connection::new(client.clone(), OUTBOX_TIMEOUT),
            administration: Connection::new(client.clone(), ADMINISTRATION_TIMEOUT),
            // Only a rebuild needs it, so it connects then.
            holdings: Connection::new(client, HOLDINGS_TIMEOUT),
        };
        for connection in [&stock.purchases, &stock.streams, &stock.administration] {
            connection.connect().await?;
        }
        Ok(stock)
    }
}

/// Calls a script by its hash. It loads the script and calls it again if the server does not have it: then it did not
/// run.
pub(crate) async fn call<T: FromRedisValue>(
    connection: &Connection,
    script: &Script,
    keys: &[String],
    args: impl ToRedisArgs,
) -> Result<T, StockError> {
    // The script call of the library would copy each argument twice.
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(keys.len()).arg(keys).arg(args);
    let answered = match connection.send(&command).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            let loaded: RedisResult<String> = script.load_async(&mut connection.clone()).await;
            loaded?;
            connection.send(&command).await?
        }
        result => result?,
    };
    connection.doubt_by_answer(&answered);
    Ok(redis::from_redis_value(answered.value).map_err(RedisError::from)?)
}
