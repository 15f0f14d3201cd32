//! Where the Redis servers of the run are, and which of them are primaries. The servers and the Sentinels are asked directly:
//! what the checker reads must not depend on the server that the product chose.
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::join_all;
use redis::{AsyncConnectionConfig, FromRedisValue};
use seckill_protocol::SaleId;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::wait::wait_until;
use crate::setup::{Setup, Topology};

/// A server that is paused does not answer; one on a busy machine may take a while.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Of a Cluster, each with one replica.
const PRIMARIES: usize = 3;
const SLOTS: u32 = 16384;
/// For the keys of one slot, in milliseconds.
const MIGRATION_TIMEOUT: &str = "2000";
/// In which a node of a Cluster usually takes over.
const HAND_OVER_TIME: Duration = Duration::from_millis(300);

#[derive(Clone)]
pub struct RedisServers {
    pub topology: Topology,
    servers: Vec<SocketAddr>,
    sentinels: Vec<SocketAddr>,
    password: String,
    /// The name of the primary at the Sentinels.
    master: String,
    redis_cli: PathBuf,
}

/// What a server says of its replication.
#[derive(Debug)]
struct Replication {
    is_primary: bool,
    /// The port of the primary that it follows, if the link to it is up.
    follows: Option<u16>,
    replicas: usize,
}

/// A node of a Cluster, as one of the nodes sees it.
#[derive(Debug, PartialEq, Eq)]
struct Node {
    port: u16,
    failed: bool,
    /// First and last slots.
    slots: Vec<(u16, u16)>,
}

impl RedisServers {
    pub fn new(topology: Topology, setup: &Setup) -> Result<Self> {
        let ip: IpAddr = setup.address.parse()?;
        let addresses = |first: u16, count: usize| {
            let ports = (first..).take(count);
            ports.map(|port| SocketAddr::new(ip, port)).collect()
        };
        Ok(RedisServers {
            topology,
            servers: addresses(setup.ports.redis, setup.redis.len()),
            sentinels: addresses(setup.ports.sentinels, setup.sentinels.len()),
            password: setup.redis_password.clone(),
            master: setup.sentinel_master.clone(),
            redis_cli: setup.redis_cli.clone(),
        })
    }

    pub fn address(&self, which: usize) -> SocketAddr {
        self.servers[which]
    }

    pub fn url(&self, which: usize) -> String {
        self.url_of(self.servers[which])
    }

    /// The URL of one server for a client that reaches it through this address.
    pub fn url_of(&self, address: SocketAddr) -> String {
        format!("redis://:{}@{address}", self.password)
    }

    /// The URL for a program, which reaches a single server through a forwarder.
    pub fn program_url(&self, forward: SocketAddr) -> String {
        let hosts = |addresses: &[SocketAddr]| {
            let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
            addresses.join(",")
        };
        let password = &self.password;
        match self.topology {
            Topology::Single => self.url_of(forward),
            Topology::Sentinel => {
                let (sentinels, master) = (hosts(&self.sentinels), &self.master);
                format!("redis+sentinel://:{password}@{sentinels}/{master}")
            }
            Topology::Cluster => format!("redis+cluster://:{password}@{}", hosts(&self.servers[..PRIMARIES])),
        }
    }

    pub async fn command<T: FromRedisValue>(&self, which: usize, words: &[&str]) -> Result<T> {
        query(&self.url(which), words).await
    }

    /// The same at a server or Sentinel that may be paused or down.
    async fn ask<T: FromRedisValue>(&self, url: String, words: &[&str]) -> Result<T> {
        timeout(ANSWER_TIMEOUT, query(&url, words)).await?
    }

    /// Joins new nodes to a Cluster.
    pub async fn create_cluster(&self) -> Result<()> {
        let mut command = Command::new(&self.redis_cli);
        command.args(["-a", &self.password, "--no-auth-warning", "--cluster", "create"]);
        command.args(self.servers.iter().map(SocketAddr::to_string));
        command.args(["--cluster-replicas", "1", "--cluster-yes"]);
        let output = command.kill_on_drop(true).output().await?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "failed to create the Cluster: {text}");
        Ok(())
    }

    pub async fn is_primary(&self, which: usize) -> bool {
        let replication = self.replication(which).await;
        replication.is_ok_and(|replication| replication.is_primary)
    }

    /// The servers that say that they are primaries.
    pub async fn primaries(&self) -> Vec<usize> {
        let roles = join_all((0..self.servers.len()).map(|which| self.is_primary(which))).await;
        (0..).zip(roles).filter_map(|(which, is)| is.then_some(which)).collect()
    }

    /// The servers that follow a primary.
    pub async fn replicas_of(&self, primary: usize) -> Vec<usize> {
        let port = self.servers[primary].port();
        let asked = (0..self.servers.len()).map(async |which| {
            let replication = self.replication(which).await;
            let follows = replication.is_ok_and(|replication| replication.follows == Some(port));
            follows.then_some(which)
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn replication(&self, which: usize) -> Result<Replication> {
        let info: String = self.ask(self.url(which), &["INFO", "replication"]).await?;
        Ok(Replication::parse(&info))
    }

    /// The server of a sale by most Sentinels, or by most nodes of the Cluster.
    pub async fn server_of(&self, sale: SaleId) -> Result<usize> {
        let (votes, voters) = match self.topology {
            Topology::Single => (self.primaries().await, 1),
            Topology::Sentinel => (self.named_by_sentinels().await, self.sentinels.len()),
            Topology::Cluster => (self.named_by_nodes(sale).await, self.servers.len()),
        };
        let mut counts: HashMap<usize, usize> = HashMap::new();
        for vote in votes {
            *counts.entry(vote).or_default() += 1;
        }
        let most = counts.iter().find(|(_, count)| **count > voters / 2);
        let (which, _) = most.with_context(|| format!("no majority names the Redis of sale {sale}: {counts:?}"))?;
        Ok(*which)
    }

    async fn named_by_sentinels(&self) -> Vec<usize> {
        let asked = self.sentinels.iter().map(async |sentinel| {
            let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &self.master];
            let answer = self.ask::<(String, u16)>(format!("redis://{sentinel}"), &words).await;
            self.with_port(answer.ok()?.1)
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn named_by_nodes(&self, sale: SaleId) -> Vec<usize> {
        let key = format!("{{{sale}}}");
        let asked = (0..self.servers.len()).map(async |which| {
            let slot = self.ask::<u16>(self.url(which), &["CLUSTER", "KEYSLOT", &key]).await;
            let (slot, nodes) = (slot.ok()?, self.nodes(which).await.ok()?);
            let owner = nodes.iter().find(|node| node.has(slot) && !node.failed);
            self.with_port(owner?.port)
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// The nodes as one of them sees them.
    async fn nodes(&self, which: usize) -> Result<Vec<Node>> {
        let text: String = self.ask(self.url(which), &["CLUSTER", "NODES"]).await?;
        Ok(text.lines().filter_map(Node::parse).collect())
    }

    fn with_port(&self, port: u16) -> Option<usize> {
        self.servers.iter().position(|server| server.port() == port)
    }

    /// Lets a primary hand over, as a person does before maintenance. This is refused for a moment while the replicas are not
    /// known to be in sync, and the nodes of a Cluster give up an attempt that takes too long.
    pub async fn hand_over_to(&self, replica: usize) -> Result<()> {
        wait_until("a failover", async || {
            // A node that was promoted after all refuses another attempt.
            if self.topology == Topology::Cluster && self.is_primary(replica).await {
                return Ok(());
            }
            self.fail_over(replica).await?;
            if self.topology == Topology::Cluster {
                sleep(HAND_OVER_TIME).await;
                ensure!(self.is_primary(replica).await, "redis-{replica} is not promoted");
            }
            Ok(())
        })
        .await
    }

    async fn fail_over(&self, replica: usize) -> Result<()> {
        match self.topology {
            Topology::Single => bail!("a single Redis has nobody who fails over"),
            // They choose the replica.
            Topology::Sentinel => {
                let words = ["SENTINEL", "FAILOVER", &self.master];
                self.ask(format!("redis://{}", self.sentinels[0]), &words).await
            }
            Topology::Cluster => self.ask(self.url(replica), &["CLUSTER", "FAILOVER"]).await,
        }
    }

    /// An error says what is missing: each primary has its replicas, they are in sync, and all agree on that.
    pub async fn check_whole(&self) -> Result<()> {
        let (primaries, replicas) = match self.topology {
            Topology::Single => return Ok(()),
            Topology::Sentinel => (1, self.servers.len() - 1),
            Topology::Cluster => (PRIMARIES, 1),
        };
        let mut found = Vec::new();
        for which in 0..self.servers.len() {
            let replication = self.replication(which).await;
            let replication = replication.with_context(|| format!("redis-{which}"))?;
            if replication.is_primary {
                ensure!(
                    replication.replicas == replicas,
                    "redis-{which} has {} replicas",
                    replication.replicas
                );
                found.push(which);
            } else {
                ensure!(
                    replication.follows.is_some(),
                    "redis-{which} has no link to its primary"
                );
            }
        }
        ensure!(found.len() == primaries, "primaries: {found:?}");
        if self.topology == Topology::Sentinel {
            let named = self.named_by_sentinels().await;
            let expected = vec![found[0]; self.sentinels.len()];
            ensure!(
                named == expected,
                "redis-{} is the primary, Sentinels name {named:?}",
                found[0]
            );
            return Ok(());
        }
        for which in 0..self.servers.len() {
            let nodes = self.nodes(which).await?;
            let covered: u32 = found.iter().map(|which| self.slots_of(*which, &nodes)).sum();
            let failed = nodes.iter().any(|node| node.failed);
            ensure!(covered == SLOTS && !failed, "redis-{which} sees {nodes:?}");
        }
        Ok(())
    }

    /// The number of slots of a server.
    fn slots_of(&self, which: usize, nodes: &[Node]) -> u32 {
        let port = self.servers[which].port();
        let slots = nodes
            .iter()
            .filter(|node| node.port == port)
            .flat_map(|node| &node.slots);
        slots.map(|(first, last)| u32::from(last - first) + 1).sum()
    }

    /// Moves the slot of a sale from one primary to another, key by key, and waits between the steps.
    pub async fn move_slot(&self, sale: SaleId, from: usize, to: usize, step: Duration) -> Result<u16> {
        let ids = [self.id(from).await?, self.id(to).await?];
        let key = format!("{{{sale}}}");
        let slot: u16 = self.command(from, &["CLUSTER", "KEYSLOT", &key]).await?;
        let text = slot.to_string();
        let () = self
            .command(to, &["CLUSTER", "SETSLOT", &text, "IMPORTING", &ids[0]])
            .await?;
        let () = self
            .command(from, &["CLUSTER", "SETSLOT", &text, "MIGRATING", &ids[1]])
            .await?;
        sleep(step).await;
        let (host, port) = (self.servers[to].ip().to_string(), self.servers[to].port().to_string());
        loop {
            let keys: Vec<String> = self.command(from, &["CLUSTER", "GETKEYSINSLOT", &text, "1"]).await?;
            let Some(key) = keys.first() else { break };
            let migrate = ["MIGRATE", &host, &port, key, "0", MIGRATION_TIMEOUT, "REPLACE"];
            let words = [&migrate[..], &["AUTH", &self.password]].concat();
            let () = self.command(from, &words).await?;
            sleep(step).await;
        }
        for which in [to, from] {
            let () = self
                .command(which, &["CLUSTER", "SETSLOT", &text, "NODE", &ids[1]])
                .await?;
        }
        Ok(slot)
    }

    async fn id(&self, which: usize) -> Result<String> {
        self.command(which, &["CLUSTER", "MYID"]).await
    }
}

async fn query<T: FromRedisValue>(url: &str, words: &[&str]) -> Result<T> {
    let client = redis::Client::open(url)?;
    // The default of the client is shorter.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER_TIMEOUT))
        .set_response_timeout(Some(ANSWER_TIMEOUT));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let mut command = redis::cmd(words[0]);
    Ok(command.arg(&words[1..]).query_async(&mut connection).await?)
}

impl Replication {
    /// Parses `INFO replication`.
    fn parse(info: &str) -> Self {
        let fact = |name: &str| {
            let mut facts = info.lines().filter_map(|line| line.split_once(':'));
            facts.find(|(fact, _)| *fact == name).map(|(_, value)| value.trim())
        };
        let number = |name| fact(name).and_then(|text| text.parse().ok());
        let linked = fact("master_link_status") == Some("up");
        Replication {
            is_primary: fact("role") == Some("master"),
            follows: number("master_port").filter(|_| linked),
            replicas: number("connected_slaves").unwrap_or_default().into(),
        }
    }
}

impl Node {
    /// Parses a line of `CLUSTER NODES`.
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, address, flags, _, _, _, _, _, slots @ ..] = words.as_slice() else {
            return None;
        };
        let port = address.split(['@', ',']).next()?.rsplit_once(':')?.1;
        // A slot that is moving is among those of its owner, and once more in brackets.
        let slots = slots.iter().filter(|slots| !slots.starts_with('[')).map(|slots| {
            let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
            Some((first.parse().ok()?, last.parse().ok()?))
        });
        Some(Node {
            port: port.parse().ok()?,
            failed: flags.split(',').any(|flag| flag.starts_with("fail")),
            slots: slots.collect::<Option<_>>()?,
        })
    }

    fn has(&self, slot: u16) -> bool {
        self.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_read_from_its_line() {
        let line = "07c3 127.0.0.1:30004@31004,host fail?,master - 0 1 4 connected 0-5460 7000 [7000->-ab12]";
        let expected = Node {
            port: 30004,
            failed: true,
            slots: vec![(0, 5460), (7000, 7000)],
        };
        let node = Node::parse(line);
        assert_eq!(node.as_ref(), Some(&expected));
        assert!(expected.has(7000) && expected.has(5460) && !expected.has(5461));
        assert!(!Node::parse("b 127.0.0.1:1@2 slave 07c3 0 1 4 connected").is_some_and(|node| node.failed));
    }

    #[test]
    fn a_replica_without_a_link_follows_nobody() {
        let replica =
            "# Replication\r\nrole:slave\r\nmaster_port:7000\r\nmaster_link_status:down\r\nconnected_slaves:0\r\n";
        assert_eq!(Replication::parse(replica).follows, None);
        let linked = Replication::parse(&replica.replace("down", "up"));
        assert_eq!((linked.is_primary, linked.follows), (false, Some(7000)));
        let primary = Replication::parse("role:master\r\nconnected_slaves:2\r\n");
        assert_eq!((primary.is_primary, primary.replicas), (true, 2));
    }
}
