//! Asks the Sentinels for the primary, and listens to them for a new one.
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use redis::{Client, RedisResult};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::config::{RedisConfig, Server};
use crate::login::{client, explain};

/// For one Sentinel, from the name lookup to its answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a primary that was announced is tried first. The other Sentinels know it by then.
const ANNOUNCEMENT_VALID: Duration = Duration::from_secs(10);
const LISTEN_AGAIN: Duration = Duration::from_secs(1);
const SWITCH: &str = "+switch-master";

pub(crate) struct Sentinels {
    config: Arc<RedisConfig>,
    servers: Vec<Server>,
    master: String,
    /// The primary that a Sentinel announced last.
    announced: Mutex<Option<(Server, Instant)>>,
}

impl Sentinels {
    pub fn new(config: Arc<RedisConfig>, servers: Vec<Server>, master: String) -> Self {
        Sentinels {
            config,
            servers,
            master,
            announced: Mutex::default(),
        }
    }

    /// The name of the master.
    pub fn master(&self) -> &str {
        &self.master
    }

    /// The servers that may be the primary, the most likely first: one that was just announced, then those that most
    /// Sentinels name. The answers of a majority are enough, so a Sentinel whose host is gone does not delay a failover.
    pub async fn primaries(&self) -> RedisResult<Vec<Server>> {
        let mut asked: FuturesUnordered<_> = self.servers.iter().map(|sentinel| self.ask(sentinel)).collect();
        let (mut votes, mut failures) = (HashMap::<Server, usize>::new(), Vec::new());
        let majority = self.servers.len() / 2 + 1;
        while votes.values().sum::<usize>() < majority
            && let Some(answer) = asked.next().await
        {
            match answer {
                Ok(primary) => *votes.entry(primary).or_default() += 1,
                Err(failure) => failures.push(failure),
            }
        }
        let mut primaries: Vec<(Server, usize)> = votes.into_iter().collect();
        primaries.sort_by_key(|(_, votes)| std::cmp::Reverse(*votes));
        let announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let announced = announced.filter(|(_, at)| at.elapsed() < ANNOUNCEMENT_VALID);
        let mut first: Vec<Server> = announced.into_iter().map(|(server, _)| server).collect();
        for (server, _) in primaries {
            if !first.contains(&server) {
                first.push(server);
            }
        }
        match first.is_empty() {
            true => Err(io::Error::other(format!("no Sentinel names a primary: {}", failures.join("; "))).into()),
            false => Ok(first),
        }
    }

    async fn ask(&self, sentinel: &Server) -> Result<Server, String> {
        let ask = async {
            let mut connection = self.client(sentinel).await?.get_multiplexed_async_connection().await?;
            let mut question = redis::cmd("SENTINEL");
            question.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master);
            question.query_async::<Option<(String, u16)>>(&mut connection).await
        };
        match timeout(ASK_TIMEOUT, ask).await {
            Ok(Ok(Some((host, port)))) => Ok(Server { host, port }),
            Ok(Ok(None)) => Err(format!("{sentinel} watches no master called {}", self.master)),
            Ok(Err(error)) => Err(explain(sentinel, &error, &self.config.sentinel_login).to_string()),
            Err(_) => Err(format!("{sentinel}: no answer within {ASK_TIMEOUT:?}")),
        }
    }

    async fn client(&self, sentinel: &Server) -> RedisResult<Client> {
        client(&self.config, sentinel, self.config.greeting_of_sentinels()).await
    }

    /// Calls `follow` as soon as a Sentinel announces another primary, until the returned set is dropped.
    pub fn listen(self: &Arc<Self>, follow: impl Fn() + Clone + Send + Sync + 'static) -> JoinSet<()> {
        let mut listeners = JoinSet::new();
        for sentinel in &self.servers {
            let (sentinels, sentinel, follow) = (self.clone(), sentinel.clone(), follow.clone());
            listeners.spawn(async move {
                loop {
                    // A Sentinel that is away is asked again. The connections notice a failover without it, only later.
                    if let Err(error) = sentinels.listen_to(&sentinel, &follow).await {
                        tracing::debug!(%sentinel, %error, "not listening to a Sentinel");
                    }
                    sleep(LISTEN_AGAIN).await;
                }
            });
        }
        listeners
    }

    async fn listen_to(&self, sentinel: &Server, follow: &(impl Fn() + Sync)) -> RedisResult<()> {
        let subscribe = async {
            let mut messages = self.client(sentinel).await?.get_async_pubsub().await?;
            messages.subscribe(SWITCH).await?;
            RedisResult::Ok(messages)
        };
        let no_answer = |_| io::Error::from(io::ErrorKind::TimedOut);
        let mut messages = timeout(ASK_TIMEOUT, subscribe)
            .await
            .map_err(no_answer)??
            .into_on_message();
        while let Some(message) = messages.next().await {
            let text: String = message.get_payload()?;
            let Some(primary) = self.announced_in(&text) else {
                continue;
            };
            tracing::info!(%sentinel, %primary, "another Redis is the primary");
            *self.announced.lock().unwrap_or_else(PoisonError::into_inner) = Some((primary, Instant::now()));
            follow();
        }
        Ok(())
    }

    /// Parses `<master> <old host> <old port> <new host> <new port>`.
    fn announced_in(&self, text: &str) -> Option<Server> {
        let [master, _, _, host, port] = text.split(' ').collect::<Vec<_>>()[..] else {
            return None;
        };
        let port = port.parse().ok()?;
        (master == self.master).then(|| Server {
            host: host.to_owned(),
            port,
        })
    }
}
