//! Which node of a Redis Cluster serves a sale. All keys of a sale have one hash tag, so they are in one slot.
//!
//! The slots are read again when a node answers MOVED or CLUSTERDOWN, when a script says that its server is no primary or has
//! no index in force, when a connection breaks, and now and then. During a failover the nodes disagree for a moment, so
//! several are asked, and most of them decide.
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use rand::Rng as _;
use rand::seq::SliceRandom as _;
use redis::{RedisError, RedisResult, Value};
use seckill_protocol::SaleId;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::config::{RedisConfig, Server};
use crate::connection::Connection;
use crate::connector::Connector;
use crate::roles::{Role, Roles};

const SLOTS: usize = 16384;
/// No known primary serves the slot.
const NOBODY: u16 = u16::MAX;
/// Nodes that are asked for the slots at once.
const MAX_ASKED: usize = 7;
const ASK_TIMEOUT: Duration = Duration::from_millis(800);
/// From the end of one reading of the slots to the next, and up to as much again at random.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_millis(100);
/// Of the failures to read the slots one is logged in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
const MAX_REFRESH_INTERVAL: Duration = Duration::from_secs(30);

pub(crate) struct Cluster {
    config: Arc<RedisConfig>,
    seeds: Vec<Server>,
    /// Told when the slots may have changed.
    doubts: Arc<Notify>,
    map: RwLock<Arc<Map>>,
}

/// The nodes, and for each slot the primary that serves it.
#[derive(Clone)]
struct Map {
    nodes: Vec<Arc<Node>>,
    /// Indexes of `nodes`.
    slots: Box<[u16]>,
}

pub(crate) struct Node {
    pub server: Server,
    roles: Roles,
}

impl Node {
    pub fn connection(&self, role: Role) -> &Connection {
        self.roles.connection(role)
    }

    pub async fn connect(&self) -> RedisResult<()> {
        self.roles.connect().await
    }
}

/// Ranges of slots with their primaries, and all nodes, as one node sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct View {
    ranges: Vec<(u16, u16, Server)>,
    nodes: Vec<Server>,
}

impl Cluster {
    /// Reads the slots from the first seeds that answer.
    pub async fn connect(config: Arc<RedisConfig>, seeds: Vec<Server>) -> RedisResult<Self> {
        let cluster = Cluster {
            config,
            seeds,
            doubts: Arc::default(),
            map: RwLock::new(Arc::new(Map {
                nodes: Vec::new(),
                slots: vec![NOBODY; SLOTS].into(),
            })),
        };
        cluster.refresh().await?;
        Ok(cluster)
    }

    fn map(&self) -> Arc<Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn node_of(&self, sale: SaleId) -> RedisResult<Arc<Node>> {
        let (slot, map) = (slot_of(sale), self.map());
        let node = map.nodes.get(usize::from(map.slots[usize::from(slot)])).cloned();
        node.ok_or_else(|| {
            self.doubts.notify_one();
            io::Error::other(format!("no primary of the Cluster serves slot {slot}")).into()
        })
    }

    /// The nodes that serve slots.
    pub fn primaries(&self) -> Vec<Arc<Node>> {
        let map = self.map();
        let mut serve = vec![false; map.nodes.len()];
        for node in map.slots.iter().filter(|node| **node != NOBODY) {
            serve[usize::from(*node)] = true;
        }
        let nodes = map.nodes.iter().zip(serve);
        nodes
            .filter(|(_, serves)| *serves)
            .map(|(node, _)| node.clone())
            .collect()
    }

    /// The node that MOVED or ASK names. After MOVED it serves the slot from now on.
    pub fn redirect(&self, error: &RedisError, asked: &Server, moved: bool) -> RedisResult<Arc<Node>> {
        let invalid = || RedisError::from(io::Error::other(format!("{asked}: invalid redirection: {error}")));
        let (address, slot) = error.redirect_node().ok_or_else(invalid)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
        let server = Server {
            // A node that does not know the name of the other one leaves it out.
            host: if host.is_empty() {
                asked.host.clone()
            } else {
                host.to_owned()
            },
            port: port.parse().map_err(|_| invalid())?,
        };
        if moved {
            self.doubts.notify_one();
        }
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        // Copied only while a call reads it.
        let map = Arc::make_mut(&mut map);
        let at = match map.nodes.iter().position(|node| node.server == server) {
            Some(at) => at,
            None => {
                map.nodes.push(self.new_node(server));
                map.nodes.len() - 1
            }
        };
        if moved && let Some(slot) = map.slots.get_mut(usize::from(slot)) {
            *slot = at as u16;
        }
        Ok(map.nodes[at].clone())
    }

    fn new_node(&self, server: Server) -> Arc<Node> {
        let connector = Connector::to(self.config.clone(), server.clone());
        let roles = Roles::new(connector, Some(self.doubts.clone()));
        Arc::new(Node { server, roles })
    }

    /// Reads the slots again whenever there is a doubt, until the returned set is dropped.
    pub fn keep_fresh(self: &Arc<Self>) -> JoinSet<()> {
        let (cluster, mut task) = (self.clone(), JoinSet::new());
        task.spawn(async move {
            let mut next_log_at = Instant::now();
            loop {
                let _ = timeout(MAX_REFRESH_INTERVAL, cluster.doubts.notified()).await;
                match cluster.refresh().await {
                    Ok(()) => {}
                    Err(error) if next_log_at <= Instant::now() => {
                        tracing::warn!(%error, "failed to read the slots of the Redis Cluster");
                        next_log_at = Instant::now() + LOG_INTERVAL;
                    }
                    Err(error) => tracing::debug!(%error, "failed to read the slots of the Redis Cluster"),
                }
                // A node that could not be asked is no news. A call that finds a wrong node tells again.
                let _ = cluster.doubts.notified().now_or_never();
                let jitter = rand::rng().random_range(Duration::ZERO..=MIN_REFRESH_INTERVAL);
                sleep(MIN_REFRESH_INTERVAL + jitter).await;
            }
        });
        task
    }

    async fn refresh(&self) -> RedisResult<()> {
        let mut nodes = self.map().nodes.clone();
        nodes.shuffle(&mut rand::rng());
        // At first they are all there is. Later they stand in for nodes that are gone.
        let seeds = self
            .seeds
            .iter()
            .filter(|seed| !nodes.iter().any(|node| node.server == **seed));
        let seeds: Vec<_> = seeds.map(|seed| self.new_node(seed.clone())).collect();
        let (mut views, mut failure) = (Vec::new(), None);
        for asked in nodes.chunks(MAX_ASKED).chain(seeds.chunks(MAX_ASKED)) {
            let mut answers: FuturesUnordered<_> = asked.iter().map(|node| view_of(node)).collect();
            // A node whose host is gone delays nothing.
            while views.len() <= asked.len() / 2
                && let Some(view) = answers.next().await
            {
                match view {
                    Ok(view) => views.push(view),
                    Err(error) => failure = Some(error),
                }
            }
            if !views.is_empty() {
                break;
            }
        }
        let votes = |view: &View| views.iter().filter(|other: &&View| other.ranges == view.ranges).count();
        match views.iter().max_by_key(|view| votes(view)) {
            Some(view) => {
                self.adopt(view);
                Ok(())
            }
            None => Err(failure.unwrap_or_else(|| io::Error::other("no node of the Cluster is known").into())),
        }
    }

    fn adopt(&self, view: &View) {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let nodes: Vec<Arc<Node>> = view
            .nodes
            .iter()
            .map(|server| match map.nodes.iter().find(|node| node.server == *server) {
                Some(node) => node.clone(),
                None => self.new_node(server.clone()),
            })
            .collect();
        let at: HashMap<&Server, u16> = view.nodes.iter().zip(0..).collect();
        let mut slots: Box<[u16]> = vec![NOBODY; SLOTS].into();
        for (first, last, primary) in &view.ranges {
            if let (Some(range), Some(at)) = (slots.get_mut(usize::from(*first)..=usize::from(*last)), at.get(primary))
            {
                range.fill(*at);
            }
        }
        *map = Arc::new(Map { nodes, slots });
    }
}

async fn view_of(node: &Node) -> RedisResult<View> {
    let connection = node.connection(Role::Administration).within(ASK_TIMEOUT);
    let mut question = redis::cmd("CLUSTER");
    // Unlike CLUSTER SHARDS it gives the port of TLS to a client with TLS, and the preferred kind of address.
    question.arg("SLOTS");
    let answer = connection.send(&question).await.map_err(|error| {
        let text = format!("{}: {error}", node.server);
        RedisError::from(io::Error::other(match text.contains("cluster support disabled") {
            true => format!("{text}; it is no Cluster: use redis:// or redis+sentinel://"),
            false => text,
        }))
    })?;
    parse_slots(&answer.value, &node.server)
        .ok_or_else(|| io::Error::other(format!("{}: unexpected answer to CLUSTER SLOTS", node.server)).into())
}

/// Parses `[first slot, last slot, [host, port, ...] of the primary, [host, port, ...] of each replica]...`.
fn parse_slots(answer: &Value, asked: &Server) -> Option<View> {
    let Value::Array(parts) = answer else { return None };
    let (mut ranges, mut nodes) = (Vec::new(), Vec::new());
    for part in parts {
        let Value::Array(part) = part else { return None };
        let [Value::Int(first), Value::Int(last), servers @ ..] = part.as_slice() else {
            return None;
        };
        let servers: Vec<Option<Server>> = servers.iter().map(|server| parse_node(server, asked)).collect();
        if let Some(Some(primary)) = servers.first() {
            ranges.push((u16::try_from(*first).ok()?, u16::try_from(*last).ok()?, primary.clone()));
        }
        for server in servers.into_iter().flatten() {
            if !nodes.contains(&server) {
                nodes.push(server);
            }
        }
    }
    ranges.sort_by_key(|(first, ..)| *first);
    Some(View { ranges, nodes })
}

/// `None`: the node has no address that it may be reached at.
fn parse_node(value: &Value, asked: &Server) -> Option<Server> {
    let Value::Array(fields) = value else { return None };
    let [host, Value::Int(port), ..] = fields.as_slice() else {
        return None;
    };
    let host = match host {
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        Value::SimpleString(host) => host,
        // The address that the client uses already.
        Value::Nil => "",
        _ => return None,
    };
    let port = u16::try_from(*port).ok()?;
    match host {
        "?" => None,
        "" => Some(Server {
            host: asked.host.clone(),
            port,
        }),
        host => Some(Server {
            host: host.to_owned(),
            port,
        }),
    }
}

/// The slot of all keys of a sale: CRC-16/XMODEM of the hash tag, which is the id in hexadecimal digits.
pub(crate) fn slot_of(sale: SaleId) -> u16 {
    let mut crc = 0u16;
    for digit in 0..8 {
        let value = (sale.0 >> (28 - 4 * digit)) & 0xf;
        let letter = b"0123456789abcdef"[value as usize];
        crc ^= u16::from(letter) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
        }
    }
    crc % SLOTS as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_that_of_redis() {
        // By CLUSTER KEYSLOT.
        for (sale, slot) in SLOTS_BY_REDIS {
            assert_eq!(slot_of(SaleId(sale)), slot, "{}", SaleId(sale));
        }
    }

    const SLOTS_BY_REDIS: [(u32, u16); 4] = [(0, 9913), (7, 5726), (0x00c0_ffee, 7451), (u32::MAX, 9088)];

    #[test]
    fn slots_are_read_with_every_kind_of_address() {
        let text = |text: &str| Value::BulkString(text.into());
        let node = |host: Value, port| Value::Array(vec![host, Value::Int(port), text("id")]);
        let part =
            |first, last, nodes: Vec<Value>| Value::Array([vec![Value::Int(first), Value::Int(last)], nodes].concat());
        let answer = Value::Array(vec![
            part(100, 16383, vec![node(text("b"), 2), node(text("?"), 9)]),
            part(0, 99, vec![node(Value::Nil, 1), node(text("c"), 3)]),
        ]);
        let server = |host: &str, port| Server {
            host: host.into(),
            port,
        };
        let view = parse_slots(&answer, &server("asked", 5)).expect("valid");
        assert_eq!(view.ranges, [(0, 99, server("asked", 1)), (100, 16383, server("b", 2))]);
        assert_eq!(view.nodes, [server("b", 2), server("asked", 1), server("c", 3)]);
        assert_eq!(parse_slots(&Value::Okay, &server("asked", 5)), None);
    }
}
