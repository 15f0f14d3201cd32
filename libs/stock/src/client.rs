//! Connections and script calls, each on the server of its sale.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use redis::{
    Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, Script, ServerErrorKind, ToRedisArgs, Value,
    from_redis_value,
};
use seckill_protocol::SaleId;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Node};
use crate::config::{InvalidUrl, RedisConfig, Topology};
use crate::connection::Connection;
use crate::connector::Connector;
use crate::login::{is_refusal, refusal};
use crate::roles::{Role, Roles};
use crate::sentinel::Sentinels;

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
    /// Nothing ran.
    #[error("the URL of Redis: {0}")]
    Url(#[from] InvalidUrl),
}

/// A handle on the servers that hold the stock. Clones share their connections.
///
/// `connection` says when a connection is replaced, and `cluster` which server has a sale.
#[derive(Clone)]
pub struct StockClient {
    servers: Arc<Servers>,
}

enum Servers {
    /// One at a time: that of an address, or the primary that the Sentinels name.
    One {
        roles: Roles,
        /// Hears of a new primary.
        _listeners: JoinSet<()>,
    },
    Cluster {
        cluster: Arc<Cluster>,
        _refresher: JoinSet<()>,
    },
}

/// Where the calls of a sale go.
pub(crate) struct Route {
    connection: Connection,
    role: Role,
    /// Of a Cluster.
    node: Option<Arc<Node>>,
}

impl std::fmt::Debug for StockClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StockClient")
    }
}

impl StockClient {
    /// Connects to the servers of a URL: see [`crate::config`].
    pub async fn connect(url: &str) -> Result<Self, StockError> {
        Self::connect_to(&url.parse()?).await
    }

    /// Broken connections are replaced. The command that finds one broken gets an error and is not repeated, because it may
    /// have run.
    pub async fn connect_to(config: &RedisConfig) -> Result<Self, StockError> {
        if let Some(why) = config.contradiction() {
            return Err(refusal(why.to_owned()).into());
        }
        let config = Arc::new(config.clone());
        let servers = match config.topology.clone() {
            Topology::One(server) => {
                let roles = Roles::new(Connector::to(config, server), None);
                roles.connect().await?;
                let _listeners = JoinSet::new();
                Servers::One { roles, _listeners }
            }
            Topology::Sentinel { sentinels, master } => {
                let sentinels = Arc::new(Sentinels::new(config.clone(), sentinels, master));
                let roles = Roles::new(Connector::to_primary_of(config, sentinels.clone()), None);
                roles.connect().await?;
                let followers = roles.clone();
                let _listeners =
                    sentinels.listen(move || followers.replace_all("a Sentinel announced another primary"));
                Servers::One { roles, _listeners }
            }
            Topology::Cluster(seeds) => {
                let cluster = Arc::new(Cluster::connect(config, seeds).await?);
                connect_to_primaries(&cluster).await?;
                let _refresher = cluster.keep_fresh();
                Servers::Cluster { cluster, _refresher }
            }
        };
        let servers = Arc::new(servers);
        Ok(StockClient { servers })
    }

    /// Where the calls of a sale go at present.
    pub(crate) fn route(&self, sale: SaleId, role: Role) -> RedisResult<Route> {
        let (connection, node) = match &*self.servers {
            Servers::One { roles, .. } => (roles.connection(role).clone(), None),
            Servers::Cluster { cluster, .. } => {
                let node = cluster.node_of(sale)?;
                (node.connection(role).clone(), Some(node))
            }
        };
        Ok(Route { connection, role, node })
    }

    /// The connection for the calls of a sale at present, for pipelines. They are not redirected: one that meets another node
    /// gets an error.
    pub(crate) fn connection_for(&self, sale: SaleId, role: Role) -> RedisResult<Connection> {
        Ok(self.route(sale, role)?.connection)
    }

    /// The sales by their servers, as indexes. A server without a connection has the error in its place.
    pub(crate) fn by_server(&self, sales: &[SaleId]) -> Vec<(RedisResult<Connection>, Vec<usize>)> {
        let Servers::Cluster { cluster, .. } = &*self.servers else {
            let Servers::One { roles, .. } = &*self.servers else {
                return Vec::new();
            };
            let connection = roles.connection(Role::Administration).clone();
            return vec![(Ok(connection), (0..sales.len()).collect())];
        };
        let mut groups: HashMap<*const Node, (RedisResult<Connection>, Vec<usize>)> = HashMap::new();
        for (index, sale) in sales.iter().enumerate() {
            let node = cluster.node_of(*sale);
            let address = node.as_ref().map_or(std::ptr::null(), Arc::as_ptr);
            let connection = node.map(|node| node.connection(Role::Administration).clone());
            let (_, indexes) = groups.entry(address).or_insert_with(|| (connection, Vec::new()));
            indexes.push(index);
        }
        groups.into_values().collect()
    }

    /// A connection to each primary, with its name if there are several.
    pub(crate) fn primaries(&self) -> Vec<(Option<String>, Connection)> {
        match &*self.servers {
            Servers::One { roles, .. } => vec![(None, roles.connection(Role::Administration).clone())],
            Servers::Cluster { cluster, .. } => {
                let nodes = cluster.primaries().into_iter();
                let named = nodes.map(|node| {
                    let connection = node.connection(Role::Administration).clone();
                    (Some(node.server.to_string()), connection)
                });
                named.collect()
            }
        }
    }

    /// Sends a command about one sale.
    pub(crate) async fn query<T: FromRedisValue>(
        &self,
        sale: SaleId,
        role: Role,
        command: &Cmd,
    ) -> Result<T, StockError> {
        let value = self.send(self.route(sale, role)?, None, command).await?;
        Ok(from_redis_value(value).map_err(RedisError::from)?)
    }

    /// Calls a script about one sale by its hash.
    pub(crate) async fn call<T: FromRedisValue>(
        &self,
        sale: SaleId,
        role: Role,
        script: &Script,
        keys: &[String],
        args: impl ToRedisArgs,
    ) -> Result<T, StockError> {
        self.call_on(self.route(sale, role)?, script, keys, args).await
    }

    pub(crate) async fn call_on<T: FromRedisValue>(
        &self,
        route: Route,
        script: &Script,
        keys: &[String],
        args: impl ToRedisArgs,
    ) -> Result<T, StockError> {
        // The script call of the library would copy each argument twice.
        let mut command = redis::cmd("EVALSHA");
        command.arg(script.get_hash()).arg(keys.len()).arg(keys).arg(args);
        let value = self.send(route, Some(script), &command).await?;
        Ok(from_redis_value(value).map_err(RedisError::from)?)
    }

    /// Sends a command once. It is sent again only after an answer that says that it did not run: the server does not have
    /// the script, which is loaded then, or another node of the Cluster has the slot. Each is followed once.
    async fn send(&self, mut route: Route, script: Option<&Script>, command: &Cmd) -> RedisResult<Value> {
        let (mut asking, mut redirected, mut loaded) = (false, false, false);
        loop {
            let answer = match asking {
                false => route.connection.send(command).await,
                true => route.connection.send_asking(command).await,
            };
            let error = match answer {
                Ok(answered) => {
                    if script.is_some() {
                        route.connection.doubt_by_answer(&answered);
                    }
                    return Ok(answered.value);
                }
                Err(error) => error,
            };
            match (error.kind(), script) {
                (ErrorKind::Server(ServerErrorKind::NoScript), Some(script)) if !loaded => {
                    let sha: RedisResult<String> = script.load_async(&mut route.connection).await;
                    sha?;
                    loaded = true;
                }
                (ErrorKind::Server(kind @ (ServerErrorKind::Moved | ServerErrorKind::Ask)), _) if !redirected => {
                    route = self.redirect(&error, &route, kind == ServerErrorKind::Moved)?;
                    asking = kind == ServerErrorKind::Ask;
                    // The other node may not have the script.
                    (redirected, loaded) = (true, false);
                }
                _ => return Err(error),
            }
        }
    }

    fn redirect(&self, error: &RedisError, from: &Route, moved: bool) -> RedisResult<Route> {
        let (Servers::Cluster { cluster, .. }, Some(node)) = (&*self.servers, &from.node) else {
            return Err(refusal(format!(
                "this server is a node of a Cluster, and the sale is on another one: let the URL begin with \
                 redis+cluster:// ({error})"
            )));
        };
        let node = cluster.redirect(error, &node.server, moved)?;
        Ok(Route {
            connection: node.connection(from.role).clone(),
            role: from.role,
            node: Some(node),
        })
    }
}

impl Route {
    /// With another time limit.
    pub fn within(mut self, limit: Duration) -> Self {
        self.connection = self.connection.within(limit);
        self
    }
}

/// A primary that is away holds up its own sales only. A missing right does not go away by itself.
async fn connect_to_primaries(cluster: &Cluster) -> RedisResult<()> {
    let primaries = cluster.primaries();
    let results = join_all(primaries.iter().map(|node| node.connect())).await;
    let (mut connected, mut failure) = (0, None);
    for result in results {
        match result {
            Ok(()) => connected += 1,
            Err(error) if is_refusal(&error) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "failed to connect to a primary of the Redis Cluster");
                failure = Some(error);
            }
        }
    }
    match failure {
        Some(error) if connected == 0 => Err(error),
        _ => Ok(()),
    }
}
