//! A primary with a replica, and the Sentinels that watch them.
use crate::{RedisServer, eventually};

const SENTINELS: usize = 3;
/// The name of the master.
const MASTER: &str = "shop";

pub struct SentinelSet {
    /// The first one was the primary at the start.
    pub servers: [RedisServer; 2],
    pub sentinels: Vec<RedisServer>,
}

impl SentinelSet {
    /// `options` are for the servers with the data, `configuration` for the Sentinels.
    pub async fn start_with(options: &[&str], configuration: &str) -> Self {
        let servers = [
            RedisServer::start_with(options).await,
            RedisServer::start_with(options).await,
        ];
        servers[1].follow(&servers[0]).await;
        let port = servers[0].address().port();
        let watched = format!(
            "sentinel monitor {MASTER} 127.0.0.1 {port} 2\n\
             sentinel down-after-milliseconds {MASTER} 2000\n\
             sentinel failover-timeout {MASTER} 5000\n\
             {configuration}\n"
        );
        let start = |_| {
            RedisServer::launch_with(&watched, |command| {
                command.arg("--sentinel");
            })
        };
        let sentinels: Vec<RedisServer> = (0..SENTINELS).map(start).collect();
        for sentinel in &sentinels {
            sentinel.until_it_answers().await;
        }
        let set = SentinelSet { servers, sentinels };
        for sentinel in &set.sentinels {
            eventually("the Sentinels and the replica are known", async || {
                let facts: Vec<String> = sentinel.command(&["SENTINEL", "MASTER", MASTER]).await;
                let fact = |name: &str| {
                    let at = facts.iter().position(|fact| fact == name);
                    at.and_then(|at| facts.get(at + 1)).map(String::as_str)
                };
                fact("num-other-sentinels") == Some("2") && fact("num-slaves") == Some("1")
            })
            .await;
        }
        set
    }

    pub async fn start() -> Self {
        Self::start_with(&[], "").await
    }

    pub fn url(&self) -> String {
        self.url_with("")
    }

    /// With a login, `user:password@`.
    pub fn url_with(&self, login: &str) -> String {
        let sentinels = self.sentinels.iter().map(|sentinel| sentinel.address().to_string());
        let sentinels: Vec<String> = sentinels.collect();
        format!("redis+sentinel://{login}{}/{MASTER}", sentinels.join(","))
    }

    /// Makes the other server the primary, as a person does.
    pub async fn fail_over(&self) {
        eventually("the replica is promoted", async || {
            // A Sentinel refuses while it does not see a replica that could be promoted, and gives up a failover that takes
            // it too long.
            let _ = self.sentinels[0]
                .try_command::<String>(&["SENTINEL", "FAILOVER", MASTER])
                .await;
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            self.servers[1].is_primary().await
        })
        .await;
    }

    /// Waits until the second server, the replica of the start, is the primary.
    pub async fn until_promoted(&self) {
        eventually("the replica is promoted", async || self.servers[1].is_primary().await).await;
    }
}
