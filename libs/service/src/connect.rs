//! Connects a program to its servers when it starts, and tries again until that works. [`Connecting`] does it in the
//! background, for a program that has work without them.
//!
//! It is part of this crate because only the three programs use it, and all of them use all three servers. Each
//! function answers `None` if the shutdown came first. None of them opens the gate: only the caller knows whether more
//! is needed before the program is ready.
use crate::config::{KafkaArgs, MysqlArgs, RedisArgs};
use crate::health::{Gate, Health};
use crate::retry::until_ok;
use crate::shutdown::Shutdown;
use seckill_ledger::{Format, Ledger, LedgerError};
use seckill_order_log::{LogConfig, OrderLog};
use seckill_stock::StockClient;
use std::sync::{Arc, OnceLock};

/// Connects to MySQL and waits until its schema has all migrations of this version. `spoken` is the format of this program.
pub async fn ledger(
    args: &MysqlArgs,
    spoken: Format,
    max_connections: u32,
    gate: &Gate,
    shutdown: &Shutdown,
) -> Option<Ledger> {
    let connect = async || -> Result<Ledger, LedgerError> {
        let ledger = Ledger::connect(&args.expose(), max_connections).await?;
        ledger.check_schema().await?;
        Ok(ledger.speaking(spoken))
    };
    until_ok("connecting to MySQL", gate, shutdown, connect).await
}

/// Connects to Kafka and waits until the topic of the order log exists.
pub async fn order_log(config: &LogConfig, gate: &Gate, shutdown: &Shutdown) -> Option<OrderLog> {
    let connect = || OrderLog::connect(config.clone());
    until_ok("connecting to Kafka", gate, shutdown, connect).await
}

/// Connects to Redis.
pub async fn stock(args: &RedisArgs, gate: &Gate, shutdown: &Shutdown) -> Option<StockClient> {
    let config = args.config();
    let connect = || StockClient::connect_to(&config);
    until_ok("connecting to Redis", gate, shutdown, connect).await
}

/// The arguments as the client of the order log takes them.
pub fn log_config(args: &KafkaArgs) -> LogConfig {
    LogConfig {
        brokers: args.kafka_brokers.as_str().to_owned(),
        topic: args.kafka_topic.as_str().to_owned(),
        properties: args.expose(),
    }
}

/// A client that is being connected in the background. Clones are the same client.
pub struct Connecting<T>(Arc<Attempt<T>>);

struct Attempt<T> {
    client: OnceLock<T>,
    /// Holds why it is not connected yet.
    health: Health,
}

/// Why there is no client yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotConnected(pub String);

impl<T: Send + Sync + 'static> Connecting<T> {
    /// `connect` gets a gate for the reasons of its failures, and answers `None` after a shutdown. Must be called inside of
    /// the runtime.
    pub fn start<F>(server: &'static str, connect: impl FnOnce(Gate) -> F) -> Self
    where
        F: Future<Output = Option<T>> + Send + 'static,
    {
        let health = Health::new();
        let connecting = connect(health.gate(server));
        let attempt = Arc::new(Attempt {
            client: OnceLock::new(),
            health,
        });
        let connected = attempt.clone();
        tokio::spawn(async move {
            if let Some(client) = connecting.await {
                // Nobody else sets it.
                let _ = connected.client.set(client);
                tracing::info!(server, "connected");
            }
        });
        Connecting(attempt)
    }

    pub fn get(&self) -> Result<&T, NotConnected> {
        self.0.client.get().ok_or_else(|| {
            let reason = self.0.health.check().err();
            NotConnected(reason.map_or_else(String::new, |reason| reason.0))
        })
    }
}

impl<T> Clone for Connecting<T> {
    fn clone(&self) -> Self {
        Connecting(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Health;

    #[tokio::test]
    async fn a_server_that_is_away_has_a_reason_until_it_comes() {
        let (arrived, arrival) = tokio::sync::oneshot::channel();
        let connecting = Connecting::start("redis", |gate| async move {
            gate.not_ready("connection refused");
            arrival.await.ok()
        });
        while connecting.get() != Err(NotConnected("redis: connection refused".to_owned())) {
            tokio::task::yield_now().await;
        }
        arrived.send(7).unwrap();
        while connecting.clone().get() != Ok(&7) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn shutdown_ends_every_connection_attempt() {
        let (gate, shutdown) = (Health::new().gate("server"), Shutdown::new());
        shutdown.cancel();
        let mysql_url = "mysql://user:password@127.0.0.1:1/seckill".parse().unwrap();
        let mysql = MysqlArgs {
            mysql_url,
            mysql_tls: Default::default(),
        };
        assert!(ledger(&mysql, Format::FIRST, 1, &gate, &shutdown).await.is_none());
        let redis = RedisArgs {
            redis_url: "redis://127.0.0.1:1".parse().unwrap(),
            redis_ca_file: None,
            redis_cert_file: None,
            redis_key_file: None,
            redis_sentinel_username: None,
            redis_sentinel_password: None,
        };
        assert!(stock(&redis, &gate, &shutdown).await.is_none());
        let config = log_config(&KafkaArgs {
            kafka_brokers: "127.0.0.1:1".parse().unwrap(),
            kafka_topic: "orders".parse().unwrap(),
            kafka_properties: "client.id=me".parse().unwrap(),
            kafka_tls: Default::default(),
        });
        assert_eq!(config.properties, [("client.id".to_owned(), "me".to_owned())]);
        assert!(order_log(&config, &gate, &shutdown).await.is_none());
    }
}
