//! A Redis Cluster of three primaries, each with a replica or without.
use std::collections::HashMap;

use crate::{RedisServer, eventually, free_port};

const PRIMARIES: usize = 3;
const SLOTS: usize = 16384;

pub struct RedisCluster {
    /// At the start three primaries, then a replica of each of them.
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    pub async fn start() -> Self {
        Self::start_with(0, &[]).await
    }

    pub async fn start_with_replicas() -> Self {
        Self::start_with(PRIMARIES, &[]).await
    }

    pub async fn start_with(replicas: usize, options: &[&str]) -> Self {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        Self::start_each(replicas, |_| options.clone()).await
    }

    /// With options for each node by its number.
    pub async fn start_each(replicas: usize, options: impl Fn(usize) -> Vec<String>) -> Self {
        let mut buses = Vec::new();
        let mut start = |n| {
            let bus = free_port();
            buses.push(bus);
            RedisServer::launch(|command| {
                command
                    .args(["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"])
                    .args([
                        "--cluster-port",
                        &bus.to_string(),
                        "--cluster-replica-validity-factor",
                        "0",
                    ])
                    .args(["--appendonly", "no", "--save", "", "--repl-diskless-sync-delay", "0"])
                    .args(options(n));
            })
        };
        let nodes: Vec<RedisServer> = (0..PRIMARIES + replicas).map(&mut start).collect();
        for node in &nodes {
            node.until_it_answers().await;
        }
        let cluster = RedisCluster { nodes };
        let share = SLOTS.div_ceil(PRIMARIES);
        for (n, node) in cluster.nodes.iter().enumerate() {
            let epoch = (n + 1).to_string();
            let () = node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await;
            if n < PRIMARIES {
                let (first, last) = (n * share, ((n + 1) * share).min(SLOTS) - 1);
                let slots = [first.to_string(), last.to_string()];
                let () = node.command(&["CLUSTER", "ADDSLOTSRANGE", &slots[0], &slots[1]]).await;
            }
        }
        for (node, bus) in cluster.nodes.iter().zip(&buses).skip(1) {
            let (port, bus) = (node.address().port().to_string(), bus.to_string());
            let () = cluster.nodes[0]
                .command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])
                .await;
        }
        let count = cluster.nodes.len().to_string();
        cluster.until_all(&format!("cluster_known_nodes:{count}\r")).await;
        for (replica, primary) in cluster.nodes[PRIMARIES..].iter().zip(&cluster.nodes) {
            let id = primary.cluster_id().await;
            let () = replica.command(&["CLUSTER", "REPLICATE", &id]).await;
            eventually("the replica is in sync", async || {
                let info: String = replica.command(&["INFO", "replication"]).await;
                info.contains("master_link_status:up")
            })
            .await;
        }
        cluster.until_all("cluster_state:ok").await;
        cluster.until_all("cluster_slots_ok:16384").await;
        cluster
    }

    /// Waits until every node says this of the Cluster.
    async fn until_all(&self, fact: &str) {
        for node in &self.nodes {
            eventually(fact, async || {
                let info = node.try_command::<String>(&["CLUSTER", "INFO"]).await;
                info.is_ok_and(|info| info.contains(fact))
            })
            .await;
        }
    }

    pub fn url(&self) -> String {
        self.url_with("")
    }

    /// With a login, `user:password@`. It names two of the nodes.
    pub fn url_with(&self, login: &str) -> String {
        let (a, b) = (self.nodes[0].address(), self.nodes[1].address());
        format!("redis+cluster://{login}{a},{b}")
    }

    /// The number of the primary that serves the slot of this key at the start.
    pub async fn primary_of(&self, key: &str) -> (usize, u16) {
        let slot: u16 = self.nodes[0].command(&["CLUSTER", "KEYSLOT", key]).await;
        (usize::from(slot) / SLOTS.div_ceil(PRIMARIES), slot)
    }

    /// Begins to move a slot from one primary to another.
    pub async fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let (from, to, slot) = (&self.nodes[from], &self.nodes[to], slot.to_string());
        let ids = [from.cluster_id().await, to.cluster_id().await];
        let () = to.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[0]]).await;
        let () = from.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[1]]).await;
    }

    /// Moves the keys of a slot whose move has begun.
    pub async fn move_keys(&self, slot: u16, from: usize, to: usize) {
        let (from, to, slot) = (&self.nodes[from], &self.nodes[to], slot.to_string());
        let keys: Vec<String> = from.command(&["CLUSTER", "GETKEYSINSLOT", &slot, "1000"]).await;
        if keys.is_empty() {
            return;
        }
        let port = to.address().port().to_string();
        let migrate = ["MIGRATE", "127.0.0.1", &port, "", "0", "10000", "KEYS"];
        let words: Vec<&str> = migrate.into_iter().chain(keys.iter().map(String::as_str)).collect();
        let () = from.command(&words).await;
    }

    /// Ends the move of a slot.
    pub async fn end_move(&self, slot: u16, from: usize, to: usize) {
        let id = self.nodes[to].cluster_id().await;
        for node in [to, from] {
            let words = ["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &id];
            let () = self.nodes[node].command(&words).await;
        }
    }

    /// Makes the replica of a primary the primary, without cutting a connection, and waits for it.
    pub async fn fail_over(&self, primary: usize) {
        let replica = self.replica_of(primary);
        eventually("the replica is promoted", async || {
            // The nodes give up a failover that takes them too long. A primary refuses to begin one.
            let _ = replica.try_command::<()>(&["CLUSTER", "FAILOVER"]).await;
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            replica.is_primary().await
        })
        .await;
    }

    /// Waits until the replica of a primary is the primary.
    pub async fn until_promoted(&self, primary: usize) {
        let replica = &self.nodes[PRIMARIES + primary];
        eventually("the replica is promoted", async || replica.is_primary().await).await;
    }

    pub fn replica_of(&self, primary: usize) -> &RedisServer {
        &self.nodes[PRIMARIES + primary]
    }

    /// How often each command was called on a node.
    pub async fn calls(node: &RedisServer) -> HashMap<String, u64> {
        let info: String = node.command(&["INFO", "commandstats"]).await;
        let calls = info.lines().filter_map(|line| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
        });
        calls.collect()
    }
}

impl RedisServer {
    async fn cluster_id(&self) -> String {
        self.command(&["CLUSTER", "MYID"]).await
    }
}
