//! Redis servers of one test. The test switches them over and stops them, and an [`Address`] leads to one of them.
//! [`SentinelSet`] and [`RedisCluster`] are the topologies with several servers.
//!
//! `cargo xtask` sets SECKILL_TEST_REDIS_SERVER, the path of redis-server. Everything here panics if a server fails: the
//! test has failed then.
//!
//! Terms: docs/glossary.md.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

mod certificates;
mod cluster;
mod sentinel;

pub use certificates::Certificates;
pub use cluster::RedisCluster;
use redis::{FromRedisValue, RedisResult};
pub use sentinel::SentinelSet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Far longer than any step takes.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// A Redis of its own. It is killed when dropped.
pub struct RedisServer {
    process: Child,
    folder: PathBuf,
    address: SocketAddr,
}

impl RedisServer {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With further options, like `--maxmemory 2mb`.
    pub async fn start_with(options: &[&str]) -> Self {
        let server = Self::launch(|command| {
            command
                .args(["--appendonly", "no", "--save", "", "--repl-diskless-sync-delay", "0"])
                .args(options);
        });
        server.until_it_answers().await;
        server
    }

    /// Starts the program with its port, its folder, and what the caller adds.
    fn launch(add: impl FnOnce(&mut Command)) -> Self {
        Self::launch_with("", add)
    }

    /// With a configuration file, which a Sentinel needs.
    fn launch_with(configuration: &str, add: impl FnOnce(&mut Command)) -> Self {
        let program = std::env::var("SECKILL_TEST_REDIS_SERVER")
            .expect("SECKILL_TEST_REDIS_SERVER; run `cargo xtask test integration`");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let folder = std::env::temp_dir().join(format!("seckill-test-redis-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&folder).expect("a folder");
        let file = folder.join("server.conf");
        std::fs::write(&file, configuration).expect("written");
        let mut command = Command::new(program);
        command
            .arg(file)
            .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1"])
            .arg("--dir")
            .arg(&folder)
            .stdout(Stdio::null());
        add(&mut command);
        let process = command.spawn().expect("redis-server starts");
        RedisServer {
            process,
            folder,
            address,
        }
    }

    async fn until_it_answers(&self) {
        eventually("Redis answers", async || {
            match self.try_command::<String>(&["PING"]).await {
                Ok(_) => true,
                Err(error) => error.code() == Some("NOAUTH"),
            }
        })
        .await;
    }

    /// A primary and a replica in sync with it.
    pub async fn start_pair() -> (Self, Self) {
        let (primary, replica) = (Self::start().await, Self::start().await);
        replica.follow(&primary).await;
        (primary, replica)
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Runs a command on a connection of its own.
    pub async fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let answer = self.try_command(words).await;
        answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the server says that it is a primary. One that does not answer is none.
    pub async fn is_primary(&self) -> bool {
        let info = self.try_command::<String>(&["INFO", "replication"]).await;
        info.is_ok_and(|info| info.contains("role:master"))
    }

    /// Stops the process as SIGKILL does.
    pub fn kill(&mut self) {
        self.process.kill().expect("a process");
        self.process.wait().expect("a process");
    }

    pub async fn try_command<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await
    }

    /// Becomes a replica of a primary, in place: its connections stay open. Waits until both are in sync.
    pub async fn follow(&self, primary: &RedisServer) {
        let (host, port) = (primary.address.ip().to_string(), primary.address.port().to_string());
        let () = self.command(&["REPLICAOF", &host, &port]).await;
        eventually("the replica is in sync", async || {
            let info: String = self.command(&["INFO", "replication"]).await;
            info.contains("master_link_status:up")
        })
        .await;
    }

    /// Becomes a primary.
    pub async fn promote(&self) {
        let () = self.command(&["REPLICAOF", "NO", "ONE"]).await;
    }

    /// Stops the process as SIGSTOP does: its host still confirms what arrives, and nobody answers.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.process.id().to_string();
        let status = Command::new("kill").args([signal, &id]).status().expect("kill runs");
        assert!(status.success(), "{status}");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // SIGKILL also ends a stopped process. Nothing can be done about a failure here.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// An address like that of a Kubernetes Service: it leads each new connection to a server, and existing connections stay
/// where they are.
pub struct Address {
    address: SocketAddr,
    servers: Arc<Mutex<Vec<SocketAddr>>>,
    accepted: Arc<AtomicUsize>,
    loses_answer: Arc<AtomicBool>,
}

impl Address {
    pub async fn of(server: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let servers = Arc::new(Mutex::new(vec![server.address]));
        let accepted = Arc::new(AtomicUsize::default());
        let loses_answer = Arc::new(AtomicBool::default());
        tokio::spawn(forward(
            listener,
            servers.clone(),
            accepted.clone(),
            loses_answer.clone(),
        ));
        Address {
            address,
            servers,
            accepted,
            loses_answer,
        }
    }

    /// Closes a connection in place of the next answer on it.
    pub fn lose_next_answer(&self) {
        self.loses_answer.store(true, Ordering::Relaxed);
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Leads new connections to this server.
    pub fn lead_to(&self, server: &RedisServer) {
        self.alternate_between(&[server]);
    }

    /// Closes new connections.
    pub fn lead_nowhere(&self) {
        self.alternate_between(&[]);
    }

    /// Leads new connections to these servers in turn.
    pub fn alternate_between(&self, servers: &[&RedisServer]) {
        *self.servers.lock().expect("nobody panics") = servers.iter().map(|server| server.address).collect();
    }

    /// Connections that were ever accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

async fn forward(
    listener: TcpListener,
    servers: Arc<Mutex<Vec<SocketAddr>>>,
    accepted: Arc<AtomicUsize>,
    loses_answer: Arc<AtomicBool>,
) {
    while let Ok((mut near, _)) = listener.accept().await {
        let nth = accepted.fetch_add(1, Ordering::Relaxed);
        let server = {
            let servers = servers.lock().expect("nobody panics");
            match servers.len() {
                0 => continue,
                several => servers[nth % several],
            }
        };
        let loses_answer = loses_answer.clone();
        tokio::spawn(async move {
            let Ok(mut far) = TcpStream::connect(server).await else {
                return;
            };
            let (mut requests, mut to_client) = near.split();
            let (mut answers, mut to_server) = far.split();
            let answer = async {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = answers.read(&mut buffer).await {
                    let lost = loses_answer.swap(false, Ordering::Relaxed);
                    if lost || to_client.write_all(&buffer[..length]).await.is_err() {
                        return;
                    }
                }
            };
            // Either side may close the connection at any time.
            tokio::select! {
                _ = tokio::io::copy(&mut requests, &mut to_server) => {}
                () = answer => {}
            }
        });
    }
}

/// A port that nobody listens on, below those that the system gives to others. Each call returns another one, so a server
/// that is slow to start keeps its port.
pub fn free_port() -> u16 {
    const PORTS: std::ops::Range<u16> = 12_000..32_000;
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(rand::random_range(PORTS)));
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + next % PORTS.len() as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until a condition of real servers holds.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < WAIT_TIMEOUT, "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
