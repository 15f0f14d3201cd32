//! One connection to a server, which its clones share, and the only place that decides when it is replaced.
//!
//! A connection can be alive and lead to the wrong server: after a planned switchover it leads to the old primary, which
//! answers. A connection can also be dead without an error: a host that lost its power sends nothing. So these replace it:
//!
//! - the address leads to a replica, or to a primary that may not write: the scripts answer `replica`, or Redis answers
//!   READONLY, MASTERDOWN, NOREPLICAS or CLUSTERDOWN;
//! - a Sentinel announces another primary;
//! - a script answers that it has no such index in force (`stale`, `notyet`): another server may have it;
//! - [`MAX_TIMEOUTS`] calls in a row get no answer;
//! - the connection breaks;
//! - it is older than [`MAX_CONNECTION_AGE`]: an address that was moved while the old server runs on is found so.
//!
//! There is one replacement at a time, and two of them are at least [`MIN_REPLACE_INTERVAL`] apart. A connection that
//! answers stays in use until the next one is open: what is wrong for one sale may be right for another.
//!
//! A connection to a node of a Cluster tells of each of these, because another node may serve the sale: see `cluster`.
//!
//! No call is ever repeated here. A call whose connection breaks gets an error, because it may have run.
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rand::Rng as _;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::connector::Connector;

/// From the start of one attempt to connect to the start of the next, and up to as much again at random, so that many
/// processes do not return at once.
const MIN_REPLACE_INTERVAL: Duration = Duration::from_millis(150);
/// Calls in a row without an answer, after which a connection counts as broken. One may be a slow command.
const MAX_TIMEOUTS: u32 = 2;
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(30);
/// Of the replacements of a connection one is logged in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// First words of the answers of scripts that ran on a server without the index that the caller looks for.
const ANSWERS_ELSEWHERE: [&[u8]; 3] = [b"replica", b"stale", b"notyet"];
/// Errors of a server that may not write at present, because it is a replica, or a primary without its replicas or its
/// Cluster.
const ERRORS_ELSEWHERE: [&str; 4] = ["READONLY", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN"];

#[derive(Clone)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    /// Time limit of a call, with the time that it waits for a connection.
    limit: Duration,
}

struct Shared {
    connector: Connector,
    max_age: Duration,
    state: watch::Sender<State>,
    /// Told when the server may be the wrong one.
    doubts: Option<Arc<Notify>>,
}

struct State {
    /// `None`: it broke, or there was none yet.
    open: Option<Arc<Open>>,
    /// An attempt to connect is under way or due.
    connecting: bool,
    next_attempt_at: Instant,
    /// Why the last attempt failed.
    failure: Option<RedisError>,
    next_log_at: Instant,
}

/// A connection that was opened once. Its address in memory identifies it.
struct Open {
    connection: MultiplexedConnection,
    at: Instant,
    /// Calls in a row without an answer.
    timeouts: AtomicU32,
}

/// An answer, and the connection that it came from.
pub(crate) struct Answered<T> {
    pub value: T,
    from: Arc<Open>,
}

impl Connection {
    /// It connects at the first call. `limit` is the time limit of each call.
    pub fn new(connector: Connector, limit: Duration, doubts: Option<Arc<Notify>>) -> Self {
        Self::with_max_age(connector, limit, MAX_CONNECTION_AGE, doubts)
    }

    fn with_max_age(connector: Connector, limit: Duration, max_age: Duration, doubts: Option<Arc<Notify>>) -> Self {
        let now = Instant::now();
        let state = State {
            open: None,
            connecting: false,
            next_attempt_at: now,
            failure: None,
            next_log_at: now,
        };
        let state = watch::Sender::new(state);
        Connection {
            shared: Arc::new(Shared {
                connector,
                max_age,
                state,
                doubts,
            }),
            limit,
        }
    }

    pub async fn connect(&self) -> RedisResult<()> {
        self.open().await.map(drop)
    }

    /// An error of its server, with what a person can do.
    pub fn explain(&self, error: &RedisError) -> RedisError {
        self.shared.connector.explain(error)
    }

    /// The same connection with another time limit.
    pub fn within(&self, limit: Duration) -> Self {
        let shared = self.shared.clone();
        Connection { shared, limit }
    }

    /// Sends a command. An error of the server is an error.
    pub async fn send(&self, command: &Cmd) -> RedisResult<Answered<Value>> {
        let deadline = Instant::now() + self.limit;
        let open = self.open_until(deadline).await?;
        let mut connection = open.connection.clone();
        let sent_at = Instant::now();
        let send = async { connection.send_packed_command(command).await?.extract_error() };
        let result = timeout_at(deadline, send).await;
        self.judge(open, sent_at, result)
    }

    /// Sends a command to a node that takes over its slot.
    pub async fn send_asking(&self, command: &Cmd) -> RedisResult<Answered<Value>> {
        let mut calls = redis::pipe();
        calls.cmd("ASKING").add_command(command.clone());
        // The answer to ASKING is skipped.
        let Answered { value, from } = self.send_all(&calls, 1, 1).await?;
        let value = value.into_iter().next().unwrap_or(Value::Nil).extract_error()?;
        Ok(Answered { value, from })
    }

    /// Sends commands. An error of the server is among the answers.
    pub async fn send_all(
        &self,
        pipeline: &Pipeline,
        skipped: usize,
        count: usize,
    ) -> RedisResult<Answered<Vec<Value>>> {
        let deadline = Instant::now() + self.limit;
        let open = self.open_until(deadline).await?;
        let mut connection = open.connection.clone();
        let sent_at = Instant::now();
        let result = timeout_at(deadline, connection.send_packed_commands(pipeline, skipped, count)).await;
        let answered = self.judge(open, sent_at, result)?;
        let refusal = answered.value.iter().find_map(|value| match value {
            Value::ServerError(error) => Some(error.code()),
            _ => None,
        });
        match refusal {
            Some(code) if ERRORS_ELSEWHERE.contains(&code) => self.replace(&answered.from, code),
            Some("MOVED") => self.shared.doubt(),
            _ => {}
        }
        Ok(answered)
    }

    /// Replaces the connection if this is the answer of a script on a server without the index.
    pub fn doubt_by_answer(&self, answered: &Answered<Value>) {
        let word = first_word(&answered.value);
        if let Some(word) = word.filter(|word| ANSWERS_ELSEWHERE.contains(word)) {
            self.replace(&answered.from, &String::from_utf8_lossy(word));
        }
    }

    fn judge<T, E>(
        &self,
        from: Arc<Open>,
        sent_at: Instant,
        result: Result<RedisResult<T>, E>,
    ) -> RedisResult<Answered<T>> {
        let Ok(result) = result else {
            // A call that waited for the connection most of its time says nothing about the connection.
            let counts = 2 * sent_at.elapsed() >= self.limit;
            if counts && from.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_TIMEOUTS {
                self.give_up(&from, "calls get no answer");
            }
            return Err(timed_out(&format!("Redis did not answer within {:?}", self.limit)));
        };
        match &result {
            Err(error) if error.is_unrecoverable_error() => self.give_up(&from, &error.to_string()),
            Err(error) => {
                from.answered();
                if let Some(code) = error.code().filter(|code| ERRORS_ELSEWHERE.contains(code)) {
                    self.replace(&from, code);
                }
            }
            Ok(_) => from.answered(),
        }
        result.map(|value| Answered { value, from })
    }

    async fn open_until(&self, deadline: Instant) -> RedisResult<Arc<Open>> {
        let open = timeout_at(deadline, self.open()).await;
        open.unwrap_or_else(|_| Err(timed_out(&format!("no connection to Redis within {:?}", self.limit))))
    }

    async fn open(&self) -> RedisResult<Arc<Open>> {
        let open = self.shared.state.borrow().open.clone();
        if let Some(open) = open {
            if open.at.elapsed() > self.shared.max_age && !seckill_failpoint::breaks("connection-kept") {
                // Nothing happened, so nothing is logged.
                self.begin_attempt(|state| state.is_current(&open));
            }
            return Ok(open);
        }
        let mut states = self.shared.state.subscribe();
        self.begin_attempt(|state| state.open.is_none());
        let closed = || RedisError::from(io::Error::from(io::ErrorKind::NotConnected));
        let state = states.wait_for(|state| !state.connecting).await.map_err(|_| closed())?;
        match &state.open {
            Some(open) => Ok(open.clone()),
            None => Err(state.failure.clone().unwrap_or_else(closed)),
        }
    }

    /// Opens another connection. This one stays in use until then.
    fn replace(&self, old: &Arc<Open>, why: &str) {
        if seckill_failpoint::breaks("connection-kept") {
            return;
        }
        self.shared.doubt();
        self.begin_attempt(|state| {
            let is_current = state.is_current(old);
            if is_current && !state.connecting {
                state.log(why);
            }
            is_current
        });
    }

    /// Replaces the connection, if there was one.
    pub fn replace_current(&self, why: &str) {
        let open = self.shared.state.borrow().open.clone();
        if let Some(open) = open {
            self.replace(&open, why);
        }
    }

    /// Opens another connection. Calls wait for it.
    fn give_up(&self, old: &Arc<Open>, why: &str) {
        self.shared.doubt();
        self.begin_attempt(|state| {
            let is_current = state.is_current(old);
            if is_current {
                state.log(why);
                state.open = None;
            }
            is_current
        });
    }

    /// Begins an attempt to connect if `wanted`, unless one is under way. It runs on its own, so that a caller that goes
    /// away does not end it.
    fn begin_attempt(&self, wanted: impl FnOnce(&mut State) -> bool) {
        let mut begin_at = None;
        self.shared.state.send_if_modified(|state| {
            if wanted(state) && !state.connecting {
                begin_at = Some(state.next_attempt(Instant::now()));
            }
            false // waiting calls are woken by the end of the attempt
        });
        if let Some(at) = begin_at {
            tokio::spawn(attempt(self.shared.clone(), at));
        }
    }
}

async fn attempt(shared: Arc<Shared>, at: Instant) {
    sleep_until(at).await;
    let connected = shared.connector.connect().await;
    if connected.is_err() {
        shared.doubt();
    }
    shared.state.send_modify(|state| {
        state.connecting = false;
        match connected {
            Ok(connection) => {
                let (at, timeouts) = (Instant::now(), AtomicU32::default());
                let open = Open {
                    connection,
                    at,
                    timeouts,
                };
                (state.open, state.failure) = (Some(Arc::new(open)), None);
            }
            Err(error) => state.failure = Some(error),
        }
    });
}

impl Shared {
    fn doubt(&self) {
        if let Some(doubts) = &self.doubts {
            doubts.notify_one();
        }
    }
}

impl State {
    fn is_current(&self, open: &Arc<Open>) -> bool {
        self.open.as_ref().is_some_and(|current| Arc::ptr_eq(current, open))
    }

    /// When the attempt that begins now may connect.
    fn next_attempt(&mut self, now: Instant) -> Instant {
        let at = now.max(self.next_attempt_at);
        let jitter = rand::rng().random_range(Duration::ZERO..=MIN_REPLACE_INTERVAL);
        self.next_attempt_at = at + MIN_REPLACE_INTERVAL + jitter;
        self.connecting = true;
        at
    }

    fn log(&mut self, reason: &str) {
        let now = Instant::now();
        if now < self.next_log_at {
            tracing::debug!(reason, "replacing a connection to Redis");
            return;
        }
        self.next_log_at = now + LOG_INTERVAL;
        tracing::info!(reason, "replacing a connection to Redis");
    }
}

impl Open {
    fn answered(&self) {
        self.timeouts.store(0, Ordering::Relaxed);
    }
}

fn first_word(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(word) => Some(word),
        Value::SimpleString(word) => Some(word.as_bytes()),
        Value::Array(values) => first_word(values.first()?),
        _ => None,
    }
}

fn timed_out(message: &str) -> RedisError {
    io::Error::new(io::ErrorKind::TimedOut, message).into()
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move { Ok(self.send(command).await?.value) })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move { Ok(self.send_all(pipeline, offset, count).await?.value) })
    }

    fn get_db(&self) -> i64 {
        self.shared.connector.database()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::AtomicUsize;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::config::{RedisConfig, Server};

    fn connector(address: SocketAddr) -> Connector {
        let config: RedisConfig = format!("redis://{address}").parse().expect("a URL");
        let server = Server {
            host: address.ip().to_string(),
            port: address.port(),
        };
        Connector::to(Arc::new(config), server)
    }

    /// A server that answers the same to everything, and the number of connections that it has accepted.
    async fn agreeable_server() -> (Connector, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let accepted = Arc::new(AtomicUsize::default());
        let count = accepted.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(agree(stream));
            }
        });
        (connector(address), accepted)
    }

    async fn agree(mut stream: TcpStream) {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            // Each command begins with an asterisk, and no word of these tests has one.
            let commands = buffer[..length].iter().filter(|byte| **byte == b'*').count();
            let answer = "+role:master master_replid:1\r\n".repeat(commands);
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    #[tokio::test]
    async fn a_connection_is_replaced_when_it_is_too_old() {
        const LIMIT: Duration = Duration::from_secs(10);
        let (connector, accepted) = agreeable_server().await;
        let young = Connection::with_max_age(connector, LIMIT, Duration::MAX, None);
        for _ in 0..20 {
            young.send(&redis::cmd("PING")).await.expect("an answer");
        }
        assert_eq!(accepted.load(Ordering::Relaxed), 1);

        let (connector, accepted) = agreeable_server().await;
        let old = Connection::with_max_age(connector, LIMIT, Duration::ZERO, None);
        let begun = Instant::now();
        while accepted.load(Ordering::Relaxed) < 3 {
            assert!(begun.elapsed() < LIMIT, "it was not replaced");
            // No call fails meanwhile.
            old.send(&redis::cmd("PING")).await.expect("an answer");
        }
    }

    #[test]
    fn only_the_first_word_of_an_answer_counts() {
        let bulk = |text: &str| Value::BulkString(text.into());
        assert_eq!(first_word(&bulk("notyet")), Some(&b"notyet"[..]));
        assert_eq!(
            first_word(&Value::Array(vec![bulk("ok"), bulk("stale")])),
            Some(&b"ok"[..])
        );
        assert_eq!(first_word(&Value::Array(vec![])), None);
        assert_eq!(first_word(&Value::Int(1)), None);
    }

    #[tokio::test]
    async fn attempts_to_connect_keep_their_distance() {
        let connector = connector(SocketAddr::from(([127, 0, 0, 1], 1)));
        let connection = Connection::new(connector, Duration::from_secs(1), None);
        let begun = Instant::now();
        for _ in 0..5 {
            assert!(connection.connect().await.is_err());
        }
        assert!(begun.elapsed() >= 4 * MIN_REPLACE_INTERVAL, "{:?}", begun.elapsed());
    }
}
