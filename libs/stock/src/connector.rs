//! Opens connections to one server, or to the one that is the primary at the time.
use std::io;
use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult};

use crate::config::{RedisConfig, Server};
use crate::login::{explain, is_refusal, open};
use crate::sentinel::Sentinels;

/// Opens connections to one server, or to the one that is the primary at the time.
#[derive(Clone)]
pub(crate) struct Connector {
    config: Arc<RedisConfig>,
    target: Target,
}

#[derive(Clone)]
enum Target {
    Server(Server),
    PrimaryOf(Arc<Sentinels>),
}

impl Connector {
    pub fn to(config: Arc<RedisConfig>, server: Server) -> Self {
        let target = Target::Server(server);
        Connector { config, target }
    }

    pub fn to_primary_of(config: Arc<RedisConfig>, sentinels: Arc<Sentinels>) -> Self {
        let target = Target::PrimaryOf(sentinels);
        Connector { config, target }
    }

    pub fn database(&self) -> i64 {
        self.config.database
    }

    /// An error of a server that was connected to.
    pub fn explain(&self, error: &RedisError) -> RedisError {
        let login = &self.config.login;
        match &self.target {
            Target::Server(server) => explain(server, error, login),
            Target::PrimaryOf(sentinels) => explain(sentinels.master(), error, login),
        }
    }

    pub async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let sentinels = match &self.target {
            Target::Server(server) => return Ok(open(&self.config, server).await?.0),
            Target::PrimaryOf(sentinels) => sentinels,
        };
        let mut failures = Vec::new();
        for server in sentinels.primaries().await? {
            match open(&self.config, &server).await {
                Ok((connection, true)) => return Ok(connection),
                Ok((_, false)) => failures.push(format!(
                    "{server}: the Sentinels name it as the primary, and it is a replica"
                )),
                // A wrong password or a missing right is the same everywhere.
                Err(error) if is_refusal(&error) => return Err(error),
                Err(error) => failures.push(error.to_string()),
            }
        }
        Err(io::Error::other(failures.join("; ")).into())
    }
}
